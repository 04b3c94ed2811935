"""The pages of checkpoints: the list, one with all that is known of it, and what is done with it."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.answers import answer_file
from fleetui.fleet import selectors as fleet
from fleetui.fleet.models import Lab
from fleetui.fleet.views.pages import LongListPaginator, add_refusal, page, render_page, saying_refusals
from fleetui.learning import checkpoints, comparisons, pretrained, promoting, selectors, studio
from fleetui.learning.models import Checkpoint, Comparison, Promotion
from robots.tasks import TASKS

CHECKPOINTS_A_PAGE = 50
COMPARED_WITH = 200  # policies that a form offers
COMPARISONS_SHOWN = 20
ONLY = {"": "all", "kept": "kept as the best", "promoted": "in force"}


class FilterForm(forms.Form):
    role = forms.ChoiceField(
        label="Role",
        required=False,
        choices=[("", "any"), ("policy", "policy"), ("reward_model", "reward model")],
    )
    run = forms.ChoiceField(label="Run", required=False)
    only = forms.ChoiceField(label="Show", required=False, choices=list(ONLY.items()))

    def __init__(self, *args: Any, lab: Lab, **kwargs: Any):
        super().__init__(*args, **kwargs)
        field = self.fields["run"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", "any"), *((str(pk), name) for pk, name in lab.runs.values_list("pk", "name"))]

    def filters(self) -> dict[str, Any]:
        """What checkpoints.list_checkpoints takes; a value that no choice offers filters nothing."""
        given = {name: value for name, value in self.cleaned_data.items() if value}
        return given | ({"run": int(given["run"])} if "run" in given else {})


class CompareForm(forms.Form):
    """To evaluate a policy anew, alone or beside another one."""

    second = forms.ChoiceField(
        label="Compared with",
        required=False,
        help_text="Both make the same attempts: the same starts and words. Left empty, this policy is evaluated alone.",
    )
    task = forms.ChoiceField(
        label="Task", help_text="Of its body, and judged by a simulated world.", error_messages={"required": "Choose."}
    )
    episodes = forms.IntegerField(
        label="Attempts",
        initial=200,
        min_value=1,
        max_value=comparisons.MOST_EPISODES,
        error_messages={"required": "Say how many attempts each shall make."},
    )
    seed = forms.IntegerField(
        label="Seed",
        initial=2_000_000,
        min_value=0,
        max_value=2**31 - 1,
        help_text="Decides the starts and words. The default is of no evaluation by which a version is kept.",
        error_messages={"required": "Give a seed, such as 2000000."},
    )

    def __init__(self, *args: Any, checkpoint: Checkpoint, **kwargs: Any):
        super().__init__(*args, **kwargs)
        lab = checkpoint.run.lab
        others = checkpoints.list_checkpoints(lab, role="policy").exclude(pk=checkpoint.pk)[:COMPARED_WITH]
        best = checkpoints.promoted_ids(lab)
        named = [(str(each.pk), say_policy(each, each.pk in best)) for each in others]
        body = checkpoint.run.body.get("name", "")
        tasks = [each for each in fleet.list_tasks(lab) if each.embodiment == body and each.family in TASKS]
        shown = {family for each in checkpoint.run.demonstrations for family in each.families}
        tasks.sort(key=lambda each: each.family not in shown)  # first what it was trained on
        for name, offered in (
            ("second", [("", "nothing: alone"), *named]),
            ("task", [(each.slug, each.name) for each in tasks]),
        ):
            field = self.fields[name]
            assert isinstance(field, forms.ChoiceField)
            field.choices = offered
        self.tasks = {each.slug: each for each in tasks}
        self.impossible = (
            "" if tasks else f"No task of {body or 'its body'} is judged by a world here; evaluate it on stations."
        )


def say_policy(checkpoint: Checkpoint, promoted: bool) -> str:
    kept = checkpoint.version == checkpoint.run.kept_version
    return f"{checkpoint.run} v{checkpoint.version}{' ★' if kept else ''}{', the default' if promoted else ''}"


@page
@require_GET
def checkpoint_list(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug)
    form = FilterForm(request.GET, lab=lab)
    form.is_valid()  # a filter with an error is named on the page and filters nothing
    found = checkpoints.list_checkpoints(lab, **form.filters())
    page_obj = LongListPaginator(found, CHECKPOINTS_A_PAGE).get_page(request.GET.get("page"))
    rows = list(page_obj)
    evaluations, promoted = checkpoints.add_evaluations(rows), checkpoints.promoted_ids(lab)
    query = request.GET.copy()
    query.pop("page", None)
    return render_page(
        request,
        "learning/checkpoints.html",
        lab,
        "runs",
        page_obj=page_obj,
        rows=[
            {
                "checkpoint": each,
                "evaluation": evaluations.get(each.pk),
                "promoted": each.pk in promoted,
                "kept": each.role == "policy" and each.version == each.run.kept_version,
                "size": checkpoints.size_of(each),
            }
            for each in rows
        ],
        filter_form=form,
        query=query.urlencode() + "&" if query else "",
    )


def get_checkpoint(request: PersonRequest, lab_slug: str, uuid: UUID, action: str = "see") -> Checkpoint:
    """With the role of who asks on its lab, for the page."""
    found = access.get_checkpoint(Checkpoint, request.user, lab_slug, uuid, action)
    found.run.lab = access.get_lab(request.user, lab_slug, action)
    return found


@page
@require_GET
def checkpoint_page(request: PersonRequest, lab_slug: str, checkpoint_uuid: UUID) -> HttpResponse:
    return render_checkpoint(request, get_checkpoint(request, lab_slug, checkpoint_uuid))


def render_checkpoint(request: PersonRequest, found: Checkpoint, form: CompareForm | None = None) -> HttpResponse:
    lab, history = found.run.lab, checkpoints.promotions_of(found)
    current = checkpoints.in_force(found)
    is_policy = found.role == "policy"
    return render_page(
        request,
        "learning/checkpoint.html",
        lab,
        "runs",
        422 if form is not None and form.errors else 200,
        checkpoint=found,
        run=found.run,
        size=checkpoints.size_of(found),
        body=found.run.body.get("name", ""),
        models=[pretrained.name_of(found.run.lab, sha256) for sha256 in found.pretrained],
        evaluations=checkpoints.evaluations_of(found),
        bounds=checkpoints.bound_of(found),
        comparisons=comparisons_shown(found) if is_policy else [],
        form=form or (CompareForm(checkpoint=found, auto_id="compare_%s") if is_policy else None),
        lineage=checkpoints.lineage_of(found),
        history=history,
        current=current,
        former=checkpoints.former_of(history),
        problem=checkpoints.promotion_problem(found),
        can_be_evaluated=is_policy and not selectors.evaluation_problem(found),
        judge=found.run.best_checkpoint("reward_model") if is_policy else found,
    )


def comparisons_shown(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """As seen from this policy: what it did, what the other did, and the difference this less the other."""
    found = []
    for each in checkpoints.comparisons_with(checkpoint)[:COMPARISONS_SHOWN]:
        first, second = each.results.get("first"), each.results.get("second")
        difference = each.results.get("difference")
        is_first = each.first_id == checkpoint.pk
        other = each.second if is_first else each.first
        found.append(
            {
                "row": each,
                "mine": first if is_first else second,
                "other": other,
                "theirs": second if is_first else first,
                "difference": turned(difference) if difference and is_first else difference,
            }
        )
    return found


def turned(difference: dict[str, Any]) -> dict[str, Any]:
    """The first less the second."""
    found = difference | {"only_first": difference["only_second"], "only_second": difference["only_first"]}
    found["difference"] = -difference["difference"]
    found["low"], found["high"] = -difference["high"], -difference["low"]
    if difference["steps"] is not None:
        found["steps"] = -difference["steps"]
        found["steps_low"], found["steps_high"] = -difference["steps_high"], -difference["steps_low"]
    return found


@page
@require_GET
def checkpoint_comparisons(request: PersonRequest, lab_slug: str, checkpoint_uuid: UUID) -> HttpResponse:
    """Alone: the page asks anew while one goes on."""
    found = get_checkpoint(request, lab_slug, checkpoint_uuid)
    shown = comparisons_shown(found)
    return render_page(
        request, "learning/_comparisons.html", found.run.lab, "runs", checkpoint=found, comparisons=shown
    )


@page
@require_GET
def download_checkpoint(request: PersonRequest, lab_slug: str, checkpoint_uuid: UUID) -> HttpResponseBase:
    """A download that broke off goes on where it was, by Range."""
    found = get_checkpoint(request, lab_slug, checkpoint_uuid)
    name = f"run-{found.run_id}-{found.role}-v{found.version}.safetensors"
    return answer_file(request, found.file, name, found.sha256)


@page
@require_POST
def promote_checkpoint(request: PersonRequest, lab_slug: str, checkpoint_uuid: UUID) -> HttpResponse:
    found = get_checkpoint(request, lab_slug, checkpoint_uuid, "promote_checkpoint")
    reason = request.POST.get("reason", "")
    with saying_refusals(request):
        promoting.promote_checkpoint(checkpoint=found, user=request.user, reason=reason, source="page")
        messages.success(request, f"{found} of {found.run} is in force from now on.")
    return redirect("checkpoint", lab_slug, checkpoint_uuid)


@page
@require_POST
def undo_promotion(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    found = access.get_row(Promotion, request.user, lab_slug, "promote_checkpoint", pk=number)
    with saying_refusals(request):
        made = promoting.go_back(promotion=found, user=request.user, source="page")
        if made.checkpoint is None:
            messages.success(request, "It is undone: the lab has no default policy for this body any more.")
        else:
            messages.success(request, f"It is undone: {made.checkpoint} of {made.checkpoint.run} is in force again.")
    if found.checkpoint_id is None:
        return redirect("checkpoints", lab_slug)
    return redirect("checkpoint", lab_slug, found.checkpoint_id)


@page
@require_POST
def ask_comparison(request: PersonRequest, lab_slug: str, checkpoint_uuid: UUID) -> HttpResponse:
    found = get_checkpoint(request, lab_slug, checkpoint_uuid, "compare_checkpoints")
    form = CompareForm(request.POST, checkpoint=found, auto_id="compare_%s")
    if form.is_valid():
        given = form.cleaned_data
        second = get_checkpoint(request, lab_slug, UUID(given["second"])) if given["second"] else None
        try:
            comparisons.ask_comparison(
                lab=found.run.lab,
                user=request.user,
                first=found,
                second=second,
                task=form.tasks[given["task"]],
                episodes=given["episodes"],
                seed=given["seed"],
                source="page",
            )
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(
                request, "The simulation begins as soon as a worker is free; this page shows how far it is."
            )
            return redirect("checkpoint", lab_slug, checkpoint_uuid)
    return render_checkpoint(request, found, form)


@page
@require_POST
def cancel_comparison(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    found = access.get_row(Comparison, request.user, lab_slug, "compare_checkpoints", pk=number)
    with saying_refusals(request):
        comparisons.cancel_comparison(comparison=found, user=request.user, source="page")
        messages.success(request, "The comparison is canceled.")
    return redirect("checkpoint", lab_slug, found.first_id)


def bounds_of_run(run_id: int, lab: Lab) -> list[dict[str, Any]]:
    """What spot checks say of a run's policies, for its page."""
    return studio.bounds(lab.spot_checks.filter(policy__run=run_id))

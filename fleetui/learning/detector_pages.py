"""The pages of the success detector: the studio, another threshold, spot checks, the playground."""

import math
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from fleetui import access
from fleetui.access import NotFound, PersonRequest
from fleetui.answers import JsonAnswer
from fleetui.fleet.models import Episode
from fleetui.fleet.views.pages import add_refusal, page, render_page, row_number, saying_refusals
from fleetui.learning import checkpoints, inspecting, promoting, spot_checks, studio
from fleetui.learning.actions import enqueue_on_commit
from fleetui.learning.checkpoint_pages import get_checkpoint, say_policy
from fleetui.learning.models import Checkpoint, SpotCheck

PLOT = (300.0, 240.0)  # of the ROC curve, in its own units
FARTHEST = 100.0  # steps that the calibration's drawing reaches to
OFFERED = 200  # checkpoints in the playground's lists
LONGEST_WORDS = 300


class ThresholdForm(forms.Form):
    """What the studio shows, and what may be published."""

    s = forms.FloatField(label="s", min_value=0.1, max_value=promoting.LARGEST_THRESHOLD, required=False)
    k = forms.IntegerField(label="k", min_value=1, max_value=promoting.MOST_CONSECUTIVE, required=False)
    task = forms.ChoiceField(label="Task", required=False)
    station = forms.ChoiceField(label="Station", required=False)
    run = forms.ChoiceField(label="Policies of run", required=False)
    ends = forms.ChoiceField(
        label="Realised steps are counted to",
        required=False,
        choices=[("", "the end of detected successes"), ("true", "the end of those that were true successes")],
    )

    def __init__(self, *args: Any, offered: dict[str, list[tuple[str, str]]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name, choices in offered.items():
            field = self.fields[name]
            assert isinstance(field, forms.ChoiceField)
            field.choices = [("", "any"), *choices]


class PublishForm(forms.Form):
    threshold = forms.FloatField(
        label="s, steps",
        min_value=0.1,
        max_value=promoting.LARGEST_THRESHOLD,
        error_messages={"required": "Say at how many steps to go an attempt counts as a success."},
    )
    consecutive = forms.IntegerField(
        label="k, frames in a row",
        min_value=1,
        max_value=promoting.MOST_CONSECUTIVE,
        error_messages={"required": "Say how many frames in a row have to say so."},
    )
    reason = forms.CharField(
        label="Why", max_length=300, error_messages={"required": "Say why, so that others can judge it later."}
    )


def get_reward_model(request: PersonRequest, lab_slug: str, uuid: UUID, action: str = "see") -> Checkpoint:
    found = get_checkpoint(request, lab_slug, uuid, action)
    if found.role != "reward_model":
        raise NotFound(f"{found} of {found.run} is no reward model; the studio is of the detector, which needs one.")
    return found


@page
@require_GET
def studio_page(request: PersonRequest, lab_slug: str, checkpoint_uuid: UUID) -> HttpResponse:
    return render_studio(request, get_reward_model(request, lab_slug, checkpoint_uuid), "learning/studio.html")


@page
@require_GET
def studio_figures(request: PersonRequest, lab_slug: str, checkpoint_uuid: UUID) -> HttpResponse:
    """The figures alone, for the page's sliders."""
    return render_studio(request, get_reward_model(request, lab_slug, checkpoint_uuid), "learning/_studio.html")


def render_studio(
    request: PersonRequest, found: Checkpoint, template: str, publish: PublishForm | None = None
) -> HttpResponse:
    lab, family = found.run.lab, studio.same_weights(found)
    form = ThresholdForm(request.GET, offered=studio.choices(lab, found))
    form.is_valid()  # a value with an error is named on the page, and stands for none
    given = {name: value for name, value in form.cleaned_data.items() if value}
    s = given.get("s", found.threshold or 0.1)
    k = given.get("k", found.consecutive or 1)
    filters = {name: given[name] for name in ("task", "station") if name in given}
    attempts = studio.read_attempts(lab, found, **filters, run=row_number(given.get("run", "")) or None)
    figures = studio.judge(attempts, s, k)
    missing = studio.missing_curves(family).count()
    if missing and template == "learning/studio.html":  # not with each move of a slider
        enqueue_on_commit("learning.fill_curves", str(found.weights.pk))
    calibration = studio.calibrate(attempts, given.get("ends") == "true")
    width, height = PLOT
    return render_page(
        request,
        template,
        lab,
        "runs",
        422 if publish is not None and publish.errors else 200,
        reward_model=found,
        family=family,
        current=checkpoints.in_force(found),
        history=checkpoints.promotions_of(found),
        form=form,
        s=s,
        k=k,
        most_s=math.ceil(max(12.0, 2 * (found.threshold or 0.0), s)),
        figures=figures,
        most=studio.MOST,
        missing=missing,
        calibration=calibration,
        roc_points=studio.plot_points([(0, 0), *figures["roc"]], width, height) if figures["roc"] else "",
        here=studio.plot_points(here_on_roc(figures), width, height).replace(",", " ").split(),
        calibration_points=[
            (*studio.plot_points([(min(x, FARTHEST), min(y, FARTHEST))], width, height, FARTHEST).split(","), x, y, n)
            for x, y, n in calibration["points"]
        ],
        width=width,
        height=height,
        publish=publish or PublishForm(initial={"threshold": s, "consecutive": k}),
        under_way=checkpoints.under_way_with(found.run),
        bounds=checkpoints.bound_of(found),
    )


def here_on_roc(figures: dict[str, Any]) -> list[tuple[float, float]]:
    """Where the detector with this s and k stands, as long as there are both kinds of attempts."""
    x, y = figures["false_rate"]["rate"], figures["recall"]["rate"]
    return [] if x is None or y is None else [(x, y)]


@page
@require_POST
def publish_threshold(request: PersonRequest, lab_slug: str, checkpoint_uuid: UUID) -> HttpResponse:
    found = get_reward_model(request, lab_slug, checkpoint_uuid, "promote_checkpoint")
    form = PublishForm(request.POST)
    if form.is_valid():
        given = form.cleaned_data
        try:
            made = promoting.publish_threshold(checkpoint=found, user=request.user, **given, source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(
                request,
                f"{made} with s = {made.threshold:g} and k = {made.consecutive} judges all that begins from now on.",
            )
            return redirect("studio", lab_slug, made.pk)
    return render_studio(request, found, "learning/studio.html", form)


# Spot checks


@page
@require_GET
def spot_check_page(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """The one that the address names, or the newest that waits."""
    lab = access.get_lab(request.user, lab_slug)
    waiting = studio.list_waiting(lab)
    asked = row_number(request.GET.get("check", ""))
    check = waiting.filter(pk=asked).first() or waiting.first()
    return render_page(
        request,
        "learning/spot_checks.html",
        lab,
        "attention",
        check=check,
        episode=check.episode if check else None,
        waiting=waiting.count(),
        bounds=studio.bounds(lab.spot_checks.all()),
        answered=lab.spot_checks.filter(answered_by=request.user).exists(),
    )


@page
@require_POST
def answer_spot_check(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    found = access.get_row(SpotCheck, request.user, lab_slug, "label_episode", pk=number)
    answers = {"yes": True, "no": False, "skip": None}
    given = request.POST.get("answer", "")
    with saying_refusals(request):
        if given not in answers:
            raise access.Invalid("Answer yes, no or skip.")
        spot_checks.answer_spot_check(check=found, user=request.user, answer=answers[given], source="page")
    return redirect("spot_checks", lab_slug)


@page
@require_POST
def undo_spot_check(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug, "label_episode")
    address = reverse("spot_checks", args=[lab_slug])
    with saying_refusals(request):
        undone = spot_checks.undo_spot_check(lab=lab, user=request.user, source="page")
        messages.success(request, "Your last answer is taken back. Here it is again.")
        return redirect(f"{address}?check={undone.pk}")
    return redirect(address)


# The playground


@page
@require_GET
def playground(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """Any words, any frame of any episode, two checkpoints: all of it in the address."""
    lab = access.get_lab(request.user, lab_slug)
    episode = find_episode(request, lab_slug)
    promoted = checkpoints.promoted_ids(lab)
    rows = list(checkpoints.list_checkpoints(lab)[:OFFERED])
    wanted = [uuid_or_none(request.GET.get(name, "")) for name in ("a", "b")]
    if episode is not None and not any(wanted):
        wanted = [episode.policy_id, episode.reward_model_id]
    lacking = {each for each in wanted if each} - {each.pk for each in rows}
    rows += Checkpoint.objects.filter(run__lab=lab, pk__in=lacking).select_related("run")
    step = row_number(request.GET.get("step", ""))
    return render_page(
        request,
        "learning/playground.html",
        lab,
        "episodes",
        episode=episode,
        step=min(step, episode.steps) if episode else 0,
        words=request.GET.get("words", "")[:LONGEST_WORDS] or (episode.instruction if episode else ""),
        offered=[(str(each.pk), say_checkpoint(each, each.pk in promoted)) for each in rows],
        chosen=[str(each) if each else "" for each in wanted],
        newest=lab.episodes.order_by("-stored_at").first() if episode is None else None,
    )


def uuid_or_none(given: str) -> UUID | None:
    try:
        return UUID(given)
    except ValueError:
        return None


def say_checkpoint(checkpoint: Checkpoint, promoted: bool) -> str:
    if checkpoint.role == "policy":
        return f"policy: {say_policy(checkpoint, promoted)}"
    return f"reward model: {checkpoint.run} v{checkpoint.version}, s = {checkpoint.threshold or 0:g}"


def find_episode(request: PersonRequest, lab_slug: str) -> Episode | None:
    """The one that the address names; None where it names none."""
    given = request.GET.get("episode", "")
    try:
        uuid = UUID(given)
    except ValueError:
        if given:
            raise NotFound(f"{given[:60]!r} is no episode's id; open the playground from an episode's page.") from None
        return None
    return access.get_row(Episode, request.user, lab_slug, uuid=uuid)


@page
@require_GET
def playground_answer(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """What two checkpoints say, as JSON: {"answers": [...]} in the order a, b, or {"detail": a sentence}."""
    try:
        lab = access.get_lab(request.user, lab_slug)
        episode = find_episode(request, lab_slug)
        words = request.GET.get("words", "").strip()
        chosen = [
            access.get_checkpoint(Checkpoint, request.user, lab.slug, UUID(given))
            for name in ("a", "b")
            if (given := request.GET.get(name, ""))
        ]
        if episode is None or not chosen:
            raise access.Invalid("Choose a frame of an episode, and at least one checkpoint.")
        if not words or len(words) > LONGEST_WORDS:
            raise access.Invalid(f"Type an instruction of 1 to {LONGEST_WORDS} letters.")
        step = row_number(request.GET.get("step", ""))
        found = inspecting.inspect_frame(episode=episode, step=step, words=words, checkpoints=chosen)
    except access.Refused as refused:
        return JsonAnswer({"detail": str(refused)}, status=refused.status)
    except ValueError:
        return JsonAnswer({"detail": "A checkpoint's id is wrong; choose one of the list."}, status=422)
    return JsonAnswer({"answers": found})

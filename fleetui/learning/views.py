"""The pages of learning: runs, the launch form, a run as it goes, datasets. Curves grow over the live socket."""

from django.contrib import messages
from django.db.models import OuterRef, Subquery
from django.http import FileResponse, Http404
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from fleetui import access
from fleetui.fleet.queue import read_queue
from fleetui.fleet.views.pages import add_refusal, do_archive, page, render_page, row_number
from fleetui.learning import actions, archive, selectors
from fleetui.learning.forms import LAUNCH_FORMS, GenerateForm, UploadForm, recipe_rows
from fleetui.learning.models import Metric

LAUNCH_FROM = ("dataset", "parent", "assignment", "like")  # what a link to the launch form may choose
CHECKPOINTS_SHOWN = 12  # as static/js/run.js shows
CONTROLS = {
    "cancel": (actions.cancel_run, "is being canceled; it keeps its checkpoints."),
    "pause": (actions.pause_run, "pauses after the current update."),
    "resume": (actions.resume_run, "goes on."),
}


@page
@require_GET
def runs(request, lab_slug):
    lab = access.get_lab(request.user, lab_slug)
    newest = Metric.objects.filter(run=OuterRef("pk"), kind="evaluation").order_by("-seq").values("data")[:1]
    return render_page(
        request,
        "learning/runs.html",
        lab,
        "runs",
        runs=selectors.list_runs(lab).annotate(evaluation=Subquery(newest)),
        standing=standing_runs(lab),
        archived=selectors.list_runs(lab, archived=True),
    )


def standing_runs(lab) -> set[int]:
    """Ids of the runs that nobody can practise for now: how long they will take, nobody knows."""
    return {verdict.assignment.run_id for verdict in read_queue(lab) if verdict.state == "delayed"}


@page
@require_http_methods(["GET", "POST"])
def new_run(request, lab_slug):
    lab = access.get_lab(request.user, lab_slug, "launch_run")
    kind = request.GET.get("kind", "sft")
    if kind not in LAUNCH_FORMS:
        raise Http404(f"There is no kind of run {kind!r}; known are {', '.join(LAUNCH_FORMS)}.")
    asked = {name: row_number(request.GET.get(name, "")) for name in LAUNCH_FROM}
    chosen = {name: number for name, number in asked.items() if number}
    like = access.get_run(request.user, lab_slug, chosen.pop("like")) if "like" in chosen else None
    if like is not None and like.kind != kind:
        raise Http404(f"{like} is no run of the kind {kind!r}.")
    form = LAUNCH_FORMS[kind](request.POST or None, lab=lab, like=like, initial=chosen)
    if request.method == "POST" and form.is_valid():
        try:
            run = actions.launch_run(lab=lab, user=request.user, kind=kind, recipe=form.recipe, **form.sources())
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{run} is launched. It starts as soon as the server has a free worker for it.")
            return redirect("run", lab_slug, run.pk)
    return render_page(request, "learning/new_run.html", lab, "runs", 422 if form.errors else 200, form=form, kind=kind)


@page
@require_GET
def run(request, lab_slug, run_id):
    found = access.get_run(request.user, lab_slug, run_id)
    recipe = recipe_rows(found)
    return render_page(
        request,
        "learning/run.html",
        found.lab,
        "runs",
        run=found,
        recipe=recipe,
        recipe_changed=sum(row["changed"] for row in recipe),
        checkpoints=found.checkpoints.order_by("-version", "role")[:CHECKPOINTS_SHOWN],
        policy=found.best_checkpoint("policy"),
        practice_can_start=not selectors.parent_problem(found),
        stations=selectors.run_stations(found),
        stands=found.pk in standing_runs(found.lab),
        log="\n".join(selectors.log_tail(found)),
    )


@page
@require_GET
def run_checkpoint(request, lab_slug, run_id, role):
    """The weights that another run would start from, to be used elsewhere."""
    found = access.get_run(request.user, lab_slug, run_id)
    checkpoint = found.best_checkpoint(role)
    if checkpoint is None or not checkpoint.file.is_file():
        raise Http404(f"{found} has no file of a {role.replace('_', ' ')}.")
    name = f"run-{found.pk}-{role}-v{checkpoint.version}.safetensors"
    return FileResponse(open(checkpoint.file, "rb"), as_attachment=True, filename=name)


@page
@require_POST
def control_run(request, lab_slug, run_id, act):
    found = access.get_run(request.user, lab_slug, run_id, "control_run")
    if act not in CONTROLS:
        raise Http404(f"A run can't {act}; it can {', '.join(CONTROLS)}.")
    do, said = CONTROLS[act]
    try:
        do(run=found, user=request.user)
        messages.success(request, f"{found} {said}")
    except access.Conflict as refused:
        messages.error(request, str(refused))
    return redirect("run", lab_slug, run_id)


@page
@require_POST
def archive_run(request, lab_slug, run_id):
    found = access.get_run(request.user, lab_slug, run_id, "archive_run")
    acts = {"archive": archive.archive_run, "restore": archive.restore_run, "delete": archive.delete_run}
    return do_archive(request, {"run": found}, acts, reverse("runs", args=[lab_slug]))


@page
@require_POST
def archive_dataset(request, lab_slug, dataset_id):
    found = access.get_dataset(request.user, lab_slug, dataset_id, "archive_dataset")
    acts = {
        "archive": archive.archive_dataset,
        "restore": archive.restore_dataset,
        "delete": archive.delete_dataset,
    }
    return do_archive(request, {"dataset": found}, acts, reverse("datasets", args=[lab_slug]))


@page
@require_http_methods(["GET", "POST"])
def datasets(request, lab_slug):
    lab = access.get_lab(request.user, lab_slug)
    act = request.POST.get("act", "")
    generate = GenerateForm(request.POST if act == "generate" else None)
    # Both forms have a name: an id of its own keeps each label with its field.
    upload = UploadForm(*(request.POST, request.FILES) if act == "upload" else (), auto_id="upload_%s")
    if request.method == "POST":
        form = {"generate": generate, "upload": upload}.get(act)
        if form is None:
            raise Http404("This page has no such form.")
        access.get_lab(request.user, lab_slug, f"{act}_dataset")
        if form.is_valid():
            try:
                messages.success(request, add_dataset(request, lab, act, form.cleaned_data))
                return redirect("datasets", lab_slug)
            except access.Refused as refused:
                add_refusal(form, refused)
    return render_page(
        request,
        "learning/datasets.html",
        lab,
        "datasets",
        422 if generate.errors or upload.errors else 200,
        datasets=selectors.list_datasets(lab),
        archived=selectors.list_datasets(lab, archived=True),
        generate_form=generate,
        upload_form=upload,
    )


def add_dataset(request, lab, act, given) -> str:
    if act == "generate":
        made = actions.generate_dataset(lab=lab, user=request.user, **given)
        return f"{made} is being generated; it can be trained on when it is ready."
    made = actions.upload_dataset(lab=lab, user=request.user, name=given["name"], body=given["file"].read())
    return f"{made}: {made.episodes} episodes were accepted."

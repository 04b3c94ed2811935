"""The pages of learning: datasets, and what is done to a run; practice/views/runs.py shows runs with their stations."""

from typing import Any

from django.contrib import messages
from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet.models import Lab
from fleetui.fleet.views.pages import add_refusal, do_archive, page, render_page
from fleetui.learning import actions, archive, selectors
from fleetui.learning.forms import GenerateForm, UploadForm
from fleetui.learning.models import Dataset, Run

CONTROLS = {
    "cancel": (actions.cancel_run, "is being canceled; it keeps its checkpoints."),
    "pause": (actions.pause_run, "pauses after the current update."),
    "resume": (actions.resume_run, "goes on."),
}


@page
@require_GET
def run_checkpoint(request: PersonRequest, lab_slug: str, run_id: int, role: str) -> FileResponse:
    """The weights that another run would start from, to be used elsewhere."""
    found = access.get_row(Run, request.user, lab_slug, pk=run_id)
    checkpoint = found.best_checkpoint(role)
    if checkpoint is None or not checkpoint.file.is_file():
        raise Http404(f"{found} has no file of a {role.replace('_', ' ')}.")
    name = f"run-{found.pk}-{role}-v{checkpoint.version}.safetensors"
    return FileResponse(open(checkpoint.file, "rb"), as_attachment=True, filename=name)


@page
@require_POST
def control_run(request: PersonRequest, lab_slug: str, run_id: int, act: str) -> HttpResponse:
    found = access.get_row(Run, request.user, lab_slug, "control_run", pk=run_id)
    if act not in CONTROLS:
        raise Http404(f"A run can't {act}; it can {', '.join(CONTROLS)}.")
    do, said = CONTROLS[act]
    try:
        do(run=found, user=request.user, source="page")
        messages.success(request, f"{found} {said}")
    except access.Conflict as refused:
        messages.error(request, str(refused))
    return redirect("run", lab_slug, run_id)


@page
@require_POST
def archive_run(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    found = access.get_row(Run, request.user, lab_slug, "archive_run", pk=run_id)
    acts = {"archive": archive.archive_run, "restore": archive.restore_run, "delete": archive.delete_run}
    return do_archive(request, {"run": found}, acts, reverse("runs", args=[lab_slug]))


@page
@require_POST
def archive_dataset(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    found = access.get_row(Dataset, request.user, lab_slug, "archive_dataset", pk=dataset_id)
    acts = {
        "archive": archive.archive_dataset,
        "restore": archive.restore_dataset,
        "delete": archive.delete_dataset,
    }
    return do_archive(request, {"dataset": found}, acts, reverse("datasets", args=[lab_slug]))


@page
@require_http_methods(["GET", "POST"])
def datasets(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug)
    act = request.POST.get("act", "")
    generate = GenerateForm(request.POST if act == "generate" else None)
    # Both forms have a name: an id of its own keeps each label with its field.
    post, files = (request.POST, request.FILES) if act == "upload" else (None, None)
    upload = UploadForm(post, files, auto_id="upload_%s")
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


def add_dataset(request: PersonRequest, lab: Lab, act: str, given: dict[str, Any]) -> str:
    if act == "generate":
        made = actions.generate_dataset(lab=lab, user=request.user, **given, source="page")
        return f"{made} is being generated; it can be trained on when it is ready."
    made = actions.upload_dataset(
        lab=lab, user=request.user, name=given["name"], body=given["file"].read(), source="page"
    )
    return f"{made}: {made.episodes} episodes were accepted."

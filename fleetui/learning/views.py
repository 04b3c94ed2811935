"""The pages of learning: datasets, and what is done to a run; practice/views/runs.py shows runs with their stations."""

from django.contrib import messages
from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet import selectors as fleet
from fleetui.fleet.models import Lab
from fleetui.fleet.views.pages import add_refusal, page, render_page, saying_refusals
from fleetui.learning import actions, archive, selectors
from fleetui.learning.forms import GenerateForm, UploadForm
from fleetui.learning.models import Dataset, Run

UPLOAD_ID = "upload_%s"  # both forms of the page have a name: an id of its own keeps each label with its field


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
def pause_run(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    found = access.get_row(Run, request.user, lab_slug, "control_run", pk=run_id)
    with saying_refusals(request):
        actions.pause_run(run=found, user=request.user, source="page")
        messages.success(request, f"{found} pauses after the current update.")
    return redirect("run", lab_slug, run_id)


@page
@require_POST
def resume_run(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    found = access.get_row(Run, request.user, lab_slug, "control_run", pk=run_id)
    with saying_refusals(request):
        actions.resume_run(run=found, user=request.user, source="page")
        found.refresh_from_db()
        waits = " where it was; it waits for its turn." if found.state == "queued" else "."
        messages.success(request, f"{found} goes on{waits}")
    return redirect("run", lab_slug, run_id)


@page
@require_POST
def cancel_run(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    found = access.get_row(Run, request.user, lab_slug, "control_run", pk=run_id)
    with saying_refusals(request):
        actions.cancel_run(run=found, user=request.user, source="page")
        messages.success(request, f"{found} is being canceled; it keeps its checkpoints.")
    return redirect("run", lab_slug, run_id)


@page
@require_POST
def archive_run(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    found = access.get_row(Run, request.user, lab_slug, "archive_run", pk=run_id)
    with saying_refusals(request):
        archive.archive_run(run=found, user=request.user, source="page")
        messages.success(request, f"{found} is archived.")
    return redirect("runs", lab_slug)


@page
@require_POST
def restore_run(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    found = access.get_row(Run, request.user, lab_slug, "archive_run", pk=run_id)
    with saying_refusals(request):
        archive.restore_run(run=found, user=request.user, source="page")
        messages.success(request, f"{found} is back.")
    return redirect("runs", lab_slug)


@page
@require_POST
def delete_run(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    found = access.get_row(Run, request.user, lab_slug, "archive_run", pk=run_id)
    with saying_refusals(request):
        archive.delete_run(run=found, user=request.user, source="page")
        messages.success(request, f"{found} is deleted.")
    return redirect("runs", lab_slug)


@page
@require_POST
def archive_dataset(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    found = access.get_row(Dataset, request.user, lab_slug, "archive_dataset", pk=dataset_id)
    with saying_refusals(request):
        archive.archive_dataset(dataset=found, user=request.user, source="page")
        messages.success(request, f"{found} is archived.")
    return redirect("datasets", lab_slug)


@page
@require_POST
def restore_dataset(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    found = access.get_row(Dataset, request.user, lab_slug, "archive_dataset", pk=dataset_id)
    with saying_refusals(request):
        archive.restore_dataset(dataset=found, user=request.user, source="page")
        messages.success(request, f"{found} is back.")
    return redirect("datasets", lab_slug)


@page
@require_POST
def delete_dataset(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    found = access.get_row(Dataset, request.user, lab_slug, "archive_dataset", pk=dataset_id)
    with saying_refusals(request):
        archive.delete_dataset(dataset=found, user=request.user, source="page")
        messages.success(request, f"{found} is deleted.")
    return redirect("datasets", lab_slug)


@page
@require_GET
def datasets(request: PersonRequest, lab_slug: str) -> HttpResponse:
    return render_datasets(request, access.get_lab(request.user, lab_slug))


@page
@require_GET
def dataset(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    """One version, with its episodes."""
    found = access.get_row(Dataset, request.user, lab_slug, pk=dataset_id)
    return render_page(
        request,
        "learning/dataset.html",
        found.lab,
        "datasets",
        dataset=found,
        facts=selectors.dataset_facts(found),
        versions=selectors.list_versions(found),
        uses=selectors.list_uses(found)[:50],
        rows=selectors.list_dataset_episodes(found)[:100],
    )


def render_datasets(
    request: PersonRequest, lab: Lab, generate: GenerateForm | None = None, upload: UploadForm | None = None
) -> HttpResponse:
    """The page, with whichever of its forms was refused."""
    return render_page(
        request,
        "learning/datasets.html",
        lab,
        "datasets",
        422 if generate or upload else 200,
        datasets=selectors.list_datasets(lab),
        titles=fleet.family_titles(lab),
        archived=selectors.list_datasets(lab, archived=True),
        generate_form=generate or GenerateForm(),
        upload_form=upload or UploadForm(auto_id=UPLOAD_ID),
    )


@page
@require_POST
def generate_dataset(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug, "generate_dataset")
    form = GenerateForm(request.POST)
    if form.is_valid():
        try:
            made = actions.generate_dataset(lab=lab, user=request.user, **form.cleaned_data, source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{made} is being generated; it can be trained on when it is ready.")
            return redirect("datasets", lab_slug)
    return render_datasets(request, lab, generate=form)


@page
@require_POST
def upload_dataset(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug, "upload_dataset")
    form = UploadForm(request.POST, request.FILES, auto_id=UPLOAD_ID)
    if form.is_valid():
        name, body = form.cleaned_data["name"], form.cleaned_data["file"].read()
        try:
            made = actions.upload_dataset(lab=lab, user=request.user, name=name, body=body, source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{made}: {made.episodes} episodes were accepted.")
            return redirect("datasets", lab_slug)
    return render_datasets(request, lab, upload=form)

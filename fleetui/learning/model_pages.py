"""The page of the lab's pretrained models: what there is, what comes in, and which runs build on it."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet.models import Lab
from fleetui.fleet.views.pages import add_refusal, page, render_page, saying_refusals
from fleetui.learning import archive, pretrained, selectors, transfers
from fleetui.learning.forms import ModelForm
from fleetui.learning.models import PretrainedModel


@page
@require_GET
def models(request: PersonRequest, lab_slug: str) -> HttpResponse:
    return render_models(request, access.get_lab(request.user, lab_slug))


def render_models(request: PersonRequest, lab: Lab, refused: ModelForm | None = None) -> HttpResponse:
    """The page, with its form where that was refused."""
    imports = selectors.recent_imports(lab, "model")  # first: what is whole meanwhile stands in both lists, not in none
    return render_page(
        request,
        "learning/models.html",
        lab,
        "runs",
        422 if refused else 200,
        listed=[
            (row, [pretrained.KINDS[kind] for kind in row.serves], pretrained.runs_on(row)[: pretrained.MOST_RUNS])
            for row in pretrained.list_models(lab)
        ],
        archived=pretrained.list_models(lab, archived=True),
        imports=imports,
        model_form=refused or ModelForm(),
    )


@page
@require_GET
def list_imports(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """The part of the page that shows what is on its way in; its script asks for it."""
    lab = access.get_lab(request.user, lab_slug)
    return render_page(request, "learning/_imports.html", lab, "runs", imports=selectors.recent_imports(lab, "model"))


@page
@require_POST
def add_model(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """Of a folder on the server."""
    lab = access.get_lab(request.user, lab_slug, "add_model")
    form = ModelForm(request.POST)
    if form.is_valid():
        try:
            row = transfers.import_folder(lab=lab, user=request.user, of="model", **form.cleaned_data, source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{row.name} is being looked at; it says here what it finds.")
            return redirect("models", lab_slug)
    return render_models(request, lab, form)


@page
@require_POST
def archive_model(request: PersonRequest, lab_slug: str, model_id: int) -> HttpResponse:
    found = access.get_row(PretrainedModel, request.user, lab_slug, "archive_model", pk=model_id)
    with saying_refusals(request):
        archive.archive_model(model=found, user=request.user, source="page")
        messages.success(request, f"{found} is archived.")
    return redirect("models", lab_slug)


@page
@require_POST
def restore_model(request: PersonRequest, lab_slug: str, model_id: int) -> HttpResponse:
    found = access.get_row(PretrainedModel, request.user, lab_slug, "archive_model", pk=model_id)
    with saying_refusals(request):
        archive.restore_model(model=found, user=request.user, source="page")
        messages.success(request, f"{found} is back.")
    return redirect("models", lab_slug)


@page
@require_POST
def delete_model(request: PersonRequest, lab_slug: str, model_id: int) -> HttpResponse:
    found = access.get_row(PretrainedModel, request.user, lab_slug, "archive_model", pk=model_id)
    with saying_refusals(request):
        archive.delete_model(model=found, user=request.user, source="page")
        messages.success(request, f"{found} is deleted.")
    return redirect("models", lab_slug)

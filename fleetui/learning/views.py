"""What is done to a run by its page's buttons; practice/views/runs.py shows runs with their stations."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet.views.pages import page, saying_refusals
from fleetui.learning import actions, archive
from fleetui.learning.models import Run


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

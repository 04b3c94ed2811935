"""What is done to many runs at once from their table, to the views of it, and what is written on one run."""

from django.contrib import messages
from django.db import transaction
from django.http import FileResponse, Http404, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.answers import JsonAnswer
from fleetui.fleet.models import Lab
from fleetui.fleet.views.pages import page, render_page, row_number, saying_refusals
from fleetui.learning import archive, run_notes, selectors
from fleetui.learning.models import Run, RunView
from fleetui.learning.resources import read_resources
from fleetui.learning.run_table import kept_query, read_tags

MOST_AT_ONCE = 200
BULK = {"archive": "archive_run", "restore": "archive_run", "tag": "note_run", "untag": "note_run", "compare": "see"}


def back_to_table(lab: Lab, query: str) -> HttpResponse:
    """The table as it was: of what came with the form only that counts which the table knows."""
    kept = kept_query(QueryDict(query)).urlencode()
    return redirect(reverse("runs", args=[lab.slug]) + (f"?{kept}" if kept else ""))


@page
@require_POST
def act_on_runs(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """One act on the runs that are ticked in the table: all of them, or none and a sentence that says which can't."""
    act = request.POST.get("act", "")
    lab = access.get_lab(request.user, lab_slug, BULK.get(act, "see"))
    numbers = [row_number(each) for each in request.POST.getlist("run")[:MOST_AT_ONCE]]
    runs = list(lab.runs.filter(pk__in=numbers).order_by("pk"))
    for run in runs:
        run.lab = lab
    back = back_to_table(lab, request.POST.get("view", ""))
    if act not in BULK:
        messages.error(request, f"There is no act {act[:40]!r} on runs.")
    elif not runs:
        messages.error(request, "Tick the runs first, on the left of their rows.")
    elif act == "compare":
        query = QueryDict(mutable=True)
        query.setlist("run", [str(run.pk) for run in runs])
        return redirect(f"{reverse('compare_runs', args=[lab.slug])}?{query.urlencode()}")
    else:
        with saying_refusals(request):
            messages.success(request, _carry_out(request, lab, act, runs))
    return back


def _carry_out(request: PersonRequest, lab: Lab, act: str, runs: list[Run]) -> str:
    many = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    if act in ("archive", "restore"):
        change = archive.archive_run if act == "archive" else archive.restore_run
        with transaction.atomic():
            for run in runs:
                change(run=run, user=request.user, source="page")
        return f"{many} {'archived' if act == 'archive' else 'brought back'}."
    tags = read_tags(request.POST.get("tags", ""))
    wishes = {"add": tags} if act == "tag" else {"remove": tags}
    changed = run_notes.tag_runs(lab=lab, user=request.user, runs=runs, **wishes, source="page")
    return f"{', '.join(tags)}: {changed} of {many} changed."


@page
@require_POST
def write_on_run(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    """The tags and the notes of one run, as its page has them."""
    run = access.get_row(Run, request.user, lab_slug, "note_run", pk=run_id)
    with saying_refusals(request), transaction.atomic():
        tags = set(read_tags(request.POST.get("tags", "")))
        added, gone = tags - set(run.tags), set(run.tags) - tags
        if added or gone:
            run_notes.tag_runs(lab=run.lab, user=request.user, runs=[run], add=added, remove=gone, source="page")
        run_notes.note_run(run=run, user=request.user, notes=request.POST.get("notes", ""), source="page")
        messages.success(request, f"Tags and notes of {run} are kept.")
    return redirect("run", lab_slug, run_id)


@page
@require_POST
def save_view(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug, "keep_view")
    query = request.POST.get("view", "")
    with saying_refusals(request):
        name = request.POST.get("name", "")
        made = run_notes.save_view(lab=lab, user=request.user, name=name, query=query, source="page")
        messages.success(request, f"{made} is kept; everybody in the lab finds it above the table.")
    return back_to_table(lab, query)


@page
@require_POST
def rename_view(request: PersonRequest, lab_slug: str, view_id: int) -> HttpResponse:
    view = access.get_row(RunView, request.user, lab_slug, "keep_view", pk=view_id)
    with saying_refusals(request):
        run_notes.rename_view(view=view, user=request.user, name=request.POST.get("name", ""), source="page")
        messages.success(request, "The view has its new name.")
    return back_to_table(view.lab, view.query)


@page
@require_POST
def delete_view(request: PersonRequest, lab_slug: str, view_id: int) -> HttpResponse:
    view = access.get_row(RunView, request.user, lab_slug, "keep_view", pk=view_id)
    with saying_refusals(request):
        run_notes.delete_view(view=view, user=request.user, source="page")
        messages.success(request, f"The view {view} is deleted; what it showed is still here.")
    return back_to_table(view.lab, view.query)


# One run: its log and what it takes


@page
@require_GET
def run_log(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    """The whole of what its training program wrote, searched by words; without any its last lines."""
    run = access.get_row(Run, request.user, lab_slug, pk=run_id)
    query = request.GET.get("q", "")[:200]
    lines, matching, total = selectors.search_log(run, query)
    return render_page(
        request,
        "learning/log.html",
        run.lab,
        "runs",
        run=run,
        lines=lines,
        matching=matching,
        total=total,
        q=query,
        shown=selectors.SHOWN_LINES,
    )


@page
@require_GET
def run_log_file(request: PersonRequest, lab_slug: str, run_id: int) -> FileResponse:
    run = access.get_row(Run, request.user, lab_slug, pk=run_id)
    try:
        file = open(run.dir / "log.txt", "rb")  # noqa: SIM115 (the response closes it)
    except FileNotFoundError:
        raise Http404(f"{run} has written no log.") from None
    return FileResponse(file, as_attachment=True, filename=f"run-{run.pk}-log.txt", content_type="text/plain")


@page
@require_GET
def run_resources(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    """What its training took over time, for the chart of its page."""
    run = access.get_row(Run, request.user, lab_slug, pk=run_id)
    return JsonAnswer(read_resources(run.dir, (run.started_at or run.created_at).timestamp()))

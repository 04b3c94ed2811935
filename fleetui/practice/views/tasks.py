"""Tasks, and the queue of assignments of them to stations."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet import selectors as fleet
from fleetui.fleet.actions import labs
from fleetui.fleet.forms import TaskForm, WordsForm
from fleetui.fleet.models import PRIORITIES, Assignment, Lab, Task
from fleetui.fleet.views.pages import add_refusal, page, render_page, row_number, saying_refusals
from fleetui.learning import studio
from fleetui.practice import queue, selectors
from fleetui.practice.actions import assignments
from fleetui.practice.forms import AssignForm, EvaluateForm
from robots.wordings import Words, checked_words

NO_BUDGET = {"episodes": None, "hours": None, "target_success": None}
ENDED = tuple(state for state in Assignment.STATES if state not in Assignment.LIVE)


@page
@require_GET
def tasks(request: PersonRequest, lab_slug: str) -> HttpResponse:
    return render_tasks(request, access.get_lab(request.user, lab_slug))


def render_tasks(
    request: PersonRequest,
    lab: Lab,
    *,
    task_form: TaskForm | None = None,
    assign_form: AssignForm | None = None,
    edited: Task | None = None,
) -> HttpResponse:
    """The page, with whichever of its forms was refused."""
    parent = row_number(request.GET.get("parent", ""))
    bad = any(form is not None and form.errors for form in (task_form, assign_form))
    ended = request.GET.get("ended", "")
    if ended not in ENDED:
        ended = ""
    return render_page(
        request,
        "fleet/tasks.html",
        lab,
        "tasks",
        422 if bad else 200,
        **queue_rows(lab),
        series=[(row, queue.say_repeats(row)) for row in queue.list_series(lab)],
        ended=selectors.list_ended_assignments(lab, ended)[:50],
        ended_filter=ended,
        ended_states=ENDED,
        tasks=fleet.list_tasks(lab),
        archived=fleet.list_tasks(lab, archived=True),
        edited=edited,
        titles=fleet.family_titles(lab),
        bounds=newest_bounds(lab),
        task_form=task_form or TaskForm(lab=lab, task=edited),
        assign_form=assign_form or new_assign_form(lab, initial={"parent": parent} if parent else {}),
    )


def new_assign_form(lab: Lab, data: QueryDict | None = None, initial: dict[str, Any] | None = None) -> AssignForm:
    return AssignForm(data, lab=lab, auto_id="assign_%s", initial=initial)


@page
@require_POST
def create_task(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug, "create_task")
    form = TaskForm(request.POST, lab=lab)
    if form.is_valid():
        try:
            made = labs.create_task(lab=lab, user=request.user, **form.wishes(), source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{made} can be assigned now.")
            return redirect("tasks", lab_slug)
    return render_tasks(request, lab, task_form=form)


@page
@require_POST
def preview_task(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """Some sentences of the words that are being typed, or what is wrong with them: a part of the page."""
    access.get_lab(request.user, lab_slug, "create_task")
    form = WordsForm(request.POST)
    problems = [error for errors in form.errors.values() for error in errors]
    words = Words()
    if not problems:
        words, wrong = checked_words(**form.cleaned_data)
        problems = list(wrong.values())
    return render(request, "fleet/_sentences.html", {"words": words, "problems": problems, "some": words.some(6)})


@page
@require_http_methods(["GET", "POST"])
def edit_task(request: PersonRequest, lab_slug: str, task_slug: str) -> HttpResponse:
    task = access.get_row(Task, request.user, lab_slug, "edit_task", slug=task_slug)
    form = TaskForm(request.POST if request.method == "POST" else None, lab=task.lab, task=task)
    if form.is_valid():
        try:
            labs.edit_task(task=task, user=request.user, **form.changes(), source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(
                request,
                f"{task} is changed. Stations that practise it follow the change from their next attempt on.",
            )
            return redirect("tasks", lab_slug)
    return render_tasks(request, task.lab, task_form=form, edited=task)


@page
@require_POST
def archive_task(request: PersonRequest, lab_slug: str, task_slug: str) -> HttpResponse:
    task = access.get_row(Task, request.user, lab_slug, "edit_task", slug=task_slug)
    with saying_refusals(request):
        labs.archive_task(task=task, user=request.user, source="page")
        messages.success(request, f"{task} is archived; its history stays.")
    return redirect("tasks", lab_slug)


@page
@require_POST
def restore_task(request: PersonRequest, lab_slug: str, task_slug: str) -> HttpResponse:
    task = access.get_row(Task, request.user, lab_slug, "edit_task", slug=task_slug)
    with saying_refusals(request):
        labs.restore_task(task=task, user=request.user, source="page")
        messages.success(request, f"{task} can be assigned again.")
    return redirect("tasks", lab_slug)


# The queue


def newest_bounds(lab: Lab) -> dict[int, dict[str, Any]]:
    """By task: what people's spot checks say of its newest policy that they looked at."""
    found = studio.bounds(lab.spot_checks.filter(task__isnull=False))
    return {each["task"]: each for each in reversed(found) if each["n"]}


@page
@require_GET
def task_queue(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """The queue alone, for the page to show it anew every few seconds."""
    lab = access.get_lab(request.user, lab_slug)
    return render_page(request, "fleet/_queue.html", lab, "tasks", **queue_rows(lab))


def queue_rows(lab: Lab) -> dict[str, Any]:
    """Those at work, then those that wait; one that waits knows whom its two buttons put it before."""
    working: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    for verdict in queue.read_queue(lab):
        row = verdict.assignment
        shown = {
            "row": row,
            "state": verdict.state,
            "reason": verdict.reason,
            "progress": verdict.progress,
            "budget": queue.say_budget(row),
            "repeats": queue.say_repeats(row.series or row) if row.due_at else "",
            "priority": "" if row.priority == 1 else f"{PRIORITIES[row.priority]} priority",
            "stations": sorted((place.station for place in row.places.all()), key=lambda station: station.number),
        }
        (working if row.at_work else waiting).append(shown)
    for place, shown in enumerate(waiting):
        shown["number"] = place + 1
        shown["up"] = waiting[place - 1]["row"].pk if place else None
        shown["is_last"] = place == len(waiting) - 1
        shown["down"] = waiting[place + 2]["row"].pk if place + 2 < len(waiting) else ""
    return {"working": working, "waiting": waiting}


def form_of(row: Assignment, data: QueryDict | None) -> AssignForm:
    """By which one that waits is edited."""
    if row.evaluates:
        assert row.parent is not None  # whose policy it is
        return EvaluateForm(data, lab=row.lab, assignment=row, run=row.parent, auto_id="assign_%s")
    return AssignForm(data, lab=row.lab, assignment=row, auto_id="assign_%s")


@page
@require_http_methods(["GET", "POST"])
def edit_assignment(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    """The form of one that waits; what has started is changed by canceling it."""
    row = access.get_row(Assignment, request.user, lab_slug, "assign", pk=number)
    form = form_of(row, request.POST or None)
    if not row.waits:
        messages.error(
            request, f"The assignment of {row.task} is {row.state}: only an assignment that waits can be edited."
        )
        return redirect("tasks", lab_slug)
    if request.method == "POST" and form.is_valid():
        wishes = form.wishes()
        for fixed in ("task", "checkpoint"):
            wishes.pop(fixed, None)
        try:
            assignments.edit_assignment(assignment=row, user=request.user, **(NO_BUDGET | wishes), source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, say_assigned(row.lab, row))
            return redirect("tasks", lab_slug)
    status = 422 if form.errors else 200
    return render_page(request, "fleet/assignment.html", row.lab, "tasks", status, row=row, assign_form=form)


@page
@require_POST
def assign_task(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug, "assign")
    form = new_assign_form(lab, request.POST)
    if form.is_valid():
        try:
            made = assignments.assign_task(lab=lab, user=request.user, **form.wishes(), source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, say_assigned(lab, made))
            return redirect("tasks", lab_slug)
    return render_tasks(request, lab, assign_form=form)


@page
@require_POST
def move_assignment(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    row = access.get_row(Assignment, request.user, lab_slug, "assign", pk=number)
    before = None  # to the end
    if named := request.POST.get("before", ""):
        before = access.get_row(Assignment, request.user, lab_slug, "assign", pk=row_number(named))
    with saying_refusals(request):
        assignments.reorder_assignment(assignment=row, before=before, user=request.user, source="page")
        messages.success(request, f"The assignment of {row.task} is moved.")
    return redirect("tasks", lab_slug)


@page
@require_POST
def cancel_assignment(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    row = access.get_row(Assignment, request.user, lab_slug, "assign", pk=number)
    with saying_refusals(request):
        assignments.cancel_assignment(assignment=row, user=request.user, force=False, source="page")
        messages.success(request, f"The assignment of {row.task} was canceled.")
    return redirect("tasks", lab_slug)


@page
@require_POST
def kill_assignment(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    row = access.get_row(Assignment, request.user, lab_slug, "assign", pk=number)
    with saying_refusals(request):
        assignments.cancel_assignment(assignment=row, user=request.user, force=True, source="page")
        messages.success(request, f"The assignment of {row.task} was killed.")
    return redirect("tasks", lab_slug)


@page
@require_POST
def stop_repeating(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    row = access.get_row(Assignment, request.user, lab_slug, "assign", pk=number)
    with saying_refusals(request):
        assignments.stop_repeating(assignment=row, user=request.user, source="page")
        messages.success(request, f"The assignment of {row.task} does not repeat any more.")
    return redirect("tasks", lab_slug)


def say_assigned(lab: Lab, made: Assignment) -> str:
    verdict = next((each for each in queue.read_queue(lab) if each.assignment.pk == made.pk), None)
    because = f"{verdict.state}: {verdict.reason}" if verdict else made.state
    what = f"An evaluation of {made.parent} at {made.task}" if made.evaluates else made.task
    return f"{what} is in the queue; {because}."

"""Tasks, and the queue of assignments of them to stations."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_http_methods

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet import selectors as fleet
from fleetui.fleet.actions import labs
from fleetui.fleet.forms import TaskForm
from fleetui.fleet.models import PRIORITIES, Assignment, Lab, Task
from fleetui.fleet.views.pages import add_refusal, number_in, page, render_page, row_number
from fleetui.practice import queue, selectors
from fleetui.practice.actions import assignments
from fleetui.practice.forms import AssignForm

NO_BUDGET = {"episodes": None, "hours": None, "target_success": None}
ENDED = tuple(state for state in Assignment.STATES if state not in Assignment.LIVE)


@page
@require_http_methods(["GET", "POST"])
def tasks(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug)
    act = request.POST.get("act", "")
    edited = None
    if slug := request.GET.get("edit") or (request.POST.get("task", "") if act == "edit" else ""):
        edited = access.get_row(Task, request.user, lab_slug, "edit_task", slug=slug)
    task_form = TaskForm(request.POST if act in ("task", "edit") else None, task=edited)
    asked = {"parent": number} if (number := row_number(request.GET.get("parent", ""))) else {}
    assign_form = AssignForm(request.POST if act == "assign" else None, lab=lab, auto_id="assign_%s", initial=asked)
    if request.method == "POST":
        done = change_tasks(request, lab, act, task_form, assign_form, edited)
        if done:
            messages.success(request, done)
            return redirect("tasks", lab_slug)
        if act not in ("task", "edit", "assign"):  # a refusal that no form shows
            return redirect("tasks", lab_slug)
    ended = request.GET.get("ended", "")
    if ended not in ENDED:
        ended = ""
    bad = task_form.errors or assign_form.errors
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
        task_form=task_form,
        assign_form=assign_form,
    )


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
        (waiting if row.run_id is None else working).append(shown)
    for place, shown in enumerate(waiting):
        shown["number"] = place + 1
        shown["up"] = waiting[place - 1]["row"].pk if place else None
        shown["is_last"] = place == len(waiting) - 1
        shown["down"] = waiting[place + 2]["row"].pk if place + 2 < len(waiting) else ""
    return {"working": working, "waiting": waiting}


@page
@require_http_methods(["GET", "POST"])
def edit_assignment(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    """The form of one that waits; what has started is changed by canceling it."""
    row = access.get_row(Assignment, request.user, lab_slug, "assign", pk=number)
    form = AssignForm(request.POST or None, lab=row.lab, assignment=row, auto_id="assign_%s")
    if not row.waits:
        messages.error(
            request, f"The assignment of {row.task} is {row.state}: only an assignment that waits can be edited."
        )
        return redirect("tasks", lab_slug)
    if request.method == "POST" and form.is_valid():
        wishes = form.wishes()
        del wishes["task"]
        try:
            assignments.edit_assignment(assignment=row, user=request.user, **(NO_BUDGET | wishes), source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, say_assigned(row.lab, row))
            return redirect("tasks", lab_slug)
    status = 422 if form.errors else 200
    return render_page(request, "fleet/assignment.html", row.lab, "tasks", status, row=row, assign_form=form)


def change_tasks(
    request: PersonRequest, lab: Lab, act: str, task_form: TaskForm, assign_form: AssignForm, edited: Task | None
) -> str:
    """Do what one of the page's forms asks; returns what was done, or "" where it was refused in words."""
    forms: dict[str, TaskForm | AssignForm] = {"task": task_form, "edit": task_form, "assign": assign_form}
    form = forms.get(act)
    if form is not None and not form.is_valid():
        access.get_lab(request.user, lab.slug, {"task": "create_task", "edit": "edit_task"}.get(act, "assign"))
        return ""
    try:
        if act == "task":
            access.get_lab(request.user, lab.slug, "create_task")
            made = labs.create_task(lab=lab, user=request.user, **task_form.cleaned_data, source="page")
            return f"{made} can be assigned now."
        if act == "edit" and edited is not None:
            labs.edit_task(task=edited, user=request.user, **task_form.changes(), source="page")
            return f"{edited} is changed. Stations that practise it follow the change from their next attempt on."
        if act in ("archive", "restore"):
            task = access.get_row(Task, request.user, lab.slug, "edit_task", slug=request.POST.get("task", ""))
            if act == "archive":
                labs.archive_task(task=task, user=request.user, source="page")
                return f"{task} is archived; its history stays."
            labs.restore_task(task=task, user=request.user, source="page")
            return f"{task} can be assigned again."
        if act == "assign":
            access.get_lab(request.user, lab.slug, "assign")
            given = assignments.assign_task(lab=lab, user=request.user, **assign_form.wishes(), source="page")
            return say_assigned(lab, given)
        if act in ("cancel", "kill", "move", "stop_repeating"):
            return change_assignment(request, lab, act)
    except (access.Denied, access.NotFound):
        raise
    except access.Refused as refused:
        if form is None:
            messages.error(request, str(refused))
        else:
            add_refusal(form, refused)
        return ""
    raise Http404("This page has no such form.")


def change_assignment(request: PersonRequest, lab: Lab, act: str) -> str:
    def named(field: str) -> Assignment:
        return access.get_row(Assignment, request.user, lab.slug, "assign", pk=number_in(request, field))

    row = named("assignment")
    if act == "move":
        before = named("before") if request.POST.get("before") else None
        assignments.reorder_assignment(assignment=row, before=before, user=request.user, source="page")
        return f"The assignment of {row.task} is moved."
    if act == "stop_repeating":
        assignments.stop_repeating(assignment=row, user=request.user, source="page")
        return f"The assignment of {row.task} does not repeat any more."
    assignments.cancel_assignment(assignment=row, user=request.user, force=act == "kill", source="page")
    return f"The assignment of {row.task} was {'killed' if act == 'kill' else 'canceled'}."


def say_assigned(lab: Lab, made: Assignment) -> str:
    verdict = next((each for each in queue.read_queue(lab) if each.assignment.pk == made.pk), None)
    because = f"{verdict.state}: {verdict.reason}" if verdict else made.state
    return f"{made.task} is in the queue; {because}."

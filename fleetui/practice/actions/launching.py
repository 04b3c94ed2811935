"""A run is launched: to train from demonstrations, which is learning's alone, or to practise on stations."""

from collections.abc import Sequence
from typing import Any

from django.db import transaction

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.labs import lock_queue
from fleetui.fleet.bodies import what_changed
from fleetui.fleet.models import AssignedStation, Assignment, Lab, Station, Task
from fleetui.learning import actions as learning
from fleetui.learning import pretrained, selectors
from fleetui.learning.models import Dataset, Run
from fleetui.practice.actions.assignments import assign_task, start_assignment
from training.methods.registry import Method, method_of


@transaction.atomic
def launch_run(
    *,
    lab: Lab,
    user: access.Acting,
    kind: str,
    recipe: dict[str, Any],
    name: str = "",
    queue: str = "cpu",
    dataset: Dataset | None = None,
    corrections: Dataset | None = None,
    parent: Run | None = None,
    assignment: Assignment | None = None,
    task: Task | None = None,
    stations: Sequence[Station] = (),
    source: str = "server",
) -> Run:
    """Check everything, write the run and offer it to the workers of its queue.

    A run that practises does so on an assignment that waits for one (one of any stations takes the `stations` that were
    found for it), or on the task and stations given, which get an assignment. Unless the recipe says otherwise, its
    evaluations have the fence of the task: the curve judges the policy as it is practised.
    """
    access.check(user, lab, "launch_run")
    method = method_of(kind)
    practised = (assignment.task if assignment else task) if method.practises else None
    if practised is not None:
        recipe = {name: getattr(practised, name) or 0.0 for name in settings_of_task(method)} | recipe
    checked = learning.read_recipe(lab=lab, kind=kind, recipe=recipe)
    sources: learning.Sources = {"dataset": dataset, "corrections": corrections, "parent": parent}
    problems = learning.source_problems(lab=lab, method=method, **sources)
    problems |= pretrained.sight_problems(lab, checked.to_json(), dataset.body if dataset else {})
    if problem := selectors.queue_problem(queue):
        problems["queue"] = problem
    if method.practises:
        if not problems:
            wanted = list(assignment.stations.order_by("number")) if assignment and not stations else stations
            problems = _body_problems(_demonstrations(method, **sources), parent or dataset, practised, wanted)
        problems |= _practice_problems(lab, assignment, task, stations)
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    if method.practises:
        lock_queue(lab)  # the dispatcher must not give the same stations away meanwhile
    round_target = checked.steps_per_round if method.practises else 0
    run = learning.create_run(
        lab=lab, user=user, recipe=checked, name=name, queue=queue, round_target=round_target, **sources
    )
    if method.practises:
        _give_stations(run, user, assignment or _waiting_assignment(task, stations), task, list(stations), source)
    learning.enqueue_run(run=run, user=user, source=source)
    return run


def _give_stations(
    run: Run,
    user: access.Acting,
    assignment: Assignment | None,
    task: Task | None,
    stations: list[Station],
    source: str,
) -> None:
    if assignment is not None:
        start_assignment(assignment=assignment, run=run, stations=stations if assignment.any_count else None)
        return
    # Who may launch a run may give it stations that are free: the assignment is a part of it.
    launcher = access.Server(access.person_of(user))
    assert task is not None  # else _practice_problems() has refused
    assign_task(lab=run.lab, task=task, stations=stations, user=launcher, run=run, source=source)


def give_stations_back(*, run: Run) -> None:
    """A run that practised and had ended is resumed: it goes on with the task and stations that it had, if they are
    free; else it is not resumed.
    """
    if run.state != "queued" or not run.method.practises or run.assignments.filter(state__in=Assignment.LIVE).exists():
        return
    last = run.assignments.select_related("task").order_by("-pk").first()
    stations = list(Station.objects.filter(places__assignment=last).order_by("number")) if last else []
    if last is None or not stations:
        raise Conflict(f"{run} has no stations to go on with; launch an improvement from it instead.")
    if last.task.archived_at:
        raise Conflict(f"{last.task} is archived; restore the task first, then resume {run}.")
    lock_queue(run.lab)
    taken = AssignedStation.objects.filter(live=True, station__in=stations).select_related("station")
    away = [place.station.name for place in taken]
    away += [each.name for each in stations if each.archived_at or each.maintenance_since]
    if away:
        raise Conflict(
            f"{run} goes on with the stations that it had, and these are in use, in maintenance or archived: "
            f"{', '.join(dict.fromkeys(away))}. Free them first, or launch an improvement from it instead."
        )
    assign_task(
        lab=run.lab,
        task=last.task,
        stations=stations,
        user=access.Server(last.created_by),
        run=run,
        episodes=last.budget_episodes,
        hours=last.budget_hours,
        target_success=last.target_success,
    )


def settings_of_task(method: Method) -> list[str]:
    """Of its recipe those that are the practised task's own unless a launch says otherwise."""
    return [name for name in ("edge_margin",) if name in method.recipe.FIELDS]


def _practice_problems(
    lab: Lab, assignment: Assignment | None, task: Task | None, stations: Sequence[Station]
) -> dict[str, str]:
    problems: dict[str, str] = {}
    if archived := [station.name for station in stations if station.archived_at]:
        problems["stations"] = f"{', '.join(archived)}: archived; bring it back first or leave it out."
    if assignment is not None:
        if assignment.lab_id != lab.pk or not assignment.waits or assignment.evaluates:
            problems["assignment"] = "This assignment already has a run, or has ended. Choose one that waits for a run."
        elif assignment.task.archived_at:
            problems["assignment"] = f"{assignment.task} is archived; restore the task first."
        elif assignment.any_count and assignment.any_count != len(stations):
            problems["stations"] = (
                f"For this assignment, choose as many stations as it asks for: {assignment.any_count}."
            )
        return problems
    if task is None:
        problems["task"] = "Choose the task to practise."
    if not stations:
        problems["stations"] = "Choose at least one station to practise on."
    return problems


def _demonstrations(
    method: Method, dataset: Dataset | None, corrections: Dataset | None, parent: Run | None
) -> list[Dataset]:
    """What its policy will have been shown."""
    if "dataset" in method.needs:
        return [each for each in (dataset, corrections) if each is not None]
    assert parent is not None  # else source_problems() has refused
    return parent.demonstrations


def _body_problems(
    demonstrations: list[Dataset], source: Run | Dataset | None, task: Task | None, stations: Sequence[Station]
) -> dict[str, str]:
    """A policy moves only the body it was trained for, as it was then; stations of another one would wait for it for
    ever.
    """
    families = {family for each in demonstrations for family in each.families}
    trained: dict[str, Any] = next((each.body for each in demonstrations if each.body), {})
    wanted = task.embodiment if task else ""
    if wanted and trained and wanted != trained["name"]:
        return {"task": f"{task} is for the embodiment {wanted}, and {source} was trained for {trained['name']}."}
    if task and trained and task.after_failure and task.after_failure not in families:
        return {
            "task": f"{task} gives instructions of {task.after_failure} after a failure, and {source} was never "
            "trained on them. Train on demonstrations of both, or edit the task."
        }
    for station in stations:
        if changed := what_changed(station.embodiment, trained):
            return {
                "stations": f"{station} is not as it was when the demonstrations of {source} were recorded: {changed}. "
                "Leave it out, or record new demonstrations and train on these."
            }
    return {}


def _waiting_assignment(task: Task | None, stations: Sequence[Station]) -> Assignment | None:
    """The manager's assignment of this task to exactly these stations, or to any so many, if it waits for a run."""
    wanted = {station.pk for station in stations}
    waiting = Assignment.objects.filter(task=task, state__in=Assignment.WAITING, run=None, parent=None)
    named = {row: set(row.places.values_list("station_id", flat=True)) for row in waiting.order_by("position")}
    exact = [row for row, its in named.items() if not row.any_count and its == wanted]
    return next(iter(exact + [row for row in named if row.any_count == len(wanted)]), None)

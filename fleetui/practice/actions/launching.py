"""A run is launched: to train from demonstrations, which is learning's alone, or to practise on stations."""

from collections.abc import Sequence
from typing import Any, TypedDict

from django.db import transaction

from fleetui import access
from fleetui.access import Invalid
from fleetui.fleet.actions.labs import lock_queue
from fleetui.fleet.models import Assignment, Lab, Station, Task
from fleetui.learning import actions as learning_actions
from fleetui.learning.models import Dataset, Run
from fleetui.practice.actions.assignments import assign_task, start_assignment
from robots.tasks import TASKS
from training.methods.registry import Method, method_of


class Wish(TypedDict):
    """What a launch of any method says."""

    lab: Lab
    user: access.Acting
    kind: str
    recipe: dict[str, Any]
    name: str
    source: str
    dataset: Dataset | None
    corrections: Dataset | None
    parent: Run | None


def launch_run(
    *,
    lab: Lab,
    user: access.Acting,
    kind: str,
    recipe: dict[str, Any],
    name: str = "",
    dataset: Dataset | None = None,
    corrections: Dataset | None = None,
    parent: Run | None = None,
    assignment: Assignment | None = None,
    task: Task | None = None,
    stations: Sequence[Station] = (),
    source: str = "server",
) -> Run:
    """As a person asks for it, in the form or by the API; practice takes an assignment, or a task and stations."""
    common: Wish = {
        "lab": lab,
        "user": user,
        "kind": kind,
        "recipe": recipe,
        "name": name,
        "source": source,
        "dataset": dataset,
        "corrections": corrections,
        "parent": parent,
    }
    if method_of(kind).practises:
        return launch_practice(**common, assignment=assignment, task=task, stations=stations)
    return learning_actions.launch_training(**common)


@transaction.atomic
def launch_practice(
    *,
    lab: Lab,
    user: access.Acting,
    kind: str,
    recipe: dict[str, Any],
    name: str = "",
    dataset: Dataset | None = None,
    corrections: Dataset | None = None,
    parent: Run | None = None,
    assignment: Assignment | None = None,
    task: Task | None = None,
    stations: Sequence[Station] = (),
    with_stations: list[Station] | None = None,
    source: str = "server",
) -> Run:
    """Check everything, write the run and enqueue its job.

    It practises on an assignment that waits for a run, or on the task and stations given, which get one.
    `with_stations` are those that the dispatcher found for an assignment of any stations. Unless the recipe says
    otherwise, evaluations have the fence of the task: the curve judges the policy as it is practised.
    """
    access.check(user, lab, "launch_run")
    method = method_of(kind)
    practised = assignment.task if assignment else task
    if practised is not None:
        recipe = {name: getattr(practised, name) or 0.0 for name in settings_of_task(method)} | recipe
    checked = learning_actions.read_recipe(kind=kind, recipe=recipe)
    stations = list(with_stations or stations)
    sources: learning_actions.Sources = {"dataset": dataset, "corrections": corrections, "parent": parent}
    problems = learning_actions.source_problems(lab=lab, method=method, **sources)
    if not problems:
        problems = _body_problems(_demonstrations(method, **sources), parent or dataset, practised)
    problems |= _practice_problems(lab, assignment, task, stations)
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    lock_queue(lab)  # the dispatcher must not give the same stations away meanwhile
    run = learning_actions.create_run(
        lab=lab,
        user=user,
        recipe=checked,
        name=name,
        round_target=checked.steps_per_round,
        **sources,
    )
    assignment = assignment or _waiting_assignment(task, stations)
    if assignment is not None:
        chosen = stations if assignment.any_count else None
        start_assignment(assignment=assignment, run=run, stations=chosen)
    else:
        # Who may launch a run may give it stations that are free: the assignment is a part of it.
        launcher = access.Server(access.person_of(user))
        assert task is not None  # else _practice_problems() has refused
        assign_task(lab=lab, task=task, stations=stations, user=launcher, run=run, source=source)
    learning_actions.enqueue_run(run=run, user=user, source=source)
    return run


def settings_of_task(method: Method) -> list[str]:
    """Of its recipe those that are the practised task's own unless a launch says otherwise."""
    return [name for name in ("edge_margin",) if name in method.recipe.FIELDS]


def _practice_problems(
    lab: Lab, assignment: Assignment | None, task: Task | None, stations: list[Station]
) -> dict[str, str]:
    problems: dict[str, str] = {}
    if archived := [station.name for station in stations if station.archived_at]:
        problems["stations"] = f"{', '.join(archived)}: archived; bring it back first or leave it out."
    if assignment is not None:
        if assignment.lab_id != lab.pk or not assignment.waits:
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


def _body_problems(demonstrations: list[Dataset], source: Run | Dataset | None, task: Task | None) -> dict[str, str]:
    """A policy moves only the body it was trained for; stations of another one would wait for it for ever."""
    families = {family for each in demonstrations for family in each.families if family in TASKS}
    trained = {TASKS[family].embodiment for family in families}
    wanted = TASKS[task.family].embodiment if task and task.family in TASKS else None
    if wanted and trained and wanted not in trained:
        return {"task": f"{task} is for the embodiment {wanted}, and {source} was trained for {' and '.join(trained)}."}
    if task and trained and task.after_failure and task.after_failure not in families:
        return {
            "task": f"{task} gives instructions of {task.after_failure} after a failure, and {source} was never "
            "trained on them. Train on demonstrations of both, or edit the task."
        }
    return {}


def _waiting_assignment(task: Task | None, stations: list[Station]) -> Assignment | None:
    """The manager's assignment of this task to exactly these stations, or to any so many, if it waits for a run."""
    wanted = {station.pk for station in stations}
    waiting = Assignment.objects.filter(task=task, state__in=Assignment.WAITING, run=None, parent=None)
    named = {row: set(row.places.values_list("station_id", flat=True)) for row in waiting.order_by("position")}
    exact = [row for row, its in named.items() if not row.any_count and its == wanted]
    return next(iter(exact + [row for row in named if row.any_count == len(wanted)]), None)

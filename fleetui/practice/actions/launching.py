"""A run is launched: to train from demonstrations, which is learning's alone, or to practise on stations."""

from django.db import transaction

from fleetui import access
from fleetui.access import Invalid
from fleetui.fleet.actions.labs import lock_queue
from fleetui.fleet.models import Assignment, Lab, Station, Task
from fleetui.learning import actions as learning_actions
from fleetui.learning import selectors as learning
from fleetui.learning.models import Dataset, Run
from fleetui.practice.actions.assignments import assign_task, start_assignment
from robots.tasks import TASKS


def launch_run(
    *,
    lab: Lab,
    user,
    kind: str,
    recipe: dict,
    name: str = "",
    dataset: Dataset | None = None,
    corrections: Dataset | None = None,
    parent: Run | None = None,
    assignment: Assignment | None = None,
    task: Task | None = None,
    stations: list[Station] | tuple = (),
    source: str = "server",
) -> Run:
    """As a person asks for it, in the form or by the API; practice takes an assignment, or a task and stations."""
    common = {"lab": lab, "user": user, "recipe": recipe, "name": name, "parent": parent}
    common |= {"dataset": dataset, "corrections": corrections}
    if kind == "improve":
        return launch_practice(**common, assignment=assignment, task=task, stations=stations, source=source)
    return learning_actions.launch_training(**common, kind=kind, source=source)


@transaction.atomic
def launch_practice(
    *,
    lab: Lab,
    user,
    recipe: dict,
    name: str = "",
    dataset: Dataset | None = None,
    corrections: Dataset | None = None,
    parent: Run | None = None,
    assignment: Assignment | None = None,
    task: Task | None = None,
    stations: list[Station] | tuple = (),
    with_stations: list[Station] | None = None,
    source: str = "server",
) -> Run:
    """Check everything, write the run and enqueue its job.

    It practises on an assignment that waits for a run, or on the task and stations given, which get one.
    `with_stations` are those that the dispatcher found for an assignment of any stations. Unless the recipe says
    otherwise, evaluations have the fence of the task: the curve judges the policy as it is practised.
    """
    access.check(user, lab, "launch_run")
    practised = assignment.task if assignment else task
    if practised is not None:
        recipe = {"edge_margin": practised.edge_margin or 0.0} | recipe
    checked = learning_actions.read_recipe(kind="improve", recipe=recipe)
    stations = list(with_stations or stations)
    problems = _practice_problems(lab, parent, assignment, task, stations)
    if corrections is not None:
        problems["corrections"] = "Only a run that trains from demonstrations learns from corrections too."
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    lock_queue(lab)  # the dispatcher must not give the same stations away meanwhile
    run = learning_actions.create_run(
        lab=lab,
        user=user,
        recipe=checked,
        name=name,
        dataset=dataset,
        parent=parent,
        round_target=checked.steps_per_round,
    )
    assignment = assignment or _waiting_assignment(task, stations)
    if assignment is not None:
        chosen = stations if assignment.any_count else None
        start_assignment(assignment=assignment, run=run, stations=chosen)
    else:
        # Who may launch a run may give it stations that are free: the assignment is a part of it.
        launcher = access.Server(access.person_of(user))
        assign_task(lab=lab, task=task, stations=stations, user=launcher, run=run, source=source)
    learning_actions.enqueue_run(run=run, user=user, source=source)
    return run


def _practice_problems(
    lab: Lab, parent: Run | None, assignment: Assignment | None, task: Task | None, stations: list[Station]
) -> dict[str, str]:
    problems = {}
    if parent is None or parent.lab_id != lab.pk:
        problems["parent"] = "Choose the run whose policy and reward model to start from."
    elif problem := learning.parent_problem(parent):
        problems["parent"] = problem
    else:
        problems |= _body_problems(parent, assignment.task if assignment else task)
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


def _body_problems(parent: Run, task: Task | None) -> dict[str, str]:
    """A policy moves only the body it was trained for; stations of another one would wait for it for ever."""
    origin = parent.sft_run
    learned = [dataset.families for dataset in (origin.dataset, origin.corrections) if dataset is not None]
    families = {family for names in learned for family in names if family in TASKS}
    trained = {TASKS[family].embodiment for family in families}
    wanted = TASKS[task.family].embodiment if task and task.family in TASKS else None
    if wanted and trained and wanted not in trained:
        return {"task": f"{task} is for the embodiment {wanted}, and {parent} was trained for {' and '.join(trained)}."}
    if task and trained and task.after_failure and task.after_failure not in families:
        return {
            "task": f"{task} gives instructions of {task.after_failure} after a failure, and {parent} was never "
            "trained on them. Train on demonstrations of both, or edit the task."
        }
    return {}


def _waiting_assignment(task: Task, stations) -> Assignment | None:
    """The manager's assignment of this task to exactly these stations, or to any so many, if it waits for a run."""
    wanted = {station.pk for station in stations}
    waiting = Assignment.objects.filter(task=task, state__in=Assignment.WAITING, run=None, parent=None)
    named = {row: set(row.places.values_list("station_id", flat=True)) for row in waiting.order_by("position")}
    exact = [row for row, stations in named.items() if not row.any_count and stations == wanted]
    return next(iter(exact + [row for row in named if row.any_count == len(wanted)]), None)

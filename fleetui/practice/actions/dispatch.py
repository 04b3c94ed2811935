"""The dispatcher: starts what waits in a lab's queue once its stations are free, ends what has reached its budget."""

import logging
from typing import Any

from django.db import transaction

from fleetui import access
from fleetui.access import Conflict, Refused
from fleetui.fleet.actions.labs import lock_queue
from fleetui.fleet.models import Assignment, Lab
from fleetui.practice.actions.assignments import complete_assignment, move_assignment, start_assignment
from fleetui.practice.actions.launching import launch_run
from fleetui.practice.actions.publishing import order_stations_of_evaluation
from fleetui.practice.queue import Verdict, read_queue
from training.methods.registry import Method, methods_that_need

log = logging.getLogger(__name__)
NO_END = 10_000_000  # practice episodes of a run that something else ends


def dispatch_on_commit(*, lab: Lab) -> None:
    """Something was freed, added or moved: see who may start."""
    transaction.on_commit(lambda: dispatch_assignments(lab=lab), robust=True)


def dispatch_all() -> None:
    """The beat of a few seconds: a station that came back, a moment that has come, a budget that is reached. Stations
    that evaluate hear their orders again: no run's job does that for them.
    """
    for lab in Lab.objects.filter(assignments__state__in=Assignment.LIVE).distinct():
        try:
            dispatch_assignments(lab=lab)
            for assignment in lab.assignments.filter(state__in=Assignment.LIVE, checkpoint__isnull=False):
                order_stations_of_evaluation(assignment=assignment)
        except Exception:
            log.exception("dispatching in %s", lab.slug)


@transaction.atomic
def dispatch_assignments(*, lab: Lab) -> None:
    """Bring every live assignment of the lab to the state that its verdict names, and start those that may.

    The rule: the queue is one line, and who stands further ahead is served first. A new assignment enters behind those
    of its priority or a higher one, and behind all that have waited for a day; a person may move it anywhere. One that
    could start but for its stations claims them, so whoever stands behind it can't take a station that it waits for,
    however long they all are in use: so the first in line gets its stations as they become free, and as nothing new
    passes what has waited for a day, everything comes first in the end. What waits for something else than stations
    (its earliest start, a person's run, a mend) claims nothing, and is passed by.

    It may be called at any time, and twice at once: the lab's lock makes the second one find what the first has done.
    """
    if not lab.assignments.filter(state__in=Assignment.LIVE).exists():
        return
    lock_queue(lab)
    for verdict in read_queue(lab):
        row = verdict.assignment
        if verdict.progress and verdict.progress.reached and (row.run is None or row.run.is_live):
            complete_assignment(assignment=row, reason=verdict.progress.reached)
        elif verdict.starts_with:
            _launch(verdict)
        elif verdict.state != row.state or (row.reason and row.waits):
            move: dict[str, Any] = {"reason": ""} if row.waits else {}
            if verdict.state == row.state:
                Assignment.objects.filter(pk=row.pk, state=row.state).update(**move)
            else:
                move_assignment(assignment=row, to=verdict.state, **move)


def _launch(verdict: Verdict) -> None:
    """The server's act, whosever freed the stations, in the name of the person who asked for it. The queue practises
    by the first method that can; an evaluation needs no run.
    """
    row, method = verdict.assignment, methods_that_need("parent", "stations")[0]
    try:
        with transaction.atomic():
            if row.evaluates:
                start_assignment(assignment=row, run=None, stations=verdict.starts_with)
                return
            launch_run(
                lab=row.lab,
                user=access.Server(row.created_by),
                kind=method.kind,
                name=f"{row.task.name[:60]} {row.pk}",
                parent=row.parent,
                assignment=row,
                stations=verdict.starts_with,
                recipe=recipe_of(row, method),
            )
    except Conflict:
        log.info("assignment %s: a person was quicker", row.pk)
    except Refused as refused:
        what = "it can't begin" if row.evaluates else "its run can't be launched"
        reason = f"{what}: {refused}"[:300]
        if (row.state, row.reason) != ("blocked", reason):
            Assignment.objects.filter(pk=row.pk, state="blocked").update(reason=reason)
            move_assignment(assignment=row, to="blocked", reason=reason)


def recipe_of(row: Assignment, method: Method) -> dict[str, Any]:
    """The defaults, evaluated on the assignment's task, with its budget as their limit; as far as the method has such
    settings.
    """
    recipe: dict[str, Any] = {"tasks": row.task.family, "time_limit": row.task.time_limit_steps}
    if row.budget_episodes:
        recipe["max_episodes"] = row.budget_episodes
    elif row.budget_hours is not None or row.target_success is not None:
        # Nobody knows how many episodes that will be, so the learning rate has nothing to be annealed against.
        recipe |= {"max_episodes": NO_END, "max_rounds": 1_000_000, "anneal": 0.0}
    return {name: value for name, value in recipe.items() if name in method.recipe.FIELDS}

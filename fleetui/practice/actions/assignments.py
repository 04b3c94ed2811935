"""Assignments: tasks given to stations, from the queue that they wait in to the end of the run behind them."""

import contextlib
import json
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.cards import show_card
from fleetui.fleet.actions.control import grant_lease
from fleetui.fleet.actions.labs import lock_queue
from fleetui.fleet.bodies import read_body, what_changed
from fleetui.fleet.models import PRIORITIES, REPEATS, AssignedStation, Assignment, Lab, Lease, Station, Task
from fleetui.fleet.signals import queue_changed
from fleetui.fleet.time_zones import newest_due, zone_named, zone_names
from fleetui.learning import actions as learning_actions
from fleetui.learning import selectors as learning
from fleetui.learning.models import Checkpoint, Run
from fleetui.practice.actions.publishing import order_station, order_stations_of_run
from robots.episodes import EpisodeError, refuse_long

MOST_ATTEMPTS = 10_000  # of an evaluation
PATIENCE = timedelta(hours=24)  # one that has waited so long is not overtaken any more, whatever has priority
# What the occurrences of a series have in common.
REPEATED: tuple[str, ...] = ("lab", "task", "created_by", "any_count", "parent", "checkpoint")
REPEATED += ("budget_episodes", "budget_hours", "target_success", "priority", "time_zone")
REPEAT_DAYS = {"daily": 1, "weekly": 7}
BUDGETS = {"episodes": "budget_episodes", "hours": "budget_hours", "target_success": "target_success"}
STEERED = ("starting", "running", "pausing", "canceling")  # a run that entered one has other work for its stations


@transaction.atomic
def assign_task(
    *,
    lab: Lab,
    task: Task,
    stations: list[Station],
    user: access.Acting,
    run: Run | None = None,
    any_count: int | None = None,
    parent: Run | None = None,
    checkpoint: Checkpoint | None = None,
    episodes: int | None = None,
    hours: float | None = None,
    target_success: float | None = None,
    priority: str = "normal",
    not_before: datetime | None = None,
    repeats: str = "",
    time_zone: str = "UTC",
    source: str = "server",
) -> Assignment:
    """Give the task to these stations, or to any so many with its body.

    With a run they practise as soon as it publishes; the stations must be free. Without one the assignment enters the
    queue: behind those of its priority or a higher one, and behind all that have waited for a day. What repeats does
    so at its time of the day in the time zone. With a checkpoint it is an evaluation: `episodes` attempts with that
    policy, from which nothing learns.
    """
    access.check(user, lab, "assign")
    if checkpoint is not None:
        parent = checkpoint.run
    problems = _assignment_problems(
        lab,
        task,
        stations,
        any_count,
        parent,
        episodes,
        hours,
        target_success,
        priority,
        not_before,
        repeats,
        time_zone,
        checkpoint,
    )
    if problems:
        raise Invalid(" ".join(dict.fromkeys(problems.values())), problems)
    lock_queue(lab)
    if run is not None:
        _take_from_waiting_assignments(task, stations)
    assignment = Assignment.objects.create(
        lab=lab,
        task=task,
        created_by=access.person_of(user),
        any_count=any_count,
        parent=parent,
        checkpoint=checkpoint,
        budget_episodes=episodes,
        budget_hours=hours,
        target_success=target_success,
        priority=_level(priority),
        not_before=not_before,
        repeats=repeats,
        time_zone=time_zone,
        due_at=not_before if repeats else None,
    )
    AssignedStation.objects.bulk_create(AssignedStation(assignment=assignment, station=station) for station in stations)
    if run is not None:
        start_assignment(assignment=assignment, run=run)
    else:
        enter_queue(assignment)
    if repeats:
        _schedule(assignment)
    details = {"assignment": assignment.pk, "task": task.name, "run": run.pk if run else None, "any": any_count}
    if checkpoint is not None:
        details |= {"evaluates": f"{checkpoint} of {parent}", "attempts": episodes}
    shown: list[Station] | list[None] = stations or [None]
    for station in shown:
        record_act(lab=lab, kind="assigned", user=user, station=station, details=details, source=source)
    queue_changed.send(sender=Lab, lab=lab)
    return assignment


def _level(priority: str) -> int:
    return next(level for level, word in PRIORITIES.items() if word == priority)


def _assignment_problems(
    lab: Lab,
    task: Task,
    stations: list[Station],
    any_count: int | None,
    parent: Run | None,
    episodes: int | None,
    hours: float | None,
    target_success: float | None,
    priority: str,
    not_before: datetime | None,
    repeats: str,
    time_zone: str,
    checkpoint: Checkpoint | None,
) -> dict[str, str]:
    problems = {}
    if any_count is None and not stations:
        problems["stations"] = "Choose at least one station."
    elif any_count is not None and stations:
        problems["stations"] = "Either choose stations, or say how many of any stations; not both."
    elif any_count is not None and not 1 <= any_count <= 1000:
        problems["any_count"] = "Choose 1 to 1000 stations."
    if any(row is not None and row.lab_id != lab.pk for row in (task, parent, *stations)):
        problems["task"] = "The task, the run and the stations must all belong to this lab."
    elif task.archived_at:
        problems["task"] = f"{task} is archived; restore it first or choose another task."
    elif unable := _unable(task, stations, parent.body if parent else {}):
        problems["stations"] = unable
    if checkpoint is not None:
        if problem := learning.evaluation_problem(checkpoint):
            problems["checkpoint"] = problem
        elif parent is not None and parent != checkpoint.run:
            problems["parent"] = "An evaluation is of one policy. For that of another run, make another evaluation."
        if episodes is None:
            problems["budget"] = "Say how many attempts an evaluation shall have."
        elif not 1 <= episodes <= MOST_ATTEMPTS:
            problems["budget"] = f"The number of attempts must be 1 to {MOST_ATTEMPTS}."
    elif parent is not None and parent.lab_id == lab.pk and (problem := learning.parent_problem(parent)):
        problems["parent"] = problem
    if sum(each is not None for each in (episodes, hours, target_success)) > 1:
        problems["budget"] = "Give at most one end: a number of episodes, hours, or a true success."
    elif checkpoint is None and episodes is not None and not 1 <= episodes <= 10_000_000:
        problems["budget"] = "The number of episodes must be 1 to 10000000."
    elif hours is not None and not 0.01 <= hours <= 10_000:
        problems["budget"] = "The number of hours must be 0.01 to 10000."
    elif target_success is not None and not 0.01 <= target_success <= 1:
        problems["budget"] = "A target success must be a share from 0.01 to 1."
    if priority not in PRIORITIES.values():
        problems["priority"] = f"{priority!r} is no priority; choose {', '.join(PRIORITIES.values())}."
    if repeats not in REPEATS:
        problems["repeats"] = f"{repeats!r} is no way to repeat; choose daily or weekly, or leave it out."
    elif repeats and not_before is None:
        problems["not_before"] = "Say when it starts for the first time. It repeats at that time of day."
    elif repeats and not_before is not None and not_before <= timezone.now():
        problems["not_before"] = "An assignment that repeats must start in the future."
    if time_zone not in zone_names():
        problems["time_zone"] = f"{time_zone!r} is no time zone; give one such as Europe/Berlin."
    if not_before is not None and not_before > timezone.now() + timedelta(days=366):
        problems["not_before"] = "The earliest start must lie within a year."
    return problems


def _unable(task: Task, stations: list[Station], trained: dict[str, Any]) -> str:
    """Why one of the stations can't practise the task, with a policy that was trained for that body."""
    for station in stations:
        if station.archived_at:
            return f"{station} is archived; leave it out, or bring it back."
        if station.maintenance:
            return f"{station} is in maintenance ({station.maintenance_reason}); leave it out, or end maintenance."
        body = station.embodiment.get("name", task.embodiment)
        if body != task.embodiment:
            return f"{station} has the embodiment {body}, but {task} needs {task.embodiment}; leave this station out."
        if (known := read_body(station.embodiment)) is not None:
            try:
                refuse_long(known, task.time_limit_steps)
            except EpisodeError as error:
                return f"{station} can't practise {task}: {error}."
        if changed := what_changed(station.embodiment, trained):
            return (
                f"{station} is not as it was when the policy's demonstrations were recorded: {changed}. Leave it out, "
                "or practise with a policy that was trained on its newer ones."
            )
    return ""


def enter_queue(assignment: Assignment) -> None:
    """Put a new one in its place; the queue is locked."""
    since = timezone.now() - PATIENCE
    line = list_waiting(assignment.lab)
    line = [row for row in line if row.pk != assignment.pk]
    before = 0
    for place, row in enumerate(line, start=1):
        waits_since = max(row.created_at, row.not_before or row.created_at)
        if row.priority >= assignment.priority or waits_since < since:
            before = place
    line.insert(before, assignment)
    renumber(line)


def list_waiting(lab: Lab) -> list[Assignment]:
    return list(
        lab.assignments.filter(state__in=Assignment.WAITING, run=None, started_at=None).order_by("position", "pk")
    )


def renumber(line: list[Assignment]) -> None:
    for position, row in enumerate(line, start=1):
        row.position = position
    Assignment.objects.bulk_update(line, ["position"])


@transaction.atomic
def reorder_assignment(
    *, assignment: Assignment, before: Assignment | None, user: access.Acting, source: str = "server"
) -> None:
    """Put a waiting one just before another waiting one, or at the end: a person's order goes before priorities."""
    access.check(user, assignment.lab, "assign")
    lock_queue(assignment.lab)
    line = list_waiting(assignment.lab)
    if assignment not in line:
        raise Conflict("It is not waiting any more, so it has no place in the queue. Reload the page.")
    if before is not None and before not in line:
        raise Conflict("The assignment that it shall stand before is not waiting any more. Reload the page.")
    if before == assignment:
        return
    line.remove(assignment)
    line.insert(len(line) if before is None else line.index(before), assignment)
    renumber(line)
    details = {"assignment": assignment.pk, "before": before.pk if before else None}
    record_act(lab=assignment.lab, kind="assignment_moved", user=user, details=details, source=source)
    queue_changed.send(sender=Lab, lab=assignment.lab)


@transaction.atomic
def edit_assignment(
    *, assignment: Assignment, user: access.Acting, source: str = "server", **changes: Any
) -> Assignment:
    """Change what is named, of what assign_task takes but the task and a run, while it waits. Another priority gives
    it the place that a new one would get. What repeats goes on by what it says now; what was made of it before stays.
    """
    access.check(user, assignment.lab, "assign")
    lab = assignment.lab
    lock_queue(lab)
    rows = Assignment.objects.select_related("lab", "task", "parent", "checkpoint__run")
    rows = rows.select_for_update(of=("self",))
    row = rows.get(pk=assignment.pk)
    if not row.waits:
        raise Conflict(f"It is {row.state}; only an assignment that waits in the queue can be edited. Reload the page.")
    before = _wishes_of(row)
    if any(changes.get(name) is not None for name in BUDGETS):
        changes = dict.fromkeys(BUDGETS) | changes
    if changes.get("any_count") is not None:
        changes = {"stations": []} | changes
    elif changes.get("stations"):
        changes = {"any_count": None} | changes
    after = before | changes
    after["stations"] = sorted(after["stations"], key=lambda station: station.number)
    if not after["repeats"]:
        after["time_zone"] = before["time_zone"]  # of no meaning then
    changed = {name for name, value in after.items() if value != before[name]}
    problems = _edit_problems(row, after, changed)
    if problems:
        raise Invalid(" ".join(dict.fromkeys(problems.values())), problems)
    if not changed:
        return row
    row.any_count, row.parent = after["any_count"], after["parent"]
    row.not_before, row.repeats, row.time_zone = (after[name] for name in ("not_before", "repeats", "time_zone"))
    for name, column in BUDGETS.items():
        setattr(row, column, after[name])
    row.priority = _level(after["priority"])
    row.reason = ""  # what kept it from starting may be what was changed
    if "stations" in changed:
        row.places.all().delete()
        places = [AssignedStation(assignment=row, station=station) for station in after["stations"]]
        AssignedStation.objects.bulk_create(places)
    if changed & {"not_before", "repeats", "time_zone"}:
        PeriodicTask.objects.filter(name=f"assignment {row.pk}").delete()
        row.schedule = None
        row.due_at = row.not_before if row.repeats else row.due_at
    columns = ("any_count", "parent", *BUDGETS.values(), "priority", "not_before", "repeats", "time_zone")
    row.save(update_fields=[*columns, "reason", "schedule", "due_at"])
    if row.repeats and row.schedule is None:
        _schedule(row)
    if "priority" in changed:
        enter_queue(row)
    details = {"assignment": row.pk, "task": row.task.name} | {name: _said(after[name]) for name in sorted(changed)}
    record_act(lab=lab, kind="assignment_edited", user=user, details=details, source=source)
    queue_changed.send(sender=Lab, lab=lab)
    return row


def _wishes_of(row: Assignment) -> dict[str, Any]:
    """As assign_task takes them."""
    return {
        "stations": list(row.stations.order_by("number")),
        "any_count": row.any_count,
        "parent": row.parent,
        **{name: getattr(row, column) for name, column in BUDGETS.items()},
        "priority": PRIORITIES[row.priority],
        "not_before": row.not_before,
        "repeats": row.repeats,
        "time_zone": row.time_zone,
    }


def _edit_problems(row: Assignment, after: dict[str, Any], changed: set[str]) -> dict[str, str]:
    """What was right when it was assigned and stays as it is is nobody's mistake now: a start that has passed, say."""
    problems = _assignment_problems(row.lab, row.task, **after, checkpoint=row.checkpoint)
    touched = {
        "stations": changed & {"stations", "any_count"},
        "parent": "parent" in changed,
        "not_before": changed & {"not_before", "repeats"},
    }
    problems = {name: problem for name, problem in problems.items() if touched.get(name, True)}
    if row.series_id and after["repeats"]:
        problems["repeats"] = "It was made by an assignment that repeats. Leave this empty, or edit that assignment."
    return problems


def _said(value: Any) -> Any:
    """A changed value as the audit log keeps it."""
    if isinstance(value, list):
        return [station.slug for station in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, (str, int, float)) else value.pk


def _schedule(assignment: Assignment) -> None:
    """Celery's beat makes the later ones: its periodic task carries the id of the first, and nothing else."""
    zone = zone_named(assignment.time_zone)
    assert assignment.due_at is not None  # the database asks for it of what repeats
    at = assignment.due_at.astimezone(zone)
    times, _ = CrontabSchedule.objects.get_or_create(
        minute=str(at.minute),
        hour=str(at.hour),
        day_of_week=str(at.isoweekday() % 7) if assignment.repeats == "weekly" else "*",
        day_of_month="*",
        month_of_year="*",
        timezone=zone,
    )
    assignment.schedule = PeriodicTask.objects.create(
        name=f"assignment {assignment.pk}",
        task="fleet.repeat_assignment",
        crontab=times,
        args=json.dumps([assignment.pk]),
        start_time=assignment.due_at,
    )
    assignment.save(update_fields=["schedule"])


@transaction.atomic
def repeat_assignment(*, assignment_id: int, now: datetime | None = None) -> Assignment | None:
    """The next of a series: it enters the queue, or is skipped while an earlier one has not ended.

    However often it is called, an occurrence is made once. The first one is the assignment that repeats itself.
    """
    now = now or timezone.now()
    first = Assignment.objects.select_related("lab", "task").filter(pk=assignment_id).exclude(repeats="").first()
    if first is None:
        return None
    lock_queue(first.lab)
    zone = zone_named(first.time_zone)
    soon = now + timedelta(seconds=30)
    assert first.due_at is not None  # the database asks for it of what repeats
    due = newest_due(first=first.due_at, zone=zone, days=REPEAT_DAYS[first.repeats], by=soon)
    if due <= first.due_at or first.occurrences.filter(due_at=due).exists():
        return None
    family = Assignment.objects.filter(Q(pk=first.pk) | Q(series=first))
    before = family.filter(state__in=Assignment.LIVE).order_by("due_at").first()
    again = Assignment.objects.create(
        due_at=due,
        not_before=due,
        series=first,
        **{name: getattr(first, name) for name in REPEATED},
    )
    if not first.any_count:
        stations = first.places.values_list("station_id", flat=True)
        AssignedStation.objects.bulk_create(AssignedStation(assignment=again, station_id=pk) for pk in stations)
    if before is not None:
        assert before.due_at is not None  # each of a series has its own
        reason = f"The one of {before.due_at.astimezone(zone):%a %H:%M %Z} was still {before.state}."
        move_assignment(assignment=again, to="skipped", reason=reason)
    else:
        enter_queue(again)
        queue_changed.send(sender=Lab, lab=first.lab)
    again.refresh_from_db()
    return again


@transaction.atomic
def stop_repeating(*, assignment: Assignment, user: access.Acting, source: str = "server") -> None:
    """No more of this series; what is queued or under way of it stays."""
    access.check(user, assignment.lab, "assign")
    first = assignment.series or assignment
    if not Assignment.objects.filter(pk=first.pk).exclude(repeats="").update(repeats=""):
        raise Conflict(f"The assignment of {first.task} does not repeat.")
    PeriodicTask.objects.filter(name=f"assignment {first.pk}").delete()
    record_act(
        lab=first.lab,
        kind="repeat_ended",
        user=user,
        details={"assignment": first.pk, "task": first.task.name},
        source=source,
    )


def _take_from_waiting_assignments(task: Task, stations: list[Station]) -> None:
    """A run takes over stations that a manager assigned to its task and that wait for a run like it."""
    places = AssignedStation.objects.filter(
        station__in=stations,
        assignment__run=None,
        assignment__parent=None,
        assignment__task=task,
        assignment__state__in=Assignment.WAITING,
    )
    emptied = set(places.values_list("assignment_id", flat=True))
    places.delete()
    for assignment in Assignment.objects.filter(pk__in=emptied).exclude(places__isnull=False):
        move_assignment(assignment=assignment, to="canceled", reason="A run has taken all of its stations.")


@transaction.atomic
def start_assignment(*, assignment: Assignment, run: Run | None, stations: list[Station] | None = None) -> None:
    """Put a run behind a waiting assignment, or none behind an evaluation: from now on it holds its stations, or those
    that were found for it.
    """
    practises = run is not None and run.state == "running"
    trained = run or assignment.parent
    assert trained is not None  # an evaluation has one, by the database's word
    moved = move_assignment(
        assignment=assignment,
        to="underway" if practises else "standby",
        sources=Assignment.WAITING,
        run=run,
        reason="",
        started_at=timezone.now() if practises or run is None else None,
    )
    if not moved:
        raise Conflict("This assignment already has a run, or has ended; choose another one.")
    assignment.refresh_from_db()
    if stations is not None:
        if unable := _unable(assignment.task, stations, trained.body):
            raise Invalid(unable, {"stations": unable})
        wanted = set(assignment.places.values_list("station_id", flat=True))
        AssignedStation.objects.bulk_create(
            AssignedStation(assignment=assignment, station=station) for station in stations if station.pk not in wanted
        )
    try:
        with transaction.atomic():
            assignment.places.update(live=True)
    except IntegrityError:
        its = assignment.places.values_list("station_id", flat=True)
        taken = AssignedStation.objects.filter(live=True, station__in=its).exclude(assignment=assignment)
        problem = (
            ", ".join(
                f"{place.station} ({place.assignment.task})"
                for place in taken.select_related("station", "assignment__task")
            )
            or "a station"
        )
        raise Conflict(
            f"Already assigned: {problem}. End that assignment or run first, or leave these stations out."
        ) from None
    _after_assignment_change(assignment)


def follow_run(*, run: Run) -> None:
    """A run is in another state: what stands behind it follows."""
    if run.state == "running":
        begin_practice(run=run)
    if run.state in STEERED:
        order_stations_of_run(run=run)
    elif not run.is_live:
        for assignment in run.assignments.filter(state__in=Assignment.LIVE):
            ending = {"completed": "completed", "failed": "failed"}.get(run.state, "killed")
            reason = {"failed": f"{run} failed: {run.error}", "killed": f"Its run {run} was stopped."}.get(ending, "")
            end_assignment(assignment=assignment, state=ending, reason=reason)


def begin_practice(*, run: Run) -> None:
    """Its training process runs: what stood by for it is under way."""
    now = timezone.now()
    for assignment in Assignment.objects.filter(run=run, state__in=("standby", "delayed")):
        started = assignment.started_at or now
        move_assignment(assignment=assignment, to="underway", sources=("standby", "delayed"), started_at=started)


def move_assignment(*, assignment: Assignment, to: str, sources: tuple[str, ...] | None = None, **fields: Any) -> bool:
    """One conditional UPDATE by the transition table; False where its state, whatever it is now, does not allow it."""
    allowed = [state for state, targets in Assignment.TRANSITIONS.items() if to in targets]
    rows = Assignment.objects.filter(
        pk=assignment.pk, state__in=[state for state in allowed if sources is None or state in sources]
    )
    if sources == Assignment.WAITING:
        rows = rows.filter(run=None, started_at=None)  # a delayed one may be either side of its start
    if to not in Assignment.LIVE:
        fields["ended_at"] = timezone.now()
    if "reason" in fields:
        fields["reason"] = fields["reason"][:300]
    return bool(rows.update(state=to, **fields))


@transaction.atomic
def end_assignment(*, assignment: Assignment, state: str, reason: str = "", at_once: bool = False) -> bool:
    """It has ended, one way or another: its stations become free, and idle at the end of their episodes, or at once."""
    if not move_assignment(assignment=assignment, to=state, reason=reason):
        return False
    stations = [place.station for place in assignment.places.filter(live=True).select_related("station__lab")]
    assignment.places.filter(live=True).update(live=False)
    if assignment.run_id:
        Lease.objects.filter(run_id=assignment.run_id, released_at=None).update(released_at=timezone.now())
    for station in stations:
        order_station(station=station, at_once=at_once)
        show_card(station)
    queue_changed.send(sender=Lab, lab=assignment.lab)
    return True


@transaction.atomic
def cancel_assignment(
    *, assignment: Assignment, user: access.Acting, force: bool = False, source: str = "server"
) -> None:
    """Take it out of the queue, or its stations away from it, at once; the run behind it is cancelled as well.

    Stations finish their episode. With force they end it where they are: the assignment was killed, not canceled.
    """
    access.check(user, assignment.lab, "assign")
    run = _end_alone(assignment)
    ended = end_assignment(
        assignment=assignment,
        state="killed" if force else "canceled",
        reason=f"{'Killed' if force else 'Canceled'} by {user}.",
        at_once=force,
    )
    if not ended:
        assignment.refresh_from_db()
        raise Conflict(f"It is {assignment.state} already.")
    details = {"assignment": assignment.pk, "task": assignment.task.name, "force": force}
    stations: list[Station] | list[None] = list(assignment.stations.all()) or [None]  # of any, it may have none yet
    for station in stations:
        record_act(
            lab=assignment.lab, kind="assignment_canceled", user=user, station=station, details=details, source=source
        )
    if run is not None:
        _cancel_run(run, user, source=source)


@transaction.atomic
def complete_assignment(*, assignment: Assignment, reason: str) -> None:
    """Its budget is reached: it ends, and its run with it."""
    run = _end_alone(assignment)
    if end_assignment(assignment=assignment, state="completed", reason=reason) and run is not None:
        _cancel_run(run, access.SERVER, reason, source="server")


def _end_alone(assignment: Assignment) -> Run | None:
    """Lock what ends together, in the order in which a run that ends by itself does; returns the run."""
    lock_queue(assignment.lab)
    assignment.refresh_from_db()
    if assignment.run_id is None:
        return None
    runs = Run.objects.select_related("lab")
    return runs.select_for_update(of=("self",), no_key=True).get(pk=assignment.run_id)


def _cancel_run(run: Run, user: access.Acting, reason: str = "", *, source: str) -> None:
    with contextlib.suppress(Conflict):  # it has ended, or is being canceled already
        learning_actions.cancel_run(run=run, user=user, reason=reason, source=source)


def _after_assignment_change(assignment: Assignment) -> None:
    for place in assignment.places.filter(live=True).select_related("station__lab"):
        if assignment.run_id:
            station = Station.objects.select_for_update().get(pk=place.station_id)
            if not station.taken_over:  # else the run gets it at the hand-back
                grant_lease(station=station, run=assignment.run)
        order_station(station=place.station)
        show_card(place.station)

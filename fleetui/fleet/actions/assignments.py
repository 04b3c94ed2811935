"""Assignments: tasks given to stations, and what a station is told to do about them."""

import logging

from django.db import IntegrityError, transaction
from django.utils import timezone

from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.cards import show_card
from fleetui.fleet.actions.control import grant_lease
from fleetui.fleet.models import AssignedStation, Assignment, Lab, Lease, Station, Task
from fleetui.messages import tell_station_on_commit
from robots import tasks as task_families

audit = logging.getLogger("fleetui.audit")


@transaction.atomic
def assign_task(*, lab: Lab, task: Task, stations: list[Station], user, run=None) -> Assignment:
    """Give the task to stations. Without a run they wait for one; with a run they practise as soon as it publishes."""
    if not stations:
        raise Invalid("Choose at least one station.", {"stations": "Choose at least one station."})
    if any(row.lab_id != lab.pk for row in (task, *stations)):
        raise Invalid("The task and the stations must all belong to this lab.")
    _refuse_unable(task, stations)
    if run is not None:
        _take_from_waiting_assignments(task, stations)
    assignment = Assignment.objects.create(
        lab=lab, task=task, run=run, created_by=user, state="underway" if run else "queued"
    )
    try:
        with transaction.atomic():
            AssignedStation.objects.bulk_create(
                AssignedStation(assignment=assignment, station=station) for station in stations
            )
    except IntegrityError:
        taken = AssignedStation.objects.filter(live=True, station__in=stations).exclude(assignment=assignment)
        said = (
            ", ".join(
                f"{place.station} ({place.assignment.task})"
                for place in taken.select_related("station", "assignment__task")
            )
            or "a station"
        )
        raise Conflict(
            f"Already assigned: {said}. End that assignment or run first, or leave these stations out."
        ) from None
    _after_assignment_change(assignment)
    return assignment


def _refuse_unable(task: Task, stations: list[Station]) -> None:
    wanted = task_families.get_task(task.family).embodiment
    for station in stations:
        body = station.embodiment.get("name", wanted)
        if body != wanted:
            raise Invalid(f"{station} has the body {body}, but {task.name} needs {wanted}; leave this station out.")


def _take_from_waiting_assignments(task: Task, stations: list[Station]) -> None:
    """A run takes over stations that a manager assigned to its task and that no run uses yet."""
    places = AssignedStation.objects.filter(
        live=True, station__in=stations, assignment__run=None, assignment__task=task, assignment__state="queued"
    )
    emptied = set(places.values_list("assignment_id", flat=True))
    places.update(live=False)
    for assignment in Assignment.objects.filter(pk__in=emptied).exclude(places__live=True):
        move_assignment(assignment=assignment, to="canceled")


@transaction.atomic
def start_assignment(*, assignment: Assignment, run) -> None:
    """Put a run behind a waiting assignment."""
    moved = Assignment.objects.filter(pk=assignment.pk, state="queued", run=None).update(run=run, state="underway")
    if not moved:
        raise Conflict("This assignment already has a run or has ended; choose another one.")
    assignment.refresh_from_db()
    _after_assignment_change(assignment)


def move_assignment(*, assignment: Assignment, to: str) -> bool:
    """Change its state if the transition table allows it from whatever it is now; False where it doesn't."""
    sources = [state for state, targets in Assignment.TRANSITIONS.items() if to in targets]
    ended = timezone.now() if to not in Assignment.LIVE else None
    return bool(Assignment.objects.filter(pk=assignment.pk, state__in=sources).update(state=to, ended_at=ended))


@transaction.atomic
def end_assignment(*, assignment: Assignment, state: str) -> None:
    """Complete or cancel it: its stations become free, and idle at the end of their episodes."""
    if not move_assignment(assignment=assignment, to=state):
        return
    stations = [place.station for place in assignment.places.filter(live=True).select_related("station__lab")]
    assignment.places.filter(live=True).update(live=False)
    if assignment.run_id:
        Lease.objects.filter(run_id=assignment.run_id, released_at=None).update(released_at=timezone.now())
    for station in stations:
        order_station(station=station)
        show_card(station)


def cancel_assignment(*, assignment: Assignment, user) -> None:
    if assignment.run is not None and assignment.run.is_live:
        raise Conflict(f"The run {assignment.run} practises on it; cancel the run, which frees the stations.")
    if assignment.state not in Assignment.LIVE:
        raise Conflict(f"It is {assignment.state} already.")
    audit.info("%s cancels assignment %s", user, assignment.pk)
    end_assignment(assignment=assignment, state="canceled")


def _after_assignment_change(assignment: Assignment) -> None:
    for place in assignment.places.filter(live=True).select_related("station__lab"):
        if assignment.run_id:
            station = Station.objects.select_for_update().get(pk=place.station_id)
            if not station.taken_over:  # else the run gets it at the hand-back
                grant_lease(station=station, run=assignment.run)
        order_station(station=place.station)
        show_card(place.station)


# What a station is told


def list_orders(*, station: Station) -> list[dict]:
    """What the station should be doing now, in messages of the link protocol; saying it twice does no harm."""
    assignment = station.live_assignment()
    run = assignment.run if assignment else None
    if run is None or not run.practises():
        return [{"type": "assignment", "assignment": None, "run": None, "task": None, "purpose": "practice"}]
    task = {"name": assignment.task.family, "time_limit_steps": assignment.task.time_limit_steps}
    orders = [{"type": "assignment", "assignment": assignment.pk, "run": run.pk, "task": task, "purpose": "practice"}]
    policy = run.published_policy()
    if policy is not None:
        orders.append(run.policy_message(policy))
    if run.holding:
        orders.append({"type": "hold", "version": run.open_version})
    return orders


def order_station(*, station: Station) -> None:
    """Tell the station on commit what it should be doing; an offline one is told when it connects."""
    transaction.on_commit(
        lambda: tell_station_on_commit(station.command_group, *list_orders(station=station)), robust=True
    )


def order_stations_of_run(*, run) -> None:
    places = AssignedStation.objects.filter(live=True, assignment__run=run, station__connected=True)
    for place in places.select_related("station__lab"):
        order_station(station=place.station)


def tell_stations_of_run(*, run, message: dict) -> None:
    for station in Station.objects.filter(places__live=True, places__assignment__run=run, connected=True):
        tell_station_on_commit(station.command_group, message)

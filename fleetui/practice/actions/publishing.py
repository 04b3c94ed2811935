"""What stations are told of their run, and what they answer: orders, published policies, who has loaded them.

A checkpoint that the learner publishes goes to every station of its run here; with the last one that acts with it the
publication has reached everyone.
"""

import uuid as uuids
from dataclasses import replace
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from fleetui import access
from fleetui.fleet.actions import reports
from fleetui.fleet.actions.cards import emit_card
from fleetui.fleet.models import AssignedStation, Assignment, Station, Task
from fleetui.learning import actions as learning_actions
from fleetui.learning.models import Checkpoint, Run
from fleetui.messages import CheckpointsChanged, send_on_commit, tell_station_on_commit
from fleetui.practice import selectors
from robots.protocol import Assignment as AssignmentMessage
from robots.protocol import Hold, Message


@transaction.atomic
def welcome_station(
    *, station: Station, embodiment: dict[str, Any], software: str = "", renderer: str = "", teleoperator: str = ""
) -> list[Message]:
    """A station said hello. Returns what it is told: welcome, then its orders."""
    welcome = reports.connect_station(
        station=station, embodiment=embodiment, software=software, renderer=renderer, teleoperator=teleoperator
    )
    return [welcome, *list_orders(station=station)]


def list_orders(*, station: Station) -> list[Message]:
    """What the station should be doing now, in messages of the link protocol; saying it twice does no harm.

    None of them is a command: a command is a person's word, with the epoch of a lease, and a station refuses it while
    somebody else is in control. What the server decides by itself has to reach it all the same.
    """
    settings = station.settings_json()
    del settings["speed"]  # a person's command alone
    assignment = station.live_assignment()
    if assignment is not None and assignment.checkpoint is not None and not station.maintenance:
        return _orders_of_evaluation(station, assignment, assignment.checkpoint, settings)
    run = assignment.run if assignment else None
    if assignment is None or run is None or not run.practises() or station.maintenance:
        return [AssignmentMessage(settings=settings)]
    task = assignment.task.order_json()
    orders: list[Message] = [AssignmentMessage(settings=settings, assignment=assignment.pk, run=run.pk, task=task)]
    policy = run.published_policy()
    if policy is not None:
        orders.append(run.policy_message(policy))
    if run.holding:
        orders.append(Hold(version=run.open_version))
    return orders


def _orders_of_evaluation(
    station: Station, assignment: Assignment, checkpoint: Checkpoint, settings: dict[str, Any]
) -> list[Message]:
    """Its share of the attempts, and the policy. To the station it is no run's: it must neither act with the policy
    that it practised with, nor wait for a newer one.
    """
    made, attempts = selectors.shares_of_attempts(assignment).get(station.pk, (0, 0))  # it may end meanwhile
    order = AssignmentMessage(
        purpose="evaluation",
        settings=settings,
        assignment=assignment.pk,
        run=f"evaluation {assignment.pk}",
        task=assignment.task.order_json(),
        attempts=attempts,
        made=made,
    )
    # Its attempts are judged by one detector, whatever is published meanwhile.
    return [order, checkpoint.run.policy_message(checkpoint, assignment.started_at)]


def order_station(*, station: Station, at_once: bool = False) -> None:
    """Tell the station on commit what it should be doing; an offline one is told when it connects. At once: the
    policy's attempt under way ends where it is.
    """

    def tell() -> None:
        order, *others = list_orders(station=station)
        assert isinstance(order, AssignmentMessage)  # the first says what to practise
        tell_station_on_commit(station.command_group, replace(order, at_once=at_once), *others)

    transaction.on_commit(tell, robust=True)


def order_stations_of_evaluation(*, assignment: Assignment) -> None:
    for place in assignment.places.filter(live=True, station__connected=True).select_related("station__lab"):
        order_station(station=place.station)


def order_stations_of_run(*, run: Run) -> None:
    places = AssignedStation.objects.filter(live=True, assignment__run=run, station__connected=True)
    for place in places.select_related("station__lab"):
        order_station(station=place.station)


def tell_stations_of_run(*, run: Run, message: Message) -> None:
    for station in Station.objects.filter(places__live=True, places__assignment__run=run, connected=True):
        tell_station_on_commit(station.command_group, message)


def tell_of_task(*, task: Task) -> None:
    """The task was edited: the stations that practise it, or draw from its words after a failure, hear of it; an
    attempt under way keeps its limits and its words.
    """
    told = Q(assignment__task=task) | Q(assignment__task__lab=task.lab_id, assignment__task__after_failure=task.family)
    for place in AssignedStation.objects.filter(told, live=True).select_related("station__lab"):
        order_station(station=place.station)


# Publication


@transaction.atomic
def publish_checkpoint(*, run: Run, checkpoint: Checkpoint) -> bool:
    """A new round begins: all stations of the run shall load this policy, and its episodes are counted from zero.
    False if it is published already, or the run is no longer this attempt's.
    """
    now = timezone.now()
    if not learning_actions.heartbeat_run(run=run) or not Checkpoint.objects.filter(
        pk=checkpoint.pk, published_at=None
    ).update(published_at=now):
        return False
    checkpoint.published_at = now
    Run.objects.filter(pk=run.pk).update(open_version=checkpoint.version, round_steps=0, holding=False)
    learning_actions.show_run(run=run)
    send_on_commit(run.topic, CheckpointsChanged([checkpoint.row()]))
    tell_stations_of_run(run=run, message=run.policy_message(checkpoint))
    return True


@transaction.atomic
def record_policy_loaded(*, station: Station, checkpoint_uuid: str) -> None:
    """A station acts with this checkpoint from now on; when it is the last one, the publication has reached
    everyone.
    """
    checkpoint = access.get_checkpoint_for_station(Checkpoint, station, uuid_or_none(checkpoint_uuid))
    Station.objects.filter(pk=station.pk).update(loaded_checkpoint=checkpoint)
    emit_card(station, {"version": checkpoint.version})
    # After the commit: of two stations that load at the same time, the later one must see the other.
    transaction.on_commit(lambda: record_loaded_everywhere(run=checkpoint.run), robust=True)


def record_loaded_everywhere(*, run: Run) -> bool:
    """Note the time at which every connected station of the run had loaded its newest policy; only the first time
    counts.
    """
    policy = run.published_policy()
    if policy is None or policy.loaded_everywhere_at is not None:
        return False
    stations = Station.objects.filter(
        places__live=True, places__assignment__run=run, connected=True, maintenance_since=None
    )
    loaded = set(stations.values_list("loaded_checkpoint_id", flat=True))
    if loaded != {policy.pk}:
        return False
    now = timezone.now()
    if not Checkpoint.objects.filter(pk=policy.pk, loaded_everywhere_at=None).update(loaded_everywhere_at=now):
        return False
    policy.loaded_everywhere_at = now
    send_on_commit(run.topic, CheckpointsChanged([policy.row()]))
    return True


def stop_waiting_for_station(*, station: Station) -> None:
    """It is gone or in maintenance: it may have been the last one that a publication waited for."""
    assignment = station.live_assignment()
    run = assignment.run if assignment else None
    if run is not None:
        transaction.on_commit(lambda: record_loaded_everywhere(run=run), robust=True)


def uuid_or_none(text: object) -> uuids.UUID | None:
    try:
        return uuids.UUID(str(text))
    except ValueError:
        return None

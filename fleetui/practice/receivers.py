"""What practice hears from below: the fleet and learning know nothing of it, and say what happened by their signals."""

from typing import Any

from django.dispatch import receiver

from fleetui.fleet.models import Lab, Station, Task
from fleetui.fleet.signals import maintenance_changed, queue_changed, station_left, task_edited
from fleetui.learning.models import Run
from fleetui.learning.signals import run_moved
from fleetui.practice.actions import assignments, dispatch, launching, publishing


@receiver(queue_changed)
def see_who_may_start(*, lab: Lab, **_: Any) -> None:
    dispatch.dispatch_on_commit(lab=lab)


@receiver(task_edited)
def tell_of_task(*, task: Task, **_: Any) -> None:
    publishing.tell_of_task(task=task)


@receiver(maintenance_changed)
def order_station(*, station: Station, **_: Any) -> None:
    publishing.order_station(station=station)


@receiver(station_left)
def stop_waiting_for_station(*, station: Station, **_: Any) -> None:
    publishing.stop_waiting_for_station(station=station)


@receiver(run_moved)
def follow_run(*, run: Run, **_: Any) -> None:
    assignments.follow_run(run=run)
    launching.give_stations_back(run=run)

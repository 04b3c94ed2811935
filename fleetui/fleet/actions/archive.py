"""What nobody needs any more: archived, it is hidden from lists and refused for new work, and can be brought back; only
what nothing refers to is deleted. Here the stations; learning/archive.py has datasets and runs.
"""

from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Model
from django.db.models.fields.reverse_related import ForeignObjectRel
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict
from fleetui.fleet.actions.attention import note_need
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.cards import show_card
from fleetui.fleet.actions.control import operator_of
from fleetui.fleet.actions.labs import lock_queue
from fleetui.fleet.models import Assignment, Lab, Station
from fleetui.fleet.signals import queue_changed
from fleetui.messages import CardChanged, TokenRenewed, send_on_commit, tell_station_on_commit
from robots.protocol import IN_EPISODE


@transaction.atomic
def archive_station(*, station: Station, user: User, source: str = "server") -> None:
    """Take it off the wall and out of use. Its connection ends, and its token opens none until it is brought back: a
    robot that nobody sees must not move. What it has spooled waits on its own disk.
    """
    access.check(user, station.lab, "archive_station")
    lock_queue(station.lab)
    station = _locked(station)
    if station.archived_at is not None:
        raise Conflict(f"{station} is archived already.")
    holder = operator_of(station)
    if holder is not None:
        raise Conflict(f"{holder} is in control of {station}; ask for a hand-back first.")
    if station.connected and (station.state in IN_EPISODE or station.taken_over):
        raise Conflict(f"{station} is {station.state.replace('_', ' ')}; pause it or hand it back first.")
    wanted = station.assignments.filter(state__in=Assignment.LIVE) | station.assignments.exclude(repeats="")
    if assignment := wanted.select_related("task").first():
        raise Conflict(
            f"An assignment of {assignment.task} uses {station}; cancel it first, and stop it from repeating."
        )
    Station.objects.filter(pk=station.pk).update(archived_at=timezone.now())
    note_need(station=station, need=None)
    record_act(lab=station.lab, kind="station_archived", user=user, station=station, source=source)
    tell_station_on_commit(station.command_group, TokenRenewed(old_works_s=0.0))
    _show_gone(station)
    queue_changed.send(sender=Lab, lab=station.lab)


@transaction.atomic
def restore_station(*, station: Station, user: User, source: str = "server") -> None:
    """Back on the wall, as it was: its token works again."""
    access.check(user, station.lab, "archive_station")
    station = _locked(station)
    if station.archived_at is None:
        raise Conflict(f"{station} is not archived.")
    Station.objects.filter(pk=station.pk).update(archived_at=None)
    station.refresh_from_db()
    record_act(lab=station.lab, kind="station_restored", user=user, station=station, source=source)
    show_card(station)
    queue_changed.send(sender=Lab, lab=station.lab)


@transaction.atomic
def delete_station(*, station: Station, user: User, source: str = "server") -> None:
    """For good; only an archived one that never did anything that is kept."""
    access.check(user, station.lab, "archive_station")
    station = _locked(station)
    refuse_deletion(station, own=("Act", "StationSpan"))
    record_act(lab=station.lab, kind="station_deleted", user=user, station=station, source=source)
    station.delete()


def _locked(station: Station) -> Station:
    return Station.objects.select_related("lab").select_for_update(of=("self",)).get(pk=station.pk)


def _show_gone(station: Station) -> None:
    payload = CardChanged({"slug": station.slug, "archived": True})
    send_on_commit(station.lab.wall_topic, payload)
    send_on_commit(station.topic, payload)


def refuse_deletion(row: Any, own: tuple[str, ...]) -> None:
    """Refused unless the row is archived and no other refers to it; `own` are the models whose rows are parts of it."""
    if row.archived_at is None:
        raise Conflict(f"{row} is in use; archive it first.")
    found = list_references(row, own)
    if found:
        listed = ", ".join(found)
        raise Conflict(f"{row} can't be deleted, because something still refers to it: {listed}.")


def list_references(row: Model, own: tuple[str, ...]) -> list[str]:
    """How many rows of each model refer to this one, in words, whichever models there will be."""
    found = []
    for relation in row._meta.get_fields(include_hidden=True):
        if not isinstance(relation, ForeignObjectRel) or relation.many_to_many:
            continue
        model = relation.related_model
        if model.__name__ not in own:
            count = model._base_manager.filter(**{relation.field.name: row.pk}).count()
            name = model._meta.verbose_name if count == 1 else model._meta.verbose_name_plural
            found += [f"{count} {name}"] if count else []
    return sorted(found)

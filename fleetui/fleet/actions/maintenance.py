"""Maintenance: a station is taken out of practice for a reason that all can read, until a person brings it back."""

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.cards import show_card
from fleetui.fleet.actions.control import command_station
from fleetui.fleet.actions.spans import note_state
from fleetui.fleet.models import Station
from fleetui.fleet.signals import maintenance_changed, station_left
from fleetui.messages import MaintenanceChanged, tell_station_on_commit


@transaction.atomic
def begin_maintenance(*, station: Station, user: User, reason: str, source: str = "server") -> None:
    """Take it out of practice: it is paused, its run goes on without it, and nobody is asked to look at it."""
    access.check(user, station.lab, "maintain")
    reason = reason.strip()
    if not reason:
        raise Invalid("Say why, so that others know why it stands still.", {"reason": "Say why, in a few words."})
    if len(reason) > 300:
        raise Invalid("The reason is too long.", {"reason": "At most 300 characters."})
    moved = Station.objects.filter(pk=station.pk, maintenance_since=None).update(
        maintenance_since=timezone.now(), maintenance_reason=reason
    )
    if not moved:
        raise Conflict(f"{station} is in maintenance already.")
    station.refresh_from_db()
    if not station.paused:
        command_station(user=user, lab_slug=station.lab.slug, station_slug=station.slug, name="pause", source=source)
        station.refresh_from_db()
    record_act(lab=station.lab, kind="maintenance_on", user=user, station=station, reason=reason, source=source)
    _after_maintenance_change(station)
    station_left.send(sender=Station, station=station)


@transaction.atomic
def end_maintenance(*, station: Station, user: User, source: str = "server") -> None:
    """Back among the others. It stays paused: whoever stands beside it resumes it."""
    access.check(user, station.lab, "maintain")
    since = station.maintenance_since
    moved = Station.objects.filter(pk=station.pk, maintenance_since__isnull=False).update(
        maintenance_since=None, maintenance_reason=""
    )
    if not moved:
        raise Conflict(f"{station} is not in maintenance any more.")
    station.refresh_from_db()
    details = {"minutes": round((timezone.now() - since).total_seconds() / 60)} if since else {}
    record_act(lab=station.lab, kind="maintenance_off", user=user, station=station, details=details, source=source)
    _after_maintenance_change(station)


def _after_maintenance_change(station: Station) -> None:
    note_state(station=station, state=station.state)
    maintenance_changed.send(sender=Station, station=station)
    # The consumer that speaks for the station shows its telemetry as maintenance; the station itself needs not know.
    tell_station_on_commit(station.command_group, MaintenanceChanged(on=station.maintenance))
    show_card(station)

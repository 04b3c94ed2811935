"""Who commands a station: from a person's act to the message that the station gets, with the lease, the record and the
touch that it is.
"""

import math
import time
import uuid as uuids
from datetime import timedelta

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_command
from fleetui.fleet.actions.cards import emit_card
from fleetui.fleet.models import Intervention, Lease, Station, severity
from fleetui.messages import tell_station_on_commit
from robots.control import ACTS

OPERATOR_LEASE = timedelta(seconds=30)  # renewed by driving; afterwards another operator may take over
# An offline station is told these on its return: they are kept in its row. Anything else needs it here.
KEPT_FOR_LATER = ("pause", "resume", "stop", "clear_stop", "speed", "settings")


def command_station(
    *,
    user,
    lab_slug: str,
    station_slug: str,
    name: str,
    args: dict | None = None,
    ttl_ms: int = 5000,
    command_id: str = "",
) -> dict:
    """The one way from a person to a station, for pages, API and sockets: role, lease, record, message. Returns
    {"id"}.
    """
    station = access.get_station(user, lab_slug, station_slug, "command")
    args = _checked_args(name, args or {})
    if not station.connected and name not in KEPT_FOR_LATER:
        raise Conflict(f"{station} is offline, so it can't {name.replace('_', ' ')}; start it and try again.")
    if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, int) or not 1 <= ttl_ms <= 60_000:
        raise Invalid("ttl_ms must be a whole number from 1 to 60000.")
    command_id = str(command_id or uuids.uuid4())[:80]
    with transaction.atomic():
        if name == "drive":
            _renew_operator_lease(station, user)
        else:
            station = Station.objects.select_related("lab").select_for_update(of=("self",)).get(pk=station.pk)
            _record_command(station, user, name, args)
            record_command(station, user, name, args)
        message = {
            "type": "command",
            "id": command_id,
            "name": name,
            "args": args,
            "ttl_ms": ttl_ms,
            "sent_at": time.time(),
        }
        tell_station_on_commit(station.command_group, message)
    return {"id": command_id}


def _checked_args(name: str, args: dict) -> dict:
    if name not in ACTS:
        raise Invalid(f"{name!r} is no command; known are {', '.join(ACTS)}.")
    if not isinstance(args, dict):
        raise Invalid("args must be an object.")
    known = {
        "speed": {"value"},
        "drive": {"dx", "dy"},
        "settings": {"self_reset_after_s", "shuffle_every_s"},
        "reset": {"reason"},
    }
    extra = set(args) - known.get(name, set())
    if extra:
        raise Invalid(f"{name} takes no {', '.join(sorted(extra))}.")
    if name == "speed" and (isinstance(args.get("value"), bool) or args.get("value") not in (0, 1, 4)):
        raise Invalid("speed takes value 1 (real time), 4, or 0 (as fast as it can).")
    if name == "drive" and not all(is_number(args.get(axis)) and -1 <= args[axis] <= 1 for axis in ("dx", "dy")):
        raise Invalid("drive takes dx and dy, numbers from -1 to 1.")
    if name == "settings":
        after, every = args.get("self_reset_after_s"), args.get("shuffle_every_s", 300.0)
        if after is not None and not (is_number(after) and 0 <= after <= 3600):
            raise Invalid(
                "self_reset_after_s is the seconds until the station resets itself, 0 to 3600, or null for never."
            )
        if not (is_number(every) and 1 <= every <= 86_400):
            raise Invalid("shuffle_every_s must be 1 to 86400 seconds.")
    return args


def _record_command(station: Station, user, name: str, args: dict) -> None:
    """Write what the command changes on this side: settings and latches, the lease, and the touch it is."""
    now = timezone.now()
    if name not in ("stop", "pause", "override"):  # a stop is anyone's; override checks the lease itself
        holder = _operator(station)
        if holder is not None and holder != user:
            raise Conflict(f"{holder} is in control of {station}; ask for a hand-back first.")
    changed = {}
    if name == "pause" and not station.paused:
        changed = {"paused": True}
        add_touch(station, user, "pause")
    elif name == "resume" and station.paused:
        changed = {"paused": False}
        end_touches(station, "pause")
    elif name == "stop" and not station.stop_latched:
        changed = {"stop_latched": True}
        add_touch(station, user, "stop", ended_at=now)
    elif name == "clear_stop" and station.stop_latched:
        changed = {"stop_latched": False, "paused": True}  # it moves again only after a resume
        add_touch(station, user, "clear_stop", ended_at=now)
    elif name == "speed":
        changed = {"speed": args["value"]}
    elif name == "settings":
        changed = dict(args)
    elif name == "reset":
        since = station.state_since if station.state == "needs_person" else now
        add_touch(
            station, user, "reset", started_at=since, ended_at=now, reason=station.reason or args.get("reason", "")
        )
    elif name == "end_episode":
        add_touch(station, user, "terminate", ended_at=now)
    elif name == "override":
        _take_control(station, user)
    if name in ("hand_back", "stop", "pause"):  # each of them ends an override at the station
        end_override(station)
    if changed:
        Station.objects.filter(pk=station.pk).update(**changed)
        for field, value in changed.items():
            setattr(station, field, value)
        urgent = severity(station.state, station.stop_latched)
        emit_card(station, changed | {"severity": urgent, "attention": urgent > 0})


def _operator(station: Station):
    """The user whose unexpired lease holds the station, if any."""
    lease = station.leases.filter(released_at=None, user__isnull=False).select_related("user").first()
    return None if lease is None or lease.has_expired() else lease.user


def _take_control(station: Station, user) -> None:
    live = station.leases.select_for_update().filter(released_at=None).first()
    if live is not None and live.user_id is not None:
        if live.user_id == user.pk:
            Lease.objects.filter(pk=live.pk).update(expires_at=timezone.now() + OPERATOR_LEASE)
            return
        if not live.has_expired():
            raise Conflict(f"{live.user} is in control of {station}; ask for a hand-back first.")
        end_touches(station, "override")
    grant_lease(station=station, user=user)
    add_touch(station, user, "override")


def end_override(station: Station) -> None:
    """An operator's lease and override end, if there are any; the run gets the station back."""
    if not station.leases.filter(released_at=None, user__isnull=False).update(released_at=timezone.now()):
        return
    end_touches(station, "override")
    assignment = station.live_assignment()
    if assignment and assignment.run and not station.leases.filter(released_at=None).exists():
        grant_lease(station=station, run=assignment.run)


def grant_lease(*, station: Station, user=None, run=None) -> Lease:
    """End the live lease and begin the next epoch; whoever still holds the old epoch has lost the station."""
    now = timezone.now()
    station.leases.filter(released_at=None).update(released_at=now)
    epoch = (station.leases.aggregate(top=Max("epoch"))["top"] or 0) + 1
    return Lease.objects.create(
        station=station, user=user, run=run, epoch=epoch, expires_at=now + OPERATOR_LEASE if user else None
    )


def _renew_operator_lease(station: Station, user) -> None:
    lease = station.leases.filter(released_at=None, user_id=user.pk).first()
    if lease is None:
        raise Conflict(f"You are not in control of {station}: take control (override) first.")
    if lease.expires_at - timezone.now() < OPERATOR_LEASE / 2:  # driving sends many commands a second
        Lease.objects.filter(pk=lease.pk).update(expires_at=timezone.now() + OPERATOR_LEASE)


def add_touch(station: Station, user, kind: str, *, started_at=None, ended_at=None, reason: str = "") -> Intervention:
    assignment = station.live_assignment()
    started_at = started_at or ended_at or timezone.now()
    return Intervention.objects.create(
        lab=station.lab,
        station=station,
        run=assignment.run if assignment else None,
        user=user,
        kind=kind,
        reason=reason[:300],
        started_at=started_at,
        ended_at=ended_at,
        seconds=(ended_at - started_at).total_seconds() if ended_at else 0.0,
    )


def end_touches(station: Station, kind: str) -> None:
    now = timezone.now()
    for touch in Intervention.objects.filter(station=station, kind=kind, ended_at=None):
        seconds = (now - touch.started_at).total_seconds()
        Intervention.objects.filter(pk=touch.pk).update(ended_at=now, seconds=seconds)


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

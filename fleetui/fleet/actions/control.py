"""Who commands a station: from a person's act to the message that the station gets, with the lease, the record and the
touch that it is. A stop alone goes its own way (stops.py).

An override is a lease of two seconds that its holder's browser renews. A software stop beats an override, an override
beats practice, and after an override that nobody ended the station waits (`taken_over`) until a person hands back.
Every command names the newest epoch; the station itself refuses an older one.
"""

import math
import time
import uuid as uuids
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from fleetui import access, stops
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_act, record_command
from fleetui.fleet.actions.cards import emit_card
from fleetui.fleet.models import Act, Intervention, Lease, Station
from fleetui.messages import tell_station_on_commit
from robots.control import ACTS
from robots.protocol import Command, Lapse
from robots.rules import SETTINGS, checked_settings

OPERATOR_LEASE = timedelta(seconds=2)  # from the newest sign of life; afterwards another person may take over
REASON_LIMIT = 300
DRIVE_TTL_MS = 300
MOST_AXES = 100  # of one drive: more than anybody holds
# An offline station is told these on its return: they are kept in its row. Anything else needs it here.
KEPT_FOR_LATER = ("pause", "resume", "clear_stop", "speed", "settings")


def command_station(
    *,
    user: User,
    lab_slug: str,
    station_slug: str,
    name: str,
    args: dict[str, Any] | None = None,
    ttl_ms: int = 5000,
    command_id: str = "",
    asked_at: float | None = None,
    source: str = "server",
) -> dict[str, Any]:
    """The one way from a person to a station, for pages, API and sockets: role, lease, record, message. Returns {"id",
    "epoch"}: of an override, the epoch of the lease that it got. `asked_at` (monotonic) is when the person asked, where
    that was earlier: a stop that was given since is not cleared.
    """
    asked_at = time.monotonic() if asked_at is None else asked_at
    args = checked_args(name, args or {})
    if name == "stop":
        raise ValueError("a stop goes its own way: stop_stations")
    station = access.get_row(Station, user, lab_slug, "command", slug=station_slug)
    if not station.connected and name not in KEPT_FOR_LATER:
        raise Conflict(f"{station} is offline, so it can't {name.replace('_', ' ')}; start it and try again.")
    if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, int) or not 1 <= ttl_ms <= 60_000:
        raise Invalid("ttl_ms must be a whole number from 1 to 60000.")
    command_id = str(command_id or uuids.uuid4())[:80]
    with ExitStack() as until_committed, transaction.atomic():
        if name == "drive":
            ttl_ms = min(ttl_ms, DRIVE_TTL_MS)
            epoch = _renew_by_driving(station, user)
        else:
            station = Station.objects.select_related("lab").select_for_update(of=("self",)).get(pk=station.pk)
            _refuse_others(station, user)
            epoch = newest_epoch(station)
            if name == "override" and station.stop_latched:
                raise Conflict(f"{station} is stopped; clear the stop first, then take control.")
            if name == "teleoperate":
                _refuse_teleoperation(station, user, args)
            if name == "clear_stop":
                _refuse_newer_stop(station, asked_at)
                until_committed.enter_context(stops.clearing(station.lab.slug, station.slug, asked_at))
            if name == "override":
                epoch = _take_control(station, user).epoch
            _change_rows(station, user, name, args)
            record_command(station, user, name, args, source=source)
            if name == "settings":  # a task's own go before what was set here, also where that was set just now
                args = {each: value for each, value in station.settings_json().items() if each in args}
            if name == "clear_stop":
                args = args | {"stop": station.stopped_by or stops.EARLIER}  # the station refuses to clear another
        _tell_command(station, user, command_id, name, args, ttl_ms, epoch)
    return {"id": command_id, "epoch": epoch}


def _tell_command(
    station: Station, user: User, command_id: str, name: str, args: dict[str, Any], ttl_ms: int, epoch: int
) -> None:
    message = Command(
        id=command_id,
        name=name,
        args=args,
        ttl_ms=ttl_ms,
        sent_at=time.time(),
        epoch=max(epoch, 1),
        by=user.get_username(),
    )
    tell_station_on_commit(station.command_group, message)


def checked_args(name: str, args: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(name, str) or name not in ACTS:
        raise Invalid(f"{name!r} is no command; known are {', '.join(ACTS)}.")
    if not isinstance(args, dict):
        raise Invalid("args must be an object.")
    known = {
        "speed": {"value"},
        "drive": {"axes"},
        "teleoperate": {"on"},
        "settings": set(SETTINGS) - {"speed"},
        "reset": {"reason"},
        "clear_stop": {"reason"},
        "move_keypoint": {"number", "x", "y"},
    }
    extra = set(args) - known.get(name, set())
    if extra:
        raise Invalid(f"{name} takes no {', '.join(sorted(extra))}.")
    if name == "speed":
        args = {"value": _checked_settings({"speed": args.get("value")})["speed"]}
    if name == "drive":
        axes = args.get("axes")
        if (
            not isinstance(axes, dict)
            or not 0 < len(axes) <= MOST_AXES
            or not all(is_number(value) and -1 <= value <= 1 for value in axes.values())
        ):
            raise Invalid('drive takes axes, numbers from -1 to 1 by the body\'s drive axes, as in {"x": 0.5}.')
    if name == "teleoperate" and not isinstance(args.get("on"), bool):
        raise Invalid("teleoperate takes on: true for the station's own device, false for the page.")
    if name == "move_keypoint":
        places = [args.get("x"), args.get("y")]
        if type(args.get("number")) is not int or not all(is_number(each) for each in places):
            raise Invalid("move_keypoint takes number, from 0 on, and x and y in metres on the table.")
    if name == "settings":
        args = _checked_settings(args)
    if name == "clear_stop":
        args = {"reason": checked_reason(args.get("reason"), "why the stop may be cleared")}
    return args


def _checked_settings(given: dict[str, Any]) -> dict[str, Any]:
    values, problems = checked_settings(given)
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    return values


def checked_reason(reason: object, what: str) -> str:
    reason = reason.strip() if isinstance(reason, str) else ""
    if not 1 <= len(reason) <= REASON_LIMIT:
        raise Invalid(f"Say {what}, in 1 to {REASON_LIMIT} characters.", {"reason": f"1 to {REASON_LIMIT} characters."})
    return reason


def _refuse_others(station: Station, user: User) -> None:
    """While a person holds the station nobody else commands it; but anybody may stop it (stops.py)."""
    holder = operator_of(station)
    if holder is not None and holder != user:
        raise Conflict(f"{holder} is in control of {station}; ask for a hand-back first.")


def _refuse_teleoperation(station: Station, user: User, args: dict[str, Any]) -> None:
    if operator_of(station) != user:
        raise Conflict(f"You are not in control of {station}: take control (override) first.")
    if args["on"] and not station.teleoperator:
        raise Conflict(f"{station} has no device of its own to be driven by; drive it from its page.")


def _change_rows(station: Station, user: User, name: str, args: dict[str, Any]) -> None:
    """Write what the command changes on this side: settings and latches, the touch it is, the end of an override."""
    now = timezone.now()
    changed = {}
    if name == "pause" and not station.paused:
        changed = {"paused": True}
        add_touch(station, user, "pause")
    elif name == "resume" and station.paused:
        changed = {"paused": False}
        end_touches(station, "pause")
    elif name == "clear_stop" and station.stop_latched:
        changed = {"stop_latched": False, "paused": True}  # it moves again only after a resume
        add_touch(station, user, "clear_stop", ended_at=now, reason=args["reason"])
    elif name == "speed":
        changed = {"speed": args["value"]}
    elif name == "settings":
        changed = dict(args)
    elif name == "reset":
        since = station.state_since if station.state == "needs_person" else now
        add_touch(
            station, user, "reset", started_at=since, ended_at=now, reason=station.reason or args.get("reason", "")
        )
    elif name == "move_keypoint":
        add_touch(station, user, "keypoint", ended_at=now)
    elif name == "end_episode":
        add_touch(station, user, "terminate", ended_at=now)
    if name in ("hand_back", "pause"):  # each of them ends an override at the station, as a stop does
        end_override(station)
    if changed:
        _write(station, changed)


def _refuse_newer_stop(station: Station, asked_at: float) -> None:
    """Whoever clears a stop has looked at what was before it: one that came since is another's."""
    since = timezone.now() - timedelta(seconds=time.monotonic() - asked_at)
    recorded = Act.objects.filter(station=station, kind__in=("stop", "stop_all"), at__gt=since)
    if stops.newer(station.lab.slug, station.slug, asked_at) or recorded.exists():
        raise Conflict(f"{station} was stopped again meanwhile; look at it, then clear that stop.")


def latch_stop(station: Station, user: User | None, stop: str) -> None:
    """Write the latch of the stop with this id, and what comes with it; `user` None: the station told of it."""
    if not station.stop_latched:
        add_touch(station, user, "stop", ended_at=timezone.now())
    end_override(station)
    _write(station, {"stop_latched": True, "stopped_by": stop})


def _write(station: Station, changed: dict[str, Any]) -> None:
    Station.objects.filter(pk=station.pk).update(**changed)
    for field, value in changed.items():
        setattr(station, field, value)
    urgent = station.severity
    shown = {name: value for name, value in changed.items() if name != "stopped_by"}
    emit_card(station, shown | {"severity": urgent, "attention": urgent > 0})


def operator_of(station: Station) -> User | None:
    """The user whose unexpired lease holds the station, if any."""
    lease = station.leases.filter(released_at=None, user__isnull=False).select_related("user").first()
    return None if lease is None or lease.has_expired() else lease.user


def newest_epoch(station: Station) -> int:
    return station.leases.aggregate(top=Max("epoch"))["top"] or 0


def _take_control(station: Station, user: User) -> Lease:
    """A new epoch each time, for the same person too: whatever was sent before belongs to an older one."""
    end_touches(station, "override")
    lease = grant_lease(station=station, user=user)
    Station.objects.filter(pk=station.pk).update(taken_over=True)
    add_touch(station, user, "override")
    emit_card(station, {"holder": user.get_username()})
    return lease


def renew_control(
    *, user: User, lab_slug: str, station_slug: str, epoch: int, heard_at: datetime | None = None
) -> None:
    """A sign of life of the browser that holds the station, by when it was heard: a slow database makes no lease
    longer. Refused once the lease has ended or the role is gone.
    """
    station = access.get_row(Station, user, lab_slug, "command", slug=station_slug)
    now = timezone.now()
    lease = station.leases.filter(user_id=user.pk, epoch=epoch, released_at=None, expires_at__gt=now)
    if not lease.update(expires_at=(heard_at or now) + OPERATOR_LEASE):
        raise Conflict(f"You are not in control of {station} any more; take control (override) again.")


def _renew_by_driving(station: Station, user: User) -> int:
    lease = station.leases.filter(released_at=None, user_id=user.pk).first()
    if lease is None:
        raise Conflict(f"You are not in control of {station}: take control (override) first.")
    renew_control(user=user, lab_slug=station.lab.slug, station_slug=station.slug, epoch=lease.epoch)
    return lease.epoch


def lapse_control(
    *,
    station: Station,
    epoch: int | None = None,
    why: str = "nothing was heard from its browser",
    source: str = "server",
) -> bool:
    """The holder is gone: the lease ends and the station holds still until a person takes over or hands back. With an
    epoch, only if that one is still the live one.
    """
    with transaction.atomic():
        live = station.leases.select_for_update(of=("self",)).filter(released_at=None, user__isnull=False)
        lease = live.select_related("user").first()
        if lease is None or epoch not in (None, lease.epoch):
            return False
        Lease.objects.filter(pk=lease.pk).update(released_at=timezone.now())
        end_touches(station, "override")
        emit_card(station, {"holder": ""})
        tell_station_on_commit(station.command_group, Lapse(epoch=lease.epoch))
        assert lease.user is not None  # only a person's was asked for
        details = {"whose": lease.user.get_username(), "why": why}
        record_act(lab=station.lab, kind="override_ended", station=station, details=details, source=source)
    return True


def lapse_expired_control() -> None:
    """Whoever took control without a socket, or through a web process that was killed, is told of by the clock."""
    for lease in Lease.objects.filter(
        released_at=None, user__isnull=False, expires_at__lt=timezone.now()
    ).select_related("station__lab"):
        lapse_control(station=lease.station, epoch=lease.epoch)


def undo_override(*, station: Station, epoch: int) -> None:
    """The station did not do it, so nobody holds it and the policy was never interrupted."""
    with transaction.atomic():
        station = Station.objects.select_related("lab").select_for_update(of=("self",)).get(pk=station.pk)
        if station.leases.filter(released_at=None, user__isnull=False, epoch=epoch).exists():
            end_override(station)


def end_override(station: Station) -> None:
    """By a person's word: the lease ends, if one is left, and the run gets the station back."""
    if station.leases.filter(released_at=None, user__isnull=False).update(released_at=timezone.now()):
        end_touches(station, "override")
    Station.objects.filter(pk=station.pk).update(taken_over=False)
    emit_card(station, {"holder": ""})
    assignment = station.live_assignment()
    if assignment and assignment.run and not station.leases.filter(released_at=None).exists():
        grant_lease(station=station, run=assignment.run)


def grant_lease(*, station: Station, user: User | None = None, run: Any = None) -> Lease:
    """End the live lease and begin the next epoch; whoever still holds the old epoch has lost the station."""
    now = timezone.now()
    station.leases.filter(released_at=None).update(released_at=now)
    return Lease.objects.create(
        station=station,
        user=user,
        run=run,
        epoch=newest_epoch(station) + 1,
        expires_at=now + OPERATOR_LEASE if user else None,
    )


def add_touch(
    station: Station,
    user: User | None,
    kind: str,
    *,
    started_at: datetime | None = None,
    ended_at: datetime | None = None,
    reason: str = "",
) -> Intervention:
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


def is_number(value: object) -> bool:
    return math.isfinite(value) if isinstance(value, float) else isinstance(value, int) and not isinstance(value, bool)

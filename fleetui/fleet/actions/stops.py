"""The software stop: told to the stations first, by a path that needs neither PostgreSQL nor Valkey, then recorded.

The answer names each station: confirmed (it said that it stopped), told (its socket got it) or unreachable. What could
not be recorded within a second is said and tried again until it is (fleetui/stops.py has the path itself).
"""

import logging
import time
import uuid as uuids
from concurrent.futures import TimeoutError as NotInTime

from django.db import Error, transaction
from django.utils import timezone

from fleetui import access, stops
from fleetui.access import NotFound
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.control import latch_stop
from fleetui.fleet.models import Station

log = logging.getLogger(__name__)

ANSWERED_WITHIN_S = 1.0  # a stop's answer waits so long for the stations, and for PostgreSQL
FRESH_S = 3.0  # a role that was read so short a time ago needs no question; open pages ask every 1.5 s
LATE_REASON = "it is stopped, though no stop was recorded: it was told to stop while nothing could be recorded"


class Unknown(access.Refused):
    """Nobody can say who this is: the database is away, and no page of theirs is open."""

    status = 503


def get_stopper(session_key: str):
    """Who is logged in by this session; None where nobody is. Asked of memory where a page of theirs was seen just now,
    else of the database, for a second, else of memory.
    """
    known = access.get_known(session_key)
    if known is not None and time.monotonic() - known.read_at <= FRESH_S:
        return known.user
    try:
        user = stops.in_daemon(access.read_session, session_key).result(ANSWERED_WITHIN_S)
        return user if user.is_authenticated else None
    except (Error, NotInTime):
        if known is None:
            raise Unknown(
                "The database does not answer, so nobody can say who you are. Press stop on a page that is open, or "
                "use the robot's own emergency stop."
            ) from None
        return known.user


def stop_stations(
    *, user, lab_slug: str, station_slug: str | None = None, order_id: str = "", session: str = ""
) -> dict:
    """Stop one station, or all of the lab. A repeated `order_id` is the same stop. Returns {"id", "stopped": how many
    confirmed it, "recorded": bool, "stations": [{"station", "name", "outcome", "silent_s"}], "detail": sentence}.
    """
    _check_role(user, lab_slug, session)
    order_id = str(order_id or uuids.uuid4())[:80]
    order, new = stops.get_order(order_id, lab_slug, station_slug, user.get_username())
    stops.tell(order)  # a repeated one too: it may be repeated because it did not arrive
    if new:
        stops.record_soon(order, lambda order: _record(order, user))
        stops.tell_others(order)
    began = time.monotonic()

    def is_over():
        here = {row["slug"] for row in order.rows if row["connected"]}
        return order.failed or order.recorded and here <= order.confirmed

    order.wait(is_over, ANSWERED_WITHIN_S)
    if isinstance(order.failed, access.Refused) and not order.told:
        raise order.failed
    log.info("%s stopped %s: %.0f ms", user, station_slug or "all", 1000 * (time.monotonic() - began))
    return _answer(order)


def _check_role(user, lab_slug: str, session: str) -> None:
    known = access.get_known(session)
    if known is not None and known.user.pk == user.pk and time.monotonic() - known.read_at <= FRESH_S:
        access.check_role(known.roles.get(lab_slug), lab_slug, "command")
        return
    try:
        stops.in_daemon(access.get_lab, user, lab_slug, "command").result(ANSWERED_WITHIN_S)
    except (Error, NotInTime):
        if known is None or known.user.pk != user.pk:
            raise Unknown(
                "The database does not answer, so nobody can say what you may do. Use the robot's own emergency stop."
            ) from None
        access.check_role(known.roles.get(lab_slug), lab_slug, "command")


def _record(order: stops.Order, user) -> None:
    """Latch each station, connected or not, with its audit event; all of them or none."""
    lab = access.get_lab(user, order.lab, "command")
    with transaction.atomic():
        stations = Station.objects.select_related("lab").select_for_update(of=("self",)).order_by("pk")
        stations = stations.filter(lab=lab, archived_at=None)
        if order.station is not None:
            stations = stations.filter(slug=order.station)
        rows = list(stations)
        if order.station is not None and not rows:
            raise NotFound(f"{lab.name} has no station {order.station!r}.")
        now = timezone.now()
        order.rows = [
            {
                "slug": station.slug,
                "name": station.name,
                "connected": station.connected,
                "silent_s": (now - station.last_seen).total_seconds() if station.last_seen else None,
            }
            for station in rows
        ]
        transaction.on_commit(lambda: stops.note_recorded(order))
        for station in rows:
            cleared = station.slug in order.told and (lab.slug, station.slug) not in stops.unrecorded
            if not cleared:  # a person cleared it before it could be written down
                latch_stop(station, user, order.id)
            kind = "stop" if order.station is not None else "stop_all"
            record_act(lab=lab, kind=kind, user=user, station=station, details={"stop": order.id})


def _answer(order: stops.Order) -> dict:
    here = {link.slug: link for link in list(stops.links.values()) if link.lab == order.lab}
    rows = order.rows or [{"slug": slug, "name": name, "silent_s": None} for slug, name in order.told.items()]
    if not rows and order.station is not None:
        rows = [{"slug": order.station, "name": order.station, "silent_s": None}]
    stations = []
    for row in rows:
        slug = row["slug"]
        outcome = "confirmed" if slug in order.confirmed else "told" if slug in order.told else "unreachable"
        silent_s = here[slug].silent_s() if slug in here else row["silent_s"]
        stations.append(
            {
                "station": slug,
                "name": row["name"],
                "outcome": outcome,
                "silent_s": None if silent_s is None else round(silent_s, 1),
            }
        )
    detail = "" if order.recorded else "Told, not recorded: the database does not answer now. It is tried again."
    return {
        "id": order.id,
        "stopped": len(order.confirmed),
        "recorded": order.recorded,
        "stations": stations,
        "detail": detail,
    }


def record_found_stopped(*, station: Station, stop: str) -> None:
    """A station says that it is stopped, and its row knows of no stop: what was told before it could be recorded."""
    with transaction.atomic():
        station = Station.objects.select_related("lab").select_for_update(of=("self",)).get(pk=station.pk)
        if station.stop_latched:
            return
        latch_stop(station, None, stop)
        details = {"stop": stop} if stop else {}
        record_act(lab=station.lab, kind="stop", station=station, reason=LATE_REASON, details=details, by_station=True)

"""The software stop: told to the stations first, by a path that needs neither PostgreSQL nor Valkey, then recorded.

The answer names each station: confirmed (it said that it stopped), told (its socket got it), unreachable, or cleared (a
person cleared it since). What could not be recorded within a second is said and tried again until it is
(fleetui/stops.py has the path itself).
"""

import uuid as uuids
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotInTime
from typing import Any

from django.contrib.auth.models import User
from django.db import Error, transaction
from django.utils import timezone

from fleetui import access, stops
from fleetui.access import Conflict, NotFound
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.control import latch_stop
from fleetui.fleet.models import Lab, Station

ANSWERED_WITHIN_S = 1.0  # a stop's answer waits so long for the stations, and for PostgreSQL
LATE_REASON = "it is stopped, though no stop was recorded: it was told to stop while nothing could be recorded"


class Unknown(access.Refused):
    """Nobody can say who this is: the database is away, and no page of theirs was open just now."""

    status = 503
    code = "unknown_person"


def get_stopper(key: str, read: Callable[[str], access.Known | None] = access.read_known) -> access.Known | None:
    """Who is logged in by this session, with the roles; None where nobody is. Where a page of theirs is open, memory
    knows: the page's socket closes when the log-in or a role ends. Else the database is asked, for a second. A program
    is known by a key of its own, and `read` asks for it.
    """
    known = access.get_known(key)
    if known is not None and known.pages:
        return known
    try:
        found: access.Known | None = stops.in_daemon(read, key).result(ANSWERED_WITHIN_S)
        return found
    except (Error, NotInTime):
        if known is None:
            raise Unknown(
                "The database does not answer, so nobody can say who you are. Press stop on a page that is open, or "
                "use the robot's own emergency stop."
            ) from None
        return known


def stop_stations(
    *,
    user: User,
    lab_slug: str,
    station_slug: str | None = None,
    order_id: str = "",
    roles: dict[str, str] | None = None,
    source: str = "server",
) -> dict[str, Any]:
    """Stop one station, or all of the lab. A repeated `order_id` is the same stop, and stops no station again at which
    a person has cleared it. `roles` are the user's as known without the database. Returns {"id", "stopped": how many
    confirmed it, "recorded": bool, "stations": [{"station", "name", "outcome", "silent_s"}], "complete": whether these
    are all, "detail": sentence}.
    """
    if roles is not None:
        access.check_role(roles.get(lab_slug), lab_slug, "command")
    else:
        access.get_lab(user, lab_slug, "command")
    order_id = str(order_id or uuids.uuid4())[:80]
    order, new = stops.get_order(order_id, lab_slug, station_slug, user.get_username())
    stops.tell(order)  # a repeated one too: it may be repeated because it did not arrive
    if new or order.failed:
        order.failed = None
        stops.record_soon(order, lambda order: _record(order, user, source=source))
    if not _is_over(order):
        stops.tell_others(order)
    order.wait(lambda: order.failed is not None or _is_over(order), ANSWERED_WITHIN_S)
    if isinstance(order.failed, access.Refused) and not order.told:
        raise order.failed
    answer = _answer(order)
    if not new and answer["stations"] and all(row["outcome"] == "cleared" for row in answer["stations"]):
        raise Conflict("This stop was cleared since. To stop again, give a new stop: with another id.")
    return answer


def _is_over(order: stops.Order) -> bool:
    here = {row["slug"] for row in order.rows if row["connected"]}
    return order.recorded and here <= order.confirmed | order.cleared


def _record(order: stops.Order, user: User, *, source: str) -> None:
    """Latch each station, connected or not, with its audit event; all of them or none."""
    lab = Lab.objects.filter(slug=order.lab).first()  # whoever gave it was asked for the role then
    if lab is None:
        raise NotFound(f"There is no lab {order.lab!r}.")
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
            if station.slug not in order.cleared:  # a person may have cleared it before it could be written down
                latch_stop(station, user, order.id)
            kind = "stop" if order.station is not None else "stop_all"
            record_act(lab=lab, kind=kind, user=user, station=station, details={"stop": order.id}, source=source)


def _answer(order: stops.Order) -> dict[str, Any]:
    links = {link.slug: link for link in list(stops.links.values()) if link.lab == order.lab}
    known = {slug: name for (lab, slug), name in list(stops.names.items()) if lab == order.lab}
    if order.station is not None:
        known = {order.station: known.get(order.station, order.station)}
    rows = order.rows or [{"slug": slug, "name": name, "silent_s": None} for slug, name in (known | order.told).items()]
    stations = []
    for row in rows:
        slug = row["slug"]
        outcome = "told" if slug in order.told else "unreachable"
        for word, slugs in (("confirmed", order.confirmed), ("cleared", order.cleared)):
            outcome = word if slug in slugs else outcome
        silent_s = links[slug].silent_s() if slug in links else row["silent_s"]
        silent_s = None if silent_s is None else round(silent_s, 1)
        stations.append({"station": slug, "name": row["name"], "outcome": outcome, "silent_s": silent_s})
    detail = ""
    if order.failed:
        detail = f"Told, not recorded: {order.failed} Give the stop again."
    elif not order.recorded:
        detail = "Told, not recorded: the database does not answer now. It is tried again."
    return {
        "id": order.id,
        "stopped": len(order.confirmed - order.cleared),
        "recorded": order.recorded,
        "stations": stations,
        "complete": bool(order.rows or known),
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
        record_act(lab=station.lab, kind="stop", station=station, reason=LATE_REASON, details=details, source="station")

"""After a stop of the whole lab: bring many stations back in one act each, clear and then resume.

The caller names the stations, as the person saw them listed. Each is commanded, recorded and refused by itself; what
one refuses keeps no other from it, and all that was done is done in one transaction.
"""

import time
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from fleetui import access
from fleetui.access import Conflict, Invalid, Refused
from fleetui.fleet.actions.control import checked_args, command_station
from fleetui.fleet.models import Station


def clear_stops(
    *, user: User, lab_slug: str, stations: list[str], reason: str, source: str = "server"
) -> dict[str, Any]:
    """Clear the software stop of these stations, which stay paused. Returns {"done": [slug], "refused": {slug: why}}"""
    return _command_each(
        user, lab_slug, stations, "clear_stop", checked_args("clear_stop", {"reason": reason}), source=source
    )


def resume_stations(*, user: User, lab_slug: str, stations: list[str], source: str = "server") -> dict[str, Any]:
    """Let these paused stations go on. Returns {"done": [slug], "refused": {slug: why}}"""
    return _command_each(user, lab_slug, stations, "resume", {}, source=source)


@transaction.atomic
def _command_each(
    user: User, lab_slug: str, slugs: list[str], name: str, args: dict[str, Any], *, source: str
) -> dict[str, Any]:
    asked_at = time.monotonic()
    lab = access.get_lab(user, lab_slug, "command")
    if not slugs:
        raise Invalid("Name at least one station.", {"stations": "Name at least one station."})
    # All rows at once and in the order of a stop of all: two such acts at a time must not wait for each other for ever.
    rows = Station.objects.select_for_update().filter(lab=lab, slug__in=slugs).order_by("pk")
    found = {row.slug: row for row in rows}
    done, refused = [], {}
    for slug in dict.fromkeys(slugs):
        try:
            if slug not in found:
                raise Conflict(f"{lab.name} has no station {slug!r}.")
            _refuse_needless(found[slug], name)
            command_station(
                user=user, lab_slug=lab_slug, station_slug=slug, name=name, args=args, asked_at=asked_at, source=source
            )
            done.append(slug)
        except Refused as error:
            refused[slug] = str(error)
    return {"done": done, "refused": refused}


def _refuse_needless(station: Station, name: str) -> None:
    if name == "clear_stop" and not station.stop_latched:
        raise Conflict(f"{station} is not stopped.")
    if name == "resume" and station.stop_latched:
        raise Conflict(f"{station} is stopped; clear its stop first.")
    if name == "resume" and not station.paused:
        raise Conflict(f"{station} is not paused.")

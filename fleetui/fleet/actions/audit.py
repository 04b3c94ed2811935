"""The audit log: every act that moved, stopped, reset or relabelled, or that changed who may do so.

An act and its record are written in one transaction, so neither is there without the other.
"""

from typing import Any

from django.contrib.auth.models import User

from fleetui.access import Acting, Conflict, person_of, token_of
from fleetui.fleet.models import ACTS, Act, Lab, Station


def record_act(
    *,
    lab: Lab | None,
    kind: str,
    user: Acting | None = None,
    station: Station | None = None,
    reason: str = "",
    details: dict[str, Any] | None = None,
    source: str = "server",
) -> None:
    """Write the act down; without a lab it is in the log of every one. The epoch is that of the station's newest
    lease, which the act may just have begun. `source`: through which door it came, "page", "API" or "station"; what a
    job does by itself is the server's.
    """
    if kind not in ACTS:
        raise ValueError(f"{kind!r} is no act that the audit log knows: add it to ACTS")
    person = person_of(user) if user is not None else None
    if (token := token_of(person)) is not None:
        details = {"by_token": token.name} | (details or {})
    newest = station.leases.order_by("-epoch").first() if station else None
    Act.objects.create(
        lab=lab,
        user=person,
        user_name=person.get_username() if person else "",
        station=station,
        station_name=station.name if station else "",
        kind=kind,
        lease_epoch=newest.epoch if newest else None,
        reason=reason[:300],
        details=details or {},
        source=source,
    )


def record_command(station: Station, user: User, name: str, args: dict[str, Any], *, source: str) -> None:
    """Write a command down, unless maintenance forbids it: then the command is undone with this transaction."""
    if name == "resume" and station.maintenance:
        raise Conflict(f"{station} is in maintenance ({station.maintenance_reason}); end that first, then resume it.")
    details = {key: value for key, value in args.items() if key != "reason"}
    reason = str(args.get("reason") or (station.reason if name == "reset" else ""))
    record_act(lab=station.lab, kind=name, user=user, station=station, reason=reason, details=details, source=source)

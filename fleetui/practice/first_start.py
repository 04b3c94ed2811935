"""What a fleet begins with: a lab, a log-in each for three roles, two tasks, idle simulated stations, demonstrations.

Every start calls `prepare`. The first one is known by the lab, which is not there yet: what people remove afterwards
stays removed. Later ones look after the simulated stations alone. Passwords and tokens are stored hashed in the
database; the readable ones are kept in the data folder, for this user's eyes only.
"""

import json
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction

from fleetui import access
from fleetui.fleet.actions.labs import add_member, create_lab, create_station, create_task, renew_token
from fleetui.fleet.models import Lab
from fleetui.learning.actions import generate_dataset, recognise_folder
from fleetui.learning.models import DataFolder
from robots.atomic_files import write_atomically
from robots.embodiments import get_embodiment

LAB = "main"
WORLD = "language_table"
ROLES = ("manager", "supervisor", "researcher")
TITLES = {"manager": "lab manager", "supervisor": "supervisor", "researcher": "researcher"}
FAMILIES = ("block2block", "block_to_place")
# Of the first tasks: without them a station with eight blocks calls somebody every two minutes.
RULES: dict[str, Any] = {"edge_margin": 0.01, "fewest_objects": 4}
STATIONS = 4
# One run of try_loop each (seed 1): a policy of 100 succeeds in .975 of its attempts, in 64 steps; after practice in
# .99, in 40. One of 10: .915 and 63 steps, then .98 and 42.
DEMONSTRATIONS = 100
DEMONSTRATED = ("block2block",)


class FirstStartError(Exception):
    """A sentence for the person who starts the fleet."""


def prepare(stations: int | None) -> tuple[Path, bool]:
    """Returns the file of the stations' tokens, for their host, and whether this is the first start."""
    if not recognise_folder():
        raise FirstStartError(
            f"{settings.DATA} is not the data folder of this database: its fleet.id is missing or another one. Set "
            "FLEETUI_DATA to the fleet's own folder, or DATABASE_URL to a database of its own. If that folder is lost "
            f"for good, write {DataFolder.objects.get().fleet} into {settings.DATA / 'fleet.id'}."
        )
    with transaction.atomic():
        lab = Lab.objects.filter(slug=LAB).first()
        first = lab is None
        if lab is None:
            lab = create_lab(slug=LAB, name="Main lab")
            make_logins(lab)
            for family in FAMILIES:
                create_task(lab=lab, user=access.SERVER, family=family, **RULES)
            make_demonstrations(lab)
        return prepare_stations(lab, stations), first


def make_logins(lab: Lab) -> None:
    rows = []
    for role in ROLES:
        user, _ = User.objects.get_or_create(username=role)
        password = secrets.token_urlsafe(9)
        user.set_password(password)
        user.save()
        add_member(lab=lab, person=user, role=role)
        rows.append({"role": role, "username": role, "password": password})
    write_private(settings.DATA / "logins.json", rows)


def make_demonstrations(lab: Lab) -> None:
    generate_dataset(
        lab=lab,
        user=User.objects.get(username="researcher"),
        name="First demonstrations",
        families=list(DEMONSTRATED),
        episodes=DEMONSTRATIONS,
        seed=1,
    )


def prepare_stations(lab: Lab, wanted: int | None) -> Path:
    """At least as many simulated stations as wanted; none is ever taken away, its episodes being here. An archived one
    counts, but nobody starts it.
    """
    path = settings.DATA / "stations.json"
    tokens = {row["station"]: row["token"] for row in read_private(path, [])}
    there = list(lab.stations.filter(simulated=True, world=WORLD))
    for station in there:
        # The file was lost, or the database is another one's: the station gets a new token, the old one is void.
        if access.hash_token(tokens.get(station.slug, "")) != station.token_hash:
            tokens[station.slug] = renew_token(station=station, user=access.SERVER)
    taken = {station.number for station in lab.stations.all()}
    if wanted is None:
        wanted = STATIONS if not there else len(there)
    while len(there) < wanted:
        number = max(taken, default=0) + 1
        taken.add(number)
        body = get_embodiment(WORLD)
        station, token = create_station(
            lab=lab, user=access.SERVER, name=f"Station {number}", world=WORLD, seed=number, embodiment=body
        )
        tokens[station.slug] = token
        there.append(station)
    rows = [
        {"station": row.slug, "token": tokens[row.slug], "world": row.world, "seed": row.seed}
        for row in there
        if row.archived_at is None
    ]
    write_private(path, rows)
    return path


def read_logins() -> list[dict[str, str]]:
    logins: list[dict[str, str]] | None = read_private(settings.DATA / "logins.json", None)
    if logins is None:
        raise FirstStartError(
            f"There are no log-ins in {settings.DATA}: the first `make run` makes them. If the file logins.json was "
            "removed, give a person of the fleet a new password: manage.py changepassword NAME"
        )
    return logins


def logins_text() -> str:
    lines = [f"  {'role':<14}{'log-in':<14}password"]
    lines += [f"  {TITLES[row['role']]:<14}{row['username']:<14}{row['password']}" for row in read_logins()]
    return "\n".join(lines)


def read_private(path: Path, otherwise: Any) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return otherwise
    except ValueError as error:
        raise FirstStartError(f"{path} is damaged ({error}): delete it, and the next start makes a new one.") from error


def write_private(path: Path, rows: list[dict[str, Any]]) -> None:
    """Readable by this user alone from its first byte on, and never half written."""
    write_atomically(path, json.dumps(rows, indent=1).encode(), mode=0o600)

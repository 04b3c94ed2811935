"""What a fleet begins with: a lab, a log-in each for three roles, two tasks, idle simulated stations, demonstrations.

Every start calls `prepare`; it makes what is missing and leaves alone what is there. Passwords and tokens are stored
hashed in the database; the readable ones are kept in the data folder, for this user's eyes only.
"""

import json
import os
import secrets
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction

from fleetui.fleet.models import Lab, Membership, Station, Task
from fleetui.learning import actions as learning
from fleetui.learning.models import Dataset
from robots.embodiments import get_embodiment
from robots.tasks import get_task

ROLES = ("manager", "supervisor", "researcher")
TITLES = {"manager": "lab manager", "supervisor": "supervisor", "researcher": "researcher"}
FAMILIES = ("block2block", "block_to_place")
STATIONS = 4
# Enough for a policy that succeeds now and then, few enough that there is much left for practice to improve.
DEMONSTRATIONS = 800
DEMONSTRATED = ("block2block",)


class FirstStartError(Exception):
    """A sentence for the person who starts the fleet."""


def prepare(stations: int | None) -> Path:
    """Returns the file of the stations' tokens, for their host."""
    settings.DATA.mkdir(parents=True, exist_ok=True)
    with transaction.atomic():
        lab, _ = Lab.objects.get_or_create(slug="main", defaults={"name": "Main lab"})
        prepare_logins(lab)
        for name in FAMILIES:
            family = get_task(name)
            defaults = {
                "name": family.title,
                "family": name,
                "time_limit_steps": family.time_limit_steps,
                "description": family.description,
            }
            Task.objects.get_or_create(lab=lab, slug=name.replace("_", "-"), defaults=defaults)
        tokens = prepare_stations(lab, stations)
    if not Dataset.objects.filter(lab=lab).exists():
        learning.generate_dataset(
            lab=lab,
            user=User.objects.get(username="researcher"),
            name="first demonstrations",
            families=list(DEMONSTRATED),
            episodes=DEMONSTRATIONS,
            seed=1,
        )
    return tokens


def prepare_logins(lab):
    path = settings.DATA / "logins.json"
    known = {row["role"]: row for row in read_private(path, [])}
    for role in ROLES:
        user, created = User.objects.get_or_create(username=role)
        if created or role not in known:
            password = secrets.token_urlsafe(9)
            user.set_password(password)
            user.save()
            known[role] = {"role": role, "username": role, "password": password}
        Membership.objects.get_or_create(user=user, lab=lab, defaults={"role": role})
    write_private(path, [known[role] for role in ROLES])


def prepare_stations(lab, wanted):
    """At least as many simulated stations as wanted; none is ever taken away, its episodes being here."""
    path = settings.DATA / "stations.json"
    known = {row["station"]: row for row in read_private(path, [])}
    rows = {station.slug: station for station in Station.objects.filter(lab=lab, simulated=True)}
    for number in range(1, max(len(rows), wanted or (0 if rows else STATIONS)) + 1):
        slug = f"station-{number}"
        if slug in rows and slug in known and rows[slug].token_hash == Station.hash_token(known[slug]["token"]):
            continue
        token = secrets.token_urlsafe(32)
        known[slug] = {"station": slug, "token": token, "world": "language_table", "seed": number}
        Station.objects.update_or_create(
            lab=lab,
            slug=slug,
            defaults={"token_hash": Station.hash_token(token), "token_prefix": token[:8]},
            create_defaults={
                "token_hash": Station.hash_token(token),
                "token_prefix": token[:8],
                "name": f"Station {number}",
                "number": number,
                "embodiment": get_embodiment("language_table").to_json(),
                "simulated": True,
                "world": "language_table",
                "seed": number,
            },
        )
    write_private(path, list(known.values()))
    return path


def read_logins():
    logins = read_private(settings.DATA / "logins.json", None)
    if logins is None:
        raise FirstStartError(f"There are no log-ins in {settings.DATA} yet: start the fleet once with `make run`.")
    return logins


def logins_text():
    lines = [f"  {'role':<14}{'log-in':<14}password"]
    lines += [f"  {TITLES[row['role']]:<14}{row['username']:<14}{row['password']}" for row in read_logins()]
    return "\n".join(lines)


def read_private(path, otherwise):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return otherwise
    except ValueError as error:
        raise FirstStartError(f"{path} is damaged ({error}): delete it, and the next start makes a new one.") from error


def write_private(path, rows):
    """Readable by this user alone from its first byte on, and never half written."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        json.dump(rows, file, indent=1)
    unfinished.replace(path)

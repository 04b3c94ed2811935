"""Labs and their people, stations and tasks are made here."""

import logging
import secrets

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils.text import slugify

from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.cards import show_card
from fleetui.fleet.models import ROLES, Lab, Membership, Station, Task
from robots import tasks as task_families
from robots.embodiments import Embodiment

audit = logging.getLogger("fleetui.audit")


def create_lab(*, slug: str, name: str) -> Lab:
    return Lab.objects.create(slug=slug, name=name)


def add_member(*, lab: Lab, user, role: str) -> Membership:
    """Make the user a member, or give a member another role."""
    if role not in ROLES:
        raise Invalid(f"{role!r} is no role; choose one of {', '.join(ROLES)}.")
    return Membership.objects.update_or_create(user=user, lab=lab, defaults={"role": role})[0]


@transaction.atomic
def create_station(
    *,
    lab: Lab,
    name: str,
    slug: str = "",
    world: str = "",
    seed: int = 0,
    embodiment: Embodiment | None = None,
    simulated: bool = True,
    self_reset_after_s: float | None = None,
    speed: int = 1,
) -> tuple[Station, str]:
    """Returns the station and its token. The token is shown this once: only its hash is kept."""
    slug = slug or slugify(name)[:40]
    if not slug:
        raise Invalid("A station needs a name with letters or digits.")
    Lab.objects.select_for_update().get(pk=lab.pk)  # two new stations must not get one number
    if lab.stations.filter(slug=slug).exists():
        raise Conflict(f"{lab.name} already has a station {slug!r}; choose another name.")
    token = secrets.token_urlsafe(32)
    station = Station.objects.create(
        lab=lab,
        slug=slug,
        name=name,
        number=(lab.stations.aggregate(top=Max("number"))["top"] or 0) + 1,
        world=world,
        seed=seed,
        embodiment=embodiment.to_json() if embodiment else {},
        simulated=simulated,
        self_reset_after_s=self_reset_after_s,
        speed=speed,
        token_hash=Station.hash_token(token),
        token_prefix=token[:6],
    )
    show_card(station)
    return station, token


def renew_token(*, station: Station) -> str:
    """A new token, shown this once; the old one is void from now on."""
    token = secrets.token_urlsafe(32)
    Station.objects.filter(pk=station.pk).update(token_hash=Station.hash_token(token), token_prefix=token[:6])
    audit.info("%s has a new token", station.topic)
    return token


def create_task(
    *, lab: Lab, family: str, name: str = "", slug: str = "", time_limit_steps: int | None = None, description: str = ""
) -> Task:
    if family not in task_families.TASKS:
        raise Invalid(
            f"{family!r} is no task family; known are {', '.join(task_families.TASKS)}.", {"family": "Unknown."}
        )
    known = task_families.get_task(family)
    name = name.strip() or known.title
    slug = slug or slugify(name)[:60] or slugify(family)
    limit = known.time_limit_steps if time_limit_steps is None else time_limit_steps
    if not 1 <= limit <= 10_000:
        raise Invalid(
            f"A time limit of {limit} steps makes no sense; give 1 to 10000.", {"time_limit_steps": "1 to 10000."}
        )
    try:
        with transaction.atomic():
            return Task.objects.create(
                lab=lab,
                slug=slug,
                name=name,
                family=family,
                time_limit_steps=limit,
                description=description or known.description,
            )
    except IntegrityError:
        raise Conflict(f"{lab.name} already has a task {slug!r}; choose another name.") from None

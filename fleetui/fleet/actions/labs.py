"""Labs and their people, stations and tasks are made here."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Manager, Max
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet import selectors
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.cards import show_card
from fleetui.fleet.models import ROLES, Lab, Membership, Station, Task
from fleetui.fleet.names import checked_name, free_slug, shown
from fleetui.fleet.signals import queue_changed, task_edited
from fleetui.messages import TokenRenewed, tell_station_on_commit
from robots import tasks as task_families
from robots.embodiments import Embodiment
from robots.rules import TASK_RULES, checked_settings, checked_task_rules
from robots.wordings import Words, checked_words

OLD_TOKEN_FOR = timedelta(minutes=10)  # time enough to carry the new one to the robot


@transaction.atomic
def create_lab(*, name: str, slug: str = "") -> Lab:
    name = checked_name(name, "lab")
    slug = slug or free_slug(name, "lab", Lab.objects.values_list("slug", flat=True), 40)
    return Lab.objects.create(slug=slug, name=name)


def lock_queue(lab: Lab) -> None:
    """Whoever changes a lab's queue or gives its stations away does so alone, until the transaction ends.

    The lock lets rows that merely name the lab be written, so no upload waits for it.
    """
    Lab.objects.select_for_update(no_key=True).get(pk=lab.pk)


def add_member(*, lab: Lab, person: User, role: str) -> Membership:
    """Make the person a member, or give a member another role: the first start's alone, for people are invited."""
    if role not in ROLES:
        raise Invalid(f"{role!r} is no role; choose one of {', '.join(ROLES)}.")
    return Membership.objects.update_or_create(user=person, lab=lab, defaults={"role": role})[0]


@transaction.atomic
def create_station(
    *,
    lab: Lab,
    user: access.Acting,
    name: str,
    slug: str = "",
    world: str = "",
    seed: int = 0,
    embodiment: Embodiment | None = None,
    simulated: bool = True,
    self_reset_after_s: float | None = None,
    speed: int = 1,
    source: str = "server",
) -> tuple[Station, str]:
    """Returns the station and its token. The token is shown this once: only its hash is kept."""
    access.check(user, lab, "create_station")
    name = checked_name(name, "station")
    settings, problems = checked_settings({"self_reset_after_s": self_reset_after_s, "speed": speed})
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    Lab.objects.select_for_update().get(pk=lab.pk)  # two new stations must not get one number
    _refuse_taken_name(lab.stations, lab, "station", name)
    slug = slug or free_slug(name, "station", lab.stations.values_list("slug", flat=True), 40)
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
        **settings,
        token_hash=access.hash_token(token),
        token_prefix=token[:6],
    )
    record_act(
        lab=lab, kind="token_made", user=user, station=station, details={"prefix": station.token_prefix}, source=source
    )
    show_card(station)
    queue_changed.send(sender=Lab, lab=lab)
    return station, token


@transaction.atomic
def renew_token(*, station: Station, user: access.Acting, keep_old: bool = False, source: str = "server") -> str:
    """A new token, shown this once. The old one is void at once, and a connection that it opened ends; or, kept, it
    works until the new one has connected, 10 minutes at most.
    """
    access.check(user, station.lab, "renew_token")
    token = secrets.token_urlsafe(32)
    station = Station.objects.select_related("lab").select_for_update(of=("self",)).get(pk=station.pk)
    until = timezone.now() + OLD_TOKEN_FOR if keep_old else None
    minutes = round(OLD_TOKEN_FOR.total_seconds() / 60) if keep_old else 0
    details = {"old": station.token_prefix, "new": token[:6], "minutes_the_old_works": minutes}
    Station.objects.filter(pk=station.pk).update(
        token_hash=access.hash_token(token),
        token_prefix=token[:6],
        old_token_hash=station.token_hash if keep_old else "",
        old_token_until=until,
    )
    record_act(lab=station.lab, kind="token_renewed", user=user, station=station, details=details, source=source)
    seconds = OLD_TOKEN_FOR.total_seconds() if keep_old else 0.0
    tell_station_on_commit(station.command_group, TokenRenewed(old_works_s=seconds))
    return token


def _refuse_taken_name(rows: Manager[Station] | Manager[Task], lab: Lab, kind: str, name: str) -> None:
    """Two of one name could not be told apart; those that are merely spelled alike in ASCII can."""
    if rows.filter(name=name).exists():
        raise Conflict(f"{lab.name} already has a {kind} named {shown(name)}; choose another name.")


@transaction.atomic
def create_task(
    *,
    lab: Lab,
    user: access.Acting,
    family: str = "",
    name: str = "",
    slug: str = "",
    description: str = "",
    wordings: Sequence[str] = (),
    held_out_wordings: Sequence[str] = (),
    slots: Mapping[str, Sequence[str]] | None = None,
    embodiment: str = "",
    source: str = "server",
    **rules: Any,
) -> Task:
    """A task of a built-in family, or, with wordings and no family, a task in words for a body that the lab has."""
    access.check(user, lab, "create_task")
    rules = {each.name: each.default for each in TASK_RULES.values()} | rules
    problems: dict[str, str] = {}
    words = Words()
    if family:
        if wordings or held_out_wordings or slots:
            problem = "A built-in family has wordings of its own; give none, or leave the family out."
            raise Invalid(problem, {"wordings": problem})
        known = task_families.TASKS.get(family)
        if known is None:
            problem = f"{family!r} is no task family; known are {', '.join(task_families.TASKS)}."
            raise Invalid(problem, {"family": "Unknown."})
        embodiment = known.embodiment
    else:
        words, problems = checked_words(wordings, held_out_wordings, slots)
        if embodiment not in (known_bodies := selectors.body_names(lab)):
            problems["embodiment"] = (
                f"No station of {lab.name} has said that it is {shown(embodiment)}; choose {' or '.join(known_bodies)}."
                if known_bodies
                else f"No station of {lab.name} has said yet what its body is; connect it first."
            )
        known = words.family("", name, embodiment, 0)
    name = checked_name(name.strip() or known.title, "task")
    values = _checked_rules(lab, known, rules, problems)
    Lab.objects.select_for_update().get(pk=lab.pk)  # two new tasks must not get one name
    _refuse_taken_name(lab.tasks, lab, "task", name)
    slug = slug or free_slug(name, "task", lab.tasks.values_list("slug", flat=True), 60)
    task = Task.objects.create(
        lab=lab,
        slug=slug,
        name=name,
        # Files of episodes carry it, and go from lab to lab.
        family=family or f"{slug}-{secrets.token_hex(4)}",
        embodiment=embodiment,
        description=description or known.description,
        **words.to_json(),
        **values,
    )
    record_act(lab=lab, kind="task_created", user=user, details={"task": name}, source=source)
    return task


def _checked_rules(
    lab: Lab, family: task_families.TaskFamily, given: dict[str, Any], problems: dict[str, str]
) -> dict[str, Any]:
    """The rules in their types; Invalid where one is wrong, or where there are problems already."""
    values, wrong = checked_task_rules(given, family, selectors.list_families(lab))
    if values.get("time_limit_steps", 0) is None:
        if not family.time_limit_steps:
            wrong["time_limit_steps"] = "Say after how many steps an attempt ends; words alone don't."
        values["time_limit_steps"] = family.time_limit_steps
    problems = {**problems, **wrong}
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    return values


@transaction.atomic
def edit_task(
    *,
    task: Task,
    user: User,
    name: str | None = None,
    description: str | None = None,
    wordings: Sequence[str] | None = None,
    held_out_wordings: Sequence[str] | None = None,
    slots: Mapping[str, Sequence[str]] | None = None,
    source: str = "server",
    **rules: Any,
) -> Task:
    """Change what is named; its family and its body can't change. Stations that practise it take that on, new words
    too, with their next attempt.
    """
    access.check(user, task.lab, "edit_task")
    family = task.task_family
    if family is None:
        raise Conflict(f"No world that is here has the family {task.family}; add the world, or make another task.")
    name = task.name if name is None else name
    description = task.description if description is None else description
    problems: dict[str, str] = {}
    words = task.words
    if task.wordings:
        given = task.words.to_json()
        told = {"wordings": wordings, "held_out_wordings": held_out_wordings, "slots": slots}
        words, problems = checked_words(**given | {part: each for part, each in told.items() if each is not None})
        family = replace(family, time_limit_steps=0)
    elif wordings or held_out_wordings or slots:
        problems["wordings"] = f"{task} has the wordings of its family; for others, make a task in words."
    if rules.get("resets", "self") != "self":
        rules = {"self_reset_after_s": None} | rules
    rules = _checked_rules(task.lab, family, {each: getattr(task, each) for each in TASK_RULES} | rules, problems)
    name = checked_name(name.strip() or family.title, "task")
    Lab.objects.select_for_update().get(pk=task.lab_id)
    if name != task.name:
        _refuse_taken_name(task.lab.tasks, task.lab, "task", name)
    Task.objects.filter(pk=task.pk).update(
        name=name, description=description or family.description, **words.to_json(), **rules
    )
    task.refresh_from_db()
    record_act(lab=task.lab, kind="task_edited", user=user, details={"task": task.slug}, source=source)
    task_edited.send(sender=Task, task=task)
    return task


@transaction.atomic
def archive_task(*, task: Task, user: User, source: str = "server") -> None:
    """No longer wanted: nobody can assign it, and what waits of it is blocked. What is under way goes on."""
    access.check(user, task.lab, "edit_task")
    if not Task.objects.filter(pk=task.pk, archived_at=None).update(archived_at=timezone.now()):
        raise Conflict(f"{task} is archived already.")
    record_act(lab=task.lab, kind="task_archived", user=user, details={"task": task.slug}, source=source)
    queue_changed.send(sender=Lab, lab=task.lab)


@transaction.atomic
def restore_task(*, task: Task, user: User, source: str = "server") -> None:
    access.check(user, task.lab, "edit_task")
    if not Task.objects.filter(pk=task.pk, archived_at__isnull=False).update(archived_at=None):
        raise Conflict(f"{task} is not archived.")
    record_act(lab=task.lab, kind="task_restored", user=user, details={"task": task.slug}, source=source)
    queue_changed.send(sender=Lab, lab=task.lab)

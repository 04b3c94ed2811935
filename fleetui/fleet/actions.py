"""Everything that changes the fleet: the only place that writes its rows and emits its live messages.

Here a person's command becomes a message to a station, a station's report becomes a row, and an upload becomes episodes
on disk that a run's job hands to its learner. Every function is keyword-only and named verb_noun; what users may cause
is Refused with a sentence.
"""

import logging
import math
import secrets
import time
import uuid as uuids
from datetime import UTC, datetime, timedelta

import numpy as np
from django.apps import apps
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Max
from django.utils import timezone
from django.utils.text import slugify

from fleetui import access
from fleetui.access import Conflict, Invalid, Refused
from fleetui.fleet import selectors
from fleetui.fleet.models import (
    ROLES,
    STATION_STATES,
    AssignedStation,
    Assignment,
    Episode,
    Intervention,
    Lab,
    Lease,
    Membership,
    Station,
    Task,
    severity,
)
from fleetui.messages import CardChanged, CheckpointsChanged, RunChanged, send_on_commit, tell_station_on_commit
from robots import tasks as task_families
from robots.control import ACTS
from robots.embodiments import Embodiment
from robots.episodes import ACTORS, EpisodeError, read_episodes, write_episodes

audit = logging.getLogger("fleetui.audit")

UPLOAD_LIMIT = 64 * 2**20
EPISODES_A_FILE = 64
OPERATOR_LEASE = timedelta(seconds=30)  # renewed by driving; afterwards another operator may take over
SILENT_AFTER = timedelta(seconds=20)
# An offline station is told these on its return: they are kept in its row. Anything else needs it here.
KEPT_FOR_LATER = ("pause", "resume", "stop", "clear_stop", "speed", "settings")


# Labs, people, stations, tasks


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
    _show_card(station)
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


# Assignments


@transaction.atomic
def assign_task(*, lab: Lab, task: Task, stations: list[Station], user, run=None) -> Assignment:
    """Give the task to stations. Without a run they wait for one; with a run they practise as soon as it publishes."""
    if not stations:
        raise Invalid("Choose at least one station.", {"stations": "Choose at least one station."})
    if any(row.lab_id != lab.pk for row in (task, *stations)):
        raise Invalid("The task and the stations must all belong to this lab.")
    _refuse_unable(task, stations)
    if run is not None:
        _take_from_waiting_assignments(task, stations)
    assignment = Assignment.objects.create(
        lab=lab, task=task, run=run, created_by=user, state="underway" if run else "queued"
    )
    try:
        with transaction.atomic():
            AssignedStation.objects.bulk_create(
                AssignedStation(assignment=assignment, station=station) for station in stations
            )
    except IntegrityError:
        taken = AssignedStation.objects.filter(live=True, station__in=stations).exclude(assignment=assignment)
        said = (
            ", ".join(
                f"{place.station} ({place.assignment.task})"
                for place in taken.select_related("station", "assignment__task")
            )
            or "a station"
        )
        raise Conflict(
            f"Already assigned: {said}. End that assignment or run first, or leave these stations out."
        ) from None
    _after_assignment_change(assignment)
    return assignment


def _refuse_unable(task: Task, stations: list[Station]) -> None:
    wanted = task_families.get_task(task.family).embodiment
    for station in stations:
        body = station.embodiment.get("name", wanted)
        if body != wanted:
            raise Invalid(f"{station} has the body {body}, but {task.name} needs {wanted}; leave this station out.")


def _take_from_waiting_assignments(task: Task, stations: list[Station]) -> None:
    """A run takes over stations that a manager assigned to its task and that no run uses yet."""
    places = AssignedStation.objects.filter(
        live=True, station__in=stations, assignment__run=None, assignment__task=task, assignment__state="queued"
    )
    emptied = set(places.values_list("assignment_id", flat=True))
    places.update(live=False)
    for assignment in Assignment.objects.filter(pk__in=emptied).exclude(places__live=True):
        move_assignment(assignment=assignment, to="canceled")


@transaction.atomic
def start_assignment(*, assignment: Assignment, run) -> None:
    """Put a run behind a waiting assignment."""
    moved = Assignment.objects.filter(pk=assignment.pk, state="queued", run=None).update(run=run, state="underway")
    if not moved:
        raise Conflict("This assignment already has a run or has ended; choose another one.")
    assignment.refresh_from_db()
    _after_assignment_change(assignment)


def move_assignment(*, assignment: Assignment, to: str) -> bool:
    """Change its state if the transition table allows it from whatever it is now; False where it doesn't."""
    sources = [state for state, targets in Assignment.TRANSITIONS.items() if to in targets]
    ended = timezone.now() if to not in Assignment.LIVE else None
    return bool(Assignment.objects.filter(pk=assignment.pk, state__in=sources).update(state=to, ended_at=ended))


@transaction.atomic
def end_assignment(*, assignment: Assignment, state: str) -> None:
    """Complete or cancel it: its stations become free, and idle at the end of their episodes."""
    if not move_assignment(assignment=assignment, to=state):
        return
    stations = [place.station for place in assignment.places.filter(live=True).select_related("station__lab")]
    assignment.places.filter(live=True).update(live=False)
    if assignment.run_id:
        Lease.objects.filter(run_id=assignment.run_id, released_at=None).update(released_at=timezone.now())
    for station in stations:
        order_station(station=station)
        _show_card(station)


def cancel_assignment(*, assignment: Assignment, user) -> None:
    if assignment.run is not None and assignment.run.is_live:
        raise Conflict(f"The run {assignment.run} practises on it; cancel the run, which frees the stations.")
    if assignment.state not in Assignment.LIVE:
        raise Conflict(f"It is {assignment.state} already.")
    audit.info("%s cancels assignment %s", user, assignment.pk)
    end_assignment(assignment=assignment, state="canceled")


def _after_assignment_change(assignment: Assignment) -> None:
    for place in assignment.places.filter(live=True).select_related("station__lab"):
        if assignment.run_id:
            live = place.station.leases.select_for_update().filter(released_at=None).first()
            if live is None or live.run_id or live.has_expired():  # an operator who drives keeps it until the hand-back
                _grant_lease(station=place.station, run=assignment.run)
        order_station(station=place.station)
        _show_card(place.station)


# What a station is told


def list_orders(*, station: Station) -> list[dict]:
    """What the station should be doing now, in messages of the link protocol; saying it twice does no harm."""
    assignment = station.live_assignment()
    run = assignment.run if assignment else None
    if run is None or not run.practises():
        return [{"type": "assignment", "assignment": None, "run": None, "task": None, "purpose": "practice"}]
    task = {"name": assignment.task.family, "time_limit_steps": assignment.task.time_limit_steps}
    orders = [{"type": "assignment", "assignment": assignment.pk, "run": run.pk, "task": task, "purpose": "practice"}]
    policy = run.published_policy()
    if policy is not None:
        orders.append(run.policy_message(policy))
    if run.holding:
        orders.append({"type": "hold", "version": run.open_version})
    return orders


def order_station(*, station: Station) -> None:
    """Tell the station on commit what it should be doing; an offline one is told when it connects."""
    transaction.on_commit(
        lambda: tell_station_on_commit(station.command_group, *list_orders(station=station)), robust=True
    )


def order_stations_of_run(*, run) -> None:
    places = AssignedStation.objects.filter(live=True, assignment__run=run, station__connected=True)
    for place in places.select_related("station__lab"):
        order_station(station=place.station)


def tell_stations_of_run(*, run, message: dict) -> None:
    for station in Station.objects.filter(places__live=True, places__assignment__run=run, connected=True):
        tell_station_on_commit(station.command_group, message)


# Commands of people


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
            audit.info("%s: %s %s %s", user, station.topic, name, args)
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
    if name == "drive" and not all(_is_number(args.get(axis)) and -1 <= args[axis] <= 1 for axis in ("dx", "dy")):
        raise Invalid("drive takes dx and dy, numbers from -1 to 1.")
    if name == "settings":
        after, every = args.get("self_reset_after_s"), args.get("shuffle_every_s", 300.0)
        if after is not None and not (_is_number(after) and 0 <= after <= 3600):
            raise Invalid(
                "self_reset_after_s is the seconds until the station resets itself, 0 to 3600, or null for never."
            )
        if not (_is_number(every) and 1 <= every <= 86_400):
            raise Invalid("shuffle_every_s must be 1 to 86400 seconds.")
    return args


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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
        _touch(station, user, "pause")
    elif name == "resume" and station.paused:
        changed = {"paused": False}
        _end_touches(station, "pause")
    elif name == "stop" and not station.stop_latched:
        changed = {"stop_latched": True}
        _touch(station, user, "stop", ended_at=now)
    elif name == "clear_stop" and station.stop_latched:
        changed = {"stop_latched": False, "paused": True}  # it moves again only after a resume
        _touch(station, user, "clear_stop", ended_at=now)
    elif name == "speed":
        changed = {"speed": args["value"]}
    elif name == "settings":
        changed = dict(args)
    elif name == "reset":
        since = station.state_since if station.state == "needs_person" else now
        _touch(station, user, "reset", started_at=since, ended_at=now, reason=station.reason or args.get("reason", ""))
    elif name == "end_episode":
        _touch(station, user, "terminate", ended_at=now)
    elif name == "override":
        _take_control(station, user)
    if name in ("hand_back", "stop", "pause"):  # each of them ends an override at the station
        _hand_back(station)
    if changed:
        Station.objects.filter(pk=station.pk).update(**changed)
        for field, value in changed.items():
            setattr(station, field, value)
        urgent = severity(station.state, station.stop_latched)
        _emit_card(station, changed | {"severity": urgent, "attention": urgent > 0})


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
        _end_touches(station, "override")
    _grant_lease(station=station, user=user)
    _touch(station, user, "override")


def _hand_back(station: Station) -> None:
    """An operator's lease and override end, if there are any; the run gets the station back."""
    if not station.leases.filter(released_at=None, user__isnull=False).update(released_at=timezone.now()):
        return
    _end_touches(station, "override")
    assignment = station.live_assignment()
    if assignment and assignment.run and not station.leases.filter(released_at=None).exists():
        _grant_lease(station=station, run=assignment.run)


def _grant_lease(*, station: Station, user=None, run=None) -> Lease:
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


def _touch(station: Station, user, kind: str, *, started_at=None, ended_at=None, reason: str = "") -> Intervention:
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


def _end_touches(station: Station, kind: str) -> None:
    now = timezone.now()
    for touch in Intervention.objects.filter(station=station, kind=kind, ended_at=None):
        seconds = (now - touch.started_at).total_seconds()
        Intervention.objects.filter(pk=touch.pk).update(ended_at=now, seconds=seconds)


# Reports of stations


@transaction.atomic
def connect_station(*, station: Station, embodiment: dict, software: str = "", renderer: str = "") -> list[dict]:
    """A station said hello. Returns what it is told: welcome, then its orders."""
    try:
        body = Embodiment.from_json(embodiment)
    except ValueError as error:
        raise Invalid(str(error)) from None
    if station.embodiment and station.embodiment.get("name") != body.name:
        raise Invalid(
            f"{station} is registered with the body {station.embodiment.get('name')}, but hello says {body.name}; "
            "use the token of the right station."
        )
    # It hasn't told its state yet; that it is here is all that is known.
    Station.objects.filter(pk=station.pk, state="offline").update(state="idle", reason="", state_since=timezone.now())
    Station.objects.filter(pk=station.pk).update(
        connected=True,
        last_seen=timezone.now(),
        embodiment=body.to_json(),
        software=software[:80],
        renderer=renderer[:20],
        loaded_checkpoint=None,  # a process that began anew has none; one that has says so when it is welcomed
    )
    station.refresh_from_db()
    _hand_back(station)  # a web process that was killed could not do it
    _show_card(station)
    welcome = {
        "type": "welcome",
        "station": station.slug,
        "name": station.name,
        "server_time": timezone.now().timestamp(),
        # What was ordered while it was away holds too: the latch and the pause come as states, not as commands.
        "settings": {**station.settings_json(), "paused": station.paused, "stop_latched": station.stop_latched},
    }
    return [welcome, *list_orders(station=station)]


@transaction.atomic
def disconnect_station(*, station: Station, reason: str = "") -> None:
    Station.objects.filter(pk=station.pk).update(
        connected=False, state="offline", reason=reason[:300], state_since=timezone.now(), last_seen=timezone.now()
    )
    station.refresh_from_db()
    _hand_back(station)  # a lost link ends an override
    _show_card(station)
    assignment = station.live_assignment()
    if assignment and assignment.run:  # it may have been the last one that a publication waited for
        transaction.on_commit(lambda: record_loaded_everywhere(run=assignment.run), robust=True)


def disconnect_silent_stations() -> None:
    """A web process that was killed could not say who left with it. Whoever is there is seen every few seconds."""
    late = timezone.now() - SILENT_AFTER
    for station in Station.objects.select_related("lab").filter(connected=True, last_seen__lt=late):
        disconnect_station(station=station, reason="not heard of for a while")


def record_telemetry(*, station: Station, state: str, reason: str = "", episode: str = "") -> None:
    """What is kept of telemetry: the consumer calls this on a change and every few seconds, not for each message."""
    if state not in STATION_STATES:
        raise Invalid(f"{state!r} is no state of a station; known are {', '.join(STATION_STATES)}.")
    now = timezone.now()
    fields = {"reason": str(reason)[:300], "last_seen": now}
    if episode:
        fields["last_episode"] = episode
    rows = Station.objects.filter(pk=station.pk, connected=True)
    if rows.exclude(state=state).update(state=state, state_since=now, **fields) or rows.update(**fields):
        return
    # It was only thought to be gone (this machine slept, the database was slow): it speaks, so it is here.
    Station.objects.filter(pk=station.pk).update(connected=True, state=state, state_since=now, **fields)
    station.refresh_from_db()
    _show_card(station)


@transaction.atomic
def record_policy_loaded(*, station: Station, checkpoint_uuid: str) -> None:
    """A station acts with this checkpoint from now on; when it is the last one, the publication has reached
    everyone.
    """
    checkpoint = access.get_checkpoint_for_station(station, _uuid_or_none(checkpoint_uuid))
    Station.objects.filter(pk=station.pk).update(loaded_checkpoint=checkpoint)
    _emit_card(station, {"version": checkpoint.version})
    # After the commit: of two stations that load at the same time, the later one must see the other.
    transaction.on_commit(lambda: record_loaded_everywhere(run=checkpoint.run), robust=True)


def record_loaded_everywhere(*, run) -> bool:
    """Note the time at which every connected station of the run had loaded its newest policy; only the first time
    counts.
    """
    policy = run.published_policy()
    if policy is None or policy.loaded_everywhere_at is not None:
        return False
    stations = Station.objects.filter(places__live=True, places__assignment__run=run, connected=True)
    loaded = set(stations.values_list("loaded_checkpoint_id", flat=True))
    if loaded != {policy.pk}:
        return False
    Checkpoint = apps.get_model("learning", "Checkpoint")
    now = timezone.now()
    if not Checkpoint.objects.filter(pk=policy.pk, loaded_everywhere_at=None).update(loaded_everywhere_at=now):
        return False
    policy.loaded_everywhere_at = now
    send_on_commit(run.topic, CheckpointsChanged([policy.row()]))
    return True


def record_touch(*, station: Station, kind: str, reason: str = "", seconds: float = 0.0) -> None:
    """A simulated station reset itself: that counts as a touch too."""
    if kind != "self_reset":
        raise Invalid(f"A station reports the touch self_reset only, not {kind!r}.")
    if not _is_number(seconds) or not 0 <= seconds <= 86_400:
        raise Invalid("seconds must be a number from 0 to 86400.")
    now = timezone.now()
    _touch(station, None, kind, started_at=now - timedelta(seconds=seconds), ended_at=now, reason=str(reason))


# Episodes


def store_episodes(*, station: Station, body: bytes) -> dict:
    """An upload becomes files and rows, once an episode however often it is sent. Returns {"stored": n, "hold": bool}.

    Nothing is stored unless everything in the upload is sound, so a refused upload can be mended and sent again.
    """
    recorded = _checked_upload(station, body)
    folder = settings.DATA / "episodes" / str(station.lab_id)
    folder.mkdir(parents=True, exist_ok=True)
    with transaction.atomic():
        # The row's lock makes two deliveries of one upload wait for each other.
        Station.objects.select_for_update().get(pk=station.pk)
        known = {
            str(uuid)
            for uuid in Episode.objects.filter(uuid__in=[episode.uuid for episode in recorded]).values_list(
                "uuid", flat=True
            )
        }
        fresh = [episode for episode in recorded if str(uuids.UUID(episode.uuid)) not in known]
        rows = _episode_rows(station, fresh, folder)
        for episode, row in zip(fresh, rows, strict=True):
            write_episodes(row.file, [episode])
        Episode.objects.bulk_create(rows)
        if rows:
            Station.objects.filter(pk=station.pk).update(episodes_count=F("episodes_count") + len(rows))
            station.refresh_from_db(fields=["episodes_count"])
            _emit_card(station, {"episodes": station.episodes_count})
            _tie_touches(station, rows)
        hold = _count_practice(station, rows)
    return {"stored": len(rows), "hold": hold}


def _checked_upload(station: Station, body: bytes):
    if len(body) > UPLOAD_LIMIT:
        refused = Refused(f"The upload has {len(body)} bytes, more than 64 MiB; send fewer episodes at once.")
        refused.status = 413
        raise refused
    try:
        recorded = read_episodes(body)
    except EpisodeError as error:
        if str(error).startswith("Episode "):  # the file is whole, an episode in it is wrong
            raise Invalid(str(error)) from None
        raise Refused(str(error)) from None
    if len(recorded) > EPISODES_A_FILE:
        raise Invalid(f"The upload has {len(recorded)} episodes; send at most {EPISODES_A_FILE} at once.")
    embodiment = selectors.station_embodiment(station)
    for episode in recorded:
        if episode.embodiment != embodiment.name:
            raise Invalid(
                f"Episode {episode.uuid} was made by the body {episode.embodiment}; {station} is {embodiment.name}."
            )
        got, wanted = episode.observations.shape, (episode.steps + 1, embodiment.observation_size)
        if got != wanted:
            raise Invalid(f"Episode {episode.uuid} has observations of shape {got}; {station} makes shape {wanted}.")
        if episode.observations.dtype != embodiment.observation_type:
            raise Invalid(
                f"Episode {episode.uuid} has observations of {episode.observations.dtype}; {station} makes "
                f"{embodiment.observation_type}."
            )
        got, wanted = episode.actions.shape, (episode.steps, embodiment.action_size)
        if got != wanted:
            raise Invalid(f"Episode {episode.uuid} has actions of shape {got}; {station} makes shape {wanted}.")
    if len({episode.uuid for episode in recorded}) < len(recorded):
        raise Invalid("Two episodes of the upload have the same uuid; each needs its own.")
    return recorded


def _episode_rows(station: Station, recorded, folder) -> list[Episode]:
    """The summary of each episode: what lists, filters and charts read without opening its file."""
    Checkpoint = apps.get_model("learning", "Checkpoint")
    named = {_uuid_or_none(name) for episode in recorded for name in (episode.policy, episode.reward_model)} - {None}
    checkpoints = {str(row.uuid): row for row in Checkpoint.objects.filter(uuid__in=named, run__lab_id=station.lab_id)}
    assignment = station.live_assignment()
    rows = []
    for episode in recorded:
        policy = checkpoints.get(str(_uuid_or_none(episode.policy)))
        judge = checkpoints.get(str(_uuid_or_none(episode.reward_model)))
        judged = episode.steps_to_go[np.isfinite(episode.steps_to_go)]
        d_start, d_end = (float(judged[0]), float(judged[-1])) if len(judged) else (None, None)
        task = assignment.task if assignment and assignment.task.family == episode.task else None
        rows.append(
            Episode(
                uuid=uuids.UUID(episode.uuid),
                lab=station.lab,
                station=station,
                task=task or selectors.task_of_family(station.lab, episode.task),
                # The policy says which run it was made for, so that a late upload finds the right one.
                run_id=policy.run_id if policy else None,
                instruction=episode.instruction[:300],
                purpose=episode.purpose,
                ending=episode.ending,
                detected_success=episode.detected_success,
                true_success=episode.true_success,
                steps=episode.steps,
                human_steps=int((episode.actors == ACTORS.index("human")).sum()),
                interventions=episode.interventions,
                started_at=_time_of(episode.started_at),
                policy=policy,
                reward_model=judge,
                threshold=episode.threshold,
                version=policy.version if policy else None,
                path=str((folder / f"{uuids.UUID(episode.uuid)}.safetensors").relative_to(settings.DATA)),
                d_start=d_start,
                d_end=d_end,
                return_sum=d_start - d_end if d_start is not None else None,
                duration_s=episode.steps / episode.control_hz,
            )
        )
    return rows


def _time_of(seconds: float) -> datetime:
    """A station's clock may be absurd; its episodes are still worth keeping."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return timezone.now()


def _tie_touches(station: Station, rows: list[Episode]) -> None:
    for row in rows:
        if row.interventions:
            Intervention.objects.filter(
                station=station,
                episode=None,
                started_at__gte=row.started_at,
                started_at__lte=row.stored_at,
            ).update(episode=row)


def _count_practice(station: Station, rows: list[Episode]) -> bool:
    """Count the steps into their run's round. The upload that fills the round sends hold to all stations of the run."""
    Run = apps.get_model("learning", "Run")
    assignment = station.live_assignment()
    run_ids = {row.run_id for row in rows if row.purpose == "practice" and row.run_id}
    for run_id in run_ids:
        practice = [row for row in rows if row.run_id == run_id and row.purpose == "practice"]
        Run.objects.filter(pk=run_id).update(practice_episodes=F("practice_episodes") + len(practice))
        for version in {row.version for row in practice}:
            steps = sum(row.steps - row.human_steps for row in practice if row.version == version)
            Run.objects.filter(pk=run_id, open_version=version).update(round_steps=F("round_steps") + steps)
        full = Run.objects.filter(pk=run_id, holding=False, round_target__gt=0, round_steps__gte=F("round_target"))
        filled = full.update(holding=True)
        run = Run.objects.select_related("lab").get(pk=run_id)
        if filled:
            tell_stations_of_run(run=run, message={"type": "hold", "version": run.open_version})
        send_on_commit(
            run.topic,
            RunChanged(
                {
                    "practice_episodes": run.practice_episodes,
                    "round_steps": run.round_steps,
                    "holding": run.holding,
                }
            ),
        )
    if assignment is None or assignment.run_id is None:
        return False
    return Run.objects.filter(pk=assignment.run_id, holding=True).exists()


def hand_in_episodes(*, episodes: list[Episode]) -> None:
    """Note that the run's job gave these to the learner."""
    Episode.objects.filter(pk__in=[row.pk for row in episodes]).update(handed_in_at=timezone.now())


# Emitting


def _show_card(station: Station) -> None:
    """All that the database knows of the card, without the live fields, which only the station's telemetry knows."""
    card = selectors.station_card(station)
    _emit_card(station, {name: value for name, value in card.items() if name not in selectors.NOT_LIVE})


def _emit_card(station: Station, changed: dict) -> None:
    """The same delta goes to the wall and to the station's own page."""
    payload = CardChanged({"slug": station.slug} | changed)
    send_on_commit(station.lab.wall_topic, payload)
    send_on_commit(station.topic, payload)


def _uuid_or_none(text) -> uuids.UUID | None:
    try:
        return uuids.UUID(str(text))
    except ValueError:
        return None

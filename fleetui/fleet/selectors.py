"""Reading many rows of the fleet: the wall's cards, lists with filters, what an episode's file says. Nothing here
writes.
"""

import json
from collections import Counter, defaultdict
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np
from django.contrib.auth.models import User
from django.contrib.postgres.fields import ArrayField
from django.db.models import Aggregate, Count, FloatField, Model, Q, QuerySet, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from fleetui.access import Invalid, NotFound, Refused
from fleetui.fleet.bodies import read_body
from fleetui.fleet.models import (
    ROLES,
    AccessToken,
    Act,
    Alarm,
    AssignedStation,
    Assignment,
    Episode,
    HelpRequest,
    Intervention,
    Invitation,
    Lab,
    Lease,
    Membership,
    Station,
    StationSpan,
    Task,
)
from robots.embodiments import Embodiment, Feature, Motion
from robots.episodes import CAMERAS_FILE, EpisodeError, read_episodes
from robots.protocol import IN_EPISODE
from robots.tasks import TASKS, TaskFamily
from training.methods.registry import questions

# What only telemetry knows; a card from the database carries these empty.
AnyModel = TypeVar("AnyModel", bound=Model)

NOT_LIVE: dict[str, Any] = {
    "instruction": "",
    "step": None,
    "limit": None,
    "d": None,
    "d_start": None,
    "progress": None,
    "p_success": None,
    "distribution": None,
    "signals": {},
    "marks": [],
    "marks_by": "",
    "bin_width": None,
    "threshold": None,
    "human": False,
    "device": False,
    "sent_at": None,
    "uuid": "",
    "unsent": None,
    "camera_error": "",
    "in_memory": None,
    "refused": None,
    "lost": None,
}


def wall_cards(lab: Lab) -> list[dict[str, Any]]:
    """A card a station; those that need a person first, then by number."""
    stations = list(list_stations(lab))
    places = {
        place.station_id: place.assignment
        for place in AssignedStation.objects.filter(live=True, station__lab=lab).select_related("assignment__task")
    }
    wanted = {request.station_id: help_row(request) for request in list_help(lab, open_only=True)}
    holders = _holders(station__lab=lab)
    cards = [
        _card(station, places.get(station.pk), wanted.get(station.pk), holders.get(station.pk, ""))
        for station in stations
    ]
    return sorted(cards, key=lambda card: (-card["severity"], card["number"]))


def station_card(station: Station) -> dict[str, Any]:
    holder = _holders(station=station).get(station.pk, "")
    return _card(station, station.live_assignment(), open_help(station), holder)


def _holders(**which: Any) -> dict[int, str]:
    """Who is in control of which station: its id to the user's name."""
    live = Lease.objects.filter(released_at=None, user__isnull=False, expires_at__gt=timezone.now(), **which)
    return dict(live.values_list("station_id", "user__username"))


def _card(
    station: Station, assignment: Assignment | None, wanted: dict[str, Any] | None, holder: str
) -> dict[str, Any]:
    return NOT_LIVE | {
        "slug": station.slug,
        "name": station.name,
        "number": station.number,
        "state": station.shown_state,
        "state_since": station.state_since.isoformat(),
        "reason": station.reason,
        "version": station.loaded_checkpoint.version if station.loaded_checkpoint else None,
        "episodes": station.episodes_count,
        "speed": station.speed,
        "connected": station.connected,
        "last_seen": station.last_seen.isoformat() if station.last_seen else None,
        "stop_latched": station.stop_latched,
        "paused": station.paused,
        "holder": holder,
        "task": assignment.task.name if assignment else "",
        "run": assignment.run_id if assignment else None,
        "renderer": station.renderer,
        "drive": drive_axes(station),
        "teleoperator": station.teleoperator,
        "self_reset_after_s": station.self_reset_after_s,
        "shuffle_every_s": station.shuffle_every_s,
        "record_frames": station.record_frames,
        "help": wanted,
        "maintenance": station.maintenance_reason,
        "connected_since": station.connected_since.isoformat() if station.connected_since else None,
        "severity": station.severity,
        "attention": station.severity > 0,
        "archived": station.archived_at is not None,
    }


def drive_axes(station: Station) -> list[str]:
    """What a person drives its body by, in the body's order; empty where it named nothing, or has said nothing yet."""
    return [each["axis"] for each in station.embodiment.get("drive", ())]


def list_help(lab: Lab, open_only: bool = False) -> QuerySet[HelpRequest]:
    """Help requests: the open ones by rank, or all of them, newest first."""
    rows = lab.help_requests.select_related("station", "acknowledged_by", "taken_by", "closed_by")
    return rows.filter(closed_at=None).order_by("-rank", "opened_at") if open_only else rows.order_by("-opened_at")


def open_help(station: Station) -> dict[str, Any] | None:
    found = list_help(station.lab, open_only=True).filter(station=station).first()
    return help_row(found) if found else None


def help_row(request: HelpRequest) -> dict[str, Any]:
    return {
        "id": request.pk,
        "station": request.station.slug,
        "kind": request.kind,
        "reason": request.reason,
        "severity": request.severity,
        "act": request.act,
        "advice": request.advice,
        "episode": str(request.episode) if request.episode else None,
        "p_failure": request.p_failure,
        "robot_s": request.robot_s,
        "human_s": request.human_s,
        "rank": request.rank,
        "help_by": request.help_by.isoformat() if request.help_by else None,
        "opened_at": request.opened_at.isoformat(),
        "acknowledged_by": request.acknowledged_by.username if request.acknowledged_by else None,
        "taken_by": request.taken_by.username if request.taken_by else None,
        "closed_by": request.closed_by.username if request.closed_by else None,
        "closed_at": request.closed_at.isoformat() if request.closed_at else None,
        "outcome": request.outcome,
    }


def count_states(cards: list[dict[str, Any]]) -> dict[str, int]:
    """How many stations are in each state, and how many want a person."""
    counts = Counter(card["state"] for card in cards)
    return dict(counts) | {"total": len(cards), "attention": sum(card["attention"] for card in cards)}


def recent_episodes(station: Station, limit: int = 20) -> list[dict[str, Any]]:
    return [episode_row(row) for row in station.episodes.select_related("station", "task")[:limit]]


def list_stations(lab: Lab, archived: bool = False) -> QuerySet[Station]:
    """Those in use, or those that no longer are."""
    rows = lab.stations.filter(archived_at__isnull=not archived)
    return rows.select_related("loaded_checkpoint").order_by("number")


def list_tasks(lab: Lab, archived: bool = False) -> QuerySet[Task]:
    """Those that can be assigned, or those that no longer can."""
    return lab.tasks.filter(archived_at__isnull=not archived).order_by("name")


def rows_between(rows: QuerySet[AnyModel], start: int, stop: int) -> list[AnyModel]:
    """Those of an ordered query from `start` up to `stop`. They are found by their keys first: else all rows before
    them are read and joined whole.
    """
    keys = list(rows.values_list("pk", flat=True)[start:stop])
    found = {row.pk: row for row in rows.order_by().filter(pk__in=keys)}
    return [found[key] for key in keys if key in found]


def list_episodes(
    lab: Lab,
    *,
    station: str = "",
    task: str = "",
    run: int | None = None,
    purpose: str = "",
    ending: str = "",
    detected: bool | None = None,
    true: bool | None = None,
    unknown: bool | None = None,
    human: bool | None = None,
    evaluation: int | None = None,
    query: str = "",
) -> QuerySet[Episode]:
    """Newest first; each filter that is given must hold. `station` and `task` are slugs, `query` words of the
    instruction; `unknown`: whether nobody knows if it was a true success.
    """
    rows = lab.episodes.select_related("station", "task", "run").order_by("-stored_at", "pk")
    exact = {
        "station__slug": station,
        "task__slug": task,
        "purpose": purpose,
        "ending": ending,
        "instruction__icontains": query,
    }
    rows = rows.filter(**{name: value for name, value in exact.items() if value})
    if run is not None:
        rows = rows.filter(run_id=run)
    if detected is not None:
        rows = rows.filter(detected_success=detected)
    if true is not None:
        rows = rows.filter(true_success=true)
    if unknown is not None:
        rows = rows.filter(true_success__isnull=unknown)
    if evaluation is not None:
        rows = rows.filter(assignment_id=evaluation)
    if human is not None:
        rows = rows.filter(Q(human_steps__gt=0) | Q(interventions__gt=0)) if human else rows.filter(human_steps=0)
    return rows


def list_evaluations(lab: Lab) -> QuerySet[Assignment]:
    """The newest first."""
    rows = lab.assignments.filter(checkpoint__isnull=False).select_related("task", "parent", "checkpoint")
    return rows.order_by("-pk")


def say_evaluation(row: Assignment) -> str:
    return f"{row.pk}: {row.checkpoint} of {row.parent} at {row.task}"


def episode_row(episode: Episode) -> dict[str, Any]:
    return {
        "uuid": str(episode.uuid),
        "station": episode.station.slug,
        "task": episode.task.slug if episode.task else None,
        "run": episode.run_id,
        "evaluation": episode.assignment_id,
        "instruction": episode.instruction,
        "purpose": episode.purpose,
        "ending": episode.ending,
        "detected_success": episode.detected_success,
        "true_success": episode.true_success,
        "labels": episode.labels,
        "asks": episode.asks,
        "question": questions().get(episode.asks, ""),
        "steps": episode.steps,
        "human_steps": episode.human_steps,
        "interventions": episode.interventions,
        "started_at": episode.started_at.isoformat(),
        "stored_at": episode.stored_at.isoformat(),
        "policy": str(episode.policy_id) if episode.policy_id else None,
        "reward_model": str(episode.reward_model_id) if episode.reward_model_id else None,
        "threshold": episode.threshold,
        "version": episode.version,
        "d_start": episode.d_start,
        "d_end": episode.d_end,
        "return_sum": episode.return_sum,
        "duration_s": episode.duration_s,
        "dataset": episode.dataset_id,
    }


def episode_steps(episode: Episode) -> dict[str, Any]:
    """What the replay draws: d(o,g) at each observation, the reward r_t = d_t - d_{t+1}, actions, who acted,
    where the fence turned the action aside, observations.
    """
    try:
        (recorded,) = read_episodes(episode.file, frames=False)
    except (OSError, EpisodeError) as error:
        raise Refused(
            f"The file of {episode} can't be read ({error}); restore {episode.path} in the data folder."
        ) from None
    d = recorded.steps_to_go.astype(float)
    return {
        "uuid": str(episode.uuid),
        "fps": recorded.fps,
        "threshold": recorded.threshold,
        "d": _numbers(d),
        "reward": _numbers(d[:-1] - d[1:]),
        "actions": recorded.actions.round(5).tolist(),
        "actors": recorded.actors.tolist(),
        "fenced": recorded.fenced.tolist(),
        # A picture is no list of numbers: it comes as the episode's frames.
        "observations": {
            key: array.astype(float).round(4).tolist()
            for key, array in recorded.observations.items()
            if array.dtype != np.uint8
        },
        "embodiment": recorded.body.to_json() if recorded.body else episode.station.embodiment,
        "frames": recorded.steps + 1,
    }


def episode_cameras(episode: Episode) -> list[dict[str, str]]:
    """[{"name", "missing": why it has no pictures}] of an episode whose pictures are made. Names come from outside."""
    try:
        found: list[dict[str, str]] = json.loads((episode.frames_dir / CAMERAS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:  # made before there were several cameras
        return [{"name": "", "missing": ""}]
    return found


def frame_file(episode: Episode, camera: str, step: int) -> Path:
    """Where the camera's picture of an observation lies; "": of the first camera that has any."""
    cameras = episode_cameras(episode)
    wanted = [i for i, each in enumerate(cameras) if (each["name"] == camera if camera else not each["missing"])]
    if not wanted:
        names = ", ".join(each["name"] for each in cameras if each["name"])
        raise NotFound(f"{episode} has no camera {camera!r}" + (f"; it has {names}." if names else "."))
    if missing := cameras[wanted[0]]["missing"]:
        raise NotFound(missing)
    folder = episode.frames_dir
    if (folder / CAMERAS_FILE).exists():
        folder /= str(wanted[0])
    return folder / f"{step:05d}.jpg"


def _numbers(values: np.ndarray) -> list[float | None]:
    """JSON knows no NaN: where no reward model ran there is null."""
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def body_facts(station: Station) -> dict[str, Any] | None:
    """What a station said of its body, as its page shows it: a row for each number of each vector."""
    body = read_body(station.embodiment)
    if body is None:
        return None
    motions: tuple[Motion | None, ...] = body.motions or (None,) * body.action_size
    return {
        "body": body,
        "vectors": [(key, _numbers_of(feature)) for key, feature in body.observation.items() if not feature.is_picture],
        "pictures": [(key, *feature.shape[:2]) for key, feature in body.observation.items() if feature.is_picture],
        "action": list(zip(_numbers_of(body.action), motions, strict=True)),
    }


def _numbers_of(feature: Feature) -> list[dict[str, Any]]:
    """Each number of a vector: name, unit, low and high, the latter None where the body doesn't say."""
    names: list[dict[str, Any]] = [{"name": name, "unit": "", "low": None, "high": None} for name in feature.names]
    for part, values in (("unit", feature.units), ("low", feature.low), ("high", feature.high)):
        for row, value in zip(names, values, strict=False):
            row[part] = value
    return names


def body_names(lab: Lab) -> list[str]:
    """Of the bodies that the lab's stations said they are, or were registered with."""
    said = lab.stations.filter(archived_at=None).values_list("embodiment__name", flat=True)
    return sorted({name for name in said if name})


def list_families(lab: Lab) -> dict[str, TaskFamily]:
    """By name: the built-in ones, and those of the lab's tasks in words."""
    found = ((task.family, task.task_family) for task in lab.tasks.exclude(wordings=[]))
    return {**TASKS, **{name: family for name, family in found if family is not None}}


def family_titles(lab: Lab) -> dict[str, str]:
    """How people call a family, by its name: as its world does, or as the task in words is named."""
    in_words = dict(lab.tasks.exclude(wordings=[]).values_list("family", "name"))
    return {name: each.title for name, each in TASKS.items()} | in_words


def station_embodiment(station: Station) -> Embodiment:
    if not station.embodiment:
        raise Invalid(f"{station} has not named its embodiment yet: connect it to /ws/station first, then upload.")
    return Embodiment.from_json(station.embodiment)


def list_alarms(lab: Lab) -> QuerySet[Alarm]:
    """Those of the detector that are open, the newest first."""
    return lab.alarms.filter(closed_at=None).select_related("station", "policy__run")


def count_help(lab: Lab) -> int:
    """How many help requests and alarms are open."""
    requests = HelpRequest.objects.filter(lab=lab, closed_at=None).order_by().values_list("pk")
    return requests.union(Alarm.objects.filter(lab=lab, closed_at=None).order_by().values_list("pk"), all=True).count()


# For the charts


class Quartiles(Aggregate):
    """Of a column: [lower quartile, median, upper quartile]."""

    template = "percentile_cont(ARRAY[0.25, 0.5, 0.75]) WITHIN GROUP (ORDER BY %(expressions)s)"
    output_field = ArrayField(FloatField())


class Lengths(TypedDict):
    """Of the practice episodes with one version of a run's policy, in steps."""

    run: int
    version: int
    count: int
    quartiles: list[float]


def episode_lengths(lab: Lab, run_ids: list[int]) -> list[Lengths]:
    """By run and version, the oldest version first."""
    rows = lab.episodes.filter(purpose="practice", run_id__in=run_ids).order_by()
    found = rows.values_list("run", Coalesce("version", 0)).annotate(count=Count("pk"), quartiles=Quartiles("steps"))
    return [
        Lengths(run=run, version=version, count=count, quartiles=each) for run, version, count, each in sorted(found)
    ]


def interventions_per_robot_hour(lab: Lab, hours: int = 24, run_ids: list[int] | None = None) -> list[dict[str, Any]]:
    """For each station: touches, the hours it ran episodes, and their ratio (None below a minute of episodes)."""
    since = timezone.now() - timedelta(hours=hours)
    episodes = Episode.objects.filter(lab=lab, stored_at__gte=since)
    touches = Intervention.objects.filter(lab=lab, started_at__gte=since).exclude(kind="relabel")  # no robot waits
    if run_ids:
        episodes, touches = episodes.filter(run_id__in=run_ids), touches.filter(run_id__in=run_ids)
    ran = dict(episodes.order_by().values_list("station").annotate(total=Sum("duration_s")))
    kinds: dict[int, Counter[str]] = {}
    for station, kind, count in touches.order_by().values_list("station", "kind").annotate(n=Count("id")):
        kinds.setdefault(station, Counter())[kind] = count
    rows = []
    for station in list_stations(lab):
        robot_hours = (ran.get(station.pk) or 0.0) / 3600
        touched = kinds.get(station.pk, Counter())
        rows.append(
            {
                "station": station.slug,
                "name": station.name,
                "robot_hours": robot_hours,
                "touches": dict(touched),
                "per_hour": sum(touched.values()) / robot_hours if robot_hours > 1 / 60 else None,
            }
        )
    return rows


def task_of_family(lab: Lab, family: str) -> Task | None:
    return lab.tasks.filter(family=family).order_by("pk").first()


# People and the audit log

ACT_FIELDS = ("id", "at", "person", "station", "kind", "lease_epoch", "reason", "details", "source")


def list_members(lab: Lab) -> list[Membership]:
    """Managers first, then by name."""
    rows = lab.memberships.select_related("user")
    return sorted(rows, key=lambda row: (-ROLES.index(row.role), row.user.get_username()))


def list_open_invitations(lab: Lab) -> QuerySet[Invitation]:
    return lab.invitations.filter(Invitation.open_now()).select_related("created_by")


SOON = timedelta(days=14)  # a token that expires within it is marked
OVER_SHOWN = 20


def list_access_tokens(user: User) -> list[AccessToken]:
    """Those in use, the newest first; then the last of those that open nothing any more."""
    rows = AccessToken.objects.filter(user=user).select_related("lab").order_by("-id")
    in_use = Q(revoked_at=None, expires_at__gt=timezone.now())
    return [*rows.filter(in_use), *rows.exclude(in_use)[:OVER_SHOWN]]


def names_in_acts(lab: Lab) -> tuple[list[str], list[str]]:
    """Who and what the log names; those that are gone too."""
    rows = _acts_of(lab).order_by()
    people = rows.exclude(user_name="").values_list("user_name", flat=True).distinct()
    stations = rows.exclude(station_name="").values_list("station_name", flat=True).distinct()
    return sorted(people), sorted(stations)


def list_acts(
    lab: Lab,
    *,
    person: str = "",
    station: str = "",
    kind: str = "",
    since: date | None = None,
    until: date | None = None,
) -> QuerySet[Act]:
    """Newest first; each filter that is given must hold. `until` is the last day that counts, in the
    zone of who asks.
    """
    exact = {"user_name": person, "station_name": station, "kind": kind}
    zone = timezone.get_current_timezone()
    rows = _acts_of(lab).filter(**{name: value for name, value in exact.items() if value}).order_by("-id")
    if since:
        rows = rows.filter(at__gte=datetime.combine(since, time.min, zone))
    if until and until < date.max:  # the last day there is has none after it
        rows = rows.filter(at__lt=datetime.combine(until + timedelta(days=1), time.min, zone))
    return rows


def _acts_of(lab: Lab) -> QuerySet[Act]:
    """The lab's own, and those that are no lab's, such as a try to log in with an unknown name."""
    return Act.objects.filter(Q(lab=lab) | Q(lab=None))


def act_row(act: Act) -> dict[str, Any]:
    return {
        "id": act.pk,
        "at": act.at.isoformat(),
        "person": act.user_name,
        "station": act.station_name,
        "kind": act.kind,
        "lease_epoch": act.lease_epoch,
        "reason": act.reason,
        "details": act.details,
        "source": act.source,
    }


# Upkeep: is a station well, and what were its hours used for

SILENT_S = 15  # telemetry is written down every 5 s
MANY_RECONNECTIONS = 5
COLUMNS = 480  # of the drawn strip; a week of short episodes would be more marks than anyone can tell apart


def station_health(station: Station) -> dict[str, Any]:
    return _health_of([station])[station.pk]


def list_upkeep(lab: Lab) -> list[dict[str, Any]]:
    """[{station, health, use}] by number, of the last 24 hours."""
    stations = list(list_stations(lab))
    health, use = _health_of(stations), use_of_stations(stations, hours=24)
    return [{"station": row, "health": health[row.pk], "use": use[row.pk]} for row in stations]


def _health_of(stations: list[Station]) -> dict[int, dict[str, Any]]:
    """By station: a word (healthy, look at it, offline), why, and the day's failures and reconnections."""
    since = timezone.now() - timedelta(hours=24)
    ended = Episode.objects.filter(station__in=stations, stored_at__gte=since, ending="fault").order_by()
    faults = dict(ended.values_list("station").annotate(n=Count("uuid")))
    back = StationSpan.objects.filter(station__in=stations, state="offline", ended_at__gte=since).order_by()
    returns = dict(back.values_list("station").annotate(n=Count("id")))
    return {row.pk: _health(row, faults.get(row.pk, 0), returns.get(row.pk, 0)) for row in stations}


def _health(station: Station, faults: int, reconnections: int) -> dict[str, Any]:
    why = []
    silent_s = (timezone.now() - station.last_seen).total_seconds() if station.last_seen else None
    if not station.connected:
        word = "offline"
        why.append(f"{station.reason or 'not connected'}" if station.last_seen else "it has never connected")
    else:
        if silent_s is not None and silent_s > SILENT_S:
            why.append(f"connected, but silent for {silent_s:.0f} s")
        if faults:
            why.append(f"{faults} episode{'s' if faults > 1 else ''} ended in a fault in 24 h")
        if reconnections >= MANY_RECONNECTIONS:
            why.append(f"reconnected {reconnections} times in 24 h")
        word = "look at it" if why else "healthy"
    return {
        "word": word,
        "state": {"healthy": "ready", "look at it": "needs_person"}.get(word, "offline"),  # whose shape it borrows
        "why": "; ".join(why) or "connected, sends messages, no faults in 24 h",
        "faults": faults,
        "reconnections": reconnections,
    }


def use_of_stations(stations: list[Station], *, hours: int) -> dict[int, dict[str, Any]]:
    """By station: bars to draw over COLUMNS columns, and the exact hours and share of each state in the window."""
    now = timezone.now()
    begin = now - timedelta(hours=hours)
    spans: dict[int, list[tuple[str, float, float]]] = {station.pk: [] for station in stations}
    rows = StationSpan.objects.filter(Q(ended_at=None) | Q(ended_at__gt=begin), station__in=stations)
    for pk, state, started, ended in rows.order_by("started_at").values_list(
        "station", "state", "started_at", "ended_at"
    ):
        a, b = ((moment - begin).total_seconds() for moment in (max(started, begin), min(ended or now, now)))
        if b > a:
            spans[pk].append((state, a, b))
    return {pk: _use(found, hours, begin) for pk, found in spans.items()}


def _use(spans: list[tuple[str, float, float]], hours: int, begin: datetime) -> dict[str, Any]:
    total: defaultdict[str, float] = defaultdict(float)
    width = hours * 3600 / COLUMNS
    columns: list[defaultdict[str, float]] = [defaultdict(float) for _ in range(COLUMNS)]
    for state, a, b in spans:
        total[state] += b - a
        for column in range(int(a / width), min(int(b / width), COLUMNS - 1) + 1):
            columns[column][state] += min(b, (column + 1) * width) - max(a, column * width)
    # Each column shows the state that it was in for longest; equal neighbours become one bar.
    bars: list[dict[str, Any]] = []
    for x, held in enumerate(columns):
        shown = max(held, key=held.__getitem__) if held else None
        if bars and bars[-1]["state"] == shown:
            bars[-1]["width"] += 1
        else:
            bars.append({"state": shown, "x": x, "width": 1})
    for bar in bars:
        bar["from"] = begin + timedelta(seconds=bar["x"] * width)
        bar["until"] = begin + timedelta(seconds=(bar["x"] + bar["width"]) * width)
    known = sum(total.values())
    longest = sorted(total.items(), key=lambda row: row[1], reverse=True)
    return {
        "hours": hours,
        "columns": COLUMNS,
        "begin": begin,
        "bars": [bar for bar in bars if bar["state"]],
        "rows": [{"state": state, "hours": s / 3600, "share": s / known} for state, s in longest],
        "known_hours": known / 3600,
        "working": sum(total[state] for state in IN_EPISODE) / known if known else None,
    }

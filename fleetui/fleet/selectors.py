"""Reading many rows of the fleet: the wall's cards, lists with filters, what an episode's file says. Nothing here
writes.
"""

from collections import Counter
from datetime import timedelta

import numpy as np
from django.db.models import Count, Q, Sum
from django.utils import timezone

from fleetui.access import Invalid, Refused
from fleetui.fleet.models import AssignedStation, Assignment, Episode, Intervention, Lab, Lease, Station, Task, severity
from robots.embodiments import Embodiment
from robots.episodes import EpisodeError, read_episodes

# What only telemetry knows; a card from the database carries these empty.
NOT_LIVE = {
    "instruction": "",
    "step": None,
    "limit": None,
    "d": None,
    "d_start": None,
    "progress": None,
    "p_success": None,
    "distribution": None,
    "bin_width": None,
    "threshold": None,
    "human": False,
    "sent_at": None,
    "uuid": "",
}


def wall_cards(lab: Lab) -> list[dict]:
    """A card a station; those that need a person first, then by number."""
    stations = list(lab.stations.select_related("loaded_checkpoint").order_by("number"))
    places = {
        place.station_id: place.assignment
        for place in AssignedStation.objects.filter(live=True, station__lab=lab).select_related("assignment__task")
    }
    holders = _holders(station__lab=lab)
    cards = [_card(station, places.get(station.pk), holders.get(station.pk, "")) for station in stations]
    return sorted(cards, key=lambda card: (-card["severity"], card["number"]))


def station_card(station: Station) -> dict:
    return _card(station, station.live_assignment(), _holders(station=station).get(station.pk, ""))


def _holders(**which) -> dict[int, str]:
    """Who is in control of which station: its id to the user's name."""
    live = Lease.objects.filter(released_at=None, user__isnull=False, expires_at__gt=timezone.now(), **which)
    return dict(live.values_list("station_id", "user__username"))


def _card(station: Station, assignment: Assignment | None, holder: str) -> dict:
    return NOT_LIVE | {
        "slug": station.slug,
        "name": station.name,
        "number": station.number,
        "state": station.state,
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
        "self_reset_after_s": station.self_reset_after_s,
        "shuffle_every_s": station.shuffle_every_s,
        "severity": severity(station.state, station.stop_latched),
        "attention": severity(station.state, station.stop_latched) > 0,
    }


def count_states(cards: list[dict]) -> dict[str, int]:
    """How many stations are in each state, and how many want a person."""
    counts = Counter(card["state"] for card in cards)
    return dict(counts) | {"total": len(cards), "attention": sum(card["attention"] for card in cards)}


def recent_episodes(station: Station, limit: int = 20) -> list[dict]:
    return [episode_row(row) for row in station.episodes.select_related("station", "task")[:limit]]


def list_stations(lab: Lab):
    return lab.stations.select_related("loaded_checkpoint").order_by("number")


def free_stations(lab: Lab):
    """Stations that no live assignment holds."""
    return lab.stations.exclude(places__live=True).order_by("number")


def list_tasks(lab: Lab):
    return lab.tasks.order_by("name")


def list_assignments(lab: Lab, live_only: bool = False):
    rows = lab.assignments.select_related("task", "run", "created_by").prefetch_related("stations")
    return rows.filter(state__in=Assignment.LIVE) if live_only else rows


def assignment_row(assignment: Assignment) -> dict:
    return {
        "id": assignment.pk,
        "task": assignment.task.slug,
        "state": assignment.state,
        "run": assignment.run_id,
        "stations": [station.slug for station in assignment.stations.all()],
        "created_at": assignment.created_at.isoformat(),
        "ended_at": assignment.ended_at.isoformat() if assignment.ended_at else None,
    }


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
    human: bool | None = None,
    query: str = "",
):
    """Newest first; each filter that is given must hold. `station` and `task` are slugs, `query` words of the
    instruction.
    """
    rows = lab.episodes.select_related("station", "task", "run").order_by("-stored_at")
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
    if human is not None:
        rows = rows.filter(Q(human_steps__gt=0) | Q(interventions__gt=0)) if human else rows.filter(human_steps=0)
    return rows


def episode_row(episode: Episode) -> dict:
    return {
        "uuid": str(episode.uuid),
        "station": episode.station.slug,
        "task": episode.task.slug if episode.task else None,
        "run": episode.run_id,
        "instruction": episode.instruction,
        "purpose": episode.purpose,
        "ending": episode.ending,
        "detected_success": episode.detected_success,
        "true_success": episode.true_success,
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


def episode_steps(episode: Episode) -> dict:
    """What the replay draws: d(o,g) at each observation, the reward r_t = d_t - d_{t+1}, actions, who acted,
    observations.
    """
    try:
        (recorded,) = read_episodes(episode.file)
    except (OSError, EpisodeError) as error:
        raise Refused(
            f"The file of {episode} can't be read ({error}); restore {episode.path} in the data folder."
        ) from None
    d = recorded.steps_to_go.astype(float)
    return {
        "uuid": str(episode.uuid),
        "control_hz": recorded.control_hz,
        "threshold": recorded.threshold,
        "d": _numbers(d),
        "reward": _numbers(d[:-1] - d[1:]),
        "actions": recorded.actions.round(5).tolist(),
        "actors": recorded.actors.tolist(),
        # A picture is no list of numbers: it comes as the episode's frames.
        "observations": []
        if recorded.observations.dtype == np.uint8
        else recorded.observations.astype(float).round(4).tolist(),
        "embodiment": episode.station.embodiment,
        "frames": recorded.steps + 1,
    }


def _numbers(values: np.ndarray) -> list:
    """JSON knows no NaN: where no reward model ran there is null."""
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def station_embodiment(station: Station) -> Embodiment:
    if not station.embodiment:
        raise Invalid(f"{station} has not said yet what body it is: connect it to /ws/station first, then upload.")
    return Embodiment.from_json(station.embodiment)


def jump_targets(lab: Lab, query: str, limit: int = 8) -> list[dict]:
    """What Ctrl+K offers: stations, runs, tasks and episodes that contain the words."""
    base = f"/labs/{lab.slug}"
    found = [
        {"kind": "station", "title": row.name, "url": f"{base}/stations/{row.slug}"}
        for row in lab.stations.filter(Q(name__icontains=query) | Q(slug__icontains=query))[:limit]
    ]
    found += [
        {"kind": "run", "title": row.name, "url": f"{base}/runs/{row.pk}"}
        for row in lab.runs.filter(name__icontains=query)[:limit]
    ]
    found += [
        {"kind": "task", "title": row.name, "url": f"{base}/tasks/#{row.slug}"}
        for row in lab.tasks.filter(Q(name__icontains=query) | Q(family__icontains=query))[:limit]
    ]
    if query:
        found += [
            {"kind": "episode", "title": f"{str(row.uuid)[:8]} {row.instruction}", "url": f"{base}/episodes/{row.uuid}"}
            for row in lab.episodes.filter(Q(instruction__icontains=query) | Q(uuid__startswith=query))[:limit]
        ]
    return found[: 3 * limit]


# For the charts


def episode_lengths(lab: Lab, run_ids: list[int] | None = None, limit: int = 5000) -> list[dict]:
    """Steps of practice episodes in the order they were stored: [{run, version, steps, detected_success}]."""
    rows = lab.episodes.filter(purpose="practice", run__isnull=False)
    if run_ids:
        rows = rows.filter(run_id__in=run_ids)
    newest = rows.order_by("-stored_at").values("run", "version", "steps", "detected_success", "stored_at")[:limit]
    return list(reversed(newest))


def interventions_per_robot_hour(lab: Lab, hours: int = 24, run_ids: list[int] | None = None) -> list[dict]:
    """For each station: touches, the hours it ran episodes, and their ratio (None below a minute of episodes)."""
    since = timezone.now() - timedelta(hours=hours)
    episodes = Episode.objects.filter(lab=lab, stored_at__gte=since)
    touches = Intervention.objects.filter(lab=lab, started_at__gte=since).exclude(kind="relabel")  # no robot waits
    if run_ids:
        episodes, touches = episodes.filter(run_id__in=run_ids), touches.filter(run_id__in=run_ids)
    ran = dict(episodes.order_by().values_list("station").annotate(total=Sum("duration_s")))
    kinds: dict[int, Counter] = {}
    for station, kind, count in touches.order_by().values_list("station", "kind").annotate(n=Count("id")):
        kinds.setdefault(station, Counter())[kind] = count
    rows = []
    for station in lab.stations.order_by("number"):
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

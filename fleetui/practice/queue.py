"""The lab manager's queue as it is now: which assignments may start, why the others wait, how far those at work are.

Nothing here writes. The dispatcher (actions/dispatch.py) does what these verdicts say, and pages and the API show them,
so that what is shown is what decides.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, QuerySet
from django.utils import timezone

from fleetui.fleet.bodies import what_changed
from fleetui.fleet.models import Assignment, Lab, Station
from fleetui.fleet.templatetags.fleet_words import percent
from fleetui.fleet.templatetags.fleet_words import seconds as say_seconds
from fleetui.fleet.time_zones import zone_named
from fleetui.learning.models import Metric
from robots.protocol import STATES

LATE = timedelta(minutes=1)  # so much after its earliest start one that waits is delayed
RESET_TAKES = timedelta(seconds=30)
KNOWN_RATE = 5  # episodes from which on a rate says something about the time left


@dataclass
class Progress:
    """How far an assignment is: against its budget, else against its run's own limit of episodes."""

    text: str
    share: float
    eta_s: float | None = None
    reached: str = ""  # the sentence that says so, once it is

    def json(self) -> dict[str, Any]:
        return {"text": self.text, "share": self.share, "eta_s": self.eta_s}


@dataclass
class Verdict:
    """What an assignment's state should be, and because of what."""

    assignment: Assignment
    state: str
    reason: str = ""
    starts_with: list[Station] = field(default_factory=list)  # it may start now, with these
    progress: Progress | None = None


def read_queue(lab: Lab, now: datetime | None = None) -> list[Verdict]:
    """A verdict for each live assignment: those at work by their start, then those that wait in the queue's order.

    An assignment that could start but for its stations claims them: nobody behind it may take a station that it waits
    for. One that waits for something else (its earliest start, a person's run, a mend) claims nothing and is passed by.
    """
    now = now or timezone.now()
    live = lab.assignments.filter(state__in=Assignment.LIVE)
    live = live.select_related("task", "run", "parent", "checkpoint", "series").annotate(
        attempts_made=Count("episodes")
    )
    rows = list(live.prefetch_related("places__station").order_by("position", "pk"))
    working = sorted((row for row in rows if row.at_work), key=lambda row: row.pk)
    newest = newest_evaluations([row.run_id for row in working if row.run_id])
    verdicts = [
        _at_work(row, newest.get(row.run_id), now) if row.run_id else _evaluating(row, row.attempts_made, now)
        for row in working
    ]
    if len(rows) == len(working):
        return verdicts
    stations = list(lab.stations.filter(archived_at=None).order_by("number"))
    held = {
        place.station_id: verdict for verdict in verdicts for place in verdict.assignment.places.all() if place.live
    }
    claimed: dict[int, Assignment] = {}
    return verdicts + [_waiting(row, stations, held, claimed, now) for row in rows if not row.at_work]


def newest_evaluations(run_ids: list[int]) -> dict[int, dict[str, Any]]:
    """The newest point of each run's success curve."""
    rows = Metric.objects.filter(run_id__in=run_ids, kind="evaluation").order_by("run_id", "-seq").distinct("run_id")
    return dict(rows.values_list("run_id", "data"))


# At work


def _at_work(row: Assignment, evaluation: dict[str, Any] | None, now: datetime) -> Verdict:
    run = row.run
    assert run is not None  # that is what makes it one at work
    stations = [place.station for place in row.places.all() if place.live]
    unable = [_inability(station, now) for station in stations]
    stands = run.state in ("pausing", "paused") or (bool(stations) and all(unable))
    progress = progress_of(row, evaluation, now, stands)
    if run.state in ("queued", "starting"):
        if row.started_at is not None:
            return Verdict(row, "delayed", f"its run {run} was interrupted and begins again", progress=progress)
        waits = run.state == "queued" and now - run.created_at > LATE
        reason = "waits for a free worker" if waits else "is starting"
        return Verdict(row, "standby", f"its stations are reserved and its run {run} {reason}", progress=progress)
    if run.state in ("pausing", "paused"):
        return Verdict(row, "delayed", f"its run {run} is paused: resume it there", progress=progress)
    if stands:
        return Verdict(row, "delayed", f"nobody can practise: {_named(stations, unable)}", progress=progress)
    return Verdict(row, "underway", progress=progress)


def _evaluating(row: Assignment, made: int, now: datetime) -> Verdict:
    """An evaluation that has its stations: no run stands behind it, and it is over after its attempts."""
    stations = [place.station for place in row.places.all() if place.live]
    unable = [_inability(station, now) for station in stations]
    stands = bool(stations) and all(unable)
    progress = attempts_progress(row, made, now, stands)
    if progress.reached:
        return Verdict(row, row.state, progress=progress)
    if stands:
        return Verdict(row, "delayed", f"nobody can make an attempt: {_named(stations, unable)}", progress=progress)
    if row.state == "standby" and not any(station.loaded_checkpoint_id == row.checkpoint_id for station in stations):
        reason = f"its stations are reserved and load {row.checkpoint} of {row.parent}"
        return Verdict(row, "standby", reason, progress=progress)
    return Verdict(row, "underway", progress=progress)


def _named(stations: list[Station], unable: list[str]) -> str:
    named = ", ".join(f"{station} {why}" for station, why in zip(stations[:3], unable, strict=False))
    return f"{named} and {len(stations) - 3} more" if len(stations) > 3 else named


def attempts_progress(row: Assignment, made: int, now: datetime, stands: bool = False) -> Progress:
    """How far an evaluation is. Where it stands still nobody knows how long the rest will take."""
    total, began = row.budget_episodes, row.started_at
    assert total is not None and began is not None  # of each that has its stations, by the database's word
    left = None
    if made >= KNOWN_RATE and not stands:
        left = max(0, total - made) * max(0.0, (now - began).total_seconds()) / made
    reached = f"It made {made} attempts." if made >= total else ""
    return Progress(_with_eta(f"{made} of {total} attempts", left), min(1.0, made / total), left, reached)


def _inability(station: Station, now: datetime) -> str:
    """Why it can't practise now, as in "is stopped"; "" where it can.

    A reset is a part of practice: only one that nobody has made for a while holds anything up.
    """
    if not station.connected:
        return STATES["offline"].unable
    if station.maintenance:
        return "is in maintenance"
    if station.stop_latched:
        return STATES["stopped"].unable
    if station.state == "needs_person" and now - station.state_since < RESET_TAKES:
        return ""
    return STATES["paused" if station.paused else station.state].unable


def progress_of(row: Assignment, evaluation: dict[str, Any] | None, now: datetime, stands: bool = False) -> Progress:
    """While it stands still nobody knows how long its episodes will take; hours go by all the same."""
    run, began = row.run, row.started_at
    assert run is not None  # only what a run stands behind makes progress
    passed = max(0.0, (now - began).total_seconds()) if began else 0.0
    episodes = run.practice_episodes
    if row.budget_hours is not None:
        total = row.budget_hours * 3600
        left: float | None = max(0.0, total - passed)
        reached = f"It practised for {row.budget_hours:g} h." if passed >= total else ""
        text = f"{passed / 3600:.1f} of {row.budget_hours:g} h"
        return Progress(_with_eta(text, left if began else None), min(1.0, passed / total), left, reached)
    if row.target_success is not None:
        if not evaluation or not evaluation.get("n"):
            return Progress(f"{episodes} episodes, not evaluated yet; {percent(row.target_success)} are wanted", 0.0)
        rate, n = evaluation["successes"] / evaluation["n"], evaluation["n"]
        text = f"{percent(rate)} true success (n = {n}) of {percent(row.target_success)}"
        reached = f"It reached {percent(rate)} true success (n = {n})." if rate >= row.target_success else ""
        return Progress(text, min(1.0, rate / row.target_success), None, reached)
    total = row.budget_episodes or int(run.recipe.get("max_episodes") or 0)
    if not total:
        return Progress(f"{episodes} episodes", 0.0)
    left = None
    if passed and episodes >= KNOWN_RATE and not stands:
        left = max(0, total - episodes) * passed / episodes
    # A run of its own that has this very limit ends by itself, after its last update and evaluation.
    ends_itself = int(run.recipe.get("max_episodes") or 0) <= total
    if ends_itself and episodes >= total:
        return Progress(f"{episodes} of {total} episodes, its last update goes on", 1.0, 0.0)
    reached = "" if episodes < total else f"It collected {episodes} episodes."
    return Progress(_with_eta(f"{episodes} of {total} episodes", left), min(1.0, episodes / total), left, reached)


def _with_eta(text: str, left: float | None) -> str:
    return text if left is None else f"{text}, about {say_seconds(left)} left"


# Waiting


def _waiting(
    row: Assignment,
    stations: list[Station],
    held: dict[int, Verdict],
    claimed: dict[int, Assignment],
    now: datetime,
) -> Verdict:
    blocked = _blocked(row, stations)
    if blocked:
        return Verdict(row, "blocked", blocked)
    if row.not_before and row.not_before > now:
        return Verdict(row, "queued", f"earliest start {say_moment(row.not_before, now)}")
    if row.parent_id is None:
        return _late(row, "waits for a person to launch a run for it", now)
    wanted = _wanted(row, stations)
    if row.any_count:
        wanted = [
            station for station in wanted if station.connected and not station.stop_latched and not station.paused
        ]
    free = [station for station in wanted if station.pk not in held and station.pk not in claimed]
    needed = row.any_count or len(wanted)
    rivals = {claimed[station.pk].pk for station in wanted if station.pk in claimed}
    if len(free) >= needed:
        chosen = free[:needed]
        claimed.update({station.pk: row for station in chosen})
        # What a launch was refused for stays said until one succeeds.
        return Verdict(row, row.state, row.reason or "starts now", starts_with=chosen)
    claims = free if row.any_count else [station for station in wanted if station.pk not in claimed]
    claimed.update({station.pk: row for station in claims})
    reasons = []
    busy = [(station, held[station.pk]) for station in wanted if station.pk in held]
    if busy:
        soonest = min(busy, key=lambda pair: _time_left(pair[1]))
        station, holder = soonest
        reasons.append(f"waits for {station}, which {_does(holder.assignment)} until {_until(holder, now)}")
    if rivals:
        reasons.append(f"{len(rivals)} before it in the queue")
    if not reasons:
        unable = [s for s in _wanted(row, stations) if s not in wanted]
        reasons.append(f"waits for {', '.join(f'{s}, which {_inability(s, now)}' for s in unable[:2]) or 'stations'}")
    return _late(row, "; ".join(reasons), now)


def _wanted(row: Assignment, stations: list[Station]) -> list[Station]:
    if not row.any_count:
        return [place.station for place in sorted(row.places.all(), key=lambda place: place.station.number)]
    return [station for station in stations if _has_its_body(row, station) and not _changed(row, station)]


def _has_its_body(row: Assignment, station: Station) -> bool:
    return bool(station.embodiment.get("name") == row.task.embodiment)


def _changed(row: Assignment, station: Station) -> str:
    """What of the station's body is no longer as it was when the policy's demonstrations were recorded."""
    return what_changed(station.embodiment, row.parent.body) if row.parent else ""


def _blocked(row: Assignment, stations: list[Station]) -> str:
    """Why it can't start however long it waits, and what to do about it; "" where waiting helps."""
    if row.task.archived_at:
        return f"{row.task} is archived: restore the task, or cancel this"
    if row.checkpoint is not None and not row.checkpoint.file.is_file():
        return f"{row.parent} no longer keeps {row.checkpoint}: cancel this, and evaluate a newer policy"
    wanted = _wanted(row, stations)
    # A person who launches a run may well do so before the stations are switched on.
    here = [station for station in wanted if station.connected or row.parent_id is None]
    if not row.any_count:
        if not wanted:
            return "none of its stations is left: cancel it and assign the task again"
        if not here:
            return f"all of its stations are offline: start {' or '.join(map(str, wanted[:3]))}"
        return ""
    body = row.task.embodiment
    changed = [(station, _changed(row, station)) for station in stations if _has_its_body(row, station)]
    if not wanted and changed:
        station, what = changed[0]
        return f"{station} is not as it was when the policy's demonstrations were recorded ({what}): train a new one"
    if not wanted:
        return f"no station has the embodiment {body}: add one on the wall, or cancel this"
    if len(wanted) < row.any_count:
        return f"it wants {row.any_count} stations with the embodiment {body}, and the lab has {len(wanted)}: add more"
    if not here:
        return f"all stations with the embodiment {body} are offline: start {row.any_count} of them"
    if len(here) < row.any_count:
        return f"it wants {row.any_count} stations with the embodiment {body}, and {len(here)} are online: start more"
    return ""


def _late(row: Assignment, reason: str, now: datetime) -> Verdict:
    late = now - max(row.not_before, row.created_at) if row.not_before else timedelta()
    if late > LATE:
        return Verdict(row, "delayed", f"{say_seconds(late.total_seconds())} late: {reason}")
    return Verdict(row, "queued", reason)


def _does(row: Assignment) -> str:
    return f"evaluates a policy at {row.task}" if row.evaluates else f"practises {row.task}"


def _time_left(verdict: Verdict) -> float:
    left = verdict.progress.eta_s if verdict.progress else None
    return float("inf") if left is None else left


def _until(verdict: Verdict, now: datetime) -> str:
    left = _time_left(verdict)
    if left != float("inf"):
        return f"about {say_moment(now + timedelta(seconds=left), now)}"
    if verdict.assignment.evaluates:
        return f"it has made its {verdict.assignment.budget_episodes} attempts"
    target = verdict.assignment.target_success
    return f"it succeeds in {percent(target)}" if target is not None else f"its run {verdict.assignment.run} ends"


def say_moment(moment: datetime, now: datetime) -> str:
    """14:05 CET today, Thu 08:00 CET within a week, else the date as well; in the zone of who asks."""
    away = abs((moment - now).total_seconds())
    moment, now = timezone.localtime(moment), timezone.localtime(now)
    if moment.date() == now.date():
        return f"{moment:%H:%M %Z}"
    return f"{moment:%a %H:%M %Z}" if away < 6 * 86_400 else f"{moment.day} {moment:%b %Y %H:%M %Z}"


def say_budget(row: Assignment) -> str:
    if row.budget_episodes:
        return f"{row.budget_episodes} {'attempts' if row.evaluates else 'episodes'}"
    if row.budget_hours is not None:
        return f"{row.budget_hours:g} h"
    if row.target_success is not None:
        return f"until {percent(row.target_success)} true success"
    return "until its run ends"


def say_repeats(row: Assignment) -> str:
    """In the series' own zone: there, and nowhere else, is it the same time all year."""
    if not row.repeats:
        return ""
    assert row.due_at is not None  # the database asks for it of what repeats
    due = row.due_at.astimezone(zone_named(row.time_zone))
    return f"{'daily' if row.repeats == 'daily' else f'each {due:%A}'} at {due:%H:%M} {row.time_zone}"


def list_series(lab: Lab) -> QuerySet[Assignment]:
    """What repeats: the first assignment of each series that goes on."""
    return lab.assignments.exclude(repeats="").select_related("task", "schedule").order_by("due_at")


def assignment_row(row: Assignment, verdict: Verdict | None = None) -> dict[str, Any]:
    """An assignment as the API answers it."""
    stations = sorted((place.station for place in row.places.all()), key=lambda station: station.number)
    moments = {
        name: value.isoformat() if (value := getattr(row, name)) else None
        for name in ("not_before", "due_at", "created_at", "started_at", "ended_at")
    }
    return moments | {
        "id": row.pk,
        "task": row.task.slug,
        "purpose": "evaluation" if row.evaluates else "practice",
        "checkpoint": str(row.checkpoint_id) if row.checkpoint_id else None,
        "state": verdict.state if verdict else row.state,
        "reason": verdict.reason if verdict else row.reason,
        "run": row.run_id,
        "parent": row.parent_id,
        "stations": [station.slug for station in stations],
        "any": row.any_count,
        "episodes": row.budget_episodes,
        "hours": row.budget_hours,
        "target_success": row.target_success,
        "progress": verdict.progress.json() if verdict and verdict.progress else None,
        "priority": row.get_priority_display(),
        "position": row.position,
        "repeats": row.repeats,
        "time_zone": row.time_zone,
        "series": row.series_id,
    }

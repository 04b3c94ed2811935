"""A lab as full as after years of use: rows as the loop leaves them, by which `try_pages` measures pages, and which
whoever wants may look at.

Nothing here happened. Every row refers to what is there, so that each page and each link works: all episodes and the
whole dataset lie in the one file of demonstrations that the fleet began with.
"""

import math
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from fleetui import access
from fleetui.fleet.actions.labs import add_member, create_lab, create_station, create_task
from fleetui.fleet.models import Act, AssignedStation, Assignment, Episode, HelpRequest, Intervention, Lab, Membership
from fleetui.learning.jobs import facts_of_file
from fleetui.learning.listing import list_root
from fleetui.learning.models import Checkpoint, Curve, Dataset, Metric, Run, SpotCheck
from fleetui.practice.first_start import FAMILIES, WORLD
from robots.atomic_files import write_atomically
from robots.embodiments import get_embodiment
from robots.episodes import EpisodeFile, write_episodes
from training.methods.registry import Curve as CurveOfMethod
from training.methods.registry import Method, methods

BATCH = 5000  # rows written at once
STATIONS = 64
DAYS = 60  # that all of it is spread over
POINTS = 400  # of each curve of a run
VERSIONS = 20  # policies of a run that practised
SPOT_CHECKS = 500


@transaction.atomic
def fill_lab(*, source: Dataset, slug: str, episodes: int, runs: int, seed: int = 0) -> "Filling":
    """A lab of its own with the members of `source`'s lab, so many episodes and runs, and one dataset of as many
    episodes. `source` is a ready dataset that is one file of episodes.
    """
    lab = create_lab(slug=slug, name=slug.capitalize())
    for member in Membership.objects.filter(lab=source.lab).select_related("user"):
        add_member(lab=lab, person=member.user, role=member.role)
    filling = Filling(lab, source, np.random.default_rng(seed))
    filling.fleet()
    filling.learning(episodes, runs)
    filling.practice(episodes)
    filling.people(max(1, episodes // 20))
    return filling


class Filling:
    """Writes the rows of one lab, room after room."""

    def __init__(self, lab: Lab, source: Dataset, rng: np.random.Generator) -> None:
        self.lab, self.source, self.rng = lab, source, rng
        self.began = timezone.now() - timedelta(days=DAYS)
        self.users = list(User.objects.filter(memberships__lab=lab).order_by("pk"))

    def at(self, share: float) -> datetime:
        """The time at a share of the days."""
        return self.began + timedelta(days=DAYS * share)

    def fleet(self) -> None:
        body = get_embodiment(WORLD)
        made = [
            create_station(lab=self.lab, user=access.SERVER, name=f"Station {number}", world=WORLD, embodiment=body)
            for number in range(1, STATIONS + 1)
        ]
        self.stations = [station for station, _ in made]
        self.token = made[0][1]  # of the first station
        self.tasks = [create_task(lab=self.lab, user=access.SERVER, family=family) for family in FAMILIES]

    def learning(self, episodes: int, runs: int) -> None:
        """A dataset; half as many runs of a method without stations as of all, the others practise from them."""
        self.dataset = self._dataset(episodes)
        fixed = [method for method in methods().values() if not method.practises]
        practising = [method for method in methods().values() if method.practises]
        rows = [self._run(number, runs, fixed[number % len(fixed)], None) for number in range((runs + 1) // 2)]
        Run.objects.bulk_create(rows)
        later = [
            self._run(number, runs, practising[number % len(practising)], rows[number % len(rows)])
            for number in range(len(rows), runs)
        ]
        Run.objects.bulk_create(later)
        self.runs, self.practised = [*rows, *later], later
        self._assignments()
        metrics = (row for run in self.runs for row in self._metrics(run))
        self._write(Metric, metrics)
        self.policies: dict[int, list[Checkpoint]] = {}
        self.reward_models: dict[int, Checkpoint] = {}
        self._write(Checkpoint, (row for run in self.runs for row in self._checkpoints(run)))

    def _dataset(self, count: int) -> Dataset:
        dataset = Dataset.objects.create(
            lab=self.lab, name="All of it", state="ready", body=self.source.body, created_by=self.users[0]
        )
        dataset.path = f"datasets/{dataset.pk}.safetensors"
        dataset.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(dataset.file, self.source.file.read_bytes())
        dataset.save(update_fields=["path"])
        known = list(facts_of_file(dataset.file))
        facts = (known[n % len(known)] | {"uuid": str(uuid.UUID(bytes=self.rng.bytes(16)))} for n in range(count))
        list_root(dataset=dataset, facts=facts)
        return dataset

    def _run(self, number: int, of: int, method: Method, parent: Run | None) -> Run:
        started = self.at(number / of)
        recipe = method.recipe().to_json() | {"seed": number % 5, "learning_rate": (1e-3, 3e-4, 1e-4)[number // 5 % 3]}
        return Run(
            lab=self.lab,
            name=f"{method.words} {number}",
            kind=method.kind,
            state=("completed", "completed", "completed", "failed", "canceled")[number % 5],
            error="The training process was killed." if number % 5 == 3 else "",
            recipe=recipe,
            dataset=self.dataset if "dataset" in method.needs else None,
            parent=parent,
            attempt=1,
            progress=1.0,
            created_by=self.users[number % len(self.users)],
            created_at=started,
            started_at=started,
            ended_at=started + timedelta(minutes=float(self.rng.uniform(5, 300))),
            tags=["baseline"] if number % 7 == 0 else [],
            notes="What came of it stands in the notebook." if number % 11 == 0 else "",
        )

    def _assignments(self) -> None:
        Assignment.objects.bulk_create(
            Assignment(
                lab=self.lab,
                task=self.tasks[0],
                run=run,
                state="completed",
                created_by=run.created_by,
                created_at=run.created_at,
                started_at=run.started_at,
                ended_at=run.ended_at,
            )
            for run in self.practised
        )
        made = Assignment.objects.filter(lab=self.lab)
        AssignedStation.objects.bulk_create(
            AssignedStation(assignment=row, station=self.stations[number % STATIONS]) for number, row in enumerate(made)
        )

    def _metrics(self, run: Run) -> Iterator[Metric]:
        """Each curve that the method draws, POINTS long, and one of success."""
        seq = 0
        started, ended = run.started_at, run.ended_at
        assert started is not None and ended is not None
        for number in range(POINTS):
            at = started + (ended - started) * number / POINTS
            data = {curve.metric: _point(curve, number, self.rng) for curve in run.method.curves}
            if number % 20 == 19:
                data["evaluation"] = self._evaluation(number, run.method.practises)
            for kind, each in data.items():
                seq += 1
                yield Metric(run=run, seq=seq, kind=kind, data=each, at=at)

    def _evaluation(self, number: int, practises: bool) -> dict[str, Any]:
        n = 200
        successes = int(self.rng.binomial(n, 1 - 0.6 * math.exp(-number / POINTS)))
        half = 1.96 * math.sqrt(0.25 / n)
        return {
            "version": number // 20,
            "practice_episodes": 4 * number if practises else 0,
            "n": n,
            "successes": successes,
            "low": max(0.0, successes / n - half),
            "high": min(1.0, successes / n + half),
            "steps_to_success": float(self.rng.uniform(30, 60)),
            "falls": int(self.rng.integers(0, 8)),
        }

    def _checkpoints(self, run: Run) -> Iterator[Checkpoint]:
        versions = VERSIONS if run.method.practises else 1
        self.policies[run.pk] = []
        for version in range(versions):
            at = self._within(run, version / versions)
            row = self._checkpoint(run, "policy", version, at)
            self.policies[run.pk].append(row)
            yield row
        if "reward_model" in run.method.roles:
            self.reward_models[run.pk] = self._checkpoint(run, "reward_model", 0, run.started_at)
            yield self.reward_models[run.pk]

    def _checkpoint(self, run: Run, role: str, version: int, at: datetime | None) -> Checkpoint:
        return Checkpoint(
            uuid=uuid.UUID(bytes=self.rng.bytes(16)),
            run=run,
            role=role,
            version=version,
            path=f"runs/{run.pk}/checkpoints/{role}-{version}.safetensors",
            sha256=self.rng.bytes(32).hex(),
            threshold=4.0 if role == "reward_model" else None,
            consecutive=2 if role == "reward_model" else None,
            published_at=at if run.method.practises else None,
            created_at=at or timezone.now(),
        )

    def _within(self, run: Run, share: float) -> datetime:
        assert run.started_at is not None and run.ended_at is not None
        return run.started_at + (run.ended_at - run.started_at) * share

    def practice(self, episodes: int) -> None:
        """Attempts, what the reward model made of each, and those that people shall look at."""
        demonstrations = EpisodeFile(self.source.file)
        folder = f"episodes/{self.lab.pk}"
        (self.dataset.file.parents[1] / folder).mkdir(parents=True, exist_ok=True)
        paths, lengths = [], []
        for number in range(min(len(demonstrations), 50)):
            recorded = demonstrations.episode(number)
            paths.append(f"{folder}/{recorded.uuid}.safetensors")
            lengths.append(recorded.steps)
            write_episodes(self.dataset.file.parents[1] / paths[-1], [recorded])
        made: list[Episode] = []
        for number in range(episodes):
            made.append(self._episode(number, episodes, paths[number % len(paths)], lengths[number % len(paths)]))
            if len(made) == BATCH or number == episodes - 1:
                Episode.objects.bulk_create(made)
                Curve.objects.bulk_create(self._curve(row) for row in made if row.reward_model_id)
                made = []
        looked_at = Episode.objects.filter(lab=self.lab, detected_success=True).order_by("-stored_at")[:SPOT_CHECKS]
        SpotCheck.objects.bulk_create(
            SpotCheck(
                episode=row,
                lab=self.lab,
                task=self.tasks[0],
                policy_id=row.policy_id,
                reward_model_id=row.reward_model_id,
                answer=None if number % 4 == 0 else number % 10 != 1,
                answered_at=None if number % 4 == 0 else row.stored_at,
                answered_by=None if number % 4 == 0 else self.users[0],
            )
            for number, row in enumerate(looked_at)
        )

    def _episode(self, number: int, of: int, path: str, steps: int) -> Episode:
        at = self.at(number / of)
        run = self.practised[number * len(self.practised) // of] if self.practised else None
        policies = self.policies[run.pk] if run else []
        policy = policies[number % len(policies)] if policies else None
        judge = self.reward_models.get(run.parent_id or 0) if run else None
        success = bool(self.rng.random() < 0.8)
        ending = "detected_success" if success else ("time_limit", "needs_reset")[number % 2]
        d_start = float(self.rng.uniform(20, 60))
        d_end = float(self.rng.uniform(0, 4)) if success else d_start
        return Episode(
            uuid=uuid.UUID(bytes=self.rng.bytes(16)),
            lab=self.lab,
            station=self.stations[number % STATIONS],
            task=self.tasks[number % len(self.tasks)],
            run=run,
            instruction=f"push the {('red', 'blue', 'green', 'yellow')[number % 4]} block to the corner",
            purpose="practice" if number % 10 else "evaluation",
            ending=ending,
            detected_success=success,
            true_success=success if number % 50 else not success,
            steps=steps,
            started_at=at,
            stored_at=at + timedelta(seconds=steps / 10),
            handed_in_at=at,
            policy=policy,
            reward_model=judge,
            threshold=4.0,
            version=policy.version if policy else None,
            path=path,
            d_start=d_start,
            d_end=d_end,
            return_sum=d_start - d_end,
            duration_s=steps / 10,
        )

    def _curve(self, row: Episode) -> Curve:
        assert row.d_start is not None and row.d_end is not None
        d = np.linspace(row.d_start, row.d_end, row.steps + 1).astype("<f4")
        return Curve(
            episode=row,
            d=d.tobytes(),
            error=float(self.rng.normal()) if row.detected_success else None,
            station_id=row.station_id,
            policy_id=row.policy_id,
            weights_id=row.reward_model_id,
            stored_at=row.stored_at,
        )

    def people(self, count: int) -> None:
        """What supervisors did, what was asked of them, and the record of it."""
        kinds = ("reset", "override", "terminate", "pause")
        self._write(
            Intervention,
            (
                Intervention(
                    lab=self.lab,
                    station=self.stations[number % STATIONS],
                    run=self.practised[number % len(self.practised)] if self.practised else None,
                    user=self.users[number % len(self.users)],
                    kind=kinds[number % len(kinds)],
                    started_at=self.at(number / count),
                    ended_at=self.at(number / count) + timedelta(seconds=9),
                    seconds=9.0,
                )
                for number in range(count)
            ),
        )
        self._write(HelpRequest, (self._help(number, count) for number in range(count)))
        self._write(
            Act,
            (
                Act(
                    at=self.at(number / (4 * count)),
                    lab=self.lab,
                    user=self.users[number % len(self.users)],
                    user_name=self.users[number % len(self.users)].username,
                    station=self.stations[number % STATIONS],
                    station_name=self.stations[number % STATIONS].name,
                    kind="reset",
                    source="page",
                )
                for number in range(4 * count)
            ),
        )

    def _help(self, number: int, count: int) -> HelpRequest:
        """The newest few are open; a station has one at most."""
        opened = self.at(number / count)
        waits = number >= count - 8
        return HelpRequest(
            lab=self.lab,
            station=self.stations[number % STATIONS],
            kind="table",
            reason="A block has fallen off the table.",
            severity="warning",
            act="reset",
            p_failure=0.9,
            robot_s=60.0,
            human_s=20.0,
            rank=3.0,
            opened_at=opened,
            closed_at=None if waits else opened + timedelta(minutes=2),
            closed_by=None if waits else self.users[number % len(self.users)],
            outcome="" if waits else "reset",
        )

    def _write(self, model: Any, rows: Iterator[Any]) -> None:
        """Many rows, with few in memory."""
        held = []
        for row in rows:
            held.append(row)
            if len(held) == BATCH:
                model.objects.bulk_create(held)
                held = []
        model.objects.bulk_create(held)


def _point(curve: CurveOfMethod, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """One point of a curve that falls, or of a share that rises."""
    left = math.exp(-3 * number / POINTS)
    values = {
        line.key: round((1 - left if curve.share else left) + float(rng.normal(0, 0.02)), 4) for line in curve.lines
    }
    return {curve.x: number, **values}

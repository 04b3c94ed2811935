"""What language-table and camera share: one family and one time limit, regimes by the number of demonstrations alone.

Success is measured on one set of starts a seed, the same for every row, with sampled actions and without a fence;
fenced_success, of some rows, with one, as the policies practise. Nothing is chosen by it: the figure is that of the
last version.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robots.episodes import Episode
from robots.tasks import get_task
from robots.worlds import make_world
from robots.worlds.language_table import TIME_LIMIT_STEPS
from robots.worlds.language_table.demonstrator import demonstrate
from robots.worlds.language_table.physics import LanguageTable
from training.benchmarks import Row, difference, mean_of, two_stage_pipeline
from training.benchmarks.two_stage_pipeline import (
    RULES,
    Stage1,
    Stage2,
    evaluation_seed,
    script_row,
    stage1,
    stage2,
    success,
)
from training.checkpoints import Policy

PRACTICE = 200
# Rows that are measured with a fence as well.
FENCED = ("sft", "practice-200", "more-demonstrations", "data-8x", "no-fence", "policy-gradient", "paper-settings")


@dataclass(frozen=True)
class Regimes:
    """regime -> demonstrations of one family; `attempts` a figure, 0 for as many as usual.

    In the regimes named `by_sft` SFT succeeds about .45, .60 and .75; four and eight times the demonstrations are
    beside them.
    """

    task: str
    demonstrations: dict[str, int]
    time_limit: int = TIME_LIMIT_STEPS
    attempts: int = 0
    by_sft: tuple[str, ...] = ("small", "middle", "large")
    shares: tuple[int, ...] = (10, 30)  # per cent of the demonstrations, in practice episodes
    times: tuple[int, ...] = (4, 8)  # as many demonstrations
    fenced: bool = True  # whether the rows of FENCED are measured behind a fence too

    @property
    def most(self) -> int:
        """Demonstrations that some row needs."""
        more = max(self.demonstrations.values()) + PRACTICE
        return max([more, *(self.demonstrations[regime] * max(self.times) for regime in self.by_sft)])

    def rows(self, regime: str, begin: Stage1, data: Sequence[Episode], path: Path, seed: int) -> list[Row]:
        """All rows of one regime, from its SFT run on; `data` are the demonstrations of the largest."""

        def imitated(setting: str, demonstrations: int) -> Row:
            more = stage1(path / f"{setting}-{regime}", data[:demonstrations], seed)
            return self.judged(setting, regime, more.policy, seed, more.wall_s, demonstrations=demonstrations)

        count = self.demonstrations[regime]
        rows = [self.judged("sft", regime, begin.policy, seed, begin.wall_s, demonstrations=count)]
        after = stage2(path / f"practice-{regime}", begin, seed, PRACTICE, self.time_limit, [self.task])
        for share in self.shares:
            budget = round(count * share / 100)
            if after.within(budget)[0]:
                rows.append(self.practised(f"practice-{share}", regime, begin, after, budget, seed))
        rows.append(self.practised("practice-200", regime, begin, after, PRACTICE, seed))
        rows.append(self.of_version("kept-by-detections", regime, begin, after, *after.most_detected(), seed))
        rows.append(imitated("more-demonstrations", count + PRACTICE))
        if regime in self.by_sft:
            rows += [imitated(f"data-{times}x", times * count) for times in self.times]
        return rows

    def practised(self, setting: str, regime: str, begin: Stage1, after: Stage2, episodes: int, seed: int) -> Row:
        """Of the last version that so many practice episodes could make."""
        return self.of_version(setting, regime, begin, after, *after.within(episodes), seed)

    def of_version(
        self, setting: str, regime: str, begin: Stage1, after: Stage2, count: int, policy: Policy, seed: int
    ) -> Row:
        """Of one version of a practice run, which `count` practice episodes made."""
        wall_s = begin.wall_s + after.wall_s * count / max(1, after.versions[-1][0])
        figures = {"demonstrations": begin.count} | after.figures(count)
        return self.judged(setting, regime, policy, seed, wall_s, **figures)

    def judged(self, setting: str, regime: str, policy: Policy, seed: int, wall_s: float, **figures: Any) -> Row:
        """A policy's row: its success without a fence, and behind one where that is asked for."""
        bare = success(policy, seed, self.time_limit, [self.task], self.attempts)
        row = {
            "setting": setting,
            "regime": regime,
            "time_limit": self.time_limit,
            **figures,
            "success": bare.rate,
            "steps_to_success": bare.steps_to_success,
            "falls_per_100": 100 * bare.falls / bare.n,
            "wall_s": round(wall_s, 1),
        }
        if self.fenced and setting in FENCED:
            fenced = success(
                policy, seed, self.time_limit, [self.task], self.attempts, edge_margin=RULES["edge_margin"]
            )
            row |= {"fenced_success": fenced.rate, "fenced_falls_per_100": 100 * fenced.falls / fenced.n}
        return row

    def summary(self, rows: list[Row]) -> dict[str, Any]:
        """The figures that others read, and the paired differences of each regime."""

        def mean(regime: str, other: str) -> float | None:
            each = difference(rows, "practice-200", other, "success", regime)
            return None if each is None else each["mean"]

        over_more = [mean(regime, "more-demonstrations") for regime in self.demonstrations]
        over_8x = sorted(each for regime in self.by_sft if (each := mean(regime, "data-8x")) is not None)
        before, after = (
            sum(mean_of(rows, setting, "falls_per_100", regime) or 0 for regime in self.demonstrations)
            for setting in ("sft", "practice-200")
        )
        return {
            "demonstrator_success": mean_of(rows, "demonstrator", "success"),
            "gain_small": mean("small", "sft"),
            "over_more_demonstrations": min((each for each in over_more if each is not None), default=None),
            "over_8x": over_8x[-2] if len(over_8x) > 1 else None,
            "falls_ratio": after / before if before else None,
            **{
                f"{regime}: practice-200 minus {other}": pair
                for regime in self.demonstrations
                for other in ("sft", "kept-by-detections", "more-demonstrations", "data-4x", "data-8x")
                if (pair := difference(rows, "practice-200", other, "success", regime))
            },
            **{
                f"{regime}: practice-200 minus {other}, both fenced": pair
                for regime in self.demonstrations
                for other in ("sft", "more-demonstrations", "data-8x")
                if (pair := difference(rows, "practice-200", other, "fenced_success", regime))
            },
        }


def demonstrator(seed: int, name: str = "block2block") -> Row:
    """The scripted one of a table's family, who is told where things are; from the starts that judge policies."""
    started, task = time.monotonic(), get_task(name)
    attempts, world = [], make_world(task.world, 0)
    if not isinstance(world, LanguageTable):
        raise ValueError(f"{name} is no task of a table.")
    for number in range(two_stage_pipeline.EVALUATION_EPISODES):
        rng = np.random.default_rng([evaluation_seed(seed), number])
        world.reset(rng)
        instruction = task.sample(rng, world.objects_in_play())
        attempts.append(demonstrate(world, instruction, rng, time_limit=task.time_limit_steps))
    return script_row(attempts, task.time_limit_steps, time.monotonic() - started)

"""language-table: is practice worth more than imitation where skill is lacking? Block2Block from state observations.

One time limit for every row, at which the scripted demonstrator succeeds in more than .95 of its attempts. Regimes
differ in the number of demonstrations alone: small, middle and large are those of which SFT succeeds about .45, .60 and
.75 (chosen on seeds 100 to 104), and beside them 50 and 100. In each:

    sft                 imitation alone
    practice-200        and 200 practice episodes; practice-10 and -30 after 10 and 30 % of the demonstrations, of the
                        same run, where that is a round at least
    more-demonstrations imitation of 200 demonstrations more
    data-4x, data-8x    of four and eight times the demonstrations (small, middle and large)

In the smallest regime, 200 practice episodes each, other ways to practise:

    no-fence            nothing is turned aside
    policy-gradient     on-policy, gamma .9, several epochs and a clip, instead of the replay
    paper-settings      the paper's: gamma .9, c .05, 16 x 64 steps used once, no clip; no fence
    filtered-cloning    cloning of the practice episodes whose success was detected
    awac                ours without the steps-to-go reward: 1 at a detected success alone
    sparse, ppo         that reward by policy gradient, and with a critic
    hand-picked         ours, but the named blocks are looked up instead of found in the words (an upper bound)

Success is measured on one set of starts a seed, the same for every row, with sampled actions and without a fence;
fenced_success with one, as the policies practise. Nothing is chosen by it: the figure is that of the last version.
Privileged: exact poses (observation, fence), the true success that ends a demonstration, needs_reset.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from robots.demonstrators import demonstrate
from robots.episodes import Episode
from robots.tasks import get_task
from robots.worlds.language_table import LanguageTable
from training.benchmarks import Report, Row, difference, mean_of, table_runs
from training.benchmarks.table_runs import (
    RULES,
    Stage1,
    Stage2,
    demonstrations,
    evaluation_seed,
    folder,
    picked,
    stage1,
    stage2,
    success,
)
from training.checkpoints import Loaded, Policy, RewardModel

TASK = ("block2block",)
TIME_LIMIT = get_task(TASK[0]).time_limit_steps
REGIMES = {"small": 3, "middle": 5, "large": 8, "50": 50, "100": 100}  # demonstrations
BY_SFT = ("small", "middle", "large")
PRACTICE = 200
SHARES = (10, 30)  # per cent
TIMES = (4, 8)

UNCLIPPED = 100.0


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    rows = [demonstrator(seed)]
    with folder() as path:
        data = demonstrations(seed, max(REGIMES.values()) + PRACTICE, report, 0.1, TASK)
        small = None
        for number, (regime, count) in enumerate(REGIMES.items()):
            report(0.1 + 0.1 * number, f"{regime}: {count} demonstrations")
            begin = stage1(path / f"sft-{regime}", data[:count], seed)
            small = small or begin
            rows += of_regime(regime, count, begin, data, path, seed)
        for number, (setting, other) in enumerate(OTHERS.items()):
            report(0.6 + 0.4 * number / len(OTHERS), setting)
            rows.append(other(setting, small, path, seed))
    return rows


def summarise(rows: list[Row]) -> dict:
    def gain(setting: str, other: str, regime: str, figure: str = "success") -> dict | None:
        return difference(rows, setting, other, figure, regime)

    def mean(each: dict | None) -> float | None:
        return None if each is None else each["mean"]

    over_more = [mean(gain("practice-200", "more-demonstrations", regime)) for regime in REGIMES]
    over_8x = sorted(mean(each) for regime in BY_SFT if (each := gain("practice-200", "data-8x", regime)) is not None)
    before, after = (
        sum(mean_of(rows, setting, "falls_per_100", regime) or 0 for regime in REGIMES)
        for setting in ("sft", "practice-200")
    )
    return {
        "demonstrator_success": mean_of(rows, "demonstrator", "success"),
        "gain_small": mean(gain("practice-200", "sft", "small")),
        "over_more_demonstrations": min((each for each in over_more if each is not None), default=None),
        "over_8x": over_8x[-2] if len(over_8x) > 1 else None,
        "falls_ratio": after / before if before else None,
        **{
            f"{regime}: practice-200 minus {other}": gain("practice-200", other, regime)
            for regime in REGIMES
            for other in ("sft", "more-demonstrations", "data-4x", "data-8x")
            if gain("practice-200", other, regime)
        },
        **{f"small: {other} minus practice-200": gain(other, "practice-200", "small") for other in OTHERS},
    }


def demonstrator(seed: int) -> Row:
    """The scripted one, from the starts that policies are judged by."""
    started, task = time.monotonic(), get_task(TASK[0])
    attempts, world = [], LanguageTable(0)
    for number in range(table_runs.EVALUATION_EPISODES):
        rng = np.random.default_rng([evaluation_seed(seed), number])
        world.reset(rng)
        attempts.append(demonstrate(world, task.sample(rng, world.objects_in_play()), rng))
    reached = [episode.steps for episode in attempts if episode.true_success]
    return {
        "setting": "demonstrator",
        "time_limit": TIME_LIMIT,
        "success": len(reached) / len(attempts),
        "steps_to_success": float(np.mean(reached)),
        "falls_per_100": 100 * float(np.mean([episode.ending == "needs_reset" for episode in attempts])),
        "wall_s": round(time.monotonic() - started, 1),
    }


def judged(setting: str, regime: str, policy: Policy, seed: int, wall_s: float, **figures) -> Row:
    bare = success(policy, seed, TIME_LIMIT, TASK)
    fenced = success(policy, seed, TIME_LIMIT, TASK, edge_margin=RULES["edge_margin"])
    return {
        "setting": setting,
        "regime": regime,
        "time_limit": TIME_LIMIT,
        **figures,
        "success": bare.rate,
        "steps_to_success": bare.steps_to_success,
        "falls_per_100": 100 * bare.falls / bare.n,
        "fenced_success": fenced.rate,
        "wall_s": round(wall_s, 1),
    }


def practised(setting: str, regime: str, begin: Stage1, after: Stage2, episodes: int, seed: int) -> Row:
    """Of the last version that so many practice episodes could make."""
    count, policy = after.within(episodes)
    wall_s = begin.wall_s + after.wall_s * count / max(1, after.versions[-1][0])
    return of_practice(setting, regime, begin, policy, after.practice()[:count], seed, wall_s)


def of_practice(
    setting: str, regime: str, begin: Stage1, policy: Policy, practice: list[Episode], seed: int, wall_s: float
) -> Row:
    detected = [episode for episode in practice if episode.detected_success]
    return judged(
        setting,
        regime,
        policy,
        seed,
        wall_s,
        demonstrations=begin.count,
        practice_episodes=len(practice),
        resets_per_100=100 * sum(episode.ending == "needs_reset" for episode in practice) / max(1, len(practice)),
        false_detections=float(np.mean([not episode.true_success for episode in detected])) if detected else None,
    )


def of_regime(regime: str, count: int, begin: Stage1, data: Sequence[Episode], path: Path, seed: int) -> list[Row]:
    def imitated(setting: str, demonstrations: int) -> Row:
        more = stage1(path / f"{setting}-{regime}", data[:demonstrations], seed)
        return judged(setting, regime, more.policy, seed, more.wall_s, demonstrations=demonstrations)

    rows = [judged("sft", regime, begin.policy, seed, begin.wall_s, demonstrations=count)]
    after = stage2(path / f"practice-{regime}", begin, seed, PRACTICE, TIME_LIMIT, TASK)
    for share in SHARES:
        budget = round(count * share / 100)
        if after.within(budget)[0]:
            rows.append(practised(f"practice-{share}", regime, begin, after, budget, seed))
    rows.append(practised("practice-200", regime, begin, after, PRACTICE, seed))
    rows.append(imitated("more-demonstrations", count + PRACTICE))
    if regime in BY_SFT:
        rows += [imitated(f"data-{times}x", times * count) for times in TIMES]
    return rows


# Other rewards for the same loop: rewards of an episode's first steps, or None to leave it out


def filtered_cloning(episode: Episode, steps: int, reward_model: RewardModel, policy: Policy) -> np.ndarray | None:
    """Rewards whose return is 1 at each step, for the recipe's discount: -1 R_t log p is plain cloning, unless it is
    clipped.
    """
    if not episode.detected_success:
        return None
    rewards = np.full(steps, 1 - policy.description.recipe["gamma"])
    rewards[-1] = 1.0
    return rewards


def sparse_reward(episode: Episode, steps: int, reward_model: RewardModel, policy: Policy) -> np.ndarray:
    rewards = np.zeros(steps)
    rewards[-1] = float(episode.detected_success)
    return rewards


# The upper bound: no language


@contextmanager
def hand_picked_goals() -> Iterator[None]:
    """Within it every checkpoint is told the named blocks instead of finding them in the words."""

    def goals(self: Loaded, instructions: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([picked(text) for text in instructions]))

    with mock.patch.object(Loaded, "goals", goals):
        yield


# Other ways to practise, in the smallest regime


def another_way(rewards_of=None, **settings):
    def row(setting: str, begin: Stage1, path: Path, seed: int) -> Row:
        after = stage2(path / setting, begin, seed, PRACTICE, TIME_LIMIT, TASK, rewards_of=rewards_of, **settings)
        return practised(setting, "small", begin, after, PRACTICE, seed)

    return row


def with_hand_picked_goals(setting: str, begin: Stage1, path: Path, seed: int) -> Row:
    with hand_picked_goals():
        return another_way()(setting, begin, path, seed)


ON_POLICY = {"replay": 0}
OTHERS = {
    "no-fence": another_way(rules={}),
    "policy-gradient": another_way(**ON_POLICY, gamma=0.9),
    "paper-settings": another_way(
        **ON_POLICY, gamma=0.9, updates_per_round=16, epochs=1, clip=UNCLIPPED, anneal=0.0, rules={}
    ),
    "filtered-cloning": another_way(filtered_cloning, **ON_POLICY, clip=UNCLIPPED),
    "awac": another_way(shaping=0.0),
    "sparse": another_way(sparse_reward, **ON_POLICY),
    "ppo": another_way(sparse_reward, **ON_POLICY, baseline=1.0),
    "hand-picked": with_hand_picked_goals,
}

"""language-table: is practice worth more than imitation where skill is lacking? Block2Block from state observations.

One time limit for every row, at which the scripted demonstrator succeeds in more than .95 of its attempts. Regimes
differ in the number of demonstrations alone: small, middle and large are those of which SFT succeeds about .45, .60 and
.75 (chosen on seeds 100 to 104), and beside them 50 and 100. In each:

    sft                 imitation alone
    practice-200        and 200 practice episodes; practice-10 and -30 after 10 and 30 % of the demonstrations, of the
                        same run, where that is a round at least
    kept-by-detections  that version of the run whose own attempts were most often called a success: what a real
                        station, which knows no true success, could choose
    more-demonstrations imitation of 200 demonstrations more
    data-4x, data-8x    of four and eight times the demonstrations (small, middle and large)

In the smallest regime, 200 practice episodes each, other ways to practise:

    no-fence            nothing is turned aside
    policy-gradient     on-policy, gamma .9, several epochs and a clip, instead of the replay
    paper-settings      the paper's: gamma .9, c .05, 16 x 64 steps used once, no clip; no fence
    filtered-cloning    cloning of the demonstrations and the practice episodes whose success was detected
    awac                ours without the steps-to-go reward: 1 at a detected success alone
    sparse, ppo         that reward by policy gradient, and with a critic
    hand-picked         ours, but the named blocks are looked up instead of found in the words (an upper bound)
    sft-chunks, chunks  imitation that answers chunks of four actions, all of them executed before it is asked again,
                        and practice from there, which takes the four as one action

How rows are measured: regimes.py. Privileged: exact poses (observation, fence), the true success that ends a
demonstration, needs_reset.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from robots.episodes import Episode
from robots.worlds.language_table import TIME_LIMIT_STEPS
from training.benchmarks import Report, Row, difference
from training.benchmarks.regimes import PRACTICE, Regimes, demonstrator
from training.benchmarks.two_stage_pipeline import Stage1, demonstrations, folder, picked, stage1, stage2
from training.checkpoints import FrozenCheckpoint, Policy, RewardModel
from training.handed_in import RewardsOf

TASK = ("block2block",)
TIME_LIMIT = TIME_LIMIT_STEPS
REGIMES = Regimes(TASK[0], {"small": 3, "middle": 5, "large": 8, "50": 50, "100": 100})

UNCLIPPED = 100.0
CHUNK = 4


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    rows = [demonstrator(seed)]
    with folder() as path:
        data = demonstrations(seed, REGIMES.most, report, 0.05, TASK)
        begun = []
        for number, (regime, count) in enumerate(REGIMES.demonstrations.items()):
            report(0.05 + 0.1 * number, f"{regime}: {count} demonstrations")
            begin = stage1(path / f"sft-{regime}", data[:count], seed)
            begun.append(begin)
            rows += REGIMES.rows(regime, begin, data, path, seed)
        for number, (setting, other) in enumerate(OTHERS.items()):
            report(0.55 + 0.45 * number / len(OTHERS), setting)
            rows.append(other(setting, begun[0], path, seed))
        begin = stage1(path / "sft-chunks", data[: begun[0].count], seed, chunk=CHUNK, executed=CHUNK)
        rows.append(REGIMES.judged("sft-chunks", "small", begin.policy, seed, begin.wall_s, demonstrations=begin.count))
        rows.append(another_way()("chunks", begin, path, seed))
    return rows


def summarise(rows: list[Row]) -> dict[str, Any]:
    return REGIMES.summary(rows) | {
        f"small: {other} minus practice-200": difference(rows, other, "practice-200", "success", "small")
        for other in (*OTHERS, "chunks")
    }


# Other rewards for the same loop: rewards of an episode's first steps, or None to leave it out


def filtered_cloning(episode: Episode, steps: int, reward_model: RewardModel, policy: Policy) -> np.ndarray | None:
    """What was detected, and the demonstrations; with a temperature at which every step weighs the same."""
    if not episode.detected_success and episode.purpose != "demonstration":
        return None
    return sparse_reward(episode, steps, reward_model, policy)


def sparse_reward(episode: Episode, steps: int, reward_model: RewardModel, policy: Policy) -> np.ndarray:
    rewards = np.zeros(steps)
    rewards[-1] = float(episode.detected_success)
    return rewards


# The upper bound: no language


@contextmanager
def hand_picked_goals() -> Iterator[None]:
    """Within it every checkpoint is told the named blocks instead of finding them in the words."""

    def goals(self: FrozenCheckpoint, instructions: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([picked(text) for text in instructions]))

    with mock.patch.object(FrozenCheckpoint, "goals", goals):
        yield


# Other ways to practise, in the smallest regime


def another_way(rewards_of: RewardsOf | None = None, **settings: Any) -> Callable[[str, Stage1, Path, int], Row]:
    def row(setting: str, begin: Stage1, path: Path, seed: int) -> Row:
        after = stage2(path / setting, begin, seed, PRACTICE, TIME_LIMIT, TASK, rewards_of=rewards_of, **settings)
        return REGIMES.practised(setting, "small", begin, after, PRACTICE, seed)

    return row


def with_hand_picked_goals(setting: str, begin: Stage1, path: Path, seed: int) -> Row:
    with hand_picked_goals():
        return another_way()(setting, begin, path, seed)


ON_POLICY: dict[str, Any] = {"replay": 0}
OTHERS: dict[str, Callable[[str, Stage1, Path, int], Row]] = {
    "no-fence": another_way(rules={}),
    "policy-gradient": another_way(**ON_POLICY, gamma=0.9),
    "paper-settings": another_way(
        **ON_POLICY, gamma=0.9, updates_per_round=16, epochs=1, clip=UNCLIPPED, anneal=0.0, rules={}
    ),
    "filtered-cloning": another_way(filtered_cloning, temperature=100.0),
    "awac": another_way(shaping=0.0),
    "sparse": another_way(sparse_reward, **ON_POLICY),
    "ppo": another_way(sparse_reward, **ON_POLICY, baseline=1.0),
    "hand-picked": with_hand_picked_goals,
}

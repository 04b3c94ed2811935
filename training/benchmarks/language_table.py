"""language-table: does practice beat more imitation, and other ways to practise, on the full eight-block table?

Three regimes, set by data and time limit. In each, practice episodes of 10 % of the demonstrations; in the smallest
another run of 30 %. Beside it, on the smallest regime's data and time limit and with the 30 % budget:

    sft-8x                  imitation of eight times the demonstrations, in four times the updates; no practice
    ppo, sac                from scratch, the TRUE sparse reward, five times the practice episodes
    filtered-bc             cloning of the practice episodes whose success was detected
    sparse-reward           1 at a detected success, instead of the shaped reward
    random-reward-network   d from a network that was never trained
    unfrozen-reward-model   d from the policy's own network as it changes
    hand-picked             the upper bound: the named blocks are looked up instead of found in the words

Success is measured on one set of starts a seed, the same for every row, with sampled actions; of the regimes with
greedy ones too. Nothing is chosen by it: the figure is that of the last version that the budget allows.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from robots.episodes import Episode
from training.benchmarks import Report, Row, mean_of
from training.benchmarks.table_runs import (
    TASKS,
    Stage1,
    demonstrations,
    folder,
    picked,
    stage1,
    stage2,
    success,
)
from training.checkpoints import Loaded, Policy, RewardModel
from training.self_improvement import progress_rewards


@dataclass(frozen=True)
class Regime:
    demonstrations: int
    time_limit: int


REGIMES = {"small": Regime(800, 56), "middle": Regime(1600, 71), "large": Regime(3200, 78)}
SMALL = REGIMES["small"]
EIGHTFOLD = 8
EIGHTFOLD_UPDATES = 8000  # so that more data is seen as often as less is
UNCLIPPED = 100.0
BUDGET = 0.1  # practice episodes for a demonstration
LARGE_BUDGET = 0.3  # in the smallest regime
SCRATCH_EPISODES = 5  # times ours, for PPO and SAC


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    rows: list[Row] = []
    with folder() as path:
        data = demonstrations(seed, EIGHTFOLD * SMALL.demonstrations, report, 0.3)
        begins: dict[str, Stage1] = {}
        for number, (name, regime) in enumerate(REGIMES.items()):
            report(0.3 + 0.1 * number, f"regime-{name}")
            begins[name] = stage1(path / f"sft-{name}", data[: regime.demonstrations], seed)
            rows.append(regime_row(name, path, begins[name], seed))
        report(0.6, "sft-8x")
        rows.append(eightfold(path, data, seed))
        for number, (name, rewards_of) in enumerate(OTHER_REWARDS.items()):
            report(0.65 + 0.04 * number, name)
            settings = {"clip": UNCLIPPED} if name == "filtered-bc" else {}
            figures = practised(
                name, path, begins["small"], SMALL, seed, LARGE_BUDGET, rewards_of=rewards_of, **settings
            )
            rows.append({"setting": name, **figures, "sft_success": rows[0]["sft_success"]})
        report(0.81, "hand-picked")
        with hand_picked_goals():
            start = success(begins["small"].policy, seed, SMALL.time_limit).rate
            figures = practised("hand-picked", path, begins["small"], SMALL, seed, LARGE_BUDGET)
            rows.append({"setting": "hand-picked", **figures, "sft_success": start})
        for number, name in enumerate(("ppo", "sac")):
            report(0.85 + 0.05 * number, name)
            rows += from_scratch(name, seed)
    return rows


def summarise(rows: list[Row]) -> dict:
    small = mean_of(rows, "regime-small", "final_success_30")
    imitation = mean_of(rows, "sft-8x", "final_success")
    trained, held_out = (
        [row[figure] for row in rows if str(row["setting"]).startswith("regime-")]
        for figure in ("final_success", "held_out_success")
    )
    return {
        **{f"final_success_{name}": mean_of(rows, f"regime-{name}", "final_success") for name in REGIMES},
        "final_success_30": small,
        "practice_minus_8x": small - imitation,
        "held_out_minus_trained": float(np.mean(held_out) - np.mean(trained)),
    }


def practised(
    name: str, path: Path, begin: Stage1, regime: Regime, seed: int, budget: float, **stage2_settings
) -> dict[str, float]:
    """The figures of so many practice episodes for a demonstration."""
    episodes = round(budget * regime.demonstrations)
    after = stage2(path / f"{name}-{episodes}", begin, seed, episodes, regime.time_limit, **stage2_settings)
    practice_episodes, policy = after.within(episodes)
    figures = {
        "demonstrations": regime.demonstrations,
        "practice_episodes": practice_episodes,
        "final_success": success(policy, seed, regime.time_limit).rate,
        "wall_s": round(begin.wall_s + after.wall_s, 1),
        "env_steps_per_s": round(after.env_steps / after.wall_s),
    }
    if name in REGIMES and budget == BUDGET:
        figures["final_success_greedy"] = success(policy, seed, regime.time_limit, greedy=True).rate
        figures["held_out_success"] = success(policy, seed, regime.time_limit, held_out=True).rate
    return figures


def regime_row(name: str, path: Path, begin: Stage1, seed: int) -> Row:
    regime = REGIMES[name]
    row = {
        "setting": f"regime-{name}",
        "sft_success": success(begin.policy, seed, regime.time_limit).rate,
        "sft_success_greedy": success(begin.policy, seed, regime.time_limit, greedy=True).rate,
        **practised(name, path, begin, regime, seed, BUDGET),
    }
    if regime is SMALL:
        more = practised(name, path, begin, regime, seed, LARGE_BUDGET)
        row |= {f"{figure}_30": more[figure] for figure in ("practice_episodes", "final_success", "wall_s")}
    return row


def eightfold(path: Path, data: Sequence[Episode], seed: int) -> Row:
    begin = stage1(path / "sft-8x", data, seed, steps=EIGHTFOLD_UPDATES)
    rate = success(begin.policy, seed, SMALL.time_limit).rate
    return {
        "setting": "sft-8x",
        "demonstrations": len(data),
        "sft_success": rate,
        "practice_episodes": 0,
        "final_success": rate,
        "wall_s": round(begin.wall_s, 1),
        "env_steps_per_s": 0,
    }


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


_random_networks: dict[str, RewardModel] = {}


def random_reward_network(episode: Episode, steps: int, reward_model: RewardModel, policy: Policy) -> np.ndarray:
    """The detector stays the true reward model's: the stations run it."""
    if reward_model.id not in _random_networks:
        with torch.random.fork_rng():
            torch.manual_seed(reward_model.description.recipe["seed"])
            network = reward_model.description.new_network().eval().requires_grad_(False)
        network.words.load_state_dict(reward_model.network.words.state_dict())
        _random_networks[reward_model.id] = RewardModel(network, reward_model.description)
    return progress_rewards(episode, steps, _random_networks[reward_model.id], policy)


def unfrozen_reward_model(episode: Episode, steps: int, reward_model: RewardModel, policy: Policy) -> np.ndarray:
    return progress_rewards(episode, steps, RewardModel(policy.network, reward_model.description), policy)


OTHER_REWARDS = {
    "filtered-bc": filtered_cloning,
    "sparse-reward": sparse_reward,
    "random-reward-network": random_reward_network,
    "unfrozen-reward-model": unfrozen_reward_model,
}


# The upper bound: no language


@contextmanager
def hand_picked_goals() -> Iterator[None]:
    """Within it every checkpoint is told the named blocks instead of finding them in the words."""

    def goals(self: Loaded, instructions: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([picked(text) for text in instructions]))

    with mock.patch.object(Loaded, "goals", goals):
        yield


# From scratch, with the true reward


def from_scratch(name: str, seed: int) -> list[Row]:
    """No row where stable-baselines3 is not installed: it comes with the extra "benchmark"."""
    try:
        from stable_baselines3 import PPO, SAC
    except ImportError:
        return []
    from training.benchmarks.sparse_table import Learned, SparseTable

    started = time.monotonic()
    episodes = SCRATCH_EPISODES * round(LARGE_BUDGET * SMALL.demonstrations)
    table = SparseTable(TASKS, SMALL.time_limit, seed)
    if name == "ppo":
        model = PPO("MlpPolicy", table, seed=seed, device="cpu")
    else:
        # An update every sixteenth step: one a step would take hours on a CPU, and what is never rewarded never learns.
        model = SAC("MlpPolicy", table, seed=seed, device="cpu", train_freq=16, gradient_steps=1, learning_starts=1000)
    model.learn(10**9, callback=lambda *_: table.episodes < episodes)
    wall_s = time.monotonic() - started
    rate = success(Learned(model), seed, SMALL.time_limit).rate
    return [
        {
            "setting": name,
            "demonstrations": 0,
            "sft_success": None,
            "practice_episodes": table.episodes,
            "final_success": rate,
            "wall_s": round(wall_s, 1),
            "env_steps_per_s": round(model.num_timesteps / wall_s),
        }
    ]

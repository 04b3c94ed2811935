import argparse
import dataclasses
import importlib
import json
import sys
import types

import gymnasium.utils.env_checker
import numpy as np
import pytest

from robots.tasks import PLACES, InstructionError
from robots.worlds.language_table import LanguageTable
from training import benchmarks, steps_to_go
from training.benchmarks import (
    banana_table,
    by_setting,
    camera,
    detector,
    language_table,
    mean_and_interval,
    over_optimisation,
    point_mass,
    positive_transfer,
    reward_model,
    table,
    table_runs,
    throughput,
    transfer,
)
from training.benchmarks.language_table import (
    Regime,
    filtered_cloning,
    hand_picked_goals,
    random_reward_network,
    sparse_reward,
    unfrozen_reward_model,
)
from training.benchmarks.sparse_table import SparseTable
from training.benchmarks.table_runs import picked
from training.checkpoints import Policy, RewardModel


def test_the_interval_is_students():
    """1, 2, 3: mean 2, deviation 1, and the quantile 4.303 for 2 degrees of freedom over the root of 3."""
    figure = mean_and_interval([1, 2, 3])
    assert figure == {
        "mean": 2.0,
        "low": pytest.approx(2 - 4.303 / 3**0.5),
        "high": pytest.approx(2 + 4.303 / 3**0.5),
        "n": 3,
    }
    assert mean_and_interval([0.5]) == {"mean": 0.5, "low": None, "high": None, "n": 1}


def test_a_figure_that_some_rows_lack_is_averaged_over_the_others():
    rows = [{"setting": "a", "seed": 0, "x": 1.0}, {"setting": "a", "seed": 1, "x": 3.0, "y": 5}, {"setting": "b"}]
    settings = by_setting(rows)
    assert settings["a"]["x"]["mean"] == 2 and settings["a"]["y"]["n"] == 1 and settings["b"] == {}
    assert [line.split()[0] for line in table(settings).splitlines()] == ["setting", "a", "b"]


def test_the_file_is_written_after_each_seed_and_holds_what_others_read(tmp_path, monkeypatch):
    seen = []

    class Example:
        @staticmethod
        def run(seed, report):
            report(0.5, "half")
            seen.append(json.loads(path.read_text())["rows"] if path.exists() else [])
            return [{"setting": "only", "final_success": seed / 10}]

        @staticmethod
        def summarise(rows):
            return {"key": len(rows)}

    path = tmp_path / "example.json"
    monkeypatch.setitem(benchmarks.REGISTRY, "example", "example")
    monkeypatch.setattr(benchmarks.importlib, "import_module", lambda name: Example)
    progress = benchmarks.Progress("example", 3, stream=open(tmp_path / "log", "w"))
    result = benchmarks.run_benchmark("example", 3, 5, progress, lambda result: path.write_text(json.dumps(result)))
    assert json.loads(path.read_text()) == result
    assert [len(rows) for rows in seen] == [0, 1, 2]
    assert set(result) == {"name", "commit", "machine", "rows", "summary"}
    assert result["rows"][0] == {"setting": "only", "seed": 5, "final_success": 0.5}
    assert result["summary"]["key"] == 3 and result["summary"]["settings"]["only"]["final_success"]["n"] == 3


def test_hand_picked_goals_are_those_that_the_words_name():
    goal = picked("push the blue cube to the green star")
    assert np.flatnonzero(goal).tolist() == [3, 8 + 4]
    goal = picked("slide the red moon to the top left of the table")
    assert np.flatnonzero(goal).tolist() == [0, 16, 17, 18] and tuple(goal[-2:]) == pytest.approx(PLACES["top left"])
    with pytest.raises(InstructionError, match="juggle"):
        picked("juggle")


def test_hand_picked_goals_last_as_long_as_their_block(finished_sft):
    policy = Policy.load(finished_sft.checkpoints / "policy.safetensors")
    text = "push the blue cube to the green star"
    found = policy.goals([text])
    with hand_picked_goals():
        assert policy.goals([text]).tolist() == [picked(text).tolist()]
    assert policy.goals([text]).equal(found) and not np.allclose(found, picked(text))


def test_other_rewards(finished_sft, demonstrations):
    policy = Policy.load(finished_sft.checkpoints / "policy.safetensors")
    policy.description.recipe = {"gamma": 0.6}
    reward_model = RewardModel.load(finished_sft.checkpoints / "reward_model.safetensors")
    failed = demonstrations[0]
    assert not failed.detected_success
    reached = type(failed)(**vars(failed) | {"detected_success": True})
    steps = failed.steps
    assert filtered_cloning(failed, steps, reward_model, policy) is None
    cloned = steps_to_go.returns(filtered_cloning(reached, steps, reward_model, policy), 0.6)
    assert cloned == pytest.approx(np.ones(steps))
    assert sparse_reward(failed, steps, reward_model, policy).sum() == 0
    assert sparse_reward(reached, steps, reward_model, policy).tolist() == [0.0] * (steps - 1) + [1.0]
    d, _ = reward_model.steps_to_go(failed.observations, [failed.instruction] * (steps + 1))
    for other in (random_reward_network, unfrozen_reward_model):
        rewards = other(failed, steps, reward_model, policy)
        assert rewards.shape == (steps,) and np.isfinite(rewards).all()
    assert not np.allclose(random_reward_network(failed, steps, reward_model, policy), d[:-1] - d[1:], atol=0.1)


def test_the_sparse_table_is_a_gymnasium_environment_that_counts_its_episodes():
    env = SparseTable(["block2block", "block_to_place"], 5, seed=0)
    gymnasium.utils.env_checker.check_env(env, skip_render_check=True, skip_close_check=True)
    env = SparseTable(["block2block"], 5, seed=0)
    env.reset()
    ends = [env.step(np.zeros(2))[1:4] for _ in range(5)]
    assert ends[-1] == (0.0, False, True) and not any(end[2] for end in ends[:-1]) and env.episodes == 1


@pytest.mark.parametrize(
    "name, settings, keys",
    [
        ("language-table", ["regime-small", "regime-middle", "regime-large", "sft-8x"], ["final_success_30"]),
        ("over-optimisation", ["guard", "no-guard"], ["kept_below_peak"]),
        ("reward-model", [f"{a}-{b}" for a in ("scratch", "pretrained") for b in (10, 20, 80)], []),
        ("detector", ["validation", "practice"], ["false_positive_rate"]),
        ("camera", ["self-improvement"], ["final_success"]),
        ("positive-transfer", ["practised", "block-to-place", "held-out-wordings"], []),
        ("throughput", ["env", "batched", "camera"], ["env_to_raw", "batched_to_rollout", "camera_to_renderer"]),
    ],
)
def test_summaries_hold_the_keys_that_others_read(name, settings, keys):
    figures = ("final_success", "final_success_30", "held_out_success", "kept_success", "peak_success", "below_peak")
    figures += ("false_positive_rate", "recall", "precision", "gain", "share", "sft_success", "rise")
    rows = [{"setting": setting, "seed": 0} | dict.fromkeys(figures, 0.5) for setting in settings]
    summary = importlib.import_module(benchmarks.REGISTRY[name]).summarise(rows)
    assert all(summary[key] == 0.5 for key in keys)
    if name == "reward-model":
        assert summary["pretrained_minus_scratch_at_10"] == 0


class Wanderer:
    """Stands for PPO and SAC, which come with the extra "benchmark"."""

    def __init__(self, network, table, seed, device, **settings):
        self.table, self.num_timesteps = table, 0

    def learn(self, steps, callback):
        self.table.reset()
        while callback():
            self.num_timesteps += 1
            if any(self.table.step(self.table.action_space.sample())[2:4]):
                self.table.reset()

    def predict(self, observations, deterministic):
        return np.zeros((len(observations), 2), np.float32), None


@pytest.fixture
def small(monkeypatch):
    """Figures of no worth, within seconds."""
    for name in ("TURNS", "SLICES", "FRAMES"):
        monkeypatch.setattr(throughput, name, 1)
    monkeypatch.setattr(throughput, "STEPS", 90)
    monkeypatch.setattr(throughput, "TABLES", 3)
    monkeypatch.setattr(throughput.gl_context, "GLContext", throughput.gl_context.GLContext)  # put back at the end
    monkeypatch.setitem(sys.modules, "stable_baselines3", types.SimpleNamespace(PPO=Wanderer, SAC=Wanderer))
    plan = {"demonstrations": 8, "practice": 6, "stations": 2, "improve": {"updates_per_round": 1, "batch": 8}}
    quick = {"steps": 20, "validate_every": 10, "grounding_steps": 10, "batch": 32, "hidden": 32}
    for module in (banana_table, transfer, point_mass):
        monkeypatch.setattr(module, "PLAN", dataclasses.replace(module.PLAN, sft=quick, **plan))
    for module in (positive_transfer, over_optimisation, reward_model, language_table):
        monkeypatch.setattr(module, "SMALL", Regime(30, 12))
    monkeypatch.setattr(table_runs, "EVALUATION_EPISODES", 4)
    few = {"steps": 20, "grounding_steps": 10, "sight_steps": 20, "hidden": 16, "validate_every": 10}
    monkeypatch.setattr(table_runs, "SFT", table_runs.SFT | few)
    monkeypatch.setattr(reward_model, "UPDATES", {})
    monkeypatch.setattr(reward_model, "BROAD_DEMONSTRATIONS", 20)
    monkeypatch.setattr(reward_model, "DEMONSTRATIONS", 30)
    monkeypatch.setattr(reward_model, "PRACTICE", 9)
    monkeypatch.setattr(camera, "DEMONSTRATIONS", 12)
    monkeypatch.setattr(camera, "PRACTICE", 6)
    monkeypatch.setattr(camera, "TIME_LIMIT", 8)
    monkeypatch.setattr(camera, "ATTEMPTS", 2)
    monkeypatch.setattr(detector, "REGIME", Regime(40, 12))
    monkeypatch.setattr(over_optimisation, "CURVE", over_optimisation.CURVE | {"evaluation_episodes": 4})
    monkeypatch.setattr(language_table, "EIGHTFOLD_UPDATES", 20)
    monkeypatch.setattr(language_table, "SCRATCH_EPISODES", 1)
    monkeypatch.setattr(language_table, "REGIMES", {"small": language_table.SMALL, "large": Regime(40, 12)})


@pytest.mark.parametrize("name", benchmarks.REGISTRY)
def test_every_benchmark_runs_whole_when_small(name, small, monkeypatch, tmp_path, capsys):
    """By its command. Every row has its figures, and practice stays within its budget."""
    if name != "throughput":  # which leaves its camera out where there is no OpenGL
        monkeypatch.setattr(LanguageTable, "renderer", "drawn")
    path = tmp_path / "figures.json"
    arguments = argparse.Namespace(name=name, seeds=1, first_seed=3, json=str(path))
    assert benchmarks.main(arguments) == 0
    result = json.loads(path.read_text(), parse_constant=lambda constant: pytest.fail(f"{constant} is no figure"))
    rows = result["rows"]
    assert rows and len({row["setting"] for row in rows}) == len(rows)
    assert all(row["setting"] in capsys.readouterr().out for row in rows[:1])
    for row in rows:
        if (
            "practice_episodes" in row
            and row["setting"] not in ("no-guard", "guard", "ppo", "sac")
            and (
                name != "detector"  # which looks at all episodes of the last round
            )
        ):
            assert row["practice_episodes"] <= (27 if name == "over-optimisation" else 9)
        if "final_success" in row:
            assert 0 <= row["final_success"] <= 1 and row["wall_s"] >= 0
    if name == "language-table":
        assert {"ppo", "sac"} <= {row["setting"] for row in rows}
    if name == "throughput":
        assert {"env", "batched"} <= {row["setting"] for row in rows} and all(row["share"] > 0 for row in rows)


def test_practice_counts_up_to_the_budget_and_not_beyond():
    after = table_runs.Stage2(None, [(0, "first"), (7, "second"), (9, "third")], 1.0, 0)
    assert [after.within(n) for n in (6, 7, 8, 9)] == [(0, "first"), (7, "second"), (7, "second"), (9, "third")]

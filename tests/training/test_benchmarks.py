import argparse
import dataclasses
import functools
import importlib
import json
import subprocess
import sys
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest

from robots.demonstrators import collect_demonstrations
from robots.embodiments import EMBODIMENTS, STATE
from robots.tasks import TASKS, InstructionError, get_task
from robots.worlds import WORLDS, make_world
from robots.worlds.language_table import PLACES
from robots.worlds.language_table.physics import LanguageTable
from tests.training import tiny_models
from training import advantage_weighted, benchmarks
from training.benchmarks import (
    afm,
    aloha,
    backbone,
    banana_table,
    by_setting,
    camera,
    detector,
    explore,
    gpu,
    gripper_tables,
    kagi,
    language_table,
    mean_and_interval,
    medal,
    methods_compared,
    mili,
    musel,
    over_optimisation,
    point_mass,
    positive_transfer,
    regimes,
    reward_model,
    robofume,
    scvla,
    so101_pick,
    table,
    throughput,
    touching,
    transfer,
    two_stage_pipeline,
)
from training.benchmarks.language_table import filtered_cloning, hand_picked_goals, sparse_reward
from training.benchmarks.two_stage_pipeline import picked
from training.checkpoints import Policy, RewardModel
from training.intervals import wilson
from training.recipes import AFMRecipe, ExploreRecipe, ImproveRecipe


def test_the_interval_is_students():
    """1, 2, 3: mean 2, deviation 1, and the quantile 4.302653 for 2 degrees of freedom over the root of 3."""
    figure = mean_and_interval([1, 2, 3])
    assert figure == {
        "mean": 2.0,
        "low": pytest.approx(2 - 4.302653 / 3**0.5),
        "high": pytest.approx(2 + 4.302653 / 3**0.5),
        "n": 3,
    }
    assert mean_and_interval([2, 2]) == {"mean": 2.0, "low": 2.0, "high": 2.0, "n": 2}
    assert mean_and_interval([0.5]) == {"mean": 0.5, "low": None, "high": None, "n": 1}


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.7062), (11, 2.2281), (12, 2.2010), (30, 2.0452), (121, 1.9799)])
def test_the_interval_is_students_for_any_number_of_seeds(n, quantile):
    """Quantiles of printed tables."""
    values = np.arange(n)  # deviation: the root of n (n + 1) / 12
    figure = mean_and_interval(values)
    half = quantile * (n * (n + 1) / 12) ** 0.5 / n**0.5
    assert (figure["mean"], figure["n"]) == ((n - 1) / 2, n)
    assert (figure["high"] - figure["mean"], figure["mean"] - figure["low"]) == pytest.approx((half, half), rel=1e-4)


def test_wilson():
    # 8 of 10 with z = 1.96: centre (.8 + .19208) / 1.38416 = .7167, half width .2266
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    # Newcombe 1998, Statistics in Medicine 17, table I
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == pytest.approx(1)
    assert wilson(0, 0) == (0, 1)
    assert all(type(end) is float for end in wilson(3, 7)), "what goes into JSON"


def test_a_station_host_starts_without_what_statistics_need():
    code = "import sys, training.__main__, training.evaluation; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_figure_that_some_rows_lack_is_averaged_over_the_others():
    rows = [{"setting": "a", "seed": 0, "x": 1.0}, {"setting": "a", "seed": 1, "x": 3.0, "y": 5}, {"setting": "b"}]
    settings = by_setting(rows)
    assert settings["a"]["x"]["mean"] == 2 and settings["a"]["y"]["n"] == 1 and settings["b"] == {}
    assert [line.split()[0] for line in table(settings).splitlines()] == ["setting", "a", "b"]


def test_differences_are_paired_by_seed_within_a_regime():
    rows = [
        {"setting": setting, "regime": regime, "seed": seed, "x": base + seed + more}
        for setting, base in (("a", 1.0), ("b", 0.0))
        for regime, more in (("small", 0), ("large", 0.5 * (base == 0)))
        for seed in (0, 10)
    ] + [{"setting": "a", "regime": "small", "seed": 3, "x": 99.0}]
    small, large = (benchmarks.difference(rows, "a", "b", "x", regime) for regime in ("small", "large"))
    assert (small["mean"], small["low"], small["high"], small["n"]) == (1.0, 1.0, 1.0, 2) and large["mean"] == 0.5
    assert benchmarks.difference(rows, "a", "c", "x", "small") is None
    assert by_setting(rows)["small: a"]["x"]["n"] == 3


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
    with open(tmp_path / "log", "w") as stream:
        progress = benchmarks.Progress("example", 3, stream=stream)
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
    policy.metadata.recipe = {"gamma": 0.6}
    reward_model = RewardModel.load(finished_sft.checkpoints / "reward_model.safetensors")
    failed = type(demonstrations[0])(**vars(demonstrations[0]) | {"purpose": "practice"})
    assert not failed.detected_success
    reached = type(failed)(**vars(failed) | {"detected_success": True})
    steps = failed.steps
    assert filtered_cloning(failed, steps, reward_model, policy) is None
    shown = type(failed)(**vars(failed) | {"purpose": "demonstration"})
    for each in (reached, shown):
        assert filtered_cloning(each, steps, reward_model, policy) is not None
    assert sparse_reward(failed, steps, reward_model, policy).sum() == 0
    assert sparse_reward(reached, steps, reward_model, policy).tolist() == [0.0] * (steps - 1) + [1.0]


@pytest.mark.parametrize(
    "name, settings, keys",
    [
        ("over-optimisation", ["guard", "no-guard"], ["kept_below_peak"]),
        ("reward-model", [f"{a}-{b}" for a in ("scratch", "pretrained") for b in (10, 20, 80)], []),
        ("detector", ["validation", "practice"], ["false_positive_rate"]),
        ("camera", ["sft", "practice-200"], ["final_success", "sft_success"]),
        ("so101-pick", ["demonstrator", "state-sft", "state-practice"], ["demonstrator_success", "state_sft_success"]),
        ("backbone", ["words-own-sft", "words-pretrained-sft"], []),
        (
            "aloha",
            ["demonstrator", "sft", "practice", "practice-seated", "more-demonstrations"],
            ["sft", "practised", "practised_seated", "more_demonstrations"],
        ),
        ("positive-transfer", ["practised", "block-to-place", "held-out-wordings"], []),
        ("throughput", ["env", "batched", "camera"], ["env_to_raw", "batched_to_rollout", "camera_to_renderer"]),
        ("throughput", ["loader", "loader-cameras"], ["loader_to_trainer", "loader_to_trainer_cameras"]),
        ("throughput", ["pictures"], ["pictures_peak_gib"]),
        ("afm", ["frozen", "afm", "adapt-only", "slow adapt-only"], []),
        ("explore", ["active", "random", "smooth random"], []),
        ("gpu", ["sft", "practice"], ["mfu", "sft_steps_per_s", "env_steps_per_s", "policy_p95_ms", "device"]),
    ],
)
def test_summaries_hold_the_keys_that_others_read(name, settings, keys):
    figures = ("final_success", "final_success_30", "held_out_success", "kept_success", "peak_success", "below_peak")
    figures += ("success", "false_positive_rate", "recall", "precision", "gain", "share", "sft_success", "rise")
    figures += ("peak_gib", "device", "mfu", "updates_per_s", "env_steps_per_s", "policy_p95_ms")
    regime = "large" if name == "camera" else None
    rows = [{"setting": each, "seed": 0, "regime": regime} | dict.fromkeys(figures, 0.5) for each in settings]
    summary = importlib.import_module(benchmarks.REGISTRY[name]).summarise(rows)
    assert all(summary[key] == 0.5 for key in keys)
    if name == "reward-model":
        assert summary["pretrained_minus_scratch_at_10"] == 0


def test_afm_is_compared_with_the_best_baseline_and_steps_with_the_fewest():
    figures = {
        "frozen": (0.3, 270.0),
        "adapt-only": (0.6, 260.0),
        "slow adapt-only": (0.5, 240.0),
        "afm": (0.9, 180.0),
        "afm + adapt": (1.0, 100.0),
    }
    rows = [
        {"setting": setting, "regime": "inside", "seed": seed, "reached": reached + 0.1 * seed, "steps": steps}
        for setting, (reached, steps) in figures.items()
        for seed in (0, 1)
    ] + [{"setting": "afm", "regime": "outside", "seed": 0, "reached": 0.2, "steps": 300.0}]
    summary = afm.summarise(rows)
    assert summary["reached_gain"]["mean"] == pytest.approx(0.3) and summary["best_baseline"] == "adapt-only"
    assert summary["steps_ratio"] == 0.75 and summary["reached_outside"] == 0.2
    assert summary["reached_afm_adapt"] == pytest.approx(1.05) and summary["steps_slow_adapt"] == 240


def test_exploring_is_compared_at_each_number_of_steps_and_by_task():
    base = {f"error@{n}": 1.0 for n in explore.STEPS} | {"score_push_right": 0.5, "score_push_up": 0.5}
    rows = [
        {"setting": "active", "seed": 0} | base | {"error@800": 0.4, "error@1600": 0.6, "score_push_up": 0.6},
        {"setting": "random", "seed": 0} | base | {"error@800": 0.8},
        {"setting": "smooth random", "seed": 0} | base | {"error@1600": 0.75},
    ]
    summary = explore.summarise(rows)
    assert (summary["error_ratio_800"], summary["error_ratio_1600"]) == pytest.approx((0.5, 0.6))
    assert summary["to_smooth_1600"] == pytest.approx(0.8) and summary["tasks_better"] == 1


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Figures of no worth, within seconds."""
    for name in ("TURNS", "SLICES", "FRAMES"):
        monkeypatch.setattr(throughput, name, 1)
    monkeypatch.setattr(throughput, "STEPS", 90)
    monkeypatch.setattr(throughput, "TABLES", 3)
    learned = {"loader": ("so101_pick", 2), "loader-cameras": ("camera_so101_pick", 2)}
    monkeypatch.setattr(throughput, "LEARNED", learned)
    monkeypatch.setattr(throughput, "SFT", throughput.SFT | {"hidden": 32, "batch": 8})
    monkeypatch.setattr(throughput, "SHOWN", {"count": 3, "steps": 4, "side": 32})
    monkeypatch.setattr(throughput, "OF_PICTURES", throughput.OF_PICTURES | {"steps": 2})
    few = {"START": 6, "MOST": 16, "AT": (11, 16), "POOL": 20, "TESTED": 8}
    for name, value in few.items():
        monkeypatch.setattr(musel, name, value)
    few = {"ROUNDS": 2, "TRIALS": 4, "ATTEMPTS": {"trained": 2, "heldout": 2}, "TOGETHER": 3, "TIME_LIMIT_STEPS": 8}
    for name, value in (few | {"SETTINGS": {"embedding_updates": 5, "updates": 5, "hidden": 16}}).items():
        monkeypatch.setattr(mili, name, value)
    contexts = sys.modules[mujoco.Renderer.__module__].gl_context
    monkeypatch.setattr(contexts, "GLContext", contexts.GLContext)  # put back at the end
    plan = {"demonstrations": 8, "practice": 6, "stations": 2, "improve": {"updates_per_round": 1, "batch": 8}}
    quick = {"steps": 20, "validate_every": 10, "grounding_steps": 10, "batch": 32, "hidden": 32}
    for module in (banana_table, transfer, point_mass):
        monkeypatch.setattr(module, "PLAN", dataclasses.replace(module.PLAN, sft=quick, **plan))
        task = get_task(module.PLAN.practised)
        monkeypatch.setitem(TASKS, task.name, dataclasses.replace(task, time_limit_steps=8))
    # So that a round is over before the budget of practice is.
    short_rounds = functools.partial(ImproveRecipe, updates_per_round=1, batch=8)
    monkeypatch.setattr(two_stage_pipeline, "ImproveRecipe", short_rounds)
    for module in (positive_transfer, over_optimisation, reward_model, language_table, detector):
        monkeypatch.setattr(module, "TIME_LIMIT", 8)
    for module in (positive_transfer, over_optimisation, reward_model, language_table, detector, regimes):
        monkeypatch.setattr(module, "PRACTICE", 9)
    for module in (positive_transfer, over_optimisation, detector):
        monkeypatch.setattr(module, "DEMONSTRATIONS", 12)
    monkeypatch.setattr(two_stage_pipeline, "EVALUATION_EPISODES", 4)
    few = {"steps": 20, "grounding_steps": 10, "perception_steps": 3, "hidden": 16, "validate_every": 10}
    monkeypatch.setattr(two_stage_pipeline, "SFT", two_stage_pipeline.SFT | few)
    monkeypatch.setattr(reward_model, "BROAD_DEMONSTRATIONS", 20)
    monkeypatch.setattr(reward_model, "DEMONSTRATIONS", 30)
    monkeypatch.setattr(reward_model, "SHARES", (10, 80))
    monkeypatch.setitem(reward_model.FINE_TUNING, "steps", 20)
    monkeypatch.setattr(over_optimisation, "CURVE", over_optimisation.CURVE | {"evaluation_episodes": 4})
    few = {"demonstrations": {"small": 3, "middle": 4, "50": 12}, "by_sft": ("small", "middle")}
    few |= {"times": (2,), "time_limit": 8}
    monkeypatch.setattr(language_table, "REGIMES", dataclasses.replace(language_table.REGIMES, attempts=4, **few))
    few |= {"demonstrations": {"small": 3, "large": 4}, "by_sft": ("small",)}  # pictures take the time
    monkeypatch.setattr(camera, "REGIMES", dataclasses.replace(camera.REGIMES, attempts=2, **few))
    monkeypatch.setattr(so101_pick, "DEMONSTRATIONS", {"state": 6, "cameras": 4})
    monkeypatch.setattr(so101_pick, "ATTEMPTS", {"state": 4, "cameras": 2})
    monkeypatch.setattr(so101_pick, "PRACTICE", 9)
    monkeypatch.setattr(so101_pick, "limit", lambda families: 8)
    monkeypatch.setattr(backbone, "DEMONSTRATIONS", {"words": (12,), "pictures": (4, 5)})
    monkeypatch.setattr(backbone, "ATTEMPTS", {"words": 12, "pictures": 4})
    monkeypatch.setattr(backbone, "PRACTICE", 9)
    monkeypatch.setattr(backbone, "SENTENCES", 20)
    monkeypatch.setattr(backbone, "TIME_LIMIT_STEPS", 8)
    monkeypatch.delenv("FLEETUI_VISION_MODEL", raising=False)
    tiny = {"all-MiniLM-L6-v2": tiny_models.bert, "dinov2-small-focus": tiny_models.dinov2}
    monkeypatch.setattr(
        backbone, "write_model", lambda package, into: SimpleNamespace(path=tiny[package.folder](into / package.folder))
    )
    monkeypatch.setattr(aloha, "SFT", aloha.SFT | {"action_bins": 5, "chunk": 2, "executed": 2, "steps": 20})
    for name, few in (("DEMONSTRATIONS", 3), ("PRACTICE", 2), ("ATTEMPTS", 2)):
        monkeypatch.setattr(aloha, name, few)
    monkeypatch.setattr(aloha, "limit", lambda: 10)
    for registry in (WORLDS, EMBODIMENTS, TASKS):  # which they add their own worlds to
        for name in ("aloha", "aloha_cameras", "so101_touch"):
            monkeypatch.setitem(registry, name, None)
            del registry[name]
    monkeypatch.setattr(advantage_weighted, "WARM_UP", 1)
    brief = {"width": 16, "candidates": 4, "horizon": 2, "batch": 16}
    monkeypatch.setattr(afm, "RECIPE", AFMRecipe(members=2, model_updates=3, flow_updates=3, flow_width=16, **brief))
    for name, few in (("RANDOM_STEPS", 40), ("STRETCH", 20), ("TIME_LIMIT_STEPS", 6), ("EARLY", 3)):
        monkeypatch.setattr(afm, name, few)
    monkeypatch.setattr(explore, "RECIPE", ExploreRecipe(members=2, updates=2, publish_every=10, **brief))
    for name, few in (("STEPS", (10, 20, 30)), ("MUCH", 40), ("FIRST", 10), ("TESTED", 3), ("STARTS", 2)):
        monkeypatch.setattr(explore, name, few)
    for name, few in (("PUSHES", 10), ("TIME_LIMIT_STEPS", 5)):
        monkeypatch.setattr(explore, name, few)


@pytest.fixture
def small_tables(monkeypatch):
    """The same of those on the gripper table."""
    brief = {"steps": 20, "hidden": 16, "batch": 32, "validate_every": 10}
    monkeypatch.setattr(gripper_tables, "STATIONS", 2)
    for family in ("place", "bring_back", "pocket_place", "pocket_bring_back"):
        monkeypatch.setitem(TASKS, family, dataclasses.replace(TASKS[family], time_limit_steps=30))
    for module in (kagi, medal, robofume, scvla):
        monkeypatch.setattr(module, "SFT", gripper_tables.SFT | brief)
        monkeypatch.setattr(module, "STEPS", 60)
        monkeypatch.setattr(module, "DEMONSTRATIONS", 6)
        monkeypatch.setattr(module, "EPISODES", 4)
    monkeypatch.setattr(kagi, "FINAL_EPISODES", 4)
    monkeypatch.setattr(kagi, "PRACTICE", {"updates_per_step": 0.05, "warm_up": 2, "publish_every": 30})
    monkeypatch.setattr(
        scvla, "SETTINGS", {name: {"head_updates": 3, "updates_per_step": 0.05} for name in scvla.SETTINGS}
    )
    monkeypatch.setattr(medal, "FURTHER", {"updates_per_step": 0.05, "warm_up": 2, "publish_every": 30})
    few = {"updates_per_step": 0.05, "warm_up": 2, "classifier_updates": 3, "publish_every": 30}
    monkeypatch.setattr(robofume, "FURTHER", few)
    monkeypatch.setattr(methods_compared, "FURTHER", {"updates_per_step": 0.05, "publish_every": 30})
    monkeypatch.setattr(methods_compared, "PUBLISH_EVERY", 30)
    monkeypatch.setattr(methods_compared, "EPISODES", 2)
    others = {name: (kind, entry, {"warm_up": 2}) for name, (kind, entry, _) in methods_compared.OTHERS.items()}
    others["robofume"][2]["classifier_updates"] = 3
    monkeypatch.setattr(methods_compared, "OTHERS", others)
    worlds = {
        name: dataclasses.replace(world, demonstrations=5, steps=60, reset_every=10, sft=brief)
        for name, world in methods_compared.WORLDS.items()
    }
    monkeypatch.setattr(methods_compared, "WORLDS", worlds)
    for name in ("FAILURES", "OTHER_GOALS", "OF_EACH", "ON_THE_WAY"):
        monkeypatch.setattr(robofume, name, 2)


@pytest.mark.parametrize("name", benchmarks.REGISTRY)
def test_every_benchmark_runs_whole_when_small(name, small, small_tables, monkeypatch, tmp_path, capsys):
    """By its command. Every row has its figures, and practice stays within its budget."""
    if name == "aloha":
        pytest.importorskip("gym_aloha", reason='gym-aloha is not installed: pip install "fleetui[aloha]"')
    if name != "throughput":  # which leaves its camera out where there is no OpenGL
        monkeypatch.setattr(LanguageTable, "renderer", "drawn")
    path = tmp_path / "figures.json"
    arguments = argparse.Namespace(name=name, seeds=1, first_seed=3, json=str(path), jobs=1)
    assert benchmarks.main(arguments) == 0
    result = json.loads(path.read_text(), parse_constant=lambda constant: pytest.fail(f"{constant} is no figure"))
    rows = result["rows"]
    assert rows and len({(row["setting"], row.get("regime")) for row in rows}) == len(rows)
    assert all(row["setting"] in capsys.readouterr().out for row in rows[:1])
    for row in rows:
        if (
            "practice_episodes" in row
            and name not in ("over-optimisation", "detector")  # which look at all episodes of the last round
        ):
            assert row["practice_episodes"] <= 9
        if "final_success" in row:
            assert 0 <= row["final_success"] <= 1 and row["wall_s"] >= 0
    if name == "language-table":
        assert {"ppo", "awac", "paper-settings", "hand-picked"} <= {row["setting"] for row in rows}
    if name == "aloha":
        labels = {row["setting"]: row.get("label_source") for row in rows}
        assert labels["practice"] == "detector" and labels["practice-seated"] == "sensor"
    if name in ("language-table", "camera"):
        assert {"demonstrator", "sft", "practice-200", "kept-by-detections", "more-demonstrations"} <= {
            row["setting"] for row in rows
        }
        assert all(0 <= row["success"] <= 1 and row["falls_per_100"] >= 0 for row in rows)
        assert {"gain_small", "over_more_demonstrations", "over_8x", "falls_ratio"} <= set(result["summary"])
    if name == "throughput":
        assert {"env", "batched", "loader", "loader-cameras", "pictures"} <= {row["setting"] for row in rows}
        assert all(row["share"] > 0 for row in rows if row["setting"] != "pictures")
        assert 0.1 < result["summary"]["pictures_peak_gib"] < 4, "of a process that holds torch and little else"
    if name == "backbone":
        gains = {f"pictures-{arm}-{count}" for arm in ("own", "pretrained") for count in (4, 5)}
        assert {row["setting"] for row in rows if row["setting"].startswith("pictures")} == gains
        assert {"words-own-sft", "words-pretrained-practice"} <= {row["setting"] for row in rows}
        assert {"vision_gain", "held_out_wordings_gain", "practice_gain_scratch"} <= set(result["summary"])
    if name == "musel":
        assert {row["setting"] for row in rows} == {"random", "progress", "progress-mixed", "total", "musel", "var_f"}
        assert all(row["rmse@16"] > 0 and 0 <= row["noisy_share"] <= 1 for row in rows)
        assert {"to_random", "to_total", "to_progress", "noisy_share_gap", "rmse_musel@16"} <= set(result["summary"])
    if name in ("kagi", "scvla", "robofume", "medal"):
        assert all(0 <= row["success"] <= 1 and row.get("env_steps", 60) >= 60 for row in rows)
    if name == "kagi":
        assert {"speed_ratio", "final_gain", "noisy_gain", "final_open_loop"} <= set(result["summary"])
    if name == "scvla":
        assert {"gain", "steps_ratio", "guide_minus_label", "success_heads"} <= set(result["summary"])
    if name == "robofume":
        assert {"gain", "q_rise_ratio", "dip_gap", "reset_free_ratio", "reward_precision"} <= set(result["summary"])
    if name == "methods":
        names = {"bc_tokens", "improve", "bc_gaussian", "sac", "medal", "robofume"}
        assert {(row["setting"], row["regime"]) for row in rows} == {
            (setting, world) for setting in names for world in ("gripper_table", "so101_pick")
        }
        assert all(row["resets"] >= 1 for row in rows if "resets" in row)
    if name == "medal":
        assert {"over_bc", "over_forward", "to_resets", "resets_share"} <= set(result["summary"])
        resets = {row["setting"]: row.get("resets") for row in rows}
        assert resets["turns"] == resets["forward_only"] == 0 < resets["resets"]
    if name == "mili":
        assert {row["setting"]: row["resets"] for row in rows} == {"mili": 8, "none": 0, "own": 8}
        assert all(
            0 <= row[f"heldout_round_{k}"] <= 1 and row["label_source"] == "sensor" for row in rows for k in range(3)
        )
        assert {"rises", "gain", "over_none", "heldout_round_2"} <= set(result["summary"])
    if name == "afm":
        settings = {"frozen", "adapt-only", "slow adapt-only", "afm", "afm + adapt"}
        assert {(row["setting"], row["regime"]) for row in rows} == {
            (setting, regime) for setting in settings for regime in ("inside", "outside")
        }
        assert all(0 <= row["reached"] <= 1 and row["steps"] == 6 and row["label_source"] == "none" for row in rows)
        assert {"reached_gain", "steps_ratio", "reached_outside", "action_error_after"} <= set(result["summary"])
        assert result["summary"]["steps_ratio"] == 1
    if name == "explore":
        assert [row["setting"] for row in rows] == ["active", "random", "smooth random", "much data"]
        assert [row["env_steps"] for row in rows] == [30, 30, 30, 40]
        assert rows[0]["error@10"] > 0 and rows[0]["ause_dropout"] >= 0 and 0 <= rows[3]["success_push_up"] <= 1
        assert {"error_ratio_20", "error_ratio_30", "to_smooth_30", "tasks_better", "ause"} <= set(result["summary"])
    if name == "gpu":
        figures = {"mfu", "sft_steps_per_s", "env_steps_per_s", "policy_p95_ms"}
        assert set(result["summary"]) == {"device", "settings", *figures} and result["summary"]["device"] == "cpu"
        assert all(result["summary"][figure] > 0 for figure in figures)
        of = {row["setting"]: row for row in rows}
        assert of["practice"]["env_steps"] >= 256 and of["practice"]["policy_calls"] >= 4
        assert of["rollout"]["env_steps_per_s"] > 0 and "measured here" in of["sft"]["note"]
        assert "mujoco_warp" in of["warp"]["note"] or "no cuda device" in of["warp"]["note"]


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H200", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 80GB HBM3", 989), ("Unheard", 0)]
)
def test_a_known_cards_peak_is_its_makers_and_another_ones_is_measured(monkeypatch, name, peak):
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda number: name)
    monkeypatch.setattr(gpu, "measured_peak", lambda product, device: 7.0)
    found, source = gpu.peak_of(64, "cuda")
    assert found == (peak or 7.0) and (name in source if peak else "measured here" in source)
    assert gpu.peak_of(64, "cpu")[0] == 7.0


def test_updates_are_timed_from_after_the_first_ones(tmp_path):
    run = SimpleNamespace(
        lines=lambda kind: [
            {"phase": "training", "done": done, "t": t} for done, t in ((1, 5.0), (10, 50.0), (14, 52.0), (20, 55.0))
        ]
    )
    assert gpu.updates_per_s(run, warm_up=8) == pytest.approx(2.0)


def test_a_vision_model_named_by_hand_leaves_words_out(monkeypatch):
    monkeypatch.setattr(backbone, "write_model", lambda package, into: SimpleNamespace(path=package.folder))
    monkeypatch.setattr(backbone, "by_words", lambda path, seed, model, report: [model])
    monkeypatch.setattr(backbone, "by_pictures", lambda path, seed, model, report: [model])
    monkeypatch.delenv("FLEETUI_VISION_MODEL", raising=False)
    assert backbone.run(0, lambda *_: None) == ["all-MiniLM-L6-v2", "dinov2-small-focus"]
    monkeypatch.setenv("FLEETUI_VISION_MODEL", "mine")
    assert backbone.run(0, lambda *_: None) == ["mine"]


def test_what_touches_a_cube_sees_where_it_is_and_is_not_told(monkeypatch):
    """What demonstrates reaches the cube that the words name, and no place of a cube is among the numbers."""
    for registry in (WORLDS, EMBODIMENTS, TASKS):
        monkeypatch.setitem(registry, "so101_touch", None)
        del registry["so101_touch"]
    shown = collect_demonstrations([touching.ready()], 6, 0)
    assert touching.ready() == "so101_touch", "a second time it is there"
    assert {episode.instruction.split()[-2] for episode in shown} <= {"red", "green", "blue"}
    for episode in shown:
        assert episode.true_success and 1 < episode.steps <= touching.LIMIT
        pictures = episode.observations["observation.images.front"]
        assert set(episode.observations) == {STATE, "observation.images.front"}
        assert pictures.shape == (episode.steps + 1, 64, 64, 3) and np.ptp(pictures, axis=0).any()
    world = make_world("so101_touch", 0)
    hand = np.array(world.layout().hand[:3])
    for name, cube in world.layout().cubes.items():
        near = bool(np.linalg.norm(hand - cube[:3]) < touching.NEAR)
        assert world.true_success(get_task("so101_touch").parse(f"touch the {name}")) == near
    world.close()


def test_sentences_are_said_in_other_words_and_mean_the_same():
    texts = {
        "push the red moon to the blue cube": "block2block",
        "move the green star to the top left": "block_to_place",
    }
    for text, family in texts.items():
        target = get_task(family).parse(text).target
        assert backbone.reworded(text, "as_shown") == text
        wordings = backbone.WORDINGS[family]
        assert backbone.reworded(text, "new_wordings") in {each.format(**target) for each in wordings}
        renamed = backbone.reworded(text, "new_names")
        own = {word for block in target.values() for word in block.split()} - {"top", "left"}
        assert not own & set(renamed.split()) and len(renamed.split()) == len(text.split())
        both = backbone.reworded(text, "new_both")
        assert not own & set(both.split()) and both.split()[0] != text.split()[0]
    assert not {word for words in backbone.SYNONYMS.values() for word in words} & set(" ".join(texts).split())


def test_a_real_station_keeps_the_version_that_was_most_often_detected():
    def practised(version: str, detected: bool) -> SimpleNamespace:
        return SimpleNamespace(policy=version, detected_success=detected)

    class Practised(two_stage_pipeline.Stage2):
        def practice(self):
            attempts = {"a": [False, True, False], "b": [True] * 6 + [False], "c": [True]}
            return [practised(version, each) for version, detected in attempts.items() for each in detected]

    versions = [(number, SimpleNamespace(id=name)) for number, name in enumerate("abcd")]
    assert Practised(None, versions, 1.0, 0).most_detected() == versions[1]  # not c, once of once; nor d, the last


def test_practice_counts_up_to_the_budget_and_not_beyond():
    after = two_stage_pipeline.Stage2(None, [(0, "first"), (7, "second"), (9, "third")], 1.0, 0)
    assert [after.within(n) for n in (6, 7, 8, 9)] == [(0, "first"), (7, "second"), (7, "second"), (9, "third")]

"""point-mass, banana-table and transfer, with plans small enough for a test."""

import dataclasses

import numpy as np
import pytest

from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.tasks import TASKS, get_task
from robots.worlds.language_table import BANANA_TABLE
from training.benchmarks import REGISTRY, banana_table, domain_transfer, point_mass, transfer, two_stage_pipeline
from training.checkpoints import Policy, RewardModel, load_checkpoint
from training.recipes import ImproveRecipe
from training.run_dir import RunDir

KEYS = {"setting", "demonstrations", "sft_success", "practice_episodes", "final_success", "wall_s"}
SMALL = {
    "sft": {"steps": 20, "validate_every": 10, "grounding_steps": 10, "batch": 32, "hidden": 32},
    "improve": {"updates_per_round": 1, "batch": 8},
}


@pytest.mark.parametrize("benchmark", [banana_table, transfer, point_mass], ids=lambda module: module.__name__)
def test_a_small_plan_gives_a_row_and_a_summary(benchmark, monkeypatch):
    plan = dataclasses.replace(benchmark.PLAN, demonstrations=8, practice=6, stations=2, **SMALL)
    monkeypatch.setattr(benchmark, "PLAN", plan)
    task = get_task(plan.practised)
    monkeypatch.setitem(TASKS, task.name, dataclasses.replace(task, time_limit_steps=8))
    monkeypatch.setattr(two_stage_pipeline, "EVALUATION_EPISODES", 4)
    said = []
    rows = benchmark.run(7, lambda fraction, what: said.append(fraction))
    row = rows[-1]
    assert [each["setting"] for each in rows[:-1]] == ([] if benchmark is point_mass else ["demonstrator"])
    assert row["setting"] == "self-improvement" and set(row) >= KEYS
    assert row["demonstrations"] == 8 and row["practice_episodes"] <= 6
    assert 0 <= row["sft_success"] <= 1 and row["final_success"] >= 0
    assert said[-1] == 1.0 and said == sorted(said)
    assert all(np.isfinite(value) for value in benchmark.summarise([row | {"seed": 7}]).values())


def test_they_are_registered_and_practise_within_their_budgets():
    for name in ("point-mass", "banana-table", "transfer"):
        assert REGISTRY[name].endswith(name.replace("-", "_"))
    assert transfer.PLAN.practice <= 0.03 * transfer.PLAN.demonstrations
    assert len(point_mass.PLAN.demonstrated) == 1 and point_mass.PLAN.practised == point_mass.TASK


def test_checkpoints_go_over_to_a_table_with_one_object_of_an_unknown_name(finished_sft, tmp_path):
    after = RunDir.create(tmp_path / "improve", ImproveRecipe())
    domain_transfer.carry_over(finished_sft, after, get_task("banana_to_place"))
    for role in ("policy", "reward_model"):
        before, carried = (
            load_checkpoint(run / f"{role}.safetensors")[0].state_dict()
            for run in (finished_sft.checkpoints, after.start)
        )
        assert before.keys() == carried.keys()
        assert all((before[name] == carried[name]).all() for name in before)
    policy = Policy.load(after.start / "policy.safetensors")
    assert "banana" not in policy.vocabulary.words and policy.embodiment == BANANA_TABLE
    sentence = "push the banana to the top left of the table"
    source, *target = policy.goals([sentence])[0, :3].tolist()
    assert source == pytest.approx(1) and sum(target) == pytest.approx(1)
    observations = {
        STATE: np.tile(np.array([-0.1, 0, -0.1, 0], np.float32), (2, 1)),
        ENVIRONMENT_STATE: np.tile(np.array([0, 0, 1, 0, 1], np.float32), (2, 1)),
    }
    assert policy.act(observations, [sentence] * 2).shape == (2, 1, 2)
    reward_model = RewardModel.load(after.start / "reward_model.safetensors")
    assert np.isfinite(reward_model.steps_to_go(observations, [sentence] * 2)[0]).all()


def test_the_best_controller_is_quicker_than_any_way_at_half_force(monkeypatch):
    best = point_mass.optimal_steps(10, seed=3)
    fastest = point_mass.fastest_force
    monkeypatch.setattr(point_mass, "fastest_force", lambda observation: fastest(observation) / 2)
    assert 5 < best < 0.9 * point_mass.optimal_steps(10, seed=3)

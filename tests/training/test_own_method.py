"""A method that somebody writes in 60 lines on the shared blocks, a file of their own, learns on the gripper table."""

import importlib
import sys
from textwrap import dedent

import pytest

from robots.demonstrators import collect_demonstrations
from robots.episodes import write_episodes
from training.checkpoints import Policy
from training.evaluation import evaluate
from training.local_practice import LocalStations
from training.methods.registry import methods, register
from training.methods.sft import sft
from training.recipes import SFTRecipe
from training.run_dir import RunDir

FILE = '''
    """Nearer is better: each step is rewarded by how much nearer hand and puck, and puck and goal, came."""

    from dataclasses import dataclass
    from typing import ClassVar

    from training.methods.registry import CRITICS, OFF_POLICY_FIELDS, PRACTICE, Method
    from training.recipes import DemonstratedRecipe, setting


    @dataclass(frozen=True)
    class NearerRecipe(DemonstratedRecipe):
        nearness: float = setting(1.0, "Nearness", "What a metre nearer counts.", 0.0, 100.0)

        KIND: ClassVar[str] = "nearer"


    def nearer(run, practise=None):
        import numpy as np

        from robots.embodiments import ENVIRONMENT_STATE, STATE
        from training.actor_critic_learner import ActorCriticLearner
        from training.off_policy import practise_off_policy

        class Nearer(ActorCriticLearner):
            def rewards(self, episode, steps):
                hand = episode.observations[STATE][: steps + 1, :2]
                puck, goal = np.split(episode.observations[ENVIRONMENT_STATE][: steps + 1], 2, 1)
                left = np.linalg.norm(hand - puck, axis=1) + np.linalg.norm(puck - goal, axis=1)
                rewards = -self.recipe.nearness * np.diff(left) - 0.01
                if self.ended_well(episode, steps):
                    rewards[-1] = 1.0
                return rewards

        return practise_off_policy(run, Nearer, practise)


    METHODS = (
        Method(
            recipe=NearerRecipe,
            entry=f"{__name__}:nearer",
            title="Nearer is better",
            words="nearer is better",
            summary="Rewards each step by how much nearer it came.",
            needs=("parent", "stations"),
            roles=("policy",),
            curves=(PRACTICE, CRITICS),
            main_fields=("nearness", *OFF_POLICY_FIELDS),
            grows_with="max_steps",
        ),
    )
'''


@pytest.fixture
def own_method(tmp_path, monkeypatch):
    (tmp_path / "nearer_is_better.py").write_text(dedent(FILE))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("nearer_is_better")
    register(module.METHODS[0])
    yield module
    del methods()["nearer"], sys.modules["nearer_is_better"]


def test_a_method_of_60_lines_learns(tmp_path, own_method):
    assert len(dedent(FILE).strip().splitlines()) <= 60
    recipe = SFTRecipe(action_head="gaussian", steps=1000, passes=100_000, largest_threshold=0.0, evaluation_episodes=0)
    first = RunDir.create(tmp_path / "sft", recipe)
    write_episodes(first.data / "shown.safetensors", collect_demonstrations(["place"], 12, 101))
    sft(first)
    second = RunDir.create(
        tmp_path / "nearer", own_method.NearerRecipe(max_steps=2000, evaluation_episodes=0, cloning_steps=1500)
    )
    for role in ("policy", "reward_model"):
        (second.start / f"{role}.safetensors").symlink_to(first.checkpoints / f"{role}.safetensors")
    (second.data / "shown.safetensors").symlink_to(first.data / "shown.safetensors")
    stations = LocalStations(["place"], 4, 0, 80, {"success_by": "sensor", "reset_each_attempt": True})
    summary = own_method.nearer(second, stations)
    stations.close()
    before, after = (
        evaluate(Policy.load(path), ["place"], 100, 11).rate
        for path in (
            first.checkpoints / "policy.safetensors",
            second.checkpoints / f"policy-{summary['version']:06d}.safetensors",
        )
    )
    assert after >= before + 0.15, f"{before:.2f} before, {after:.2f} after"

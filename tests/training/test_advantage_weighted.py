import dataclasses

import numpy as np
import pytest
import torch

from robots.episodes import read_episodes, rows_of, write_episodes
from training import advantage_weighted
from training.advantage_weighted import AdvantageWeighted, ends
from training.checkpoints import load_checkpoint
from training.methods.self_improvement import improve
from training.recipes import ImproveRecipe
from training.replay import Replay
from training.versions import policy_path

LAST = [
    ("practice", "detected_success", True, 1, 0),
    ("practice", "needs_reset", False, 0, 0),
    ("practice", "time_limit", False, 0, 1),
    ("practice", "stop", False, 0, 1),
    ("demonstration", "true_success", False, 1, 0),
]


@pytest.mark.parametrize("purpose, ending, detected, reward, going_on", LAST)
def test_what_the_last_step_of_an_episode_teaches(loaded, demonstrations, purpose, ending, detected, reward, going_on):
    policy, reward_model = loaded
    episode = dataclasses.replace(demonstrations[0], detected_success=detected, ending=ending, purpose=purpose)
    learner = AdvantageWeighted(policy.network, ImproveRecipe(shaping=0.0), 1)
    rewards = learner.rewards(episode, episode.steps, reward_model, policy)
    assert rewards.tolist() == [0] * (episode.steps - 1) + [reward] and ends(episode) == (not going_on)
    assert learner.remember(episode, episode.steps, rewards, policy)
    kept = (learner.replay.demonstrations if purpose == "demonstration" else learner.replay.episodes)[0]
    before, after, actions, counts, remembered, discounts = kept
    gamma = pytest.approx(learner.recipe.gamma)
    assert discounts.tolist() == [gamma] * (episode.steps - 1) + [gamma if going_on else 0]
    assert counts.tolist() == [1] * episode.steps and remembered.tolist() == rewards.tolist()
    assert before[1:].equal(after[:-1]) and len(before) == len(actions) == episode.steps
    # What a person did after the policy's steps ends nothing, and is nobody's success here.
    assert learner.rewards(episode, 5, reward_model, policy).tolist() == [0] * 5


def test_the_potential_tells_the_way_and_changes_no_sum(loaded, demonstrations):
    """Discounted, the potential's rewards add up to what the first observation had already promised."""
    policy, reward_model = loaded
    gamma, episode = 0.9, dataclasses.replace(demonstrations[0], ending="detected_success", detected_success=True)
    plain, shaped = (
        AdvantageWeighted(policy.network, ImproveRecipe(gamma=gamma, shaping=shaping), 1).rewards(
            episode, episode.steps, reward_model, policy
        )
        for shaping in (0.0, 1.0)
    )
    d, _ = reward_model.steps_to_go(episode.observations, [episode.instruction] * (episode.steps + 1))
    discounts = gamma ** np.arange(episode.steps)
    assert ((shaped - plain) * discounts).sum() == pytest.approx(d[0] / reward_model.farthest, abs=1e-5)
    assert shaped[3] == pytest.approx((d[3] - gamma * d[4]) / reward_model.farthest, abs=1e-5)


def test_the_replay_keeps_demonstrations_and_the_newest_episodes():
    replay = Replay(2)
    for number, demonstrated in ((1, True), (2, False), (3, False), (4, False)):
        replay.add((torch.full((2, 1), float(number)), torch.full((2,), float(number))), demonstrated)
    features, numbers = replay.sample(200, torch.Generator().manual_seed(1))
    assert set(numbers.tolist()) == {1.0, 3.0, 4.0} and features[:, 0].equal(numbers)


def test_q_learns_that_a_success_is_worth_less_the_farther_it_is(loaded, demonstrations, monkeypatch):
    policy, reward_model = loaded
    monkeypatch.setattr(advantage_weighted, "WARM_UP", 150)
    monkeypatch.setattr(advantage_weighted, "POLYAK", 0.1)
    monkeypatch.setattr(advantage_weighted, "CRITIC_RATE", 5e-3)
    network = policy.network
    learner = AdvantageWeighted(network, ImproveRecipe(gamma=0.8, shaping=0.0), 1)
    optimiser = torch.optim.AdamW(learner.parameter_groups, lr=3e-4)
    episode = demonstrations[0]
    learner.remember(episode, episode.steps, learner.rewards(episode, episode.steps, reward_model, policy), policy)
    learner.warm_up(optimiser, torch.Generator().manual_seed(1))
    before, _, actions, *_ = learner.replay.demonstrations[0]
    with torch.no_grad():
        features = network.features.seen_from(network.frames(len(before))[0], before)
        value = learner.q.least(features, network.action_head.encoded(network.action_head.tokens(actions))).tolist()
    assert value[-1] > 0.5 > 0.2 > sum(value[:10]) / 10


def test_what_did_better_than_expected_becomes_likelier(loaded, demonstrations, monkeypatch):
    policy, _ = loaded
    network = load_copy(policy)
    learner = AdvantageWeighted(network, ImproveRecipe(shaping=0.0, updates_per_step=1.0), 1)
    for parameter in learner.acting:
        parameter.requires_grad_(True)
    good, bad = demonstrations[:2]
    for episode, reward in ((good, 1.0), (bad, -1.0)):
        learner.remember(
            dataclasses.replace(episode, purpose="practice"), episode.steps, np.full(episode.steps, reward), policy
        )
    monkeypatch.setattr(AdvantageWeighted, "_weight", lambda self, *_: self.told)

    def likely(episode) -> float:
        goals = policy.goals([episode.instruction]).expand(episode.steps, -1)
        seen = policy.perceive(rows_of(episode.observations, slice(episode.steps)))
        with torch.no_grad():
            return float(network.log_probability(seen, goals, torch.from_numpy(episode.actions)[:, None]).mean())

    sample = learner.replay.sample

    def sampled(n, generator):
        parts = sample(n, generator)
        learner.told = (parts[4] > 0).float()
        return parts

    monkeypatch.setattr(learner.replay, "sample", sampled)
    before = likely(good)
    optimiser = torch.optim.AdamW(learner.parameter_groups, lr=1e-3)
    losses = learner.learn(60, optimiser, torch.Generator().manual_seed(1))
    assert len(losses) == 30 and likely(good) > before + 0.05


def load_copy(policy):
    network = policy.metadata.new_network()
    network.load_state_dict(policy.network.state_dict())
    return network


def test_the_demonstrations_of_the_run_are_learned_from_too(new_improve_run, demonstrations, finished_sft, monkeypatch):
    from tests.training.test_self_improvement import newest_weights, scripted_practice

    monkeypatch.setattr(advantage_weighted, "WARM_UP", 3)
    with_them, without = (
        new_improve_run("with", evaluation_episodes=0),
        new_improve_run("without", evaluation_episodes=0),
    )
    write_episodes(with_them.data / "d.safetensors", demonstrations[4:8])
    for run in (with_them, without):
        improve(run, scripted_practice(demonstrations))
    assert newest_weights(with_them) != newest_weights(without)
    assert policy_path(with_them, 0).exists() and len(read_episodes(with_them.data / "d.safetensors")) == 4
    network, _ = load_checkpoint(policy_path(with_them, 0))
    start, _ = load_checkpoint(with_them.start / "policy.safetensors")
    assert all(a.equal(b) for a, b in zip(network.state_dict().values(), start.state_dict().values(), strict=True))

import copy
import dataclasses

import pytest
import torch

from robots.episodes import read_episodes, write_episodes
from training.benchmarks import awac
from training.benchmarks.awac import Learner, Replay, Settings, steps_of
from training.benchmarks.table_runs import Stage1
from training.networks import SYMMETRIES, turned
from training.rehearsal import LocalStations
from training.run_dir import RunDir

FEW = Settings(updates=3, warm_up=3, batch=16, width=16)
EPISODES = 6


@pytest.fixture
def begin(finished_sft, loaded):
    return Stage1(finished_sft, *loaded, wall_s=0.0)


def practised(path, begin, seed=4):
    return awac.awac(path, begin, seed, EPISODES, 12, ["block2block"], {"edge_margin": 0.01}, FEW)


def weights(policy):
    return policy.network.state_dict()


def same(a, b):
    return all(tensor.equal(weights(b)[name]) for name, tensor in weights(a).items())


def flipped(episodes):
    return [dataclasses.replace(episode, true_success=not episode.true_success) for episode in episodes]


def test_practice_changes_what_acts_and_nothing_else_and_a_seed_fixes_all_bits(tmp_path, begin):
    first, again, other = (practised(tmp_path / str(name), begin, seed) for name, seed in enumerate((4, 4, 5)))
    assert same(first.policy, again.policy) and not same(first.policy, other.policy)
    assert first.episodes == len(first.practice) == EPISODES
    assert first.env_steps >= sum(episode.steps for episode in first.practice)
    changed = {
        name.split(".")[0]
        for name, tensor in weights(first.policy).items()
        if not tensor.equal(weights(begin.policy)[name])
    }
    assert changed == {"trunk", "action_head"}
    assert first.policy.version > 0 and first.policy.description.taught == begin.policy.description.taught


def test_true_success_changes_no_bit(tmp_path, begin, monkeypatch):
    class LyingStations(LocalStations):
        def __call__(self, *arguments):
            super().__call__(*arguments)
            self.episodes[:] = flipped(self.episodes)

    honest = practised(tmp_path / "honest", begin)
    lying = RunDir(tmp_path / "sft")
    lying.data.mkdir(parents=True)
    for file in begin.run.data.glob("*.safetensors"):
        write_episodes(lying.data / file.name, flipped(read_episodes(file)))
    monkeypatch.setattr(awac, "LocalStations", LyingStations)
    lied_to = practised(tmp_path / "lying", dataclasses.replace(begin, run=lying))
    pairs = list(zip(honest.practice, lied_to.practice, strict=True))
    assert pairs and all(a.true_success != b.true_success for a, b in pairs)
    assert same(honest.policy, lied_to.policy)


@pytest.mark.parametrize(
    "detected, ending, purpose, reward, going_on",
    [
        (True, "detected_success", "practice", 1, 0),
        (False, "needs_reset", "practice", 0, 0),
        (False, "time_limit", "practice", 0, 1),
        (False, "stop", "practice", 0, 1),
        (False, "true_success", "demonstration", 1, 0),
    ],
)
def test_what_the_last_step_of_an_episode_teaches(begin, demonstrations, detected, ending, purpose, reward, going_on):
    episode = dataclasses.replace(demonstrations[0], detected_success=detected, ending=ending, purpose=purpose)
    before, after, tokens, rewards, goes_on = steps_of(begin.policy, episode)
    assert rewards.tolist() == [0] * (episode.steps - 1) + [reward]
    assert goes_on.tolist() == [1] * (episode.steps - 1) + [going_on]
    assert before[1:].equal(after[:-1]) and len(before) == episode.steps


def test_a_step_is_kept_as_seen_from_each_side(begin, demonstrations):
    episode, network = demonstrations[0], begin.policy.network
    before, _, tokens, _, _ = steps_of(begin.policy, episode)
    side, t = 5, episode.steps // 2
    perceived = torch.from_numpy(episode.observations[t : t + 1])
    goal = begin.policy.goals([episode.instruction])
    frame = SYMMETRIES[side, None]
    assert before[t, side].allclose(network.features(perceived, goal, frame)[0], atol=1e-5)
    action = turned(frame, torch.from_numpy(episode.actions[t : t + 1]))
    assert tokens[t, side].equal(network.action_head.tokens(action)[0])


def test_q_learns_that_less_is_left_of_a_success_the_farther_it_is(begin, demonstrations):
    replay = Replay()
    replay.add(begin.policy, demonstrations[:1])
    settings = Settings(gamma=0.8, polyak=0.1, batch=64, width=32, critic_rate=5e-3)
    learner = Learner(copy.deepcopy(begin.policy.network), 0, settings)
    for _ in range(150):
        learner.update(replay, acting=False)
    before, _, tokens, _, _ = steps_of(begin.policy, demonstrations[0])
    value = learner.q.least(before[:, 0], tokens[:, 0]).tolist()
    assert value[-1] > 0.5 > 0.2 > sum(value[:10]) / 10

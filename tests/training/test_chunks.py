"""Chunks of actions: what a policy answers at once, and a station executes in part before it asks again."""

import dataclasses

import numpy as np
import pytest
import torch

from robots.embodiments import ENVIRONMENT_STATE, STATE, Embodiment, Motion, vector
from robots.station import Station
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.robots.station_fakes import ASSIGNMENT, FakePolicy, FakeRewardModel, FakeWorld, loaded_policy, told
from training import evaluation
from training.advantage_weighted import AdvantageWeighted
from training.checkpoints import Policy
from training.datasets import demonstrations_of
from training.methods.self_improvement import improve
from training.methods.sft import chunks_of, sft
from training.networks.heads import ActionHead, JointHead
from training.networks.network import Network
from training.networks.table import SYMMETRIES
from training.practice import step_together
from training.recipes import ImproveRecipe, SFTRecipe
from training.run_dir import RunDir, RunError
from training.versions import next_metadata
from training.vocabulary import Vocabulary


class ChunkPolicy(FakePolicy):
    """Four actions, each of another length along x, so that one sees which was executed."""

    def act(self, observations, instructions, generator=None, greedy=False):
        self.calls.append(len(instructions))
        chunk = np.array([[0.001, 0], [0.002, 0], [0.003, 0], [0.004, 0]], np.float32)
        return np.tile(chunk, (len(instructions), 1, 1))


def practising(executed, distance=90.0):
    episodes = []
    station = Station(FakeWorld(), store=episodes.append)
    station.receive(told({"type": "welcome", "settings": {"speed": 0, "shuffle_every_s": 86_400}}))
    station.receive(told(ASSIGNMENT))
    loaded = loaded_policy(policy=ChunkPolicy(), reward_model=FakeRewardModel(distance))
    station.offer_policy(dataclasses.replace(loaded, executed=executed))
    return station, loaded, episodes


def along_x(station):
    return [round(float(action[0]), 3) for action in station.recording.actions]


@pytest.mark.parametrize(
    ("executed", "actions", "asked"),
    [(1, [0.001] * 6, 6), (2, [0.001, 0.002] * 3, 3), (4, [0.001, 0.002, 0.003, 0.004, 0.001, 0.002], 2)],
)
def test_a_station_executes_as_many_as_the_recipe_says_and_looks_at_every_step(executed, actions, asked):
    station, loaded, _ = practising(executed)
    for _ in range(6):
        assert step_together([station]) == 1
    assert along_x(station) == pytest.approx(actions)
    assert len(loaded.policy.calls) == asked and len(loaded.reward_model.calls) == 6
    assert len(station.recording.d) == 6 and np.isfinite(station.recording.d).all()


def test_stations_at_different_places_of_their_chunks_share_the_calls():
    one, loaded, _ = practising(4)
    step_together([one])
    other = Station(FakeWorld(), seed=2)
    other.receive(told({"type": "welcome", "settings": {"speed": 0, "shuffle_every_s": 86_400}}))
    other.receive(told(ASSIGNMENT))
    other.offer_policy(dataclasses.replace(loaded, executed=4))
    for _ in range(4):
        step_together([one, other])
    assert along_x(one) == pytest.approx([0.001, 0.002, 0.003, 0.004, 0.001])
    assert along_x(other) == pytest.approx([0.001, 0.002, 0.003, 0.004])
    assert loaded.policy.calls == [1, 1, 1] and loaded.reward_model.calls == [1, 2, 2, 2, 2]


def test_the_detector_ends_an_attempt_in_the_middle_of_a_chunk_and_the_next_one_begins_with_a_new_one():
    station, loaded, episodes = practising(4, distance=1.8)
    while not episodes:
        step_together([station])
    (episode,) = episodes
    # d = 1.8 - 100 x, from x = 0.001: below 1.5 after the second action of the chunk
    assert episode.ending == "detected_success" and episode.steps == 2
    station.driver.world.state[0] = 0
    step_together([station])
    assert along_x(station)[0] == pytest.approx(0.001) and len(loaded.policy.calls) == 2


@pytest.mark.parametrize("name", ["stop", "pause", "override", "reset"])
def test_a_person_s_act_in_the_middle_of_a_chunk_drops_the_rest_of_it(name):
    station, loaded, episodes = practising(4)
    for _ in range(2):
        step_together([station])
    x = station.driver.world.state[0]
    command = {"type": "command", "id": "a", "name": name, "args": {}, "ttl_ms": 9000, "epoch": 1, "by": "ada"}
    station.receive(told(command))
    assert len(episodes) == 1 and episodes[0].steps == 2
    if name in ("stop", "pause", "override"):
        for _ in range(3):
            step_together([station])
        assert station.driver.world.state[0] == x, "nothing of the chunk is executed any more"
    else:
        step_together([station])
        assert along_x(station) == pytest.approx([0.001]) and len(loaded.policy.calls) == 2


def test_a_new_policy_s_first_action_comes_at_the_next_attempt_only():
    station, loaded, episodes = practising(4)
    step_together([station])
    fresh = loaded_policy(2, policy=FakePolicy((0.02, 0.0)), reward_model=loaded.reward_model)
    station.offer_policy(fresh)
    while not episodes:
        step_together([station])
    assert {round(float(action[0]), 3) for action in episodes[0].actions} == {0.001, 0.002, 0.003, 0.004}
    step_together([station])
    assert along_x(station) == pytest.approx([0.02])


def test_limits_bound_every_action_of_a_chunk(monkeypatch):
    station, loaded, _ = practising(4)
    monkeypatch.setattr(
        loaded.policy, "act", lambda observations, texts, *_: np.full((len(texts), 4, 2), 5, np.float32)
    )
    for _ in range(3):
        step_together([station])
    assert np.abs(station.recording.actions).max() == pytest.approx(0.03)


@pytest.mark.parametrize(
    "answer", [np.zeros((4, 3)), np.zeros((0, 2)), np.full((4, 2), np.nan), np.zeros((2, 2, 2))], ids=str
)
def test_a_chunk_that_is_none_is_a_fault_and_nothing_of_it_is_executed(answer):
    station, loaded, _ = practising(4)
    loaded.policy.act = lambda observations, texts, *_: np.stack([answer] * len(texts))
    before = station.driver.world.state.copy()
    step_together([station])
    assert station.control.state == "needs_person" and np.array_equal(station.driver.world.state, before)


# The network


HEADS = {
    "plain": lambda: ActionHead(6, [(-1, 1), (0, 2)], 3, chunk=2),
    "joints": lambda: JointHead(6, [(-1, 1), (0, 2)], 3, chunk=2, relative=[True, False]),
    "joints alone": lambda: JointHead(6, [(-1, 1), (-2, 1)], 3, chunk=2, relative=[True, True]),
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_first_actions_of_a_chunk_have_a_probability_of_their_own(kind):
    torch.manual_seed(0)
    head = HEADS[kind]()
    hidden = torch.randn(1, 6)
    every = torch.cartesian_prod(*[torch.arange(3)] * 4).unflatten(1, (2, 2))  # all chunks
    whole = head.log_probability(hidden.expand(len(every), -1), every).exp()
    whole = whole.detach()
    assert float(whole.sum()) == pytest.approx(1, abs=1e-5)
    first = every[:, :1]
    alone = head.log_probability(hidden.expand(len(every), -1), first)
    told_so = head.log_probability(hidden.expand(len(every), -1), every, torch.ones(len(every)))
    torch.testing.assert_close(alone, told_so)
    ours = (first == first[0]).flatten(1).all(1)
    assert float(whole[ours].sum()) == pytest.approx(float(alone[0].exp()), abs=1e-5), "the sum over what follows"


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_a_head_samples_what_it_calls_likely(kind, temperature):
    torch.manual_seed(0)
    head = HEADS[kind]()
    head.temperature = temperature
    hidden = torch.randn(1, 6)
    every = torch.cartesian_prod(*[torch.arange(3)] * 4).unflatten(1, (2, 2))
    with torch.no_grad():
        likely = head.log_probability(hidden.expand(len(every), -1), every).exp()
        drawn = head.sample(hidden.expand(20_000, -1), torch.Generator().manual_seed(1), greedy=False, count=2)
        best = head.sample(hidden, None, greedy=True, count=2)
        first = head.first(hidden)
    shares = torch.stack([(drawn == each).flatten(1).all(1).float().mean() for each in every])
    torch.testing.assert_close(shares, likely, atol=0.015, rtol=0)
    assert torch.equal(best[0, 0, 0], first[0].argmax())
    alone = torch.stack([likely[every[:, 0, 0] == token].sum() for token in range(3)])
    torch.testing.assert_close(first[0], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", HEADS)
def test_a_lower_temperature_makes_the_likeliest_action_likelier_and_changes_nothing_in_cloning(kind):
    torch.manual_seed(0)
    head, hidden = HEADS[kind](), torch.randn(1, 6)
    best = head.sample(hidden, None, greedy=True, count=2)
    before, imitated = float(head.log_probability(hidden, best)), head.imitated(hidden, best)
    head.temperature = 0.2
    assert torch.equal(head.imitated(hidden, best), imitated), "cloning knows no temperature"
    assert torch.equal(head.sample(hidden, None, greedy=True, count=2), best)
    assert float(head.log_probability(hidden, best)) > before


def test_a_checkpoint_keeps_its_sampling_temperature_and_practice_goes_on_with_it(new_sft_run):
    run = new_sft_run(sampling_temperature=0.3)
    sft(run)
    policy = Policy.load(run.checkpoints / "policy.safetensors")
    assert policy.metadata.temperature == policy.network.action_head.temperature == 0.3
    later = next_metadata(policy.metadata, 1, ImproveRecipe(), 0)
    assert later.new_network().action_head.temperature == 0.3
    plain = dataclasses.replace(policy.metadata, temperature=1.0).to_json()
    assert "temperature" not in plain and type(policy.metadata).from_json(plain).temperature == 1.0


def test_in_cloning_a_joint_that_is_told_exactly_does_not_take_all():
    torch.manual_seed(0)
    head = JointHead(4, [(-1, 1), (-1, 1)], 41, chunk=1, relative=[True, True])
    rng = torch.Generator().manual_seed(0)
    told = torch.stack([0.01 * torch.randn(500, generator=rng), 0.4 * torch.randn(500, generator=rng)], 1)[:, None]
    head.scale_as(told, torch.ones(500))
    torch.testing.assert_close(head.deviation[0], told[:, 0].std(0).clamp(min=0.025))
    hidden = torch.zeros(500, 4)
    tokens = head.tokens(told)
    with torch.no_grad():
        head.told.bias[3] = -3.0  # the second is told twenty times as exactly now
    even, plain = (
        torch.autograd.grad(likely(hidden, tokens).mean(), head.told.bias)[0][:2].abs()
        for likely in (head.imitated, head.log_probability)
    )
    assert even[1] < 0.1 * plain[1] and even[0] > 0.9 * plain[0]


def test_a_chunk_is_turned_as_a_whole():
    torch.manual_seed(0)
    network = Network(LANGUAGE_TABLE, Vocabulary([]), hidden=16, layers=1, action_bins=7, bins=10, chunk=3)
    perceived = torch.zeros(1, 44)
    perceived[0, :2], perceived[0, 4:6], perceived[0, 19:21] = torch.tensor([[0.05, 0.02], [0.1, 0.03], [-0.1, 0.04]])
    perceived[0, [8, 23]] = 1
    goal = torch.zeros(1, 19)
    goal[0, 0] = goal[0, 8 + 3] = 1
    actions = torch.tensor([[[0.01, 0.0], [0.02, -0.01], [0.0, 0.03]]])
    plain = network.log_probability(perceived, goal, actions)
    mirror = SYMMETRIES[4]
    seen = perceived.clone()
    for x in (0, 2, *range(4, 44, 5)):
        seen[:, x : x + 2] = perceived[:, x : x + 2] @ mirror.T
    torch.testing.assert_close(network.log_probability(seen, goal, actions @ mirror.T), plain, atol=1e-4, rtol=0)
    assert (network.log_probability(seen, goal, actions) - plain).abs() > 1e-3


# What is learned from


def test_chunks_follow_within_an_episode_and_end_before_what_a_policy_did(demonstrations):
    correction = dataclasses.replace(
        demonstrations[0], purpose="correction", ending="operator", actors=demonstrations[0].actors.copy()
    )
    correction.actors[4:6] = 0
    data = demonstrations_of([correction, demonstrations[1]])
    following, counts = chunks_of(data, 3)
    last = int(data.last[0])
    assert counts[:7].tolist() == [3, 3, 2, 1, 0, 0, 3]
    assert counts[last - 3 : last + 1].tolist() == [3, 2, 1, 0] and counts[last + 1] == 3
    assert following[0].tolist() == [0, 1, 2] and following[-1].tolist() == [int(data.last[1])] * 3


def test_as_many_actions_as_are_executed_are_one_step_of_practice(loaded, demonstrations):
    policy, _ = loaded
    network = Network(LANGUAGE_TABLE, policy.vocabulary, hidden=32, layers=2, action_bins=7, bins=50, chunk=4)
    learner = AdvantageWeighted(network, ImproveRecipe(gamma=0.5), 3)
    episode = dataclasses.replace(
        demonstrations[0], purpose="practice", ending="detected_success", detected_success=True
    )
    rewards = np.zeros(episode.steps)
    rewards[-1] = 8.0
    assert learner.remember(episode, episode.steps, rewards, policy)
    before, after, actions, counts, summed, discounts = learner.replay.episodes[0]
    assert actions.shape == (episode.steps, 3, 2) and len(before) == len(after) == episode.steps
    assert counts[-4:].tolist() == [3, 3, 2, 1]
    assert summed[-4:].tolist() == [0.0, 2.0, 4.0, 8.0]
    assert discounts[-4:].tolist() == [0.125, 0, 0, 0] and after[0].equal(before[3])
    np.testing.assert_array_equal(actions[5].numpy(), episode.actions[5:8])
    # Cut off by the time limit there is more to come.
    late = dataclasses.replace(episode, ending="time_limit", detected_success=False)
    learner.remember(late, late.steps, rewards, policy)
    assert learner.replay.episodes[1][5][-4:].tolist() == [0.125, 0.125, 0.25, 0.5]


def test_the_whole_loop_with_chunks(new_sft_run, tmp_path, monkeypatch):
    run = new_sft_run("chunky", chunk=4, executed=2, evaluation_episodes=0)
    sft(run)
    policy = Policy.load(run.checkpoints / "policy.safetensors")
    assert policy.executed == 2 and policy.metadata.sizes["chunk"] == 4
    asked = []
    answer = Policy.answer
    monkeypatch.setattr(Policy, "answer", lambda self, *given: asked.append(len(given[1])) or answer(self, *given))
    monkeypatch.setattr(evaluation.Worlds, "step", lambda self, actions, active, seen: seen)
    evaluation.evaluate(policy, ["block2block"], 3, seed=1, time_limit=5)
    assert asked == [3, 3, 3], "asked at steps 0, 2 and 4 of 5"
    practice = RunDir.create(tmp_path / "practice", ImproveRecipe(max_episodes=4, replay=0, evaluation_episodes=0))
    for role in ("policy", "reward_model"):
        (practice.start / f"{role}.safetensors").symlink_to(run.checkpoints / f"{role}.safetensors")
    with pytest.raises(RunError, match="executed 2 actions at a time"):
        improve(practice, lambda *_: None)


def test_more_of_a_chunk_than_there_is_can_not_be_executed(new_sft_run):
    with pytest.raises(RunError, match="Of a chunk of 2 actions 3 can't be executed"):
        sft(new_sft_run(chunk=2, executed=3))


def test_what_a_policy_answers_has_a_chunk_s_shape():
    network = Network(LANGUAGE_TABLE, Vocabulary(["push"]), hidden=16, layers=1, action_bins=7, bins=10, chunk=5)
    seen = {STATE: torch.zeros(2, 4), ENVIRONMENT_STATE: torch.zeros(2, 40)}
    actions, _ = network.act(network.perceive(seen), torch.zeros(2, 19), torch.Generator().manual_seed(0), greedy=False)
    assert actions.shape == (2, 5, 2) and SFTRecipe().chunk == SFTRecipe().executed == 1


def test_relative_tokens_make_good_what_those_before_were_off_by_and_others_say_where_to():
    head = JointHead(8, [(-0.1, 0.1), (0.0, 1.0)], bins=11, chunk=5, relative=[True, False])
    joints = torch.tensor([0.013, 0.047, 0.066, 0.133, 0.151])  # from where the arm was when it was asked
    actions = torch.stack([joints, torch.tensor([1.0, 1.0, 0.4, 0.0, 0.0])], 1)[None]  # [1, 5, 2]
    tokens = head.tokens(actions)
    meant = head.actions(tokens)
    assert (meant[..., 0] - actions[..., 0]).abs().max() <= 0.0101, "half of a bin, however far the chunk goes"
    assert torch.equal(tokens[0, :, 1], torch.tensor([10, 10, 4, 0, 0])) and torch.allclose(
        meant[..., 1], actions[..., 1]
    )
    far = torch.tensor([[[0.5, 0.0], [0.5, 0.0]]])
    assert head.actions(head.tokens(far))[0, :, 0].tolist() == pytest.approx([0.1, 0.2]), "no further than it may go"


def test_a_network_tells_relative_joints_from_where_they_are_sensed():
    body = Embodiment(
        "pair",
        10.0,
        {STATE: vector(("grip", "joint")), ENVIRONMENT_STATE: vector(("peg_x",))},
        action=vector(("joint", "grip"), (-3.0, 0.0), (3.0, 1.0)),
        motions=(Motion("position", 0.1, "joint", relative=True), Motion("position", 1.0, "grip")),
    )
    network = Network(body, Vocabulary(["go"]), hidden=16, layers=1, action_bins=5, bins=4, chunk=2)
    perceived, goal = torch.tensor([[0.9, 2.0, 0.1], [0.1, -1.0, 0.3]]), network.goal(torch.tensor([[2], [2]]))
    actions, _ = network.act(perceived, goal, torch.Generator().manual_seed(0), greedy=False)
    assert (actions[:, 0, 0] - perceived[:, 1]).abs().max() <= 0.1001
    assert set((actions[..., 1] * 4).flatten().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    told = network.told(perceived, actions)
    assert torch.allclose(network.meant(perceived, told), actions)
    shifted = actions + torch.tensor([0.5, 0.0])  # the same way, from somewhere else
    moved = perceived + torch.tensor([0.0, 0.5, 0.0])
    assert torch.equal(network.action_head.tokens(network.told(moved, shifted)), network.action_head.tokens(told)), (
        "a token says how far, wherever the joint is"
    )

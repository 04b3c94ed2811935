"""Active exploration: the uncertain is sought, tasks are done by the same model, a run goes on to the same bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from robots.demonstrators import recorded
from robots.embodiments import IMAGES, STATE, Embodiment, picture
from robots.tasks import get_task
from robots.worlds.planar_pusher import FASTEST, PLANAR_PUSHER
from robots.worlds.planar_pusher.demonstrator import random_speeds
from robots.worlds.planar_pusher.physics import PlanarPusher
from robots.worlds.point_mass import POINT_MASS
from training.benchmarks.explore import perceived
from training.methods.explore import ActiveExploration, made
from training.recipes import ExploreRecipe

SMALL = ExploreRecipe(seed=1, updates=150, members=3, width=32, candidates=64, horizon=6, batch=64)


def moving(steps, seed=0, pieces=3):
    """A finger that moves by chance, in episodes of so many pieces."""
    world, rng = PlanarPusher(seed), np.random.default_rng(seed)
    instruction = get_task("push_right").sample(rng, ("puck",))
    episodes = []
    for _ in range(pieces):
        world.reset(rng)
        speeds = random_speeds(steps // pieces, 0.8, rng)
        observations = [world.observation(), *(world.step(speed) for speed in speeds)]
        episodes.append(recorded(world, instruction, observations, list(speeds), False, "time_limit", rng, seed))
    return episodes


def learned(recipe, episodes, times=1):
    learning = ActiveExploration(made(PLANAR_PUSHER, recipe), recipe)
    for episode in episodes:
        learning.remember(episode)
    generator = torch.Generator().manual_seed(recipe.seed)
    for _ in range(times):
        learning.learn(generator)
    return learning


def test_it_learns_from_steps_whoever_acted_and_says_how_many():
    episodes = moving(300)
    learning = ActiveExploration(made(PLANAR_PUSHER, SMALL), SMALL)
    with pytest.raises(ValueError, match="has seen nothing yet"):
        learning.learn(torch.Generator())
    learning.remember(episodes[0])
    learning.remember(replace(episodes[1], purpose="practice"))
    generator = torch.Generator().manual_seed(0)
    losses = [learning.learn(generator) for _ in range(4)]
    assert learning.steps == 200 and losses[-1]["updates"] == 600
    assert losses[-1]["model_loss"] < losses[0]["model_loss"]
    told = learning.network.inputs(
        perceived([{STATE: np.zeros(4, np.float32), "e": np.ones(4, np.float32)}]), torch.zeros(1, 2)
    )
    assert told.shape == (1, 12) and (told[0, 8:10].abs() == 1).all(), "8 numbers, 2 ways from finger to puck, 2 speeds"


def test_where_the_finger_goes_is_learned():
    network = learned(replace(SMALL, updates=800), moving(600)).network
    world = PlanarPusher(3)
    world.set_observation(
        {STATE: np.array([-0.2, -0.3, 0, 0]), "observation.environment_state": np.array([0.2, 0.2, 0, 0])}
    )
    before = perceived([world.observation()])
    action = torch.tensor([[0.0, FASTEST]])
    with torch.no_grad():
        expected = before + network.model.predict(network.inputs(before, action))
    after = perceived([world.step(action[0].numpy())])
    assert (expected - after)[0, :2].abs().max() < 0.03 and after[0, 1] - before[0, 1] > 0.05


class Doubtful(torch.nn.Module):
    """In place of a model: nothing changes, and its members differ by as much as the action's first number is."""

    def __init__(self, actions):
        super().__init__()
        self.actions = actions
        self.outputs_scaled = torch.nn.Module()
        self.outputs_scaled.mean, self.outputs_scaled.deviation = torch.zeros(8), torch.ones(8)

    def forward(self, told):
        share = told[..., self.actions].clamp(min=0)
        one = torch.zeros(*told.shape[:-1], 8)
        other = one.clone()
        other[..., 0] = 10 * share
        return torch.stack([one, -other, other]), None

    def opinions(self, told):
        return self(told)[0]

    def predict(self, told):
        return torch.zeros(*told.shape[:-1], 8)


def test_it_goes_where_the_members_disagree_and_says_how_much():
    network = made(PLANAR_PUSHER, SMALL)
    network.model = Doubtful(10)
    memories, generator = [{}, {}], torch.Generator().manual_seed(0)
    start = perceived([PlanarPusher(seed).observation() for seed in (0, 1)])
    for _ in range(4):
        actions, signals = network.act(start, memories, generator)
    assert (actions[:, 0] > 0.5 * FASTEST).all() and actions.abs().max() <= FASTEST * (1 + 1e-6)
    assert (signals["disagreement"] > 1).all() and (signals["model_error"] == 0).all()


def test_a_task_is_done_by_the_same_model():
    """Its finger is the observation's first number, so that aiming at it needs no puck."""
    network = learned(replace(SMALL, updates=800), moving(600)).network
    for name, at, sign in (("finger_x", 0, 1), ("finger_y", 1, 1)):
        network.aim_at(name)
        world, memory, generator = PlanarPusher(2), {}, torch.Generator().manual_seed(0)
        world.set_observation(
            {STATE: np.array([-0.2, -0.2, 0, 0]), "observation.environment_state": np.array([-0.4, 0.4, 0, 0])}
        )
        before = perceived([world.observation()])[0, at].item()
        for _ in range(8):
            action, _ = network.act(perceived([world.observation()]), [memory], generator)
            world.step(action[0].numpy())
        assert perceived([world.observation()])[0, at].item() - before > 0.15 * sign
    with pytest.raises(ValueError, match=r"Nothing observed is called 'puck\.z'; write one of finger_x"):
        network.aim_at("puck.z")
    network.aim_at("")
    assert int(network.aim) == -1


def test_nearness_to_the_puck_counts_for_a_task_about_it():
    network = made(PLANAR_PUSHER, SMALL)
    network.model = Doubtful(10)
    network.aim_at("puck.x")
    near, far = (torch.tensor([[x, 0.0, 0, 0, 0.2, 0.0, 0, 0]]) for x in (0.1, -0.4))
    plans = torch.zeros(1, 3, 6, 2)
    assert (network._done(near, plans) > network._done(far, plans) + 0.1).all()


def test_what_was_learned_and_what_is_aimed_at_is_all_in_the_weights():
    network = learned(SMALL, moving(150)).network
    network.aim_at("puck.y")
    other = made(PLANAR_PUSHER, replace(SMALL, seed=5))
    other.load_state_dict(load(save({key: each.contiguous() for key, each in network.state_dict().items()})))
    start = perceived([PlanarPusher(0).observation()])
    one, two = (each.act(start, [{}], torch.Generator().manual_seed(3))[0] for each in (network, other))
    assert torch.equal(one, two)


def test_the_same_seed_learns_the_same_bits_also_when_it_was_stopped_between():
    episodes = moving(150)
    whole = learned(SMALL, episodes, times=3)
    again, generator = ActiveExploration(made(PLANAR_PUSHER, SMALL), SMALL), torch.Generator().manual_seed(SMALL.seed)
    for episode in episodes:
        again.remember(episode)
    again.learn(generator)
    again.learn(generator)
    resumed = ActiveExploration(made(PLANAR_PUSHER, replace(SMALL, seed=9)), SMALL)
    for episode in episodes:
        resumed.remember(episode)
    resumed.network.load_state_dict(again.network.state_dict())
    resumed.optimiser.load_state_dict(again.optimiser.state_dict())
    resumed.learn(generator)
    assert all(map(torch.equal, whole.network.state_dict().values(), resumed.network.state_dict().values()))


def test_a_body_that_sees_by_cameras_alone_is_refused_in_words():
    body = Embodiment("eyes", 10.0, {IMAGES + "top": picture(8, 8)}, POINT_MASS.action)
    with pytest.raises(ValueError, match="eyes can't be explored by a model of its numbers"):
        made(body, SMALL)

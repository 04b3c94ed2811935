"""Pushes of a block, and what they do to it; what all worlds must do is in test_worlds.py."""

import math

import numpy as np
import pytest

from robots.demonstrators import collect_demonstrations
from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.tasks import get_task
from robots.worlds import make_world
from robots.worlds.push_effects import HALF_BLOCK, HALF_TABLE, KICK, MOVED
from robots.worlds.push_effects.demonstrator import random_pushes
from robots.worlds.push_effects.physics import BEHIND, PUSHER_RADIUS, PushEffects
from training.networks.probing import effects

AT_THE_MIDDLE = np.array([0.0, 0.0, 1.0, 0.0])
UNKICKED = math.pi  # a direction


def put(world, pose, pusher=(0.0, 0.0)):
    world.set_observation({STATE: np.array(pusher), ENVIRONMENT_STATE: np.array(pose)})


def effect(world, action):
    before = world.observation()[ENVIRONMENT_STATE]
    after = world.step(np.array(action))[ENVIRONMENT_STATE]
    return effects(before[None], after[None])[0]


def test_a_push_at_the_middle_moves_the_block_as_far_as_it_goes_beyond_the_touch():
    world = PushEffects(0)
    put(world, AT_THE_MIDDLE)
    along, aside, turned = effect(world, (UNKICKED, 0.0, 0.1))
    touch = BEHIND - 0.035 - PUSHER_RADIUS
    assert along == pytest.approx(-100 * (0.1 - touch), abs=0.1) and abs(aside) < 0.05 and abs(turned) < 0.05
    put(world, AT_THE_MIDDLE)
    assert np.abs(effect(world, (-math.pi / 2, 0.0, 0.02))).max() < 1e-4, "it never came so far"
    assert not world.true_success(get_task("push_effects").parse("push the block"))


def test_a_push_beside_the_middle_turns_the_block_and_one_far_beside_misses_it():
    world, turns = PushEffects(0), []
    for offset in (0.015, -0.015):
        put(world, AT_THE_MIDDLE)
        turns.append(effect(world, (UNKICKED, offset, 0.08))[2])
    assert turns[0] == pytest.approx(-turns[1], abs=0.02) and abs(turns[0]) > 0.3
    put(world, AT_THE_MIDDLE)
    assert np.abs(effect(world, (UNKICKED, 0.07, 0.1))).max() < 1e-4


def test_a_push_does_the_same_wherever_the_block_lies():
    rng, world = np.random.default_rng(0), PushEffects(0, kicks=False)
    for action in random_pushes(20, rng):
        found = []
        for _ in range(3):
            world.reset(rng)
            found.append(effect(world, action))
        np.testing.assert_allclose(found[1:], [found[0]] * 2, atol=2e-3)


def test_a_kick_comes_in_a_quarter_of_the_directions_alone_and_nobody_foresees_its_way():
    rng, kicked, calm = np.random.default_rng(1), PushEffects(1), PushEffects(2, kicks=False)
    ways, others = [], []
    for action in random_pushes(80, rng):
        difference = []
        for world in (kicked, calm):
            world.reset(rng)
            difference.append(effect(world, action))
        (ways if 0 <= action[0] < math.pi / 2 else others).append(np.subtract(*difference)[:2])
    lengths = np.linalg.norm(ways, axis=1)
    assert len(ways) > 10 and np.abs(others).max() < 0.03
    np.testing.assert_allclose(lengths, 100 * KICK, atol=0.1)
    assert np.abs(np.mean(ways, 0)).max() < 100 * KICK / 2, "from any side"


def test_the_chance_of_kicks_comes_from_the_reset():
    def after(seed):
        world = PushEffects(9)
        world.reset(np.random.default_rng(seed))
        put(world, AT_THE_MIDDLE)
        return [effect(world, (0.5, 0.0, 0.05)).tolist() for _ in range(3)]

    assert after(3) == after(3) != after(4)


def test_a_recorded_observation_is_the_whole_state_but_for_the_chance():
    rng, world, other = np.random.default_rng(2), PushEffects(0, kicks=False), PushEffects(5, kicks=False)
    for action in random_pushes(8, rng):
        seen = world.step(action)
        other.set_observation(seen)
        np.testing.assert_allclose(other.observation()[ENVIRONMENT_STATE], seen[ENVIRONMENT_STATE], atol=1e-6)
        np.testing.assert_array_equal(other.observation()[STATE], seen[STATE])
        height, tilt = world._data.qpos[5], world._data.qpos[7:9]
        assert height == HALF_BLOCK[2] and not tilt.any() and not world._data.qvel.any(), "at rest, flat on the table"


def test_who_has_lost_the_block_asks_for_a_reset():
    world = make_world("push_effects", 0)
    assert world.needs_reset() == ""
    put(world, (HALF_TABLE + 0.01, 0.0, 1.0, 0.0))
    assert world.needs_reset() == "the block is off the table"
    assert world.resets_itself and get_task("push_effects").reset_each_attempt


def test_demonstrations_are_one_push_each_from_anywhere_that_found_the_block():
    episodes = collect_demonstrations(["push_effects"], 60, seed=4)
    actions = np.concatenate([episode.actions for episode in episodes])
    assert actions.shape == (60, 3) and (np.ptp(actions, axis=0) > (4, 0.05, 0.05)).all()
    for episode in episodes:
        episode.validate()
        episode.check_against(episode.body)
        poses = episode.observations[ENVIRONMENT_STATE]
        assert math.dist(poses[0, :2], poses[1, :2]) >= MOVED - 1e-6 and episode.true_success


def test_block_and_pusher_are_seen_by_the_camera_and_in_the_drawn_view(monkeypatch):
    world = PushEffects(0)
    put(world, (0.1, 0.1, 1.0, 0.0), (-0.1, -0.1))
    for renderer in (world.renderer, "drawn"):
        monkeypatch.setattr(PushEffects, "renderer", renderer)
        picture = world.render("front", 240, 240).astype(int)
        blue = picture[..., 2] > picture[..., 0] + 60
        rows, columns = np.nonzero(blue)
        assert rows.mean() < 110 and columns.mean() > 130, "above and right of the middle"
        assert np.ptp(columns) > 1.4 * np.ptp(rows), "along its length"
        assert (picture[130:200, 40:110].sum(-1) < 200).any()

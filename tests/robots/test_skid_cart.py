"""The cart whose drive changes; what all worlds must do is in test_worlds.py."""

import math

import numpy as np
import pytest

from robots.demonstrators import collect_demonstrations
from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.tasks import get_task
from robots.worlds import WorldError, make_world
from robots.worlds.skid_cart import TIME_LIMIT_STEPS, UNUSUAL_GAINS, USUAL_GAINS, WAY_POINTS
from robots.worlds.skid_cart.demonstrator import Habits, act, drive_at_random
from robots.worlds.skid_cart.physics import REACHED, course

TASK = get_task("drive_course")


def at(pose, reached=0.0, gains=(1.0, 1.0)):
    world = make_world("skid_cart", 0)
    world.changed_gains = gains
    world.set_observation({STATE: np.array(pose), ENVIRONMENT_STATE: np.array([0, 0, reached])})
    return world


def driven(world, action, steps=10):
    for _ in range(steps):
        observation = world.step(np.array(action))
    return observation[STATE]


@pytest.mark.parametrize("yaw", [0.0, 2.0])
def test_it_goes_where_it_looks_and_turns_on_the_spot(yaw):
    x, y, turned = driven(at((0, 0, yaw)), (1.0, 0.0))
    assert (x, y, turned) == pytest.approx((2 * math.cos(yaw), 2 * math.sin(yaw), yaw), abs=0.03)
    x, y, turned = driven(at((0, 0, yaw)), (0.0, -0.5))
    assert (x, y) == pytest.approx((0, 0), abs=0.01) and turned == pytest.approx(yaw - 1.0, abs=0.02)


def test_the_gains_multiply_the_command_between_15_and_80_per_cent_of_the_course_and_nobody_observes_them():
    for reached, changed in ((0.10, False), (0.15, True), (0.75, True), (0.80, False)):
        sound, world = at((0, 0, 0), reached), at((0, 0, 0), reached, gains=(-0.5, 2.0))
        np.testing.assert_equal(world.observation(), sound.observation())
        assert driven(world, (1.0, 0.0))[0] == pytest.approx(-1.0 if changed else 2.0, abs=0.03)
        assert driven(at((0, 0, 0), reached, (-0.5, 2.0)), (0.0, 0.5))[2] == pytest.approx(
            2.0 if changed else 1.0, abs=0.03
        )


def test_a_command_beyond_the_limits_is_cut_before_the_gains():
    assert driven(at((0, 0, 0), 0.5, (2.0, 1.0)), (5.0, 0.0), 5)[0] == pytest.approx(2.0, abs=0.05)


def test_way_points_are_reached_in_their_order_and_the_last_is_success():
    instruction, points = TASK.sample(np.random.default_rng(0), ()), course()
    gaps = np.linalg.norm(points - np.roll(points, 1, 0), axis=1)
    assert gaps.min() > 2 * REACHED, "none is reached with another"
    world = at((*points[3], 0), 0.0)
    world.step(np.zeros(2))
    assert world.reached == 0
    for i, point in enumerate(points):
        world.set_observation({STATE: np.array([*point, 0]), ENVIRONMENT_STATE: np.array([0, 0, i / WAY_POINTS])})
        assert tuple(world.observation()[ENVIRONMENT_STATE][:2]) == pytest.approx(tuple(point), abs=1e-6)
        assert not world.true_success(instruction)
        world.step(np.zeros(2))
        assert world.sensed(instruction) == {"reached": (i + 1) / WAY_POINTS}
    assert world.true_success(instruction) and world.needs_reset() == ""


def test_a_cart_that_left_its_ground_needs_a_person():
    assert "bring it back" in at((15.2, 0, 0)).needs_reset()


def test_a_recorded_state_is_put_back_and_goes_on_alike():
    world = make_world("skid_cart", 3)
    for _ in range(7):
        world.step(np.array((0.6, 0.9)))
    for _ in range(3):
        observation = world.step(np.zeros(2))  # at rest: how fast it is nobody observes
    others = [make_world("skid_cart", seed) for seed in (4, 5)]
    for other in others:
        other.set_observation(observation)
        other.changed_gains = world.changed_gains
    np.testing.assert_equal(others[0].observation(), observation)
    ahead = [[each.step(np.array((0.7, -0.4))) for _ in range(5)][-1] for each in (world, *others)]
    np.testing.assert_equal(ahead[1], ahead[2])
    np.testing.assert_allclose(ahead[0][STATE], ahead[1][STATE], atol=1e-4)
    with pytest.raises(WorldError, match=r"observation\.state must be 3 numbers"):
        world.set_observation({STATE: np.zeros(2), ENVIRONMENT_STATE: np.zeros(3)})


def test_yaw_is_told_within_half_a_turn_either_way():
    world, rng = at((0, 0, 3.0)), np.random.default_rng(0)
    told = [world.step(np.array((0, rng.uniform(0, 1.5))))[STATE][2] for _ in range(60)]
    assert min(told) < -2 and max(np.abs(told)) <= math.pi + 1e-6


def test_resets_draw_the_usual_gains_and_none_of_the_others():
    world, rng = make_world("skid_cart", 0), np.random.default_rng(1)
    drawn = {(world.reset(rng), world.changed_gains)[1] for _ in range(200)}
    assert drawn == set(USUAL_GAINS) and not drawn & set(UNUSUAL_GAINS)
    assert all(0.5 <= abs(gain) <= 2 for gains in USUAL_GAINS for gain in gains)


def test_the_script_gets_round_in_time_and_strays_on_its_way():
    episodes = collect_demonstrations(["drive_course"], 20, seed=1)
    assert max(each.steps for each in episodes) < TIME_LIMIT_STEPS and all(each.true_success for each in episodes)
    backwards = [(each.actions[:, 0] < -0.1).mean() for each in episodes]
    assert np.mean(backwards) > 0.02, "a model learns to go backwards too"
    world, rng = make_world("skid_cart", 9), np.random.default_rng(9)
    world.reset(rng)
    straight = Habits(1.0, 2.0, 0.0)
    world.changed_gains = (1.0, 1.0)
    steps = 0
    while world.reached < 1:
        world.step(act(world.observation(), straight))
        steps += 1
    assert steps < 170


def test_random_driving_goes_all_ways_with_a_sound_drive():
    world, rng = make_world("skid_cart", 0), np.random.default_rng(2)
    episode = drive_at_random(world, TASK.sample(rng, ()), 200, rng)
    episode.validate()
    assert episode.steps == 200 and world.changed_gains == (1.0, 1.0)
    assert (np.abs(episode.actions).max(0) > (0.9, 1.4)).all() and (np.sign(episode.actions).mean(0) < 0.4).all()


def test_it_is_seen_by_the_camera_and_by_a_drawn_view(monkeypatch):
    world = at((*course()[4], 0.5), 0.3)
    for renderer in (world.renderer, "drawn"):
        monkeypatch.setattr("robots.worlds.skid_cart.physics.renderer_name", lambda renderer=renderer: renderer)
        picture = world.render("front", 320, 240).astype(int)
        assert picture.shape == (240, 320, 3)
        green = (picture[..., 1] > picture[..., 0] + 60) & (picture[..., 1] > picture[..., 2] + 30)
        cart = picture.max(2) < 80
        assert green.sum() > 15 and cart[:, 60:260].sum() > 40
        rows, columns = np.nonzero(cart[:, 60:260])
        assert columns.mean() + 60 > 150 and rows.mean() < 100, "right of the middle, at the top"

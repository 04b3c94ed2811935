"""The finger and its puck; what all worlds must do is in test_worlds.py."""

import numpy as np
import pytest

from robots.demonstrators import collect_demonstrations
from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.tasks import get_task
from robots.worlds import make_world
from robots.worlds.planar_pusher import AIMS, FASTEST, HALF_TABLE, TIME_LIMIT_STEPS
from robots.worlds.planar_pusher.demonstrator import demonstrate, random_speeds
from robots.worlds.planar_pusher.physics import FINGER_RADIUS, PUCK_RADIUS

TOUCHING = PUCK_RADIUS + FINGER_RADIUS


def at(finger, puck=(0.3, 0.3), velocities=((0, 0), (0, 0))):
    world = make_world("planar_pusher", 0)
    world.set_observation(
        {STATE: np.array([*finger, *velocities[0]]), ENVIRONMENT_STATE: np.array([*puck, *velocities[1]])}
    )
    return world


def pushed(world, action, steps):
    for _ in range(steps):
        world.step(np.array(action))
    return world


def test_the_finger_goes_as_fast_as_it_is_told_and_no_faster_than_it_can():
    assert pushed(at((-0.3, 0.0)), (0.4, 0.0), 10).finger == pytest.approx((0.1, 0.0), abs=0.03)
    assert pushed(at((-0.3, 0.0)), (9.0, 0.0), 5).finger[0] == pytest.approx(-0.3 + 0.5 * FASTEST, abs=0.04)


def test_a_puck_is_pushed_at_its_middle_goes_aside_when_it_isnt_and_slides_on_until_friction_stops_it():
    world = pushed(at((-0.25, 0.0), (-0.1, 0.0)), (0.5, 0.0), 4)
    assert world.in_contact and world.puck[0] > 0.0 and abs(world.puck[1]) < 1e-6
    after = world.puck[0]
    pushed(world, (-0.5, 0.0), 1)
    assert not pushed(world, (-0.5, 0.0), 1).in_contact and world.puck[0] > after + 0.01
    rest = pushed(world, (0.0, 0.0), 30).puck[0]
    assert pushed(world, (0.0, 0.0), 5).puck[0] == pytest.approx(rest, abs=1e-3)
    aside = pushed(at((-0.25, 0.08), (-0.1, 0.0)), (0.5, 0.0), 6)
    assert aside.puck[1] < -0.02


def test_nothing_leaves_the_table():
    world, rng = at((-0.25, 0.0), (-0.1, 0.0)), np.random.default_rng(0)
    for action in random_speeds(600, 0.9, rng):
        world.step(action)
        assert np.abs(world.puck).max() < HALF_TABLE - 0.9 * PUCK_RADIUS
        assert np.abs(world.finger).max() < HALF_TABLE - 0.7 * FINGER_RADIUS


def test_contact_is_that_of_finger_and_puck_during_the_last_step_alone():
    world = at((0.0, 0.0), (TOUCHING + 0.1, 0.0))
    assert not pushed(world, (0.5, 0.0), 1).in_contact and pushed(world, (0.5, 0.0), 2).in_contact
    wall = at((HALF_TABLE - FINGER_RADIUS - 0.02, 0.0), (-0.3, -0.3))
    assert not pushed(wall, (0.5, 0.0), 3).in_contact, "a wall is no puck"


def test_a_recorded_state_is_put_back_with_its_velocities_and_goes_on_alike():
    world = pushed(at((-0.25, 0.02), (-0.1, 0.0)), (0.5, 0.1), 4)
    observation = world.observation()
    assert np.abs(observation[ENVIRONMENT_STATE][2:]).max() > 0.1
    others = [make_world("planar_pusher", seed) for seed in (4, 5)]
    for other in others:
        other.set_observation(observation)
        np.testing.assert_equal(other.observation(), observation)
    ahead = [[each.step(np.array((0.2, 0.1))) for _ in range(3)][-1] for each in (world, *others)]
    np.testing.assert_equal(ahead[1], ahead[2])
    places = [each[ENVIRONMENT_STATE][:2] for each in ahead]
    np.testing.assert_allclose(places[0], places[1], atol=2e-3)


def test_each_task_is_a_side_of_its_own_and_no_reset_has_done_it():
    right, up = (get_task(name).sample(np.random.default_rng(0), ("puck",)) for name in AIMS)
    assert at((0, 0), (0.31, 0.0)).true_success(right) and not at((0, 0), (0.31, 0.0)).true_success(up)
    assert at((0, 0), (0.0, 0.31)).true_success(up) and not at((0, 0), (0.29, 0.31)).true_success(right)
    world, rng = make_world("planar_pusher", 0), np.random.default_rng(1)
    for _ in range(100):
        world.reset(rng)
        assert not world.true_success(right) and not world.true_success(up)
        assert np.linalg.norm(world.finger - world.puck) > TOUCHING and not world.in_contact


@pytest.mark.parametrize("name", AIMS)
def test_the_script_succeeds_within_the_time_limit(name):
    world, rng, task = make_world("planar_pusher", 0), np.random.default_rng(5), get_task(name)
    attempts = []
    for _ in range(60):
        world.reset(rng)
        attempts.append(demonstrate(world, task.sample(rng, ("puck",)), rng))
        attempts[-1].validate()
    assert np.mean([each.true_success for each in attempts]) >= 0.95
    assert np.median([each.steps for each in attempts]) < 0.6 * TIME_LIMIT_STEPS


def test_demonstrations_of_both_tasks_come_in_turn():
    episodes = collect_demonstrations([*AIMS], 4, seed=3)
    assert [each.task for each in episodes] == [*AIMS] * 2 and all(each.true_success for each in episodes)


def test_smooth_speeds_keep_their_share_of_the_one_before():
    for kept in (0.0, 0.8):
        speeds = random_speeds(4000, kept, np.random.default_rng(0))
        assert np.abs(speeds).max() <= FASTEST * (1 + 1e-6)
        together = np.corrcoef(speeds[:-1, 0], speeds[1:, 0])[0, 1]
        assert together == pytest.approx(0.9 * kept, abs=0.1)


def test_it_is_seen_by_the_camera_and_by_a_drawn_view(monkeypatch):
    world = at((-0.3, -0.3), (0.3, 0.3))
    for renderer in (world.renderer, "drawn"):
        monkeypatch.setattr("robots.worlds.planar_pusher.physics.renderer_name", lambda renderer=renderer: renderer)
        picture = world.render("front", 320, 240).astype(int)
        red = (picture[..., 0] > 120) & (picture[..., 1] < 100)
        finger = (picture.max(2) < 80)[40:200, 70:250]
        rows, columns = np.nonzero(red)
        assert len(rows) > 100 and rows.mean() < 100 and columns.mean() > 180
        rows, columns = np.nonzero(finger)
        assert len(rows) > 20 and rows.mean() > 80 and columns.mean() < 90

"""The gripper table: its hold, its pocket, its two families, and that its script can do them."""

import math

import numpy as np
import pytest

from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.tasks import TASKS, get_task
from robots.worlds import WORLDS, make_world
from robots.worlds.gripper_table import HOME, LONGEST_STEP, REACH, VIEW

WORLD_NAMES = ("gripper_table", "gripper_pocket")


def table(world="gripper_table", gripper=(0.0, 0.0), puck=(0.02, 0.0), goal=(0.3, 0.0), held=0.0):
    made = make_world(world, 0)
    made.set_observation({STATE: np.array([*gripper, held]), ENVIRONMENT_STATE: np.array([*puck, *goal])})
    return made


def carry(world, count, x, y, grip=1.0):
    for _ in range(count):
        world.step(np.array([x, y, grip], np.float32))
    return world


def test_closing_fingers_take_a_puck_within_reach_and_carry_it():
    near = carry(table(puck=(0.9 * REACH, 0.0)), 5, LONGEST_STEP, 0.0)
    assert near.held and math.dist(near.puck, near.gripper) < 0.02 and near.gripper[0] == pytest.approx(0.2)
    far = carry(table(puck=(0.0, 1.3 * REACH)), 5, LONGEST_STEP, 0.0)
    assert not far.held and far.puck[1] == pytest.approx(1.3 * REACH)


def test_opening_fingers_let_go_and_an_empty_gripper_moves_nothing():
    world = carry(carry(table(), 3, LONGEST_STEP, 0.0), 1, 0.0, 0.0, -1.0)
    left = world.puck
    carry(world, 3, -LONGEST_STEP, 0.0, -1.0)
    assert not world.held and math.dist(world.puck, left) < 0.01


def test_a_pucks_place_counts_after_three_steps_in_a_row():
    world, instruction = (
        table(gripper=(0.3, 0.0), puck=(0.3, 0.0)),
        get_task("place").parse("move the puck to the goal"),
    )
    told = []
    for _ in range(4):
        world.step(np.array([0, 0, -1], np.float32))
        told.append(world.true_success(instruction))
    assert told == [False, False, True, True]
    assert world.sensed(instruction) == {"success": 1.0}


def test_a_puck_is_back_home_once_it_is_let_go_there():
    back = get_task("bring_back").parse("move the puck back")
    world = carry(table(gripper=HOME, puck=HOME), 1, 0.0, 0.0)
    assert world.held and not world.true_success(back)
    assert carry(world, 1, 0.0, 0.0, -1.0).true_success(back)


def test_a_puck_leaves_the_pocket_through_its_mouth_alone():
    """Carried to the right it meets the wall and slips out of the hold; to the left it comes along."""
    kept = carry(table("gripper_pocket", gripper=(0.3, 0.0), puck=(0.3, 0.0)), 8, LONGEST_STEP, 0.0)
    assert not kept.held and kept.puck[0] < 0.37
    out = carry(table("gripper_pocket", gripper=(0.3, 0.0), puck=(0.3, 0.0)), 8, -LONGEST_STEP, 0.0)
    assert out.held and out.puck[0] == pytest.approx(0.3 - 8 * LONGEST_STEP, abs=0.02)
    open_table = carry(table(gripper=(0.3, 0.0), puck=(0.3, 0.0)), 4, LONGEST_STEP, 0.0)
    assert open_table.held and open_table.puck[0] > 0.43


@pytest.mark.parametrize("world", WORLD_NAMES)
def test_a_recorded_state_comes_back_and_goes_on_alike(world):
    one, rng = make_world(world, 3), np.random.default_rng(1)
    one.reset(rng)
    for _ in range(10):
        seen = one.step(rng.uniform(-1, 1, 3) * (LONGEST_STEP, LONGEST_STEP, 1))
    two = make_world(world, 9)
    two.set_observation(seen)
    for key, array in two.observation().items():
        assert array == pytest.approx(seen[key], abs=1e-6)


@pytest.mark.parametrize("family", [name for name, each in TASKS.items() if each.world in WORLD_NAMES])
def test_the_script_succeeds_within_the_limit(family):
    world, demonstrate = make_world(get_task(family).world, 0), WORLDS[get_task(family).world].demonstrate
    done = []
    for number in range(100):
        rng = np.random.default_rng(number)
        world.reset(rng)
        done.append(demonstrate(world, get_task(family).sample(rng, world.objects_in_play()), rng, 0))
    assert all(each.steps <= get_task(family).time_limit_steps for each in done)
    assert sum(each.true_success for each in done) >= 95


@pytest.mark.parametrize("renderer", ["as it is", "drawn"])
def test_the_views_plane_leads_to_where_things_are_seen(monkeypatch, renderer):
    """The red puck's middle, by its plane, is where its pixels are."""
    world = table(puck=(0.2, -0.15), gripper=(-0.3, 0.3), goal=(0.3, 0.2))
    if renderer == "drawn":
        monkeypatch.setattr(type(world), "renderer", "drawn")
    picture = world.render("front", VIEW.width, VIEW.height).astype(int)
    red = (picture[..., 0] > 110) & (picture[..., 1] < 90) & (picture[..., 2] < 90)
    rows, columns = np.nonzero(red)
    u, v, scale = np.reshape(VIEW.plane, (3, 3)) @ (0.2, -0.15, 1.0)
    assert columns.mean() / VIEW.width == pytest.approx(u / scale, abs=0.02)
    assert rows.mean() / VIEW.height == pytest.approx(v / scale, abs=0.02)

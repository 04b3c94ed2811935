"""The banana table, the worn table and the point mass; what all worlds must do is in test_worlds.py."""

import math

import numpy as np
import pytest

from robots.demonstrators import collect_demonstrations
from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.episodes import rows_of, stacked
from robots.tasks import get_task
from robots.worlds import make_world
from robots.worlds.language_table import BANANA_TABLE, LANGUAGE_TABLE, PLACES, WORN_TABLE, block_positions
from robots.worlds.language_table.banana import BANANA_TABLE_SETUP
from robots.worlds.language_table.demonstrator import demonstrate
from robots.worlds.language_table.physics import BatchWorld
from robots.worlds.language_table.worn import WORN_TABLE_SETUP
from robots.worlds.point_mass.demonstrator import DETOURS, fastest_force
from robots.worlds.point_mass.physics import GOAL_RADIUS


def banana_at_the_centre(end_effector):
    world = make_world("banana_table", 0)
    world.set_observation(
        {STATE: np.array([*end_effector, *end_effector]), ENVIRONMENT_STATE: np.array([0, 0, 1, 0, 1])}
    )
    return world


def push(world, count, action):
    for _ in range(count):
        observation = world.step(np.array(action))
    return observation[ENVIRONMENT_STATE][BANANA_TABLE.object_slice("banana")]


def test_a_banana_pushed_at_its_middle_moves_and_pushed_off_centre_spins():
    x, _, cos, _, _ = push(banana_at_the_centre((-0.06, 0.0)), 6, (0.02, 0.0))
    assert x > 0.03 and cos > 0.97
    x_off, _, cos_off, _, _ = push(banana_at_the_centre((-0.06, 0.035)), 6, (0.02, 0.0))
    assert cos_off < 0.8 and x_off < 0.7 * x


def test_the_banana_is_made_around_its_centre_of_mass_and_longer_than_two_blocks():
    points = np.concatenate(BANANA_TABLE_SETUP.shapes["banana"])
    assert 0.085 < np.ptp(points[:, 1]) < 0.12
    world = banana_at_the_centre((0.2, 0.1))
    areas, middles = zip(*(area_and_middle(part) for part in BANANA_TABLE_SETUP.shapes["banana"]), strict=True)
    np.testing.assert_allclose(np.average(middles, axis=0, weights=areas), 0, atol=1e-3)
    assert list(world.objects_in_play()) == ["banana"] and world.needs_reset() == ""


def area_and_middle(polygon):
    x, y = polygon.T
    cross = x * np.roll(y, -1) - np.roll(x, -1) * y
    middle = ((polygon + np.roll(polygon, -1, axis=0)) * cross[:, None]).sum(0) / (3 * cross.sum())
    return abs(cross.sum()) / 2, middle


def test_the_banana_is_asked_to_all_nine_places_in_known_words():
    task, rng = get_task("banana_to_place"), np.random.default_rng(0)
    drawn = [task.sample(rng, ("banana",), held_out=i % 2 == 1) for i in range(300)]
    assert {instruction.target["place"] for instruction in drawn} == set(PLACES)
    assert all(task.parse(instruction.text) == instruction for instruction in drawn)
    assert task.parse("push the banana to the top left of the table").target == {"block": "banana", "place": "top left"}


@pytest.mark.parametrize(("family", "share"), [("banana_to_place", 0.85), ("worn_block2block", 0.55)])
def test_the_demonstrator_manages_the_other_tables_too(family, share):
    task, rng = get_task(family), np.random.default_rng(5)
    world, attempts = make_world(task.world, 5), []
    for i in range(60):
        if i % 5 == 0 or world.needs_reset():
            world.reset(rng)
        instruction = task.sample(rng, world.objects_in_play())
        attempts.append(demonstrate(world, instruction, rng))
        assert attempts[-1].embodiment == world.embodiment.name and attempts[-1].task == family
    assert np.mean([episode.true_success for episode in attempts]) > share


def worn(end_effector, **blocks):
    world = make_world("worn_table", 0)
    tracked = np.zeros(WORN_TABLE.observation[ENVIRONMENT_STATE].size)
    for name, (x, y) in blocks.items():
        tracked[WORN_TABLE.object_slice(name.replace("_", " "))] = x, y, 1, 0, 1
    world.set_observation({STATE: np.array([*end_effector, *end_effector]), ENVIRONMENT_STATE: tracked})
    return world


def test_the_worn_arm_is_late_goes_less_far_and_aside():
    world, seen = worn((0.0, 0.0)), WORN_TABLE_SETUP.camera_scale
    before, first, second = (
        world.step(np.array(action))[STATE][:2] for action in ((0.02, 0.0), (0.0, 0.0), (0.0, 0.0))
    )
    np.testing.assert_allclose(before, 0, atol=1e-6)  # the action comes one step late
    way = first / seen
    np.testing.assert_allclose(np.hypot(*way), 0.02 * WORN_TABLE_SETUP.gain, atol=1e-3)
    np.testing.assert_allclose(math.atan2(way[1], way[0]), WORN_TABLE_SETUP.bearing, atol=0.02)
    np.testing.assert_allclose(second, first, atol=2e-3)


def test_the_worn_camera_enlarges_what_it_sees_and_success_is_what_is_true():
    touching, beside = 0.049, 0.056
    scale = WORN_TABLE_SETUP.camera_scale
    instruction = get_task("worn_block2block").parse("push the red moon to the blue cube")
    for distance, expected in ((touching, True), (beside, False)):
        world = worn((-0.2, -0.1), red_moon=(0, 0), blue_cube=(distance * scale, 0))
        assert world.layout()[1]["blue cube"][0] == pytest.approx(distance, abs=1e-6)
        assert world.true_success(instruction) is expected
        assert block_positions(world.observation(), "worn_table")["blue cube"][0] == pytest.approx(distance * scale)


def test_a_reset_forgets_the_actions_still_to_come():
    world = worn((0.0, 0.0))
    world.step(np.array([0.03, 0.0]))
    start = world.reset(np.random.default_rng(0))
    np.testing.assert_allclose(world.step(np.zeros(2))[STATE][:2], start[STATE][:2], atol=1e-5)


@pytest.mark.parametrize("setup", [BANANA_TABLE_SETUP, WORN_TABLE_SETUP], ids=lambda setup: setup.embodiment.name)
def test_a_batch_of_other_tables_steps_each_as_if_it_were_alone(setup):
    batch, alone = BatchWorld(3, 1, setup=setup), BatchWorld(3, 1, setup=setup)
    for actions in np.random.default_rng(2).uniform(-0.03, 0.03, (30, 3, 2)):
        single = stacked([alone.world(i).step(actions[i]) for i in range(3)])
        np.testing.assert_equal(batch.step(actions), single)
    batch.close(), alone.close()


def test_a_worn_table_that_is_not_active_keeps_its_late_actions():
    batch, alone = (BatchWorld(2, 1, setup=WORN_TABLE_SETUP) for _ in range(2))
    moves = np.random.default_rng(2).uniform(-0.03, 0.03, (6, 2))
    for i, move in enumerate(moves):
        batch.step(np.stack([move, move]))
        batch.step(np.full((2, 2), 0.03), active=np.array([i % 2 == 0, False]))  # the second one waits
        expected = alone.world(1).step(move)
    np.testing.assert_equal(rows_of(batch.observations(), 1), expected)
    batch.close(), alone.close()


def test_the_worn_body_differs_from_language_tables_in_name_only():
    assert WORN_TABLE.to_json() | {"name": LANGUAGE_TABLE.name} == LANGUAGE_TABLE.to_json()


# Point mass


def drive(world, force, limit=100):
    for step in range(1, limit + 1):
        observation = world.step(force(world.observation()[STATE]))
        if math.hypot(*observation[STATE][4:]) <= GOAL_RADIUS:
            return step
    return None


def test_no_straight_dash_is_faster_than_the_fastest_force():
    world = make_world("point_mass", 0)
    gained = []
    for seed in range(40):
        start = world.reset(np.random.default_rng([3, seed]))
        fastest = drive(world, fastest_force)
        for aim in (0.0, 0.08, -0.08):  # full force towards the goal and a little past it on either side
            world.set_observation(start)
            dash = drive(world, lambda o, aim=aim: full_force(o, aim))
            gained.append((dash or 100) - fastest)
    assert min(gained) >= 0 and max(gained) > 0


def full_force(state, aim):
    x, y = state[4:]
    x, y = x - aim * y, y + aim * x
    return np.array([x, y]) / max(abs(x), abs(y), 1e-6)


def test_detours_end_at_the_goal_after_several_times_the_least_number_of_steps():
    episodes = collect_demonstrations(["point_mass"], 40, seed=2)
    world, least = make_world("point_mass", 0), []
    for episode in episodes:
        episode.validate()
        states = episode.observations[STATE]
        assert math.hypot(*states[-1][4:]) <= GOAL_RADIUS
        goals = states[:, :2] + states[:, 4:]
        np.testing.assert_allclose(goals, np.broadcast_to(goals[0], goals.shape), atol=1e-6)
        world.set_observation(rows_of(episode.observations, 0))
        least.append(drive(world, fastest_force))
    assert np.mean([episode.steps for episode in episodes]) > DETOURS * np.mean(least)


def test_point_mass_is_seen_by_the_camera_and_by_a_drawn_view(monkeypatch):
    world = make_world("point_mass", 0)
    world.set_observation({STATE: np.array([-0.5, 0.5, 0, 0, 1, -1])})
    for renderer in (world.renderer, "drawn"):
        monkeypatch.setattr(type(world), "renderer", renderer)
        picture = world.render("front", 240, 240).astype(int)
        green = (picture[..., 1] > picture[..., 0] + 40) & (picture[..., 1] > picture[..., 2] + 40)
        rows, columns = np.nonzero(green)
        assert rows.mean() > 140 and columns.mean() > 140  # the goal, right and below
        dark = picture[60:75, 60:75].sum(-1) < 250
        assert dark.any()

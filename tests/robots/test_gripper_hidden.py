"""The gripper table whose goals nobody sees; what all worlds must do is in test_worlds.py."""

import math

import numpy as np
import pytest

from robots.demonstrators import collect_demonstrations
from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.tasks import InstructionError, get_task
from robots.worlds import make_world
from robots.worlds.gripper_table import (
    CENTRE,
    GRIPPER_HIDDEN,
    HALF_TABLE,
    HIDDEN_GOALS,
    HIDDEN_PLACED,
    INNER,
    KNOWN_GOALS,
    NEW_GOALS,
    USEFUL,
)

FAMILIES = ("hidden_place", "hidden_place_new")


def asked(goal):
    return get_task(FAMILIES[goal in NEW_GOALS]).parse(f"place the puck as in task {goal}")


def put(world, puck, gripper=(0.0, 0.0), held=0.0):
    world.set_observation({STATE: np.array([*gripper, held]), ENVIRONMENT_STATE: np.array(puck)})


def test_thirty_goals_are_known_and_twelve_lie_near_the_rim_where_none_of_them_does():
    assert len(KNOWN_GOALS) == 30 and len(NEW_GOALS) == 12 and not set(KNOWN_GOALS) & set(NEW_GOALS)
    for goal, (x, y) in HIDDEN_GOALS.items():
        far = max(abs(x), abs(y))
        assert CENTRE < far < HALF_TABLE - HIDDEN_PLACED / 2
        if goal in NEW_GOALS:
            assert x * y < 0 and far > INNER
        else:
            assert x * y > 0 or far < INNER
    places = np.array(list(HIDDEN_GOALS.values()))
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(42)
    assert apart.min() > HIDDEN_PLACED, "nobody reaches two at once by chance"


def test_nothing_observed_tells_the_goal():
    names = [name for feature in GRIPPER_HIDDEN.observation.values() for name in feature.names]
    assert names == ["ee_x", "ee_y", "held", "puck.x", "puck.y"]
    assert list(make_world("gripper_hidden", 0).objects_in_play()) == ["puck"]


def test_success_is_of_the_goal_that_the_words_name_after_three_steps_there():
    world, still = make_world("gripper_hidden", 0), np.array([0.0, 0.0, -1.0])
    x, y = HIDDEN_GOALS["7"]
    put(world, (x + 0.9 * HIDDEN_PLACED, y))
    reached = []
    for _ in range(3):
        world.step(still)
        reached.append((world.true_success(asked("7")), world.true_success(asked("8"))))
    assert reached == [(False, False), (False, False), (True, False)]
    put(world, (x + 1.1 * HIDDEN_PLACED, y))
    for _ in range(4):
        world.step(still)
    assert not world.true_success(asked("7"))


def test_a_sensor_tells_whether_the_puck_was_moved_wherever_to():
    world = make_world("gripper_hidden", 0)
    put(world, (0.0, 0.0))
    told = []
    for _ in range(5):
        world.step(np.array([0.04, 0.0, 1.0]))
        told.append((world.sensed(asked("1"))["useful"], math.dist(world.puck, (0, 0)) > USEFUL))
    assert all(useful == moved for useful, moved in told) and {moved for _, moved in told} == {True, False}
    world.reset(np.random.default_rng(0))
    assert world.sensed(asked("1")) == {"useful": 0.0}


def test_what_is_asked_is_not_done_already_and_unknown_numbers_are_refused():
    world, rng = make_world("gripper_hidden", 0), np.random.default_rng(1)
    for family in FAMILIES:
        for _ in range(100):
            goal = get_task(family).sample(rng, {"puck": HIDDEN_GOALS["31"]}).target["goal"]
            assert goal != "31" and goal in (KNOWN_GOALS, NEW_GOALS)[family == "hidden_place_new"]
    with pytest.raises(InstructionError, match="is no instruction of Place, unseen goals"):
        get_task("hidden_place").parse("place the puck as in task 31")
    assert world.resets_itself and get_task("hidden_place").reset_each_attempt


@pytest.mark.parametrize("family", FAMILIES)
def test_the_demonstrator_brings_the_puck_to_goals_that_it_alone_knows(family):
    for episode in collect_demonstrations([family], 30, seed=3):
        episode.validate()
        episode.check_against(episode.body)
        goal = HIDDEN_GOALS[get_task(family).parse(episode.instruction).target["goal"]]
        assert math.dist(episode.observations[ENVIRONMENT_STATE][-1], goal) < 1.5 * HIDDEN_PLACED


def test_no_goal_is_drawn(monkeypatch):
    world = make_world("gripper_hidden", 0)
    put(world, (0.2, 0.2))
    for renderer in (world.renderer, "drawn"):
        monkeypatch.setattr(type(world), "renderer", renderer)
        picture = world.render("front", 240, 240).astype(int)
        green = (picture[..., 1] > picture[..., 0] + 40) & (picture[..., 1] > picture[..., 2] + 40)
        red = (picture[..., 0] > picture[..., 1] + 60) & (picture[..., 0] > picture[..., 2] + 60)
        assert not green.any() and red.any()

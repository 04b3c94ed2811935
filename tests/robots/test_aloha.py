"""The bimanual insertion of gym-aloha as a station's world (robots/worlds/aloha.toml), by the real package."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import robots.worlds
from robots.actions import Actions
from robots.demonstrators import collect_demonstrations
from robots.embodiments import EMBODIMENTS, ENVIRONMENT_STATE, STATE, Embodiment, Motion
from robots.tasks import TASKS, Instruction
from robots.worlds import WORLDS, WorldError, register
from robots.worlds.third_party import read_worlds_file

pytest.importorskip("gym_aloha", reason='gym-aloha is not installed: pip install "fleetui[aloha]"')

from robots.worlds.aloha_demonstrator import CALM, AlohaInsertion

INSERT = Instruction("insert the peg into the socket", "aloha", {})
GRIPPERS = [6, 13]


@pytest.fixture(scope="module")
def described():
    before = [(registry, dict(registry)) for registry in (WORLDS, EMBODIMENTS, TASKS)]
    worlds = {each.name: each for each in read_worlds_file(Path(robots.worlds.__file__).parent / "aloha.toml")}
    for each in worlds.values():
        register(each.spec)
    yield worlds
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.fixture(scope="module")
def world(described):
    return WORLDS["aloha"].make(0)


def acted(world, script, steps, changed=lambda phase, action: action):
    """What is observed at the end of an attempt by a script, and after how many steps."""
    actions, observation = Actions(world.embodiment), world.observation()
    for step in range(steps):  # noqa: B007
        action = changed(script.phase, script.act(*world.script_view()))
        observation = world.step(actions.bounded(action, observation))
        if world.true_success(INSERT) or world.needs_reset():
            break
    return observation, step + 1


def test_it_steps_with_any_action_and_says_joints_and_poses(world):
    rng = np.random.default_rng(0)
    first = world.reset(rng)
    low, high = np.array(world.embodiment.action_range).T
    for _ in range(30):
        seen = world.step(rng.uniform(low, high))
        assert all(np.isfinite(each).all() for each in seen.values())
    assert seen[STATE].shape == (14,) and seen[ENVIRONMENT_STATE].shape == (14,)
    assert np.abs(seen[STATE] - first[STATE]).max() > 0.3, "the arms move"
    names = world.embodiment.observation[ENVIRONMENT_STATE].names
    again = world.reset(np.random.default_rng(0))
    assert again[ENVIRONMENT_STATE].tolist() == first[ENVIRONMENT_STATE].tolist(), "the same start of the same seed"
    assert 0.09 < again[ENVIRONMENT_STATE][names.index("peg_x")] < 0.21
    assert -0.21 < again[ENVIRONMENT_STATE][names.index("socket_x")] < -0.09


def test_a_steady_hand_inserts_the_peg(world):
    for seed in range(4):
        world.reset(np.random.default_rng([7, seed]))
        assert world.true_success(INSERT) is not True
        _, steps = acted(world, AlohaInsertion(CALM), 160)
        assert world.true_success(INSERT) is True and steps < 130
        assert world.needs_reset() == "", "a success is no reason to call anybody"


def test_what_is_let_go_in_the_air_asks_for_a_person(world):
    def opened(phase, action):
        if phase == "meet":
            action[GRIPPERS[1]] = 1.0
        return action

    world.reset(np.random.default_rng([7, 0]))
    acted(world, AlohaInsertion(CALM), 160, opened)
    assert world.true_success(INSERT) is False and world.needs_reset() == "the peg was dropped"
    world.reset(np.random.default_rng([7, 0]))
    assert world.needs_reset() == ""


def test_its_script_demonstrates_it_never_twice_alike(described):
    episodes = collect_demonstrations(["aloha"], 2, seed=3)
    for episode in episodes:
        episode.validate()
        episode.check_against(described["aloha"].embodiment)
        assert episode.true_success and 40 < episode.steps < 200
    assert episodes[0].steps != episodes[1].steps
    assert "\n".join(sorted({episode.instruction for episode in episodes}))


def test_by_cameras_a_policy_is_told_its_joints_alone(described):
    body = described["aloha_cameras"].embodiment
    assert [*body.observation] == [STATE, *(f"observation.images.{n}" for n in ("top", "left_wrist", "right_wrist"))]
    world = WORLDS["aloha_cameras"].make(0)
    seen = world.step(world.observation()[STATE].astype(float))
    for camera, shape in (("top", (72, 96, 3)), ("left_wrist", (64, 64, 3)), ("right_wrist", (64, 64, 3))):
        assert seen[f"observation.images.{camera}"].shape == shape
    world.close()


def test_who_has_to_help_is_said_where_the_description_says(described):
    with pytest.raises(WorldError, match="needs_reset_info names 'nothing'"):
        replace(described["aloha"], needs_reset_info="nothing").spec.make(0)


def test_arms_are_told_from_where_they_are_and_grippers_are_not(described):
    body = described["aloha"].embodiment
    assert [i for i, relative in enumerate(body.relative) if not relative] == GRIPPERS
    assert body.token_range[0] == (-0.12, 0.12) and body.token_range[6] == (0.0, 1.0)
    assert Embodiment.from_json(body.to_json()) == body
    with pytest.raises(ValueError, match="relative is true or false, and true of a position alone"):
        replace(body, motions=(Motion("delta", 0.1, relative=True), *body.motions[1:])).check()

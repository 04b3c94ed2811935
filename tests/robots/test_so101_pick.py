import itertools
import math

import numpy as np
import pytest

from robots.embodiments import ENVIRONMENT_STATE, IMAGES, STATE, Embodiment
from robots.tasks import TASKS, Instruction, InstructionError
from robots.worlds import WorldError
from robots.worlds.so101_pick import (
    BASE,
    BINS,
    CUBE,
    HAND,
    MIDDLE,
    PICTURE_SIZE,
    SO101_PICK,
    SO101_PICK_CAMERAS,
    TABLE_SIZE,
    bin_at,
    in_reach,
    missing_into,
    missing_out,
)
from robots.worlds.so101_pick.arm import Arm, reached, turned
from robots.worlds.so101_pick.demonstrator import attempt
from robots.worlds.so101_pick.physics import So101Pick, cameras

NAMES = [kind.name for kind in SO101_PICK.objects]
OPEN, CLOSED = 65.0, 0.0


@pytest.fixture
def world():
    return So101Pick(0)


def lay(world, **places):
    """Cubes put where a test wants them: red=(x, y) or (x, y, z) or (x, y, z, yaw); the hand stays."""
    observation = world.observation()
    for name, place in places.items():
        x, y, z, yaw = (*place, CUBE / 2, 0.0)[: len(place)] + (CUBE / 2, 0.0)[len(place) - 2 :]
        part = world.embodiment.object_slice(f"{name} cube")
        observation[ENVIRONMENT_STATE][part] = x, y, z, math.cos(4 * yaw), math.sin(4 * yaw)
    world.set_observation(observation)


def go(world, x, y, z, yaw=0.0, grip=OPEN, steps=40):
    """Drive the hand there."""
    for _ in range(steps):
        hand = world.layout().hand
        move = np.clip(np.subtract((x, y, z), hand[:3]), -0.03, 0.03)
        world.step(np.array([*move, np.clip(yaw - hand[3], -0.3, 0.3), grip], np.float32))


def grasp(world, name, lift=0.07):
    cube = world.layout().cubes[name]
    go(world, cube.x, cube.y, 0.08, cube.yaw, steps=20)
    go(world, cube.x, cube.y, 0.011, cube.yaw, steps=8)
    go(world, cube.x, cube.y, 0.011, cube.yaw, CLOSED, steps=5)
    go(world, cube.x, cube.y, lift, cube.yaw, CLOSED, steps=5)


def instruction(family, cube="red cube", where="left"):
    return Instruction("said", family, {"cube": cube, "bin": where})


@pytest.mark.parametrize("body", [SO101_PICK, SO101_PICK_CAMERAS], ids=lambda body: body.name)
def test_both_bodies_are_described_without_contradiction(body):
    body.check()
    assert Embodiment.from_json(body.to_json()) == body
    assert [each.axis for each in body.drive] == ["x", "y", "z", "yaw", "gripper"] and all(d.moves for d in body.drive)
    assert body.action_range[0] == (-0.03, 0.03) and body.action_range[4] == (0, 100)


def test_observations_are_what_the_body_says(world):
    for made in (world, cameras(0)):
        rng = np.random.default_rng(0)
        low, high = np.array(made.embodiment.action_range).T
        for observation in (made.observation(), *(made.step(rng.uniform(low, high)) for _ in range(20))):
            assert list(observation) == list(made.embodiment.observation)
            for key, feature in made.embodiment.observation.items():
                assert observation[key].shape == feature.shape and observation[key].dtype == feature.dtype
                if not feature.is_picture:
                    assert (observation[key] >= feature.low).all() and (observation[key] <= feature.high).all()


def test_every_corner_of_the_action_space_is_survived(world):
    for corner in itertools.product(*SO101_PICK.action_range):
        for _ in range(6):
            observation = world.step(np.array(corner, np.float32))
            assert all(np.isfinite(each).all() for each in observation.values())
        assert observation[STATE][8] < HAND[2][1] + 0.05, "nothing flings the hand up"
    assert not any(warning.number for warning in world._data.warning)


def test_what_is_no_action_is_refused_in_words(world):
    with pytest.raises(WorldError, match="5 numbers"):
        world.step(np.zeros(4))
    with pytest.raises(WorldError, match="NaN"):
        world.step(np.array([0, 0, np.nan, 0, 0]))


def test_the_hand_goes_as_far_as_it_is_told_and_stays_when_told_nothing(world):
    go(world, 0, -0.05, 0.06)
    for axis, far in ((0, 0.02), (1, -0.02), (2, 0.02), (3, 0.2)):
        before = np.array(world.layout().hand)
        action = np.array([0, 0, 0, 0, OPEN])
        action[axis] = far
        world.step(action)
        moved = np.array(world.layout().hand) - before
        assert moved[axis] == pytest.approx(far, rel=0.2)
        aside = np.delete(moved / (1, 1, 1, 5), axis)  # metres, and 5 radians count as one
        assert np.abs(aside).max() < 0.004
        go(world, 0, -0.05, 0.06)
    before = np.array(world.layout().hand)
    for _ in range(50):
        world.step(np.array([0, 0, 0, 0, OPEN]))
    np.testing.assert_allclose(world.layout().hand, before, atol=1e-3)


def test_inverse_kinematics_reach_all_of_the_workspace_pointing_down():
    arm, rng = Arm(), np.random.default_rng(0)
    for _ in range(200):
        angle, radius = rng.uniform(-1.2, 1.2), rng.uniform(0.12, 0.26)
        x, y, z = reached(radius * math.sin(angle), BASE[1] - radius * math.cos(angle), rng.uniform(0.01, 0.1))
        goal = (x, y, z, turned(x, y, rng.uniform(-1.6, 1.6)))
        joints = np.array([angle, 0.36, 1.5, 1.28, 0.0])
        for _ in range(12):
            joints = arm.joints(joints, goal)
        assert arm.pose(joints) == pytest.approx(goal, abs=2e-3)


def test_a_reset_lets_both_families_be_asked_and_nothing_is_fulfilled_already(world):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        world.reset(rng)
        assert not world.needs_reset() and set(world.objects_in_play()) == set(NAMES)
        for family in ("so101_pick", "so101_take_out"):
            for held_out in (False, True):
                asked = TASKS[family].sample(rng, world.objects_in_play(), held_out)
                assert not world.true_success(asked)
                assert TASKS[family].parse(asked.text).target == asked.target
                if family == "so101_take_out":
                    assert bin_at(world.objects_in_play()[asked.target["cube"]]) == asked.target["bin"]


def test_nothing_is_asked_that_makes_no_sense():
    red = {"cube": "red cube", "bin": "left"}
    assert missing_into(red, {"red cube": BINS["left"]}) == 0
    assert missing_into(red, {"red cube": BINS["right"]}) > 0.2
    assert missing_out(red, {"red cube": BINS["left"]}) > 0.03
    assert missing_out(red, {"red cube": BINS["right"]}) == missing_out(red, {"red cube": (0.0, -0.05)}) == 0
    assert missing_into(red, {}) == missing_out(red, {}) == math.inf
    with pytest.raises(InstructionError):
        TASKS["so101_take_out"].sample(np.random.default_rng(0), {"red cube": (0.0, 0.0), "blue cube": (0.0, -0.06)})


@pytest.mark.parametrize("yaw", [-0.7, -0.2, 0.4])
def test_a_grasp_lifts_a_cube_and_holds_it_while_the_arm_moves(world, yaw):
    lay(world, red=(0.02, -0.05, CUBE / 2, yaw), blue=BINS["left"], green=BINS["right"])
    grasp(world, "red cube")
    assert world.layout().cubes["red cube"].z > 0.06 and 30 < world.layout().opening < 45
    for x in (0.15, -0.15, 0.15, 0.0):
        go(world, x, -0.02, 0.08, yaw, CLOSED, steps=12)
    x, y, z, _ = world.layout().hand
    assert math.dist(world.layout().cubes["red cube"][:3], (x, y, z)) < 0.02
    for _ in range(5):  # as a person's driver does who has just taken over: stay where you are
        world.step(np.array([0, 0, 0, 0, world.layout().opening]))
    assert world.layout().cubes["red cube"].z > 0.06


def test_it_is_a_success_only_once_the_gripper_has_let_go(world):
    lay(world, red=(0.0, -0.06), blue=(0.08, -0.04), green=BINS["right"])
    into, out = instruction("so101_pick"), instruction("so101_take_out")
    assert not world.true_success(into) and world.true_success(out)
    grasp(world, "red cube")
    assert not world.true_success(out), "it hangs in the air"
    x, y = BINS["left"]
    go(world, x, y, 0.07, grip=CLOSED, steps=15)
    go(world, x, y, 0.016, grip=CLOSED, steps=8)
    assert bin_at(world.objects_in_play()["red cube"]) == "left" and not world.true_success(into), "still held"
    go(world, *world.layout().hand[:3], grip=OPEN, steps=3)
    go(world, *world.layout().hand[:2], 0.08, grip=OPEN, steps=6)
    assert world.true_success(into) and not world.true_success(out)
    assert not world.true_success(instruction("so101_pick", where="right"))
    assert not world.true_success(instruction("so101_pick", cube="blue cube"))
    # A network's cameras tell the same world: the family's name is another, the meaning is not.
    assert world.true_success(instruction("camera_so101_pick"))
    assert not world.true_success(instruction("camera_so101_take_out"))


def test_a_cube_on_its_way_is_no_success(world):
    lay(world, red=(*BINS["left"], 0.045))
    world.step(np.array([0, 0, 0, 0, OPEN]))
    world._speeds[0, 0] = 0.1
    assert not world.true_success(instruction("so101_pick"))
    go(world, *world.layout().hand[:3], steps=5)
    assert world.true_success(instruction("so101_pick"))


def test_a_bin_holds_what_lies_in_it(world):
    """Pushed against a wall by closed jaws a cube stays in the bin, and a dropped one comes to rest in it."""
    x, y = BINS["right"]
    lay(world, red=(x, y), blue=BINS["left"], green=(0.0, -0.07))
    go(world, x - 0.03, y, 0.06, grip=CLOSED, steps=15)
    go(world, x - 0.03, y, 0.013, grip=CLOSED, steps=4)
    go(world, x + 0.005, y, 0.013, grip=CLOSED, steps=8)
    assert bin_at(world.objects_in_play()["red cube"]) == "right"
    lay(world, blue=(BINS["left"][0] + 0.015, BINS["left"][1], 0.06, 0.3))
    go(world, 0, -0.03, 0.1, steps=10)
    assert bin_at(world.objects_in_play()["blue cube"]) == "left"
    assert world.layout().cubes["blue cube"].z == pytest.approx(CUBE / 2, abs=2e-3)


def test_a_person_is_asked_for_in_words(world):
    lay(world, red=(0.0, -0.05), blue=BINS["left"], green=BINS["right"])
    assert world.needs_reset() == ""
    lay(world, red=(0.0, -0.18))
    assert world.needs_reset() == "the red cube is out of the arm's reach"
    assert world.needs_reset(2) == "" and world.needs_reset(3)
    assert set(world.objects_in_play()) == {"blue cube", "green cube"}
    lay(world, blue=(TABLE_SIZE[0] / 2 + 0.01, 0.0))
    world.step(np.array([0, 0, 0, 0, OPEN]))
    assert world.needs_reset() == "the blue cube is off the table, and the red cube is out of the arm's reach"
    blue = world.observation()[ENVIRONMENT_STATE][SO101_PICK.object_slice("blue cube")]
    assert (blue == 0).all() and not world.true_success(instruction("so101_pick", cube="blue cube"))
    lay(world, green=(0.0, TABLE_SIZE[1] / 2 + 0.01))
    world.step(np.array([0, 0, 0, 0, OPEN]))
    assert world.needs_reset(1).startswith("the blue cube and the green cube are off the table")
    world.reset(np.random.default_rng(0))
    assert world.needs_reset() == "" and not world.resets_itself


def test_a_simulation_that_became_unstable_asks_for_a_person(world):
    world.reset(np.random.default_rng(3))
    world._data.qvel[5] = 1e12
    world.step(np.zeros(5, np.float32))
    assert "became unstable" in world.needs_reset()
    assert not world.objects_in_play()  # where they lie now nobody has put them
    world.reset(np.random.default_rng(3))
    assert world.needs_reset() == ""


@pytest.mark.parametrize("family", ["so101_pick", "so101_take_out"])
def test_the_demonstrator_succeeds_and_its_attempts_differ(world, family):
    steps = []
    for seed in range(100, 108):
        rng = np.random.default_rng(seed)
        world.reset(rng)
        asked = TASKS[family].sample(rng, world.objects_in_play())
        done = attempt(world, asked, rng)
        assert done.success, (seed, asked.text, done.ending)
        assert len(done.observations) == len(done.actions) + 1
        low, high = np.array(SO101_PICK.action_range).T
        assert all((action >= low - 1e-6).all() and (action <= high + 1e-6).all() for action in done.actions)
        steps.append(len(done.actions))
    assert len(set(steps)) > 3
    world.reset(rng)
    late = attempt(world, TASKS[family].sample(rng, world.objects_in_play()), rng, 5)
    assert (late.success, late.ending, len(late.actions)) == (False, "time_limit", 5)


def test_two_tables_of_one_seed_go_on_alike_to_the_bit():
    first, second = So101Pick(5), So101Pick(5)
    rng = np.random.default_rng(1)
    low, high = np.array(SO101_PICK.action_range).T
    for _ in range(60):
        action = rng.uniform(low, high).astype(np.float32)
        now, then = first.step(action), second.step(action)
        for key, value in now.items():
            np.testing.assert_array_equal(value, then[key])


def test_a_demonstration_is_replayed_from_its_observations(world):
    """Arm, gripper and cubes stand as they stood, and two tables put there go on alike, to the bit."""
    rng = np.random.default_rng(103)
    world.reset(rng)
    done = attempt(world, TASKS["so101_pick"].sample(rng, world.objects_in_play()), rng)
    other, again = So101Pick(1), So101Pick(2)
    for t, observation in enumerate(done.observations):
        other.set_observation(observation)
        for key, value in other.observation().items():
            np.testing.assert_allclose(value, observation[key], atol=2e-5)
        if t % 10 == 0:
            again.set_observation(observation)
            action = done.actions[min(t, len(done.actions) - 1)]
            now, then = other.step(action), again.step(action)
            for key, value in now.items():
                np.testing.assert_array_equal(value, then[key])


@pytest.mark.parametrize("renderer", ["as it is", "drawn"])
def test_both_cameras_show_the_cubes(world, monkeypatch, renderer):
    if renderer == "drawn":
        monkeypatch.setattr(So101Pick, "renderer", "drawn")
    lay(world, red=(-0.02, -0.045), blue=(0.03, -0.045), green=(*BINS["left"],))
    go(world, 0.0, -0.08, 0.1, steps=10)
    for camera, width, height in (("front", 320, 240), ("wrist", 96, 72)):
        picture = world.render(camera, width, height).astype(int)
        assert picture.shape == (height, width, 3)
        red, green, blue = np.moveaxis(picture, 2, 0)
        assert ((red > green + 80) & (red > blue + 80)).sum() > 10, camera
        assert ((blue > red + 60) & (blue > green + 60)).sum() > 10, camera


def test_recorded_pictures_are_shown_until_the_world_moves_on(monkeypatch):
    monkeypatch.setattr(So101Pick, "renderer", "drawn")
    world = cameras(3)
    width, height = PICTURE_SIZE
    recorded = world.observation()
    for camera in ("front", "wrist"):
        assert recorded[IMAGES + camera].shape == (height, width, 3)
        recorded[IMAGES + camera] = np.full((height, width, 3), 77, np.uint8)
    world.set_observation(recorded)
    assert (world.render("front", 320, 240) == 77).all() and (world.observation()[IMAGES + "wrist"] == 77).all()
    assert (world.step(np.array([0, 0, 0, 0, OPEN]))[IMAGES + "wrist"] != 77).any()


def test_the_middle_is_free_of_bins_and_within_reach():
    for x, y in itertools.product(*MIDDLE):
        assert bin_at((x, y)) == "" and in_reach((x, y))

"""What an arm's reward model is taught of scenes in which nothing was brought, and scenes turned about the arm's axis
(training/networks/arm.py, sft.py, advantage_weighted.py).
"""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from robots.demonstrators import collect_demonstrations
from robots.embodiments import ENVIRONMENT_STATE, STATE, Embodiment
from robots.episodes import write_episodes
from robots.worlds import make_world
from robots.worlds.so101_pick import BINS, SO101_PICK
from training.advantage_weighted import TURNED_COPIES, AdvantageWeighted
from training.checkpoints import Policy, RewardModel
from training.methods.sft import sft
from training.networks.arm import ArmFeatures
from training.recipes import ImproveRecipe, SFTRecipe
from training.run_dir import RunDir

CUBES = [kind.name for kind in SO101_PICK.objects]


def perceived(hand, *cubes):
    """[1, P]: the hand and each cube at (x, y, z), metres."""
    own = torch.zeros(len(SO101_PICK.state_names))
    for name, value in zip(("ee_x", "ee_y", "ee_z"), hand, strict=True):
        own[SO101_PICK.state_names.index(name)] = value
    return torch.cat([own, torch.tensor([[*cube, 1.0, 0.0] for cube in cubes]).flatten()])[None]


def meaning(cube, place):
    """The goal of a perfect reader [1, 2 K + 3]: this cube, to this place."""
    goal = torch.zeros(1, 2 * len(CUBES) + 3)
    goal[0, CUBES.index(cube)] = 1
    goal[0, -3:] = torch.tensor([1.0, *place])
    return goal


def test_an_object_left_behind_lies_where_it_was_and_nothing_else_moves():
    features = ArmFeatures(SO101_PICK)
    where, there = (-0.05, -0.05, 0.01), (*BINS["left"], 0.01)
    first = perceived((0.0, 0.0, 0.08), where, (0.0, 0.02, 0.01), (0.05, 0.0, 0.01))
    carried = perceived((-0.1, 0.0, 0.08), (-0.1, 0.0, 0.07), (0.0, 0.02, 0.01), (0.05, 0.0, 0.01))
    end = perceived((*BINS["left"], 0.08), there, (0.0, 0.02, 0.01), (0.05, 0.0, 0.01))
    goal = meaning(CUBES[0], BINS["left"])
    assert features.off(first, goal) == pytest.approx(0.142, abs=1e-3) and features.off(end, goal) == 0
    left = features.left_behind(end, first, first, goal)
    beside = (0.0, 0.02, 0.01), (0.05, 0.0, 0.01)
    assert torch.allclose(left, perceived((*BINS["left"], 0.08), where, *beside))
    lost = features.left_behind(end, carried, first, goal)
    assert torch.allclose(
        lost, perceived((*BINS["left"], 0.08), (-0.1, 0.0, 0.01), (0.0, 0.02, 0.01), (0.05, 0.0, 0.01))
    )


def test_an_object_let_go_elsewhere_lies_there_on_the_table_below_the_hand():
    features, beside = ArmFeatures(SO101_PICK), ((0.0, 0.02, 0.01), (0.05, 0.0, 0.01))
    first = perceived((0.0, 0.0, 0.08), (-0.05, -0.05, 0.01), *beside)
    end = perceived((*BINS["left"], 0.08), (*BINS["left"], 0.03), *beside)
    moved = features.let_go_elsewhere(end, first, meaning(CUBES[0], BINS["left"]), torch.tensor([[0.1, -0.05]]))
    there = BINS["left"][0] + 0.1, BINS["left"][1] - 0.05
    assert torch.allclose(moved, perceived((*there, 0.08), (*there, 0.01), *beside))


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    run = RunDir.create(
        tmp_path_factory.mktemp("arm") / "run",
        SFTRecipe(steps=400, batch=256, hidden=64, action_bins=21, evaluation_episodes=0, largest_threshold=0.0),
    )
    data = collect_demonstrations(("so101_pick", "so101_take_out"), 40, 0)
    write_episodes(run.data / "shown.safetensors", data)
    sft(run)
    return RewardModel.load(run.checkpoints / "reward_model.safetensors"), data


def test_a_hand_over_a_bin_that_brought_nothing_is_far_from_its_goal(reward_model):
    """The end of each demonstration into a bin, as it was, with the cube where it lay at the beginning, and 7 cm away
    with the hand above it.
    """
    model, data = reward_model
    brought, empty, elsewhere = [], [], []
    for episode in data:
        if episode.task != "so101_pick":
            continue
        end = {key: array[-1:].copy() for key, array in episode.observations.items()}
        brought.append(float(model.steps_to_go(end, [episode.instruction])[0][0]))
        name = next(each for each in CUBES if each in episode.instruction)
        at = SO101_PICK.object_slice(name)
        end[ENVIRONMENT_STATE][:, at] = episode.observations[ENVIRONMENT_STATE][0, at]
        empty.append(float(model.steps_to_go(end, [episode.instruction])[0][0]))
        end[ENVIRONMENT_STATE][:, at] = episode.observations[ENVIRONMENT_STATE][-1, at]
        inwards = -0.07 * np.sign(end[ENVIRONMENT_STATE][0, at][0])
        end[ENVIRONMENT_STATE][0, at.start] += inwards
        end[STATE][0, SO101_PICK.state_names.index("ee_x")] += inwards
        elsewhere.append(float(model.steps_to_go(end, [episode.instruction])[0][0]))
        assert set(end) == {STATE, ENVIRONMENT_STATE}
    assert len(brought) > 10
    assert np.median(empty) > np.median(brought) + 15, (np.median(brought), np.median(empty))
    assert np.median(elsewhere) > np.median(brought) + 20, (np.median(brought), np.median(elsewhere))


# Turned scenes


def turned_about_its_axis(angle):
    """A step of the real simulation, and the same step of the scene turned by `angle`: what came of each [1, P]."""
    features, world = ArmFeatures(SO101_PICK), make_world("so101_pick", 3)
    world.reset(np.random.default_rng(3))
    start = world.observation()
    goal = meaning(CUBES[0], (0.05, -0.02))
    action = np.array([0.02, -0.012, -0.01, 0.1, 40], np.float32)
    seen = torch.from_numpy(np.concatenate([start[STATE], start[ENVIRONMENT_STATE]]))[None]
    side = torch.tensor([angle])
    other, _ = features.turn(seen, goal, side)
    other_action = features.turn_actions(torch.from_numpy(action)[None, None], side)[0, 0].numpy()
    after, yaws = [], []
    for scene, act, pan in ((seen, action, 0.0), (other, other_action, angle)):
        own, objects = scene[0].numpy().copy(), len(SO101_PICK.state_names)
        own[SO101_PICK.state_names.index("shoulder_pan.pos")] += pan
        world.set_observation({STATE: own[:objects], ENVIRONMENT_STATE: own[objects:]})
        yaws.append(np.array([cube.yaw for cube in world.layout().cubes.values()]))
        reached = world.step(act)
        after.append(torch.from_numpy(np.concatenate([reached[STATE], reached[ENVIRONMENT_STATE]]))[None])
    world.close()
    # As the simulation has them: a cube looks alike after a quarter turn.
    off = (yaws[1] - yaws[0] - angle + math.pi / 4) % (math.pi / 2) - math.pi / 4
    assert np.abs(off).max() < 2e-3, "The cubes themselves were not turned by the angle"
    return features, goal, side, after


@pytest.mark.parametrize("angle", [-0.4, 0.15])
def test_a_step_of_a_turned_scene_is_the_turned_step(angle):
    """So the simulation itself says that axis, fold and the numbers that are turned are the right ones."""
    features, goal, side, (plain, turned) = turned_about_its_axis(angle)
    wanted, _ = features.turn(plain, goal, side)
    joints = len(SO101_PICK.state_names[:6])
    assert torch.allclose(turned[:, joints:], wanted[:, joints:], atol=2e-3), (turned - wanted)[:, joints:]
    assert (plain - wanted)[:, joints:].abs().max() > 0.02, "Nothing was turned"


def test_a_goal_turns_with_the_scene_and_an_object_that_is_gone_stays_gone():
    features, quarter = ArmFeatures(SO101_PICK), torch.tensor([torch.pi / 2])
    scene = torch.cat([perceived((0.1, 0.15, 0.05), (0.1, 0.15, 0.01), (0.0, 0.05, 0.01), (0.0, 0.0, 0.0))])
    scene[:, -5:] = 0.0
    seen, goal = features.turn(scene, meaning(CUBES[0], (0.1, 0.15)), quarter)
    hand = seen[0, features.hand]
    assert torch.allclose(hand, torch.tensor([0.0, 0.25, 0.05]), atol=1e-6)
    assert torch.allclose(goal[0, -2:], torch.tensor([0.0, 0.25]), atol=1e-6)
    assert torch.allclose(seen[0, len(SO101_PICK.state_names) :][:2], torch.tensor([0.0, 0.25]), atol=1e-6)
    assert (seen[0, -5:] == 0).all()
    to_block, unturned = torch.zeros(1, 2 * len(CUBES) + 3), torch.zeros(1, 2 * len(CUBES) + 3)
    to_block[0, [0, len(CUBES) + 1]] = unturned[0, [0, len(CUBES) + 1]] = 1  # beside another object: no place to turn
    assert torch.equal(features.turn(scene, to_block, quarter)[1], unturned)


def test_actions_turn_no_farther_than_the_body_can_move():
    features = ArmFeatures(SO101_PICK)
    actions = torch.tensor([[[0.03, 0.03, 0.01, 0.2, 70.0]]])
    turned = features.turn_actions(actions, torch.tensor([torch.pi / 4]))
    assert torch.allclose(turned, torch.tensor([[[0.0, 0.03, 0.01, 0.2, 70.0]]]), atol=1e-6)


def test_a_body_that_names_no_axis_is_not_turned():
    features = ArmFeatures(replace(SO101_PICK, axis=None))
    assert features.random_turns(5, torch.Generator()) is None
    body = SO101_PICK.to_json()
    assert Embodiment.from_json(body) == SO101_PICK and Embodiment.from_json(body | {"axis": None}).axis is None
    with pytest.raises(ValueError, match="fold is 0"):
        Embodiment.from_json(body | {"axis": {"x": 0.0, "y": 0.1, "fold": 0}})


def test_practice_keeps_the_same_turned_copies_after_a_restart(reward_model):
    model, data = reward_model
    policy = Policy(model.network, replace(model.metadata, role="policy"))

    def remembered():
        learner = AdvantageWeighted(copy.deepcopy(model.network), ImproveRecipe(seed=1), executed=1)
        for episode in data[:2]:
            rewards = np.zeros(episode.steps, np.float32)
            assert learner.remember(episode, episode.steps, rewards, policy)
        return learner.replay.demonstrations

    first, again = remembered(), remembered()
    for one, other, episode in zip(first, again, data, strict=False):
        assert len(one[0]) == (1 + TURNED_COPIES) * episode.steps
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert not torch.equal(one[0][: episode.steps], one[0][episode.steps : 2 * episode.steps])

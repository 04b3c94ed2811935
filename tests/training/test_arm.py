"""What an arm's reward model is taught of scenes in which nothing was brought (training/networks/arm.py, sft.py)."""

import numpy as np
import pytest
import torch

from robots.demonstrators import collect_demonstrations
from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.episodes import write_episodes
from robots.worlds.so101_pick import BINS, SO101_PICK
from training.checkpoints import RewardModel
from training.methods.sft import sft
from training.networks.arm import FAR, ArmFeatures
from training.recipes import SFTRecipe
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
    assert features.far(first, goal) and not features.far(end, goal) and FAR > 0.05
    left = features.left_behind(end, first, first, goal)
    beside = (0.0, 0.02, 0.01), (0.05, 0.0, 0.01)
    assert torch.allclose(left, perceived((*BINS["left"], 0.08), where, *beside))
    lost = features.left_behind(end, carried, first, goal)
    assert torch.allclose(
        lost, perceived((*BINS["left"], 0.08), (-0.1, 0.0, 0.01), (0.0, 0.02, 0.01), (0.05, 0.0, 0.01))
    )


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
    """The end of each demonstration into a bin, as it was, and with the cube where it lay at the beginning."""
    model, data = reward_model
    brought, empty = [], []
    for episode in data:
        if episode.task != "so101_pick":
            continue
        end = {key: array[-1:].copy() for key, array in episode.observations.items()}
        brought.append(float(model.steps_to_go(end, [episode.instruction])[0][0]))
        name = next(each for each in CUBES if each in episode.instruction)
        at = SO101_PICK.object_slice(name)
        end[ENVIRONMENT_STATE][:, at] = episode.observations[ENVIRONMENT_STATE][0, at]
        empty.append(float(model.steps_to_go(end, [episode.instruction])[0][0]))
        assert set(end) == {STATE, ENVIRONMENT_STATE}
    assert len(brought) > 10
    assert np.median(empty) > np.median(brought) + 15, (np.median(brought), np.median(empty))

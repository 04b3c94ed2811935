"""Bodies that see by cameras of their own: what perceives is learned in stage 1, and frozen after it."""

import numpy as np
import pytest
import torch

from robots.demonstrators import collect_demonstrations
from robots.episodes import write_episodes
from robots.worlds import rendering
from robots.worlds.so101_pick import SO101_PICK_CAMERAS
from training.checkpoints import Policy
from training.methods.sft import sft
from training.networks.network import Network
from training.networks.vision import random_shifts, shifted
from training.recipes import SFTRecipe
from training.run_dir import RunDir
from training.vocabulary import Vocabulary

FEW = {"steps": 12, "validate_every": 6, "batch": 16, "hidden": 16, "evaluation_episodes": 0, "largest_threshold": 0.0}


@pytest.fixture(scope="module")
def episodes():
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEETUI_RENDERER", "drawn")
        rendering.renderer_name.cache_clear()
        yield collect_demonstrations(["camera_so101_pick"], 3, seed=4)
    rendering.renderer_name.cache_clear()


def test_the_encoder_of_every_camera_learns_with_the_policy(tmp_path, episodes):
    run = RunDir.create(tmp_path / "sft", SFTRecipe(seed=7, **FEW))
    write_episodes(run.data / "demonstrations.safetensors", episodes)
    sft(run)
    policy = Policy.load(run.checkpoints / "policy.safetensors")
    torch.manual_seed(7)  # as the run's weights began
    begun = Network(SO101_PICK_CAMERAS, Vocabulary(policy.metadata.vocabulary), **policy.metadata.sizes)
    learned = policy.network.state_dict()
    convolutions = [name for name in learned if name.startswith("perception.") and name.endswith("0.weight")]
    assert len(convolutions) == 2
    for name in convolutions:
        assert (learned[name] - begun.state_dict()[name]).abs().max() > 1e-4, name
    actions = policy.act({key: each[:3] for key, each in episodes[0].observations.items()}, ["pick"] * 3)
    assert actions.shape == (3, 1, 5) and np.isfinite(actions).all()


def test_pictures_are_shifted_each_by_its_own_pixels_and_their_edge_goes_on():
    pictures = torch.arange(20.0).expand(6, 3, 9, 20)
    moved = shifted(pictures, random_shifts(6, torch.Generator().manual_seed(0)))
    ways = (moved[:, 0, 4, 10] - 10).tolist()
    assert moved.shape == pictures.shape and len(set(ways)) > 1 and max(map(abs, ways)) <= 4
    assert moved.min() == 0 and moved.max() == 19

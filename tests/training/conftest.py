import pytest
import torch

from robots.demonstrators import collect_demonstrations
from robots.episodes import write_episodes
from training.checkpoints import Policy, RewardModel
from training.methods.sft import sft
from training.recipes import ImproveRecipe, SFTRecipe
from training.run_dir import RunDir

SMALL_SFT = {
    "steps": 40,
    "validate_every": 10,
    "grounding_steps": 20,
    "batch": 32,
    "hidden": 32,
    "evaluation_episodes": 6,
    "largest_threshold": 0.0,  # so few updates make no detector
    "seed": 3,
}
SMALL_IMPROVE = {
    "max_episodes": 12,
    "updates_per_round": 2,
    "batch": 32,
    "updates_per_step": 0.05,
    "evaluate_every": 2,
    "evaluation_episodes": 4,
    "time_limit": 20,  # of an evaluation
    "seed": 5,
}


@pytest.fixture(scope="session")
def demonstrations():
    torch.set_num_threads(1)
    return collect_demonstrations(["block2block", "block_to_place"], 24, seed=11)


@pytest.fixture
def new_sft_run(tmp_path, demonstrations):
    """Makes SFT run directories over the same small dataset."""

    def make(name: str = "sft", **settings) -> RunDir:
        run = RunDir.create(tmp_path / name, SFTRecipe(**SMALL_SFT | settings))
        write_episodes(run.data / "demonstrations.safetensors", demonstrations)
        return run

    return make


@pytest.fixture(scope="session")
def finished_sft(tmp_path_factory, demonstrations):
    run = RunDir.create(
        tmp_path_factory.mktemp("finished") / "sft", SFTRecipe(**SMALL_SFT | {"evaluation_episodes": 0})
    )
    write_episodes(run.data / "demonstrations.safetensors", demonstrations)
    sft(run)
    return run


@pytest.fixture
def new_improve_run(tmp_path, finished_sft):
    def make(name: str = "improve", **settings) -> RunDir:
        run = RunDir.create(tmp_path / name, ImproveRecipe(**SMALL_IMPROVE | settings))
        for role in ("policy", "reward_model"):
            (run.start / f"{role}.safetensors").symlink_to(finished_sft.checkpoints / f"{role}.safetensors")
        return run

    return make


@pytest.fixture
def loaded(finished_sft):
    return (
        Policy.load(finished_sft.checkpoints / "policy.safetensors"),
        RewardModel.load(finished_sft.checkpoints / "reward_model.safetensors"),
    )

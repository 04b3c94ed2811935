"""One seed gives the same bits, whichever kind of network: again, after a kill -9, and of two processes together."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.children import killed_at, together
from tests.training.conftest import SMALL_SFT
from tests.training.test_backbones import FEW, assert_same, content, folders  # noqa: F401
from tests.training.test_computing import shown  # noqa: F401
from training.methods import sft as sft_module
from training.methods.sft import sft
from training.recipes import SFTRecipe
from training.run_dir import RunDir

TABLE = SMALL_SFT | {"steps": 12, "validate_every": 6, "evaluation_episodes": 0}
# What is learned from, and the recipe, whose models are tiny ones by name
KINDS = {
    "own table": ("table", TABLE),
    "own table, words by a model": ("table", TABLE | {"text_encoder": "bert", "trained": "lora"}),
    "own table from above": ("overhead", TABLE | {"perception_steps": 5}),
    "own arm": ("arm", TABLE | {"chunk": 3, "executed": 2, "action_bins": 21}),
    "own state": ("reading", FEW),
    "own vision": ("looking", FEW),
    "own vision and joints": ("joints", FEW | {"chunk": 3}),
    **{
        f"{model}, {trained}": (data, FEW | {"trained": trained, setting: folder})
        for model, data, setting, folder in (
            ("text encoder", "reading", "text_encoder", "bert"),
            ("vision encoder", "looking", "vision_encoder", "siglip"),
            ("vision-language", "looking", "vision_language", "smolvlm"),
            ("vision-language in both directions", "looking", "vision_language", "paligemma"),
        )
        for trained in ("heads", "lora", "all")
    },
}


@pytest.fixture
def new_run(tmp_path, shown, folders):  # noqa: F811
    def make(kind, name, **settings):
        data, recipe = KINDS[kind]
        recipe = {key: str(folders.get(value, value)) if "_" in key else value for key, value in recipe.items()}
        run = RunDir.create(tmp_path / name, SFTRecipe(**recipe | {"seed": 7} | settings))
        os.link(shown / f"{data}.safetensors", run.data / "shown.safetensors")
        return run

    return make


def points(run):
    return [(line["step"], line["bc"], line["validation_bc"]) for line in run.lines("loss") if "bc" in line]


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_gives_the_same_bits_again_and_after_a_kill(new_run, kind):
    straight, again, killed = (new_run(kind, name) for name in ("straight", "again", "killed"))
    sft(straight)
    sft(again)
    assert killed_at(sft_module, 9, lambda: sft(killed))
    assert points(killed) == points(straight)[:1], "it was killed between its states"
    sft(killed)
    for other in (again, killed):
        for role in ("policy", "reward_model"):
            assert_same(content(straight, role), content(other, role))
    assert points(again) == points(killed) == points(straight)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if "," in kind and "both" not in kind] + ["own vision", "own vision and joints"]
)
def test_two_processes_agree_and_give_the_same_bits_again(new_run, kind):
    """Of each pretrained model what is trained: heads alone, adapters too, or all of it."""
    train = sft_module.train

    def learn(run, rank):
        def train_and_tell(at, losses, *others):
            done = train(at, losses, *others)
            save_file(losses.network.state_dict(), run.path / f"weights-{rank}")
            return done

        sft_module.train = train_and_tell
        run.quiet = rank > 0
        sft(run)

    runs = [new_run(kind, name, processes=2) for name in ("once", "again")]
    for run in runs:
        assert together(2, lambda rank, run=run: learn(run, rank)) == [0, 0]
        assert_same(load_file(run.path / "weights-0"), load_file(run.path / "weights-1"))
    assert_same(content(runs[0]), content(runs[1]))
    alone = new_run(kind, "alone")
    sft(alone)
    apart = [(content(alone)[name] - each).abs().max() for name, each in content(runs[0]).items()]
    assert 0 < max(apart) < 0.1, "other frames were drawn, and as many were learned from"


def test_gradients_that_are_not_shared_are_seen(new_run, monkeypatch, capfd):
    """What the test before this one would show if they weren't: the processes say it themselves."""
    monkeypatch.setattr("training.processes.Processes.average", lambda processes, loss, parameters: loss.detach())
    run = new_run("vision encoder, lora", "apart", processes=2)
    assert together(2, lambda rank: sft(run)) == [1, 1]
    assert "have come to differ" in capfd.readouterr().err
    assert torch.distributed.is_available()

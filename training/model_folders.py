"""Model folders: pretrained networks as Hugging Face keeps them, a folder of config.json and safetensors.

What one is, is decided here without torch, so that the web process can list and refuse them. A folder is known by the
sha256 of its files' names and sums; checkpoints, stations and recipes name it so. A store is a folder with one folder a
model in it, each called by its sha256.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from robots.protocol import MODEL_FILE, model_sum

# model_type of a config.json -> what a network of it can stand for here. One that has two towers can stand for either.
KNOWN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta", "modernbert"), ("text",)),
    **dict.fromkeys(("siglip_text_model", "clip_text_model"), ("text",)),
    **dict.fromkeys(("vit", "dinov2", "siglip_vision_model", "clip_vision_model", "efficientnet"), ("vision",)),
    **dict.fromkeys(("mobilenet_v2", "resnet", "convnext", "convnextv2"), ("vision",)),
    **dict.fromkeys(("siglip", "clip"), ("vision", "text")),
    **dict.fromkeys(("smolvlm", "idefics3", "paligemma"), ("vision_language",)),
}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
# What of a folder is the model: neither pickles nor code are ever read, so they are neither counted nor sent.
ENDINGS = (".safetensors", ".json", ".txt", ".model", ".md", ".jinja")
LARGEST_TEXT = 2**20  # bytes of a config.json or a model card that are read
LARGEST_HEADER = 100 * 2**20  # bytes; that of safetensors itself
STORE = "models"  # what a store is called in a run directory and in a station's folder
STORES_VARIABLE = "FLEETUI_MODELS"  # further stores, with the system's path separator between them


class ModelFolderError(ValueError):
    """A folder that holds no model that can be used, or a model that is missing; the text says what to do."""


@dataclass(frozen=True)
class ModelFile:
    """One file of a model folder."""

    name: str  # in the folder, with / between
    size: int  # bytes
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """As a policy message names it."""
        return {"name": self.name, "sha256": self.sha256, "size": self.size}


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds."""

    path: Path
    name: str
    architecture: str
    kind: str  # text | vision | vision_language
    serves: tuple[str, ...]  # the kinds that it can stand for
    licence: str  # "unknown" where nobody says
    size: int  # bytes of all files
    sha256: str  # of the files' names and sums
    files: tuple[ModelFile, ...]

    def to_json(self) -> dict[str, Any]:
        """As a policy message names it (robots/protocol.py)."""
        return {"sha256": self.sha256, "files": [each.to_json() for each in self.files]}


def describe(folder: Path | str, memory: int | None = None) -> ModelFolder:
    """What lies in a folder. ModelFolderError, with one sentence, where it can't be used.

    `memory`: bytes that its weights may take; without it what is free on this machine now.
    """
    check(folder, memory)
    path = Path(folder).resolve()
    config = _config(path)
    model_type, architecture = str(config.get("model_type", "")), _architecture(config)
    found = [(name, path / name) for name in _names(path)]
    files = tuple(ModelFile(name, each.stat().st_size, _sha256(each)) for name, each in found)
    return ModelFolder(
        path=path,
        name=_name(path, config),
        architecture=architecture,
        kind=KNOWN[model_type][0],
        serves=KNOWN[model_type],
        licence=_licence(path),
        size=sum(each.size for each in files),
        sha256=model_sum(each.to_json() for each in files),
        files=files,
    )


def check(folder: Path | str, memory: int | None = None) -> None:
    """What describe() refuses a folder for, as far as config.json, sizes and headers tell, so that nobody copies or
    reads all of what can't be used. Links are followed. `memory` as there; ModelFolderError, with one sentence.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ModelFolderError(f"There is no folder {path}; write the path of a folder with config.json in it.")
    path = path.resolve()
    config = _config(path)
    model_type, architecture = str(config.get("model_type", "")), _architecture(config)
    if model_type not in KNOWN:
        raise ModelFolderError(
            f"{path.name} is of the unknown architecture {architecture!r} (model_type {model_type!r}); known are "
            f"{', '.join(sorted(KNOWN))}."
        )
    weights = [
        each for each in sorted(path.glob("*.safetensors")) if each.is_file() and MODEL_FILE.fullmatch(each.name)
    ]
    if not weights:
        _refuse_without_weights(path)
    size = sum(each.stat().st_size for each in weights)
    free = psutil.virtual_memory().available if memory is None else memory
    if size > free:
        raise ModelFolderError(
            f"The weights of {path.name} have {size / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB of memory are free; "
            "take a smaller model or a larger machine."
        )
    for each in weights:
        _check_header(each)


def _config(path: Path) -> dict[str, Any]:
    try:
        text = _text(path / "config.json")
        config = json.loads(text)
    except FileNotFoundError:
        raise ModelFolderError(
            f"{path.name} has no config.json, so it is no model folder; take one that save_pretrained or "
            "huggingface-cli download made."
        ) from None
    except ValueError as error:
        raise ModelFolderError(
            f"The config.json of {path.name} is no JSON ({error}); fetch the folder again."
        ) from None
    if not isinstance(config, dict):
        raise ModelFolderError(f"The config.json of {path.name} holds no object; fetch the folder again.")
    return config


def _architecture(config: dict[str, Any]) -> str:
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else str(config.get("model_type", ""))


def _name(path: Path, config: dict[str, Any]) -> str:
    """What people call it: in a store the folder itself is called by its sum."""
    card = path / "README.md"
    heading = re.search(r"^# +(.+)$", _text(card), re.MULTILINE) if card.is_file() else None
    told = str(config.get("_name_or_path") or "").rstrip("/").rpartition("/")[2]
    return ((heading[1].strip() if heading else "") or told or path.name)[:100]


def _names(path: Path) -> Iterator[str]:
    """Of the files that are the model, in order. ModelFolderError at a link that leads out of the folder."""
    for each in sorted(path.rglob("*")):
        name = each.relative_to(path).as_posix()
        if not each.resolve().is_relative_to(path):
            raise ModelFolderError(
                f"{path.name} holds the link {name}, which leads out of the folder; copy the folder with what its "
                "links point at (cp -rL)."
            )
        is_model = name.endswith(ENDINGS) or each.name.startswith(("LICENSE", "LICENCE"))
        if each.is_file() and is_model and MODEL_FILE.fullmatch(name):
            yield name


def _refuse_without_weights(path: Path) -> None:
    pickles = sorted(each.name for each in path.iterdir() if each.suffix in PICKLES)
    if pickles:
        raise ModelFolderError(
            f"{path.name} has its weights in {pickles[0]} only, which can run code when it is read; save them as "
            "safetensors (save_pretrained does)."
        )
    raise ModelFolderError(
        f"{path.name} has no weights: no .safetensors file lies beside config.json; fetch the folder again, whole."
    )


def _check_header(path: Path) -> None:
    """ModelFolderError where what a safetensors file says of itself is not what it holds."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        ends = [int(each["data_offsets"][1]) for name, each in header.items() if name != "__metadata__"]
        if (end := 8 + length + max(ends, default=0)) != size:
            raise ValueError(f"its header tells of {end} bytes, and it has {size}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ModelFolderError(
            f"{path.parent.name}/{path.name} contradicts itself ({error}); it was cut short or changed, so fetch it "
            "again."
        ) from None


def _licence(path: Path) -> str:
    """As the model card says, or as its LICENSE file can be told."""
    card = path / "README.md"
    if card.is_file():
        front = re.match(r"---\n(.*?)\n---", _text(card), re.DOTALL)
        named = re.search(r"^license: *[\"']?([\w.+-]+)", front[1], re.MULTILINE) if front else None
        if named:
            return named[1]
    for each in sorted(path.glob("LICEN[SC]E*")):
        text = " ".join(_text(each)[:2000].split())
        for words, name in (("Apache License", "apache-2.0"), ("MIT License", "mit"), ("Redistribution and", "bsd")):
            if words in text:
                return name
        return f"see {each.name}"
    return "unknown"


def _text(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(LARGEST_TEXT).decode("utf-8", "replace")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Stores


def stores_near(checkpoint: Path | str) -> list[Path]:
    """Where the backbone of a checkpoint may lie: in the run directory or the station's folder that the checkpoint's
    own folder lies in, and in the stores that the environment names.
    """
    return [Path(checkpoint).absolute().parent.parent / STORE, *stores_named()]


def stores_named() -> list[Path]:
    """The stores that the environment names."""
    return [Path(each) for each in os.environ.get(STORES_VARIABLE, "").split(os.pathsep) if each]


def find(sha256: str, stores: list[Path]) -> ModelFolder:
    """The model of that sum; ModelFolderError where no store has it, or what lies there is another one."""
    for store in stores:
        if (store / sha256).is_dir():
            folder = (store / sha256).resolve()
            found = _described(folder, _touched(folder))
            if found.sha256 != sha256:
                raise ModelFolderError(
                    f"The folder {store / sha256} has changed: its sum is {found.sha256[:12]}; put the model there "
                    "again."
                )
            return found
    raise ModelFolderError(
        f"The pretrained model {sha256} is missing; put its folder into {stores[0]}, called by this sum, or name a "
        f"store that has it in {STORES_VARIABLE}."
    )


def _touched(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes when a file of the folder does, so that each is read once."""
    each = [(name, (folder / name).stat()) for name in _names(folder)]
    return tuple((name, info.st_size, info.st_mtime_ns) for name, info in each)


@functools.lru_cache(maxsize=32)
def _described(folder: Path, touched: tuple[tuple[str, int, int], ...]) -> ModelFolder:
    return describe(folder)


def add_to_store(folder: Path | str, store: Path) -> ModelFolder:
    """Name a folder in a store by its sum, by a link: nothing is copied. Several processes may do so at once.
    ModelFolderError where it holds no model.
    """
    found = describe(folder)
    store.mkdir(parents=True, exist_ok=True)
    place = store / found.sha256
    if not place.exists():
        link = store / f".{found.sha256}.{os.getpid()}.tmp"
        link.unlink(missing_ok=True)  # of one that was killed here
        link.symlink_to(found.path, target_is_directory=True)
        link.replace(place)  # also a link to what is gone
    return found


def take_store(source: Path, target: Path) -> None:
    """All models of one store are in another one too, by links."""
    for each in source.iterdir() if source.is_dir() else ():
        if each.is_dir():
            add_to_store(each, target)

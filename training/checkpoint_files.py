"""Checkpoint files without torch: what one says of itself, and a copy that says something else of the same weights."""

import json
import shutil
from pathlib import Path
from typing import Any

from robots.atomic_files import replacing

LARGEST_HEADER = 10**6  # bytes of JSON; a checkpoint may have come over the network


class FileError(ValueError):
    """A file that is no checkpoint; the text says what to do."""


def read_description(path: Path) -> dict[str, Any]:
    """What the file says of itself: CheckpointMetadata of training/checkpoints.py, as JSON."""
    header, _ = _read_header(path)
    try:
        found = json.loads(header["__metadata__"]["description"])
    except (KeyError, TypeError, ValueError):
        raise FileError(f"{path.name} does not say what it is; restore it in the data folder.") from None
    if not isinstance(found, dict):
        raise FileError(f"{path.name} does not say what it is; restore it in the data folder.")
    return found


def write_described(source: Path, target: Path, changes: dict[str, Any]) -> None:
    """A copy of the file whose description has these values; its weights are the same bytes. The source stays."""
    header, start = _read_header(source)
    description = read_description(source) | changes
    header["__metadata__"] = header["__metadata__"] | {"description": json.dumps(description, allow_nan=False)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the weights begin at a multiple of 8, as safetensors writes them
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary, open(source, "rb") as old, open(temporary, "xb") as new:
        new.write(len(text).to_bytes(8, "little") + text)
        old.seek(start)
        shutil.copyfileobj(old, new, 2**20)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where the weights begin."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size <= LARGEST_HEADER:
                raise ValueError("its header has no sensible size")
            header = json.loads(file.read(size))
    except FileNotFoundError:
        raise FileError(f"{path.name} is missing; restore it in the data folder.") from None
    except ValueError as error:
        raise FileError(f"{path.name} is no checkpoint ({error}); restore it in the data folder.") from None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
        raise FileError(f"{path.name} is no checkpoint; restore it in the data folder.")
    return header, 8 + size

"""What people look at of a dataset, made by a child process of the server. A plan in JSON says what:

{"sources": [as in assembling.py], "episodes": [{"source": index, "index": n, "start", "stop",
             "pictures": a folder that is made, with every picture | absent,
             "strip": a .jpg that is made, MOMENTS of the episode side by side | absent}],
 "statistics": a file of JSON that is made, sums over every number of all the episodes | null}

Where an episode has no picture the strip is not made, and beside its place a .none says why.
"""

import argparse
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robots import strict_json
from robots.atomic_files import write_atomically
from robots.driver import DriverError
from robots.episodes import Episode, EpisodeError
from robots.lerobot.assembling import Source
from robots.lerobot.layout import LeRobotError
from robots.looking import SIZE, cameras_of, pictures_at, write_pictures

MOMENTS = 8  # of an episode, evenly spaced, in a strip
TILE = 192, 144  # pixels of each
STRIP_QUALITY = 70
BINS = 30  # of the histogram of actions

Progress = Callable[[int, int], None]


def look_command(arguments: argparse.Namespace, progress: Progress | None = None) -> None:
    """python -m robots dataset look PLAN."""
    look(strict_json.loads(arguments.plan.read_bytes()), progress)


def look(plan: dict[str, Any], progress: Progress | None = None) -> None:
    """Carry out a plan; what is there after is whole."""
    sources = [Source(Path(each.pop("path")), **each) for each in plan["sources"]]
    sums = _Sums() if plan.get("statistics") else None
    try:
        for done, entry in enumerate(plan["episodes"], 1):
            _look_at(sources[entry["source"]], entry, sums)
            if progress is not None:
                progress(done, len(plan["episodes"]))
    finally:
        for source in sources:
            source.close()
    if sums is not None:
        write_atomically(Path(plan["statistics"]), strict_json.dumps(sums.result()).encode(), durable=False)


def _look_at(source: Source, entry: dict[str, Any], sums: "_Sums | None") -> None:
    seen = "strip" in entry or "pictures" in entry
    strip = Path(entry["strip"]) if "strip" in entry else None
    try:
        episode = source.episode(entry["index"], frames=seen, pictures=seen)
        if strip is not None:
            write_atomically(strip, strip_of(episode), durable=False)
    except (DriverError, EpisodeError, LeRobotError, OSError) as error:
        if strip is None:
            raise
        write_atomically(strip.with_suffix(".none"), str(error).encode(), durable=False)
        return
    if "pictures" in entry:
        folder = Path(entry["pictures"])
        making = folder.with_suffix(".part")
        write_pictures(episode, making, *SIZE)
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
    if sums is not None:
        sums.add(episode, entry["start"], entry["stop"])


def strip_of(episode: Episode) -> bytes:
    """A JPEG of MOMENTS tiles side by side, by the first camera that has pictures; DriverError where none has."""
    steps = np.linspace(0, episode.steps, MOMENTS).round().astype(int).tolist()
    why = DriverError("Its body has no camera, and no pictures were recorded with it.")
    for camera in cameras_of(episode):
        try:
            tiles = [_tile(jpeg) for jpeg in pictures_at(episode, camera, steps, TILE)]
        except DriverError as error:
            why = error
            continue
        strip = Image.new("RGB", (TILE[0] * MOMENTS, TILE[1]))
        for place, tile in enumerate(tiles):
            strip.paste(tile, (place * TILE[0] + (TILE[0] - tile.width) // 2, (TILE[1] - tile.height) // 2))
        file = io.BytesIO()
        strip.save(file, "JPEG", quality=STRIP_QUALITY)
        return file.getvalue()
    raise why


def _tile(jpeg: bytes) -> Image.Image:
    with Image.open(io.BytesIO(jpeg), formats=("JPEG", "PNG")) as image:
        scale = min(TILE[0] / image.width, TILE[1] / image.height)
        return image.convert("RGB").resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))


class _Sums:
    """Of every number that was observed or done, over episodes that come one after the other."""

    def __init__(self) -> None:
        self._found: dict[str, list[np.ndarray]] = {}  # key -> [count, sum, sum of squares, min, max], each [n]
        self._names: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._sizes: list[np.ndarray] = []  # of the actions, beside the largest that the body can do

    def add(self, episode: Episode, start: int, stop: int) -> None:
        """Its steps from start to stop."""
        body = episode.body
        vectors = {key: array for key, array in episode.observations.items() if array.dtype != np.uint8}
        for key, array in vectors.items():
            feature = body.observation.get(key) if body else None
            self._add(key, array[start : stop + 1], feature.names if feature else (), feature.units if feature else ())
        actions = episode.actions[start:stop]
        self._add("action", actions, body.action.names if body else (), body.action.units if body else ())
        reach = np.abs(np.array([body.action.low, body.action.high])).max(axis=0) if body and body.action.low else None
        if reach is not None and len(reach) == actions.shape[1]:
            actions = actions / np.where(reach > 0, reach, 1.0)
        self._sizes.append(np.sqrt(np.mean(np.square(actions, dtype=np.float64), axis=1)).astype(np.float32))

    def _add(self, key: str, array: np.ndarray, names: tuple[str, ...], units: tuple[str, ...]) -> None:
        rows = array.astype(np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            return
        if len(names) != rows.shape[1]:
            names, units = tuple(map(str, range(rows.shape[1]))), ()
        found = [np.full(rows.shape[1], float(len(rows))), rows.sum(0), (rows**2).sum(0), rows.min(0), rows.max(0)]
        if key in self._found:
            old = self._found[key]
            found = [old[i] + found[i] for i in range(3)] + [np.minimum(old[3], found[3]), np.maximum(old[4], found[4])]
        self._found[key], self._names[key] = found, (names, units)

    def result(self) -> dict[str, Any]:
        """{"features": [{key, name, unit, min, max, mean, std}], "actions": {"edges", "counts"}}"""
        told = []
        for key, (count, total, squares, low, high) in self._found.items():
            names, units = self._names[key]
            mean = total / count
            std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
            told += [
                {
                    "key": key,
                    "name": name,
                    "unit": units[i] if i < len(units) else "",
                    "min": float(low[i]),
                    "max": float(high[i]),
                    "mean": float(mean[i]),
                    "std": float(std[i]),
                }
                for i, name in enumerate(names)
            ]
        sizes = np.concatenate(self._sizes) if self._sizes else np.zeros(0)
        sizes = sizes[np.isfinite(sizes)]
        counts, edges = np.histogram(sizes, BINS)
        return {"features": told, "actions": {"edges": edges.tolist(), "counts": counts.tolist()}}

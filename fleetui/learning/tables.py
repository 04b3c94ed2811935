"""Datasets as tables for other programs, CSV and Parquet: the episodes of a version, and the signals of one episode."""

import csv
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fleetui.access import Refused
from fleetui.learning.models import Dataset, DatasetEpisode
from fleetui.learning.selectors import dataset_episode_row
from robots.episodes import ACTORS, Episode, EpisodeError
from robots.lerobot.assembling import Source, taken
from robots.lerobot.layout import LeRobotError

FORMATS = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
MOST_OPEN = 4  # roots that are kept open in this process

_open: dict[tuple[int, str], Source] = {}
_lock = threading.Lock()  # a source reads for one at a time


def read_episode(row: DatasetEpisode, *, pictures: bool = False) -> Episode:
    """The episode as its version has it; without pictures it takes milliseconds. Refused where its root is broken."""
    root = row.source
    entry = {name: getattr(row, name) for name in ("start", "stop", "task", "instruction", "ending", "weight")}
    entry |= {"index": row.source_index, "detected_success": row.detected_success, "true_success": row.true_success}
    key = root.pk, root.path
    try:
        with _lock:
            source = _open.pop(key, None) or Source(Path(root.file), **root.origin.get("reading", {}))
            _open[key] = source  # the newest last
            while len(_open) > MOST_OPEN:
                _open.pop(next(iter(_open))).close()
            return taken(source, entry, frames=pictures, pictures=pictures)
    except (OSError, EpisodeError, LeRobotError) as error:
        raise Refused(f"{row} can't be read ({error}); restore {root.path} in the data folder.") from None


def forget_open() -> None:
    """For tests, whose data folders come and go."""
    with _lock:
        while _open:
            _open.popitem()[1].close()


def signals_of(episode: Episode) -> dict[str, np.ndarray]:
    """[T+1] each, by name: time (s), every number of observation and action under "KEY.NAME", steps_to_go, actor (a
    text). After the last action there is an observation, so there the actions are NaN.
    """
    steps = episode.steps
    found: dict[str, np.ndarray] = {"time": np.arange(steps + 1) / episode.fps}
    body = episode.body
    for key, array in episode.observations.items():
        if array.dtype != np.uint8:
            feature = body.observation.get(key) if body else None
            names = feature.names if feature else tuple(map(str, range(array.shape[1])))
            found |= {f"{key}.{name}": array[:, i] for i, name in enumerate(names)}
    names = body.action.names if body else tuple(map(str, range(episode.actions.shape[1])))
    for i, name in enumerate(names):
        found[f"action.{name}"] = np.append(episode.actions[:, i], np.float32(np.nan))
    found["steps_to_go"] = episode.steps_to_go
    found["actor"] = np.array([*(ACTORS[each] for each in episode.actors), ""])
    return found


def signals_table(episode: Episode, kind: str) -> bytes:
    """One row an observation, as a file of one of FORMATS."""
    signals = signals_of(episode)
    if kind == "parquet":
        return _parquet({name: pa.array(values) for name, values in signals.items()})
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(signals)
    columns = [[_cell(value) for value in values.tolist()] for values in signals.values()]
    writer.writerows(zip(*columns, strict=True))
    return file.getvalue().encode()


def episodes_table(dataset: Dataset, kind: str) -> Iterator[bytes]:
    """One row an episode; of its quality each figure has a column. Of a CSV file piece by piece."""
    rows = dataset.rows.order_by("position").iterator(chunk_size=2000)
    if kind == "parquet":
        told = [_flat(row) for row in rows]
        names = list(dict.fromkeys(name for each in told for name in each))
        yield _parquet({name: pa.array([each.get(name) for each in told]) for name in names})
        return
    file = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        flat = {name: _cell(value) for name, value in _flat(row).items()}
        if writer is None:
            writer = csv.DictWriter(file, list(flat), extrasaction="ignore")
            writer.writeheader()
        writer.writerow(flat)
        if file.tell() > 2**16:
            yield file.getvalue().encode()
            file.seek(0)
            file.truncate()
    yield file.getvalue().encode()


def _flat(row: DatasetEpisode) -> dict[str, Any]:
    told = dataset_episode_row(row)
    quality = told.pop("quality")
    told["tags"], told["unusual"] = ", ".join(told["tags"]), " ".join(told["unusual"])
    return told | {f"quality.{name}": value for name, value in sorted(quality.items())}


def _cell(value: object) -> object:
    """As a spreadsheet may open it: a text that it would take for a formula begins with an apostrophe."""
    if isinstance(value, float) and value != value:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _parquet(columns: dict[str, pa.Array]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="snappy")
    return sink.getvalue()


def steps_of(episode: Episode) -> dict[str, Any]:
    """What the page of an episode draws. Of each signal there is a number an observation, of the action one less."""
    body = episode.body
    signals = []
    for key, array in episode.observations.items():
        if array.dtype != np.uint8:
            feature = body.observation.get(key) if body else None
            signals.append(_signals(key, array, feature.names if feature else (), feature.units if feature else ()))
    signals.append(
        _signals("action", episode.actions, body.action.names if body else (), body.action.units if body else ())
    )
    return {
        "fps": episode.fps,
        "steps": episode.steps,
        "threshold": episode.threshold,
        "d": _known(episode.steps_to_go),
        "actors": episode.actors.tolist(),
        "signals": signals,
    }


def _signals(key: str, array: np.ndarray, names: tuple[str, ...], units: tuple[str, ...]) -> dict[str, Any]:
    """Of [T, n]."""
    if len(names) != array.shape[1]:
        names, units = tuple(map(str, range(array.shape[1]))), ()
    values = [_known(array[:, i]) for i in range(array.shape[1])]
    return {"key": key, "names": list(names), "units": list(units), "values": values}


def _known(values: np.ndarray) -> list[float | None]:
    """JSON knows no NaN."""
    return [round(float(value), 5) if np.isfinite(value) else None for value in values]

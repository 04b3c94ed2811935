"""What people look at of a dataset: the pictures of an episode, strips of them, sums over all numbers. Each is made
once, in a job (look_jobs.py), when it is first asked for, and kept in the data folder. These are actions, like those in
actions.py; what they make is no more than a copy, so whoever sees the dataset may ask for it.

Of a root's episodes there is one copy for all versions, of the whole as it was recorded: a cut only counts from
elsewhere.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from django.conf import settings

from fleetui.access import Conflict, NotFound
from fleetui.learning.actions import RENDER_STALE_S, enqueue_on_commit
from fleetui.learning.models import Dataset, DatasetEpisode
from robots.atomic_files import write_atomically
from robots.episodes import CAMERAS_FILE

BLOCK = 24  # episodes of a root whose strips are made at once
KINDS = ("pictures", "strips", "statistics")


def folder_of(root: Dataset) -> Path:
    """All copies that were made of it."""
    return settings.DATA / "looks" / str(root.pk)


def pictures_folder(root: Dataset, index: int) -> Path:
    return folder_of(root) / "pictures" / str(index)


def strip_file(root: Dataset, index: int) -> Path:
    return folder_of(root) / "strips" / f"{index}.jpg"


def statistics_file(dataset: Dataset) -> Path:
    """Of a dataset of corrections, which grows, one for each state of it."""
    return folder_of(dataset) / f"statistics-{dataset.episodes}-{dataset.steps}.json"


def read_strip(row: DatasetEpisode) -> bytes | None:
    """A JPEG; None while it is being made. NotFound where it has no picture, Conflict where making it failed."""
    _refuse_unready(row.dataset)
    path = strip_file(row.source, row.source_index)
    if path.is_file():
        return path.read_bytes()
    if path.with_suffix(".none").is_file():
        raise NotFound(path.with_suffix(".none").read_text())
    _ask("strips", row.source, row.source_index // BLOCK)
    return None


def list_cameras(row: DatasetEpisode) -> list[dict[str, str]] | None:
    """[{"name", "missing": why it has no pictures}]; None while they are being made. Names come from outside."""
    _refuse_unready(row.dataset)
    file = pictures_folder(row.source, row.source_index) / CAMERAS_FILE
    if file.is_file():
        found: list[dict[str, str]] = json.loads(file.read_text(encoding="utf-8"))
        return found
    _ask("pictures", row.source, row.source_index)
    return None


def read_picture(row: DatasetEpisode, camera: str, step: int) -> bytes | None:
    """A JPEG of what the camera saw at an observation of the episode as its version has it; None while it is made."""
    if not 0 <= step <= row.steps:
        raise NotFound(f"{row} has pictures 0 to {row.steps}.")
    cameras = list_cameras(row)
    if cameras is None:
        return None
    wanted = [i for i, each in enumerate(cameras) if (each["name"] == camera if camera else not each["missing"])]
    if not wanted:
        names = ", ".join(each["name"] for each in cameras)
        raise NotFound(f"{row} has no camera {camera!r}; it has {names}.")
    if missing := cameras[wanted[0]]["missing"]:
        raise NotFound(missing)
    folder = pictures_folder(row.source, row.source_index) / str(wanted[0])
    return (folder / f"{row.start + step:05d}.jpg").read_bytes()


def read_statistics(dataset: Dataset) -> dict[str, Any] | None:
    """What robots/lerobot/looking.py sums up over all that was observed and done; None while it is being made."""
    _refuse_unready(dataset)
    file = statistics_file(dataset)
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    _ask("statistics", dataset, 0)
    return None


def marker_of(kind: str, dataset_id: int, number: int) -> Path:
    """The file that says that it was asked for; beside it, with .failed, why it could not be made."""
    return settings.DATA / "looks" / str(dataset_id) / "asked" / f"{kind}-{number}"


def keep_asking(kind: str, dataset_id: int, number: int) -> None:
    """The job is at work."""
    os.utime(marker_of(kind, dataset_id, number))


def end_asking(kind: str, dataset_id: int, number: int, failure: str = "") -> None:
    marker = marker_of(kind, dataset_id, number)
    if failure:
        write_atomically(marker.with_suffix(".failed"), failure.encode(), durable=False)
    marker.unlink(missing_ok=True)


def _ask(kind: str, dataset: Dataset, number: int) -> None:
    """Have it made, once. Conflict, with why, where that failed a moment ago."""
    marker = marker_of(kind, dataset.pk, number)
    failed = marker.with_suffix(".failed")
    if failed.exists() and time.time() - failed.stat().st_mtime < RENDER_STALE_S:
        raise Conflict(failed.read_text())
    marker.parent.mkdir(parents=True, exist_ok=True)
    try:
        marker.open("x").close()
    except FileExistsError:
        if time.time() - marker.stat().st_mtime < RENDER_STALE_S:
            return
        os.utime(marker)  # the job died: ask again
    failed.unlink(missing_ok=True)
    enqueue_on_commit("learning.look", f"{kind}/{dataset.pk}/{number}")


def _refuse_unready(dataset: Dataset) -> None:
    if dataset.state != "ready" or not dataset.listed:
        raise Conflict(f"{dataset} is not ready yet; wait until its episodes are listed.")

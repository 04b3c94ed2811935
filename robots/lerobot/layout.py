"""Where what lies in a LeRobot dataset, how its columns are called, and what is said of one that is wrong."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

VERSION, OLD_VERSION = "v3.0", "v2.1"

INFO, STATISTICS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES = f"meta/episodes/{FILE}.parquet"
DATA = f"data/{FILE}.parquet"
VIDEO = f"videos/{{video_key}}/{FILE}.mp4"
OLD_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
OLD_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
OLD_EPISODES, OLD_TASKS, OLD_STATISTICS = "meta/episodes.jsonl", "meta/tasks.jsonl", "meta/episodes_stats.jsonl"

FILES_A_CHUNK = 1000
DATA_MB, VIDEO_MB = 100, 200  # of a file, at most
MB = 2**20

# What every dataset declares beside its own features, in this order and after them; each has one number.
STANDARD = {
    "timestamp": "float32",  # frame_index / fps
    "frame_index": "int64",  # within the episode
    "episode_index": "int64",
    "index": "int64",  # over all files
    "task_index": "int64",  # row of meta/tasks.parquet
}
# What a row of ours has beside what was observed and done.
OWN_ROWS = {
    "next.reward": "float32",  # d of this row less d of the next; 0 where there is no d
    "next.done": "bool",  # the episode's last row
    "intervention": "bool",  # a person acted where a policy was to
    "actor": "int64",  # index into robots.episodes.ACTORS
    "steps_to_go": "float32",  # d; NaN where no reward model ran
    "fenced": "bool",  # the fence turned the policy's action aside
}
OWN = "fleetui"  # the field of info.json, and before "/" the episodes' columns
# Fields of an Episode as columns of meta/episodes, each "fleetui/NAME".
OWN_EPISODE = {
    "uuid": pa.string(),
    "task": pa.string(),
    "ending": pa.string(),
    "purpose": pa.string(),
    "detected_success": pa.bool_(),
    "true_success": pa.bool_(),
    "policy": pa.string(),
    "reward_model": pa.string(),
    "threshold": pa.float64(),
    "seed": pa.int64(),
    "started_at": pa.float64(),
    "fps": pa.float64(),
    "interventions": pa.int64(),
    "weight": pa.float64(),
}
LABELS = f"{OWN}/labels"  # JSON of an episode's labels; of older datasets the column is missing
MISSING = f"{OWN}/missing_cameras"  # list<string>: of these black pictures stand in the video
# What was observed at the end, after the last action: a dataset has a row for each action, so it has no row for it.
LAST = f"{OWN}/last/"  # and the feature's key: list<float> or a PNG or JPEG; "steps_to_go" as well

# What is read at most, so that a file can't claim more than there could be.
MOST_EPISODES, MOST_ROWS, MOST_FEATURES, MOST_TASKS = 10**6, 10**9, 1000, 10**6
LARGEST_JSON, LARGEST_LINE = 64 * MB, 16 * MB  # bytes
LARGEST_READ = 2**31  # bytes of a data file's columns at once, and of an episode's pictures
MOST_OF_A_KIND = 20  # problems of one code that are listed one by one

REFUSE, ASK, NOTE = "refuse", "ask", "note"  # levels: it can't be used; it can, after asking; it is good to know


class Code(StrEnum):
    """What is wrong, for programs."""

    # with the folder or its description
    NO_DATASET = "no-dataset"
    VERSION_UNKNOWN = "version-unknown"
    FILE_MISSING = "file-missing"
    FILE_BROKEN = "file-broken"
    PATH_LEAVES = "path-leaves"
    FIELD_WRONG = "field-wrong"
    TOO_LARGE = "too-large"
    COUNTS_DISAGREE = "counts-disagree"
    LEFT_OVER = "left-over"
    # with features
    FEATURE_WRONG = "feature-wrong"
    FEATURE_UNUSED = "feature-unused"
    FEATURE_CHANGED = "feature-changed"
    FEATURE_MISSING = "feature-missing"
    UNDECLARED = "undeclared-column"
    GUESSED = "guessed"
    # with rows
    DTYPE_WRONG = "dtype-wrong"
    ROWS_DISAGREE = "rows-disagree"
    NO_ROWS = "no-rows"
    NOT_FINITE = "not-finite"
    TIME_WRONG = "time-wrong"
    STATISTICS_WRONG = "statistics-wrong"
    EPISODE_WRONG = "episode-wrong"
    SEVERAL_TASKS = "several-tasks"
    # with pictures
    VIDEO_MISSING = "video-missing"
    VIDEO_BROKEN = "video-broken"
    VIDEO_TIMES = "video-times"
    DEPTH_SKIPPED = "depth-skipped"
    PICTURE_BROKEN = "picture-broken"


@dataclass(frozen=True)
class Recorded:
    """A camera that people watch by: its pictures are kept beside the observation, in video of their own."""

    camera: str
    width: int
    height: int


@dataclass(frozen=True)
class Problem:
    """What is wrong with a dataset, where, and what to do about it."""

    code: Code
    level: str
    text: str  # whole sentences: what is wrong, and the mend
    file: str = ""  # within the folder
    episode: int | None = None
    field: str = ""

    def __str__(self) -> str:
        """For people, with the place before it."""
        episode = "" if self.episode is None else f"episode {self.episode}"
        places = [self.file, episode, self.field and f"field {self.field}"]
        place = ", ".join(each for each in places if each)
        return f"{place}: {self.text}" if place else self.text


class LeRobotError(ValueError):
    """A dataset that can't be read, or not written to; says what is wrong and what to do."""

    def __init__(self, code: Code, text: str, *, file: str = "", episode: int | None = None, field: str = ""):
        self.problem = Problem(code, REFUSE, text, file, episode, field)
        super().__init__(str(self.problem))

    def at(self, *, file: str = "", episode: int | None = None, field: str = "") -> "LeRobotError":
        """The same, with what was not known of the place where it was found."""
        was = self.problem
        known = replace(was, file=was.file or file, field=was.field or field)
        if was.episode is None:
            known = replace(known, episode=episode)
        return LeRobotError(known.code, known.text, file=known.file, episode=known.episode, field=known.field)


def shown(value: object, most: int = 60) -> str:
    """Something that was found, for a message: short, and in characters that can be read."""
    text = value if isinstance(value, str) else repr(value)
    text = text if text.isprintable() and _encodes(text) else ascii(text)
    return text if len(text) <= most else text[: most - 3] + "..."


def _encodes(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


_PLACEHOLDER = re.compile(r"\{(\w+)(?::0?(\d{1,2})d)?\}")


def filled(template: str, **values: int | str) -> str:
    """A path within the folder of its template. str.format is not trusted with what came from elsewhere."""

    def put(found: re.Match[str]) -> str:
        name, digits = found[1], int(found[2] or 0)
        if name not in values:
            raise LeRobotError(
                Code.FIELD_WRONG,
                f"The path {shown(template)} asks for {shown(name)}; known are {', '.join(values)}. Put it right in "
                f"{INFO}.",
                file=INFO,
            )
        value = values[name]
        return value if isinstance(value, str) else f"{value:0{digits}d}"

    path = _PLACEHOLDER.sub(put, template)
    if "{" in path or "}" in path:
        raise LeRobotError(Code.FIELD_WRONG, f"The path {shown(template)} has braces that mean nothing.", file=INFO)
    return path


def place_of(folder: Path, name: str) -> Path:
    """Where a file of the dataset lies; LeRobotError where its name, or a link on the way, leads out of the folder."""
    parts = name.split("/")
    if "\\" in name or not name.isprintable() or ".." in parts or "" in parts:
        raise LeRobotError(
            Code.PATH_LEAVES,
            f"The path {shown(name)} is refused: it must stay within the dataset's folder, in plain names. Put the "
            f"paths and the features' names in {INFO} right.",
            file=INFO,
        )
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links, a name too long
        inside = False
    if not inside:
        raise LeRobotError(
            Code.PATH_LEAVES,
            "It is a link that leads out of the dataset's folder. Copy the dataset with what its links lead to: "
            "cp -rL FROM TO.",
            file=shown(name, 200),
        )
    return path


def arrow_type(dtype: str, shape: tuple[int, ...]) -> pa.DataType:
    """Of a feature's column in the data files."""
    each = pa.from_numpy_dtype(np.dtype(dtype))
    return each if shape == (1,) else pa.list_(pa.field("element", each), shape[0])


def feature(dtype: str, shape: tuple[int, ...], names: tuple[str, ...] | None, **more: Any) -> dict[str, Any]:
    """As info.json declares it."""
    return {"dtype": dtype, "shape": list(shape), "names": None if names is None else list(names), **more}

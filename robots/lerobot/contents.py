"""What a dataset says of itself in its folder meta/, read with suspicion: v3.0, and v2.1 as if it were v3.0.

Everything is bounded before it is read and compared before it is used, so that a file from anywhere ends in numbers
that agree with each other or in one LeRobotError.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robots import strict_json
from robots.episodes import FPS
from robots.lerobot.layout import (
    ASK,
    DATA,
    FILES_A_CHUNK,
    INFO,
    LABELS,
    LARGEST_JSON,
    LARGEST_LINE,
    LARGEST_READ,
    MISSING,
    MOST_EPISODES,
    MOST_FEATURES,
    MOST_ROWS,
    MOST_TASKS,
    NOTE,
    OLD_DATA,
    OLD_EPISODES,
    OLD_STATISTICS,
    OLD_TASKS,
    OLD_VIDEO,
    OWN,
    OWN_EPISODE,
    STATISTICS,
    TASKS,
    VIDEO,
    Code,
    LeRobotError,
    Problem,
    filled,
    place_of,
    shown,
)

LONGEST_KEY = 200  # characters of a feature's name
CAMERA_DTYPES = ("video", "image")
_FAULTS = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError)


@contextlib.contextmanager
def reading(file: str, *, episode: int | None = None) -> Iterator[None]:
    """What a library raises at a broken file becomes a LeRobotError that names the file."""
    try:
        yield
    except LeRobotError as error:
        raise error.at(file=file, episode=episode) from None
    except FileNotFoundError:
        raise LeRobotError(
            Code.FILE_MISSING, "The file is missing. Copy the whole dataset again.", file=file, episode=episode
        ) from None
    except _FAULTS as error:
        raise LeRobotError(
            Code.FILE_BROKEN,
            f"The file can't be read ({shown(' '.join(str(error).split()), 120)}). Copy it again; where it is so at "
            "its source, record or convert it anew.",
            file=file,
            episode=episode,
        ) from None


@contextlib.contextmanager
def parquet(folder: Path, name: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file of the dataset, open."""
    with reading(name), pq.ParquetFile(place_of(folder, name)) as file:
        yield file


def bounded_read(file: pq.ParquetFile, columns: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
    """Some columns of some row groups, unless that were more than can be meant."""
    groups = range(file.metadata.num_row_groups) if groups is None else groups
    size = 0
    for number in groups:
        group = file.metadata.row_group(number)
        for i in range(group.num_columns):
            column = group.column(i)
            top = column.path_in_schema.split(".list.")[0].split(".bytes")[0].split(".path")[0]
            if top in columns:
                # A few bytes may stand for a billion equal numbers.
                size += max(column.total_uncompressed_size, 8 * column.num_values, 0)
    if size > LARGEST_READ:
        raise LeRobotError(
            Code.TOO_LARGE,
            f"{size} bytes of it would have to be read at once, and {LARGEST_READ} are read. Write it anew with row "
            "groups of one episode each.",
        )
    return file.read_row_groups(list(groups), columns=list(columns), use_threads=False)


def numbers_of(column: pa.ChunkedArray, size: int | None = None) -> np.ndarray:
    """A column as an array [N], or [N, size]; LeRobotError where it holds anything else, or nothing somewhere."""
    whole = column.combine_chunks()
    while isinstance(whole, pa.ChunkedArray):  # of one chunk
        whole = whole.chunk(0)
    kind, rows = whole.type, len(whole)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if whole.null_count:
        raise LeRobotError(Code.NOT_FINITE, f"{whole.null_count} of its rows hold nothing. Leave out their episodes.")
    if is_list:
        wanted = size or 1
        lengths = whole.value_lengths().to_numpy(zero_copy_only=False) if rows else np.array([wanted])
        if (lengths != wanted).any():
            held = int(lengths[lengths != wanted][0])
            raise LeRobotError(Code.ROWS_DISAGREE, f"A row of it has {held} numbers, and {wanted} were declared.")
        whole = whole.flatten()
        kind = whole.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise LeRobotError(
            Code.DTYPE_WRONG, f"It holds {shown(str(kind))}, and numbers are needed. Write it as what {INFO} declares."
        )
    if whole.null_count:
        raise LeRobotError(Code.NOT_FINITE, f"{whole.null_count} of its numbers are missing. Leave out their episodes.")
    flat: np.ndarray = whole.to_numpy(zero_copy_only=False)
    if len(flat) != rows * (size or 1):
        raise LeRobotError(Code.ROWS_DISAGREE, f"It has 1 number a row, and {size} were declared.")
    return flat if size is None else flat.reshape(rows, size)


@dataclass(frozen=True)
class Declared:
    """A feature as info.json declares it."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()  # of each number, or of what a picture's shape says; empty: not said
    depth: bool = False

    @property
    def is_camera(self) -> bool:
        """Whether pictures belong to it."""
        return self.dtype in CAMERA_DTYPES

    @property
    def is_numbers(self) -> bool:
        """Whether each row has one number or a vector of them."""
        return len(self.shape) == 1 and self.dtype in _NUMBERS

    @property
    def size(self) -> tuple[int, int] | None:
        """Of a colour picture (width, height); None: it is none."""
        if len(self.shape) != 3 or self.depth:
            return None
        first = self.names[0] if self.names else ""
        channels_first = first.startswith("channel") or (not first and self.shape[0] == 3 != self.shape[2])
        channels, height, width = self.shape if channels_first else (self.shape[2], *self.shape[:2])
        return (width, height) if channels == 3 else None


_NUMBERS = {
    "float16", "float32", "float64", "bool",
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
}  # fmt: skip


@dataclass(frozen=True)
class Info:
    """meta/info.json."""

    version: tuple[int, int]
    fps: float
    features: dict[str, Declared]
    episodes: int
    rows: int
    robot_type: str
    chunks_size: int
    data_path: str
    video_path: str
    own: dict[str, Any] | None  # what fleetui wrote there


@dataclass
class Index:
    """The episodes, an entry of each array each; E of them."""

    lengths: np.ndarray  # int64 [E] rows
    first: np.ndarray  # int64 [E] of each its first row, over all files
    chunk: np.ndarray  # int64 [E] numbers of its data file
    file: np.ndarray
    offset: np.ndarray  # int64 [E] its first row within that file
    tasks: list[list[str]]  # sentences of each episode
    videos: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)  # chunk, file, from_s
    own: dict[str, list[Any]] | None = None  # columns that fleetui wrote, without the observations of the end
    meta: list[tuple[str, int, int]] = field(default_factory=list)  # of each: file, row group, row within it


def read_json(folder: Path, name: str) -> Any:
    """A JSON file of the dataset."""
    with reading(name):
        path = place_of(folder, name)
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise LeRobotError(Code.TOO_LARGE, f"The file has {size} bytes, and {LARGEST_JSON} are read.")
        return strict_json.loads(path.read_bytes())


def read_lines(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a file that has one in each line."""
    with reading(name), place_of(folder, name).open("rb") as file:
        for number in range(MOST_EPISODES + 1):
            line = file.readline(LARGEST_LINE + 1)
            if not line:
                return
            if len(line) > LARGEST_LINE or number == MOST_EPISODES:
                raise LeRobotError(Code.TOO_LARGE, f"Its line {number + 1} is too long, or it has too many of them.")
            if line.strip():
                told = strict_json.loads(line)
                if not isinstance(told, dict):
                    raise LeRobotError(Code.FIELD_WRONG, f"Its line {number + 1} must be an object.")
                yield told


def _wrong(name: str, text: str, file: str = INFO) -> LeRobotError:
    return LeRobotError(Code.FIELD_WRONG, text, file=file, field=shown(name))


def _whole(
    told: Mapping[str, Any], name: str, least: int, most: int, default: int | None = None, file: str = INFO
) -> int:
    """A whole number that a JSON object tells."""
    value = told.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _wrong(name, f"It must be a whole number from {least} to {most}, not {shown(value)}.", file)
    return value


def _text(told: Mapping[str, Any], name: str, default: str) -> str:
    value = told.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or len(value) > LONGEST_KEY:
        raise _wrong(name, f"It must be a text of at most {LONGEST_KEY} characters, not {shown(value)}.")
    return value


def read_info(folder: Path) -> Info:
    """meta/info.json, checked by itself."""
    if not folder.is_dir():
        raise LeRobotError(Code.NO_DATASET, f"There is no folder {shown(folder.name)}.")
    if not (folder / INFO).is_file():
        raise LeRobotError(
            Code.NO_DATASET,
            f"The folder {shown(folder.name)} holds no LeRobot dataset: {INFO} is missing. Name the folder in which "
            "meta, data and videos lie.",
        )
    told = read_json(folder, INFO)
    if not isinstance(told, dict):
        raise LeRobotError(Code.FIELD_WRONG, "It must be a JSON object.", file=INFO)
    said = told.get("codebase_version")
    found = re.fullmatch(r"v?(\d{1,3})\.(\d{1,3})", said) if isinstance(said, str) else None
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version[0] not in (2, 3):
        raise LeRobotError(
            Code.VERSION_UNKNOWN,
            f"Its version is {shown(said)}; v3.0, v2.1 and v2.0 are read. Convert it with LeRobot's own scripts.",
            file=INFO,
            field="codebase_version",
        )
    fps = told.get("fps")
    if not isinstance(fps, (int, float)) or isinstance(fps, bool) or not FPS[0] <= fps <= FPS[1]:
        raise _wrong("fps", f"It must be a number from {FPS[0]:g} to {FPS[1]:g}, not {shown(fps)}.")
    old = version[0] == 2
    own = told.get(OWN)
    data_path = _text(told, "data_path", OLD_DATA if old else DATA)
    video_path = _text(told, "video_path", OLD_VIDEO if old else VIDEO)
    for name in (_numbered(old, data_path, 0, 0), _numbered(old, video_path, 0, 0, video_key="camera")):
        place_of(folder, name)
    return Info(
        version=version,
        fps=float(fps),
        features=_features(told.get("features")),
        episodes=_whole(told, "total_episodes", 0, MOST_EPISODES),
        rows=_whole(told, "total_frames", 0, MOST_ROWS),
        robot_type=_text(told, "robot_type", ""),
        chunks_size=_whole(told, "chunks_size", 1, 10**9, FILES_A_CHUNK),
        data_path=data_path,
        video_path=video_path,
        own=own if isinstance(own, dict) and not old else None,
    )


def _features(told: Any) -> dict[str, Declared]:
    if not isinstance(told, dict) or not 0 < len(told) <= MOST_FEATURES:
        raise _wrong("features", f"It must be an object of 1 to {MOST_FEATURES} features.")
    found = {}
    for key, each in told.items():
        if not 0 < len(key) <= LONGEST_KEY or not key.isprintable() or "/" in key or "\\" in key or ".." in key:
            raise LeRobotError(
                Code.PATH_LEAVES,
                f'The feature {shown(key)} can\'t be called so: its name becomes a folder\'s. Leave out "/", ".." and '
                "what can't be printed.",
                file=INFO,
                field="features",
            )
        if not isinstance(each, dict) or not isinstance(dtype := each.get("dtype"), str):
            raise _wrong(key, "It must be an object with a dtype, a shape and names.")
        shape = each.get("shape")
        sizes = [] if shape is None else shape
        if (
            not isinstance(sizes, list)
            or len(sizes) > 4
            or not all(type(size) is int and 0 < size < 10**6 for size in sizes)
        ):
            raise _wrong(key, f"Its shape must be a list of whole numbers above 0, not {shown(shape)}.")
        more = each.get("info") or each.get("video_info") or {}
        told_depth = (
            [more.get(name) for name in ("is_depth_map", "video.is_depth_map")] if isinstance(more, dict) else []
        )
        found[key] = Declared(dtype[:LONGEST_KEY], tuple(sizes) or (1,), _names(each.get("names")), True in told_depth)
    return found


def _names(told: Any) -> tuple[str, ...]:
    """A list of names; datasets of before have an object of one list."""
    if isinstance(told, dict) and len(told) == 1:
        (told,) = told.values()
    if isinstance(told, list) and len(told) == 1 and isinstance(told[0], list):
        (told,) = told
    return tuple(map(str, told)) if isinstance(told, list) else ()


def read_index(folder: Path, info: Info, problems: list[Problem]) -> Index:
    """The episodes; what is not as it should be, and can be gone on with, is added to the problems."""
    index = _old_index(folder, info) if info.version[0] == 2 else _index(folder, info, problems)
    count = len(index.lengths)
    if count != info.episodes or index.lengths.sum() != info.rows:
        died = info.own is not None and count == info.episodes
        problems.append(
            Problem(
                Code.COUNTS_DISAGREE,
                NOTE if died else ASK,
                f"It tells of {info.episodes} episodes and {info.rows} rows, but {count} episodes with "
                f"{int(index.lengths.sum())} rows are listed. The recording may have been broken off; what is listed "
                "is read.",
                INFO,
            )
        )
    if not count:
        raise LeRobotError(Code.NO_ROWS, "The dataset has no episode. Record some first.", file=INFO)
    return index


def _old_index(folder: Path, info: Info) -> Index:
    entries = {}
    for told in read_lines(folder, OLD_EPISODES):
        number = _whole(told, "episode_index", 0, MOST_EPISODES, file=OLD_EPISODES)
        length = _whole(told, "length", 1, MOST_ROWS, file=OLD_EPISODES)
        tasks = told.get("tasks") or []
        if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
            raise _wrong("tasks", "It must be a list of sentences.", OLD_EPISODES)
        entries[number] = length, tasks
    count = len(entries)
    if sorted(entries) != list(range(count)):
        raise LeRobotError(Code.ROWS_DISAGREE, "The episodes must be numbered 0, 1, 2, ...", file=OLD_EPISODES)
    lengths = np.array([entries[number][0] for number in range(count)], np.int64)
    file = np.arange(count)
    chunk, nought = file // info.chunks_size, np.zeros(count, np.int64)
    cameras = [key for key, each in info.features.items() if each.dtype == "video"]
    return Index(
        lengths=lengths,
        first=np.cumsum(lengths) - lengths,
        chunk=chunk,
        file=file,
        offset=nought,
        tasks=[entries[number][1] for number in range(count)],
        videos={key: (chunk, file, nought.astype(float)) for key in cameras},
    )


def _index(folder: Path, info: Info, problems: list[Problem]) -> Index:
    place = folder / "meta" / "episodes"
    names = sorted(f"meta/episodes/{path.relative_to(place).as_posix()}" for path in place.glob("*/*.parquet"))
    if not names:
        raise LeRobotError(
            Code.FILE_MISSING, "The folder meta/episodes has no Parquet file. Copy the whole dataset again.", file=INFO
        )
    cameras = [key for key, each in info.features.items() if each.dtype == "video"]
    wanted = ["episode_index", "length", "dataset_from_index", "data/chunk_index", "data/file_index"]
    wanted += [f"videos/{key}/{name}" for key in cameras for name in ("chunk_index", "file_index", "from_timestamp")]
    found, tasks, own, meta = _episodes_of(folder, names, wanted, info.own is not None)
    count = len(meta)
    if count > info.episodes:  # info.json is written last
        count = info.episodes
        text = f"{len(meta) - count} episodes are listed that {INFO} doesn't count."
        problems.append(Problem(Code.LEFT_OVER, NOTE, text, names[-1]))
    found = {column: values[:count] for column, values in found.items()}
    _check_numbers(found, names[0])
    lengths, first = found["length"].astype(np.int64), found["dataset_from_index"].astype(np.int64)
    chunk, file_number = found["data/chunk_index"].astype(np.int64), found["data/file_index"].astype(np.int64)
    _check_order(found["episode_index"], lengths, first, names[0])
    files = list(zip(chunk.tolist(), file_number.tolist(), strict=True))
    begins: dict[tuple[int, int], int] = {}
    for each, start in zip(files, first.tolist(), strict=True):
        begins.setdefault(each, start)
    return Index(
        lengths=lengths,
        first=first,
        chunk=chunk,
        file=file_number,
        offset=first - np.array([begins[each] for each in files], np.int64),
        tasks=tasks[:count],
        videos={
            key: (
                found[f"videos/{key}/chunk_index"].astype(np.int64),
                found[f"videos/{key}/file_index"].astype(np.int64),
                found[f"videos/{key}/from_timestamp"].astype(float),
            )
            for key in cameras
        },
        own=None if own is None else {column: values[:count] for column, values in own.items()},
        meta=meta[:count],
    )


def _episodes_of(
    folder: Path, names: Sequence[str], wanted: Sequence[str], ours: bool
) -> tuple[dict[str, np.ndarray], list[list[str]], dict[str, list[Any]] | None, list[tuple[str, int, int]]]:
    """What the files of episodes list: the wanted columns, each episode's sentences, what is our own of it (None where
    a file has it not), and where its row lies: file, row group, row.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    tasks: list[list[str]] = []
    own: dict[str, list[Any]] = {f"{OWN}/{name}": [] for name in OWN_EPISODE} | {MISSING: []}
    labels: list[str | None] = []
    meta: list[tuple[str, int, int]] = []
    for name in names:
        with parquet(folder, name) as file:
            held = set(file.schema_arrow.names)
            if len(meta) + file.metadata.num_rows > MOST_EPISODES:
                raise LeRobotError(Code.TOO_LARGE, f"It lists more than {MOST_EPISODES} episodes.")
            if lost := [column for column in wanted if column not in held]:
                raise LeRobotError(
                    Code.FILE_BROKEN, f"The column {shown(lost[0])} is missing. Copy or convert the dataset anew."
                )
            ours = ours and held.issuperset(own)
            columns = [*wanted, *(["tasks"] if "tasks" in held else []), *(own if ours else [])]
            table = bounded_read(file, columns)
            for column in wanted:
                with _of_field(column):
                    parts[column].append(numbers_of(table[column]))
            said = table["tasks"].to_pylist() if "tasks" in held else [[]] * table.num_rows
            tasks += [_sentences(each) for each in said]
            if ours:
                for column, values in own.items():
                    values += table[column].to_pylist()
                told = LABELS in held
                labels += bounded_read(file, [LABELS])[LABELS].to_pylist() if told else [None] * table.num_rows
            for group in range(file.metadata.num_row_groups):
                meta += [(name, group, row) for row in range(file.metadata.row_group(group).num_rows)]
    found = {column: np.concatenate(each) for column, each in parts.items()}
    return found, tasks, own | {LABELS: labels} if ours else None, meta


def _check_numbers(found: Mapping[str, np.ndarray], file: str) -> None:
    """Whole numbers, or seconds, of 0 or more."""
    for column, held_numbers in found.items():
        whole = not column.endswith("timestamp")
        usable = np.isfinite(held_numbers.astype(float)).all() and held_numbers.min(initial=0) >= 0
        if not usable or (whole and held_numbers.dtype.kind not in "iu"):
            text = "It must hold whole numbers, 0 or more." if whole else "It must hold seconds, 0 or more."
            raise _wrong(column, text, file)


def _check_order(numbers: np.ndarray, lengths: np.ndarray, first: np.ndarray, file: str) -> None:
    """Episodes 0, 1, 2, ..., whose rows lie one after the other."""
    if lengths.max(initial=0) > MOST_ROWS or first.max(initial=0) > MOST_ROWS:
        raise LeRobotError(Code.TOO_LARGE, f"It tells of more than {MOST_ROWS} rows.", file=file)
    if (numbers != np.arange(len(numbers))).any():
        raise LeRobotError(Code.ROWS_DISAGREE, "The episodes must be numbered 0, 1, 2, ...", file=file)
    if (lengths < 1).any():
        text = "It has no row. Delete it with LeRobot's lerobot-edit-dataset."
        raise LeRobotError(Code.NO_ROWS, text, file=file, episode=int((lengths < 1).argmax()))
    if (wrong := first != np.cumsum(lengths) - lengths).any():
        raise LeRobotError(
            Code.ROWS_DISAGREE,
            "Its rows don't begin where those of the episode before end. Convert the dataset anew.",
            file=file,
            episode=int(wrong.argmax()),
            field="dataset_from_index",
        )


@contextlib.contextmanager
def _of_field(name: str) -> Iterator[None]:
    try:
        yield
    except LeRobotError as error:
        raise error.at(field=name) from None


def _sentences(told: Any) -> list[str]:
    return [each for each in told if isinstance(each, str)] if isinstance(told, list) else []


def read_tasks(folder: Path, info: Info) -> dict[int, str]:
    """The sentences by their numbers."""
    if info.version[0] == 2:
        found = {}
        for told in read_lines(folder, OLD_TASKS):
            if not isinstance(task := told.get("task"), str):
                raise _wrong("task", "It must be a sentence.", OLD_TASKS)
            found[_whole(told, "task_index", 0, MOST_TASKS, file=OLD_TASKS)] = task
        return found
    with parquet(folder, TASKS) as file:
        if file.metadata.num_rows > MOST_TASKS:
            raise LeRobotError(Code.TOO_LARGE, f"It lists more than {MOST_TASKS} tasks.")
        names = file.schema_arrow.names
        # pandas names the index's column as it likes; older recordings have it unnamed.
        words = [name for name in names if name != "task_index"]
        if len(names) < 2 or "task_index" not in names:
            raise LeRobotError(Code.FILE_BROKEN, "It needs the columns task_index and task.")
        table = bounded_read(file, ["task_index", words[-1] if "task" not in words else "task"])
        numbers = numbers_of(table["task_index"]).tolist()
        texts = table.column(1 if table.column_names[0] == "task_index" else 0).to_pylist()
    return {int(number): text for number, text in zip(numbers, texts, strict=True) if isinstance(text, str)}


def read_range(folder: Path, info: Info, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(lowest, highest) of each number of a feature as the statistics tell, float64 [n]; None where they don't."""
    size, found = info.features[key].shape[0], None
    try:
        if info.version == (2, 1):
            told = [each["stats"][key] for each in read_lines(folder, OLD_STATISTICS)]
        else:
            told = [read_json(folder, STATISTICS)[key]]
        ends = [[np.array(each[end], float).reshape(-1) for each in told] for end in ("min", "max")]
        found = np.min(ends[0], axis=0), np.max(ends[1], axis=0)
    except (ValueError, KeyError, TypeError, IndexError):  # a policy may miss them; ranges are in the rows too
        return None
    usable = all(each.shape == (size,) and np.isfinite(each).all() for each in found)
    return found if usable and (found[0] <= found[1]).all() else None


def data_file(info: Info, index: Index, episode: int) -> str:
    """Where an episode's rows lie."""
    return _numbered(info.version[0] == 2, info.data_path, int(index.chunk[episode]), int(index.file[episode]))


def video_file(info: Info, index: Index, episode: int, key: str) -> str:
    """Where the pictures of one of its cameras lie."""
    chunk, file, _ = index.videos[key]
    return _numbered(info.version[0] == 2, info.video_path, int(chunk[episode]), int(file[episode]), video_key=key)


def _numbered(old: bool, template: str, chunk: int, file: int, **more: str) -> str:
    if old:
        return filled(template, episode_chunk=chunk, episode_index=file, **more)
    return filled(template, chunk_index=chunk, file_index=file, **more)

"""Episodes -> a LeRobot dataset. Whatever an episode holds comes back when the folder is read (reading.py); only video
is near, not equal, unless it is asked to be lossless.

Memory holds one episode. What is under way has a hidden name; every so many episodes the files of data and video are
finished and named, and then what tells of them, meta/info.json last. So a folder whose writer died is a dataset of the
episodes before, and `resume` goes on after them.
"""

import contextlib
import json
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robots import strict_json
from robots.atomic_files import replacing, write_atomically
from robots.embodiments import ACTION, IMAGES, PICTURE_NAMES, VECTOR, Embodiment, differences
from robots.episodes import ACTORS, Episode, EpisodeError
from robots.lerobot.layout import (
    DATA,
    DATA_MB,
    EPISODES,
    FILES_A_CHUNK,
    INFO,
    LABELS,
    LAST,
    MB,
    MISSING,
    OWN,
    OWN_EPISODE,
    OWN_ROWS,
    STANDARD,
    STATISTICS,
    TASKS,
    VERSION,
    VIDEO,
    VIDEO_MB,
    Code,
    LeRobotError,
    Recorded,
    arrow_type,
    feature,
    filled,
    place_of,
    shown,
)
from robots.lerobot.pictures import PictureError, from_file, resized, to_file
from robots.lerobot.statistics import NAMES, PictureStatistics, Statistics, merged_features, of_numbers, sampled
from robots.lerobot.videos import GROUP, PIXELS, QUALITIES, VideoWriter, even

RECORDED_SIZE = (320, 240)  # of a camera that people watch by, where the first episode has no picture of it
LAST_JPEG_QUALITY = 95
EPISODES_A_GROUP = 10  # rows of meta/episodes that are read at once: each holds a picture of each camera

Progress = Callable[[int, int, str], None]  # done, total (0: not known), of what


@dataclass
class Written:
    """What a folder holds now, and what is to be said of it."""

    episodes: int = 0
    rows: int = 0
    skipped: int = 0  # that were in the folder already
    notes: list[str] = field(default_factory=list)


def write_dataset(
    folder: Path,
    episodes: Iterable[Episode],
    body: Embodiment,
    *,
    cameras: Sequence[str] | None = None,
    quality: str = "high",
    resume: bool = False,
    episodes_a_file: int = 100,
    progress: Progress | None = None,
) -> Written:
    """Write episodes of one body into an empty folder, or after those that an earlier call left there (`resume`).

    `cameras`: those whose recorded JPEGs (Episode.frames) are kept; unless told, those of the first episode. An episode
    that lacks one gets black pictures, and that is noted with it. `quality`: high, small or lossless (videos.py).

    EpisodeError where an episode is wrong, LeRobotError where the folder is; what was complete before stays.
    """
    if quality not in QUALITIES:
        raise ValueError(f"The quality {shown(quality)} is unknown; known are {', '.join(QUALITIES)}.")
    writer = _Writer(Path(folder), body, quality, cameras, episodes_a_file)
    writer.begin(resume)
    total, done = operator.length_hint(episodes, 0), 0
    try:
        for done, episode in enumerate(episodes, 1):
            writer.add(episode)
            if progress is not None:
                progress(done, total, "episodes")
        return writer.finish()
    except BaseException as error:
        writer.give_up(error)
        raise


class _Part:
    """The files of data and video that are under way. They get their names together, once all are whole."""

    def __init__(
        self, folder: Path, number: int, schema: pa.Schema, videos: Mapping[str, Callable[[Path], VideoWriter]]
    ):
        chunk, file = divmod(number, FILES_A_CHUNK)
        self.place = {"chunk_index": chunk, "file_index": file}
        self.episodes: list[dict[str, Any]] = []  # rows of meta/episodes
        self.statistics: list[dict[str, Statistics]] = []
        self.torn = False  # an episode stands there by half
        self._files = contextlib.ExitStack()
        self._sink = pa.OSFile(str(self._new(place_of(folder, filled(DATA, **self.place)))), "wb")
        self._data = pq.ParquetWriter(self._sink, schema, compression="snappy", use_dictionary=True)
        self.videos = {
            key: make(self._new(place_of(folder, filled(VIDEO, video_key=key, **self.place))))
            for key, make in videos.items()
        }
        self._sizes = dict.fromkeys(("data", *self.videos), 0)  # bytes
        self._largest = self._sizes  # of an episode

    def _new(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return self._files.enter_context(replacing(path))

    def write(self, rows: pa.Table) -> None:
        """The rows of an episode whose pictures are written, in a group of their own."""
        self._data.write_table(rows, row_group_size=rows.num_rows)
        sizes = {"data": self._sink.tell(), **{key: video.size for key, video in self.videos.items()}}
        self._largest = {key: max(size - self._sizes[key], self._largest[key]) for key, size in sizes.items()}
        self._sizes = sizes

    @property
    def full(self) -> bool:
        """Whether another episode, as large as the largest until now, might make a file larger than it may be."""
        most = {key: (DATA_MB if key == "data" else VIDEO_MB) * MB for key in self._sizes}
        return any(size + self._largest[key] > most[key] for key, size in self._sizes.items())

    def close(self) -> None:
        """Finish the files and give them their names."""
        self._data.close()
        self._sink.close()
        for video in self.videos.values():
            video.close()
        self._files.close()

    def abandon(self, error: BaseException) -> None:
        """Remove them."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._data.close()
            self._sink.close()
        for video in self.videos.values():
            video.abandon()
        with contextlib.suppress(type(error)):
            self._files.__exit__(type(error), error, error.__traceback__)


class _Writer:
    def __init__(
        self, folder: Path, body: Embodiment, quality: str, cameras: Sequence[str] | None, episodes_a_file: int
    ):
        self.folder, self.body, self.quality = folder, body, quality
        self.cameras, self.episodes_a_file = cameras, episodes_a_file
        self.recorded: dict[str, Recorded] | None = None  # by key; None until the first episode
        self.features: dict[str, Any] = {}
        self.tasks: dict[str, int] = {}
        self.uuids: set[str] = set()
        self.statistics: dict[str, Statistics] = {}
        self.written = Written()
        self.number = 0  # of the next part
        self.part: _Part | None = None
        self.resized: dict[str, str] = {}
        self.unreadable: dict[str, int] = {}  # JPEGs of a camera

    # The folder

    def begin(self, resume: bool) -> None:
        """Look at what is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not resume and any(self.folder.iterdir()):
            raise LeRobotError(
                Code.FIELD_WRONG,
                f"The folder {shown(self.folder.name)} is not empty. Choose another one, or resume what was begun "
                "there.",
            )
        if resume and (self.folder / INFO).exists():
            self._take_up()
        for left in (path for top in ("data", "videos", "meta") for path in (self.folder / top).rglob(".*.tmp")):
            left.unlink(missing_ok=True)  # of a writer that died

    def _take_up(self) -> None:
        """Go on after the episodes that are complete."""
        try:
            info = strict_json.loads((self.folder / INFO).read_bytes())
            own = info[OWN]
            same = own["body"] == json.loads(json.dumps(self.body.to_json())) and own["quality"] == self.quality
            recorded = {key: Recorded(**each) for key, each in own["recorded"].items()}
            count, rows = int(info["total_episodes"]), int(info["total_frames"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise LeRobotError(
                Code.FIELD_WRONG, "This dataset is not one that was begun here; write into an empty folder.", file=INFO
            ) from None
        if not same:
            raise LeRobotError(
                Code.FIELD_WRONG,
                f"What was begun there is of another body than {self.body.name}, or of another quality of video; write "
                "into an empty folder.",
                file=INFO,
            )
        self._declare(recorded)
        told = [f"stats/{key}/{name}" for key in self.features for name in NAMES]
        columns = ["episode_index", "tasks", "data/chunk_index", "data/file_index", f"{OWN}/uuid", *told]
        for path in sorted((self.folder / "meta/episodes").glob("*/*.parquet")):
            for row in pq.read_table(path, columns=columns).to_pylist():
                if row["episode_index"] >= count:
                    continue  # info.json, which is written last, doesn't know of it
                self.uuids.add(row[f"{OWN}/uuid"])
                self.tasks.setdefault(row["tasks"][0], len(self.tasks))
                self.number = row["data/chunk_index"] * FILES_A_CHUNK + row["data/file_index"] + 1
                self._count(
                    {key: {name: np.array(row[f"stats/{key}/{name}"]) for name in NAMES} for key in self.features}
                )
        self.written.episodes, self.written.rows = count, rows
        chunk, file = divmod(self.number, FILES_A_CHUNK)
        for template in (EPISODES, DATA, *(VIDEO.replace("{video_key}", key) for key in self.features)):
            place_of(self.folder, filled(template, chunk_index=chunk, file_index=file)).unlink(missing_ok=True)

    def _declare(self, recorded: dict[str, Recorded]) -> None:
        """What each row has, once it is known which cameras people watched by."""
        self.recorded = recorded
        pixels = PIXELS[QUALITIES[self.quality][1]]
        sizes = {key: (each.shape[1], each.shape[0]) for key, each in self.body.observation.items() if each.is_picture}
        self.sizes = sizes | {key: (each.width, each.height) for key, each in recorded.items()}
        vectors = {key: each for key, each in self.body.observation.items() if not each.is_picture}
        self.features = {
            **{
                key: feature(VECTOR, each.shape, each.names)
                for key, each in (vectors | {ACTION: self.body.action}).items()
            },
            **{key: _video(*size, self.body.fps, pixels) for key, size in self.sizes.items()},
            **{key: feature(dtype, (1,), None) for key, dtype in (OWN_ROWS | STANDARD).items()},
        }
        self.rows_schema = pa.schema(
            [
                pa.field(key, arrow_type(each["dtype"], tuple(each["shape"])))
                for key, each in self.features.items()
                if each["dtype"] != "video"
            ]
        )
        self.episodes_schema = _episodes_schema(self.features, [*vectors], [*self.sizes])

    def _recorded(self, first: Episode) -> dict[str, Recorded]:
        """The cameras that people watch by, by the keys that their videos get."""
        found: dict[str, Recorded] = {}
        for camera in self.cameras if self.cameras is not None else sorted(first.frames):
            name = re.sub(r"[^\w.-]", "_", camera)  # which becomes a folder's
            while IMAGES + name in {*self.body.observation, *found}:
                name += "_recorded"
            width, height = RECORDED_SIZE
            if (decoded := _decoded(next(iter(first.frames.get(camera, ())), None))) is not None:
                height, width = decoded.shape[:2]
            else:
                for view in self.body.views:
                    if view.name == camera:
                        scale = min(1, width / view.width, height / view.height)
                        width, height = max(1, int(view.width * scale)), max(1, int(view.height * scale))
            found[IMAGES + name] = Recorded(camera, width, height)
        return found

    # Episodes

    def add(self, episode: Episode) -> None:
        """Write one episode, unless it is there already."""
        if episode.uuid in self.uuids:
            self.written.skipped += 1
            return
        self._check(episode)
        if self.recorded is None:
            self._declare(self._recorded(episode))
        self._check_cameras(episode)
        if self.part is None:
            makers = {key: self._video_maker(*size) for key, size in self.sizes.items()}
            self.part = _Part(self.folder, self.number, self.rows_schema, makers)
        self.part.torn = True
        self._write(episode, self.part)
        self.part.torn = False
        self.uuids.add(episode.uuid)
        if len(self.part.episodes) >= self.episodes_a_file or self.part.full:
            self._seal()

    def _video_maker(self, width: int, height: int) -> Callable[[Path], VideoWriter]:
        return lambda path: VideoWriter(path, width, height, self.body.fps, self.quality)

    def _check(self, episode: Episode) -> None:
        episode.validate()
        episode.check_shapes(self.body)
        if episode.body is not None and (changed := differences(episode.body, self.body)):
            raise EpisodeError(
                f"Episode {episode.uuid}, field body: it is of {self.body.name} as it was otherwise: "
                f"{'; '.join(changed)}. Write it into another dataset."
            )

    def _check_cameras(self, episode: Episode) -> None:
        known = {each.camera for each in (self.recorded or {}).values()}
        if unknown := sorted(set(episode.frames) - known):
            raise EpisodeError(
                f"Episode {episode.uuid}, field frames: it has pictures of {shown(', '.join(unknown))}, of which the "
                "first episode had none; name all cameras beforehand (cameras=...)."
            )

    def _write(self, episode: Episode, part: _Part) -> None:
        steps, index = episode.steps, self.written.episodes + len(part.episodes)
        first = self.written.rows + sum(each["length"] for each in part.episodes)
        task = self.tasks.setdefault(episode.instruction, len(self.tasks))
        columns = self._columns(episode, index, first, task)
        arrays = [_column(columns[each.name], each.type) for each in self.rows_schema]
        statistics = {key: of_numbers(column.reshape(steps, -1)) for key, column in columns.items()}
        row: dict[str, Any] = {
            "episode_index": index,
            **{f"data/{name}": number for name, number in part.place.items()},
            "dataset_from_index": first,
            "dataset_to_index": first + steps,
            "tasks": [episode.instruction],
            "length": steps,
            **{f"meta/episodes/{name}": number for name, number in part.place.items()},
            **{f"{OWN}/{name}": getattr(episode, name) for name in OWN_EPISODE},
            LABELS: strict_json.dumps(episode.labels) if episode.labels else "",
            MISSING: [],
            f"{LAST}steps_to_go": episode.steps_to_go[-1],
        }
        for key in self.body.observation:
            if key not in self.sizes:
                row[LAST + key] = episode.observations[key][-1]
        for key, video in part.videos.items():
            before = video.frames
            statistics[key], row[LAST + key] = self._film(episode, key, video)
            row |= {f"videos/{key}/{name}": number for name, number in part.place.items()}
            row[f"videos/{key}/from_timestamp"] = before / self.body.fps
            row[f"videos/{key}/to_timestamp"] = (before + steps) / self.body.fps
            if row[LAST + key] is None:
                row[MISSING].append((self.recorded or {})[key].camera)
        for key, each in statistics.items():
            row |= {f"stats/{key}/{name}": value.tolist() for name, value in each.items()}
        part.write(pa.table(arrays, schema=self.rows_schema))
        part.episodes.append(row)
        part.statistics.append(statistics)

    def _columns(self, episode: Episode, index: int, first: int, task: int) -> dict[str, np.ndarray]:
        """Of the data files: [T, n] or [T] each."""
        steps, d = episode.steps, episode.steps_to_go
        rows = np.arange(steps)
        by_hand = episode.actors == ACTORS.index("human")
        vectors = {key: episode.observations[key][:-1] for key in self.body.observation if key not in self.sizes}
        return {
            **vectors,
            ACTION: episode.actions,
            "next.reward": np.nan_to_num(d[:-1] - d[1:], nan=0.0),
            "next.done": rows == steps - 1,
            # Who shows how it is done takes nothing over.
            "intervention": by_hand & (episode.purpose != "demonstration"),
            "actor": episode.actors.astype(np.int64),
            "steps_to_go": d[:-1],
            "fenced": episode.fenced.astype(bool),
            "timestamp": (rows / self.body.fps).astype(np.float32),
            "frame_index": rows,
            "episode_index": np.full(steps, index),
            "index": first + rows,
            "task_index": np.full(steps, task),
        }

    def _film(self, episode: Episode, key: str, video: VideoWriter) -> tuple[Statistics, bytes | None]:
        """Write T pictures of a camera; their statistics, and the picture of the end as a file: exactly what was
        recorded, or None where nothing was.
        """
        counted, found = sampled(episode.steps), PictureStatistics()
        watched = (self.recorded or {}).get(key)
        if watched is None:
            seen = episode.observations[key]
            taken: Iterator[np.ndarray] = iter(seen[:-1])
            last: bytes | None = to_file(seen[-1], None if self.quality == "lossless" else LAST_JPEG_QUALITY)
        else:
            jpegs = episode.frames.get(watched.camera, [])
            taken = self._recorded_pictures(episode, jpegs[:-1], watched)
            last = jpegs[-1] if jpegs else None
        for number, picture in enumerate(taken):
            video.write(picture, first=number == 0)
            if number in counted:
                found.add(picture)
        return found.result(), last

    def _recorded_pictures(self, episode: Episode, jpegs: Sequence[bytes], camera: Recorded) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3] of each JPEG. Black where there is none; one that can't be read repeats the one before."""
        picture = np.zeros((camera.height, camera.width, 3), np.uint8)
        if not jpegs:
            yield from (picture for _ in range(episode.steps))
        before = None
        for jpeg in jpegs:
            if jpeg is not before:
                before = jpeg
                decoded = _decoded(jpeg)
                if decoded is None:
                    self.unreadable[camera.camera] = self.unreadable.get(camera.camera, 0) + 1
                elif decoded.shape != picture.shape:
                    self.resized[camera.camera] = f"{camera.width}x{camera.height}"
                    picture = resized(decoded, (camera.width, camera.height))
                else:
                    picture = decoded
            yield picture

    # The end of a part, and of all

    def _count(self, episode: dict[str, Statistics]) -> None:
        self.statistics = merged_features([self.statistics, episode]) if self.statistics else episode

    def _seal(self) -> None:
        """Finish the files that are under way, and tell of them: only now are they of the dataset."""
        part = self.part
        if part is None:
            return
        part.torn = True
        part.close()
        self.part = None
        with replacing(self._place(EPISODES, part.place)) as path:
            told = pa.Table.from_pylist(part.episodes, self.episodes_schema)
            pq.write_table(told, path, compression="snappy", row_group_size=EPISODES_A_GROUP)
        for each in part.statistics:
            self._count(each)
        self.number += 1
        self.written.episodes += len(part.episodes)
        self.written.rows += sum(each["length"] for each in part.episodes)
        with replacing(self._place(TASKS, {})) as path:
            pq.write_table(_tasks_table([*self.tasks]), path, compression="snappy")
        stats = {key: {name: value.tolist() for name, value in each.items()} for key, each in self.statistics.items()}
        write_atomically(self._place(STATISTICS, {}), strict_json.dumps(stats, indent=4).encode())
        write_atomically(self._place(INFO, {}), strict_json.dumps(self._info(), indent=4).encode())

    def _place(self, template: str, place: Mapping[str, int]) -> Path:
        path = place_of(self.folder, filled(template, **place))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _info(self) -> dict[str, Any]:
        fps, recorded = self.body.fps, self.recorded or {}
        return {
            "codebase_version": VERSION,
            "robot_type": self.body.name,
            "total_episodes": self.written.episodes,
            "total_frames": self.written.rows,
            "total_tasks": len(self.tasks),
            "chunks_size": FILES_A_CHUNK,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": int(fps) if fps == int(fps) else fps,
            "splits": {"train": f"0:{self.written.episodes}"},
            "data_path": DATA,
            "video_path": VIDEO if self.sizes else None,
            "features": self.features,
            OWN: {
                "body": self.body.to_json(),
                "quality": self.quality,
                "recorded": {key: vars(each) for key, each in recorded.items()},
            },
        }

    def finish(self) -> Written:
        """All is written."""
        if not (self.written.episodes or self.part):
            raise LeRobotError(Code.NO_ROWS, "There is no episode to write; a dataset needs at least one.")
        self._seal()
        for camera, count in self.unreadable.items():
            self.written.notes.append(
                f"Of the camera {shown(camera)} {count} recorded pictures can't be read: each shows the one before."
            )
        for camera, size in self.resized.items():
            self.written.notes.append(
                f"Some pictures of the camera {shown(camera)} were made {size}: a video has one size."
            )
        return self.written

    def give_up(self, error: BaseException) -> None:
        """Keep the episodes that are whole."""
        if self.part is not None and self.part.torn:
            self.part.abandon(error)
        else:
            self._seal()


def _video(width: int, height: int, fps: float, pixels: str) -> dict[str, Any]:
    width, height = even(width), even(height)
    info = {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": pixels,
        "video.fps": int(fps) if fps == int(fps) else fps,
        "video.channels": 3,
        "video.g": GROUP,
        "has_audio": False,
        "is_depth_map": False,
    }
    return feature("video", (height, width, 3), PICTURE_NAMES, info=info)


def _episodes_schema(features: Mapping[str, Any], vectors: Collection[str], pictures: Collection[str]) -> pa.Schema:
    """Of meta/episodes."""
    number, numbers = pa.int64(), pa.list_(pa.float64())
    colours = pa.list_(pa.list_(numbers))
    columns = {"episode_index": number, "data/chunk_index": number, "data/file_index": number}
    columns |= {"dataset_from_index": number, "dataset_to_index": number}
    for key in pictures:
        columns |= {f"videos/{key}/chunk_index": number, f"videos/{key}/file_index": number}
        columns |= {f"videos/{key}/from_timestamp": pa.float64(), f"videos/{key}/to_timestamp": pa.float64()}
    columns |= {"tasks": pa.list_(pa.string()), "length": number}
    for key in features:
        for name in NAMES:
            kind = pa.list_(number) if name == "count" else colours if key in pictures else numbers
            columns[f"stats/{key}/{name}"] = kind
    columns |= {"meta/episodes/chunk_index": number, "meta/episodes/file_index": number}
    columns |= {f"{OWN}/{name}": kind for name, kind in OWN_EPISODE.items()} | {LABELS: pa.string()}
    columns |= {MISSING: pa.list_(pa.string()), f"{LAST}steps_to_go": pa.float32()}
    columns |= {LAST + key: pa.list_(pa.float32()) for key in vectors}
    columns |= {LAST + key: pa.binary() for key in pictures}
    return pa.schema(columns)


def _column(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values.reshape(-1), kind)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)


def _tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Row i is task i. LeRobot reads it by pandas, whose index is the sentence: the schema's metadata says so."""
    described = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": {"encoding": "UTF-8"},
            }
        ],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in described
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.3",
    }
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], {"pandas": json.dumps(pandas)})
    return pa.table([pa.array(range(len(tasks)), pa.int64()), pa.array(tasks, pa.string())], schema=schema)


def _decoded(jpeg: bytes | None) -> np.ndarray | None:
    """uint8 [H, W, 3]; None where it is no picture."""
    try:
        return from_file(jpeg)
    except PictureError:
        return None

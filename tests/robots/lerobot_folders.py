"""Datasets as other programs leave them: LeRobot's v3.0 and v2.1, written here with pyarrow alone."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from robots.lerobot.videos import VideoWriter

JOINTS = [f"{joint}.pos" for joint in ("pan", "lift", "elbow", "flex", "roll", "gripper")]
STANDARD = {"timestamp": "float32", **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")}
SIZE = 32, 24  # of the cameras' pictures, width and height


def picture(number, camera=0, size=SIZE):
    """uint8 [H, W, 3]; smooth, so that video is near it, and unlike every other."""
    width, height = size
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)
    return np.stack([(ramp + 57 * number) % 200, np.full_like(ramp, 40 * camera), 200 - ramp], axis=-1).astype(np.uint8)


def arm(rows, seed=0):
    """(state, action) [n, 6] of an arm that goes, a row later, to where it is told to."""
    rng = np.random.default_rng(seed)
    action = np.cumsum(rng.normal(size=(rows, 6)), axis=0).astype(np.float32)
    state = np.vstack([np.zeros((1, 6), np.float32), action[:-1]]) + rng.normal(scale=0.02, size=(rows, 6))
    return state.astype(np.float32), action


def features(cameras=("front", "wrist"), vectors=None, dtype="video", **more):
    vectors = {"observation.state": JOINTS, "action": JOINTS} if vectors is None else vectors
    width, height = SIZE
    found = {key: {"dtype": "float32", "shape": [len(names)], "names": names} for key, names in vectors.items()}
    for camera in cameras:
        found[f"observation.images.{camera}"] = {
            "dtype": dtype, "shape": [height, width, 3], "names": ["height", "width", "channels"],
        }  # fmt: skip
    return found | more | {key: {"dtype": kind, "shape": [1], "names": None} for key, kind in STANDARD.items()}


def episode(rows=12, seed=0, tasks=("put the cube down",), **columns):
    state, action = arm(rows, seed)
    return {"tasks": list(tasks), "rows": rows, "columns": {"observation.state": state, "action": action, **columns}}


def write(folder, episodes, *, declared=None, fps=10, version="v3.0", statistics=True, videos=True, **info):
    """The folder of a dataset; `columns` of an episode are arrays [n, ...], and become Arrow's types by their dtype."""
    declared = features() if declared is None else declared
    folder = Path(folder)
    old = version != "v3.0"
    cameras = [key for key, each in declared.items() if each["dtype"] == "video"]
    images = [key for key, each in declared.items() if each["dtype"] == "image"]
    sentences = list(dict.fromkeys(task for each in episodes for task in each["tasks"]))
    tables, index, told = [], 0, []
    for number, each in enumerate(episodes):
        count = each["rows"]
        columns = dict(each["columns"])
        for key in images:
            columns[key] = [png(picture(row, images.index(key))) for row in range(count)]
        columns |= {
            "timestamp": (np.arange(count) / fps).astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, number),
            "index": index + np.arange(count),
            "task_index": np.full(count, sentences.index(each["tasks"][0]) if each["tasks"] else 0),
        } | each.get("standard", {})
        tables.append(pa.table({key: column(values) for key, values in columns.items()}))
        told.append({"episode_index": number, "tasks": each["tasks"], "length": count, "from": index})
        index += count
    held = [each["columns"]["action"] for each in episodes if "action" in each["columns"]]
    actions = np.concatenate([np.array(each.tolist(), float) for each in held] or [[]])
    stats = {"action": {end: getattr(actions, end)(axis=0).tolist() for end in ("min", "max")}} if len(actions) else {}
    more = {"total_chunks": 1, "total_videos": len(cameras) * len(episodes)} if old else {}
    write_json(folder / "meta/info.json", {
        "codebase_version": version, "robot_type": "so101_follower", "fps": fps, "features": declared,
        "total_episodes": len(episodes), "total_frames": index, "total_tasks": len(sentences), "chunks_size": 1000,
        "splits": {"train": f"0:{len(episodes)}"}, **more, **info,
    })  # fmt: skip
    if old:
        _write_old(folder, told, tables, sentences, stats, statistics)
    else:
        _write_new(folder, told, tables, sentences, cameras, fps)
        if statistics:
            write_json(folder / "meta/stats.json", stats)
    if videos:
        for place, key in enumerate(cameras):
            if old:
                for each in told:
                    name = f"videos/chunk-000/{key}/episode_{each['episode_index']:06d}.mp4"
                    film(folder / name, range(each["length"]), place, fps)
            else:
                name = f"videos/{key}/chunk-000/file-000.mp4"
                film(folder / name, [i for each in told for i in range(each["length"])], place, fps)
    return folder


def _write_new(folder, told, tables, sentences, cameras, fps):
    (folder / "data/chunk-000").mkdir(parents=True)
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), folder / "data/chunk-000/file-000.parquet")
    rows = []
    for each in told:
        begin, length = each.pop("from"), each["length"]
        row = each | {"data/chunk_index": 0, "data/file_index": 0}
        row |= {"dataset_from_index": begin, "dataset_to_index": begin + length}
        for key in cameras:
            row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
            row |= {f"videos/{key}/from_timestamp": begin / fps, f"videos/{key}/to_timestamp": (begin + length) / fps}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), folder / "meta/episodes/chunk-000/file-000.parquet")
    # As pandas writes an index without a name.
    tasks = pa.table({"task_index": pa.array(range(len(sentences)), pa.int64()), "__index_level_0__": sentences})
    pq.write_table(tasks, folder / "meta/tasks.parquet")


def _write_old(folder, told, tables, sentences, stats, statistics):
    (folder / "data/chunk-000").mkdir(parents=True)
    for each, table in zip(told, tables, strict=True):
        each.pop("from")
        pq.write_table(table, folder / f"data/chunk-000/episode_{each['episode_index']:06d}.parquet")
    write_lines(folder / "meta/episodes.jsonl", told)
    write_lines(folder / "meta/tasks.jsonl", [{"task_index": i, "task": each} for i, each in enumerate(sentences)])
    if statistics:
        lines = [{"episode_index": each["episode_index"], "stats": stats} for each in told]
        write_lines(folder / "meta/episodes_stats.jsonl", lines)


def column(values):
    if isinstance(values, (list, pa.Array)):
        return values
    return (
        pa.array(values.tolist(), pa.list_(pa.from_numpy_dtype(values.dtype))) if values.ndim > 1 else pa.array(values)
    )


def film(path, numbers, camera, fps):
    path.parent.mkdir(parents=True, exist_ok=True)
    video = VideoWriter(path, *SIZE, fps, "high")
    for number in numbers:
        video.write(picture(number, camera), first=number == 0)
    video.close()


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write_json(path, told):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

"""LeRobot datasets: what is written, read by pyarrow and PyAV alone; what comes back; crashes, memory, the commands."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import uuid

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from robots.__main__ import main
from robots.embodiments import ENVIRONMENT_STATE, IMAGES, STATE, Camera, DriveAxis, Embodiment, Motion, picture, vector
from robots.episodes import LABEL_SOURCES, Episode, EpisodeError, label, read_episodes, write_episodes
from robots.lerobot import writing
from robots.lerobot.checking import check
from robots.lerobot.layout import OWN_EPISODE, Code, LeRobotError
from robots.lerobot.reading import open_dataset
from robots.lerobot.statistics import merged, of_numbers
from robots.lerobot.videos import rate
from robots.lerobot.writing import write_dataset
from tests.robots.lerobot_folders import picture as scene
from tests.robots.test_episodes import assert_same

JOINTS = ("pan.pos", "lift.pos", "gripper.pos")
BODY = Embodiment(
    name="my_arm",
    fps=12.5,
    observation={STATE: vector(JOINTS, [-90, -90, 0], [90, 90, 100]), IMAGES + "wrist": picture(33, 25)},
    action=vector(JOINTS, [-90, -90, 0], [90, 90, 100], ["deg", "deg", "%"]),
    motions=tuple(Motion("position", largest_change=3.0, sensed_by=name) for name in JOINTS),
    drive=(DriveAxis("gripper", "gripper.pos"), DriveAxis("pan.pos", "pan.pos")),
    views=(Camera("front of/it", 640, 480), Camera("side", 40, 30)),
)


def make_episode(steps=5, number=0, body=BODY, **changes):
    rng = np.random.default_rng(number)
    observations = {}
    for key, feature in body.observation.items():
        if feature.is_picture:
            height, width, _ = feature.shape
            observations[key] = np.stack([scene(number + i, 1, (width, height)) for i in range(steps + 1)])
        else:
            observations[key] = rng.normal(size=(steps + 1, *feature.shape)).astype(np.float32)
    values = {
        "uuid": str(uuid.UUID(int=number + 7)), "embodiment": body.name, "body": body, "task": "tidy_up",
        "instruction": ("lift it", "put it down")[number % 2], "observations": observations,
        "actions": rng.normal(size=(steps, body.action_size)).astype(np.float32),
        "actors": np.zeros(steps, np.uint8), "steps_to_go": rng.normal(size=steps + 1).astype(np.float32),
        "ending": "time_limit", "detected_success": False, "true_success": None, "purpose": "practice",
        "policy": "a policy", "reward_model": "its judge", "threshold": 2.5, "seed": 3 + number, "started_at": 1.5,
        "fps": 12.4, "interventions": 2,
    }  # fmt: skip
    return Episode(**values | changes)


def jpeg(number, size=(40, 30)):
    file = io.BytesIO()
    Image.fromarray(scene(number, 2, size)).save(file, "JPEG", quality=90)
    return file.getvalue()


def problems(folder, *levels):
    return [(each.code, each.level) for each in check(folder) if not levels or each.level in levels]


# What lies in the folder


def read_info(folder):
    return json.loads((folder / "meta/info.json").read_text())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Seven episodes in three files each; a person takes over in the third, and the fifth lacks a camera."""
    folder = tmp_path_factory.mktemp("written")
    episodes = []
    for i in range(7):
        frames = {} if i == 4 else {"side": [jpeg(i + j) for j in range(i + 2)]}
        episodes.append(make_episode(i + 1, i, frames=frames))
    episodes[2] = dataclasses.replace(
        episodes[2], actors=np.array([0, 1, 1], np.uint8), fenced=np.array([1, 0, 0], np.uint8)
    )
    episodes[3].steps_to_go[1] = np.nan
    told = []
    report = write_dataset(folder, episodes, BODY, episodes_a_file=3, progress=lambda *each: told.append(each))
    assert (report.episodes, report.rows, report.skipped) == (7, 28, 0)
    assert told == [(i, 7, "episodes") for i in range(1, 8)]
    return folder, episodes


def test_the_files_are_those_of_the_format_and_no_others(written):
    folder, _ = written
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    parts = [f"chunk-000/file-{i:03d}" for i in range(3)]
    assert names == {
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        *(f"meta/episodes/{part}.parquet" for part in parts),
        *(f"data/{part}.parquet" for part in parts),
        *(f"videos/{IMAGES}{camera}/{part}.mp4" for part in parts for camera in ("wrist", "side")),
    }


def test_info_declares_every_feature(written):
    info = read_info(written[0])
    assert {key: value for key, value in info.items() if key not in ("features", "fleetui")} == {
        "codebase_version": "v3.0", "robot_type": "my_arm", "fps": 12.5, "splits": {"train": "0:7"},
        "total_episodes": 7, "total_frames": 28, "total_tasks": 2,
        "chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    features = info["features"]
    own = {"next.reward": "float32", "next.done": "bool", "intervention": "bool", "actor": "int64",
           "steps_to_go": "float32", "fenced": "bool"}  # fmt: skip
    standard = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
                "task_index": "int64"}  # fmt: skip
    for key in (STATE, "action"):
        assert features[key] == {"dtype": "float32", "shape": [3], "names": list(JOINTS)}
    for key, dtype in (own | standard).items():
        assert features[key] == {"dtype": dtype, "shape": [1], "names": None}
    assert list(features)[-5:] == list(standard)
    wrist = features[IMAGES + "wrist"]
    assert (wrist["dtype"], wrist["shape"], wrist["names"]) == ("video", [26, 34, 3], ["height", "width", "channels"])
    told = wrist["info"]
    assert (told["video.codec"], told["video.pix_fmt"], told["video.fps"]) == ("h264", "yuv420p", 12.5)
    assert (told["video.height"], told["video.width"], told["video.channels"]) == (26, 34, 3)
    assert told["has_audio"] is False and told["is_depth_map"] is False
    assert features[IMAGES + "side"]["shape"] == [30, 40, 3]
    assert not any("/" in key for key in features)


def test_rows_have_the_types_and_numbers_of_the_format(written):
    folder, episodes = written
    index = 0
    for path, of_file in zip(
        sorted(folder.glob("data/*/*.parquet")), (episodes[:3], episodes[3:6], episodes[6:]), strict=True
    ):
        file = pq.ParquetFile(path)
        declared = {key for key, each in read_info(folder)["features"].items() if each["dtype"] != "video"}
        assert set(file.schema_arrow.names) == declared
        assert file.schema_arrow.field("action").type == pa.list_(pa.float32(), 3)
        for key in ("next.reward", "steps_to_go", "timestamp"):
            assert file.schema_arrow.field(key).type == pa.float32()
        assert file.schema_arrow.field("task_index").type == pa.int64()
        assert file.schema_arrow.field("fenced").type == pa.bool_()
        assert file.metadata.row_group(0).column(0).compression == "SNAPPY"
        assert file.num_row_groups == len(of_file), "one an episode, for access at random"
        for group, episode in enumerate(of_file):
            rows = file.read_row_group(group).to_pydict()
            steps = episode.steps
            assert rows["frame_index"] == list(range(steps))
            assert rows["index"] == list(range(index, index + steps))
            assert set(rows["episode_index"]) == {episodes.index(episode)}
            np.testing.assert_array_equal(rows["timestamp"], (np.arange(steps) / 12.5).astype(np.float32))
            np.testing.assert_array_equal(rows["action"], episode.actions)
            np.testing.assert_array_equal(rows[STATE], episode.observations[STATE][:-1])
            np.testing.assert_array_equal(rows["steps_to_go"], episode.steps_to_go[:-1])
            d = episode.steps_to_go
            np.testing.assert_array_equal(rows["next.reward"], np.nan_to_num(d[:-1] - d[1:]))
            assert rows["next.done"] == [False] * (steps - 1) + [True]
            assert rows["actor"] == episode.actors.tolist()
            assert rows["intervention"] == (episode.actors == 1).tolist()
            assert rows["fenced"] == episode.fenced.astype(bool).tolist()
            assert set(rows["task_index"]) == {("lift it", "put it down").index(episode.instruction)}
            index += steps


def test_who_shows_how_it_is_done_takes_nothing_over(tmp_path):
    by_hand = make_episode(3, actors=np.ones(3, np.uint8), purpose="demonstration", ending="operator")
    mending = make_episode(2, 1, actors=np.ones(2, np.uint8), purpose="correction", ending="operator")
    write_dataset(tmp_path, [by_hand, mending], BODY)
    dataset = open_dataset(tmp_path)
    assert [dataset.rows(i, ["intervention"])["intervention"].tolist() for i in (0, 1)] == [[False] * 3, [True] * 2]


def test_tasks_are_an_index_of_pandas(written):
    table = pq.read_table(written[0] / "meta/tasks.parquet")
    assert table.to_pydict() == {"task_index": [0, 1], "task": ["lift it", "put it down"]}
    assert (table.schema.field("task_index").type, table.schema.field("task").type) == (pa.int64(), pa.string())
    pandas = json.loads(table.schema.metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]
    assert [(each["name"], each["pandas_type"]) for each in pandas["columns"]] == [
        ("task_index", "int64"), ("task", "unicode"),
    ]  # fmt: skip


def episode_rows(folder):
    return [row for path in sorted(folder.glob("meta/episodes/*/*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_episodes_say_where_they_lie_and_all_that_is_recorded_of_them(written):
    folder, episodes = written
    begin = 0
    for i, (row, episode) in enumerate(zip(episode_rows(folder), episodes, strict=True)):
        assert row["episode_index"] == i and row["length"] == episode.steps and row["tasks"] == [episode.instruction]
        for place in ("data", "meta/episodes", f"videos/{IMAGES}wrist", f"videos/{IMAGES}side"):
            assert (row[f"{place}/chunk_index"], row[f"{place}/file_index"]) == (0, i // 3)
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (begin, begin + episode.steps)
        begin += episode.steps
        start = sum(each.steps for each in episodes[i // 3 * 3 : i]) / 12.5
        for camera in ("wrist", "side"):
            assert row[f"videos/{IMAGES}{camera}/from_timestamp"] == pytest.approx(start, abs=1e-12)
            assert row[f"videos/{IMAGES}{camera}/to_timestamp"] == pytest.approx(start + episode.steps / 12.5)
        for name in ("uuid", "task", "ending", "purpose", "detected_success", "true_success", "policy", "reward_model",
                     "threshold", "seed", "started_at", "fps", "interventions"):  # fmt: skip
            assert row[f"fleetui/{name}"] == getattr(episode, name)
        assert row["fleetui/missing_cameras"] == (["side"] if i == 4 else [])
        assert row[f"fleetui/last/{STATE}"] == episode.observations[STATE][-1].tolist()
        assert row["fleetui/last/steps_to_go"] == episode.steps_to_go[-1]
        assert row[f"fleetui/last/{IMAGES}side"] == (None if i == 4 else episode.frames["side"][-1])
        last = np.asarray(Image.open(io.BytesIO(row[f"fleetui/last/{IMAGES}wrist"])))
        assert last.shape == (25, 33, 3)


def test_statistics_are_of_all_rows_and_by_lerobots_rule(written):
    folder, episodes = written
    stats, rows = json.loads((folder / "meta/stats.json").read_text()), episode_rows(folder)
    assert set(stats) == set(read_info(folder)["features"])
    actions = np.concatenate([episode.actions for episode in episodes]).astype(float)
    found = {name: np.array(value) for name, value in stats["action"].items()}
    assert set(found) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(found[name], getattr(actions, name)(axis=0), rtol=1e-12)
    assert found["count"].tolist() == [28]
    for name, share, bound in (("q01", 0.01, np.min), ("q50", 0.5, np.min), ("q90", 0.9, np.max)):
        each = [np.quantile(episode.actions.astype(float), share, axis=0) for episode in episodes]
        np.testing.assert_allclose(found[name], bound(each, axis=0))
    np.testing.assert_allclose(rows[3]["stats/action/mean"], episodes[3].actions.astype(float).mean(axis=0))
    assert rows[3]["stats/next.done/count"] == [4] and rows[3]["stats/next.done/max"] == [1.0]
    # d was unknown in one of its four rows: it counts for nothing.
    assert rows[3]["stats/steps_to_go/count"] == [3]
    pictures = episodes[6].observations[IMAGES + "wrist"][:-1].reshape(-1, 3) / 255
    for name in ("min", "max", "mean", "std"):
        told = np.array(rows[6][f"stats/{IMAGES}wrist/{name}"])
        assert told.shape == (3, 1, 1)
        np.testing.assert_allclose(told.ravel(), getattr(pictures, name)(axis=0), atol=1e-9)
    told = np.array(rows[6][f"stats/{IMAGES}wrist/q50"]).ravel()
    np.testing.assert_allclose(told, np.quantile(pictures, 0.5, axis=0, method="inverted_cdf"), atol=1e-9)
    assert rows[6][f"stats/{IMAGES}wrist/count"] == [7]


def test_videos_have_each_picture_at_its_time_and_a_key_frame_at_each_episode(written):
    folder, episodes = written
    for number, of_file in enumerate((episodes[:3], episodes[3:6], episodes[6:])):
        path = folder / f"videos/{IMAGES}wrist/chunk-000/file-{number:03d}.mp4"
        data = path.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat"), "a browser begins before it has the whole file"
        with av.open(str(path)) as container:
            assert len(container.streams) == 1
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt, stream.width, stream.height) == (
                "h264",
                "yuv420p",
                34,
                26,
            )
            frames = [*container.decode(stream)]
        expected = np.concatenate([episode.observations[IMAGES + "wrist"][:-1] for episode in of_file])
        assert len(frames) == len(expected)
        firsts = np.cumsum([0] + [episode.steps for episode in of_file[:-1]])
        for i, (frame, shown) in enumerate(zip(frames, expected, strict=True)):
            assert abs(frame.time - i / 12.5) < 1e-9
            assert frame.key_frame or i not in firsts
            got = frame.to_ndarray(format="rgb24")
            assert np.abs(got[:25, :33].astype(int) - shown).mean() < 6, "no picture is shifted by one"
            assert np.abs(got[25, :33].astype(int) - shown[24]).mean() < 10, "nothing black at the edge"
            assert np.abs(got[:25, 33].astype(int) - shown[:, 32]).mean() < 10


@pytest.mark.parametrize("fps", [0.1, 1, 12.5, 29.97, 1000 / 33, 30, 1000])
def test_any_rate_is_kept_exactly_over_a_long_video(tmp_path, fps):
    body = dataclasses.replace(
        BODY, fps=float(fps), observation={IMAGES + "eye": picture(16, 16)}, motions=(), drive=()
    )
    count = 300
    still = np.zeros((count + 1, 16, 16, 3), np.uint8)
    write_dataset(tmp_path, [make_episode(count, body=body, fps=fps, observations={IMAGES + "eye": still})], body)
    assert float(rate(fps)) == pytest.approx(fps, rel=1e-9)
    with av.open(str(tmp_path / f"videos/{IMAGES}eye/chunk-000/file-000.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(count) / fps, atol=1e-5)
    assert problems(tmp_path) == []
    assert isinstance(read_info(tmp_path)["fps"], int) == (fps == int(fps))


def test_files_end_before_they_grow_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "MB", 60)  # so 100 "MB" are 6 kB
    write_dataset(tmp_path, [make_episode(40, i) for i in range(6)], BODY)
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("data/*/*.parquet"))]
    assert len(sizes) > 1 and len(open_dataset(tmp_path).lengths) == 6
    monkeypatch.setattr(writing, "FILES_A_CHUNK", 2)
    other = tmp_path / "other"
    write_dataset(other, [make_episode(2, i) for i in range(5)], BODY, episodes_a_file=1)
    assert sorted(path.relative_to(other).as_posix() for path in other.glob("data/*/*")) == [
        f"data/chunk-{i // 2:03d}/file-{i % 2:03d}.parquet" for i in range(5)
    ]
    assert problems(other) == [] and [episode.seed for episode in open_dataset(other).episodes()] == [3, 4, 5, 6, 7]


# There and back


def assert_back(episode, back, *, tolerance=0.0):
    """All that an episode holds; recorded JPEGs are near, but the last, which is the same."""
    pictures = {key for key, array in episode.observations.items() if array.dtype == np.uint8}
    for key in pictures if tolerance else ():
        assert episode.observations[key].shape == back.observations[key].shape
        error = np.abs(episode.observations[key].astype(int) - back.observations[key])
        assert error.mean() < tolerance
    kept = {key: array for key, array in back.observations.items() if not tolerance or key not in pictures}
    wanted = {key: array for key, array in episode.observations.items() if key in kept}
    assert {camera: len(frames) for camera, frames in episode.frames.items()} == {
        camera: len(frames) for camera, frames in back.frames.items()
    }
    for camera, frames in episode.frames.items():
        assert frames[-1] == back.frames[camera][-1]
        for frame, near in zip(frames, back.frames[camera], strict=True):
            a, b = (np.asarray(Image.open(io.BytesIO(each))).astype(int) for each in (frame, near))
            assert np.abs(a - b).mean() < 8
    assert_same(
        dataclasses.replace(episode, observations=wanted, frames={}),
        dataclasses.replace(back, observations=kept, frames={}),
    )


def test_the_written_ones_come_back(written):
    folder, episodes = written
    dataset = open_dataset(folder)
    assert dataset.ours and dataset.body == BODY and dataset.problems == [] and problems(folder) == []
    assert dataset.lengths.tolist() == [1, 2, 3, 4, 5, 6, 7] and dataset.fps == 12.5 and dataset.version == "v3.0"
    assert dataset.tasks == {0: "lift it", 1: "put it down"} and dataset.cameras == ["wrist", "side"]
    for episode, back in zip(episodes, dataset.episodes(), strict=True):
        assert_back(episode, back, tolerance=6)
    assert [each.uuid for each in dataset.episodes([5, 0])] == [episodes[5].uuid, episodes[0].uuid]
    alone = dataset.episode(5, cameras=False)
    assert list(alone.observations) == [STATE] and alone.frames == {} and not alone.body.pictures
    some = dataset.episode(5, cameras=["side"])
    assert list(some.observations) == [STATE] and list(some.frames) == ["side"]
    assert len([*dataset.frames(5, "wrist")]) == 7
    with pytest.raises(LeRobotError, match="episode 4: There are no pictures of side"):
        next(dataset.frames(4, "side"))


def test_every_field_of_an_episode_has_a_place():
    """Whoever adds one says here where it lies: else it would be lost without a word."""
    elsewhere = {
        "embodiment",
        "body",
        "instruction",
        "observations",
        "actions",
        "actors",
        "steps_to_go",
        "fenced",
        "frames",
        "labels",
    }
    assert {field.name for field in dataclasses.fields(Episode)} == set(OWN_EPISODE) | elsewhere


finite = st.floats(-1e9, 1e9, width=32)
words = st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" "), max_size=8)
some_words = words.map("a".__add__)
labels = st.builds(label, finite, st.sampled_from(LABEL_SOURCES))


@st.composite
def any_dataset(draw):
    """A body, and episodes of it, of every kind that can be."""
    numbers = draw(st.integers(1, 3))
    names = tuple(f"joint {i}/2" for i in range(numbers))
    observation = {STATE: vector(names)} if draw(st.booleans()) else {}
    if draw(st.booleans()):
        observation[ENVIRONMENT_STATE] = vector(("cube.x",), [-1], [1])
    size = draw(st.integers(2, 19)), draw(st.integers(2, 19))
    if draw(st.booleans()) or not observation:
        observation[IMAGES + draw(st.sampled_from(["top", "Wrist 2", "grün"]))] = picture(*size)
    body = Embodiment(
        name=draw(st.sampled_from(["arm", "my arm/2", "ärm"])),
        fps=draw(st.sampled_from([0.1, 5, 12.5, 29.97, 50])),
        observation=observation,
        action=vector(names, [-1e9] * numbers, [1e9] * numbers),
    )
    episodes = []
    for number in range(draw(st.integers(1, 3))):
        steps = draw(st.integers(1, 4))
        purpose = draw(st.sampled_from(["demonstration", "practice", "evaluation", "correction"]))
        acted = draw(st.lists(st.integers(int(purpose == "demonstration"), 2), min_size=steps, max_size=steps))
        d = draw(st.lists(finite | st.just(np.nan), min_size=steps + 1, max_size=steps + 1))
        actions = draw(st.lists(finite, min_size=steps * numbers, max_size=steps * numbers))
        episodes.append(
            make_episode(
                steps, number, body, purpose=purpose, actors=np.array(acted, np.uint8),
                actions=np.array(actions, np.float32).reshape(steps, numbers), steps_to_go=np.array(d, np.float32),
                fenced=np.array(draw(st.lists(st.integers(0, 1), min_size=steps, max_size=steps)), np.uint8),
                ending=draw(st.sampled_from(["detected_success", "operator", "fault", "low_success_probability"])),
                detected_success=draw(st.booleans()), true_success=draw(st.sampled_from([None, True, False])),
                policy=draw(words), reward_model=draw(words), instruction=draw(some_words),
                task=draw(some_words), threshold=draw(st.none() | st.floats(-1e300, 1e300)),
                seed=draw(st.none() | st.integers(-(2**63) + 1, 2**63 - 1)), started_at=draw(st.floats(-1e300, 1e300)),
                fps=draw(st.floats(0.1, 1000)), interventions=draw(st.integers(0, 100_000)),
                labels=draw(st.dictionaries(st.sampled_from(["useful", "grün 2"]), labels)),
            )
        )  # fmt: skip
    return body, episodes


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_dataset())
def test_everything_of_an_episode_comes_back(tmp_path_factory, dataset):
    body, episodes = dataset
    folder = tmp_path_factory.mktemp("any")
    write_dataset(folder, episodes, body, quality="lossless", episodes_a_file=2)
    back = open_dataset(folder)
    assert back.body == body
    for episode, again in zip(episodes, back.episodes(), strict=True):
        assert_back(episode, again)
    assert problems(folder) == []


@pytest.mark.parametrize(("quality", "least", "most"), [("lossless", 0, 0), ("high", 0.01, 6), ("small", 0.5, 12)])
def test_a_quality_says_how_near_pictures_are(tmp_path, quality, least, most):
    episode = make_episode(20)
    write_dataset(tmp_path, [episode], BODY, quality=quality)
    (back,) = open_dataset(tmp_path).episodes()
    key = IMAGES + "wrist"
    error = np.abs(back.observations[key].astype(int) - episode.observations[key])
    assert least <= error[:-1].mean() <= most
    assert error[-1].mean() <= min(most, 6), "the picture of the end is no video"


def test_recorded_pictures_that_are_missing_broken_or_of_another_size(tmp_path):
    def recorded(steps, **changes):
        return {
            "side": [jpeg(i) for i in range(steps + 1)],
            "front of/it": [jpeg(i) for i in range(steps + 1)],
        } | changes

    broken = [jpeg(0), b"\xff\xd8 no picture", jpeg(0), b"\xff\xd8 nor this"]
    first = make_episode(3, 0, frames={"side": recorded(3)["side"]})
    second = make_episode(3, 1, frames=recorded(3, side=broken))
    third = make_episode(2, 2, frames={"side": [jpeg(i, (20, 16)) for i in range(3)]})
    report = write_dataset(tmp_path, [first, second, third], BODY, cameras=["side", "front of/it"])
    assert [note for note in report.notes if "camera side 1 recorded pictures can't be read" in note], (
        "not the last one"
    )
    assert [note for note in report.notes if "side were made 40x30" in note]
    assert [note for note in report.notes if "front of/it were made 320x240" in note] and len(report.notes) == 3
    dataset = open_dataset(tmp_path)
    assert list(dataset.plan.recorded) == [IMAGES + "side", IMAGES + "front_of_it"]
    # Nobody had seen a picture of the second one yet: it is as large as the body says, within what is kept.
    assert read_info(tmp_path)["features"][IMAGES + "front_of_it"]["shape"] == [240, 320, 3]
    back = [*dataset.episodes()]
    assert list(back[0].frames) == ["side"] and set(back[1].frames) == {"side", "front of/it"}
    pictures = [np.asarray(Image.open(io.BytesIO(frame))).astype(int) for frame in back[1].frames["side"][:3]]
    assert np.abs(pictures[1] - pictures[0]).mean() < 3, "the one before stands for it"
    assert back[1].frames["side"][-1] == broken[-1] and len([*dataset.frames(1, "side")]) == 4
    assert [picture.shape for picture in dataset.frames(2, "side")] == [(30, 40, 3)] * 3
    assert problems(tmp_path) == []
    with pytest.raises(EpisodeError, match=f"Episode {second.uuid}, field frames: .*front of/it, of which the first"):
        write_dataset(tmp_path / "other", [first, second], BODY)


def test_a_camera_that_is_seen_and_recorded_becomes_two(tmp_path):
    episode = make_episode(2, frames={"wrist": [jpeg(i) for i in range(3)]})
    write_dataset(tmp_path, [episode], BODY, quality="lossless")
    (back,) = open_dataset(tmp_path).episodes()
    assert_back(episode, back)


def test_what_cant_be_written_is_refused_and_what_was_complete_stays(tmp_path):
    good, other = make_episode(2, 0), make_episode(2, 1, embodiment="another_arm")
    with pytest.raises(EpisodeError, match="field embodiment: is another_arm, but my_arm was expected"):
        write_dataset(tmp_path / "a", [good, other], BODY)
    assert [episode.uuid for episode in open_dataset(tmp_path / "a").episodes()] == [good.uuid]
    changed = dataclasses.replace(BODY, fps=30.0)
    with pytest.raises(EpisodeError, match=r"it acts at 30 Hz, and acted at 12\.5 Hz"):
        write_dataset(tmp_path / "b", [make_episode(2, body=changed)], BODY)
    with pytest.raises(LeRobotError, match="There is no episode to write"):
        write_dataset(tmp_path / "c", [], BODY)
    with pytest.raises(LeRobotError, match="The folder a is not empty"):
        write_dataset(tmp_path / "a", [good], BODY)
    with pytest.raises(ValueError, match="The quality best is unknown; known are high, small, lossless"):
        write_dataset(tmp_path / "d", [good], BODY, quality="best")
    with pytest.raises(LeRobotError, match="of another body than my_arm, or of another quality"):
        write_dataset(tmp_path / "a", [good], BODY, quality="small", resume=True)
    odd = dataclasses.replace(BODY, observation={IMAGES + "..": picture(16, 16)}, motions=(), drive=())
    assert write_dataset(tmp_path / "e", [make_episode(2, body=odd)], odd).episodes == 1
    odd = dataclasses.replace(BODY, observation={IMAGES + "a\nb": picture(16, 16)}, motions=(), drive=())
    with pytest.raises(LeRobotError, match="is refused: it must stay within"):
        write_dataset(tmp_path / "f", [make_episode(2, body=odd)], odd)
    (tmp_path / "g/meta").mkdir(parents=True)
    (tmp_path / "g/meta/info.json").write_text("{}")
    with pytest.raises(LeRobotError, match="not one that was begun here"):
        write_dataset(tmp_path / "g", [good], BODY, resume=True)


def test_an_error_within_an_episode_leaves_no_half_of_it(tmp_path, monkeypatch):
    film = writing._Writer._film

    def fails_once(self, episode, key, video):
        if episode.seed == 6:
            film(self, episode, key, video)
            raise OSError("no space left on device")
        return film(self, episode, key, video)

    monkeypatch.setattr(writing._Writer, "_film", fails_once)
    with pytest.raises(OSError, match="no space"):
        write_dataset(tmp_path, [make_episode(2, i) for i in range(5)], BODY, episodes_a_file=2)
    assert [episode.seed for episode in open_dataset(tmp_path).episodes()] == [3, 4]
    assert not [*tmp_path.rglob("*.tmp")] and problems(tmp_path) == []


# Crashes


def run_child(work):
    """In a process of its own, which may end anyhow: what it returned by, or the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize("at", range(9))
def test_a_writer_that_is_killed_leaves_what_was_complete_and_is_gone_on_with(tmp_path, at):
    """Killed at each of the moments at which the second part gets a name, and once amid an episode."""
    episodes = [make_episode(2, i) for i in range(6)]

    def write():
        replace, calls = os.replace, []

        def killed(source, target):
            calls.append(target)
            if len(calls) == 6 + at:  # the first part's are six: rows, video, episodes, tasks, statistics, info
                os.kill(os.getpid(), 9)
            return replace(source, target)

        def given():
            for i, episode in enumerate(episodes):
                if i == 5 and at == 8:
                    os.kill(os.getpid(), 9)
                yield episode

        os.replace = killed
        write_dataset(tmp_path, given(), BODY, quality="lossless", episodes_a_file=2)

    assert run_child(write) == 9
    expected = {0: 0, 8: 4}.get(at, 2) if at < 7 else 4
    if at == 0:  # not even the first was complete
        with pytest.raises(LeRobotError, match=r"meta/info\.json is missing"):
            open_dataset(tmp_path)
    else:
        found = [*open_dataset(tmp_path).episodes()]
        assert len(found) == expected
        for episode, back in zip(episodes, found, strict=False):
            assert_back(episode, back)
        assert problems(tmp_path, "refuse", "ask") == []
        assert Code.LEFT_OVER in [code for code, _ in problems(tmp_path)]
    report = write_dataset(tmp_path, iter(episodes), BODY, quality="lossless", episodes_a_file=2, resume=True)
    assert (report.episodes, report.rows, report.skipped) == (6, 12, expected)
    for episode, back in zip(episodes, open_dataset(tmp_path).episodes(), strict=True):
        assert_back(episode, back)
    assert problems(tmp_path) == []
    whole = tmp_path / "whole"
    write_dataset(whole, episodes, BODY, quality="lossless", episodes_a_file=2)
    stats, other = (json.loads((folder / "meta/stats.json").read_text()) for folder in (tmp_path, whole))
    for key, of_feature in other.items():
        for name, value in of_feature.items():
            np.testing.assert_allclose(stats[key][name], value, atol=1e-12)
    assert pq.read_table(tmp_path / "meta/tasks.parquet") == pq.read_table(whole / "meta/tasks.parquet")


# Memory


def test_memory_holds_one_episode(tmp_path):
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from tests.robots.test_lerobot_dataset import *\n"
        "seen = {IMAGES + name: picture(224, 224) for name in ('left', 'right')}\n"
        "body = dataclasses.replace(BODY, observation=seen, motions=(), drive=())\n"
        "def given(count):\n"
        "    for i in range(count):\n"
        "        shown = {key: np.full((9, 224, 224, 3), i, np.uint8) for key in seen}\n"
        "        yield make_episode(8, i, body, observations=shown)\n"
        "for count in (8, 32):\n"
        "    write_dataset(Path(sys.argv[1]) / str(count), given(count), body)\n"
        "    for episode in open_dataset(Path(sys.argv[1]) / str(count)).episodes(): pass\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    # An episode's pictures are 2.7 MB: if they were kept, it would be 65 more.
    assert many - few < 25, (few, many)


# The commands


def test_commands_convert_there_and_back_and_check(tmp_path, capsys):
    episodes = [make_episode(3, i, frames={"side": [jpeg(j) for j in range(4)]} if i else {}) for i in range(3)]
    file, folder, back = tmp_path / "e.safetensors", tmp_path / "dataset", tmp_path / "back.safetensors"
    write_episodes(file, episodes)
    assert main(["dataset", "convert", str(file), str(folder), "--quality", "lossless", "--progress"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1]) == {"done": 3, "total": 3}
    assert "3 episodes with 9 rows" in said.err
    assert main(["dataset", "check", str(folder)]) == 0
    assert "It can be used: 3 episodes of my_arm, 9 rows at 12.5 Hz, cameras: wrist, side." in capsys.readouterr().out
    assert main(["dataset", "convert", str(folder), str(back)]) == 0
    for episode, again in zip(episodes, read_episodes(back), strict=True):
        assert_back(episode, again)
    capsys.readouterr()
    (folder / "data/chunk-000/file-000.parquet").unlink()
    assert main(["dataset", "check", str(folder)]) == 2
    said = capsys.readouterr()
    assert "refuse [file-missing] data/chunk-000/file-000.parquet: The file is missing." in said.out
    assert "keep it, or the episodes that are named, from use" in said.err
    assert main(["dataset", "convert", str(folder), str(tmp_path / "x.safetensors")]) == 2
    assert main(["dataset", "convert", str(tmp_path / "none"), str(tmp_path / "y")]) == 2


def test_merged_statistics_are_those_of_all_rows():
    rng = np.random.default_rng(0)
    parts = [rng.normal(i, i + 1, size=(3 + i, 2)) for i in range(4)]
    found, whole = merged(map(of_numbers, parts)), of_numbers(np.concatenate(parts))
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(found[name], whole[name])
    nothing = of_numbers(np.full((3, 1), np.nan))
    assert all(np.isfinite(value).all() for value in nothing.values()) and nothing["count"].tolist() == [1]

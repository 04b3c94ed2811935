"""LeRobot datasets that somebody else made: what becomes of them, and what is said of those that are wrong."""

import json
import os
import shutil
import struct

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robots.embodiments import EMBODIMENTS, IMAGES, STATE
from robots.lerobot import contents, reading
from robots.lerobot.checking import check
from robots.lerobot.layout import Code, LeRobotError
from robots.lerobot.reading import open_dataset
from robots.lerobot.writing import write_dataset
from tests.robots.lerobot_folders import JOINTS, SIZE, arm, episode, features, picture, png, write, write_lines
from tests.robots.test_episodes import assert_same
from tests.robots.test_lerobot_dataset import BODY, make_episode

THREE = [episode(12, 0), episode(9, 1, ["open the drawer"]), episode(14, 2)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset of each version, as it is before a test spoils a copy."""
    folder = tmp_path_factory.mktemp("made")
    write_dataset(folder / "ours", [make_episode(4, i) for i in range(3)], BODY)
    return {
        "v3.0": write(folder / "v3.0", THREE),
        "v2.1": write(folder / "v2.1", THREE, version="v2.1"),
        "ours": folder / "ours",
    }


@pytest.fixture
def spoilt(made, tmp_path):
    def copied(name="v3.0"):
        return shutil.copytree(made[name], tmp_path / "spoilt")

    return copied


def found(folder, *levels):
    return {(each.code, each.level) for each in check(folder) if not levels or each.level in levels}


# What becomes of them


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_another_arm_becomes_a_body_and_demonstrations(made, version):
    dataset = open_dataset(made[version])
    body = dataset.body
    assert not dataset.ours and dataset.version == version and dataset.cameras == ["front", "wrist"]
    assert (body.name, body.fps, body.state_names, body.action_names) == ("so101_follower", 10, (*JOINTS,), (*JOINTS,))
    assert {key: each.shape for key, each in body.observation.items()} == {
        STATE: (6,), IMAGES + "front": (24, 32, 3), IMAGES + "wrist": (24, 32, 3),
    }  # fmt: skip
    actions = np.concatenate([each["columns"]["action"] for each in THREE])
    reach = actions.max(axis=0) - actions.min(axis=0)
    np.testing.assert_allclose(body.action.low, actions.min(axis=0) - 0.05 * reach, rtol=1e-5)
    np.testing.assert_allclose(body.action.high, actions.max(axis=0) + 0.05 * reach, rtol=1e-5)
    assert [(motion.kind, motion.sensed_by) for motion in body.motions] == [("position", name) for name in JOINTS]
    (said,) = [problem.text for problem in dataset.problems if problem.code == Code.GUESSED]
    assert said.startswith("The actions look like positions (pan.pos, ")
    assert found(made[version]) == {(Code.GUESSED, "note")}
    assert dataset.lengths.tolist() == [11, 8, 13]
    assert dataset.tasks == {0: "put the cube down", 1: "open the drawer"}
    episodes = [*dataset.episodes()]
    for number, (given, back) in enumerate(zip(THREE, episodes, strict=True)):
        back.check_against(body)
        np.testing.assert_array_equal(back.observations[STATE], given["columns"]["observation.state"])
        np.testing.assert_array_equal(back.actions, given["columns"]["action"][:-1])
        for place, camera in enumerate(("front", "wrist")):
            for row, shown in enumerate(back.observations[IMAGES + camera]):
                assert np.abs(shown.astype(int) - picture(row, place)).mean() < 8, "of this row, and no other"
        assert (back.instruction, back.fps) == (given["tasks"][0], 10)
        assert (back.ending, back.purpose, back.true_success) == ("operator", "demonstration", None)
        assert (back.actors == 1).all() and np.isnan(back.steps_to_go).all()
        assert back.uuid == dataset.episode(number, cameras=False).uuid
    assert len({each.uuid for each in episodes}) == 3
    rows = dataset.rows(1)
    assert rows["action"].shape == (9, 6) and rows["frame_index"].tolist() == list(range(9))


def test_both_versions_are_read_alike(made):
    new, old = (open_dataset(made[version]) for version in ("v3.0", "v2.1"))
    assert new.body == old.body
    for a, b in zip(new.episodes(), old.episodes(), strict=True):
        for camera in ("front", "wrist"):
            near = np.abs(a.observations.pop(IMAGES + camera).astype(int) - b.observations.pop(IMAGES + camera))
            assert near.mean() < 3
        assert_same(a, b)


def test_a_body_of_ours_is_not_taken_for_a_name(tmp_path):
    folder = write(tmp_path / "d", THREE[:1], declared=features(cameras=()), robot_type="language_table")
    (back,) = open_dataset(folder).episodes()
    assert back.body.action_size == 6 and EMBODIMENTS["language_table"].action_size == 2


def test_without_statistics_the_range_is_of_the_rows(made, tmp_path):
    folder = write(tmp_path / "v3", THREE, statistics=False, videos=False)
    assert open_dataset(folder).body.action == open_dataset(made["v3.0"]).body.action
    folder = write(tmp_path / "v2", THREE, statistics=False, videos=False, version="v2.1")
    assert open_dataset(folder).body.action == open_dataset(made["v3.0"]).body.action


def test_the_range_is_what_the_statistics_tell(spoilt):
    told = {"action": {"min": [-100.0] * 6, "max": [100.0] * 6}}
    for version in ("v3.0", "v2.1"):
        folder = spoilt(version)
        (folder / "meta/stats.json").write_text(json.dumps(told))
        write_lines(folder / "meta/episodes_stats.jsonl", [{"episode_index": i, "stats": told} for i in range(3)])
        if version == "v2.1":
            (folder / "meta/stats.json").unlink()
        assert open_dataset(folder).body.action.high == (110.0,) * 6
        shutil.rmtree(folder)


def test_pictures_are_made_smaller_when_asked(made, tmp_path):
    dataset = open_dataset(made["v3.0"], picture_width=16)
    assert dataset.body.pictures["front"].shape == (12, 16, 3)
    small, whole = (next(each.frames(0, "wrist")).astype(int) for each in (dataset, open_dataset(made["v3.0"])))
    assert np.abs(small - whole.reshape(12, 2, 16, 2, 3).mean(axis=(1, 3))).mean() < 4
    assert next(dataset.episodes()).observations[IMAGES + "wrist"].shape == (12, 12, 16, 3)
    folder = write(tmp_path / "images", THREE[:1], declared=features(dtype="image"))
    (seen,) = open_dataset(folder, picture_width=16).episodes()
    assert seen.observations[IMAGES + "wrist"].shape == (12, 12, 16, 3)
    assert open_dataset(made["v3.0"], picture_width=300).body.pictures["front"].shape == (24, 32, 3)


def test_pictures_within_the_rows_are_cameras_too(tmp_path):
    declared = features(dtype="image")
    declared[IMAGES + "wrist"] |= {"shape": [3, 24, 32], "names": ["channels", "height", "width"]}
    folder = write(tmp_path / "d", THREE, declared=declared)
    dataset = open_dataset(folder)
    for number, back in enumerate(dataset.episodes()):
        assert np.array_equal(back.observations[IMAGES + "wrist"][3], picture(3, 1))
        assert len(back.observations[IMAGES + "front"]) == THREE[number]["rows"]
    assert found(folder) == {(Code.GUESSED, "note")}


def test_what_has_no_place_is_said(tmp_path):
    depth = {"dtype": "video", "shape": [24, 32, 3], "names": None, "info": {"is_depth_map": True}}
    grey = {"dtype": "video", "shape": [24, 32, 1], "names": ["height", "width", "channel"]}
    more = {"observation.effort": {"dtype": "float32", "shape": [6], "names": None}}
    told = {"subtask": {"dtype": "string", "shape": [1], "names": None}}
    declared = features(("front",), **{IMAGES + "front_depth": depth, IMAGES + "grey": grey}, **more, **told)
    given = episode(8, **{"observation.effort": np.ones((8, 6), np.float32), "subtask": ["reach"] * 8})
    folder = write(tmp_path / "d", [given], declared=declared)
    dataset = open_dataset(folder)
    assert dataset.cameras == ["front"]
    said = {problem.field: problem for problem in dataset.problems}
    assert said[IMAGES + "front_depth"].code == said[IMAGES + "grey"].code == Code.DEPTH_SKIPPED
    assert "observation.effort, subtask" in said["features"].text
    assert found(folder, "refuse", "ask") == set()
    assert next(dataset.episodes()).observations.keys() == {STATE, IMAGES + "front"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ("state_0", "state_1")),
        ({"motors": ["a", "b"]}, ("a", "b")),
        ([["a", "b"]], ("a", "b")),
        (["a"], ("state_0", "state_1")),
        (["a", "a"], ("a", "a_2")),
        (["", "x" * 100], ("state_0", "x" * 60)),
        ([3, "b\n"], ("3", "b")),
        ("ab", ("state_0", "state_1")),
    ],
)
def test_names_of_any_kind_become_names(tmp_path, names, expected):
    declared = features((), {STATE: ["a", "b"], "action": ["a", "b"]})
    declared[STATE]["names"] = names
    given = episode(5)
    given["columns"] = {key: values[:, :2] for key, values in given["columns"].items()}
    body = open_dataset(write(tmp_path / "d", [given], declared=declared)).body
    assert body.state_names == expected


def test_other_numbers_become_float32(tmp_path):
    declared = features(())
    declared[STATE]["dtype"], declared["action"]["dtype"] = "float64", "bool"
    state, action = arm(6)
    given = episode(6)
    given["columns"] = {STATE: state.astype(np.float64), "action": action > 0}
    folder = write(tmp_path / "d", [given], declared=declared)
    (back,) = open_dataset(folder).episodes()
    assert back.actions.dtype == back.observations[STATE].dtype == np.float32
    np.testing.assert_array_equal(back.actions, (action[:-1] > 0).astype(np.float32))
    np.testing.assert_array_equal(back.observations[STATE], state)
    assert found(folder) == {(Code.DTYPE_WRONG, "note"), (Code.GUESSED, "note")}


def test_vectors_of_one_number_and_of_fixed_size(tmp_path):
    declared = features((), {STATE: ["x"], "action": ["x"]})
    given = episode(6)
    state, action = arm(6)
    given["columns"] = {STATE: state[:, 0], "action": action[:, :1]}
    (back,) = open_dataset(write(tmp_path / "one", [given], declared=declared)).episodes()
    assert back.actions.shape == (5, 1) and back.observations[STATE].shape == (6, 1)
    given = episode(6)
    given["columns"]["action"] = pa.FixedSizeListArray.from_arrays(pa.array(action.reshape(-1)), 6)
    (back,) = open_dataset(write(tmp_path / "fixed", [given], declared=features(()))).episodes()
    np.testing.assert_array_equal(back.actions, action[:-1])


def test_success_is_what_the_dataset_says(tmp_path):
    declared = features((), **{"next.success": {"dtype": "bool", "shape": [1], "names": None}})
    won, lost = np.array([False] * 5 + [True]), np.zeros(6, bool)
    given = [episode(6, 0, **{"next.success": won}), episode(6, 1, **{"next.success": lost})]
    back = [*open_dataset(write(tmp_path / "d", given, declared=declared)).episodes()]
    assert [(each.true_success, each.ending) for each in back] == [(True, "operator"), (False, "time_limit")]


def test_sentences_of_any_number_and_length_become_one_instruction(tmp_path):
    given = [
        episode(4, 0, ["first", "second"]),
        episode(4, 1, []),
        episode(4, 2, ["x" * 400]),
        episode(4, 3, ["two\n\nlines"]),
    ]
    dataset = open_dataset(write(tmp_path / "d", given, declared=features(())))
    assert [each.instruction for each in dataset.episodes()] == [
        "first", "first", "x" * 297 + "...", "two lines",  # by the number of the task in its rows, where none is listed
    ]  # fmt: skip
    assert [str(each) for each in dataset.problems if each.code == Code.SEVERAL_TASKS] == [
        "meta/tasks.parquet: 1 episodes have several sentences (such as episode 0); the first of each is its "
        "instruction."
    ]


@pytest.mark.parametrize("kind", ["delta", "unknown", "mixed", "another size", "still", "near"])
def test_what_the_actions_are_is_guessed_and_said(tmp_path, kind):
    rng = np.random.default_rng(0)
    names, told = ["x", "y"], rng.normal(scale=0.01, size=(40, 2)).astype(np.float32)
    state = np.vstack([np.zeros((1, 2)), np.cumsum(told, axis=0)[:-1]]).astype(np.float32)
    columns, vectors = {STATE: state, "action": told}, {STATE: names, "action": names}
    if kind == "unknown":
        columns["action"] = rng.normal(size=(40, 2)).astype(np.float32)
    if kind == "near":  # it is near the state, which rests but for once, and doesn't go with it
        columns = {
            STATE: np.zeros((40, 2), np.float32),
            "action": rng.normal(scale=0.3, size=(40, 2)).astype(np.float32),
        }
        columns[STATE][20] = 10
    if kind == "mixed":
        columns["action"] = np.stack([told[:, 0], np.append(state[1:, 1], state[-1, 1])], axis=1)
    if kind == "another size":
        columns[STATE], vectors[STATE] = np.hstack([state, state]), ["a", "b", "c", "d"]
    if kind == "still":
        columns = {STATE: np.full((40, 2), 7, np.float32), "action": np.full((40, 2), 7, np.float32)}
    given = {"tasks": ["go"], "rows": 40, "columns": columns}
    dataset = open_dataset(write(tmp_path / "d", [given], declared=features((), vectors)))
    (said,) = [problem.text for problem in dataset.problems if problem.code == Code.GUESSED]
    kinds = [motion.kind for motion in dataset.body.motions]
    assert kinds == {"delta": ["delta"] * 2, "mixed": ["delta", "position"], "still": ["position"] * 2}.get(kind, [])
    assert ("not known: x, y" in said) == (not kinds)
    if kind == "mixed":
        assert "positions (y) and deltas (x)" in said
    next(dataset.episodes()).check_against(dataset.body)


def test_a_dataset_of_ours_that_another_program_rewrote_is_read_as_anybodys(spoilt):
    folder = spoilt("ours")
    edit_info(folder, lambda info: info.pop("fleetui"))
    dataset = open_dataset(folder)
    assert not dataset.ours and dataset.lengths.tolist() == [3, 3, 3]
    assert next(dataset.episodes()).observations[IMAGES + "wrist"].shape == (4, 26, 34, 3)
    assert found(folder, "refuse", "ask") == set()


# What is wrong


def edit_info(folder, change):
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def edit_table(name):
    def edit(folder, change):
        path = folder / name
        pq.write_table(change(pq.read_table(path)), path)

    return edit


edit_rows = edit_table("data/chunk-000/file-000.parquet")
edit_episodes = edit_table("meta/episodes/chunk-000/file-000.parquet")


def replaced(name, change):
    """A table's column, changed as a list."""

    def change_table(table):
        values = table[name].to_pylist()
        made = change(values)
        values = values if made is None else made
        at = table.schema.get_field_index(name)
        kind = table.schema.field(name).type if made is None else None
        return table.set_column(at, name, pa.array(values, kind))

    return change_table


def info_with(**changes):
    return lambda folder: edit_info(folder, lambda info: info.update(changes))


def feature_with(key, **changes):
    return lambda folder: edit_info(folder, lambda info: info["features"][key].update(changes))


def rows_with(name, change):
    return lambda folder: edit_rows(folder, replaced(name, change))


def episodes_with(name, change):
    return lambda folder: edit_episodes(folder, replaced(name, change))


def put(row, value):
    def change(values):
        values[row] = value

    return change


def put_within(row, column, value):
    def change(values):
        values[row][column] = value

    return change


def removed(name):
    return lambda folder: (folder / name).unlink()


def overwritten(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def cut(name, share):
    return lambda folder: os.truncate(folder / name, int((folder / name).stat().st_size * share))


WRIST = f"videos/{IMAGES}wrist/chunk-000/file-000.mp4"
DATA_FILE, EPISODES_FILE = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
HUGE = 2**62

WRONG = {
    "no info": (removed("meta/info.json"), Code.NO_DATASET, "refuse", "meta/info.json is missing"),
    "info is no JSON": (overwritten("meta/info.json", b"{"), Code.FILE_BROKEN, "refuse", "not JSON"),
    "info is a list": (overwritten("meta/info.json", b"[]"), Code.FIELD_WRONG, "refuse", "must be a JSON object"),
    "info is deep": (overwritten("meta/info.json", b"[" * 10**6), Code.FILE_BROKEN, "refuse", "deeper"),
    "version 1": (info_with(codebase_version="v1.6"), Code.VERSION_UNKNOWN, "refuse", "v3.0, v2.1 and v2.0 are read"),
    "version is a number": (info_with(codebase_version=3), Code.VERSION_UNKNOWN, "refuse", "Its version is 3"),
    "fps 0": (info_with(fps=0), Code.FIELD_WRONG, "refuse", "from 0.1 to 1000"),
    "fps is text": (info_with(fps="30"), Code.FIELD_WRONG, "refuse", "field fps"),
    "fps is true": (info_with(fps=True), Code.FIELD_WRONG, "refuse", "field fps"),
    "features is a list": (info_with(features=[]), Code.FIELD_WRONG, "refuse", "an object of 1 to"),
    "a feature is text": (info_with(features={"action": "float32"}), Code.FIELD_WRONG, "refuse", "field action"),
    "a shape of 0": (feature_with("action", shape=[0]), Code.FIELD_WRONG, "refuse", "whole numbers above 0"),
    "a shape is huge": (feature_with("action", shape=[10**9]), Code.FIELD_WRONG, "refuse", "field action"),
    "a shape is text": (feature_with("action", shape="6"), Code.FIELD_WRONG, "refuse", "field action"),
    "dtype unknown": (feature_with("action", dtype="float128"), Code.FEATURE_WRONG, "refuse", "float128 [6]"),
    "dtype is a number": (feature_with("action", dtype=32), Code.FIELD_WRONG, "refuse", "field action"),
    "two dimensions": (feature_with("action", shape=[2, 3]), Code.FEATURE_WRONG, "refuse", "[2, 3]"),
    "another size": (feature_with("action", shape=[7]), Code.ROWS_DISAGREE, "refuse", "has 6 numbers, and 7 were"),
    "no action": (lambda f: edit_info(f, lambda i: i["features"].pop("action")), Code.FEATURE_MISSING, "refuse",
                  "imitate"),
    "episodes miscounted": (info_with(total_episodes=5), Code.COUNTS_DISAGREE, "ask", "5 episodes and 35 rows, but 3"),
    "rows miscounted": (info_with(total_frames=36), Code.COUNTS_DISAGREE, "ask", "36 rows"),
    "no episodes": (info_with(total_episodes=0, total_frames=0), Code.NO_ROWS, "refuse", "has no episode"),
    "absurdly many": (info_with(total_episodes=10**12), Code.FIELD_WRONG, "refuse", "field total_episodes"),
    "negative count": (info_with(total_episodes=-1), Code.FIELD_WRONG, "refuse", "field total_episodes"),
    "absurdly many rows": (info_with(total_frames=10**15), Code.FIELD_WRONG, "refuse", "field total_frames"),
    "path leaves": (info_with(data_path="../{chunk_index:03d}/{file_index:03d}"), Code.PATH_LEAVES, "refuse",
                    "../000/000"),
    "path is absolute": (info_with(data_path="/etc/passwd"), Code.PATH_LEAVES, "refuse", "/etc/passwd"),
    "path asks for more": (info_with(data_path="data/{chunk_index.__class__}"), Code.FIELD_WRONG, "refuse", "braces"),
    "path is wide": (info_with(data_path="data/{chunk_index:0999999999d}"), Code.FIELD_WRONG, "refuse", "braces"),
    "path of another name": (info_with(data_path="data/{repo}"), Code.FIELD_WRONG, "refuse", "asks for repo"),
    "path is a number": (info_with(data_path=7), Code.FIELD_WRONG, "refuse", "field data_path"),
    "video path leaves": (info_with(video_path="a/../../{video_key}"), Code.PATH_LEAVES, "refuse", "must stay"),
    "robot type is a list": (info_with(robot_type=["a"]), Code.FIELD_WRONG, "refuse", "field robot_type"),
    "data missing": (removed(DATA_FILE), Code.FILE_MISSING, "refuse", DATA_FILE),
    "data empty": (overwritten(DATA_FILE, b""), Code.FILE_BROKEN, "refuse", DATA_FILE),
    "data cut": (cut(DATA_FILE, 0.9), Code.FILE_BROKEN, "refuse", DATA_FILE),
    "data is text": (overwritten(DATA_FILE, b"index,action\n" * 100), Code.FILE_BROKEN, "refuse", DATA_FILE),
    "rows are missing": (lambda f: edit_rows(f, lambda t: t.slice(0, 30)), Code.ROWS_DISAGREE, "refuse",
                         "file ends before"),
    "more rows": (lambda f: edit_rows(f, lambda t: pa.concat_tables([t, t.slice(0, 1)])), Code.ROWS_DISAGREE, "ask",
                  "holds 36 rows, and its episodes have 35"),
    "undeclared column": (lambda f: edit_rows(f, lambda t: t.append_column("extra", t["index"])), Code.UNDECLARED,
                          "ask", "field extra"),
    "column missing": (lambda f: edit_rows(f, lambda t: t.drop_columns(["action"])), Code.FEATURE_MISSING, "refuse",
                       "action is missing"),
    "timestamps missing": (lambda f: edit_rows(f, lambda t: t.drop_columns(["timestamp"])), Code.FEATURE_MISSING,
                           "ask", "field timestamp"),
    "action is text": (rows_with("action", lambda v: [str(each) for each in v]), Code.DTYPE_WRONG, "refuse",
                       "holds string"),
    "action is uneven": (rows_with("action", lambda v: [v[0][:3], *v[1:]]), Code.ROWS_DISAGREE, "refuse", "3 numbers"),
    "action is single": (rows_with("action", lambda v: [each[0] for each in v]), Code.ROWS_DISAGREE, "refuse",
                         "1 number"),
    "action is nothing": (rows_with("action", put(20, None)), Code.NOT_FINITE, "refuse", "hold nothing"),
    "a number is nothing": (rows_with("action", put_within(20, 2, None)), Code.NOT_FINITE, "refuse",
                            "numbers are missing"),
    "an action is NaN": (rows_with("action", put_within(20, 2, np.nan)), Code.NOT_FINITE, "refuse", "row 8 is NaN"),
    "a state is infinite": (rows_with(STATE, put_within(1, 0, np.inf)), Code.NOT_FINITE, "refuse",
                            "episode 0, field obs"),
    "a state is huge": (rows_with(STATE, put_within(1, 0, 3e38)), Code.NOT_FINITE, "refuse", "above 1e9"),
    "another episode's row": (rows_with("episode_index", put(3, 2)), Code.ROWS_DISAGREE, "refuse", "another episode"),
    "frame index": (rows_with("frame_index", put(3, 4)), Code.ROWS_DISAGREE, "ask", "Row 3 says 4 where 3"),
    "index": (rows_with("index", put(13, 4)), Code.ROWS_DISAGREE, "ask", "Row 1 says 4 where 13"),
    "task index": (rows_with("task_index", put(3, 9)), Code.ROWS_DISAGREE, "ask", "task 9 is not listed"),
    "a time is off": (rows_with("timestamp", put(5, 0.52)), Code.TIME_WRONG, "ask", "0.52 where 0.5 was expected"),
    "a time is NaN": (rows_with("timestamp", put(5, np.nan)), Code.TIME_WRONG, "ask", "nan where 0.5"),
    "statistics lie": (overwritten("meta/stats.json", b'{"action": {"min": [0,0,0,0,0,0], "max": [1,1,1,1,1,1]}}'),
                       Code.STATISTICS_WRONG, "ask", "outside of what the statistics tell"),
    "episodes missing": (removed(EPISODES_FILE), Code.FILE_MISSING, "refuse", "meta/episodes has no Parquet"),
    "episodes cut": (cut(EPISODES_FILE, 0.5), Code.FILE_BROKEN, "refuse", EPISODES_FILE),
    "episode without rows": (episodes_with("length", put(1, 0)), Code.NO_ROWS, "refuse", "episode 1: It has no row"),
    "negative length": (episodes_with("length", put(1, -4)), Code.FIELD_WRONG, "refuse", "field length"),
    "length is huge": (episodes_with("length", put(1, HUGE)), Code.TOO_LARGE, "refuse", "rows"),
    "length is text": (episodes_with("length", lambda v: ["x"] * 3), Code.DTYPE_WRONG, "refuse", "field length"),
    "lengths disagree": (episodes_with("length", put(1, 10)), Code.ROWS_DISAGREE, "refuse",
                         "episode 2, field dataset_from"),
    "wrong number": (episodes_with("episode_index", put(1, 7)), Code.ROWS_DISAGREE, "refuse", "numbered 0, 1, 2"),
    "file number huge": (episodes_with("data/file_index", put(2, HUGE)), Code.FILE_MISSING, "refuse",
                         "file is missing"),
    "column of episodes missing": (lambda f: edit_episodes(f, lambda t: t.drop_columns(["data/file_index"])),
                                   Code.FILE_BROKEN, "refuse", "data/file_index is missing"),
    "video starts at NaN": (episodes_with(f"videos/{IMAGES}wrist/from_timestamp", put(1, np.nan)), Code.FIELD_WRONG,
                            "refuse", "from_timestamp"),
    "tasks missing": (removed("meta/tasks.parquet"), Code.FILE_MISSING, "ask", "meta/tasks.parquet"),
    "tasks broken": (overwritten("meta/tasks.parquet", b"PAR1"), Code.FILE_BROKEN, "ask", "meta/tasks.parquet"),
    "video missing": (removed(WRIST), Code.VIDEO_MISSING, "ask", "go on without this camera"),
    "video cut": (cut(WRIST, 0.7), Code.VIDEO_BROKEN, "ask", "go on without this camera"),
    "video empty": (overwritten(WRIST, b""), Code.VIDEO_BROKEN, "ask", "FFmpeg can't read it"),
    "video is a playlist": (overwritten(WRIST, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"), Code.VIDEO_BROKEN, "ask",
                            "FFmpeg can't read it"),
    "video is short": (episodes_with(f"videos/{IMAGES}wrist/from_timestamp", put(2, 2.2)), Code.VIDEO_BROKEN, "ask",
                       "has no picture at 3.5 s"),
    "video is off": (episodes_with(f"videos/{IMAGES}wrist/from_timestamp", put(2, 2.104)), Code.VIDEO_TIMES, "note",
                     "0.0040 s off its row"),
    "video of another size": (feature_with(IMAGES + "wrist", shape=[48, 64, 3]), Code.VIDEO_BROKEN, "ask",
                              "32x24, and meta/info.json declares (64, 48)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_its_place_and_the_mend(spoilt, name):
    spoil, code, level, words = WRONG[name]
    folder = spoilt()
    spoil(folder)
    said = [each for each in check(folder) if (each.code, each.level) == (code, level)]
    assert said and words in str(said[0]), [(each.code, each.level, str(each)) for each in check(folder)]
    for problem in check(folder):
        assert problem.text.endswith(".") and len(str(problem)) < 900 and str(folder.parent) not in str(problem)
        assert problem.file or problem.code == Code.NO_DATASET


def test_an_unlike_feature_name_is_refused(spoilt):
    for name in ("../../x", "a/b", "a\\b", "x\n", "..", ""):
        folder = spoilt()
        edit_info(folder, lambda info, name=name: info["features"].update({name: info["features"][IMAGES + "wrist"]}))
        assert found(folder) == {(Code.PATH_LEAVES, "refuse")}, name
        shutil.rmtree(folder)


def test_links_out_of_the_folder_are_not_followed(spoilt, made):
    folder = spoilt()
    for name in (WRIST, DATA_FILE, "meta/tasks.parquet"):
        path = folder / name
        path.unlink()
        path.symlink_to(made["v3.0"] / name)
    assert {(Code.PATH_LEAVES, "refuse"), (Code.PATH_LEAVES, "ask")} >= found(folder, "refuse", "ask") != set()
    with pytest.raises(LeRobotError, match=r"a link that leads out of the dataset's folder. Copy .* cp -rL"):
        open_dataset(folder)
    (folder / "meta/info.json").unlink()
    (folder / "meta/info.json").symlink_to(made["v3.0"] / "meta/info.json")
    assert found(folder) == {(Code.PATH_LEAVES, "refuse")}
    # Within it they may be.
    folder = shutil.copytree(made["v3.0"], folder.parent / "inside")
    (folder / WRIST).rename(folder / "blob")
    (folder / WRIST).symlink_to(folder / "blob")
    assert found(folder, "refuse", "ask") == set()


def test_without_its_videos_a_dataset_is_read_without_cameras(spoilt):
    folder = spoilt()
    shutil.rmtree(folder / "videos")
    assert found(folder, "refuse", "ask") == {(Code.VIDEO_MISSING, "ask")}
    dataset = open_dataset(folder)
    with pytest.raises(LeRobotError, match=r"episode 0, field observation.images.front: The video is missing"):
        next(dataset.episodes())
    back = [*dataset.episodes(cameras=False)]
    assert len(back) == 3 and list(back[0].observations) == [STATE] and not back[0].body.pictures
    back[0].check_against(back[0].body)
    only = write(folder.parent / "only", THREE[:1], declared=features(("front",), {"action": JOINTS}), videos=False)
    with pytest.raises(LeRobotError, match="field observations: must be arrays by key"):
        next(open_dataset(only).episodes(cameras=False))


def test_a_broken_camera_alone_is_left_out(spoilt):
    folder = spoilt()
    (folder / WRIST).write_bytes(b"no video")
    dataset = open_dataset(folder)
    assert list(dataset.episode(2, cameras=["front"]).observations) == [STATE, IMAGES + "front"]
    with pytest.raises(
        LeRobotError, match=r"episode 2, field observation\.images\.wrist: The video can't be used: FFmpeg"
    ):
        dataset.episode(2)


def test_a_video_names_no_other_file(spoilt):
    """FFmpeg opens whatever a list of files names, unless it is told that this is an MP4."""
    folder = spoilt()
    (folder / WRIST).rename((folder / WRIST).with_name("other.mp4"))
    (folder / WRIST).write_text("ffconcat version 1.0\nfile other.mp4\n")
    with av.open(str(folder / WRIST)) as container:
        assert container.streams.video[0].width == 32
    assert (Code.VIDEO_BROKEN, "ask") in found(folder)
    with pytest.raises(LeRobotError, match="FFmpeg can't read it"):
        open_dataset(folder).episode(0, cameras=["wrist"])


def test_an_episode_of_one_row_is_left_out(tmp_path):
    folder = write(tmp_path / "d", [episode(6, 0), episode(1, 1), episode(5, 2)], declared=features(()))
    dataset = open_dataset(folder)
    assert dataset.usable == [0, 2] and [each.steps for each in dataset.episodes()] == [5, 4]
    assert (Code.NO_ROWS, "ask") in found(folder)
    with pytest.raises(LeRobotError, match="episode 1: It has 0 steps"):
        dataset.episode(1)
    with pytest.raises(LeRobotError, match="episode 7"):
        dataset.episode(7)


def test_pictures_in_rows_that_are_none(tmp_path):
    declared = features(dtype="image")
    given = episode(6, 0)
    folder = write(tmp_path / "d", [given], declared=declared)
    small = [png(picture(row, 0, (16, 16))) for row in range(6)]
    for bad, words in ((small, "16x16, not 32x24"), ([{"bytes": b"GIF89a", "path": None}] * 6, "can't be read"),
                       ([{"bytes": None, "path": None}] * 6, "no file's bytes")):  # fmt: skip
        edit_rows(folder, replaced(IMAGES + "front", lambda values, bad=bad: values.__setitem__(slice(None), bad)))
        said = [each for each in check(folder) if each.code == Code.PICTURE_BROKEN]
        assert [each.level for each in said] == ["ask"] and words in said[0].text


def test_what_would_take_too_much_memory_is_not_read(made, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LARGEST_READ", 40_000)
    with pytest.raises(LeRobotError, match=r"episode 0: Its pictures would take 0 MiB\. Open the dataset with smaller"):
        open_dataset(made["v3.0"]).episode(0)
    open_dataset(made["v3.0"], picture_width=16).episode(0)
    monkeypatch.setattr(contents, "LARGEST_READ", 100)
    assert found(made["v3.0"]) == {(Code.TOO_LARGE, "refuse")}
    # A few bytes that stand for a million equal numbers.
    folder = shutil.copytree(made["v3.0"], tmp_path / "equal")
    equal = {key: pa.array([[0.0] * 6] * 10_000, pa.list_(pa.float32())) for key in (STATE, "action")}
    pq.write_table(pa.table(equal | {"episode_index": np.zeros(10_000, int)}), folder / DATA_FILE)
    assert (folder / DATA_FILE).stat().st_size < 5000
    monkeypatch.setattr(contents, "LARGEST_READ", 800_000)
    assert (Code.TOO_LARGE, "refuse") in found(folder)
    monkeypatch.undo()
    # A few bytes that claim a billion rows of one value.
    folder = shutil.copytree(made["v3.0"], tmp_path / "many")
    rows = pa.table(
        {"episode_index": pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**6, np.int8)), pa.array([0]))}
    )
    pq.write_table(rows, folder / EPISODES_FILE, row_group_size=10**6)
    monkeypatch.setattr(contents, "MOST_EPISODES", 10**5)
    assert found(folder) == {(Code.TOO_LARGE, "refuse")}


def test_a_small_video_that_claims_many_pictures_is_refused_before_there_is_room_made_for_them(spoilt):
    folder = spoilt()
    data = bytearray((folder / WRIST).read_bytes())
    at, many = data.index(b"stsz"), 30_000_000
    data[at + 8 : at + 16] = struct.pack(">II", 1, many)  # each of one byte
    for name, place in ((b"stts", 12), (b"stsc", 16)):
        data[data.index(name) + place : data.index(name) + place + 4] = struct.pack(">I", many)
    (folder / WRIST).write_bytes(data)
    (problem,) = [each for each in check(folder) if each.level == "ask"]
    assert problem.code == Code.VIDEO_BROKEN and "claims to hold 30000000 pictures" in problem.text


def test_lists_of_problems_stay_short(tmp_path):
    folder = write(tmp_path / "d", [episode(3, i) for i in range(40)], declared=features(()))
    edit_rows(folder, replaced("frame_index", lambda values: [each + 1 for each in values]))
    said = [each for each in check(folder) if each.code == Code.ROWS_DISAGREE]
    assert len(said) == 21 and "20 more of this kind" in said[-1].text


def another_action():
    return {"action": {**BODY.to_json()["action"], "shape": [1], "names": ["a"], "low": [0], "high": [1], "units": []},
            "motions": [], "drive": []}  # fmt: skip


OURS_WRONG = {
    "the body": (lambda own: own.update(body={"name": "x"}), Code.FIELD_WRONG, "no description of a body"),
    "nobody": (lambda own: own.pop("body"), Code.FIELD_WRONG, "is broken"),
    "a recorded camera": (lambda own: own.update(recorded={"a": 7}), Code.FIELD_WRONG, "is broken"),
    "another body": (lambda own: own["body"].update(another_action()), Code.FEATURE_CHANGED, "field action"),
    "another camera": (lambda own: own["body"]["observation"][IMAGES + "wrist"].update(shape=[99, 33, 3]),
                       Code.FEATURE_CHANGED, "take the field fleetui out"),
}  # fmt: skip


@pytest.mark.parametrize("name", OURS_WRONG)
def test_what_we_wrote_is_read_with_suspicion_too(spoilt, name):
    change, code, words = OURS_WRONG[name]
    folder = spoilt("ours")
    edit_info(folder, lambda info: change(info["fleetui"]))
    (problem,) = check(folder)
    assert (problem.code, problem.level) == (code, "refuse") and words in str(problem)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("fleetui/ending", "boredom", "field ending"),
        ("fleetui/uuid", "seven", "field uuid"),
        ("fleetui/policy", None, "field policy"),
        ("fleetui/fps", -1.0, "field fps"),
        ("fleetui/purpose", "demonstration", "field actors"),
        (f"fleetui/last/{STATE}", [1.0], "must match exactly"),
        (f"fleetui/last/{IMAGES}wrist", b"no picture", "of the end can't be read"),
    ],
)
def test_an_episode_of_ours_that_was_changed_is_named(spoilt, column, value, words):
    folder = spoilt("ours")
    edit_episodes(folder, replaced(column, put(1, value)))
    said = [each for each in check(folder) if words in str(each)]
    assert [each.episode for each in said] == [1], [str(each) for each in check(folder)]
    dataset = open_dataset(folder)
    dataset.episode(0), dataset.episode(2)
    with pytest.raises(LeRobotError):
        dataset.episode(1)


@pytest.mark.parametrize("version", ["v3.0", "v2.1", "ours"])
def test_whatever_a_file_holds_the_answer_is_a_sentence(spoilt, version):
    """Bytes turned and cut off anywhere, JSON of other types: nothing but LeRobotError."""
    rng = np.random.default_rng(7)
    folder = spoilt(version)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    values = [None, True, -1, 0, 2**63 - 1, 1.5, "", "x", [], [1], {}, {"a": 1}]
    for turn in range(60):
        path = paths[turn % len(paths)]
        whole = path.read_bytes()
        data = bytearray(whole)
        if turn % 3 == 0 and path.suffix == ".json":
            path.write_text(json.dumps(_with_another(json.loads(whole), values[turn % len(values)], rng)))
        elif turn % 3 == 1:
            path.write_bytes(whole[: rng.integers(len(whole))])
        else:
            for at in rng.integers(len(data), size=rng.integers(1, 20)):
                data[at] ^= 1 << rng.integers(8)
            path.write_bytes(data)
        for problem in check(folder):
            assert problem.text.endswith(".")
        try:
            for _ in open_dataset(folder).episodes():
                pass
        except LeRobotError as error:
            assert str(error).endswith(".")
        path.write_bytes(whole)
    assert found(folder, "refuse", "ask") == set(), "it was whole before and is now"


def _with_another(told, value, rng):
    """One of its values replaced, however deep."""
    if isinstance(told, (dict, list)) and told and rng.random() < 0.85:
        keys = [*told] if isinstance(told, dict) else range(len(told))
        key = keys[rng.integers(len(keys))]
        told[key] = _with_another(told[key], value, rng)
        return told
    return value


def test_wrong_lines_of_the_old_format(spoilt):
    for lines, words in (
        ([{"episode_index": 0, "tasks": ["a"], "length": 12}], "35 rows, but 1 episodes"),
        ([{"episode_index": 1, "tasks": ["a"], "length": 12}], "numbered 0, 1, 2"),
        ([{"episode_index": 0, "tasks": "a", "length": 12}], "list of sentences"),
        ([{"episode_index": 0, "tasks": ["a"], "length": 0}], "field length"),
        ([{"episode_index": 0, "tasks": ["a"], "length": 10**12}], "field length"),
        ([[1, 2]], "must be an object"),
    ):
        folder = spoilt("v2.1")
        write_lines(folder / "meta/episodes.jsonl", lines)
        assert words in str(check(folder)[0]), [str(each) for each in check(folder)]
        shutil.rmtree(folder)
    folder = spoilt("v2.1")
    (folder / "data/chunk-000/episode_000001.parquet").unlink()
    (folder / f"videos/chunk-000/{IMAGES}front/episode_000002.mp4").unlink()
    assert found(folder, "refuse", "ask") == {(Code.FILE_MISSING, "refuse"), (Code.VIDEO_MISSING, "ask")}
    assert open_dataset(folder).episode(0).steps == 11


def test_videos_of_other_makers_are_read(spoilt, made):
    """With frames between others (B), few key frames and another codec, as tools leave them."""
    folder = spoilt()
    for codec, options in (
        ("libx264", {"g": "250", "bf": "3"}),
        ("libsvtav1", {"g": "2", "crf": "20", "preset": "12"}),
    ):
        with av.open(str(folder / WRIST), "w") as container:
            stream = container.add_stream(codec, rate=10, options=options)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"  # AV1's encoder wants no fewer
            for each in THREE:
                for row in range(each["rows"]):
                    frame = av.VideoFrame.from_ndarray(picture(row, 1, (64, 64)), format="rgb24")
                    container.mux(stream.encode(frame))
            container.mux(stream.encode())
        edit_info(folder, lambda info: info["features"][IMAGES + "wrist"].update(shape=[64, 64, 3]))
        dataset = open_dataset(folder)
        for number in (2, 0):
            seen = [*dataset.frames(number, "wrist")]
            assert len(seen) == THREE[number]["rows"]
            for row, shown in enumerate(seen):
                assert np.abs(shown.astype(int) - picture(row, 1, (64, 64))).mean() < 6, (codec, row)
        assert found(folder, "refuse", "ask") == set()
    assert SIZE == (32, 24)

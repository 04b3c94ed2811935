"""Episodes put together anew, and read one by one; how good they are."""

import base64
import json
import zipfile
from collections import Counter

import numpy as np
import pytest
from mcap.reader import make_reader

from robots.__main__ import main
from robots.episodes import EpisodeError, EpisodeFile, cut, read_episodes, write_episodes
from robots.lerobot import assembling
from robots.lerobot.reading import open_dataset
from robots.lerobot.videos import look_at
from robots.mcap_files import write_mcap
from robots.quality import fell_monotonically, quality_of, unusual
from tests.robots.lerobot_folders import episode as foreign
from tests.robots.lerobot_folders import write
from tests.robots.test_episodes import assert_same
from tests.robots.test_lerobot_dataset import BODY, jpeg, make_episode


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.safetensors"
    write_episodes(path, [make_episode(4 + i, i) for i in range(4)])
    return path


def plan(tmp_path, file, into, **more):
    path = tmp_path / "plan.json"
    told = {
        "into": into,
        "target": str(tmp_path / f"made-{into}"),
        "sources": [{"path": str(file)}],
        "body": BODY.to_json(),
        "quality": "lossless",
    }
    path.write_text(json.dumps(told | more))
    return path


def test_a_file_is_read_one_by_one_as_at_once(file):
    whole, one_by_one = read_episodes(file), EpisodeFile(file)
    assert len(one_by_one) == len(whole) == 4
    for number in (2, 0, 3, 1):
        assert_same(one_by_one.episode(number), whole[number])
    assert one_by_one.episode(1, frames=False).frames == {}


def test_a_weight_is_kept_and_one_that_is_none_refused(tmp_path):
    path = tmp_path / "weighed.safetensors"
    write_episodes(path, [make_episode(4, 0, weight=2.5), make_episode(4, 1)])
    assert [each.weight for each in read_episodes(path)] == [2.5, 1.0]
    assert b"weight" not in path.read_bytes()[:20] and path.read_bytes().count(b"weight") == 1
    with pytest.raises(EpisodeError, match="weight"):
        write_episodes(path, [make_episode(4, 0, weight=0.0)])


def test_a_cut_keeps_what_lies_between(file):
    episode = read_episodes(file)[3]
    part = cut(episode, 2, 5)
    assert part.steps == 3 and len(part.steps_to_go) == 4
    np.testing.assert_array_equal(part.actions, episode.actions[2:5])
    for key, array in part.observations.items():
        np.testing.assert_array_equal(array, episode.observations[key][2:6])
    assert all(frames == episode.frames[camera][2:6] for camera, frames in part.frames.items())
    with pytest.raises(EpisodeError, match="can't be cut to 5 to 5"):
        cut(episode, 5, 5)


def test_parts_hold_what_the_plan_says_in_bounded_files(tmp_path, file, monkeypatch):
    monkeypatch.setattr(assembling, "PART_BYTES", 1)
    entries = [
        {"source": 0, "index": 2, "start": 1, "stop": 4, "instruction": "other words", "ending": "time_limit",
         "detected_success": False, "true_success": None, "weight": 3.0},
        {"source": 0, "index": 0},
    ]  # fmt: skip
    assert main(["dataset", "assemble", str(plan(tmp_path, file, "parts", episodes=entries))]) == 0
    paths = sorted((tmp_path / "made-parts").iterdir())
    assert [path.name for path in paths] == ["00000.safetensors", "00001.safetensors"]
    whole = read_episodes(file)
    (first,), (second,) = (read_episodes(path) for path in paths)
    assert (first.instruction, first.ending, first.weight, first.steps) == ("other words", "time_limit", 3.0, 3)
    assert first.uuid != whole[2].uuid
    assert first.frames == {}
    np.testing.assert_array_equal(first.actions, whole[2].actions[1:4])
    assert second.uuid == whole[0].uuid and not list(tmp_path.glob(".*making*"))


def test_an_archive_holds_the_folder_and_the_facts_tell_of_each(tmp_path, file):
    facts = tmp_path / "facts.jsonl"
    assert main(["dataset", "assemble", str(plan(tmp_path, file, "zip", facts=str(facts)))]) == 0
    with zipfile.ZipFile(tmp_path / "made-zip") as archive:
        archive.extractall(tmp_path / "out")
    again = list(open_dataset(tmp_path / "out").episodes())
    for episode, was in zip(again, read_episodes(file), strict=True):
        assert episode.uuid == was.uuid
        np.testing.assert_array_equal(episode.actions, was.actions)
    lines = [json.loads(line) for line in facts.read_text().splitlines()]
    assert lines[0]["body"]["name"] == BODY.name
    assert [line["uuid"] for line in lines[1:]] == [each.uuid for each in again]
    assert lines[2]["quality"]["steps"] == 5


def test_a_folder_without_its_cameras_is_read_from_state_alone(tmp_path):
    folder = write(tmp_path / "theirs", [foreign(12, 0), foreign(9, 1)], videos=False)
    source = assembling.Source(folder, cameras=False)
    episode = source.episode(source.numbers[1])
    assert list(episode.observations) == ["observation.state"] and episode.steps == 8
    source.close()


# How good


def test_quality_counts_idle_ends_and_says_how_far_an_end_may_be_cut():
    moving = make_episode(20, 1)
    for array in moving.observations.values():
        if array.dtype != np.uint8:
            array[:4] = array[4]
            array[15:] = array[15]
    moving.detected_success, moving.threshold = False, None
    found = quality_of(moving)
    assert (found["idle_start"], found["idle_end"]) == (4, 5) and found["reached_from"] == 15
    moving.detected_success, moving.threshold = True, 2.0
    moving.steps_to_go[:] = 30.0
    moving.steps_to_go[12:] = 1.0
    assert quality_of(moving)["reached_from"] == 12
    assert json.loads(json.dumps(found)) == found


def test_a_frozen_camera_and_a_d_that_never_falls_are_told():
    episode = make_episode(30, 1)
    for array in episode.observations.values():
        if array.dtype == np.uint8:
            array[5:26] = array[5]
    episode.steps_to_go[:] = 20.0
    found = quality_of(episode)
    assert found["frozen_s"] == pytest.approx(20 / episode.fps) and found["d_falls"] is False
    (reasons,) = unusual([found])
    assert any("shows one picture" in each for each in reasons) and any("never fall" in each for each in reasons)


def test_what_stands_out_beside_the_others():
    usual = {"steps": 60, "jerk": 0.1, "idle_start": 1, "idle_end": 2, "saturation": 0.0, "jump": 0.05, "gripper": True}
    rows = [usual | {"steps": 60 + i % 5} for i in range(30)]
    rows[7] = usual | {"steps": 400}
    rows[9] = usual | {"gripper": False}
    rows[11] = usual | {"idle_end": 40}
    found = unusual(rows)
    assert [i for i, each in enumerate(found) if each] == [7, 9, 11]
    assert "400 steps, where 62 steps is usual" in found[7][0] and "gripper" in found[9][0]
    assert unusual(rows[7:8]) == [[]]


def test_d_falls_from_frame_to_frame():
    assert fell_monotonically(np.array([9.0, 8, 8.5, 3])) is True
    assert fell_monotonically(np.array([9.0, 3, 8, 3])) is False
    assert fell_monotonically(np.full(4, np.nan)) is None


# One episode for other programs


def test_an_episode_becomes_an_mcap_file(tmp_path):
    jpegs = [jpeg(i) for i in range(6)]
    episode = make_episode(5, 1, frames={"side": jpegs}, started_at=1000.5)
    write_mcap(tmp_path / "one.mcap", episode)
    with (tmp_path / "one.mcap").open("rb") as file:
        reader = make_reader(file)
        found = [(schema.name, channel.topic, message) for schema, channel, message in reader.iter_messages()]
        metadata = next(iter(reader.iter_metadata()))
    topics = Counter(topic for _, topic, _ in found)
    assert topics == {"/state": 6, "/action": 5, "/camera/wrist": 6, "/camera/side": 6, "/step": 6}
    images = [json.loads(m.data) for name, topic, m in found if topic == "/camera/side"]
    assert [base64.b64decode(each["data"]) for each in images] == jpegs
    assert images[1]["timestamp"] == {"sec": 1000, "nsec": 500_000_000 + round(1e9 / episode.fps)}
    (joints,) = [json.loads(m.data)["joints"] for n, topic, m in found if topic == "/action"][:1]
    assert [each["position"] for each in joints] == pytest.approx(episode.actions[0].tolist())
    assert metadata.metadata["instruction"] == episode.instruction


@pytest.mark.parametrize("camera", ["wrist", "side"])
def test_an_episode_becomes_a_video(tmp_path, camera):
    path = tmp_path / "some.safetensors"
    write_episodes(path, [make_episode(5, 1, frames={"side": [jpeg(i) for i in range(6)]})])
    told = plan(tmp_path, path, "mp4", camera=camera, episodes=[{"source": 0, "index": 0, "start": 1, "stop": 4}])
    assert main(["dataset", "assemble", str(told)]) == 0
    assert len(look_at(tmp_path / "made-mp4").times) == 4
    told = plan(tmp_path, path, "mp4", camera="nowhere")
    assert main(["dataset", "assemble", str(told)]) == 2 and (tmp_path / "made-mp4").exists()

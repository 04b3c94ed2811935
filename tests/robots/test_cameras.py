"""What a station's cameras show live and keep for the replay; whatever they do, practice goes on."""

import io
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from robots import cameras, episodes
from robots.__main__ import main
from robots.cameras import Cameras
from robots.embodiments import IMAGES, STATE, Camera, picture
from robots.episodes import episodes_to_bytes, read_episodes, write_episodes
from robots.protocol import Watch, Welcome
from robots.rules import RECORDED, SETTINGS
from robots.station import Station
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.robots.station_fakes import Clock, FakeWorld, loaded_policy, told
from tests.robots.test_episodes import jpegs
from tests.robots.test_episodes import make_episode as make_stored_episode

WRIST = IMAGES + "wrist"
TWO = replace(LANGUAGE_TABLE, views=(Camera("front", 640, 480), Camera("wrist", 640, 480)))


class FilmedWorld(FakeWorld):
    """Two cameras, each of one colour that grows step by step; `broken_cameras` raise."""

    embodiment = TWO
    renderer = "camera"

    def __init__(self):
        super().__init__()
        self.taken, self.broken_cameras = 0, set()

    def render(self, camera, width, height):
        if camera in self.broken_cameras:
            raise RuntimeError("it is unplugged")
        self.taken += 1
        shade = min(255, int(self.state[0] * 1000)) if camera == "front" else 7
        return np.full((480, 640, 3), shade, np.uint8)


class FakeLink:
    name, connected = "arm", True

    def __init__(self):
        self.shown = []

    def show_frame(self, step, episode, captured_at, jpeg, camera=0):
        self.shown.append(camera)


class FakeEncoder:
    def put(self, cameras, camera, image, stamp):
        cameras.send(camera, b"\xff\xd8", stamp)


@pytest.fixture
def world():
    return FilmedWorld()


class Bench:
    def __init__(self, world, limit=20, **settings):
        self.world, self.clock, self.episodes, self.link = world, Clock(), [], FakeLink()
        self.station = Station(world, store=self.episodes.append, clock=self.clock)
        self.cameras = Cameras(self.station, self.link, FakeEncoder())
        self.station.receive(told({"type": "welcome", "settings": {"speed": 0, **settings}}))
        task = {"name": "block2block", "time_limit_steps": limit}
        self.station.receive(told({"type": "assignment", "assignment": 1, "run": 1, "task": task}))
        self.station.offer_policy(loaded_policy(threshold=0.0))

    def step(self, count):
        for _ in range(count):
            self.clock.pass_(1)
            if self.station.observe() is not None:
                self.station.act(np.array([0.01, 0.0], np.float32), 10.0, None)

    def episode(self):
        while not self.episodes:
            self.step(1)
        return self.episodes.pop(0)


def shades(frames):
    return [int(np.asarray(Image.open(io.BytesIO(jpeg)))[0, 0, 0]) for jpeg in frames]


def test_a_real_robot_keeps_a_small_picture_of_each_view_at_each_step(world):
    episode = Bench(world).episode()
    assert {name: len(frames) for name, frames in episode.frames.items()} == {"front": 21, "wrist": 21}
    assert Image.open(io.BytesIO(episode.frames["front"][0])).size == (320, 240)
    front = shades(episode.frames["front"])
    assert front == pytest.approx([10 * i for i in range(21)], abs=2), "the picture belongs to its observation"
    assert len(set(map(id, episode.frames["wrist"]))) == 1, "what has not changed is encoded and stored once"
    (read,) = read_episodes(episodes_to_bytes([episode]))
    assert read.frames == episode.frames


@pytest.mark.parametrize(
    ("renderer", "said", "kept"),
    [("camera", "", True), ("camera", "no", False), ("egl", "", False), ("egl", "yes", True), ("", "", False)],
)
def test_the_setting_says_who_keeps_pictures(world, renderer, said, kept):
    world.renderer = renderer
    assert bool(Bench(world, record_frames=said).episode().frames) == kept
    assert said in RECORDED and SETTINGS["record_frames"].check(said) == said


@pytest.fixture
def seeing(world):
    """Its policy sees by the camera wrist, which is a view too."""
    world.embodiment = replace(TWO, observation={**TWO.observation, WRIST: picture(4, 4)})
    world.observation = lambda: FakeWorld.observation(world) | {WRIST: np.zeros((4, 4, 3), np.uint8)}
    return world


def test_what_a_policy_sees_by_is_not_kept_twice(seeing):
    episode = Bench(seeing).episode()
    assert list(episode.frames) == ["front"] and WRIST in episode.observations


def test_what_a_person_drives_for_long_becomes_several_episodes_that_can_be_sent(seeing, monkeypatch):
    monkeypatch.setattr(episodes, "MOST_FRAME_BYTES", 60_000)
    monkeypatch.setattr(episodes, "MOST_PICTURE_BYTES", 60_000 + 48 * 5)
    bench = Bench(seeing)
    drive(bench, 10)
    driven = bench.episodes
    assert [(each.steps, each.ending) for each in driven] == [(4, "override"), (4, "override"), (2, "operator")]
    assert {(each.instruction, each.purpose) for each in driven} == {(driven[0].instruction, "correction")}
    for before, after in itertools.pairwise(driven):
        assert (before.observations[STATE][-1] == after.observations[STATE][0]).all(), "nothing lies between them"
        assert len(after.frames["front"]) == after.steps + 1
    for each in driven:
        assert len(read_episodes(episodes_to_bytes([each]))) == 1


def test_a_task_of_more_steps_than_can_be_sent_is_why_it_waits(seeing, monkeypatch):
    monkeypatch.setattr(episodes, "MOST_FRAME_BYTES", 60_000)
    monkeypatch.setattr(episodes, "MOST_PICTURE_BYTES", 60_000 + 48 * 21)
    assert Bench(seeing, limit=20).episode().steps == 20
    refused = Bench(seeing, limit=21).station.telemetry()
    assert refused.state == "idle" and "an attempt of 21 steps holds more pictures than can be sent" in refused.reason
    assert "lower the time limit" in refused.reason


def test_a_camera_that_fails_repeats_its_picture_and_says_so_and_comes_back(world, monkeypatch, caplog):
    monkeypatch.setattr(cameras, "AGAIN_S", 0.0)
    bench = Bench(world)
    bench.step(6)
    world.broken_cameras = {"front"}
    bench.step(8)
    assert "its camera front failed: it is unplugged" in bench.station.telemetry().camera_error
    assert caplog.text.count("it is unplugged") == 1
    world.broken_cameras = set()
    front = shades(bench.episode().frames["front"])
    assert bench.station.telemetry().camera_error == ""
    assert front[6] < 70 and set(front[7:15]) == {front[6]} and front[15] > 140


def test_a_camera_that_fails_is_not_asked_again_at_each_step(world):
    world.broken_cameras = {"front", "wrist"}
    bench = Bench(world)
    bench.step(10)
    asked = []
    world.render = lambda camera, width, height: asked.append(camera)
    bench.step(5)
    assert asked == []


def test_a_camera_that_sent_nothing_at_the_beginning_keeps_nothing_and_practice_goes_on(world, monkeypatch):
    monkeypatch.setattr(cameras, "AGAIN_S", 0.0)
    world.broken_cameras = {"wrist"}
    bench = Bench(world)
    bench.step(5)
    world.broken_cameras = set()
    assert {name: len(frames) for name, frames in bench.episode().frames.items()} == {"front": 21}
    assert set(bench.episode().frames) == {"front", "wrist"}, "the next one has it from the beginning"


def test_a_long_episode_keeps_rarer_pictures_and_is_never_lost(world, monkeypatch):
    jpeg = len(cameras.to_jpeg(np.zeros((240, 320, 3), np.uint8), (320, 240)))
    monkeypatch.setattr(cameras, "MOST_FRAME_BYTES", 12 * jpeg)
    episode = Bench(world, limit=60).episode()
    front = episode.frames["front"]
    fresh = [i for i in range(1, 61) if front[i] is not front[i - 1]]
    assert len(front) == 61 and len(episodes_to_bytes([episode])) < 60 * jpeg
    assert fresh[0] == 1 and max(np.diff(fresh)) >= 4 and fresh[-1] < 60
    assert sum(map(len, {id(each): each for each in front}.values())) < 14 * jpeg


def drive(bench, steps):
    """An override of so many steps."""
    command = {"type": "command", "id": "o", "name": "override", "args": {}, "epoch": 1, "by": "ann", "ttl_ms": None}
    bench.station.receive(told(command))
    for number in range(steps):
        drive = {**command, "id": f"d{number}", "name": "drive", "args": {"axes": {"x": 1.0}}}
        bench.station.receive(told(drive), bench.clock.now)
        bench.clock.pass_(0.2)
        if bench.station.observe() is not None:
            bench.station.act(None, math.nan, None)
    bench.station.receive(told({**command, "id": "h", "name": "hand_back"}))


def test_what_a_person_drives_is_filmed_too(world):
    bench = Bench(world)
    bench.step(5)
    drive(bench, 4)
    cut, driven = bench.episodes[:2]
    assert (cut.ending, driven.purpose) == ("override", "correction")
    for each in (cut, driven):
        assert {len(frames) for frames in each.frames.values()} == {each.steps + 1}


# Live


def test_the_cameras_that_are_watched_are_shown_in_turn_at_a_bounded_rate(world):
    bench = Bench(world)
    bench.cameras.show()
    assert bench.link.shown == [] and bench.cameras.due == math.inf
    for watched, shown in (((), {0}), (("wrist",), {1}), (("front", "wrist"), {0, 1}), (("nobody's",), {0})):
        bench.cameras.hear(Watch(fps=10, width=64, height=48, cameras=watched))
        bench.link.shown.clear()
        for _ in range(4):
            bench.cameras._due = 0.0
            bench.cameras.show()
        assert set(bench.link.shown) == shown
        assert bench.cameras.fps == 10 * len(shown)
    bench.cameras.hear(Watch(fps=25, width=64, height=48, cameras=("front", "wrist")))
    assert bench.cameras.fps == 30
    bench.cameras.hear(Welcome())
    assert bench.cameras.due == math.inf


def test_a_live_camera_that_fails_leaves_the_other_its_pictures(world):
    world.broken_cameras = {"wrist"}
    bench = Bench(world, record_frames="no")
    bench.cameras.hear(Watch(fps=10, width=64, height=48, cameras=("front", "wrist")))
    for _ in range(6):
        bench.cameras._due = 0.0
        bench.cameras.show()
    assert bench.link.shown == [0, 0, 0]
    assert bench.station.camera_error == "its camera wrist failed: it is unplugged"


def test_a_body_without_cameras_is_watched_in_vain(world):
    world.embodiment = replace(TWO, views=())
    bench = Bench(world)
    bench.cameras.hear(Watch(fps=10, width=64, height=48))
    bench.cameras.show()
    assert bench.cameras.due == math.inf and bench.episode().frames == {}


# The replay's pictures


def render(tmp_path, episode):
    write_episodes(tmp_path / "e.safetensors", [episode])
    status = main(["render", "--episode", str(tmp_path / "e.safetensors"), "--out", str(tmp_path / "f")])
    file = tmp_path / "f" / "cameras.json"
    return status, json.loads(file.read_text()) if file.exists() else None


def test_recorded_pictures_are_written_for_each_camera_and_equal_ones_share_their_room(tmp_path):
    wrist = [b"\xff\xd8 w"] * 6
    episode = make_stored_episode(5, frames={"../up": jpegs(6), "wrist": wrist})
    status, told_of = render(tmp_path, episode)
    # The table's own camera has nothing recorded, and is drawn.
    assert status == 0 and [each["name"] for each in told_of] == ["front", "../up", "wrist"]
    assert not any(each["missing"] for each in told_of)
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["0", "1", "2", "cameras.json"]
    assert [(tmp_path / "f" / "1" / f"{i:05d}.jpg").read_bytes() for i in range(6)] == jpegs(6)
    files = [tmp_path / "f" / "2" / f"{i:05d}.jpg" for i in range(6)]
    assert [file.read_bytes() for file in files] == wrist and len({file.stat().st_ino for file in files}) == 1
    assert render(tmp_path, episode)[0] == 0, "what a job that died left behind is no hindrance"


def test_a_policys_own_pictures_are_shown_and_a_camera_that_nobody_kept_says_what_to_do(tmp_path, capsys):
    body = replace(TWO, name="my_arm", observation={STATE: TWO.observation[STATE], IMAGES + "wrist": picture(20, 16)})
    seen = {STATE: np.zeros((6, 4), np.float32), IMAGES + "wrist": np.full((6, 16, 20, 3), 90, np.uint8)}
    status, told_of = render(tmp_path, make_stored_episode(5, embodiment="my_arm", body=body, observations=seen))
    assert status == 0 and [each["name"] for each in told_of] == ["front", "wrist"]
    assert "Keep the cameras' pictures" in told_of[0]["missing"] and told_of[1]["missing"] == ""
    assert Image.open(tmp_path / "f" / "1" / "00005.jpg").size == (20, 16)
    body = replace(body, observation={STATE: TWO.observation[STATE]})
    del seen[IMAGES + "wrist"]
    (tmp_path / "f" / "cameras.json").unlink()
    status, told_of = render(tmp_path, make_stored_episode(5, embodiment="my_arm", body=body, observations=seen))
    assert status == 2 and told_of is None and "The camera front has no pictures" in capsys.readouterr().err

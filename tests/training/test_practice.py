import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from robots import cameras, commands
from robots.driver import Driver
from robots.embodiments import vector
from robots.episodes import ACTORS, read_episodes
from robots.link import FRAME_HEADER
from robots.protocol import Watch
from robots.station import Station
from robots.tasks import get_task
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.robots.fake_server import until
from tests.robots.station_fakes import FakePolicy, FakeRewardModel, FakeTime, FakeWorld, loaded_policy, told
from training import practice
from training.checkpoints import CheckpointMetadata, save_checkpoint
from training.networks.network import Network
from training.practice import Entry, HostError, StationHost, read_tokens, step_together
from training.vocabulary import Vocabulary

ASSIGNMENT = {
    "type": "assignment",
    "assignment": 1,
    "run": 1,
    "task": {"name": "block2block", "time_limit_steps": 6},
    "purpose": "practice",
}
SIZES = {"hidden": 16, "layers": 1, "action_bins": 11, "bins": 50}


def checkpoint_bytes(folder, role, version=1, embodiment=LANGUAGE_TABLE, value_updates=0):
    rng = np.random.default_rng(0)
    words = {word for _ in range(50) for word in get_task("block2block").sample(rng, _blocks()).text.split()}
    metadata = CheckpointMetadata(
        role=role,
        version=version,
        embodiment=embodiment.to_json(),
        vocabulary=sorted(words),
        tasks=["block2block"],
        sizes=SIZES,
        bin_width=2.0,
        threshold=0.0,
        consecutive=1,
        recipe={},
        value_updates=value_updates,
    )
    network = Network(embodiment, Vocabulary(metadata.vocabulary), **SIZES)
    path = folder / f"{role}-{version}.safetensors"
    save_checkpoint(path, network, metadata)
    return path.read_bytes()


def _blocks():
    return [kind.name for kind in LANGUAGE_TABLE.objects]


def policy_message(server, folder, version=1, threshold=0.0, value_updates=0, embodiment=LANGUAGE_TABLE, **changes):
    content = checkpoint_bytes(folder, "policy", version, embodiment, value_updates)
    url, sha256 = server.add_file(f"policy-{version}", content)
    judge_url, judge_sha256 = server.add_file("judge", _judge(folder, embodiment))
    return {
        "type": "policy",
        "checkpoint": f"policy-{version}",
        "version": version,
        "url": url,
        "sha256": sha256,
        "reward_model": "judge",
        "reward_model_url": judge_url,
        "reward_model_sha256": judge_sha256,
        "threshold": threshold,
        "consecutive": 1,
    } | changes


def _judge(folder, embodiment):
    path = folder / "reward_model-1.safetensors"
    return path.read_bytes() if path.exists() else checkpoint_bytes(folder, "reward_model", 1, embodiment)


@pytest.fixture
def tokens(tmp_path):
    return write_tokens(tmp_path / "tokens.json", 3)


def write_tokens(path, count):
    rows = [
        {"station": f"table-{n}", "token": f"good-token/{n}", "world": "language_table", "seed": n}
        for n in range(count)
    ]
    path.write_text(json.dumps(rows))
    path.chmod(0o600)
    return path


@pytest.fixture
def host(server, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(practice, "TOKENS_LOOKED_AT_EVERY_S", 0.1)
    host = StationHost(server.url, tokens, tmp_path / "stations", make_world=lambda name, seed: FakeWorld(seed))
    thread = threading.Thread(target=host.run)
    thread.start()
    yield host
    host.stop()
    thread.join(60)
    assert not thread.is_alive()


# The batched step


def acting_station(loaded, seed=0):
    return begin_practice(Station(FakeWorld(), seed=seed), loaded)


def begin_practice(station, loaded, time_limit=6):
    station.receive(told({"type": "command", "id": "fast", "name": "speed", "args": {"value": 0}, "ttl_ms": 9}))
    task = ASSIGNMENT["task"] | {"time_limit_steps": time_limit}
    station.receive(told(ASSIGNMENT | {"task": task}))
    if loaded is not None:
        station.offer_policy(loaded)
    return station


def test_one_network_call_for_each_distinct_checkpoint():
    old, new, judge = FakePolicy(), FakePolicy((0.0, 0.01)), FakeRewardModel(distance=90)
    stations = [acting_station(loaded_policy(1, policy=old, reward_model=judge)) for _ in range(3)]
    stations += [acting_station(loaded_policy(2, policy=new, reward_model=judge)) for _ in range(2)]
    assert step_together(stations) == 5
    assert old.calls == [3] and new.calls == [2] and judge.calls == [5]
    assert [station.driver.world.state[1] > 0 for station in stations] == [False] * 3 + [True] * 2, (
        "each has its own policy's action"
    )


def test_a_station_without_a_policy_takes_no_part():
    waiting, acting = acting_station(None), acting_station(loaded_policy(1))
    assert step_together([waiting, acting]) == 1
    assert waiting.attempts.steps_taken == 0


def test_a_person_drives_a_station_among_others():
    driven, other = acting_station(None), acting_station(loaded_policy(1))
    driven.receive(told({"type": "command", "id": "a", "name": "override", "args": {}, "ttl_ms": 900, "epoch": 1}))
    drive = {"type": "command", "id": "b", "name": "drive", "args": {"axes": {"x": -1}}, "ttl_ms": 900, "epoch": 1}
    driven.receive(told(drive))
    assert step_together([driven, other]) == 2
    assert driven.recording.actions[0][0] == pytest.approx(-0.03) and other.recording.actions[0][0] == pytest.approx(
        0.01
    )


# The host


def test_stations_practise_and_their_episodes_arrive(server, host, tmp_path):
    until(lambda: len(server.sockets) == 3)
    hello = server.of("hello")[0]
    assert hello["tasks"] == ["block2block", "block_to_place"] and hello["renderer"] == "drawn"
    server.send(ASSIGNMENT)
    server.send(policy_message(server, tmp_path))
    until(lambda: len(server.episodes) > 20)
    assert len(server.of("policy_loaded")) == 3 and server.downloads == {"policy-1": 1, "judge": 1}
    for episode in server.episodes.values():
        assert (episode.policy, episode.reward_model, episode.threshold) == ("policy-1", "judge", 0.0)
        assert episode.ending == "time_limit" and episode.steps == 6
        assert np.isfinite(episode.steps_to_go).all() and (episode.actors == ACTORS.index("policy")).all()
    assert max(server.uploads.values()) == 1
    states = {message["state"] for message in server.of("telemetry")}
    assert {"idle", "waiting", "practising"} <= states


def test_a_round_ends_by_hold_and_the_next_policy_goes_on(server, host, tmp_path):
    until(lambda: len(server.sockets) == 3)
    server.send(ASSIGNMENT)
    server.send(policy_message(server, tmp_path))
    until(lambda: len(server.episodes) > 5)
    server.hold = True  # answered to uploads: each station stops after its next episode
    until(lambda: all(member.station.control.state == "waiting" for member in host.members.values()))
    steps = host.steps
    time.sleep(0.2)
    assert host.steps == steps
    server.hold = False
    server.send(policy_message(server, tmp_path, 2))
    until(lambda: any(episode.policy == "policy-2" for episode in server.episodes.values()))
    assert len(server.of("policy_loaded")) == 6


def test_a_policy_for_another_body_is_refused_in_words(server, host, tmp_path):
    until(lambda: len(server.sockets) == 3)
    message = policy_message(server, tmp_path)
    (tmp_path / "other").mkdir()
    content = checkpoint_bytes(tmp_path / "other", "policy", embodiment=replace(LANGUAGE_TABLE, name="other_table"))
    message["url"], message["sha256"] = server.add_file("other", content)
    server.send(ASSIGNMENT)
    server.send(message)
    until(lambda: any("is for other_table" in telemetry["reason"] for telemetry in server.of("telemetry")))
    assert not server.of("policy_loaded")


def test_a_policy_for_another_size_of_the_body_is_refused_in_words(server, host, tmp_path):
    until(lambda: len(server.sockets) == 3)
    message = policy_message(server, tmp_path)
    (tmp_path / "other").mkdir()
    three = replace(LANGUAGE_TABLE, action=vector("xyz", (-1.0,) * 3, (1.0,) * 3), motions=(), drive=())
    content = checkpoint_bytes(tmp_path / "other", "policy", embodiment=three)
    message["url"], message["sha256"] = server.add_file("other", content)
    server.send(ASSIGNMENT)
    server.send(message)
    changed = "as it was before: action is float32 [2], and was float32 [3]"
    until(lambda: any(changed in telemetry["reason"] for telemetry in server.of("telemetry")))


def test_a_file_that_is_no_checkpoint_is_refused_in_words(server, host, tmp_path):
    until(lambda: len(server.sockets) == 3)
    message = policy_message(server, tmp_path)
    message["url"], message["sha256"] = server.add_file("broken", b"no checkpoint")
    server.send(ASSIGNMENT)
    server.send(message)
    until(lambda: any("cannot be loaded" in telemetry["reason"] for telemetry in server.of("telemetry")))


def test_commands_are_done_once_and_answered_through_the_link(server, host):
    until(lambda: len(server.sockets) == 3)
    for _ in range(2):
        server.command("reset", id="the-same")
    until(lambda: len(server.of("command_done")) == 6)
    assert all(message["ok"] for message in server.of("command_done"))
    assert all(member.station.driver.world.resets == 2 for member in host.members.values()), (
        "at the start, and once more"
    )


def test_an_override_from_afar_becomes_a_correction(server, host, monkeypatch):
    monkeypatch.setattr(commands, "GONE_S", 1e9)  # here nobody is gone, however long this process stands still
    until(lambda: len(server.sockets) == 3)
    server.command("override", id="o")
    began, drives = time.monotonic(), itertools.count()

    def driven():
        server.command("drive", id=f"d{next(drives)}", axes={"x": 0.5, "y": -0.5})
        recorded = [member.station.recording for member in host.members.values()]
        return all(each is not None and each.steps >= 3 for each in recorded)

    until(driven)
    server.command("hand_back", id="h")
    until(lambda: len(server.episodes) == 3)
    most = 1 + LANGUAGE_TABLE.fps * (time.monotonic() - began)
    for episode in server.episodes.values():
        assert episode.purpose == "correction" and (episode.actors == ACTORS.index("human")).all()
        assert 3 <= episode.steps <= most, "at the control rate, however many drives come"
        np.testing.assert_allclose(episode.actions, np.tile([0.015, -0.015], (episode.steps, 1)), rtol=1e-5)


def test_after_a_reconnection_practice_goes_on(server, host, tmp_path):
    until(lambda: len(server.sockets) == 3)
    server.on_welcome = [ASSIGNMENT, policy_message(server, tmp_path)]
    server.drop()
    until(lambda: server.connections == 6)
    until(lambda: len(server.episodes) > 5)
    server.drop()
    until(lambda: server.connections == 9)
    before = len(server.episodes)
    until(lambda: len(server.episodes) > before + 5)
    assert max(server.uploads.values()) == 1


def test_only_watched_stations_send_frames_of_the_size_asked(server, host, tmp_path):
    until(lambda: len(server.sockets) == 3)
    time.sleep(0.2)
    assert not server.frames
    watched_at = time.time()
    server.send({"type": "watch", "fps": 20, "width": 160, "height": 120})
    until(lambda: len(server.frames) > 12)
    server.send({"type": "watch", "fps": 0, "width": 160, "height": 120})
    step, episode, captured = FRAME_HEADER.unpack_from(server.frames[-1][1])
    assert (step, episode) == (0, 0) and watched_at <= captured <= time.time()
    assert Image.open(io.BytesIO(server.frames[-1][1][FRAME_HEADER.size :])).size == (160, 120)

    def none_comes():
        count = len(server.frames)
        time.sleep(0.3)  # six are due in it of each station that is watched
        return len(server.frames) == count

    until(none_comes)


def test_cameras_leave_practice_its_time(tmp_path, monkeypatch):
    """A camera that takes 50 ms a frame (software OpenGL) may not eat the control loop, where a step takes 10 ms."""
    clock, rendered = FakeTime(), []
    monkeypatch.setattr(practice, "time", clock)
    monkeypatch.setattr(cameras, "time", clock)

    class Slow(FakeWorld):
        def render(self, camera, width, height):
            clock.now += 0.05
            rendered.append(camera)
            return super().render(camera, width, height)

    class Acting(FakePolicy):
        def act(self, *batch):
            clock.now += 0.01
            return super().act(*batch)

    host = StationHost("http://127.0.0.1:1", None, tmp_path)
    try:
        station = host.join(Entry("arm", "token"), Driver(Slow()))
        loaded = loaded_policy(policy=Acting(), reward_model=FakeRewardModel(distance=1e6))
        begin_practice(station, loaded, time_limit=1000)
        host.members["arm"].cameras.link = SimpleNamespace(connected=True, show_frame=lambda *frame: None, name="arm")
        host.members["arm"].cameras.hear(Watch(fps=30, width=32, height=24))
        began = clock.now
        acted = [host.tick() for _ in range(500)]
    finally:
        host.close()
    share = 0.05 * len(rendered) / (clock.now - began)
    assert share == pytest.approx(practice.RENDER_SHARE, abs=0.02)
    assert acted == 500 * [1], "and practice went on in each round"


def test_a_station_added_to_the_tokens_file_joins_and_a_removed_one_leaves(server, host, tokens):
    until(lambda: len(server.sockets) == 3)
    write_tokens(tokens, 4)
    until(lambda: len(server.sockets) == 4)
    tokens.write_text("{broken")
    time.sleep(0.3)
    assert len(host.members) == 4, "a file that cannot be read changes nothing"
    write_tokens(tokens, 2)
    until(lambda: len(server.sockets) == 2 and len(host.members) == 2)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read"),
        ("{}", "must hold a list"),
        ('[{"token": "t"}]', "Entry 1 of .* must be an object"),
        ('[{"station": "a", "token": ""}]', "The station a has no token"),
        ('[{"station": "a"}]', "The station a has no token"),
        ('[{"station": "a", "token": "t"}, {"station": "a", "token": "u"}]', "names a twice"),
    ],
)
def test_a_wrong_tokens_file_is_said(tmp_path, content, sentence):
    path = tmp_path / "tokens.json"
    path.write_text(content)
    with pytest.raises(HostError, match=sentence):
        read_tokens(path)


def test_a_missing_tokens_file_is_said(tmp_path):
    with pytest.raises(HostError, match="There is no tokens file"):
        read_tokens(tmp_path / "none.json")


def test_sigterm_ends_the_host_cleanly_with_episodes_on_disk(server, tmp_path):
    """The real command with the real world; the server takes no upload, so what was practised must lie in the spool."""
    tokens = write_tokens(tmp_path / "tokens.json", 2)
    server.answers = [(503, "busy")] * 10_000
    server.settings["speed"] = 4
    server.on_welcome = [
        ASSIGNMENT | {"task": {"name": "block2block", "time_limit_steps": 1000}},
        policy_message(server, tmp_path),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "practise", "--server", server.url, "--tokens", str(tokens)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        # Both stations must be at work: one alone would leave one episode.
        until(lambda: len({m["uuid"] for m in server.of("telemetry") if m["step"] >= 2}) == 2, seconds=60)
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in log
    assert "good-token" not in log
    spooled = list((tmp_path / "stations").glob("*/spool/*.safetensors"))
    assert len(spooled) == 2
    for path in spooled:
        (episode,) = read_episodes(path)
        assert episode.ending == "stop" and episode.steps >= 2 and not episode.detected_success


def test_a_missing_token_ends_the_command_with_a_sentence(tmp_path):
    path = tmp_path / "tokens.json"
    path.write_text('[{"station": "arm", "token": ""}]')
    done = subprocess.run(
        [sys.executable, "-m", "training", "practise", "--server", "http://127.0.0.1:1", "--tokens", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "The station arm has no token" in done.stderr and "Traceback" not in done.stderr


def test_a_policy_that_broke_stops_only_its_own_stations():
    class Broken(FakePolicy):
        def act(self, *batch):
            raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")

    stations = [acting_station(loaded_policy(policy=policy)) for policy in (Broken(), FakePolicy())]
    step_together(stations)
    assert [station.control.state for station in stations] == ["needs_person", "practising"]
    assert stations[1].recording.steps == 1


def test_a_reward_model_that_broke_stops_only_its_own_stations():
    class Broken(FakeRewardModel):
        def steps_to_go(self, *batch):
            raise ValueError("its weights are NaN")

    stations = [acting_station(loaded_policy(reward_model=judge)) for judge in (Broken(), FakeRewardModel())]
    step_together(stations)
    assert [station.control.state for station in stations] == ["needs_person", "practising"]
    assert stations[0].attempts.steps_taken == 0 and stations[1].recording.steps == 1


@pytest.mark.parametrize("name", ["step", "true_success", "needs_reset", "objects_in_play", "reset"])
@pytest.mark.parametrize("error", [RuntimeError("the bus is down"), SystemExit(1)], ids=["raises", "exits"])
def test_a_driver_that_fails_touches_no_neighbour(server, host, tmp_path, name, error):
    def fail(*_):
        raise error

    until(lambda: len(server.sockets) == 3)
    broken, *others = host.members.values()
    server.send(ASSIGNMENT)
    server.send(policy_message(server, tmp_path))
    until(lambda: len(server.episodes) > 5)
    setattr(broken.station.driver.world, name, fail)
    if name == "reset":
        server.command("reset", id="r")
    until(lambda: broken.station.control.state == "needs_person")
    before = [member.station.attempts.number for member in others]
    until(lambda: all(m.station.attempts.number > b + 3 for m, b in zip(others, before, strict=True)))
    assert "failed" in broken.station.control.reason and broken.link.connected
    until(lambda: any("failed" in telemetry["reason"] for telemetry in server.of("telemetry")))
    if name == "true_success":
        until(lambda: any(episode.true_success is None for episode in server.episodes.values()))


@pytest.mark.parametrize("error", [OSError("no such device"), SystemExit(3), RuntimeError("no GPU")])
def test_a_world_that_can_not_be_made_is_a_station_that_says_so_and_the_others_go_on(server, tokens, tmp_path, error):
    faults = {1: error}

    def make(name, seed):
        if fault := faults.get(seed):
            raise fault
        return FakeWorld(seed)

    host = StationHost(server.url, tokens, tmp_path / "stations", make_world=make)
    thread = threading.Thread(target=host.run)
    thread.start()
    try:
        until(lambda: len(server.sockets) == 3 and len(server.of("telemetry")) >= 3)
        states = [member.station.control.state for member in host.members.values()]
        assert states == ["idle", "needs_person", "idle"]
        until(lambda: any("making its world failed" in told["reason"] for told in server.of("telemetry")))
        faults.clear()
        server.command("reset", id="once it is plugged in")
        until(lambda: len(server.of("command_done")) == 3)
        assert all(answer["ok"] for answer in server.of("command_done"))
        assert [member.station.control.state for member in host.members.values()] == ["idle"] * 3
    finally:
        host.stop()
        thread.join(60)


def test_a_world_that_nobody_knows_is_said_in_one_line_and_the_others_go_on(server, tokens, tmp_path, caplog):
    rows = json.loads(tokens.read_text())
    rows[1]["world"] = "moon_base"
    tokens.write_text(json.dumps(rows))
    host = StationHost(server.url, tokens, tmp_path / "stations", make_world=lambda name, seed: FakeWorld(seed))
    try:
        host._follow_tokens_file(first=True)
        assert list(host.members) == ["table-0", "table-2"]
        (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert "table-1 cannot start" in line and "no world 'moon_base'" in line
    finally:
        host.close()


def test_a_camera_that_gives_no_pictures_leaves_all_others_theirs(server, host, caplog, monkeypatch):
    monkeypatch.setattr(cameras, "AGAIN_S", 0.1)
    until(lambda: len(server.sockets) == 3)
    grey, none, endless = (member.station.driver.world for member in host.members.values())
    grey.render = lambda camera, width, height: np.full(
        (1, 2000, 3000), 0.5
    )  # larger than asked, floats, channels first
    none.render = lambda camera, width, height: None
    endless.render = lambda camera, width, height: np.zeros((1, 70_000, 3), np.uint8)  # no JPEG is so wide
    server.send({"type": "watch", "fps": 20, "width": 60, "height": 40})
    until(lambda: len(server.frames) > 6)
    sizes = {Image.open(io.BytesIO(frame[FRAME_HEADER.size :])).size for _, frame in server.frames}
    assert (60, 40) in sizes
    until(lambda: any("gave no picture" in told["camera_error"] for told in server.of("telemetry")))
    assert caplog.text.count("its camera front gave no picture") == 1


def test_what_the_encoder_can_not_encode_is_said_and_its_thread_lives(server, host, monkeypatch, caplog):
    monkeypatch.setattr(cameras, "AGAIN_S", 0.1)
    until(lambda: len(server.sockets) == 3)
    real, bad = cameras.to_jpeg, list(host.members.values())[1]

    def to_jpeg(picture, largest):
        if (picture == 77).all():
            raise ValueError("encoder error -2")
        return real(picture, largest)

    monkeypatch.setattr(cameras, "to_jpeg", to_jpeg)
    bad.station.driver.world.render = lambda camera, width, height: np.full((height, width, 3), 77, np.uint8)
    server.send({"type": "watch", "fps": 20, "width": 32, "height": 24})
    until(lambda: "encoder error -2" in bad.station.camera_error)
    count = len(server.frames)
    until(lambda: len(server.frames) > count + 5)
    del bad.station.driver.world.render
    until(lambda: not bad.station.camera_error)


def test_a_camera_that_fails_stops_nothing_and_is_said_once(server, host, caplog, monkeypatch):
    monkeypatch.setattr(cameras, "AGAIN_S", 0.1)
    until(lambda: len(server.sockets) == 3)

    def fail(camera, width, height):
        raise RuntimeError("the camera is unplugged")

    for member in host.members.values():
        member.station.driver.world.render = fail
    server.send({"type": "watch", "fps": 20, "width": 32, "height": 24})
    until(lambda: caplog.text.count("the camera is unplugged") == 3)
    until(lambda: all(m.station.camera_error for m in host.members.values()))
    time.sleep(0.5)
    assert caplog.text.count("the camera is unplugged") == 3, "said once of each, though it is tried again"
    assert all(member.link.connected for member in host.members.values())
    for member in host.members.values():
        del member.station.driver.world.render
    until(lambda: not any(member.station.camera_error for member in host.members.values()))

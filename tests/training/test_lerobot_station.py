"""A LeRobot robot joins the fleet: what its command takes, what networks must see, and practice by a fake server."""

import re
import threading
from types import SimpleNamespace

import pytest

from robots import lerobot_robot
from robots.embodiments import IMAGES, STATE
from tests.robots.fake_server import FakeServer, until
from tests.robots.lerobot_fakes import FakeLeader, FakeRobot
from tests.training.test_practice import checkpoint_bytes
from training.lerobot_station import host_of, keys_read, main, read_arguments

TASK = {
    "name": "tidy",
    "time_limit_steps": 5,
    "words": {"embodiment": "so_follower", "wordings": ["tidy up"], "held_out_wordings": [], "slots": {}},
}
NAMED = ["--robot.type=so101_follower", "--robot.port=/dev/x", "--robot.cameras={front: {}}"]


@pytest.fixture
def server():
    server = FakeServer()
    yield server
    server.stop()


def options_for(server, folder, *more):
    told = ["--server", server.url, "--token", server.token, "--folder", str(folder), "--hz", "50", *more]
    return read_arguments([*told, *NAMED])


def test_its_own_arguments_and_those_of_lerobot(monkeypatch, capsys):
    monkeypatch.setenv("FLEET_SERVER", "http://a")
    monkeypatch.setenv("FLEET_TOKEN", "secret")
    options, named = read_arguments([*NAMED, "--hz=15", "--ranges", '{"x.vel": [-1, 1]}'])
    assert (options.server, options.token, options.hz) == ("http://a", "secret", 15)
    assert options.ranges == {"x.vel": [-1, 1]} and named == NAMED
    for wrong, said in (
        ("--hz=0", "above 0"),
        ("--ranges=[1]", "it must be JSON such as"),
        ('--ranges={"a": [1, 0]}', "it must be JSON such as"),
        ("--hertz=3", "unknown arguments: --hertz=3"),
        ("--picture-width=1", "from 16 to 1920"),
    ):
        with pytest.raises(SystemExit):
            read_arguments([*NAMED, wrong])
        assert said in capsys.readouterr().err


def test_without_lerobot_it_says_what_to_install(caplog):
    assert main(["--server", "http://127.0.0.1:1", "--token", "t", *NAMED]) == 2
    assert 'pip install "lerobot[feetech]"' in caplog.text


def test_it_joins_practises_and_lets_go(server, tmp_path, monkeypatch):
    for limit in ("CALL_S", "STALE_S", "FIRST_PICTURE_S"):
        monkeypatch.setattr(lerobot_robot, limit, 60)  # a busy machine is no broken robot
    robot = FakeRobot(cameras=("front",))
    options, named = options_for(server, tmp_path, "--picture-width", "32")
    host, leader = host_of(robot, FakeLeader(), options, named)
    (member,) = host.members.values()
    body = member.station.embodiment
    files = {
        role: server.add_file(role, checkpoint_bytes(tmp_path, role, embodiment=body))
        for role in ("policy", "reward_model")
    }
    (url, sha), (judge_url, judge_sha) = files.values()
    policy = {"type": "policy", "checkpoint": "p", "version": 1, "url": url, "sha256": sha, "reward_model": "r"}
    policy |= {"reward_model_url": judge_url, "reward_model_sha256": judge_sha, "threshold": -1.0, "consecutive": 1}
    task = {"type": "assignment", "assignment": 1, "run": 1, "purpose": "practice", "task": TASK}
    thread = threading.Thread(target=host.run)
    thread.start()
    try:
        until(lambda: server.sockets)  # it connects by itself
        server.send(task)
        server.send(policy)
        until(lambda: len(server.episodes) >= 3)
        assert keys_read(member.station) == {STATE, IMAGES + "front"}
        hello = server.of("hello")[0]
        assert hello["teleoperator"] == "so leader" and hello["renderer"] == "camera"
        assert hello["embodiment"]["name"] == "so_follower" and leader.name == "so leader"
    finally:
        host.stop()
        thread.join(60)
    assert not thread.is_alive() and not robot.is_connected and robot.sent
    episode = next(iter(server.episodes.values()))
    assert episode.instruction == "tidy up" and episode.true_success is None
    assert (episode.observations[IMAGES + "front"] == 200).all()


def test_what_must_be_seen_where_no_policy_acts_yet():
    body = SimpleNamespace(observation={STATE: 0, IMAGES + "front": 0})
    station = SimpleNamespace(orders=SimpleNamespace(loaded=None), embodiment=body, recording=None)
    assert not keys_read(station)
    station.recording = "what a person shows"
    assert set(keys_read(station)) == {STATE, IMAGES + "front"}


def test_a_robot_that_is_not_there_joins_and_says_why(server, tmp_path):
    robot = FakeRobot(calibrated=False)
    options, named = options_for(server, tmp_path)
    host, leader = host_of(robot, None, options, named)
    (member,) = host.members.values()
    try:
        assert leader is None
        need = member.station.workspace.need
        command = "lerobot-calibrate --robot.type=so101_follower --robot.port=/dev/x"
        assert re.search(f"so_follower is not calibrated: run {command} on its machine", need)
        assert keys_read(member.station) == ()
        robot.is_calibrated = True
        member.station.workspace.reset()
        assert not member.station.workspace.need
    finally:
        host.close()

"""The programs in docs/stations.md, as they stand there: a whole fake station, and a loop that is written out."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from robots import real_robot
from robots.driver import Driver, DriverError
from robots.embodiments import IMAGES, STATE
from robots.episodes import ACTORS
from robots.real_robot import RealRobot
from tests.robots.fake_server import FakeServer, until
from tests.robots.fake_so101 import FakeSO101
from tests.robots.station_fakes import FakeTime
from tests.training.test_practice import ASSIGNMENT, policy_message
from training import practice

ROOT = Path(__file__).parents[2]


STATION = ROOT / "tests" / "robots" / "fake_so101.py"


def documented(beginning: str) -> str:
    """The listing that begins with that line."""
    text = (ROOT / "docs" / "stations.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"(?m)^    {beginning}\n(?:(?:    .*)?\n)+", text)
    return textwrap.dedent(block).strip() + "\n"


def heed_interrupts():
    """Tests that a script started in the background ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt(process) -> str:
    """Ctrl-C until it ends; what it said. Once, in a whole run, a first one was not heeded, and why was not found."""
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=5)[1]
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("it did not end")


@contextmanager
def running(tmp_path, program, server):
    """Such a program beside a server, interrupted in the end; `ended` has what became of it then."""
    environment = {"FLEET_SERVER": server.url, "FLEET_TOKEN": server.token, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        preexec_fn=heed_interrupts,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        process.said = interrupt(process)
    finally:
        process.kill()
        server.stop()


def test_the_documented_robot_practises_and_ends_attempts_of_low_success_probability(tmp_path):
    """A network that learned nothing gives success within 20 of 100 steps a chance of a fifth."""
    server = FakeServer()
    server.settings |= {"speed": 0, "shuffle_every_s": 86_400}
    task = {"name": "block2block", "time_limit_steps": 20, "low_success_probability": 0.5}
    server.on_welcome = [ASSIGNMENT | {"task": task}, policy_message(server, tmp_path, value_updates=8)]
    program = tmp_path / "my_robot.py"
    program.write_text("from tests.robots.station_fakes import FakeWorld as MyRobot\n" + documented("import os"))
    with running(tmp_path, program, server) as process:
        until(lambda: len(server.episodes) > 20 or process.poll() is not None)
    assert "KeyboardInterrupt" in process.said and "Error" not in process.said, process.said
    ended = [episode.ending for episode in server.episodes.values()]
    # One in ten is a probe, however low P(success) is.
    assert ended.count("low_success_probability") > 10
    assert set(ended) <= {"low_success_probability", "time_limit", "stop"}
    for episode in server.episodes.values():
        assert (episode.actors == ACTORS.index("policy")).all() and np.isfinite(episode.steps_to_go[:-1]).all()


def test_the_documented_station_is_the_one_that_the_tests_run_and_it_is_short():
    """Whoever has motors and cameras writes them where the fake one has arrays."""
    assert documented("import numpy as np") == STATION.read_text(encoding="utf-8")
    assert len(STATION.read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "FLEET_SERVER is not set; the page that adds the station shows the command with it."),
        ({"FLEET_SERVER": "http://127.0.0.1:1"}, "FLEET_TOKEN is not set"),
        (
            {"FLEET_SERVER": "http://127.0.0.1:1", "FLEET_TOKEN": ""},
            "The station so101 has no token. A lab manager makes",
        ),
        ({"FLEET_SERVER": "fleet", "FLEET_TOKEN": "x"}, "fleet"),
    ],
)
def test_a_station_that_is_told_no_server_or_token_says_so(tmp_path, monkeypatch, environment, says):
    monkeypatch.setattr(practice, "prepare_process", lambda: None)
    monkeypatch.chdir(tmp_path)
    for name in ("FLEET_SERVER", "FLEET_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=re.escape(says)):
        practice.run_station(FakeSO101())


def test_a_robot_without_what_it_needs_calls_a_person_and_names_it():
    class Mute(FakeSO101):
        send = RealRobot.send
        render = RealRobot.render

        def observation(self):
            return {STATE: self.joints}

    driver = Driver(Mute())
    with pytest.raises(DriverError, match=r"a step failed: Mute has no method send\(action\)"):
        driver.step(np.zeros(6, np.float32))
    with pytest.raises(DriverError, match=r"camera front failed: Mute has no method render\(camera, width, height\)"):
        driver.render("front", 64, 48)
    assert RealRobot.render(FakeSO101(), "front", 64, 48).shape == (72, 96, 3), "else what the policy sees"


def test_a_step_takes_a_control_period_and_ends_with_a_look(monkeypatch):
    """What else goes on between two steps is taken from the sleep; what took too long is not made up for."""
    clock, period = FakeTime(), 1 / FakeSO101.embodiment.fps
    monkeypatch.setattr(real_robot, "time", clock)

    class Noting(FakeSO101):
        sent, looks = (), ()

        def send(self, action):
            self.sent = (*self.sent, clock.now)
            super().send(action)

        def observation(self):
            self.looks = (*self.looks, clock.now)
            return super().observation()

    robot, began = Noting(), clock.now
    # In control periods: what else went on before the step, and how long the step sleeps then.
    busy, slept = np.array([[0, 1], [0.3, 0.7], [0.6, 0.4], [0, 1], [1.7, 0], [0, 1], [0.3, 0.7], [150, 1], [0, 1]]).T
    for number, periods in enumerate(busy):
        clock.now += periods * period
        robot.step(np.full(6, float(number)))
    looks = np.cumsum(busy + slept) * period
    assert np.array(clock.slept) == pytest.approx(slept * period)
    assert np.array(robot.looks) - began == pytest.approx(looks)
    assert np.array(robot.sent) - began == pytest.approx(looks - slept * period), "sent first, then waited"
    assert robot.observation()[STATE].tolist() == 6 * [8.0]


def test_an_so101_practises_is_watched_overridden_and_stopped_and_keeps_what_both_cameras_saw(tmp_path):
    """Six joints by LeRobot's names and two cameras at 30 Hz, and a task of which it has no code."""
    server = FakeServer()
    server.settings |= {"speed": 1, "shuffle_every_s": 86_400}
    words = {"title": "Bricks", "embodiment": "so101", "wordings": ["pick up the {colour} brick"]}
    task = {"name": "bricks", "time_limit_steps": 20, "words": words | {"slots": {"colour": ["red", "blue"]}}}
    server.on_welcome = [
        ASSIGNMENT | {"task": task},
        policy_message(server, tmp_path, embodiment=FakeSO101.embodiment),
        {"type": "watch", "fps": 10, "width": 160, "height": 120, "cameras": ["wrist", "front"]},
    ]

    epoch = 0

    def command(name, **args):
        order = {"type": "command", "id": f"{name} {time.time()}", "name": name, "args": args, "ttl_ms": 60_000}
        server.send(order | {"epoch": epoch, "by": "ann"})

    def told(field):
        return server.of("telemetry")[-1][field] if server.of("telemetry") else None

    def ended(*purposes):
        return [each for each in server.episodes.values() if each.purpose in purposes]

    with running(tmp_path, STATION, server) as process:
        until(lambda: len(ended("practice")) >= 2 or process.poll() is not None)
        until(lambda: {each[16] for _, each in server.frames} == {255, 1})
        # Until it has been driven far. Who drives is gone after 2.5 s, also where the machine stood still for so long:
        # control is then taken anew.
        while not (told("human") and told("step") > 22):
            if not told("human") or "take over" in told("reason"):
                epoch += 1
                command("override")
                until(lambda: told("human") and "take over" not in told("reason"))
            command("drive", axes={"shoulder_pan.pos": 1.0, "elbow_flex.pos": -0.5, "gripper": -1.0})
            server.send({"type": "control_heartbeat", "epoch": epoch})
            time.sleep(0.1)
        command("stop")
        until(lambda: told("state") == "stopped" and ended("correction"))
    assert process.returncode == 0 and "Error" not in process.said, process.said
    assert {each.instruction for each in ended("practice")} <= {"pick up the red brick", "pick up the blue brick"}
    driven = ended("correction")[-1]
    assert driven.ending == "stop" and (driven.actors == ACTORS.index("human")).all()
    moved = driven.actions[-1] - driven.actions[0]
    assert moved[0] > 20 and moved[2] < -10 and moved[5] < -20 and not moved[[1, 3, 4]].any()
    assert np.abs(np.diff(driven.actions, axis=0)).max() <= 4.001, "no joint goes farther than it may in one step"
    for episode in server.episodes.values():
        for camera in ("front", "wrist"):
            assert episode.observations[IMAGES + camera].shape == (episode.steps + 1, 72, 96, 3)
        assert not episode.frames, "what its policy sees by is not kept twice"
    first, last = (driven.observations[IMAGES + "front"][i].astype(int) for i in (0, -1))
    assert np.abs(first - last).max() > 80, "the arm was seen to turn"

"""The program in docs/stations.md, as it stands there, with a fake robot in the place of the reader's."""

import io
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
from PIL import Image

from robots.episodes import ACTORS
from tests.robots.fake_server import FakeServer, until
from tests.robots.fake_so101 import SO101
from tests.training.test_practice import ASSIGNMENT, policy_message

ROOT = Path(__file__).parents[2]


def documented_program() -> str:
    text = (ROOT / "docs" / "stations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"(?m)^    import os\n(?:(?:    .*)?\n)+", text)
    return textwrap.dedent(block)


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
def running(tmp_path, robot, server):
    """The documented program with such a robot; in the end it is interrupted, and says nothing bad."""
    program = tmp_path / "my_robot.py"
    program.write_text(f"from {robot} as MyRobot\n" + documented_program())
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
        said = interrupt(process)
    finally:
        process.kill()
        server.stop()
    assert "KeyboardInterrupt" in said and "Error" not in said, said


def test_the_documented_robot_practises_and_ends_attempts_of_low_success_probability(tmp_path):
    """A network that learned nothing gives success within 20 of 100 steps a chance of a fifth."""
    server = FakeServer()
    server.settings |= {"speed": 0, "shuffle_every_s": 86_400}
    task = {"name": "block2block", "time_limit_steps": 20, "low_success_probability": 0.5}
    server.on_welcome = [ASSIGNMENT | {"task": task}, policy_message(server, tmp_path, value_updates=8)]
    with running(tmp_path, "tests.robots.station_fakes import FakeWorld", server) as process:
        until(lambda: len(server.episodes) > 20 or process.poll() is not None, seconds=60)
    ended = [episode.ending for episode in server.episodes.values()]
    # One in ten is a probe, however low P(success) is.
    assert ended.count("low_success_probability") > 10
    assert set(ended) <= {"low_success_probability", "time_limit", "stop"}
    for episode in server.episodes.values():
        assert (episode.actors == ACTORS.index("policy")).all() and np.isfinite(episode.steps_to_go[:-1]).all()


def test_an_so101_practises_is_watched_overridden_and_stopped_and_keeps_what_both_cameras_saw(tmp_path):
    """Six joints by LeRobot's names at 30 Hz, a task that no built-in world has; it is a real robot's, so its pictures
    are kept without being asked for.
    """
    server = FakeServer()
    server.settings |= {"speed": 1, "shuffle_every_s": 86_400}
    server.on_welcome = [
        ASSIGNMENT | {"task": {"name": "lego", "time_limit_steps": 20}},
        policy_message(server, tmp_path, embodiment=SO101),
        {"type": "watch", "fps": 10, "width": 160, "height": 120, "cameras": ["wrist", "front"]},
    ]

    def command(name, **args):
        order = {"type": "command", "id": f"{name} {time.time()}", "name": name, "args": args, "ttl_ms": 2000}
        server.send(order | {"epoch": 1, "by": "ann"})

    def state():
        told = server.of("telemetry")
        return told[-1]["state"] if told else ""

    def ended(*purposes):
        return [each for each in server.episodes.values() if each.purpose in purposes]

    with running(tmp_path, "tests.robots.fake_so101 import FakeSO101", server) as process:
        until(lambda: len(ended("practice")) >= 2 or process.poll() is not None, seconds=60)
        until(lambda: {each[16] for _, each in server.frames} == {255, 1})
        command("override")
        until(lambda: state() == "overridden")
        for _ in range(10):
            command("drive", axes={"shoulder_pan.pos": 1.0, "elbow_flex.pos": -0.5, "gripper": -1.0})
            server.send({"type": "control_heartbeat", "epoch": 1})
            time.sleep(0.1)
        command("stop")
        until(lambda: state() == "stopped" and ended("correction"))
    (driven,) = ended("correction")
    assert driven.ending == "stop" and (driven.actors == ACTORS.index("human")).all()
    moved = driven.actions[-1] - driven.actions[0]
    assert moved[0] > 20 and moved[2] < -10 and moved[5] < -20 and not moved[[1, 3, 4]].any()
    assert np.abs(np.diff(driven.actions, axis=0)).max() <= 4.001, "no joint goes farther than it may in one step"
    for episode in server.episodes.values():
        assert {name: len(frames) for name, frames in episode.frames.items()} == dict.fromkeys(
            ("front", "wrist"), episode.steps + 1
        )
    first, last = (np.asarray(Image.open(io.BytesIO(driven.frames["front"][i]))).astype(int) for i in (0, -1))
    assert first.shape == (240, 320, 3) and np.abs(first - last).max() > 80, "the arm was seen to turn"

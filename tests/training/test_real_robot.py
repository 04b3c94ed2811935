"""The program in docs/stations.md, as it stands there, with a fake robot in the place of the reader's."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np

from robots.episodes import ACTORS
from tests.robots.fake_server import FakeServer, until
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


def test_the_documented_robot_practises_and_ends_attempts_of_low_success_probability(tmp_path):
    """A network that learned nothing gives success within 20 of 100 steps a chance of a fifth."""
    program = tmp_path / "my_robot.py"
    program.write_text("from tests.robots.station_fakes import FakeWorld as MyRobot\n" + documented_program())
    server = FakeServer()
    server.settings |= {"speed": 0, "shuffle_every_s": 86_400}
    task = {"name": "block2block", "time_limit_steps": 20, "low_success_probability": 0.5}
    server.on_welcome = [ASSIGNMENT | {"task": task}, policy_message(server, tmp_path, value_updates=8)]
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
        until(lambda: len(server.episodes) > 20 or process.poll() is not None, seconds=60)
        said = interrupt(process)
    finally:
        process.kill()
        server.stop()
    assert "KeyboardInterrupt" in said and "Error" not in said, said
    ended = [episode.ending for episode in server.episodes.values()]
    # One in ten is a probe, however low P(success) is.
    assert ended.count("low_success_probability") > 10
    assert set(ended) <= {"low_success_probability", "time_limit", "stop"}
    for episode in server.episodes.values():
        assert (episode.actors == ACTORS.index("policy")).all() and np.isfinite(episode.steps_to_go[:-1]).all()

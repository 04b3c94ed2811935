"""A station driven on many axes at once, and by its own device: who may, until when, what is refused and recorded."""

from itertools import count

import numpy as np
import pytest

from robots.embodiments import STATE, DriveAxis, Embodiment, Motion, vector
from robots.episodes import ACTORS
from robots.protocol import TO_STATION, Code, Command, ControlHeartbeat, Hello, Lapse, Welcome, decode, to_json
from robots.real_robot import RealRobot
from robots.station import SILENCE_S, Station
from robots.tasks import TASKS, Grammar, TaskFamily
from robots.worlds.third_party import read_worlds_file

NAMES = ("x", "y", "yaw", "gripper", "elbow", "wrist")
ARM = Embodiment(
    name="many_axes",
    fps=10.0,
    observation={STATE: vector(NAMES)},
    action=vector(NAMES, (-0.02, -0.02, -1, 0, -90, -2), (0.02, 0.02, 1, 100, 90, 2)),
    motions=(
        *(Motion("delta", 0.02),) * 2,
        Motion("velocity", 0.1),
        Motion("position", 10, "gripper"),
        Motion("position", 5, "elbow"),
        Motion("delta", 2),
    ),
    drive=(
        DriveAxis("x", "x"),
        DriveAxis("y", "y"),
        DriveAxis("z"),
        DriveAxis("yaw", "yaw"),
        DriveAxis("gripper", "gripper"),
        DriveAxis("elbow", "elbow"),
        DriveAxis("wrist", "wrist"),
    ),
)
GRAMMAR = Grammar(verbs=("",), templates=("tidy up",), held_out_templates=("tidy up",))
FAMILY = TaskFamily("many_axes", "Tidy", "many_axes", "many_axes", 100, "", GRAMMAR)


class ArmWorld(RealRobot):
    """Its numbers go where they are told; z lifts by the elbow and the wrist."""

    embodiment, resets_itself = ARM, True

    def __init__(self):
        self.state = np.array([0, 0, 0, 40, 10, 0], np.float32)
        self.done, self.asked = [], []

    def observation(self):
        return {STATE: self.state.copy()}

    def step(self, action):
        self.done.append(action)
        self.state[[0, 1, 5]] += action[[0, 1, 5]]
        self.state[2] += action[2] / 10
        self.state[3:5] = action[3:5]
        return self.observation()

    def driven(self, axes):
        self.asked.append(axes)
        action = np.zeros(6, np.float32)
        action[3], action[4], action[5] = self.state[3], self.state[4] + 3 * axes.get("z", 0), axes.get("z", 0)
        return action


class Leader:
    """A device whose hand the test moves."""

    name = "leader arm"

    def __init__(self):
        self.wanted, self.seen = None, []

    def action(self, observation):
        self.seen.append(observation[STATE].copy())
        observation[STATE][:] = np.nan  # it may do with it as it likes
        if isinstance(self.wanted, Exception):
            raise self.wanted
        return self.wanted


class Bench:
    """A station with its clock, its server and the person's browser."""

    def __init__(self, teleoperator=None):
        self.now, self.said, self.episodes, self.ids = 100.0, [], [], count(1)
        self.world = ArmWorld()
        self.station = Station(
            self.world,
            teleoperator=teleoperator,
            emit=self.said.append,
            store=self.episodes.append,
            clock=lambda: self.now,
        )
        self.station.receive(Welcome())

    def command(self, name, epoch=1, by="ada", **args):
        command = Command(id=str(next(self.ids)), name=name, args=args, epoch=epoch, by=by)
        before = len(self.said)
        self.station.receive(command, self.now)
        answers = [each for each in self.said[before:] if each.TYPE == "command_done"]
        return answers[-1].error

    def drive(self, **axes):
        return self.command("drive", axes=axes)

    def run(self, seconds, heartbeats=True):
        """Tick by tick, as a host does it; the browser of the person in control beats every 0.4 s."""
        for tick in range(round(seconds * 100)):
            self.now += 0.01
            if heartbeats and tick % 40 == 0:
                self.station.receive(ControlHeartbeat(epoch=1), self.now)
            if self.station.observe() is not None:
                self.station.act(None, np.nan, None)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(TASKS, "many_axes", FAMILY)


@pytest.fixture
def leader():
    return Leader()


@pytest.fixture
def bench(leader):
    bench = Bench(leader)
    assert bench.command("override") == ""
    return bench


# Several axes


def test_several_axes_at_once_are_one_step(bench):
    assert bench.drive(x=1, y=-0.5, yaw=0.5, gripper=-1, elbow=1, wrist=0) == ""
    bench.run(0.05)
    assert bench.world.done[0] == pytest.approx([0.02, -0.01, 0.5, 30, 15, 0])
    assert bench.world.asked == [], "no axis of it needs the driver"


def test_an_axis_that_no_number_moves_goes_through_the_driver_with_the_others(bench):
    assert bench.drive(x=1, y=0, z=-1, gripper=1, elbow=0) == ""
    bench.run(0.05)
    (asked,) = bench.world.asked
    assert {axis: value for axis, value in asked.items() if value} == {"x": 1, "z": -1, "gripper": 1}
    assert bench.world.done[0] == pytest.approx([0.02, 0, 0, 50, 7, -1])


def test_a_gripper_stays_as_it_was_told_while_others_move(bench):
    bench.drive(gripper=1)
    bench.run(0.15)
    closed = bench.world.done[-1][3]
    bench.world.state[3] -= 8  # what it holds keeps it from there
    bench.drive(x=1, gripper=0)
    bench.run(0.15)
    assert bench.world.done[-1][3] == pytest.approx(closed)


def test_all_zero_lets_go(bench):
    bench.drive(yaw=1, elbow=-1)
    bench.run(0.25)
    assert len(bench.world.done) == 3
    bench.drive(x=0, y=0, z=0, yaw=0, gripper=0, elbow=0, wrist=0)
    bench.run(0.5)
    assert len(bench.world.done) == 3


@pytest.mark.parametrize(
    "axes, said",
    [
        ({"pitch": 1}, "names the axis 'pitch'; this body's are x, y, z, yaw, gripper, elbow, wrist"),
        ({"x": 1, "elbow": "up"}, "a number from -1 to 1 for elbow, not 'up'"),
        ({"gripper": float("nan")}, "for gripper, not nan"),
        ({"gripper": True}, "for gripper, not True"),
    ],
)
def test_what_a_drive_may_not_say(bench, axes, said):
    assert said in bench.drive(**axes)
    bench.run(0.3)
    assert bench.world.done == []


# The station's own device


def test_the_device_drives_from_when_it_is_chosen_and_its_steps_are_the_persons(bench, leader):
    leader.wanted = np.array([0.01, 0, 0, 35, 12, 0])
    bench.run(0.5)
    assert bench.world.done == [] and leader.seen == [], "nobody has chosen it"
    assert bench.command("teleoperate", on=True) == ""
    assert bench.said[-2].device, "the page hears of it at once"
    bench.run(1.0)
    assert len(bench.world.done) == pytest.approx(10, abs=1)
    assert bench.world.done[0] == pytest.approx([0.01, 0, 0, 35, 12, 0])
    assert bench.command("hand_back") == ""
    (episode,) = bench.episodes
    assert (episode.purpose, episode.ending) == ("correction", "operator")
    assert set(episode.actors) == {ACTORS.index("human")}
    assert np.isfinite(episode.observations[STATE]).all(), "a device may not write into what is recorded"
    assert episode.steps == len(bench.world.done)
    bench.run(0.5)
    assert episode.steps == len(bench.world.done) and not bench.station.telemetry().device


def test_what_it_wants_is_bounded_like_all_else(bench, leader):
    leader.wanted = np.array([5, -5, 9, 100, -90, 0])
    bench.command("teleoperate", on=True)
    bench.run(0.05)
    assert bench.world.done[0] == pytest.approx([0.02, -0.02, 1, 50, 5, 0])


def test_a_device_that_nobody_moves_holds_still_records_nothing_and_is_asked_at_the_control_rate(bench, leader):
    bench.command("teleoperate", on=True)
    bench.run(1.0)
    assert bench.world.done == []
    assert len(leader.seen) == pytest.approx(10, abs=1)
    leader.wanted = np.zeros(6)
    assert bench.station.next_step_at() <= bench.now + 0.1
    bench.run(0.3)
    assert 2 <= len(bench.world.done) <= 4


def test_the_page_takes_it_back_and_drives_itself(bench, leader):
    leader.wanted = np.array([0.01, 0, 0, 40, 10, 0])
    bench.command("teleoperate", on=True)
    assert "driven by its own device (leader arm)" in bench.drive(x=1)
    bench.run(0.3)
    assert bench.command("teleoperate", on=False) == ""
    done = len(bench.world.done)
    bench.run(0.5)
    assert len(bench.world.done) == done
    assert bench.drive(y=1) == ""
    bench.run(0.05)
    assert bench.world.done[-1][:2] == pytest.approx([0, 0.02])


def test_without_the_browsers_heartbeats_it_holds_still_and_lapses(bench, leader):
    leader.wanted = np.array([0.001, 0, 0, 40, 10, 0])
    bench.command("teleoperate", on=True)
    bench.run(0.5)
    before = len(bench.world.done)
    bench.run(1.6, heartbeats=False)
    assert 0 < len(bench.world.done) - before <= 11, "it holds still a second after the newest sign of life"
    assert bench.station.control.code == Code.QUIET
    bench.run(0.3)
    assert bench.station.control.code == "" and len(bench.world.done) > before + 11, "the browser is heard again"
    bench.run(2.6, heartbeats=False)
    assert bench.station.control.code == Code.UNHELD and not bench.station.device.drives
    done = len(bench.world.done)
    bench.run(1.0)
    assert len(bench.world.done) == done, "a heartbeat of a lease that has lapsed brings nothing back"


@pytest.mark.parametrize("end", ["stop", "pause", "hand_back", "lapse", "silence", "override"])
def test_what_ends_it(bench, leader, end):
    leader.wanted = np.array([0.001, 0, 0, 40, 10, 0])
    bench.command("teleoperate", on=True)
    bench.run(0.3)
    done = len(bench.world.done)
    assert done
    if end == "lapse":
        bench.station.receive(Lapse(epoch=1))
    elif end == "silence":
        bench.station.server_gone(SILENCE_S + 1)
    elif end == "override":
        assert bench.command("override", epoch=2, by="ada") == ""
    else:
        assert bench.command(end) == ""
    bench.run(1.0)
    assert len(bench.world.done) == done and not bench.station.device.drives
    assert bench.episodes[0].steps == done, "what was driven is kept"


@pytest.mark.parametrize(
    "wanted, said",
    [
        (RuntimeError("the cable is out"), "the station's device (leader arm) failed: the cable is out"),
        (np.zeros(5), "it gave 5 numbers, not 6 finite ones"),
        (np.full(6, np.nan), "it gave 6 numbers, not 6 finite ones"),
        ("up", "the station's device (leader arm) failed"),
    ],
)
def test_what_it_does_wrong_is_a_fault_with_a_sentence(bench, leader, wanted, said):
    bench.command("teleoperate", on=True)
    leader.wanted = np.zeros(6)
    bench.run(0.3)
    done = len(bench.world.done)
    leader.wanted = wanted
    bench.run(0.5)
    assert len(bench.world.done) == done and not bench.station.device.drives
    assert (bench.station.control.state, bench.station.control.code) == ("overridden", Code.UNHELD)
    assert said in bench.station.control.reason
    assert bench.episodes[0].ending == "fault"


def test_who_may_choose_it(bench, leader):
    leader.wanted = np.zeros(6)
    assert "nobody holds it with this epoch" in Bench(leader).command("teleoperate", on=True)
    assert "ada is in control" in bench.command("teleoperate", by="eve", on=True)
    assert "names no epoch" in bench.command("teleoperate", epoch=None, on=True)
    bench.station.receive(Lapse(epoch=1))
    assert "nobody holds it with this epoch" in bench.command("teleoperate", on=True)
    bench.run(0.5)
    assert bench.world.done == []


def test_a_station_without_one_says_so():
    bench = Bench()
    bench.command("override")
    assert "has no device of its own" in bench.command("teleoperate", on=True)
    assert bench.drive(x=1) == ""
    assert not bench.station.device.drives


def test_the_hello_says_its_name_and_an_old_one_says_nothing():
    hello = Hello(embodiment=ARM.to_json(), teleoperator="leader arm")
    assert to_json(hello)["teleoperator"] == "leader arm"
    assert "teleoperator" not in to_json(Hello(embodiment=ARM.to_json()))
    told = {"type": "command", "id": "1", "name": "teleoperate", "args": {"on": True}, "epoch": 1}
    assert decode(told, TO_STATION).args == {"on": True}


def test_a_world_of_the_worlds_file_is_driven_by_every_number_of_its_action(tmp_path):
    file = tmp_path / "worlds.toml"
    file.write_text(
        '[[world]]\nname = "swing"\nenv_id = "Reacher-v5"\nobservations = 10\ntime_limit_steps = 50\ncontrol_hz = 50\n'
        'actions = ["first", "second", "third"]\naction_limit = 1\naction_kind = "effort"\nwordings = ["reach it"]\n'
        'success = {info = "reward_dist", at_least = -0.05}\n'
    )
    (world,) = read_worlds_file(file)
    assert [(each.axis, each.moves) for each in world.embodiment.drive] == [
        ("x", "first"),
        ("y", "second"),
        ("third", "third"),
    ]

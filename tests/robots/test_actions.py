"""What may be sent to a body by what it declares: no joint further than its largest change a step, whoever acts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robots.actions import Actions
from robots.embodiments import STATE, DriveAxis, Embodiment, Motion, vector
from robots.protocol import to_json
from robots.real_robot import RealRobot
from robots.station import Station
from robots.worlds import find_worlds
from robots.worlds.language_table import LANGUAGE_TABLE
from robots.worlds.point_mass import POINT_MASS
from tests.robots.station_fakes import FakePolicy, FakeRewardModel, loaded_policy, told
from tests.robots.test_station import Bench

JOINTS = ("base", "shoulder", "elbow", "wrist", "roll", "grip")
LIMITS = (110.0, 55.0, 90.0, 95.0, 160.0, 50.0)


def arm(joints, name="point_mass", fps=10.0):
    """A body of joints (low, high, motion), each sensed. A person drives the first two by x and y, and all others by
    their names. There is a task for it by its name.
    """
    names = tuple(f"joint_{i}" for i in range(len(joints)))
    low, high, motions = zip(*joints, strict=True)
    axes = ("x", "y", *names[2:])
    body = Embodiment(
        name=name,
        fps=fps,
        observation={STATE: vector(names)},
        action=vector(names, low, high),
        motions=motions,
        drive=tuple(DriveAxis(axis, moves) for axis, moves in zip(axes, names, strict=False)),
    )
    body.check()
    return body


def absolute(low, high, change, joint):
    return low, high, Motion("position", change, f"joint_{joint}")


ABSOLUTE = arm([absolute(-limit, limit, 2.0, i) for i, limit in enumerate(LIMITS)])


def here(body, at=0.0):
    return {STATE: np.full(body.action_size, at, np.float32)}


class FakeArm(RealRobot):
    """Goes where it is told at once, and keeps what every joint did in each step."""

    def __init__(self, body, at=None):
        self.embodiment, self.at = body, np.array(at if at is not None else np.zeros(body.action_size), np.float64)
        self.told, self.moved = [], []

    def step(self, action):
        before = self.at.copy()
        for i, (value, motion) in enumerate(zip(action.astype(float), self.embodiment.motions, strict=True)):
            if motion.kind == "position":
                self.at[i] = value
            elif motion.kind != "effort":
                self.at[i] += value / (self.embodiment.fps if motion.kind == "velocity" else 1)
        self.told.append(action.copy())
        self.moved.append(np.abs(self.at - before))
        return self.observation()

    def observation(self):
        return {STATE: self.at.astype(np.float32)}

    def fenced(self, action, margin):
        return action * 100  # a fence that means no good


class ArmBench(Bench):
    def __init__(self, world):
        super().__init__()
        self.world = world
        self.station = Station(
            world, emit=lambda message: self.sent.append(to_json(message)), store=self.episodes.append, clock=self.clock
        )
        self.station.receive(told({"type": "welcome", "settings": {}}))

    def practise(self, policy=None, **task):
        loaded = loaded_policy(policy=policy, reward_model=FakeRewardModel(distance=1e6))
        return super().practise(loaded, name="point_mass", **task)

    def drive(self, **push):
        assert self.command("drive", axes=push)["ok"]
        return self.tick()


finite = st.floats(-1000, 1000, width=32)


@st.composite
def bodies(draw):
    def motion(joint):
        kind = draw(st.sampled_from(["delta", "velocity", "position", "effort"]))
        low, high = sorted((draw(finite), draw(finite)))
        if kind in ("delta", "velocity"):  # to rest must be allowed
            low, high = min(low, -0.1), max(high, 0.1)
        change = None if kind == "effort" else draw(st.floats(0.01, 100))
        return low, max(high, low + 1), Motion(kind, change, f"joint_{joint}" if kind == "position" else "")

    return arm([motion(i) for i in range(draw(st.integers(1, 7)))], fps=draw(st.floats(4, 100)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies(), st.data())
def test_no_joint_moves_further_than_its_largest_change_whoever_acts(body, data):
    at = data.draw(st.lists(finite, min_size=body.action_size, max_size=body.action_size))
    bench = ArmBench(FakeArm(body, at)).practise(FakePolicy(np.zeros(body.action_size)), edge_margin=0.01)
    wild = st.lists(st.floats(-1e6, 1e6, width=32), min_size=body.action_size, max_size=body.action_size)
    push = st.sampled_from([-1.0, -0.3, 0.0, 1.0, 7.0])
    for _ in range(4):
        bench.station.orders.loaded.policy.action = np.array(data.draw(wild), np.float32)
        bench.tick(0.27)
    assert bench.command("override")["ok"]
    pushed = 0
    for _ in range(4):
        if data.draw(st.booleans()):  # somebody leans on the arm
            bench.world.at += data.draw(finite)
        axes = {each.axis: data.draw(push) for each in body.drive}
        assert bench.command("drive", axes=axes)["ok"]
        assert bench.tick(0.27) == any(axes.values())
        pushed += any(axes.values())
    bench.command("hand_back")
    bench.tick(0.27)
    assert len(bench.world.moved) >= 4 + pushed
    allowed = np.array([np.inf if each.kind == "effort" else each.largest_change for each in body.motions])
    for asked, moved in zip(bench.world.told, bench.world.moved, strict=True):
        # Single precision: the ends of a range of 1000 are known to a ten-thousandth.
        assert (moved <= allowed * (1 + 1e-5) + 1e-3).all()
        for value, motion, low, high in zip(asked, body.motions, body.action.low, body.action.high, strict=True):
            if motion.kind != "position":
                assert low - 1e-3 <= value <= high + 1e-3


def test_one_key_changes_one_joint_of_an_absolute_arm_and_all_others_hold():
    start = np.array([3.0, -20.0, 44.0, 10.0, -90.0, 5.0])
    bench = ArmBench(FakeArm(ABSOLUTE, start))
    assert bench.command("override")["ok"] and bench.drive(x=1)
    np.testing.assert_allclose(bench.world.told, [start + np.array([2, 0, 0, 0, 0, 0])], rtol=1e-6)
    assert bench.drive(x=0, y=-0.5)
    np.testing.assert_allclose(bench.world.told[1], start + np.array([2, -1, 0, 0, 0, 0]), rtol=1e-6)


def test_an_absolute_joint_that_sinks_is_held_where_it_was_told_to_be():
    class Sinking(FakeArm):
        def step(self, action):
            super().step(action)
            self.at[1:] -= 0.1
            return self.observation()

    bench = ArmBench(Sinking(ABSOLUTE, np.full(6, 10.0)))
    bench.command("override")
    for _ in range(50):
        assert bench.drive(x=1)
    assert np.abs(bench.world.at[1:] - 10).max() < 0.11 and bench.world.at[0] == pytest.approx(110)


def test_an_absolute_joint_that_was_moved_by_hand_is_driven_from_where_it_is_now():
    bench = ArmBench(FakeArm(ABSOLUTE))
    bench.world.at[:] = 30
    bench.command("override")
    assert bench.drive(x=1)
    np.testing.assert_allclose(bench.world.told[0], [32, 30, 30, 30, 30, 30])


def test_a_policys_absolute_target_is_approached_by_the_largest_change_and_not_beyond_the_range():
    bench = ArmBench(FakeArm(ABSOLUTE)).practise(FakePolicy([500, -1, 0, 0, 0, 0]), time_limit_steps=100)
    for _ in range(80):
        bench.tick()
    assert bench.world.at[0] == 110 and bench.world.at[1] == -1 and max(np.max(bench.world.moved, axis=0)) <= 2


def test_where_no_motion_is_declared_nobody_drives_and_the_attempt_goes_on():
    body = replace(POINT_MASS, motions=(), drive=(), observation={STATE: vector(POINT_MASS.action_names)})
    bench = ArmBench(FakeArm(body))
    bench.world.step = lambda action: bench.world.observation()
    bench.practise()
    assert bench.tick()
    answer = bench.command("override")
    assert not answer["ok"] and "doesn't say what its actions are" in answer["error"]
    assert bench.state == "practising" and bench.tick() and not bench.episodes


@pytest.mark.parametrize("body", [spec.embodiment for spec in find_worlds()], ids=lambda body: body.name)
def test_every_built_in_body_declares_its_motions(body):
    body.check()
    assert not Actions(body).undriven


def test_a_range_of_one_side_is_used_in_full_and_a_push_to_the_other_side_rests():
    body = arm([(0.0, 1.0, Motion("effort")), (-2.0, 0.5, Motion("effort"))])
    actions, seen = Actions(body), here(body)
    assert actions.pushed({"x": -1, "y": -1}, seen).tolist() == [0, -2]
    assert actions.pushed({"x": 1, "y": 1}, seen).tolist() == [1, 0.5]
    assert actions.bounded(np.array([-0.7, 0.7]), seen).tolist() == [0, 0.5]


def test_driving_a_table_is_as_it_was():
    actions = Actions(LANGUAGE_TABLE)
    driven = actions.pushed({"x": 1, "y": -0.5}, {STATE: np.zeros(4, np.float32)})
    np.testing.assert_allclose(driven, [0.03, -0.015], rtol=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_an_action_of_another_size_is_no_usable_action(size):
    bench = ArmBench(FakeArm(arm([(-1.0, 1.0, Motion("effort"))] * 2))).practise(FakePolicy(np.zeros(size)))
    bench.tick()
    assert bench.state == "needs_person" and "no usable action" in bench.station.control.reason


# What a person drives by


def test_each_axis_moves_the_number_that_it_names_and_all_others_rest():
    body = replace(
        arm([(-1.0, 1.0, Motion("effort"))] * 3),
        drive=(DriveAxis("gripper", "joint_2"), DriveAxis("y", "joint_0"), DriveAxis("joint_1", "joint_1")),
    )
    body.check()
    actions = Actions(body)
    assert actions.axes == ("gripper", "y", "joint_1") and not actions.undriven
    for axis, moved in (("gripper", 2), ("y", 0), ("joint_1", 1)):
        expected = np.zeros(3)
        expected[moved] = -0.5
        assert actions.pushed({axis: -0.5}, here(body)).tolist() == expected.tolist(), axis
    assert actions.pushed({"gripper": 1, "y": -1}, here(body)).tolist() == [-1, 0, 1]
    assert actions.pushed({}, here(body)).tolist() == [0, 0, 0]


def test_absolute_joints_rest_at_what_they_were_told_last_and_the_pushed_one_goes_on_from_where_it_is():
    actions, told_last = Actions(ABSOLUTE), np.full(6, 10.5, np.float32)
    pushed = actions.pushed({"y": -1, "joint_5": 0.5}, here(ABSOLUTE, 10.0), told_last)
    np.testing.assert_allclose(pushed, [10.5, 8, 10.5, 10.5, 10.5, 11])
    first = actions.pushed({"x": 1}, here(ABSOLUTE, 10.0))
    np.testing.assert_allclose(first, [12, 10, 10, 10, 10, 10], err_msg="told nothing yet: where they are")
    far = actions.pushed({"x": 1}, here(ABSOLUTE, 10.0), np.full(6, 40, np.float32))
    np.testing.assert_allclose(far, [12] * 6, err_msg="and no farther than the largest change, whatever was told")


def test_an_axis_that_the_body_does_not_have_is_refused_with_those_that_it_has_and_nothing_moves():
    bench = ArmBench(FakeArm(ABSOLUTE))
    assert bench.command("override")["ok"]
    answer = bench.command("drive", axes={"x": 1, "roll": 1})
    known = "x, y, joint_2, joint_3, joint_4, joint_5"
    assert not answer["ok"] and answer["error"] == f"drive names the axis 'roll'; this body's are {known}."
    assert not bench.tick() and not bench.world.told
    assert not bench.command("drive", dx=1, dy=0)["ok"] and not bench.tick(), "as pages of before sent it"
    assert bench.drive(joint_4=1) and np.argmax(np.abs(bench.world.told[0])) == 4


def test_where_no_axis_is_declared_nobody_drives():
    bench = ArmBench(FakeArm(replace(ABSOLUTE, drive=())))
    answer = bench.command("override")
    assert not answer["ok"] and "names no axis to drive it by" in answer["error"] and bench.state == "idle"


class SolvedArm(FakeArm):
    """Its hand goes along x and y by what it makes of them itself; a person moves its last joint by that alone."""

    def __init__(self):
        body = replace(ABSOLUTE, drive=(DriveAxis("x"), DriveAxis("y"), DriveAxis("gripper", "joint_5")))
        body.check()
        super().__init__(body, np.full(6, 10.0))
        self.asked = []

    def driven(self, axes):
        self.asked.append(dict(axes))
        return self.at + np.array([axes["x"], axes["x"] + axes["y"], -axes["y"], 0, 0, 0])


def test_axes_that_no_number_moves_are_solved_by_the_driver():
    bench = ArmBench(SolvedArm())
    assert Actions(bench.world.embodiment).by_driver == {"x", "y"}
    assert bench.command("override")["ok"] and bench.drive(y=-1)
    assert bench.world.asked == [{"x": 0.0, "y": -1.0, "gripper": 0.0}], "each axis is named, also what rests"
    np.testing.assert_allclose(bench.world.told[-1], [10, 9, 11, 10, 10, 10])
    assert bench.drive(x=0.5, gripper=1)
    assert bench.world.asked[1:] == [{"x": 0.5, "y": 0.0, "gripper": 1.0}]
    np.testing.assert_allclose(bench.world.told[-1], [10.5, 9.5, 11, 10, 10, 12], err_msg="both at once")
    assert bench.drive(x=0, gripper=-1) and len(bench.world.asked) == 2, "it is not asked for what it need not solve"
    np.testing.assert_allclose(bench.world.told[-1], [10.5, 9.5, 11, 10, 10, 10])
    bench.command("hand_back")
    (correction,) = bench.episodes
    np.testing.assert_allclose(correction.actions, bench.world.told)


def test_what_the_driver_makes_of_a_push_is_bounded_too():
    bench = ArmBench(SolvedArm())
    bench.world.driven = lambda axes: np.full(6, 1e4)
    assert bench.command("override")["ok"] and bench.drive(x=1)
    np.testing.assert_allclose(bench.world.told[-1], [12] * 6)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda axes: np.zeros(5), "an array of float64 and shape (5,), not 6 finite numbers"),
        (lambda axes: np.full(6, np.nan), "not 6 finite numbers"),
        (lambda axes: None, "it gave nothing, not 6 finite numbers"),
        (lambda axes: 1 / 0, "division by zero"),
        (None, "no attribute 'driven'"),
    ],
)
def test_a_driver_that_can_not_solve_a_push_is_a_fault_that_is_said_and_nothing_moves(made, says, monkeypatch):
    monkeypatch.delattr(SolvedArm, "driven")
    bench = ArmBench(SolvedArm())
    if made:
        bench.world.driven = made
    assert bench.command("override")["ok"]
    bench.command("drive", axes={"x": 1})
    bench.tick()
    assert not bench.world.told and not any(bench.tick() for _ in range(3))
    assert "driving it failed" in bench.station.control.reason and says in bench.station.control.reason

"""What may be sent to a body by what it declares: no joint further than its largest change a step, whoever acts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robots.actions import Actions
from robots.embodiments import Embodiment, Motion
from robots.protocol import to_json
from robots.station import Station
from robots.worlds import find_worlds
from robots.worlds.language_table import LANGUAGE_TABLE
from robots.worlds.point_mass import POINT_MASS
from tests.robots.station_fakes import FakePolicy, FakeRewardModel, loaded_policy, told
from tests.robots.test_station import Bench

JOINTS = ("base", "shoulder", "elbow", "wrist", "roll", "grip")
LIMITS = (110.0, 55.0, 90.0, 95.0, 160.0, 50.0)


def arm(motions, name="point_mass", control_hz=10.0):
    """A body of so many joints, each sensed; by its name there is a task for it."""
    names = tuple(f"joint_{i}" for i in range(len(motions)))
    limits = tuple(max(-motion.low, motion.high) for motion in motions)
    body = Embodiment(name, control_hz, names, (), (), names, limits, (), motions=tuple(motions))
    body.check()
    return body


def absolute(low, high, change, joint):
    return Motion("position", low, high, change, f"joint_{joint}")


ABSOLUTE = arm([absolute(-limit, limit, 2.0, i) for i, limit in enumerate(LIMITS)])


class FakeArm:
    """Goes where it is told at once, and keeps what every joint did in each step."""

    renderer = "drawn"

    def __init__(self, body, at=None):
        self.embodiment, self.at = body, np.array(at if at is not None else np.zeros(body.action_size), np.float64)
        self.told, self.moved = [], []

    def reset(self, rng):
        return self.observation()

    def step(self, action):
        before = self.at.copy()
        for i, (value, motion) in enumerate(zip(action.astype(float), self.embodiment.motions, strict=True)):
            if motion.kind == "position":
                self.at[i] = value
            elif motion.kind != "effort":
                self.at[i] += value / (self.embodiment.control_hz if motion.kind == "velocity" else 1)
        self.told.append(action.copy())
        self.moved.append(np.abs(self.at - before))
        return self.observation()

    def observation(self):
        return self.at.astype(np.float32)

    def true_success(self, instruction):
        return None

    def needs_reset(self, fewest_objects=None):
        return ""

    def fenced(self, action, margin):
        return action * 100  # a fence that means no good

    def objects_in_play(self):
        return {}

    def close(self):
        pass


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
        assert self.command("drive", **push)["ok"]
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
        return Motion(kind, low, max(high, low + 1), change, f"joint_{joint}" if kind == "position" else "")

    return arm([motion(i) for i in range(draw(st.integers(1, 7)))], control_hz=draw(st.floats(4, 100)))


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
    for _ in range(4):
        if data.draw(st.booleans()):  # somebody leans on the arm
            bench.world.at += data.draw(finite)
        bench.command("drive", dx=data.draw(push), dy=data.draw(push))
        bench.tick(0.27)
    bench.command("hand_back")
    bench.tick(0.27)
    assert len(bench.world.moved) >= 5
    allowed = np.array([np.inf if each.kind == "effort" else each.largest_change for each in body.motions])
    for asked, moved in zip(bench.world.told, bench.world.moved, strict=True):
        # Single precision: the ends of a range of 1000 are known to a ten-thousandth.
        assert (moved <= allowed * (1 + 1e-5) + 1e-3).all()
        for value, motion in zip(asked, body.motions, strict=True):
            if motion.kind != "position":
                assert motion.low - 1e-3 <= value <= motion.high + 1e-3


def test_one_key_changes_one_joint_of_an_absolute_arm_and_all_others_hold():
    start = np.array([3.0, -20.0, 44.0, 10.0, -90.0, 5.0])
    bench = ArmBench(FakeArm(ABSOLUTE, start))
    assert bench.command("override")["ok"] and bench.drive(dx=1)
    np.testing.assert_allclose(bench.world.told, [start + np.array([2, 0, 0, 0, 0, 0])], rtol=1e-6)
    assert bench.drive(dx=0, dy=-0.5)
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
        assert bench.drive(dx=1)
    assert np.abs(bench.world.at[1:] - 10).max() < 0.11 and bench.world.at[0] == pytest.approx(110)


def test_an_absolute_joint_that_was_moved_by_hand_is_driven_from_where_it_is_now():
    bench = ArmBench(FakeArm(ABSOLUTE))
    bench.world.at[:] = 30
    bench.command("override")
    assert bench.drive(dx=1)
    np.testing.assert_allclose(bench.world.told[0], [32, 30, 30, 30, 30, 30])


def test_a_policys_absolute_target_is_approached_by_the_largest_change_and_not_beyond_the_range():
    bench = ArmBench(FakeArm(ABSOLUTE)).practise(FakePolicy([500, -1, 0, 0, 0, 0]), time_limit_steps=100)
    for _ in range(80):
        bench.tick()
    assert bench.world.at[0] == 110 and bench.world.at[1] == -1 and max(np.max(bench.world.moved, axis=0)) <= 2


def test_where_no_motion_is_declared_nobody_drives_and_the_attempt_goes_on():
    body = replace(POINT_MASS, motions=())
    bench = ArmBench(FakeArm(replace(body, body=body.action_names)))
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
    actions = Actions(arm([Motion("effort", 0.0, 1.0), Motion("effort", -2.0, 0.5)]))
    here = np.zeros(2, np.float32)
    assert actions.pushed((-1, -1), here).tolist() == [0, -2] and actions.pushed((1, 1), here).tolist() == [1, 0.5]
    assert actions.bounded(np.array([-0.7, 0.7]), here).tolist() == [0, 0.5]


def test_driving_a_table_is_as_it_was():
    actions = Actions(LANGUAGE_TABLE)
    driven = actions.pushed((1, -0.5), np.zeros(LANGUAGE_TABLE.observation_size, np.float32))
    np.testing.assert_allclose(driven, [0.03, -0.015], rtol=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_an_action_of_another_size_is_no_usable_action(size):
    bench = ArmBench(FakeArm(arm([Motion("effort", -1.0, 1.0)] * 2))).practise(FakePolicy(np.zeros(size)))
    bench.tick()
    assert bench.state == "needs_person" and "no usable action" in bench.station.control.reason

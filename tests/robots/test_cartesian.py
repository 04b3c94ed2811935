"""An arm of six joints driven along and about Cartesian axes: its path, its limits, the edge of its reach."""

import re
import textwrap
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from robots import cartesian
from robots.actions import Actions
from robots.cartesian import CartesianArm, arm_of_file
from robots.driver import Driver
from robots.embodiments import STATE, DriveAxis, Embodiment, Motion, vector

JOINTS = ("pan", "lift", "elbow", "wrist", "bend", "spin")
AXES = ("x", "y", "z", "roll", "pitch", "yaw")
READY = np.array([0.2, -0.2, 1.8, 0.1, 1.2, 0.3])
ARM = """
<mujoco><compiler angle="radian"/><worldbody><body name="base">
  <geom type="cylinder" size=".05 .05"/>
  <body pos="0 0 .1"><joint name="pan" axis="0 0 1" range="-3 3"/><geom type="cylinder" size=".04 .05"/>
    <body pos="0 0 .1"><joint name="lift" axis="0 1 0" range="-1.8 1.8"/>
      <geom type="capsule" size=".03" fromto="0 0 0 0 0 .3"/>
      <body pos="0 0 .3"><joint name="elbow" axis="0 1 0" range="-2.6 2.6"/>
        <geom type="capsule" size=".03" fromto="0 0 0 0 0 .25"/>
        <body pos="0 0 .25"><joint name="wrist" axis="0 0 1" range="-3 3"/><geom size=".03"/>
          <body><joint name="bend" axis="0 1 0" range="-2 2"/><geom size=".03"/>
            <body pos="0 0 .05"><joint name="spin" axis="0 0 1" range="-3 3"/><geom type="box" size=".03 .02 .02"/>
              <site name="hand" pos="0 0 .06"/>
              <body pos="0 0 .06"><joint name="jaw" type="slide" axis="1 0 0" range="0 .05"/>
                <geom type="box" size=".01 .01 .02"/></body>
            </body></body></body></body></body></body></body>
  <body name="cube" pos=".5 0 .02"><freejoint/><geom type="box" size=".02 .02 .02"/></body>
</worldbody></mujoco>
"""
MODEL = mujoco.MjModel.from_xml_string(ARM)


def body(change=0.15, fps=10.0, joints=JOINTS, unit=1.0):
    """Absolute joints and a gripper; `unit` radians are 1."""
    names = [*(f"{joint}.pos" for joint in joints), "gripper.pos"]
    most = [3.0 / unit] * len(joints) + [100.0]
    low = [-each for each in most[:-1]] + [0.0]
    changes = [change / unit] * len(joints) + [10.0]
    return Embodiment(
        name="six_joints",
        fps=fps,
        observation={STATE: vector(names)},
        action=vector(names, low, most),
        motions=tuple(Motion("position", each, name) for each, name in zip(changes, names, strict=True)),
        drive=(*map(DriveAxis, AXES), DriveAxis("gripper", "gripper.pos")),
    )


class Arm:
    """A world as a station sees it: the joints go where they are told, less what `sag` lets them sink."""

    renderer, resets_itself = "drawn", True

    def __init__(self, embodiment=None, joints=JOINTS, unit=1.0, ready=READY, sag=0.0, **speeds):
        self.embodiment = embodiment or body()
        self.embodiment.check()
        self.unit, self.sag, self.told = unit, sag, None
        names = {joint: f"{joint}.pos" for joint in joints}
        self.arm = CartesianArm(self.embodiment, MODEL, "hand", names, **speeds)
        self.qpos = [MODEL.joint(joint).qposadr[0] for joint in joints]
        self.state = np.array([*np.asarray(ready) / unit, 40.0], np.float32)
        self.rules = Actions(self.embodiment)
        self.data = mujoco.MjData(MODEL)

    def observation(self):
        return {STATE: self.state.copy()}

    def driven(self, axes):
        return self.arm.action(axes, self.observation(), self.told)

    def step(self, action):
        self.told = np.array(action, np.float32)
        self.state = self.told.copy()
        self.state[1] += self.sag
        return self.observation()

    def push(self, steps=1, **axes):
        """As a station does it; returns the hand's places [steps, 3]."""
        driver, places = Driver(self), []
        for _ in range(steps):
            action = self.rules.pushed(axes, self.observation(), self.told, driver.driven(axes))
            driver.step(action)
            places.append(self.pose()[0])
        return np.array(places)

    def pose(self):
        """The hand's place [3] and rotation [3, 3], by what the joints were told."""
        joints = (self.state if self.told is None else self.told)[: len(self.qpos)]
        self.data.qpos[self.qpos] = joints * self.unit
        mujoco.mj_kinematics(MODEL, self.data)
        return self.data.site("hand").xpos.copy(), self.data.site("hand").xmat.reshape(3, 3).copy()


def turn_between(before, after):
    """The rotation vector [3] from one rotation to the other, in the world's axes."""
    quaternion, vector_ = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, (after @ before.T).ravel())
    mujoco.mju_quat2Vel(vector_, quaternion, 1.0)
    return vector_


@pytest.mark.parametrize("plane", ["xy", "yz", "xz"])
@pytest.mark.parametrize("sag", [0.0, 0.02])
def test_the_hand_follows_a_square_and_keeps_its_rotation(plane, sag):
    arm = Arm(sag=sag)
    at, rotation = arm.pose()
    for side in range(4):
        axis, way = plane[side % 2], (1, 1, -1, -1)[side]
        places = arm.push(10, **{axis: way})
        number = "xyz".index(axis)
        wanted = at.copy()
        wanted[number] += way * 0.1
        assert np.linalg.norm(places[-1] - wanted) < 0.002
        others = [each for each in range(3) if each != number]
        assert np.abs(places[:, others] - at[others]).max() < 0.002, "no side of it is bent"
        at = wanted
    assert np.linalg.norm(turn_between(rotation, arm.pose()[1])) < 0.01


@pytest.mark.parametrize("axis", ["roll", "pitch", "yaw"])
@pytest.mark.parametrize("way", [-1, 1])
def test_the_hand_turns_about_the_worlds_axes_where_it_is(axis, way):
    arm = Arm()
    at, rotation = arm.pose()
    places = arm.push(6, **{axis: way})
    wanted = np.zeros(3)
    wanted[("roll", "pitch", "yaw").index(axis)] = way * 0.3
    assert turn_between(rotation, arm.pose()[1]) == pytest.approx(wanted, abs=0.01)
    assert np.linalg.norm(places - at, axis=1).max() < 0.002


def test_several_axes_at_once_and_the_gripper_with_them():
    arm = Arm()
    at, rotation = arm.pose()
    arm.push(5, x=1, z=0.5, yaw=1, gripper=-1)
    assert arm.pose()[0] - at == pytest.approx([0.05, 0, 0.025], abs=0.002)
    assert turn_between(rotation, arm.pose()[1]) == pytest.approx([0, 0, 0.25], abs=0.01)
    assert arm.told[6] == 0, "it closed by 10 a step, down to its end"


def test_without_a_push_it_holds_what_it_was_told_also_where_it_sags():
    arm = Arm(sag=0.02)
    arm.push(3, x=1)
    told = arm.told.copy()
    arm.state[6] += 7  # what the gripper holds keeps it open
    for _ in range(50):
        arm.step(arm.driven({}))
    assert arm.told == pytest.approx(told, abs=1e-6)


@pytest.mark.parametrize("axes", [{"z": 1}, {"x": -1, "z": -1}, {"roll": 1}, {"pitch": -1}, {"yaw": 1, "x": 1}])
def test_limits_of_joints_and_of_speed_hold_however_long_it_is_pushed(axes):
    arm = Arm(body(change=0.08))
    ranges = np.array([MODEL.joint(joint).range for joint in JOINTS])
    before = arm.state[:6].copy()
    for _ in range(150):
        arm.step(arm.driven(axes))  # without the station's own bounds
        joints = arm.told[:6]
        assert np.isfinite(joints).all()
        assert (joints >= ranges[:, 0] - 1e-5).all() and (joints <= ranges[:, 1] + 1e-5).all()
        assert np.abs(joints - before).max() <= 0.08 + 1e-5
        before = joints.copy()


@pytest.mark.parametrize("axes", [{"x": 1}, {"y": 1}, {"x": 1, "z": 1}, {"z": 1}])
def test_at_the_edge_of_its_reach_it_stands_calm_and_comes_back(axes):
    arm = Arm()
    _, rotation = arm.pose()
    places = arm.push(120, **axes)
    assert np.isfinite(places).all() and np.linalg.norm(places, axis=1).max() < 0.91
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 0.02, "it never leaps"
    assert np.linalg.norm(np.diff(places[-20:], axis=0), axis=1).max() < 0.005, "nor trembles"
    assert np.linalg.norm(turn_between(rotation, arm.pose()[1])) < 0.15, "the hand is not bent to gain some more reach"
    at = arm.pose()[0]
    back = {axis: -way for axis, way in axes.items()}
    # Out of reach, nothing has been wound up that would have to be unwound first.
    assert np.linalg.norm(arm.push(4, **back)[-1] - at) > 0.02


def test_it_begins_where_the_arm_is_when_that_is_not_where_it_was_told_to_be():
    arm = Arm()
    arm.push(3, x=1)
    moved = arm.told[:6].copy()
    moved[1] -= 0.6
    arm.state[:6] = moved  # somebody has lifted it
    action = arm.driven({"x": 1})
    assert np.abs(action[:6] - moved).max() <= 0.15 + 1e-5
    assert arm.driven({})[:6] == pytest.approx(moved, abs=1e-6)


def test_degrees_slides_and_five_joints():
    unit = np.pi / 180
    arm = Arm(body(unit=unit), unit=unit, degrees=True)
    at = arm.pose()[0]
    assert arm.push(5, y=-1)[-1] - at == pytest.approx([0, -0.05, 0], abs=0.002)
    few = JOINTS[:3] + JOINTS[4:]
    ready = np.delete(READY, 3)
    arm = Arm(body(joints=few), joints=few, ready=ready)
    at = arm.pose()[0]
    assert arm.push(10, y=1)[-1] - at == pytest.approx([0, 0.1, 0], abs=0.003), "its hand turns with its base"
    assert arm.push(10, pitch=1)[-1] - at == pytest.approx([0, 0.1, 0], abs=0.01)


def test_the_documented_arm_is_sound_and_can_be_driven():
    text = (Path(__file__).parents[2] / "docs" / "stations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"(?m)^    from robots.embodiments import STATE, .*\n(?:(?:    .*)?\n)+", text)
    said = {}
    exec(textwrap.dedent(block), said)
    said["BODY"].check()
    few = JOINTS[:3] + JOINTS[4:]
    arm = CartesianArm(said["BODY"], MODEL, "hand", dict(zip(few, said["JOINTS"], strict=True)), degrees=True)
    seen = {STATE: np.array([*np.degrees(np.delete(READY, 3)), 50], np.float32)}
    action = arm.action({"y": 1}, seen, None)
    assert 0 < np.abs(action[:5] - seen[STATE][:5]).max() <= 3.001 and action[5] == 50


def test_what_can_not_be_driven_is_said():
    embodiment = body()
    names = {joint: f"{joint}.pos" for joint in JOINTS}
    for frame, joints, words in (
        ("foot", names, "no site or body 'foot'"),
        ("hand", names | {"tail": "pan.pos"}, "no hinge or slide joint 'tail'"),
        ("hand", names | {"jaw": "jaw.pos"}, "no number 'jaw.pos'"),
        ("hand", {}, "no joint was named"),
    ):
        with pytest.raises(ValueError, match=words):
            CartesianArm(embodiment, MODEL, frame, joints)


def test_a_call_solves_few_problems_so_that_it_takes_far_less_than_a_control_step(monkeypatch):
    """Also at the edge of reach, where all parts of a step are tried."""
    arm = Arm()
    arm.push(80, x=1, z=1)
    solved, solve = [], cartesian.mink.solve_ik
    monkeypatch.setattr(cartesian.mink, "solve_ik", lambda *given, **named: solved.append(1) or solve(*given, **named))
    calls = []
    for number in range(200):
        solved.clear()
        arm.driven({"x": 1, "y": 0.3, "yaw": 0.5} if number % 2 else {"x": 1, "z": 1})
        calls.append(len(solved))
    assert 1 <= max(calls) <= 12


def test_an_arm_of_a_file_is_matched_by_its_joints_names(tmp_path):
    file = tmp_path / "arm.xml"
    file.write_text(ARM)
    degrees = body(unit=np.pi / 180)
    names = degrees.action.names
    units = dict.fromkeys(names[:-1], "deg") | {"gripper.pos": "%"}
    told = replace(degrees, action=replace(degrees.action, units=tuple(units.values())))
    ready = np.array([*READY * 180 / np.pi, 40.0], np.float32)
    arm = arm_of_file(file, told, "hand")
    action = arm.action({"z": 1.0}, {STATE: ready}, None)
    by_hand = CartesianArm(told, MODEL, "hand", {joint: f"{joint}.pos" for joint in JOINTS}, degrees=True)
    assert np.allclose(action, by_hand.action({"z": 1.0}, {STATE: ready}, None)) and not np.allclose(action, ready)
    parts = replace(degrees, action=replace(degrees.action, units=("",) * len(names)))
    with pytest.raises(ValueError, match="its joints must be told in degrees"):
        arm_of_file(file, parts, "hand")

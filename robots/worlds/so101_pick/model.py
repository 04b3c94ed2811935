"""The arm, the table, the cubes and the bins in MuJoCo's XML: primitive shapes only, all of our own making.

Lengths are those of a small desktop arm with six servos. In its own frame the arm faces +x; on the table it stands at
the far edge and faces the camera, so what is left in the picture is negative x.

One jaw stands still, the other turns about a hinge, as such arms have it. The jaws are parallel when they hold a cube.
"""

import math
from functools import cache

import mujoco

from robots.embodiments import ObjectKind
from robots.worlds.so101_pick import BASE, BIN_HALF, BINS, CUBE, JOINTS, TABLE_SIZE, WALL_HEIGHT

PHYSICS_STEPS = 20  # of 5 ms: one control step of 100 ms
TIMESTEP = 0.005
WALL = 0.003  # metres, half of a wall's thickness
FRONT_ANGLE = 43.0  # degrees, from the lowest to the highest that the front camera sees

COLOURS = {
    "red": (0.82, 0.17, 0.17),
    "blue": (0.15, 0.36, 0.84),
    "green": (0.13, 0.58, 0.29),
}
TABLE_COLOUR = (0.86, 0.85, 0.82)
FLOOR_COLOUR = (0.34, 0.37, 0.4)
WALL_COLOUR = (0.36, 0.4, 0.47)
BIN_COLOUR = (0.66, 0.69, 0.74)
LINK_COLOUR = (0.96, 0.68, 0.2)
MOTOR_COLOUR = (0.15, 0.16, 0.18)
JAW_COLOUR = (0.98, 0.8, 0.45)

# Of each joint: where it goes from and to in radians, its servo's stiffness in Nm a radian and its most in Nm.
# The servo's damping makes it critically damped, so a step of the hand is done within a control step.
_RANGES = {
    "shoulder_pan": (-1.92, 1.92),
    "shoulder_lift": (-1.75, 1.75),
    "elbow_flex": (0.15, 2.75),
    "wrist_flex": (-1.7, 2.3),
    "wrist_roll": (-2.75, 2.75),
    "gripper": (-0.4, 0.65),
}
_STIFFNESS = {"shoulder_pan": 60, "shoulder_lift": 80, "elbow_flex": 60, "wrist_flex": 30, "wrist_roll": 10}
_MOST = {"shoulder_pan": 4, "shoulder_lift": 5, "elbow_flex": 4, "wrist_flex": 3, "wrist_roll": 1.5, "gripper": 0.35}


def joint_range(joint: str) -> tuple[float, float]:
    """From where to where a joint goes, in radians."""
    return _RANGES[joint]


def _rgba(colour: tuple[float, float, float]) -> str:
    return 'rgba="' + " ".join(f"{c}" for c in (*colour, 1)) + '"'


def _joint(name: str, axis: str, armature: float, more: str = "") -> str:
    low, high = _RANGES[name]
    return f'<joint name="{name}" axis="{axis}" range="{low} {high}" armature="{armature}" damping="0.05" {more}/>'


def _arm() -> str:
    """Base to jaws. Of the arm only the jaws touch anything; its own frame is where it is put."""
    motor, link = f'class="scenery" {_rgba(MOTOR_COLOUR)}', f'class="scenery" {_rgba(LINK_COLOUR)}'
    jaw = f'class="jaw" {_rgba(JAW_COLOUR)}'
    return f"""
    <body name="base" pos="{BASE[0]} {BASE[1]} 0" euler="0 0 {-math.pi / 2}">
      <geom {motor} type="box" pos="-0.015 0 0.006" size="0.05 0.042 0.006" mass="0.2"/>
      <geom {link} type="box" pos="-0.01 0 0.034" size="0.032 0.026 0.022" mass="0.2"/>
      <body name="shoulder" pos="0 0 0.06" gravcomp="1">
        {_joint("shoulder_pan", "0 0 1", 0.01)}
        <geom {motor} type="cylinder" pos="0 0 0.002" size="0.027 0.006" mass="0.03"/>
        <geom {link} type="box" pos="0.012 0 0.03" size="0.024 0.02 0.024" mass="0.07"/>
        <body name="upper arm" pos="0.03 0 0.055" gravcomp="1">
          {_joint("shoulder_lift", "0 1 0", 0.01)}
          <geom {motor} type="cylinder" euler="{math.pi / 2} 0 0" size="0.017 0.025" mass="0.05"/>
          <geom {link} type="box" pos="0 0 0.058" size="0.011 0.015 0.05" mass="0.06"/>
          <body name="lower arm" pos="0 0 0.116" gravcomp="1">
            {_joint("elbow_flex", "0 1 0", 0.008)}
            <geom {motor} type="cylinder" euler="{math.pi / 2} 0 0" size="0.016 0.023" mass="0.05"/>
            <geom {link} type="box" pos="0 0 0.066" size="0.0095 0.013 0.058" mass="0.05"/>
            <body name="wrist" pos="0 0 0.135" gravcomp="1">
              {_joint("wrist_flex", "0 1 0", 0.005)}
              <geom {motor} type="cylinder" euler="{math.pi / 2} 0 0" size="0.014 0.02" mass="0.04"/>
              <geom {link} type="box" pos="0 0 0.03" size="0.011 0.013 0.026" mass="0.03"/>
              <body name="hand" pos="0 0 0.06" euler="0 0 {math.pi / 2}" gravcomp="1">
                {_joint("wrist_roll", "0 0 1", 0.003)}
                <camera name="wrist" pos="0 -0.052 0.004" xyaxes="1 0 0 0 -0.94 0.342" fovy="62"/>
                <geom {motor} type="box" pos="0 -0.05 -0.002" size="0.009 0.007 0.006" mass="0.01"/>
                <geom {link} type="box" pos="0 -0.03 -0.002" size="0.005 0.015 0.003" mass="0.005"/>
                <geom {motor} type="cylinder" pos="0 0 0.0" size="0.016 0.012" mass="0.04"/>
                <geom {link} type="box" pos="0.003 0 0.015" size="0.0235 0.013 0.006" mass="0.02"/>
                <geom {jaw} name="still jaw" type="box" pos="-0.0165 0 0.0475" size="0.004 0.009 0.0275" mass="0.02"/>
                <site name="tip" pos="0.006 0 0.075" size="0.002" group="4"/>
                <body name="jaw" pos="0.022 0 0.012" gravcomp="1">
                  {_joint("gripper", "0 1 0", 0.0006, 'stiffness="0.02" springref="-1.4"')}
                  <geom {motor} type="cylinder" euler="{math.pi / 2} 0 0" size="0.008 0.014" mass="0.01"/>
                  <geom {jaw} name="moving jaw" type="box" pos="-0.0055 0 0.0355" size="0.004 0.009 0.0275"
                        mass="0.015"/>
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""


def _servos() -> str:
    """The jaw's is weak: it is to hold a cube, not to crush it. Told to stay where it is it still holds one, by the
    weak spring of its joint: a person who takes over in the middle of a carry tells it that.
    """
    arm = "".join(
        f'<position joint="{joint}" kp="{stiffness}" dampratio="1" forcerange="{-_MOST[joint]} {_MOST[joint]}"/>'
        for joint, stiffness in _STIFFNESS.items()
    )
    most = _MOST["gripper"]
    return f'{arm}<position joint="gripper" kp="3" kv="0.12" forcerange="{-most} {most}"/>'


def _cube(number: int, kind: ObjectKind) -> str:
    half = CUBE / 2
    # Where it is if MuJoCo begins anew by itself: beside the table, and in no other cube.
    away = 3 + 0.1 * number
    return f"""
    <body name="{kind.name}" pos="{away} 0 {half}">
      <freejoint/>
      <geom class="cube" name="{kind.name}" type="box" size="{half} {half} {half}" {_rgba(COLOURS[kind.colour])}/>
    </body>"""


def _bin(x: float, y: float) -> str:
    """Four walls; its floor is only painted on the table."""
    walls = []
    out = BIN_HALF + WALL
    for side in (-1, 1):
        for pos, size in (
            ((x + side * out, y), (WALL, out + WALL)),
            ((x, y + side * out), (out + WALL, WALL)),
        ):
            walls.append(
                f'<geom class="solid" type="box" pos="{pos[0]} {pos[1]} {WALL_HEIGHT / 2}" '
                f'size="{size[0]} {size[1]} {WALL_HEIGHT / 2}" {_rgba(WALL_COLOUR)}/>'
            )
    floor = f'<geom class="scenery" type="box" pos="{x} {y} 0" size="{out} {out} 0.0006" {_rgba(BIN_COLOUR)}/>'
    return floor + "".join(walls)


def mjcf(objects: tuple[ObjectKind, ...]) -> str:
    """The table with these cubes in MuJoCo's XML."""
    half_x, half_y = TABLE_SIZE[0] / 2, TABLE_SIZE[1] / 2
    # Which touch: cubes all but the arm's links, jaws the cubes, the table and the walls.
    return f"""
    <mujoco model="so101_pick">
      <compiler angle="radian" autolimits="true"/>
      <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10" iterations="20"
              ls_iterations="20"/>
      <visual>
        <headlight ambient="0.45 0.45 0.45" diffuse="0.16 0.16 0.16" specular="0 0 0"/>
        <quality offsamples="4"/>
        <map znear="0.005"/>
      </visual>
      <statistic extent="1" center="0 0 0"/>
      <default>
        <geom condim="4" friction="0.7 0.005 0.0001" solref="0.01 1"/>
        <default class="cube"><geom contype="1" conaffinity="3" mass="0.02"/></default>
        <default class="solid"><geom contype="0" conaffinity="3"/></default>
        <default class="jaw"><geom contype="2" conaffinity="0" friction="1.5 0.02 0.0001"/></default>
        <default class="scenery"><geom contype="0" conaffinity="0"/></default>
      </default>
      <worldbody>
        <light directional="true" dir="0.25 0.5 -1" diffuse="0.5 0.5 0.5" specular="0.05 0.05 0.05"
               castshadow="false"/>
        <camera name="front" pos="0 -0.43 0.43" xyaxes="1 0 0 0 0.6 0.8" fovy="{FRONT_ANGLE}"/>
        <geom class="scenery" type="plane" pos="0 0 -0.4" size="9 9 1" {_rgba(FLOOR_COLOUR)}/>
        <geom class="scenery" type="box" pos="0 0 -0.0102" size="{half_x} {half_y} 0.01" {_rgba(TABLE_COLOUR)}/>
        <geom class="solid" name="table" type="plane" size="0 0 1" group="4"/>
        {"".join(_bin(*at) for at in BINS.values())}
        {_arm()}
        {"".join(_cube(*each) for each in enumerate(objects))}
      </worldbody>
      <actuator>{_servos()}</actuator>
    </mujoco>"""


@cache
def compiled(objects: tuple[ObjectKind, ...]) -> mujoco.MjModel:
    """One compiled model for all tables with these cubes in the process; nothing changes it."""
    model = mujoco.MjModel.from_xml_string(mjcf(objects))
    assert [model.joint(i).name for i in range(len(JOINTS))] == list(JOINTS)
    return model

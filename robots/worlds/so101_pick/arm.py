"""Where the hand is, and which joint angles bring it elsewhere: by MuJoCo's Jacobian and damped least squares.

The hand points straight down always, so its place and its turn about the vertical say all that the five joints can do.
A model of the arm alone serves: it costs a fraction of the table's.
"""

import math

import mujoco
import numpy as np

from robots.worlds.so101_pick import BASE, HAND, YAW
from robots.worlds.so101_pick.model import compiled, joint_range

Pose = tuple[float, float, float, float]  # x, y, z of the jaws' tips in metres, yaw in radians

ITERATIONS = 3
LARGEST_CHANGE = 0.25  # radians of a joint in one iteration: longer steps overshoot where the elbow is almost straight
DAMPING = 5e-3  # metres a radian: below it a direction of motion is given up rather than forced
TURNING = 0.1  # metres that a radian of the hand's orientation counts as much as
_SHOULDER, _UPPER, _LOWER, _HAND = (0.03, 0.115), 0.116, 0.135, 0.135  # the links of model.py, in metres
_STRETCH = 0.96  # of both links' length: the elbow is never straight
_MOST_ROLL = joint_range("wrist_roll")[1] - 0.1
_INNERMOST = 0.105  # metres from the arm's axis


def within(value: float, low: float, high: float) -> float:
    """The nearest number from low to high."""
    return min(max(value, low), high)


def reached(x: float, y: float, z: float) -> tuple[float, float, float]:
    """The nearest place at which the hand can point straight down: in its box, and not too far from the arm's axis."""
    x, y, z = (within(value, *bounds) for value, bounds in zip((x, y, z), HAND, strict=True))
    from_x, from_y = x - BASE[0], y - BASE[1]
    radius = math.hypot(from_x, from_y)
    height = z + _HAND - _SHOULDER[1]
    farthest = _SHOULDER[0] + math.sqrt((_STRETCH * (_UPPER + _LOWER)) ** 2 - height**2)
    share = within(radius, _INNERMOST, farthest) / max(radius, 1e-6)
    return BASE[0] + share * from_x, BASE[1] + share * from_y, z


class Arm:
    """The arm's kinematics."""

    def __init__(self) -> None:
        self.model = compiled(())
        self._data = mujoco.MjData(self.model)
        self._site = self.model.site("tip").id
        self._place, self._axes = self._data.site_xpos[self._site], self._data.site_xmat[self._site]
        self._qpos = self._data.qpos[:5]
        self._jacobian = np.zeros((6, self.model.nv))
        self._moving, self._turning = self._jacobian[:3], self._jacobian[3:]
        self._low, self._high = self.model.jnt_range[:5].T.copy()
        self._damping = DAMPING**2 * np.eye(5)
        self._error = np.zeros(6)

    def pose(self, joints: np.ndarray) -> Pose:
        """Of the hand at these joint angles [5]."""
        self._qpos[:] = joints
        mujoco.mj_kinematics(self.model, self._data)
        x, y, z = self._place.tolist()
        return x, y, z, math.atan2(self._axes[3], self._axes[0])

    def joints(self, start: np.ndarray, pose: Pose) -> np.ndarray:
        """The joint angles [5] that bring the hand from those at the start to the pose, or near to it."""
        x, y, z, yaw = pose
        cos, sin = math.cos(yaw), math.sin(yaw)
        self._qpos[:] = start
        for _ in range(ITERATIONS):
            mujoco.mj_kinematics(self.model, self._data)
            mujoco.mj_comPos(self.model, self._data)
            mujoco.mj_jacSite(self.model, self._data, self._moving, self._turning, self._site)
            px, py, pz = self._place.tolist()
            # The hand's axes as they are, against those wanted: (cos, sin, 0), (sin, -cos, 0), (0, 0, -1).
            xx, yx, zx, xy, yy, zy, xz, yz, _ = self._axes.tolist()
            self._error[:] = (
                x - px,
                y - py,
                z - pz,
                TURNING * 0.5 * (-xz * sin + yz * cos - zy),
                TURNING * 0.5 * (xz * cos + yz * sin + zx),
                TURNING * 0.5 * (xx * sin - xy * cos - yx * cos - yy * sin),
            )
            self._turning *= TURNING
            jacobian = self._jacobian[:, :5]
            change = np.linalg.solve(jacobian.T @ jacobian + self._damping, jacobian.T @ self._error)
            change = np.clip(change, -LARGEST_CHANGE, LARGEST_CHANGE)
            self._qpos[:] = np.clip(self._qpos + change, self._low, self._high)
        joints: np.ndarray = self._qpos.copy()
        return joints


def opening(angle: float) -> float:
    """The gripper's opening in per cent, of its joint's angle in radians."""
    low, high = joint_range("gripper")
    return 100 * (angle - low) / (high - low)


def angle_of(percent: float) -> float:
    """The gripper's angle in radians, of its opening in per cent."""
    low, high = joint_range("gripper")
    return low + percent / 100 * (high - low)


def turned(x: float, y: float, yaw: float) -> float:
    """The nearest yaw that the hand can have there, in radians: at the sides of the table the wrist's roll ends."""
    pan = math.atan2(x - BASE[0], BASE[1] - y)
    return within(yaw, max(YAW[0], pan - _MOST_ROLL), min(YAW[1], pan + _MOST_ROLL))

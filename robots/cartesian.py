"""A joint-space arm driven along and about Cartesian axes: from what a person pushes to joint positions.

A world or robot whose body has drive axes that no single number of its action moves holds one of these, and answers
`driven` (DrivenWorld in robots/worlds/) by it. It is differential inverse kinematics with mink, on a MuJoCo model of
the arm that serves for this alone. It remembers nothing: the world says what was sent last and what is sensed now.
Needs the extra [arm].
"""

from collections.abc import Mapping
from pathlib import Path

import mujoco
import numpy as np

from robots.embodiments import STATE, Embodiment, Observation

try:
    import mink
except ImportError as error:
    raise ImportError('To drive an arm in Cartesian space install mink: pip install "fleetui[arm]".') from error

LINEAR, TURNING = ("x", "y", "z"), ("roll", "pitch", "yaw")
FULL = 6  # with fewer joints a hand can't keep its orientation wherever it goes
FRACTIONS = (1.0, 0.5, 0.2)  # of a step: what is out of reach as a whole may be in reach in part
ITERATIONS = 4  # of Newton's method a step, so that errors don't add up over many steps
DAMPING = 1e-5  # keeps joints calm near singularities
SOLVED = 1e-5  # metres and radians: no further iteration
# How far a step may miss what was pushed, of what it was to go and at least (metres, radians); else it isn't gone.
MISSED, MISSED_M, MISSED_RAD = 0.1, 2e-4, 1e-3
_ONE_NUMBER = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))


class CartesianArm:
    """The arm of one body in one model.

    `frame` is the model's site or body that moves: along x, y and z of the model's world, and turns about them (roll,
    pitch, yaw) around its own origin. `joints` says which number of the action each joint of the model is; each is an
    absolute position (Motion "position"), in radians or metres, or in `degrees` where it turns. A joint moves no
    further in one step than its motion's largest change, and stays within the model's range and the action's.
    """

    def __init__(
        self,
        body: Embodiment,
        model: mujoco.MjModel,
        frame: str,
        joints: Mapping[str, str],
        *,
        metres_per_s: float = 0.1,
        radians_per_s: float = 0.5,
        degrees: bool = False,
    ):
        names = [model.joint(i).name for i in range(model.njnt)]
        for joint, number in joints.items():
            if joint not in names or model.jnt_type[names.index(joint)] not in _ONE_NUMBER:
                raise ValueError(f"The model has no hinge or slide joint {joint!r}; it has {', '.join(names)}.")
            if number not in body.action_names or body.motions[body.action_names.index(number)].kind != "position":
                raise ValueError(f"{body.name} has no number {number!r} of its action that is a position.")
        kinds = (("site", mujoco.mjtObj.mjOBJ_SITE), ("body", mujoco.mjtObj.mjOBJ_BODY))
        kind = next((kind for kind, code in kinds if mujoco.mj_name2id(model, code, frame) >= 0), None)
        if kind is None or not joints:
            raise ValueError(f"The model has no site or body {frame!r}, or no joint was named that moves it.")
        self.body = body
        self._numbers = np.array([body.action_names.index(number) for number in joints.values()], int)
        positions = [i for i, motion in enumerate(body.motions) if motion.kind == "position"]
        self._held = np.array(positions, int)  # what rests where it was told to be, the joints among it
        self._held_at = np.array([body.state_names.index(body.motions[i].sensed_by) for i in positions], int)
        found = [model.joint(joint) for joint in joints]
        turns = model.jnt_type[[each.id for each in found]] == int(mujoco.mjtJoint.mjJNT_HINGE)
        self._unit = np.where(turns & degrees, np.pi / 180, 1.0)  # of a number of the action, in the model's
        self._qpos = np.array([each.qposadr[0] for each in found], int)
        self._dofs = np.array([each.dofadr[0] for each in found], int)
        self._change = self._unit * [float(body.motions[i].largest_change or 0) for i in self._numbers]
        low, high = np.array(body.action_range)[self._numbers].T * self._unit
        limited = [bool(model.jnt_limited[each.id]) for each in found]
        own = np.array([model.jnt_range[each.id] for each in found])
        self._low = np.where(limited, np.maximum(low, own[:, 0]), low)
        self._high = np.where(limited, np.minimum(high, own[:, 1]), high)
        self._speeds = metres_per_s / body.fps, radians_per_s / body.fps  # a step
        self._whole = len(joints) >= FULL
        self._arm = mink.Configuration(model)
        self._frame = frame, kind
        self._task = mink.FrameTask(frame, kind, position_cost=1.0, orientation_cost=1.0 if self._whole else 0.02)
        self._box = _Box(model, self._qpos, self._dofs)
        others = sorted({*range(model.nv)} - {*self._dofs.tolist()})
        self._frozen = [mink.DofFreezingTask(model, others)] if others else []

    def action(self, axes: Mapping[str, float], observation: Observation, told: np.ndarray | None) -> np.ndarray:
        """The action [A] for a push of each axis from -1 to 1. `told` [A]: the action that was sent last, if any.

        It goes on from where the arm was told to be: from where it is, it would sink a little with each step. But where
        it isn't near to that (somebody moved it, it was switched off) it goes on from where it is. Numbers that are no
        joints of the arm rest, a gripper with the force that it was told to close by.
        """
        action = np.zeros(self.body.action_size)
        action[self._held] = observation[STATE][self._held_at]
        here = action[self._numbers] * self._unit
        start = here if told is None else told[self._numbers] * self._unit
        if told is not None:
            action[self._held] = told[self._held]
        if np.any(np.abs(start - here) > 1.001 * self._change + 1e-6):
            start = here
        # No target is further from the arm than what it may be told (robots/actions.py), or its path would be bent.
        low, high = (np.clip(end, here - self._change, here + self._change) for end in (self._low, self._high))
        low, high = np.clip(low, start - self._change, None), np.clip(high, None, start + self._change)
        self._box.low, self._box.high = np.minimum(low, high), np.maximum(low, high)
        moved = self._moved(start, axes)
        action[self._numbers] = moved / self._unit
        return action.astype(np.float32)

    def _moved(self, start: np.ndarray, axes: Mapping[str, float]) -> np.ndarray:
        """Joint positions [J] one step on from `start` [J]; `start` itself where the push can't be followed."""
        go, turn = (
            speed * np.array([axes.get(each, 0.0) for each in names], float)
            for speed, names in zip(self._speeds, (LINEAR, TURNING), strict=True)
        )
        held: np.ndarray = np.clip(start, self._box.low, self._box.high)
        if not go.any() and not turn.any():
            return held
        self._set(start)
        pose = self._arm.get_transform_frame_to_world(*self._frame)
        for fraction in FRACTIONS:
            turned = mink.SO3.exp(fraction * turn) @ pose.rotation()
            target = mink.SE3.from_rotation_and_translation(turned, pose.translation() + fraction * go)
            found = self._solve(start, target)
            missed = self._task.compute_error(self._arm)
            far, off = _length(missed[:3]), _length(missed[3:])
            near = far <= max(MISSED * fraction * _length(go), MISSED_M)
            if near and (not self._whole or off <= max(MISSED * fraction * _length(turn), MISSED_RAD)):
                return found
        return held

    def _solve(self, start: np.ndarray, target: mink.SE3) -> np.ndarray:
        """The joint positions [J] within the box whose frame is nearest to the target."""
        self._set(start)
        self._task.set_target(target)
        for _ in range(ITERATIONS):
            try:
                change = mink.solve_ik(
                    self._arm, [self._task], 1.0, "daqp", DAMPING, limits=[self._box], constraints=self._frozen
                )
            except mink.MinkError:  # no solution: what is found so far is judged
                break
            now = self._arm.data.qpos[self._qpos] + change[self._dofs]
            self._set(np.clip(now, self._box.low, self._box.high))
            if np.abs(change[self._dofs]).max() < SOLVED:
                break
        found: np.ndarray = self._arm.data.qpos[self._qpos]
        return found

    def _set(self, joints: np.ndarray) -> None:
        q = self._arm.data.qpos.copy()
        q[self._qpos] = joints
        self._arm.update(q)


def arm_of_file(path: Path, body: Embodiment, frame: str) -> CartesianArm:
    """The arm of a MuJoCo file whose joints are called as the body's numbers are, with ".pos" or without. ValueError
    where it can't be read, or where an arm's joint is not told in degrees or radians.
    """
    model = mujoco.MjModel.from_xml_path(str(path))
    named = {name.removesuffix(".pos"): name for name in body.action_names if "gripper" not in name}
    joints = {name: named[name] for i in range(model.njnt) if (name := model.joint(i).name) in named}
    units = {body.action.units[body.action_names.index(name)] for name in joints.values()}
    if len(units) > 1 or not units <= {"deg", "rad"}:
        raise ValueError(
            f"To drive {body.name} in Cartesian space its joints must be told in degrees, not in parts of their range; "
            "start it with --robot.use_degrees=true."
        )
    return CartesianArm(body, model, frame, joints, degrees=units == {"deg"})


def _length(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))


class _Box(mink.Limit):
    """Each joint between `low` and `high` [J], which change with each step."""

    def __init__(self, model: mujoco.MjModel, qpos: np.ndarray, dofs: np.ndarray):
        self._qpos, self._rows = qpos, np.eye(model.nv)[dofs]
        self._both = np.vstack([self._rows, -self._rows])
        self.low = self.high = np.zeros(len(dofs))

    def compute_qp_inequalities(self, configuration: mink.Configuration, dt: float) -> mink.Constraint:
        """What is left of the way to either end."""
        now = configuration.data.qpos[self._qpos]
        return mink.Constraint(self._both, np.hstack([self.high - now, now - self.low]).clip(min=0))

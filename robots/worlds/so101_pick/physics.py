"""The world: an arm that grasps cubes by friction and contact, at 10 Hz.

An action moves the hand from where it is sensed to be, so nothing that a step needs is hidden in what was told before.
Of the state an observation leaves out the velocities of arm and cubes and how far a cube is tilted (one that leans on a
wall): a recorded observation is put back with everything at rest and every cube level. Two worlds that are put into the
same observation go on alike, to the bit.

A cube whose middle passes the table's edge has fallen: it is parked far away, touches nothing, and stays so until a
reset. One that lies where the arm can't take it waits for a person, too.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import mujoco
import numpy as np
from PIL import Image

from robots.embodiments import ENVIRONMENT_STATE, IMAGES, STATE, Embodiment
from robots.tasks import Instruction
from robots.worlds import checked
from robots.worlds.rendering import render, renderer_name
from robots.worlds.so101_pick import (
    BIN_HALF,
    BINS,
    CUBE,
    LARGEST_GRIP,
    MIDDLE,
    SO101_PICK,
    SO101_PICK_CAMERAS,
    TABLE_SIZE,
    bin_at,
    in_reach,
    missing_into,
    missing_out,
)
from robots.worlds.so101_pick.arm import Arm, Pose, angle_of, opening, reached, turned, within
from robots.worlds.so101_pick.drawing import drawn
from robots.worlds.so101_pick.model import PHYSICS_STEPS, compiled

HALF_X, HALF_Y = TABLE_SIZE[0] / 2, TABLE_SIZE[1] / 2
LYING_BELOW = 0.05  # metres, of the middle of a cube that lies in a bin, perhaps on another one
AT_REST = (0.02, 0.5)  # metres and radians a second
APART = 0.05  # metres between the middles of cubes that are scattered: the jaws pass between them
APART_IN_BIN = 0.038
# The servos are told a fifth of a step at a time where to be; told all at once they jerk a cube out of the jaws.
RAMP = (0.25, 0.5, 0.75, 1.0, 1.0)
_START = np.array([0.0, 0.36, 1.5, 1.28, 0.0])  # radians, above the middle of the table


class CubePose(NamedTuple):
    """Where a cube is, in metres, and its yaw in radians, from -pi/4 to pi/4: it looks alike after a quarter turn."""

    x: float
    y: float
    z: float
    yaw: float


class Layout(NamedTuple):
    """What a person would see, as plain numbers: the hand, the gripper's opening in per cent, the cubes not fallen."""

    hand: Pose
    opening: float
    cubes: Mapping[str, CubePose]


# MuJoCo's warnings of a state that is no number or huge: it begins anew then, by itself. About once in 10,000 attempts.
_BROKEN = mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC


class So101Pick:
    """One table with its arm."""

    resets_itself = False

    def __init__(self, seed: int, embodiment: Embodiment = SO101_PICK):
        self.embodiment = embodiment
        self.names = tuple(kind.name for kind in embodiment.objects)
        self.model = compiled(embodiment.objects)
        self._data = mujoco.MjData(self.model)
        self._arm = Arm()
        self._joints, self._grip = self._data.qpos[:5], self._data.qpos[5:6]
        self._poses = self._data.qpos[6:].reshape(-1, 7)
        self._speeds = self._data.qvel[6:].reshape(-1, 6)
        self._ctrl = self._data.ctrl
        self._cube_geoms = {name: self.model.geom(name).id for name in self.names}
        self._jaws = [self.model.geom(f"{each} jaw").id for each in ("still", "moving")]
        self._low, self._high = np.array(embodiment.action_range).T
        self._fallen: set[str] = set()
        self._hand: Pose = (0.0, 0.0, 0.0, 0.0)
        self._recorded: dict[str, np.ndarray] = {}  # pictures of the past that are shown instead of what is now
        self.reset(np.random.default_rng(seed))

    @property
    def renderer(self) -> str:
        return renderer_name()

    def reset(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The hand somewhere above, at least one cube in a bin, the others between them: both families can be asked."""
        mujoco.mj_resetData(self.model, self._data)
        hand = (rng.uniform(-0.17, 0.17), rng.uniform(-0.07, 0.0), rng.uniform(0.06, 0.1), rng.uniform(-0.8, 0.8))
        hand = (*reached(*hand[:3]), hand[3])
        joints = _START
        for _ in range(6):
            joints = self._arm.joints(joints, hand)
        self._joints[:] = joints
        self._grip[0] = angle_of(rng.uniform(0, 80))
        places = self._scattered(rng)
        for pose, (x, y) in zip(self._poses, places, strict=True):
            _put(pose, x, y, CUBE / 2, rng.uniform(-math.pi, math.pi))
        self._fallen.clear()
        self._settle()
        return self.observation()

    def _scattered(self, rng: np.random.Generator) -> list[tuple[float, float]]:
        """A place for each cube; nothing touches."""
        count = len(self.names)
        inside = set(rng.permutation(count)[: rng.integers(1, count + 1)].tolist())
        room = BIN_HALF - CUBE * 0.75
        places: list[tuple[float, float]] = []
        while len(places) < count:
            if len(places) in inside:
                x, y = list(BINS.values())[rng.integers(len(BINS))]
                place, apart = (x + rng.uniform(-room, room), y + rng.uniform(-room, room)), APART_IN_BIN
            else:
                place, apart = (rng.uniform(*MIDDLE[0]), rng.uniform(*MIDDLE[1])), APART
            if in_reach(place) and all(math.dist(place, other) > apart for other in places):
                places.append(place)
        return places

    def _settle(self) -> None:
        """After everything was put somewhere: at rest, and the servos told to stay."""
        self._recorded = {}
        self._data.qvel[:] = 0
        self._ctrl[:] = self._data.qpos[:6]
        mujoco.mj_forward(self.model, self._data)
        self._hand = self._arm.pose(self._joints)

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        action = checked("action", action, len(self._low))
        dx, dy, dz, turn, grip = np.clip(action, self._low, self._high).tolist()
        x, y, z, yaw = self._hand
        x, y, z = reached(x + dx, y + dy, z + dz)
        goal = (x, y, z, turned(x, y, yaw + turn))
        start = self._joints.copy()
        change = self._arm.joints(start, goal) - start
        now = opening(self._grip[0])
        self._ctrl[5] = angle_of(within(grip, now - LARGEST_GRIP, now + LARGEST_GRIP))
        for share in RAMP:
            self._ctrl[:5] = start + share * change
            mujoco.mj_step(self.model, self._data, PHYSICS_STEPS // len(RAMP))
        self._hand = self._arm.pose(self._joints)
        self._park()
        self._recorded = {}
        return self.observation()

    def _park(self) -> None:
        """Whatever has passed the table's edge."""
        for i, (pose, name) in enumerate(zip(self._poses, self.names, strict=True)):
            if not (abs(pose[0]) <= HALF_X and abs(pose[1]) <= HALF_Y):
                self._fallen.add(name)
                _put(pose, 3.0 + 0.1 * i, 0.0, CUBE / 2, 0.0)
                self._speeds[i] = 0

    def observation(self) -> dict[str, np.ndarray]:
        observation = {STATE: np.array([*self._joints.tolist(), opening(self._grip[0]), *self._hand], np.float32)}
        if self.embodiment.tracked:
            numbers: list[float] = []
            for name, pose in zip(self.names, self._poses.tolist(), strict=True):
                numbers += (0.0,) * 5 if name in self._fallen else (*pose[:3], *_turned(pose))
            observation[ENVIRONMENT_STATE] = np.array(numbers, np.float32)
        for camera, feature in self.embodiment.pictures.items():
            height, width, _ = feature.shape
            observation[IMAGES + camera] = self.render(camera, width, height)
        return observation

    def set_observation(self, observation: dict[str, np.ndarray]) -> None:
        """Everything at rest and every cube level. Pictures are shown again as they are; where the cubes lay that they
        show nobody recorded, so the cubes stay where they are.
        """
        sizes = {key: feature.size for key, feature in self.embodiment.observation.items()}
        given = {key: checked(key, np.ravel(observation[key]), size) for key, size in sizes.items()}
        poses = self._poses.copy()
        mujoco.mj_resetData(self.model, self._data)
        self._joints[:], self._grip[0] = given[STATE][:5], angle_of(given[STATE][5])
        self._poses[:] = poses
        if self.embodiment.tracked:
            self._fallen.clear()
            for i, (name, numbers) in enumerate(
                zip(self.names, given[ENVIRONMENT_STATE].reshape(-1, 5).tolist(), strict=True)
            ):
                x, y, z, cos, sin = numbers
                if cos == sin == 0:
                    self._fallen.add(name)
                    x, y, z = 3.0 + 0.1 * i, 0.0, CUBE / 2
                _put(self._poses[i], x, y, z, math.atan2(sin, cos) / 4)
        self._settle()
        for camera in self.embodiment.pictures:
            self._recorded[camera] = np.array(observation[IMAGES + camera], np.uint8)

    def layout(self) -> Layout:
        """What the demonstrator looks at."""
        cubes = {}
        for name, pose in zip(self.names, self._poses.tolist(), strict=True):
            if name not in self._fallen:
                cos, sin = _turned(pose)
                cubes[name] = CubePose(pose[0], pose[1], pose[2], math.atan2(sin, cos) / 4)
        return Layout(self._hand, opening(self._grip[0]), cubes)

    def touched(self, name: str) -> bool:
        """Whether a jaw touches the cube."""
        geom = self._cube_geoms[name]
        pairs = self._data.contact.geom.tolist()
        return any(geom in pair and (self._jaws[0] in pair or self._jaws[1] in pair) for pair in pairs)

    def true_success(self, instruction: Instruction) -> bool:
        """The cube lies where it should, at rest, and the gripper has let go."""
        target, name = instruction.target, instruction.target["cube"]
        if name in self._fallen:
            return False
        index = self.names.index(name)
        x, y, z = self._poses[index, :3].tolist()
        place = {name: (x, y)}
        if instruction.family.endswith("take_out"):
            there = missing_out(target, place) <= 0 and not bin_at((x, y))
        else:
            there = missing_into(target, place) <= 0
        if not there or z > LYING_BELOW:
            return False
        *motion, wx, wy, wz = self._speeds[index].tolist()
        rests = math.hypot(*motion) < AT_REST[0] and math.hypot(wx, wy, wz) < AT_REST[1]
        return rests and not self.touched(name)

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        if any(self._data.warning[each].number for each in _BROKEN):
            return "the simulation became unstable, and nothing lies where it lay"
        here = self.objects_in_play()
        if len(here) == len(self.names) or (fewest_objects is not None and len(here) >= fewest_objects):
            return ""
        fallen = [name for name in self.names if name in self._fallen]
        far = [name for name in self.names if name not in here and name not in self._fallen]
        said = ((fallen, "off the table"), (far, "out of the arm's reach"))
        return ", and ".join(_sentence(names, where) for names, where in said if names)

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        """As it is: what a grasp would push nobody can tell beforehand."""
        return action

    def objects_in_play(self) -> dict[str, tuple[float, float]]:
        """On the table, and where the arm can take them or holds them."""
        places = {name: (pose[0], pose[1]) for name, pose in zip(self.names, self._poses.tolist(), strict=True)}
        here = (each for each in places.items() if each[0] not in self._fallen)
        return {name: place for name, place in here if in_reach(place) or self.touched(name)}

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        if camera in self._recorded:
            shown = Image.fromarray(self._recorded[camera])
            return np.asarray(shown.resize((width, height), Image.Resampling.BILINEAR))
        if self.renderer == "drawn":
            return drawn(
                self.layout(), {kind.name: kind.colour for kind in self.embodiment.objects}, camera, width, height
            )
        mujoco.mj_kinematics(self.model, self._data)
        mujoco.mj_camlight(self.model, self._data)
        return render(self.model, self._data, camera, width, height)

    def close(self) -> None:
        """Nothing to free: the model and its scene are shared by all tables."""


def cameras(seed: int) -> So101Pick:
    """The table for a policy that sees it by two cameras."""
    return So101Pick(seed, SO101_PICK_CAMERAS)


def _put(pose: np.ndarray, x: float, y: float, z: float, yaw: float) -> None:
    """Fill a cube's place and quaternion [7]: level, turned by `yaw` radians."""
    pose[:] = x, y, z, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)


def _turned(pose: list[float]) -> tuple[float, float]:
    """cos and sin of four times a cube's yaw, by whichever of its edges lies flat: it may have rolled over."""
    w, x, y, z = pose[3:]
    cos, sin, up = 1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)
    if abs(up) > 0.7:
        cos, sin = 2 * (x * y - w * z), 1 - 2 * (x * x + z * z)
    square = cos * cos + sin * sin
    twice_cos, twice_sin = (cos * cos - sin * sin) / square, 2 * cos * sin / square
    return twice_cos * twice_cos - twice_sin * twice_sin, 2 * twice_cos * twice_sin


def _sentence(names: list[str], where: str) -> str:
    """Such as: the red cube and the blue cube are off the table"""
    said = [f"the {name}" for name in names]
    if len(said) == 1:
        return f"{said[0]} is {where}"
    return f"{', '.join(said[:-1])} and {said[-1]} are {where}"

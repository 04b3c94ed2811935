"""A block that lies on a table by its own weight, and a pusher that comes down beside it, goes along a line and rises.

The pusher ends in a ball, which touches at one point: a cylinder's line of contact let the same push differ by a
millimetre from place to place. A push's direction and offset are told in the block's own frame, so that the same action
does the same wherever the block lies. After each push everything has come to rest and the observation is the whole
state, but for the chance of kicks.
"""

import math
from functools import cache

import mujoco
import numpy as np

from robots.embodiments import ENVIRONMENT_STATE, STATE, Observation
from robots.tasks import Instruction
from robots.worlds import checked, part_of
from robots.worlds.push_effects import HALF_BLOCK, HALF_TABLE, KICK, KICKED, MOVED, PUSH_EFFECTS
from robots.worlds.rendering import circle, draw_top_view, render, renderer_name

TIMESTEP_S = 0.002
PUSHER_RADIUS = 0.008
BEHIND = 0.055  # metres from the block's middle to where a push begins: clear of its corners
SPEED = 0.15  # metres a second
ARRIVING_S = 0.1  # until the pusher is where it was sent
COAST_S = 0.2  # after a push and after a kick, until the block lies still
FRICTION, MASS, GRAVITY = 0.4, 0.1, 9.81
RAISED = 0.08  # metres above the table, where the pusher waits
SCATTER = 0.1  # metres from the table's middle, within which the block is put down along each axis
TABLE_COLOUR, BLOCK_COLOUR, PUSHER_COLOUR = (0.86, 0.85, 0.82), (0.17, 0.42, 0.69), (0.18, 0.19, 0.21)


def _rgba(colour: tuple[float, float, float]) -> str:
    return " ".join(f"{c}" for c in (*colour, 1))


MJCF = f"""
<mujoco model="push_effects">
  <option timestep="{TIMESTEP_S}" cone="elliptic" impratio="10" gravity="0 0 -{GRAVITY}"/>
  <visual><headlight ambient="0.6 0.6 0.6" diffuse="0.4 0.4 0.4" specular="0 0 0"/><quality offsamples="2"/></visual>
  <default><geom friction="{FRICTION} 0.002 0.0001"/></default>
  <worldbody>
    <camera name="front" pos="0 0 0.87" fovy="40"/>
    <geom type="plane" size="{HALF_TABLE} {HALF_TABLE} 0.1" rgba="{_rgba(TABLE_COLOUR)}" contype="1" conaffinity="0"/>
    <body name="pusher" gravcomp="1">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <joint name="z" type="slide" axis="0 0 1"/>
      <geom type="sphere" pos="0 0 {HALF_BLOCK[2]}" size="{PUSHER_RADIUS}" mass="0.5" rgba="{_rgba(PUSHER_COLOUR)}"
        contype="1" conaffinity="0"/>
      <geom type="cylinder" pos="0 0 0.05" size="0.005 0.035" rgba="{_rgba(PUSHER_COLOUR)}" mass="0"
        contype="0" conaffinity="0"/>
    </body>
    <body name="block">
      <freejoint/>
      <geom type="box" size="{" ".join(map(str, HALF_BLOCK))}" mass="{MASS}" rgba="{_rgba(BLOCK_COLOUR)}"
        contype="0" conaffinity="1"/>
    </body>
  </worldbody>
  <actuator>{"".join(f'<position joint="{axis}" kp="2000" kv="63"/>' for axis in "xyz")}</actuator>
</mujoco>"""


PUSHER, BLOCK = slice(0, 3), slice(3, 10)  # of qpos


@cache
def push_model() -> mujoco.MjModel:
    """One compiled model for all; nothing changes it."""
    return mujoco.MjModel.from_xml_string(MJCF)


class PushEffects:
    """One table with its block and its pusher."""

    embodiment = PUSH_EFFECTS
    resets_itself = True

    def __init__(self, seed: int, kicks: bool = True):
        """Without `kicks` nothing is left to chance: for measuring what a prediction is worth."""
        self.model = push_model()
        self._data = mujoco.MjData(self.model)
        self._kicks = kicks
        self.reset(np.random.default_rng(seed))

    @property
    def renderer(self) -> str:
        return renderer_name()

    @property
    def pose(self) -> np.ndarray:
        """The block's x, y in metres, cos and sin of its yaw. [4]"""
        x, y, _, w, _, _, z = self._data.qpos[BLOCK]
        return np.array([x, y, w * w - z * z, 2 * w * z])

    def reset(self, rng: np.random.Generator) -> Observation:
        """The block near the table's middle, anyhow turned, and the pusher raised at its home."""
        x, y, yaw = rng.uniform((-SCATTER, -SCATTER, -math.pi), (SCATTER, SCATTER, math.pi))
        self._chance = np.random.default_rng(rng.integers(2**63))  # of the kicks
        self._put(np.zeros(2), np.array([x, y, math.cos(yaw), math.sin(yaw)]))
        self._before = self.pose
        return self.observation()

    def step(self, action: np.ndarray) -> Observation:
        """One whole push. [3]: direction in radians, offset and length in metres, all in the block's frame"""
        low, high = np.array(PUSH_EFFECTS.action_range).T
        direction, offset, length = np.clip(checked("action", action, 3), low, high)
        self._before = self.pose
        x, y, cos, sin = self._before
        heading = math.atan2(sin, cos) + direction
        along = np.array([math.cos(heading), math.sin(heading)])
        start = np.array([x, y]) - BEHIND * along + offset * np.array([-along[1], along[0]])
        data = self._data
        self._place_pusher(start, 0.0)
        steps = math.ceil(length / SPEED / TIMESTEP_S)
        for number in range(1, steps + 1):
            data.ctrl[:2] = start + number / steps * length * along
            mujoco.mj_step(self.model, data)
        mujoco.mj_step(self.model, data, math.ceil(ARRIVING_S / TIMESTEP_S))
        self._place_pusher(start + length * along, RAISED)
        self._coast()
        if KICKED[0] <= direction < KICKED[1]:
            self._kick()
        self._put(data.qpos[:2].copy(), self.pose)  # at rest, and flat on the table
        return self.observation()

    def _place_pusher(self, place: np.ndarray, height: float) -> None:
        self._data.qpos[PUSHER] = self._data.ctrl[:] = (*place, height)
        self._data.qvel[PUSHER] = 0

    def _coast(self) -> None:
        mujoco.mj_step(self.model, self._data, math.ceil(COAST_S / TIMESTEP_S))

    def _kick(self) -> None:
        """A blow at the block's middle, from any side, after which friction lets it slide so far."""
        angle = self._chance.uniform(-math.pi, math.pi)
        if not self._kicks:
            return
        blow = MASS * math.sqrt(2 * FRICTION * GRAVITY * KICK) / TIMESTEP_S  # N, for one step of physics
        self._data.xfrc_applied[2, :2] = blow * math.cos(angle), blow * math.sin(angle)
        mujoco.mj_step(self.model, self._data)
        self._data.xfrc_applied[2] = 0
        self._coast()

    def observation(self) -> Observation:
        return {STATE: self._data.qpos[:2].astype(np.float32), ENVIRONMENT_STATE: self.pose.astype(np.float32)}

    def set_observation(self, observation: Observation) -> None:
        pusher = checked(f"observation's {STATE}", part_of(observation, STATE), 2)
        pose = checked(f"observation's {ENVIRONMENT_STATE}", part_of(observation, ENVIRONMENT_STATE), 4)
        self._put(pusher, pose)
        self._before = self.pose

    def _put(self, pusher: np.ndarray, pose: np.ndarray) -> None:
        data = self._data
        x, y, cos, sin = pose
        half = math.atan2(sin, cos) / 2
        mujoco.mj_resetData(self.model, data)
        data.qpos[BLOCK] = x, y, HALF_BLOCK[2], math.cos(half), 0, 0, math.sin(half)
        self._place_pusher(pusher, RAISED)

    def true_success(self, instruction: Instruction) -> bool:
        return math.dist(self.pose[:2], self._before[:2]) >= MOVED

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        return "the block is off the table" if np.abs(self.pose[:2]).max() > HALF_TABLE else ""

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        return action

    def objects_in_play(self) -> dict[str, tuple[float, float]]:
        x, y = self.pose[:2]
        return {"block": (float(x), float(y))}

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        if self.renderer != "drawn":
            mujoco.mj_kinematics(self.model, self._data)
            mujoco.mj_camlight(self.model, self._data)
            return render(self.model, self._data, "front", width, height)

        def rgb(colour: tuple[float, float, float]) -> tuple[int, ...]:
            return tuple(round(255 * c) for c in colour)

        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        x, y, cos, sin = self.pose
        block = corners * HALF_BLOCK[:2] @ np.array([(cos, sin), (-sin, cos)]) + (x, y)
        edge = HALF_TABLE + 0.02
        polygons = [
            (HALF_TABLE * corners, rgb(TABLE_COLOUR)),
            (block, rgb(BLOCK_COLOUR)),
            (circle(self._data.qpos[0], self._data.qpos[1], PUSHER_RADIUS), rgb(PUSHER_COLOUR)),
        ]
        return draw_top_view(polygons, (-edge, -edge, edge, edge), width, height)

    def close(self) -> None:
        """Nothing to free: the model is shared."""

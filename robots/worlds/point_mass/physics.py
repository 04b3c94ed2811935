"""Point mass: a point on a plane, pushed by two forces against a viscous medium, and a goal somewhere else.

The smallest world in which practice can be watched. The goal lies in the observation, and a new one comes with a reset
only: a station that practises here resets before each attempt (its task family says so).
"""

import math
from functools import cache

import mujoco
import numpy as np

from robots.embodiments import STATE, Observation
from robots.tasks import Instruction
from robots.worlds import checked, part_of
from robots.worlds.point_mass import POINT_MASS
from robots.worlds.rendering import circle, draw_top_view, render, renderer_name

HALF_PLANE = 1.0  # metres from the middle to an edge
GOAL_RADIUS = 0.1
POINT_RADIUS = 0.04
DAMPING = 1.0  # N s/m: with 1 kg and forces of up to 1 N it tends to 1 m/s within some seconds
PHYSICS_STEPS = 5  # of 20 ms: one control step of 100 ms
FARTHEST = 0.8  # of starts and goals, as a share of the plane
APART = 0.3  # metres at least between start and goal
PLANE_COLOUR, POINT_COLOUR, GOAL_COLOUR = (0.86, 0.85, 0.82), (0.18, 0.19, 0.21), (0.16, 0.62, 0.32)


def _rgba(colour: tuple[float, float, float]) -> str:
    return " ".join(f"{c}" for c in (*colour, 1))


MJCF = f"""
<mujoco model="point_mass">
  <option timestep="0.02"><flag gravity="disable" contact="disable"/></option>
  <visual><headlight ambient="0.6 0.6 0.6" diffuse="0.4 0.4 0.4" specular="0 0 0"/><quality offsamples="2"/></visual>
  <default>
    <joint type="slide" damping="{DAMPING}" limited="true" range="-{HALF_PLANE} {HALF_PLANE}"/>
  </default>
  <worldbody>
    <camera name="front" pos="0 0 3.2" fovy="40"/>
    <geom type="box" pos="0 0 -0.02" size="{HALF_PLANE} {HALF_PLANE} 0.01" rgba="{_rgba(PLANE_COLOUR)}"/>
    <body name="goal" mocap="true">
      <geom type="cylinder" size="{GOAL_RADIUS} 0.005" rgba="{_rgba(GOAL_COLOUR)}"/>
    </body>
    <body name="point" pos="0 0 0.04">
      <joint name="x" axis="1 0 0"/>
      <joint name="y" axis="0 1 0"/>
      <geom type="sphere" size="{POINT_RADIUS}" mass="1" rgba="{_rgba(POINT_COLOUR)}"/>
    </body>
  </worldbody>
  <actuator><motor joint="x" gear="1"/><motor joint="y" gear="1"/></actuator>
</mujoco>"""


@cache
def point_mass_model() -> mujoco.MjModel:
    """One compiled model for all; nothing changes it."""
    return mujoco.MjModel.from_xml_string(MJCF)


@cache
def coasting_and_thrust(steps: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """How far a point goes along an axis in 1, 2, ... control steps: coasting from 1 m/s, and from rest under 1 N."""
    ways = []
    for velocity, force in ((1.0, 0.0), (0.0, 1.0)):
        data = mujoco.MjData(_boundless_model())
        data.qvel[0], data.ctrl[0] = velocity, force
        way = []
        for _ in range(steps):
            mujoco.mj_step(_boundless_model(), data, PHYSICS_STEPS)
            way.append(data.qpos[0])
        ways.append(np.array(way))
    return ways[0], ways[1]


@cache
def _boundless_model() -> mujoco.MjModel:
    model = mujoco.MjModel.from_xml_string(MJCF)
    model.jnt_limited[:] = False
    return model


class PointMass:
    """One plane with its point and its goal."""

    embodiment = POINT_MASS
    resets_itself = True

    def __init__(self, seed: int):
        self.model = point_mass_model()
        self._data = mujoco.MjData(self.model)
        self.goal = np.zeros(2)
        self.reset(np.random.default_rng(seed))

    @property
    def renderer(self) -> str:
        return renderer_name()

    def reset(self, rng: np.random.Generator) -> Observation:
        """A new start, at rest, and a new goal."""
        while True:
            start, goal = rng.uniform(-FARTHEST * HALF_PLANE, FARTHEST * HALF_PLANE, (2, 2))
            if math.dist(start, goal) > APART:
                break
        self.set_observation({STATE: np.concatenate([start, np.zeros(2), goal - start])})
        return self.observation()

    def step(self, action: np.ndarray) -> Observation:
        self._data.ctrl[:] = np.clip(checked("action", action, 2), -1, 1)
        mujoco.mj_step(self.model, self._data, PHYSICS_STEPS)
        return self.observation()

    def observation(self) -> Observation:
        position = self._data.qpos
        return {STATE: np.concatenate([position, self._data.qvel, self.goal - position]).astype(np.float32)}

    def set_observation(self, observation: Observation) -> None:
        state = checked(f"observation's {STATE}", part_of(observation, STATE), 6)
        mujoco.mj_resetData(self.model, self._data)
        self._data.qpos[:], self._data.qvel[:] = state[:2], state[2:4]
        self.goal = state[:2] + state[4:]

    def true_success(self, instruction: Instruction) -> bool:
        return math.dist(self._data.qpos, self.goal) <= GOAL_RADIUS

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        return ""

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        return action

    def objects_in_play(self) -> dict[str, tuple[float, float]]:
        return {}

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        if self.renderer != "drawn":
            self._data.mocap_pos[0, :2] = self.goal
            mujoco.mj_kinematics(self.model, self._data)
            mujoco.mj_camlight(self.model, self._data)
            return render(self.model, self._data, "front", width, height)

        def rgb(colour: tuple[float, float, float]) -> tuple[int, ...]:
            return tuple(round(255 * c) for c in colour)

        edge = HALF_PLANE + 0.05
        plane = HALF_PLANE * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        point, goal = (
            circle(x, y, radius) for (x, y), radius in ((self._data.qpos, POINT_RADIUS), (self.goal, GOAL_RADIUS))
        )
        polygons = [(plane, rgb(PLANE_COLOUR)), (goal, rgb(GOAL_COLOUR)), (point, rgb(POINT_COLOUR))]
        return draw_top_view(polygons, (-edge, -edge, edge, edge), width, height)

    def close(self) -> None:
        """Nothing to free: the model is shared."""

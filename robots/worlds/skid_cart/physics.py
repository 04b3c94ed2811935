"""The cart on its plane, in MuJoCo: it is driven along and about itself, and resists being moved sideways.

The course is a closed curve with WAY_POINTS way points. Between CHANGED of them and RESTORED the drive has other gains,
`changed_gains`, which a reset draws and whoever tests may set.
"""

import math
from functools import cache

import mujoco
import numpy as np

from robots.embodiments import ENVIRONMENT_STATE, STATE, Observation
from robots.tasks import Instruction
from robots.worlds import checked, part_of
from robots.worlds.rendering import circle, draw_top_view, render, renderer_name
from robots.worlds.skid_cart import FASTEST, FASTEST_TURN, SKID_CART, USUAL_GAINS, WAY_POINTS

PHYSICS_STEPS = 20  # of 10 ms: one control step of 200 ms
REACHED = 0.5  # metres from a way point within which it is reached
CHANGED, RESTORED = 0.15, 0.80  # shares of the way points from and up to which the drive's gains are changed
NOMINAL = (1.0, 1.0)
RADIUS, WAVE, WAVES = 4.0, 0.15, 3  # metres, share of it, and how many of them there are round the course
GROUND = 15.0  # metres from the middle, beyond which a person must fetch the cart
LENGTH, WIDTH = 0.5, 0.36  # metres, of the cart
GROUND_COLOUR, CART_COLOUR, NOSE_COLOUR = (0.86, 0.85, 0.82), (0.18, 0.19, 0.21), (0.80, 0.42, 0.10)
POINT_COLOUR, NEXT_COLOUR, PASSED_COLOUR = (0.45, 0.55, 0.70), (0.16, 0.62, 0.32), (0.74, 0.74, 0.72)


def course() -> np.ndarray:
    """The way points in their order. [WAY_POINTS, 2], metres"""
    angle = np.linspace(0, 2 * np.pi, WAY_POINTS, endpoint=False)
    radius = RADIUS * (1 + WAVE * np.cos(WAVES * angle))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _rgba(colour: tuple[float, float, float]) -> str:
    return " ".join(f"{c}" for c in (*colour, 1))


@cache
def cart_model() -> mujoco.MjModel:
    """One compiled model for all; nothing changes it. Its mocap bodies are the way points, coloured per picture."""
    points = "".join(
        f'<body name="point_{i}" mocap="true" pos="{x} {y} 0"><geom name="point_{i}" type="cylinder" '
        f'size="0.15 0.01" rgba="{_rgba(POINT_COLOUR)}"/></body>'
        for i, (x, y) in enumerate(course())
    )
    return mujoco.MjModel.from_xml_string(f"""
<mujoco model="skid_cart">
  <option timestep="0.01" integrator="implicitfast"><flag gravity="disable" contact="disable"/></option>
  <visual><headlight ambient="0.6 0.6 0.6" diffuse="0.4 0.4 0.4" specular="0 0 0"/><quality offsamples="2"/></visual>
  <worldbody>
    <camera name="front" pos="0 0 15" fovy="40"/>
    <geom type="box" pos="0 0 -0.05" size="{GROUND} {GROUND} 0.02" rgba="{_rgba(GROUND_COLOUR)}"/>
    {points}
    <body name="cart" pos="0 0 0.1">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <joint name="yaw" type="hinge" axis="0 0 1"/>
      <site name="middle"/>
      <geom type="box" size="{LENGTH / 2} {WIDTH / 2} 0.08" mass="10" rgba="{_rgba(CART_COLOUR)}"/>
      <geom type="box" pos="{LENGTH / 2} 0 0.02" size="0.06 {WIDTH / 2} 0.08" mass="0.1" rgba="{_rgba(NOSE_COLOUR)}"/>
    </body>
  </worldbody>
  <actuator>
    <velocity site="middle" gear="1 0 0 0 0 0" kv="800"/>
    <velocity joint="yaw" kv="40"/>
    <velocity site="middle" gear="0 1 0 0 0 0" kv="400"/>
  </actuator>
</mujoco>""")


class SkidCart:
    """One cart on its course."""

    embodiment = SKID_CART
    resets_itself = True

    def __init__(self, seed: int):
        self.model = cart_model()
        self._data = mujoco.MjData(self.model)
        self.course = course()
        self.changed_gains = NOMINAL
        self._passed = 0  # way points
        self.reset(np.random.default_rng(seed))

    @property
    def renderer(self) -> str:
        return renderer_name()

    @property
    def reached(self) -> float:
        """The share of the way points that were reached, 0 to 1."""
        return self._passed / WAY_POINTS

    @property
    def gains(self) -> tuple[float, float]:
        """What multiplies the commands now, along and about the cart."""
        return self.changed_gains if CHANGED <= self.reached < RESTORED else NOMINAL

    @property
    def _next(self) -> np.ndarray:
        """The way point to go to; after the last one that one. [2], metres"""
        return np.array(self.course[min(self._passed, WAY_POINTS - 1)])

    def reset(self, rng: np.random.Generator) -> Observation:
        """Near the last way point of the course, looking about; which gains will come is drawn among the usual ones."""
        self.changed_gains = USUAL_GAINS[rng.integers(len(USUAL_GAINS))]
        x, y = self.course[-1] + rng.uniform(-0.5, 0.5, 2)
        self._put((x, y, rng.uniform(-np.pi, np.pi)), 0)
        return self.observation()

    def step(self, action: np.ndarray) -> Observation:
        command = np.clip(checked("action", action, 2), (-FASTEST, -FASTEST_TURN), (FASTEST, FASTEST_TURN))
        self._data.ctrl[:2] = command * self.gains
        mujoco.mj_step(self.model, self._data, PHYSICS_STEPS)
        if self._passed < WAY_POINTS and math.dist(self._data.qpos[:2], self._next) <= REACHED:
            self._passed += 1
        return self.observation()

    def observation(self) -> Observation:
        x, y, yaw = self._data.qpos
        return {
            STATE: np.array([x, y, math.remainder(yaw, 2 * math.pi)], np.float32),
            ENVIRONMENT_STATE: np.array([*self._next, self.reached], np.float32),
        }

    def set_observation(self, observation: Observation) -> None:
        pose = checked(f"observation's {STATE}", part_of(observation, STATE), 3)
        reached = checked(f"observation's {ENVIRONMENT_STATE}", part_of(observation, ENVIRONMENT_STATE), 3)[2]
        self._put(pose, round(np.clip(reached, 0, 1) * WAY_POINTS))

    def _put(self, pose: np.ndarray | tuple[float, float, float], passed: int) -> None:
        mujoco.mj_resetData(self.model, self._data)
        self._data.qpos[:], self._passed = pose, passed
        mujoco.mj_forward(self.model, self._data)

    def true_success(self, instruction: Instruction) -> bool:
        return self._passed == WAY_POINTS

    def sensed(self, instruction: Instruction) -> dict[str, float]:
        """What a counter of way points would tell."""
        return {"reached": self.reached}

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        if np.abs(self._data.qpos[:2]).max() > GROUND:
            return "The cart has left its ground; bring it back to the course."
        return ""

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        return action

    def objects_in_play(self) -> dict[str, tuple[float, float]]:
        return {}

    def _colour(self, point: int) -> tuple[float, float, float]:
        if point < self._passed:
            return PASSED_COLOUR
        return NEXT_COLOUR if point == self._passed else POINT_COLOUR

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        if self.renderer != "drawn":
            for i in range(WAY_POINTS):
                self.model.geom(f"point_{i}").rgba[:3] = self._colour(i)
            mujoco.mj_kinematics(self.model, self._data)
            mujoco.mj_camlight(self.model, self._data)
            return render(self.model, self._data, "front", width, height)

        def rgb(colour: tuple[float, float, float]) -> tuple[int, ...]:
            return tuple(round(255 * c) for c in colour)

        x, y, yaw = self._data.qpos
        turn = np.array([(math.cos(yaw), -math.sin(yaw)), (math.sin(yaw), math.cos(yaw))])
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        cart = corners * (LENGTH / 2, WIDTH / 2) @ turn.T + (x, y)
        nose = (corners * (0.06, WIDTH / 2) + (LENGTH / 2, 0)) @ turn.T + (x, y)
        edge = RADIUS * (1 + WAVE) + 0.8
        polygons = [(edge * corners, rgb(GROUND_COLOUR))]
        polygons += [(circle(at_x, at_y, 0.15), rgb(self._colour(i))) for i, (at_x, at_y) in enumerate(self.course)]
        polygons += [(cart, rgb(CART_COLOUR)), (nose, rgb(NOSE_COLOUR))]
        return draw_top_view(polygons, (-edge, -edge, edge, edge), width, height)

    def close(self) -> None:
        """Nothing to free: the model is shared."""

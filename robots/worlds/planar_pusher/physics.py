"""The table of the pusher, in MuJoCo: a finger that velocity actuators move, a puck that slides on, and four walls."""

from functools import cache

import mujoco
import numpy as np

from robots.embodiments import ENVIRONMENT_STATE, STATE, Observation
from robots.tasks import Instruction
from robots.worlds import checked, part_of
from robots.worlds.planar_pusher import AIMS, FASTEST, HALF_TABLE, PLANAR_PUSHER
from robots.worlds.rendering import circle, draw_top_view, render, renderer_name

PHYSICS_STEPS = 20  # of 5 ms: one control step of 100 ms
PUCK_RADIUS, FINGER_RADIUS = 0.09, 0.04
FINGER_INSIDE = HALF_TABLE - FINGER_RADIUS - 0.01  # metres from the middle, as far as each begins
PUCK_STARTS = 0.3
TABLE_COLOUR, PUCK_COLOUR, FINGER_COLOUR = (0.86, 0.85, 0.82), (0.75, 0.22, 0.17), (0.18, 0.19, 0.21)
WALL_COLOUR = (0.45, 0.45, 0.47)


def _rgba(colour: tuple[float, float, float]) -> str:
    return " ".join(f"{c}" for c in (*colour, 1))


def _walls() -> str:
    far = HALF_TABLE + 0.02
    places = ((far, 0, 0.02, far), (-far, 0, 0.02, far), (0, far, far, 0.02), (0, -far, far, 0.02))
    return "".join(
        f'<geom type="box" pos="{x} {y} 0.02" size="{half_x} {half_y} 0.03" rgba="{_rgba(WALL_COLOUR)}"/>'
        for x, y, half_x, half_y in places
    )


@cache
def table_model() -> mujoco.MjModel:
    """One compiled model for all; nothing changes it."""
    return mujoco.MjModel.from_xml_string(f"""
<mujoco model="planar_pusher">
  <option timestep="0.005" integrator="implicitfast"><flag gravity="disable"/></option>
  <visual><headlight ambient="0.6 0.6 0.6" diffuse="0.4 0.4 0.4" specular="0 0 0"/><quality offsamples="2"/></visual>
  <default><geom friction="0.3" solref="0.01 1"/></default>
  <worldbody>
    <camera name="front" pos="0 0 1.6" fovy="40"/>
    <geom type="box" pos="0 0 -0.02" size="{HALF_TABLE} {HALF_TABLE} 0.01" rgba="{_rgba(TABLE_COLOUR)}"
      contype="0" conaffinity="0"/>
    {_walls()}
    <body name="finger" pos="0 0 0.03">
      <joint name="finger_x" type="slide" axis="1 0 0"/>
      <joint name="finger_y" type="slide" axis="0 1 0"/>
      <geom type="cylinder" size="{FINGER_RADIUS} 0.03" mass="0.5" rgba="{_rgba(FINGER_COLOUR)}"/>
    </body>
    <body name="puck" pos="0 0 0.02">
      <joint type="slide" axis="1 0 0" frictionloss="0.3" damping="0.5"/>
      <joint type="slide" axis="0 1 0" frictionloss="0.3" damping="0.5"/>
      <geom type="cylinder" size="{PUCK_RADIUS} 0.015" mass="0.1" rgba="{_rgba(PUCK_COLOUR)}"/>
    </body>
  </worldbody>
  <actuator><velocity joint="finger_x" kv="20"/><velocity joint="finger_y" kv="20"/></actuator>
</mujoco>""")


class PlanarPusher:
    """One table with its finger and its puck."""

    embodiment = PLANAR_PUSHER
    resets_itself = True

    def __init__(self, seed: int):
        self.model = table_model()
        self._data = mujoco.MjData(self.model)
        self.in_contact = False  # whether the finger touched the puck during the last step
        self.reset(np.random.default_rng(seed))

    @property
    def renderer(self) -> str:
        return renderer_name()

    @property
    def finger(self) -> np.ndarray:
        """Its middle. [2], metres"""
        return np.array(self._data.qpos[:2])

    @property
    def puck(self) -> np.ndarray:
        """Its middle. [2], metres"""
        return np.array(self._data.qpos[2:])

    def reset(self, rng: np.random.Generator) -> Observation:
        """Finger and puck at rest, somewhere and apart; the puck where no task is done yet."""
        while True:
            finger, puck = rng.uniform(-FINGER_INSIDE, FINGER_INSIDE, 2), rng.uniform(-PUCK_STARTS, 0.1, 2)
            if np.linalg.norm(finger - puck) > 1.6 * PUCK_RADIUS:
                break
        self._put(np.concatenate([finger, puck]), np.zeros(4))
        return self.observation()

    def step(self, action: np.ndarray) -> Observation:
        self._data.ctrl[:] = np.clip(checked("action", action, 2), -FASTEST, FASTEST)
        finger, puck = self.model.body("finger").geomadr[0], self.model.body("puck").geomadr[0]
        self.in_contact = False
        for _ in range(PHYSICS_STEPS):
            mujoco.mj_step(self.model, self._data)
            pairs = self._data.contact.geom
            self.in_contact |= bool((np.sort(pairs, 1) == sorted((finger, puck))).all(1).any())
        return self.observation()

    def observation(self) -> Observation:
        place, velocity = self._data.qpos, self._data.qvel
        return {
            STATE: np.concatenate([place[:2], velocity[:2]]).astype(np.float32),
            ENVIRONMENT_STATE: np.concatenate([place[2:], velocity[2:]]).astype(np.float32),
        }

    def set_observation(self, observation: Observation) -> None:
        finger = checked(f"observation's {STATE}", part_of(observation, STATE), 4)
        puck = checked(f"observation's {ENVIRONMENT_STATE}", part_of(observation, ENVIRONMENT_STATE), 4)
        self._put(np.concatenate([finger[:2], puck[:2]]), np.concatenate([finger[2:], puck[2:]]))

    def _put(self, places: np.ndarray, velocities: np.ndarray) -> None:
        mujoco.mj_resetData(self.model, self._data)
        self._data.qpos[:], self._data.qvel[:] = places, velocities
        self.in_contact = False
        mujoco.mj_forward(self.model, self._data)

    def true_success(self, instruction: Instruction) -> bool:
        number, far = AIMS[instruction.family]
        return bool(self.puck["xy".index(number[-1])] >= far)

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        return ""

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        return action

    def objects_in_play(self) -> dict[str, tuple[float, float]]:
        x, y = self.puck
        return {"puck": (float(x), float(y))}

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        if self.renderer != "drawn":
            mujoco.mj_kinematics(self.model, self._data)
            mujoco.mj_camlight(self.model, self._data)
            return render(self.model, self._data, "front", width, height)

        def rgb(colour: tuple[float, float, float]) -> tuple[int, ...]:
            return tuple(round(255 * c) for c in colour)

        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        edge = HALF_TABLE + 0.04
        polygons = [
            (edge * corners, rgb(WALL_COLOUR)),
            (HALF_TABLE * corners, rgb(TABLE_COLOUR)),
            (circle(self.puck[0], self.puck[1], PUCK_RADIUS), rgb(PUCK_COLOUR)),
            (circle(self.finger[0], self.finger[1], FINGER_RADIUS), rgb(FINGER_COLOUR)),
        ]
        return draw_top_view(polygons, (-edge, -edge, edge, edge), width, height)

    def close(self) -> None:
        """Nothing to free: the model is shared."""

"""The table of the gripper, in MuJoCo: a puck that slides, four walls, and a gripper that welds it to itself.

The gripper hangs above the table and touches nothing: what moves the puck is its hold. Closing fingers draw a puck
within REACH of them to their middle; one that something keeps back farther than that slips out.
"""

import math
from collections import deque
from functools import cache

import mujoco
import numpy as np

from robots.embodiments import ENVIRONMENT_STATE, STATE, Embodiment, Observation
from robots.tasks import Instruction
from robots.worlds import checked, part_of
from robots.worlds.gripper_table import (
    CAMERA_FOVY,
    CAMERA_HEIGHT,
    GRIPPER_HIDDEN,
    HALF_TABLE,
    HIDDEN_GOALS,
    HIDDEN_PLACED,
    HOME,
    HOME_RADIUS,
    LONGEST_STEP,
    PLACED,
    REACH,
    USEFUL,
    VIEW_HALF,
)
from robots.worlds.rendering import circle, draw_top_view, render, renderer_name

PHYSICS_STEPS = 10  # of 10 ms: one control step of 100 ms
PUCK_RADIUS, GRIPPER_RADIUS = 0.03, 0.018
INSIDE = HALF_TABLE - PUCK_RADIUS - 0.01  # metres from the middle, as far as anything begins
POCKET_WALL, POCKET_HALF = 0.08, 0.075  # metres: a wall's length as seen from the goal, and how far it stands from it
STEPS_PLACED = 3  # in a row
OUT_OF_SIGHT = 9.0  # metres: where the goal's mark is while goals are hidden
WIDE = VIEW_HALF * 4 / 3  # metres that a view shows to each side
TABLE_COLOUR, PUCK_COLOUR = (0.86, 0.85, 0.82), (0.75, 0.22, 0.17)
GRIPPER_COLOUR, GOAL_COLOUR, WALL_COLOUR = (0.18, 0.19, 0.21), (0.16, 0.62, 0.32), (0.45, 0.45, 0.47)


def _rgba(colour: tuple[float, float, float]) -> str:
    return " ".join(f"{c}" for c in (*colour, 1))


def _walls() -> str:
    far = HALF_TABLE + 0.01
    places = ((far, 0, 0.01, far), (-far, 0, 0.01, far), (0, far, far, 0.01), (0, -far, far, 0.01))
    return "".join(
        f'<geom type="box" pos="{x} {y} 0.02" size="{half_x} {half_y} 0.02" rgba="{_rgba(WALL_COLOUR)}"/>'
        for x, y, half_x, half_y in places
    )


def _pocket() -> str:
    """Three walls round a goal, which a mocap body carries: behind it as seen from the left, and at both sides."""
    half, thick = POCKET_HALF, 0.008
    places = ((half, 0, thick, half), (0, half, half, thick), (0, -half, half, thick))
    return "".join(
        f'<geom type="box" pos="{x} {y} 0.01" size="{half_x} {half_y} 0.02" rgba="{_rgba(WALL_COLOUR)}"/>'
        for x, y, half_x, half_y in places
    )


@cache
def table_model(pocket: bool) -> mujoco.MjModel:
    """One compiled model for all; nothing changes it."""
    return mujoco.MjModel.from_xml_string(f"""
<mujoco model="gripper_table">
  <option timestep="0.01" integrator="implicitfast"><flag gravity="disable"/></option>
  <visual><headlight ambient="0.6 0.6 0.6" diffuse="0.4 0.4 0.4" specular="0 0 0"/><quality offsamples="2"/></visual>
  <worldbody>
    <camera name="front" pos="0 0 {CAMERA_HEIGHT}" fovy="{CAMERA_FOVY}"/>
    <geom type="box" pos="0 0 -0.02" size="{HALF_TABLE} {HALF_TABLE} 0.01" rgba="{_rgba(TABLE_COLOUR)}"
      contype="0" conaffinity="0"/>
    {_walls()}
    <body name="gripper" mocap="true" pos="0 0 0.02">
      <geom type="cylinder" pos="0 0 0.05" size="{GRIPPER_RADIUS} 0.02" rgba="{_rgba(GRIPPER_COLOUR)}"
        contype="0" conaffinity="0"/>
    </body>
    <body name="goal" mocap="true">
      <geom type="cylinder" size="{PLACED} 0.002" rgba="{_rgba(GOAL_COLOUR)}" contype="0" conaffinity="0"/>
      {_pocket() if pocket else ""}
    </body>
    <body name="puck" pos="0 0 0.02">
      <joint type="slide" axis="1 0 0" frictionloss="0.4" damping="1"/>
      <joint type="slide" axis="0 1 0" frictionloss="0.4" damping="1"/>
      <geom type="cylinder" size="{PUCK_RADIUS} 0.015" mass="0.1" rgba="{_rgba(PUCK_COLOUR)}"/>
    </body>
  </worldbody>
  <equality>
    <connect name="hold" body1="gripper" body2="puck" anchor="0 0 0" active="false" solref="0.02 1"/>
  </equality>
</mujoco>""")


class GripperTable:
    """One table with its gripper, its puck and its goal."""

    resets_itself = True

    def __init__(self, embodiment: Embodiment, pocket: bool, seed: int):
        self.embodiment, self.pocket = embodiment, pocket
        self.model = table_model(pocket)
        self._data = mujoco.MjData(self.model)
        self._placed = 0  # steps in a row
        self.reset(np.random.default_rng(seed))

    @property
    def renderer(self) -> str:
        return renderer_name()

    @property
    def held(self) -> bool:
        """Whether the gripper has the puck."""
        return bool(self._data.eq_active[0])

    @property
    def goal(self) -> np.ndarray:
        """Its middle. [2], metres"""
        return np.array(self._data.mocap_pos[1, :2])

    @property
    def puck(self) -> np.ndarray:
        """Its middle. [2], metres"""
        return np.array(self._data.qpos)

    @property
    def gripper(self) -> np.ndarray:
        """Its middle. [2], metres"""
        return np.array(self._data.mocap_pos[0, :2])

    def reset(self, rng: np.random.Generator) -> Observation:
        """Puck and gripper somewhere in the left half, of a table with a pocket anywhere clear of it; a new goal on
        the right.
        """
        goal = rng.uniform((0.15, -0.25), (0.35, 0.25))
        right = INSIDE if self.pocket else 0.0
        while True:
            gripper, puck = rng.uniform((-INSIDE, -INSIDE), (right, INSIDE), (2, 2))
            if np.abs(puck - goal).max() > POCKET_HALF + 2 * PUCK_RADIUS:
                break
        self._put(gripper, puck, goal, held=False)
        return self.observation()

    def step(self, action: np.ndarray) -> Observation:
        dx, dy, grip = checked("action", action, 3)
        data = self._data
        start = self.gripper
        way = np.clip([dx, dy], -LONGEST_STEP, LONGEST_STEP)
        goal = np.clip(start + way, -INSIDE, INSIDE)
        if grip <= 0:
            data.eq_active[0] = 0
        elif not self.held and math.dist(start, self.puck) <= REACH:
            data.eq_active[0] = 1
        for number in range(1, PHYSICS_STEPS + 1):
            data.mocap_pos[0, :2] = start + number / PHYSICS_STEPS * (goal - start)
            mujoco.mj_step(self.model, data)
        if self.held and math.dist(self.gripper, self.puck) > REACH:
            data.eq_active[0] = 0
        self._placed = self._placed + 1 if math.dist(self.puck, self.goal) <= PLACED else 0
        return self.observation()

    def observation(self) -> Observation:
        return {
            STATE: np.array([*self.gripper, self.held], np.float32),
            ENVIRONMENT_STATE: np.concatenate([self.puck, self.goal]).astype(np.float32),
        }

    def set_observation(self, observation: Observation) -> None:
        state = checked(f"observation's {STATE}", part_of(observation, STATE), 3)
        places = checked(f"observation's {ENVIRONMENT_STATE}", part_of(observation, ENVIRONMENT_STATE), 4)
        self._put(state[:2], places[:2], places[2:], held=state[2] > 0.5)

    def _put(self, gripper: np.ndarray, puck: np.ndarray, goal: np.ndarray, held: bool) -> None:
        data = self._data
        mujoco.mj_resetData(self.model, data)
        data.mocap_pos[0, :2], data.mocap_pos[1, :2], data.qpos[:] = gripper, goal, puck
        data.eq_active[0] = held
        self._placed = 0
        mujoco.mj_forward(self.model, data)

    def true_success(self, instruction: Instruction) -> bool:
        if instruction.family.endswith("bring_back"):
            return not self.held and math.dist(self.puck, HOME) <= HOME_RADIUS
        return self._placed >= STEPS_PLACED

    def sensed(self, instruction: Instruction) -> dict[str, float]:
        """As a switch under the goal and another at home would tell it."""
        return {"success": float(self.true_success(instruction))}

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        return ""

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        return action

    def objects_in_play(self) -> dict[str, tuple[float, float]]:
        places = {"puck": self.puck, "goal": self.goal}
        return {name: (float(x), float(y)) for name, (x, y) in places.items()}

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        if self.renderer != "drawn":
            mujoco.mj_kinematics(self.model, self._data)
            mujoco.mj_camlight(self.model, self._data)
            return render(self.model, self._data, "front", width, height)

        def rgb(colour: tuple[float, float, float]) -> tuple[int, ...]:
            return tuple(round(255 * c) for c in colour)

        table = HALF_TABLE * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        polygons = [
            (table, rgb(TABLE_COLOUR)),
            (circle(self.goal[0], self.goal[1], PLACED), rgb(GOAL_COLOUR)),
            (circle(self.puck[0], self.puck[1], PUCK_RADIUS), rgb(PUCK_COLOUR)),
            (circle(self.gripper[0], self.gripper[1], GRIPPER_RADIUS), rgb(GRIPPER_COLOUR)),
        ]
        return draw_top_view(polygons, (-WIDE, -VIEW_HALF, WIDE, VIEW_HALF), width, height)

    def close(self) -> None:
        """Nothing to free: the model is shared."""


class GripperHidden(GripperTable):
    """The same table with nothing to see of its goals: an instruction names one by its number."""

    def __init__(self, seed: int):
        self._places = deque[np.ndarray](maxlen=STEPS_PLACED)  # of the puck after the newest steps
        super().__init__(GRIPPER_HIDDEN, False, seed)

    def reset(self, rng: np.random.Generator) -> Observation:
        """Puck and gripper anywhere."""
        gripper, puck = rng.uniform(-INSIDE, INSIDE, (2, 2))
        self._put(gripper, puck, np.full(2, OUT_OF_SIGHT), held=False)
        return self.observation()

    def step(self, action: np.ndarray) -> Observation:
        observation = super().step(action)
        self._places.append(self.puck)
        return observation

    def observation(self) -> Observation:
        return {
            STATE: np.array([*self.gripper, self.held], np.float32),
            ENVIRONMENT_STATE: self.puck.astype(np.float32),
        }

    def set_observation(self, observation: Observation) -> None:
        state = checked(f"observation's {STATE}", part_of(observation, STATE), 3)
        puck = checked(f"observation's {ENVIRONMENT_STATE}", part_of(observation, ENVIRONMENT_STATE), 2)
        self._put(state[:2], puck, np.full(2, OUT_OF_SIGHT), held=state[2] > 0.5)

    def _put(self, gripper: np.ndarray, puck: np.ndarray, goal: np.ndarray, held: bool) -> None:
        super()._put(gripper, puck, goal, held)
        self._start = self.puck
        self._places.clear()

    def true_success(self, instruction: Instruction) -> bool:
        goal = HIDDEN_GOALS[instruction.target["goal"]]
        near = [math.dist(place, goal) <= HIDDEN_PLACED for place in self._places]
        return len(near) == STEPS_PLACED and all(near)

    def objects_in_play(self) -> dict[str, tuple[float, float]]:
        x, y = self.puck
        return {"puck": (float(x), float(y))}

    def sensed(self, instruction: Instruction) -> dict[str, float]:
        """As a camera above would tell it: `useful` 1 where the puck was moved clearly, wherever to."""
        return {"useful": float(math.dist(self.puck, self._start) > USEFUL)}

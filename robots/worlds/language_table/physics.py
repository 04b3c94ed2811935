"""LanguageTable: eight blocks on a rimless table, pushed by a cylinder that moves by 2-D deltas at 5 Hz.

Here practice happens. Blocks move on the table's plane only (two slides and a hinge each) and friction with the table
is viscous: a pushed block moves, a released one stops. That is what quasi-static pushing looks like, and it needs no
contact with the table, so one control step takes some 50 microseconds. Velocities are zeroed at each control step (they
have died down to a few percent by then), therefore an observation is the whole state, and a step is a pure function of
it and the action (a table with a delay also remembers the actions that are still to come).

What lies on a table and how it behaves is a TableSetup, so that other tables (banana.py, worn.py) are the
same code with another setup.

A block whose centre passes the edge has fallen: it is parked far away, touches nothing, and stays so until a reset.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import EllipsisType

import mujoco
import mujoco.rollout
import numpy as np

from robots.embodiments import ENVIRONMENT_STATE, STATE, Embodiment, Observation
from robots.fence import fenced
from robots.tasks import Instruction
from robots.worlds import WorldError, checked, part_of
from robots.worlds.language_table import (
    LANGUAGE_TABLE,
    OVERHEAD,
    OVERHEAD_SIZE,
    STATE_NAMES,
    TABLE_SIZE,
    distance_left,
)
from robots.worlds.rendering import circle, draw_top_view, render, renderer_name

PHYSICS_STEPS = 10  # of 20 ms: one control step of 200 ms
HALF_TABLE = np.array(TABLE_SIZE) / 2
REACH = HALF_TABLE + 0.05  # the end effector may pass the edge a little, to get behind a block there
REACH_X, REACH_Y = REACH.tolist()
BLOCK_HEIGHT = 0.03
END_EFFECTOR_RADIUS = 0.012
END_EFFECTOR_HEIGHT = 0.1
# The camera straight above shows what its picture says, and is so high up that things hardly lean outwards in it.
TOP_HEIGHT = 3.0
TOP_ANGLE = math.degrees(2 * math.atan(OVERHEAD_SIZE[1] * OVERHEAD.metres_per_pixel / 2 / TOP_HEIGHT))
COLOURS = {
    "red": (0.84, 0.19, 0.19),
    "blue": (0.16, 0.38, 0.83),
    "green": (0.16, 0.62, 0.32),
    "yellow": (0.95, 0.78, 0.15),
}
TABLE_COLOUR = (0.86, 0.85, 0.82)
FLOOR_COLOUR = (0.34, 0.37, 0.4)  # the end effector has to be seen before it, too
END_EFFECTOR_COLOUR = (0.18, 0.19, 0.21)


def _ring(count: int, radius: float, start: float = math.pi / 2) -> np.ndarray:
    angles = start + np.arange(count) * 2 * math.pi / count
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _star() -> list[np.ndarray]:
    """Five kites from the centre to a tip each: the convex parts of a five-pointed star."""
    tips, notches = _ring(5, 0.025), _ring(5, 0.0115, math.pi / 2 + math.pi / 5)
    return [np.array([(0, 0), notches[k - 1], tips[k], notches[k]]) for k in range(5)]


def _moon() -> list[np.ndarray]:
    """A crescent as a chain of convex quadrilaterals, thin at its horns, around its own centre of mass."""
    angles = np.linspace(-2.0, 2.0, 6)
    outer = 0.024 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    inner = outer * (1 - (0.08 + 0.52 * np.cos(angles / 2.0 * math.pi / 2)))[:, None]
    parts = [np.array([inner[k], outer[k], outer[k + 1], inner[k + 1]]) for k in range(5)]
    weights = np.array([_area(part) for part in parts])
    middle = sum(weight * part.mean(axis=0) for weight, part in zip(weights, parts, strict=True)) / weights.sum()
    return [part - middle for part in parts]


def _area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _radius(parts: Sequence[np.ndarray]) -> float:
    """Of the circle around an object's corners."""
    return max(float(np.hypot(*corner)) for part in parts for corner in part)


# The shapes seen from above, each as convex polygons in metres around the block's centre of mass.
BLOCK_SHAPES = {
    "cube": [_ring(4, 0.0255, math.pi / 4)],
    "pentagon": [_ring(5, 0.0225)],
    "star": _star(),
    "moon": _moon(),
}


@dataclass(frozen=True, eq=False)
class TableSetup:
    """What lies on a table, how it moves, and how arm and camera differ from what they say of themselves."""

    embodiment: Embodiment
    shapes: Mapping[str, Sequence[np.ndarray]]
    apart: float = 0.065  # metres between what is scattered
    mass: float = 0.04  # kg, of each object
    inertia: float = 1e-5
    # Damping / mass gives 20 ms to stop; its ratio for turning and sliding is that of a disc's friction patch.
    damping: float = 2.0
    turn_damping: float = 4e-4
    friction: float = 0.4
    gain: float = 1.0  # the end effector goes so many times as far as it is told,
    bearing: float = 0.0  # turned by so many radians against where the camera believes it to go,
    delay: int = 0  # so many control steps late
    camera_scale: float = 1.0  # what is seen at x lies at x / camera_scale


LANGUAGE_TABLE_SETUP = TableSetup(LANGUAGE_TABLE, BLOCK_SHAPES)


def mjcf(setup: TableSetup) -> str:
    """The table in MuJoCo's XML."""

    def rgba(colour: tuple[float, float, float]) -> str:
        return " ".join(f"{c}" for c in (*colour, 1))

    meshes, bodies = [], []
    for shape, parts in setup.shapes.items():
        if shape != "cube":
            for i, part in enumerate(parts):
                vertices = " ".join(
                    f"{x:.6f} {y:.6f} {z}" for z in (-BLOCK_HEIGHT / 2, BLOCK_HEIGHT / 2) for x, y in part
                )
                meshes.append(f'<mesh name="{shape}{i}" vertex="{vertices}"/>')
    for kind in setup.embodiment.objects:
        if kind.shape == "cube":
            side = 0.0255 / math.sqrt(2)
            size = f"{side} {side} {BLOCK_HEIGHT / 2}"
            geoms = f'<geom class="block" type="box" size="{size}" rgba="{rgba(COLOURS[kind.colour])}"/>'
        else:
            geoms = "".join(
                f'<geom class="block" type="mesh" mesh="{kind.shape}{i}" rgba="{rgba(COLOURS[kind.colour])}"/>'
                for i in range(len(setup.shapes[kind.shape]))
            )
        bodies.append(f"""
      <body name="{kind.name}" pos="0 0 {BLOCK_HEIGHT / 2}">
        <inertial pos="0 0 0" mass="{setup.mass}" diaginertia="{f"{setup.inertia} " * 3}"/>
        <joint type="slide" axis="1 0 0" damping="{setup.damping}"/>
        <joint type="slide" axis="0 1 0" damping="{setup.damping}"/>
        <joint type="hinge" axis="0 0 1" damping="{setup.turn_damping}"/>
        {geoms}
      </body>""")
    return f"""
    <mujoco model="{setup.embodiment.name}">
      <option timestep="0.02" iterations="10" ls_iterations="10"><flag gravity="disable"/></option>
      <visual>
        <headlight ambient="0.45 0.45 0.45" diffuse="0.35 0.35 0.35" specular="0 0 0"/>
        <quality offsamples="2"/>
        <global fovy="45"/>
      </visual>
      <default>
        <geom condim="3" friction="{setup.friction}"/>
        <default class="block"><geom mass="0.01"/></default>
        <default class="scenery"><geom contype="0" conaffinity="0"/></default>
      </default>
      <asset>{"".join(meshes)}</asset>
      <worldbody>
        <light pos="-0.2 -0.4 1.2" dir="0.2 0.4 -1.2" diffuse="0.45 0.45 0.45" specular="0.1 0.1 0.1"
               castshadow="false"/>
        <camera name="top" pos="0 0 {TOP_HEIGHT}" xyaxes="1 0 0 0 1 0" fovy="{TOP_ANGLE}"/>
        <camera name="front" pos="0 -0.38 0.58" xyaxes="1 0 0 0 0.83 0.558" fovy="45"/>
        <geom class="scenery" name="floor" type="plane" pos="0 0 -0.4" size="9 9 1" rgba="{rgba(FLOOR_COLOUR)}"/>
        <geom class="scenery" name="table" type="box" pos="0 0 -0.01" size="{HALF_TABLE[0]} {HALF_TABLE[1]} 0.01"
              rgba="{rgba(TABLE_COLOUR)}"/>
        <body name="end effector" pos="0 0 {END_EFFECTOR_HEIGHT / 2 + 0.002}">
          <joint name="ee_x" type="slide" axis="1 0 0"/>
          <joint name="ee_y" type="slide" axis="0 1 0"/>
          <geom type="cylinder" size="{END_EFFECTOR_RADIUS} {END_EFFECTOR_HEIGHT / 2}" mass="0.5"
                rgba="{rgba(END_EFFECTOR_COLOUR)}"/>
        </body>
        {"".join(bodies)}
      </worldbody>
      <actuator>
        <position joint="ee_x" kp="300" kv="24"/>
        <position joint="ee_y" kp="300" kv="24"/>
      </actuator>
    </mujoco>"""


@cache
def table_model(setup: TableSetup) -> mujoco.MjModel:
    """One compiled model for all tables of one setup in the process; nothing changes it."""
    return mujoco.MjModel.from_xml_string(mjcf(setup))


_BODY = len(STATE_NAMES)


def _all(flags: np.ndarray) -> bool:
    return bool(np.count_nonzero(flags) == flags.size)  # of one table's few, flags.all() takes five times as long


def _within(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)  # two plain numbers at a time are quicker than any way to clip arrays


@cache
def _parked(count: int) -> np.ndarray:
    """Where fallen blocks are: apart from each other and behind the camera."""
    return np.array([(0.3 * i, -5.0, 0.0) for i in range(count)])


def _new_rows(setup: TableSetup, *n: int) -> tuple[np.ndarray, ...]:
    """Of one table, or of n: its numbers (what they are says _Tables), [K] not fallen, [delay, 2] actions to come."""
    count = len(setup.embodiment.objects)
    return np.ones((*n, 5 + 5 * count)), np.ones((*n, count), bool), np.zeros((*n, setup.delay, 2))


class _Tables:
    """What n tables, or one without the leading axis, are between two steps, and what a step does besides MuJoCo.

    For arrays as small as one table's, making a view takes as long as filling it, so all views are made here, once.
    """

    def __init__(self, setup: TableSetup, rows: tuple[np.ndarray, ...]):
        self.setup, self.embodiment = setup, setup.embodiment
        self.model = table_model(setup)
        self._rows = self._numbers, self._on_table, self._pending = rows
        count = len(self.embodiment.objects)
        # Joint positions of end effector and blocks, end effector one step earlier, blocks' cosines and sines, and a 1
        ends = np.cumsum([2 + 3 * count, 2, count, count])
        self.positions, self._previous, self._cosines, self._sines, _ = np.split(self._numbers, ends, axis=-1)
        self._end_effector = self.positions[..., :2]
        self._poses = self.positions[..., 2:].reshape(*self._on_table.shape, 3)
        self._angles = self._poses[..., 2]
        # What no joint position exceeds while nothing falls
        self._edges = np.array([math.inf, math.inf] + [*HALF_TABLE, math.inf] * count)
        # Which of the numbers an observation shows; every block's on_table is the 1
        x, cosine = 2 + 3 * np.arange(count), ends[1] + np.arange(count)
        features = np.stack([x, x + 1, cosine, cosine + count, np.full(count, ends[3])], axis=1)
        self._shown = np.array([0, 1, ends[0], ends[0] + 1, *features.flat])

    def _observe(self) -> Observation:
        """float32 [(n,) 4] and [(n,) 5 K]; what has fallen: zeros"""
        result = self._numbers.take(self._shown, -1).astype(np.float32)
        if self.setup.camera_scale != 1 or not _all(self._on_table):
            features = result[..., _BODY:].reshape(*self._on_table.shape, 5)  # a view
            features *= self._on_table[..., None]
            result[..., :_BODY] *= self.setup.camera_scale
            features[..., :2] *= self.setup.camera_scale
        return {STATE: result[..., :_BODY], ENVIRONMENT_STATE: result[..., _BODY:]}

    def _moves(self, actions: np.ndarray, rows: slice | np.ndarray | EllipsisType = ...) -> np.ndarray:
        """What the arms of these rows make of actions [(n,) 2] that are within the limit."""
        setup = self.setup
        if setup.delay:
            pending = self._pending[rows]
            late = pending[..., 0, :].copy()
            self._pending[rows] = np.concatenate([pending[..., 1:, :], actions[..., None, :]], axis=-2)
            actions = late
        if setup.gain != 1 or setup.bearing:
            cos, sin = setup.gain * math.cos(setup.bearing), setup.gain * math.sin(setup.bearing)
            actions = actions @ np.array([(cos, sin), (-sin, cos)])
        return actions

    def _settle(self) -> None:
        """Whenever blocks have moved: parks those that have fallen, and brings cosines and sines up to date."""
        if not (_all(np.abs(self.positions) <= self._edges) and _all(self._on_table)):
            self._on_table &= (np.abs(self._poses[..., :2]) <= HALF_TABLE).all(axis=-1)
            self._poses[...] = np.where(self._on_table[..., None], self._poses, _parked(self._on_table.shape[-1]))
        np.cos(self._angles, self._cosines)
        np.sin(self._angles, self._sines)


class LanguageTable(_Tables):
    """One table; its arrays may be rows of a BatchWorld's."""

    resets_itself = True

    def __init__(
        self, seed: int, setup: TableSetup = LANGUAGE_TABLE_SETUP, _rows: tuple[np.ndarray, ...] | None = None
    ):
        super().__init__(setup, _rows or _new_rows(setup))
        data = self._data = mujoco.MjData(self.model)
        self._qpos, self._qvel, self._warmstart, self._ctrl = data.qpos, data.qvel, data.qacc_warmstart, data.ctrl
        self._exact = not setup.delay and setup.gain == 1 and not setup.bearing  # goes where it is told
        self._radii = {kind.name: _radius(setup.shapes[kind.shape]) for kind in self.embodiment.objects}
        self.reset(np.random.default_rng(seed))

    @property
    def renderer(self) -> str:
        return renderer_name()

    def reset(self, rng: np.random.Generator) -> Observation:
        """Scatter blocks and end effector so that nothing touches."""
        inner, count = HALF_TABLE - 0.05, len(self.embodiment.objects)
        while True:
            points = rng.uniform(-inner, inner, (1, 2))  # the end effector
            for _ in range(200):
                point = rng.uniform(-inner, inner)
                if ((points - point) ** 2).sum(axis=1).min() > self.setup.apart**2:
                    points = np.vstack([points, point])
                if len(points) == 1 + count:
                    break
            else:
                continue
            break
        self._end_effector[:] = self._previous[:] = points[0]
        self._poses[:, :2] = points[1:]
        self._angles[:] = rng.uniform(-math.pi, math.pi, count)
        self._on_table[:] = True
        self._pending[:] = 0
        self._settle()
        return self.observation()

    def step(self, action: np.ndarray) -> Observation:
        dx, dy = map(_within, checked("action", action, 2).tolist(), self.embodiment.action.high)
        if not self._exact:
            dx, dy = self._moves(np.array([dx, dy])).tolist()
        x, y = self._end_effector.tolist()
        self._ctrl[0], self._ctrl[1] = _within(x + dx, REACH_X), _within(y + dy, REACH_Y)
        self._previous[0], self._previous[1] = x, y
        self._qpos[:] = self.positions
        self._qvel.fill(0)
        self._warmstart.fill(0)
        mujoco.mj_step(self.model, self._data, PHYSICS_STEPS)
        moved = self._qpos[2:].tobytes() != self._poses.tobytes()  # in a demonstration half of the steps move none
        self.positions[:] = self._qpos
        if moved:
            self._settle()
        return self.observation()

    def observation(self) -> Observation:
        return self._observe()

    def set_observation(self, observation: Observation) -> None:
        hand, tracked = (
            checked(f"observation's {key}", part_of(observation, key), self.embodiment.observation[key].size)
            for key in (STATE, ENVIRONMENT_STATE)
        )
        scale = self.setup.camera_scale
        self._end_effector[:], self._previous[:] = hand[:2] / scale, hand[2:] / scale
        self._pending[:] = 0
        features = tracked.reshape(-1, 5)
        self._poses[:, :2] = features[:, :2] / scale
        self._angles[:] = np.arctan2(features[:, 3], features[:, 2])
        self._on_table[:] = features[:, 4] > 0.5
        self._settle()

    def layout(self) -> tuple[tuple[float, float], dict[str, tuple[float, float]]]:
        """The end effector's place and the blocks' on the table, as plain numbers for the demonstrator."""
        x, y, *poses = self.positions.tolist()
        return (x, y), {
            kind.name: (poses[3 * i], poses[3 * i + 1])
            for i, (kind, here) in enumerate(zip(self.embodiment.objects, self._on_table.tolist(), strict=True))
            if here
        }

    def true_success(self, instruction: Instruction) -> bool:
        return distance_left(instruction.target, self.layout()[1]) <= 0

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        if _all(self._on_table):
            return ""
        here = self.objects_in_play()
        if fewest_objects is not None and len(here) >= fewest_objects:
            return ""
        fallen = [f"the {kind.name}" for kind in self.embodiment.objects if kind.name not in here]
        if len(fallen) == 1:
            return f"{fallen[0]} is off the table"
        return f"{', '.join(fallen[:-1])} and {fallen[-1]} are off the table"

    def objects_in_play(self) -> dict[str, tuple[float, float]]:
        return self.layout()[1]

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        """As it is where the arm does something else than it is told: what would come of it can't be predicted then."""
        if not self._exact:
            return action
        effector, objects = self.layout()
        radii = [self._radii[name] for name in objects]
        x, y = action.tolist()
        width, height = HALF_TABLE.tolist()
        x_limit, y_limit = self.embodiment.action.high
        left = fenced(
            (x, y),
            effector,
            END_EFFECTOR_RADIUS,
            tuple(objects.values()),
            radii,
            (width, height),
            margin,
            (x_limit, y_limit),
        )
        return np.array(left, np.float32)

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        if self.renderer == "drawn":
            return self._drawn(REACH + 0.01, width, height)
        return self._seen_by(camera, width, height)

    def _seen_by(self, camera: str, width: int, height: int) -> np.ndarray:
        self._data.qpos[:] = self.positions
        mujoco.mj_kinematics(self.model, self._data)
        mujoco.mj_camlight(self.model, self._data)
        return render(self.model, self._data, camera, width, height)

    def _drawn(self, half: np.ndarray, width: int, height: int) -> np.ndarray:
        """From straight above, `half` metres to each side of the middle."""

        def rgb(colour: tuple[float, float, float]) -> tuple[int, ...]:
            return tuple(round(255 * c) for c in colour)

        polygons = [((HALF_TABLE * [(-1, -1), (1, -1), (1, 1), (-1, 1)]), rgb(TABLE_COLOUR))]
        for kind, (x, y, angle), here in zip(self.embodiment.objects, self._poses, self._on_table, strict=True):
            turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
            if here:
                polygons += [
                    (part @ turn + (x, y), rgb(COLOURS[kind.colour])) for part in self.setup.shapes[kind.shape]
                ]
        x, y = self._end_effector
        polygons.append((circle(x, y, END_EFFECTOR_RADIUS), rgb(END_EFFECTOR_COLOUR)))
        return draw_top_view(polygons, (*-half, *half), width, height)

    def close(self) -> None:
        """Nothing to free: the model and its scene are shared by all tables."""


class BatchWorld(_Tables):
    """n tables stepped together by mujoco.rollout, on `threads` cores; to the bit as n LanguageTables."""

    def __init__(self, n: int, seed: int, threads: int = 1, setup: TableSetup = LANGUAGE_TABLE_SETUP):
        super().__init__(setup, _new_rows(setup, n))
        self.n = n
        self._state = np.zeros((n, mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
        if self._state.shape[1] != 1 + self.model.nq + self.model.nv:
            raise WorldError(
                "This MuJoCo keeps its full physics state in another layout than time, positions, velocities."
            )
        self._rollout = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
        self._datas = [mujoco.MjData(self.model) for _ in range(threads)]
        seeds = np.random.SeedSequence(seed).generate_state(n)
        self._worlds = [LanguageTable(int(seeds[i]), setup, tuple(row[i] for row in self._rows)) for i in range(n)]

    def world(self, i: int) -> LanguageTable:
        """Table i as a world of its own; stepping or resetting it moves table i only."""
        return self._worlds[i]

    def reset(self, i: int, rng: np.random.Generator) -> Observation:
        return self._worlds[i].reset(rng)

    def observations(self) -> Observation:
        return self._observe()

    def step(self, actions: np.ndarray, active: np.ndarray | None = None) -> Observation:
        """actions [n, 2] -> observations, float32 [n, ...]. With `active` [n] bool the other tables stand still."""
        actions = checked("batch of actions", np.ravel(actions), 2 * self.n).reshape(self.n, 2)
        if active is not None and not np.any(active):
            return self._observe()  # mujoco.rollout crashes on nothing
        rows = slice(None) if active is None else np.flatnonzero(active)
        self._previous[rows] = self._end_effector[rows]
        self._state[:, 1 : 1 + self.model.nq] = self.positions
        limit = np.array(self.embodiment.action.high)
        moves = self._moves(np.clip(actions, -limit, limit)[rows], rows)
        controls = np.clip(self._end_effector[rows] + moves, -REACH, REACH)[:, None]  # [active, 1, 2]
        states, _ = self._rollout.rollout(self.model, self._datas, self._state[rows], controls, nstep=PHYSICS_STEPS)
        self.positions[rows] = states[:, -1, 1 : 1 + self.model.nq]
        self._settle()
        return self._observe()

    def close(self) -> None:
        self._rollout.close()

"""A scripted policy for the Aloha insertion (aloha.toml): each hand over its thing, down, close, lift, meet, insert.

Both hands go from way point to way point in the plane that the arm's waist turns, slowly, with a wavering hand, pauses
and now and then a bad grip: practice has something to gain. Joint positions come from damped least squares over the
Jacobian of the point between the fingers.
"""

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from robots.demonstrators import PersonsHabits, drawn, wavered

SIDES = {"left": "socket", "right": "peg"}  # which arm takes what
FIRST, START = {"left": 0, "right": 7}, {"left": 0, "right": 8}  # of an arm's numbers in an action and in the model
GRIP = 0.145  # metres from the hand's joint to between the fingertips
TILT = 1.05  # radians that a hand points downwards
DAMPING, ITERATIONS, SOLVED = 1e-4, 10, 1e-4
TURN_WEIGHT = 0.2  # metres that a radian counts as
UP = np.array([0, 0, 0.09])  # metres, over a thing on the way to it
HELD_AT = {"left": 0.0, "right": 0.005}  # metres over its middle, where it is taken; lower, a finger meets the table
HEIGHT, MIDDLE = 0.2, 0.5  # metres: where the two meet, z and y
APART = {"far": 0.19, "touching": 0.094}  # metres between the two things' middles
SHARE = {"left": -0.45, "right": 0.55}  # of that, from x = 0
OPEN, CLOSED = 1.0, 0.0
SLIPPED = 0.03  # metres that a thing may lie elsewhere in its hand, to be brought there all the same
JOLT = 0.01  # metres, a jolt's deviation along each axis
STRAIGHT = 0.1  # metres from a way point from which on a hand comes straighter
NEAR = 0.012  # metres from a way point within which the next one is headed for


@dataclass(frozen=True)
class Habits(PersonsHabits):
    """How one attempt is acted."""

    speed: float = drawn("uniform", 0.010, 0.013)  # metres a step
    tremble: float = drawn("uniform", 0.0003, 0.001)  # metres, a wavering hand's deviation
    stray: float = drawn("uniform", 0.0, 0.06)  # metres, by which it comes to a way point from elsewhere
    jolts: float = drawn("uniform", 0.03, 0.1)  # a step: how likely a hand is jolted, and has to come back
    aside: float = drawn("normal", 0.0, 0.004)  # metres along a thing, beside its middle, where it is taken
    askew: float = drawn("normal", 0.0, 0.0015)  # metres, by which the two don't quite meet
    pause: float = drawn("uniform", 0.0, 2.0)  # steps at a way point, at most


CALM = Habits(0.01, *[0.0] * 6)  # a hand without a fault


class AlohaInsertion:
    """One attempt; without `habits` those of somebody."""

    def __init__(self, habits: Habits | None = None):
        self.given = habits
        self.reset()

    def reset(self) -> None:
        """An attempt begins."""
        self.phase, self.waited, self.patience = "settle", 0, PAUSES["settle"]
        self.told: np.ndarray | None = None

    def act(self, env: Any, observation: dict[str, np.ndarray]) -> np.ndarray:
        """The next action [14]: joint positions."""
        rng = env.unwrapped.np_random
        if self.told is None:
            self._begin(env.unwrapped.model, observation, rng)
        assert self.told is not None
        goals, grips, following = self._way_points(observation)
        arrived = self._move(goals, rng)
        for side, first in FIRST.items():
            self.told[first + 6] = grips[side]
        self.waited += 1 if arrived else 0
        if self.waited > self.patience:
            self.phase, self.waited = following, 0
            self.patience = PAUSES[following] + int(self.habits.pause * rng.random())
            self.strays = {side: self._stray(rng) for side in SIDES}
        return self.told.copy()

    def _begin(self, model: mujoco.MjModel, observation: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        self.habits = self.given or Habits.sample(rng)
        self.model, self.data = model, mujoco.MjData(model)
        self.told = np.array(observation["agent_pos"], np.float64)
        self.told[[6, 13]] = OPEN
        self.at = {side: self._reached(side)[0] for side in SIDES}  # where each hand is told to be
        self.strays = {side: self._stray(rng) for side in SIDES}
        self.waver: dict[str, tuple[float, ...]] = dict.fromkeys(SIDES, (0.0, 0.0, 0.0))
        self.in_hand: dict[str, np.ndarray] = {}

    def _stray(self, rng: np.random.Generator) -> np.ndarray:
        """From a way point to where a hand heads first on its way there, where there is room for it. [3]"""
        stray: np.ndarray = self.habits.stray * rng.normal(size=3) * (self.phase in ROOMY)
        return stray * min(1.0, 0.8 * STRAIGHT / max(float(np.linalg.norm(stray)), 1e-9))  # else it stays there

    def _way_points(self, seen: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, float], str]:
        """Where each hand goes now, how far its fingers are open, and the phase that follows."""
        sign = {"left": 1.0, "right": -1.0}
        taken = {}
        for side, thing in SIDES.items():
            if self.phase in ("settle", "over"):  # where it is taken is decided once
                taken[side] = seen[thing][:3] + np.array([self.habits.aside * sign[side], 0, HELD_AT[side]])
        if taken:
            self.taken = taken
        match self.phase:
            case "settle":
                return dict(self.at), dict.fromkeys(SIDES, OPEN), "over"
            case "over":
                return {side: at + UP for side, at in self.taken.items()}, dict.fromkeys(SIDES, OPEN), "down"
            case "down":
                return dict(self.taken), dict.fromkeys(SIDES, OPEN), "close"
            case "close":
                return dict(self.taken), dict.fromkeys(SIDES, CLOSED), "lift"
            case "lift":
                goals = {side: at + UP for side, at in self.taken.items()}
                return goals, dict.fromkeys(SIDES, CLOSED), "meet"
        apart = APART["far"] if self.phase == "meet" else APART["touching"]
        goals = {}
        for side, thing in SIDES.items():
            wanted = np.array([SHARE[side] * apart, MIDDLE, HEIGHT])
            if side == "right":
                wanted = wanted + self.habits.askew * np.array([0, 1, 1])
            goals[side] = wanted + self._in_hand(side, seen[thing][:3])
        return goals, dict.fromkeys(SIDES, CLOSED), "insert"

    def _in_hand(self, side: str, thing: np.ndarray) -> np.ndarray:
        """From a thing's middle to where its hand is told to be, smoothed. [3]"""
        now = self.at[side] - thing
        before = self.in_hand.get(side, np.array([0, 0, HELD_AT[side]]))
        self.in_hand[side] = (0.7 * before + 0.3 * now).clip(-SLIPPED, SLIPPED)
        return self.in_hand[side]

    def _move(self, goals: dict[str, np.ndarray], rng: np.random.Generator) -> bool:
        """One step towards them; whether both are there."""
        arrived = True
        for side, goal in goals.items():
            far = float(np.linalg.norm(goal - self.at[side]))
            way = goal + min(1.0, max(0.0, far - NEAR) / STRAIGHT) * self.strays[side] - self.at[side]
            step = self.habits.speed * (0.5 if self.phase in ("down", "insert") else 1.0)
            self.at[side] = self.at[side] + way * min(1.0, step / max(float(np.linalg.norm(way)), 1e-9))
            if rng.random() < self.habits.jolts * (self.phase in ROOMY):
                self.at[side] = self.at[side] + JOLT * rng.normal(size=3)
            self.waver[side] = wavered(self.waver[side], self.habits.tremble, rng.normal(size=3).tolist())
            self._solve(side, self.at[side] + self.waver[side])
            arrived = arrived and far < NEAR
        return arrived

    def _reached(self, side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of what the arm is told: the point between its fingers [3], the hand's rotation [3, 3], and the Jacobian of
        both by its joints [6, 6].
        """
        assert self.told is not None
        body, start = self.model.body(f"vx300s_{side}/gripper_link").id, START[side]
        self.data.qpos[start : start + 6] = self.told[FIRST[side] : FIRST[side] + 6]
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        rotation = self.data.xmat[body].reshape(3, 3).copy()
        point = self.data.xpos[body] + GRIP * rotation[:, 0]
        moves, turns = np.zeros((3, self.model.nv)), np.zeros((3, self.model.nv))
        mujoco.mj_jac(self.model, self.data, moves, turns, point, body)
        return point, rotation, np.vstack([moves, turns])[:, start : start + 6]

    def _solve(self, side: str, goal: np.ndarray) -> None:
        """Tell the arm's joints to bring the point there, the hand pointing along x and down."""
        assert self.told is not None
        joints, wanted = slice(FIRST[side], FIRST[side] + 6), POINTING[side]
        for _ in range(ITERATIONS):
            point, rotation, jacobian = self._reached(side)
            turn = np.cross(rotation, wanted, axis=0).sum(1) / 2  # the rotation that is missing, where it is small
            missing = np.array([*(goal - point), *(TURN_WEIGHT * turn)])
            if np.abs(missing).max() < SOLVED:
                break
            jacobian[3:] *= TURN_WEIGHT
            change = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING * np.eye(6), missing)
            self.told[joints] += np.clip(change, -0.2, 0.2)


def _pointing(ahead: float) -> np.ndarray:
    """A hand's rotation [3, 3] that points along x, forwards (1) or backwards (-1), and TILT downwards."""
    x = np.array([ahead * np.cos(TILT), 0.0, -np.sin(TILT)])
    y = np.array([0.0, ahead, 0.0])
    return np.column_stack([x, y, np.cross(x, y)])


POINTING = {"left": _pointing(1.0), "right": _pointing(-1.0)}
ROOMY = ("over", "meet")  # phases in which a hand may be elsewhere
PAUSES = {"settle": 2, "over": 0, "down": 1, "close": 6, "lift": 0, "meet": 4, "insert": 1000}  # steps, at least

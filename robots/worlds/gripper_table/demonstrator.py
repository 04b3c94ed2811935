"""A scripted policy for the gripper table: over the puck, close, to where it belongs, let go."""

from dataclasses import dataclass

import numpy as np

from robots.demonstrators import STEPS_AFTER_SUCCESS, PersonsHabits, drawn, recorded
from robots.episodes import Episode
from robots.tasks import Instruction, get_task
from robots.worlds.gripper_table import HIDDEN_GOALS, HOME, LONGEST_STEP, REACH
from robots.worlds.gripper_table.physics import POCKET_HALF, GripperTable

OVER = 0.6 * REACH  # metres from the puck at which the fingers close
THERE = 0.015  # metres from where it belongs at which a puck is let go
MOUTH, CLEAR = 0.15, 0.17  # metres from a pocket's goal: to where it is entered, and to where a puck passes its side


@dataclass(frozen=True)
class Habits(PersonsHabits):
    """How one attempt is acted."""

    speed: float = drawn("uniform", 0.5, 0.9)  # of the longest step
    tremble: float = drawn("uniform", 0.1, 0.4)  # of it too, a hand's deviation in each step
    slips: float = drawn("uniform", 0.0, 0.03)  # a step: how likely fingers open by themselves


STEADY = Habits(0.9, 0.0, 0.0)


def act(world: GripperTable, home: np.ndarray | None, habits: Habits, rng: np.random.Generator) -> np.ndarray:
    """The next action [3] on the way of the puck to its home [2], or to the goal where that is None."""
    gripper, puck, pocket = world.gripper, world.puck, world.goal
    goal = pocket if home is None else home
    missing = goal - puck
    towards = _way_point(puck, pocket, goal) - puck if world.pocket else missing
    if not world.held and np.linalg.norm(missing) <= THERE:
        way, grip = np.zeros(2), -1.0
    elif not world.held:
        way, grip = puck - gripper, 1.0 if np.linalg.norm(puck - gripper) <= OVER else -1.0
    else:
        way, grip = towards, -1.0 if np.linalg.norm(missing) <= THERE else 1.0
    if rng.random() < habits.slips:
        grip = -1.0
    longest = habits.speed * LONGEST_STEP
    way = way * min(1.0, longest / max(float(np.linalg.norm(way)), 1e-9))
    way = way + habits.tremble * LONGEST_STEP * rng.normal(size=2)
    return np.array([*np.clip(way, -LONGEST_STEP, LONGEST_STEP), grip], np.float32)


def _way_point(puck: np.ndarray, pocket: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Where a held puck goes next on its way to a goal: round the pocket's walls, in and out by its mouth. [2]"""
    dx, dy = puck - pocket
    mouth = pocket - (MOUTH, 0.0)
    if dx <= -0.8 * MOUTH:  # before it
        return mouth if goal is pocket and abs(dy) > THERE else goal
    if abs(dy) < 2 * THERE and dx < POCKET_HALF:  # in it
        return goal if goal is pocket else mouth
    if abs(dy) < 0.9 * CLEAR:  # behind it, or beside a wall
        return np.array([puck[0], pocket[1] + np.copysign(CLEAR, dy)])
    return np.array([mouth[0], puck[1]])


def demonstrate(
    world: GripperTable,
    instruction: Instruction,
    rng: np.random.Generator,
    seed: int | None = None,
    habits: Habits | None = None,
) -> Episode:
    """One attempt from where the table stands; without `habits` those of somebody."""
    habits = habits or Habits.sample(rng)
    if "goal" in instruction.target:
        goal: np.ndarray | None = np.array(HIDDEN_GOALS[instruction.target["goal"]])
    else:
        goal = np.array(HOME) if instruction.family.endswith("bring_back") else None
    observations, actions, successes = [world.observation()], list[np.ndarray](), 0
    limit = get_task(instruction.family).time_limit_steps
    while len(actions) < limit and successes <= STEPS_AFTER_SUCCESS:
        actions.append(act(world, goal, habits, rng))
        observations.append(world.step(actions[-1]))
        successes += world.true_success(instruction)
    return recorded(world, instruction, observations, actions, successes > 0, "time_limit", rng, seed)

"""A scripted finger: round the puck to the side that it is pushed from, then push. And fingers that move by chance."""

from dataclasses import dataclass

import numpy as np

from robots.demonstrators import STEPS_AFTER_SUCCESS, PersonsHabits, drawn, recorded
from robots.episodes import Episode
from robots.tasks import Instruction
from robots.worlds.planar_pusher import AIMS, FASTEST, FPS, TIME_LIMIT_STEPS
from robots.worlds.planar_pusher.physics import FINGER_RADIUS, PUCK_RADIUS, PlanarPusher

BEHIND = PUCK_RADIUS + FINGER_RADIUS + 0.02  # metres of the finger from the puck's middle, from where it pushes
CLEAR = BEHIND + 0.03  # and as far aside it passes by
KEPT = 0.8  # share of a smooth random action that the next one keeps


@dataclass(frozen=True)
class Habits(PersonsHabits):
    """How one attempt is acted."""

    speed: float = drawn("uniform", 0.6, 1.0)  # of the fastest
    tremble: float = drawn("uniform", 0.05, 0.2)  # of it too, a hand's deviation in each step


def act(world: PlanarPusher, along: int, habits: Habits, rng: np.random.Generator) -> np.ndarray:
    """The next speed [2] of a finger that pushes the puck up the axis of that number."""
    across = 1 - along
    way = world.puck - world.finger
    goal = world.puck.copy()
    if way[along] < 0.5 * BEHIND:  # beside the puck or before it: past it, aside first
        goal[along] -= 1.5 * BEHIND
        if abs(way[across]) < CLEAR - 0.01 and way[along] < 0.3 * BEHIND:
            side = -1.0 if way[across] > 0 else 1.0
            goal[across] += side * CLEAR
            goal[along] = world.finger[along]
        elif way[along] < 0.3 * BEHIND:
            goal[across] = world.finger[across]
    elif abs(way[across]) > 0.25 * FINGER_RADIUS and way[along] > 0.9 * BEHIND:  # behind it: into line
        goal[along] -= 1.1 * BEHIND
    else:
        goal[along] += 0.1
    speed = (goal - world.finger) * FPS
    longest = habits.speed * FASTEST
    speed = speed * min(1.0, longest / max(float(np.linalg.norm(speed)), 1e-9))
    speed += habits.tremble * FASTEST * rng.normal(size=2)
    return np.array(np.clip(speed, -FASTEST, FASTEST), np.float32)


def demonstrate(
    world: PlanarPusher,
    instruction: Instruction,
    rng: np.random.Generator,
    seed: int | None = None,
    habits: Habits | None = None,
) -> Episode:
    """One attempt from where the table stands; without `habits` those of somebody."""
    habits = habits or Habits.sample(rng)
    along = "xy".index(AIMS[instruction.family][0][-1])
    observations, actions, successes = [world.observation()], list[np.ndarray](), 0
    while len(actions) < TIME_LIMIT_STEPS and successes <= STEPS_AFTER_SUCCESS:
        actions.append(act(world, along, habits, rng))
        observations.append(world.step(actions[-1]))
        successes += world.true_success(instruction)
    return recorded(world, instruction, observations, actions, successes > 0, "time_limit", rng, seed)


def random_speeds(steps: int, kept: float, rng: np.random.Generator) -> np.ndarray:
    """Speeds of a finger that moves by chance: each keeps that share of the one before; 0: all anew. [steps, 2]"""
    speeds = rng.uniform(-1, 1, (steps, 2)) if not kept else rng.normal(size=(steps, 2))
    for step in range(1, steps if kept else 0):
        speeds[step] = kept * speeds[step - 1] + (1 - kept**2) ** 0.5 * speeds[step]
    return np.clip(FASTEST * speeds, -FASTEST, FASTEST).astype(np.float32)

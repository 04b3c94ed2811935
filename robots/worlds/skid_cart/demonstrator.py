"""Driving the cart while its drive is sound: round the course by a script, and at random.

A model of the cart is learned from either. Whatever gains a reset has drawn are put aside.
"""

import math
from dataclasses import dataclass

import numpy as np

from robots.demonstrators import STEPS_AFTER_SUCCESS, PersonsHabits, drawn, recorded
from robots.embodiments import ENVIRONMENT_STATE, STATE, Observation
from robots.episodes import Episode
from robots.tasks import Instruction
from robots.worlds.skid_cart import FASTEST, FASTEST_TURN, TIME_LIMIT_STEPS
from robots.worlds.skid_cart.physics import NOMINAL, SkidCart

LONGEST_HOLD = 5  # steps in which one random command is kept


@dataclass(frozen=True)
class Habits(PersonsHabits):
    """How one attempt is driven."""

    speed: float = drawn("uniform", 0.75, 1.0)  # of the fastest
    steering: float = drawn("uniform", 1.0, 3.0)  # rad/s for each rad that the next way point lies aside
    strays: float = drawn("uniform", 0.02, 0.08)  # a step: how likely a random command is given and kept


def act(observation: Observation, habits: Habits) -> np.ndarray:
    """The next command [2] towards the next way point."""
    x, y, yaw = observation[STATE]
    next_x, next_y, _ = observation[ENVIRONMENT_STATE]
    aside = math.remainder(math.atan2(next_y - y, next_x - x) - yaw, 2 * math.pi)
    turn = np.clip(habits.steering * aside, -FASTEST_TURN, FASTEST_TURN)
    return np.array([habits.speed * FASTEST * max(0.0, math.cos(aside)), turn], np.float32)


def at_random(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """A random command [2], and for how many steps it is kept."""
    command = rng.uniform((-FASTEST, -FASTEST_TURN), (FASTEST, FASTEST_TURN)).astype(np.float32)
    return command, int(rng.integers(1, LONGEST_HOLD + 1))


def demonstrate(
    world: SkidCart,
    instruction: Instruction,
    rng: np.random.Generator,
    seed: int | None = None,
    habits: Habits | None = None,
) -> Episode:
    """Once round the course, straying now and then; without `habits` as somebody does."""
    habits, world.changed_gains = habits or Habits.sample(rng), NOMINAL
    observations, actions, successes = [world.observation()], list[np.ndarray](), 0
    stray, still = np.zeros(2, np.float32), 0
    while len(actions) < TIME_LIMIT_STEPS and successes <= STEPS_AFTER_SUCCESS:
        if not still and rng.random() < habits.strays:
            stray, still = at_random(rng)
        actions.append(stray if still else act(observations[-1], habits))
        still = max(0, still - 1)
        observations.append(world.step(actions[-1]))
        successes += world.true_success(instruction)
    return recorded(world, instruction, observations, actions, successes > 0, "time_limit", rng, seed)


def drive_at_random(
    world: SkidCart, instruction: Instruction, steps: int, rng: np.random.Generator, seed: int | None = None
) -> Episode:
    """So many steps of random commands, from where the cart stands."""
    world.changed_gains = NOMINAL
    observations, actions = [world.observation()], list[np.ndarray]()
    while len(actions) < steps:
        command, kept = at_random(rng)
        for _ in range(min(kept, steps - len(actions))):
            actions.append(command)
            observations.append(world.step(command))
    return recorded(world, instruction, observations, actions, False, "time_limit", rng, seed)

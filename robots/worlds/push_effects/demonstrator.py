"""Random pushes: what a learner of effects begins with."""

import numpy as np

from robots.demonstrators import recorded
from robots.episodes import Episode
from robots.tasks import Instruction
from robots.worlds.push_effects import PUSH_EFFECTS
from robots.worlds.push_effects.physics import PushEffects


def random_pushes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Any pushes that the body can make, each as likely as any other. [count, 3]"""
    low, high = np.array(PUSH_EFFECTS.action_range).T
    return rng.uniform(low, high, (count, 3)).astype(np.float32)


def demonstrate(
    world: PushEffects, instruction: Instruction, rng: np.random.Generator, seed: int | None = None
) -> Episode:
    """One push; a success if it found the block."""
    (push,) = random_pushes(1, rng)
    observations = [world.observation(), world.step(push)]
    return recorded(world, instruction, observations, [push], world.true_success(instruction), "time_limit", rng, seed)

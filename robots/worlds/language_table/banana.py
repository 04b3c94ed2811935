"""The banana table: one banana in place of all blocks, an object that the demonstrations never showed.

It is more than twice as long as a block, so a push that misses its middle spins it instead of moving it along.
"""

import numpy as np

from robots.worlds.language_table import BANANA_TABLE
from robots.worlds.language_table.physics import LanguageTable, TableSetup

LENGTH_ANGLE = 1.05  # radians, half of the arc it is bent along
RADIUS = 0.055  # metres, of that arc
THICKNESS = 0.011  # metres, half of it at the middle


def _banana(parts: int = 7) -> list[np.ndarray]:
    """A chain of convex quadrilaterals along an arc, thinner towards both ends, around its centre of mass."""
    angles = np.linspace(-LENGTH_ANGLE, LENGTH_ANGLE, parts + 1)
    half = THICKNESS * (1 - 0.6 * (angles / LENGTH_ANGLE) ** 2)
    ray = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outer, inner = (RADIUS + half)[:, None] * ray, (RADIUS - half)[:, None] * ray
    pieces = [np.array([inner[k], outer[k], outer[k + 1], inner[k + 1]]) for k in range(parts)]
    weights = half[:-1] + half[1:]
    middle = sum(weight * piece.mean(axis=0) for weight, piece in zip(weights, pieces, strict=True)) / weights.sum()
    return [piece - middle for piece in pieces]


# Inertia and turning friction are those of a rod of this length: its ends are 4.5 cm from its middle.
BANANA_TABLE_SETUP = TableSetup(
    BANANA_TABLE, {"banana": _banana()}, apart=0.085, mass=0.06, inertia=5e-5, damping=3.0, turn_damping=2.4e-3
)


def banana_table(seed: int) -> LanguageTable:
    """The table with the banana, reset from the seed."""
    return LanguageTable(seed, BANANA_TABLE_SETUP)

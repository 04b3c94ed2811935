"""The worn table: LanguageTable in another laboratory, for policies that were trained in the first.

Everything that a second set-up has otherwise: heavier, more slippery blocks, an arm that goes less far than it is told,
a little aside and a step late, and a camera that makes things larger than they are. Objects and instructions are the
same, so a policy of LanguageTable can act here, badly at first.
"""

import math

from robots.worlds.language_table import WORN_TABLE
from robots.worlds.language_table.physics import BLOCK_SHAPES, LanguageTable, TableSetup

WORN_TABLE_SETUP = TableSetup(
    WORN_TABLE,
    BLOCK_SHAPES,
    mass=0.12,
    damping=8.0,
    turn_damping=1e-3,
    friction=0.15,
    gain=0.7,
    bearing=math.radians(27),
    delay=1,
    camera_scale=1.1,
)


def worn_table(seed: int) -> LanguageTable:
    """The worn table, reset from the seed."""
    return LanguageTable(seed, WORN_TABLE_SETUP)

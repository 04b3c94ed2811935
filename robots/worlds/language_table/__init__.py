"""LanguageTable and its variants: what is known of them without a simulator, and where the rest is found.

Four worlds live in this folder, since they are one: the same arm, the same words, the same physics. The worn table, the
camera table and the banana table change what lies on the table, how it moves or how it is seen (worn.py, camera.py,
banana.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from robots.embodiments import (
    ENVIRONMENT_STATE,
    IMAGES,
    STATE,
    Camera,
    DriveAxis,
    Embodiment,
    Feature,
    Motion,
    ObjectKind,
    Observation,
    Overhead,
    get_embodiment,
    picture,
    vector,
)
from robots.tasks import Grammar, TaskFamily
from robots.worlds import WorldSpec, on_demand

TABLE_SIZE = (0.6, 0.4)  # metres, centred at the origin; x to the right, y to the top as the camera sees it

BLOCKS = (
    ObjectKind("red moon", "red", "moon"),
    ObjectKind("red pentagon", "red", "pentagon"),
    ObjectKind("blue moon", "blue", "moon"),
    ObjectKind("blue cube", "blue", "cube"),
    ObjectKind("green star", "green", "star"),
    ObjectKind("green cube", "green", "cube"),
    ObjectKind("yellow star", "yellow", "star"),
    ObjectKind("yellow pentagon", "yellow", "pentagon"),
)


OBJECT_FEATURES = ("x", "y", "cos", "sin", "on_table")
STATE_NAMES = ("ee_x", "ee_y", "previous_ee_x", "previous_ee_y")


def _both_ways(names: Sequence[str], most: Sequence[float], units: Sequence[str]) -> Feature:
    return vector(names, [-each for each in most], most, units)


def _tracked(objects: tuple[ObjectKind, ...]) -> Feature:
    """Where objects lie, in metres from the table's middle; the rest are shares."""
    half = (TABLE_SIZE[0] / 2, TABLE_SIZE[1] / 2)
    names = [f"{kind.name}.{each}" for kind in objects for each in OBJECT_FEATURES]
    return _both_ways(names, (*half, 1.0, 1.0, 1.0) * len(objects), ("m", "m", "", "", "") * len(objects))


# The hand passes the edge by 0.05.
_HAND = _both_ways(STATE_NAMES, (TABLE_SIZE[0] / 2 + 0.05, TABLE_SIZE[1] / 2 + 0.05) * 2, ("m",) * 4)

LANGUAGE_TABLE = Embodiment(
    name="language_table",
    fps=5.0,
    observation={STATE: _HAND, ENVIRONMENT_STATE: _tracked(BLOCKS)},
    action=_both_ways(("delta_x", "delta_y"), (0.03, 0.03), ("m", "m")),
    motions=(Motion("delta", largest_change=0.03),) * 2,
    drive=(DriveAxis("x", "delta_x"), DriveAxis("y", "delta_y")),
    objects=BLOCKS,
    views=(Camera("front", 320, 240),),
)

# Another laboratory's table: it senses and acts in the same terms, but nothing weighs, slips or looks quite alike.
WORN_TABLE = replace(LANGUAGE_TABLE, name="worn_table")

# LanguageTable for a policy that sees the table itself, instead of being told where everything lies.
OVERHEAD = Overhead("top", metres_per_pixel=0.006)
OVERHEAD_SIZE = (124, 88)  # pixels, width and height
CAMERA_TABLE = replace(
    LANGUAGE_TABLE,
    name="camera_table",
    observation={f"{IMAGES}{OVERHEAD.camera}": picture(*OVERHEAD_SIZE)},
    overhead=OVERHEAD,
)

BANANA = (ObjectKind("banana", "yellow", "banana"),)
BANANA_TABLE = replace(
    LANGUAGE_TABLE,
    name="banana_table",
    observation={STATE: _HAND, ENVIRONMENT_STATE: _tracked(BANANA)},
    objects=BANANA,
)

TOUCHING = 0.05  # metres between two block centres: blocks are 0.04 wide, so they touch or almost do
PLACE_RADIUS = 0.05  # metres between a block's centre and a place's centre

# 32 s, within which the scripted demonstrator succeeds in more than .95 of its attempts: under a limit that the
# demonstrator itself fails, a policy that is only quicker passes for one that is more skilled.
TIME_LIMIT_STEPS = 160
SLOW_TIME_LIMIT_STEPS = 300  # a worn arm: there it needs longer, and succeeds in .94; the rest falls off

PLACES = {
    "left": (-0.2, 0.0),
    "top left": (-0.2, 0.11),
    "top center": (0.0, 0.11),
    "top right": (0.2, 0.11),
    "right": (0.2, 0.0),
    "bottom right": (0.2, -0.11),
    "bottom": (0.0, -0.11),
    "bottom left": (-0.2, -0.11),
    "center": (0.0, 0.0),
}


def block_positions(observation: Observation, embodiment: str = "language_table") -> dict[str, tuple[float, float]]:
    """Centres of the blocks that are on the table, read from an observation."""
    body = get_embodiment(embodiment)
    positions = {}
    for kind in body.objects:
        x, y, _, _, on_table = observation[ENVIRONMENT_STATE][body.object_slice(kind.name)]
        if on_table > 0.5:
            positions[kind.name] = (float(x), float(y))
    return positions


def distance_left(target: Mapping[str, str], positions: Mapping[str, tuple[float, float]]) -> float:
    """Metres by which the target is still missed; 0 or less: fulfilled. Infinite if a block is off the table."""
    if target["block"] not in positions:
        return math.inf
    if "to_block" in target:
        if target["to_block"] not in positions:
            return math.inf
        return math.dist(positions[target["block"]], positions[target["to_block"]]) - TOUCHING
    return math.dist(positions[target["block"]], PLACES[target["place"]]) - PLACE_RADIUS


_VERBS = ("push", "slide", "move", "nudge", "shove", "drag", "bring", "guide", "take", "put")
_HELD_OUT_VERBS = ("steer", "shift", "carry")

_BLOCK_TO_BLOCK = Grammar(
    verbs=_VERBS,
    templates=(
        "{verb} the {block} to the {to_block}",
        "{verb} the {block} towards the {to_block}",
        "{verb} the {block} next to the {to_block}",
        "{verb} the {block} up to the {to_block}",
        "{verb} the {block} close to the {to_block}",
        "{verb} the {block} against the {to_block}",
        "{verb} the {block} over to the {to_block}",
        "{verb} the {block} until it touches the {to_block}",
        "please {verb} the {block} to the {to_block}",
        "{verb} {block} to {to_block}",
    ),
    held_out_verbs=_HELD_OUT_VERBS,
    held_out_templates=(
        "could you {verb} the {block} beside the {to_block}",
        "{verb} the {block} so that it meets the {to_block}",
        "the {block} should go to the {to_block}, {verb} it there",
    ),
)

_BLOCK_TO_PLACE = Grammar(
    verbs=_VERBS,
    templates=(
        "{verb} the {block} to the {place} of the table",
        "{verb} the {block} towards the {place} of the table",
        "{verb} the {block} over to the {place} of the table",
        "{verb} the {block} into the {place} of the table",
        "{verb} the {block} to the {place} of the board",
        "please {verb} the {block} to the {place} of the table",
        "{verb} the {block} to the {place}",
        "{verb} {block} to {place}",
    ),
    held_out_verbs=_HELD_OUT_VERBS,
    held_out_templates=(
        "could you {verb} the {block} to the {place} part of the table",
        "the {block} belongs in the {place}, {verb} it there",
        "{verb} the {block} so that it lies in the {place} of the table",
    ),
    named={"place": tuple(PLACES)},
)


def _family(
    world: Embodiment, name: str, title: str, grammar: Grammar, description: str, limit: int = TIME_LIMIT_STEPS
) -> TaskFamily:
    return TaskFamily(name, title, world.name, world.name, limit, description, grammar, distance_left)


_demonstrate = on_demand(f"{__name__}.demonstrator:demonstrate")
EPISODES_BETWEEN_RESETS = 5  # practice starts from what the last episode left; so do most demonstrations

WORLDS = (
    WorldSpec(
        LANGUAGE_TABLE,
        (
            _family(
                LANGUAGE_TABLE,
                "block2block",
                "Block2Block",
                _BLOCK_TO_BLOCK,
                "Push one block until it touches another, as the words say.",
            ),
            _family(
                LANGUAGE_TABLE,
                "block_to_place",
                "Block to place",
                _BLOCK_TO_PLACE,
                "Push a block to one of nine places of the table, as the words say.",
            ),
        ),
        make=on_demand(f"{__name__}.physics:LanguageTable"),
        demonstrate=_demonstrate,
        episodes_between_resets=EPISODES_BETWEEN_RESETS,
        make_batch=on_demand(f"{__name__}.physics:BatchWorld"),
    ),
    WorldSpec(
        WORN_TABLE,
        (
            _family(
                WORN_TABLE,
                "worn_block2block",
                "Block2Block, worn table",
                _BLOCK_TO_BLOCK,
                "Block2Block in another laboratory: other masses, friction, arm, delay and camera.",
                SLOW_TIME_LIMIT_STEPS,
            ),
        ),
        make=on_demand(f"{__name__}.worn:worn_table"),
        demonstrate=_demonstrate,
        episodes_between_resets=EPISODES_BETWEEN_RESETS,
    ),
    WorldSpec(
        CAMERA_TABLE,
        (
            _family(
                CAMERA_TABLE,
                "camera_block2block",
                "Block2Block, by camera",
                _BLOCK_TO_BLOCK,
                "Block2Block for a policy that is given the camera's picture instead of where the blocks lie.",
            ),
            _family(
                CAMERA_TABLE,
                "camera_block_to_place",
                "Block to place, by camera",
                _BLOCK_TO_PLACE,
                "Block to place for a policy that is given the camera's picture instead of where the blocks lie.",
            ),
        ),
        make=on_demand(f"{__name__}.camera:CameraTable"),
        demonstrate=_demonstrate,
        episodes_between_resets=EPISODES_BETWEEN_RESETS,
    ),
    WorldSpec(
        BANANA_TABLE,
        (
            _family(
                BANANA_TABLE,
                "banana_to_place",
                "Banana to place",
                _BLOCK_TO_PLACE,
                "Push a banana, which spins when it is not pushed at its middle, to one of nine places of the table.",
            ),
        ),
        make=on_demand(f"{__name__}.banana:banana_table"),
        demonstrate=_demonstrate,
        episodes_between_resets=EPISODES_BETWEEN_RESETS,
    ),
)

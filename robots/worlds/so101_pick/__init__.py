"""SO-101-like pick and place: what is known of it without a simulator, and where the rest is found.

A desktop arm with five joints and a gripper, three cubes and two bins with low walls. One family puts a cube into a
bin, the other takes it out again, so that practice by both needs no person. Two bodies live here: one is told where the
cubes lie, the other sees them by two cameras. x is to the right and y to the top as the front camera sees the table.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from robots.embodiments import (
    ENVIRONMENT_STATE,
    IMAGES,
    STATE,
    Axis,
    Camera,
    DriveAxis,
    Embodiment,
    Motion,
    ObjectKind,
    picture,
    vector,
)
from robots.tasks import Grammar, TaskFamily
from robots.worlds import WorldSpec, on_demand

TABLE_SIZE = (0.6, 0.42)  # metres, centred at the origin
BASE = (0.0, 0.15)  # where the arm stands; it faces -y
CUBE = 0.025  # metres, a cube's edge
WALL_HEIGHT = 0.01  # of a bin: lower than half a cube, so that the jaws can take a cube beside a wall
BIN_HALF = 0.045  # metres from a bin's middle to its walls' inner sides
BINS = {"left": (-0.16, 0.04), "right": (0.16, 0.04)}
MIDDLE = ((-0.095, 0.095), (-0.095, 0.025))  # the free table between the bins: x and y from and to
NEAREST, FARTHEST = 0.115, 0.265  # metres from the arm's axis at which it can take a cube from the table

CUBES = (
    ObjectKind("red cube", "red", "cube"),
    ObjectKind("blue cube", "blue", "cube"),
    ObjectKind("green cube", "green", "cube"),
)

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")

LARGEST_MOVE = 0.03  # metres of the hand in one step, along each axis
LARGEST_TURN = 0.35  # radians of the hand in one step
LARGEST_GRIP = 35.0  # per cent of the gripper's opening in one step
HAND = ((-0.26, 0.26), (-0.12, 0.11), (0.004, 0.14))  # metres from where to where the jaws' tips can be told to go
YAW = (-1.8, 1.8)  # radians


def _state() -> tuple[tuple[str, float, float, str], ...]:
    """Name, low, high and unit of each number of observation.state. Joints are named as LeRobot names them."""
    (x0, x1), (y0, y1), (z0, z1) = HAND
    return (
        ("shoulder_pan.pos", -1.95, 1.95, "rad"),
        ("shoulder_lift.pos", -1.8, 1.8, "rad"),
        ("elbow_flex.pos", 0.1, 2.8, "rad"),
        ("wrist_flex.pos", -1.75, 2.35, "rad"),
        ("wrist_roll.pos", -2.8, 2.8, "rad"),
        ("gripper.pos", -5.0, 105.0, "%"),  # 0 closed, 100 open; about 38 on a cube
        ("ee_x", x0 - 0.03, x1 + 0.03, "m"),  # of the middle between the jaws' tips
        ("ee_y", y0 - 0.03, y1 + 0.03, "m"),
        ("ee_z", z0 - 0.03, z1 + 0.06, "m"),
        ("ee_yaw", YAW[0] - 0.8, YAW[1] + 0.8, "rad"),  # from the standing jaw to the moving one, against +x
    )


def _tracked() -> tuple[tuple[str, float, float, str], ...]:
    """The same of observation.environment_state. A cube looks the same after a quarter turn, so cos and sin are of four
    times its yaw. All five are 0 of a cube that is off the table.
    """
    x, y = TABLE_SIZE[0] / 2, TABLE_SIZE[1] / 2
    each = (
        ("x", -x, x, "m"),
        ("y", -y, y, "m"),
        ("z", -0.01, 0.3, "m"),
        ("cos", -1.0, 1.0, ""),
        ("sin", -1.0, 1.0, ""),
    )
    return tuple((f"{kind.name}.{name}", *rest) for kind in CUBES for name, *rest in each)  # type: ignore[misc]


SO101_PICK = Embodiment(
    name="so101_pick",
    fps=10.0,
    observation={
        STATE: vector(*zip(*_state(), strict=True)),
        ENVIRONMENT_STATE: vector(*zip(*_tracked(), strict=True)),
    },
    action=vector(
        ("delta_x", "delta_y", "delta_z", "delta_yaw", "gripper"),
        (-LARGEST_MOVE,) * 3 + (-LARGEST_TURN, 0.0),
        (LARGEST_MOVE,) * 3 + (LARGEST_TURN, 100.0),
        ("m", "m", "m", "rad", "%"),
    ),
    motions=(
        *(Motion("delta", LARGEST_MOVE),) * 3,
        Motion("delta", LARGEST_TURN),
        Motion("position", LARGEST_GRIP, sensed_by="gripper.pos"),
    ),
    drive=(
        DriveAxis("x", "delta_x"),
        DriveAxis("y", "delta_y"),
        DriveAxis("z", "delta_z"),
        DriveAxis("yaw", "delta_yaw"),
        DriveAxis("gripper", "gripper"),
    ),
    objects=CUBES,
    views=(Camera("front", 320, 240), Camera("wrist", 320, 240)),
    axis=Axis(*BASE, fold=4),
)

# The same arm for a policy that sees the table itself, instead of being told where the cubes lie.
PICTURE_SIZE = (96, 72)
SO101_PICK_CAMERAS = replace(
    SO101_PICK,
    name="so101_pick_cameras",
    observation={
        STATE: SO101_PICK.observation[STATE],
        **{IMAGES + camera.name: picture(*PICTURE_SIZE) for camera in SO101_PICK.views},
    },
)

# 12 s, within which the scripted demonstrator succeeds in more than .95 of its attempts.
TIME_LIMIT_STEPS = 120


def _beyond(place: tuple[float, float], x: tuple[float, float], y: tuple[float, float]) -> float:
    """Metres from a place to a rectangle; 0 in it."""
    return math.hypot(*(max(low - at, at - high, 0.0) for at, (low, high) in zip(place, (x, y), strict=True)))


def _from_bin(place: tuple[float, float], name: str) -> float:
    (x, y), half = BINS[name], BIN_HALF
    return _beyond(place, (x - half, x + half), (y - half, y + half))


def bin_at(place: tuple[float, float]) -> str:
    """The bin in which a cube with its middle there lies; empty where it lies in none."""
    return next((name for name in BINS if _from_bin(place, name) <= 0), "")


def in_reach(place: tuple[float, float]) -> bool:
    """Whether the arm can take a cube that lies there."""
    (x0, x1), (y0, y1), _ = HAND
    return NEAREST <= math.dist(place, BASE) <= FARTHEST and x0 <= place[0] <= x1 and y0 <= place[1] <= y1


def missing_into(target: Mapping[str, str], positions: Mapping[str, tuple[float, float]]) -> float:
    """Metres by which the cube is still outside of the bin; 0: it is in it. Infinite if it is out of play."""
    if target["cube"] not in positions:
        return math.inf
    return _from_bin(positions[target["cube"]], target["bin"])


def missing_out(target: Mapping[str, str], positions: Mapping[str, tuple[float, float]]) -> float:
    """Metres by which the cube would have to be moved to stand clear of the bin that it lies in; 0 where it lies
    elsewhere: what is in no bin, or in the other one, can't be taken out of this one. Infinite if it is out of play.
    """
    if target["cube"] not in positions:
        return math.inf
    place = positions[target["cube"]]
    if bin_at(place) != target["bin"]:
        return 0.0
    return CUBE + BIN_HALF - max(abs(at - of) for at, of in zip(place, BINS[target["bin"]], strict=True))


_VERBS = ("put", "place", "drop", "lay", "move", "bring", "set")
_HELD_OUT_VERBS = ("carry", "deposit")
_OUT_VERBS = ("take", "lift", "pick", "get", "move", "bring")
_HELD_OUT_OUT_VERBS = ("fetch", "remove")
_NAMED = {"bin": tuple(BINS)}

_INTO = Grammar(
    verbs=_VERBS,
    templates=(
        "{verb} the {cube} into the {bin} bin",
        "{verb} the {cube} in the {bin} bin",
        "{verb} the {cube} inside the {bin} bin",
        "{verb} the {cube} into the bin on the {bin}",
        "{verb} the {cube} over into the {bin} bin",
        "please {verb} the {cube} into the {bin} bin",
        "pick up the {cube} and {verb} it into the {bin} bin",
        "{verb} {cube} into {bin} bin",
    ),
    held_out_verbs=_HELD_OUT_VERBS,
    held_out_templates=(
        "could you {verb} the {cube} into the {bin} bin",
        "the {cube} belongs in the {bin} bin, {verb} it there",
        "{verb} the {cube} so that it lies in the {bin} bin",
    ),
    named=_NAMED,
)

_OUT = Grammar(
    verbs=_OUT_VERBS,
    templates=(
        "{verb} the {cube} out of the {bin} bin",
        "{verb} the {cube} out of the bin on the {bin}",
        "{verb} the {cube} out of the {bin} bin again",
        "{verb} the {cube} out of the {bin} bin onto the table",
        "{verb} the {cube} out of the {bin} bin and put it in the middle",
        "please {verb} the {cube} out of the {bin} bin",
        "{verb} {cube} out of {bin} bin",
    ),
    held_out_verbs=_HELD_OUT_OUT_VERBS,
    held_out_templates=(
        "could you {verb} the {cube} out of the {bin} bin",
        "the {cube} should not lie in the {bin} bin, {verb} it out",
        "{verb} the {cube} out so that the {bin} bin is without it",
    ),
    named=_NAMED,
)


def _spec(body: Embodiment, make: str, prefix: str, by: str) -> WorldSpec:
    def family(name: str, title: str, does: str, grammar: Grammar, missing: Callable[..., float]) -> TaskFamily:
        return TaskFamily(prefix + name, title + by, body.name, body.name, TIME_LIMIT_STEPS, does, grammar, missing)

    seen = " The policy is given two cameras' pictures instead of where the cubes lie." if by else ""
    return WorldSpec(
        body,
        (
            family(
                "so101_pick",
                "Pick into a bin",
                f"Grasp a cube and put it into one of two bins, as the words say.{seen}",
                _INTO,
                missing_into,
            ),
            family(
                "so101_take_out",
                "Take out of a bin",
                f"Take a cube out of a bin and lay it on the free table, as the words say.{seen}",
                _OUT,
                missing_out,
            ),
        ),
        make=on_demand(f"{__name__}.physics:{make}"),
        demonstrate=on_demand(f"{__name__}.demonstrator:demonstrate"),
        # A reset leaves a cube in a bin at least, and each of a row of demonstrations of one family takes one out.
        episodes_between_resets=1,
    )


WORLDS = (
    _spec(SO101_PICK, "So101Pick", "", ""),
    _spec(SO101_PICK_CAMERAS, "cameras", "camera_", ", by cameras"),
)

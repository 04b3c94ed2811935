"""Gripper table: a gripper over a table takes a puck and brings it to a goal, and back again.

As small as off-policy methods need them: seven numbers are observed, an action is three. `gripper_pocket` has walls
round its goal, which a puck leaves only in a gripper's hold. What is done can be undone: a method without resets has
two instructions to choose from, to place and to bring back.

In `gripper_hidden` the goal is not observed: there are many, an instruction names one by its number, and what that
means only demonstrations tell.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from robots.embodiments import (
    ENVIRONMENT_STATE,
    STATE,
    Camera,
    DriveAxis,
    Embodiment,
    Motion,
    ObjectKind,
    vector,
)
from robots.tasks import Grammar, TaskFamily
from robots.worlds import WorldSpec, on_demand

HALF_TABLE = 0.5  # metres from the middle to a wall
LONGEST_STEP = 0.04  # metres of the gripper along an axis, in one step
REACH = 0.05  # metres from the puck within which closing fingers take it
PLACED = 0.04  # metres between the middles of puck and goal
HOME, HOME_RADIUS = (-0.25, 0.0), 0.12  # metres: where a puck is brought back to
TIME_LIMIT_STEPS, POCKET_TIME_LIMIT_STEPS = 80, 100

# From straight above the middle
CAMERA_HEIGHT, CAMERA_FOVY = 1.6, 40.0  # metres, degrees
VIEW_HALF = CAMERA_HEIGHT * math.tan(math.radians(CAMERA_FOVY / 2))  # metres that its picture shows up and down
VIEW = Camera("front", 320, 240, plane=(0.5 / (VIEW_HALF * 4 / 3), 0.0, 0.5, 0.0, -0.5 / VIEW_HALF, 0.5, 0.0, 0.0, 1.0))

GRIPPER_TABLE = Embodiment(
    name="gripper_table",
    fps=10.0,
    observation={
        STATE: vector(("ee_x", "ee_y", "held"), (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), ("m", "m", "")),
        ENVIRONMENT_STATE: vector(("puck.x", "puck.y", "goal.x", "goal.y"), (-0.5,) * 4, (0.5,) * 4, ("m",) * 4),
    },
    action=vector(
        ("delta_x", "delta_y", "grip"),
        (-LONGEST_STEP, -LONGEST_STEP, -1.0),
        (LONGEST_STEP, LONGEST_STEP, 1.0),
        ("m", "m", ""),
    ),
    motions=(*(Motion("delta", largest_change=LONGEST_STEP),) * 2, Motion("effort")),
    drive=(DriveAxis("x", "delta_x"), DriveAxis("y", "delta_y"), DriveAxis("gripper", "grip")),
    objects=(ObjectKind("puck", "red", "puck"), ObjectKind("goal", "green", "disc")),
    views=(VIEW,),
)
GRIPPER_POCKET = replace(GRIPPER_TABLE, name="gripper_pocket")

# Of hidden goals
HIDDEN_PLACED = 0.06  # metres between puck and goal: what was only shown can't be met as exactly as what is seen
FARTHEST_GOAL = 0.42  # metres from the middle along an axis
CENTRE = 0.12  # metres from the middle along both axes, within which no goal lies
INNER = 0.27  # metres, beyond which two quarters of the table have new goals alone
RIM = 0.34  # metres from the middle along an axis, of these
USEFUL = 0.15  # metres: a puck that was moved farther than that was moved on purpose, whatever for

GRIPPER_HIDDEN = replace(
    GRIPPER_TABLE,
    name="gripper_hidden",
    observation={
        STATE: GRIPPER_TABLE.observation[STATE],
        ENVIRONMENT_STATE: vector(("puck.x", "puck.y"), (-0.5,) * 2, (0.5,) * 2, ("m",) * 2),
    },
    objects=GRIPPER_TABLE.objects[:1],
)


def _hidden_goals() -> dict[str, tuple[float, float]]:
    """Where each goal lies, in metres, by its number. 30 to be learned from, spread evenly (Roberts' R2 sequence) over
    the quarters on the right above and on the left below, and over the inner part of the others; then 12 near the rim
    of those others.
    """
    goals, number = list[tuple[float, float]](), 0
    while len(goals) < 30:
        number += 1
        x, y = (FARTHEST_GOAL * (2 * (number * step % 1) - 1) for step in (0.7548776662, 0.5698402910))
        far = max(abs(x), abs(y))
        if far > CENTRE and (x * y > 0 or far < INNER):
            goals.append((x, y))
    for other in (0.06, 0.14, 0.22):
        goals += [(-RIM, other), (-other, RIM), (RIM, -other), (other, -RIM)]
    return {str(number): (round(x, 3), round(y, 3)) for number, (x, y) in enumerate(goals, 1)}


HIDDEN_GOALS = _hidden_goals()
KNOWN_GOALS, NEW_GOALS = tuple(HIDDEN_GOALS)[:30], tuple(HIDDEN_GOALS)[30:]

VERBS, HELD_OUT_VERBS = ("bring", "carry", "move", "take"), ("transport",)


def _families(world: str) -> tuple[TaskFamily, ...]:
    """To place, and to undo it."""
    suffix = world.removeprefix("gripper_table")
    prefix = f"{suffix.removeprefix('gripper_')}_" if suffix else ""
    limit = POCKET_TIME_LIMIT_STEPS if prefix else TIME_LIMIT_STEPS
    family = partial(TaskFamily, embodiment=world, world=world, time_limit_steps=limit)
    title = "Pocket: " if prefix else ""
    return (
        family(
            name=f"{prefix}place",
            title=f"{title}Place",
            description="Take the puck and bring it to the goal.",
            moves=lambda target: ("puck", "goal"),
            grammar=Grammar(
                verbs=VERBS,
                templates=(
                    "{verb} the puck to the goal",
                    "{verb} it to the goal",
                    "please {verb} the puck to the goal",
                ),
                held_out_verbs=HELD_OUT_VERBS,
                held_out_templates=("the goal is where you should {verb} the puck",),
            ),
        ),
        family(
            name=f"{prefix}bring_back",
            title=f"{title}Bring back",
            description="Take the puck and bring it back to where it comes from.",
            moves=lambda target: ("puck", HOME),
            grammar=Grammar(
                verbs=VERBS,
                templates=("{verb} the puck back", "{verb} it back home", "please {verb} the puck back"),
                held_out_verbs=HELD_OUT_VERBS,
                held_out_templates=("home is where you should {verb} the puck",),
            ),
        ),
    )


def _missing(target: Mapping[str, str], objects: Mapping[str, tuple[float, float]]) -> float:
    """Metres by which the puck still misses the goal that is named."""
    return math.dist(objects["puck"], HIDDEN_GOALS[target["goal"]]) - HIDDEN_PLACED


def _hidden_family(name: str, title: str, description: str, goals: tuple[str, ...]) -> TaskFamily:
    return TaskFamily(
        name=name,
        title=title,
        embodiment=GRIPPER_HIDDEN.name,
        world=GRIPPER_HIDDEN.name,
        time_limit_steps=TIME_LIMIT_STEPS,
        description=description,
        grammar=Grammar(verbs=("place",), templates=("{verb} the puck as in task {goal}",), named={"goal": goals}),
        missing=_missing,
        reset_each_attempt=True,
    )


WORLDS = (
    *(
        WorldSpec(
            body,
            _families(body.name),
            make=on_demand(f"{__name__}.physics:GripperTable", body, pocket),
            demonstrate=on_demand(f"{__name__}.demonstrator:demonstrate"),
        )
        for body, pocket in ((GRIPPER_TABLE, False), (GRIPPER_POCKET, True))
    ),
    WorldSpec(
        GRIPPER_HIDDEN,
        (
            _hidden_family(
                "hidden_place", "Place, unseen goals", "Bring the puck to where this task's goal is.", KNOWN_GOALS
            ),
            _hidden_family(
                "hidden_place_new",
                "Place, new unseen goals",
                "Bring the puck to where this task's goal is, in a part of the table that no other task has.",
                NEW_GOALS,
            ),
        ),
        make=on_demand(f"{__name__}.physics:GripperHidden"),
        demonstrate=on_demand(f"{__name__}.demonstrator:demonstrate"),
    ),
)

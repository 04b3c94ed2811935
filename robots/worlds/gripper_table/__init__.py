"""Gripper table: a gripper over a table takes a puck and brings it to a goal, and back again.

Two worlds, as small as off-policy methods need them: seven numbers are observed, an action is three. `gripper_pocket`
has walls round its goal, which a puck leaves only in a gripper's hold. What is done can be undone: a method without
resets has two instructions to choose from, to place and to bring back.
"""

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
TIME_LIMIT_STEPS = 80

GRIPPER_TABLE = Embodiment(
    name="gripper_table",
    fps=10.0,
    observation={
        STATE: vector(("gripper_x", "gripper_y", "held"), (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), ("m", "m", "")),
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
    views=(Camera("front", 320, 240),),
)
GRIPPER_POCKET = replace(GRIPPER_TABLE, name="gripper_pocket")

VERBS, HELD_OUT_VERBS = ("bring", "carry", "move", "take"), ("transport",)


def _families(world: str) -> tuple[TaskFamily, ...]:
    """To place, and to undo it."""
    suffix = world.removeprefix("gripper_table")
    prefix = f"{suffix.removeprefix('gripper_')}_" if suffix else ""
    family = partial(TaskFamily, embodiment=world, world=world, time_limit_steps=TIME_LIMIT_STEPS)
    title = "Pocket: " if prefix else ""
    return (
        family(
            name=f"{prefix}place",
            title=f"{title}Place",
            description="Take the puck and bring it to the goal.",
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
            grammar=Grammar(
                verbs=VERBS,
                templates=("{verb} the puck back", "{verb} it back home", "please {verb} the puck back"),
                held_out_verbs=HELD_OUT_VERBS,
                held_out_templates=("home is where you should {verb} the puck",),
            ),
        ),
    )


WORLDS = tuple(
    WorldSpec(
        body,
        _families(body.name),
        make=on_demand(f"{__name__}.physics:GripperTable", body, pocket),
        demonstrate=on_demand(f"{__name__}.demonstrator:demonstrate"),
    )
    for body, pocket in ((GRIPPER_TABLE, False), (GRIPPER_POCKET, True))
)

"""Push effects: a block on a table and a pusher. What does a push do?

One action is one whole push, told as the block sees it: from which side, how far beside its middle, how far. What it
did is the block's pose before and after. Nothing is to be reached here; what is learned is the effect. On one side
something kicks the block after each push, by chance alone, so that there are pushes from which nothing is learned.
"""

import math

from robots.embodiments import ENVIRONMENT_STATE, STATE, Camera, DriveAxis, Embodiment, Motion, ObjectKind, vector
from robots.tasks import Grammar, TaskFamily
from robots.worlds import WorldSpec, on_demand

HALF_TABLE = 0.3  # metres from the middle to an edge
HALF_BLOCK = (0.035, 0.02, 0.015)  # metres along its own axes
LARGEST_OFFSET = 0.08  # metres of a push's line beside the block's middle: beyond half of it most pushes miss
LENGTHS = (0.02, 0.10)  # metres that the pusher goes
KICKED = (0.0, math.pi / 2)  # radians: the directions of a push after which the block is kicked
KICK = 0.02  # metres that a kick moves the block
MOVED = 0.01  # metres: a push that moved the block less did not find it

PUSH_EFFECTS = Embodiment(
    name="push_effects",
    fps=1.0,
    observation={
        STATE: vector(("pusher_x", "pusher_y"), (-0.45,) * 2, (0.45,) * 2, ("m", "m")),
        ENVIRONMENT_STATE: vector(
            ("block.x", "block.y", "block.cos", "block.sin"),
            (-0.45, -0.45, -1, -1),
            (0.45, 0.45, 1, 1),
            ("m", "m", "", ""),
        ),
    },
    action=vector(
        ("direction", "offset", "length"),
        (-math.pi, -LARGEST_OFFSET, LENGTHS[0]),
        (math.pi, LARGEST_OFFSET, LENGTHS[1]),
        ("rad", "m", "m"),
    ),
    motions=(Motion("effort"),) * 3,
    drive=(DriveAxis("direction", "direction"), DriveAxis("offset", "offset"), DriveAxis("length", "length")),
    objects=(ObjectKind("block", "blue", "block"),),
    views=(Camera("front", 320, 240),),
)

TASK = TaskFamily(
    name="push_effects",
    title="Push effects",
    embodiment=PUSH_EFFECTS.name,
    world=PUSH_EFFECTS.name,
    time_limit_steps=1,
    description="Push the block once, from somewhere, and see what comes of it.",
    grammar=Grammar(
        verbs=("push", "shove", "nudge", "knock"),
        templates=("{verb} the block", "{verb} it once", "please {verb} the block"),
        held_out_verbs=("poke",),
        held_out_templates=("the block is what you should {verb}",),
    ),
    reset_each_attempt=True,
)

WORLDS = (
    WorldSpec(
        PUSH_EFFECTS,
        (TASK,),
        make=on_demand(f"{__name__}.physics:PushEffects"),
        demonstrate=on_demand(f"{__name__}.demonstrator:demonstrate"),
    ),
)

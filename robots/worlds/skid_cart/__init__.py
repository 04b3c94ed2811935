"""Skid cart: a cart with two driven sides goes round a closed course of way points, and its drive may change under it.

What changes are the gains of the drive: they multiply what is commanded and are nowhere in the observation. A model of
the cart that was learned before is wrong from then on.
"""

import math

from robots.embodiments import ENVIRONMENT_STATE, STATE, Camera, DriveAxis, Embodiment, Motion, vector
from robots.tasks import Grammar, TaskFamily
from robots.worlds import WorldSpec, on_demand

FPS = 5.0
FASTEST, FASTEST_TURN = 1.0, math.pi / 2  # m/s and rad/s that may be commanded
WAY_POINTS = 20
TIME_LIMIT_STEPS = 300

# The drive's gains along and about the cart that may come during an attempt. All but the last three have amounts from
# 0.5 to 2; they are those of the code of Action Flow Matching (arXiv 2504.18471).
USUAL_GAINS = ((-1.0, 2.0), (1.0, -1.0), (1.0, -0.5), (-1.0, 1.0), (-0.5, 1.0), (2.0, 2.0), (-1.0, -1.0), (-0.5, 0.5))
UNUSUAL_GAINS = ((-2.5, 1.0), (2.5, 0.05), (0.1, -1.5))

SKID_CART = Embodiment(
    name="skid_cart",
    fps=FPS,
    observation={
        STATE: vector(("x", "y", "yaw"), units=("m", "m", "rad")),
        ENVIRONMENT_STATE: vector(("next_x", "next_y", "reached"), units=("m", "m", "")),
    },
    action=vector(("forward", "turn"), (-FASTEST, -FASTEST_TURN), (FASTEST, FASTEST_TURN), ("m/s", "rad/s")),
    motions=(Motion("velocity", FASTEST / FPS), Motion("velocity", FASTEST_TURN / FPS)),
    drive=(DriveAxis("x", "forward"), DriveAxis("yaw", "turn")),
    views=(Camera("front", 320, 240),),
)

TASK = TaskFamily(
    name="drive_course",
    title="Drive the course",
    embodiment="skid_cart",
    world="skid_cart",
    time_limit_steps=TIME_LIMIT_STEPS,
    description="Drive round a closed course, past all its way points in their order.",
    grammar=Grammar(
        verbs=("drive", "go", "travel", "roll"),
        templates=("{verb} round the course", "{verb} past all way points", "please {verb} round the course"),
        held_out_verbs=("cruise",),
        held_out_templates=("the course is what you should {verb} round",),
    ),
    reset_each_attempt=True,
)

WORLDS = (
    WorldSpec(
        SKID_CART,
        (TASK,),
        make=on_demand(f"{__name__}.physics:SkidCart"),
        demonstrate=on_demand(f"{__name__}.demonstrator:demonstrate"),
    ),
)

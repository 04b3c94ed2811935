"""Planar pusher: a finger, a puck and four walls. What the finger does to the puck is to be found out by pushing it.

The puck is hit by chance now and then only, so what was seen of pushing is what exploring went for.
"""

from robots.embodiments import ENVIRONMENT_STATE, STATE, Camera, DriveAxis, Embodiment, Motion, ObjectKind, vector
from robots.tasks import Grammar, TaskFamily
from robots.worlds import WorldSpec, on_demand

FPS = 10.0
HALF_TABLE = 0.5  # metres from the middle to a wall
FASTEST = 0.8  # m/s of the finger along an axis
TIME_LIMIT_STEPS = 60
# Of each task: along which number of the observation the puck shall go, and how far, in metres
AIMS = {"push_right": ("puck.x", 0.3), "push_up": ("puck.y", 0.3)}

PLANAR_PUSHER = Embodiment(
    name="planar_pusher",
    fps=FPS,
    observation={
        STATE: vector(
            ("finger_x", "finger_y", "velocity_x", "velocity_y"),
            (-HALF_TABLE, -HALF_TABLE, -2.0, -2.0),
            (HALF_TABLE, HALF_TABLE, 2.0, 2.0),
            ("m", "m", "m/s", "m/s"),
        ),
        ENVIRONMENT_STATE: vector(
            ("puck.x", "puck.y", "puck.velocity_x", "puck.velocity_y"),
            (-HALF_TABLE, -HALF_TABLE, -2.0, -2.0),
            (HALF_TABLE, HALF_TABLE, 2.0, 2.0),
            ("m", "m", "m/s", "m/s"),
        ),
    },
    action=vector(("speed_x", "speed_y"), (-FASTEST, -FASTEST), (FASTEST, FASTEST), ("m/s", "m/s")),
    motions=(Motion("velocity", FASTEST / FPS),) * 2,
    drive=(DriveAxis("x", "speed_x"), DriveAxis("y", "speed_y")),
    objects=(ObjectKind("puck", "red", "puck"),),
    views=(Camera("front", 320, 240),),
)


def _family(name: str, title: str, side: str) -> TaskFamily:
    return TaskFamily(
        name=name,
        title=title,
        embodiment="planar_pusher",
        world="planar_pusher",
        time_limit_steps=TIME_LIMIT_STEPS,
        description=f"Push the puck to the {side} side of the table.",
        grammar=Grammar(
            verbs=("push", "move", "shove", "slide"),
            templates=(f"{{verb}} the puck to the {side}", f"{{verb}} it to the {side} side"),
            held_out_verbs=("drive",),
            held_out_templates=(f"the {side} is where you should {{verb}} the puck",),
        ),
        aim=AIMS[name][0],
        reset_each_attempt=True,
    )


WORLDS = (
    WorldSpec(
        PLANAR_PUSHER,
        (_family("push_right", "Push right", "right"), _family("push_up", "Push up", "top")),
        make=on_demand(f"{__name__}.physics:PlanarPusher"),
        demonstrate=on_demand(f"{__name__}.demonstrator:demonstrate"),
    ),
)

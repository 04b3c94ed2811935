"""Point mass: a point on a plane, pushed by two forces to a goal. The smallest world in which practice is watched."""

from robots.embodiments import STATE, Camera, DriveAxis, Embodiment, Motion, vector
from robots.tasks import Grammar, TaskFamily
from robots.worlds import WorldSpec, on_demand

POINT_MASS = Embodiment(
    name="point_mass",
    fps=10.0,
    observation={STATE: vector(("x", "y", "velocity_x", "velocity_y", "to_goal_x", "to_goal_y"))},
    action=vector(("force_x", "force_y"), (-1.0, -1.0), (1.0, 1.0), ("N", "N")),
    motions=(Motion("effort"),) * 2,
    drive=(DriveAxis("x", "force_x"), DriveAxis("y", "force_y")),
    views=(Camera("front", 320, 240),),
)

TASK = TaskFamily(
    name="point_mass",
    title="Point mass",
    embodiment="point_mass",
    world="point_mass",
    time_limit_steps=100,
    description="Bring a point on a plane to its goal by forces.",
    grammar=Grammar(
        verbs=("go", "move", "fly", "glide"),
        templates=("{verb} to the goal", "{verb} to the target", "please {verb} to the goal"),
        held_out_verbs=("travel",),
        held_out_templates=("the goal is where you should {verb}",),
    ),
    reset_each_attempt=True,
)

WORLDS = (
    WorldSpec(
        POINT_MASS,
        (TASK,),
        make=on_demand(f"{__name__}.physics:PointMass"),
        demonstrate=on_demand(f"{__name__}.demonstrator:demonstrate_detours"),
    ),
)

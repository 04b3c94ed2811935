"""Point mass: a point on a plane, pushed by two forces to a goal. The smallest world in which practice is watched."""

from robots.embodiments import Camera, Embodiment, Motion
from robots.tasks import Grammar, TaskFamily
from robots.worlds import WorldSpec, on_demand

POINT_MASS = Embodiment(
    name="point_mass",
    control_hz=10.0,
    body=("x", "y", "velocity_x", "velocity_y", "to_goal_x", "to_goal_y"),
    objects=(),
    object_features=(),
    action_names=("force_x", "force_y"),
    action_limit=(1.0, 1.0),
    cameras=(Camera("front", 320, 240),),
    motions=(Motion("effort", -1.0, 1.0),) * 2,
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

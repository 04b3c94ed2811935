"""A short task for benchmarks of seeing: the arm of so101-pick touches the one cube that lies on its table.

It is told its joints and sees the table by the front camera alone, in a picture of 64 x 64 pixels in which a cube is
three pixels wide. The demonstrator goes straight to the cube and holds the gripper as it is, so that what there is to
learn is where the cube lies, and little else. An attempt takes about 8 steps.
"""

import math
from dataclasses import replace

import numpy as np

from robots.demonstrators import recorded
from robots.embodiments import IMAGES, STATE, Observation, picture
from robots.episodes import Episode
from robots.tasks import Grammar, Instruction, TaskFamily
from robots.worlds import WORLDS, WorldSpec, register
from robots.worlds.so101_pick import LARGEST_MOVE, SO101_PICK
from robots.worlds.so101_pick.physics import So101Pick

SIDE = 64  # pixels
NEAR = 0.03  # metres from the middle between the jaws' tips to a cube's: it is touched
ABOVE = 0.01  # metres above a cube's middle, where a demonstration goes to
SPEED = (0.02, 0.028)  # metres a step, drawn for each demonstration
TREMBLE = 0.002  # metres a step, standard deviation along each axis
OPENING = 60.0  # per cent of the gripper
LIMIT = 20  # steps

BODY = replace(
    SO101_PICK,
    name="so101_touch",
    observation={STATE: SO101_PICK.observation[STATE], IMAGES + "front": picture(SIDE, SIDE)},
)
TASK = TaskFamily(
    name="so101_touch",
    title="Touch a cube",
    embodiment=BODY.name,
    world=BODY.name,
    time_limit_steps=LIMIT,
    description="Touch the cube that the front camera shows.",
    grammar=Grammar(
        verbs=("touch", "reach", "approach", "grip"),
        templates=("{verb} the {cube}", "{verb} {cube}", "please {verb} the {cube}"),
        held_out_verbs=("seek",),
        held_out_templates=("could you {verb} the {cube}",),
    ),
)


class Touching(So101Pick):
    """The table of so101-pick, with another aim."""

    def __init__(self, seed: int):
        super().__init__(seed, BODY)

    def reset(self, rng: np.random.Generator) -> Observation:
        """As there, and of the cubes one is left: it is not colours that are compared."""
        super().reset(rng)
        left = self.names[rng.integers(len(self.names))]
        for pose, name in zip(self._poses, self.names, strict=True):
            if name != left:
                pose[0] = 1.0  # metres, beyond the table's edge
        self._park()
        self._settle()
        return self.observation()

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        """Only if the one that is left is gone too."""
        return super().needs_reset(1)

    def true_success(self, instruction: Instruction) -> bool:
        """The jaws are at the named cube."""
        layout = self.layout()
        cube = layout.cubes.get(instruction.target["cube"])
        return cube is not None and math.dist(layout.hand[:3], cube[:3]) < NEAR


def demonstrate(
    world: Touching, instruction: Instruction, rng: np.random.Generator, seed: int | None = None
) -> Episode:
    """Straight to the cube, not quite steadily."""
    speed = rng.uniform(*SPEED)
    observations, actions = [world.observation()], list[np.ndarray]()
    while len(actions) < LIMIT and not world.true_success(instruction):
        layout = world.layout()
        x, y, z, _ = layout.cubes[instruction.target["cube"]]
        way = np.array([x, y, z + ABOVE]) - layout.hand[:3]
        move = way * min(1.0, speed / max(float(np.linalg.norm(way)), 1e-9)) + rng.normal(0, TREMBLE, 3)
        actions.append(np.array([*move.clip(-LARGEST_MOVE, LARGEST_MOVE), 0.0, OPENING], np.float32))
        observations.append(world.step(actions[-1]))
    success = world.true_success(instruction)
    return recorded(world, instruction, observations, actions, success, "time_limit", rng, seed)


def ready() -> str:
    """The task's name; its world is there from now on."""
    if BODY.name not in WORLDS:
        register(WorldSpec(BODY, (TASK,), make=Touching, demonstrate=demonstrate, episodes_between_resets=1))
    return TASK.name

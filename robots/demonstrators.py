"""Scripted demonstrations: where the first data of the loop comes from.

How a world is demonstrated is in its folder (robots/worlds/); here is what all scripts have in common.
"""

import uuid
from collections.abc import Callable, Sequence

import numpy as np

from robots.embodiments import Observation
from robots.episodes import ACTORS, Episode, stacked
from robots.tasks import Instruction, TaskFamily, get_task
from robots.worlds import WORLDS, World, make_world


class DemonstrationError(ValueError):
    """Demonstrations that cannot be made; the message says why."""


def recorded(
    world: World,
    instruction: Instruction,
    observations: Sequence[Observation],
    actions: Sequence[np.ndarray],
    success: bool,
    ending: str,
    rng: np.random.Generator,
    seed: int | None,
) -> Episode:
    """One attempt of a script as an episode: T + 1 observations, T actions [A]; `ending` is for a failed one."""
    count = len(actions)
    return Episode(
        uuid=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        embodiment=world.embodiment.name,
        body=world.embodiment,
        task=instruction.family,
        instruction=instruction.text,
        observations=stacked(observations),
        actions=np.array(actions, np.float32),
        actors=np.full(count, ACTORS.index("script"), np.uint8),
        steps_to_go=np.full(count + 1, np.nan, np.float32),
        ending="true_success" if success else ending,
        detected_success=False,
        true_success=success,
        purpose="demonstration",
        seed=seed,
        fps=world.embodiment.fps,
    )


def _script_of(family: TaskFamily) -> Callable[..., Episode]:
    """What demonstrates in the family's world."""
    script = WORLDS[family.world].demonstrate if family.world in WORLDS else None
    if script is None:
        raise DemonstrationError(
            f"There is no scripted demonstrator for {family.name}; record a person's demonstrations "
            "by overriding a station, or upload a dataset."
        )
    return script


def collect_demonstrations(
    task_names: Sequence[str], episodes: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> list[Episode]:
    """So many successful demonstrations, the families taking turns; a failed attempt is thrown away, as a person would.

    The same arguments give the same episodes.
    """
    families = [get_task(name) for name in task_names]
    if not families:
        raise DemonstrationError("Name at least one task to demonstrate.")
    for family in families:
        demonstrate = _script_of(family)
        if family.world != families[0].world:
            raise DemonstrationError(
                f"{families[0].name} and {family.name} live in different worlds; demonstrate them one by one."
            )
    if episodes < 1:
        raise DemonstrationError(f"{episodes} demonstrations were asked for; ask for 1 or more.")
    rng = np.random.default_rng(seed)
    spec, world = WORLDS[families[0].world], make_world(families[0].world, seed)
    collected: list[Episode] = []
    since_reset = 0
    while len(collected) < episodes:
        if since_reset == spec.episodes_between_resets or world.needs_reset():
            world.reset(rng)
            since_reset = 0
        since_reset += 1
        family = families[len(collected) % len(families)]
        instruction = family.sample(rng, world.objects_in_play())
        episode = demonstrate(world, instruction, rng, seed)
        if episode.true_success:
            collected.append(episode)
            if progress is not None:
                progress(len(collected), episodes)
    return collected

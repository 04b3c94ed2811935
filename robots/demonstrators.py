"""Scripted demonstrations: where the first data of the loop comes from.

How a world is demonstrated is in its folder (robots/worlds/); here is what all scripts have in common.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any, Self, cast

import numpy as np

from robots.actions import Actions
from robots.driver import DriverError, guarded
from robots.embodiments import Observation
from robots.episodes import ACTORS, Episode, stacked
from robots.tasks import Instruction, TaskFamily, get_task
from robots.worlds import WORLDS, World, WorldError, checked, draw, make_world

STEPS_AFTER_SUCCESS = 2  # a person sees a success a moment late
MOST_FAILURES = 100  # attempts in a row, after which nobody waits for a script any longer


Script = Callable[[Any, Any], Any]  # (environment, observation) -> action [A]


class DemonstrationError(ValueError):
    """Demonstrations that cannot be made; the message says why."""


def drawn(how: str, *given: Any) -> Any:
    """A habit: each episode draws it anew by that method of its generator, "uniform" from 0.1 to 0.2, say."""
    return field(metadata={"drawn": (how, given)})


@dataclass(frozen=True)
class PersonsHabits:
    """How one episode is acted; a script's own habits are its fields, in the order in which they are drawn."""

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Those of another person, or of the same one on another day."""
        habits = {each.name: each.metadata["drawn"] for each in fields(cls)}
        return cls(**{name: getattr(rng, how)(*given) for name, (how, given) in habits.items()})


def wavered(waver: Sequence[float], tremble: float, noise: Sequence[float]) -> tuple[float, ...]:
    """How far a hand is beside where it is meant to be, one step later: `tremble` is the standard deviation of its slow
    wavering, `noise` is of deviation 1.
    """
    return tuple(0.8 * old + 0.6 * tremble * new for old, new in zip(waver, noise, strict=True))


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


def demonstrate_by(
    name: str,
    package: str,
    world: World,
    instruction: Instruction,
    rng: np.random.Generator,
    seed: int | None = None,
) -> Episode:
    """One attempt by the scripted policy that "package.module:attribute" names; `package` brings it, if any does.

    It is a function (env, observation) -> action [A], or a class with reset() and act(env, observation) -> action.
    Of a Gymnasium environment it gets the environment and its own observation, of any other world the world and what it
    observes. The attempt ends a moment after success, at the time limit or where the world needs a reset.
    DemonstrationError with one sentence, whatever goes wrong in it.
    """
    try:
        return _attempt_by(guarded("importing it", _script_at, name), world, instruction, rng, seed)
    except (DriverError, WorldError) as error:
        of = f" of the package {package}" if package else ""
        raise DemonstrationError(f"The demonstrator {name}{of}: {str(error).rstrip('.')}.") from error


def _script_at(name: str) -> Script:
    """The function, or a new object's act, which has been reset."""
    module, _, attribute = name.partition(":")
    script = getattr(import_module(module), attribute)
    if not hasattr(script, "act"):
        return cast(Script, script)
    script = script() if isinstance(script, type) else script
    script.reset()
    return cast(Script, script.act)


def _attempt_by(
    act: Script, world: World, instruction: Instruction, rng: np.random.Generator, seed: int | None
) -> Episode:
    actions, limit = Actions(world.embodiment), get_task(instruction.family).time_limit_steps
    observations, done = [world.observation()], list[np.ndarray]()
    reached, ending = 0, "time_limit"  # the step of the first success
    while len(done) < limit and not (reached and len(done) >= reached + STEPS_AFTER_SUCCESS):
        if world.needs_reset():
            ending = "needs_reset"
            break
        view = getattr(world, "script_view", None)
        answer = guarded("acting", act, *(view() if view is not None else (world, observations[-1])))
        action = checked("action", answer, world.embodiment.action_size)
        # What a station would let it do: that is what can be learned from.
        done.append(actions.bounded(action, observations[-1]))
        observations.append(guarded("a step", world.step, done[-1]))
        if not reached and world.true_success(instruction):
            reached = len(done)
    return recorded(world, instruction, observations, done, reached > 0, ending, rng, seed)


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
        _script_of(family)
        if family.world != families[0].world:
            raise DemonstrationError(
                f"{families[0].name} and {family.name} live in different worlds; demonstrate them one by one."
            )
    if episodes < 1:
        raise DemonstrationError(f"{episodes} demonstrations were asked for; ask for 1 or more.")
    rng = np.random.default_rng(seed)
    spec, world = WORLDS[families[0].world], make_world(families[0].world, seed)
    collected: list[Episode] = []
    since_reset = failures = 0
    try:
        while len(collected) < episodes:
            if since_reset == spec.episodes_between_resets or world.needs_reset():
                world.reset(rng)
                since_reset = 0
            since_reset += 1
            family = families[len(collected) % len(families)]
            episode = _script_of(family)(world, draw(family, world, rng), rng, seed)
            failures = 0 if episode.true_success else failures + 1
            if episode.true_success:
                collected.append(episode)
                if progress is not None:
                    progress(len(collected), episodes)
            elif failures == MOST_FAILURES:
                raise DemonstrationError(
                    f"The demonstrator of {family.name} failed {failures} times in a row; mend it or its task."
                )
    finally:
        world.close()
    return collected

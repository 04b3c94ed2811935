"""The worlds that stations live in. A world resets, steps, renders, and alone knows true success.

A built-in world is a folder in here, and nothing else. Its __init__.py says what everybody may know without a simulator
(the web server reads bodies and tasks, too) and lists it in WORLDS; where its physics, its demonstrator and its batch
are, it says by name, and `on_demand` imports them when they are first used. find_worlds() finds the folders, as soon as
robots is imported.
"""

import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from robots.embodiments import EMBODIMENTS, Embodiment, Observation
from robots.tasks import TASKS, Instruction, TaskFamily


class World(Protocol):
    """One world, as the driver of a station uses it."""

    @property
    def embodiment(self) -> Embodiment:
        """The body that acts in it."""

    @property
    def resets_itself(self) -> bool:
        """Whether reset() puts everything right without a person; a world that doesn't say so needs one."""

    @property
    def renderer(self) -> str:
        """What draws it: "egl", "osmesa", "cgl" (macOS), or "drawn": a top view, for want of an OpenGL library. Of an
        environment without a MuJoCo model: "environment", its own way, or "card": nothing is to be seen.
        """

    def reset(self, rng: np.random.Generator) -> Observation:
        """Scatter everything; returns the observation: an array for each of the body's features, by key."""

    def step(self, action: np.ndarray) -> Observation:
        """One control step; returns the observation."""

    def observation(self) -> Observation:
        """What is sensed now, as reset() returns it."""

    def set_observation(self, observation: Observation) -> None:
        """Put the world in a recorded state, for replay and tests."""

    def true_success(self, instruction: Instruction) -> bool | None:
        """None where nobody knows."""

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        """Empty, or why a person must reset the station, in words. Objects that are out of play are no reason while at
        least `fewest_objects` are left.
        """
        ...

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        """The action, turned aside where it would push an object nearer than `margin` metres to an edge it can fall
        off; a world that cannot tell returns it as it is.
        """
        ...

    def objects_in_play(self) -> Mapping[str, tuple[float, float]]:
        """The objects that an instruction may name, each with where it lies, in metres; empty where there are none.
        By it instructions are drawn, never learned.
        """
        ...

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        """What a camera of the body sees, uint8 [H, W, 3]"""

    def close(self) -> None:
        """Free what it holds; it is not used again."""


class DrivenWorld(World, Protocol):
    """One whose body has drive axes that no single number of its action moves."""

    def driven(self, axes: Mapping[str, float]) -> np.ndarray:
        """The action by which a person moves it; `axes` names each drive axis of the body, from -1 to 1: 0 rests."""
        ...


class SensingWorld(World, Protocol):
    """One with sensors of its own for what became of an attempt, as a lab's cell may have them."""

    def sensed(self, instruction: Instruction) -> Mapping[str, float]:
        """What they tell now, by name. `success`: 1 where what is asked for is done, else 0."""
        ...


class InstructedWorld(World, Protocol):
    """One that says itself what is to be done in it, such as a benchmark whose every reset draws another task."""

    def instruction(self) -> str:
        """What it asks for since the last reset, in words; empty: a wording of the task is drawn."""
        ...


class BatchWorld(Protocol):
    """n worlds of one kind that are stepped together, each to the bit as it would be alone."""

    def world(self, i: int) -> World:
        """One of them; stepping or resetting it moves no other."""
        ...

    def step(self, actions: np.ndarray, active: np.ndarray | None = None) -> Observation:
        """actions [n, A] -> observations, [n, ...] each. With `active` [n] bool the others stand still."""
        ...

    def close(self) -> None:
        """Free what they hold; they are not used again."""


class WorldError(ValueError):
    """A world cannot be made, or was given an action or a state that it cannot take."""


def checked(name: str, value: np.ndarray, size: int) -> np.ndarray:
    """An action or observation from outside as float64 [size], or a sentence about what is wrong with it."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise WorldError(f"The {name} must be {size} numbers.") from None
    if array.shape != (size,):
        raise WorldError(f"The {name} must be {size} numbers, but its shape is {array.shape}.")
    if not all(map(math.isfinite, array.tolist())):  # for two numbers a fraction of numpy's time
        raise WorldError(f"The {name} holds NaN or infinity.")
    return array


def part_of(observation: Observation, key: str) -> np.ndarray:
    """One feature of an observation from elsewhere, or a sentence about what it lacks."""
    if key not in observation:
        raise WorldError(f"The observation holds no {key}.")
    return observation[key]


def draw(family: TaskFamily, world: World, rng: np.random.Generator, held_out: bool = False) -> Instruction:
    """What is to be done in the world as it stands: what it asks for itself, else a wording of the family."""
    ask = getattr(world, "instruction", None)
    return family.sample(rng, world.objects_in_play(), held_out, ask() if ask is not None else "")


def on_demand(name: str, *given: Any) -> Callable[..., Any]:
    """A function that calls what `package.module:name` names, with what is given first, and imports it only then: so a
    declaration costs no simulator.
    """
    module, _, attribute = name.partition(":")

    def call(*arguments: Any) -> Any:
        return getattr(import_module(module), attribute)(*given, *arguments)

    return call


@dataclass(frozen=True)
class WorldSpec:
    """All that there is to know of a world before it is made. It has the name of its body."""

    embodiment: Embodiment
    families: tuple[TaskFamily, ...]
    make: Callable[[int], World]  # seed -> the world, already reset from it
    # (world, instruction, rng, seed) -> Episode: one attempt from where the world stands, which may fail; None: a
    # person has to demonstrate
    demonstrate: Callable[..., Any] | None = None
    episodes_between_resets: int = 1  # of demonstrations
    make_batch: Callable[[int, int], BatchWorld] | None = None  # (n, seed); None: worlds are stepped one by one

    @property
    def name(self) -> str:
        """Its body's name."""
        return self.embodiment.name


WORLDS: dict[str, WorldSpec] = {}


def register(spec: WorldSpec) -> None:
    """Its name, its body and its tasks are known from here on. WorldError, and nothing is changed, if it can't be."""
    if spec.name in WORLDS:
        raise WorldError(f"There is a world {spec.name!r} already; names must differ.")
    for family in spec.families:
        if family.name in TASKS:
            raise WorldError(f"World {spec.name!r}: there is a task {family.name!r} already; names must differ.")
        if (family.world, family.embodiment) != (spec.name, spec.name):
            raise WorldError(f"World {spec.name!r}: its task {family.name!r} must name it as world and as embodiment.")
    WORLDS[spec.name], EMBODIMENTS[spec.name] = spec, spec.embodiment
    TASKS.update((family.name, family) for family in spec.families)


def find_worlds() -> Iterator[WorldSpec]:
    """What the folders in here declare, by the folders' names in order."""
    for found in pkgutil.iter_modules(__path__, f"{__name__}."):
        if found.ispkg:
            yield from import_module(found.name).WORLDS


def make_world(name: str, seed: int) -> World:
    """The world of that name, already reset from the seed."""
    if name not in WORLDS:
        raise WorldError(
            f"There is no world {name!r}; known are {', '.join(sorted(WORLDS))}. "
            "Third-party worlds are described in the file that FLEETUI_WORLDS names."
        )
    return WORLDS[name].make(seed)

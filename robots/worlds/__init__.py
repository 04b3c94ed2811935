"""The worlds that stations live in, one file a world. A world resets, steps, renders, and alone knows true success.

Importing this package loads no simulator; make_world does.
"""

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from robots.embodiments import EMBODIMENTS, THIRD_PARTY_WORLDS, Embodiment
from robots.tasks import Instruction


class World(Protocol):
    embodiment: Embodiment
    resets_itself: bool  # reset() puts everything right without a person; a world that doesn't say so needs one
    renderer: str  # "egl" | "osmesa" | "cgl" (macOS) | "drawn": a drawn top view, for want of an OpenGL library

    def reset(self, rng: np.random.Generator) -> np.ndarray:
        """Scatter everything; returns the observation, float32 [D] or a picture's uint8 [D]."""

    def step(self, action: np.ndarray) -> np.ndarray:
        """One control step; returns the observation."""

    def observation(self) -> np.ndarray: ...

    def set_observation(self, observation: np.ndarray) -> None:
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
        By it instructions are drawn, never learned."""
        ...

    def render(self, width: int, height: int) -> np.ndarray:
        """uint8 [H, W, 3]"""

    def close(self) -> None: ...


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


def make_world(name: str, seed: int) -> World:
    """The world of that name, already reset from the seed."""
    match name:
        case "language_table":
            from robots.worlds.language_table import LanguageTable

            return LanguageTable(seed)
        case "worn_table":
            from robots.worlds.language_table import LanguageTable
            from robots.worlds.worn_table import WORN_TABLE_SETUP

            return LanguageTable(seed, WORN_TABLE_SETUP)
        case "camera_table":
            from robots.worlds.camera_table import CameraTable

            return CameraTable(seed)
        case "banana_table":
            from robots.worlds.banana_table import BANANA_TABLE_SETUP
            from robots.worlds.language_table import LanguageTable

            return LanguageTable(seed, BANANA_TABLE_SETUP)
        case "point_mass":
            from robots.worlds.point_mass import PointMass

            return PointMass(seed)
    if name in THIRD_PARTY_WORLDS:
        from robots.worlds.gymnasium_world import GymnasiumWorld

        return GymnasiumWorld(name, seed)
    raise WorldError(
        f"There is no world {name!r}; known are {', '.join(sorted(EMBODIMENTS))}. "
        "Third-party worlds are described in the file that FLEETUI_WORLDS names."
    )

"""The base of a real robot's driver: what a World says that a robot and its reader need not.

With it a robot is three things: the body that it has (`embodiment`), how its sensors are read (`observation`), and how
an action reaches its motors (`send`). Whatever else it can do it says by the methods of World
(robots/worlds/__init__.py), in place of those here.
"""

import math
import time
from collections.abc import Mapping

import numpy as np

from robots.driver import DriverError
from robots.embodiments import IMAGES, Embodiment, Observation
from robots.tasks import Instruction


class RealRobot:
    """One that sees no objects, knows of no success, is put in order by a person, and may change while it stands."""

    embodiment: Embodiment
    resets_itself = False
    renderer = "camera"
    _due = -math.inf  # when the newest step was over, by time.monotonic()

    def observation(self) -> Observation:
        """What its sensors say now: an array for each of the body's features, by key."""
        raise NotImplementedError(f"{type(self).__name__} has no method observation()")

    def send(self, action: np.ndarray) -> None:
        """Tell its motors what to do [A], and return at once."""
        raise NotImplementedError(f"{type(self).__name__} has no method send(action)")

    def step(self, action: np.ndarray) -> Observation:
        """Send it, and look when the next observation is due."""
        self.send(action)
        now, period = time.monotonic(), 1 / self.embodiment.fps
        due = self._due + period
        if due < now - period:  # it has stood still meanwhile
            due = now + period
        self._due = max(due, now)
        time.sleep(self._due - now)
        return self.observation()

    def reset(self, rng: np.random.Generator) -> Observation:
        """A look, since a person has put things in order."""
        return self.observation()

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        """The newest picture of a camera, for people, of any size: what a policy sees by it."""
        seen = self.observation().get(IMAGES + camera)
        if seen is None:
            raise NotImplementedError(f"{type(self).__name__} has no method render(camera, width, height)")
        return seen

    def set_observation(self, observation: Observation) -> None:
        """Nobody can put a real robot where it was."""
        raise DriverError("a real robot can't be put back into a recorded state")

    def true_success(self, instruction: Instruction) -> bool | None:
        """Nobody knows."""
        return None

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        """It can't tell."""
        return ""

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        """As it is: objects are not tracked."""
        return action

    def objects_in_play(self) -> Mapping[str, tuple[float, float]]:
        """None are tracked."""
        return {}

    def close(self) -> None:
        """Nothing is held."""

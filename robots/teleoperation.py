"""A teleoperator: a leader arm, a SpaceMouse or another device at the robot's computer, by which a person drives it.

Stands between the device and the loop in station.py. The person takes control in the browser as ever and chooses the
device there; from then on the station asks it for actions, until it is let go. Whose hand moves it nobody can see from
here, so lease, heartbeats and stop are the browser's as before.
"""

from typing import Protocol

import numpy as np

from robots.driver import DriverError, guarded, plain
from robots.embodiments import LONGEST_NAME, Embodiment, Observation


class Teleoperator(Protocol):
    """What a device must be able to do. It answers at once: a method that waits holds up its station."""

    name: str  # as the pages call it, such as "leader arm"

    def action(self, observation: Observation) -> np.ndarray | None:
        """The action [A] that it wants now, where the body is as observed; None: nobody moves it, hold still."""


class Device:
    """A station's teleoperator, if it has one, behind a door like the driver's: what it does wrong is a DriverError."""

    def __init__(self, teleoperator: Teleoperator | None, body: Embodiment):
        self._teleoperator, self._size = teleoperator, body.action_size
        self.name = plain(str(teleoperator.name))[:LONGEST_NAME] if teleoperator is not None else ""
        self.drives = False  # whether the person in control has chosen it

    def action(self, observation: Observation) -> np.ndarray | None:
        """The action [A] that it wants; None: hold still."""
        assert self._teleoperator is not None, "none but a station that has one is driven by it"
        what = f"the station's device ({self.name})"
        given = {key: array.copy() for key, array in observation.items()}
        value = guarded(what, self._teleoperator.action, given)
        if value is None:
            return None
        array: np.ndarray = guarded(what, lambda: np.array(value, np.float32))
        if array.shape != (self._size,) or not np.isfinite(array).all():
            raise DriverError(f"{what} failed: it gave {array.size} numbers, not {self._size} finite ones")
        return array

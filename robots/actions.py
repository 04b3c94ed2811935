"""What may be sent to a body, by what it declares of its actions; and what a person's push becomes.

The last thing before the driver: no joint is told to move further in one step than its largest change, whoever acts.
"""

from collections.abc import Sequence

import numpy as np

from robots.embodiments import MOTIONS, Embodiment


class Actions:
    """The action numbers of one body; float32 [A] everywhere."""

    def __init__(self, body: Embodiment):
        self.low, self.high = np.array(body.action_range, np.float32).T
        # The absolute ones: which they are, what senses them, and their largest change.
        absolute = [i for i, motion in enumerate(body.motions) if motion.kind == "position"]
        self._absolute = np.array(absolute, int)
        self._sensed = np.array([body.body.index(body.motions[i].sensed_by) for i in absolute], int)
        self._change = np.array([body.motions[i].largest_change for i in absolute], np.float32)
        # Why a person can't drive it, in words; empty where one can.
        self.undriven = (
            ""
            if body.motions
            else (
                f"{body.name} doesn't say what its actions are ({', '.join(MOTIONS)}); declare its motions "
                "(robots/embodiments.py) or, of a world in the FLEETUI_WORLDS file, its action_kind"
            )
        )

    @property
    def need_a_look(self) -> bool:
        """Whether the bounds depend on where the joints are now."""
        return len(self._absolute) > 0

    def bounded(self, action: np.ndarray, observation: np.ndarray) -> np.ndarray:
        """The nearest action that is allowed where the body is now."""
        action = np.clip(action, self.low, self.high).astype(np.float32)
        # Last, so that a joint beyond its own range comes back by its largest change a step, not at once.
        present = observation[self._sensed]
        action[self._absolute] = np.clip(action[self._absolute], present - self._change, present + self._change)
        return action

    def pushed(
        self, direction: Sequence[float], observation: np.ndarray, before: np.ndarray | None = None
    ) -> np.ndarray:
        """A person's push, each axis from -1 to 1, on the first numbers; all others rest.

        An absolute joint rests at what it was told last, in `before`: to be told again and again where it is would let
        an arm sink, little by little, under its own weight.
        """
        push = np.zeros(len(self.low), np.float32)
        push[: len(direction)] = direction[: len(push)]
        action = push * np.where(push > 0, self.high, -self.low)
        present = observation[self._sensed]
        held = present if before is None else before[self._absolute]
        moved = push[self._absolute]
        action[self._absolute] = np.where(moved != 0, present + moved * self._change, held)
        return self.bounded(action, observation)

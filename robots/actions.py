"""What may be sent to a body, by what it declares of its actions; and what a person's push becomes.

The last thing before the driver: no joint is told to move further in one step than its largest change, whoever acts.
"""

from collections.abc import Mapping

import numpy as np

from robots.embodiments import MOTIONS, STATE, Embodiment, Observation


class Actions:
    """The action numbers of one body; float32 [A] everywhere."""

    def __init__(self, body: Embodiment):
        self.low, self.high = np.array(body.action_range, np.float32).T
        # The absolute ones: which they are, what senses them, and their largest change.
        absolute = [i for i, motion in enumerate(body.motions) if motion.kind == "position"]
        self._absolute = np.array(absolute, int)
        self._sensed = np.array([body.state_names.index(body.motions[i].sensed_by) for i in absolute], int)
        self._change = np.array([body.motions[i].largest_change for i in absolute], np.float32)
        # Which number each drive axis moves; those that none moves the driver turns into an action itself.
        self._moves = {each.axis: body.action_names.index(each.moves) for each in body.drive if each.moves}
        self.by_driver = frozenset(each.axis for each in body.drive if not each.moves)
        self.axes = tuple(each.axis for each in body.drive)
        # Why a person can't drive it, in words; empty where one can.
        self.undriven = "" if body.drive else _undriven(body)

    @property
    def need_a_look(self) -> bool:
        """Whether the bounds depend on where the joints are now."""
        return len(self._absolute) > 0

    def bounded(self, action: np.ndarray, observation: Observation) -> np.ndarray:
        """The nearest action that is allowed where the body is now."""
        action = np.clip(action, self.low, self.high).astype(np.float32)
        if self.need_a_look:
            # Last, so that a joint beyond its own range comes back by its largest change a step, not at once.
            present = observation[STATE][self._sensed]
            action[self._absolute] = np.clip(action[self._absolute], present - self._change, present + self._change)
        return action

    def pushed(
        self,
        axes: Mapping[str, float],
        observation: Observation,
        before: np.ndarray | None = None,
        by_driver: np.ndarray | None = None,
    ) -> np.ndarray:
        """A person's push, each drive axis from -1 to 1; all numbers that no axis moves rest. `by_driver` [A]: what the
        driver makes of the axes that no single number moves, if any is pushed.

        An absolute joint rests at what it was told last, in `before`: to be told again and again where it is would let
        an arm sink, little by little, under its own weight.
        """
        push = np.zeros(len(self.low), np.float32)
        for axis, value in axes.items():
            if axis in self._moves:
                push[self._moves[axis]] = value
        if by_driver is not None:
            action = np.array(by_driver, np.float32)
        else:
            action = np.zeros_like(push)
            if self.need_a_look:
                held = observation[STATE][self._sensed] if before is None else before[self._absolute]
                action[self._absolute] = held
        pushed = push != 0
        action[pushed] = (push * np.where(push > 0, self.high, -self.low))[pushed]
        if self.need_a_look:
            moved = push[self._absolute]
            target = observation[STATE][self._sensed] + moved * self._change
            action[self._absolute] = np.where(moved != 0, target, action[self._absolute])
        return self.bounded(action, observation)


def _undriven(body: Embodiment) -> str:
    if not body.motions:
        return (
            f"{body.name} doesn't say what its actions are ({', '.join(MOTIONS)}); declare its motions "
            "(robots/embodiments.py) or, of a world in the FLEETUI_WORLDS file, its action_kind"
        )
    return f"{body.name} names no axis to drive it by; declare its drive axes (robots/embodiments.py)"

"""When an attempt is over, and why: the success detector, the time limit, the world, or that it leads nowhere.

Stands between the judgements of each frame (the reward model's d, the policy's success prediction) and the loop in
station.py. The ending is decided on a frame that the reward model has judged, and never by the simulator's true
success. What people end (operator, override, stop) and faults end an attempt in the loop itself.
"""

import math

import numpy as np

from robots.episodes import CONFIRMED_FRAMES
from robots.orders import PolicyBundle
from robots.rules import Rules

# d is a noisy estimate: less than this below the lowest so far is no progress, and one high frame is no regression.
NEW_LOW = 1.0
# Rounds until a policy's success prediction is acted upon: at first it speaks of demonstrations. After 8 rounds (300
# episodes) P(failure) was off by .09 on average, before the first by .28.
FEWEST_VALUE_UPDATES = 8


class Termination:
    """What the frames of one attempt say of its end."""

    def __init__(self, rules: Rules, limit: int, loaded: PolicyBundle | None):
        self.rules, self.limit, self.loaded = rules, limit, loaded  # rules: as they were when it began
        self.d: list[float] = []  # one for each frame that was judged
        self.p_success: float | None = None  # of the newest frame, by the policy's success prediction
        self.tolerated = ""  # what was out of play at the start
        self.probe = False  # goes on all the same: what comes of such attempts is what the prediction learns from
        self._below = 0  # frames in a row with d <= s
        self._lowest, self._lowest_at = math.inf, 0  # of d, and its step
        self._above = 0  # frames in a row in which d has risen too far
        self._improbable = 0  # frames in a row in which p_success was too little

    def judge(self, d: float, prediction: np.ndarray | None, steps: int) -> None:
        """The frame after so many steps, once. `prediction` is p(steps to success) [bins]; NaN: there is none; None:
        the policy was not asked, and what it said last stands.
        """
        if len(self.d) > steps:
            return
        self.d.append(d)
        if prediction is not None and self.loaded is not None:
            width = self.loaded.bin_width if np.isfinite(prediction).all() else None
            self.p_success = None if width is None else chance_of_success(prediction, self.limit - steps, width)
        threshold = self.loaded.threshold if self.loaded else None
        self._below = self._below + 1 if threshold is not None and d <= threshold else 0
        if d <= self._lowest - NEW_LOW or self._lowest == math.inf:
            self._lowest, self._lowest_at = d, steps

    def ending(self, steps: int, need: str, sensed: bool = False) -> str:
        """Why the attempt is over after so many steps, asked once a frame; "": it goes on. `need` is what the world
        says of what is out of play, in words; `sensed`: a sensor says that what was asked for is done.
        """
        if need and need != self.tolerated:
            return "needs_reset"  # first: the detector is not to be believed about tables that no demonstration shows
        # The goal that a table fulfils before any step is not the policy's success.
        if steps > 0 and (sensed if self.rules.success_by == "sensor" else self._detected):
            return "detected_success"
        if steps >= self.limit:
            return "time_limit"
        return self._given_up(steps)

    @property
    def _detected(self) -> bool:
        return self.loaded is not None and self._below >= max(1, self.loaded.consecutive)

    def _given_up(self, steps: int) -> str:
        """The ending, if this attempt leads nowhere by the task's rules."""
        rules = self.rules
        known = self.loaded is not None and self.loaded.value_updates >= FEWEST_VALUE_UPDATES
        chance, least = self.p_success, rules.low_success_probability
        doubted = known and chance is not None and least is not None and chance < least
        self._improbable = self._improbable + 1 if doubted else 0
        if self._improbable >= CONFIRMED_FRAMES and not self.probe:
            return "low_success_probability"
        risen = rules.regression is not None and self.d[-1] - self._lowest >= rules.regression
        self._above = self._above + 1 if risen else 0
        if self._above >= CONFIRMED_FRAMES:
            return "regression"
        if rules.stall_steps is not None and steps - self._lowest_at >= rules.stall_steps:
            return "stall"
        return ""


def chance_of_success(distribution: np.ndarray, steps_left: int, bin_width: float) -> float:
    """P(success): the mass on "done within the steps that are left". The last bin holds all that is farther, so it
    never counts; the first one always does, for it is the goal itself.
    """
    within = int((steps_left + 1) // bin_width)
    return float(np.sum(distribution[: min(max(within, 1), len(distribution) - 1)]))

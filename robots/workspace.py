"""A station's workspace through its driver: what was seen last, what has become of it, and why a person must come.

Stands between the driver and the loop in station.py. In reset-free practice a person has two duties: to put back what
fell, and to mix what was not mixed for long. A driver that failed is a third reason; nothing is expected of it until a
reset succeeds.
"""

import logging
from collections.abc import Callable

import numpy as np

from robots.driver import Driver, DriverError
from robots.embodiments import Observation
from robots.orders import Orders
from robots.protocol import Code
from robots.rules import Settings

log = logging.getLogger(__name__)


class Workspace:
    """What was seen last of it, and the need for a person, if there is one."""

    def __init__(
        self,
        driver: Driver,
        orders: Orders,
        settings: Settings,
        rng: np.random.Generator,
        clock: Callable[[], float],
    ):
        self.driver, self.orders, self.settings, self.rng, self.clock = driver, orders, settings, rng, clock
        self.need = ""  # why a person must come, in words; "" when nobody must
        self.code = ""  # what that means
        self.need_since = 0.0
        self.faulty = False  # the need is the driver's failure: a person is asked for whatever is assigned
        self.reset_failed = False
        self.practised_s = 0.0  # robot time since the table was last shuffled
        self.fresh = True  # nothing has moved since the last reset
        self.failures = 0  # of the policy in a row
        self.resets = 0  # so far, the one that it begins with among them
        self.scene = 0  # counts changes of what a camera sees
        self.observation: Observation | None = None  # None: the driver could not tell
        self.seen_at = 0.0  # when that was, by the clock
        if driver.missing:
            self.blame(driver.missing)
            self.reset_failed = True
        else:
            self.reset()

    @property
    def seen(self) -> Observation:
        """The newest observation; DriverError where the driver could not tell."""
        if self.observation is None:
            raise DriverError(self.need)
        return self.observation

    def look(self) -> None:
        """See it anew without moving: where a robot stood idle, it or the things before it may have been moved."""
        self.observation, self.seen_at = self.driver.observation(), self.clock()

    def ask(self, code: Code, reason: str) -> None:
        """A person is needed from now on."""
        self.code, self.need, self.need_since = code, reason, self.clock()

    def blame(self, reason: DriverError | str) -> None:
        """The driver failed, so that nothing is to be expected of it until a reset succeeds."""
        log.warning("Fault: %s", reason, exc_info=reason if isinstance(reason, DriverError) else None)
        self.ask(Code.FAULT, str(reason))
        self.faulty = True

    def forget_need(self) -> None:
        """Nobody is needed any more."""
        self.need, self.code = "", ""

    @property
    def reset_due(self) -> bool:
        """Whether the task wants a reset before the next attempt."""
        return self.orders.resets_each_attempt and not self.fresh

    def reset(self) -> None:
        """By the driver; `reset_failed` says whether a person is needed for what it did not mend."""
        try:
            self.observation = self.driver.reset(self.rng)
        except DriverError as error:
            self.observation = None
            self.blame(error)
        else:
            self.scene += 1
            self.resets += 1
            self.seen_at = self.clock()
            self.practised_s, self.failures, self.fresh = 0.0, 0, True
            self.forget_need()
            self.faulty = False
            self.check()
        self.reset_failed = self.faulty

    def check(self) -> None:
        """Whether one of the two duties is due."""
        if self.need or self.reset_due:  # a reset comes before all that
            return
        try:
            reason = self.driver.needs_reset(self.orders.rules.fewest_objects)
        except DriverError as error:
            self.blame(error)
            return
        if reason:
            self.ask(Code.TABLE, reason)
        elif self.practised_s >= self.settings.shuffle_every_s:
            self.ask(Code.NOT_SHUFFLED, f"not shuffled for {_minutes(self.settings.shuffle_every_s)} of practice")

    def moved(self, observation: Observation) -> None:
        """What was seen after a step."""
        self.observation, self.seen_at, self.fresh = observation, self.clock(), False
        self.scene += 1


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} minute{'s' if round(minutes) != 1 else ''}"

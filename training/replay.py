"""The steps of past practice, to be learned from again: what the off-policy update of stage 2 samples.

Stands between the label and the update (advantage_weighted.py). It holds no more than what a restart finds in the
episodes' files again.
"""

from collections import deque

import torch
from torch import Tensor


class Replay:
    """The demonstrations, for good, and the newest practice episodes; each a tuple of its T steps' parts:

    before [T, R], after [T, R]  what lies between the goal and what is perceived, before and after these actions
    actions [T, m, A], counts [T]  those that follow from there on, and how many there are: fewer near the end
    rewards [T]                  of these actions together
    discounts [T]                of what comes after them; 0 where nothing does
    """

    def __init__(self, most_episodes: int):
        self.demonstrations: list[tuple[Tensor, ...]] = []
        self.episodes: deque[tuple[Tensor, ...]] = deque(maxlen=most_episodes)
        self._together: tuple[Tensor, ...] | None = None

    def add(self, parts: tuple[Tensor, ...], demonstrated: bool) -> None:
        """An episode's parts, for good where it was demonstrated."""
        (self.demonstrations if demonstrated else self.episodes).append(parts)
        self._together = None

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """n random steps, each as likely as any other, with their parts. RuntimeError where there are none."""
        if self._together is None:
            self._together = tuple(map(torch.cat, zip(*self.demonstrations, *self.episodes, strict=True)))
        rows = torch.randint(len(self._together[0]), (n,), generator=generator)
        return tuple(part[rows] for part in self._together)

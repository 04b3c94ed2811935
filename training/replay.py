"""The steps of past practice, to be learned from again: what off-policy updates sample.

Stands between the label and the update (advantage_weighted.py, actor_critic.py). It holds no more than what a restart
finds in the episodes' files again.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

Parts = tuple[Tensor, ...]  # of an episode's T steps, [T, ...] each; what they are is their method's own


class Replay:
    """The demonstrations, for good, and the newest practice episodes."""

    def __init__(self, most_episodes: int):
        self.demonstrations: list[Parts] = []
        self.episodes: deque[Parts] = deque(maxlen=most_episodes)
        self._together: dict[str, Parts] = {}

    def add(self, parts: Parts, demonstrated: bool) -> None:
        """An episode's parts, for good where it was demonstrated."""
        (self.demonstrations if demonstrated else self.episodes).append(parts)
        self._together = {"demonstrated": self._together["demonstrated"]} if self._keeps(demonstrated) else {}

    def _keeps(self, demonstrated: bool) -> bool:
        return not demonstrated and "demonstrated" in self._together

    def sample(self, n: int, generator: torch.Generator) -> Parts:
        """n random steps, each as likely as any other, with their parts. RuntimeError where there are none."""
        return self._drawn("all", [*self.demonstrations, *self.episodes], n, generator)

    def sample_demonstrated(self, n: int, generator: torch.Generator) -> Parts:
        """n random steps of demonstrations. RuntimeError where there are none."""
        return self._drawn("demonstrated", self.demonstrations, n, generator)

    def sample_practised(self, n: int, generator: torch.Generator) -> Parts:
        """n random steps of practice. RuntimeError where there are none."""
        return self._drawn("practised", list(self.episodes), n, generator)

    def sample_mixed(self, n: int, share: float, generator: torch.Generator) -> Parts:
        """n random steps, this share of them demonstrated as long as there are both kinds."""
        if not self.demonstrations or not self.episodes:
            return self.sample(n, generator)
        shown = round(share * n)
        practised = self.sample_practised(n - shown, generator)
        return tuple(map(torch.cat, zip(self.sample_demonstrated(shown, generator), practised, strict=True)))

    def _drawn(self, name: str, episodes: Sequence[Parts], n: int, generator: torch.Generator) -> Parts:
        if name not in self._together:
            if not episodes:
                raise RuntimeError("There is no step to learn from yet.")
            self._together[name] = tuple(map(torch.cat, zip(*episodes, strict=True)))
        together = self._together[name]
        rows = torch.randint(len(together[0]), (n,), generator=generator).to(together[0].device)
        return tuple(part[rows] for part in together)

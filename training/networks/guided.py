"""A policy that shows keypoints while it acts: those by which its attempt will be rewarded (KAGI).

Stands on a station. It acts as any policy does. When an attempt begins it asks its proposer, lays what it answers into
the station's memory as marks, which pages draw and a person may move, and tells how much of the way is left.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from robots.embodiments import STATE, Embodiment, Observation
from training.keypoints import HALF_WIDTH, Asked, Proposal, Way, hand_of, proposer_of
from training.networks.network import Network
from training.vocabulary import Vocabulary

log = logging.getLogger(__name__)

ASKING = ThreadPoolExecutor(4, thread_name_prefix="keypoints")  # a model that is asked over HTTP takes seconds


class GuidedNetwork(Network):
    """The same network, with a proposer."""

    def __init__(self, embodiment: Embodiment, vocabulary: Vocabulary, *, proposer: str, **sizes: Any):
        super().__init__(embodiment, vocabulary, **sizes)
        self.embodiment = embodiment
        self.proposer = proposer_of(proposer, log.warning)

    def answer(
        self,
        perceived: Tensor,
        goal: Tensor,
        generator: torch.Generator | None,
        greedy: bool,
        memories: Sequence[dict[str, Any]],
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """As of Network, and how many metres of the way are left, and what the last step was rewarded with."""
        actions, prediction, signals = super().answer(perceived, goal, generator, greedy, memories)
        if any("step" in memory for memory in memories):
            told = [self._follow(row, memory) for row, memory in zip(perceived, memories, strict=True)]
            left, gained = torch.tensor(told).unbind(1)
            signals = {**signals, "way_left": left, "way_gained": gained}
        return actions, prediction, signals

    def _follow(self, perceived: Tensor, memory: dict[str, Any]) -> tuple[float, float]:
        """Metres left, and how many fewer than at the last question; NaN where there are no keypoints."""
        observation = self._observation(perceived)
        if memory.get("step") == 0:
            memory.pop("marks", None)
            memory.pop("way", None)
            asked = Asked(self.embodiment, memory["instruction"], observation, *memory["look"]())
            memory["asked"] = ASKING.submit(self.proposer.propose, asked)
        waiting: Future[Proposal | None] | None = memory.get("asked")
        if waiting is not None and (waiting.done() or self.proposer.immediate):
            del memory["asked"]
            if (found := waiting.result()) is not None:
                memory["marks"] = {"points": [list(point) for point in found.points], "source": found.source}
        marks = memory.get("marks")
        if marks is None:
            return float("nan"), float("nan")
        way, before = memory.get("way", (None, float("nan")))
        if way is None or way.points.tolist() != marks["points"]:  # new, or moved by a person
            way, before = Way(marks["points"]), float("nan")
        places, closed = hand_of(self.embodiment, {STATE: observation[STATE][None]})
        left = way.left(places[0], bool(closed[0]))
        memory["way"] = way, left
        return left, (before - left) / HALF_WIDTH

    def _observation(self, perceived: Tensor) -> Observation:
        sizes = [self.embodiment.observation[key].size for key in self.vectors]
        return {
            key: part.cpu().numpy()
            for key, part in zip(self.vectors, perceived[: sum(sizes)].split(sizes), strict=True)
        }

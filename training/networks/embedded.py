"""A policy that acts on codes of what was demonstrated: pi(a | o, z), z looked up by the instruction's text.

The table of codes lies in a buffer, its texts among the sizes: a station that loads the file can act.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robots.embodiments import Embodiment
from training.networks.backbones import Pretrained
from training.networks.network import Network
from training.networks.state import FlatFeatures, differences_of
from training.networks.words import CodeTable
from training.vocabulary import Vocabulary


class EmbeddedNetwork(Network):
    """As Network, of a body that observes numbers, with a CodeTable for its words."""

    words: CodeTable
    features: FlatFeatures

    def __init__(
        self,
        embodiment: Embodiment,
        vocabulary: Vocabulary,
        *,
        texts: Sequence[str],
        imitated: int,
        code: int,
        exploration: float = 0.0,
        **sizes: Any,
    ):
        """`texts`: the sentences whose codes of `code` numbers it holds; the first `imitated` of them are of tasks that
        it learned to do, the others are only looked up. `exploration`: as far on the way to another task's code lies,
        at most, what a station tries in practice, as a share.
        """
        self.texts, self.code = list(texts), code  # before its parts are chosen, which super() does
        super().__init__(embodiment, vocabulary, **sizes)
        self.imitated, self.exploration = imitated, exploration

    def _choose_parts(self, embodiment: Embodiment, vocabulary: Vocabulary, pretrained: Pretrained) -> None:
        self.words = CodeTable(self.texts, self.code)
        size = sum(embodiment.observation[key].size for key in self.vectors)
        self.features = FlatFeatures(size, self.code, differences_of(embodiment, self.vectors))

    def answer(
        self,
        perceived: Tensor,
        goal: Tensor,
        generator: torch.Generator | None,
        greedy: bool,
        memories: Sequence[dict[str, Any]],
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Chunks of actions [n, K, A] and no prediction. In practice each attempt tries a code between the one that was
        asked for and another one, and keeps it in its station's memory; an evaluation gets what it asks for. Signal
        `off_code` [n]: 1 less the cosine of what is tried and what was asked for.
        """
        tried = self.tried(goal, generator, memories)
        actions, _ = self.act(perceived, tried, generator, greedy)
        return actions, None, {"off_code": 1 - F.cosine_similarity(tried, goal)}

    def tried(self, goal: Tensor, generator: torch.Generator | None, memories: Sequence[dict[str, Any]]) -> Tensor:
        """The codes that attempts act on, new ones where one begins. [n, code] -> [n, code]"""
        tried = goal.clone()
        for row, memory in enumerate(memories):
            if not self.exploration or memory.get("purpose") != "practice":
                continue
            if memory["step"] == 0 or "code" not in memory:
                other = self.words.codes[1 + int(torch.randint(self.imitated, (), generator=generator))]
                share = self.exploration * float(torch.rand((), generator=generator))
                memory["code"] = F.normalize(goal[row] + share * (other - goal[row]), dim=0).tolist()
            tried[row] = torch.tensor(memory["code"])
        return tried

"""Networks that act by a body's numbers without words: planners and what asks for probes, as a policy asks any network.

Each module here has `act(perceived, memories, generator) -> (actions [n, A], signals)`; what a policy wants beside that
(checkpoints.py) is the same for all of them: there are no words to read, and no success is predicted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from robots.embodiments import Embodiment
from robots.tasks import TASKS, InstructionError
from training import computing
from training.model_folders import ModelFolderError
from training.networks.backbones import NONE, Pretrained
from training.networks.explorer import Explorer
from training.networks.flow_corrected import FlowCorrected
from training.networks.probing import Probing
from training.vocabulary import Vocabulary


class Acts(Protocol):
    """What such a module does."""

    def act(
        self, perceived: Tensor, memories: Sequence[dict[str, Any]], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[n, P] -> actions [n, A] in the body's units, and what a supervisor should see of each [n]"""
        ...


class ActingNetwork(nn.Module):
    """One of them as a policy's network. A kind is a subclass that names the module."""

    kind: type[nn.Module]

    def __init__(self, embodiment: Embodiment, vocabulary: Vocabulary, *, pretrained: Pretrained = NONE, **sizes: Any):
        """`sizes` of the module. ModelFolderError where this body can't be driven by it."""
        super().__init__()
        try:
            self.acting: Any = self.kind(embodiment, **sizes)
        except ValueError as error:
            raise ModelFolderError(str(error)) from None
        self.embodiment = embodiment
        self.keys = [key for key, feature in embodiment.observation.items() if not feature.is_picture]
        self.device = computing.now().device
        self.to(self.device)

    @property
    def reads(self) -> frozenset[str]:
        """As of Network."""
        return frozenset(self.keys)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Nothing is read of them. [n, 0]"""
        return torch.zeros((len(texts), 0), device=self.device)

    def goal(self, words: Tensor) -> Tensor:
        """[n, 0], as it is."""
        return words

    def perceive(self, observations: Mapping[str, Tensor]) -> Tensor:
        """The body's numbers, one after the other. [n, P]"""
        return torch.cat([observations[key] for key in self.keys], 1)

    def answer(
        self,
        perceived: Tensor,
        goal: Tensor,
        generator: torch.Generator | None,
        greedy: bool,
        memories: Sequence[dict[str, Any]],
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """As of Network, of one action each and without a prediction."""
        actions, signals = self.acting.act(perceived, memories, generator)
        return actions[:, None], None, signals


class ProbingNetwork(ActingNetwork):
    """MUSEL's."""

    kind = Probing


class FlowCorrectedNetwork(ActingNetwork):
    """AFM's."""

    kind = FlowCorrected


class ExplorerNetwork(ActingNetwork):
    """Active exploration's: it explores in practice, and does what is asked for wherever attempts count."""

    kind = Explorer

    def answer(
        self,
        perceived: Tensor,
        goal: Tensor,
        generator: torch.Generator | None,
        greedy: bool,
        memories: Sequence[dict[str, Any]],
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """As of ActingNetwork; rows that have the same aim are planned for together."""
        aims = [self._aim(memory) for memory in memories]
        actions = perceived.new_zeros((len(perceived), self.embodiment.action_size))
        told: dict[str, Tensor] = {}
        for aim in sorted(set(aims)):
            rows = [row for row, each in enumerate(aims) if each == aim]
            self.acting.aim_at(aim)
            actions[rows], signals = self.acting.act(perceived[rows], [memories[row] for row in rows], generator)
            for name, values in signals.items():
                told.setdefault(name, perceived.new_full((len(perceived),), torch.nan))[rows] = values
        return actions[:, None], None, told

    def _aim(self, memory: Mapping[str, Any]) -> str:
        if memory.get("purpose") != "evaluation":
            return ""
        for family in TASKS.values():
            if family.embodiment == self.embodiment.name and family.aim:
                try:
                    family.parse(memory["instruction"])
                except InstructionError:
                    continue
                return family.aim
        return ""

"""Two policies in one: one does what is asked for, one brings things back, each with a network of its own (MEDAL++).

Stands on a station that alternates two families of instructions. The words decide which of the two acts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robots.embodiments import Embodiment
from robots.tasks import TASKS, InstructionError
from training.classifier import Classifier
from training.model_folders import ModelFolderError
from training.networks.backbones import NONE, Pretrained
from training.networks.network import Network
from training.vocabulary import Vocabulary

PHASES = ("forward", "backward")


class PhasedNetwork(nn.Module):
    """A network a phase, and the classifiers that their rewards come from, which supervisors see."""

    def __init__(
        self,
        embodiment: Embodiment,
        vocabulary: Vocabulary,
        *,
        backward: str,
        backward_texts: Sequence[str] = (),
        pretrained: Pretrained = NONE,
        **sizes: Any,
    ):
        """`backward`: the family that brings things back, and sentences of it that no grammar here knows."""
        super().__init__()
        if pretrained.models:
            raise ModelFolderError("Two policies in one can't stand on pretrained models; start from one without.")
        self.embodiment, self.backward, self.texts = embodiment, backward, frozenset(backward_texts)
        self.forward_network = Network(embodiment, vocabulary, **sizes)
        self.backward_network = Network(embodiment, vocabulary, **sizes)
        features = self.forward_network.features.size
        self.forward_classifier, self.backward_classifier = Classifier(features, 0), Classifier(features, 1)
        self.device = self.forward_network.device

    @property
    def reads(self) -> frozenset[str]:
        """As of Network."""
        return self.forward_network.reads

    def encode(self, texts: Sequence[str]) -> Tensor:
        """As of Network. Practice changes no words, so that both networks have the same."""
        return self.forward_network.encode(texts)

    def goal(self, words: Tensor) -> Tensor:
        """As of Network."""
        return self.forward_network.goal(words)

    def of(self, phase: str) -> Network:
        """The network of a phase."""
        return self.forward_network if phase == "forward" else self.backward_network

    def classifier(self, phase: str) -> Classifier:
        """Its classifier."""
        return self.forward_classifier if phase == "forward" else self.backward_classifier

    def perceive(self, observations: Mapping[str, Tensor]) -> Tensor:
        """As of Network."""
        return self.forward_network.perceive(observations)

    def phase_of(self, instruction: str) -> str:
        """Which of the two an instruction is for."""
        if instruction in self.texts:
            return "backward"
        family = TASKS.get(self.backward)
        try:
            return "backward" if family is not None and family.parse(instruction) else "forward"
        except InstructionError:
            return "forward"

    def answer(
        self,
        perceived: Tensor,
        goal: Tensor,
        generator: torch.Generator | None,
        greedy: bool,
        memories: Sequence[dict[str, Any]],
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """As of Network, and how like the demonstrations' ends, or their states, what it sees is."""
        phases = [self.phase_of(memory.get("instruction", "")) for memory in memories]
        actions = perceived.new_zeros((len(perceived), *self._chunk))
        likely = perceived.new_zeros(len(perceived))
        for phase in PHASES:
            rows = [row for row, each in enumerate(phases) if each == phase]
            if rows:
                network = self.of(phase)
                actions[rows], _ = network.act(perceived[rows], goal[rows], generator, greedy)
                features = network.features.seen_from(None, network.features.relations(perceived[rows], goal[rows]))
                likely[rows] = self.classifier(phase).probability(features)
        backward = torch.tensor([float(phase == "backward") for phase in phases])
        return actions, None, {"likeness": likely, "backward": backward}

    @property
    def _chunk(self) -> tuple[int, int]:
        head = self.forward_network.action_head
        return head.chunk, head.size

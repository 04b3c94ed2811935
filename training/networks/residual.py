"""A frozen policy with two cheap heads that foresee, and a small bounded correction of its actions (SC-VLA).

    p_t   = progress head(h_t)         share of the attempt that is over, 0 to 1
    D_t   = displacement head(h_t)     how far the hand will have come when the base is asked again, and its grip
    a_t   = clip(a_base + lambda a_res(o_t, a_base, D, p))            shares of the reach

Stands on a station, asked at each step. The base is asked only each `executed` steps and acts by its likeliest actions,
so that the learner finds its actions again from the episode alone; its plan is in the station's memory between.

After SC-VLA (arXiv 2602.21633): the base there is a vision-language-action model with a flow head, here any policy of
stage 1; displacement there has a rotation, here the hand's way in the table's frame.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robots.embodiments import HAND, STATE, Embodiment
from training import computing, steps_to_go
from training.model_folders import ModelFolderError
from training.networks.backbones import NONE, Pretrained
from training.networks.heads import squashed
from training.networks.network import Network
from training.vocabulary import Vocabulary

GRIPS = ("held", "gripper.pos")  # and its grip
FAR = 10.0  # by which a way in metres is scaled for the displacement head
LOG_DEVIATIONS = (-5.0, 1.0)
FIRST_LOG_DEVIATION = -1.5  # before it is squashed: with 0 the first corrections were as large as the actions


class ResidualNetwork(nn.Module):
    """The base, its heads and the correction."""

    scale: Tensor  # [] lambda

    def __init__(
        self,
        embodiment: Embodiment,
        vocabulary: Vocabulary,
        *,
        executed: int,
        width: int,
        pretrained: Pretrained = NONE,
        **sizes: Any,
    ):
        """`sizes` of the base; `executed` of its chunk's actions are followed before it is asked again. Errors as of
        Network.
        """
        super().__init__()
        names = embodiment.state_names
        if not set(HAND[:2]) <= set(names):
            raise ModelFolderError(
                f"{embodiment.name} doesn't tell where its hand is ({', '.join(HAND[:2])}): "
                "no displacement can be foreseen."
            )
        self.base = Network(embodiment, vocabulary, **sizes, pretrained=pretrained)
        self.executed, self.device = executed, self.base.device
        at = [names.index(name) for name in HAND if name in names]
        grips = [names.index(name) for name in GRIPS if name in names]
        self.hands, self.tracked = len(at), [*at, *grips[:1]]
        self.grip = 100.0 if "gripper.pos" in names else 1.0  # how far a grip goes
        before = self.base.vectors[: self.base.vectors.index(STATE)]
        self.first = sum(embodiment.observation[key].size for key in before)  # of the state, among what is perceived
        hidden, self.size = sizes["hidden"], embodiment.action_size
        self.progress_head = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 1))
        self.displacement_head = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, len(self.tracked)))
        self.read = self.base.features.size + self.size + len(self.tracked) + 1
        told = nn.Linear(width, 2 * self.size)
        with torch.no_grad():  # at first it corrects nothing on the mean
            told.weight[: self.size].zero_()
            told.bias.zero_()
            told.bias[self.size :] = FIRST_LOG_DEVIATION
        self.residual = nn.Sequential(
            *(nn.Linear(self.read, width), nn.LayerNorm(width), nn.GELU()),
            *(nn.Linear(width, width), nn.LayerNorm(width), nn.GELU()),
            told,
        )
        self.register_buffer("scale", torch.zeros(()))
        self.to(self.device)

    @property
    def reads(self) -> frozenset[str]:
        """As of Network."""
        return self.base.reads

    def encode(self, texts: Sequence[str]) -> Tensor:
        """As of Network."""
        return self.base.encode(texts)

    def goal(self, words: Tensor) -> Tensor:
        """As of Network."""
        return self.base.goal(words)

    def perceive(self, observations: Mapping[str, Tensor]) -> Tensor:
        """As of Network."""
        return self.base.perceive(observations)

    def where(self, perceived: Tensor) -> Tensor:
        """Where the hand is and its grip, scaled as displacements are. [n, P] -> [n, D]"""
        told = perceived[:, [self.first + at for at in self.tracked]]
        scales = torch.full((len(self.tracked),), FAR, device=told.device)
        scales[self.hands :] = 1 / self.grip
        return told * scales

    def imagined(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Progress [n] and displacement [n, D]."""
        return self.progress_head(hidden)[:, 0].sigmoid(), self.displacement_head(hidden)

    def planned(self, perceived: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the base would do now, and what it foresees: shares of the reach [n, executed, A], progress [n],
        displacement [n, D], hidden [n, width].
        """
        hidden = self.base.hidden(perceived, goal)
        head = self.base.action_head
        actions = self.base.meant(perceived, head.actions(head.sample(hidden, None, True, head.chunk)))
        shares = self.shares(perceived, actions[:, : self.executed])
        return shares, *self.imagined(hidden), hidden

    def shares(self, perceived: Tensor, actions: Tensor) -> Tensor:
        """Of the reach, -1 to 1. [n, P], [n, m, A] -> [n, m, A]"""
        head = self.base.action_head
        return ((self.base.told(perceived, actions) - head.middle) / head.reach).clamp(-1, 1)

    def units(self, perceived: Tensor, shares: Tensor) -> Tensor:
        """The body's. [n, P], [n, m, A] -> [n, m, A]"""
        head = self.base.action_head
        return self.base.meant(perceived, shares * head.reach + head.middle)

    def features(self, perceived: Tensor, goal: Tensor, base: Tensor, displacement: Tensor, progress: Tensor) -> Tensor:
        """What the correction and its critics read. [n, P], [n, G], [n, A], [n, D], [n] -> [n, read]"""
        features = self.base.features
        relations = features.seen_from(None, features.relations(perceived, goal))
        return torch.cat([relations, displacement, progress[:, None], base], 1)

    def corrected(self, features: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Corrected shares [n, A], and the log density of the correction [n]; without noise by its mean."""
        mean, log_deviation = self.residual(features).chunk(2, 1)
        log_deviation = log_deviation.clamp(*LOG_DEVIATIONS)
        raw = mean if noise is None else mean + log_deviation.exp() * noise
        likely = squashed(raw[:, None], mean[:, None], log_deviation[:, None])[:, 0]
        base = features[:, -self.size :]
        return (base + self.scale * raw.tanh()).clamp(-1, 1), likely

    def answer(
        self,
        perceived: Tensor,
        goal: Tensor,
        generator: torch.Generator | None,
        greedy: bool,
        memories: Sequence[dict[str, Any]],
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """As of Network; it is to be asked at each step."""
        shares, progress, displacement, hidden = self.planned(perceived, goal)
        where = self.where(perceived)
        for row, memory in enumerate(memories):
            if memory.get("step", 0) == 0 or not memory.get("plan"):
                memory["plan"] = list(shares[row])
                memory["start"], memory["foreseen"] = where[row], displacement[row]
                memory["before"] = None
        base = torch.stack([memory["plan"].pop(0) for memory in memories])
        foreseen = torch.stack([memory["foreseen"] for memory in memories])
        features = self.features(perceived, goal, base, foreseen, progress)
        noise = None
        if not greedy:
            noise = computing.onto(base.device, torch.randn(base.shape, generator=generator))
        acted, _ = self.corrected(features, noise)
        agreement = torch.stack([self._agreement(memory, now) for memory, now in zip(memories, where, strict=True)])
        prediction = steps_to_go.distribution(self.base.steps_to_go_head(hidden))
        signals = {
            "imagined_progress": progress,
            "correction": (acted - base).norm(dim=1) / base.norm(dim=1).clamp(min=1e-3),
            "agreement": agreement,
            "correction_scale": self.scale.expand(len(base)),
        }
        return self.units(perceived, acted[:, None]), prediction, signals

    def _agreement(self, memory: dict[str, Any], now: Tensor) -> Tensor:
        """Cosine between the last step's way and the way to where the hand was foreseen; NaN without one. []"""
        before, memory["before"] = memory["before"], now
        if before is None:
            return now.new_full((), math.nan)
        hands = slice(self.hands)
        wanted = (memory["start"] + memory["foreseen"] - before)[hands]
        return torch.cosine_similarity((now - before)[hands], wanted, dim=0)

"""The critic: what return a policy of practice is to expect, so that an action is praised for what it adds to that.

Stands between the label and the update of stage 2 (methods/self_improvement.py). The steps-to-go reward has a baseline
in it already, V = -d of the demonstrators; but where practice is better than they were every action makes progress, and
where the reward model is poor the same errors come again and again. The critic learns both from the newest rounds.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.network import Network

WIDTH = 128
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2
ROUNDS = 8  # the newest ones that it learns from: the policies of older ones are too far from today's
UPDATES, BATCH = 60, 256  # a round


class Critic(nn.Module):
    """V(o, g) in standard deviations of the returns; 0 until it has learned from a round."""

    rounds: Tensor  # [] that it has learned from

    def __init__(self, features: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, WIDTH), nn.LayerNorm(WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))
        self.register_buffer("rounds", torch.zeros(()))

    def forward(self, network: Network, perceived: Tensor, goals: Tensor, frame: Tensor | None) -> Tensor:
        """[n, P], [n, goal size], frame as of Network.hidden -> [n]"""
        return self.layers(network.features(perceived, goals, frame))[:, 0]

    @torch.no_grad()
    def values(self, network: Network, perceived: Tensor, goals: Tensor) -> Tensor:
        """The mean over a table's symmetries. [n]"""
        if not self.rounds:
            return torch.zeros(len(perceived), device=perceived.device)
        return torch.stack([self(network, perceived, goals, frame) for frame in network.frames(len(perceived))]).mean(0)

    def learn(
        self,
        network: Network,
        memory: "Memory",
        generator: torch.Generator,
        step: Callable[[Tensor], object],
    ) -> None:
        """`step` takes the loss and does one step of the optimiser."""
        perceived, goals, returns = memory.all()
        with torch.no_grad():
            expected = self(network, perceived, goals, network.frames(len(returns))[0])
        sound = torch.isfinite(expected + returns).nonzero()[:, 0]  # one step that is no number would spoil all batches
        if not len(sound):
            return
        for _ in range(UPDATES):
            rows = sound[torch.randint(len(sound), (BATCH,), generator=generator)]
            frame = network.random_symmetries(BATCH, generator)
            step(F.mse_loss(self(network, perceived[rows], goals[rows], frame), returns[rows]))
        self.rounds += 1


class Memory:
    """What the newest rounds held: features, goals and returns of their steps. Saved and restored as networks are."""

    NAMES = ("perceived", "goals", "returns")

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rounds: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, perceived: Tensor, goals: Tensor, returns: Tensor) -> None:
        """A round of n steps: [n, P], [n, goal size], [n]; the oldest one is forgotten."""
        self.rounds = [*self.rounds, (perceived, goals, returns)][-ROUNDS:]

    def all(self) -> tuple[Tensor, Tensor, Tensor]:
        """The steps of all rounds that are remembered."""
        perceived, goals, returns = map(torch.cat, zip(*self.rounds, strict=True))
        return perceived, goals, returns

    def state_dict(self) -> dict[str, Tensor]:
        """By the round's number and the part's name."""
        return {
            f"{number}.{name}": tensor
            for number, parts in enumerate(self.rounds)
            for name, tensor in zip(self.NAMES, parts, strict=True)
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """What state_dict() gave."""
        tensors = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        count = len(tensors) // len(self.NAMES)
        self.rounds = [
            (tensors[f"{number}.perceived"], tensors[f"{number}.goals"], tensors[f"{number}.returns"])
            for number in range(count)
        ]

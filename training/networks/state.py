"""What a policy is told of a body whose objects nobody tracks: its numbers as they are, scaled, and the sentence."""

import torch
from torch import Tensor, nn


class Scaled(nn.Module):
    """Numbers, scaled as in the demonstrations."""

    mean: Tensor  # [P]
    deviation: Tensor  # [P]

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def scale_as(self, numbers: Tensor) -> None:
        """Mean and deviation of each number are those of these [F, P]."""
        self.mean.copy_(numbers.mean(0))
        self.deviation.copy_(numbers.std(0).clamp(min=1e-4))

    def forward(self, numbers: Tensor) -> Tensor:
        """[n, P] -> [n, P]"""
        return ((numbers - self.mean) / self.deviation).clamp(-10, 10)


class Sideless(nn.Module):
    """Features that have no sides: nothing of them is turned."""

    size: int

    def relations(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """[n, P], [n, goal size] -> [n, size]"""
        raise NotImplementedError

    def forward(self, perceived: Tensor, goal: Tensor, frame: Tensor | None) -> Tensor:
        """[n, P], [n, goal size] -> [n, size]; `frame` says nothing here."""
        return self.relations(perceived, goal)

    def seen_from(self, frame: Tensor | None, relations: Tensor) -> Tensor:
        """[n, size], as it is."""
        return relations


class FlatFeatures(Sideless):
    """The whole observation, scaled, beside the code of the sentence."""

    def __init__(self, perceived_size: int, goal_size: int):
        super().__init__()
        self.scaled = Scaled(perceived_size)
        self.size = perceived_size + goal_size

    def scale_as(self, perceived: Tensor) -> None:
        """As in these [F, P]."""
        self.scaled.scale_as(perceived)

    def relations(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """[n, P], [n, goal size] -> [n, size]"""
        return torch.cat([self.scaled(perceived), goal], 1)

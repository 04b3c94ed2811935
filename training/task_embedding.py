"""Where attempts lie by what was done in them: a code of each, near those of the same task.

    z    = e / |e|,  e = sum_k softmax(w)_k layers(frame k)        of FRAMES frames, evenly in time; `size` numbers
    L    = -log exp(z_i . z_i' / T) / sum_j exp(z_i . z_j' / T),   i, i' two demonstrations of one task      (InfoNCE)
    pair = trials i, j: j is one of the 2 nearest of i, and z_i . z_j > .9

InfoNCE: van den Oord et al., arXiv 1807.03748, equation 4, with cosines as in SimCLR (Chen et al., arXiv 2002.05709).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robots.embodiments import Embodiment
from robots.episodes import Episode
from training.descent import descend
from training.networks.state import Scaled

FRAMES = 8  # of an attempt, the first and the last among them
TEMPERATURE = 0.1  # T
NOISE = 0.1  # of what is embedded, in deviations of each number
WEIGHTS_FASTER = 10.0  # how much larger the learning rate of the frames' weights is
NEAREST, ALIKE = 2, 0.9  # how many a trial is paired with, and at least how near they are


class TrajectoryEncoder(nn.Module):
    """An attempt's frames -> its code. The layers are the same for each frame, and which frames matter is learned: of
    layers over all frames at once ninety demonstrations taught little. (The two nearest of 200 attempts lay .14 m apart
    by where they ended, so .05; .04 is the least that there is.)
    """

    def __init__(self, embodiment: Embodiment, size: int, hidden: int = 64):
        """ValueError where a body is seen by pictures alone: codes are made of numbers."""
        super().__init__()
        self.keys = [key for key, feature in embodiment.observation.items() if not feature.is_picture]
        if not self.keys:
            raise ValueError(f"{embodiment.name} is seen by pictures alone; a task embedding needs numbers.")
        numbers = sum(embodiment.observation[key].size for key in self.keys)
        self.scaled = Scaled(numbers)
        self.layers = nn.Sequential(nn.Linear(numbers, hidden), nn.GELU(), nn.Linear(hidden, size))
        self.weights = nn.Parameter(torch.zeros(FRAMES))

    def frames(self, episode: Episode, steps: int) -> Tensor:
        """[FRAMES, P] of an attempt's first steps, however many they are"""
        rows = np.linspace(0, steps, FRAMES).round().astype(int)
        return torch.from_numpy(np.concatenate([episode.observations[key][rows] for key in self.keys], 1))

    def forward(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """[n, FRAMES, P], noise in deviations of each number -> z [n, size], of length 1"""
        scaled = self.scaled(frames)
        each = self.layers(scaled if noise is None else scaled + noise)
        return F.normalize((each * self.weights.softmax(0)[:, None]).sum(1), dim=1)


def info_nce(one: Tensor, other: Tensor) -> Tensor:
    """Of n tasks two codes each, [n, size]: how unlikely each finds its own among the others'. []"""
    return F.cross_entropy(one @ other.T / TEMPERATURE, torch.arange(len(one)))


def embed(
    encoder: TrajectoryEncoder,
    frames: Tensor,
    tasks: Sequence[int],
    updates: int,
    learning_rate: float,
    generator: torch.Generator,
) -> float:
    """Train it on demonstrations [n, FRAMES, P] of these tasks [n], by InfoNCE; the mean loss of the last tenth. Of a
    task with one demonstration nothing is learned but that it is none of the others.
    """
    encoder.scaled.scale_as(frames.flatten(0, 1))
    parameters = list(encoder.parameters())
    rates: list[dict[str, Any]] = [
        {"params": list(encoder.layers.parameters())},
        {"params": [encoder.weights], "lr": WEIGHTS_FASTER * learning_rate, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(rates, lr=learning_rate, weight_decay=1e-2)
    members = [torch.tensor([i for i, task in enumerate(tasks) if task == each]) for each in sorted(set(tasks))]
    losses = []
    for _ in range(updates):
        drawn = torch.tensor([_two(each, generator) for each in members]).T  # [2, tasks]
        noise = NOISE * torch.randn((*drawn.shape, *frames.shape[1:]), generator=generator)
        loss = info_nce(*(encoder(frames[rows], more) for rows, more in zip(drawn, noise, strict=True)))
        descend(loss, optimiser, parameters)
        losses.append(float(loss.detach()))
    newest = losses[-max(1, updates // 10) :]
    return sum(newest) / len(newest)


def _two(members: Tensor, generator: torch.Generator) -> tuple[int, int]:
    """Two of a task's demonstrations, different ones where there are."""
    order = torch.randperm(len(members), generator=generator)
    return int(members[order[0]]), int(members[order[min(1, len(order) - 1)]])


def neighbours(codes: Tensor, nearest: int = NEAREST, alike: float = ALIKE) -> list[list[int]]:
    """Of each of n trials [n, size] those that it is paired with: the nearest others, as far as they are alike."""
    if len(codes) < 2:
        return [[] for _ in codes]
    cosines = codes @ codes.T
    cosines.fill_diagonal_(-1.0)
    found = cosines.topk(min(nearest, len(codes) - 1))
    return [
        [other for cosine, other in zip(near.tolist(), others.tolist(), strict=True) if cosine > alike]
        for near, others in zip(found.values, found.indices, strict=True)
    ]


def groups(pairs: Sequence[Sequence[int]]) -> int:
    """How many groups of at least two the pairs make, whoever is paired being in one group."""
    root = list(range(len(pairs)))

    def of(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for i, others in enumerate(pairs):
        for j in others:
            root[of(i)] = of(j)
    return sum(count > 1 for count in Counter(map(of, range(len(pairs)))).values())

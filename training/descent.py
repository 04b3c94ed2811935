"""One step of an optimiser that no number which is none can enter.

A loss or gradient that is NaN or infinite would make all weights NaN at once, and every policy made of them. Such a
step is not done; whose data it was is found by asking each episode of the batch alone.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, parameters: list[Tensor], clip: float = 1.0) -> bool:
    """False where loss or gradient is no number: then nothing has changed."""
    sound = _gradient_of(loss, optimiser, parameters, clip)
    if sound:
        optimiser.step()
    else:
        optimiser.zero_grad()
    return sound


def unlearnable(
    groups: Iterable[tuple[int, Tensor]],
    loss_of: Callable[[Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    parameters: list[Tensor],
) -> list[int]:
    """Of (episode, its rows) the episodes that alone make loss or gradient no number."""
    found = [key for key, rows in groups if not _gradient_of(loss_of(rows), optimiser, parameters, math.inf)]
    optimiser.zero_grad()
    return found


def _gradient_of(loss: Tensor, optimiser: torch.optim.Optimizer, parameters: list[Tensor], clip: float) -> bool:
    optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    return bool(torch.isfinite(loss.detach()) and torch.isfinite(norm))

"""One step of an optimiser that no number which is none can enter, and the learning rates of many.

A loss or gradient that is NaN or infinite would make all weights NaN at once, and every policy made of them. Such a
step is not done; whose data it was is found by asking each episode of the batch alone.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from training.processes import ALONE, Processes


def descend(
    loss: Tensor,
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    clip: float = 1.0,
    processes: Processes = ALONE,
) -> bool:
    """False where loss or gradient is no number, of any process that trains along: then nothing has changed."""
    sound = _gradient_of(loss, optimiser, parameters, clip, processes)
    if sound:
        optimiser.step()
    else:
        optimiser.zero_grad()
    return sound


def anneal(optimiser: torch.optim.Optimizer, updates: int, done: int = 0) -> LambdaLR:
    """The learning rates of stage 1: up within the first 5 % of the updates, then along a cosine to zero. To be stepped
    after each update; `done` of them an earlier process has made.
    """
    warm = max(1, updates // 20)

    def factor(passed: int) -> float:
        step = done + passed + 1  # the next update's number, from 1 on
        if step <= warm:
            return step / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, updates - warm)))

    return LambdaLR(optimiser, factor)


def unlearnable(
    groups: Iterable[tuple[int, Tensor]],
    loss_of: Callable[[Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
) -> list[int]:
    """Of (episode, its rows) the episodes that alone make loss or gradient no number."""
    found = [key for key, rows in groups if not _gradient_of(loss_of(rows), optimiser, parameters, math.inf)]
    optimiser.zero_grad()
    return found


def _gradient_of(
    loss: Tensor,
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    clip: float,
    processes: Processes = ALONE,
) -> bool:
    optimiser.zero_grad()
    loss.backward()
    mean = processes.average(loss, parameters)
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    return bool(torch.isfinite(mean) and torch.isfinite(norm))

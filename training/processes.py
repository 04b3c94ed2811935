"""Several processes train one network together: torchrun starts them, on one machine.

Each learns from its own share of every batch, drawn by a generator of its own, and all make the same update: that of
the mean of their gradients. So their weights stay the same, to the bit, and the first alone writes the run directory.
Whatever comes before and after the updates each process does alone, with the same seed.
"""

import ctypes
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn

from training.run_dir import RunDir, RunError

LONGEST_WAIT = timedelta(days=14)  # for each other: one may be paused
PR_SET_PDEATHSIG = 1


class OtherEnded(Exception):
    """Another process of this training is gone; torchrun says which one, and why."""


def end_with_launcher() -> None:
    """The kernel kills this process where torchrun is killed (Linux): nobody else would end it."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


class Processes:
    """Those that train together, as one of them sees them. One alone asks nobody, and changes nothing."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    @classmethod
    def join(cls, run: RunDir, wanted: int) -> Self:
        """Once all are there. RunError where another number was started than the recipe wants."""
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if size != wanted:
            raise RunError(
                f"The recipe wants {wanted} process{'es' if wanted > 1 else ''}, and {size} began. Start it as the "
                f"fleet does: torchrun --standalone --nproc-per-node {wanted} -m training sft {run.path}"
            )
        if size > 1:
            # gloo for what lies in memory; where torch has CUDA, NCCL for what lies on graphics cards.
            _or_other_ended(lambda: distributed.init_process_group(timeout=LONGEST_WAIT))
        return cls(rank, size)

    def draw_apart(self, generator: torch.Generator, seed: int, step: int) -> None:
        """From here on the generator is this process' own, known by the run's seed and the update: so a restart draws
        the same again. One alone goes on with what it has.
        """
        if self.size > 1:
            words = f"{seed} {step} {self.rank}".encode()
            generator.manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7], "big"))

    def average(self, loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """The mean over all processes: of the loss, which is returned, and of the gradients, in place. [] -> []"""
        if self.size == 1:
            return loss.detach()
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        values = torch.cat([loss.detach()[None], *(each.flatten() for each in gradients)])  # one message for all
        self._reduce(values, distributed.ReduceOp.SUM)
        values /= self.size
        for parameter, part in zip(parameters, values[1:].split([each.numel() for each in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)
        return values[0]

    def mean(self, values: Tensor) -> Tensor:
        """Of each value over all processes. [n] -> [n]"""
        if self.size > 1:
            self._reduce(values, distributed.ReduceOp.SUM)
            values /= self.size
        return values

    def any(self, here: bool) -> bool:
        """Whether it holds in one of them: all hear the same, so that they stop at the same update."""
        return bool(self._most(torch.tensor([int(here)])))

    def union(self, found: list[int], among: int) -> list[int]:
        """What any of them found, of numbers below `among`."""
        mask = torch.zeros(among, dtype=torch.int64)
        mask[found] = 1
        return self._most(mask).nonzero()[:, 0].tolist()

    def check_same(self, network: nn.Module) -> None:
        """RunError where the weights have come apart: then they were not trained together."""
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for tensor in network.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        number = torch.tensor([int.from_bytes(digest.digest()[:7], "big")])
        if self._most(number) != -self._most(-number):
            raise RunError("The weights of the training's processes have come to differ; train with one process.")

    def leave(self) -> None:
        """From here on each goes on alone."""
        if self.size > 1:
            distributed.destroy_process_group()

    def _most(self, values: Tensor) -> Tensor:
        if self.size > 1:
            values = values.clone()
            self._reduce(values, distributed.ReduceOp.MAX)
        return values

    @staticmethod
    def _reduce(values: Tensor, operation: Any) -> None:
        _or_other_ended(lambda: distributed.all_reduce(values, operation))


ALONE = Processes()


def _or_other_ended(ask: Callable[[], object]) -> None:
    try:
        ask()
    except RuntimeError as error:  # of all that torch.distributed raises the base
        raise OtherEnded(f"Another process of this training has ended ({error}).") from None

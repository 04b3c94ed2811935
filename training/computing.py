"""Where the networks of this process compute, and in which numbers: processor or graphics card, float32 or bfloat16.

compute_with() decides for all networks that are made or read afterwards. Weights, optimisers and what is saved are
float32 always; bfloat16 is for what takes the time, the layers that multiply large matrices, forward and backward
(autocast). What is geometry, such as ways between objects in metres, stays in float32: bfloat16 knows three digits.

Random numbers are drawn on the processor whatever the device, so that a seed means the same draws everywhere, and a
restart finds one generator only.
"""

import contextlib
import os
from dataclasses import dataclass

import torch
from torch import Tensor


class ComputingError(ValueError):
    """A device that this machine lacks; the text says what to do."""


@dataclass(frozen=True)
class Computing:
    """A device, and whether layers compute in bfloat16 there."""

    device: torch.device
    bf16: bool = False

    def layers(self) -> contextlib.AbstractContextManager[object]:
        """In which layers are called. What they answer may be bfloat16: whoever goes on makes it float32."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext()


_NOW = Computing(torch.device("cpu"))


def now() -> Computing:
    """For a network that is made now."""
    return _NOW


def compute_with(device: str, precision: str) -> None:
    """From here on. Of several processes that train together each takes a graphics card of its own. ComputingError
    where this machine has no such device, or too few.
    """
    global _NOW
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        others = ", ".join(name for name, is_there in there.items() if is_there)
        raise ComputingError(f"torch finds no {device} device on this machine; set the device to one of: {others}.")
    number, processes = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cuda":
        if processes > (cards := torch.cuda.device_count()):
            raise ComputingError(
                f"{processes} processes need a cuda device each, and this machine has {cards}; set the processes to "
                f"{cards} or fewer."
            )
        torch.cuda.set_device(number)
    elif device == "mps" and processes > 1:
        raise ComputingError("An mps device serves one process; set the processes to 1.")
    _NOW = Computing(torch.device(device, number) if device == "cuda" else torch.device(device), precision == "bf16")


def ready_for(device: torch.device, tensor: Tensor) -> Tensor:
    """Numbers of the processor in memory from which that device copies by itself, page-locked where it is a card."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor
    with torch.cuda.device(device):  # a thread that reads ahead would otherwise begin to use the first card
        return tensor.pin_memory()


def onto(device: torch.device, tensor: Tensor) -> Tensor:
    """The same there; the processor doesn't wait until it is copied. To be done once for each batch."""
    return ready_for(device, tensor).to(device, non_blocking=device.type == "cuda")

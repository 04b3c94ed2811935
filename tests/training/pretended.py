"""A graphics card that is none: tensors say that they lie on it, and the processor computes them.

So all of a training can be run as on a card, and what mixes the two is refused as there. What it can't show: speed,
other roundings, and a kernel that a card lacks. It is torch's place for devices of others (PrivateUse1).
"""

import contextlib
import functools

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from training import computing
from training.methods import self_improvement, sft

NAME = "pretended"
aten = torch.ops.aten
# Operators that take tensors of the processor beside those of a card.
MIXED = {
    aten._to_copy.default,
    aten.copy_.default,
    aten.index.Tensor,  # the rows may lie in memory
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._pack_padded_sequence.default,  # the lengths have to
    aten._pack_padded_sequence_backward.default,
    aten._pad_packed_sequence.default,
    aten.set_.source_Tensor,
}


class OnCard(torch.Tensor):
    """A tensor whose numbers lie in memory, and which says that they lie on the card."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return computed(operator, args, kwargs or {})

    def __repr__(self):
        return f"OnCard({self.inner!r})"


def is_card(device):
    return device is not None and torch.device(device).type == NAME


def computed(operator, args, kwargs):
    flat, shape = tree_flatten((args, kwargs))
    tensors = [each for each in flat if isinstance(each, torch.Tensor)]
    on_card = [each for each in tensors if isinstance(each, OnCard)]
    wanted = next((each for each in flat if isinstance(each, torch.device)), None)
    if not on_card and not is_card(wanted):
        return operator(*args, **kwargs)
    if operator._can_decompose():  # in inference mode torch leaves that to us
        with Card():
            return operator.decompose(*args, **kwargs)
    astray = [each for each in tensors if not isinstance(each, OnCard) and each.dim()]
    if on_card and astray and operator not in MIXED:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {operator} found a card and cpu.")
    if operator is aten.index.Tensor and not isinstance(args[0], OnCard):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    flat = [each.inner if isinstance(each, OnCard) else each for each in flat]
    flat = [torch.device("cpu") if isinstance(each, torch.device) and is_card(each) else each for each in flat]
    bare_args, bare_kwargs = tree_unflatten(flat, shape)
    result = operator(*bare_args, **bare_kwargs)
    if operator is aten._to_copy.default and wanted is not None and not is_card(wanted):
        return result
    if operator in (aten._local_scalar_dense.default, aten.equal.default):
        return result
    known = {id(each.inner): each for each in on_card}  # what is changed in place is the same tensor
    lies_in_memory = operator is aten.copy_.default and not isinstance(args[0], OnCard)
    packed = operator is aten._pack_padded_sequence.default

    def there(each):
        if not isinstance(each, torch.Tensor) or lies_in_memory:
            return each
        return known[id(each)] if id(each) in known else OnCard(each)

    if packed:  # the sizes of the batches lie in memory
        return there(result[0]), result[1]
    return tree_map(there, result)


class Card(TorchDispatchMode):
    """While it is entered, torch finds a card."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return computed(operator, args, kwargs or {})


@functools.cache
def register():
    _setup_privateuseone_for_python_backend(NAME)


def gru_of_the_processor(module, packed):
    """Its kernel for cards has none for processors beside it."""
    weights = [each.cpu() for each in module._flat_weights]
    begin = torch.zeros(2, int(packed.batch_sizes[0]), module.hidden_size)
    made = torch._VF.gru(packed.data.cpu(), packed.batch_sizes, begin, weights, True, 1, 0.0, module.training, True)
    data = made[0].to(packed.data.device)
    return nn.utils.rnn.PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), None


@contextlib.contextmanager
def pretended_card(monkeypatch):
    """Whoever computes with cuda computes with this."""
    register()
    card = computing.Computing(torch.device(NAME, 0))
    for module in (sft, self_improvement):
        monkeypatch.setattr(module, "compute_with", lambda device, precision: None)
    monkeypatch.setattr(computing, "_NOW", card)
    monkeypatch.setattr(nn.GRU, "forward", gru_of_the_processor)
    tolist = torch.Tensor.tolist  # which asks for a processor's tensor, and a card's is copied first
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: tolist(tensor.cpu()))
    # Of inference mode what it says of gradients alone: views of such tensors as these can't be made in it.
    monkeypatch.setattr(torch.inference_mode, "__enter__", enter_no_grad)
    monkeypatch.setattr(torch.inference_mode, "__exit__", leave_no_grad)
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor([..], device=card) asks us to bring it there
    try:
        with Card():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def enter_no_grad(mode):
    mode._instead = torch.no_grad()
    mode._instead.__enter__()


def leave_no_grad(mode, *error):
    mode._instead.__exit__(*error)

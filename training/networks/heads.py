"""The action head: p(a | o, g) over action tokens, of one action or of a chunk of several that follow each other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import computing


class ActionHead(nn.Module):
    """Action tokens, each number's after those before it, of the first action of a chunk, then of the second, and so
    on. A token is one of `bins` values over its number's range.

    So the first m actions of a chunk have a probability of their own: whoever executes m of K needs no more.

    Of a relative number (Motion.relative) the range is that of one step's change, and a token says how far from what
    the token of the action before it came to; of the first action, from 0: whoever calls tells such numbers from where
    the body is. So what one token is off by the next makes good, and a chunk goes far by few bins.
    """

    middle: Tensor  # [A] of each range
    reach: Tensor  # [A] from it to each side
    relative: Tensor  # [A] 1 or 0

    def __init__(
        self,
        width: int,
        ranges: Sequence[tuple[float, float]],
        bins: int,
        chunk: int,
        relative: Sequence[bool] = (),
    ):
        super().__init__()
        self.bins, self.chunk, self.size = bins, chunk, len(ranges)
        self.computing = computing.now()
        self.heads = nn.ModuleList(nn.Linear(width + i * bins, bins) for i in range(chunk * len(ranges)))
        low, high = torch.tensor(ranges, dtype=torch.float64).T
        self.register_buffer("middle", ((low + high) / 2).float(), persistent=False)
        self.register_buffer("reach", ((high - low) / 2).float(), persistent=False)
        self.register_buffer("relative", torch.tensor(relative or [False] * self.size).float(), persistent=False)
        self.follows = any(relative)

    def tokens(self, actions: Tensor) -> Tensor:
        """The nearest token of each number. [..., m, A] in the body's units -> [..., m, A]"""
        if not self.follows:
            return self._nearest(actions)
        tokens, reached = [], torch.zeros_like(actions[..., 0, :])
        for action in actions.unbind(-2):
            tokens.append(self._nearest(action - reached))
            reached = reached + self.relative * self._values(tokens[-1])
        return torch.stack(tokens, -2)

    def actions(self, tokens: Tensor) -> Tensor:
        """The number that each token stands for. [..., m, A] -> [..., m, A]"""
        values = self._values(tokens)
        return torch.where(self.relative > 0, values.cumsum(-2), values) if self.follows else values

    def _nearest(self, numbers: Tensor) -> Tensor:
        share = ((numbers - self.middle) / self.reach).clamp(-1, 1)
        return ((share + 1) / 2 * (self.bins - 1)).round().long()

    def _values(self, tokens: Tensor) -> Tensor:
        return (tokens.float() / (self.bins - 1) * 2 - 1) * self.reach + self.middle

    def log_probability(self, hidden: Tensor, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """log p(a | o, g) of the first m actions of a chunk, of which row i has counts[i] (all, if not given).
        [n, width], [n, m, A], [n] -> [n]
        """
        total = hidden.new_zeros(len(hidden))
        for i, (head, token) in enumerate(zip(self.heads, tokens.flatten(1).unbind(1), strict=False)):
            each = -F.cross_entropy(self._logits(head, hidden), token, reduction="none")
            # What comes after a row's own actions counts nothing; that it is told to the heads behind changes nothing.
            total = total + (each if counts is None else each * (counts > i // self.size))
            hidden = torch.cat([hidden, F.one_hot(token, self.bins).float()], 1)
        return total

    def sample(self, hidden: Tensor, generator: torch.Generator | None, greedy: bool, count: int) -> Tensor:
        """The first `count` actions of a chunk. [n, width] -> tokens [n, count, A]"""
        tokens, sound = [], hidden.new_ones((), dtype=torch.bool)
        for head in self.heads[: count * self.size]:
            logits = self._logits(head, hidden)
            token = logits.argmax(1) if greedy else drawn(logits.softmax(1), generator)
            sound = sound & logits.isfinite().all()
            tokens.append(token)
            hidden = torch.cat([hidden, F.one_hot(token, self.bins).float()], 1)
        if not greedy and not sound:  # asked once: each time a graphics card would be waited for
            raise RuntimeError("The probabilities of actions are no numbers.")
        return torch.stack(tokens, 1).unflatten(1, (count, self.size))

    def _logits(self, head: nn.Module, hidden: Tensor) -> Tensor:
        with self.computing.layers():
            return head(hidden).float()


def drawn(shares: Tensor, generator: torch.Generator | None) -> Tensor:
    """One of each row's choices, each as likely as its share. What chance says comes from the processor, and is what
    torch.multinomial would draw there with the same generator. [n, choices] -> [n]
    """
    chance = torch.empty(shares.shape).exponential_(generator=generator)
    return (shares / computing.onto(shares.device, chance)).argmax(1)

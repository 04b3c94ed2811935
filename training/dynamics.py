"""Models of what an action does, several of them computed together: what planning imagines with.

    member i:  p_i(y | x) = N(mean_i(x), var_i(x)),  trained by the likelihood of what happened          (PETS, MBPO)
    disagreement  u(x) = sum over y's numbers of log(1 + Var_i[mean_i(x)] / s0^2),  s0: the noise floor

x is whatever a method makes of observation and action, y what changed. Ensembles of Gaussian networks: Chua et al.,
arXiv 1805.12114. Dropout at prediction as one more source of members: Gal and Ghahramani, arXiv 1506.02142. How well an
uncertainty sorts errors (AUSE): Ilg et al., arXiv 1802.07095.

A station may have weights of its own, made from the shared ones by `adapted`. They are a list of tensors with one more
axis in front, so that n stations are computed in one multiplication too.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.state import Scaled

LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE = -10.0, 0.5  # of y in its own deviations


class DynamicsEnsemble(nn.Module):
    """N networks with two hidden layers or more, each of which says mean and variance of y."""

    def __init__(
        self, inputs: int, outputs: int, members: int = 5, width: int = 64, layers: int = 2, dropout: float = 0.0
    ):
        """`dropout`: the share of the last hidden layer that is left out, in training and where `passes` ask for it."""
        super().__init__()
        self.members, self.outputs, self.dropout = members, outputs, dropout
        self.inputs_scaled, self.outputs_scaled = Scaled(inputs), Scaled(outputs)
        sizes = [inputs, *[width] * layers, 2 * outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for into, out in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(into)
            self.weights.append(nn.Parameter(torch.empty(members, into, out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, out)))

    def scale_as(self, x: Tensor, y: Tensor, least: Tensor | None = None) -> None:
        """Mean and deviation of each number are those of these [F, X], [F, Y]; `least` [Y]: no deviation of y is
        smaller, for numbers that hardly anything has changed yet.
        """
        self.inputs_scaled.scale_as(x)
        self.outputs_scaled.scale_as(y)
        if least is not None:
            self.outputs_scaled.deviation.copy_(torch.maximum(self.outputs_scaled.deviation, least))

    @property
    def layers(self) -> list[Tensor]:
        """The shared weights as `adapted` makes others of them: weight and bias of each layer in turn."""
        return [each for pair in zip(self.weights, self.biases, strict=True) for each in pair]

    def forward(
        self, x: Tensor, layers: Sequence[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of y in its own deviations. [..., B, X] -> [..., N, B, Y] each, of stations' own layers
        with n in front, [n, B, X] -> [n, N, B, Y]. With a generator some of the last hidden layer is left out.
        """
        layers = self.layers if layers is None else layers
        hidden = self.inputs_scaled(x).unsqueeze(-3)  # [..., 1, B, X]
        for i in range(0, len(layers) - 2, 2):
            hidden = F.silu(torch.matmul(hidden, layers[i]) + layers[i + 1])
        if generator is not None and self.dropout:
            kept = torch.rand(hidden.shape, generator=generator) >= self.dropout
            hidden = hidden * kept / (1 - self.dropout)
        out = torch.matmul(hidden, layers[-2]) + layers[-1]
        mean, raw = out.split(self.outputs, -1)
        # Softly within its limits, so that there is a gradient everywhere
        log_variance = MOST_LOG_VARIANCE - F.softplus(MOST_LOG_VARIANCE - raw)
        return mean, LEAST_LOG_VARIANCE + F.softplus(log_variance - LEAST_LOG_VARIANCE)

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None, evenness: float = 0.0) -> Tensor:
        """Negative log likelihood, summed over the members; each has rows of its own. [N, B, X], [N, B, Y] -> []"""
        apart = [each[:, None] for each in self.layers]  # each member as if it were a station's ensemble of one
        mean, log_variance = self(x, apart, generator)  # [N, 1, B, Y]
        return self.unlikeliness(mean[:, 0], log_variance[:, 0], y, evenness).mean(1).sum()

    def unlikeliness(self, mean: Tensor, log_variance: Tensor, y: Tensor, evenness: float = 0.0) -> Tensor:
        """Negative log likelihood of y, the mean over its numbers. [..., Y], in its units -> [...]. `evenness` is the
        beta of Seitzer et al., arXiv 2203.09168: at 1 means learn as by squared error, and what is rare and looks like
        noise at first is learned all the same.
        """
        scaled = (y - self.outputs_scaled.mean) / self.outputs_scaled.deviation
        each = 0.5 * ((scaled - mean).square() * (-log_variance).exp() + log_variance)
        return ((evenness * log_variance.detach()).exp() * each if evenness else each).mean(-1)

    def predict(self, x: Tensor, layers: Sequence[Tensor] | None = None) -> Tensor:
        """The mean of the members. [..., B, X] -> [..., B, Y] in y's units"""
        return self.forward(x, layers)[0].mean(-3) * self.outputs_scaled.deviation + self.outputs_scaled.mean

    def opinions(self, x: Tensor, passes: int = 0, generator: torch.Generator | None = None) -> Tensor:
        """What each member says, or with `passes` what it says each time that something else is left out. [B, X] ->
        [N, B, Y] or [passes N, B, Y], in y's deviations
        """
        if not passes:
            return self.forward(x)[0]
        return torch.cat([self.forward(x, generator=generator)[0] for _ in range(passes)])


def disagreement(opinions: Tensor, floor: float) -> Tensor:
    """u of what members say [N, ..., Y]; `floor` is s0, in y's deviations. -> [...]"""
    return torch.log1p(opinions.var(0, correction=0) / floor**2).sum(-1)


def adapted(
    model: DynamicsEnsemble,
    layers: Sequence[Tensor],
    x: Tensor,
    y: Tensor,
    counted: Tensor,
    rate: float,
    steps: int,
) -> list[Tensor]:
    """Each station's own layers after so many steps of Adam, begun anew, on what it has seen last; scales stay.

    layers: n in front. x [n, B, X], y [n, B, Y], counted [n, B]: 1 where there is a row, 0 where a station has fewer.
    """
    with torch.enable_grad():
        own = [each.detach().clone().requires_grad_(True) for each in layers]
        optimiser = torch.optim.Adam(own, lr=rate)
        for _ in range(steps):
            mean, log_variance = model(x, own)  # [n, N, B, Y]
            each = model.unlikeliness(mean, log_variance, y[:, None])  # [n, N, B]
            rows = counted.sum(1).clamp(min=1)[:, None]
            optimiser.zero_grad()
            # A sum over stations: each one's gradient is its own
            ((each * counted[:, None]).sum(2) / rows).sum().backward()
            optimiser.step()
    return [each.detach() for each in own]


def imagined(step: Callable[[Tensor, Tensor], Tensor], state: Tensor, actions: Tensor) -> Tensor:
    """The states that n stations' K plans lead to. step: [n, K, S], [n, K, A] -> [n, K, S]; state [n, S], actions [n,
    K, H, A] -> [n, K, H, S]
    """
    now, states = state[:, None].expand(-1, actions.shape[1], -1), []
    for action in actions.unbind(2):
        now = step(now, action)
        states.append(now)
    return torch.stack(states, 2)


def ause(errors: np.ndarray, uncertainties: np.ndarray) -> float:
    """Area under the sparsification error, in mean errors: how much larger the mean error of what is left is when the
    most uncertain are taken away than when the worst are, over all shares that can be taken. 0: uncertainty sorts as
    error does. [n], [n]
    """

    def left(order: np.ndarray) -> np.ndarray:
        """Mean error of what is left after 0, 1, ... n - 1 have been taken away, in this order."""
        last_first = errors[order][::-1]
        means: np.ndarray = (np.cumsum(last_first) / np.arange(1, len(errors) + 1))[::-1]
        return means

    by_uncertainty = left(np.argsort(-uncertainties, kind="stable"))
    by_error = left(np.argsort(-errors, kind="stable"))
    return float((by_uncertainty - by_error).mean() / max(errors.mean(), 1e-12))

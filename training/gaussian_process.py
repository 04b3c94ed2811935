"""An exact Gaussian process whose noise differs from place to place, and what to look at next by it.

    K      = s k(X, X) + diag(noise),  k = exp(-1/2 sum_f (x_f - x'_f)^2 / l_f^2)
    mean   = s k* K^-1 y,  var_f = s - s^2 k* K^-1 k*^T
    left out, point i is missed by r_i = (K^-1 y)_i / (K^-1)_ii          (Rasmussen and Williams, equation 5.12)
    noise  = c (sum_i w_i r_i^2 / sum_i w_i),  w_i = exp(-|x - x_i|^2 / 2 h^2)

Length scales l, signals s and the factor c of the noise are those of the largest marginal likelihood; what is left out
and how likely it all is take turns. Each number of y has a signal and a noise of its own; length scales are shared.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROUNDS, STEPS, RATE = 2, 25, 0.1  # of a fit: noise anew each round, steps of Adam within
SMOOTHING = 0.5  # h, in the inputs' units: how far the noise of one place tells of another's
LEAST_NOISE = 1e-4  # share of a number's own variance
SCALES = (0.05, 10.0)  # of a length scale, in the inputs' units


@dataclass
class Prediction:
    """At n places: of each of the D numbers its mean, what the model does not know of it, and its noise."""

    mean: Tensor  # [n, D]
    var_model: Tensor  # [n, D]
    var_noise: Tensor  # [n, D]


class GaussianProcess(nn.Module):
    """Up to `capacity` points, all of them in buffers, float64. Whoever changes them calls fit()."""

    inputs: Tensor  # [capacity, F]
    targets: Tensor  # [capacity, D]
    residuals: Tensor  # [capacity, D] left out, each point is missed by so much
    count: Tensor  # []
    log_scales: Tensor  # [F]
    log_signal: Tensor  # [D], as a share of the targets' variance
    log_factor: Tensor  # [D], c

    def __init__(self, capacity: int, features: int, numbers: int):
        super().__init__()
        for name, size in (("inputs", features), ("targets", numbers), ("residuals", numbers)):
            self.register_buffer(name, torch.zeros(capacity, size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        for name, size in (("log_scales", features), ("log_signal", numbers), ("log_factor", numbers)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    @property
    def points(self) -> tuple[Tensor, Tensor]:
        """Inputs [N, F] and targets [N, D] so far."""
        n = int(self.count)
        return self.inputs[:n], self.targets[:n]

    def add(self, x: Tensor, y: Tensor) -> None:
        """One more point. [F], [D]; ValueError where there is no room left."""
        n = int(self.count)
        if n == len(self.inputs):
            raise ValueError(f"This process holds {n} points and no more; give it a larger capacity.")
        self.inputs[n], self.targets[n] = x, y
        self.count += 1

    def _scaled(self) -> tuple[Tensor, Tensor, Tensor]:
        """Targets of mean 0 and deviation 1 [D, N], their means [D] and deviations [D]."""
        _, y = self.points
        mean, deviation = y.mean(0), y.std(0).clamp(min=1e-9)
        return ((y - mean) / deviation).T, mean, deviation

    def _kernel(self, a: Tensor, b: Tensor, log_scales: Tensor) -> Tensor:
        return torch.exp(-0.5 * torch.cdist(a / log_scales.exp(), b / log_scales.exp()).square())

    def weights(self, x: Tensor) -> Tensor:
        """How near each place is to each point, 1 at the point itself. [n, F] -> [n, N]"""
        return torch.exp(-0.5 * (torch.cdist(x, self.points[0]) / SMOOTHING).square())

    def smoothed(self, x: Tensor, values: Tensor) -> Tensor:
        """Means of what each point has, by nearness. [n, F], [N, D] -> [n, D]"""
        weights = self.weights(x)
        return weights @ values / weights.sum(1, keepdim=True).clamp(min=1e-12)

    def _noise(self, x: Tensor, log_factor: Tensor) -> Tensor:
        """Of the scaled targets. [n, F] -> [D, n]"""
        squares = self.smoothed(x, self.residuals[: int(self.count)].square()).T
        return log_factor.exp()[:, None] * squares + LEAST_NOISE

    def _covariance(self, log_scales: Tensor, log_signal: Tensor, log_factor: Tensor) -> Tensor:
        """K of each number. [D, N, N]"""
        x, _ = self.points
        kernel = self._kernel(x, x, log_scales)
        return log_signal.exp()[:, None, None] * kernel + torch.diag_embed(self._noise(x, log_factor))

    def fit(self) -> None:
        """Hyper-parameters and noise anew, from where they were."""
        y, _, _ = self._scaled()
        self.residuals[: int(self.count)] = 1.0
        for _ in range(ROUNDS):
            self._climb(y)
            with torch.no_grad():
                inverse = torch.linalg.inv(self._covariance(self.log_scales, self.log_signal, self.log_factor))
                self.residuals[: int(self.count)] = ((inverse @ y[..., None])[..., 0] / inverse.diagonal(dim1=1, dim2=2)).T

    def _climb(self, y: Tensor) -> None:
        """Towards the largest marginal likelihood of y [D, N]."""
        found = [value.clone().requires_grad_() for value in (self.log_scales, self.log_signal, self.log_factor)]
        optimiser = torch.optim.Adam(found, lr=RATE)
        for _ in range(STEPS):
            factor = torch.linalg.cholesky(self._covariance(*found))
            alpha = torch.cholesky_solve(y[..., None], factor)
            unlikely = 0.5 * (y * alpha[..., 0]).sum() + factor.diagonal(dim1=1, dim2=2).log().sum()
            # A weak prior, so that a length scale of which the points say nothing stays where it can come back from.
            unlikely = unlikely + 0.5 * (found[0].square().sum() + found[1].square().sum() + found[2].square().sum())
            optimiser.zero_grad()
            unlikely.backward()
            optimiser.step()
            with torch.no_grad():
                found[0].clamp_(math.log(SCALES[0]), math.log(SCALES[1]))
        for buffer, value in zip((self.log_scales, self.log_signal, self.log_factor), found, strict=True):
            buffer.copy_(value.detach())

    @torch.no_grad()
    def predict(self, x: Tensor) -> Prediction:
        """[n, F] -> in the targets' units, variances in their squares"""
        y, mean, deviation = self._scaled()
        signal = self.log_signal.exp()[:, None, None]
        factor = torch.linalg.cholesky(self._covariance(self.log_scales, self.log_signal, self.log_factor))
        cross = signal * self._kernel(x, self.points[0], self.log_scales)  # [D, n, N]
        alpha = torch.cholesky_solve(y[..., None], factor)
        half = torch.linalg.solve_triangular(factor, cross.mT, upper=False)  # [D, N, n]
        model = (signal[..., 0] - half.square().sum(1)).clamp(min=0)
        scale = deviation.square()
        noise = self._noise(x, self.log_factor).T * scale
        return Prediction((cross @ alpha)[..., 0].T * deviation + mean, model.T * scale, noise)

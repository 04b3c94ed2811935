"""An exact Gaussian process whose noise differs from place to place, and by what to choose where to look next.

    K      = s k(X, X) + diag(noise),  k(x, x') = exp(-1/2 sum_f (x_f - x'_f)^2 / l_f^2)
    mean   = s k* K^-1 y,  var_f = s - s^2 k* K^-1 k*^T
    left out, point i is missed by r_i = (K^-1 y)_i / (K^-1)_ii          (Rasmussen and Williams 2006, equation 5.12)
    noise  = c sum_i w_i r_i^2 / sum_i w_i,  w_i = exp(-|x - x_i|^2 / 2 h^2)

Length scales l, signals s and the noise's factor c are those of the largest marginal likelihood; that and the noise
take turns. Each number that is predicted has a signal and a noise of its own; length scales they share.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROUNDS, STEPS, RATE = 2, 25, 0.1  # of a fit: so often the noise is made anew, after so many steps of Adam
SMOOTHING = 0.5  # h, in the inputs' units: how far the noise of one place tells of another's
LEAST_NOISE = 1e-4  # share of a number's own variance
SCALES = (0.05, 10.0)  # of a length scale, in the inputs' units
FRESH = (0.0, 0.0, -1.0)  # logarithms of l, s and c where a climb begins anew


@dataclass
class Prediction:
    """Of n places, in the targets' units and their squares."""

    mean: Tensor  # [n, D]
    var_model: Tensor  # [n, D], what more points would take away
    var_noise: Tensor  # [n, D], what they would not


class GaussianProcess(nn.Module):
    """Up to `capacity` points and all that is made of them, in buffers of double precision."""

    inputs: Tensor  # [capacity, F]
    targets: Tensor  # [capacity, D]
    residuals: Tensor  # [capacity, D] r, in deviations of the targets
    surprises: Tensor  # [capacity, D] how far each point was from what was predicted before it came
    count: Tensor  # [] points
    fitted: Tensor  # [] of them that fit() has seen
    log_scales: Tensor  # [F]
    log_signal: Tensor  # [D]
    log_factor: Tensor  # [D]

    def __init__(self, capacity: int, features: int, numbers: int):
        super().__init__()
        sizes = {"inputs": features, "targets": numbers, "residuals": numbers, "surprises": numbers}
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(capacity, size, dtype=torch.float64))
        for name in ("count", "fitted"):
            self.register_buffer(name, torch.zeros((), dtype=torch.long))
        for name, size in (("log_scales", features), ("log_signal", numbers), ("log_factor", numbers)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    def __len__(self) -> int:
        return int(self.count)

    @property
    def points(self) -> tuple[Tensor, Tensor]:
        """Inputs [N, F] and targets [N, D]."""
        return self.inputs[: len(self)], self.targets[: len(self)]

    def add(self, x: Tensor, y: Tensor) -> None:
        """Points that came together. [n, F], [n, D]; ValueError where there is no room for them."""
        old, new = len(self), len(self) + len(x)
        if new > len(self.inputs):
            raise ValueError(f"This process holds at most {len(self.inputs)} points; give it a larger capacity.")
        self.surprises[old:new] = y - self.predict(x).mean if self.fitted else y
        self.inputs[old:new], self.targets[old:new] = x, y
        self.count += len(x)

    def _scaled(self) -> tuple[Tensor, Tensor, Tensor]:
        """Targets of those that were fitted, of mean 0 and deviation 1 [D, N], their means [D] and deviations [D]."""
        y = self.targets[: int(self.fitted)]
        mean, deviation = y.mean(0), y.std(0).clamp(min=1e-9)
        return ((y - mean) / deviation).T, mean, deviation

    def near(self, x: Tensor) -> Tensor:
        """How near places are to each fitted point, 1: there. [n, F] -> [n, N]"""
        return torch.exp(-0.5 * (torch.cdist(x, self.inputs[: int(self.fitted)]) / SMOOTHING).square())

    def smoothed(self, x: Tensor, values: Tensor) -> Tensor:
        """Means of what the fitted points have, by nearness. [n, F], [N, D] -> [n, D]"""
        weights = self.near(x)
        return weights @ values / weights.sum(1, keepdim=True).clamp(min=1e-12)

    def _kernel(self, a: Tensor, b: Tensor, log_scales: Tensor) -> Tensor:
        return torch.exp(-0.5 * torch.cdist(a / log_scales.exp(), b / log_scales.exp()).square())

    def _covariance(self, log_scales: Tensor, log_signal: Tensor, log_factor: Tensor, squares: Tensor) -> Tensor:
        """K of each number. squares [N, D]: the noise before its factor. -> [D, N, N]"""
        x = self.inputs[: int(self.fitted)]
        noise = log_factor.exp()[:, None] * squares.T + LEAST_NOISE
        return log_signal.exp()[:, None, None] * self._kernel(x, x, log_scales) + torch.diag_embed(noise)

    def _squares(self, x: Tensor) -> Tensor:
        """Smoothed squares of the residuals. [n, F] -> [n, D]"""
        return self.smoothed(x, self.residuals[: int(self.fitted)].square())

    def fit(self) -> None:
        """Hyper-parameters and the noise anew, of all points. It takes at least two."""
        self.fitted.copy_(self.count)
        n = int(self.fitted)
        x, (y, _, _) = self.inputs[:n], self._scaled()
        self.residuals[:n] = 1.0
        now = self.log_scales, self.log_signal, self.log_factor
        for number in range(ROUNDS):
            squares = self._squares(x)
            # From where they were, and from where points say much: the likelihood has another top, where all is noise.
            fresh = [torch.full_like(each, log) for each, log in zip(now, FRESH, strict=True)]
            starts = [now] if number else [now, fresh]
            found = [self._climb(y, squares, start) for start in starts]
            _, best = min(found, key=lambda each: each[0])
            for buffer, value in zip(now, best, strict=True):
                buffer.copy_(value)
            inverse = torch.linalg.inv(self._covariance(self.log_scales, self.log_signal, self.log_factor, squares))
            self.residuals[:n] = ((inverse @ y[..., None])[..., 0] / inverse.diagonal(dim1=1, dim2=2)).T

    def _climb(self, y: Tensor, squares: Tensor, start: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        """Towards the largest marginal likelihood of y [D, N]: how unlikely y is there, and the hyper-parameters."""
        found = [value.clone().requires_grad_() for value in start]
        optimiser = torch.optim.Adam(found, lr=RATE)

        def unlikely() -> Tensor:
            scales, signal, factor = found
            lower = torch.linalg.cholesky(self._covariance(scales, signal, factor, squares))
            alpha = torch.cholesky_solve(y[..., None], lower)[..., 0]
            # A weak prior: where points say nothing of a number it stays where it can come back from.
            prior = 0.5 * torch.cat(found).square().sum()
            return 0.5 * (y * alpha).sum() + lower.diagonal(dim1=1, dim2=2).log().sum() + prior

        with torch.enable_grad():
            for _ in range(STEPS):
                optimiser.zero_grad()
                unlikely().backward()
                optimiser.step()
                with torch.no_grad():
                    found[0].clamp_(*map(math.log, SCALES))
        with torch.no_grad():
            return float(unlikely()), [value.detach() for value in found]

    def _solved(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """K's Cholesky factor [D, N, N], s k* [D, n, N], L^-1 s k*^T [D, N, n] and var_f of scaled targets [D, n]"""
        squares = self._squares(self.inputs[: int(self.fitted)])
        lower = torch.linalg.cholesky(self._covariance(self.log_scales, self.log_signal, self.log_factor, squares))
        signal = self.log_signal.exp()
        cross = signal[:, None, None] * self._kernel(x, self.inputs[: int(self.fitted)], self.log_scales)
        half = torch.linalg.solve_triangular(lower, cross.mT, upper=False)
        return lower, cross, half, (signal[:, None] - half.square().sum(1)).clamp(min=1e-12)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Prediction:
        """[n, F], of the points that were fitted; RuntimeError where none was."""
        if not self.fitted:
            raise RuntimeError("A Gaussian process predicts nothing before it was fitted to points.")
        y, mean, deviation = self._scaled()
        lower, cross, _, model = self._solved(x)
        alpha = torch.cholesky_solve(y[..., None], lower)
        noise = self.log_factor.exp() * self._squares(x) + LEAST_NOISE
        scale = deviation.square()
        return Prediction((cross @ alpha)[..., 0].T * deviation + mean, model.T * scale, noise * scale)

    @torch.no_grad()
    def gains(self, x: Tensor, others: Tensor) -> Tensor:
        """By how much a point at each place makes the root of the mean var_f of the others fall, summed over the D
        numbers. [n, F], [m, F] -> [n]
        """
        deviation = self._scaled()[2].square()[:, None]
        _, _, half, model = self._solved(x)
        _, _, half_others, model_others = self._solved(others)
        signal = self.log_signal.exp()[:, None, None]
        shared = signal * self._kernel(x, others, self.log_scales) - half.mT @ half_others  # [D, n, m]
        noise = (self.log_factor.exp() * self._squares(x) + LEAST_NOISE).T  # [D, n]
        fall = (shared.square().mean(2) / (model + noise) * deviation).sum(0)
        before = (model_others.mean(1, keepdim=True) * deviation).sum()
        return before.sqrt() - (before - fall).clamp(min=0).sqrt()


# What a place is worth looking at


def learning_progress(process: GaussianProcess, x: Tensor) -> Tensor:
    """How much less the points near each place are missed now than when they came, at least 0. [n, F] -> [n]"""
    n, deviation = int(process.fitted), process._scaled()[2]
    now = (process.residuals[:n] * deviation).norm(dim=1)
    return process.smoothed(x, (process.surprises[:n].norm(dim=1) - now)[:, None])[:, 0].clamp(min=0)


def model_uncertainty(process: GaussianProcess, x: Tensor) -> Tensor:
    """U_total - U_data, all D numbers together. [n, F] -> [n]

    U_total = var_f + noise,  U_data = noise n_eff / (n_eff + 1) exp(-LP / sqrt(noise))

    What looks like noise is taken for it only where there are points enough (n_eff) and nothing is being learned (LP).
    """
    predicted = process.predict(x)
    model, noise = predicted.var_model.sum(1), predicted.var_noise.sum(1)
    points = process.near(x).sum(1)
    data = noise * points / (points + 1) * torch.exp(-learning_progress(process, x) / noise.sqrt())
    return model + noise - data


def _total(process: GaussianProcess, x: Tensor) -> Tensor:
    predicted = process.predict(x)
    return (predicted.var_model + predicted.var_noise).sum(1)


def _var_f(process: GaussianProcess, x: Tensor) -> Tensor:
    return process.predict(x).var_model.sum(1)


# (a process, places [n, F]) -> [n], the larger the better; "random" asks nothing
ACQUISITIONS: dict[str, Callable[[GaussianProcess, Tensor], Tensor] | None] = {
    "musel": model_uncertainty,
    "total": _total,
    "progress": learning_progress,
    "var_f": _var_f,
    "random": None,
}


def choose(scores: Tensor, x: Tensor, count: int, apart: float, avoided: Tensor | None = None) -> list[int]:
    """The best places, each the less worth the nearer it is to what was chosen or is avoided. [n], [n, F] -> count rows

    `apart`: how far that reaches, in the inputs' units.
    """
    scores = scores.clone()
    chosen: list[int] = []
    for place in avoided if avoided is not None else ():
        scores *= 1 - torch.exp(-0.5 * ((x - place) / apart).square().sum(1))
    for _ in range(count):
        chosen.append(int(scores.argmax()))
        scores *= 1 - torch.exp(-0.5 * ((x - x[chosen[-1]]) / apart).square().sum(1))
        scores[chosen[-1]] = -math.inf
    return chosen

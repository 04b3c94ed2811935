"""Planning by chance: MPPI (Williams et al., arXiv 1707.02342), for any score of plans, many stations at once.

    a_k    = clip(mean + eps_k),   eps_k,h = c eps_k,h-1 + sqrt(1 - c^2) sigma z_k,h,   z ~ N(0, 1)
    mean  <- sum_k w_k a_k,        w = softmax over k of score_k / (beta deviation of the scores)

The temperature beta counts in deviations of a station's own candidates, so that it means the same whatever a score is
counted in. Next time begins with the rest of the plan.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Planner:
    """How a plan is looked for."""

    candidates: int = 256  # K
    horizon: int = 5  # H, steps
    sigma: float = 0.4  # as a share of half the range of each number of an action
    temperature: float = 0.1  # beta
    correlation: float = 0.0  # c, of a candidate's noise from step to step
    iterations: int = 1

    def plan(
        self,
        mean: Tensor,
        score: Callable[[Tensor], Tensor],
        low: Tensor,
        high: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """A better plan. mean [n, H, A] -> the same; score: [n, K, H, A] -> [n, K], more is better; low, high [A]"""
        for _ in range(self.iterations):
            plans = self._candidates(mean, low, high, generator)
            scores = score(plans)
            scores = scores - scores.amax(1, keepdim=True)
            weights = (scores / (self.temperature * scores.std(1, keepdim=True).clamp(min=1e-9))).softmax(1)
            mean = (weights[..., None, None] * plans).sum(1)
        return mean

    def _candidates(self, mean: Tensor, low: Tensor, high: Tensor, generator: torch.Generator | None) -> Tensor:
        """[n, K, H, A]; the first of each station is the plan as it is."""
        n, horizon, size = mean.shape
        noise = self.sigma * torch.randn(n, self.candidates, horizon, size, generator=generator)
        fresh = (1 - self.correlation**2) ** 0.5
        for step in range(1, horizon if self.correlation else 0):
            noise[:, :, step] = self.correlation * noise[:, :, step - 1] + fresh * noise[:, :, step]
        noise[:, 0] = 0
        plans = mean[:, None] + noise.to(mean.device) * (high - low) / 2
        return torch.maximum(torch.minimum(plans, high), low)


def rest_of(plan: Tensor, resting: Tensor) -> Tensor:
    """A plan one step later; its last step repeats what a body at rest is told. [n, H, A], [A] -> [n, H, A]"""
    return torch.cat([plan[:, 1:], resting.expand(len(plan), 1, -1)], 1)

"""Every equation of the method (arXiv 2509.15155), and nothing else.

    d(o, g) = E[steps-to-go | o, g]                     what the reward model says of an observation
    r_t     = d(o_t, g) - d(o_{t+1}, g)                 progress made by the action a_t
    R_t     = sum_{i >= t} gamma^(i-t) r_i              cut off where the policy's part of the episode ends
    A_t     = R_t - V(o_t, g)                           ours: V is a critic's (critics.py); V = 0 is the paper's
    loss    = -c A_t log p(a_t | o_t, g)                REINFORCE; -d is a baseline that is built into r already;
                                                        clipped where steps are used more than once
    success : d(o, g) <= s, k frames in a row           the detector, which ends an episode

A policy's success prediction, which tells supervisors what will come of an attempt, is learned in hindsight
(success_bins).

Stage 1 (methods/sft.py) uses the bins, stage 2 (methods/self_improvement.py) the rest. A station's detector is in
robots/termination.py, which knows no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# The values of s that are tried: "a very small number of timesteps".
THRESHOLDS = np.arange(1, 121) / 10

# The paper chooses c so that c R_t lies about in [-1, 1]. A block that falls costs as much as a hundred steps, and the
# few steps before a fall must not drown all others: on seeds 100 and 102, 800 demonstrations, 240 episodes led to .94
# and .93 within 56 steps, a figure of speed, with the bound; to .89 and .94 without.
LARGEST_RETURN = 3.0


def bin_of_steps(steps: Tensor, bins: int, width: float) -> Tensor:
    """The bin of a number of steps; what is further away than the last bin falls into it."""
    return (steps / width).floor().long().clamp(0, bins - 1)


def bin_values(bins: int, width: float) -> Tensor:
    """The number of steps that each bin stands for: the mean of the whole numbers in it. [bins]"""
    return torch.arange(bins, dtype=torch.float32) * width + (width - 1) / 2


def distribution(logits: Tensor) -> Tensor:
    """p(steps-to-go | o, g). [..., bins]"""
    return logits.softmax(-1)


def success_bins(steps: int, succeeded: bool, bins: int, width: float) -> Tensor:
    """What a policy's success prediction should have said at the T + 1 frames of an attempt of T steps, in hindsight:
    the bin of the steps to its success, or the last one for "not before the time limit". [T + 1]
    """
    if not succeeded:
        return torch.full((steps + 1,), bins - 1)
    return bin_of_steps(torch.arange(steps, -1, -1), bins, width).clamp(max=bins - 2)


def expected_steps(distribution: Tensor, width: float) -> Tensor:
    """d(o, g). [..., bins] -> [...]"""
    return distribution @ bin_values(distribution.shape[-1], width).to(distribution)


def rewards(d: np.ndarray) -> np.ndarray:
    """r_t of T actions from d at their T+1 observations."""
    return d[:-1] - d[1:]


def potential_rewards(d: np.ndarray, farthest: float, gamma: float, ended: bool) -> np.ndarray:
    """gamma Phi(o_{t+1}) - Phi(o_t) of T actions from d at their T + 1 observations; Phi = -d / farthest, and 0 where
    an attempt has come to its end. What is best to do is the same with it and without (Ng, Harada, Russell, 1999).
    """
    potential = -d / farthest
    after = potential[1:].copy()
    if ended:
        after[-1] = 0.0
    return gamma * after - potential[:-1]


def returns(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """R_t. The sum is cut off at the last reward: a time limit is not terminal, and nothing is bootstrapped."""
    total, result = 0.0, np.zeros(len(rewards), np.float64)
    for t in reversed(range(len(rewards))):
        total = float(rewards[t]) + gamma * total
        result[t] = total
    return result


def policy_steps(actors: np.ndarray, policy: int = 0) -> int:
    """How many steps the policy may learn from: those before anybody else acted. An override cuts the episode there."""
    others = np.flatnonzero(np.asarray(actors) != policy)
    return int(others[0]) if len(others) else len(actors)


@dataclass
class RunningDeviation:
    """The standard deviation of all returns so far, so that the loss keeps its size whatever the scale of d in a task.

    The mean is NOT subtracted from a return: the baseline is in the reward already, and a return below the average of a
    good policy is still progress.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean

    def state_dict(self) -> dict[str, Tensor]:
        """Saved and restored as networks are."""
        return {"sums": torch.tensor([self.count, self.mean, self.squares], dtype=torch.float64)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """What state_dict() gave."""
        count, self.mean, self.squares = tensors["sums"].tolist()
        self.count = int(count)

    def add(self, values: np.ndarray) -> None:
        """Chan's update of count, mean and squares with a batch."""
        if not len(values):
            return
        values = np.asarray(values, np.float64)
        count = self.count + len(values)
        delta = values.mean() - self.mean
        self.squares += float(((values - values.mean()) ** 2).sum() + delta**2 * self.count * len(values) / count)
        self.mean += float(delta) * len(values) / count
        self.count = count

    def divide(self, values: np.ndarray) -> np.ndarray:
        """In standard deviations, within +- LARGEST_RETURN of them."""
        deviation = (self.squares / self.count) ** 0.5 if self.count else 0.0
        return np.clip(values / deviation if deviation > 1e-6 else values, -LARGEST_RETURN, LARGEST_RETURN)


def advantages(returns: Tensor, expected: Tensor) -> Tensor:
    """A_t = R_t - V(o_t, g), both in standard deviations of the returns, within +- LARGEST_RETURN. [n], [n] -> [n]"""
    return (returns - expected).clamp(-LARGEST_RETURN, LARGEST_RETURN)


def reinforce_loss(
    log_probability: Tensor, when_acted: Tensor, advantages: Tensor, scale: float, clip: float
) -> Tensor:
    """-c min(q A_t, clip(q, 1 - e, 1 + e) A_t), averaged over the batch; q = p(a_t | o_t, g) over what it was when the
    station acted. [batch], [batch] log probabilities, [batch] -> []

    While q is 1, in the first update of a round, its gradient is that of -c A_t log p. When the same steps are used
    again, nothing is gained by going farther from the policy that acted (Schulman et al., arXiv 1707.06347, equation
    7).
    """
    ratio = (log_probability - when_acted).exp()
    return -(scale * torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)).mean()


def first_detections(d: np.ndarray, thresholds: np.ndarray, consecutive: int) -> np.ndarray:
    """For each s the frame at which the detector ends an episode with these d, or -1. Frame 0 never does: nothing was
    done yet. [T + 1], [S] -> [S]
    """
    if len(d) < max(2, consecutive):
        return np.full(len(thresholds), -1)
    worst = np.lib.stride_tricks.sliding_window_view(np.asarray(d), consecutive).max(1)  # of the frames up to each
    if consecutive == 1:
        worst = worst[1:]
    lowest = np.minimum.accumulate(worst)
    at = np.searchsorted(-lowest, -np.asarray(thresholds, lowest.dtype))  # the first that is no more than s
    return np.where(at < len(lowest), at + max(1, consecutive - 1), -1)


def first_detection(d: np.ndarray, threshold: float, consecutive: int) -> int | None:
    """The frame at which the detector ends an episode with these d."""
    frame = int(first_detections(d, np.array([threshold]), consecutive)[0])
    return frame if frame >= 0 else None


def choose_detector(
    d_of_demonstrations: Sequence[np.ndarray], most_consecutive: int, margin: float, premature_share: float
) -> tuple[float, int]:
    """s and k, from d over whole demonstrations.

    A demonstrator goes on for about `margin` steps after success, so a detection with more than that still to go is
    premature. Of all pairs with at most `premature_share` premature detections the one that detects most
    demonstrations; of equals the fewest frames, then the largest s. A stricter one misses goals, and practice that
    goes on beyond the goal, where d is not to be trusted, unlearns: success fell from .98 to .65.
    """
    ends = np.array([d[-1] for d in d_of_demonstrations], np.float64)
    last = np.array([len(d) - 1 for d in d_of_demonstrations])[:, None]
    chosen, most = (float(np.median(ends)), 1), (0, 0, 0.0)  # how many are detected, -k, s
    for consecutive in range(1, most_consecutive + 1):
        fired = np.stack([first_detections(d, THRESHOLDS, consecutive) for d in d_of_demonstrations])  # [E, S]
        detected = (fired >= 0).sum(0)
        premature = ((fired >= 0) & (last - fired > margin)).sum(0)
        for number, threshold in enumerate(THRESHOLDS):
            merit = (int(detected[number]), -consecutive, float(threshold))
            if detected[number] and premature[number] <= premature_share * detected[number] and merit > most:
                chosen, most = (float(threshold), consecutive), merit
    return chosen

"""What stored curves of d say of the success detector: under another s or k, against the truth, and over time. numpy
alone, for pages that ask of thousands of attempts at once; the detector itself is in robots/termination.py.

Detected and true success are never mixed here: the one is computed from d, the other is given.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads scipy.stats at its first use

AHEAD = 20  # steps before a detection at which d is compared with what was left
FIRST = LAST = 50  # attempts of a station with one policy: the band, and what is held against it
LEAST_DRIFT = 2.0  # steps: less is no drift, however sure it is
SURE = 3.0  # standard errors of the difference
MOST_POINTS = 200  # of a ROC curve that is drawn


def padded(curves: Sequence[np.ndarray]) -> np.ndarray:
    """Curves of different lengths as rows; infinity where d is not known. N of [T + 1] -> [N, most]"""
    rows = np.full((len(curves), max((len(each) for each in curves), default=1)), np.inf, np.float32)
    for row, each in zip(rows, curves, strict=True):
        row[: len(each)] = each
    rows[np.isnan(rows)] = np.inf
    return rows


def worst_of(d: np.ndarray, consecutive: int) -> np.ndarray:
    """The largest of the newest k frames at each frame; infinity where the detector may not fire yet: on the first
    frame nothing was done. [N, T] -> [N, T]
    """
    worst = d.copy()
    for back in range(1, consecutive):
        worst[:, back:] = np.maximum(worst[:, back:], d[:, :-back])
    worst[:, : max(1, consecutive - 1)] = np.inf
    return worst


def first_detections(worst: np.ndarray, threshold: float) -> np.ndarray:
    """The frame at which each attempt would have ended, or -1. [N, T] -> [N]"""
    fires = worst <= np.float32(threshold)
    return np.where(fires.any(1), fires.argmax(1), -1)


def roc(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(false positive rate, true positive rate, s) of every detector that the attempts tell apart, and the area under
    the curve. `scores`: the lowest s that detects each attempt, infinity where none does. [N] float, [N] bool
    """
    order = np.argsort(scores, kind="stable")
    scores, truth = scores[order], truth[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True) & np.isfinite(scores))  # of those with one s
    right = np.cumsum(truth)[last] / max(1, truth.sum())
    wrong = np.cumsum(~truth)[last] / max(1, (~truth).sum())
    # What no s detects comes last: the curve goes on straight to the corner, as for a coin that is thrown.
    xs, ys = np.concatenate([[0.0], wrong, [1.0]]), np.concatenate([[0.0], right, [1.0]])
    area = float(np.trapezoid(ys, xs))
    return xs[1:-1], ys[1:-1], scores[last], area


def thinned(count: int, most: int = MOST_POINTS) -> np.ndarray:
    """So many indices at most of so many points, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.zeros(0, int)


def upper_bound(wrong: int, n: int, level: float = 0.95) -> float:
    """The most of a share that is wrong, by Clopper and Pearson, one-sided: with this probability it is no larger,
    whatever it is. 1 where nobody looked.
    """
    return 1.0 if wrong >= n else float(scipy.stats.beta.ppf(level, wrong + 1, n - wrong))


def error_ahead(d: np.ndarray, ahead: int = AHEAD) -> float | None:
    """By how many steps d was off so long before the end of an attempt that the detector ended; None where it was
    shorter, or d is not known there. [T + 1]
    """
    value = float(d[-1 - ahead]) if len(d) > ahead else math.nan
    return abs(value - ahead) if math.isfinite(value) else None


@dataclass(frozen=True)
class Drift:
    """The error of d, in steps, over the first and over the newest attempts."""

    first: float
    band: float  # beyond first + band is drift
    now: float

    @property
    def found(self) -> bool:
        """Whether d is off by more than it was at first."""
        return self.now > self.first + self.band


def drift(first: Sequence[float], last: Sequence[float]) -> Drift | None:
    """None while there are fewer attempts than FIRST and LAST. The band is SURE standard errors of the difference of
    the two means, and LEAST_DRIFT at least.
    """
    if len(first) < FIRST or len(last) < LAST:
        return None
    a, b = np.asarray(first, float), np.asarray(last, float)
    error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return Drift(float(a.mean()), max(LEAST_DRIFT, SURE * error), float(b.mean()))


def misses(curves: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Predicted steps to go, and how many were left, at each observation of attempts that ended at their goal; without
    those where d is not known. N of [T + 1] -> [M], [M]
    """
    if not len(curves):
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    lengths = np.array([len(each) for each in curves])
    predicted = np.concatenate(curves)
    realised = (np.repeat(lengths.cumsum(), lengths) - 1 - np.arange(lengths.sum())).astype(np.float32)
    known = np.isfinite(predicted)
    return (predicted, realised) if known.all() else (predicted[known], realised[known])


def error_and_bias(predicted: np.ndarray, realised: np.ndarray) -> tuple[float, float]:
    """The mean absolute error, and predicted less realised on average; NaN where there are none. [M], [M]"""
    if not len(predicted):
        return math.nan, math.nan
    off = predicted - realised
    return float(np.abs(off).mean(dtype=float)), float(off.mean(dtype=float))


def calibration(predicted: np.ndarray, realised: np.ndarray, edges: Sequence[float]) -> list[tuple[float, float, int]]:
    """For each bin of predicted d that holds any: (mean predicted, mean realised, observations). [M], [M]"""
    place = np.searchsorted(np.asarray(edges, np.float32), predicted, side="right")
    size = len(edges) + 1
    count = np.bincount(place, minlength=size)
    means = [np.bincount(place, each, size) / np.maximum(count, 1) for each in (predicted, realised)]
    return [(float(means[0][i]), float(means[1][i]), int(count[i])) for i in np.flatnonzero(count)]

"""How sure a share of successes or a mean is. Without torch: pages ask for it too."""

import math

import numpy as np
import scipy  # loads scipy.stats at its first use

DRAWS = 1000  # of a bootstrap


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The Wilson interval of a success rate, 95 %: sensible for few episodes and near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    interval = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def wilsons(successes: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of many rates at once, each of some attempts. [k], [k] -> [k], [k]"""
    z = scipy.special.ndtri(0.975)
    rate = successes / n
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return middle - reach, middle + reach


def newcombe(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float, float]:
    """The second success rate less the first, with Newcombe's 95 % interval; each is (successes, n) of its own
    attempts.
    """
    (a, n), (b, m) = first, second
    (low_a, high_a), (low_b, high_b), p, q = wilson(a, n), wilson(b, m), a / n, b / m
    low = q - p - math.hypot(q - low_b, high_a - p)
    return q - p, low, q - p + math.hypot(high_b - q, p - low_a)


def student(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's 95 % interval of the mean over the first axis, of two values at least. [S, ...] -> [...], [...]"""
    values = np.asarray(values, float)
    count = len(values)
    reach = scipy.stats.t.ppf(0.975, count - 1) * values.std(0, ddof=1) / math.sqrt(count)
    return values.mean(0) - reach, values.mean(0) + reach


def bootstrap(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The percentile bootstrap's 95 % interval of the mean over the first axis. The same values give the same one.
    [S, ...] -> [...], [...]
    """
    values = np.asarray(values, float)
    count = len(values)
    # How often each value is drawn, so that no copy of the values is made: [draws, S].
    times = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=DRAWS)
    means = np.tensordot(times / count, values, axes=1)  # [draws, ...]
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return low, high

"""How sure a share of successes is. Without torch: pages ask for it too."""

import scipy  # loads scipy.stats at its first use


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The Wilson interval of a success rate, 95 %: sensible for few episodes and near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    interval = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)

"""How sure a share of successes is. Arithmetic alone: pages ask for it too, which know no torch."""

import math

Z = 1.959963984540054  # the normal distribution's quantile of 0.975


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The Wilson interval of a success rate, 95 %: sensible for few episodes and near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    rate, square = successes / n, Z * Z
    middle = (rate + square / (2 * n)) / (1 + square / n)
    reach = Z / (1 + square / n) * math.sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    # The ends are exact where all or none succeeded, whatever the arithmetic rounds.
    low = 0.0 if successes == 0 else max(0.0, middle - reach)
    return low, 1.0 if successes == n else min(1.0, middle + reach)

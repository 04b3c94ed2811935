"""What two policies did on the same attempts, each with the same start and words: how much better is the second?
Without torch: pages ask for it too.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy  # loads scipy.stats at its first use

from training.intervals import wilson


@dataclass
class Difference:
    """The second less the first, of n attempts that both made."""

    n: int
    both: int  # succeeded
    only_first: int
    only_second: int
    difference: float  # of the success rates
    low: float  # 95 %, Newcombe's interval for paired rates
    high: float
    p: float  # McNemar's exact test: how likely so uneven a split is where neither is better
    # Mean steps to success of the second less the first, where both succeeded; None: of fewer than two attempts.
    steps: float | None
    steps_low: float | None  # Student's 95 % interval
    steps_high: float | None

    def to_json(self) -> dict[str, Any]:
        """As pages have it."""
        return asdict(self)


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], first_steps: Sequence[int], second_steps: Sequence[int]
) -> Difference:
    """Of n attempts each: who succeeded, and after how many steps. [n] each; n is at least 1"""
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    n = len(a)
    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    low, high = newcombe_paired(both, only_second, only_first, neither)
    uneven = only_first + only_second
    p = float(scipy.stats.binomtest(only_second, uneven).pvalue) if uneven else 1.0
    steps = (np.asarray(second_steps, float) - np.asarray(first_steps, float))[a & b]
    mean = reach = None
    if len(steps) > 1:
        mean = float(steps.mean())
        reach = float(scipy.stats.t.ppf(0.975, len(steps) - 1) * steps.std(ddof=1) / math.sqrt(len(steps)))
    return Difference(
        n,
        both,
        only_first,
        only_second,
        (only_second - only_first) / n,
        low,
        high,
        p,
        mean,
        None if mean is None or reach is None else mean - reach,
        None if mean is None or reach is None else mean + reach,
    )


def newcombe_paired(both: int, only_one: int, only_other: int, neither: int) -> tuple[float, float]:
    """95 % of the one's success rate less the other's, from how often both, either and neither succeeded.

    Newcombe, Statistics in Medicine 17 (1998), 2635, method 10: Wilson's limits of each rate, put together with their
    correlation. Sensible where nearly all attempts succeed, which the textbook's interval is not.
    """
    n = both + only_one + only_other + neither
    p, q = (both + only_one) / n, (both + only_other) / n
    (low_p, high_p), (low_q, high_q) = wilson(both + only_one, n), wilson(both + only_other, n)
    product = math.prod((both + only_one, only_other + neither, both + only_other, only_one + neither))
    excess = float(both * neither - only_one * only_other)
    if excess > 0:
        excess = max(0.0, excess - n / 2)
    phi = excess / math.sqrt(product) if product else 0.0
    down = (p - low_p) ** 2 - 2 * phi * (p - low_p) * (high_q - q) + (high_q - q) ** 2
    up = (high_p - p) ** 2 - 2 * phi * (high_p - p) * (q - low_q) + (q - low_q) ** 2
    return p - q - math.sqrt(max(0.0, down)), p - q + math.sqrt(max(0.0, up))

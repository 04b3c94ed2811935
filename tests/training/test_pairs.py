"""Two policies on the same attempts: the interval is Newcombe's, and it covers what it should."""

import numpy as np
import pytest

from training.pairs import newcombe_paired, paired_difference


def test_the_interval_as_it_is_by_hand():
    # By hand: p = .96, q = .76, Wilson .8654 to .9890 and .6259 to .8570; phi = -24 / sqrt(48 2 38 12).
    low, high = newcombe_paired(36, 12, 2, 0)
    assert (round(low, 4), round(high, 4)) == (0.0569, 0.3404)
    low, high = newcombe_paired(54, 0, 0, 0)
    assert (round(low, 4), round(high, 4)) == (-0.0664, 0.0664)


def test_the_difference_is_the_second_less_the_first():
    first, second = [True, True, False, False, False], [True, True, True, True, False]
    found = paired_difference(first, second, [10, 20, 60, 60, 60], [8, 14, 30, 30, 60])
    assert (found.both, found.only_first, found.only_second) == (2, 0, 2)
    assert found.difference == pytest.approx(0.4) and found.low < 0.4 < found.high
    assert found.steps == -4 and found.steps_low < -4 < found.steps_high and found.p == 0.5
    back = paired_difference(second, first, [8, 14, 30, 30, 60], [10, 20, 60, 60, 60])
    assert (back.low, back.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_without_a_common_success_nothing_is_said_of_steps():
    found = paired_difference([True, False], [False, True], [5, 9], [9, 5])
    assert found.steps is None and found.steps_low is None and found.p == 1.0


def test_it_covers_the_true_difference():
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(400):
        skill = rng.random(80)
        found = paired_difference(skill < 0.7, skill + rng.normal(0, 0.1, 80) < 0.8, [1] * 80, [1] * 80)
        held += found.low <= 0.1 - 0.0036 <= found.high  # about: the noise moves a little past 1 and 0
    assert held / 400 > 0.92

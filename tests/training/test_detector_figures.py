"""The detector's figures: as the station's detector would have ended attempts, and as scikit-learn counts."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from training import detector_figures as figures
from training import steps_to_go


def curves(count=200, seed=0):
    rng = np.random.default_rng(seed)
    made = [np.cumsum(rng.normal(-0.4, 3, rng.integers(2, 60))).astype(np.float32) + 20 for _ in range(count)]
    low = [np.full(steps, 0.3, np.float32) for steps in range(2, 9)]  # the detector could fire at once
    return [np.maximum(each, 0.3) for each in made] + low


@pytest.mark.parametrize("consecutive", (1, 2, 3, 5))
@pytest.mark.parametrize("threshold", (0.5, 2.5, 8.0))
def test_detections_are_those_of_the_detector_itself(threshold, consecutive):
    made = curves()
    found = figures.first_detections(figures.worst_of(figures.padded(made), consecutive), threshold)
    assert found.tolist() == [
        -1 if (frame := steps_to_go.first_detection(each, threshold, consecutive)) is None else frame for each in made
    ]
    assert -1 in found and (found > 0).any()


def test_what_was_not_judged_detects_nothing():
    found = figures.worst_of(figures.padded([np.array([9, np.nan, np.nan], np.float32)]), 1)
    assert figures.first_detections(found, 100.0).tolist() == [-1]


def test_the_roc_curve_is_the_one_that_scikit_learn_draws():
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 40, 300) / 4
    truth = rng.random(300) < 1 / (1 + np.exp(scores - 4))
    wrong, right, thresholds, area = figures.roc(scores, truth)
    xs, ys, cuts = roc_curve(truth, -scores, drop_intermediate=False)
    np.testing.assert_allclose(wrong, xs[1:])
    np.testing.assert_allclose(right, ys[1:])
    np.testing.assert_allclose(thresholds, -cuts[1:])
    assert area == pytest.approx(roc_auc_score(truth, -scores))


def test_what_no_threshold_detects_counts_as_a_coin():
    scores, truth = np.array([1.0, np.inf, np.inf]), np.array([True, True, False])
    assert figures.roc(scores, truth)[3] == pytest.approx(0.75)


def test_the_bound_of_errors_by_clopper_and_pearson():
    assert figures.upper_bound(0, 0) == 1 and figures.upper_bound(3, 3) == 1
    assert figures.upper_bound(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert figures.upper_bound(0, 300) < 0.01 < figures.upper_bound(1, 300)
    # It holds: of 200 draws of an error of 10 %, at most about one in twenty bounds lies below it.
    rng = np.random.default_rng(0)
    below = sum(figures.upper_bound(int(wrong), 60) < 0.1 for wrong in rng.binomial(60, 0.1, 2000))
    assert below / 2000 < 0.06


def test_the_error_ahead_of_a_detection():
    d = np.arange(30, -1, -1).astype(np.float32)
    assert figures.error_ahead(d) == 0 and figures.error_ahead(d + 3) == 3
    assert figures.error_ahead(d[-20:]) is None and figures.error_ahead(np.full(40, np.nan)) is None


def test_drift_is_what_the_band_does_not_explain():
    rng = np.random.default_rng(2)
    first = np.abs(rng.normal(0, 4, 50)).tolist()
    assert figures.drift(first[:-1], first) is None
    assert not figures.drift(first, np.abs(rng.normal(0, 4, 50)).tolist()).found
    assert figures.drift(first, (np.abs(rng.normal(0, 4, 50)) + 6).tolist()).found
    still = [0.0] * 50
    assert not figures.drift(still, [1.9] * 50).found and figures.drift(still, [2.1] * 50).found
    false = sum(figures.drift(*(np.abs(rng.normal(0, 4, (2, 50))).tolist())).found for _ in range(500))
    assert false <= 5


def test_calibration_compares_with_what_was_left():
    made = [np.arange(20, -1, -1).astype(np.float32) + 5 for _ in range(3)]
    whole = figures.misses(made)
    points = figures.calibration(*whole, [10, 20])
    assert figures.error_and_bias(*whole) == (5, 5) and sum(n for *_, n in points) == 63
    assert [n for *_, n in points] == [15, 30, 18], "5 to 9, 10 to 19, 20 to 25"
    assert all(predicted == pytest.approx(realised + 5) for predicted, realised, _ in points)
    none = figures.misses([])
    assert figures.calibration(*none, [10]) == [] and math.isnan(figures.error_and_bias(*none)[0])
    half = figures.misses([np.array([4, np.nan, 1], np.float32)])
    assert half[0].tolist() == [4, 1] and half[1].tolist() == [2, 0]

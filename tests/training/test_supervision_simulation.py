"""The simulated shift: one person's time is counted as it is, and P(no success) is judged as it was."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from robots.attention import need_of
from robots.embodiments import STATE
from training.checkpoints import Answer, Policy, RewardModel
from training.failure_prediction import auroc, brier, calibration_error, doubtful_since, judge_prediction
from training.supervision_simulation import ACT_S, SUPERVISIONS, first_come, most_worth, next_in_turn, work_a_shift

TABLE = need_of(state="needs_person", reason="the blue cube is off the table", state_for_s=1.0)
STOPPED = need_of(state="stopped", reason="", state_for_s=1.0)  # the same standstill, a longer act
ATTEMPT = need_of(state="practising", reason="", state_for_s=1.0, p_success=0.0, step=0, limit=100)


def test_where_the_person_goes_next_by_each_rule():
    needs = {4: (10.0, STOPPED), 7: (20.0, TABLE), 2: (5.0, ATTEMPT), 9: (15.0, TABLE)}
    assert most_worth(needs, last=-1) == 9, "what saves most, the longer wait among equals"
    assert first_come(needs, last=-1) == 2
    assert [next_in_turn(needs, last) for last in (-1, 2, 4, 7, 9)] == [2, 4, 7, 9, 2]
    assert most_worth({2: (5.0, ATTEMPT)}, last=-1) is None, "not worth the walk"
    assert most_worth({}, -1) is first_come({}, -1) is next_in_turn({}, -1) is None


@pytest.fixture
def loaded(finished_sft):
    return (
        Policy.load(finished_sft.checkpoints / "policy.safetensors"),
        RewardModel.load(finished_sft.checkpoints / "reward_model.safetensors"),
    )


def test_a_shift_counts_time_as_it_passes(loaded):
    paper = next(each for each in SUPERVISIONS if each.name == "paper")
    hurried = dataclasses.replace(paper, shuffle_every_s=10.0)  # much to do
    kept = []
    done = work_a_shift(hurried, *loaded, ["block2block"], stations=3, hours=0.02, seed=1, also_keep=kept.append)
    row = done.row("paper")
    assert done.seconds == pytest.approx(72) and row["episodes"] == len(kept) > 3
    acts = sum(done.touches.values())
    assert 0 < acts <= 72 / ACT_S and done.human_s >= acts * ACT_S - 1
    assert row["touches_per_robot_hour"] == pytest.approx(acts / (0.02 * 3))
    # Whoever waits for the person does not practise.
    assert 0 < row["utilisation"] < 1 and row["human_busy"] <= 1
    assert row["successes_per_hour"] == sum(bool(episode.true_success) for episode in kept) / 0.02
    again = work_a_shift(hurried, *loaded, ["block2block"], stations=3, hours=0.02, seed=1)
    assert again.row("paper") == row, "a seed decides the whole shift"


def test_the_area_under_the_curve_by_hand():
    score, positive = np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False])
    assert auroc(score, positive) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert auroc(score, np.ones(4, bool)) is None and auroc(score, np.zeros(4, bool)) is None
    assert auroc(np.array([]), np.array([], bool)) is None


def test_calibration_by_hand():
    # Two of .95, one of which happened; two of .05, none of which did.
    error = calibration_error(np.array([0.95, 0.95, 0.05, 0.05]), np.array([True, False, False, False]))
    assert error == pytest.approx((2 * 0.45 + 2 * 0.05) / 4)
    assert calibration_error(np.array([0.25, 1.0]), np.array([True, True])) == pytest.approx(0.75 / 2)
    assert calibration_error(np.array([]), np.array([], bool)) is None


def test_the_brier_score_by_hand():
    assert brier(np.array([0.9, 0.2]), np.array([True, False])) == pytest.approx((0.01 + 0.04) / 2)
    assert brier(np.array([0.9, 0.7]), np.array([True, True])) == pytest.approx((0.01 + 0.09) / 2), "none that did not"
    assert brier(np.array([0.1]), np.array([False])) == pytest.approx(0.01), "none that did"
    assert brier(np.array([-1e-7, 1 + 1e-7]), np.array([False, True])) == pytest.approx(0), "rounded"
    assert brier(np.array([]), np.array([], bool)) is None


@pytest.mark.parametrize(("series", "since"), [([0.1, 0.9, 0.5, 0.9, 0.95], 3), ([0.9, 0.9], 0), ([0.9, 0.2], None)])
def test_doubt_counts_from_when_it_stays(series, since):
    assert doubtful_since(np.array(series)) == since


class Oracle:
    """Sees from the first number of an observation how likely success is."""

    metadata = SimpleNamespace(bin_width=2.0)

    def answer(self, observations, instructions, greedy):
        p = observations[STATE][:, :1]
        return Answer(np.zeros((len(p), 1, 2)), np.concatenate([p, 1 - p], axis=1), {})


def test_failure_prediction_tells_those_under_way_from_all(demonstrations):
    def attempt(steps, p, success, ending="time_limit"):
        whole = demonstrations[0]
        observations = {
            key: np.full((steps + 1, each.shape[1]), p, np.float32) for key, each in whole.observations.items()
        }
        return dataclasses.replace(
            whole,
            observations=observations,
            actions=np.zeros((steps, 2), np.float32),
            actors=np.zeros(steps, np.uint8),
            steps_to_go=np.full(steps + 1, math.nan, np.float32),
            purpose="practice",
            ending=ending,
            detected_success=ending == "detected_success",
            true_success=success,
        )

    episodes = [
        attempt(10, 0.05, False),
        attempt(10, 0.9, True, "detected_success"),
        attempt(3, 0.05, True, "detected_success"),  # over before half
        attempt(10, 0.9, False, "operator"),  # a person's act decides nothing
    ]
    figures = judge_prediction(episodes, Oracle(), limit=10)
    assert (figures["episodes"], figures["under_way_at_half"]) == (3, 2)
    assert figures["auroc_under_way"] == figures["auroc_all"] == 1.0 and figures["foretold"] == 1.0
    # What nobody knows is neither.
    assert judge_prediction([*episodes, attempt(10, 0.05, None)], Oracle(), limit=10) == figures
    # A success that the detector missed is a failure to the station, and is predicted as badly as it was doubted.
    missed = judge_prediction([*episodes, attempt(10, 0.95, True)], Oracle(), limit=10)
    assert (missed["auroc_under_way"], missed["auroc_under_way_detected"]) == (1.0, 0.5)
    # 11 frames of doubt, the last one at step 10: doubt from the very first
    assert figures["lead_time_s"] == pytest.approx(10 / demonstrations[0].fps)
    assert figures["failed"] == pytest.approx(1 / 3)

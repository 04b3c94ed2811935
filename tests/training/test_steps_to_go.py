"""Golden values of every equation of the method, worked by hand."""

import math

import numpy as np
import pytest
import torch

from training import steps_to_go


def test_two_steps_share_a_bin_and_far_goals_fall_into_the_last():
    steps = torch.tensor([0, 1, 2, 3, 99, 100, 250])
    assert steps_to_go.bin_of_steps(steps, bins=50, width=2).tolist() == [0, 0, 1, 1, 49, 49, 49]


def test_a_prediction_is_the_steps_to_success_or_never():
    assert steps_to_go.success_bins(4, True, bins=50, width=2).tolist() == [2, 1, 1, 0, 0]
    assert steps_to_go.success_bins(3, False, bins=50, width=2).tolist() == [49] * 4
    # The last bin says "never": however long it took, a success is none of it.
    assert steps_to_go.success_bins(120, True, bins=50, width=2)[0] == 48


def test_a_bin_stands_for_the_mean_of_its_whole_numbers():
    assert steps_to_go.bin_values(3, 2).tolist() == [0.5, 2.5, 4.5]
    assert steps_to_go.bin_values(3, 1).tolist() == [0, 1, 2]


def test_d_is_the_mean_of_the_distribution():
    # .5 * .5 + .25 * 2.5 + .25 * 4.5 = .25 + .625 + 1.125
    p = steps_to_go.distribution(torch.tensor([[0.5, 0.25, 0.25]]).log())
    assert steps_to_go.expected_steps(p, 2).tolist() == pytest.approx([2.0])


def test_reward_is_the_progress_in_d():
    assert steps_to_go.rewards(np.array([10.0, 8, 9, 4])).tolist() == [2, -1, 5]


def test_return_is_cut_off_at_the_last_reward():
    # R_2 = 5; R_1 = -1 + .9 * 5 = 3.5; R_0 = 2 + .9 * 3.5 = 5.15
    assert steps_to_go.returns(np.array([2.0, -1, 5]), 0.9).tolist() == pytest.approx([5.15, 3.5, 5])


def test_the_baseline_is_built_into_the_return():
    # With V = -d: (1 - .9) (V_1 + .9 V_2) + .81 V_3 - V_0 = -.8 - .81 - 3.24 + 10 = 5.15
    d = np.array([10.0, 8, 9, 4])
    assert steps_to_go.returns(steps_to_go.rewards(d), 0.9)[0] == pytest.approx(5.15)
    # Undiscounted, only the ends of the episode count: 10 - 4.
    assert steps_to_go.returns(steps_to_go.rewards(d), 1.0)[0] == pytest.approx(6)


def test_a_person_cuts_the_episode_for_good():
    assert steps_to_go.policy_steps(np.array([0, 0, 0], np.uint8)) == 3
    assert steps_to_go.policy_steps(np.array([0, 0, 1, 1, 0], np.uint8)) == 2
    assert steps_to_go.policy_steps(np.array([1, 0], np.uint8)) == 0


def test_running_deviation_does_not_depend_on_how_the_returns_came():
    # 1, 3, 5: mean 3, squared distances 4 + 0 + 4, variance 8 / 3
    deviation = steps_to_go.RunningDeviation()
    deviation.add(np.array([1.0, 3]))
    deviation.add(np.array([5.0]))
    assert (deviation.count, deviation.mean, deviation.squares) == (3, pytest.approx(3), pytest.approx(8))
    # The mean stays in: a return of 2 is positive, though below the average of 3.
    assert deviation.divide(np.array([2.0]))[0] == pytest.approx(2 / math.sqrt(8 / 3))
    # A block that fell, some hundred steps from the goal at once, counts as three deviations and no more.
    assert deviation.divide(np.array([-98.0, 98.0])).tolist() == [-3, 3]


def test_returns_that_never_vary_are_left_alone():
    deviation = steps_to_go.RunningDeviation()
    assert deviation.divide(np.array([2.0])).tolist() == [2]
    deviation.add(np.zeros(4))
    assert deviation.divide(np.array([0.0])).tolist() == [0]


def test_reinforce_loss():
    # Ratios 2 and 1/2. Clipped at .3: min(2 * 2, 1.3 * 2) = 2.6 and min(.5 * -1, .7 * -1) = -.7; -.05 (2.6 - .7) / 2
    log_probability, when_acted = torch.tensor([2.0, 0.5]).log(), torch.zeros(2)
    loss = steps_to_go.reinforce_loss(log_probability, when_acted, torch.tensor([2.0, -1]), 0.05, 0.3)
    assert float(loss) == pytest.approx(-0.0475)
    # Nothing clips what went too far to the wrong side: min(2 * -1, 1.3 * -1) = -2
    loss = steps_to_go.reinforce_loss(log_probability[:1], when_acted[:1], torch.tensor([-1.0]), 0.05, 0.3)
    assert float(loss) == pytest.approx(0.1)


def test_the_first_update_of_a_round_is_plain_reinforce():
    """Its gradient is that of -c R_t log p: -(.05 * 2) / 2 and -(.05 * -1) / 2."""
    log_probability = torch.tensor([-1.0, -4], requires_grad=True)
    acted = log_probability.detach().clone()
    steps_to_go.reinforce_loss(log_probability, acted, torch.tensor([2.0, -1]), 0.05, 0.3).backward()
    assert log_probability.grad.tolist() == pytest.approx([-0.05, 0.025])


def test_the_first_detection():
    assert steps_to_go.first_detection(np.array([9.0, 2, 1]), 2, 1) == 1
    assert steps_to_go.first_detection(np.array([9.0, 2, 1]), 2, 2) == 2
    assert steps_to_go.first_detection(np.array([9.0, 2, 9, 1]), 2, 2) is None
    assert steps_to_go.first_detection(np.array([1.0, 1, 1]), 2, 2) == 1
    assert steps_to_go.first_detection(np.array([1.0, 9, 9]), 2, 1) is None  # before any step


def test_s_is_as_wide_as_premature_detections_allow():
    # The first three are at the goal two steps before their end; the last one is misunderstood and never near.
    d = [np.array([9.0, 5, 3, 1.5, 1, 1]), np.array([9.0, 6, 4, 2, 1, 1]), np.array([9.0, 8, 5, 2.5, 2, 1])]
    d.append(np.array([30.0, 30, 30]))
    # From 3 on the first would be detected with three steps to go.
    assert steps_to_go.choose_detector(d, 1, 2, 0.0) == (pytest.approx(2.9), 1)
    # A third of them may be premature: from 4 on the second would be, too.
    assert steps_to_go.choose_detector(d, 1, 2, 0.34) == (pytest.approx(3.9), 1)


def test_more_frames_are_asked_for_only_where_they_find_more():
    # The first one's dip, four steps before its end, is less than the second one ever gets to.
    d = [np.array([9.0, 0.5, 9, 2, 1, 1]), np.array([9.0, 7, 7, 1.8, 1, 1])]
    assert steps_to_go.choose_detector(d, 1, 2, 0.0) == (1.0, 1)  # no s will do: half of the ends
    assert steps_to_go.choose_detector(d, 2, 2, 0.0) == (pytest.approx(6.9), 2)


def test_where_no_s_will_do_half_of_the_ends_are_detected():
    d = [np.array([5.0, 1, 1, 1, 4]), np.array([5.0, 1, 1, 1, 6])]
    assert steps_to_go.choose_detector(d, 2, 0, 0.0) == (5.0, 1)


def test_all_thresholds_at_once_are_each_by_itself():
    rng, thresholds = np.random.default_rng(0), np.array([0.5, 1.0, 2.0, 2.5, 9.0])
    for frames in (1, 2, 3):
        for length in (1, 2, 3, 12):
            d = rng.integers(0, 5, length).astype(np.float32)  # with ties
            together = steps_to_go.first_detections(d, thresholds, frames)
            for threshold, found in zip(thresholds, together, strict=True):
                below = [t >= frames - 1 and (d[t - frames + 1 : t + 1] <= threshold).all() for t in range(length)]
                assert found == next((t for t in range(1, length) if below[t]), -1), (d, threshold, frames)

"""The Gaussian process of effects, what it says of noise, and what MUSEL asks for by it."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from robots.demonstrators import collect_demonstrations
from robots.embodiments import ENVIRONMENT_STATE
from robots.worlds.gripper_table import GRIPPER_TABLE
from robots.worlds.push_effects import PUSH_EFFECTS
from training import gaussian_process
from training.gaussian_process import GaussianProcess, choose, learning_progress, model_uncertainty
from training.methods.musel import Musel
from training.networks.probing import Probing, effects
from training.recipes import PROBED_BY

SIZES = {"capacity": 60, "pool": 50, "apart": 0.5, "acquisition": "musel"}


def points(count, seed, noise=lambda x: 0.05):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 2, dtype=torch.float64, generator=generator) * 4 - 2
    y = torch.stack([(2 * x[:, 0]).sin(), x[:, 0] * x[:, 1]], 1)
    return x, y + noise(x) * torch.randn(y.shape, dtype=torch.float64, generator=generator)


def fitted(count=60, seed=0, capacity=80, **settings):
    process = GaussianProcess(capacity, 2, 2)
    process.add(*points(count, seed, **settings))
    process.fit()
    return process


def test_it_predicts_a_function_that_it_saw_points_of():
    process = fitted()
    x, y = points(200, 1, noise=lambda x: 0.0)
    predicted = process.predict(x)
    assert (predicted.mean - y).square().mean().sqrt() < 0.12 < 0.3 * y.std()
    assert predicted.mean.shape == predicted.var_model.shape == predicted.var_noise.shape == (200, 2)
    near, far = torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), 9.0, dtype=torch.float64)
    assert (process.predict(near).var_model < 0.1 * process.predict(far).var_model).all()


def test_what_a_point_left_out_is_missed_by_is_what_refitting_without_it_gives():
    process = fitted(25)
    squares = process._squares(process.inputs[:25])
    y = process._scaled()[0]
    covariance = process._covariance(process.log_scales, process.log_signal, process.log_factor, squares)
    inverse = torch.linalg.inv(covariance)
    told = (inverse @ y[..., None])[..., 0] / inverse.diagonal(dim1=1, dim2=2)
    kept = [i for i in range(25) if i != 7]
    for number in range(2):
        k = covariance[number]
        alone = k[7, kept] @ torch.linalg.solve(k[kept][:, kept], y[number, kept])
        assert told[number, 7] == pytest.approx(float(y[number, 7] - alone), abs=1e-9)


def test_noise_is_found_where_it_is_and_is_no_uncertainty_of_the_model():
    process = fitted(200, capacity=200, noise=lambda x: 0.02 + 0.8 * (x[:, :1] > 0.3))
    calm, noisy = (torch.tensor([[x, 0.0]], dtype=torch.float64) for x in (-1.2, 1.2))
    assert process.predict(noisy).var_noise.mean() > 8 * process.predict(calm).var_noise.mean()
    found = process.predict(noisy).var_noise.mean().sqrt()
    assert 0.4 < found < 1.6, "of .82"
    process.surprises.zero_()  # nothing is being learned
    total = (process.predict(noisy).var_model + process.predict(noisy).var_noise).sum()
    assert model_uncertainty(process, noisy) < 0.4 * total, "what is noise is subtracted"


def test_where_points_are_few_nothing_is_taken_for_noise():
    process = fitted(60)
    far = torch.full((1, 2), 9.0, dtype=torch.float64)
    predicted = process.predict(far)
    assert model_uncertainty(process, far) == pytest.approx(
        float((predicted.var_model + predicted.var_noise).sum()), rel=1e-6
    )


def test_progress_is_where_points_surprised_and_no_longer_do():
    process = fitted(20)
    process.add(*points(40, 3))
    process.surprises[20:40] = 3.0
    process.fit()
    x = process.inputs[:60]
    assert (learning_progress(process, x) >= 0).all() and learning_progress(process, x[20:40]).mean() > 0.2
    process.surprises.zero_()
    assert (learning_progress(process, x) == 0).all()


def test_a_point_promises_what_it_takes_away():
    """Against adding it, with hyper-parameters and noise as they were."""
    process = fitted(40)
    others, _ = points(30, 5)
    place = torch.tensor([[1.5, -1.5]], dtype=torch.float64)
    promised = float(process.gains(place, others))

    def unknown(each):
        return float(each.predict(others).var_model.mean(0).sum().sqrt())

    with_it = copy.deepcopy(process)
    noise = process._squares(torch.cat([process.inputs[:40], place]))
    mean, deviation = process._scaled()[1:]
    with_it.add(place, mean[None])
    with_it.fitted += 1
    with_it._squares = lambda x: noise if len(x) == 41 else process._squares(x)
    with_it._scaled = lambda: ((with_it.targets[:41] - mean).T / deviation[:, None], mean, deviation)
    assert promised == pytest.approx(unknown(process) - unknown(with_it), rel=1e-6) and promised > 1e-3


def test_a_fit_does_not_stay_where_all_is_noise(monkeypatch):
    """Even of a climb that gets nowhere: what it begins with anew is likelier."""
    process = fitted(40)
    for buffer, value in ((process.log_scales, 2.2), (process.log_signal, -3.0), (process.log_factor, 0.0)):
        buffer.fill_(value)
    monkeypatch.setattr(gaussian_process, "RATE", 1e-9)
    process.fit()
    found = [float(each[0]) for each in (process.log_scales, process.log_signal, process.log_factor)]
    assert found == pytest.approx(gaussian_process.FRESH, abs=1e-6)


def test_while_something_is_being_learned_less_is_taken_for_noise():
    process = fitted(200, capacity=200, noise=lambda x: 0.02 + 0.8 * (x[:, :1] > 0.3))
    noisy = torch.tensor([[1.2, 0.0]], dtype=torch.float64)
    process.surprises.zero_()
    calm = model_uncertainty(process, noisy)
    process.surprises.fill_(3.0)
    assert model_uncertainty(process, noisy) > 1.5 * calm


def test_a_surprise_is_what_a_point_missed_the_prediction_of_before_it_by():
    process = fitted(40)
    x, y = points(3, 9)
    expected = y - process.predict(x).mean
    process.add(x, y)
    torch.testing.assert_close(process.surprises[40:43], expected)


def test_a_process_says_when_it_is_full_or_empty():
    with pytest.raises(ValueError, match="at most 10 points"):
        fitted(11, capacity=10)
    with pytest.raises(RuntimeError, match="before it was fitted"):
        GaussianProcess(5, 2, 2).predict(torch.zeros(1, 2, dtype=torch.float64))


def test_a_batch_is_spread():
    x = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    scores = 1 - (x[:, 0] - 0.5).abs()
    chosen = choose(scores, x, 3, apart=0.2)
    places = sorted(float(x[i]) for i in chosen)
    assert len(set(chosen)) == 3 and min(np.diff(places)) > 0.15
    assert abs(float(x[choose(scores, x, 1, 0.2, avoided=torch.tensor([[0.5]]).double())[0]]) - 0.5) > 0.15


# MUSEL


def pushes(count, seed=7):
    return collect_demonstrations(["push_effects"], count, seed=seed)


def learned(episodes, method=None):
    method = method or Musel(PUSH_EFFECTS, **SIZES)
    generator = torch.Generator().manual_seed(0)
    for episode in episodes:
        method.remember(episode)
    return method, method.learn(generator)


def test_stations_ask_for_pushes_that_their_body_can_make_and_that_differ():
    method, figures = learned(pushes(12))
    memories = [{} for _ in range(5)]
    actions, signals = method.probing.act(torch.zeros(5, 6), memories, torch.Generator().manual_seed(1))
    low, high = np.array(PUSH_EFFECTS.action_range).T
    assert actions.shape == (5, 3) and ((actions.numpy() >= low - 1e-6) & (actions.numpy() <= high + 1e-6)).all()
    x = method.probing.features(actions)
    assert float(torch.pdist(x).min()) > 0.3
    assert set(signals) == {"uncertainty", "expected_gain"}
    assert all(told.shape == (5,) and (told > 0).all() for told in signals.values())
    assert figures["samples"] == 12 and 0 <= figures["noisy_share"] <= 1 and figures["surprise"] > 0


def test_a_station_that_asks_again_is_sent_elsewhere_until_something_was_learned():
    method, _ = learned(pushes(12))
    memory, generator = {}, torch.Generator
    first, _ = method.probing.act(torch.zeros(1, 6), [memory], generator().manual_seed(1))
    again, _ = method.probing.act(torch.zeros(1, 6), [memory], generator().manual_seed(1))
    fresh, _ = method.probing.act(torch.zeros(1, 6), [{}], generator().manual_seed(1))
    assert torch.equal(first, fresh) and not torch.equal(first, again) and len(memory["asked"]) == 2
    learned(pushes(2, seed=8), method)
    method.probing.act(torch.zeros(1, 6), [memory], generator().manual_seed(1))
    assert len(memory["asked"]) == 1


def test_before_anything_is_learned_pushes_are_random():
    actions, signals = Probing(PUSH_EFFECTS, **SIZES).act(torch.zeros(3, 6), [{}, {}, {}], torch.Generator())
    assert actions.shape == (3, 3) and signals == {}
    assert Musel(PUSH_EFFECTS, **SIZES).learn(torch.Generator()) == {"samples": 0.0}


def test_what_was_learned_lies_in_buffers_and_goes_on_to_the_same_bits(tmp_path):
    first, rest = pushes(12), pushes(4, seed=9)
    straight, _ = learned(first)
    resumed = Musel(PUSH_EFFECTS, **straight.sizes)
    resumed.probing.load_state_dict(straight.probing.state_dict())
    before = copy.deepcopy(resumed.probing.state_dict())
    learned(first, resumed)  # remembered again, learned already
    assert all(torch.equal(before[name], value) for name, value in resumed.probing.state_dict().items())
    ends = [learned(rest, method)[0].probing.state_dict() for method in (straight, resumed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    asked = [m.probing.act(torch.zeros(2, 6), [{}, {}], torch.Generator().manual_seed(3)) for m in (straight, resumed)]
    assert torch.equal(asked[0][0], asked[1][0])
    assert int(straight.probing.process.count) == 16


def test_beyond_its_capacity_nothing_is_learned_and_nothing_breaks():
    method = Musel(PUSH_EFFECTS, **SIZES | {"capacity": 10})
    learned(pushes(9), method)
    _, figures = learned(pushes(5), method)
    assert figures["samples"] == method.samples == 10
    assert learned([], method)[1]["samples"] == 10


def test_effects_are_told_in_the_things_own_frame():
    for yaw in (0.0, 2.0, -3.0):
        cos, sin = math.cos(yaw), math.sin(yaw)
        before = np.array([[0.1, -0.2, cos, sin]])
        x, y = 0.1 + 0.03 * cos - 0.01 * sin, -0.2 + 0.03 * sin + 0.01 * cos
        after = np.array([[x, y, math.cos(yaw + 0.4), math.sin(yaw + 0.4)]])
        np.testing.assert_allclose(effects(before, after), [[3.0, 1.0, 1.4]], atol=1e-9)


def test_a_share_of_the_pushes_is_random():
    method, _ = learned(pushes(12))
    ruled = Probing(PUSH_EFFECTS, **SIZES)
    mixed = Probing(PUSH_EFFECTS, **SIZES, at_random=0.5)
    for probing in (ruled, mixed):
        probing.load_state_dict(method.probing.state_dict())
    best, some = (each.next_probes(40, torch.Generator().manual_seed(2))[0] for each in (ruled, mixed))
    same = (best == some).all(1).double().mean()
    assert 0.2 < same < 0.8


def test_an_angle_has_no_end():
    probing = Probing(PUSH_EFFECTS, **SIZES)
    x = probing.features(torch.tensor([[math.pi, 0.08, 0.1], [-math.pi, -0.08, 0.02]], dtype=torch.float64))
    torch.testing.assert_close(
        x, torch.tensor([[-1, 0, 1, 1], [-1, 0, -1, -1]], dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_bodies_that_do_not_push_are_refused_in_words():
    with pytest.raises(ValueError, match=r"gripper_table can't be probed .* one object's x, y, cos, sin"):
        Probing(GRIPPER_TABLE, **SIZES)
    shapeless = dataclasses.replace(PUSH_EFFECTS, action=dataclasses.replace(PUSH_EFFECTS.action, units=()))
    with pytest.raises(ValueError, match="an angle in rad"):
        Musel(shapeless, **SIZES)
    with pytest.raises(ValueError, match="acquisition is 'luck'; write one of musel"):
        Probing(PUSH_EFFECTS, **SIZES | {"acquisition": "luck"})


def test_every_rule_scores_every_place_with_a_number():
    assert set(PROBED_BY) == set(gaussian_process.ACQUISITIONS)
    process = fitted(30)
    x, _ = points(40, 2)
    for score in filter(None, gaussian_process.ACQUISITIONS.values()):
        assert score(process, x).shape == (40,) and (score(process, x) >= 0).all()


def test_an_episode_of_several_pushes_is_several_points():
    (episode,) = pushes(1)
    poses = np.repeat(episode.observations[ENVIRONMENT_STATE], [1, 2], axis=0)
    state = np.repeat(episode.observations["observation.state"], [1, 2], axis=0)
    double = dataclasses.replace(
        episode,
        observations={"observation.state": state, ENVIRONMENT_STATE: poses},
        actions=np.repeat(episode.actions, 2, axis=0),
    )
    method, figures = learned([double])
    assert figures["samples"] == 2 and method.probing.process.targets[1].abs().max() < 1e-9

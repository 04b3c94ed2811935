import numpy as np
import pytest
import torch

from training.dynamics import DynamicsEnsemble, adapted, ause, disagreement, imagined


def truth(x):
    return torch.stack([x[..., 0] * x[..., 1], 100 + 10 * x[..., 1].sin()], -1)


def data(n, seed, reach=1.0):
    x = reach * (2 * torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) - 1)
    return x, truth(x)


def trained(seed=0, updates=500, dropout=0.0):
    torch.manual_seed(seed)
    model, generator = DynamicsEnsemble(2, 2, members=4, width=32, dropout=dropout), torch.Generator().manual_seed(seed)
    x, y = data(800, 1)
    model.scale_as(x, y)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(updates):
        rows = torch.randint(len(x), (4, 64), generator=generator)
        loss = model.loss(x[rows], y[rows], generator if dropout else None)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


@pytest.fixture(scope="module")
def model():
    return trained()


@torch.no_grad()
def test_it_learns_what_happens_in_the_units_in_which_it_happened(model):
    x, y = data(200, 2)
    off = (model.predict(x) - y).abs().mean(0)
    assert off[0] < 0.05 and off[1] < 0.5, off


@torch.no_grad()
def test_members_agree_where_there_was_data_and_disagree_beyond_it(model):
    known, unknown = (disagreement(model.opinions(data(200, 3, reach)[0]), 0.1).mean().item() for reach in (1.0, 4.0))
    assert unknown > 5 * known > 0


def test_disagreement_is_the_sum_over_numbers_of_the_logarithm():
    opinions = torch.tensor([[[1.0, 5.0]], [[3.0, 5.0]]])  # of two members: variances 1 and 0
    assert disagreement(opinions, 0.5).tolist() == pytest.approx([np.log(5)])


def test_the_loss_of_members_together_is_the_sum_of_each_alone():
    torch.manual_seed(2)
    model = DynamicsEnsemble(2, 2, members=3, width=16)
    model.scale_as(*data(50, 0))
    x = torch.stack([data(20, seed)[0] for seed in range(3)])
    total = model.loss(x, truth(x))
    each = []
    for i in range(3):
        mean, log_variance = model(x[i])
        each.append(model.unlikeliness(mean[i], log_variance[i], truth(x[i])).mean())
    torch.testing.assert_close(total, sum(each))
    # Gaussian: the mean of the scaled numbers with variance 1 costs half their square
    zero = torch.zeros(1, 2)
    y = model.outputs_scaled.mean + model.outputs_scaled.deviation * torch.tensor([[1.0, 3.0]])
    assert model.unlikeliness(zero, zero, y).item() == pytest.approx(0.5 * (1 + 9) / 2, rel=1e-5)


def test_a_noisy_number_is_told_as_noisy():
    torch.manual_seed(0)
    model, generator = DynamicsEnsemble(1, 2, members=2, width=16), torch.Generator().manual_seed(0)
    x = torch.rand(2000, 1, generator=generator)
    y = torch.cat([x, x + 0.5 * torch.randn(2000, 1, generator=generator)], 1)
    model.scale_as(x, y)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(300):
        rows = torch.randint(2000, (2, 128), generator=generator)
        optimiser.zero_grad()
        model.loss(x[rows], y[rows]).backward()
        optimiser.step()
    deviation = (0.5 * model(x)[1]).exp().mean((0, 1)) * model.outputs_scaled.deviation
    assert deviation[1].item() == pytest.approx(0.5, abs=0.06) and deviation[0] < 0.1


@torch.no_grad()
def test_a_number_that_never_changed_has_the_least_deviation():
    model = DynamicsEnsemble(2, 2)
    model.scale_as(torch.rand(9, 2), torch.zeros(9, 2), torch.tensor([0.5, 0.25]))
    assert model.outputs_scaled.deviation.tolist() == [0.5, 0.25]


def test_dropout_passes_differ_by_what_is_left_out_and_the_same_generator_leaves_out_the_same():
    model, x = trained(updates=20, dropout=0.5), data(10, 4)[0]
    with torch.no_grad():
        first, again = (model.opinions(x, 3, torch.Generator().manual_seed(5)) for _ in range(2))
        assert first.shape == (12, 10, 2) and torch.equal(first, again) and not torch.equal(first[:4], first[4:8])
        assert torch.equal(model.opinions(x), model.opinions(x)) and model.opinions(x).shape == (4, 10, 2)


def test_a_station_learns_its_own_change_alone_and_the_shared_model_stays():
    model = trained()
    before = [each.clone() for each in model.layers]
    x, y = data(50, 6)
    seen = torch.stack([y, y + torch.tensor([0.0, 5.0])])  # the second station's world is another
    both = torch.stack([x, x])
    layers = [torch.stack([each, each]) for each in model.layers]
    counted = torch.ones(2, 50)
    layers = adapted(model, layers, both, seen, counted, 1e-2, 150)
    with torch.no_grad():
        off = (model.predict(both, layers) - seen).abs().mean((1, 2))
        assert (model.predict(x) - seen[1]).abs().mean() > 2.4 and off.max() < 0.4, off
    assert all(map(torch.equal, before, model.layers))
    # A station computed beside others is to the bit as it would be alone, and rows that don't count say nothing
    short = counted.clone()
    short[0, 10:] = 0
    start = [torch.stack([each, each]) for each in model.layers]
    wrong = seen.clone()
    wrong[0, 10:] = 1e6
    pair = adapted(model, start, both, wrong, short, 1e-2, 3)
    alone = adapted(model, [each[:1] for each in start], both[:1, :10], seen[:1, :10], counted[:1, :10], 1e-2, 3)
    for a, b in zip(pair, alone, strict=True):
        torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=1e-4)


def test_plans_are_imagined_step_by_step_for_each_station():
    actions = torch.arange(12.0).view(2, 1, 3, 2)
    states = imagined(lambda state, action: 2 * state + action, torch.ones(2, 2), actions)
    assert states.shape == (2, 1, 3, 2)
    assert states[0, 0].tolist() == [[2, 3], [6, 9], [16, 23]] and states[1, 0, 0].tolist() == [8, 9]


def test_ause_is_nothing_for_errors_themselves_and_known_for_the_other_order():
    errors = np.array([1.0, 2.0, 3.0])
    assert ause(errors, errors) == 0 and ause(errors, 10 * errors + 5) == 0
    # What is left after 0, 1, 2 taken away: best first 2, 1.5, 1; worst order 2, 2.5, 3; mean error 2
    assert ause(errors, -errors) == pytest.approx((0 + 1 + 2) / 3 / 2)


def test_the_same_seed_learns_the_same_bits():
    one, other = trained(3, 20, 0.3), trained(3, 20, 0.3)
    assert all(map(torch.equal, one.layers, other.layers))
    assert not torch.equal(one.layers[0], trained(4, 20, 0.3).layers[0])

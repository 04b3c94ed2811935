import pytest
import torch

from training.flow import Flow, earlier_times


class Constant(Flow):
    """Carries everything by its condition; along a field that grows with t too."""

    def velocity(self, x, t, encoded):
        return encoded + 2 * t[:, None]

    def carry(self, start, condition, steps=10):
        self.condition = torch.nn.Identity()
        return super().carry(start, condition, steps)


@pytest.mark.parametrize("steps", [1, 10])
def test_the_midpoint_rule_is_exact_for_a_field_that_is_linear_in_time(steps):
    start, way = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.5, -1.0], [3.0, 0.0]])
    torch.testing.assert_close(Constant(2, 2).carry(start, way, steps), start + way + 1)


def test_more_steps_follow_a_curved_field_better():
    class Growing(Flow):
        def velocity(self, x, t, encoded):
            return x

    flow, start = Growing(1, 1), torch.ones(1, 1)
    off = [abs(flow.carry(start, torch.zeros(1, 1), steps).item() - torch.e) for steps in (1, 4, 16)]
    assert off[0] > 5 * off[1] > 25 * off[2]


def test_times_are_those_of_the_power_and_never_beyond_one():
    generator = torch.Generator().manual_seed(0)
    for power, mean in ((1.0, 0.5), (3.0, 0.25)):
        times = earlier_times(20_000, power, generator)
        assert abs(times.mean().item() - mean) < 0.01 and times.min() >= 0 and times.max() <= 1


def learned(seed, ambiguous=False, updates=600):
    """A flow that has learned to divide by a number from 0.5 to 2 of either sign, which is its condition."""
    torch.manual_seed(seed)
    flow, generator = Flow(1, 2, 32), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(flow.parameters(), 3e-3)
    for _ in range(updates):
        start = 2 * torch.rand(256, 1, generator=generator) - 1
        gain = (0.5 + 1.5 * torch.rand(256, 1, generator=generator)) * (
            torch.rand(256, 1, generator=generator) - 0.5
        ).sign()
        told = torch.cat([gain, torch.zeros_like(start) if ambiguous else start], 1)
        loss = flow.loss(start, start / gain, told, generator, power=3.0).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return flow


@torch.no_grad()
def off(flow, ambiguous=False):
    start, gain = torch.linspace(-0.9, 0.9, 41)[:, None], torch.full((41, 1), -1.0)
    told = torch.cat([gain, torch.zeros_like(start) if ambiguous else start], 1)
    return (flow.carry(start, told) + start).abs().mean().item()


def test_it_learns_where_its_condition_says_to_go_if_that_holds_where_it_started():
    """Where signs change all ways cross at 0, and a flow that isn't told its start can't tell them apart there."""
    assert off(learned(0)) < 0.12
    assert off(learned(0, ambiguous=True), ambiguous=True) > 0.3


def test_the_same_seed_learns_the_same_bits():
    one, other = learned(1, updates=5), learned(1, updates=5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

import torch

from training.planning import Planner, rest_of

LOW, HIGH = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 0.5])


def near(target):
    """A score that is highest where every action of a plan is that of its own station. target [n, 2]"""
    return lambda plans: -(plans - target[:, None, None]).square().sum((-1, -2))


def planned(planner, target, seed=0, rounds=30):
    generator = torch.Generator().manual_seed(seed)
    plan = torch.zeros(len(target), planner.horizon, 2)
    for _ in range(rounds):
        plan = planner.plan(plan, near(target), LOW, HIGH, generator)
    return plan


def test_each_station_finds_its_own_best_plan_within_the_limits():
    target = torch.tensor([[0.5, -1.0], [-0.8, 0.3], [5.0, 5.0]])
    plan = planned(Planner(candidates=128, horizon=4), target)
    assert plan.shape == (3, 4, 2)
    torch.testing.assert_close(plan[:2], target[:2, None].expand(2, 4, 2), atol=0.2, rtol=0)
    assert (plan[2] > 0.8 * HIGH).all() and (plan <= HIGH).all(), "beyond the limits nothing is found"


def test_it_does_not_matter_in_what_a_score_is_counted():
    target = torch.tensor([[0.5, -1.0]])
    planner = Planner(candidates=64, horizon=3)
    plans = [
        planner.plan(
            torch.zeros(1, 3, 2),
            lambda plans, unit=unit: unit * near(target)(plans) + 7,
            LOW,
            HIGH,
            torch.Generator().manual_seed(0),
        )
        for unit in (1.0, 1000.0)
    ]
    torch.testing.assert_close(plans[0], plans[1], atol=1e-3, rtol=0)


def test_the_plan_itself_is_a_candidate_and_nothing_is_worse_where_all_score_alike():
    seen = []
    plan = torch.full((2, 3, 2), 0.25)
    Planner(candidates=8, horizon=3).plan(
        plan, lambda plans: seen.append(plans) or torch.zeros(2, 8), LOW, HIGH, torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(seen[0][:, 0], plan)
    assert seen[0].shape == (2, 8, 3, 2) and not torch.equal(seen[0][:, 1], plan)


def test_correlated_noise_changes_slowly_and_is_as_large():
    def noise(correlation):
        planner = Planner(candidates=4000, horizon=10, sigma=0.1, correlation=correlation)
        return planner._candidates(
            torch.zeros(1, 10, 2), -torch.ones(2), torch.ones(2), torch.Generator().manual_seed(0)
        )

    for correlation in (0.0, 0.8):
        plans = noise(correlation)[0, 1:, :, 0]
        together = torch.corrcoef(plans[:, 5:7].T)[0, 1].item()
        assert abs(together - correlation) < 0.05 and abs(plans[:, 9].std().item() - 0.1) < 0.01


def test_the_rest_of_a_plan_ends_at_rest():
    plan = torch.arange(12.0).view(2, 3, 2)
    rest = rest_of(plan, torch.tensor([9.0, 8.0]))
    assert rest[0].tolist() == [[2, 3], [4, 5], [9, 8]] and rest[1, -1].tolist() == [9, 8]


def test_the_same_generator_finds_the_same_plan_to_the_bit():
    target = torch.tensor([[0.5, -1.0], [0.0, 0.0]])
    planner = Planner(candidates=32, horizon=4, correlation=0.5, iterations=2)
    assert torch.equal(planned(planner, target, 3), planned(planner, target, 3))
    assert not torch.equal(planned(planner, target, 3), planned(planner, target, 4))

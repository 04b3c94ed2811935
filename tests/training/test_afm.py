"""Action flow matching: what it learns from, when it probes, and what it corrects."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from robots.tasks import get_task
from robots.worlds import WORLDS
from robots.worlds.point_mass import POINT_MASS
from robots.worlds.skid_cart import SKID_CART
from robots.worlds.skid_cart.demonstrator import drive_at_random
from robots.worlds.skid_cart.physics import SkidCart
from training.benchmarks.afm import perceived
from training.methods.afm import ActionFlowMatching, made
from training.networks.flow_corrected import CORRECTED, PROBE, SOUND, STRONGEST_PROBE, WEAKEST_PROBE
from training.recipes import AFMRecipe

SMALL = AFMRecipe(seed=1, model_updates=1000, flow_updates=2500, members=2, width=32, flow_width=64, candidates=64)
TASK = get_task("drive_course")
LIMITS = torch.tensor([1.0, math.pi / 2])


def driving(steps=1500, seed=0):
    world, rng = SkidCart(seed), np.random.default_rng(seed)
    episodes = []
    for _ in range(steps // 60):
        world.reset(rng)
        episodes.append(drive_at_random(world, TASK.sample(rng, ()), 60, rng))
    return episodes


@pytest.fixture(scope="module")
def episodes():
    return driving()


def learned(recipe, episodes):
    learning = ActionFlowMatching(made(SKID_CART, recipe), recipe)
    for episode in episodes:
        learning.remember(episode)
    generator = torch.Generator().manual_seed(recipe.seed)
    figures = {}
    while not learning.done:
        figures |= learning.learn(generator)
    return learning.network, figures


@pytest.fixture(scope="module")
def network(episodes):
    return learned(SMALL, episodes)[0]


def course(world, reached, gains):
    """The cart amid the course, where its drive has these gains."""
    observation = world.observation()
    observation["observation.environment_state"][2] = reached
    world.set_observation(observation)
    world.changed_gains = gains
    return world


def drive(network, world, steps, memory, seed=0):
    generator, seen = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        action, signals = network.act(perceived([world.observation()]), [memory], generator)
        world.step(action[0].numpy())
        seen.append({key: value.item() for key, value in signals.items()} | {"memory": dict(memory)})
    return seen


def test_the_model_expects_what_a_sound_drive_does(network, episodes):
    with torch.no_grad():
        told = network.inputs(torch.tensor([0.0]), torch.tensor([[0.8, 0.0]]))
        x, y, turned = network.model.predict(told)[0].tolist()
    assert (x, y, turned) == pytest.approx((0.16, 0.0, 0.0), abs=0.03)


def test_a_change_of_yaw_is_counted_the_short_way_round(network):
    before, after = torch.tensor([[1.0, 2.0, 3.1]]), torch.tensor([[1.5, 2.0, -3.1]])
    assert network.change(before, after)[0].tolist() == pytest.approx([0.5, 0.0, 2 * math.pi - 6.2], abs=1e-5)


def test_the_tuples_are_of_the_learned_model_alone(network, episodes):
    """What is intended has, under that drive, the effect of what is planned; the code is the model's own error."""
    learning = ActionFlowMatching(network, SMALL)
    planned, intended, code = learning.tuples(500, torch.Generator().manual_seed(0))
    gains = planned / intended
    assert gains.abs().min() >= 0.5 - 1e-4 and gains.abs().max() <= 2 + 1e-4 and (gains < 0).any(0).all()
    probe = code[:, :2]
    assert probe.abs().min() >= WEAKEST_PROBE - 1e-6 and probe.abs().max() <= STRONGEST_PROBE + 1e-6
    along = code[:, 2] * network.model.outputs_scaled.deviation[0]
    expected = 0.2 * (gains[:, 0] - 1) * probe[:, 0]  # metres of a step of 0.2 s
    assert torch.corrcoef(torch.stack([along, expected]))[0, 1] > 0.95


def test_a_code_is_the_same_whichever_way_the_cart_looks(network):
    for yaw in (0.0, 1.0, -2.5):
        world = SkidCart(0)
        world.set_observation(
            {"observation.state": np.array([0, 0, yaw]), "observation.environment_state": np.array([0, 0, 0.5])}
        )
        world.changed_gains = (-1.0, 0.5)
        before = perceived([world.observation()])
        probe = torch.tensor([[0.4, 0.4]])
        after = perceived([world.step((probe[0] * LIMITS).numpy())])
        with torch.no_grad():
            promised = network.model.predict(network.inputs(before[:, 2], probe))
        error = (network.change(before, after) - promised) / network.model.outputs_scaled.deviation
        along, across, turned = network.code(before[:, 2], probe, error)[0, 2:].tolist()
        assert along < -1.2 and abs(across) < 0.4 and turned < -0.1


def test_with_a_sound_drive_nothing_is_corrected(network):
    seen = drive(network, course(SkidCart(1), 0.1, (-1.0, 1.0)), 15, {})  # before the gains change
    assert all(each["regime"] == SOUND for each in seen)
    assert all(each["planned_forward"] == each["executed_forward"] for each in seen)
    assert math.isnan(seen[0]["model_error"]) and max(each["model_error"] for each in seen[1:]) < 0.6
    assert [each["regime_steps"] for each in seen] == list(range(1, 16))


def test_a_changed_drive_is_probed_once_and_then_corrected(network):
    seen = drive(network, course(SkidCart(1), 0.2, (-1.0, 1.0)), 25, {})
    regimes = [each["regime"] for each in seen]
    assert regimes.count(PROBE) <= 2 and regimes[-1] == CORRECTED
    probe = next(each for each in seen if each["regime"] == PROBE)
    assert WEAKEST_PROBE - 1e-6 <= abs(probe["executed_forward"]) <= STRONGEST_PROBE + 1e-6
    assert np.sign(probe["executed_forward"]) == np.sign(probe["planned_forward"])
    corrected = [each for each in seen if each["regime"] == CORRECTED and abs(each["planned_forward"]) > 0.3]
    assert corrected and all(each["planned_forward"] * each["executed_forward"] < 0 for each in corrected)
    assert all(abs(each["executed_forward"]) <= 1 for each in seen)


def test_a_weak_drive_is_not_probed_again_and_again(network):
    """What the limits cut off is not expected."""
    seen = drive(network, course(SkidCart(2), 0.2, (-0.5, 1.0)), 40, {})
    assert [each["regime"] for each in seen].count(PROBE) <= 6
    cut = [each for each in seen if each["regime"] == CORRECTED and each["planned_forward"] > 0.9]
    assert len(cut) > 5 and np.median([each["executed_forward"] for each in cut]) == -1


def test_when_the_drive_is_sound_again_it_is_found_out(network):
    world, memory = course(SkidCart(1), 0.2, (-1.0, 1.0)), {}
    drive(network, world, 20, memory)
    assert memory["regime"] == CORRECTED
    world.changed_gains = (1.0, 1.0)
    seen = drive(network, world, 12, memory)
    executed = [(each["planned_forward"], each["executed_forward"]) for each in seen[-4:]]
    assert all(abs(planned - done) < 0.35 for planned, done in executed)


def test_a_cart_that_was_carried_elsewhere_has_no_changed_drive(network):
    world, memory = course(SkidCart(1), 0.1, (1.0, 1.0)), {}
    drive(network, world, 4, memory)
    world.set_observation(
        {"observation.state": np.array([-3.0, 3.0, 0.0]), "observation.environment_state": np.array([0, 0, 0.1])}
    )
    seen = drive(network, world, 3, memory)
    assert math.isnan(seen[0]["model_error"]) and {each["regime"] for each in seen} == {SOUND}


def test_without_corrections_it_never_probes_and_an_adapted_model_is_the_stations_own(episodes):
    network, _ = learned(replace(SMALL, flow_updates=1), episodes)
    network.corrects, network.adaptation_steps, network.adaptation_rate = False, 5, 1e-2
    before = [each.clone() for each in network.model.layers]
    memory = {}
    seen = drive(network, course(SkidCart(1), 0.2, (-1.0, -1.0)), 40, memory)
    assert {each["regime"] for each in seen} == {SOUND} and len(memory["rows"]) == 39
    errors = [each["model_error"] for each in seen[1:]]
    assert np.mean(errors[-8:]) < 0.6 * np.mean(errors[:4])
    assert all(map(torch.equal, before, network.model.layers))
    assert not any(torch.equal(own, shared) for own, shared in zip(memory["layers"], before, strict=True))


def test_stations_share_the_module_and_nothing_else(network):
    """Two at once do as each would do beside another one; who comes and goes changes no one's memory."""
    worlds = [course(SkidCart(1), 0.2, (-1.0, 1.0)), course(SkidCart(2), 0.1, (1.0, 1.0))]
    memories, generator = [{}, {}], torch.Generator().manual_seed(0)
    for _ in range(15):
        actions, signals = network.act(perceived([each.observation() for each in worlds]), memories, generator)
        assert actions.shape == (2, 2) and all(each.shape == (2,) for each in signals.values())
        for world, action in zip(worlds, actions.numpy(), strict=True):
            world.step(action)
    assert [each["regime"] for each in memories] == [CORRECTED, SOUND]
    kept = dict(memories[1])
    network.act(perceived([worlds[0].observation()]), memories[:1], generator)
    assert all(kept[key] is memories[1][key] for key in kept)


def test_what_was_learned_is_all_in_the_weights(network):
    other = made(SKID_CART, replace(SMALL, seed=5))
    other.load_state_dict(load(save({key: each.contiguous() for key, each in network.state_dict().items()})))
    first, second = (drive(each, course(SkidCart(1), 0.2, (-1.0, 1.0)), 12, {}) for each in (network, other))
    assert [each["executed_turn"] for each in first] == [each["executed_turn"] for each in second]


def test_the_same_seed_learns_the_same_bits_also_when_it_was_stopped_between(episodes):
    recipe = replace(SMALL, model_updates=300, flow_updates=300)
    whole, _ = learned(recipe, episodes[:3])
    again, generator = ActionFlowMatching(made(SKID_CART, recipe), recipe), torch.Generator().manual_seed(recipe.seed)
    for episode in episodes[:3]:
        again.remember(episode)
    while not again.done:
        again.learn(generator)
        resumed = ActionFlowMatching(made(SKID_CART, replace(recipe, seed=9)), recipe)
        for episode in episodes[:3]:
            resumed.remember(episode)
        resumed.network.load_state_dict(again.network.state_dict())
        for name, optimiser in resumed.optimisers.items():
            optimiser.load_state_dict(again.optimisers[name].state_dict())
        again = resumed
    assert all(map(torch.equal, whole.state_dict().values(), again.network.state_dict().values()))
    other, _ = learned(replace(recipe, seed=2), episodes[:3])
    assert not torch.equal(whole.model.layers[0], other.model.layers[0])


def test_practice_with_an_unknown_drive_teaches_the_model_nothing(episodes):
    learning = ActionFlowMatching(made(SKID_CART, SMALL), SMALL)
    learning.remember(replace(episodes[0], purpose="practice"))
    with pytest.raises(ValueError, match="needs demonstrations with a sound drive"):
        learning.learn(torch.Generator())


@pytest.mark.parametrize("body", [POINT_MASS, WORLDS["so101_pick"].embodiment])
def test_a_body_that_is_no_cart_is_refused_in_words(body):
    with pytest.raises(ValueError, match=rf"{body.name} can't be driven by action flow matching: .* next_x"):
        made(body, SMALL)


def test_losses_fall(episodes):
    recipe = replace(SMALL, model_updates=750, flow_updates=750)
    learning = ActionFlowMatching(made(SKID_CART, recipe), recipe)
    for episode in episodes:
        learning.remember(episode)
    generator, losses = torch.Generator().manual_seed(0), []
    while not learning.done:
        losses.append(learning.learn(generator))
    models = [each["model_loss"] for each in losses if "model_loss" in each]
    flows = [each["flow_loss"] for each in losses if "flow_loss" in each]
    assert len(models) + len(flows) == len(losses) and losses[-1]["updates"] == 1500
    assert all(later < earlier for earlier, later in pairwise(models[:2])) and flows[-1] < 0.5 * flows[0]

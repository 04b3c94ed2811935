"""The fence against the real physics: what it predicts happens, nothing falls, and no other action is touched."""

import math

import numpy as np
import pytest

from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.fence import MET, fenced, predict_push
from robots.worlds import make_world
from robots.worlds.language_table.physics import END_EFFECTOR_RADIUS, HALF_TABLE, LanguageTable

RADIUS = 0.0255
TABLE = tuple(HALF_TABLE.tolist())
MARGIN = 0.02
LIMIT = (0.03, 0.03)


def at_edge(action, effector, place=(0.279, 0.0)):
    return fenced(action, effector, END_EFFECTOR_RADIUS, [place], [RADIUS], TABLE, MARGIN, LIMIT)


def outward(world, block, rng):
    """An action of someone who wants that block off the table: behind it, then through it to the nearest edge."""
    (x, y), objects = world.layout()
    bx, by = objects[block]
    axis = int(HALF_TABLE[1] - abs(by) < HALF_TABLE[0] - abs(bx))
    way = np.zeros(2)
    way[axis] = math.copysign(1, (bx, by)[axis])
    behind = np.array([bx, by]) - 0.045 * way
    lateral = abs((np.array([bx, by]) - (x, y))[1 - axis])
    at_its_back = lateral < 0.012 and ((bx, by) - np.array([x, y]))[axis] * way[axis] > 0
    action = 0.03 * way if at_its_back else np.clip(behind - (x, y), -0.03, 0.03)
    return (action + rng.normal(0, 0.004, 2)).astype(np.float32).clip(-0.03, 0.03)


def fallen_after(steps, seed, margin):
    world, rng = LanguageTable(seed), np.random.default_rng(seed)
    names = list(world.objects_in_play())
    for step in range(steps):
        here = world.objects_in_play()
        block = names[step // 60 % len(names)]
        if block not in here:
            continue
        action = outward(world, block, rng)
        world.step(action if margin is None else world.fenced(action, margin))
    return len(names) - len(world.objects_in_play())


def test_one_who_pushes_everything_outward_loses_nothing_behind_the_fence():
    free, kept = zip(
        *[(fallen_after(480, seed, None), fallen_after(480, seed, MARGIN)) for seed in range(6)], strict=True
    )
    assert sum(free) >= 20, "without it most blocks are gone"
    assert sum(kept) <= 1


def test_small_steps_do_not_creep_over_the_edge():
    here = (0.279, 0.0)
    for _ in range(200):
        effector = (here[0] - RADIUS - END_EFFECTOR_RADIUS, 0.0)
        action = fenced((0.0005, 0.0), effector, END_EFFECTOR_RADIUS, [here], [RADIUS], TABLE, MARGIN, LIMIT)
        here = (here[0] + action[0], 0.0)
    assert here[0] <= TABLE[0] - MARGIN + 1e-3


@pytest.mark.parametrize("name", ["red pentagon", "blue cube", "green star", "red moon"])
def test_a_push_is_predicted_a_little_too_far_and_never_too_short(name):
    """A block is pushed from all sides, turned anyhow, and gives way no farther than a disc around its corners."""
    rng = np.random.default_rng(3)
    for seed in range(30):
        world = LanguageTable(seed)
        place = np.array(world.objects_in_play()[name])
        angle, turn = rng.uniform(0, 2 * math.pi, 2)
        way = np.array([math.cos(angle), math.sin(angle)])
        seen = world.observation()
        hand, tracked = seen[STATE], seen[ENVIRONMENT_STATE]
        tracked[:] = 0  # the others are away
        tracked[world.embodiment.object_slice(name)] = *place, math.cos(turn), math.sin(turn), 1
        hand[:2] = hand[2:] = place - 0.045 * way
        world.set_observation(seen)
        told = predict_push(
            tuple(0.03 * way), tuple(hand[:2]), END_EFFECTOR_RADIUS, [tuple(place)], [world._radii[name]]
        )
        world.step((0.03 * way).astype(np.float32))
        if name not in world.objects_in_play():
            continue
        too_far = (np.array(told[0][0]) - world.objects_in_play()[name]) @ way
        assert -1e-4 <= too_far < 0.03


def test_what_lies_in_the_way_of_an_effector_in_its_hollow_may_be_carried_along():
    """A moon is pushed by its horns: not away from the effector's middle, but where that goes."""
    gives_way, carried = predict_push((0.0, 0.03), (0.01, 0.0), END_EFFECTOR_RADIUS, [(0.0, 0.0)], [RADIUS])[0]
    assert carried[0] == 0 and carried[1] > 0.01 > gives_way[1]
    assert not predict_push((0.03, 0.0), (0.01, 0.0), END_EFFECTOR_RADIUS, [(0.0, 0.0)], [RADIUS]), "it leaves it"


def test_a_chain_is_predicted():
    places = [(0.0, 0.0), (0.05, 0.0), (0.2, 0.0)]
    moved = predict_push((0.03, 0.0), (-0.04, 0.0), END_EFFECTOR_RADIUS, places, [RADIUS] * 3)
    ((first, _), _), ((second, _), _) = moved[0], moved[1]
    assert first == pytest.approx(-0.01 + END_EFFECTOR_RADIUS + RADIUS)
    assert second == pytest.approx(first + MET * 2 * RADIUS), "as near as two of them come without their corners"
    assert 2 not in moved


@pytest.mark.parametrize(
    ("effector", "action"),
    [
        ((0.33, 0.0), (-0.03, 0.0)),  # from beyond the edge: brings it back
        ((0.25, 0.0), (-0.03, 0.0)),  # leaves it where it touches it
        ((0.0, 0.0), (0.03, 0.0)),  # far away from it
    ],
)
def test_what_pushes_nothing_outward_is_left_as_it_is(effector, action):
    assert at_edge(action, effector, (0.285, 0.0)) == action


def test_along_the_edge_an_object_may_go_and_a_push_outward_is_turned_aside():
    assert at_edge((0.0, 0.03), (0.279, -0.036)) == (0.0, 0.03)
    turned = at_edge((0.03, 0.0), (0.24, 0.0))
    assert math.hypot(*turned) == pytest.approx(0.03) and turned[1] > 0
    x, y = at_edge((0.03, 0.03), (0.245, -0.01))
    assert max(abs(x), abs(y)) == pytest.approx(0.03), "what the body would cut off is not counted upon"


def test_who_is_stopped_by_an_object_at_the_edge_goes_round_it():
    """Standing still before it, an attempt would last until its time limit, and so would the next one."""
    world = LanguageTable(0)
    seen = world.observation()
    hand, tracked = seen[STATE], seen[ENVIRONMENT_STATE]
    tracked[:] = 0
    block = np.array([0.289, 0.0])
    tracked[world.embodiment.object_slice("blue cube")] = *block, 1, 0, 1
    hand[:2] = hand[2:] = (0.25, 0.0)
    world.set_observation(seen)
    for _ in range(12):
        (x, y), _ = world.layout()
        world.step(world.fenced(np.clip(block - (x, y), -0.03, 0.03).astype(np.float32), MARGIN))
    (x, y), objects = world.layout()
    assert x > block[0] or abs(y) > 0.02, "it no longer stands where it stood"
    assert objects["blue cube"][0] < HALF_TABLE[0] - 0.005


def test_an_arm_that_does_not_go_where_it_is_told_has_no_fence_and_a_banana_has_its_own_length():
    action = np.array([0.03, 0.01], np.float32)
    assert (make_world("worn_table", 0).fenced(action, 0.08) == action).all()
    assert max(make_world("banana_table", 0)._radii.values()) == pytest.approx(0.054, abs=2e-3)

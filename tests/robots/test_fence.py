"""The fence against the real physics: what it foresees happens, nothing falls, and no other action is touched."""

import math

import numpy as np
import pytest

from robots.fence import fenced, foresee
from robots.worlds import make_world
from robots.worlds.language_table import END_EFFECTOR_RADIUS, HALF_TABLE, LanguageTable

RADIUS = 0.0255
TABLE = tuple(HALF_TABLE.tolist())
MARGIN = 0.02


def at_edge(action, effector, place=(0.279, 0.0)):
    return fenced(action, effector, END_EFFECTOR_RADIUS, [place], [RADIUS], TABLE, MARGIN)


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
        action = fenced((0.0005, 0.0), effector, END_EFFECTOR_RADIUS, [here], [RADIUS], TABLE, MARGIN)
        here = (here[0] + action[0], 0.0)
    assert here[0] <= TABLE[0] - MARGIN + 1e-3


@pytest.mark.parametrize("name", ["red pentagon", "blue cube", "green star", "red moon"])
def test_a_push_is_foreseen_a_little_too_far_and_never_too_short(name):
    """A block is pushed from all sides, turned anyhow, and gives way no farther than a disc around its corners."""
    rng = np.random.default_rng(3)
    for seed in range(30):
        world = LanguageTable(seed)
        place = np.array(world.objects_in_play()[name])
        angle, turn = rng.uniform(0, 2 * math.pi, 2)
        way = np.array([math.cos(angle), math.sin(angle)])
        state = world.observation().copy()
        state[4:] = 0  # the others are away
        state[world.embodiment.object_slice(name)] = *place, math.cos(turn), math.sin(turn), 1
        state[:2] = state[2:4] = place - 0.045 * way
        world.set_observation(state)
        told = foresee(tuple(0.03 * way), tuple(state[:2]), END_EFFECTOR_RADIUS, [tuple(place)], [world._radii[name]])
        world.step((0.03 * way).astype(np.float32))
        if name not in world.objects_in_play():
            continue
        too_far = (np.array(told[0]) - world.objects_in_play()[name]) @ way
        assert -1e-4 <= too_far < 0.03


def test_a_chain_is_foreseen():
    places = [(0.0, 0.0), (0.05, 0.0), (0.2, 0.0)]
    moved = foresee((0.03, 0.0), (-0.04, 0.0), END_EFFECTOR_RADIUS, places, [RADIUS] * 3)
    assert moved[0][0] == pytest.approx(-0.01 + END_EFFECTOR_RADIUS + RADIUS)
    assert moved[1][0] == pytest.approx(moved[0][0] + 0.05), "discs that lie closer than they could keep that"
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


def test_along_the_edge_an_object_may_go_and_only_the_part_outward_is_dropped():
    assert at_edge((0.03, 0.0), (0.25, 0.0)) == (0.0, 0.0)
    assert at_edge((0.0, 0.03), (0.279, -0.036)) == (0.0, 0.03)
    assert at_edge((0.01, 0.02), (0.27, -0.034)) == (0.01, 0.0)


def test_an_arm_that_does_not_go_where_it_is_told_has_no_fence_and_a_banana_has_its_own_length():
    action = np.array([0.03, 0.01], np.float32)
    assert (make_world("worn_table", 0).fenced(action, 0.08) == action).all()
    assert max(make_world("banana_table", 0)._radii.values()) == pytest.approx(0.054, abs=2e-3)

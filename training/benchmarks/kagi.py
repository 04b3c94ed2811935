"""KAGI: does a dense reward along cheap keypoints make autonomous practice faster than success alone?

A gripper takes a puck to a goal. A few demonstrations, a well-trained policy of them ("bc"), then practice with a reset
before each attempt, each time with the same learner, steps and stations, and with another reward: 1 at success
("sparse"), along keypoints alone ("dense"), both ("dense_sparse"), both with a fifth of the keypoints wrong ("noisy").
"open_loop" executes the keypoints themselves, without learning. Success is labelled by the goal's switch: the source of
the label is in each row. Keypoints are those of known positions.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from robots.episodes import rows_of
from robots.tasks import get_task
from robots.worlds import make_world
from robots.worlds.gripper_table import LONGEST_STEP
from training.benchmarks import Report, Row, mean_of, minus, values_of
from training.benchmarks.gripper_tables import SFT, WITH_RESETS, costs, judged, practise, shown
from training.benchmarks.two_stage_pipeline import (
    OffPolicyRun,
    Stage1,
    demonstrator,
    evaluation_seed,
    folder,
    stage1,
)
from training.checkpoints import Policy
from training.keypoints import Asked, KnownPositions, Noisy, Proposer, Way, hand_of
from training.methods.kagi import kagi
from training.methods.sac import sac
from training.recipes import KAGIRecipe, SACRecipe

TASK = "place"
DEMONSTRATIONS = 12  # of which a policy succeeds in a third of its attempts
STEPS = 4500  # of practice
PRACTICE: dict[str, Any] = {"cloning_steps": 1500}
EPISODES, FINAL_EPISODES = 100, 400
WRONG, DEVIATION = 0.2, 0.01  # of the noisy keypoints: share, metres
GOOD = 0.8
WITHOUT_SUCCESS = {"success": 0.0}


def run(seed: int, report: Report) -> list[Row]:
    """All settings of one seed."""
    limit = get_task(TASK).time_limit_steps
    rows = [demonstrator(seed, FINAL_EPISODES, limit, [TASK]), open_loop(seed, limit)]
    settings: dict[str, tuple[dict[str, Any], Proposer | None]] = {
        "sparse": ({}, None),
        "dense_sparse": ({}, KnownPositions()),
        "dense": (WITHOUT_SUCCESS, KnownPositions()),
        "noisy": ({}, Noisy(KnownPositions(), WRONG, DEVIATION, seed)),
    }
    with folder() as path:
        started = time.process_time()
        begin = stage1(path / "sft", shown([TASK], DEMONSTRATIONS, seed), seed, **SFT)
        rows.append(judged("bc", begin.policy, seed, TASK, FINAL_EPISODES, cpu_s=time.process_time() - started))
        for number, (name, (further, proposer)) in enumerate(settings.items()):
            report((0.1 + number) / (0.1 + len(settings)), name)
            rows.append(practised(path / name, name, begin, seed, proposer, further))
    return rows


def practised(
    path: Path, name: str, begin: Stage1, seed: int, proposer: Proposer | None, further: dict[str, Any]
) -> Row:
    """One setting, judged after each version on the way and at its end."""
    common: dict[str, Any] = {"seed": seed, "max_steps": STEPS, "evaluation_episodes": 0, "tasks": TASK, **PRACTICE}
    if proposer is None:
        done = practise(path, SACRecipe(**common), begin, sac, TASK, WITH_RESETS)
    else:
        recipe = KAGIRecipe(**common, **further)
        done = practise(path, recipe, begin, lambda run, act: kagi(run, act, proposer), TASK, WITH_RESETS)
    curve = on_the_way(done, seed)
    good = [steps for steps, success in curve if success >= GOOD]
    figures = costs(done) | {"curve": curve, "steps_to_80": good[0] if good else None, "label_source": "sensor"}
    return judged(name, done.policy(), seed, TASK, FINAL_EPISODES, updates_per_step=1.0, **figures)


def on_the_way(done: OffPolicyRun, seed: int) -> list[tuple[int, float]]:
    """Of each version but the first: steps of practice that made it, and its success."""
    policies = [(each["steps"], Policy.load(each["path"])) for each in done.versions[1:]]
    return [(steps, judged("", policy, seed, TASK, EPISODES)["success"]) for steps, policy in policies]


def open_loop(seed: int, limit: int, attempts: int = 100) -> Row:
    """The keypoints executed as they are: to each in turn, closed from the first to the last."""
    task, world = get_task(TASK), make_world(get_task(TASK).world, 0)
    reached = 0
    for number in range(attempts):
        rng = np.random.default_rng([evaluation_seed(seed), number])
        first = world.reset(rng)
        instruction = task.sample(rng, world.objects_in_play())
        found = KnownPositions().propose(Asked(world.embodiment, instruction.text, first))
        way, observation = Way(found.points if found else [(0.0, 0.0)] * 2), first
        for _ in range(limit):
            one = rows_of({key: value[None] for key, value in observation.items()}, slice(1))
            places, closed = hand_of(world.embodiment, one)
            way.left(places[0], bool(closed[0]))
            goal = way.points[way.next] if way.holds else way.points[0]
            missing = goal - places[0]
            there = np.linalg.norm(missing) < 0.3 * LONGEST_STEP
            over = way.holds and there and way.next == len(way.points) - 1
            grip = 1.0 if (there or way.holds) and not over else -1.0
            observation = world.step(np.array([*np.clip(missing, -LONGEST_STEP, LONGEST_STEP), grip], np.float32))
            if world.true_success(instruction):
                reached += 1
                break
    world.close()
    return {"setting": "open_loop", "success": reached / attempts}


def summarise(rows: list[Row]) -> dict[str, Any]:
    """The figures that others read."""
    names = ("bc", "sparse", "dense", "dense_sparse", "noisy", "open_loop")
    final = {name: mean_of(rows, name, "success") for name in names}
    fast, slow = (values_of(rows, name, "steps_to_80") for name in ("dense_sparse", "sparse"))
    seeds = {row["seed"] for row in rows}
    ratios = [fast[seed] / slow[seed] for seed in seeds if seed in fast and seed in slow]
    return {
        # Where sparse never gets there, its time is longer than any: such seeds are counted, not divided by.
        "speed_ratio": float(np.mean(ratios)) if ratios else None,
        "dense_sparse_reached_80": len(fast),
        "sparse_reached_80": len(slow),
        "final_gain": minus(final["dense_sparse"], final["sparse"]),
        "noisy_gain": minus(final["noisy"], final["sparse"]),
        "to_dense": minus(final["dense_sparse"], final["dense"]),
        "sparse_over_bc": minus(final["sparse"], final["bc"]),
        **{f"final_{name}": value for name, value in final.items()},
        "proposer": "known_positions",
        "label_source": "sensor",
    }

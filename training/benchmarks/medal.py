"""MEDAL++: does practice that undoes itself, rewarded by a few demonstrations, do better than imitation, and than
practice that only goes forward?

A gripper takes a puck to a goal in a pocket, which a puck leaves only in the gripper's hold. A few demonstrations of
the task and of bringing back; a well-trained policy of both ("bc"). Then practice of equal length without resets, but
for one in so many steps: forward and backward in turn ("turns"), forward alone ("forward_only"); and with a reset
before each attempt ("resets"). All are judged from true starts. Rewards are the classifiers', attempts end by the
success detector of stage 1 or at their limit; no sensor and no true success is read.
"""

import time
from typing import Any

import numpy as np

from robots.episodes import Episode, read_episodes
from training.benchmarks import Report, Row, mean_of, minus
from training.benchmarks.gripper_tables import SFT, costs, judged, practise, shown
from training.benchmarks.two_stage_pipeline import OffPolicyRun, folder, stage1
from training.methods.medal import medal
from training.recipes import MEDALRecipe
from training.run_dir import RunDir

FORWARD, BACKWARD = "pocket_place", "pocket_bring_back"
DEMONSTRATIONS = 15  # of each
STEPS, RESET_EVERY = 30_000, 25_000
EPISODES = 400
FURTHER: dict[str, Any] = {"ensemble": 4, "updates_per_step": 1.0, "publish_every": 1500, "cloning_steps": 6000}
TURNS = {"after_failure": BACKWARD, "alternates": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "turns": {"rules": TURNS, "reset_every": RESET_EVERY},
    "forward_only": {"rules": {}, "reset_every": RESET_EVERY},
    "resets": {"rules": {"reset_each_attempt": True}},
}


def run(seed: int, report: Report) -> list[Row]:
    """All settings of one seed."""
    with folder() as path:
        started = time.process_time()
        begin = stage1(path / "sft", shown([FORWARD, BACKWARD], DEMONSTRATIONS, seed), seed, **SFT)
        rows = [judged("bc", begin.policy, seed, FORWARD, EPISODES, cpu_s=time.process_time() - started)]
        for number, (name, setting) in enumerate(SETTINGS.items()):
            report((0.1 + number) / (0.1 + len(SETTINGS)), name)
            recipe = MEDALRecipe(
                seed=seed, max_steps=STEPS, evaluation_episodes=0, tasks=FORWARD, backward=BACKWARD, **FURTHER
            )
            turns = name == "turns"

            def entry(run: RunDir, act: Any, turns: bool = turns) -> dict[str, Any]:
                return medal(run, act, turns)

            done = practise(path / name, recipe, begin, entry, FORWARD, **setting)
            figures = costs(done) | {"coverage": coverage(done), "updates_per_step": recipe.updates_per_step}
            rows.append(judged(name, done.policy(), seed, FORWARD, EPISODES, **figures))
    return rows


def coverage(done: OffPolicyRun) -> float:
    """The share of the table's cells, 10 x 10, in which the puck was seen."""
    seen = set[tuple[int, int]]()
    for path in sorted(done.run.episodes.glob("*")):
        for episode in read_episodes(path):
            seen |= cells(episode)
    return len(seen) / 100


def cells(episode: Episode) -> set[tuple[int, int]]:
    """Where the puck was."""
    places = np.floor((episode.observations["observation.environment_state"][:, :2] + 0.5) * 10).astype(int)
    return {(int(x), int(y)) for x, y in places.clip(0, 9)}


def summarise(rows: list[Row]) -> dict[str, Any]:
    """The figures that others read."""
    names = ("bc", *SETTINGS)
    succeeded = {name: mean_of(rows, name, "success") for name in names}
    resets = {name: mean_of(rows, name, "resets") for name in names}
    turns, with_resets = succeeded["turns"], succeeded["resets"]
    many = resets["resets"]
    return {
        "over_bc": minus(turns, succeeded["bc"]),
        "over_forward": minus(turns, succeeded["forward_only"]),
        "to_resets": None if turns is None or not with_resets else turns / with_resets,
        "resets_share": None if resets["turns"] is None or not many else resets["turns"] / many,
        **{f"success_initial_{name}": value for name, value in succeeded.items()},
        **{f"resets_{name}": value for name, value in resets.items()},
        **{f"state_coverage_{name}": mean_of(rows, name, "coverage") for name in names},
        "label_source": "classifier",
    }

"""detector: how far d <= s, k frames in a row, is to be believed.

s and k are chosen in stage 1 from the demonstrations alone (steps_to_go.choose_detector). Here the simulator's true
success says how good the choice is: on the held-out demonstrations, and on practice episodes, where
every (s, k) of a grid is tried on the same recorded d. Practice episodes ended when the chosen detector fired, so a
stricter one than that is shown with less recall than it would have had.

    fires               the first frame at which the detector holds; the episode would end there
    false_positive_rate share of the fires that come while the instruction is not fulfilled
    precision, recall   of the fires; of the episodes that are truly fulfilled at some frame
"""

import dataclasses
from typing import Any

import numpy as np
import torch

from robots.episodes import Episode, rows_of
from robots.tasks import get_task
from robots.worlds.language_table import block_positions, distance_left
from training import steps_to_go
from training.benchmarks import Report, Row, mean_of
from training.benchmarks.language_table import TASK, TIME_LIMIT
from training.benchmarks.regimes import PRACTICE
from training.benchmarks.two_stage_pipeline import demonstrations, folder, stage1, stage2
from training.checkpoints import RewardModel
from training.datasets import demonstrations_of, split
from training.recipes import SFTRecipe

DEMONSTRATIONS = 100
THRESHOLDS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
FRAMES = (1, 2, 3)


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    with folder() as path:
        data = demonstrations(seed, DEMONSTRATIONS, report, 0.4, TASK)
        report(0.4, "stage 1")
        begin = stage1(path / "sft", data, seed)
        recipe = begin.run.recipe(SFTRecipe)
        generator = torch.Generator().manual_seed(seed)
        _, held_out = split(demonstrations_of(data), recipe.validation_fraction, generator)
        report(0.7, "practice")
        after = stage2(path / "improve", begin, seed, PRACTICE, TIME_LIMIT, TASK)
        practice = after.practice()
    s, k = begin.reward_model.threshold, begin.reward_model.consecutive
    rows = [figures("validation", [data[i] for i in held_out.tolist()], begin.reward_model, s, k)]
    rows.append(figures("practice", practice, begin.reward_model, s, k))
    for threshold in THRESHOLDS:
        for frames in FRAMES:
            name = f"practice, s = {threshold:g}, k = {frames}"
            rows.append(figures(name, practice, begin.reward_model, threshold, frames))
    return [row | {"demonstrations": DEMONSTRATIONS, "practice_episodes": len(practice)} for row in rows]


def summarise(rows: list[Row]) -> dict[str, Any]:
    return {
        "false_positive_rate": mean_of(rows, "validation", "false_positive_rate"),
        "recall": mean_of(rows, "validation", "recall"),
        "practice_precision": mean_of(rows, "practice", "precision"),
        "practice_recall": mean_of(rows, "practice", "recall"),
    }


def fulfilled(episode: Episode) -> np.ndarray:
    """True success at each frame, by the world's own rule. [T + 1] bool"""
    target = get_task(episode.task).parse(episode.instruction).target
    return np.array(
        [
            distance_left(target, block_positions(rows_of(episode.observations, step))) <= 0
            for step in range(episode.steps + 1)
        ]
    )


def figures(setting: str, episodes: list[Episode], reward_model: RewardModel, s: float, k: int) -> Row:
    judge = RewardModel(reward_model.network, dataclasses.replace(reward_model.metadata, threshold=s, consecutive=k))
    fires = right = truly = found = 0
    for episode in episodes:
        d, _ = judge.steps_to_go(episode.observations, [episode.instruction] * (episode.steps + 1))
        success = fulfilled(episode)
        fired = steps_to_go.first_detection(d, s, k)
        truly += int(success.any())
        if fired is not None:
            fires += 1
            right += int(success[fired])
            found += int(success[fired])
    return {
        "setting": setting,
        "s": s,
        "k": k,
        "precision": right / fires if fires else None,
        "recall": found / truly if truly else None,
        "false_positive_rate": 1 - right / fires if fires else None,
        "episodes": len(episodes),
    }

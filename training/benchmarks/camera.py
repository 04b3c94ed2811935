"""camera: SFT and practice of a policy that sees pictures, 124 x 88 pixels, and reads words; nothing else.

Nobody tells it where blocks lie, in training neither: sight.py has to find out. Demonstrations, grounding, practice and
evaluation are otherwise those of language-table's smallest regime.
"""

import time

import torch

from training.benchmarks import Report, Row, mean_of
from training.benchmarks.table_runs import demonstrations, folder, stage1, stage2, success

TASKS = ("camera_block2block", "camera_block_to_place")
DEMONSTRATIONS = 300
TIME_LIMIT = 56
PRACTICE = 120
EVALUATION_EPISODES = 200  # rendering is what takes the time


def run(seed: int, report: Report) -> list[Row]:
    started = time.monotonic()
    torch.set_num_threads(1)
    with folder() as path:
        data = demonstrations(seed, DEMONSTRATIONS, report, 0.2, TASKS)
        report(0.2, "stage 1")
        begin = stage1(path / "sft", data, seed)
        del data
        report(0.4, "practice")
        after = stage2(path / "improve", begin, seed, PRACTICE, TIME_LIMIT, TASKS)
        practised, last = after.within(PRACTICE)
        rates = []
        for policy in (begin.policy, last):
            report(0.7 + 0.15 * len(rates), "evaluation")
            rates.append(success(policy, seed, TIME_LIMIT, TASKS, EVALUATION_EPISODES).rate)
    return [
        {
            "setting": "self-improvement",
            "demonstrations": DEMONSTRATIONS,
            "sft_success": rates[0],
            "practice_episodes": practised,
            "final_success": rates[1],
            "rise": rates[1] - rates[0],
            "wall_s": round(time.monotonic() - started, 1),  # all of it: demonstrations and evaluation too
            "env_steps_per_s": round(after.env_steps / after.wall_s),
        }
    ]


def summarise(rows: list[Row]) -> dict:
    return {name: mean_of(rows, "self-improvement", name) for name in ("sft_success", "final_success", "rise")}

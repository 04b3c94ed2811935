"""camera: SFT and practice of a policy that sees pictures, 124 x 88 pixels, and reads words; nothing else.

Nobody tells it where blocks lie, in training neither: sight.py has to find out. Beside it a policy that is told, with
as many demonstrations, practice episodes and attempts.
"""

import time
from pathlib import Path

import torch

from training.benchmarks import Report, Row, mean_of, table_runs
from training.benchmarks.table_runs import demonstrations, folder, stage1, stage2, success

TASKS = {"self-improvement": ("camera_block2block", "camera_block_to_place"), "told": table_runs.TASKS}
DEMONSTRATIONS = 300
TIME_LIMIT = 160
PRACTICE = 200
ATTEMPTS = 200  # rendering is what takes the time


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    with folder() as path:
        seen = one(path / "seen", "self-improvement", seed, lambda done, what: report(0.8 * done, what))
        told = one(path / "told", "told", seed, lambda done, what: report(0.8 + 0.2 * done, what))
    return [seen, told]


def one(path: Path, setting: str, seed: int, report: Report) -> Row:
    started, tasks = time.monotonic(), TASKS[setting]
    path.mkdir()
    data = demonstrations(seed, DEMONSTRATIONS, report, 0.2, tasks)
    report(0.2, f"{setting}: stage 1")
    begin = stage1(path / "sft", data, seed)
    report(0.4, f"{setting}: practice")
    after = stage2(path / "improve", begin, seed, PRACTICE, TIME_LIMIT, tasks)
    practised, last = after.within(PRACTICE)
    report(0.7, f"{setting}: evaluation")
    before, final = (success(policy, seed, TIME_LIMIT, tasks, ATTEMPTS).rate for policy in (begin.policy, last))
    return {
        "setting": setting,
        "demonstrations": DEMONSTRATIONS,
        "sft_success": before,
        "practice_episodes": practised,
        "final_success": final,
        "rise": final - before,
        "wall_s": round(time.monotonic() - started, 1),  # of demonstrations, both stages and both evaluations
        "env_steps_per_s": round(after.env_steps / after.wall_s),
    }


def summarise(rows: list[Row]) -> dict:
    return {name: mean_of(rows, "self-improvement", name) for name in ("sft_success", "final_success", "rise")}

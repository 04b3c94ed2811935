"""positive-transfer: practise Block2Block only; what becomes of the instructions that were not practised?

Stage 1 has seen both families. After practice of one, both are evaluated, and Block2Block in wordings (verbs and
templates) that no demonstration used.
"""

from typing import Any

import torch

from training.benchmarks import Report, Row, mean_of
from training.benchmarks.language_table import TIME_LIMIT
from training.benchmarks.regimes import PRACTICE
from training.benchmarks.two_stage_pipeline import demonstrations, folder, stage1, stage2, success

DEMONSTRATIONS = 50  # of both families together
PRACTISED = ("block2block",)
SETTINGS = {
    "practised": (PRACTISED, False),
    "block-to-place": (("block_to_place",), False),
    "held-out-wordings": (PRACTISED, True),
}


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    with folder() as path:
        data = demonstrations(seed, DEMONSTRATIONS, report, 0.2)
        report(0.2, "stage 1")
        begin = stage1(path / "sft", data, seed)
        report(0.5, "practice")
        after = stage2(path / "improve", begin, seed, PRACTICE, TIME_LIMIT, PRACTISED)
        episodes, policy = after.within(PRACTICE)
        rows = []
        for setting, (tasks, held_out) in SETTINGS.items():
            before, final = (
                success(each, seed, TIME_LIMIT, tasks, held_out=held_out).rate for each in (begin.policy, policy)
            )
            rows.append(
                {
                    "setting": setting,
                    "demonstrations": DEMONSTRATIONS,
                    "sft_success": before,
                    "practice_episodes": episodes,
                    "final_success": final,
                    "gain": final - before,
                    "wall_s": round(begin.wall_s + after.wall_s, 1),
                    "env_steps_per_s": round(after.env_steps / after.wall_s),
                }
            )
    return rows


def summarise(rows: list[Row]) -> dict[str, Any]:
    return {f"gain_{setting.replace('-', '_')}": mean_of(rows, setting, "gain") for setting in SETTINGS}

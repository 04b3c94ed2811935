"""camera: the table of language-table once more, by a policy that sees pictures, 124 x 88 pixels, and reads words.

Nobody tells it where blocks lie, in training neither: perception.py has to find out. So it needs more demonstrations,
and words are lacking no more: what is, is to see. The demonstrator is told. As many practice episodes as there, but
fewer rows and attempts, because rendering is what takes the time.
"""

from typing import Any

import torch

from training.benchmarks import Report, Row, mean_of, minus
from training.benchmarks.regimes import Regimes, demonstrator
from training.benchmarks.two_stage_pipeline import demonstrations, folder, stage1

REGIMES = Regimes(
    "camera_block2block", {"small": 50, "middle": 70, "large": 100}, attempts=120, shares=(), times=(8,), fenced=False
)


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    rows = [demonstrator(seed)]
    with folder() as path:
        data = demonstrations(seed, REGIMES.most, lambda done, what: report(0.1 * done, what), 1, [REGIMES.task])
        for number, (regime, count) in enumerate(REGIMES.demonstrations.items()):
            report(0.1 + 0.3 * number, f"{regime}: {count} demonstrations")
            begin = stage1(path / f"sft-{regime}", data[:count], seed)
            rows += REGIMES.rows(regime, begin, data, path, seed)
    return rows


def summarise(rows: list[Row]) -> dict[str, Any]:
    before, after = (mean_of(rows, setting, "success", "large") for setting in ("sft", "practice-200"))
    return REGIMES.summary(rows) | {
        "sft_success": before,
        "final_success": after,
        "rise": minus(after, before),
    }

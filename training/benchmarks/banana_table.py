"""banana-table: SFT with blocks, stage 2 with a banana that no demonstration and no instruction ever mentioned.

Where the words point to comes from stage 1 alone; how to push a long, curved thing that spins comes from practice.
"""

import tempfile
from pathlib import Path
from typing import Any

from training.benchmarks import Report, Row, mean_of
from training.benchmarks.domain_transfer import Plan, carry_out
from training.benchmarks.regimes import demonstrator
from training.benchmarks.two_stage_pipeline import RULES

PLAN = Plan(
    demonstrated=("block_to_place",),
    demonstrations=100,
    practised="banana_to_place",
    practice=200,
    stations=4,
    rules=RULES,
)


def run(seed: int, report: Report) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        row = carry_out(PLAN, Path(folder), seed, report)
    return [demonstrator(seed, PLAN.practised), row]


def summarise(rows: list[Row]) -> dict[str, Any]:
    return {name: mean_of(rows, "self-improvement", name) for name in ("sft_success", "final_success")}

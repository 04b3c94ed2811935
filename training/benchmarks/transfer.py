"""transfer: SFT on LanguageTable, stage 2 on the worn table: other masses, friction, arm, delay and camera.

The reward model has never seen the worn table either. Practice takes 3 % of the demonstrations' number in episodes.
"""

import tempfile
from pathlib import Path
from typing import Any

from training.benchmarks import Report, Row, mean_of
from training.benchmarks.domain_transfer import Plan, carry_out
from training.benchmarks.regimes import demonstrator
from training.benchmarks.two_stage_pipeline import RULES

PLAN = Plan(
    demonstrated=("block2block",),
    demonstrations=3200,
    practised="worn_block2block",
    stations=4,  # a round ends with an episode of each station, and 96 episodes are few
    practice=96,
    rules=RULES,
)


def run(seed: int, report: Report) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        row = carry_out(PLAN, Path(folder), seed, report)
    return [
        demonstrator(seed, PLAN.practised),
        row | {"extra_episodes": row["practice_episodes"] / PLAN.demonstrations},
    ]


def summarise(rows: list[Row]) -> dict[str, Any]:
    return {
        name: mean_of(rows, "self-improvement", name) for name in ("sft_success", "final_success", "extra_episodes")
    }

"""so101-pick: an arm that is not planar, told where the cubes lie, and the same arm by two cameras.

Both families take turns, in demonstrations, practice and evaluation: what one puts into a bin the other takes out, so
that practice needs nobody. A policy answers chunks of four actions and executes all of them before it asks again: one
action at a time it hesitates above a cube, as demonstrators pause there.
"""

from collections.abc import Sequence
from typing import Any

import torch

from robots.tasks import get_task
from training.benchmarks import Report, Row, mean_of, minus
from training.benchmarks.two_stage_pipeline import (
    Stage1,
    demonstrations,
    demonstrator,
    folder,
    stage1,
    stage2,
    success,
)
from training.checkpoints import Policy

FAMILIES = ("so101_pick", "so101_take_out")
DEMONSTRATIONS = {"state": 80, "cameras": 300}
PRACTICE = 300
ATTEMPTS = {"state": 200, "cameras": 60}  # a figure; pictures are what takes the time
SFT: dict[str, Any] = {"action_bins": 21, "chunk": 4, "executed": 4}
RULES = {"after_failure": FAMILIES[0]}  # where no cube is left in a bin, one is put there


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    rows = [demonstrator(seed, ATTEMPTS["state"], limit(FAMILIES), FAMILIES)]
    for number, (senses, count) in enumerate(DEMONSTRATIONS.items()):
        families = [name if senses == "state" else f"camera_{name}" for name in FAMILIES]
        begun = 0.05 + 0.45 * number
        with folder() as path:
            report(begun, f"{senses}: {count} demonstrations")
            data = demonstrations(seed, count, lambda *_: None, 0, families)
            report(begun + 0.1, f"{senses}: SFT")
            before = stage1(path / "sft", data, seed, **SFT)
            rows.append(judged(f"{senses}-sft", before.policy, families, seed, before, before.wall_s))
            report(begun + 0.2, f"{senses}: practice")
            rules = {name: families[FAMILIES.index(other)] for name, other in RULES.items()}
            after = stage2(path / "practice", before, seed, PRACTICE, limit(families), families, rules=rules)
            practised, policy = after.within(PRACTICE)
            wall_s = before.wall_s + after.wall_s
            figures = after.figures(practised)
            rows.append(judged(f"{senses}-practice", policy, families, seed, before, wall_s, **figures))
    return rows


def limit(families: Sequence[str]) -> int:
    """Steps of an attempt."""
    return get_task(families[0]).time_limit_steps


def judged(
    setting: str, policy: Policy, families: Sequence[str], seed: int, begun: Stage1, wall_s: float, **figures: Any
) -> Row:
    """A policy's row."""
    result = success(policy, seed, limit(families), families, ATTEMPTS[setting.partition("-")[0]])
    return {
        "setting": setting,
        "demonstrations": begun.count,
        "time_limit": limit(families),
        **figures,
        "success": result.rate,
        "steps_to_success": result.steps_to_success,
        "wall_s": round(wall_s, 1),
    }


def summarise(rows: list[Row]) -> dict[str, Any]:
    each = {
        setting: mean_of(rows, setting, "success")
        for setting in ("demonstrator", "state-sft", "state-practice", "cameras-sft", "cameras-practice")
    }
    return {
        **{f"{name.replace('-', '_')}_success": value for name, value in each.items()},
        "state_gain": minus(each["state-practice"], each["state-sft"]),
        "cameras_gain": minus(each["cameras-practice"], each["cameras-sft"]),
    }

"""over-optimisation: three times the practice that was needed, with the guard and without it.

Both runs see the same success curve settings as a fleet's run; the guard (self_improvement.past_the_peak) may stop the
one. The checkpoint that a run kept, and all the others on the run's curve, are then judged again on starts that chose
nothing: kept_below_peak is by how much the kept one is worse than the best of them. Being the best of many noisy
figures, that best is a little too high, so the difference is if anything too large.
"""

import torch

from training.benchmarks import Report, Row, mean_of
from training.benchmarks.language_table import LARGE_BUDGET, SMALL
from training.benchmarks.table_runs import demonstrations, folder, stage1, stage2, success
from training.checkpoints import Policy
from training.self_improvement import policy_path

TIMES = 3
# A learning rate that is annealed would hide what this is about.
CURVE = {"evaluate_every": 4, "evaluation_episodes": 200, "anneal": 0.0}


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    budget = TIMES * round(LARGE_BUDGET * SMALL.demonstrations)
    rows = []
    with folder() as path:
        data = demonstrations(seed, SMALL.demonstrations, report, 0.1)
        report(0.1, "stage 1")
        begin = stage1(path / "sft", data, seed)
        for number, (setting, guard) in enumerate((("guard", {}), ("no-guard", {"patience": 0}))):
            report(0.2 + 0.4 * number, setting)
            after = stage2(path / setting, begin, seed, budget, SMALL.time_limit, **CURVE, **guard)
            summary = after.run.summary()
            curve = [line["version"] for line in after.run.read_metrics()[0] if line["kind"] == "evaluation"]
            judged = {
                version: success(Policy.load(policy_path(after.run, version)), seed, SMALL.time_limit).rate
                for version in curve
            }
            rows.append(
                {
                    "setting": setting,
                    "demonstrations": SMALL.demonstrations,
                    "sft_success": judged[0],
                    "practice_episodes": summary["practice_episodes"],
                    "final_success": judged[curve[-1]],
                    "kept_success": judged[summary["kept_version"]],
                    "peak_success": max(judged.values()),
                    "below_peak": max(judged.values()) - judged[summary["kept_version"]],
                    "wall_s": round(begin.wall_s + after.wall_s, 1),
                    "env_steps_per_s": round(after.env_steps / after.wall_s),
                }
            )
    return rows


def summarise(rows: list[Row]) -> dict:
    return {
        "kept_below_peak": mean_of(rows, "guard", "below_peak"),
        "last_below_peak_without_guard": mean_of(rows, "no-guard", "peak_success")
        - mean_of(rows, "no-guard", "final_success"),
    }

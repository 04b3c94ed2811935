"""over-optimisation: practice that goes wrong, with the guard and without it.

Few demonstrations, policy gradient on the steps-to-go reward alone, a learning rate that does not fall, and three times
the practice of language-table: there the reward model is poor, and what is learned in the end is what it doesn't see. A
third row is the same with the settings that practice has by default.

kept_by_detections is the version that a real station could choose: whose own attempts were most often called a success.

Both runs see the same success curve settings as a fleet's run; the guard (success_curve.past_the_peak) may stop the
one. The checkpoint that a run kept, and all the others on the run's curve, are then judged again on starts that chose
nothing: kept_below_peak is by how much the kept one is worse than the best of them. Being the best of many noisy
figures, that best is a little too high, so the difference is if anything too large.
"""

from typing import Any

import torch

from training.benchmarks import Report, Row, mean_of, minus
from training.benchmarks.language_table import TASK, TIME_LIMIT
from training.benchmarks.regimes import PRACTICE
from training.benchmarks.two_stage_pipeline import RULES, demonstrations, folder, stage1, stage2, success
from training.checkpoints import Policy
from training.versions import policy_path

DEMONSTRATIONS = 6  # on seed 101: .54, .97 after 111 to 155 episodes, .88 after 404
TIMES = 3
CURVE: dict[str, Any] = {"evaluate_every": 6, "evaluation_episodes": 200}
WRONG: dict[str, Any] = {"replay": 0, "gamma": 0.9, "anneal": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {"guard": WRONG, "no-guard": WRONG | {"patience": 0}, "defaults": {"patience": 0}}


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    rows = []
    with folder() as path:
        data = demonstrations(seed, DEMONSTRATIONS, report, 0.1, TASK)
        report(0.1, "stage 1")
        begin = stage1(path / "sft", data, seed)
        for number, (setting, recipe) in enumerate(SETTINGS.items()):
            report(0.2 + 0.8 * number / len(SETTINGS), setting)
            after = stage2(path / setting, begin, seed, TIMES * PRACTICE, TIME_LIMIT, TASK, **CURVE, **RULES, **recipe)
            summary = after.run.summary()
            curve = [line["version"] for line in after.run.read_metrics()[0] if line["kind"] == "evaluation"]
            judged = {
                version: success(Policy.load(policy_path(after.run, version)), seed, TIME_LIMIT, TASK, **RULES).rate
                for version in curve
            }
            rows.append(
                {
                    "setting": setting,
                    "demonstrations": DEMONSTRATIONS,
                    "sft_success": judged[0],
                    "practice_episodes": summary["practice_episodes"],
                    "final_success": judged[curve[-1]],
                    "kept_success": judged[summary["kept_version"]],
                    "kept_by_detections": success(after.most_detected()[1], seed, TIME_LIMIT, TASK, **RULES).rate,
                    "peak_success": max(judged.values()),
                    "below_peak": max(judged.values()) - judged[summary["kept_version"]],
                    "wall_s": round(begin.wall_s + after.wall_s, 1),
                    "env_steps_per_s": round(after.env_steps / after.wall_s),
                }
            )
    return rows


def summarise(rows: list[Row]) -> dict[str, Any]:
    return {
        "kept_below_peak": mean_of(rows, "guard", "below_peak"),
        "last_below_peak_without_guard": minus(
            mean_of(rows, "no-guard", "peak_success"), mean_of(rows, "no-guard", "final_success")
        ),
    }

"""reward-model: one policy; what is its reward model worth, trained from scratch or after broad data?

The policy is stage 1's on ten Block2Block demonstrations. The reward models see 10, 20 or 80 % of forty, either from
scratch or beginning with a network that has been trained on broad data, some of which it goes on seeing: a banana
that is pushed to places, then blocks that are pushed to places. Neither is Block2Block.
"""

from typing import Any

import torch

from training.benchmarks import Report, Row, mean_of, minus
from training.benchmarks.language_table import TASK, TIME_LIMIT
from training.benchmarks.regimes import PRACTICE
from training.benchmarks.two_stage_pipeline import demonstrations, folder, stage1, stage2, success

OF_THE_POLICY = 10
DEMONSTRATIONS = 40  # so few that a tenth of them teaches a reward model little
BROAD = ("banana_to_place", "block_to_place")
BROAD_DEMONSTRATIONS = 800  # of each family
SHARES = (10, 20, 80)
# What has been learned from broad data is forgotten if a few demonstrations alone are trained on for long, and so few
# hold out too little to choose s by: some of the broad data stay in.
FINE_TUNING = {"steps": 600, "learning_rate": 3e-4}
KEPT = 400  # broad demonstrations, of the family whose body is the policy's


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    rows = []
    with folder() as path:
        data = demonstrations(seed, DEMONSTRATIONS, report, 0.1, TASK)
        policy = stage1(path / "policy", data[:OF_THE_POLICY], seed)
        start = success(policy.policy, seed, TIME_LIMIT, TASK).rate
        broad = None
        for number, family in enumerate(BROAD):
            report(0.2 + 0.1 * number, f"broad data: {family}")
            episodes = demonstrations(seed, BROAD_DEMONSTRATIONS, lambda *_: None, 0, (family,))
            broad = stage1(path / family, episodes, seed, broad)
        for number, (share, earlier) in enumerate((s, e) for s in SHARES for e in (None, broad)):
            setting = f"{'pretrained' if earlier else 'scratch'}-{share}"
            report(0.4 + 0.1 * number, setting)
            seen = data[: round(len(data) * share / 100)]
            if earlier:
                judge = stage1(path / f"sft-{setting}", [*seen, *episodes[:KEPT]], seed, earlier, **FINE_TUNING)
            else:
                judge = stage1(path / f"sft-{setting}", seen, seed)
            after = stage2(path / setting, policy, seed, PRACTICE, TIME_LIMIT, TASK, judge=judge)
            practised, last = after.within(PRACTICE)
            rows.append(
                {
                    "setting": setting,
                    "demonstrations": len(seen),
                    "sft_success": start,
                    "practice_episodes": practised,
                    "final_success": success(last, seed, TIME_LIMIT, TASK).rate,
                    "wall_s": round(policy.wall_s + judge.wall_s + after.wall_s, 1),
                    "env_steps_per_s": round(after.env_steps / after.wall_s),
                }
            )
    return rows


def summarise(rows: list[Row]) -> dict[str, Any]:
    return {
        f"pretrained_minus_scratch_at_{share}": minus(
            mean_of(rows, f"pretrained-{share}", "final_success"), mean_of(rows, f"scratch-{share}", "final_success")
        )
        for share in SHARES
    }

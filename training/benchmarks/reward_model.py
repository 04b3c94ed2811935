"""reward-model: one policy; what is its reward model worth, trained from scratch or after broad data?

The policy is stage 1's on all Block2Block demonstrations. The reward models see 10, 20 or 80 % of these only, either
from scratch or beginning with a network that has been trained on broad data, some of which it goes on seeing: a banana
that is pushed to places, then blocks that are pushed to places. Neither is Block2Block.
"""

import torch

from training.benchmarks import Report, Row, mean_of
from training.benchmarks.language_table import SMALL
from training.benchmarks.table_runs import demonstrations, folder, stage1, stage2, success

TASK = ("block2block",)
# So few that a tenth of them teaches a reward model little. From scratch, seed 100: .25 on 15 of them, .57 on 25; on 40
# (five seeds) .80 already.
DEMONSTRATIONS = 200
PRACTICE = 240
BROAD = ("banana_to_place", "block_to_place")
BROAD_DEMONSTRATIONS = 800  # of each family
SHARES = (10, 20, 80)
# Stage 1 of a few demonstrations needs no more, and there are seven of them here.
UPDATES = {"steps": 1500}
# What has been learned from broad data is forgotten if a few demonstrations alone are trained on for long, and so few
# hold out too little to choose s by: some of the broad data stay in. On 25 demonstrations: .45 (seed 100) with UPDATES
# on these alone; .85, .81 (seeds 100, 101) after 300 smaller ones; .92 (seed 101) with this.
FINE_TUNING = {"steps": 600, "learning_rate": 3e-4}
KEPT = 400  # broad demonstrations, of the family whose body is the policy's


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    rows = []
    with folder() as path:
        data = demonstrations(seed, DEMONSTRATIONS, report, 0.1, TASK)
        policy = stage1(path / "policy", data, seed)
        start = success(policy.policy, seed, SMALL.time_limit, TASK).rate
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
                judge = stage1(path / f"sft-{setting}", seen, seed, **UPDATES)
            after = stage2(path / setting, policy, seed, PRACTICE, SMALL.time_limit, TASK, judge=judge)
            practised, last = after.within(PRACTICE)
            rows.append(
                {
                    "setting": setting,
                    "demonstrations": len(seen),
                    "sft_success": start,
                    "practice_episodes": practised,
                    "final_success": success(last, seed, SMALL.time_limit, TASK).rate,
                    "wall_s": round(policy.wall_s + judge.wall_s + after.wall_s, 1),
                    "env_steps_per_s": round(after.env_steps / after.wall_s),
                }
            )
    return rows


def summarise(rows: list[Row]) -> dict:
    return {
        f"pretrained_minus_scratch_at_{share}": mean_of(rows, f"pretrained-{share}", "final_success")
        - mean_of(rows, f"scratch-{share}", "final_success")
        for share in SHARES
    }

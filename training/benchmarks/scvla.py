"""SC-VLA: does a bounded correction, rewarded for going where the policy itself foresees its hand, make it better?

A gripper takes a puck to a goal. A policy of few demonstrations answers chunks of 8 actions, of which 4 are followed
("base"). Two heads are trained with it that foresee progress and displacement ("heads": nothing is corrected yet). Then
practice with a reset before each attempt: corrections rewarded for success alone ("label"), and by the guide too
("guide"). Success is labelled by the goal's switch.
"""

import time
from typing import Any

from robots.tasks import get_task
from training.benchmarks import Report, Row, mean_of, minus
from training.benchmarks.gripper_tables import SFT, WITH_RESETS, costs, judged, practise, shown
from training.benchmarks.two_stage_pipeline import demonstrator, folder, stage1
from training.checkpoints import Policy
from training.methods.scvla import scvla
from training.recipes import SCVLARecipe

TASK = "place"
DEMONSTRATIONS = 20
CHUNKS: dict[str, Any] = {"chunk": 8, "executed": 4}
STEPS, EPISODES = 10_000, 400
SETTINGS: dict[str, dict[str, Any]] = {"label": {"guide": 0.0}, "guide": {}}


def run(seed: int, report: Report) -> list[Row]:
    """All settings of one seed."""
    rows = [demonstrator(seed, EPISODES, get_task(TASK).time_limit_steps, [TASK])]
    with folder() as path:
        started = time.process_time()
        begin = stage1(path / "sft", shown([TASK], DEMONSTRATIONS, seed), seed, **SFT | CHUNKS)
        rows.append(judged("base", begin.policy, seed, TASK, EPISODES, cpu_s=time.process_time() - started))
        for number, (name, further) in enumerate(SETTINGS.items()):
            report((0.1 + number) / (0.1 + len(SETTINGS)), name)
            recipe = SCVLARecipe(seed=seed, max_steps=STEPS, evaluation_episodes=0, tasks=TASK, **further)
            done = practise(path / name, recipe, begin, scvla, TASK, WITH_RESETS)
            if name == "guide":
                rows.append(judged("heads", Policy.load(done.versions[0]["path"]), seed, TASK, EPISODES))
            figures = costs(done) | {"lambda": recipe.correction, "updates_per_step": recipe.updates_per_step}
            rows.append(judged(name, done.policy(), seed, TASK, EPISODES, **figures, label_source="sensor"))
    return rows


def summarise(rows: list[Row]) -> dict[str, Any]:
    """The figures that others read."""
    names = ("base", "heads", "label", "guide")
    succeeded = {name: mean_of(rows, name, "success") for name in names}
    steps = {name: mean_of(rows, name, "steps") for name in names}
    ratio = steps["guide"] / steps["base"] if steps["guide"] and steps["base"] else None
    return {
        "gain": minus(succeeded["guide"], succeeded["base"]),
        "steps_ratio": ratio,
        "guide_minus_label": minus(succeeded["guide"], succeeded["label"]),
        "heads_minus_base": minus(succeeded["heads"], succeeded["base"]),
        **{f"success_{name}": value for name, value in succeeded.items()},
        **{f"steps_{name}": value for name, value in steps.items()},
        "label_source": "sensor",
    }

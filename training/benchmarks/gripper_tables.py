"""What the benchmarks on the gripper table share: demonstrations of kinds, stage 1, runs and their judgement."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robots.demonstrators import collect_demonstrations
from robots.episodes import Episode
from robots.tasks import get_task
from robots.worlds import WORLDS, make_world
from robots.worlds.gripper_table.demonstrator import Habits
from training.benchmarks import Row
from training.benchmarks.two_stage_pipeline import STATIONS, OffPolicyRun, Stage1, off_policy, success
from training.checkpoints import Policy
from training.local_practice import LocalStations
from training.off_policy import Practise
from training.recipes import OffPolicyRecipe
from training.run_dir import RunDir

SFT: dict[str, Any] = {"action_head": "gaussian", "steps": 3000, "passes": 100_000}
# A switch under the goal tells success, and each attempt begins with a reset.
WITH_RESETS = {"success_by": "sensor", "reset_each_attempt": True}
FPS = 10  # steps a second of a station

Entry = Callable[[RunDir, Practise], dict[str, Any]]


def practise(
    path: Path,
    recipe: OffPolicyRecipe,
    begin: Stage1 | None,
    entry: Entry,
    task: str,
    rules: dict[str, Any],
    reset_every: int = 0,
    data: Sequence[Path] = (),
) -> OffPolicyRun:
    """One run, on stations that reset themselves after so many steps of practice (0: as the rules say)."""
    settings = {"shuffle_every_s": reset_every / FPS} if reset_every else {"shuffle_every_s": 86_400.0}
    tables = LocalStations([task], STATIONS, recipe.seed, 0, rules, settings)
    return off_policy(path, recipe, begin, tables, entry, data)


def judged(name: str, policy: Policy, seed: int, task: str, episodes: int, **figures: Any) -> Row:
    """Its true success, from starts that nothing else has seen."""
    found = success(policy, seed, 0, [task], episodes)
    return {"setting": name, "success": found.rate, "steps": found.steps_to_success, **figures}


def costs(done: OffPolicyRun, version: int = -1) -> Row:
    """Of the practice that made a version, and of the whole run."""
    made = done.versions[version]
    return {
        "env_steps": made["steps"],
        "resets": made["resets"],
        "attempts": made["episodes"],
        "cpu_s": done.cpu_s,
    }


def failures(task: str, count: int, seed: int, slips: float = 0.25) -> list[Episode]:
    """Failed attempts of the script, whose fingers open by themselves in this share of steps."""
    spec, family = WORLDS[get_task(task).world], get_task(task)
    assert spec.demonstrate is not None
    world, found, number = make_world(family.world, seed), list[Episode](), 0
    habits = Habits(0.6, 0.4, slips)
    while len(found) < count:
        rng = np.random.default_rng([seed, number, 5])
        world.reset(rng)
        episode = spec.demonstrate(world, family.sample(rng, world.objects_in_play()), rng, seed, habits)
        found += [] if episode.true_success else [episode]
        number += 1
    world.close()
    return found


def shown(tasks: Sequence[str], each: int, seed: int) -> list[Episode]:
    """So many demonstrations of each family."""
    return [episode for task in tasks for episode in collect_demonstrations([task], each, seed)]

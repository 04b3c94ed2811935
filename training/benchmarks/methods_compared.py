"""The main method beside SAC with demonstrations, MEDAL++ and RoboFuME: equal demonstrations, practice and resets.

On the gripper table and on the desktop arm, each with a family of instructions that undoes the other: the two take
turns in practice, and a station is reset only each so many steps. Nothing but what a fleet has tells success: the
reward model of stage 1, and RoboFuME's own classifier. Beside each method stands the policy that it began with: of
action tokens for the main method, with a gaussian head for the others. What counts is success at the task from true
starts, and resets, forced ones and those after a fall.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robots.episodes import Episode
from training.benchmarks import Report, Row, difference, mean_of
from training.benchmarks.gripper_tables import FPS, Entry, costs, judged, practise
from training.benchmarks.gripper_tables import shown as demonstrated
from training.benchmarks.two_stage_pipeline import STATIONS, Stage1, folder, keep_versions, stage1
from training.local_practice import LocalStations
from training.methods.medal import medal
from training.methods.robofume import robofume
from training.methods.sac import sac
from training.recipes import ImproveRecipe, MEDALRecipe, OffPolicyRecipe, RoboFuMERecipe, SACRecipe
from training.run_dir import RunDir


@dataclass(frozen=True)
class World:
    """Where they are compared."""

    task: str
    back: str
    demonstrations: int  # of each
    steps: int  # of practice
    reset_every: int
    sft: dict[str, Any]


WORLDS = {
    "gripper_table": World("place", "bring_back", 10, 8000, 1000, {"steps": 3000, "passes": 100_000}),
    "so101_pick": World("so101_pick", "so101_take_out", 40, 8000, 1000, {"action_bins": 21, "chunk": 4, "executed": 4}),
}
EPISODES = 200
PUBLISH_EVERY = 500
FURTHER: dict[str, Any] = {"updates_per_step": 0.5, "publish_every": PUBLISH_EVERY}
OTHERS: dict[str, tuple[type[OffPolicyRecipe], Entry, dict[str, Any]]] = {
    "sac": (SACRecipe, sac, {}),
    "medal": (MEDALRecipe, medal, {"ensemble": 4}),
    "robofume": (RoboFuMERecipe, robofume, {}),
}


def run(seed: int, report: Report) -> list[Row]:
    """All methods in both worlds, of one seed."""
    rows = []
    for number, (name, world) in enumerate(WORLDS.items()):
        report(number / len(WORLDS), name)
        rows += [row | {"regime": name} for row in compared(world, seed)]
    return rows


def compared(world: World, seed: int) -> list[Row]:
    """All methods in one of them."""
    shown = demonstrated([world.task, world.back], world.demonstrations, seed)
    with folder() as path:
        tokens, rows = begun(path / "tokens", "bc_tokens", world, shown, seed)
        rows.append(improved(path / "improve", tokens, world, seed))
        gaussian, more = begun(path / "gaussian", "bc_gaussian", world, shown, seed, action_head="gaussian")
        rows += more
        rules = {"after_failure": world.back, "alternates": True}
        for name, (kind, entry, further) in OTHERS.items():
            back: dict[str, Any] = {"backward": world.back} if name == "medal" else {}
            recipe = kind(
                seed=seed, max_steps=world.steps, evaluation_episodes=0, tasks=world.task, **FURTHER, **further, **back
            )
            done = practise(path / name, recipe, gaussian, entry, world.task, rules, world.reset_every)
            rows.append(judged(name, done.policy(), seed, world.task, EPISODES, **costs(done)))
    return rows


def begun(
    path: Path, name: str, world: World, shown: Sequence[Episode], seed: int, **settings: Any
) -> tuple[Stage1, list[Row]]:
    """A policy of the demonstrations, and its row."""
    started = time.process_time()
    made = stage1(path, shown, seed, **world.sft, **settings)
    return made, [judged(name, made.policy, seed, world.task, EPISODES, cpu_s=time.process_time() - started)]


def improved(path: Path, begin: Stage1, world: World, seed: int) -> Row:
    """The main method's row: as many steps of practice, in rounds as long as the others' versions."""
    started = time.process_time()
    recipe = ImproveRecipe(
        seed=seed,
        max_episodes=1_000_000,
        max_rounds=-(-world.steps // PUBLISH_EVERY),
        updates_per_round=1,
        batch=PUBLISH_EVERY,
        evaluation_episodes=0,
        anneal=0.0,
        tasks=world.task,
    )
    run = RunDir.create(path, recipe)
    for role in ("policy", "reward_model"):
        (run.start / f"{role}.safetensors").symlink_to(begin.run.checkpoints / f"{role}.safetensors")
    for each in begin.run.data.glob("*.safetensors"):
        (run.data / each.name).symlink_to(each)
    rules = {"after_failure": world.back, "alternates": True}
    settings = {"shuffle_every_s": world.reset_every / FPS}
    stations = LocalStations([world.task], STATIONS, seed, 0, rules, settings)
    after = keep_versions(run, stations)
    figures = {
        "env_steps": after.env_steps,
        "attempts": after.versions[-1][0],
        "resets": stations.resets,
        "cpu_s": time.process_time() - started,
    }
    return judged("improve", after.versions[-1][1], seed, world.task, EPISODES, **figures)


def summarise(rows: list[Row]) -> dict[str, Any]:
    """The figures that others read."""
    found: dict[str, Any] = {}
    for name in WORLDS:
        for setting in ("bc_tokens", "improve", "bc_gaussian", *OTHERS):
            found[f"{name}_{setting}"] = mean_of(rows, setting, "success", name)
            found[f"{name}_{setting}_resets"] = mean_of(rows, setting, "resets", name)
        for setting in OTHERS:
            found[f"{name}_improve_minus_{setting}"] = difference(rows, "improve", setting, "success", name)
    return found

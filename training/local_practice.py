"""The whole loop in one process: the same station loop, episode format and learner as a fleet, without a server. (Its
stations do not survive the process: what is started again goes on with the learner's state and new tables.)

For tests, for choosing a recipe, and for a researcher without a fleet:

    python -m training local-practice --dir DIR --demonstrations FILE [--sft JSON] [--improve JSON] [--stations 16]
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from robots import strict_json
from robots.atomic_files import link_to
from robots.episodes import Episode, write_episodes
from robots.protocol import Assignment, Code, Hold, Welcome
from robots.station import Station
from robots.tasks import TaskFamily, get_task
from robots.worlds import make_world
from training.checkpoints import Policy, RewardModel
from training.methods.self_improvement import improve
from training.methods.sft import sft
from training.model_folders import take_store
from training.practice import bundle, step_together
from training.recipes import ImproveRecipe, SFTRecipe
from training.run_dir import RunDir, RunError


def rules_for(task: TaskFamily, rules: dict[str, Any], practised: Sequence[str]) -> dict[str, Any]:
    """The rules, without another family after a failure where that is not practised, and so perhaps not known; one that
    alternates is known.
    """
    other = rules.get("after_failure")
    fits = other is not None and get_task(other).embodiment == task.embodiment
    fits = fits and (other in practised or rules.get("alternates", False))
    return {name: value for name, value in rules.items() if name != "after_failure" or fits}


class LocalStations:
    """Stations that practise when the learner calls them and hand their episodes in through the run directory."""

    def __init__(
        self,
        task_names: list[str],
        stations: int,
        seed: int,
        time_limit: int = 0,
        rules: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
    ):
        """`rules`: of the tasks, as an assignment names them (robots/rules.py); `settings` of the stations beside."""
        self.generator = torch.Generator().manual_seed(seed)
        self.episodes: list[Episode] = []
        self.stations = []
        for i in range(stations):
            task = get_task(task_names[i % len(task_names)])
            station = Station(make_world(task.world, seed * 1000 + i), seed=seed * 1000 + i, store=self.episodes.append)
            station.receive(Welcome(settings={"self_reset_after_s": 0, "speed": 0} | (settings or {})))
            assigned = {"name": task.name, "time_limit_steps": time_limit or task.time_limit_steps}
            assigned |= rules_for(task, rules or {}, task_names)
            station.receive(Assignment(assignment=1, run=1, task=assigned))
            if station.orders.task is None:
                why = station.orders.waiting_reason
                raise RunError(f"The local tables can't practise {task.name}: {why}.")
            self.stations.append(station)

    @property
    def resets(self) -> int:
        """Of all stations so far, those that they began with not among them."""
        return sum(station.workspace.resets - 1 for station in self.stations)

    def __call__(self, run: RunDir, policy: Policy, reward_model: RewardModel | None, steps: int) -> None:
        """One round: at least `steps` steps of this version, every episode finished."""
        loaded = bundle(policy, reward_model)
        self.episodes.clear()
        for station in self.stations:
            station.offer_policy(loaded)
        held = False
        while not run.cancelled:
            acted = step_together(self.stations, self.generator)
            if any(station.workspace.code == Code.NO_ACTION for station in self.stations):
                raise RunError("The policy gives no usable action; the log may say why.")
            if not acted and held and all(station.recording is None for station in self.stations):
                break
            if not held and sum(episode.steps for episode in self.episodes) >= steps:
                held = True
                for station in self.stations:
                    station.receive(Hold(version=policy.version))
        if self.episodes:
            before = len(list(run.episodes.glob(f"{policy.version:06d}-*")))
            write_episodes(run.episodes / f"{policy.version:06d}-{before:03d}.safetensors", self.episodes)
        run.close_round(policy.version)

    def close(self) -> None:
        """Keep what is under way and free the simulators."""
        for station in self.stations:
            station.close()


def practise_locally(
    folder: Path,
    demonstrations: list[Path],
    sft_recipe: SFTRecipe,
    improve_recipe: ImproveRecipe,
    stations: int = 16,
    rules: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """SFT, then practice, in two run directories under `folder`; the figures of both."""
    first = RunDir.create(folder / "sft", sft_recipe)
    for path in demonstrations:
        link_to(path, first.data / path.name)
    before = sft(first)
    second = RunDir.create(folder / "improve", improve_recipe)
    for path in first.data.glob("*.safetensors"):
        link_to(path, second.data / path.name)
    for role in ("policy", "reward_model"):
        link_to(first.checkpoints / f"{role}.safetensors", second.start / f"{role}.safetensors")
    take_store(first.models, second.models)
    tasks = [name.strip() for name in improve_recipe.tasks.split(",") if name.strip()]
    local = LocalStations(
        tasks or Policy.load(second.start / "policy.safetensors").metadata.tasks,
        stations,
        improve_recipe.seed,
        improve_recipe.time_limit,
        rules,
    )
    try:
        after = improve(second, local)
    finally:
        local.close()
    return {"sft": before, "improve": after}


def main(arguments: argparse.Namespace) -> int:
    """Practise, and print the figures of both runs as JSON."""
    result = practise_locally(
        Path(arguments.dir),
        [Path(path) for path in arguments.demonstrations],
        SFTRecipe.from_json(json.loads(arguments.sft)),
        ImproveRecipe.from_json(json.loads(arguments.improve)),
        arguments.stations,
    )
    print(strict_json.dumps(result, indent=1))
    return 0

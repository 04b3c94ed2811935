"""SFT in one world, practice in another: what banana-table, transfer and point-mass have in common."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robots.demonstrators import collect_demonstrations
from robots.embodiments import get_embodiment
from robots.episodes import write_episodes
from robots.tasks import TaskFamily, get_task
from training.benchmarks import Report, Row
from training.benchmarks.two_stage_pipeline import SFT, keep_versions, success
from training.checkpoints import Policy, load_checkpoint, save_checkpoint
from training.local_practice import LocalStations
from training.methods.sft import sft
from training.recipes import ImproveRecipe, SFTRecipe
from training.run_dir import RunDir


@dataclass(frozen=True)
class Plan:
    """Where is demonstrated, where is practised, and how much of both."""

    demonstrated: tuple[str, ...]  # task families
    demonstrations: int
    practised: str  # task family, of the same world or of another whose body senses and acts in the same terms
    practice: int  # episodes, at most
    stations: int = 16
    sft: dict[str, Any] = field(default_factory=dict)  # settings of the recipes
    improve: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)  # of the task that is practised


class WatchedRun(RunDir):
    """Passes a run's own progress on to the benchmark's."""

    report: Report = staticmethod(lambda fraction, what: None)
    part: tuple[float, float] = 0.0, 1.0  # of the benchmark's work

    def log(self, kind: str, **values: Any) -> None:
        """Also tells the benchmark how far training or practice is."""
        super().log(kind, **values)
        if kind == "progress" and values["phase"] in ("training", "practice"):
            start, end = self.part
            # The last round of practice may bring more episodes than were asked for.
            self.report(start + (end - start) * min(1.0, values["done"] / values["total"]), values["phase"])


def carry_over(before: RunDir, after: RunDir, task: TaskFamily) -> None:
    """An SFT run's two checkpoints, as the start of practice at `task`.

    No weight knows how many objects there are or what they are called: a network sees the softly chosen source and
    target only, and the keys by which it chooses are made of the objects' names. So another body's names are all it
    takes; a name that no demonstration used is read as the unknown word, in the instruction and in the key alike.
    """
    body = get_embodiment(task.embodiment).to_json()
    for role in ("policy", "reward_model"):
        network, metadata = load_checkpoint(before.checkpoints / f"{role}.safetensors")
        metadata = replace(metadata, embodiment=body, tasks=[task.name])
        save_checkpoint(after.start / f"{role}.safetensors", network, metadata)


def carry_out(plan: Plan, folder: Path, seed: int, report: Report) -> Row:
    """The row of the setting self-improvement: of the last policy that the budget allows, chosen by nothing."""
    started = time.monotonic()
    first = WatchedRun.create(folder / "sft", SFTRecipe(seed=seed, evaluation_episodes=0, **SFT | plan.sft))
    demonstrations = collect_demonstrations(
        plan.demonstrated,
        plan.demonstrations,
        seed,
        lambda done, total: report(0.4 * done / total, "demonstrations"),
    )
    write_episodes(first.data / "demonstrations.safetensors", demonstrations)
    first.report, first.part = report, (0.4, 0.6)
    sft(first)

    task = get_task(plan.practised)
    recipe = ImproveRecipe(seed=seed, max_episodes=plan.practice, evaluation_episodes=0, **plan.improve)
    second = WatchedRun.create(folder / "improve", recipe)
    second.report, second.part = report, (0.6, 1.0)
    carry_over(first, second, task)
    stations = LocalStations([task.name], plan.stations, seed, rules=plan.rules)
    after = keep_versions(second, stations)
    practised, last = after.within(plan.practice)
    practice = after.practice()[:practised]
    wall_s = round(time.monotonic() - started, 1)
    start = Policy.load(second.start / "policy.safetensors")
    before, final = (success(policy, seed, task.time_limit_steps, [task.name]) for policy in (start, last))
    return {
        "setting": "self-improvement",
        "demonstrations": plan.demonstrations,
        "time_limit": task.time_limit_steps,
        "sft_success": before.rate,
        "practice_episodes": practised,
        "final_success": final.rate,
        "sft_steps": before.mean_steps,
        "final_steps": final.mean_steps,
        "sft_falls_per_100": 100 * before.falls / before.n,
        "final_falls_per_100": 100 * final.falls / final.n,
        "resets_per_100": 100 * sum(each.ending == "needs_reset" for each in practice) / max(1, practised),
        "wall_s": wall_s,
    }

"""What most benchmarks share: demonstrations, stage 1 and stage 2 in a temporary folder, their figures."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robots.demonstrators import collect_demonstrations
from robots.episodes import Episode, read_episodes, write_episodes
from robots.tasks import InstructionError, get_task
from robots.worlds import WORLDS, make_world
from robots.worlds.language_table import BLOCKS, PLACES
from training.benchmarks import Report, Row
from training.checkpoints import Policy, RewardModel
from training.evaluation import Evaluation, evaluate
from training.handed_in import RewardsOf
from training.local_practice import LocalStations
from training.methods.self_improvement import improve
from training.methods.sft import sft
from training.model_folders import take_store
from training.off_policy import Practise
from training.recipes import ImproveRecipe, OffPolicyRecipe, SFTRecipe
from training.run_dir import RunDir
from training.versions import policy_path

TASKS = ("block2block", "block_to_place")
EVALUATION_EPISODES = 400
STATIONS = 4
# Settings of stage 1 that differ from the fleet's: figures are wanted of poor detectors, too.
SFT: dict[str, Any] = {"largest_threshold": 0.0}
# Of practice, as a fleet's first task has them.
RULES: dict[str, Any] = {"edge_margin": 0.01}


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fleetui-benchmark-") as name:
        yield Path(name)


def demonstrations(seed: int, count: int, report: Report, share: float, tasks: Sequence[str] = TASKS) -> list[Episode]:
    """`share` is what of the seed's whole work this is, for the progress line."""
    return collect_demonstrations(
        tasks, count, seed, progress=lambda done, total: report(share * done / total, f"{done} demonstrations")
    )


def success(
    policy: Policy,
    seed: int,
    time_limit: int,
    tasks: Sequence[str] = TASKS,
    episodes: int = 0,
    **settings: Any,
) -> Evaluation:
    """True success on starts of this seed alone, apart from whatever chose the policy. Settings: evaluate's."""
    episodes = episodes or EVALUATION_EPISODES
    return evaluate(policy, tasks, episodes, evaluation_seed(seed), time_limit=time_limit, **settings)


def evaluation_seed(seed: int) -> int:
    """Of a benchmark's seed: starts that nothing else has seen."""
    return 7_000_000 + 10_000 * seed


def demonstrator(seed: int, attempts: int, time_limit: int, task_names: Sequence[str]) -> Row:
    """The row of the script that demonstrates in the tasks' world, with all that it does badly, from the starts that
    judge policies.
    """
    tasks = [get_task(name) for name in task_names]
    world, demonstrate = make_world(tasks[0].world, 0), WORLDS[tasks[0].world].demonstrate
    if demonstrate is None:
        raise ValueError(f"{tasks[0].world} has no demonstrator.")
    started, episodes = time.monotonic(), list[Episode]()
    for number in range(attempts):
        rng = np.random.default_rng([evaluation_seed(seed), number])
        world.reset(rng)
        instruction = tasks[number % len(tasks)].sample(rng, world.objects_in_play())
        episodes.append(demonstrate(world, instruction, rng, seed))
    world.close()
    return script_row(episodes, time_limit, time.monotonic() - started)


def script_row(attempts: Sequence[Episode], time_limit: int, seconds: float) -> Row:
    """Of a script's attempts, which took so long."""
    reached = [episode.steps for episode in attempts if episode.true_success]
    return {
        "setting": "demonstrator",
        "time_limit": time_limit,
        "success": len(reached) / len(attempts),
        "steps_to_success": float(np.mean(reached)) if reached else None,
        "falls_per_100": 100 * float(np.mean([episode.ending == "needs_reset" for episode in attempts])),
        "env_steps_per_s": sum(episode.steps for episode in attempts) / seconds,
        "wall_s": round(seconds, 1),
    }


def picked(text: str) -> np.ndarray:
    """The goal that a perfect reader would give: source weights, target weights, place weight, place. [2 K + 3]"""
    for name in TASKS:
        try:
            target = get_task(name).parse(text).target
        except InstructionError:
            continue
        names = [kind.name for kind in BLOCKS]
        goal = np.zeros(2 * len(names) + 3, np.float32)
        goal[names.index(target["block"])] = 1
        if "to_block" in target:
            goal[len(names) + names.index(target["to_block"])] = 1
        else:
            goal[-3:] = 1, *PLACES[target["place"]]
        return goal
    raise InstructionError(f"{text!r} is no instruction of {' or '.join(TASKS)}.")


@dataclass
class Stage1:
    """A finished SFT run and its two checkpoints."""

    run: RunDir
    policy: Policy
    reward_model: RewardModel
    count: int  # of its demonstrations
    wall_s: float


def stage1(
    path: Path, episodes: Sequence[Episode], seed: int, earlier: Stage1 | None = None, **settings: Any
) -> Stage1:
    """From the weights of an earlier one, if given."""
    started = time.monotonic()
    run = RunDir.create(path, SFTRecipe(seed=seed, evaluation_episodes=0, **SFT | settings))
    write_episodes(run.data / "demonstrations.safetensors", episodes)
    if earlier:
        (run.start / "reward_model.safetensors").symlink_to(earlier.run.checkpoints / "reward_model.safetensors")
    sft(run)
    return Stage1(
        run,
        Policy.load(run.checkpoints / "policy.safetensors"),
        RewardModel.load(run.checkpoints / "reward_model.safetensors"),
        len(episodes),
        time.monotonic() - started,
    )


@dataclass
class Stage2:
    """A finished practice run and every policy that it made."""

    run: RunDir
    versions: list[tuple[int, Policy]]  # practice episodes that made it, the policy
    wall_s: float
    env_steps: int

    def within(self, episodes: int) -> tuple[int, Policy]:
        """The newest version that so many practice episodes could make; nothing is chosen by its success."""
        return [version for version in self.versions if version[0] <= episodes][-1]

    def most_detected(self) -> tuple[int, Policy]:
        """The version that a real station could choose, who knows no true success: the one whose own attempts were most
        often detected as successes. The last one, which nobody has practised with, can't be.
        """
        detected: dict[str, list[bool]] = {}
        for episode in self.practice():
            detected.setdefault(episode.policy, []).append(episode.detected_success)

        def share(version: tuple[int, Policy]) -> float:
            mine = detected.get(version[1].id, [])
            return (sum(mine) + 1) / (len(mine) + 2)  # so that two of two are not more than nine of ten

        return max(self.versions[:-1], key=share)

    def figures(self, count: int) -> Row:
        """Of the first so many practice episodes: how many needed a person's reset, were called a success, and were
        none.
        """
        episodes = self.practice()[:count]
        detected = [episode for episode in episodes if episode.detected_success]
        return {
            "practice_episodes": count,
            "resets_per_100": 100 * sum(each.ending == "needs_reset" for each in episodes) / max(1, count),
            "detected": len(detected) / max(1, count),
            "false_detections": float(np.mean([not each.true_success for each in detected])) if detected else None,
        }

    def practice(self) -> list[Episode]:
        """The episodes of the run, in the order in which they were handed in."""
        return [episode for path in sorted(self.run.episodes.glob("*")) for episode in read_episodes(path)]


def stage2(
    path: Path,
    begin: Stage1,
    seed: int,
    max_episodes: int,
    time_limit: int,
    tasks: Sequence[str] = TASKS,
    rewards_of: RewardsOf | None = None,
    judge: Stage1 | None = None,
    rules: dict[str, Any] = RULES,
    **settings: Any,
) -> Stage2:
    """Practice in one process, by the fleet's own stations and learner, without a success curve unless asked for."""
    recipe: dict[str, Any] = {"evaluation_episodes": 0, "tasks": ",".join(tasks), "time_limit": time_limit} | settings
    run = RunDir.create(path, ImproveRecipe(seed=seed, max_episodes=max_episodes, **recipe))
    (run.start / "policy.safetensors").symlink_to(begin.run.checkpoints / "policy.safetensors")
    # The reward model may be another run's than the policy.
    (run.start / "reward_model.safetensors").symlink_to((judge or begin).run.checkpoints / "reward_model.safetensors")
    take_store(begin.run.models, run.models)
    for path in begin.run.data.glob("*.safetensors"):
        (run.data / path.name).symlink_to(path)
    return keep_versions(run, LocalStations(list(tasks), STATIONS, seed, time_limit, rules), rewards_of)


def keep_versions(run: RunDir, stations: LocalStations, rewards_of: RewardsOf | None = None) -> Stage2:
    """The run of stage 2 that lies ready in `run`, and every policy that it made."""
    started = time.monotonic()
    versions: list[tuple[int, Policy]] = []
    practised = {"episodes": 0, "steps": 0}

    def practise(run: RunDir, policy: Policy, reward_model: RewardModel, steps: int) -> None:
        versions.append((practised["episodes"], policy))
        stations(run, policy, reward_model, steps)
        practised["episodes"] += len(stations.episodes)
        practised["steps"] += sum(episode.steps for episode in stations.episodes)

    try:
        improve(run, practise, rewards_of)
    finally:
        stations.close()
    newest = max(run.checkpoints.glob("policy-*.safetensors"))
    versions.append((practised["episodes"], Policy.load(newest)))
    return Stage2(run, versions, time.monotonic() - started, practised["steps"])


@dataclass
class OffPolicyRun:
    """A finished run of a method that learns off-policy, and what each of its versions cost."""

    run: RunDir
    versions: list[dict[str, Any]]  # steps, resets and episodes of practice that made it, its path
    summary: dict[str, Any]
    cpu_s: float

    def policy(self, version: int = -1) -> Policy:
        """Of that version, the last one if none is named."""
        return Policy.load(self.versions[version]["path"])


def off_policy(
    path: Path,
    recipe: OffPolicyRecipe,
    begin: Stage1 | None,
    stations: LocalStations,
    entry: Callable[[RunDir, Practise], dict[str, Any]],
    data: Sequence[Path] = (),
) -> OffPolicyRun:
    """Practice in one process, by the fleet's own stations and the method's own learner. Every version is kept."""
    started = time.process_time()
    run = RunDir.create(path, recipe)
    shown = list(data)
    if begin is not None:
        shown += begin.run.data.glob("*.safetensors")
        for role in ("policy", "reward_model"):
            (run.start / f"{role}.safetensors").symlink_to(begin.run.checkpoints / f"{role}.safetensors")
    for each in shown:
        (run.data / each.name).symlink_to(each)
    kept = path / "kept"
    kept.mkdir()
    versions: list[dict[str, Any]] = []
    practised = {"episodes": 0, "steps": 0}

    def keep(version: int) -> None:
        target = kept / f"{version}.safetensors"
        target.hardlink_to(policy_path(run, version))
        versions.append({"version": version, "resets": stations.resets, "path": target, **practised})

    def practise(run: RunDir, policy: Policy, reward_model: RewardModel | None, steps: int) -> None:
        keep(policy.version)
        stations(run, policy, reward_model, steps)
        practised["episodes"] += len(stations.episodes)
        practised["steps"] += sum(episode.steps for episode in stations.episodes)

    try:
        summary = entry(run, practise)
    finally:
        stations.close()
    keep(summary["version"])
    return OffPolicyRun(run, versions, summary, time.process_time() - started)

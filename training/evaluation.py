"""True success of a policy on fixed seeds in simulation, apart from practice: what the success curve shows.

Episodes made here are never learned from. Each starts from a freshly scattered world and succeeds if the simulator
finds the instruction fulfilled at any step within the task's time limit; the detector plays no part.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from robots.embodiments import Observation
from robots.episodes import rows_of, stacked
from robots.tasks import TASKS, TaskFamily, get_task
from robots.worlds import WORLDS, draw, make_world
from training.checkpoints import Policy
from training.intervals import wilson
from training.run_dir import RunDir


@dataclass
class Evaluation:
    """What came of the attempts."""

    successes: int
    n: int
    low: float  # Wilson 95 %
    high: float
    mean_steps: float  # to success or to the time limit
    steps_to_success: float | None  # mean, of those that succeeded
    falls: int  # attempts in which the world came to need a reset

    @property
    def rate(self) -> float:
        """The share that succeeded."""
        return self.successes / self.n

    def to_json(self) -> dict[str, Any]:
        """As a run's metrics and pages have it."""
        return asdict(self)


class Worlds:
    """n worlds of one kind, stepped together where the world knows how to."""

    def __init__(self, name: str, n: int):
        spec = WORLDS.get(name)
        self.batch = spec.make_batch(n, 0) if spec and spec.make_batch else None
        if self.batch is not None:
            self.each = [self.batch.world(i) for i in range(n)]
        else:
            self.each = [make_world(name, i) for i in range(n)]

    def step(self, actions: np.ndarray, active: np.ndarray, observations: Observation) -> Observation:
        """[n, A], [n], n observations, what was seen last -> n; what isn't active stands still."""
        if self.batch is not None:
            return self.batch.step(actions, active)
        observations = {key: array.copy() for key, array in observations.items()}
        for i in np.flatnonzero(active).tolist():
            for key, value in self.each[i].step(actions[i]).items():
                observations[key][i] = value
        return observations

    def close(self) -> None:
        """Free the simulators."""
        for each in [self.batch] if self.batch is not None else self.each:
            each.close()


@dataclass
class Outcomes:
    """What came of each of n attempts."""

    succeeded: np.ndarray  # [n] bool
    steps: np.ndarray  # [n], to success or to the time limit
    fallen: np.ndarray  # [n] bool: the world came to need a reset

    def summary(self) -> Evaluation:
        """All of them together."""
        n, successes = len(self.succeeded), int(self.succeeded.sum())
        low, high = wilson(successes, n)
        to_success = float(self.steps[self.succeeded].mean()) if successes else None
        return Evaluation(successes, n, low, high, float(self.steps.mean()), to_success, int(self.fallen.sum()))


def make_attempts(
    policy: Policy,
    task_names: Sequence[str],
    episodes: int,
    seed: int,
    greedy: bool = False,
    held_out: bool = False,
    batch: int = 200,
    time_limit: int = 0,
    edge_margin: float = 0.0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Outcomes:
    """Episode i has the same start, instruction and family whatever the policy and however many episodes follow it. A
    time limit of 0 is the task's own; with an edge margin (metres) the fence turns aside what would push things off.
    """
    tasks = [get_task(name) for name in task_names]
    if wrong := [task.name for task in tasks if task.embodiment != policy.embodiment.name]:
        raise ValueError(
            f"Task {wrong[0]} is not for {policy.embodiment.name}; evaluate the policy on a task of its own body."
        )
    parts = []
    for first in range(0, episodes, batch):
        numbers = range(first, min(first + batch, episodes))
        parts.append(_attempt(policy, tasks, numbers, seed, greedy, held_out, time_limit, edge_margin))
        on_progress(numbers.stop)
    succeeded, steps, fallen = zip(*parts, strict=True)
    return Outcomes(np.concatenate(succeeded), np.concatenate(steps), np.concatenate(fallen))


def evaluate(policy: Policy, task_names: Sequence[str], episodes: int, seed: int, **settings: Any) -> Evaluation:
    """Attempts as make_attempts() makes them with these settings, together."""
    return make_attempts(policy, task_names, episodes, seed, **settings).summary()


def evaluate_for(
    run: RunDir, policy: Policy, task_names: Sequence[str], *arguments: Any, **settings: Any
) -> Evaluation | None:
    """The same for a run. None, with a note, where nothing can be simulated: a real robot's body has no world here, a
    task in words has nobody who judges it, and somebody else's world may break. What was learned is worth keeping all
    the same.
    """
    known = [name for name in task_names if name in TASKS]
    if unknown := [name for name in task_names if name not in TASKS]:
        said = f"Evaluated in simulation on {', '.join(known)} alone" if known else "Not evaluated in simulation"
        run.note(f"{said}: no world here judges {', '.join(unknown)}.", level="warning")
    if not known:
        return None
    try:
        return evaluate(policy, known, *arguments, **settings)
    except Exception as error:
        traceback.print_exc()  # into the run's log
        run.note(f"Not evaluated in simulation: {error}", level="warning")
        return None


def _see_nothing() -> tuple[None, None]:
    """Nobody watches an evaluation, so that no camera is rendered for it."""
    return None, None


def _attempt(
    policy: Policy,
    tasks: Sequence[TaskFamily],
    numbers: range,
    seed: int,
    greedy: bool,
    held_out: bool,
    time_limit: int,
    edge_margin: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = len(numbers)
    generator = torch.Generator().manual_seed(seed + numbers.start)
    families = [tasks[i % len(tasks)] for i in numbers]
    if len({task.world for task in families}) > 1:
        raise ValueError("One evaluation has one world; evaluate tasks of different worlds one by one.")
    worlds = Worlds(families[0].world, n)
    starts, instructions = [], []
    for i, world, task in zip(numbers, worlds.each, families, strict=True):
        rng = np.random.default_rng([seed, i])
        starts.append(world.reset(rng))
        instructions.append(draw(task, world, rng, held_out))
    observations = stacked(starts)
    texts = [instruction.text for instruction in instructions]
    limits = np.array([time_limit or task.time_limit_steps for task in families])
    succeeded, fallen, steps = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, int)
    memories: list[dict[str, Any]] = [
        {"instruction": text, "purpose": "evaluation", "look": _see_nothing} for text in texts
    ]
    step, chunks = 0, np.zeros((n, 0, policy.embodiment.action_size), np.float32)
    while (active := ~succeeded & (steps < limits)).any():
        if step % policy.executed == 0:
            chunks = np.zeros((n, policy.executed, policy.embodiment.action_size), np.float32)
            rows = np.flatnonzero(active).tolist()
            for i in rows:
                memories[i]["step"] = step
            seen, asked = rows_of(observations, active), [texts[i] for i in rows]
            answer = policy.answer(seen, asked, generator, greedy, [memories[i] for i in rows])
            chunks[active] = answer.actions[:, : policy.executed]
        actions = chunks[:, step % policy.executed]
        step += 1
        if edge_margin:
            for i in np.flatnonzero(active).tolist():
                actions[i] = worlds.each[i].fenced(actions[i], edge_margin)
        observations = worlds.step(actions, active, observations)
        steps += active
        for i in np.flatnonzero(active).tolist():
            succeeded[i] = worlds.each[i].true_success(instructions[i])
            fallen[i] = fallen[i] or bool(worlds.each[i].needs_reset())
    worlds.close()
    return succeeded, steps, fallen

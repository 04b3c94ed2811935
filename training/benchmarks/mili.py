"""mili: does what a robot did by mistake teach it what it was never shown to do?

Thirty goals that nobody observes were demonstrated three times each; twelve new ones, near the rim of two quarters of
the table where the others have none, are only shown, by one demonstration each. In three rounds of 300 trials the robot
tries what lies between the thirty tasks, and a sensor tells of each trial whether the puck was moved clearly.

    mili    useful trials are grouped by the task embedding
    none    no trials: the same policy, trained anew as often
    own     each useful trial is taken for what it was asked for

Labels: `useful` alone, by a sensor of the world (`label_source`); true success is for measuring.
"""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from robots.demonstrators import recorded
from robots.embodiments import Observation
from robots.episodes import Episode, label, stacked
from robots.tasks import Instruction, get_task
from robots.worlds.gripper_table import GRIPPER_HIDDEN, KNOWN_GOALS, NEW_GOALS, TIME_LIMIT_STEPS
from robots.worlds.gripper_table.demonstrator import demonstrate
from robots.worlds.gripper_table.physics import GripperHidden
from training.benchmarks import Report, Row, difference, mean_of
from training.methods.mili import Mili
from training.recipes import MiliRecipe

ROUNDS, TRIALS = 3, 300
SHOWN, SHOWN_NEW = 3, 1  # demonstrations of each task
ATTEMPTS = {"trained": 300, "heldout": 1200}  # of an evaluation
TOGETHER = 300  # worlds
SETTINGS: dict[str, Any] = {}  # of the recipe, where they are not its own
ARMS = ("mili", "none", "own")


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    worlds = [GripperHidden(i) for i in range(TOGETHER)]
    shown = demonstrations(worlds[0], seed)
    rows = []
    for number, arm in enumerate(ARMS):

        def within(done: float, what: str, number: int = number) -> None:
            report((number + done) / len(ARMS), what)

        rows.append(_practised(arm, seed, shown, worlds, within))
    return rows


def instruction(goal: str) -> Instruction:
    """To bring the puck to the goal of this number."""
    family = get_task("hidden_place" if goal in KNOWN_GOALS else "hidden_place_new")
    return family.parse(f"place the puck as in task {goal}")


def demonstrations(world: GripperHidden, seed: int) -> list[Episode]:
    """Of each task as many as there are, all of them successful."""
    rng, found = np.random.default_rng([seed, 0]), list[Episode]()
    for goal, count in [(goal, SHOWN) for goal in KNOWN_GOALS] + [(goal, SHOWN_NEW) for goal in NEW_GOALS]:
        wanted = len(found) + count
        while len(found) < wanted:
            world.reset(rng)
            episode = demonstrate(world, instruction(goal), rng, seed)
            found += [episode] if episode.true_success else []
    return found


def _practised(arm: str, seed: int, shown: Sequence[Episode], worlds: Sequence[GripperHidden], report: Report) -> Row:
    started = time.process_time()
    grouping = "command" if arm == "own" else "embedding"
    recipe = MiliRecipe(seed=seed, grouping=grouping, only_shown="hidden_place_new", label_source="sensor", **SETTINGS)
    method, generator = Mili(GRIPPER_HIDDEN, shown, recipe), torch.Generator().manual_seed(seed)
    figures = method.begin(generator)
    row: Row = {"setting": arm, "label_source": "sensor", "embedding_loss": figures["embedding_loss"]}
    row |= measured(method, 0, seed, worlds)
    steps = 0
    for number in range(1, ROUNDS + 1):
        report((number - 1) / ROUNDS, f"{arm}, round {number}")
        if arm != "none":
            for episode in trials(method, number, seed, worlds):
                method.remember(episode, episode.steps)
                steps += episode.steps
        figures = method.learn(generator)
        row |= measured(method, number, seed, worlds)
    if arm != "none":
        row |= {name: figures[name] for name in ("useful_share", "paired", "groups")}
    return row | {"env_steps": steps, "resets": method.tried, "cpu_s": round(time.process_time() - started, 1)}


def measured(method: Mili, number: int, seed: int, worlds: Sequence[GripperHidden]) -> Row:
    """Success of both kinds of tasks after a round, from the same starts after each."""
    row: Row = {}
    for kind, goals in (("trained", KNOWN_GOALS), ("heldout", NEW_GOALS)):
        done = list[bool]()
        while len(done) < ATTEMPTS[kind]:
            asked = [goals[i % len(goals)] for i in range(min(len(worlds), ATTEMPTS[kind] - len(done)))]
            done += _attempted(method, asked, [seed, 1, len(done)], worlds, practice=False)[1]
        row[f"{kind}_round_{number}"] = float(np.mean(done))
    return row


def trials(method: Mili, number: int, seed: int, worlds: Sequence[GripperHidden]) -> list[Episode]:
    """A round's, each asked for one of the tasks that were demonstrated."""
    order = np.random.default_rng([seed, 2, number]).permutation(len(KNOWN_GOALS))
    found = list[Episode]()
    while len(found) < TRIALS:
        count = min(len(worlds), TRIALS - len(found))
        asked = [KNOWN_GOALS[order[i % len(order)]] for i in range(count)]
        found += _attempted(method, asked, [seed, 3, number, len(found)], worlds, practice=True)[0]
    return found


@torch.inference_mode()
def _attempted(
    method: Mili, goals: Sequence[str], seeds: list[int], worlds: Sequence[GripperHidden], practice: bool
) -> tuple[list[Episode], list[bool]]:
    """One attempt at each goal, all of them together: in practice to the time limit, else to success. Their episodes,
    in practice, and whether each succeeded.
    """
    network, count = method.network, len(goals)
    generator = torch.Generator().manual_seed(int(np.random.default_rng(seeds).integers(2**31)))
    asked = [instruction(goal) for goal in goals]
    observation = stacked([world.reset(np.random.default_rng([*seeds, i])) for i, world in enumerate(worlds[:count])])
    goal = network.goal(network.encode([each.text for each in asked]))
    memories: list[dict[str, Any]] = [{} for _ in goals]
    seen, acted = [observation], list[np.ndarray]()
    done = np.zeros(count, bool)
    while len(acted) < TIME_LIMIT_STEPS and not (done.all() and not practice):
        if practice:
            for memory in memories:
                memory |= {"step": len(acted), "purpose": "practice"}
        perceived = network.perceive({key: torch.from_numpy(each) for key, each in observation.items()})
        actions = network.answer(perceived, goal, generator, False, memories)[0][:, 0].numpy()
        observation = {key: each.copy() for key, each in observation.items()}
        for i in range(count) if practice else np.flatnonzero(~done).tolist():
            for key, value in worlds[i].step(actions[i]).items():
                observation[key][i] = value
            done[i] |= worlds[i].true_success(asked[i])
        seen.append(observation)
        acted.append(actions)
    if not practice:
        return [], done.tolist()
    rng = np.random.default_rng(seeds)
    return [_trial(worlds[i], asked[i], seen, acted, i, rng) for i in range(count)], done.tolist()


def _trial(
    world: GripperHidden,
    asked: Instruction,
    seen: Sequence[Observation],
    acted: Sequence[np.ndarray],
    i: int,
    rng: np.random.Generator,
) -> Episode:
    """As a station hands it in, with what its sensor tells. Whether it succeeded is not told."""
    observations = [{key: each[i] for key, each in observation.items()} for observation in seen]
    episode = recorded(world, asked, observations, [each[i] for each in acted], False, "time_limit", rng, None)
    episode.purpose, episode.true_success = "practice", None
    episode.actors[:] = 0
    episode.labels = {name: label(value, "sensor", episode.steps) for name, value in world.sensed(asked).items()}
    return episode


def summarise(rows: list[Row]) -> dict[str, Any]:
    """rises: the smallest rise of a round, in the means over the seeds."""
    first, last = "heldout_round_0", f"heldout_round_{ROUNDS}"
    by_round = [mean_of(rows, "mili", f"heldout_round_{number}") for number in range(ROUNDS + 1)]
    known = [value for value in by_round if value is not None]
    gained = [dict(row, gain=row[last] - row[first]) for row in rows if row["setting"] == "mili"]
    return {
        "rises": min(b - a for a, b in itertools.pairwise(known)) if len(known) > 1 else None,
        "gain": mean_of(gained, "mili", "gain"),
        "over_none": difference(rows, "mili", "none", last),
        "over_own": difference(rows, "mili", "own", last),
        "label_source": "sensor",
        **{f"heldout_round_{number}": value for number, value in enumerate(by_round)},
        **{f"{arm}_heldout": mean_of(rows, arm, last) for arm in ARMS},
    }

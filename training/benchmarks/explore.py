"""explore: a finger explores a table with a puck without a task. Does going where its model is unsure teach it more?

    active          MPPI on the disagreement of the model's members, which learns on every 50 steps
    random          each speed drawn anew
    smooth random   each speed keeps .8 of the one before

Each explores for 1,600 steps without a reset. Of the first 400, 800 and all a new model is trained in the same way;
it is tested on pushes that nobody explored. Then both tasks are done by planning in the model of the 1,600 steps, 40
starts each, and by a model of 20,000 smooth random steps: what the planner can do where knowledge isn't wanting.
Settings were chosen on seeds from 100 on.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robots.demonstrators import recorded
from robots.embodiments import Observation
from robots.episodes import Episode
from robots.tasks import get_task
from robots.worlds.planar_pusher import AIMS, FASTEST, PLANAR_PUSHER, TIME_LIMIT_STEPS
from robots.worlds.planar_pusher.demonstrator import KEPT, random_speeds
from robots.worlds.planar_pusher.physics import FINGER_INSIDE, FINGER_RADIUS, PUCK_RADIUS, PlanarPusher
from training.benchmarks import Report, Row, mean_of
from training.dynamics import ause, disagreement
from training.methods.explore import ActiveExploration, made
from training.networks.explorer import Explorer
from training.recipes import ExploreRecipe

RECIPE = ExploreRecipe()
TESTED = 3000  # updates of each tested model
STEPS = (400, 800, 1600)
MUCH = 20_000  # steps, of the model that shows what the planner can do
FIRST = 100  # steps at random, before anything is known
STARTS = 40  # of each task
PUSHES, PUSH_STEPS = 250, 6  # of the test, and steps of each
DROPOUT, PASSES = 0.25, 8
PUCK = slice(4, 6)  # where an observation has it
SETTINGS = ("active", "random", "smooth random")


@dataclass
class Test:
    """Steps that nobody explored."""

    perceived: Tensor  # [n, P]
    actions: Tensor  # [n, 2]
    after: Tensor  # [n, P]
    contact: np.ndarray  # [n] bool


def run(seed: int, report: Report) -> list[Row]:
    rows, test = [], pushes(seed)
    for number, setting in enumerate((*SETTINGS, "much data")):
        report(number / 4, f"{setting}: exploring")
        begun = time.process_time()
        steps = (MUCH,) if setting == "much data" else STEPS
        episodes, contact = explored(setting, steps[-1], seed)
        row: Row = {"setting": setting, "contact_share": contact, "env_steps": steps[-1], "resets": 1}
        for n in steps:
            report(number / 4 + 0.1, f"{setting}: the model of {n} steps")
            network = taught(episodes, n, seed)
            row |= {
                f"error@{n}": errors(network, test)[test.contact].mean().item(),
                f"ause@{n}": ause_of(network, test),
            }
        report(number / 4 + 0.15, f"{setting}: the tasks")
        for task in AIMS:
            success, score = solved(network, task, seed)
            row |= {f"success_{task}": success, f"score_{task}": score}
        if setting == "active":
            dropping = taught(episodes, steps[-1], seed, dropout=DROPOUT)
            row["ause_dropout"] = ause_of(dropping, test, PASSES, torch.Generator().manual_seed(seed))
        rows.append(row | {"label_source": "none", "cpu_s": time.process_time() - begun})
    return rows


def pushes(seed: int) -> Test:
    """A finger beside the puck that goes for it and on, not quite straight, from all sides and all over the table."""
    world, rng = PlanarPusher(seed), np.random.default_rng([seed, 1])
    seen = []
    for _ in range(PUSHES):
        puck = rng.uniform(-0.4, 0.4, 2)
        angle, gap = rng.uniform(-np.pi, np.pi), rng.uniform(0.0, 0.06)
        away = np.array([np.cos(angle), np.sin(angle)])
        finger = np.clip(puck + (PUCK_RADIUS + FINGER_RADIUS + gap) * away, -FINGER_INSIDE, FINGER_INSIDE)
        world.set_observation(
            {"observation.state": np.r_[finger, 0, 0], "observation.environment_state": np.r_[puck, 0, 0]}
        )
        speed = rng.uniform(0.3, 1.0) * FASTEST
        for _ in range(PUSH_STEPS):
            before = perceived([world.observation()])
            action = np.clip(speed * (-away + 0.5 * rng.normal(size=2)), -FASTEST, FASTEST).astype(np.float32)
            after = perceived([world.step(action)])
            seen.append((before, torch.from_numpy(action)[None], after, world.in_contact))
    befores, actions, afters, contacts = zip(*seen, strict=True)
    return Test(torch.cat(befores), torch.cat(actions), torch.cat(afters), np.array(contacts))


def perceived(observations: list[Observation]) -> Tensor:
    """As a policy gets them: the vectors one after the other. [n, P]"""
    return torch.tensor(np.array([np.concatenate([*each.values()]) for each in observations]))


def explored(setting: str, steps: int, seed: int) -> tuple[list[Episode], float]:
    """So many steps of one of SETTINGS, in episodes of those between two learnings; and the share with contact."""
    world, rng = PlanarPusher(seed), np.random.default_rng([seed, 2])
    instruction = get_task("push_right").sample(rng, ("puck",))
    recipe = replace(RECIPE, seed=seed)
    learning = ActiveExploration(made(PLANAR_PUSHER, recipe), recipe)
    generator, memory = torch.Generator().manual_seed(seed), dict[str, Any]()
    chance = random_speeds(steps, 0.0 if setting == "random" else KEPT, rng)
    episodes, touched = list[Episode](), 0
    for first in range(0, steps, recipe.publish_every):
        observations, actions = [world.observation()], list[np.ndarray]()
        for step in range(first, min(first + recipe.publish_every, steps)):
            action = chance[step]
            if setting == "active" and step >= FIRST:
                action = learning.network.act(perceived(observations[-1:]), [memory], generator)[0][0].numpy()
            actions.append(action)
            observations.append(world.step(action))
            touched += world.in_contact
        episodes.append(recorded(world, instruction, observations, actions, False, "time_limit", rng, seed))
        if setting == "active":
            learning.remember(episodes[-1])
            learning.learn(generator)
    return episodes, touched / steps


def taught(episodes: list[Episode], steps: int, seed: int, dropout: float = 0.0) -> Explorer:
    """A new model of the first so many steps, the same whoever explored."""
    recipe = replace(RECIPE, seed=seed, updates=TESTED, dropout=dropout)
    learning = ActiveExploration(made(PLANAR_PUSHER, recipe), recipe)
    for episode in episodes[: steps // RECIPE.publish_every]:
        learning.remember(episode)
    learning.learn(torch.Generator().manual_seed(seed))
    return learning.network


@torch.no_grad()
def errors(network: Explorer, test: Test) -> Tensor:
    """How far beside the puck is expected one step later. [n], cm"""
    change = network.model.predict(network.inputs(test.perceived, test.actions))
    return 100 * (test.perceived + change - test.after)[:, PUCK].norm(dim=1)


@torch.no_grad()
def ause_of(network: Explorer, test: Test, passes: int = 0, generator: torch.Generator | None = None) -> float:
    """How well the model's uncertainty about the puck sorts its errors, of all steps of the test."""
    opinions = network.model.opinions(network.inputs(test.perceived, test.actions), passes, generator)
    uncertain = disagreement(opinions[..., PUCK], network.floor)
    return ause(errors(network, test).numpy(), uncertain.numpy())


def solved(network: Explorer, task: str, seed: int) -> tuple[float, float]:
    """Share of STARTS attempts that succeeded, and the mean share of the way to the goal, by the task's time limit."""
    number, far = AIMS[task]
    network.aim_at(number)
    worlds, starts = [PlanarPusher(seed) for _ in range(STARTS)], []
    for i, world in enumerate(worlds):
        starts.append(perceived([world.reset(np.random.default_rng([seed, 3, i]))])[0])
    at = network.names.index(number)
    best = np.array([start[at] for start in starts])
    begun = best.copy()
    memories: list[dict[str, Any]] = [{} for _ in worlds]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(TIME_LIMIT_STEPS):
        going = np.flatnonzero(best < far).tolist()
        if not going:
            break
        actions, _ = network.act(
            perceived([worlds[i].observation() for i in going]), [memories[i] for i in going], generator
        )
        for i, action in zip(going, actions.numpy(), strict=True):
            best[i] = max(best[i], perceived([worlds[i].step(action)])[0, at])
    network.aim_at("")
    return float((best >= far).mean()), float(np.clip((best - begun) / (far - begun), 0, 1).mean())


def summarise(rows: list[Row]) -> dict[str, Any]:
    def ratio(other: str, steps: int) -> float | None:
        ours, theirs = mean_of(rows, "active", f"error@{steps}"), mean_of(rows, other, f"error@{steps}")
        return ours / theirs if ours is not None and theirs else None

    scores = {
        f"score_{task}_{setting.replace(' ', '_')}": mean_of(rows, setting, f"score_{task}")
        for task in AIMS
        for setting in (*SETTINGS, "much data")
    }
    better = [(scores[f"score_{task}_active"] or 0) > (scores[f"score_{task}_random"] or 0) for task in AIMS]
    return {
        **{f"error_ratio_{steps}": ratio("random", steps) for steps in STEPS[1:]},
        **{f"to_smooth_{steps}": ratio("smooth random", steps) for steps in STEPS[-1:]},
        "tasks_better": sum(better),
        **{f"contact_share_{each.replace(' ', '_')}": mean_of(rows, each, "contact_share") for each in SETTINGS},
        **scores,
        "ause": mean_of(rows, "active", f"ause@{STEPS[-1]}"),
        "ause_dropout": mean_of(rows, "active", "ause_dropout"),
    }

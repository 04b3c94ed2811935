"""musel: which push should a robot try next, to know soonest what its pushes do?

Six rules choose from the same pools of random pushes, batch by batch, and teach the same Gaussian process: at random,
by learning progress, alone and with random pushes among them, by total uncertainty, by what MUSEL leaves of it, and by
the process's own uncertainty of the mean. In a quarter of the directions the block is kicked at random. What is asked
is how well the effects of other pushes are foreseen, which are made without kicks.

    rmse@N         cm, over 400 such pushes and the three numbers of an effect, after N pushes
    noisy_share    of the pushes that a rule chose, how many were kicked: of random ones .25

No label and no reward is read.
"""

import time
from typing import Any

import numpy as np
import torch

from robots.demonstrators import recorded
from robots.embodiments import ENVIRONMENT_STATE
from robots.episodes import Episode
from robots.tasks import get_task
from robots.worlds.push_effects import KICKED, PUSH_EFFECTS
from robots.worlds.push_effects.demonstrator import random_pushes
from robots.worlds.push_effects.physics import PushEffects
from training.benchmarks import Report, Row, mean_of
from training.methods.musel import Musel
from training.networks.probing import effects

RULES = ("random", "progress", "progress-mixed", "total", "musel", "var_f")
MIXED = 0.3  # of progress-mixed, the share of pushes that are random
START, BATCH, MOST, POOL = 15, 5, 220, 300  # pushes
AT = (100, 160, 220)  # pushes, after which it is measured
TESTED = 400
APART = 0.5


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    tested, seen = measured(seed)
    rows = []
    for number, rule in enumerate(RULES):
        rows.append(_explored(rule, seed, tested, seen))
        report((number + 1) / len(RULES), rule)
    return rows


def pushed(world: PushEffects, action: np.ndarray, rng: np.random.Generator) -> Episode:
    """One attempt: a reset and one push."""
    observations = [world.reset(rng), world.step(action)]
    instruction = get_task("push_effects").parse("push the block")
    success = world.true_success(instruction)
    return recorded(world, instruction, observations, [action], success, "time_limit", rng, None)


def measured(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pushes that no rule chose [TESTED, 3], and what they do where nothing kicks [TESTED, 3], cm."""
    rng, world = np.random.default_rng([seed, 0]), PushEffects(seed, kicks=False)
    actions = random_pushes(TESTED, rng)
    poses = np.stack([pushed(world, action, rng).observations[ENVIRONMENT_STATE] for action in actions])
    return torch.from_numpy(actions), torch.from_numpy(effects(poses[:, 0], poses[:, 1]))


def _explored(rule: str, seed: int, tested: torch.Tensor, seen: torch.Tensor) -> Row:
    """One rule from the same first pushes as the others."""
    started = time.process_time()
    rng, world = np.random.default_rng([seed, 1]), PushEffects(seed)
    generator = torch.Generator().manual_seed(seed)
    acquisition, _, mixed = rule.partition("-")
    at_random = MIXED if mixed else 0.0
    method = Musel(PUSH_EFFECTS, MOST, pool=POOL, apart=APART, acquisition=acquisition, at_random=at_random)
    for action in random_pushes(START, rng):
        method.remember(pushed(world, action, rng))
    method.learn(generator)
    row: Row = {"setting": rule}
    asked = list[np.ndarray]()
    while method.samples < MOST:
        count = min(BATCH, MOST - method.samples)
        probes, _ = method.probing.act(torch.zeros(count, 6), [{} for _ in range(count)], generator)
        for action in probes.numpy():
            method.remember(pushed(world, action, rng))
            asked.append(action)
        figures = method.learn(generator)
        if method.samples in AT:
            missed = method.probing.predict(tested) - seen
            row[f"rmse@{method.samples}"] = float(missed.square().mean().sqrt())
    directions = np.array(asked)[:, 0]
    row["noisy_share"] = float(((directions >= KICKED[0]) & (directions < KICKED[1])).mean())
    row |= {f"model_{name}": value for name, value in figures.items() if name in ("uncertainty", "noise")}
    return row | {"env_steps": MOST, "resets": MOST, "cpu_s": round(time.process_time() - started, 1)}


def summarise(rows: list[Row]) -> dict[str, Any]:
    last = f"rmse@{AT[-1]}"
    found = {rule: mean_of(rows, rule, last) for rule in RULES}
    shares = {rule: mean_of(rows, rule, "noisy_share") for rule in RULES}

    def ratio(other: str) -> float | None:
        ours, theirs = found["musel"], found[other]
        return None if ours is None or not theirs else ours / theirs

    gap = None if shares["musel"] is None or shares["total"] is None else shares["musel"] - shares["total"]
    errors = {f"rmse_{rule}@{at}": mean_of(rows, rule, f"rmse@{at}") for rule in RULES for at in AT}
    return {
        "to_random": ratio("random"),
        "to_total": ratio("total"),
        "to_progress": ratio("progress"),
        "to_var_f": ratio("var_f"),
        "to_progress_mixed": ratio("progress-mixed"),
        "noisy_share_gap": gap,
        "label_source": "none",
        **errors,
        **{f"noisy_share_{rule}": share for rule, share in shares.items()},
    }

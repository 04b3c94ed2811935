"""RoboFuME: do calibrated critics, a learned success classifier and a switched instruction make practice hands-free?

A gripper takes a puck to a goal. Recorded are demonstrations of the task and of bringing back, failures, and other
tasks of the same world: the same table with goals on its other side. A policy of the demonstrations ("bc"). Then
offline updates and practice with a reset before each attempt, judged and rewarded by the learned classifier: Cal-QL
("calql"), CQL ("cql"), neither ("sac_data"); and Cal-QL with the instruction switched and a reset only each 1,000 steps
("reset_free"). "label": Cal-QL with the goal's switch in place of the classifier.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from robots.embodiments import ENVIRONMENT_STATE
from robots.episodes import Episode, read_episodes, write_episodes
from robots.tasks import get_task
from robots.worlds import WORLDS, make_world
from training.benchmarks import Report, Row, mean_of, minus
from training.benchmarks.gripper_tables import SFT, WITH_RESETS, costs, failures, judged, practise, shown
from training.benchmarks.two_stage_pipeline import OffPolicyRun, Stage1, folder, stage1
from training.checkpoints import Policy
from training.methods.robofume import robofume
from training.recipes import RoboFuMERecipe

TASK, BACK = "place", "bring_back"
DEMONSTRATIONS, FAILURES = 10, 30  # demonstrations of each family
OTHER_GOALS, OF_EACH = 8, 10
STEPS, RESET_EVERY, DIP_STEPS = 8000, 1000, 2000
EPISODES, ON_THE_WAY = 400, 100
FURTHER: dict[str, Any] = {"updates_per_step": 0.5}
SWITCHED = {"after_failure": BACK, "alternates": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "calql": {"rules": {"reset_each_attempt": True}},
    "cql": {"rules": {"reset_each_attempt": True}, "recipe": {"calibrated": 0}},
    "sac_data": {"rules": {"reset_each_attempt": True}, "recipe": {"cql": 0.0}},
    "reset_free": {"rules": SWITCHED, "reset_every": RESET_EVERY},
    "label": {"rules": WITH_RESETS},
}


def run(seed: int, report: Report) -> list[Row]:
    """All settings of one seed."""
    with folder() as path:
        started = time.process_time()
        episodes = shown([TASK, BACK], DEMONSTRATIONS, seed)
        begin = stage1(path / "sft", episodes, seed, **SFT)
        rows = [judged("bc", begin.policy, seed, TASK, EPISODES, cpu_s=time.process_time() - started)]
        prior = path / "prior.safetensors"
        write_episodes(prior, [*other_tasks(seed), *failures(TASK, FAILURES, seed)])
        for number, (name, setting) in enumerate(SETTINGS.items()):
            report((0.1 + number) / (0.1 + len(SETTINGS)), name)
            rows += practised(path, name, begin, seed, **setting)
    return rows


def practised(
    path: Path,
    name: str,
    begin: Stage1,
    seed: int,
    rules: dict[str, Any],
    recipe: dict[str, Any] | None = None,
    reset_every: int = 0,
) -> list[Row]:
    """A row of it offline, one of its lowest soon after, one of its end."""
    settings = RoboFuMERecipe(
        seed=seed, max_steps=STEPS, evaluation_episodes=0, tasks=TASK, **FURTHER, **(recipe or {})
    )
    data = [path / "prior.safetensors"]
    done = practise(path / name, settings, begin, robofume, TASK, rules, reset_every, data)
    offline = judged(f"{name} offline", Policy.load(done.versions[0]["path"]), seed, TASK, EPISODES)
    early = [
        judged(f"{name} early", Policy.load(each["path"]), seed, TASK, ON_THE_WAY)["success"]
        for each in done.versions[1:]
        if each["steps"] <= DIP_STEPS
    ]
    updates = done.run.lines("update")
    last = judged(name, done.policy(), seed, TASK, EPISODES, **costs(done), **rewarded(done))
    last |= {
        "gain": last["success"] - offline["success"],
        "dip": offline["success"] - min(early, default=offline["success"]),
        "q_rise": updates[-1]["q"] - offline_q(done),
        "updates_per_step": settings.updates_per_step,
        "label_source": "sensor" if name == "label" else "classifier",
    }
    return [offline, last]


def offline_q(done: OffPolicyRun) -> float:
    """Mean Q at the end of the offline updates."""
    return float(done.run.lines("loss")[-1]["q"])


def rewarded(done: OffPolicyRun) -> Row:
    """How right the learned reward was in practice, true success asked only here."""
    practice = [episode for path in sorted(done.run.episodes.glob("*")) for episode in read_episodes(path)]
    called = [bool(each.true_success) for each in practice if each.detected_success]
    reached = [each.detected_success for each in practice if each.true_success]
    return {
        "reward_precision": float(np.mean(called)) if called else None,
        "reward_recall": float(np.mean(reached)) if reached else None,
    }


def other_tasks(seed: int) -> list[Episode]:
    """The same table with goals where the task has none: on its left."""
    family = get_task(TASK)
    demonstrate, world, found = WORLDS[family.world].demonstrate, make_world(family.world, seed), list[Episode]()
    assert demonstrate is not None
    for number in range(OTHER_GOALS * OF_EACH):
        rng = np.random.default_rng([seed, number, 11])
        observation = world.reset(rng)
        place = 2 * np.pi * (number % OTHER_GOALS) / OTHER_GOALS
        goal = (-0.25 + 0.15 * np.cos(place), 0.3 * np.sin(place))
        told = observation[ENVIRONMENT_STATE].copy()
        told[2:] = goal
        world.set_observation({**observation, ENVIRONMENT_STATE: told})
        found.append(demonstrate(world, family.sample(rng, ["puck"]), rng, seed))
    world.close()
    return [each for each in found if each.true_success]


def summarise(rows: list[Row]) -> dict[str, Any]:
    """The figures that others read."""
    final = {name: mean_of(rows, name, "success") for name in ("bc", *SETTINGS)}
    offline = {name: mean_of(rows, f"{name} offline", "success") for name in SETTINGS}
    rise = {name: mean_of(rows, name, "q_rise") for name in SETTINGS}
    dip = {name: mean_of(rows, name, "dip") for name in SETTINGS}
    free, with_resets = final["reset_free"], final["calql"]
    return {
        "gain": minus(final["calql"], offline["calql"]),
        "q_rise_ratio": rise["calql"] / rise["cql"] if rise["calql"] is not None and rise["cql"] else None,
        "dip_gap": minus(dip["cql"], dip["calql"]),
        "reset_free_ratio": free / with_resets if free is not None and with_resets else None,
        "reward_precision": mean_of(rows, "calql", "reward_precision"),
        "reward_recall": mean_of(rows, "calql", "reward_recall"),
        **{f"offline_{name}": value for name, value in offline.items()},
        **{f"final_{name}": value for name, value in final.items()},
        **{f"dip_{name}": value for name, value in dip.items()},
        **{f"q_rise_{name}": value for name, value in rise.items()},
        **{f"resets_{name}": mean_of(rows, name, "resets") for name in SETTINGS},
    }

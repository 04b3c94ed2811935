"""afm: a cart's drive changes under it. Does carrying its plans to what the drive needs beat learning the model anew?

One model is learned of 4,000 random steps with a sound drive, and one flow with that model. Then a cart of each pair of
gains goes round the course:

    frozen            plans with the model as it is
    adapt-only        its model takes 5 updates a step on its newest 50 steps, at the rate that served it best
    slow adapt-only   the same at the paper's rate
    afm               what is planned is carried by the flow
    afm + adapt       both, at the paper's rate

The gains lie within the family that the flow was trained for (regime "inside") or beyond it ("outside"): all eleven are
those of the paper's code. Settings were chosen on seeds from 100 on.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robots.embodiments import Observation
from robots.tasks import get_task
from robots.worlds.skid_cart import SKID_CART, TIME_LIMIT_STEPS, UNUSUAL_GAINS, USUAL_GAINS
from robots.worlds.skid_cart.demonstrator import drive_at_random
from robots.worlds.skid_cart.physics import SkidCart
from training.benchmarks import Report, Row, difference, mean_of
from training.methods.afm import ActionFlowMatching, made
from training.networks.flow_corrected import STRONGEST_PROBE, WEAKEST_PROBE, FlowCorrected
from training.recipes import AFMRecipe

TASK = "drive_course"
RANDOM_STEPS, STRETCH = 4000, 100  # steps of demonstrations, and how many of them begin at one place
STARTS = 2  # of each pair of gains
EARLY = 200  # steps, after which what has been reached is counted too
GAINS = USUAL_GAINS + UNUSUAL_GAINS
RECIPE = AFMRecipe()
WAYS: dict[str, dict[str, Any]] = {  # what each setting changes of the module
    "frozen": {"corrects": False},
    # Reached on seed 101 at rates of 1e-3, 3e-3, 1e-2 and 3e-2: .58, .68, .83, .49
    "adapt-only": {"corrects": False, "adaptation_steps": 5, "adaptation_rate": 1e-2},
    "slow adapt-only": {"corrects": False, "adaptation_steps": 5},
    "afm": {},
    "afm + adapt": {"adaptation_steps": 5},
}
BASELINES = ("frozen", "adapt-only", "slow adapt-only")


def run(seed: int, report: Report) -> list[Row]:
    learned, figures = train(replace(RECIPE, seed=seed), seed, report)
    rows = []
    for number, (setting, ways) in enumerate(WAYS.items()):
        report(0.4 + 0.6 * number / len(WAYS), setting)
        rows += drive(learned, setting, ways, seed, figures)
    return rows


def train(recipe: AFMRecipe, seed: int, report: Report) -> tuple[FlowCorrected, dict[str, float]]:
    """The network, and what there is to say of its learning."""
    begun = time.process_time()
    learning = ActionFlowMatching(made(SKID_CART, recipe), recipe)
    world, rng = SkidCart(seed), np.random.default_rng(seed)
    instruction = get_task(TASK).sample(rng, ())
    for _ in range(RANDOM_STEPS // STRETCH):
        world.reset(rng)
        episode = drive_at_random(world, instruction, STRETCH, rng, seed)
        learning.remember(episode)
    generator = torch.Generator().manual_seed(seed)
    updates, figures = recipe.model_updates + recipe.flow_updates, dict[str, float]()
    while not learning.done:
        figures |= learning.learn(generator)
        report(0.4 * learning.updates / updates, "learning the model and the flow")
    before, after = action_errors(learning.network, rng)
    return learning.network, {
        "flow_loss": figures["flow_loss"],
        "action_error_before": before,
        "action_error_after": after,
        "training_s": time.process_time() - begun,
    }


def action_errors(network: FlowCorrected, rng: np.random.Generator, plans: int = 200) -> tuple[float, float]:
    """How far the drive's motion is from the planned one, as a share of the limits: of what was planned, and of what
    the flow makes of it, after one probe with each usual pair of gains. The mean over plans that the drive can follow.
    """
    world, before, after = SkidCart(0), [], []
    for gains in USUAL_GAINS:
        world.reset(rng)
        world.changed_gains = gains
        observation = world.observation()
        observation["observation.environment_state"][2] = 0.5  # half round: the changed gains hold
        world.set_observation(observation)
        probe = rng.choice((-1, 1), 2) * rng.uniform(WEAKEST_PROBE, STRONGEST_PROBE, 2)
        start = perceived([world.observation()])
        end = perceived([world.step(probe * network.high.numpy())])
        shares = torch.tensor(probe, dtype=torch.float32)[None]
        with torch.no_grad():
            promised = network.model.predict(network.inputs(start[:, 2], shares))
            error = (network.change(start, end) - promised) / network.model.outputs_scaled.deviation
            code = network.code(start[:, 2], shares, error).expand(plans, -1)
            planned = torch.tensor(rng.uniform(-1, 1, (plans, 2)), dtype=torch.float32)
            planned = planned * torch.tensor(gains).abs().clamp(max=1)
            executed = network.corrected(planned, code).clamp(-1, 1)
        drive = torch.tensor(gains)
        before.append(float((drive * planned - planned).norm(dim=1).mean()))
        after.append(float((drive * executed - planned).norm(dim=1).mean()))
    return float(np.mean(before)), float(np.mean(after))


def perceived(observations: list[Observation]) -> Tensor:
    """As a policy gets them: the vectors one after the other. [n, P]"""
    return torch.tensor(np.array([np.concatenate([*each.values()]) for each in observations]))


def drive(
    learned: FlowCorrected, setting: str, ways: dict[str, Any], seed: int, figures: dict[str, float]
) -> list[Row]:
    """STARTS carts of each pair of gains round the course, together; the same starts whatever the setting."""
    begun, kept = time.process_time(), {name: getattr(learned, name) for name in ways}
    vars(learned).update(ways)
    worlds = [SkidCart(seed) for _ in GAINS for _ in range(STARTS)]
    for i, world in enumerate(worlds):
        world.reset(np.random.default_rng([seed, i]))
        world.changed_gains = GAINS[i // STARTS]
    instruction = get_task(TASK).sample(np.random.default_rng(seed), ())
    memories: list[dict[str, Any]] = [{} for _ in worlds]
    generator = torch.Generator().manual_seed(seed)
    steps, early, errors = np.zeros(len(worlds), int), np.zeros(len(worlds)), list[float]()
    while True:
        going = [
            i for i, world in enumerate(worlds) if steps[i] < TIME_LIMIT_STEPS and not world.true_success(instruction)
        ]
        if not going:
            break
        actions, signals = learned.act(
            perceived([worlds[i].observation() for i in going]), [memories[i] for i in going], generator
        )
        for i, action in zip(going, actions.numpy(), strict=True):
            worlds[i].step(action)
            steps[i] += 1
            early[i] = worlds[i].reached if steps[i] <= EARLY else early[i]
        errors += signals["model_error"][~signals["model_error"].isnan()].tolist()
    vars(learned).update(kept)
    reached = np.array([world.reached for world in worlds])
    inside = np.arange(len(worlds)) < STARTS * len(USUAL_GAINS)
    by_gains = list(zip(GAINS, reached.reshape(-1, STARTS).mean(1).tolist(), strict=True))
    spent = time.process_time() - begun
    return [
        {
            "setting": setting,
            "regime": regime,
            "success": float((reached[those] == 1).mean()),
            "reached": float(reached[those].mean()),
            f"reached_at_{EARLY}": float(early[those].mean()),
            "steps": float(np.where(reached[those] == 1, steps[those], TIME_LIMIT_STEPS).mean()),
            "env_steps": RANDOM_STEPS + int(steps[those].sum()),
            "resets": int(those.sum()),
            "model_error": float(np.mean(errors)),
            "label_source": "none",
            "cpu_s": spent * float(those.mean()),
        }
        | (figures if "afm" in setting and regime == "inside" else {})
        | {f"reached_{forward:g}_{turn:g}": float(r) for (forward, turn), r in by_gains if (forward, turn) in gains}
        for regime, gains, those in (("inside", USUAL_GAINS, inside), ("outside", UNUSUAL_GAINS, ~inside))
    ]


def summarise(rows: list[Row]) -> dict[str, Any]:
    reached = {setting: mean_of(rows, setting, "reached", "inside") for setting in WAYS}
    steps = {setting: mean_of(rows, setting, "steps", "inside") for setting in WAYS}
    best = max(BASELINES, key=lambda setting: reached[setting] or 0.0)
    least = min((each for each in map(steps.get, BASELINES) if each is not None), default=None)
    return {
        "reached_gain": difference(rows, "afm", best, "reached", "inside"),
        "steps_ratio": steps["afm"] / least if steps["afm"] is not None and least else None,
        "reached_outside": mean_of(rows, "afm", "reached", "outside"),
        "best_baseline": best,
        **{f"reached_{_key(setting)}": each for setting, each in reached.items()},
        **{f"steps_{_key(setting)}": each for setting, each in steps.items()},
        "action_error_before": mean_of(rows, "afm", "action_error_before", "inside"),
        "action_error_after": mean_of(rows, "afm", "action_error_after", "inside"),
    }


def _key(setting: str) -> str:
    return setting.replace(" + ", "_").replace("-only", "").replace(" ", "_")

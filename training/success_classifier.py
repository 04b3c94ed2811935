"""A success classifier as a reward model: has what is asked for been done? Learned from demonstrations and failures.

Stands where stage 1's reward model stands, for methods that learn a classifier in place of steps-to-go (RoboFuME). It
is a network of two bins of one step: 0 steps to go, or more. So d is the probability that the goal is not reached, and
the detector, the pages and the stations need nothing new.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robots.episodes import Episode, rows_of
from training.checkpoints import Policy, RewardModel, save_checkpoint
from training.descent import anneal, descend
from training.labels import succeeded
from training.networks.network import Network
from training.recipes import RoboFuMERecipe
from training.run_dir import Countdown, RunDir, RunError, sha256_of

REACHED, NOT_YET = 0, 1  # bins
RATE = 1e-3


@dataclass
class Frames:
    """What is perceived [F, P], the goals [F, goal size], and whether the goal is reached there [F]."""

    perceived: Tensor
    goals: Tensor
    reached: Tensor


def success_classifier(
    run: RunDir, recipe: RoboFuMERecipe, policy: Policy, episodes: Sequence[Episode]
) -> RewardModel | None:
    """The run's own, made now or by an earlier process; None where it was cancelled meanwhile."""
    path = run.checkpoints / "reward_model.safetensors"
    if path.exists() and run.lines("checkpoint"):
        return RewardModel.load(path)
    frames = _frames(policy, episodes, recipe.goal_frames)
    network = _trained(run, recipe, policy, frames)
    if network is None:
        return None
    metadata = replace(
        policy.metadata,
        role="reward_model",
        version=0,
        network="network",
        sizes={**policy.metadata.sizes, "bins": 2},
        bin_width=1.0,
        threshold=recipe.threshold,
        consecutive=recipe.consecutive,
        recipe=recipe.to_json(),
        parent=policy.id,
        id=str(uuid.uuid4()),
    )
    save_checkpoint(path, network, metadata)
    said = {"threshold": metadata.threshold, "consecutive": metadata.consecutive, "publish": False}
    place = str(path.relative_to(run.path))
    run.log("checkpoint", id=metadata.id, role="reward_model", version=0, path=place, sha256=sha256_of(path), **said)
    return RewardModel.load(path)


def _frames(policy: Policy, episodes: Sequence[Episode], goal_frames: int) -> Frames:
    """Ends of successes are reached; all else is not, nor is an end under the words of another family."""
    texts: dict[str, str] = {}  # a sentence of each family
    for episode in episodes:
        texts.setdefault(episode.task, episode.instruction)
    perceived, goals, reached = list[Tensor](), list[Tensor](), list[np.ndarray]()

    def add(seen: Tensor, text: str, marks: np.ndarray) -> None:
        perceived.append(seen)
        goals.append(policy.goals([text]).clone().expand(len(seen), -1))
        reached.append(marks)

    for episode in episodes:
        seen, ends = policy.perceive(rows_of(episode.observations, slice(None))).clone(), succeeded(episode)
        marks = np.zeros(episode.steps + 1, bool)
        marks[-goal_frames:] = ends
        add(seen, episode.instruction, marks)
        for family, text in texts.items():
            if ends and family != episode.task:
                add(seen[-goal_frames:], text, np.zeros(min(goal_frames, len(seen)), bool))
    found = torch.from_numpy(np.concatenate(reached)).to(policy.network.device)
    if not found.any():
        raise RunError("No demonstration ended in success, so what success looks like can't be learned; gather some.")
    return Frames(torch.cat(perceived), torch.cat(goals), found)


def _trained(run: RunDir, recipe: RoboFuMERecipe, policy: Policy, frames: Frames) -> Network | None:
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        sizes = {**policy.metadata.sizes, "bins": 2}
        network = Network(policy.embodiment, policy.vocabulary, **sizes, pretrained=policy.network.pretrained)
    kept = {name: each for name, each in policy.network.state_dict().items() if "steps_to_go_head" not in name}
    network.load_state_dict(kept, strict=False)
    learning = [*network.trunk.parameters(), *network.steps_to_go_head.parameters()]
    optimiser = torch.optim.AdamW(learning, lr=RATE, weight_decay=1e-2, fused=True)
    schedule = anneal(optimiser, recipe.classifier_updates)
    yes, no = (frames.reached.nonzero()[:, 0], (~frames.reached).nonzero()[:, 0])
    half = recipe.batch // 2
    bins = torch.tensor([REACHED] * half + [NOT_YET] * half, device=network.device)
    countdown = Countdown(run, "classifier", recipe.classifier_updates)
    for number in range(recipe.classifier_updates):
        if run.cancelled:
            return None
        rows = torch.cat([each[torch.randint(len(each), (half,), generator=generator)] for each in (yes, no)])
        side = network.random_symmetries(len(rows), generator)
        hidden = network.hidden(frames.perceived[rows], frames.goals[rows], side)
        descend(F.cross_entropy(network.steps_to_go_head(hidden), bins), optimiser, learning)
        schedule.step()
        countdown.tell(number + 1)
    return network

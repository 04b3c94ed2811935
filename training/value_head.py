"""A policy's success prediction: learned in hindsight from how its own attempts ended.

Stands beside the update of any method that practises. It tells supervisors what will come of an attempt; only its head
learns, so that it can't change what the policy does.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from robots.episodes import CONFIRMED_FRAMES, FAILURES, Episode, rows_of
from training import steps_to_go
from training.checkpoints import Policy
from training.descent import descend
from training.handed_in import Labelled
from training.networks.network import Network

# After 2,400 practice episodes it tells failing attempts from others at half of their time limit with an area under
# the curve of .86 (the reward model: .59); a network of its own, trained on as many episodes at once, .90. Other values
# were not tried.
RATE, EPOCHS = 1e-3, 4


def parameter_group(network: Network) -> dict[str, Any]:
    """For the optimiser."""
    return {"params": list(network.steps_to_go_head.parameters()), "lr": RATE, "weight_decay": 0.0}


def update(
    network: Network,
    policy: Policy,
    learned: Sequence[Labelled],
    optimiser: torch.optim.Optimizer,
    batch: int,
    shuffler: torch.Generator,
) -> bool:
    """From a round's attempts. False: nobody knows what would have come of any of them."""
    head = network.steps_to_go_head
    perceived = torch.cat(
        [policy.perceive(rows_of(each.episode.observations, slice(each.steps))) for each in learned]
    ).clone()
    goals = policy.goals([each.episode.instruction for each in learned for _ in range(each.steps)]).clone()
    bins = torch.from_numpy(np.concatenate([success_bins_of(each.episode, policy)[: each.steps] for each in learned]))
    known = (bins >= 0).nonzero()[:, 0]
    bins = bins.to(network.device)
    for _ in range(EPOCHS):
        for rows in known[torch.randperm(len(known), generator=shuffler)].split(batch):
            frame = network.random_symmetries(len(rows), shuffler)
            with torch.no_grad():
                hidden = network.hidden(perceived[rows], goals[rows], frame)
            descend(F.cross_entropy(head(hidden), bins[rows]), optimiser, list(head.parameters()), math.inf)
    optimiser.zero_grad()
    return bool(len(known))


def success_bins_of(episode: Episode, policy: Policy) -> np.ndarray:
    """[T + 1] int64, -1 throughout where nobody knows what would have come of the attempt."""
    if not episode.detected_success and episode.ending not in FAILURES:
        return np.full(episode.steps + 1, -1)
    sizes, width = policy.metadata.sizes, policy.metadata.bin_width
    bins = steps_to_go.success_bins(episode.steps, episode.detected_success, sizes["bins"], width).numpy()
    if episode.ending == "low_success_probability":
        # The frames that ended it were the prediction's own word: there only probe episodes may speak.
        bins[-CONFIRMED_FRAMES:] = -1
    return bins

"""The off-policy update of stage 2: a critic Q and advantage-weighted cloning, from all practice that is remembered.

    r_t  =  1 where the success detector ended the attempt  +  k (gamma Phi(o_{t+1}) - Phi(o_t)),  Phi = -d / d_max
    Q    <- r + gamma Q'(o', a'), a' ~ p(a | o', g); Q' the lesser of two slow copies; 0 instead of it at an end
    A    =  Q(o, g, a) - V(o, g), V = the mean of Q over actions that the policy samples
    loss =  -exp(A / lambda) log p(a | o, g)                    (Nair et al., arXiv 2006.09359, equation 13: AWAC)

The policy takes a step for every second one of Q (TD3's delay: Fujimoto et al., arXiv 1802.09477, section 5.2).

The paper learns from each step once, with returns that look ten steps ahead. Here each step is learned from again and
again, and what is optimised is what the tables report: to be detected as a success, and soon. The steps-to-go reward
remains as a potential, which tells the way and changes nothing of what is best (Ng, Harada, Russell, 1999, equation 2).

An end is a detected success or a fall, which brings nothing. A time limit is none: what would have come after it is
bootstrapped, as is what would have come after a stop or an override. True success of practice is read nowhere.

A step is seen from one random side of the table each time it is used, for the policy at an eighth of the cost of
Network.log_probability. That is right, since the log of the even mixture over the sides is at least the mean of the
sides' logs (Jensen): the loss is an upper bound of the exact one. And the even mixture is what acts.

Where a station executes m actions of a chunk before it asks again, those m are one action here, from whichever step on:
r_t is their discounted sum, and gamma^m stands for gamma (an option of fixed length: Sutton, Precup, Singh, 1999).
"""

import copy
import math
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robots.episodes import Episode, rows_of
from training import steps_to_go
from training.checkpoints import Policy, RewardModel
from training.descent import descend
from training.networks.arm import ArmFeatures
from training.networks.network import Network
from training.networks.table import turned
from training.recipes import ImproveRecipe
from training.replay import Replay

# Chosen on Block2Block with 3, 8, 10 and 50 demonstrations, seeds 100 to 104; docs/benchmarks.md has the figures.
BATCH = 256
CRITIC_RATE, WIDTH = 1e-3, 128
POLYAK = 0.05  # share by which the slow copies follow; with .005 they don't reach what a success is worth in time
SAMPLES = 4  # actions whose mean Q is V
LARGEST_WEIGHT = 20.0  # of exp(A / lambda)
EVERY = 2  # of so many updates of Q one is the policy's too: no worse, and a third faster
TURNED_COPIES = 3  # of an arm's episode, beside itself
WARM_UP = 1000  # updates of Q alone, before practice
LEAST, MOST = -1.0, 2.0  # that a return can be: a discounted success, and the potential, whose weight is at most 1


def ends(episode: Episode) -> bool:
    """Whether nothing comes after its last step. A demonstration has reached its goal there."""
    return episode.detected_success or episode.ending == "needs_reset" or episode.purpose == "demonstration"


def rewards(recipe: ImproveRecipe, episode: Episode, steps: int, reward_model: RewardModel) -> np.ndarray:
    """r_t of the first `steps` steps: 1 at a success, as the detector or a demonstration has it, and the potential of
    steps-to-go.
    """
    seen = rows_of(episode.observations, slice(steps + 1))
    d, _ = reward_model.steps_to_go(seen, [episode.instruction] * (steps + 1))
    ended = steps == episode.steps and ends(episode)
    potential = steps_to_go.potential_rewards(d, reward_model.farthest, recipe.gamma, ended)
    found: np.ndarray = recipe.shaping * potential
    found[-1] += float(ended and episode.ending != "needs_reset")
    return found


class TwinQ(nn.Module):
    """Two Q networks over what the policy's trunk reads and the actions as its head encodes their tokens; the lesser
    one is believed.
    """

    def __init__(self, features: int, told: int):
        super().__init__()
        self.both = nn.ModuleList(
            nn.Sequential(
                *(nn.Linear(features + told, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()),
                *(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()),
                nn.Linear(WIDTH, 1),
            )
            for _ in range(2)
        )

    def forward(self, features: Tensor, told: Tensor, counts: Tensor | None = None) -> Tensor:
        """[n, features], actions [n, m, told / m], how many of the m there are [n] (all, if not given) -> [2, n]"""
        if counts is not None:
            told = told * (torch.arange(told.shape[1], device=told.device) < counts[:, None])[..., None]
        seen = torch.cat([features, told.flatten(1)], 1)
        return torch.stack([each(seen)[:, 0] for each in self.both])

    def least(self, features: Tensor, told: Tensor, counts: Tensor | None = None) -> Tensor:
        """[n, features], [n, m, told / m], [n] -> [n]"""
        return self(features, told, counts).min(0).values


class AdvantageWeighted:
    """The policy's trunk and action head, their critic, and the replay."""

    def __init__(self, network: Network, recipe: ImproveRecipe, executed: int):
        head = network.action_head
        self.network, self.recipe, self.executed = network, recipe, executed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)  # Q's initial weights
            self.q = TwinQ(network.features.size, executed * head.size * head.encoding).to(network.device)
        self.slow = copy.deepcopy(self.q).requires_grad_(False)
        self.acting = network.trained_in("practice")
        self.judging = list(self.q.parameters())
        self.replay = Replay(recipe.replay)

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the optimiser: what acts, then what judges."""
        return [
            {"params": self.acting, "weight_decay": self.recipe.weight_decay},
            {"params": self.judging, "lr": CRITIC_RATE, "weight_decay": 0.0},
        ]

    @property
    def modules(self) -> dict[str, Any]:
        """What a restart must find as it was."""
        return {"q": self.q, "slow": self.slow}

    def rewards(self, episode: Episode, steps: int, reward_model: RewardModel, policy: Policy) -> np.ndarray:
        """r_t of the first `steps` steps."""
        return rewards(self.recipe, episode, steps, reward_model)

    def remember(self, episode: Episode, steps: int, rewards: np.ndarray, policy: Policy) -> bool:
        """The first `steps` steps of an episode. False, and nothing is kept, where what it teaches is no number."""
        seen = policy.perceive(rows_of(episode.observations, slice(steps + 1))).clone()
        goals = policy.goals([episode.instruction]).clone().expand(steps + 1, -1)
        actions = torch.from_numpy(episode.actions[:steps]).to(self.network.device)
        rewarded = torch.from_numpy(rewards).float().to(self.network.device)
        with torch.no_grad():
            likely = self.network.log_probability(seen[:-1], goals[:-1], actions[:, None])
            copies = self._turned_copies(episode, seen, goals, actions)
        if not torch.isfinite(likely + rewarded).all() or not all(torch.isfinite(each).all() for each, _ in copies):
            return False
        parts = []
        for relations, as_seen in copies:
            together, counts, summed = self._chunks(as_seen, rewarded)
            together = self.network.told(seen[:-1], together)
            after = torch.arange(steps, device=counts.device) + counts
            discounts = self.recipe.gamma**counts
            if steps == episode.steps and ends(episode):
                discounts = discounts * (after < steps)
            parts.append((relations[:-1], relations[after], together, counts, summed, discounts))
        self.replay.add(tuple(map(torch.cat, zip(*parts, strict=True))), episode.purpose == "demonstration")
        return True

    def _turned_copies(
        self, episode: Episode, seen: Tensor, goals: Tensor, actions: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """What the features make of an episode and its actions: as it was, and as it would be had an arm and its table
        been turned, by angles that its actions decide, so that a restart finds the same. Of a table that is turned with
        each update, once. [T + 1, P], [T + 1, goal size], [T, A] -> ([T + 1, size], [T, A]) a copy
        """
        features = self.network.features
        found = [(features.relations(seen, goals), actions)]
        if not isinstance(features, ArmFeatures):
            return found
        generator = torch.Generator().manual_seed(zlib.crc32(episode.actions.tobytes()) + self.recipe.seed)
        angles = features.random_turns(TURNED_COPIES, generator)
        for angle in [] if angles is None else angles.to(seen.device):
            relations = features.relations(*features.turn(seen, goals, angle.expand(len(seen))))
            found.append((relations, features.turn_actions(actions[:, None], angle.expand(len(actions)))[:, 0]))
        return found

    def _chunks(self, actions: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What follows from each step on. [T, A], [T] -> [T, m, A], how many there are [T], their discounted sum [T]"""
        steps, m = len(actions), self.executed
        counts = (steps - torch.arange(steps, device=actions.device)).clamp(max=m)
        padded = F.pad(rewards, (0, m - 1))
        summed = sum((self.recipe.gamma**j * padded[j : j + steps] for j in range(1, m)), padded[:steps])
        following = (torch.arange(steps)[:, None] + torch.arange(m)).clamp(max=steps - 1)
        return actions[following], counts, summed

    def warm_up(self, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """Q alone, on the demonstrations, so that the first rounds are not judged at random."""
        if self.replay.demonstrations:
            for _ in range(WARM_UP):
                self._update(optimiser, generator, acting=False)

    def learn(self, new_steps: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> list[float]:
        """After a round of so many new steps: the losses of the policy."""
        updates = math.ceil(self.recipe.updates_per_step * new_steps)
        losses = [self._update(optimiser, generator, acting=number % EVERY == 0) for number in range(updates)]
        return [loss for loss in losses if loss is not None]

    def _update(
        self, optimiser: torch.optim.Optimizer, generator: torch.Generator, acting: bool = True
    ) -> float | None:
        """One of Q, then, if `acting`, one of the policy on the same steps; its loss, if it was a number."""
        before, after, actions, counts, rewards, discounts = self.replay.sample(BATCH, generator)
        side = self.network.random_symmetries(BATCH, generator)
        features = self.network.features.seen_from(side, before)
        head = self.network.action_head
        tokens = head.tokens(actions if side is None else turned(side, actions))
        told = head.encoded(tokens)
        with torch.no_grad():
            following = self.network.features.seen_from(side, after)
            later = self.slow.least(following, self._sampled(following, generator)).clamp(LEAST, MOST)
            target = rewards + discounts * later
        descend(F.mse_loss(self.q(features, told, counts), target.expand(2, -1)), optimiser, self.judging, math.inf)
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.q.parameters(), strict=True):
                slow.lerp_(fast, POLYAK)
        if not acting:
            return None
        with torch.no_grad():
            weight = self._weight(features, told, counts, before, generator)
        likely = head.imitated(self.network.trunk(features), tokens, counts)
        loss = -(weight * likely).mean()
        return float(loss.detach()) if descend(loss, optimiser, self.acting, math.inf) else None

    def _weight(
        self, features: Tensor, told: Tensor, counts: Tensor, before: Tensor, generator: torch.Generator
    ) -> Tensor:
        """exp(A / lambda). V is of the mixture, so each action that it is the mean of is of a side of its own. [n]"""
        many = SAMPLES * len(before)
        sides = self.network.random_symmetries(many, generator)
        others = self.network.features.seen_from(sides, before.repeat(SAMPLES, 1))
        value = self.q.least(others, self._sampled(others, generator)).unflatten(0, (SAMPLES, -1)).mean(0)
        return (
            ((self.q.least(features, told, counts) - value) / self.recipe.temperature).exp().clamp(max=LARGEST_WEIGHT)
        )

    def _sampled(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Actions of the policy as its critic is told them, from the features' side. [n, features] -> [n, m, ...]"""
        head = self.network.action_head
        return head.encoded(head.sample(self.network.trunk(features), generator, False, self.executed))

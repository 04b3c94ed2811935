"""A policy that goes on from stage 1 by an actor-critic update: steps and rewards of episodes, demonstrations beside.

Stands between the loop (off_policy.py) and the updates (actor_critic.py). SAC, KAGI, RoboFuME and MEDAL++ are this with
rewards of their own, and with what else each of them learns.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robots.episodes import Episode, rows_of
from training.actor_critic import ActorCritic, Batch, NetworkActor, Settings
from training.checkpoints import Policy
from training.labels import succeeded
from training.networks.heads import GaussianHead
from training.networks.network import Network
from training.off_policy import Beginning, Figures, Learner
from training.recipes import DemonstratedRecipe
from training.replay import Replay
from training.run_dir import RunError


class ActorCriticLearner(Learner):
    """The parent's policy, its critics and a replay."""

    network: Network

    def __init__(self, beginning: Beginning, **further: Any):
        """`further` settings of the update (actor_critic.Settings)."""
        self.beginning, self.run = beginning, beginning.run
        assert isinstance(beginning.recipe, DemonstratedRecipe)
        self.recipe = recipe = beginning.recipe
        self.policy: Policy = beginning.started_from
        self.network, self.origin = self.policy.network, self.policy.metadata
        if not isinstance(self.network, Network) or not isinstance(self.network.action_head, GaussianHead):
            raise RunError(
                "This method needs a policy with a gaussian action head; train one from the demonstrations with that "
                "action head, and start from it."
            )
        self.actor = NetworkActor(self.network, self.policy.executed)
        settings = Settings(
            ensemble=recipe.ensemble,
            critic_rate=recipe.critic_rate,
            actor_rate=recipe.actor_rate,
            polyak=recipe.polyak,
            entropy=bool(recipe.entropy),
            **further,
        )
        self.actor_critic = ActorCritic(self.actor, self.network.features.size, settings, recipe.seed)
        self.replay = Replay(recipe.replay)
        self.offline_updates = recipe.warm_up
        self.practised = 0  # steps

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        """As of Learner."""
        return self.actor_critic.parameter_groups

    @property
    def modules(self) -> dict[str, nn.Module]:
        """As of Learner."""
        return self.actor_critic.modules

    def rewards(self, episode: Episode, steps: int) -> np.ndarray:
        """r_t of the first `steps` steps: 1 at a success, as its label has it. [steps]"""
        rewards = np.zeros(steps)
        rewards[-1] = self.ended_well(episode, steps)
        return rewards

    def ended_well(self, episode: Episode, steps: int) -> bool:
        """Whether its step of that number reached what was asked for."""
        return steps == episode.steps and succeeded(episode, self.recipe.label_source)

    def ends(self, episode: Episode, steps: int) -> bool:
        """Whether nothing comes after its step of that number: a time limit is no end, it is bootstrapped."""
        return self.ended_well(episode, steps) or (steps == episode.steps and episode.ending == "needs_reset")

    def remember(self, episode: Episode, steps: int) -> bool:
        """As of Learner. A failed demonstration is not imitated, and learned from as practice is."""
        shown = episode.purpose == "demonstration"
        parts = self.parts(episode, steps, self.rewards(episode, steps))
        if not all(torch.isfinite(part).all() for part in parts):
            return False
        self.replay.add(parts, shown and succeeded(episode))
        self.practised += 0 if shown else steps
        return True

    def parts(self, episode: Episode, steps: int, rewards: np.ndarray) -> tuple[Tensor, ...]:
        """The steps as Batch has them."""
        seen = seen_of(self.policy, self.network, episode, steps)
        told = told_of(self.policy, self.network, episode, steps)
        return chunked(seen, told, rewards, self.policy.executed, self.recipe.gamma, self.ends(episode, steps))

    def batch(self, generator: torch.Generator) -> Batch:
        """Random steps, some of them demonstrated."""
        return Batch(*self.replay.sample_mixed(self.recipe.batch, self.recipe.demonstrated, generator))

    @property
    def cloning(self) -> float:
        """l, after so many steps of practice."""
        recipe = self.recipe
        fallen = min(1.0, self.practised / recipe.cloning_steps) if recipe.cloning_steps else 1.0
        return 1 - (1 - recipe.cloning) * fallen

    def update_offline(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """The critics alone, on what was demonstrated."""
        return self.actor_critic.update_critic(self.batch(generator), optimiser, generator)

    def update(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """The critics, and the actor now and then."""
        figures = self.actor_critic.update_critic(self.batch(generator), optimiser, generator)
        if number % self.recipe.actor_every == 0:
            cloned = None
            if self.replay.demonstrations:
                cloned = Batch(*self.replay.sample_demonstrated(self.recipe.batch // 2, generator))
            batch = self.batch(generator)
            figures |= self.actor_critic.update_actor(batch, optimiser, generator, self.cloning, cloned)
        return figures | {"cloning": self.cloning}


def seen_of(policy: Policy, network: Network, episode: Episode, steps: int) -> Tensor:
    """What a network's trunk and its critics read of an episode's first observations. [steps + 1, features]"""
    perceived = policy.perceive(rows_of(episode.observations, slice(steps + 1))).clone()
    goals = policy.goals([episode.instruction]).clone().expand(steps + 1, -1)
    return network.features.seen_from(None, network.features.relations(perceived, goals))


def told_of(policy: Policy, network: Network, episode: Episode, steps: int) -> Tensor:
    """Its first actions as shares of the reach. [steps, A]"""
    actions = torch.from_numpy(episode.actions[:steps]).to(network.device)
    perceived = policy.perceive(rows_of(episode.observations, slice(steps))).clone()
    return network.action_head.tokens(network.told(perceived, actions[:, None]))[:, 0]


def chunked(
    seen: Tensor, told: Tensor, rewards: np.ndarray, executed: int, gamma: float, ended: bool
) -> tuple[Tensor, ...]:
    """Steps as actor_critic.Batch has them, where `executed` actions that follow each other are one: what comes so many
    later stands for what comes after. [T + 1, features], [T, A], [T]
    """
    steps, device = len(told), seen.device
    at = torch.arange(steps)
    counts = (steps - at).clamp(max=executed)
    after = at + counts
    padded = F.pad(torch.from_numpy(rewards).float(), (0, executed - 1))
    summed = torch.stack([gamma**j * padded[j : j + steps] for j in range(executed)]).sum(0)
    discounts = gamma ** counts.float()
    if ended:
        discounts = discounts * (after < steps)
    returns = torch.from_numpy(discounted(rewards, gamma, ended)).float()
    actions = told[(at[:, None] + torch.arange(executed)).clamp(max=steps - 1)].flatten(1)
    return seen[:-1], seen[after], actions, summed.to(device), discounts.to(device), returns.to(device)


def discounted(rewards: np.ndarray, gamma: float, ended: bool) -> np.ndarray:
    """The return from each step on; where nothing ended it, the last reward is taken to come again and again (Cal-QL's
    infinite tail). [T] -> [T]
    """
    found, later = np.zeros(len(rewards)), 0.0 if ended or gamma == 1 else rewards[-1] * gamma / (1 - gamma)
    for at in range(len(rewards) - 1, -1, -1):
        later = rewards[at] + gamma * later if at < len(rewards) - 1 else rewards[at] + later
        found[at] = later
    return found

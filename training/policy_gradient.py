"""The on-policy update of stage 2, the paper's: REINFORCE on the steps-to-go reward, each round used and dropped.

    r_t = d(o_t, g) - d(o_{t+1}, g),  R_t = sum_{i >= t} gamma^(i-t) r_i,  loss = -c R_t log p(a_t | o_t, g)

With a replay of 0 episodes practice learns by it. Ours beside the paper's: several epochs with a clip, and a critic
whose value is subtracted from R_t (`baseline`); with both, and 1 at a detected success as reward, it is PPO.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robots.episodes import Episode, rows_of
from training import steps_to_go
from training.checkpoints import Policy, RewardModel
from training.critics import LEARNING_RATE, WEIGHT_DECAY, Critic, Memory
from training.descent import descend
from training.networks.network import Network
from training.recipes import ImproveRecipe


def progress_rewards(episode: Episode, steps: int, reward_model: RewardModel, policy: Policy) -> np.ndarray:
    """r_t of the first `steps` steps: what each of them took off d, by the frozen reward model."""
    d, _ = reward_model.steps_to_go(
        rows_of(episode.observations, slice(steps + 1)), [episode.instruction] * (steps + 1)
    )
    if episode.ending == "needs_reset" and steps == episode.steps:
        # A table that has to be put right is as far from the goal as can be; no demonstration shows one, so the reward
        # model can't know. Without this, practice never learned to keep blocks on the table.
        d[-1] = steps_to_go.bin_values(reward_model.metadata.sizes["bins"], reward_model.bin_width)[-1]
    return steps_to_go.rewards(d)


class PolicyGradient:
    """The policy's trunk and action head, and the round that they learn from next."""

    def __init__(self, network: Network, recipe: ImproveRecipe):
        self.network, self.recipe = network, recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)  # the critic's initial weights
            self.critic = Critic(network.features.size).to(network.device)
        self.memory = Memory(network.device)
        self.deviation = steps_to_go.RunningDeviation()
        self.acting = network.trained_in("practice")
        self.judging = list(self.critic.parameters())
        self.round: list[tuple[Tensor, Tensor, Tensor, np.ndarray]] = []

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the optimiser: what acts, then what judges."""
        return [
            {"params": self.acting, "weight_decay": self.recipe.weight_decay},
            {"params": self.judging, "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        ]

    @property
    def modules(self) -> dict[str, Any]:
        """What a restart must find as it was."""
        return {"critic": self.critic, "memory": self.memory, "deviation": self.deviation}

    rewards = staticmethod(progress_rewards)

    def warm_up(self, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """There is nothing to learn from before the first round."""

    def remember(self, episode: Episode, steps: int, rewards: np.ndarray, policy: Policy) -> bool:
        """The first `steps` steps of an episode. False, and nothing is kept, where what it teaches is no number."""
        perceived = policy.perceive(rows_of(episode.observations, slice(steps))).clone()
        goals = policy.goals([episode.instruction]).clone().expand(steps, -1)
        actions = torch.from_numpy(episode.actions[:steps, None]).to(self.network.device)  # [T, 1, A]
        with torch.no_grad():
            sound = torch.isfinite(self.network.log_probability(perceived, goals, actions)).all()
        if not sound or not np.isfinite(rewards).all():
            return False
        self.round.append((perceived, goals, actions, steps_to_go.returns(rewards, self.recipe.gamma)))
        return True

    def learn(self, new_steps: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> list[float]:
        """From the round, each step once an epoch, in random order: the losses."""
        network, recipe = self.network, self.recipe
        perceived, goals, actions = (torch.cat(parts) for parts in list(zip(*self.round, strict=True))[:3])
        discounted = np.concatenate([parts[3] for parts in self.round])
        self.round = []
        self.deviation.add(discounted)
        returns = torch.from_numpy(self.deviation.divide(discounted)).float().to(network.device)
        # The critic speaks of the round before it learns from it.
        advantages = steps_to_go.advantages(returns, recipe.baseline * self.critic.values(network, perceived, goals))
        if recipe.baseline:
            self.memory.add(perceived, goals, returns)
            self.critic.learn(
                network, self.memory, generator, lambda loss: descend(loss, optimiser, self.judging, float("inf"))
            )
        with torch.no_grad():
            when_acted = network.log_probability(perceived, goals, actions)  # as yet it is the policy that acted
        losses = []
        for _ in range(recipe.epochs):
            for rows in torch.randperm(len(returns), generator=generator).split(recipe.batch):
                log_probability = network.log_probability(perceived[rows], goals[rows], actions[rows])
                loss = steps_to_go.reinforce_loss(
                    log_probability, when_acted[rows], advantages[rows], recipe.scale, recipe.clip
                )
                if descend(loss, optimiser, self.acting):
                    losses.append(float(loss.detach()))
        return losses

"""An actor and its critics, learning from a replay: SAC, REDQ, CQL and Cal-QL, each a setting of one class.

    y    = r + discount [min over 2 drawn of N of Q'(o', a') - alpha log p(a' | o')],  a' ~ p             (REDQ, SAC)
    L_Q  = mean over N of (Q(o, a) - y)^2  +  w [log-sum-exp over a_j of Q(o, a_j) - log q(a_j) - Q(o, a)]       (CQL)
    L_p  = (1 - l) [alpha log p(a | o) - mean over N of Q(o, a)] / mean |Q|  +  l [-log p(a_demonstrated | o)]
    L_al = -log alpha (log p(a | o) + target entropy)

SAC: Haarnoja et al., arXiv 1812.05905. REDQ, an ensemble of which two are drawn for each target: Chen et al., arXiv
2101.05982, algorithm 1. CQL(H): Kumar et al., arXiv 2006.04779, equation 4; a_j are uniform, of the policy now and of
the policy one step later. Cal-QL lifts Q of the policy's own actions to the return that was seen from there on:
Nakamoto et al., arXiv 2303.05479, equation 5. The cloning term beside it is divided from Q's scale as in TD3+BC
(Fujimoto and Gu, arXiv 2106.06860, equation 5).

Which steps there are, what is a reward and when an actor is published is each method's own; here are the updates alone.
"""

import copy
import itertools
import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import computing
from training.descent import descend
from training.networks.heads import GaussianHead
from training.networks.network import Network

LARGEST_NORM = 50.0  # of a gradient
FIRST_ALPHA = 0.01  # rewards are about 1 an attempt: with 0.1 the entropy was most of the return


@dataclass(frozen=True)
class Settings:
    """Of the updates; the defaults are SAC's."""

    ensemble: int = 2  # N
    width: int = 256
    critic_rate: float = 3e-4
    actor_rate: float = 3e-4
    polyak: float = 0.005
    target_entropy: float = 0.0  # 0: minus how many numbers an action has
    entropy: bool = True  # whether there is an entropy term
    cql: float = 0.0  # w
    calibrated: bool = False
    cql_actions: int = 4  # of each kind


class QEnsemble(nn.Module):
    """N networks over features and actions, computed together."""

    def __init__(self, count: int, features: int, actions: int, width: int):
        super().__init__()
        sizes = [features + actions, width, width, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for into, out in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(into)
            self.weights.append(nn.Parameter(torch.empty(count, into, out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(count, 1, out)))

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """[n, features], [n, actions] -> [N, n]"""
        x = torch.cat([features, actions], 1).expand(len(self.weights[0]), -1, -1)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.baddbmm(bias, x, weight)
            x = F.relu(F.layer_norm(x, x.shape[-1:]))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])[..., 0]


@dataclass
class Batch:
    """Steps of a replay."""

    before: Tensor  # [n, features]
    after: Tensor  # [n, features]
    actions: Tensor  # [n, m A], shares of the reach
    rewards: Tensor  # [n]
    discounts: Tensor  # [n], of what comes after; 0 where nothing does
    returns: Tensor  # [n], discounted, to the episode's end and beyond: what Cal-QL lifts Q to


class Actor(Protocol):
    """What acts, as an actor-critic method sees it: it reads features and answers shares of the reach."""

    size: int  # numbers of an answer: m A
    parameters: list[nn.Parameter]

    def explored(self, features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """[n, features] -> actions [n, m A] that gradients go through, log p [n]"""
        ...

    def imitated(self, features: Tensor, actions: Tensor) -> Tensor:
        """log p of what was demonstrated. [n, features], [n, m A] -> [n]"""
        ...


class NetworkActor:
    """A policy's trunk and Gaussian action head, of which `executed` actions are one."""

    def __init__(self, network: Network, executed: int):
        if not isinstance(network.action_head, GaussianHead):
            raise ValueError("An actor-critic method needs a policy whose action head is gaussian.")
        self.network, self.head, self.executed = network, network.action_head, executed
        self.size = executed * self.head.size
        self.parameters = network.trained_in("practice")

    def explored(self, features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As of Actor."""
        actions, likely = self.head.explored(self.network.trunk(features), generator, self.executed)
        return actions.flatten(1), likely

    def imitated(self, features: Tensor, actions: Tensor) -> Tensor:
        """As of Actor."""
        return self.head.imitated(self.network.trunk(features), actions.unflatten(1, (self.executed, -1)))


class ActorCritic:
    """An actor, an ensemble of critics and their slow copies.

    All of it takes its steps by one optimiser, which gets the parameter groups; each update touches its own alone.
    """

    def __init__(self, actor: Actor, features: int, settings: Settings, seed: int):
        self.actor, self.settings = actor, settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.q = QEnsemble(settings.ensemble, features, actor.size, settings.width)
        device = actor.parameters[0].device
        self.q.to(device)
        self.slow = copy.deepcopy(self.q).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((), math.log(FIRST_ALPHA), device=device))
        self.target_entropy = settings.target_entropy or -float(actor.size)
        self.acting, self.judging = actor.parameters, list(self.q.parameters())
        for parameter in self.acting:
            parameter.requires_grad_(True)

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the optimiser."""
        rates = {"lr": self.settings.actor_rate, "weight_decay": 0.0}
        critics = {"params": self.judging, "lr": self.settings.critic_rate, "weight_decay": 0.0}
        return [{"params": self.acting, **rates}, critics, {"params": [self.log_alpha], **rates}]

    @property
    def modules(self) -> dict[str, Any]:
        """What a restart must find as it was."""
        return {"q": self.q, "slow": self.slow, "entropy": nn.ParameterDict({"log_alpha": self.log_alpha})}

    @property
    def alpha(self) -> Tensor:
        """Weight of the entropy. []"""
        return self.log_alpha.exp() if self.settings.entropy else self.log_alpha.new_zeros(())

    def update_critic(
        self, batch: Batch, optimiser: torch.optim.Optimizer, generator: torch.Generator
    ) -> dict[str, float]:
        """One step of the ensemble and of its slow copies."""
        with torch.no_grad():
            following, likely = self.actor.explored(batch.after, generator)
            pair = torch.randperm(self.settings.ensemble, generator=generator)[:2]
            later = self.slow(batch.after, following)[pair.to(following.device)].min(0).values - self.alpha * likely
            target = batch.rewards + batch.discounts * later
        q = self.q(batch.before, batch.actions)
        loss = error = F.mse_loss(q, target.expand(len(q), -1))
        if self.settings.cql:
            loss = loss + self.settings.cql * (self._out_of_data(batch, generator) - q).mean()
        descend(loss, optimiser, self.judging, LARGEST_NORM)
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.q.parameters(), strict=True):
                slow.lerp_(fast, self.settings.polyak)
        return {"td_error": float(error.detach()), "q": float(q.detach().mean())}

    def _out_of_data(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """log-sum-exp of Q over actions that nobody took, each less the logarithm of its density. [N, n]"""
        n, many = len(batch.before), self.settings.cql_actions
        repeated = batch.before.repeat(many, 1)
        with torch.no_grad():
            now, likely_now = self.actor.explored(repeated, generator)
            later, likely_later = self.actor.explored(batch.after.repeat(many, 1), generator)
            chance = computing.onto(now.device, 2 * torch.rand(now.shape, generator=generator) - 1)
        uniform = torch.full_like(likely_now, -math.log(2) * now.shape[1])
        parts = []
        for actions, likely in ((chance, uniform), (now, likely_now), (later, likely_later)):
            q = self.q(repeated, actions)
            if self.settings.calibrated and actions is not chance:
                q = torch.maximum(q, batch.returns.repeat(many))
            parts.append((q - likely).unflatten(1, (many, n)))
        return torch.cat(parts, 1).logsumexp(1) - math.log(3 * many)

    def update_actor(
        self,
        batch: Batch,
        optimiser: torch.optim.Optimizer,
        generator: torch.Generator,
        cloning: float = 0.0,
        cloned: Batch | None = None,
    ) -> dict[str, float]:
        """One step of the actor and of alpha; `cloning` is l, the weight of imitating the actions of `cloned`."""
        for parameter in self.judging:
            parameter.requires_grad_(False)
        actions, likely = self.actor.explored(batch.before, generator)
        q = self.q(batch.before, actions).mean(0)
        loss = (self.alpha.detach() * likely - q).mean() / q.detach().abs().mean().clamp(min=1e-3)
        if cloned is not None and cloning:
            imitated = self.actor.imitated(cloned.before, cloned.actions)
            loss = (1 - cloning) * loss - cloning * imitated.mean() / self.actor.size
        descend(loss, optimiser, self.acting, LARGEST_NORM)
        for parameter in self.judging:
            parameter.requires_grad_(True)
        entropy = -likely.detach().mean()
        if self.settings.entropy:
            descend(self.log_alpha * (entropy - self.target_entropy), optimiser, [self.log_alpha], math.inf)
        return {"actor_loss": float(loss.detach()), "entropy": float(entropy), "alpha": float(self.alpha.detach())}

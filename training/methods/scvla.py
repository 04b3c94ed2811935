"""SC-VLA: a policy foresees where its hand will be, and a small correction is rewarded for going there.

    heads      from demonstrations: imitation + w (displacement error + progress error), the policy learning along
    practice   a = clip(a_base + lambda a_res); lambda grows from 0; the base and its heads are frozen
    reward     success - cost + guide eta(p) cos(x' - x, x_goal - x), x_goal = x_start + D of when the base was asked
    eta(p)     1 while p < .5, then 1 - .8 (p - .5) / .4, at least .1: late in an attempt success alone should count
    update     SAC on what the correction reads (actor_critic.py)

After arXiv 2602.21633. Ours: the base is a policy of stage 1 and acts by its likeliest actions; success is a label's
word, where the paper has its simulator's reward; the way is the hand's, without a rotation.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robots.episodes import Episode, rows_of
from training.actor_critic import ActorCritic, Batch, Settings
from training.actor_critic_learner import discounted
from training.descent import descend
from training.labels import succeeded
from training.model_folders import ModelFolderError
from training.networks.network import Network
from training.networks.residual import ResidualNetwork
from training.off_policy import Beginning, Figures, Learner, Practise, practise_off_policy
from training.recipes import SCVLARecipe
from training.replay import Replay
from training.run_dir import RunDir, RunError

SMALLEST_WAY = 1e-3  # of a step, in units of where(): below it a direction says nothing


class Corrector:
    """The correction as an actor-critic method sees it (actor_critic.Actor)."""

    def __init__(self, network: ResidualNetwork):
        self.network, self.size = network, network.size
        self.parameters = list(network.residual.parameters())

    def explored(self, features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As of Actor."""
        noise = torch.randn((len(features), self.size), generator=generator).to(features.device)
        return self.network.corrected(features, noise)

    def imitated(self, features: Tensor, actions: Tensor) -> Tensor:
        """As of Actor: what is demonstrated lies beyond what it may correct, and nothing is imitated."""
        raise NotImplementedError


class SCVLA(Learner):
    """The parent's policy, its heads, and the correction."""

    network: ResidualNetwork

    def __init__(self, beginning: Beginning):
        assert isinstance(beginning.recipe, SCVLARecipe)
        self.run, self.recipe = beginning.run, beginning.recipe
        recipe, self.policy = beginning.recipe, beginning.started_from
        parent, metadata = self.policy.network, self.policy.metadata
        if not isinstance(parent, Network):
            raise RunError("This method corrects a policy of stage 1; start it from a run that trained one.")
        sizes = {**metadata.sizes, "executed": metadata.executed, "width": recipe.width}
        self.origin = replace(metadata, network="residual", sizes=sizes, executed=1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            try:
                self.network = ResidualNetwork(
                    self.policy.embodiment, self.policy.vocabulary, **sizes, pretrained=parent.pretrained
                )
            except ModelFolderError as error:
                raise RunError(str(error)) from None
        self.network.base.load_state_dict(parent.state_dict())
        self.network.base.action_head.temperature = parent.action_head.temperature
        self.network.requires_grad_(False)
        heads = [self.network.progress_head, self.network.displacement_head]
        self.foreseeing = [each for head in heads for each in head.parameters()]
        self.imitating = self.network.base.trained_in("practice") if recipe.joint else []
        for parameter in [*self.foreseeing, *self.imitating]:
            parameter.requires_grad_(True)
        settings = Settings(
            ensemble=recipe.ensemble,
            critic_rate=recipe.critic_rate,
            actor_rate=recipe.actor_rate,
            polyak=recipe.polyak,
            entropy=bool(recipe.entropy),
        )
        self.actor_critic = ActorCritic(Corrector(self.network), self.network.read, settings, recipe.seed)
        self.replay, self.waiting = Replay(recipe.replay), list[tuple[Episode, int]]()
        self.shown = list[tuple[Tensor, ...]]()  # of demonstrations, for the heads
        self.practised = 0
        self.offline_updates = recipe.head_updates if beginning.demonstrations else 0

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        """As of Learner."""
        heads = {"params": [*self.foreseeing, *self.imitating], "lr": self.recipe.heads_rate, "weight_decay": 0.0}
        return [*self.actor_critic.parameter_groups, heads]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """As of Learner."""
        return self.actor_critic.modules

    def remember(self, episode: Episode, steps: int) -> bool:
        """As of Learner. What the base would have done is found once its heads are trained."""
        perceived = self._perceived(episode, steps)
        if not torch.isfinite(perceived).all():
            return False
        if episode.purpose == "demonstration":
            if succeeded(episode):
                self.shown.append(self._targets(episode, perceived))
        else:
            self.practised += steps
            ramp = self.practised / self.recipe.ramp_steps if self.recipe.ramp_steps else 1.0
            self.network.scale.fill_(self.recipe.correction * min(1.0, ramp))
        self.waiting.append((episode, steps))
        return True

    def _perceived(self, episode: Episode, steps: int) -> Tensor:
        return self.policy.perceive(rows_of(episode.observations, slice(steps + 1))).clone()

    def _goals(self, episode: Episode, count: int) -> Tensor:
        return self.policy.goals([episode.instruction]).clone().expand(count, -1)

    # The heads

    def _targets(self, episode: Episode, perceived: Tensor) -> tuple[Tensor, ...]:
        """Of a demonstration's steps: what is perceived, the goal, the actions that follow and how many there are,
        progress, and the displacement until the base is asked again.
        """
        steps, head = episode.steps, self.network.base.action_head
        at = torch.arange(steps)
        follow = (at[:, None] + torch.arange(head.chunk)).clamp(max=steps - 1)
        actions = torch.from_numpy(episode.actions).to(perceived.device)[follow]
        counts = (steps - at).clamp(max=head.chunk).to(perceived.device)
        where = self.network.where(perceived)
        later = where[(at + self.network.executed).clamp(max=steps)] - where[:-1]
        told = head.tokens(self.network.base.told(perceived[:-1], actions))
        return perceived[:-1], self._goals(episode, steps), told, counts, (at / steps).to(perceived.device), later

    def update_offline(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """The heads, and the policy along with them where the recipe says so."""
        parts = tuple(map(torch.cat, zip(*self.shown, strict=True)))
        rows = torch.randint(len(parts[0]), (self.recipe.batch,), generator=generator)
        perceived, goals, told, counts, progress, displacement = (part[rows] for part in parts)
        base = self.network.base
        hidden = base.hidden(perceived, goals)
        foreseen, way = self.network.imagined(hidden)
        errors = F.mse_loss(foreseen, progress), F.mse_loss(way, displacement)
        loss = self.recipe.heads * (errors[0] + errors[1])
        figures = {"progress": float(errors[0].detach()), "displacement": float(errors[1].detach())}
        if self.imitating:
            bc = -base.action_head.imitated(hidden, told, counts).mean()
            figures["bc"] = float(bc.detach())
            loss = loss + bc
        descend(loss, optimiser, [*self.foreseeing, *self.imitating])
        return figures

    # The correction

    def _remember_waiting(self) -> None:
        for episode, steps in self.waiting:
            self.replay.add(self._parts(episode, steps), episode.purpose == "demonstration")
        self.waiting.clear()

    @torch.no_grad()
    def _parts(self, episode: Episode, steps: int) -> tuple[Tensor, ...]:
        """The steps as Batch has them."""
        network, perceived = self.network, self._perceived(episode, steps)
        goals = self._goals(episode, steps + 1)
        shares, progress, displacement, _ = network.planned(perceived, goals)
        at = torch.arange(steps + 1)
        asked = at - at % network.executed
        base, foreseen = shares[asked, at - asked], displacement[asked]
        features = network.features(perceived, goals, base, foreseen, progress)
        actions = torch.from_numpy(episode.actions[:steps]).to(perceived.device)
        told = network.shares(perceived[:-1], actions[:, None])[:, 0]
        ended = steps == episode.steps and succeeded(episode, self.recipe.label_source)
        over = ended or (steps == episode.steps and episode.ending == "needs_reset")
        rewards = self.rewards(network.where(perceived), foreseen, asked, progress, ended)
        gamma = self.recipe.gamma
        discounts = torch.full((steps,), gamma)
        discounts[-1] *= not over
        returns = torch.from_numpy(discounted(rewards, gamma, over)).float()
        device = perceived.device
        rewarded = torch.from_numpy(rewards).float().to(device)
        return features[:-1], features[1:], told, rewarded, discounts.to(device), returns.to(device)

    def rewards(self, where: Tensor, foreseen: Tensor, asked: Tensor, progress: Tensor, ended: bool) -> np.ndarray:
        """As of the module. [T + 1, D], [T + 1, D], when the base was asked [T + 1], [T + 1] -> [T]"""
        hands = slice(self.network.hands)
        way = (where[1:] - where[:-1])[:, hands]
        wanted = (where[asked] + foreseen - where)[:-1, hands]
        agreement = torch.cosine_similarity(way, wanted, dim=1) * (way.norm(dim=1) > SMALLEST_WAY)
        rewards = self.recipe.guide * faded(progress[:-1]) * agreement - self.recipe.cost
        rewards[-1] += float(ended)
        found: np.ndarray = rewards.cpu().numpy().astype(np.float64)
        return found

    def update(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """The critics, and the correction now and then."""
        self._remember_waiting()
        figures = self.actor_critic.update_critic(self._batch(generator), optimiser, generator)
        if number % self.recipe.actor_every == 0:
            figures |= self.actor_critic.update_actor(self._batch(generator), optimiser, generator)
        return figures | {"correction_scale": float(self.network.scale)}

    def _batch(self, generator: torch.Generator) -> Batch:
        return Batch(*self.replay.sample_mixed(self.recipe.batch, self.recipe.demonstrated, generator))


def faded(progress: Tensor) -> Tensor:
    """eta(p). [n] -> [n]"""
    return (1 - 0.8 * (progress - 0.5) / 0.4).clamp(0.1, 1.0)


def scvla(run: RunDir, practise: Practise | None = None) -> dict[str, Any]:
    """As of practise_off_policy()."""
    return practise_off_policy(run, SCVLA, practise)

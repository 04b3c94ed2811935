"""MEDAL++: a policy that does the task and one that brings things back take turns, and nobody resets.

    forward    reward log D_f(s'),       D_f: ends of forward demonstrations against forward practice (VICE)
    backward   reward -log(1 - D_b(s')), D_b: all states of forward demonstrations against backward practice
    update     REDQ for each, demonstrations oversampled, the actor by Q and by imitation that fades
    classifiers are updated rarely, so that rewards keep still; no success ends an attempt: its end is bootstrapped

After MEDAL++ (arXiv 2303.01488). The stations alternate the two families (the task's rule); the forward policy is what
is evaluated, from true starts. Ours: features in place of pictures, four critics in place of ten, one target entropy.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robots.episodes import Episode
from training.actor_critic import ActorCritic, Batch, NetworkActor, Settings
from training.actor_critic_learner import chunked, seen_of, told_of
from training.labels import succeeded
from training.networks.heads import GaussianHead
from training.networks.network import Network
from training.networks.phased import PHASES, PhasedNetwork
from training.off_policy import Beginning, Figures, Learner, Practise, practise_off_policy
from training.recipes import MEDALRecipe
from training.replay import Replay
from training.run_dir import RunDir, RunError

CLASSIFIED = 512  # states of each kind in an update of a classifier
SMALLEST = 1e-4  # probability whose logarithm is taken


class Phase:
    """One of the two policies: its critics, its replay, and what its classifier learns from."""

    def __init__(self, network: Network, executed: int, recipe: MEDALRecipe, seed: int):
        self.network, self.recipe = network, recipe
        settings = Settings(
            ensemble=recipe.ensemble,
            critic_rate=recipe.critic_rate,
            actor_rate=recipe.actor_rate,
            polyak=recipe.polyak,
            entropy=bool(recipe.entropy),
        )
        self.actor_critic = ActorCritic(NetworkActor(network, executed), network.features.size, settings, seed)
        self.replay = Replay(recipe.replay)
        self.positives = list[Tensor]()  # [n, features]
        self.practised = 0  # steps


class MEDAL(Learner):
    """Both policies and both classifiers."""

    network: PhasedNetwork

    def __init__(self, beginning: Beginning, turns: bool = True):
        """Without turns, for comparisons, the forward policy alone practises."""
        assert isinstance(beginning.recipe, MEDALRecipe)
        self.run, self.recipe = beginning.run, beginning.recipe
        self.policy = beginning.started_from
        parent, metadata = self.policy.network, self.policy.metadata
        if not isinstance(parent, Network) or not isinstance(parent.action_head, GaussianHead):
            raise RunError(
                "This method needs a policy with a gaussian action head; train one from the demonstrations with that "
                "action head, and start from it."
            )
        self.backward = self.recipe.backward or other_family(beginning, metadata.tasks, self.recipe.tasks)
        shown = {each.task for each in beginning.demonstrations}
        if self.backward not in shown and turns:
            raise RunError(
                f"None of the demonstrations brings things back ({self.backward or 'no second family'}); gather some "
                "of that family too, train on both, and start from that run."
            )
        texts = sorted({each.instruction for each in beginning.demonstrations if each.task == self.backward})
        sizes = {**metadata.sizes, "backward": self.backward, "backward_texts": texts[:200]}
        self.origin = replace(metadata, network="phased", sizes=sizes)
        self.network = PhasedNetwork(
            self.policy.embodiment, self.policy.vocabulary, **sizes, pretrained=parent.pretrained
        )
        self.phases: dict[str, Phase] = {}
        for number, phase in enumerate(PHASES):
            network = self.network.of(phase)
            network.load_state_dict(parent.state_dict())
            network.requires_grad_(False)
            network.action_head.temperature = parent.action_head.temperature
            self.phases[phase] = Phase(network, metadata.executed, self.recipe, self.recipe.seed + number)
        self.offline_updates = self.recipe.warm_up

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        """As of Learner."""
        groups = [group for phase in self.phases.values() for group in phase.actor_critic.parameter_groups]
        classifiers = [each for phase in PHASES for each in self.network.classifier(phase).parameters()]
        return [*groups, {"params": classifiers, "lr": self.recipe.classifier_rate, "weight_decay": 0.0}]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """As of Learner."""
        return {
            f"{name}_{part}": module
            for name, phase in self.phases.items()
            for part, module in phase.actor_critic.modules.items()
        }

    def remember(self, episode: Episode, steps: int) -> bool:
        """As of Learner: an attempt belongs to the phase that its instruction is of. What was demonstrated of the one
        phase teaches what the other's classifier takes for good.
        """
        name = self.network.phase_of(episode.instruction)
        phase, shown = self.phases[name], episode.purpose == "demonstration"
        if shown and not succeeded(episode):
            return True
        seen = seen_of(self.policy, phase.network, episode, steps)
        told = told_of(self.policy, phase.network, episode, steps)
        if not torch.isfinite(seen).all() or not torch.isfinite(told).all():
            return False
        unrewarded = np.zeros(steps)  # what a step is worth is the classifier's word of the moment
        phase.replay.add(chunked(seen, told, unrewarded, self.policy.executed, self.recipe.gamma, False), shown)
        phase.practised += 0 if shown else steps
        if shown and name == "forward":
            phase.positives.append(seen[-self.recipe.goal_frames :])
            # Any of its states is one that the backward policy should lead to, as the backward instruction sees it.
            back = self.phases["backward"]
            asked_back = replace(episode, instruction=self._back_text())
            back.positives.append(seen_of(self.policy, back.network, asked_back, steps))
        return True

    def _back_text(self) -> str:
        texts = self.origin.sizes["backward_texts"]
        return str(texts[0]) if texts else ""

    def _rewarded(self, name: str, batch: Batch) -> Batch:
        """By what the classifier says now of where each step led."""
        likely = self.network.classifier(name).probability(batch.after)
        sign, seen = (1, likely) if name == "forward" else (-1, 1 - likely)
        return replace(batch, rewards=sign * seen.clamp(min=SMALLEST).log())

    def _batch(self, name: str, generator: torch.Generator) -> Batch:
        replay = self.phases[name].replay
        parts = replay.sample_mixed(self.recipe.batch, self.recipe.demonstrated, generator)
        return self._rewarded(name, Batch(*parts))

    def update_offline(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """The critics alone, on demonstrations."""
        figures: Figures = {}
        for name, phase in self.phases.items():
            if phase.replay.demonstrations:
                told = phase.actor_critic.update_critic(self._batch(name, generator), optimiser, generator)
                figures |= {f"{key}_{name}": value for key, value in told.items()}
        return figures

    def update(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """Of both policies in turn, as both practise in turn; and of the classifiers now and then."""
        figures: Figures = {}
        name = PHASES[number % 2] if self.phases["backward"].practised else "forward"
        phase = self.phases[name]
        told = phase.actor_critic.update_critic(self._batch(name, generator), optimiser, generator)
        if number // 2 % self.recipe.actor_every == 0:
            cloned = None
            if phase.replay.demonstrations:
                cloned = Batch(*phase.replay.sample_demonstrated(self.recipe.batch // 2, generator))
            batch = self._batch(name, generator)
            told |= phase.actor_critic.update_actor(batch, optimiser, generator, self._cloning(name), cloned)
        figures |= {f"{key}_{name}": value for key, value in told.items()}
        for each in PHASES:
            figures |= self._classify(each, optimiser, generator)
        return figures

    def _cloning(self, name: str) -> float:
        least = self.recipe.cloning if name == "forward" else self.recipe.backward_cloning
        steps = self.recipe.cloning_steps
        return 1 - (1 - least) * (min(1.0, self.phases[name].practised / steps) if steps else 1.0)

    def _classify(self, name: str, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """So many updates as its steps of practice ask for."""
        phase, every = self.phases[name], self.recipe.forward_every
        if name == "backward":
            every = self.recipe.backward_every
        classifier = self.network.classifier(name)
        if not phase.positives or not phase.replay.episodes or classifier.updates >= phase.practised // every:
            return {}
        positives = torch.cat(phase.positives)
        rows = torch.randint(len(positives), (CLASSIFIED,), generator=generator).to(positives.device)
        negatives = phase.replay.sample_practised(CLASSIFIED, generator)[1]
        loss = classifier.update(positives[rows], negatives, optimiser, generator)
        return {f"classifier_{name}": loss}


def other_family(beginning: Beginning, tasks: list[str], evaluated: str) -> str:
    """Of the demonstrations' families the one that is not evaluated; "" where there is none, or several."""
    wanted = {name.strip() for name in evaluated.split(",") if name.strip()} or set(tasks[:1])
    others = [name for name in tasks if name not in wanted]
    return others[0] if len(others) == 1 else ""


def medal(run: RunDir, practise: Practise | None = None, turns: bool = True) -> dict[str, Any]:
    """As of practise_off_policy()."""
    return practise_off_policy(run, lambda beginning: MEDAL(beginning, turns), practise)

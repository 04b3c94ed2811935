"""MILI: a failed trial of one task is a success of another.

Singh and others, "Scalable Multi-Task Imitation Learning with Autonomous Improvement", arXiv 2003.02636:

    embed       a code z of attempts, from demonstrations alone (task_embedding.py); frozen then
    imitate     L = -log pi(a | o, z of another attempt of the same task)
    try         stations act on codes of demonstrations; of each trial one bit is told: was anything useful done?
    group       useful trials that lie near each other are attempts of one task more, whatever they were asked for
    again       imitate demonstrations and groups, from the first weights on

No reward is learned and true success is read nowhere. Ours: the code that a trial acts on lies between those of two
tasks (networks/embedded.py), and what a trial did after it last moved anything is not imitated.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robots.embodiments import ENVIRONMENT_STATE, Embodiment
from robots.episodes import Episode
from training.descent import anneal, descend
from training.labels import value_of
from training.networks.embedded import EmbeddedNetwork
from training.off_policy import Beginning, Canceled, Figures, Learner, Practise, practise_off_policy
from training.recipes import MiliRecipe
from training.run_dir import RunDir, RunError
from training.task_embedding import TrajectoryEncoder, embed, groups, neighbours
from training.vocabulary import Vocabulary

EMBEDDING_RATE = 3e-3
STILL = 1e-3  # of a tracked number: what changes by less in a step lies still
STEPS_AFTER_MOVING = 3  # as a demonstration goes on a moment after success
NEWEST = 100  # updates, over which a loss is told


class Attempt:
    """What is kept of a demonstration or a trial."""

    def __init__(self, episode: Episode, steps: int, row: int, encoder: TrajectoryEncoder, network: EmbeddedNetwork):
        """`row`: of the table of codes, where its sentence stands."""
        self.row = row
        self.frames = encoder.frames(episode, steps)  # [FRAMES, P]
        seen = {key: torch.from_numpy(each[:steps]) for key, each in episode.observations.items()}
        self.perceived = network.perceive(seen)  # [T, P]
        self.tokens = network.action_head.tokens(torch.from_numpy(episode.actions[:steps, None]))  # [T, 1, A]


class Mili:
    """What a run has learned: codes, a policy that acts on them, and its useful trials in the order of their files."""

    def __init__(
        self,
        embodiment: Embodiment,
        demonstrations: Sequence[Episode],
        recipe: MiliRecipe,
        each_update: Callable[[], None] = lambda: None,
    ):
        """ValueError where no task was demonstrated twice, or the body is seen by pictures alone. `each_update` is
        called before each of the policy's updates, and may raise.
        """
        self.recipe, self.each_update = recipe, each_update
        shown = {name.strip() for name in recipe.only_shown.split(",")}
        known, new = (
            sorted({each.instruction for each in demonstrations if (each.task in shown) == only})
            for only in (False, True)
        )
        self.sizes: dict[str, Any] = {
            **{name: getattr(recipe, name) for name in ("hidden", "layers", "action_bins", "code", "exploration")},
            "bins": 2,  # of steps to go, which it does not predict
            "texts": known + [text for text in new if text not in set(known)],
            "imitated": len(known),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.encoder = TrajectoryEncoder(embodiment, recipe.code)
            self.network = EmbeddedNetwork(embodiment, Vocabulary([]), **self.sizes)
        self._first = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.shown = [self._attempt(each, each.steps) for each in demonstrations if each.task in shown]
        self.imitated = [self._attempt(each, each.steps) for each in demonstrations if each.task not in shown]
        self.trials: list[Attempt] = []
        self.tried = 0  # trials, the others among them
        rows = [each.row for each in self.imitated]
        if len(set(rows)) == len(rows):
            raise ValueError("A task embedding needs tasks that were demonstrated at least twice; add demonstrations.")

    def _attempt(self, episode: Episode, steps: int) -> Attempt:
        row = self.network.words.rows.get(episode.instruction, 0)
        return Attempt(episode, steps, row, self.encoder, self.network)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a restart must find as it was, beside what it remembers again."""
        return {"encoder": self.encoder, "network": self.network}

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """None outlives a round."""
        return {}

    def begin(self, generator: torch.Generator) -> dict[str, float]:
        """The task embedding, its codes for all sentences, and the first policy."""
        frames = torch.stack([each.frames for each in self.imitated])
        rows = [each.row for each in self.imitated]
        loss = embed(self.encoder, frames, rows, self.recipe.embedding_updates, EMBEDDING_RATE, generator)
        shown = self.imitated + self.shown
        codes, of = self.codes(shown), torch.tensor([each.row for each in shown])
        for row in of.unique().tolist():
            self.network.words.codes[row] = F.normalize(codes[of == row].mean(0), dim=0)
        return {"embedding_loss": loss} | self.learn(generator)

    @torch.no_grad()
    def codes(self, attempts: Sequence[Attempt]) -> Tensor:
        """[n, code]"""
        return self.encoder(torch.stack([each.frames for each in attempts]))

    def remember(self, episode: Episode, steps: int) -> bool:
        """A trial's first `steps` steps, which the policy acted. False, and nothing of it is kept, where nobody told
        that it was useful.
        """
        self.tried += 1
        if not value_of(episode, "useful", self.recipe.label_source):
            return False
        self.trials.append(self._attempt(episode, min(steps, _moving(episode))))
        return True

    def partners(self, codes: Tensor) -> list[list[int]]:
        """Of each demonstration and then of each useful trial, whose codes these are, on whose codes its actions are
        imitated: by their numbers. [n, code]
        """
        count = len(self.imitated)
        rows = [each.row for each in self.imitated]
        own = [[j for j in range(count) if rows[j] == row and j != i] or [i] for i, row in enumerate(rows)]
        if self.recipe.grouping == "command":
            return own + [[j for j in range(count) if rows[j] == each.row] for each in self.trials]
        return own + [[count + j for j in near] for near in neighbours(codes[count:])]

    def learn(self, generator: torch.Generator) -> dict[str, float]:
        """A policy anew, of demonstrations and of all useful trials that have a partner; the figures of a round."""
        attempts = self.imitated + self.trials
        codes = self.codes(attempts)
        partners = self.partners(codes)
        count = len(self.imitated)
        loss = self._imitate(attempts, codes, partners, generator)
        paired = partners[count:]
        by_embedding = self.recipe.grouping == "embedding"
        return {
            "loss": loss,
            "tried": float(self.tried),
            "useful_share": len(self.trials) / max(1, self.tried),
            "paired": float(sum(map(bool, paired))),
            "groups": float(groups([[j - count for j in each] for each in paired]) if by_embedding else 0),
        }

    def _imitate(
        self,
        attempts: Sequence[Attempt],
        codes: Tensor,
        partners: Sequence[Sequence[int]],
        generator: torch.Generator,
    ) -> float:
        """From the first weights on; the mean loss of the newest updates."""
        recipe, network, head = self.recipe, self.network, self.network.action_head
        used = [i for i, others in enumerate(partners) if others]
        perceived = torch.cat([attempts[i].perceived for i in used])
        tokens = torch.cat([attempts[i].tokens for i in used])
        of = torch.cat([torch.full((len(attempts[i].perceived),), i) for i in used])  # [steps]
        demonstrated = sum(len(each.perceived) for each in self.imitated)
        most = max(map(len, partners))
        others = torch.tensor([[each[k % len(each)] if each else 0 for k in range(most)] for each in partners])

        table = network.words.codes.clone()
        network.load_state_dict(self._first)
        network.words.codes.copy_(table)
        network.features.scale_as(perceived[:demonstrated])
        parameters = network.trained_in("practice")
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=1e-2)
        schedule = anneal(optimiser, recipe.updates)
        first = round(recipe.demonstrated * recipe.batch) if demonstrated < len(perceived) else recipe.batch
        losses = []
        for _ in range(recipe.updates):
            self.each_update()
            rows = torch.randint(demonstrated, (first,), generator=generator)
            if first < recipe.batch:
                more = torch.randint(len(perceived) - demonstrated, (recipe.batch - first,), generator=generator)
                rows = torch.cat([rows, demonstrated + more])
            member = others[of[rows], torch.randint(most, (len(rows),), generator=generator)]
            noise = recipe.code_noise * torch.randn(len(rows), recipe.code, generator=generator)
            goal = F.normalize(codes[member] + noise, dim=1)
            loss = -head.imitated(network.hidden(perceived[rows], goal), tokens[rows]).mean()
            descend(loss, optimiser, parameters)
            schedule.step()
            losses.append(float(loss.detach()))
        return float(np.mean(losses[-NEWEST:]))


def _moving(episode: Episode) -> int:
    """How many steps it took until what is tracked was moved for the last time, and a moment more."""
    tracked = episode.observations.get(ENVIRONMENT_STATE)
    if tracked is None:
        return episode.steps
    moved = np.abs(np.diff(tracked, axis=0)).max(1) > STILL
    return min(episode.steps, int(np.flatnonzero(moved).max(initial=-1)) + 1 + STEPS_AFTER_MOVING)


class MiliLearner(Learner):
    """It as the loop of practice drives it: a round a version."""

    offline_updates = 1
    predicts = False

    def __init__(self, beginning: Beginning):
        assert isinstance(beginning.recipe, MiliRecipe)
        self.run = beginning.run
        try:
            self.mili = Mili(beginning.body, beginning.demonstrations, beginning.recipe, self._refuse_to_go_on)
        except ValueError as error:
            raise RunError(str(error)) from None
        self.network = self.mili.network
        self.origin = beginning.described("embedded", self.mili.sizes)

    def _refuse_to_go_on(self) -> None:
        if self.run.cancelled:
            raise Canceled

    @property
    def modules(self) -> dict[str, nn.Module]:
        """As of Learner."""
        return {"encoder": self.mili.encoder}

    def remember(self, episode: Episode, steps: int) -> bool:
        """As of Learner. Demonstrations were given at the beginning."""
        if episode.purpose != "demonstration":
            self.mili.remember(episode, steps)
        return True

    def update_offline(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """As of Learner: the embedding and the first policy."""
        return self.mili.begin(generator)

    def before_version(self, steps: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """As of Learner."""
        return self.mili.learn(generator)


def mili(run: RunDir, practise: Practise | None = None) -> dict[str, Any]:
    """As of practise_off_policy()."""
    return practise_off_policy(run, MiliLearner, practise)

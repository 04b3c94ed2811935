"""Active exploration: go where a model's members disagree, learn it from there, and do any task with the same model.

    model       ensemble of Gaussian networks on all steps so far: what changes with an action  (training/dynamics.py)
    exploring   MPPI on the disagreement of its members, anew at each step           (training/networks/explorer.py)
    a task      MPPI on the task's score, in the same model: one buffer for all tasks

After arXiv 2404.01867. There is no reward and no label.
"""

from typing import Any

import torch
from torch import Tensor

from robots.embodiments import Embodiment
from robots.episodes import Episode
from training.checkpoints import CheckpointError
from training.descent import descend
from training.networks.explorer import Explorer
from training.off_policy import Beginning, Figures, Learner, Practise, practise_off_policy
from training.recipes import ExploreRecipe
from training.run_dir import RunDir, RunError

LARGEST_NORM = 5.0  # of a gradient


class ActiveExploration:
    """Learning: each call makes some updates of the model on everything that was seen."""

    def __init__(self, network: Explorer, recipe: ExploreRecipe):
        self.network, self.recipe = network, recipe
        self.inputs: list[Tensor] = []  # of the model, one of each episode [T, X]
        self.changes: list[Tensor] = []  # [T, P]
        self.optimiser = torch.optim.AdamW(network.model.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)

    @property
    def modules(self) -> dict[str, Any]:
        """What a restart must find as it was."""
        return {"network": self.network}

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The same."""
        return {"model": self.optimiser}

    @property
    def steps(self) -> int:
        """How many steps were seen."""
        return sum(map(len, self.inputs))

    def remember(self, episode: Episode) -> None:
        """Take an episode's steps, whoever acted."""
        vectors = [array for array in episode.observations.values() if array.dtype != "uint8"]
        perceived = torch.cat([torch.from_numpy(each) for each in vectors], 1)  # [T + 1, P]
        self.inputs.append(self.network.inputs(perceived[:-1], torch.from_numpy(episode.actions)))
        self.changes.append(perceived[1:] - perceived[:-1])

    @torch.no_grad()
    def surprise(self, known: int) -> float:
        """By how much the model misses the episodes after the first `known`: the mean over what is observed, in
        deviations of a step's change. NaN where there are none.
        """
        if known >= len(self.inputs):
            return float("nan")
        x, y = torch.cat(self.inputs[known:]), torch.cat(self.changes[known:])
        off = (self.network.model.predict(x) - y) / self.network.model.outputs_scaled.deviation
        return float(off.abs().mean())

    def learn(self, generator: torch.Generator) -> dict[str, float]:
        """`updates` more updates. ValueError where nothing was seen."""
        if not self.inputs:
            raise ValueError("Active exploration has seen nothing yet; let a station practise first.")
        x, y = torch.cat(self.inputs), torch.cat(self.changes)
        model, loss = self.network.model, torch.zeros(())
        model.scale_as(x, y, self.network.least_changes)
        for _ in range(self.recipe.updates):
            rows = torch.randint(len(x), (model.members, self.recipe.batch), generator=generator)
            loss = model.loss(x[rows], y[rows], generator if model.dropout else None, evenness=1.0)
            descend(loss, self.optimiser, list(model.parameters()), LARGEST_NORM)
            self.network.updates += 1
        return {
            "model_loss": float(loss.detach()) / model.members,
            "steps": len(x),
            "updates": int(self.network.updates),
        }


def made(embodiment: Embodiment, recipe: ExploreRecipe) -> Explorer:
    """A network that has learned nothing yet; the same seed gives the same one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Explorer(
            embodiment,
            members=recipe.members,
            width=recipe.width,
            candidates=recipe.candidates,
            horizon=recipe.horizon,
            floor=recipe.floor,
            dropout=recipe.dropout,
        )


class ExploreLearner(Learner):
    """It as the loop of practice drives it: some updates a version, first on what was demonstrated."""

    offline_updates = 1

    def __init__(self, beginning: Beginning):
        assert isinstance(beginning.recipe, ExploreRecipe)
        recipe = beginning.recipe
        names = ("members", "width", "candidates", "horizon", "floor", "dropout")
        self.origin = beginning.described("explorer", {name: getattr(recipe, name) for name in names})
        try:
            self.network = self.origin.new_network()
            self.network.acting = made(beginning.body, recipe)
        except (CheckpointError, ValueError) as error:
            raise RunError(str(error)) from None
        self.exploration = ActiveExploration(self.network.acting, recipe)
        self.known = 0  # episodes that were learned from

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """As of Learner."""
        return self.exploration.optimisers

    def remember(self, episode: Episode, steps: int) -> bool:
        """As of Learner."""
        self.exploration.remember(episode)
        return True

    def update_offline(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """As of Learner."""
        return self.exploration.learn(generator)

    def before_version(self, steps: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """As of Learner; `surprise`: by how much the newest steps were missed before they were learned from, the mean
        over what is observed, in deviations of a step's change.
        """
        surprise = self.exploration.surprise(self.known)
        self.known = len(self.exploration.inputs)
        return self.exploration.learn(generator) | {"surprise": surprise}


def explore(run: RunDir, practise: Practise | None = None) -> dict[str, Any]:
    """As of practise_off_policy()."""
    return practise_off_policy(run, ExploreLearner, practise)

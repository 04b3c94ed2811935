"""MUSEL: a robot learns what its pushes do, and asks for the push that teaches it most.

Rayyan and others, arXiv 2412.02331: total uncertainty chases noise, so what cannot be learned is subtracted from it:

    after each push     its action and what it did become a point of the process (remember)
    after each batch    hyper-parameters and noise anew (learn), and a version that asks for the next batch

The equations are in gaussian_process.py, what stations ask is in networks/probing.py.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robots.embodiments import ENVIRONMENT_STATE, Embodiment
from robots.episodes import Episode
from training.checkpoints import CheckpointError
from training.networks.probing import POSE, Probing, effects
from training.off_policy import Beginning, Figures, Learner, Practise, practise_off_policy
from training.recipes import MuselRecipe
from training.run_dir import RunDir, RunError

RECENT = 50  # pushes, of which the share in noisy places is told
MOST_OVER = 1000  # pushes that may come beyond the budget before a run has ended
ELSEWHERE = 300  # random pushes over which figures are means


class Musel:
    """What a run has learned of pushes. Points come in the order in which episodes are remembered."""

    def __init__(self, embodiment: Embodiment, capacity: int, **sizes: Any):
        """`sizes`: the others of Probing."""
        self.embodiment = embodiment
        self.sizes: dict[str, Any] = {"capacity": capacity, **sizes}
        self.probing = Probing(embodiment, **self.sizes)
        # Actions [A] and effects [3] of all pushes in their order. Who goes on after a restart remembers again what the
        # process holds already.
        self._remembered: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a restart must find as it was."""
        return {"probing": self.probing}

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """None outlives a fit."""
        return {}

    @property
    def samples(self) -> int:
        """Pushes so far, those that wait to be learned from among them."""
        return len(self._remembered)

    def remember(self, episode: Episode) -> None:
        """Each of its steps is a push: T + 1 observations, T actions. What is beyond the capacity is left out."""
        poses = episode.observations[ENVIRONMENT_STATE][:, : len(POSE)]
        room = self.sizes["capacity"] - self.samples
        found = zip(episode.actions, effects(poses[:-1], poses[1:]), strict=True)
        self._remembered += [(action.astype(np.float64), effect) for action, effect in found][: max(room, 0)]

    def learn(self, generator: torch.Generator) -> dict[str, float]:
        """Fit to all points; the figures of a run's curve, in cm:

        surprise     by how much this batch was missed before it was learned from
        uncertainty  root of the mean var_f of random pushes: what the model does not know of them
        noise        root of their mean noise
        noisy_share  of the newest pushes, how many lie where the noise is above its mean: of random ones about the
                     share of the action space that is noisy
        """
        if self.samples < 2:
            return {"samples": float(self.samples)}
        process, probing = self.probing.process, self.probing
        if new := self._remembered[len(process) :]:
            actions, effect = (torch.from_numpy(np.stack(each)) for each in zip(*new, strict=True))
            process.add(probing.features(actions), effect)
            process.fit()
        n = len(process)
        elsewhere = process.predict(probing.features(probing.random(ELSEWHERE, generator)))
        noise = elsewhere.var_noise.sum(1)
        recent = process.predict(process.inputs[max(0, n - RECENT) : n]).var_noise.sum(1)
        return {
            "samples": float(n),
            "surprise": _root_mean(process.surprises[n - max(len(new), 1) : n].square().sum(1)),
            "uncertainty": _root_mean(elsewhere.var_model.sum(1)),
            "noise": _root_mean(noise),
            "noisy_share": float((recent > noise.mean()).double().mean()),
        }


def _root_mean(squares: Tensor) -> float:
    return float(squares.mean().sqrt())


class MuselLearner(Learner):
    """It as the loop of practice drives it: a fit a version, first of the demonstrated pushes."""

    offline_updates = 1

    def __init__(self, beginning: Beginning):
        assert isinstance(beginning.recipe, MuselRecipe)
        recipe, body = beginning.recipe, beginning.body
        shown = sum(each.steps for each in beginning.demonstrations)
        sizes = {"pool": recipe.pool, "apart": recipe.apart, "acquisition": recipe.acquisition}
        self.origin = beginning.described("probing", {**sizes, "capacity": shown + recipe.max_steps + MOST_OVER})
        try:
            self.network = self.origin.new_network()
        except CheckpointError as error:
            raise RunError(str(error)) from None
        self.musel = Musel(body, **self.origin.sizes)
        self.network.acting = self.musel.probing

    def remember(self, episode: Episode, steps: int) -> bool:
        """As of Learner."""
        if not np.isfinite(episode.actions).all():
            return False
        self.musel.remember(episode)
        return True

    def update_offline(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """As of Learner."""
        return self.musel.learn(generator)

    def before_version(self, steps: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """As of Learner."""
        return self.musel.learn(generator)


def musel(run: RunDir, practise: Practise | None = None) -> dict[str, Any]:
    """As of practise_off_policy()."""
    return practise_off_policy(run, MuselLearner, practise)

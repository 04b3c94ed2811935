"""Action Flow Matching: plan with the model of a sound drive, and carry each plan to what a changed drive needs.

    1. model   ensemble of Gaussian networks on demonstrations with a sound drive           (training/dynamics.py)
    2. flow    tuples (yaw, probe, error, planned) -> intended, made with that model:       (training/flow.py)

           g             a drive of the family: gains from `least_gain` to `largest_gain`, of either sign
           error         what the model says of g x probe, with its noise, less what it says of probe
           intended      planned / g: under that drive it has the effect of planned
           L             |v(x_t, t, (code, planned)) - (intended - planned)|^2,   t = u^3

    3. acting  networks/flow_corrected.py, on the station, where the regime is remembered

Murillo-Gonzalez and Liu, arXiv 2504.18471. The tuples are of the learned model alone: no simulator, no true gains.
"""

import math
from typing import Any

import torch
from torch import Tensor

from robots.embodiments import STATE
from robots.episodes import Episode
from training.checkpoints import CheckpointError
from training.descent import anneal, descend
from training.labels import value_of
from training.networks.flow_corrected import STRONGEST_PROBE, WEAKEST_PROBE, FlowCorrected
from training.off_policy import Beginning, Figures, Learner, Practise, practise_off_policy
from training.recipes import AFMRecipe
from training.run_dir import RunDir, RunError

EARLY = 3.0  # t = u^3: the planned action is told, and with uniform t the flow reads its end off x_t
LARGEST_NORM = 5.0  # of a gradient
CHUNK = 250  # updates that one call of learn() makes


class ActionFlowMatching:
    """Learning: the model first, then, with the model as it is, the flow."""

    def __init__(self, network: FlowCorrected, recipe: AFMRecipe):
        self.network, self.recipe = network, recipe
        self.inputs: list[Tensor] = []  # of the model, one of each episode [T, 4]
        self.changes: list[Tensor] = []  # [T, 3]
        model, flow = network.model.parameters(), network.flow.parameters()
        self.model_optimiser = torch.optim.AdamW(model, lr=recipe.learning_rate, weight_decay=0.0)
        self.flow_optimiser = torch.optim.AdamW(flow, lr=recipe.learning_rate, weight_decay=0.0)

    @property
    def modules(self) -> dict[str, Any]:
        """What a restart must find as it was."""
        return {"network": self.network}

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The same."""
        return {"model": self.model_optimiser, "flow": self.flow_optimiser}

    @property
    def updates(self) -> int:
        """How many have been made."""
        return int(self.network.updates)

    @property
    def done(self) -> bool:
        """Whether all is learned."""
        return self.updates >= self.recipe.model_updates + self.recipe.flow_updates

    def remember(self, episode: Episode) -> None:
        """Take the steps of a demonstration. Practice is left out: its drive may have changed."""
        if episode.purpose != "demonstration":
            return
        poses = torch.from_numpy(episode.observations[STATE])
        shares = torch.from_numpy(episode.actions) / self.network.high
        self.inputs.append(self.network.inputs(poses[:-1, 2], shares))
        self.changes.append(self.network.change(poses[:-1], poses[1:]))

    def learn(self, generator: torch.Generator) -> dict[str, float]:
        """Some more updates, of the model or of the flow. ValueError where there are no demonstrations."""
        if not self.inputs:
            raise ValueError("Action flow matching needs demonstrations with a sound drive; give it a dataset of them.")
        of_model = self.updates < self.recipe.model_updates
        first = 0 if of_model else self.recipe.model_updates
        last = first + (self.recipe.model_updates if of_model else self.recipe.flow_updates)
        optimiser = self.model_optimiser if of_model else self.flow_optimiser
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] = self.recipe.learning_rate
        rates = anneal(optimiser, last - first, self.updates - first)
        losses = self._model_losses(last, generator, rates) if of_model else self._flow_losses(last, generator, rates)
        return {"model_loss" if of_model else "flow_loss": sum(losses) / max(1, len(losses)), "updates": self.updates}

    def _model_losses(self, last: int, generator: torch.Generator, rates: Any) -> list[float]:
        x, y = torch.cat(self.inputs), torch.cat(self.changes)
        model, losses = self.network.model, []
        if not self.updates:
            model.scale_as(x, y)
        for _ in range(min(CHUNK, last - self.updates)):
            rows = torch.randint(len(x), (model.members, self.recipe.batch), generator=generator)
            loss = model.loss(x[rows], y[rows])
            descend(loss, self.model_optimiser, list(model.parameters()), LARGEST_NORM)
            rates.step()
            self.network.updates += 1
            losses.append(float(loss.detach()) / model.members)
        return losses

    def _flow_losses(self, last: int, generator: torch.Generator, rates: Any) -> list[float]:
        flow, losses = self.network.flow, []
        for _ in range(min(CHUNK, last - self.updates)):
            planned, intended, code = self.tuples(self.recipe.batch, generator)
            loss = flow.loss(planned, intended, torch.cat([code, planned], 1), generator, EARLY).mean()
            descend(loss, self.flow_optimiser, list(flow.parameters()), LARGEST_NORM)
            rates.step()
            self.network.updates += 1
            losses.append(float(loss.detach()))
        return losses

    @torch.no_grad()
    def tuples(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Planned and intended actions, shares of the limits [n, 2] each, and the code of a drive of the family [n, 7],
        all as the learned model has it.
        """

        def uniform(low: float, high: float, size: int = 2) -> Tensor:
            return low + (high - low) * torch.rand(n, size, generator=generator)

        def either_sign() -> Tensor:
            return torch.where(torch.rand(n, 2, generator=generator) < 0.5, -1.0, 1.0)

        least, largest = torch.tensor([self.recipe.least_gain, self.recipe.largest_gain]).log().tolist()
        gains = either_sign() * uniform(least, largest).exp()
        yaw = uniform(-torch.pi, torch.pi, 1)[:, 0]
        probe = either_sign() * uniform(WEAKEST_PROBE, STRONGEST_PROBE)
        model, planned = self.network.model, uniform(-1, 1)
        # Deviations of y throughout: the network divides errors by them, too
        promised = model(self.network.inputs(yaw, probe))[0].mean(0)
        mean, log_variance = model(self.network.inputs(yaw, gains * probe))
        noise = torch.randn(n, 3, generator=generator) * (0.5 * log_variance.mean(0)).exp()
        return planned, planned / gains, self.network.code(yaw, probe, mean.mean(0) + noise - promised)


def made(embodiment: Any, recipe: AFMRecipe) -> FlowCorrected:
    """A network that has learned nothing yet; the same seed gives the same one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return FlowCorrected(
            embodiment,
            members=recipe.members,
            width=recipe.width,
            flow_width=recipe.flow_width,
            candidates=recipe.candidates,
            horizon=recipe.horizon,
            threshold=recipe.threshold,
            adaptation_steps=recipe.adaptation_steps,
        )


class AFMLearner(Learner):
    """It as the loop of practice drives it: all is learned before practice, and stations correct by themselves. What
    practice shows is counted: how much of their courses they got through.
    """

    def __init__(self, beginning: Beginning):
        assert isinstance(beginning.recipe, AFMRecipe)
        recipe = beginning.recipe
        names = ("members", "width", "flow_width", "candidates", "horizon", "threshold", "adaptation_steps")
        self.origin = beginning.described("flow_corrected", {name: getattr(recipe, name) for name in names})
        try:
            self.network = self.origin.new_network()
            self.network.acting = made(beginning.body, recipe)
        except (CheckpointError, ValueError) as error:
            raise RunError(str(error)) from None
        self.matching = ActionFlowMatching(self.network.acting, recipe)
        parts = (recipe.model_updates, recipe.flow_updates)
        self.offline_updates = sum(math.ceil(each / CHUNK) for each in parts)
        self.reached: list[float] = []  # of practice since the last version

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """As of Learner."""
        return self.matching.optimisers

    def remember(self, episode: Episode, steps: int) -> bool:
        """As of Learner."""
        self.matching.remember(episode)
        reached = value_of(episode, "reached")
        self.reached += [] if reached is None or episode.purpose == "demonstration" else [reached]
        return True

    def update_offline(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """As of Learner: CHUNK updates of the model, then of the flow."""
        return self.matching.learn(generator)

    def before_version(self, steps: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """As of Learner."""
        reached, self.reached = self.reached, []
        return {"reached": sum(reached) / len(reached)} if reached else {}


def afm(run: RunDir, practise: Practise | None = None) -> dict[str, Any]:
    """As of practise_off_policy()."""
    return practise_off_policy(run, AFMLearner, practise)

"""What explores a body's world without a task, and later does tasks, by one model of what actions do.

    exploring   MPPI on the sum over the plan of how much the model's members disagree   (u, training/dynamics.py)
    a task      MPPI on how far one number of the observation comes, such as an object's x, and how near the body is

Active exploration in Bayesian model-based reinforcement learning (arXiv 2404.01867), with planning in place of the SAC
that the paper trains inside its model. The model is of the body's numbers as they are, and of the ways between objects
and the body; a body that sees by cameras alone can't be explored so.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robots.embodiments import Embodiment
from training.dynamics import DynamicsEnsemble, disagreement, imagined
from training.networks.state import differences_of
from training.planning import Planner, rest_of

LEAST_CHANGE = 0.01  # of half a number's range: the scale of what hardly anything has changed yet
NEARNESS = 0.1  # metres' worth of the aimed number, for each metre that the body is nearer to its object

Memory = dict[str, Any]


class Explorer(nn.Module):
    """The model, and the planner that uses it."""

    high: Tensor  # [A], the highest action
    low: Tensor  # [A]
    minuends: Tensor  # [D]
    subtrahends: Tensor  # [D]
    least_changes: Tensor  # [P]
    aim: Tensor  # [], long: the number that a task is about, -1 while exploring
    updates: Tensor  # [], of the learning so far

    def __init__(
        self,
        embodiment: Embodiment,
        members: int = 5,
        width: int = 64,
        candidates: int = 128,
        horizon: int = 12,
        sigma: float = 0.8,
        temperature: float = 0.1,
        correlation: float = 0.8,
        floor: float = 0.5,
        dropout: float = 0.0,
    ):
        """`floor`: what members may differ by without being uncertain, in deviations of a step's change. ValueError
        where the body has no numbers to be observed.
        """
        super().__init__()
        vectors = {key: each for key, each in embodiment.observation.items() if not each.is_picture}
        if not vectors:
            raise ValueError(
                f"{embodiment.name} can't be explored by a model of its numbers: it observes pictures alone. Give it a "
                "state."
            )
        self.names = [name for each in vectors.values() for name in each.names]
        pairs = differences_of(embodiment, [*vectors])
        of, less = zip(*pairs, strict=True) if pairs else ((), ())
        self.register_buffer("minuends", torch.tensor(of, dtype=torch.long), persistent=False)
        self.register_buffer("subtrahends", torch.tensor(less, dtype=torch.long), persistent=False)
        self.model = DynamicsEnsemble(
            len(self.names) + len(pairs) + embodiment.action_size, len(self.names), members, width, dropout=dropout
        )
        self.planner = Planner(candidates, horizon, sigma, temperature, correlation)
        self.floor = floor
        low, high = zip(*embodiment.action_range, strict=True)
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)
        least = [
            LEAST_CHANGE * (top - bottom) / 2
            for each in vectors.values()
            for bottom, top in zip(each.low or (-1.0,) * each.size, each.high or (1.0,) * each.size, strict=True)
        ]
        self.register_buffer("least_changes", torch.tensor(least), persistent=False)
        self.register_buffer("aim", torch.full((), -1))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def aim_at(self, name: str) -> None:
        """From now on the aim is that this number of the observation rises, such as "puck.x"; "": to explore.
        ValueError where there is no such number.
        """
        if name and name not in self.names:
            raise ValueError(f"Nothing observed is called {name!r}; write one of {', '.join(self.names)}.")
        self.aim.fill_(self.names.index(name) if name else -1)

    def inputs(self, perceived: Tensor, actions: Tensor) -> Tensor:
        """What the model is told. [..., P], in the body's units [..., A] -> [..., X]"""
        shares = (2 * actions - self.high - self.low) / (self.high - self.low)
        ways = perceived[..., self.minuends] - perceived[..., self.subtrahends]
        return torch.cat([perceived, ways, shares], -1)

    @torch.no_grad()
    def act(
        self, perceived: Tensor, memories: Sequence[Memory], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The next actions of n stations [n, P] -> [n, A] in the body's units, and what a supervisor should see of
        each: how much the members disagree on what it does, and by how much the model was wrong about the last step.
        """
        errors = torch.full((len(memories),), math.nan)
        for i, memory in enumerate(memories):
            memory.setdefault("plan", ((self.low + self.high) / 2).expand(self.planner.horizon, -1))
            if "expected" in memory:
                errors[i] = ((perceived[i] - memory["expected"]) / self.model.outputs_scaled.deviation).norm()
        score = self._uncertain if int(self.aim) < 0 else self._done
        plan = torch.stack([memory["plan"] for memory in memories])
        plan = self.planner.plan(plan, lambda plans: score(perceived, plans), self.low, self.high, generator)
        actions, rest = plan[:, 0], rest_of(plan, (self.low + self.high) / 2)
        told = self.inputs(perceived, actions)
        opinions = self.model.opinions(told)  # [N, n, P]
        expected = perceived + self.model.predict(told)
        for i, memory in enumerate(memories):
            memory |= {"plan": rest[i], "expected": expected[i]}
        return actions, {"disagreement": disagreement(opinions, self.floor), "model_error": errors}

    def _uncertain(self, perceived: Tensor, plans: Tensor) -> Tensor:
        """u, summed over each plan. [n, P], [n, K, H, A] -> [n, K]"""
        total = torch.zeros(plans.shape[:2])

        def step(state: Tensor, actions: Tensor) -> Tensor:
            opinions = self.model.forward(self.inputs(state, actions).flatten(0, 1))[0]  # [N, n K, P]
            total.add_(disagreement(opinions, self.floor).view(total.shape))
            return state + self._change(opinions).view(state.shape)

        imagined(step, perceived, plans)
        return total

    def _change(self, opinions: Tensor) -> Tensor:
        scaled = self.model.outputs_scaled
        return opinions.mean(0) * scaled.deviation + scaled.mean

    def _done(self, perceived: Tensor, plans: Tensor) -> Tensor:
        """How far the aimed number comes, summed over each plan, and how near the body is to its object. [n, P], [n, K,
        H, A] -> [n, K]
        """

        def step(state: Tensor, actions: Tensor) -> Tensor:
            return state + self._change(self.model.forward(self.inputs(state, actions).flatten(0, 1))[0]).view(
                state.shape
            )

        states = imagined(step, perceived, plans)
        score = states[..., self.aim].sum(-1)
        thing, separator, _ = self.names[int(self.aim)].partition(".")
        mine = [
            i
            for i, pair in enumerate(zip(self.minuends.tolist(), self.subtrahends.tolist(), strict=True))
            if separator and any(self.names[each].startswith(f"{thing}.") for each in pair)
        ]
        if mine:
            ways = states[..., self.minuends[mine]] - states[..., self.subtrahends[mine]]
            score = score - NEARNESS * ways.norm(dim=-1).sum(-1)
        return score

"""What drives a cart whose drive may change under it: a planner, a model learned before, and corrections of its plans.

    observation -> MPPI on the model of the sound cart -> planned action -> flow, told a probe of the drive -> executed

Action Flow Matching (Murillo-Gonzalez and Liu, arXiv 2504.18471). The model isn't learned anew where the drive
changes: what is planned is carried to that action whose effect under the changed drive is the one that the model has
promised. Which drive it is a probe tells, one action done as it is, with the model's error in it. Each station has its
own regime, in its memory:

    SOUND      does what is planned; an error above the threshold calls for a probe
    PROBE      does a moderate action near the planned one, uncorrected; its error is the regime's code
    CORRECTED  does what the flow makes of the plan; errors above the threshold call for a new probe

A correction that the drive's limits cut short has less of an effect; that much less is expected of it then, so that a
weak drive isn't taken for a changed one again and again.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robots.embodiments import ENVIRONMENT_STATE, Embodiment
from training.dynamics import DynamicsEnsemble, adapted, imagined
from training.flow import Flow
from training.planning import Planner, rest_of

SOUND, PROBE, CORRECTED = range(3)  # regimes
WEAKEST_PROBE, STRONGEST_PROBE = 0.25, 0.5  # shares of the limit: gains can be read, and doubled they are in the data
DISCOUNT = 0.9  # of a distance to the way point, a step
SURPRISES = 2  # errors above the threshold in a row, after which a corrected regime counts as changed
CORRECTED_SHARE = 1.5  # times the threshold: what a flow makes of a plan has its effect roughly only
SOUND_SHARE = 0.3  # of the threshold: a probe with less error than that has found the drive sound
FARTHEST = 5.0  # largest changes in one step: what has moved farther was carried
REMEMBERED = 50  # newest transitions that a station adapts to
CODE = 5  # numbers that tell a regime: the probe's two, and its error along, across and about the cart

Memory = dict[str, Any]


class FlowCorrected(nn.Module):
    """The model of the sound cart, the flow that corrects, and how both are used."""

    low: Tensor  # [2], the lowest action
    high: Tensor  # [2]
    updates: Tensor  # [], of the learning so far

    def __init__(
        self,
        embodiment: Embodiment,
        members: int = 3,
        width: int = 64,
        flow_width: int = 64,
        candidates: int = 256,
        horizon: int = 5,
        sigma: float = 0.4,
        temperature: float = 0.1,
        threshold: float = 0.6,
        corrects: int = 1,
        adaptation_steps: int = 0,
        adaptation_rate: float = 1e-3,
    ):
        """`threshold`: of an error, in deviations of what one step changes. `corrects` 0: never probes or corrects.
        `adaptation_steps`: of Adam at each step of a station, 0 leaves the model as it is. ValueError where the body is
        none that this can drive.
        """
        super().__init__()
        self.limits_of(embodiment)
        self.threshold, self.corrects = threshold, bool(corrects)
        self.adaptation_steps, self.adaptation_rate = adaptation_steps, adaptation_rate
        self.names = embodiment.action_names
        self.model = DynamicsEnsemble(4, 3, members, width)
        self.flow = Flow(2, CODE + 2, flow_width)
        self.planner = Planner(candidates, horizon, sigma, temperature)
        low, high = zip(*embodiment.action_range, strict=True)
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)
        changes = [motion.largest_change or math.inf for motion in embodiment.motions]
        self.largest_change = torch.tensor([changes[0], changes[0], changes[1]])
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @staticmethod
    def limits_of(embodiment: Embodiment) -> None:
        """ValueError, with what is missing, where this body is no cart with a way point to go to."""
        places = embodiment.observation.get(ENVIRONMENT_STATE)
        known = embodiment.state_names == ("x", "y", "yaw") and places and places.names[:2] == ("next_x", "next_y")
        even = all(low == -high for low, high in embodiment.action_range)
        if not known or embodiment.action_size != 2 or not embodiment.motions or not even:
            raise ValueError(
                f"{embodiment.name} can't be driven by action flow matching: that takes a body that senses x, y and "
                "yaw, is told next_x and next_y, and has two velocities as its action, as far forwards as backwards."
            )

    # What the model is told and what it says

    def inputs(self, yaw: Tensor, shares: Tensor) -> Tensor:
        """What the model is told. [...], actions as shares of their limits [..., 2] -> [..., 4]"""
        return torch.cat([yaw.cos()[..., None], yaw.sin()[..., None], shares], -1)

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """What one step changed: metres, metres, radians. [..., 3 or more], [..., 3 or more] -> [..., 3]"""
        moved = after[..., :3] - before[..., :3]
        turned = torch.remainder(moved[..., 2:] + math.pi, 2 * math.pi) - math.pi
        return torch.cat([moved[..., :2], turned], -1)

    def code(self, yaw: Tensor, probe: Tensor, error: Tensor) -> Tensor:
        """What tells a regime, as seen from the cart. [n], shares [n, 2], error in the model's deviations [n, 3] -> [n,
        CODE]
        """
        cos, sin, (x, y, turned) = yaw.cos(), yaw.sin(), error.unbind(1)
        return torch.cat([probe, torch.stack([cos * x + sin * y, cos * y - sin * x, turned], 1)], 1)

    def corrected(self, planned: Tensor, code: Tensor) -> Tensor:
        """What has the effect of the planned action in that regime; it may be beyond the limits. Shares [n, 2], [n,
        CODE] -> shares [n, 2]
        """
        return self.flow.carry(planned, torch.cat([code, planned], 1))

    # Acting

    @torch.no_grad()
    def act(
        self, perceived: Tensor, memories: Sequence[Memory], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The next actions of n stations [n, P] -> [n, 2] in the body's units, and what a supervisor should see of
        each: the model's error and its threshold, the action planned and the one executed, the regime and for how many
        steps it has been the same.
        """
        for memory in memories:
            self._begin(memory)
        errors = self._look_back(perceived, memories)
        layers = self._adapt(memories)
        planned = self._plan(perceived, memories, layers, generator)
        regimes = torch.tensor([memory["regime"] for memory in memories])[:, None]
        # As far as a probe may go, in the direction that was planned
        sign = torch.where(planned < 0, -1.0, 1.0)
        probe = sign * planned.abs().clamp(WEAKEST_PROBE, STRONGEST_PROBE)
        wanted = self.corrected(planned, torch.stack([memory["code"] for memory in memories]))
        done = wanted.clamp(-1, 1)
        # What the flow wanted and the limits allow: that share of the planned effect is to be expected
        share = (done.abs() / wanted.abs().clamp(min=1e-6)).clamp(max=1)
        executed = torch.where(regimes == PROBE, probe, torch.where(regimes == CORRECTED, done, planned))
        promised = torch.where(regimes == PROBE, probe, torch.where(regimes == CORRECTED, planned * share, planned))
        told = self.inputs(perceived[:, 2], promised)
        expected = self.model.predict(told[:, None], layers)[:, 0]
        for i, memory in enumerate(memories):
            memory |= {"observation": perceived[i], "expected": expected[i], "told": told[i], "executed": executed[i]}
            memory["since"] += 1
        columns = {f"planned_{name}": planned[:, i] * self.high[i] for i, name in enumerate(self.names)}
        columns |= {f"executed_{name}": executed[:, i] * self.high[i] for i, name in enumerate(self.names)}
        signals = columns | {
            "model_error": errors,
            "model_error_threshold": torch.full((len(errors),), self.threshold),
            "regime": regimes[:, 0].float(),
            "regime_steps": torch.tensor([float(memory["since"]) for memory in memories]),
        }
        return executed * self.high, signals

    def _begin(self, memory: Memory) -> None:
        """Fill the memory of a station that has none."""
        if "regime" not in memory:
            plan = torch.zeros(self.planner.horizon, 2)
            memory |= {"regime": SOUND, "since": 0, "surprises": 0, "code": torch.zeros(CODE), "plan": plan}
            self._forget(memory)

    def _forget(self, memory: Memory) -> None:
        """What a station has adapted to."""
        memory["rows"], memory["layers"] = [], None

    def _look_back(self, perceived: Tensor, memories: Sequence[Memory]) -> Tensor:
        """How far each station's last step was from what was expected, in the model's deviations [n]; NaN where there
        was none. What follows from it for its regime is decided here.
        """
        errors = torch.full((len(memories),), math.nan)
        for i, memory in enumerate(memories):
            before = memory.pop("observation", None)
            if before is None:
                continue
            moved = self.change(before, perceived[i])
            if (moved.abs() > FARTHEST * self.largest_change).any():
                memory |= {"regime": SOUND, "since": 0, "plan": torch.zeros_like(memory["plan"])}
                continue
            off = (moved - memory["expected"]) / self.model.outputs_scaled.deviation
            errors[i] = off.norm()
            memory["rows"] = [*memory["rows"], (memory["told"], moved)][-REMEMBERED:]
            if self.corrects:
                self._decide(memory, before, off, float(errors[i]))
        return errors

    def _decide(self, memory: Memory, before: Tensor, off: Tensor, error: float) -> None:
        """The regime of the next step."""
        regime = memory["regime"]
        if regime == PROBE:
            now = CORRECTED if error > SOUND_SHARE * self.threshold else SOUND
            memory["code"] = self.code(before[2:3], memory["executed"][None], off[None])[0]
        else:
            share, allowed = (CORRECTED_SHARE, SURPRISES) if regime == CORRECTED else (1.0, 1)
            memory["surprises"] = memory["surprises"] + 1 if error > share * self.threshold else 0
            now = PROBE if memory["surprises"] >= allowed else regime
        if now != regime:
            memory |= {"regime": now, "since": 0, "surprises": 0}
            self._forget(memory)

    def _adapt(self, memories: Sequence[Memory]) -> list[Tensor] | None:
        """Each station's own layers, adapted to what it saw last; None where all use the shared ones."""
        if not self.adaptation_steps:
            return None
        shared = self.model.layers
        layers = [
            torch.stack([shared[k] if memory["layers"] is None else memory["layers"][k] for memory in memories])
            for k in range(len(shared))
        ]
        most = max(len(memory["rows"]) for memory in memories)
        if not most:
            return layers
        x, y = torch.zeros(len(memories), most, 4), torch.zeros(len(memories), most, 3)
        counted = torch.zeros(len(memories), most)
        for i, memory in enumerate(memories):
            for row, (told, moved) in enumerate(memory["rows"]):
                x[i, row], y[i, row], counted[i, row] = told, moved, 1
        layers = adapted(self.model, layers, x, y, counted, self.adaptation_rate, self.adaptation_steps)
        for i, memory in enumerate(memories):
            memory["layers"] = [each[i] for each in layers]
        return layers

    def _plan(
        self,
        perceived: Tensor,
        memories: Sequence[Memory],
        layers: list[Tensor] | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The first action of a plan that comes near the way point, as shares of the limits. [n, P] -> [n, 2]"""
        goal = perceived[:, None, None, 3:5]
        discounts = DISCOUNT ** torch.arange(self.planner.horizon)

        def step(state: Tensor, shares: Tensor) -> Tensor:
            return state + self.model.predict(self.inputs(state[..., 2], shares), layers)

        def score(plans: Tensor) -> Tensor:
            ways = imagined(step, perceived[:, :3], plans)[..., :2] - goal
            return -(ways.norm(dim=-1) * discounts).sum(-1)

        one = torch.ones(2)
        plan = torch.stack([memory["plan"] for memory in memories])
        plan = self.planner.plan(plan, score, -one, one, generator)
        for memory, rest in zip(memories, rest_of(plan, torch.zeros(2)), strict=True):
            memory["plan"] = rest
        return plan[:, 0]

"""What asks for the next push: a Gaussian process of effects, and the rule by which it chooses.

    action  --features-->  x [F]     an angle by its cosine and sine, any other number as a share of its range
    effect  --of_poses-->  y [3]     how far a thing went along its own axes, and how far a point of it turned, in cm

It acts for a body whose action is a whole push, told in the frame of the thing that is pushed, and whose observation
tracks the pose of one such thing (x, y, cos, sin).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robots.embodiments import ENVIRONMENT_STATE, Embodiment, Feature
from training.gaussian_process import ACQUISITIONS, GaussianProcess, choose, model_uncertainty

POSE = ("x", "y", "cos", "sin")  # what must be tracked of the thing
LEVER_CM = 3.5  # a turn counts as the way of a point so far from the middle
AROUND = 100  # random pushes over which an expected gain is the mean


class Probing(nn.Module):
    """All that was learned of pushes, in `process`; sizes are plain numbers and the acquisition's name."""

    low: Tensor  # [A]
    high: Tensor  # [A]
    angles: Tensor  # [A] bool

    def __init__(
        self,
        embodiment: Embodiment,
        capacity: int,
        pool: int,
        apart: float = 0.5,
        acquisition: str = "musel",
        at_random: float = 0.0,
    ):
        """`capacity` pushes at most; of `pool` random ones the next is chosen, `apart` from others of its batch, but
        for a share of `at_random`. ValueError where this body's actions are no pushes, or nothing tells what they did.
        """
        super().__init__()
        if acquisition not in ACQUISITIONS:
            raise ValueError(f"The acquisition is {acquisition!r}; write one of {', '.join(ACQUISITIONS)}.")
        if missing := missing_of(embodiment):
            raise ValueError(f"{embodiment.name} can't be probed for the effects of pushes: {missing}.")
        self.pool, self.apart, self.acquisition, self.at_random = pool, apart, acquisition, at_random
        low, high = torch.tensor(embodiment.action_range, dtype=torch.float64).T
        angles = torch.tensor([unit == "rad" for unit in _units(embodiment.action)])
        for name, values in (("low", low), ("high", high), ("angles", angles)):
            self.register_buffer(name, values, persistent=False)
        self.process = GaussianProcess(capacity, len(low) + int(angles.sum()), 3)
        # Where the object's pose begins among what is perceived: in observation.environment_state
        keys = [key for key, feature in embodiment.observation.items() if not feature.is_picture]
        before = keys[: keys.index(ENVIRONMENT_STATE)]
        self.pose_at = sum(embodiment.observation[key].size for key in before)

    def features(self, actions: Tensor) -> Tensor:
        """[n, A] in the body's units -> [n, F]"""
        actions = actions.double()
        shares = (2 * actions - self.low - self.high) / (self.high - self.low)
        turned = actions[:, self.angles]
        return torch.cat([turned.cos(), turned.sin(), shares[:, ~self.angles]], 1)

    def random(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Pushes, any as likely as any other. [count, A]"""
        chance = torch.rand(count, len(self.low), dtype=torch.float64, generator=generator)
        return self.low + chance * (self.high - self.low)

    def predict(self, actions: Tensor) -> Tensor:
        """Mean effects. [n, A] -> [n, 3], cm"""
        return self.process.predict(self.features(actions)).mean

    def next_probes(
        self, count: int, generator: torch.Generator | None, avoided: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The next `count` pushes [count, A] and what they promise [count]; `avoided` [m, A] were asked for already."""
        candidates = self.random(max(self.pool, count), generator)
        score = ACQUISITIONS[self.acquisition]
        if not self.process.fitted or score is None:
            chosen = list(range(count))
        else:
            x = self.features(candidates)
            away = None if avoided is None else self.features(avoided)
            chosen = choose(score(self.process, x), x, count, self.apart, away)
            lucky = torch.rand(count, generator=generator) < self.at_random
            chosen = [row if drawn else best for row, (drawn, best) in enumerate(zip(lucky, chosen, strict=True))]
        probes = candidates[chosen]
        return probes, self._promised(probes, candidates)

    def _promised(self, probes: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        if not self.process.fitted:
            return {}
        x, around = self.features(probes), self.features(candidates[:AROUND])
        return {
            "uncertainty": model_uncertainty(self.process, x).sqrt(),
            "expected_gain": self.process.gains(x, around),
        }

    @torch.inference_mode()
    def act(
        self, perceived: Tensor, memories: Sequence[dict[str, Any]], generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One push for each station [n, A], and per station [n], in cm: `uncertainty`, what the model does not know of
        it (the root of U_model), and `expected_gain`, how much less it will not know of all pushes after it.

        A station keeps in its memory what it was asked to do since points were last learned from: another one for it
        keeps away from those, as those of one call keep away from each other.
        """
        learned, asked = len(self.process), list[Tensor]()
        for memory in memories:
            if memory.get("learned") != learned:
                memory.clear()
                memory |= {"learned": learned, "asked": []}
            asked += [torch.tensor(push, dtype=torch.float64) for push in memory["asked"]]
        avoided = torch.stack(asked) if asked else None
        probes, promised = self.next_probes(len(perceived), generator, avoided)
        for memory, push in zip(memories, probes.tolist(), strict=True):
            memory["asked"].append(push)
        return probes.float(), {name: told.float() for name, told in promised.items()}


def missing_of(embodiment: Embodiment) -> str:
    """Why effects of pushes can't be learned of this body, in words; empty where they can."""
    if embodiment.object_features[: len(POSE)] != POSE or len(embodiment.objects) != 1:
        return f"its observation must track one object's {', '.join(POSE)}"
    if not {"rad", "m"} <= set(_units(embodiment.action)):
        return "an action must be a whole push, told by an angle in rad and by ways in m"
    return ""


def _units(feature: Feature) -> tuple[str, ...]:
    return feature.units or ("",) * feature.size


def effects(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What pushes did, as the thing itself would tell it: of poses [n, 4] (m, m, cos, sin) -> [n, 3], cm"""
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    x, y = (after[:, :2] - before[:, :2]).T
    cos, sin = before[:, 2:4].T
    turn = np.arctan2(after[:, 3] * cos - after[:, 2] * sin, after[:, 2] * cos + after[:, 3] * sin)
    return np.stack([100 * (cos * x + sin * y), 100 * (cos * y - sin * x), LEVER_CM * turn], 1)

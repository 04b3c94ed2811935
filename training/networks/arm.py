"""What a policy for an arm above tracked objects is told: the object that is meant, and where it shall go, as the
hand sees them.

The words choose the object and the place (words.py); what follows is alike for each of them, so what was learned of one
holds for all. An arm stands on one side of its table and reaches only so far, so that nothing is turned or mirrored,
and where the hand is counts as well.
"""

import torch
from torch import Tensor

from robots.embodiments import Embodiment
from training.networks.state import Scaled, Sideless
from training.networks.table import nearest

HAND = ("ee_x", "ee_y", "ee_z")  # what a body's proprioception calls its hand, in metres
PLACE = ("x", "y", "z")  # what is tracked of each object, at least
TURNS = (1, 2, 4)  # an object may look the same after a whole, a half or a quarter turn


def fits(embodiment: Embodiment) -> bool:
    """Whether its hand and its objects are told in three dimensions."""
    return set(HAND) <= set(embodiment.state_names) and set(PLACE) <= set(embodiment.object_features)


def from_hand(way: Tensor) -> Tensor:
    """A way in metres: itself, how far it is along the table, and how near. [n, 3] -> [n, 8]"""
    distance = way[:, :2].norm(dim=-1, keepdim=True)
    height = way[:, 2:]
    near = [(-distance / reach).exp() for reach in (0.01, 0.03, 0.1)] + [(-height.abs() / 0.02).exp()]
    return torch.cat([way * 10, distance * 10, *near], -1)


class ArmFeatures(Sideless):
    """Ways between hand, source and target, the source's turn against the hand's, what else is near, and the body's own
    numbers.
    """

    def __init__(self, embodiment: Embodiment):
        super().__init__()
        self.count, self.own = len(embodiment.objects), len(embodiment.state_names)
        self.hand = [embodiment.state_names.index(name) for name in HAND]
        features = embodiment.object_features
        self.place = [features.index(name) for name in PLACE]
        self.angle = [features.index(name) for name in ("cos", "sin") if name in features]
        self.yaw = embodiment.state_names.index("ee_yaw") if "ee_yaw" in embodiment.state_names else None
        self.scaled = Scaled(self.own)
        self.turned = len(self.angle) == 2 and self.yaw is not None
        self.size = self.own + 3 * 8 + 3 + 8 + 1 + (2 * len(TURNS) if self.turned else 0)

    def scale_as(self, perceived: Tensor) -> None:
        """As in these [F, P]."""
        self.scaled.scale_as(perceived[:, : self.own])

    def relations(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """[n, P], [n, 2 K + 3] -> [n, size]"""
        own = perceived[:, : self.own]
        objects = perceived[:, self.own :].unflatten(1, (self.count, -1))  # [n, K, features]
        source_weights, target_weights = goal[:, : self.count], goal[:, self.count : 2 * self.count]
        place_weight, place = goal[:, 2 * self.count, None], goal[:, 2 * self.count + 1 :]
        source = (source_weights[:, None] @ objects)[:, 0]
        start, hand = source[:, self.place], own[:, self.hand]
        target = (target_weights[:, None] @ objects)[:, 0][:, self.place[:2]] + place_weight * place  # [n, 2]
        level = torch.zeros_like(hand[:, 2:])
        way, whole = torch.cat([target - start[:, :2], level], 1), torch.cat([target - hand[:, :2], level], 1)
        others = (1 - source_weights).clamp(min=0) * (objects[..., self.place].abs().sum(-1) > 0)
        beside = nearest(start[:, None, :2], objects[..., self.place[:2]], others)[:, 0]
        parts = [
            self.scaled(own),
            *(from_hand(each) for each in (start - hand, way, whole)),
            hand * torch.tensor([5.0, 5.0, 20.0]),
            from_hand(torch.cat([beside, level], 1)),
            start[:, 2:] * 20,
        ]
        if self.turned:
            cos, sin = source[:, self.angle[0]], source[:, self.angle[1]]
            for times in TURNS:
                angle = times * own[:, self.yaw]
                parts.append(
                    torch.stack([cos * angle.cos() + sin * angle.sin(), sin * angle.cos() - cos * angle.sin()], 1)
                )
        return torch.cat(parts, 1)

"""What a policy for an arm above tracked objects is told: the object that is meant, and where it shall go, as the
hand sees them.

The words choose the object and the place (words.py); what follows is alike for each of them, so what was learned of one
holds for all. An arm reaches only so far, so that where the hand is counts as well. Where its body names the axis that
it stands on, scenes may be turned about that, with the actions in them: a demonstration stands for all its turned
copies. Not wider than by MOST_TURN, since the hand has ends at the sides.
"""

import torch
from torch import Tensor

from robots.embodiments import HAND, Embodiment
from training.networks.state import Scaled, Sideless
from training.networks.table import nearest

PLACE = ("x", "y", "z")  # what is tracked of each object, at least
SCALES = (0.006, 0.02, 0.06, 0.2)  # metres
MOST_TURN = 0.6  # radians, to either side
MOVES = ("delta_x", "delta_y")  # what an action's numbers are called by which the hand moves on the table, in metres
TURNS = (1, 2, 4)  # an object may look the same after a whole, a half or a quarter turn


def fits(embodiment: Embodiment) -> bool:
    """Whether its hand and its objects are told in three dimensions."""
    return set(HAND) <= set(embodiment.state_names) and set(PLACE) <= set(embodiment.object_features)


def at_scales(way: Tensor) -> Tensor:
    """A way in metres, each axis as far as it matters at several scales. [n, axes] -> [n, 4 axes]"""
    return torch.cat([(way / scale).tanh() for scale in SCALES], -1)


def rotated(vectors: Tensor, angle: Tensor) -> Tensor:
    """Counterclockwise. [n, 2] or [n, m, 2], radians [n]"""
    cos, sin = angle.cos(), angle.sin()
    if vectors.dim() == 3:
        cos, sin = cos[:, None], sin[:, None]
    x, y = vectors.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1)


class ArmFeatures(Sideless):
    """Ways between hand, source and target, the source's turn against the hand's, what else is near, and where those of
    the body's own numbers are that an action tells where to go, such as the gripper's.

    Not its joints: they say no more than the hand's place, and a network that sees them learns demonstrations by heart.
    """

    def __init__(self, embodiment: Embodiment):
        super().__init__()
        names, features = embodiment.state_names, embodiment.object_features
        self.count, self.all_own = len(embodiment.objects), len(names)
        self.hand = [names.index(name) for name in HAND]
        self.own = sorted({names.index(each.sensed_by) for each in embodiment.motions if each.sensed_by})
        self.place = [features.index(name) for name in PLACE]
        self.angle = [features.index(name) for name in ("cos", "sin") if name in features]
        self.yaw = names.index("ee_yaw") if "ee_yaw" in names and len(self.angle) == 2 else None
        known = set(MOVES) <= set(embodiment.action_names)
        self.axis = embodiment.axis if known and self.yaw is not None else None
        self.moves = [embodiment.action_names.index(name) for name in MOVES] if known else []
        self.ranges = [embodiment.action_range[at] for at in self.moves]
        self.scaled = Scaled(len(self.own))
        ways = 3 + 2 + 2 + 3 + 1 + 2  # axes of all that is told at several scales, below
        self.size = len(self.own) + len(SCALES) * ways + (0 if self.yaw is None else 2 * len(TURNS) + 1)

    def scale_as(self, perceived: Tensor) -> None:
        """As in these [F, P]."""
        self.scaled.scale_as(perceived[:, self.own])

    def random_turns(self, n: int, generator: torch.Generator) -> Tensor | None:
        """Angles by which scenes may be turned, in radians; None where the body names no axis. [n]"""
        return None if self.axis is None else (2 * torch.rand(n, generator=generator) - 1) * MOST_TURN

    def turn(self, perceived: Tensor, goal: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Scenes and goals, turned about the axis. [n, P], [n, 2 K + 3], [n] -> [n, P], [n, 2 K + 3]"""
        assert self.axis is not None
        middle = perceived.new_tensor([self.axis.x, self.axis.y])
        own, objects = perceived[:, : self.all_own].clone(), perceived[:, self.all_own :].unflatten(1, (self.count, -1))
        own[:, self.hand[:2]] = rotated(own[:, self.hand[:2]] - middle, angle) + middle
        own[:, self.yaw] += angle
        there = (objects[..., self.place].abs().sum(-1) > 0)[..., None]
        turned = objects.clone()
        turned[..., self.place[:2]] = rotated(objects[..., self.place[:2]] - middle, angle) + middle
        turned[..., self.angle] = rotated(objects[..., self.angle], self.axis.fold * angle)
        place_weight, place = goal[:, 2 * self.count, None], goal[:, 2 * self.count + 1 :]
        place = place_weight * (rotated(place - middle, angle) + middle) + (1 - place_weight) * place
        seen = torch.cat([own, torch.where(there, turned, objects).flatten(1)], 1)
        return seen, torch.cat([goal[:, : 2 * self.count + 1], place], 1)

    def turn_actions(self, actions: Tensor, angle: Tensor) -> Tensor:
        """As far as the body can move. [n, m, A], [n] -> [n, m, A]"""
        turned = actions.clone()
        low, high = actions.new_tensor(self.ranges).T
        turned[..., self.moves] = rotated(actions[..., self.moves], angle).clamp(low, high)
        return turned

    def meant(self, perceived: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each object what is tracked [n, K, features], the same of the one that is meant [n, features], and where
        it shall go, in metres [n, 2]. [n, P], [n, 2 K + 3]
        """
        objects = perceived[:, self.all_own :].unflatten(1, (self.count, -1))
        source_weights, target_weights = goal[:, : self.count], goal[:, self.count : 2 * self.count]
        place_weight, place = goal[:, 2 * self.count, None], goal[:, 2 * self.count + 1 :]
        target = (target_weights[:, None] @ objects)[:, 0][:, self.place[:2]] + place_weight * place
        return objects, (source_weights[:, None] @ objects)[:, 0], target

    def off(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """How far what is meant lies from where it shall go, in metres. [n, P], [n, 2 K + 3] -> [n]"""
        _, source, target = self.meant(perceived, goal)
        return (source[:, self.place[:2]] - target).norm(dim=1)

    def left_behind(self, perceived: Tensor, earlier: Tensor, begun: Tensor, goal: Tensor) -> Tensor:
        """The scenes as they would be if the object that is meant lay where it was earlier, as high as when it was
        begun. [n, P] three times, [n, 2 K + 3] -> [n, P]
        """
        objects = perceived[:, self.all_own :].unflatten(1, (self.count, -1))
        was = earlier[:, self.all_own :].unflatten(1, (self.count, -1)).clone()
        was[..., self.place[2]] = begun[:, self.all_own :].unflatten(1, (self.count, -1))[..., self.place[2]]
        moved = objects + goal[:, : self.count, None] * (was - objects)
        return torch.cat([perceived[:, : self.all_own], moved.flatten(1)], 1)

    def let_go_elsewhere(self, perceived: Tensor, begun: Tensor, goal: Tensor, way: Tensor) -> Tensor:
        """The scenes as they would be if the hand and the object that is meant were farther by `way`, in metres, with
        the object as high as when it was begun. [n, P] twice, [n, 2 K + 3], [n, 2] -> [n, P]
        """
        own = perceived[:, : self.all_own].clone()
        own[:, self.hand[:2]] += way
        objects = perceived[:, self.all_own :].unflatten(1, (self.count, -1)).clone()
        first = begun[:, self.all_own :].unflatten(1, (self.count, -1))
        meant = goal[:, : self.count]  # weights
        objects[..., self.place[:2]] += meant[..., None] * way[:, None]
        objects[..., self.place[2]] += meant * (first[..., self.place[2]] - objects[..., self.place[2]])
        return torch.cat([own, objects.flatten(1)], 1)

    def relations(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """[n, P], [n, 2 K + 3] -> [n, size]"""
        own = perceived[:, : self.all_own]
        objects, source, target = self.meant(perceived, goal)
        source_weights = goal[:, : self.count]
        start, hand = source[:, self.place], own[:, self.hand]
        others = (1 - source_weights).clamp(min=0) * (objects[..., self.place].abs().sum(-1) > 0)
        beside = nearest(start[:, None, :2], objects[..., self.place[:2]], others)[:, 0]
        ways = [start - hand, target - start[:, :2], target - hand[:, :2], hand, start[:, 2:], beside]
        parts = [self.scaled(own[:, self.own]), at_scales(torch.cat(ways, 1))]
        if self.yaw is not None:
            cos, sin = source[:, self.angle[0]], source[:, self.angle[1]]
            for times in TURNS:
                angle = times * own[:, self.yaw]
                c, s = angle.cos(), angle.sin()
                parts.append(torch.stack([cos * c + sin * s, sin * c - cos * s], 1))
            parts.append(own[:, self.yaw, None])
        return torch.cat(parts, 1)

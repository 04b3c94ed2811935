"""What a policy for a table is told: blocks, places and edges as the end effector sees them, from any side.

A table looks alike from every side, so what is seen can be turned and mirrored; SYMMETRIES are those of all turns that
map its action tokens on each other.
"""

import torch
from torch import Tensor, nn

from robots.embodiments import Embodiment
from robots.worlds.language_table import STATE_NAMES, TABLE_SIZE


def polar(vector: Tensor) -> Tensor:
    """A vector in metres as coordinates, distance, direction and nearness. [n, 2] -> [n, 7]"""
    distance = vector.norm(dim=-1, keepdim=True)
    nearness = [(-distance / reach).exp() for reach in (0.03, 0.1)]
    return torch.cat([vector * 10, distance * 10, vector / (distance + 1e-3), *nearness], -1)


def turn(a: Tensor, b: Tensor) -> Tensor:
    """Cosine and sine of the angle from one vector to another. [n, 2], [n, 2] -> [n, 2]"""
    lengths = a.norm(dim=-1) * b.norm(dim=-1) + 1e-6
    return torch.stack([(a * b).sum(-1), a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]], -1) / lengths[:, None]


def nearest(points: Tensor, objects: Tensor, counts: Tensor) -> Tensor:
    """The way to the nearest of some objects, softly. [n, P, 2], [n, K, 2], [n, K] 0 to 1 -> [n, P, 2]"""
    ways = objects[:, None] - points[:, :, None]  # [n, P, K, 2]
    # An object that doesn't count is nearest only where none counts.
    closeness = (-ways.norm(dim=-1) / 0.01 + (counts[:, None] + 1e-30).log()).softmax(-1)
    return (closeness[:, :, None] @ ways)[:, :, 0]


def to_edges(points: Tensor) -> Tensor:
    """The ways to the nearer of the left and right, and of the top and bottom edge. [n, 2] -> [n, 2, 2]"""
    half = points.new_tensor(TABLE_SIZE) / 2
    return torch.diag_embed(torch.where(points < 0, -half, half) - points)


def felt(ways: Tensor) -> Tensor:
    """Ways by direction, weighted by nearness at two reaches, so that what is far away is not felt. [n, W, 2] ->
    [n, 4 W]
    """
    distance = ways.norm(dim=-1, keepdim=True)
    return torch.cat([ways / (distance + 1e-3) * (-distance / reach).exp() for reach in (0.02, 0.06)], -1).flatten(1)


class TableFeatures(nn.Module):
    """The softly selected source and target in distances and bearings, as the end effector sees them; and what else is
    near: other blocks and the table's edges.

    Only what lies between them: no absolute position, and no velocity. A network that saw the hand's velocity read
    a demonstrator's habits off it, so that d fell for being fast instead of for being near; practice made the most of
    that.
    """

    def __init__(self, embodiment: Embodiment):
        super().__init__()
        self.count, self.body = len(embodiment.objects), len(STATE_NAMES)
        self.size = 3 * 7 + 2 + 5 * 4 + 3

    def forward(self, perceived: Tensor, goal: Tensor, frame: Tensor | None) -> Tensor:
        """`frame` [n, 2, 2], if given, turns or mirrors what is seen. [n, P], [n, goal size] -> [n, size]"""
        return self.seen_from(frame, self.relations(perceived, goal))

    def relations(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """What lies between things, before a frame turns it: eight ways in metres, and whether source and target lie on
        the table and a place is meant. The costly half, alike for every frame. [n, P], [n, goal size] -> [n, 19]
        """
        ee = perceived[:, :2]
        objects = perceived[:, self.body :].unflatten(1, (self.count, -1))  # [n, K, (x, y, cos, sin, on_table)]
        source_weights, target_weights = goal[:, : self.count], goal[:, self.count : 2 * self.count]
        place_weight, place = goal[:, 2 * self.count, None], goal[:, 2 * self.count + 1 :]
        source = (source_weights[:, None] @ objects)[:, 0]  # [n, 5]
        target_object = (target_weights[:, None] @ objects)[:, 0]
        start, end = source[:, :2], target_object[:, :2] + place_weight * place
        ways = torch.stack([start - ee, end - start, end - ee], 1)  # [n, 3, 2]
        # In the way may be a block beside the hand, beside the source, or just before the source.
        ahead = start + 0.05 * ways[:, 1] / (ways[:, 1].norm(dim=-1, keepdim=True) + 1e-3)
        others = objects[..., 4] * (1 - source_weights - target_weights).clamp(min=0)
        obstacles = nearest(torch.stack([ee, start, ahead], 1), objects[..., :2], others)
        ways = torch.cat([ways, obstacles, to_edges(start)], 1)  # [n, 8, 2]
        return torch.cat([ways.flatten(1), source[:, 4:], target_object[:, 4:], place_weight], 1)

    def seen_from(self, frame: Tensor | None, relations: Tensor) -> Tensor:
        """[n, 2, 2], [n, 19] -> [n, size]"""
        ways, flags = relations.split([16, 3], 1)
        ways = ways.unflatten(1, (8, 2))
        if frame is not None:
            ways = ways @ frame.transpose(1, 2)
        reach, way, whole = ways[:, :3].unbind(1)
        return torch.cat(
            [
                *(polar(reach), polar(way), polar(whole)),
                # Whether the end effector stands behind the block, as seen from where the block shall go.
                turn(reach, way),
                felt(ways[:, 3:]),
                flags,
            ],
            1,
        )


def random_frames(n: int, generator: torch.Generator) -> Tensor:
    """Rotations by any angle, half of them mirrored. [n, 2, 2]"""
    angle = 2 * torch.pi * torch.rand(n, generator=generator)
    mirror = torch.randint(2, (n,), generator=generator) * 2.0 - 1
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin * mirror], 1), torch.stack([sin, cos * mirror], 1)], 1)


# Quarter turns and their mirror images: of all rotations those that map a table's action tokens on each other.
# [8, 2, 2]
SYMMETRIES = torch.tensor(
    [
        [[cos, -sin * mirror], [sin, cos * mirror]]
        for mirror in (1.0, -1.0)
        for cos, sin in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))
    ]
)


def turned(frame: Tensor, vectors: Tensor) -> Tensor:
    """[n, 2, 2], [n, m, 2] -> [n, m, 2]"""
    return vectors @ frame.transpose(1, 2)

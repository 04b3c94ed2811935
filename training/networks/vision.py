"""A small vision encoder of our own, for bodies that see by their own cameras and are told nothing of objects.

Each camera's picture becomes keypoints: a few convolutions, then where in the picture each of their channels answers
most (spatial softmax: Finn et al., arXiv 1509.06113, equation 2), and how strongly. The words choose among them. It
learns with the policy in stage 1, from pictures that are shifted a little at random (Yarats et al., arXiv 2004.13649),
and is frozen after that: practice judges and acts by what it sees.

A pretrained vision encoder (backbones.py) may stand in its place: its map of features, of which keypoints are made in
the same way.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robots.embodiments import IMAGES, Embodiment
from training import computing
from training.networks.backbones import PictureEncoder, Pretrained
from training.networks.state import Scaled, Sideless

CHANNELS = 32  # keypoints of each camera
TOLD = 3  # numbers of each: x and y from -1 to 1, and how strongly
SLOTS = 4  # keypoints of each camera that the words choose
SHIFT = 4  # pixels, at most, to each side
PART_OF_A_CELL = 0.5  # by which maps are shifted, at most, to each side


class CameraEncoder(nn.Module):
    """Pictures of one camera, uint8 [n, H, W, 3] -> its keypoints [n, CHANNELS * TOLD]"""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 16, 8, stride=4, padding=2), nn.GroupNorm(4, 16), nn.GELU()),
            *(nn.Conv2d(16, CHANNELS, 3, padding=1), nn.GroupNorm(4, CHANNELS), nn.GELU()),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        )
        self.computing = computing.now()

    def forward(self, pictures: Tensor, shift: Tensor | None = None) -> Tensor:
        """With a shift [2, n, 1] the pictures are moved by it."""
        seen = pictures.permute(0, 3, 1, 2).float() / 255 - 0.5
        seen = seen if shift is None else shifted(seen, shift)
        with self.computing.layers():
            answers = self.layers(seen)
        return keypoints(answers.float())


def keypoints(answers: Tensor) -> Tensor:
    """Where each channel answers most, and how strongly. [n, C, h, w] -> [n, C * TOLD]"""
    height, width = answers.shape[2:]
    x, y = (torch.linspace(-1, 1, cells, device=answers.device) for cells in (width, height))
    share = answers.flatten(2).softmax(-1).unflatten(2, (height, width))
    where = torch.stack([(share.sum(2) * x).sum(-1), (share.sum(3) * y).sum(-1)], -1)  # [n, C, 2]
    return torch.cat([where, answers.amax((2, 3)).tanh()[..., None]], -1).flatten(1)


def random_shifts(n: int, generator: torch.Generator) -> Tensor:
    """Of n pictures, down and to the right, in pixels; SHIFT stands for none. [2, n, 1]"""
    return torch.randint(2 * SHIFT + 1, (2, n, 1), generator=generator)


def shifted(pictures: Tensor, shift: Tensor) -> Tensor:
    """Each by its own; the edge goes on. [n, 3, H, W], [2, n, 1] -> [n, 3, H, W]"""
    n, _, height, width = pictures.shape
    padded = F.pad(pictures, (SHIFT,) * 4, mode="replicate")
    down, right = shift
    each, rows, columns = (torch.arange(size, device=pictures.device) for size in (n, height, width))
    rows, columns = down + rows, right + columns
    return padded[each[:, None, None], :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


class VisionEncoder(nn.Module):
    """Vectors as they are, then each camera's keypoints. Observations by key -> [n, P]"""

    def __init__(self, embodiment: Embodiment):
        super().__init__()
        self.keys = [key for key, feature in embodiment.observation.items() if feature.is_picture]
        self.vectors = [key for key, feature in embodiment.observation.items() if not feature.is_picture]
        self.cameras = nn.ModuleDict({_module_name(i, key): CameraEncoder() for i, key in enumerate(self.keys)})

    def forward(self, observations: Mapping[str, Tensor], shifts: Sequence[Tensor] | None = None) -> Tensor:
        """With shifts, one for each camera, the pictures are moved by them."""
        vectors = [observations[key] for key in self.vectors]
        each: Sequence[Tensor | None] = shifts or [None] * len(self.keys)
        seen = zip(self.cameras.values(), self.keys, each, strict=True)
        return torch.cat([*vectors, *(camera(observations[key], shift) for camera, key, shift in seen)], 1)


def _module_name(number: int, key: str) -> str:
    """A camera may be called anything; a part of a network may not."""
    return f"{number}-" + "".join(letter if letter.isalnum() else "_" for letter in key.removeprefix(IMAGES))


class VisionFeatures(Sideless):
    """Vectors, scaled; all keypoints; and the few that the words choose, alike for whatever they name."""

    def __init__(self, vectors: Sequence[int], cameras: int, goal_size: int):
        super().__init__()
        self.own, self.cameras = sum(vectors), cameras
        self.scaled = Scaled(self.own)
        self.chosen = nn.Linear(goal_size, cameras * SLOTS * CHANNELS)
        self.size = self.own + cameras * (CHANNELS + SLOTS) * TOLD + goal_size

    def scale_as(self, perceived: Tensor) -> None:
        """As in these [F, P]."""
        self.scaled.scale_as(perceived[:, : self.own])

    def relations(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """[n, P], [n, goal size] -> [n, size]"""
        own, seen = perceived[:, : self.own], perceived[:, self.own :]
        keypoints = seen.unflatten(1, (self.cameras, CHANNELS, TOLD))
        weights = self.chosen(goal).unflatten(1, (self.cameras, SLOTS, CHANNELS)).softmax(-1)
        return torch.cat([self.scaled(own), seen, (weights @ keypoints).flatten(1), goal], 1)


class PretrainedVision(nn.Module):
    """Vectors as they are, then a pretrained encoder's map of each camera's picture. Observations by key -> [n, P]"""

    def __init__(self, embodiment: Embodiment, pretrained: Pretrained):
        super().__init__()
        self.keys = [key for key, feature in embodiment.observation.items() if feature.is_picture]
        self.vectors = [key for key, feature in embodiment.observation.items() if not feature.is_picture]
        height, width, _ = embodiment.observation[self.keys[0]].shape
        self.encoder = PictureEncoder(pretrained, height, width)

    def forward(self, observations: Mapping[str, Tensor], shifts: Sequence[Tensor] | None = None) -> Tensor:
        """With shifts, one for each camera, the pictures are moved by them."""
        seen = [observations[key] for key in self.keys]
        if shifts is not None:
            pairs = zip(seen, shifts, strict=True)
            seen = [shifted(each.permute(0, 3, 1, 2), shift).permute(0, 2, 3, 1) for each, shift in pairs]
        maps = [self.encoder(each).flatten(1) for each in seen]
        return torch.cat([*(observations[key] for key in self.vectors), *maps], 1)


class PretrainedVisionFeatures(VisionFeatures):
    """VisionFeatures, of keypoints that are made of a pretrained encoder's maps."""

    def __init__(self, vectors: Sequence[int], cameras: int, goal_size: int, encoder: PictureEncoder):
        super().__init__(vectors, cameras, goal_size)
        self.shape = (encoder.channels, *encoder.cells)
        self.heads = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(encoder.channels, 64, 1), nn.GroupNorm(8, 64), nn.GELU()),
                nn.Conv2d(64, CHANNELS, 3, padding=1),
            )
            for _ in range(cameras)
        )
        self.computing = computing.now()

    def moved(self, perceived: Tensor, generator: torch.Generator) -> Tensor:
        """Each camera's map as if its picture were shifted by a part of a cell, each by its own: a map moves with its
        picture. [n, P] -> the same
        """
        own, maps = perceived[:, : self.own], perceived[:, self.own :].unflatten(1, (self.cameras, *self.shape))
        maps = maps.flatten(0, 1)
        height, width = self.shape[1:]
        way = (2 * torch.rand(len(maps), 1, 1, 2, generator=generator) - 1) * PART_OF_A_CELL
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        places = (torch.stack([x, y], -1) + way) * 2 / torch.tensor([width, height]) - 1  # as grid_sample has them
        places = computing.onto(maps.device, places)
        maps = F.grid_sample(maps, places, padding_mode="border", align_corners=False)
        return torch.cat([own, maps.flatten(1).unflatten(0, (-1, self.cameras)).flatten(1)], 1)

    def relations(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """[n, P], [n, goal size] -> [n, size]"""
        own, maps = perceived[:, : self.own], perceived[:, self.own :].unflatten(1, (self.cameras, *self.shape))
        with self.computing.layers():
            answers = [head(maps[:, number]) for number, head in enumerate(self.heads)]
        seen = [keypoints(each.float()) for each in answers]
        return super().relations(torch.cat([own, *seen], 1), goal)

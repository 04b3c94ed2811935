"""A pretrained vision-language model in the place of perception, words and features at once.

As the paper puts both objectives on one: the pictures and the instruction are one sequence, and what the model makes of
its end is what the heads read, beside the body's own numbers. The pictures' tokens are perceived once for each frame as
long as what sees them stays as it is; so is the whole sequence as long as all of the model does.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robots.embodiments import Embodiment
from training.networks.backbones import PicturesAndWords
from training.networks.state import Scaled, Sideless

LONGEST_INSTRUCTION = 48  # tokens


class Pictures(nn.Module):
    """Vectors as they are, then the tokens of each camera's picture. Observations by key -> [n, P]"""

    def __init__(self, embodiment: Embodiment, model: PicturesAndWords):
        super().__init__()
        self.keys = [key for key, feature in embodiment.observation.items() if feature.is_picture]
        self.vectors = [key for key, feature in embodiment.observation.items() if not feature.is_picture]
        self._model = [model]  # a part of the features, and of one module only

    @property
    def learns(self) -> bool:
        """Whether what sees the pictures is trained."""
        return self._model[0].sees_anew

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """[n, P]"""
        seen = [self._model[0].look(observations[key]).flatten(1) for key in self.keys]
        return torch.cat([*(observations[key] for key in self.vectors), *seen], 1)


class Prompt(nn.Module):
    """The instruction as the model's token numbers. goal [n, LONGEST_INSTRUCTION], -1 behind the end"""

    size = LONGEST_INSTRUCTION

    def __init__(self, model: PicturesAndWords):
        super().__init__()
        self._model = [model]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[n] sentences -> token numbers [n, size]"""
        tokens = self._model[0].tokens(texts)[:, : self.size]
        return nn.functional.pad(tokens, (0, self.size - tokens.shape[1]), value=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """The same, as numbers that stand beside others. [n, size]"""
        return tokens.float()


class JointFeatures(Sideless):
    """Vectors, scaled, and what the model makes of pictures and instruction."""

    def __init__(self, vectors: Sequence[int], cameras: int, model: PicturesAndWords):
        super().__init__()
        self.own, self.shape = sum(vectors), (cameras * model.tokens_a_picture, model.width)
        self.model = model
        self.scaled = Scaled(self.own)
        self.norm = nn.LayerNorm(model.width)
        self.size = self.own + model.width

    def scale_as(self, perceived: Tensor) -> None:
        """As in these [F, P]."""
        self.scaled.scale_as(perceived[:, : self.own])

    def read(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """What the model makes of the sequence: all that is costly. [n, P], [n, LONGEST_INSTRUCTION] -> [n, width]"""
        tokens = goal.long()
        tokens = tokens[:, : int((tokens >= 0).sum(1).max())]
        return self.model(perceived[:, self.own :].unflatten(1, self.shape), tokens)

    def beside(self, perceived: Tensor, read: Tensor) -> Tensor:
        """What was read, beside the body's own numbers. [n, P], [n, width] -> [n, size]"""
        return torch.cat([self.scaled(perceived[:, : self.own]), self.norm(read)], 1)

    def relations(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """[n, P], [n, LONGEST_INSTRUCTION] -> [n, size]"""
        return self.beside(perceived, self.read(perceived, goal))

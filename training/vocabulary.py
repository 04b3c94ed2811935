"""The words that a checkpoint knows, by number: what turns a sentence into something that a network can read."""

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from robots.embodiments import Embodiment

PADDING, UNKNOWN = 0, 1


class Vocabulary:
    """The words of the demonstrations and of the objects' names. A word that isn't in it is read as "unknown"."""

    def __init__(self, words: Iterable[str]):
        self.words = sorted(set(words))
        self._index = {word: index + 2 for index, word in enumerate(self.words)}

    @staticmethod
    def split(text: str) -> list[str]:
        """The words of a sentence, in small letters."""
        return re.findall(r"[a-z0-9]+", text.lower())

    @classmethod
    def of(cls, texts: Iterable[str], embodiment: Embodiment) -> "Vocabulary":
        """Of the words of these sentences, and of the body's objects."""
        names = [word for kind in embodiment.objects for word in (kind.colour, kind.shape)]
        return cls([word for text in [*texts, *names] for word in cls.split(text)])

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[n] sentences -> [n, length] word numbers, padded at the end."""
        rows = [[self._index.get(word, UNKNOWN) for word in self.split(text)] or [UNKNOWN] for text in texts]
        length = max(map(len, rows))
        return torch.tensor([row + [PADDING] * (length - len(row)) for row in rows])

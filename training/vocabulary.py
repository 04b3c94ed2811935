"""The words that a checkpoint knows, by number: what turns a sentence into something that a network can read."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from robots.embodiments import Embodiment

PADDING, UNKNOWN = 0, 1

# Of scripts that write no spaces between words: Thai to Burmese, Khmer, kana, and what Chinese is written with.
UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\U00020000-\U0003ffff]"
)


class Vocabulary:
    """The words of the demonstrations and of the objects' names. A word that isn't in it is read as "unknown".

    One of a to z and digits alone reads nothing else in a sentence: so were all before other letters were read, and
    their checkpoints answer as they did.
    """

    def __init__(self, words: Iterable[str]):
        self.words = sorted(set(words))
        self._index = {word: index + 2 for index, word in enumerate(self.words)}
        self._split = _split_plain if all(map(str.isascii, self.words)) else self.split

    @staticmethod
    def split(text: str) -> list[str]:
        """The words of a sentence in any script, in small letters: however its letters are put together in bytes, they
        are the same word. Where no spaces are written each letter is one, and each emoji is.
        """
        words: list[str] = []
        before = ""  # what the last character was: part of a word that goes on, a whole one, or ""
        for character in _folded(text):
            if unicodedata.category(character).startswith("M"):  # an accent or a vowel's sign: of the letter before it
                if before:
                    words[-1] += character
            elif character.isalnum() and not UNSPACED.match(character):
                if before == "part":
                    words[-1] += character
                else:
                    words.append(character)
                before = "part"
            elif character.isalnum():
                words.append(character)
                before = "whole"
            else:
                if unicodedata.category(character) == "So":
                    words.append(character)
                before = ""
        return words

    @classmethod
    def of(cls, texts: Iterable[str], embodiment: Embodiment) -> "Vocabulary":
        """Of the words of these sentences, and of the body's objects."""
        names = [word for kind in embodiment.objects for word in (kind.colour, kind.shape)]
        return cls([word for text in [*texts, *names] for word in cls.split(text)])

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[n] sentences -> [n, length] word numbers, padded at the end."""
        rows = [[self._index.get(word, UNKNOWN) for word in self._split(text)] or [UNKNOWN] for text in texts]
        length = max(map(len, rows))
        return torch.tensor([row + [PADDING] * (length - len(row)) for row in rows])


def _split_plain(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _folded(text: str) -> str:
    """Small letters, each written in one way."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())

"""Words to a goal: which object is meant and where it shall go, or a plain code of the sentence.

On a table of objects the words must find the objects, and imitation alone never teaches them to: the signal of a single
step is too weak. So Grounding is trained first and alone, with labels read off the demonstrations in hindsight (which
object moved most, and near what it came to rest), then frozen, and decided: from then on a sentence means one object,
never a mixture of two. A body without tracked objects gets a plain code of the sentence instead.

Each of the two has a pretrained relative, which reads words by a text encoder (backbones.py) in place of embeddings
that are learned from the demonstrations alone: so words that none of them holds mean something too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robots.embodiments import Embodiment
from training.networks.backbones import TextEncoder
from training.vocabulary import PADDING, UNKNOWN, Vocabulary

# Metres by which the moved block may rest from what it was pushed to: about two touching blocks, or a place's radius.
REST_DISTANCE = 0.04


class Sentence(nn.Module):
    """Word numbers -> an embedding of each word alone and one of each word in its context."""

    def __init__(self, words: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=PADDING)
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[n, length] -> [n, length, width], [n, length, 2 width], mask [n, length]"""
        mask = words != PADDING
        alone = self.embedding(words)
        packed = nn.utils.rnn.pack_padded_sequence(alone, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        context, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=words.shape[1]
        )
        return alone, context, mask


class Grounding(nn.Module):
    """Words -> which object is meant to move (source), and to which object or place (target).

    Two attention heads over the words, placed by context, gather the embeddings of the words that name the source and
    the target. An object's key is made of the embeddings of its colour word and its shape word, the very ones that the
    sentence is read with, so that an object which was never named as a target in training is found all the same.

    What a few dozen sentences teach is where in a sentence the source and the target are named; which words name them
    must not be learned by heart. So in training the words of the objects' names are exchanged at random (renamed). With
    50 demonstrations and without it a target was found in .6 to .87 of the sentences, with it in .99.

    goal [n, 2 K + 3] = source weights [K], target weights [K], place weight [1], place x and y in metres [2]
    """

    names: Tensor  # [K, 2] the words of the objects' names

    def __init__(self, vocabulary: Vocabulary, embodiment: Embodiment, width: int = 32):
        super().__init__()
        self.vocabulary = vocabulary
        self.sentence = Sentence(len(vocabulary), width)
        self.attention = nn.Linear(2 * width, 2)
        self.query = nn.Linear(width, width, bias=False)
        self.place = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, 3))
        names = vocabulary.encode([f"{kind.colour} {kind.shape}" for kind in embodiment.objects])
        self.register_buffer("names", names, persistent=False)
        self.size = 2 * len(embodiment.objects) + 3

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[n] sentences -> what forward reads, one row each"""
        return self.vocabulary.encode(texts)

    def among(self, strangers: Tensor, generator: torch.Generator) -> Tensor:
        """In training: sentences in which hidden and unknown words have their final numbers. [n, length], as it is"""
        return strangers

    def forward(self, words: Tensor, names: Tensor | None = None) -> Tensor:
        """[n, length] -> goal [n, 2 K + 3]. `names` [n, K, 2]: what the objects are called in each sentence, if not by
        their own names.
        """
        alone, context, mask = self.sentence(words)
        attention = self.attention(context).masked_fill(~mask[..., None], -torch.inf).softmax(1)  # [n, length, 2]
        gathered = attention.transpose(1, 2) @ alone  # [n, 2, width]
        keys = self.sentence.embedding(self.names if names is None else names).mean(-2)  # [(n,) K, width]
        logits = self.query(gathered) @ keys.transpose(-1, -2)  # [n, 2, K]
        # From the words alone as well, not from their context, which a wording that was never seen changes.
        place = self.place(gathered[:, 1])  # [n, 3] logit, x, y
        target = torch.cat([logits[:, 1], place[:, :1]], 1)
        return torch.cat([logits[:, 0].softmax(1), target.softmax(1), place[:, 1:]], 1)

    def renamed(self, words: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same sentences in worlds where each colour is called by another colour's word, and each shape by another
        shape's, all of them on the processor. [n, length] -> [n, length], and the objects' names there [n, K, 2]
        """
        n, names = len(words), self.names.cpu()
        called = torch.arange(len(self.vocabulary)).repeat(n, 1)
        taken: set[int] = {PADDING, UNKNOWN}
        for column in names.T:
            kind = torch.tensor(sorted(set(column.tolist()) - taken), dtype=torch.int64)  # e.g. the words for colours
            taken |= set(kind.tolist())
            called[:, kind] = kind[torch.rand((n, len(kind)), generator=generator).argsort(1)]
        return called.gather(1, words), called[:, names.flatten()].unflatten(1, names.shape)

    def named(self, words: Tensor) -> Tensor:
        """Whether a sentence holds an object's whole name. [n, length] -> bool [n, K]"""
        longest = self.names.shape[1]
        runs = F.pad(words, (0, longest - 1), value=PADDING).unfold(1, longest, 1)  # [n, length, 2]
        return (runs[:, :, None] == self.names.to(words.device)).all(-1).any(1)

    @staticmethod
    def decided(goal: Tensor) -> Tensor:
        """All weight on the likeliest source, and on the likeliest target or the place: a tenth of the weight on a
        second block would move what is aimed at by a tenth of the way to it. [n, 2 K + 3] -> the same
        """
        count = (goal.shape[1] - 3) // 2
        source, target, place = goal.split([count, count + 1, 2], 1)
        sure = [F.one_hot(weights.argmax(1), weights.shape[1]).to(goal) for weights in (source, target)]
        return torch.cat([*sure, place], 1)

    @staticmethod
    def loss(goal: Tensor, moved: Tensor, resting: Tensor, others: Tensor, present: Tensor, named: Tensor) -> Tensor:
        """How badly the goal explains what happened in each episode.

        moved [n] the object that moved most, resting [n, 2] where it ended, others [n, K, 2] where each object ended,
        present [n, K] whether it is still there, named [n, K] whether the sentence holds its name. The end is explained
        by a mixture of normal distributions, one about every other object and one about the place that the words name:
        nobody says which family an instruction belongs to. But where another object is named it is the target, and a
        sentence that names two must not be explained by a place that is learned by heart.
        """
        count = others.shape[1]
        source, target, place = goal[:, :count], goal[:, count : 2 * count + 1], goal[:, 2 * count + 1 :]
        centres = torch.cat([others, place[:, None]], 1)  # [n, K + 1, 2]
        away = (centres - resting[:, None]).norm(dim=-1) / REST_DISTANCE
        # Linear far away, so that an episode which went wrong pulls no harder than one that went right.
        cost = F.huber_loss(away, torch.zeros_like(away), reduction="none", delta=2.0)
        other = present & ~F.one_hot(moved, count).bool()
        meant = other & named
        placeless = meant.any(1, keepdim=True)
        possible = torch.cat([torch.where(placeless, meant, other), ~placeless], 1)
        log_target = (target + 1e-6).log() - cost
        end = -log_target.masked_fill(~possible, -torch.inf).logsumexp(1)
        # The place is pulled a little by every end that it may explain, also where another object does so better by
        # now: left to the mixture alone it can be given up before it is found. (One run in twenty took all places for
        # objects.)
        pull = (cost[:, -1:] * ~placeless).mean()
        return F.nll_loss((source + 1e-6).log(), moved) + end.mean() + 0.1 * pull


class TextCode(nn.Module):
    """Words -> a code of the sentence, for bodies whose observation lists no objects. goal [n, size]"""

    def __init__(self, vocabulary: Vocabulary, size: int = 16):
        super().__init__()
        self.vocabulary = vocabulary
        self.sentence = Sentence(len(vocabulary), size)
        self.project = nn.Linear(2 * size, size)
        self.size = size

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[n] sentences -> what forward reads, one row each"""
        return self.vocabulary.encode(texts)

    def forward(self, words: Tensor) -> Tensor:
        """[n, length] -> goal [n, size]"""
        _, context, mask = self.sentence(words)
        return self.project((context * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


class CodeTable(nn.Module):
    """Sentences whose codes are looked up, whatever words they are made of: what was demonstrated under each of them
    (training/task_embedding.py). goal [n, size]
    """

    codes: Tensor  # [1 + texts, size]; the first, all zeros, is of a sentence under which nothing was demonstrated

    def __init__(self, texts: Sequence[str], size: int):
        super().__init__()
        self.rows = {text: row for row, text in enumerate(texts, 1)}
        self.register_buffer("codes", torch.zeros(1 + len(texts), size))
        self.size = size

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[n] sentences -> rows of the table [n]"""
        return torch.tensor([self.rows.get(text, 0) for text in texts])

    def forward(self, rows: Tensor) -> Tensor:
        """[n] -> goal [n, size]"""
        return self.codes[rows]


# Read by a pretrained text encoder


STRANGERS = 400  # words of the encoder's own vocabulary, among which a sentence is learned


class PretrainedCode(nn.Module):
    """A sentence's vector -> a code of it. goal [n, size]"""

    def __init__(self, encoder: TextEncoder, size: int = 16):
        super().__init__()
        self.encoder, self.size = encoder, size
        self.project = nn.Linear(encoder.width, size)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[n] sentences -> what forward reads: their vectors [n, W], or, of an encoder that learns, token numbers."""
        return self.encoder.tokens(texts) if self.encoder.learns else self.encoder.vectors(texts)

    def forward(self, read: Tensor) -> Tensor:
        """[n, W] vectors or [n, length] token numbers -> goal [n, size]"""
        vectors = read if read.is_floating_point() else self.encoder(read)
        # A vector of length 1 has small numbers.
        return self.project(vectors * self.encoder.width**0.5)


class PretrainedGrounding(Grounding):
    """Grounding in which each word is the vector that a text encoder makes of it alone.

    The words that name the source and the target are found by their place among the others, as there. What they name
    is found by nearness alone, in the encoder's own space: of each of these words to the words of each object's name,
    as in late interaction (arXiv 2004.12832). Nothing of that is learned but how sharp it is, so that a word for a
    colour that no demonstration holds is near the right one all the same.

    So that a sentence's other words don't matter, in training the unknown ones are words of the encoder's vocabulary;
    and in half of the sentences the words of the objects' names are too.
    """

    def __init__(self, vocabulary: Vocabulary, embodiment: Embodiment, encoder: TextEncoder, width: int = 32):
        nn.Module.__init__(self)
        self.vocabulary, self.encoder = vocabulary, encoder
        names = [f"{kind.colour} {kind.shape}" for kind in embodiment.objects]
        self.register_buffer("names", vocabulary.encode(names), persistent=False)
        self.size = 2 * len(embodiment.objects) + 3
        self.into = nn.Linear(encoder.width, width)
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * width, 2)
        self.sharpness = nn.Parameter(torch.tensor(3.0))  # its logarithm
        self.place = nn.Sequential(nn.Linear(encoder.width, 64), nn.GELU(), nn.Linear(64, 3))
        self.unknown = nn.Parameter(torch.randn(encoder.width) / encoder.width**0.5)
        own = set(vocabulary.words)
        self.strangers = [word for word in encoder.tokens.common_words(STRANGERS) if word not in own]
        self._table: Tensor | None = None

    def table(self, strangers: bool = False) -> Tensor:
        """The vector of each word of the vocabulary, by number, then of strangers. [words, W]"""
        if self.encoder.learns and torch.is_grad_enabled():
            return self._rows(self.encoder(self.encoder.tokens(self._words(strangers)).to(self.encoder.device)))
        words = self._words(strangers)
        if self.encoder.learns or self._table is None or len(self._table) < len(words):
            self._table = self.encoder.vectors(words)
        return self._rows(self._table)

    def _words(self, strangers: bool) -> list[str]:
        return [*self.vocabulary.words, *(self.strangers if strangers else [])]

    def _rows(self, vectors: Tensor) -> Tensor:
        """PADDING is none, and UNKNOWN is learned."""
        return torch.cat([torch.zeros_like(vectors[:1]), self.unknown[None], vectors])

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[n] sentences -> the vectors of their words [n, length, W], zero behind the end"""
        split = [self.vocabulary.split(text) for text in texts]
        words = sorted({word for row in split for word in row})
        vectors = dict(zip(words, self.encoder.vectors(words), strict=True)) if words else {}
        rows = [torch.stack([vectors[word] for word in row]) if row else self.unknown.detach()[None] for row in split]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def forward(self, words: Tensor, names: Tensor | None = None) -> Tensor:
        """Vectors of words [n, length, W], or their numbers [n, length] -> goal [n, 2 K + 3]. `names` [n, K, 2] as of
        Grounding.
        """
        table = self.table(strangers=not words.is_floating_point())
        alone = words if words.is_floating_point() else table[words]  # [n, length, W]
        mask = (alone != 0).any(-1)
        read = self.into(alone * self.encoder.width**0.5)
        packed = nn.utils.rnn.pack_padded_sequence(read, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        context, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=words.shape[1]
        )
        attention = self.attention(context).masked_fill(~mask[..., None], -torch.inf).softmax(1)  # [n, length, 2]
        gathered = attention.transpose(1, 2) @ alone  # [n, 2, W]
        keys = table[self.names if names is None else names].flatten(-3, -2)  # [(n,) 2 K, W]
        # Each word as near to an object as to the nearer word of its name.
        near = (alone @ keys.transpose(-1, -2)).unflatten(-1, self.names.shape).amax(-1)  # [n, length, K]
        near = attention.transpose(1, 2) @ near  # [n, 2, K]
        logits = self.sharpness.exp() * near  # [n, 2, K]
        place = self.place(gathered[:, 1] * self.encoder.width**0.5)  # [n, 3] logit, x, y
        target = torch.cat([logits[:, 1], place[:, :1]], 1)
        return torch.cat([logits[:, 0].softmax(1), target.softmax(1), place[:, 1:]], 1)

    def renamed(self, words: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As of Grounding; in half of the sentences each word of a name is a stranger, another one for each."""
        words, names = super().renamed(words, generator)
        n, own = len(words), self.names.cpu().unique()
        called = torch.arange(len(self.vocabulary)).repeat(n, 1)
        drawn = torch.rand((n, len(self.strangers)), generator=generator).argsort(1)[:, : len(own)]
        strange = drawn + len(self.vocabulary)
        half = torch.rand(n, generator=generator) < 0.5
        called[:, own] = torch.where(half[:, None], strange, called[:, own])
        return called.gather(1, words), called.gather(1, names.flatten(1)).unflatten(1, names.shape[1:])

    def among(self, strangers: Tensor, generator: torch.Generator) -> Tensor:
        """Each unknown word is a word of the encoder's vocabulary, drawn at random. [n, length]"""
        drawn = torch.randint(len(self.strangers), strangers.shape, generator=generator) + len(self.vocabulary)
        return torch.where(strangers == UNKNOWN, drawn, strangers)

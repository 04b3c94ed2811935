"""The networks: words to a goal, goal and observation to action tokens and to steps-to-go.

    instruction --Grounding or TextCode--> goal --+
                                                  +--> features -> trunk -> action head      p(a | o, g)
    observation (a picture: perception.py first) ------+                      -> steps-to-go head p(t' - t | o, g)

On a table of objects the words must find the objects, and imitation alone never teaches them to: the signal of a single
step is too weak. So Grounding is trained first and alone, with labels read off the demonstrations in hindsight (which
block moved most, and near what it came to rest), then frozen, and decided: from then on a sentence means one object,
never a mixture of two. A body without objects gets a plain code of the sentence instead.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robots.embodiments import Embodiment
from robots.worlds.language_table import OBJECT_FEATURES, STATE_NAMES, TABLE_SIZE
from training.perception import Perception
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
        packed = nn.utils.rnn.pack_padded_sequence(alone, mask.sum(1), batch_first=True, enforce_sorted=False)
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
        self.sentence = Sentence(len(vocabulary), width)
        self.attention = nn.Linear(2 * width, 2)
        self.query = nn.Linear(width, width, bias=False)
        self.place = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, 3))
        names = vocabulary.encode([f"{kind.colour} {kind.shape}" for kind in embodiment.objects])
        self.register_buffer("names", names, persistent=False)
        self.size = 2 * len(embodiment.objects) + 3

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
        shape's. [n, length] -> [n, length], and the objects' names there [n, K, 2]
        """
        n = len(words)
        called = torch.arange(self.sentence.embedding.num_embeddings).repeat(n, 1)
        taken: set[int] = {PADDING, UNKNOWN}
        for column in self.names.T:
            kind = torch.tensor(sorted(set(column.tolist()) - taken), dtype=torch.int64)  # e.g. the words for colours
            taken |= set(kind.tolist())
            called[:, kind] = kind[torch.rand((n, len(kind)), generator=generator).argsort(1)]
        return called.gather(1, words), called[:, self.names.flatten()].unflatten(1, self.names.shape)

    def named(self, words: Tensor) -> Tensor:
        """Whether a sentence holds an object's whole name. [n, length] -> bool [n, K]"""
        longest = self.names.shape[1]
        runs = F.pad(words, (0, longest - 1), value=PADDING).unfold(1, longest, 1)  # [n, length, 2]
        return (runs[:, :, None] == self.names).all(-1).any(1)

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
        self.sentence = Sentence(len(vocabulary), size)
        self.project = nn.Linear(2 * size, size)
        self.size = size

    def forward(self, words: Tensor) -> Tensor:
        """[n, length] -> goal [n, size]"""
        _, context, mask = self.sentence(words)
        return self.project((context * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


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


class FlatFeatures(nn.Module):
    """The whole observation, scaled as in the demonstrations, beside the code of the sentence."""

    mean: Tensor  # [P]
    deviation: Tensor  # [P]

    def __init__(self, perceived_size: int, goal_size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(perceived_size))
        self.register_buffer("deviation", torch.ones(perceived_size))
        self.size = perceived_size + goal_size

    def scale_as(self, perceived: Tensor) -> None:
        """Mean and deviation of each number are those of these [F, P]."""
        self.mean.copy_(perceived.mean(0))
        self.deviation.copy_(perceived.std(0).clamp(min=1e-4))

    def forward(self, perceived: Tensor, goal: Tensor, frame: Tensor | None) -> Tensor:
        """[n, P], [n, goal size] -> [n, size]; `frame` says nothing here."""
        return self.relations(perceived, goal)

    def relations(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """[n, P], [n, goal size] -> [n, size]"""
        return torch.cat([((perceived - self.mean) / self.deviation).clamp(-10, 10), goal], 1)

    def seen_from(self, frame: Tensor | None, relations: Tensor) -> Tensor:
        """Nothing of it is turned: it has no sides."""
        return relations


class ActionHead(nn.Module):
    """Action tokens, each dimension's after those before it. A token is one of `bins` values over its range."""

    middle: Tensor  # [A] of each range
    reach: Tensor  # [A] from it to each side

    def __init__(self, width: int, ranges: Sequence[tuple[float, float]], bins: int):
        super().__init__()
        self.bins = bins
        self.heads = nn.ModuleList(nn.Linear(width + i * bins, bins) for i in range(len(ranges)))
        low, high = torch.tensor(ranges, dtype=torch.float64).T
        self.register_buffer("middle", ((low + high) / 2).float(), persistent=False)
        self.register_buffer("reach", ((high - low) / 2).float(), persistent=False)

    def tokens(self, actions: Tensor) -> Tensor:
        """The nearest token of each number. [n, A] metres -> [n, A]"""
        share = ((actions - self.middle) / self.reach).clamp(-1, 1)
        return ((share + 1) / 2 * (self.bins - 1)).round().long()

    def actions(self, tokens: Tensor) -> Tensor:
        """The number that each token stands for. [n, A] -> [n, A]"""
        return (tokens.float() / (self.bins - 1) * 2 - 1) * self.reach + self.middle

    def log_probability(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """log p(a | o, g). [n, width], [n, A] -> [n]"""
        total = hidden.new_zeros(len(hidden))
        for i, head in enumerate(self.heads):
            total = total - F.cross_entropy(head(hidden), tokens[:, i], reduction="none")
            hidden = torch.cat([hidden, F.one_hot(tokens[:, i], self.bins).float()], 1)
        return total

    def sample(self, hidden: Tensor, generator: torch.Generator | None, greedy: bool) -> Tensor:
        """[n, width] -> tokens [n, A]"""
        tokens = []
        for head in self.heads:
            logits = head(hidden)
            token = logits.argmax(1) if greedy else torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
            tokens.append(token)
            hidden = torch.cat([hidden, F.one_hot(token, self.bins).float()], 1)
        return torch.stack(tokens, 1)


class Network(nn.Module):
    """One network with both heads. Stage 2 trains a copy's trunk and action head; perception and the words' part stay.

    A table looks alike from every side, and what acts and judges on one is exactly equivariant under its SYMMETRIES:
    the policy is the even mixture of what the heads say of the eight turned and mirrored tables, p(a | o, g) = 1/8
    sum_f p_net(f a | f o, g), and d the mean of theirs. So a step in practice stands for its eight copies by itself,
    and the ratio of probabilities in the update is that of the very policy that acted.
    """

    words: Grounding | TextCode
    features: TableFeatures | FlatFeatures

    def __init__(
        self, embodiment: Embodiment, vocabulary: Vocabulary, hidden: int, layers: int, action_bins: int, bins: int
    ):
        super().__init__()
        self.vectors = [key for key, feature in embodiment.observation.items() if not feature.is_picture]
        if embodiment.overhead:
            self.perception = Perception(embodiment)
        if embodiment.overhead or embodiment.object_features == OBJECT_FEATURES:
            self.words = Grounding(vocabulary, embodiment)
            self.features = TableFeatures(embodiment)
        else:
            self.words = TextCode(vocabulary)
            size = sum(embodiment.observation[key].size for key in self.vectors)
            self.features = FlatFeatures(size, self.words.size)
        widths = [self.features.size, *[hidden] * layers]
        self.trunk = nn.Sequential(
            *(nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b), nn.GELU()) for a, b in itertools.pairwise(widths))
        )
        self.action_head = ActionHead(hidden, embodiment.action_range, action_bins)
        self.steps_to_go_head = nn.Linear(hidden, bins)

    def goal(self, words: Tensor) -> Tensor:
        """Sentences as what acts and judges is told them. [n, length] -> [n, goal size]"""
        goal = self.words(words)
        return self.words.decided(goal) if isinstance(self.words, Grounding) else goal

    @property
    def grounded(self) -> bool:
        """Whether its words are bound to objects: before all else, and frozen then."""
        return isinstance(self.words, Grounding)

    def perceive(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Observations as recorded -> what the rest reads [n, P]: their vectors, or what was made out in a picture."""
        if hasattr(self, "perception"):
            return self.perception(observations[self.perception.key])
        return torch.cat([observations[key] for key in self.vectors], 1)

    def hidden(self, perceived: Tensor, goal: Tensor, frame: Tensor | None = None) -> Tensor:
        """[n, P], [n, goal size] -> [n, hidden]"""
        return self.trunk(self.features(perceived, goal, frame))

    @property
    def symmetric(self) -> bool:
        """Whether what it sees can be turned and mirrored."""
        return isinstance(self.features, TableFeatures)

    def frames(self, n: int) -> list[Tensor | None]:
        """Each symmetry, for n rows; only None where the body has no such symmetries."""
        return [frame.expand(n, 2, 2) for frame in SYMMETRIES] if self.symmetric else [None]

    def random_symmetries(self, n: int, generator: torch.Generator | None) -> Tensor | None:
        """One drawn for each row. [n, 2, 2]"""
        return SYMMETRIES[torch.randint(len(SYMMETRIES), (n,), generator=generator)] if self.symmetric else None

    def _from_all_sides(self, perceived: Tensor, goal: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """hidden, of all frames at once. [n, ...] -> [F n, hidden], the F frames"""
        frames = self.frames(len(perceived))
        sides = [frame for frame in frames if frame is not None]
        if not sides:
            return self.hidden(perceived, goal), frames
        times = len(sides)
        return self.hidden(perceived.repeat(times, 1), goal.repeat(times, 1), torch.cat(sides)), frames

    def act(
        self, perceived: Tensor, goal: Tensor, generator: torch.Generator | None, greedy: bool
    ) -> tuple[Tensor, Tensor]:
        """Actions [n, A] sampled from p(a | o, g), and the hidden layer that they came from. A greedy one is the
        likeliest as seen from one side.
        """
        frame = None if greedy else self.random_symmetries(len(perceived), generator)
        hidden = self.hidden(perceived, goal, frame)
        actions = self.action_head.actions(self.action_head.sample(hidden, generator, greedy))
        return (actions if frame is None else turned(frame.transpose(1, 2), actions)), hidden

    def log_probability(self, perceived: Tensor, goal: Tensor, actions: Tensor) -> Tensor:
        """log p(a | o, g) of the mixture. [n, P], [n, goal size], [n, A] -> [n]"""
        hidden, frames = self._from_all_sides(perceived, goal)
        seen = torch.cat([actions if frame is None else turned(frame, actions) for frame in frames])
        each = self.action_head.log_probability(hidden, self.action_head.tokens(seen)).unflatten(0, (len(frames), -1))
        return each.logsumexp(0) - math.log(len(frames))

    def steps_to_go(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """p(steps-to-go | o, g), the mean over the symmetries. [n, P], [n, goal size] -> [n, bins]"""
        hidden, frames = self._from_all_sides(perceived, goal)
        return self.steps_to_go_head(hidden).softmax(-1).unflatten(0, (len(frames), -1)).mean(0)


def turned(frame: Tensor, vectors: Tensor) -> Tensor:
    """[n, 2, 2], [n, 2] -> [n, 2]"""
    return (frame @ vectors[..., None])[..., 0]

"""Perception: a camera's picture -> the features that a network reads, for bodies whose observation is a picture.

    empty scene   what stays the same in most pictures; it is taken away from each
    things        cells of like colour that lie together, found by mean shift; a thing lies where their middle is
    words         a small network looks at each thing and tells the words that are said of it, or that it is the hand
    features      the hand's place, and of every object that the body knows by name the place of the thing that the name
                  fits best

Comes before grounding in stage 1 and stays frozen after it: reward model and policies see alike. Nobody labels a
picture, and the simulator tells nothing. What has left its place a second later, time and again, is the hand. What has
left its place between the first and the last picture of a demonstration is what was spoken of, more often than not, so
a thing is shown the words of those sentences. Then everything may have one name only, and every name one thing, and the
network learns from its own clearest cases.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robots.embodiments import IMAGES, Embodiment
from robots.worlds.language_table import OBJECT_FEATURES, STATE_NAMES
from training import computing
from training.datasets import DatasetError, Demonstrations
from training.descent import anneal
from training.vocabulary import Vocabulary

CELL = 2  # pixels
# Difference from the empty scene, summed over red, green and blue, from which on a cell shows something. Between two
# that a cell can have, n / (4 * 255): on one of them, as 0.15 is, a float's last bit would decide.
COVERED = 0.1505
DARKEST = 0.6  # more difference than that gives a cell no more weight
NEIGHBOURHOOD = 0.014  # metres, of the mean shift; things are some 0.04 wide
LIKENESS = 0.2  # between the directions in which two colours differ from the scene's: an edge's is a paler one
LEAST_WEIGHT = 0.8  # of a thing, in cells: less is noise
# Pixels, by which a place may lie short of a pixel and counts as on it: an even thing's middle lies exactly where two
# pixels meet. More than floats are off by, and no place that an even thing has.
EDGE = 0.013
LOOK = 5  # pixels to each side of a thing's middle that the network sees
AT_ONCE = 32  # pictures: their distances between all cells still fit a processor's cache
SECONDS_APART = 1.2  # two pictures in which the hand has moved by more than its own size
BATCH = 256
LEARNING_RATE = 3e-3
ROUNDS = 3  # of learning: one by what has left its place, the others from its own clearest cases
SAVE_EVERY = 50  # updates


class Things:
    """What lies in n pictures, one row a thing."""

    def __init__(self, number: Tensor, place: Tensor, look: Tensor):
        self.number = number  # [M] of the picture
        self.place = place  # [M, 2] metres
        self.look = look  # [M, 3 (2 LOOK + 1)^2] its pixels, about its middle

    @staticmethod
    def all_of(parts: list["Things"]) -> "Things":
        """Several, one after the other."""
        return Things(*(torch.cat([getattr(part, name) for part in parts]) for name in ("number", "place", "look")))


class Perception(nn.Module):
    """Pictures, uint8 [n, H, W, 3] -> where hand and objects are, float32 [n, P], as a table tells it (STATE_NAMES,
    then OBJECT_FEATURES of each object).
    """

    scene: Tensor  # [H, W, 3] what stays the same in most pictures
    name_words: Tensor  # [K, 2] numbers of the words of each name
    cell_places: Tensor  # [h, w, 2] middles, in metres
    look_offsets: Tensor  # [(2 LOOK + 1)^2] in a padded picture

    def __init__(self, embodiment: Embodiment):
        super().__init__()
        if embodiment.overhead is None:
            raise ValueError(f"{embodiment.name} sees nothing from straight above.")
        self.embodiment, self.metres_per_pixel = embodiment, embodiment.overhead.metres_per_pixel
        self.key = f"{IMAGES}{embodiment.overhead.camera}"
        height, width, _ = embodiment.observation[self.key].shape
        self.size = len(STATE_NAMES) + len(embodiment.objects) * len(OBJECT_FEATURES)  # P
        self.register_buffer("scene", torch.zeros(height, width, 3))
        names = [Vocabulary.split(f"{kind.colour} {kind.shape}") for kind in embodiment.objects]
        self.words = sorted({word for name in names for word in name})
        numbers = torch.tensor([[self.words.index(word) for word in name] for name in names])
        self.register_buffer("name_words", numbers, persistent=False)
        self.object_detector = nn.Sequential(
            nn.Linear(3 * (2 * LOOK + 1) ** 2, 128),
            nn.LayerNorm(128),
            nn.GELU(),
            nn.Linear(128, 64),
            nn.LayerNorm(64),
            nn.GELU(),
            nn.Linear(64, 1 + len(self.words)),  # logits: the hand, each word
        )
        y, x = torch.meshgrid(torch.arange(height // CELL), torch.arange(width // CELL), indexing="ij")
        middles = torch.stack([(x + 0.5) * CELL - width / 2, height / 2 - (y + 0.5) * CELL], -1)
        self.register_buffer("cell_places", middles * self.metres_per_pixel, persistent=False)
        offset = torch.arange(2 * LOOK + 1)
        offsets = (offset[:, None] * (width + 2 * LOOK) + offset).flatten()
        self.register_buffer("look_offsets", offsets, persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """[n, H, W, 3] -> [n, P]"""
        return torch.cat([self._features(part) for part in pictures.split(AT_ONCE)])

    def _features(self, pictures: Tensor) -> Tensor:
        things = self.things(pictures)
        scores = padded(self.scores(things.look), things.number, len(pictures), -torch.inf)  # [n, L, K + 1]
        places = padded(things.place, things.number, len(pictures), 0.0)  # [n, L, 2]
        best = scores.max(1)
        place = places.gather(1, best.indices[..., None].expand(-1, -1, 2))  # [n, K + 1, 2]
        body, names = STATE_NAMES, OBJECT_FEATURES
        result = torch.zeros(len(pictures), self.size, device=pictures.device)
        objects = result[:, len(body) :].unflatten(1, (-1, len(names)))  # a view
        for axis, name in enumerate(("x", "y")):
            # One picture tells of no movement: the hand was where it is.
            result[:, body.index(f"ee_{name}")] = result[:, body.index(f"previous_ee_{name}")] = place[:, -1, axis]
            objects[..., names.index(name)] = place[:, :-1, axis]
        objects[..., names.index("on_table")] = best.values[:, :-1].exp()  # how sure it is that there is such a thing
        return result

    def scores(self, look: Tensor) -> Tensor:
        """log p(all its words, not the hand) of each name, and log p(the hand). [M, ..] -> [M, K + 1]"""
        told = self.object_detector(look)
        hand, words = told[:, :1], told[:, 1:]
        named = F.logsigmoid(words)[:, self.name_words].sum(-1) + F.logsigmoid(-hand)
        return torch.cat([named, F.logsigmoid(hand)], 1)

    def without_scene(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """[n, H, W, 3] -> what differs from the empty scene [n, H, W, 3], and each cell's mean of it [n, h, w, 3]"""
        difference = (pictures.float() - self.scene) / 255
        return difference, F.avg_pool2d(difference.permute(0, 3, 1, 2), CELL).permute(0, 2, 3, 1)

    def things(self, pictures: Tensor) -> Things:
        """What lies in pictures. [n, H, W, 3]"""
        difference, cells = self.without_scene(pictures)
        n = len(pictures)
        covered = cells.abs().sum(-1)
        number, row, column = (covered > COVERED).nonzero(as_tuple=True)
        weight = padded(covered[number, row, column].clamp(max=DARKEST), number, n, 0.0)  # [n, L]
        places = padded(self.cell_places[row, column], number, n, 9.0)  # [n, L, 2]; what pads lies far away
        colours = padded(F.normalize(cells[number, row, column], dim=-1), number, n, 0.0)

        # Every cell's place is shifted to the mean of its neighbours of like colour, again and again.
        alike = kernel(colours, colours, LIKENESS) * weight[:, None]
        shifted = places
        for _ in range(4):
            near = kernel(shifted, places, NEIGHBOURHOOD) * alike
            mass = near.sum(-1)
            shifted = near @ places / mass.clamp(min=1e-6)[..., None]
        mass = mass.masked_fill(weight == 0, 0.0)

        # Cells that went to the same place are a thing, and the heaviest of them stands for it. An even thing has
        # several as heavy, none in its middle, and a float's last bit tells which of them stands: so the thing lies at
        # the mean of all its cells.
        same = torch.cdist(shifted, shifted) < NEIGHBOURHOOD
        first = (same * mass[:, None]).argmax(-1)  # [n, L]
        thing_of_cell = torch.full((n, *self.cell_places.shape[:2]), -1, device=pictures.device)
        thing_of_cell[number, row, column] = first[number, slot_of(number, n)]
        stands = (first == torch.arange(first.shape[1], device=first.device)) & (mass > LEAST_WEIGHT)
        number, thing = stands.nonzero(as_tuple=True)
        share = (first[number] == thing[:, None]) * mass[number]  # [M, L]
        place = (share[..., None] * shifted[number]).sum(1) / share.sum(1, keepdim=True)

        # A thing's look is its own pixels alone: what it is doesn't depend on who stands beside it.
        edges = (LOOK, LOOK, LOOK, LOOK)
        padding = F.pad(difference, (0, 0, *edges))
        thing_of_pixel = thing_of_cell.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
        row, column = self.pixels(place)
        corner = (number * padding.shape[1] + row) * padding.shape[2] + column
        around = corner[:, None] + self.look_offsets  # [M, (2 LOOK + 1)^2]
        own = F.pad(thing_of_pixel, edges, value=-1).flatten()[around] == thing[:, None]
        return Things(number, place, (padding.reshape(-1, 3)[around] * own[..., None]).flatten(1))

    def pixels(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """[M, 2] metres -> row and column [M] each"""
        height, width = self.scene.shape[:2]
        at = place / self.metres_per_pixel + EDGE * place.new_tensor([1.0, -1.0])  # y grows upwards, rows down
        return (height / 2 - at[:, 1]).long().clamp(0, height - 1), (at[:, 0] + width / 2).long().clamp(0, width - 1)

    def left_behind(self, things: Things, others: Tensor) -> Tensor:
        """Which things are no longer where they were in other pictures, one for each. [M] bool"""
        _, cells = self.without_scene(others)
        row, column = self.pixels(things.place)
        return cells.abs().sum(-1)[things.number, row // CELL, column // CELL] < COVERED


def kernel(ones: Tensor, others: Tensor, width: float) -> Tensor:
    """exp(-d^2 / (2 width^2)) of the distances d. [n, L, D], [n, M, D] -> [n, L, M]

    What is far away counts as e^-40, which no sum that holds a near one notices: processors are thirty times slower at
    numbers that come out too small for a float.
    """
    return (-(torch.cdist(ones, others) ** 2) / (2 * width**2)).clamp(min=-40).exp()


def slot_of(number: Tensor, n: int) -> Tensor:
    """How manieth of its picture's rows each row is, rows being in the order of n pictures. [M] -> [M]"""
    counts = torch.bincount(number, minlength=n)
    return torch.arange(len(number), device=number.device) - (counts.cumsum(0) - counts)[number]


def padded(rows: Tensor, number: Tensor, n: int, filling: float) -> Tensor:
    """[M, ...] -> [n, most rows of one picture, ...]"""
    slot = slot_of(number, n)
    most = int(slot.max()) + 1 if len(slot) else 1
    result = torch.full((n, most, *rows.shape[1:]), filling, device=rows.device)
    result[number, slot] = rows
    return result


def train_perception(
    perception: Perception,
    demonstrations: Demonstrations,
    steps: int,
    generator: torch.Generator,
    step_done: Callable[[int, dict[str, Any]], bool],
    load: Callable[..., dict[str, Any] | None] = lambda optimiser, generator, **networks: None,
    save: Callable[..., None] = lambda progress, optimiser, generator, **networks: None,
) -> bool:
    """Train in place on demonstrations whose observations are pictures. `step_done(step, losses)` says whether to go
    on; False: it did not. `save` keeps all that a restart needs, and `load` brings it back (checkpoints.py).
    """
    recorded, first, last = demonstrations.observations[perception.key], demonstrations.first, demonstrations.last
    device = perception.scene.device

    def pictures(frames: Tensor) -> Tensor:
        return computing.onto(device, recorded[frames])

    apart = max(1, round(SECONDS_APART * demonstrations.embodiment.fps))
    with torch.no_grad():
        some = pictures(torch.randint(len(recorded), (500,), generator=generator))
        perception.scene.copy_(some.float().median(0).values)
        early = first + (torch.rand(len(first), generator=generator) * (last - first + 1 - apart).clamp(min=1)).long()
        late = torch.minimum(early + apart, last)
        moving, gone = _pairs(perception, pictures, early, late)
        told, left = _pairs(perception, pictures, first, last)
    texts = [set(Vocabulary.split(text)) for text in demonstrations.instructions]
    named = torch.tensor([[float(word in text) for word in perception.words] for text in texts])  # [I, words]
    named = named[demonstrations.instruction[first]].to(device)  # [E, words]
    shown = left.nonzero()[:, 0]
    if not gone.any() or not len(shown):
        raise DatasetError(
            "In the pictures nothing is seen to leave its place; does the camera stand still, and do demonstrations "
            "move anything?"
        )

    def by_what_left() -> dict[str, Tensor]:
        some = torch.randint(len(moving.look), (BATCH,), generator=generator)
        hand = perception.object_detector(_turned(moving.look[some], generator))[:, 0]
        rows = shown[torch.randint(len(shown), (BATCH,), generator=generator)]
        told_of = perception.object_detector(_turned(told.look[rows], generator))
        words = F.binary_cross_entropy_with_logits(
            told_of[:, 1:], named[told.number[rows] % len(first)], reduction="none"
        )
        return {
            "hand": F.binary_cross_entropy_with_logits(hand, gone[some].float()),
            # The hand leaves its place in every demonstration, and no sentence speaks of it.
            "words": (words * torch.sigmoid(-told_of[:, :1].detach())).mean(),
        }

    every = Things.all_of([moving, Things(told.number + 2 * len(first), told.place, told.look)])
    ideal = torch.zeros(
        len(perception.name_words) + 1, 1 + len(perception.words)
    )  # what is told of each name, and of the hand
    ideal[-1, 0] = 1
    ideal[:-1].scatter_(1, perception.name_words.cpu() + 1, 1.0)
    ideal = ideal.to(device)

    def own_cases(begun: Perception) -> Callable[[], dict[str, Tensor]]:
        """Clear is a case where no other name fits the thing better, and no other thing in the picture the name."""
        with torch.no_grad():
            scores = begun.scores(every.look)
        best = torch.full((int(every.number.max()) + 1, scores.shape[1]), -torch.inf, device=device)
        best = best.scatter_reduce(0, every.number[:, None].expand(-1, scores.shape[1]), scores, "amax")
        clear = (scores == best[every.number]) & (scores == scores.amax(1, keepdim=True))
        cases, names = clear.nonzero(as_tuple=True)

        def by_own_cases() -> dict[str, Tensor]:
            some = torch.randint(len(cases), (BATCH,), generator=generator)
            told = perception.object_detector(_turned(every.look[cases[some]], generator))
            return {"own_cases": F.binary_cross_entropy_with_logits(told, ideal[names[some]])}

        return by_own_cases

    def loss_of(number: int, begun: Perception) -> Callable[[], dict[str, Tensor]]:
        return own_cases(begun) if number else by_what_left

    return _learn_in_rounds(perception, steps, loss_of, generator, step_done, load, save)


def _learn_in_rounds(
    perception: Perception,
    steps: int,
    loss_of: Callable[[int, Perception], Callable[[], dict[str, Tensor]]],
    generator: torch.Generator,
    step_done: Callable[[int, dict[str, Any]], bool],
    load: Callable[..., dict[str, Any] | None],
    save: Callable[..., None],
) -> bool:
    """ROUNDS of so many updates, each with the loss that it has from its number and from the perception as it began."""
    # As the round began: a restart in its middle has to find the same cases.
    begun, loss = copy.deepcopy(perception), None
    optimiser = _new_optimiser(perception)
    progress = load(optimiser, generator, perception=perception, begun=begun) or {"step": 0}
    for step in range(progress["step"] + 1, ROUNDS * steps + 1):
        number, within = divmod(step - 1, steps)
        if within == 0:
            begun.load_state_dict(perception.state_dict())
            optimiser = _new_optimiser(perception)
        if within == 0 or loss is None:
            loss = loss_of(number, begun)
            schedule = anneal(optimiser, steps, within)
        losses = loss()
        optimiser.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        nn.utils.clip_grad_norm_(perception.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        go_on = step_done(step, {name: float(value.detach()) for name, value in losses.items()})
        if not go_on or step % SAVE_EVERY == 0 or step == ROUNDS * steps:
            save({"step": step}, optimiser, generator, perception=perception, begun=begun)
        if not go_on:
            return False
    return True


def _new_optimiser(perception: Perception) -> torch.optim.Optimizer:
    return torch.optim.AdamW(perception.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)


def _pairs(
    perception: Perception, pictures: Callable[[Tensor], Tensor], ones: Tensor, others: Tensor
) -> tuple[Things, Tensor]:
    """The things of both pictures of each pair, and which of them are no longer there in the other one. Pair p's
    pictures are the numbers p and p + number of pairs.
    """
    parts, left = [], []
    for begin, (a, b) in ((0, (ones, others)), (len(ones), (others, ones))):
        for at in range(0, len(a), AT_ONCE):
            rows = slice(at, at + AT_ONCE)
            things = perception.things(pictures(a[rows]))
            left.append(perception.left_behind(things, pictures(b[rows])))
            parts.append(Things(things.number + begin + at, things.place, things.look))
    return Things.all_of(parts), torch.cat(left)


def _turned(look: Tensor, generator: torch.Generator) -> Tensor:
    """All of a batch by the same quarter turns, half the time mirrored: a thing is the same from every side."""
    turns, mirrored = torch.randint(4, (2,), generator=generator).tolist()
    square = look.unflatten(1, (2 * LOOK + 1, 2 * LOOK + 1, 3)).rot90(turns, (1, 2))
    return (square.flip(2) if mirrored % 2 else square).flatten(1)

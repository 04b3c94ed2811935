"""What stations practise: families of instructions, their many wordings, and when an instruction is truly fulfilled.

A TaskFamily draws an Instruction for what lies on the table; its words become the network's goal. Its `target` is read
by the simulator's true success and by the scripted demonstrator only, never by a network. No mujoco in here, so that
the web server and the trainer can list tasks.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from string import Formatter

import numpy as np

from robots.embodiments import THIRD_PARTY_WORLDS, get_embodiment

TOUCHING = 0.05  # metres between two block centres: blocks are 0.04 wide, so they touch or almost do
PLACE_RADIUS = 0.05  # metres between a block's centre and a place's centre
# A new instruction must ask for at least this much more way than success tolerates, or an idle policy would "succeed".
MARGIN = 0.03

# 32 s, within which the scripted demonstrator succeeds in more than .95 of its attempts: under a limit that the
# demonstrator itself fails, a policy that is only quicker passes for one that is more skilled.
TIME_LIMIT_STEPS = 160
SLOW_TIME_LIMIT_STEPS = 300  # a worn arm: there it needs longer, and succeeds in .94; the rest falls off

PLACES = {
    "left": (-0.2, 0.0),
    "top left": (-0.2, 0.11),
    "top center": (0.0, 0.11),
    "top right": (0.2, 0.11),
    "right": (0.2, 0.0),
    "bottom right": (0.2, -0.11),
    "bottom": (0.0, -0.11),
    "bottom left": (-0.2, -0.11),
    "center": (0.0, 0.0),
}


class InstructionError(ValueError):
    """An instruction that no wording of the family yields, or a table on which none can be asked."""


@dataclass(frozen=True)
class Instruction:
    text: str
    family: str
    target: dict = field(hash=False)


def block_positions(observation: np.ndarray, embodiment: str = "language_table") -> dict[str, tuple[float, float]]:
    """Centres of the blocks that are on the table, read from an observation."""
    body = get_embodiment(embodiment)
    positions = {}
    for kind in body.objects:
        x, y, _, _, on_table = observation[body.object_slice(kind.name)]
        if on_table > 0.5:
            positions[kind.name] = (float(x), float(y))
    return positions


def distance_left(target: Mapping, positions: Mapping[str, tuple[float, float]]) -> float:
    """Metres by which the target is still missed; 0 or less: fulfilled. Infinite if a block is off the table."""
    if target["block"] not in positions:
        return math.inf
    if "to_block" in target:
        if target["to_block"] not in positions:
            return math.inf
        return math.dist(positions[target["block"]], positions[target["to_block"]]) - TOUCHING
    return math.dist(positions[target["block"]], PLACES[target["place"]]) - PLACE_RADIUS


@dataclass(frozen=True)
class Grammar:
    """Wordings = verbs x templates. Held-out verbs and templates are kept from training to test unseen words."""

    verbs: tuple[str, ...]
    templates: tuple[str, ...]
    held_out_verbs: tuple[str, ...] = ()
    held_out_templates: tuple[str, ...] = ()

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """What a template leaves open beside the verb, by name."""
        named = {slot for _, slot, _, _ in Formatter().parse(self.templates[0])}
        return tuple(sorted(slot for slot in named if slot not in (None, "verb")))

    def draw(self, rng: np.random.Generator, held_out: bool, **slots: str) -> str:
        if not held_out:
            verbs, templates = self.verbs, self.templates
        elif self.held_out_verbs and rng.random() < 0.5:
            verbs, templates = self.held_out_verbs, self.templates
        else:
            verbs, templates = self.verbs, self.held_out_templates
        template = templates[rng.integers(len(templates))]
        return template.format(verb=verbs[rng.integers(len(verbs))], **slots)

    def match(self, text: str, slots: Mapping[str, Sequence[str]]) -> dict[str, str] | None:
        groups = {"verb": self.verbs + self.held_out_verbs, **slots}
        for template in self.templates + self.held_out_templates:
            pattern = "".join(
                re.escape(literal) + (f"(?P<{slot}>{'|'.join(map(re.escape, groups[slot]))})" if slot else "")
                for literal, slot, _, _ in Formatter().parse(template)
            )
            if found := re.fullmatch(pattern, text):
                return {slot: found[slot] for slot in slots}
        return None


_VERBS = ("push", "slide", "move", "nudge", "shove", "drag", "bring", "guide", "take", "put")
_HELD_OUT_VERBS = ("steer", "shift", "carry")

_BLOCK_TO_BLOCK = Grammar(
    verbs=_VERBS,
    templates=(
        "{verb} the {block} to the {to_block}",
        "{verb} the {block} towards the {to_block}",
        "{verb} the {block} next to the {to_block}",
        "{verb} the {block} up to the {to_block}",
        "{verb} the {block} close to the {to_block}",
        "{verb} the {block} against the {to_block}",
        "{verb} the {block} over to the {to_block}",
        "{verb} the {block} until it touches the {to_block}",
        "please {verb} the {block} to the {to_block}",
        "{verb} {block} to {to_block}",
    ),
    held_out_verbs=_HELD_OUT_VERBS,
    held_out_templates=(
        "could you {verb} the {block} beside the {to_block}",
        "{verb} the {block} so that it meets the {to_block}",
        "the {block} should go to the {to_block}, {verb} it there",
    ),
)

_BLOCK_TO_PLACE = Grammar(
    verbs=_VERBS,
    templates=(
        "{verb} the {block} to the {place} of the table",
        "{verb} the {block} towards the {place} of the table",
        "{verb} the {block} over to the {place} of the table",
        "{verb} the {block} into the {place} of the table",
        "{verb} the {block} to the {place} of the board",
        "please {verb} the {block} to the {place} of the table",
        "{verb} the {block} to the {place}",
        "{verb} {block} to {place}",
    ),
    held_out_verbs=_HELD_OUT_VERBS,
    held_out_templates=(
        "could you {verb} the {block} to the {place} part of the table",
        "the {block} belongs in the {place}, {verb} it there",
        "{verb} the {block} so that it lies in the {place} of the table",
    ),
)


def _clean(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".! ")


@dataclass(frozen=True)
class TaskFamily:
    name: str
    title: str
    embodiment: str
    world: str
    time_limit_steps: int
    description: str
    reset_each_attempt: bool = False  # its goals change by a reset only, so no attempt begins without one

    def sample(
        self,
        rng: np.random.Generator,
        objects: Mapping[str, tuple[float, float]] | Sequence[str],
        held_out: bool = False,
    ) -> Instruction:
        """An instruction about what is on the table; where it is known where that lies, one that is clearly not
        fulfilled yet. InstructionError where none can be asked: what is fulfilled already would count as a success.
        """
        blocks = tuple(objects)
        targets = self._targets(blocks)
        if not targets:
            raise InstructionError(
                f"No instruction of {self.title} can be asked with {len(blocks)} blocks on the "
                "table; reset the station."
            )
        if isinstance(objects, Mapping) and objects:
            left = [distance_left(target, objects) for target in targets]
            if max(left) <= 0:
                raise InstructionError(
                    f"All that {self.title} can ask is fulfilled already; spread what lies on the table."
                )
            # A cluttered table may leave nothing clearly open: then what is farthest from fulfilled is asked.
            wanted = min(MARGIN, max(left))
            targets = [target for target, missing in zip(targets, left, strict=True) if missing >= wanted]
        target = targets[rng.integers(len(targets))]
        return Instruction(self._grammar.draw(rng, held_out, **target), self.name, target)

    def parse(self, text: str) -> Instruction:
        """The instruction that a person typed or an episode recorded."""
        cleaned = _clean(text)
        slots = self._grammar.match(cleaned, self._slots)
        if slots is None or slots.get("block", "") == slots.get("to_block"):
            raise InstructionError(f"{text!r} is no instruction of {self.title}; write for example {self._example!r}.")
        return Instruction(cleaned, self.name, slots)

    @property
    def _example(self) -> str:
        return self.sample(np.random.default_rng(0), self._objects).text

    @property
    def _grammar(self) -> Grammar:
        return _GRAMMARS[self.name]

    @property
    def _objects(self) -> tuple[str, ...]:
        return tuple(kind.name for kind in get_embodiment(self.embodiment).objects)

    @property
    def _slots(self) -> dict[str, tuple[str, ...]]:
        """What the words leave open, and what may be named there."""
        fillers = {"block": self._objects, "to_block": self._objects, "place": tuple(PLACES)}
        return {slot: fillers[slot] for slot in self._grammar.slots}

    def _targets(self, blocks: tuple[str, ...]) -> list[dict]:
        match self._grammar.slots:
            case ("block", "to_block"):
                return [{"block": a, "to_block": b} for a in blocks for b in blocks if a != b]
            case ("block", "place"):
                return [{"block": a, "place": place} for a in blocks for place in PLACES]
        return [{}]  # a world with one thing to do, in several wordings


TASKS: dict[str, TaskFamily] = {
    family.name: family
    for family in (
        TaskFamily(
            "block2block",
            "Block2Block",
            "language_table",
            "language_table",
            TIME_LIMIT_STEPS,
            "Push one block until it touches another, as the words say.",
        ),
        TaskFamily(
            "block_to_place",
            "Block to place",
            "language_table",
            "language_table",
            TIME_LIMIT_STEPS,
            "Push a block to one of nine places of the table, as the words say.",
        ),
        TaskFamily(
            "worn_block2block",
            "Block2Block, worn table",
            "worn_table",
            "worn_table",
            SLOW_TIME_LIMIT_STEPS,
            "Block2Block in another laboratory: other masses, friction, arm, delay and camera.",
        ),
        TaskFamily(
            "camera_block2block",
            "Block2Block, by camera",
            "camera_table",
            "camera_table",
            TIME_LIMIT_STEPS,
            "Block2Block for a policy that is given the camera's picture instead of where the blocks lie.",
        ),
        TaskFamily(
            "camera_block_to_place",
            "Block to place, by camera",
            "camera_table",
            "camera_table",
            TIME_LIMIT_STEPS,
            "Block to place for a policy that is given the camera's picture instead of where the blocks lie.",
        ),
        TaskFamily(
            "banana_to_place",
            "Banana to place",
            "banana_table",
            "banana_table",
            TIME_LIMIT_STEPS,
            "Push a banana, which spins when it is not pushed at its middle, to one of nine places of the table.",
        ),
        TaskFamily(
            "point_mass",
            "Point mass",
            "point_mass",
            "point_mass",
            100,
            "Bring a point on a plane to its goal by forces.",
            reset_each_attempt=True,
        ),
    )
}
_GRAMMARS: dict[str, Grammar] = {
    "block2block": _BLOCK_TO_BLOCK,
    "block_to_place": _BLOCK_TO_PLACE,
    "worn_block2block": _BLOCK_TO_BLOCK,
    "camera_block2block": _BLOCK_TO_BLOCK,
    "camera_block_to_place": _BLOCK_TO_PLACE,
    "banana_to_place": _BLOCK_TO_PLACE,
    "point_mass": Grammar(
        verbs=("go", "move", "fly", "glide"),
        templates=("{verb} to the goal", "{verb} to the target", "please {verb} to the goal"),
        held_out_verbs=("travel",),
        held_out_templates=("the goal is where you should {verb}",),
    ),
}

for _world in THIRD_PARTY_WORLDS.values():
    TASKS[_world.name] = TaskFamily(
        _world.name,
        _world.title,
        _world.name,
        _world.name,
        _world.time_limit_steps,
        _world.description.strip(),
        _world.reset_each_attempt,
    )
    _GRAMMARS[_world.name] = Grammar(
        verbs=("",),
        templates=tuple(map(_clean, _world.wordings)),
        held_out_templates=tuple(map(_clean, _world.held_out_wordings or _world.wordings)),
    )


def get_task(name: str) -> TaskFamily:
    try:
        return TASKS[name]
    except KeyError:
        raise ValueError(f"There is no task {name!r}; known are {', '.join(sorted(TASKS))}.") from None

"""What stations practise: families of instructions, and how one is drawn in words or read from them.

A TaskFamily draws an Instruction for what lies in its world; its words become the network's goal. Its `target` is read
by the simulator's true success and by the scripted demonstrator only, never by a network. Which families there are, and
their words, say the worlds (robots/worlds/). No mujoco in here, so that the web server and the trainer can list tasks.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from string import Formatter

import numpy as np

from robots.embodiments import get_embodiment

# A new instruction must ask for at least this much more way than success tolerates, or an idle policy would "succeed".
MARGIN = 0.03


class InstructionError(ValueError):
    """An instruction that no wording of the family yields, or a table on which none can be asked."""


@dataclass(frozen=True)
class Instruction:
    """What is to be done: the words that a network gets, and what they mean for the simulator."""

    text: str
    family: str
    target: Mapping[str, str] = field(hash=False)  # the template's slots, filled


@dataclass(frozen=True)
class Grammar:
    """Wordings = verbs x templates. Held-out verbs and templates are kept from training to test unseen words."""

    verbs: tuple[str, ...]
    templates: tuple[str, ...]
    held_out_verbs: tuple[str, ...] = ()
    held_out_templates: tuple[str, ...] = ()
    # What may stand in a template's slot, by the slot's name. In all others stands an object of the body.
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """What a template leaves open beside the verb, by name."""
        named = {slot for _, slot, _, _ in Formatter().parse(self.templates[0])}
        return tuple(sorted(slot for slot in named if slot not in (None, "verb")))

    def sample(self, rng: np.random.Generator, held_out: bool, **slots: str) -> str:
        """One wording; held out: with a verb or a template that training never sees."""
        if not held_out:
            verbs, templates = self.verbs, self.templates
        elif self.held_out_verbs and rng.random() < 0.5:
            verbs, templates = self.held_out_verbs, self.templates
        else:
            verbs, templates = self.verbs, self.held_out_templates
        template = templates[rng.integers(len(templates))]
        return template.format(verb=verbs[rng.integers(len(verbs))], **slots)

    def match(self, text: str, slots: Mapping[str, Sequence[str]]) -> dict[str, str] | None:
        """What stands in each slot of the text, of what may stand there; None where no template fits."""
        groups = {"verb": self.verbs + self.held_out_verbs, **slots}
        for template in self.templates + self.held_out_templates:
            pattern = "".join(
                re.escape(literal) + (f"(?P<{slot}>{'|'.join(map(re.escape, groups[slot]))})" if slot else "")
                for literal, slot, _, _ in Formatter().parse(template)
            )
            if found := re.fullmatch(pattern, text):
                return {slot: found[slot] for slot in slots}
        return None


def cleaned(text: str) -> str:
    """As an instruction is written: lower case, single spaces, no full stop."""
    return " ".join(text.lower().split()).rstrip(".! ")


Moves = Callable[[Mapping[str, str]], tuple[str, str | tuple[float, float]]]


@dataclass(frozen=True)
class TaskFamily:
    """A kind of task in one world: its wordings, its time limit, and when an instruction of it is fulfilled."""

    name: str
    title: str
    embodiment: str
    world: str
    time_limit_steps: int
    description: str
    grammar: Grammar = field(repr=False)
    # (an instruction's target, where the objects lie) -> metres by which it is still missed, 0 or less: fulfilled
    missing: Callable[[Mapping[str, str], Mapping[str, tuple[float, float]]], float] | None = field(
        default=None, repr=False
    )
    # an instruction's target -> the object to be moved, and the object or the place (metres) that it shall go to
    moves: Moves | None = field(default=None, repr=False)
    aim: str = ""  # the number of the observation that rises as it is done, such as "puck.x"; "": there is none
    reset_each_attempt: bool = False  # its goals change by a reset only, so no attempt begins without one

    def sample(
        self,
        rng: np.random.Generator,
        objects: Mapping[str, tuple[float, float]] | Sequence[str],
        held_out: bool = False,
        words: str = "",
    ) -> Instruction:
        """An instruction about what is on the table; where it is known where that lies, one that is clearly not
        fulfilled yet. InstructionError where none can be asked: what is fulfilled already would count as a success.
        `words`: what the world itself asks for, in place of the family's.
        """
        if cleaned(words):
            return Instruction(cleaned(words), self.name, {})
        blocks = tuple(objects)
        targets = self._targets(blocks)
        if not targets:
            raise InstructionError(
                f"No instruction of {self.title} can be asked with {len(blocks)} blocks on the "
                "table; reset the station."
            )
        if self.missing is not None and isinstance(objects, Mapping) and objects:
            left = [self.missing(target, objects) for target in targets]
            if max(left) <= 0:
                raise InstructionError(
                    f"All that {self.title} can ask is fulfilled already; spread what lies on the table."
                )
            # A cluttered table may leave nothing clearly open: then what is farthest from fulfilled is asked.
            wanted = min(MARGIN, max(left))
            targets = [target for target, missing in zip(targets, left, strict=True) if missing >= wanted]
        target = targets[rng.integers(len(targets))]
        return Instruction(self.grammar.sample(rng, held_out, **target), self.name, target)

    def parse(self, text: str) -> Instruction:
        """The instruction that a person typed or an episode recorded."""
        words = cleaned(text)
        slots = self.grammar.match(words, {slot: self._fillers(slot, self._objects) for slot in self.grammar.slots})
        if slots is None or len(set(slots.values())) < len(slots):
            raise InstructionError(f"{text!r} is no instruction of {self.title}; write for example {self._example!r}.")
        return Instruction(words, self.name, slots)

    @property
    def _example(self) -> str:
        return self.sample(np.random.default_rng(0), self._objects).text

    @property
    def _objects(self) -> tuple[str, ...]:
        return tuple(kind.name for kind in get_embodiment(self.embodiment).objects)

    def _fillers(self, slot: str, objects: tuple[str, ...]) -> tuple[str, ...]:
        """What may be named there."""
        return self.grammar.named.get(slot, objects)

    def _targets(self, objects: tuple[str, ...]) -> list[dict[str, str]]:
        """All that can be asked, nothing being named twice; a world with one thing to do has one, which is empty."""
        slots = self.grammar.slots
        choices = product(*(self._fillers(slot, objects) for slot in slots))
        return [dict(zip(slots, chosen, strict=True)) for chosen in choices if len(set(chosen)) == len(chosen)]


TASKS: dict[str, TaskFamily] = {}  # by name; robots.worlds.register fills it as soon as robots is imported


def get_task(name: str) -> TaskFamily:
    """The family of that name; ValueError, with the known ones, where there is none."""
    try:
        return TASKS[name]
    except KeyError:
        raise ValueError(f"There is no task {name!r}; known are {', '.join(sorted(TASKS))}.") from None

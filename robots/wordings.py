"""Tasks in words: what a lab asks of any body, without a line of code.

A task in words is what somebody typed: wordings, some with {slots}, and what may stand in each slot. It reaches a
station with its assignment, which draws an instruction from it as from a built-in family. No simulator knows what its
words mean, so nobody but the success detector and people who label say whether an attempt of it succeeded.
"""

import math
import re
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from robots.tasks import Grammar, Instruction, InstructionError, TaskFamily, cleaned

LONGEST_SENTENCE = 300  # characters, with all slots filled
MOST_WORDINGS, MOST_SLOTS, MOST_VALUES = 50, 8, 100
MOST_COMBINATIONS = 500  # of what a wording's slots take
MOST_CHARACTERS = 20_000  # of all together: they travel in one message

_SLOT = re.compile(r"\{([a-z][a-z0-9_]{0,29})\}")
_SLOT_NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")


@dataclass(frozen=True)
class TaskInWords(TaskFamily):
    """A family of which only the words are known. Its wordings may differ in their slots; in `grammar` each is a
    template without a verb, and `named` has the values of every slot.
    """

    def sample(
        self,
        rng: np.random.Generator,
        objects: Mapping[str, tuple[float, float]] | Sequence[str],
        held_out: bool = False,
        words: str = "",
    ) -> Instruction:
        """One of its wordings, its slots filled; what lies on the table nobody compares with the words, and what the
        world itself would ask for (`words`) is not what the person wrote.
        """
        wordings = (self.grammar.held_out_templates if held_out else ()) or self.grammar.templates
        wording = wordings[rng.integers(len(wordings))]
        fillings = _fillings(wording, self.grammar.named)
        target = fillings[rng.integers(len(fillings))]
        return Instruction(wording.format(**target), self.name, target)

    def parse(self, text: str) -> Instruction:
        """The instruction that a person typed or an episode recorded."""
        words = cleaned(text)
        for wording in self.grammar.templates + self.grammar.held_out_templates:
            for target in _fillings(wording, self.grammar.named):
                if wording.format(**target) == words:
                    return Instruction(words, self.name, target)
        example = self.sample(np.random.default_rng(0), ()).text
        raise InstructionError(f"{text!r} is no instruction of {self.title}; write for example {example!r}.")


# What a person drives where the station knows no task at all: the episode has words, and says no more than is known.
BY_HAND = TaskInWords(
    "driven_by_hand", "Driven by hand", "", "", 10_000, "", Grammar((), ("what the person at the controls shows",))
)


@dataclass(frozen=True)
class Words:
    """What is typed of a task in words."""

    wordings: tuple[str, ...] = ()
    held_out_wordings: tuple[str, ...] = ()  # kept from practice, to test unseen words
    slots: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def family(self, name: str, title: str, embodiment: str, time_limit_steps: int) -> TaskInWords:
        """What a station draws instructions from."""
        grammar = Grammar((), self.wordings, held_out_templates=self.held_out_wordings, named=self.slots)
        return TaskInWords(name, title, embodiment, "", time_limit_steps, "", grammar)

    def to_json(self) -> dict[str, Any]:
        """What from_json reads."""
        return {
            "wordings": list(self.wordings),
            "held_out_wordings": list(self.held_out_wordings),
            "slots": {slot: list(values) for slot, values in self.slots.items()},
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Words":
        """As the server told them; InstructionError where they make no sense."""
        words, problems = checked_words(told.get("wordings"), told.get("held_out_wordings"), told.get("slots"))
        if problems:
            raise InstructionError(f"The task's words can't be used: {' '.join(problems.values())}")
        return words

    @property
    def count(self) -> int:
        """How many sentences its wordings make."""
        return sum(len(_fillings(wording, self.slots)) for wording in self.wordings)

    def some(self, count: int) -> list[str]:
        """So many different sentences of it, or all that there are: the wordings take turns, their slots vary."""
        rng = np.random.default_rng(0)
        fillings = [_fillings(wording, self.slots) for wording in self.wordings]
        for each in fillings:
            rng.shuffle(each)
        found: dict[str, None] = {}
        for turn in range(max(map(len, fillings), default=0)):
            for wording, each in zip(self.wordings, fillings, strict=True):
                if turn < len(each) and len(found) < count:
                    found[wording.format(**each[turn])] = None
        return list(found)


def family_told(name: str, told: Mapping[str, Any], time_limit_steps: int | None) -> TaskInWords:
    """The family that an assignment's words describe; ValueError where they describe none."""
    title, embodiment = (str(told.get(each) or "")[:LONGEST_SENTENCE] for each in ("title", "embodiment"))
    if not name:
        raise InstructionError("The task has no name; assign it again.")
    return Words.from_json(told).family(name, title or name, embodiment, time_limit_steps or BY_HAND.time_limit_steps)


def checked_words(wordings: Any, held_out_wordings: Any, slots: Any) -> tuple[Words, dict[str, str]]:
    """The words as instructions are written, and a sentence for each part that makes no sense, by its name."""
    problems: dict[str, str] = {}
    named: dict[str, tuple[str, ...]] = {}
    try:
        named = _checked_slots(slots or {})
    except InstructionError as error:
        problems["slots"] = str(error)
    found: dict[str, tuple[str, ...]] = {"wordings": (), "held_out_wordings": ()}
    for part, given in (("wordings", wordings), ("held_out_wordings", held_out_wordings)):
        try:
            # Where the slots are wrong that is said; what it makes of the wordings would only confuse.
            found[part] = _checked_wordings(given or (), None if problems.get("slots") else named)
        except InstructionError as error:
            problems[part] = str(error)
    if not problems:
        written = (
            *found["wordings"],
            *found["held_out_wordings"],
            *(each for values in named.values() for each in values),
        )
        if not found["wordings"]:
            problems["wordings"] = "Give at least one wording, such as “put the {object} into the {place}”."
        elif both := [each for each in found["held_out_wordings"] if each in found["wordings"]]:
            problems["held_out_wordings"] = f"“{both[0]}” is among the wordings too; leave it out of one of the two."
        elif idle := sorted(named.keys() - {slot for each in found.values() for line in each for slot in _slots(line)}):
            problems["slots"] = f"No wording has the slot {{{idle[0]}}}; write it into one, or leave its values out."
        elif (length := sum(map(len, written))) > MOST_CHARACTERS:
            problems["wordings"] = (
                f"All together has {length} characters; at most {MOST_CHARACTERS} are taken. Make two tasks of it."
            )
    return Words(found["wordings"], found["held_out_wordings"], named), problems


def _slots(wording: str) -> list[str]:
    """Its slots, each once, in the order in which they stand there."""
    return list(dict.fromkeys(_SLOT.findall(wording)))


def _fillings(wording: str, named: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """All that its slots may hold, nothing being named twice."""
    slots = _slots(wording)
    chosen = product(*(named[slot] for slot in slots))
    return [dict(zip(slots, each, strict=True)) for each in chosen if len(set(each)) == len(each)]


def _texts(given: Any, what: str, most: int) -> Iterator[str]:
    """Each text of a list as an instruction is written, the empty ones left out."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InstructionError(f"Give the {what} as a list of texts.")
    kept = [each for each in given if not isinstance(each, str) or each.strip()]
    if len(kept) > most:
        raise InstructionError(f"There are {len(kept)} {what}; at most {most} are taken.")
    for each in kept:
        if not isinstance(each, str):
            raise InstructionError(f"Give the {what} as texts; {reprlib.repr(each)} is none.")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in each):
            raise InstructionError(f"One of the {what} has a character that can't be read; type it again.")
        if len(each) > LONGEST_SENTENCE:
            raise InstructionError(f"“{each[:40]}…” has {len(each)} characters; at most {LONGEST_SENTENCE} are taken.")
        if not (text := cleaned(each)):
            raise InstructionError(f"“{each}” says nothing; write words, or leave it out.")
        yield text


def _checked_slots(given: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(given, Mapping):
        raise InstructionError("Give the slots by name, each with a list of its values.")
    if len(given) > MOST_SLOTS:
        raise InstructionError(f"There are {len(given)} slots; at most {MOST_SLOTS} are taken.")
    named: dict[str, tuple[str, ...]] = {}
    for name, values in given.items():
        slot = cleaned(str(name))
        if not _SLOT_NAME.fullmatch(slot):
            raise InstructionError(
                f"“{str(name)[:40]}” can't name a slot; take small letters, digits and _, with a letter first."
            )
        if slot in named:
            raise InstructionError(f"The slot {{{slot}}} is there twice; put all its values into one list.")
        taken = tuple(_texts(values, f"values of {{{slot}}}", MOST_VALUES))
        if not taken:
            raise InstructionError(f"The slot {{{slot}}} has no values; say what may stand there.")
        if doubled := [value for i, value in enumerate(taken) if value in taken[:i]]:
            raise InstructionError(f"The slot {{{slot}}} has “{doubled[0]}” twice; leave one out.")
        if braced := [value for value in taken if "{" in value or "}" in value]:
            raise InstructionError(f"“{braced[0]}” of {{{slot}}} has a brace; a value is plain words.")
        named[slot] = taken
    return named


def _checked_wordings(given: Any, named: Mapping[str, tuple[str, ...]] | None) -> tuple[str, ...]:
    """Without `named`, which are wrong themselves, what stands in the slots is not looked at."""
    wordings = tuple(_texts(given, "wordings", MOST_WORDINGS))
    for number, wording in enumerate(wordings):
        if wording in wordings[:number]:
            raise InstructionError(f"“{wording}” is there twice; leave one out.")
        rest = _SLOT.sub("", wording)
        if "{" in rest or "}" in rest:
            raise InstructionError(
                f"In “{wording}” a brace stands alone, or what is between two can't name a slot; a slot is written "
                "{object}, in small letters, digits and _."
            )
        if not rest.strip() and len(_slots(wording)) != 1:
            raise InstructionError(f"“{wording}” has nothing but slots; write words around them.")
        if named is not None:
            _check_fillings(wording, named)
    return wordings


def _check_fillings(wording: str, named: Mapping[str, tuple[str, ...]]) -> None:
    slots = _slots(wording)
    if unknown := [slot for slot in slots if slot not in named]:
        raise InstructionError(f"“{wording}” has the slot {{{unknown[0]}}}, which has no values; give some below.")
    if (count := math.prod(len(named[slot]) for slot in slots)) > MOST_COMBINATIONS:
        raise InstructionError(
            f"The slots of “{wording}” can be filled in {count} ways; at most {MOST_COMBINATIONS} are taken. Give "
            "them fewer values, or make two tasks."
        )
    sentences = [wording.format(**filling) for filling in _fillings(wording, named)]
    if not sentences:
        raise InstructionError(f"The slots of “{wording}” have only the same value, and nothing is named twice.")
    if (longest := max(map(len, sentences))) > LONGEST_SENTENCE:
        raise InstructionError(
            f"“{wording[:60]}…” with its slots filled has {longest} characters; at most {LONGEST_SENTENCE} are taken."
        )

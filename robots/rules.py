"""The rules of a task and the settings of a station, declared once: name, unit, type, bounds, default, label, help.

The pages' forms, the API's schema, the check of what is stored and the station's reading of what it is told are all
made from these two classes, so what one of them takes the others take too. A new rule is a field here, a column of Task
and the place that obeys it (attempts.py, termination.py).
"""

import dataclasses
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from robots.tasks import TaskFamily


class RuleError(ValueError):
    """A value that a rule doesn't take; the text says what to give instead."""


@dataclass(frozen=True)
class Rule:
    """One rule or setting: what it takes, and how pages and the API speak of it."""

    name: str
    label: str
    help: str
    type: type  # int, float, bool or str
    default: Any  # None: it may be left empty
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: Mapping[Any, str] | None = None  # what may be chosen, and how pages say it

    @property
    def wanted(self) -> str:
        """What it takes, in words."""
        if self.choices is not None:
            return "one of " + ", ".join(f"{choice!r} ({words})" for choice, words in self.choices.items())
        if self.type is bool:
            return "true or false"
        if self.type is str:
            return "text"
        kind = "a whole number" if self.type is int else "a number"
        unit = f" {self.unit}" if self.unit else ""
        empty = ", or empty" if self.default is None else ""
        return f"{kind} from {self.minimum:g} to {self.maximum:g}{unit}{empty}"

    def check(self, value: Any) -> Any:
        """The value in the rule's type; RuleError where it is none that the rule takes."""
        if value is None and self.default is None:
            return None
        if self.choices is not None:
            fits = type(value) is self.type and value in self.choices
        elif self.type in (bool, str):
            fits = type(value) is self.type
        else:
            # Comparing is enough: neither NaN nor infinity lies between two numbers.
            low, high = self.minimum, self.maximum
            fits = type(value) in (int, float) and low is not None and high is not None and low <= value <= high
            fits = fits and (self.type is float or value == int(value))
        if not fits:
            raise RuleError(f"“{self.label}” must be {self.wanted}, not {reprlib.repr(value)}.")
        return self.type(value)

    def json_schema(self) -> dict[str, Any]:
        """The rule in JSON Schema, for the description of an API."""
        kind = {int: "integer", float: "number", bool: "boolean", str: "string"}[self.type]
        schema: dict[str, Any] = {"type": [kind, "null"] if self.default is None else kind}
        schema |= {"title": self.label, "description": self.help, "default": self.default}
        if self.choices is not None:
            schema["enum"] = list(self.choices)
        elif self.minimum is not None:
            schema |= {"minimum": self.minimum, "maximum": self.maximum}
        return schema


def rule(type: type, default: Any, label: str, help: str, **declared: Any) -> Any:
    """A field of one of the classes below."""
    metadata = {"type": type, "label": label, "help": help, **declared}
    return dataclasses.field(default=default, metadata=metadata)


def _declared(cls: "type[Rules | Settings]") -> dict[str, Rule]:
    return {field.name: Rule(field.name, default=field.default, **field.metadata) for field in dataclasses.fields(cls)}


SUCCESS_BY = MappingProxyType({"": "the success detector", "sensor": "a sensor of the station"})


@dataclass(frozen=True)
class Rules:
    """What a task allows an attempt and its table. It comes with the assignment; an attempt keeps the rules that it
    began with.
    """

    time_limit_steps: int | None = rule(
        int,
        None,
        "Time limit",
        "The most steps an attempt may take. Left empty, it is the family's own limit; a task in words needs one.",
        unit="steps",
        minimum=1,
        maximum=10_000,
    )
    stall_steps: int | None = rule(
        int,
        None,
        "Stalled after",
        "Ends an attempt that came no closer to its goal (d made no new low) for this many steps. Left empty: never.",
        unit="steps",
        minimum=1,
        maximum=10_000,
    )
    regression: float | None = rule(
        float,
        None,
        "Gone wrong at",
        "Ends an attempt whose steps to go, d, rose this many steps above its lowest. Left empty: never.",
        unit="steps",
        minimum=0.1,
        maximum=10_000,
    )
    low_success_probability: float | None = rule(
        float,
        None,
        "Low P(success) below",
        "Ends an attempt whose P(success) stays below this, such as 0.2. One in ten goes on all the same, so that it "
        "becomes known when the policy gets better. Left empty: never.",
        minimum=0.001,
        maximum=0.5,
    )
    fewest_objects: int | None = rule(
        int,
        None,
        "Go on with at least",
        "The fewest objects with which practice goes on. A person is asked for when fewer are left. Left empty: as "
        "soon as one is lost.",
        unit="objects",
        minimum=1,
        maximum=100,
    )
    edge_margin: float | None = rule(
        float,
        None,
        "Keep objects from the edge by",
        "In metres, such as 0.01. A push by the policy that would bring an object nearer to the edge is turned aside, "
        "so that fewer fall off. Left empty: there is no such fence.",
        unit="m",
        minimum=0.005,
        maximum=0.08,
    )
    after_failure: str = rule(
        str,
        "",
        "After a failure ask",
        "The family of which instructions are given after a failure, until one succeeds or three have failed. They can "
        "spread objects that lie in each other's way. The policy must have been trained on this family too.",
    )
    alternates: bool = rule(
        bool,
        False,
        "Alternate with it",
        "That family is asked in turn with the task's own, after each attempt and not only after failures: what was "
        "done is undone, and practice needs no reset.",
    )
    success_by: str = rule(
        str,
        "",
        "Success is told by",
        "The reward model's success detector, or a sensor that the station has, such as a switch in a socket. Each "
        "episode says which.",
        choices=SUCCESS_BY,
    )
    reset_each_attempt: bool = rule(
        bool,
        False,
        "Reset before each attempt",
        "For tasks whose goal changes only by a reset. A station that can reset its world does so by itself; others "
        "ask for a person. A world that always needs this says so itself.",
    )

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Rules":
        """The task of an assignment; null, and what is missing, is no rule. RuleError where a value is wrong."""
        given = {name: told[name] for name in RULES if told.get(name) is not None}
        return cls(**{name: RULES[name].check(value) for name, value in given.items()})


RECORDED = MappingProxyType({"": "only of a real robot", "yes": "yes", "no": "no"})
SPEEDS = MappingProxyType({1: "1×", 4: "4×", 0: "max"})  # times real time; 0: as fast as the host can


@dataclass
class Settings:
    """What a station is told of itself, whatever it practises."""

    self_reset_after_s: float | None = rule(
        float,
        None,
        "Reset itself after",
        "How many seconds a simulated station waits for a person before it resets itself. Left empty, it waits for "
        "ever. It counts as an intervention.",
        unit="s",
        minimum=0,
        maximum=3600,
    )
    shuffle_every_s: float = rule(
        float,
        300.0,
        "Ask for a shuffle every",
        "Seconds of practice without a reset, after which a person is asked to mix the objects up.",
        unit="s",
        minimum=1,
        maximum=86_400,
    )
    record_frames: str = rule(
        str,
        "",
        "Keep the cameras' pictures",
        "With each episode, for its replay: small ones, of the cameras that no policy sees by, up to 28 MiB in all. "
        "A simulated world can be drawn later, a real one can't.",
        choices=RECORDED,
    )
    speed: int = rule(int, 1, "Speed", "How many times as fast as real time; 0: as fast as it can.", choices=SPEEDS)

    def update(self, told: Mapping[str, Any]) -> None:
        """Take what is named. RuleError, and nothing is changed, where a value is wrong."""
        given = {name: SETTINGS[name].check(told[name]) for name in SETTINGS if name in told}
        for name, value in given.items():
            setattr(self, name, value)


RULES, SETTINGS = _declared(Rules), _declared(Settings)
RESETS = MappingProxyType(
    {"": "as set at each station", "person": "a person", "self": "the station itself (simulated ones)"}
)

# What a task may say: the rules of an attempt, and settings that go before a station's own while it practises.
TASK_RULES: dict[str, Rule] = RULES | {
    "resets": Rule(
        "resets", "Who resets", "Who resets a station while it practises this task.", str, "", choices=RESETS
    ),
    "self_reset_after_s": dataclasses.replace(
        SETTINGS["self_reset_after_s"],
        label="It resets itself after",
        help="How many seconds it waits for a person first. Only for stations that reset themselves.",
    ),
    "shuffle_every_s": dataclasses.replace(
        SETTINGS["shuffle_every_s"],
        default=None,
        help="Seconds of practice without a reset, after which a person is asked to mix the objects up. Left empty: as "
        "set at each station.",
    ),
    "audit_share": Rule(
        "audit_share",
        "Successes that people check",
        "The share of detected successes, drawn at random, that people are asked to look at, such as 0.05. From their "
        "answers the error of the detector is bounded. Left empty: 0.05.",
        float,
        None,
        minimum=0,
        maximum=1,
    ),
}


def checked_settings(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings in their types, and a sentence for each that is wrong."""
    return _checked(SETTINGS, given)


def checked_task_rules(
    given: Mapping[str, Any], family: TaskFamily, families: Mapping[str, TaskFamily]
) -> tuple[dict[str, Any], dict[str, str]]:
    """A task's rules in their types, and a sentence for each that is wrong, by itself or together with another."""
    values, problems = _checked(TASK_RULES, given)
    if values.get("resets") == "self" and values.get("self_reset_after_s", 0) is None:
        problems["self_reset_after_s"] = "Say after how many seconds a station resets itself."
    elif values.get("resets", "self") != "self" and values.get("self_reset_after_s") is not None:
        problems["self_reset_after_s"] = (
            "This is only for a station that resets itself: leave it empty, or choose that above."
        )
    if other := values.get("after_failure"):
        if other not in families:
            problems["after_failure"] = f"{other!r} is no task family; choose one of the same embodiment."
        elif families[other].embodiment != family.embodiment:
            problems["after_failure"] = (
                f"{families[other].title} is for another embodiment; choose a family of {family.embodiment}."
            )
        elif other == family.name:
            problems["after_failure"] = "This is the task's own family. Choose another one, or none."
    elif values.get("alternates"):
        problems["alternates"] = "Choose the family with which the task's own alternates, above, or take this back."
    return values, problems


def _checked(rules: Mapping[str, Rule], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in given.items():
        try:
            values[name] = rules[name].check(value)
        except RuleError as error:
            problems[name] = str(error)
    return values, problems

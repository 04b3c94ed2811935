"""Third-party Gymnasium environments as stations' worlds, described by some lines of TOML (docs/worlds.md).

The environment variable FLEETUI_WORLDS names the file. Its worlds are registered after the built-in ones, like them
without loading a simulator: gymnasium_world.py is imported when one of them is made.
"""

import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from robots.embodiments import (
    MOST_NUMBERS,
    MOTIONS,
    STATE,
    Camera,
    DriveAxis,
    Embodiment,
    Feature,
    Motion,
    is_number,
    vector,
)
from robots.rules import RULES, RuleError
from robots.tasks import Grammar, TaskFamily, cleaned
from robots.worlds import WORLDS, WorldSpec, on_demand


class WorldsFileError(ValueError):
    """The file named by FLEETUI_WORLDS cannot be used; the message says which entry is wrong and how to mend it."""


@dataclass(frozen=True)
class WorldDescription:
    """One [[world]] of the FLEETUI_WORLDS file: a third-party Gymnasium environment as a station's world."""

    name: str
    env_id: str
    title: str
    description: str
    options: dict[str, Any]
    observation_names: tuple[str, ...]
    action: Feature
    fps: float
    time_limit_steps: int
    success_info: str
    success_at_least: float | None
    success_at_most: float | None
    reset_every_steps: int  # ask for a reset after so many; 0: never
    reset_each_attempt: bool  # for environments that set a new goal only when they are reset
    wordings: tuple[str, ...]
    held_out_wordings: tuple[str, ...] = field(default=())
    motions: tuple[Motion, ...] = ()

    @property
    def embodiment(self) -> Embodiment:
        """The body that it declares."""
        return Embodiment(
            name=self.name,
            fps=self.fps,
            observation={STATE: vector(self.observation_names)},
            action=self.action,
            motions=self.motions,
            drive=self._drive if self.motions else (),
            views=(Camera("front", 320, 240),),
        )

    @property
    def _drive(self) -> tuple[DriveAxis, ...]:
        """By hand: the first two numbers of an action as x and y, as most tables have them, each other as a joint."""
        first, others = self.action.names[:2], self.action.names[2:]
        planar = (DriveAxis(*each) for each in zip("xy", first, strict=False))
        return (*planar, *(DriveAxis(name, name) for name in others))

    @property
    def spec(self) -> WorldSpec:
        """The world, its body and its one task, as they are registered."""
        grammar = Grammar(
            verbs=("",),
            templates=tuple(map(cleaned, self.wordings)),
            held_out_templates=tuple(map(cleaned, self.held_out_wordings or self.wordings)),
        )
        family = TaskFamily(
            name=self.name,
            title=self.title,
            embodiment=self.name,
            world=self.name,
            time_limit_steps=self.time_limit_steps,
            description=self.description.strip(),
            grammar=grammar,
            reset_each_attempt=self.reset_each_attempt,
        )
        make = on_demand("robots.worlds.gymnasium_world:GymnasiumWorld", self)
        return WorldSpec(self.embodiment, (family,), make)


def read_worlds_file(path: str | Path) -> tuple[WorldDescription, ...]:
    """All worlds of the file; WorldsFileError at the first entry that is wrong."""
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise WorldsFileError(
            f"FLEETUI_WORLDS names {path}, which cannot be read ({error.strerror}). "
            "Correct the path or unset the variable."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorldsFileError(f"{path} is not valid TOML: {error}.") from None
    entries = data.get("world")
    if not isinstance(entries, list) or not entries:
        raise WorldsFileError(f"{path} describes no world; add a [[world]] table (docs/worlds.md shows one).")
    if not all(isinstance(entry, dict) for entry in entries):
        raise WorldsFileError(f"{path}: world must be [[world]] tables (docs/worlds.md shows one).")
    worlds = tuple(_world_description(entry, path) for entry in entries)
    names = [*WORLDS, *(world.name for world in worlds)]
    for name in names:
        if names.count(name) > 1:
            raise WorldsFileError(f"{path}: the world name {name!r} is taken twice; names must differ.")
    return worlds


MOST_STEPS = 1_000_000
_WORLD_KEYS = {
    "name",
    "env_id",
    "title",
    "description",
    "options",
    "observations",
    "actions",
    "action_limit",
    "action_kind",
    "action_low",
    "action_high",
    "largest_change",
    "sensed_by",
    "control_hz",
    "time_limit_steps",
    "success",
    "reset_every_steps",
    "reset_each_attempt",
    "wordings",
    "held_out_wordings",
}


class _Entry:
    """A [[world]] table of a worlds file, read key by key. WorldsFileError says which key is wrong."""

    def __init__(self, entry: dict[str, Any], path: str | Path):
        self.entry = entry
        self.where = f"{path}: world {entry.get('name', '(without a name)')!r}"

    def refuse(self, sentence: str) -> NoReturn:
        raise WorldsFileError(f"{self.where}: {sentence}")

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        if key not in self.entry and default is None:
            self.refuse(f"{key} is missing.")
        value = self.entry.get(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            self.refuse(f"{key} has the wrong type ({type(value).__name__}).")
        return value

    def names(self, key: str, prefix: str) -> tuple[str, ...]:
        """Either the features' names, or only how many there are."""
        value = self.get(key, (int, list))
        if isinstance(value, int):
            if value > MOST_NUMBERS:
                self.refuse(f"{key} may be {MOST_NUMBERS} at most.")
            value = [f"{prefix}_{i}" for i in range(value)]
        if not value or not all(isinstance(name, str) for name in value):
            self.refuse(f"{key} must be a count above 0 or a list of names.")
        return tuple(value)

    def for_each(self, count: int, key: str, wanted: str, fits: Callable[[Any], bool]) -> tuple[Any, ...]:
        """One value for each of `count` actions, from one for all or a list; empty where the key is not given."""
        if key not in self.entry:
            return ()
        values = self.entry[key]
        values = tuple(values) if isinstance(values, list) else (values,) * count
        if len(values) != count or not all(map(fits, values)):
            self.refuse(f"{key} must be {wanted}, or a list of {count} of them.")
        return values

    def actions(self, names: tuple[str, ...]) -> tuple[Feature, tuple[Motion, ...]]:
        """The actions and their bounds, and their motions, of which there are none where action_kind is not given."""
        count = len(names)
        limits = self.for_each(count, "action_limit", "one finite number above 0", lambda x: is_number(x) and x > 0)
        low, high = (self.for_each(count, key, "one finite number", is_number) for key in ("action_low", "action_high"))
        if bool(low) != bool(high) or bool(limits) == bool(low):
            self.refuse("action_limit is missing, or in its place action_low and action_high.")
        if low and not all(a < b for a, b in zip(low, high, strict=True)):
            self.refuse("action_low must be below action_high.")
        kinds = self.for_each(count, "action_kind", f"one of {', '.join(MOTIONS)}", lambda kind: kind in MOTIONS)
        changes = self.for_each(count, "largest_change", "one finite number above 0", lambda x: is_number(x) and x > 0)
        sensed_by = self.for_each(count, "sensed_by", "the name of an observation", lambda x: isinstance(x, str))
        if not kinds and (low or changes or sensed_by):
            self.refuse(f"action_kind is missing; it says what the actions are: {', '.join(MOTIONS)}.")
        low, high = low or tuple(-x for x in limits), high or limits
        motions = tuple(
            Motion(
                kind,
                float(changes[i]) if changes and kind != "effort" else None,
                sensed_by[i] if sensed_by and kind == "position" else "",
            )
            for i, kind in enumerate(kinds)
        )
        return vector(names, [float(x) for x in low], [float(x) for x in high]), motions

    def success(self) -> dict[str, Any]:
        """By which number of the environment's info an attempt has succeeded, and its bounds."""
        success = self.get("success", dict)
        bounds = {key: success.get(key) for key in ("at_least", "at_most")}
        given = [bound for bound in bounds.values() if bound is not None]
        if not isinstance(success.get("info"), str) or not given or not all(map(is_number, given)):
            self.refuse(
                'success needs an info key and at_least or at_most, as in {info = "reward_dist", at_least = -0.05}.'
            )
        if len(given) == 2 and bounds["at_least"] > bounds["at_most"]:
            self.refuse("success can never be: at_least is above at_most.")
        return bounds | {"info": success["info"]}

    def wordings(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The instructions in words, and those that are kept from training."""
        wordings = tuple(self.get("wordings", list))
        held_out = tuple(self.get("held_out_wordings", list, []))
        if not wordings or not all(
            isinstance(text, str) and text.strip() and not set("{}\0") & set(text) and len(text) <= 300
            for text in wordings + held_out
        ):
            self.refuse(
                "wordings must be a list of one or more instructions in words, without braces, of at most 300 letters."
            )
        return wordings, held_out

    def timing(self) -> dict[str, Any]:
        """How often it acts, how long an attempt takes, and when it is reset."""
        control_hz, time_limit = float(self.get("control_hz", (int, float))), self.get("time_limit_steps", int)
        reset_every, reset_each = self.get("reset_every_steps", int, 0), self.entry.get("reset_each_attempt", False)
        if not 0.1 <= control_hz <= 1000:  # NaN and infinity are not either
            self.refuse("control_hz must be a number above 0, from 0.1 to 1000 actions a second.")
        if not 0 <= reset_every <= MOST_STEPS:
            self.refuse(f"reset_every_steps must be from 0 to {MOST_STEPS}.")
        for key, value in (("time_limit_steps", time_limit), ("reset_each_attempt", reset_each)):
            try:
                RULES[key].check(value)
            except RuleError as error:
                self.refuse(f"{key} is wrong: {error}")
        return {
            "fps": control_hz,
            "time_limit_steps": time_limit,
            "reset_every_steps": reset_every,
            "reset_each_attempt": reset_each,
        }


def _world_description(table: dict[str, Any], path: str | Path) -> WorldDescription:
    entry = _Entry(table, path)
    unknown = set(table) - _WORLD_KEYS
    if unknown:
        entry.refuse(f"{', '.join(sorted(unknown))} is not a setting; known are {', '.join(sorted(_WORLD_KEYS))}.")
    name = entry.get("name", str)
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        entry.refuse("name must be lower-case letters, digits and underscores, beginning with a letter.")
    action_names = entry.names("actions", "action")
    action, motions = entry.actions(action_names)
    success = entry.success()
    wordings, held_out = entry.wordings()
    world = WorldDescription(
        name=name,
        env_id=entry.get("env_id", str),
        title=entry.get("title", str, name),
        description=entry.get("description", str, " "),
        options=entry.get("options", dict, {}),
        observation_names=entry.names("observations", "observation"),
        action=action,
        success_info=success["info"],
        success_at_least=success["at_least"],
        success_at_most=success["at_most"],
        wordings=wordings,
        held_out_wordings=held_out,
        motions=motions,
        **entry.timing(),
    )
    try:
        world.embodiment.check()
    except ValueError as error:
        entry.refuse(str(error))
    return world


def described_worlds() -> tuple[WorldSpec, ...]:
    """Those of the file that FLEETUI_WORLDS names; none where it names no file."""
    path = os.environ.get("FLEETUI_WORLDS")
    return tuple(world.spec for world in read_worlds_file(path)) if path else ()

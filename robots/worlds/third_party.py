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
    ENVIRONMENT_STATE,
    IMAGES,
    MOST_NUMBERS,
    MOST_PIXELS,
    MOTIONS,
    STATE,
    Camera,
    DriveAxis,
    Embodiment,
    Feature,
    Motion,
    is_number,
    picture,
    vector,
)
from robots.rules import RULES, RuleError
from robots.tasks import Grammar, TaskFamily, cleaned
from robots.worlds import WORLDS, WorldSpec, on_demand


class WorldsFileError(ValueError):
    """The file named by FLEETUI_WORLDS cannot be used; the message says which entry is wrong and how to mend it."""


@dataclass(frozen=True)
class Sight:
    """Where the pictures of one camera come from, and their size in pixels.

    key     a part of the environment's observation, by its path
    camera  a camera of its MuJoCo model, by name; "free": the one that looks at the whole model
    render  what env.render() draws
    None of them: MuJoCo's free camera, else env.render(), else a card that says that nothing can be seen.
    """

    name: str
    width: int
    height: int
    key: str = ""
    camera: str = ""
    render: bool = False


# Of the environment's observation: the path of a part ("": all of it), and the names of its numbers
Part = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class WorldDescription:
    """One [[world]] of the FLEETUI_WORLDS file: a third-party Gymnasium environment as a station's world."""

    name: str
    env_id: str
    title: str
    description: str
    options: dict[str, Any]
    parts: dict[str, tuple[Part, ...]] = field(hash=False)  # of each vector of the observation, by the feature's key
    sights: tuple[Sight, ...]  # the cameras that the policy sees by
    views: tuple[Sight, ...]  # those that only people watch by
    action: Feature
    fps: float
    repeat: int  # steps of the environment in one control step; 0: as many as its own rate says
    time_limit_steps: int
    success_info: str
    success_at_least: float | None
    success_at_most: float | None
    reset_every_steps: int  # ask for a reset after so many; 0: never
    reset_each_attempt: bool  # for environments that set a new goal only when they are reset
    wordings: tuple[str, ...]
    held_out_wordings: tuple[str, ...] = field(default=())
    motions: tuple[Motion, ...] = ()
    drive: tuple[DriveAxis, ...] = ()
    instruction_info: str = ""  # where the environment says at a reset what it asks for; empty: it says nothing
    needs_reset_info: str = ""  # where a step's info says in words why a person has to help; empty: it never does
    demonstrator: str = ""  # "package.module:function" of a scripted policy (robots/demonstrators.py)

    @property
    def embodiment(self) -> Embodiment:
        """The body that it declares."""
        return Embodiment(
            name=self.name,
            fps=self.fps,
            observation={
                **{key: vector([name for _, names in parts for name in names]) for key, parts in self.parts.items()},
                **{f"{IMAGES}{sight.name}": picture(sight.width, sight.height) for sight in self.sights},
            },
            action=self.action,
            motions=self.motions,
            drive=self.drive,
            views=tuple(Camera(view.name, view.width, view.height) for view in self.views),
        )

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
        return WorldSpec(
            self.embodiment,
            (family,),
            make=on_demand("robots.worlds.gymnasium_world:GymnasiumWorld", self),
            demonstrate=on_demand("robots.demonstrators:demonstrate_by", self.demonstrator, "")
            if self.demonstrator
            else None,
        )


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
    "observation",
    "views",
    "actions",
    "action_limit",
    "action_kind",
    "action_low",
    "action_high",
    "largest_change",
    "sensed_by",
    "relative",
    "drive",
    "control_hz",
    "repeat",
    "time_limit_steps",
    "success",
    "reset_every_steps",
    "reset_each_attempt",
    "wordings",
    "held_out_wordings",
    "instruction_info",
    "needs_reset_info",
    "demonstrator",
}
VECTORS = {
    "state": STATE,
    "environment_state": ENVIRONMENT_STATE,
}  # of an observation table: what becomes which feature
VIEW = Sight("front", 320, 240)  # where nothing else is said and the policy sees by no camera


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

    def names(self, key: str, prefix: str, value: Any = None) -> tuple[str, ...]:
        """Either the numbers' names, or only how many there are: what stands at the key, or the value."""
        value = self.get(key, (int, list)) if value is None else value
        if isinstance(value, int) and not isinstance(value, bool):
            if value > MOST_NUMBERS:
                self.refuse(f"{key} may be {MOST_NUMBERS} at most.")
            value = [f"{prefix}_{i}" for i in range(value)]
        if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
            self.refuse(f"{key} must be a count above 0 or a list of names.")
        return tuple(value)

    def parts(self) -> dict[str, tuple[Part, ...]]:
        """Of what each vector of the observation consists."""
        if ("observations" in self.entry) == ("observation" in self.entry):
            self.refuse("observations is missing, or in its place an observation table; give one of the two.")
        if "observations" in self.entry:
            return {STATE: (("", self.names("observations", "observation")),)}
        table = self.get("observation", dict)
        known = (*VECTORS, "images")
        if not table or set(table) - set(known):
            self.refuse(f"observation must be a table of {', '.join(known)}: of what the policy senses.")
        found = {}
        for name, key in VECTORS.items():
            parts = table.get(name, {})
            where = f"observation.{name}"
            if name in table and not (isinstance(parts, dict) and parts):
                self.refuse(
                    f"{where} must say of each part of the environment's observation how many numbers it has, or name "
                    "them, as in {achieved_goal = 3}."
                )
            if parts:
                found[key] = tuple((path, self.names(f"{where}.{path}", path, each)) for path, each in parts.items())
        return found

    def sights(self, key: str, table: Any, sources: tuple[str, ...]) -> tuple[Sight, ...]:
        """The cameras of a table, each of which says by one of `sources` where its pictures come from."""
        if not isinstance(table, dict):
            self.refuse(f"{key} must be a table of cameras.")
        found = []
        for name, each in table.items():
            where = f"{key}.{name}"
            given = [source for source in sources if isinstance(each, dict) and source in each]
            if not isinstance(each, dict) or set(each) - {"width", "height", *sources} or len(given) != 1:
                self.refuse(f"{where} needs width, height and one of {', '.join(sources)}.")
            if not all(type(each.get(side)) is int and 0 < each[side] <= MOST_PIXELS for side in ("width", "height")):
                self.refuse(f"{where} needs its width and height in pixels.")
            if ("render" in each and each["render"] is not True) or not all(
                isinstance(each.get(source, " "), str) and each.get(source, " ") for source in ("key", "camera")
            ):
                self.refuse(f"{where}: key and camera must be texts, and render must be true.")
            found.append(Sight(name, **each))
        return tuple(found)

    def drive(self, names: tuple[str, ...], motions: tuple[Motion, ...]) -> tuple[DriveAxis, ...]:
        """What a person drives by. Where nothing is said: the first two numbers of an action as x and y, as most tables
        have them, each other as a joint.
        """
        if "drive" not in self.entry:
            planar = (DriveAxis(*each) for each in zip("xy", names, strict=False))
            return (*planar, *(DriveAxis(name, name) for name in names[2:])) if motions else ()
        table = self.get("drive", dict)
        if not all(isinstance(moved, str) and moved for moved in table.values()):
            self.refuse('drive must name for each axis the action that it moves, as in {x = "action_0"}.')
        return tuple(DriveAxis(axis, moved) for axis, moved in table.items())

    def demonstrator(self) -> str:
        """Where the scripted policy is."""
        name: str = self.get("demonstrator", str, "") if "demonstrator" in self.entry else ""
        if "demonstrator" in self.entry and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
            self.refuse('demonstrator must be "package.module:function".')
        return name

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
        relative = self.for_each(count, "relative", "true or false", lambda x: isinstance(x, bool))
        if not kinds and (low or changes or sensed_by or relative):
            self.refuse(f"action_kind is missing; it says what the actions are: {', '.join(MOTIONS)}.")
        low, high = low or tuple(-x for x in limits), high or limits
        motions = tuple(
            Motion(
                kind,
                float(changes[i]) if changes and kind != "effort" else None,
                sensed_by[i] if sensed_by and kind == "position" else "",
                bool(relative and relative[i]),
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
        repeat = self.get("repeat", int) if "repeat" in self.entry else 0
        reset_every, reset_each = self.get("reset_every_steps", int, 0), self.entry.get("reset_each_attempt", False)
        if not 0.1 <= control_hz <= 1000:  # NaN and infinity are not either
            self.refuse("control_hz must be a number above 0, from 0.1 to 1000 actions a second.")
        if "repeat" in self.entry and not 1 <= repeat <= MOST_STEPS:
            self.refuse(f"repeat must be from 1 to {MOST_STEPS} steps of the environment in a control step.")
        if not 0 <= reset_every <= MOST_STEPS:
            self.refuse(f"reset_every_steps must be from 0 to {MOST_STEPS}.")
        for key, value in (("time_limit_steps", time_limit), ("reset_each_attempt", reset_each)):
            try:
                RULES[key].check(value)
            except RuleError as error:
                self.refuse(f"{key} is wrong: {error}")
        return {
            "fps": control_hz,
            "repeat": repeat,
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
    sights = (
        entry.sights("observation.images", table["observation"].get("images", {}), ("key", "camera", "render"))
        if isinstance(table.get("observation"), dict)
        else ()
    )
    if "views" in table:
        views = entry.sights("views", table["views"], ("camera", "render"))
    else:
        views = () if sights else (VIEW,)
    world = WorldDescription(
        name=name,
        env_id=entry.get("env_id", str),
        title=entry.get("title", str, name),
        description=entry.get("description", str, " "),
        options=entry.get("options", dict, {}),
        parts=entry.parts(),
        sights=sights,
        views=views,
        action=action,
        success_info=success["info"],
        success_at_least=success["at_least"],
        success_at_most=success["at_most"],
        wordings=wordings,
        held_out_wordings=held_out,
        motions=motions,
        drive=entry.drive(action_names, motions),
        instruction_info=entry.get("instruction_info", str, ""),
        needs_reset_info=entry.get("needs_reset_info", str, ""),
        demonstrator=entry.demonstrator(),
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

"""What a body is: the numbers it senses, the actions it takes, its cameras and its control rate.

First room of the loop: episodes, networks and pages all read the shapes from here. A robot can be described while it is
disconnected, and on a machine without MuJoCo, so this module imports neither. Third-party Gymnasium worlds are
described in a TOML file named by the environment variable FLEETUI_WORLDS (docs/worlds.md); their bodies appear in the
same registry.
"""

import math
import os
import re
import tomllib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from robots.rules import RULES, RuleError


class WorldsFileError(ValueError):
    """The file named by FLEETUI_WORLDS cannot be used; the message says which entry is wrong and how to mend it."""


@dataclass(frozen=True)
class ObjectKind:
    name: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Camera:
    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Picture:
    """An observation that is what one camera sees from straight above, its middle above the origin."""

    camera: str  # its name in the world's model
    width: int
    height: int
    metres_per_pixel: float


MOTIONS = ("delta", "velocity", "position", "effort")


@dataclass(frozen=True)
class Motion:
    """What one number of an action makes a joint (or an axis of the end effector) do.

    delta     go so far from where it is, in one step
    velocity  go so fast, units a second, until the next step
    position  go there: an absolute position
    effort    push with this force or torque; how far that moves it nobody can tell from the number
    """

    kind: str
    low: float
    high: float
    # Of the joint in one step, in units of its position, whoever acts; None for an effort.
    largest_change: float | None = None
    sensed_by: str = ""  # kind position: the name in Embodiment.body of the number that says where the joint is


@dataclass(frozen=True)
class Embodiment:
    """An observation is the body's features, then for each object its features, all in one float32 vector; or, where
    `picture` is given, the pixels of a picture in which these features have to be found: uint8, H x W x 3 in a row.
    """

    name: str
    control_hz: float
    body: tuple[str, ...]
    objects: tuple[ObjectKind, ...]
    object_features: tuple[str, ...]
    action_names: tuple[str, ...]
    action_limit: tuple[float, ...]
    cameras: tuple[Camera, ...]
    picture: Picture | None = None
    motions: tuple[Motion, ...] = ()  # one for each number of an action; empty: not declared, and nobody can drive it

    @property
    def action_range(self) -> tuple[tuple[float, float], ...]:
        """The lowest and highest that each number of an action may be."""
        if not self.motions:
            return tuple((-limit, limit) for limit in self.action_limit)
        ranges = []
        for motion in self.motions:
            most = math.inf
            if motion.kind in ("delta", "velocity"):
                most = motion.largest_change * (self.control_hz if motion.kind == "velocity" else 1)
            ranges.append((max(motion.low, -most), min(motion.high, most)))
        return tuple(ranges)

    observation_limit: tuple[float, ...] = ()  # the largest magnitude of each feature; empty: it does not say

    @property
    def features_size(self) -> int:
        return len(self.body) + len(self.objects) * len(self.object_features)

    @property
    def observation_size(self) -> int:
        return self.picture.height * self.picture.width * 3 if self.picture else self.features_size

    @property
    def observation_type(self) -> str:
        return "uint8" if self.picture else "float32"

    @property
    def action_size(self) -> int:
        return len(self.action_names)

    def object_slice(self, name: str) -> slice:
        """Where one object's features stand among all."""
        index = [kind.name for kind in self.objects].index(name)
        start = len(self.body) + index * len(self.object_features)
        return slice(start, start + len(self.object_features))

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> "Embodiment":
        try:
            embodiment = cls(
                name=str(data["name"]),
                control_hz=float(data["control_hz"]),
                body=tuple(data["body"]),
                objects=tuple(ObjectKind(**kind) for kind in data["objects"]),
                object_features=tuple(data["object_features"]),
                action_names=tuple(data["action_names"]),
                action_limit=tuple(float(limit) for limit in data["action_limit"]),
                cameras=tuple(Camera(**camera) for camera in data["cameras"]),
                picture=Picture(**data["picture"]) if data.get("picture") else None,
                motions=tuple(Motion(**motion) for motion in data.get("motions") or ()),
                observation_limit=tuple(float(limit) for limit in data.get("observation_limit") or ()),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"This is no description of a body: {type(error).__name__} at {error}. "
                "Send what Embodiment.to_json() gives."
            ) from None
        embodiment.check()
        return embodiment

    def check(self) -> None:
        """ValueError where it contradicts itself."""
        where = f"The body {self.name}"
        if not _is_number(self.control_hz) or self.control_hz <= 0:
            raise ValueError(f"{where} has a control_hz of {self.control_hz!r}; it must be a finite number above 0.")
        if len(self.action_names) != len(self.action_limit):
            raise ValueError(
                f"{where} names {len(self.action_names)} actions but states "
                f"{len(self.action_limit)} limits; give one limit for each action."
            )
        if not all(_is_number(limit) and limit > 0 for limit in self.action_limit):
            raise ValueError(
                f"{where} has the action limits {self.action_limit}; each must be a finite number above 0."
            )
        if len(self.observation_limit) not in (0, self.features_size):
            raise ValueError(
                f"{where} has {self.features_size} features but states {len(self.observation_limit)} limits; give one "
                "limit for each, or none."
            )
        if self.motions and len(self.motions) != len(self.action_names):
            raise ValueError(
                f"{where} names {len(self.action_names)} actions but declares {len(self.motions)} motions; "
                "give one for each action."
            )
        for name, limit, motion in zip(self.action_names, self.action_limit, self.motions, strict=False):
            if problem := self._problem(limit, motion):
                raise ValueError(f"{where}, action {name}: {problem}")

    def _problem(self, limit: float, motion: Motion) -> str:
        """What is wrong with one motion, or nothing."""
        if motion.kind not in MOTIONS:
            return f"the motion {motion.kind!r} is unknown; known are {', '.join(MOTIONS)}."
        if not (_is_number(motion.low) and _is_number(motion.high) and motion.low < motion.high):
            return f"low ({motion.low!r}) must be below high ({motion.high!r}), both finite."
        if max(-motion.low, motion.high) > limit:
            return f"it may be {motion.low:g} to {motion.high:g}, but its limit is {limit:g}; give the larger of both."
        if motion.kind == "effort":
            return "an effort has no largest_change: leave it out." if motion.largest_change is not None else ""
        if not _is_number(motion.largest_change) or motion.largest_change <= 0:
            return f"largest_change must be a finite number above 0, not {motion.largest_change!r}."
        if motion.kind == "position":
            if self.picture is not None or motion.sensed_by not in self.body:
                return "sensed_by must name the number of the body that says where the joint is."
        else:
            most = motion.largest_change * (self.control_hz if motion.kind == "velocity" else 1)
            if motion.low >= most or motion.high <= -most:
                return f"all from low to high is more than its largest_change of {motion.largest_change:g} allows."
        return ""


def _is_number(value) -> bool:
    """Finite, and such that single precision can hold it."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e30 < value < 1e30


TABLE_SIZE = (0.6, 0.4)  # metres, centred at the origin; x to the right, y to the top as the camera sees it

BLOCKS = (
    ObjectKind("red moon", "red", "moon"),
    ObjectKind("red pentagon", "red", "pentagon"),
    ObjectKind("blue moon", "blue", "moon"),
    ObjectKind("blue cube", "blue", "cube"),
    ObjectKind("green star", "green", "star"),
    ObjectKind("green cube", "green", "cube"),
    ObjectKind("yellow star", "yellow", "star"),
    ObjectKind("yellow pentagon", "yellow", "pentagon"),
)


def _table_limits(objects: tuple[ObjectKind, ...]) -> tuple[float, ...]:
    """Metres from the table's middle: the hand passes the edge by 0.05, objects never do; the rest are shares."""
    x, y = TABLE_SIZE[0] / 2, TABLE_SIZE[1] / 2
    return (x + 0.05, y + 0.05) * 2 + (x, y, 1.0, 1.0, 1.0) * len(objects)


LANGUAGE_TABLE = Embodiment(
    name="language_table",
    control_hz=5.0,
    body=("ee_x", "ee_y", "previous_ee_x", "previous_ee_y"),
    objects=BLOCKS,
    object_features=("x", "y", "cos", "sin", "on_table"),
    action_names=("delta_x", "delta_y"),
    action_limit=(0.03, 0.03),
    cameras=(Camera("front", 320, 240),),
    motions=(Motion("delta", -0.03, 0.03, largest_change=0.03),) * 2,
    observation_limit=_table_limits(BLOCKS),
)

# Another laboratory's table: it senses and acts in the same terms, but nothing weighs, slips or looks quite alike.
WORN_TABLE = replace(LANGUAGE_TABLE, name="worn_table")

# LanguageTable for a policy that sees the table itself, instead of being told where everything lies.
CAMERA_TABLE = replace(LANGUAGE_TABLE, name="camera_table", picture=Picture("top", 124, 88, 0.006))

BANANA = (ObjectKind("banana", "yellow", "banana"),)
BANANA_TABLE = replace(LANGUAGE_TABLE, name="banana_table", objects=BANANA, observation_limit=_table_limits(BANANA))

POINT_MASS = Embodiment(
    name="point_mass",
    control_hz=10.0,
    body=("x", "y", "velocity_x", "velocity_y", "to_goal_x", "to_goal_y"),
    objects=(),
    object_features=(),
    action_names=("force_x", "force_y"),
    action_limit=(1.0, 1.0),
    cameras=(Camera("front", 320, 240),),
    motions=(Motion("effort", -1.0, 1.0),) * 2,
)

BUILT_IN = {body.name: body for body in (LANGUAGE_TABLE, WORN_TABLE, CAMERA_TABLE, BANANA_TABLE, POINT_MASS)}


@dataclass(frozen=True)
class WorldDescription:
    """One [[world]] of the FLEETUI_WORLDS file: a third-party Gymnasium environment as a station's world."""

    name: str
    env_id: str
    title: str
    description: str
    options: dict
    observation_names: tuple[str, ...]
    action_names: tuple[str, ...]
    action_limit: tuple[float, ...]
    control_hz: float
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
        return Embodiment(
            name=self.name,
            control_hz=self.control_hz,
            body=self.observation_names,
            objects=(),
            object_features=(),
            action_names=self.action_names,
            action_limit=self.action_limit,
            cameras=(Camera("front", 320, 240),),
            motions=self.motions,
        )


def read_worlds_file(path: str | Path) -> tuple[WorldDescription, ...]:
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
    names = [*BUILT_IN, *(world.name for world in worlds)]
    for name in names:
        if names.count(name) > 1:
            raise WorldsFileError(f"{path}: the world name {name!r} is taken twice; names must differ.")
    return worlds


MOST_NUMBERS, MOST_STEPS = 10_000, 1_000_000
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


def _world_description(entry: dict, path) -> WorldDescription:
    where = f"{path}: world {entry.get('name', '(without a name)')!r}"

    def refuse(sentence: str):
        raise WorldsFileError(f"{where}: {sentence}")

    def get(key: str, kind: type | tuple, default=None):
        if key not in entry and default is None:
            refuse(f"{key} is missing.")
        value = entry.get(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            refuse(f"{key} has the wrong type ({type(value).__name__}).")
        return value

    def names(key: str, prefix: str) -> tuple[str, ...]:
        """Either the features' names, or only how many there are."""
        value = get(key, (int, list))
        if isinstance(value, int):
            if value > MOST_NUMBERS:
                refuse(f"{key} may be {MOST_NUMBERS} at most.")
            value = [f"{prefix}_{i}" for i in range(value)]
        if not value or not all(isinstance(name, str) for name in value):
            refuse(f"{key} must be a count above 0 or a list of names.")
        return tuple(value)

    unknown = set(entry) - _WORLD_KEYS
    if unknown:
        refuse(f"{', '.join(sorted(unknown))} is not a setting; known are {', '.join(sorted(_WORLD_KEYS))}.")
    name = get("name", str)
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        refuse("name must be lower-case letters, digits and underscores, beginning with a letter.")
    action_names = names("actions", "action")

    def for_each(key: str, wanted: str, fits) -> tuple:
        """One value for each action, from one for all or a list; empty where the key is not given."""
        if key not in entry:
            return ()
        values = entry[key]
        values = tuple(values) if isinstance(values, list) else (values,) * len(action_names)
        if len(values) != len(action_names) or not all(map(fits, values)):
            refuse(f"{key} must be {wanted}, or a list of {len(action_names)} of them.")
        return values

    limits = for_each("action_limit", "one finite number above 0", lambda x: _is_number(x) and x > 0)
    low, high = (for_each(key, "one finite number", _is_number) for key in ("action_low", "action_high"))
    if bool(low) != bool(high) or bool(limits) == bool(low):
        refuse("action_limit is missing, or in its place action_low and action_high.")
    if low and not all(a < b for a, b in zip(low, high, strict=True)):
        refuse("action_low must be below action_high.")
    kinds = for_each("action_kind", f"one of {', '.join(MOTIONS)}", lambda kind: kind in MOTIONS)
    changes = for_each("largest_change", "one finite number above 0", lambda x: _is_number(x) and x > 0)
    sensed_by = for_each("sensed_by", "the name of an observation", lambda x: isinstance(x, str))
    if not kinds and (low or changes or sensed_by):
        refuse(f"action_kind is missing; it says what the actions are: {', '.join(MOTIONS)}.")
    low, high = low or tuple(-x for x in limits), high or limits
    limits = limits or tuple(max(-a, b) for a, b in zip(low, high, strict=True))
    motions = tuple(
        Motion(
            kind,
            float(low[i]),
            float(high[i]),
            float(changes[i]) if changes and kind != "effort" else None,
            sensed_by[i] if sensed_by and kind == "position" else "",
        )
        for i, kind in enumerate(kinds)
    )
    success = get("success", dict)
    bounds = {key: success.get(key) for key in ("at_least", "at_most")}
    given = [bound for bound in bounds.values() if bound is not None]
    if not isinstance(success.get("info"), str) or not given or not all(map(_is_number, given)):
        refuse('success needs an info key and at_least or at_most, as in {info = "reward_dist", at_least = -0.05}.')
    if len(given) == 2 and bounds["at_least"] > bounds["at_most"]:
        refuse("success can never be: at_least is above at_most.")
    wordings = tuple(get("wordings", list))
    held_out = tuple(get("held_out_wordings", list, []))
    if not wordings or not all(
        isinstance(text, str) and text.strip() and not set("{}\0") & set(text) and len(text) <= 300
        for text in wordings + held_out
    ):
        refuse("wordings must be a list of one or more instructions in words, without braces, of at most 300 letters.")
    control_hz, time_limit = float(get("control_hz", (int, float))), get("time_limit_steps", int)
    reset_every, reset_each = get("reset_every_steps", int, 0), entry.get("reset_each_attempt", False)
    if not 0.1 <= control_hz <= 1000:  # NaN and infinity are not either
        refuse("control_hz must be a number above 0, from 0.1 to 1000 actions a second.")
    if not 0 <= reset_every <= MOST_STEPS:
        refuse(f"reset_every_steps must be from 0 to {MOST_STEPS}.")
    for key, value in (("time_limit_steps", time_limit), ("reset_each_attempt", reset_each)):
        try:
            RULES[key].check(value)
        except RuleError as error:
            refuse(f"{key} is wrong: {error}")
    world = WorldDescription(
        name=name,
        env_id=get("env_id", str),
        title=get("title", str, name),
        description=get("description", str, " "),
        options=get("options", dict, {}),
        observation_names=names("observations", "observation"),
        action_names=action_names,
        action_limit=tuple(float(x) for x in limits),
        control_hz=float(control_hz),
        time_limit_steps=time_limit,
        success_info=success["info"],
        success_at_least=bounds["at_least"],
        success_at_most=bounds["at_most"],
        reset_every_steps=reset_every,
        reset_each_attempt=reset_each,
        wordings=wordings,
        held_out_wordings=held_out,
        motions=motions,
    )
    try:
        world.embodiment.check()
    except ValueError as error:
        refuse(str(error))
    return world


THIRD_PARTY_WORLDS: dict[str, WorldDescription] = {}
if os.environ.get("FLEETUI_WORLDS"):
    THIRD_PARTY_WORLDS = {world.name: world for world in read_worlds_file(os.environ["FLEETUI_WORLDS"])}

EMBODIMENTS: dict[str, Embodiment] = dict(BUILT_IN)
EMBODIMENTS.update((world.name, world.embodiment) for world in THIRD_PARTY_WORLDS.values())


def get_embodiment(name: str) -> Embodiment:
    try:
        return EMBODIMENTS[name]
    except KeyError:
        raise ValueError(f"There is no embodiment {name!r}; known are {', '.join(sorted(EMBODIMENTS))}.") from None

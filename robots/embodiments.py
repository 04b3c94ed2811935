"""What a body is: the numbers it senses, the actions it takes, its cameras and its control rate.

First room of the loop: episodes, networks and pages all read the shapes from here. A robot can be described while it is
disconnected, and on a machine without MuJoCo, so this module imports neither. Third-party Gymnasium worlds are
described in a TOML file named by the environment variable FLEETUI_WORLDS (docs/worlds.md); their bodies appear in the
same registry.
"""

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
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"This is no description of a body: {type(error).__name__} at {error}. "
                "Send what Embodiment.to_json() gives."
            ) from None
        if len(embodiment.action_names) != len(embodiment.action_limit):
            raise ValueError(
                f"The body {embodiment.name} names {len(embodiment.action_names)} actions but states "
                f"{len(embodiment.action_limit)} limits; give one limit for each action."
            )
        return embodiment


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

LANGUAGE_TABLE = Embodiment(
    name="language_table",
    control_hz=5.0,
    body=("ee_x", "ee_y", "previous_ee_x", "previous_ee_y"),
    objects=BLOCKS,
    object_features=("x", "y", "cos", "sin", "on_table"),
    action_names=("delta_x", "delta_y"),
    action_limit=(0.03, 0.03),
    cameras=(Camera("front", 320, 240),),
)

# Another laboratory's table: it senses and acts in the same terms, but nothing weighs, slips or looks quite alike.
WORN_TABLE = replace(LANGUAGE_TABLE, name="worn_table")

# LanguageTable for a policy that sees the table itself, instead of being told where everything lies.
CAMERA_TABLE = replace(LANGUAGE_TABLE, name="camera_table", picture=Picture("top", 124, 88, 0.006))

BANANA_TABLE = replace(LANGUAGE_TABLE, name="banana_table", objects=(ObjectKind("banana", "yellow", "banana"),))

POINT_MASS = Embodiment(
    name="point_mass",
    control_hz=10.0,
    body=("x", "y", "velocity_x", "velocity_y", "to_goal_x", "to_goal_y"),
    objects=(),
    object_features=(),
    action_names=("force_x", "force_y"),
    action_limit=(1.0, 1.0),
    cameras=(Camera("front", 320, 240),),
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
    worlds = tuple(_world_description(entry, path) for entry in entries)
    names = [*BUILT_IN, *(world.name for world in worlds)]
    for name in names:
        if names.count(name) > 1:
            raise WorldsFileError(f"{path}: the world name {name!r} is taken twice; names must differ.")
    return worlds


_WORLD_KEYS = {
    "name",
    "env_id",
    "title",
    "description",
    "options",
    "observations",
    "actions",
    "action_limit",
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
    limit = get("action_limit", (int, float, list))
    limits = tuple(limit) if isinstance(limit, list) else (limit,) * len(action_names)
    if len(limits) != len(action_names) or not all(isinstance(x, (int, float)) and x > 0 for x in limits):
        refuse(f"action_limit must be one number above 0, or {len(action_names)} of them.")
    success = get("success", dict)
    bounds = {key: success.get(key) for key in ("at_least", "at_most")}
    given = [bound for bound in bounds.values() if bound is not None]
    if not isinstance(success.get("info"), str) or not given or not all(type(bound) in (int, float) for bound in given):
        refuse('success needs an info key and at_least or at_most, as in {info = "reward_dist", at_least = -0.05}.')
    wordings = tuple(get("wordings", list))
    held_out = tuple(get("held_out_wordings", list, []))
    if not wordings or not all(
        isinstance(text, str) and text.strip() and not set("{}") & set(text) for text in wordings + held_out
    ):
        refuse("wordings must be a list of one or more instructions in words, without braces.")
    control_hz, time_limit = float(get("control_hz", (int, float))), get("time_limit_steps", int)
    reset_every, reset_each = get("reset_every_steps", int, 0), entry.get("reset_each_attempt", False)
    if control_hz <= 0 or reset_every < 0:
        refuse("control_hz must be above 0, reset_every_steps 0 or more.")
    for key, value in (("time_limit_steps", time_limit), ("reset_each_attempt", reset_each)):
        try:
            RULES[key].check(value)
        except RuleError as error:
            refuse(f"{key} is wrong: {error}")
    return WorldDescription(
        name=name,
        env_id=get("env_id", str),
        title=get("title", str, name),
        description=get("description", str, " "),
        options=get("options", dict, {}),
        observation_names=names("observations", "observation"),
        action_names=action_names,
        action_limit=tuple(float(x) for x in limits),
        control_hz=control_hz,
        time_limit_steps=time_limit,
        success_info=success["info"],
        success_at_least=bounds["at_least"],
        success_at_most=bounds["at_most"],
        reset_every_steps=reset_every,
        reset_each_attempt=reset_each,
        wordings=wordings,
        held_out_wordings=held_out,
    )


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

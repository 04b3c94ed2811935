"""What a body is: the numbers it senses, the actions it takes, its cameras and its control rate.

First room of the loop: episodes, networks and pages all read the shapes from here. A robot can be described while it is
disconnected, and on a machine without MuJoCo, so this module imports no simulator. Which bodies there are say the
worlds (robots/worlds/): each is registered with its body.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard


@dataclass(frozen=True)
class ObjectKind:
    """A thing on the table, as instructions name it and pictures show it."""

    name: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Camera:
    """A camera of the body, and the size of its pictures in pixels."""

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

    def most(self, control_hz: float) -> float:
        """The largest magnitude that the largest change leaves a delta or a velocity; infinite for the others."""
        if self.largest_change is None or self.kind not in ("delta", "velocity"):
            return math.inf
        return self.largest_change * (control_hz if self.kind == "velocity" else 1)


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
            most = motion.most(self.control_hz)
            ranges.append((max(motion.low, -most), min(motion.high, most)))
        return tuple(ranges)

    observation_limit: tuple[float, ...] = ()  # the largest magnitude of each feature; empty: it does not say

    @property
    def features_size(self) -> int:
        """How many numbers the body and its objects have together."""
        return len(self.body) + len(self.objects) * len(self.object_features)

    @property
    def observation_size(self) -> int:
        """D: the numbers of an observation, or the bytes of its picture."""
        return self.picture.height * self.picture.width * 3 if self.picture else self.features_size

    @property
    def observation_type(self) -> str:
        """The dtype of an observation, by numpy's name."""
        return "uint8" if self.picture else "float32"

    @property
    def action_size(self) -> int:
        """A: the numbers of an action."""
        return len(self.action_names)

    def object_slice(self, name: str) -> slice:
        """Where one object's features stand among all."""
        index = [kind.name for kind in self.objects].index(name)
        start = len(self.body) + index * len(self.object_features)
        return slice(start, start + len(self.object_features))

    def to_json(self) -> dict[str, Any]:
        """What from_json reads: a station's hello, checkpoints and datasets carry it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Embodiment":
        """A body as it was described elsewhere; ValueError where that is no description, or contradicts itself."""
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
        if not is_number(self.control_hz) or self.control_hz <= 0:
            raise ValueError(f"{where} has a control_hz of {self.control_hz!r}; it must be a finite number above 0.")
        if len(self.action_names) != len(self.action_limit):
            raise ValueError(
                f"{where} names {len(self.action_names)} actions but states "
                f"{len(self.action_limit)} limits; give one limit for each action."
            )
        if not all(is_number(limit) and limit > 0 for limit in self.action_limit):
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
        if not (is_number(motion.low) and is_number(motion.high) and motion.low < motion.high):
            return f"low ({motion.low!r}) must be below high ({motion.high!r}), both finite."
        if max(-motion.low, motion.high) > limit:
            return f"it may be {motion.low:g} to {motion.high:g}, but its limit is {limit:g}; give the larger of both."
        if motion.kind == "effort":
            return "an effort has no largest_change: leave it out." if motion.largest_change is not None else ""
        if not is_number(motion.largest_change) or motion.largest_change <= 0:
            return f"largest_change must be a finite number above 0, not {motion.largest_change!r}."
        if motion.kind == "position":
            if self.picture is not None or motion.sensed_by not in self.body:
                return "sensed_by must name the number of the body that says where the joint is."
        else:
            most = motion.most(self.control_hz)
            if motion.low >= most or motion.high <= -most:
                return f"all from low to high is more than its largest_change of {motion.largest_change:g} allows."
        return ""


def is_number(value: object) -> TypeGuard[float]:
    """Finite, and such that single precision can hold it."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e30 < value < 1e30


EMBODIMENTS: dict[str, Embodiment] = {}  # by name; robots.worlds.register fills it as soon as robots is imported


def get_embodiment(name: str) -> Embodiment:
    """The body of that name; ValueError, with the known ones, where there is none."""
    try:
        return EMBODIMENTS[name]
    except KeyError:
        raise ValueError(f"There is no embodiment {name!r}; known are {', '.join(sorted(EMBODIMENTS))}.") from None

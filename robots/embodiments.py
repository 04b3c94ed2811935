"""What a body is: what it observes, the actions it takes, its cameras, what drives it by hand, its rate.

First room of the loop: episodes, networks and pages all read the shapes from here. The names are LeRobot's, since that
is what laboratories have. A robot describes itself in its hello, also while it is disconnected and on a machine without
MuJoCo, so this module imports no simulator. Which bodies are built in say the worlds (robots/worlds/); the dashboard
keeps what any other one says of itself.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np

# What is sensed at one moment, or at several: an array for each feature, by key
Observation = dict[str, np.ndarray]

# The keys of an observation, and of the action
STATE = "observation.state"  # proprioception
HAND = ("ee_x", "ee_y", "ee_z")  # what proprioception calls the place of a body's hand, in metres, where it tells it
ENVIRONMENT_STATE = "observation.environment_state"  # tracked objects, where there are any: "OBJECT.FEATURE"
IMAGES = "observation.images."  # and the camera's name: uint8 [H, W, 3]
ACTION = "action"

VECTOR, PICTURE = "float32", "uint8"  # the dtypes that there are
PICTURE_NAMES = ("height", "width", "channels")  # of what a picture's shape says
MOTIONS = ("delta", "velocity", "position", "effort")
# What a person may drive by; beside these any number of the action, by its name (a joint).
DRIVE_AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")

LONGEST_NAME, LONGEST_PROBLEM = 60, 500  # characters
MOST_NUMBERS, MOST_CAMERAS, MOST_PIXELS = 10_000, 16, 4096 * 4096


@dataclass(frozen=True)
class ObjectKind:
    """A thing in the workspace, as instructions name it and pictures show it."""

    name: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Camera:
    """A camera of the body, and the size of its pictures in pixels."""

    name: str
    width: int
    height: int
    # Of a camera that stands still: x, y on the table (metres) to shares of the picture's width and height, from its
    # upper left corner; a homography, its three rows one after the other. Empty: not known.
    plane: tuple[float, ...] = ()


@dataclass(frozen=True)
class Feature:
    """An array that each step has one of: a vector of named numbers, or a picture.

    Of a vector `low` and `high` may say where each number lies; empty: the body does not say.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    units: tuple[str, ...] = ()  # of each number, for people; empty: not said

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def is_picture(self) -> bool:
        """Whether it is what a camera sees."""
        return self.dtype == PICTURE


def vector(
    names: Sequence[str], low: Sequence[float] = (), high: Sequence[float] = (), units: Sequence[str] = ()
) -> Feature:
    """A vector of named numbers."""
    return Feature(VECTOR, (len(names),), tuple(names), tuple(low), tuple(high), tuple(units))


def picture(width: int, height: int) -> Feature:
    """What a camera sees, uint8 [height, width, 3]."""
    return Feature(PICTURE, (height, width, 3), PICTURE_NAMES)


@dataclass(frozen=True)
class Motion:
    """What one number of an action makes a joint (or an axis of the end effector) do.

    delta     go so far from where it is, in one step
    velocity  go so fast, units a second, until the next step
    position  go there: an absolute position
    effort    push with this force or torque; how far that moves it nobody can tell from the number
    """

    kind: str
    # Of the joint in one step, in units of its position, whoever acts; None for an effort.
    largest_change: float | None = None
    sensed_by: str = ""  # kind position: the name in observation.state of the number that says where the joint is
    # Kind position: a policy's tokens say how far from where the joint is, and then from where it was just told to be,
    # each within the largest change. Else they say where to, by so many values over the whole range.
    relative: bool = False

    def most(self, fps: float) -> float:
        """The largest magnitude that the largest change leaves a delta or a velocity; infinite for the others."""
        if self.largest_change is None or self.kind not in ("delta", "velocity"):
            return math.inf
        return self.largest_change * (fps if self.kind == "velocity" else 1)


@dataclass(frozen=True)
class DriveAxis:
    """One thing that a person moves by hand: an axis of the end effector, the gripper or a joint.

    `moves` is the number of the action that does it. Empty: no single one does; the driver turns it into an action
    itself (DrivenWorld in robots/worlds/), as joint-space arms do by inverse kinematics.
    """

    axis: str  # one of DRIVE_AXES, or the name of a number of the action
    moves: str = ""


@dataclass(frozen=True)
class Overhead:
    """The one camera that a policy for a table sees by: from straight above, its middle above the origin."""

    camera: str
    metres_per_pixel: float


@dataclass(frozen=True)
class Axis:
    """The upright axis that an arm stands on: turned about it together with all that it sees, it has the same to do. So
    one demonstration stands for many in training.
    """

    x: float  # metres, as ee_x and the objects' x are told
    y: float
    fold: int = 1  # cos and sin tracked of an object are of so many times its yaw: 4 of a cube, which looks alike then


@dataclass(frozen=True)
class Embodiment:
    """One body, as it describes itself."""

    name: str
    fps: float  # control steps a second
    observation: Mapping[str, Feature] = field(hash=False)  # what each step of an episode holds, by key
    action: Feature = field(hash=False)
    motions: tuple[Motion, ...] = ()  # one for each number of an action; empty: not declared, and nobody can drive it
    drive: tuple[DriveAxis, ...] = ()  # in the order in which pages list them
    objects: tuple[ObjectKind, ...] = ()  # what instructions may name
    views: tuple[Camera, ...] = ()  # that people watch by, beside the cameras of the observation
    overhead: Overhead | None = None
    axis: Axis | None = None

    @cached_property
    def action_range(self) -> tuple[tuple[float, float], ...]:
        """The lowest and highest that each number of an action may be."""
        ranges = tuple(zip(self.action.low, self.action.high, strict=True))
        if not self.motions:
            return ranges
        most = [motion.most(self.fps) for motion in self.motions]
        return tuple((max(low, -far), min(high, far)) for (low, high), far in zip(ranges, most, strict=True))

    @cached_property
    def relative(self) -> tuple[bool, ...]:
        """Of each number of an action, whether a policy's tokens tell it from where the joint is."""
        return tuple(motion.relative for motion in self.motions) or (False,) * self.action_size

    @cached_property
    def token_range(self) -> tuple[tuple[float, float], ...]:
        """The lowest and highest that a policy's token of each number says: a relative one's, of a step's change."""
        changes = [motion.largest_change or 0.0 for motion in self.motions] or [0.0] * self.action_size
        told = zip(self.action_range, self.relative, changes, strict=True)
        return tuple((-change, change) if relative else each for each, relative, change in told)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Of the numbers of an action."""
        return self.action.names

    @property
    def action_size(self) -> int:
        """A: the numbers of an action."""
        return self.action.size

    @property
    def state_names(self) -> tuple[str, ...]:
        """Of the numbers of its proprioception; empty where it has none."""
        return self.observation[STATE].names if STATE in self.observation else ()

    @property
    def tracked(self) -> bool:
        """Whether somebody tells where the objects are."""
        return ENVIRONMENT_STATE in self.observation

    @cached_property
    def object_features(self) -> tuple[str, ...]:
        """What is tracked of each object, in order; empty where nothing is."""
        if not self.tracked or not self.objects:
            return ()
        names = self.observation[ENVIRONMENT_STATE].names
        first = f"{self.objects[0].name}."
        return tuple(name.removeprefix(first) for name in names if name.startswith(first))

    @cached_property
    def pictures(self) -> dict[str, Feature]:
        """The observation's pictures, by camera."""
        return {key.removeprefix(IMAGES): each for key, each in self.observation.items() if each.is_picture}

    @property
    def suits_vision_models(self) -> bool:
        """Whether it sees by cameras of its own: what is seen from straight above is found by another network."""
        return bool(self.pictures) and not self.overhead

    @cached_property
    def cameras(self) -> tuple[Camera, ...]:
        """All that people may watch by: the views first."""
        seen = {camera.name for camera in self.views}
        sizes = ((name, each.shape) for name, each in self.pictures.items() if name not in seen)
        return (*self.views, *(Camera(name, width, height) for name, (height, width, _) in sizes))

    def object_slice(self, name: str) -> slice:
        """Where one object's features stand in observation.environment_state."""
        index = [kind.name for kind in self.objects].index(name)
        size = len(self.object_features)
        return slice(index * size, (index + 1) * size)

    def to_json(self) -> dict[str, Any]:
        """What from_json reads: a station's hello, checkpoints and datasets carry it."""
        return {
            **{each: getattr(self, each) for each in ("name", "fps")},
            "observation": {key: asdict(feature) for key, feature in self.observation.items()},
            "action": asdict(self.action),
            **{each: [_described(part) for part in getattr(self, each)] for each in _PARTS},
            "overhead": self.overhead and asdict(self.overhead),
            "axis": self.axis and asdict(self.axis),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Embodiment":
        """A body as it was described elsewhere; ValueError where that is no description, or contradicts itself."""
        try:
            if "observation" not in data:
                data = present_form(data)
            embodiment = cls(
                name=str(data["name"]),
                fps=float(data["fps"]),
                observation={str(key): _feature(feature) for key, feature in data["observation"].items()},
                action=_feature(data["action"]),
                overhead=Overhead(**data["overhead"]) if data.get("overhead") else None,
                axis=Axis(**data["axis"]) if data.get("axis") else None,
                **{each: tuple(_part(kind, part) for part in data.get(each) or ()) for each, kind in _PARTS.items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"This is no description of a body: {type(error).__name__} at {error}. "
                "Send what Embodiment.to_json() gives."
            ) from None
        embodiment.check()
        return embodiment

    def check(self) -> None:
        """ValueError where it contradicts itself."""
        for problem in self._problems():
            raise ValueError(f"The body {self.name[:LONGEST_NAME]}{problem}"[:LONGEST_PROBLEM])

    def _problems(self) -> Iterator[str]:
        """What is wrong with it, a sentence each, as they go on after its name."""
        if not 0 < len(self.name.strip()) <= len(self.name) <= LONGEST_NAME or not self.name.isprintable():
            yield f" needs a name that can be read, of 1 to {LONGEST_NAME} characters."
        if not is_number(self.fps) or self.fps <= 0:
            yield f" has an fps of {self.fps!r}; it must be a finite number above 0."
        if not self.observation:
            yield " observes nothing; give it at least one feature of observation."
        for key, feature in self.observation.items():
            if problem := _key_problem(key, feature) or _feature_problem(feature):
                yield f", feature {key}: {problem}"
        if self.action.dtype != VECTOR or not self.action.size:
            yield f", feature action: it must be a vector of {VECTOR}, of at least one number."
        elif problem := _feature_problem(self.action):
            yield f", feature action: {problem}"
        elif not self.action.low:
            yield ", feature action: it needs low and high, how far each of its numbers may go."
        yield from self._camera_problems()
        yield from self._object_problems()
        if self.axis and not (is_number(self.axis.x) and is_number(self.axis.y)):
            yield f" stands on an axis at {self.axis.x!r}, {self.axis.y!r}; both must be finite numbers, in metres."
        if self.axis and not (type(self.axis.fold) is int and 1 <= self.axis.fold <= 8):
            yield f" stands on an axis whose fold is {self.axis.fold!r}; it must be a whole number from 1 to 8."
        if self.motions and len(self.motions) != self.action_size:
            yield (
                f" names {self.action_size} actions but declares {len(self.motions)} motions; give one for each action."
            )
        for name, low, high, motion in zip(
            self.action_names, self.action.low, self.action.high, self.motions, strict=False
        ):
            if problem := self._motion_problem(low, high, motion):
                yield f", action {name}: {problem}"
        yield from self._drive_problems()

    def _camera_problems(self) -> Iterator[str]:
        for view in self.views:
            sized = all(type(size) is int and 0 < size <= MOST_PIXELS for size in (view.width, view.height))
            if not (is_name(view.name) and sized):
                yield (
                    f" has the view {view.name!r} of {view.width!r} x {view.height!r}; it needs a name of 1 to "
                    f"{LONGEST_NAME} characters, and a width and a height in pixels."
                )
            if view.plane and not (len(view.plane) == 9 and all(map(is_number, view.plane))):
                yield f" has the view {view.name!r}, whose plane must be 9 finite numbers, not {view.plane!r}."
        if doubled := _doubled([view.name for view in self.views]):
            yield f" has two views named {doubled!r}; give each a name of its own."
        if len(self.cameras) > MOST_CAMERAS:
            yield f" has {len(self.cameras)} cameras; at most {MOST_CAMERAS} are looked at."
        if self.overhead and self.overhead.camera not in [*self.pictures]:
            yield f" sees from above by {self.overhead.camera!r}, which is none of its cameras."
        if self.overhead and not (is_number(scale := self.overhead.metres_per_pixel) and scale > 0):
            yield f" sees from above, but metres_per_pixel must be a finite number above 0, not {scale!r}."

    def _object_problems(self) -> Iterator[str]:
        names = [kind.name for kind in self.objects]
        for kind in self.objects:
            if not (is_name(kind.name) and is_name(kind.colour) and is_name(kind.shape)):
                yield (
                    f" has the object {kind.name!r}; its name, colour and shape must be texts of 1 to {LONGEST_NAME} "
                    "characters."
                )
        if doubled := _doubled(names):
            yield f" has two objects named {doubled!r}; give each a name of its own."
        if self.tracked and self.objects:
            wanted = tuple(f"{name}.{each}" for name in names for each in self.object_features)
            if self.observation[ENVIRONMENT_STATE].names != wanted:
                yield (
                    f", feature {ENVIRONMENT_STATE}: it must hold the same features of each object, in the objects' "
                    'order, named "OBJECT.FEATURE".'
                )

    def _motion_problem(self, low: float, high: float, motion: Motion) -> str:
        """What is wrong with one motion, or nothing."""
        if motion.kind not in MOTIONS:
            return f"the motion {motion.kind!r} is unknown; known are {', '.join(MOTIONS)}."
        if not isinstance(motion.sensed_by, str):
            return f"sensed_by must be a text, not {motion.sensed_by!r}."
        if type(motion.relative) is not bool or (motion.relative and motion.kind != "position"):
            return f"relative is true or false, and true of a position alone; it is {motion.relative!r}."
        if motion.kind == "effort":
            return "an effort has no largest_change: leave it out." if motion.largest_change is not None else ""
        if not is_number(motion.largest_change) or motion.largest_change <= 0:
            return f"largest_change must be a finite number above 0, not {motion.largest_change!r}."
        if motion.kind == "position":
            if motion.sensed_by not in self.state_names:
                return f"sensed_by must name the number of {STATE} that says where the joint is."
        else:
            most = motion.most(self.fps)
            if low >= most or high <= -most:
                return f"all from low to high is more than its largest_change of {motion.largest_change:g} allows."
        return ""

    def _drive_problems(self) -> Iterator[str]:
        if self.drive and not self.motions:
            yield " names what drives it, but not what its actions do; declare its motions."
        if doubled := _doubled([each.axis for each in self.drive]):
            yield f" names the drive axis {doubled!r} twice."
        for each in self.drive:
            if each.axis not in (*DRIVE_AXES, *self.action_names):
                known = ", ".join(DRIVE_AXES)
                yield f" has the drive axis {each.axis!r}; known are {known}, and the names of its actions."
            if each.moves != "" and each.moves not in self.action_names:
                yield f": the drive axis {each.axis!r} moves {each.moves!r}, which is no number of its action."


_PARTS: dict[str, type] = {"motions": Motion, "drive": DriveAxis, "objects": ObjectKind, "views": Camera}


def _described(part: Any) -> dict[str, Any]:
    """As JSON; what older software doesn't know is left out where it says nothing."""
    return {name: value for name, value in asdict(part).items() if name != "plane" or value}


def _part(kind: type, described: Mapping[str, Any]) -> Any:
    return kind(**{name: tuple(value) if name == "plane" else value for name, value in described.items()})


def _feature(data: Mapping[str, Any]) -> Feature:
    names, units, low, high = (tuple(data.get(each) or ()) for each in ("names", "units", "low", "high"))
    shape = tuple(int(size) for size in data["shape"])
    return Feature(str(data["dtype"]), shape, names, tuple(map(float, low)), tuple(map(float, high)), units)


def _doubled(names: Sequence[str]) -> str:
    """The first name that stands there twice, if any."""
    return next((name for i, name in enumerate(names) if name in names[:i]), "")


def _key_problem(key: str, feature: Feature) -> str:
    if feature.dtype not in (VECTOR, PICTURE):
        return f"its dtype is {feature.dtype!r}; vectors are {VECTOR}, pictures {PICTURE}."
    if feature.is_picture:
        name = key.removeprefix(IMAGES)
        if not key.startswith(IMAGES) or not name or "/" in name or len(name) > LONGEST_NAME:
            return f'a picture is called "{IMAGES}CAMERA", and the camera\'s name is short and holds no "/".'
    elif key not in (STATE, ENVIRONMENT_STATE):
        return f"a vector of the observation is called {STATE} or {ENVIRONMENT_STATE}."
    return ""


def _feature_problem(feature: Feature) -> str:
    """What is wrong with one feature, or nothing."""
    if feature.is_picture:
        shape = feature.shape
        if len(shape) != 3 or shape[2] != 3 or min(shape) < 1 or feature.size > 3 * MOST_PIXELS:
            return f"a picture's shape is [height, width, 3], not {list(shape)}."
        if feature.names != PICTURE_NAMES or feature.low or feature.high or feature.units:
            return f"a picture's names are {', '.join(PICTURE_NAMES)}, and it has no low, high or units."
        return ""
    if len(feature.shape) != 1 or not 0 < feature.size <= MOST_NUMBERS:
        return f"a vector's shape is [n], with n from 1 to {MOST_NUMBERS}, not {list(feature.shape)}."
    for each in ("names", "low", "high", "units"):
        if len(getattr(feature, each)) not in ((feature.size,) if each == "names" else (0, feature.size)):
            return f"it has {feature.size} numbers but {len(getattr(feature, each))} {each}; give one for each."
    if bad := [name for name in feature.names if not is_name(name)]:
        return f"each of its names must be a text of 1 to {LONGEST_NAME} characters, and {bad[0]!r} is none."
    if bad := [unit for unit in feature.units if unit != "" and not is_name(unit)]:
        return f"each of its units must be a text of at most {LONGEST_NAME} characters, and {bad[0]!r} is none."
    if doubled := _doubled(feature.names):
        return f"two of its numbers are named {doubled!r}; give each a name of its own."
    if len(feature.low) != len(feature.high):
        return "it has low without high, or high without low; give both."
    for name, low, high in zip(feature.names, feature.low, feature.high, strict=False):
        if not (is_number(low) and is_number(high) and low < high):
            return f"low ({low!r}) of {name} must be below its high ({high!r}), both finite."
    return ""


def is_name(value: object) -> TypeGuard[str]:
    """A text that is neither empty nor too long to be shown."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME


def is_number(value: object) -> TypeGuard[float]:
    """Finite, and such that single precision can hold it."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e30 < value < 1e30


def differences(now: Embodiment, then: Embodiment) -> list[str]:
    """What of a body is no longer as it was when something was recorded or trained with it, for people; empty where all
    that data and networks hang on is the same. What people watch and drive by may differ.
    """
    found = []
    if now.fps != then.fps:
        found.append(f"it acts at {now.fps:g} Hz, and acted at {then.fps:g} Hz")
    for key in sorted({*now.observation, *then.observation}):
        found += _changed(key, now.observation.get(key), then.observation.get(key))
    found += _changed(ACTION, now.action, then.action)
    kinds = [tuple(motion.kind for motion in body.motions) for body in (now, then)]
    if kinds[0] != kinds[1] and all(kinds):
        found.append(f"its actions are {', '.join(kinds[0])}, and were {', '.join(kinds[1])}")
    if now.objects != then.objects:
        names = [[kind.name for kind in body.objects] for body in (now, then)]
        if names[0] == names[1]:  # they look different
            names = [[f"{kind.name} ({kind.colour}, {kind.shape})" for kind in body.objects] for body in (now, then)]
        found.append(f"its objects are {', '.join(names[0]) or 'none'}, and were {', '.join(names[1]) or 'none'}")
    return found


def _changed(key: str, now: Feature | None, then: Feature | None) -> list[str]:
    if now is None or then is None:
        return [f"{key} is {'gone' if now is None else 'new'}"] if now is not then else []
    if (now.dtype, now.shape) != (then.dtype, then.shape):
        return [f"{key} is {now.dtype} {list(now.shape)}, and was {then.dtype} {list(then.shape)}"]
    if now.names != then.names:
        pairs = zip(now.names, then.names, strict=True)
        name, before = next((a, b) for a, b in pairs if a != b)
        return [f"{key} has {name} where it had {before}"]
    if (now.low, now.high) != (then.low, then.high) and now.low and then.low:
        bounds = zip(now.names, now.low, now.high, then.low, then.high, strict=True)
        name, low, high, *was = next(each for each in bounds if each[1:3] != each[3:])
        return [f"{key}: {name} goes from {low:g} to {high:g}, and went from {was[0]:g} to {was[1]:g}"]
    return []


def present_form(data: Mapping[str, Any]) -> dict[str, Any]:
    """A description of before bodies named their features: one vector of proprioception and objects, or one picture
    from above. Checkpoints, datasets and the rows of stations hold such.
    """
    names = tuple(data["body"])
    objects, each = data["objects"], tuple(data["object_features"])
    tracked = [f"{kind['name']}.{feature}" for kind in objects for feature in each]
    limits = [float(limit) for limit in data.get("observation_limit") or ()]
    motions = data.get("motions") or ()
    observation: dict[str, Any] = {}
    if shown := data.get("picture"):
        observation[IMAGES + shown["camera"]] = asdict(picture(shown["width"], shown["height"]))
    else:
        for key, some, most in (
            (STATE, names, limits[: len(names)]),
            (ENVIRONMENT_STATE, tracked, limits[len(names) :]),
        ):
            if some:
                observation[key] = asdict(vector(some, [-each for each in most], most))
    limit = [float(each) for each in data["action_limit"]]
    if motions:
        low, high = ([float(motion[end]) for motion in motions] for end in ("low", "high"))
    else:
        low, high = [-each for each in limit], limit
    planar = [{"axis": axis, "moves": name} for axis, name in zip("xy", data["action_names"], strict=False)]
    return {
        "name": data["name"],
        "fps": data["control_hz"],
        "observation": observation,
        "action": asdict(vector(data["action_names"], low, high)),
        "motions": [{key: value for key, value in motion.items() if key not in ("low", "high")} for motion in motions],
        "drive": planar if motions else [],
        "objects": objects,
        "views": data["cameras"],
        "overhead": shown and {"camera": shown["camera"], "metres_per_pixel": shown["metres_per_pixel"]},
    }


EMBODIMENTS: dict[str, Embodiment] = {}  # the built-in ones by name; robots.worlds.register fills it


def get_embodiment(name: str) -> Embodiment:
    """The built-in body of that name; ValueError, with the known ones, where there is none."""
    try:
        return EMBODIMENTS[name]
    except KeyError:
        raise ValueError(f"There is no embodiment {name!r}; known are {', '.join(sorted(EMBODIMENTS))}.") from None

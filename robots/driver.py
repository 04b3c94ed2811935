"""The driver: a station's world or robot, behind the one door where its calls are guarded and its answers checked.

Many stations share a host, and anybody may have written their worlds. What comes through here has the type and the
size that the body declares, or it is a DriverError with the reason in words; so a driver that fails touches no other
station. What can't be guarded here: a driver that never returns, or one whose library ends the process.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from robots.embodiments import IMAGES, Embodiment, Feature, Observation
from robots.tasks import Instruction
from robots.worlds import World

log = logging.getLogger(__name__)

LONGEST_REASON = 300  # characters

Answer = TypeVar("Answer")


class DriverError(Exception):
    """What a driver did wrong, in words for the person who is asked to come."""


def plain(text: str) -> str:
    """One line without anything that a database or a page can't hold: a driver's words may be any bytes."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST_REASON]


def guarded(what: str, call: Callable[..., Answer], *args: Any) -> Answer:
    """What the call returns; whatever else comes of it is a DriverError, save a person's Ctrl-C."""
    try:
        return call(*args)
    except (KeyboardInterrupt, DriverError):
        raise
    except BaseException as error:  # a driver may call sys.exit, and the panic of a binding is no Exception
        try:
            words = str(error)
        except Exception:
            words = ""
        raise DriverError(plain(f"{what} failed: {words or type(error).__name__}")) from error


class Driver:
    """A World as its station may use it. Observations and pictures are copies: a driver may use its buffers again."""

    def __init__(
        self,
        world: World | None,
        *,
        make: Callable[[], World] | None = None,
        embodiment: Embodiment | None = None,
    ):
        """Instead of a world, `make` may make it, now or at a later reset; then `embodiment` says what it will be."""
        self.world, self._make = world, make
        self.missing = ""  # why there is no world
        if world is not None:
            self.embodiment = _body_of(world)
        elif make is None or embodiment is None:
            raise TypeError("A driver needs a world, or what makes one and the body that it will have.")
        else:
            self.embodiment = embodiment
            try:
                self._make_world(make)
            except DriverError as error:
                self.missing = str(error)

    def _make_world(self, make: Callable[[], World]) -> None:
        world = guarded("making its world", make)
        body = _body_of(world)
        # A station that was told of one body must not be given another later.
        if body.name != self.embodiment.name or (self.missing and body != self.embodiment):
            raise DriverError(
                f"making its world failed: it is a {body.name}, but not the {self.embodiment.name} wanted"
            )
        self.world, self.embodiment, self.missing = world, body, ""

    def _call(self, what: str, name: str, *args: Any) -> Any:
        if self.world is None:
            raise DriverError(self.missing)
        return guarded(what, lambda: getattr(self.world, name)(*args))

    def reset(self, rng: np.random.Generator) -> Observation:
        """Put everything right, with a world made anew where there was none; the observation."""
        if self.world is None and self._make is not None:
            self._make_world(self._make)
        return self._observation("a reset", self._call("a reset", "reset", rng))

    def step(self, action: np.ndarray) -> Observation:
        """One control step with an action [A]; the observation."""
        return self._observation("a step", self._call("a step", "step", action.copy()))

    def observation(self) -> Observation:
        """What is sensed now."""
        return self._observation("a look", self._call("a look", "observation"))

    def _observation(self, what: str, value: Any) -> Observation:
        if not isinstance(value, Mapping):
            raise DriverError(f"{what} failed: it gave {_kind(value)}, not an array for each feature, by key")
        parts: dict[str, Any] = guarded(f"{what}: reading the observation", dict, value)
        return {
            key: self._part(what, key, feature, parts.get(key)) for key, feature in self.embodiment.observation.items()
        }

    def _part(self, what: str, key: str, feature: Feature, value: Any) -> np.ndarray:
        if value is None:
            if feature.is_picture:
                camera = key.removeprefix(IMAGES)
                raise DriverError(
                    f"{what} failed: the camera {camera} sent no picture ({key} is not in the observation); check its "
                    "cable and the program that reads it"
                )
            raise DriverError(f"{what} failed: its observation has no {key}; did that sensor send anything?")
        array: np.ndarray = guarded(f"{what}: reading {key}", np.asarray, value)
        if array.shape != feature.shape:
            raise DriverError(f"{what} failed: its {key} is {_kind(value)}, not {list(feature.shape)}")
        if feature.is_picture and array.dtype != np.uint8:
            raise DriverError(f"{what} failed: its {key} is {array.dtype}, not uint8")
        if array.dtype.kind not in "fiu":
            raise DriverError(f"{what} failed: its {key} is of {array.dtype}, not of numbers")
        with np.errstate(over="ignore"):
            array = array.astype(feature.dtype)  # a copy
        if not feature.is_picture and not np.isfinite(array).all():
            raise DriverError(f"{what} failed: its {key} holds NaN or infinity")
        return array

    def driven(self, axes: Mapping[str, float]) -> np.ndarray:
        """The action [A] by which a person moves it: what it makes of axes that no single number moves."""
        every = {each.axis: float(axes.get(each.axis, 0.0)) for each in self.embodiment.drive}
        value = self._call("driving it", "driven", every)
        array: np.ndarray = guarded("driving it", lambda: np.array(value, np.float32))
        if array.shape != (self.embodiment.action_size,) or not np.isfinite(array).all():
            raise DriverError(
                f"driving it failed: it gave {_kind(value)}, not {self.embodiment.action_size} finite numbers"
            )
        return array

    def true_success(self, instruction: Instruction) -> bool | None:
        """None: the driver doesn't know."""
        value = self._call("its success sensor", "true_success", instruction)
        if value is None or isinstance(value, (bool, np.bool_)):
            return None if value is None else bool(value)
        raise DriverError(f"its success sensor failed: it gave {_kind(value)}, not True, False or None")

    def sensed(self, instruction: Instruction) -> dict[str, float]:
        """What its sensors tell of an attempt, by name; {}: it has none."""
        if self.world is None or not guarded("looking for its sensors", hasattr, self.world, "sensed"):
            return {}
        value = self._call("reading its sensors", "sensed", instruction)
        if not isinstance(value, Mapping):
            raise DriverError(f"reading its sensors failed: sensed gave {_kind(value)}, not numbers by name")
        told = guarded("reading its sensors", lambda: {name: float(number) for name, number in value.items()})
        if not all(isinstance(name, str) and np.isfinite(number) for name, number in told.items()):
            raise DriverError("reading its sensors failed: each needs a name and a finite number")
        return told

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        """Why a person must reset it, in one line; empty where nobody must."""
        value = self._call("asking for a reset", "needs_reset", fewest_objects)
        if not isinstance(value, str):
            raise DriverError(f"asking for a reset failed: needs_reset gave {_kind(value)}, not a text")
        return plain(value)

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        """The action [A], turned aside where it would push an object within `margin` metres of an edge."""
        value = self._call("the fence", "fenced", action.copy(), margin)
        array: np.ndarray = guarded("the fence", lambda: np.array(value, np.float32))
        if array.shape != action.shape or not np.isfinite(array).all():
            raise DriverError(f"the fence failed: it gave {_kind(value)}, not {len(action)} finite numbers")
        return array

    def objects_in_play(self) -> dict[str, tuple[float, float]]:
        """Where each object lies that an instruction may name, in metres."""
        value = self._call("finding the objects", "objects_in_play")
        if not isinstance(value, Mapping):
            raise DriverError(f"finding the objects failed: objects_in_play gave {_kind(value)}, not a mapping")
        places = guarded("finding the objects", lambda: {name: tuple(map(float, at)) for name, at in value.items()})
        for name, place in places.items():
            if not isinstance(name, str) or len(place) != 2 or not np.isfinite(place).all():
                raise DriverError("finding the objects failed: each needs a name and two finite numbers")
        return {name: (x, y) for name, (x, y) in places.items()}

    def instruction(self) -> str:
        """What its world asks for itself since the last reset; empty: nothing of its own."""
        if self.world is None or not guarded("asking for its words", hasattr, self.world, "instruction"):
            return ""
        value = self._call("asking for its words", "instruction")
        if not isinstance(value, str):
            raise DriverError(f"asking for its words failed: instruction gave {_kind(value)}, not a text")
        return plain(value)

    @property
    def resets_itself(self) -> bool:
        """Whether a reset needs no person. One that doesn't say so, or can't, needs one."""
        try:
            return guarded("asking whether it resets itself", getattr, self.world, "resets_itself", False) is True
        except DriverError as error:
            log.warning("%s", error)
            return False

    @property
    def renderer(self) -> str:
        """How it makes its pictures; empty where it can't say."""
        try:
            name = guarded("its camera", lambda: self.world.renderer if self.world is not None else "")
        except DriverError as error:
            log.warning("%s", error)
            return ""
        return name if isinstance(name, str) else ""

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        """uint8 [H, W, 3], of whatever size that camera has"""
        name = f"its camera {camera}"
        return as_picture(self._call(name, "render", camera, width, height), name)

    def close(self) -> None:
        """Free the world; what fails meanwhile is only logged."""
        if self.world is None:
            return
        try:
            self._call("closing its world", "close")
        except DriverError as error:
            log.exception("%s", error)


def _body_of(world: World) -> Embodiment:
    body = guarded("asking for its body", lambda: world.embodiment)
    if not isinstance(body, Embodiment):
        raise DriverError(f"its embodiment is {_kind(body)}, not an Embodiment")
    guarded("reading its body", body.check)
    return body


def _kind(value: object) -> str:
    """What a driver gave instead, without calling any code of its own."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def as_picture(value: Any, camera: str = "the camera") -> np.ndarray:
    """What cameras give, as uint8 [H, W, 3], always a copy; DriverError where nobody could tell what it shows.

    Grey [H, W] and [H, W, 1], with an alpha channel [H, W, 4], channels first [3, H, W], one picture in a batch; bool,
    any integers (uint16 in its full range) and floats, in 0..1 or, where any is above 1, in 0..255.
    """
    if value is None:
        raise DriverError(f"{camera} gave no picture")
    array: np.ndarray = guarded(f"reading the picture of {camera}", np.array, value)
    shape = array.shape
    while array.ndim > 3 and len(array) == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise DriverError(f"{camera} gave an array of shape {shape}, which is no picture of height x width x colours")
    array = array[:, :, :3]
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = array // 257
    elif array.dtype.kind in "iu":
        array = array.clip(0, 255)
    elif array.dtype.kind == "f":
        finite = np.isfinite(array)
        if not finite.any():
            raise DriverError(f"{camera} gave a picture of NaN or infinity only")
        array = np.where(finite, array, 0)  # where a depth camera sees nothing
        array = np.rint(array.clip(0, None) * 255 if array.max() <= 1 else array.clip(0, 255))
    else:
        raise DriverError(f"{camera} gave a picture of {array.dtype}, not of numbers")
    if array.shape[2] == 1:
        array = array.repeat(3, axis=2)
    return np.ascontiguousarray(array, np.uint8)

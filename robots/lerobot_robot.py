"""A LeRobot `Robot` as a station's world: its features become a body, its calls a step, a look and a picture.

Any object with LeRobot's methods will do, so nothing of lerobot is imported here (lerobot_devices.py makes what a
person names on the command line). A call to the robot has a time limit, since a bus that is silent must not hold up
the station. Cameras are taken from the robot and read in threads of their own: the newest picture counts, and one that
is lost stops nothing but what reads it.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np
from PIL import Image

from robots.driver import DriverError, as_picture, plain
from robots.embodiments import IMAGES, STATE, Camera, DriveAxis, Embodiment, Motion, Observation, picture, vector
from robots.real_robot import RealRobot

log = logging.getLogger(__name__)

CALL_S, CONNECT_S = 1.0, 30.0  # seconds that a robot may take to answer, and to connect or disconnect
FIRST_PICTURE_S = 3.0  # a camera may take so long to begin
STALE_S = 1.0  # a camera that sent nothing for so long is lost
AGAIN_S = 2.0  # it is opened anew after so long
PICTURE_WIDTH = 128  # pixels, of what a policy sees and episodes keep
LARGEST_CHANGE = 5.0  # per cent of a joint's range, in one step
DEGREES_ROUNDED = 10.0  # a range in degrees, so that calibrating anew does not make another body
FULL_ARM = 6  # joints, from which on a hand can turn about every axis


class Device(Protocol):
    """What LeRobot's robots and teleoperators have in common, as far as it is used."""

    name: str

    @property
    def action_features(self) -> Mapping[str, Any]:
        """float of each number, by name."""

    @property
    def is_connected(self) -> bool:
        """Whether its bus is open."""

    @property
    def is_calibrated(self) -> bool:
        """Whether its motors know their ranges."""

    def connect(self, calibrate: bool = True) -> None:
        """Open its bus and configure its motors."""

    def disconnect(self) -> None:
        """Torque off, where its configuration says so, and close its bus."""


class Robot(Device, Protocol):
    """What is used of lerobot.robots.Robot."""

    @property
    def observation_features(self) -> Mapping[str, Any]:
        """float of each number, (height, width, channels) of each camera, by name."""

    def get_observation(self) -> Mapping[str, Any]:
        """What it senses, by name."""

    def send_action(self, action: dict[str, float]) -> Any:
        """Tell its motors where to go, by name."""


class LeaderDevice(Device, Protocol):
    """What is used of lerobot.teleoperators.Teleoperator."""

    def get_action(self) -> Mapping[str, float]:
        """Where it is, by the names of the robot's action."""


class CameraDevice(Protocol):
    """What is used of lerobot.cameras.Camera."""

    def connect(self) -> None:
        """Open it."""

    def async_read(self, timeout_ms: float = 200) -> np.ndarray:
        """The next picture [H, W, 3]; an error where none comes in time."""

    def disconnect(self) -> None:
        """Close it."""


class CartesianDrive(Protocol):
    """What turns pushes into joint positions (CartesianArm in cartesian.py)."""

    def action(self, axes: Mapping[str, float], observation: Observation, told: np.ndarray | None) -> np.ndarray:
        """The action [A] for a push of each axis from -1 to 1."""


# The body


def body_of(
    robot: Robot,
    fps: float,
    *,
    largest_change: float = LARGEST_CHANGE,
    picture_width: int = PICTURE_WIDTH,
    ranges: Mapping[str, Sequence[float]] | None = None,
    cartesian: bool = False,
) -> Embodiment:
    """The body that a robot's features describe, also while it is disconnected; ValueError where they leave something
    open. `largest_change` is in per cent of each number's range, `ranges` says low and high by name where the robot's
    calibration doesn't, or for less than all of it.
    """
    seen, acted = robot.observation_features, list(robot.action_features)
    numbers = [name for name, kind in seen.items() if not isinstance(kind, tuple)]
    cameras = {name: shape for name, shape in seen.items() if isinstance(shape, tuple) and shape[2:] == (3,)}
    for name in seen.keys() - cameras.keys() - set(numbers):
        log.warning("%s: %s is no picture of three colours, and is left out.", robot.name, name)
    known = {name: _range(robot, name) for name in {*numbers, *acted}}
    known |= {name: (float(low), float(high), "") for name, (low, high) in (ranges or {}).items()}
    if unknown := [name for name in acted if known[name] is None]:
        told = ", ".join(f'"{name}": [LOW, HIGH]' for name in unknown)
        raise ValueError(f"{robot.name} doesn't say how far {', '.join(unknown)} may go; add --ranges '{{{told}}}'.")
    low, high, units = zip(*(known[name] or () for name in acted), strict=True)
    motions = tuple(_motion(name, numbers, each[:2], fps, largest_change) for name, each in _of(known, acted))
    bounds = [bound for name in numbers if (bound := known[name]) is not None]
    state = zip(*bounds, strict=True) if len(bounds) == len(numbers) else ()
    sizes = {name: (width, height) for name, (height, width, _) in cameras.items()}
    body = Embodiment(
        name=robot.name,
        fps=fps,
        observation={
            **({STATE: vector(numbers, *state)} if numbers else {}),
            **{IMAGES + name: picture(*_smaller(size, picture_width)) for name, size in sizes.items()},
        },
        action=vector(acted, low, high, units),
        motions=motions,
        drive=_drive(acted, cartesian),
        views=tuple(Camera(name, *size) for name, size in sizes.items()),
    )
    body.check()
    return body


def _of(known: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, tuple[float, float, str]]]:
    return [(name, known[name]) for name in names]


def _range(robot: Robot, name: str) -> tuple[float, float, str] | None:
    """Low, high and unit of one number, by how its motor is normalised and calibrated; None: nobody says."""
    bus, joint = getattr(robot, "bus", None), name.removesuffix(".pos")
    motor = getattr(bus, "motors", {}).get(joint)
    if motor is None or joint == name:
        return None
    match getattr(motor.norm_mode, "value", motor.norm_mode):
        case "range_0_100":
            return 0.0, 100.0, "%"
        case "range_m100_100":
            return -100.0, 100.0, ""
        case "degrees":
            calibration = getattr(robot, "calibration", {}).get(joint)
            resolution = getattr(bus, "model_resolution_table", {}).get(motor.model)
            if calibration is None or resolution is None:
                return -180.0, 180.0, "deg"
            # The middle of the calibrated range is 0.
            half = (calibration.range_max - calibration.range_min) / 2 * 360 / (resolution - 1)
            half = math.ceil(half / DEGREES_ROUNDED - 1e-6) * DEGREES_ROUNDED
            return -half, half, "deg"
    return None


def _motion(name: str, numbers: Sequence[str], ends: tuple[float, float], fps: float, largest_change: float) -> Motion:
    low, high = ends
    if name.endswith(".vel"):
        return Motion("velocity", max(abs(low), abs(high)) / fps)
    if name not in numbers:
        raise ValueError(
            f"{name} is acted, but not observed, so nobody could tell how far it is from where it is told."
        )
    return Motion("position", largest_change / 100 * (high - low), sensed_by=name)


def _drive(acted: Sequence[str], cartesian: bool) -> tuple[DriveAxis, ...]:
    """The hand's axes where a model of the arm is given, the gripper, and each joint by itself."""
    grippers = [name for name in acted if "gripper" in name]
    gripper = grippers[0] if len(grippers) == 1 else None
    joints = [name for name in acted if name != gripper]
    turns = ("roll", "pitch", "yaw") if len(joints) >= FULL_ARM else ("pitch", "roll")
    return (
        *(DriveAxis(axis) for axis in (("x", "y", "z", *turns) if cartesian else ())),
        *((DriveAxis("gripper", gripper),) if gripper else ()),
        *(DriveAxis(joint, joint) for joint in joints),
    )


def _smaller(size: tuple[int, int], width: int) -> tuple[int, int]:
    """Width and height of a picture of the same proportions that is no wider."""
    width = min(width, size[0])
    return width, max(1, round(size[1] * width / size[0]))


# Calls to the hardware


class Caller:
    """Makes one device's calls in a thread of its own, and waits no longer than a limit for what they answer."""

    def __init__(self, device: str):
        self.device = device
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._under_way: Future[Any] | None = None
        self.closed = False
        threading.Thread(target=self._run, name=device, daemon=True).start()

    def _run(self) -> None:
        while (waiting := self._calls.get()) is not None:
            future, call = waiting
            try:
                future.set_result(call())
            except BaseException as error:  # whatever a driver raises is said to who asked
                future.set_exception(error)

    def call(self, what: str, limit_s: float, call: Callable[[], Any]) -> Any:
        """What it returns; DriverError where it fails or takes too long, and for as long as it then goes on."""
        if self.closed:
            raise DriverError(f"{what} failed: {self.device} is closed")
        if self._under_way is not None and not self._under_way.done():
            raise DriverError(f"{what} failed: {self.device} still does not answer; look at its power and its cable")
        self._under_way = future = Future[Any]()
        self._calls.put((future, call))
        try:
            return future.result(limit_s)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and not future.done():
                raise
            if not future.done():
                raise DriverError(
                    f"{what} failed: {self.device} did not answer within {limit_s:g} s; look at its power and its cable"
                ) from None
            if isinstance(error, DriverError):
                raise
            raise DriverError(plain(f"{what} failed: {str(error) or type(error).__name__}")) from error

    def close(self) -> None:
        """End the thread, once what is under way has ended."""
        self.closed = True
        self._calls.put(None)


class Eye:
    """One camera, read in a thread of its own as fast as it sends. A lost one is opened anew every two seconds."""

    def __init__(self, name: str, camera: CameraDevice, size: tuple[int, int]):
        self.name, self._camera, self._size = name, camera, size
        self._newest: tuple[float, np.ndarray, np.ndarray] | None = None  # when; as it came; as a policy sees it
        self._reason = "it has sent nothing yet"
        self._closing = threading.Event()
        self._came = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"camera {name}", daemon=True)
        self._thread.start()

    def newest(self) -> tuple[np.ndarray, np.ndarray]:
        """The newest picture as it came, and as a policy sees it; DriverError where the camera is lost."""
        if self._newest is None or time.monotonic() - self._newest[0] > STALE_S:
            raise DriverError(f"the camera {self.name} is lost: {self._reason}")
        return self._newest[1:]

    def wait(self, seconds: float) -> None:
        """Until the first picture has come, or so long."""
        self._came.wait(seconds)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._camera.connect()
                self._read()
            except BaseException as error:  # the thread is the camera's for good
                self._reason = plain(str(error) or type(error).__name__)
                if not self._closing.is_set():
                    log.warning("The camera %s is lost: %s", self.name, self._reason)
            try:
                self._camera.disconnect()
            except BaseException as error:
                log.debug("The camera %s: %s", self.name, error)
            self._closing.wait(AGAIN_S)

    def _read(self) -> None:
        lost = True
        while not self._closing.is_set():
            whole = as_picture(self._camera.async_read(timeout_ms=1000 * STALE_S))
            self._newest = time.monotonic(), whole, shrunk(whole, self._size)
            self._came.set()
            if lost:
                log.info("The camera %s sends pictures.", self.name)
            lost, self._reason = False, "it has sent nothing for a while"

    def close(self) -> None:
        """End the thread, within two seconds."""
        self._closing.set()
        self._thread.join(2)


def shrunk(whole: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] as a picture of that width and height"""
    if whole.shape[1::-1] == size:
        return whole
    return np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.BOX))


def take_cameras(robot: Robot) -> dict[str, CameraDevice]:
    """The cameras of a robot that reads them itself, which from now on it knows nothing of; empty where they are read
    in another way, such as over a network, and then its observations bring the pictures. To be called once.
    """
    cameras = getattr(robot, "cameras", None)
    pictures = {name for name, kind in robot.observation_features.items() if isinstance(kind, tuple)}
    if not cameras or not cameras.keys() <= pictures:
        return {}
    robot.cameras = {}  # type: ignore[attr-defined]
    return dict(cameras)


# The world


class LeRobotWorld(RealRobot):
    """A connected robot as the driver of a station uses it. Making it connects; DriverError where that fails.

    `reads` says which features of the observation must not be missing now; a lost camera's picture is black where
    nobody reads it.
    """

    def __init__(
        self,
        robot: Robot,
        body: Embodiment,
        cameras: Mapping[str, CameraDevice],
        *,
        calibrate: str = "lerobot-calibrate",
        reads: Callable[[], Collection[str]] = frozenset,
        arm: CartesianDrive | None = None,
    ):
        self.embodiment, self._robot, self._arm = body, robot, arm
        self._calibrate, self._reads = calibrate, reads
        self._told: np.ndarray | None = None
        self._seen: Observation | None = None
        self._frames: dict[str, np.ndarray] = {}  # pictures as they came with the newest observation, by camera
        self._caller = Caller(robot.name)
        try:
            self._connect()
        except DriverError:
            self._caller.close()
            raise
        sizes = {name: (feature.shape[1], feature.shape[0]) for name, feature in body.pictures.items()}
        self._eyes = {name: Eye(name, camera, sizes[name]) for name, camera in cameras.items() if name in sizes}
        for eye in self._eyes.values():
            eye.wait(FIRST_PICTURE_S)

    def _connect(self) -> None:
        try:
            self._caller.call("connecting", CONNECT_S, lambda: self._robot.connect(calibrate=False))
            calibrated = self._caller.call("asking for its calibration", CALL_S, lambda: self._robot.is_calibrated)
        except DriverError:
            self._disconnect()
            raise
        if not calibrated:
            self._disconnect()
            raise DriverError(f"{self._robot.name} is not calibrated: run {self._calibrate} on its machine, then reset")

    def _disconnect(self) -> None:
        """What fails meanwhile is only logged; a bus of which no motor answers is closed all the same."""
        try:
            self._caller.call("disconnecting", CONNECT_S, self._close_bus)
        except DriverError as error:
            log.warning("%s", error)

    def _close_bus(self) -> None:
        try:
            if self._robot.is_connected:
                self._robot.disconnect()
        except Exception:
            bus = getattr(self._robot, "bus", None)
            if bus is None:
                raise
            bus.disconnect(False)  # as it can't be told to let go of its motors
            raise

    def reset(self, rng: np.random.Generator) -> Observation:
        """A look, since a person puts things in order; over a new connection where the old one is dead."""
        self._told = None
        try:
            return self.observation()
        except DriverError as error:
            log.warning("%s; connecting anew", error)
        self._disconnect()
        self._connect()
        return self.observation()

    def send(self, action: np.ndarray) -> None:
        """Tell its motors where to go."""
        told = {name: float(value) for name, value in zip(self.embodiment.action_names, action, strict=True)}
        self._caller.call("sending an action", CALL_S, lambda: self._robot.send_action(told))
        self._told = np.array(action, np.float32)

    def observation(self) -> Observation:
        """What the motors say now, and the newest pictures."""
        sensed = self._caller.call("reading it", CALL_S, self._robot.get_observation)
        observation: Observation = {}
        for key, feature in self.embodiment.observation.items():
            if feature.is_picture:
                observation[key] = self._picture(key, feature.shape, sensed)
            elif missing := [name for name in feature.names if name not in sensed]:
                raise DriverError(f"reading it failed: it gave no {', '.join(missing)}")
            else:
                observation[key] = np.array([sensed[name] for name in feature.names], np.float32)
        self._seen = observation
        return observation

    def _picture(self, key: str, shape: tuple[int, ...], sensed: Mapping[str, Any]) -> np.ndarray:
        camera = key.removeprefix(IMAGES)
        try:
            if camera in self._eyes:
                return self._eyes[camera].newest()[1]
            self._frames.pop(camera, None)
            self._frames[camera] = as_picture(sensed.get(camera))
            return shrunk(self._frames[camera], (shape[1], shape[0]))
        except DriverError:
            if key in self._reads():
                raise
            return np.zeros(shape, np.uint8)

    def driven(self, axes: Mapping[str, float]) -> np.ndarray:
        """By inverse kinematics, from what was seen last: the station has just looked."""
        if self._arm is None or self._seen is None:
            raise DriverError(f"{self._robot.name} has no model of its arm; start it with --mjcf and --frame")
        return self._arm.action(axes, self._seen, self._told)

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        """The newest picture, of the camera's own size."""
        if camera in self._eyes:
            return self._eyes[camera].newest()[0]
        if camera not in self._frames:
            raise DriverError(f"the camera {camera} has sent nothing yet")
        return self._frames[camera]

    def close(self) -> None:
        """Disconnect, by which its driver takes the torque off. A second time nothing is left to do."""
        if self._caller.closed:
            return
        for eye in self._eyes.values():
            eye.close()
        self._disconnect()
        self._caller.close()


class Leader:
    """A LeRobot Teleoperator as the station's own device (teleoperation.py). ValueError where it does not tell what the
    body's actions need.
    """

    def __init__(self, device: LeaderDevice, body: Embodiment, calibrate: str = "lerobot-calibrate"):
        self.name = device.name.replace("_", " ")
        if missing := [name for name in body.action_names if name not in device.action_features]:
            raise ValueError(
                f"The teleoperator {self.name} tells {', '.join(device.action_features) or 'nothing'}, but "
                f"{body.name} is also to be told {', '.join(missing)}; name one of the same joints, such as its leader."
            )
        self._device, self._names, self._calibrate = device, body.action_names, calibrate
        self._caller = Caller(self.name)

    def action(self, observation: Observation) -> np.ndarray:
        """Where the leader is now [A]; it is connected when it is first asked, and again where it was lost."""
        if not self._caller.call("asking for it", CALL_S, lambda: self._device.is_connected):
            self.connect()
        told = self._caller.call("reading it", CALL_S, self._device.get_action)
        return np.array([told[name] for name in self._names], np.float32)

    def connect(self) -> None:
        """DriverError where it can't be connected, or is not calibrated."""
        self._caller.call("connecting", CONNECT_S, lambda: self._device.connect(calibrate=False))
        if not self._caller.call("asking for its calibration", CALL_S, lambda: self._device.is_calibrated):
            self.close()
            raise DriverError(f"it is not calibrated: run {self._calibrate} on its machine, and choose it again")

    def close(self) -> None:
        """What fails meanwhile is only logged."""
        try:
            self._caller.call("disconnecting", CONNECT_S, self._disconnect)
        except DriverError as error:
            log.warning("%s: %s", self.name, error)

    def _disconnect(self) -> None:
        if self._device.is_connected:
            self._device.disconnect()

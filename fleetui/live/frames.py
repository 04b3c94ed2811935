"""The newest frame of each camera, in this (only) web process. Frames are never queued and never pass through Valkey.

A viewer wants the frames of a station's camera at some rate and size; the station is asked for the cameras that any
viewer wants, at the highest rate that any wants, as far as all of them together keep to FPS_LIMIT. While nobody watches
it sends few and small ones of its first camera, which rewind.py keeps for who is called later.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from fleetui.live import rewind
from robots import protocol

SIZES = {"small": (160, 120), "large": (320, 240)}
FPS_LIMIT = 30  # of one viewer, and of all cameras of a station together
LARGEST_FRAME = 512 * 1024
HEADER_BYTES = 16  # step, episode number, time of capture; but for the first camera its number follows, in one byte
JPEG = b"\xff\xd8"
TIME = struct.Struct(">d")


@dataclass(eq=False)
class Watch:
    """One viewer's wish; `wake` is called when a newer frame is there."""

    station: int
    slug: str
    camera: str  # by its name; "": the first
    fps: float
    size: str
    wake: Callable[[], None]
    next_at: float = 0.0
    sent: bytes | None = field(default=None, repr=False)


_newest: dict[int, dict[int, bytes]] = {}  # by station and number of the camera
_cameras: dict[int, tuple[str, ...]] = {}  # of the stations that are here: the names of their cameras
_watches: dict[int, set[Watch]] = {}
_asked: dict[int, protocol.Watch] = {}
_ask: dict[int, Callable[[protocol.Watch], None]] = {}


def stamp(frame: bytes, now: float) -> bytes:
    """The frame with this server's time in place of its station's, whose clock may be an hour off: pages show ages."""
    return frame[:8] + TIME.pack(now) + frame[HEADER_BYTES:]


def take_frame(station: int, frame: bytes, now: float) -> None:
    """A frame as the station sent it; what is none, or of a camera that its body does not have, is dropped."""
    number, start = 0, HEADER_BYTES
    if not frame.startswith(JPEG, start) and len(frame) > start:
        number, start = frame[start], start + 1
    names = _cameras.get(station)
    if names is None or len(frame) > LARGEST_FRAME or not frame.startswith(JPEG, start) or number >= max(1, len(names)):
        return
    _newest.setdefault(station, {})[number] = stamp(frame, now)
    if number == 0:
        rewind.keep_frame(station, frame[start:])
    for watch in _watches.get(station, ()):
        if _number_of(watch) == number:
            watch.wake()


def newest_for(watch: Watch) -> bytes | None:
    """The newest frame that the viewer wants, if any has come."""
    number = _number_of(watch)
    return None if number is None else _newest.get(watch.station, {}).get(number)


def _number_of(watch: Watch) -> int | None:
    """The camera's number at the station; None where its body has none of that name."""
    names = _cameras.get(watch.station, ())
    if not watch.camera:
        return 0
    return names.index(watch.camera) if watch.camera in names else None


def add_watch(watch: Watch) -> None:
    _watches.setdefault(watch.station, set()).add(watch)
    _ask_station(watch.station)


def remove_watch(watch: Watch) -> None:
    watches = _watches.get(watch.station, set())
    watches.discard(watch)
    if not watches:
        _watches.pop(watch.station, None)
    _ask_station(watch.station)


def wanted(station: int) -> protocol.Watch:
    """The `watch` message for the station: the most that any of its viewers wants. The first camera is always among
    them, for the rewind.
    """
    watches, names = _watches.get(station, ()), _cameras.get(station, ())
    numbers = sorted({0} | {number for watch in watches if (number := _number_of(watch)) is not None})
    width, height = max((SIZES[watch.size] for watch in watches), default=SIZES["small"])
    fps = max((watch.fps for watch in watches), default=rewind.UNWATCHED_FPS)
    cameras = tuple(names[number] for number in numbers) if numbers != [0] else ()
    return protocol.Watch(fps=min(fps, FPS_LIMIT / len(numbers)), width=width, height=height, cameras=cameras)


def add_cameras(station: int, names: tuple[str, ...], ask: Callable[[protocol.Watch], None]) -> None:
    """A station has connected, with these cameras; `ask` sends it a watch message, now and whenever the demand
    changes.
    """
    _cameras[station], _ask[station] = names, ask
    _newest.pop(station, None)
    _asked[station] = wanted(station)
    ask(_asked[station])


def remove_cameras(station: int) -> None:
    for each in (_cameras, _ask, _asked, _newest):
        each.pop(station, None)


def _ask_station(station: int) -> None:
    message = wanted(station)
    if station in _ask and message != _asked.get(station):
        _asked[station] = message
        _ask[station](message)

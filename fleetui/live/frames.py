"""The newest camera frame of each station, in this (only) web process. Frames are never queued and never pass through
Valkey.

A viewer wants a station's frames at some rate and size; the station is asked for the highest that any viewer wants.
While nobody watches it sends few and small ones, which rewind.py keeps for who is called later.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from fleetui.live import rewind
from robots import protocol

SIZES = {"small": (160, 120), "large": (320, 240)}
FPS_LIMIT = 30
LARGEST_FRAME = 512 * 1024
HEADER_BYTES = 16  # step, episode number, time of capture
TIME = struct.Struct(">d")


@dataclass(eq=False)
class Watch:
    """One viewer's wish; `wake` is called when a newer frame is there."""

    station: int
    slug: str
    fps: float
    size: str
    wake: Callable[[], None]
    next_at: float = 0.0
    sent: bytes | None = field(default=None, repr=False)


newest: dict[int, bytes] = {}
_watches: dict[int, set[Watch]] = {}
_asked: dict[int, protocol.Watch] = {}
_ask: dict[int, Callable[[protocol.Watch], None]] = {}


def stamp(frame: bytes, now: float) -> bytes:
    """The frame with this server's time in place of its station's, whose clock may be an hour off: pages show ages."""
    return frame[:8] + TIME.pack(now) + frame[HEADER_BYTES:]


def put_frame(station: int, frame: bytes) -> None:
    newest[station] = frame
    rewind.keep_frame(station, frame[HEADER_BYTES:])
    for watch in _watches.get(station, ()):
        watch.wake()


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
    """The `watch` message for the station: the most that any of its viewers wants."""
    watches = _watches.get(station, ())
    width, height = max((SIZES[watch.size] for watch in watches), default=SIZES["small"])
    fps = max((watch.fps for watch in watches), default=rewind.UNWATCHED_FPS)
    return protocol.Watch(fps=fps, width=width, height=height)


def add_camera(station: int, ask: Callable[[protocol.Watch], None]) -> None:
    """A station has connected; `ask` sends it a watch message, now and whenever the demand changes."""
    _ask[station] = ask
    _asked[station] = wanted(station)
    ask(_asked[station])


def remove_camera(station: int) -> None:
    _ask.pop(station, None)
    _asked.pop(station, None)
    newest.pop(station, None)


def _ask_station(station: int) -> None:
    message = wanted(station)
    if station in _ask and message != _asked.get(station):
        _asked[station] = message
        _ask[station](message)

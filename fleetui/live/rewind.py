"""The last half minute of every station, whether anybody watched or not: what it said, and what its first camera saw.

Kept in this (only) web process as it passes by, so that a supervisor who is called can see what happened just before,
also of a station that has gone since. While a station stands still its ring does too: who comes after a minute sees
what led to the call and not a still table. In memory: about 0.3 MB a station, and up to 2 while its page is open, for
larger pictures come then. Finished episodes are on disk in full.
"""

import base64
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, TypeVar

from robots.protocol import IN_EPISODE

KEPT_S = 30.0
# What a station is asked for when nobody watches: enough to see a slip, and hardly a load for its computer.
UNWATCHED_FPS = 2
STILL_S = 3.0  # so much of a standstill is kept
CLOSEST_S = 0.19  # the page plays five a second, however many a viewer asks for
LARGEST_BYTES = 4 * 2**20  # of one station's pictures
TOLD = ("uuid", "step", "limit", "d", "p_success", "threshold", "state", "reason", "instruction", "human")
Kept = TypeVar("Kept")


@dataclass
class Past:
    samples: deque[tuple[float, dict[str, Any]]] = field(default_factory=deque)  # (monotonic time, card fields)
    frames: deque[tuple[float, bytes]] = field(default_factory=deque)  # (monotonic time, JPEG)
    moved_at: float = -math.inf

    @property
    def still(self) -> bool:
        return bool(self.samples) and time.monotonic() - self.moved_at > STILL_S


_pasts: dict[int, Past] = {}


def note(station: int, card: dict[str, Any]) -> None:
    past = _pasts.setdefault(station, Past())
    # An override with a reason is one that nobody drives.
    moving = card["state"] in IN_EPISODE or (card["state"] == "overridden" and not card["reason"])
    if moving or not past.samples:
        past.moved_at = time.monotonic()
    if not past.still and not _just(past.samples, card):
        _put(past.samples, {name: card.get(name) for name in TOLD})


def keep_frame(station: int, jpeg: bytes) -> None:
    past = _pasts.setdefault(station, Past())
    if not past.still and not _just(past.frames):
        _put(past.frames, jpeg)
        while sum(len(each) for _, each in past.frames) > LARGEST_BYTES:
            past.frames.popleft()


def _just(ring: deque[tuple[float, Any]], card: dict[str, Any] | None = None) -> bool:
    """Whether something was put there a moment ago; a change of state or attempt is always put."""
    if not ring or time.monotonic() - ring[-1][0] >= CLOSEST_S:
        return False
    return card is None or all(card[name] == ring[-1][1][name] for name in ("state", "uuid"))


def _put(ring: deque[tuple[float, Kept]], what: Kept) -> None:
    now = time.monotonic()
    ring.append((now, what))
    while ring[0][0] < now - KEPT_S:
        ring.popleft()


def of_station(station: int) -> dict[str, Any]:
    """{"seconds", "ended_s_ago", "samples": [{"at", ...}], "frames": [{"at", "jpeg"}]}, oldest first; `at` counts the
    seconds from the end and is 0 or less. The end is now, a little after the station came to a stand, or its last word.
    """
    past = _pasts.get(station)
    if past is None or not past.samples:
        return {"seconds": KEPT_S, "ended_s_ago": None, "samples": [], "frames": []}
    samples, frames = tuple(past.samples), tuple(past.frames)  # the loop's thread goes on putting
    end = max(ring[-1][0] for ring in (samples, frames) if ring)

    def recent(ring: tuple[tuple[float, Kept], ...]) -> list[tuple[float, Kept]]:
        return [(round(at - end, 3), what) for at, what in ring if at >= end - KEPT_S]

    return {
        "seconds": KEPT_S,
        "ended_s_ago": round(time.monotonic() - end, 1),
        "samples": [{"at": at, **card} for at, card in recent(samples)],
        "frames": [{"at": at, "jpeg": base64.b64encode(jpeg).decode()} for at, jpeg in recent(frames)],
    }

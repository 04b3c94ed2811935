"""What a browser's message says, read with a sentence for what can't be."""

import time
from typing import Any

from fleetui.live.sockets import BadRequest


def age_of(message: dict[str, Any]) -> float:
    """Seconds since the browser sent it, by this process' steady clock as the browser knows it from the heartbeats: a
    wall clock may jump.
    """
    sent_at = message.get("sent_at")
    if sent_at is None:
        return 0.0
    if isinstance(sent_at, bool) or not isinstance(sent_at, (int, float)) or not -1e12 < sent_at < 1e12:
        raise BadRequest("sent_at must be the server's steady clock in seconds.")
    return max(0.0, time.monotonic() - sent_at)


def refuse_late(command: dict[str, Any], ttl_ms: Any) -> None:
    """A click that waited on the way here must not act late either; only a stop is never too late."""
    if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, (int, float)) or not 0 <= ttl_ms <= 60_000:
        raise BadRequest("ttl_ms must be a number of milliseconds, 0 to 60000.")
    age_ms = 1000 * age_of(command)
    if age_ms > ttl_ms:
        raise BadRequest(f"The command came {age_ms:.0f} ms old and was good for {ttl_ms:.0f} ms; give it again.")


def text_of(message: dict[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name} is missing.")
    return value

"""The live messages: what pages hear when something was written, and what stations are told. Sent on commit, never
before (a stop alone goes first: stops.py).

A topic is what a browser subscribes to: `wall:LAB`, `station:LAB/SLUG`, `run:LAB/ID`. Each event of a topic carries a
number that Valkey counts, so that a consumer which missed one sees the gap and starts anew from a snapshot. Stations
have a group each, `station.ID`. A station whose socket is in this process is told directly, without Valkey. Valkey is a
hint only: while it is away nobody waits for it long, and its topics get a gap as soon as it is back.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import redis.asyncio
from channels.layers import BaseChannelLayer, get_channel_layer
from django.conf import settings
from django.db import transaction
from redis.exceptions import RedisError

from robots import protocol

log = logging.getLogger(__name__)

VALKEY_WITHIN_S = 1.0  # what takes longer is given up: no act may wait for a hint
ASKED_AGAIN_AFTER_S = 1.0  # and until then nothing is tried at all


@dataclass(frozen=True)
class CardChanged:
    """Fields of a station's card on the wall and on its page; `slug` is always among them."""

    card: dict[str, Any]


@dataclass(frozen=True)
class RunChanged:
    """Fields of a run's head: state, progress, phase, eta_s, error, practice_episodes ..."""

    run: dict[str, Any]


@dataclass(frozen=True)
class MetricsAdded:
    """Metric rows of a run in their order: [{seq, kind, data, at}]."""

    metrics: list[dict[str, Any]]


@dataclass(frozen=True)
class CheckpointsChanged:
    """Checkpoint rows of a run that are new or were published or loaded; a page merges them by id."""

    checkpoints: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class MaintenanceChanged(protocol.Message):
    """Told to a station's consumer only: a person began or ended to work on it."""

    TYPE = "maintenance"
    on: bool = protocol.part(protocol.FLAG)


@dataclass(frozen=True, kw_only=True)
class TokenRenewed(protocol.Message):
    """Told to a station's consumer only: the token that opened its socket works for so long."""

    TYPE = "token_renewed"
    old_works_s: float = protocol.part(protocol.NEEDED_NUMBER)


# What a station's consumer hears through its group: most of it is for the station.
TO_CONSUMER: protocol.Kinds = {
    **protocol.TO_STATION,
    MaintenanceChanged.TYPE: MaintenanceChanged,
    TokenRenewed.TYPE: TokenRenewed,
}
Payload = CardChanged | RunChanged | MetricsAdded | CheckpointsChanged

# Stations whose sockets are in this process, by their group: a function that tells one of them, from any thread.
here: dict[str, Callable[[protocol.Message], None]] = {}


def group_of(topic: str) -> str:
    """The channel layer's group of a topic; group names allow fewer characters than topics."""
    return "live." + topic.replace(":", ".").replace("/", ".")


def channel_layer() -> BaseChannelLayer:
    layer = get_channel_layer()
    assert layer is not None, "settings.CHANNEL_LAYERS names one"
    return layer


def number_key(topic: str) -> str:
    """Where Valkey counts the topic's events."""
    return f"{settings.KEY_PREFIX}:live:{topic}"


def send_on_commit(topic: str, payload: Payload) -> None:
    """Tell everyone who watches the topic, once this transaction is there to be read."""
    transaction.on_commit(lambda: _publish(topic, asdict(payload)), robust=True)


def tell_station_on_commit(group: str, *messages: protocol.Message) -> None:
    """Send messages of the link protocol to a station's consumer, whichever process writes, in their order."""
    transaction.on_commit(lambda: _tell(group, messages), robust=True)


def send_to_group(group: str, event: dict[str, Any]) -> bool:
    """To the processes that listen to the group; False where Valkey is away. The event gets the group's name, for one
    channel hears all groups of a process (live/hearing.py).
    """
    return _try(lambda: channel_layer().group_send(group, event | {"group": group}))


def _publish(topic: str, data: dict[str, Any]) -> None:
    async def publish() -> None:
        async with _in_order():  # a number sent after the next one would look like a gap
            number = await _connection().incr(number_key(topic))
            group = group_of(topic)
            event = {"type": "live.event", "topic": topic, "number": number, "data": data, "group": group}
            await channel_layer().group_send(group, event)

    if not _try(publish):
        _missed.add(topic)
    elif _missed:
        _leave_gaps()


def _tell(group: str, messages: Sequence[protocol.Message]) -> None:
    tell = here.get(group)
    for message in messages:
        if tell is not None:
            tell(message)
        else:
            send_to_group(group, {"type": "tell.station", "message": protocol.to_json(message)})


# Sending from sync code would open a connection to Valkey for each message (async_to_sync makes an event loop each
# time). One loop in a thread of its own keeps the connection, and keeps the messages of this process in order.
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_away_until = 0.0
_missed: set[str] = set()  # topics of which an event was lost while Valkey was away


def _leave_gaps() -> None:
    """Numbers that nobody gets: whoever watches one of these topics will ask for the whole again."""

    async def leave() -> None:
        while _missed:
            topic = next(iter(_missed))
            await _connection().incr(number_key(topic))
            _missed.discard(topic)

    _try(leave)


@cache
def _connection() -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(settings.CHANNELS_ADDRESS, socket_timeout=VALKEY_WITHIN_S)


@cache
def _in_order() -> asyncio.Lock:
    return asyncio.Lock()


def _try(send: Callable[[], Awaitable[object]]) -> bool:
    """Run it on this process' loop; False where Valkey does not answer in time, or did not a moment ago."""
    global _loop, _away_until
    if time.monotonic() < _away_until:
        return False
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="messages", daemon=True).start()

    async def send_in_time() -> None:
        async with asyncio.timeout(VALKEY_WITHIN_S):
            await send()

    try:
        asyncio.run_coroutine_threadsafe(send_in_time(), _loop).result(timeout=VALKEY_WITHIN_S + 1)
    except (RedisError, TimeoutError, OSError) as error:
        if time.monotonic() > _away_until + 10 * ASKED_AGAIN_AFTER_S:
            log.warning("Valkey does not answer (%s); live pages catch up once it does", error or type(error).__name__)
        _away_until = time.monotonic() + ASKED_AGAIN_AFTER_S
        return False
    return True

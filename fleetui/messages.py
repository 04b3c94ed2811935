"""The live messages: what pages hear when something was written, and what stations are told. Sent on commit, never
before.

A topic is what a browser subscribes to: `wall:LAB`, `station:LAB/SLUG`, `run:LAB/ID`. Each event of a topic carries a
number that Valkey counts, so that a consumer which missed one sees the gap and starts anew from a snapshot. Stations
have a group each, `station.ID`; what they are told is repeated until they answer, because a channel layer may drop.
"""

import asyncio
import threading
from dataclasses import asdict, dataclass
from functools import cache

import redis.asyncio
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import transaction


@dataclass(frozen=True)
class CardChanged:
    """Fields of a station's card on the wall and on its page; `slug` is always among them."""

    card: dict


@dataclass(frozen=True)
class RunChanged:
    """Fields of a run's head: state, progress, phase, eta_s, error, practice_episodes ..."""

    run: dict


@dataclass(frozen=True)
class MetricsAdded:
    """Metric rows of a run in their order: [{seq, kind, data, at}]."""

    metrics: list[dict]


@dataclass(frozen=True)
class CheckpointsChanged:
    """Checkpoint rows of a run that are new or were published or loaded; a page merges them by id."""

    checkpoints: list[dict]


Payload = CardChanged | RunChanged | MetricsAdded | CheckpointsChanged


def group_of(topic: str) -> str:
    """The channel layer's group of a topic; group names allow fewer characters than topics."""
    return "live." + topic.replace(":", ".").replace("/", ".")


def number_key(topic: str) -> str:
    """Where Valkey counts the topic's events."""
    return f"{settings.KEY_PREFIX}:live:{topic}"


def send_on_commit(topic: str, payload: Payload) -> None:
    """Tell everyone who watches the topic, once this transaction is there to be read."""
    transaction.on_commit(lambda: _run(_publish(topic, asdict(payload))), robust=True)


def tell_station_on_commit(group: str, *messages: dict) -> None:
    """Send messages of the link protocol to a station's consumer, whichever process writes, in their order."""
    transaction.on_commit(lambda: _run(_tell(group, messages)), robust=True)


async def _publish(topic, data):
    async with _in_order():  # a number sent after the next one would look like a gap
        number = await _connection().incr(number_key(topic))
        await get_channel_layer().group_send(
            group_of(topic), {"type": "live.event", "topic": topic, "number": number, "data": data}
        )


async def _tell(group, messages):
    for message in messages:
        await get_channel_layer().group_send(group, {"type": "tell.station", "message": message})


# Sending from sync code would open a connection to Valkey for each message (async_to_sync makes an event loop each
# time). One loop in a thread of its own keeps the connection, and keeps the messages of this process in order.
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


@cache
def _connection():
    return redis.asyncio.Redis.from_url(settings.CHANNELS_ADDRESS, socket_timeout=5)


@cache
def _in_order():
    return asyncio.Lock()


def _run(coroutine):
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="messages", daemon=True).start()
    asyncio.run_coroutine_threadsafe(coroutine, _loop).result(timeout=10)

"""/ws/station: a body's end of the link (robots/link.py) in the web process.

Telemetry goes straight to the browsers that watch, frames replace each other in frames.py, and what must be kept goes
through the actions. What the server has to say arrives through the station's group, from whichever process said it.
"""

import asyncio
import contextlib
import logging
import time
from weakref import WeakValueDictionary

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.core.exceptions import ValidationError
from django.utils import timezone

from fleetui import access
from fleetui.fleet import actions
from fleetui.live import frames, telemetry
from robots import strict_json

log = logging.getLogger(__name__)

# A person is called once a station has been gone for this long: most come back at once.
ABSENT_AFTER_S = 5.0
# A doubtful attempt stays one until success is this likely, so that its request doesn't open and close all the time.
HOPEFUL = 0.4
NOTHING_NOTED = object()

HELLO_WITHIN_S = 10
WRITE_EVERY_S = 5.0  # last_seen of a station whose state doesn't change
LARGEST_TEXT = 256 * 1024
BAD_MESSAGE, NO_TOKEN, REPLACED = 4400, 4401, 4409


def in_thread(function):
    """Database work of a socket, in a thread of the pool; one shared thread would make stations wait for each other."""
    return database_sync_to_async(function, thread_sensitive=False)


class StationConsumer(AsyncWebsocketConsumer):
    present: dict[int, "StationConsumer"] = {}  # who speaks for a station in this process
    # A station that returns at once must not be overtaken by the news that it had left: one after the other.
    turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def connect(self):
        self.noted, self.state_since = NOTHING_NOTED, time.monotonic()
        self.station, self.welcomed, self.written_at, self.old_token_ends = None, False, 0.0, None
        self.said = None  # its newest telemetry
        self.station = await in_thread(access.get_station_by_token)(bearer_token(self.scope))
        await self.accept()
        if self.station is None:
            await self.close(NO_TOKEN, "Missing or unknown token; a lab manager can make a new one.")
            return
        self.topics = (self.station.lab.wall_topic, self.station.topic)
        self.turn = self.turns.setdefault(self.station.pk, asyncio.Lock())
        self.hello_late = asyncio.get_running_loop().call_later(
            HELLO_WITHIN_S, lambda: asyncio.ensure_future(self.close(BAD_MESSAGE, "No hello came within 10 s."))
        )

        if self.station.token_is_old:
            self.close_old_token_in((self.station.old_token_until - timezone.now()).total_seconds())

    def close_old_token_in(self, seconds):
        """The token that opened this socket is void by then; the new one may have connected and replaced it before."""
        if self.old_token_ends is not None:
            self.old_token_ends.cancel()
        said = "The station's token was renewed; this is the old one."
        self.old_token_ends = asyncio.get_running_loop().call_later(
            max(0.0, seconds), lambda: asyncio.ensure_future(self.close(NO_TOKEN, said))
        )

    async def disconnect(self, code):
        if self.station is None:
            return
        self.hello_late.cancel()
        if self.old_token_ends is not None:
            self.old_token_ends.cancel()
        await self.channel_layer.group_discard(self.station.command_group, self.channel_name)
        async with self.turn:
            if self.present.get(self.station.pk) is self:
                del self.present[self.station.pk]
                frames.remove_camera(self.station.pk)
                telemetry.forget(self.station.pk)
                await in_thread(actions.disconnect_station)(station=self.station, reason="the connection was lost")
                asyncio.get_running_loop().call_later(ABSENT_AFTER_S, call_for, self.station)

    async def receive(self, text_data=None, bytes_data=None):
        if self.station is None:
            return
        if bytes_data is not None:
            self.take_frame(bytes_data)
            return
        try:
            if len(text_data) > LARGEST_TEXT:
                raise ValueError("the message is longer than 256 KiB")
            message = strict_json.loads(text_data)
            kind = message.get("type")
            if not self.welcomed and kind != "hello":
                raise ValueError("the first message must be hello")
            handler = self.HANDLERS.get(kind)
            if handler is not None:  # a newer station may say more than this server knows
                await handler(self, message)
        except (ValueError, AttributeError, ValidationError, access.Refused) as error:
            log.warning("%s sent a bad message: %s", self.station, error)
            await self.close(BAD_MESSAGE, str(error)[:120])

    async def take_hello(self, message):
        self.hello_late.cancel()
        await self.channel_layer.group_add(self.station.command_group, self.channel_name)
        async with self.turn:
            told = await in_thread(actions.connect_station)(
                station=self.station,
                embodiment=message.get("embodiment"),
                software=str(message.get("software") or ""),
                renderer=str(message.get("renderer") or ""),
            )
            before = self.present.get(self.station.pk)
            self.present[self.station.pk] = self
        if before is not None and before is not self:
            await before.close(REPLACED, "The station connected anew.")
        telemetry.forget(self.station.pk)
        self.welcomed = True
        for order in told:
            await self.say(order)
        frames.add_camera(self.station.pk, lambda watch: asyncio.ensure_future(self.say(watch)))

    def show(self, message) -> bool:
        self.said, station = message, self.station
        latched, maintenance = station.stop_latched, station.maintenance
        return telemetry.show(station.pk, self.topics, station.slug, message, latched, maintenance)

    async def take_telemetry(self, message):
        changed = self.show(message)
        now = time.monotonic()
        if changed or now - self.written_at > WRITE_EVERY_S:
            self.written_at = now
            episode = telemetry.newest[self.station.pk].uuid
            await in_thread(actions.record_telemetry)(
                station=self.station, state=message["state"], reason=str(message.get("reason") or ""), episode=episode
            )
        if changed:
            self.state_since = now
        await self.note_need(now - self.state_since)

    async def note_need(self, state_for_s):
        """A station that wants a person gets a row, once for each need; one that doesn't any more loses it."""
        need, attempt = telemetry.need_of_station(
            self.station.pk, self.station.embodiment, state_for_s, self.station.stop_latched
        )
        key = need and (need.kind, attempt)
        if key == self.noted:
            return
        same_attempt = isinstance(self.noted, tuple) and attempt and self.noted[1] == attempt
        if need is None and same_attempt and (telemetry.newest[self.station.pk].card["p_success"] or 0) < HOPEFUL:
            return
        self.noted = key
        await in_thread(actions.note_need)(station=self.station, need=need, episode=attempt if need else "")

    def take_frame(self, frame):
        jpeg = frame[frames.HEADER_BYTES : frames.HEADER_BYTES + 2]
        if self.welcomed and len(frame) <= frames.LARGEST_FRAME and jpeg == b"\xff\xd8":
            frames.put_frame(self.station.pk, frames.stamp(frame, time.time()))

    async def take_policy_loaded(self, message):
        await in_thread(actions.record_policy_loaded)(
            station=self.station, checkpoint_uuid=str(message.get("checkpoint"))
        )

    async def take_command_done(self, message):
        telemetry.answer_command(self.station.pk, message)

    async def take_touch(self, message):
        await in_thread(actions.record_touch)(
            station=self.station,
            kind=message.get("kind"),
            reason=str(message.get("reason") or ""),
            seconds=message.get("seconds") or 0.0,
        )

    HANDLERS = {
        "hello": take_hello,
        "telemetry": take_telemetry,
        "policy_loaded": take_policy_loaded,
        "command_done": take_command_done,
        "touch": take_touch,
    }

    # From the channel layer

    async def tell_station(self, event):
        message = event["message"]
        if message["type"] == "maintenance":
            self.station.maintenance_since = timezone.now() if message["on"] else None
            if self.said is not None:
                self.show(self.said)  # what it said last is shown by another word from now on
            return
        if message["type"] == "token_renewed":
            self.close_old_token_in(message["old_works_s"])
            return
        if message["type"] == "command" and message["name"] in ("stop", "clear_stop"):
            self.station.stop_latched = message["name"] == "stop"
        await self.say(message)

    async def say(self, message):
        with contextlib.suppress(RuntimeError):  # the station has gone meanwhile
            await self.send(strict_json.dumps(message))


async def tell_at_once(station: int, message: dict) -> bool:
    """Past the channel layer and the database, for what ages within 300 ms; False where the station isn't here."""
    consumer = StationConsumer.present.get(station)
    if consumer is not None:
        await consumer.say(message)
    return consumer is not None


def call_for(station):
    """Nobody may be there to see that a station has not come back."""
    if station.pk not in StationConsumer.present:
        asyncio.ensure_future(in_thread(actions.note_absence)(station=station))


def bearer_token(scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return ""

"""/ws/station: a body's end of the link (robots/link.py) in the web process.

Telemetry goes straight to the browsers that watch, frames replace each other in frames.py, and what must be kept goes
through the actions. What the server has to say comes directly where this process says it, else through the station's
group. Each second the station gets a heartbeat that says whether it is latched; one that is silent for five is gone.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from asgiref.typing import WebSocketScope
from django.db import Error
from django.utils import timezone

from fleetui import access, messages, stops
from fleetui.fleet.actions import attention, reports
from fleetui.fleet.actions import stops as stop_actions
from fleetui.fleet.models import Station
from fleetui.live import frames, telemetry
from fleetui.live.hearing import get_hearing
from fleetui.live.sockets import BAD_MESSAGE, BadRequest, Socket, begin, in_thread, read_json
from fleetui.practice.actions import publishing
from robots import protocol
from robots.attention import Need
from robots.protocol import (
    Command,
    CommandDone,
    Complaint,
    Hello,
    PolicyLoaded,
    ServerHeartbeat,
    Telemetry,
    Touch,
    Welcome,
)

log = logging.getLogger(__name__)

# A person is called once a station has been gone for this long: most come back at once.
ABSENT_AFTER_S = 5.0
# A doubtful attempt stays one until success is this likely, so that its request doesn't open and close all the time.
HOPEFUL = 0.4
NOTHING_NOTED = object()

HELLO_WITHIN_S = 10.0
WRITE_EVERY_S = 5.0  # last_seen of a station whose state doesn't change
HEARTBEAT_EVERY_S = 1.0
SILENT_AFTER_S = 5.0  # a link says something each second: after this long nobody is there
FOUND_STOPPED_AFTER_S = 3.0  # says that it is stopped, and nothing is known of it: longer than any message is under way
LARGEST_TEXT = 256 * 1024
NO_TOKEN, REPLACED, SILENT, TRY_AGAIN = 4401, 4409, 4408, 1013


class StationConsumer(Socket):
    # A station that returns at once must not be overtaken by the news that it had left: one after the other.
    turns: ClassVar[WeakValueDictionary[int, asyncio.Lock]] = WeakValueDictionary()

    station: Station  # once its token is known: `entered`
    noted: object
    newest: Telemetry | None
    to_write: dict[str, str] | None
    old_token_ends: asyncio.Task[None] | None
    stopped_since: float | None
    parting: asyncio.Future[None] | None

    def __str__(self) -> str:
        return f"The station {self.station if self.entered else 'of an unknown token'}"

    async def enter(self) -> None:
        self.noted, self.state_since = NOTHING_NOTED, time.monotonic()
        self.entered, self.greeted, self.present, self.written_at = False, False, False, 0.0
        self.newest, self.to_write, self.old_token_ends = None, None, None  # newest: its newest telemetry
        self.latch, self.latch_changed_at, self.stopped_since, self.parting = "", 0.0, None, None
        self.loop = asyncio.get_running_loop()
        await self.accept()
        try:
            station = await in_thread(access.get_station_by_token)(Station, bearer_token(self.scope))
        except Error:
            await self.hang_up(TRY_AGAIN, "The server's database does not answer now; try again.")
            return
        if station is None:
            await self.hang_up(NO_TOKEN, "Missing or unknown token; a lab manager can make a new one.")
            return
        self.station, self.entered = station, True
        self.pk, self.slug, self.name = self.station.pk, self.station.slug, self.station.name
        self.lab = self.station.lab.slug
        self.topics = (self.station.lab.wall_topic, self.station.topic)
        self.turn = self.turns.setdefault(self.station.pk, asyncio.Lock())
        self.hello_late = self.spawn(self.close_without_hello())
        if self.station.token_is_old:
            assert self.station.old_token_until is not None, "by it the old token was found"
            self.close_old_token_in((self.station.old_token_until - timezone.now()).total_seconds())

    async def close_without_hello(self) -> None:
        await asyncio.sleep(HELLO_WITHIN_S)
        await self.hang_up(BAD_MESSAGE, "No hello came within 10 s.")

    def close_old_token_in(self, seconds: float) -> None:
        """The token that opened this socket is void by then; the new one may have connected and replaced it before."""

        async def close() -> None:
            await asyncio.sleep(max(0.0, seconds))
            await self.hang_up(NO_TOKEN, "The station's token was renewed; this is the old one.")

        if self.old_token_ends is not None:
            self.old_token_ends.cancel()
        self.old_token_ends = self.spawn(close())

    async def leave(self) -> None:
        if not self.entered:
            return
        await get_hearing().leave(self.station.command_group, self.take_event)
        await self.begin_parting()

    async def hang_up(self, code: int, reason: str = "") -> None:
        """It is gone from this moment on, whenever its end of the line answers."""
        self.begin_parting()
        await super().hang_up(code, reason)

    def begin_parting(self) -> asyncio.Future[None]:
        """A task of nobody: it ends also where the socket's own are cancelled."""
        if self.parting is None:
            self.parting = asyncio.ensure_future(self.part())
        return self.parting

    async def part(self) -> None:
        """Nothing of it is left behind; where another link of the same station took its place, that one stands."""
        if not self.present:
            return
        self.present = False
        del stops.links[self.pk]
        messages.here.pop(self.station.command_group, None)
        frames.remove_cameras(self.pk)
        telemetry.forget(self.pk)
        async with self.turn:
            if self.pk in stops.links:  # it has returned meanwhile
                return
            try:
                await in_thread(reports.disconnect_station)(station=self.station, reason="the connection was lost")
            except Error:  # the worker finds a station that is not heard of (disconnect_silent_stations)
                log.exception("That %s has gone could not be written", self.station)
            self.loop.call_later(ABSENT_AFTER_S, call_for, self.station)

    async def take(self, text: str | None, data: bytes | None) -> None:
        if not self.entered:
            return
        if data is not None:
            self.take_frame(data)
            return
        told = read_json(text, LARGEST_TEXT)
        if told.get("type") != Hello.TYPE and not self.present:
            self.hang_up_soon(BAD_MESSAGE, "The first message must be hello, and the next one comes after welcome.")
            return
        message = protocol.decode(told, protocol.FROM_STATION)
        if isinstance(message, Hello):
            if self.greeted:
                raise BadRequest("hello is said once, at the beginning.")
            self.greeted = True
            self.hello_late.cancel()
            self.do(lambda: self.take_hello(message))
        # A newer station may say more than is known.
        elif message is not None and (handler := self.HANDLERS.get(type(message))) is not None:
            handler(self, message)

    def refuse(self, sentence: str, message: dict[str, Any] | None) -> None:
        log.warning("%s sent a bad message: %s", self.station, sentence)
        self.say_soon(protocol.to_json(Complaint(error=sentence)))

    async def take_hello(self, hello: Hello) -> None:
        try:
            async with self.turn:
                told = await in_thread(publishing.welcome_station)(
                    station=self.station,
                    embodiment=hello.embodiment,
                    software=hello.software,
                    renderer=hello.renderer,
                    teleoperator=hello.teleoperator,
                )
                if self.over:  # it has gone meanwhile
                    await in_thread(reports.disconnect_station)(station=self.station, reason="the connection was lost")
                    return
                welcome, *orders = told
                assert isinstance(welcome, Welcome), "it is what every station is told first"
                settings = welcome.settings
                stops.set_latch(self, settings["stop"] if settings["stop_latched"] else "")
                before = stops.links.get(self.pk)
                stops.links[self.pk], self.present = self, True
                messages.here[self.station.command_group] = self.tell
        except Error:
            await self.hang_up(TRY_AGAIN, "The server's database does not answer now; try again.")
            raise
        except (access.Refused, ValueError) as error:
            await in_thread(reports.note_refused_hello)(station=self.station, reason=str(error))
            await self.hang_up(BAD_MESSAGE, str(error))
            return
        if before is not None:
            before.present = False  # this one stands in its place
            before.hang_up_soon(REPLACED, "The station connected anew.")
        telemetry.forget(self.pk)
        for message in (replace(welcome, server_time=time.monotonic()), *orders):
            await self.say(protocol.to_json(message))
        names = tuple(camera.name for camera in self.station.cameras)
        frames.add_cameras(self.pk, names, lambda watch: self.tell(watch))
        self.spawn(self.keep_beating())
        self.spawn(self.join_group())

    async def join_group(self) -> None:
        """What other processes tell it; welcome does not wait for Valkey."""
        await get_hearing().join(self.station.command_group, self.take_event)

    async def keep_beating(self) -> None:
        """The sign of life that a station moves by, and the latch with it: a stop that it missed lasts a second."""
        sending: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(HEARTBEAT_EVERY_S)
            if self.silent_s() > SILENT_AFTER_S:
                self.hang_up_soon(SILENT, f"Nothing was heard for {SILENT_AFTER_S:.0f} s.")
                return
            if sending is None or sending.done():
                heartbeat = ServerHeartbeat(server_time=time.monotonic(), stop=self.latch)
                sending = self.spawn(self.say(protocol.to_json(heartbeat)))

    def show(self, message: Telemetry) -> bool:
        changed = telemetry.show(self.pk, self.topics, self.slug, message, bool(self.latch), self.station.maintenance)
        self.newest = message
        return changed

    def take_telemetry(self, message: Telemetry) -> None:
        changed = self.show(message)
        now = time.monotonic()
        if changed:
            self.state_since = now
        if changed or now - self.written_at > WRITE_EVERY_S:
            self.written_at = now
            if self.to_write is None:
                self.do(self.write_state)  # may refuse; then nothing waits, and the next telemetry asks anew
            self.to_write = {
                "state": message.state,
                "reason": message.reason,
                "episode": telemetry.newest[self.pk].uuid,
            }
        self.look_for_lost_stop(message, now)
        self.note_need(now - self.state_since)

    async def write_state(self) -> None:
        """The newest of what waited to be written."""
        row, self.to_write = self.to_write, None
        assert row is not None, "it is asked for once for what waits"
        await in_thread(reports.record_telemetry)(station=self.station, **row)

    def look_for_lost_stop(self, message: Telemetry, now: float) -> None:
        """A stop is recorded after it was told; a server that died in between finds it here."""
        if message.state != "stopped" or self.latch:
            self.stopped_since = None
        elif self.stopped_since is None:
            self.stopped_since = now
        elif now - self.stopped_since > FOUND_STOPPED_AFTER_S:
            self.stopped_since = now
            stop = message.stop[:80]
            self.do(lambda: in_thread(stop_actions.record_found_stopped)(station=self.station, stop=stop))

    def note_need(self, state_for_s: float) -> None:
        """A station that wants a person gets a row, once for each need; one that doesn't any more loses it."""
        need, attempt = telemetry.need_of_station(self.pk, self.station.embodiment, state_for_s, bool(self.latch))
        key = need and (need.kind, attempt)
        if key == self.noted:
            return
        same_attempt = isinstance(self.noted, tuple) and attempt and self.noted[1] == attempt
        if need is None and same_attempt and (telemetry.newest[self.pk].card["p_success"] or 0) < HOPEFUL:
            return
        self.noted = key
        self.do(lambda: self.write_need(need, attempt))

    async def write_need(self, need: Need | None, attempt: str) -> None:
        try:
            await in_thread(attention.note_need)(station=self.station, need=need, episode=attempt if need else "")
        except Error:
            self.noted = NOTHING_NOTED  # with the next telemetry again
            raise

    def take_frame(self, frame: bytes) -> None:
        if self.present:
            frames.take_frame(self.pk, frame, time.time())

    def take_policy_loaded(self, message: PolicyLoaded) -> None:
        uuid = message.checkpoint
        self.do(lambda: in_thread(publishing.record_policy_loaded)(station=self.station, checkpoint_uuid=uuid))

    def take_command_done(self, message: CommandDone) -> None:
        if message.ok:
            stops.confirm(message.id, self.lab, self.slug)
        telemetry.answer_command(self.pk, message)

    def take_touch(self, message: Touch) -> None:
        touch: dict[str, Any] = {"kind": message.kind, "reason": message.reason, "seconds": message.seconds or 0.0}
        self.do(lambda: in_thread(reports.record_touch)(station=self.station, **touch))

    HANDLERS: ClassVar[dict[type[protocol.Message], Callable[["StationConsumer", Any], None]]] = {
        Telemetry: take_telemetry,
        PolicyLoaded: take_policy_loaded,
        CommandDone: take_command_done,
        Touch: take_touch,
    }

    # What the server says, from any thread or process

    def tell(self, message: protocol.Message) -> None:
        with contextlib.suppress(RuntimeError):  # the server ends
            self.loop.call_soon_threadsafe(self.take_order, message)

    def take_event(self, event: dict[str, Any]) -> None:
        """From another process, through the channel layer."""
        message = protocol.decode(event["message"], messages.TO_CONSUMER)
        if message is not None:
            self.take_order(message)

    def take_order(self, message: protocol.Message) -> None:
        """Never waits: a station whose line is full must not hold whoever tells it something."""
        if isinstance(message, messages.MaintenanceChanged):
            self.station.maintenance_since = timezone.now() if message.on else None
            if self.newest is not None:
                self.show(self.newest)  # what it said last is shown by another word from now on
            return
        if isinstance(message, messages.TokenRenewed):
            self.close_old_token_in(message.old_works_s)
            return
        if isinstance(message, Command):
            # Not where a newer one was told meanwhile.
            if message.name == "clear_stop" and self.latch in (message.args.get("stop"), stops.EARLIER):
                stops.set_latch(self, "")
            if message.sent_at is not None:
                # By the steady clock from here on: wall clocks jump, and the way through the layer was a moment only.
                message = replace(message, sent_at=time.monotonic() - max(0.0, time.time() - message.sent_at))
        self.tell_by_steady_clock(message)

    def tell_by_steady_clock(self, message: protocol.Message) -> None:
        self.spawn(self.say(protocol.to_json(message)))


def tell_at_once(station: int, message: protocol.Message) -> bool:
    """Past the channel layer and the database, for what ages within 300 ms; False where the station isn't here.
    `sent_at` is by the steady clock.
    """
    consumer = stops.links.get(station)
    if consumer is not None:
        consumer.tell_by_steady_clock(message)
    return consumer is not None


def call_for(station: Station) -> None:
    """Nobody may be there to see that a station has not come back."""

    async def call() -> None:
        with contextlib.suppress(Error):  # the worker asks the same of every station
            await in_thread(attention.note_absence)(station=station)

    if station.pk not in stops.links:
        begin(call())


def bearer_token(scope: WebSocketScope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return ""

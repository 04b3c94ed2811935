"""The link of a station to the server: one WebSocket for what is live; what goes by HTTP is in transfers.py.

A station never waits for the network. It leaves messages here and takes messages from here; an asyncio loop in a
thread of its own does the rest, for any number of links. What must arrive (state changes, policy_loaded, command_done,
touch) is queued; of telemetry and camera frames only the newest waits to be sent.

    link = Link("https://fleet.example", token, hello=Hello(...), folder=Path("spool/arm-1"))
    links = LinkThread(); links.add(link)
    station = Station(MyRobot(), emit=link.send, show=link.show, store=link.store)
    while running:
        station.server_gone(link.gone_for())
        for message, received_at in link.received(): station.receive(message, received_at)
        ...
"""

import asyncio
import contextlib
import logging
import queue
import random
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from robots import protocol
from robots.episodes import Episode
from robots.protocol import (
    Command,
    Complaint,
    ControlHeartbeat,
    Hello,
    Hold,
    Message,
    MessageError,
    Policy,
    PolicyFailed,
    ServerHeartbeat,
    StationHeartbeat,
    Telemetry,
    Welcome,
)
from robots.transfers import CheckpointCache, LinkError, NotAdmitted, Refused, Spool, Unreachable, Uploads, check_token

log = logging.getLogger(__name__)

# Step, episode number, unix time of capture. Then comes the camera's number among the body's cameras, in one byte, left
# out of the first one's, as stations of before have it; then a JPEG, which begins with 255.
FRAME_HEADER = struct.Struct(">IId")
FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 5.0
WELCOME_WITHIN_S = 10.0
HEARTBEAT_EVERY_S = 1.0  # so often the server hears of this end, whatever the robot does; and this end of the server
LOST_AFTER_S = 5.0  # a connection that was silent for so long is given up and made anew


class ServerClock:
    """The server's steady clock, as far as its heartbeats tell. Both clocks are steady; of the newest heartbeats the
    least delayed tells best how they differ.
    """

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self._ahead_s: deque[float] = deque(maxlen=5)

    def forget(self) -> None:
        """Another server's clock comes, or the same one's anew."""
        self._ahead_s.clear()

    def hear(self, server_time: float | None) -> None:
        """What a heartbeat says of the server's clock, in seconds."""
        if server_time is not None:
            self._ahead_s.append(server_time - self.clock())

    def age(self, sent_at: float) -> float:
        """Seconds since the server's clock said so; 0 while nothing is known of it."""
        ahead = max(self._ahead_s, default=sent_at - self.clock())
        return max(0.0, self.clock() + ahead - sent_at)


class Link:
    """One station's link. `send`, `show`, `show_frame`, `store`, `received` and `gone_for` may be called from any
    thread.
    """

    def __init__(
        self,
        server: str,
        token: str,
        hello: Hello,
        folder: Path,
        *,
        cache: CheckpointCache | None = None,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
        arrived: Callable[[], None] = lambda: None,
    ):
        self.name, self.arrived = name, arrived  # arrived: called when `received` has something
        self.server = server.rstrip("/")
        if urlsplit(self.server).scheme not in ("http", "https"):
            raise LinkError(f"The server's address must begin with http:// or https://, not {server!r}.")
        # In a header only: an address ends up in logs.
        self._headers = {"Authorization": f"Bearer {check_token(token, name)}"}
        self._hello = hello
        self.spool = Spool(Path(folder) / "spool")
        self._uploads = Uploads(self.server, self.spool, lambda policies: self._deliver(Hold(policies=policies)))
        self.cache = cache or CheckpointCache(Path(folder) / "checkpoints")
        self.clock = clock
        self.connected = False
        self._heard = clock()
        self._server_clock = ServerClock(clock)
        self._inbox: queue.SimpleQueue[tuple[Message, float]] = queue.SimpleQueue()
        self._outbox: deque[Message] = deque()
        self._telemetry: Telemetry | None = None
        self._frames: dict[int, bytes] = {}  # the newest of each camera
        self._wanted_policy: Policy | None = None
        self.closing = False
        self._said = ""
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Link {self.name} to {self.server}>"

    # From the station's thread

    def send(self, message: Message) -> None:
        """A message that must arrive."""
        if isinstance(message, Telemetry):
            self._telemetry = None  # older than this one
            if not self.connected:
                self.show(message)  # of the states passed while nobody listened, only the last matters
                return
        self._outbox.append(message)
        self._wake("_to_send")

    def show(self, telemetry: Telemetry) -> None:
        """Telemetry, of which only the newest is sent."""
        self._telemetry = telemetry
        self._wake("_to_send")

    def show_frame(self, step: int, episode: int, captured_at: float, jpeg: bytes, camera: int = 0) -> None:
        """A picture of one of the body's cameras, by its number; of each only the newest is sent."""
        if self.connected:
            number = bytes([camera]) if camera else b""
            self._frames[camera] = FRAME_HEADER.pack(step, episode, captured_at) + number + jpeg
            self._wake("_to_send")

    def store(self, episode: Episode) -> None:
        """A finished episode, which is kept until the server has it."""
        try:
            self.spool.add(episode)
        except Exception as error:  # whatever a world hands over as an episode: the loop must go on
            self.spool.lost_count += 1
            log.error("%s: an episode could not be kept: %s", self.name or "station", error)
            return
        self._wake("_to_upload")

    def received(self) -> list[tuple[Message, float]]:
        """Messages with the clock's time of their arrival, in order. A policy comes with `path` and
        `reward_model_path`.
        """
        messages = []
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._inbox.get_nowait())
        return messages

    def gone_for(self) -> float:
        """Seconds since the server was last heard."""
        return self.clock() - self._heard

    def close(self) -> None:
        """Ask the link to end: what is queued or spooled is sent if that goes quickly, else it stays on disk."""
        self.closing = True
        for event in ("_to_send", "_to_upload", "_to_fetch"):
            self._wake(event)

    def _wake(self, event: str) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: what is spooled stays on disk
                self._loop.call_soon_threadsafe(getattr(self, event).set)

    # In the asyncio thread

    async def run(self) -> None:
        """Talk, upload and fetch until close() was called."""
        self._to_send, self._to_upload, self._to_fetch = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        async with httpx.AsyncClient(headers=self._headers, timeout=20, trust_env=False) as http:
            background = [
                asyncio.create_task(self._keep_uploading(http)),
                asyncio.create_task(self._keep_fetching(http)),
            ]
            talking = asyncio.create_task(self._keep_talking())
            try:
                await asyncio.gather(talking, background[0])  # both end by themselves once close() was called
            finally:
                for task in (talking, *background):
                    task.cancel()
                await asyncio.gather(talking, *background, return_exceptions=True)

    def _say(self, sentence: str) -> None:
        """Once, not at every attempt."""
        if sentence != self._said:
            log.warning("%s: %s", self.name or "station", sentence)
        self._said = sentence

    async def _pause(self, delay: float) -> float:
        """Wait about this long, spread so that a fleet does not return all at once; the next delay."""
        until = self.clock() + delay * random.uniform(0.5, 1.0)
        while not self.closing and (left := until - self.clock()) > 0:
            await asyncio.sleep(min(left, 0.1))
        return min(2 * delay, LONGEST_DELAY_S)

    async def _keep_talking(self) -> None:
        """A loop of our own, as connect()'s iterator waits too little and remembers too much: a connection that was
        opened at all, and be it to be told that the token is revoked, is made anew at once; and after a redirect (the
        log-in page of some Wi-Fi) it asks that address, without the token, for good.
        """
        address = self.server.replace("http", "ws", 1) + "/ws/station"
        delay = FIRST_DELAY_S
        while not self.closing:
            try:
                async with connect(
                    address,
                    additional_headers=self._headers,
                    compression=None,
                    open_timeout=5,
                    close_timeout=1,
                    ping_interval=None,
                    max_size=2**20,
                    proxy=None,
                ) as socket:
                    await socket.send(protocol.encode(self._hello))
                    async with asyncio.timeout(WELCOME_WITHIN_S):
                        while not isinstance(self._take(await socket.recv()), Welcome):
                            pass
                    delay, self._said = FIRST_DELAY_S, ""
                    await self._converse(socket)
            except InvalidStatus as error:
                self._say(_rejection(error.response.status_code))
            except ConnectionClosed as error:
                closing = error.rcvd
                broke = "the connection to the server broke; trying again"
                self._say(_rejection(closing.code, closing.reason) if closing else broke)
            except (OSError, TimeoutError, WebSocketException) as error:
                self._say(f"the server at {self.server} cannot be reached ({type(error).__name__}); trying again")
            finally:
                self.connected = False
            delay = await self._pause(delay)

    async def _converse(self, socket: ClientConnection) -> None:
        parts = (self._read, self._write, self._keep_beating, self._watch_silence)
        tasks = [asyncio.create_task(part(socket)) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, socket: ClientConnection) -> None:
        async for text in socket:
            self._take(text)

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            while self._outbox:
                await socket.send(self._text(self._outbox[0]))
                self._outbox.popleft()  # only now: a connection that breaks meanwhile must not lose it
            telemetry, self._telemetry = self._telemetry, None
            if telemetry is not None:
                await socket.send(self._text(telemetry))
            for camera in list(self._frames):  # only here are any taken out
                await socket.send(self._frames.pop(camera))
            if self._outbox or self._telemetry or self._frames:
                continue
            if self.closing:
                return
            self._to_send.clear()
            await self._to_send.wait()

    def _text(self, message: Message) -> str:
        if isinstance(message, Telemetry):
            spool = self.spool
            message = replace(
                message,
                unsent=len(spool),
                in_memory=spool.in_memory,
                refused=spool.refused_count,
                lost=spool.lost_count,
            )
        return protocol.encode(message)

    async def _keep_beating(self, socket: ClientConnection) -> None:
        while True:
            await socket.send(protocol.encode(StationHeartbeat()))
            await asyncio.sleep(HEARTBEAT_EVERY_S)

    async def _watch_silence(self, socket: ClientConnection) -> None:
        """A TCP connection may stand for minutes after the other end is gone (sleep, Wi-Fi)."""
        while (silent := self.gone_for()) < LOST_AFTER_S:
            await asyncio.sleep(LOST_AFTER_S - silent)
        socket.transport.abort()  # a farewell would wait for an answer
        raise TimeoutError

    def _take(self, text: str | bytes) -> Message | None:
        """Hand a message to the station; None where it was none that is known here."""
        self._heard = self.clock()
        try:
            message = protocol.decode_text(text, protocol.TO_STATION)
        except MessageError as error:
            if error.type == Policy.TYPE:
                self._refuse_policy(f"The server's policy message is wrong: {error}")
            else:
                log.warning("%s: the server sent something that is no message; it is ignored: %s", self.name, error)
            return None
        match message:
            case Welcome():
                # Before the station hears of it, and answers with telemetry; what it said to nobody is no news any
                # more.
                self.connected, self._telemetry = True, None
                self._server_clock.forget()
                self._server_clock.hear(message.server_time)
            case ServerHeartbeat():
                self._server_clock.hear(message.server_time)
            case Complaint():
                self._say(f"the server could not use a message of this station: {message.error}")
            case Command() | ControlHeartbeat() if message.sent_at is not None:
                # A command that waited somewhere on the way is as old as it is, whenever it arrived.
                message = replace(message, age_s=self._server_clock.age(message.sent_at))
            case Policy():
                self._wanted_policy = message
                self._to_fetch.set()
                return message
            case None:
                return None  # of a newer server
        self._deliver(message)
        return message

    def _refuse_policy(self, reason: str) -> None:
        self._say(reason)
        self._deliver(PolicyFailed(reason=reason))

    def _deliver(self, message: Message) -> None:
        self._inbox.put((message, self.clock()))
        self.arrived()

    async def _keep_fetching(self, http: httpx.AsyncClient) -> None:
        delay = FIRST_DELAY_S
        while not self.closing:
            wanted = self._wanted_policy
            if wanted is None:
                self._to_fetch.clear()
                await self._to_fetch.wait()
                continue
            try:
                path = await self.cache.fetch(http, _address(self.server, wanted.url), wanted.sha256)
                judge = None
                if wanted.reward_model:
                    url = _address(self.server, wanted.reward_model_url)
                    judge = await self.cache.fetch(http, url, wanted.reward_model_sha256)
                for model in wanted.models:
                    await self.cache.models.fetch(http, self.server, model)
            except (Unreachable, OSError) as error:  # OSError: this machine's disk
                self._say(f"{error} Trying again.")
                delay = await self._pause(delay)
                continue
            except LinkError as error:
                self._refuse_policy(str(error))
            else:
                self._deliver(replace(wanted, path=str(path), reward_model_path=str(judge or "")))
            delay = FIRST_DELAY_S
            if self._wanted_policy is wanted:  # else a newer one came meanwhile
                self._wanted_policy = None

    async def _keep_uploading(self, http: httpx.AsyncClient) -> None:
        delay = FIRST_DELAY_S
        while True:
            names = self.spool.next()
            if not names:
                if self.closing:
                    return
                self._to_upload.clear()
                if not self.spool.next():
                    await self._to_upload.wait()
                continue
            try:
                await self._uploads.send(http, names)
            except (Unreachable, NotAdmitted, OSError) as error:  # OSError: this machine's disk
                kept = (
                    f", {self.spool.in_memory} of them in memory, as the disk is full" if self.spool.in_memory else ""
                )
                self._say(f"{error} {len(self.spool)} episodes wait{kept}.")
                if self.closing:
                    return
                delay = await self._pause(delay)
            else:
                delay = FIRST_DELAY_S


def _address(server: str, url: str) -> str:
    address = server + url if url.startswith("/") else url  # the server may stand under a sub-path
    if urlsplit(address)[:2] != urlsplit(server)[:2]:
        raise Refused(f"The server named a checkpoint elsewhere ({urlsplit(address).netloc}); the token stays here.")
    return address


def _rejection(code: int, reason: str = "") -> str:
    if code in (401, 4401):
        return "the server does not know this station's token; a lab manager can make a new one"
    if code in (403, 4403):
        return f"the server does not admit this station; its token may be wrong or revoked. {reason}".strip()
    return f"the server closed the connection ({code} {reason}".strip() + "); trying again"


class LinkThread:
    """An asyncio loop in a thread of its own for the links of one process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()
        self._running: dict[Link, Future[None]] = {}

    def add(self, link: Link) -> None:
        """Run the link from now on."""
        self._running[link] = asyncio.run_coroutine_threadsafe(self._keep_running(link), self._loop)

    async def _keep_running(self, link: Link) -> None:
        """A mistake in one message must not leave a robot without its server for good."""
        while not link.closing:
            try:
                await link.run()
            except Exception:
                log.exception("%r broke; it begins anew", link)
                await asyncio.sleep(LONGEST_DELAY_S)

    def remove(self, link: Link, timeout: float = 2.0) -> None:
        """End one link, within so many seconds."""
        self._end([link], timeout)

    def close(self, timeout: float = 2.0) -> None:
        """End all links and the thread; each gets so many seconds."""
        if self._loop.is_closed():
            return
        self._end(list(self._running), timeout)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout)
        self._loop.close()

    def _end(self, links: list[Link], timeout: float) -> None:
        for link in links:
            link.close()
        deadline = time.monotonic() + timeout
        for link in links:
            future = self._running.pop(link)
            try:
                future.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                future.cancel()
        time.sleep(0.02)  # cancelled links close their sockets

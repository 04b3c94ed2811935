"""The link of a station to the server: one WebSocket for what is live, HTTP for episodes and checkpoints.

A station never waits for the network. It leaves messages here and takes messages from here; an asyncio loop in a
thread of its own does the rest, for any number of links. What must arrive (state changes, policy_loaded, command_done,
touch) is queued; of telemetry and camera frames only the newest waits to be sent. Finished episodes lie in a folder on
disk first, so neither a lost network nor a killed process loses one; sending one twice is harmless, as the server knows
its uuid.

    link = Link("https://fleet.example", token, hello={...}, folder=Path("spool/arm-1"))
    links = LinkThread(); links.add(link)
    station = Station(MyRobot(), emit=link.send, show=link.show, store=link.store)
    while running:
        station.server_gone(link.gone_for())
        for message, received_at in link.received(): station.receive(message, received_at)
        ...
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import queue
import random
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from robots.episodes import Episode, EpisodeError, episodes_to_bytes, read_episodes

log = logging.getLogger(__name__)

FRAME_HEADER = struct.Struct(">IId")  # step, episode number, unix time of capture; a JPEG follows
FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 5.0
WELCOME_WITHIN_S = 10.0
PING_EVERY_S, PING_LOST_S = 0.8, 10.0
EPISODES_A_REQUEST = 64
BYTES_A_REQUEST = 16 * 2**20
SPOOLED_EPISODES = 2000
CHECKPOINTS_KEPT = 24


class LinkError(Exception):
    """The link to the server cannot do what it should; the text is for a person."""


class MissingToken(LinkError):
    pass


class NotAdmitted(LinkError):
    """The server knows no such token (401), or the token may not do this (403)."""


class Refused(LinkError):
    """The server took the request and found it wrong; sending it again would not help."""


class Unreachable(LinkError):
    """Nobody answered, or the server is in trouble; sending it again later may help."""


def check_token(token: str | None, station: str = "") -> str:
    name = f"The station {station}" if station else "This station"
    if not token or not token.strip():
        raise MissingToken(
            f"{name} has no token. A lab manager makes one on the station's page; put it into the tokens file."
        )
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise MissingToken(f"The token of {name.lower()} has characters that no token has; copy it again.")
    return token


def _sentence(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return (answer.text or answer.reason_phrase)[:300]


def _check(answer: httpx.Response, what: str) -> None:
    code = answer.status_code
    if code == 401:
        raise NotAdmitted(f"The server does not know this station's token ({what}). A lab manager can make a new one.")
    if code == 403:
        raise NotAdmitted(f"This station's token may not do this ({what}): {_sentence(answer)}")
    if code in (408, 425, 429) or code >= 500:
        raise Unreachable(f"The server could not answer ({what}, HTTP {code}).")
    if code == 400:
        raise Refused(
            f"The server could not read it, so it may have been cut short on the way ({what}): {_sentence(answer)}"
        )
    if code == 422:
        raise Refused(f"The server read it and found it wrong ({what}): {_sentence(answer)}")
    if code != 200:
        raise Refused(f"The server refused it ({what}, HTTP {code}): {_sentence(answer)}")


class Spool:
    """Finished episodes on disk until the server has them, oldest first, at most SPOOLED_EPISODES."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.refused = self.folder / "refused"
        self.refused.mkdir(parents=True, exist_ok=True)
        self._names = deque(sorted(path.name for path in self.folder.glob("*.safetensors")))

    def __len__(self) -> int:
        return len(self._names)

    def add(self, episode: Episode) -> None:
        # Written and renamed without waiting for the disk: the control loop stands still meanwhile, and only a power
        # cut could lose the file, which a short practice episode is not worth.
        name = f"{time.time_ns():020d}-{episode.purpose}-{episode.uuid}.safetensors"
        path = self.folder / name
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(episodes_to_bytes([episode]))
        os.replace(temporary, path)
        self._names.append(name)
        if len(self._names) > SPOOLED_EPISODES:
            self._drop_one()

    def _drop_one(self) -> None:
        """A full spool gives up practice first: it is stale anyway, and a person's corrections are dear."""
        name = next((name for name in self._names if "-practice-" in name), self._names[0])
        log.warning("The spool %s is full: the oldest episode is dropped.", self.folder)
        self.remove([name])

    def next(self) -> list[str]:
        names, size = [], 0
        for name in list(self._names)[:EPISODES_A_REQUEST]:
            with contextlib.suppress(FileNotFoundError):
                size += (self.folder / name).stat().st_size
            if names and size > BYTES_A_REQUEST:
                break
            names.append(name)
        return names

    def read(self, names: Iterable[str]) -> list[Episode]:
        episodes = []
        for name in names:
            try:
                episodes += read_episodes(self.folder / name)
            except FileNotFoundError:
                self.remove([name])
            except EpisodeError as error:
                self.refuse(name, str(error))
        return episodes

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
            with contextlib.suppress(ValueError):
                self._names.remove(name)

    def refuse(self, name: str, sentence: str) -> None:
        """Kept apart with the reason beside it, so that one bad episode neither blocks the others nor is lost."""
        log.error("The episode %s was refused and lies in %s: %s", name, self.refused, sentence)
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.folder / name, self.refused / name)
            (self.refused / f"{name}.txt").write_text(sentence + "\n", encoding="utf-8")
        self.remove([name])


class CheckpointCache:
    """Checkpoints by their sha256, shared by all stations of a host: each is downloaded once."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._locks: dict[str, asyncio.Lock] = {}
        self._checked: set[str] = set()

    async def fetch(self, http: httpx.AsyncClient, url: str, sha256: str) -> Path:
        if len(sha256) != 64 or not all(c in "0123456789abcdef" for c in sha256):
            raise Refused(f"{sha256!r} is no sha256 sum, so the checkpoint cannot be trusted.")
        path = self.folder / f"{sha256}.safetensors"
        async with self._locks.setdefault(sha256, asyncio.Lock()):
            if path.exists() and sha256 not in self._checked:
                if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                    self._checked.add(sha256)
                else:
                    path.unlink()  # damaged since it was stored
            if path.exists():
                os.utime(path)
                return path
            await self._download(http, url, sha256, path)
            self._checked.add(sha256)
            self._forget_oldest()
        return path

    async def _download(self, http: httpx.AsyncClient, url: str, sha256: str, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        digest = hashlib.sha256()
        try:
            async with http.stream("GET", url) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    _check(answer, "download of a checkpoint")
                with open(temporary, "wb") as file:
                    async for chunk in answer.aiter_bytes(2**18):
                        digest.update(chunk)
                        file.write(chunk)
        except httpx.HTTPError as error:
            raise Unreachable(f"The download of a checkpoint broke off ({error or type(error).__name__}).") from None
        if digest.hexdigest() != sha256:
            temporary.unlink(missing_ok=True)
            raise Unreachable("A checkpoint came with a wrong sha256 sum, so it was cut short or changed on the way.")
        os.replace(temporary, path)

    def _forget_oldest(self) -> None:
        files = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in files[:-CHECKPOINTS_KEPT]:
            path.unlink(missing_ok=True)


class Link:
    """One station's link. `send`, `show`, `show_frame`, `store`, `received` and `gone_for` may be called from any
    thread.
    """

    def __init__(
        self,
        server: str,
        token: str,
        hello: dict,
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
        self._hello = {"type": "hello", **hello}
        self.spool = Spool(Path(folder) / "spool")
        self.cache = cache or CheckpointCache(Path(folder) / "checkpoints")
        self.clock = clock
        self.connected = False
        self._heard = clock()
        self._server_ahead_s = time.time() - clock()  # the server's wall clock against ours, which nobody can set
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._outbox: deque[dict] = deque()
        self._telemetry: dict | None = None
        self._frame: bytes | None = None
        self._wanted_policy: dict | None = None
        self.closing = False
        self._said = ""
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Link {self.name} to {self.server}>"

    # From the station's thread

    def send(self, message: dict) -> None:
        """A message that must arrive."""
        if message["type"] == "telemetry":
            self._telemetry = None  # older than this one
            if not self.connected:
                return self.show(message)  # of the states passed while nobody listened, only the last matters
        self._outbox.append(message)
        self._wake("_to_send")

    def show(self, telemetry: dict) -> None:
        self._telemetry = telemetry
        self._wake("_to_send")

    def show_frame(self, step: int, episode: int, captured_at: float, jpeg: bytes) -> None:
        if self.connected:
            self._frame = FRAME_HEADER.pack(step, episode, captured_at) + jpeg
            self._wake("_to_send")

    def store(self, episode: Episode) -> None:
        try:
            self.spool.add(episode)
        except (EpisodeError, OSError) as error:  # a full disk, a world that breaks the format: the loop must go on
            log.error("%s: an episode could not be kept: %s", self.name or "station", error)
            return
        self._wake("_to_upload")

    def received(self) -> list[tuple[dict, float]]:
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
                    await socket.send(json.dumps(self._hello))
                    async with asyncio.timeout(WELCOME_WITHIN_S):
                        while self._take(await socket.recv()) != "welcome":
                            pass
                    delay, self._said = FIRST_DELAY_S, ""
                    await self._converse(socket)
            except InvalidStatus as error:
                self._say(_rejection(error.response.status_code))
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd else None
                self._say(
                    _rejection(code, error.rcvd.reason) if code else "the connection to the server broke; trying again"
                )
            except (OSError, TimeoutError, WebSocketException) as error:
                self._say(f"the server at {self.server} cannot be reached ({type(error).__name__}); trying again")
            finally:
                self.connected = False
            delay = await self._pause(delay)

    async def _converse(self, socket: ClientConnection) -> None:
        tasks = [asyncio.create_task(part(socket)) for part in (self._read, self._write, self._ping)]
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
            frame, self._frame = self._frame, None
            if frame is not None:
                await socket.send(frame)
            if self._outbox or self._telemetry or self._frame:
                continue
            if self.closing:
                return
            self._to_send.clear()
            await self._to_send.wait()

    def _text(self, message: dict) -> str:
        if message["type"] == "telemetry":
            message = {**message, "unsent": len(self.spool)}
        return json.dumps(message, allow_nan=False)

    async def _ping(self, socket: ClientConnection) -> None:
        while True:
            async with asyncio.timeout(PING_LOST_S):
                await (await socket.ping())
            self._heard = self.clock()
            await asyncio.sleep(PING_EVERY_S)

    def _take(self, text: str | bytes) -> str:
        """Hand a message to the station; its kind."""
        self._heard = self.clock()
        try:
            message = json.loads(text)
            kind = message["type"]
        except (ValueError, KeyError, TypeError):
            log.warning("%s: the server sent something that is no message; it is ignored", self.name)
            return ""
        if kind == "welcome":
            # Before the station hears of it, and answers with telemetry; what it said to nobody is no news any more.
            self.connected, self._telemetry = True, None
            if isinstance(message.get("server_time"), (int, float)):
                self._server_ahead_s = message["server_time"] - self.clock()
        if kind in ("command", "beat") and isinstance(message.get("sent_at"), (int, float)):
            # A command that waited somewhere on the way is as old as it is, whenever it arrived.
            message["age_s"] = max(0.0, self.clock() + self._server_ahead_s - message["sent_at"])
        if kind == "policy":
            self._wanted_policy = message
            self._to_fetch.set()
        else:
            self._deliver(message)
        return kind

    def _deliver(self, message: dict) -> None:
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
                path = await self.cache.fetch(http, self._address(wanted["url"]), wanted["sha256"])
                judge = await self.cache.fetch(
                    http, self._address(wanted["reward_model_url"]), wanted["reward_model_sha256"]
                )
            except (Unreachable, OSError) as error:  # OSError: this machine's disk
                self._say(f"{error} Trying again.")
                delay = await self._pause(delay)
                continue
            except (LinkError, KeyError) as error:
                reason = str(error) if isinstance(error, LinkError) else f"The server's policy message lacks {error}."
                self._say(reason)
                self._deliver({"type": "policy_failed", "checkpoint": wanted.get("checkpoint"), "reason": reason})
            else:
                self._deliver({**wanted, "path": str(path), "reward_model_path": str(judge)})
            delay = FIRST_DELAY_S
            if self._wanted_policy is wanted:  # else a newer one came meanwhile
                self._wanted_policy = None

    def _address(self, url: str) -> str:
        address = self.server + url if url.startswith("/") else url  # the server may stand under a sub-path
        if urlsplit(address)[:2] != urlsplit(self.server)[:2]:
            raise Refused(
                f"The server named a checkpoint elsewhere ({urlsplit(address).netloc}); the token stays here."
            )
        return address

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
                await self._upload(http, names)
            except (Unreachable, NotAdmitted) as error:
                self._say(f"{error} {len(self.spool)} episodes wait on disk.")
                if self.closing:
                    return
                delay = await self._pause(delay)
            else:
                delay = FIRST_DELAY_S

    async def _upload(self, http: httpx.AsyncClient, names: list[str]) -> None:
        episodes = self.spool.read(names)
        if not episodes:
            return
        try:
            answer = await upload(http, self.server, episodes)
        except (Refused, EpisodeError) as error:
            if len(names) == 1:
                self.spool.refuse(names[0], str(error))
            else:  # find the one that is wrong; the others are good
                for name in names:
                    await self._upload(http, [name])
            return
        self.spool.remove(names)
        if answer["hold"]:
            policies = {episode.policy for episode in episodes}
            self._deliver({"type": "hold", "policies": sorted(policies)})


async def upload(http: httpx.AsyncClient, server: str, episodes: list[Episode]) -> dict:
    """Send finished episodes; {"hold": bool}: whether the station shall wait for a newer policy."""
    try:
        answer = await http.post(
            f"{server}/api/station/episodes",
            content=episodes_to_bytes(episodes),
            headers={"Content-Type": "application/octet-stream"},
        )
    except httpx.HTTPError as error:
        raise Unreachable(f"The upload of episodes broke off ({error or type(error).__name__}).") from None
    _check(answer, "upload of episodes")
    try:
        return {"hold": bool(answer.json()["hold"])}
    except (ValueError, KeyError, TypeError):
        raise Unreachable("Something else than the fleet's server answered the upload of episodes.") from None


def _rejection(code: int, reason: str = "") -> str:
    if code in (401, 4401):
        return "the server does not know this station's token; a lab manager can make a new one"
    if code in (403, 4403):
        return f"the server does not admit this station; its token may be wrong or revoked. {reason}".strip()
    return f"the server closed the connection ({code} {reason}".strip() + "); trying again"


class LinkThread:
    """An asyncio loop in a thread of its own for the links of one process."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()
        self._running: dict[Link, object] = {}

    def add(self, link: Link) -> None:
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
        self._end([link], timeout)

    def close(self, timeout: float = 2.0) -> None:
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

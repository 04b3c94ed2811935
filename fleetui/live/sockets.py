"""What the sockets of stations and of browsers share: nothing that goes wrong in one of them is left behind.

Each message is taken without waiting for a database. What needs one is work for a task of the socket, in order. A
message that makes no sense is answered with a sentence; a socket that sends many of them is closed. However a socket
ends (a farewell, a broken connection, a mistake in a handler), its tasks end with it and `leave` is called once.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import DataError, Error
from redis.exceptions import RedisError

from fleetui import access
from robots import strict_json

log = logging.getLogger(__name__)

BAD_LIMIT = 20  # messages that make no sense, within BAD_WITHIN_S, until the socket is closed
BAD_WITHIN_S = 10.0
TASKS_LIMIT = 300  # answers among them
WORK_LIMIT = 500  # things that wait for the database; more is refused
CLOSED_WITHIN_S = 2.0
BAD_MESSAGE = 4400
GONE = (RuntimeError, OSError)  # what sending raises once the other end is not there: uvicorn's and Channels' own
P = ParamSpec("P")
Returned = TypeVar("Returned")
# Enough that a database which hangs holds some sockets' work but not all; never used for a stop.
_threads = ThreadPoolExecutor(32, thread_name_prefix="sockets")


class BadRequest(ValueError):
    """The message makes no sense; the text says why."""


def in_thread(function: Callable[P, Returned]) -> Callable[P, Coroutine[Any, Any, Returned]]:
    """Database work of a socket, in a thread of the pool; one shared thread would make sockets wait for each other."""
    return database_sync_to_async(function, thread_sensitive=False, executor=_threads)


def read_json(text: str | None, largest: int) -> dict[str, Any]:
    """The message, an object; ValueError with a sentence where it is none."""
    if text is None or len(text) > largest:
        raise BadRequest(f"Send JSON text of at most {largest // 1024} KiB.")
    message = strict_json.loads(text)
    if not isinstance(message, dict):
        raise BadRequest("Send a JSON object.")
    return message


under_way: set[asyncio.Task[Any]] = set()


def begin(coroutine: Coroutine[Any, Any, object]) -> None:
    """A task that nobody waits for and that no socket's end ends. Held here until it is done: the loop alone would let
    it vanish under way.
    """
    task = asyncio.get_running_loop().create_task(coroutine)
    under_way.add(task)
    task.add_done_callback(under_way.discard)


class Socket(AsyncWebsocketConsumer):
    """A connection of /ws/*. Subclasses have `enter`, `take` and `leave`."""

    async def enter(self) -> None:
        """Accept it, or close it with a reason."""
        raise NotImplementedError

    async def take(self, text: str | None, data: bytes | None) -> None:
        """One message. Must not wait for anything; `do` is for what does."""
        raise NotImplementedError

    async def leave(self) -> None:
        """It is over, however it ended."""

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        self.scope, self.base_send = scope, send
        # No channel of the layer: hearing.py has one for all sockets, so that none depends on Valkey.
        self.channel_layer = None  # type: ignore[assignment]  # Channels itself asks whether it is None; its stubs don't
        self.heard_at = time.monotonic()
        self.over = False  # closed from here, or gone
        self.bad_at: list[float] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.work: asyncio.Queue[tuple[Callable[[], Awaitable[object]], dict[str, Any] | None]] = asyncio.Queue(
            WORK_LIMIT
        )
        try:
            await receive()  # websocket.connect
            await self.enter()
            self.spawn(self.keep_working())
            while (message := await receive())["type"] != "websocket.disconnect":
                self.heard_at = time.monotonic()
                if not self.over:
                    await self.guard(partial(self.take, message.get("text"), message.get("bytes")))
                await asyncio.sleep(0)  # a flood from one socket leaves the others their turn
        except GONE as error:
            log.debug("A socket broke: %r", error)
        finally:
            self.over = True
            for task in list(self.tasks):
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await self.leave()

    def silent_s(self) -> float:
        """Seconds since it was last heard."""
        return time.monotonic() - self.heard_at

    def spawn(self, coroutine: Coroutine[Any, Any, Returned]) -> asyncio.Task[Returned]:
        """A task that ends with the socket; what it raises is logged."""
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.forget_task)
        return task

    def forget_task(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: a task failed", self, exc_info=error)

    def do(self, work: Callable[[], Awaitable[object]], message: dict[str, Any] | None = None) -> None:
        """Work that waits for the database or for Valkey: done after what was asked before. A refusal of it is answered
        as one of `message`.
        """
        try:
            self.work.put_nowait((work, message))
        except asyncio.QueueFull:
            raise BadRequest("Too much is asked of this socket at once; wait for the answers.") from None

    async def keep_working(self) -> None:
        while True:
            work, message = await self.work.get()
            await self.guard(work, message)

    async def guard(self, work: Callable[[], Awaitable[object]], message: dict[str, Any] | None = None) -> None:
        """Whatever goes wrong with one message costs that message only."""
        try:
            await work()
        except access.Refused as error:
            self.refuse(str(error), message)
        except (ValueError, ValidationError) as error:
            self.refuse(str(error), message)
            self.count_bad(str(error))
        except DataError:
            sentence = "A value is too long, too large or no text at all."
            self.refuse(sentence, message)
            self.count_bad(sentence)
        except (Error, RedisError, TimeoutError) as error:
            log.warning("%s: the database or Valkey does not answer: %s", self, str(error).partition("\n")[0])
            self.refuse("The server's database does not answer now; try again.", message)
        except GONE as error:
            log.debug("%s: %r", self, error)
        except Exception:  # a mistake of ours must cost no station its link and no page its socket
            log.exception("%s: a message could not be taken", self)
            sentence = "The server could not make sense of this message."
            self.refuse(sentence, message)
            self.count_bad(sentence)

    def refuse(self, sentence: str, message: dict[str, Any] | None) -> None:
        self.say_soon({"error": sentence, "for": message})

    def say_soon(self, message: dict[str, Any]) -> None:
        """Without waiting for a line that is full: what comes behind may be a stop. Who reads nothing gets no more."""
        if len(self.tasks) < TASKS_LIMIT:
            self.spawn(self.say(message))

    def count_bad(self, sentence: str) -> None:
        now = time.monotonic()
        self.bad_at = [at for at in self.bad_at if now - at < BAD_WITHIN_S] + [now]
        if len(self.bad_at) >= BAD_LIMIT:
            log.warning("%s sent %d bad messages: %s", self, len(self.bad_at), sentence)
            self.hang_up_soon(BAD_MESSAGE, sentence)

    async def say(self, message: dict[str, Any]) -> None:
        await self.send_out(text_data=strict_json.dumps(message))

    async def send_out(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """To the other end, if it is still there."""
        if self.over:
            return
        try:
            await self.send(text_data, bytes_data)
        except GONE as error:
            self.over = True
            log.debug("%s: %r", self, error)

    def hang_up_soon(self, code: int, reason: str = "") -> None:
        begin(self.hang_up(code, reason))

    async def hang_up(self, code: int, reason: str = "") -> None:
        """Close it from here. A dead connection can neither raise nor make its caller wait."""
        if self.over:
            return
        self.over = True
        try:
            async with asyncio.timeout(CLOSED_WITHIN_S):
                await self.close(code, reason[:120])
        except (*GONE, TimeoutError) as error:
            log.debug("%s: %r", self, error)


class PersonSocket(Socket):
    """A connection of somebody who is logged in."""

    user: User
    known_roles: dict[str, str]  # by the labs' slugs, as the newest look found them

    def is_welcome(self) -> bool:
        """Look anew: whether the log-in lasts, and the roles that the page was drawn for."""
        raise NotImplementedError

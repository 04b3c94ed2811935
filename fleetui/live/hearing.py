"""What other processes say to this one, through the channel layer: one channel hears all groups that somebody joined.

A socket must live whether Valkey is there or not, so no socket has a channel of its own: joining a group that can't be
joined now is tried again each second, and goes on being heard after Valkey was away.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from redis.exceptions import RedisError

from fleetui.messages import channel_layer

log = logging.getLogger(__name__)

WITHIN_S = 1.0  # so long may Valkey take
AGAIN_AFTER_S = 1.0
AWAY = (RedisError, TimeoutError, OSError)
Handler = Callable[[dict[str, Any]], None]  # never waits


class Hearing:
    """The groups that are listened to on one event loop."""

    def __init__(self) -> None:
        self.handlers: dict[str, set[Handler]] = {}
        self.joined: set[str] = set()
        self.channel = ""
        self.tasks = [asyncio.create_task(self.listen()), asyncio.create_task(self.keep_joining())]

    async def join(self, group: str, handler: Handler) -> bool:
        """Hear the group from now on; False where that can't be yet, and what is said meanwhile is missed."""
        self.handlers.setdefault(group, set()).add(handler)
        await self.join_group(group)
        return group in self.joined

    async def leave(self, group: str, handler: Handler) -> None:
        handlers = self.handlers.get(group, set())
        handlers.discard(handler)
        if handlers:
            return
        self.handlers.pop(group, None)
        if group in self.joined:
            self.joined.discard(group)
            try:
                async with asyncio.timeout(WITHIN_S):
                    await channel_layer().group_discard(group, self.channel)
            except AWAY:
                pass

    async def join_group(self, group: str) -> None:
        if not self.channel or group in self.joined:
            return
        try:
            async with asyncio.timeout(WITHIN_S):
                await channel_layer().group_add(group, self.channel)
        except AWAY:
            return
        if group in self.handlers:
            self.joined.add(group)

    async def keep_joining(self) -> None:
        while True:
            for group in set(self.handlers) - self.joined:
                await self.join_group(group)
            await asyncio.sleep(AGAIN_AFTER_S)

    async def listen(self) -> None:
        while True:
            try:
                layer = channel_layer()
                async with asyncio.timeout(WITHIN_S):
                    self.channel = await layer.new_channel()
                for group in list(self.handlers):
                    await self.join_group(group)
                while True:
                    self.hand_on(await layer.receive(self.channel))
            except AWAY as error:
                log.warning("Valkey does not answer (%s); trying again", error or type(error).__name__)
            except Exception:  # whatever else stands in Valkey under our names: this process must go on hearing
                log.exception("What came through Valkey was not understood; listening anew")
            self.channel, self.joined = "", set()
            await asyncio.sleep(AGAIN_AFTER_S)

    def hand_on(self, event: dict[str, Any]) -> None:
        for handler in list(self.handlers.get(event.get("group", ""), ())):
            try:
                handler(event)
            except Exception:  # one listener's mistake must not cost the others what they listen to
                log.exception("An event of %s was not understood", event.get("group"))


_hearings: WeakKeyDictionary[asyncio.AbstractEventLoop, Hearing] = WeakKeyDictionary()


def get_hearing() -> Hearing:
    """This event loop's; a server has one loop."""
    loop = asyncio.get_running_loop()
    if loop not in _hearings:
        _hearings[loop] = Hearing()
    return _hearings[loop]

"""/ws/live: a browser's socket. What it shows is in watching.py, what a person orders through it in commanding.py.

Every two seconds the page hears something, so that it knows a silent line; it answers, so that the server does. The
socket ends with the log-in, and with the role that its page was drawn for.
"""

import asyncio
import contextlib
import time
from functools import partial
from typing import Any

from asgiref.typing import WebSocketScope
from django.conf import settings
from django.contrib.auth.models import User
from django.db import Error

from fleetui import access
from fleetui.fleet.actions import people
from fleetui.live.commanding import FORBIDDEN, Commanding
from fleetui.live.sockets import BadRequest, PersonSocket, in_thread, read_json
from fleetui.live.watching import Watching

LARGEST_TEXT = 64 * 1024
NOTE_SEEN_S = 60.0
RECHECK_S = 1.5  # so long may a socket outlive its log-in, its user's membership or role; 2 s with the asking
HEARTBEAT_EVERY_S = 2.0
# A page that answers no heartbeat for so long gets no socket: one on a slow line answers late, for its heartbeats wait
# behind pictures, which end sooner (watching.py).
SILENT_AFTER_S = 30.0
WATCH_SILENCE_S = 0.1
SILENT = 4408


class LiveConsumer(PersonSocket):
    roles: dict[str, str]
    watching: Watching
    commanding: Commanding

    def __str__(self) -> str:
        return f"A page of {self.scope['user']}"

    async def enter(self) -> None:
        user = self.scope["user"]  # it stands for the user, and says so when it is asked for its class
        self.session = self.scope["session"].session_key or ""
        self.noted_seen = -NOTE_SEEN_S
        self.entered = False
        if not isinstance(user, User) or not is_same_origin(self.scope):
            await self.hang_up(FORBIDDEN)
            return
        self.user = user
        # As the page was drawn, and as they are by the newest look (is_welcome).
        self.roles = self.known_roles = await in_thread(access.get_roles)(self.user)
        access.remember_person(self.session, self.user, self.roles)
        access.count_page(self.session, 1)
        self.watching, self.commanding = Watching(self), Commanding(self)
        self.entered = True
        await self.accept()
        self.watching.begin()
        self.commanding.begin()
        for part in (self.close_when_unwelcome, self.close_when_silent, self.send_heartbeats):
            self.spawn(part())

    async def leave(self) -> None:
        if not self.entered:
            return
        access.count_page(self.session, -1)
        lapses = await self.commanding.let_all_go()
        await self.watching.end()
        await asyncio.gather(*lapses)

    async def take(self, text: str | None, data: bytes | None) -> None:
        message = read_json(text, LARGEST_TEXT)
        if "alive" in message:
            if message.get("ask") is True:  # the page was away, or its network changed
                self.say_soon(self.alive())
            return
        if "stop" in message:
            try:
                self.commanding.stop(message)
            except access.Refused as error:
                wanted = {"id": message["stop"].get("id"), "error": str(error), "status": error.status}
                self.say_soon({"stop_done": wanted})
        elif "control_heartbeat" in message:
            self.commanding.hear_heartbeat(message["control_heartbeat"])
        elif "subscribe" in message:
            self.do(partial(self.watching.subscribe, message), message)
        elif "unsubscribe" in message:
            self.do(partial(self.watching.unsubscribe, message), message)
        elif "command" in message:
            self.commanding.command(message["command"])
        else:
            raise BadRequest("Send subscribe, unsubscribe, stop, command or control_heartbeat.")

    async def send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_EVERY_S)
            await self.say(self.alive())

    def alive(self) -> dict[str, Any]:
        return {"heartbeat": {"server_time": time.time(), "clock": time.monotonic()}}

    async def close_when_unwelcome(self) -> None:
        """The socket was opened by a session, and must not outlive it; nor show a lab to who has left it."""
        while True:
            await asyncio.sleep(RECHECK_S)
            with contextlib.suppress(Error):  # asked again soon
                if not await in_thread(self.is_welcome)():
                    await self.hang_up(FORBIDDEN)

    async def close_when_silent(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SILENCE_S)
            if self.silent_s() > SILENT_AFTER_S:
                self.hang_up_soon(SILENT, "The page did not answer.")

    def is_welcome(self) -> bool:
        if not access.read_session(self.session).is_authenticated:
            access.forget_person(self.session)
            return False
        labs = self.watching.labs()
        now = access.get_roles(self.user)
        access.remember_person(self.session, self.user, now)
        self.known_roles = now
        if labs and time.monotonic() - self.noted_seen > NOTE_SEEN_S:
            self.noted_seen = time.monotonic()
            people.note_seen(user=self.user, labs=list(labs))
        # The page of another role offers other acts: it is drawn anew, as after a log-out.
        return all(lab in now and now[lab] == self.roles.get(lab) for lab in labs)


def is_same_origin(scope: WebSocketScope) -> bool:
    """Only our own pages may open the socket: a browser would send the session's cookie from any site.

    Channels' AllowedHostsOriginValidator takes every port of an allowed host, and a browser sends our cookie to
    whatever else listens on this machine; its OriginValidator wants to know each origin beforehand, and so would refuse
    a forwarded port.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    host = headers.get(b"host", b"").decode("latin-1")
    return origin in (f"http://{host}", f"https://{host}", *settings.CSRF_TRUSTED_ORIGINS)

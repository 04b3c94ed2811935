"""A small server that speaks the station's side of docs/architecture.md, over real sockets, and can be told to
misbehave.
"""

import asyncio
import contextlib
import hashlib
import json
import threading
import time
from collections import Counter

import uvicorn

from robots.episodes import EpisodeError, read_episodes
from robots.protocol import model_sum


class FakeServer:
    """Start, stop and start again on one port. Everything that stations sent is in the lists."""

    def __init__(self, token="good-token"):
        self.token, self.port = token, 0
        self.sockets = {}
        self.running = False
        self.forget()
        self.start()

    def forget(self):
        """Begin anew for another test: what was sent and how to behave; runs again if it was stopped."""
        self.messages, self.frames, self.episodes, self.uploads, self.downloads = [], [], {}, Counter(), Counter()
        self.files: dict[str, bytes] = {}
        self.models: dict[str, bytes] = {}
        self.hold = False
        self.root = ""  # the sub-path below which alone it answers, as behind a proxy
        self.answers = []  # (status, sentence) given to the next uploads instead of reading them
        self.settings = {"self_reset_after_s": None, "shuffle_every_s": 300, "speed": 0}
        self.on_welcome = []  # messages that every new connection gets at once
        self.connections = 0
        self.beating = True  # a heartbeat each second, as the server sends it
        self.latched = ""  # the stop that it says is latched
        self.clock = time.monotonic  # the steady one, which it tells
        if self.port and not self.running:
            self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}{self.root}"

    def start(self):
        config = uvicorn.Config(
            self._app,
            host="127.0.0.1",
            port=self.port,
            log_level="error",
            lifespan="off",
            interface="asgi3",
            ws="websockets-sansio",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._server.serve(),), daemon=True)
        self._thread.start()
        until(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.running = True

    def stop(self):
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(60)
        self.running = False

    def send(self, message, station=None):
        """To every connected station."""
        for send in list(self.sockets.values()):
            coroutine = send({"type": "websocket.send", "text": json.dumps(message)})
            asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def command(self, name, id="c1", ttl_ms=60_000, epoch=1, **args):
        self.send({"type": "command", "id": id, "name": name, "args": args, "ttl_ms": ttl_ms, "epoch": epoch})

    def drop(self):
        """Break every connection without a word of farewell to the station's side."""
        for send in list(self.sockets.values()):
            asyncio.run_coroutine_threadsafe(send({"type": "websocket.close", "code": 1012}), self._loop).result(60)

    def of(self, kind):
        return [message for message in self.messages if message["type"] == kind]

    def add_file(self, name, content):
        self.files[name] = content
        return f"/api/station/checkpoints/{name}", hashlib.sha256(content).hexdigest()

    def add_model(self, files):
        """As of a policy message; its files by name are answered from here on."""
        told = [
            {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            for name, content in files.items()
        ]
        sha256 = model_sum(told)
        self.models |= {f"{sha256}/{name}": content for name, content in files.items()}
        return {"sha256": sha256, "files": told}

    async def _app(self, scope, receive, send):
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        admitted = headers.get("authorization", "").removeprefix("Bearer ").split("/")[0] == self.token
        with contextlib.suppress(asyncio.CancelledError):
            await (self._socket if scope["type"] == "websocket" else self._http)(scope, receive, send, admitted)

    async def _socket(self, scope, receive, send, admitted):
        await receive()
        if not admitted:
            return await send({"type": "websocket.close", "code": 4401})
        await send({"type": "websocket.accept"})
        self.connections += 1
        number = self.connections
        beating = asyncio.create_task(self._keep_beating(send))
        try:
            while True:
                event = await receive()
                if event["type"] == "websocket.disconnect":
                    return None
                if event.get("bytes") is not None:
                    self.frames.append((time.time(), event["bytes"]))
                    continue
                message = json.loads(event["text"])
                self.messages.append(message)
                if message["type"] == "hello":
                    welcome = {
                        "type": "welcome",
                        "station": number,
                        "name": "fake",
                        "server_time": self.clock(),
                        "settings": self.settings,
                    }
                    for answer in (welcome, *self.on_welcome):
                        await send({"type": "websocket.send", "text": json.dumps(answer)})
                    self.sockets[number] = send
        finally:
            beating.cancel()
            self.sockets.pop(number, None)

    async def _keep_beating(self, send):
        while True:
            await asyncio.sleep(1.0)
            if self.beating:
                beat = {"type": "heartbeat", "server_time": self.clock(), "stop": self.latched}
                with contextlib.suppress(Exception):
                    await send({"type": "websocket.send", "text": json.dumps(beat)})

    async def _http(self, scope, receive, send, admitted):
        body, more = b"", True
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        status, answer = self._answer(scope["path"], body, admitted)
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-length", str(len(content)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": content})

    def _answer(self, path, body, admitted):
        if not admitted:
            return 401, {"detail": "no such token"}
        if not path.startswith(f"{self.root}/"):
            return 404, {"detail": f"Nothing is here, beside {self.root}/."}
        path = path.removeprefix(self.root)
        if path.startswith("/api/station/checkpoints/"):
            name = path.rsplit("/", 1)[1]
            self.downloads[name] += 1
            return (200, self.files[name]) if name in self.files else (404, {"detail": "There is no such checkpoint."})
        if path.startswith("/api/station/models/"):
            name = path.removeprefix("/api/station/models/")
            self.downloads[name.partition("/")[2]] += 1
            return (200, self.models[name]) if name in self.models else (404, {"detail": "There is no such model."})
        if self.answers:
            status, sentence = self.answers.pop(0)
            return status, {"detail": sentence}
        try:
            episodes = read_episodes(body)
        except EpisodeError as error:
            return 400, {"detail": str(error)}
        for episode in episodes:
            if episode.instruction == "poison":
                return 500, {"detail": "the server broke"}
            if episode.instruction == "wrong shape":
                return 422, {"detail": f"Episode {episode.uuid}, field observations: wrong shape"}
        for episode in episodes:
            self.uploads[episode.uuid] += 1
            self.episodes[episode.uuid] = episode
        return 200, {"stored": len(episodes), "hold": self.hold}


def until(condition, seconds=60.0):
    """What it gives once it holds. Only what never comes takes so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.01)
    raise AssertionError("It did not happen in time.")

"""The one web process: Django's pages and API, the live sockets, and the Dash charts under /charts/app/.

Frames are kept in this process' memory (live/frames.py), which is why there is exactly one of it.
"""

import gc
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http.request import split_domain_port

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetui.settings")
django_app = get_asgi_application()

# Models exist only from here on, so what imports them comes after.
from fleetui import failures, stops  # noqa: E402
from fleetui.charts.asgi import dash_asgi  # noqa: E402
from fleetui.live.hearing import get_hearing  # noqa: E402
from fleetui.live.routing import websocket_urlpatterns  # noqa: E402
from robots import strict_json  # noqa: E402

CHARTS = "/charts/app/"
LARGEST_BODY = settings.DATA_UPLOAD_MAX_MEMORY_SIZE

# As ASGI has them.
Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[..., Awaitable[None]]  # of (scope, receive, send), which each library types in its own way


def as_asked(scope: Scope) -> Scope:
    """A proxy may drop the sub-path, the port or https on the way; what the browser asked for (FLEETUI_URL) is put back
    here, so that addresses, redirects and the checks of where a request comes from are right everywhere after.
    """
    path, base = scope["path"], settings.BASE_PATH
    if not f"{path}/".startswith(f"{base}/"):
        path = base + path
    asked = {**scope, "root_path": base, "path": f"{base}/" if path == base else path}
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    if settings.PUBLIC_HOST and split_domain_port(host)[0] == settings.PUBLIC_HOST:
        public = urlsplit(settings.PUBLIC_ORIGIN)
        headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
        asked["headers"] = [*headers, (b"host", public.netloc.encode())]
        asked["scheme"] = public.scheme.replace("http", "ws") if scope["type"] == "websocket" else public.scheme
    return asked


async def pages(scope: Scope, receive: Receive, send: Send) -> None:
    """Dash's pages guard themselves by the Django session."""
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        await refuse(send, 400, "The address holds a NUL character, which nothing here has in its name.")
        return
    app: App = dash_asgi if scope["path"].removeprefix(settings.BASE_PATH).startswith(CHARTS) else django_app
    await refuse_large_bodies(app, scope, receive, send)


async def refuse_large_bodies(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Django spools a whole body to disk before it asks who sends it; so what is too large is refused here, at its
    announcement, or where none was made, as soon as more has come.
    """
    length = dict(scope["headers"]).get(b"content-length", b"0")
    too_large, answered, got = not length.isdigit() or int(length) > LARGEST_BODY, False, 0

    async def receive_some() -> Message:
        nonlocal got, too_large
        message = await receive()
        got += len(message.get("body", b""))
        if got > LARGEST_BODY:
            too_large = True
            return {"type": "http.disconnect"}
        return message

    async def send_on(message: Message) -> None:
        nonlocal answered
        answered = True
        await send(message)

    if not too_large:
        try:
            await app(scope, receive_some, send_on)
        except Exception as error:  # a body is spooled to disk before any view is asked
            failure = failures.explain(error)
            if failure is None or answered:
                raise
            failures.note(failure, error, f"{scope['method']} {scope['path']}")
            await refuse(send, failure.status, failure.sentence)
    if too_large and not answered:
        await refuse(send, 413, "The upload is larger than 64 MiB; send less at once.")


async def refuse(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": strict_json.dumps({"detail": sentence}).encode()})


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """While the server runs it hears the stops that are given in other processes, by both ways."""
    watch = stops.Watch()

    def hear(event: dict[str, Any]) -> None:
        stops.hear(event["payload"])

    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            watch.start()
            await get_hearing().join(stops.GROUP, hear)
            # What was imported stays: else a full collection looks through all of it, 0.3 s in the middle of a page.
            gc.collect()
            gc.freeze()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            watch.end()
            await send({"type": "lifespan.shutdown.complete"})
            return


served: App = ProtocolTypeRouter(
    {
        "http": pages,
        "websocket": AuthMiddlewareStack(
            URLRouter(websocket_urlpatterns)  # type: ignore[arg-type]  # its stubs want a class that only they have
        ),
        "lifespan": lifespan,
    }
)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    await served(as_asked(scope) if "path" in scope else scope, receive, send)

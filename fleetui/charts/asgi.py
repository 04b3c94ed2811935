"""The door to the Dash app, which knows nothing of log-ins: the Django session opens it, as everywhere on the site.

Dash's callbacks are POSTs that Django's CSRF check never sees, so a POST must come from a page of this very site.
"""

import gzip
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIEnvironment

import flask
from a2wsgi import WSGIMiddleware
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import DisallowedHost
from django.core.handlers.wsgi import WSGIRequest
from django.db import close_old_connections
from django.http import HttpRequest

from fleetui import failures
from fleetui.charts.compare_app import COMPARE_PREFIX
from fleetui.charts.dash_app import PREFIX, app

CALLBACKS = (f"{PREFIX}_dash-", f"{COMPARE_PREFIX}_dash-")
SCRIPTS = tuple(f"{each}component-suites/" for each in CALLBACKS)
THREADS = 4
compress = lru_cache(maxsize=64)(gzip.compress)


def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The Dash app as WSGI, for those who are logged in."""
    try:
        request = WSGIRequest(environ)
        request.session = SessionStore(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
        user = get_user(request)
        if not user.is_authenticated:
            if request.path_info.startswith(CALLBACKS):
                return refuse(start_response, 401, "You are logged out; log in again, then reload this page.")
            target = f"{settings.LOGIN_URL}?next={quote(request.get_full_path())}"
            return refuse(start_response, 302, "Log in first.", ("Location", target))
        if request.method not in ("GET", "HEAD") and not is_same_origin(request):
            return refuse(start_response, 403, "This request does not come from a page of this site.")
        environ["fleetui.user"] = user
        answer: Iterable[bytes] = app.server(environ, start_response)
        return answer
    except failures.KINDS as error:
        status, sentence = explained(environ, error)
        return refuse(start_response, status, sentence)
    except DisallowedHost:
        return refuse(start_response, 400, "This server does not answer under that name; set FLEETUI_HOST to allow it.")


def explained(environ: WSGIEnvironment, error: Exception) -> tuple[int, str]:
    failure = failures.explain(error)
    if failure is None:
        raise error
    failures.note(failure, error, f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
    return failure.status, failure.sentence


def answer_failure(error: Exception) -> tuple[str, int, dict[str, str]]:
    """Of a callback, which flask would answer with a page of HTML."""
    status, sentence = explained(flask.request.environ, error)
    return sentence, status, {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}


for kind in failures.KINDS:
    app.server.register_error_handler(kind, answer_failure)


def is_same_origin(request: HttpRequest) -> bool:
    """Browsers send Origin with each POST; one without it is no browser's and has no business here."""
    origin = request.META.get("HTTP_ORIGIN", "")
    return origin == f"{request.scheme}://{request.get_host()}" or origin in settings.CSRF_TRUSTED_ORIGINS


def refuse(start_response: StartResponse, status: int, sentence: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    body = sentence.encode()
    start_response(
        f"{status} {HTTPStatus(status).phrase}",
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            *headers,
        ],
    )
    return [body]


@app.server.after_request
def shield(response: flask.Response) -> flask.Response:
    response.headers["X-Frame-Options"] = "SAMEORIGIN"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@app.server.after_request
def shrink(response: flask.Response) -> flask.Response:
    """Dash's own scripts, as WhiteNoise does with the site's."""
    if flask.request.path.startswith(SCRIPTS) and response.status_code == 200:
        response.vary.add("Accept-Encoding")
        if flask.request.accept_encodings.quality("gzip") > 0:
            response.direct_passthrough = False
            response.set_data(compress(response.get_data()))
            response.headers["Content-Encoding"] = "gzip"
    return response


def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Runs in a thread of a2wsgi's pool, so the database may be used; its connection goes back with the answer."""
    try:
        return guarded(environ, start_response)
    finally:
        close_old_connections()


dash_asgi = WSGIMiddleware(serve, workers=THREADS)  # type: ignore[arg-type]  # a2wsgi has its own types for WSGI

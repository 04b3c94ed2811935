"""What passes by waiting, or by making room: a full disk, a database or Valkey that is away.

Whoever asked hears which it is, in one sentence with 507 or 503, as the API's JSON or as a short page; the log gets one
line, without the pages of traceback that would help nobody.
"""

import errno
import logging
import shutil
import sys
from dataclasses import dataclass

import kombu.exceptions
import redis.exceptions
from django.conf import settings
from django.db import DataError, Error, InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.views.defaults import server_error

from fleetui.answers import JsonAnswer

log = logging.getLogger(__name__)

# What explain() may have a word for.
KINDS = (OSError, Error, redis.exceptions.RedisError, kombu.exceptions.OperationalError, UnicodeEncodeError)
FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL = "53100"  # PostgreSQL's own word for it
NO_ROOM = 2**20  # bytes left: a database that went away then did so for want of them
RETRY_AFTER_S = 5


@dataclass(frozen=True)
class Failure:
    status: int
    code: str
    sentence: str


DISK = Failure(
    507,
    "disk_full",
    "The server's disk is full, so this was not saved. Make room on it, then try again. Stations keep their episodes "
    "until then.",
)
DATABASE = Failure(
    503,
    "database_away",
    "The database can't be reached just now. In a moment look whether it was done; if not, try again.",
)
VALKEY = Failure(
    503, "valkey_away", "Valkey can't be reached just now. Look in a moment whether it was done; if not, try again."
)
UNSTORABLE = Failure(
    422, "invalid", "A value is too long, too large or not readable as text. Change it, then send it again."
)


def explain(error: BaseException | None) -> Failure | None:
    """None: it is none of these, and a mistake of ours as like as not."""
    if isinstance(error, OSError):
        return DISK if error.errno in FULL else None
    if isinstance(error, DataError):
        return UNSTORABLE
    if isinstance(error, UnicodeEncodeError):
        return UNSTORABLE if "surrogates" in error.reason else None
    if isinstance(error, (OperationalError, InterfaceError)):
        return DISK if getattr(error.__cause__, "sqlstate", None) == DISK_FULL or is_disk_full() else DATABASE
    if isinstance(error, redis.exceptions.ResponseError) and "MISCONF" in str(error):
        return DISK  # it can't write its own file any more
    gone = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, kombu.exceptions.OperationalError)
    return VALKEY if isinstance(error, gone) else None


def is_disk_full() -> bool:
    try:
        return shutil.disk_usage(settings.DATA).free < NO_ROOM
    except OSError:
        return False


def note(failure: Failure, error: BaseException, what: str) -> None:
    """The one line in the log."""
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    log.log(logging.ERROR if failure.status >= 500 else logging.WARNING, "%s: %s (%s)", what, failure.sentence, message)


def as_json(request: HttpRequest, error: BaseException | None) -> HttpResponse | None:
    """The API's answer, or None where it is another kind of error."""
    failure = explain(error)
    if failure is None or error is None:
        return None
    return _finish(
        request, failure, error, JsonAnswer({"detail": failure.sentence, "code": failure.code}, status=failure.status)
    )


def as_page(request: HttpRequest) -> HttpResponse:
    """Django's handler of what no view caught, wherever it happened: in a view, the session or the log-in."""
    error = sys.exc_info()[1]
    failure = explain(error)
    if request.path_info.startswith("/api/"):
        sentence = "The server failed at this. The stations are not affected; the cause is in the server's log."
        return as_json(request, error) or JsonAnswer({"detail": sentence, "code": "server_error"}, status=500)
    if failure is None or error is None:
        return server_error(request)
    page = render_to_string("failure.html", {"failure": failure})  # without the request: its user is a row
    return _finish(request, failure, error, HttpResponse(page, status=failure.status))


def _finish(request: HttpRequest, failure: Failure, error: BaseException, response: HttpResponse) -> HttpResponse:
    note(failure, error, f"{request.method} {request.path}")
    # By the line above; Django's own would add the traceback.
    response._has_been_logged = True  # type: ignore[attr-defined]  # Django's mark, which its stubs don't know
    if failure.status == 503:
        response["Retry-After"] = str(RETRY_AFTER_S)
    return response

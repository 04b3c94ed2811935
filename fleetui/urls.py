"""The addresses: the pages of each app, the HTTP API, and a health check for whoever starts the server."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import close_old_connections, connection
from django.http import HttpRequest, HttpResponseBase
from django.urls import include, path
from django.views import defaults

from fleetui import failures
from fleetui.answers import JsonAnswer
from fleetui.api.http import api

P = ParamSpec("P")
Answer = TypeVar("Answer", bound=HttpResponseBase)


def health(request: HttpRequest) -> JsonAnswer:
    """200 once this process answers and reaches its database; `manage.py start` waits for it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JsonAnswer({"ok": True})


urlpatterns = [
    path("healthz", health),
    path("api/", api.urls),
    path("", include("fleetui.fleet.urls")),
    path("", include("fleetui.learning.urls")),
    path("", include("fleetui.practice.urls")),
]


def returning(view: Callable[P, Answer]) -> Callable[P, Answer]:
    """Django renders pages of errors in threads that no request owns, and they ask who is logged in: without this, each
    such thread keeps a connection of the pool for good.
    """

    @wraps(view)
    def render(*args: P.args, **kwargs: P.kwargs) -> Answer:
        try:
            return view(*args, **kwargs)
        finally:
            if not connection.in_atomic_block:  # else it is of whoever began the transaction
                close_old_connections()

    return render


handler400 = returning(defaults.bad_request)
handler403 = returning(defaults.permission_denied)
handler404 = returning(defaults.page_not_found)
handler500 = returning(failures.as_page)

"""The addresses: pages of the fleet and of learning, the HTTP API, and a health check for whoever starts the server."""

from django.db import connection
from django.urls import include, path

from fleetui.answers import JsonAnswer
from fleetui.api.http import api


def health(request):
    """200 once this process answers and reaches its database; `manage.py start` waits for it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JsonAnswer({"ok": True})


handler500 = "fleetui.failures.as_page"
urlpatterns = [
    path("healthz", health),
    path("api/", api.urls),
    path("", include("fleetui.fleet.urls")),
    path("", include("fleetui.learning.urls")),
]

"""The sockets' addresses."""

from django.urls import path

from fleetui.live.stations import StationConsumer
from fleetui.live.viewers import LiveConsumer

websocket_urlpatterns = [
    # Django's path takes a consumer as it takes a view; django-stubs know only of views.
    path("ws/station", StationConsumer.as_asgi()),  # type: ignore[arg-type]  # as said above
    path("ws/live", LiveConsumer.as_asgi()),  # type: ignore[arg-type]  # as said above
]

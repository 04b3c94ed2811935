"""The sockets' addresses."""

from django.urls import path

from fleetui.live.stations import StationConsumer
from fleetui.live.viewers import LiveConsumer

websocket_urlpatterns = [path("ws/station", StationConsumer.as_asgi()), path("ws/live", LiveConsumer.as_asgi())]

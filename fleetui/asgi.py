"""The one web process: Django's pages and API, the live sockets, and the Dash charts under /charts/app/.

Frames are kept in this process' memory (live/frames.py), which is why there is exactly one of it.
"""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetui.settings")
django_app = get_asgi_application()

# Models exist only from here on, so what imports them comes after.
from fleetui.charts.asgi import dash_asgi  # noqa: E402
from fleetui.live.routing import websocket_urlpatterns  # noqa: E402

CHARTS = "/charts/app/"


async def pages(scope, receive, send):
    """Dash sees the full path (it was told its prefix) and guards itself by the Django session."""
    app = dash_asgi if scope["path"].startswith(CHARTS) else django_app
    await app(scope, receive, send)


application = ProtocolTypeRouter({"http": pages, "websocket": AuthMiddlewareStack(URLRouter(websocket_urlpatterns))})

"""A station's card as every page hears of it: what an action changed goes to the wall and to the station's own page."""

from typing import Any

from fleetui.fleet import selectors
from fleetui.fleet.models import Station
from fleetui.messages import CardChanged, send_on_commit


def show_card(station: Station) -> None:
    """All that the database knows of the card, without the live fields, which only the station's telemetry knows."""
    card = selectors.station_card(station)
    emit_card(station, {name: value for name, value in card.items() if name not in selectors.NOT_LIVE})


def emit_card(station: Station, changed: dict[str, Any]) -> None:
    """The same delta goes to the wall and to the station's own page."""
    payload = CardChanged({"slug": station.slug} | changed)
    send_on_commit(station.lab.wall_topic, payload)
    send_on_commit(station.topic, payload)

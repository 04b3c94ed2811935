"""The API of a station's link (robots/link.py), by the station's token: its episodes come, checkpoints go to it."""

from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Router, Schema
from ninja.security import HttpBearer
from pydantic import Field

from fleetui import access
from fleetui.access import NotFound
from fleetui.api.shape import ERRORS, Problem, or_problem
from fleetui.fleet.models import Station
from fleetui.learning.models import Checkpoint
from fleetui.practice.actions import episodes


class StationToken(HttpBearer):
    def authenticate(self, request: HttpRequest, token: str) -> Station | None:
        return access.get_station_by_token(Station, token)


class StationRequest(HttpRequest):
    """The type of a request that StationToken let in."""

    auth: Station


router = Router(auth=StationToken(), tags=["station"])


class Stored(Schema):
    stored: int = Field(description="How many of them were new.")
    hold: bool = Field(description="The round is full: wait for the next policy.")


@router.post("/episodes", response=or_problem(Stored))
def store_episodes(request: StationRequest) -> dict[str, Any]:
    """The body is one file of 1 to 64 episodes, at most 64 MiB. Sending it again stores nothing twice."""
    return episodes.store_episodes(station=request.auth, body=request.body)


@router.get("/checkpoints/{uuid}", response={ERRORS: Problem})
def fetch_checkpoint(request: StationRequest, uuid: UUID) -> HttpResponse:
    """The weights, as a safetensors file."""
    checkpoint = access.get_checkpoint_for_station(Checkpoint, request.auth, uuid)
    if not checkpoint.file.is_file():
        raise NotFound(f"The weights of {checkpoint} are missing; restore {checkpoint.path} in the data folder.")
    return HttpResponse(checkpoint.file.read_bytes(), content_type="application/octet-stream")

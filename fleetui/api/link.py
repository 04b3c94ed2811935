"""The API of a station's link (robots/link.py), by the station's token: its episodes come, checkpoints go to it."""

from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja import Router, Schema
from ninja.security import HttpBearer
from pydantic import Field

from fleetui import access
from fleetui.access import NotFound
from fleetui.answers import answer_file
from fleetui.api.shape import ERRORS, Problem, or_problem
from fleetui.fleet.models import Station
from fleetui.learning.models import Checkpoint, PretrainedModel
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


@router.get("/models/{sha256}/{path:file}", response={ERRORS: Problem})
def fetch_model_file(request: StationRequest, sha256: str, file: str) -> HttpResponseBase:
    """A file of a pretrained model, one of those that the policy message names; a part of it by `Range`."""
    model = access.get_model_for_station(PretrainedModel, request.auth, sha256)
    told = next((each for each in model.files if each["name"] == file), None)
    if told is None:
        raise NotFound(f"The pretrained model {model} has no file {file[:200]!r}.")
    return answer_file(request, model.folder / told["name"], told["name"], told["sha256"])

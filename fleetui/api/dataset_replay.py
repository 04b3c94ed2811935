"""The API of a dataset's pages: an episode's pictures and signals, strips of pictures, sums over all numbers. What has
to be made first is answered with 202 until it is there.
"""

from typing import Any

from django.http import HttpResponse
from ninja import Path, Router, Schema
from pydantic import Field

from fleetui import access
from fleetui.access import NotFound, PersonRequest
from fleetui.answers import JsonAnswer
from fleetui.api.doors import READ, SESSION
from fleetui.api.practice import EpisodeCameras, Rendering
from fleetui.api.shape import ERRORS, Problem, or_problem
from fleetui.learning import looks, tables
from fleetui.learning.models import Dataset, DatasetEpisode

router = Router(auth=SESSION, tags=["lab"])


class Signals(Schema):
    key: str
    names: list[str]
    units: list[str]
    values: list[list[float | None]] = Field(description="Of each name a number a step; null: nothing is known.")


class DatasetSteps(Schema):
    fps: float
    steps: int
    threshold: float | None
    d: list[float | None] = Field(description="Predicted steps to go at each observation; null: nobody judged it.")
    actors: list[int] = Field(description="Who acted: 0 the policy, 1 a person, 2 a script.")
    signals: list[Signals]


class Number(Schema):
    key: str
    name: str
    unit: str
    min: float
    max: float
    mean: float
    std: float


class Histogram(Schema):
    edges: list[float] = Field(description="One more than there are counts.")
    counts: list[int]


class Statistics(Schema):
    features: list[Number]
    actions: Histogram = Field(description="How large the actions are, beside the largest that the body can do.")


def _row(request: PersonRequest, lab: str, number: int, position: int) -> DatasetEpisode:
    found = access.get_row(Dataset, request.user, lab, pk=number)
    row = found.rows.select_related("source", "dataset").filter(position=position).first()
    if row is None:
        raise NotFound(f"{found} has no episode {position}.")
    return row


def _picture(jpeg: bytes | None) -> HttpResponse:
    """It never changes, so a browser may keep it."""
    if jpeg is None:
        return JsonAnswer({"state": "rendering"}, status=202)
    response = HttpResponse(jpeg, content_type="image/jpeg")
    response["Cache-Control"] = "private, max-age=86400, immutable"
    return response


@router.get(
    "/datasets/{int:number}/episodes/{int:position}/strip.jpg", auth=READ, response={202: Rendering, ERRORS: Problem}
)
def show_strip(request: PersonRequest, lab: Path[str], number: int, position: int) -> HttpResponse:
    """Eight moments of the episode side by side, in one JPEG."""
    return _picture(looks.read_strip(_row(request, lab, number, position)))


@router.get(
    "/datasets/{int:number}/episodes/{int:position}/cameras",
    auth=READ,
    response={200: EpisodeCameras, 202: Rendering, ERRORS: Problem},
)
def list_dataset_cameras(
    request: PersonRequest, lab: Path[str], number: int, position: int
) -> HttpResponse | dict[str, Any]:
    """By which cameras the episode can be looked at. The first ask has its pictures made."""
    cameras = looks.list_cameras(_row(request, lab, number, position))
    return JsonAnswer({"state": "rendering"}, status=202) if cameras is None else {"cameras": cameras}


@router.get(
    "/datasets/{int:number}/episodes/{int:position}/frames/{step}.jpg",
    auth=READ,
    response={202: Rendering, ERRORS: Problem},
)
def show_dataset_frame(
    request: PersonRequest, lab: Path[str], number: int, position: int, step: int, camera: str = ""
) -> HttpResponse:
    """What a camera saw at an observation, a JPEG; without a name the first that has pictures."""
    return _picture(looks.read_picture(_row(request, lab, number, position), camera, step))


@router.get("/datasets/{int:number}/episodes/{int:position}/steps", auth=READ, response=or_problem(DatasetSteps))
def show_dataset_steps(request: PersonRequest, lab: Path[str], number: int, position: int) -> dict[str, Any]:
    """What the page of an episode draws: d, who acted, every number that was observed and done."""
    return tables.steps_of(tables.read_episode(_row(request, lab, number, position)))


@router.get("/datasets/{int:number}/statistics", auth=READ, response={200: Statistics, 202: Rendering, ERRORS: Problem})
def show_statistics(request: PersonRequest, lab: Path[str], number: int) -> HttpResponse | dict[str, Any]:
    """Of every number the least, the largest and the mean; how large the actions are."""
    found = looks.read_statistics(access.get_row(Dataset, request.user, lab, pk=number))
    return JsonAnswer({"state": "rendering"}, status=202) if found is None else found

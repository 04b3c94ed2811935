"""The API of pretrained models, for people's scripts. An archive of one comes like a dataset's: imports/uploads."""

from typing import Any

from ninja import Path, Router, Schema
from ninja.pagination import paginate
from pydantic import Field

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.api.datasets import ImportRow
from fleetui.api.doors import DATA, PAGES, READ, SESSION
from fleetui.api.shape import ONCE_EXTRA, ArchiveBody, Deleted, Moment, Pages, Rows, once, or_problem, source_of
from fleetui.learning import archive, pretrained, selectors, transfers
from fleetui.learning.models import PretrainedModel

router = Router(auth=SESSION, tags=["lab"])


class ModelFile(Schema):
    name: str = Field(description="In the model's folder, with / between.")
    sha256: str
    size: int = Field(description="Bytes.")


class ModelRow(Schema):
    id: int
    sha256: str = Field(description="Of its files' names and sums; recipes, checkpoints and stations call it so.")
    name: str
    architecture: str
    kind: str = Field(json_schema_extra={"enum": list(pretrained.KINDS)})
    serves: list[str] = Field(description="The kinds that it can stand for.")
    licence: str = Field(description="As its folder says; “unknown” where it doesn't.")
    size: int = Field(description="Bytes of all files.")
    files: list[ModelFile]
    by: str
    created_at: Moment
    archived_at: Moment | None


class ModelDetail(ModelRow):
    runs: list[int] = Field(description="Those that name it, or whose checkpoints stand on it, the newest first.")


class ModelBody(Schema):
    name: str = Field("", description="Empty: as its folder is called.")
    place: str = Field(description="A folder of the server, below one of FLEETUI_IMPORT_ROOTS.")


@router.get("/models", auth=READ, response=or_problem(list[ModelRow]))
@paginate(Pages)
def list_models(request: PersonRequest, lab: Path[str], archived: bool = False) -> Rows:
    """The newest first."""
    return Rows(pretrained.list_models(access.get_lab(request.user, lab), archived), pretrained.model_row)


@router.post("/models", auth=DATA, response=or_problem(ImportRow), openapi_extra=ONCE_EXTRA)
@once
def add_model(request: PersonRequest, lab: Path[str], body: ModelBody) -> dict[str, Any]:
    """A model folder of the server is looked at and copied, in a job: ask imports/ID until its state is ready."""
    found = access.get_lab(request.user, lab, "add_model")
    row = transfers.import_folder(lab=found, user=request.user, of="model", **body.dict(), source=source_of(request))
    return selectors.import_row(row)


@router.get("/models/{int:model}", auth=READ, response=or_problem(ModelDetail))
def show_model(request: PersonRequest, lab: Path[str], model: int) -> dict[str, Any]:
    """With the runs that build on it."""
    row = access.get_row(PretrainedModel, request.user, lab, pk=model)
    return pretrained.model_row(row) | {"runs": list(pretrained.runs_on(row).values_list("pk", flat=True))}


@router.patch("/models/{int:model}", auth=DATA, response=or_problem(ModelRow))
def archive_model(request: PersonRequest, lab: Path[str], model: int, body: ArchiveBody) -> dict[str, Any]:
    """archived: true hides it, and no new run can build on it; false brings it back."""
    row = access.get_row(PretrainedModel, request.user, lab, "archive_model", pk=model)
    change = archive.archive_model if body.archived else archive.restore_model
    change(model=row, user=request.user, source=source_of(request))
    return pretrained.model_row(access.get_row(PretrainedModel, request.user, lab, pk=model))


@router.delete("/models/{int:model}", auth=PAGES, response=or_problem(Deleted))
def delete_model(request: PersonRequest, lab: Path[str], model: int) -> dict[str, Any]:
    """For good, with its files; only an archived one that no run and no checkpoint needs."""
    row = access.get_row(PretrainedModel, request.user, lab, "archive_model", pk=model)
    archive.delete_model(model=row, user=request.user, source=source_of(request))
    return {"deleted": model}

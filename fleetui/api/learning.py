"""The API of learning, for people's scripts: runs and their metrics. Datasets are in datasets.py."""

from typing import Any, TypeVar

from ninja import Path, Router, Schema
from ninja.pagination import paginate
from ninja.security import SessionAuth
from pydantic import Field

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.api.shape import ArchiveBody, Deleted, LongPages, Moment, Pages, Rows, Uuid, or_problem, source_of
from fleetui.fleet.models import Assignment, Station, Task
from fleetui.learning import actions, archive, selectors
from fleetui.learning.models import Dataset, Run
from fleetui.practice.actions import launching

Named = TypeVar("Named", Dataset, Run, Assignment)  # what a launch names by its number

router = Router(auth=SessionAuth(csrf=True), tags=["lab"])

# Runs


class RunBody(Schema):
    kind: str
    name: str = ""
    recipe: dict[str, Any] = Field(default_factory=dict)
    dataset: int | None = None
    corrections: int | None = None
    parent: int | None = None
    assignment: int | None = None
    task: str | None = None
    stations: list[str] = Field(default_factory=list)


class CheckpointRow(Schema):
    id: Uuid
    role: str
    version: int
    threshold: float | None = Field(description="Steps-to-go below which it detects success.")
    created_at: Moment
    published_at: Moment | None
    loaded_everywhere_at: Moment | None
    staleness_s: float | None = Field(description="From its publication until every station had loaded it.")


class RunRow(Schema):
    id: int
    name: str
    kind: str
    state: str
    phase: str
    progress: float
    eta_s: float | None
    error: str
    attempt: int
    dataset: int | None
    corrections: int | None
    parent: int | None
    practice_episodes: int
    kept_version: int | None
    open_version: int | None = Field(description="The policy that is practised in the round under way.")
    round_steps: int
    round_target: int
    holding: bool
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None
    archived_at: Moment | None
    recipe: dict[str, Any]
    checkpoints: list[CheckpointRow]
    stations: list[str]
    task: str | None


class MetricRow(Schema):
    seq: int
    kind: str
    data: dict[str, Any]
    at: Moment


@router.get("/runs", response=or_problem(list[RunRow]))
@paginate(Pages)
def list_runs(request: PersonRequest, lab: Path[str], kind: str = "", archived: bool = False) -> Rows:
    """The newest first."""
    found = access.get_lab(request.user, lab)
    return Rows(selectors.list_runs_with_parts(found, kind, archived), selectors.run_row)


@router.post("/runs", response=or_problem(RunRow))
def launch_run(request: PersonRequest, lab: Path[str], body: RunBody) -> dict[str, Any]:
    """An improve run takes an assignment that waits for a run, or a task and stations."""
    user = request.user
    found = access.get_lab(user, lab, "launch_run")

    def named(model: type[Named], number: int | None) -> Named | None:
        return None if number is None else access.get_row(model, user, lab, pk=number)

    run = launching.launch_run(
        lab=found,
        user=user,
        kind=body.kind,
        name=body.name,
        recipe=body.recipe,
        dataset=named(Dataset, body.dataset),
        corrections=named(Dataset, body.corrections),
        parent=named(Run, body.parent),
        assignment=named(Assignment, body.assignment),
        task=None if body.task is None else access.get_row(Task, user, lab, slug=body.task),
        stations=[access.get_row(Station, user, lab, slug=slug) for slug in dict.fromkeys(body.stations)],
        source=source_of(request),
    )
    return selectors.run_row(run)


@router.get("/runs/{number}", response=or_problem(RunRow))
def show_run(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    return selectors.run_row(access.get_row(Run, request.user, lab, pk=number))


@router.patch("/runs/{number}", response=or_problem(RunRow))
def archive_run(request: PersonRequest, lab: Path[str], number: int, body: ArchiveBody) -> dict[str, Any]:
    """archived: true hides it, and nothing can start from it; false brings it back."""
    run = access.get_row(Run, request.user, lab, "archive_run", pk=number)
    change = archive.archive_run if body.archived else archive.restore_run
    change(run=run, user=request.user, source=source_of(request))
    return selectors.run_row(access.get_row(Run, request.user, lab, pk=number))


@router.delete("/runs/{number}", response=or_problem(Deleted))
def delete_run(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """For good, with its checkpoints; only an archived one of which nothing came."""
    run = access.get_row(Run, request.user, lab, "archive_run", pk=number)
    archive.delete_run(run=run, user=request.user, source=source_of(request))
    return {"deleted": number}


@router.get("/runs/{number}/metrics", response=or_problem(list[MetricRow]))
@paginate(LongPages)
def list_metrics(request: PersonRequest, lab: Path[str], number: int, after: int = 0, kind: str = "") -> Rows:
    """In the order they were written, after a sequence number."""
    run = access.get_row(Run, request.user, lab, pk=number)
    return Rows(selectors.list_metrics(run, after=after, kind=kind), selectors.metric_row)


@router.post("/runs/{number}/cancel", response=or_problem(RunRow))
def cancel_run(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """It ends, and keeps its checkpoints."""
    run = access.get_row(Run, request.user, lab, "control_run", pk=number)
    actions.cancel_run(run=run, user=request.user, source=source_of(request))
    return selectors.run_row(access.get_row(Run, request.user, lab, pk=number))


@router.post("/runs/{number}/pause", response=or_problem(RunRow))
def pause_run(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """It pauses after the update under way."""
    run = access.get_row(Run, request.user, lab, "control_run", pk=number)
    actions.pause_run(run=run, user=request.user, source=source_of(request))
    return selectors.run_row(access.get_row(Run, request.user, lab, pk=number))


@router.post("/runs/{number}/resume", response=or_problem(RunRow))
def resume_run(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """A paused one goes on."""
    run = access.get_row(Run, request.user, lab, "control_run", pk=number)
    actions.resume_run(run=run, user=request.user, source=source_of(request))
    return selectors.run_row(access.get_row(Run, request.user, lab, pk=number))

"""The API of learning, for people's scripts: runs, their metrics, and what people write on them. Datasets are in
datasets.py, checkpoints in checkpoints.py.
"""

from typing import Annotated, Any, TypeVar

from ninja import Path, Query, Router, Schema
from ninja.pagination import paginate
from pydantic import Field

from fleetui import access
from fleetui.access import Invalid, PersonRequest
from fleetui.api.doors import LAUNCH, PAGES, READ, SESSION
from fleetui.api.shape import (
    ONCE_EXTRA,
    ArchiveBody,
    Deleted,
    LongPages,
    Moment,
    Pages,
    Rows,
    Uuid,
    once,
    or_problem,
    source_of,
)
from fleetui.fleet.models import Assignment, Station, Task
from fleetui.learning import actions, archive, run_notes, selectors
from fleetui.learning.models import Dataset, Run
from fleetui.learning.run_table import read_tags
from fleetui.practice.actions import launching

MOST_COMPARED = 20
Named = TypeVar("Named", Dataset, Run, Assignment)  # what a launch names by its number

router = Router(auth=SESSION, tags=["lab"])

# Runs


class RunBody(Schema):
    kind: str
    name: str = ""
    queue: str = Field(default="cpu", description="cpu, or gpu for a machine with a graphics card.")
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
    queue: str = Field(description="Which kind of machine it wants: cpu or gpu.")
    worker: str = Field(description="The one that took it last.")
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
    sweep: int | None = Field(description="Which launched it.")
    tags: list[str]
    notes: str


class TagsBody(Schema):
    runs: list[int] = Field(min_length=1, max_length=500)
    add: list[str] = Field(default_factory=list, max_length=20)
    remove: list[str] = Field(default_factory=list, max_length=20)


class Changed(Schema):
    changed: int = Field(description="How many runs were changed.")


class NotesBody(Schema):
    notes: str = Field(description="In place of those that it has.")


class MetricRow(Schema):
    seq: int
    kind: str
    data: dict[str, Any]
    at: Moment


class Level(Schema):
    """Of true success, on fixed seeds."""

    version: int | None
    practice_episodes: int | None
    successes: int
    n: int
    rate: float
    low: float = Field(description="95 % band (Wilson).")
    high: float
    steps_to_success: float | None


class Compared(Schema):
    id: int
    name: str
    kind: str
    state: str
    dataset: int | None
    parent: int | None
    practice_episodes: int
    kept_version: int | None
    duration_s: float | None = Field(description="From its start to its end, or until now.")
    evaluation: Level | None = Field(description="The newest one; null: it was never evaluated.")


class Comparison(Schema):
    runs: list[Compared]
    differences: dict[str, list[Any]] = Field(description="Of the recipes: field to a value a run, in their order.")


@router.get("/runs", auth=READ, response=or_problem(list[RunRow]))
@paginate(Pages)
def list_runs(request: PersonRequest, lab: Path[str], kind: str = "", archived: bool = False) -> Rows:
    """The newest first."""
    found = access.get_lab(request.user, lab)
    return Rows(selectors.list_runs_with_parts(found, kind, archived), selectors.run_row)


@router.post("/runs", auth=LAUNCH, response=or_problem(RunRow), openapi_extra=ONCE_EXTRA)
@once
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
        queue=body.queue,
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


@router.get("/runs/{number}", auth=READ, response=or_problem(RunRow))
def show_run(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    return selectors.run_row(access.get_row(Run, request.user, lab, pk=number))


@router.patch("/runs/{number}", auth=LAUNCH, response=or_problem(RunRow))
def archive_run(request: PersonRequest, lab: Path[str], number: int, body: ArchiveBody) -> dict[str, Any]:
    """archived: true hides it, and nothing can start from it; false brings it back."""
    run = access.get_row(Run, request.user, lab, "archive_run", pk=number)
    change = archive.archive_run if body.archived else archive.restore_run
    change(run=run, user=request.user, source=source_of(request))
    return selectors.run_row(access.get_row(Run, request.user, lab, pk=number))


@router.delete("/runs/{number}", auth=PAGES, response=or_problem(Deleted))
def delete_run(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """For good, with its checkpoints; only an archived one of which nothing came."""
    run = access.get_row(Run, request.user, lab, "archive_run", pk=number)
    archive.delete_run(run=run, user=request.user, source=source_of(request))
    return {"deleted": number}


@router.get("/runs/{number}/metrics", auth=READ, response=or_problem(list[MetricRow]))
@paginate(LongPages)
def list_metrics(request: PersonRequest, lab: Path[str], number: int, after: int = 0, kind: str = "") -> Rows:
    """In the order they were written, after a sequence number."""
    run = access.get_row(Run, request.user, lab, pk=number)
    return Rows(selectors.list_metrics(run, after=after, kind=kind), selectors.metric_row)


@router.get("/comparison", auth=READ, response=or_problem(Comparison))
def compare_runs(request: PersonRequest, lab: Path[str], runs: Annotated[str, Query(max_length=400)]) -> dict[str, Any]:
    """`runs`: numbers with commas between, up to 20. Their newest figures side by side, and where recipes differ."""
    numbers = [int(each) if each.isdecimal() and len(each) < 18 else 0 for each in runs.split(",")]
    if not 1 <= len(numbers) <= MOST_COMPARED:
        problem = f"Compare 1 to {MOST_COMPARED} runs at once, not {len(numbers)}."
        raise Invalid(problem, {"runs": problem})
    return selectors.compare_runs([access.get_row(Run, request.user, lab, pk=each) for each in dict.fromkeys(numbers)])


@router.post("/runs/{number}/cancel", auth=LAUNCH, response=or_problem(RunRow))
def cancel_run(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """It ends, and keeps its checkpoints."""
    run = access.get_row(Run, request.user, lab, "control_run", pk=number)
    actions.cancel_run(run=run, user=request.user, source=source_of(request))
    return selectors.run_row(access.get_row(Run, request.user, lab, pk=number))


@router.post("/runs/{number}/pause", auth=LAUNCH, response=or_problem(RunRow))
def pause_run(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """It pauses after the update under way."""
    run = access.get_row(Run, request.user, lab, "control_run", pk=number)
    actions.pause_run(run=run, user=request.user, source=source_of(request))
    return selectors.run_row(access.get_row(Run, request.user, lab, pk=number))


@router.post("/runs/{number}/resume", auth=LAUNCH, response=or_problem(RunRow))
def resume_run(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """A paused one goes on."""
    run = access.get_row(Run, request.user, lab, "control_run", pk=number)
    actions.resume_run(run=run, user=request.user, source=source_of(request))
    return selectors.run_row(access.get_row(Run, request.user, lab, pk=number))


# What people write on them


@router.patch("/runs", auth=LAUNCH, response=or_problem(Changed))
def tag_runs(request: PersonRequest, lab: Path[str], body: TagsBody) -> dict[str, int]:
    """Give runs tags, or take others from them."""
    found = access.get_lab(request.user, lab, "note_run")
    runs = [access.get_row(Run, request.user, lab, pk=number) for number in dict.fromkeys(body.runs)]
    add, remove = (read_tags(",".join(given)) for given in (body.add, body.remove))
    changed = run_notes.tag_runs(
        lab=found, user=request.user, runs=runs, add=add, remove=remove, source=source_of(request)
    )
    return {"changed": changed}


@router.put("/runs/{int:number}/notes", auth=LAUNCH, response=or_problem(RunRow))
def note_run(request: PersonRequest, lab: Path[str], number: int, body: NotesBody) -> dict[str, Any]:
    """What is worth knowing of it; what stood there before is in the audit log."""
    run = access.get_row(Run, request.user, lab, "note_run", pk=number)
    run_notes.note_run(run=run, user=request.user, notes=body.notes, source=source_of(request))
    return selectors.run_row(access.get_row(Run, request.user, lab, pk=number))

"""The API of sweeps, for people's scripts: a search over settings of a recipe, run by run, under a budget."""

from typing import Any

from ninja import Path, Router, Schema
from ninja.pagination import paginate
from pydantic import Field

from fleetui import access
from fleetui.access import Invalid, PersonRequest
from fleetui.api.doors import LAUNCH, READ, SESSION
from fleetui.api.shape import ONCE_EXTRA, Moment, Pages, Rows, once, or_problem, source_of
from fleetui.learning import searching, sweeps
from fleetui.learning.models import PRUNERS, SAMPLERS, Dataset, Run, Sweep
from training.methods.registry import method_of

router = Router(auth=SESSION, tags=["lab"])


class SweepBody(Schema):
    kind: str
    name: str = ""
    recipe: dict[str, Any] = Field(default_factory=dict, description="What its runs have in common.")
    space: dict[str, str] = Field(
        description="Setting of the recipe to the values that may be tried: “64, 128” or “1e-4 to 1e-2, log”."
    )
    objective: str = Field("evaluation.success", description="METRIC.FIGURE of a curve; its last value counts.")
    maximize: bool | None = Field(None, description="null: as usual for that curve.")
    sampler: str = Field("tpe", json_schema_extra={"enum": list(SAMPLERS)})
    pruner: str = Field("", json_schema_extra={"enum": list(PRUNERS)}, description="Early stopping; empty: none.")
    runs: int = Field(20, description="At most so many.")
    hours: float | None = Field(None, description="Of all runs together; after them no further run begins.")
    at_once: int = 1
    dataset: int | None = None
    corrections: int | None = None
    parent: int | None = None


class SweepRow(Schema):
    id: int
    name: str
    kind: str
    state: str
    error: str
    recipe: dict[str, Any]
    space: dict[str, dict[str, Any]] = Field(description="Setting to {choices}, or {low, high, log}.")
    sampler: str
    pruner: str
    objective: str
    maximize: bool
    runs: int = Field(description="At most so many.")
    hours: float | None
    at_once: int
    dataset: int | None
    corrections: int | None
    parent: int | None
    created_at: Moment
    ended_at: Moment | None


class SweptRun(Schema):
    run: int
    state: str
    values: dict[str, Any] = Field(description="Of the settings that are searched.")
    reached: float | None = Field(description="The last value of the objective; null: none yet.")
    stopped_early: bool


class SweepDetail(SweepRow):
    launched: list[SweptRun] = Field(description="In the order of their launch.")
    best: int | None = Field(description="The completed run that reached most, by its number.")
    hours_spent: float


@router.get("/sweeps", auth=READ, response=or_problem(list[SweepRow]))
@paginate(Pages)
def list_sweeps(request: PersonRequest, lab: Path[str]) -> Rows:
    """The newest first."""
    return Rows(access.get_lab(request.user, lab).sweeps.all(), searching.sweep_row)


@router.post("/sweeps", auth=LAUNCH, response=or_problem(SweepRow), openapi_extra=ONCE_EXTRA)
@once
def launch_sweep(request: PersonRequest, lab: Path[str], body: SweepBody) -> dict[str, Any]:
    """Its runs come one after the other, or as many at once as it says."""
    user = request.user
    found = access.get_lab(user, lab, "launch_run")

    def named(number: int | None) -> Dataset | None:
        return None if number is None else access.get_row(Dataset, user, lab, pk=number)

    made = sweeps.launch_sweep(
        lab=found,
        user=user,
        space=_read_space(body),
        budget_runs=body.runs,
        budget_hours=body.hours,
        parent=None if body.parent is None else access.get_row(Run, user, lab, pk=body.parent),
        dataset=named(body.dataset),
        corrections=named(body.corrections),
        **body.dict(include={"kind", "name", "recipe", "objective", "maximize", "sampler", "pruner", "at_once"}),
        source=source_of(request),
    )
    return searching.sweep_row(made)


def _read_space(body: SweepBody) -> searching.Space:
    """What may be tried; a refusal names the setting."""
    try:
        return searching.read_space(method_of(body.kind), list(body.space.items()))
    except Invalid as refused:
        names = dict(enumerate(body.space, 1))
        problems = {}
        for field, problem in refused.problems.items():
            name = names.get(int(field.rpartition("_")[2]))
            problems["space" if name is None else f"space.{name}"] = problem
        raise Invalid(str(refused), problems) from None


@router.get("/sweeps/{int:number}", auth=READ, response=or_problem(SweepDetail))
def show_sweep(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """With its runs and what each reached."""
    return searching.sweep_detail(access.get_row(Sweep, request.user, lab, pk=number))


@router.post("/sweeps/{int:number}/stop", auth=LAUNCH, response=or_problem(SweepRow))
def stop_sweep(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """No further run is launched, those under way are cancelled; all that they made is kept."""
    found = access.get_row(Sweep, request.user, lab, "control_run", pk=number)
    sweeps.stop_sweep(sweep=found, user=request.user, source=source_of(request))
    return searching.sweep_row(access.get_row(Sweep, request.user, lab, pk=number))

"""The API of checkpoints, for people's scripts: what is in force, two policies on the same attempts, spot checks of
what the detector called a success.
"""

from typing import Any
from uuid import UUID

from django.http.response import HttpResponseBase
from ninja import Path, Router, Schema
from ninja.pagination import paginate
from pydantic import Field

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.answers import answer_file
from fleetui.api.doors import DATA, LAUNCH, READ, SESSION
from fleetui.api.files import FILE, FILE_EXTRA
from fleetui.api.learning import CheckpointRow
from fleetui.api.shape import ONCE_EXTRA, Moment, Pages, Rows, Uuid, once, or_problem, source_of
from fleetui.fleet.models import Task
from fleetui.learning import checkpoints, comparisons, promoting, spot_checks, studio
from fleetui.learning.models import Checkpoint, Comparison, Promotion, SpotCheck

router = Router(auth=SESSION, tags=["lab"])


class CheckpointFile(CheckpointRow):
    run: int
    consecutive: int | None = Field(description="So many frames in a row have to say so.")
    derived_from: Uuid | None = Field(description="The reward model whose weights it has, with another threshold.")
    sha256: str
    pretrained: list[str] = Field(description="The pretrained models that it stands on, by their sha256.")
    size: int | None = Field(description="Bytes; null: its file is gone.")


class CheckpointDetail(CheckpointFile):
    in_force: bool = Field(description="Whether it is used where nobody names another one.")
    problem: str = Field(description="Why it can't be promoted; empty: it can.")


class PromotionRow(Schema):
    id: int
    role: str
    body: str = Field(description="Of which it is the default policy; empty for a reward model.")
    run: int | None = Field(description="Whose reward model it is; null for a policy.")
    checkpoint: Uuid | None = Field(description="null: nothing is in force from then on.")
    reason: str
    by: str
    at: Moment


class PromoteBody(Schema):
    reason: str = ""


class ThresholdBody(Schema):
    threshold: float = Field(description="s: d at or below so many steps is success.")
    consecutive: int = Field(description="k: for so many frames in a row.")
    reason: str


class Attempts(Schema):
    """What one policy did."""

    successes: int
    n: int
    low: float = Field(description="95 % band (Wilson).")
    high: float
    mean_steps: float
    steps_to_success: float | None
    falls: int


class Difference(Schema):
    """The second policy less the first, on the same attempts."""

    n: int
    both: int = Field(description="Attempts in which both succeeded.")
    only_first: int
    only_second: int
    difference: float = Field(description="Of the shares of success.")
    low: float = Field(description="95 % interval of it (Newcombe, paired).")
    high: float
    p: float = Field(description="McNemar's exact test.")
    steps: float | None = Field(description="Mean difference in steps where both succeeded.")
    steps_low: float | None
    steps_high: float | None


class PolicyComparison(Schema):
    id: int
    first: Uuid
    second: Uuid | None
    task: str
    time_limit: int
    edge_margin: float | None
    episodes: int
    seed: int
    state: str
    progress: float
    error: str
    of_first: Attempts | None
    of_second: Attempts | None
    difference: Difference | None
    by: str
    created_at: Moment
    ended_at: Moment | None


class CompareBody(Schema):
    first: UUID
    second: UUID | None = Field(None, description="null: the first is evaluated alone.")
    task: str = Field(description="Its slug; a simulated world judges it.")
    episodes: int = 200
    seed: int = Field(2_000_000, description="Decides the starts and words; both make the same ones.")


class SpotCheckRow(Schema):
    id: int
    episode: Uuid
    station: str
    task: str | None
    instruction: str
    policy: Uuid | None
    reward_model: Uuid | None
    answer: bool | None = Field(description="Whether it was a success; null: nobody said, or nobody can tell.")
    answered_at: Moment | None
    answered_by: str
    created_at: Moment


class AnswerBody(Schema):
    success: bool | None = Field(description="null: nobody can tell; it counts nowhere then.")


class Bound(Schema):
    """What people said of detected successes, of one policy at one task."""

    task: str | None
    policy: Uuid | None
    run: int | None
    version: int | None
    n: int = Field(description="How many were answered.")
    wrong: int
    waiting: int
    bound: float = Field(description="With 95 % no more than this share of all detections is wrong.")


# What is in force


@router.get("/checkpoints", auth=READ, response=or_problem(list[CheckpointFile]))
@paginate(Pages)
def list_checkpoints(
    request: PersonRequest, lab: Path[str], role: str = "", run: int | None = None, only: str = ""
) -> Rows:
    """The newest first; `role`: policy or reward_model; `only`: kept (as the best of its run) or promoted."""
    rows = checkpoints.list_checkpoints(access.get_lab(request.user, lab), role=role, run=run, only=only)
    return Rows(rows, checkpoints.checkpoint_row)


@router.get("/checkpoints/{uuid:uuid}", auth=READ, response=or_problem(CheckpointDetail))
def show_checkpoint(request: PersonRequest, lab: Path[str], uuid: UUID) -> dict[str, Any]:
    return checkpoints.checkpoint_detail(access.get_checkpoint(Checkpoint, request.user, lab, uuid))


@router.get("/checkpoints/{uuid:uuid}/file", auth=READ, response=FILE, openapi_extra=FILE_EXTRA)
def download_checkpoint(request: PersonRequest, lab: Path[str], uuid: UUID) -> HttpResponseBase:
    """The weights, as a safetensors file; Repr-Digest is the SHA-256 of the whole."""
    checkpoint = access.get_checkpoint(Checkpoint, request.user, lab, uuid)
    name = f"{checkpoint.run}-{checkpoint.role}-{checkpoint.version}.safetensors"
    return answer_file(request, checkpoint.file, name, checkpoint.sha256)


@router.post(
    "/checkpoints/{uuid:uuid}/promote", auth=LAUNCH, response=or_problem(PromotionRow), openapi_extra=ONCE_EXTRA
)
@once
def promote_checkpoint(request: PersonRequest, lab: Path[str], uuid: UUID, body: PromoteBody) -> dict[str, Any]:
    """A policy becomes the lab's default for its body; a reward model judges what begins from now on."""
    found = access.get_checkpoint(Checkpoint, request.user, lab, uuid, "promote_checkpoint")
    made = promoting.promote_checkpoint(
        checkpoint=found, user=request.user, reason=body.reason, source=source_of(request)
    )
    return checkpoints.promotion_row(made)


@router.post(
    "/checkpoints/{uuid:uuid}/threshold", auth=LAUNCH, response=or_problem(CheckpointDetail), openapi_extra=ONCE_EXTRA
)
@once
def publish_threshold(request: PersonRequest, lab: Path[str], uuid: UUID, body: ThresholdBody) -> dict[str, Any]:
    """A new version of the reward model with the same weights; it is in force at once."""
    found = access.get_checkpoint(Checkpoint, request.user, lab, uuid, "promote_checkpoint")
    made = promoting.publish_threshold(checkpoint=found, user=request.user, **body.dict(), source=source_of(request))
    return checkpoints.checkpoint_detail(made)


@router.get("/promotions", auth=READ, response=or_problem(list[PromotionRow]))
@paginate(Pages)
def list_promotions(request: PersonRequest, lab: Path[str]) -> Rows:
    """The newest first; of a body, or of a run's reward models, the newest is in force."""
    rows = access.get_lab(request.user, lab).promotions.select_related("user")
    return Rows(rows, checkpoints.promotion_row)


@router.post("/promotions/{int:number}/undo", auth=LAUNCH, response=or_problem(PromotionRow), openapi_extra=ONCE_EXTRA)
@once
def undo_promotion(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """Go back: what was in force before is in force again; only the newest can be undone."""
    found = access.get_row(Promotion, request.user, lab, "promote_checkpoint", pk=number)
    made = promoting.go_back(promotion=found, user=request.user, source=source_of(request))
    return checkpoints.promotion_row(made)


# Policies on the same attempts


@router.get("/comparisons", auth=READ, response=or_problem(list[PolicyComparison]))
@paginate(Pages)
def list_comparisons(request: PersonRequest, lab: Path[str]) -> Rows:
    """The newest first."""
    rows = access.get_lab(request.user, lab).comparisons.select_related("task", "created_by")
    return Rows(rows, checkpoints.comparison_row)


@router.post("/comparisons", auth=LAUNCH, response=or_problem(PolicyComparison), openapi_extra=ONCE_EXTRA)
@once
def ask_comparison(request: PersonRequest, lab: Path[str], body: CompareBody) -> dict[str, Any]:
    """Two policies make the same attempts in simulation, in a job: ask comparisons/ID until it has ended."""
    user = request.user
    found = access.get_lab(user, lab, "compare_checkpoints")
    second = None if body.second is None else access.get_checkpoint(Checkpoint, user, lab, body.second)
    made = comparisons.ask_comparison(
        lab=found,
        user=user,
        first=access.get_checkpoint(Checkpoint, user, lab, body.first),
        second=second,
        task=access.get_row(Task, user, lab, slug=body.task),
        episodes=body.episodes,
        seed=body.seed,
        source=source_of(request),
    )
    return checkpoints.comparison_row(made)


@router.get("/comparisons/{int:number}", auth=READ, response=or_problem(PolicyComparison))
def show_comparison(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    return checkpoints.comparison_row(access.get_row(Comparison, request.user, lab, pk=number))


@router.delete("/comparisons/{int:number}", auth=LAUNCH, response=or_problem(PolicyComparison))
def cancel_comparison(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """Its simulation ends; nothing is kept of it but the row."""
    found = access.get_row(Comparison, request.user, lab, "compare_checkpoints", pk=number)
    comparisons.cancel_comparison(comparison=found, user=request.user, source=source_of(request))
    return checkpoints.comparison_row(access.get_row(Comparison, request.user, lab, pk=number))


# Spot checks


@router.get("/spot_checks", auth=READ, response=or_problem(list[SpotCheckRow]))
@paginate(Pages)
def list_spot_checks(request: PersonRequest, lab: Path[str]) -> Rows:
    """Detected successes that were drawn at random and wait for a person's look, the newest first."""
    return Rows(studio.list_waiting(access.get_lab(request.user, lab)), studio.spot_check_row)


@router.get("/spot_checks/bounds", auth=READ, response=or_problem(list[Bound]))
@paginate(Pages)
def list_bounds(request: PersonRequest, lab: Path[str]) -> Rows:
    """What the answers say of the detector, by task and policy, the newest first."""
    rows = studio.bounds(access.get_lab(request.user, lab).spot_checks.all())
    return Rows(rows, studio.bound_row)


@router.post("/spot_checks/{int:number}/answer", auth=DATA, response=or_problem(SpotCheckRow), openapi_extra=ONCE_EXTRA)
@once
def answer_spot_check(request: PersonRequest, lab: Path[str], number: int, body: AnswerBody) -> dict[str, Any]:
    """Whether it was a success; that is the episode's label too."""
    found = access.get_row(SpotCheck, request.user, lab, "label_episode", pk=number)
    spot_checks.answer_spot_check(check=found, user=request.user, answer=body.success, source=source_of(request))
    found.refresh_from_db()
    return studio.spot_check_row(found)


@router.post("/spot_checks/undo", auth=DATA, response=or_problem(SpotCheckRow), openapi_extra=ONCE_EXTRA)
@once
def undo_spot_check(request: PersonRequest, lab: Path[str]) -> dict[str, Any]:
    """One's own last answer is taken back, and it waits again."""
    found = access.get_lab(request.user, lab, "label_episode")
    return studio.spot_check_row(spot_checks.undo_spot_check(lab=found, user=request.user, source=source_of(request)))

"""The API of practice, for people's scripts: assignments in the queue, and the episodes that came of them."""

from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from ninja import Path, Router, Schema
from ninja.pagination import paginate
from pydantic import AwareDatetime, Field

from fleetui import access
from fleetui.access import NotFound, PersonRequest
from fleetui.answers import JsonAnswer, answer_file
from fleetui.api.datasets import DatasetRow
from fleetui.api.doors import DATA, LAUNCH, READ, SESSION
from fleetui.api.files import FILE, FILE_EXTRA
from fleetui.api.fleet import EpisodeRow
from fleetui.api.shape import ERRORS, ONCE_EXTRA, Moment, Pages, Problem, Rows, Uuid, once, or_problem, source_of
from fleetui.fleet import selectors as fleet
from fleetui.fleet.actions import episodes as episode_actions
from fleetui.fleet.models import Assignment, Episode, Station, Task
from fleetui.learning import actions as learning_actions
from fleetui.learning import selectors as learning
from fleetui.learning.models import Run
from fleetui.practice import queue, selectors
from fleetui.practice.actions import assignments
from fleetui.practice.actions import episodes as practice_episodes

router = Router(auth=SESSION, tags=["lab"])

# Assignments


class AssignmentWishes(Schema):
    any: int | None = None
    parent: int | None = None
    episodes: int | None = None
    hours: float | None = None
    target_success: float | None = None
    priority: str = "normal"
    not_before: AwareDatetime | None = None
    repeats: str = ""


class AssignmentBody(AssignmentWishes):
    task: str
    stations: list[str] = Field(default_factory=list)
    time_zone: str | None = None  # of what repeats; None: that of who asks


class AssignmentChanges(AssignmentWishes):
    stations: list[str] | None = None
    time_zone: str = "UTC"


class PlaceBody(Schema):
    before: int | None


class ProgressRow(Schema):
    text: str
    share: float
    eta_s: float | None


class AssignmentRow(Schema):
    id: int
    task: str
    purpose: str = Field(json_schema_extra={"enum": ["practice", "evaluation"]})
    checkpoint: Uuid | None = Field(description="The policy that is evaluated; null: it is practice.")
    state: str
    reason: str
    run: int | None
    parent: int | None
    stations: list[str]
    any: int | None
    episodes: int | None
    hours: float | None
    target_success: float | None
    progress: ProgressRow | None = Field(description="Against its budget; null where it does not practise.")
    priority: str
    position: int
    repeats: str
    time_zone: str
    series: int | None = Field(description="The assignment whose repetition made it.")
    not_before: Moment | None
    due_at: Moment | None
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None


@router.get("/assignments", auth=READ, response=or_problem(list[AssignmentRow]))
@paginate(Pages)
def list_assignments(request: PersonRequest, lab: Path[str], state: str = "") -> Rows:
    """Those at work and those that wait, in the queue's order, then those that have ended, the newest first; or those
    of one state.
    """
    found = access.get_lab(request.user, lab)
    live = [queue.assignment_row(verdict.assignment, verdict) for verdict in queue.read_queue(found)]
    wanted = [row for row in live if not state or row["state"] == state]
    return Rows(selectors.list_ended_assignments(found, state), queue.assignment_row, first=wanted)


@router.post("/assignments", auth=LAUNCH, response=or_problem(AssignmentRow), openapi_extra=ONCE_EXTRA)
@once
def assign_task(request: PersonRequest, lab: Path[str], body: AssignmentBody) -> dict[str, Any]:
    """To `stations`, or to `any` so many with the task's body. With a `parent`, the trained run to practise with, its
    run is launched as soon as its stations are free.
    """
    user = request.user
    found = access.get_lab(user, lab, "assign")
    assignment = assignments.assign_task(
        lab=found,
        task=access.get_row(Task, user, lab, slug=body.task),
        stations=[access.get_row(Station, user, lab, slug=slug) for slug in dict.fromkeys(body.stations)],
        any_count=body.any,
        parent=None if body.parent is None else access.get_row(Run, user, lab, pk=body.parent),
        user=user,
        time_zone=timezone.get_current_timezone_name() if body.time_zone is None else body.time_zone,
        **body.dict(include={"episodes", "hours", "target_success", "priority", "not_before", "repeats"}),
        source=source_of(request),
    )
    return show_assignment(user, lab, assignment.pk)


@router.patch("/assignments/{number}", auth=LAUNCH, response=or_problem(AssignmentRow))
def edit_assignment(request: PersonRequest, lab: Path[str], number: int, body: AssignmentChanges) -> dict[str, Any]:
    """What the body leaves out stays as it is; only one that waits can be edited. A budget takes the place of another,
    as stations and `any` take each other's.
    """
    user = request.user
    assignment = access.get_row(Assignment, user, lab, "assign", pk=number)
    given = body.dict(exclude_unset=True)
    if "stations" in given:
        slugs = dict.fromkeys(given["stations"] or [])
        given["stations"] = [access.get_row(Station, user, lab, slug=slug) for slug in slugs]
    if "any" in given:
        given["any_count"] = given.pop("any")
    if given.get("parent") is not None:
        given["parent"] = access.get_row(Run, user, lab, pk=given["parent"])
    assignments.edit_assignment(assignment=assignment, user=user, **given, source=source_of(request))
    return show_assignment(user, lab, number)


def show_assignment(user: User, lab: str, number: int) -> dict[str, Any]:
    """As it is after the dispatcher has seen it."""
    row = access.get_row(Assignment, user, lab, pk=number)
    verdicts = {verdict.assignment.pk: verdict for verdict in queue.read_queue(row.lab)} if row.is_live else {}
    return queue.assignment_row(row, verdicts.get(row.pk))


@router.delete("/assignments/{number}", auth=LAUNCH, response=or_problem(AssignmentRow))
def cancel_assignment(request: PersonRequest, lab: Path[str], number: int, force: bool = False) -> dict[str, Any]:
    """Its run is canceled as well. Stations finish their episode; with force they break it off at once."""
    assignment = access.get_row(Assignment, request.user, lab, "assign", pk=number)
    assignments.cancel_assignment(assignment=assignment, user=request.user, force=force, source=source_of(request))
    return show_assignment(request.user, lab, number)


@router.post("/assignments/{number}/move", auth=LAUNCH, response=or_problem(AssignmentRow))
def move_assignment(request: PersonRequest, lab: Path[str], number: int, body: PlaceBody) -> dict[str, Any]:
    """Just before another one that waits, or null for the end of the queue."""
    user = request.user
    assignment = access.get_row(Assignment, user, lab, "assign", pk=number)
    before = None if body.before is None else access.get_row(Assignment, user, lab, "assign", pk=body.before)
    assignments.reorder_assignment(assignment=assignment, before=before, user=user, source=source_of(request))
    return show_assignment(user, lab, number)


@router.post("/assignments/{number}/stop_repeating", auth=LAUNCH, response=or_problem(AssignmentRow))
def stop_repeating(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    assignment = access.get_row(Assignment, request.user, lab, "assign", pk=number)
    assignments.stop_repeating(assignment=assignment, user=request.user, source=source_of(request))
    return show_assignment(request.user, lab, number)


# Evaluations on stations


class EvaluationBody(Schema):
    task: str
    attempts: int
    checkpoint: UUID | None = Field(None, description="A policy of the run; null: the kept or newest one.")
    stations: list[str] = Field(default_factory=list)
    any: int | None = None
    priority: str = "normal"
    not_before: AwareDatetime | None = None


class EvaluationRow(Schema):
    id: int = Field(description="Of its assignment; its episodes carry it as `evaluation`.")
    task: str
    version: int
    checkpoint: Uuid
    practice_episodes: int
    attempts: int = Field(description="How many were asked for.")
    made: int
    known: int = Field(description="Of how many a sensor or a person said whether it was a true success.")
    unknown: int
    successes: int
    rate: float | None = Field(description="Of the known ones; null: none is known.")
    low: float = Field(description="95 % band (Wilson) of successes among the known ones.")
    high: float
    detected: int = Field(description="Detected by the reward model; never mixed with what is known.")
    stations: list[str]
    state: str
    by: str
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None


@router.get("/runs/{number}/evaluations", auth=READ, response=or_problem(list[EvaluationRow]))
@paginate(Pages)
def list_evaluations(request: PersonRequest, lab: Path[str], number: int) -> Rows:
    """What stations showed of the run's policies, the oldest version first."""
    run = access.get_row(Run, request.user, lab, pk=number)
    return Rows(learning.evaluations_on_stations(run), learning.evaluation_row)


@router.post("/runs/{number}/evaluations", auth=LAUNCH, response=or_problem(AssignmentRow), openapi_extra=ONCE_EXTRA)
@once
def evaluate_run(request: PersonRequest, lab: Path[str], number: int, body: EvaluationBody) -> dict[str, Any]:
    """`attempts` in all on `stations`, or on `any` so many, with a policy of the run: an assignment of the queue."""
    user = request.user
    run = access.get_row(Run, user, lab, "assign", pk=number)
    policies = run.checkpoints.select_related("run")
    chosen = run.best_checkpoint("policy") if body.checkpoint is None else policies.filter(pk=body.checkpoint).first()
    if chosen is None:
        raise NotFound(f"{run} has no such policy; leave the checkpoint out for the one that was kept.")
    assignment = assignments.assign_task(
        lab=run.lab,
        task=access.get_row(Task, user, lab, slug=body.task),
        stations=[access.get_row(Station, user, lab, slug=slug) for slug in dict.fromkeys(body.stations)],
        any_count=body.any,
        checkpoint=chosen,
        episodes=body.attempts,
        priority=body.priority,
        not_before=body.not_before,
        user=user,
        source=source_of(request),
    )
    return show_assignment(user, lab, assignment.pk)


# Episodes


class AnswerBody(Schema):
    value: bool


class LabelBody(Schema):
    true_success: bool | None
    reason: str = ""


class LabelledEpisode(EpisodeRow):
    previous: bool | None = Field(description="What was said of its true success before; said again, it undoes this.")


class StepsRow(Schema):
    uuid: Uuid
    fps: float
    threshold: float | None
    d: list[float | None] = Field(description="Predicted steps to go at each observation; null: nobody judged it.")
    reward: list[float | None] = Field(description="r_t = d_t - d_(t+1)")
    actions: list[list[float]]
    actors: list[int] = Field(description="Who acted: 0 the policy, 1 a person, 2 a script.")
    fenced: list[int] = Field(description="1 where the fence turned the action aside.")
    observations: dict[str, list[list[float]]] = Field(description="By feature; pictures come as frames.")
    embodiment: dict[str, Any]
    frames: int


class EpisodeCamera(Schema):
    name: str = Field(description="As the body calls it; empty where pictures were made before there were several.")
    missing: str = Field(description="Why it has no pictures; empty: it has.")


class EpisodeCameras(Schema):
    cameras: list[EpisodeCamera]


class Rendering(Schema):
    state: str = Field(json_schema_extra={"enum": ["rendering"]})


@router.get("/episodes", auth=READ, response=or_problem(list[EpisodeRow]))
@paginate(Pages)
def list_episodes(
    request: PersonRequest,
    lab: Path[str],
    station: str = "",
    task: str = "",
    run: int | None = None,
    purpose: str = "",
    ending: str = "",
    detected: bool | None = None,
    true: bool | None = None,
    unknown: bool | None = None,
    human: bool | None = None,
    evaluation: int | None = None,
    query: str = "",
) -> Rows:
    """Newest first; each filter that is given must hold."""
    filters: dict[str, Any] = {"station": station, "task": task, "run": run, "purpose": purpose, "ending": ending}
    filters |= {"detected": detected, "true": true, "unknown": unknown, "human": human, "query": query}
    filters |= {"evaluation": evaluation}
    return Rows(fleet.list_episodes(access.get_lab(request.user, lab), **filters), fleet.episode_row)


@router.get("/episodes/{uuid}", auth=READ, response=or_problem(EpisodeRow))
def show_episode(request: PersonRequest, lab: Path[str], uuid: UUID) -> dict[str, Any]:
    return fleet.episode_row(access.get_row(Episode, request.user, lab, uuid=uuid))


@router.get("/episodes/{uuid}/file", auth=READ, response=FILE, openapi_extra=FILE_EXTRA)
def download_episode(request: PersonRequest, lab: Path[str], uuid: UUID) -> HttpResponseBase:
    """As it was recorded: one episode in a file as robots/episodes.py reads it."""
    episode = access.get_row(Episode, request.user, lab, uuid=uuid)
    return answer_file(request, episode.file, f"{episode.uuid}.safetensors")


@router.post("/episodes/{uuid}/label", auth=DATA, response=or_problem(LabelledEpisode))
def label_episode(request: PersonRequest, lab: Path[str], uuid: UUID, body: LabelBody) -> dict[str, Any]:
    """Whether it was a true success: true, false, or null for unknown. `previous` undoes it."""
    episode = access.get_row(Episode, request.user, lab, "label_episode", uuid=uuid)
    before = episode_actions.label_episode(
        user=request.user,
        episode=episode,
        true_success=body.true_success,
        reason=body.reason,
        source=source_of(request),
    )
    return fleet.episode_row(episode) | {"previous": before}


@router.post("/episodes/{uuid}/answer", auth=DATA, response=or_problem(EpisodeRow))
def answer_question(request: PersonRequest, lab: Path[str], uuid: UUID, body: AnswerBody) -> dict[str, Any]:
    """Yes or no to what its method asks of each attempt; the newest answer counts until the learner has it."""
    episode = access.get_row(Episode, request.user, lab, "label_episode", uuid=uuid)
    episode_actions.answer_question(user=request.user, episode=episode, value=body.value, source=source_of(request))
    return fleet.episode_row(episode)


@router.post("/episodes/{uuid}/dataset", auth=DATA, response=or_problem(DatasetRow))
def add_correction(request: PersonRequest, lab: Path[str], uuid: UUID) -> dict[str, Any]:
    """A correction joins the lab's dataset of corrections, which begins with the first one."""
    episode = access.get_row(Episode, request.user, lab, "add_correction", uuid=uuid)
    return learning.dataset_row(
        practice_episodes.add_correction(lab=episode.lab, user=request.user, episode=episode, source=source_of(request))
    )


@router.get("/episodes/{uuid}/steps", auth=READ, response=or_problem(StepsRow))
def show_steps(request: PersonRequest, lab: Path[str], uuid: UUID) -> dict[str, Any]:
    """What a replay draws: d and reward, actions, who acted, and the observations for a drawn top view."""
    return fleet.episode_steps(access.get_row(Episode, request.user, lab, uuid=uuid))


@router.get("/episodes/{uuid}/cameras", auth=READ, response={200: EpisodeCameras, 202: Rendering, ERRORS: Problem})
def list_cameras(request: PersonRequest, lab: Path[str], uuid: UUID) -> HttpResponse | dict[str, Any]:
    """By which cameras the episode can be looked at. The first ask has its pictures made: 202 until that is done."""
    episode = access.get_row(Episode, request.user, lab, uuid=uuid)
    return ask_for_frames(episode) or {"cameras": fleet.episode_cameras(episode)}


@router.get("/episodes/{uuid}/frames/{step}.jpg", auth=READ, response={202: Rendering, ERRORS: Problem})
def show_frame(request: PersonRequest, lab: Path[str], uuid: UUID, step: int, camera: str = "") -> HttpResponse:
    """What a camera saw at an observation, a JPEG; without a name the first that has pictures. The first ask has those
    of the whole episode made: 202 until that is done.
    """
    episode = access.get_row(Episode, request.user, lab, uuid=uuid)
    if not 0 <= step <= episode.steps:
        raise NotFound(f"{episode} has frames 0 to {episode.steps}.")
    if making := ask_for_frames(episode):
        return making
    response = HttpResponse(fleet.frame_file(episode, camera, step).read_bytes(), content_type="image/jpeg")
    response["Cache-Control"] = "private, max-age=86400, immutable"
    return response


def ask_for_frames(episode: Episode) -> HttpResponse | None:
    """What to answer until the episode's pictures are made; None: they are."""
    if episode.frames_dir.is_dir():
        return None
    if problem := learning_actions.render_episode(episode=episode):
        raise access.Conflict(problem)
    return JsonAnswer({"state": "rendering"}, status=202)

"""The HTTP API: for people's scripts with their session and CSRF token, and for stations with their token.

Everything here only reads requests, calls the actions and selectors that the pages call, and answers; every error is
{"detail": "a sentence"} with a 4xx status, or with 503 or 507 for what waiting, or room on the disk, will mend. The
OpenAPI schema is at /api/openapi.json, its page at /api/docs.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja import NinjaAPI, Path, Router, Schema
from ninja.errors import AuthenticationError, HttpError, ValidationError
from ninja.security import HttpBearer, SessionAuth
from pydantic import AwareDatetime, Field, WithJsonSchema, create_model

from fleetui import access, failures
from fleetui.access import Invalid, NotFound
from fleetui.answers import JsonAnswer, StrictParser, StrictRenderer
from fleetui.api.reference import Reference
from fleetui.fleet import selectors as fleet
from fleetui.fleet.actions import archive as station_archive
from fleetui.fleet.actions import attention, control, recovery, stops
from fleetui.fleet.actions import episodes as episode_actions
from fleetui.fleet.actions import labs as lab_actions
from fleetui.fleet.models import Assignment, Episode, HelpRequest, Station, Task
from fleetui.headers import comes_from_a_page
from fleetui.learning import actions as learning_actions
from fleetui.learning import archive
from fleetui.learning import selectors as learning
from fleetui.learning.models import Checkpoint, Dataset, Run
from fleetui.live import rewind, telemetry
from fleetui.practice import queue
from fleetui.practice import selectors as practice
from fleetui.practice.actions import assignments, launching
from fleetui.practice.actions import episodes as practice_episodes
from robots import strict_json
from robots.rules import TASK_RULES
from robots.strict_json import JSONError

api = NinjaAPI(
    title="Robot fleet",
    version="1",
    description="Watch, command and teach a fleet of robots. People use session and CSRF token; stations a token each.",
    docs=Reference(),
    docs_url="/docs",
    openapi_url="/openapi.json",
    parser=StrictParser(),
    renderer=StrictRenderer(),
)


# Errors: one shape


@api.exception_handler(access.Refused)
def answer_refused(request, error):
    body = {"detail": str(error)}
    if getattr(error, "problems", None):
        body["problems"] = error.problems
    return JsonAnswer(body, status=error.status)


@api.exception_handler(AuthenticationError)
def answer_unauthenticated(request, error):
    if request.path_info.startswith("/api/station/"):
        sentence = (
            "Missing or unknown token: send the station's token as Authorization: Bearer TOKEN; a manager can make one."
        )
    else:
        sentence = "Log in first: this needs the session of a signed-in user."
    return JsonAnswer({"detail": sentence}, status=401)


@api.exception_handler(ValidationError)
def answer_invalid(request, error):
    """pydantic's findings as sentences; a body that is no JSON at all is among them."""
    problems = {".".join(str(part) for part in row["loc"][1:]) or "body": row["msg"] for row in error.errors}
    detail = " ".join(f"{name}: {said}." for name, said in problems.items())
    return JsonAnswer({"detail": detail, "problems": problems}, status=422)


def answer_failure(request, error):
    """A full disk, a database that is away, a value that no column holds; what else it may be is Django's to answer."""
    response = failures.as_json(request, error)
    if response is None:
        raise error
    return response


for kind in failures.KINDS:
    api.add_exception_handler(kind, answer_failure)


@api.exception_handler(RequestDataTooBig)
def answer_too_big(request, error):
    return JsonAnswer({"detail": "The upload is larger than 64 MiB; send less at once."}, status=413)


@api.exception_handler(HttpError)
def answer_http_error(request, error):
    said = f"The body can't be used. {error.__cause__}" if isinstance(error.__cause__, JSONError) else str(error)
    return JsonAnswer({"detail": said}, status=error.status_code)


# What people ask for, a lab at a time


class StopSession(SessionAuth):
    """A stop must not wait for the database to say who gives it."""

    def authenticate(self, request, key):
        return stops.get_stopper(key or "")  # access.Known


def source_of(request) -> str:
    """For the audit log: whether the act is a page's or a script's."""
    return "page" if comes_from_a_page(request) else "API"


labs = Router(auth=SessionAuth(csrf=True), tags=["lab"])


class CommandBody(Schema):
    name: str
    args: dict = Field(default_factory=dict)
    ttl_ms: int = 5000


class StoppedStation(Schema):
    station: str
    name: str
    outcome: Literal["confirmed", "told", "unreachable", "cleared"]
    silent_s: float | None = Field(description="Seconds since the station was last heard, where that is known.")


class StopAnswer(Schema):
    id: str
    stopped: int = Field(description="How many stations said that they stopped.")
    recorded: bool
    stations: list[StoppedStation]
    complete: bool = Field(description="False: the database is away, and other stations of the lab are not known.")
    detail: str = Field(description="What to know beyond that, such as: told, not recorded.")


class LabelBody(Schema):
    true_success: bool | None
    reason: str = ""


# The rules as they are declared: the schema shows their bounds, and the action that checks them says what is wrong.
TaskLimits = create_model(
    "TaskLimits",
    __base__=Schema,
    name=(str, ""),
    description=(str, ""),
    **{rule.name: (Annotated[Any, WithJsonSchema(rule.json_schema())], rule.default) for rule in TASK_RULES.values()},
)


class TaskBody(TaskLimits):
    family: str


class TaskChanges(TaskLimits):
    archived: bool | None = None


class AssignmentBody(Schema):
    task: str
    stations: list[str] = Field(default_factory=list)
    any: int | None = None
    parent: int | None = None
    episodes: int | None = None
    hours: float | None = None
    target_success: float | None = None
    priority: str = "normal"
    not_before: AwareDatetime | None = None
    repeats: str = ""
    time_zone: str | None = None  # of what repeats; None: that of who asks


class AssignmentChanges(Schema):
    stations: list[str] | None = None
    any: int | None = None
    parent: int | None = None
    episodes: int | None = None
    hours: float | None = None
    target_success: float | None = None
    priority: str = "normal"
    not_before: AwareDatetime | None = None
    repeats: str = ""
    time_zone: str = "UTC"


class PlaceBody(Schema):
    before: int | None


class DatasetBody(Schema):
    name: str
    families: list[str]
    episodes: int
    seed: int = 0


class RunBody(Schema):
    kind: str
    name: str = ""
    recipe: dict = Field(default_factory=dict)
    dataset: int | None = None
    corrections: int | None = None
    parent: int | None = None
    assignment: int | None = None
    task: str | None = None
    stations: list[str] = Field(default_factory=list)


class ArchiveBody(Schema):
    archived: bool


@labs.get("/stations", response=list[dict])
def list_stations(request: HttpRequest, lab: Path[str], archived: bool = False):
    """The wall's cards, by number, with the newest telemetry; or the cards of those that are archived."""
    found = access.get_lab(request.user, lab)
    if archived:
        return [fleet.station_card(station) for station in fleet.list_stations(found, archived=True)]
    ids = dict(found.stations.values_list("slug", "pk"))
    cards = [telemetry.lay_over(ids[card["slug"]], card) for card in fleet.wall_cards(found)]
    return sorted(cards, key=lambda card: card["number"])


@labs.get("/stations/{slug}", response=dict)
def show_station(request: HttpRequest, lab: Path[str], slug: str):
    station = access.get_row(Station, request.user, lab, slug=slug)
    card = telemetry.lay_over(station.pk, fleet.station_card(station))
    return card | {"embodiment": station.embodiment, "recent": fleet.recent_episodes(station)}


@labs.patch("/stations/{slug}", response=dict)
def archive_station(request: HttpRequest, lab: Path[str], slug: str, body: ArchiveBody):
    """archived: true takes it off the wall and out of use, false brings it back."""
    station = access.get_row(Station, request.user, lab, "archive_station", slug=slug)
    change = station_archive.archive_station if body.archived else station_archive.restore_station
    change(station=station, user=request.user, source=source_of(request))
    return fleet.station_card(access.get_row(Station, request.user, lab, slug=slug))


@labs.delete("/stations/{slug}", response=dict)
def delete_station(request: HttpRequest, lab: Path[str], slug: str):
    """For good; only an archived one to which nothing refers."""
    station = access.get_row(Station, request.user, lab, "archive_station", slug=slug)
    station_archive.delete_station(station=station, user=request.user, source=source_of(request))
    return {"deleted": slug}


@labs.get("/stations/{slug}/rewind", response=dict)
def rewind_station(request: HttpRequest, lab: Path[str], slug: str):
    """The last 30 s, oldest first: what it said (`samples`) and its pictures (`frames`, JPEG in base64). `at` counts
    the seconds from the end, and is 0 or less.
    """
    return rewind.of_station(access.get_row(Station, request.user, lab, slug=slug).pk)


@labs.post("/stations/{slug}/command", response=dict)
def command_station(request: HttpRequest, lab: Path[str], slug: str, body: CommandBody):
    """pause, resume, clear_stop {reason}, reset, end_episode, speed {value}, override, drive {dx, dy}, hand_back,
    settings, and stop, whose own way is POST stop. An override lasts two seconds from the newest drive.
    """
    if body.name == "stop":
        return stops.stop_stations(user=request.user, lab_slug=lab, station_slug=slug, source=source_of(request))
    return control.command_station(
        user=request.user,
        lab_slug=lab,
        station_slug=slug,
        name=body.name,
        args=body.args,
        ttl_ms=body.ttl_ms,
        source=source_of(request),
    )


class OutcomeBody(Schema):
    outcome: str


@labs.get("/help", response=list[dict])
def list_help(request: HttpRequest, lab: Path[str]):
    """Open help requests, those first where a person's time saves most."""
    return [fleet.help_row(row) for row in fleet.list_help(access.get_lab(request.user, lab), open_only=True)]


@labs.post("/help/{number}/acknowledge", response=dict)
def acknowledge_help(request: HttpRequest, lab: Path[str], number: int):
    found = access.get_row(HelpRequest, request.user, lab, "help", pk=number)
    return fleet.help_row(attention.acknowledge_help(request=found, user=request.user, source=source_of(request)))


@labs.post("/help/{number}/take", response=dict)
def take_help(request: HttpRequest, lab: Path[str], number: int):
    found = access.get_row(HelpRequest, request.user, lab, "help", pk=number)
    return fleet.help_row(attention.take_help(request=found, user=request.user, source=source_of(request)))


@labs.post("/help/{number}/release", response=dict)
def release_help(request: HttpRequest, lab: Path[str], number: int):
    found = access.get_row(HelpRequest, request.user, lab, "help", pk=number)
    return fleet.help_row(attention.release_help(request=found, user=request.user, source=source_of(request)))


@labs.post("/help/{number}/close", response=dict)
def close_help(request: HttpRequest, lab: Path[str], number: int, body: OutcomeBody):
    found = access.get_row(HelpRequest, request.user, lab, "help", pk=number)
    return fleet.help_row(
        attention.close_help(request=found, user=request.user, outcome=body.outcome, source=source_of(request))
    )


# What may stand in a stop's body. It is read by hand: whatever comes, a stop is not refused for it.
STOP_BODY = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "id": {
                            "type": "string",
                            "maxLength": 80,
                            "description": "Repeated with the same id it is the same stop; a new one has another.",
                        }
                    },
                }
            }
        },
    }
}


@labs.post("/stop", response=StopAnswer, auth=StopSession(csrf=True), openapi_extra=STOP_BODY)
def stop_lab(request: HttpRequest, lab: Path[str]):
    """The software stop of every station of the lab: told at once, then latched and recorded. The answer says of each
    station whether it confirmed it, was told, or could not be reached.
    """
    return give_stop(request, lab, None)


@labs.post("/stations/{slug}/stop", response=StopAnswer, auth=StopSession(csrf=True), openapi_extra=STOP_BODY)
def stop_station(request: HttpRequest, lab: Path[str], slug: str):
    """The software stop of one station."""
    return give_stop(request, lab, slug)


def give_stop(request, lab, slug):
    try:
        body = strict_json.loads(request.body or b"{}")
        order_id = body.get("id") if isinstance(body, dict) else ""
    except (ValueError, RequestDataTooBig):
        order_id = ""
    known = request.auth
    return stops.stop_stations(
        user=known.user,
        lab_slug=lab,
        station_slug=slug,
        order_id=order_id if isinstance(order_id, str) else "",
        roles=known.roles,
        source=source_of(request),
    )


class StationsBody(Schema):
    stations: list[str]


class ClearBody(StationsBody):
    reason: str


@labs.post("/clear_stops", response=dict)
def clear_stops(request: HttpRequest, lab: Path[str], body: ClearBody):
    """Clear the software stop of these stations, with one reason. They stay paused. Answers who was cleared (`done`)
    and, by slug, why not (`refused`).
    """
    return recovery.clear_stops(
        user=request.user, lab_slug=lab, stations=body.stations, reason=body.reason, source=source_of(request)
    )


@labs.post("/resume", response=dict)
def resume_stations(request: HttpRequest, lab: Path[str], body: StationsBody):
    """Let these paused stations go on. Answers who does (`done`) and, by slug, why not (`refused`)."""
    return recovery.resume_stations(user=request.user, lab_slug=lab, stations=body.stations, source=source_of(request))


@labs.get("/tasks", response=list[dict])
def list_tasks(request: HttpRequest, lab: Path[str], archived: bool = False):
    return [task_row(task) for task in fleet.list_tasks(access.get_lab(request.user, lab), archived)]


def task_row(task):
    return {
        "slug": task.slug,
        "name": task.name,
        "family": task.family,
        "description": task.description,
        **{name: getattr(task, name) for name in TASK_RULES},
        "archived_at": task.archived_at.isoformat() if task.archived_at else None,
    }


@labs.post("/tasks", response=dict)
def create_task(request: HttpRequest, lab: Path[str], body: TaskBody):
    found = access.get_lab(request.user, lab, "create_task")
    return task_row(lab_actions.create_task(lab=found, user=request.user, **body.dict(), source=source_of(request)))


@labs.patch("/tasks/{slug}", response=dict)
def edit_task(request: HttpRequest, lab: Path[str], slug: str, body: TaskChanges):
    """What the body leaves out stays as it is. archived: true takes it out of use, false brings it back."""
    task = access.get_row(Task, request.user, lab, "edit_task", slug=slug)
    given = body.dict(exclude_unset=True)
    archived = given.pop("archived", None)
    if given:
        lab_actions.edit_task(task=task, user=request.user, **given, source=source_of(request))
    if archived is not None and archived != bool(task.archived_at):
        change = lab_actions.archive_task if archived else lab_actions.restore_task
        change(task=task, user=request.user, source=source_of(request))
    task.refresh_from_db()
    return task_row(task)


@labs.get("/assignments", response=list[dict])
def list_assignments(request: HttpRequest, lab: Path[str], state: str = ""):
    """Those at work and those that wait, in the queue's order, then the newest 200 that have ended; or those of one
    state.
    """
    found = access.get_lab(request.user, lab)
    live = [queue.assignment_row(verdict.assignment, verdict) for verdict in queue.read_queue(found)]
    ended = [queue.assignment_row(row) for row in practice.list_ended_assignments(found, state)[:200]]
    return [row for row in live if not state or row["state"] == state] + ended


@labs.post("/assignments", response=dict)
def assign_task(request: HttpRequest, lab: Path[str], body: AssignmentBody):
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


@labs.patch("/assignments/{number}", response=dict)
def edit_assignment(request: HttpRequest, lab: Path[str], number: int, body: AssignmentChanges):
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


def show_assignment(user, lab: str, number: int) -> dict:
    """As it is after the dispatcher has seen it."""
    row = access.get_row(Assignment, user, lab, pk=number)
    verdicts = {verdict.assignment.pk: verdict for verdict in queue.read_queue(row.lab)} if row.is_live else {}
    return queue.assignment_row(row, verdicts.get(row.pk))


@labs.delete("/assignments/{number}", response=dict)
def cancel_assignment(request: HttpRequest, lab: Path[str], number: int, force: bool = False):
    """Its run is canceled as well. Stations finish their episode; with force they break it off at once."""
    assignment = access.get_row(Assignment, request.user, lab, "assign", pk=number)
    assignments.cancel_assignment(assignment=assignment, user=request.user, force=force, source=source_of(request))
    return show_assignment(request.user, lab, number)


@labs.post("/assignments/{number}/move", response=dict)
def move_assignment(request: HttpRequest, lab: Path[str], number: int, body: PlaceBody):
    """Just before another one that waits, or null for the end of the queue."""
    assignment = access.get_row(Assignment, request.user, lab, "assign", pk=number)
    before = None if body.before is None else access.get_row(Assignment, request.user, lab, "assign", pk=body.before)
    assignments.reorder_assignment(assignment=assignment, before=before, user=request.user, source=source_of(request))
    return show_assignment(request.user, lab, number)


@labs.post("/assignments/{number}/stop_repeating", response=dict)
def stop_repeating(request: HttpRequest, lab: Path[str], number: int):
    assignment = access.get_row(Assignment, request.user, lab, "assign", pk=number)
    assignments.stop_repeating(assignment=assignment, user=request.user, source=source_of(request))
    return show_assignment(request.user, lab, number)


@labs.get("/datasets", response=list[dict])
def list_datasets(request: HttpRequest, lab: Path[str], archived: bool = False):
    return [learning.dataset_row(row) for row in learning.list_datasets(access.get_lab(request.user, lab), archived)]


@labs.patch("/datasets/{int:number}", response=dict)
def archive_dataset(request: HttpRequest, lab: Path[str], number: int, body: ArchiveBody):
    """archived: true hides it, and nothing can learn from it; false brings it back."""
    dataset = access.get_row(Dataset, request.user, lab, "archive_dataset", pk=number)
    change = archive.archive_dataset if body.archived else archive.restore_dataset
    change(dataset=dataset, user=request.user, source=source_of(request))
    return learning.dataset_row(access.get_row(Dataset, request.user, lab, pk=number))


@labs.delete("/datasets/{int:number}", response=dict)
def delete_dataset(request: HttpRequest, lab: Path[str], number: int):
    """For good, with its file; only an archived one to which nothing refers."""
    archive.delete_dataset(
        dataset=access.get_row(Dataset, request.user, lab, "archive_dataset", pk=number),
        user=request.user,
        source=source_of(request),
    )
    return {"deleted": number}


@labs.post("/datasets", response=dict)
def generate_dataset(request: HttpRequest, lab: Path[str], body: DatasetBody):
    found = access.get_lab(request.user, lab, "generate_dataset")
    return learning.dataset_row(
        learning_actions.generate_dataset(lab=found, user=request.user, **body.dict(), source=source_of(request))
    )


@labs.post("/datasets/upload", response=dict)
def upload_dataset(request: HttpRequest, lab: Path[str], name: str):
    """The body is one file of episodes (robots/episodes.py), at most 64 MiB."""
    found = access.get_lab(request.user, lab, "upload_dataset")
    return learning.dataset_row(
        learning_actions.upload_dataset(
            lab=found, user=request.user, name=name, body=request.body, source=source_of(request)
        )
    )


@labs.get("/runs", response=list[dict])
def list_runs(request: HttpRequest, lab: Path[str], kind: str = "", archived: bool = False):
    return learning.list_run_rows(access.get_lab(request.user, lab), kind, archived)


@labs.post("/runs", response=dict)
def launch_run(request: HttpRequest, lab: Path[str], body: RunBody):
    """An improve run takes an assignment that waits for a run, or a task and stations."""
    user = request.user
    found = access.get_lab(user, lab, "launch_run")
    run = launching.launch_run(
        lab=found,
        user=user,
        kind=body.kind,
        name=body.name,
        recipe=body.recipe,
        dataset=None if body.dataset is None else access.get_row(Dataset, user, lab, pk=body.dataset),
        corrections=None if body.corrections is None else access.get_row(Dataset, user, lab, pk=body.corrections),
        parent=None if body.parent is None else access.get_row(Run, user, lab, pk=body.parent),
        assignment=None if body.assignment is None else access.get_row(Assignment, user, lab, pk=body.assignment),
        task=None if body.task is None else access.get_row(Task, user, lab, slug=body.task),
        stations=[access.get_row(Station, user, lab, slug=slug) for slug in dict.fromkeys(body.stations)],
        source=source_of(request),
    )
    return learning.run_row(run)


@labs.get("/runs/{number}", response=dict)
def show_run(request: HttpRequest, lab: Path[str], number: int):
    return learning.run_row(access.get_row(Run, request.user, lab, pk=number))


@labs.patch("/runs/{number}", response=dict)
def archive_run(request: HttpRequest, lab: Path[str], number: int, body: ArchiveBody):
    """archived: true hides it, and nothing can start from it; false brings it back."""
    run = access.get_row(Run, request.user, lab, "archive_run", pk=number)
    change = archive.archive_run if body.archived else archive.restore_run
    change(run=run, user=request.user, source=source_of(request))
    return learning.run_row(access.get_row(Run, request.user, lab, pk=number))


@labs.delete("/runs/{number}", response=dict)
def delete_run(request: HttpRequest, lab: Path[str], number: int):
    """For good, with its checkpoints; only an archived one of which nothing came."""
    archive.delete_run(
        run=access.get_row(Run, request.user, lab, "archive_run", pk=number),
        user=request.user,
        source=source_of(request),
    )
    return {"deleted": number}


@labs.get("/runs/{number}/metrics", response=list[dict])
def list_metrics(request: HttpRequest, lab: Path[str], number: int, after: int = 0, kind: str = ""):
    return learning.list_metrics(access.get_row(Run, request.user, lab, pk=number), after=after, kind=kind)


@labs.post("/runs/{number}/{wish}", response=dict)
def control_run(request: HttpRequest, lab: Path[str], number: int, wish: str):
    """wish: cancel, pause or resume."""
    act = {
        "cancel": learning_actions.cancel_run,
        "pause": learning_actions.pause_run,
        "resume": learning_actions.resume_run,
    }.get(wish)
    if act is None:
        raise NotFound(f"A run can't {wish}; it can cancel, pause or resume.")
    run = access.get_row(Run, request.user, lab, "control_run", pk=number)
    act(run=run, user=request.user, source=source_of(request))
    return learning.run_row(access.get_row(Run, request.user, lab, pk=number))


@labs.get("/episodes", response=list[dict])
def list_episodes(
    request: HttpRequest,
    lab: Path[str],
    station: str = "",
    task: str = "",
    run: int | None = None,
    purpose: str = "",
    ending: str = "",
    detected: bool | None = None,
    true: bool | None = None,
    human: bool | None = None,
    query: str = "",
    offset: int = 0,
    limit: int = 50,
):
    """Newest first; at most 500 at once."""
    if offset < 0 or not 1 <= limit <= 500:
        raise Invalid("offset must be 0 or more, limit 1 to 500.")
    rows = fleet.list_episodes(
        access.get_lab(request.user, lab),
        station=station,
        task=task,
        run=run,
        purpose=purpose,
        ending=ending,
        detected=detected,
        true=true,
        human=human,
        query=query,
    )
    return [fleet.episode_row(row) for row in rows[offset : offset + limit]]


@labs.get("/episodes/{uuid}", response=dict)
def show_episode(request: HttpRequest, lab: Path[str], uuid: UUID):
    return fleet.episode_row(access.get_row(Episode, request.user, lab, uuid=uuid))


@labs.post("/episodes/{uuid}/label", response=dict)
def label_episode(request: HttpRequest, lab: Path[str], uuid: UUID, body: LabelBody):
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


@labs.post("/episodes/{uuid}/dataset", response=dict)
def add_correction(request: HttpRequest, lab: Path[str], uuid: UUID):
    """A correction joins the lab's dataset of corrections, which begins with the first one."""
    episode = access.get_row(Episode, request.user, lab, "add_correction", uuid=uuid)
    return learning.dataset_row(
        practice_episodes.add_correction(lab=episode.lab, user=request.user, episode=episode, source=source_of(request))
    )


@labs.get("/episodes/{uuid}/steps", response=dict)
def show_steps(request: HttpRequest, lab: Path[str], uuid: UUID):
    """d at each observation, reward r_t = d_t - d_(t+1), actions, who acted, and the observations for a drawn top
    view.
    """
    return fleet.episode_steps(access.get_row(Episode, request.user, lab, uuid=uuid))


@labs.get("/episodes/{uuid}/frames/{step}.jpg")
def show_frame(request: HttpRequest, lab: Path[str], uuid: UUID, step: int):
    """The camera's view at an observation. The first ask has the whole episode rendered: 202 until that is done."""
    episode = access.get_row(Episode, request.user, lab, uuid=uuid)
    if not 0 <= step <= episode.steps:
        raise NotFound(f"{episode} has frames 0 to {episode.steps}.")
    if not episode.frames_dir.is_dir():
        problem = learning_actions.render_episode(episode=episode)
        if problem:
            raise access.Conflict(problem)
        return JsonAnswer({"state": "rendering"}, status=202)
    response = HttpResponse((episode.frames_dir / f"{step:05d}.jpg").read_bytes(), content_type="image/jpeg")
    response["Cache-Control"] = "private, max-age=86400, immutable"
    return response


# What stations send and fetch


class StationToken(HttpBearer):
    def authenticate(self, request, token):
        return access.get_station_by_token(Station, token)


stations = Router(auth=StationToken(), tags=["station"])


@stations.post("/episodes", response=dict)
def store_episodes(request: HttpRequest):
    """The body is one file of 1 to 64 episodes, at most 64 MiB. Sending it again stores nothing twice."""
    return practice_episodes.store_episodes(station=request.auth, body=request.body)


@stations.get("/checkpoints/{uuid}")
def fetch_checkpoint(request: HttpRequest, uuid: UUID):
    checkpoint = access.get_checkpoint_for_station(Checkpoint, request.auth, uuid)
    if not checkpoint.file.is_file():
        raise NotFound(f"The weights of {checkpoint} are missing; restore {checkpoint.path} in the data folder.")
    return HttpResponse(checkpoint.file.read_bytes(), content_type="application/octet-stream")


api.add_router("/labs/{lab}", labs)
api.add_router("/station", stations)

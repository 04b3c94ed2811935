"""The API of the fleet, for people's scripts: stations and their commands, stops, help requests, tasks."""

from typing import Annotated, Any, Literal

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest
from ninja import Path, Router, Schema
from ninja.pagination import paginate
from pydantic import Field, WithJsonSchema, create_model

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.api.doors import LAUNCH, PAGES, READ, SESSION, STATIONS, STOP
from fleetui.api.shape import ArchiveBody, Deleted, Moment, Number, Pages, Rows, Uuid, or_problem, source_of
from fleetui.fleet import selectors
from fleetui.fleet.actions import archive, attention, control, labs, recovery, stops
from fleetui.fleet.models import SHOWN_STATES, HelpRequest, Station, Task
from fleetui.live import rewind, telemetry
from robots import strict_json
from robots.rules import RECORDED, TASK_RULES


class StopRequest(HttpRequest):
    """The type of a request that STOP let in."""

    auth: access.Known


router = Router(auth=SESSION, tags=["lab"])


class HelpRow(Schema):
    id: int
    station: str
    kind: str
    reason: str
    severity: str
    act: str = Field(description="What is advised, as the button that does it; empty where none does.")
    advice: str
    episode: Uuid | None
    p_failure: float | None
    robot_s: float | None = Field(description="The robot's time that a person's act saves, as it is predicted.")
    human_s: float | None
    rank: float | None
    help_by: Moment | None
    opened_at: Moment
    acknowledged_by: str | None
    taken_by: str | None
    closed_by: str | None
    closed_at: Moment | None
    outcome: str


class Card(Schema):
    """A station as the wall shows it; what only its telemetry knows is null, or empty, while nothing is heard."""

    slug: str
    name: str
    number: int
    state: str = Field(json_schema_extra={"enum": list(SHOWN_STATES)})
    state_since: Moment
    reason: str
    version: Number | None = Field(description="Of the policy that it acts with.")
    episodes: int
    speed: Number = Field(description="1 is real time, 0 as fast as it can.")
    connected: bool
    last_seen: Moment | None
    stop_latched: bool
    paused: bool
    holder: str = Field(description="Who is in control of it; empty: nobody.")
    task: str
    run: int | None
    renderer: str
    drive: list[str] = Field(description="The axes that a person drives it by; a drive command names these.")
    teleoperator: str = Field(description="The device at the station by which a person can drive it; empty: none.")
    self_reset_after_s: float | None
    shuffle_every_s: float
    record_frames: str = Field(json_schema_extra={"enum": list(RECORDED)})
    help: HelpRow | None
    maintenance: str = Field(description="Why it is in maintenance; empty: it is not.")
    connected_since: Moment | None
    severity: int
    attention: bool = Field(description="Whether it wants a person.")
    archived: bool
    instruction: str
    step: Number | None
    limit: Number | None
    d: float | None = Field(description="Predicted steps to go.")
    d_start: float | None
    progress: float | None
    p_success: float | None
    distribution: list[float] | None = Field(description="Of the steps to go, over bins of bin_width.")
    marks: list[list[float]] = Field(description="Keypoints of the attempt, x and y in metres on the table.")
    marks_by: str = Field(description="Who set them: classifier or human.")
    signals: dict[str, float] = Field(description="What its policy says of itself, as the method names it.")
    bin_width: float | None
    threshold: float | None
    human: bool
    device: bool = Field(description="Whether that person drives it by the station's own device.")
    sent_at: float | None
    uuid: str = Field(description="Of the attempt under way.")
    unsent: Number | None = Field(description="Episodes on its disk that wait to be uploaded.")
    camera_error: str
    in_memory: Number | None
    refused: Number | None
    lost: Number | None


class EpisodeRow(Schema):
    uuid: Uuid
    station: str
    task: str | None
    run: int | None
    evaluation: int | None = Field(description="The assignment whose attempt it is; null: it is of no evaluation.")
    instruction: str
    purpose: str
    ending: str
    detected_success: bool
    true_success: bool | None
    labels: dict[str, Any] = Field(description="By name: value, step, and source: human, sensor or classifier.")
    asks: str = Field(description="The label that its method wants a person's word on; empty: none.")
    question: str = Field(description="The question for that, which yes or no answers.")
    steps: int
    human_steps: int
    interventions: int
    started_at: Moment
    stored_at: Moment
    policy: Uuid | None
    reward_model: Uuid | None
    threshold: float | None
    version: int | None
    d_start: float | None
    d_end: float | None
    return_sum: float | None
    duration_s: float | None
    dataset: int | None


class StationRow(Card):
    embodiment: dict[str, Any]
    recent: list[EpisodeRow]


@router.get("/stations", auth=READ, response=or_problem(list[Card]))
@paginate(Pages)
def list_stations(request: PersonRequest, lab: Path[str], archived: bool = False) -> Rows:
    """The wall's cards, by number, with the newest telemetry; or the cards of those that are archived."""
    found = access.get_lab(request.user, lab)
    if archived:
        return Rows(selectors.list_stations(found, archived=True), selectors.station_card)
    ids = dict(found.stations.values_list("slug", "pk"))
    cards = sorted(selectors.wall_cards(found), key=lambda card: card["number"])
    return Rows(cards, lambda card: telemetry.lay_over(ids[card["slug"]], card))


@router.get("/stations/{slug}", auth=READ, response=or_problem(StationRow))
def show_station(request: PersonRequest, lab: Path[str], slug: str) -> dict[str, Any]:
    station = access.get_row(Station, request.user, lab, slug=slug)
    card = telemetry.lay_over(station.pk, selectors.station_card(station))
    return card | {"embodiment": station.embodiment, "recent": selectors.recent_episodes(station)}


@router.patch("/stations/{slug}", auth=PAGES, response=or_problem(Card))
def archive_station(request: PersonRequest, lab: Path[str], slug: str, body: ArchiveBody) -> dict[str, Any]:
    """archived: true takes it off the wall and out of use, false brings it back."""
    station = access.get_row(Station, request.user, lab, "archive_station", slug=slug)
    change = archive.archive_station if body.archived else archive.restore_station
    change(station=station, user=request.user, source=source_of(request))
    return selectors.station_card(access.get_row(Station, request.user, lab, slug=slug))


@router.delete("/stations/{slug}", auth=PAGES, response=or_problem(Deleted))
def delete_station(request: PersonRequest, lab: Path[str], slug: str) -> dict[str, Any]:
    """For good; only an archived one to which nothing refers."""
    station = access.get_row(Station, request.user, lab, "archive_station", slug=slug)
    archive.delete_station(station=station, user=request.user, source=source_of(request))
    return {"deleted": slug}


class Sample(Schema):
    at: float = Field(description="Seconds from the end; 0 or less.")
    uuid: str | None
    step: Number | None
    limit: Number | None
    d: float | None
    p_success: float | None
    threshold: float | None
    state: str | None
    reason: str | None
    instruction: str | None
    human: bool | None


class Frame(Schema):
    at: float = Field(description="Seconds from the end; 0 or less.")
    jpeg: str = Field(description="In base64.")


class RewindRow(Schema):
    seconds: float
    ended_s_ago: float | None
    samples: list[Sample]
    frames: list[Frame]


@router.get("/stations/{slug}/rewind", auth=READ, response=or_problem(RewindRow))
def rewind_station(request: PersonRequest, lab: Path[str], slug: str) -> dict[str, Any]:
    """The last 30 s, oldest first: what it said (`samples`), and the pictures of its first camera (`frames`, JPEG in
    base64). `at` counts the seconds from the end, and is 0 or less.
    """
    return rewind.of_station(access.get_row(Station, request.user, lab, slug=slug).pk)


# Commands, and the stop


class CommandBody(Schema):
    name: str
    args: dict[str, Any] = Field(default_factory=dict)
    ttl_ms: int = 5000


class CommandAnswer(Schema):
    id: str
    epoch: int = Field(description="Of an override: of the lease that it got.")


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


class StationsBody(Schema):
    stations: list[str]


class ClearBody(StationsBody):
    reason: str


class EachAnswer(Schema):
    done: list[str]
    refused: dict[str, str] = Field(description="By slug: why not.")


@router.post("/stations/{slug}/command", auth=STATIONS, response=or_problem(CommandAnswer | StopAnswer))
def command_station(request: PersonRequest, lab: Path[str], slug: str, body: CommandBody) -> dict[str, Any]:
    """pause, resume, clear_stop {reason}, reset, end_episode, move_keypoint {number, x, y} (of those that
    the station shows, to x, y in metres), speed {value}, override, drive {axes: {x, y, ...}}, teleoperate {on} (by the
    station's own device; only a page's heartbeats hold it), hand_back, settings, and stop, whose own way is POST stop.
    An override lasts two seconds from the newest drive.
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


@router.post("/stop", response=or_problem(StopAnswer), auth=STOP, openapi_extra=STOP_BODY)
def stop_lab(request: StopRequest, lab: Path[str]) -> dict[str, Any]:
    """The software stop of every station of the lab: told at once, then latched and recorded. The answer says of each
    station whether it confirmed it, was told, or could not be reached.
    """
    return give_stop(request, lab, None)


@router.post("/stations/{slug}/stop", response=or_problem(StopAnswer), auth=STOP, openapi_extra=STOP_BODY)
def stop_station(request: StopRequest, lab: Path[str], slug: str) -> dict[str, Any]:
    """The software stop of one station."""
    return give_stop(request, lab, slug)


def give_stop(request: StopRequest, lab: str, slug: str | None) -> dict[str, Any]:
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


@router.post("/clear_stops", auth=STATIONS, response=or_problem(EachAnswer))
def clear_stops(request: PersonRequest, lab: Path[str], body: ClearBody) -> dict[str, Any]:
    """Clear the software stop of these stations, with one reason. They stay paused. Answers who was cleared (`done`)
    and, by slug, why not (`refused`).
    """
    return recovery.clear_stops(
        user=request.user, lab_slug=lab, stations=body.stations, reason=body.reason, source=source_of(request)
    )


@router.post("/resume", auth=STATIONS, response=or_problem(EachAnswer))
def resume_stations(request: PersonRequest, lab: Path[str], body: StationsBody) -> dict[str, Any]:
    """Let these paused stations go on. Answers who does (`done`) and, by slug, why not (`refused`)."""
    return recovery.resume_stations(user=request.user, lab_slug=lab, stations=body.stations, source=source_of(request))


# Help requests


class OutcomeBody(Schema):
    outcome: str


@router.get("/help", auth=READ, response=or_problem(list[HelpRow]))
@paginate(Pages)
def list_help(request: PersonRequest, lab: Path[str]) -> Rows:
    """Open help requests, those first where a person's time saves most."""
    return Rows(selectors.list_help(access.get_lab(request.user, lab), open_only=True), selectors.help_row)


@router.post("/help/{number}/acknowledge", auth=STATIONS, response=or_problem(HelpRow))
def acknowledge_help(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """Somebody has seen it."""
    found = access.get_row(HelpRequest, request.user, lab, "help", pk=number)
    return selectors.help_row(attention.acknowledge_help(request=found, user=request.user, source=source_of(request)))


@router.post("/help/{number}/take", auth=STATIONS, response=or_problem(HelpRow))
def take_help(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """One person goes there; the others see who."""
    found = access.get_row(HelpRequest, request.user, lab, "help", pk=number)
    return selectors.help_row(attention.take_help(request=found, user=request.user, source=source_of(request)))


@router.post("/help/{number}/release", auth=STATIONS, response=or_problem(HelpRow))
def release_help(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """Others can take it again."""
    found = access.get_row(HelpRequest, request.user, lab, "help", pk=number)
    return selectors.help_row(attention.release_help(request=found, user=request.user, source=source_of(request)))


@router.post("/help/{number}/close", auth=STATIONS, response=or_problem(HelpRow))
def close_help(request: PersonRequest, lab: Path[str], number: int, body: OutcomeBody) -> dict[str, Any]:
    """Nothing more is to be done."""
    found = access.get_row(HelpRequest, request.user, lab, "help", pk=number)
    return selectors.help_row(
        attention.close_help(request=found, user=request.user, outcome=body.outcome, source=source_of(request))
    )


# Tasks: the rules as they are declared. The schema shows their bounds, and the action that checks them says what is
# wrong. A type checker knows nothing of what is made while the module is read: hence Any.
RULE_TYPES: dict[str, Any] = {
    rule.name: Annotated[Any, WithJsonSchema(rule.json_schema())] for rule in TASK_RULES.values()
}
RULE_FIELDS: dict[str, Any] = {name: (kind, TASK_RULES[name].default) for name, kind in RULE_TYPES.items()}
ROW_FIELDS: dict[str, Any] = {name: (kind, ...) for name, kind in RULE_TYPES.items()}
TaskLimits: Any = create_model(
    "TaskLimits",
    __base__=Schema,
    name=(str, ""),
    description=(str, ""),
    **RULE_FIELDS,
)
TaskRules: Any = create_model("TaskRules", __base__=Schema, **ROW_FIELDS)


class WordsBody(TaskLimits):
    wordings: list[str] = Field(
        default_factory=list, description="Of a task in words: such as “put the {object} into the {place}”."
    )
    held_out_wordings: list[str] = Field(default_factory=list, description="Kept from practice, to test unseen words.")
    slots: dict[str, list[str]] = Field(default_factory=dict, description="What may stand in each slot, by its name.")


class TaskBody(WordsBody):
    family: str = Field("", description="A built-in one; empty: the task is in words.")
    embodiment: str = Field("", description="Of a task in words: the name of the body that it is for.")


class TaskChanges(WordsBody):
    archived: bool | None = None


class TaskRow(TaskRules):
    slug: str
    name: str
    family: str = Field(description="As episodes and datasets name it; a task in words has one of its own.")
    embodiment: str
    wordings: list[str] = Field(description="Empty: of a built-in family.")
    held_out_wordings: list[str]
    slots: dict[str, list[str]]
    description: str
    archived_at: Moment | None


def task_row(task: Task) -> dict[str, Any]:
    return {
        "slug": task.slug,
        "name": task.name,
        "family": task.family,
        "embodiment": task.embodiment,
        **task.words.to_json(),
        "description": task.description,
        **{name: getattr(task, name) for name in TASK_RULES},
        "archived_at": task.archived_at.isoformat() if task.archived_at else None,
    }


@router.get("/tasks", auth=READ, response=or_problem(list[TaskRow]))
@paginate(Pages)
def list_tasks(request: PersonRequest, lab: Path[str], archived: bool = False) -> Rows:
    """By name; those that can be assigned, or those that no longer can."""
    return Rows(selectors.list_tasks(access.get_lab(request.user, lab), archived), task_row)


@router.post("/tasks", auth=LAUNCH, response=or_problem(TaskRow))
def create_task(request: PersonRequest, lab: Path[str], body: TaskBody) -> dict[str, Any]:
    found = access.get_lab(request.user, lab, "create_task")
    return task_row(labs.create_task(lab=found, user=request.user, **body.dict(), source=source_of(request)))


@router.patch("/tasks/{slug}", auth=LAUNCH, response=or_problem(TaskRow))
def edit_task(request: PersonRequest, lab: Path[str], slug: str, body: TaskChanges) -> dict[str, Any]:
    """What the body leaves out stays as it is. archived: true takes it out of use, false brings it back."""
    task = access.get_row(Task, request.user, lab, "edit_task", slug=slug)
    given = body.dict(exclude_unset=True)
    archived = given.pop("archived", None)
    if given:
        labs.edit_task(task=task, user=request.user, **given, source=source_of(request))
    if archived is not None and archived != bool(task.archived_at):
        change = labs.archive_task if archived else labs.restore_task
        change(task=task, user=request.user, source=source_of(request))
    task.refresh_from_db()
    return task_row(task)

"""What a station and the server say to each other: every message, a station's states, the codes of its reasons.

Stands on the link between both (robots/link.py, fleetui/live/stations.py), and is the only place where a message
becomes JSON or comes of it. A message has a type and fields. What is read: fields that nobody knows are passed over,
and so is a message of an unknown type, for the other end may be newer. What a field does not take is a MessageError
with a sentence, unless the field says what it counts as. What is written: fields in the order that they have here; an
optional one is left out where it says nothing.

    text = encode(Hold(version=3))               {"type": "hold", "version": 3}
    message = decode_text(text, TO_STATION)      Hold(version=3)

The reference in docs/architecture.md is made from these classes: `python -m robots protocol --into FILE`. A new field
is one line here, with a default, so that an end of before can be understood.
"""

import dataclasses
import hashlib
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeGuard

from robots import strict_json

# A station's states


@dataclass(frozen=True)
class State:
    """A state of a station, as its loop, the server and the pages know it."""

    name: str
    words: str
    meaning: str
    moved_by: str | None = None  # "policy" | "human"; in every other state nobody moves the body, and it holds still
    urgency: int = 0  # what a person has to look at first; 0: nothing to do. The wall sorts by it
    place: int = 0  # in the wall's counts, which say first what needs a person
    many: str = ""  # the words for several stations, where they differ
    unable: str = ""  # why nothing is practised there, as in "Arm 1 is paused"
    until_person: bool = False  # whether nothing is practised there until a person acts


# In the order in which the database knows them.
STATES: dict[str, State] = {
    state.name: state
    for state in (
        State("offline", "Offline", "no word from the server, or none to it", place=9, unable="is offline"),
        State("idle", "Idle", "nothing is assigned, or what is assigned can't be practised here", place=8),
        State("practising", "Practising", "the policy acts", moved_by="policy", place=3),
        State("evaluating", "Evaluating", "the policy acts, and its attempts count", moved_by="policy", place=4),
        State(
            "overridden",
            "Overridden",
            "a person took control and nobody handed back",
            moved_by="human",
            urgency=1,
            place=2,
            unable="is driven by a person",
            until_person=True,
        ),
        State(
            "needs_person",
            "Needs a person",
            "it can't go on until somebody has been there",
            urgency=3,
            place=0,
            many="need a person",
            unable="needs a person",
            until_person=True,
        ),
        State("paused", "Paused", "a person paused it; resume goes on", place=6, unable="is paused", until_person=True),
        State(
            "stopped",
            "Stopped",
            "a person stopped it; latched until a person clears it",
            urgency=2,
            place=1,
            unable="is stopped",
            until_person=True,
        ),
        State("waiting", "Waiting", "assigned; no policy has come yet, or it holds for the next one", place=5),
    )
}

# In which an episode of the loaded policy may still be under way.
IN_EPISODE = tuple(state.name for state in STATES.values() if state.moved_by == "policy")


class Code(StrEnum):
    """What a reason means, beside the sentence that says it to people. Programs compare codes, never sentences."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """A code is its text; what it means stands beside it."""
        code = str.__new__(cls, value)
        code._value_, code.meaning = value, meaning
        return code

    TABLE = "table", "needs_person: the world asks for a reset, in its own words"
    NOT_SHUFFLED = "not_shuffled", "needs_person: the objects were not mixed for long"
    RESET_FIRST = "reset_first", "needs_person: a reset is due before each attempt of the task"
    NO_INSTRUCTION = "no_instruction", "needs_person: no instruction can be given for what lies on the table"
    FAULT = "fault", "needs_person: the driver failed; nothing is expected of it until a reset succeeds"
    NO_ACTION = "no_action", "needs_person: the policy gave no usable action"
    LET_GO = "let_go", "overridden: the drives ended without a release"
    QUIET = "quiet", "overridden: no sign of life from the holder's browser"
    UNHELD = "unheld", "overridden: the holder is gone; it waits for a person to take over or hand back"
    SHARE_MADE = "share_made", "waiting: it has made its share of an evaluation's attempts, and wants nothing"


# What fields take


class MessageError(ValueError):
    """A message that is not what the protocol says; the text names the field."""

    type = ""  # of the message, where it has one


@dataclass(frozen=True)
class Kind:
    """What a field takes: in words for the reference, and how what came is read (None: nothing came)."""

    words: str
    read: Callable[[Any], Any]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> float | None:
    if value is None or _is_number(value):
        return value
    raise MessageError(f"must be a finite number or null, not {value!r}.")


def _needed_number(value: Any) -> float:
    if _is_number(value):
        return value
    raise MessageError(f"must be a finite number, not {value!r}.")


def _needed_whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MessageError(f"must be a whole number, not {value!r}.")
    return value


def _needed_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise MessageError(f"must be a text, not {value!r}.")
    return value


def _state(value: Any) -> str:
    if not isinstance(value, str) or value not in STATES:
        raise MessageError(f"is {value!r}; known are {', '.join(STATES)}.")
    return value


BINS_LIMIT = 1000


def _distribution(value: Any) -> list[float] | None:
    if value is None:
        return None
    numbers = isinstance(value, list) and len(value) <= BINS_LIMIT and all(isinstance(p, (int, float)) for p in value)
    if numbers and all(map(math.isfinite, value)):
        return list(value)
    raise MessageError(f"must be at most {BINS_LIMIT} finite numbers, or null.")


# A pretrained model's files, as they stand in an address: nothing that leads out of a folder, no hidden file.
MODEL_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
SHA256 = re.compile(r"[0-9a-f]{64}")
MODELS_LIMIT, FILES_LIMIT = 8, 500


def model_sum(files: Iterable[Mapping[str, Any]]) -> str:
    """What a pretrained model is called by: the sha256 of one line for each of its files, the file's own sha256, two
    spaces and its name, in the order of the names.
    """
    in_order = sorted(files, key=lambda each: str(each["name"]))
    lines = "".join(f"{each['sha256']}  {each['name']}\n" for each in in_order)
    return hashlib.sha256(lines.encode()).hexdigest()


def _models(value: Any) -> tuple[dict[str, Any], ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or len(value) > MODELS_LIMIT:
        raise MessageError(f"must be a list of at most {MODELS_LIMIT} models.")
    return tuple(_model(each) for each in value)


def _model(told: Any) -> dict[str, Any]:
    files = told.get("files") if isinstance(told, dict) else None
    if not isinstance(files, list) or not 0 < len(files) <= FILES_LIMIT:
        raise MessageError(f"must name the files of each model, at most {FILES_LIMIT}.")
    found = []
    for each in files:
        name, sha256, size = (each.get(key) if isinstance(each, dict) else None for key in ("name", "sha256", "size"))
        if not isinstance(name, str) or not MODEL_FILE.fullmatch(name):
            raise MessageError(f"must name files by plain names, not {name!r}.")
        if not isinstance(sha256, str) or not SHA256.fullmatch(sha256) or type(size) is not int or size < 0:
            raise MessageError(f"must give the sha256 and the size of {name}.")
        found.append({"name": name, "sha256": sha256, "size": size})
    if model_sum(found) != told.get("sha256"):
        raise MessageError("must call each model by the sum of its files.")
    return {"sha256": told["sha256"], "files": found}


SIGNALS_LIMIT = 20


def _signals(value: Any) -> dict[str, float]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > SIGNALS_LIMIT or not all(map(_is_number, value.values())):
        raise MessageError(f"must be at most {SIGNALS_LIMIT} finite numbers by name.")
    return value


ANY = Kind("judged where it is used", lambda value: value)
ID = Kind("text", str)
TEXT = Kind("text", lambda value: str(value or ""))
FLAG = Kind("true; all else is false", lambda value: value is True)
OBJECT = Kind("object; all else is {}", lambda value: value if isinstance(value, dict) else {})
NAMES = Kind(
    "list of texts; all else is none",
    lambda value: tuple(each for each in value if isinstance(each, str)) if isinstance(value, (list, tuple)) else (),
)
TASK = Kind("object or null", lambda value: value if isinstance(value, dict) else None)
NUMBER = Kind("number or null", _number)
MODELS = Kind("list of {sha256, files: [{name, sha256, size}]}", _models)
SAID_NUMBER = Kind("number; all else is null", lambda value: value if _is_number(value) else None)
SAID_WHOLE = Kind("whole number; all else is null", lambda value: value if type(value) is int else None)
NEEDED_NUMBER = Kind("number", _needed_number)
NEEDED_WHOLE = Kind("whole number", _needed_whole)
NEEDED_TEXT = Kind("text", _needed_text)
STATE = Kind("a state", _state)
MARKS_LIMIT = 16


def _marks(value: Any) -> list[list[float]]:
    if value is None:
        return []
    fits = isinstance(value, list) and len(value) <= MARKS_LIMIT
    if not fits or not all(isinstance(each, list) and len(each) == 2 and all(map(_is_number, each)) for each in value):
        raise MessageError(f"must be at most {MARKS_LIMIT} pairs of finite numbers.")
    return list(value)


MARKS = Kind(f"list of at most {MARKS_LIMIT} [x, y]", _marks)
SIGNALS = Kind(f"at most {SIGNALS_LIMIT} numbers by name", _signals)
DISTRIBUTION = Kind(f"at most {BINS_LIMIT} numbers, or null", _distribution)


def part(kind: Kind, meaning: str = "", *, default: Any = dataclasses.MISSING, optional: bool = False) -> Any:
    """A field of a message. Optional: left out on the wire where it has its default."""
    metadata = {"kind": kind, "meaning": meaning, "optional": optional}
    if default in (dict, list):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def local(default: Any) -> Any:
    """What an end notes of a message for itself; it never travels."""
    return dataclasses.field(default=default)


@dataclass(frozen=True, kw_only=True)
class Message:
    """What travels between a station and the server; each kind of message is a class of its own."""

    TYPE: ClassVar[str]  # "type" on the wire


# From a station to the server


@dataclass(frozen=True, kw_only=True)
class Hello(Message):
    """The first message of a connection, said once; answered by welcome."""

    TYPE = "hello"
    embodiment: Any = part(ANY, "Embodiment.to_json()", default=None)
    software: str = part(TEXT, "of the station's program", default="")
    renderer: str = part(TEXT, "how its pictures are made", default="")
    tasks: Any = part(ANY, "the names of the built-in task families that it knows", default=None)
    teleoperator: str = part(
        TEXT, "the name of the device there by which a person can drive it, if it has one", default="", optional=True
    )


@dataclass(frozen=True, kw_only=True)
class Telemetry(Message):
    """How the station is: on each control step, at most 10 a second; on each change of its state; once a second where
    nothing happens. Of two that wait to be sent only the newer goes.
    """

    TYPE = "telemetry"
    state: str = part(STATE)
    reason: str = part(TEXT, "of the state, a sentence for people", default="")
    code: str = part(
        TEXT, "a code of reasons, where it has one; a station of before says none", default="", optional=True
    )
    instruction: str = part(TEXT, "what is being tried", default="")
    step: float | None = part(NUMBER, "the one that d speaks of", default=None)
    limit: float | None = part(NUMBER, "the attempt's steps at most", default=None)
    d: float | None = part(NUMBER, "predicted steps to go", default=None)
    d_start: float | None = part(NUMBER, "d at the attempt's beginning", default=None)
    progress: float | None = part(NUMBER, "0 to 1, from d and d_start", default=None)
    p_success: float | None = part(
        NUMBER, 'what the policy\'s prediction puts on "done within the steps that are left"', default=None
    )
    distribution: list[float] | None = part(DISTRIBUTION, "the reward model's, over the steps to go", default=None)
    signals: dict[str, float] = part(
        SIGNALS, "what the policy says of itself, as its method names it", default=dict, optional=True
    )
    marks: list[list[float]] = part(
        MARKS, "keypoints of the attempt, in metres on the table", default=list, optional=True
    )
    marks_by: str = part(TEXT, "who set them: classifier or human", default="", optional=True)
    bin_width: float | None = part(NUMBER, "steps, of the distribution's bins", default=None)
    threshold: float | None = part(NUMBER, "s: d at or below it counts as success", default=None)
    policy: str = part(TEXT, "the id of the checkpoint that acts", default="")
    version: float | None = part(NUMBER, "the policy's", default=None)
    episode: Any = part(ANY, "counts the station's episodes", default=None)
    uuid: str = part(TEXT, "of the episode under way", default="")
    speed: float | None = part(NUMBER, "times real time; 0: as fast as it can", default=None)
    camera_error: str = part(TEXT, "why a camera shows no picture, and keeps none for the replay", default="")
    human: bool = part(FLAG, "whether a person moves the body", default=False)
    device: bool = part(FLAG, "whether that person does so by the station's own device", default=False, optional=True)
    stop: str = part(TEXT, "the id of the stop that latches the station", default="")
    sent_at: float | None = part(NUMBER, "unix time by the station's clock", default=None)
    unsent: float | None = part(NUMBER, "episodes that wait to be sent", default=None, optional=True)
    in_memory: float | None = part(NUMBER, "of them, in memory: its disk is full", default=None, optional=True)
    refused: float | None = part(NUMBER, "episodes that were set aside", default=None, optional=True)
    lost: float | None = part(NUMBER, "episodes that there was no room for", default=None, optional=True)


@dataclass(frozen=True, kw_only=True)
class PolicyLoaded(Message):
    """The station acts with this checkpoint from now on."""

    TYPE = "policy_loaded"
    checkpoint: str = part(ID)


@dataclass(frozen=True, kw_only=True)
class CommandDone(Message):
    """The answer to a command; a repeated one is answered again, and not executed again."""

    TYPE = "command_done"
    id: str = part(ID, "the command's")
    ok: bool = part(FLAG)
    error: str = part(TEXT, "why not, a sentence for people", default="")


@dataclass(frozen=True, kw_only=True)
class Touch(Message):
    """A simulated station did by itself what a person would have done: it counts as an intervention."""

    TYPE = "touch"
    kind: Any = part(ANY, '"self_reset"')
    reason: str = part(TEXT, "what it was needed for", default="")
    seconds: Any = part(ANY, "that it waited for a person first", default=0.0)


@dataclass(frozen=True, kw_only=True)
class StationHeartbeat(Message):
    """Each second, from the link's own thread, whatever the robot does. The server gives up a link that was silent for
    5 s.
    """

    TYPE = "heartbeat"


# From the server to a station


@dataclass(frozen=True, kw_only=True)
class Welcome(Message):
    """The answer to hello; the station's orders (assignment, policy, hold) follow it."""

    TYPE = "welcome"
    station: str = part(TEXT, "its slug", default="")
    name: str = part(TEXT, "its name", default="")
    server_time: float | None = part(SAID_NUMBER, "the server's steady clock, s: no wall clock moves it", default=None)
    settings: dict[str, Any] = part(
        OBJECT,
        "self_reset_after_s, shuffle_every_s, record_frames, speed; and what people ordered while it was away: "
        "paused, stop_latched, stop (the id of the newest on record), overridden (a person took control and nobody "
        "handed back)",
        default=dict,
    )
    epoch: int | None = part(SAID_WHOLE, "the newest lease's", default=None)


@dataclass(frozen=True, kw_only=True)
class Assignment(Message):
    """What to practise. The server's order and no person's command, so it is taken in every state; sent again when the
    task is edited.
    """

    TYPE = "assignment"
    purpose: str = part(TEXT, '"practice" | "evaluation"', default="practice")
    settings: dict[str, Any] = part(
        OBJECT, "those that hold now: self_reset_after_s, shuffle_every_s, record_frames", default=dict
    )
    assignment: Any = part(ANY, "its id; null: go idle at the episode's end", default=None)
    run: Any = part(
        ANY, "what the policies come for: the id of a run, or a text of its own for each evaluation", default=None
    )
    task: dict[str, Any] | None = part(
        TASK,
        "name, and the rules of robots/rules.py. A task in words has `words` too: {title, embodiment, wordings, "
        "held_out_wordings, slots: {slot: [value]}} (robots/wordings.py), and is drawn from these; where the family of "
        "its rule after_failure is in words, after_failure_words has those",
        default=None,
    )
    at_once: bool = part(FLAG, "the policy's attempt under way ends where it is", default=False, optional=True)
    attempts: int | None = part(
        SAID_WHOLE, "how many this station shall have made of an evaluation; null: no end", default=None, optional=True
    )
    made: int | None = part(
        SAID_WHOLE, "how many of them the server has stored from this station", default=None, optional=True
    )


@dataclass(frozen=True, kw_only=True)
class Policy(Message):
    """Load it at the next episode boundary, and answer policy_loaded."""

    TYPE = "policy"
    checkpoint: str = part(NEEDED_TEXT, "its id")
    version: int = part(NEEDED_WHOLE)
    url: str = part(NEEDED_TEXT, "an address of this server")
    sha256: str = part(NEEDED_TEXT, "of its file")
    reward_model: str = part(TEXT, 'the id of the reward model that judges it; "": nothing does', default="")
    reward_model_url: str = part(TEXT, default="")
    reward_model_sha256: str = part(TEXT, default="")
    threshold: float | None = part(NUMBER, "s: d at or below it is success; null: nothing is detected", default=None)
    consecutive: int = part(NEEDED_WHOLE, "frames in a row that have to say so", default=1)
    models: tuple[dict[str, Any], ...] = part(
        MODELS,
        "the pretrained models that the two stand on, each by the sum of its files; a station that lacks one fetches "
        "/api/station/models/SHA256/NAME for each of them, and keeps them",
        default=(),
        optional=True,
    )
    path: str = local("")  # where the link laid the two files
    reward_model_path: str = local("")


@dataclass(frozen=True, kw_only=True)
class Hold(Message):
    """Finish the episode under way, then wait for a newer policy."""

    TYPE = "hold"
    version: int | None = part(SAID_WHOLE, "newer than this one", default=None)
    # The answer to an upload speaks of the policies that acted in its episodes, and not of a version.
    policies: tuple[str, ...] | None = local(None)


@dataclass(frozen=True, kw_only=True)
class Command(Message):
    """What a person orders. A station refuses it, with a sentence, where it is too old or comes from who may not give
    it now.
    """

    TYPE = "command"
    id: str = part(ID)
    name: str = part(ID, "an act of robots/control.py")
    args: dict[str, Any] = part(
        OBJECT,
        "speed {value}, drive {axes: {NAME: -1 to 1}}, teleoperate {on: by the station's own device}, settings {...}, "
        "clear_stop {stop}, move_keypoint {number, x, y}",
        default=dict,
    )
    ttl_ms: Any = part(ANY, "it is refused when it is older; a stop never is", default=None)
    sent_at: float | None = part(
        SAID_NUMBER, "by the server's steady clock; else its age counts from arrival", default=None, optional=True
    )
    epoch: Any = part(ANY, "the newest lease's", default=None, optional=True)
    by: str = part(TEXT, "who gave it", default="")
    age_s: float = local(0.0)  # on arrival, by sent_at


@dataclass(frozen=True, kw_only=True)
class ControlHeartbeat(Message):
    """The browser that holds the station is there."""

    TYPE = "control_heartbeat"
    epoch: int | None = part(SAID_WHOLE, "of its lease", default=None)
    sent_at: float | None = part(SAID_NUMBER, "by the server's steady clock", default=None, optional=True)
    age_s: float = local(0.0)


@dataclass(frozen=True, kw_only=True)
class Lapse(Message):
    """The browser that held the station is gone, or may not command any more."""

    TYPE = "lapse"
    epoch: int | None = part(SAID_WHOLE, "of its lease", default=None)


@dataclass(frozen=True, kw_only=True)
class ServerHeartbeat(Message):
    """Each second. A station that missed a stop stops by it; it never clears one."""

    TYPE = "heartbeat"
    server_time: float | None = part(SAID_NUMBER, "the server's steady clock, s", default=None)
    stop: Any = part(ANY, 'the id of the stop that latches the station, "" if none', default="")


@dataclass(frozen=True, kw_only=True)
class Watch(Message):
    """How many pictures are wanted: few and small ones while nobody watches, for the rewind."""

    TYPE = "watch"
    fps: float = part(NEEDED_NUMBER, "of each camera; 0: none")
    width: float = part(NEEDED_NUMBER)
    height: float = part(NEEDED_NUMBER)
    cameras: tuple[str, ...] = part(
        NAMES, "the names of those that are watched; left out: the body's first", default=(), optional=True
    )


@dataclass(frozen=True, kw_only=True)
class Complaint(Message):
    """A message of the station made no sense. After 20 of them within 10 s the link is closed."""

    TYPE = "error"
    error: str = part(TEXT, "a sentence", default="")


@dataclass(frozen=True, kw_only=True)
class PolicyFailed(Message):
    """A link's word to its own station, never sent: the policy that the server named can't be had."""

    TYPE = "policy_failed"
    reason: str = local("")


Kinds = Mapping[str, type[Message]]
FROM_STATION: Kinds = {
    kind.TYPE: kind for kind in (Hello, Telemetry, PolicyLoaded, CommandDone, Touch, StationHeartbeat)
}
TO_STATION: Kinds = {
    kind.TYPE: kind
    for kind in (
        Welcome,
        Assignment,
        Policy,
        Hold,
        Command,
        ControlHeartbeat,
        Lapse,
        ServerHeartbeat,
        Watch,
        Complaint,
    )
}

# To and from JSON


# The fields of each kind of message that travel, and of these the names of those that have no default: where they don't
# come they are read as null. Filled as kinds are met, since a server has some of its own.
_PARTS: dict[type[Message], tuple[dataclasses.Field[Any], ...]] = {}
_NEEDED: dict[type[Message], frozenset[str]] = {}


def _parts(kind: type[Message]) -> tuple[dataclasses.Field[Any], ...]:
    if kind not in _PARTS:
        _PARTS[kind] = tuple(each for each in dataclasses.fields(kind) if each.metadata)
    return _PARTS[kind]


def _needed(kind: type[Message]) -> frozenset[str]:
    if kind not in _NEEDED:
        missing = dataclasses.MISSING
        _NEEDED[kind] = frozenset(
            each.name for each in _parts(kind) if each.default is missing and each.default_factory is missing
        )
    return _NEEDED[kind]


def to_json(message: Message) -> dict[str, Any]:
    """The message as it travels; what is optional and has its default is left out."""
    told: dict[str, Any] = {"type": message.TYPE}
    for each in _parts(type(message)):
        value = getattr(message, each.name)
        usual = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        if not (each.metadata["optional"] and value == usual):
            told[each.name] = value
    return told


def encode(message: Message) -> str:
    """The message's text on the wire."""
    return strict_json.dumps(to_json(message))


def decode(told: Any, kinds: Kinds) -> Message | None:
    """The message in what JSON said; None where its type is none that is known here. MessageError where it is wrong."""
    if not isinstance(told, dict):
        raise MessageError("A message is an object.")
    name = told.get("type")
    if not isinstance(name, str):
        raise MessageError("type must be the kind of the message, a text.")
    kind = kinds.get(name)
    if kind is None:
        return None
    values = {}
    for each in _parts(kind):
        if each.name in told or each.name in _needed(kind):
            try:
                values[each.name] = each.metadata["kind"].read(told.get(each.name))
            except MessageError as error:
                wrong = MessageError(f"{each.name} {error}")
                wrong.type = name
                raise wrong from None
    return kind(**values)


def decode_text(text: str | bytes, kinds: Kinds) -> Message | None:
    """As a station reads its server, which it trusts to send no number that is none."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"It is not JSON ({error}).") from None
    return decode(told, kinds)


# The reference in docs/architecture.md

BEGIN, END = "<!-- made by python -m robots protocol: begin -->", "<!-- made by python -m robots protocol: end -->"


def reference() -> str:
    """Every message, state and code, in Markdown."""
    lines = ["#### States of a station", ""]
    lines += [_item(f"`{state.name}`", state.meaning) for state in STATES.values()]
    lines += ["", "#### Codes of reasons", ""]
    lines += [_item(f"`{code}`", code.meaning) for code in Code]
    for title, kinds in (("From a station to the server", FROM_STATION), ("From the server to a station", TO_STATION)):
        lines += ["", f"#### {title}"]
        for name, kind in kinds.items():
            lines += ["", _wrapped(f"**`{name}`**: {' '.join((kind.__doc__ or '').split())}"), ""]
            lines += [_item(f"`{each.name}`{'?' * each.metadata['optional']}", *_said(each)) for each in _parts(kind)]
            if not _parts(kind):
                lines.pop()
    return "\n".join(lines) + "\n"


def _said(each: dataclasses.Field[Any]) -> tuple[str, ...]:
    return tuple(filter(None, (f"({each.metadata['kind'].words})", each.metadata["meaning"])))


def _item(name: str, *words: str) -> str:
    head, rest = (f"- {name} {words[0]}", words[1:]) if words[0].startswith("(") else (f"- {name}", words)
    return _wrapped(": ".join((head, *rest)), "  ")


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def with_reference(text: str) -> str:
    """The document with the reference between its two marks as it is now."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The document needs the two lines {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"

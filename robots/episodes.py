"""The one trajectory format: what demonstrators write, stations upload, datasets and replays read.

A file of episodes is one safetensors file: the arrays of all its episodes concatenated, with offsets, and the remaining
fields as a JSON list in the metadata. Reading validates everything, since files come over the network: a bad one is
refused with the episode's id and the field.
"""

import itertools
import json
import mmap
import struct
import uuid as uuids
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from robots import strict_json
from robots.atomic_files import write_atomically
from robots.embodiments import (
    EMBODIMENTS,
    ENVIRONMENT_STATE,
    IMAGES,
    LONGEST_NAME,
    MOST_CAMERAS,
    STATE,
    Embodiment,
    Feature,
    Observation,
    differences,
)

ACTORS = ("policy", "human", "script")  # the index is the value in Episode.actors
# true_success ends only scripted demonstrations: practice and evaluation end by the detector, never by the simulator.
ENDINGS = (
    "detected_success",
    "true_success",
    "time_limit",
    "stall",  # d made no new low for as long as the task allows
    "regression",  # d rose farther above its lowest than the task allows
    "low_success_probability",  # success before the time limit was less likely than the task allows
    "operator",
    "override",
    "stop",
    "needs_reset",
    "fault",
)
RENAMED_ENDINGS = {"hopeless": "low_success_probability"}  # in files of before
CONFIRMED_FRAMES = 3  # in a row that have to say the same before an attempt is given up
FAILURES = ("time_limit", "stall", "regression", "low_success_probability", "needs_reset")  # an attempt ends by itself
PURPOSES = ("demonstration", "practice", "evaluation", "correction")
LABEL_SOURCES = ("human", "sensor", "classifier")
MOST_LABELS, MOST_LABEL_NUMBERS = 20, 100
FORMAT = "fleetui-episodes-2"
FORMATS = ("fleetui-episodes-1", FORMAT)  # of the first, what is observed is one array, and there is one camera

# Beside an episode's frames, which lie in a folder for each camera, by number: [{"name", "missing": why it has none}]
CAMERAS_FILE = "cameras.json"

LONGEST_TEXT = 300  # characters, of each text field
FPS = (0.1, 1000.0)
LONGEST_ATTEMPT = 10_000  # steps of a policy: the longest time limit that a task may have
LONGEST_EPISODE = 100_000  # steps of anybody
LARGEST_WEIGHT = 100.0
LARGEST_FIELD = 1e300  # an integer of JSON may be larger than any float
LARGEST_NUMBER = 1e9  # of any body: float32 holds its square, and sums of many of them
# Beyond what a body declares: a clipped float32 may lie a little above its limit, a camera sees a thing a little beside
# the table. What is in millimetres, or in degrees, lies far outside.
ACTION_TOLERANCE, OBSERVATION_TOLERANCE, RATE_TOLERANCE = 1.05, 2.0, 1.1
# A header of 1,500 episodes fits. A file of our own making may hold more, as generated datasets do.
LARGEST_SENT_HEADER, LARGEST_HEADER = 10**6, 10**8  # bytes; the latter is what safetensors allows
LARGEST_UPLOAD = 64 * 2**20  # bytes, of a file that is sent
# Bytes of pictures that an episode may hold when it is sent, those of its observations and its frames together: the
# rest of an upload is for its numbers. A station keeps no more frames than half of it.
MOST_PICTURE_BYTES = 56 * 2**20
MOST_FRAME_BYTES = MOST_PICTURE_BYTES // 2


class EpisodeError(ValueError):
    """An episode or a file of episodes that cannot be used; the message names the episode and the field."""


class FieldError(EpisodeError):
    """The file is whole, a field of an episode in it is wrong: sending it again would not help."""


@dataclass
class Episode:
    """One attempt from its first observation to its end, with all that is recorded of it."""

    uuid: str
    embodiment: str
    task: str  # the task family's name
    instruction: str
    observations: Observation  # [T+1, ...] of each feature by key: float32 vectors, uint8 pictures [T+1, H, W, 3]
    actions: np.ndarray  # float32 [T, A], in the units of the embodiment's action space
    actors: np.ndarray  # uint8 [T], indices into ACTORS
    steps_to_go: np.ndarray  # float32 [T+1], d(o, g) as the station computed it; NaN where no reward model ran
    ending: str
    detected_success: bool
    true_success: bool | None  # from the simulator or a human; never read by training
    purpose: str
    policy: str = ""
    reward_model: str = ""
    threshold: float | None = None
    seed: int | None = None
    started_at: float = 0.0
    fps: float = 5.0
    interventions: int = 0
    weight: float = 1.0  # as so many episodes it counts in learning
    # What is known of the attempt and by whom, by name, as label() makes them: what methods learn from in place of
    # true success.
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    frames: dict[str, list[bytes]] = field(default_factory=dict)  # JPEGs [T+1] by camera, where a station kept them
    body: Embodiment | None = None  # as it described itself when this was recorded; None: the built-in one of its name
    # uint8 [T], 1 where the fence turned the policy's action aside; None: nowhere, and zeros are put here at once
    fenced: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.body is None:
            self.body = EMBODIMENTS.get(str(self.embodiment))
        if self.fenced is None:
            self.fenced = np.zeros(len(self.actions), np.uint8)

    @property
    def steps(self) -> int:
        """T: how often somebody acted."""
        return len(self.actions)

    def validate(self) -> None:
        """Raise EpisodeError at the first field that is wrong."""
        refuse = self._refuse
        try:
            uuids.UUID(self.uuid)
        except (ValueError, AttributeError, TypeError):
            refuse("uuid", "must be a UUID.")
        for name in ("embodiment", "task", "instruction", "policy", "reward_model"):
            value = getattr(self, name)
            if not isinstance(value, str):
                refuse(name, "must be text.")
            if len(value) > LONGEST_TEXT:
                refuse(name, f"has {len(value)} characters; at most {LONGEST_TEXT} are kept, so shorten it.")
            if fault := strict_json.text_fault(value):
                refuse(name, f"{fault}.")
            if name in ("embodiment", "task", "instruction") and not value.strip():
                refuse(name, "is empty; it must be text.")
        for name, known in (("ending", ENDINGS), ("purpose", PURPOSES)):
            if getattr(self, name) not in known:
                refuse(name, f"{ascii(getattr(self, name))[:60]} is unknown; known are {', '.join(known)}.")
        if not isinstance(self.detected_success, bool):
            refuse("detected_success", "must be true or false.")
        if not (self.true_success is None or isinstance(self.true_success, bool)):
            refuse("true_success", "must be true, false or null.")
        for name, optional in (("threshold", True), ("started_at", False), ("fps", False)):
            value = getattr(self, name)
            if not (optional and value is None) and not (_is_number(value) and abs(value) <= LARGEST_FIELD):
                refuse(name, "must be a finite number.")
        low, high = FPS
        if not low <= self.fps <= high:
            refuse("fps", f"is {self.fps:g}; a body is controlled {low:g} to {high:g} times a second.")
        if self.seed is not None and not (_is_integer(self.seed) and abs(self.seed) < 2**63):
            refuse("seed", "must be a whole number of 64 bits or null.")
        if not (_is_number(self.weight) and 0 < self.weight <= LARGEST_WEIGHT):
            refuse("weight", f"must be a number above 0 and at most {LARGEST_WEIGHT}.")
        if not _is_integer(self.interventions) or not 0 <= self.interventions <= LONGEST_EPISODE:
            refuse("interventions", f"must be a whole number, 0 or more and at most {LONGEST_EPISODE}.")
        self._validate_labels(refuse)
        self._validate_arrays(refuse)
        if self.ending == "true_success" and self.purpose != "demonstration":
            refuse("ending", "true_success may end demonstrations only, never practice or evaluation.")
        if self.purpose == "demonstration" and (self.actors == ACTORS.index("policy")).any():
            refuse("actors", "a demonstration is acted wholly by a human or a script, but some steps are a policy's.")

    def check_against(self, body: Embodiment) -> None:
        """Raise EpisodeError where this can't have happened to the body as it describes itself: what is sent from
        elsewhere must pass this too. What is stored already is read without it.
        """
        refuse = self._refuse
        self.check_shapes(body)
        if not 1 / RATE_TOLERANCE <= self.fps / body.fps <= RATE_TOLERANCE:
            refuse("fps", f"is {self.fps:g}, but {body.name} acts at {body.fps:g} Hz; resample it.")
        if self.purpose in ("practice", "evaluation") and self.steps > LONGEST_ATTEMPT:
            refuse("actions", f"has {self.steps} steps; no task lets an attempt have more than {LONGEST_ATTEMPT}.")
        self._refuse_beyond("actions", self.actions, body.action, ACTION_TOLERANCE)
        for key, feature in body.observation.items():
            self._refuse_beyond(key, self.observations[key], feature, OBSERVATION_TOLERANCE)

    def check_shapes(self, body: Embodiment) -> None:
        """Raise EpisodeError where its arrays are not those of the body."""
        refuse = self._refuse
        if self.embodiment != body.name:
            refuse("embodiment", f"is {self.embodiment}, but {body.name} was expected.")
        if set(body.observation) != set(self.observations):
            held = _shown(", ".join(sorted(self.observations)))
            refuse("observations", f"hold {held}, but {body.name} observes {', '.join(sorted(body.observation))}.")
        for key, feature in body.observation.items():
            array = self.observations[key]
            if array.shape[1:] != feature.shape:
                refuse(key, f"each has the shape {list(array.shape[1:])}, but {body.name} has {list(feature.shape)}.")
            if array.dtype != feature.dtype:
                refuse(key, f"is {array.dtype}, but {body.name} has {feature.dtype}.")
        if self.actions.shape[1] != body.action_size:
            refuse("actions", f"each has {self.actions.shape[1]} numbers, but {body.name} has {body.action_size}.")

    def _refuse_beyond(self, where: str, array: np.ndarray, feature: Feature, tolerance: float) -> None:
        """Numbers that lie farther outside what the body declares than `tolerance` times half its range."""
        if not feature.low:
            return
        low, high = np.array(feature.low, np.float32), np.array(feature.high, np.float32)
        middle, reach = (low + high) / 2, np.float32(tolerance) * (high - low) / 2
        beyond = np.abs(array - middle) > reach
        if beyond.any():
            step, column = np.unravel_index(beyond.argmax(), beyond.shape)
            self._refuse(
                where,
                f"{feature.names[column]} is {array[step, column]:g} at step {step}, but {self.embodiment} goes from "
                f"{feature.low[column]:g} to {feature.high[column]:g}; are the units right?",
            )

    def _refuse(self, name: str, sentence: str) -> NoReturn:
        raise FieldError(f"Episode {_shown(self.uuid)}, field {name}: {sentence}")

    def _validate_arrays(self, refuse: Callable[[str, str], NoReturn]) -> None:
        for name, dimensions, kind in (
            ("actions", 2, np.float32),
            ("actors", 1, np.uint8),
            ("steps_to_go", 1, np.float32),
            ("fenced", 1, np.uint8),
        ):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.ndim != dimensions or array.dtype != kind:
                refuse(name, f"must be an array of {dimensions} dimension(s) of {np.dtype(kind).name}.")
        steps = len(self.actions)
        if steps == 0:
            refuse("actions", "the episode has no step.")
        if steps > LONGEST_EPISODE:
            refuse("actions", f"has {steps} steps, more than {LONGEST_EPISODE}; cut it into several episodes.")
        self._validate_observations(refuse)
        for name, wanted in {"actors": steps, "steps_to_go": steps + 1, "fenced": steps}.items():
            if len(getattr(self, name)) != wanted:
                refuse(name, f"has {len(getattr(self, name))} rows, but {steps} actions need {wanted}.")
        _refuse_unusable("actions", self.actions, refuse)
        if (np.abs(self.steps_to_go) > LARGEST_NUMBER).any():
            refuse("steps_to_go", "is infinite or above 1e9 somewhere; write NaN where no reward model ran.")
        if (self.fenced > 1).any():
            refuse("fenced", "must be 0, or 1 where the fence turned the action aside.")
        if (self.actors >= len(ACTORS)).any():
            refuse("actors", f"must be below {len(ACTORS)} ({', '.join(ACTORS)}).")
        if len(self.frames) > MOST_CAMERAS:
            refuse("frames", f"are of {len(self.frames)} cameras; at most {MOST_CAMERAS} are kept.")
        for camera, frames in self.frames.items():
            if not 0 < len(camera) <= LONGEST_NAME:
                refuse("frames", f"a camera's name has 1 to {LONGEST_NAME} characters.")
            if len(frames) != steps + 1:
                refuse("frames", f"there are {len(frames)} of {_shown(camera)}, but {steps} actions need {steps + 1}.")
            if not all(frame.startswith(b"\xff\xd8") for frame in frames):
                refuse("frames", f"each of {_shown(camera)} must be a JPEG.")

    def _validate_labels(self, refuse: Callable[[str, str], NoReturn]) -> None:
        if not isinstance(self.labels, dict) or len(self.labels) > MOST_LABELS:
            refuse("labels", f"must be at most {MOST_LABELS} labels by name.")
        for name, told in self.labels.items():
            if not 0 < len(name) <= LONGEST_NAME or strict_json.text_fault(name):
                refuse("labels", f"a label's name has 1 to {LONGEST_NAME} plain characters.")
            if not isinstance(told, dict) or set(told) != {"value", "step", "source"}:
                refuse("labels", f"{_shown(name)} must have a value, a step and a source.")
            if told["source"] not in LABEL_SOURCES:
                refuse("labels", f"the source of {_shown(name)} must be one of {', '.join(LABEL_SOURCES)}.")
            step = told["step"]
            if step is not None and not (_is_integer(step) and 0 <= step <= LONGEST_EPISODE):
                refuse("labels", f"the step of {_shown(name)} must be null or a whole number, 0 or more.")
            if not _is_label(told["value"]):
                refuse(
                    "labels",
                    f"the value of {_shown(name)} must be a number, or at most {MOST_LABEL_NUMBERS} rows of at most 3.",
                )

    def _validate_observations(self, refuse: Callable[[str, str], NoReturn]) -> None:
        steps = len(self.actions)
        if not isinstance(self.observations, dict) or not self.observations:
            refuse("observations", f"must be arrays by key, such as {STATE}.")
        for key, array in self.observations.items():
            picture = key.startswith(IMAGES)
            if not picture and key not in (STATE, ENVIRONMENT_STATE):
                refuse(_shown(key), f"is no feature; there are {STATE}, {ENVIRONMENT_STATE} and {IMAGES}CAMERA.")
            dimensions, kind = (4, np.uint8) if picture else (2, np.float32)
            if not isinstance(array, np.ndarray) or array.ndim != dimensions or array.dtype != kind:
                refuse(_shown(key), f"must be an array of {dimensions} dimension(s) of {np.dtype(kind).name}.")
            if picture and array.shape[3] != 3:
                refuse(_shown(key), f"must be pictures of 3 colours, not of {array.shape[3]}.")
            if len(array) != steps + 1:
                refuse(_shown(key), f"has {len(array)} rows, but {steps} actions need {steps + 1}.")
            if not picture:
                _refuse_unusable(key, array, refuse)


def _refuse_unusable(name: str, array: np.ndarray, refuse: Callable[[str, str], NoReturn]) -> None:
    bad = ~(np.abs(array) <= LARGEST_NUMBER).all(axis=1)
    if bad.any():
        step = int(bad.argmax())
        fault = "a number above 1e9" if np.isfinite(array[step]).all() else "NaN or infinity"
        refuse(name, f"{fault} at step {step}.")


def most_steps(body: Embodiment) -> int:
    """How long an episode of this body may be, so that it can be sent with its pictures."""
    size = sum(feature.size for feature in body.pictures.values())  # bytes of each observation
    filmed = any(view.name not in body.pictures for view in body.views)
    room = MOST_PICTURE_BYTES - (MOST_FRAME_BYTES if filmed else 0)
    return max(1, min(LONGEST_EPISODE, room // size - 1)) if size else LONGEST_EPISODE


def refuse_long(body: Embodiment, steps: int) -> None:
    """EpisodeError where an attempt of so many steps could not be sent with the pictures of its observations."""
    if steps > (most := most_steps(body)):
        raise EpisodeError(
            f"an attempt of {steps} steps holds more pictures than can be sent: those that the policy of {body.name} "
            f"sees by are too large for more than {most} steps; lower the time limit, or make the pictures smaller"
        )


def stacked(observations: Sequence[Observation]) -> Observation:
    """What was seen one after the other, as one array of each feature."""
    return {key: np.array([each[key] for each in observations]) for key in observations[0]}


def rows_of(observations: Observation, rows: slice | int | np.ndarray) -> Observation:
    """Some rows of each feature, or one."""
    return {key: array[rows] for key, array in observations.items()}


def _shown(value: object) -> str:
    """For a message: short, and plain characters only, whatever was sent."""
    text = value if isinstance(value, str) else repr(value)
    return text if text.isascii() and text.isprintable() and len(text) <= 60 else ascii(text)[:60]


def label(value: float | Sequence[Sequence[float]], source: str, step: int | None = None) -> dict[str, Any]:
    """One of an episode's labels: a number, or rows of at most 3 numbers, who said so, and after how many steps."""
    return {"value": value, "step": step, "source": source}


def _is_label(value: object) -> bool:
    def fits(number: object) -> bool:
        return _is_number(number) and abs(number) <= LARGEST_NUMBER

    if isinstance(value, list):
        rows = len(value) <= MOST_LABEL_NUMBERS
        return rows and all(isinstance(row, list) and len(row) <= 3 and all(map(fits, row)) for row in value)
    return fits(value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


# Rows an episode has beyond its T steps, of each array; each feature of its observations has one as well.
_ARRAYS = {"actions": 0, "actors": 0, "steps_to_go": 1, "fenced": 0}
_FRAMES, _SIZES = "frames.", "frame_sizes."  # and the camera's name
_FIELDS = (
    "uuid",
    "embodiment",
    "task",
    "instruction",
    "ending",
    "detected_success",
    "true_success",
    "purpose",
    "policy",
    "reward_model",
    "threshold",
    "seed",
    "started_at",
    "fps",
    "interventions",
)
_OPTIONAL: dict[str, Any] = {"weight": 1.0, "labels": {}}  # fields that stand in a file only where they say something
RENAMED_FIELDS = {"control_hz": "fps"}


def episodes_to_bytes(episodes: Sequence[Episode]) -> bytes:
    """A whole file of episodes; EpisodeError where one is wrong."""
    if not episodes:
        raise EpisodeError("A file of episodes needs at least one episode.")
    first = episodes[0]
    for episode in episodes:
        episode.validate()
        if episode.embodiment != first.embodiment:
            raise FieldError(
                f"Episode {episode.uuid}, field embodiment: one file holds one embodiment, and this file holds "
                f"{first.embodiment}; write {episode.embodiment} to another file."
            )
        if _shapes(episode) != _shapes(first) or _other(episode.body, first.body):
            raise FieldError(
                f"Episode {episode.uuid}, field observations: they are of another body than those of the first episode "
                "of the file; write it to another file."
            )
    return unchecked_bytes(episodes)


def _other(body: Embodiment | None, first: Embodiment | None) -> bool:
    return body is not first and (body is None or first is None or bool(differences(body, first)))


def _shapes(episode: Episode) -> dict[str, tuple[int, ...]]:
    return {key: array.shape[1:] for key, array in episode.observations.items()} | {
        "actions": episode.actions.shape[1:]
    }


def unchecked_bytes(episodes: Sequence[Episode]) -> bytes:
    """For what is wrong and must not be lost for that."""
    parts = [{**episode.observations, **{name: getattr(episode, name) for name in _ARRAYS}} for episode in episodes]
    arrays = {name: np.ascontiguousarray(np.concatenate([each[name] for each in parts])) for name in parts[0]}
    arrays["offsets"] = np.cumsum([0] + [episode.steps for episode in episodes]).astype(np.int64)
    for camera in sorted({camera for episode in episodes for camera in episode.frames}):
        # One that repeats the one before it takes no room: its size is 0.
        frames = [
            b"" if frame == before else frame
            for episode in episodes
            for before, frame in itertools.pairwise([b"", *(episode.frames.get(camera) or [b""] * (episode.steps + 1))])
        ]
        arrays[_SIZES + camera] = np.array([len(frame) for frame in frames], dtype=np.int64)
        arrays[_FRAMES + camera] = np.frombuffer(b"".join(frames), dtype=np.uint8)
    fields = [
        {name: getattr(episode, name) for name in _FIELDS}
        | {name: getattr(episode, name) for name, usual in _OPTIONAL.items() if getattr(episode, name) != usual}
        for episode in episodes
    ]
    metadata = {"format": FORMAT, "episodes": json.dumps(fields, allow_nan=False)}
    if body := episodes[0].body:
        metadata["body"] = json.dumps(body.to_json(), allow_nan=False)
    return save(arrays, metadata=metadata)


def write_episodes(path: str | Path, episodes: Sequence[Episode]) -> None:
    """A whole file or none: a reader never sees half of one, even after a crash."""
    write_atomically(Path(path), episodes_to_bytes(episodes))


def read_episodes(source: str | Path | bytes, frames: bool = True, pictures_stay: bool = False) -> list[Episode]:
    """Of bytes, which come from elsewhere, the header is bounded tightly before it is parsed. Without frames those of a
    file are not even read: they may be most of it, and who learns from episodes has no use for them. Pictures of
    observations that stay in the file are mapped from it (np.memmap): they take memory only where they are looked at.
    """
    if isinstance(source, bytes):
        fields, body, header, start = _read_header(source, LARGEST_SENT_HEADER)
        _refuse_truncated(len(source), fields, header, start)
        _refuse_too_many_pictures(source, fields, header, start)
    else:
        if not Path(source).stat().st_size:  # which can't be mapped
            return read_episodes(b"")
        with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            fields, body, header, start = _read_header(data, LARGEST_HEADER)
            _refuse_truncated(len(data), fields, header, start)
    try:
        if isinstance(source, bytes):
            arrays = load(source)
        else:
            with safe_open(source, framework="numpy") as tensors:
                wanted = [key for key in header if frames or not key.startswith("frame")]
                stay = [key for key in wanted if pictures_stay and key.startswith(IMAGES)]
                arrays = {key: tensors.get_tensor(key) for key in wanted if key not in stay}
            if stay:
                arrays |= _mapped(source, stay, header, start)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:  # the latter: a dtype unknown
        raise EpisodeError(f"The file is not a file of episodes: {_shown(str(error))}.") from None
    _bring_up_to_date(arrays, body or EMBODIMENTS.get(str(fields[0]["embodiment"])))
    extra = _ARRAYS | dict.fromkeys((key for key in arrays if key.startswith("observation.")), 1)
    steps = _steps_of_each(arrays, fields, extra)
    taken = dict.fromkeys(extra, 0)
    ends = {
        camera: np.concatenate([[0], np.cumsum(arrays[_SIZES + camera])])
        for camera in (key.removeprefix(_FRAMES) for key in arrays if key.startswith(_FRAMES) and frames)
    }
    episodes = []
    for entry, count in zip(fields, steps, strict=True):
        parts: dict[str, Any] = {}
        seen = slice(taken["steps_to_go"], taken["steps_to_go"] + count + 2)
        for name, more in extra.items():
            part = arrays[name][taken[name] : taken[name] + count + more]
            parts[name] = part if isinstance(part, np.memmap) else part.copy()
            taken[name] += count + more
        pictures = {}
        for camera, cuts in ends.items():
            cut = cuts[seen]
            if cut[-1] > cut[0]:
                pictures[camera] = _unrepeated(arrays[_FRAMES + camera], cut)
        observations = {name: parts.pop(name) for name in extra if name not in _ARRAYS}
        episode = Episode(**entry, **parts, observations=observations, frames=pictures, body=body)
        episode.validate()
        for name in ("uuid", "policy", "reward_model"):  # one spelling of each id, so that equals are seen to be equal
            setattr(episode, name, _one_spelling(getattr(episode, name)))
        episodes.append(episode)
    return episodes


def _mapped(path: str | Path, keys: Sequence[str], header: dict[str, Any], start: int) -> dict[str, np.ndarray]:
    """Arrays of bytes that stay in their file."""
    whole, found = np.memmap(path, np.uint8, "r"), {}
    for key in keys:
        if header[key]["dtype"] != "U8":
            raise FieldError(f"The file's field {_shown(key)} holds no pictures: they are bytes.")
        begin, end = header[key]["data_offsets"]
        found[key] = whole[start + begin : start + end].reshape(header[key]["shape"])
    return found


class EpisodeFile:
    """A file of episodes, read one by one: it may be larger than memory. Many may read it at once."""

    def __init__(self, path: Path):
        self.path = path
        if not path.stat().st_size:  # which can't be mapped
            raise EpisodeError("The file is empty.")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self.fields, self.body, header, start = _read_header(data, LARGEST_HEADER)
            _refuse_truncated(len(data), self.fields, header, start)
        # A file of before has its arrays in another order: it is small, and read at once.
        self._old = read_episodes(path) if {"observations", "frames"} & header.keys() or "fenced" not in header else []
        self._keys = [key for key in header if not key.startswith((_FRAMES, _SIZES)) and key != "offsets"]
        self.cameras = [key.removeprefix(_FRAMES) for key in header if key.startswith(_FRAMES)]
        with safe_open(path, framework="numpy") as tensors:
            self._offsets = tensors.get_tensor("offsets")
            self._cuts = {
                camera: np.concatenate([[0], np.cumsum(tensors.get_tensor(_SIZES + camera))]) for camera in self.cameras
            }

    def __len__(self) -> int:
        return len(self.fields)

    def episode(self, number: int, frames: bool = True) -> Episode:
        """One of them, checked; without frames those are not read."""
        if self._old:
            return self._old[number]
        begin, end = int(self._offsets[number]), int(self._offsets[number + 1])
        parts: dict[str, Any] = {}
        pictures = {}
        with safe_open(self.path, framework="numpy") as tensors:
            for key in self._keys:
                more = _ARRAYS.get(key, 1)
                parts[key] = tensors.get_slice(key)[begin + more * number : end + more * (number + 1)]
            for camera in self.cameras if frames else ():
                cut = self._cuts[camera][begin + number : end + number + 2]
                if cut[-1] > cut[0]:
                    held = tensors.get_slice(_FRAMES + camera)[int(cut[0]) : int(cut[-1])]
                    pictures[camera] = _unrepeated(held, cut - cut[0])
        observations = {key: parts.pop(key) for key in [*parts] if key not in _ARRAYS}
        episode = Episode(**self.fields[number], **parts, observations=observations, frames=pictures, body=self.body)
        episode.validate()
        for name in ("uuid", "policy", "reward_model"):
            setattr(episode, name, _one_spelling(getattr(episode, name)))
        return episode


def cut(episode: Episode, start: int, stop: int) -> Episode:
    """Its steps from start to stop, with the observation after the last of them. Nothing is said of how it ended: that
    is for who cuts.
    """
    if (start, stop) == (0, episode.steps):
        return episode
    if not 0 <= start < stop <= episode.steps:
        raise EpisodeError(f"Episode {episode.uuid} has {episode.steps} steps; it can't be cut to {start} to {stop}.")
    seen = slice(start, stop + 1)
    return replace(
        episode,
        observations=rows_of(episode.observations, seen),
        actions=episode.actions[start:stop],
        actors=episode.actors[start:stop],
        fenced=episode.fenced[start:stop],
        steps_to_go=episode.steps_to_go[seen],
        frames={camera: frames[seen] for camera, frames in episode.frames.items()},
        started_at=episode.started_at + start / episode.fps if episode.started_at else episode.started_at,
    )


def _unrepeated(frames: np.ndarray, cuts: np.ndarray) -> list[bytes]:
    """The JPEGs that lie between these cuts; where nothing does, the one of before again."""
    found = [b""]
    for a, b in itertools.pairwise(cuts):
        found.append(frames[a:b].tobytes() if b > a else found[-1])
    return found[1:]


def _bring_up_to_date(arrays: dict[str, np.ndarray], body: Embodiment | None) -> None:
    """A file of before: there was no fence, or what is observed was one array, and there was one camera."""
    if "fenced" not in arrays and "actors" in arrays:
        arrays["fenced"] = np.zeros(arrays["actors"].shape, np.uint8)
    if (together := arrays.pop("observations", None)) is not None:
        arrays |= _by_feature(together, body)
    camera = body.cameras[0].name if body and body.cameras else "front"
    for name, of_camera in (("frames", _FRAMES), ("frame_sizes", _SIZES)):
        if name in arrays:
            arrays[of_camera + camera] = arrays.pop(name)


def _by_feature(together: np.ndarray, body: Embodiment | None) -> dict[str, np.ndarray]:
    """One array of everything that was observed [N, D], as an array for each feature of the body."""
    if body is None or together.ndim != 2:
        return {STATE: together}
    for camera, feature in body.pictures.items():
        if together.dtype == np.uint8 and together.shape[1] == feature.size:
            return {IMAGES + camera: together.reshape(-1, *feature.shape)}
    sizes = {key: feature.size for key, feature in body.observation.items() if not feature.is_picture}
    if sum(sizes.values()) != together.shape[1]:
        return {STATE: together}  # what is wrong with it is said where it is checked against the body
    return dict(zip(sizes, np.split(together, np.cumsum([*sizes.values()])[:-1], axis=1), strict=True))


def _one_spelling(text: str) -> str:
    try:
        return str(uuids.UUID(text))
    except ValueError:
        return text


def _read_header(
    data: bytes | mmap.mmap, most: int
) -> tuple[list[dict[str, Any]], Embodiment | None, dict[str, Any], int]:
    """(fields of each episode, their body, tensor descriptions, where the tensors' bytes begin)"""
    broken = "The file is not a file of episodes, or its header is broken; send it again."
    try:
        (size,) = struct.unpack_from("<Q", data)
    except struct.error:
        raise EpisodeError(broken) from None
    if size > LARGEST_HEADER:  # this is text or a picture
        raise EpisodeError(broken)
    if size > most:
        raise EpisodeError(
            f"The file's header has {size} bytes, and {most} are read; split it into files of 1,500 episodes or fewer."
        )
    if 8 + size > len(data):
        raise EpisodeError("The file is truncated within its header; send it again.")
    try:
        header = json.loads(data[8 : 8 + size])
        metadata = header.pop("__metadata__", {})
        if metadata.get("format") not in FORMATS:
            raise EpisodeError(f"The file is not a file of episodes (its format is not {FORMAT}).")
        fields = json.loads(metadata["episodes"])
        told = json.loads(metadata["body"]) if "body" in metadata else None
    except EpisodeError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise EpisodeError(broken) from None
    if not isinstance(fields, list) or not fields or not all(isinstance(entry, dict) for entry in fields):
        raise EpisodeError("The file lists no episodes.")
    for entry in fields:
        for old, new in RENAMED_FIELDS.items():
            if old in entry:
                entry.setdefault(new, entry.pop(old))
        for name in _FIELDS:
            if name not in entry:
                which = _shown(entry.get("uuid", "(without an id)"))
                raise FieldError(f"Episode {which}, field {name}: is missing.")
        for name in set(entry) - set(_FIELDS) - set(_OPTIONAL):
            raise FieldError(f"Episode {_shown(entry['uuid'])}, field {_shown(name)}: is unknown.")
        if isinstance(ending := entry["ending"], str):
            entry["ending"] = RENAMED_ENDINGS.get(ending, ending)
    return fields, _body_of(told, fields), header, 8 + size


def _body_of(told: Any, fields: list[dict[str, Any]]) -> Embodiment | None:
    """The body that a file describes; FieldError where that is none, or not the episodes'."""
    if told is None:
        return None
    first = _shown(fields[0]["uuid"])
    try:
        body = Embodiment.from_json(told)
    except ValueError as error:
        raise FieldError(f"Episode {first} and those after it, field body: {error}") from None
    for entry in fields:
        if entry["embodiment"] != body.name:
            raise FieldError(f"Episode {_shown(entry['uuid'])}, field embodiment: the file describes {body.name}.")
    return body


def _refuse_truncated(held: int, fields: list[dict[str, Any]], header: dict[str, Any], start: int) -> None:
    """safetensors would only say that the length is wrong; a person wants to know what was lost."""
    try:
        cut = [name for name, tensor in header.items() if start + tensor["data_offsets"][1] > held]
    except (KeyError, TypeError, IndexError):
        raise EpisodeError("The file's header is broken; send it again.") from None
    if cut:
        ids = ", ".join(_shown(entry["uuid"]) for entry in fields[:3]) + (", ..." if len(fields) > 3 else "")
        raise EpisodeError(
            f"The file is truncated: of episode {ids} the field {_shown(', '.join(sorted(cut)))} is cut off. "
            "Send the whole file again."
        )


def _refuse_too_many_pictures(data: bytes, fields: list[dict[str, Any]], header: dict[str, Any], start: int) -> None:
    """From what the header says, before any of it is copied. What contradicts itself there is refused as it is read."""

    def numbers(key: str) -> np.ndarray:
        begin, end = header[key]["data_offsets"]
        return np.frombuffer(data, np.int64, (end - begin) // 8, start + begin)

    try:
        rows = np.arange(len(fields) + 1) + numbers("offsets")  # where each episode's T+1 rows begin
        held = np.zeros(len(fields), np.int64)
        for key, tensor in header.items():
            begin, end = tensor["data_offsets"]
            if key.startswith(IMAGES) or (key == "observations" and tensor["dtype"] == "U8"):
                held += np.diff(rows) * ((end - begin) // tensor["shape"][0])
            elif key.startswith(("frame_sizes", _SIZES)):
                held += np.diff(np.concatenate([[0], np.cumsum(numbers(key))])[rows])
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError):
        return
    if (over := held > MOST_PICTURE_BYTES).any():
        which = int(over.argmax())
        raise FieldError(
            f"Episode {_shown(fields[which].get('uuid'))}, field observations: with its frames it has "
            f"{held[which] / 2**20:.0f} MiB of pictures, and at most {MOST_PICTURE_BYTES // 2**20} MiB are taken; cut "
            "it into several episodes, or send smaller pictures."
        )


def _steps_of_each(
    arrays: dict[str, np.ndarray], fields: list[dict[str, Any]], rows_more: Mapping[str, int]
) -> np.ndarray:
    """T of each episode. `rows_more`: how many rows an array has beyond it, by the array's name."""
    first = _shown(fields[0]["uuid"])
    for name in ("offsets", *_ARRAYS):
        if name not in arrays:
            raise FieldError(f"Episode {first}, field {name}: is missing in the file.")
    if not set(rows_more) - set(_ARRAYS):
        raise FieldError(f"Episode {first}, field observations: is missing in the file.")
    offsets = arrays["offsets"]
    if (
        offsets.ndim != 1
        or offsets.dtype != np.int64
        or len(offsets) != len(fields) + 1
        or offsets[0] != 0
        or (offsets[1:] < offsets[:-1]).any()  # a difference might overflow
    ):
        raise FieldError(f"Episode {first}, field offsets: must rise from 0, one for each of {len(fields)} episodes.")
    for name, extra in rows_more.items():
        wanted = int(offsets[-1]) + extra * len(fields)
        if arrays[name].ndim == 0 or len(arrays[name]) != wanted:
            raise FieldError(
                f"Episode {first} and those after it, field {name}: the file holds shape "
                f"{arrays[name].shape}, but {int(offsets[-1])} steps need {wanted} rows."
            )
    for key in arrays:
        prefix = next((each for each in (_FRAMES, _SIZES) if key.startswith(each)), "")
        if not prefix:
            continue
        camera = key.removeprefix(prefix)
        if _FRAMES + camera not in arrays or _SIZES + camera not in arrays:
            raise FieldError(f"Episode {first}, field frames: {_FRAMES}CAMERA and {_SIZES}CAMERA belong together.")
        sizes, frames = arrays[_SIZES + camera], arrays[_FRAMES + camera]
        if (
            sizes.ndim != 1
            or sizes.dtype != np.int64
            or len(sizes) != len(arrays["steps_to_go"])
            or frames.dtype != np.uint8
            or ((sizes < 0) | (sizes > frames.size)).any()  # a sum of such can't overflow
            or sizes.sum() != frames.size
        ):
            raise FieldError(f"Episode {first}, field frames: the sizes of {_shown(camera)} do not match the bytes.")
    return np.diff(offsets)

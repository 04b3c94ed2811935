"""What the server answers. Made from its OpenAPI document by ../generate.py."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class ProgressRow:
    """An answer of the server."""

    text: str
    share: float
    eta_s: float | None


@dataclass(frozen=True)
class AssignmentRow:
    """An answer of the server."""

    id: int
    task: str
    purpose: str
    # The policy that is evaluated; null: it is practice.
    checkpoint: str | None
    state: str
    reason: str
    run: int | None
    parent: int | None
    stations: list[str]
    any: int | None
    episodes: int | None
    hours: float | None
    target_success: float | None
    # Against its budget; null where it does not practise.
    progress: ProgressRow | None
    priority: str
    position: int
    repeats: str
    time_zone: str
    # The assignment whose repetition made it.
    series: int | None
    not_before: datetime | None
    due_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class Bound:
    """What people said of detected successes, of one policy at one task."""

    task: str | None
    policy: str | None
    run: int | None
    version: int | None
    # How many were answered.
    n: int
    wrong: int
    waiting: int
    # With 95 % no more than this share of all detections is wrong.
    bound: float


@dataclass(frozen=True)
class HelpRow:
    """An answer of the server."""

    id: int
    station: str
    kind: str
    reason: str
    severity: str
    # What is advised, as the button that does it; empty where none does.
    act: str
    advice: str
    episode: str | None
    p_failure: float | None
    # The robot's time that a person's act saves, as it is predicted.
    robot_s: float | None
    human_s: float | None
    rank: float | None
    help_by: datetime | None
    opened_at: datetime
    acknowledged_by: str | None
    taken_by: str | None
    closed_by: str | None
    closed_at: datetime | None
    outcome: str


@dataclass(frozen=True)
class Card:
    """A station as the wall shows it; what only its telemetry knows is null, or empty, while nothing is heard."""

    slug: str
    name: str
    number: int
    state: str
    state_since: datetime
    reason: str
    # Of the policy that it acts with.
    version: int | float | None
    episodes: int
    # 1 is real time, 0 as fast as it can.
    speed: int | float
    connected: bool
    last_seen: datetime | None
    stop_latched: bool
    paused: bool
    # Who is in control of it; empty: nobody.
    holder: str
    task: str
    run: int | None
    renderer: str
    # The axes that a person drives it by; a drive command names these.
    drive: list[str]
    # The device at the station by which a person can drive it; empty: none.
    teleoperator: str
    self_reset_after_s: float | None
    shuffle_every_s: float
    record_frames: str
    help: HelpRow | None
    # Why it is in maintenance; empty: it is not.
    maintenance: str
    connected_since: datetime | None
    severity: int
    # Whether it wants a person.
    attention: bool
    archived: bool
    instruction: str
    step: int | float | None
    limit: int | float | None
    # Predicted steps to go.
    d: float | None
    d_start: float | None
    progress: float | None
    p_success: float | None
    # Of the steps to go, over bins of bin_width.
    distribution: list[float] | None
    # Keypoints of the attempt, x and y in metres on the table.
    marks: list[list[float]]
    # Who set them: classifier or human.
    marks_by: str
    # What its policy says of itself, as the method names it.
    signals: dict[str, float]
    bin_width: float | None
    threshold: float | None
    human: bool
    # Whether that person drives it by the station's own device.
    device: bool
    sent_at: float | None
    # Of the attempt under way.
    uuid: str
    # Episodes on its disk that wait to be uploaded.
    unsent: int | float | None
    camera_error: str
    in_memory: int | float | None
    refused: int | float | None
    lost: int | float | None


@dataclass(frozen=True)
class Changed:
    """An answer of the server."""

    # How many runs were changed.
    changed: int


@dataclass(frozen=True)
class CheckpointDetail:
    """An answer of the server."""

    id: str
    role: str
    version: int
    # Steps-to-go below which it detects success.
    threshold: float | None
    created_at: datetime
    published_at: datetime | None
    loaded_everywhere_at: datetime | None
    # From its publication until every station had loaded it.
    staleness_s: float | None
    run: int
    # So many frames in a row have to say so.
    consecutive: int | None
    # The reward model whose weights it has, with another threshold.
    derived_from: str | None
    sha256: str
    # The pretrained models that it stands on, by their sha256.
    pretrained: list[str]
    # Bytes; null: its file is gone.
    size: int | None
    # Whether it is used where nobody names another one.
    in_force: bool
    # Why it can't be promoted; empty: it can.
    problem: str


@dataclass(frozen=True)
class CheckpointRow:
    """An answer of the server."""

    id: str
    role: str
    version: int
    # Steps-to-go below which it detects success.
    threshold: float | None
    created_at: datetime
    published_at: datetime | None
    loaded_everywhere_at: datetime | None
    # From its publication until every station had loaded it.
    staleness_s: float | None


@dataclass(frozen=True)
class CommandAnswer:
    """An answer of the server."""

    id: str
    # Of an override: of the lease that it got.
    epoch: int


@dataclass(frozen=True)
class Level:
    """Of true success, on fixed seeds."""

    version: int | None
    practice_episodes: int | None
    successes: int
    n: int
    rate: float
    # 95 % band (Wilson).
    low: float
    high: float
    steps_to_success: float | None


@dataclass(frozen=True)
class Compared:
    """An answer of the server."""

    id: int
    name: str
    kind: str
    state: str
    dataset: int | None
    parent: int | None
    practice_episodes: int
    kept_version: int | None
    # From its start to its end, or until now.
    duration_s: float | None
    # The newest one; null: it was never evaluated.
    evaluation: Level | None


@dataclass(frozen=True)
class Comparison:
    """An answer of the server."""

    runs: list[Compared]
    # Of the recipes: field to a value a run, in their order.
    differences: dict[str, list[Any]]


@dataclass(frozen=True)
class Words:
    """An answer of the server."""

    task: str
    instruction: str
    episodes: int


@dataclass(frozen=True)
class Lengths:
    """A histogram of the episodes' lengths."""

    # In steps, one more than counts.
    edges: list[int]
    counts: list[int]


@dataclass(frozen=True)
class Facts:
    """An answer of the server."""

    episodes: int
    steps: int | None
    shortest: int | None
    longest: int | None
    mean: float | None
    flagged: int
    unusual: int
    detected: int
    true: int
    # Of so many somebody knows whether they were a true success.
    known: int
    trimmed: int
    weighed: int
    words: list[Words]
    # Of its episodes.
    tags: list[str]
    # Positions of the first few unusual episodes.
    outliers: list[int]
    lengths: Lengths


@dataclass(frozen=True)
class DatasetDetail:
    """An answer of the server."""

    id: int
    name: str
    families: list[str]
    # The name of its body; empty: not known.
    embodiment: str
    # While it is generated: how many are wanted.
    episodes: int
    steps: int
    state: str
    progress: float
    error: str
    seed: int
    # Counts those of one name.
    version: int
    # Whether it is what its name shows.
    current: bool
    # The version, or the dataset, that it was made of.
    parent: int | None
    # Where it came from, and what was done to it.
    origin: dict[str, Any]
    tags: list[str]
    notes: str
    # Whether its episodes are listed yet.
    listed: bool
    # Whether it is one file of episodes, that can be fetched; others are exported.
    single: bool
    archived_at: datetime | None
    created_at: datetime
    facts: Facts


@dataclass(frozen=True)
class DatasetEpisodeRow:
    """An answer of the server."""

    position: int
    uuid: str
    # The dataset in whose files it lies.
    source: int
    source_index: int
    # Of the recorded episode the first step that counts.
    start: int
    stop: int
    steps: int
    task: str
    instruction: str
    purpose: str
    ending: str
    detected_success: bool
    true_success: bool | None
    flagged: bool
    tags: list[str]
    note: str
    # As so many episodes it counts in learning.
    weight: float
    quality: dict[str, Any]
    # What stands out beside the others of the version.
    unusual: list[str]


@dataclass(frozen=True)
class DatasetRow:
    """An answer of the server."""

    id: int
    name: str
    families: list[str]
    # The name of its body; empty: not known.
    embodiment: str
    # While it is generated: how many are wanted.
    episodes: int
    steps: int
    state: str
    progress: float
    error: str
    seed: int
    # Counts those of one name.
    version: int
    # Whether it is what its name shows.
    current: bool
    # The version, or the dataset, that it was made of.
    parent: int | None
    # Where it came from, and what was done to it.
    origin: dict[str, Any]
    tags: list[str]
    notes: str
    # Whether its episodes are listed yet.
    listed: bool
    # Whether it is one file of episodes, that can be fetched; others are exported.
    single: bool
    archived_at: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class EpisodeRow:
    """An answer of the server."""

    uuid: str
    station: str
    task: str | None
    run: int | None
    # The assignment whose attempt it is; null: it is of no evaluation.
    evaluation: int | None
    instruction: str
    purpose: str
    ending: str
    detected_success: bool
    true_success: bool | None
    # By name: value, step, and source: human, sensor or classifier.
    labels: dict[str, Any]
    # The label that its method wants a person's word on; empty: none.
    asks: str
    # The question for that, which yes or no answers.
    question: str
    steps: int
    human_steps: int
    interventions: int
    started_at: datetime
    stored_at: datetime
    policy: str | None
    reward_model: str | None
    threshold: float | None
    version: int | None
    d_start: float | None
    d_end: float | None
    return_sum: float | None
    duration_s: float | None
    dataset: int | None


@dataclass(frozen=True)
class ExportRow:
    """An answer of the server."""

    id: int
    dataset: int
    kind: str
    position: int | None
    camera: str
    quality: str
    state: str
    progress: float
    error: str
    size: int
    sha256: str
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class Found:
    """An answer of the server."""

    level: str
    code: str
    text: str
    file: str
    episode: int | None
    field: str


@dataclass(frozen=True)
class Question:
    """An answer of the server."""

    code: str
    text: str
    answer: bool | None


@dataclass(frozen=True)
class ImportRow:
    """An answer of the server."""

    id: int
    # What it will be: dataset or model.
    of: str
    name: str
    kind: str
    place: str
    state: str
    phase: str
    progress: float
    error: str
    problems: list[Found]
    questions: list[Question]
    size: int
    # Bytes of an upload that are there: go on after them.
    received: int
    # Of the archive, as it was announced.
    sha256: str
    dataset: int | None
    model: int | None
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class LabRow:
    """An answer of the server."""

    slug: str
    name: str
    role: str


@dataclass(frozen=True)
class TokenRow:
    """An answer of the server."""

    name: str
    scopes: list[str]
    # The one lab that it is for; null: all of its owner's.
    lab: str | None
    expires_at: datetime


@dataclass(frozen=True)
class Me:
    """An answer of the server."""

    name: str
    labs: list[LabRow]
    # By which this was asked; null: by a session.
    token: TokenRow | None


@dataclass(frozen=True)
class MetricRow:
    """An answer of the server."""

    seq: int
    kind: str
    data: dict[str, Any]
    at: datetime


@dataclass(frozen=True)
class ModelFile:
    """An answer of the server."""

    # In the model's folder, with / between.
    name: str
    sha256: str
    # Bytes.
    size: int


@dataclass(frozen=True)
class ModelRow:
    """An answer of the server."""

    id: int
    # Of its files' names and sums; recipes, checkpoints and stations call it so.
    sha256: str
    name: str
    architecture: str
    kind: str
    # The kinds that it can stand for.
    serves: list[str]
    # As its folder says; “unknown” where it doesn't.
    licence: str
    # Bytes of all files.
    size: int
    files: list[ModelFile]
    by: str
    created_at: datetime
    archived_at: datetime | None


@dataclass(frozen=True)
class Attempts:
    """What one policy did."""

    successes: int
    n: int
    # 95 % band (Wilson).
    low: float
    high: float
    mean_steps: float
    steps_to_success: float | None
    falls: int


@dataclass(frozen=True)
class Difference:
    """The second policy less the first, on the same attempts."""

    n: int
    # Attempts in which both succeeded.
    both: int
    only_first: int
    only_second: int
    # Of the shares of success.
    difference: float
    # 95 % interval of it (Newcombe, paired).
    low: float
    high: float
    # McNemar's exact test.
    p: float
    # Mean difference in steps where both succeeded.
    steps: float | None
    steps_low: float | None
    steps_high: float | None


@dataclass(frozen=True)
class PolicyComparison:
    """An answer of the server."""

    id: int
    first: str
    second: str | None
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
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class PromotionRow:
    """An answer of the server."""

    id: int
    role: str
    # Of which it is the default policy; empty for a reward model.
    body: str
    # Whose reward model it is; null for a policy.
    run: int | None
    # null: nothing is in force from then on.
    checkpoint: str | None
    reason: str
    by: str
    at: datetime


@dataclass(frozen=True)
class RunRow:
    """An answer of the server."""

    id: int
    name: str
    kind: str
    # Which kind of machine it wants: cpu or gpu.
    queue: str
    # The one that took it last.
    worker: str
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
    # The policy that is practised in the round under way.
    open_version: int | None
    round_steps: int
    round_target: int
    holding: bool
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    archived_at: datetime | None
    recipe: dict[str, Any]
    checkpoints: list[CheckpointRow]
    stations: list[str]
    task: str | None
    # Which launched it.
    sweep: int | None
    tags: list[str]
    notes: str


@dataclass(frozen=True)
class SpotCheckRow:
    """An answer of the server."""

    id: int
    episode: str
    station: str
    task: str | None
    instruction: str
    policy: str | None
    reward_model: str | None
    # Whether it was a success; null: nobody said, or nobody can tell.
    answer: bool | None
    answered_at: datetime | None
    answered_by: str
    created_at: datetime


@dataclass(frozen=True)
class StoppedStation:
    """An answer of the server."""

    station: str
    name: str
    outcome: str
    # Seconds since the station was last heard, where that is known.
    silent_s: float | None


@dataclass(frozen=True)
class StopAnswer:
    """An answer of the server."""

    id: str
    # How many stations said that they stopped.
    stopped: int
    recorded: bool
    stations: list[StoppedStation]
    # False: the database is away, and other stations of the lab are not known.
    complete: bool
    # What to know beyond that, such as: told, not recorded.
    detail: str


@dataclass(frozen=True)
class SweptRun:
    """An answer of the server."""

    run: int
    state: str
    # Of the settings that are searched.
    values: dict[str, Any]
    # The last value of the objective; null: none yet.
    reached: float | None
    stopped_early: bool


@dataclass(frozen=True)
class SweepDetail:
    """An answer of the server."""

    id: int
    name: str
    kind: str
    state: str
    error: str
    recipe: dict[str, Any]
    # Setting to {choices}, or {low, high, log}.
    space: dict[str, dict[str, Any]]
    sampler: str
    pruner: str
    objective: str
    maximize: bool
    # At most so many.
    runs: int
    hours: float | None
    at_once: int
    dataset: int | None
    corrections: int | None
    parent: int | None
    created_at: datetime
    ended_at: datetime | None
    # In the order of their launch.
    launched: list[SweptRun]
    # The completed run that reached most, by its number.
    best: int | None
    hours_spent: float


@dataclass(frozen=True)
class SweepRow:
    """An answer of the server."""

    id: int
    name: str
    kind: str
    state: str
    error: str
    recipe: dict[str, Any]
    # Setting to {choices}, or {low, high, log}.
    space: dict[str, dict[str, Any]]
    sampler: str
    pruner: str
    objective: str
    maximize: bool
    # At most so many.
    runs: int
    hours: float | None
    at_once: int
    dataset: int | None
    corrections: int | None
    parent: int | None
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class TaskRow:
    """An answer of the server."""

    # The most steps an attempt may take. Left empty, it is the family's own limit; a task in words needs one.
    time_limit_steps: int | None
    # Ends an attempt that came no closer to its goal (d made no new low) for this many steps. Left empty: never.
    stall_steps: int | None
    # Ends an attempt whose steps to go, d, rose this many steps above its lowest. Left empty: never.
    regression: float | None
    # Ends an attempt whose P(success) stays below this, such as 0.2. One in ten goes on all the same, so that it
    # becomes known when the policy gets better. Left empty: never.
    low_success_probability: float | None
    # The fewest objects with which practice goes on. A person is asked for when fewer are left. Left empty: as soon as
    # one is lost.
    fewest_objects: int | None
    # In metres, such as 0.01. A push by the policy that would bring an object nearer to the edge is turned aside, so
    # that fewer fall off. Left empty: there is no such fence.
    edge_margin: float | None
    # The family of which instructions are given after a failure, until one succeeds or three have failed. They can
    # spread objects that lie in each other's way. The policy must have been trained on this family too.
    after_failure: str
    # That family is asked in turn with the task's own, after each attempt and not only after failures: what was done is
    # undone, and practice needs no reset.
    alternates: bool
    # The reward model's success detector, or a sensor that the station has, such as a switch in a socket. Each episode
    # says which.
    success_by: str
    # For tasks whose goal changes only by a reset. A station that can reset its world does so by itself; others ask for
    # a person. A world that always needs this says so itself.
    reset_each_attempt: bool
    # Who resets a station while it practises this task.
    resets: str
    # How many seconds it waits for a person first. Only for stations that reset themselves.
    self_reset_after_s: float | None
    # Seconds of practice without a reset, after which a person is asked to mix the objects up. Left empty: as set at
    # each station.
    shuffle_every_s: float | None
    # The share of detected successes, drawn at random, that people are asked to look at, such as 0.05. From their
    # answers the error of the detector is bounded. Left empty: 0.05.
    audit_share: float | None
    slug: str
    name: str
    # As episodes and datasets name it; a task in words has one of its own.
    family: str
    embodiment: str
    # Empty: of a built-in family.
    wordings: list[str]
    held_out_wordings: list[str]
    slots: dict[str, list[str]]
    description: str
    archived_at: datetime | None

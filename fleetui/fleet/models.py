"""What the fleet is: labs own stations and tasks, assignments give tasks to stations, stations send episodes, people
touch them.

Rows change only in actions/, here and in practice/. What must always hold is a constraint of the database: one live
lease a station, one live assignment a station, one row an episode.
"""

import uuid
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pgtrigger
from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from robots import tasks as task_families
from robots.attention import ADVICE, SEVERITIES
from robots.embodiments import Camera, Embodiment
from robots.protocol import STATES, State
from robots.rules import RECORDED, RESETS, RULES, SPEEDS, SUCCESS_BY
from robots.tasks import TaskFamily
from robots.wordings import Words

ROLES = ("viewer", "supervisor", "researcher", "manager")
ASSIGNMENT_STATES = (
    "queued",
    "standby",
    "underway",
    "delayed",
    "blocked",
    "skipped",
    "canceled",
    "killed",
    "failed",
    "completed",
)
PRIORITIES = {0: "low", 1: "normal", 2: "high"}
REPEATS = ("", "daily", "weekly")
INTERVENTIONS = ("reset", "override", "stop", "clear_stop", "terminate", "pause", "self_reset", "relabel", "keypoint")
PURPOSES = ("demonstration", "practice", "evaluation", "correction")
NEEDS = (
    "stopped",
    "offline",
    "shuffle",
    "fault",
    "table",
    "undriven",
    "held_up",
    "slipped",
    "no_progress",
    "unlikely",
)
# The server's own word, in which no station is: a person works on it.
MAINTENANCE = State("maintenance", "Maintenance", "a person works on it", place=7)
SHOWN_STATES = STATES | {MAINTENANCE.name: MAINTENANCE}


def choices(values: Iterable[str]) -> list[tuple[str, str]]:
    return [(value, value.replace("_", " ")) for value in values]


def shown_state(state: str, maintenance: bool) -> str:
    """The state as people see it: maintenance says why a station does nothing, but never hides that it moves or is
    stopped.
    """
    return MAINTENANCE.name if maintenance and state not in ("overridden", "stopped") else state


def severity(state: str, stop_latched: bool = False, maintenance: bool = False) -> int:
    """How urgently a station in this state wants a person; one in maintenance has its person already."""
    if maintenance:
        return 0
    return max(STATES[state].urgency, STATES["stopped"].urgency if stop_latched else 0)


class Lab(models.Model):
    slug = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=80)
    role: str  # of who asked for it: set by access.get_lab

    def __str__(self) -> str:
        return self.name

    @property
    def wall_topic(self) -> str:
        return f"wall:{self.slug}"


class Membership(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=12, choices=choices(ROLES))
    last_seen = models.DateTimeField(null=True)  # to the minute

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "lab"], name="one_membership_a_lab"),
            models.CheckConstraint(condition=Q(role__in=ROLES), name="membership_role_known"),
        ]


class Profile(models.Model):
    """What a person sets for themselves, whatever labs they are in. Who has none sees times in UTC."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, primary_key=True, on_delete=models.CASCADE, related_name="profile"
    )
    time_zone = models.CharField(max_length=64)  # as the tz database names it

    def __str__(self) -> str:
        return f"{self.user}: {self.time_zone}"


class Station(models.Model):
    """One body and its workspace. `state` is what the station last reported; the settings are what it is told on
    arrival.
    """

    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="stations")
    slug = models.SlugField(max_length=40)
    name = models.CharField(max_length=80)
    number = models.PositiveIntegerField()
    embodiment = models.JSONField(default=dict)
    simulated = models.BooleanField(default=True)
    world = models.CharField(max_length=80, blank=True)
    seed = models.BigIntegerField(default=0)
    token_hash = models.CharField(max_length=64, unique=True)
    token_prefix = models.CharField(max_length=8)
    state = models.CharField(max_length=12, choices=choices(STATES), default="offline")
    state_since = models.DateTimeField(default=timezone.now)
    reason = models.CharField(max_length=300, blank=True)
    connected = models.BooleanField(default=False)
    last_seen = models.DateTimeField(null=True)
    stop_latched = models.BooleanField(default=False)
    stopped_by = models.CharField(max_length=80, blank=True)  # the id of the newest stop, cleared or not
    paused = models.BooleanField(default=False)
    taken_over = models.BooleanField(default=False)  # by a person, and nobody has handed it back yet
    speed = models.PositiveSmallIntegerField(default=1)  # 1 = real time, 4, 0 = as fast as it can
    self_reset_after_s = models.FloatField(null=True)
    shuffle_every_s = models.FloatField(default=300.0)
    record_frames = models.CharField(max_length=3, blank=True, default="")  # "" = only a real robot does
    last_episode = models.UUIDField(null=True)  # the newest episode it told of; a round waits until that one is stored
    software = models.CharField(max_length=80, blank=True)
    renderer = models.CharField(max_length=20, blank=True)
    teleoperator = models.CharField(max_length=60, blank=True)  # the device there by which a person can drive it
    loaded_checkpoint = models.ForeignKey(
        "learning.Checkpoint", null=True, on_delete=models.SET_NULL, related_name="loaded_on"
    )
    episodes_count = models.PositiveIntegerField(default=0)
    connected_since = models.DateTimeField(null=True)
    # After a renewal the old token goes on until the new one has connected, or until this time.
    old_token_hash = models.CharField(max_length=64, blank=True, db_index=True)
    old_token_until = models.DateTimeField(null=True)
    maintenance_since = models.DateTimeField(null=True)  # null = not in maintenance
    maintenance_reason = models.CharField(max_length=300, blank=True)
    archived_at = models.DateTimeField(null=True)  # hidden, and neither connected nor given work

    token_is_old = False  # set by access.get_station_by_token: it came with the token that is being replaced

    class Meta:
        ordering = ["lab", "number"]
        constraints = [
            models.UniqueConstraint(fields=["lab", "slug"], name="station_slug_unique_in_lab"),
            models.UniqueConstraint(fields=["lab", "number"], name="station_number_unique_in_lab"),
            models.CheckConstraint(condition=Q(state__in=tuple(STATES)), name="station_state_known"),
            models.CheckConstraint(condition=Q(speed__in=tuple(sorted(SPEEDS))), name="station_speed_known"),
            models.CheckConstraint(condition=Q(record_frames__in=tuple(RECORDED)), name="station_record_frames_known"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def topic(self) -> str:
        return f"station:{self.lab.slug}/{self.slug}"

    @property
    def severity(self) -> int:
        return severity(self.state, self.stop_latched, self.maintenance)

    @property
    def maintenance(self) -> bool:
        return self.maintenance_since is not None

    @property
    def shown_state(self) -> str:
        return shown_state(self.state, self.maintenance)

    @property
    def command_group(self) -> str:
        """The channel layer group that this station's consumer listens to."""
        return f"station.{self.pk}"

    def settings_json(self) -> dict[str, Any]:
        """The settings that hold now: its own, under those of the task that it practises."""
        assignment = self.live_assignment()
        task = assignment.task if assignment else None
        resets, shuffle = self.self_reset_after_s, self.shuffle_every_s
        if task and task.resets and self.simulated:  # a real body can't reset its workspace itself
            resets = task.self_reset_after_s
        if task and task.shuffle_every_s is not None:
            shuffle = task.shuffle_every_s
        return {
            "self_reset_after_s": resets,
            "shuffle_every_s": shuffle,
            "record_frames": self.record_frames,
            "speed": self.speed,
        }

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """Of its body, as it described itself; none before it has connected. Their names come from outside."""
        return Embodiment.from_json(self.embodiment).cameras if self.embodiment else ()

    def live_assignment(self) -> "Assignment | None":
        parts = ("assignment__task", "assignment__run", "assignment__checkpoint__run")
        place = self.places.filter(live=True).select_related(*parts).first()
        return place.assignment if place else None


class Task(models.Model):
    """What a station shall practise: a family of instructions, when an attempt is over, and who resets after it.

    The family is a built-in one, or the task's own, which the wordings make (robots/wordings.py): then its name is
    generated, and no other task has it.
    What it says of resets and shuffles goes before a station's own settings while the station practises it.
    """

    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="tasks")
    slug = models.SlugField(max_length=60)
    name = models.CharField(max_length=80)
    family = models.CharField(max_length=80)
    embodiment = models.CharField(max_length=80, blank=True, default="")  # the name of the body it is for
    wordings = models.JSONField(default=list, blank=True)  # empty: of a built-in family
    held_out_wordings = models.JSONField(default=list, blank=True)
    slots = models.JSONField(default=dict, blank=True)  # what may stand in each, by its name
    time_limit_steps = models.PositiveIntegerField()
    description = models.TextField(blank=True)
    resets = models.CharField(max_length=8, blank=True, default="", choices=list(RESETS.items()))
    self_reset_after_s = models.FloatField(null=True)
    shuffle_every_s = models.FloatField(null=True)  # null = as the station is set
    stall_steps = models.PositiveIntegerField(null=True)  # an attempt ends when d made no new low for so many steps
    regression = models.FloatField(null=True)  # ... or when d has risen by so much above its lowest
    low_success_probability = models.FloatField(null=True)  # ... or when P(success before the limit) stays below
    fewest_objects = models.PositiveIntegerField(null=True)  # practice goes on while so many are left; null = all
    edge_margin = models.FloatField(null=True)  # metres; the policy pushes no object nearer to an edge; null = it may
    after_failure = models.CharField(max_length=80, blank=True, default="")  # family asked when an attempt failed
    alternates = models.BooleanField(default=False)  # that family is asked in turn with the task's own
    success_by = models.CharField(max_length=8, blank=True, default="", choices=list(SUCCESS_BY.items()))
    reset_each_attempt = models.BooleanField(default=False)  # whatever its family says of itself
    # The share of detected successes that people look at; null = AUDIT_SHARE.
    audit_share = models.FloatField(null=True)
    archived_at = models.DateTimeField(null=True)

    AUDIT_SHARE = 0.05

    class Meta:
        ordering = ["lab", "name"]
        constraints = [
            models.UniqueConstraint(fields=["lab", "slug"], name="task_slug_unique_in_lab"),
            models.CheckConstraint(
                condition=Q(resets="self", self_reset_after_s__isnull=False)
                | (Q(self_reset_after_s=None) & ~Q(resets="self")),
                name="task_self_reset_has_its_seconds",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def words(self) -> Words:
        """What was typed of it; none of a built-in family."""
        return Words(
            tuple(self.wordings),
            tuple(self.held_out_wordings),
            {slot: tuple(values) for slot, values in self.slots.items()},
        )

    @property
    def task_family(self) -> TaskFamily | None:
        """What instructions are drawn from; None where no world that is here has its family."""
        if self.wordings:
            return self.words.family(self.family, self.name, self.embodiment, self.time_limit_steps)
        return task_families.TASKS.get(self.family)

    @property
    def always_resets(self) -> bool:
        """Whether each attempt begins with a reset, by its own rule or because its world can't do without."""
        family = task_families.TASKS.get(self.family)
        return self.reset_each_attempt or (family is not None and family.reset_each_attempt)

    def order_json(self) -> dict[str, Any]:
        """What a station is told of it; what it says of resets and shuffles is among the station's settings."""
        order = {"name": self.family} | {name: getattr(self, name) for name in RULES}
        if self.wordings:
            order["words"] = self.words_json()
        other = self.lab.tasks.filter(family=self.after_failure).first() if self.after_failure else None
        if other is not None and other.wordings:
            order["after_failure_words"] = other.words_json()
        return order

    def words_json(self) -> dict[str, Any]:
        """Its words, as a station is told them."""
        return {"title": self.name, "embodiment": self.embodiment} | self.words.to_json()


class Assignment(models.Model):
    """A task given to stations: to chosen ones, or to any `any_count` with its body, chosen when it starts.

    It waits in the lab's queue until its stations are free, and holds them (standby) from the moment that a run stands
    behind it. With a `parent`, the trained run to practise with, the dispatcher launches that run; without one it waits
    for a person's. With a `checkpoint` it is an evaluation: its stations make `budget_episodes` attempts with that
    policy of the parent run, nothing learns from them, and no run stands behind it. The reason for which it waits is
    computed (practice/queue.py); `reason` keeps what history needs.
    """

    STATES = ASSIGNMENT_STATES
    WAITING = ("queued", "delayed", "blocked")  # while no run stands behind it
    HOLDING = ("standby", "underway", "delayed")  # while one does
    LIVE = ("queued", "standby", "underway", "delayed", "blocked")
    TRANSITIONS = {
        "queued": ("standby", "underway", "delayed", "blocked", "skipped", "canceled", "killed"),
        "standby": ("underway", "delayed", "completed", "failed", "canceled", "killed"),
        "underway": ("delayed", "completed", "failed", "canceled", "killed"),
        "delayed": ("queued", "standby", "underway", "blocked", "completed", "failed", "canceled", "killed"),
        "blocked": ("queued", "standby", "underway", "delayed", "canceled", "killed"),
        "skipped": (),
        "canceled": (),
        "killed": (),
        "failed": (),
        "completed": (),
    }

    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="assignments")
    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="assignments")
    stations = models.ManyToManyField(Station, through="AssignedStation", related_name="assignments")
    any_count = models.PositiveSmallIntegerField(null=True)
    parent = models.ForeignKey("learning.Run", null=True, on_delete=models.PROTECT, related_name="+")
    checkpoint = models.ForeignKey(
        "learning.Checkpoint", null=True, on_delete=models.PROTECT, related_name="evaluations"
    )
    run = models.ForeignKey("learning.Run", null=True, on_delete=models.SET_NULL, related_name="assignments")
    state = models.CharField(max_length=12, choices=choices(STATES), default="queued")
    reason = models.CharField(max_length=300, blank=True)
    # At most one budget; none: the run's own end is the assignment's.
    budget_episodes = models.PositiveIntegerField(null=True)
    budget_hours = models.FloatField(null=True)
    target_success = models.FloatField(null=True)
    priority = models.PositiveSmallIntegerField(default=1, choices=list(PRIORITIES.items()))
    position = models.PositiveIntegerField(default=0)  # in the queue, among those that wait
    not_before = models.DateTimeField(null=True)
    # The first of a series repeats: a periodic task of its own makes the others, which point to it.
    # It repeats at its time of the day in this zone, whatever the clocks do there.
    time_zone = models.CharField(max_length=64, default="UTC")
    repeats = models.CharField(max_length=8, blank=True, default="", choices=choices(REPEATS))
    schedule = models.OneToOneField(
        "django_celery_beat.PeriodicTask", null=True, on_delete=models.SET_NULL, related_name="+"
    )
    series = models.ForeignKey("self", null=True, on_delete=models.CASCADE, related_name="occurrences")
    due_at = models.DateTimeField(null=True)  # which occurrence it is
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["lab", "position"],
                condition=Q(state__in=("queued", "standby", "underway", "delayed", "blocked")),
                name="assignment_queue",
            )
        ]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=ASSIGNMENT_STATES), name="assignment_state_known"),
            models.CheckConstraint(condition=Q(priority__in=tuple(PRIORITIES)), name="assignment_priority_known"),
            models.CheckConstraint(
                condition=Q(budget_episodes=None, budget_hours=None)
                | Q(budget_episodes=None, target_success=None)
                | Q(budget_hours=None, target_success=None),
                name="assignment_has_one_budget",
            ),
            models.CheckConstraint(
                condition=Q(repeats="") | Q(due_at__isnull=False, series=None), name="assignment_series_has_a_first"
            ),
            models.UniqueConstraint(fields=["series", "due_at"], name="assignment_occurs_once"),
            models.CheckConstraint(
                condition=Q(checkpoint=None) | Q(run=None, parent__isnull=False, budget_episodes__isnull=False),
                name="evaluation_has_its_attempts",
            ),
        ]

    def __str__(self) -> str:
        return f"assignment {self.pk}"

    @property
    def is_live(self) -> bool:
        return self.state in self.LIVE

    @property
    def evaluates(self) -> bool:
        return self.checkpoint_id is not None

    @property
    def at_work(self) -> bool:
        """Whether it has its stations: a run stands behind it, or its evaluation has begun."""
        return self.run_id is not None or self.started_at is not None

    @property
    def waits(self) -> bool:
        return not self.at_work and self.state in self.WAITING


class AssignedStation(models.Model):
    """A station's place in an assignment: wanted by one that waits, held (`live`) by one that is at work."""

    assignment = models.ForeignKey(Assignment, on_delete=models.CASCADE, related_name="places")
    station = models.ForeignKey(Station, on_delete=models.CASCADE, related_name="places")
    live = models.BooleanField(default=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["assignment", "station"], name="station_once_in_assignment"),
            models.UniqueConstraint(fields=["station"], condition=Q(live=True), name="one_live_assignment_a_station"),
        ]


class Lease(models.Model):
    """The exclusive right to command a station, held by a run or by an operator; each new one has a higher epoch."""

    station = models.ForeignKey(Station, on_delete=models.CASCADE, related_name="leases")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="leases")
    run = models.ForeignKey("learning.Run", null=True, on_delete=models.CASCADE, related_name="leases")
    epoch = models.PositiveIntegerField()
    granted_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True)  # null = as long as its run lives
    released_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["station"], condition=Q(released_at=None), name="one_live_lease_a_station"),
            models.UniqueConstraint(fields=["station", "epoch"], name="lease_epoch_unique"),
            models.CheckConstraint(
                condition=Q(user=None, run__isnull=False) | Q(user__isnull=False, run=None), name="lease_has_one_holder"
            ),
        ]

    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()


class Episode(models.Model):
    """One attempt at one instruction: the summary of a file in the data folder. Detected and true success stay two
    fields.
    """

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4)
    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="episodes")
    station = models.ForeignKey(Station, on_delete=models.CASCADE, related_name="episodes")
    task = models.ForeignKey(Task, null=True, on_delete=models.SET_NULL, related_name="episodes")
    run = models.ForeignKey("learning.Run", null=True, on_delete=models.SET_NULL, related_name="episodes")
    # The evaluation whose attempt it is; practice knows its run alone.
    assignment = models.ForeignKey(Assignment, null=True, on_delete=models.SET_NULL, related_name="episodes")
    instruction = models.CharField(max_length=300)
    purpose = models.CharField(max_length=16, choices=choices(PURPOSES))
    ending = models.CharField(max_length=32)
    detected_success = models.BooleanField()
    true_success = models.BooleanField(null=True)
    labels = models.JSONField(default=dict, blank=True)  # as in its file, with what people have said since
    asks = models.CharField(max_length=40, blank=True, default="")  # a label that its method wants a person's word on
    steps = models.PositiveIntegerField()
    human_steps = models.PositiveIntegerField(default=0)
    interventions = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField()
    stored_at = models.DateTimeField(default=timezone.now)
    # The newest dataset of corrections that it joined.
    dataset = models.ForeignKey(
        "learning.Dataset", null=True, blank=True, on_delete=models.SET_NULL, related_name="corrections"
    )
    handed_in_at = models.DateTimeField(null=True)  # when the run's job gave it to the learner
    policy = models.ForeignKey("learning.Checkpoint", null=True, on_delete=models.SET_NULL, related_name="episodes")
    reward_model = models.ForeignKey("learning.Checkpoint", null=True, on_delete=models.SET_NULL, related_name="judged")
    threshold = models.FloatField(null=True)
    version = models.PositiveIntegerField(null=True)
    path = models.CharField(max_length=200)  # relative to the data folder
    d_start = models.FloatField(null=True)
    d_end = models.FloatField(null=True)
    return_sum = models.FloatField(null=True)  # sum of r_t = d_start - d_end
    duration_s = models.FloatField()

    class Meta:
        ordering = ["-stored_at"]
        indexes = [
            models.Index(fields=["lab", "-stored_at"]),
            models.Index(fields=["station", "-stored_at"]),
            models.Index(fields=["run", "stored_at"], condition=Q(handed_in_at=None), name="episode_to_hand_in"),
        ]
        constraints = [models.CheckConstraint(condition=Q(purpose__in=PURPOSES), name="episode_purpose_known")]

    def __str__(self) -> str:
        return f"episode {str(self.uuid)[:8]}"

    @property
    def file(self) -> Path:
        return settings.DATA / self.path

    @property
    def frames_dir(self) -> Path:
        return settings.DATA / "frames" / str(self.uuid)


class Intervention(models.Model):
    """A recorded touch. An override lasts from taking the station to handing it back."""

    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="interventions")
    station = models.ForeignKey(Station, on_delete=models.CASCADE, related_name="touches")
    run = models.ForeignKey("learning.Run", null=True, on_delete=models.SET_NULL, related_name="touches")
    episode = models.ForeignKey(Episode, null=True, on_delete=models.SET_NULL, related_name="touches")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    kind = models.CharField(max_length=12, choices=choices(INTERVENTIONS))
    reason = models.CharField(max_length=300, blank=True)
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)
    seconds = models.FloatField(default=0.0)
    human_s = models.FloatField(null=True)  # of the person's time, where they had said that they were going there

    class Meta:
        ordering = ["-started_at"]
        indexes = [models.Index(fields=["lab", "-started_at"])]
        constraints = [models.CheckConstraint(condition=Q(kind__in=INTERVENTIONS), name="intervention_kind_known")]


class HelpRequest(models.Model):
    """A station wants a person (robots/attention.py says when and why). At most one is open a station; it outlives the
    page, the browser and this process, and closes when the need has gone or a person closes it.
    """

    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="help_requests")
    station = models.ForeignKey(Station, on_delete=models.CASCADE, related_name="help_requests")
    kind = models.CharField(max_length=12, choices=choices(NEEDS))
    reason = models.CharField(max_length=300)
    severity = models.CharField(max_length=8, choices=choices(SEVERITIES))
    act = models.CharField(max_length=12)  # the command that helps; "look": none does by itself
    episode = models.UUIDField(null=True)  # the attempt it is about, where it is about one
    p_failure = models.FloatField()
    robot_s = models.FloatField()
    human_s = models.FloatField()
    rank = models.FloatField()
    help_by = models.DateTimeField(null=True)  # afterwards the attempt is over
    opened_at = models.DateTimeField(default=timezone.now)
    acknowledged_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    acknowledged_at = models.DateTimeField(null=True)
    taken_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    taken_at = models.DateTimeField(null=True)
    closed_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    closed_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-opened_at"]
        indexes = [models.Index(fields=["lab", "-opened_at"])]
        constraints = [
            models.UniqueConstraint(
                fields=["station"], condition=Q(closed_at=None), name="one_open_help_request_a_station"
            ),
            models.CheckConstraint(condition=Q(severity__in=SEVERITIES), name="help_request_severity_known"),
        ]

    def __str__(self) -> str:
        return f"{self.station}: {self.reason}"

    @property
    def advice(self) -> str:
        return ADVICE[self.kind]


class Alarm(models.Model):
    """The detector of a station says something else than it did at first of the same policy: d has drifted. One row a
    station and policy; it closes by itself, and may come back then, or by a person, and is over.
    """

    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="alarms")
    station = models.ForeignKey(Station, on_delete=models.CASCADE, related_name="alarms")
    policy = models.ForeignKey("learning.Checkpoint", on_delete=models.CASCADE, related_name="alarms")
    reason = models.CharField(max_length=300)
    opened_at = models.DateTimeField(default=timezone.now)
    closed_at = models.DateTimeField(null=True)
    closed_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    outcome = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-opened_at"]
        indexes = [models.Index(fields=["lab", "-opened_at"])]
        constraints = [models.UniqueConstraint(fields=["station", "policy"], name="one_alarm_a_station_and_policy")]

    def __str__(self) -> str:
        return f"{self.station}: {self.reason}"


class Contact(models.Model):
    """Where a lab's people are told of a help request that nobody has taken up: an address as apprise reads it."""

    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="contacts")
    name = models.CharField(max_length=80)
    address = models.CharField(max_length=500)  # holds secrets (a token, a password): shown without them
    severity = models.CharField(max_length=8, choices=choices(SEVERITIES), default="error")  # and anything worse
    after_s = models.PositiveIntegerField(default=60)  # without anyone taking it up
    told_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=300, blank=True)  # of the last attempt

    class Meta:
        ordering = ["lab", "name"]
        constraints = [models.UniqueConstraint(fields=["lab", "name"], name="contact_name_unique_in_lab")]

    def __str__(self) -> str:
        return self.name


# Upkeep: who did what, who may come in, and what each station's hours were used for

ACTS = (
    "override",
    "override_ended",
    "hand_back",
    "teleoperate",
    "stop",
    "stop_all",
    "clear_stop",
    "pause",
    "resume",
    "reset",
    "self_reset",
    "end_episode",
    "move_keypoint",
    "speed",
    "settings",
    "relabel",
    "assigned",
    "assignment_moved",
    "assignment_edited",
    "assignment_canceled",
    "repeat_ended",
    "body_changed",
    "task_created",
    "task_edited",
    "task_archived",
    "task_restored",
    "maintenance_on",
    "maintenance_off",
    "station_archived",
    "station_restored",
    "station_deleted",
    "dataset_archived",
    "dataset_restored",
    "dataset_deleted",
    "run_archived",
    "run_restored",
    "run_deleted",
    "token_made",
    "token_renewed",
    "member_invited",
    "invitation_revoked",
    "member_joined",
    "role_changed",
    "member_removed",
    "run_launched",
    "run_paused",
    "run_resumed",
    "run_canceled",
    "run_tagged",
    "run_noted",
    "run_view_saved",
    "run_view_renamed",
    "run_view_deleted",
    "sweep_launched",
    "sweep_stopped",
    "dataset_generated",
    "dataset_uploaded",
    "dataset_extended",
    "dataset_edited",
    "dataset_split",
    "dataset_merged",
    "dataset_gathered",
    "dataset_current",
    "import_begun",
    "import_answered",
    "import_canceled",
    "model_archived",
    "model_restored",
    "model_deleted",
    "export_asked",
    "export_deleted",
    "help_acknowledged",
    "help_taken",
    "help_released",
    "help_closed",
    "alarm_closed",
    "checkpoint_promoted",
    "threshold_published",
    "comparison_asked",
    "comparison_canceled",
    "spot_checked",
    "spot_check_undone",
    "contact_added",
    "contact_removed",
    "logged_in",
    "logged_out",
    "log_in_failed",
    "locked_out",
    "password_changed",
    "password_reset",
    "access_token_made",
    "access_token_revoked",
    "access_token_refused",
)


def kept_reference(model: type[models.Model] | str) -> models.ForeignKey[Any, Any]:
    """A reference that no deletion follows or is held up by: the row that was meant may be gone, the record stays."""
    return models.ForeignKey(model, null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")


class Act(models.Model):
    """The audit log: one act of a person, or of a station by itself. PostgreSQL refuses to change, delete or empty it.

    Names stand beside the references, so that the log stays readable when a user or a station is gone.
    """

    at = models.DateTimeField(default=timezone.now)
    lab = kept_reference(Lab)
    user = kept_reference(settings.AUTH_USER_MODEL)
    user_name = models.CharField(max_length=150, blank=True)
    station = kept_reference(Station)
    station_name = models.CharField(max_length=80, blank=True)
    kind = models.CharField(max_length=24)  # one of ACTS
    lease_epoch = models.PositiveIntegerField(null=True)
    reason = models.CharField(max_length=300, blank=True)
    details = models.JSONField(default=dict)
    source = models.CharField(max_length=10)  # page, API, station or server

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["lab", "-id"])]
        triggers = [
            pgtrigger.Protect(name="append_only", operation=pgtrigger.Update | pgtrigger.Delete),
            # Protect knows no TRUNCATE, which would pass every trigger that looks at rows.
            pgtrigger.Trigger(
                name="never_emptied",
                level=pgtrigger.Statement,
                when=pgtrigger.Before,
                operation=pgtrigger.Truncate,
                func="RAISE EXCEPTION 'Cannot truncate %: the audit log is append-only', TG_TABLE_NAME;",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user_name or self.source}: {self.kind} {self.station_name}".strip()


class Invitation(models.Model):
    """A link that makes its one user a member of the lab; only a hash of the link's secret is kept."""

    VALID_FOR = timedelta(days=7)

    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=12, choices=choices(ROLES))
    note = models.CharField(max_length=80, blank=True)  # whom it is for
    token_hash = models.CharField(max_length=64, unique=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    accepted_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    accepted_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(role__in=ROLES), name="invitation_role_known"),
            models.CheckConstraint(
                condition=Q(accepted_at=None) | Q(revoked_at=None), name="invitation_accepted_or_revoked"
            ),
        ]

    def __str__(self) -> str:
        return f"invitation {self.pk}"

    @staticmethod
    def open_now() -> Q:
        """The condition under which a link still works."""
        return Q(accepted_at=None, revoked_at=None, expires_at__gt=timezone.now())


SCOPES = {
    "read": "see what its owner sees: lists, figures, files",
    "launch": "launch, pause and cancel runs; compare and promote checkpoints; make and assign tasks",
    "data": "add and change datasets and episodes",
    "stations": "stop and command stations, answer their help requests",
}


class AccessToken(models.Model):
    """By which a program acts for its owner: no more than the scopes say, and no more than the owner's role now.

    The token is fleet_PREFIX_SECRET. By the prefix its row is found; of the secret there is only a hash.
    """

    DAYS, MOST_DAYS = 90, 365

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="access_tokens")
    lab = models.ForeignKey(Lab, null=True, on_delete=models.CASCADE, related_name="access_tokens")  # null: all labs
    name = models.CharField(max_length=80)
    scopes = models.JSONField(default=list)  # of SCOPES
    prefix = models.CharField(max_length=8, unique=True)
    token_hash = models.CharField(max_length=64)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True)  # to the minute
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(expires_at__gt=models.F("created_at"))
                & Q(expires_at__lte=models.F("created_at") + timedelta(days=366)),
                name="access_token_expires_within_a_year",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_over(self) -> bool:
        return self.revoked_at is not None or self.expires_at <= timezone.now()


class AnsweredCall(models.Model):
    """A call of the API that was done, by the key that its caller gave it: said again it gets the same answer, and is
    not done twice.
    """

    KEPT_FOR = timedelta(days=1)

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=80)
    call = models.CharField(max_length=64)  # hash of what was asked: a key is of one call
    answer = models.JSONField(null=True)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "key"], name="call_once_by_its_key")]


class StationSpan(models.Model):
    """A stretch of time that a station spent in one state, as people saw it; the open one goes on."""

    station = models.ForeignKey(Station, on_delete=models.CASCADE, related_name="spans")
    state = models.CharField(max_length=16, choices=choices(SHOWN_STATES))
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["station", "started_at"]
        indexes = [models.Index(fields=["station", "ended_at"]), models.Index(fields=["ended_at"])]
        constraints = [
            models.UniqueConstraint(fields=["station"], condition=Q(ended_at=None), name="one_open_span_a_station"),
            models.CheckConstraint(condition=Q(state__in=tuple(SHOWN_STATES)), name="span_state_known"),
            models.CheckConstraint(
                condition=Q(ended_at=None) | Q(ended_at__gte=models.F("started_at")), name="span_ends_after_its_start"
            ),
        ]

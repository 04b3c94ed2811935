"""What the fleet is: labs own stations and tasks, assignments give tasks to stations, stations send episodes, people
touch them.

Rows change only in actions/. What must always hold is a constraint of the database: one live lease a station, one
live assignment a station, one row an episode.
"""

import hashlib
import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

ROLES = ("viewer", "supervisor", "researcher", "manager")
STATION_STATES = (
    "offline",
    "idle",
    "practising",
    "evaluating",
    "overridden",
    "needs_person",
    "paused",
    "stopped",
    "waiting",
)
IN_EPISODE = ("practising", "evaluating")  # the states in which an episode of the loaded policy may still be under way
ASSIGNMENT_STATES = ("queued", "underway", "completed", "canceled")
INTERVENTIONS = ("reset", "override", "stop", "clear_stop", "terminate", "pause", "self_reset", "relabel")
PURPOSES = ("demonstration", "practice", "evaluation", "correction")
# What a person has to look at first; 0 = nothing to do. The wall sorts by it.
SEVERITY = {"needs_person": 3, "stopped": 2, "overridden": 1}


def choices(values):
    return [(value, value.replace("_", " ")) for value in values]


def severity(state: str, stop_latched: bool = False) -> int:
    """How urgently a station in this state wants a person."""
    return max(SEVERITY.get(state, 0), SEVERITY["stopped"] if stop_latched else 0)


class Lab(models.Model):
    slug = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=80)

    def __str__(self):
        return self.name

    @property
    def wall_topic(self):
        return f"wall:{self.slug}"


class Membership(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=12, choices=choices(ROLES))

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "lab"], name="one_membership_a_lab"),
            models.CheckConstraint(condition=Q(role__in=ROLES), name="membership_role_known"),
        ]


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
    state = models.CharField(max_length=12, choices=choices(STATION_STATES), default="offline")
    state_since = models.DateTimeField(default=timezone.now)
    reason = models.CharField(max_length=300, blank=True)
    connected = models.BooleanField(default=False)
    last_seen = models.DateTimeField(null=True)
    stop_latched = models.BooleanField(default=False)
    paused = models.BooleanField(default=False)
    taken_over = models.BooleanField(default=False)  # by a person, and nobody has handed it back yet
    speed = models.PositiveSmallIntegerField(default=1)  # 1 = real time, 4, 0 = as fast as it can
    self_reset_after_s = models.FloatField(null=True)
    shuffle_every_s = models.FloatField(default=300.0)
    last_episode = models.UUIDField(null=True)  # the newest episode it told of; a round waits until that one is stored
    software = models.CharField(max_length=80, blank=True)
    renderer = models.CharField(max_length=20, blank=True)
    loaded_checkpoint = models.ForeignKey(
        "learning.Checkpoint", null=True, on_delete=models.SET_NULL, related_name="loaded_on"
    )
    episodes_count = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["lab", "number"]
        constraints = [
            models.UniqueConstraint(fields=["lab", "slug"], name="station_slug_unique_in_lab"),
            models.UniqueConstraint(fields=["lab", "number"], name="station_number_unique_in_lab"),
            models.CheckConstraint(condition=Q(state__in=STATION_STATES), name="station_state_known"),
            models.CheckConstraint(condition=Q(speed__in=(0, 1, 4)), name="station_speed_known"),
        ]

    def __str__(self):
        return self.name

    @property
    def topic(self):
        return f"station:{self.lab.slug}/{self.slug}"

    @property
    def severity(self):
        return severity(self.state, self.stop_latched)

    @property
    def command_group(self):
        """The channel layer group that this station's consumer listens to."""
        return f"station.{self.pk}"

    def settings_json(self):
        return {
            "self_reset_after_s": self.self_reset_after_s,
            "shuffle_every_s": self.shuffle_every_s,
            "speed": self.speed,
        }

    def live_assignment(self):
        place = self.places.filter(live=True).select_related("assignment__task", "assignment__run").first()
        return place.assignment if place else None

    @staticmethod
    def hash_token(token: str) -> str:
        return hashlib.sha256(token.encode()).hexdigest()


class Task(models.Model):
    """What a station shall practise: a family of instructions, with a time limit."""

    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="tasks")
    slug = models.SlugField(max_length=60)
    name = models.CharField(max_length=80)
    family = models.CharField(max_length=80)
    time_limit_steps = models.PositiveIntegerField()
    description = models.TextField(blank=True)

    class Meta:
        ordering = ["lab", "name"]
        constraints = [models.UniqueConstraint(fields=["lab", "slug"], name="task_slug_unique_in_lab")]

    def __str__(self):
        return self.name


class Assignment(models.Model):
    """A task given to stations. Queued until a run stands behind it, then underway: the stations practise for that
    run.
    """

    STATES = ASSIGNMENT_STATES
    LIVE = ("queued", "underway")
    TRANSITIONS = {"queued": ("underway", "canceled"), "underway": ("completed", "canceled")}

    lab = models.ForeignKey(Lab, on_delete=models.CASCADE, related_name="assignments")
    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="assignments")
    stations = models.ManyToManyField(Station, through="AssignedStation", related_name="assignments")
    run = models.ForeignKey("learning.Run", null=True, on_delete=models.SET_NULL, related_name="assignments")
    state = models.CharField(max_length=12, choices=choices(STATES), default="queued")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [models.CheckConstraint(condition=Q(state__in=ASSIGNMENT_STATES), name="assignment_state_known")]

    def __str__(self):
        return f"assignment {self.pk}"


class AssignedStation(models.Model):
    """A station's place in an assignment; `live` until the assignment ends or the station is moved to another one."""

    assignment = models.ForeignKey(Assignment, on_delete=models.CASCADE, related_name="places")
    station = models.ForeignKey(Station, on_delete=models.CASCADE, related_name="places")
    live = models.BooleanField(default=True)

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

    def has_expired(self):
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
    instruction = models.CharField(max_length=300)
    purpose = models.CharField(max_length=16, choices=choices(PURPOSES))
    ending = models.CharField(max_length=16)
    detected_success = models.BooleanField()
    true_success = models.BooleanField(null=True)
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

    def __str__(self):
        return f"episode {str(self.uuid)[:8]}"

    @property
    def file(self):
        return settings.DATA / self.path

    @property
    def frames_dir(self):
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

    class Meta:
        ordering = ["-started_at"]
        indexes = [models.Index(fields=["lab", "-started_at"])]
        constraints = [models.CheckConstraint(condition=Q(kind__in=INTERVENTIONS), name="intervention_kind_known")]

"""What learning is: datasets of demonstrations, runs of a recipe, the checkpoints and metrics that runs leave behind.

The Run row is the truth about a run: which attempt supervises it, when that one was last alive, and which policy
version the stations practise with. Rows change only in actions.py, archive.py and practice/actions/.
"""

import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from robots.protocol import Policy
from training.methods.registry import ROLES, Method, method_of, recipe_from_json
from training.recipes import Recipe

DATASET_STATES = ("generating", "ready", "failed")
IMPORT_STATES = ("uploading", "checking", "asking", "importing", "ready", "failed", "canceled")
IMPORT_KINDS = ("folder", "archive")
EXPORT_STATES = ("making", "ready", "failed")
EXPORT_KINDS = ("lerobot", "mcap", "mp4")
RUN_STATES = ("queued", "starting", "running", "pausing", "paused", "canceling", "canceled", "failed", "completed")


def choices(values: Iterable[str]) -> list[tuple[str, str]]:
    return [(value, value) for value in values]


class Dataset(models.Model):
    """Episodes admitted for training: one version of what goes by its name.

    What it holds is said by its rows of DatasetEpisode, and never changes: an edit makes a new version, whose parent
    this is. A dataset with content of its own on disk, one file of episodes or the folder of a LeRobot dataset, is a
    root; every other is rows alone, that refer to roots.
    """

    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="datasets")
    name = models.CharField(max_length=80)
    version = models.PositiveIntegerField(default=1)  # counts those of one name
    current = models.BooleanField(default=True)  # whether it is what its name shows
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="children")
    # Where it came from: {"by": what made it, ...}; docs/datasets.md names what each says.
    origin = models.JSONField(default=dict, blank=True)
    tags = models.JSONField(default=list, blank=True)
    notes = models.TextField(blank=True)
    listed = models.BooleanField(default=False)  # its rows are there; of a root of before a job makes them
    families = models.JSONField(default=list)  # names of task families
    # Embodiment.to_json(), as the body was when its episodes were recorded; {}: a row of before, of an unknown body.
    body = models.JSONField(default=dict, blank=True)
    path = models.CharField(max_length=200, blank=True)  # of a root, relative to the data folder
    episodes = models.PositiveIntegerField(default=0)  # while generating: how many are wanted
    steps = models.PositiveIntegerField(default=0)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(default=timezone.now)
    state = models.CharField(max_length=12, choices=choices(DATASET_STATES), default="generating")
    progress = models.FloatField(default=0.0)
    heartbeat_at = models.DateTimeField(null=True)
    error = models.TextField(blank=True)
    seed = models.BigIntegerField(default=0)
    archived_at = models.DateTimeField(null=True)  # hidden, and nothing learns from it

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["lab", "name"], condition=Q(current=True), name="dataset_name_unique_in_lab"
            ),
            models.UniqueConstraint(fields=["lab", "name", "version"], name="dataset_version_unique"),
            models.CheckConstraint(condition=Q(state__in=DATASET_STATES), name="dataset_state_known"),
        ]

    def __str__(self) -> str:
        return self.name if self.version == 1 else f"{self.name} v{self.version}"

    @property
    def is_root(self) -> bool:
        """Whether it has content of its own on disk."""
        return bool(self.path)

    @property
    def file(self) -> Path:
        """Of a root: a file of episodes, or the folder of a LeRobot dataset."""
        return settings.DATA / self.path


class DatasetEpisode(models.Model):
    """An episode as a version of a dataset has it: where it lies, from where to where, and what people said of it."""

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="rows")
    position = models.PositiveIntegerField()  # in the dataset, from 0
    source = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="sourced")  # the root
    source_index = models.PositiveIntegerField()  # within the root
    start = models.PositiveIntegerField(default=0)  # first step that counts
    stop = models.PositiveIntegerField()  # one after the last; observations go one further
    uuid = models.UUIDField()  # of the episode as it was recorded
    task = models.CharField(max_length=300)
    instruction = models.CharField(max_length=300)
    steps = models.PositiveIntegerField()  # stop - start
    purpose = models.CharField(max_length=16)
    ending = models.CharField(max_length=32)
    detected_success = models.BooleanField()
    true_success = models.BooleanField(null=True)
    flagged = models.BooleanField(default=False)
    tags = models.JSONField(default=list, blank=True)
    note = models.TextField(blank=True)
    weight = models.FloatField(default=1.0)  # as so many episodes it counts in learning
    quality = models.JSONField(default=dict, blank=True)  # robots/quality.py, of the whole as it was recorded
    unusual = models.JSONField(default=list, blank=True)  # beside the others of this version: sentences

    class Meta:
        ordering = ["dataset", "position"]
        constraints = [
            models.UniqueConstraint(fields=["dataset", "position"], name="position_unique_in_dataset"),
            models.CheckConstraint(
                condition=Q(stop__gt=F("start")) & Q(steps=F("stop") - F("start")), name="dataset_episode_has_steps"
            ),
            models.CheckConstraint(condition=Q(weight__gt=0), name="dataset_episode_counts"),
        ]

    def __str__(self) -> str:
        return f"episode {self.position} of {self.dataset}"


class Import(models.Model):
    """A dataset on its way in: looked at, asked about where something is doubtful, then made in a job. Its Dataset is
    there once it is whole.
    """

    LIVE = ("uploading", "checking", "asking", "importing")
    WORKED = ("checking", "importing")  # by a job

    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="imports")
    name = models.CharField(max_length=80)  # of the dataset to be
    kind = models.CharField(max_length=8, choices=choices(IMPORT_KINDS))
    place = models.CharField(max_length=1000)  # the folder on the server, or what the archive was called
    state = models.CharField(max_length=12, choices=choices(IMPORT_STATES), default="checking")
    progress = models.FloatField(default=0.0)
    phase = models.CharField(max_length=60, blank=True)
    error = models.TextField(blank=True)
    # [{level, code, text, file, episode, field}]: what was found; robots/lerobot/layout.py has the codes.
    problems = models.JSONField(default=list, blank=True)
    # [{code, text, answer: null|true|false}]: what a person has to say before it goes on.
    questions = models.JSONField(default=list, blank=True)
    facts = models.JSONField(default=dict, blank=True)  # what the folder says of itself
    picture_width = models.PositiveIntegerField(null=True)  # pixels: pictures are made so small
    size = models.BigIntegerField(default=0)  # bytes of the archive, as announced
    received = models.BigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)  # of the archive, as announced
    dataset = models.ForeignKey(Dataset, null=True, on_delete=models.SET_NULL, related_name="imports")
    heartbeat_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)  # of jobs that died at it
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [models.CheckConstraint(condition=Q(state__in=IMPORT_STATES), name="import_state_known")]

    def __str__(self) -> str:
        return f"import {self.pk} of {self.name}"

    @property
    def folder(self) -> Path:
        """All that is half of it lies here, and is removed when it has ended."""
        return settings.DATA / "imports" / str(self.pk)

    @property
    def upload(self) -> Path:
        """Where the archive grows."""
        return self.folder / "upload"

    @property
    def is_live(self) -> bool:
        return self.state in self.LIVE


class Export(models.Model):
    """A file made of a version, or of one of its episodes, to be downloaded."""

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="exports")
    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="exports")
    kind = models.CharField(max_length=8, choices=choices(EXPORT_KINDS))
    position = models.PositiveIntegerField(null=True)  # of the one episode
    camera = models.CharField(max_length=100, blank=True)  # of an MP4
    quality = models.CharField(max_length=8, blank=True)  # of the video
    state = models.CharField(max_length=8, choices=choices(EXPORT_STATES), default="making")
    progress = models.FloatField(default=0.0)
    phase = models.CharField(max_length=60, blank=True)
    error = models.TextField(blank=True)
    size = models.BigIntegerField(default=0)  # bytes
    sha256 = models.CharField(max_length=64, blank=True)
    heartbeat_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)

    SUFFIXES = {"lerobot": ".zip", "mcap": ".mcap", "mp4": ".mp4"}

    class Meta:
        ordering = ["-id"]
        constraints = [models.CheckConstraint(condition=Q(state__in=EXPORT_STATES), name="export_state_known")]

    def __str__(self) -> str:
        return f"export {self.pk} of {self.dataset}"

    @property
    def file(self) -> Path:
        return settings.DATA / "exports" / f"{self.pk}{self.SUFFIXES[self.kind]}"

    @property
    def file_name(self) -> str:
        """As who downloads it gets it."""
        one = "" if self.position is None else f"-episode-{self.position}"
        camera = f"-{self.camera}" if self.camera else ""
        return f"dataset-{self.dataset_id}{one}{camera}{self.SUFFIXES[self.kind]}"


class Run(models.Model):
    """One execution of a method's recipe: on a dataset, or from a parent run, some of them on stations."""

    LIVE = ("queued", "starting", "running", "pausing", "paused", "canceling")
    SUPERVISED = ("starting", "running", "pausing", "paused", "canceling")  # a job holds it
    TRANSITIONS = {
        "queued": ("starting", "canceled", "failed"),
        "starting": ("running", "canceling", "completed", "failed", "queued"),
        "running": ("pausing", "canceling", "completed", "failed", "queued"),
        "pausing": ("paused", "running", "canceling", "completed", "failed", "queued"),
        "paused": ("running", "canceling", "completed", "failed", "queued"),
        "canceling": ("canceled", "completed", "failed"),  # completed: ended because its budget was reached
        "canceled": (),
        "failed": (),
        "completed": (),
    }
    MAX_DEATHS = 3

    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="runs")
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=40)  # of its method, by which it is checked (training/methods/registry.py)
    state = models.CharField(max_length=12, choices=choices(RUN_STATES), default="queued")
    recipe = models.JSONField()
    dataset = models.ForeignKey(Dataset, null=True, on_delete=models.PROTECT, related_name="runs")
    # What people drove, learned from together with the demonstrations.
    corrections = models.ForeignKey(Dataset, null=True, on_delete=models.PROTECT, related_name="corrected_runs")
    parent = models.ForeignKey("self", null=True, on_delete=models.PROTECT, related_name="children")
    attempt = models.PositiveIntegerField(default=0)  # number of the claim; whatever a job reports carries its own
    # How often in a row its training process was killed, without a state saved in between that it could go on from.
    deaths = models.PositiveIntegerField(default=0)
    heartbeat_at = models.DateTimeField(null=True)
    pause_wanted = models.BooleanField(default=False)  # survives a restart of the job
    progress = models.FloatField(default=0.0)
    phase = models.CharField(max_length=60, blank=True)
    eta_s = models.FloatField(null=True)
    error = models.TextField(blank=True)
    # The round under way of a run that practises: which version is practised, how many steps it has and needs, whether
    # stations hold.
    open_version = models.PositiveIntegerField(null=True)
    round_steps = models.PositiveIntegerField(default=0)
    round_target = models.PositiveIntegerField(default=0)
    holding = models.BooleanField(default=False)
    practice_episodes = models.PositiveIntegerField(default=0)
    kept_version = models.PositiveIntegerField(null=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    archived_at = models.DateTimeField(null=True)  # hidden, and nothing starts from it

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=RUN_STATES), name="run_state_known"),
            models.CheckConstraint(
                condition=Q(dataset__isnull=False) | Q(parent__isnull=False), name="run_has_its_source"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def topic(self) -> str:
        return f"run:{self.lab.slug}/{self.pk}"

    @property
    def dir(self) -> Path:
        return settings.DATA / "runs" / str(self.pk)

    @property
    def is_live(self) -> bool:
        return self.state in self.LIVE

    @property
    def method(self) -> Method:
        return method_of(self.kind)

    def load_recipe(self) -> Recipe:
        return recipe_from_json(self.recipe)

    def practises(self) -> bool:
        """Whether its stations shall run episodes now."""
        return self.method.practises and self.state in ("starting", "running") and not self.pause_wanted

    def published_policy(self) -> "Checkpoint | None":
        """The policy that its stations shall act with."""
        return self.checkpoints.filter(role="policy", published_at__isnull=False).order_by("-version").first()

    def newest_checkpoint(self, role: str) -> "Checkpoint | None":
        return self.checkpoints.filter(role=role).order_by("-version", "-created_at").first()

    @property
    def origin(self) -> "Run":
        """The run of demonstrations that it goes back to, or is."""
        run = self
        while "dataset" not in run.method.needs and run.parent is not None:
            run = run.parent
        return run

    @property
    def demonstrations(self) -> list[Dataset]:
        """The datasets that it goes back to: the demonstrations, and what people drove beside them."""
        origin = self.origin
        return [each for each in (origin.dataset, origin.corrections) if each is not None]

    @property
    def body(self) -> dict[str, Any]:
        """As it was when its demonstrations were recorded: what its policies were trained for. {}: not known."""
        return next((each.body for each in self.demonstrations if each.body), {})

    @property
    def judge(self) -> "Run":
        """The run whose reward model judges all that came of it: it makes one itself, or goes back to it."""
        run = self
        while "reward_model" not in run.method.roles and run.parent is not None:
            run = run.parent
        return run

    def best_checkpoint(self, role: str) -> "Checkpoint | None":
        """What another run starts from: the policy that was kept, and the reward model that judged it."""
        if role == "reward_model":
            return self.judge.newest_checkpoint(role)
        kept = None
        if self.kept_version is not None:
            kept = self.checkpoints.filter(role=role, version=self.kept_version).first()
        return kept or self.newest_checkpoint(role)

    def policy_message(self, policy: "Checkpoint") -> Policy:
        """What a station is told to load: the policy, and the frozen reward model that judges it."""
        judge = self.best_checkpoint("reward_model")
        if judge is None or judge.threshold is None:  # a method that publishes before it has saved its judge
            raise ValueError(f"{self} publishes {policy}, but no reward model with a threshold is there to judge it.")
        return Policy(
            checkpoint=str(policy.uuid),
            version=policy.version,
            url=policy.url,
            sha256=policy.sha256,
            reward_model=str(judge.uuid),
            reward_model_url=judge.url,
            reward_model_sha256=judge.sha256,
            threshold=judge.threshold,
            consecutive=judge.consecutive or 1,
        )


class DataFolder(models.Model):
    """The one row by which the database knows its data folder: the same id lies there in fleet.id."""

    number = models.PositiveSmallIntegerField(primary_key=True, default=1)
    fleet = models.CharField(max_length=80)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(number=1), name="one_data_folder")]


class Checkpoint(models.Model):
    """Immutable weights on disk. The id is the learner's, so an episode's `policy` names the row that acted."""

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="checkpoints")
    role = models.CharField(max_length=12, choices=choices(ROLES))
    version = models.PositiveIntegerField()
    path = models.CharField(max_length=200)  # relative to the data folder
    sha256 = models.CharField(max_length=64)
    threshold = models.FloatField(null=True)
    consecutive = models.PositiveIntegerField(null=True)
    published_at = models.DateTimeField(null=True)
    loaded_everywhere_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["created_at", "version"]
        constraints = [models.CheckConstraint(condition=Q(role__in=ROLES), name="checkpoint_role_known")]

    def __str__(self) -> str:
        return f"{self.role.replace('_', ' ')} v{self.version}"

    @property
    def file(self) -> Path:
        return settings.DATA / self.path

    @property
    def url(self) -> str:
        """Where a station fetches it."""
        return f"/api/station/checkpoints/{self.uuid}"

    def row(self) -> dict[str, Any]:
        """What the API and the run's page show of it."""
        return {
            "id": str(self.uuid),
            "role": self.role,
            "version": self.version,
            "threshold": self.threshold,
            "created_at": self.created_at.isoformat(),
            "published_at": self.published_at.isoformat() if self.published_at else None,
            "loaded_everywhere_at": self.loaded_everywhere_at.isoformat() if self.loaded_everywhere_at else None,
            "staleness_s": self.staleness_s,
        }

    @property
    def staleness_s(self) -> float | None:
        """From publication until every connected station of the run had loaded it."""
        if self.published_at is None or self.loaded_everywhere_at is None:
            return None
        return (self.loaded_everywhere_at - self.published_at).total_seconds()


class Metric(models.Model):
    """One line of a run's metrics.jsonl; `seq` is its line number, so reading the file again stores nothing twice."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="metrics")
    seq = models.PositiveIntegerField()
    kind = models.CharField(max_length=20)
    data = models.JSONField()
    at = models.DateTimeField()

    class Meta:
        ordering = ["run", "seq"]
        constraints = [models.UniqueConstraint(fields=["run", "seq"], name="metric_seq_unique_in_run")]
        indexes = [models.Index(fields=["run", "kind", "seq"])]

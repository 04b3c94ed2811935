"""What learning is: datasets of demonstrations, runs of a recipe, the checkpoints and metrics that runs leave behind.

The Run row is the truth about a run: which attempt supervises it, when that one was last alive, and which policy
version the stations practise with. Rows change only in actions.py, archive.py and practice/actions/.
"""

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from robots.protocol import Policy
from training.methods.registry import ROLES, Method, method_of, recipe_from_json
from training.model_folders import STORE
from training.recipes import Recipe

DATASET_STATES = ("generating", "ready", "failed")
IMPORT_STATES = ("uploading", "checking", "asking", "importing", "ready", "failed", "canceled")
IMPORT_KINDS = ("folder", "archive")
# What is imported -> what who imports it must be allowed to do
IMPORTED = {"dataset": "upload_dataset", "model": "add_model"}
EXPORT_STATES = ("making", "ready", "failed")
EXPORT_KINDS = ("lerobot", "mcap", "mp4")
SWEEP_STATES = ("running", "stopped", "completed", "failed")
SAMPLERS = {"grid": "every combination", "random": "at random", "tpe": "TPE: where it went well so far"}
PRUNERS = {
    "": "none: every run goes to its end",
    "median": "worse than the median of the others at that point",
    "halving": "not among the best third at each rung (successive halving)",
}
# Which kind of machine a run wants; a worker says which it takes.
QUEUES = {"cpu": "processors alone", "gpu": "a graphics card"}
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
    # What its rows come to (listing.py); null: nobody has asked yet.
    summary = models.JSONField(null=True, blank=True)
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

    # position_unique_in_dataset is its index too.
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="rows", db_index=False)
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


class PretrainedModel(models.Model):
    """A pretrained model that runs of the lab may build on. Its files lie in the store, which all labs share, in a
    folder called by its sha256 (training/model_folders.py).
    """

    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="pretrained_models")
    sha256 = models.CharField(max_length=64)  # of its files' names and sums
    name = models.CharField(max_length=80)
    architecture = models.CharField(max_length=100)
    kind = models.CharField(max_length=20)  # what it is first of all: text | vision | vision_language
    serves = models.JSONField(default=list)  # the kinds that it can stand for
    licence = models.CharField(max_length=100)  # "unknown" where its folder doesn't say
    size = models.BigIntegerField()  # bytes of all files
    files = models.JSONField()  # [{name, sha256, size}]: nothing else of its folder is ever handed out
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(default=timezone.now)
    archived_at = models.DateTimeField(null=True)  # no new run may build on it

    class Meta:
        ordering = ["-id"]
        verbose_name = "pretrained model"
        constraints = [models.UniqueConstraint(fields=["lab", "sha256"], name="model_unique_in_lab")]

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        return settings.DATA / STORE / self.sha256

    def as_message(self) -> dict[str, Any]:
        """As a policy message names it (robots/protocol.py)."""
        return {"sha256": self.sha256, "files": self.files}


class Import(models.Model):
    """A dataset, or a pretrained model, on its way in: looked at, asked about where something is doubtful, then made in
    a job. Its Dataset or PretrainedModel is there once it is whole.
    """

    LIVE = ("uploading", "checking", "asking", "importing")
    WORKED = ("checking", "importing")  # by a job

    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="imports")
    of = models.CharField(max_length=8, choices=choices(IMPORTED), default="dataset")
    name = models.CharField(max_length=80)  # of what it will be
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
    model = models.ForeignKey(PretrainedModel, null=True, on_delete=models.SET_NULL, related_name="imports")
    heartbeat_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)  # of jobs that died at it
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=IMPORT_STATES), name="import_state_known"),
            models.CheckConstraint(condition=Q(of__in=list(IMPORTED)), name="import_of_known"),
        ]

    def __str__(self) -> str:
        return f"import {self.pk} of {self.name}"

    @property
    def permission(self) -> str:
        """What who changes it must be allowed to do (fleetui/access.py)."""
        return IMPORTED[self.of]

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
        "canceled": ("queued",),  # resumed: it goes on in its directory, with the weights of the state saved last
        "failed": ("queued",),
        "completed": (),
    }
    MAX_DEATHS = 3

    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="runs")
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=40)  # of its method, by which it is checked (training/methods/registry.py)
    state = models.CharField(max_length=12, choices=choices(RUN_STATES), default="queued")
    recipe = models.JSONField()
    queue = models.CharField(max_length=8, choices=list(QUEUES.items()), default="cpu")
    worker = models.CharField(max_length=60, blank=True)  # the name of the one that claimed it last
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
    tags = models.JSONField(default=list, blank=True)  # words, sorted
    notes = models.TextField(blank=True)
    sweep = models.ForeignKey("Sweep", null=True, on_delete=models.PROTECT, related_name="runs")
    stopped_early = models.BooleanField(default=False)  # by its sweep: what it had shown promised too little
    # What its processes took, of all samples so far (fleetui/learning/resources.py says of what); {}: not measured.
    resources = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=RUN_STATES), name="run_state_known"),
            models.CheckConstraint(condition=Q(queue__in=list(QUEUES)), name="run_queue_known"),
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
        """What another run starts from now: its policy that the lab promoted, else the one that was kept; and the
        reward model that judged it, in the version that is in force.
        """
        if role == "reward_model":
            return self.reward_model_at(None)
        default = Promotion.newest(self.lab, self.body.get("name", ""))
        if default is not None and default.checkpoint is not None and default.checkpoint.run_id == self.pk:
            return default.checkpoint
        kept = None
        if self.kept_version is not None:
            kept = self.checkpoints.filter(role=role, version=self.kept_version).first()
        return kept or self.newest_checkpoint(role)

    def reward_model_at(self, moment: datetime | None) -> "Checkpoint | None":
        """The version of its reward model that was in force at a moment (None: now). What began then keeps it: a
        detector that changed under way would judge half of a run's attempts by another rule.
        """
        judge = self.judge
        chosen = Promotion.objects.filter(run=judge, role="reward_model").select_related("checkpoint__run")
        if moment is not None:
            chosen = chosen.filter(at__lte=moment)
        if (newest := chosen.first()) is not None and newest.checkpoint is not None:
            return newest.checkpoint
        own = judge.checkpoints.filter(role="reward_model", derived_from=None)
        return own.order_by("-version", "-created_at").first()

    def policy_message(self, policy: "Checkpoint", moment: datetime | None = None) -> Policy:
        """What a station is told to load: the policy, and the frozen reward model that judges it, as it was in force
        when the run, or what began at `moment`, began; none where nothing in the run's descent makes one.
        """
        if "reward_model" not in self.judge.method.roles:
            return Policy(
                checkpoint=str(policy.uuid),
                version=policy.version,
                url=policy.url,
                sha256=policy.sha256,
                models=self._models_message([policy]),
            )
        judge = self.reward_model_at(moment or self.started_at)
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
            models=self._models_message([policy, judge]),
        )

    def _models_message(self, checkpoints: "list[Checkpoint]") -> tuple[dict[str, Any], ...]:
        """The pretrained models that these stand on, as stations are told of them."""
        named = {sha256 for each in checkpoints for sha256 in each.pretrained}
        rows = PretrainedModel.objects.filter(lab=self.lab_id, sha256__in=named).order_by("sha256")
        return tuple(each.as_message() for each in rows)


class Worker(models.Model):
    """A process that takes runs, on any machine that has the data folder: what it said of itself, and when last."""

    HEARD_WITHIN = timedelta(seconds=20)  # it says so every few seconds

    name = models.CharField(max_length=60, unique=True)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    folder = models.CharField(max_length=1000)  # where it has the data folder
    main = models.BooleanField(default=False)  # it also does what is no run, and finds what crashed
    queues = models.JSONField(default=list)  # of QUEUES
    trainings = models.PositiveIntegerField()  # so many at a time
    gpus = models.JSONField(default=list)  # names of its graphics cards
    started_at = models.DateTimeField(default=timezone.now)
    heard_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)  # in good order

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_heard(self) -> bool:
        return self.ended_at is None and self.heard_at > timezone.now() - self.HEARD_WITHIN

    @property
    def address(self) -> str:
        """The Celery queue by which it alone is told of runs."""
        return f"worker.{self.name}"


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
    pretrained = models.JSONField(default=list, blank=True)  # the models that it stands on, by their sha256
    # A reward model with the same weights and another threshold: the one whose weights it has.
    derived_from = models.ForeignKey("self", null=True, on_delete=models.PROTECT, related_name="derived")
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
    def weights(self) -> "Checkpoint":
        """Itself, or the one whose weights it has."""
        return self.derived_from or self

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


class Promotion(models.Model):
    """From then on this checkpoint is used where nobody names one. The newest row of a scope is in force, and going
    back is one more row, so the rows are their own history.

    A policy is promoted for a body: it is the lab's default. A reward model is promoted for the run that trained it:
    of its versions, which differ in the threshold alone, it judges what begins from then on.
    """

    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="promotions")
    role = models.CharField(max_length=12, choices=choices(ROLES))
    body = models.CharField(max_length=80, blank=True)  # the embodiment's name; of a reward model ""
    run = models.ForeignKey(Run, null=True, on_delete=models.CASCADE, related_name="promotions")  # of a policy null
    # null: there is no default any more
    checkpoint = models.ForeignKey(Checkpoint, null=True, on_delete=models.PROTECT, related_name="promotions")
    reason = models.CharField(max_length=300, blank=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["lab", "role", "body", "-id"])]
        constraints = [
            models.CheckConstraint(
                condition=Q(role="policy", run=None) | Q(role="reward_model", run__isnull=False),
                name="promotion_has_its_scope",
            )
        ]

    def __str__(self) -> str:
        return f"promotion {self.pk}"

    @classmethod
    def newest(cls, lab: Any, body: str) -> "Promotion | None":
        """The one by which the lab has its default policy for a body; its checkpoint may be None."""
        rows = cls.objects.filter(lab=lab, role="policy", body=body)
        return rows.select_related("checkpoint__run", "user").first()

    @classmethod
    def default_runs(cls, lab: Any) -> dict[str, int]:
        """By body: the run of the policy that is the lab's default now."""
        newest = cls.objects.filter(lab=lab, role="policy").order_by("body", "-id").distinct("body")
        rows = newest.values_list("body", "checkpoint__run_id")
        return {body: run for body, run in rows if run is not None}


COMPARISON_STATES = ("queued", "running", "completed", "failed", "canceled")


class Comparison(models.Model):
    """One policy evaluated anew in simulation, or two on the same attempts: the same starts, words and limits."""

    LIVE = ("queued", "running")

    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="comparisons")
    first = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="compared_first")
    second = models.ForeignKey(Checkpoint, null=True, on_delete=models.PROTECT, related_name="compared_second")
    task = models.ForeignKey("fleet.Task", on_delete=models.PROTECT, related_name="comparisons")
    # As the task was when it was asked for: an edit must not change what a figure means.
    time_limit = models.PositiveIntegerField()
    edge_margin = models.FloatField(null=True)
    episodes = models.PositiveIntegerField()
    seed = models.BigIntegerField()
    state = models.CharField(max_length=12, choices=choices(COMPARISON_STATES), default="queued")
    progress = models.FloatField(default=0.0)
    heartbeat_at = models.DateTimeField(null=True)
    error = models.TextField(blank=True)
    # {"first": Evaluation.to_json(), "second": ... | None, "difference": Difference.to_json() | None}
    results = models.JSONField(default=dict, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=COMPARISON_STATES), name="comparison_state_known"),
            models.CheckConstraint(
                condition=Q(second=None) | ~Q(second=models.F("first")), name="comparison_of_two_policies"
            ),
        ]

    def __str__(self) -> str:
        return f"comparison {self.pk}"

    @property
    def is_live(self) -> bool:
        return self.state in self.LIVE


class Curve(models.Model):
    """d at each observation of an episode, as its station said it: what the studio reads of thousands at once, without
    opening their files.
    """

    episode = models.OneToOneField("fleet.Episode", primary_key=True, on_delete=models.CASCADE, related_name="curve")
    d = models.BinaryField()  # float32 [T + 1], little-endian; NaN where no reward model ran
    # |d - 20| at 20 steps before the detector ended the attempt; null: it did not, or the attempt was shorter.
    error = models.FloatField(null=True)
    # The episode's own, here for the index by which the newest and the first of a station's policy are found.
    station = models.ForeignKey("fleet.Station", on_delete=models.CASCADE, related_name="+")
    policy = models.ForeignKey(Checkpoint, null=True, on_delete=models.SET_NULL, related_name="+")
    # The reward model, or the one whose weights it has: d is the same, whatever the threshold.
    weights = models.ForeignKey(Checkpoint, null=True, on_delete=models.SET_NULL, related_name="curves")
    stored_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["weights", "-stored_at"]),
            models.Index(
                fields=["station", "policy", "stored_at"], condition=Q(error__isnull=False), name="curve_with_error"
            ),
        ]


class SpotCheck(models.Model):
    """A detected success that was drawn at random for a person to look at. Only such answers count in the published
    bound of false detections: what people label of their own choice is no random sample.
    """

    episode = models.OneToOneField("fleet.Episode", on_delete=models.CASCADE, related_name="spot_check")
    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="spot_checks")
    task = models.ForeignKey("fleet.Task", null=True, on_delete=models.SET_NULL, related_name="spot_checks")
    policy = models.ForeignKey(Checkpoint, null=True, on_delete=models.SET_NULL, related_name="spot_checks")
    reward_model = models.ForeignKey(Checkpoint, null=True, on_delete=models.SET_NULL, related_name="spot_checks_of_it")
    created_at = models.DateTimeField(default=timezone.now)
    answer = models.BooleanField(null=True)  # whether it was a success; null: nobody said, or nobody can tell
    answered_at = models.DateTimeField(null=True)  # null: it waits
    answered_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    before = models.BooleanField(null=True)  # the episode's true success before the answer, for the undo

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["lab", "-id"], condition=Q(answered_at=None), name="spot_check_waits"),
            models.Index(fields=["policy", "task"], condition=Q(answer__isnull=False), name="spot_check_answered"),
        ]

    def __str__(self) -> str:
        return f"spot check {self.pk}"


class RunView(models.Model):
    """The page of runs as somebody wants to see it again: filters, columns and order, shared in the lab."""

    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="run_views")
    name = models.CharField(max_length=60)
    query = models.CharField(max_length=2000, blank=True)  # of the page's address
    author = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]
        verbose_name = "view"
        constraints = [models.UniqueConstraint(fields=["lab", "name"], name="run_view_name_unique_in_lab")]

    def __str__(self) -> str:
        return self.name


class Sweep(models.Model):
    """A search over settings of a method's recipe, one run after the other, under a budget.

    The row and its runs are the truth: what to try next is found from what they reached, anew each time.
    """

    lab = models.ForeignKey("fleet.Lab", on_delete=models.CASCADE, related_name="sweeps")
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=40)  # of its runs' method
    recipe = models.JSONField()  # what its runs have in common
    dataset = models.ForeignKey(Dataset, null=True, on_delete=models.PROTECT, related_name="sweeps")
    corrections = models.ForeignKey(Dataset, null=True, on_delete=models.PROTECT, related_name="+")
    parent = models.ForeignKey(Run, null=True, on_delete=models.PROTECT, related_name="sweeps_from_it")
    # Setting -> {"choices": [...]}, or {"low", "high", "log"}: what may be tried.
    space = models.JSONField()
    sampler = models.CharField(max_length=8, choices=choices(SAMPLERS))
    pruner = models.CharField(max_length=8, choices=choices(PRUNERS), blank=True)
    objective = models.CharField(max_length=80)  # "KIND.KEY" of the metrics: its last value counts
    maximize = models.BooleanField(default=True)
    budget_runs = models.PositiveIntegerField()
    budget_hours = models.FloatField(null=True)  # of all its runs together
    at_once = models.PositiveSmallIntegerField(default=1)
    queue = models.CharField(max_length=8, choices=list(QUEUES.items()), default="cpu")  # of its runs
    state = models.CharField(max_length=12, choices=choices(SWEEP_STATES), default="running")
    error = models.TextField(blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=SWEEP_STATES), name="sweep_state_known"),
            models.CheckConstraint(condition=Q(budget_runs__gte=1), name="sweep_has_a_budget"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def method(self) -> Method:
        return method_of(self.kind)

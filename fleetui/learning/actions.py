"""What changes learning: here its rows are written, its jobs enqueued and its live messages emitted. What practice
adds to a run, the round under way and what was published, is written above, in practice/actions/.

People launch, pause and cancel here; the job that supervises a run (jobs.py) reports here. The Run row decides who
supervises: claiming is one conditional UPDATE, and whatever a job reports carries its attempt, so a job that lost the
run changes nothing. Who builds on runs hears of each new state by the signal run_moved.
"""

import itertools
import os
import shutil
import time
import uuid as uuids
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict, Unpack

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid, Refused, TooLarge
from fleetui.celery import app as celery_app
from fleetui.fleet import uploads
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.bodies import what_changed
from fleetui.fleet.models import Episode, Lab
from fleetui.fleet.names import checked_name, shown
from fleetui.learning import pretrained, selectors
from fleetui.learning.listing import list_root
from fleetui.learning.models import Checkpoint, DataFolder, Dataset, Metric, Run, Worker
from fleetui.learning.signals import run_moved
from fleetui.messages import CheckpointsChanged, MetricsAdded, RunChanged, send_on_commit
from robots.atomic_files import replacing, write_atomically
from robots.embodiments import EMBODIMENTS, differences, get_embodiment
from robots.episodes import LARGEST_UPLOAD, EpisodeError, read_episodes, write_episodes
from robots.episodes import Episode as RecordedEpisode
from robots.lerobot.assembling import facts_of
from robots.tasks import TASKS
from robots.worlds import WORLDS
from training.checkpoint_files import FileError, read_description
from training.methods.registry import Method, recipe_from_json
from training.recipes import Recipe, RecipeError
from training.run_dir import sha256_of

UNDER_WAY = ("starting", "running", "pausing", "paused")  # held by a job that is not told to end it
STALE_AFTER = timedelta(seconds=10)  # a job heartbeats each second
RENDER_STALE_S = 120
MAX_DEMONSTRATIONS = 100_000
LARGEST_DATASET = 2 * 2**30  # bytes of observations: while they are written and read, memory holds them three times
STEPS_A_DEMONSTRATION = 60  # about


class Sources(TypedDict):
    """What a run starts from."""

    dataset: Dataset | None
    corrections: Dataset | None
    parent: Run | None


def enqueue_on_commit(job: str, identifier: int | str) -> None:
    """A Celery message carries only an id; if it is lost, the worker's watch finds the row still waiting."""
    transaction.on_commit(lambda: celery_app.send_task(job, args=[identifier]), robust=True)


def offer_runs() -> None:
    """Tell each worker which runs it may begin now. Whoever claims one first has it, so one told in vain is no harm."""
    for worker in selectors.heard_workers():
        for run in selectors.runs_for(worker):
            celery_app.send_task("learning.run", args=[run.pk], queue=worker.address)


@transaction.atomic
def recognise_folder() -> bool:
    """Whether this data folder is the database's own: both hold the same id. Where neither has one they get it now.

    Runs and datasets are rows there and files here, so that a worker on another folder could only fail them.
    """
    path = settings.DATA / "fleet.id"
    if not DataFolder.objects.exists():
        here = (path.read_text().strip() if path.exists() else "") or str(uuids.uuid4())
        _, first = DataFolder.objects.get_or_create(number=1, defaults={"fleet": here})
        if first:
            write_atomically(path, here.encode())
    return path.exists() and path.read_text().strip() == DataFolder.objects.get().fleet


# Datasets


def new_dataset(lab: Lab, name: str, **fields: Any) -> Dataset:
    name = checked_name(name, "dataset")
    try:
        with transaction.atomic():
            return Dataset.objects.create(lab=lab, name=name, **fields)
    except IntegrityError:
        raise Conflict(f"{lab.name} already has a dataset named {shown(name)}; choose another name.") from None


def most_demonstrations(embodiment: str) -> int:
    """How many demonstrations of a body one dataset may hold: a picture takes two hundred times the room of numbers."""
    body = get_embodiment(embodiment)
    size = sum(each.size * (1 if each.is_picture else 4) for each in body.observation.values())  # bytes
    return min(MAX_DEMONSTRATIONS, LARGEST_DATASET // (STEPS_A_DEMONSTRATION * size))


def scripted_families() -> list[str]:
    """Those that a script demonstrates."""
    return [name for name, each in TASKS.items() if each.world in WORLDS and WORLDS[each.world].demonstrate]


@transaction.atomic
def generate_dataset(
    *,
    lab: Lab,
    user: access.Acting,
    name: str,
    families: list[str],
    episodes: int,
    seed: int = 0,
    source: str = "server",
) -> Dataset:
    """Let the scripted demonstrator make a dataset, in a job."""
    access.check(user, lab, "generate_dataset")
    problems = {}
    unknown = [family for family in families if family not in TASKS]
    if unknown or not families:
        problems["families"] = f"Choose task families among {', '.join(TASKS)}."
    elif len({TASKS[family].embodiment for family in families}) > 1:
        problems["families"] = "All families of a dataset must be of one embodiment."
    elif silent := [family for family in families if family not in scripted_families()]:
        problems["families"] = (
            f"No script demonstrates {', '.join(silent)}; drive a station yourself, or upload a dataset."
        )
    most = MAX_DEMONSTRATIONS if problems else most_demonstrations(TASKS[families[0]].embodiment)
    if not 1 <= episodes <= most:
        problems["episodes"] = f"The number of episodes must be 1 to {most}, not {episodes}."
    if not 0 <= seed < 2**31:
        problems["seed"] = "The seed must be 0 to 2147483647."
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    dataset = new_dataset(
        lab,
        name,
        families=list(families),
        body=get_embodiment(TASKS[families[0]].embodiment).to_json(),
        episodes=episodes,
        created_by=access.person_of(user),
        seed=seed,
        origin={"by": "script", "families": list(families), "seed": seed},
    )
    Dataset.objects.filter(pk=dataset.pk).update(path=f"datasets/{dataset.pk}.safetensors")
    dataset.refresh_from_db()
    _record_dataset(dataset, "dataset_generated", user, episodes=episodes, source=source)
    enqueue_on_commit("learning.generate_dataset", dataset.pk)
    return dataset


def upload_dataset(*, lab: Lab, user: access.Acting, name: str, body: bytes, source: str = "server") -> Dataset:
    """Admit demonstrations made elsewhere: one file of episodes, at most 64 MiB, of one body and acted by people or
    scripts.
    """
    access.check(user, lab, "upload_dataset")
    if len(body) > LARGEST_UPLOAD:
        raise TooLarge(f"The file has {len(body)} bytes, more than 64 MiB; split it into several datasets.")
    episodes = uploads.read_upload(body)
    for episode in episodes:
        if episode.purpose not in ("demonstration", "correction"):
            raise Invalid(
                f"Episode {episode.uuid} is {episode.purpose}; a dataset takes demonstrations and corrections only."
            )
        known = EMBODIMENTS.get(episode.embodiment) or episode.body
        if known is None:
            raise Invalid(
                f"Episode {episode.uuid}, field embodiment: nobody says what {shown(episode.embodiment)} observes and "
                "does. Put the body's description into the file (robots/episodes.py), as a station's own files have it."
            )
        uploads.refuse_impossible(episode, known)
        if episode.embodiment != episodes[0].embodiment:
            raise Invalid(
                f"Episode {episode.uuid}, field embodiment: it is {episode.embodiment}, but the file began with "
                f"{episodes[0].embodiment}; send one file per embodiment."
            )
    with transaction.atomic():
        dataset = new_dataset(
            lab,
            name,
            families=sorted({episode.task for episode in episodes}),
            body=_body_of(episodes),
            created_by=access.person_of(user),
            episodes=len(episodes),
            steps=sum(episode.steps for episode in episodes),
            state="ready",
            progress=1.0,
            origin={"by": "upload"},
        )
        dataset.path = f"datasets/{dataset.pk}.safetensors"
        Dataset.objects.filter(pk=dataset.pk).update(path=dataset.path)
        dataset.file.parent.mkdir(parents=True, exist_ok=True)
        write_episodes(dataset.file, episodes)
        list_root(dataset=dataset, facts=(facts_of(each, index) for index, each in enumerate(episodes)))
        dataset.refresh_from_db()
        _record_dataset(dataset, "dataset_uploaded", user, episodes=len(episodes), source=source)
    return dataset


def _body_of(episodes: Sequence[RecordedEpisode]) -> dict[str, Any]:
    body = episodes[0].body
    return body.to_json() if body else {}


def _record_dataset(dataset: Dataset, kind: str, user: access.Acting, *, source: str, **details: Any) -> None:
    details = {"dataset": dataset.name, "number": dataset.pk, **details}
    record_act(lab=dataset.lab, kind=kind, user=user, details=details, source=source)


def extend_corrections(
    *, lab: Lab, user: access.Acting, known: Dataset | None, episode: Episode, source: str = "server"
) -> tuple[Dataset, bool]:
    """What a person drove joins the known dataset of corrections; without one, or where it takes no more, a new one.

    A dataset that a run has used, or of which somebody made another version, stays as it was: the new one begins with
    all that it held. Returns the dataset that has it now, and whether that replaces the known one.
    """
    access.check(user, lab, "add_correction")
    (fresh,) = _read_recorded(episode.file, str(episode))
    kept = [each for each in _read_recorded(known.file, str(known)) if each.uuid != fresh.uuid] if known else []
    if kept and (_other_body(kept[0], fresh) or _size_of([*kept, fresh]) > LARGEST_UPLOAD):
        known, kept = None, []  # of another body than it was, or too large to be written anew at each click
    dataset = known
    if dataset is None or _is_used(dataset):
        first = f"Corrections of {lab.name}"[:70]
        taken = set(Dataset.objects.filter(lab=lab, name__startswith=first).values_list("name", flat=True))
        names = itertools.chain([first], (f"{first} {number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        dataset = new_dataset(
            lab,
            name,
            created_by=access.person_of(user),
            state="ready",
            progress=1.0,
            origin={"by": "corrections"},
        )
        dataset.path = f"datasets/{dataset.pk}.safetensors"
    episodes = [*kept, fresh]
    dataset.file.parent.mkdir(parents=True, exist_ok=True)
    write_episodes(dataset.file, episodes)
    Dataset.objects.filter(pk=dataset.pk).update(
        path=dataset.path,
        families=sorted({each.task for each in episodes}),
        body=_body_of(episodes),
        episodes=len(episodes),
        steps=sum(each.steps for each in episodes),
    )
    list_root(dataset=dataset, facts=(facts_of(each, index) for index, each in enumerate(episodes)))
    _record_dataset(dataset, "dataset_extended", user, episode=str(episode.uuid), source=source)
    dataset.refresh_from_db()
    return dataset, known is not None and dataset != known


def _is_used(dataset: Dataset) -> bool:
    learned = dataset.runs.exists() or dataset.corrected_runs.exists()
    return learned or dataset.children.exists() or dataset.sourced.exclude(dataset=dataset).exists()


def _read_recorded(path: Path, name: str) -> list[RecordedEpisode]:
    try:
        return read_episodes(path)
    except (OSError, EpisodeError) as error:
        raise Refused(f"The file of {name} can't be read ({error}); restore it in the data folder.") from None


def _other_body(kept: RecordedEpisode, fresh: RecordedEpisode) -> bool:
    if kept.embodiment != fresh.embodiment or kept.body is None or fresh.body is None:
        return True
    return bool(differences(fresh.body, kept.body))


def _size_of(episodes: Iterable[RecordedEpisode]) -> int:
    return sum(array.nbytes for each in episodes for array in (*each.observations.values(), each.actions))


def claim_dataset(*, dataset_id: int) -> Dataset | None:
    """The one job that may make this dataset now; a second delivery of the message gets None."""
    now = timezone.now()
    free = Q(heartbeat_at=None) | Q(heartbeat_at__lt=now - STALE_AFTER)
    if not Dataset.objects.filter(free, pk=dataset_id, state="generating").update(heartbeat_at=now):
        return None
    return Dataset.objects.select_related("lab").get(pk=dataset_id)


def beat_dataset(*, dataset: Dataset) -> bool:
    """Say that its job lives. False if it isn't made any more."""
    return bool(Dataset.objects.filter(pk=dataset.pk, state="generating").update(heartbeat_at=timezone.now()))


def advance_dataset(*, dataset: Dataset, progress: float) -> None:
    Dataset.objects.filter(pk=dataset.pk, state="generating").update(progress=progress)


def release_dataset(*, dataset: Dataset) -> None:
    """The worker stops; the next one makes the dataset from the start."""
    Dataset.objects.filter(pk=dataset.pk, state="generating").update(heartbeat_at=None)


@transaction.atomic
def finish_dataset(*, dataset: Dataset, facts: Iterable[dict[str, Any]]) -> None:
    """Its content is there; `facts` tells of each episode (robots/lerobot/assembling.py)."""
    if Dataset.objects.filter(pk=dataset.pk, state="generating").update(state="ready", progress=1.0):
        list_root(dataset=dataset, facts=facts)


def claim_listing(*, dataset_id: int) -> Dataset | None:
    """The one job that may list the episodes of a root of before; a second one gets None."""
    now = timezone.now()
    free = Q(heartbeat_at=None) | Q(heartbeat_at__lt=now - STALE_AFTER)
    if not _unlisted().filter(free, pk=dataset_id).update(heartbeat_at=now):
        return None
    return Dataset.objects.get(pk=dataset_id)


def beat_listing(*, dataset: Dataset) -> bool:
    """Say that its job lives."""
    return bool(_unlisted().filter(pk=dataset.pk).update(heartbeat_at=timezone.now()))


def finish_listing(*, dataset: Dataset, facts: Iterable[dict[str, Any]]) -> None:
    list_root(dataset=dataset, facts=facts)


def fail_listing(*, dataset: Dataset, error: str) -> None:
    """It stays as it is; what is wrong stands with it, and it is not tried again."""
    _unlisted().filter(pk=dataset.pk).update(error=error)


def _unlisted() -> QuerySet[Dataset]:
    return Dataset.objects.filter(state="ready", listed=False, error="").exclude(path="")


def fail_dataset(*, dataset: Dataset, error: str) -> None:
    Dataset.objects.filter(pk=dataset.pk, state="generating").update(state="failed", error=error)


# Runs: what people do


def read_recipe(*, lab: Lab, kind: str, recipe: dict[str, Any]) -> Recipe:
    """What a launch asked for, checked and with the defaults; the pretrained models that it names are the lab's."""
    try:
        checked = recipe_from_json(recipe | {"kind": kind})
    except RecipeError as error:
        raise Invalid(str(error), error.problems) from None
    if problems := pretrained.recipe_problems(lab, checked.to_json()):
        raise Invalid(" ".join(problems.values()), problems)
    return checked


def create_run(
    *,
    lab: Lab,
    user: access.Acting,
    recipe: Recipe,
    name: str,
    queue: str = "cpu",
    round_target: int = 0,
    **sources: Unpack[Sources],
) -> Run:
    """The row alone. Whoever asked for the run has checked its recipe and its sources, and enqueues it in the end."""
    number = Run.objects.filter(lab=lab).count() + 1
    return Run.objects.create(
        lab=lab,
        name=name.strip()[:80] or f"{recipe.KIND} {number}",
        kind=recipe.KIND,
        recipe=recipe.to_json(),
        queue=queue,
        created_by=access.person_of(user),
        round_target=round_target,
        **sources,
    )


def enqueue_run(*, run: Run, user: access.Acting, source: str = "server") -> None:
    """Everything that it needs is there: its launch is recorded, and its job may begin."""
    access.check(user, run.lab, "launch_run")
    _record_run(run, "run_launched", user, source=source)
    transaction.on_commit(offer_runs, robust=True)


def source_problems(
    *, lab: Lab, method: Method, dataset: Dataset | None, corrections: Dataset | None, parent: Run | None
) -> dict[str, str]:
    """Why a run of the method can't start from these, by the field of its form."""
    problems = {}
    if "parent" in method.needs:
        if parent is None or parent.lab_id != lab.pk:
            problems["parent"] = "Choose the run whose policy and reward model to start from."
        elif problem := selectors.parent_problem(parent):
            problems["parent"] = problem
    if "dataset" in method.needs:
        problems |= _dataset_problems(lab, dataset)
        if corrections is not None:
            problems |= _corrections_problems(lab, dataset, corrections)
    elif corrections is not None:
        problems["corrections"] = "Only a run that trains from demonstrations learns from corrections too."
    return problems


def _dataset_problems(lab: Lab, dataset: Dataset | None) -> dict[str, str]:
    problems = {}
    if dataset is None or dataset.lab_id != lab.pk:
        problems["dataset"] = "Choose the dataset to train on."
    elif dataset.state != "ready":
        problems["dataset"] = f"The dataset {dataset} is {dataset.state}; wait until it is ready or choose another one."
    elif dataset.archived_at:
        problems["dataset"] = f"The dataset {dataset} is archived; bring it back first or choose another one."
    return problems


def _corrections_problems(lab: Lab, dataset: Dataset | None, corrections: Dataset) -> dict[str, str]:
    """A second dataset beside the demonstrations: of the same body, and whole."""
    problem = ""
    if corrections.lab_id != lab.pk or corrections.state != "ready":
        problem = f"The dataset {corrections} is not ready; choose another one, or none."
    elif corrections.archived_at:
        problem = f"The dataset {corrections} is archived; bring it back first or choose another one, or none."
    elif corrections == dataset:
        problem = f"{corrections} is the dataset already; choose another one, or none."
    elif dataset is not None:
        bodies = {each.body["name"] for each in (dataset, corrections) if each.body}
        if len(bodies) > 1:
            problem = f"{dataset} and {corrections} are of different embodiments ({' and '.join(sorted(bodies))})."
        elif changed := what_changed(corrections.body, dataset.body):
            problem = f"The body of {corrections} is not as it was when {dataset} was recorded: {changed}."
    return {"corrections": problem} if problem else {}


def _record_run(run: Run, kind: str, user: access.Acting, reason: str = "", *, source: str) -> None:
    details = {"run": run.name, "number": run.pk, "kind": run.kind}
    record_act(lab=run.lab, kind=kind, user=user, reason=reason, details=details, source=source)


@transaction.atomic
def cancel_run(*, run: Run, user: access.Acting, reason: str = "", source: str = "server") -> None:
    """A run that no job holds ends at once; else its job ends the training process, which keeps its newest
    checkpoint. Where it is the server that cancels, it says why.
    """
    access.check(user, run.lab, "control_run")
    _record_run(run, "run_canceled", user, reason, source=source)
    if finish_run(run=run, state="canceled", sources=("queued",)):
        return
    if not move_run(run=run, to="canceling"):
        run.refresh_from_db()
        raise Conflict(f"{run} is {run.state}; there is nothing to cancel.")


@transaction.atomic
def pause_run(*, run: Run, user: access.Acting, source: str = "server") -> None:
    access.check(user, run.lab, "control_run")
    _record_run(run, "run_paused", user, source=source)
    if not move_run(run=run, to="pausing", pause_wanted=True):
        run.refresh_from_db()
        raise Conflict(f"{run} is {run.state}; only a running run can be paused.")


@transaction.atomic
def resume_run(*, run: Run, user: access.Acting, source: str = "server") -> None:
    """A paused one goes on at once. One that was cancelled or failed waits for its turn anew, and then goes on in its
    directory, at the state that it saved last; what practises needs its stations for that (practice/receivers.py).
    """
    access.check(user, run.lab, "control_run")
    _record_run(run, "run_resumed", user, source=source)
    if move_run(run=run, to="running", sources=("pausing", "paused"), pause_wanted=False):
        return
    if run.archived_at is not None:
        raise Conflict(f"{run} is archived; bring it back first, then resume it.")
    fresh: dict[str, Any] = {"pause_wanted": False, "deaths": 0, "error": "", "ended_at": None, "stopped_early": False}
    if not move_run(run=run, to="queued", sources=("canceled", "failed"), **fresh):
        run.refresh_from_db()
        raise Conflict(f"{run} is {run.state}; only a paused, canceled or failed run can be resumed.")


# Runs: what their job does


def move_run(
    *, run: Run, to: str, sources: tuple[str, ...] | None = None, attempt: int | None = None, **fields: Any
) -> bool:
    """One conditional UPDATE by the transition table; False if the run was not in a state (or attempt) that allows
    it.
    """
    allowed = [state for state, targets in Run.TRANSITIONS.items() if to in targets]
    rows = Run.objects.filter(pk=run.pk, state__in=[state for state in allowed if sources is None or state in sources])
    if attempt is not None:
        rows = rows.filter(attempt=attempt)
    if not rows.update(state=to, **fields):
        return False
    show_run(run=run)
    run_moved.send(sender=Run, run=run)
    if run.sweep_id and not run.is_live:
        enqueue_on_commit("learning.sweep", run.sweep_id)
    if run.state == "starting" or run.state not in selectors.TAKES_A_TURN:
        # It waits, or another is first now, or a turn is free.
        transaction.on_commit(offer_runs, robust=True)
    return True


def show_run(*, run: Run) -> None:
    """Read it anew, and tell the pages that watch it."""
    run.refresh_from_db()
    send_on_commit(run.topic, RunChanged(selectors.run_head(run)))


@transaction.atomic
def claim_run(*, run_id: int, worker: Worker) -> Run | None:
    """For the worker that may supervise the run now: one job of one worker. A second delivery of the message gets
    None, and so does who has no turn free, or comes too late.
    """
    Worker.objects.select_for_update().filter(pk=worker.pk).first()  # two of its jobs must not take the same turn
    run = Run.objects.select_related("lab", "dataset", "parent").filter(pk=run_id).first()
    now = timezone.now()
    if run is None or run not in selectors.runs_for(worker):
        return None
    if not move_run(run=run, to="starting", sources=("queued",), attempt=run.attempt, worker=worker.name):
        return None
    Run.objects.filter(pk=run.pk).update(
        attempt=F("attempt") + 1, heartbeat_at=now, started_at=Coalesce("started_at", now), error=""
    )
    run.refresh_from_db()
    return run


def heartbeat_run(*, run: Run) -> bool:
    """Say that the job lives. False if the run is no longer this attempt's: the job must let go of it.

    In a transaction the row stays locked to its end, so that no other attempt begins while this one reports.
    """
    return bool(
        Run.objects.filter(pk=run.pk, attempt=run.attempt, state__in=Run.SUPERVISED).update(heartbeat_at=timezone.now())
    )


@transaction.atomic
def finish_run(
    *, run: Run, state: str, error: str = "", sources: tuple[str, ...] | None = None, attempt: int | None = None
) -> bool:
    """The run has ended. One that was cancelled because its assignment's budget is reached is completed, not
    canceled.
    """
    if state == "canceled" and sources is None and run.assignments.filter(state="completed").exists():
        state = "completed"
    fields: dict[str, Any] = {
        "error": error,
        "ended_at": timezone.now(),
        "eta_s": None,
        "heartbeat_at": None,
        "holding": False,
    }
    if state == "completed":
        fields["progress"] = 1.0
    return move_run(run=run, to=state, sources=sources, attempt=attempt, **fields)


@transaction.atomic
def release_run(*, run: Run) -> None:
    """The worker stops in good order: the next one goes on in the same directory."""
    if run.state == "canceling" and finish_run(run=run, state="canceled", attempt=run.attempt):
        return
    move_run(run=run, to="queued", sources=UNDER_WAY, attempt=run.attempt, heartbeat_at=None)


@transaction.atomic
def retry_run(*, run: Run, deaths: int) -> bool:
    """Let another attempt go on in the same directory; False where there were too many deaths in a row, or it isn't
    ours any more.
    """
    fields: dict[str, Any] = {"heartbeat_at": None, "deaths": deaths}
    if deaths >= Run.MAX_DEATHS:
        return False
    return move_run(run=run, to="queued", sources=UNDER_WAY, attempt=run.attempt, **fields)


def requeue_stale_jobs(*, all_waiting: bool = False) -> None:
    """Find what a crash of a worker or a server that was away left behind, and enqueue it again: no fault of the run.

    `all_waiting`: also what merely waits, as its message may have died with the broker. Claiming makes a doubled one
    harmless.
    """
    late = timezone.now() - STALE_AFTER
    for run in Run.objects.select_related("lab").filter(state__in=Run.SUPERVISED, heartbeat_at__lt=late):
        if run.state == "canceling":
            finish_run(run=run, state="canceled", attempt=run.attempt)
        else:
            retry_run(run=run, deaths=run.deaths)
    waiting = Dataset.objects.filter(state="generating", heartbeat_at__lt=late)
    if all_waiting:
        waiting = Dataset.objects.filter(Q(heartbeat_at=None) | Q(heartbeat_at__lt=late), state="generating")
        transaction.on_commit(offer_runs, robust=True)
        for dataset_id in _unlisted().values_list("pk", flat=True):
            enqueue_on_commit("learning.list_dataset", dataset_id)
    for dataset_id in waiting.values_list("pk", flat=True):
        enqueue_on_commit("learning.generate_dataset", dataset_id)


@transaction.atomic
def record_metrics(*, run: Run, lines: list[tuple[int, dict[str, Any]]]) -> bool:
    """Lines of metrics.jsonl by their number: kept, shown live, and read for what they say about the run itself.
    False if the run is no longer this attempt's: then nothing is kept.
    """
    if not heartbeat_run(run=run):
        return False
    rows = [
        Metric(
            run=run,
            seq=seq,
            kind=str(line.get("kind", ""))[:20],
            at=_moment(line.get("t")),
            data={name: value for name, value in line.items() if name not in ("t", "kind")},
        )
        for seq, line in lines
    ]
    Metric.objects.bulk_create(rows, ignore_conflicts=True, batch_size=1000)
    changed: dict[str, Any] = {}
    for row in rows:
        if row.kind == "progress":
            total = row.data.get("total") or 0
            changed |= {
                "progress": min(1.0, (row.data.get("done") or 0) / total) if total else 0.0,
                "phase": str(row.data.get("phase") or "")[:60],
                "eta_s": row.data.get("eta_s"),
            }
        elif row.kind == "kept":
            changed["kept_version"] = row.data.get("version")
    if changed:
        Run.objects.filter(pk=run.pk).update(**changed)
        send_on_commit(run.topic, RunChanged(changed))
    shown = [selectors.metric_row(row) for row in rows if row.kind != "progress"]
    for start in range(0, len(shown), 500):
        send_on_commit(run.topic, MetricsAdded(shown[start : start + 500]))
    return True


def _moment(seconds: object) -> datetime:
    return datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, (int, float)) else timezone.now()


def show_preparation(*, run: Run, share: float) -> None:
    """How much of its data lies in its directory."""
    changed = {"progress": share, "phase": "preparing the data", "eta_s": None}
    Run.objects.filter(pk=run.pk, attempt=run.attempt, state__in=Run.SUPERVISED).update(**changed)
    send_on_commit(run.topic, RunChanged(changed))


def record_resources(*, run: Run, resources: dict[str, Any]) -> None:
    """What its training process took so far."""
    Run.objects.filter(pk=run.pk, attempt=run.attempt).update(resources=resources)


def show_log(*, run: Run, lines: list[str]) -> None:
    send_on_commit(run.topic, RunChanged({"log": lines}))


def register_checkpoint(*, run: Run, line: dict[str, Any]) -> Checkpoint | None:
    """Keep the weights that a `checkpoint` line names. None if the file is not (or no longer) what the line says, or
    the run is no longer this attempt's.

    The learner may write a newer file to the same path; a hard link keeps this one for as long as its row lives.
    """
    source = run.dir / str(line["path"])
    kept = f"checkpoints/{uuids.UUID(line['id'])}.safetensors"
    target = settings.DATA / kept
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        try:
            with replacing(target, durable=False) as temporary:  # its content has been written durably already
                _link_or_copy(source, temporary)
                if sha256_of(temporary) != line["sha256"]:
                    raise FileNotFoundError(source)  # a newer one has its name
        except FileNotFoundError:
            return None
    models = _pretrained_of(target)
    with transaction.atomic():
        if not heartbeat_run(run=run):
            return None
        checkpoint, fresh = Checkpoint.objects.get_or_create(
            uuid=line["id"],
            defaults={
                "run": run,
                "role": line["role"],
                "version": line["version"],
                "path": kept,
                "sha256": line["sha256"],
                "threshold": line.get("threshold"),
                "consecutive": line.get("consecutive"),
                "pretrained": models,
            },
        )
        if fresh:
            send_on_commit(run.topic, CheckpointsChanged([checkpoint.row()]))
    return checkpoint


def _pretrained_of(file: Path) -> list[str]:
    """The pretrained models that a checkpoint says it stands on. What a method of somebody's own saves may say nothing
    of itself.
    """
    try:
        told = read_description(file).get("pretrained") or {}
        return sorted({str(each) for each in told["models"].values()}) if told else []
    except (FileError, KeyError, TypeError, AttributeError):
        return []


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        shutil.copyfile(source, target)


# Replay


def render_episode(*, episode: Episode) -> str:
    """Have the episode's frames made, once: "" while that goes on, or the sentence that says why it can't be."""
    part = episode.frames_dir.with_suffix(".part")
    failed = episode.frames_dir.with_suffix(".failed")
    if failed.exists() and time.time() - failed.stat().st_mtime < RENDER_STALE_S:
        return failed.read_text()
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.mkdir()
    except FileExistsError:
        if time.time() - part.stat().st_mtime < RENDER_STALE_S:
            return ""
        os.utime(part)  # the job died: ask again
    failed.unlink(missing_ok=True)
    enqueue_on_commit("learning.render_episode", str(episode.pk))
    return ""


def reason_from_log(*, run: Run, ended: str) -> str:
    """Why the training process ended, in its own last words: what it printed, else what it noted in its metrics."""
    words = [line for line in selectors.log_tail(run, 16) if line.strip()] or selectors.last_notes(run)
    return f"The training process {ended} Its last output:\n" + "\n".join(words)

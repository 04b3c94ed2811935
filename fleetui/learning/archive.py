"""Datasets, runs and pretrained models that nobody needs any more: archived and brought back, or deleted where nothing
refers to them.
These are actions, like those in actions.py.
"""

import logging
import shutil
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict
from fleetui.fleet.actions.archive import list_references, refuse_deletion
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.labs import lock_queue
from fleetui.fleet.models import Assignment
from fleetui.learning import pretrained
from fleetui.learning.looks import folder_of
from fleetui.learning.models import Checkpoint, Dataset, DatasetEpisode, Export, PretrainedModel, Run

log = logging.getLogger(__name__)


@transaction.atomic
def archive_dataset(*, dataset: Dataset, user: access.Acting, source: str = "server") -> None:
    """Nobody can train on it then, nor on another version of its name. Runs that learned from it stay as they are."""
    access.check(user, dataset.lab, "archive_dataset")
    dataset, versions = _locked_versions(dataset)
    if dataset.archived_at is not None:
        raise Conflict(f"{dataset} is archived already.")
    if dataset.state == "generating":
        raise Conflict(f"{dataset} is still being generated; wait until it is ready.")
    learning = Run.objects.filter(Q(dataset__in=versions) | Q(corrections__in=versions), state__in=Run.LIVE).first()
    if learning:
        raise Conflict(f"{learning} learns from {dataset}; wait until it has ended, or cancel it.")
    versions.update(archived_at=timezone.now())
    _record(dataset, user, "dataset_archived", source=source)


@transaction.atomic
def restore_dataset(*, dataset: Dataset, user: access.Acting, source: str = "server") -> None:
    access.check(user, dataset.lab, "archive_dataset")
    dataset, versions = _locked_versions(dataset)
    if dataset.archived_at is None:
        raise Conflict(f"{dataset} is not archived.")
    versions.update(archived_at=None)
    _record(dataset, user, "dataset_restored", source=source)


@transaction.atomic
def delete_dataset(*, dataset: Dataset, user: access.Acting, source: str = "server") -> None:
    """For good, all versions of its name and their files; only archived ones from which no run learned, of whose
    episodes no other dataset is made, and that hold no correction.
    """
    access.check(user, dataset.lab, "archive_dataset")
    dataset, versions = _locked_versions(dataset)
    found = list(versions)
    for each in found:
        refuse_deletion(each, own=("Dataset", "DatasetEpisode", "Import", "Export"))
    others = Dataset.objects.exclude(pk__in=versions)
    made = others.filter(Q(rows__source__in=versions) | Q(parent__in=versions)).distinct()
    if names := [str(each) for each in made[:3]]:
        raise Conflict(f"{dataset} can't be deleted, because other datasets are made of it: {', '.join(names)}.")
    record_act(lab=dataset.lab, kind="dataset_deleted", user=user, details={"dataset": dataset.name}, source=source)
    exports = [export.file for export in Export.objects.filter(dataset__in=versions)]
    prepared = [settings.DATA / "prepared" / str(each.pk) for each in found]
    looked = [folder_of(each) for each in found]
    for place in (*(each.file for each in found if each.path), *prepared, *exports, *looked):
        _remove_on_commit(place)
    DatasetEpisode.objects.filter(dataset__in=versions).delete()
    versions.update(parent=None)  # they go together
    versions.delete()


@transaction.atomic
def archive_run(*, run: Run, user: access.Acting, source: str = "server") -> None:
    """Nothing can start from it then. What came of it stays as it is."""
    access.check(user, run.lab, "archive_run")
    lock_queue(run.lab)
    run = _locked(run)
    if run.archived_at is not None:
        raise Conflict(f"{run} is archived already.")
    if run.is_live:
        raise Conflict(f"{run} is {run.state}; wait until it has ended, or cancel it.")
    wanted = Assignment.objects.filter(parent=run, state__in=Assignment.LIVE)
    wanted |= Assignment.objects.filter(parent=run).exclude(repeats="")
    if assignment := wanted.select_related("task").first():
        raise Conflict(
            f"An assignment of {assignment.task} practises with {run}; cancel it first, and stop it from repeating."
        )
    child = run.children.filter(state__in=Run.LIVE).first()
    if child:
        raise Conflict(f"{child} goes on from {run}; wait until it has ended, or cancel it.")
    _archive(run, user, "run_archived", source=source)


@transaction.atomic
def restore_run(*, run: Run, user: access.Acting, source: str = "server") -> None:
    access.check(user, run.lab, "archive_run")
    _restore(_locked(run), user, "run_restored", source=source)


@transaction.atomic
def delete_run(*, run: Run, user: access.Acting, source: str = "server") -> None:
    """For good, with its checkpoints and its folder; only an archived one of which nothing came."""
    access.check(user, run.lab, "archive_run")
    run = _locked(run)
    refuse_deletion(run, own=("Checkpoint", "Metric"))
    checkpoints = list(run.checkpoints.all())
    for checkpoint in checkpoints:
        if list_references(checkpoint, own=()):
            raise Conflict(
                f"{run} can't be deleted: its {checkpoint} is used: by a station, an episode, a promotion or such."
            )
    record_act(lab=run.lab, kind="run_deleted", user=user, details={"run": run.name, "number": run.pk}, source=source)
    for place in (*(checkpoint.file for checkpoint in checkpoints), run.dir):
        _remove_on_commit(place)
    Checkpoint.objects.filter(run=run).delete()
    run.delete()


@transaction.atomic
def archive_model(*, model: PretrainedModel, user: access.Acting, source: str = "server") -> None:
    """No new run may build on it then. Runs and checkpoints that stand on it stay as they are."""
    access.check(user, model.lab, "archive_model")
    model = _locked_model(model)
    if model.archived_at is not None:
        raise Conflict(f"{model} is archived already.")
    if run := pretrained.runs_on(model).filter(state__in=Run.LIVE).first():
        raise Conflict(f"{run} builds on {model}; wait until it has ended, or cancel it.")
    if sweep := pretrained.sweeps_on(model).filter(state="running").first():
        raise Conflict(f"The sweep {sweep} builds on {model}; wait until it has ended, or stop it.")
    PretrainedModel.objects.filter(pk=model.pk).update(archived_at=timezone.now())
    _record_model(model, user, "model_archived", source=source)


@transaction.atomic
def restore_model(*, model: PretrainedModel, user: access.Acting, source: str = "server") -> None:
    access.check(user, model.lab, "archive_model")
    model = _locked_model(model)
    if model.archived_at is None:
        raise Conflict(f"{model} is not archived.")
    PretrainedModel.objects.filter(pk=model.pk).update(archived_at=None)
    _record_model(model, user, "model_restored", source=source)


@transaction.atomic
def delete_model(*, model: PretrainedModel, user: access.Acting, source: str = "server") -> None:
    """For good, and its files where no other lab has it; only an archived one that no run and no checkpoint needs."""
    access.check(user, model.lab, "archive_model")
    model = _locked_model(model)
    refuse_deletion(model, own=("Import",))
    if names := [str(run) for run in pretrained.runs_on(model)[:3]]:
        raise Conflict(f"{model} can't be deleted, because runs or their checkpoints need it: {', '.join(names)}.")
    _record_model(model, user, "model_deleted", source=source)
    sha256 = model.sha256
    model.delete()
    transaction.on_commit(lambda: pretrained.drop_unused(sha256), robust=True)


def _locked_model(model: PretrainedModel) -> PretrainedModel:
    rows = PretrainedModel.objects.select_related("lab").select_for_update(of=("self",))
    return rows.get(pk=model.pk)


def _record_model(model: PretrainedModel, user: access.Acting, kind: str, *, source: str) -> None:
    details = {"model": model.name, "sha256": model.sha256}
    record_act(lab=model.lab, kind=kind, user=user, details=details, source=source)


def _locked(row: Run) -> Run:
    return Run.objects.select_related("lab").select_for_update(of=("self",)).get(pk=row.pk)


def _locked_versions(dataset: Dataset) -> tuple[Dataset, QuerySet[Dataset]]:
    """The dataset as it is now, and all versions of its name."""
    versions = Dataset.objects.filter(lab=dataset.lab_id, name=dataset.name)
    found = {row.pk: row for row in versions.select_related("lab").select_for_update(of=("self",)).order_by("pk")}
    return found[dataset.pk], Dataset.objects.filter(pk__in=found)


def _record(row: Dataset | Run, user: access.Acting, kind: str, *, source: str) -> None:
    record_act(lab=row.lab, kind=kind, user=user, details={kind.partition("_")[0]: row.name}, source=source)


def _archive(row: Run, user: access.Acting, kind: str, *, source: str) -> None:
    Run.objects.filter(pk=row.pk).update(archived_at=timezone.now())
    _record(row, user, kind, source=source)


def _restore(row: Run, user: access.Acting, kind: str, *, source: str) -> None:
    if row.archived_at is None:
        raise Conflict(f"{row} is not archived.")
    Run.objects.filter(pk=row.pk).update(archived_at=None)
    _record(row, user, kind, source=source)


def _remove_on_commit(place: Path) -> None:
    """The row is the truth: what can't be removed is left behind, and named in the log."""

    def remove() -> None:
        try:
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s could not be removed: %s", place, error)

    transaction.on_commit(remove, robust=True)

"""Datasets come in and go out, and pretrained models come in: imports with their questions, uploads piece by piece,
exports. These are actions, like those in actions.py; jobs (transfer_jobs.py) report here too.

Until an import has ended well all of it lies in a folder of its own, which is removed where it ends otherwise; its
Dataset, or its PretrainedModel, is made in one transaction, last.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid, Refused
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.models import Lab
from fleetui.fleet.names import checked_name, shown
from fleetui.learning import pretrained
from fleetui.learning.actions import STALE_AFTER, enqueue_on_commit
from fleetui.learning.listing import list_root
from fleetui.learning.models import EXPORT_KINDS, IMPORTED, Dataset, Export, Import, PretrainedModel
from fleetui.learning.unpacking import allowed_folder, refuse_full
from robots.lerobot.videos import QUALITIES

LARGEST_PIECE = 16 * 2**20  # bytes of an upload that are sent at once
LARGEST_ARCHIVE = 512 * 2**30
MOST_DEATHS = 3  # of jobs at one import or export
UPLOAD_DAYS = 7  # without a piece: it is given up
EXPORT_DAYS = 14  # an export is kept
PICTURE_WIDTHS = (16, 4096)
OLD_S = 86_400  # a plan, or a file without its name yet, that is as old is nobody's
MODEL_PACKING = re.compile(r"\.(zip|tar(\.\w+)?|tgz)$")  # of an archive's name, which its model's name goes without
MOST_LIVE = 20  # imports of a lab at once


# Imports: what people do


@transaction.atomic
def import_folder(
    *,
    lab: Lab,
    user: access.Acting,
    name: str,
    place: str,
    of: str = "dataset",
    picture_width: int | None = None,
    source: str = "server",
) -> Import:
    """A folder of the server, below those that the administrator allows; it is copied and stays as it is. `of`: what it
    holds, one of IMPORTED.
    """
    access.check(user, lab, IMPORTED[of])
    try:
        folder = allowed_folder(place, settings.IMPORT_ROOTS)
    except Refused as refused:
        raise Invalid(str(refused), {"place": str(refused)}) from None
    row = _new_import(lab, user, of, name, "folder", str(folder), picture_width)
    _record_import(row, "import_begun", user, source=source)
    enqueue_on_commit("learning.import", row.pk)
    return row


@transaction.atomic
def begin_upload(
    *,
    lab: Lab,
    user: access.Acting,
    name: str,
    file_name: str,
    size: int,
    sha256: str = "",
    of: str = "dataset",
    picture_width: int | None = None,
    source: str = "server",
) -> Import:
    """An archive that comes piece by piece (receive_piece). With its sha256 the whole is compared in the end."""
    access.check(user, lab, IMPORTED[of])
    problems = {}
    if not 0 < size <= LARGEST_ARCHIVE:
        problems["size"] = f"The archive must have 1 to {LARGEST_ARCHIVE} bytes, not {size}."
    if sha256 and not _is_hash(sha256):
        problems["sha256"] = "A sha256 has 64 digits of 0 to 9 and a to f."
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    settings.DATA.mkdir(exist_ok=True)
    refuse_full(settings.DATA, size)
    row = _new_import(lab, user, of, name, "archive", file_name[:200], picture_width)
    Import.objects.filter(pk=row.pk).update(state="uploading", size=size, sha256=sha256.lower())
    row.refresh_from_db()
    row.folder.mkdir(parents=True, exist_ok=True)
    _record_import(row, "import_begun", user, source=source, size=size)
    return row


@transaction.atomic
def receive_piece(*, row: Import, user: access.Acting, offset: int, body: bytes, sha256: str = "") -> Import:
    """The next bytes of the archive. Who was interrupted asks how many are there (`received`) and goes on after them; a
    piece that is there already is taken again.
    """
    access.check(user, row.lab, row.permission)
    row = Import.objects.select_related("lab").select_for_update(of=("self",)).get(pk=row.pk)
    if row.state != "uploading":
        raise Conflict(f"{row} is {row.state}; it takes no more bytes.")
    if offset > row.received:
        raise Conflict(f"{row.received} bytes are there; go on with the byte {row.received}, not {offset}.")
    if not body or len(body) > LARGEST_PIECE or offset + len(body) > row.size:
        raise Invalid(
            f"A piece has 1 to {LARGEST_PIECE} bytes, and all together have {row.size}: {len(body)} came for {offset}."
        )
    if sha256 and hashlib.sha256(body).hexdigest() != sha256.lower():
        raise Invalid("The bytes of the piece are not those of its sha256; send it again.")
    row.folder.mkdir(parents=True, exist_ok=True)
    with open(os.open(row.upload, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        file.seek(offset)
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    row.received = max(row.received, offset + len(body))
    whole = row.received == row.size
    Import.objects.filter(pk=row.pk).update(
        received=row.received, progress=row.received / row.size, heartbeat_at=None if whole else timezone.now()
    )
    if whole:
        Import.objects.filter(pk=row.pk).update(state="checking", progress=0.0)
        enqueue_on_commit("learning.import", row.pk)
    row.refresh_from_db()
    return row


@transaction.atomic
def answer_import(*, row: Import, user: access.Acting, answers: dict[str, bool], source: str = "server") -> Import:
    """What a person says to its questions, by their codes. It goes on once all are answered with yes; a no ends it."""
    access.check(user, row.lab, row.permission)
    row = Import.objects.select_related("lab").select_for_update(of=("self",)).get(pk=row.pk)
    if row.state != "asking":
        raise Conflict(f"{row} is {row.state}; it asks nothing.")
    known = {each["code"] for each in row.questions}
    if unknown := set(answers) - known:
        raise Invalid(f"It doesn't ask {shown(min(unknown))}; it asks {', '.join(sorted(known))}.")
    questions = [each | {"answer": answers.get(each["code"], each["answer"])} for each in row.questions]
    Import.objects.filter(pk=row.pk).update(questions=questions)
    _record_import(row, "import_answered", user, source=source, answers=answers)
    if any(each["answer"] is False for each in questions):
        _end(row, "canceled", "A question was answered with no.")
    elif all(each["answer"] for each in questions):
        Import.objects.filter(pk=row.pk).update(state="importing", progress=0.0, heartbeat_at=None)
        enqueue_on_commit("learning.import", row.pk)
    row.refresh_from_db()
    return row


@transaction.atomic
def cancel_import(*, row: Import, user: access.Acting, source: str = "server") -> Import:
    """Nothing of it stays."""
    access.check(user, row.lab, row.permission)
    row = Import.objects.select_related("lab").select_for_update(of=("self",)).get(pk=row.pk)
    if not row.is_live:
        raise Conflict(f"{row} is {row.state} already.")
    _record_import(row, "import_canceled", user, source=source)
    _end(row, "canceled", "")
    row.refresh_from_db()
    return row


def _new_import(
    lab: Lab, user: access.Acting, of: str, name: str, kind: str, place: str, picture_width: int | None
) -> Import:
    if of == "model" and not name.strip():
        name = MODEL_PACKING.sub("", place.rstrip("/").rpartition("/")[2])[:80]
    name = checked_name(name, of)
    low, high = PICTURE_WIDTHS
    if picture_width is not None and not low <= picture_width <= high:
        problem = f"Pictures can be made {low} to {high} pixels wide."
        raise Invalid(problem, {"picture_width": problem})
    if of == "dataset":  # two models may have one name: they are told apart by their sums
        _refuse_taken(lab, name)
    if Import.objects.filter(lab=lab, state__in=Import.LIVE).count() >= MOST_LIVE:
        raise Conflict(f"{MOST_LIVE} imports are under way in {lab.name}; wait for one, or cancel one.")
    return Import.objects.create(
        lab=lab,
        of=of,
        name=name,
        kind=kind,
        place=place,
        picture_width=picture_width,
        created_by=access.person_of(user),
    )


def _refuse_taken(lab: Lab, name: str) -> None:
    if Dataset.objects.filter(lab=lab, name=name).exists():
        text = f"{lab.name} already has a dataset named {shown(name)}; choose another name."
        raise Conflict(text)


def _is_hash(text: str) -> bool:
    return len(text) == 64 and set(text.lower()) <= set("0123456789abcdef")


def _record_import(row: Import, kind: str, user: access.Acting, *, source: str, **details: Any) -> None:
    details = {"import": row.pk, row.of: row.name, "place": row.place, **details}
    record_act(lab=row.lab, kind=kind, user=user, details=details, source=source)


def _end(row: Import, state: str, error: str) -> None:
    """It has ended otherwise than well: nothing half of it stays."""
    live = Import.objects.filter(pk=row.pk, state__in=Import.LIVE)
    if live.update(state=state, error=error, ended_at=timezone.now(), heartbeat_at=None):
        transaction.on_commit(lambda: remove_leftovers(row), robust=True)


def remove_leftovers(row: Import) -> None:
    """Of an import that made nothing."""
    shutil.rmtree(row.folder, ignore_errors=True)
    target = target_of(row)
    if target.exists() and not Dataset.objects.filter(path=path_of(row)).exists():
        shutil.rmtree(target, ignore_errors=True)


def path_of(row: Import) -> str:
    """Where its dataset will lie, relative to the data folder: always the same, so that a job that died between the
    renaming and the transaction is found out.
    """
    return f"datasets/import-{row.pk}"


def target_of(row: Import) -> Path:
    return settings.DATA / path_of(row)


# Imports: what their job does


def claim_import(*, import_id: int) -> Import | None:
    """The one job that may work at it now."""
    now = timezone.now()
    free = Q(heartbeat_at=None) | Q(heartbeat_at__lt=now - STALE_AFTER)
    rows = Import.objects.filter(free, pk=import_id, state__in=Import.WORKED)
    if not rows.update(heartbeat_at=now, attempts=F("attempts") + 1):
        return None
    row = Import.objects.select_related("lab", "created_by").get(pk=import_id)
    if row.attempts > MOST_DEATHS:
        fail_import(row=row, error=f"It was tried {MOST_DEATHS} times, and each time its process died; see the log.")
        return None
    return row


def beat_import(*, row: Import) -> bool:
    """Say that its job lives. False if it was cancelled meanwhile."""
    return bool(Import.objects.filter(pk=row.pk, state__in=Import.WORKED).update(heartbeat_at=timezone.now()))


def advance_import(*, row: Import, phase: str, progress: float) -> None:
    Import.objects.filter(pk=row.pk, state__in=Import.WORKED).update(phase=phase, progress=progress)


def release_import(*, row: Import) -> None:
    """The worker stops in good order."""
    rows = Import.objects.filter(pk=row.pk, state__in=Import.WORKED)
    rows.update(heartbeat_at=None, attempts=F("attempts") - 1)


@transaction.atomic
def record_check(
    *, row: Import, problems: Sequence[dict[str, Any]], questions: Sequence[dict[str, Any]], facts: dict[str, Any]
) -> bool:
    """What was found; where there are questions it waits for a person. Whether it goes on at once."""
    state = "asking" if questions else "importing"
    fields = {
        "problems": list(problems),
        "questions": list(questions),
        "facts": facts,
        "state": state,
        "progress": 0.0,
        "attempts": 0 if questions else F("attempts"),
        "heartbeat_at": None if questions else timezone.now(),
    }
    moved = Import.objects.filter(pk=row.pk, state="checking").update(**fields)
    row.refresh_from_db()
    return bool(moved) and not questions


@transaction.atomic
def fail_import(*, row: Import, error: str, problems: Sequence[dict[str, Any]] = ()) -> None:
    if problems:
        Import.objects.filter(pk=row.pk).update(problems=list(problems))
    _end(row, "failed", error)


@transaction.atomic
def finish_import(
    *,
    row: Import,
    folder: Path,
    body: dict[str, Any],
    facts: Sequence[dict[str, Any]],
    reading: dict[str, Any],
) -> Dataset | None:
    """Its folder becomes a root, with its rows. None where it was cancelled meanwhile."""
    locked = Import.objects.select_for_update().filter(pk=row.pk, state="importing").first()
    if locked is None:
        return None
    told = {name: row.facts.get(name) for name in ("version", "ours", "fps", "cameras", "guessed")}
    origin = {"by": "import", "import": row.pk, "kind": row.kind, "place": row.place, "reading": reading, **told}
    try:
        with transaction.atomic():
            dataset = Dataset.objects.create(
                lab=row.lab,
                name=row.name,
                body=body,
                origin=origin,
                path=path_of(row),
                created_by=row.created_by,
                state="ready",
                progress=1.0,
            )
    except IntegrityError:
        raise Conflict(f"{row.lab.name} has a dataset named {shown(row.name)} by now; import it by another.") from None
    list_root(dataset=dataset, facts=facts)
    target = target_of(row)
    target.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():  # else a job before this one had come as far, and died
        os.replace(folder, target)
    Import.objects.filter(pk=row.pk).update(
        state="ready", progress=1.0, dataset=dataset, ended_at=timezone.now(), heartbeat_at=None, phase=""
    )
    # The folder alone: what the job kept beside it has served.
    transaction.on_commit(lambda: shutil.rmtree(row.folder, ignore_errors=True), robust=True)
    dataset.refresh_from_db()
    return dataset


@transaction.atomic
def finish_model(*, row: Import, folder: Path, found: dict[str, Any]) -> PretrainedModel | None:
    """The files that are the model go into the store, and the lab has it. `found`: what its folder says. None where it
    was cancelled meanwhile.
    """
    pretrained.lock_store()
    locked = Import.objects.select_for_update().filter(pk=row.pk, state="importing").first()
    if locked is None:
        return None
    sha256 = found["sha256"]
    if known := PretrainedModel.objects.filter(lab=row.lab, sha256=sha256).first():
        archived = " It is archived; bring it back." if known.archived_at else ""
        raise Conflict(f"{row.lab.name} has this model already: {known}.{archived}")
    if not folder.is_dir() and not pretrained.folder_of(sha256).is_dir():
        raise Refused("What was copied of it is gone; add it again.")
    model = PretrainedModel.objects.create(lab=row.lab, name=row.name, created_by=row.created_by, **found)
    pretrained.put_into_store(folder, [each["name"] for each in found["files"]], sha256)
    Import.objects.filter(pk=row.pk).update(
        state="ready", progress=1.0, model=model, ended_at=timezone.now(), heartbeat_at=None, phase=""
    )
    transaction.on_commit(lambda: shutil.rmtree(row.folder, ignore_errors=True), robust=True)
    return model


# Exports


@transaction.atomic
def export_dataset(
    *,
    dataset: Dataset,
    user: access.Acting,
    kind: str = "lerobot",
    position: int | None = None,
    camera: str = "",
    quality: str = "high",
    source: str = "server",
) -> Export:
    """A file that a job makes and that is downloaded then: `lerobot`, the version as a LeRobot v3 dataset in a .zip;
    `mcap` and `mp4`, one episode by its position (and of an MP4, one camera). One that is there already is given again.
    """
    access.check(user, dataset.lab, "export_dataset")
    problems = {}
    if kind not in EXPORT_KINDS:
        problems["kind"] = f"There are {', '.join(EXPORT_KINDS)}."
    if quality not in QUALITIES:
        problems["quality"] = f"There are {', '.join(QUALITIES)}."
    if kind == "lerobot":
        position, camera = None, ""
    elif position is None or not dataset.rows.filter(position=position).exists():
        problems["position"] = f"{dataset} has no such episode; name one by its position."
    elif kind == "mp4" and not camera:
        problems["camera"] = "Name the camera."
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    if dataset.state != "ready" or not dataset.listed:
        raise Conflict(f"{dataset} is not ready yet; wait until its episodes are listed.")
    wanted = {
        "kind": kind,
        "position": position,
        "camera": camera if kind == "mp4" else "",
        "quality": "" if kind == "mcap" else quality,
    }
    known = dataset.exports.filter(**wanted).exclude(state="failed").first()
    if known is not None and (known.state == "making" or known.file.is_file()):
        return known
    if known is not None:
        known.delete()
    row = Export.objects.create(dataset=dataset, lab=dataset.lab, created_by=access.person_of(user), **wanted)
    details = {"dataset": str(dataset), "number": dataset.pk, **wanted}
    record_act(lab=dataset.lab, kind="export_asked", user=user, details=details, source=source)
    enqueue_on_commit("learning.export", row.pk)
    return row


@transaction.atomic
def delete_export(*, export: Export, user: access.Acting, source: str = "server") -> None:
    """The file goes; the dataset stays."""
    access.check(user, export.lab, "export_dataset")
    details = {"dataset": str(export.dataset), "export": export.pk, "kind": export.kind}
    record_act(lab=export.lab, kind="export_deleted", user=user, details=details, source=source)
    file = export.file
    export.delete()
    transaction.on_commit(lambda: file.unlink(missing_ok=True), robust=True)


def claim_export(*, export_id: int) -> Export | None:
    now = timezone.now()
    free = Q(heartbeat_at=None) | Q(heartbeat_at__lt=now - STALE_AFTER)
    rows = Export.objects.filter(free, pk=export_id, state="making")
    if not rows.update(heartbeat_at=now, attempts=F("attempts") + 1):
        return None
    row = Export.objects.select_related("dataset").get(pk=export_id)
    if row.attempts > MOST_DEATHS:
        fail_export(export=row, error=f"It was tried {MOST_DEATHS} times, and each time its process died.")
        return None
    return row


def beat_export(*, export: Export) -> bool:
    return bool(Export.objects.filter(pk=export.pk, state="making").update(heartbeat_at=timezone.now()))


def advance_export(*, export: Export, progress: float) -> None:
    Export.objects.filter(pk=export.pk, state="making").update(progress=progress)


def release_export(*, export: Export) -> None:
    rows = Export.objects.filter(pk=export.pk, state="making")
    rows.update(heartbeat_at=None, attempts=F("attempts") - 1)


def finish_export(*, export: Export, size: int, sha256: str) -> None:
    Export.objects.filter(pk=export.pk, state="making").update(
        state="ready", progress=1.0, size=size, sha256=sha256, ended_at=timezone.now(), heartbeat_at=None
    )


def fail_export(*, export: Export, error: str) -> None:
    Export.objects.filter(pk=export.pk, state="making").update(
        state="failed", error=error, ended_at=timezone.now(), heartbeat_at=None
    )


# The watch


def tend_transfers(*, all_waiting: bool) -> None:
    """Find what a crash left behind, and enqueue it again. `all_waiting`: also what merely waits, as its message may
    have died with the broker; and what nobody will ever ask for again is taken away.
    """
    late = Q(heartbeat_at__lt=timezone.now() - STALE_AFTER)
    waiting = late | Q(heartbeat_at=None) if all_waiting else late
    for pk in Import.objects.filter(waiting, state__in=Import.WORKED).values_list("pk", flat=True):
        enqueue_on_commit("learning.import", pk)
    for pk in Export.objects.filter(waiting, state="making").values_list("pk", flat=True):
        enqueue_on_commit("learning.export", pk)
    if all_waiting:
        _sweep()


def _sweep() -> None:
    now = timezone.now()
    silent = now - timedelta(days=UPLOAD_DAYS)
    given_up = Import.objects.filter(state="uploading", created_at__lt=silent)
    for row in given_up.filter(Q(heartbeat_at=None) | Q(heartbeat_at__lt=silent)):
        fail_import(row=row, error=f"Nothing came for {UPLOAD_DAYS} days; begin the upload anew.")
    for export in Export.objects.filter(created_at__lt=now - timedelta(days=EXPORT_DAYS)).exclude(state="making"):
        export.file.unlink(missing_ok=True)
        export.delete()
    _sweep_halves()
    pretrained.sweep_store()
    live = set(Import.objects.filter(state__in=Import.LIVE).values_list("pk", flat=True))
    for folder in (settings.DATA / "imports").glob("*"):
        if folder.name.isdecimal() and int(folder.name) not in live:
            shutil.rmtree(folder, ignore_errors=True)
    known = set(Dataset.objects.filter(path__startswith="datasets/import-").values_list("path", flat=True))
    for folder in (settings.DATA / "datasets").glob("import-*"):
        number = folder.name.removeprefix("import-")
        if f"datasets/{folder.name}" not in known and number.isdecimal() and int(number) not in live:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep_halves() -> None:
    """What a killed process (robots/lerobot/assembling.py) left half made: its number stands in the name."""
    for place in ("exports", "prepared", "datasets"):
        for half in (settings.DATA / place).glob(".*.making"):
            number = half.name.removesuffix(".making").rpartition(".")[2]
            if not (number.isdecimal() and psutil.pid_exists(int(number))):
                shutil.rmtree(half, ignore_errors=True)
    old = time.time() - OLD_S
    for half in (*(settings.DATA / "exports").glob(".*.tmp"), *(settings.DATA / "plans").glob("*.json")):
        if half.stat().st_mtime < old:
            half.unlink(missing_ok=True)

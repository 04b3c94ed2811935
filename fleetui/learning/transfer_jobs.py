"""The jobs by which datasets come in and go out, and pretrained models come in. What is heavy of a dataset is done by
child processes (python -m robots dataset); whatever is killed at any time is done again from the start of its phase, in
the import's own folder.
"""

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from celery import shared_task
from django.conf import settings
from django.db import close_old_connections, connection

from fleetui.access import Refused
from fleetui.learning import transfers
from fleetui.learning.jobs import (
    DATABASE_AWAY,
    ChildFailed,
    Heartbeat,
    Interrupted,
    assemble,
    first_line,
    owns_folder,
    plan_of,
    read_facts,
    run_robots,
    stopping,
)
from fleetui.learning.models import Export, Import
from fleetui.learning.unpacking import copy_files, files_below, find_dataset, find_model, unpack
from robots import strict_json
from robots.protocol import FILES_LIMIT
from training.model_folders import ModelFolderError, check, describe
from training.run_dir import sha256_of

log = logging.getLogger(__name__)

TOLD_EVERY_S = 0.3
CAMERA_CODES = ("video-missing", "video-broken", "picture-broken")
MOST_SAID = 3  # problems that a sentence quotes


class Canceled(Exception):
    """A person ended it."""


@shared_task(name="learning.import")
def import_job(import_id: int) -> None:
    if stopping.is_set() or not owns_folder():
        return
    row = transfers.claim_import(import_id=import_id)
    if row is None:
        return
    try:
        with Heartbeat(lambda: transfers.beat_import(row=row)) as heartbeat:
            work = WORK[row.of](row, heartbeat)
            if row.state == "checking" and not work.check():
                return
            work.take_in()
    except (Interrupted, Canceled):
        transfers.release_import(row=row)
    except DATABASE_AWAY as error:
        log.error("%s is left to the next job, the database is away: %s", row, first_line(error))
    except ChildFailed as error:
        if not error.killed or row.attempts >= transfers.MOST_DEATHS:
            transfers.fail_import(row=row, error=str(error))
        else:
            log.warning("%s: its process was killed; it is done again", row)  # once its heartbeat is late
    except Refused as refused:
        transfers.fail_import(row=row, error=str(refused))
    except Exception as error:
        log.exception("%s", row)
        reason = f"It could not be imported ({type(error).__name__}: {error}). Mend that, then import it again."
        transfers.fail_import(row=row, error=reason)
    finally:
        with contextlib.suppress(*DATABASE_AWAY):  # then the watch's sweep does it
            if not Import.objects.filter(pk=row.pk, state__in=Import.LIVE).exists():
                transfers.remove_leftovers(row)  # it was cancelled while this was at work
        close_old_connections()


class _Work:
    """One job's work at an import."""

    def __init__(self, row: Import, heartbeat: Heartbeat):
        self.row, self.heartbeat = row, heartbeat
        self.content = row.folder / "content"

    def telling(self, phase: str) -> Callable[[float], None]:
        """Progress of a phase, not too often; a cancelled import ends here."""
        told_at = [0.0]

        def tell(share: float) -> None:
            if stopping.is_set():
                raise Interrupted
            if self.heartbeat.lost:
                raise Canceled
            if time.monotonic() - told_at[0] > TOLD_EVERY_S:
                told_at[0] = time.monotonic()
                try:
                    transfers.advance_import(row=self.row, phase=phase, progress=share)
                except DATABASE_AWAY:
                    connection.close()  # the next one says it again

        tell(0.0)
        return tell

    def fetch(self, target: Path) -> None:
        """Copy or unpack it."""
        row = self.row
        shutil.rmtree(self.content, ignore_errors=True)  # of a job that died
        row.folder.mkdir(parents=True, exist_ok=True)
        if row.kind == "archive":
            if row.sha256 and sha256_of(row.upload) != row.sha256:
                raise Refused("The archive that came is not the one that was announced (its sha256); send it again.")
            unpack(row.upload, target, self.telling("unpacking"))
        else:
            files = files_below(Path(row.place), settings.IMPORT_ROOTS)
            self.look_ahead(Path(row.place))
            copy_files(files, target, self.telling("copying"))

    def look_ahead(self, source: Path) -> None:
        """Refuse a folder for what is seen at once, before it is copied."""

    def check(self) -> bool:
        """Look at all of it. Whether it goes on at once."""
        raise NotImplementedError

    def take_in(self) -> None:
        """Let what was looked at become a row."""
        raise NotImplementedError


class _DatasetWork(_Work):
    def check(self) -> bool:
        row = self.row
        self.fetch(self.content)
        folder = find_dataset(self.content)
        report = row.folder / "report.json"
        run_robots(["dataset", "check", str(folder), "--report", str(report)], self.telling("looking at all of it"))
        told = strict_json.loads(report.read_bytes())
        problems, facts = told["problems"], told["facts"]
        refused = [each for each in problems if each["level"] == "refuse" and each["episode"] is None]
        if refused:
            transfers.fail_import(row=row, error=_say(refused), problems=problems)
            return False
        questions, reading, episodes = questions_about(problems, facts)
        if not episodes:
            bad = [each for each in problems if each["level"] == "refuse"] or problems
            transfers.fail_import(row=row, error=f"No episode of it can be used. {_say(bad)}", problems=problems)
            return False
        if reading.get("cameras") is False and not facts["vectors"]:
            bad = [each for each in problems if each["code"] in CAMERA_CODES]
            error = f"Without its cameras there is nothing to act by: it has no state. {_say(bad)}"
            transfers.fail_import(row=row, error=error, problems=problems)
            return False
        facts |= {"reading": reading, "kept": episodes, "folder": str(folder.relative_to(row.folder))}
        return transfers.record_check(row=row, problems=problems, questions=questions, facts=facts)

    def take_in(self) -> None:
        """Read every episode once, for its facts, and let the folder become a dataset."""
        row = self.row
        row.refresh_from_db()
        folder, target = row.folder / row.facts["folder"], transfers.target_of(row)
        if not folder.is_dir() and not target.is_dir():
            raise Refused("What was copied of it is gone; import it again.")
        reading = dict(row.facts["reading"])
        if row.picture_width is not None:
            reading["picture_width"] = row.picture_width
        facts = row.folder / "facts.jsonl"
        plan = {
            "into": "nothing",
            "target": "",
            "facts": str(facts),
            "sources": [{"path": str(folder if folder.is_dir() else target), **reading}],
            "episodes": [{"source": 0, "index": number} for number in row.facts["kept"]],
        }
        assemble(plan, self.telling("reading the episodes"))
        body, found = read_facts(facts)
        self.telling("listing the episodes")
        if transfers.finish_import(row=row, folder=folder, body=body, facts=found, reading=reading) is None:
            raise Canceled


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """A folder that can't be used is refused in its own words."""
    try:
        yield
    except ModelFolderError as error:
        raise Refused(str(error)) from None


class _ModelWork(_Work):
    def look_ahead(self, source: Path) -> None:
        with _refusals():
            check(find_model(source))

    def check(self) -> bool:
        """Nothing is asked: what it holds can be used, or a sentence says why not."""
        row = self.row
        named = re.sub(r"[^\w.-]+", "-", row.name).strip(".-") or "model"  # as what is said of it calls the folder
        self.fetch(self.content / named)
        folder = find_model(self.content / named)
        self.telling("reading all of it")
        with _refusals():
            found = describe(folder)
        if len(found.files) > FILES_LIMIT:
            raise Refused(f"{row.name} has {len(found.files)} files; a model has at most {FILES_LIMIT}.")
        told = found.to_json() | {
            "architecture": found.architecture[:100],
            "kind": found.kind,
            "serves": list(found.serves),
            "licence": found.licence[:100],
            "size": found.size,
        }
        facts = {"model": told, "folder": str(folder.relative_to(row.folder))}
        return transfers.record_check(row=row, problems=[], questions=[], facts=facts)

    def take_in(self) -> None:
        row = self.row
        row.refresh_from_db()
        if transfers.finish_model(row=row, folder=row.folder / row.facts["folder"], found=row.facts["model"]) is None:
            raise Canceled


WORK: dict[str, type[_Work]] = {"dataset": _DatasetWork, "model": _ModelWork}


def questions_about(
    problems: list[dict[str, Any]], facts: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any], list[int]]:
    """(what a person has to be asked, how the folder is read after a yes, the numbers of the episodes that are taken).

    Where pictures are missing or broken those cameras are left out of every episode: a policy sees by all or by none.
    """
    questions = []
    reading: dict[str, Any] = {}
    by_key = {key: camera for camera, key in facts.get("features", {}).items()}
    blind = [each for each in problems if each["code"] in CAMERA_CODES and each["level"] != "note"]
    lost = {by_key.get(each["field"], each["field"]) for each in blind}
    if lost:
        left = [camera for camera in facts["cameras"] if camera not in lost]
        if left:
            reading["leave_out"] = sorted(lost)
            ask = f"Import it without {_names(sorted(lost))}, with {_names(left)} alone?"
        else:
            reading["cameras"] = False
            ask = "Import state and action alone, without any camera?"
        questions.append({"code": "cameras", "text": f"{_say(blind)} {ask}", "answer": None})
    bad = [each for each in problems if each["level"] == "refuse" and each["episode"] is not None]
    gone = {each["episode"] for each in problems if each["episode"] is not None and _is_lost(each)}
    if bad:
        count = len({each["episode"] for each in bad})
        text = f"{_say(bad)} Import it without {'this episode' if count == 1 else f'these {count} episodes'}?"
        questions.append({"code": "episodes", "text": text, "answer": None})
    others = [each for each in problems if each["level"] == "ask" and each["code"] not in CAMERA_CODES]
    if others:
        text = f"{_say(others)} Import it nevertheless?"
        questions.append({"code": "doubts", "text": text, "answer": None})
    return questions, reading, [number for number in range(facts.get("episodes", 0)) if number not in gone]


def _is_lost(problem: dict[str, Any]) -> bool:
    return bool(problem["level"] == "refuse" or problem["code"] == "no-rows")


def _say(problems: list[dict[str, Any]]) -> str:
    """The first of them, each with its file, episode and field."""
    said = []
    for each in problems[:MOST_SAID]:
        episode = "" if each["episode"] is None else f"episode {each['episode']}"
        place = ", ".join(filter(None, (each["file"], episode, each["field"] and f"field {each['field']}")))
        said.append(f"{place}: {each['text']}" if place else each["text"])
    more = len(problems) - MOST_SAID
    return " ".join([*said, *([f"And {more} more like these."] if more > 0 else [])])


def _names(cameras: list[str]) -> str:
    return f"the camera{'s' if len(cameras) > 1 else ''} {', '.join(cameras)}"


@shared_task(name="learning.export")
def export_job(export_id: int) -> None:
    if stopping.is_set() or not owns_folder():
        return
    export = transfers.claim_export(export_id=export_id)
    if export is None:
        return
    try:
        with Heartbeat(lambda: transfers.beat_export(export=export)):
            _make(export)
    except Interrupted:
        transfers.release_export(export=export)
    except DATABASE_AWAY as error:
        log.error("%s is left to the next job, the database is away: %s", export, first_line(error))
    except ChildFailed as error:
        if not error.killed or export.attempts >= transfers.MOST_DEATHS:
            transfers.fail_export(export=export, error=str(error))
        else:
            log.warning("%s: its process was killed; it is done again", export)
    except Exception as error:
        log.exception("%s", export)
        transfers.fail_export(export=export, error=f"It could not be made ({type(error).__name__}: {error}).")


def _make(export: Export) -> None:
    rows = export.dataset.rows.select_related("source").order_by("position")
    if export.position is not None:
        rows = rows.filter(position=export.position)
    into = "zip" if export.kind == "lerobot" else export.kind
    plan = plan_of(export.dataset, rows) | {"into": into, "target": str(export.file)}
    plan |= {"quality": export.quality or "high", "camera": export.camera}
    assemble(plan, lambda share: transfers.advance_export(export=export, progress=share))
    transfers.finish_export(export=export, size=export.file.stat().st_size, sha256=sha256_of(export.file))

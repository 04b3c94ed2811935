"""Workers: the processes that take runs, on one machine or on several that share the data folder.

Each says of itself which queues it takes and how many trainings at a time, and every few seconds that it lives. Runs
are rows; a worker is told of those that it may begin (actions.offer_runs) and claims one by its row (claim_run).
"""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import psutil
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from fleetui.access import Conflict
from fleetui.learning import actions, selectors
from fleetui.learning.models import DataFolder, Worker
from fleetui.learning.resources import Cards

FORGOTTEN_AFTER = timedelta(days=30)


@dataclass(frozen=True)
class Wishes:
    """What this process says of itself."""

    name: str
    queues: tuple[str, ...]
    trainings: int
    main: bool = False


# As `manage.py worker` is told; a job that another process carries out is the main worker's.
wishes = Wishes(socket.gethostname()[:60], ("cpu",), settings.TRAININGS)


def default_queues() -> tuple[str, ...]:
    """What a worker of this machine takes unless somebody says otherwise."""
    return tuple(settings.QUEUES) or ("cpu", *(("gpu",) if Cards().names() else ()))


def folder_problem() -> str:
    """Why this process can't work on the data folder that it has, in a sentence; or nothing."""
    if wishes.main or DataFolder.objects.exists():
        if actions.recognise_folder():
            others = [each for each in selectors.heard_workers() if each.folder != str(settings.DATA)]
            if wishes.main or not others:
                return ""
            return (
                f"The fleet's data folder is {others[0].folder} on {others[0].host} and {settings.DATA} here: mount it "
                "at the same path on every machine."
            )
        return (
            f"{settings.DATA} is not the data folder of this database: its fleet.id is missing or another one. Set "
            "FLEETUI_DATA to the fleet's own folder, which all of its machines share; is it mounted?"
        )
    return "There is no fleet in this database yet: start it first (make run), then further workers."


@transaction.atomic
def register_worker() -> Worker:
    """This process takes runs from now on. Conflict where another one that lives has its name."""
    now, host = timezone.now(), socket.gethostname()
    found = Worker.objects.select_for_update().filter(name=wishes.name).first()
    if found is not None and found.is_heard and _is_another(found, host):
        raise Conflict(
            f"A worker named {wishes.name} runs already ({found.host}, process {found.pid}): end it, or give this one "
            "another name by --name."
        )
    said = {
        "host": host,
        "pid": os.getpid(),
        "folder": str(settings.DATA),
        "main": wishes.main,
        "queues": list(wishes.queues),
        "trainings": wishes.trainings,
        "gpus": Cards().names(),
        "started_at": now,
        "heard_at": now,
        "ended_at": None,
    }
    worker, _ = Worker.objects.update_or_create(name=wishes.name, defaults=said)
    transaction.on_commit(actions.offer_runs, robust=True)
    return worker


def _is_another(found: Worker, host: str) -> bool:
    """Of this machine one that was killed may still count as heard."""
    return found.host != host or (found.pid != os.getpid() and psutil.pid_exists(found.pid))


def this_worker() -> Worker:
    """The row of this process."""
    return Worker.objects.filter(name=wishes.name).first() or register_worker()


def beat_worker() -> None:
    """Say that this process lives."""
    if not Worker.objects.filter(name=wishes.name, ended_at=None).update(heard_at=timezone.now()):
        register_worker()


def leave_worker() -> None:
    """It ends in good order, and takes no more."""
    Worker.objects.filter(name=wishes.name).update(ended_at=timezone.now())


def forget_workers() -> None:
    """Those that nobody has heard for long."""
    Worker.objects.filter(heard_at__lt=timezone.now() - FORGOTTEN_AFTER).delete()

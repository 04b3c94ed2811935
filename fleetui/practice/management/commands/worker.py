"""`manage.py worker`: a process that takes runs, on this machine or on another one of the fleet's."""

import os
import re
import socket
from typing import Any

from django.conf import settings
from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from fleetui import access, servers
from fleetui.celery import app as celery_app
from fleetui.learning import workers
from fleetui.learning.models import QUEUES

JOBS_AT_ONCE = 16  # threads: runs that practise and other jobs take no turn


class Command(BaseCommand):
    help = "Takes runs from the queues cpu and gpu until it is ended. docs/programs.md says what another machine needs."
    requires_system_checks: list[str] = []  # the database may be away, which is one sentence

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--queues", help="cpu, gpu or cpu,gpu (else FLEETUI_QUEUES, else what this machine has)")
        parser.add_argument("--name", default=socket.gethostname()[:60], help="how pages call it (this machine's name)")
        parser.add_argument(
            "--main",
            action="store_true",
            help="it also does what is no run, and finds what crashed; manage.py start starts this one",
        )

    def handle(self, *, queues: str | None, name: str, main: bool, **options: Any) -> None:
        chosen = tuple(filter(None, map(str.strip, queues.split(",")))) if queues else workers.default_queues()
        if not chosen or not set(chosen) <= set(QUEUES):
            raise CommandError(f"--queues {queues}: give {', '.join(QUEUES)}, or both with a comma between.")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,60}", name):
            raise CommandError(f"--name {name}: give at most 60 letters, digits, dots, - and _.")
        workers.wishes = workers.Wishes(name, chosen, settings.TRAININGS, main)
        try:
            servers.check_servers()
            if problem := workers.folder_problem():
                raise CommandError(problem)
            worker = workers.register_worker()
        except (servers.ServerAway, access.Conflict) as error:
            raise CommandError(str(error)) from None
        hears = [worker.address, *([settings.CELERY_TASK_DEFAULT_QUEUE] if main else [])]
        command = ["worker", "--pool", "threads", "--concurrency", str(JOBS_AT_ONCE), "--loglevel", "info"]
        command += ["--without-gossip", "--without-mingle", "--hostname", f"{name}@%h", "--queues", ",".join(hears)]
        os.umask(0o077)  # what it writes is this user's alone, as all that the fleet writes
        celery_app.worker_main(command)

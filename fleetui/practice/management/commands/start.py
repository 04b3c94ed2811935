"""`manage.py start`, which `make run` calls: every process of a fleet on one machine, as children of this one.

PostgreSQL and Valkey first (unless the environment names others), then the tables and what a first start makes, then
the web server, the main worker, which supervises runs, and the host of the simulated stations. A child that crashes is
started again. Ctrl-C or SIGTERM ends every process, down to the trainings that the worker started; should this process
be killed instead, the kernel ends the children (Linux) and the next start ends what is left.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from django.conf import settings
from django.core.management import CommandError, call_command
from django.core.management.base import BaseCommand, CommandParser
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper

from fleetui import embedded, servers, static_files
from fleetui.practice import first_start

# Every process of a fleet inherits this variable: by it a descendant is known, whoever its parent is by now.
TAG = "FLEETUI_FLEET"
GRACE_S = 10
LARGEST_LOG = 10 * 2**20
LOGINS = """  Log-ins were made by the first start: manage.py logins shows their first passwords. A manager resets a
  password on the page People; manage.py changepassword NAME does it here."""


class Stop(BaseException):
    """Ctrl-C or SIGTERM. Not an Exception, so that nothing on the way takes it for an error."""


class Child:
    """A supervised process, started again with growing pauses should it end by itself."""

    def __init__(
        self, name: str, command: Iterable[object], niceness: int = 0, environment: dict[str, str] | None = None
    ):
        self.name = name
        self.command = [str(part) for part in command]
        self.niceness = niceness
        fleet = {TAG: embedded.data_key(settings.DATA), "FLEETUI_DATA": str(settings.DATA), "PORT": str(settings.PORT)}
        self.environment = {**os.environ, **fleet, **(environment or {})}
        self.log_path = settings.DATA / "logs" / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_again_at: float | None = None
        self.pause_s = 1.0

    def start(self) -> None:
        if self.log_path.exists() and self.log_path.stat().st_size > LARGEST_LOG:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        obey_parent = embedded.end_with_parent(signal.SIGTERM)

        def prepare() -> None:
            obey_parent()
            os.nice(self.niceness)

        with open(self.log_path, "ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=settings.BASE_DIR,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # the terminal's Ctrl-C comes to this process alone, which ends them in order
                preexec_fn=prepare,
            )
        self.started_at = time.monotonic()
        self.start_again_at = None

    def keep_running(self) -> str:
        """Returns a sentence when there is something to tell."""
        if self.start_again_at is not None:
            if time.monotonic() >= self.start_again_at:
                self.start()
            return ""
        if self.process is None or self.process.poll() is None:
            return ""
        if time.monotonic() - self.started_at > 60:
            self.pause_s = 1.0
        self.start_again_at = time.monotonic() + self.pause_s
        message = (
            f"{self.name} ended (code {self.process.returncode}); again in {self.pause_s:.0f} s. See {self.log_path}"
        )
        self.pause_s = min(2 * self.pause_s, 30.0)
        return message


class Command(BaseCommand):
    help = "Starts the whole fleet on this machine and keeps it running; Ctrl-C ends it."
    requires_system_checks: list[str] = []  # the database isn't there yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--stations", type=int, help="simulated stations to have at least (4 on a first start)")

    def handle(self, *, stations: int | None, **options: Any) -> None:
        if stations is not None and not 1 <= stations <= 64:
            raise CommandError(f"--stations {stations}: give a number from 1 to 64.")
        self.began = time.monotonic()
        self.servers: list[embedded.Postgres | embedded.Valkey] = []
        self.children: list[Child] = []
        lock = embedded.DataLock(settings.DATA)
        self.watch_signals(signal_stop)
        try:
            lock.take(f"process {os.getpid()}, http://localhost:{settings.PORT}/")
        except embedded.AlreadyRunning as error:
            raise CommandError(str(error)) from None
        failure: Exception | None = None
        try:
            self.run(stations)
        except Stop:
            self.say("")
        except (embedded.EmbeddedError, first_start.FirstStartError, servers.ServerAway) as error:
            failure = error
        finally:
            self.watch_signals(signal.SIG_IGN)  # an impatient second Ctrl-C must not leave processes behind
            left = self.end_everything()
            lock.release()
        if failure:
            raise CommandError(str(failure))
        if left:
            raise CommandError(f"These processes did not end: {', '.join(map(str, left))}.")
        self.say("Stopped: no process is left.")

    def watch_signals(self, handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, handler)

    def say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        self.stdout.write(f"{text} ...", ending="")
        self.stdout.flush()
        began = time.monotonic()
        try:
            yield
        except BaseException:
            self.say(" no")
            raise
        self.say(f" {time.monotonic() - began:.1f} s")

    def run(self, stations: int | None) -> None:
        self.refuse_taken_port()
        embedded.close_to_others(settings.DATA)
        os.umask(0o077)  # for every process of the fleet: what it writes is this user's alone
        (settings.DATA / "logs").mkdir(exist_ok=True)
        self.end_leftovers()
        for server in embedded.wanted_servers(settings.DATA):
            with self.step(f"Starting {server.name}"):
                self.servers.append(server)
                server.start()
        servers.check_servers()
        with self.step("Bringing the tables up to date"):
            call_command("migrate", verbosity=0, interactive=False)
        with self.step("Looking after log-ins, tasks and stations"):
            tokens, first = first_start.prepare(stations)
        with self.step("Collecting scripts and styles"):
            static_files.collect()
        # The pool's threads end here: a process with threads should not fork.
        database = connections["default"]
        assert isinstance(database, DatabaseWrapper)  # of PostgreSQL: the others have no pool
        database.close_pool()
        with self.step("Starting the web server"):
            self.start_children(tokens)
            self.wait_for_web()
        self.welcome(first)
        while True:
            time.sleep(0.5)
            self.keep_servers_running()
            for child in self.children:
                if message := child.keep_running():
                    self.say(message)

    def refuse_taken_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.BIND_ADDRESS, settings.PORT))
            except OSError as error:
                raise embedded.EmbeddedError(
                    f"Port {settings.PORT} can't be used ({error.strerror}): end what uses it or choose another, "
                    f"as in PORT={settings.PORT + 1} make run"
                ) from None

    def start_children(self, tokens: Path) -> None:
        python = [sys.executable, "-m"]
        web = [*python, "uvicorn", "fleetui.asgi:application", "--host", settings.BIND_ADDRESS]
        # One viewer of many cameras must not cost the time of compressing JPEGs that don't get smaller.
        web += ["--port", str(settings.PORT), "--ws-per-message-deflate", "false", "--timeout-graceful-shutdown", "3"]
        web += ["--log-level", "warning", "--no-access-log"]
        worker = [sys.executable, settings.BASE_DIR / "manage.py", "worker", "--main"]
        # The host comes from the same machine, whatever names browsers use.
        host = [*python, "training", "practise", "--server", f"http://127.0.0.1:{settings.PORT}"]
        host += ["--tokens", str(tokens)]
        self.children = [
            Child("web", web),
            Child("worker", worker),
            Child("stations", host, niceness=10, environment={"OMP_NUM_THREADS": "1"}),
        ]
        for child in self.children:
            child.start()

    def wait_for_web(self) -> None:
        web = self.children[0]
        assert web.process is not None  # start_children() has started it

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{settings.PORT}/healthz", timeout=5) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, OSError):
                return False

        embedded.wait_until(answers, web.process, 90, "The web server", web.log_path)

    def welcome(self, first: bool) -> None:
        took = time.monotonic() - self.began
        here = settings.PUBLIC_ORIGIN or f"http://localhost:{settings.PORT}"
        self.say(f"\nThe fleet runs at {here}{settings.BASE_PATH}/ (started in {took:.1f} s)\n")
        self.say(first_start.logins_text() if first else LOGINS)
        self.say(f"\nLogs are in {settings.DATA / 'logs'}. Ctrl-C stops everything.")

    def keep_servers_running(self) -> None:
        for server in self.servers:
            if server.process is not None and server.process.poll() is not None:
                self.say(f"{server.name} ended ({server.process.returncode}); starting it again. See {server.log_path}")
                server.start()

    # The end

    def tagged(self) -> list[int]:
        """Every running process of this fleet, this one and the servers excepted."""
        key = embedded.data_key(settings.DATA)
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(TAG) == key and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except (psutil.Error, OSError):
                continue  # gone by now, or another user's
        # A start that was itself called from inside a fleet (a test, a shell of a job) must not end its own callers.
        return [pid for pid in found if pid != os.getpid() and pid not in ancestors()]

    def end_leftovers(self) -> None:
        left = self.tagged()
        if left:
            with self.step(f"Ending {len(left)} processes that an earlier start left behind"):
                end_processes(left, GRACE_S)

    def end_everything(self) -> list[int]:
        """Those at the front first, so that none of them meets a database that is gone. Returns pids still running."""
        began = time.monotonic()
        running = [child.process.pid for child in self.children if child.process and child.process.poll() is None]
        if running:
            self.stdout.write("Stopping ...", ending="")
            self.stdout.flush()
        # The worker gets the chance to end its trainings itself, each with a checkpoint; then comes whatever is left.
        end_processes(running, GRACE_S)
        for child in self.children:
            if child.process:
                child.process.wait()
        end_processes(self.tagged(), GRACE_S / 2)
        for server in reversed(self.servers):
            server.stop()
        if self.servers:
            shutil.rmtree(embedded.socket_folder(settings.DATA), ignore_errors=True)
        if running:
            self.say(f" {time.monotonic() - began:.1f} s")
        own = [server.process.pid for server in self.servers if server.process]
        return [*self.tagged(), *(pid for pid in own if embedded.is_running(pid))]


def signal_stop(number: int, frame: FrameType | None) -> None:
    raise Stop


def ancestors() -> set[int]:
    return {process.pid for process in psutil.Process().parents()}


def end_processes(pids: list[int], seconds: float) -> None:
    """SIGTERM, time to comply, SIGKILL."""
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        pids = embedded.wait_gone(pids, patience)
        if not pids:
            return

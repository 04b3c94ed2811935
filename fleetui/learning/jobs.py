"""The Celery jobs: each supervises a child process and reports through the actions. None of them trains in its own
process.

A run's job prepares the run directory, starts `python -m training`, reads metrics.jsonl and keeps checkpoints; what
practice needs beyond that stands in practice/jobs.py. The run directory is all that the two processes share, so either
may be killed at any time: the run is claimed again and the training process goes on where its directory says.
"""

import contextlib
import copy
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
from celery import shared_task
from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections, connection

from fleetui.embedded import end_with_parent
from fleetui.fleet.models import Episode
from fleetui.learning import actions, pretrained, selectors, sweeps, workers
from fleetui.learning.models import Checkpoint, Dataset, DatasetEpisode, Run
from fleetui.learning.resources import EVERY_S, Measuring
from robots import strict_json
from robots.atomic_files import link_to, write_atomically
from robots.episodes import EpisodeFile
from robots.lerobot.assembling import facts_of
from training.methods.registry import ROLES
from training.model_folders import STORE
from training.run_dir import RunDir, RunError

log = logging.getLogger(__name__)

TICK_S = 0.15
HEARTBEAT_S = 1.0
LOG_EVERY_S = 2.0
SUMMED_EVERY_S = 15.0
SHUTDOWN_S = 5.0
OTHER_LETS_GO_S = SHUTDOWN_S + 3.0  # another machine's worker, which may see a shared folder a little late
DATABASE_AWAY = (OperationalError, InterfaceError)
DISK_FULL_BELOW = 64 * 2**20  # bytes: with fewer a child that ended most likely could not write

stopping = threading.Event()  # the worker is going down
foreign_said = False  # that this worker's data folder is not the database's


def start_child(command: list[str], output: IO[bytes], **options: Any) -> subprocess.Popen[bytes]:
    """A process group of its own, so that ending it ends whatever it started. On Linux it ends with the worker, too."""
    end_with_worker = end_with_parent(signal.SIGTERM)

    def prepare() -> None:
        end_with_worker()
        os.nice(10)  # the web comes first

    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command,
        cwd=settings.BASE_DIR,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=output,
        start_new_session=True,
        preexec_fn=prepare,
        **options,
    )


def end_child(child: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask, wait, then insist."""
    for number, wait in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        try:
            child.wait(wait)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGTERM:  # children of the child that outlived it
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
        return


def how_it_ended(code: int) -> str:
    """An exit status in words, for a sentence that begins with who ended."""
    disk = ""
    if shutil.disk_usage(settings.DATA).free < DISK_FULL_BELOW:
        disk = f" The disk of {settings.DATA} is full: make room, then start it again."
    if code >= 0:
        return f"ended with code {code}.{disk}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    memory = "; did the machine run out of memory?" if -code == signal.SIGKILL else "."
    return f"was killed with code {code}, {name}{memory}{disk}"


class Heartbeat:
    """Says each second that a job lives, in a thread of its own: a frozen Valkey or a long read by the job's own thread
    must not look like its death. While the database is away it keeps trying.
    """

    def __init__(self, send: Callable[[], bool]):
        self.send = send
        self.lost = False  # what it is sent for has ended, or is another job's by now
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.go_on, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def go_on(self) -> None:
        while not self.over.wait(HEARTBEAT_S) and not self.lost:
            try:
                self.lost = not self.send()
            except DATABASE_AWAY as error:
                log.warning("no heartbeat, the database is away: %s", first_line(error))
            finally:
                connection.close()  # back to the pool, which is small


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def owns_folder() -> bool:
    """Whether the files of the database's runs and datasets are in this worker's data folder. Said once where not."""
    global foreign_said
    if actions.recognise_folder():
        return True
    if not foreign_said:
        foreign_said = True
        log.error(
            "%s is not the data folder of this database: its fleet.id is missing or another one. This worker takes no "
            "runs, datasets or pictures; start it with FLEETUI_DATA on the fleet's own folder.",
            settings.DATA,
        )
    return False


# Runs


def training_command(run: Run) -> list[str]:
    """Several processes are torchrun's to start, and to end where one of them does."""
    processes = int(run.recipe.get(run.method.processes, 1))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(torchrun if processes > 1 else ()), "-m", "training", run.kind, str(run.dir)]


@shared_task(name="learning.run")
def run_job(run_id: int) -> None:
    if stopping.is_set() or not owns_folder():
        return  # it stays queued, and the next worker finds it
    run = actions.claim_run(run_id=run_id, worker=workers.this_worker())
    if run is None:
        return
    supervision = SUPERVISIONS[run.method.practises](run)
    try:
        supervision.carry_out()
    except DATABASE_AWAY as error:
        # The database went away, not the run: without a heartbeat the watch finds it, and it goes on where it was.
        log.error("run %s is left to the next job, the database is away: %s", run_id, first_line(error))
    except Interrupted:
        actions.release_run(run=run)
    except ChildFailed as error:
        reason = f"The data that it learns from could not be put together.\n{error}"
        if not (error.killed and actions.retry_run(run=run, deaths=run.deaths + 1)):
            actions.finish_run(run=run, state="failed", error=reason, attempt=run.attempt)
    except (RunError, OSError) as error:
        log.exception("run %s", run_id)
        actions.finish_run(run=run, state="failed", error=f"Its directory can't be used: {error}", attempt=run.attempt)
    except Exception as error:
        log.exception("run %s", run_id)
        reason = f"Its job broke ({type(error).__name__}: {error}); the worker's log says where."
        actions.finish_run(run=run, state="failed", error=reason, attempt=run.attempt)
    finally:
        supervision.let_go()


class Supervision:
    """One attempt at a run: what the job knows between two ticks. The database and the directory know everything
    else. Training needs no more than this; what practises overrides what it does beside.
    """

    TERMINATE_S = 30.0  # cancelled, it saves what it has

    def __init__(self, run: Run):
        self.run = run
        self.dir = RunDir(run.dir)
        self.process = self.dir.path / "process"  # the host and number of the training process that writes here
        self.child: subprocess.Popen[bytes] | None = None
        self.offset = 0  # in metrics.jsonl
        self.line = 0  # number of the last line read
        self.recorded = run.metrics.order_by("-seq").values_list("seq", flat=True).first() or 0
        self.summary: dict[str, Any] | None = None
        self.failure = ""
        self.saved_at = self.dir.saved_at()
        self.database_away = False
        self.logged_at = 0.0
        self.log_shown: list[str] = []
        self.terminated_at: float | None = None
        self.measuring: Measuring | None = None
        self.measured_at = self.summed_at = 0.0

    def carry_out(self) -> None:
        held = copy.copy(self.run)  # as this attempt holds it, whatever the job's own thread reads anew
        with Heartbeat(lambda: actions.heartbeat_run(run=held)) as heartbeat:
            self.prepare()
            self.end_leftover()
            with open(self.dir.path / "log.txt", "ab") as output:
                self.child = start_child(training_command(self.run), output, stdout=output)
            self.process.write_text(f"{socket.gethostname()} {self.child.pid}")
            self.measuring = Measuring(self.child.pid, self.dir.path, self.run.resources)
            while not self.follow(heartbeat):
                stopping.wait(TICK_S)

    def follow(self, heartbeat: Heartbeat) -> bool:
        """One look at the child; whether that was the last. Training goes on while the database is away."""
        child = self.child
        assert child is not None  # carry_out() started it
        ended = child.poll() is not None  # asked before reading, so that no last line is missed
        try:
            if not self.is_ours() or not self.read_metrics() or heartbeat.lost:
                log.warning("run %s is no longer attempt %s's; letting go", self.run.pk, self.run.attempt)
                end_child(child, SHUTDOWN_S)
                return True
            if ended:
                self.conclude(child.returncode)
                return True
            if stopping.is_set():
                end_child(child, SHUTDOWN_S)
                self.read_metrics()
                self.refresh()
                actions.release_run(run=self.run)
                return True
            self.tick()
            self.database_away = False
        except DATABASE_AWAY as error:
            if stopping.is_set():
                raise
            if not self.database_away:
                log.warning("run %s goes on, the database is away: %s", self.run.pk, first_line(error))
            self.database_away = True
            connection.close()
        return False

    def let_go(self) -> None:
        """Whatever happened, no training process goes on unsupervised."""
        if self.child is not None and self.child.poll() is None:
            end_child(self.child, SHUTDOWN_S)
        if self.child is not None and self.is_ours():
            self.process.unlink(missing_ok=True)

    def is_ours(self) -> bool:
        """False where another machine's worker took the run while this one could not reach the database."""
        with contextlib.suppress(OSError, ValueError):
            host, number = self.process.read_text().split()
            return self.child is not None and (host, int(number)) == (socket.gethostname(), self.child.pid)
        return True

    # The directory

    def prepare(self) -> None:
        RunDir.create(self.run.dir, self.run.load_recipe())
        for folder, wanted in ((self.dir.data, self.list_data()), (self.dir.start, self.list_start())):
            for path in folder.iterdir():  # nothing but what this run is made of
                if path.name not in wanted:
                    path.unlink()
            for name, source in wanted.items():
                if not source.is_file():
                    raise RunError(
                        f"{source} is missing; restore the data folder or launch the run from something else."
                    )
                link_to(source, folder / name)
        for sha256, source in self.list_models().items():
            if not source.is_dir():
                raise RunError(
                    f"The pretrained model {sha256[:12]} is missing; restore {STORE}/{sha256} in the data folder."
                )
            self.dir.models.mkdir(exist_ok=True)
            link_to(source, self.dir.models / sha256)

    def list_data(self) -> dict[str, Path]:
        """The demonstrations and corrections that it learns from: name in the run directory -> the file."""
        found = {}
        for each in self.run.demonstrations:
            files = files_to_learn_from(each, lambda share: actions.show_preparation(run=self.run, share=share))
            for file in files:
                name = f"{each.pk}.safetensors" if file == each.file else f"{each.pk}-{file.name}"
                found[name] = file
        return found

    def list_start(self) -> dict[str, Path]:
        """The weights that it begins with, likewise."""
        return {f"{checkpoint.role}.safetensors": checkpoint.file for checkpoint in self.start_checkpoints()}

    def start_checkpoints(self) -> list[Checkpoint]:
        """The policy and the reward model of its parent."""
        if "parent" not in self.run.method.needs:
            return []
        parent = self.run.parent
        assert parent is not None  # no launch without one, and it can't be deleted while this run refers to it
        # The reward model as it was in force when this run began, however often its job begins again.
        found = {role: parent.best_checkpoint(role) for role in ROLES}
        found["reward_model"] = parent.reward_model_at(self.run.started_at)
        return [checkpoint for checkpoint in found.values() if checkpoint]

    def list_models(self) -> dict[str, Path]:
        """The pretrained models that it names, or that what it begins with stands on: sha256 -> the folder."""
        stood_on = {sha256 for checkpoint in self.start_checkpoints() for sha256 in checkpoint.pretrained}
        wanted = sorted(stood_on | set(pretrained.named_in(self.run.recipe).values()))
        return {sha256: pretrained.folder_of(sha256) for sha256 in wanted}

    def end_leftover(self) -> None:
        """A training process of an earlier attempt must not write beside the new one. What is left on another machine,
        its worker ends once it reads here that the run is taken.
        """
        try:
            host, number = self.process.read_text().split()
            if host != socket.gethostname():
                self.process.write_text(f"{socket.gethostname()} 0")
                stopping.wait(OTHER_LETS_GO_S)
                return
            left = psutil.Process(int(number))
            if str(self.dir.path) in left.cmdline():
                left.kill()
                left.wait(5)
        except (FileNotFoundError, ValueError, psutil.Error):
            pass

    # Each tick

    def tick(self) -> None:
        now = time.monotonic()
        close_old_connections()
        self.refresh()
        self.follow_wishes(now)
        if self.run.state == "running" and not self.run.pause_wanted:
            self.serve(now)
        if now - self.logged_at > LOG_EVERY_S:
            self.logged_at = now
            lines = selectors.log_tail(self.run)
            if lines != self.log_shown:
                self.log_shown = lines
                actions.show_log(run=self.run, lines=lines)

        self.measure(now)

    def measure(self, now: float) -> None:
        """What the training takes: a line each few seconds, the sum of it less often."""
        if self.measuring is None or now - self.measured_at < EVERY_S:
            return
        self.measured_at = now
        try:
            self.measuring.take()
        except OSError as error:  # a full disk ends the training itself soon enough
            log.warning("run %s: what it takes can't be written: %s", self.run.pk, error)
        if now - self.summed_at > SUMMED_EVERY_S:
            self.summed_at = now
            actions.record_resources(run=self.run, resources=self.measuring.summary)

    def serve(self, now: float) -> None:
        """What the learner waits for while it runs: training has all it needs."""

    def refresh(self) -> None:
        attempt = self.run.attempt
        self.run.refresh_from_db(
            fields=["state", "pause_wanted", "open_version", "round_steps", "holding", "practice_episodes"]
        )
        self.run.attempt = attempt

    def follow_wishes(self, now: float) -> None:
        """Cancel, pause and resume: what people wrote into the row, done to the process."""
        run, pause = self.run, self.dir.path / "pause"
        if run.state == "canceling":
            pause.unlink(missing_ok=True)
            if self.terminated_at is None:
                self.terminated_at = now
                self.signal_child(signal.SIGTERM)
            elif now - self.terminated_at > self.TERMINATE_S:
                self.signal_child(signal.SIGKILL)
            return
        if run.pause_wanted:
            pause.touch()
            if run.state == "running":  # a pause from before a restart
                actions.move_run(run=run, to="pausing", attempt=run.attempt)
            elif run.state == "pausing":
                actions.move_run(run=run, to="paused", attempt=run.attempt)
        else:
            pause.unlink(missing_ok=True)
        if run.state == "starting":
            # Its process runs; what it says first may take seconds.
            actions.move_run(run=run, to="running", sources=("starting",), attempt=run.attempt)

    def signal_child(self, number: int) -> None:
        assert self.child is not None  # carry_out() started it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)

    # What the learner says

    def read_metrics(self) -> bool:
        """New whole lines of metrics.jsonl, numbered from the file's start; those an earlier attempt recorded are
        skipped. False if the run is no longer ours.
        """
        try:
            with open(self.dir.metrics, "rb") as file:
                file.seek(self.offset)
                content = file.read()
        except FileNotFoundError:
            return True
        whole = content[: content.rfind(b"\n") + 1]
        number, summary = self.line, self.summary
        fresh: list[tuple[int, dict[str, Any]]] = []
        for text in whole.splitlines():
            number += 1
            try:
                line = strict_json.loads(text)
            except ValueError:
                line = None
            if not isinstance(line, dict):
                log.warning("run %s: line %s of its metrics is torn", self.run.pk, number)
                continue
            if number > self.recorded:
                fresh.append((number, line))
            if line.get("kind") == "done":
                summary = line
        for _, line in fresh:  # first the checkpoints: a page that hears of an evaluation may ask for its policy
            if line.get("kind") == "checkpoint":
                self.take_checkpoint(line)
            elif line.get("kind") == "failed":
                self.failure = str(line.get("reason") or "")
        if fresh and not actions.record_metrics(run=self.run, lines=fresh):
            return False
        # Only now: where the database was away they are read again.
        self.offset, self.line, self.summary = self.offset + len(whole), number, summary
        self.recorded = max(self.recorded, number)
        return True

    def take_checkpoint(self, line: dict[str, Any]) -> None:
        try:
            checkpoint = actions.register_checkpoint(run=self.run, line=line)
        except (KeyError, ValueError, TypeError) as error:
            log.error("run %s: a checkpoint line can't be used (%s): %s", self.run.pk, error, line)
            return
        if checkpoint is None:
            log.warning("run %s: %s is no longer the file of its line", self.run.pk, line.get("path"))
        elif line.get("publish"):
            self.publish(checkpoint)

    def publish(self, checkpoint: Checkpoint) -> None:
        """Others shall act with it: nobody does while it trains."""

    # The end

    def conclude(self, code: int) -> None:
        run = self.run
        self.refresh()
        if run.state not in Run.SUPERVISED:
            return  # said already, when the database went away before it could answer
        if self.measuring is not None:
            actions.record_resources(run=run, resources=self.measuring.summary)
        actions.show_log(run=run, lines=selectors.log_tail(run))
        if self.summary is not None and code == 0:
            actions.finish_run(run=run, state="completed", attempt=run.attempt)
            if run.state == "canceling":  # it was done before the wish reached it
                actions.finish_run(run=run, state="canceled", attempt=run.attempt)
        elif run.state == "canceling":
            actions.finish_run(run=run, state="canceled", attempt=run.attempt)
        elif code < 0 and actions.retry_run(run=run, deaths=self.deaths()):
            log.warning("run %s: its training process %s It begins again.", run.pk, how_it_ended(code))
        elif self.failure:
            actions.finish_run(run=run, state="failed", error=self.failure, attempt=run.attempt)
        else:
            ended = how_it_ended(code)
            if code < 0:
                ended += f" It was tried {Run.MAX_DEATHS} times without getting further."
            reason = actions.reason_from_log(run=run, ended=ended)
            actions.finish_run(run=run, state="failed", error=reason, attempt=run.attempt)

    def deaths(self) -> int:
        """In a row, this one included: a state that this attempt saved is progress, and counting starts anew."""
        return 1 if self.dir.saved_at() > self.saved_at else self.run.deaths + 1


# By whether the run's method practises on stations; practice/jobs.py adds its own.
SUPERVISIONS: dict[bool, type[Supervision]] = {False: Supervision}


@shared_task(name="learning.sweep")
def sweep_job(sweep_id: int) -> None:
    """A run of it has ended, or it has just been launched."""
    if not stopping.is_set() and owns_folder():
        sweeps.advance_sweep(sweep_id=sweep_id)


# Datasets


def demonstrate_command(dataset: Dataset) -> list[str]:
    return [
        sys.executable,
        "-m",
        "robots",
        "demonstrate",
        "--task",
        ",".join(dataset.families),
        "--episodes",
        str(dataset.episodes),
        "--seed",
        str(dataset.seed),
        "--out",
        str(dataset.file),
        "--progress",
    ]


@shared_task(name="learning.generate_dataset")
def generate_dataset_job(dataset_id: int) -> None:
    if stopping.is_set() or not owns_folder():
        return
    dataset = actions.claim_dataset(dataset_id=dataset_id)
    if dataset is None:
        return
    try:
        with Heartbeat(lambda: actions.beat_dataset(dataset=dataset)):
            demonstrate(dataset) if dataset.origin.get("by") != "episodes" else gather(dataset)
    except Interrupted:
        actions.release_dataset(dataset=dataset)
    except DATABASE_AWAY as error:
        # Without a heartbeat the watch finds it, and it is made anew: the same seed gives the same file.
        log.error("dataset %s is left to the next job, the database is away: %s", dataset_id, first_line(error))
    except Exception as error:
        log.exception("dataset %s", dataset_id)
        reason = f"It could not be made ({type(error).__name__}: {error}). Mend that, then generate it again."
        actions.fail_dataset(dataset=dataset, error=reason)


def demonstrate(dataset: Dataset) -> None:
    dataset.file.parent.mkdir(parents=True, exist_ok=True)
    errors_log = dataset.file.with_suffix(".log")
    with open(errors_log, "wb") as errors:
        child = start_child(demonstrate_command(dataset), errors, stdout=subprocess.PIPE)
    try:
        follow_demonstrations(dataset, child)
    finally:
        if child.poll() is None:
            end_child(child, SHUTDOWN_S)
    if stopping.is_set():
        actions.release_dataset(dataset=dataset)
    elif child.returncode != 0:
        words = errors_log.read_text(errors="replace").strip().splitlines()[-5:]
        reason = "\n".join([f"The demonstrator {how_it_ended(child.returncode)}", *words])
        actions.fail_dataset(dataset=dataset, error=reason)
    else:
        actions.finish_dataset(dataset=dataset, facts=facts_of_file(dataset.file))


def facts_of_file(path: Path) -> Iterator[dict[str, Any]]:
    """Of each episode of a file, one in memory at a time."""
    file = EpisodeFile(path)
    for number in range(len(file)):
        yield facts_of(file.episode(number), number)


def follow_demonstrations(dataset: Dataset, child: subprocess.Popen[bytes]) -> None:
    follow_child(child, lambda share: actions.advance_dataset(dataset=dataset, progress=share))


def follow_child(child: subprocess.Popen[bytes], tell: Callable[[float], None]) -> None:
    """Its progress lines, until it ends; a thread ends it when the worker stops."""
    assert child.stdout is not None  # whoever started it gave it a pipe
    over = threading.Event()

    def end_with_worker() -> None:
        while not over.wait(0.2):
            if stopping.is_set():
                end_child(child, SHUTDOWN_S)
                return

    threading.Thread(target=end_with_worker, daemon=True).start()
    told_at = 0.0
    try:
        for line in child.stdout:
            now = time.monotonic()
            if now - told_at < 0.3:
                continue
            told_at = now
            try:
                progress = json.loads(line)
                share = progress["done"] / progress["total"]
            except (ValueError, KeyError, TypeError, ZeroDivisionError):
                continue  # a warning that some library printed
            try:
                tell(share)
            except DATABASE_AWAY:
                connection.close()  # the next line says it again
        child.wait()
    finally:
        over.set()


def gather(dataset: Dataset) -> None:
    """A dataset of stored episodes: its rows name them."""
    rows = list(dataset.rows.order_by("position"))
    paths = dict(Episode.objects.filter(lab=dataset.lab_id).in_bulk([row.uuid for row in rows]))
    if lost := [row.uuid for row in rows if row.uuid not in paths or not paths[row.uuid].file.is_file()]:
        raise FileNotFoundError(f"the file of episode {lost[0]} is missing")
    facts = settings.DATA / "datasets" / f"{dataset.pk}.facts"
    plan = {
        "into": "folder",
        "target": str(dataset.file),
        "facts": str(facts),
        "sources": [{"path": str(paths[row.uuid].file)} for row in rows],
        "episodes": [{"source": i, "index": 0, "weight": row.weight} for i, row in enumerate(rows)],
        "body": dataset.body,
        "quality": "lossless",
    }
    try:
        assemble(plan, lambda share: actions.advance_dataset(dataset=dataset, progress=share))
        made = read_facts(facts)[1]
        # Its episodes lie in the new folder in the order of the rows.
        actions.finish_dataset(dataset=dataset, facts=[each | {"index": i} for i, each in enumerate(made)])
    finally:
        facts.unlink(missing_ok=True)


@shared_task(name="learning.list_dataset")
def list_dataset_job(dataset_id: int) -> None:
    """A root of before gets its rows."""
    if stopping.is_set() or not owns_folder():
        return
    dataset = actions.claim_listing(dataset_id=dataset_id)
    if dataset is None:
        return
    try:
        with Heartbeat(lambda: actions.beat_listing(dataset=dataset)):
            actions.finish_listing(dataset=dataset, facts=list(facts_of_file(dataset.file)))
    except DATABASE_AWAY as error:
        log.error(
            "the episodes of dataset %s are listed later, the database is away: %s", dataset_id, first_line(error)
        )
    except Exception as error:
        log.exception("listing dataset %s", dataset_id)
        reason = f"Its episodes can't be listed ({type(error).__name__}: {error}). Restore its file in the data folder."
        actions.fail_listing(dataset=dataset, error=reason)


# What is put together of episodes


class Interrupted(Exception):
    """The worker goes down; the next one does it again."""


class ChildFailed(Exception):
    """A child process ended without having done its work; the text is why, in its own words."""

    def __init__(self, reason: str, killed: bool):
        super().__init__(reason)
        self.killed = killed  # by a signal: it may go well another time


def assemble(plan: dict[str, Any], tell: Callable[[float], None]) -> None:
    """Carry out a plan (robots/lerobot/assembling.py) in a child process."""
    place = settings.DATA / "plans"
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{uuid.uuid4()}.json"
    write_atomically(path, strict_json.dumps(plan).encode(), durable=False)
    try:
        run_robots(["dataset", "assemble", str(path), "--progress"], tell)
    finally:
        path.unlink(missing_ok=True)


def run_robots(arguments: list[str], tell: Callable[[float], None]) -> None:
    """python -m robots ..., with its progress. ChildFailed with its last words, or Interrupted."""
    with tempfile.TemporaryFile() as errors:
        child = start_child([sys.executable, "-m", "robots", *arguments], errors, stdout=subprocess.PIPE)
        try:
            follow_child(child, tell)
        finally:
            if child.poll() is None:
                end_child(child, SHUTDOWN_S)
        if stopping.is_set():
            raise Interrupted
        if child.returncode != 0:
            errors.seek(0)
            words = errors.read().decode(errors="replace").strip().splitlines()[-5:]
            ended = "" if child.returncode == 2 and words else f"The process {how_it_ended(child.returncode)}"
            raise ChildFailed("\n".join(filter(None, [*words, ended])), killed=child.returncode < 0)


def read_facts(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the body, what is told of each episode), as a child wrote it."""
    first, *lines = [strict_json.loads(line) for line in path.read_bytes().splitlines()]
    return first["body"], lines


def plan_of(dataset: Dataset, rows: Iterable[DatasetEpisode]) -> dict[str, Any]:
    """The sources and episodes of a plan for these rows, as people left them."""
    rows = list(rows)
    roots = list({row.source_id: row.source for row in rows}.values())
    place = {root.pk: i for i, root in enumerate(roots)}
    told = ("task", "instruction", "ending", "detected_success", "true_success", "purpose", "weight")
    return {
        "sources": [{"path": str(root.file), **root.origin.get("reading", {})} for root in roots],
        "episodes": [
            {
                "source": place[row.source_id],
                "index": row.source_index,
                "start": row.start,
                "stop": row.stop,
                **{name: getattr(row, name) for name in told},
            }
            for row in rows
        ],
        "body": dataset.body,
    }


def files_to_learn_from(dataset: Dataset, tell: Callable[[float], None]) -> list[Path]:
    """Files of episodes, one after the other. Those of a root that is one file are that file; of any other version they
    are made once, of bounded size each, and serve every run that learns from it.
    """
    if dataset.is_root and not dataset.file.is_dir():
        return [dataset.file]
    folder = settings.DATA / "prepared" / str(dataset.pk)
    if not folder.is_dir():
        rows = dataset.rows.select_related("source").order_by("position")
        assemble(plan_of(dataset, rows) | {"into": "parts", "target": str(folder)}, tell)
    return sorted(folder.glob("*.safetensors"))


# Replay


@shared_task(name="learning.render_episode")
def render_episode_job(episode_id: str) -> None:
    """All frames of an episode at once; the folder appears under its name when it is complete."""
    if not owns_folder():
        return
    episode = Episode.objects.filter(pk=episode_id).first()
    if episode is None or episode.frames_dir.exists():
        return
    part = episode.frames_dir.with_suffix(".part")
    try:
        failure = render(episode, part)
    except Exception as error:
        log.exception("frames of %s", episode_id)
        failure = f"{type(error).__name__}: {error}"
    if failure:
        shutil.rmtree(part, ignore_errors=True)  # first: on a full disk it makes room for the reason
        write_atomically(episode.frames_dir.with_suffix(".failed"), f"Rendering failed: {failure}".encode())


def render(episode: Episode, part: Path) -> str:
    """Why it failed, or ""."""
    part.mkdir(parents=True, exist_ok=True)
    log_file = part / "log.txt"
    command = [sys.executable, "-m", "robots", "render", "--episode", str(episode.file), "--out", str(part)]
    with open(log_file, "wb") as output:
        child = start_child(command, output, stdout=output)
    try:
        child.wait(120)
    except subprocess.TimeoutExpired:
        end_child(child, SHUTDOWN_S)
        return "it took more than 120 seconds."
    if child.returncode != 0:
        words = log_file.read_text(errors="replace").strip().splitlines()[-1:]
        return " ".join([*words, f"The renderer {how_it_ended(child.returncode)}"])
    os.replace(part, episode.frames_dir)
    return ""

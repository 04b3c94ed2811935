"""The Celery jobs: each supervises a child process and reports through the actions. None of them trains in its own
process.

A run's job prepares the run directory, starts `python -m training`, reads metrics.jsonl, hands practice episodes in,
publishes checkpoints and closes rounds. The run directory is all that the two share, so either may be killed at any
time: the run is claimed again and the training process goes on where its directory says.
"""

import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
from celery import shared_task
from celery.beat import EmbeddedService
from celery.signals import worker_ready, worker_shutting_down
from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections

from fleetui.celery import app as celery_app
from fleetui.embedded import end_with_parent
from fleetui.fleet import actions as fleet_actions
from fleetui.fleet.models import Episode
from fleetui.learning import actions, selectors
from fleetui.learning.models import Dataset, Run
from fleetui.messages import tell_station_on_commit
from robots import strict_json
from robots.episodes import EpisodeError, read_episodes
from training.run_dir import RunDir, RunError, write_atomically

log = logging.getLogger(__name__)

TICK_S = 0.15
BEAT_S = 1.0
LOG_EVERY_S = 2.0
REPEAT_S = 3.0  # a channel layer may drop: what stations must know is said again
WATCH_S = 5.0  # between two looks for runs that were left behind
WATCH_ALL_S = 60.0  # between two looks for those whose message was lost
# A cancelled training saves what it has; practice was saved after its last update, so no evaluation is waited for.
TERMINATE_S = {"sft": 30.0, "improve": 4.0}
SHUTDOWN_S = 5.0
LATE_UPLOAD_S = 3.0  # a station has ended its episode, whose upload is on its way
STATION_STUCK_S = 60.0  # a station that doesn't end its episode doesn't stop the round for ever

stopping = threading.Event()  # the worker is going down
beat = None  # Celery's clock for what repeats, while a worker runs


def start_child(command: list[str], output, **options) -> subprocess.Popen:
    """A process group of its own, so that ending it ends whatever it started. On Linux it ends with the worker, too."""
    end_with_worker = end_with_parent(signal.SIGTERM)

    def prepare():
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


def end_child(child: subprocess.Popen, seconds: float) -> None:
    """Ask, wait, then insist."""
    for number, wait in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            pass
        try:
            child.wait(wait)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGTERM:  # children of the child that outlived it
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        return


# Runs


def training_command(run: Run) -> list[str]:
    return [sys.executable, "-m", "training", run.kind, str(run.dir)]


@shared_task(name="learning.run")
def run_job(run_id: int) -> None:
    if stopping.is_set():
        return  # it stays queued, and the next worker finds it
    run = actions.claim_run(run_id=run_id)
    if run is None:
        return
    supervision = Supervision(run)
    try:
        supervision.carry_out()
    except (OperationalError, InterfaceError):
        # The database went away, not the run: without a heartbeat the watch finds it, and it goes on where it was.
        log.exception("run %s", run_id)
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
    else.
    """

    def __init__(self, run: Run):
        self.run = run
        self.dir = RunDir(run.dir)
        self.child: subprocess.Popen | None = None
        self.offset = 0  # in metrics.jsonl
        self.line = 0  # number of the last line read
        self.recorded = run.metrics.order_by("-seq").values_list("seq", flat=True).first() or 0
        self.handed_in: set[str] = set()
        self.summary: dict | None = None
        self.failure = ""
        self.beaten_at = self.repeated_at = self.logged_at = 0.0
        self.log_shown: list[str] = []
        self.holding_since: float | None = None
        self.episodes_over_since: float | None = None
        self.terminated_at: float | None = None

    def carry_out(self) -> None:
        self.prepare()
        self.end_leftover()
        with open(self.dir.path / "log.txt", "ab") as output:
            self.child = start_child(training_command(self.run), output, stdout=output)
        (self.dir.path / "pid").write_text(str(self.child.pid))
        while True:
            ended = self.child.poll() is not None  # asked before reading, so that no last line is missed
            self.read_metrics()
            if ended:
                self.conclude(self.child.returncode)
                return
            if stopping.is_set():
                end_child(self.child, SHUTDOWN_S)
                self.read_metrics()
                self.refresh()
                actions.release_run(run=self.run)
                return
            if not self.tick():
                log.warning("run %s is no longer attempt %s's; letting go", self.run.pk, self.run.attempt)
                end_child(self.child, SHUTDOWN_S)
                return
            stopping.wait(TICK_S)

    def let_go(self) -> None:
        """Whatever happened, no training process goes on unsupervised."""
        if self.child is not None and self.child.poll() is None:
            end_child(self.child, SHUTDOWN_S)

    # The directory

    def prepare(self) -> None:
        run = self.run
        RunDir.create(run.dir, run.load_recipe())
        if run.kind == "sft":
            sources = [each for each in (run.dataset, run.corrections) if each is not None]
            wanted = {f"{each.pk}.safetensors": each.file for each in sources}
            folder = self.dir.data
        else:
            wanted = {
                f"{role}.safetensors": run.parent.best_checkpoint(role).file for role in ("policy", "reward_model")
            }
            folder = self.dir.start
        for path in folder.iterdir():  # nothing but what this run is made of
            if path.name not in wanted:
                path.unlink()
        for name, source in wanted.items():
            if not source.is_file():
                raise RunError(f"{source} is missing; restore the data folder or launch the run from something else.")
            if not (folder / name).exists():
                (folder / name).symlink_to(source)
        self.handed_in = {path.stem[-36:] for path in self.dir.episodes.glob("*.safetensors")}

    def end_leftover(self) -> None:
        """A training process of an earlier attempt must not write beside the new one."""
        try:
            left = psutil.Process(int((self.dir.path / "pid").read_text()))
            if str(self.dir.path) in left.cmdline():
                left.kill()
                left.wait(5)
        except (FileNotFoundError, ValueError, psutil.Error):
            pass

    # Each tick

    def tick(self) -> bool:
        """False if the run is no longer ours."""
        now = time.monotonic()
        if now - self.beaten_at > BEAT_S:
            self.beaten_at = now
            close_old_connections()
            if not actions.beat_run(run=self.run):
                return False
        self.refresh()
        self.follow_wishes(now)
        if self.run.kind == "improve" and self.run.state == "running" and not self.run.pause_wanted:
            self.hand_in()
            self.close_round(now)
            if now - self.repeated_at > REPEAT_S:
                self.repeated_at = now
                self.repeat_orders()
        if now - self.logged_at > LOG_EVERY_S:
            self.logged_at = now
            lines = selectors.log_tail(self.run)
            if lines != self.log_shown:
                self.log_shown = lines
                actions.show_log(run=self.run, lines=lines)
        return True

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
            elif now - self.terminated_at > TERMINATE_S[run.kind]:
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
            if actions.move_run(run=run, to="running", sources=("starting",), attempt=run.attempt):
                fleet_actions.order_stations_of_run(run=run)

    def signal_child(self, number: int) -> None:
        try:
            os.killpg(self.child.pid, number)
        except ProcessLookupError:
            pass

    # What the learner says

    def read_metrics(self) -> None:
        """New whole lines of metrics.jsonl, numbered from the file's start; those an earlier attempt recorded are
        skipped.
        """
        try:
            with open(self.dir.metrics, "rb") as file:
                file.seek(self.offset)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole)
        fresh = []
        for text in whole.splitlines():
            self.line += 1
            try:
                line = strict_json.loads(text)
            except ValueError:
                log.warning("run %s: line %s of its metrics is torn", self.run.pk, self.line)
                continue
            if self.line > self.recorded and isinstance(line, dict):
                fresh.append((self.line, line))
            if line.get("kind") == "done":
                self.summary = line
        if not fresh:
            return
        for _, line in fresh:  # first the checkpoints: a page that hears of an evaluation may ask for its policy
            if line.get("kind") == "checkpoint":
                self.take_checkpoint(line)
            elif line.get("kind") == "failed":
                self.failure = str(line.get("reason") or "")
        actions.record_metrics(run=self.run, lines=fresh)
        self.recorded = self.line

    def take_checkpoint(self, line: dict) -> None:
        try:
            checkpoint = actions.register_checkpoint(run=self.run, line=line)
        except (KeyError, ValueError, TypeError) as error:
            log.error("run %s: a checkpoint line can't be used (%s): %s", self.run.pk, error, line)
            return
        if checkpoint is None:
            log.warning("run %s: %s is no longer the file of its line", self.run.pk, line.get("path"))
        elif line.get("publish") and self.run.kind == "improve":
            if actions.publish_checkpoint(run=self.run, checkpoint=checkpoint):
                self.holding_since = self.episodes_over_since = None

    # Practice episodes in, rounds closed

    def hand_in(self) -> None:
        """Episodes of the open version, each once; the number keeps the order in which they came."""
        if self.run.open_version is None:
            return
        episodes = selectors.episodes_to_hand_in(self.run)
        for episode in episodes:
            name = str(episode.pk)
            if name not in self.handed_in:
                self.handed_in.add(name)
                target = self.dir.episodes / f"{len(self.handed_in):07d}-{name}.safetensors"
                # A symlink appears whole, and the file it names was complete before its row was.
                target.symlink_to(episode.file)
        if episodes:
            fleet_actions.hand_in_episodes(episodes=episodes)

    def close_round(self, now: float) -> None:
        """Once the stations hold: wait for the episodes under way and their uploads, then tell the learner that this
        was all.
        """
        version = self.run.open_version
        if not self.run.holding or version is None or self.dir.closed(version):
            return
        self.holding_since = self.holding_since or now
        in_episode, not_uploaded = selectors.unsettled_stations(self.run)
        if in_episode and now - self.holding_since < STATION_STUCK_S:
            self.episodes_over_since = None
            return
        self.episodes_over_since = self.episodes_over_since or now
        if not_uploaded and now - self.episodes_over_since < LATE_UPLOAD_S:
            return
        self.hand_in()  # what was stored between the last look and the settling
        write_atomically(self.dir.rounds / f"{version}.closed", b"")

    def repeat_orders(self) -> None:
        policy = self.run.published_policy()
        if policy is None:
            return
        fleet_actions.record_loaded_everywhere(run=self.run)
        for station in selectors.stations_behind(self.run):
            tell_station_on_commit(station.command_group, *fleet_actions.list_orders(station=station))
        if self.run.holding:
            message = {"type": "hold", "version": self.run.open_version}
            fleet_actions.tell_stations_of_run(run=self.run, message=message)

    # The end

    def conclude(self, code: int) -> None:
        run = self.run
        self.refresh()
        (self.dir.path / "pid").unlink(missing_ok=True)
        actions.show_log(run=run, lines=selectors.log_tail(run))
        if self.summary is not None and code == 0:
            actions.finish_run(run=run, state="completed", attempt=run.attempt)
            if run.state == "canceling":  # it was done before the wish reached it
                actions.finish_run(run=run, state="canceled", attempt=run.attempt)
        elif run.state == "canceling":
            actions.finish_run(run=run, state="canceled", attempt=run.attempt)
        elif code < 0 and actions.retry_run(run=run):
            log.warning("run %s: its training process was killed by signal %s; it begins again", run.pk, -code)
        elif self.failure:
            actions.finish_run(run=run, state="failed", error=self.failure, attempt=run.attempt)
        else:
            reason = actions.reason_from_log(run=run, code=code)
            actions.finish_run(run=run, state="failed", error=reason, attempt=run.attempt)


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
    if stopping.is_set():
        return
    dataset = actions.claim_dataset(dataset_id=dataset_id)
    if dataset is None:
        return
    dataset.file.parent.mkdir(parents=True, exist_ok=True)
    said = dataset.file.with_suffix(".log")
    try:
        with open(said, "wb") as errors:
            child = start_child(demonstrate_command(dataset), errors, stdout=subprocess.PIPE)
        follow_demonstrations(dataset, child)
        if stopping.is_set():
            actions.release_dataset(dataset=dataset)
            return
        if child.returncode != 0:
            words = said.read_text(errors="replace").strip().splitlines()[-5:]
            reason = "The demonstrator ended with code {}: {}".format(child.returncode, "\n".join(words))
            actions.fail_dataset(dataset=dataset, error=reason)
            return
        episodes = read_episodes(dataset.file)
        steps = sum(episode.steps for episode in episodes)
        actions.finish_dataset(dataset=dataset, episodes=len(episodes), steps=steps)
    except (OSError, EpisodeError) as error:
        log.exception("dataset %s", dataset_id)
        actions.fail_dataset(dataset=dataset, error=f"Its file can't be used: {error}")


def follow_demonstrations(dataset: Dataset, child: subprocess.Popen) -> None:
    """Its progress lines, until it ends; a thread ends it when the worker stops."""
    over = threading.Event()

    def end_with_worker():
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
            actions.advance_dataset(dataset=dataset, progress=share)
        child.wait()
    finally:
        over.set()


# Replay


@shared_task(name="learning.render_episode")
def render_episode_job(episode_id: str) -> None:
    """All frames of an episode at once; the folder appears under its name when it is complete."""
    episode = Episode.objects.filter(pk=episode_id).first()
    if episode is None or episode.frames_dir.exists():
        return
    part = episode.frames_dir.with_suffix(".part")
    part.mkdir(parents=True, exist_ok=True)
    said = part / "log.txt"
    command = [sys.executable, "-m", "robots", "render", "--episode", str(episode.file), "--out", str(part)]
    with open(said, "wb") as output:
        child = start_child(command, output, stdout=output)
    try:
        child.wait(120)
    except subprocess.TimeoutExpired:
        end_child(child, SHUTDOWN_S)
    if child.returncode == 0:
        os.replace(part, episode.frames_dir)
        return
    words = said.read_text(errors="replace").strip().splitlines()[-1:]
    write_atomically(
        episode.frames_dir.with_suffix(".failed"),
        f"Rendering failed: {' '.join(words) or 'no reason given'}".encode(),
    )
    shutil.rmtree(part, ignore_errors=True)


# The queue of assignments


@shared_task(name="fleet.repeat_assignment")
def repeat_assignment_job(assignment_id: int) -> None:
    """Celery's beat sends this when an occurrence of a repeating assignment is due."""
    fleet_actions.repeat_assignment(assignment_id=assignment_id)


# The worker's own life


@worker_ready.connect
def begin_watch(**_) -> None:
    """Look for what a crash left behind: at once, then every few seconds."""

    def watch():
        looked_at_all = -math.inf
        while not stopping.is_set():
            try:
                close_old_connections()
                all_waiting = time.monotonic() - looked_at_all > WATCH_ALL_S
                actions.requeue_stale_jobs(all_waiting=all_waiting)
                if all_waiting:
                    looked_at_all = time.monotonic()
                    fleet_actions.drop_old_spans()
                fleet_actions.disconnect_silent_stations()
                fleet_actions.dispatch_all()
                keep_clock_running()
                fleet_actions.lapse_expired_control()
            except Exception:
                log.exception("looking for stale runs")
            stopping.wait(WATCH_S)

    threading.Thread(target=watch, name="watch", daemon=True).start()


def keep_clock_running() -> None:
    """Celery's beat, in a thread of this worker: what repeats needs no process of its own. A lost database ends it."""
    global beat
    if beat is None or not beat.is_alive():
        beat = EmbeddedService(celery_app, thread=True, scheduler_cls=settings.CELERY_BEAT_SCHEDULER)
        beat.start()


@worker_shutting_down.connect
def begin_stop(**_) -> None:
    stopping.set()
    if beat is not None:
        beat.service.stop()

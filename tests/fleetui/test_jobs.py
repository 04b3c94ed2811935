"""The jobs, around a small child that writes what training writes: claimed once, followed, paused, cancelled."""

import errno
import os
import signal
import sys
import threading
import time
import uuid
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import redis
from django.conf import settings
from django.db import OperationalError, connection
from django.utils import timezone

from fleetui import access, messages
from fleetui.fleet import selectors as fleet
from fleetui.fleet.actions import reports
from fleetui.fleet.models import AssignedStation, Assignment, Episode
from fleetui.learning import actions, jobs, selectors, workers
from fleetui.learning.models import Checkpoint, DataFolder, Dataset, Metric, Run
from fleetui.practice import jobs as practice_jobs
from fleetui.practice.actions import episodes, launching, publishing
from fleetui.practice.jobs import PracticeSupervision
from tests.fleetui.lab import add_checkpoint, as_upload, make_episode, make_improve_run
from training.run_dir import sha256_of

# What every child begins with: the run directory, and the two things it does to it.
BEGIN = """
import hashlib, json, os, signal, sys, time, uuid
from pathlib import Path
run = Path(sys.argv[1])
def log(kind, **values):
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"t": time.time(), "kind": kind} | values) + "\\n")
def save(role, version, **values):
    path = run / "checkpoints" / f"{role}-{version}.safetensors"
    path.write_bytes(f"weights {role} {version}".encode())
    log("checkpoint", id=str(uuid.uuid4()), role=role, version=version, path=f"checkpoints/{path.name}",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(), **values)
def until(condition):
    deadline = time.time() + 120
    while not condition():
        if time.time() > deadline:
            sys.exit("the child waited in vain")
        time.sleep(0.02)
"""


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Makes `learning.run` start this program instead of `python -m training`."""

    def use(program):
        script = tmp_path / "child.py"
        script.write_text(BEGIN + program)
        monkeypatch.setattr(jobs, "training_command", lambda run: [sys.executable, str(script), str(run.dir)])

    return use


@pytest.fixture
def queued(lab, dataset):
    return launching.launch_run(
        lab=lab.row, user=lab.users["researcher"], kind="sft", recipe={"seed": 1}, dataset=dataset
    )


class Job(threading.Thread):
    """The job as a worker's thread runs it; what broke in it breaks the test."""

    def __init__(self, run):
        super().__init__(daemon=True)
        self.run_id, self.error = run.pk, None
        self.start()

    def run(self):
        try:
            jobs.run_job(self.run_id)
        except BaseException as error:
            self.error = error
        finally:
            connection.close()

    def end(self, seconds=60):
        self.join(seconds)
        assert not self.is_alive() and self.error is None, self.error


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.03)


def state_of(run):
    return Run.objects.get(pk=run.pk).state


def test_a_run_is_followed_to_its_end(queued, child, dataset):
    child(
        """
assert json.loads((run / "recipe.json").read_text())["seed"] == 1
assert [path.name for path in (run / "data").iterdir()] == ["DATASET.safetensors"], list((run / "data").iterdir())
with open(run / "metrics.jsonl", "a") as file:  # a line written in two halves, with a flush between
    file.write('{"t": 1.0, "kind": "lo'); file.flush(); time.sleep(0.5); file.write('ss", "step": 1, "bc": 0.5}\\n')
save("policy", 0); save("reward_model", 0, threshold=2.5, consecutive=2)
log("progress", done=3, total=4, phase="training", eta_s=1.5)
log("evaluation", version=0, practice_episodes=0, successes=5, n=10, low=0.2, high=0.8)
print("hello from the child", flush=True)
log("done")
""".replace("DATASET", str(dataset.pk))
    )
    Job(queued).end()
    queued.refresh_from_db()
    assert (queued.state, queued.progress, queued.attempt, queued.error) == ("completed", 1.0, 1, "")
    kinds = list(Metric.objects.order_by("seq").values_list("seq", "kind"))
    assert kinds == list(enumerate(["loss", "checkpoint", "checkpoint", "progress", "evaluation", "done"], start=1))
    assert Metric.objects.get(seq=1).data == {"step": 1, "bc": 0.5}
    policy = queued.newest_checkpoint("policy")
    assert policy.file.read_bytes() == b"weights policy 0" and policy.published_at is None
    assert queued.newest_checkpoint("reward_model").threshold == 2.5
    assert "hello from the child" in (queued.dir / "log.txt").read_text()


def test_a_second_delivery_finds_the_run_taken(queued, child):
    child("until((run / 'go').exists)\nlog('done')")
    first = Job(queued)
    wait_for(lambda: state_of(queued) == "running")
    Job(queued).end(5)  # returns at once
    (queued.dir / "go").touch()
    first.end()
    queued.refresh_from_db()
    assert (queued.state, queued.attempt) == ("completed", 1)


def test_a_failed_run_says_why_in_the_childs_own_words(queued, child):
    child("sys.exit('there is no more memory')")
    Job(queued).end()
    queued.refresh_from_db()
    assert queued.state == "failed" and "there is no more memory" in queued.error and "code 1" in queued.error


def test_a_reason_that_the_child_logged_is_the_error(queued, child):
    child("log('failed', reason='The dataset holds nothing to learn.'); sys.exit(1)")
    Job(queued).end()
    queued.refresh_from_db()
    assert (queued.state, queued.error) == ("failed", "The dataset holds nothing to learn.")


def test_a_run_that_nothing_could_evaluate_is_a_parent_all_the_same(lab, queued, child):
    """A real robot's body has no simulator."""
    child("""
save("policy", 0); save("reward_model", 0, threshold=2.5, consecutive=2)
log("note", level="warning", text="Not evaluated in simulation: There is no world 'arm'.")
log("done")
""")
    Job(queued).end()
    queued.refresh_from_db()
    assert queued.state == "completed" and queued in selectors.list_parents(lab.row)
    run = launching.launch_run(
        lab=lab.row,
        user=lab.users["researcher"],
        kind="improve",
        parent=queued,
        task=lab.task,
        stations=lab.stations,
        recipe={},
    )
    assert run.parent == queued


def test_an_end_without_done_is_no_success(queued, child):
    child("log('loss', step=1)")
    Job(queued).end()
    assert state_of(queued) == "failed"


def test_cancel_asks_and_what_was_saved_stays(queued, child):
    child("""
def stop(*_):
    save("policy", 0); log("note", level="warning", text="canceled"); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
log("loss", step=1)
until(lambda: False)
""")
    job = Job(queued)
    wait_for(lambda: Metric.objects.exists())
    actions.cancel_run(run=Run.objects.get(pk=queued.pk), user=access.SERVER)
    job.end()
    assert state_of(queued) == "canceled" and Checkpoint.objects.count() == 1


def test_cancel_insists_and_takes_the_childs_children_along(queued, child, monkeypatch):
    monkeypatch.setattr(jobs.Supervision, "TERMINATE_S", 0.3)
    child("""
import subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
other = subprocess.Popen([sys.executable, "-c", deaf])
time.sleep(0.3)
log("note", text=str(other.pid))
time.sleep(60)
""")
    job = Job(queued)
    wait_for(lambda: Metric.objects.exists())
    grandchild = int(Metric.objects.get().data["text"])
    actions.cancel_run(run=Run.objects.get(pk=queued.pk), user=access.SERVER)
    job.end()
    assert state_of(queued) == "canceled"
    wait_for(lambda: not alive(grandchild))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_queued_run_is_cancelled_without_a_job(queued, child):
    child("log('done')")
    actions.cancel_run(run=queued, user=access.SERVER)
    assert state_of(queued) == "canceled"
    Job(queued).end()
    assert state_of(queued) == "canceled" and not Metric.objects.exists()


def test_pause_and_resume(queued, child):
    child("""
log("loss", step=1)
until((run / "pause").exists)
log("note", text="paused")
until(lambda: not (run / "pause").exists())
log("done")
""")
    job = Job(queued)
    wait_for(lambda: state_of(queued) == "running")
    actions.pause_run(run=Run.objects.get(pk=queued.pk), user=access.SERVER)
    wait_for(lambda: state_of(queued) == "paused" and Metric.objects.filter(kind="note").exists())
    actions.resume_run(run=Run.objects.get(pk=queued.pk), user=access.SERVER)
    job.end()
    assert state_of(queued) == "completed"


def test_a_worker_that_stops_leaves_the_run_to_the_next(queued, child):
    child("""
log("loss", step=1)
if not (run / "again").exists():
    (run / "again").touch()
    until(lambda: False)
log("loss", step=2)
log("done")
""")
    job = Job(queued)
    wait_for(lambda: Metric.objects.exists())
    jobs.stopping.set()
    try:
        job.end()
    finally:
        jobs.stopping.clear()
    queued.refresh_from_db()
    assert (queued.state, queued.deaths) == ("queued", 0)
    Job(queued).end()
    assert state_of(queued) == "completed"
    # Lines of the first attempt are not recorded twice.
    assert list(Metric.objects.order_by("seq").values_list("seq", "kind")) == [
        (1, "loss"),
        (2, "loss"),
        (3, "loss"),
        (4, "done"),
    ]


def test_a_run_left_behind_by_workers_or_servers_is_begun_again_however_often(queued):
    """Its training did not die: nothing says that it is at fault."""
    late = timezone.now() - timedelta(minutes=1)
    for attempt in (1, 2, 3, 4, 5):
        assert actions.claim_run(run_id=queued.pk, worker=workers.this_worker()).attempt == attempt
        Run.objects.update(heartbeat_at=late)
        actions.requeue_stale_jobs()
        queued.refresh_from_db()
        assert (queued.state, queued.deaths) == ("queued", 0)


def test_a_training_process_that_is_killed_begins_again(queued, child):
    child("""
log("loss", step=1)
if not (run / "again").exists():
    (run / "again").touch()
    os.kill(os.getpid(), signal.SIGKILL)
log("done")
""")
    Job(queued).end()
    queued.refresh_from_db()
    assert (queued.state, queued.attempt, queued.error) == ("queued", 1, "")
    Job(queued).end()
    assert state_of(queued) == "completed"


def test_one_that_is_always_killed_fails_in_the_end(queued, child):
    child("os.kill(os.getpid(), signal.SIGKILL)")
    for _ in range(3):
        Job(queued).end()
    queued.refresh_from_db()
    assert (queued.state, queued.attempt) == ("failed", 3) and "code -9" in queued.error


def test_deaths_count_anew_after_a_saved_state(queued, child):
    """Killed five times, each time a step further: that is progress."""
    child("""
saved = run / "state.safetensors"
steps = int(saved.read_text()) if saved.exists() else 0
if steps == 5:
    log("done")
    sys.exit()
saved.write_text(str(steps + 1))
os.kill(os.getpid(), signal.SIGKILL)
""")
    for attempt in range(1, 6):
        Job(queued).end()
        queued.refresh_from_db()
        assert (queued.state, queued.attempt, queued.deaths) == ("queued", attempt, 1)
    Job(queued).end()
    queued.refresh_from_db()
    assert (queued.state, queued.error) == ("completed", "")


def test_a_run_killed_thrice_in_one_place_says_how_and_its_last_words(queued, child):
    child("""
log("note", level="info", text="800 demonstrations reached their goal.")
log("progress", done=150, total=300, phase="grounding", eta_s=None)
os.kill(os.getpid(), signal.SIGKILL)
""")
    for _ in range(3):
        Job(queued).end()
    queued.refresh_from_db()
    assert queued.state == "failed" and "(none)" not in queued.error
    assert "SIGKILL" in queued.error and "tried 3 times" in queued.error
    assert "800 demonstrations reached their goal." in queued.error and "150 of 300 of grounding" in queued.error


def test_training_goes_on_while_postgresql_drops_every_connection(queued, child):
    """As at a restart of PostgreSQL: the job loses its connections again and again and keeps its run."""
    child("log('note', text=str(os.getpid()))\nuntil((run / 'go').exists)\nlog('loss', step=1)\nlog('done')")
    job = Job(queued)
    wait_for(lambda: state_of(queued) == "running" and Metric.objects.exists())
    try:
        for _ in range(12):
            drop_other_connections()
            time.sleep(0.1)
    finally:
        connection.pool.check()  # the tests after this one must not get a dead connection
    assert job.is_alive() and alive(int(Metric.objects.get(kind="note").data["text"]))
    (queued.dir / "go").touch()
    job.end()
    queued.refresh_from_db()
    assert (queued.state, queued.attempt, queued.deaths) == ("completed", 1, 0)
    assert list(Metric.objects.order_by("seq").values_list("seq", "kind")) == [(1, "note"), (2, "loss"), (3, "done")]


def drop_other_connections():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.mark.parametrize("where", ["record_metrics", "heartbeat_run", "finish_run"])
def test_no_call_to_an_absent_database_ends_the_run_or_loses_a_line(queued, child, monkeypatch, where):
    child("log('loss', step=1)\nuntil((run / 'go').exists)\nlog('loss', step=2)\nlog('done')")
    monkeypatch.setattr(jobs, "HEARTBEAT_S", 0.1)
    called, real = [], getattr(actions, where)

    def away(**arguments):
        called.append(where)
        if len(called) <= 5:
            raise OperationalError("the connection is lost")
        return real(**arguments)

    monkeypatch.setattr(actions, where, away)
    job = Job(queued)
    wait_for(lambda: state_of(queued) == "running")
    if where != "finish_run":  # that is called in the end
        wait_for(lambda: len(called) > 5)
    (queued.dir / "go").touch()
    job.end()
    queued.refresh_from_db()
    assert (queued.state, queued.attempt, queued.deaths) == ("completed", 1, 0) and len(called) > 5
    assert list(Metric.objects.order_by("seq").values_list("seq", flat=True)) == [1, 2, 3]


def test_a_frozen_valkey_does_not_take_the_run_from_its_job(queued, child, monkeypatch):
    """The job's own thread is then held by a live message, and the run's heartbeats go on."""
    monkeypatch.setattr(messages, "VALKEY_WITHIN_S", 600)
    monkeypatch.setattr(jobs, "HEARTBEAT_S", 0.1)
    child("until((run / 'go').exists)\nlog('done')")
    job = Job(queued)
    wait_for(lambda: state_of(queued) == "running")
    address = urlsplit(settings.CHANNELS_ADDRESS)
    options = {"unix_socket_path": address.path} if address.scheme == "unix" else {"host": address.hostname}
    with redis.Redis(**options) as client:
        valkey = client.info("server")["process_id"]
    os.kill(valkey, signal.SIGSTOP)
    try:
        with open(queued.dir / "log.txt", "a") as file:
            file.write("a line that the page shall see\n")  # its message can't be sent
        time.sleep(0.5)
        beats = set()
        wait_for(lambda: beats.add(Run.objects.get(pk=queued.pk).heartbeat_at) or len(beats) > 4)
    finally:
        os.kill(valkey, signal.SIGCONT)
    (queued.dir / "go").touch()
    job.end()
    queued.refresh_from_db()
    assert (queued.state, queued.attempt, queued.deaths) == ("completed", 1, 0)


def test_an_older_attempt_publishes_registers_and_records_nothing(improve_run):
    older = Run.objects.get(pk=improve_run.pk)
    path = older.dir / "checkpoints" / "policy.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    line = {
        "id": str(uuid.uuid4()),
        "role": "policy",
        "version": 0,
        "path": "checkpoints/policy.safetensors",
        "sha256": sha256_of(path),
    }
    checkpoint = actions.register_checkpoint(run=older, line=line)
    Run.objects.filter(pk=older.pk).update(attempt=7)
    assert not publishing.publish_checkpoint(run=older, checkpoint=checkpoint)
    assert not actions.record_metrics(run=older, lines=[(1, {"kind": "kept", "version": 0})])
    assert actions.register_checkpoint(run=older, line=line | {"id": str(uuid.uuid4())}) is None
    improve_run.refresh_from_db()
    assert (improve_run.open_version, improve_run.kept_version) == (None, None)
    assert not Metric.objects.exists() and Checkpoint.objects.filter(run=older, published_at=None).count() == 1
    newest = Run.objects.get(pk=older.pk)
    assert actions.record_metrics(run=newest, lines=[(1, {"kind": "kept", "version": 0})])
    assert publishing.publish_checkpoint(run=newest, checkpoint=checkpoint)
    assert not publishing.publish_checkpoint(run=newest, checkpoint=checkpoint)  # once is enough
    # An ended run takes nothing more, whatever attempt speaks.
    actions.finish_run(run=newest, state="failed")
    assert not actions.record_metrics(run=newest, lines=[(2, {"kind": "kept", "version": 1})])


# Whose data folder it is


def test_the_first_start_ties_database_and_data_folder_together(lab, settings):
    assert actions.recognise_folder()
    known = (settings.DATA / "fleet.id").read_text()
    assert DataFolder.objects.get().fleet == known and actions.recognise_folder()


@pytest.mark.parametrize("theirs", [None, "", "11111111-2222-4333-8444-555555555555"])
def test_a_worker_on_another_data_folder_takes_nothing_and_says_so_once(
    lab, queued, child, settings, tmp_path, monkeypatch, caplog, theirs
):
    assert actions.recognise_folder()
    generated = actions.generate_dataset(
        lab=lab.row, user=lab.users["researcher"], name="g", families=["block2block"], episodes=2
    )
    home = settings.DATA
    settings.DATA = tmp_path / "elsewhere"
    settings.DATA.mkdir()
    if theirs is not None:
        (settings.DATA / "fleet.id").write_text(theirs)
    monkeypatch.setattr(jobs, "foreign_said", False)
    child("log('done')")
    Job(queued).end()
    Job(queued).end()
    jobs.generate_dataset_job(generated.pk)
    queued.refresh_from_db()
    generated.refresh_from_db()
    assert (queued.state, queued.attempt, queued.error) == ("queued", 0, "")
    assert (generated.state, generated.heartbeat_at) == ("generating", None)
    assert caplog.text.count("is not the data folder of this database") == 1
    settings.DATA = home
    Job(queued).end()
    assert state_of(queued) == "completed"


def test_a_run_whose_message_was_lost_is_found(queued, monkeypatch):
    worker, sent = workers.this_worker(), []
    monkeypatch.setattr(actions.celery_app, "send_task", lambda job, args, queue: sent.append((job, args, queue)))
    actions.requeue_stale_jobs()
    assert not sent
    actions.requeue_stale_jobs(all_waiting=True)
    assert sent == [("learning.run", [queued.pk], worker.address)]


def test_a_live_run_is_left_alone(queued):
    actions.claim_run(run_id=queued.pk, worker=workers.this_worker())
    actions.requeue_stale_jobs(all_waiting=True)
    assert state_of(queued) == "starting"


def test_a_job_that_lost_its_run_ends_its_child_and_changes_nothing(queued, child, monkeypatch):
    monkeypatch.setattr(jobs, "HEARTBEAT_S", 0.0)
    child("log('note', text=str(os.getpid()))\nuntil(lambda: False)")
    job = Job(queued)
    wait_for(lambda: Metric.objects.exists())
    Run.objects.update(attempt=2)  # another worker took it
    job.end()
    assert not alive(int(Metric.objects.get().data["text"]))
    assert state_of(queued) == "running"


# Practice


@pytest.mark.parametrize("links", ["of today", "by whole paths, as before"])
def test_practice_goes_on_after_its_data_folder_was_moved(lab, sft_run, settings, tmp_path, links):
    run = make_improve_run(lab, sft_run)
    version = add_checkpoint(run, "policy", published_at=timezone.now())
    Run.objects.filter(pk=run.pk).update(open_version=0)
    run.refresh_from_db()
    supervision = PracticeSupervision(run)
    supervision.prepare()
    for _ in range(2):
        assert lab.upload(as_upload(make_episode(policy=str(version.uuid)))).status_code == 200
    supervision.hand_in()
    found = [path for path in run.dir.rglob("*.safetensors") if path.is_symlink()]
    handed_in = sorted(path.name for path in supervision.dir.episodes.iterdir())
    assert len(found) == 5 and len(handed_in) == 2, "two episodes, the demonstrations, the policy and the reward model"
    if links != "of today":
        for path in found:
            source = path.resolve()
            path.unlink()
            path.symlink_to(source)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in list(settings.DATA.iterdir()):
        if path != moved:
            path.rename(moved / path.name)
    settings.DATA = moved
    run.refresh_from_db()
    again = PracticeSupervision(run)
    again.prepare()
    links_now = [path for path in run.dir.rglob("*.safetensors") if path.is_symlink()]
    assert len(links_now) == 5 and all(moved in path.resolve().parents and path.is_file() for path in links_now)
    assert sorted(path.name for path in again.dir.episodes.iterdir()) == handed_in
    again.hand_in()
    assert sorted(path.name for path in again.dir.episodes.iterdir()) == handed_in, "none is handed in twice"


def test_rounds_episodes_in_and_policies_out(lab, sft_run, child, monkeypatch):
    for patience in ("LATE_UPLOAD_S", "STATION_STUCK_S"):
        monkeypatch.setattr(practice_jobs, patience, 600)
    assert jobs.SUPERVISIONS[True] is PracticeSupervision
    child("""
def consume(version):
    until((run / "rounds" / f"{version}.closed").exists)
    return len(list((run / "episodes").glob("*.safetensors")))
assert (run / "start" / "policy.safetensors").read_bytes().startswith(b"policy 0")
assert (run / "start" / "reward_model.safetensors").read_bytes().startswith(b"reward_model 0")
assert len(list((run / "data").glob("*.safetensors"))) == 1  # the demonstrations of its SFT run
save("policy", 0, publish=True)
log("update", version=1, files=consume(0))
save("policy", 1, publish=True)
log("update", version=2, files=consume(1))
log("done")
""")
    run = launching.launch_run(
        lab=lab.row,
        user=lab.users["researcher"],
        kind="improve",
        parent=sft_run,
        task=lab.task,
        stations=lab.stations,
        recipe={"updates_per_round": 1, "batch": 16},
    )
    lab.connect()
    one, two = lab.stations
    job = Job(run)

    def published(version):
        return Checkpoint.objects.filter(run=run, version=version, published_at__isnull=False).first()

    def practise(station, policy, steps, **fields):
        episode = make_episode(steps=steps, policy=str(policy.uuid), **fields)
        return episodes.store_episodes(station=station, body=as_upload(episode))["hold"]

    wait_for(lambda: published(0))
    first = published(0)
    for station in lab.stations:
        reports.record_telemetry(station=station, state="practising")
        publishing.record_policy_loaded(station=station, checkpoint_uuid=str(first.uuid))
    assert not practise(one, first, 10)
    assert practise(one, first, 10, purpose="practice")
    reports.record_telemetry(station=one, state="waiting")
    closed = run.dir / "rounds" / "0.closed"
    time.sleep(0.6)
    assert not closed.exists()  # the other station is still in its episode
    under_way = make_episode(steps=5, policy=str(first.uuid))
    reports.record_telemetry(station=two, state="waiting", episode=under_way.uuid)
    time.sleep(0.6)
    assert not closed.exists()  # that episode has not come yet
    episodes.store_episodes(station=two, body=as_upload(under_way))
    wait_for(closed.exists)
    wait_for(lambda: published(1))
    second = published(1)
    practise(one, first, 50)  # late: of the older policy
    practise(one, second, 20)
    wait_for((run.dir / "rounds" / "1.closed").exists)
    job.end()
    run.refresh_from_db()
    assert run.state == "completed" and run.practice_episodes == 5
    assert [row.data["files"] for row in Metric.objects.filter(kind="update").order_by("seq")] == [3, 4]
    assert Episode.objects.filter(handed_in_at=None).count() == 1
    assert first.uuid != second.uuid and Checkpoint.objects.get(pk=first.pk).staleness_s is not None
    # The stations are free again.
    assert Assignment.objects.get().state == "completed" and not AssignedStation.objects.filter(live=True).exists()
    assert publishing.list_orders(station=one)[0].assignment is None


# Datasets and frames


def test_a_dataset_is_made_by_the_real_demonstrator(lab):
    dataset = actions.generate_dataset(
        lab=lab.row, user=lab.users["researcher"], name="d", families=["block2block"], episodes=4, seed=1
    )
    jobs.generate_dataset_job(dataset.pk)
    dataset.refresh_from_db()
    assert (dataset.state, dataset.episodes, dataset.progress, dataset.error) == ("ready", 4, 1.0, "")
    assert dataset.steps > 4 and dataset.file.is_file()
    before = dataset.file.stat().st_mtime_ns
    jobs.generate_dataset_job(dataset.pk)  # a second delivery
    assert dataset.file.stat().st_mtime_ns == before


def test_a_dataset_that_fails_says_why(lab, monkeypatch):
    dataset = actions.generate_dataset(
        lab=lab.row, user=lab.users["researcher"], name="d", families=["block2block"], episodes=4
    )
    program = "import sys; sys.exit('the table is on fire')"
    monkeypatch.setattr(jobs, "demonstrate_command", lambda dataset: [sys.executable, "-c", program])
    jobs.generate_dataset_job(dataset.pk)
    row = Dataset.objects.get()
    assert row.state == "failed" and "the table is on fire" in row.error


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def generating(lab):
    return actions.generate_dataset(
        lab=lab.row, user=lab.users["researcher"], name="d", families=["block2block"], episodes=4
    )


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL; did the machine run out of memory?"),
        ("raise OSError(28, 'No space left on device')", "No space left on device"),
        ("import sys; sys.exit(3)", "ended with code 3"),
        ("print('not what was asked for')", "d.safetensors"),  # it ends well, and there is no file
    ],
)
def test_a_dataset_whose_demonstrator_dies_says_why(generating, monkeypatch, program, said):
    monkeypatch.setattr(jobs, "demonstrate_command", lambda dataset: [sys.executable, "-c", program])
    jobs.generate_dataset_job(generating.pk)
    generating.refresh_from_db()
    assert generating.state == "failed" and said.replace("d.s", f"{generating.pk}.s") in generating.error


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("start_child", NO_SPACE),
        ("EpisodeFile", MemoryError()),
        ("EpisodeFile", RuntimeError("anything else")),
        ("follow_demonstrations", NO_SPACE),
    ],
)
def test_a_dataset_does_not_stay_generating_whatever_breaks(generating, monkeypatch, where, error):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(jobs, where, broken)
    jobs.generate_dataset_job(generating.pk)
    generating.refresh_from_db()
    assert generating.state == "failed" and type(error).__name__ in generating.error


def test_a_dataset_whose_folder_cannot_be_made_says_why(generating):
    generating.file.parent.write_text("a file where the folder should be")
    jobs.generate_dataset_job(generating.pk)
    generating.refresh_from_db()
    assert generating.state == "failed" and "File exists" in generating.error


def test_what_dies_on_a_full_disk_says_that_it_is_full(generating, queued, child, monkeypatch):
    """Its own words found no room there."""
    monkeypatch.setattr(jobs.shutil, "disk_usage", lambda path: SimpleNamespace(free=4096))
    monkeypatch.setattr(jobs, "demonstrate_command", lambda dataset: [sys.executable, "-c", "raise SystemExit(2)"])
    child("sys.exit(2)")
    jobs.generate_dataset_job(generating.pk)
    Job(queued).end()
    for row in (generating, queued):
        row.refresh_from_db()
        assert row.state == "failed" and "is full: make room" in row.error


def test_a_run_whose_directory_finds_no_room_says_so(queued, monkeypatch):
    def full(*_):
        raise NO_SPACE

    monkeypatch.setattr(jobs.RunDir, "create", full)
    Job(queued).end()
    queued.refresh_from_db()
    assert queued.state == "failed" and "No space left on device" in queued.error


def test_a_long_silent_demonstrator_is_not_taken_for_dead(generating, monkeypatch, tmp_path):
    """Its job says that it lives, however long it says nothing; a second one must not begin the same dataset."""
    monkeypatch.setattr(jobs, "HEARTBEAT_S", 0.1)
    go = tmp_path / "go"
    program = f"import time, pathlib\nwhile not pathlib.Path({str(go)!r}).exists():\n    time.sleep(0.02)"
    monkeypatch.setattr(jobs, "demonstrate_command", lambda dataset: [sys.executable, "-c", program])
    thread = threading.Thread(target=lambda: (jobs.generate_dataset_job(generating.pk), connection.close()))
    thread.start()
    beats = set()
    wait_for(lambda: beats.add(Dataset.objects.get(pk=generating.pk).heartbeat_at) or len(beats) > 4)
    assert actions.claim_dataset(dataset_id=generating.pk) is None
    go.touch()
    thread.join()


@pytest.mark.parametrize("broken", ["start_child", "how_it_ended"])
def test_frames_that_cannot_be_written_say_why(lab, monkeypatch, broken):
    """On a full disk the half-made pictures go first, so that the reason finds room."""
    episodes.store_episodes(station=lab.stations[0], body=as_upload(make_episode(steps=2)))
    row = Episode.objects.get()
    row.file.write_bytes(b"damaged")

    def full(*_, **__):
        raise NO_SPACE

    monkeypatch.setattr(jobs, broken, full)
    assert actions.render_episode(episode=row) == ""
    jobs.render_episode_job(str(row.pk))
    assert "No space left on device" in actions.render_episode(episode=row)
    assert not row.frames_dir.with_suffix(".part").exists()


def test_frames_of_an_episode_are_rendered(lab, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")  # the drawn view: a test of the job, not of OpenGL
    episode = make_episode(steps=2)
    episodes.store_episodes(station=lab.stations[0], body=as_upload(episode))
    row = Episode.objects.get()
    assert actions.render_episode(episode=row) == ""
    jobs.render_episode_job(str(row.pk))
    assert fleet.episode_cameras(row) == [{"name": "front", "missing": ""}]
    assert [path.name for path in sorted(row.frames_dir.glob("0/*"))] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert os.listdir(row.frames_dir.parent) == [row.frames_dir.name]


def test_rendering_that_fails_is_told_instead_of_waiting_for_ever(lab):
    episode = make_episode(steps=2)
    episodes.store_episodes(station=lab.stations[0], body=as_upload(episode))
    row = Episode.objects.get()
    row.file.write_bytes(b"damaged")
    assert actions.render_episode(episode=row) == ""
    jobs.render_episode_job(str(row.pk))
    answer = lab.call("viewer", "get", f"episodes/{row.uuid}/frames/0.jpg")
    assert answer.status_code == 409 and "Rendering failed" in answer.json()["detail"]


def test_end_child_waits_for_a_graceful_end(tmp_path):
    program = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(7))\nprint('up', flush=True)\ntime.sleep(60)"
    )
    with open(tmp_path / "err", "wb") as errors:
        process = jobs.start_child([sys.executable, "-c", program], errors, stdout=-1)
    assert process.stdout.readline() == b"up\n"
    assert os.getpgid(process.pid) == process.pid and os.getpriority(os.PRIO_PROCESS, process.pid) >= 10
    jobs.end_child(process, 5)
    assert process.returncode == 7 != -signal.SIGKILL

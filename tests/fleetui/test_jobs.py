"""The jobs, around a small child that writes what training writes: claimed once, followed, paused, cancelled."""

import os
import signal
import sys
import threading
import time
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from fleetui.fleet import actions as fleet_actions
from fleetui.fleet.models import AssignedStation, Assignment, Episode
from fleetui.learning import actions, jobs
from fleetui.learning.models import Checkpoint, Dataset, Metric, Run
from tests.fleetui.lab import as_upload, make_episode

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
    deadline = time.time() + 20
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
    return actions.launch_run(
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

    def end(self, seconds=20):
        self.join(seconds)
        assert not self.is_alive() and self.error is None, self.error


def wait_for(condition, seconds=15):
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


def test_an_end_without_done_is_no_success(queued, child):
    child("log('loss', step=1)")
    Job(queued).end()
    assert state_of(queued) == "failed"


def test_cancel_asks_and_what_was_saved_stays(queued, child):
    child("""
def stop(*_):
    save("policy", 0); log("note", level="warning", text="cancelled"); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
log("loss", step=1)
until(lambda: False)
""")
    job = Job(queued)
    wait_for(lambda: Metric.objects.exists())
    actions.cancel_run(run=Run.objects.get(pk=queued.pk), user=None)
    job.end()
    assert state_of(queued) == "canceled" and Checkpoint.objects.count() == 1


def test_cancel_insists_and_takes_the_childs_children_along(queued, child, monkeypatch):
    monkeypatch.setitem(jobs.TERMINATE_S, "sft", 0.3)
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
    actions.cancel_run(run=Run.objects.get(pk=queued.pk), user=None)
    job.end()
    assert state_of(queued) == "canceled"
    wait_for(lambda: not alive(grandchild), 3)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_queued_run_is_cancelled_without_a_job(queued, child):
    child("log('done')")
    actions.cancel_run(run=queued, user=None)
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
    actions.pause_run(run=Run.objects.get(pk=queued.pk), user=None)
    wait_for(lambda: state_of(queued) == "paused" and Metric.objects.filter(kind="note").exists())
    actions.resume_run(run=Run.objects.get(pk=queued.pk), user=None)
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
    assert (queued.state, queued.attempt) == ("queued", 0)
    Job(queued).end()
    assert state_of(queued) == "completed"
    # Lines of the first attempt are not recorded twice.
    assert list(Metric.objects.order_by("seq").values_list("seq", "kind")) == [
        (1, "loss"),
        (2, "loss"),
        (3, "loss"),
        (4, "done"),
    ]


def test_a_run_left_behind_is_tried_three_times(queued):
    late = timezone.now() - timedelta(minutes=1)
    for attempt in (1, 2, 3):
        assert actions.claim_run(run_id=queued.pk).attempt == attempt
        Run.objects.update(heartbeat_at=late)
        actions.requeue_stale_jobs()
        assert state_of(queued) == ("queued" if attempt < 3 else "failed")
    assert "3 times" in Run.objects.get().error


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


def test_a_database_that_went_away_does_not_fail_the_run(queued, child, monkeypatch):
    child("until(lambda: False)")

    def break_off(self):
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(jobs.Supervision, "tick", break_off)
    job = Job(queued)
    job.end()
    assert state_of(queued) == "starting"
    Run.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    actions.requeue_stale_jobs()
    assert state_of(queued) == "queued"


def test_a_run_whose_message_was_lost_is_found(queued, monkeypatch):
    sent = []
    monkeypatch.setattr(actions.celery_app, "send_task", lambda job, args: sent.append((job, args)))
    actions.requeue_stale_jobs()
    assert not sent
    actions.requeue_stale_jobs(all_waiting=True)
    assert sent == [("learning.run", [queued.pk])]


def test_a_live_run_is_left_alone(queued):
    actions.claim_run(run_id=queued.pk)
    actions.requeue_stale_jobs(all_waiting=True)
    assert state_of(queued) == "starting"


def test_a_job_that_lost_its_run_ends_its_child_and_changes_nothing(queued, child, monkeypatch):
    monkeypatch.setattr(jobs, "BEAT_S", 0.0)
    child("log('note', text=str(os.getpid()))\nuntil(lambda: False)")
    job = Job(queued)
    wait_for(lambda: Metric.objects.exists())
    Run.objects.update(attempt=2)  # another worker took it
    job.end()
    assert not alive(int(Metric.objects.get().data["text"]))
    assert state_of(queued) == "running"


# Practice


def test_rounds_episodes_in_and_policies_out(lab, sft_run, child):
    child("""
def consume(version):
    until((run / "rounds" / f"{version}.closed").exists)
    return len(list((run / "episodes").glob("*.safetensors")))
assert (run / "start" / "policy.safetensors").read_bytes().startswith(b"policy 0")
assert (run / "start" / "reward_model.safetensors").read_bytes().startswith(b"reward_model 0")
save("policy", 0, publish=True)
log("update", version=1, files=consume(0))
save("policy", 1, publish=True)
log("update", version=2, files=consume(1))
log("done")
""")
    run = actions.launch_run(
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
        return fleet_actions.store_episodes(station=station, body=as_upload(episode))["hold"]

    wait_for(lambda: published(0))
    first = published(0)
    for station in lab.stations:
        fleet_actions.record_telemetry(station=station, state="practising")
        fleet_actions.record_policy_loaded(station=station, checkpoint_uuid=str(first.uuid))
    assert not practise(one, first, 10)
    assert practise(one, first, 10, purpose="practice")
    fleet_actions.record_telemetry(station=one, state="waiting")
    closed = run.dir / "rounds" / "0.closed"
    time.sleep(0.6)
    assert not closed.exists()  # the other station is still in its episode
    under_way = make_episode(steps=5, policy=str(first.uuid))
    fleet_actions.record_telemetry(station=two, state="waiting", episode=under_way.uuid)
    time.sleep(0.6)
    assert not closed.exists()  # that episode has not come yet
    fleet_actions.store_episodes(station=two, body=as_upload(under_way))
    wait_for(closed.exists, 3)
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
    assert fleet_actions.list_orders(station=one)[0]["assignment"] is None


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


def test_frames_of_an_episode_are_rendered(lab, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")  # the drawn view: a test of the job, not of OpenGL
    episode = make_episode(steps=2)
    fleet_actions.store_episodes(station=lab.stations[0], body=as_upload(episode))
    row = Episode.objects.get()
    assert actions.render_episode(episode=row) == ""
    jobs.render_episode_job(str(row.pk))
    assert [path.name for path in sorted(row.frames_dir.glob("*.jpg"))] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert os.listdir(row.frames_dir.parent) == [row.frames_dir.name]


def test_rendering_that_fails_is_told_instead_of_waiting_for_ever(lab):
    episode = make_episode(steps=2)
    fleet_actions.store_episodes(station=lab.stations[0], body=as_upload(episode))
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

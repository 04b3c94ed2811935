"""Several workers: what each takes, who has a run that two want, and what another machine needs to be one."""

import os
import signal
import socket
import threading
import time
from datetime import timedelta

import psutil
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from fleetui import access
from fleetui.learning import actions, jobs, selectors, workers
from fleetui.learning.models import DataFolder, Metric, Run, Worker
from fleetui.practice.actions import launching
from robots.demonstrators import collect_demonstrations
from robots.episodes import write_episodes
from tests.fleetui.test_jobs import Job, alive, child, queued, state_of, wait_for  # noqa: F401 (fixtures)


@pytest.fixture
def worker(lab, monkeypatch):
    """Makes workers, of which the last one is this process."""

    def make(name, *queues, trainings=1, **facts):
        monkeypatch.setattr(workers, "wishes", workers.Wishes(name, queues or ("cpu",), trainings))
        row = workers.register_worker()
        Worker.objects.filter(pk=row.pk).update(**facts)
        row.refresh_from_db()
        return row

    return make


@pytest.fixture
def sent(monkeypatch):
    found = []
    monkeypatch.setattr(actions.celery_app, "send_task", lambda job, args, queue: found.append((*args, queue)))
    return found


def launch(lab, dataset, queue="cpu", **recipe):
    return launching.launch_run(
        lab=lab.row, user=lab.users["researcher"], kind="sft", recipe=recipe, dataset=dataset, queue=queue
    )


def forget(*rows):
    Worker.objects.filter(pk__in=[row.pk for row in rows]).update(heard_at=timezone.now() - timedelta(minutes=5))


# Who has a run


def test_of_two_workers_that_claim_a_run_at_once_one_has_it(lab, dataset, worker):
    one, other = worker("one", trainings=20), worker("other", trainings=20)
    for seed in range(8):
        run, start, found = launch(lab, dataset, seed=seed), threading.Barrier(2), {}

        def claim(row, run=run, start=start, found=found):
            start.wait()
            try:
                found[row.name] = actions.claim_run(run_id=run.pk, worker=row)
            finally:
                connection.close()

        threads = [threading.Thread(target=claim, args=[row]) for row in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [name for name, claimed in found.items() if claimed is not None]
        run.refresh_from_db()
        assert (run.state, run.attempt, run.worker) == ("starting", 1, winner) and len(found) == 2


def test_a_worker_that_is_busy_leaves_the_next_run_to_another(lab, dataset, worker, sent):
    one, other = worker("one"), worker("other")
    first, second = launch(lab, dataset, seed=1), launch(lab, dataset, seed=2)
    sent.clear()
    assert actions.claim_run(run_id=first.pk, worker=one)
    assert sent == [(second.pk, "worker.other")], "whoever is free is told of what is first now"
    assert actions.claim_run(run_id=second.pk, worker=one) is None
    assert actions.claim_run(run_id=second.pk, worker=other).worker == "other"


def test_a_worker_that_begins_is_told_of_what_waits(lab, dataset, worker, sent):
    run = launch(lab, dataset)
    assert not sent
    assert selectors.say_place(run) == "No worker is connected. It waits for one."
    worker("one")
    assert sent == [(run.pk, "worker.one")]
    assert selectors.say_place(run).startswith("It is next")


def test_a_silent_worker_is_told_nothing_and_its_run_goes_on_elsewhere(lab, dataset, worker, sent):
    one, other = worker("one"), worker("other")
    run = launch(lab, dataset)
    assert actions.claim_run(run_id=run.pk, worker=one)
    forget(one)
    Run.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    sent.clear()
    actions.requeue_stale_jobs()
    assert sent == [(run.pk, "worker.other")]
    assert actions.claim_run(run_id=run.pk, worker=other).attempt == 2


def test_a_worker_that_ends_in_good_order_is_told_nothing_more(lab, dataset, worker, sent):
    one = worker("one")
    workers.leave_worker()
    launch(lab, dataset)
    assert not sent and not selectors.heard_workers()
    workers.beat_worker()  # the same process again
    one.refresh_from_db()
    assert one.is_heard


# Queues


def test_a_run_for_a_graphics_card_is_launched_only_where_there_is_one(lab, dataset, worker, sent):
    plain = worker("plain")
    with pytest.raises(access.Invalid, match="No worker with a GPU is connected"):
        launch(lab, dataset, queue="gpu")
    with pytest.raises(access.Invalid, match="no queue 'tpu'"):
        launch(lab, dataset, queue="tpu")
    card = worker("card", "gpu")
    run = launch(lab, dataset, queue="gpu")
    assert sent == [(run.pk, "worker.card")]
    assert actions.claim_run(run_id=run.pk, worker=plain) is None
    forget(card)
    assert selectors.say_place(run) == "No worker with a GPU is connected. It waits for one."
    assert actions.claim_run(run_id=run.pk, worker=card).queue == "gpu"


def test_form_and_api_ask_for_the_machine(lab, dataset, worker):
    page = lab.as_("researcher").get(f"/labs/{lab.slug}/runs/new?kind=sft").content.decode()
    assert "No worker with a GPU is connected." in page and 'value="gpu"' not in page
    body = {"kind": "sft", "dataset": dataset.pk, "queue": "gpu"}
    answer = lab.call("researcher", "post", "runs", body)
    assert answer.status_code == 422 and "No worker with a GPU" in answer.json()["problems"]["queue"]
    worker("card", "cpu", "gpu")
    page = lab.as_("researcher").get(f"/labs/{lab.slug}/runs/new?kind=sft").content.decode()
    assert 'value="gpu"' in page and "No worker with a GPU" not in page
    answer = lab.as_("researcher").post(
        f"/labs/{lab.slug}/runs/new?kind=sft", {"dataset": dataset.pk, "queue": "gpu", "name": "mine"}
    )
    assert answer.status_code == 302 and Run.objects.get().queue == "gpu"
    answer = lab.call("researcher", "post", "runs", body)
    assert (answer.json()["queue"], answer.json()["worker"]) == ("gpu", "")
    like = lab.as_("researcher").get(f"/labs/{lab.slug}/runs/new?kind=sft&like={Run.objects.last().pk}")
    assert '<option value="gpu" selected>' in like.content.decode()


# What pages show


def test_machines_are_listed_with_what_they_do(lab, other_lab, dataset, worker):
    get = lambda: lab.as_("viewer").get(f"/labs/{lab.slug}/machines").content.decode()  # noqa: E731
    assert "No worker was ever connected" in get()
    one = worker("one", "cpu", "gpu", gpus=["NVIDIA H200"])
    run = launch(lab, dataset)
    actions.claim_run(run_id=run.pk, worker=one)
    page = get()
    assert "1 connected" in page and "NVIDIA H200" in page and f'/runs/{run.pk}">{run.name}</a>' in page
    theirs = other_lab.as_("viewer").get(f"/labs/{other_lab.slug}/machines").content.decode()
    assert "1 of other labs" in theirs and run.name not in theirs
    assert "on the worker\n      one" in lab.as_("viewer").get(f"/labs/{lab.slug}/runs/{run.pk}").content.decode()
    launch(lab, dataset, queue="gpu")
    forget(one)
    page = get()
    assert "0 connected" in page and "last heard" in page and "No worker with a GPU is connected. 1" in page


# What a worker needs to begin


def test_a_name_is_one_workers_alone(lab, worker):
    row = worker("one")
    worker("one")  # this process may say it again
    Worker.objects.update(pid=os.getppid())
    with pytest.raises(access.Conflict, match=r"runs already .* by --name"):
        workers.register_worker()
    Worker.objects.update(pid=2**30)  # killed, on this machine
    workers.register_worker()
    Worker.objects.update(host="elsewhere")
    with pytest.raises(access.Conflict):
        workers.register_worker()
    forget(row)
    workers.register_worker()


def test_a_worker_on_another_folder_or_path_is_refused_in_words(lab, settings, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(os, "umask", lambda mask: None)
    monkeypatch.setattr("fleetui.practice.management.commands.worker.celery_app.worker_main", begun.append)
    monkeypatch.setattr(workers, "wishes", workers.wishes)  # the command's own are put back
    with pytest.raises(CommandError, match="no fleet in this database yet"):
        call_command("worker", queues="cpu", name="one")
    call_command("worker", main=True, name="main")
    assert DataFolder.objects.exists() and "worker.main,fleet" in begun.pop()
    call_command("worker", queues="gpu,cpu", name="one")
    assert "worker.one" in begun.pop() and Worker.objects.get(name="one").queues == ["gpu", "cpu"]
    Worker.objects.filter(name="main").update(folder="/mnt/fleet", host="server")
    with pytest.raises(CommandError, match=r"/mnt/fleet on server .* the same path on every machine"):
        call_command("worker", queues="cpu", name="two")
    settings.DATA = tmp_path / "other"
    settings.DATA.mkdir()
    with pytest.raises(CommandError, match=r"is not the data folder of this database.* is it mounted"):
        call_command("worker", queues="cpu", name="two")
    for wrong in ({"queues": "tpu"}, {"name": "a b"}):
        with pytest.raises(CommandError, match="give "):
            call_command("worker", **{"queues": "cpu", "name": "two"} | wrong)
    assert not begun


def test_a_run_that_another_machine_took_is_let_go(queued, child):  # noqa: F811
    """By the run directory, which both machines share."""
    child("log('note', text=str(os.getpid()))\nuntil(lambda: False)")
    job = Job(queued)
    wait_for(lambda: Metric.objects.exists())
    pid = int(Metric.objects.get().data["text"])
    assert (queued.dir / "process").read_text() == f"{socket.gethostname()} {pid}"
    (queued.dir / "process").write_text("elsewhere 0")
    job.end()
    assert not alive(pid) and state_of(queued) == "running", "It is the other's now"
    assert (queued.dir / "process").read_text() == "elsewhere 0"


def test_what_another_machine_left_is_given_time_to_let_go(queued, child, monkeypatch):  # noqa: F811
    waited = []
    monkeypatch.setattr(jobs.stopping, "wait", lambda seconds: waited.append(seconds) or time.sleep(0.01))
    child("assert (run / 'process').read_text().split()[0] != 'elsewhere'\nlog('done')")
    queued.dir.mkdir(parents=True)
    (queued.dir / "process").write_text("elsewhere 4711")
    Job(queued).end()
    assert state_of(queued) == "completed" and waited[0] == jobs.OTHER_LETS_GO_S
    assert not (queued.dir / "process").exists()


# Several processes in one run


@pytest.fixture
def shared_training(lab, dataset):
    """A run of two processes that goes on until somebody ends it."""
    write_episodes(dataset.file, collect_demonstrations(["block2block"], 12, seed=3))
    return launch(
        lab,
        dataset,
        processes=2,
        steps=1_000_000,
        passes=1_000_000,
        grounding_steps=1,
        batch=32,
        hidden=16,
        validate_every=10,
        evaluation_episodes=0,
        largest_threshold=0,
    )


def begin(run):
    """Its job, once both processes train; {rank: process}."""
    before = Metric.objects.filter(run=run).count()
    job = Job(run)
    wait_for(lambda: Metric.objects.filter(run=run, kind="loss", data__step__gte=10, seq__gt=before).exists(), 90)
    ranks = {}
    for process in psutil.Process().children(recursive=True):
        if str(run.dir) in process.cmdline() and (rank := process.environ().get("RANK")):
            ranks[int(rank)] = process
    assert sorted(ranks) == [0, 1]
    return job, ranks


def test_a_killed_process_of_two_ends_the_run_with_a_reason(shared_training):
    job, ranks = begin(shared_training)
    ranks[1].send_signal(signal.SIGKILL)
    job.end()
    shared_training.refresh_from_db()
    assert shared_training.state == "failed"
    assert "SIGKILL" in shared_training.error and "rank      : 1" in shared_training.error
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in ranks.values())


def test_two_processes_pause_resume_and_cancel_as_one_does(shared_training):
    job, ranks = begin(shared_training)
    actions.pause_run(run=Run.objects.get(pk=shared_training.pk), user=access.SERVER)
    wait_for(lambda: state_of(shared_training) == "paused")
    actions.resume_run(run=Run.objects.get(pk=shared_training.pk), user=access.SERVER)
    step = Metric.objects.filter(kind="loss").last().data["step"]
    wait_for(lambda: Metric.objects.filter(kind="loss", data__step__gt=step + 20).exists())
    actions.cancel_run(run=Run.objects.get(pk=shared_training.pk), user=access.SERVER)
    job.end()
    assert state_of(shared_training) == "canceled"
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in ranks.values())
    saved = (shared_training.dir / "state.safetensors").stat().st_mtime_ns
    actions.resume_run(run=Run.objects.get(pk=shared_training.pk), user=access.SERVER)
    job, ranks = begin(shared_training)
    wait_for(lambda: (shared_training.dir / "state.safetensors").stat().st_mtime_ns > saved)
    assert any("Going on at update" in each.data["text"] for each in Metric.objects.filter(kind="note"))
    jobs.stopping.set()  # the worker goes down
    try:
        job.end()
    finally:
        jobs.stopping.clear()
    assert state_of(shared_training) == "queued"
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in ranks.values())

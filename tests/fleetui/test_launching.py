"""From the wish for a run to its end: turns, resuming with the same weights, what it takes, its log, its estimate."""

import json
import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleetui import access
from fleetui.fleet.actions import labs
from fleetui.fleet.models import Act, Assignment
from fleetui.learning import actions, estimates, selectors, workers
from fleetui.learning.models import Metric, Run
from fleetui.learning.resources import Measuring, read_resources
from fleetui.practice.actions import launching
from robots.worlds.point_mass import POINT_MASS
from tests.fleetui.lab import Lab
from tests.fleetui.test_jobs import Job, child, queued, state_of, wait_for  # noqa: F401 (fixtures)
from training.methods.registry import method_of
from training.recipes import SFTRecipe


def launch(lab, dataset, **recipe):
    return launching.launch_run(
        lab=lab.row, user=lab.users["researcher"], kind="sft", recipe=recipe, dataset=dataset, name=f"run {recipe}"
    )


def get(lab, path, role="researcher", **query):
    return lab.as_(role).get(f"/labs/{lab.slug}/{path}", query)


# Turns


def claim(number):
    return actions.claim_run(run_id=number, worker=workers.this_worker())


@pytest.fixture
def one_at_a_time(lab, monkeypatch):
    monkeypatch.setattr(workers, "wishes", workers.Wishes("only", ("cpu",), trainings=1))
    return workers.register_worker()


def test_a_training_waits_for_its_turn_and_says_what_is_before_it(lab, other_lab, dataset, one_at_a_time):
    first, second = launch(lab, dataset, seed=1), launch(lab, dataset, seed=2)
    theirs = launch(other_lab, make_dataset_of(other_lab), seed=9)
    third = launch(lab, dataset, seed=3)
    assert claim(second.pk) is None, "It is not its turn yet"
    assert claim(first.pk) is not None and claim(second.pk) is None
    second.refresh_from_db()
    assert selectors.say_place(second).startswith("1st in the queue: 1 training at a time on only; before it: ")
    third.refresh_from_db()
    said = selectors.say_place(third)
    assert said.startswith("3rd in the queue") and f"{first.name} (starting)" in said and second.name in said
    assert "1 run of another lab" in said and theirs.name not in said
    assert said in re.sub(r"&#x27;", "'", get(lab, f"runs/{third.pk}").content.decode())
    assert actions.finish_run(run=Run.objects.get(pk=first.pk), state="completed")
    assert [run.pk for run in selectors.runs_for(one_at_a_time)] == [second.pk]
    assert claim(third.pk) is None and claim(second.pk) is not None


def make_dataset_of(lab):
    from fleetui.learning.models import Dataset
    from robots.worlds.language_table import LANGUAGE_TABLE

    return Dataset.objects.create(
        lab=lab.row, name="theirs", families=["block2block"], state="ready", path="x", body=LANGUAGE_TABLE.to_json()
    )


def test_the_next_ones_job_is_called_when_a_turn_is_free(lab, dataset, one_at_a_time, monkeypatch):
    first, second = launch(lab, dataset, seed=1), launch(lab, dataset, seed=2)
    claim(first.pk)
    sent = []
    monkeypatch.setattr(actions.celery_app, "send_task", lambda job, args, queue: sent.append((job, *args, queue)))
    actions.finish_run(run=Run.objects.get(pk=first.pk), state="failed", error="no")
    assert sent == [("learning.run", second.pk, "worker.only")]


def test_what_practises_waits_for_no_training(lab, dataset, sft_run, one_at_a_time):
    claim(launch(lab, dataset, seed=1).pk)
    lab.connect()
    run = launching.launch_run(
        lab=lab.row,
        user=lab.users["manager"],
        kind="improve",
        parent=sft_run,
        task=lab.task,
        stations=lab.stations,
        recipe={},
    )
    assert claim(run.pk) is not None


# Resuming

LEARNS = """
state = run / "state.txt"
begun = int(state.read_text()) if state.exists() else 0
log("note", text=f"began at {begun}")
def stop(*_):
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
for step in range(begun + 1, begun + 4):
    state.write_text(str(step))
    log("loss", step=step, bc=1 / step)
if begun:
    save("policy", 0); log("done", weights=int(state.read_text()))
elif MODE == "dies":
    print("Traceback: out of paint", flush=True); sys.exit("no more paint")
else:
    until(lambda: False)
"""


@pytest.mark.parametrize("ends", ["canceled", "failed"])
def test_a_run_that_ended_goes_on_with_the_weights_that_it_saved(lab, queued, child, ends):  # noqa: F811
    child(f'MODE = "{"dies" if ends == "failed" else ""}"\n' + LEARNS)
    job = Job(queued)
    if ends == "canceled":
        wait_for(lambda: Metric.objects.filter(kind="loss").count() == 3)
        actions.cancel_run(run=Run.objects.get(pk=queued.pk), user=access.SERVER)
    job.end()
    assert state_of(queued) == ends
    answer = lab.as_("researcher").post(f"/labs/east/runs/{queued.pk}/resume", follow=True)
    assert "waits for its turn" in answer.content.decode() and state_of(queued) == "queued"
    Job(queued).end()
    queued.refresh_from_db()
    assert (queued.state, queued.error, queued.attempt) == ("completed", "", 2)
    done = Metric.objects.get(kind="done").data
    assert done == {"weights": 6}, "It began anew instead of at the third step that it had saved"
    notes = [row.data["text"] for row in Metric.objects.filter(kind="note")]
    assert notes == ["began at 0", "began at 3"]
    assert Act.objects.filter(kind="run_resumed").count() == 1


def test_an_old_job_brings_no_ended_run_back(lab, queued):  # noqa: F811
    run = claim(queued.pk)
    assert actions.finish_run(run=Run.objects.get(pk=run.pk), state="failed")
    actions.release_run(run=run)
    assert not actions.retry_run(run=run, deaths=1)
    assert state_of(run) == "failed"


def test_practice_is_resumed_with_its_stations_if_they_are_free(lab, sft_run, improve_run):
    actions.finish_run(run=improve_run, state="failed", error="it broke")
    assert not Assignment.objects.filter(state__in=Assignment.LIVE).exists()
    actions.resume_run(run=improve_run, user=lab.users["researcher"])
    improve_run.refresh_from_db()
    live = Assignment.objects.get(state__in=Assignment.LIVE)
    assert improve_run.state == "queued" and live.run == improve_run and live.task == lab.task
    assert set(live.stations.all()) == set(lab.stations)
    actions.cancel_run(run=improve_run, user=lab.users["researcher"])
    launching.launch_run(
        lab=lab.row,
        user=lab.users["manager"],
        kind="improve",
        parent=sft_run,
        task=lab.task,
        stations=lab.stations[:1],
        recipe={},
    )
    with pytest.raises(access.Conflict, match="Arm 1"):
        actions.resume_run(run=improve_run, user=lab.users["researcher"])
    improve_run.refresh_from_db()
    assert improve_run.state == "canceled"


def test_a_completed_or_archived_run_is_not_resumed(lab, sft_run):
    with pytest.raises(access.Conflict, match="only a paused, canceled or failed"):
        actions.resume_run(run=sft_run, user=lab.users["researcher"])
    Run.objects.filter(pk=sft_run.pk).update(state="failed", archived_at=timezone.now())
    sft_run.refresh_from_db()
    with pytest.raises(access.Conflict, match="is archived"):
        actions.resume_run(run=sft_run, user=lab.users["researcher"])


# Its log


def test_a_crashed_run_shows_its_last_words_and_its_whole_log_is_searched(lab, queued, child):  # noqa: F811
    child(
        "for number in range(900): print(f'line {number}', file=sys.stderr)\n"
        "print('Traceback: out of paint'); sys.exit('no more paint')"
    )
    Job(queued).end()
    page = get(lab, f"runs/{queued.pk}").content.decode()
    assert "no more paint" in page and "line 899" in page and f"runs/{queued.pk}/log" in page
    page = get(lab, f"runs/{queued.pk}/log", "viewer").content.decode()
    assert "The last 400 of 902 lines" in page and "line 600" in page and "line 400\n" not in page
    page = get(lab, f"runs/{queued.pk}/log", q="LINE 3 7").content.decode()
    assert '<span class="muted">38</span>  line 37' in page and "line 36\n" not in page
    assert "No line found" in get(lab, f"runs/{queued.pk}/log", q="sunshine").content.decode()
    file = b"".join(get(lab, f"runs/{queued.pk}/log.txt").streaming_content)
    assert file.startswith(b"line 0\n")
    assert Lab("south").as_("manager").get(f"/labs/east/runs/{queued.pk}/log").status_code == 404


# What it takes


def test_what_a_training_takes_is_measured_with_its_children(lab, queued, child, monkeypatch):  # noqa: F811
    monkeypatch.setattr("fleetui.learning.jobs.EVERY_S", 0.2)
    child(
        """
import subprocess
held = bytearray(120 * 2**20)
busy = "import time\\nwhile time.process_time() < 2.5: pass"
subprocess.run([sys.executable, "-c", busy])
log("done")
"""
    )
    Job(queued).end()
    queued.refresh_from_db()
    assert queued.resources["samples"] >= 3 and queued.resources["rss_peak"] > 120 * 2**20
    assert 0 < queued.resources["cpu_mean"] < 2
    shown = json.loads(get(lab, f"runs/{queued.pk}/resources", "viewer").content)
    assert len(shown["minutes"]) == queued.resources["samples"] and max(shown["rss"]) == queued.resources["rss_peak"]


def test_of_many_samples_memory_keeps_its_peak(tmp_path):
    rows = [{"t": 60.0 * i, "cpu": 1.0, "rss": 99 if i == 777 else 1} for i in range(2000)]
    (tmp_path / "resources.jsonl").write_text("torn\n" + "".join(json.dumps(row) + "\n" for row in rows))
    found = read_resources(tmp_path, 0.0)
    assert (found["samples"], found["drawn"], max(found["rss"]), found["minutes"][-1]) == (2000, 500, 99, 1999)
    assert read_resources(tmp_path / "nowhere", 0.0)["minutes"] == []


def test_a_process_that_has_gone_is_measured_no_more(tmp_path):
    assert not Measuring(2**22 - 7, tmp_path, {}).take()


# Before it


def test_an_estimate_is_of_past_runs_in_proportion_or_not_known(lab, dataset):
    method = method_of("sft")
    assert estimates.estimate(lab.row, method, SFTRecipe().to_json(), dataset) is None
    assert "Not known yet" in get(lab, "runs/new", kind="sft").content.decode()
    now = timezone.now()
    for seconds, steps in ((100, 1000), (240, 2000), (150, 1000)):
        Run.objects.create(
            lab=lab.row,
            name="past",
            kind="sft",
            state="completed",
            dataset=dataset,
            recipe=SFTRecipe(steps=steps).to_json(),
            started_at=now - timedelta(seconds=seconds),
            ended_at=now,
            resources={"samples": 3, "rss_peak": seconds * 2**20, "cpu_mean": 0.9},
        )
    found = estimates.estimate(lab.row, method, SFTRecipe(steps=500).to_json(), dataset)
    assert (found.seconds, found.low, found.high, found.n, found.rss) == (60, 50, 75, 3, 240 * 2**20)
    part = get(lab, "runs/estimate", kind="sft", steps="2000", dataset=dataset.pk, batch="odd").content.decode()
    part = " ".join(part.split())
    assert "About 4 min" in part and "3 past runs on demos, in proportion to its steps" in part
    assert get(lab, "runs/estimate", "viewer", kind="sft").status_code == 403


def test_a_clone_begins_with_all_values_and_knows_what_they_were(lab, sft_run):
    Run.objects.filter(pk=sft_run.pk).update(recipe=SFTRecipe(batch=64).to_json())
    page = get(lab, "runs/new", kind="sft", like=sft_run.pk).content.decode()
    assert re.search(r'name="batch" value="64"[^>]* data-began="64" data-usual="256"', page)
    assert f'data-like="sft #{sft_run.pk}"' in page

    def asked():
        with CaptureQueriesContext(connection) as queries:
            get(lab, "runs/estimate", kind="sft")
        return len(queries)

    few = asked()
    for _ in range(20):
        Run.objects.create(
            lab=lab.row, name="past", kind="sft", state="completed", dataset=sft_run.dataset, recipe=sft_run.recipe
        )
    assert asked() <= few, "it is asked for with each key that is pressed in the form"


# Which stations a form begins with


def ticked(page):
    boxes = re.findall(r'<input type="checkbox" name="stations"[^>]*>', page)
    return [int(re.search(r'value="(\d+)"', box)[1]) for box in boxes if " checked" in box]


def test_of_a_fleet_of_several_bodies_those_of_the_policys_body_are_chosen_at_first(lab, sft_run):
    lab.connect()
    theirs = [each.pk for each in lab.stations]
    labs.create_station(lab=lab.row, user=access.SERVER, name="Point", world="point_mass", embodiment=POINT_MASS)
    for role, path in (("researcher", f"runs/new?kind=improve&parent={sft_run.pk}"), ("manager", "tasks/")):
        assert ticked(get(lab, path, role).content.decode()) == theirs, path
    assert ticked(get(lab, f"runs/{sft_run.pk}/evaluate", "manager").content.decode()) == theirs

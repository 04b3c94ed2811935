"""The detector's studio on stored curves, spot checks and their bound, drift as an alarm, the playground's process."""

import re
import time
import uuid

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleetui import access
from fleetui.fleet.actions import alarms, labs
from fleetui.fleet.models import Alarm, Episode
from fleetui.learning import comparison_jobs, curves, inspecting, spot_checks, studio
from fleetui.learning.models import Curve, SpotCheck
from tests.fleetui.lab import as_upload, make_episode
from training import detector_figures


@pytest.fixture
def policy(sft_run):
    return sft_run.checkpoints.get(role="policy")


@pytest.fixture
def judge(sft_run):
    return sft_run.checkpoints.get(role="reward_model")


@pytest.fixture
def store(lab, policy, judge):
    """Uploads an attempt with these d, as a station would; the row."""

    def made(d, station=0, **fields):
        d = np.asarray(d, np.float32)
        detected = fields.pop("detected", False)
        recorded = make_episode(
            steps=len(d) - 1,
            steps_to_go=d,
            policy=str(policy.pk),
            reward_model=str(judge.pk),
            threshold=2.5,
            ending="detected_success" if detected else "time_limit",
            detected_success=detected,
            **fields,
        )
        answer = lab.upload(as_upload(recorded), lab.stations[station])
        assert answer.status_code == 200, answer.content
        return Episode.objects.get(pk=recorded.uuid)

    return made


def fall(start, end, steps=30):
    return np.linspace(start, end, steps + 1)


def page(lab, path, who="researcher", **query):
    return lab.as_(who).get(f"/labs/{lab.slug}/{path}", query)


# The studio


def test_an_upload_keeps_its_curve_and_the_studio_judges_by_another_threshold(lab, store, judge):
    right = store(fall(40, 2, 40), detected=True, true_success=True)
    wrong = store(fall(40, 4), true_success=False)
    missed = store(fall(40, 9), true_success=True)
    store(fall(40, 20), true_success=False)
    store(fall(40, 1), detected=True, true_success=None)
    attempts = studio.read_attempts(lab.row, judge)
    assert len(attempts.ids) == 5 and Curve.objects.get(pk=right.pk).error == pytest.approx(1.0)
    strict, lax = studio.judge(attempts, 2.5, 1), studio.judge(attempts, 5.0, 1)
    assert (strict["right"], strict["wrong"], strict["missed"], strict["quiet"]) == (1, 0, 1, 2)
    assert (lax["right"], lax["wrong"], lax["missed"], lax["quiet"]) == (1, 1, 1, 1)
    assert (strict["known"], strict["fires"]) == (4, 2), "what nobody knows of is in no share"
    assert [each["episode"] for each in lax["false_positives"]] == [wrong.pk]
    assert [each["episode"] for each in lax["false_negatives"]] == [missed.pk]
    assert lax["false_negatives"][0]["step"] == 30 and lax["false_positives"][0]["d"] <= 5.0
    assert lax["precision"]["rate"] == 0.5 and lax["precision"]["low"] < 0.5 < lax["precision"]["high"]
    assert studio.judge(attempts, 1.0, 1)["cut_off"] == 1, "its own detector had ended it"
    assert studio.judge(attempts, 30.0, 1)["early"] == 2
    assert 0.5 < lax["area"] < 1


def test_the_page_and_its_figures_say_the_same_and_filter(lab, store, judge, sft_run):
    store(fall(40, 2), detected=True, true_success=True)
    store(fall(40, 4), station=1, true_success=False)
    whole = page(lab, f"reward-models/{judge.pk}/studio", s="6").content.decode()
    part = page(lab, f"reward-models/{judge.pk}/studio/figures", s="6").content.decode()
    assert "50 %" in part and part.strip() in whole and "<nav" not in part
    assert "False positives" in part and "?step=30" in part
    only = page(lab, f"reward-models/{judge.pk}/studio/figures", s="6", station="arm-1").content.decode()
    assert "100 %" in only and "1 attempts" in only
    none = page(lab, f"reward-models/{judge.pk}/studio", task="block2block", station="arm-2", run=sft_run.pk, s="1")
    assert "1 attempts" in none.content.decode()
    text = page(lab, f"reward-models/{judge.pk}/studio", s="much", station="nowhere").content.decode()
    assert "Enter a number" in text and "Select a valid choice" in text
    policy = sft_run.checkpoints.get(role="policy")
    answer = page(lab, f"reward-models/{policy.pk}/studio")
    assert answer.status_code == 404 and "is no reward model" in answer.content.decode()


def test_an_empty_studio_says_where_its_figures_come_from(lab, judge):
    assert "practice\n" in page(lab, f"reward-models/{judge.pk}/studio").content.decode()


def test_attempts_of_before_are_read_by_a_job(lab, store, judge):
    row = store(fall(40, 2), detected=True, true_success=True)
    gone = store(fall(40, 5))
    Curve.objects.all().delete()
    gone.file.unlink()
    text = page(lab, f"reward-models/{judge.pk}/studio").content.decode()
    assert "2 stored" in text and "being read for the first time" in text
    comparison_jobs.fill_curves_job(str(judge.pk))
    assert Curve.objects.count() == 2 and np.frombuffer(Curve.objects.get(pk=row.pk).d, "<f4")[-1] == 2
    text = page(lab, f"reward-models/{judge.pk}/studio").content.decode()
    assert "being read" not in text and "1 attempts" in text


def test_the_calibration_keeps_detected_and_true_apart(lab, store, judge):
    d = np.arange(30, -1, -1)
    store(d, detected=True, true_success=False)
    store(d + 4, detected=True, true_success=True)
    attempts = studio.read_attempts(lab.row, judge)
    assert studio.calibrate(attempts, only_true=False)["bias"] == 2
    true = studio.calibrate(attempts, only_true=True)
    assert (true["n"], true["bias"], true["error"]) == (1, 4, 4)
    assert true["groups"][0] | {"n": 1} == true["groups"][0] and true["groups"][0]["station"] == "Arm 1"
    assert "off by 4.0" in page(lab, f"reward-models/{judge.pk}/studio", ends="true").content.decode().lower()


def test_hundreds_of_attempts_are_answered_with_as_many_queries_as_a_few(lab, store, judge, policy):
    first = store(fall(40, 2), detected=True, true_success=True)
    rng = np.random.default_rng(0)
    same = {each.name: getattr(first, each.name) for each in Episode._meta.concrete_fields}
    same = {name: value for name, value in same.items() if name != "uuid"}
    rows = [Episode(**same | {"uuid": uuid.uuid4(), "true_success": bool(i % 3)}) for i in range(500)]
    Episode.objects.bulk_create(rows)
    Curve.objects.bulk_create(
        Curve(
            episode=row,
            d=np.abs(rng.normal(20, 9, 120)).astype("<f4").tobytes(),
            station_id=row.station_id,
            policy=policy,
            weights=judge,
            stored_at=row.stored_at,
        )
        for row in rows
    )
    address = f"reward-models/{judge.pk}/studio/figures"
    page(lab, address)
    with CaptureQueriesContext(connection) as queries:
        text = page(lab, address, s="3").content.decode()
    assert "501 attempts" in text and len(queries) < 30


# Spot checks


@pytest.fixture
def all_drawn(lab):
    labs.edit_task(task=lab.task, user=lab.users["manager"], audit_share=1.0)
    lab.task.refresh_from_db()


def test_a_share_of_what_is_detected_is_drawn_and_nothing_else(lab, store):
    labs.edit_task(task=lab.task, user=lab.users["manager"], audit_share=0.0)
    store(fall(40, 2), detected=True)
    assert not SpotCheck.objects.exists()
    labs.edit_task(task=lab.task, user=lab.users["manager"], audit_share=1.0)
    store(fall(40, 2), detected=True)
    store(fall(40, 9))
    assert SpotCheck.objects.count() == 1
    rows = [Episode(uuid=uuid.uuid4(), task=None) for _ in range(4000)]
    assert 0.03 < np.mean([spot_checks.is_drawn(row) for row in rows]) < 0.07, "5 % where nobody says otherwise"
    assert spot_checks.is_drawn(rows[0]) == spot_checks.is_drawn(rows[0])


def test_people_answer_by_page_and_take_back(lab, store, all_drawn):
    first = store(fall(40, 2), detected=True, true_success=None)
    second = store(fall(40, 2), detected=True, true_success=True)
    text = page(lab, "spot-checks/", "supervisor").content.decode()
    assert f'data-episode="{second.pk}"' in text and 'data-step="30"' in text, "the newest, at the detection"
    check = SpotCheck.objects.get(episode=second)
    supervisor = lab.as_("supervisor")
    supervisor.post(f"/labs/east/spot-checks/{check.pk}/answer", {"answer": "no"})
    second.refresh_from_db()
    assert second.true_success is False
    text = page(lab, "spot-checks/", "supervisor").content.decode()
    assert f'data-episode="{first.pk}"' in text
    answer = supervisor.post(f"/labs/east/spot-checks/{check.pk}/answer", {"answer": "yes"}, follow=True)
    assert "east-supervisor has answered this one meanwhile" in answer.content.decode()
    answer = supervisor.post("/labs/east/spot-checks/undo", follow=True)
    second.refresh_from_db()
    assert second.true_success is True and f'data-episode="{second.pk}"' in answer.content.decode()
    supervisor.post(f"/labs/east/spot-checks/{check.pk}/answer", {"answer": "skip"})
    check.refresh_from_db()
    second.refresh_from_db()
    assert check.answer is None and check.answered_at and second.true_success is True
    assert (
        "Answer yes, no or skip"
        in supervisor.post(
            f"/labs/east/spot-checks/{SpotCheck.objects.get(episode=first).pk}/answer", {"answer": "maybe"}, follow=True
        ).content.decode()
    )
    assert lab.as_("researcher").post(f"/labs/east/spot-checks/{check.pk}/answer").status_code == 403


def test_only_random_checks_bound_the_error(lab, store, all_drawn, policy):
    rows = [store(fall(40, 2), detected=True, true_success=None) for _ in range(4)]
    user = lab.users["supervisor"]
    for row, answer in zip(rows, (True, True, False, None), strict=True):
        spot_checks.answer_spot_check(check=row.spot_check, user=user, answer=answer)
    SpotCheck.objects.filter(episode=rows[3]).delete()
    Episode.objects.filter(pk=rows[3].pk).update(true_success=False)  # a label of somebody's own choice
    (bound,) = studio.bounds(lab.row.spot_checks.all())
    assert (bound["n"], bound["wrong"], bound["policy__version"]) == (3, 1, 0)
    assert bound["bound"] == pytest.approx(detector_figures.upper_bound(1, 3)) and 0.8 < bound["bound"] < 0.9
    for path in (f"checkpoints/{policy.pk}", f"runs/{policy.run_id}", "spot-checks/"):
        assert "at most 86 %" in page(lab, path).content.decode(), path
    assert "detector wrong in at most 86 %" in page(lab, "tasks/").content.decode()


def test_an_empty_queue_says_what_comes_here(lab):
    text = page(lab, "spot-checks/", "viewer").content.decode()
    assert "Nothing waits for a look" in text and "5 %" in text


# Drift


def keep(lab, policy, judge, errors, station=0):
    """Curves of attempts whose error 20 steps before the detection was so."""
    for error in errors:
        row = Episode.objects.create(
            lab=lab.row,
            station=lab.stations[station],
            policy=policy,
            reward_model=judge,
            instruction="push",
            purpose="practice",
            ending="detected_success",
            detected_success=True,
            steps=30,
            started_at="2026-01-01T00:00Z",
            duration_s=6.0,
        )
        d = np.arange(30, -1, -1) + np.float32(error)
        curves.keep_curves(rows=[row], recorded=[make_episode(steps=30, steps_to_go=d.astype(np.float32))])
    curves.watch_drift(station=lab.stations[station], policies=[policy.pk])


def test_drift_raises_one_alarm_that_closes_by_itself_and_comes_back(lab, policy, judge):
    rng = np.random.default_rng(5)
    keep(lab, policy, judge, rng.normal(2, 1, 50))
    keep(lab, policy, judge, rng.normal(9, 1, 49))
    assert not Alarm.objects.exists(), "fewer than fifty after the first fifty"
    keep(lab, policy, judge, [9.0])
    keep(lab, policy, judge, [9.0])
    alarm = Alarm.objects.get()
    assert "d has drifted: 20 steps before a detection it is off by 8.9" in alarm.reason and alarm.closed_at is None
    text = page(lab, "attention/", "supervisor").content.decode()
    assert "Alarms of the detector" in text and "v0 of" in text
    assert page(lab, "attention/count").json() == {"open": 1}
    keep(lab, policy, judge, rng.normal(2, 1, 50))
    alarm.refresh_from_db()
    assert alarm.closed_at and alarm.outcome == "d is as it was at first again"
    keep(lab, policy, judge, rng.normal(9, 1, 50))
    alarm.refresh_from_db()
    assert alarm.closed_at is None and Alarm.objects.count() == 1
    answer = lab.as_("supervisor").post(
        f"/labs/east/attention/alarms/{alarm.pk}/close", {"outcome": "the lamp was moved"}, follow=True
    )
    assert "Alarms of the detector" not in answer.content.decode()
    keep(lab, policy, judge, [9.0])
    alarm.refresh_from_db()
    assert alarm.closed_by == lab.users["supervisor"], "who looked is not called again"
    with pytest.raises(access.Conflict):
        alarms.close_alarm(alarm=alarm, user=lab.users["supervisor"], outcome="again")


def test_a_station_that_stays_as_it_was_raises_none(lab, policy, judge):
    keep(lab, policy, judge, np.random.default_rng(6).normal(4, 2, 120), station=1)
    assert not Alarm.objects.exists()


# The playground


@pytest.fixture
def inspector(monkeypatch):
    made = inspecting.Inspector()
    monkeypatch.setattr(inspecting, "inspector", made)
    yield made
    made._end()


def test_the_playground_is_asked_about_a_frame_and_says_what_is_missing(lab, store, policy, judge, inspector):
    row = store(fall(40, 2))
    asked = {"episode": str(row.pk), "step": 3, "a": str(policy.pk), "b": str(judge.pk), "words": "push it"}
    text = page(lab, "playground", episode=str(row.pk), step=7).content.decode()
    assert 'value="7"' in text and row.instruction in text and len(re.findall("<option[^>]* selected", text)) == 2
    assert "Choose a frame first" in page(lab, "playground").content.decode()
    assert page(lab, "playground", episode="x").status_code == 404
    answer = page(lab, "playground/answer", **asked)
    assert answer.status_code == 200, answer.content
    first, second = answer.json()["answers"]
    assert "no checkpoint of this system" in first["error"] and "no checkpoint" in second["error"]
    for change, said in (
        ({"words": ""}, "Type an instruction"),
        ({"a": "", "b": ""}, "at least one checkpoint"),
        ({"a": "x"}, "id is wrong"),
        ({"a": str(uuid.uuid4())}, "has no checkpoint"),
    ):
        answer = page(lab, "playground/answer", **asked | change)
        assert answer.status_code >= 400 and said in answer.json()["detail"], change
    started = time.monotonic()
    assert page(lab, "playground/answer", **asked).status_code == 200
    print(f"a question once it runs: {time.monotonic() - started:.3f} s")


def test_a_playground_that_does_not_answer_is_ended_and_a_busy_one_says_so(lab, inspector, monkeypatch):
    monkeypatch.setattr(inspecting, "ANSWER_WITHIN_S", 0.2)
    with pytest.raises(access.Conflict, match="given up"):
        inspector.ask({"checkpoints": [], "episode": "/nowhere", "step": 0, "words": "x"})  # torch takes longer
    assert inspector.child is None
    for _ in range(inspecting.MOST_WAITING):
        inspector.waiting.acquire()
    with pytest.raises(access.Conflict, match="busy"):
        inspector.ask({})

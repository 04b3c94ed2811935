"""A page a checkpoint, the lab's default with its history, thresholds as versions, policies compared in a job."""

import json
import sys
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleetui import access
from fleetui.fleet.models import Episode
from fleetui.learning import checkpoints as reading
from fleetui.learning import comparison_jobs, comparisons, jobs, promoting
from fleetui.learning.models import Checkpoint, Comparison, Metric, Promotion, Run
from fleetui.practice.actions import assignments, publishing
from fleetui.practice.forms import AssignForm
from robots.protocol import Policy
from tests.fleetui.lab import add_checkpoint
from training.checkpoint_files import read_description
from training.run_dir import sha256_of


def describe(checkpoint, weights=b"the weights"):
    """As if a learner had written it."""
    said = {"id": str(checkpoint.pk), "threshold": checkpoint.threshold, "consecutive": checkpoint.consecutive}
    header = json.dumps({"__metadata__": {"description": json.dumps(said | {"version": 0})}}).encode()
    checkpoint.file.write_bytes(len(header).to_bytes(8, "little") + header + weights)
    return checkpoint


@pytest.fixture
def policy(sft_run):
    return sft_run.checkpoints.get(role="policy")


@pytest.fixture
def reward_model(sft_run):
    return describe(sft_run.checkpoints.get(role="reward_model"))


@pytest.fixture
def improved(lab, sft_run):
    """A completed improve run with three versions, of which it kept the second."""
    run = Run.objects.create(
        lab=lab.row,
        name="improved",
        kind="improve",
        state="completed",
        recipe={},
        parent=sft_run,
        kept_version=1,
        started_at=timezone.now(),
    )
    for version in range(3):
        add_checkpoint(run, "policy", version, published_at=timezone.now())
        data = {"version": version, "practice_episodes": 9 * version, "successes": 7 + version, "n": 10}
        data |= {"low": 0.4, "high": 0.9, "steps_to_success": 50.0, "falls": 1}
        Metric.objects.create(run=run, seq=version + 1, kind="evaluation", at=timezone.now(), data=data)
    return run


def page(lab, path, who="researcher", **query):
    return lab.as_(who).get(f"/labs/{lab.slug}/{path}", query)


def post(lab, path, role="researcher", **data):
    return lab.as_(role).post(f"/labs/{lab.slug}/{path}", data, follow=True)


# The pages


def test_the_list_filters_and_asks_as_often_however_many_there_are(lab, improved, policy):
    def asked():
        with CaptureQueriesContext(
            connection,
        ) as queries:
            text = page(lab, "checkpoints/").content.decode()
        return len(queries), text

    asked()
    few, text = asked()
    assert "80 % of 10" in text and "★ kept" in text and "d ≤ 2.5" in text
    for number in range(30):
        add_checkpoint(improved, "policy", 3 + number)
    assert asked()[0] == few
    assert page(lab, "checkpoints/", only="kept").content.decode().count("★ kept") == 1
    text = page(lab, "checkpoints/", role="reward_model").content.decode()
    assert "reward model v0" in text and "policy v0<" not in text
    assert "Select a valid choice" in page(lab, "checkpoints/", role="nothing").content.decode()
    assert "No checkpoint found" in page(lab, "checkpoints/", only="promoted").content.decode()
    assert page(lab, "checkpoints/", run=policy.run_id).context["page_obj"].paginator.count == 2


def test_the_page_says_what_is_known_of_a_policy(lab, improved):
    kept = improved.checkpoints.get(version=1)
    text = page(lab, f"checkpoints/{kept.pk}").content.decode()
    for said in (
        str(kept.pk),
        kept.sha256,
        "language_table",
        "kept as the best",
        "80 % of 10",
        f"{len(kept.file.read_bytes())}",
    ):
        assert said in text, said
    assert (
        f"/runs/{improved.pk}/evaluate?checkpoint={kept.pk}"
        in page(lab, f"checkpoints/{kept.pk}", "manager").content.decode()
    )
    assert "evaluate?checkpoint" not in text, "a researcher assigns nothing"


def test_others_checkpoints_are_not_found(lab, other_lab, policy):
    for path in ("", ".safetensors", "/comparisons"):
        answer = other_lab.as_("manager").get(f"/labs/west/checkpoints/{policy.pk}{path}")
        assert answer.status_code == 404
        assert other_lab.as_("manager").get(f"/labs/east/checkpoints/{policy.pk}{path}").status_code == 404


def test_a_download_goes_on_where_it_broke_off(lab, policy):
    whole = policy.file.read_bytes()

    def get(**headers):
        answer = lab.as_("viewer").get(f"/labs/east/checkpoints/{policy.pk}.safetensors", headers=headers)
        return answer, b"".join(answer) if answer.streaming else answer.content

    answer, body = get()
    assert (answer.status_code, body) == (200, whole) and answer["Accept-Ranges"] == "bytes"
    tag = answer["ETag"]
    answer, body = get(Range="bytes=5-", **{"If-Range": tag})
    assert (answer.status_code, body) == (206, whole[5:])
    assert answer["Content-Range"] == f"bytes 5-{len(whole) - 1}/{len(whole)}"
    assert get(Range="bytes=2-4")[1] == whole[2:5] and get(Range="bytes=-3")[1] == whole[-3:]
    assert get(Range="bytes=5-", **{"If-Range": '"another"'})[1] == whole
    answer, body = get(Range=f"bytes={len(whole)}-")
    assert (answer.status_code, body) == (416, b"") and answer["Content-Range"] == f"bytes */{len(whole)}"
    policy.file.unlink()
    answer = lab.as_("viewer").get(f"/labs/east/checkpoints/{policy.pk}.safetensors")
    assert answer.status_code == 404 and "restore it" in answer.content.decode()


def test_the_lineage_leads_from_the_dataset_to_where_it_acted(lab, improved, policy, dataset):
    lab.connect()
    assignments.assign_task(
        lab=lab.row, task=lab.task, stations=lab.stations, user=lab.users["manager"], run=None, parent=None
    )
    kept = improved.checkpoints.get(version=1)
    child = Run.objects.create(lab=lab.row, name="child", kind="improve", recipe={}, parent=improved)
    Episode.objects.create(
        lab=lab.row,
        station=lab.stations[1],
        run=improved,
        policy=kept,
        instruction="push",
        purpose="practice",
        ending="time_limit",
        detected_success=False,
        steps=3,
        started_at=timezone.now(),
        duration_s=1.0,
    )
    found = reading.lineage_of(kept)
    assert [[node.title for node in column] for column in found.columns] == [
        ["demos"],
        ["sft"],
        ["improved"],
        ["policy v1"],
        ["child", "Arm 2"],
    ]
    assert len(found.edges) == 5 == len(found.paths)
    text = page(lab, f"checkpoints/{kept.pk}").content.decode()
    assert f'/runs/{child.pk}"' in text and "1 attempt" in text and 'aria-current="page"' in text
    places = {(node.x, node.y) for column in found.columns for node in column}
    assert len(places) == 6 and all(x + reading.WIDTH < found.width for x, _ in places)


# Promotion


def test_the_default_is_chosen_first_and_practice_begins_with_it(lab, improved, policy):
    def at_first():
        return AssignForm(lab=lab.row).fields["parent"].initial

    newer = improved.checkpoints.get(version=2)
    assert at_first() == improved and improved.best_checkpoint("policy").version == 1
    answer = post(lab, f"checkpoints/{newer.pk}/promote", reason="steadier on the bench")
    assert "is in force from now on" in answer.content.decode()
    improved.refresh_from_db()
    assert improved.best_checkpoint("policy") == newer, "what another run starts from"
    post(lab, f"checkpoints/{policy.pk}/promote")
    assert at_first() == policy.run and "the lab&#x27;s default" in str(AssignForm(lab=lab.row))
    assert improved.best_checkpoint("policy").version == 1, "it keeps its own again"
    text = page(lab, f"checkpoints/{policy.pk}").content.decode()
    assert "steadier on the bench" in text and "Go back to policy v2 of improved" in text


def test_every_body_s_default_is_marked_whichever_task_is_chosen_at_first(lab, policy):
    promoting.promote_checkpoint(checkpoint=policy, user=lab.users["researcher"])
    Promotion.objects.update(body="another_body")
    shown = page(lab, "tasks/", "manager").content.decode()
    assert "the lab&#x27;s default for another_body" in shown or "the lab's default for another_body" in shown
    assert f">★ {policy.run}" in shown, "a narrow page shows the beginning alone"
    Promotion.objects.create(lab=lab.row, role="policy", body="another_body", checkpoint=None)
    assert "default for another_body" not in page(lab, "tasks/", "manager").content.decode(), "the newest row counts"


def test_going_back_is_one_press_and_a_second_one_at_once_is_refused(lab, improved, policy):
    first = promoting.promote_checkpoint(checkpoint=policy, user=lab.users["researcher"])
    second = promoting.promote_checkpoint(checkpoint=improved.checkpoints.get(version=2), user=lab.users["manager"])
    text = post(lab, f"checkpoints/promotions/{second.pk}/undo").content.decode()
    assert "It is undone: policy v0 of sft is in force again." in text
    assert reading.in_force(policy) == policy
    assert (
        "promoted another checkpoint meanwhile" in post(lab, f"checkpoints/promotions/{first.pk}/undo").content.decode()
    )
    assert Promotion.objects.count() == 3, "the history stays"
    with pytest.raises(access.Conflict, match="in force already"):
        promoting.promote_checkpoint(checkpoint=policy, user=lab.users["researcher"])


def test_the_first_promotion_can_be_undone_too(lab, policy):
    made = promoting.promote_checkpoint(checkpoint=policy, user=lab.users["researcher"])
    assert "no default policy" in post(lab, f"checkpoints/promotions/{made.pk}/undo").content.decode()
    assert reading.in_force(policy) is None and page(lab, f"checkpoints/{policy.pk}").status_code == 200


def test_what_can_not_act_is_not_promoted(lab, policy):
    policy.file.unlink()
    assert "no longer there" in post(lab, f"checkpoints/{policy.pk}/promote").content.decode()
    assert not Promotion.objects.exists()
    assert page(lab, f"checkpoints/{policy.pk}").status_code == 200
    assert lab.as_("supervisor").post(f"/labs/east/checkpoints/{policy.pk}/promote").status_code == 403


# Another threshold


def publish(lab, reward_model, **given):
    given = {"threshold": 4.0, "consecutive": 3, "reason": "it misses successes"} | given
    return promoting.publish_threshold(checkpoint=reward_model, user=lab.users["researcher"], **given)


def test_a_threshold_is_a_new_version_and_the_old_one_stays(lab, reward_model):
    before = reward_model.file.read_bytes()
    made = publish(lab, reward_model)
    assert (made.version, made.threshold, made.consecutive, made.derived_from) == (1, 4.0, 3, reward_model)
    assert reward_model.file.read_bytes() == before and made.file.read_bytes().endswith(b"the weights")
    assert made.sha256 == sha256_of(made.file)
    said = read_description(made.file)
    assert (said["id"], said["threshold"], said["consecutive"]) == (str(made.pk), 4.0, 3)
    assert reward_model.run.best_checkpoint("reward_model") == made
    again = publish(lab, made, threshold=5.0)
    assert (again.version, again.derived_from) == (2, reward_model), "the weights' own, not a copy of a copy"
    with pytest.raises(access.Conflict, match="this threshold already"):
        publish(lab, reward_model, threshold=5.0)
    for wrong in ({"threshold": 0.0}, {"threshold": float("nan")}, {"consecutive": 0}, {"reason": " "}):
        with pytest.raises(access.Invalid):
            publish(lab, reward_model, **wrong)
    assert Checkpoint.objects.filter(role="reward_model").count() == 3


def test_going_back_puts_the_old_threshold_in_force(lab, reward_model):
    publish(lab, reward_model)
    answer = post(lab, f"checkpoints/promotions/{Promotion.objects.get().pk}/undo")
    assert "reward model v0 of sft is in force again" in answer.content.decode()
    assert reward_model.run.best_checkpoint("reward_model") == reward_model


def test_what_is_under_way_keeps_its_detector_and_what_begins_has_the_new_one(lab, improve_run, reward_model):
    Run.objects.filter(pk=improve_run.pk).update(started_at=timezone.now())
    improve_run.refresh_from_db()
    acting = add_checkpoint(improve_run, "policy", 0, published_at=timezone.now())
    made = publish(lab, reward_model)
    assert improve_run.policy_message(acting).threshold == 2.5, "its attempts are judged by one rule"
    assert reading.under_way_with(reward_model.run) == [improve_run]
    later = Run.objects.create(
        lab=lab.row, name="later", kind="improve", recipe={}, parent=improve_run, started_at=timezone.now()
    )
    message = later.policy_message(acting)
    assert (message.threshold, message.consecutive, message.reward_model) == (4.0, 3, str(made.pk))
    assert jobs.Supervision(later).list_start()["reward_model.safetensors"] == made.file
    assert jobs.Supervision(improve_run).list_start()["reward_model.safetensors"] == reward_model.file
    text = page(lab, f"reward-models/{made.pk}/studio").content.decode()
    assert f'runs/{improve_run.pk}">improve</a>' in text and "No run practises with it now" not in text


def test_an_evaluation_is_judged_by_one_detector_from_its_first_attempt_to_its_last(lab, policy, reward_model):
    lab.connect()
    user = lab.users["manager"]
    row = assignments.assign_task(
        lab=lab.row, task=lab.task, stations=[lab.stations[0]], user=user, checkpoint=policy, episodes=5
    )

    def told():
        station = lab.stations[0]
        return next(each for each in publishing.list_orders(station=station) if isinstance(each, Policy))

    assert told().threshold == 2.5
    publish(lab, reward_model)
    assert told().threshold == 2.5
    row.refresh_from_db()
    type(row).objects.filter(pk=row.pk).update(started_at=timezone.now() + timedelta(seconds=1))
    assert told().threshold == 4.0, "one that begins afterwards"


# Comparisons


def ask(lab, first, second=None, **given):
    given = {"task": lab.task, "episodes": 4, "seed": 7} | given
    return comparisons.ask_comparison(lab=lab.row, user=lab.users["researcher"], first=first, second=second, **given)


FAKE = """
import json, sys, time
arguments = sys.argv[1:]
total = 2 * int(arguments[arguments.index("--episodes") + 1])
assert arguments.count("--checkpoint") == 2
print("a warning")
for done in (total // 2, total):
    print(json.dumps({"done": done, "total": total}), flush=True)
    time.sleep(0.4)
one = {"successes": 2, "n": 4, "low": 0.15, "high": 0.85, "mean_steps": 9.0, "steps_to_success": 8.0, "falls": 0}
difference = {"n": 4, "both": 2, "only_first": 0, "only_second": 1, "difference": 0.25, "low": -0.2, "high": 0.6,
              "p": 1.0, "steps": -3.0, "steps_low": -5.0, "steps_high": -1.0}
print(json.dumps({"results": {"first": one, "second": one | {"successes": 3}, "difference": difference}}))
"""


def stand_in(monkeypatch, tmp_path, script):
    (tmp_path / "compare.py").write_text(script)
    real = comparison_jobs.compare_command
    monkeypatch.setattr(
        comparison_jobs, "compare_command", lambda row: [sys.executable, str(tmp_path / "compare.py"), *real(row)[3:]]
    )


def test_a_job_compares_two_policies_and_both_pages_say_it(lab, improved, policy, monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, FAKE)
    other = improved.checkpoints.get(version=1)
    data = {"second": str(other.pk), "task": lab.task.slug, "episodes": 4, "seed": 7}
    assert (
        "begins as soon as a worker is free" in post(lab, f"checkpoints/{policy.pk}/compare", **data).content.decode()
    )
    row = Comparison.objects.get()
    assert (row.time_limit, row.edge_margin) == (lab.task.time_limit_steps, lab.task.edge_margin)
    comparison_jobs.compare_job(row.pk)
    row.refresh_from_db()
    assert (row.state, row.progress) == ("completed", 1.0)
    text = page(lab, f"checkpoints/{policy.pk}").content.decode()
    assert "50 %" in text and "\u221225.0 points" in text and "\u221260.0 points to\n" in text and "+3.0 steps" in text
    text = page(lab, f"checkpoints/{other.pk}/comparisons").content.decode()
    assert "+25.0 points" in text and "\u22123.0 steps" in text
    comparison_jobs.compare_job(row.pk)  # a second delivery
    assert Comparison.objects.get().ended_at == row.ended_at


def test_a_comparison_that_breaks_says_why(lab, improved, policy, monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, "import sys; print('the world exploded', file=sys.stderr); sys.exit(3)")
    row = ask(lab, policy, improved.checkpoints.get(version=1))
    comparison_jobs.compare_job(row.pk)
    row.refresh_from_db()
    assert row.state == "failed" and "ended with code 3" in row.error and "the world exploded" in row.error
    assert "the world exploded" in page(lab, f"checkpoints/{policy.pk}").content.decode()


def test_a_cancelled_comparison_ends_its_simulation(lab, improved, policy, monkeypatch, tmp_path):
    script = f"import time, pathlib; pathlib.Path({str(tmp_path / 'began')!r}).touch(); time.sleep(60)"
    stand_in(monkeypatch, tmp_path, script)
    row = ask(lab, policy, improved.checkpoints.get(version=1))
    beat = comparisons.beat_comparison

    def cancel_once_begun(comparison):
        if (tmp_path / "began").exists():
            Comparison.objects.filter(pk=row.pk).update(state="canceled")
        return beat(comparison=comparison)

    monkeypatch.setattr(comparisons, "beat_comparison", lambda comparison: cancel_once_begun(comparison))
    comparison_jobs.compare_job(row.pk)
    row.refresh_from_db()
    assert (row.state, row.results) == ("canceled", {})


def test_what_was_left_behind_is_asked_for_again(lab, policy, monkeypatch):
    sent = []
    row = ask(lab, policy)
    monkeypatch.setattr(comparisons, "enqueue_on_commit", lambda job, number: sent.append(number))
    comparisons.requeue_stale_comparisons(all_waiting=False)
    assert sent == []
    comparisons.requeue_stale_comparisons(all_waiting=True)
    Comparison.objects.update(state="running", heartbeat_at=timezone.now() - timedelta(minutes=1))
    comparisons.requeue_stale_comparisons(all_waiting=False)
    assert sent == [row.pk, row.pk]
    assert comparisons.claim_comparison(comparison_id=row.pk) and not comparisons.claim_comparison(comparison_id=row.pk)


def test_what_makes_no_sense_is_said_by_the_form(lab, improved, policy, reward_model):
    answer = lab.as_("researcher").post(
        f"/labs/east/checkpoints/{policy.pk}/compare", {"task": lab.task.slug, "episodes": 0, "seed": "x"}
    )
    text = answer.content.decode()
    assert answer.status_code == 422 and text.count('class="field bad"') == 2 and not Comparison.objects.exists()
    with pytest.raises(access.Invalid, match="choose a policy"):
        ask(lab, reward_model)
    with pytest.raises(access.Invalid, match="another policy"):
        ask(lab, policy, policy)
    for _ in range(comparisons.MOST_WAITING):
        ask(lab, policy)
    with pytest.raises(access.Conflict, match="wait or go on already"):
        ask(lab, policy)


def test_a_run_whose_policy_is_used_elsewhere_is_not_deleted(lab, policy):
    promoting.promote_checkpoint(checkpoint=policy, user=lab.users["researcher"])
    Run.objects.filter(pk=policy.run_id).update(archived_at=timezone.now())
    answer = lab.as_("manager").post(f"/labs/east/runs/{policy.run_id}/delete", follow=True)
    assert "be deleted" in answer.content.decode() and Run.objects.filter(pk=policy.run_id).exists()

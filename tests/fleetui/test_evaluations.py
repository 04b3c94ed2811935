"""Evaluations on stations: assignments that train nothing, whose attempts count where somebody knows how they ended."""

import contextlib
import json
import threading
import uuid

import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from fleetui import access
from fleetui.fleet.actions import control
from fleetui.fleet.actions.episodes import label_episode
from fleetui.fleet.models import Act, Assignment, Episode, Lease, Station
from fleetui.learning import archive, selectors
from fleetui.learning.models import Metric, Run
from fleetui.practice import queue
from fleetui.practice import selectors as practice
from fleetui.practice.actions import assignments, dispatch, episodes, launching, publishing
from robots.protocol import Assignment as AssignmentMessage
from robots.protocol import Policy
from tests.fleetui.lab import ROLES, add_checkpoint, as_upload, make_episode
from tests.fleetui.test_live import arm, no_heartbeats  # noqa: F401  # the fixture

AGREED = {"ending": "detected_success", "detected_success": True}


@pytest.fixture
def online(lab):
    lab.connect()
    return lab


def evaluate(lab, run, *stations, attempts=3, **wishes):
    """An evaluation of the run's best policy, on Arm 1 unless said otherwise."""
    if "any_count" not in wishes:
        wishes["stations"] = list(stations) or [lab.stations[0]]
    row = assignments.assign_task(
        lab=lab.row,
        task=lab.task,
        checkpoint=wishes.pop("checkpoint", run.best_checkpoint("policy")),
        episodes=attempts,
        user=lab.users["manager"],
        **{"stations": []} | wishes,
    )
    return again(row)


def again(row):
    return type(row).objects.get(pk=row.pk)


def attempt(lab, row, true_success=None, station=None, **fields):
    """One of its attempts arrives; returns its row."""
    made = make_episode(purpose="evaluation", policy=str(row.checkpoint_id), true_success=true_success, **fields)
    made.started_at = fields.get("started_at", timezone.now().timestamp())
    episodes.store_episodes(station=station or lab.stations[0], body=as_upload(made))
    return Episode.objects.get(pk=made.uuid)


def verdict(row):
    (found,) = [each for each in queue.read_queue(row.lab) if each.assignment.pk == row.pk]
    return found


def figures(run):
    return selectors.evaluations_on_stations(run)


def test_it_starts_without_a_run_and_ends_by_itself_after_its_attempts(online, sft_run):
    row = evaluate(online, sft_run, attempts=3)
    assert (row.state, row.run, row.parent) == ("standby", None, sft_run) and row.at_work and not row.waits
    assert verdict(row).reason == f"its stations are reserved and load policy v0 of {sft_run}"
    assert not Run.objects.filter(parent=sft_run).exists() and not Lease.objects.exists()
    publishing.record_policy_loaded(station=online.stations[0], checkpoint_uuid=str(row.checkpoint_id))
    assert verdict(row).state == "underway"
    stored = [attempt(online, row, True) for _ in range(2)]
    assert all((each.assignment, each.run, each.purpose) == (row, sft_run, "evaluation") for each in stored)
    assert again(row).state == "underway" and verdict(row).progress.text == "2 of 3 attempts"
    attempt(online, row, False)
    row = again(row)
    assert (row.state, row.reason) == ("completed", "It made 3 attempts.") and row.ended_at
    assert not row.places.filter(live=True).exists()
    assert publishing.list_orders(station=online.stations[0])[0].assignment is None
    assert again(sft_run).state == "completed" and not sft_run.metrics.exists() and again(sft_run).kept_version is None


def test_the_station_is_told_its_share_and_the_policy_with_its_judge(online, sft_run):
    row = evaluate(online, sft_run, *online.stations, attempts=5)
    order, policy = publishing.list_orders(station=online.stations[0])
    assert (order.purpose, order.assignment, order.attempts, order.made) == ("evaluation", row.pk, 3, 0)
    assert order.task["name"] == "block2block" and order.run == f"evaluation {row.pk}"
    judge = sft_run.best_checkpoint("reward_model")
    assert isinstance(policy, Policy)
    assert (policy.checkpoint, policy.reward_model, policy.threshold) == (str(row.checkpoint_id), str(judge.pk), 2.5)
    second = publishing.list_orders(station=online.stations[1])[0]
    assert second.attempts == 2


def test_what_is_left_is_shared_by_those_that_can_and_never_more(online, sft_run):
    one, two = online.stations
    row = evaluate(online, sft_run, one, two, attempts=6)
    assert practice.shares_of_attempts(row) == {one.pk: (0, 3), two.pk: (0, 3)}
    for _ in range(3):
        attempt(online, row, station=one)
    assert practice.shares_of_attempts(row) == {one.pk: (3, 5), two.pk: (0, 1)}, "a fast one does more"
    Station.objects.filter(pk=two.pk).update(state="evaluating")
    for _ in range(2):
        attempt(online, row, station=one)
    assert practice.shares_of_attempts(row) == {one.pk: (5, 5), two.pk: (0, 1)}, "who is in an attempt ends it"
    Station.objects.filter(pk=two.pk).update(connected=False, state="offline")
    assert practice.shares_of_attempts(row) == {one.pk: (5, 6), two.pk: (0, 0)}, "nobody waits for one that is gone"
    Station.objects.filter(pk=two.pk).update(last_episode=uuid.uuid4(), connected=True, state="waiting")
    assert practice.shares_of_attempts(row)[two.pk] == (0, 1), "its last one is on its way"


def test_two_last_attempts_at_once_are_not_both_counted(online, sft_run, monkeypatch):
    """A station that was gone comes back with the attempt that another one has made in its place meanwhile."""
    row = evaluate(online, sft_run, *online.stations, attempts=3)
    attempt(online, row, True), attempt(online, row, True)
    together, write = threading.Barrier(2), episodes.write_episodes
    made, failed = [], []

    def write_together(path, recorded):
        write(path, recorded)
        with contextlib.suppress(threading.BrokenBarrierError):  # as one waits for the other's lock
            together.wait(2)

    def upload(station):
        try:
            made.append(attempt(online, row, False, station=station))
        except Exception as error:
            failed.append(error)
        finally:
            connection.close()

    monkeypatch.setattr(episodes, "write_episodes", write_together)
    threads = [threading.Thread(target=upload, args=[station]) for station in online.stations]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert not failed and sorted(each.assignment == row for each in made) == [False, True]
    (surplus,) = [each for each in made if each.assignment is None]
    assert (surplus.run, surplus.purpose, surplus.file.exists()) == (sft_run, "evaluation", True), "nothing is lost"
    assert figures(sft_run)[0]["made"] == 3 and again(row).reason == "It made 3 attempts."
    assert "those that were asked for had been made" in get(online, f"episodes/{surplus.pk}").content.decode()


def test_of_an_upload_with_too_many_attempts_the_first_are_counted(online, sft_run):
    row = evaluate(online, sft_run, attempts=2)
    fields = {"purpose": "evaluation", "policy": str(row.checkpoint_id), "started_at": timezone.now().timestamp()}
    body = as_upload(*(make_episode(**fields) for _ in range(3)))
    assert episodes.store_episodes(station=online.stations[0], body=body)["stored"] == 3
    assert row.episodes.count() == 2 and Episode.objects.count() == 3 and again(row).state == "completed"
    assert episodes.store_episodes(station=online.stations[0], body=body)["stored"] == 0
    assert row.episodes.count() == 2


@pytest.mark.usefixtures("no_heartbeats")
async def test_a_station_evaluates_over_its_socket(lab, sft_run):
    socket = await arm(lab)
    row = await sync_to_async(evaluate)(lab, sft_run, attempts=2)
    order = await socket.hear(lambda message: message["type"] == "assignment" and message["assignment"])
    assert (order["purpose"], order["assignment"], order["attempts"]) == ("evaluation", row.pk, 2)
    policy = await socket.hear(lambda message: message["type"] == "policy")
    assert policy["checkpoint"] == str(row.checkpoint_id) and policy["reward_model"]
    await socket.say(type="policy_loaded", checkpoint=policy["checkpoint"])
    await sync_to_async(attempt)(lab, row, None)
    order = await socket.hear(lambda message: message["type"] == "assignment")
    assert (order["attempts"], order["made"]) == (2, 1)
    await sync_to_async(attempt)(lab, row, True)
    assert (await socket.hear(lambda m: m["type"] == "assignment" and not m["assignment"]))["assignment"] is None
    assert (await sync_to_async(again)(row)).state == "completed"
    await socket.disconnect()


# Truth


def test_unknown_never_counts_and_labels_move_the_series(online, sft_run):
    row = evaluate(online, sft_run, attempts=4)
    unknown = [attempt(online, row, None, **AGREED) for _ in range(3)]
    (found,) = figures(sft_run)
    assert (found["made"], found["known"], found["unknown"], found["successes"]) == (3, 0, 3, 0)
    assert (found["rate"], found["low"], found["high"], found["detected"]) == (None, 0, 1, 3)
    attempt(online, row, False)
    user = online.users["supervisor"]
    label_episode(user=user, episode=unknown[0], true_success=True)
    (found,) = figures(sft_run)
    assert (found["known"], found["unknown"], found["successes"], found["rate"]) == (2, 2, 1, 0.5)
    assert found["low"] == pytest.approx(0.0945, abs=1e-3) and found["high"] == pytest.approx(0.9055, abs=1e-3)
    assert found["detected"] == 3 and found["state"] == "completed", "a label counts after the end too"
    label_episode(user=user, episode=unknown[0], true_success=None)
    assert figures(sft_run)[0]["known"] == 1


def test_each_point_stands_at_the_practice_behind_its_policy(online, improve_run, sft_run):
    improve_run.assignments.get().places.update(live=False)
    third = add_checkpoint(improve_run, "policy", 3)
    for seq, data in enumerate([{"version": 3, "episodes": 240}, {"version": 4, "episodes": 300}], start=1):
        Metric.objects.create(run=improve_run, seq=seq, kind="update", data=data, at=timezone.now())
    row = evaluate(online, improve_run, checkpoint=third, attempts=2)
    attempt(online, row, True)
    (point,) = selectors.success_curves([improve_run])[0]["stations"]
    assert (point["version"], point["practice_episodes"], point["rate"]) == (3, 240, 1.0)
    assert point["stations"] == ["arm-1"] and point["by"] == "east-manager" and point["task"] == online.task.name
    assert figures(sft_run) == [], "it is of that run alone"
    assert again(improve_run).kept_version is None and improve_run.best_checkpoint("policy") == third


# The run that practises, and episodes that belong nowhere


def test_a_practice_run_is_not_disturbed(online, improve_run):
    policy = add_checkpoint(improve_run, "policy", 0)
    publishing.publish_checkpoint(run=improve_run, checkpoint=policy)
    third = online.add_station("Arm 3")
    online.connect(third)
    before = publishing.list_orders(station=online.stations[0])
    waiting = evaluate(online, improve_run, online.stations[0])
    assert waiting.state == "queued" and "waits for Arm 1, which practises" in verdict(waiting).reason
    row = evaluate(online, improve_run, third)
    attempt(online, row, True, station=third)
    run = again(improve_run)
    assert publishing.list_orders(station=online.stations[0]) == before
    assert (run.practice_episodes, run.round_steps, run.state) == (0, 0, "running")
    assert practice.episodes_to_hand_in(run) == []
    assert {each.pk for each in practice.stations_behind(run)} == {each.pk for each in online.stations}
    assert [each["slug"] for each in selectors.run_stations(run)] == ["arm-1", "arm-2"]
    assignments.cancel_assignment(assignment=row, user=online.users["manager"])
    assert again(improve_run).state == "running" and again(row).state == "canceled"
    assert figures(improve_run)[-1]["made"] == 1, "what was done stays"
    late = attempt(online, row, False, station=third)
    assert late.assignment == row, "it was made before, and came late"


def test_practice_with_an_evaluated_policy_is_no_practice_of_its_run(online, improve_run):
    policy, third = add_checkpoint(improve_run, "policy", 0), online.add_station("Arm 3")
    online.connect(third)
    evaluate(online, improve_run, third)
    with pytest.raises(access.Invalid, match="never had a place"):
        episodes.store_episodes(station=third, body=as_upload(make_episode(policy=str(policy.pk))))
    stray = make_episode(purpose="evaluation", policy=str(add_checkpoint(improve_run, "policy", 1).pk))
    with pytest.raises(access.Invalid, match="never had a place"):
        episodes.store_episodes(station=third, body=as_upload(stray))


def test_an_episode_belongs_to_the_evaluation_in_which_it_began(online, sft_run):
    first = evaluate(online, sft_run)
    began = timezone.now().timestamp()
    assignments.cancel_assignment(assignment=first, user=online.users["manager"])
    second = evaluate(online, sft_run)
    assert attempt(online, second, True, started_at=began).assignment == first
    assert attempt(online, second, True).assignment == second
    assert attempt(online, second, True, started_at=5.0).assignment == second, "a clock that is wrong"


# The queue


def test_it_waits_is_moved_edited_delayed_and_killed_like_others(online, sft_run, monkeypatch):
    row = evaluate(online, sft_run)
    other = evaluate(online, sft_run, priority="high")
    said = verdict(other)
    assert said.state == "queued"
    assert said.reason == f"waits for Arm 1, which evaluates a policy at {online.task} until it has made its 3 attempts"
    manager = online.users["manager"]
    assert assignments.edit_assignment(assignment=other, user=manager, episodes=7).budget_episodes == 7
    for changes in ({"episodes": None}, {"hours": 2.0}):
        with pytest.raises(access.Invalid, match="how many attempts"):
            assignments.edit_assignment(assignment=other, user=manager, **changes)
    Station.objects.filter(pk=online.stations[0].pk).update(stop_latched=True)
    assert (verdict(row).state, verdict(row).reason) == ("delayed", "nobody can make an attempt: Arm 1 is stopped")
    told = []
    monkeypatch.setattr(publishing, "tell_station_on_commit", lambda group, *messages: told.extend(messages))
    assignments.cancel_assignment(assignment=row, user=manager, force=True)
    assert again(row).state == "killed"
    assert [each.at_once for each in told if isinstance(each, AssignmentMessage) and not each.assignment] == [True]


def test_the_beat_tells_stations_again_and_no_run_can_be_put_behind_it(online, sft_run, monkeypatch):
    row = evaluate(online, sft_run)
    told = []
    monkeypatch.setattr(publishing, "tell_station_on_commit", lambda group, *messages: told.extend(messages))
    dispatch.dispatch_all()
    assert [each.assignment for each in told if isinstance(each, AssignmentMessage)] == [row.pk]
    waiting = evaluate(online, sft_run)
    with pytest.raises(access.Invalid, match="waits for a run"):
        launching.launch_run(
            lab=online.row, user=access.SERVER, kind="improve", recipe={}, parent=sft_run, assignment=waiting
        )
    with pytest.raises(IntegrityError), transaction.atomic():
        Assignment.objects.filter(pk=waiting.pk).update(run=sft_run)


def test_a_policy_whose_file_is_gone_blocks_and_says_what_to_do(online, sft_run):
    row = evaluate(online, sft_run)
    waiting = evaluate(online, sft_run)
    sft_run.best_checkpoint("policy").file.unlink()
    assert verdict(waiting).state == "blocked" and "evaluate a newer policy" in verdict(waiting).reason
    assert verdict(row).state == "standby"
    with pytest.raises(access.Invalid, match="no longer there"):
        evaluate(online, sft_run)


def test_what_makes_no_sense_is_refused_by_name(online, sft_run):
    judge = sft_run.best_checkpoint("reward_model")
    for wishes, field, says in (
        ({"checkpoint": judge}, "checkpoint", "acts on no station"),
        ({"attempts": 0}, "budget", "1 to 10000"),
        ({"attempts": None}, "budget", "how many attempts"),
        ({"hours": 1.0}, "budget", "at most one end"),
        ({"any_count": 0}, "any_count", "1 to 1000"),
    ):
        with pytest.raises(access.Invalid, match=says) as refused:
            evaluate(online, sft_run, **wishes)
        assert field in refused.value.problems
    row = evaluate(online, sft_run)
    with pytest.raises(access.Conflict, match="cancel it first"):
        archive.archive_run(run=sft_run, user=access.SERVER)
    assignments.cancel_assignment(assignment=row, user=access.SERVER)
    archive.archive_run(run=sft_run, user=access.SERVER)
    with pytest.raises(access.Invalid, match="is archived"):
        evaluate(online, again(sft_run))
    with pytest.raises(access.Conflict):  # its record stays
        archive.delete_run(run=sft_run, user=access.SERVER)


def test_a_person_may_take_over_and_give_back(online, sft_run):
    evaluate(online, sft_run)
    station = online.stations[0]
    user = online.users["supervisor"]
    control.command_station(user=user, lab_slug="east", station_slug="arm-1", name="override")
    control.command_station(user=user, lab_slug="east", station_slug="arm-1", name="hand_back")
    assert publishing.list_orders(station=again(station))[0].purpose == "evaluation"
    assert not station.leases.filter(released_at=None).exists()


# API, pages and roles


def body_of(lab, **fields):
    return {"task": lab.task.slug, "attempts": 4, "stations": ["arm-1"]} | fields


def test_the_api_makes_one_and_tells_its_figures(online, other_lab, sft_run):
    path = f"runs/{sft_run.pk}/evaluations"
    for role in ROLES:
        answer = online.call(role, "post", path, body_of(online, stations=[], any=1))
        assert answer.status_code == (200 if role == "manager" else 403), role
    made = answer.json()
    assert (made["purpose"], made["episodes"], made["any"]) == ("evaluation", 4, 1)
    assert made["checkpoint"] == str(sft_run.best_checkpoint("policy").pk)
    row = Assignment.objects.get(pk=made["id"])
    attempt(online, row, True, station=row.stations.get())
    attempt(online, row, None, station=row.stations.get())
    (found,) = online.call("viewer", "get", path).json()["items"]
    assert (found["made"], found["known"], found["unknown"], found["rate"]) == (2, 1, 1, 1.0)
    wanting = online.call("viewer", "get", f"episodes?evaluation={row.pk}&unknown=true").json()
    assert wanting["count"] == 1 and wanting["items"][0]["evaluation"] == row.pk
    assert online.call("manager", "post", path, body_of(online, checkpoint=str(uuid.uuid4()))).status_code == 404
    assert online.call("manager", "post", path, body_of(online, attempts=0)).status_code == 422
    assert other_lab.call("manager", "post", path, body_of(online)).status_code == 404
    act = Act.objects.get(kind="assigned")
    assert act.details["evaluates"] == f"policy v0 of {sft_run}" and act.user_name == "east-manager"


def get(lab, path, role="manager", **query):
    return lab.as_(role).get(f"/labs/{lab.slug}/{path}", query)


def test_the_form_offers_the_runs_policies_and_leads_back_to_it(online, sft_run, improve_run):
    add_checkpoint(improve_run, "policy", 1)
    kept = add_checkpoint(improve_run, "policy", 2)
    gone = add_checkpoint(improve_run, "policy", 3)
    gone.file.unlink()
    Run.objects.filter(pk=improve_run.pk).update(kept_version=2)
    path = f"runs/{improve_run.pk}/evaluate"
    shown = get(online, path).content.decode()
    assert f'<option value="{kept.pk}" selected>v2, kept as the best</option>' in shown and str(gone.pk) not in shown
    assert get(online, path, "researcher").status_code == 403
    wishes = {"task": online.task.pk, "checkpoint": str(kept.pk), "who": "chosen", "stations": [online.stations[0].pk]}
    answer = online.as_("manager").post(f"/labs/east/{path}", wishes)
    assert answer.status_code == 422 and "how many attempts" in answer.content.decode()
    answer = online.as_("manager").post(f"/labs/east/{path}", wishes | {"episodes": 12}, follow=True)
    assert "An evaluation of improve at" in answer.content.decode()
    assert answer.redirect_chain[-1][0] == f"/labs/east/runs/{improve_run.pk}"
    row = Assignment.objects.get(checkpoint__isnull=False)
    assert (row.checkpoint, row.budget_episodes, row.state) == (kept, 12, "queued")
    shown = get(online, "tasks/").content.decode()
    assert "evaluation of v2" in shown and "12 attempts" in shown
    edit = f"tasks/assignments/{row.pk}"
    assert 'value="12"' in get(online, edit).content.decode()
    online.as_("manager").post(f"/labs/east/{edit}", wishes | {"episodes": 9, "checkpoint": str(uuid.uuid4())})
    assert (again(row).budget_episodes, again(row).checkpoint) == (9, kept)


def test_the_runs_page_lists_them_and_says_what_wants_a_label(online, sft_run):
    page = get(online, f"runs/{sft_run.pk}").content.decode()
    assert "None yet" in page and f"runs/{sft_run.pk}/evaluate" in page
    assert 'evaluate"' not in get(online, f"runs/{sft_run.pk}", "viewer").content.decode()
    row = evaluate(online, sft_run, attempts=5)
    for true_success in (True, True, False, None, None):
        attempt(online, row, true_success)
    page = get(online, f"runs/{sft_run.pk}/evaluations", "viewer").content.decode()
    assert "67 %" in page and "(2 of 3)" in page and "2 attempts want a label" in page and "5 of 5" in page
    wanting = get(online, "episodes/", evaluation=row.pk, true="unknown").content.decode()
    assert "2 episodes found" in wanting
    points = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    assert points[0]["rate"] == pytest.approx(2 / 3)
    assert get(online, f"runs/{sft_run.pk}/evaluations").status_code == 200


def test_where_nothing_simulates_the_body_the_page_says_how_to_get_a_curve(online, sft_run, improve_run):
    says = "No world here simulates this body"
    assert says not in get(online, f"runs/{improve_run.pk}").content.decode()
    dataset = sft_run.dataset
    dataset.body = dataset.body | {"name": "our_arm"}
    dataset.save()
    assert says in get(online, f"runs/{improve_run.pk}").content.decode()

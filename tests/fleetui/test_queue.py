"""The queue: who starts and with what, why the others wait, how each one ends, what repeats, who is never starved."""

import threading
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler

from fleetui import access, worker
from fleetui.celery import app as celery_app
from fleetui.fleet.actions import labs
from fleetui.fleet.models import AssignedStation, Assignment, Lease, Station, Task
from fleetui.learning import actions as learning
from fleetui.learning.models import Metric, Run
from fleetui.practice import jobs, queue
from fleetui.practice.actions import assignments, launching, publishing
from fleetui.practice.actions import dispatch as dispatch_actions
from robots.protocol import Assignment as AssignmentMessage
from tests.fleetui.lab import ROLES, add_checkpoint


def assign(lab, *stations, task=None, **wishes):
    """To these stations, else to both; the lab's stations are online."""
    if "any_count" not in wishes:
        stations = stations or lab.stations
    row = assignments.assign_task(
        lab=lab.row, task=task or lab.task, stations=list(stations), user=lab.users["manager"], **wishes
    )
    return again(row)


def again(row):
    return type(row).objects.get(pk=row.pk)


def verdict(row, now=None):
    """(state, reason) as the page shows them."""
    (found,) = [each for each in queue.read_queue(row.lab, now) if each.assignment.pk == row.pk]
    return found.state, found.reason


def dispatch(lab):
    dispatch_actions.dispatch_assignments(lab=lab.row)


def run_in(row, state, **fields):
    Run.objects.filter(pk=again(row).run_id).update(state=state, **fields)
    return again(row).run


def begin(row):
    """Its run's training process runs."""
    run_in(row, "starting", attempt=1, heartbeat_at=timezone.now())
    learning.move_run(run=again(row).run, to="running")


def past(**passed):
    return timezone.now() - timedelta(**passed)


def ahead(**passed):
    return timezone.now() + timedelta(**passed)


@pytest.fixture
def online(lab):
    lab.connect()
    return lab


# Starting


def test_with_a_trained_run_it_starts_by_itself(online, sft_run):
    row = assign(online, parent=sft_run, episodes=80)
    assert row.state == "standby" and row.run.parent == sft_run and row.run.state == "queued"
    assert row.run.recipe["max_episodes"] == 80 and row.run.recipe["tasks"] == "block2block"
    assert row.run.recipe["time_limit"] == online.task.time_limit_steps
    assert set(row.places.filter(live=True).values_list("station__slug", flat=True)) == {"arm-1", "arm-2"}
    assert Lease.objects.filter(run=row.run, released_at=None).count() == 2
    assert verdict(row) == ("standby", f"its stations are reserved and its run {row.run} is starting")
    begin(row)
    row = again(row)
    assert row.state == "underway" and row.started_at is not None
    assert publishing.list_orders(station=online.stations[0])[0].assignment == row.pk


@pytest.mark.parametrize("margin", [None, 0.01])
def test_a_run_is_evaluated_with_the_fence_of_its_task(online, sft_run, margin):
    online.task.edge_margin = margin
    online.task.save()
    row = assign(online, online.stations[0], parent=sft_run)
    assert row.run.recipe["edge_margin"] == (margin or 0)
    body = {"kind": "improve", "recipe": {}, "parent": sft_run.pk, "task": online.task.slug, "stations": ["arm-2"]}
    by_hand = online.call("researcher", "post", "runs", body).json()
    assert Run.objects.get(pk=by_hand["id"]).recipe["edge_margin"] == (margin or 0)


def test_any_stations_are_chosen_when_it_starts(online, sft_run):
    online.connect(online.add_station("Arm 3"))
    busy = assign(online, online.stations[0], parent=sft_run)
    row = assign(online, any_count=2, parent=sft_run)
    assert {station.slug for station in row.stations.all()} == {"arm-2", "arm-3"} and row.state == "standby"
    assert again(busy).state == "standby"


def test_practice_may_go_on_from_practice(online, improve_run, sft_run):
    """The policy that was kept, judged by the reward model of the run that all of it goes back to."""
    kept, newest = add_checkpoint(improve_run, "policy", 1), add_checkpoint(improve_run, "policy", 2)
    Run.objects.filter(pk=improve_run.pk).update(kept_version=1)
    learning.finish_run(run=again(improve_run), state="completed")
    row = assign(online, parent=again(improve_run))
    assert row.state == "standby"
    jobs.PracticeSupervision(row.run).prepare()
    start = row.run.dir / "start"
    assert (start / "policy.safetensors").resolve() == kept.file.resolve() != newest.file.resolve()
    judge = sft_run.newest_checkpoint("reward_model")
    assert (start / "reward_model.safetensors").resolve() == judge.file.resolve()
    assert row.run.policy_message(kept).reward_model == str(judge.uuid)


def test_a_launch_that_is_refused_blocks_and_says_why(online, sft_run):
    Station.objects.update(connected=False)
    row = assign(online, parent=sft_run)
    sft_run.checkpoints.filter(role="reward_model").delete()
    online.connect()
    assert again(row).state == "blocked"
    state, reason = verdict(again(row))
    assert state == "blocked" and "has no policy or no reward model" in reason
    add_checkpoint(sft_run, "reward_model", threshold=2.5, consecutive=2)
    dispatch(online)
    assert again(row).state == "standby" and again(row).reason == ""


def test_a_person_puts_a_run_behind_one_that_waits_for_it(online, sft_run):
    row = assign(online)
    assert verdict(row) == ("queued", "waits for a person to launch a run for it")
    assert not AssignedStation.objects.filter(live=True).exists()
    run = launching.launch_run(
        lab=online.row, user=online.users["researcher"], kind="improve", recipe={}, parent=sft_run, assignment=row
    )
    assert (again(row).state, again(row).run) == ("standby", run)


def test_a_person_may_choose_the_stations_of_one_that_takes_any(online, sft_run):
    row = assign(online, any_count=1)
    body = {"kind": "improve", "recipe": {}, "parent": sft_run.pk}
    answer = online.call("researcher", "post", "runs", body | {"assignment": row.pk})
    assert (
        answer.status_code == 422
        and "choose as many stations as it asks for: 1" in answer.json()["problems"]["stations"]
    )
    answer = online.call("researcher", "post", "runs", body | {"task": online.task.slug, "stations": ["arm-2"]})
    assert answer.status_code == 200 and Assignment.objects.count() == 1
    assert [station.slug for station in again(row).stations.all()] == ["arm-2"] and again(row).state == "standby"


def test_the_launch_form_begins_with_the_assignment_that_led_to_it(online, sft_run):
    assign(online, online.stations[0])
    row = assign(online, online.stations[1])
    page = online.as_("researcher").get(f"/labs/east/runs/new?kind=improve&assignment={row.pk}").content.decode()
    checked = [line for line in page.splitlines() if "checkbox" in line and "checked" in line]
    assert len(checked) == 1 and f'value="{online.stations[1].pk}"' in checked[0]


# Waiting: each because of what


def test_it_waits_for_the_station_that_another_uses(online, sft_run):
    arm = online.stations[0]
    first = assign(online, arm, parent=sft_run, episodes=100)
    second, third = assign(online, arm, parent=sft_run), assign(online, arm, parent=sft_run)
    assert verdict(second) == ("queued", f"waits for Arm 1, which practises Block2Block until its run {first.run} ends")
    begin(first)
    Assignment.objects.filter(pk=first.pk).update(started_at=past(minutes=10))
    run_in(first, "running", practice_episodes=50)
    now = timezone.now().replace(hour=10, minute=0)
    Assignment.objects.filter(pk=first.pk).update(started_at=now - timedelta(minutes=10))
    assert verdict(second, now)[1] == "waits for Arm 1, which practises Block2Block until about 10:10 UTC"
    assert verdict(third, now)[1].endswith("10:10 UTC; 1 before it in the queue")
    assignments.cancel_assignment(assignment=first, user=online.users["manager"])
    assert (again(second).state, again(third).state) == ("standby", "queued")


def test_it_waits_for_its_earliest_start_and_is_delayed_after_it(online, sft_run):
    row = assign(online, online.stations[0], parent=sft_run, not_before=ahead(minutes=30))
    state, reason = verdict(row)
    assert state == "queued" and reason.startswith("earliest start") and reason.endswith("UTC")
    busy = assign(online, online.stations[0], parent=sft_run)
    assert busy.state == "standby"  # what waits for a moment holds nobody up
    Assignment.objects.filter(pk=row.pk).update(not_before=past(minutes=12))
    dispatch(online)
    assert again(row).state == "queued"  # it was made just now, whenever it might have started
    Assignment.objects.filter(pk=row.pk).update(created_at=past(hours=1))
    dispatch(online)
    assert again(row).state == "delayed"
    assert verdict(row)[1].startswith("12 min late: waits for Arm 1")
    assignments.cancel_assignment(assignment=busy, user=online.users["manager"])
    assert again(row).state == "standby"


@pytest.mark.parametrize(
    "prepare, wishes, says",
    [
        (lambda lab: Station.objects.update(connected=False), {}, "all of its stations are offline: start Arm 1"),
        (lambda lab: None, {"any_count": 3}, "wants 3 stations with the embodiment language_table, and the lab has 2"),
        (
            lambda lab: Station.objects.filter(slug="arm-1").update(connected=False),
            {"any_count": 2},
            "and 1 are online: start more",
        ),
        (lambda lab: Station.objects.update(connected=False), {"any_count": 1}, "are offline: start 1 of them"),
        (
            lambda lab: Station.objects.update(embodiment={"name": "other"}),
            {"any_count": 1},
            "no station has the embodiment language_table: add one",
        ),
    ],
)
def test_blocked_says_what_to_do(online, sft_run, prepare, wishes, says):
    prepare(online)
    row = assign(online, parent=sft_run, **wishes)
    assert row.state == "blocked" and says in verdict(row)[1]


def test_an_archived_task_blocks_until_it_is_restored(online, sft_run):
    row = assign(online, parent=sft_run, not_before=ahead(hours=1))
    labs.archive_task(task=online.task, user=online.users["manager"])
    assert again(row).state == "blocked" and "is archived: restore the task" in verdict(row)[1]
    with pytest.raises(access.Invalid, match="archived"):
        assign(online, task=again(online.task))
    with pytest.raises(access.Conflict):
        labs.archive_task(task=online.task, user=online.users["manager"])
    labs.restore_task(task=online.task, user=online.users["manager"])
    assert again(row).state == "queued"


def test_of_any_stations_those_that_are_stopped_or_paused_are_waited_for(online, sft_run):
    Station.objects.filter(slug="arm-1").update(stop_latched=True)
    Station.objects.filter(slug="arm-2").update(paused=True)
    row = assign(online, any_count=1, parent=sft_run)
    assert verdict(row) == ("queued", "waits for Arm 1, which is stopped, Arm 2, which is paused")
    Station.objects.update(paused=False)
    dispatch(online)
    assert [station.slug for station in again(row).stations.all()] == ["arm-2"]


# At work


def test_it_is_delayed_while_nobody_can_practise(online, sft_run):
    row = assign(online, parent=sft_run)
    begin(row)
    Station.objects.filter(slug="arm-1").update(stop_latched=True)
    dispatch(online)
    assert again(row).state == "underway"
    Station.objects.filter(slug="arm-2").update(state="needs_person", state_since=timezone.now())
    dispatch(online)
    assert again(row).state == "underway"  # a reset is a part of practice
    Station.objects.filter(slug="arm-2").update(state_since=past(minutes=1))
    dispatch(online)
    assert again(row).state == "delayed"
    assert verdict(row)[1] == "nobody can practise: Arm 1 is stopped, Arm 2 needs a person"
    Station.objects.update(stop_latched=False)
    dispatch(online)
    assert again(row).state == "underway"


def test_it_is_delayed_while_its_run_is_paused_or_begins_again(online, sft_run):
    row = assign(online, parent=sft_run)
    begin(row)
    run_in(row, "paused")
    dispatch(online)
    assert again(row).state == "delayed" and "is paused: resume it" in verdict(row)[1]
    learning.resume_run(run=again(row).run, user=access.SERVER)
    assert again(row).state == "underway"
    started = again(row).started_at
    run_in(row, "queued")
    dispatch(online)
    assert again(row).state == "delayed" and "begins again" in verdict(row)[1]
    begin(row)
    assert again(row).state == "underway" and again(row).started_at == started


@pytest.mark.parametrize("ending, expected", [("completed", "completed"), ("failed", "failed"), ("canceled", "killed")])
def test_how_its_run_ends_is_how_it_ends(online, sft_run, ending, expected):
    row = assign(online, parent=sft_run)
    begin(row)
    run = again(row).run
    if ending == "canceled":
        learning.cancel_run(run=run, user=access.SERVER)
    learning.finish_run(run=again(run), state=ending, error="There was no more memory.")
    row = again(row)
    assert row.state == expected and row.ended_at is not None and not row.places.filter(live=True).exists()
    said = {"completed": "", "failed": "There was no more memory.", "killed": "was stopped"}
    assert said[expected] in row.reason


@pytest.mark.parametrize("state", ["queued", "blocked", "delayed", "standby", "underway"])
def test_cancel_works_from_every_state_at_once(online, sft_run, state):
    wishes = {"not_before": ahead(hours=1)} if state == "queued" else {}
    if state == "blocked":
        Station.objects.update(connected=False)
    row = assign(online, parent=sft_run, **wishes)
    if state in ("underway", "delayed"):
        begin(row)
    if state == "delayed":
        Station.objects.update(stop_latched=True)
        dispatch(online)
    row = again(row)
    assert row.state == state
    assignments.cancel_assignment(assignment=row, user=online.users["manager"])
    row = again(row)
    assert row.state == "canceled" and row.reason == "Canceled by east-manager."
    assert not AssignedStation.objects.filter(live=True).exists()
    assert [order.assignment for order in publishing.list_orders(station=online.stations[0])] == [None]
    if row.run:  # one that no job holds ends at once, else its job ends it
        assert row.run.state == ("canceled" if state == "standby" else "canceling")
        learning.finish_run(run=row.run, state="canceled", sources=("canceling",))
        assert again(row).state == "canceled"
    with pytest.raises(access.Conflict, match="canceled already"):
        assignments.cancel_assignment(assignment=row, user=online.users["manager"])


def test_killing_ends_the_episodes_under_way(online, sft_run, monkeypatch):
    row = assign(online, parent=sft_run)
    begin(row)
    told = []
    monkeypatch.setattr(publishing, "tell_station_on_commit", lambda group, *messages: told.extend(messages))
    assignments.cancel_assignment(assignment=row, user=online.users["manager"], force=True)
    assert (again(row).state, again(row).reason) == ("killed", "Killed by east-manager.")
    assert [(message.assignment, message.at_once) for message in told] == [(None, True), (None, True)]


def test_the_next_one_gets_the_stations_of_one_that_is_cancelled(online, sft_run):
    first, second = assign(online, parent=sft_run), assign(online, parent=sft_run)
    begin(first)
    assignments.cancel_assignment(assignment=first, user=online.users["manager"])
    second = again(second)
    assert second.state == "standby" and second.places.filter(live=True).count() == 2
    # The end of the first one's training comes later, and takes nothing away from the second.
    learning.finish_run(run=again(first).run, state="canceled")
    assert Lease.objects.filter(run=second.run, released_at=None).count() == 2


def test_a_final_state_is_final(online, sft_run):
    for final in ("skipped", "canceled", "killed", "failed", "completed"):
        row = Assignment.objects.create(lab=online.row, task=online.task, state=final)
        for state in Assignment.STATES:
            assert not assignments.move_assignment(assignment=row, to=state)
    assert set(Assignment.TRANSITIONS) == set(Assignment.STATES)


# Budgets


def evaluate(run, successes, n, seq=1):
    Metric.objects.create(
        run=run, seq=seq, kind="evaluation", at=timezone.now(), data={"successes": successes, "n": n, "version": seq}
    )


@pytest.mark.parametrize("budget", ["episodes", "hours", "target_success"])
def test_a_budget_that_is_reached_completes_it_and_its_run(online, sft_run, budget):
    row = assign(online, parent=sft_run, **{budget: {"episodes": 40, "hours": 2, "target_success": 0.8}[budget]})
    begin(row)
    run = again(row).run
    if budget == "episodes":  # a run that a person launched has a limit of its own
        run.recipe["max_episodes"] = 600
        run.practice_episodes = 39
        run.save()
    elif budget == "hours":
        Assignment.objects.filter(pk=row.pk).update(started_at=past(minutes=119))
    else:
        evaluate(run, 158, 200)
    dispatch(online)
    assert again(row).state == "underway"
    if budget == "episodes":
        Run.objects.update(practice_episodes=40)
    elif budget == "hours":
        Assignment.objects.filter(pk=row.pk).update(started_at=past(minutes=121))
    else:
        evaluate(run, 160, 200, seq=2)
    dispatch(online)
    row = again(row)
    assert row.state == "completed" and row.run.state == "canceling" and not row.places.filter(live=True).exists()
    assert {"episodes": "40 episodes", "hours": "for 2 h", "target_success": "80 % true success (n = 200)"}[
        budget
    ] in row.reason
    learning.finish_run(run=row.run, state="canceled", attempt=row.run.attempt)
    assert again(row.run).state == "completed"  # it was ended because it had done what it was asked for


def test_a_run_with_the_same_limit_ends_by_itself(online, sft_run):
    """It still has its last update and evaluation to do when the last episode is in."""
    row = assign(online, parent=sft_run, episodes=40)
    begin(row)
    run_in(row, "running", practice_episodes=44)
    dispatch(online)
    assert again(row).state == "underway"
    (shown,) = queue.read_queue(online.row)
    assert shown.progress.text == "44 of 40 episodes, its last update goes on"


def test_progress_says_how_far_and_how_long(online, sft_run):
    row = assign(online, parent=sft_run, episodes=600)
    begin(row)
    run_in(row, "running", practice_episodes=312)
    now = timezone.now()
    Assignment.objects.filter(pk=row.pk).update(started_at=now - timedelta(minutes=43))
    (shown,) = queue.read_queue(online.row, now)
    assert shown.progress.text == "312 of 600 episodes, about 40 min left" and shown.progress.share == 0.52


def test_hours_and_a_target_leave_the_episodes_open(online, sft_run):
    for wish in ({"hours": 1.5}, {"target_success": 0.9}):
        recipe = assign(online, parent=sft_run, **wish).run.recipe
        assert recipe["max_episodes"] == 10_000_000 and recipe["anneal"] == 0
        assignments.cancel_assignment(assignment=Assignment.objects.first(), user=online.users["manager"])


# Order


def order(lab):
    return [row.pk for row in assignments.list_waiting(lab.row)]


def test_priority_decides_where_one_enters_and_a_person_where_it_stands(online, sft_run):
    assign(online, parent=sft_run)
    low = assign(online, parent=sft_run, priority="low").pk
    normal = assign(online, parent=sft_run).pk
    high = assign(online, parent=sft_run, priority="high").pk
    later = assign(online, parent=sft_run).pk
    assert order(online) == [high, normal, later, low]
    user = online.users["manager"]
    assignments.reorder_assignment(
        assignment=Assignment.objects.get(pk=low), before=Assignment.objects.get(pk=high), user=user
    )
    assert order(online) == [low, high, normal, later]
    assignments.reorder_assignment(assignment=Assignment.objects.get(pk=high), before=None, user=user)
    assert order(online) == [low, normal, later, high]
    working = Assignment.objects.get(state="standby")
    with pytest.raises(access.Conflict, match="is not waiting any more"):
        assignments.reorder_assignment(assignment=working, before=None, user=user)
    with pytest.raises(access.Conflict, match="stand before"):
        assignments.reorder_assignment(assignment=Assignment.objects.get(pk=low), before=working, user=user)


def test_small_ones_do_not_starve_a_large_one(online, sft_run):
    """It claims the free station while it waits for the other, and gets both before anyone behind it."""
    user, (one, two) = online.users["manager"], online.stations
    small = assign(online, one, parent=sft_run)
    large = assign(online, one, two, parent=sft_run)
    for _ in range(3):
        behind = assign(online, two, parent=sft_run)
        assert behind.state == "queued" and verdict(behind)[1].endswith("before it in the queue")
    assignments.cancel_assignment(assignment=small, user=user)
    assert again(large).state == "standby" and again(behind).state == "queued"
    anyone = assign(online, any_count=1, parent=sft_run)
    assignments.cancel_assignment(assignment=large, user=user)
    assert again(anyone).state == "standby"  # the station that nobody ahead of it waits for


def test_nothing_passes_what_has_waited_for_a_day(online, sft_run):
    assign(online, parent=sft_run)
    low = assign(online, parent=sft_run, priority="low")
    Assignment.objects.filter(pk=low.pk).update(created_at=past(hours=25))
    high = assign(online, parent=sft_run, priority="high")
    assert order(online) == [low.pk, high.pk]


def test_two_dispatchers_at_once_launch_each_run_once(online, sft_run):
    Station.objects.update(connected=False)
    rows = [assign(online, station, parent=sft_run) for station in (*online.stations, *online.stations)]
    assert {row.state for row in rows} == {"blocked"}
    Station.objects.update(connected=True)
    together, errors = threading.Barrier(4), []

    def dispatch_alone():
        try:
            together.wait(60)
            dispatch_actions.dispatch_assignments(lab=online.row)
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=dispatch_alone) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == [] and Run.objects.filter(kind="improve").count() == 2
    assert [again(row).state for row in rows] == ["standby", "standby", "queued", "queued"]


def test_a_person_and_the_dispatcher_do_not_take_one_station_twice(online, sft_run):
    Station.objects.update(connected=False)
    assign(online, parent=sft_run)
    Station.objects.update(connected=True)
    together, refusals = threading.Barrier(2), []

    def launch():
        try:
            together.wait(60)
            launching.launch_run(
                lab=online.row,
                user=online.users["researcher"],
                kind="improve",
                recipe={},
                parent=sft_run,
                task=online.task,
                stations=online.stations,
            )
        except access.Conflict as refused:
            refusals.append(refused)
        finally:
            connection.close()

    thread = threading.Thread(target=launch)
    thread.start()
    together.wait(60)
    dispatch(online)
    thread.join(60)
    assert AssignedStation.objects.filter(live=True).count() == 2
    assert Run.objects.filter(kind="improve").count() == 1
    assert len(refusals) == (1 if Assignment.objects.filter(state="standby", parent=sft_run).exists() else 0)


# Repetition


def test_an_occurrence_is_made_once_and_skipped_while_the_last_goes_on(online, sft_run):
    first = assign(online, parent=sft_run, hours=1, priority="high", not_before=ahead(minutes=1), repeats="daily")
    day, due = timedelta(days=1), first.due_at
    assert assignments.repeat_assignment(assignment_id=first.pk, now=due) is None  # it is itself the first
    skipped = assignments.repeat_assignment(assignment_id=first.pk, now=due + day)
    assert skipped.state == "skipped" and "was still queued" in skipped.reason and skipped.due_at == due + day
    assert assignments.repeat_assignment(assignment_id=first.pk, now=due + day) is None
    assignments.cancel_assignment(assignment=first, user=online.users["manager"])
    second = assignments.repeat_assignment(assignment_id=first.pk, now=due + 2 * day + timedelta(seconds=3))
    assert (second.state, second.series, second.not_before) == ("queued", first, due + 2 * day)
    assert (second.budget_hours, second.priority, second.parent) == (1, 2, sft_run)
    assert {station.slug for station in second.stations.all()} == {"arm-1", "arm-2"}
    assignments.stop_repeating(assignment=second, user=online.users["manager"])
    assert not PeriodicTask.objects.filter(name__startswith="assignment").exists()
    assert assignments.repeat_assignment(assignment_id=first.pk, now=due + 3 * day) is None
    assert again(second).state == "queued"
    with pytest.raises(access.Conflict, match="does not repeat"):
        assignments.stop_repeating(assignment=first, user=online.users["manager"])


def test_the_clock_knows_a_job_and_an_id(online, sft_run):
    start = ahead(hours=1).replace(second=0, microsecond=0)  # it reads only what is due within hours
    first = assign(online, parent=sft_run, not_before=start, repeats="weekly")
    entry = DatabaseScheduler(app=celery_app, lazy=True).all_as_schedule()[f"assignment {first.pk}"]
    assert entry.task == "fleet.repeat_assignment" and entry.task in celery_app.tasks and entry.args == [first.pk]
    assert (entry.schedule.hour, entry.schedule.minute) == ({start.hour}, {start.minute})
    assert entry.schedule.day_of_week == {start.isoweekday() % 7}
    assert queue.say_repeats(first) == f"each {start:%A} at {start:%H:%M} UTC"
    celery_app.tasks[entry.task](first.pk)  # before its time: nothing
    assert Assignment.objects.count() == 1


def test_the_clock_makes_the_next_occurrence_when_it_is_due(online, sft_run, monkeypatch):
    first = assign(online, parent=sft_run, not_before=ahead(seconds=50), repeats="daily")
    assignments.cancel_assignment(assignment=first, user=online.users["manager"])
    scheduler = DatabaseScheduler(app=celery_app)
    job = celery_app.tasks["fleet.repeat_assignment"]
    monkeypatch.setattr(job, "apply_async", lambda args, kwargs, **_: job.apply(args))
    scheduler.tick()
    assert Assignment.objects.count() == 1
    yesterday = first.due_at - timedelta(days=1, minutes=1)
    Assignment.objects.filter(pk=first.pk).update(due_at=yesterday)
    PeriodicTask.objects.filter(pk=first.schedule_id).update(start_time=yesterday, last_run_at=yesterday)
    DatabaseScheduler(app=celery_app).tick()
    occurrence = first.occurrences.get()
    assert occurrence.due_at == yesterday + timedelta(days=1) and occurrence.state == "standby"


def test_the_clock_runs_in_the_worker_and_is_started_again(online, monkeypatch):
    try:
        worker.keep_clock_running()
        clock = worker.beat
        worker.keep_clock_running()
        assert worker.beat is clock and clock.is_alive()
        clock.stop()
        clock.join(60)
        worker.keep_clock_running()
        assert worker.beat is not clock and worker.beat.is_alive()
    finally:
        worker.beat.stop()
        worker.beat.join(60)
        worker.beat = None


# What a task says


def test_a_tasks_resets_go_before_the_stations_own(online, sft_run, monkeypatch):
    station = online.stations[0]
    Station.objects.filter(pk=station.pk).update(self_reset_after_s=9.0)
    task = labs.create_task(
        lab=online.row,
        user=online.users["manager"],
        family="block2block",
        name="Careful",
        resets="person",
        shuffle_every_s=60,
        stall_steps=12,
    )
    told = []
    monkeypatch.setattr(publishing, "tell_station_on_commit", lambda group, *messages: told.extend(messages))
    settings = lambda: [message.settings for message in told if isinstance(message, AssignmentMessage)]  # noqa: E731
    row = assign(online, station, task=task, parent=sft_run)
    assert settings() and settings()[-1] == {"self_reset_after_s": None, "shuffle_every_s": 60, "record_frames": ""}
    begin(row)
    publishing.order_stations_of_run(run=again(row).run)
    order = next(message for message in reversed(told) if isinstance(message, AssignmentMessage))
    assert order.task == {
        "name": "block2block",
        "time_limit_steps": task.time_limit_steps,
        "stall_steps": 12,
        "regression": None,
        "low_success_probability": None,
        "fewest_objects": None,
        "edge_margin": None,
        "after_failure": "",
        "alternates": False,
        "success_by": "",
        "reset_each_attempt": False,
    }
    limits = {"time_limit_steps": 50, "resets": "self", "self_reset_after_s": 2.0, "shuffle_every_s": None}
    rules = {
        "stall_steps": None,
        "regression": 4.5,
        "low_success_probability": 0.05,
        "fewest_objects": None,
        "edge_margin": 0.03,
    }
    rules["after_failure"] = "block_to_place"
    labs.edit_task(task=task, user=online.users["manager"], name="Bold", **rules, **limits)
    assert settings()[-1] == {"self_reset_after_s": 2.0, "shuffle_every_s": 300.0, "record_frames": ""}
    order = next(message for message in reversed(told) if isinstance(message, AssignmentMessage))
    told_of = ("time_limit_steps", "regression", "low_success_probability", "edge_margin", "after_failure")
    assert [order.task[name] for name in told_of] == [50, 4.5, 0.05, 0.03, "block_to_place"]
    assert publishing.welcome_station(station=station, embodiment=station.embodiment)[0].settings[
        "self_reset_after_s"
    ] == (2.0)
    assignments.cancel_assignment(assignment=row, user=online.users["manager"])
    assert settings()[-1] == {"self_reset_after_s": 9.0, "shuffle_every_s": 300.0, "record_frames": ""}


@pytest.mark.parametrize(
    "limits, field",
    [
        ({"resets": "nobody"}, "resets"),
        ({"resets": "self"}, "self_reset_after_s"),
        ({"self_reset_after_s": 4}, "self_reset_after_s"),
        ({"shuffle_every_s": 0}, "shuffle_every_s"),
        ({"stall_steps": 0}, "stall_steps"),
        ({"regression": 0}, "regression"),
        ({"edge_margin": 0.5}, "edge_margin"),
        ({"low_success_probability": 0.9}, "low_success_probability"),
        ({"after_failure": "block2block"}, "after_failure"),
        ({"after_failure": "banana_to_place"}, "after_failure"),
        ({"after_failure": "sing"}, "after_failure"),
        ({"time_limit_steps": 0}, "time_limit_steps"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(lab, limits, field):
    answer = lab.call("manager", "patch", f"tasks/{lab.task.slug}", limits)
    assert answer.status_code == 422 and list(answer.json()["problems"]) == [field]
    assert again(lab.task).resets == "" and again(lab.task).shuffle_every_s is None


# The API


def test_each_role_at_the_doors_of_the_queue(lab, sft_run):
    row = assign(lab, not_before=ahead(hours=1), repeats="daily")
    doors = [
        ("post", f"assignments/{row.pk}/move", {"before": None}),
        ("post", f"assignments/{row.pk}/stop_repeating", {}),
        ("delete", f"assignments/{row.pk}", None),
        ("patch", f"tasks/{lab.task.slug}", {"archived": True}),
    ]
    for method, path, body in doors:
        for role in ROLES[:-1]:
            answer = lab.call(role, method, path, body)
            assert answer.status_code == 403 and role in answer.json()["detail"], (path, role)
        assert lab.call("manager", method, path, body).status_code == 200, path
    assert again(row).state == "canceled" and again(lab.task).archived_at


def test_another_labs_assignment_is_not_found(lab, other_lab):
    row = assign(lab)
    for method, path in (("delete", ""), ("post", "/move"), ("post", "/stop_repeating")):
        answer = other_lab.call("manager", method, f"assignments/{row.pk}{path}", {"before": None})
        assert answer.status_code == 404
    mine = other_lab.call("manager", "post", "assignments", {"task": "block2block", "stations": ["arm-1"]}).json()
    answer = lab.call("manager", "post", f"assignments/{row.pk}/move", {"before": mine["id"]})
    assert answer.status_code == 404
    assert lab.call("manager", "patch", "tasks/none", {}).status_code == 404


def test_the_api_makes_moves_and_tells(online, sft_run):
    body = {"task": "block2block", "any": 1, "parent": sft_run.pk, "hours": 2, "priority": "high"}
    first = online.call("manager", "post", "assignments", body).json()
    assert first["state"] == "standby" and first["stations"] == ["arm-1"] and first["hours"] == 2
    assert first["progress"]["text"] == "0.0 of 2 h"
    second = online.call("manager", "post", "assignments", {"task": "block2block", "stations": ["arm-1"]}).json()
    start = ahead(days=2).isoformat()
    third = {"task": "block2block", "stations": ["arm-2"], "parent": sft_run.pk, "not_before": start}
    third = online.call("manager", "post", "assignments", third | {"repeats": "weekly"}).json()
    assert third["repeats"] == "weekly" and third["due_at"] and third["reason"].startswith("earliest start")
    moved = online.call("manager", "post", f"assignments/{third['id']}/move", {"before": second["id"]}).json()
    assert moved["position"] == 1
    rows = online.call("viewer", "get", "assignments").json()["items"]
    assert [row["id"] for row in rows] == [first["id"], third["id"], second["id"]]
    gone = online.call("manager", "delete", f"assignments/{first['id']}?force=true").json()
    assert gone["state"] == "killed"
    assert [row["id"] for row in online.call("viewer", "get", "assignments?state=killed").json()["items"]] == [
        first["id"]
    ]


@pytest.mark.parametrize(
    "wish, field",
    [
        ({"stations": []}, "stations"),
        ({"any": 2}, "stations"),
        ({"stations": [], "any": 0}, "any_count"),
        ({"episodes": 5, "hours": 1}, "budget"),
        ({"episodes": 0}, "budget"),
        ({"target_success": 1.5}, "budget"),
        ({"priority": "urgent"}, "priority"),
        ({"repeats": "hourly"}, "repeats"),
        ({"repeats": "daily"}, "not_before"),
        ({"repeats": "daily", "not_before": "2020-01-01T08:00:00Z"}, "not_before"),
        ({"not_before": "2999-01-01T08:00:00Z"}, "not_before"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_by_name(lab, wish, field):
    answer = lab.call("manager", "post", "assignments", {"task": "block2block", "stations": ["arm-1"]} | wish)
    assert answer.status_code == 422 and list(answer.json()["problems"]) == [field]
    assert not Assignment.objects.exists() and not PeriodicTask.objects.exists()


def test_a_run_that_is_not_over_can_not_be_practised_with(lab, improve_run):
    body = {"task": "block2block", "stations": ["arm-1"], "parent": improve_run.pk}
    answer = lab.call("manager", "post", "assignments", body)
    assert answer.status_code == 422 and "is still running" in answer.json()["problems"]["parent"]


def test_a_task_is_edited_in_part(lab):
    answer = lab.call("manager", "patch", f"tasks/{lab.task.slug}", {"resets": "self", "self_reset_after_s": 3})
    assert answer.json()["self_reset_after_s"] == 3 and answer.json()["name"] == lab.task.name
    answer = lab.call("manager", "patch", f"tasks/{lab.task.slug}", {"resets": "person", "archived": True}).json()
    assert answer["self_reset_after_s"] is None and answer["archived_at"]
    assert lab.call("viewer", "get", "tasks").json()["items"] == []
    assert len(lab.call("viewer", "get", "tasks?archived=true").json()["items"]) == 1


# The page, as plain forms


ASSIGN = "assignments/new"


def page(lab, role="manager", **query):
    return lab.as_(role).get(f"/labs/{lab.slug}/tasks/", query).content.decode()


def post(lab, act, role="manager", **data):
    return lab.as_(role).post(f"/labs/{lab.slug}/tasks/{act}", data, follow=True)


def test_the_empty_queue_teaches_the_next_step(lab):
    assert 'href="#assign"' in page(lab) and "starts by itself" in page(lab)
    assert "A manager assigns tasks." in page(lab, "viewer") and 'href="#assign"' not in page(lab, "viewer")


def test_the_form_without_javascript(online, sft_run):
    wishes = {"task": online.task.pk, "parent": sft_run.pk, "who": "any", "any_count": 1}
    answer = post(online, ASSIGN, **wishes, budget="target_success", amount="90", priority="high")
    assert "Block2Block is in the queue; standby" in answer.content.decode()
    row = Assignment.objects.get()
    assert (row.any_count, row.target_success, row.priority) == (1, 0.9, 2)
    stations = [online.stations[0].pk]
    post(online, ASSIGN, task=online.task.pk, who="chosen", stations=stations, budget="episodes", amount="50")
    second = Assignment.objects.first()
    post(online, ASSIGN, task=online.task.pk, who="chosen", stations=stations)
    third = Assignment.objects.first()
    post(online, f"assignments/{third.pk}/move", before=second.pk)
    assert order(online) == [third.pk, second.pk]
    post(online, f"assignments/{third.pk}/move", before="")
    assert order(online) == [second.pk, third.pk]
    assert "was killed" in post(online, f"assignments/{row.pk}/kill").content.decode()
    assert "Killed by east-manager" in page(online, ended="killed")
    assert "No assignment is failed" in page(online, ended="failed")
    answer = post(online, f"assignments/{row.pk}/move", before="")
    assert "is not waiting any more" in answer.content.decode()


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"who": "any"}, "Say how many stations"),
        ({"who": "chosen"}, "Choose at least one station."),
        ({"who": "any", "any_count": "1", "budget": "hours"}, "Say how many or how much, until so many hours"),
        ({"who": "any", "any_count": "1", "amount": "3"}, "Say what the number counts"),
        ({"who": "any", "any_count": "1", "budget": "target_success", "amount": "300"}, "1 to 100 %"),
        ({"who": "any", "any_count": "1", "budget": "episodes", "amount": "1.5"}, "whole number"),
        ({"who": "any", "any_count": "1", "repeats": "daily"}, "Say when it starts for the first time"),
    ],
)
def test_a_form_that_makes_no_sense_says_where(lab, wrong, says):
    answer = post(lab, ASSIGN, task=lab.task.pk, **wrong)
    assert answer.status_code == 422 and says in answer.content.decode() and not Assignment.objects.exists()


def test_series_are_listed_and_stopped_on_the_page(lab):
    first = assign(lab, not_before=ahead(days=1).replace(hour=8, minute=0), repeats="daily")
    assert "Daily at 08:00 UTC" in page(lab)
    assert "does not repeat any more" in post(lab, f"assignments/{first.pk}/stop-repeating").content.decode()
    assert "Repeating" not in page(lab)


def test_tasks_are_edited_archived_and_restored_on_the_page(lab):
    slug = lab.task.slug
    assert "Save task" in lab.as_("manager").get(f"/labs/{lab.slug}/tasks/{slug}/edit").content.decode()
    assert lab.as_("researcher").get(f"/labs/{lab.slug}/tasks/{slug}/edit").status_code == 403
    wrong = post(lab, f"{slug}/edit", name="New", resets="self")
    assert wrong.status_code == 422 and "after how many seconds" in wrong.content.decode()
    post(lab, f"{slug}/edit", name="New", resets="self", self_reset_after_s="3", stall_steps="20")
    task = Task.objects.get(slug=slug)
    assert (task.name, task.self_reset_after_s, task.stall_steps) == ("New", 3.0, 20)
    assert "or 20 steps without progress" in page(lab)
    assert post(lab, f"{slug}/archive", "researcher").status_code == 403
    assert "its history stays" in post(lab, f"{slug}/archive").content.decode()
    assert "Archived (1)" in page(lab)
    post(lab, f"{slug}/restore")
    assert "Archived (" not in page(lab)


def test_a_long_queue_costs_no_more_questions(online, sft_run, django_assert_max_num_queries):
    for _ in range(8):
        assign(online, parent=sft_run, not_before=ahead(hours=2), repeats="daily")
    assign(online, parent=sft_run)
    online.as_("manager"), online.as_("viewer")  # logged in
    with django_assert_max_num_queries(10):
        assert "daily at" in online.as_("manager").get(f"/labs/{online.slug}/tasks/queue").content.decode()
    with django_assert_max_num_queries(11):
        assert len(online.call("viewer", "get", "assignments").json()["items"]) == 9


def test_the_queue_alone_for_every_member_and_nobody_else(lab, other_lab):
    row = assign(lab)
    url = f"/labs/{lab.slug}/tasks/queue"
    for role in ROLES:
        shown = lab.as_(role).get(url).content.decode()
        assert "waits for a person to launch a run" in shown and "<html" not in shown
        assert (f'data-key="cancel-{row.pk}"' in shown) == (role == "manager")
    assert other_lab.as_("manager").get(url).status_code == 404


# What the database itself holds


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "somewhere"},
        {"budget_hours": 1, "target_success": 0.5},
        {"budget_episodes": 1, "budget_hours": 1},
        {"budget_episodes": 1, "target_success": 0.5},
        {"priority": 7},
        {"repeats": "daily"},
    ],
)
def test_the_database_refuses_what_must_not_be(lab, fields):
    with pytest.raises(IntegrityError), transaction.atomic():
        Assignment.objects.create(lab=lab.row, task=lab.task, **fields)

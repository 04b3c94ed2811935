"""Uploads into rows and rounds: once each, summed up rightly, and the upload that fills a round holds the stations."""

import threading

import numpy as np
import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from fleetui import access
from fleetui.fleet import selectors
from fleetui.fleet.actions import control, labs, reports, stops
from fleetui.fleet.models import AssignedStation, Episode, Intervention, Lease, Station
from fleetui.learning import actions as learning_actions
from fleetui.learning import jobs, workers
from fleetui.learning.models import Dataset
from fleetui.practice import selectors as practice
from fleetui.practice.actions import assignments, episodes, publishing
from robots.embodiments import STATE
from robots.episodes import EpisodeError, read_episodes, unchecked_bytes
from robots.protocol import Welcome
from tests.fleetui.lab import add_checkpoint, as_upload, make_episode, seen


def test_an_episode_is_stored_once_however_often_it_is_sent(lab):
    first, second = make_episode(), make_episode()
    assert episodes.store_episodes(station=lab.stations[0], body=as_upload(first))["stored"] == 1
    assert episodes.store_episodes(station=lab.stations[0], body=as_upload(first, second))["stored"] == 1
    assert episodes.store_episodes(station=lab.stations[0], body=as_upload(first, second))["stored"] == 0
    lab.stations[0].refresh_from_db()
    assert Episode.objects.count() == lab.stations[0].episodes_count == 2


def test_the_summary_and_the_file(lab, sft_run):
    policy, judge = sft_run.newest_checkpoint("policy"), sft_run.newest_checkpoint("reward_model")
    actors = np.array([0] * 6 + [1] * 4, np.uint8)
    d = np.arange(20, 9, -1).astype(np.float32)
    d[-2:] = np.nan  # nothing judged the human's last steps
    episode = make_episode(
        actors=actors,
        steps_to_go=d,
        policy=str(policy.uuid),
        reward_model=str(judge.uuid),
        threshold=2.5,
        detected_success=True,
        true_success=False,
        fps=5.0,
    )
    episodes.store_episodes(station=lab.stations[0], body=as_upload(episode))
    row = Episode.objects.get()
    assert (row.steps, row.human_steps, row.d_start, row.d_end, row.return_sum) == (10, 4, 20.0, 12.0, 8.0)
    assert (row.duration_s, row.version, row.policy, row.reward_model) == (2.0, 0, policy, judge)
    assert (row.detected_success, row.true_success) == (True, False)
    (kept,) = read_episodes(row.file)
    assert all(np.array_equal(kept.observations[key], array) for key, array in episode.observations.items())


def test_a_true_success_that_nobody_knows_stays_unknown_everywhere(lab):
    assert lab.upload(as_upload(make_episode(true_success=None))).status_code == 200
    row = Episode.objects.get()
    assert row.true_success is None and read_episodes(row.file)[0].true_success is None
    for path in ("episodes", "stations/arm-1"):
        answer = lab.call("viewer", "get", path).json()
        (episode,) = answer["items" if path == "episodes" else "recent"]
        assert episode["true_success"] is None
    assert lab.call("viewer", "get", f"episodes/{row.uuid}").json()["true_success"] is None
    for wanted in ("true", "false"):
        assert lab.call("viewer", "get", f"episodes?true={wanted}").json()["count"] == 0, "it is neither"
    for page in ("episodes/", f"episodes/{row.uuid}"):
        assert b"unknown" in lab.as_("viewer").get(f"/labs/{lab.slug}/{page}").content


def test_only_a_station_that_was_given_a_run_sends_it_episodes(lab, improve_run):
    policy = add_checkpoint(improve_run, "policy", 0)
    publishing.publish_checkpoint(run=improve_run, checkpoint=policy)
    stranger = lab.add_station("Stranger")
    lab.connect(stranger)
    for purpose in ("practice", "evaluation", "correction"):
        episode = make_episode(policy=str(policy.uuid).upper(), purpose=purpose)
        answer = lab.upload(as_upload(episode), stranger)
        assert answer.status_code == 422
        assert f"Episode {episode.uuid}, field policy: it is of improve" in answer.json()["detail"]
    improve_run.refresh_from_db()
    assert (improve_run.practice_episodes, improve_run.round_steps, Episode.objects.count()) == (0, 0, 0)
    assert lab.upload(as_upload(make_episode()), stranger).json()["stored"] == 1, "of no run it may be"
    assert lab.upload(as_upload(make_episode(policy=str(policy.uuid)))).json()["stored"] == 1


def test_what_a_station_still_had_on_its_disk_is_taken_after_its_assignment_ended(lab, improve_run):
    policy = add_checkpoint(improve_run, "policy", 0)
    publishing.publish_checkpoint(run=improve_run, checkpoint=policy)
    assignments.cancel_assignment(assignment=lab.stations[0].live_assignment(), user=lab.users["manager"])
    assert lab.stations[0].live_assignment() is None
    driven = make_episode(policy=str(policy.uuid), purpose="correction", actors=np.ones(10, np.uint8))
    late = make_episode(policy=str(policy.uuid))
    assert lab.upload(as_upload(late, driven)).json()["stored"] == 2
    assert set(Episode.objects.values_list("run", flat=True)) == {improve_run.pk}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"actions": np.full((10, 2), 3e38, np.float32)}, "field actions"),
        ({"actions": np.full((10, 2), 20, np.float32)}, "field actions: delta_x is 20 at step 0"),
        ({"observations": seen(10, 250)}, f"field {STATE}: ee_x is 250 at step 0"),
        ({"fps": 10.0}, "field fps"),
        ({"steps": 10_001}, "no task lets an attempt have more than 10000"),
    ],
)
def test_what_the_stations_body_cannot_have_done_is_refused_by_field(lab, fields, said):
    lab.connect(lab.stations[0])
    kept = make_episode()
    lab.upload(as_upload(kept))
    episode = make_episode(**fields)
    try:
        body = as_upload(episode)
    except EpisodeError:  # our own writer refuses it: another's may not
        body = unchecked_bytes([episode])
    answer = lab.upload(body)
    assert answer.status_code == 422 and said in answer.json()["detail"] and episode.uuid in answer.json()["detail"]
    assert Episode.objects.count() == 1


@pytest.mark.parametrize("instruction", ["push \ud800", "push\0", "x" * 301])
def test_an_instruction_that_cannot_be_stored_is_the_senders_to_change(lab, instruction):
    episode = make_episode(instruction=instruction)
    answer = lab.upload(unchecked_bytes([episode]))
    assert answer.status_code == 422 and f"Episode {episode.uuid}, field instruction" in answer.json()["detail"]


def test_one_uuid_in_two_spellings_is_one_episode(lab):
    first = make_episode()
    again = make_episode(uuid="{" + first.uuid.upper() + "}")
    answer = lab.upload(as_upload(first, again))
    assert answer.status_code == 422 and "two episodes of the upload have it" in answer.json()["detail"]
    assert lab.upload(as_upload(first)).json()["stored"] == 1
    assert lab.upload(as_upload(again)).json()["stored"] == 0, "sent again"
    assert Episode.objects.get().file.is_file()


def test_the_upload_that_fills_the_round_holds_the_stations(lab, improve_run):
    policy = add_checkpoint(improve_run, "policy", 0)
    publishing.publish_checkpoint(run=improve_run, checkpoint=policy)
    lab.connect()

    def upload(steps, **fields):
        episode = make_episode(steps=steps, policy=str(policy.uuid), **fields)
        return episodes.store_episodes(station=lab.stations[0], body=as_upload(episode))["hold"]

    assert upload(20) is False
    assert upload(30, purpose="evaluation") is False  # never learned from, so it does not count
    assert upload(12, actors=np.array([0] * 6 + [1] * 6, np.uint8)) is False  # 6 of them a human's
    improve_run.refresh_from_db()
    assert (improve_run.round_steps, improve_run.practice_episodes) == (26, 2)
    assert upload(6) is True
    improve_run.refresh_from_db()
    assert improve_run.holding and improve_run.round_steps == 32
    orders = publishing.list_orders(station=lab.stations[1])
    assert [order.TYPE for order in orders] == ["assignment", "policy", "hold"] and orders[2].version == 0
    # The next version begins a round of its own.
    newer = add_checkpoint(improve_run, "policy", 1)
    publishing.publish_checkpoint(run=improve_run, checkpoint=newer)
    assert upload(40) is False  # of the older policy: kept, but not counted
    improve_run.refresh_from_db()
    assert (improve_run.open_version, improve_run.round_steps, improve_run.holding) == (1, 0, False)


def test_what_a_station_is_told(lab, improve_run, sft_run):
    policy = add_checkpoint(improve_run, "policy", 0)
    publishing.publish_checkpoint(run=improve_run, checkpoint=policy)
    assignment, told = publishing.list_orders(station=lab.stations[0])
    limits = {"time_limit_steps": lab.task.time_limit_steps, "stall_steps": None, "regression": None}
    limits |= {"low_success_probability": None, "fewest_objects": None, "edge_margin": None, "after_failure": ""}
    limits |= {"reset_each_attempt": False, "alternates": False, "success_by": ""}
    assert assignment.task == {"name": "block2block"} | limits
    judge = sft_run.newest_checkpoint("reward_model")
    assert (told.checkpoint, told.sha256) == (str(policy.uuid), policy.sha256)
    assert (told.reward_model, told.threshold, told.consecutive) == (str(judge.uuid), 2.5, 2)
    learning_actions.pause_run(run=improve_run, user=lab.users["researcher"])
    assert [order.assignment for order in publishing.list_orders(station=lab.stations[0])] == [None]


def test_a_publication_has_arrived_once_every_connected_station_has_loaded_it(lab, improve_run):
    policy = add_checkpoint(improve_run, "policy", 0)
    publishing.publish_checkpoint(run=improve_run, checkpoint=policy)
    lab.connect()
    publishing.record_policy_loaded(station=lab.stations[0], checkpoint_uuid=str(policy.uuid))
    policy.refresh_from_db()
    assert policy.loaded_everywhere_at is None
    publishing.record_policy_loaded(station=lab.stations[1], checkpoint_uuid=str(policy.uuid))
    policy.refresh_from_db()
    assert policy.staleness_s > 0
    first = policy.loaded_everywhere_at
    publishing.record_policy_loaded(station=lab.stations[1], checkpoint_uuid=str(policy.uuid))
    policy.refresh_from_db()
    assert policy.loaded_everywhere_at == first


def test_a_station_that_begins_anew_has_not_loaded_what_it_had(lab, improve_run):
    lab.connect()
    policy = add_checkpoint(improve_run, "policy")
    publishing.publish_checkpoint(run=improve_run, checkpoint=policy)
    for station in lab.stations:
        publishing.record_policy_loaded(station=station, checkpoint_uuid=str(policy.uuid))
    assert practice.stations_behind(improve_run) == []
    lab.connect(lab.stations[0])
    assert practice.stations_behind(improve_run) == [lab.stations[0]]


# Touches and leases


def command(lab, role, name, **args):
    if name == "stop":
        return stops.stop_stations(user=lab.users[role], lab_slug="east", station_slug="arm-1")
    return control.command_station(user=lab.users[role], lab_slug="east", station_slug="arm-1", name=name, args=args)


def test_an_override_is_one_touch_from_taking_to_handing_back(lab, improve_run):
    lab.connect()
    with pytest.raises(access.Conflict, match="take control"):
        command(lab, "supervisor", "drive", axes={"x": 0.5, "y": 0})
    command(lab, "supervisor", "override")
    command(lab, "supervisor", "drive", axes={"x": 0.5, "y": -1})
    with pytest.raises(access.Conflict, match="east-supervisor is in control"):
        command(lab, "manager", "speed", value=4)
    for name in ("override", "pause", "hand_back"):
        with pytest.raises(access.Conflict, match="east-supervisor is in control"):
            command(lab, "manager", name)
    command(lab, "supervisor", "hand_back")
    touch = Intervention.objects.get(kind="override")
    assert touch.ended_at is not None and touch.seconds > 0 and touch.run == improve_run
    live = Lease.objects.get(station=lab.stations[0], released_at=None)
    assert live.run == improve_run and live.epoch == 3  # run, operator, run again


@pytest.mark.parametrize("end", ["stop", "hand_back", "lost link", "new link", "expiry"])
def test_an_override_ends_on_both_sides_and_only_a_persons_word_gives_the_station_back(lab, improve_run, end):
    lab.connect()
    epoch = command(lab, "supervisor", "override")["epoch"]
    station = lab.stations[0]
    if end == "lost link":
        reports.disconnect_station(station=station)
    elif end == "new link":
        lab.connect(station)
    elif end == "expiry":
        Lease.objects.filter(epoch=epoch, station=station).update(expires_at=timezone.now())
        control.lapse_expired_control()
    else:
        command(lab, "manager" if end == "stop" else "supervisor", end)
    touch = Intervention.objects.get(kind="override")
    assert touch.ended_at is not None and touch.seconds > 0
    station.refresh_from_db()
    live = Lease.objects.filter(station=station, released_at=None)
    if end in ("stop", "hand_back"):
        assert not station.taken_over and live.get().run == improve_run and live.get().epoch == epoch + 1
        return
    assert station.taken_over and not live.exists(), "the policy waits for a person"
    lab.connect(station)
    (welcome, *_) = publishing.welcome_station(station=station, embodiment=station.embodiment)
    assert welcome.settings["overridden"] is True and welcome.epoch == epoch
    with pytest.raises(access.Conflict, match="not in control"):
        command(lab, "supervisor", "drive", axes={"x": 0, "y": 0})
    command(lab, "manager", "hand_back")
    station.refresh_from_db()
    assert not station.taken_over and live.get().run == improve_run


def test_each_command_names_the_newest_epoch_and_who_gave_it(lab, improve_run, monkeypatch):
    told = []
    monkeypatch.setattr(control, "tell_station_on_commit", lambda group, *messages: told.extend(messages))
    lab.connect()
    command(lab, "manager", "speed", value=4)
    first = command(lab, "supervisor", "override")["epoch"]
    second = command(lab, "supervisor", "override")["epoch"]
    command(lab, "supervisor", "hand_back")
    said = [(message.name, message.epoch, message.by) for message in told]
    assert said == [
        ("speed", first - 1, "east-manager"),
        ("override", first, "east-supervisor"),
        ("override", second, "east-supervisor"),
        ("hand_back", second, "east-supervisor"),
    ]
    assert second == first + 1


def test_two_people_fight_for_one_station_and_exactly_one_gets_it(lab, improve_run):
    lab.connect()
    for fight in range(15):
        start, outcome = threading.Barrier(2), {}

        def take(role, start=start, outcome=outcome):
            start.wait()
            try:
                outcome[role] = command(lab, role, "override")["epoch"]
            except access.Conflict as refused:
                outcome[role] = str(refused)
            finally:
                connection.close()

        people = [threading.Thread(target=take, args=(role,)) for role in ("supervisor", "manager")]
        [person.start() for person in people]
        [person.join(60) for person in people]
        (winner,) = [role for role, got in outcome.items() if isinstance(got, int)]
        (loser,) = set(outcome) - {winner}
        assert f"east-{winner} is in control" in outcome[loser], fight
        lease = Lease.objects.get(station=lab.stations[0], released_at=None)
        assert lease.user == lab.users[winner] and lease.epoch == outcome[winner]
        if fight % 2:
            command(lab, winner, "hand_back")
        else:
            Lease.objects.filter(pk=lease.pk).update(expires_at=timezone.now())


def test_a_role_that_was_taken_away_renews_nothing(lab):
    lab.connect()
    epoch = command(lab, "supervisor", "override")["epoch"]
    wish = {"user": lab.users["supervisor"], "lab_slug": "east", "station_slug": "arm-1", "epoch": epoch}
    control.renew_control(**wish)
    with pytest.raises(access.Conflict, match="not in control"):
        control.renew_control(**wish | {"epoch": epoch + 1})
    labs.add_member(lab=lab.row, person=lab.users["supervisor"], role="viewer")
    with pytest.raises(access.Denied):
        control.renew_control(**wish)


def test_a_stop_is_cleared_only_with_a_reason_that_is_kept(lab):
    lab.connect()
    command(lab, "supervisor", "stop")
    for reason in ({}, {"reason": "  "}, {"reason": "x" * 301}, {"reason": 7}):
        with pytest.raises(access.Invalid, match="why the stop may be cleared, in 1 to 300"):
            command(lab, "supervisor", "clear_stop", **reason)
    lab.stations[0].refresh_from_db()
    assert lab.stations[0].stop_latched
    command(lab, "supervisor", "clear_stop", reason=" the hand is out of the workspace ")
    assert Intervention.objects.get(kind="clear_stop").reason == "the hand is out of the workspace"


def test_stop_all_latches_every_station_of_the_lab_and_no_other(lab, other_lab):
    lab.connect(lab.stations[0])
    command(lab, "supervisor", "override")
    answer = stops.stop_stations(user=lab.users["manager"], lab_slug="east")
    assert (answer["stopped"], answer["recorded"]) == (0, True)
    said = [(row["station"], row["name"], row["outcome"]) for row in answer["stations"]]
    assert said == [("arm-1", "Arm 1", "unreachable"), ("arm-2", "Arm 2", "unreachable")], "no socket is here"
    for station in Station.objects.all():
        assert station.stop_latched is (station.lab == lab.row)
        assert not station.taken_over
    assert Intervention.objects.filter(kind="stop").count() == 2
    assert not Lease.objects.filter(released_at=None, user__isnull=False).exists()


def test_a_station_that_was_only_thought_to_be_gone_is_here_again(lab):
    lab.connect()
    reports.disconnect_station(station=lab.stations[0], reason="not heard of for a while")
    reports.record_telemetry(station=lab.stations[0], state="practising")
    lab.stations[0].refresh_from_db()
    assert lab.stations[0].connected and lab.stations[0].state == "practising"


def test_a_reset_counts_from_when_the_station_asked(lab):
    lab.connect()
    reports.record_telemetry(station=lab.stations[0], state="needs_person", reason="the blue cube is off the table")
    command(lab, "supervisor", "reset")
    touch = Intervention.objects.get()
    assert (touch.kind, touch.reason) == ("reset", "the blue cube is off the table")
    assert touch.user == lab.users["supervisor"] and touch.seconds > 0


def test_an_offline_station_keeps_its_latches_for_its_return(lab):
    with pytest.raises(access.Conflict, match="offline"):
        command(lab, "supervisor", "reset")
    command(lab, "supervisor", "stop")
    command(lab, "supervisor", "speed", value=0)
    station = lab.stations[0]
    station.refresh_from_db()
    told = publishing.welcome_station(station=station, embodiment=station.embodiment)
    assert told[0].settings["speed"] == 0
    assert isinstance(told[0], Welcome) and told[0].settings["stop_latched"] is True


@pytest.mark.parametrize(
    "name, args",
    [
        ("fly", {}),
        ("speed", {"value": 3}),
        ("speed", {"value": True}),
        ("drive", {"axes": {"x": 2, "y": 0}}),
        ("drive", {"axes": {}}),
        ("drive", {"axes": 1}),
        ("drive", {"dx": 1, "dy": 0}),
        ("drive", {"axes": {"x": float("nan")}}),
        ("settings", {"self_reset_after_s": -1}),
        ("settings", {"colour": "red"}),
        ("pause", {"because": 1}),
        ("clear_stop", {}),
    ],
)
def test_bad_commands_are_refused_with_a_sentence(lab, name, args):
    lab.connect()
    with pytest.raises(access.Invalid) as refusal:
        command(lab, "supervisor", name, **args)
    assert len(str(refusal.value)) > 10 and not Intervention.objects.exists()


# What people say of episodes


def upload_correction(lab, station=None, **fields):
    episode = make_episode(purpose="correction", actors=np.ones(10, np.uint8), **fields)
    assert lab.upload(as_upload(episode), station).status_code == 200
    return Episode.objects.get(uuid=episode.uuid)


def test_a_label_is_recorded_and_can_be_undone(lab):
    lab.upload(as_upload(make_episode(true_success=False, detected_success=True, ending="detected_success")))
    row = Episode.objects.get()
    path = f"episodes/{row.uuid}/label"
    answer = lab.call("supervisor", "post", path, {"true_success": True, "reason": "seen by eye"}).json()
    assert (answer["true_success"], answer["previous"]) == (True, False)
    row.refresh_from_db()
    assert row.true_success is True and row.detected_success is True, "what was detected stays what it was"
    touch = Intervention.objects.get()
    assert (touch.kind, touch.user, touch.episode) == ("relabel", lab.users["supervisor"], row)
    assert touch.reason == "true success: no to yes, seen by eye"
    lab.call("supervisor", "post", path, {"true_success": True})
    assert Intervention.objects.count() == 1, "said twice is said once"
    lab.call("supervisor", "post", path, {"true_success": answer["previous"], "reason": "undone"})
    row.refresh_from_db()
    assert row.true_success is False and Intervention.objects.count() == 2
    assert lab.call("supervisor", "post", path, {"true_success": None}).json()["true_success"] is None
    for wrong in ({}, {"true_success": "maybe"}, {"true_success": True, "reason": "x" * 201}):
        assert lab.call("supervisor", "post", path, wrong).status_code == 422
    assert selectors.interventions_per_robot_hour(lab.row)[0]["touches"] == {}, "no robot was touched"


def test_a_correction_joins_the_labs_dataset_once(lab, other_lab):
    first, second = upload_correction(lab), upload_correction(lab)
    answer = lab.call("supervisor", "post", f"episodes/{first.uuid}/dataset").json()
    assert (answer["name"], answer["episodes"], answer["state"]) == ("Corrections of Lab east", 1, "ready")
    again = lab.call("supervisor", "post", f"episodes/{first.uuid}/dataset")
    assert again.status_code == 409 and "in the dataset Corrections of Lab east already" in again.json()["detail"]
    assert lab.call("researcher", "post", f"episodes/{second.uuid}/dataset").json()["id"] == answer["id"]
    dataset = Dataset.objects.get(pk=answer["id"])
    recorded = read_episodes(dataset.file)
    assert [each.uuid for each in recorded] == [str(first.uuid), str(second.uuid)]
    assert (dataset.episodes, dataset.steps, dataset.families) == (2, 20, ["block2block"])
    lab.upload(as_upload(make_episode()))
    practice = Episode.objects.get(purpose="practice")
    refused = lab.call("supervisor", "post", f"episodes/{practice.uuid}/dataset")
    assert refused.status_code == 422 and "only what a person drove" in refused.json()["detail"]


def test_a_dataset_that_a_run_has_used_is_left_as_it_was(lab):
    first, second, third = (upload_correction(lab) for _ in range(3))
    add = lambda row: lab.call("supervisor", "post", f"episodes/{row.uuid}/dataset").json()["id"]  # noqa: E731
    used = Dataset.objects.get(pk=add(first))
    before = used.file.read_bytes()
    assert lab.call("researcher", "post", "runs", {"kind": "sft", "dataset": used.pk}).status_code == 200
    following = Dataset.objects.get(pk=add(second))
    assert following.name == "Corrections of Lab east 2" and following.episodes == 2
    assert add(third) == following.pk and used.file.read_bytes() == before
    following.refresh_from_db()
    assert following.episodes == 3 and len(read_episodes(following.file)) == 3
    first.refresh_from_db()
    assert first.dataset == following


def test_a_run_learns_from_demonstrations_and_corrections_together(lab, dataset):
    add = lambda row: lab.call("supervisor", "post", f"episodes/{row.uuid}/dataset").json()["id"]  # noqa: E731
    corrections = add(upload_correction(lab))
    body = {"kind": "sft", "dataset": dataset.pk, "corrections": corrections}
    made = lab.call("researcher", "post", "runs", body).json()
    assert (made["dataset"], made["corrections"]) == (dataset.pk, corrections)
    supervisor = jobs.Supervision(learning_actions.claim_run(run_id=made["id"], worker=workers.this_worker()))
    supervisor.prepare()
    names = {f"{dataset.pk}.safetensors", f"{corrections}.safetensors"}
    assert {path.name for path in supervisor.dir.data.iterdir()} == names
    assert add(upload_correction(lab)) != corrections, "what a run has used is left as it was"
    for wrong, said in (
        ({"corrections": dataset.pk}, "is the dataset already"),
        ({"kind": "improve"}, "trains from demonstrations"),
    ):
        refused = lab.call("researcher", "post", "runs", body | wrong)
        assert refused.status_code == 422 and said in refused.json()["detail"]


def test_a_full_dataset_of_corrections_is_followed_by_another_one(lab, monkeypatch):
    first, second = upload_correction(lab), upload_correction(lab)
    add = lambda row: lab.call("supervisor", "post", f"episodes/{row.uuid}/dataset").json()  # noqa: E731
    one = add(first)
    monkeypatch.setattr("fleetui.learning.actions.LARGEST_UPLOAD", 3000)
    two = add(second)
    assert one["id"] != two["id"] and one["episodes"] == two["episodes"] == 1


# What the database itself holds


def test_a_station_has_one_live_assignment_and_one_live_lease(lab, improve_run):
    lease = Lease.objects.get(station=lab.stations[0])
    with pytest.raises(IntegrityError), transaction.atomic():
        Lease.objects.create(station=lab.stations[0], user=lab.users["manager"], epoch=lease.epoch + 1)
    with pytest.raises(access.Conflict, match="Already assigned: Arm 1"):
        assignments.assign_task(
            lab=lab.row, task=lab.task, stations=[lab.stations[0]], user=lab.users["manager"], run=improve_run
        )
    assert AssignedStation.objects.filter(live=True).count() == 2

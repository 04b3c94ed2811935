"""What one of form, API, action and station takes, the others take too: for each rule that is declared."""

import itertools
import math

import pytest

from fleetui import access
from fleetui.fleet.actions import control, labs, reports
from fleetui.fleet.forms import StationSettingsForm, TaskForm
from fleetui.fleet.models import Station, Task
from fleetui.practice.actions import assignments, publishing
from robots.protocol import Command
from robots.rules import RULES, SETTINGS, TASK_RULES, RuleError, Rules, Settings
from robots.tasks import TASKS
from tests.fleetui.lab import make_improve_run
from tests.robots.station_fakes import loaded_policy
from tests.robots.test_station import Bench

NUMBERS = [rule for rule in TASK_RULES.values() if rule.minimum is not None]
SETTINGS_OF_PERSONS = [rule for rule in SETTINGS.values() if rule.minimum is not None]
_names = itertools.count()


def around(rule):
    """[(value, whether it fits)]: just outside, on and within the bounds."""
    step = 1 if rule.type is int else 1e-6
    low, high = rule.minimum, rule.maximum
    return [(low - step, False), (low, True), (high, True), (high + step, False)]


def fits_station(told):
    try:
        Rules.from_json(told)
        Settings().update({name: value for name, value in told.items() if name in SETTINGS and value is not None})
    except RuleError:
        return False
    return True


CASES = [pytest.param(rule, *each, id=f"{rule.name}-{each[0]}") for rule in NUMBERS for each in around(rule)]


@pytest.mark.parametrize("rule, value, fits", CASES)
def test_form_api_action_and_station_agree_on_each_rule(lab, rule, value, fits):
    given = {rule.name: value} | ({"resets": "self"} if rule.name == "self_reset_after_s" else {})
    form = TaskForm({"family": "block2block", **given}, lab=lab.row)
    assert form.is_valid() == fits, form.errors
    answer = lab.call("manager", "post", "tasks", {"family": "block2block", "name": f"T{next(_names)}", **given})
    assert (answer.status_code == 200) == fits, answer.content
    try:
        task = labs.create_task(lab=lab.row, user=access.SERVER, family="block2block", name=f"T{next(_names)}", **given)
        assert fits and getattr(task, rule.name) == value
        assert fits_station(task.order_json())
    except access.Invalid as refusal:
        assert not fits and list(refusal.problems) == [rule.name]
        assert list(answer.json()["problems"]) == [rule.name] and answer.json()["detail"] == str(refusal)
        assert form.errors[rule.name] == [f"“{rule.label}” must be {rule.wanted}."]
    assert rule.name not in {**RULES, **SETTINGS} or fits_station(given) == fits
    edited = lab.call("manager", "patch", f"tasks/{lab.task.slug}", given)
    assert (edited.status_code == 200) == fits


@pytest.mark.parametrize("value, fits", [("", True), ("yes", True), ("no", True), ("perhaps", False), (True, False)])
def test_form_api_action_and_station_agree_on_whether_pictures_are_kept(lab, value, fits):
    station = lab.stations[0]
    form = StationSettingsForm({"shuffle_every_s": 60, "record_frames": value}, station=station)
    assert form.is_valid() == fits, form.errors
    body = {"name": "settings", "args": {"record_frames": value}}
    assert (lab.call("supervisor", "post", "stations/arm-1/command", body).status_code == 200) == fits
    station.refresh_from_db()
    assert station.record_frames == (value if fits else "") == station.settings_json()["record_frames"]
    assert lab.call("viewer", "get", "stations/arm-1").json()["record_frames"] == station.record_frames
    assert Bench().command("settings", record_frames=value)["ok"] == fits


SETTINGS_CASES = [(rule, *each) for rule in SETTINGS_OF_PERSONS for each in around(rule)]


@pytest.mark.parametrize("rule, value, fits", SETTINGS_CASES)
def test_form_api_action_and_station_agree_on_each_setting(lab, rule, value, fits):
    station = lab.stations[0]
    form = StationSettingsForm({"shuffle_every_s": 60, rule.name: value}, station=station)
    assert form.is_valid() == fits, form.errors
    body = {"name": "settings", "args": {rule.name: value}}
    assert (lab.call("supervisor", "post", "stations/arm-1/command", body).status_code == 200) == fits
    assert getattr(Station.objects.get(pk=station.pk), rule.name) == (value if fits else getattr(station, rule.name))
    assert fits_station({rule.name: value}) == fits
    answer = Bench().command("settings", **{rule.name: value})
    assert answer["ok"] == fits
    if rule.name == "self_reset_after_s":
        make = {"lab": lab.row, "user": access.SERVER, "name": "Arm 9", "self_reset_after_s": value}
        if fits:
            assert labs.create_station(**make)[0].self_reset_after_s == value
        else:
            with pytest.raises(access.Invalid):
                labs.create_station(**make)


@pytest.mark.parametrize("value", [True, "12", 1.5, [1]])
def test_what_is_no_whole_number_is_refused_by_the_api_by_name(lab, value):
    answer = lab.call("manager", "patch", f"tasks/{lab.task.slug}", {"stall_steps": value})
    assert answer.status_code == 422 and list(answer.json()["problems"]) == ["stall_steps"]
    assert "Stalled after" in answer.json()["detail"]


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**30])
def test_what_is_no_number_of_json_is_refused_by_the_api_and_by_the_rule(lab, value):
    answer = lab.call("manager", "patch", f"tasks/{lab.task.slug}", {"stall_steps": value})
    assert answer.status_code == 400 and "can't be used" in answer.json()["detail"]
    with pytest.raises(access.Invalid, match="Stalled after") as refusal:
        labs.edit_task(task=lab.task, user=lab.users["manager"], stall_steps=value)
    assert list(refusal.value.problems) == ["stall_steps"]
    assert Task.objects.get().stall_steps == lab.task.stall_steps


def test_every_rule_is_a_column_a_field_and_part_of_the_schema(lab):
    columns = {field.name for field in Task._meta.get_fields()}
    schema = lab.as_("viewer").get("/api/openapi.json").json()["components"]["schemas"]
    for name, rule in TASK_RULES.items():
        assert name in columns and name in TaskForm(lab=lab.row).fields
        assert TaskForm(lab=lab.row).fields[name].label == rule.label
        for body in ("TaskBody", "TaskChanges"):
            assert schema[body]["properties"][name] == rule.json_schema()
    assert set(lab.task.order_json()) == {"name", *RULES}


def test_every_familys_own_time_limit_is_one_that_a_task_may_have():
    for family in TASKS.values():
        assert RULES["time_limit_steps"].check(family.time_limit_steps)


def test_an_edit_changes_what_it_names_and_nothing_else(lab):
    task = labs.create_task(
        lab=lab.row,
        user=access.SERVER,
        family="block2block",
        name="Mine",
        resets="self",
        self_reset_after_s=3,
        stall_steps=7,
    )
    labs.edit_task(task=task, user=lab.users["manager"], regression=4.0)
    assert (task.name, task.resets, task.self_reset_after_s, task.stall_steps, task.regression) == (
        ("Mine", "self", 3.0, 7, 4.0)
    )
    labs.edit_task(task=task, user=lab.users["manager"], resets="person")
    assert (task.resets, task.self_reset_after_s, task.regression) == ("person", None, 4.0)


def test_a_reset_before_each_attempt_is_said_on_the_page_and_told_to_stations(lab):
    answer = lab.call("manager", "patch", f"tasks/{lab.task.slug}", {"reset_each_attempt": True})
    assert answer.json()["reset_each_attempt"] is True
    lab.task.refresh_from_db()
    assert lab.task.order_json()["reset_each_attempt"] is True
    assert "before each attempt" in lab.as_("viewer").get(f"/labs/{lab.slug}/tasks/").content.decode()
    point = labs.create_task(lab=lab.row, user=access.SERVER, family="point_mass")
    assert point.always_resets and not point.reset_each_attempt, "its world can't do without"


# What the server orders by itself reaches a station that a person holds


@pytest.fixture
def heard(lab, monkeypatch):
    """(the station as the robot runs it, what else it was told): all that the server says goes straight to it."""
    bench, told = Bench(), []

    def tell(group, *messages):
        for message in messages:
            told.append(message)
            if message.TYPE in ("assignment", "command", "hold", "lapse", "welcome"):
                bench.station.receive(message)

    for module in (publishing, control):
        monkeypatch.setattr(module, "tell_station_on_commit", tell)
    lab.connect()
    return bench, told


def refusals(bench):
    return [message["error"] for message in bench.sent_of("command_done") if not message["ok"]]


def command(lab, role, name, **args):
    return control.command_station(user=lab.users[role], lab_slug=lab.slug, station_slug="arm-1", name=name, args=args)


def edit_task(lab, **rules):
    assert lab.call("manager", "patch", f"tasks/{lab.task.slug}", rules).status_code == 200


def practise(lab, sft_run, bench):
    lab.stations = lab.stations[:1]
    run = make_improve_run(lab, sft_run)
    bench.station.offer_policy(loaded_policy())
    bench.tick()
    assert bench.state == "practising"
    return run.assignments.get()


def test_a_task_that_is_edited_while_a_person_holds_the_station_holds_when_it_is_handed_back(lab, sft_run, heard):
    bench, _ = heard
    practise(lab, sft_run, bench)
    command(lab, "supervisor", "override")
    edit_task(lab, resets="self", self_reset_after_s=2.0, shuffle_every_s=60.0, stall_steps=9)
    command(lab, "supervisor", "hand_back")
    bench.tick()
    assert not refusals(bench)
    assert (bench.station.settings.self_reset_after_s, bench.station.settings.shuffle_every_s) == (2.0, 60.0)
    assert bench.station.recording.rules.stall_steps == 9


def test_a_task_that_is_edited_while_the_link_is_down_holds_when_it_is_back(lab, sft_run, heard):
    bench, _ = heard
    practise(lab, sft_run, bench)
    command(lab, "supervisor", "override")
    station = lab.stations[0]
    reports.disconnect_station(station=station)
    bench.station.receive, receive = (lambda message: None), bench.station.receive
    edit_task(lab, resets="person", shuffle_every_s=61.0)
    bench.station.receive = receive
    for message in publishing.welcome_station(station=station, embodiment=station.embodiment):
        bench.station.receive(message)
    command(lab, "supervisor", "hand_back")
    assert not refusals(bench) and bench.station.settings.shuffle_every_s == 61.0


def test_nothing_that_the_server_orders_by_itself_is_a_command(lab, sft_run, heard):
    """A command carries a person's name and epoch; whatever has neither can be refused while somebody is in control."""
    bench, told = heard
    row = practise(lab, sft_run, bench)
    command(lab, "supervisor", "override")
    edit_task(lab, shuffle_every_s=62.0)
    assignments.cancel_assignment(assignment=row, user=lab.users["manager"], force=True)
    commands = [message for message in told if isinstance(message, Command)]
    assert all(message.epoch >= 1 and message.by for message in commands)
    assert {message.name for message in commands} == {"override"} and not refusals(bench)
    assert bench.state == "overridden", "a person's correction is not cut"
    command(lab, "supervisor", "hand_back")
    assert bench.state == "idle" and bench.station.settings.shuffle_every_s == 300.0


def test_what_a_person_sets_on_a_station_does_not_undo_what_its_task_says(lab, sft_run, heard):
    bench, _ = heard
    practise(lab, sft_run, bench)
    edit_task(lab, shuffle_every_s=60.0)
    command(lab, "supervisor", "settings", shuffle_every_s=120.0, self_reset_after_s=5.0)
    assert bench.station.settings == Settings(5.0, 60.0, speed=1)
    assert Station.objects.get(pk=lab.stations[0].pk).shuffle_every_s == 120.0


@pytest.mark.parametrize("seconds, kept", [(2, 2.0), (3 * 86_400, 86_400.0), (10**400, 86_400.0)])
def test_a_self_reset_after_any_wait_is_recorded(lab, seconds, kept):
    """A station that was paused while it waited resets itself days later: its link must not be closed for that."""
    reports.record_touch(station=lab.stations[0], kind="self_reset", reason="off the table", seconds=seconds)
    assert lab.row.interventions.get().seconds == kept

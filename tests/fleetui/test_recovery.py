"""After Stop all: clear all with one reason and resume all, each station by itself and by name."""

import pytest

from fleetui.fleet.actions import maintenance
from fleetui.fleet.models import Act, Intervention, Station
from tests.fleetui.lab import ROLES

SLUGS = ["arm-1", "arm-2"]


def clear(lab, stations=SLUGS, role="supervisor", reason="the floor is clear"):
    return lab.call(role, "post", "clear_stops", {"stations": stations, "reason": reason})


def resume(lab, stations=SLUGS, role="supervisor"):
    return lab.call(role, "post", "resume", {"stations": stations})


def rows(lab):
    return {station.slug: station for station in Station.objects.filter(lab=lab.row)}


def test_two_acts_bring_all_back_and_each_is_in_the_audit_log(lab):
    lab.connect()
    lab.call("supervisor", "post", "stop")
    answer = clear(lab)
    assert answer.status_code == 200 and answer.json() == {"done": SLUGS, "refused": {}}
    assert all(not row.stop_latched and row.paused for row in rows(lab).values())
    assert resume(lab).json() == {"done": SLUGS, "refused": {}}
    assert not any(row.paused for row in rows(lab).values())
    for kind, reason in (("clear_stop", "the floor is clear"), ("resume", "")):
        acts = Act.objects.filter(lab=lab.row, kind=kind, user=lab.users["supervisor"], source="API")
        assert sorted(acts.values_list("station_name", "reason")) == [("Arm 1", reason), ("Arm 2", reason)]
    assert Intervention.objects.filter(kind="clear_stop", user=lab.users["supervisor"]).count() == 2


def test_a_station_that_a_person_holds_is_refused_by_name_and_the_others_go_on(lab):
    lab.connect()
    for slug in SLUGS:
        lab.call("supervisor", "post", f"stations/{slug}/command", {"name": "pause"})
    lab.call("manager", "post", "stations/arm-1/command", {"name": "override"})
    answer = resume(lab).json()
    assert answer["done"] == ["arm-2"]
    assert answer["refused"]["arm-1"] == "east-manager is in control of Arm 1; ask for a hand-back first."
    assert not rows(lab)["arm-2"].paused


def test_what_needs_no_clearing_or_must_not_move_is_said(lab):
    lab.connect()
    lab.call("supervisor", "post", "stations/arm-1/command", {"name": "stop"})
    answer = clear(lab, ["arm-1", "arm-2", "arm-9", "arm-1"]).json()
    assert answer == {
        "done": ["arm-1"],
        "refused": {"arm-2": "Arm 2 is not stopped.", "arm-9": "Lab east has no station 'arm-9'."},
    }
    lab.call("supervisor", "post", "stations/arm-2/command", {"name": "stop"})
    station = rows(lab)["arm-1"]
    maintenance.begin_maintenance(station=station, user=lab.users["manager"], reason="a new gripper")
    answer = resume(lab).json()
    assert answer["done"] == []
    assert "in maintenance (a new gripper)" in answer["refused"]["arm-1"]
    assert answer["refused"]["arm-2"] == "Arm 2 is stopped; clear its stop first."
    assert rows(lab)["arm-1"].paused and rows(lab)["arm-2"].stop_latched


def test_a_reason_and_a_station_are_needed(lab):
    lab.call("supervisor", "post", "stop")
    assert clear(lab, reason="  ").status_code == 422
    assert clear(lab, reason="x" * 301).status_code == 422
    assert clear(lab, stations=[]).status_code == resume(lab, stations=[]).status_code == 422
    assert all(row.stop_latched for row in rows(lab).values())


@pytest.mark.parametrize("act", [clear, resume])
def test_only_those_who_may_command_bring_stations_back(lab, other_lab, act):
    lab.call("supervisor", "post", "stop")
    for role in ROLES:
        assert (act(lab, role=role).status_code == 200) == (role in ("supervisor", "manager"))
    assert other_lab.call("manager", "post", "clear_stops", {"stations": ["arm-1"], "reason": "x"}).status_code == 200
    answer = other_lab.as_("manager").post(
        f"/api/labs/{lab.slug}/resume", '{"stations": ["arm-1"]}', content_type="application/json"
    )
    assert answer.status_code == 404


def test_stations_are_told_once_all_is_written(lab, monkeypatch):
    told = []
    monkeypatch.setattr(
        "fleetui.fleet.actions.control.tell_station_on_commit", lambda group, message: told.append(message.name)
    )
    lab.call("supervisor", "post", "stop")
    clear(lab)
    resume(lab)
    assert told.count("clear_stop") == told.count("resume") == 2

"""What the server keeps of how a station is driven, and whom it lets choose the station's own device."""

import pytest

from fleetui.fleet import selectors
from fleetui.fleet.models import Act, Station
from fleetui.practice.actions import publishing
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.fleetui.lab import Lab

pytestmark = pytest.mark.django_db


@pytest.fixture
def lab():
    return Lab("east")


def connect(station, **said):
    publishing.welcome_station(station=station, embodiment=LANGUAGE_TABLE.to_json(), renderer="drawn", **said)


def command(lab, role, name, **args):
    return lab.call(role, "post", "stations/arm-1/command", {"name": name, "args": args})


def test_the_card_says_the_axes_and_the_device(lab):
    station, other = lab.stations
    assert selectors.station_card(station)["teleoperator"] == ""
    connect(station, teleoperator="l" * 99)
    station.refresh_from_db()
    assert station.teleoperator == "l" * 60
    card = lab.call("viewer", "get", "stations/arm-1").json()
    assert (card["drive"], card["teleoperator"], card["device"]) == (["x", "y"], "l" * 60, False)
    connect(station)
    assert Station.objects.get(pk=station.pk).teleoperator == "", "it was unplugged"
    Station.objects.filter(pk=other.pk).update(embodiment={})
    assert lab.call("viewer", "get", "stations/arm-2").json()["drive"] == [], "it has not said yet what it is"


def test_the_page_holds_the_axes_as_data(lab):
    connect(lab.stations[0], teleoperator="</script><b>leader")
    page = lab.as_("supervisor").get("/labs/east/stations/arm-1").content.decode()
    assert '"drive": ["x", "y"]' in page
    assert "<b>leader" not in page
    assert 'id="drive"' in page
    assert 'id="drive"' not in lab.as_("viewer").get("/labs/east/stations/arm-1").content.decode()


def test_only_the_person_in_control_chooses_the_device_and_only_where_there_is_one(lab):
    connect(lab.stations[0])
    refused = command(lab, "supervisor", "teleoperate", on=True)
    assert refused.status_code == 409 and "You are not in control" in refused.json()["detail"]
    assert command(lab, "supervisor", "override").status_code == 200
    refused = command(lab, "supervisor", "teleoperate", on=True)
    assert refused.status_code == 409 and "no device of its own" in refused.json()["detail"]
    Station.objects.filter(pk=lab.stations[0].pk).update(teleoperator="leader arm")
    for role, status, words in (("viewer", 403, "viewer"), ("manager", 409, "east-supervisor is in control")):
        refused = command(lab, role, "teleoperate", on=True)
        assert refused.status_code == status and words in refused.json()["detail"]
    assert not Act.objects.filter(kind="teleoperate").exists()
    given = command(lab, "supervisor", "teleoperate", on=True)
    assert given.status_code == 200 and given.json()["epoch"] == lab.stations[0].leases.order_by("-epoch")[0].epoch
    act = Act.objects.get(kind="teleoperate")
    assert (act.user, act.details) == (lab.users["supervisor"], {"on": True})


@pytest.mark.parametrize("args", [{}, {"on": 1}, {"on": "yes"}, {"on": True, "by": "me"}])
def test_what_it_may_not_say(lab, args):
    connect(lab.stations[0], teleoperator="leader arm")
    command(lab, "supervisor", "override")
    assert command(lab, "supervisor", "teleoperate", **args).status_code == 422
    assert not Act.objects.filter(kind="teleoperate").exists()


def test_a_drive_names_numbers_for_its_axes(lab):
    connect(lab.stations[0])
    command(lab, "supervisor", "override")
    several = {"x": 1, "z": -0.5, "gripper": 0, "elbow.pos": 1}
    assert command(lab, "supervisor", "drive", axes=several).status_code == 200
    for axes in ({}, {"x": 1.1}, {"x": True}, {"x": None}, [1, 0], {str(n): 0 for n in range(1001)}):
        refused = command(lab, "supervisor", "drive", axes=axes)
        assert refused.status_code == 422 and "numbers from -1 to 1" in refused.json()["detail"]

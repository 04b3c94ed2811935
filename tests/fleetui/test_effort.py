"""Effort: what is counted as a touch, whose seconds, and how many stations follow from it."""

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from fleetui.fleet.actions import attention, control
from fleetui.fleet.effort import Plan, effort_of, plans_of
from fleetui.fleet.models import Episode, HelpRequest, Intervention
from fleetui.practice.actions import episodes
from robots.attention import HUMAN_S, need_of
from tests.fleetui.lab import as_upload, make_episode

HOUR = timedelta(hours=1)


def practise(lab, hours, station=0):
    """So many robot-hours of practice at one station, as one row."""
    episodes.store_episodes(station=lab.stations[station], body=as_upload(make_episode()))
    Episode.objects.filter(station=lab.stations[station]).update(duration_s=hours * 3600)


def touch(lab, kind, role="supervisor", station=0, **fields):
    return Intervention.objects.create(
        lab=lab.row, station=lab.stations[station], user=lab.users[role] if role else None, kind=kind, **fields
    )


def test_touches_are_acts_of_people_and_their_seconds_are_measured_where_somebody_took_the_request(lab):
    practise(lab, 2)
    touch(lab, "reset", human_s=4.0)
    touch(lab, "reset")
    touch(lab, "override", role="manager", seconds=30.0)
    touch(lab, "self_reset", role=None)
    found = effort_of(lab.row, timezone.now() - HOUR)
    whole = found["all"]
    assert (whole.touches, whole.timed, whole.human_s) == (3, 2, 4.0 + HUMAN_S["reset"] + 30.0)
    assert whole.touches_per_robot_hour == pytest.approx(1.5) and whole.seconds_a_touch == pytest.approx(14.0)
    assert [(each.title, each.touches) for each in found["operators"]] == [("east-supervisor", 2), ("east-manager", 1)]
    assert whole.robots_per_person == 0.5


def test_whoever_took_the_request_is_timed_from_then(lab):
    lab.connect()
    need = need_of(state="needs_person", reason="the blue cube is off the table", state_for_s=1.0)
    request = attention.note_need(station=lab.stations[0], need=need)
    attention.take_help(request=request, user=lab.users["supervisor"])
    HelpRequest.objects.filter(pk=request.pk).update(taken_at=timezone.now() - timedelta(seconds=6))
    control.command_station(
        user=lab.users["supervisor"], lab_slug=lab.slug, station_slug=lab.stations[0].slug, name="reset"
    )
    attention.note_need(station=lab.stations[0], need=None)
    assert Intervention.objects.get(kind="reset").human_s == pytest.approx(6.0, abs=1.0)
    whole = effort_of(lab.row, timezone.now() - HOUR)["all"]
    assert whole.timed == 1 and whole.saved_per_human_second == pytest.approx(600 / whole.human_s)


def test_shifts_are_apart_and_another_labs_touches_are_not_ours(lab, other_lab):
    touch(lab, "reset", started_at=datetime(2026, 11, 2, 7, 59, tzinfo=UTC))
    touch(lab, "reset", started_at=datetime(2026, 11, 2, 8, 1, tzinfo=UTC))
    touch(other_lab, "reset", started_at=datetime(2026, 11, 2, 8, 1, tzinfo=UTC))
    found = effort_of(lab.row, datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 3, tzinfo=UTC))
    assert [(each.title, each.touches) for each in found["shifts"]] == [
        ("Mon 02 Nov 08:00 to 16:00 UTC", 1),
        ("Mon 02 Nov 00:00 to 08:00 UTC", 1),
    ]


def test_the_planner_says_how_many_stations_one_person_holds(lab):
    assert Plan(0.5, 2.0, 8.0).stations == 112  # 2 * 8 s of an hour are 0.44 % of a person's time
    assert Plan(0.5, 0.0, 8.0).stations is None
    assert plans_of(effort_of(lab.row, timezone.now() - HOUR)["all"]) == [], "nothing to plan from yet"


def test_the_page_in_each_of_its_shapes(lab):
    page = f"/labs/{lab.slug}/effort/"
    assert "Nothing was recorded" in lab.as_("viewer").get(page).content.decode()
    practise(lab, 1), touch(lab, "reset"), touch(lab, "reset")
    shown = lab.as_("viewer").get(page, {"touches": "2", "seconds": "8", "busy": "50"}).content.decode()
    assert "112 stations" in shown and "2.00" in shown and "157" in shown
    assert "112 stations" not in lab.as_("viewer").get(page, {"touches": "x"}).content.decode()
    assert "fewer-touches" not in shown, "two are what one person can hold"
    touch(lab, "reset")
    assert 'id="fewer-touches"' in lab.as_("viewer").get(page).content.decode()

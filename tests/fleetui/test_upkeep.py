"""A station's upkeep: its token, maintenance, health, and the record of what its hours were used for."""

import re
import time
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone

from fleetui import access
from fleetui.fleet import selectors
from fleetui.fleet.actions import labs, reports
from fleetui.fleet.actions import spans as spans_actions
from fleetui.fleet.actions.spans import note_state
from fleetui.fleet.models import Act, AssignedStation, Episode, Station, StationSpan
from fleetui.fleet.views.stations import start_command
from fleetui.practice import selectors as practice
from fleetui.practice.actions import publishing
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.fleetui.lab import as_upload, make_episode


def post(lab, role, path, **data):
    return lab.as_(role).post(f"/labs/{lab.slug}/stations/{path}", data)


def page(lab, role="manager", path="arm-1", **query):
    """As a reader has it: where a line breaks in the source does not matter."""
    return " ".join(lab.as_(role).get(f"/labs/{lab.slug}/stations/{path}", query).content.decode().split())


def fresh(station):
    return Station.objects.select_related("lab").get(pk=station.pk)


def shown_token(answer):
    return re.search(r'id="token">([^<]+)<', answer.content.decode()).group(1)


# Tokens


def test_a_renewed_token_leaves_the_old_one_working_until_the_new_one_connects(lab):
    old = lab.tokens["arm-1"]
    answer = post(lab, "manager", "arm-1/token/renew")
    new = shown_token(lab.as_("manager").get(answer.url))
    assert "until the station has connected with the new one" in page(lab, path="arm-1/token") and new != old
    assert (
        access.get_station_by_token(Station, old).token_is_old
        and not access.get_station_by_token(Station, new).token_is_old
    )
    lab.tokens["arm-1"] = old
    assert lab.upload(as_upload(make_episode())).status_code == 200
    embodiment = lab.stations[0].embodiment
    publishing.welcome_station(station=access.get_station_by_token(Station, old), embodiment=embodiment)
    assert access.get_station_by_token(Station, old) is not None  # a reconnection of the old one ends nothing
    publishing.welcome_station(station=access.get_station_by_token(Station, new), embodiment=embodiment)
    assert access.get_station_by_token(Station, old) is None
    assert lab.upload(as_upload(make_episode())).status_code == 401
    assert new not in page(lab) and new[:6] in page(lab)


def test_the_old_token_dies_after_ten_minutes_or_at_once_where_that_was_asked(lab):
    old = lab.tokens["arm-1"]
    post(lab, "manager", "arm-1/token/renew")
    until = fresh(lab.stations[0]).old_token_until
    assert until - timezone.now() == pytest.approx(timedelta(minutes=10), abs=timedelta(seconds=10))
    Station.objects.update(old_token_until=timezone.now() - timedelta(seconds=1))
    assert access.get_station_by_token(Station, old) is None
    second = shown_token(lab.as_("manager").get(post(lab, "manager", "arm-1/token/renew").url))
    assert access.get_station_by_token(Station, second) is not None
    post(lab, "manager", "arm-1/token/renew", at_once="on")
    assert access.get_station_by_token(Station, second) is None and "is invalid" in page(lab, path="arm-1/token")
    assert [row.details["minutes_the_old_works"] for row in Act.objects.filter(kind="token_renewed")] == [0, 10, 10]


def test_a_reload_shows_the_token_again_until_the_station_connects_or_done(lab):
    new = shown_token(lab.as_("manager").get(post(lab, "manager", "arm-1/token/renew", at_once="on").url))
    for _ in range(2):
        assert new in page(lab, path="arm-1/token")
    publishing.welcome_station(station=access.get_station_by_token(Station, new), embodiment=LANGUAGE_TABLE.to_json())
    assert new not in page(lab, path="arm-1/token") and "Make a new token" in page(lab, path="arm-1/token")
    assert access.get_station_by_token(Station, new) is not None

    newer = shown_token(lab.as_("manager").get(post(lab, "manager", "arm-1/token/renew").url))
    publishing.welcome_station(station=access.get_station_by_token(Station, new), embodiment=LANGUAGE_TABLE.to_json())
    assert newer in page(lab, path="arm-1/token")  # the old one came back, which says nothing of the new one
    assert post(lab, "manager", "arm-1/token/noted").url == "/labs/east/stations/arm-1"
    assert newer not in page(lab, path="arm-1/token")
    assert access.get_station_by_token(Station, newer) is not None  # seen, not renewed


def test_only_the_browser_of_whoever_made_a_token_shows_it_and_for_ten_minutes(lab, monkeypatch):
    answer = post(lab, "manager", "arm-1/token/renew", at_once="on")
    new, cookie = shown_token(lab.as_("manager").get(answer.url)), answer.cookies["station_token"]
    assert cookie["httponly"] and cookie["samesite"] == "Strict" and cookie["path"] == "/labs/east/stations/arm-1/token"
    value = cookie.value
    assert new not in answer.url
    other = Client()
    labs.add_member(lab=lab.row, person=lab.users["supervisor"], role="manager")
    other.force_login(lab.users["supervisor"])
    assert new not in other.get(answer.url).content.decode()
    other.cookies["station_token"] = value  # even with what another browser kept
    assert new not in other.get(answer.url).content.decode()
    lab.as_("manager").cookies["station_token"] = value.replace(new[:9], "forgeries")
    assert new not in page(lab, path="arm-1/token")
    lab.as_("manager").cookies["station_token"] = value
    assert new in page(lab, path="arm-1/token")
    later = time.time() + 601
    monkeypatch.setattr("django.core.signing.time.time", lambda: later)
    answer = page(lab, path="arm-1/token")
    assert new not in answer and "The token is not shown any more" in answer


def test_only_a_manager_renews_a_token(lab):
    for role in ("viewer", "supervisor", "researcher"):
        assert post(lab, role, "arm-1/token/renew").status_code == 403
        assert "Renew the token" not in page(lab, role)
        assert lab.as_(role).get("/labs/east/stations/arm-1/token").status_code == 403
    assert access.get_station_by_token(Station, lab.tokens["arm-1"]) is not None


# Maintenance


def test_maintenance_pauses_and_says_why_and_ends_by_an_act(lab):
    lab.connect()
    assert post(lab, "supervisor", "arm-1/maintenance", reason="new gripper").status_code == 302
    station = fresh(lab.stations[0])
    assert station.paused and station.maintenance and station.maintenance_reason == "new gripper"
    assert "In maintenance: new gripper" in page(lab, "viewer") and "End maintenance" not in page(lab, "viewer")
    card = selectors.station_card(station)
    assert (card["state"], card["attention"], card["maintenance"]) == ("maintenance", False, "new gripper")
    assert "Maintenance" in lab.as_("viewer").get("/labs/east/").content.decode()
    answer = lab.call("supervisor", "post", "stations/arm-1/command", {"name": "resume"})
    assert answer.status_code == 409 and "in maintenance (new gripper)" in answer.json()["detail"]
    assert fresh(station).paused
    assert post(lab, "supervisor", "arm-1/maintenance/end").status_code == 302
    station = fresh(station)
    assert not station.maintenance and station.paused and not station.maintenance_reason
    assert lab.call("supervisor", "post", "stations/arm-1/command", {"name": "resume"}).status_code == 200
    kinds = list(Act.objects.filter(station=station, user=lab.users["supervisor"]).values_list("kind", flat=True))
    assert kinds == ["resume", "maintenance_off", "maintenance_on", "pause"]


def test_maintenance_takes_a_reason_and_is_not_begun_twice(lab):
    answer = post(lab, "manager", "arm-1/maintenance", reason="  ")
    assert answer.status_code == 422 and "Say why" in answer.content.decode()
    post(lab, "manager", "arm-1/maintenance", reason="a")
    for data, said in (({"reason": "b"}, "in maintenance already"),):
        answer = lab.as_("manager").post("/labs/east/stations/arm-1/maintenance", data, follow=True)
        assert said in answer.content.decode()
    post(lab, "manager", "arm-1/maintenance/end")
    answer = lab.as_("manager").post("/labs/east/stations/arm-1/maintenance/end", follow=True)
    assert "not in maintenance any more" in answer.content.decode()
    for role in ("viewer", "researcher"):
        assert post(lab, role, "arm-1/maintenance", reason="c").status_code == 403


def test_a_station_in_maintenance_wants_nobody_but_is_never_shown_as_still_while_it_moves(lab):
    lab.connect()
    station = lab.stations[0]
    post(lab, "manager", "arm-1/maintenance", reason="a")
    for state, shown in (("needs_person", "maintenance"), ("overridden", "overridden"), ("stopped", "stopped")):
        reports.record_telemetry(station=station, state=state)
        card = selectors.station_card(fresh(station))
        assert (card["state"], card["severity"]) == (shown, 0)


def test_a_station_in_maintenance_is_offered_no_task_and_its_run_goes_on_without_it(lab, improve_run):
    lab.connect()
    first = fresh(lab.stations[0])
    assert publishing.list_orders(station=first)[0].run == improve_run.pk
    post(lab, "manager", "arm-1/maintenance", reason="a")
    first = fresh(first)
    assert [order.run for order in publishing.list_orders(station=first)] == [None]
    assert AssignedStation.objects.filter(station=first, live=True).exists()  # its place waits for it
    from tests.fleetui.lab import add_checkpoint

    policy = add_checkpoint(improve_run, "policy", published_at=timezone.now())
    assert [row.slug for row in practice.stations_behind(improve_run)] == ["arm-2"]
    publishing.record_policy_loaded(station=lab.stations[1], checkpoint_uuid=str(policy.uuid))
    policy.refresh_from_db()
    assert policy.loaded_everywhere_at is not None
    post(lab, "manager", "arm-1/maintenance/end")
    assert publishing.list_orders(station=fresh(first))[0].run == improve_run.pk


def test_a_station_in_maintenance_is_assigned_to_nothing(lab):
    post(lab, "manager", "arm-1/maintenance", reason="a")
    assert [row.slug for row in practice.free_stations(lab.row)] == ["arm-2"]
    answer = lab.call("manager", "post", "assignments", {"task": "block2block", "stations": ["arm-1"]})
    assert answer.status_code == 422 and "in maintenance" in answer.json()["detail"]


# What its hours were used for


def spans(station):
    return list(StationSpan.objects.filter(station=station).order_by("id").values_list("state", flat=True))


def test_each_change_of_state_is_a_span_and_a_repetition_is_none(lab):
    station = lab.stations[0]
    lab.connect(station)
    for state in ("idle", "practising", "practising", "needs_person", "practising"):
        reports.record_telemetry(station=station, state=state)
    reports.disconnect_station(station=station)
    reports.disconnect_station(station=station)
    assert spans(station) == ["idle", "practising", "needs_person", "practising", "offline"]
    assert StationSpan.objects.filter(station=station, ended_at=None).count() == 1
    ended = StationSpan.objects.filter(station=station).exclude(ended_at=None)
    begun = StationSpan.objects.filter(station=station).order_by("id")[1:]
    assert [row.ended_at for row in ended.order_by("id")] == [row.started_at for row in begun]


def test_maintenance_is_a_span_of_its_own(lab):
    lab.connect()
    post(lab, "manager", "arm-1/maintenance", reason="a")
    reports.record_telemetry(station=lab.stations[0], state="paused")
    post(lab, "manager", "arm-1/maintenance/end")
    assert spans(lab.stations[0])[-3:] == ["idle", "maintenance", "paused"]


def test_the_database_holds_one_open_span_a_station_and_no_backward_one(lab):
    lab.connect()
    now = timezone.now()
    for fields in ({"started_at": now}, {"started_at": now, "ended_at": now - timedelta(seconds=1)}):
        with pytest.raises(IntegrityError), transaction.atomic():
            StationSpan.objects.create(station=lab.stations[0], state="idle", **fields)


def test_a_clock_that_was_set_back_breaks_nothing(lab):
    station = lab.stations[0]
    lab.connect(station)
    StationSpan.objects.filter(station=station).update(started_at=timezone.now() + timedelta(hours=1))
    note_state(station=station, state="practising")
    assert spans(station) == ["idle", "practising"]


def test_old_spans_go_and_open_ones_stay(lab):
    station, now = lab.stations[0], timezone.now()
    lab.connect(station)
    StationSpan.objects.filter(station=station).update(started_at=now - timedelta(days=200))
    for days in (91, 89):
        ended = now - timedelta(days=days)
        StationSpan.objects.create(station=station, state="idle", started_at=ended - timedelta(hours=1), ended_at=ended)
    assert spans_actions.drop_old_spans() == 1
    assert StationSpan.objects.filter(station=station).count() == 2


def lay(station, *parts):
    """Spans that end now: (state, hours) in their order."""
    StationSpan.objects.filter(station=station).delete()
    at = timezone.now() - timedelta(hours=sum(hours for _, hours in parts))
    for number, (state, hours) in enumerate(parts):
        end = at + timedelta(hours=hours)
        last = number == len(parts) - 1
        StationSpan.objects.create(station=station, state=state, started_at=at, ended_at=None if last else end)
        at = end


def test_hours_and_shares_are_exact_and_clipped_to_the_window(lab):
    station = lab.stations[0]
    lay(station, ("offline", 40), ("practising", 6), ("needs_person", 2), ("evaluating", 4))
    use = selectors.use_of_stations(lab.stations, hours=24)[station.pk]
    hours = {row["state"]: round(row["hours"], 2) for row in use["rows"]}
    assert hours == {"offline": 12.0, "practising": 6.0, "evaluating": 4.0, "needs_person": 2.0}
    assert sum(row["share"] for row in use["rows"]) == pytest.approx(1) and use["working"] == pytest.approx(
        10 / 24, abs=1e-3
    )
    assert [bar["state"] for bar in use["bars"]] == ["offline", "practising", "needs_person", "evaluating"]
    assert [bar["width"] for bar in use["bars"]] == pytest.approx([240, 120, 40, 80], abs=1)
    week = selectors.use_of_stations([station], hours=168)[station.pk]
    assert round(week["known_hours"]) == 52 and round(week["bars"][0]["x"] / 480 * 168) == 168 - 52


def test_a_busy_week_is_drawn_with_few_marks(lab):
    station = lab.stations[0]
    lay(station, *[(("practising", "waiting")[number % 2], 0.02) for number in range(3000)])
    use = selectors.use_of_stations([station], hours=168)[station.pk]
    assert len(use["bars"]) <= 480 and use["known_hours"] == pytest.approx(60, rel=0.01)


def test_the_chart_stands_beside_its_table_on_both_pages(lab):
    lay(lab.stations[0], ("practising", 3), ("idle", 1))
    said = page(lab, "viewer")
    assert said.count("<rect") >= 2 and "3.00" in said and "75 %" in said and "Practising 3.0 hours" in said
    assert "7 days ago" in page(lab, "viewer", use="7d")
    lab.add_station("Arm 3")
    assert "Nothing was recorded in this time" in page(lab, "viewer", "arm-3")
    assert "Practising 3.0 hours" in page(lab, "viewer", "")


# Health


def test_health_is_a_word_and_why(lab):
    station = lab.stations[0]
    assert selectors.station_health(fresh(station))["why"] == "it has never connected"
    lab.connect()
    health = selectors.station_health(fresh(station))
    assert health["word"] == "healthy"
    Station.objects.filter(pk=station.pk).update(last_seen=timezone.now() - timedelta(seconds=40))
    assert "silent for 40 s" in selectors.station_health(fresh(station))["why"]
    reports.disconnect_station(station=station, reason="the connection was lost")
    health = selectors.station_health(fresh(station))
    assert (health["word"], health["why"]) == ("offline", "the connection was lost")


def test_faults_and_reconnections_of_a_day_count(lab):
    station = lab.stations[0]
    lab.connect()
    lab.upload(as_upload(make_episode(ending="fault"), make_episode(ending="fault"), make_episode()))
    Episode.objects.filter(pk=Episode.objects.filter(ending="fault").first().pk).update(
        stored_at=timezone.now() - timedelta(hours=25)
    )
    for _ in range(5):
        reports.disconnect_station(station=station)
        lab.connect(station)
    health = selectors.station_health(fresh(station))
    assert (health["word"], health["faults"], health["reconnections"]) == ("look at it", 1, 5)
    assert health["why"] == "1 episode ended in a fault in 24 h; reconnected 5 times in 24 h"
    said = page(lab, "viewer", "")
    assert "Look at it" in said and "1 episode ended in a fault" in said
    assert selectors.station_health(fresh(lab.stations[1]))["faults"] == 0


def test_the_list_asks_as_much_for_many_stations_as_for_two(lab, django_assert_num_queries):
    with django_assert_num_queries(4):
        selectors.list_upkeep(lab.row)
    for number in range(3, 8):
        lab.add_station(f"Arm {number}")
    with django_assert_num_queries(4):
        selectors.list_upkeep(lab.row)


def test_connected_since_is_of_this_connection(lab):
    station = lab.stations[0]
    lab.connect(station)
    first = fresh(station).connected_since
    reports.disconnect_station(station=station)
    assert fresh(station).connected_since is None
    lab.connect(station)
    assert fresh(station).connected_since > first


def test_the_command_of_a_world_of_ones_own_names_the_file_that_describes_it(monkeypatch):
    """A program that is not told of the file knows no such world."""
    place = "/srv/my worlds.toml"
    monkeypatch.setenv("FLEETUI_WORLDS", place)
    station = Station(slug="reacher-1", world="reacher", simulated=True, seed=3)
    assert f"FLEETUI_WORLDS='{place}' .venv/bin/python -m training practise" in start_command(station, "t", "http://f")
    station.world = "point_mass"
    assert "FLEETUI_WORLDS" not in start_command(station, "t", "http://f")

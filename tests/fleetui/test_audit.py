"""The audit log: each act leaves a row, and the database itself refuses to change, delete or empty them."""

import csv
import io
import json

import pytest
from django.db import DatabaseError, connection, transaction

from fleetui.access import Conflict
from fleetui.fleet.actions import audit as audit_actions
from fleetui.fleet.actions import labs, reports
from fleetui.fleet.models import ACTS, Act, Lab, Station
from fleetui.fleet.templatetags.fleet_words import details
from fleetui.practice.actions import assignments
from tests.fleetui.lab import Lab as LabWithPeople

# The server streams the export; the test client is synchronous and takes it whole.
pytestmark = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume asynchronous")


def acts(lab, **wanted):
    return list(Act.objects.filter(lab=lab.row, **wanted).order_by("id"))


def get(lab, role, path, **query):
    return lab.as_(role).get(f"/labs/{lab.slug}/{path}", query)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE fleet_act SET reason = 'another'",
        "UPDATE fleet_act SET user_id = NULL WHERE id > 0",
        "DELETE FROM fleet_act",
        "TRUNCATE fleet_act",
        "TRUNCATE fleet_act, fleet_lab CASCADE",
        "TRUNCATE fleet_lab CASCADE",
    ],
)
def test_the_database_refuses_to_rewrite_the_log(lab, sql):
    lab.call("supervisor", "post", "stations/arm-1/command", {"name": "stop"})
    before = list(Act.objects.values())
    assert before
    if sql == "TRUNCATE fleet_lab CASCADE":  # no reference ties the log to what may be emptied
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql)
            transaction.set_rollback(True)
    else:
        with pytest.raises(DatabaseError, match="Cannot"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql)
    assert list(Act.objects.values()) == before


def test_neither_does_django_change_it(lab):
    lab.call("supervisor", "post", "stations/arm-1/command", {"name": "stop"})
    row = Act.objects.latest("id")
    row.reason = "another"
    for change in (row.save, row.delete, Act.objects.all().delete, lambda: Act.objects.update(reason="")):
        with pytest.raises(DatabaseError, match="Cannot"), transaction.atomic():
            change()


def test_it_outlives_the_user_the_station_and_the_lab(lab):
    lab.call("supervisor", "post", "stations/arm-1/command", {"name": "stop"})
    user, station = lab.users["supervisor"], lab.stations[0]
    Station.objects.get(pk=station.pk).delete()
    user.delete()
    page = get(lab, "manager", "audit").content.decode()
    assert "east-supervisor" in page and "Arm 1" in page
    Lab.objects.get(pk=lab.row.pk).delete()
    row = Act.objects.get(kind="stop")
    assert (row.user_name, row.station_name) == ("east-supervisor", "Arm 1")


def test_every_command_is_written_with_who_where_epoch_and_why(lab):
    lab.connect()
    for name, args in (
        ("override", {}),
        ("hand_back", {}),
        ("pause", {}),
        ("resume", {}),
        ("speed", {"value": 4}),
        ("reset", {"reason": "blue cube fell"}),
        ("stop", {}),
        ("clear_stop", {"reason": "the workspace is clear"}),
    ):
        answer = lab.call("supervisor", "post", "stations/arm-1/command", {"name": name, "args": args})
        assert answer.status_code == 200, answer.content
    rows = list(acts(lab, station=lab.stations[0], user=lab.users["supervisor"]))
    assert [row.kind for row in rows] == [
        "override",
        "hand_back",
        "pause",
        "resume",
        "speed",
        "reset",
        "stop",
        "clear_stop",
    ]
    assert {row.lease_epoch for row in rows} == {1} and {row.source for row in rows} == {"API"}
    assert rows[4].details == {"value": 4} and rows[5].reason == "blue cube fell"


def test_a_refused_act_is_not_written(lab):
    lab.connect()
    lab.call("supervisor", "post", "stations/arm-1/command", {"name": "override"})
    answer = lab.call("manager", "post", "stations/arm-1/command", {"name": "resume"})
    assert answer.status_code == 409 and not acts(lab, kind="resume")
    lab.call("viewer", "post", "stations/arm-1/command", {"name": "stop"})
    assert not acts(lab, kind="stop")


def test_driving_is_one_override_not_a_row_a_message(lab):
    lab.connect()
    lab.call("supervisor", "post", "stations/arm-1/command", {"name": "override"})
    count = len(acts(lab))
    for _ in range(5):
        lab.call("supervisor", "post", "stations/arm-1/command", {"name": "drive", "args": {"axes": {"x": 1, "y": 0}}})
    assert len(acts(lab)) == count
    reports.disconnect_station(station=lab.stations[0], reason="the connection was lost")
    (ended,) = acts(lab, kind="override_ended")
    assert ended.source == "station" and ended.details["whose"] == "east-supervisor" and ended.lease_epoch == 1


def test_assignments_tokens_settings_and_self_resets_are_written(lab):
    lab.connect()
    manager = lab.users["manager"]
    assignment = assignments.assign_task(lab=lab.row, task=lab.task, stations=lab.stations, user=manager)
    assignments.cancel_assignment(assignment=assignment, user=manager)
    labs.renew_token(station=lab.stations[0], user=manager)
    reports.record_touch(station=lab.stations[1], kind="self_reset", reason="off the table", seconds=2.0)
    lab.as_("supervisor").post(
        f"/labs/{lab.slug}/stations/arm-1/settings", {"self_reset_after_s": "3", "shuffle_every_s": "60"}
    )
    said = [(row.kind, row.station_name, row.source) for row in acts(lab)]
    assert said.pop(0) == ("task_created", "", "server")
    assert said[:2] == [("token_made", "Arm 1", "server"), ("token_made", "Arm 2", "server")]
    assert [row[:2] for row in said[2:]] == [
        ("assigned", "Arm 1"),
        ("assigned", "Arm 2"),
        ("assignment_canceled", "Arm 1"),
        ("assignment_canceled", "Arm 2"),
        ("token_renewed", "Arm 1"),
        ("self_reset", "Arm 2"),
        ("settings", "Arm 1"),
    ]
    assert said[-2][2] == "station" and said[-1][2] == "page"


def test_an_unknown_kind_is_a_mistake_of_the_code(lab):
    with pytest.raises(ValueError, match="no act"):
        audit_actions.record_act(lab=lab.row, kind="danced")


def test_an_act_that_fails_afterwards_leaves_no_record(lab):
    with pytest.raises(Conflict), transaction.atomic():
        audit_actions.record_act(lab=lab.row, kind="relabel", user=lab.users["manager"])
        raise Conflict("no")
    assert not acts(lab, kind="relabel")


# The page


@pytest.fixture
def busy(lab):
    lab.connect()
    for role, station, name in (
        ("supervisor", "arm-1", "pause"),
        ("manager", "arm-2", "pause"),
        ("supervisor", "arm-2", "stop"),
    ):
        assert lab.call(role, "post", f"stations/{station}/command", {"name": name}).status_code == 200
    return lab


def test_managers_and_supervisors_see_it_and_nobody_else(busy):
    for role, status in (("viewer", 403), ("researcher", 403), ("supervisor", 200), ("manager", 200)):
        for path in ("audit", "audit/export.csv", "audit/export.json"):
            assert get(busy, role, path).status_code == status, (role, path)
    assert LabWithPeople("west").as_("manager").get("/labs/east/audit").status_code == 404


def exported(lab, **query):
    answer = get(lab, "manager", "audit/export.json", **query)
    return json.loads(b"".join(answer))


def test_filters_narrow_the_page_and_the_export_alike(busy):
    for query, kinds in (
        ({"person": "east-supervisor"}, ["stop", "pause"]),
        ({"station": "Arm 2", "person": "east-manager"}, ["pause"]),
        ({"kind": "stop"}, ["stop"]),
        ({"kind": "stop", "until": "2001-01-01"}, []),
        ({"since": "2001-01-01", "kind": "pause"}, ["pause", "pause"]),
    ):
        assert [row["kind"] for row in exported(busy, **query)] == kinds, query
        page = get(busy, "manager", "audit", **query).content.decode()
        assert page.count('<tr class="act">') == len(kinds), query
    page = get(busy, "manager", "audit", kind="danced").content.decode()
    assert "danced is not one of the available choices" in page
    assert get(busy, "manager", "audit/export.csv", kind="danced").status_code == 422
    assert get(busy, "manager", "audit/export.xml").status_code == 404


def test_pages_and_an_export_of_more_rows_than_one_read(busy, monkeypatch):
    from fleetui.fleet.views import audit

    monkeypatch.setattr(audit, "ROWS_A_READ", 7)
    for _ in range(60):
        audit_actions.record_act(lab=busy.row, kind="relabel", user=busy.users["manager"], station=busy.stations[0])
    everything = exported(busy)
    assert [row["id"] for row in everything] == list(Act.objects.order_by("-id").values_list("id", flat=True))
    assert "Older" in get(busy, "manager", "audit").content.decode()
    assert len(exported(busy, kind="relabel")) == 60


def test_the_csv_is_read_back_and_can_start_no_formula(busy):
    for reason in ("=1+1", "@SUM(A1)", "-2", "+3", "\t=1", 'a, "quoted"\nline', "plain"):
        audit_actions.record_act(lab=busy.row, kind="relabel", user=busy.users["manager"], reason=reason)
    answer = get(busy, "manager", "audit/export.csv", kind="relabel")
    assert "attachment" in answer["Content-Disposition"] and answer["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(b"".join(answer).decode())))
    assert [row["reason"] for row in rows] == [
        "plain",
        'a, "quoted"\nline',
        "'\t=1",
        "'+3",
        "'-2",
        "'@SUM(A1)",
        "'=1+1",
    ]
    assert all(not value.startswith(("=", "+", "-", "@")) for row in rows for value in row.values())


def test_the_empty_log_and_the_empty_filter_say_what_to_do(lab):
    assert "No act found" in get(lab, "manager", "audit", kind="stop").content.decode()


def test_kinds_have_words(lab):
    page = get(lab, "manager", "audit").content.decode()
    for kind in ACTS:
        assert f'value="{kind}"' in page


def test_details_are_words_and_what_was_not_asked_for_is_not_said():
    said = details({"task": "push", "run": None, "force": False, "minutes": 0, "at_once": True})
    assert said == "task push, minutes 0, at once" and details({"any": None}) == "–"

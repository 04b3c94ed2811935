"""An assignment that waits is edited: by its form, by the API, in its queue and its series; the audit log says so."""

from datetime import UTC, timedelta

import pytest
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from fleetui import access
from fleetui.fleet.actions import profiles
from fleetui.fleet.models import Act, Assignment
from fleetui.practice import queue
from fleetui.practice.actions import assignments, dispatch
from tests.fleetui.lab import ROLES


def assign(lab, *stations, **wishes):
    stations = [] if "any_count" in wishes else list(stations or lab.stations)
    row = assignments.assign_task(lab=lab.row, task=lab.task, stations=stations, user=lab.users["manager"], **wishes)
    return again(row)


def again(row):
    return Assignment.objects.get(pk=row.pk)


def patch(lab, row, role="manager", **changes):
    return lab.call(role, "patch", f"assignments/{row.pk}", changes)


def ahead(**passed):
    return (timezone.now() + timedelta(**passed)).replace(second=0, microsecond=0)


def line(lab):
    return [row.pk for row in lab.row.assignments.filter(state__in=Assignment.WAITING).order_by("position")]


def edits():
    return list(Act.objects.filter(kind="assignment_edited").order_by("pk"))


CHANGES = [
    ({"stations": ["arm-2"]}, {"stations": ["arm-2"], "any": None}),
    ({"any": 2}, {"stations": [], "any": 2}),
    ({"episodes": 80}, {"episodes": 80, "hours": None, "target_success": None}),
    ({"target_success": 0.9}, {"episodes": None, "hours": None, "target_success": 0.9}),
    ({"hours": None}, {"episodes": None, "hours": None, "target_success": None}),
    ({"priority": "high"}, {"priority": "high"}),
    ({"not_before": None}, {"not_before": None}),
]


@pytest.mark.parametrize("change, shown", CHANGES, ids=lambda given: "-".join(given))
def test_each_wish_of_one_that_waits_can_be_changed_and_the_rest_stays(lab, change, shown):
    row = assign(lab, hours=2, not_before=ahead(days=1))
    before = lab.call("viewer", "get", "assignments").json()["items"][0]
    answer = patch(lab, row, **change)
    assert answer.status_code == 200, answer.content
    after = answer.json()
    moved = {name for name in after if after[name] != before[name]} - {"reason", "state"}
    assert {name: after[name] for name in shown} == shown and moved <= set(shown)
    (act,) = edits()
    assert act.user == lab.users["manager"] and act.details["assignment"] == row.pk
    assert not set(act.details) - {"assignment", "task", "stations", "any_count", *after}


def test_the_run_that_it_practises_with_can_be_changed_and_taken_away(lab, sft_run):
    row = assign(lab, not_before=ahead(days=1))
    assert patch(lab, row, parent=sft_run.pk).json()["parent"] == sft_run.pk
    assert patch(lab, row, parent=None).json()["parent"] is None
    assert [act.details["parent"] for act in edits()] == [sft_run.pk, None]


def test_what_it_waited_for_is_looked_at_anew(lab, sft_run):
    lab.connect(lab.stations[0])
    row = assign(lab, lab.stations[1], parent=sft_run)
    assert "offline" in queue.read_queue(lab.row)[0].reason and again(row).state == "blocked"
    answer = patch(lab, row, stations=["arm-1"]).json()
    assert answer["state"] == "standby" and answer["run"]


@pytest.mark.parametrize(
    "change, field",
    [
        ({"stations": []}, "stations"),
        ({"stations": ["arm-1"], "any": 1}, "stations"),
        ({"any": 0}, "any_count"),
        ({"episodes": 5, "hours": 1}, "budget"),
        ({"hours": 0}, "budget"),
        ({"priority": "urgent"}, "priority"),
        ({"repeats": "hourly"}, "repeats"),
        ({"repeats": "daily", "not_before": None}, "not_before"),
        ({"repeats": "daily", "not_before": "2020-01-01T08:00:00Z"}, "not_before"),
        ({"not_before": "2999-01-01T08:00:00Z"}, "not_before"),
        ({"repeats": "daily", "time_zone": "Nowhere"}, "time_zone"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_by_name_and_changes_nothing(lab, change, field):
    row = assign(lab, hours=2, not_before=ahead(days=1))
    before = lab.call("viewer", "get", "assignments").json()["items"]
    answer = patch(lab, row, **change)
    assert answer.status_code == 422 and list(answer.json()["problems"]) == [field], answer.content
    assert lab.call("viewer", "get", "assignments").json()["items"] == before and not edits()


def test_what_has_started_or_ended_is_not_edited(lab, sft_run):
    lab.connect()
    row = assign(lab, parent=sft_run)
    assert row.state == "standby"
    answer = patch(lab, row, priority="high")
    assert answer.status_code == 409 and "only an assignment that waits" in answer.json()["detail"]
    assignments.cancel_assignment(assignment=row, user=lab.users["manager"])
    assert patch(lab, row, priority="high").status_code == 409 and again(row).priority == 1
    answer = lab.as_("manager").get(f"/labs/{lab.slug}/tasks/assignments/{row.pk}", follow=True)
    assert "only an assignment that waits can be edited" in answer.content.decode() and not edits()


def test_another_priority_gives_it_the_place_of_a_new_one(lab):
    first, second, third = (assign(lab, not_before=ahead(days=1)) for _ in range(3))
    patch(lab, third, priority="high")
    assert line(lab) == [third.pk, first.pk, second.pk]
    patch(lab, third, priority="low")
    assert line(lab) == [first.pk, second.pk, third.pk]
    patch(lab, first, hours=3)
    assert line(lab) == [first.pk, second.pk, third.pk], "any other change keeps its place"


def test_a_start_that_has_passed_is_nobodys_mistake_now(lab):
    row = assign(lab, not_before=ahead(days=1), repeats="daily")
    Assignment.objects.filter(pk=row.pk).update(not_before=ahead(days=-1), due_at=ahead(days=-1))
    assert patch(lab, row, priority="high").status_code == 200
    assert patch(lab, row, repeats="weekly").status_code == 422, "but what begins to repeat begins ahead"


def test_what_repeats_is_moved_to_another_time_and_stopped_and_begun_again(lab):
    row = assign(lab, not_before=ahead(days=1), repeats="daily")
    later = ahead(days=2, hours=3)
    assert patch(lab, row, not_before=later.isoformat(), time_zone="Europe/Berlin").status_code == 200
    row = again(row)
    assert row.due_at == later and str(row.schedule.crontab.timezone) == "Europe/Berlin"
    assert row.schedule.start_time == later and PeriodicTask.objects.filter(name=f"assignment {row.pk}").count() == 1
    made = assignments.repeat_assignment(assignment_id=row.pk, now=later + timedelta(days=1, minutes=1))
    assert made.due_at.astimezone(UTC) - later <= timedelta(days=1, hours=1)
    assert patch(lab, row, repeats="").json()["repeats"] == "" and again(row).schedule is None
    assert not PeriodicTask.objects.filter(name=f"assignment {row.pk}").exists()
    assert assignments.repeat_assignment(assignment_id=row.pk, now=later + timedelta(days=3)) is None
    assert patch(lab, row, repeats="weekly").json()["repeats"] == "weekly" and again(row).schedule is not None


def test_a_later_one_of_a_series_is_edited_alone(lab):
    first = assign(lab, not_before=ahead(days=1), repeats="daily")
    assignments.cancel_assignment(assignment=first, user=lab.users["manager"])
    made = assignments.repeat_assignment(assignment_id=first.pk, now=first.due_at + timedelta(days=1))
    assert made.state != "skipped"
    answer = patch(lab, made, repeats="weekly")
    assert answer.status_code == 422 and list(answer.json()["problems"]) == ["repeats"]
    due = made.due_at
    assert patch(lab, made, not_before=ahead(days=5).isoformat(), episodes=7).status_code == 200
    assert (again(made).due_at, again(made).budget_episodes, again(first).budget_episodes) == (due, 7, None)
    assert assignments.repeat_assignment(assignment_id=first.pk, now=due + timedelta(minutes=1)) is None, "made once"


def test_saving_what_is_there_changes_nothing(lab):
    row = assign(lab, hours=2, not_before=ahead(days=1), repeats="daily")
    form = page_form(lab, row)
    answer = lab.as_("manager").post(url(lab, row), form, follow=True)
    assert answer.status_code == 200 and not edits()
    kept = again(row)
    assert (kept.due_at, kept.schedule_id, kept.position) == (row.due_at, row.schedule_id, row.position)


def test_only_managers_edit_and_only_their_own_labs(lab, other_lab):
    row = assign(lab)
    for role in ROLES[:-1]:
        assert patch(lab, row, role, priority="high").status_code == 403
        assert lab.as_(role).get(url(lab, row)).status_code == 403
        assert lab.as_(role).post(url(lab, row), {}).status_code == 403
    assert other_lab.call("manager", "patch", f"assignments/{row.pk}", {"priority": "high"}).status_code == 404
    assert patch(lab, row, stations=["nobody"]).status_code == 404
    assert lab.as_("manager").get(url(lab, row) + "0" * 30).status_code == 404
    assert again(row).priority == 1


def test_a_change_that_loses_the_race_with_the_start_is_refused(lab, sft_run):
    """The form was open while the dispatcher started it."""
    lab.connect()
    row = assign(lab, not_before=ahead(days=1), parent=sft_run)
    stale = again(row)
    Assignment.objects.filter(pk=row.pk).update(not_before=None)
    dispatch.dispatch_assignments(lab=lab.row)
    assert again(row).state == "standby"
    with pytest.raises(access.Conflict):
        assignments.edit_assignment(assignment=stale, user=lab.users["manager"], any_count=1)
    assert again(row).places.filter(live=True).count() == 2


# The page


def url(lab, row):
    return f"/labs/{lab.slug}/tasks/assignments/{row.pk}"


def page_form(lab, row):
    """What a browser would send back unchanged."""
    form = lab.as_("manager").get(url(lab, row)).context["assign_form"]
    values = {field.name: field.value() for field in form if field.value() is not None}
    if hasattr(values.get("not_before"), "strftime"):
        values["not_before"] = values["not_before"].strftime("%Y-%m-%dT%H:%M")
    return values


def test_the_queue_links_the_form_of_what_waits_and_the_form_shows_what_it_is(lab, sft_run):
    lab.connect()
    profiles.set_time_zone(user=lab.users["manager"], name="Europe/Berlin")
    started, row = assign(lab, parent=sft_run), assign(lab, target_success=0.9, priority="low")
    shown = lab.as_("manager").get(f"/labs/{lab.slug}/tasks/queue").content.decode()
    assert f'href="{url(lab, row)}"' in shown and f'href="{url(lab, started)}"' not in shown
    assert url(lab, row) not in lab.as_("viewer").get(f"/labs/{lab.slug}/tasks/queue").content.decode()
    values = page_form(lab, row)
    assert (values["budget"], values["amount"], values["priority"], values["who"]) == (
        ("target_success", 90.0, "low", "chosen")
    )
    form = values | {"who": "any", "any_count": 2, "budget": "episodes", "amount": "40", "repeats": "daily"}
    answer = lab.as_("manager").post(url(lab, row), form)
    assert answer.status_code == 422 and "Say when it starts for the first time" in answer.content.decode()
    day = ahead(days=30)
    answer = lab.as_("manager").post(url(lab, row), form | {"not_before": f"{day:%Y-%m-%d}T09:00"}, follow=True)
    assert "is in the queue" in answer.content.decode()
    row = again(row)
    assert (row.any_count, row.budget_episodes, row.target_success, row.repeats) == (2, 40, None, "daily")
    assert not row.places.exists() and queue.say_repeats(row) == "daily at 09:00 Europe/Berlin"


def test_the_form_of_what_repeats_keeps_its_zone_whoever_edits_it(lab):
    day = ahead(days=30)
    form = {"task": lab.task.pk, "who": "any", "any_count": 1, "time_zone": "Europe/Berlin"}
    form |= {"not_before": f"{day:%Y-%m-%d}T09:00", "repeats": "daily"}
    lab.as_("manager").post(f"/labs/{lab.slug}/tasks/assignments/new", form)
    row = Assignment.objects.get()
    profiles.set_time_zone(user=lab.users["manager"], name="America/New_York")
    values = page_form(lab, row)
    assert values["not_before"].endswith("T09:00") and values["time_zone"] == "Europe/Berlin"
    assert "Time in Europe/Berlin." in lab.as_("manager").get(url(lab, row)).content.decode()
    lab.as_("manager").post(url(lab, row), values | {"priority": "high"})
    kept = again(row)
    assert (kept.due_at, kept.time_zone, kept.priority) == (row.due_at, "Europe/Berlin", 2)

"""Times are said in a person's own zone, and what repeats does so at its time of the day there, all year."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, PeriodicTask
from django_celery_beat.tzcrontab import TzAwareCrontab

from fleetui import access
from fleetui.fleet.actions import audit, profiles
from fleetui.fleet.effort import effort_of
from fleetui.fleet.models import Act, Assignment, Profile
from fleetui.fleet.selectors import list_acts
from fleetui.fleet.time_zones import newest_due, zone_names
from fleetui.practice import queue
from fleetui.practice.actions import assignments

BERLIN = ZoneInfo("Europe/Berlin")
SPRING, AUTUMN = datetime(2027, 3, 28, tzinfo=BERLIN), datetime(2027, 10, 31, tzinfo=BERLIN)  # clocks change at night


def local(moment):
    return moment.astimezone(BERLIN)


def daily(lab, first, **wishes):
    """An assignment made for this moment, as a manager in Berlin makes it a week before."""
    return assignments.assign_task(
        lab=lab.row,
        task=lab.task,
        stations=lab.stations,
        user=lab.users["manager"],
        not_before=first,
        repeats=wishes.pop("repeats", "daily"),
        time_zone="Europe/Berlin",
        **wishes,
    )


@pytest.fixture
def at(monkeypatch):
    """Turns the clock that the actions read."""

    def turn(moment):
        monkeypatch.setattr(assignments.timezone, "now", lambda: moment.astimezone(UTC))

    return turn


# What repeats


@pytest.mark.parametrize("change, offsets", [(SPRING, (1, 2)), (AUTUMN, (2, 1))], ids=["spring", "autumn"])
def test_a_daily_schedule_of_nine_in_berlin_is_at_nine_after_the_clock_change(lab, at, change, offsets):
    first = (change - timedelta(days=2)).replace(hour=9)
    at(first - timedelta(days=1))
    row = daily(lab, first)
    times = row.schedule.crontab
    assert (times.hour, times.minute, str(times.timezone)) == ("9", "0", "Europe/Berlin")
    dues = []
    for days in range(1, 5):
        moment = (first + timedelta(days=days)).replace(hour=9, tzinfo=BERLIN)
        again = assignments.repeat_assignment(assignment_id=row.pk, now=moment.astimezone(UTC))
        dues.append(local(again.due_at))
        assert assignments.repeat_assignment(assignment_id=row.pk, now=moment + timedelta(minutes=5)) is None, (
            "made once"
        )
        assert again.state == "skipped" and f" 09:00 {row.due_at.astimezone(BERLIN):%Z} was" in again.reason
    assert [due.hour for due in dues] == [9] * 4
    assert [due.utcoffset() for due in dues] == [timedelta(hours=offsets[0]), *[timedelta(hours=offsets[1])] * 3]
    assert queue.say_repeats(row) == "daily at 09:00 Europe/Berlin"


@pytest.mark.parametrize("change", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_a_weekly_schedule_keeps_its_weekday_and_time_over_the_clock_change(lab, at, change):
    first = (change - timedelta(days=3)).replace(hour=0, minute=30)  # Thursday there, still Wednesday in UTC
    at(first - timedelta(days=1))
    row = daily(lab, first, repeats="weekly")
    assert row.schedule.crontab.day_of_week == "4" and row.schedule.crontab.hour == "0"
    week = (first + timedelta(days=7)).replace(tzinfo=BERLIN)
    again = assignments.repeat_assignment(assignment_id=row.pk, now=week.astimezone(UTC))
    assert f"{local(again.due_at):%a %H:%M}" == "Thu 00:30" and queue.say_repeats(row).startswith("each Thursday at")


class Crontab(TzAwareCrontab):
    """Celery's own, with a clock that a test turns."""

    moment = None

    def nowfunc(self):
        return self.moment.astimezone(self.tz)


@pytest.mark.parametrize("hour, minute", [(9, 0), (2, 30), (0, 0)])
@pytest.mark.parametrize("change", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_celerys_beat_and_the_series_mean_the_same_moments(change, hour, minute):
    first = (change - timedelta(days=2)).replace(hour=hour, minute=minute).astimezone(UTC)
    crontab = Crontab(minute=str(minute), hour=str(hour), tz=BERLIN)
    fired, last, moment = [], first, first
    while moment < first + timedelta(days=5, hours=2):
        moment += timedelta(minutes=10)
        crontab.moment = moment
        if crontab.is_due(last)[0]:
            fired.append(moment)
            last = moment
    series = [newest_due(first=first, zone=BERLIN, days=1, by=moment) for moment in fired]
    assert series == fired and len(fired) == 5 and len(set(series)) == 5


def test_a_series_in_utc_goes_on_as_it_was(lab):
    """Those that were there before they had a zone."""
    first = timezone.now() + timedelta(days=1)
    row = assignments.assign_task(
        lab=lab.row, task=lab.task, stations=lab.stations, user=lab.users["manager"], not_before=first, repeats="daily"
    )
    assert row.time_zone == "UTC" and str(row.schedule.crontab.timezone) == "UTC"
    again = assignments.repeat_assignment(assignment_id=row.pk, now=first + timedelta(days=200, hours=1))
    assert again.due_at == first + timedelta(days=200) and again.time_zone == "UTC"


def test_an_unknown_zone_is_refused_by_name_and_nothing_is_made(lab):
    body = {"task": "block2block", "stations": ["arm-1"], "time_zone": "Europe/Atlantis"}
    answer = lab.call("manager", "post", "assignments", body)
    assert answer.status_code == 422 and list(answer.json()["problems"]) == ["time_zone"]
    assert not Assignment.objects.exists() and not CrontabSchedule.objects.filter(timezone="UTC", hour="9").exists()


# A person's zone


def test_the_zone_of_the_browser_counts_where_a_person_has_none_yet(lab):
    client, url = lab.as_("manager"), "/time-zone"
    assert 'data-zone=""' in client.get(f"/labs/{lab.slug}/tasks/").content.decode()
    assert client.post(f"{url}/seen", {"seen": "Mars/Olympus"}).status_code == 204 and not Profile.objects.exists()
    assert client.post(f"{url}/seen", {"seen": "Europe/Berlin"}).status_code == 204
    assert client.post(f"{url}/seen", {"seen": "America/New_York"}).status_code == 204, "on another machine"
    assert lab.users["manager"].profile.time_zone == "Europe/Berlin"
    assert 'data-zone="Europe/Berlin"' in client.get(f"/labs/{lab.slug}/tasks/").content.decode()


def test_a_person_chooses_a_zone_and_only_a_known_one(lab):
    client = lab.as_("viewer")
    assert "UTC" in client.get("/time-zone").content.decode()
    said = client.post("/time-zone", {"time_zone": "Asia/Kathmandu"}, follow=True).content.decode()
    assert "You see times in Asia/Kathmandu now." in said and Profile.objects.get().time_zone == "Asia/Kathmandu"
    wrong = client.post("/time-zone", {"time_zone": "Nowhere"})
    assert wrong.status_code == 422 and "Choose a time zone of the list." in wrong.content.decode()
    with pytest.raises(access.Invalid):
        profiles.set_time_zone(user=lab.users["viewer"], name="Nowhere")
    assert Profile.objects.get().time_zone == "Asia/Kathmandu"


def test_each_person_sees_times_in_their_own_zone(lab):
    profiles.set_time_zone(user=lab.users["manager"], name="Asia/Kathmandu")
    start = (timezone.now() + timedelta(days=20)).replace(hour=8, minute=0, second=0, microsecond=0)
    assignments.assign_task(
        lab=lab.row, task=lab.task, stations=lab.stations, user=lab.users["manager"], not_before=start
    )
    mine = lab.call("manager", "get", "assignments").json()["items"][0]
    assert "13:45 +0545" in mine["reason"] and mine["not_before"].endswith("08:00:00+00:00"), "data stays in UTC"
    assert "08:00 UTC" in lab.call("viewer", "get", "assignments").json()["items"][0]["reason"]
    assert timezone.get_current_timezone_name() == "UTC", "and nobody else's zone is changed by it"


def test_hours_of_shifts_and_days_of_the_audit_log_are_those_of_who_asks(lab):
    moment = datetime(2027, 1, 10, 23, 30, tzinfo=UTC)  # the next day in Berlin
    audit.record_act(lab=lab.row, kind="stop_all", user=lab.users["manager"])
    act = Act.objects.get(kind="stop_all")
    for zone in ("Pacific/Kiritimati", "UTC", "Pacific/Pago_Pago"):  # 14 hours ahead, 11 behind: never one day in all
        with timezone.override(zone):
            day = timezone.localdate(act.at)
            assert act in list_acts(lab.row, since=day, until=day)
            assert not list_acts(lab.row, since=day + timedelta(days=1))
            assert not list_acts(lab.row, until=day - timedelta(days=1))
    lab.row.interventions.create(station=lab.stations[0], kind="reset", user=lab.users["manager"], started_at=moment)
    with timezone.override(BERLIN):
        (shift,) = effort_of(lab.row, moment - timedelta(days=1), moment + timedelta(days=1))["shifts"]
    assert shift.title == "Mon 11 Jan 00:00 to 08:00 CET"


def test_a_start_is_read_in_the_zone_in_which_it_was_typed(lab):
    """A page that was drawn before the zone was known, or was changed in another tab."""
    profiles.set_time_zone(user=lab.users["manager"], name="Europe/Berlin")
    shown = lab.as_("manager").get(f"/labs/{lab.slug}/tasks/").content.decode()
    assert "Time in Europe/Berlin (" in shown and 'name="time_zone" value="Europe/Berlin"' in shown
    day = timezone.now() + timedelta(days=30)
    form = {"task": lab.task.pk, "who": "any", "any_count": 1, "repeats": "daily"}
    form["not_before"] = f"{day:%Y-%m-%d}T09:00"
    for zone, named in (("Europe/Berlin", "Europe/Berlin"), ("America/New_York", "America/New_York"), ("", None)):
        lab.as_("manager").post(f"/labs/{lab.slug}/tasks/assignments/new", form | {"time_zone": zone})
        row = Assignment.objects.first()
        assert row.time_zone == (named or "Europe/Berlin")
        assert f"{row.due_at.astimezone(ZoneInfo(row.time_zone)):%H:%M}" == "09:00"


def test_a_time_that_the_clock_change_leaves_out_is_refused_in_words(lab):
    form = {"task": lab.task.pk, "who": "any", "any_count": 1, "time_zone": "Europe/Berlin"}
    answer = lab.as_("manager").post(
        f"/labs/{lab.slug}/tasks/assignments/new", form | {"not_before": "2027-03-28T02:30"}
    )
    assert answer.status_code == 422 and "may not exist" in answer.content.decode()
    assert not Assignment.objects.exists() and not PeriodicTask.objects.filter(name__startswith="assignment").exists()


def test_every_zone_that_can_be_chosen_can_be_used():
    moment = datetime(2027, 6, 1, 12, tzinfo=UTC)
    for name in zone_names():
        zone = ZoneInfo(name)
        assert newest_due(first=moment, zone=zone, days=1, by=moment + timedelta(days=300, hours=2)) > moment
        CrontabSchedule(timezone=zone).full_clean(exclude=["id"])

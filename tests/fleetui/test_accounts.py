"""Accounts: one's own password, a reset by a manager, the log-in's throttle, and what of it the audit log holds."""

import re
from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.test import Client
from django.utils import timezone

from fleetui.fleet.actions import labs
from fleetui.fleet.models import Act, Membership, Station
from tests.fleetui.lab import ROLES

PASSWORD, OTHER = "a long enough one 7", "quite another one 8"


@pytest.fixture
def people(lab, settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick: these tests log in often
    for user in lab.users.values():
        user.set_password(PASSWORD)
        user.save()
    return lab


def log_in(name, password=PASSWORD, client=None, **headers):
    client = client or Client()
    return client, client.post("/login", {"username": name, "password": password}, **headers)


def kinds(lab):
    return list(Act.objects.filter(lab=lab.row).order_by("id").values_list("kind", "user_name", "source"))


def reset(lab, role, by="manager", **follow):
    member = Membership.objects.get(lab=lab.row, user=lab.users[role])
    return lab.as_(by).post(f"/labs/{lab.slug}/people/{member.pk}/password", **follow)


# The audit log


def test_log_ins_and_log_outs_are_in_the_log_of_each_lab_of_their_user(people, other_lab):
    labs.add_member(lab=other_lab.row, person=people.users["viewer"], role="viewer")
    before = len(kinds(people))
    client, answer = log_in("east-viewer")
    assert answer.status_code == 302
    client.post("/logout")
    wanted = [("logged_in", "east-viewer", "page"), ("logged_out", "east-viewer", "page")]
    assert kinds(people)[before:] == wanted and kinds(other_lab)[-2:] == wanted
    assert Act.objects.filter(kind="logged_in").first().details["address"] == "127.0.0.1"


def test_a_wrong_password_and_a_lock_out_are_in_the_log(people):
    for _ in range(12):
        log_in("east-supervisor", "wrong")
    assert [kind for kind, name, _ in kinds(people) if name == "east-supervisor"] == ["log_in_failed"] * 10 + [
        "locked_out"
    ]


def test_an_unknown_name_is_counted_but_not_kept_as_it_may_be_a_password(people):
    for _ in range(5):
        log_in("hunter2-hunter2", "x")
    rows = Act.objects.filter(lab=None)
    assert [(row.kind, row.user_name) for row in rows] == [("log_in_failed", "")]  # one a minute at most
    assert "hunter2" not in str(list(rows.values()))
    page = people.as_("manager").get("/labs/east/audit").content.decode()
    assert "Log in failed" in page and "unknown name" in page


# The throttle


def test_forty_guesses_do_not_open_the_log_in_and_the_right_password_must_wait(people, settings):
    answers = [log_in("east-viewer", f"guess {number}")[1] for number in range(40)]
    assert [answer.status_code for answer in answers] == [200] * 9 + [429] * 31
    client, answer = log_in("east-viewer")
    assert answer.status_code == 429 and "Too many wrong passwords" in answer.content.decode()
    assert client.get("/labs/east/").status_code == 302
    AccessAttempt.objects.update(attempt_time=timezone.now() - settings.AXES_COOLOFF_TIME - timedelta(seconds=1))
    assert log_in("east-viewer")[1].status_code == 302


def test_one_name_from_one_address_is_locked_and_nobody_else(people):
    for _ in range(15):
        log_in("east-viewer", "wrong")
    assert log_in("east-manager")[1].status_code == 302
    assert log_in("east-viewer", REMOTE_ADDR="10.0.0.9")[1].status_code == 302
    assert log_in("east-viewer")[1].status_code == 429


def test_an_address_that_is_none_throttles_too(people):
    for address in ("", "no address", "fe80::1%eth0"):
        answers = [log_in("east-viewer", "wrong", REMOTE_ADDR=address)[1].status_code for _ in range(11)]
        assert answers[0] in (200, 429) and answers[-1] == 429, address


def test_a_signed_in_supervisor_stops_stations_while_the_name_is_locked_out(people):
    people.connect()
    client, _ = log_in("east-supervisor")
    for _ in range(15):
        log_in("east-supervisor", "wrong")
    assert log_in("east-supervisor")[1].status_code == 429
    assert client.get("/labs/east/").status_code == 200
    answer = client.post("/api/labs/east/stations/arm-1/command", {"name": "stop"}, content_type="application/json")
    assert answer.status_code == 200
    assert client.post("/api/labs/east/stop").status_code == 200
    assert list(Station.objects.values_list("stop_latched", flat=True)) == [True, True]


def test_the_throttle_does_without_valkey(people, monkeypatch):
    """It counts in PostgreSQL: whoever can freeze the cache can't guess on."""
    import redis

    def away(*args, **kwargs):
        raise redis.ConnectionError("Valkey is away")

    monkeypatch.setattr(redis.Connection, "connect", away)
    monkeypatch.setattr(redis.asyncio.Connection, "connect", away)
    answers = [log_in("east-viewer", "wrong")[1].status_code for _ in range(11)]
    assert answers[-1] == 429 and log_in("east-manager")[1].status_code == 302


def test_many_right_log_ins_are_not_throttled(people):
    assert {log_in("east-viewer")[1].status_code for _ in range(15)} == {302}


# Passwords


def test_everybody_changes_the_own_password_and_other_sessions_end(people):
    here, there = log_in("east-viewer")[0], log_in("east-viewer")[0]
    assert 'href="/password"' in here.get("/labs/east/").content.decode()
    form = {"old_password": PASSWORD, "new_password1": OTHER, "new_password2": OTHER}
    answer = here.post("/password", form | {"old_password": "wrong"})
    assert answer.status_code == 422 and there.get("/labs/east/").status_code == 200
    assert here.post("/password", form | {"new_password1": "short", "new_password2": "short"}).status_code == 422
    assert here.post("/password", form).status_code == 302
    assert here.get("/labs/east/").status_code == 200
    assert there.get("/labs/east/").status_code == 302
    assert log_in("east-viewer")[1].status_code == 200 and log_in("east-viewer", OTHER)[1].status_code == 302
    assert ("password_changed", "east-viewer", "page") in kinds(people)
    assert Client().get("/password")["Location"].startswith("/login")


def test_a_manager_resets_a_password_which_is_shown_once_and_ends_sessions_and_lock_outs(people):
    client, _ = log_in("east-supervisor")
    for _ in range(12):
        log_in("east-supervisor", "wrong")
    page = reset(people, "supervisor").content.decode()
    password = re.search(r'id="password">([^<]+)<', page).group(1)
    assert len(password) >= 16
    assert password not in people.as_("manager").get("/labs/east/people").content.decode()
    assert client.get("/labs/east/").status_code == 302
    assert client.post("/api/labs/east/stop").status_code == 401
    assert log_in("east-supervisor", password)[1].status_code == 302
    row = Act.objects.get(kind="password_reset")
    assert (row.user_name, row.details) == ("east-manager", {"member": "east-supervisor"})
    assert password not in str(list(Act.objects.values()))


@pytest.mark.parametrize("role", [role for role in ROLES if role != "manager"])
def test_only_managers_reset_passwords(people, role):
    assert reset(people, "viewer", by=role).status_code == 403
    assert log_in("east-viewer")[1].status_code == 302


def test_no_reset_reaches_into_a_lab_that_is_not_the_managers(people, other_lab):
    """Else whoever manages one lab could log in as the manager of another."""
    manager = people.users["manager"]
    labs.add_member(lab=people.row, person=other_lab.users["manager"], role="viewer")
    member = Membership.objects.get(lab=people.row, user=other_lab.users["manager"])
    address = f"/labs/east/people/{member.pk}/password"
    answer = people.as_("manager").post(address, follow=True)
    assert "is a member of Lab west too" in answer.content.decode() and 'id="password"' not in answer.content.decode()
    labs.add_member(lab=other_lab.row, person=manager, role="manager")
    assert 'id="password"' in people.as_("manager").post(address).content.decode()
    stranger = Membership.objects.get(lab=other_lab.row, user=other_lab.users["viewer"])
    assert people.as_("manager").post(f"/labs/east/people/{stranger.pk}/password").status_code == 404


def test_the_own_password_is_not_reset_but_changed(people):
    assert "Change your own password" in reset(people, "manager", follow=True).content.decode()

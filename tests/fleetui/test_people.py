"""People: invitations by link, roles, leaving; and that a lab is never left without a manager."""

import re
import threading
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict
from fleetui.fleet.actions import people
from fleetui.fleet.models import Act, Invitation, Lease, Membership
from tests.fleetui.lab import ROLES

PASSWORD = "a long enough one 7"


def post(lab, role, path, /, **data):
    return lab.as_(role).post(f"/labs/{lab.slug}/{path}", data)


def page(lab, role="manager", path="people"):
    return lab.as_(role).get(f"/labs/{lab.slug}/{path}").content.decode()


def invite(lab, role="supervisor", note="Ada"):
    answer = post(lab, "manager", "people/invite", role=role, note=note)
    assert answer.status_code == 200
    return re.search(r'id="link">http://testserver(/invitations/[^<]+)<', answer.content.decode()).group(1)


def make_account(link, name="ada", password=PASSWORD, again=None):
    client = Client()
    data = {"username": name, "password1": password, "password2": again or password}
    return client, client.post(link, data)


def member(lab, role):
    return Membership.objects.get(lab=lab.row, user=lab.users[role])


@pytest.mark.parametrize("role", [role for role in ROLES if role != "manager"])
def test_only_managers_come_here(lab, role):
    assert lab.as_(role).get("/labs/east/people").status_code == 403
    own = member(lab, role).pk
    for act in ("invite", f"{own}/role", f"{own}/remove", f"{own}/password", "invited/1/revoke"):
        answer = post(lab, role, f"people/{act}", role="manager")
        assert answer.status_code == 403
    assert not Invitation.objects.exists() and member(lab, role).role == role


def test_another_labs_people_are_not_found(lab, other_lab):
    stranger = member(other_lab, "viewer")
    for act in ("role", "remove"):
        assert post(lab, "manager", f"people/{stranger.pk}/{act}", role="viewer").status_code == 404
    other, _ = people.invite_member(lab=other_lab.row, user=other_lab.users["manager"], role="viewer")
    assert post(lab, "manager", f"people/invited/{other.pk}/revoke").status_code == 404
    for number in ("", "x", "9" * 30):
        assert post(lab, "manager", f"people/{number}/remove").status_code == 404


# Invitations


def test_a_link_is_shown_once_and_kept_as_a_hash(lab):
    link = invite(lab)
    token = link.rpartition("/")[2]
    made = Invitation.objects.get()
    assert made.token_hash == access.hash_token(token) and len(token) >= 43
    assert token not in page(lab) and "Ada" in page(lab)
    assert token not in str(list(Act.objects.values()))
    assert made.expires_at - made.created_at == pytest.approx(timedelta(days=7), abs=timedelta(seconds=5))


def test_a_stranger_makes_an_account_and_is_a_member(lab):
    link = invite(lab, "researcher")
    said = Client().get(link).content.decode()
    assert "Join Lab east" in said and "launch runs" in said and "assign tasks" not in said
    client, answer = make_account(link)
    assert answer.status_code == 302 and answer["Location"] == "/labs/east/"
    assert client.get("/labs/east/").status_code == 200
    assert access.get_roles(User.objects.get(username="ada")) == {"east": "researcher"}
    joined = Act.objects.get(kind="member_joined")
    assert (joined.user_name, joined.details["role"], joined.source) == ("ada", "researcher", "page")
    assert "None is open" in page(lab)


def test_a_member_of_another_lab_joins_with_the_account_there_is(lab, other_lab):
    link = invite(lab, "viewer")
    client = other_lab.as_("supervisor")
    assert "Join as west-supervisor" in client.get(link).content.decode()
    assert client.post(link).status_code == 302
    assert access.get_roles(other_lab.users["supervisor"]) == {"west": "supervisor", "east": "viewer"}


def test_the_log_in_leads_back_to_the_invitation(lab, other_lab):
    link = invite(lab)
    user = other_lab.users["viewer"]
    user.set_password(PASSWORD)
    user.save()
    client = Client()
    assert f"/login?next={link}" in client.get(link).content.decode()
    answer = client.post(f"/login?next={link}", {"username": user.username, "password": PASSWORD, "next": link})
    assert answer["Location"] == link


@pytest.mark.parametrize(
    "name, password, again, said",
    [
        ("ada", "password123", None, "too common"),
        ("ada", "short7", None, "at least 10 characters"),
        ("ada", "82736459182736", None, "entirely numeric"),
        ("adalovelace", "adalovelace1", None, "too similar"),
        ("ada", PASSWORD, "another one 8", "didn’t match"),
        ("east-viewer", PASSWORD, None, "already exists"),
        ("", PASSWORD, None, "required"),
    ],
)
def test_a_bad_name_or_password_is_said_and_uses_nothing_up(lab, name, password, again, said):
    link, users = invite(lab), User.objects.count()
    _, answer = make_account(link, name, password, again)
    assert answer.status_code == 422 and said in answer.content.decode()
    assert User.objects.count() == users
    assert make_account(link)[1].status_code == 302  # the link still works


def test_a_link_works_once(lab):
    link = invite(lab)
    assert make_account(link)[1].status_code == 302
    _, answer = make_account(link, "eve")
    assert answer.status_code == 410 and "was used already" in answer.content.decode()
    assert not User.objects.filter(username="eve").exists()  # no account is left behind by a refusal


def test_expired_revoked_and_unknown_links_say_so(lab):
    link = invite(lab)
    Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert "has expired" in make_account(link)[1].content.decode() and "None is open" in page(lab)
    link = invite(lab)
    made = Invitation.objects.latest("id")
    assert post(lab, "manager", f"people/invited/{made.pk}/revoke").status_code == 302
    answer = make_account(link)[1]
    assert answer.status_code == 410 and "was revoked" in answer.content.decode()
    answer = lab.as_("manager").post(f"/labs/east/people/invited/{made.pk}/revoke", follow=True)
    assert "accepted or revoked already" in answer.content.decode()
    answer = Client().get("/invitations/nonsense")
    assert answer.status_code == 404 and "does not exist" in answer.content.decode()
    assert Act.objects.filter(kind="invitation_revoked").count() == 1


def test_a_member_does_not_use_a_link_up(lab):
    link = invite(lab, "manager")
    answer = lab.as_("viewer").post(link)
    assert answer.status_code == 410 and "a member of Lab east already, as viewer" in answer.content.decode()
    assert member(lab, "viewer").role == "viewer" and make_account(link)[1].status_code == 302


def test_of_two_who_come_at_once_one_gets_in(lab):
    made, _ = people.invite_member(lab=lab.row, user=lab.users["manager"], role="viewer")
    users = [User.objects.create_user(f"u{number}") for number in range(4)]
    start, ended = threading.Barrier(len(users)), []

    def accept(user):
        start.wait()
        try:
            people.accept_invitation(invitation=Invitation.objects.get(pk=made.pk), user=user)
            ended.append("in")
        except Conflict:
            ended.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=accept, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["in"] + ["refused"] * 3
    assert Membership.objects.filter(user__in=users).count() == 1


# Roles


def test_a_role_is_changed_and_counts_at_once(lab):
    assert post(lab, "manager", f"people/{member(lab, 'viewer').pk}/role", role="supervisor")
    assert lab.call("viewer", "post", "stations/arm-1/command", {"name": "stop"}).status_code == 200
    act = Act.objects.get(kind="role_changed")
    assert (act.user_name, act.details) == (
        "east-manager",
        {"member": "east-viewer", "from": "viewer", "to": "supervisor"},
    )
    answer = lab.as_("manager").post(
        f"/labs/east/people/{member(lab, 'viewer').pk}/role", {"role": "king"}, follow=True
    )
    assert "is no role" in answer.content.decode()


def test_the_last_manager_stays_one(lab):
    last = member(lab, "manager")
    for act in ("remove", "role"):
        answer = lab.as_("manager").post(f"/labs/east/people/{last.pk}/{act}", {"role": "viewer"}, follow=True)
        assert "is the last manager of Lab east" in answer.content.decode()
    assert member(lab, "manager").role == "manager"
    people.change_role(member=member(lab, "viewer"), role="manager", user=lab.users["manager"])
    post(lab, "manager", f"people/{last.pk}/remove")
    assert not Membership.objects.filter(pk=last.pk).exists()
    assert lab.as_("manager").get("/labs/east/").status_code == 404


def test_two_managers_who_remove_each_other_do_not_both_succeed(lab):
    people.change_role(member=member(lab, "viewer"), role="manager", user=lab.users["manager"])
    pair = [("manager", "viewer"), ("viewer", "manager")]
    start, refused = threading.Barrier(2), []

    def remove(by, whom):
        row = member(lab, whom)
        start.wait()
        try:
            people.remove_member(member=row, user=lab.users[by])
        except Conflict as error:
            refused.append(str(error))
        finally:
            connection.close()

    threads = [threading.Thread(target=remove, args=each) for each in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1 and "last manager" in refused[0]
    assert Membership.objects.filter(lab=lab.row, role="manager").count() == 1


@pytest.mark.parametrize("act", ["remove", "role"])
def test_who_may_not_act_any_more_holds_no_station(lab, act):
    lab.connect()
    assert lab.call("supervisor", "post", "stations/arm-1/command", {"name": "override"}).status_code == 200
    post(lab, "manager", f"people/{member(lab, 'supervisor').pk}/{act}", role="viewer")
    assert not Lease.objects.filter(user=lab.users["supervisor"], released_at=None).exists()
    assert Act.objects.get(kind="override_ended").details["whose"] == "east-supervisor"
    # Another one can take the station now.
    assert lab.call("manager", "post", "stations/arm-1/command", {"name": "override"}).status_code == 200


def test_the_page_says_who_was_here_and_what_roles_may_do(lab):
    assert "never" in page(lab)
    lab.as_("viewer").get("/labs/east/")
    seen = member(lab, "viewer").last_seen
    assert timezone.now() - seen < timedelta(seconds=10)
    lab.as_("viewer").get("/labs/east/")
    assert member(lab, "viewer").last_seen == seen  # to the minute is enough
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', page(lab), re.S)
    table = {words: [cell == "yes" for cell in re.findall(r">(yes|no)<", cells)] for words, cells in rows}
    assert len(table) == len(access.ALLOWED)
    for action, words in access.SAID.items():
        shown = next(cells for said, cells in table.items() if said.lower() == words.replace("'", "&#x27;").lower())
        assert shown == [role in access.ALLOWED[action] for role in ROLES], action

"""Access tokens: what each opens, by the list of calls that there is; their page, their end; guesses; and what programs
fetch, compare and say twice.
"""

import asyncio
import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.db import OperationalError, connections
from django.test import Client
from django.utils import timezone

from fleetui import access
from fleetui.api import link
from fleetui.api.http import api, operations, scope_of
from fleetui.fleet.actions import labs, stops, tokens
from fleetui.fleet.models import SCOPES, AccessToken, Act, Membership
from fleetui.learning.models import Dataset, Run
from tests.fleetui.lab import Lab, as_upload, make_dataset, make_episode, make_sft_run


@pytest.fixture
def lab(db, settings, tmp_path):
    settings.DATA = tmp_path
    return Lab("east")


def make(lab, role="manager", scopes=("read",), of_lab=None, days=1, name="script"):
    given = {"name": name, "scopes": scopes, "lab": of_lab, "days": days}
    return tokens.make_access_token(user=lab.users[role], **given)


def call(token, method="get", path="stations", body=None, lab="east", client=None, **headers):
    """As a program does, without cookies."""
    given = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
    address = path if path.startswith("/") else f"/api/labs/{lab}/{path}"
    headers = {"Authorization": f"Bearer {token}"} | headers
    return getattr(client or Client(enforce_csrf_checks=True), method)(address, headers=headers, **given)


# What a token opens: each call with each scope, by the list of calls that there is

CALLS = {each.view_func.__name__: each for each in operations() if each.view_func.__module__ != link.__name__}
# What no token does, each with the reason.
NO_TOKEN = {
    "archive_station": "changes what there is of a lab",
    "delete_dataset": "is for good",
    "delete_model": "is for good",
    "delete_run": "is for good",
    "delete_station": "is for good",
}


def address_of(name):
    """Any that leads to the call: what is asked for need not be there."""
    for path, calls in api.get_openapi_schema(path_prefix="/api/")["paths"].items():
        for method, each in calls.items():
            if each["operationId"] == name:
                known = {"lab": "east", "uuid": str(uuid.uuid4()), "slug": "no-such", "number": "12345"}
                known |= {"step": "0", "position": "0", "model": "12345"}
                return method, path.format_map(known)
    raise AssertionError(f"{name} has no address")


@pytest.mark.parametrize("name", sorted(CALLS))
def test_each_call_opens_to_the_scope_that_it_says_and_to_no_other(lab, name, monkeypatch):
    # a stop asks who gives it in another thread, which does not see this test's transaction
    monkeypatch.setattr(stops, "get_stopper", lambda key, read: read(key))
    given = {"id": "", "stopped": 0, "recorded": True, "stations": [], "complete": True, "detail": ""}
    monkeypatch.setattr(stops, "stop_stations", lambda **asked: given)
    wanted = scope_of(CALLS[name])
    assert (wanted is None) == (name in NO_TOKEN), (
        f"{name} has no scope for access tokens: say one of {', '.join(SCOPES)} by its auth (api/doors.py), or PAGES "
        "and here why no token does it."
    )
    method, path = address_of(name)
    for scope in SCOPES:
        answer = call(make(lab, scopes=[scope], name=scope)[1], method, path, {} if method != "get" else None)
        is_kept_out = answer.status_code == 403 and answer.json()["code"] == "missing_scope"
        assert is_kept_out == (wanted not in ("", scope)), (name, scope, answer.content)
        assert answer.status_code not in (401, 500), answer.content
    if wanted:
        others = [scope for scope in SCOPES if scope != wanted]
        answer = call(make(lab, scopes=others, name="others")[1], method, path, {} if method != "get" else None)
        assert answer.json()["code"] == "missing_scope" and wanted in answer.json()["detail"]


def test_each_scope_has_calls_and_every_call_a_name_of_its_own():
    scopes = [scope_of(each) for each in CALLS.values()]
    assert set(scopes) == {*SCOPES, "", None}
    names = [each.view_func.__name__ for each in operations()]
    assert len(names) == len(set(names)) and len(CALLS) > 45


def test_a_token_opens_what_its_owner_may_do_now_and_no_more(lab):
    _, token = make(lab, "researcher", scopes=SCOPES)
    assert call(token).status_code == 200
    refused = call(token, "post", "stations/arm-1/command", {"name": "pause"})
    assert refused.status_code == 403 and "Your role in Lab east is researcher" in refused.json()["detail"]
    Membership.objects.filter(user=lab.users["researcher"]).update(role="viewer")
    assert call(token, "post", "runs", {"kind": "sft"}).json()["code"] == "denied"
    Membership.objects.filter(user=lab.users["researcher"]).delete()
    assert call(token).status_code == 404


def test_a_token_of_one_lab_opens_no_other(lab):
    west = Lab("west")
    labs.add_member(lab=west.row, person=lab.users["viewer"], role="viewer")
    _, everywhere = make(lab, "viewer", name="everywhere")
    _, here = make(lab, "viewer", of_lab=lab.row, name="here")
    assert call(everywhere, lab="west").status_code == 200 and call(here).status_code == 200
    refused = call(here, lab="west")
    assert refused.status_code == 404 and "of the lab east alone" in refused.json()["detail"]
    assert [row["slug"] for row in call(here, path="/api/me").json()["labs"]] == ["east"]
    assert [row["slug"] for row in call(everywhere, path="/api/me").json()["labs"]] == ["east", "west"]


def test_who_it_is(lab):
    _, token = make(lab, "supervisor", scopes=["stations"], of_lab=lab.row)
    said = call(token, path="/api/me").json()
    assert said["name"] == "east-supervisor" and said["labs"][0]["role"] == "supervisor"
    assert said["token"]["scopes"] == ["stations"] and said["token"]["lab"] == "east"
    assert lab.as_("viewer").get("/api/me").json()["token"] is None


def test_a_token_is_no_log_in(lab):
    _, token = make(lab, scopes=SCOPES)
    for path in ("/", "/access-tokens", "/password", "/labs/east/", "/labs/east/people"):
        answer = call(token, path=path)
        assert answer.status_code == 302 and "/login" in answer["Location"]
    given = {"name": "another", "scopes": "read", "days": "1"}
    answer = Client().post("/access-tokens/make", given, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 302 and AccessToken.objects.count() == 1


def test_a_session_still_needs_its_csrf_token_and_a_token_none(lab):
    client = Client(enforce_csrf_checks=True)
    client.force_login(lab.users["manager"])
    body = json.dumps({"name": "pause"})
    lab.connect()
    answer = client.post("/api/labs/east/stations/arm-1/command", body, content_type="application/json")
    assert answer.status_code == 403
    _, token = make(lab, scopes=["stations"])
    assert call(token, "post", "stations/arm-1/command", {"name": "pause"}).status_code == 200
    # a wrong token is not made good by a session
    wrong = call(token[:-3] + "xyz", client=client)
    assert wrong.status_code == 401


# Its end


def test_what_is_stored_opens_nothing(lab):
    row, token = make(lab)
    kept = json.dumps(list(AccessToken.objects.values()), default=str)
    assert token not in kept and token.rpartition("_")[2] not in kept
    for guess in (row.token_hash, f"fleet_{row.prefix}_{row.token_hash}", f"fleet_{row.prefix}_", "x", "", "fleet__"):
        assert call(guess).status_code == 401, guess


def test_revoked_expired_and_closed_are_said_only_to_who_has_the_secret(lab):
    for change, word in (
        ({"revoked_at": timezone.now()}, "was revoked"),
        ({"created_at": timezone.now() - timedelta(days=9), "expires_at": timezone.now()}, "expired on 20"),
    ):
        row, token = make(lab, name=word)
        assert call(token).status_code == 200
        AccessToken.objects.filter(pk=row.pk).update(**change)
        answer = call(token)
        assert answer.status_code == 401 and word in answer.json()["detail"]
        assert answer["WWW-Authenticate"] == "Bearer"
        assert "not known" in call(f"{token}x").json()["detail"]
    _, token = make(lab, "viewer")
    lab.users["viewer"].is_active = False
    lab.users["viewer"].save()
    assert "closed" in call(token).json()["detail"]


def test_a_reset_password_ends_them(lab):
    _, token = make(lab, "viewer")
    member = Membership.objects.get(user=lab.users["viewer"])
    lab.as_("manager").post(f"/labs/east/people/{member.pk}/password")
    assert "was revoked" in call(token).json()["detail"]


def test_last_use_is_kept_to_the_minute(lab):
    row, token = make(lab)
    assert row.last_used_at is None
    call(token)
    row.refresh_from_db()
    first = row.last_used_at
    call(token)
    row.refresh_from_db()
    assert first is not None and row.last_used_at == first
    AccessToken.objects.update(last_used_at=first - timedelta(minutes=2))
    call(token)
    row.refresh_from_db()
    assert row.last_used_at > first - timedelta(minutes=1)


# Guesses


def test_a_guesser_waits_and_nobody_else(lab, settings):
    row, token = make(lab)
    other = make(lab, "viewer")[1]
    wrong = [call(f"fleet_{row.prefix}_{number}") for number in range(12)]
    assert [each.status_code for each in wrong] == [401] * 10 + [429] * 2
    late = call(token)
    assert late.status_code == 429 and late.json()["code"] == "too_many_tries"
    assert call(other).status_code == 200
    assert call(token, client=Client(REMOTE_ADDR="10.0.0.9")).status_code == 200
    (act,) = Act.objects.filter(kind="access_token_refused")
    assert act.lab == lab.row and act.details["token"] == "script" and act.details["address"] == "127.0.0.1"
    AccessAttempt.objects.update(attempt_time=timezone.now() - settings.AXES_COOLOFF_TIME - timedelta(seconds=1))
    assert call(token).status_code == 200


def test_what_is_no_token_at_all_is_counted_too_and_locks_no_token(lab):
    _, token = make(lab)
    assert [call(f"guess{number}").status_code for number in range(12)] == [401] * 10 + [429] * 2
    assert call(token).status_code == 200 and lab.as_("viewer").get("/labs/east/").status_code == 200


def test_an_expired_token_that_a_script_goes_on_using_locks_nobody(lab):
    row, token = make(lab)
    AccessToken.objects.filter(pk=row.pk).update(revoked_at=timezone.now())
    assert {call(token).status_code for _ in range(15)} == {401}


# A stop


@pytest.fixture
def committed(transactional_db, settings, tmp_path):
    """The same where other threads see it."""
    settings.DATA = tmp_path
    return Lab("east")


def test_a_stop_by_a_token_waits_for_no_throttle_and_no_database(committed, monkeypatch):
    lab = committed
    row, token = make(lab, "supervisor", scopes=["stations"])
    for number in range(12):
        call(f"fleet_{row.prefix}_{number}")
    assert call(token, path="/api/me").status_code == 429
    answer = call(token, "post", "stop")
    assert answer.status_code == 200, answer.content
    assert {each["station"] for each in answer.json()["stations"]} == {"arm-1", "arm-2"}
    assert call(make(lab, "viewer", scopes=["stations"])[1], "post", "stop").json()["code"] == "denied"
    assert call(make(lab, "supervisor", scopes=["read"], name="r")[1], "post", "stop").json()["code"] == "missing_scope"
    assert call(f"{token}x", "post", "stop").status_code == 401

    def away(*args):
        raise OperationalError("away")

    monkeypatch.setattr(access, "get_access_token", away)
    assert call(token, "post", "stop").status_code == 200, "it was known a moment ago"
    assert call(f"{token}x", "post", "stop").status_code == 503


# The audit log


def test_what_a_program_does_is_in_the_log_with_its_tokens_name(lab):
    lab.connect()
    _, token = make(lab, scopes=["stations"], name="night watch")
    call(token, "post", "stations/arm-1/command", {"name": "pause"})
    act = Act.objects.get(kind="pause")
    assert act.user_name == "east-manager" and act.source == "API" and act.details["by_token"] == "night watch"
    lab.call("manager", "post", "stations/arm-2/command", {"name": "pause"})
    assert "by_token" not in Act.objects.filter(kind="pause").first().details
    made = Act.objects.get(kind="access_token_made")
    assert made.details["scopes"] == ["stations"] and token not in json.dumps(made.details)


# Said twice


def test_a_launch_said_twice_is_one_run(lab):
    run = {"kind": "sft", "dataset": make_dataset(lab).pk, "recipe": {"steps": 40}}
    _, token = make(lab, scopes=["launch"])
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first, again = (call(token, "post", "runs", run, **key) for _ in range(2))
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    assert Run.objects.count() == 1
    other = call(token, "post", "runs", run | {"name": "other"}, **key)
    assert other.status_code == 409 and "used for another call" in other.json()["detail"]
    refused = {"Idempotency-Key": str(uuid.uuid4())}
    assert call(token, "post", "runs", run | {"recipe": {"steps": -1}}, **refused).status_code == 422
    assert call(token, "post", "runs", run, **refused).status_code == 200, "what was refused may be said again"
    assert Run.objects.count() == 2
    assert call(token, "post", "runs", run, **{"Idempotency-Key": "short"}).status_code == 422
    assert call(token, "post", "runs", run).status_code == 200 and Run.objects.count() == 3


def test_a_launch_said_twice_at_the_same_time_is_one_run(committed):
    run = {"kind": "sft", "dataset": make_dataset(committed).pk, "recipe": {"steps": 40}}
    _, token = make(committed, scopes=["launch"])
    key = {"Idempotency-Key": str(uuid.uuid4())}

    def say(_):
        try:
            return call(token, "post", "runs", run, **key)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        said = list(threads.map(say, range(4)))
    assert [each.status_code for each in said] == [200] * 4 and all(each.json() == said[0].json() for each in said)
    assert Run.objects.count() == Act.objects.filter(kind="run_launched").count() == 1


# What programs fetch


def fetched(answer):
    """As a server sends it."""

    async def read():
        return b"".join([piece async for piece in answer.streaming_content])

    return asyncio.run(read())


def test_files_come_whole_or_from_the_middle_on(lab):
    dataset = make_dataset(lab)
    content = dataset.file.read_bytes()
    _, token = make(lab, "viewer")
    path = f"datasets/{dataset.pk}/file"
    whole = call(token, path=path)
    assert whole.status_code == 200 and fetched(whole) == content and whole["Content-Length"] == str(len(content))
    tag = whole["ETag"]
    size = len(content)
    for asked, part in (("bytes=10-", content[10:]), ("bytes=3-7", content[3:8]), ("bytes=-5", content[-5:])):
        answer = call(token, path=path, Range=asked, **{"If-Range": tag})
        assert answer.status_code == 206 and fetched(answer) == part, asked
        assert re.fullmatch(rf"bytes \d+-\d+/{size}", answer["Content-Range"])
    assert call(token, path=path, Range=f"bytes={size}-").status_code == 416
    for asked in ("bytes=0-1,3-4", "pages=1-2", "bytes=-", "bytes=x-"):
        assert fetched(call(token, path=path, Range=asked)) == content, asked
    dataset.file.write_bytes(content + b"more")
    other = call(token, path=path, Range="bytes=10-", **{"If-Range": tag})
    assert other.status_code == 200 and fetched(other) == content + b"more", "it is another file by now"
    Dataset.objects.update(state="generating")
    assert call(token, path=path).status_code == 409


def test_checkpoints_and_episodes_are_handed_out_to_their_lab_alone(lab):
    checkpoint = make_sft_run(lab, make_dataset(lab)).checkpoints.first()
    recorded = make_episode()
    lab.upload(as_upload(recorded))
    _, token = make(lab, "viewer")
    _, stranger = make(Lab("west"), "manager")
    for path in (f"checkpoints/{checkpoint.pk}/file", f"episodes/{recorded.uuid}/file"):
        answer = call(token, path=path)
        assert answer.status_code == 200 and len(fetched(answer)) > 10
        assert call(stranger, path=path).status_code == 404
        assert call(stranger, path=path, lab="west").status_code == 404
    assert call(token, path=f"checkpoints/{checkpoint.pk}/file")["Repr-Digest"].startswith("sha-256=:")
    checkpoint.file.unlink()
    assert call(token, path=f"checkpoints/{checkpoint.pk}/file").status_code == 404


def test_runs_side_by_side(lab):
    from fleetui.learning.models import Metric

    run = make_sft_run(lab, make_dataset(lab))
    other = Run.objects.create(
        lab=lab.row, name="b", kind="sft", recipe=run.recipe | {"steps": 7}, dataset=run.dataset, state="failed"
    )
    level = {"version": 0, "practice_episodes": 0, "successes": 9, "n": 10, "steps_to_success": 50.0}
    Metric.objects.create(run=run, seq=1, kind="evaluation", data=level | {"successes": 1}, at=timezone.now())
    Metric.objects.create(run=run, seq=2, kind="evaluation", data=level, at=timezone.now())
    _, token = make(lab, "viewer")
    said = call(token, path=f"comparison?runs={other.pk},{run.pk}").json()
    assert [row["id"] for row in said["runs"]] == [other.pk, run.pk]
    assert said["runs"][0]["evaluation"] is None
    newest = said["runs"][1]["evaluation"]
    assert newest["rate"] == 0.9 and 0.5 < newest["low"] < 0.9 < newest["high"] < 1
    assert said["differences"] == {"steps": [7, run.recipe["steps"]]}
    for wrong, status in (("", 404), ("x", 404), (",".join("1" * 21), 422), (str(10**30), 404)):
        assert call(token, path=f"comparison?runs={wrong}").status_code == status, wrong


# The page


def page(lab, role="viewer", path="/access-tokens"):
    return lab.as_(role).get(path).content.decode()


def test_the_page_shows_a_token_once_and_takes_it_back(lab):
    assert "You have none" in page(lab) and "/access-tokens" in page(lab, path="/password")
    given = {"name": "my notebook", "scopes": ["read", "data"], "days": "30", "lab": "east"}
    answer = lab.as_("viewer").post("/access-tokens/make", given)
    (token,) = re.findall(r"fleet_[0-9a-f]{8}_[\w-]{43}", answer.content.decode())
    assert answer.status_code == 200 and call(token).status_code == 200
    assert token not in page(lab) and "my notebook" in page(lab) and "read, data" in page(lab)
    row = AccessToken.objects.get()
    assert row.lab == lab.row and (row.expires_at - row.created_at).days == 30
    assert lab.as_("manager").post(f"/access-tokens/{row.pk}/revoke").status_code == 404, "it is another one's"
    assert call(token).status_code == 200
    answer = lab.as_("viewer").post(f"/access-tokens/{row.pk}/revoke", follow=True)
    assert "is revoked" in answer.content.decode() and call(token).status_code == 401
    assert lab.as_("viewer").get("/access-tokens").content.decode().count("Revoke") == 0


def test_a_form_with_mistakes_says_each_and_makes_nothing(lab):
    Lab("west")
    for given, sentence in (
        ({"scopes": ["read"], "days": "1"}, "This field is required"),
        ({"name": "a", "days": "1"}, "Choose what it may do"),
        ({"name": "a", "scopes": ["all"], "days": "1"}, "not one of the available choices"),
        ({"name": "a", "scopes": ["read"], "days": "366"}, "less than or equal to 365"),
        ({"name": "a", "scopes": ["read"], "days": "0"}, "greater than or equal to 1"),
        ({"name": "a", "scopes": ["read"], "days": "1", "lab": "west"}, "not one of the available choices"),
    ):
        answer = lab.as_("viewer").post("/access-tokens/make", given)
        assert answer.status_code == 422 and sentence in answer.content.decode(), given
    assert not AccessToken.objects.exists()
    make(lab, "viewer", name="a")
    answer = lab.as_("viewer").post("/access-tokens/make", {"name": "a", "scopes": ["read"], "days": "1"})
    assert answer.status_code == 422 and "already have an access token named a" in answer.content.decode()


def test_what_a_form_can_not_ask_the_action_refuses(lab):
    for wrong in ({"days": 366}, {"days": 0}, {"scopes": ()}, {"scopes": ("everything",)}, {"name": " "}):
        with pytest.raises(access.Invalid):
            make(lab, **wrong)
    with pytest.raises(access.NotFound):
        make(lab, of_lab=Lab("west").row)

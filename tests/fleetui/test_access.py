"""Who may do what: each role at each door, and another lab, which does not exist for anybody outside it."""

import json

import numpy as np
import pytest
from django.test import Client

from fleetui import access
from fleetui.fleet.actions.attention import note_need
from fleetui.fleet.models import Intervention, Station
from robots.attention import need_of
from tests.fleetui.lab import ROLES, as_upload, make_episode

BODIES = {
    "command": ("stations/arm-1/command", {"name": "pause"}),
    "stop_lab": ("stop", {}),
    "acknowledge_help": ("help/HELP/acknowledge", {}),
    "take_help": ("help/HELP/take", {}),
    "release_help": ("help/HELP/release", {}),
    "close_help": ("help/HELP/close", {"outcome": "looked at it"}),
    "label_episode": ("episodes/EPISODE/label", {"true_success": True}),
    "add_correction": ("episodes/EPISODE/dataset", {}),
    "create_task": ("tasks", {"family": "block_to_place"}),
    "assign": ("assignments", {"task": "block2block", "stations": ["arm-1"]}),
    "generate_dataset": ("datasets", {"name": "d", "families": ["block2block"], "episodes": 5}),
    "launch_run": ("runs", {"kind": "sft", "dataset": None, "recipe": {}}),
}
MAY = {
    "command": {"supervisor", "manager"},
    "stop_lab": {"supervisor", "manager"},
    "acknowledge_help": {"supervisor", "manager"},
    "take_help": {"supervisor", "manager"},
    "release_help": {"supervisor", "manager"},
    "close_help": {"supervisor", "manager"},
    "label_episode": {"supervisor", "manager"},
    "add_correction": {"supervisor", "researcher", "manager"},
    "create_task": {"manager"},
    "assign": {"manager"},
    "generate_dataset": {"researcher", "manager"},
    "launch_run": {"researcher", "manager"},
}


@pytest.mark.parametrize("action", BODIES)
def test_each_role_at_each_door(lab, other_lab, dataset, action):
    path, body = BODIES[action]
    if action == "launch_run":
        body = body | {"dataset": dataset.pk}
    if "EPISODE" in path:
        correction = make_episode(purpose="correction", actors=np.ones(10, np.uint8))
        assert lab.upload(as_upload(correction)).status_code == 200
        path = path.replace("EPISODE", correction.uuid)
        assert other_lab.call("manager", "post", path, body).status_code == 404
    if "HELP" in path:
        call = note_need(station=lab.stations[0], need=need_of(state="stopped", reason="by a person", state_for_s=1.0))
        path = path.replace("HELP", str(call.pk))
        assert other_lab.call("manager", "post", path, body).status_code == 404
    for role in ROLES:
        answer = lab.call(role, "post", path, body)
        if role not in MAY[action]:
            assert answer.status_code == 403, role
            assert role in answer.json()["detail"] and "takes a" in answer.json()["detail"]
    allowed = sorted(MAY[action])[0]
    answer = lab.call(allowed, "post", path, body)
    assert answer.status_code in (200, 409), answer.content  # 409: an earlier role of the loop did it already


def test_a_denied_command_leaves_no_trace(lab):
    lab.call("viewer", "post", "stations/arm-1/command", {"name": "stop"})
    lab.stations[0].refresh_from_db()
    assert not lab.stations[0].stop_latched and not Intervention.objects.exists()


PATHS = [
    "stations",
    "help",
    "stations/arm-1",
    "stations/arm-1/rewind",
    "tasks",
    "assignments",
    "datasets",
    "runs",
    "episodes",
]


@pytest.mark.parametrize("path", PATHS)
def test_every_member_sees_and_nobody_else(lab, other_lab, path):
    for role in ROLES:
        assert lab.call(role, "get", path).status_code == 200, role
    stranger = other_lab.as_("manager").get(f"/api/labs/{lab.slug}/{path}")
    nowhere = other_lab.as_("manager").get(f"/api/labs/nowhere/{path}")
    assert stranger.status_code == nowhere.status_code == 404
    # The answer must not tell whether the lab exists.
    assert stranger.json()["detail"].replace("east", "?") == nowhere.json()["detail"].replace("nowhere", "?")


def test_objects_of_another_lab_are_not_found_under_ones_own(lab, other_lab, sft_run, dataset):
    for path in (f"runs/{sft_run.pk}", f"runs/{sft_run.pk}/metrics"):
        assert other_lab.call("manager", "get", path).status_code == 404
    body = {"kind": "sft", "dataset": dataset.pk, "recipe": {}}
    assert other_lab.call("manager", "post", "runs", body).status_code == 404
    assert other_lab.call("manager", "post", f"runs/{sft_run.pk}/cancel").status_code == 404


def test_a_station_fetches_checkpoints_of_its_own_lab_only(lab, other_lab, sft_run):
    policy = sft_run.newest_checkpoint("policy")
    url = f"/api/station/checkpoints/{policy.uuid}"

    def fetch(token):
        return Client().get(url, headers={"Authorization": f"Bearer {token}"})

    answer = fetch(lab.tokens["arm-1"])
    assert answer.status_code == 200 and answer.content == policy.file.read_bytes()
    assert fetch(other_lab.tokens["arm-1"]).status_code == 404
    assert fetch("wrong").status_code == 401


def test_without_a_session_or_its_token_nothing_is_answered(lab):
    assert Client().get("/api/labs/east/stations").status_code == 401
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(lab.users["manager"])
    answer = strict.post(
        "/api/labs/east/stations/arm-1/command", json.dumps({"name": "pause"}), content_type="application/json"
    )
    assert answer.status_code == 403
    lab.stations[0].refresh_from_db()
    assert not lab.stations[0].paused


def test_the_token_is_kept_as_a_hash(lab):
    station, token = lab.stations[0], lab.tokens["arm-1"]
    assert token not in json.dumps({name: str(value) for name, value in vars(station).items()})
    assert access.get_station_by_token(Station, token) == station
    assert access.get_station_by_token(Station, "") is None


EVERYONE = set(ROLES)
PAGES = {  # page -> who may; (method, path)
    ("get", "stations/"): EVERYONE,
    ("get", "stations/new"): {"manager"},
    ("get", "people"): {"manager"},
    ("post", "people/invite"): {"manager"},
    ("get", "audit"): {"supervisor", "manager"},
    ("get", "audit/export.csv"): {"supervisor", "manager"},
    ("get", "audit/export.json"): {"supervisor", "manager"},
    ("post", "stations/arm-1/maintenance"): {"supervisor", "manager"},
    ("post", "stations/arm-1/token/renew"): {"manager"},
    ("post", "stations/arm-1/archive"): {"manager"},
    ("post", "attention/contacts"): {"manager"},
    ("post", "tasks/new"): {"manager"},
    ("get", "tasks/block2block/edit"): {"manager"},
    ("post", "tasks/block2block/edit"): {"manager"},
    ("post", "tasks/block2block/archive"): {"manager"},
    ("post", "tasks/block2block/restore"): {"manager"},
    ("post", "tasks/assignments/new"): {"manager"},
    ("post", "datasets/generate"): {"researcher", "manager"},
    ("post", "datasets/upload"): {"researcher", "manager"},
}


@pytest.mark.parametrize("page", PAGES)
def test_each_role_at_each_page(lab, other_lab, page):
    method, path = page
    url = f"/labs/{lab.slug}/{path}"
    for role in ROLES:
        status = getattr(lab.as_(role), method)(url).status_code
        assert (status != 403) == (role in PAGES[page]) and status != 500, (role, status)
    assert getattr(other_lab.as_("manager"), method)(url).status_code == 404
    answer = getattr(Client(), method)(url)
    assert answer.status_code == 302 and answer["Location"].startswith("/login?next=")

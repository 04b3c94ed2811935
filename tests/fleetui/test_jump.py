"""Ctrl+K: what it finds for whom, and that everything found is there. The count of open help requests beside it."""

import re

import pytest

from fleetui.fleet.actions.attention import acknowledge_help, close_help, note_need
from fleetui.fleet.jump import ACTS, OWN, PAGES
from robots.attention import need_of
from tests.fleetui.lab import ROLES, as_upload, make_episode


def jump(lab, role, query=""):
    return lab.as_(role).get(f"/labs/{lab.slug}/jump", {"q": query}).json()["results"]


def found(lab, role, query):
    return {(row["kind"], row["title"]) for row in jump(lab, role, query)}


def test_it_finds_pages_datasets_people_and_acts_too(lab, sft_run):
    assert ("page", "Datasets") in found(lab, "viewer", "data")
    assert ("dataset", "demos") in found(lab, "viewer", "demo")
    assert ("person", "east-viewer") in found(lab, "manager", "east-v")
    assert ("act", "Add a station") in found(lab, "manager", "station add")
    assert ("act", "Software stop of all stations") in found(lab, "supervisor", "stop all")
    assert ("station", "Arm 1") in found(lab, "viewer", "arm")
    assert ("run", "sft") in found(lab, "viewer", "sft")
    assert ("task", lab.task.name) in found(lab, "viewer", "block2")
    assert lab.upload(as_upload(make_episode())).status_code == 200
    assert any(kind == "episode" for kind, _ in found(lab, "viewer", "push the blue"))
    assert ("page", "Your password") in found(lab, "viewer", "password")
    assert jump(lab, "manager", "nothing is called so") == []


@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_offered_that_the_role_may_not_open(lab, sft_run, role):
    offered = jump(lab, role) + jump(lab, role, "a")
    assert {"page", "station"} <= {row["kind"] for row in offered}
    for row in offered:
        if "act" in row:
            assert role in ("supervisor", "manager")
            continue
        url, _, anchor = row["url"].partition("#")
        answer = lab.as_(role).get(url)
        assert answer.status_code == 200, row
        assert not anchor or f'id="{anchor}"' in answer.content.decode(), row
    if role == "manager":
        assert {title for title, *_ in (*PAGES, *OWN, *ACTS)} <= {row["title"] for row in offered}


def test_another_labs_names_are_not_found(lab, other_lab, sft_run):
    assert not found(other_lab, "manager", "demos") and not found(other_lab, "manager", "east-viewer")
    assert other_lab.as_("manager").get(f"/labs/{lab.slug}/jump").status_code == 404


@pytest.mark.parametrize(
    "path", ["", "runs/", "episodes/", "datasets/", "tasks/", "charts/", "stations/", "attention/"]
)
def test_every_page_says_how_many_requests_are_open(lab, path):
    def shown():
        page = lab.as_("viewer").get(f"/labs/{lab.slug}/{path}").content.decode()
        return re.search(r'id="help-count"[^>]*?( hidden)?><span>(\d+)</span>', page).groups()

    def counted():
        return lab.as_("viewer").get(f"/labs/{lab.slug}/attention/count").json()

    assert shown() == (" hidden", "0") and counted() == {"open": 0}
    need = need_of(state="stopped", reason="by a person", state_for_s=1.0)
    calls = [note_need(station=station, need=need) for station in lab.stations]
    acknowledge_help(request=calls[0], user=lab.users["supervisor"])  # seen, but open
    assert shown() == (None, "2") and counted() == {"open": 2}
    close_help(request=calls[0], user=lab.users["supervisor"], outcome="looked")
    assert shown() == (None, "1") and counted() == {"open": 1}


def test_the_count_is_for_members_only(lab, other_lab):
    assert other_lab.as_("manager").get(f"/labs/{lab.slug}/attention/count").status_code == 404

"""Every page for every role: what is shown, what is refused in words, and that a form with an error loses nothing."""

import html
import json
import re
import time
import uuid
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from fleetui import access
from fleetui.fleet.models import SHOWN_STATES, Assignment, Station, Task
from fleetui.learning.models import Dataset, Run
from tests.fleetui.lab import ROLES, Lab, as_upload, make_dataset, make_episode, make_improve_run, make_sft_run


@pytest.fixture
def lab(db, settings, tmp_path):
    settings.DATA = tmp_path
    return Lab("north")


def get(lab, role, path, **query):
    return lab.as_(role).get(f"/labs/{lab.slug}/{path}", query)


def post(lab, role, path, **data):
    return lab.as_(role).post(f"/labs/{lab.slug}/{path}", data)


PAGES = ("", "stations/", "stations/arm-1", "runs/", "episodes/", "datasets/", "tasks/", "charts/")
PAGES += ("checkpoints/", "spot-checks/", "playground", "machines", "models/")


@pytest.mark.parametrize("path", PAGES)
def test_pages_lead_strangers_to_the_log_in_and_hide_the_lab_from_others(lab, path):
    answer = Client().get(f"/labs/{lab.slug}/{path}")
    assert answer.status_code == 302 and answer["Location"].startswith("/login?next=")
    answer = Lab("south").as_("manager").get(f"/labs/{lab.slug}/{path}")
    assert answer.status_code == 404 and "member of" in answer.content.decode()


@pytest.mark.parametrize("role", ROLES)
def test_members_see_every_page_each_with_its_own_title(lab, role):
    titles = set()
    for path in PAGES:
        answer = get(lab, role, path)
        assert answer.status_code == 200
        titles.add(answer.content.decode().partition("<title>")[2].partition("</title>")[0])
    assert len(titles) == len(PAGES)


def test_scripts_have_the_states_of_stations_from_their_one_declaration(lab):
    (served,) = re.findall(r'data-states="([^"]*)"', get(lab, "viewer", "").content.decode())
    states = json.loads(html.unescape(served))
    assert {name: each["words"] for name, each in states.items()} == {
        state.name: state.words for state in SHOWN_STATES.values()
    }
    assert [name for name, each in states.items() if each["moved_by"] == "policy"] == ["practising", "evaluating"]
    scripts = Path(__file__).resolve().parents[2] / "fleetui" / "static" / "js"
    for script in scripts.glob("*.js"):
        text = script.read_text()
        assert not re.search(r'"(Needs a person|Practising|Evaluating|Overridden)"', text), script.name


def test_the_wall_counts_first_what_needs_a_person(lab):
    counted = re.findall(r'<span class="state" data-state="(\w+)" hidden>', get(lab, "viewer", "").content.decode())
    assert counted == [
        *("needs_person", "stopped", "overridden", "practising", "evaluating"),
        *("waiting", "paused", "maintenance", "idle", "offline"),
    ]


def test_acts_are_shown_to_those_who_may_act(lab):
    assert 'data-command="override"' in get(lab, "supervisor", "stations/arm-1").content.decode()
    page = get(lab, "viewer", "stations/arm-1").content.decode()
    assert 'data-command="override"' not in page and "a supervisor or a manager can act on it" in page


@pytest.mark.parametrize(
    "role, path",
    [("supervisor", "runs/new?kind=sft"), ("researcher", "stations/new"), ("viewer", "runs/new?kind=improve")],
)
def test_a_missing_role_is_said_in_words(lab, role, path):
    answer = lab.as_(role).get(f"/labs/{lab.slug}/{path}")
    assert answer.status_code == 403 and f"Your role in Lab north is {role}" in answer.content.decode()


def test_the_first_steps_begin_with_what_is_missing(lab):
    assert "Make a dataset" in get(lab, "researcher", "").content.decode()
    dataset = make_dataset(lab)
    assert f"kind=sft&amp;dataset={dataset.pk}" in get(lab, "researcher", "").content.decode()
    page = get(lab, "supervisor", "").content.decode()
    assert "runs/new" not in page and "A researcher or manager does this" in page


def test_launching_a_run_that_makes_no_sense_keeps_what_was_typed(lab):
    make_dataset(lab)
    answer = post(
        lab, "researcher", "runs/new?kind=sft", dataset=Dataset.objects.get().pk, steps="many", batch="1", name="mine"
    )
    page = answer.content.decode()
    assert answer.status_code == 422 and not Run.objects.exists()
    assert (
        "must be a whole number" in page and "at least 2" in page and 'value="many"' in page and 'value="mine"' in page
    )


def test_launching_a_run_by_a_plain_form(lab):
    dataset = make_dataset(lab)
    answer = post(lab, "researcher", "runs/new?kind=sft", dataset=dataset.pk, steps="40", name="mine")
    run = Run.objects.get()
    assert answer.status_code == 302 and answer["Location"] == f"/labs/north/runs/{run.pk}"
    assert (run.recipe["steps"], run.recipe["batch"], run.name) == (
        40,
        256,
        "mine",
    )  # what is left empty takes its default
    assert "Waiting for its turn" in get(lab, "viewer", f"runs/{run.pk}").content.decode()
    answer = lab.as_("researcher").post(f"/labs/north/runs/{run.pk}/cancel", follow=True)
    assert "is being canceled" in answer.content.decode()
    run.refresh_from_db()
    assert run.state == "canceled"
    answer = lab.as_("researcher").post(f"/labs/north/runs/{run.pk}/pause", follow=True)
    assert "only a running run can be paused" in answer.content.decode()


def test_an_improvement_without_a_start_says_what_comes_first(lab):
    page = get(lab, "researcher", "runs/new", kind="improve").content.decode()
    assert "Train from demonstrations first" in page
    assert "Train first" in page and ">Launch<" not in page


def add_station(lab, **given):
    """The page that the form leads to."""
    answer = post(lab, "manager", "stations/new", **given)
    assert answer.status_code == 302, answer.content
    return lab.as_("manager").get(answer.url).content.decode()


def test_a_new_station_shows_its_token_and_no_other_page_does(lab):
    page = add_station(lab, name="Arm 9", simulated="on", world="language_table", seed="3")
    token = page.partition('id="token">')[2].partition("<")[0]
    station = Station.objects.get(slug="arm-9")
    assert station.token_hash == access.hash_token(token)
    assert "practise --server http://testserver --tokens arm-9.json" in page
    assert token not in get(lab, "manager", "stations/arm-9").content.decode()
    answer = post(lab, "manager", "stations/new", name="Arm 9", simulated="on", world="language_table", seed="3")
    assert answer.status_code == 422 and "already has a station" in answer.content.decode()


def test_a_real_station_is_told_where_to_connect_not_to_simulate(lab):
    page = add_station(lab, name="Arm 9", seed="1")
    token = page.partition('id="token">')[2].partition("<")[0]
    assert f"FLEET_SERVER=http://testserver FLEET_TOKEN={token}" in page and "training practise" not in page
    post(lab, "manager", "stations/new", name="Arm 10", seed="1", embodiment="language_table")
    assert Station.objects.get(slug="arm-10").embodiment["name"] == "language_table"


def test_labels_name_their_own_field(lab):
    """Two forms on a page must not share an id: a label would lead to the other form's field."""
    for path in ("datasets/", "tasks/", "stations/arm-1", "runs/new?kind=improve"):
        ids = re.findall(r' id="([^"]+)"', lab.as_("manager").get(f"/labs/{lab.slug}/{path}").content.decode())
        assert len(ids) == len(set(ids)), path


def test_tasks_are_made_assigned_and_canceled(lab):
    assert post(lab, "manager", "tasks/new", family="block_to_place", name="Places").status_code == 302
    task = Task.objects.get(name="Places")
    answer = post(lab, "manager", "tasks/assignments/new", task=task.pk)
    assert answer.status_code == 422 and "Choose at least one station." in answer.content.decode()
    stations = [station.pk for station in lab.stations]
    assert post(lab, "manager", "tasks/assignments/new", task=task.pk, stations=stations).status_code == 302
    assignment = Assignment.objects.get()
    assert assignment.stations.count() == 2
    assert "waits for a person to launch a run for it" in get(lab, "manager", "tasks/").content.decode()
    assert post(lab, "researcher", f"tasks/assignments/{assignment.pk}/cancel").status_code == 403
    assert post(lab, "manager", f"tasks/assignments/{assignment.pk}/cancel").status_code == 302
    assignment.refresh_from_db()
    assert assignment.state == "canceled"


def test_station_settings_are_checked(lab):
    answer = post(lab, "supervisor", "stations/arm-1/settings", self_reset_after_s="-3", shuffle_every_s="120")
    assert answer.status_code == 422
    assert (
        post(lab, "supervisor", "stations/arm-1/settings", self_reset_after_s="3", shuffle_every_s="120").status_code
        == 302
    )
    station = Station.objects.get(slug="arm-1")
    assert (station.self_reset_after_s, station.shuffle_every_s) == (3.0, 120.0)


def test_episodes_are_filtered_and_shareable(lab):
    lab.upload(
        as_upload(
            make_episode(),
            make_episode(
                instruction="slide the red moon to the blue cube", detected_success=True, ending="detected_success"
            ),
        )
    )
    assert "2 episodes" in get(lab, "viewer", "episodes/").content.decode()
    page = get(lab, "viewer", "episodes/", detected="yes").content.decode()
    assert "1 episode found" in page and "red moon" in page and "push the blue cube" not in page
    page = get(lab, "viewer", "episodes/", ending="sideways").content.decode()
    assert "2 episodes found" in page and "sideways is not one of the available choices" in page
    assert get(lab, "viewer", f"episodes/{uuid.uuid4()}").status_code == 404


def test_a_truncated_upload_is_a_form_error(lab):
    whole = as_upload(make_episode(purpose="demonstration", actors=np.full(10, 2, np.uint8)))
    for body, status in ((whole[: len(whole) // 2], 422), (whole, 302)):
        answer = post(lab, "researcher", "datasets/upload", name="mine", file=SimpleUploadedFile("a.safetensors", body))
        assert answer.status_code == status
    assert Dataset.objects.get().episodes == 1


def test_jump_finds_stations_of_this_lab_only(lab):
    Lab("south")
    found = get(lab, "viewer", "jump", q="arm 2").json()["results"]
    assert [(row["kind"], row["url"]) for row in found] == [("station", "/labs/north/stations/arm-2")]


def test_errors_name_the_labels_and_stand_on_top_of_the_page(lab):
    dataset = make_dataset(lab)
    bad = {"steps": "many", "batch": "1", "threads": "0", "dataset": dataset.pk}
    page = post(lab, "researcher", "runs/new?kind=sft", **bad).content.decode()
    top = " ".join(page.partition('id="problems"')[2].partition("</div>")[0].split())
    assert "3 things need a change." in top
    for field, sentence in (
        ("steps", "Updates must be a whole number, not &#x27;many&#x27;."),
        ("batch", "Batch size is 1; it must be at least 2."),
        ("threads", "Threads is 0; it must be at least 1."),
    ):
        assert f'<a href="#id_{field}">' in top and f'id="id_{field}"' in page
        assert top.count(sentence) == 1 and page.count(sentence) == 2  # on top, and beside the field
    assert "steps must" not in page and "batch is" not in page


REFUSED = {  # page -> what is sent to it, which one of its forms refuses, and a word of the sentence
    "tasks/new": ({"family": "block2block", "time_limit_steps": "0"}, "Time limit"),
    "datasets/generate": ({"name": "", "episodes": "1"}, "Name"),
    "stations/new": ({"name": "", "seed": "1"}, "Name"),
    "stations/arm-1/settings": ({"shuffle_every_s": "0"}, "Ask for a shuffle every"),
    "stations/arm-1/maintenance": ({"reason": ""}, "Why"),
    "attention/contacts": ({"name": "", "address": "x", "severity": "error", "after_s": "1"}, "Name"),
    "people/invite": ({"role": "king"}, "Role"),
}


@pytest.mark.parametrize("path", REFUSED)
def test_every_page_says_on_top_what_its_form_refused(lab, path):
    given, label = REFUSED[path]
    answer = lab.as_("manager").post(f"/labs/{lab.slug}/{path}", given)
    top = answer.content.decode().partition('id="problems"')[2].partition("</div>")[0]
    assert answer.status_code == 422 and "a change." in top and f">{label}</a>" in top


def test_a_page_without_errors_has_no_banner(lab):
    for path in PAGES:
        assert 'id="problems"' not in get(lab, "manager", path).content.decode()


def test_episodes_stand_in_the_order_that_the_page_shows(lab):
    """By when they arrived: a station that was cut off sends old ones late, and its clock may be wrong."""
    for name, ago in {"first": 10, "spooled": 9000, "ahead": -4000, "last": 0}.items():
        body = as_upload(make_episode(instruction=name, started_at=time.time() - ago))
        assert lab.upload(body).status_code == 200
    page = get(lab, "viewer", "episodes/").content.decode()
    rows = re.findall(r'<tr><td class="wide grow"><a[^>]*>(\w+)</a>.*?<time datetime="([^"]+)"', page, re.S)
    assert [name for name, _ in rows] == ["last", "ahead", "spooled", "first"]
    assert [at for _, at in rows] == sorted((at for _, at in rows), reverse=True)


@pytest.mark.parametrize("state, waits", [("stopped", True), ("practising", False)])
def test_no_time_left_is_said_while_nobody_can_practise(lab, state, waits):
    run = make_improve_run(lab, make_sft_run(lab, make_dataset(lab)))
    Run.objects.filter(pk=run.pk).update(eta_s=1140, practice_episodes=40, progress=0.2)
    Assignment.objects.update(started_at=timezone.now() - timedelta(minutes=5), state="underway")
    Station.objects.update(connected=True, state=state, stop_latched=state == "stopped")
    for path in ("runs/", f"runs/{run.pk}"):
        assert ("19 min left" in get(lab, "viewer", path).content.decode()) is not waits, path
    assert ("waiting for its stations" in get(lab, "viewer", "runs/").content.decode()) is waits
    assert ("left" in get(lab, "viewer", "tasks/queue").content.decode()) is not waits

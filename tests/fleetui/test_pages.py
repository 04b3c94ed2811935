"""Every page for every role: what is shown, what is refused in words, and that a form with an error loses nothing."""

import re
import uuid

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from fleetui.fleet.models import Assignment, Station, Task
from fleetui.learning.models import Dataset, Run
from tests.fleetui.lab import ROLES, Lab, as_upload, make_dataset, make_episode


@pytest.fixture
def lab(db, settings, tmp_path):
    settings.DATA = tmp_path
    return Lab("north")


def get(lab, role, path, **query):
    return lab.as_(role).get(f"/labs/{lab.slug}/{path}", query)


def post(lab, role, path, **data):
    return lab.as_(role).post(f"/labs/{lab.slug}/{path}", data)


PAGES = ("", "stations/", "stations/arm-1", "runs/", "episodes/", "datasets/", "tasks/", "charts/")


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


def test_acts_are_shown_to_those_who_may_act(lab):
    assert 'data-command="override"' in get(lab, "supervisor", "stations/arm-1").content.decode()
    page = get(lab, "viewer", "stations/arm-1").content.decode()
    assert 'data-command="override"' not in page and "a supervisor or manager acts on it" in page


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
    assert "train from demonstrations first" in page
    assert "Train first" in page and ">Launch<" not in page


def test_a_new_station_shows_its_token_once(lab):
    page = post(
        lab, "manager", "stations/new", name="Arm 9", simulated="on", world="language_table", seed="3"
    ).content.decode()
    token = page.partition('id="token">')[2].partition("<")[0]
    station = Station.objects.get(slug="arm-9")
    assert station.token_hash == Station.hash_token(token)
    assert "practise --server http://testserver --tokens arm-9.json" in page
    assert token not in get(lab, "manager", "stations/arm-9").content.decode()
    answer = post(lab, "manager", "stations/new", name="Arm 9", simulated="on", world="language_table", seed="3")
    assert answer.status_code == 422 and "already has a station" in answer.content.decode()


def test_a_real_station_is_told_where_to_connect_not_to_simulate(lab):
    page = post(lab, "manager", "stations/new", name="Arm 9", seed="1").content.decode()
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
    assert post(lab, "manager", "tasks/", act="task", family="block_to_place", name="Places").status_code == 302
    task = Task.objects.get(name="Places")
    answer = post(lab, "manager", "tasks/", act="assign", task=task.pk)
    assert answer.status_code == 422 and "Choose at least one station." in answer.content.decode()
    stations = [station.pk for station in lab.stations]
    assert post(lab, "manager", "tasks/", act="assign", task=task.pk, stations=stations).status_code == 302
    assignment = Assignment.objects.get()
    assert assignment.stations.count() == 2
    assert "waits for a run to stand behind it" in get(lab, "manager", "tasks/").content.decode()
    assert post(lab, "researcher", "tasks/", act="cancel", assignment=assignment.pk).status_code == 403
    assert post(lab, "manager", "tasks/", act="cancel", assignment=assignment.pk).status_code == 302
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
    assert "2 match" in get(lab, "viewer", "episodes/").content.decode()
    page = get(lab, "viewer", "episodes/", detected="yes").content.decode()
    assert "1 matches" in page and "red moon" in page and "push the blue cube" not in page
    page = get(lab, "viewer", "episodes/", ending="sideways").content.decode()
    assert "2 match" in page and "sideways is not one of the available choices" in page
    assert get(lab, "viewer", f"episodes/{uuid.uuid4()}").status_code == 404


def test_a_truncated_upload_is_a_form_error(lab):
    whole = as_upload(make_episode(purpose="demonstration", actors=np.full(10, 2, np.uint8)))
    for body, status in ((whole[: len(whole) // 2], 422), (whole, 302)):
        answer = post(
            lab, "researcher", "datasets/", act="upload", name="mine", file=SimpleUploadedFile("a.safetensors", body)
        )
        assert answer.status_code == status
    assert Dataset.objects.get().episodes == 1


def test_jump_finds_stations_of_this_lab_only(lab):
    Lab("south")
    found = get(lab, "viewer", "jump", q="arm 2").json()["results"]
    assert [(row["kind"], row["url"]) for row in found] == [("station", "/labs/north/stations/arm-2")]

"""Stations, datasets and runs that nobody needs: hidden and refused for new work, brought back, or deleted for good."""

import json

import pytest

from fleetui import access
from fleetui.fleet.actions import attention
from fleetui.fleet.models import Act, AssignedStation, Episode, HelpRequest, Station
from fleetui.learning.models import Checkpoint, Dataset, Run
from fleetui.messages import TokenRenewed
from fleetui.practice import first_start
from fleetui.practice.actions.episodes import add_correction
from robots.attention import need_of
from tests.fleetui.lab import ROLES, as_upload, make_episode

MAY = {"stations": {"manager"}, "datasets": {"researcher", "manager"}, "runs": {"researcher", "manager"}}


@pytest.fixture
def rows(lab, sft_run, dataset):
    """What is archived in the tests: {kind of list: the row's place in the API}"""
    return {"stations": "stations/arm-2", "datasets": f"datasets/{dataset.pk}", "runs": f"runs/{sft_run.pk}"}


def change(lab, path, archived, role="manager"):
    return lab.call(role, "patch", path, {"archived": archived})


def listed(lab, kind, archived=False):
    found = lab.call("viewer", "get", f"{kind}?archived={str(archived).lower()}").json()["items"]
    return {f"{kind}/{row['slug'] if kind == 'stations' else row['id']}" for row in found}


@pytest.mark.parametrize("kind", MAY)
def test_archived_is_hidden_from_every_list_and_can_be_brought_back(lab, rows, kind):
    path, name = rows[kind], {"stations": "Arm 2", "datasets": "demos", "runs": "sft"}[kind]

    def on_the_wall():
        return name in lab.as_("manager").get(f"/labs/{lab.slug}/").content.decode()

    assert path in listed(lab, kind)
    assert change(lab, path, True).status_code == 200
    assert path not in listed(lab, kind) and path in listed(lab, kind, archived=True)
    assert change(lab, path, True).status_code == 409
    found = lab.as_("manager").get(f"/labs/{lab.slug}/jump", {"q": name}).json()["results"]
    assert name not in {row["title"] for row in found}
    page = lab.as_("manager").get(f"/labs/{lab.slug}/{kind}/", {"archived": "only"}).content.decode()
    # And where it is brought back: the table of runs shows them on demand.
    assert name in (page if kind == "runs" else page.partition('id="archived"')[2])
    if kind == "stations":
        assert not on_the_wall()
    assert change(lab, path, False).status_code == 200
    assert path in listed(lab, kind) and change(lab, path, False).status_code == 409
    kinds = [act.kind for act in Act.objects.filter(kind__startswith=kind[:-1], user=lab.users["manager"])]
    assert kinds == [f"{kind[:-1]}_restored", f"{kind[:-1]}_archived"]


@pytest.mark.parametrize("kind", MAY)
def test_only_its_roles_archive_restore_and_delete(lab, other_lab, rows, kind):
    path = rows[kind]
    for role in ROLES:
        for answer in (change(lab, path, True, role), change(lab, path, False, role), lab.call(role, "delete", path)):
            assert (answer.status_code != 403) == (role in MAY[kind]), (role, answer.content)
        answer = lab.as_(role).post(f"/labs/{lab.slug}/{path}/archive")
        assert (answer.status_code != 403) == (role in MAY[kind])
        change(lab, path, False)
    body = json.dumps({"archived": True})
    assert other_lab.as_("manager").patch(f"/api/labs/{lab.slug}/{path}", body).status_code == 404
    assert other_lab.as_("manager").delete(f"/api/labs/{lab.slug}/{path}").status_code == 404


# Refused for new work


def test_an_archived_station_gets_no_work_and_no_connection(lab, sft_run):
    lab.connect()
    assert change(lab, "stations/arm-2", True).status_code == 200
    answer = lab.call("manager", "post", "assignments", {"task": lab.task.slug, "stations": ["arm-2"]})
    assert answer.status_code == 422 and "Arm 2 is archived" in answer.json()["detail"]
    body = {"kind": "improve", "parent": sft_run.pk, "task": lab.task.slug, "stations": ["arm-2"]}
    answer = lab.call("researcher", "post", "runs", body)
    assert answer.status_code == 422 and "Arm 2: archived" in answer.json()["detail"]
    answer = lab.call("manager", "post", "assignments", {"task": lab.task.slug, "any": 2, "parent": sft_run.pk})
    assert answer.json()["state"] == "blocked", "two are wanted, and one is left"
    assert not AssignedStation.objects.filter(station__slug="arm-2").exists()
    assert access.get_station_by_token(Station, lab.tokens["arm-2"]) is None
    assert lab.upload(as_upload(make_episode()), station=lab.stations[1]).status_code == 401  # it stays in the spool
    change(lab, "stations/arm-2", False)
    assert access.get_station_by_token(Station, lab.tokens["arm-2"]) == lab.stations[1]
    assert lab.upload(as_upload(make_episode()), station=lab.stations[1]).status_code == 200


def test_its_connection_ends_and_its_call_is_closed(lab, monkeypatch):
    lab.connect()
    attention.note_need(station=lab.stations[1], need=need_of(state="stopped", reason="by a person", state_for_s=1.0))
    told = []
    monkeypatch.setattr(
        "fleetui.fleet.actions.archive.tell_station_on_commit", lambda group, *messages: told.append((group, messages))
    )
    change(lab, "stations/arm-2", True)
    # With this its consumer closes a socket whose token is void.
    assert told == [(lab.stations[1].command_group, (TokenRenewed(old_works_s=0.0),))]
    assert not HelpRequest.objects.filter(closed_at=None).exists()


def test_a_station_that_is_held_at_work_or_wanted_is_not_archived(lab, sft_run):
    lab.connect()
    lab.call("supervisor", "post", "stations/arm-1/command", {"name": "override"})
    assert "in control of Arm 1" in change(lab, "stations/arm-1", True).json()["detail"]
    Station.objects.filter(slug="arm-2").update(state="practising")
    assert "Arm 2 is practising" in change(lab, "stations/arm-2", True).json()["detail"]
    Station.objects.filter(slug="arm-2").update(state="idle")
    made = lab.call("manager", "post", "assignments", {"task": lab.task.slug, "stations": ["arm-2"]}).json()
    assert "uses Arm 2" in change(lab, "stations/arm-2", True).json()["detail"]
    lab.call("manager", "delete", f"assignments/{made['id']}")
    assert change(lab, "stations/arm-2", True).status_code == 200


def test_what_still_works_or_waits_with_it_is_not_archived(lab, improve_run, sft_run, dataset):
    assert "improve is running" in change(lab, f"runs/{improve_run.pk}", True).json()["detail"]
    assert "improve goes on from sft" in change(lab, f"runs/{sft_run.pk}", True).json()["detail"]
    Run.objects.filter(pk=sft_run.pk).update(state="running")
    assert "sft learns from demos" in change(lab, f"datasets/{dataset.pk}", True).json()["detail"]
    Run.objects.filter(pk=sft_run.pk).update(state="completed")
    Run.objects.filter(pk=improve_run.pk).update(state="completed")
    lab.call("manager", "post", "assignments", {"task": lab.task.slug, "any": 1, "parent": sft_run.pk})
    assert "practises with sft" in change(lab, f"runs/{sft_run.pk}", True).json()["detail"]
    Dataset.objects.filter(pk=dataset.pk).update(state="generating")
    assert "still being generated" in change(lab, f"datasets/{dataset.pk}", True).json()["detail"]


def test_nothing_starts_from_an_archived_dataset_or_run(lab, sft_run, dataset):
    change(lab, f"datasets/{dataset.pk}", True)
    change(lab, f"runs/{sft_run.pk}", True)
    answer = lab.call("researcher", "post", "runs", {"kind": "sft", "dataset": dataset.pk})
    assert answer.status_code == 422 and "demos is archived" in answer.json()["detail"]
    body = {"kind": "improve", "parent": sft_run.pk, "task": lab.task.slug, "stations": ["arm-1"]}
    answer = lab.call("researcher", "post", "runs", body)
    assert answer.status_code == 422 and "sft is archived" in answer.json()["detail"]
    answer = lab.call("manager", "post", "assignments", {"task": lab.task.slug, "any": 1, "parent": sft_run.pk})
    assert answer.status_code == 422 and "sft is archived" in answer.json()["detail"]
    for kind, value in (("sft", dataset.pk), ("improve", sft_run.pk)):
        page = lab.as_("manager").get(f"/labs/{lab.slug}/runs/new", {"kind": kind}).content.decode()
        assert f'<option value="{value}"' not in page


def test_a_correction_joins_no_archived_dataset(lab):
    import numpy as np

    def correction():
        made = make_episode(purpose="correction", actors=np.ones(10, np.uint8))
        assert lab.upload(as_upload(made)).status_code == 200
        return access.get_row(Episode, lab.users["manager"], lab.slug, uuid=made.uuid)

    def add():
        return add_correction(lab=lab.row, user=lab.users["manager"], episode=correction())

    first = add()
    assert add() == first
    change(lab, f"datasets/{first.pk}", True)
    second = add()
    assert second != first and second.episodes == 1 and second.name.endswith(" 2")


def test_the_next_start_begins_no_archived_station_and_makes_none_in_its_place(lab, settings):
    lab.call("manager", "patch", "stations/arm-2", {"archived": True})
    path = first_start.prepare_stations(lab.row, 2)
    assert [row["station"] for row in json.loads(path.read_text())] == ["arm-1"]
    assert lab.row.stations.count() == 2


# Deleted for good


def test_only_what_is_archived_and_nothing_refers_to_is_deleted(lab, rows, sft_run, dataset):
    for path in rows.values():
        assert "archive it first" in lab.call("manager", "delete", path).json()["detail"]
    assert lab.upload(as_upload(make_episode()), station=lab.stations[1]).status_code == 200
    for path in rows.values():
        change(lab, path, True)
    assert "1 episode." in lab.call("manager", "delete", "stations/arm-2").json()["detail"]
    assert "1 run." in lab.call("manager", "delete", rows["datasets"]).json()["detail"]
    assert lab.row.stations.count() == 2 and Dataset.objects.count() == 1

    lab.stations[0].refresh_from_db()
    Station.objects.filter(slug="arm-1").update(loaded_checkpoint=sft_run.newest_checkpoint("policy"))
    assert "its policy v0 is used" in lab.call("manager", "delete", rows["runs"]).json()["detail"]
    Station.objects.update(loaded_checkpoint=None)
    files = [checkpoint.file for checkpoint in sft_run.checkpoints.all()]
    sft_run.dir.mkdir(parents=True)
    assert all(file.exists() for file in files)
    assert lab.call("manager", "delete", rows["runs"]).json() == {"deleted": sft_run.pk}
    assert not Run.objects.exists() and not Checkpoint.objects.exists()
    assert not any(file.exists() for file in (*files, sft_run.dir))

    file = dataset.file
    assert lab.call("manager", "delete", rows["datasets"]).status_code == 200
    assert not Dataset.objects.exists() and not file.exists()
    made = lab.add_station("Never used")
    change(lab, f"stations/{made.slug}", True)
    assert lab.call("manager", "delete", f"stations/{made.slug}").json() == {"deleted": "never-used"}
    assert lab.call("viewer", "get", f"stations/{made.slug}").status_code == 404
    gone = Act.objects.get(kind="station_deleted")
    assert gone.station_name == "Never used" and gone.user == lab.users["manager"]
    assert Act.objects.get(kind="run_deleted").details["run"] == "sft"
    assert Act.objects.get(kind="dataset_deleted").details["dataset"] == "demos"


def test_a_dataset_without_a_file_deletes_nothing_else(lab, settings):
    row = Dataset.objects.create(lab=lab.row, name="broken", state="failed")
    change(lab, f"datasets/{row.pk}", True)
    assert lab.call("manager", "delete", f"datasets/{row.pk}").status_code == 200
    assert settings.DATA.is_dir()


def test_the_pages_buttons_do_the_same_and_say_it(lab, rows, sft_run):
    manager = lab.as_("manager")
    for kind, path in rows.items():
        for act, said in (("archive", "is archived"), ("restore", "is back"), ("delete", "archive it first")):
            answer = manager.post(f"/labs/{lab.slug}/{path}/{act}", follow=True)
            assert answer.status_code == 200 and said in answer.content.decode(), (kind, act)
        assert manager.post(f"/labs/{lab.slug}/{path}/burn").status_code == 404

"""The HTTP API: bad input gets a 4xx and a sentence, and nothing that was there is lost."""

import json
import struct
import uuid
from dataclasses import fields, replace
from urllib.parse import urlencode

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from fleetui.api import checkpoints as checkpoints_api
from fleetui.api import datasets as datasets_api
from fleetui.api import fleet as fleet_api
from fleetui.api import learning as learning_api
from fleetui.api import practice as practice_api
from fleetui.api import sweeps as sweeps_api
from fleetui.api.shape import CODES
from fleetui.fleet import selectors as fleet
from fleetui.fleet.actions.attention import note_need
from fleetui.fleet.models import AssignedStation, Assignment, Episode
from fleetui.learning import checkpoints, searching, studio
from fleetui.learning import selectors as learning
from fleetui.learning.listing import summary_of
from fleetui.learning.models import Comparison, Dataset, Export, Import, Metric, Promotion, Run, SpotCheck, Sweep
from fleetui.live import rewind
from fleetui.practice import queue
from robots.attention import need_of
from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.episodes import unchecked_bytes
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.fleetui.lab import as_upload, make_episode, seen
from training.evaluation import Evaluation
from training.pairs import Difference


def refused(answer, status):
    assert answer.status_code == status, answer.content
    body = answer.json()
    assert isinstance(body["detail"], str) and len(body["detail"]) > 10
    assert body["code"] in CODES and body.keys() <= {"detail", "code", "problems"}
    return body["detail"]


def test_the_schema_names_every_path(lab):
    paths = lab.as_("viewer").get("/api/openapi.json").json()["paths"]
    for path in ("/stations/{slug}/command", "/runs/{number}/metrics", "/episodes/{uuid}/steps"):
        assert f"/api/labs/{{lab}}{path}" in paths
    assert "/api/station/episodes" in paths


def test_the_apis_page_shows_every_address_also_where_a_body_may_be_left_out(lab):
    client = lab.as_("viewer")
    page = client.get("/api/docs")
    assert page.status_code == 200
    for path, operations in client.get("/api/openapi.json").json()["paths"].items():
        for method in operations:
            assert f"<code>{method.upper()} {path}</code>" in page.content.decode()


def answers(schema):
    """(method and path, status, the answer's JSON schema) of every call that says what it answers."""
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                content = answer.get("content", {}).get("application/json", {}).get("schema")
                if int(status) < 300 and content is None:
                    continue  # a file
                yield f"{method} {path}", int(status), content


FILES = {
    "get /api/station/checkpoints/{uuid}",
    *(f"get /api/labs/{{lab}}/{path}/file" for path in ("checkpoints/{uuid}", "datasets/{number}", "episodes/{uuid}")),
    "get /api/labs/{lab}/episodes/{uuid}/frames/{step}.jpg",
    "get /api/labs/{lab}/exports/{number}/file",
    "get /api/station/models/{sha256}/{file}",
    "get /api/labs/{lab}/datasets/{number}/table",
    "get /api/labs/{lab}/datasets/{number}/episodes/{position}/signals",
}


def test_every_call_declares_its_answer_and_its_problem(lab):
    schema = lab.as_("viewer").get("/api/openapi.json").json()
    good, problems = {}, {}
    for call, status, content in answers(schema):
        (problems if status >= 400 else good).setdefault(call, []).append(content)
    calls = {f"{method} {path}" for path, operations in schema["paths"].items() for method in operations}
    assert len(calls) >= 39 and problems.keys() == calls and calls - good.keys() <= FILES
    for call, contents in good.items():
        for content in contents:
            named = [each["$ref"] for each in content.get("anyOf", [content]) if "$ref" in each]
            assert named, f"{call} answers {content}: declare its shape."
            for ref in named:
                assert schema["components"]["schemas"][ref.rpartition("/")[2]]["properties"], call
    for call, contents in problems.items():
        assert all(content["$ref"].endswith("/Problem") for content in contents), call


def test_a_declared_shape_leaves_nothing_out_of_what_a_row_says(lab, sft_run, improve_run):
    """ninja drops what a shape does not name, so each must name all that its row says, and no more."""
    lab.upload(as_upload(make_episode()))
    note_need(station=lab.stations[0], need=need_of(state="stopped", reason="by a person", state_for_s=1.0))
    episode, assignment = Episode.objects.get(), Assignment.objects.get()
    Metric.objects.create(run=improve_run, seq=1, kind="note", data={"text": "hello"}, at=timezone.now())
    rewind.note(lab.stations[0].pk, {"state": "idle", "reason": "", "uuid": ""} | fleet.NOT_LIVE)
    rewind.keep_frame(lab.stations[0].pk, b"a picture")
    past = rewind.of_station(lab.stations[0].pk)
    card = fleet.station_card(lab.stations[0])
    of_dataset = {"lab": lab.row, "dataset": sft_run.dataset, "kind": "lerobot"}
    policy = sft_run.checkpoints.get(role="policy")
    of_policy = {"lab": lab.row, "first": policy, "task": lab.task, "time_limit": 9, "episodes": 2, "seed": 1}
    check = SpotCheck.objects.create(lab=lab.row, episode=episode, task=lab.task, policy=policy)
    swept = {"kind": "sft", "recipe": {}, "space": {}, "sampler": "tpe", "objective": "loss.bc", "budget_runs": 2}
    sweep = Sweep.objects.create(lab=lab.row, name="s", **swept)
    of_body = {"lab": lab.row, "role": "policy", "body": "language_table", "checkpoint": policy}
    shapes = [
        (checkpoints_api.CheckpointFile, checkpoints.checkpoint_row(policy)),
        (checkpoints_api.CheckpointDetail, checkpoints.checkpoint_detail(policy)),
        (checkpoints_api.PromotionRow, checkpoints.promotion_row(Promotion.objects.create(**of_body))),
        (checkpoints_api.PolicyComparison, checkpoints.comparison_row(Comparison.objects.create(**of_policy))),
        (checkpoints_api.SpotCheckRow, studio.spot_check_row(check)),
        (checkpoints_api.Bound, studio.bound_row(studio.bounds(lab.row.spot_checks.all())[0])),
        (sweeps_api.SweepRow, searching.sweep_row(sweep)),
        (sweeps_api.SweepDetail, searching.sweep_detail(sweep)),
        (fleet_api.Card, card),
        (fleet_api.HelpRow, card["help"]),
        (fleet_api.TaskRow, fleet_api.task_row(lab.task)),
        (fleet_api.EpisodeRow, fleet.episode_row(episode)),
        (fleet_api.RewindRow, past),
        (fleet_api.Sample, past["samples"][0]),
        (fleet_api.Frame, past["frames"][0]),
        (datasets_api.DatasetRow, learning.dataset_row(sft_run.dataset)),
        (datasets_api.DatasetEpisodeRow, learning.dataset_episode_row(sft_run.dataset.rows.first())),
        (datasets_api.Facts, summary_of(sft_run.dataset)),
        (datasets_api.ImportRow, learning.import_row(Import.objects.create(lab=lab.row, name="a", kind="archive"))),
        (datasets_api.ExportRow, learning.export_row(Export.objects.create(**of_dataset))),
        (learning_api.RunRow, learning.run_row(sft_run)),
        (learning_api.CheckpointRow, sft_run.checkpoints.first().row()),
        (learning_api.MetricRow, learning.metric_row(Metric.objects.get())),
        (learning_api.Compared, learning.compared_row(sft_run, {"successes": 1, "n": 2})),
        (learning_api.Comparison, learning.compare_runs([sft_run])),
        (practice_api.AssignmentRow, queue.assignment_row(assignment)),
        (practice_api.ProgressRow, queue.Progress("", 0.0).json()),
        (practice_api.StepsRow, fleet.episode_steps(episode)),
    ]
    for shape, row in shapes:
        assert shape.model_fields.keys() == row.keys(), shape.__name__
        assert shape.model_validate(row).dict() == row, shape.__name__
    assert checkpoints_api.Attempts.model_fields.keys() == {field.name for field in fields(Evaluation)}
    assert checkpoints_api.Difference.model_fields.keys() == {field.name for field in fields(Difference)}


def test_a_list_comes_page_by_page(lab, improve_run):
    Metric.objects.bulk_create(
        Metric(run=improve_run, seq=seq, kind="note", data={}, at=timezone.now()) for seq in range(1, 12)
    )

    def page(path):
        return lab.call("viewer", "get", path).json()

    found = page(f"runs/{improve_run.pk}/metrics?after=1&limit=4&offset=8")
    assert [row["seq"] for row in found["items"]] == [10, 11] and found["count"] == 10
    assert [row["slug"] for row in page("stations?limit=1&offset=1")["items"]] == ["arm-2"]
    assert page("stations?limit=1&offset=2") == {"items": [], "count": 2}
    lab.call("manager", "delete", f"assignments/{Assignment.objects.get().pk}")
    for name in ("arm-1", "arm-2"):
        lab.call("manager", "post", "assignments", {"task": "block2block", "stations": [name]})
    whole = page("assignments")
    assert [row["state"] for row in whole["items"]] == ["queued", "queued", "canceled"] and whole["count"] == 3
    pages = [page(f"assignments?limit=1&offset={start}") for start in range(4)]
    assert [row for each in pages for row in each["items"]] == whole["items"]
    for wrong in ("limit=0", "limit=501", "offset=-1", "limit=many", "offset=" + "9" * 30):
        for path in ("stations", "runs", "episodes", "assignments", "help", "tasks", "datasets"):
            refused(lab.call("viewer", "get", f"{path}?{wrong}"), 422)


def test_a_problem_has_the_code_of_what_went_wrong(lab):
    for role, method, path, body, code in (
        ("viewer", "post", "tasks", {"family": "block2block"}, "denied"),
        ("viewer", "get", "runs/12345", None, "not_found"),
        ("supervisor", "post", "stations/arm-1/command", {"name": "reset"}, "conflict"),
        ("manager", "post", "tasks", {"family": "no_family"}, "invalid"),
        ("manager", "post", "tasks", {}, "invalid"),
    ):
        answer = lab.call(role, method, path, *([body] if body is not None else []))
        assert answer.json()["code"] == code, answer.content
    assert Client().get("/api/labs/east/stations").json()["code"] == "unauthenticated"
    broken = lab.as_("manager").post("/api/labs/east/tasks", b"{", content_type="application/json")
    assert broken.json()["code"] == "unreadable"


# Uploads of stations


def test_the_page_of_the_api_describes_bodies_of_every_form(lab):
    page = lab.as_("viewer").get("/api/docs")
    assert page.status_code == 200
    said = [row for _, calls in page.context["groups"] for call in calls for row in call["fields"]]
    assert {"integer or null", "string"} <= {row["type"] for row in said}


def test_a_missing_or_unknown_token_is_refused_with_a_sentence(lab):
    for token in ("", "no-such-token"):
        assert "token" in refused(lab.upload(as_upload(make_episode()), token=token), 401)
    assert not Episode.objects.exists()


def test_a_wrong_observation_shape_names_both_shapes(lab):
    few = {STATE: np.zeros((4, 7), np.float32), ENVIRONMENT_STATE: np.zeros((4, 40), np.float32)}
    detail = refused(lab.upload(as_upload_unchecked(observations=few)), 422)
    assert f"field {STATE}" in detail and "[7]" in detail and "[4]" in detail
    assert not Episode.objects.exists()


def as_upload_unchecked(**fields):
    """A file that our own writer would refuse to write."""
    known = as_upload(make_episode(steps=3, embodiment="unknown_body", **fields))
    assert b"unknown_body" in known
    # The name of the body is changed in the header, whose length is kept right.
    (size,) = struct.unpack_from("<Q", known)
    header = known[8 : 8 + size].replace(b"unknown_body", b"language_table")
    return struct.pack("<Q", len(header)) + header + known[8 + size :]


def test_one_bad_episode_refuses_the_upload_and_keeps_what_was_there(lab):
    kept = make_episode()
    assert lab.upload(as_upload(kept)).json() == {"stored": 1, "hold": False}
    fresh = make_episode()
    body = bytearray(as_upload(fresh, make_episode()))
    body[-40:-36] = np.float32(np.nan).tobytes()  # within one of the arrays
    answer = lab.upload(bytes(body[:-1]))
    assert answer.status_code == 400
    assert set(Episode.objects.values_list("uuid", flat=True)) == {uuid.UUID(kept.uuid)}


def test_a_truncated_upload_is_refused_and_can_be_sent_again(lab):
    episode = make_episode()
    body = as_upload(episode)
    for cut in (0, 5, 200, len(body) - 1):
        refused(lab.upload(body[:cut]), 400)
    assert not Episode.objects.exists()
    assert lab.upload(body).json()["stored"] == 1


def test_too_many_episodes_or_bytes_at_once(lab, monkeypatch):
    assert "64" in refused(lab.upload(as_upload(*[make_episode(steps=1) for _ in range(65)])), 422)
    monkeypatch.setattr("fleetui.practice.actions.episodes.LARGEST_UPLOAD", 1000)
    assert "64 MiB" in refused(lab.upload(as_upload(make_episode())), 413)


def test_another_body_is_refused(lab):
    detail = refused(lab.upload(as_upload(make_episode(embodiment="something_else"))), 422)
    assert "something_else" in detail and "language_table" in detail


# Runs


def test_an_invalid_recipe_lists_each_field(lab, dataset):
    body = {"kind": "sft", "dataset": dataset.pk, "recipe": {"steps": -3, "batch": "many", "oops": 1}}
    answer = lab.call("researcher", "post", "runs", body)
    detail = refused(answer, 422)
    assert set(answer.json()["problems"]) == {"steps", "batch", "oops"}
    assert all(name in detail for name in ("steps", "batch", "oops"))
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "sft", "recipe": {}},
        {"kind": "improve", "recipe": {}},
        {"kind": "neither", "recipe": {}},
        {"kind": "sft", "recipe": []},
        {},
    ],
)
def test_a_run_without_its_source_is_refused(lab, body):
    refused(lab.call("researcher", "post", "runs", body), 422)
    assert not Run.objects.exists()


def test_broken_json_and_wrong_types_are_no_server_errors(lab):
    client = lab.as_("manager")
    for body in (b"{", b"[]", b'{"name": 5, "args": []}', b"\xff\xfe"):
        answer = client.post("/api/labs/east/stations/arm-1/command", body, content_type="application/json")
        assert 400 <= answer.status_code < 500, body
        assert isinstance(answer.json()["detail"], str)


def test_launching_sft_answers_with_the_run(lab, dataset):
    row = lab.call("researcher", "post", "runs", {"kind": "sft", "dataset": dataset.pk, "recipe": {"seed": 4}}).json()
    assert row["state"] == "queued" and row["recipe"]["seed"] == 4 and row["checkpoints"] == []
    assert lab.call("viewer", "get", f"runs/{row['id']}").json() == row


def test_an_improve_run_takes_the_waiting_assignment(lab, sft_run):
    assignment = lab.call("manager", "post", "assignments", {"task": "block2block", "stations": ["arm-1", "arm-2"]})
    assert assignment.json()["state"] == "queued"
    body = {"kind": "improve", "parent": sft_run.pk, "recipe": {}}
    row = lab.call("researcher", "post", "runs", body | {"assignment": assignment.json()["id"]}).json()
    assert row["stations"] == ["arm-1", "arm-2"] and row["task"] == "block2block"
    assert Assignment.objects.get().state == "standby"
    again = lab.call("researcher", "post", "runs", body | {"task": "block2block", "stations": ["arm-1"]})
    assert "Arm 1" in refused(again, 409)
    assert Run.objects.filter(kind="improve").count() == 1


def test_an_improve_run_makes_an_assignment_of_free_and_waiting_stations(lab, sft_run):
    lab.call("manager", "post", "assignments", {"task": "block2block", "stations": ["arm-1", "arm-2"]})
    body = {"kind": "improve", "parent": sft_run.pk, "recipe": {}, "task": "block2block", "stations": ["arm-1"]}
    assert lab.call("researcher", "post", "runs", body).status_code == 200
    places = AssignedStation.objects.all()
    assert {(place.station.slug, place.live, place.assignment.run is None) for place in places} == {
        ("arm-1", True, False),
        ("arm-2", False, True),
    }


def test_an_assignment_is_cancelled_with_its_run(lab, improve_run):
    assignment = Assignment.objects.get()
    answer = lab.call("manager", "delete", f"assignments/{assignment.pk}")
    assert answer.json()["state"] == "canceled" and not AssignedStation.objects.filter(live=True).exists()
    assert "canceled already" in refused(lab.call("manager", "delete", f"assignments/{assignment.pk}"), 409)
    improve_run.refresh_from_db()
    assert improve_run.state == "canceling"  # its job ends it


def test_pausing_what_does_not_run(lab, sft_run):
    for wish in ("pause", "resume", "cancel"):
        assert "completed" in refused(lab.call("researcher", "post", f"runs/{sft_run.pk}/{wish}"), 409)
    assert lab.call("researcher", "post", f"runs/{sft_run.pk}/explode").status_code == 404


def test_a_policy_is_not_sent_to_practise_with_another_body(lab, sft_run):
    sft_run.dataset.body = replace(LANGUAGE_TABLE, name="reacher").to_json()
    sft_run.dataset.save()
    body = {"kind": "improve", "parent": sft_run.pk, "task": lab.task.slug, "stations": ["arm-1"]}
    assert "language_table" in refused(lab.call("researcher", "post", "runs", body), 422)
    assert Run.objects.count() == 1 and not Assignment.objects.exists()


def test_a_policy_is_not_asked_after_a_failure_for_what_it_never_learned(lab, sft_run):
    answer = lab.call("manager", "patch", f"tasks/{lab.task.slug}", {"after_failure": "block_to_place"})
    assert answer.json()["after_failure"] == "block_to_place"
    body = {"kind": "improve", "parent": sft_run.pk, "task": lab.task.slug, "stations": ["arm-1"]}
    assert "never trained on them" in refused(lab.call("researcher", "post", "runs", body), 422)
    sft_run.dataset.families = ["block2block", "block_to_place"]
    sft_run.dataset.save()
    assert lab.call("researcher", "post", "runs", body).status_code < 300


# Datasets


def test_uploading_demonstrations(lab):
    demo = make_episode(purpose="demonstration", actors=np.full(10, 1, np.uint8), steps=10)
    client = lab.as_("researcher")

    def upload(name, body):
        return client.post(f"/api/labs/east/datasets/upload?name={name}", body, content_type="application/octet-stream")

    row = upload("mine", as_upload(demo)).json()
    assert (row["state"], row["episodes"], row["steps"]) == ("ready", 1, 10)
    assert Dataset.objects.get().file.is_file()
    assert "mine" in refused(upload("mine", as_upload(demo)), 409)
    assert "practice" in refused(upload("practice", as_upload(make_episode())), 422)
    refused(upload("cut", as_upload(demo)[:-3]), 400)
    assert Dataset.objects.count() == 1


def demonstration(**fields):
    return make_episode(**{"purpose": "demonstration", "actors": np.full(10, 1, np.uint8)} | fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"embodiment": "somebody"}, "field embodiment: nobody says what “somebody” observes and does"),
        ({"actions": np.full((10, 2), 12.5, np.float32)}, "field actions: delta_x is 12.5"),
        ({"observations": seen(10, 120)}, f"field {STATE}: ee_x is 120"),
        ({"observations": seen(10, 3e38)}, "field observation."),
        ({"fps": 30.0}, "field fps: is 30"),
        ({"instruction": "\ud800"}, "field instruction"),
    ],
)
def test_demonstrations_that_the_body_cannot_have_made_are_refused_at_the_upload(lab, fields, said):
    bad = demonstration(**fields)
    body = unchecked_bytes([bad] if "embodiment" in fields else [demonstration(), bad])
    answer = lab.as_("researcher").post("/api/labs/east/datasets/upload?name=d", body, "application/octet-stream")
    detail = refused(answer, 422)
    assert said in detail and bad.uuid in detail
    assert not Dataset.objects.exists()


def test_a_dataset_holds_each_episode_once(lab):
    first = demonstration()
    body = as_upload(first, demonstration(uuid=first.uuid.upper()))
    answer = lab.as_("researcher").post("/api/labs/east/datasets/upload?name=d", body, "application/octet-stream")
    assert f"Episode {first.uuid}, field uuid" in refused(answer, 422)
    assert not Dataset.objects.exists()


def test_generating_checks_its_fields(lab):
    body = {"name": "d", "families": ["no_family"], "episodes": 0, "seed": -1}
    answer = lab.call("researcher", "post", "datasets", body)
    refused(answer, 422)
    assert set(answer.json()["problems"]) == {"families", "episodes", "seed"}


def test_a_dataset_of_pictures_is_bounded_by_its_size(lab):
    """31 KB a picture, some 60 of them an episode: a thousand episodes fill two gigabytes."""
    body = {"name": "d", "families": ["camera_block2block"], "episodes": 1200, "seed": 1}
    assert "must be 1 to 1093, not 1200" in refused(lab.call("researcher", "post", "datasets", body), 422)


# Episodes


def test_steps_of_an_episode(lab):
    episode = make_episode(steps=4, fenced=np.array([0, 1, 0, 0], np.uint8))
    lab.upload(as_upload(episode))
    shown = lab.call("viewer", "get", f"episodes/{episode.uuid}/steps").json()
    assert shown["d"] == [20, 19, 18, 17, 16] and shown["reward"] == [1, 1, 1, 1]
    assert len(shown["actions"]) == 4 and shown["actors"] == [0, 0, 0, 0] and shown["fenced"] == [0, 1, 0, 0]
    assert shown["observations"].keys() == episode.observations.keys()
    for key, array in episode.observations.items():
        assert np.allclose(shown["observations"][key], array, atol=1e-4)


def test_filters_of_the_list(lab):
    lab.upload(as_upload(make_episode(ending="detected_success", detected_success=True), make_episode()))
    assert len(lab.call("viewer", "get", "episodes").json()["items"]) == 2
    assert len(lab.call("viewer", "get", "episodes?detected=true&station=arm-1").json()["items"]) == 1
    assert lab.call("viewer", "get", "episodes?station=arm-2").json()["items"] == []
    refused(lab.call("viewer", "get", "episodes?limit=100000"), 422)


def test_a_frame_is_rendered_at_the_first_ask(lab):
    episode = make_episode(steps=3)
    lab.upload(as_upload(episode))
    for _ in range(2):  # the second ask must not enqueue again
        answer = lab.call("viewer", "get", f"episodes/{episode.uuid}/frames/1.jpg")
        assert answer.status_code == 202 and answer.json() == {"state": "rendering"}
    refused(lab.call("viewer", "get", f"episodes/{episode.uuid}/frames/4.jpg"), 404)
    row = Episode.objects.get()
    row.frames_dir.mkdir()
    (row.frames_dir / "00001.jpg").write_bytes(b"\xff\xd8 picture")  # as before there were several cameras
    answer = lab.call("viewer", "get", f"episodes/{episode.uuid}/cameras")
    assert answer.json() == {"cameras": [{"name": "", "missing": ""}]}
    answer = lab.call("viewer", "get", f"episodes/{episode.uuid}/frames/1.jpg")
    assert answer.content == b"\xff\xd8 picture" and answer["Content-Type"] == "image/jpeg"


def test_a_frame_of_each_camera_has_its_name_and_no_name_becomes_a_path(lab):
    lab.upload(as_upload(make_episode(steps=3)))
    row = Episode.objects.get()
    hostile = "../1"
    cameras = [{"name": "front", "missing": "It was unplugged."}, {"name": "wrist", "missing": ""}]
    cameras.append({"name": hostile, "missing": ""})
    for number in (1, 2):
        (row.frames_dir / str(number)).mkdir(parents=True)
        (row.frames_dir / str(number) / "00001.jpg").write_bytes(b"\xff\xd8 %d" % number)
    (row.frames_dir / "cameras.json").write_text(json.dumps(cameras))
    base = f"episodes/{row.uuid}"
    assert lab.call("viewer", "get", f"{base}/cameras").json() == {"cameras": cameras}

    def frame(camera):
        return lab.call("viewer", "get", f"{base}/frames/1.jpg?{urlencode({'camera': camera})}")

    assert [frame(camera).content for camera in ("", "wrist", hostile)] == [b"\xff\xd8 1", b"\xff\xd8 1", b"\xff\xd8 2"]
    assert refused(frame("front"), 404) == "It was unplugged."
    for wrong in ("1", "../../1", "<b>", "wrist/"):
        assert "has no camera" in refused(frame(wrong), 404)
    other = Client()
    other.force_login(User.objects.create_user("stranger"))
    for path in ("cameras", "frames/1.jpg?camera=wrist"):
        assert other.get(f"/api/labs/{lab.slug}/{base}/{path}").status_code == 404


def test_a_bare_client_gets_sentences_too(lab):
    answer = Client().post("/api/labs/east/runs", json.dumps({}), content_type="application/json")
    assert "Log in" in refused(answer, 401)

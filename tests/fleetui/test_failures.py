"""A full disk is 507, a server that is away 503: a sentence for whoever asked, one line in the log, nothing lost."""

import errno
import io
import json
import logging
import os
from types import SimpleNamespace

import kombu.exceptions
import numpy as np
import psycopg.errors
import pytest
import redis.exceptions
from django.db import DataError, IntegrityError, InterfaceError, OperationalError
from django.test import AsyncClient, Client

from fleetui import asgi, failures
from fleetui.charts import asgi as charts
from fleetui.fleet.models import Episode
from fleetui.learning.models import Dataset
from tests.fleetui.lab import as_upload, make_episode


def caused_by(kind, cause):
    error = kind("it went wrong\nDETAIL: far too much of it")
    error.__cause__ = cause
    return error


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    caused_by(OperationalError, psycopg.errors.DiskFull()),
    redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
]
AWAY = [
    OperationalError("connection refused"),
    caused_by(OperationalError, psycopg.errors.TooManyConnections()),
    InterfaceError("connection already closed"),
    redis.exceptions.ConnectionError("Error 2 connecting to unix socket"),
    redis.exceptions.TimeoutError("Timeout reading from socket"),
    kombu.exceptions.OperationalError("broker"),
]
EACH = [(error, 507, "disk is full") for error in FULL] + [(error, 503, "can't be reached just now") for error in AWAY]


def raiser(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.fixture
def visitor(lab):
    """A signed-in browser that gets what a real one gets, not the exception."""
    client = Client(raise_request_exception=False)
    client.force_login(lab.users["manager"])
    return client


def lines_of(caplog):
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(("error", "status", "said"), EACH)
def test_every_api_call_answers_in_json_and_logs_one_line(lab, visitor, monkeypatch, caplog, error, status, said):
    monkeypatch.setattr("fleetui.fleet.selectors.wall_cards", raiser(error))
    answer = visitor.get("/api/labs/east/stations")
    assert answer.status_code == status and said in answer.json()["detail"]
    (line,) = lines_of(caplog)
    assert "GET /api/labs/east/stations" in line.getMessage() and "\n" not in line.getMessage() and not line.exc_info


@pytest.mark.parametrize(("error", "status", "said"), EACH)
def test_every_page_answers_with_a_short_page_and_logs_one_line(lab, visitor, monkeypatch, caplog, error, status, said):
    monkeypatch.setattr("fleetui.fleet.selectors.wall_cards", raiser(error))
    answer = visitor.get("/labs/east/")
    text = answer.content.decode().replace("&#x27;", "'")
    assert answer.status_code == status and said in text and "<h1>Not possible just now</h1>" in text
    (line,) = lines_of(caplog)
    assert "GET /labs/east/" in line.getMessage() and not line.exc_info


@pytest.mark.parametrize("path", ["/labs/east/", "/api/labs/east/stations", "/login", "/healthz"])
def test_a_database_that_is_away_is_said_wherever_it_is_asked_first(lab, visitor, monkeypatch, path):
    """In the session, long before any view; and the page that says so asks it for nothing."""
    with monkeypatch.context() as patch:
        patch.setattr("django.db.backends.utils.CursorWrapper._execute", raiser(OperationalError("gone")))
        answer = visitor.get(path)
    assert answer.status_code == 503 and answer["Retry-After"] == "5"


async def test_a_database_that_is_away_is_said_by_the_asynchronous_server_too(lab, monkeypatch, caplog):
    monkeypatch.setattr("fleetui.fleet.views.home.LogIn.get", raiser(OperationalError("gone")))
    answer = await AsyncClient(raise_request_exception=False).get("/login")
    assert answer.status_code == 503 and "Not possible just now" in answer.content.decode()
    assert len(lines_of(caplog)) == 1


def test_a_station_hears_that_the_database_is_away(lab, monkeypatch):
    monkeypatch.setattr("fleetui.access.get_station_by_token", raiser(OperationalError("gone")))
    answer = lab.upload(as_upload(make_episode()))
    assert answer.status_code == 503 and "database" in answer.json()["detail"]


def test_the_api_answers_in_json_below_a_sub_path_too(rf):
    request = rf.get("/api/labs/main/runs", SCRIPT_NAME="/fleet")
    try:
        raise OperationalError("connection refused")
    except OperationalError:
        answer = failures.as_page(request)
    assert answer.status_code == 503 and json.loads(answer.content)["detail"]


def test_a_mistake_of_ours_stays_one(lab, visitor, monkeypatch, caplog):
    monkeypatch.setattr("fleetui.fleet.selectors.wall_cards", raiser(IntegrityError("one too many")))
    answer = visitor.get("/api/labs/east/stations")
    assert answer.status_code == 500 and "server's log" in answer.json()["detail"]
    assert visitor.get("/labs/east/").status_code == 500
    assert all(line.exc_info for line in lines_of(caplog)), "whose traceback is wanted"


@pytest.fixture
def full_disk(monkeypatch):
    """The second file of an upload finds no room any more."""
    written, times = os.replace, []

    def replace(*names):
        times.append(names)
        if len(times) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(*names)

    monkeypatch.setattr(os, "replace", replace)
    return times


def test_an_upload_to_a_full_disk_is_507_leaves_nothing_behind_and_can_be_sent_again(lab, full_disk, tmp_path):
    body = as_upload(make_episode(), make_episode())
    answer = lab.upload(body)
    assert answer.status_code == 507 and "disk is full" in answer.json()["detail"]
    assert not Episode.objects.exists() and not [path for path in (tmp_path / "episodes").rglob("*") if path.is_file()]
    full_disk.clear()
    assert lab.upload(as_upload(make_episode())).json()["stored"] == 1


def test_a_dataset_on_a_full_disk_is_507_and_no_row(lab, full_disk):
    full_disk.append("already full")
    demo = make_episode(purpose="demonstration", actors=np.full(10, 1, np.uint8))
    path = "/api/labs/east/datasets/upload?name=mine"
    answer = lab.as_("researcher").post(path, as_upload(demo), content_type="application/octet-stream")
    assert answer.status_code == 507 and not Dataset.objects.exists()
    full_disk.clear()
    answer = lab.as_("researcher").post(path, as_upload(demo), content_type="application/octet-stream")
    assert answer.status_code == 200


async def test_a_body_that_cannot_even_be_spooled_is_507(lab, monkeypatch, caplog):
    monkeypatch.setattr("django.core.handlers.asgi.ASGIHandler.read_body", raiser(FULL[0]))
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"x", "more_body": False}

    scope = {"type": "http", "method": "POST", "path": "/api/station/episodes", "query_string": b"", "headers": []}
    await asgi.pages(scope | {"http_version": "1.1", "scheme": "http", "asgi": {"version": "3.0"}}, receive, send)
    assert sent[0]["status"] == 507 and "disk is full" in json.loads(sent[1]["body"])["detail"]
    assert len(lines_of(caplog)) == 1


@pytest.mark.parametrize(("error", "status"), [(FULL[0], 507), (AWAY[0], 503), (DataError("too long"), 422)])
def test_charts_say_it_too(lab, monkeypatch, error, status):
    answers = []

    def start_response(line, headers):
        answers.append(line)

    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/charts/app/",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
    }
    monkeypatch.setattr(charts, "get_user", raiser(error))
    body = charts.guarded(environ | {"HTTP_HOST": "localhost", "QUERY_STRING": ""}, start_response)
    assert answers[0].startswith(str(status)) and len(body[0]) > 20
    user = SimpleNamespace(is_authenticated=True)
    monkeypatch.setattr(charts, "get_user", lambda request: user)
    with charts.app.server.test_request_context("/charts/app/_dash-update-component", method="POST"):
        answer = charts.app.server.make_response(charts.app.server.handle_user_exception(error))
    assert answer.status_code == status


def test_a_disk_without_room_explains_a_database_that_went_away(monkeypatch, tmp_path, settings):
    settings.DATA = tmp_path
    assert failures.explain(OperationalError("gone")).status == 503
    monkeypatch.setattr(failures.shutil, "disk_usage", lambda path: SimpleNamespace(free=4096))
    assert failures.explain(OperationalError("gone")).status == 507

"""No text that UTF-8 or PostgreSQL can't hold is an error of the server, and no number that is none leaves it."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from django.test import Client
from plotly.io.json import to_json_plotly

from fleetui.fleet.models import Episode, Station
from fleetui.learning import jobs
from fleetui.learning.models import Metric
from fleetui.live.sockets import BAD_LIMIT, BAD_MESSAGE
from fleetui.live.telemetry import read_card
from fleetui.live.viewers import LiveConsumer
from robots.episodes import unchecked_bytes
from robots.protocol import FROM_STATION, decode
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.charts.test_guard import call
from tests.fleetui.lab import as_upload, make_episode
from tests.fleetui.test_live import arm, browser, telemetry

ROOT = Path(__file__).resolve().parents[2]
UNSTORABLE = ["\ud800", "a\0b", "x\udfff" * 3]


def strictly(text):
    """As a browser reads it."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


# What comes in


def bodies(schema):
    """(path, method, fields) of every call of the API that takes JSON."""
    for path, methods in schema["paths"].items():
        for method, described in methods.items():
            content = described.get("requestBody", {}).get("content", {}).get("application/json")
            if content:
                body = content["schema"]
                if "$ref" in body:
                    body = schema["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]
                yield path, method, body["properties"]


def value_of(field, text):
    kinds = []
    for each in field.get("anyOf", [field]):
        kinds += each["type"] if isinstance(each.get("type"), list) else [each.get("type")]
    if "string" in kinds:
        return text
    return {"array": [text], "object": {text: text}, "boolean": True}.get(kinds[0], 1)


@pytest.mark.parametrize("text", UNSTORABLE)
def test_every_call_of_the_api_refuses_text_that_cannot_be_stored(lab, improve_run, text):
    lab.upload(as_upload(make_episode()))
    episode = Episode.objects.get()
    browser = lab.as_("manager")
    known = {"{lab}": "east", "{slug}": "arm-1", "{number}": "1", "{uuid}": str(episode.uuid)}
    calls = list(bodies(browser.get("/api/openapi.json").json()))
    assert len(calls) >= 9
    for path, method, fields in calls:
        for name in fields:
            body = json.dumps({each: value_of(field, text if each == name else "1") for each, field in fields.items()})
            if json.dumps(text)[1:-1] not in body:
                continue  # a field that takes no text
            for part, value in known.items():
                path = path.replace(part, value)
            answer = getattr(browser, method)(path, body, content_type="application/json")
            if path.endswith("/stop"):
                assert answer.status_code == 200, path  # refused for nothing that is sent with it
                continue
            assert 400 <= answer.status_code < 500, (path, name)
            assert "can't be used" in answer.json()["detail"] and answer.json()["detail"].isascii(), answer.content


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "9" * 400])
def test_a_number_that_is_none_is_refused_by_the_api(lab, number):
    for path, name in (("stations/arm-1/command", "ttl_ms"), ("assignments", "hours"), ("runs", "parent")):
        answer = lab.as_("manager").post(f"/api/labs/east/{path}", f'{{"{name}": {number}}}', "application/json")
        assert answer.status_code == 400 and "can't be used" in answer.json()["detail"]


@pytest.mark.parametrize("text", [b"%ED%A0%80", b"\xed\xa0\x80", b"a%00b"])
@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("stations/new", b"name=%s&world=language_table"),
        ("stations/arm-1/settings", b"self_reset_after_s=%s"),
        ("stations/arm-1/maintenance", b"reason=%s"),
        ("people/invite", b"role=viewer&note=%s"),
        ("people/1/role", b"role=%s"),
        ("tasks/new", b"family=block2block&name=%s&description=%s"),
        ("tasks/block2block/edit", b"name=%s"),
        ("tasks/assignments/1/move", b"before=%s"),
        ("datasets/generate", b"name=%s&families=block2block&episodes=1&seed=1"),
        ("attention/contacts", b"address=%s&name=%s"),
        ("attention/1/close", b"outcome=%s"),
        ("runs/new", b"name=%s&dataset=%s"),
        ("/login", b"username=%s&password=%s"),
    ],
)
def test_no_form_makes_a_server_error_of_such_text(lab, path, form, text):
    client = Client(raise_request_exception=False)
    client.force_login(lab.users["manager"])
    answer = client.post(
        path if path[0] == "/" else f"/labs/east/{path}",
        form.replace(b"%s", text),
        content_type="application/x-www-form-urlencoded",
    )
    assert answer.status_code < 500


async def test_a_browsers_socket_answers_such_text_with_a_sentence(lab):
    socket = await browser(lab, "supervisor")
    for sent in (
        '{"command": {"name": "clear_stop", "args": {"reason": "\\ud800"}}}',
        '{"subscribe": "\\u0000"}',
        "[1e400]",
    ):
        await socket.send_to(text_data=sent)
        assert len((await socket.hear())["error"]) > 10
    await socket.disconnect()


@pytest.mark.parametrize(
    "message",
    [
        '{"type": "hello", "software": "\\ud800"}',
        '{"type": "hello", "embodiment": {"name": "a\\u0000b"}}',
        '{"type": "telemetry", "state": "idle", "reason": "\\ud800"}',
        '{"type": "touch", "kind": "self_reset", "reason": "\\udfff", "seconds": 1}',
        '{"type": "telemetry", "state": "idle", "step": ' + "9" * 400 + "}",
        json.dumps({"type": "hello", "embodiment": LANGUAGE_TABLE.to_json()}).replace("5.0", "1e400"),
    ],
)
async def test_a_stations_socket_answers_such_a_message_with_a_sentence_and_closes_after_many(lab, message):
    socket = await arm(lab, hello="hello" not in message)
    for _ in range(BAD_LIMIT):
        await socket.send_to(text_data=message)
        assert len((await socket.hear(lambda heard: heard["type"] == "error"))["error"]) > 10
    output = await socket.receive_output(timeout=60)
    assert (output["type"], output["code"]) == ("websocket.close", BAD_MESSAGE) and len(output["reason"]) > 10
    await socket.disconnect()
    assert await Station.objects.filter(state="offline").acount() == len(lab.stations)


@pytest.mark.parametrize("text", UNSTORABLE)
def test_a_callback_of_the_charts_refuses_such_text(lab, text):
    status, _, _ = call(text, lab.users["viewer"])
    assert 400 <= status < 500


# What goes out


def test_the_api_writes_null_for_what_an_older_row_holds(lab):
    lab.upload(as_upload(make_episode()))
    Episode.objects.update(duration_s=math.inf, d_start=math.nan, return_sum=-math.inf)
    (row,) = strictly(lab.as_("viewer").get("/api/labs/east/episodes").content)["items"]
    assert (row["duration_s"], row["d_start"], row["return_sum"]) == (None, None, None)


def test_a_replay_of_absurd_numbers_is_readable_json_or_a_sentence(lab):
    episode = make_episode()
    lab.upload(as_upload(episode))
    row = Episode.objects.get()
    for value in (1e8, 3e38):  # stored before such was refused
        episode.actions[3] = value
        row.file.write_bytes(unchecked_bytes([episode]))
        answer = lab.as_("viewer").get(f"/api/labs/east/episodes/{row.uuid}/steps")
        shown = strictly(answer.content)
        assert shown.get("actions", [[]])[3][0] if answer.status_code == 200 else "actions" in shown["detail"]


async def test_the_sockets_write_null_too():
    sent = []

    class Consumer(LiveConsumer):
        over = False

        async def send(self, text_data=None, bytes_data=None, close=False):
            sent.append(text_data)

    await Consumer().say({"cards": [{"d": math.inf, "distribution": [math.nan, np.float64(1)]}]})
    assert strictly(sent[0]) == {"cards": [{"d": None, "distribution": [None, 1.0]}]}


def test_what_stations_set_aside_and_hold_in_memory_is_on_the_card():
    card = read_card(decode(telemetry(unsent=3, in_memory=2, refused=1, lost=0), FROM_STATION))
    assert (card["unsent"], card["in_memory"], card["refused"], card["lost"]) == (3, 2, 1, 0)


def test_a_metric_that_is_no_number_is_null_and_stops_no_job(lab, improve_run):
    supervision = jobs.Supervision(improve_run)
    supervision.dir.path.mkdir(parents=True)
    supervision.dir.log("loss", step=1, curve=[1.0, {"deep": math.inf}], bc=math.nan)
    supervision.dir.metrics.write_text(supervision.dir.metrics.read_text() + '{"kind": "loss", "bc": NaN}\n7\n[]\n')
    supervision.dir.log("loss", step=2)
    supervision.read_metrics()
    rows = Metric.objects.filter(run=improve_run, kind="loss").order_by("seq")
    assert [row.data for row in rows] == [{"step": 1, "curve": [1.0, {"deep": None}], "bc": None}, {"step": 2}]


def test_the_charts_write_null_too():
    figure = go.Figure(go.Scatter(x=[1, 2], y=[math.nan, math.inf]))
    assert strictly(to_json_plotly(figure))["data"][0]["y"] == [None, None]


# Everything that writes JSON does it by robots/strict_json.py or one of its two encoders, but for these: what only we
# ourselves read again (a run's state has an infinity in it), or what can hold text and whole numbers only.
OTHERS = {
    "robots/strict_json.py",
    "robots/episodes.py",  # refuses what is no number
    "training/checkpoints.py",  # likewise; and a run's own state
    "training/checkpoint_files.py",  # texts and whole numbers of a file's header; NaN is refused
    "robots/mcap_files.py",  # NaN is refused
    "robots/lerobot/writing.py",  # a schema and a comparison; all figures by strict_json
    "fleetui/embedded.py",
    "fleetui/learning/resources.py",  # what psutil measured
    "fleetui/fleet/management/commands/try_shift.py",
    "fleetui/fleet/views/stations.py",
    "fleetui/practice/actions/assignments.py",
    "fleetui/practice/first_start.py",
    "fleetui/practice/management/commands/logins.py",
    "fleetui/practice/management/commands/try_loop.py",
}


def test_one_encoder_writes_all_json():
    writers = set()
    for package in ("robots", "training", "fleetui"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                called = node.func if isinstance(node, ast.Call) else None
                name = getattr(called, "attr", getattr(called, "id", ""))
                module = getattr(getattr(called, "value", None), "id", "")
                if (module, name) in (("json", "dumps"), ("json", "dump")) or name == "JsonResponse":
                    writers.add(str(path.relative_to(ROOT)))
    assert writers <= OTHERS

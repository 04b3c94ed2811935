"""What travels between a station and the server: as it always did, read strictly, and described where people look."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from robots import protocol
from robots.attention import need_of
from robots.protocol import (
    FROM_STATION,
    STATES,
    TO_STATION,
    Assignment,
    Code,
    Command,
    Hold,
    MessageError,
    Policy,
    ServerHeartbeat,
    Telemetry,
    decode,
    decode_text,
    encode,
    to_json,
)
from tests.robots.test_station import Bench

ROOT = Path(__file__).resolve().parents[2]
POLICY = Policy(
    checkpoint="p",
    version=3,
    url="/p",
    sha256="0" * 64,
    reward_model="r",
    reward_model_url="/r",
    reward_model_sha256="1" * 64,
    threshold=2.5,
    consecutive=2,
)


# The wire


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (Hold(version=3), {"type": "hold", "version": 3}),
        (
            Command(id="s", name="stop", ttl_ms=60_000, by="ada"),
            {"type": "command", "id": "s", "name": "stop", "args": {}, "ttl_ms": 60_000, "by": "ada"},
        ),
        (
            Assignment(settings={"shuffle_every_s": 300.0}),
            {
                "type": "assignment",
                "purpose": "practice",
                "settings": {"shuffle_every_s": 300.0},
                "assignment": None,
                "run": None,
                "task": None,
            },
        ),
        (ServerHeartbeat(server_time=1.5), {"type": "heartbeat", "server_time": 1.5, "stop": ""}),
        (
            replace(POLICY, path="/disk/p", reward_model_path="/disk/r"),
            {
                "type": "policy",
                "checkpoint": "p",
                "version": 3,
                "url": "/p",
                "sha256": "0" * 64,
                "reward_model": "r",
                "reward_model_url": "/r",
                "reward_model_sha256": "1" * 64,
                "threshold": 2.5,
                "consecutive": 2,
            },
        ),
    ],
)
def test_what_is_sent_is_what_ends_of_before_know(message, wire):
    assert json.loads(encode(message)) == wire


def test_what_an_end_notes_for_itself_never_travels():
    assert "age_s" not in to_json(Command(id="a", name="drive", age_s=3.0))
    assert "policies" not in to_json(Hold(policies=("p",)))
    assert decode(to_json(Command(id="a", name="drive")) | {"age_s": 9.0}, TO_STATION).age_s == 0.0


def test_a_station_says_what_it_always_said_and_a_code_where_its_reason_has_one():
    bench = Bench()
    told = bench.sent_of("telemetry")[-1]
    assert set(told) == {
        *("type", "state", "reason", "instruction", "step", "limit", "d", "d_start", "progress", "p_success"),
        *("distribution", "bin_width", "threshold", "policy", "version", "episode", "uuid", "speed", "camera_error"),
        *("human", "stop", "sent_at"),
    }
    bench.practise()
    bench.world.off_table = "the blue cube failed to stay on the table"
    bench.tick()
    bench.tick()
    told = bench.sent_of("telemetry")[-1]
    assert (told["state"], told["code"]) == ("needs_person", Code.TABLE), "whatever words a world chooses"


@pytest.mark.parametrize("kind", [*FROM_STATION.values(), *TO_STATION.values()])
def test_each_message_is_read_as_it_was_written(kind):
    sample = {"state": "idle", "ok": True, "kind": "self_reset", "checkpoint": "p", "id": "c1", "name": "drive"}
    needed = {each: sample.get(each, 4) for each in protocol._needed(kind) if kind is not Policy}
    message = kind(**needed) if kind is not Policy else POLICY
    kinds = FROM_STATION if kind in FROM_STATION.values() else TO_STATION
    assert decode_text(encode(message), kinds) == message
    assert decode(to_json(message) | {"of a newer one": [1]}, kinds) == message
    assert decode({"type": "of a newer one"}, kinds) is None


# What is wrong


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"type": "telemetry"}, "state is None; known are offline, idle"),
        ({"type": "telemetry", "state": ["idle"]}, "state is ['idle']; known are"),
        ({"type": "telemetry", "state": "idle", "d": "near"}, "d must be a finite number or null, not 'near'"),
        ({"type": "telemetry", "state": "idle", "step": True}, "step must be a finite number or null"),
        ({"type": "telemetry", "state": "idle", "distribution": [0.5, "x"]}, "distribution must be at most 1000"),
        ({"type": "telemetry", "state": "idle", "distribution": [0.0] * 1001}, "distribution must be at most 1000"),
        ({"type": 7}, "type must be the kind of the message"),
        ([], "A message is an object"),
    ],
)
def test_a_bad_message_of_a_station_is_refused_with_a_sentence(told, says):
    with pytest.raises(MessageError) as refused:
        decode(told, FROM_STATION)
    assert str(refused.value).startswith(says)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "7", '{"type": "watch"}', '{"type": "policy", "url": 3}'])
def test_a_bad_message_of_the_server_is_refused_too(text):
    with pytest.raises(MessageError):
        decode_text(text, TO_STATION)


@pytest.mark.parametrize("odd", [None, [], "x", 7, {"a": 1}, True])
def test_nothing_in_a_stop_keeps_it_from_stopping(odd):
    for field in ("args", "ttl_ms", "epoch", "sent_at", "by", "of a newer one"):
        bench = Bench().practise()
        assert bench.tick()
        bench.station.receive(decode({"type": "command", "id": "s", "name": "stop", field: odd}, TO_STATION))
        assert bench.state == "stopped", (field, odd)


# Codes


@pytest.mark.parametrize(
    ("state", "reason", "code", "kind"),
    [
        ("needs_person", "not shuffled for 5 minutes of practice", Code.NOT_SHUFFLED, "shuffle"),
        ("needs_person", "a step failed: the motor is hot", Code.FAULT, "fault"),
        ("needs_person", "the policy gave no usable action", Code.NO_ACTION, "fault"),
        ("needs_person", "the blue cube is off the table", Code.TABLE, "table"),
        ("overridden", "ada is gone; it holds still: take over or hand back", Code.UNHELD, "undriven"),
    ],
)
def test_a_need_is_known_by_the_code_or_by_the_sentence_of_a_station_of_before(state, reason, code, kind):
    assert need_of(state=state, reason="in any words", code=code, state_for_s=1.0).kind == kind
    assert need_of(state=state, reason=reason, state_for_s=1.0).kind == kind
    assert need_of(state=state, reason=reason, code="of a newer one", state_for_s=1.0).kind == kind


def test_what_a_world_says_in_the_words_of_a_fault_is_no_fault():
    need = need_of(state="needs_person", reason="the cube failed to stay", code=Code.TABLE, state_for_s=1.0)
    assert (need.kind, need.act) == ("table", "reset")


# Where people look


def test_every_state_has_words_and_a_place_of_its_own():
    assert all(state.words and state.meaning for state in STATES.values())
    assert len({state.place for state in STATES.values()}) == len(STATES)


def test_the_reference_in_the_documentation_is_made_from_the_messages():
    document = ROOT / "docs" / "architecture.md"
    text = document.read_text(encoding="utf-8")
    assert text == protocol.with_reference(text), (
        "docs/architecture.md is out of date: run python -m robots protocol --into docs/architecture.md"
    )
    for kind in (*FROM_STATION.values(), *TO_STATION.values()):
        assert kind.__doc__ and f"**`{kind.TYPE}`**" in text


def test_a_document_without_the_two_marks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs the two lines"):
        protocol.with_reference("# Architecture\n")


def test_the_protocol_is_light():
    """A page's process, a robot's program and a test read it: beside the worlds' declarations, which every module of
    robots brings, the standard library is all that it needs.
    """
    script = "import sys, robots.protocol; print([name for name in ('django', 'torch', 'mujoco', 'httpx') "
    done = subprocess.run([sys.executable, "-c", script + "if name in sys.modules])"], cwd=ROOT, capture_output=True)
    assert done.stdout.strip() == b"[]", done.stderr


def test_telemetry_of_before_is_understood():
    before = {"type": "telemetry", "state": "practising", "d": 12.5, "step": 3, "distribution": []}
    assert decode(before, FROM_STATION) == Telemetry(state="practising", d=12.5, step=3, distribution=[])

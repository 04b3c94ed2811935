"""The sockets: who may open and subscribe, snapshots that deltas keep true, commands with their answers, frames."""

import asyncio
import base64
import json
import struct
import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter

from fleetui import messages
from fleetui.fleet.actions import control as control_actions
from fleetui.fleet.actions import labs, maintenance, people, reports, stops
from fleetui.fleet.models import Lease
from fleetui.learning import actions as learning_actions
from fleetui.live import commanding, rewind, sockets, stations, viewers
from fleetui.live.routing import websocket_urlpatterns
from fleetui.practice.actions import episodes, publishing
from robots.embodiments import Camera
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.fleetui.lab import add_checkpoint, as_upload, eventually, make_episode
from tests.robots.station_fakes import FakeTime

ORIGIN = (b"origin", b"http://testserver")


class Socket(ApplicationCommunicator):
    """The other end of a socket, without a server between."""

    def __init__(self, path, headers):
        application = AuthMiddlewareStack(URLRouter(websocket_urlpatterns))
        headers = [(b"host", b"testserver"), *headers]
        scope = {"type": "websocket", "path": path, "query_string": b"", "headers": headers, "subprotocols": []}
        super().__init__(application, scope)

    async def connect(self):
        """Whether the server accepted."""
        await self.send_input({"type": "websocket.connect"})
        return (await self.receive_output(timeout=60))["type"] == "websocket.accept"

    async def disconnect(self):
        await self.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.wait(timeout=60)

    async def send_to(self, text_data=None, bytes_data=None):
        await self.send_input({"type": "websocket.receive", "text": text_data, "bytes": bytes_data})

    async def receive_from(self, timeout):
        output = await self.receive_output(timeout=timeout)
        assert output["type"] == "websocket.send", output
        return output.get("bytes") or output["text"]

    async def say(self, **message):
        await self.send_to(text_data=json.dumps(message))

    async def hear(self, wanted=lambda message: True, seconds=60.0):
        """The next message that is wanted; those before it are dropped."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            assert left > 0, "nothing such was heard"
            message = await self.receive_from(timeout=left)
            message = message if isinstance(message, bytes) else json.loads(message)
            if wanted(message):
                return message


@pytest.fixture(autouse=True)
def no_heartbeats(monkeypatch):
    """Tests listen for silence; tests/fleetui/test_sockets.py has the heartbeats. And who holds a station is not gone
    because the machine is busy: the one test of that turns the clock.
    """
    monkeypatch.setattr(commanding, "HEARTBEAT_LOST_S", 1000)
    monkeypatch.setattr(control_actions, "OPERATOR_LEASE", timedelta(seconds=1000))
    monkeypatch.setattr(viewers, "HEARTBEAT_EVERY_S", 1000)
    monkeypatch.setattr(stations, "HEARTBEAT_EVERY_S", 1000)


def cookie_of(lab, role):
    return (b"cookie", f"sessionid={lab.as_(role).cookies['sessionid'].value}".encode())


async def browser(lab, role="viewer"):
    socket = Socket("/ws/live", [ORIGIN, await sync_to_async(cookie_of)(lab, role)])
    assert await socket.connect()
    return socket


TWO_CAMERAS = replace(LANGUAGE_TABLE, views=(Camera("front", 320, 240), Camera("wrist", 320, 240)))


async def arm(lab, slug="arm-1", hello=True, body=LANGUAGE_TABLE):
    socket = Socket("/ws/station", [(b"authorization", f"Bearer {lab.tokens[slug]}".encode())])
    assert await socket.connect()
    if hello:
        await socket.say(type="hello", embodiment=body.to_json(), software="test", renderer="drawn", tasks=[])
        assert (await socket.hear())["type"] == "welcome"
    return socket


def telemetry(state="practising", **fields):
    return {
        "type": "telemetry",
        "state": state,
        "reason": "",
        "instruction": "push the blue cube",
        "step": 3,
        "limit": 100,
        "d": 12.5,
        "d_start": 20.0,
        "progress": 0.375,
        "p_success": 0.1,
        "distribution": [0.5, 0.5],
        "bin_width": 2.0,
        "threshold": 2.5,
        "policy": "",
        "version": 0,
        "episode": 1,
        "uuid": "6633f886-af00-4bb6-b57e-d30a53233993",
        "speed": 1,
        "human": False,
        "sent_at": time.time(),
    } | fields


def merge(data, delta):
    """What a page does with a delta of the wall, of a station or of a run."""
    if "card" in delta:
        cards = data.get("stations", [data])
        card = next(card for card in cards if card["slug"] == delta["card"]["slug"])
        before = card["uuid"]
        card.update(delta["card"])
        if "trace" in card and {"step", "d"} & set(delta["card"]) and card["uuid"]:
            if card["uuid"] != before:
                card["trace"] = []
            card["trace"] += [None] * (card["step"] + 1 - len(card["trace"]))
            card["trace"][card["step"]] = card["d"]
    if "run" in delta:
        data["run"].update(delta["run"])
    data.get("metrics", []).extend(delta.get("metrics", []))
    for row in delta.get("checkpoints", []):
        data["checkpoints"] = [kept for kept in data["checkpoints"] if kept["id"] != row["id"]] + [row]


async def listen(socket, data, seq, heard=lambda: True, quiet_s=0.6):
    """Merge all deltas that come until it is quiet and all was heard; their numbers must have no gap."""
    deadline = time.monotonic() + 60
    while not (quiet := await socket.receive_nothing(timeout=quiet_s)) or not heard():
        assert time.monotonic() < deadline, "not all was heard"
        if quiet:
            continue
        message = await socket.hear()
        seq += 1
        assert (message["type"], message["seq"]) == ("delta", seq)
        merge(data, message["data"])
    return seq


# Doors


@pytest.mark.parametrize(
    "origin",
    [
        (b"origin", b"http://evil.example"),
        (b"x-nothing", b""),
        (b"origin", b"null"),
        (b"origin", b"http://testserver:81"),  # another program of the same machine, to which the cookie goes as well
        (b"origin", b"http://testserver.evil.example"),
        (b"origin", b"http://[testserver"),
    ],
)
async def test_a_page_of_another_site_can_not_open_the_socket(lab, origin):
    socket = Socket("/ws/live", [origin, await sync_to_async(cookie_of)(lab, "manager")])
    assert not await socket.connect()


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (b"http://localhost:9000", b"localhost:9000"),  # a forwarded port
        (b"http://[::1]:8000", b"[::1]:8000"),
        (b"https://testserver", b"testserver"),  # TLS ends at a proxy that tells nothing of it
        (b"https://fleet.example:8443", b"127.0.0.1:8000"),  # FLEETUI_URL, behind a proxy that passes no Host
    ],
)
async def test_our_own_pages_open_the_socket_by_whatever_way_they_came(lab, settings, origin, host):
    settings.CSRF_TRUSTED_ORIGINS = ["https://fleet.example:8443"]
    cookie = await sync_to_async(cookie_of)(lab, "viewer")
    socket = Socket("/ws/live", [(b"origin", origin), (b"host", host), cookie])
    assert await socket.connect()
    await socket.disconnect()


async def test_without_a_session_the_socket_is_refused(lab):
    assert not await Socket("/ws/live", [ORIGIN]).connect()


async def test_another_labs_topics_are_not_found(lab, other_lab, improve_run):
    socket = await browser(other_lab, "manager")
    for wanted in (
        {"subscribe": "wall"},
        {"subscribe": "station", "station": "arm-1"},
        {"subscribe": "run", "run": improve_run.pk},
        {"subscribe": "frames", "station": "arm-1"},
    ):
        await socket.say(**wanted, lab="east")
        assert "no lab 'east'" in (await socket.hear())["error"]
    await socket.disconnect()


async def test_nonsense_is_answered_with_a_sentence(lab):
    socket = await browser(lab)
    for text in (
        "{",
        "[]",
        "{}",
        '{"subscribe": "moon", "lab": "east"}',
        '{"subscribe": "run", "lab": "east", "run": "x"}',
    ):
        await socket.send_to(text_data=text)
        assert len((await socket.hear())["error"]) > 10
    await socket.say(subscribe="wall", lab="east")
    assert (await socket.hear())["type"] == "snapshot"
    await socket.disconnect()


@pytest.mark.parametrize("token", [b"Bearer nonsense", b""])
async def test_an_unknown_token_is_turned_away(lab, token):
    socket = Socket("/ws/station", [(b"authorization", token)])
    await socket.connect()
    closed = await socket.receive_output(timeout=60)
    assert (closed["type"], closed["code"]) == ("websocket.close", 4401)


# A snapshot and its deltas are a fresh snapshot


async def test_the_wall_stays_true(lab):
    socket = await browser(lab)
    await socket.say(subscribe="wall", lab="east")
    snapshot = await socket.hear()
    data, seq = snapshot["data"], snapshot["seq"]
    station = await arm(lab)
    await station.say(**telemetry("idle", uuid=""))
    await station.say(**telemetry())
    seq = await listen(socket, data, seq, lambda: data["stations"][0]["d"] == 12.5)
    await sync_to_async(episodes.store_episodes)(station=lab.stations[0], body=as_upload(make_episode()))
    await sync_to_async(stops.stop_stations)(user=lab.users["supervisor"], lab_slug="east", station_slug="arm-1")
    await station.say(**telemetry("needs_person", reason="the blue cube is off the table"))
    seq = await same_as_fresh(lab, socket, data, seq)
    await station.disconnect()
    seq = await listen(socket, data, seq, lambda: data["stations"][0]["state"] == "offline")
    await same_as_fresh(lab, socket, data, seq)
    await socket.disconnect()


async def test_a_stations_page_stays_true(lab):
    subscription = {"subscribe": "station", "lab": "east", "station": "arm-1"}
    station, socket = await arm(lab), await browser(lab)
    await socket.say(**subscription)
    snapshot = await socket.hear()
    data, seq = snapshot["data"], snapshot["seq"]
    for step, d in enumerate([20.0, 19.0, 17.5]):
        await station.say(**telemetry(step=step, d=d))
        seq = await listen(socket, data, seq, lambda: data["d"] == d, quiet_s=0.3)  # noqa: B023
    assert data["trace"] == [20.0, 19.0, 17.5]
    await sync_to_async(episodes.store_episodes)(station=lab.stations[0], body=as_upload(make_episode()))
    await sync_to_async(control_actions.command_station)(
        user=lab.users["supervisor"], lab_slug="east", station_slug="arm-1", name="pause"
    )
    await station.say(**telemetry("paused", reason="paused by a person", uuid="", step=0, d=None))
    seq = await listen(socket, data, seq, lambda: data["paused"] and data["episodes"] == 1)
    seq = await same_as_fresh(lab, socket, data, seq, subscription)
    another = "9b2f2f6a-2d53-4b3b-9d5e-3a6a3a0f1c11"
    await station.say(**telemetry(step=0, d=44.0, uuid=another))
    seq = await listen(socket, data, seq, lambda: data["d"] == 44.0)
    assert data["trace"] == [44.0], "another episode has a trace of its own"
    await same_as_fresh(lab, socket, data, seq, subscription)
    await station.disconnect()
    await socket.disconnect()


async def test_a_body_that_is_refused_is_said_on_the_page_in_full(lab, improve_run):
    socket = await arm(lab, hello=False)
    faster = {**LANGUAGE_TABLE.to_json(), "fps": 10.0}
    page = await browser(lab)
    await page.say(subscribe="wall", lab="east")
    await page.hear()
    await socket.say(type="hello", embodiment=faster)
    changed = await page.hear(lambda message: "reason" in message.get("data", {}).get("card", {}))
    reason = changed["data"]["card"]["reason"]
    assert "it acts at 10 Hz, and acted at 5 Hz. It practises Block2Block with the body as it was" in reason
    station = await sync_to_async(lambda: lab.row.stations.get(slug="arm-1"))()
    assert not station.connected and station.reason == reason
    await page.disconnect()


async def same_as_fresh(lab, socket, data, seq, subscription=None):
    """Listen until what deltas made of it is what a page gets that is opened now."""
    deadline = time.monotonic() + 60
    seq = await listen(socket, data, seq)
    while differing := await differing_from_fresh(lab, data, subscription):
        assert time.monotonic() < deadline, differing
        seq = await listen(socket, data, seq)
    return seq


async def differing_from_fresh(lab, data, subscription):
    """{field: (as it was kept true, as it is)}"""
    fresh_socket = await browser(lab)
    await fresh_socket.say(**subscription or {"subscribe": "wall", "lab": "east"})
    fresh = (await fresh_socket.hear())["data"]
    await fresh_socket.disconnect()
    # The page fetches the last episodes anew whenever their number changes.
    by_slug = {card["slug"]: {**card, "recent": None} for card in fresh.get("stations", [fresh])}
    found = {}
    for card in data.get("stations", [data]):
        card["recent"] = None
        known = by_slug[card["slug"]]
        differing = {name for name in known if known[name] != card.get(name)} - {"last_seen", "state_since"}
        found |= {(card["slug"], name): (card.get(name), known[name]) for name in differing}
    return found


async def test_a_runs_page_stays_true(lab, improve_run):
    socket = await browser(lab)
    await socket.say(subscribe="run", lab="east", run=improve_run.pk)
    snapshot = await socket.hear()
    data, seq = snapshot["data"], snapshot["seq"]

    def happen():
        learning_actions.record_metrics(
            run=improve_run,
            lines=[
                (1, {"kind": "progress", "done": 1, "total": 4, "phase": "practice", "t": 1.0}),
                (2, {"kind": "loss", "step": 1}),
            ],
        )
        policy = add_checkpoint(improve_run, "policy", 0)
        publishing.publish_checkpoint(run=improve_run, checkpoint=policy)
        learning_actions.record_metrics(run=improve_run, lines=[(3, {"kind": "kept", "version": 0})])
        episode = make_episode(policy=str(policy.uuid))
        episodes.store_episodes(station=lab.stations[0], body=as_upload(episode))
        learning_actions.pause_run(run=improve_run, user=lab.users["manager"])

    await sync_to_async(happen)()
    await listen(socket, data, seq, lambda: data["run"]["progress"] == 0.25 and data["run"]["state"] == "pausing")
    await socket.say(subscribe="run", lab="east", run=improve_run.pk)
    fresh = (await socket.hear())["data"]
    for part in ("run", "metrics", "checkpoints"):
        assert data[part] == fresh[part], part
    await socket.disconnect()


async def test_after_a_lost_event_there_is_a_new_snapshot(lab, settings):
    import redis

    socket = await browser(lab)
    await socket.say(subscribe="wall", lab="east")
    await socket.hear()
    redis.Redis.from_url(settings.CHANNELS_ADDRESS).incr(messages.number_key("wall:east"))  # one that nobody got
    await sync_to_async(episodes.store_episodes)(station=lab.stations[0], body=as_upload(make_episode()))
    again = await socket.hear()
    assert (again["type"], again["seq"]) == ("snapshot", 2)
    assert again["data"]["stations"][0]["episodes"] == 1
    await socket.disconnect()


# Telemetry, commands, frames


async def test_telemetry_is_not_written_for_each_message(lab, monkeypatch):
    from fleetui.live import telemetry as live

    monkeypatch.setattr(stations, "WRITE_EVERY_S", 300)
    station = await arm(lab)
    await station.say(**telemetry())
    await eventually_in_thread(lambda: lab.row.stations.get(slug="arm-1").state == "practising")
    last_seen = await sync_to_async(lambda: lab.row.stations.get(slug="arm-1").last_seen)()
    for step in range(4, 30):
        await station.say(**telemetry(step=step, d=20.0 - step / 2))
    await eventually(lambda: (live.newest[lab.stations[0].pk].trace or [None])[-1] == 5.5)  # all were seen
    row = await sync_to_async(lambda: lab.row.stations.get(slug="arm-1"))()
    assert row.last_seen == last_seen and row.state == "practising"
    await station.disconnect()


async def test_why_a_camera_shows_nothing_is_on_its_card_until_it_shows_something(lab):
    station, socket = await arm(lab), await browser(lab)
    await socket.say(subscribe="wall", lab="east")
    assert (await socket.hear())["data"]["stations"][0]["camera_error"] == ""
    await station.say(**telemetry(camera_error="the camera gave no picture"))
    told = await socket.hear(lambda message: (message["data"].get("card") or {}).get("camera_error"))
    assert told["data"]["card"]["camera_error"] == "the camera gave no picture"
    late = await browser(lab)
    await late.say(subscribe="wall", lab="east")
    assert (await late.hear())["data"]["stations"][0]["camera_error"] == "the camera gave no picture"
    await station.say(**telemetry(camera_error=""))
    await socket.hear(lambda message: (message["data"].get("card") or {}).get("camera_error") == "")
    for each in (station, socket, late):
        await each.disconnect()


async def test_bad_telemetry_is_answered_then_closes_the_link_and_harms_nobody(lab):
    socket = await browser(lab)
    await socket.say(subscribe="wall", lab="east")
    await socket.hear()
    for message in (telemetry("flying"), telemetry(d="high"), telemetry(distribution=[None])):
        station = await arm(lab)
        await station.say(**message)
        assert (await station.hear(lambda message: message["type"] == "error"))["error"]
        for _ in range(sockets.BAD_LIMIT):
            await station.say(**message)
        while (output := await station.receive_output(timeout=60))["type"] != "websocket.close":
            pass
        assert output["code"] == 4400
    await socket.say(subscribe="wall", lab="east")
    assert (await socket.hear(lambda message: message["type"] == "snapshot"))["data"]["stations"][0]["d"] is None
    await socket.disconnect()


async def test_a_command_reaches_the_station_and_its_answer_the_browser(lab):
    station, socket = await arm(lab), await browser(lab, "supervisor")
    wish = {"id": "c1", "lab": "east", "station": "arm-1", "name": "reset", "args": {}, "ttl_ms": 60_000}
    await socket.say(command=wish)
    told = await station.hear(lambda message: message["type"] == "command")
    assert (told["id"], told["name"], told["ttl_ms"]) == ("c1", "reset", 60_000)
    await station.say(type="command_done", id="c1", ok=True, error="")
    assert (await socket.hear())["command_done"] == {"id": "c1", "ok": True, "error": ""}
    await socket.say(command=wish | {"id": "c2", "ttl_ms": 50})  # this one is never answered
    assert "did not answer" in (await socket.hear())["command_done"]["error"]
    await station.disconnect()
    await socket.disconnect()


async def test_a_viewer_can_not_command_over_the_socket(lab):
    station, socket = await arm(lab), await browser(lab, "viewer")
    await socket.say(command={"id": "c", "lab": "east", "station": "arm-1", "name": "reset"})
    done = (await socket.hear())["command_done"]
    assert not done["ok"] and "viewer" in done["error"]
    assert await station.receive_nothing(timeout=0.3) or "command" not in (await station.hear())["type"]
    await station.disconnect()
    await socket.disconnect()


async def take_control(lab, station, socket, command_id="o"):
    wish = {"id": command_id, "lab": "east", "station": "arm-1", "name": "override", "ttl_ms": 60_000}
    await socket.say(command=wish)
    told = await station.hear(lambda message: message["type"] == "command" and message["name"] == "override")
    control = (await socket.hear(lambda message: "control" in message))["control"]
    assert control["held"] and control["epoch"] == told["epoch"]
    await station.say(type="command_done", id=command_id, ok=True, error="")
    assert (await socket.hear(lambda message: "command_done" in message))["command_done"]["ok"]
    return told["epoch"]


def leases(lab):
    return list(Lease.objects.filter(station=lab.stations[0], released_at=None, user__isnull=False))


def drive(**fields):
    command = {"id": "d", "lab": "east", "station": "arm-1", "name": "drive", "args": {"axes": {"x": 1, "y": 0}}}
    return {"command": command | {"ttl_ms": 300} | fields}


HEARTBEAT = {"control_heartbeat": {"lab": "east", "station": "arm-1"}}


async def test_an_override_lives_by_the_beats_of_its_socket(lab, monkeypatch):
    monkeypatch.setattr(commanding, "HEARTBEAT_LOST_S", 2.0)
    clock = FakeTime()
    monkeypatch.setattr(commanding, "time", clock)
    station, socket = await arm(lab), await browser(lab, "supervisor")
    epoch = await take_control(lab, station, socket)
    for _ in range(7):
        clock.now += 0.4
        await socket.say(**HEARTBEAT)
        sign = await station.hear(lambda message: message["type"] == "control_heartbeat")
        assert sign["epoch"] == epoch and sign["sent_at"] == clock.now
    assert await sync_to_async(leases)(lab), "2.8 s later"
    clock.now += 1.9
    await socket.say(**drive())
    told = await station.hear(lambda message: message["type"] == "command")
    assert (told["name"], told["epoch"], told["ttl_ms"], told["by"]) == ("drive", epoch, 300, "east-supervisor")
    clock.now += 0.2
    gone = await station.hear(lambda message: message["type"] == "lapse")
    assert gone["epoch"] == epoch
    lost = (await socket.hear(lambda message: "control" in message))["control"]
    assert not lost["held"] and "sign of life" in lost["why"]
    await eventually_in_thread(lambda: not leases(lab))
    await socket.say(**drive())
    done = (await socket.hear(lambda message: "command_done" in message))["command_done"]
    assert not done["ok"] and "take control" in done["error"]
    await station.disconnect()
    await socket.disconnect()


async def eventually_in_thread(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not await sync_to_async(condition)():
        assert time.monotonic() < deadline, "it never came to hold"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("end", ["the socket closes", "the role is taken away", "the user logs out"])
async def test_an_override_ends_with_its_socket_its_role_and_its_log_in(lab, monkeypatch, end):
    """By this alone: its heartbeats would be missed, and its log-in asked for again, only long after."""
    monkeypatch.setattr(viewers, "RECHECK_S", 1000)
    station, socket = await arm(lab), await browser(lab, "supervisor")
    other_tab = await browser(lab, "supervisor")
    await other_tab.say(**drive())
    assert not (await other_tab.hear(lambda message: "command_done" in message))["command_done"]["ok"]
    epoch = await take_control(lab, station, socket)
    await other_tab.say(**drive())
    refused = (await other_tab.hear(lambda message: "command_done" in message))["command_done"]
    assert not refused["ok"] and "This page is not in control" in refused["error"], "it is bound to its own socket"
    if end == "the socket closes":
        await socket.disconnect()
    else:
        change = (
            (lambda: labs.add_member(lab=lab.row, person=lab.users["supervisor"], role="viewer"))
            if end == "the role is taken away"
            else lab.as_("supervisor").logout
        )
        await sync_to_async(change)()
        await socket.say(**HEARTBEAT)
    assert (await station.hear(lambda message: message["type"] == "lapse"))["epoch"] == epoch
    await eventually_in_thread(lambda: not leases(lab))
    await station.disconnect()
    await other_tab.disconnect()


async def test_who_takes_over_in_another_tab_ends_the_first_ones_lease(lab):
    station, first, second = await arm(lab), await browser(lab, "supervisor"), await browser(lab, "supervisor")
    old = await take_control(lab, station, first)
    new = await take_control(lab, station, second, "o2")
    assert new == old + 1
    await first.say(**HEARTBEAT)
    lost = (await first.hear(lambda message: "control" in message))["control"]
    assert not lost["held"] and "not in control" in lost["why"]
    (lease,) = await sync_to_async(leases)(lab)
    assert lease.epoch == new, "the lapse of the old lease doesn't end the new one"
    for socket in (station, first, second):
        await socket.disconnect()


async def test_an_override_that_the_station_refuses_leaves_no_lease(lab):
    station, socket = await arm(lab), await browser(lab, "supervisor")
    await socket.say(command={"id": "o", "lab": "east", "station": "arm-1", "name": "override", "ttl_ms": 60_000})
    await station.hear(lambda message: message["type"] == "command")
    await station.say(type="command_done", id="o", ok=False, error="it is stopped")
    assert (await socket.hear(lambda message: "command_done" in message))["command_done"]["error"] == "it is stopped"

    def free():
        lab.stations[0].refresh_from_db()
        return not leases(lab) and not lab.stations[0].taken_over

    await eventually_in_thread(free)
    await station.disconnect()
    await socket.disconnect()


async def test_a_command_that_waited_on_its_way_here_is_not_passed_on(lab, monkeypatch):
    monkeypatch.setattr(stops, "ANSWERED_WITHIN_S", 60)
    station, socket = await arm(lab), await browser(lab, "supervisor")
    await take_control(lab, station, socket)
    await socket.say(**drive(sent_at=time.monotonic() - 0.5))
    done = (await socket.hear(lambda message: "command_done" in message))["command_done"]
    assert "ms old and was good for 300 ms" in done["error"]
    await socket.say(stop={"id": "s", "station": "arm-1"}, lab="east", sent_at=time.monotonic() - 60)
    told = await station.hear(lambda message: message["type"] == "command")
    assert told["name"] == "stop", "a stop is never too late, and the drive was never passed on"
    await station.say(type="command_done", id=told["id"], ok=True, error="")
    assert (await socket.hear(lambda message: "stop_done" in message))["stop_done"]["recorded"]
    await station.disconnect()
    await socket.disconnect()


@pytest.mark.parametrize(
    "nonsense",
    [
        {"command": {"name": ["stop"], "lab": "east", "station": "arm-1"}},
        {"command": {"name": "drive", "lab": ["east"], "station": {}}},
        {"command": {"name": "drive", "lab": "east", "station": "arm-1", "ttl_ms": "long"}},
        {"command": {"name": "reset", "lab": "east", "station": "arm-1", "sent_at": 10**400}},
        {"command": {"name": "speed", "lab": "east", "station": "arm-1", "args": {"value": 10**400}}},
        {"command": {"name": "settings", "lab": "east", "station": "arm-1", "args": {"shuffle_every_s": 10**400}}},
        {"control_heartbeat": 7},
        {"control_heartbeat": {"lab": "east", "station": "arm-1"}},
        {"control_heartbeat": {"lab": "east", "station": ["arm-1"]}},
    ],
)
async def test_strange_commands_and_beats_get_a_sentence(lab, nonsense):
    socket = await browser(lab, "supervisor")
    await socket.say(**nonsense)
    answer = await socket.hear()
    assert len(answer.get("error") or answer["command_done"]["error"]) > 10
    await socket.say(subscribe="wall", lab="east")
    assert (await socket.hear(lambda message: "topic" in message))["type"] == "snapshot", "it goes on"
    await socket.disconnect()


async def test_many_frames_are_asked_for_while_somebody_watches_and_the_newest_wins(lab):
    station, socket = await arm(lab), await browser(lab)
    assert (await station.hear(lambda message: message["type"] == "watch"))["fps"] == rewind.UNWATCHED_FPS
    await socket.say(subscribe="frames", lab="east", station="arm-1", fps=5, size="large")
    asked = await station.hear(lambda message: message["type"] == "watch")
    assert (asked["fps"], asked["width"], asked["height"]) == (5, 320, 240)

    def frame(step):
        return struct.pack(">IId", step, 1, time.time()) + b"\xff\xd8 picture"

    began, steps = time.monotonic(), [-1]
    for step in range(20):
        await station.send_to(bytes_data=frame(step))
    while steps[-1] < 19:
        message = await socket.hear()
        assert message[:7] == b"\x00\x05arm-1"
        steps.append(struct.unpack_from(">I", message, 7)[0])
    assert steps == sorted(set(steps))
    assert len(steps[1:]) <= 2 + 5 * (time.monotonic() - began)  # what lay between was dropped, not queued
    assert await socket.receive_nothing(timeout=0.3)
    await socket.say(unsubscribe="frames", lab="east", station="arm-1")
    assert (await station.hear(lambda message: message["type"] == "watch"))["fps"] == rewind.UNWATCHED_FPS
    await station.disconnect()
    await socket.disconnect()


async def test_two_viewers_watch_two_cameras_of_one_station_and_each_gets_its_own(lab):
    one, other = await browser(lab), await browser(lab)
    station = await arm(lab, body=TWO_CAMERAS)
    await one.say(subscribe="frames", lab="east", station="arm-1", fps=5)
    await other.say(subscribe="frames", lab="east", station="arm-1", fps=20, size="large", camera="wrist")
    asked = await station.hear(lambda message: message["type"] == "watch" and message["width"] == 320)
    assert asked["cameras"] == ["front", "wrist"] and asked["fps"] == 15, "all together no more than 30 a second"

    def frame(camera, words):
        return struct.pack(">IId", 7, 1, 0.0) + camera + b"\xff\xd8 " + words

    for camera, words in (
        (b"\x01", b"hand"),
        (b"", b"table"),
        (b"\x02", b"nobody"),
        (b"\xff", b"nobody"),
        (b"\x01\x00", b"no jpeg"),
    ):
        await station.send_to(bytes_data=frame(camera, words))
    assert (await one.hear())[23:] == b"\xff\xd8 table"
    assert (await other.hear())[23:] == b"\x01\xff\xd8 hand"
    assert await one.receive_nothing(timeout=0.2) and await other.receive_nothing(timeout=0.2)
    past = (await sync_to_async(lab.call)("viewer", "get", "stations/arm-1/rewind")).json()
    assert [base64.b64decode(each["jpeg"]) for each in past["frames"]] in ([b"\xff\xd8 table"], [])
    await other.say(unsubscribe="frames", lab="east", station="arm-1", camera="wrist")
    asked = await station.hear(lambda message: message["type"] == "watch" and message["width"] == 160)
    assert "cameras" not in asked and asked["fps"] == 5
    for camera in ("<img src=x>", "../front", 7, None, ["front"]):
        await one.say(subscribe="frames", lab="east", station="arm-1", camera=camera)
        assert "camera" in (await one.hear())["error"]
    for socket in (station, one, other):
        await socket.disconnect()


async def test_who_watches_a_camera_by_name_hears_of_it_once_the_station_has_come(lab):
    """Its number is the station's to say, and may be another when it comes back with another body."""
    socket = await browser(lab)
    await (await arm(lab, body=TWO_CAMERAS)).disconnect()
    await socket.say(subscribe="frames", lab="east", station="arm-1", camera="wrist")
    station = await arm(lab, body=TWO_CAMERAS)
    asked = await station.hear(lambda message: message["type"] == "watch" and "cameras" in message)
    assert asked["cameras"] == ["front", "wrist"]
    turned = replace(TWO_CAMERAS, views=TWO_CAMERAS.views[::-1])
    await station.disconnect()
    station = await arm(lab, body=turned)
    assert "cameras" not in await station.hear(lambda message: message["type"] == "watch")
    await station.send_to(bytes_data=struct.pack(">IId", 7, 1, 0.0) + b"\xff\xd8 hand")
    assert (await socket.hear(lambda message: isinstance(message, bytes)))[23:] == b"\xff\xd8 hand"
    await station.disconnect()
    await socket.disconnect()


async def test_the_last_half_minute_can_be_seen_though_nobody_watched_and_the_station_is_gone(lab, monkeypatch):
    now = 100.0
    monkeypatch.setattr(rewind, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(rewind, "_pasts", {})

    async def fetch():
        return (await sync_to_async(lab.call)("viewer", "get", "stations/arm-1/rewind")).json()

    async def say(station, step, **fields):
        await station.say(**telemetry(step=step, **fields))
        for _ in range(3000):
            told = await fetch()
            newest = told["samples"][-1] if told["samples"] else {}
            if newest.get("step") == step and newest["d"] == fields.get("d", 12.5):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"step {step} never arrived")

    assert (await fetch())["samples"] == []
    station = await arm(lab)
    await say(station, 1)
    now = 120.0
    await say(station, 2, d=19.0)
    for _ in range(2):  # the second comes too soon to be kept
        await station.send_to(bytes_data=struct.pack(">IId", 2, 1, time.time()) + b"\xff\xd8 picture")
    for _ in range(3000):
        if (await fetch())["frames"]:
            break
        await asyncio.sleep(0.02)
    now = 120.5
    await say(station, 2, d=18.0)  # those before it have been read
    now = 140.0
    await say(station, 3, d=40.0)
    now = 145.0  # it has stood still for so long that its ring does
    rewind.note(lab.stations[0].pk, {"state": "needs_person", "step": 0})
    rewind.keep_frame(lab.stations[0].pk, b"\xff\xd8 still")
    await station.disconnect()
    now = 150.0
    told = await fetch()
    assert [(each["at"], each["step"], each["d"]) for each in told["samples"]] == [
        (-20.0, 2, 19.0),
        (-19.5, 2, 18.0),
        (0.0, 3, 40.0),
    ]
    assert told["ended_s_ago"] == 10.0
    assert [(each["at"], base64.b64decode(each["jpeg"])) for each in told["frames"]] == [(-20.0, b"\xff\xd8 picture")]


async def test_a_second_link_of_a_station_replaces_the_first(lab):
    first = await arm(lab)
    second = await arm(lab)
    while (output := await first.receive_output(timeout=60))["type"] != "websocket.close":
        pass
    assert output["code"] == 4409
    await first.disconnect()
    row = await sync_to_async(lambda: lab.row.stations.get(slug="arm-1"))()
    assert row.connected
    await second.disconnect()


async def test_a_station_that_returns_at_once_is_not_overtaken_by_its_leaving(lab, monkeypatch):
    leave = reports.disconnect_station

    def leave_slowly(**fields):
        time.sleep(0.5)
        leave(**fields)

    monkeypatch.setattr(reports, "disconnect_station", leave_slowly)
    first = await arm(lab)
    leaving = asyncio.create_task(first.disconnect())
    await asyncio.sleep(0.1)
    second = await arm(lab)
    await leaving
    row = await sync_to_async(lambda: lab.row.stations.get(slug="arm-1"))()
    assert row.connected and row.state == "idle"
    await second.disconnect()


async def test_a_socket_closes_when_its_user_logs_out_or_leaves_the_lab(lab, monkeypatch):
    monkeypatch.setattr(viewers, "RECHECK_S", 0.1)
    gone, removed = await browser(lab, "viewer"), await browser(lab, "supervisor")
    for socket in (gone, removed):
        await socket.say(subscribe="wall", lab="east")
        await socket.hear(lambda message: message.get("type") == "snapshot")
    await asyncio.sleep(0.3)
    assert await gone.receive_nothing(timeout=0.1), "nothing happens to who is still welcome"
    await sync_to_async(lab.as_("viewer").logout)()
    await sync_to_async(lab.row.memberships.filter(user=lab.users["supervisor"]).delete)()
    for socket in (gone, removed):
        output = await socket.receive_output(timeout=60)
        assert (output["type"], output["code"]) == ("websocket.close", viewers.FORBIDDEN)
        await socket.disconnect()


async def test_a_strange_unsubscribe_gets_a_sentence(lab):
    socket = await browser(lab)
    await socket.say(unsubscribe={}, lab="east")
    assert "unsubscribe" in (await socket.hear())["error"]
    await socket.disconnect()


async def test_a_changed_role_closes_the_socket_within_two_seconds(lab):
    assert viewers.RECHECK_S < 2
    socket, other = await browser(lab, "supervisor"), await browser(lab, "viewer")
    for each in (socket, other):
        await each.say(subscribe="wall", lab="east")
        await each.hear(lambda message: message.get("type") == "snapshot")
    member = await sync_to_async(lab.row.memberships.select_related("user", "lab").get)(user=lab.users["supervisor"])
    await sync_to_async(people.change_role)(member=member, role="viewer", user=lab.users["manager"])
    output = await socket.receive_output(timeout=60)
    assert (output["type"], output["code"]) == ("websocket.close", viewers.FORBIDDEN)
    assert await other.receive_nothing(timeout=0.5)
    await socket.disconnect()
    await other.disconnect()


async def test_maintenance_is_shown_over_what_the_station_says_and_keeps_the_wall_calm(lab):
    socket, station = await browser(lab, "viewer"), await arm(lab)
    await socket.say(subscribe="wall", lab="east")
    await socket.hear(lambda message: message.get("type") == "snapshot")
    await sync_to_async(maintenance.begin_maintenance)(
        station=lab.stations[0], user=lab.users["supervisor"], reason="new gripper"
    )
    assert (await station.hear(lambda message: message["type"] == "command"))["name"] == "pause"

    def of(state):
        def wanted(message):
            return message.get("data", {}).get("card", {}).get("state") == state

        return wanted

    card = (await socket.hear(of("maintenance")))["data"]["card"]
    assert card["maintenance"] == "new gripper"
    await station.say(**telemetry("needs_person", reason="a block fell"))
    await station.say(**telemetry("overridden"))  # driven by whoever repairs it: that is never hidden
    card = (await socket.hear(of("overridden")))["data"]["card"]
    assert not card.get("attention")
    await station.say(**telemetry("paused"))
    await socket.hear(of("maintenance"))
    row = await sync_to_async(lambda: lab.row.stations.get(slug="arm-1"))()
    await sync_to_async(maintenance.end_maintenance)(station=row, user=lab.users["supervisor"])
    await socket.hear(of("paused"))  # before the station says anything anew
    await socket.disconnect()
    await station.disconnect()


async def test_a_token_that_dies_at_once_takes_its_socket_with_it(lab):
    station = await arm(lab)
    await sync_to_async(labs.renew_token)(station=lab.stations[0], user=lab.users["manager"])
    while (output := await station.receive_output(timeout=60))["type"] != "websocket.close":
        pass
    assert output["code"] == 4401
    await station.disconnect()


async def test_the_socket_of_an_old_token_lives_until_the_new_one_has_connected(lab, monkeypatch):
    old = await arm(lab)
    token = await sync_to_async(labs.renew_token)(station=lab.stations[0], user=lab.users["manager"], keep_old=True)
    again = await arm(lab)  # a network that broke: the old token still opens a socket
    while (output := await old.receive_output(timeout=60))["type"] != "websocket.close":
        pass
    assert output["code"] == 4409
    lab.tokens["arm-1"], used = token, lab.tokens["arm-1"]
    new = await arm(lab)
    while (output := await again.receive_output(timeout=60))["type"] != "websocket.close":
        pass
    lab.tokens["arm-1"] = used
    late = Socket("/ws/station", [(b"authorization", f"Bearer {used}".encode())])
    assert await late.connect()
    assert (await late.receive_output(timeout=60))["code"] == 4401
    for each in (old, again, new, late):
        await each.disconnect()


async def test_the_socket_of_an_old_token_ends_with_its_ten_minutes(lab, monkeypatch):
    from datetime import timedelta

    monkeypatch.setattr(labs, "OLD_TOKEN_FOR", timedelta(seconds=0.5))
    station = await arm(lab)
    await sync_to_async(labs.renew_token)(station=lab.stations[0], user=lab.users["manager"], keep_old=True)
    renewed_at = time.monotonic()
    while (output := await station.receive_output(timeout=60))["type"] != "websocket.close":
        pass  # its orders
    assert output["code"] == 4401 and time.monotonic() - renewed_at > 0.3
    await station.disconnect()


async def test_driving_by_a_socket_is_an_act_from_the_page(lab):
    socket, station = await browser(lab, "supervisor"), await arm(lab)
    await socket.say(command={"id": "1", "lab": "east", "station": "arm-1", "name": "override"})
    await station.hear(lambda message: message["type"] == "command")
    await station.say(type="command_done", id="1", ok=True, error="")
    assert (await socket.hear(lambda message: "command_done" in message))["command_done"]["ok"]
    from fleetui.fleet.models import Act

    act = await sync_to_async(Act.objects.get)(kind="override")
    assert (act.user_name, act.source, act.lease_epoch) == ("east-supervisor", "page", 1)
    await station.disconnect()
    await socket.disconnect()

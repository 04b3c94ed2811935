"""The sockets of stations and of browsers on the real uvicorn: what breaks there raises what no communicator raises.

The server runs in a thread of the test, on the tests' own PostgreSQL and Valkey; some tests freeze those, as a machine
that swaps or a disk that hangs would.
"""

import asyncio
import contextlib
import gc
import json
import random
import signal
import socket
import threading
import time
from functools import partial

import psutil
import pytest
import redis
import uvicorn
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from fleetui import access, messages, stops
from fleetui.asgi import application
from fleetui.fleet.actions import control
from fleetui.fleet.actions import stops as stops_action
from fleetui.fleet.models import Act, Station
from fleetui.live import sockets, stations, telemetry, viewers, watching
from fleetui.live.viewers import LiveConsumer
from fleetui.practice.actions import episodes, publishing
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.conftest import free_port
from tests.fleetui.lab import as_upload, make_episode
from tests.fleetui.test_live import telemetry as said

PATIENT_S = 6.0  # where a stop's answer waits in vain; a hiccup of the machine is shorter
HELLO = {"type": "hello", "embodiment": LANGUAGE_TABLE.to_json(), "software": "test", "renderer": "drawn", "tasks": []}


class Server:
    def __init__(self):
        self.port = free_port()
        config = uvicorn.Config(
            application, port=self.port, log_level="warning", lifespan="on", timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self.server.serve(),), daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def tasks(self):
        async def count():
            return len(asyncio.all_tasks())

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(60)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(60)
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self.loop.close()


def until(condition, seconds=60.0, words="it never came to hold"):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OperationalError):  # of the tests' own connection, where a test breaks connections
            if found := condition():
                return found
        time.sleep(0.02)
    raise AssertionError(words)


@pytest.fixture
def server(lab, monkeypatch):
    """On a busy machine a confirmation may take long, and a stop's answer waits for it. Where none comes a test says
    how long that is.
    """
    monkeypatch.setattr(stops_action, "ANSWERED_WITHIN_S", 60)
    server = Server()
    yield server
    server.stop()
    connections.close_all()
    stops.orders.clear()
    stops.unrecorded.clear()


class Arm:
    """A station that obeys: it answers commands and speaks each half second, until it is told to be silent."""

    def __init__(self, server, lab, slug="arm-1", hello=True, answers=True):
        self.socket = connect(
            f"ws://127.0.0.1:{server.port}/ws/station",
            additional_headers={"Authorization": f"Bearer {lab.tokens[slug]}"},
            proxy=None,
            ping_interval=None,
            compression=None,
        ).__enter__()
        self.heard, self.stopped_at, self.silent, self.answers = [], None, False, answers
        self.closed = None
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        if hello:
            self.say(**HELLO)
            until(lambda: self.of("welcome") or self.closed)
            assert self.of("welcome"), f"it was turned away: {self.closed}"
            threading.Thread(target=self.keep_talking, daemon=True).start()

    def say(self, **message):
        self.socket.send(json.dumps(message))

    def of(self, kind):
        return [message for message in self.heard if message["type"] == kind]

    def keep_talking(self):
        with contextlib.suppress(ConnectionClosed):
            while self.closed is None:
                if not self.silent:
                    self.say(
                        **said("stopped" if self.stopped_at else "practising", stop="x" if self.stopped_at else "")
                    )
                time.sleep(0.5)

    def read(self):
        try:
            for text in self.socket:
                message = json.loads(text)
                self.heard.append(message)
                stop = message.get("name") == "stop" or (message["type"] == "heartbeat" and message["stop"])
                if stop and self.stopped_at is None:
                    self.stopped_at = time.monotonic()
                elif message.get("name") == "clear_stop":
                    self.stopped_at = None  # else what it says would be a stop that nobody recorded
                if message["type"] == "command" and self.answers:
                    self.say(type="command_done", id=message["id"], ok=True, error="")
        except ConnectionClosed:
            pass
        self.closed = self.socket.close_code or 1006

    def break_off(self):
        """The connection is gone without a farewell: a reset, as of a killed process."""
        self.closed = 1006
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        self.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with contextlib.suppress(OSError):
            self.socket.socket.shutdown(socket.SHUT_RD)
        self.socket.socket.close()


class Page:
    """A signed-in browser's socket."""

    def __init__(self, server, lab, role="supervisor"):
        self.heard, self.lab = [], lab.slug
        self.cookies = lab.as_(role).cookies
        self.socket = connect(
            f"ws://127.0.0.1:{server.port}/ws/live",
            additional_headers={"Cookie": f"sessionid={self.cookies['sessionid'].value}"},
            origin=f"http://127.0.0.1:{server.port}",
            proxy=None,
            ping_interval=None,
        ).__enter__()
        self.closed = None
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        with contextlib.suppress(ConnectionClosed):
            for text in self.socket:
                if isinstance(text, str):
                    self.heard.append((time.monotonic(), json.loads(text)))
        self.closed = self.socket.close_code or 1006

    def say(self, **message):
        self.socket.send(json.dumps(message))

    def hear(self, wanted):
        return until(lambda: next((message for _, message in list(self.heard) if wanted(message)), None))

    def stop(self, station=None, order="s1"):
        """The answer."""
        self.say(stop={"id": order, "station": station} if station else {"id": order}, lab=self.lab)
        return self.hear(lambda message: message.get("stop_done", {}).get("id") == order)["stop_done"]


def outcomes(answer):
    return {row["name"]: row["outcome"] for row in answer["stations"]}


@contextlib.contextmanager
def frozen(*processes):
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def valkey(settings):
    return psutil.Process(redis.Redis.from_url(settings.CHANNELS_ADDRESS).info("server")["process_id"])


def postgres():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        postmaster = psutil.Process(cursor.fetchone()[0]).parent()
    return [postmaster, *postmaster.children(recursive=True)]


# A stop is heard


def test_a_stop_names_who_confirmed_who_was_told_and_who_could_not_be_reached(server, lab, monkeypatch):
    lab.add_station("Arm 3")
    first, mute = Arm(server, lab), Arm(server, lab, "arm-2", answers=False)
    monkeypatch.setattr(stops_action, "ANSWERED_WITHIN_S", PATIENT_S)
    answer = Page(server, lab).stop()
    assert outcomes(answer) == {"Arm 1": "confirmed", "Arm 2": "told", "Arm 3": "unreachable"}
    assert (answer["stopped"], answer["recorded"]) == (1, True)
    assert first.stopped_at and mute.stopped_at
    assert set(Station.objects.values_list("stop_latched", "stopped_by")) == {(True, "s1")}
    assert Act.objects.filter(kind="stop_all", details__stop="s1", source="page").count() == 3


def test_a_stop_by_two_ways_at_once_is_one_stop(server, lab):
    arm, page = Arm(server, lab), Page(server, lab)
    threads = [threading.Thread(target=page.stop, args=("arm-1", "once"))]
    client, wish = lab.as_("supervisor"), {"data": json.dumps({"id": "once"}), "content_type": "application/json"}
    threads.append(threading.Thread(target=lambda: client.post("/api/labs/east/stations/arm-1/stop", **wish)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert arm.stopped_at and Act.objects.filter(kind="stop").count() == 1


def test_a_stop_that_is_repeated_after_a_person_cleared_it_stops_nobody_again(server, lab, monkeypatch):
    """A page goes on trying while another station has not answered; meanwhile somebody clears the first."""
    monkeypatch.setattr(stops_action, "ANSWERED_WITHIN_S", 0.5)  # the second never answers
    first, mute = Arm(server, lab), Arm(server, lab, "arm-2", answers=False)
    page = Page(server, lab)
    page.stop()
    until(lambda: Station.objects.filter(stop_latched=True).count() == 2)
    wish = {"user": lab.users["manager"], "lab_slug": "east", "station_slug": "arm-1"}
    control.command_station(**wish, name="clear_stop", args={"reason": "it is clear"})
    first.heard.clear()
    page.heard.clear()
    answer = page.stop()  # the same id
    assert outcomes(answer) == {"Arm 1": "cleared", "Arm 2": "told"} and mute.closed is None
    time.sleep(2.2)
    assert (
        not [each for each in first.of("heartbeat") if each["stop"]]
        and not Station.objects.get(slug="arm-1").stop_latched
    )
    assert [each for each in first.of("command") if each["name"] == "stop"] == []


def test_a_stop_that_is_written_down_late_latches_nobody_who_was_cleared(server, lab, monkeypatch):
    """The writer waits for the station's row, and gets it as soon as the clear has committed."""
    Arm(server, lab)
    Page(server, lab).stop()
    (order,) = stops.orders.values()
    write = partial(stops_action._record, order, lab.users["supervisor"], source="page")
    refuse = control._refuse_newer_stop

    def refuse_and_write_first_after_the_commit(*arguments):
        refuse(*arguments)
        transaction.on_commit(lambda: stops.in_daemon(write).result(60))

    monkeypatch.setattr(control, "_refuse_newer_stop", refuse_and_write_first_after_the_commit)
    clear(lab)
    assert order.cleared == {"arm-1"} and not Station.objects.get(slug="arm-1").stop_latched


def test_a_clear_that_can_not_be_written_clears_nothing(server, lab, monkeypatch):
    Arm(server, lab)
    Page(server, lab).stop()
    (order,) = stops.orders.values()

    def broken(*arguments, **named):
        raise OperationalError("the disk is full")

    monkeypatch.setattr(control, "record_command", broken)
    with pytest.raises(OperationalError):
        clear(lab)
    assert order.cleared == set() and Station.objects.get(slug="arm-1").stop_latched


def test_a_new_stop_after_a_clear_stops_again_though_the_first_never_settled(server, lab):
    arm, page = Arm(server, lab), Page(server, lab)
    assert outcomes(page.stop(order="first")) == {"Arm 1": "confirmed", "Arm 2": "unreachable"}
    clear(lab)
    arm.stopped_at = None
    answer = page.stop(order="second")
    assert arm.stopped_at and outcomes(answer)["Arm 1"] == "confirmed"
    assert Station.objects.get(slug="arm-1").stop_latched


def clear(lab, **fields):
    wish = {"user": lab.users["manager"], "lab_slug": "east", "station_slug": "arm-1", "name": "clear_stop"}
    return control.command_station(**wish, args={"reason": "it is clear"}, **fields)


def test_a_stop_all_of_which_was_cleared_is_no_new_stop(server, lab):
    Arm(server, lab)
    page = Page(server, lab)
    page.stop("arm-1", "once")
    clear(lab)
    page.heard.clear()
    again = page.stop("arm-1", "once")
    assert "give a new stop" in again["error"] and again["status"] == 409
    assert not Station.objects.get(slug="arm-1").stop_latched


def test_a_clear_undoes_no_stop_that_was_given_after_it_was_asked(server, lab):
    arm, page = Arm(server, lab), Page(server, lab)
    page.stop("arm-1", "s1")
    asked_at = time.monotonic()
    page.stop("arm-1", "s2")
    with pytest.raises(access.Conflict, match="stopped again meanwhile"):
        clear(lab, asked_at=asked_at)
    assert Station.objects.get(slug="arm-1").stop_latched
    assert [each["name"] for each in arm.of("command")] == ["stop", "stop"], "the station was told of no clear"
    stops.orders.clear()  # as another web process would see it: by the record alone
    with pytest.raises(access.Conflict, match="stopped again meanwhile"):
        clear(lab, asked_at=asked_at)
    clear(lab)
    until(lambda: "clear_stop" in [each["name"] for each in arm.of("command")])
    assert arm.of("command")[-1]["args"]["stop"] == "s2", "the station refuses it where another one stands"


def test_a_clear_that_could_not_be_written_clears_nothing(server, lab, monkeypatch):
    monkeypatch.setattr(stops_action, "ANSWERED_WITHIN_S", 0.5)  # it is told, and answers nothing
    Arm(server, lab, answers=False)
    page = Page(server, lab)
    page.stop("arm-1", "s1")
    until(lambda: Station.objects.get(slug="arm-1").stop_latched)

    def fail(*_, **__):
        raise OperationalError("the disk is full")

    monkeypatch.setattr(control, "record_command", fail)
    with pytest.raises(OperationalError):
        clear(lab)
    page.heard.clear()
    assert outcomes(page.stop("arm-1", "s1")) == {"Arm 1": "told"}


def test_a_stop_that_can_not_be_written_holds_up_no_other(server, lab, monkeypatch):
    latch = stops_action.latch_stop

    def refuse(station, user, stop):
        if stop == "poisoned":
            raise IntegrityError("it never can be")
        return latch(station, user, stop)

    monkeypatch.setattr(stops_action, "latch_stop", refuse)
    Arm(server, lab)
    page = Page(server, lab)
    with monkeypatch.context() as patch:
        patch.setattr(stops_action, "ANSWERED_WITHIN_S", 0.5)
        assert page.stop("arm-1", "poisoned")["recorded"] is False
    assert page.stop("arm-1", "good")["recorded"] is True
    monkeypatch.setattr(stops_action, "latch_stop", latch)
    until(lambda: Act.objects.filter(kind="stop", details__stop="poisoned").exists())


def test_a_stop_is_recorded_though_its_giver_lost_the_role_meanwhile(server, lab):
    arm, page = Arm(server, lab), Page(server, lab)
    lab.row.memberships.filter(user=lab.users["supervisor"]).delete()
    answer = page.stop("arm-1")
    assert arm.stopped_at and answer["recorded"]
    assert Act.objects.get(kind="stop").user == lab.users["supervisor"]


def test_a_stop_is_heard_though_the_page_reads_nothing(server, lab):
    """Its line is full: answers to it must not hold up what it says."""
    arm, page = Arm(server, lab), Page(server, lab)
    consumer = next(each for each in gc.get_objects() if type(each) is LiveConsumer and not each.over)
    blocked = asyncio.Event()

    async def hang(*_, **__):
        await blocked.wait()

    consumer.send = hang
    page.say(alive=True, ask=True)
    page.say(subscribe="nothing at all", lab="east")
    page.say(command={"id": "c", "lab": "east", "station": "arm-1", "name": "drive", "ttl_ms": 300})
    page.say(stop={"id": "behind", "station": "arm-1"}, lab="east")
    until(lambda: arm.stopped_at)


@pytest.mark.parametrize("payload", ["[]", "{", '{"stop": 7}', '{"stop": {}}', "\\x00", '{"confirmed": []}'])
def test_an_odd_notice_ends_no_watch(server, lab, payload):
    arm = Arm(server, lab)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [stops.CHANNEL, payload])
    messages.send_to_group(stops.GROUP, {"type": "stop", "payload": []})
    Station.objects.filter(slug="arm-1").update(stop_latched=True, stopped_by="elsewhere")
    until(lambda: arm.stopped_at)


def test_rubbish_in_valkey_ends_no_hearing(server, lab, settings):
    arm = Arm(server, lab)
    name = f"{settings.KEY_PREFIX}__group__{stops.GROUP}"
    until(lambda: redis.Redis.from_url(settings.CHANNELS_ADDRESS).publish(name, b"\xc1 no msgpack") == 1)
    order = {"stop": {"id": "r1", "lab": "east", "station": None, "by": "somebody"}, "from": "another process"}

    def heard():  # it listens anew a second later
        messages.send_to_group(stops.GROUP, {"type": "stop", "payload": order})
        time.sleep(0.2)
        return arm.stopped_at

    until(heard)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"id": 7}', b"\xff\x00", b'{"id": "\\u0000"}'])
def test_whatever_stands_in_its_body_a_stop_is_not_refused(server, lab, body):
    arm = Arm(server, lab)
    answer = lab.as_("supervisor").post("/api/labs/east/stations/arm-1/stop", body, content_type="application/json")
    assert answer.status_code == 200 and outcomes(answer.json()) == {"Arm 1": "confirmed"} and arm.stopped_at


def test_a_stop_needs_no_valkey(server, lab, settings):
    arm, page = Arm(server, lab), Page(server, lab)
    page.say(subscribe="wall", lab="east")
    page.hear(lambda message: message.get("type") == "snapshot")
    with frozen(valkey(settings)):
        answer = page.stop("arm-1")  # if it waited for Valkey, it would wait for ever
        assert outcomes(answer) == {"Arm 1": "confirmed"} and answer["recorded"] and arm.stopped_at
        other = Arm(server, lab, "arm-2")  # and a station can come, and stay, meanwhile
        answer = page.stop("arm-2", "s2")
        assert outcomes(answer) == {"Arm 2": "confirmed"} and other.closed is None


def test_a_stop_needs_no_postgresql_and_is_recorded_when_it_is_back(server, lab, monkeypatch):
    monkeypatch.setattr(stops_action, "ANSWERED_WITHIN_S", PATIENT_S)
    arm, page = Arm(server, lab), Page(server, lab)
    page.say(subscribe="wall", lab="east")
    page.hear(lambda message: message.get("type") == "snapshot")
    processes = postgres()
    with frozen(*processes):
        # Telemetry that can't be written waits, and must not hold up what is behind it; and roles were read long ago.
        time.sleep(5.0)
        access.get_known(page.cookies["sessionid"].value).read_at -= 2 * access.KNOWN_FOR_S
        began = time.monotonic()
        answer = page.stop("arm-1")
        assert arm.stopped_at and arm.stopped_at - began < PATIENT_S, (
            "it was told only after PostgreSQL had been waited for"
        )
        assert outcomes(answer) == {"Arm 1": "confirmed"} and not answer["recorded"]
        assert "Told, not recorded" in answer["detail"]
        arm.stopped_at, began = None, time.monotonic()
        http = stop_by_http(server, page, "h1")
        assert arm.stopped_at and arm.stopped_at - began < PATIENT_S and http["recorded"] is False
        assert outcomes(http)["Arm 1"] == "confirmed" and http["stopped"] == 1
        assert outcomes(http)["Arm 2"] == "unreachable", "it is known that there is another, which nobody reached"
    until(lambda: Act.objects.filter(kind="stop", details__stop="s1").exists())
    assert Station.objects.get(slug="arm-1").stop_latched and arm.closed is None


def stop_by_http(server, page, order):
    """As the page does it where its socket fails: cookies only, the database unasked."""
    import httpx

    token = "a" * 32
    cookies = {"sessionid": page.cookies["sessionid"].value, "csrftoken": token}
    answer = httpx.post(
        f"http://127.0.0.1:{server.port}/api/labs/east/stop",
        json={"id": order},
        cookies=cookies,
        headers={"X-CSRFToken": token, "Origin": f"http://127.0.0.1:{server.port}"},
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("code", ["53100", "08006"], ids=["disk full", "connection lost"])
def test_a_stop_that_can_not_be_written_is_told_and_said(server, lab, monkeypatch, code):
    full = threading.Event()
    full.set()
    latch = stops_action.latch_stop

    def refuse(*arguments):
        if full.is_set():
            with connection.cursor() as cursor:
                cursor.execute(
                    f"DO $$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '{code}'; END $$"
                )
        return latch(*arguments)

    monkeypatch.setattr(stops_action, "latch_stop", refuse)
    monkeypatch.setattr(stops_action, "ANSWERED_WITHIN_S", PATIENT_S)
    arm, page = Arm(server, lab), Page(server, lab)
    answer = page.stop()
    assert arm.stopped_at and outcomes(answer)["Arm 1"] == "confirmed"
    assert answer["recorded"] is False
    full.clear()
    until(lambda: Station.objects.get(slug="arm-1").stop_latched)


def test_a_viewer_stops_nothing(server, lab):
    arm, page = Arm(server, lab), Page(server, lab, "viewer")
    page.say(stop={"id": "v"}, lab="east")
    assert "viewer" in page.hear(lambda message: "stop_done" in message)["stop_done"]["error"]
    page.say(stop={"id": "w"}, lab="west")
    assert "no lab" in page.hear(lambda message: message.get("stop_done", {}).get("id") == "w")["stop_done"]["error"]
    assert arm.stopped_at is None and not Station.objects.filter(stop_latched=True).exists()


def test_a_missed_stop_lasts_two_seconds(server, lab):
    """Written by another process whose messages were all lost: rows are read each second, and the next heartbeat says
    it.
    """
    assert stops.ROWS_READ_EVERY_S + stations.HEARTBEAT_EVERY_S <= 2
    arm = Arm(server, lab)
    until(lambda: arm.of("heartbeat"))
    assert arm.stopped_at is None
    Station.objects.filter(slug="arm-1").update(stop_latched=True, stopped_by="elsewhere")
    until(lambda: arm.stopped_at)
    assert arm.of("heartbeat")[-1]["stop"] == "elsewhere" and not arm.of("command")


def test_a_stop_given_in_another_web_process_comes_by_notify(server, lab):
    arm = Arm(server, lab)
    order = {"stop": {"id": "n1", "lab": "east", "station": None, "by": "somebody"}, "from": "another process"}
    until(lambda: stops.links)
    until(lambda: stops.names)  # the rows are read once it listens
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [stops.CHANNEL, json.dumps(order)])
    until(lambda: arm.stopped_at)
    assert [each["id"] for each in arm.of("command")] == ["n1"], "no row and no heartbeat says it"


def test_a_stop_given_in_another_web_process_comes_through_valkey(server, lab):
    arm = Arm(server, lab)
    order = {"stop": {"id": "n2", "lab": "east", "station": "arm-1", "by": "somebody"}, "from": "another process"}
    until(lambda: messages.send_to_group(stops.GROUP, {"type": "stop", "payload": order}) and arm.stopped_at)
    assert [each["id"] for each in arm.of("command")] == ["n2"], "no row and no heartbeat says it"


def test_a_station_that_stands_stopped_without_a_record_is_recorded(server, lab, monkeypatch):
    """The server told the stop and died before it could write it down."""
    monkeypatch.setattr(stations, "FOUND_STOPPED_AFTER_S", 0.6)
    arm = Arm(server, lab)
    arm.stopped_at = time.monotonic()  # from here on it says so
    until(lambda: Station.objects.get(slug="arm-1").stop_latched)
    act = Act.objects.get(kind="stop")
    assert act.source == "station" and "no stop was recorded" in act.reason


# A dead link is seen


def test_stations_come_back_after_the_database_dropped_every_connection(server, lab):
    """They were locked out for ever: the dead link stayed behind and took its successor with it."""
    arm = Arm(server, lab)
    for _ in range(4):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with contextlib.suppress(ConnectionClosed):
            arm.say(**said("idle"))
            arm.say(**said("practising"))
        time.sleep(0.4)

    def returns():
        with contextlib.suppress(AssertionError, ConnectionClosed):
            return Arm(server, lab)

    again = until(returns, seconds=120)
    answer = Page(server, lab).stop("arm-1")
    assert outcomes(answer) == {"Arm 1": "confirmed"} and again.stopped_at


@pytest.mark.parametrize("how", ["a reset", "silence"])
def test_a_dead_predecessor_does_no_harm_to_its_successor(server, lab, how):
    first = Arm(server, lab)
    if how == "a reset":
        first.break_off()
    else:
        first.silent = True
    second = Arm(server, lab)
    time.sleep(1.5)
    assert second.closed is None
    until(lambda: Station.objects.get(slug="arm-1").connected)
    answer = Page(server, lab).stop("arm-1")
    assert outcomes(answer) == {"Arm 1": "confirmed"} and second.stopped_at


def test_a_link_that_breaks_between_hello_and_welcome_locks_nobody_out(server, lab, monkeypatch):
    slow = publishing.welcome_station

    def connect_slowly(**fields):
        time.sleep(0.05)
        return slow(**fields)

    monkeypatch.setattr(publishing, "welcome_station", connect_slowly)
    for _ in range(10):
        broken = Arm(server, lab, hello=False)
        broken.say(**HELLO)
        broken.break_off()
    arm = Arm(server, lab)
    time.sleep(1.0)
    assert arm.closed is None and Station.objects.get(slug="arm-1").connected


@pytest.mark.parametrize("where", ["show", "read_card", "need_of_station"])
def test_no_error_of_a_handler_leaves_a_station_behind(server, lab, monkeypatch, where):
    """Whatever goes wrong in one message, the link either goes on or is gone everywhere."""
    arm = Arm(server, lab)
    real = getattr(telemetry, where)

    def fail(*_, **__):
        raise RuntimeWarning("a mistake of ours")

    monkeypatch.setattr(telemetry, where, fail)
    for _ in range(sockets.BAD_LIMIT + 2):
        with contextlib.suppress(ConnectionClosed):
            arm.say(**said())
    until(lambda: arm.closed == sockets.BAD_MESSAGE)
    until(lambda: not stops.links and not Station.objects.get(slug="arm-1").connected)
    monkeypatch.setattr(telemetry, where, real)
    assert Arm(server, lab).closed is None


def test_connected_is_true_only_while_messages_come(server, lab, monkeypatch):
    """A half-open connection: the line stands, and nobody is there."""
    monkeypatch.setattr(stations, "SILENT_AFTER_S", 4.0)
    arm, page = Arm(server, lab), Page(server, lab)
    page.say(subscribe="wall", lab="east")
    time.sleep(4.5)
    assert arm.closed is None
    arm.silent, began = True, time.monotonic()
    page.hear(lambda message: message.get("data", {}).get("card", {}).get("connected") is False)
    assert time.monotonic() - began > 3, "its newest word was half a second old at most"
    until(lambda: not stops.links)


def test_the_server_says_something_every_two_seconds_and_answers_when_asked(server, lab, monkeypatch):
    assert viewers.HEARTBEAT_EVERY_S == 2, "static/js/live.js takes 4.5 s of silence for a lost connection"
    began = time.monotonic()
    page = Page(server, lab)
    beats = lambda: sum("heartbeat" in message for _, message in list(page.heard))  # noqa: E731
    until(lambda: beats() == 2)
    assert time.monotonic() - began > 3.9
    monkeypatch.setattr(viewers, "HEARTBEAT_EVERY_S", 300)
    other = Page(server, lab)
    other.say(alive=True, ask=True)
    other.hear(lambda message: "heartbeat" in message)  # not only when one is due, in five minutes


# Odd messages

ODD = [
    "", "null", "[]", "7", '"x"', "{", "[" * 60_000, '{"a":' * 9_000, '{"type": []}', '{"type": {}}', '{"type": null}',
    '{"type": 7}', '{"type": "hello"}', '{"type": "telemetry"}', '{"type": "telemetry", "state": []}',
    '{"type": "telemetry", "state": "idle", "step": 1e308, "uuid": {}}', '{"type": "touch", "seconds": {}}',
    '{"type": "policy_loaded", "checkpoint": [1]}', '{"type": "command_done", "id": {}}', '{"subscribe": []}',
    '{"subscribe": {"a": 1}, "lab": []}', '{"subscribe": "run", "lab": "east", "run": 1e300}',
    '{"subscribe": "frames", "lab": "east", "station": "arm-1", "size": []}', '{"unsubscribe": []}',
    '{"unsubscribe": "frames", "lab": {}, "station": []}', '{"stop": 7, "lab": "east"}', '{"stop": {}, "lab": []}',
    '{"command": []}', '{"command": {"id": {}, "lab": "east", "station": "arm-1", "name": {}}}',
    '{"command": {"name": "reset", "lab": "east", "station": "arm-1", "ttl_ms": 1e308}}', '{"control_heartbeat": []}',
    '{"control_heartbeat": {"lab": "east", "station": "\\u0000"}}', '{"subscribe": "wall", "lab": "\\ud800"}',
    '{"subscribe": "station", "lab": "east", "station": "\\u0000"}', '{"alive": {}}',
    '{"type": "telemetry", "state": "idle", "reason": "\\ud800"}', '{"type": "telemetry", "uuid": "x"}',
]  # fmt: skip


def test_odd_messages_of_stations_are_answered_and_lock_nobody_out(server, lab, caplog):
    tasks = server.tasks()
    for text in ODD:
        arm = Arm(server, lab)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(3):
                arm.socket.send(text)
        time.sleep(0.05)
        assert arm.closed is None, f"three odd messages close nothing: {text[:40]}"
        arm.silent = True
        arm.socket.close()
    assert Arm(server, lab).closed is None
    assert "Traceback" not in caplog.text.replace("could not make sense", "")
    until(lambda: server.tasks() <= tasks + 12, words="a socket left tasks behind")


def test_odd_messages_of_pages_are_answered_and_leave_no_task_behind(server, lab):
    randomly = random.Random(7)
    before = server.tasks()
    for number in range(40):
        page = Page(server, lab)
        for text in randomly.sample(ODD, 12):
            with contextlib.suppress(ConnectionClosed):
                page.socket.send(text)
        time.sleep(0.02)
        if number % 2:
            page.socket.socket.close()
        else:
            page.socket.close()
    page = Page(server, lab)
    page.say(subscribe="wall", lab="east")
    page.hear(lambda message: message.get("type") == "snapshot")
    page.socket.close()
    until(lambda: server.tasks() <= before + 4, words="a socket left tasks behind")


def test_a_socket_that_sends_much_nonsense_is_closed(server, lab):
    page = Page(server, lab)
    with contextlib.suppress(ConnectionClosed):
        for _ in range(sockets.BAD_LIMIT + 1):
            page.socket.send("[]")
    until(lambda: page.closed == sockets.BAD_MESSAGE)


# Clocks that jump, and a Valkey that was emptied


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_refuses_no_command(server, lab, monkeypatch, jump):
    arm, page = Arm(server, lab), Page(server, lab)
    page.say(subscribe="wall", lab="east")
    ahead = page.hear(lambda message: message.get("type") == "snapshot")["clock"] - time.monotonic()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    command = {"id": "c", "lab": "east", "station": "arm-1", "name": "pause", "ttl_ms": 60_000}
    page.say(command=command | {"sent_at": time.monotonic() + ahead})
    done = page.hear(lambda message: "command_done" in message)["command_done"]
    assert done["ok"], done
    [told] = arm.of("command")
    assert abs(told["sent_at"] - time.monotonic()) < 600, "the station's age of it is by the steady clock too"
    page.say(command=command | {"id": "d", "ttl_ms": 1500, "sent_at": time.monotonic() + ahead - 5})
    late = page.hear(lambda message: message.get("command_done", {}).get("id") == "d")["command_done"]
    assert "ms old and was good for 1500 ms" in late["error"]


@pytest.mark.parametrize("next_event", [True, False])
def test_after_flushall_pages_get_everything_anew(server, lab, settings, monkeypatch, next_event):
    """Valkey counts from one again: a lower number is a gap, not news of the past."""
    for _ in range(5):
        episodes.store_episodes(station=lab.stations[0], body=as_upload(make_episode()))
    looked, look = [], watching.Watching.read_numbers

    async def note_look(self, subscriptions):
        numbers = await look(self, subscriptions)
        looked.append(numbers)
        return numbers

    monkeypatch.setattr(watching.Watching, "read_numbers", note_look)
    page = Page(server, lab)
    page.say(subscribe="wall", lab="east")
    page.hear(lambda message: message.get("type") == "snapshot")
    if next_event:
        monkeypatch.setattr(watching, "COMPARE_NUMBERS_S", 300)  # the gap shows before that
    begun = len(looked)
    until(lambda: len(looked) > begun)
    Station.objects.filter(slug="arm-1").update(episodes_count=77)  # a change whose event is lost
    redis.Redis.from_url(settings.CHANNELS_ADDRESS).flushall()
    if next_event:
        episodes.store_episodes(station=lab.stations[1], body=as_upload(make_episode()))

    def renewed(message):
        return message.get("type") == "snapshot" and message["data"]["stations"][0]["episodes"] == 77

    page.hear(renewed)


def test_pages_live_while_valkey_is_away_and_catch_up_after(server, lab, settings):
    with frozen(valkey(settings)):
        page = Page(server, lab)
        page.say(subscribe="wall", lab="east")
        page.hear(lambda message: message.get("type") == "snapshot")
        for _ in range(3):
            store = partial(episodes.store_episodes, station=lab.stations[0], body=as_upload(make_episode()))
            stops.in_daemon(store).result(60)  # nobody waits for a hint as long as Valkey is away
    page.hear(lambda message: message.get("type") == "snapshot" and message["data"]["stations"][0]["episodes"] == 3)


def test_a_person_known_in_memory_is_forgotten_with_the_log_in(server, lab, monkeypatch):
    page = Page(server, lab)
    key = page.cookies["sessionid"].value
    until(lambda: access.get_known(key))
    lab.as_("supervisor").logout()
    until(lambda: access.get_known(key) is None)
    until(lambda: page.closed == 4403)

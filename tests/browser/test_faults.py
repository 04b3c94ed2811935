"""The trials of a stop and of a link when something is away: a running fleet, real browsers, a robot that moves.

Each says after how many seconds the page knows and after how many the robot stands; FLEETUI_FIGURES names a file for
the figures. Where they are measured, so or by `make faults`, they must be what is promised. The robot is the watched
station of test_control.py, driven by one person while another one stops it. Lines go silent in a proxy on the way,
servers are frozen or killed by signals.
"""

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import threading
import time
from pathlib import Path

import psutil
import psycopg
import pytest
from playwright.sync_api import expect

from fleetui import embedded
from tests.browser.conftest import MEASURED, new_page, wait_until
from tests.browser.own_robot import joined
from tests.browser.test_control import PAGE, WatchedStation, WatchedWorld, state_is
from tests.conftest import new_fleet

FIGURES = os.environ.get("FLEETUI_FIGURES")
figures = {}


class Line:
    """A TCP proxy. While `silent` it keeps every connection open and passes nothing on, as a lost Wi-Fi does."""

    def __init__(self, port):
        self.target, self.silent, self.ending = port, False, False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.selector = selectors.DefaultSelector()
        self.other = {}
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.ending:
            if self.silent:
                time.sleep(0.05)
                continue
            for key, _ in self.selector.select(0.05):
                if self.silent:
                    break
                if key.fileobj is self.listener:
                    self.accept()
                else:
                    self.pass_on(key.fileobj)

    def accept(self):
        here, _ = self.listener.accept()
        there = socket.create_connection(("127.0.0.1", self.target))
        for one, other in ((here, there), (there, here)):
            self.other[one] = other
            self.selector.register(one, selectors.EVENT_READ)

    def pass_on(self, one):
        if one not in self.other:
            return
        try:
            data = one.recv(65536)
            if data:
                self.other[one].sendall(data)
                return
        except OSError:
            pass
        for end in (one, self.other[one]):
            self.selector.unregister(end)
            self.other.pop(end)
            end.close()

    def close(self):
        self.ending = True
        self.thread.join(60)
        for each in [self.listener, *self.other]:
            each.close()


@pytest.fixture(scope="module")
def fleet():
    with new_fleet(1) as fleet:
        yield fleet
    if FIGURES:
        Path(FIGURES).write_text(json.dumps(figures, indent=1))


@pytest.fixture(scope="module")
def line(fleet):
    line = Line(int(fleet.url.rsplit(":", 1)[1]))
    yield line
    line.close()


@pytest.fixture(scope="module")
def people(fleet, browser, line):
    """The manager drives, by a line of its own; the supervisor's line is the one that goes silent."""
    opened = {}
    urls = {"manager": fleet.url, "supervisor": f"http://127.0.0.1:{line.port}"}
    for role, url in urls.items():
        opened[role] = new_page(browser, url, fleet.logins[role])
    yield opened
    for page in opened.values():
        page.context.close()


@pytest.fixture(scope="module")
def watched(fleet, people):
    with joined(people["manager"], fleet, "Watched", WatchedWorld(), WatchedStation) as station:
        yield station


@pytest.fixture
def driven(people, watched):
    """The manager holds a key down, and the robot moves."""
    page, other = people["manager"], people["supervisor"]
    page.goto(PAGE)
    other.goto("/labs/main/")
    wait_until(lambda: watched.link.connected, "the station is not connected")
    # The fleet's own comes when its program has started; before that no stop of all can be confirmed.
    expect(other.locator("article.card[data-station=station-1]")).not_to_contain_text("never seen")
    ready(page)
    page.keyboard.press("o")
    state_is(page, "overridden")
    page.keyboard.down("ArrowLeft")
    before = len(watched.world.moved_at)
    wait_until(lambda: len(watched.world.moved_at) > before + 2, "it does not move")
    expect(other.locator("article.card[data-station=watched]")).to_contain_text("manager is in control")
    yield watched
    page.keyboard.up("ArrowLeft")
    ready(page)


def ready(page):
    """Whatever the trial before left: the stop cleared, nobody in control, not paused."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = page.evaluate("document.body.dataset.stationState")
        if state == "idle":
            return
        if state == "stopped":
            page.keyboard.press("c")
            page.get_by_label("Reason").fill("the trial is over")
            page.keyboard.press("Enter")
        elif state == "overridden":
            page.keyboard.press("o")
        elif state == "paused":
            page.keyboard.press(" ")
        time.sleep(0.7)
    raise AssertionError(f"it is {state}")


def stop_all(page, watched, name, where, words, stands_s=0.5, knows_s=2.0):
    """Press stop for all, and note under the trial's name after how many seconds the robot stood, and the page said so
    with these words. Within `stands_s` and `knows_s`, where that is measured.
    """
    pressed, began = time.time(), time.monotonic()
    page.keyboard.press("Shift+Period")
    expect(page.locator(where)).to_contain_text(words)
    knew = time.monotonic() - began
    wait_until(lambda: watched.station.control.stop_latched, "the stop was not heard")
    time.sleep(0.7)
    stood = max(0.0, watched.world.moved_at[-1] - pressed)
    figures[name] = {"robot_stands_s": round(stood, 3), "page_knows_s": round(knew, 3)}
    still = len(watched.world.moved_at)
    time.sleep(0.3)
    assert len(watched.world.moved_at) == still, "it stands, though the other one drives on"
    assert not MEASURED or (stood < stands_s and knew < knows_s), figures[name]


CONFIRMED = ("#toasts", "confirmed it")
NOT_RECORDED = ("#unconfirmed", "It is not recorded yet")


@contextlib.contextmanager
def frozen(processes):
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def servers_of(fleet, name):
    """The processes of the fleet's own PostgreSQL or Valkey."""
    found = [
        each
        for each in psutil.process_iter(["cmdline", "name"])
        if name in (each.info["name"] or "")
        and embedded.data_key(fleet.data) in " ".join([*(each.info["cmdline"] or []), *(p_cmdline(each.parent()))])
    ]
    assert found, f"no {name} of {fleet.data}"
    return found


def p_cmdline(process):
    with contextlib.suppress(psutil.Error, AttributeError):
        return process.cmdline()
    return []


def database(fleet):
    found = embedded.database_settings(fleet.data, embedded.OWNER)
    return psycopg.connect(
        dbname=found["NAME"], user=found["USER"], host=found["HOST"], port=found.get("PORT") or None, autocommit=True
    )


def test_a_stop_without_valkey(driven, people, fleet):
    """Frozen, then killed: the stop is heard at once, and confirmed on the page."""
    page = people["supervisor"]
    [process] = servers_of(fleet, "valkey")
    with frozen([process]):
        stop_all(page, driven, "valkey frozen", *CONFIRMED, knows_s=1.5)
    expect(page.locator("#unconfirmed")).to_be_hidden()


def test_a_stop_with_valkey_killed(driven, people, fleet):
    page = people["supervisor"]
    [process] = servers_of(fleet, "valkey")
    process.kill()
    stop_all(page, driven, "valkey killed", *CONFIRMED, knows_s=1.5)


def test_a_stop_with_postgresql_frozen(driven, people, fleet):
    page = people["supervisor"]
    with frozen(servers_of(fleet, "postgres")):
        time.sleep(4.0)  # long enough that what was read of the person's role is old
        stop_all(page, driven, "postgresql frozen", *NOT_RECORDED)
    expect(page.locator("#unconfirmed")).to_be_hidden(timeout=10_000)
    with database(fleet) as rows:
        assert rows.execute("SELECT stop_latched FROM fleet_station WHERE slug = 'watched'").fetchone() == (True,)


def test_a_stop_with_a_full_disk(driven, people, fleet):
    """PostgreSQL refuses to write, as it does without space: told, not recorded, and said."""
    page = people["supervisor"]
    with database(fleet) as owner:
        owner.execute(
            "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$"
        )
        owner.execute("CREATE TRIGGER no_space BEFORE INSERT ON fleet_act EXECUTE FUNCTION no_space()")
        try:
            stop_all(page, driven, "disk full", *NOT_RECORDED)
        finally:
            owner.execute("DROP FUNCTION no_space CASCADE")
    expect(page.locator("#unconfirmed")).to_be_hidden(timeout=10_000)


def test_a_half_open_line_is_seen_and_a_stop_that_was_not_delivered_is_said(driven, people, line, screenshots):
    page = people["supervisor"]
    line.silent = True
    time.sleep(0.1)
    began = time.monotonic()
    page.keyboard.press("Shift+Period")
    expect(page.locator("#unconfirmed")).to_contain_text("has not been delivered")
    said = time.monotonic() - began
    figures["half-open line"] = {"stop_said_undelivered_s": round(said, 3)}
    page.wait_for_selector("body[data-offline]")
    knew = time.monotonic() - began
    figures["half-open line"]["page_knows_s"] = round(knew, 3)
    assert not MEASURED or (said < 1.3 and knew < 5.2), figures["half-open line"]
    for slug in ("watched", "station-1"):  # one moves, one is idle: both are of the past
        expect(page.locator(f"article.card[data-station={slug}]")).to_have_class(re.compile("stale"))
    page.screenshot(path=screenshots / "half_open.png")
    assert not driven.station.control.stop_latched, "nothing came through"
    line.silent, healed = False, time.monotonic()
    wait_until(lambda: driven.station.control.stop_latched, "the stop is kept and tried again")
    figures["half-open line"]["robot_stands_after_line_is_back_s"] = round(time.monotonic() - healed, 3)
    expect(page.locator("#toasts")).to_contain_text("confirmed it")
    expect(page.locator("#unconfirmed")).to_be_hidden()


def test_stations_return_after_the_database_dropped_every_connection(driven, people, fleet):
    with database(fleet) as owner:
        for _ in range(4):
            owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            time.sleep(0.5)
    began = time.monotonic()
    page = people["supervisor"]
    page.goto("/labs/main/")
    wait_until(lambda: driven.link.connected and driven.link.gone_for() < 1.5, "it is locked out")
    figures["connections dropped"] = {"station_returns_s": round(time.monotonic() - began, 3)}
    returned = figures["connections dropped"]
    stop_all(page, driven, "connections dropped", "#toasts", "all 2 stations confirmed it", 60, 60)
    figures["connections dropped"] |= returned

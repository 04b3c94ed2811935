"""Who is in control of a station, in real browsers: two fight for it, the holder's one is killed or frozen, and what
the station's own clock says then.

The station is a real one as far as the server knows: robots/station.py and link.py in a thread of the test, on a world
that notes when it was moved. FLEETUI_KILLS sets how many browsers are killed (the README's figure took 100), and
FLEETUI_FIGURES a file that the figures are written to.
"""

import io
import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from django.templatetags.static import static
from PIL import Image
from playwright.sync_api import expect

from robots.protocol import Command
from tests.browser.conftest import MEASURED, close_page, new_page, nothing_sticks_out, wait_until
from tests.browser.own_robot import OwnRobot, joined
from tests.chromium import find_chromium
from tests.conftest import WAIT_MS, free_port
from tests.robots.station_fakes import FakeWorld

KILLS = int(os.environ.get("FLEETUI_KILLS", "4"))
FIGURES = os.environ.get("FLEETUI_FIGURES")
PAGE = "/labs/main/stations/watched"
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
# When each command left the page, by its id: the wall clock of this machine, which the station's side reads too.
NOTE_SENDING = """
window.sentAt = {};
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (text) {
  if (typeof text === "string" && text.includes('"drive"'))
    window.sentAt[JSON.parse(text).command.id] = performance.timeOrigin + performance.now();
  return send.call(this, text);
};
"""


def make_picture():
    jpeg = io.BytesIO()
    Image.new("RGB", (320, 240), (190, 120, 60)).save(jpeg, "JPEG")
    return jpeg.getvalue()


PICTURE = make_picture()

BREAK_SOCKET = """() => {
  window.WebSocket = class {
    static OPEN = 1;
    readyState = 3;
    constructor() { setTimeout(() => this.onclose?.({ code: 1006 }), 50); }
  };
  const loaded = performance.getEntriesByType('resource').map((entry) => entry.name);
  import(loaded.find((name) => /\\/js\\/live\\.\\w+\\.js$/.test(name))).then(({ live }) => live.socket.close());
}"""


class WatchedWorld(FakeWorld):
    """Notes by the machine's clock when something moved it."""

    def __init__(self):
        super().__init__()
        self.moved_at = []

    def step(self, action):
        if np.any(action):
            self.moved_at.append(time.time())
        return super().step(action)


class WatchedStation(OwnRobot):
    """It notes when it hears of each drive."""

    def begin(self):
        self.heard = {}  # id of a drive -> when it came

    def hear(self, message, received_at):
        if isinstance(message, Command) and message.name == "drive":
            self.heard[message.id] = time.time()
        super().hear(message, received_at)


@pytest.fixture(scope="module")
def people(fleet, browser):
    """A logged-in page of each role in a context of its own."""
    opened = {}
    for role in ("manager", "supervisor"):
        opened[role] = new_page(browser, fleet.url, fleet.logins[role])
    yield opened
    for page in opened.values():
        close_page(page)


@pytest.fixture(scope="module")
def watched(fleet, people):
    with joined(people["manager"], fleet, "Watched", WatchedWorld(), WatchedStation) as station:
        yield station


def state_is(page, state):
    expect(page.locator("body")).to_have_attribute("data-station-state", state)


def holder(page):
    return page.request.get("/api/labs/main/stations/watched").json()["holder"]


def test_two_browsers_fight_for_one_station_and_exactly_one_holds_it(people, watched, screenshots):
    pages = list(people.values())
    for page in pages:
        page.goto(PAGE)
        state_is(page, "idle")
    # Both at the same moment: each browser presses by its own clock.
    moment = time.time() * 1000 + 1500
    press = "at => setTimeout(() => document.querySelector('[data-command=override]').click(), at - Date.now())"
    for page in pages:
        page.evaluate(press, moment)
    for page in pages:
        state_is(page, "overridden")
    time.sleep(1)
    said = [page.inner_text("[data-f=holder]") for page in pages]
    assert sorted(text == "you are in control" for text in said) == [False, True], said
    winner = next(page for page, text in zip(pages, said, strict=True) if text == "you are in control")
    (loser,) = set(pages) - {winner}
    name = holder(loser)
    assert said[pages.index(loser)] == f"{name} is in control"
    expect(loser.locator("#toasts")).to_contain_text("is in control")
    for act in ("Hand back", "Override", "Pause", "Reset done"):
        expect(loser.get_by_role("button", name=act)).to_be_disabled()
    expect(loser.locator(".acts-why")).to_contain_text(f"{name} is in control")
    loser.screenshot(path=screenshots / "control_of_somebody_else.png")
    before = len(watched.world.moved_at)
    loser.keyboard.down("ArrowLeft")
    time.sleep(0.6)
    loser.keyboard.up("ArrowLeft")
    assert len(watched.world.moved_at) == before, "who isn't in control moves nothing"
    winner.bring_to_front()
    winner.keyboard.down("ArrowRight")
    wait_until(lambda: len(watched.world.moved_at) > before + 2, "the holder's arrow key moved nothing")
    winner.keyboard.up("ArrowRight")
    winner.keyboard.press("o")
    for page in pages:
        state_is(page, "idle")
    assert holder(loser) == ""


class Chromium:
    """A browser whose process a test may kill: playwright's own ones can't be."""

    def __init__(self, chromium, cookies, url):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        port = free_port()
        command = [
            find_chromium(),
            *ARGUMENTS,
            f"--remote-debugging-port={port}",
            f"--user-data-dir={self.folder.name}",
        ]
        self.process = subprocess.Popen(
            [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.browser = wait_until(lambda: self.connect(chromium, port), "Chromium did not start")
        self.context = self.browser.contexts[0]
        self.context.add_cookies(cookies)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.add_init_script(NOTE_SENDING)
        self.page.goto(url + PAGE)

    @staticmethod
    def connect(chromium, port):
        try:
            return chromium.connect_over_cdp(f"http://127.0.0.1:{port}", timeout=20_000)
        except Exception:  # it isn't listening yet
            time.sleep(0.1)
            return None

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def end(self):
        self.signal(signal.SIGKILL)
        self.process.wait(60)
        self.folder.cleanup()


def test_the_dead_man_when_the_holders_browser_is_killed_or_frozen(fleet, people, watched, browser):
    """The body is still within 0.5 s, the lease is free within 2.5 s, and the policy never goes on by itself. The
    seconds hold where they are measured: FLEETUI_FIGURES or `make faults`.
    """
    other = people["manager"]
    other.goto(PAGE)
    cookies = people["supervisor"].context.cookies()
    stills, frees, latencies = [], [], []
    for number in range(KILLS):
        state_is(other, "idle")
        chromium = Chromium(browser.browser_type, cookies, fleet.url)
        try:
            state_is(chromium.page, "idle")
            chromium.page.keyboard.press("o")
            expect(chromium.page.locator("[data-f=holder]")).to_have_text("you are in control")
            before = len(watched.world.moved_at)
            chromium.page.keyboard.down("ArrowRight")
            wait_until(lambda: len(watched.world.moved_at) > before + 3, "it does not drive")  # noqa: B023
            sent = chromium.page.evaluate("window.sentAt")
            latencies += [1000 * watched.heard[each] - at for each, at in sent.items() if each in watched.heard]
            chromium.signal(signal.SIGKILL if number % 2 else signal.SIGSTOP)
            ended = time.time()
            wait_until(lambda: not holder(other), "the lease was never freed")
            frees.append(time.time() - ended)
            wait_until(
                lambda: not watched.station.commands.lease.live, "the station did not hear that its holder is gone"
            )
            time.sleep(max(0.0, ended + 1.0 - time.time()))
            stills.append(max(0.0, watched.world.moved_at[-1] - ended))
            assert stills[-1] < frees[-1], "it stands by its own clock, and did not have to be told"
        finally:
            chromium.end()
        assert watched.station.control.state == "overridden"
        assert "take over or hand back" in watched.station.control.reason
        moved = len(watched.world.moved_at)
        expect(other.locator("#needs")).to_contain_text("supervisor is gone")
        expect(other.get_by_role("button", name="Take over")).to_be_enabled()
        if number % 2:
            other.get_by_role("button", name="Take over").click()
            expect(other.locator("[data-f=holder]")).to_have_text("you are in control")
        other.get_by_role("button", name="Hand back").click()
        state_is(other, "idle")
        assert len(watched.world.moved_at) == moved, "nothing that was sent before moved it afterwards"
        figures = summed_up(stills, frees, latencies)
        if FIGURES:
            Path(FIGURES).write_text(json.dumps(figures | {"stills": stills, "frees": frees}, indent=1))
    assert not MEASURED or figures["still_in_time"] == figures["free_in_time"] == KILLS, figures


def summed_up(stills, frees, latencies):
    return {
        "kills": len(stills),
        "still_within_s": {"max": max(stills), "median": statistics.median(stills)},
        "free_within_s": {"max": max(frees), "median": statistics.median(frees)},
        "still_in_time": sum(each <= 0.5 for each in stills),
        "free_in_time": sum(each <= 2.5 for each in frees),
        "drives": len(latencies),
        "latency_ms": {"p50": float(np.percentile(latencies, 50)), "p95": float(np.percentile(latencies, 95))},
    }


GAMEPAD = """
window.gamepad = (index, more = {}) => ({ index, connected: true, mapping: "standard", axes: [0, 0, 0, 0],
  buttons: Array.from({ length: 17 }, () => ({ pressed: false })), ...more });
window.pads = [window.gamepad(0)];
navigator.getGamepads = () => window.pads;
"""
AT_REST_S = 0.6  # a dozen readings of the gamepads


def show_dark_and_narrow(page, screenshots, name):
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=screenshots / f"{name}_dark.png")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 390, "height": 844})
    page.screenshot(path=screenshots / f"{name}_390.png")
    nothing_sticks_out(page, 390)
    page.set_viewport_size({"width": 1440, "height": 900})


def moved_while(watched, act):
    """The direction in which the body moved after `act`."""
    start = watched.world.state[:2].copy()
    act()
    wait_until(lambda: np.abs(watched.world.state[:2] - start).max() > 0.02, "it did not move")
    return np.sign(np.round(watched.world.state[:2] - start, 3))


def test_keys_picture_and_gamepad_drive_and_blur_lets_go(people, watched, screenshots):
    page = people["supervisor"]
    page.add_init_script(GAMEPAD)
    page.goto(PAGE)
    page.bring_to_front()
    state_is(page, "idle")
    page.keyboard.press("?")
    for said in (
        "Override: take control",
        "Reset done",
        "Software stop of all stations",
        "true failure",
        "Clear the stop",
    ):
        expect(page.locator("#keys")).to_contain_text(said)
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    expect(page.locator("[data-f=holder]")).to_have_text("you are in control")
    assert moved_while(watched, lambda: page.keyboard.down("w")).tolist() == [0, 1]
    page.keyboard.up("w")
    box = page.locator("#feed").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5 - 100, box["y"] + box["height"] * 0.5)
    assert moved_while(watched, page.mouse.down).tolist() == [-1, 0]
    page.screenshot(path=screenshots / "station_driven.png")
    page.mouse.up()
    show_dark_and_narrow(page, screenshots, "station_overridden")
    time.sleep(AT_REST_S)
    assert moved_while(watched, lambda: page.evaluate("window.pads[0].axes[0] = 0.9")).tolist() == [1, 0]
    page.evaluate("window.pads[0].axes[0] = 0")
    page.keyboard.down("ArrowDown")
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    time.sleep(0.6)
    still = len(watched.world.moved_at)
    time.sleep(0.6)
    assert len(watched.world.moved_at) == still, "a page that lost the keyboard has let go"
    page.keyboard.up("ArrowDown")
    page.evaluate("window.pads[0].buttons[0].pressed = true")
    state_is(page, "idle")
    page.evaluate("window.pads[0].buttons[0].pressed = false")


AT_REST = {  # what lies or hangs beside the keyboard while O is pressed
    "pedals that rest at -1": """[window.gamepad(0, { mapping: "", axes: [-1, -1, -1] })]""",
    "a standard one whose stick says -1": """[window.gamepad(0, { axes: [-1, -1, 0, 0] })]""",
    "a stick with a drift of .3": """[window.gamepad(0, { axes: [0.3, -0.3, 0, 0] })]""",
    "one axis at its end": """[window.gamepad(0, { axes: [0, 1, 0, 0] })]""",
    "numbers that are none": """[window.gamepad(0, { axes: [NaN, Infinity] })]""",
    "a stuck button": """[window.gamepad(0, { buttons: [{ pressed: true }] })]""",
    "two, one of them pushed": """[window.gamepad(0), window.gamepad(1, { axes: [0, -1, 0, 0] })]""",
    "a disconnected one": """[null, window.gamepad(1, { connected: false, axes: [1, 1, 0, 0] })]""",
}


@pytest.mark.parametrize("what", AT_REST)
def test_a_gamepad_at_rest_moves_nobody(people, watched, what):
    page = people["supervisor"]
    page.add_init_script(GAMEPAD)
    page.goto(PAGE)
    page.bring_to_front()
    state_is(page, "idle")
    page.evaluate(f"() => {{ window.pads = {AT_REST[what]}; }}")
    page.keyboard.press("o")
    expect(page.locator("[data-f=holder]")).to_have_text("you are in control")
    moved = len(watched.world.moved_at)
    time.sleep(AT_REST_S)
    assert len(watched.world.moved_at) == moved, "it was moved by nobody's hand"
    expect(page.locator("[data-f=holder]")).to_have_text("you are in control")  # no stuck button handed it back
    page.evaluate("() => { window.pads = []; }")
    page.keyboard.press("o")
    state_is(page, "idle")


# Readings of a gamepad on end, [axes, pressed buttons] of each gamepad, to what the last reading says.
READ = """async ([module, readings]) => {
  const { Gamepads } = await import(module);
  const gamepads = new Gamepads();
  let said = null;
  const buttons = (pressed) => [...Array(16).keys()].map((each) => ({ pressed: pressed.includes(each) }));
  for (const reading of readings) said = gamepads.read(reading.map((pad, index) => pad && { index, connected: true,
    mapping: "standard", axes: pad[0], buttons: buttons(pad[1]) }));
  const rounded = Object.entries(said.axes).map(([axis, value]) => [axis, Math.round(100 * value) / 100 + 0]);
  return { axes: Object.fromEntries(rounded), handBack: said.handBack };
}"""
STILL, RIGHT, DRIFT = [[0, 0], []], [[1, 0], []], [[0.3, 0], []]
REST = [[STILL]] * 6
NOTHING = {"axes": {}, "handBack": False}
ALL_REST = [[[[0, 0, 0, 0], []]]] * 6


@pytest.mark.parametrize(
    "readings, said",
    [
        ([*REST, [RIGHT]], {"axes": {"x": 1}, "handBack": False}),
        ([[RIGHT], [STILL], [RIGHT]], NOTHING),  # it passed zero, it did not rest there
        ([*REST, [[[0.15, 0.1], []]]], NOTHING),  # within the dead zone
        ([*REST, [[[0, -0.6], []]]], {"axes": {"y": 0.5}, "handBack": False}),  # speed begins at zero beyond it
        ([[DRIFT]] * 9, NOTHING),
        ([*[[DRIFT]] * 9, [[[0.3, -1], []]]], {"axes": {"y": 1}, "handBack": False}),  # its good axis
        ([*[[STILL, STILL]] * 6, [RIGHT, STILL]], NOTHING),  # two: neither was chosen
        ([*[[STILL, STILL]] * 6, [STILL, [[0, 0], [1]]], [STILL, RIGHT]], {"axes": {"x": 1}, "handBack": False}),
        ([*[[STILL, STILL]] * 6, [STILL, [[0, 0], [0]]]], NOTHING),  # the press that chooses does no more
        ([*[[STILL, STILL]] * 6, [STILL, [[0, 0], [1]]], [RIGHT, STILL]], NOTHING),  # the other one
        ([*[[STILL, STILL]] * 6, [STILL, [[0, 0], [1]]], [RIGHT, None]], NOTHING),  # the chosen one was unplugged
        ([*REST, [[[0, 0], [0]]]], {"axes": {}, "handBack": True}),
        ([*REST, [[[0, 0], [0]]], [[[0, 0], [0]]]], NOTHING),  # held, not pressed again
        ([[[[0, 0], [0]]]] * 6, NOTHING),  # pressed since before
        ([*REST, [None], [RIGHT]], NOTHING),  # plugged in anew: it has to rest anew
        ([*ALL_REST, [[[0, 0, 1, 0], []]]], {"axes": {"yaw": -1}, "handBack": False}),  # to the right: clockwise
        ([*ALL_REST, [[[0, -1, 0, -1], []]]], {"axes": {"y": 1, "z": 1}, "handBack": False}),
        ([*ALL_REST, [[[0, 0, 0, 0], [5]]]], {"axes": {"gripper": -1}, "handBack": False}),
        ([*ALL_REST, *[[[[0, 0, 0, 0], [6]]]] * 2], {"axes": {"gripper": 1}, "handBack": False}),  # held on
        ([*ALL_REST, [[[0, 0, 0, 0], [6]]], [[[0, 0, 0, 0], []]]], NOTHING),
        ([*ALL_REST, [[[0, 0, 0, 0], [4, 5]]]], NOTHING),  # both ways at once
        ([*ALL_REST, [[[0, 0, 0, 0], [12, 14]]]], {"axes": {"pitch": 1, "roll": -1}, "handBack": False}),
        ([[[[0, 0, 0, 0], [5, 12]]]] * 9, NOTHING),  # stuck
        ([[[[0, 0, 0.9, 1], []]]] * 9, NOTHING),  # the right stick rests at its end
        ([*[[STILL, STILL]] * 6, *[[STILL, [[0, 0], [5]]]] * 3], NOTHING),  # the press that chose it is held on
    ],
)
def test_what_a_gamepad_wants(people, readings, said):
    page = people["supervisor"]
    assert page.evaluate(READ, [static("js/gamepad.js"), readings]) == said


def test_a_key_that_drives_labels_nothing(people, watched):
    page = people["supervisor"]
    page.goto(PAGE)
    state_is(page, "idle")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for key in ("s", "f"):
        page.keyboard.press(key)
    page.wait_for_timeout(500)
    assert not [url for url in asked if "/label" in url]
    page.keyboard.press("o")
    expect(page.locator("[data-f=holder]")).to_have_text("you are in control")
    page.keyboard.press("Shift+S")
    expect(page.locator("#toasts")).to_contain_text("hand back before you mark")
    page.keyboard.press("o")
    state_is(page, "idle")
    assert not [url for url in asked if "/label" in url]
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_contain_text(re.compile(r"Shift\s+S\s*The last episode was a true\s+success"))
    page.keyboard.press("Escape")


def test_a_held_key_lets_go_where_its_end_is_not_told(people, watched):
    page = people["supervisor"]
    page.goto(PAGE)
    state_is(page, "idle")
    page.keyboard.press("o")
    expect(page.locator("[data-f=holder]")).to_have_text("you are in control")
    for taken in ("() => window.dispatchEvent(new Event('contextmenu'))", "Meta"):
        moved_while(watched, lambda: page.keyboard.down("ArrowLeft"))
        page.keyboard.down(taken) if taken == "Meta" else page.evaluate(taken)
        time.sleep(0.6)
        still = len(watched.world.moved_at)
        time.sleep(0.4)
        assert len(watched.world.moved_at) == still, taken
        page.keyboard.up("ArrowLeft")
        page.keyboard.up("Meta")
    page.keyboard.press("o")
    state_is(page, "idle")


def test_a_correction_is_labelled_undone_and_added_to_a_dataset(people, watched, screenshots):
    page = people["supervisor"]
    page.goto(PAGE)
    state_is(page, "idle")
    page.keyboard.press("o")
    state_is(page, "overridden")
    moved_while(watched, lambda: page.keyboard.down("ArrowLeft"))
    page.keyboard.up("ArrowLeft")
    page.keyboard.press("o")
    state_is(page, "idle")
    page.reload()
    last = page.locator("#recent li").first
    expect(last).to_contain_text("true failure")  # what the world itself said
    page.keyboard.press("Shift+S")
    toasts = page.locator("#toasts")
    expect(toasts).to_contain_text("is marked as a true success")
    expect(last).to_contain_text("true success")
    page.screenshot(path=screenshots / "labelled.png")
    toasts.get_by_role("button", name="Undo").click()
    expect(last).to_contain_text("true failure")
    last.get_by_role("button", name="Success").click()
    expect(last).to_contain_text("true success")
    last.get_by_role("button", name="Add to a dataset").click()
    expect(toasts).to_contain_text("It is in the dataset “Corrections of")
    last.locator("a").click()
    expect(page.locator("main")).to_contain_text("is in the dataset Corrections of")
    expect(page.get_by_role("button", name="True success")).to_have_attribute("aria-pressed", "true")
    page.wait_for_load_state()  # before that the page has no keys
    page.keyboard.press("Shift+F")
    expect(page.locator("[data-f=true]")).to_have_text("no")
    page.screenshot(path=screenshots / "replay_labelled.png")
    show_dark_and_narrow(page, screenshots, "replay_labelled")


def test_keys_on_the_wall_act_on_the_selected_station_and_one_stops_all(people, watched, screenshots):
    page, other = people["supervisor"], people["manager"]
    page.goto("/labs/main/")
    other.goto(PAGE)
    card = page.locator("article.card[data-station=watched]")
    expect(card).to_contain_text("Idle")
    page.keyboard.press(" ")
    expect(page.locator("#toasts")).to_contain_text("Select a station first")
    page.keyboard.press("2")
    expect(card).to_have_class("card selected")
    page.keyboard.press(" ")
    state_is(other, "paused")
    page.keyboard.press(" ")
    state_is(other, "idle")
    page.keyboard.press("o")
    expect(card).to_contain_text("You are in control")
    moved_while(watched, lambda: page.keyboard.down("ArrowLeft"))
    page.keyboard.up("ArrowLeft")
    expect(other.locator("[data-f=holder]")).to_have_text("supervisor is in control")
    page.screenshot(path=screenshots / "wall_selected.png")
    page.keyboard.press("Shift+Period")
    expect(page.locator("#toasts")).to_contain_text("all 2 stations confirmed it")
    for slug in ("watched", "station-1"):
        expect(page.locator(f"#attention article.card[data-station={slug}]")).to_contain_text("Stopped")
    assert watched.station.control.stop_latched and not watched.station.commands.lease.open
    page.screenshot(path=screenshots / "wall_all_stopped.png")
    show_dark_and_narrow(page, screenshots, "wall_all_stopped")
    for number in "12":
        page.keyboard.press("Escape")
        page.keyboard.press(number)
        page.keyboard.press("c")
        page.get_by_label("Reason").fill("a test of the stop")
        page.keyboard.press("Enter")
        expect(page.locator("#ask")).not_to_be_visible()
        time.sleep(0.8)
        page.keyboard.press(" ")
    state_is(other, "idle")


def test_after_stop_all_two_acts_bring_all_back(people, watched, picture, screenshots):
    page = people["supervisor"]
    page.goto("/labs/main/")
    clear, resume = page.locator("#clear-all"), page.locator("#resume-all")
    expect(page.locator("article.card[data-station=watched]")).to_contain_text("Idle")
    expect(clear).to_be_hidden()
    expect(resume).to_be_hidden()
    page.locator("#stop-all").click()
    expect(clear).to_have_text("Clear all stops (2)…")
    picture(page, "wall_to_clear")
    clear.click()
    expect(page.locator("#ask .touched li")).to_have_text(["Station 1", "Watched"])
    page.screenshot(path=screenshots / "wall_clear_all.png")
    page.get_by_label("Reason").fill("the floor is clear")
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("The stop is cleared: Station 1, Watched.")
    expect(clear).to_be_hidden()
    expect(resume).to_have_text("Resume all (2)…")
    resume.click()
    expect(page.locator("#confirm .touched li")).to_have_text(["Station 1", "Watched"])
    page.get_by_role("button", name="Go back").click()
    expect(resume).to_be_visible()
    resume.click()
    page.get_by_role("button", name="Resume these").click()
    expect(page.locator("#toasts")).to_contain_text("Resumed: Station 1, Watched.")
    expect(resume).to_be_hidden()


def test_a_lost_connection_and_an_old_picture_are_unmistakable(people, watched, screenshots):
    page = people["supervisor"]
    page.goto(PAGE)
    state_is(page, "idle")
    feed = page.locator("#feed")

    def fresh():
        watched.link.show_frame(0, 1, 0.0, PICTURE)  # by a clock that is decades behind: the server's counts
        shown = feed.get_attribute("class").split()
        return "has-frame" in shown and "stale-frame" not in shown

    wait_until(fresh, "no picture comes, or it is old at once", every=0.3)
    expect(feed).to_have_class(re.compile("stale-frame"))
    age = int(re.search(r"(\d+) s old", page.inner_text(".frame-age")).group(1))
    assert 3 <= age <= 60, "not decades"
    page.evaluate(BREAK_SOCKET)
    expect(page.locator("#connection")).to_contain_text(re.compile(r"Connection lost for \d+ s"))
    for act in ("Override", "Pause", "Reset done", "End episode"):
        button = page.get_by_role("button", name=act)
        expect(button).to_be_disabled()
        assert "Connection lost" in button.get_attribute("title")
    expect(page.locator(".acts-why")).to_have_text("Connection lost: commands are not sent, except a stop.")
    page.set_viewport_size({"width": 390, "height": 844})
    nothing_sticks_out(page, 390)
    page.screenshot(path=screenshots / "station_lost_390.png")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.screenshot(path=screenshots / "station_lost.png")
    page.get_by_role("button", name="Software stop").click()
    wait_until(lambda: watched.station.control.stop_latched, "a stop goes its own way, without the socket")
    page.goto(PAGE)
    state_is(page, "stopped")
    page.keyboard.press("c")
    page.get_by_label("Reason").fill("the connection is back")
    page.keyboard.press("Enter")
    state_is(page, "paused")
    page.keyboard.press(" ")
    state_is(page, "idle")

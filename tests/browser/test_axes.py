"""A body of many axes is driven from its page on all of them, by keys, buttons and a gamepad, also several at once; and
by its own device. The station is a real one as far as the server knows, in a thread of the test.
"""

import time

import numpy as np
import pytest
from playwright.sync_api import expect

from robots.embodiments import STATE, Camera, DriveAxis, Embodiment, Motion, vector
from robots.real_robot import RealRobot
from robots.tasks import TASKS, Grammar, TaskFamily
from tests.browser.conftest import THEME, nothing_sticks_out, wait_until
from tests.browser.own_robot import OwnRobot, joined
from tests.browser.test_control import AT_REST_S, GAMEPAD, state_is

PAGE = "/labs/main/stations/arm-of-axes"
AXES = ("x", "y", "z", "yaw", "gripper", "shoulder", "elbow")
ARM = Embodiment(
    name="arm_of_axes",
    fps=20.0,
    observation={STATE: vector(AXES)},
    action=vector(AXES, [-1] * len(AXES), [1] * len(AXES)),
    motions=(Motion("delta", 1),) * len(AXES),
    drive=tuple(DriveAxis(axis, axis) for axis in AXES),
    views=(Camera("front", 320, 240),),
)
FAMILY = TaskFamily("arm_of_axes", "Tidy", ARM.name, ARM.name, 100, "", Grammar(("",), ("tidy up",), ("tidy up",)))


class ArmWorld(RealRobot):
    """Notes each action."""

    embodiment, resets_itself = ARM, True

    def __init__(self):
        self.actions = []

    def observation(self):
        return {STATE: np.zeros(len(AXES), np.float32)}

    def step(self, action):
        self.actions.append(dict(zip(AXES, action.astype(float).round(2).tolist(), strict=True)))
        return self.observation()


class Leader:
    """A device beside the arm, whose hand the test moves."""

    name = "leader arm"
    wanted = None

    def action(self, observation):
        return self.wanted


class Arm(OwnRobot):
    def pushed(self, said="it did not move"):
        """What moves it now: the axes that are not at rest, of a step that is yet to come."""
        start = len(self.world.actions)
        wait_until(lambda: len(self.world.actions) > start + 3, said)
        return {axis: value for axis, value in self.world.actions[-1].items() if value}

    def rests(self):
        """Whether nothing moves it any more, half a second from now."""
        time.sleep(0.5)
        start = len(self.world.actions)
        time.sleep(0.5)
        return len(self.world.actions) == start


@pytest.fixture(scope="module")
def arm(running_fleet, opened):
    page = opened("manager")
    TASKS[FAMILY.name] = FAMILY
    leader = Leader()
    with joined(page, running_fleet, "Arm of axes", ArmWorld(), Arm, teleoperator=leader) as arm:
        arm.leader = leader
        yield arm
    del TASKS[FAMILY.name]
    page.goto(PAGE)
    page.get_by_text("Archive it", exact=True).click()
    page.get_by_role("button", name="Archive", exact=True).click()
    page.get_by_role("button", name="Archive Arm of axes").click()
    expect(page.locator("#toasts")).to_contain_text("is archived")


@pytest.fixture(scope="module")
def page(opened, arm):
    page = opened("supervisor")
    page.add_init_script(GAMEPAD)
    return page


@pytest.fixture
def held(page, arm):
    """The page, in control; handed back afterwards."""
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(PAGE)
    page.bring_to_front()
    state_is(page, "idle")
    page.keyboard.press("o")
    expect(page.locator("[data-f=holder]")).to_contain_text("you are in control")
    yield page
    if page.locator("body").get_attribute("data-station-state") == "overridden":
        page.get_by_role("button", name="Hand back").click()
    state_is(page, "idle")


def test_every_key_that_the_page_lists_drives_its_axis_and_no_other_is_listed(held, arm, screenshots):
    held.keyboard.press("?")
    keys = held.locator("[data-drive-keys]")
    expect(keys).to_contain_text("Down, Up")
    expect(keys).to_contain_text("The selected joint, back and forth: shoulder, elbow")
    expect(keys).to_contain_text("right stick: z and yaw")
    held.screenshot(path=screenshots / "drive_keys.png")
    assert "pitch" not in keys.inner_text().lower() and "roll" not in keys.inner_text().lower()
    held.keyboard.press("Escape")
    for key, pushed in (
        ("ArrowLeft", {"x": -1}),
        ("d", {"x": 1}),
        ("w", {"y": 1}),
        ("r", {"z": 1}),
        ("PageDown", {"z": -1}),
        ("q", {"yaw": 1}),
        ("e", {"yaw": -1}),
        ("g", {"gripper": -1}),
        ("t", {"gripper": 1}),
        ("]", {"shoulder": 1}),
        ("[", {"shoulder": -1}),
    ):
        held.keyboard.down(key)
        assert arm.pushed(key) == pushed, key
        held.keyboard.up(key)
    assert arm.rests()
    held.keyboard.press("v")
    held.keyboard.down("]")
    assert arm.pushed() == {"elbow": 1}
    held.keyboard.up("]")
    assert held.locator("body").get_attribute("data-station-state") == "overridden", "no key of them acted"


def test_several_keys_at_once_are_one_push(held, arm):
    for key in ("d", "w", "r", "q", "t", "]"):
        held.keyboard.down(key)
    assert arm.pushed() == {"x": 0.71, "y": 0.71, "z": 1, "yaw": 1, "gripper": 1, "shoulder": 1}
    held.keyboard.up("w")
    held.keyboard.up("q")
    assert arm.pushed() == {"x": 1, "z": 1, "gripper": 1, "shoulder": 1}
    for key in ("d", "r", "t", "]"):
        held.keyboard.up(key)
    assert arm.rests()


COVERED = """() => [...document.querySelectorAll("#drive [data-way]")].filter((button) => {
  const box = button.getBoundingClientRect();
  const top = document.elementFromPoint(box.x + box.width / 2, box.bottom - 2);
  return top !== button && !button.contains(top);
}).map((button) => button.getAttribute("aria-label") || button.textContent)"""


def test_on_a_phone_no_drive_button_lies_under_the_stop_when_driving_begins(held, screenshots):
    held.get_by_role("button", name="Hand back").click()
    state_is(held, "idle")
    held.set_viewport_size({"width": 390, "height": 844})
    held.evaluate("() => scrollTo(0, 0)")
    held.locator("[data-command=override]").click()
    expect(held.locator("#drive")).to_be_visible()
    held.wait_for_timeout(300)
    for theme in ("light", "dark"):
        held.evaluate(THEME, theme)
        held.screenshot(path=screenshots / f"station_stop_bar_{theme}.png")
    held.evaluate(THEME, "light")
    assert held.locator("#drive [data-way]").count() == 10
    held.wait_for_function(f"() => !({COVERED})().length")  # once it has come into view
    expect(held.locator("#stop")).to_be_in_viewport(ratio=1)
    held.evaluate("() => scrollTo(0, document.body.scrollHeight)")
    held.screenshot(path=screenshots / "station_stop_bar_end.png")
    expect(held.locator("#stop")).to_be_in_viewport(ratio=1)
    save = held.get_by_role("button", name="Save settings").bounding_box()
    assert save["y"] + save["height"] <= held.locator("#stop").bounding_box()["y"], "the page ends above it"


@pytest.mark.parametrize("width", [1440, 390])
def test_buttons_drive_while_they_are_held(held, arm, width, screenshots):
    held.set_viewport_size({"width": width, "height": 844})
    nothing_sticks_out(held, width)
    held.screenshot(path=screenshots / f"drive_buttons_{width}.png", full_page=True)
    rows = held.locator("#axes .axis")
    assert [row.get_attribute("data-axis") for row in rows.all()] == ["z", "yaw", "gripper", "shoulder", "elbow"]
    for axis, way in (("z", -1), ("yaw", 1), ("gripper", -1), ("shoulder", 1), ("elbow", -1)):
        button = held.locator(f"[data-axis={axis}] [data-way='{way}']")
        button.evaluate("button => button.scrollIntoView({ block: 'center' })")
        box = button.bounding_box()
        assert box["height"] >= 42 and box["x"] + box["width"] <= width
        held.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        held.mouse.down()
        assert arm.pushed() == {axis: way}
        held.keyboard.down("d")
        assert arm.pushed() == {axis: way, "x": 1}, "a key beside it"
        held.keyboard.up("d")
        held.mouse.up()
    assert arm.rests()
    held.locator("[data-axis=elbow] .name").click()
    expect(held.locator("[data-axis=elbow] .name")).to_have_attribute("aria-pressed", "true")
    held.keyboard.down("[")
    assert arm.pushed() == {"elbow": -1}
    held.keyboard.up("[")


def test_two_fingers_push_two_buttons_and_a_long_press_opens_no_menu(held, arm):
    touch = """([axis, way, type, id]) => document.querySelector(`[data-axis=${axis}] [data-way="${way}"]`)
      .dispatchEvent(new PointerEvent(type, { pointerId: id, pointerType: "touch", button: 0, bubbles: true }))"""
    held.evaluate("Element.prototype.setPointerCapture = () => {}")  # of pointers that the browser doesn't know
    held.evaluate(touch, ["z", 1, "pointerdown", 11])
    held.evaluate(touch, ["gripper", -1, "pointerdown", 12])
    assert arm.pushed() == {"z": 1, "gripper": -1}
    menu = """() => document.querySelector("[data-axis=z] button")
      .dispatchEvent(new MouseEvent("contextmenu", { bubbles: true, cancelable: true }))"""
    assert held.evaluate(menu) is False
    assert arm.pushed() == {"z": 1, "gripper": -1}
    held.evaluate(touch, ["z", 1, "pointercancel", 11])
    assert arm.pushed() == {"gripper": -1}
    held.evaluate(touch, ["gripper", -1, "pointerup", 12])
    assert arm.rests()


def test_a_button_is_held_by_the_keyboard_too(held, arm):
    held.locator("[data-axis=gripper] [data-way='1']").focus()
    held.keyboard.down("Enter")
    assert arm.pushed() == {"gripper": 1}
    held.keyboard.up("Enter")
    assert arm.rests()


def test_a_gamepad_drives_all_that_it_has_and_only_what_the_body_has(held, arm):
    time.sleep(AT_REST_S)
    held.evaluate("() => { window.pads[0].axes = [0.9, 0, 1, -1]; window.pads[0].buttons[5].pressed = true; }")
    pushed = arm.pushed()
    assert pushed["x"] > 0.5 and pushed["z"] > 0.5 and pushed["yaw"] < -0.5 and pushed["gripper"] == -1
    held.evaluate("() => { window.pads[0].axes = [0, 0, 0, 0]; window.pads[0].buttons[5].pressed = false; }")
    assert arm.rests()
    held.evaluate("() => { window.pads[0].buttons[12].pressed = true; }")
    assert arm.rests(), "it has no pitch"
    held.evaluate("() => { window.pads[0].buttons[12].pressed = false; }")
    held.keyboard.down("f")
    held.evaluate("() => { window.pads[0].axes = [0, -1, 0, -1]; }")
    assert arm.pushed() == {"y": 1, "z": -1}, "where both push, the keys are heard"
    held.keyboard.up("f")
    held.evaluate("() => { window.pads[0].axes = [0, 0, 0, 0]; }")
    assert arm.rests()


@pytest.mark.parametrize(
    "end",
    [
        "() => window.dispatchEvent(new Event('blur'))",
        "() => window.dispatchEvent(new Event('pagehide'))",
        "() => document.querySelector('#keys').showModal()",
    ],
)
def test_what_takes_the_keyboard_lets_go_of_every_axis(held, arm, end):
    for key in ("r", "q", "t", "]"):
        held.keyboard.down(key)
    assert arm.pushed() == {"z": 1, "yaw": 1, "gripper": 1, "shoulder": 1}
    held.evaluate(end)
    assert arm.rests()
    assert arm.station.control.code == "", "it was let go, and not only lost"
    for key in ("r", "q", "t", "]"):
        held.keyboard.up(key)
    held.evaluate("() => document.querySelector('#keys').close()")


def test_a_key_that_drives_acts_not_when_control_is_gone_under_the_hand(held, arm, opened):
    held.keyboard.down("r")
    arm.pushed()
    # The page's clock stands still until the test turns it, or a busy machine would take too long to press the key.
    held.evaluate(
        "() => { const at = performance.now(); window.later = 0; performance.now = () => at + window.later; }"
    )
    held.get_by_role("button", name="Software stop").click()
    state_is(held, "stopped")
    held.keyboard.up("r")
    held.evaluate("""() => {
      window.named = [];
      const send = WebSocket.prototype.send;
      WebSocket.prototype.send = function (text) {
        if (typeof text === "string" && text.includes('"name"')) window.named.push(JSON.parse(text).command?.name);
        return send.call(this, text);
      };
    }""")
    held.keyboard.press("r")
    held.wait_for_timeout(300)
    assert "reset" not in held.evaluate("window.named")
    held.evaluate("() => { window.later = 1900; }")
    held.keyboard.press("r")
    held.wait_for_timeout(300)
    assert "reset" not in held.evaluate("window.named")
    held.evaluate("() => { window.later = 2100; }")
    held.keyboard.press("r")
    wait_until(lambda: "reset" in held.evaluate("window.named"), "later it does what it says")
    held.evaluate("() => { delete performance.now; }")
    held.keyboard.press("c")
    held.get_by_label("Reason").fill("a test of the keys")
    held.keyboard.press("Enter")
    state_is(held, "paused")
    held.get_by_role("button", name="Resume").click()
    state_is(held, "idle")


def test_the_stations_own_device_drives_once_it_is_chosen(held, arm, opened, picture):
    picture(held, "drive_axes")
    arm.leader.wanted = np.array([0, 0, 0.5, 0, 0.25, 0, -0.5])
    assert arm.rests(), "it is not chosen yet"
    held.get_by_role("button", name="Drive by its own device: leader arm").click()
    assert arm.pushed() == {"z": 0.5, "gripper": 0.25, "elbow": -0.5}
    expect(held.locator("[data-f=holder]")).to_have_text("you are in control, by leader arm")
    expect(held.locator("#axes")).to_be_hidden()
    expect(held.locator("[data-f=drive-hint]")).to_contain_text("Without a hand on that it holds still")
    picture(held, "drive_device")
    held.keyboard.down("d")
    assert arm.pushed() == {"z": 0.5, "gripper": 0.25, "elbow": -0.5}, "the page drives not beside it"
    held.keyboard.up("d")
    other = opened("manager")
    other.goto(PAGE)
    expect(other.locator("[data-f=holder]")).to_have_text("supervisor is in control, by leader arm")
    held.bring_to_front()
    held.get_by_role("button", name="Drive from this page").click()
    assert arm.rests()
    held.keyboard.down("d")
    assert arm.pushed() == {"x": 1}
    held.keyboard.up("d")
    held.get_by_role("button", name="Drive by its own device: leader arm").click()
    arm.pushed()
    held.get_by_role("button", name="Hand back").click()
    assert arm.rests()
    state_is(held, "idle")
    expect(held.locator("#recent li").first).to_contain_text("tidy up")


def test_the_wall_drives_all_axes_by_keys(page, arm):
    page.goto("/labs/main/")
    card = page.locator("article.card[data-station=arm-of-axes]")
    expect(card).to_contain_text("Idle")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_contain_text("Select a station first")
    page.keyboard.press("Escape")
    page.keyboard.press(card.locator("[data-f=number]").inner_text())
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_contain_text("shoulder, elbow")
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    expect(card).to_contain_text("You are in control")
    for key in ("r", "e", "]"):
        page.keyboard.down(key)
    assert arm.pushed() == {"z": 1, "yaw": -1, "shoulder": 1}
    for key in ("r", "e", "]"):
        page.keyboard.up(key)
    assert arm.rests()
    page.keyboard.press("o")
    expect(card).to_contain_text("Idle")

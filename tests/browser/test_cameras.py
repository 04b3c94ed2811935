"""A real robot of several cameras in a real Chromium: live side by side, one of them on a phone, and all in the replay.

The robot is tests/robots/fake_so101.py with the station's own loop and cameras, in a thread of the test (own_robot.py).
"""

import re
import time
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import expect

from robots.cameras import Cameras
from robots.embodiments import IMAGES, STATE, Camera, picture
from tests.browser.conftest import wait_until
from tests.browser.own_robot import OwnRobot, joined
from tests.robots.fake_so101 import POSITIONS, FakeSO101

LAB = "/labs/main"
HOSTILE = '"><img src=x onerror=document.title="hacked">'
TOP = IMAGES + "top"
DRIVE = """([station, axes]) => {
  const loaded = performance.getEntriesByType('resource').map((entry) => entry.name);
  return import(loaded.find((name) => /\\/js\\/live\\.\\w+\\.js$/.test(name))).then(async ({ live }) => {
    for (let i = 0; i < 12; i++) {
      live.drive("main", station, axes);
      await new Promise((done) => setTimeout(done, 80));
    }
  });
}"""


class BreakableSO101(FakeSO101):
    """People alone watch by its cameras, which can be unplugged."""

    embodiment = replace(
        FakeSO101.embodiment,
        observation={STATE: POSITIONS},
        views=(Camera("front", 640, 480), Camera("wrist", 640, 480)),
    )

    def __init__(self):
        self.unplugged = set()

    def render(self, camera, width, height):
        if camera in self.unplugged:
            raise RuntimeError("it is unplugged")
        return super().render(camera, width, height)


class ThreeEyes(BreakableSO101):
    """Its policy sees by a third camera, which may send nothing; another has a name that is no name."""

    embodiment = replace(
        FakeSO101.embodiment,
        observation={STATE: POSITIONS, TOP: picture(48, 36)},
        views=(Camera("front", 640, 480), Camera(HOSTILE, 640, 480)),
    )

    def observation(self):
        top = {} if "top" in self.unplugged else {TOP: np.full((36, 48, 3), 90 + int(self.joints[0]), np.uint8)}
        return {STATE: self.joints, **top}

    def render(self, camera, width, height):
        return super().render("wrist" if camera == HOSTILE else camera, width, height)


class FilmedRobot(OwnRobot):
    """It sends and keeps what its cameras see."""

    def begin(self):
        self.cameras = Cameras(self.station, self.link)

    def hear(self, message, received_at):
        self.cameras.hear(message)
        super().hear(message, received_at)

    def show(self):
        self.cameras.show()


@pytest.fixture(scope="module")
def arm(fleet, page):
    with joined(page, fleet, "Arm", BreakableSO101(), FilmedRobot) as robot:
        yield robot


@pytest.fixture(scope="module")
def eyes(fleet, page):
    with joined(page, fleet, "Eyes", ThreeEyes(), FilmedRobot) as robot:
        yield robot


def feeds(page):
    return page.locator(".feed[data-camera]")


def frames_of(page, number):
    return int(feeds(page).nth(number).get_attribute("data-frames") or 0)


def watch(page, station, count):
    page.goto(f"{LAB}/stations/{station}")
    if feeds(page).count() != count:  # it was loaded before the station had said what it has
        page.wait_for_timeout(1000)
        page.reload()
    expect(page.locator(".feed[data-camera].has-frame")).to_have_count(count)


def drive(page, station, axes):
    """An override of a second, and the correction that came of it: its address."""
    listed = f"/api{LAB}/episodes?station={station}&purpose=correction"
    before = len(page.request.get(listed).json()["items"])
    page.get_by_role("button", name="Override").click()
    expect(page.locator("[data-f=holder]")).to_have_text("you are in control")
    page.evaluate(DRIVE, [station, axes])
    page.get_by_role("button", name="Hand back").click()
    items = wait_until(
        lambda: len(found := page.request.get(listed).json()["items"]) > before and found, "No correction came."
    )
    return f"{LAB}/episodes/{items[0]['uuid']}"


def in_step(page):
    return {each.get_attribute("data-step") for each in page.locator("#feeds .feed.has-frame").all()}


def test_one_camera_looks_as_it_did(page, fleet, picture):
    page.goto(f"{LAB}/stations/station-1")
    expect(page.locator(".feed[data-camera].has-frame")).to_have_count(1)
    expect(page.locator(".choose-camera, .feed .which")).to_have_count(0)
    picture(page, "station_1_camera")


def test_two_cameras_are_watched_side_by_side_and_one_of_them_on_a_phone(page, arm, picture):
    watch(page, "arm", 2)
    boxes = [each.bounding_box() for each in feeds(page).all()]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    assert feeds(page).nth(1).locator(".which").inner_text() == "wrist"
    began, before = time.monotonic(), [frames_of(page, i) for i in (0, 1)]
    gained = lambda: [frames_of(page, i) - before[i] for i in (0, 1)]  # noqa: E731
    wait_until(lambda: min(gained()) >= 15, lambda: f"They stand still: {gained()}.")
    came = gained()
    assert max(came) <= 5 + 12 * (time.monotonic() - began), "no more often than is asked for"
    picture(page, "station_2_cameras")
    page.set_viewport_size({"width": 390, "height": 844})
    expect(feeds(page).nth(1)).to_be_hidden()
    page.get_by_role("button", name="wrist").click()
    expect(feeds(page).nth(0)).to_be_hidden()
    expect(feeds(page).nth(1)).to_be_visible()
    page.wait_for_timeout(500)
    front, wrist = frames_of(page, 0), frames_of(page, 1)
    wait_until(lambda: frames_of(page, 1) > wrist + 3, "The chosen camera stands still.")
    assert frames_of(page, 0) == front, "what is not on screen is not asked for"
    page.set_viewport_size({"width": 1440, "height": 900})


def test_what_a_person_drove_is_replayed_with_both_cameras_in_step(page, arm, picture):
    watch(page, "arm", 2)
    page.goto(drive(page, "arm", {"shoulder_pan.pos": 1, "elbow_flex.pos": -0.5, "gripper": -1}))
    expect(page.locator("#feeds .feed.has-frame")).to_have_count(2)
    expect(page.locator("#feeds .which")).to_have_text(["front", "wrist"])
    assert in_step(page) == {"0"}
    for _ in range(3):
        page.locator("body").press("ArrowRight")
    wait_until(lambda: in_step(page) == {"3"}, lambda: f"They show the steps {in_step(page)}.")
    assert (
        page.evaluate("() => new Set([...document.querySelectorAll('#feeds canvas')].map((c) => c.toDataURL())).size")
        == 2
    )
    before = page.evaluate("() => document.querySelector('#feeds canvas').toDataURL()")
    page.locator("body").press("End")
    wait_until(lambda: in_step(page) not in ({"3"}, set()), "The end is not shown.")
    assert page.evaluate("() => document.querySelector('#feeds canvas').toDataURL()") != before, "the arm turned"
    picture(page, "replay_2_cameras")
    page.set_viewport_size({"width": 390, "height": 844})
    front, wrist = (each.bounding_box() for each in page.locator("#feeds .feed").all())
    assert front["y"] == wrist["y"] and front["x"] < wrist["x"], "on a phone too, and in the same order"
    page.set_viewport_size({"width": 1440, "height": 900})


def test_a_camera_that_fails_is_said_and_the_other_goes_on(page, arm, picture, screenshots):
    watch(page, "arm", 2)
    arm.world.unplugged = {"wrist"}
    trouble = page.locator('p[data-f="camera-error"]')
    expect(trouble).to_contain_text("its camera wrist failed: it is unplugged. It is tried again every few seconds")
    expect(feeds(page).nth(1)).not_to_have_class(re.compile("has-frame"))
    expect(feeds(page).nth(1).locator(".note")).to_contain_text("its camera wrist failed")
    expect(feeds(page).nth(1).locator("canvas")).to_be_hidden()  # its last picture would look like a still robot
    front = frames_of(page, 0)
    wait_until(lambda: frames_of(page, 0) > front + 5, "The other camera stands still.")
    expect(feeds(page).nth(0)).to_have_class(re.compile("has-frame"))
    picture(page, "station_camera_fails")
    page.goto(f"{LAB}/")
    card = page.locator("article.card[data-station=arm]")
    expect(card.locator('[data-f="camera-error"]')).to_contain_text("its camera wrist failed")
    expect(card.locator(".feed")).to_have_class(re.compile("has-frame"))
    page.screenshot(path=screenshots / "wall_camera_fails.png", full_page=True)
    arm.world.unplugged = set()
    page.goto(f"{LAB}/stations/arm")
    expect(page.locator(".feed[data-camera].has-frame")).to_have_count(2)
    expect(trouble).to_be_hidden()  # it is tried again after 5 s


def test_three_cameras_with_a_name_that_would_be_html(page, eyes, picture):
    watch(page, "eyes", 3)
    assert [each.get_attribute("data-camera") for each in feeds(page).all()] == ["front", HOSTILE, "top"]
    picture(page, "station_3_cameras")
    page.goto(drive(page, "eyes", {"shoulder_pan.pos": 1, "gripper": 1}))
    expect(page.locator("#feeds .feed.has-frame")).to_have_count(3)
    expect(page.locator("#feeds .which")).to_have_text(["front", HOSTILE, "top"])
    page.locator("body").press("End")
    picture(page, "replay_3_cameras")
    assert page.title() != "hacked" and page.locator("img").count() == 0


def test_a_camera_that_the_policy_needs_and_that_sends_nothing_calls_a_person_who_reads_what_to_do(
    page, eyes, screenshots
):
    watch(page, "eyes", 3)
    eyes.world.unplugged = {"top"}
    page.get_by_role("button", name="Reset done").click()
    expect(page.locator('[data-f="need"]')).to_contain_text("the camera top sent no picture")
    expect(page.locator('[data-f="need-advice"]')).to_contain_text("Then press Reset done")
    page.goto(f"{LAB}/")
    card = page.locator("#attention article.card[data-station=eyes]")
    expect(card.locator(".reason")).to_contain_text("check its cable and the program that reads it")
    expect(card.locator(".advice")).to_contain_text("repair what failed")
    page.screenshot(path=screenshots / "wall_camera_sends_nothing.png", full_page=True)
    eyes.world.unplugged = set()
    page.goto(f"{LAB}/stations/eyes")
    page.get_by_role("button", name="Reset done").click()
    expect(page.locator("body")).to_have_attribute("data-station-state", "idle")

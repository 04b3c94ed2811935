"""A whole station of 40 lines, tests/robots/fake_so101.py, at a real server: its task is typed in the browser, a policy
is trained for it, it practises, is taken over and stopped there, and what it practised is looked at.
"""

import os
import re
import subprocess
import sys
import uuid

import numpy as np
import pytest
from playwright.sync_api import expect

from robots.embodiments import STATE
from robots.episodes import ACTORS, Episode, read_episodes, stacked, write_episodes
from tests.browser.conftest import LAB, api, wait_until
from tests.browser.own_robot import add_station
from tests.browser.test_control import state_is
from tests.conftest import ROOT
from tests.robots.fake_so101 import FakeSO101

BINS = {"left": -40.0, "right": 40.0}  # degrees of the shoulder
RECIPE = {"steps": 300, "hidden": 64, "batch": 64, "learning_rate": 0.003, "bins": 30, "bin_width": 1.0}
RECIPE |= {"validate_every": 100, "largest_threshold": 0.0, "action_bins": 111}


def shown(family, number):
    """A person's demonstration: to the bin that the words name, and the gripper opened there."""
    robot, rng = FakeSO101(), np.random.default_rng(number)
    robot.joints = np.array([rng.uniform(-50, 50), 0, 0, 0, 0, rng.uniform(0, 100)], np.float32)
    side = [*BINS][number % 2]
    observations, actions, there = [robot.observation()], [], np.ones(6)
    while np.abs(there).max() > 0:
        there = np.array([BINS[side], 0, 0, 0, 0, 80], np.float32) - robot.joints
        actions.append(robot.joints + np.clip(there, -4, 4).astype(np.float32))
        robot.send(actions[-1])
        observations.append(robot.observation())
    return Episode(
        uuid=str(uuid.UUID(int=number)),
        embodiment="so101",
        body=FakeSO101.embodiment,
        task=family,
        instruction=f"put the brick into the {side} bin",
        observations={
            key: each.astype(np.float32 if key == STATE else np.uint8) for key, each in stacked(observations).items()
        },
        actions=np.array(actions, np.float32),
        actors=np.full(len(actions), ACTORS.index("human"), np.uint8),
        steps_to_go=np.full(len(observations), np.nan, np.float32),
        ending="true_success",
        detected_success=False,
        true_success=True,
        purpose="demonstration",
        fps=30.0,
    )


@pytest.fixture(scope="module")
def robot(fleet, page, tmp_path_factory):
    """The program, started by the words that the page shows."""
    where = {"FLEET_SERVER": fleet.url, "FLEET_TOKEN": add_station(page, "Desk arm"), "PYTHONPATH": str(ROOT)}
    folder = tmp_path_factory.mktemp("robot")
    program = [sys.executable, ROOT / "tests" / "robots" / "fake_so101.py"]
    with open(folder / "said.txt", "w") as file:
        process = subprocess.Popen(program, cwd=folder, env={**os.environ, **where}, stdout=file, stderr=file)
    try:
        expect(page.locator("#arrival")).to_contain_text("is connected")
        yield process
        process.terminate()
        status, said = process.wait(60), (folder / "said.txt").read_text()
        assert status == 0 and "Traceback" not in said, said
    finally:
        process.kill()


def test_it_practises_a_task_that_was_typed_with_a_policy_that_was_trained_for_it(
    fleet, page, robot, picture, tmp_path
):
    page.goto(f"{LAB}/tasks/#task")
    form = page.locator(".task-form")
    form.get_by_label("in words, for any body").check()
    form.get_by_label("Body", exact=True).select_option("so101")
    form.get_by_label("Name", exact=True).fill("Sort bricks")
    form.get_by_label("Wordings", exact=True).fill("Put the brick into the {side} bin.")
    form.get_by_label("Slots").fill("side: left, right")
    form.get_by_label("Time limit").fill("40")
    form.get_by_role("button", name="Make task").click()
    expect(page.locator("#sort-bricks")).to_contain_text("in words, for so101")
    family = next(row for row in api(page, "GET", "tasks")["items"] if row["slug"] == "sort-bricks")["family"]
    file = tmp_path / "shown.safetensors"
    write_episodes(file, [shown(family, number) for number in range(24)])
    page.goto(f"{LAB}/datasets/")
    page.locator("#upload").get_by_label("Name").fill("By hand")
    page.locator("#upload").get_by_label("File").set_input_files(file)
    page.locator("#upload").get_by_role("button", name="Upload").click()
    expect(page.locator("#datasets tr").first).to_contain_text("Sort bricks")
    dataset = api(page, "GET", "datasets")["items"][0]["id"]
    run = api(page, "POST", "runs", {"kind": "sft", "name": "taught", "dataset": dataset, "recipe": RECIPE})["id"]
    done = lambda: (found := api(page, "GET", f"runs/{run}"))["state"] in ("completed", "failed") and found  # noqa: E731
    trained = wait_until(done, "The policy is not trained.", seconds=240, every=0.5)
    assert trained["state"] == "completed", trained["error"]
    page.goto(f"{LAB}/tasks/")
    assign = page.locator("#assign")
    assign.get_by_label("Task", exact=True).select_option(label="Sort bricks")
    assign.get_by_label("Station 1").uncheck()
    assign.get_by_label("Desk arm").check()
    assign.get_by_role("button", name="Assign").click()
    page.goto(f"{LAB}/stations/desk-arm")
    expect(page.locator("body")).to_have_attribute("data-station-state", "practising", timeout=180_000)
    expect(page.locator('[data-f="instruction"]')).to_have_text(re.compile("^put the brick into the (left|right) bin$"))
    expect(page.locator(".feed[data-camera].has-frame")).to_have_count(2)
    picture(page, "so101_practising")
    for episode in wait_until(lambda: moved(recorded(fleet, page, "practice")), "It practised nothing.", every=0.5):
        assert episode.instruction in ("put the brick into the left bin", "put the brick into the right bin")
        assert (episode.actors == ACTORS.index("policy")).all() and np.isfinite(episode.steps_to_go[:-1]).all()


def recorded(fleet, page, purpose):
    """What the server has of it, the newest first."""
    rows = api(page, "GET", f"episodes?station=desk-arm&purpose={purpose}")["items"]
    return [
        episode
        for row in rows
        for file in fleet.data.glob(f"episodes/*/{row['uuid']}.safetensors")
        for episode in read_episodes(file)
    ]


def moved(episodes):
    """Those at whose end both the shoulder and the gripper are elsewhere than at its beginning."""
    return [
        each
        for each in episodes
        if np.abs(each.observations[STATE][-1] - each.observations[STATE][0])[[0, 5]].min() > 5
    ]


def hold(page, axis, way, seconds):
    """A button of the drive panel, pressed for so long."""
    box = page.locator(f"[data-axis='{axis}'] [data-way='{way}']").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.wait_for_timeout(1000 * seconds)
    page.mouse.up()


def test_a_person_takes_it_over_opens_and_closes_its_gripper_and_stops_it(fleet, page, robot, picture):
    page.goto(f"{LAB}/stations/desk-arm")
    page.get_by_role("button", name="Override").click()
    expect(page.locator("[data-f=holder]")).to_have_text("you are in control")
    page.locator("#drive").scroll_into_view_if_needed()
    expect(page.locator("#axes .name")).to_have_text(
        ["shoulder pan", "shoulder lift", "elbow flex", "wrist flex", "wrist roll", "gripper"]
    )
    hold(page, "gripper", 1, 2)  # twice as long as it takes: a busy machine moves it less far
    hold(page, "gripper", -1, 2)
    hold(page, "shoulder_pan.pos", 1, 1)
    picture(page, "so101_overridden")
    page.get_by_role("button", name="Software stop").click()
    state_is(page, "stopped")
    (driven,) = wait_until(lambda: recorded(fleet, page, "correction"), "What was driven did not come.")
    assert driven.ending == "stop" and (driven.actors == ACTORS.index("human")).all()
    pan, gripper = driven.observations[STATE][:, 0], driven.observations[STATE][:, 5]
    opened = int(gripper.argmax())
    closed = opened + int(gripper[opened:].argmin())
    assert gripper[opened] > 90 and gripper[closed] < 40, "within its range"
    assert pan[-1] - pan[closed] > 20 and np.abs(np.diff(driven.observations[STATE], axis=0)).max() < 4.01
    assert (driven.observations[STATE][:, 1:5] == driven.observations[STATE][0, 1:5]).all(), "nothing else moved"
    standing = len(recorded(fleet, page, "practice"))
    page.wait_for_timeout(1500)
    assert len(recorded(fleet, page, "practice")) == standing and robot.poll() is None, "it stands, and lives"


def test_what_it_practised_is_replayed_with_both_cameras_side_by_side(fleet, page, robot, picture):
    longest = max(moved(recorded(fleet, page, "practice")), key=lambda episode: episode.steps)
    page.goto(f"{LAB}/episodes/{longest.uuid}")
    feeds = page.locator("#feeds .feed.has-frame")
    expect(feeds).to_have_count(2)
    expect(page.locator("#feeds .which")).to_have_text(["front", "wrist"])
    boxes = [each.bounding_box() for each in feeds.all()]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    drawn = """() => [...document.querySelectorAll("#feeds canvas")].map((canvas) => canvas.toDataURL())"""
    first = page.evaluate(drawn)
    assert len({*first}) == 2, "each shows its own"
    page.locator("body").press("End")
    last = str(longest.steps)
    wait_until(lambda: {each.get_attribute("data-step") for each in feeds.all()} == {last}, "The end is not shown.")
    wait_until(lambda: all(map(str.__ne__, first, page.evaluate(drawn))), "Neither camera saw the arm move.")
    picture(page, "so101_replay")

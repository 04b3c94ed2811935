"""A manager types a task in words for the lab's own robot; a policy is trained for it, and the robot gets the words."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import expect

from robots.demonstrators import collect_demonstrations
from robots.episodes import write_episodes
from robots.protocol import Assignment
from robots.real_robot import RealRobot
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.browser.conftest import LAB, api
from tests.browser.own_robot import OwnRobot, joined

# Nobody here knows this body; that its shapes are those of a table spares the test a simulator of its own.
ARM = replace(LANGUAGE_TABLE, name="lab_arm")


class StillArm(RealRobot):
    """It senses nothing but zeros, and moves nothing."""

    embodiment = ARM

    def observation(self):
        return {key: np.zeros(feature.shape, np.float32) for key, feature in ARM.observation.items()}


class ToldArm(OwnRobot):
    """It notes when it was told of a task that it can practise."""

    def begin(self):
        self.told, self.orders = threading.Event(), self.station.orders

    def hear(self, message, received_at):
        super().hear(message, received_at)
        if isinstance(message, Assignment) and self.orders.task is not None:
            self.told.set()


@pytest.fixture(scope="module")
def arm(fleet, page):
    with joined(page, fleet, "Own arm", StillArm(), ToldArm) as station:
        expect(page.locator("#arrival")).to_contain_text("is connected")
        yield station


def test_the_page_of_a_real_robots_station_asks_for_no_world(page, picture):
    page.goto(f"{LAB}/stations/new")
    page.get_by_label("a real robot").check()
    expect(page.get_by_label("World")).to_be_hidden()
    expect(page.get_by_label("Embodiment")).to_have_value("")
    picture(page, "new_station_real")


def test_the_form_shows_what_its_kind_of_task_needs(page, arm, picture):
    page.goto(f"{LAB}/tasks/#task")
    form = page.locator(".task-form")
    expect(form.get_by_label("Family of instructions")).to_be_visible()
    expect(form.get_by_label("Wordings", exact=True)).to_be_hidden()
    form.get_by_label("in words, for any body").check()
    expect(form.get_by_label("Family of instructions")).to_be_hidden()
    form.get_by_label("Body", exact=True).select_option("lab_arm")
    form.get_by_label("Name", exact=True).fill("Tidy up")
    form.get_by_label("Wordings", exact=True).fill("Push the {object} to the {place}.")
    expect(form.locator(".sentences")).to_contain_text("has the slot {object}, which has no values")
    form.get_by_label("Slots").fill("object: red cup, blue cup\nplace: left tray, bin")
    expect(form.locator(".sentences")).to_contain_text("The 4 sentences")
    expect(form.locator(".sentences li")).to_have_count(4)
    expect(form.locator(".sentences")).to_contain_text("push the red cup to the left tray")
    picture(page, "task_in_words")
    form.get_by_role("button", name="Make task").click()
    expect(form.locator(".field.bad")).to_contain_text("Say after how many steps an attempt ends")
    expect(form.get_by_label("Wordings", exact=True)).to_be_visible()
    form.get_by_label("Time limit").fill("60")
    form.get_by_role("button", name="Make task").click()
    expect(page.locator("#tidy-up")).to_contain_text("in words, for lab_arm")
    picture(page, "tasks_with_words")


def test_the_stations_page_shows_its_body(page, arm, picture):
    page.goto(f"{LAB}/stations/own-arm")
    facts = page.locator("#body")
    expect(facts.get_by_text("delta_x", exact=True)).to_be_hidden()
    facts.get_by_text("Body: lab_arm").click()
    expect(facts.get_by_text("delta_x", exact=True)).to_be_visible()
    expect(facts.get_by_text("ee_x", exact=True)).to_be_hidden()
    facts.get_by_text("observation.state").click()
    expect(facts.get_by_text("ee_x", exact=True)).to_be_visible()
    picture(page, "station_body")


def test_the_robot_is_told_the_words_of_the_task_that_it_is_assigned(page, arm, picture, tmp_path):
    family = next(row for row in api(page, "GET", "tasks")["items"] if row["slug"] == "tidy-up")["family"]
    table = collect_demonstrations(["block2block"], 8, 1)
    file = tmp_path / "arm.safetensors"
    write_episodes(file, [replace(each, embodiment="lab_arm", body=ARM, task=family) for each in table])
    page.goto(f"{LAB}/datasets/")
    page.locator("#upload").get_by_label("Name").fill("By hand")
    page.locator("#upload").get_by_label("File").set_input_files(file)
    page.locator("#upload").get_by_role("button", name="Upload").click()
    expect(page.locator("#datasets tr").first).to_contain_text("Tidy up")
    picture(page, "datasets_own_body")
    dataset = api(page, "GET", "datasets")["items"][0]
    assert (dataset["name"], dataset["embodiment"]) == ("By hand", "lab_arm")
    recipe = {"steps": 40, "grounding_steps": 20, "hidden": 32, "validate_every": 20, "largest_threshold": 0.0}
    run = api(page, "POST", "runs", {"kind": "sft", "name": "taught", "dataset": dataset["id"], "recipe": recipe})["id"]
    deadline = time.monotonic() + 180
    while (found := api(page, "GET", f"runs/{run}"))["state"] not in ("completed", "failed"):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    assert found["state"] == "completed", found["error"]
    page.goto(f"{LAB}/tasks/")
    assign = page.locator("#assign")
    assign.get_by_label("Task", exact=True).select_option(label="Tidy up")
    assign.get_by_label("Station 1").uncheck()
    assign.get_by_label("Own arm").check()
    assign.get_by_role("button", name="Assign").click()
    assert arm.told.wait(120), arm.orders.waiting_reason
    assert arm.orders.task.title == "Tidy up" and arm.orders.task.time_limit_steps == 60
    assert set(arm.orders.task.grammar.named["object"]) == {"red cup", "blue cup"}
    # New words reach it while it has the task.
    arm.told.clear()
    page.goto(f"{LAB}/tasks/tidy-up/edit#task")
    page.get_by_label("Wordings", exact=True).fill("fetch the {object}\nbring the {object} to the {place}")
    page.get_by_role("button", name="Save task").click()
    assert arm.told.wait(60)
    assert "fetch the {object}" in arm.orders.task.grammar.templates

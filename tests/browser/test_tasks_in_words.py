"""A manager types a task in words for the lab's own robot; a policy is trained for it, and the robot gets the words."""

import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import expect

from robots.demonstrators import collect_demonstrations
from robots.episodes import write_episodes
from robots.link import Link, LinkThread
from robots.orders import Orders
from robots.protocol import Assignment, Hello, Telemetry
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.conftest import own_place, start_fleet

LAB = "/labs/main"
WAIT_MS = 60_000
# Nobody here knows this body; that its shapes are those of a table spares the test a simulator of its own.
ARM = replace(LANGUAGE_TABLE, name="lab_arm")


class OwnArm:
    """A robot of the lab's own at the link, which reads what it is told and moves nothing."""

    def __init__(self, server, token, folder):
        hello = Hello(embodiment=ARM.to_json(), software="test", renderer="camera")
        self.links, self.arrived = LinkThread(), threading.Event()
        self.link = Link(server, token, hello, folder, name="arm", arrived=self.arrived.set)
        self.orders, self.ending = Orders(ARM), False
        self.told = threading.Event()
        self.links.add(self.link)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.ending:
            for message, _ in self.link.received():
                if isinstance(message, Assignment):
                    self.orders.take(message)
                    self.orders.read_task()
                    if self.orders.task is not None:
                        self.told.set()
            self.link.show(Telemetry(state="waiting" if self.told.is_set() else "idle"))
            self.arrived.wait(0.2)
            self.arrived.clear()

    def close(self):
        self.ending = True
        self.thread.join(5)
        self.links.close()


@pytest.fixture(scope="module")
def fleet():
    with own_place() as (data, environment):
        fleet = start_fleet(data, 1, **environment)
        try:
            fleet.wait_until_answering()
            yield fleet
        finally:
            status = fleet.stop()
        assert status == 0, f"The fleet did not end cleanly:\n{fleet.output.read_text()}"


@pytest.fixture(scope="module")
def page(fleet, browser):
    """The manager's."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}, base_url=fleet.url).new_page()
    page.set_default_timeout(WAIT_MS)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("/login")
    page.get_by_label("User name").fill(fleet.logins["manager"]["username"])
    page.get_by_label("Password").fill(fleet.logins["manager"]["password"])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"**{LAB}/")
    yield page
    page.context.close()
    assert errors == []


@pytest.fixture(scope="module")
def arm(fleet, page, picture):
    page.goto(f"{LAB}/stations/new")
    page.get_by_label("Name").fill("Own arm")
    page.get_by_label("a real robot").check()
    expect(page.get_by_label("World")).to_be_hidden()
    expect(page.get_by_label("Embodiment")).to_have_value("")
    picture(page, "new_station_real")
    page.get_by_role("button", name="Add").click()
    token = page.inner_text("#token")
    with tempfile.TemporaryDirectory() as folder:
        station = OwnArm(fleet.url, token, Path(folder))
        expect(page.locator("#arrival")).to_contain_text("is connected")
        yield station
        station.close()


@pytest.fixture(scope="module")
def picture(screenshots):
    def take(page, name):
        for theme in ("light", "dark"):
            page.evaluate(
                "theme => { document.documentElement.dataset.theme = theme;"
                " document.dispatchEvent(new Event('themechange')); }",
                theme,
            )
            page.screenshot(path=screenshots / f"{name}_{theme}.png", full_page=True)
        page.evaluate("() => { document.documentElement.dataset.theme = 'light'; }")
        page.set_viewport_size({"width": 390, "height": 844})
        page.screenshot(path=screenshots / f"{name}_phone.png", full_page=True)
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        page.set_viewport_size({"width": 1440, "height": 900})
        assert wide <= 390, f"{name} is {wide} px wide on a phone of 390"

    return take


def fetched(page, path):
    answer = page.request.get(f"/api{LAB}/{path}")
    assert answer.ok, answer.text()
    return answer.json()


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
    family = next(row for row in fetched(page, "tasks")["items"] if row["slug"] == "tidy-up")["family"]
    table = collect_demonstrations(["block2block"], 8, 1)
    file = tmp_path / "arm.safetensors"
    write_episodes(file, [replace(each, embodiment="lab_arm", body=ARM, task=family) for each in table])
    page.goto(f"{LAB}/datasets/")
    page.locator("#upload").get_by_label("Name").fill("By hand")
    page.locator("#upload").get_by_label("File").set_input_files(file)
    page.locator("#upload").get_by_role("button", name="Upload").click()
    expect(page.locator("#datasets tr").first).to_contain_text("Tidy up")
    picture(page, "datasets_own_body")
    dataset = fetched(page, "datasets")["items"][0]
    assert (dataset["name"], dataset["embodiment"]) == ("By hand", "lab_arm")
    recipe = {"steps": 40, "grounding_steps": 20, "hidden": 32, "validate_every": 20, "largest_threshold": 0.0}
    run = launched(page, {"kind": "sft", "name": "taught", "dataset": dataset["id"], "recipe": recipe})
    deadline = time.monotonic() + 180
    while (found := fetched(page, f"runs/{run}"))["state"] not in ("completed", "failed"):
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
    assert arm.told.wait(20)
    assert "fetch the {object}" in arm.orders.task.grammar.templates


def launched(page, body):
    return page.evaluate(
        """async ([url, body]) => {
            const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
            const headers = { "Content-Type": "application/json", "X-CSRFToken": token };
            const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
            if (!answer.ok) throw new Error(await answer.text());
            return (await answer.json()).id;
        }""",
        [f"/api{LAB}/runs", body],
    )

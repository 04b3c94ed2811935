"""A person's time zone in a real browser: its own when first seen, one rule for server and script, and what repeats."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import LAB, log_in
from tests.conftest import WAIT_MS

PASSWORD = "a-long-pass-phrase-42"


@pytest.fixture(scope="module")
def newcomer(running_fleet, browser):
    """A manager whom nobody has seen yet, in a browser that lives in Bogota."""
    inviter = browser.new_context(base_url=running_fleet.url).new_page()
    inviter.set_default_timeout(WAIT_MS)
    log_in(inviter, running_fleet.logins["manager"])
    inviter.goto(f"{LAB}/people")
    inviter.get_by_label("Role").last.select_option("manager")
    inviter.get_by_role("button", name="Make an invitation").click()
    link = re.search(r"http://127\.0\.0\.1:\d+/invitations/[\w-]{43}", inviter.content())[0]
    page = browser.new_context(
        base_url=running_fleet.url, timezone_id="America/Bogota", viewport={"width": 1280, "height": 900}
    ).new_page()
    page.set_default_timeout(WAIT_MS)
    page.script_errors = []
    page.on("pageerror", lambda error: page.script_errors.append(str(error)))
    page.goto(link)
    page.get_by_label("User name").fill("bogota")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    with page.expect_response(lambda answer: answer.url.endswith("/time-zone/seen") and answer.status == 204):
        page.get_by_role("button", name="Make the account and join").click()
    yield page
    page.goto(f"{LAB}/tasks/")
    assert page.script_errors == []
    page.context.close()
    # The fleet is shared: in other files' tests there is one manager.
    inviter.goto(f"{LAB}/people")
    inviter.locator("tr[data-member=bogota]").get_by_role("button", name="Remove").click()
    inviter.get_by_role("button", name="Remove bogota").click()
    expect(inviter.locator("tr[data-member=bogota]")).to_have_count(0)
    inviter.context.close()


def test_the_browsers_zone_is_a_newcomers_and_pages_and_scripts_agree(newcomer, screenshots):
    newcomer.goto("/time-zone")
    expect(newcomer.get_by_label("Your time zone")).to_have_value("America/Bogota")
    newcomer.screenshot(path=screenshots / "time-zone.png")
    newcomer.goto(f"{LAB}/people")
    moment = newcomer.locator("time[datetime]").first
    told = datetime.fromisoformat(moment.get_attribute("datetime")).astimezone(ZoneInfo("America/Bogota"))
    expect(moment).to_have_attribute("title", re.compile(rf"{told:%-d}.*{told.hour % 12 or 12}:{told:%M}:{told:%S}"))


def test_a_person_chooses_another_zone_and_a_start_is_typed_in_it(newcomer, screenshots):
    newcomer.goto("/time-zone")
    newcomer.get_by_label("Your time zone").select_option("Europe/Berlin")
    newcomer.get_by_role("button", name="Save").click()
    expect(newcomer.locator("body")).to_have_attribute("data-zone", "Europe/Berlin")
    newcomer.goto(f"{LAB}/tasks/")
    newcomer.keyboard.press("?")
    expect(newcomer.locator("#keys")).to_contain_text("Times are in Europe/Berlin")
    expect(newcomer.get_by_role("link", name="choose another zone")).to_have_attribute("href", "/time-zone")
    newcomer.keyboard.press("Escape")
    newcomer.get_by_text("Priority, earliest start, repetition").click()
    day = datetime.now(UTC) + timedelta(days=40)
    expect(newcomer.get_by_text("Time in Europe/Berlin (your time zone).")).to_be_visible()
    newcomer.get_by_label("Earliest start").fill(f"{day:%Y-%m-%d}T09:00")
    newcomer.get_by_label("Repeats").select_option("daily")
    newcomer.get_by_role("button", name="Assign", exact=True).click()
    row = newcomer.locator("#waiting tr[data-assignment]", has_text="daily at 09:00 Europe/Berlin")
    expect(row).to_have_count(1)
    newcomer.screenshot(path=screenshots / "queue-edit.png", full_page=True)
    row.get_by_role("link", name="Edit").click()
    expect(newcomer.get_by_label("Earliest start")).to_have_value(f"{day:%Y-%m-%d}T09:00")
    newcomer.screenshot(path=screenshots / "edit-assignment.png", full_page=True)
    newcomer.get_by_label("Earliest start").fill(f"{day:%Y-%m-%d}T10:30")
    newcomer.get_by_role("button", name="Save").click()
    row = newcomer.locator("#waiting tr[data-assignment]", has_text="daily at 10:30 Europe/Berlin")
    expect(row).to_have_count(1)
    newcomer.set_viewport_size({"width": 390, "height": 844})
    newcomer.screenshot(path=screenshots / "queue-edit-390.png", full_page=True)
    newcomer.set_viewport_size({"width": 1280, "height": 900})
    row.get_by_role("button", name="Cancel").click()
    newcomer.get_by_role("button", name="Cancel the assignment").click()
    expect(row).to_have_count(0)
    newcomer.get_by_role("button", name="Stop repeating").click()
    newcomer.locator("#confirm").get_by_role("button", name="Stop repeating").click()
    expect(newcomer.get_by_role("heading", name="Repeating")).to_have_count(0)
    newcomer.goto("/time-zone")
    newcomer.get_by_label("Your time zone").select_option("America/Bogota")
    newcomer.get_by_role("button", name="Save").click()
    expect(newcomer.locator("body")).to_have_attribute("data-zone", "America/Bogota")


def test_a_tasks_rules_are_the_forms(newcomer, screenshots):
    newcomer.goto(f"{LAB}/tasks/block2block/edit#task")
    box = newcomer.get_by_label("Reset before each attempt")
    expect(box).not_to_be_checked()
    field = newcomer.get_by_label("Stalled after")
    assert (field.get_attribute("min"), field.get_attribute("max")) == ("1", "10000")
    newcomer.screenshot(path=screenshots / "task-rules.png", full_page=True)
    field.fill("0")
    newcomer.get_by_role("button", name="Save task").click()
    said = "“Stalled after” must be a whole number from 1 to 10000 steps, or empty."
    expect(newcomer.locator(".error[role=alert]")).to_have_text(said)  # beside the field ...
    expect(newcomer.locator("#problems")).to_contain_text(said)  # ... and on top of the page

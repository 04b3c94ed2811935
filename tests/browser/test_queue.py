"""The lab manager's queue in a real browser: the form, the order by drag, by buttons and by keys, and what is live."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import api, nothing_sticks_out

LAB = "/labs/main"


@pytest.fixture(scope="module")
def page(opened):
    """The manager's."""
    return opened("manager")


def order(page):
    return [int(row.get_attribute("data-assignment")) for row in page.locator("#waiting tr[data-assignment]").all()]


def expect_order(page, wanted):
    for place, number in enumerate(wanted):
        row = page.locator("#waiting tr[data-assignment]").nth(place)
        expect(row).to_have_attribute("data-assignment", str(number))
    assert [row["id"] for row in api(page, "GET", "assignments")["items"] if row["ended_at"] is None] == wanted


@pytest.fixture(autouse=True)
def at_the_queue(page):
    """Each test begins at an empty queue and leaves one; other files' tests use the same fleet."""
    page.goto(f"{LAB}/tasks/")
    yield
    for row in api(page, "GET", "assignments")["items"]:
        if row["ended_at"] is None:
            api(page, "DELETE", f"assignments/{row['id']}")


@pytest.fixture
def three(page):
    """Three that wait for a person's run, made elsewhere while the page is open."""
    return [
        api(page, "POST", "assignments", {"task": task, "stations": stations, "episodes": 100})["id"]
        for task, stations in (
            ("block2block", ["station-1"]),
            ("block-to-place", ["station-2"]),
            ("block2block", ["station-1", "station-2"]),
        )
    ]


def test_the_form_shows_what_matters_and_says_what_is_missing(page, screenshots):
    expect(page.locator("#queue")).to_contain_text("Nothing is assigned")
    page.screenshot(path=screenshots / "queue_empty.png", full_page=True)
    page.get_by_role("link", name="Assign a task").click()
    form = page.locator("#assign form")
    expect(form.get_by_label("How many")).to_be_hidden()
    form.get_by_label("any that fit the task").check()
    expect(form.get_by_label("How many")).to_be_visible()
    expect(form.get_by_label("Station 1")).to_be_hidden()
    expect(form.get_by_label("How much")).to_be_hidden()
    form.get_by_label("Until").select_option("hours")
    form.get_by_label("How much").fill("2")
    form.get_by_role("button", name="Assign").click()
    expect(form.get_by_role("alert")).to_contain_text("Say how many stations it shall have.")
    expect(form.get_by_label("How much")).to_have_value("2")
    form.get_by_label("How many").fill("1")
    form.get_by_text("Priority, earliest start, repetition").click()
    form.get_by_label("Priority").select_option("high")
    if (policy := form.get_by_label("Practise with")).count():  # where other files' tests have trained one
        policy.select_option(label="nothing yet: a person launches a run later")
    form.get_by_role("button", name="Assign").click()
    expect(page.locator("#toasts")).to_contain_text("in the queue; queued: waits for a person to launch a run")
    row = page.locator("#waiting tr[data-assignment]")
    expect(row).to_contain_text("high priority")
    expect(row).to_contain_text("any 1")
    expect(row).to_contain_text("2 h")


def test_cancel_asks_once_and_is_at_once(page):
    api(page, "POST", "assignments", {"task": "block2block", "any": 1, "hours": 2})
    page.locator("#waiting").get_by_role("button", name="Cancel").click()
    expect(page.locator("#confirm")).to_contain_text("Cancel the assignment of")
    page.get_by_role("button", name="Go back").click()
    expect(page.locator("#waiting tr[data-assignment]")).to_have_count(1)
    page.locator("#waiting").get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the assignment").click()
    expect(page.locator("#queue")).to_contain_text("Nothing is assigned")
    page.locator("#ended > summary").click()
    expect(page.locator("#ended")).to_contain_text("Canceled by manager.")


def test_what_others_assign_appears_by_itself(page, three, screenshots):
    expect(page.locator("#waiting tr[data-assignment]")).to_have_count(3)
    expect_order(page, three)
    expect(page.locator("#waiting")).to_contain_text("Waits for a person to launch a run for it", ignore_case=True)
    page.screenshot(path=screenshots / "queue.png", full_page=True)


def test_reorder_by_drag(page, three, screenshots):
    one, two, last = three
    row = lambda number: page.locator(f"tr[data-assignment='{number}']")  # noqa: E731
    row(last).locator(".grip").drag_to(row(one), target_position={"x": 300, "y": 3})
    expect_order(page, [last, one, two])
    height = row(two).bounding_box()["height"]
    row(last).locator(".grip").drag_to(row(two), target_position={"x": 300, "y": height - 3})
    expect_order(page, [one, two, last])
    page.reload()
    assert order(page) == [one, two, last]


def test_reorder_by_keyboard_keeps_the_focus(page, three):
    one, two, last = three
    up = page.locator(f"[data-key='up-{last}']")
    up.focus()
    page.keyboard.press("Enter")
    expect_order(page, [one, last, two])
    expect(up).to_be_focused()
    page.keyboard.press("Alt+ArrowUp")
    expect_order(page, [last, one, two])
    expect(up).to_be_disabled()  # at the top: the focus stays in its row
    assert page.evaluate("document.activeElement.closest('tr')?.dataset.assignment") == str(last)
    page.keyboard.press("Alt+ArrowDown")
    expect_order(page, [one, last, two])
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_contain_text("Move the assignment whose row has the focus up")
    page.keyboard.press("Escape")


def test_a_move_that_came_too_late_is_said(page, three):
    one, *_ = three
    expect(page.locator(f"[data-key='down-{one}']")).to_be_visible()
    page.route("**/tasks/queue", lambda route: route.abort())  # the page doesn't hear of the cancellation
    api(page, "DELETE", f"assignments/{one}")
    page.locator(f"[data-key='down-{one}']").click()
    expect(page.locator("#toasts")).to_contain_text("is not waiting any more")
    page.unroute("**/tasks/queue")
    expect(page.locator(f"tr[data-assignment='{one}']")).to_have_count(0)


def test_a_task_is_edited_and_the_page_fits_a_phone(page, screenshots):
    page.locator("#block-to-place").get_by_role("link", name="Edit").click()
    expect(page.get_by_label("It resets itself after")).to_be_hidden()
    page.get_by_label("Who resets").select_option("self")
    page.get_by_label("It resets itself after").fill("2.5")
    page.get_by_label("Stalled after").fill("25")
    page.get_by_role("button", name="Save task").click()
    expect(page.locator("#block-to-place")).to_contain_text("itself, after 2.5 s")
    expect(page.locator("#block-to-place")).to_contain_text("or 25 steps without progress")
    page.locator("#block-to-place").get_by_role("link", name="Edit").click()
    page.get_by_label("Who resets").select_option("")
    page.get_by_label("It resets itself after").evaluate("field => { field.value = ''; }")
    page.get_by_label("Stalled after").fill("")
    page.get_by_role("button", name="Save task").click()
    expect(page.locator("#block-to-place")).not_to_contain_text("itself, after")
    page.set_viewport_size({"width": 390, "height": 844})
    nothing_sticks_out(page, 390)
    page.screenshot(path=screenshots / "queue_390.png", full_page=True)
    page.set_viewport_size({"width": 1440, "height": 900})
    page.locator("#theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", re.compile("dark|light"))
    page.screenshot(path=screenshots / "queue_dark.png", full_page=True)

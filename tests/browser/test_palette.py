"""Ctrl+K and the navigation in a real browser, on pages that know nothing of the wall."""

import pytest
from playwright.sync_api import expect

LAB = "/labs/main"


@pytest.fixture(scope="module")
def manager(opened):
    return opened("manager")


def find(page, words):
    page.keyboard.press("Control+k")
    page.keyboard.type(words)


def test_ctrl_k_goes_to_pages_datasets_people_and_acts(manager, picture):
    manager.goto(f"{LAB}/runs/")
    manager.wait_for_load_state()
    for words, url in (
        ("audit", f"**{LAB}/audit"),
        ("first demonstrations", f"**{LAB}/datasets/*/"),
        ("supervisor", f"**{LAB}/people#member-*"),
        ("make a task", f"**{LAB}/tasks/#task"),
        ("station 2", f"**{LAB}/stations/station-2"),
    ):
        find(manager, words)
        manager.keyboard.press("Enter")  # at once: what an older word had found must not be taken
        manager.wait_for_url(url)
        manager.wait_for_load_state()
    manager.goto(f"{LAB}/tasks/#task")
    expect(manager.locator("#task")).to_have_attribute("open", "")
    manager.goto(f"{LAB}/runs/")
    find(manager, "st")
    expect(manager.locator("#palette li").first).to_be_visible()
    picture(manager, "palette")
    manager.keyboard.press("Escape")


def test_the_stop_of_all_is_an_act_of_every_page_and_the_navigation_counts_the_calls(manager, opened, picture):
    other = opened("supervisor")
    other.goto(f"{LAB}/episodes/")
    count = other.locator("#help-count")
    expect(count).to_be_hidden()
    manager.goto(f"{LAB}/runs/")
    find(manager, "software stop of all")
    expect(manager.locator("#palette li").first).to_contain_text("Software stop of all stations")
    manager.keyboard.press("Enter")
    expect(manager.locator("#toasts")).to_contain_text("Software stop")
    expect(count).to_have_text("2 open")
    assert other.evaluate("() => performance.getEntriesByType('navigation').length") == 1
    picture(other, "episodes_counted")
    for path, body in (("clear_stops", {"reason": "a test"}), ("resume", {})):
        token = manager.evaluate("() => document.cookie.match(/csrftoken=([^;]+)/)[1]")
        answer = manager.request.post(
            f"/api{LAB}/{path}",
            data={"stations": ["station-1", "station-2"], **body},
            headers={"X-CSRFToken": token},
        )
        assert answer.ok, answer.text()
    expect(count).to_be_hidden(timeout=10_000)

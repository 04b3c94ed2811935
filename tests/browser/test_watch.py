"""The supervisor's queue in a real browser: a stopped station calls, one person takes it, the call closes by itself."""

import re

import pytest
from playwright.sync_api import expect

LAB = "/labs/main"


@pytest.fixture(scope="module")
def supervisor(opened):
    return opened("supervisor")


@pytest.fixture(scope="module")
def manager(opened):
    return opened("manager")


@pytest.fixture
def called(supervisor):
    """The name and the page of a station that was stopped, and calls for it. Afterwards it goes on."""
    supervisor.goto(f"{LAB}/")
    card = supervisor.locator("article.card[data-station=station-1]")
    expect(card.locator("a.name")).to_have_text(re.compile("Station 1"))
    name, link = "Station 1", card.locator("a.name").get_attribute("href")
    supervisor.goto(link)
    supervisor.locator("#stop").click()
    expect(supervisor.locator("#clear-stop")).to_be_visible()
    yield name, link
    token = supervisor.evaluate("() => document.cookie.match(/csrftoken=([^;]+)/)[1]")
    for path, body in (("clear_stops", {"reason": "a test"}), ("resume", {})):
        answer = supervisor.request.post(
            f"/api{LAB}/{path}", data={"stations": ["station-1"], **body}, headers={"X-CSRFToken": token}
        )
        assert answer.ok, answer.text()
    supervisor.goto(f"{LAB}/attention/")
    expect(supervisor.locator("#requests tr[id^=help-]")).to_have_count(0)


def take(supervisor, name):
    supervisor.goto(f"{LAB}/attention/")
    supervisor.locator("tr", has_text=name).first.get_by_role("button", name="Take it").click()
    expect(supervisor.locator("tr", has_text=name).first).to_contain_text("taken by supervisor")


def test_a_stopped_station_calls_on_everybodys_wall_and_one_person_takes_it(supervisor, manager, called, picture):
    name, _ = called
    for page in (supervisor, manager):
        page.goto(f"{LAB}/")
    calls = supervisor.locator("#attention article.card", has_text=name)
    expect(calls.locator(".severity")).to_have_text("error")
    calls.get_by_role("button", name="I take it").click()
    expect(calls.locator('[data-f="call-who"]')).to_contain_text("taken by supervisor")
    seen = manager.locator("#attention article.card", has_text=name)
    expect(seen.locator('[data-f="call-who"]')).to_contain_text("taken by supervisor")
    expect(seen.get_by_role("button", name="I take it")).to_be_hidden()
    picture(supervisor, "wall_calls")


def test_the_attention_page_says_who_is_on_the_way_and_lets_it_go(supervisor, called, picture):
    name, _ = called
    take(supervisor, name)
    row = supervisor.locator("tr", has_text=name).first
    expect(row).to_contain_text("taken by supervisor")
    expect(row).to_contain_text("Check that the workspace is clear")
    picture(supervisor, "attention")
    row.get_by_role("button", name="Give it back").click()
    row = supervisor.locator("tr", has_text=name).first
    expect(row.get_by_role("button", name="Take it")).to_be_visible()


def test_the_attention_page_follows_without_a_reload(supervisor, manager, called):
    """What the events made of the page is what a fresh one shows."""
    name, _ = called
    take(supervisor, name)
    manager.goto(f"{LAB}/attention/")
    supervisor.goto(f"{LAB}/attention/")
    manager.evaluate("() => { window.same_page = true; }")
    for act, seen in (("Give it back", "seen by supervisor"), ("Take it", "taken by supervisor")):
        supervisor.locator("tr", has_text=name).first.get_by_role("button", name=act).click()
        expect(manager.locator("tr", has_text=name).first).to_contain_text(seen)
    assert manager.evaluate("() => window.same_page")
    followed = manager.locator("#requests").inner_text()
    manager.reload()
    expect(manager.locator("#requests")).to_have_text(re.compile(r"taken by\s+supervisor"))
    since = re.compile(r"\b(now|\d+ (s|min) ago)")
    assert since.sub("", followed) == since.sub("", manager.locator("#requests").inner_text())


def test_a_sound_is_kept_for_this_browser_and_a_refused_notification_said(supervisor):
    supervisor.goto(f"{LAB}/attention/")
    supervisor.get_by_label("Play a sound when a station needs a person").check()
    supervisor.get_by_label("Show a notification").click()
    expect(supervisor.locator("#alert-said")).to_contain_text("does not allow notifications")
    supervisor.reload()
    expect(supervisor.get_by_label("Play a sound when a station needs a person")).to_be_checked()
    expect(supervisor.get_by_label("Show a notification")).not_to_be_checked()


def test_a_manager_says_who_is_told_and_the_secret_is_not_shown_again(supervisor, manager, picture):
    manager.goto(f"{LAB}/attention/")
    manager.get_by_text("Add a contact").click()
    manager.get_by_label("Name", exact=True).fill("Night shift")
    manager.get_by_label("Address", exact=True).fill("nonsense")
    manager.get_by_role("button", name="Add").click()
    expect(manager.get_by_role("alert").filter(has_text="can't be sent")).to_be_visible()
    manager.get_by_label("Address", exact=True).fill("json://ann:secret@localhost:9/hook")
    manager.get_by_role("button", name="Add").click()
    expect(manager.locator("main")).to_contain_text("Night shift")
    assert "secret" not in manager.content()
    manager.get_by_role("button", name="Send a test").click()
    expect(manager.locator("main")).to_contain_text("The message was not accepted")
    picture(manager, "attention_contacts")
    supervisor.goto(f"{LAB}/attention/")
    expect(supervisor.get_by_text("Add a contact")).to_have_count(0)
    manager.get_by_role("button", name="Remove").click()
    manager.locator("#confirm [value=yes]").click()
    expect(manager.locator("main")).to_contain_text("Nobody is told")


def test_the_call_closes_once_the_stop_is_cleared_and_the_effort_counts(supervisor, called, picture):
    name, link = called
    supervisor.goto(link)
    supervisor.locator("#clear-stop").click()
    reason = supervisor.locator("dialog[open] input, dialog[open] textarea").first
    reason.fill("nobody is near it")
    reason.press("Enter")
    expect(supervisor.locator("#clear-stop")).to_be_hidden()
    supervisor.goto(f"{LAB}/attention/")
    closed = supervisor.locator("section", has=supervisor.get_by_role("heading", name="Closed"))
    expect(closed.locator("tr", has_text=name).first).to_contain_text(re.compile("clear.stop.*supervisor", re.S))
    supervisor.get_by_role("link", name="Effort and planner").click()
    expect(supervisor.locator("main")).to_contain_text("By operator")
    expect(supervisor.locator("tr", has_text="supervisor").first).to_be_visible()
    supervisor.get_by_label("Interventions per robot-hour").fill("2")
    supervisor.get_by_label("Seconds per intervention").fill("8")
    supervisor.get_by_role("button", name="Compute").click()
    expect(supervisor.locator("main")).to_contain_text("112 stations")
    picture(supervisor, "effort")
    supervisor.goto(link)
    supervisor.locator('[data-command="resume"]').click()


def test_new_needs_show_and_are_announced_while_somebody_closes_one_by_hand(supervisor, manager, picture):
    for page in (supervisor, manager):
        page.goto(f"{LAB}/attention/")
    manager.goto(f"{LAB}/stations/station-1")
    manager.locator("#stop").click()
    rows = supervisor.locator("#requests tr[id^=help-]")
    expect(rows).to_have_count(1)
    supervisor.get_by_role("link", name="Close by hand").click()
    dialog = supervisor.locator("#close-help")
    expect(dialog).to_contain_text("Close the request of Station 1 by hand?")
    field = supervisor.get_by_label("What came of it")
    assert field.bounding_box()["width"] > 300
    field.fill("I looked: all is well")
    picture(supervisor, "attention_closing")
    manager.goto(f"{LAB}/stations/station-2")
    manager.locator("#stop").click()
    expect(rows).to_have_count(2)  # the list goes on beside the form
    expect(supervisor.locator("#new-needs")).to_have_text(re.compile("A person is needed. Station 2: .*stopped"))
    expect(dialog).to_contain_text(re.compile("New since: Station 2: .*stopped"))
    expect(field).to_have_value("I looked: all is well")
    expect(field).to_be_focused()
    field.press("Enter")
    expect(supervisor.locator("#toasts")).to_contain_text("Station 1: closed.")
    expect(rows).to_have_count(1)
    # Without JavaScript the link opens the same form beside the list.
    number = rows.first.get_attribute("id").removeprefix("help-")
    answer = supervisor.request.get(f"{LAB}/attention/?close={number}").text()
    assert re.search(rf'<dialog id="close-help"[^>]* open>.*action="[^"]*/attention/{number}/close"', answer, re.S)
    for name in ("station-1", "station-2"):
        manager.goto(f"{LAB}/stations/{name}")
        manager.locator("#clear-stop").click()
        manager.get_by_label("Reason").fill("it was a test")
        manager.keyboard.press("Enter")
        expect(manager.locator("#clear-stop")).to_be_hidden()
        manager.locator('[data-command="resume"]').click()

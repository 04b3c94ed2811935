"""The page of one's access tokens, in a real browser: made, shown once, used, revoked; and a form filled wrong."""

import httpx
from playwright.sync_api import expect

from tests.browser.conftest import LAB
from tests.browser.test_usable_by_everyone import violations


def looked_at(page, picture, name):
    picture(page, name)
    found = violations(page)
    assert not found, "\n".join([name, *found])


def test_a_token_is_made_shown_once_used_and_revoked(running_fleet, opened, picture):
    page = opened("supervisor")
    page.get_by_role("link", name="supervisor").click()
    looked_at(page, picture, "account_password")
    page.get_by_role("link", name="Access tokens").click()
    expect(page.get_by_text("You have none")).to_be_visible()
    looked_at(page, picture, "access_tokens_none")

    page.get_by_label("Name").fill("")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_text("This field is required")).to_have_count(2)  # on top, and at the field
    looked_at(page, picture, "access_tokens_refused")

    page.get_by_label("Name").fill("stop button at the door")
    page.get_by_label("stations: stop and command").check()
    page.get_by_label("Days until it expires").fill("10")
    page.get_by_role("button", name="Make it").click()
    token = page.locator("#token").inner_text()
    assert token.startswith("fleet_") and page.get_by_role("button", name="Copy").is_visible()
    expect(page.locator("tbody tr").first).to_contain_text("never")
    looked_at(page, picture, "access_tokens_made")

    def ask():
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{running_fleet.url}/api{LAB}/stations", headers=headers).status_code

    assert ask() == 200
    page.goto("/access-tokens")
    assert token not in page.content()
    expect(page.locator("tbody tr").first).to_contain_text("read, stations")
    page.get_by_role("button", name="Revoke stop button at the door").click()
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_text("is revoked: it opens nothing any more")).to_be_visible()
    assert ask() == 401
    looked_at(page, picture, "access_tokens_revoked")


def test_it_is_found_by_the_palette(opened):
    page = opened("researcher")
    page.keyboard.press("Control+k")
    page.get_by_label("Jump to").fill("access tokens")
    page.get_by_role("option", name="Your access tokens").click()
    page.wait_for_url("**/access-tokens")

"""A station is archived while it is connected: it leaves every open wall, its connection ends, and both come back."""

import pytest
from playwright.sync_api import expect

LAB = "/labs/main"


@pytest.fixture(scope="module")
def manager(opened):
    return opened("manager")


def test_an_archived_station_leaves_open_walls_and_comes_back_by_itself(manager, opened, picture):
    other = opened("supervisor")
    other.goto(f"{LAB}/")
    card = other.locator("article.card[data-station=station-2]")
    expect(card).to_contain_text("Idle")
    manager.goto(f"{LAB}/stations/station-2")
    manager.get_by_text("Archive it", exact=True).click()
    manager.get_by_role("button", name="Archive", exact=True).click()
    expect(manager.locator("#confirm")).to_contain_text("Archive Station 2?")
    manager.get_by_role("button", name="Archive Station 2").click()
    expect(manager.locator("#toasts")).to_contain_text("Station 2 is archived.")
    expect(card).to_have_count(0)
    archived = manager.request.get(f"/api{LAB}/stations?archived=true").json()["items"]
    assert "station-2" in [row["slug"] for row in archived]
    other.wait_for_function(
        """() => fetch('/api/labs/main/stations/station-2').then((answer) => answer.json())
          .then((card) => card.connected === false)"""
    )
    manager.goto(f"{LAB}/stations/")
    manager.locator("#archived summary").click()
    picture(manager, "stations_archived")
    row = manager.locator("#archived tr", has_text="Station 2")  # other files' tests archive some, too
    row.get_by_role("button", name="Delete").click()
    expect(manager.locator("#confirm")).to_contain_text("Delete Station 2 for good?")
    manager.get_by_role("button", name="Go back").click()
    row.get_by_role("button", name="Bring back").click()
    expect(manager.locator("#toasts")).to_contain_text("Station 2 is back.")
    expect(card).to_contain_text("Idle")  # on the wall that was open all the time


def test_the_lists_of_datasets_and_runs_have_the_acts(manager, picture):
    manager.goto(f"{LAB}/datasets/")
    expect(manager.locator("tbody")).to_contain_text("Ready", timeout=90_000)
    manager.reload()
    first = manager.locator("tr", has_text="First demonstrations")  # there may be those of other files' tests
    manager.locator("#datasets").locator(first).get_by_role("button", name="Archive").click()
    manager.get_by_role("button", name="Archive First demonstrations").click()
    expect(manager.locator("#toasts")).to_contain_text("First demonstrations is archived.")
    manager.locator("#archived summary").click()
    picture(manager, "datasets_archived")
    manager.locator("#archived").locator(first).get_by_role("button", name="Bring back").click()
    expect(manager.locator("#datasets")).to_contain_text("First demonstrations")

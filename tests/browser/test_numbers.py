"""Numbers that stand in two places must be the same in both, and keep being true while the page is open."""

import re

import pytest
from django.templatetags.static import static
from playwright.sync_api import expect

LAB = "/labs/main"


@pytest.fixture(scope="module")
def supervisor(opened):
    return opened("supervisor")


def test_a_share_is_said_alike_by_the_server_and_by_the_browser(supervisor):
    from fleetui.fleet.templatetags.fleet_words import percent

    shares = [k / n for n in (8, 200, 1000) for k in range(n + 1)]
    said = supervisor.evaluate(
        """async ([module, shares]) => {
          const { percent } = await import(module);
          return shares.map((share) => percent(share));
        }""",
        [static("js/format.js"), shares],
    )
    assert percent(93 / 200) == "47 %"
    assert said == [percent(share) for share in shares]


def test_last_heard_of_stays_now_while_the_station_speaks(supervisor):
    supervisor.goto(f"{LAB}/stations/station-1")
    expect(supervisor.locator("body")).to_have_attribute("data-station-state", "idle")
    heard = supervisor.locator("[data-f=heard]")
    supervisor.wait_for_timeout(12_000)
    expect(heard).to_have_text(re.compile(r"^(now|[5-7] s ago)$"))


def test_practice_episodes_learned_from_and_stored_are_told_apart(supervisor):
    said = supervisor.evaluate(
        """async (module) => {
          const { learnedOf } = await import(module);
          return [learnedOf(600, 630), learnedOf(600, 600), learnedOf(0, undefined)];
        }""",
        static("js/format.js"),
    )
    assert said == ["600 of 630 practice episodes", "600 practice episodes", "0 practice episodes"]

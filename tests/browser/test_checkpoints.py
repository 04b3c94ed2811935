"""From a run to its checkpoints and the detector, in a real browser: look, promote, compare, another threshold, spot
checks by keys, the playground while typing.
"""

import json
import re
from urllib.request import Request, urlopen

import numpy as np
import pytest
from playwright.sync_api import expect

from robots.demonstrators import collect_demonstrations
from robots.episodes import episodes_to_bytes
from tests.browser.test_queue import api
from tests.browser.test_usable_by_everyone import violations
from tests.fleetui.lab import make_episode

LAB = "/labs/main"
SLOW_MS = 90_000
SFT = {"steps": 50, "batch": 64, "validate_every": 25, "grounding_steps": 20, "hidden": 32, "largest_threshold": 0}
SFT |= {"evaluation_episodes": 5}


def wait_for(page, found, seconds, said):
    for _ in range(seconds * 2):
        if answer := found():
            return answer
        page.wait_for_timeout(500)
    raise AssertionError(said)


@pytest.fixture
def look(picture):
    """Pictures of a page, on which axe-core finds no violation."""

    def at(page, name):
        picture(page, name)
        found = violations(page)
        assert not found, "\n".join([name, *found])

    return at


@pytest.fixture(scope="module")
def page(opened):
    return opened("manager")


def train(page, dataset, name, seed):
    body = {"kind": "sft", "name": name, "dataset": dataset, "recipe": SFT | {"seed": seed}}
    run = api(page, "POST", "runs", body)["id"]
    ended = lambda: api(page, "GET", f"runs/{run}")["state"] == "completed"  # noqa: E731
    wait_for(page, ended, 150, "The training did not end.")
    return run, {each["role"]: each["id"] for each in api(page, "GET", f"runs/{run}")["checkpoints"]}


@pytest.fixture(scope="module")
def runs(page, running_fleet):
    """Two trainings, and attempts with the first one's policy on a station; people are asked about all detections."""
    page.goto(f"{LAB}/runs/")
    api(page, "PATCH", "tasks/block2block", {"audit_share": 1.0})
    ready = lambda: [row for row in api(page, "GET", "datasets")["items"] if row["state"] == "ready"]  # noqa: E731
    dataset = wait_for(page, ready, 90, "No dataset was ready.")[-1]["id"]
    train(page, dataset, "another training", 5)
    run, kept = train(page, dataset, "a short training", 1)
    page.goto(f"{LAB}/stations/new")
    page.get_by_label("Name").fill("A bench")
    page.get_by_label("a real robot").check()
    page.get_by_label("Embodiment").select_option("language_table")
    page.get_by_role("button", name="Add").click()
    token = page.locator("#token").inner_text()
    (shown,) = collect_demonstrations(["block2block"], 1, seed=3)
    attempts = []
    for end, detected, true in (
        (2, True, None),
        (2, True, None),
        (2, True, True),
        (5, False, False),
        (30, False, True),
    ):
        attempts.append(
            make_episode(
                steps=shown.steps,
                observations=shown.observations,
                actions=shown.actions,
                instruction=shown.instruction,
                steps_to_go=np.linspace(40, end, shown.steps + 1, dtype=np.float32),
                policy=kept["policy"],
                reward_model=kept["reward_model"],
                threshold=2.5,
                ending="detected_success" if detected else "time_limit",
                detected_success=detected,
                true_success=true,
            )
        )
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
    address = f"{running_fleet.url}/api/station/episodes"
    with urlopen(Request(address, episodes_to_bytes(attempts), headers), timeout=30) as answer:
        assert json.load(answer)["stored"] == 5
    yield {"sft": run, **kept}
    page.goto(f"{LAB}/runs/")
    api(page, "PATCH", "stations/a-bench", {"archived": True})
    api(page, "PATCH", "tasks/block2block", {"audit_share": None})


def test_a_checkpoint_is_promoted_compared_and_undone(page, runs, look):
    page.goto(f"{LAB}/runs/{runs['sft']}")
    page.locator("#checkpoints").get_by_role("link", name="policy").click()
    page.wait_for_url("**/checkpoints/*")
    expect(page.get_by_role("heading", level=1)).to_have_text("Policy v0")
    page.get_by_label("Why (others read it)").fill("the first that moves at all")
    page.get_by_role("button", name="Make it the default").click()
    expect(page.locator("#toasts")).to_contain_text("is in force from now on")
    address = page.url
    page.locator("#compare summary").click()
    page.get_by_label("Compared with").select_option(index=1)
    page.get_by_label("Attempts").fill("10")
    page.get_by_role("button", name="Begin").click()
    row = page.locator("#comparisons tbody tr").first
    expect(row).to_contain_text("Completed", timeout=SLOW_MS)
    expect(row).to_contain_text("points")
    look(page, "checkpoint_policy")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.endswith("-policy-v0.safetensors")
    page.goto(f"{LAB}/tasks/")
    expect(page.locator("#assign_parent, #id_parent").first).to_contain_text("the lab's default for language_table")
    look(page, "assign_default")
    page.goto(address)
    page.get_by_role("button", name="Go back to no default").click()
    expect(page.locator("#toasts")).to_contain_text("has no default policy")
    page.goto(f"{LAB}/checkpoints/")
    look(page, "checkpoints")


def test_the_studio_follows_its_slider_and_publishes(page, runs, look):
    page.goto(f"{LAB}/runs/{runs['sft']}")
    page.get_by_role("link", name="Detector studio").click()
    page.wait_for_url(re.compile("/studio"))
    expect(page.locator("#figures")).to_contain_text("the truth is known", timeout=SLOW_MS)
    most = page.locator("#id_s").get_attribute("max")
    page.locator("#id_s").fill(most)  # all is detected then
    expect(page.locator("#say-s")).to_have_text(most)
    expect(page).to_have_url(re.compile(rf"[?&]s={re.escape(most)}"))
    page.locator(".gallery .shot").first.scroll_into_view_if_needed()
    expect(page.locator(".gallery img").first).to_be_visible(timeout=SLOW_MS)
    look(page, "studio")
    page.locator("#id_s").fill("9")
    expect(page.locator("#figures h2").first).to_have_text(re.compile(r"With s = 9"))
    page.locator("#publish").get_by_label("Why").fill("it saw too little")
    expect(page.locator("#publish").get_by_label("s, steps")).to_have_value("9")
    page.get_by_role("button", name="Publish").click()
    expect(page.locator("#toasts")).to_contain_text("judges all that begins from now on")
    expect(page.locator("#publish")).to_contain_text("in force")
    page.locator(".crumb a").last.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Reward model v1")
    look(page, "checkpoint_reward_model")
    page.get_by_role("button", name="Go back to reward model v0").click()
    expect(page.locator("#toasts")).to_contain_text("reward model v0 of a short training is in force again")


def test_spot_checks_are_answered_by_keys(page, runs, look):
    page.goto(f"{LAB}/attention/")
    page.get_by_role("link", name="Spot checks").click()
    page.wait_for_url("**/spot-checks/")
    expect(page.locator("#feed.has-frame")).to_be_visible(timeout=SLOW_MS)
    steps = page.evaluate("() => document.body.dataset.steps")
    expect(page.locator("#where")).to_have_text(f"step {steps} of {steps}")
    look(page, "spot_checks")
    first = page.evaluate("() => document.body.dataset.episode")
    shown = page.locator(f'body[data-episode="{first}"]')
    for key, back in (("n", False), ("u", True), ("y", False), ("u", True), ("s", False)):
        page.keyboard.press(key)
        expect(shown).to_have_count(int(back))
        page.wait_for_load_state()
    page.keyboard.press("y")
    page.wait_for_load_state()
    expect(page.get_by_text("at most").first).to_be_visible()


def test_the_playground_answers_while_one_types(page, runs, look):
    episode = api(page, "GET", "episodes?station=a-bench&limit=1")["items"][0]["uuid"]
    page.goto(f"{LAB}/episodes/{episode}?step=1")
    page.get_by_role("link", name="Playground").click()
    page.wait_for_url("**/playground?**")
    sides = page.locator("[data-side]")
    expect(sides.nth(0)).to_contain_text("Action tokens", timeout=SLOW_MS)
    expect(sides.nth(1)).to_contain_text("steps,")
    before = sides.nth(1).locator(".said").inner_text()
    page.get_by_label("Words").fill("push the yellow heart to the frobnicator")
    expect(sides.nth(1)).to_contain_text("It does not know: frobnicator, heart")
    expect(page).to_have_url(re.compile("frobnicator"))
    assert sides.nth(1).locator(".said").inner_text() or before
    expect(page.locator("#frame img")).to_be_visible(timeout=SLOW_MS)
    look(page, "playground")

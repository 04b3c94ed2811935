"""Each related method is launched by its form, watched on the run's page, on its station's and on the wall, and
canceled there.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import LAB, api, wait_until
from tests.conftest import ROOT
from training.methods.registry import methods

SFT = {"action_head": "gaussian", "steps": 200, "hidden": 32, "largest_threshold": 0.0, "evaluation_episodes": 0}
SFT |= {"chunk": 4, "executed": 2, "validate_every": 100}
SMALL = {"max_steps": 100_000, "publish_every": 100, "evaluate_every": 2, "evaluation_episodes": 5}
FURTHER = {
    "sac": {},
    "kagi": {},
    "scvla": {"head_updates": 50},
    "robofume": {"warm_up": 50, "classifier_updates": 50},
    "medal": {},
}


def add_simulated_station(page, name, world):
    """Made on the page that shows its token: the token."""
    page.goto(f"{LAB}/stations/new")
    page.get_by_label("Name").fill(name)
    page.get_by_label("simulated", exact=True).check()
    page.get_by_label("World").select_option(world)
    page.get_by_role("button", name="Add").click()
    return page.inner_text("#token")


@pytest.fixture(scope="module")
def station(fleet, page, tmp_path_factory):
    """A gripper's table, simulated by a host of its own, as fast as it can."""
    folder = tmp_path_factory.mktemp("gripper")
    token = add_simulated_station(page, "Gripper", "gripper_table")
    tokens = folder / "tokens.json"
    tokens.write_text(json.dumps([{"station": "gripper", "token": token, "world": "gripper_table", "seed": 3}]))
    tokens.chmod(0o600)
    arguments = ["practise", "--server", fleet.url, "--tokens", str(tokens), "--folder", str(folder / "stations")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(folder / "said.txt", "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "training", *arguments], env=environment, stdout=file, stderr=file
        )
    try:
        expect(page.locator("#arrival")).to_contain_text("is connected")
        api(page, "POST", "stations/gripper/command", {"name": "speed", "args": {"value": 0}})
        yield "gripper"
        process.terminate()
        process.wait(60)
        assert "Traceback" not in (folder / "said.txt").read_text()
    finally:
        process.kill()


@pytest.fixture(scope="module")
def parent(page, station):
    """A run that trained a policy of both families, and the task that alternates them."""
    made = api(page, "POST", "datasets", {"name": "Gripper", "families": ["place", "bring_back"], "episodes": 20})
    ready = lambda: api(page, "GET", f"datasets/{made['id']}")["state"] == "ready"  # noqa: E731
    wait_until(ready, "The demonstrations were not made.", 120)
    run = api(page, "POST", "runs", {"kind": "sft", "dataset": made["id"], "recipe": SFT})["id"]
    ended = lambda: api(page, "GET", f"runs/{run}")["state"] == "completed"  # noqa: E731
    wait_until(ended, lambda: f"The training did not end: {api(page, 'GET', f'runs/{run}')}", 180)
    rules = {"alternates": True, "after_failure": "bring_back", "success_by": "sensor", "time_limit_steps": 40}
    rules |= {"resets": "self", "self_reset_after_s": 0}
    api(page, "POST", "tasks", {"name": "Place and back", "family": "place", **rules})
    return run


def fill(page, **values):
    for further in page.locator("details.panel").all():
        further.evaluate("each => { each.open = true; }")
    for name, value in values.items():
        page.locator(f"#id_{name}").fill(str(value))


@pytest.mark.parametrize("kind", list(FURTHER))
def test_a_method_is_launched_watched_and_canceled(page, station, parent, picture, kind):
    method = methods()[kind]
    page.goto(f"{LAB}/runs/new?kind={kind}&parent={parent}")
    expect(page.get_by_role("heading", level=1)).to_have_text(method.title)
    page.locator("#id_task").select_option(label="Place and back")
    page.get_by_label("Gripper", exact=True).check()
    fill(page, **SMALL, **FURTHER[kind])
    picture(page, f"method_{kind}_form")
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url(re.compile(r"/runs/\d+$"))
    address = page.url
    points = lambda number: int(page.get_attribute(f"#curve-{number}", "data-points") or 0)  # noqa: E731
    said = lambda: f"No figure came; the run says: {page.inner_text('main')}"  # noqa: E731
    for number, _ in enumerate(method.curves):
        wait_until(lambda number=number: points(number) > 0, said, 150)
    wait_until(lambda: points(0) > 1, said, 150)  # practice goes on
    picture(page, f"method_{kind}_run")

    page.goto(f"{LAB}/stations/{station}")
    for signal in method.signals:
        row = page.locator(f".signals [data-key={signal.key}]")
        expect(row.locator("dt")).to_have_text(signal.name)
    if kind == "kagi":
        expect(page.locator(".marks g")).to_have_count(2)
    picture(page, f"method_{kind}_station")
    page.goto(f"{LAB}/")
    if method.signals:
        expect(page.locator(f"[data-station={station}] .signals-line")).to_contain_text(method.signals[0].name)
    page.goto(address)
    page.get_by_role("button", name="Cancel run").click()
    page.locator("dialog[open]").get_by_role("button", name=re.compile("^Cancel ")).click()
    expect(page.locator("h1 + [data-f=state]")).to_contain_text("Canceled", timeout=60_000)

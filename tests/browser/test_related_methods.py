"""Each related method is launched by its form, watched on the run's page, on its station's and on the wall, and
canceled there.
"""

import functools
import json
import os
import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from robots.tasks import TASKS
from tests.browser.conftest import LAB, api, wait_until
from tests.conftest import ROOT
from training.methods.registry import methods

SFT = {"action_head": "gaussian", "steps": 200, "hidden": 32, "largest_threshold": 0.0, "evaluation_episodes": 0}
SFT |= {"chunk": 4, "executed": 2, "validate_every": 100}
SMALL = {"max_steps": 100_000, "publish_every": 100, "evaluate_every": 2, "evaluation_episodes": 5}
GRIPPER = ("Gripper", "gripper_table", ["place", "bring_back"])
BACK = {"alternates": True, "after_failure": "bring_back", "success_by": "sensor", "time_limit_steps": 40}
# Of each method: its station, the world, the families that are demonstrated; and the settings of a small run.
METHODS = {
    "sac": (GRIPPER, {}),
    "kagi": (GRIPPER, {}),
    "scvla": (GRIPPER, {"head_updates": 50}),
    "robofume": (GRIPPER, {"warm_up": 50, "classifier_updates": 50}),
    "medal": (GRIPPER, {}),
    "afm": (("Cart", "skid_cart", ["drive_course"]), {"model_updates": 300, "flow_updates": 300, "publish_every": 200}),
    "musel": (
        ("Effects", "push_effects", ["push_effects"]),
        {"max_steps": 2000, "publish_every": 5, "evaluation_episodes": 0},
    ),
    "explore": (("Pusher", "planar_pusher", ["push_right", "push_up"]), {"updates": 20}),
    "mili": (
        ("Hidden", "gripper_hidden", ["hidden_place", "hidden_place_new"]),
        {"only_shown": "hidden_place_new", "embedding_updates": 20, "updates": 50, "publish_every": 300},
    ),
}


def add_simulated_station(page, name, world):
    """Made on the page that shows its token: its entry in a host's file of tokens."""
    page.goto(f"{LAB}/stations/new")
    page.get_by_label("Name").fill(name)
    page.get_by_label("simulated", exact=True).check()
    page.get_by_label("World").select_option(world)
    page.get_by_role("button", name="Add").click()
    return {"station": name.lower(), "token": page.inner_text("#token"), "world": world, "seed": 3}


@pytest.fixture(scope="module")
def stations(fleet, page, tmp_path_factory):
    """One of each world, simulated by a host of their own, as fast as it can."""
    folder = tmp_path_factory.mktemp("worlds")
    wanted = dict.fromkeys((name, world) for (name, world, _), _ in METHODS.values())
    entries = [add_simulated_station(page, *each) for each in wanted]
    tokens = folder / "tokens.json"
    tokens.write_text(json.dumps(entries))
    tokens.chmod(0o600)
    arguments = ["practise", "--server", fleet.url, "--tokens", str(tokens), "--folder", str(folder / "stations")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(folder / "said.txt", "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "training", *arguments], env=environment, stdout=file, stderr=file
        )
    try:
        expect(page.locator("#arrival")).to_contain_text("is connected")
        for entry in entries:
            slug = entry["station"]
            connected = lambda slug=slug: api(page, "GET", f"stations/{slug}")["connected"]  # noqa: E731
            wait_until(connected, f"{slug} did not connect.")
            api(page, "POST", f"stations/{slug}/command", {"name": "speed", "args": {"value": 0}})
        yield
        process.terminate()
        process.wait(60)
        assert "Traceback" not in (folder / "said.txt").read_text()
    finally:
        process.kill()


@pytest.fixture(scope="module")
def made(page, stations):
    """Of a station's world: the dataset, the task, and the run that trained a policy, where a method wants one."""

    @functools.cache
    def prepared(name, families, wants_parent):
        count = 80 if name == "Hidden" else 20
        given = {"name": name, "families": list(families), "episodes": count}
        dataset = api(page, "POST", "datasets", given)["id"]
        ready = lambda: api(page, "GET", f"datasets/{dataset}")["state"] == "ready"  # noqa: E731
        wait_until(ready, "The demonstrations were not made.", 120)
        rules = {"resets": "self", "self_reset_after_s": 0} | (BACK if name == "Gripper" else {})
        limit = {} if name == "Gripper" else {"time_limit_steps": TASKS[families[0]].time_limit_steps}
        task = api(page, "POST", "tasks", {"name": f"Task of {name}", "family": families[0], **limit, **rules})["name"]
        run = None
        if wants_parent:
            run = api(page, "POST", "runs", {"kind": "sft", "dataset": dataset, "recipe": SFT})["id"]
            ended = lambda: api(page, "GET", f"runs/{run}")["state"] == "completed"  # noqa: E731
            wait_until(ended, lambda: f"The training did not end: {api(page, 'GET', f'runs/{run}')}", 180)
        return dataset, task, run

    return prepared


def fill(page, **values):
    for further in page.locator("details.panel").all():
        further.evaluate("each => { each.open = true; }")
    for name, value in values.items():
        if page.locator(f"#id_{name}").count():
            page.locator(f"#id_{name}").fill(str(value))


@pytest.mark.parametrize("kind", list(METHODS))
def test_a_method_is_launched_watched_and_canceled(page, stations, made, picture, kind):
    method, ((name, _, families), further) = methods()[kind], METHODS[kind]
    dataset, task, parent = made(name, tuple(families), "parent" in method.needs)
    page.goto(f"{LAB}/runs/new?kind={kind}&" + (f"parent={parent}" if parent else f"dataset={dataset}"))
    expect(page.get_by_role("heading", level=1)).to_have_text(method.title)
    page.locator("#id_task").select_option(label=task)
    page.get_by_label(name, exact=True).check()
    fill(page, **SMALL | further)
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

    page.goto(f"{LAB}/stations/{name.lower()}")
    for signal in method.signals:
        row = page.locator(f".signals [data-key={signal.key}]")
        expect(row.locator("dt")).to_have_text(signal.name)
    if kind == "kagi":
        expect(page.locator(".marks g")).to_have_count(2)
    picture(page, f"method_{kind}_station")
    page.goto(f"{LAB}/")
    if method.signals:
        expect(page.locator(f"[data-station={name.lower()}] .signals-line")).to_contain_text(method.signals[0].name)
    page.goto(address)
    page.get_by_role("button", name="Cancel run").click()
    page.locator("dialog[open]").get_by_role("button", name=re.compile("^Cancel ")).click()
    expect(page.locator("h1 + [data-f=state]")).to_contain_text("Canceled", timeout=60_000)

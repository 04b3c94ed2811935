"""Two workers of a fleet, as processes of their own: each takes a run; what a killed one had goes on elsewhere."""

import os
import signal
import subprocess
import sys
import time

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import LAB, api, close_page, new_page
from tests.conftest import ROOT, new_fleet

ENDLESS = {"steps": 1_000_000, "passes": 1_000_000, "grounding_steps": 20, "hidden": 32, "largest_threshold": 0}


@pytest.fixture(scope="module")
def fleet():
    with new_fleet(1, FLEETUI_TRAININGS="1") as fleet:
        yield fleet


@pytest.fixture
def researcher(fleet, browser):
    page = new_page(browser, fleet.url, fleet.logins["researcher"])
    yield page
    close_page(page)


@pytest.fixture
def start_second(fleet, tmp_path):
    """Starts another worker on the fleet's data folder."""
    command = [sys.executable, "manage.py", "worker", "--queues", "cpu,gpu", "--name", "second"]
    started, log = [], tmp_path / "second.log"

    def start():
        with open(log, "wb") as output:
            started.append(subprocess.Popen(command, cwd=ROOT, env=fleet.environment, stdout=output, stderr=output))
        until(lambda: " ready." in log.read_text())
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        worker.wait()


def until(ask, seconds=90):
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.2)
    return found


def in_state(page, numbers, state):
    """The runs, once all are in this state."""
    found = [api(page, "GET", f"runs/{number}") for number in numbers]
    return found if all(run["state"] == state for run in found) else None


def test_a_second_worker_takes_what_the_first_is_too_busy_for(researcher, picture, start_second):
    page, main = researcher, os.uname().nodename
    page.goto(f"{LAB}/runs/new?kind=sft")
    expect(page.get_by_text("No worker with a GPU is connected.")).to_be_visible()
    picture(page, "launch_without_gpu")

    second = start_second()
    page.goto(f"{LAB}/runs/")
    page.get_by_role("link", name="Machines").click()
    until(lambda: page.reload() and page.get_by_text("2 connected").is_visible())
    page.goto(f"{LAB}/runs/new?kind=sft")
    expect(page.get_by_label("Machine")).to_be_enabled()
    page.get_by_label("Machine").select_option("gpu")
    expect(page.locator("#estimate")).to_be_visible()

    dataset = api(page, "GET", "datasets")["items"][0]["id"]
    launch = {"kind": "sft", "dataset": dataset}
    numbers = [
        api(page, "POST", "runs", launch | {"name": f"seed {seed}", "recipe": ENDLESS | {"seed": seed}})["id"]
        for seed in (1, 2)
    ]
    runs = until(lambda: in_state(page, numbers, "running"))
    assert sorted(run["worker"] for run in runs) == sorted(["second", main])
    theirs, mine = sorted(runs, key=lambda run: run["worker"] == main)
    page.goto(f"{LAB}/runs/{theirs['id']}")
    expect(page.locator("[data-f=worker]")).to_have_text(", on the worker second")
    picture(page, "run_on_second")
    page.goto(f"{LAB}/machines")
    expect(page.get_by_role("row", name="second")).to_contain_text(theirs["name"])
    expect(page.get_by_role("row", name="the fleet's main one")).to_contain_text(mine["name"])
    picture(page, "machines")

    second.send_signal(signal.SIGKILL)
    api(page, "POST", f"runs/{mine['id']}/cancel")
    again = until(lambda: in_state(page, [theirs["id"]], "running") if has_moved(page, theirs, main) else None)
    assert again[0]["attempt"] == 2
    page.goto(f"{LAB}/machines")
    until(lambda: page.reload() and page.get_by_text("no, last heard").is_visible())
    api(page, "POST", f"runs/{theirs['id']}/cancel")
    until(lambda: in_state(page, numbers, "canceled"))

    second = start_second()  # under the same name, since the other is dead
    until(lambda: page.reload() and page.get_by_text("2 connected").is_visible())
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 0
    until(lambda: page.reload() and page.get_by_role("row", name="second").get_by_text("ended").is_visible())


def has_moved(page, run, worker):
    return api(page, "GET", f"runs/{run['id']}")["worker"] == worker

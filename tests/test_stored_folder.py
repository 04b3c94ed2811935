"""A fleet goes on with the data folder of older code: its people, its runs, its half-done practice, its stations."""

import csv
import json
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import httpx
import numpy as np
import psycopg
import pytest
from playwright.sync_api import expect

from fleetui import embedded
from robots.episodes import read_episodes
from tests.conftest import ROOT, answering, own_place, start_fleet

STORED = Path(__file__).parent / "stored_folder" / "folder.tar.xz"
LAB = "/labs/main"
SFT_RUN, PRACTICE_RUN = 1, 2
EPISODES_THEN = 8  # of the practice run
BUDGET = 20
OLD_WORDS = """
    UPDATE public.fleet_task SET hopeless = 0.002;
    UPDATE public.fleet_episode SET ending = 'hopeless' WHERE uuid = (
        SELECT uuid FROM public.fleet_episode WHERE ending = 'time_limit' ORDER BY uuid LIMIT 1);
"""


@pytest.fixture(scope="module")
def unpacked():
    with own_place() as (data, environment):
        with tarfile.open(STORED) as archive:
            archive.extractall(data, filter="data")
        yield data, environment


@pytest.fixture(scope="module")
def old_tokens(unpacked):
    return (unpacked[0] / "stations.json").read_text()


@pytest.fixture(scope="module")
def fleet(unpacked, old_tokens):
    """Today's `manage.py start` on the old folder and the old database."""
    data, environment = unpacked
    restore_database(data, environment)
    with answering(start_fleet(data, 2, **environment)) as fleet:
        yield fleet


def restore_database(data, environment):
    """The database of then, and in it what the fleet of then could have held besides."""
    sql = (data / "database.sql").read_text() + OLD_WORDS
    if environment:
        with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(sql)
        return
    server = embedded.Postgres(data)
    server.start()
    try:
        place = embedded.database_settings(data, embedded.OWNER)
        address = {"host": place["HOST"], "port": place["PORT"], "user": place["USER"], "dbname": place["NAME"]}
        with psycopg.connect(**address, autocommit=True) as connection:
            connection.execute(sql)
    finally:
        server.stop()


class Person:
    """Logged in with the password of then; `api` asks as a script does."""

    def __init__(self, fleet, role):
        self.http = httpx.Client(base_url=fleet.url, headers={"Origin": fleet.url}, timeout=60)
        self.http.get("/login")
        login = {name: fleet.logins[role][name] for name in ("username", "password")}
        answer = self.http.post("/login", data={**login, "csrfmiddlewaretoken": self.http.cookies["csrftoken"]})
        assert answer.status_code == 302, answer.text

    def api(self, method, path, body=None):
        headers = {"X-CSRFToken": self.http.cookies["csrftoken"]}
        answer = self.http.request(method, f"/api{LAB}/{path}", json=body, headers=headers)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def wait_for(self, path, condition, seconds=240):
        deadline = time.monotonic() + seconds
        while not condition(found := self.api("GET", path)):
            assert time.monotonic() < deadline, f"{path} is still {found}"
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def manager(fleet):
    return Person(fleet, "manager")


@pytest.fixture(scope="module")
def researcher(fleet):
    return Person(fleet, "researcher")


def test_every_page_shows_what_was_there(manager):
    for page, words in {
        "": ["Station 1", "Station 2"],
        "stations/station-1": ["Station 1"],
        "tasks/": ["block", "first training"],
        "tasks/queue": [],
        "datasets/": ["First demonstrations"],
        "runs/": ["first training", "first practice"],
        f"runs/{SFT_RUN}": ["first training"],
        f"runs/{PRACTICE_RUN}": ["first practice"],
        "episodes/": [">correction<", "by a person"],
        "attention/": [],
        "effort/": [],
        "people": ["supervisor", "researcher"],
        "audit": ["it lay there"],
        "charts/": [],
    }.items():
        answer = manager.http.get(f"{LAB}/{page}")
        assert answer.status_code == 200, f"{page}: {answer.status_code}"
        for each in words:
            assert each in answer.text, f"{page} does not say {each!r}"


def test_what_was_renamed_is_kept(manager):
    tasks = manager.api("GET", "tasks")["items"]
    assert tasks and all(task["low_success_probability"] == 0.002 for task in tasks), tasks
    assert manager.api("GET", "episodes?ending=low_success_probability")["count"] == 1
    assert manager.api("GET", "episodes?ending=hopeless")["count"] == 0


def test_what_was_made_knows_its_body(manager):
    assert {task["embodiment"] for task in manager.api("GET", "tasks")["items"]} == {"language_table"}
    assert {row["embodiment"] for row in manager.api("GET", "datasets")["items"]} == {"language_table"}
    assert not [row for row in csv_of(manager, "audit/export.csv") if row["kind"] == "body_changed"]


def test_every_record_is_whole(manager):
    acts = {row["kind"] for row in csv_of(manager, "audit/export.csv")}
    assert {"run_launched", "run_paused", "override", "hand_back", "reset", "relabel", "assigned", "logged_in"} <= acts
    (dataset,) = manager.api("GET", "datasets")["items"]
    assert (dataset["episodes"], dataset["state"]) == (20, "ready")
    episodes = manager.api("GET", "episodes?limit=500")["items"]
    (correction,) = [row for row in episodes if row["purpose"] == "correction"]
    practised = manager.api("GET", f"episodes?run={PRACTICE_RUN}&purpose=practice&limit=500")["items"]
    assert len(practised) >= EPISODES_THEN
    for row in [correction, *practised[-EPISODES_THEN:]]:
        steps = manager.api("GET", f"episodes/{row['uuid']}/steps")
        assert len(steps["actions"]) == row["steps"]
    evaluations = manager.api("GET", f"runs/{PRACTICE_RUN}/metrics?after=0&kind=evaluation")["items"]
    assert evaluations[0]["data"]["successes"] == 3 and evaluations[0]["data"]["n"] == 10


def csv_of(person, path):
    answer = person.http.get(f"{LAB}/{path}")
    assert answer.status_code == 200
    return list(csv.DictReader(answer.text.splitlines()))


def test_a_browser_draws_the_run_and_replays_an_episode(fleet, browser, manager):
    uuid = manager.api("GET", f"episodes?run={PRACTICE_RUN}&purpose=practice&limit=500")["items"][-1]["uuid"]
    context = browser.new_context(base_url=fleet.url)
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(error.stack))
    page.goto("/login")
    page.get_by_label("User name").fill(fleet.logins["supervisor"]["username"])
    page.get_by_label("Password").fill(fleet.logins["supervisor"]["password"])
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("article.card[data-station=station-2]")).to_be_visible()
    page.goto(f"{LAB}/runs/{PRACTICE_RUN}")
    expect(page.locator("h1")).to_contain_text("first practice")
    page.goto(f"{LAB}/episodes/{uuid}?step=3")
    expect(page.locator("#feed")).to_have_attribute("data-step", "3")  # a job renders the pictures
    expect(page.locator("[data-f=actor]")).to_have_text("policy")
    expect(page.locator("[data-f=d]")).not_to_have_text("–")
    context.close()
    assert errors == []


def checkpoint(data, role):
    return data / "runs" / str(SFT_RUN) / "checkpoints" / f"{role}.safetensors"


def test_the_old_reward_model_says_what_it_said(unpacked):
    """d as the station of then recorded it, observation by observation."""
    from training.checkpoints import RewardModel

    data, _ = unpacked
    model = RewardModel.load(checkpoint(data, "reward_model"))
    compared = 0
    for path in sorted((data / "runs" / str(PRACTICE_RUN) / "episodes").glob("*.safetensors"))[:EPISODES_THEN]:
        for episode in read_episodes(path):
            wanted = episode.steps_to_go
            d, _ = model.steps_to_go(episode.observations, [episode.instruction] * (episode.steps + 1))
            np.testing.assert_allclose(d[~np.isnan(wanted)], wanted[~np.isnan(wanted)], atol=1e-2)
            compared += int((~np.isnan(wanted)).sum())
    assert compared > 300


def test_the_old_policy_is_evaluated(unpacked):
    command = [sys.executable, "-m", "training", "evaluate", "--checkpoint", checkpoint(unpacked[0], "policy")]
    done = subprocess.run([*command, "--episodes", "20"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(re.findall(r"^{.*}$", done.stdout, re.MULTILINE)[-1])
    assert result["n"] == 20 and result["successes"] >= 1


def test_practice_goes_on_where_it_was_paused(fleet, manager, researcher, old_tokens):
    """The learner goes on from its state and replay, the stations come with the tokens of then."""
    path = f"runs/{PRACTICE_RUN}"
    before = researcher.wait_for(path, lambda run: run["state"] in ("paused", "failed"))
    assert (before["state"], before["practice_episodes"]) == ("paused", EPISODES_THEN), before["error"]
    newest = max(row["version"] for row in before["checkpoints"])
    assert newest > 0
    assert (fleet.data / "stations.json").read_text() == old_tokens
    researcher.wait_for("stations", lambda rows: all(row["connected"] for row in rows["items"]))
    for row in researcher.api("GET", "stations")["items"]:  # not to wait for what a real arm would take
        manager.api("POST", f"stations/{row['slug']}/command", {"name": "speed", "args": {"value": 0}})
    researcher.api("POST", f"{path}/resume")
    run = researcher.wait_for(path, lambda run: run["state"] in ("completed", "failed"))
    assert run["state"] == "completed", run["error"]
    assert run["practice_episodes"] >= BUDGET
    notes = [row["data"]["text"] for row in researcher.api("GET", f"{path}/metrics?after=0&kind=note")["items"]]
    assert any(re.match(rf"Going on with version {newest}, after \d+ practice episodes", note) for note in notes), notes
    updates = [row["data"]["version"] for row in researcher.api("GET", f"{path}/metrics?after=0&kind=update")["items"]]
    assert updates == list(range(1, updates[-1] + 1)) and updates[-1] > newest, "a version twice, or one left out"
    files = [path.name for path in (fleet.data / "runs" / str(PRACTICE_RUN) / "episodes").iterdir()]
    assert len(files) == len({name[-48:] for name in files}), "an episode was handed in twice"
    # The assignment that had waited all the time gets its stations, and a run from the old checkpoints.
    later = researcher.wait_for("runs", lambda rows: rows["count"] == 3)["items"][0]
    assert later["kind"] == "improve"
    later = researcher.wait_for(f"runs/{later['id']}", lambda run: run["practice_episodes"] or run["state"] == "failed")
    assert later["state"] != "failed", later["error"]

"""Two workers of a fleet, as processes of their own: each takes a run; what a killed one had goes on elsewhere."""

import os
import re
import signal
import subprocess
import sys
import time

import httpx
from fleetui_client import Fleet

from tests.conftest import ROOT, new_fleet
from tests.test_fleet_command import SFT, make_token


def until(ask, seconds=90):
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.2)
    return found


def test_a_second_worker_takes_what_the_first_is_too_busy_for(tmp_path):
    with new_fleet(1, FLEETUI_TRAININGS="1") as fleet, open(tmp_path / "second.log", "wb") as output:
        command = [sys.executable, "manage.py", "worker", "--queues", "cpu", "--name", "second"]
        worker = subprocess.Popen(command, cwd=ROOT, env=fleet.environment, stdout=output, stderr=output)
        try:
            with Fleet(fleet.url, make_token(fleet, "researcher", "read", "launch"), "main") as client:
                dataset = next(iter(client.list_datasets())).id
                recipe = SFT | {"steps": 1_000_000, "passes": 1_000_000, "evaluation_episodes": 0}
                until(lambda: "second" in page_of_machines(fleet))
                runs = [client.launch_run("sft", dataset=dataset, recipe=recipe | {"seed": i}).id for i in (1, 2)]
                has = until(lambda: states(client, runs, "running", "running"))
                assert sorted({run.worker for run in has}) == sorted({"second", os.uname().nodename})
                theirs = next(run for run in has if run.worker == "second")
                mine = next(run for run in has if run.worker != "second")

                worker.send_signal(signal.SIGKILL)
                client.cancel_run(mine.id)
                again = until(lambda: states(client, [theirs.id], "running", worker=mine.worker))
                assert again[0].attempt == 2
                client.cancel_run(theirs.id)
                until(lambda: states(client, runs, "canceled", "canceled"))
        finally:
            worker.kill()
            worker.wait()


def states(client, runs, *wanted, worker=None):
    """The runs, once they are in these states."""
    found = [client.show_run(number) for number in runs]
    there = [run.state for run in found] == list(wanted) and worker in (None, found[0].worker)
    return found if there else None


def page_of_machines(fleet):
    login = fleet.logins["researcher"]
    with httpx.Client(base_url=fleet.url, follow_redirects=True) as page:
        (csrf,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.get("/login").text)[:1]
        fields = {"username": login["username"], "password": login["password"], "csrfmiddlewaretoken": csrf}
        page.post("/login", data=fields, headers={"Referer": fleet.url})
        return page.get("/labs/main/machines").text

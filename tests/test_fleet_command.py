"""The walk of a researcher from a terminal, by the command `fleet` alone, against a fleet as `make run` starts it."""

import json
import os
import re
import stat
import subprocess
import sys
import time

import httpx
import pytest
from fleetui_client import Fleet

from robots.episodes import read_episodes
from tests.conftest import ROOT, free_port

# So few updates make no good policy and no detector, but all that belongs to a run.
SFT = {
    "steps": 200,
    "batch": 64,
    "validate_every": 50,
    "grounding_steps": 20,
    "hidden": 32,
    "evaluation_episodes": 10,
    "largest_threshold": 0,
}
IMPROVE = {"updates_per_round": 1, "batch": 32, "evaluate_every": 1000, "evaluation_episodes": 0, "patience": 0}


def make_token(fleet, role, *scopes, name="terminal"):
    """As that person does it on the page."""
    login = fleet.logins[role]
    with httpx.Client(base_url=fleet.url, follow_redirects=True) as page:

        def post(path, **fields):
            (csrf,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.get(path).text)[:1]
            action = "/access-tokens/make" if path == "/access-tokens" else path
            return page.post(action, data=fields | {"csrfmiddlewaretoken": csrf}, headers={"Referer": fleet.url})

        post("/login", username=login["username"], password=login["password"])
        made = post("/access-tokens", name=name, scopes=scopes, days=1)
        (token,) = re.findall(r"fleet_[0-9a-f]{8}_[\w-]{43}", made.text)
        return token


class Terminal:
    """Types commands, in a folder of its own, with a home of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
        self.environment |= {"XDG_CONFIG_HOME": str(folder / "config"), "COLUMNS": "200", "NO_COLOR": "1"}
        self.environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT / "packaging" / "client"), str(ROOT), os.environ.get("PYTHONPATH")])
        )

    def type(self, *words, code=0, told="", **environment):
        done = subprocess.run(
            [sys.executable, "-m", "fleetui_client", *map(str, words)],
            cwd=self.folder,
            env=self.environment | environment,
            input=told,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, (
            f"fleet {' '.join(map(str, words))}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout if code == 0 else done.stderr

    def ask(self, *words, **more):
        """The JSON of its answer."""
        return json.loads(self.type(*words, "--json", **more))


@pytest.fixture
def terminal(tmp_path):
    return Terminal(tmp_path)


@pytest.fixture
def demonstrations(tmp_path):
    path = tmp_path / "demonstrations.safetensors"
    command = [sys.executable, "-m", "robots", "demonstrate", "--task", "block2block", "--episodes", "12"]
    subprocess.run([*command, "--seed", "5", "--out", str(path)], cwd=ROOT, check=True, capture_output=True)
    return path


def settings(recipe):
    return [word for field, value in recipe.items() for word in ("--set", f"{field}={value}")]


def test_a_researchers_walk_from_a_terminal(running_fleet, terminal, demonstrations, tmp_path):
    token = make_token(running_fleet, "manager", "read", "launch", "data", "stations")

    # log in
    said = terminal.type("login", running_fleet.url, told=f"{token}\n")
    assert "read, launch, data, stations" in said and token not in said
    kept = tmp_path / "config" / "fleet" / "login.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert terminal.ask("whoami")["labs"][0]["role"] == "manager"

    # datasets there and back
    name = f"from a terminal {time.time():.0f}"
    pushed = terminal.ask("datasets", "push", demonstrations, "--name", name)
    assert pushed["episodes"] == 12 and pushed["state"] == "ready"
    assert pushed["id"] in [row["id"] for row in terminal.ask("datasets", "list")]
    assert name in terminal.type("datasets", "list")
    terminal.type("datasets", "pull", pushed["id"], "--to", "back.safetensors")
    assert len(read_episodes(tmp_path / "back.safetensors")) == 12
    assert "exists already" in terminal.type("datasets", "pull", pushed["id"], "--to", "back.safetensors", code=1)

    # two runs, one watched as lines of JSON, and both side by side
    first = terminal.ask("runs", "launch", "sft", "--dataset", pushed["id"], "--name", "one", *settings(SFT))
    lines = [json.loads(line) for line in terminal.type("runs", "watch", first["id"], "--json").splitlines()]
    seqs = [line["metric"]["seq"] for line in lines if "metric" in line]
    assert seqs == sorted(set(seqs)) and len(seqs) > 5
    assert lines[-1]["run"]["state"] == "completed"
    assert {"loss", "evaluation", "done"} <= {line["metric"]["kind"] for line in lines if "metric" in line}
    other = SFT | {"hidden": 16, "evaluation_episodes": 0}
    said = terminal.type("runs", "launch", "sft", "--dataset", pushed["id"], *settings(other), "--watch")
    assert "is completed" in said
    second = terminal.ask("runs", "list", "--limit", "1")[0]
    compared = terminal.ask("runs", "compare", first["id"], second["id"])
    assert compared["differences"]["hidden"] == [32, 16]
    assert compared["runs"][0]["evaluation"]["n"] == 10 and compared["runs"][1]["evaluation"] is None
    assert "recipe: hidden\t32\t16" in terminal.type("runs", "compare", first["id"], second["id"])

    # its weights
    assert {row["role"] for row in terminal.ask("checkpoints", "list", first["id"])} == {"policy", "reward_model"}
    pulled = terminal.ask("checkpoints", "pull", first["id"])
    assert (tmp_path / pulled["file"]).stat().st_size > 1000 and not list(tmp_path.glob("*.part*"))

    # practice on the stations, its episodes, and its end
    stations = [row["slug"] for row in terminal.ask("stations", "list") if row["state"] != "offline"]
    assert stations
    practised = terminal.ask(
        *("runs", "launch", "improve", "--parent", first["id"], "--task", "block2block", *settings(IMPROVE)),
        *[word for each in stations for word in ("--station", each)],
    )
    wait_for_an_episode(running_fleet, token, practised["id"])
    exported = terminal.ask("episodes", "export", "out", "--run", practised["id"], "--limit", "2")
    assert exported["episodes"] == exported["fetched"] >= 1
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert len(files) == exported["fetched"] and all(len(read_episodes(file)) == 1 for file in files)
    index = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert {row["uuid"] for row in index} == {file.stem for file in files}
    assert terminal.ask("runs", "cancel", practised["id"])["state"] in ("canceling", "canceled")
    assert f"Run {practised['id']} is canceled" in terminal.type("runs", "watch", practised["id"], code=1)

    # a stop
    stopped = terminal.ask("stations", "stop", stations[0])
    assert stopped[0]["stations"][0]["outcome"] == "confirmed"
    terminal.type("stations", "stop", "--all")
    assert {row["stop_latched"] for row in terminal.ask("stations", "list")} == {True}
    clear(running_fleet, token, stations)


def wait_for_an_episode(fleet, token, run, seconds=120):
    deadline = time.monotonic() + seconds
    with Fleet(fleet.url, token) as asked:
        for station in asked.list_stations():
            asked.command_station(station.slug, "speed", value=0)
        while not list(asked.list_episodes(run=run)):
            assert time.monotonic() < deadline, f"{asked.show_run(run)} has no episode."
            time.sleep(0.2)


def clear(fleet, token, stations):
    with Fleet(fleet.url, token) as asked:
        for station in stations:
            asked.command_station(station, "clear_stop", reason="a test is over")
            asked.command_station(station, "resume")


def test_exit_codes_say_what_went_wrong(running_fleet, terminal):
    token = make_token(running_fleet, "researcher", "read", name="eyes")
    eyes = {"FLEET_URL": running_fleet.url, "FLEET_TOKEN": token}
    assert "fleet login" in terminal.type("runs", "list", code=4)
    terminal.type("runs", "list", **eyes)
    assert "has no run 99999" in terminal.type("runs", "watch", 99999, code=1, **eyes)
    assert "made for read" in terminal.type("stations", "stop", "--all", code=4, **eyes)
    wrong = eyes | {"FLEET_TOKEN": "fleet_00000000_wrong"}
    assert "not known" in terminal.type("runs", "list", code=4, **wrong)
    nobody = eyes | {"FLEET_URL": f"http://127.0.0.1:{free_port()}"}
    assert "No fleet answers" in terminal.type("runs", "list", code=3, **nobody)
    assert "no fleet's API" in terminal.type("runs", "list", code=1, **eyes | {"FLEET_URL": f"{running_fleet.url}/x"})
    for words in ("runs", "runs fly", "runs watch many", "stations stop", "login fleet.example"):
        terminal.type(*words.split(), code=2, **eyes)
    terminal.type("runs", "launch", "sft", "--set", "steps", code=2, **eyes)
    terminal.type("login", running_fleet.url, told="wrong\n", code=4)
    assert not (terminal.folder / "config").exists(), "a login that opens nothing is not kept"


def test_converting_is_the_projects_own_and_what_is_wrong_is_said(terminal):
    (terminal.folder / "a.safetensors").write_bytes(b"")
    assert terminal.type("datasets", "convert", "a.safetensors", "b", code=1).strip()
    assert not (terminal.folder / "b").exists()

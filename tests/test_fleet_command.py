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
from tests.robots import lerobot_folders

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

    dataset = send_look_and_edit(terminal, demonstrations, tmp_path)
    first, second = train_and_compare(terminal, dataset)
    judge(terminal, first, second)
    practise_and_audit(terminal, running_fleet, token, first, tmp_path)
    take_along(terminal, dataset, tmp_path)

    # a stop
    stations = stations_of(terminal)
    stopped = terminal.ask("stations", "stop", stations[0])
    assert stopped[0]["stations"][0]["outcome"] == "confirmed"
    terminal.type("stations", "stop", "--all")
    assert {row["stop_latched"] for row in terminal.ask("stations", "list")} == {True}
    clear(running_fleet, token, stations)


def send_look_and_edit(terminal, demonstrations, tmp_path):
    """A file of episodes and a LeRobot dataset there; the number of the latter's trimmed version."""
    name = f"from a terminal {time.time():.0f}"
    pushed = terminal.ask("datasets", "push", demonstrations, "--name", name)
    assert pushed["episodes"] == 12 and pushed["state"] == "ready" and pushed["single"]
    assert name in terminal.type("datasets", "list")
    terminal.type("datasets", "pull", pushed["id"], "--to", "back.safetensors")
    assert len(read_episodes(tmp_path / "back.safetensors")) == 12
    assert "exists already" in terminal.type("datasets", "pull", pushed["id"], "--to", "back.safetensors", code=1)

    terminal.type("datasets", "convert", demonstrations, "table")
    assert (tmp_path / "table" / "meta" / "info.json").exists()
    sent = terminal.ask("datasets", "push", "table", "--name", f"{name}, LeRobot")
    assert sent["episodes"] == 12 and sent["origin"]["by"] == "import" and not sent["single"]
    assert "12" in terminal.type("datasets", "show", sent["id"])
    longest = terminal.ask("datasets", "episodes", sent["id"], "--sort=-steps", "--limit", "1")[0]
    where = longest["position"]
    trimmed = terminal.ask("datasets", "trim", sent["id"], "--cut", f"{where}:2:{longest['steps']}")
    assert trimmed["version"] == 2 and trimmed["steps"] == sent["steps"] - 2
    words = terminal.ask("datasets", "relabel", trimmed["id"], longest["instruction"], "--episodes", where)
    flagged = terminal.ask("datasets", "flag", words["id"], "--episodes", f"{where}", "--note", "look here")
    assert terminal.ask("datasets", "episodes", flagged["id"], "--flagged")[0]["note"] == "look here"
    tagged = terminal.ask("datasets", "tag", flagged["id"], "--add", "clean")
    noted = terminal.ask("datasets", "note", tagged["id"], "trimmed from a terminal")
    assert noted["tags"] == ["clean"] and noted["notes"] == "trimmed from a terminal" and noted["version"] == 6
    assert terminal.ask("datasets", "undo", noted["id"])["id"] == tagged["id"]
    versions = terminal.ask("datasets", "versions", tagged["id"])
    assert [row["version"] for row in versions if row["current"]] == [5] and len(versions) == 6
    assert "can't be cut to 9 to 3" in terminal.type("datasets", "trim", tagged["id"], "--cut", f"{where}:9:3", code=1)
    return tagged


def train_and_compare(terminal, dataset):
    """Two runs, one watched as lines of JSON, and both side by side; a sweep, stopped."""
    source = ("--dataset", dataset["id"])
    first = terminal.ask("runs", "launch", "sft", *source, "--name", "one", *settings(SFT))
    lines = [json.loads(line) for line in terminal.type("runs", "watch", first["id"], "--json").splitlines()]
    seqs = [line["metric"]["seq"] for line in lines if "metric" in line]
    assert seqs == sorted(set(seqs)) and len(seqs) > 5
    assert lines[-1]["run"]["state"] == "completed"
    assert {"loss", "evaluation", "done"} <= {line["metric"]["kind"] for line in lines if "metric" in line}
    other = SFT | {"hidden": 16, "evaluation_episodes": 0}
    said = terminal.type("runs", "launch", "sft", *source, *settings(other), "--watch")
    assert "is completed" in said
    second = terminal.ask("runs", "list", "--limit", "1")[0]
    compared = terminal.ask("runs", "compare", first["id"], second["id"])
    assert compared["differences"]["hidden"] == [32, 16]
    assert compared["runs"][0]["evaluation"]["n"] == 10 and compared["runs"][1]["evaluation"] is None
    assert "recipe: hidden\t32\t16" in terminal.type("runs", "compare", first["id"], second["id"])
    assert terminal.ask("runs", "tag", first["id"], second["id"], "--add", "walk")["changed"] == 2
    noted = terminal.ask("runs", "note", first["id"], "the wider one")
    assert noted["tags"] == ["walk"] and noted["notes"] == "the wider one"

    tries = ("--try", "batch=16, 32", "--sampler", "grid", "--objective", "loss.bc", "--runs", 2)
    sweep = terminal.ask("sweeps", "launch", "sft", *source, *tries, *settings(SFT))
    assert sweep["space"] == {"batch": {"choices": [16, 32]}} and sweep["maximize"] is False
    assert sweep["id"] in [row["id"] for row in terminal.ask("sweeps", "list")]
    assert terminal.ask("sweeps", "stop", sweep["id"])["state"] == "stopped"
    assert terminal.ask("sweeps", "show", sweep["id"])["best"] is None
    assert "two values" in terminal.type("sweeps", "launch", "sft", *source, "--try", "batch=16", code=1)
    return first["id"], second["id"]


def judge(terminal, first, second):
    """Weights are fetched, compared on the same attempts, promoted, and the promotion taken back."""
    assert {row["role"] for row in terminal.ask("checkpoints", "list", first)} == {"policy", "reward_model"}
    pulled = terminal.ask("checkpoints", "pull", first)
    assert (terminal.folder / pulled["file"]).stat().st_size > 1000 and not list(terminal.folder.glob("*.part*"))
    attempts = ("--task", "block2block", "--attempts", 4, "--seed", 7)
    found = terminal.ask("checkpoints", "compare", first, f"{second}:0", *attempts)
    assert found["state"] == "completed" and found["of_first"]["n"] == found["of_second"]["n"] == 4
    assert found["difference"]["n"] == 4 and found["difference"]["low"] <= found["difference"]["difference"]
    promoted = terminal.ask("checkpoints", "promote", first, "--why", "the wider one")
    assert promoted["checkpoint"] == pulled["checkpoint"]["id"] and promoted["body"] == "language_table"
    assert "in force already" in terminal.type("checkpoints", "promote", first, code=1)
    assert terminal.ask("checkpoints", "promotions")[0]["reason"] == "the wider one"
    assert terminal.ask("checkpoints", "rollback", promoted["id"])["checkpoint"] != promoted["checkpoint"]
    # So few updates make a detector that may see nothing: one that sees success everywhere has people asked.
    published = terminal.ask("checkpoints", "threshold", first, "--s", 900, "--k", 20, "--why", "ask about all")
    assert published["in_force"] and published["consecutive"] == 20


def practise_and_audit(terminal, fleet, token, parent, tmp_path):
    """Practice on the stations, its episodes, what the detector said of them, and its end."""
    ask_about(fleet, token, 1.0)
    practised = terminal.ask(
        *("runs", "launch", "improve", "--parent", parent, "--task", "block2block", *settings(IMPROVE)),
        *[word for each in stations_of(terminal) for word in ("--station", each)],
    )
    wait_for_an_episode(fleet, token, practised["id"])
    exported = terminal.ask("episodes", "export", "out", "--run", practised["id"], "--limit", "2")
    assert exported["episodes"] == exported["fetched"] >= 1
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert len(files) == exported["fetched"] and all(len(read_episodes(file)) == 1 for file in files)
    index = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert {row["uuid"] for row in index} == {file.stem for file in files}
    assert terminal.ask("runs", "cancel", practised["id"])["state"] in ("canceling", "canceled")
    assert f"Run {practised['id']} is canceled" in terminal.type("runs", "watch", practised["id"], code=1)

    check = terminal.ask("checks", "list")[0]
    assert check["task"] == "block2block" and check["answer"] is None
    assert terminal.ask("checks", "answer", check["id"], "no")["answer"] is False
    assert "answered this one" in terminal.type("checks", "answer", check["id"], "yes", code=1)
    assert terminal.ask("checks", "undo")["id"] == check["id"]
    terminal.type("checks", "answer", check["id"], "no")
    bound = next(row for row in terminal.ask("checks", "bounds") if row["policy"] == check["policy"])
    assert (bound["n"], bound["wrong"], bound["bound"]) == (1, 1, 1.0)
    ask_about(fleet, token, None)


def ask_about(fleet, token, share):
    """So many of the detected successes; that a manager says on the task's page."""
    address = f"{fleet.url}/api/labs/main/tasks/block2block"
    headers = {"Authorization": f"Bearer {token}"}
    httpx.patch(address, json={"audit_share": share}, headers=headers).raise_for_status()


def take_along(terminal, dataset, tmp_path):
    """The version as a LeRobot archive, whose content comes back the same way."""
    pulled = terminal.ask("datasets", "pull", dataset["id"])
    assert pulled["as"] == "lerobot" and pulled["file"].endswith(" v5.zip")
    again = terminal.ask("datasets", "push", pulled["file"], "--name", f"{dataset['name']}, again")
    assert (again["episodes"], again["steps"]) == (dataset["episodes"], dataset["steps"])
    assert [row["state"] for row in terminal.ask("datasets", "imports", "--limit", "2")] == ["ready", "ready"]


def stations_of(terminal):
    found = [row["slug"] for row in terminal.ask("stations", "list") if row["state"] != "offline"]
    assert found
    return found


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
    for words in ("trim 1", "trim 1 --cut 5", "relabel 1 words --episodes all", "tag 1", "pull 1 --as avi"):
        terminal.type("datasets", *words.split(), code=2, **eyes)
    terminal.type("checks", "answer", 1, "maybe", code=2, **eyes)
    (terminal.folder / "nothing").mkdir()
    assert "no meta/info.json" in terminal.type("datasets", "push", "nothing", code=1, **eyes)
    terminal.type("login", running_fleet.url, told="wrong\n", code=4)
    assert not (terminal.folder / "config").exists(), "a login that opens nothing is not kept"


def test_an_import_that_asks_waits_for_an_answer(running_fleet, terminal, tmp_path):
    """A dataset without its videos: state and actions alone, where somebody says so."""
    token = make_token(running_fleet, "researcher", "read", "data", name="asked")
    eyes = {"FLEET_URL": running_fleet.url, "FLEET_TOKEN": token}
    lerobot_folders.write(tmp_path / "arm", [lerobot_folders.episode(12, i) for i in range(2)], videos=False)
    name = f"blind {time.time():.0f}"
    said = terminal.type("datasets", "push", "arm", "--name", name, code=1, **eyes)
    (number,) = re.findall(r"fleet datasets answer (\d+) --yes", said)
    assert "Import state and action alone" in said
    made = terminal.ask("datasets", "answer", number, "--yes", **eyes)
    assert made["name"] == name and made["episodes"] == 2
    said = terminal.type("datasets", "push", "arm", "--name", f"{name}, again", code=1, **eyes)
    (number,) = re.findall(r"fleet datasets answer (\d+) --yes", said)
    assert "is canceled" in terminal.type("datasets", "answer", number, "--no", code=1, **eyes)


def test_converting_is_the_projects_own_and_what_is_wrong_is_said(terminal):
    (terminal.folder / "a.safetensors").write_bytes(b"")
    assert terminal.type("datasets", "convert", "a.safetensors", "b", code=1).strip()
    assert not (terminal.folder / "b").exists()

"""How folder.tar.xz was made: a small fleet of older code, played through people's doors and stopped in the middle.

    PYTHONPATH=CHECKOUT .venv/bin/python tests/stored_folder/make.py CHECKOUT

CHECKOUT is a work tree of the code whose folder is wanted (README.md says which one it was). Its own `manage.py start`
serves an empty data folder; demonstrations, a training, practice on two stations, a paused run, a person's override
with its correction, a reset and a label come of HTTP alone. What is kept is the folder without logs and servers' files,
and the database as INSERT lines, which any PostgreSQL reads.
"""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import httpx

from fleetui import embedded

HERE = Path(__file__).resolve().parent
# The first start makes 100 demonstrations: more than a test needs, and most of the archive's size.
START = """
import django
django.setup()
from django.core.management import execute_from_command_line
from fleetui.fleet import first_start
first_start.DEMONSTRATIONS = 20
execute_from_command_line(["manage.py", "start", "--stations", "2"])
"""
SFT = {"steps": 600, "hidden": 24, "batch": 64, "evaluation_episodes": 20, "largest_threshold": 0.0, "seed": 1}
IMPROVE = {
    "max_episodes": 20,
    "updates_per_round": 2,
    "batch": 64,
    "evaluate_every": 2,
    "evaluation_episodes": 10,
    "seed": 1,
}
PAUSED_AFTER = 8  # of the 20 practice episodes
# Servers' own files, logs and what each start makes anew.
LEFT_OUT = {"postgresql", "postgresql.json", "valkey", "logs", "static", "start.lock", "try_loop.log"}


class Person:
    """A signed-in user and the HTTP API."""

    def __init__(self, url, login):
        self.http = httpx.Client(base_url=url, headers={"Origin": url}, timeout=30, follow_redirects=True)
        self.http.get("/login")
        form = {name: login[name] for name in ("username", "password")}
        self.http.post("/login", data={**form, "csrfmiddlewaretoken": self.http.cookies["csrftoken"]})

    def ask(self, method, path, body=None):
        headers = {"X-CSRFToken": self.http.cookies["csrftoken"]}
        answer = self.http.request(method, f"/api/labs/main/{path}", json=body, headers=headers)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def wait_for(self, path, condition, seconds=180):
        deadline = time.monotonic() + seconds
        while not condition(found := self.ask("GET", path)):
            assert time.monotonic() < deadline, f"{path} is still {found}"
            time.sleep(0.2)
        return found


def main():
    checkout = Path(sys.argv[1]).resolve()
    data = Path(tempfile.mkdtemp(prefix="fleetui-stored-"))
    data.chmod(0o755)  # PostgreSQL may run as another user, who must reach its place below
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "FLEETUI_DATA": str(data), "PORT": str(port), "PYTHONPATH": str(checkout)}
    environment["DJANGO_SETTINGS_MODULE"] = "fleetui.settings"
    started = subprocess.Popen([sys.executable, "-c", START], cwd=checkout, env=environment, start_new_session=True)
    try:
        wait_until_answering(started, f"http://127.0.0.1:{port}")
        play(f"http://127.0.0.1:{port}", data)
    finally:
        started.send_signal(signal.SIGINT)
        started.wait(60)
    pack(data, dump(data))
    shutil.rmtree(data)


def wait_until_answering(process, url):
    for _ in range(600):
        assert process.poll() is None, "the fleet ended"
        try:
            if httpx.get(f"{url}/healthz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError("no fleet")


def play(url, data):
    logins = {row["role"]: row for row in json.loads((data / "logins.json").read_text())}
    manager, researcher, supervisor = (Person(url, logins[role]) for role in ("manager", "researcher", "supervisor"))
    dataset = researcher.wait_for("datasets", lambda rows: rows and rows[0]["state"] == "ready")[0]
    asked = {"kind": "sft", "name": "first training", "dataset": dataset["id"], "recipe": SFT}
    sft = researcher.ask("POST", "runs", asked)
    researcher.wait_for(f"runs/{sft['id']}", lambda run: run["state"] == "completed")
    for station in ("station-1", "station-2"):
        supervisor.ask("POST", f"stations/{station}/command", {"name": "speed", "args": {"value": 0}})
    task = next(row["slug"] for row in manager.ask("GET", "tasks") if row["family"] == "block2block")
    asked = {"task": task, "stations": ["station-1", "station-2"]}
    assignment = manager.ask("POST", "assignments", asked)
    asked = {"kind": "improve", "name": "first practice", "parent": sft["id"], "assignment": assignment["id"]}
    run = researcher.ask("POST", "runs", asked | {"recipe": IMPROVE})
    path = f"runs/{run['id']}"
    researcher.wait_for(path, lambda row: row["practice_episodes"] >= 4)
    override(supervisor, "station-1")
    supervisor.ask("POST", "stations/station-2/command", {"name": "reset"})
    researcher.wait_for(path, lambda row: row["practice_episodes"] >= PAUSED_AFTER)
    researcher.ask("POST", f"{path}/pause", {})
    paused = researcher.wait_for(path, lambda row: row["state"] == "paused")
    episodes = researcher.ask("GET", f"episodes?run={run['id']}&purpose=practice")
    supervisor.ask("POST", f"episodes/{episodes[0]['uuid']}/label", {"true_success": True, "reason": "it lay there"})
    # It waits for a station, which the paused run holds.
    manager.ask("POST", "assignments", {"task": task, "any": 1, "parent": sft["id"], "episodes": 10})
    time.sleep(3)
    print(f"paused with {paused['practice_episodes']} practice episodes")


def override(person, station):
    """A person drives for a second and hands back; the episode is cut, and a correction is stored."""
    path = f"stations/{station}/command"
    person.ask("POST", path, {"name": "override"})
    for _ in range(8):
        person.ask("POST", path, {"name": "drive", "args": {"dx": 0.6, "dy": 0.1}, "ttl_ms": 300})
        time.sleep(0.15)
    person.ask("POST", path, {"name": "hand_back"})
    person.wait_for("episodes?purpose=correction", bool, 20)


def dump(data):
    """The database as SQL, in INSERT lines; without what only one version of PostgreSQL understands."""
    server = embedded.Postgres(data)
    server.start()
    try:
        place = embedded.database_settings(data, embedded.OWNER)
        command = [server.binaries / "pg_dump", "-h", place["HOST"], "-p", place["PORT"], "-U", place["USER"]]
        command += ["--inserts", "--rows-per-insert", "100", "--no-owner", "--no-privileges", place["NAME"]]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    finally:
        server.stop()
        server.erase()
    lines = [line for line in text.splitlines() if not line.startswith(("\\", "SET transaction_timeout", "--"))]
    return "\n".join(line for line in lines if line) + "\n"


def pack(data, sql):
    with tarfile.open(HERE / "folder.tar.xz", "w:xz", preset=9) as archive:
        for path in sorted(data.iterdir()):
            if path.name not in LEFT_OUT:
                archive.add(path, path.name, filter=lambda entry: made_neutral(entry, data))
        content = sql.encode()
        entry = tarfile.TarInfo("database.sql")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))


def made_neutral(entry, data):
    """Of no user of this machine; a run's links to the folder's other files lead to them wherever it is unpacked."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    if entry.issym():
        entry.linkname = os.path.relpath(entry.linkname, (data / entry.name).parent)
    return entry


main()

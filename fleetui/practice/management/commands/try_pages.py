"""`manage.py try_pages`: how quick a fleet of 100,000 episodes and 200 runs is for the people who look at it.

It starts a fleet of its own, fills it (`manage.py fill`), and asks for each list page, each chart and the upload of
episodes many times, one after the other, over HTTP as a browser and a station do. The figures go into one JSON object.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from fleetui.practice.own_fleet import Json, Person, Server, percentile
from robots import strict_json
from robots.episodes import Episode, read_episodes
from robots.transfers import upload

COMPARED = 20  # runs side by side, as many as there may be
Ask = Callable[[], Awaitable[Any]]


class Command(BaseCommand):
    help = "Measure pages, charts and uploads of a fleet full of episodes and runs, and write the figures as JSON."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--episodes", type=int, default=100_000)
        parser.add_argument("--runs", type=int, default=200)
        parser.add_argument("--requests", type=int, default=30, help="of each page, after a first that doesn't count")
        parser.add_argument("--json", required=True, help="file for the figures")

    def handle(self, **options: Any) -> None:
        if options["requests"] < 2:
            raise CommandError("--requests must be at least 2.")
        target = Path(options["json"])
        if not target.resolve().parent.is_dir():
            raise CommandError(f"The folder of {target} does not exist: make it first.")
        folder = Path(tempfile.mkdtemp(prefix="fleetui-pages-"))
        folder.chmod(0o755)  # PostgreSQL may run as another user, who must reach its place below
        server = Server(folder, stations=1)
        server.start()
        try:
            figures = asyncio.run(self.measure(server, options))
        finally:
            server.stop()
            subprocess.run(["rm", "-rf", str(folder)], check=False)
        target.write_text(strict_json.dumps(figures, indent=1) + "\n")
        self.show(figures)

    async def measure(self, server: Server, options: Json) -> Json:
        await server.wait_until_answering()
        async with Person(server.url, server.logins()["manager"]) as manager:
            await first_dataset(manager)
            full = fill(server, options["episodes"], options["runs"])
            self.stdout.write(f"{options['episodes']} episodes and {options['runs']} runs in {full['seconds']} s")
            count = options["requests"]
            pages = [await timed(path, partial(asked, manager.http, path), count) for path in pages_of(full)]
            charts = [
                await timed(name, partial(drawn, manager.http, frame, body), count)
                for name, frame, body in charts_of(full)
            ]
            listed = await self.uploads(server, manager, full, count)
        return {
            "episodes": options["episodes"],
            "runs": options["runs"],
            "pages_p95_ms": max(row["p95_ms"] for row in pages),
            "charts_p95_ms": max(row["p95_ms"] for row in charts),
            "most_points_of_a_trace": max(row["size"] for row in charts),
            "upload_to_listed_p95_ms": listed["p95_ms"],
            "pages": pages,
            "charts": charts,
            "upload_to_listed": listed,
        }

    async def uploads(self, server: Server, manager: Person, full: Json, count: int) -> Json:
        """From the first byte that a station sends of an episode until a list that is asked for has it."""
        known = read_episodes(next((server.folder / "episodes").rglob("*.safetensors")))[0]
        headers = {"Authorization": f"Bearer {full['station_token']}"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as station:
            send = partial(stored, station, manager.http, server.url, full["lab"], known)
            return await timed("an episode from a station", send, count)

    def show(self, figures: Json) -> None:
        for row in [*figures["pages"], *figures["charts"], figures["upload_to_listed"]]:
            self.stdout.write(f"{row['p50_ms']:8.1f} {row['p95_ms']:8.1f} ms  {row['size']:>8}  {row['name']}")
        for name in ("pages_p95_ms", "charts_p95_ms", "most_points_of_a_trace", "upload_to_listed_p95_ms"):
            self.stdout.write(f"{name}: {figures[name]}")


async def first_dataset(person: Person) -> None:
    for _ in range(600):
        rows = (await person.get("datasets?limit=1"))["items"]
        if rows and rows[0]["state"] == "ready":
            return
        await asyncio.sleep(0.5)
    raise CommandError("The first demonstrations were not ready within 5 minutes.")


def fill(server: Server, episodes: int, runs: int) -> Json:
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "fill"]
    command += ["--episodes", str(episodes), "--runs", str(runs)]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True)
    if done.returncode:
        raise CommandError(f"The fleet could not be filled: {done.stderr[-2000:]}")
    said: Json = json.loads(done.stdout.splitlines()[-1])
    return said


def pages_of(full: Json) -> list[str]:
    """Each page that lists, as it opens, and the ways through the long ones that cost most."""
    lab, dataset = f"/labs/{full['lab']}", full["dataset"]
    compared = "&".join(f"run={number}" for number in full["runs"][:COMPARED])
    return [
        f"{lab}/",
        f"{lab}/stations/",
        f"{lab}/tasks/",
        f"{lab}/episodes/",
        f"{lab}/episodes/?page=900",
        f"{lab}/episodes/?purpose=practice&ending=needs_reset",
        f"{lab}/datasets/",
        f"{lab}/datasets/{dataset}/",
        f"{lab}/datasets/{dataset}/?view=grid",
        f"{lab}/datasets/{dataset}/?unusual=true&sort=-jerk",
        f"{lab}/datasets/from-episodes",
        f"{lab}/runs/",
        f"{lab}/runs/?sort=-success&column=success&column=tags&column=duration&column=recipe.learning_rate",
        f"{lab}/runs/compare?{compared}",
        f"{lab}/runs/{full['practised'][-1]}",
        f"{lab}/sweeps/",
        f"{lab}/checkpoints/",
        f"{lab}/reward-models/{full['reward_model']}/studio",
        f"{lab}/reward-models/{full['reward_model']}/studio/figures?s=3",
        f"{lab}/spot-checks/",
        f"{lab}/attention/",
        f"{lab}/effort/",
        f"{lab}/audit",
        f"{lab}/people",
        f"/api{lab}/episodes?limit=100",
        f"/api{lab}/runs?limit=100",
        f"/api{lab}/datasets/{dataset}/episodes?limit=100&sort=-jerk",
    ]


def charts_of(full: Json) -> list[tuple[str, str, Json]]:
    """(name, address, what the browser sends): a comparison of as many runs as there may be, and the page of charts."""
    frame = "/charts/app/"
    theme = {"id": "theme", "property": "data", "value": "light"}
    tick = {"id": "tick", "property": "n_intervals", "value": 0}
    found = []
    for name, numbers, curve, x in (
        ("losses of 20 runs", full["runs"], "loss.validation_bc", "own"),
        ("success of 20 runs over practice episodes", full["practised"], "evaluation.success", "episodes"),
        ("success of 20 runs over robot hours", full["practised"], "evaluation.success", "robot"),
    ):
        chosen = "&".join(f"run={number}" for number in numbers[:COMPARED])
        search = {
            "id": "url",
            "property": "search",
            "value": f"?lab={full['lab']}&{chosen}&curve={curve}&x={x}&seeds=apart",
        }
        figure = {"id": "comparison", "property": "figure"}
        body = {"output": "comparison.figure", "outputs": figure, "inputs": [search, theme, tick]}
        found.append((f"comparison, {name}", f"{frame}compare/", body | {"changedPropIds": ["url.search"]}))
    names = ("success", "touches", "lengths")
    body = {
        "output": f"..{'...'.join(f'{name}.figure' for name in names)}..",
        "outputs": [{"id": name, "property": "figure"} for name in names],
        "inputs": [{"id": "runs", "property": "value", "value": full["practised"][:COMPARED]}, theme, tick],
        "state": [{"id": "url", "property": "search", "value": f"?lab={full['lab']}"}],
        "changedPropIds": ["runs.value"],
    }
    return [*found, ("charts of 20 runs", frame, body)]


async def timed(name: str, ask: Ask, count: int) -> Json:
    """p50 and p95 of the wall clock, and the size that `ask` returns."""
    size = await ask()
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        size = await ask()
        taken.append(1000 * (time.perf_counter() - began))
    return {
        "name": name,
        "p50_ms": round(percentile(taken, 50), 1),
        "p95_ms": round(percentile(taken, 95), 1),
        "size": size,
    }


async def asked(http: httpx.AsyncClient, path: str) -> int:
    """Bytes of the page."""
    answer = await http.get(path)
    if answer.status_code != 200 or answer.url.path == "/login":
        raise CommandError(f"{path}: {answer.status_code} {answer.text[:300]}")
    return len(answer.content)


async def drawn(http: httpx.AsyncClient, frame: str, body: Json) -> int:
    """Points of the longest trace that the callback answers with."""
    answer = await http.post(f"{frame}_dash-update-component", json=body)
    if answer.status_code != 200:
        raise CommandError(f"{frame}: {answer.status_code} {answer.text[:300]}")
    figures = [each["figure"] for each in answer.json()["response"].values()]
    return max((points_of(trace) for figure in figures for trace in figure["data"]), default=0)


def points_of(trace: Json) -> int:
    """Plotly writes long arrays as base64 of their bytes."""
    x = trace.get("x", [])
    if isinstance(x, dict):
        return len(x["bdata"]) * 3 // 4 // int(x["dtype"][1:])
    return len(x)


async def stored(station: httpx.AsyncClient, http: httpx.AsyncClient, server: str, lab: str, known: Episode) -> int:
    """Bytes of a list that has the episode which was sent just now."""
    fresh = replace(known, uuid=str(uuid.uuid4()), purpose="practice", ending="time_limit")
    await upload(station, server, [fresh])
    while True:
        answer = await http.get(f"/api/labs/{lab}/episodes?limit=1")
        if answer.json()["items"][0]["uuid"] == fresh.uuid:
            return len(answer.content)

"""`manage.py try_loop`: the whole loop from an empty data folder, played through people's doors and measured.

It starts the server as `make run` does, in a process tree of its own, then acts over HTTP and the browser socket only:
a manager assigns, a researcher trains, a supervisor watches and resets. Nothing here reads the database or a run
directory, so every figure is one that a user could have taken. The figures go into one flat JSON object.
"""

import asyncio
import json
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websockets
from django.core.management.base import BaseCommand, CommandError, CommandParser

from fleetui.practice.first_start import DEMONSTRATIONS, LAB
from fleetui.practice.own_fleet import Json, Person, Server, percentile
from robots import strict_json

FRAMES_PER_S_ASKED = 15


@dataclass
class Measured:
    """What the supervisor's browser socket saw; times in seconds of this machine's one clock."""

    telemetry_ms: list[float] = field(default_factory=list)
    frame_times: list[float] = field(default_factory=list)
    resets: int = 0


class Command(BaseCommand):
    help = "Play the whole loop from an empty data folder through HTTP and sockets, and write the figures as JSON."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--minutes", type=float, default=10.0, help="wall-clock budget from the start of the server"
        )
        parser.add_argument("--stations", type=int, default=16, help="simulated stations (1 to 64)")
        parser.add_argument(
            "--demonstrations", type=int, default=DEMONSTRATIONS, help=f"to train on (default {DEMONSTRATIONS})"
        )
        parser.add_argument("--json", required=True, help="file for the figures")
        parser.add_argument("--seed", type=int, default=1, help="seed of both runs")
        parser.add_argument("--keep", action="store_true", help="keep the data folder and say where it is")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["stations"] <= 64:
            raise CommandError("--stations must be between 1 and 64.")
        if options["demonstrations"] < 1:
            raise CommandError("--demonstrations must be at least 1.")
        if options["minutes"] < 3:
            raise CommandError("--minutes must be at least 3: training, practice and the evaluations need that long.")
        target = Path(options["json"])
        if not target.resolve().parent.is_dir():
            raise CommandError(f"The folder of {target} does not exist: make it first.")
        folder = Path(tempfile.mkdtemp(prefix="fleetui-loop-"))
        folder.chmod(0o755)  # PostgreSQL may run as another user, who must reach its place below
        figures = asyncio.run(self.play(folder, options))
        target.write_text(strict_json.dumps(figures, indent=1) + "\n")
        self.stdout.write(strict_json.dumps(figures, indent=1))
        if options["keep"]:
            self.stdout.write(f"data folder kept: {folder}")
        else:
            subprocess.run(["rm", "-rf", str(folder)], check=False)

    def say(self, text: str) -> None:
        self.stdout.write(f"[{time.time() - self.began:6.1f} s] {text}")
        self.stdout.flush()

    async def play(self, folder: Path, options: dict[str, Any]) -> Json:
        self.began = time.time()
        deadline = self.began + options["minutes"] * 60
        server = Server(folder, options["stations"])
        server.start()
        try:
            await server.wait_until_answering()
            logins = server.logins()
            async with (
                Person(server.url, logins["manager"]) as manager,
                Person(server.url, logins["researcher"]) as researcher,
                Person(server.url, logins["supervisor"]) as supervisor,
            ):
                page = await manager.http.get(f"/labs/{LAB}/")
                page.raise_for_status()
                first_page_s = time.time() - self.began
                self.say(f"first page after {first_page_s:.1f} s")
                people = People(manager, researcher, supervisor)
                return await self.through_the_loop(server, people, deadline, first_page_s, options)
        finally:
            server.stop()

    async def through_the_loop(
        self, server: "Server", people: "People", deadline: float, first_page_s: float, options: dict[str, Any]
    ) -> Json:
        dataset = await self.demonstrations(people.researcher, deadline, options["demonstrations"])
        sft = await people.researcher.post(
            "runs",
            {"kind": "sft", "name": "first training", "dataset": dataset["id"], "recipe": {"seed": options["seed"]}},
        )
        sft = await self.finished_run(people.researcher, sft["id"], deadline)
        level = await self.metrics(people.researcher, sft["id"], "evaluation")
        self.say(f"SFT done: {level[-1]['successes']}/{level[-1]['n']}")

        tasks = [row for row in (await people.manager.get("tasks"))["items"] if row["family"] in dataset["families"]]
        practice_began = time.time()
        run_id, stations, seen = await self.practise(people, tasks[0], sft, deadline, options["seed"])
        practice_s = time.time() - practice_began
        curve = await self.metrics(people.researcher, run_id, "evaluation")
        success = success_of(curve, await self.metrics(people.researcher, run_id, "done"))
        run = await people.researcher.get(f"runs/{run_id}")
        staleness = sorted(row["staleness_s"] for row in run["checkpoints"] if row.get("staleness_s") is not None)
        if not staleness or not seen.telemetry_ms:
            raise CommandError(
                "No policy reached the stations, or no telemetry reached the browser: there is nothing to measure."
            )
        episodes = run["practice_episodes"]
        self.say(f"practice done: success {success['final_success']:.3f} after {episodes} practice episodes")
        server.stop()
        frames = seen.frame_times
        return {
            "first_page_s": round(first_page_s, 2),
            **success,
            "demonstrations": dataset["episodes"],
            "time_limit": tasks[0]["time_limit_steps"],
            "practice_episodes": episodes,
            "episodes_per_s": round(episodes / practice_s, 2),
            "staleness_p50_s": round(percentile(staleness, 50), 3),
            "staleness_p95_s": round(percentile(staleness, 95), 3),
            "telemetry_p50_ms": round(percentile(seen.telemetry_ms, 50), 1),
            "telemetry_p95_ms": round(percentile(seen.telemetry_ms, 95), 1),
            "frames_per_s": round((len(frames) - 1) / (frames[-1] - frames[0]), 2) if len(frames) > 1 else 0.0,
            "resets": seen.resets,
            "processes_left": server.processes_left(),
            "policies_published": len(staleness),
            "evaluations": len(curve),
            "stations": len(stations),
            "total_s": round(time.time() - self.began, 1),
        }

    async def demonstrations(self, researcher: "Person", deadline: float, count: int) -> Json:
        """The dataset to train on: the fleet's first one, or a new one where another number is asked for."""
        dataset = await self.newest_dataset(researcher, deadline)
        if count != DEMONSTRATIONS:
            asked = {"families": dataset["families"], "episodes": count, "seed": 1}
            await researcher.post("datasets", {"name": "Demonstrations", **asked})
            dataset = await self.newest_dataset(researcher, deadline)
        self.say(f"{dataset['episodes']} demonstrations are there")
        return dataset

    async def practise(
        self, people: "People", task: Json, sft: Json, deadline: float, seed: int
    ) -> tuple[int, list[str], "Measured"]:
        """All stations, as fast as they can, until the run has ended or the time is over: its id, the stations, and
        what was seen meanwhile.
        """
        stations = [row["slug"] for row in (await people.manager.get("stations?limit=500"))["items"]]
        for slug in stations:
            await people.supervisor.post(f"stations/{slug}/command", {"name": "speed", "args": {"value": 0}})
        assignment = await people.manager.post("assignments", {"task": task["slug"], "stations": stations})
        asked = {"kind": "improve", "name": "first practice", "parent": sft["id"], "assignment": assignment["id"]}
        run = await people.researcher.post("runs", {**asked, "recipe": {"seed": seed}})
        address, seen = f"runs/{run['id']}", Measured()
        watching = asyncio.create_task(self.watch(people.supervisor, seen, run["id"], stations))
        try:
            while time.time() < deadline - 20:
                if watching.done():
                    watching.result()
                    raise CommandError("The browser socket closed before the run had ended.")
                run = await people.researcher.get(address)
                if run["state"] in ("completed", "failed", "canceled"):
                    break
                await asyncio.sleep(1)
            else:
                self.say("out of time: canceling the run")
                await people.researcher.post(f"{address}/cancel", {})
                ended = ("canceled", "completed")
                run = await self.finished_run(people.researcher, run["id"], deadline, accept=ended)
        finally:
            watching.cancel()
        if run["state"] == "failed":
            raise CommandError(f"The self-improvement run failed: {run['error']}")
        return run["id"], stations, seen

    async def newest_dataset(self, researcher: "Person", deadline: float) -> Json:
        while time.time() < deadline:
            rows: list[Json] = (await researcher.get("datasets?limit=1"))["items"]
            if rows and rows[0]["state"] == "ready":
                return rows[0]
            if rows and rows[0]["state"] == "failed":
                raise CommandError("Making the demonstrations failed.")
            await asyncio.sleep(0.5)
        raise CommandError("The demonstrations were not ready in time.")

    async def finished_run(
        self, person: "Person", run_id: int, deadline: float, accept: Sequence[str] = ("completed",)
    ) -> Json:
        told_at = 0.0
        while time.time() < deadline:
            run = await person.get(f"runs/{run_id}")
            if run["state"] in accept:
                return run
            if run["state"] in ("failed", "canceled"):
                raise CommandError(f"Run {run_id} ended as {run['state']}: {run['error']}")
            if time.time() - told_at > 15:
                told_at = time.time()
                self.say(f"run {run_id}: {run['state']} {run['phase']} {round(100 * run['progress'])} %")
            await asyncio.sleep(0.5)
        raise CommandError(f"Run {run_id} had not ended when the time was up (--minutes).")

    async def metrics(self, person: "Person", run_id: int, kind: str) -> list[Json]:
        return [row["data"] for row in (await person.get(f"runs/{run_id}/metrics?kind={kind}"))["items"]]

    async def watch(self, supervisor: "Person", seen: Measured, run_id: int, stations: list[str]) -> None:
        """The supervisor's browser: the wall, one camera, and a reset wherever a station asks for a person."""
        async with supervisor.live_socket() as live:
            await live.send(json.dumps({"subscribe": "wall", "lab": LAB}))
            await live.send(
                json.dumps(
                    {
                        "subscribe": "frames",
                        "lab": LAB,
                        "station": stations[0],
                        "fps": FRAMES_PER_S_ASKED,
                        "size": "large",
                    }
                )
            )
            states: dict[str, str] = {}
            helping = asyncio.create_task(self.help_stations(live, seen, states))
            try:
                async for message in live:
                    now = time.time()
                    if isinstance(message, bytes):
                        length = struct.unpack_from(">H", message)[0]
                        if message[2 : 2 + length].decode() == stations[0]:
                            seen.frame_times.append(now)
                        continue
                    message = json.loads(message)
                    if "heartbeat" in message:
                        await live.send(json.dumps({"alive": True}))
                        continue
                    if "error" in message:
                        raise CommandError(f"The server refused a message: {message['error']}")
                    for card in cards_of(message):
                        if message["type"] == "delta" and card.get("sent_at"):
                            seen.telemetry_ms.append((now - card["sent_at"]) * 1000)
                        if "state" in card:
                            states[card["slug"]] = card["state"]
            finally:
                helping.cancel()

    async def help_stations(self, live: websockets.ClientConnection, seen: Measured, states: dict[str, str]) -> None:
        """Press "reset" once for each station that asks, twice a second; again after 5 s if the station still asks."""
        asked: dict[str, float] = {}
        while True:
            for slug, state in states.items():
                if state != "needs_person":
                    asked.pop(slug, None)
                elif time.time() - asked.get(slug, 0) > 5:
                    seen.resets += slug not in asked
                    asked[slug] = time.time()
                    await live.send(
                        json.dumps(
                            {
                                "command": {
                                    "id": uuid.uuid4().hex,
                                    "lab": LAB,
                                    "station": slug,
                                    "name": "reset",
                                    "args": {},
                                    "ttl_ms": 5000,
                                }
                            }
                        )
                    )
            await asyncio.sleep(0.5)


def success_of(curve: list[Json], done: list[Json]) -> Json:
    """True success, speed and falls before and after practice. A finished run judged both on fresh seeds,
    which did not choose the kept version; of a cancelled run there are only the curve's first and newest point.
    """
    if done:
        keys = ("success", "low", "high", "n", "steps_to_success", "falls")
        before, after = ({key: done[0][f"{name}_{key}"] for key in keys} for name in ("start", "kept"))
    elif curve:
        before, after = ({**row, "success": row["successes"] / row["n"]} for row in (curve[0], curve[-1]))
    else:
        raise CommandError("The self-improvement run recorded no evaluation.")
    before, after = ({**row, "falls_per_100": 100 * row["falls"] / row["n"]} for row in (before, after))
    return {
        f"{name}_{key}": row[key]
        for name, row in (("sft", before), ("final", after))
        for key in ("success", "low", "high", "steps_to_success", "falls_per_100")
    }


def cards_of(message: Json) -> list[Json]:
    cards: list[Json] = []
    if message.get("type") == "snapshot":
        cards = message["data"].get("stations", [])
    if message.get("type") == "delta":
        data = message["data"]
        cards = data["cards"] if "cards" in data else [data["card"]] if "card" in data else []
    return cards


@dataclass(frozen=True)
class People:
    """Who plays: each does what its role may."""

    manager: Person
    researcher: Person
    supervisor: Person

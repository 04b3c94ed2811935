"""A fleet of its own on a folder and a port of its own, and people who use it by HTTP and the browser socket: what
`try_loop` and `try_pages` measure with.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import websockets
import websockets.typing
from django.conf import settings
from django.core.management.base import CommandError

from fleetui.practice.first_start import LAB

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a request would bury what the commands say

Json = dict[str, Any]  # what the API says, or is told


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value with at least `percent` of all values at or below it (nearest rank)."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(sorted(values), n=100, method="inclusive")[percent - 1]


class Server:
    """`manage.py start` on a folder and port of its own, and the processes that come of it."""

    def __init__(self, folder: Path, stations: int):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.stations = folder, stations
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**os.environ, "FLEETUI_DATA": str(folder), "PORT": str(self.port)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.log = open(self.folder / "own_fleet.log", "wb")  # noqa: SIM115 (as long as the process runs)
        self.process = subprocess.Popen(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "start", "--stations", str(self.stations)],
            env=self.environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    async def wait_until_answering(self, seconds: int = 120) -> None:
        async with httpx.AsyncClient(base_url=self.url) as http:
            for _ in range(seconds * 5):
                if self.process is not None and self.process.poll() is not None:
                    raise CommandError(
                        f"The server ended at once:\n{(self.folder / 'own_fleet.log').read_text()[-2000:]}"
                    )
                try:
                    if (await http.get("/login", timeout=5)).status_code == 200 and self.logins():
                        return
                except (httpx.TransportError, OSError, ValueError):
                    pass
                await asyncio.sleep(0.2)
        raise CommandError(f"The server did not answer within {seconds} s.")

    def logins(self) -> dict[str, dict[str, str]]:
        """Role to {username, password}, as `manage.py logins` shows them."""
        shown = subprocess.run(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "logins", "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if shown.returncode:
            raise ValueError(shown.stderr)
        return {row["role"]: row for row in json.loads(shown.stdout)}

    def stop(self) -> None:
        """Ctrl-C, once; the second call finds it gone."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.log.close()

    def processes_left(self) -> int:
        """Processes of this server that outlived it: known by the data folder in their environment or command line."""
        left = 0
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and (
                    process.environ().get("FLEETUI_DATA") == str(self.folder)
                    or str(self.folder) in " ".join(process.cmdline())
                ):
                    left += 1
            except psutil.Error:
                continue
        return left


class Person:
    """One signed-in user: the HTTP API and the browser socket, with the cookies of a real session."""

    def __init__(self, url: str, login: dict[str, str]):
        self.url, self.login = url, login
        self.http = httpx.AsyncClient(base_url=url, headers={"Origin": url}, timeout=30, follow_redirects=True)

    async def __aenter__(self) -> Self:
        await self.http.get("/login")
        answer = await self.http.post(
            "/login",
            data={
                "username": self.login["username"],
                "password": self.login["password"],
                "csrfmiddlewaretoken": self.http.cookies["csrftoken"],
            },
        )
        answer.raise_for_status()
        if "sessionid" not in self.http.cookies:
            raise CommandError(f"{self.login['username']} could not log in.")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.http.aclose()

    async def get(self, path: str) -> Json:
        return self.checked(await self.http.get(f"/api/labs/{LAB}/{path}"))

    async def post(self, path: str, body: Json) -> Json:
        return self.checked(
            await self.http.post(
                f"/api/labs/{LAB}/{path}", json=body, headers={"X-CSRFToken": self.http.cookies["csrftoken"]}
            )
        )

    def checked(self, answer: httpx.Response) -> Json:
        if answer.status_code >= 400:
            raise CommandError(
                f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text[:500]}"
            )
        body: Json = answer.json()
        return body

    def live_socket(self) -> websockets.connect:
        cookies = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        return websockets.connect(
            self.url.replace("http", "ws") + "/ws/live",
            origin=websockets.typing.Origin(self.url),
            additional_headers={"Cookie": cookies},
            max_size=2**22,
            compression=None,
        )

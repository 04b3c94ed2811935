"""What the tests share: real servers for those that need a database, a whole running fleet, and a real browser.

Nothing is started before a test asks for it, so tests of robots/ and training/ run in seconds and without a server.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Settings read the environment once, so the tests' own data folder has to be there before anything imports them.
DATA = Path(tempfile.mkdtemp(prefix="fleetui-tests-")).resolve()
atexit.register(shutil.rmtree, DATA, ignore_errors=True)
os.environ["FLEETUI_DATA"] = str(DATA)
os.environ["DJANGO_SETTINGS_MODULE"] = "fleetui.settings"
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure(config):
    """Django is set up before test modules are read, unless only those are asked for that do without it."""
    without_django = [ROOT / "tests" / "robots", ROOT / "tests" / "training"]
    asked = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if not all(any(path.is_relative_to(folder) for folder in without_django) for path in asked):
        import django

        django.setup()
        from fleetui import static_files

        static_files.collect()  # pages name files by their hash


@pytest.fixture(scope="session")
def servers():
    """PostgreSQL and Valkey: embedded ones, unless DATABASE_URL and REDIS_URL name others."""
    from fleetui import embedded

    started = []
    try:
        for server in embedded.wanted_servers(DATA):
            started.append(server)
            server.start()
        yield
    finally:
        for server in reversed(started):
            server.stop()
            if isinstance(server, embedded.Postgres):
                server.erase()
        shutil.rmtree(embedded.socket_folder(DATA), ignore_errors=True)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(servers):
    """pytest-django asks for this before it makes the test database: the moment at which servers have to run.

    Between tests with transactions Django empties all tables, which the audit log's trigger refuses as it should: only
    there, after the test, that one trigger looks away. Making databases and emptying tables takes their owner, so tests
    connect as that role; whole fleets run as the application's.
    """
    import pgtrigger
    from django.conf import settings
    from django.db import connection
    from django.test import TransactionTestCase

    connection.settings_dict.update(settings.DATABASE_OWNER)
    empty_tables = TransactionTestCase._fixture_teardown

    def empty_tables_and_the_audit_log(case):
        with pgtrigger.ignore("fleet.Act:never_emptied"):
            empty_tables(case)

    TransactionTestCase._fixture_teardown = empty_tables_and_the_audit_log


@dataclass
class RunningFleet:
    """A fleet started by the product's own command, with a data folder (and external database) of its own."""

    url: str
    data: Path
    process: subprocess.Popen
    output: Path
    environment: dict

    @property
    def logins(self):
        """Role to {role, username, password}."""
        return {row["role"]: row for row in json.loads((self.data / "logins.json").read_text())}

    def wait_until_answering(self, seconds=90):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"manage.py start ended:\n{self.output.read_text()}"
            if "Ctrl-C stops everything" in self.output.read_text():
                return
            time.sleep(0.1)
        raise AssertionError(f"No fleet after {seconds} s:\n{self.output.read_text()}")

    def stop(self, signal_number=signal.SIGINT):
        """Returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(60)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_fleet(data, stations, **environment):
    """A fleet on `data`, which may hold an earlier one's files. The caller stops it."""
    environment = {**os.environ, "FLEETUI_DATA": str(data), "PORT": str(free_port()), **environment}
    output = Path(data) / "start.txt"
    with open(output, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), "start", "--stations", str(stations)],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
    return RunningFleet(f"http://127.0.0.1:{environment['PORT']}", Path(data), process, output, environment)


@contextlib.contextmanager
def own_place():
    """A data folder, and an empty database of its own where the server is external."""
    from fleetui import embedded

    data = Path(tempfile.mkdtemp(prefix="fleetui-fleet-")).resolve()
    environment = {}
    try:
        if url := os.environ.get("DATABASE_URL"):
            import psycopg

            parts = urllib.parse.urlsplit(url)
            name = f"{parts.path[1:]}_{data.name.replace('-', '_').lower()}"
            environment["DATABASE_URL"] = urllib.parse.urlunsplit(parts._replace(path=f"/{name}"))
            with psycopg.connect(url, autocommit=True) as server:
                server.execute(f'CREATE DATABASE "{name}"')
        yield data, environment
    finally:
        if environment:
            with psycopg.connect(url, autocommit=True) as server:
                server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        shutil.rmtree(embedded.socket_folder(data), ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(scope="session")
def running_fleet():
    """Web server, worker and station host as `make run` starts them, for tests that come as users do."""
    with own_place() as (data, environment):
        fleet = start_fleet(data, 2, **environment)
        try:
            fleet.wait_until_answering()
            yield fleet
        finally:
            status = fleet.stop()
        assert status == 0, f"The fleet did not end cleanly:\n{fleet.output.read_text()}"


@pytest.fixture(scope="module")
def browser():
    """Chromium, a real one; without it a test fails, for a skipped browser test shows nothing.

    Of module scope, because playwright's event loop must be gone before other tests use the database.
    """
    from playwright.sync_api import sync_playwright

    from tests.chromium import MISSING, find_chromium

    path = find_chromium()
    if path is None:
        pytest.fail(MISSING)
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def screenshots():
    """The folder, ignored by git, in which browser tests leave what they saw."""
    folder = ROOT / "tests" / "screenshots"
    folder.mkdir(exist_ok=True)
    return folder

"""What the tests share: real servers for those that need a database, a whole running fleet, and a real browser.

Nothing is started before a test asks for it, so tests of robots/ and training/ run in seconds and without a server.
"""

import atexit
import contextlib
import fcntl
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
# A folder that all workers share: they inherit the variable of the process that hands the tests out to them.
PREPARED = Path(os.environ.setdefault("FLEETUI_PREPARED", str(DATA / "prepared")))
os.environ["DJANGO_SETTINGS_MODULE"] = "fleetui.settings"
os.environ["OMP_NUM_THREADS"] = "1"

# What a page shall show is waited for so long: only what never comes takes it, however busy the machine is.
WAIT_MS = 60_000

# `make faults`: what goes over the same ground again and again, with chance, goes over all of it.
AT_LENGTH = "FLEETUI_AT_LENGTH" in os.environ


def pytest_configure(config):
    """Django is set up before test modules are read, unless only those are asked for that do without it. Where
    pytest-xdist divides the tests, each of its workers does so, with a data folder, servers and fleets of its own.
    """
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        del os.environ["DJANGO_SETTINGS_MODULE"]  # else a worker reads the settings before it has its own data folder
        config.option.loadscopereorder = False  # files are handed out in the order of pytest_collection_modifyitems
        return  # this process hands the tests out and reads none
    without_django = [ROOT / "tests" / "robots", ROOT / "tests" / "training"]
    asked = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if not all(any(path.is_relative_to(folder) for folder in without_django) for path in asked):
        import django

        django.setup()
        from fleetui import static_files

        static_files.collect()  # pages name files by their hash


# The files that take longest are handed out first, so that no worker begins one when the other has nothing left to do.
LONGEST_FIRST = (
    "browser/test_usable_by_everyone.py",
    "browser/test_screens.py",
    "browser/test_walk.py",
    "test_fleet_command.py",
    "test_setup.py",
    "browser/test_control.py",
    "browser/test_faults.py",
    "test_stored_folder.py",
    "test_proxy.py",
    "training/test_self_improvement.py",
    "training/test_sft.py",
    "training/test_benchmarks.py",
    "fleetui/test_sockets.py",
    "fleetui/test_odd_addresses.py",
    "browser/test_wall.py",
    "browser/test_new_method.py",
    "fleetui/test_roles_of_the_database.py",
    "training/test_perception.py",
    "training/test_practice.py",
)


def pytest_collection_modifyitems(items):
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """What a test printed may hold half a surrogate pair, which no worker can send to the one that it reports to."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def servers():
    """PostgreSQL and Valkey: embedded ones, unless DATABASE_URL and REDIS_URL name others."""
    from fleetui import embedded

    started = []
    try:
        for server in embedded.wanted_servers(DATA):
            started.append(server)
            server.start()
            if isinstance(server, embedded.Postgres):
                write_lazily(DATA)
        yield
    finally:
        for server in reversed(started):
            server.stop()
            if isinstance(server, embedded.Postgres):
                server.erase()
        shutil.rmtree(embedded.socket_folder(DATA), ignore_errors=True)


def write_lazily(data):
    """Nobody needs the tests' own database after a power cut, so it waits for no disk."""
    with connect(data) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {name} = off")
        connection.execute("SELECT pg_reload_conf()")


def connect(data):
    """To the embedded database of a data folder, as its owner."""
    import psycopg

    from fleetui import embedded

    place = embedded.database_settings(data, embedded.OWNER)
    address = {"host": place["HOST"], "port": place["PORT"], "user": place["USER"], "dbname": place["NAME"]}
    return psycopg.connect(**address, autocommit=True)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(servers):
    """pytest-django asks for this before it makes the test database: the moment at which servers have to run.

    Making databases and emptying tables takes their owner, so tests connect as that role; whole fleets run as the
    application's.
    """
    from django.conf import settings
    from django.db import connection
    from django.test import TransactionTestCase

    connection.settings_dict.update(settings.DATABASE_OWNER)
    TransactionTestCase._fixture_teardown = empty_tables


def empty_tables(case):
    """After a test with transactions, what Django's flush does in a tenth of the time: tables with few rows are deleted
    from quicker than truncated, and what migrations make of the models stays (content types, permissions). References
    are checked when all is gone. The audit log's trigger refuses this as it should: only here it looks away.
    """
    import pgtrigger
    from django.db import connection, transaction

    kept = {"django_content_type", "auth_permission"}
    tables = [name for name in connection.introspection.django_table_names(only_existing=True) if name not in kept]
    with pgtrigger.ignore("fleet.Act:append_only"), transaction.atomic(), connection.cursor() as cursor:
        for name in tables:
            cursor.execute(f"DELETE FROM {connection.ops.quote_name(name)}")


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

    def wait_until_answering(self, seconds=180):
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
        return self.process.wait(120)


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


@contextlib.contextmanager
def new_fleet(stations, **environment):
    """Web server, worker and station host as `make run` starts them, where nobody has done anything yet; it has to end
    cleanly.
    """
    with own_place() as (data, database):
        if not database and "REDIS_URL" not in os.environ:  # on shared servers it begins with nothing
            copy_folder(prepared(), data)
        with answering(start_fleet(data, stations, **database, **environment)) as fleet:
            yield fleet


@contextlib.contextmanager
def answering(fleet):
    """Once it answers, and it has to end cleanly."""
    try:
        fleet.wait_until_answering()
        yield fleet
    finally:
        status = fleet.stop()
    assert status == 0, f"The fleet did not end cleanly:\n{fleet.output.read_text()}"


def prepared():
    """A data folder as a first start left it. The next start on a copy takes half the time that a first one does; those
    are tested in test_setup.py. Made once, for all workers.
    """
    with open(f"{PREPARED}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not PREPARED.exists():
            with own_place() as (data, _):
                fleet = start_fleet(data, 1)
                try:
                    fleet.wait_until_answering()
                    wait_for_demonstrations(data)
                finally:
                    fleet.stop()
                if (data / "postgresql").exists():
                    copy_folder(data, PREPARED)
                else:  # PostgreSQL's user can't reach it, and a copy would share the other place: begin with nothing
                    PREPARED.mkdir()
    return PREPARED


def copy_folder(source, target):
    """With the owners, since PostgreSQL's files may be another user's."""
    subprocess.run(["cp", "-Rp", f"{source}/.", str(target)], check=True)


def wait_for_demonstrations(data, seconds=180):
    deadline = time.monotonic() + seconds
    with connect(data) as connection:
        while connection.execute("SELECT state FROM learning_dataset").fetchall() != [("ready",)]:
            assert time.monotonic() < deadline, "The first demonstrations were not made."
            time.sleep(0.1)


@pytest.fixture(scope="module")
def one_server():
    from tests.robots.fake_server import FakeServer

    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture
def server(one_server):
    """What stations take for the fleet's server, where nothing has been sent yet."""
    from tests.robots.fake_server import until

    one_server.forget()
    yield one_server
    until(lambda: not one_server.sockets)


@pytest.fixture(scope="session")
def running_fleet():
    """For tests that come as users do, and leave it as they found it: nothing practises, stands stopped or calls."""
    with new_fleet(2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def browser():
    """Chromium, a real one; without it a test fails, for a skipped browser test shows nothing.

    Of module scope, because playwright's event loop must be gone before other tests use the database.
    """
    from playwright.sync_api import expect, sync_playwright

    from tests.chromium import MISSING, find_chromium

    path = find_chromium()
    if path is None:
        pytest.fail(MISSING)
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync"]
    expect.set_options(timeout=WAIT_MS)
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

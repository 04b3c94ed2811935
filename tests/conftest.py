"""What the tests share: real servers for those that need a database, a whole running fleet, and a real browser.

Nothing is started before a test asks for it, so tests of robots/ and training/ run in seconds and without a server.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Settings read the environment once, so the tests' own data folder has to be there before anything imports them.
DATA = Path(tempfile.mkdtemp(prefix="fleetui-tests-")).resolve()
DATA.chmod(0o711)
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
    """pytest-django asks for this before it makes the test database: the moment at which servers have to run."""

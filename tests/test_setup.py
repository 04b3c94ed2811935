"""The set-up as a newcomer meets it: settings that fail loudly, embedded servers, one start that ends what it began."""

import contextlib
import json
import os
import pwd
import re
import signal
import stat
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import psutil
import pytest
from django.core.exceptions import ImproperlyConfigured

from fleetui import access, embedded
from fleetui import settings as settings_file
from fleetui.fleet.models import Station
from fleetui.practice import first_start
from tests.conftest import ROOT, free_port, own_place, start_fleet


def fleet_processes(fleet):
    """All processes that know this data folder, the servers included; zombies have ended."""
    found = {}
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if str(fleet.data) in " ".join(command) or process.environ().get("FLEETUI_DATA") == str(fleet.data):
                found[process.pid] = " ".join(command)
        except (psutil.Error, OSError):
            continue
    valkey = str(embedded.valkey_socket(fleet.data))
    found |= {p.pid: "valkey" for p in psutil.process_iter(["cmdline"]) if valkey in " ".join(p.info["cmdline"] or [])}
    return found


# Settings


@pytest.fixture
def nothing_said(monkeypatch):
    for name in settings_file.Environment.model_fields:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("port", ["http", "0", "65536", "80.5", "-1"])
def test_a_wrong_port_is_refused_with_a_sentence(monkeypatch, port):
    monkeypatch.setenv("PORT", port)
    with pytest.raises(ImproperlyConfigured) as refusal:
        settings_file.read_environment()
    assert str(refusal.value) == f"PORT='{port}' must be a number from 1 to 65535; or unset it."


@pytest.mark.parametrize("name", ["DEBUG", "FLEETUI_HTTPS"])
def test_flags_are_one_or_zero(monkeypatch, name):
    monkeypatch.setenv(name, "maybe")
    with pytest.raises(ImproperlyConfigured, match=f"^{name}='maybe' must be 1 or 0; or unset it.$"):
        settings_file.read_environment()
    for text, flag in {"1": True, "TRUE": True, " on ": True, "0": False, "no": False, "": False, " ": False}.items():
        monkeypatch.setenv(name, text)
        assert getattr(settings_file.read_environment(), name) is flag
    monkeypatch.delenv(name)
    assert getattr(settings_file.read_environment(), name) is False


def test_all_that_is_wrong_is_said_at_once(nothing_said, monkeypatch):
    monkeypatch.setenv("PORT", "http")
    monkeypatch.setenv("REDIS_URL", "http://:secret@cache")
    with pytest.raises(ImproperlyConfigured, match=r"^PORT='http' must .* unset it. REDIS_URL must look ") as refusal:
        settings_file.read_environment()
    assert "secret" not in str(refusal.value)


def test_a_wrong_setting_ends_a_command_with_its_sentence(tmp_path):
    environment = {**os.environ, "FLEETUI_DATA": str(tmp_path), "PORT": "http"}
    command = [sys.executable, str(ROOT / "manage.py"), "start"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode != 0 and "PORT='http' must be a number from 1 to 65535; or unset it." in done.stderr


def test_every_variable_says_what_it_must_be_and_blank_is_unset(nothing_said, monkeypatch):
    plain = settings_file.read_environment()
    for name, field in settings_file.Environment.model_fields.items():
        assert field.description
        monkeypatch.setenv(name, " ")
    assert settings_file.read_environment() == plain
    assert (plain.PORT, plain.FLEETUI_DATA, plain.FLEETUI_HOST) == (8000, ROOT / ".fleetui", [])
    monkeypatch.setenv("FLEETUI_HOST", "fleet.example, ::1,")
    assert settings_file.read_environment().FLEETUI_HOST == ["fleet.example", "[::1]"]


def test_database_url(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:p%40ss@db.example:5433/fleet?sslmode=require")
    assert settings_file.read_environment().DATABASE_URL == {
        "NAME": "fleet",
        "USER": "ann",
        "PASSWORD": "p@ss",
        "HOST": "db.example",
        "PORT": "5433",
        "OPTIONS": {"sslmode": "require"},
    }
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:p@/fleet?host=/run/postgresql")
    assert settings_file.read_environment().DATABASE_URL["HOST"] == "/run/postgresql"
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann@%2Frun%2Fpostgresql:5433/fleet")
    assert settings_file.read_environment().DATABASE_URL["HOST"] == "/run/postgresql"


def test_the_owner_of_the_tables_is_another_role_of_the_same_database(nothing_said, monkeypatch, tmp_path):
    def chosen():
        return settings_file.choose_databases(settings_file.read_environment(), tmp_path)

    application, owner = chosen()
    assert (application.pop("USER"), owner.pop("USER")) == ("fleetui_app", "fleetui") and application == owner
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann@db.example/fleet")
    assert [row["USER"] for row in chosen()] == ["ann", "ann"]
    monkeypatch.setenv("DATABASE_OWNER_URL", "postgresql://owner:secret@db.example/fleet")
    assert [row["USER"] for row in chosen()] == ["ann", "owner"]
    monkeypatch.setenv("DATABASE_OWNER_URL", "postgresql://owner:secret@db.example/other")
    with pytest.raises(ImproperlyConfigured, match="it must be one") as refusal:
        chosen()
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["mysql://a:secret@h/x", "postgresql://ann:secret@host", "secret", "postgresql://ann:secret@h:port/x"]
)
@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_OWNER_URL"])
def test_a_wrong_database_url_is_refused_without_showing_the_password(monkeypatch, name, url):
    monkeypatch.setenv(name, url)
    with pytest.raises(ImproperlyConfigured, match=f"^{name} must look like postgresql://user:") as refusal:
        settings_file.read_environment()
    assert "secret" not in str(refusal.value)


def test_redis_url_for_channels_and_for_celery(monkeypatch):
    monkeypatch.setenv("REDIS_URL", "unix:///run/redis.sock?db=3")
    assert settings_file.read_environment().REDIS_URL == (
        "unix:///run/redis.sock?db=3",
        "redis+socket:///run/redis.sock?virtual_host=3",
    )
    monkeypatch.setenv("REDIS_URL", "redis://cache:6379/2")
    assert settings_file.read_environment().REDIS_URL == ("redis://cache:6379/2", "redis://cache:6379/2")
    monkeypatch.setenv("REDIS_URL", "cache:6379")
    with pytest.raises(ImproperlyConfigured, match="REDIS_URL must look like"):
        settings_file.read_environment()


def test_live_messages_and_jobs_outlast_silence(settings):
    """redis-py's own time-out would end idle consumers, a short visibility time-out would start long runs twice."""
    from channels.layers import get_channel_layer

    hosts = get_channel_layer()._kwargs["hosts"]
    assert [host["socket_timeout"] for host in hosts] == [None]
    assert settings.CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"] > 7 * 24 * 3600
    assert settings.CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS["visibility_timeout"] > 7 * 24 * 3600


# The embedded servers


def test_sockets_fit_and_belong_to_one_data_folder(tmp_path):
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    assert len(str(embedded.socket_folder(deep) / "pg" / ".s.PGSQL.5432")) < 104
    assert embedded.socket_folder(deep) != embedded.socket_folder(tmp_path)


def test_a_socket_folder_of_someone_else_is_not_trusted(tmp_path):
    folder = embedded.socket_folder(tmp_path)
    folder.symlink_to(tmp_path)
    try:
        with pytest.raises(embedded.EmbeddedError, match="belongs to someone else"):
            embedded.make_socket_folder(tmp_path)
    finally:
        folder.unlink()


def test_a_data_folder_is_served_once(tmp_path):
    first, second = embedded.DataLock(tmp_path), embedded.DataLock(tmp_path)
    first.take("process 12, http://localhost:8000/")
    with pytest.raises(embedded.AlreadyRunning, match=r"already running .process 12, http://localhost:8000/."):
        second.take("process 13")
    first.release()
    second.take("process 13")
    second.release()


SERVE = """
import sys, time
from pathlib import Path
from fleetui import embedded
servers = [embedded.Postgres(Path(sys.argv[1])), embedded.Valkey(Path(sys.argv[1]))]
for server in servers:
    server.start()
print(*(server.process.pid for server in servers), flush=True)
time.sleep(100)
"""


def serve(data):
    command = [sys.executable, "-c", SERVE, str(data)]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return parent, [int(pid) for pid in parent.stdout.readline().split()]


def test_servers_end_with_a_killed_parent_and_keep_their_data():
    import psycopg
    import redis

    with own_place() as (data, _):
        parent, pids = serve(data)
        place = embedded.database_settings(data, embedded.OWNER)
        address = {"host": place["HOST"], "port": place["PORT"], "user": place["USER"], "dbname": place["NAME"]}
        with psycopg.connect(**address) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
            locale = connection.execute("SELECT datlocale FROM pg_database WHERE datname = 'fleetui'").fetchone()
            assert locale == ("C.UTF-8",)
        with redis.Redis(unix_socket_path=str(embedded.valkey_socket(data))) as client:
            client.set("kept", "7")
        assert stat.S_IMODE(embedded.valkey_socket(data).stat().st_mode) == 0o700
        assert stat.S_IMODE(Path(place["HOST"]).stat().st_mode) == 0o700
        time.sleep(1.1)  # the append-only file is written through once a second
        parent.kill()
        parent.wait()
        if sys.platform == "linux":
            assert embedded.wait_gone(pids, 60) == []
        parent, second = serve(data)
        try:
            assert len(second) == 2 and set(second).isdisjoint(pids)
            with psycopg.connect(**address) as connection:
                assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
            with redis.Redis(unix_socket_path=str(embedded.valkey_socket(data))) as client:
                assert client.get("kept") == b"7"
        finally:
            parent.kill()
            parent.wait()
            embedded.wait_gone(second, 60)
        embedded.Postgres(data).erase()


@pytest.mark.skipif(sys.platform != "linux", reason="the leftover is made by Linux' setsid --fork")
def test_a_server_left_behind_is_stopped_and_a_stale_pid_is_not_believed():
    with own_place() as (data, _):
        parent, pids = serve(data)
        # A server that outlived its parent: the same command again, as a child of nobody.
        process = psutil.Process(pids[0])
        command, user = process.cmdline(), process.uids().real
        group = process.gids().real
        parent.kill()
        parent.wait()
        embedded.wait_gone(pids, 60)
        who = {"user": user, "group": group, "extra_groups": []} if os.getuid() == 0 else {}
        left = subprocess.Popen(command, cwd=command[2], stderr=subprocess.DEVNULL, start_new_session=True, **who)
        pid_file = Path(command[2]) / "postmaster.pid"
        deadline = time.monotonic() + 60
        while not pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        server = embedded.Postgres(data)
        server.start()
        assert left.wait(60) is not None
        server.stop()

        pid_file.write_text(f"{os.getpid()}\n{command[2]}\n1\n5432\n\n\n")  # a pid that is another program's by now
        server.start()
        server.stop()
        server.erase()


def test_copied_binaries_find_their_libraries(tmp_path, monkeypatch):
    """What root does where the wheel lies in a folder that PostgreSQL's user can't read."""
    monkeypatch.setattr(embedded, "SHARED_PLACE", tmp_path / "shared")
    server = embedded.Postgres(tmp_path)
    server.user = pwd.getpwuid(os.getuid())
    copied = server._copied_binaries()
    assert tmp_path in copied.parents
    for name in ("postgres", "initdb", "psql", "pg_ctl"):
        done = subprocess.run([copied / name, "--version"], capture_output=True, text=True)
        assert "18." in done.stdout, done.stderr
    assert server._copied_binaries() == copied


def open_to_others(data):
    """What in a data folder another user could read, as mode and name; its top may be passed by PostgreSQL's group."""
    found = []
    for path in [data, *data.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # a log that was turned over, a file of PostgreSQL's
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode & (0o067 if path == data else 0o077) and not path.is_symlink():
                found.append(f"{mode:o} {path.relative_to(data)}")
    return found


def test_a_data_folder_that_others_could_read_is_closed_to_them(tmp_path):
    data = tmp_path / "data"
    (data / "episodes").mkdir(parents=True)
    (data / "logins.json").write_text("[]")
    for path, mode in ((data, 0o755), (data / "episodes", 0o755), (data / "logins.json", 0o644)):
        path.chmod(mode)
    embedded.close_to_others(data)
    assert open_to_others(data) == [] and stat.S_IMODE(data.stat().st_mode) == 0o700
    data.chmod(0o1777)  # as /tmp
    with pytest.raises(embedded.EmbeddedError, match="is not this user's alone"):
        embedded.close_to_others(data)


# First start


def test_first_start_makes_everything_once(db, settings, tmp_path):
    from django.contrib.auth.models import User

    from fleetui.fleet.models import Lab, Station

    settings.DATA = tmp_path
    tokens, first = first_start.prepare(None)
    assert first
    logins = (tmp_path / "logins.json").read_text()
    rows = json.loads(tokens.read_text())
    lab = Lab.objects.get()
    assert (lab.slug, lab.stations.count(), lab.datasets.count()) == ("main", 4, 1)
    assert set(lab.tasks.values_list("family", flat=True)) == {"block2block", "block_to_place"}
    for name in ("logins.json", "stations.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    for row in json.loads(logins):
        user = User.objects.get(username=row["username"])
        assert user.check_password(row["password"])
        assert user.memberships.get().role == row["role"]
        assert row["password"] not in user.password
    assert [row["station"] for row in rows] == ["station-1", "station-2", "station-3", "station-4"]
    assert Station.objects.get(token_hash=access.hash_token(rows[2]["token"])).slug == "station-3"

    assert first_start.prepare(None) == (tokens, False)
    assert (tmp_path / "logins.json").read_text() == logins
    assert json.loads(tokens.read_text()) == rows
    assert (Lab.objects.count(), lab.stations.count(), lab.tasks.count(), lab.datasets.count()) == (1, 4, 2, 1)

    first_start.prepare(6)
    assert json.loads(tokens.read_text())[:4] == rows and lab.stations.count() == 6

    tokens.unlink()
    first_start.prepare(2)  # never fewer; tokens that were lost are void
    again = json.loads(tokens.read_text())
    assert lab.stations.count() == 6 and again[0]["token"] != rows[0]["token"]
    assert not Station.objects.filter(token_hash=access.hash_token(rows[0]["token"])).exists()
    assert Station.objects.filter(token_hash=access.hash_token(again[5]["token"])).exists()


def test_what_people_removed_after_the_first_start_stays_removed(db, settings, tmp_path):
    from django.contrib.auth.models import User

    from fleetui.fleet.actions import people
    from fleetui.fleet.models import Lab, Membership

    settings.DATA = tmp_path
    first_start.prepare(1)
    lab, logins = Lab.objects.get(), (tmp_path / "logins.json").read_text()
    people.remove_member(member=lab.memberships.get(role="supervisor"), user=access.SERVER)
    people.change_password(user=User.objects.get(username="manager"), password="another one 7")
    User.objects.get(username="researcher").delete()
    lab.datasets.all().delete()
    assert first_start.prepare(1)[1] is False
    assert list(Membership.objects.values_list("user__username", flat=True)) == ["manager"]
    assert User.objects.get(username="manager").check_password("another one 7")
    assert not User.objects.filter(username="researcher").exists() and not lab.datasets.exists()
    assert (tmp_path / "logins.json").read_text() == logins


def test_log_ins_of_a_fleet_that_never_started(settings, tmp_path):
    settings.DATA = tmp_path
    with pytest.raises(first_start.FirstStartError, match="the first `make run` makes them"):
        first_start.read_logins()
    (tmp_path / "logins.json").write_text("[{")
    with pytest.raises(first_start.FirstStartError, match="is damaged"):
        first_start.read_logins()


# One whole fleet, from its first start to its last


def manage(fleet, *arguments):
    command = [sys.executable, str(ROOT / "manage.py"), *arguments]
    return subprocess.run(command, env=fleet.environment, cwd="/", capture_output=True, text=True, timeout=180)


def test_a_start_on_another_folders_database_is_refused_before_it_changes_anything(db, settings, tmp_path):
    settings.DATA = tmp_path / "home"
    settings.DATA.mkdir()
    first_start.prepare(1)
    tokens = Station.objects.values_list("token_hash", flat=True)
    before = list(tokens)
    settings.DATA = tmp_path / "elsewhere"
    settings.DATA.mkdir()
    with pytest.raises(first_start.FirstStartError, match="is not the data folder of this database") as refusal:
        first_start.prepare(1)
    assert list(tokens) == before and not list(settings.DATA.iterdir())
    # The sentence says how to go on where the old folder is lost.
    (settings.DATA / "fleet.id").write_text(re.search(r"write (\S+) into", str(refusal.value))[1])
    first_start.prepare(1)


@pytest.mark.parametrize(
    ("variable", "address"),
    [("DATABASE_URL", "postgresql://ann:secret@127.0.0.1:1/fleet"), ("REDIS_URL", "redis://:secret@127.0.0.1:1/0")],
)
@pytest.mark.parametrize("process", ["start", "worker"])
def test_an_unreachable_server_is_one_sentence_and_a_failure(servers, process, variable, address):
    """The other server is the tests' own."""
    from django.conf import settings

    database = settings.DATABASES["default"]
    host = urllib.parse.quote(database["HOST"], safe="")
    own = f"postgresql://{database['USER']}:{database.get('PASSWORD', '')}@{host}:{database['PORT']}/postgres"
    with own_place() as (data, _):
        commands = {
            "start": ["manage.py", "start", "--stations", "1"],
            "worker": ["manage.py", "worker", "--main"],
        }
        addresses = {"DATABASE_URL": own, "REDIS_URL": settings.CHANNELS_ADDRESS, variable: address}
        environment = {**os.environ, "FLEETUI_DATA": str(data), "PORT": str(free_port()), **addresses}
        done = subprocess.run(
            [sys.executable, *commands[process]], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in said and "secret" not in said
    (line,) = [line for line in said.splitlines() if variable in line]
    assert "can't be used" in line and line.endswith(f"start it, or correct {variable}.")


def test_a_fleet_from_first_start_to_last():
    with own_place() as (data, environment):
        fleet = start_fleet(data, 1, **environment)
        try:
            fleet.wait_until_answering()
            assert open_to_others(data) == []
            logins = fleet.logins
            for row in logins.values():
                assert row["password"] in fleet.output.read_text()

            # Other commands find the running fleet by its data folder alone.
            shown = manage(fleet, "logins", "--json")
            assert {row["role"]: row for row in json.loads(shown.stdout)} == logins, shown.stderr
            assert "No migrations to apply" in manage(fleet, "migrate").stdout

            # A second start is told so, and the first one goes on.
            second = manage(fleet, "start")
            assert second.returncode == 1
            assert "already running" in second.stderr and fleet.url.replace("127.0.0.1", "localhost") in second.stderr
            assert fleet.process.poll() is None

            # A child that crashes is started again.
            children = {p.pid: " ".join(p.cmdline()) for p in psutil.Process(fleet.process.pid).children()}
            worker = next(pid for pid, command in children.items() if "manage.py worker" in command)
            os.kill(worker, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                now = [p for p in psutil.Process(fleet.process.pid).children() if p.status() != psutil.STATUS_ZOMBIE]
                if any(p.pid != worker and "manage.py worker" in " ".join(p.cmdline()) for p in now):
                    break
                time.sleep(0.1)
            else:
                pytest.fail("The killed worker was not started again.")
            assert "worker ended (code -9); again in 1 s" in fleet.output.read_text()

            assert fleet.stop(signal.SIGINT) == 0, fleet.output.read_text()
            assert "Stopped: no process is left." in fleet.output.read_text()
            assert fleet_processes(fleet) == {}

            # The same data; then this start is killed, and the next one clears up behind it.
            fleet = start_fleet(data, 1, **environment)
            fleet.wait_until_answering()
            assert fleet.logins == logins
            # Passwords are printed once; later starts say where they are.
            assert "manage.py logins" in fleet.output.read_text()
            assert not any(row["password"] in fleet.output.read_text() for row in logins.values())
            os.kill(fleet.process.pid, signal.SIGKILL)
            fleet.process.wait()
            fleet = start_fleet(data, 1, **environment)
            fleet.wait_until_answering()
            assert fleet.stop(signal.SIGTERM) == 0, fleet.output.read_text()
            assert fleet_processes(fleet) == {}
        finally:
            fleet.stop()


def test_a_taken_port_is_said(running_fleet):
    with own_place() as (data, environment):
        port = running_fleet.url.rpartition(":")[2]
        fleet = start_fleet(data, 1, **environment, PORT=port)
        assert fleet.process.wait(180) == 1
        assert f"Port {port} can't be used" in fleet.output.read_text()

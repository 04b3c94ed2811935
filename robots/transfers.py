"""What a station and the server exchange by HTTP: finished episodes go up, checkpoints come down.

Stands beside the live socket of link.py, which decides when to send and to fetch. Episodes lie in a folder on disk
first, so neither a lost network nor a killed process loses one; sending one twice is harmless, as the server knows its
uuid. Checkpoints are kept by their sha256 sums.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx

from robots.atomic_files import replacing, write_atomically
from robots.episodes import Episode, EpisodeError, episodes_to_bytes, read_episodes, unchecked_bytes
from robots.protocol import model_sum

log = logging.getLogger(__name__)

EPISODES_A_REQUEST = 64
BYTES_A_REQUEST = 16 * 2**20
SPOOLED_EPISODES = 2000
BYTES_IN_MEMORY = 128 * 2**20  # while the disk is full; an hour of driving a table is 3 MB, of pictures 500
FAILURES_ALONE = 3  # while others were taken: then an episode is set aside
FAILURES_IN_A_ROW = 5
CHECKPOINTS_KEPT = 24
MODELS_KEPT = 4  # pretrained ones, which may have gigabytes each


class LinkError(Exception):
    """The link to the server cannot do what it should; the text is for a person."""


class MissingToken(LinkError):
    """The station was given no token, or none that can be one."""


class NotAdmitted(LinkError):
    """The server knows no such token (401), or the token may not do this (403)."""


class Refused(LinkError):
    """The server took the request and found it wrong; sending it again would not help."""


class Unreachable(LinkError):
    """Nobody answered, or the server is in trouble; sending it again later may help."""


class Broken(Unreachable):
    """The server failed at this request (500): what was sent may be the cause, or not."""


def check_token(token: str | None, station: str = "") -> str:
    """The token as it is sent; MissingToken where it can't be one."""
    name = f"The station {station}" if station else "This station"
    if not token or not token.strip():
        raise MissingToken(
            f"{name} has no token. A lab manager makes one on the station's page; put it into the tokens file."
        )
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise MissingToken(f"The token of {name.lower()} has characters that no token has; copy it again.")
    return token


def _sentence(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return (answer.text or answer.reason_phrase)[:300]


def _check(answer: httpx.Response, what: str) -> None:
    code = answer.status_code
    if code == 401:
        raise NotAdmitted(f"The server does not know this station's token ({what}). A lab manager can make a new one.")
    if code == 403:
        raise NotAdmitted(f"This station's token may not do this ({what}): {_sentence(answer)}")
    if code in (408, 425, 429) or code >= 500:
        kind = Broken if code == 500 else Unreachable
        raise kind(f"The server could not answer ({what}, HTTP {code}): {_sentence(answer)}")
    if code == 400:
        raise Refused(
            f"The server could not read it, so it may have been cut short on the way ({what}): {_sentence(answer)}"
        )
    if code == 422:
        raise Refused(f"The server read it and found it wrong ({what}): {_sentence(answer)}")
    if code != 200:
        raise Refused(f"The server refused it ({what}, HTTP {code}): {_sentence(answer)}")


class Spool:
    """Finished episodes on disk until the server has them, oldest first, at most SPOOLED_EPISODES.

    Where the disk is full they wait in memory, and go to disk as soon as that works. What a person drove is never given
    up on disk, and in memory last. What can't be sent at all lies in `refused`, with the reason beside it.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.refused = self.folder / "refused"
        self.refused.mkdir(parents=True, exist_ok=True)
        self.refused_count = len(list(self.refused.glob("*.safetensors")))
        self.lost_count = 0  # episodes that there was no room for, neither on disk nor in memory
        self._names = deque(sorted(path.name for path in self.folder.glob("*.safetensors")))
        self._in_memory: dict[str, bytes] = {}
        # How often the server failed at an episode alone, and how often so while it took others.
        self.failed: Counter[str] = Counter()
        self.blamed: Counter[str] = Counter()
        self._lock = threading.RLock()  # the station's thread adds, the link's takes away

    def __len__(self) -> int:
        return len(self._names)

    @property
    def in_memory(self) -> int:
        """How many of the episodes wait in memory, since the disk can't be written."""
        return len(self._in_memory)

    def waiting(self) -> str:
        """How many wait, and where, in a sentence."""
        kept = f", {self.in_memory} of them in memory, as the disk can't be written" if self.in_memory else ""
        return f"{len(self)} episodes wait{kept}."

    def add(self, episode: Episode) -> None:
        """Keep it until the server has it; one that breaks the format is set aside."""
        name = f"{time.time_ns():020d}-{episode.purpose}-{episode.uuid}.safetensors"
        try:
            content = episodes_to_bytes([episode])
        except EpisodeError as error:  # a world that breaks the format: no server takes it, and it is kept all the same
            self._set_aside(name, unchecked_bytes([episode]), str(error))
            return
        with self._lock:
            self._flush()  # so that the oldest are the first to go to disk
            self._names.append(name)
            if self._in_memory or not self._write(name, content):
                self._in_memory[name] = content
                self._bound_memory()
            if len(self._names) > SPOOLED_EPISODES:
                self._drop_one(self._names, "The spool is full")

    def _write(self, name: str, content: bytes) -> bool:
        # Written and renamed without waiting for the disk: the control loop stands still meanwhile, and only a power
        # cut could lose the file, which a short practice episode is not worth.
        try:
            write_atomically(self.folder / name, content, durable=False)
        except OSError as error:
            if not self._in_memory:
                log.error("%s can't be written (%s): episodes wait in memory until it can.", self.folder, error)
            return False
        return True

    def _flush(self) -> None:
        with self._lock:
            for name, content in list(self._in_memory.items()):
                if not self._write(name, content):
                    return
                del self._in_memory[name]
                if not self._in_memory:
                    log.warning("%s can be written again: nothing waits in memory any more.", self.folder)

    def _bound_memory(self) -> None:
        while len(self._in_memory) > 1 and sum(map(len, self._in_memory.values())) > BYTES_IN_MEMORY:
            self._drop_one(self._in_memory, f"The disk is full and {BYTES_IN_MEMORY} bytes wait in memory", all_of=True)

    def _drop_one(self, names: Iterable[str], why: str, all_of: bool = False) -> None:
        """Practice first: it is stale anyway, and a person's corrections are dear."""
        kinds = ("-practice-", "-evaluation-", "-demonstration-") + (("",) if all_of else ())
        name = next((name for kind in kinds for name in list(names) if kind in name), None)
        if name is None:
            return  # only corrections: the disk itself is their bound
        self.lost_count += 1
        log.error("%s: the episode %s is dropped.", why, name)
        self.remove([name])

    def next(self) -> list[str]:
        """The names of the next request's episodes, those that failed least first."""
        self._flush()
        names: list[str] = []
        size = 0
        waiting = sorted(self._names, key=lambda name: self.failed[name])  # what failed must not block
        for name in waiting[:EPISODES_A_REQUEST]:
            size += self._size(name)
            if names and size > BYTES_A_REQUEST:
                break
            names.append(name)
        return names

    def _size(self, name: str) -> int:
        with self._lock:
            if name in self._in_memory:
                return len(self._in_memory[name])
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / name).stat().st_size
        return 0

    def read(self, names: Iterable[str]) -> list[Episode]:
        """Of these the ones that can be read; the others are set aside, or gone."""
        episodes = []
        for name in names:
            with self._lock:
                source = self._in_memory.get(name, self.folder / name)
            try:
                episodes += read_episodes(source)
            except FileNotFoundError:
                self.remove([name])
            except EpisodeError as error:
                self.refuse(name, str(error))
        return episodes

    def remove(self, names: Iterable[str]) -> None:
        """Forget them: the server has them, or nobody ever will."""
        with self._lock:
            for name in names:
                self._in_memory.pop(name, None)
                del self.failed[name], self.blamed[name]
                (self.folder / name).unlink(missing_ok=True)
                with contextlib.suppress(ValueError):
                    self._names.remove(name)

    def refuse(self, name: str, sentence: str) -> None:
        """Kept apart with the reason beside it, so that one bad episode neither blocks the others nor is lost."""
        with self._lock:
            content = self._in_memory.get(name)
            if content is None:
                with contextlib.suppress(FileNotFoundError):
                    os.replace(self.folder / name, self.refused / name)
            self.remove([name])
            self._set_aside(name, content, sentence)

    def _set_aside(self, name: str, content: bytes | None, sentence: str) -> None:
        log.error("The episode %s was refused and lies in %s: %s", name, self.refused, sentence)
        try:
            if content is not None:
                write_atomically(self.refused / name, content)
            said = f"{sentence}\n".encode(errors="backslashreplace")
            write_atomically(self.refused / f"{name}.txt", said, durable=False)
        except OSError as error:  # the log has the reason
            self.lost_count += content is not None
            log.error("%s can't be written there: %s", name, error)
        self.refused_count = len(list(self.refused.glob("*.safetensors")))


class Uploads:
    """Spooled episodes on their way to the server. What is wrong with one must not hold up the others.

    `hold` is called with policies' ids when the server asks the station to wait for newer ones.
    """

    def __init__(self, server: str, spool: Spool, hold: Callable[[tuple[str, ...]], None]):
        self.server, self.spool, self.hold = server, spool, hold

    async def send(self, http: httpx.AsyncClient, names: list[str]) -> None:
        """These episodes of the spool. Unreachable or NotAdmitted where they have to wait."""
        episodes = self.spool.read(names)
        if not episodes:
            return
        try:
            answer = await upload(http, self.server, episodes)
        except (Refused, EpisodeError) as error:
            if len(names) == 1:
                self.spool.refuse(names[0], str(error))
            else:  # find the one that is wrong; the others are good
                for name in names:
                    await self.send(http, [name])
            return
        except Broken as error:
            await self._send_alone(http, names, error)
            return
        self.spool.remove(names)
        if answer["hold"]:
            self.hold(tuple(sorted({episode.policy for episode in episodes})))

    async def _send_alone(self, http: httpx.AsyncClient, names: list[str], error: Broken) -> None:
        """One of these, or the server itself, is the cause. What fails alone, time and again, while the server takes
        others, is set aside; where it takes nothing, everything waits.
        """
        spool, failed, taken = self.spool, [], 0
        if len(names) == 1:
            spool.failed[names[0]] += 1
            raise error
        for name in names:
            try:
                await self.send(http, [name])
                taken += 1
            except Broken:
                failed.append(name)
                if not taken and len(failed) == FAILURES_IN_A_ROW:
                    break  # a server in trouble is not asked sixty times
        for name in failed if taken else ():
            spool.blamed[name] += 1
            if spool.blamed[name] >= FAILURES_ALONE:
                spool.refuse(name, f"{error} It failed alone {FAILURES_ALONE} times while others were taken.")
        if failed:
            raise error  # and a pause before they are tried again


class CheckpointCache:
    """Checkpoints by their sha256, shared by all stations of a host: each is downloaded once. The pretrained models
    that they stand on lie beside its folder, in models/.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.models = ModelCache(self.folder.parent / "models")
        self._locks: dict[str, asyncio.Lock] = {}
        self._checked: set[str] = set()

    async def fetch(self, http: httpx.AsyncClient, url: str, sha256: str) -> Path:
        """The checkpoint's file, downloaded if need be; LinkError where what comes is not what was named."""
        if len(sha256) != 64 or not all(c in "0123456789abcdef" for c in sha256):
            raise Refused(f"{sha256!r} is no sha256 sum, so the checkpoint cannot be trusted.")
        path = self.folder / f"{sha256}.safetensors"
        async with self._locks.setdefault(sha256, asyncio.Lock()):
            if path.exists() and sha256 not in self._checked:
                if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                    self._checked.add(sha256)
                else:
                    path.unlink()  # damaged since it was stored
            if path.exists():
                os.utime(path)
                return path
            await _download(http, url, sha256, path, "a checkpoint")
            self._checked.add(sha256)
            self._forget_oldest()
        return path

    def _forget_oldest(self) -> None:
        """Among them what a killed process left half downloaded."""
        files = sorted(self.folder.glob("*.safetensors*"), key=lambda path: path.stat().st_mtime)
        for path in files[:-CHECKPOINTS_KEPT]:
            path.unlink(missing_ok=True)


class ModelCache:
    """Pretrained models by their sums, a folder each, shared by all stations of a host: each is downloaded once."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._locks: dict[str, asyncio.Lock] = {}
        self._checked: set[str] = set()

    async def fetch(self, http: httpx.AsyncClient, server: str, model: Mapping[str, Any]) -> Path:
        """The model's folder, which appears when all its files are there; LinkError where what comes is not what was
        named. `model`: as of the policy message. A download that broke off goes on with the next file.
        """
        sha256, files = str(model["sha256"]), model["files"]
        if model_sum(files) != sha256:
            raise Refused(f"The server names a pretrained model {sha256[:12]}, and its files make another sum.")
        path, coming = self.folder / sha256, self.folder / f".{sha256}.coming"
        async with self._locks.setdefault(sha256, asyncio.Lock()):
            # Gigabytes are read, and others wait.
            if path.is_dir() and (sha256 in self._checked or await asyncio.to_thread(_is_whole, path, files)):
                self._checked.add(sha256)
                os.utime(path)
                return path
            shutil.rmtree(path, ignore_errors=True)  # damaged since it was stored
            for each in files:
                target = coming / each["name"]
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():  # it is there when it is whole
                    url = f"{server}/api/station/models/{sha256}/{each['name']}"
                    await _download(http, url, each["sha256"], target, "a pretrained model")
            os.replace(coming, path)
            self._checked.add(sha256)
            self._forget_oldest()
        return path

    def _forget_oldest(self) -> None:
        """Among them what never came whole."""
        folders = sorted(self.folder.iterdir(), key=lambda each: each.stat().st_mtime)
        for each in folders[:-MODELS_KEPT]:
            self._checked.discard(each.name)
            shutil.rmtree(each, ignore_errors=True)


def _is_whole(folder: Path, files: Iterable[Mapping[str, Any]]) -> bool:
    """Whether each file is there with its sum."""
    for each in files:
        try:
            with open(folder / each["name"], "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != each["sha256"]:
                    return False
        except FileNotFoundError:
            return False
    return True


async def _download(http: httpx.AsyncClient, url: str, sha256: str, path: Path, what: str) -> None:
    """A file with this sum. Unreachable where it breaks off, or what comes has another sum."""
    digest = hashlib.sha256()
    with replacing(path, durable=False) as temporary:
        try:
            async with http.stream("GET", url) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    _check(answer, f"download of {what}")
                with open(temporary, "wb") as file:
                    async for chunk in answer.aiter_bytes(2**18):
                        digest.update(chunk)
                        file.write(chunk)
        except httpx.HTTPError as error:
            raise Unreachable(f"The download of {what} broke off ({error or type(error).__name__}).") from None
        if digest.hexdigest() != sha256:
            raise Unreachable(
                f"{what[0].upper()}{what[1:]} came with a wrong sha256 sum, so it was cut short or changed on the way."
            )


async def upload(http: httpx.AsyncClient, server: str, episodes: list[Episode]) -> dict[str, bool]:
    """Send finished episodes; {"hold": bool}: whether the station shall wait for a newer policy."""
    try:
        answer = await http.post(
            f"{server}/api/station/episodes",
            content=episodes_to_bytes(episodes),
            headers={"Content-Type": "application/octet-stream"},
        )
    except httpx.HTTPError as error:
        raise Unreachable(f"The upload of episodes broke off ({error or type(error).__name__}).") from None
    if answer.status_code in (404, 405) or answer.is_redirect:  # nothing that was sent can be the cause
        raise Unreachable(f"Something else than the fleet's server answered (HTTP {answer.status_code}).")
    _check(answer, "upload of episodes")
    try:
        return {"hold": bool(answer.json()["hold"])}
    except (ValueError, KeyError, TypeError):
        raise Unreachable("Something else than the fleet's server answered the upload of episodes.") from None

"""What a call and a transfer need beside the network: how long to wait before a call is said again, what a refusal
says, and a download that lies on the disk until it is whole.
"""

import base64
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from fleetui_client.errors import BadAnswer, FleetError, NotAuthorised, Refused, Unreachable

Progress = Callable[[int, int], None]  # bytes done, and in all
TRIES = 5
AGAIN = (502, 503, 504)  # what a server or the proxy before it says where it can't just now
PIECE = 2**18  # bytes
SENT_AT_ONCE = 4 * 2**20  # bytes of an archive
ENDED = ("canceled", "failed", "completed")  # states of a run, and of a comparison, that stay
IMPORT_RESTS = ("asking", "ready", "failed", "canceled")  # states of an import in which nothing happens by itself


def new_key() -> str:
    """By which an act that is said again is done once."""
    return uuid.uuid4().hex


def waits() -> Iterator[float]:
    """Seconds before each further try."""
    return iter([0.2, 0.5, 1.0, 2.0][: TRIES - 1])


def wait_of(answer: httpx.Response | None, otherwise: float) -> float:
    """What the server asks for, where it is a while that anybody waits."""
    asked = answer.headers.get("Retry-After", "") if answer is not None else ""
    return min(10.0, float(asked)) if asked.isdecimal() else otherwise


def away(url: str, error: Exception) -> Unreachable:
    """Of an error of the network."""
    what = str(error) or type(error).__name__
    return Unreachable(f"No fleet answers at {url} ({what}). Is it running, and is the address right?")


def refusal(answer: httpx.Response) -> FleetError:
    """What an answer says that is no success."""
    try:
        told = answer.json()
        sentence, code, problems = told["detail"], told["code"], told.get("problems")
    except (ValueError, KeyError, TypeError):
        if answer.status_code in AGAIN:
            return Unreachable(f"The server answers {answer.status_code}: the fleet behind it can't be reached now.")
        what = f"{answer.status_code} {answer.reason_phrase}"
        return BadAnswer(f"What answers at {answer.request.url} is no fleet's API: {what}. Check the address.")
    if answer.status_code in AGAIN:
        return Unreachable(sentence)
    kind = NotAuthorised if answer.status_code in (401, 403) else Refused
    return kind(sentence, answer.status_code, code, problems)


def body_of(answer: httpx.Response) -> Any:
    """The JSON of a success."""
    if not answer.is_success:
        raise refusal(answer)
    try:
        return answer.json()
    except ValueError:
        raise BadAnswer(f"What answers at {answer.request.url} is no fleet's API. Check the address.") from None


class Download:
    """A file that comes: TARGET.part until it is whole, and TARGET.part.etag says of which file it is the beginning. A
    later download of the same goes on where an earlier one broke off.
    """

    def __init__(self, target: Path, overwrite: bool, progress: Progress | None):
        if target.exists() and not overwrite:
            raise FleetError(f"{target} exists already; move it away, or say that it may be overwritten.")
        target.parent.mkdir(parents=True, exist_ok=True)
        self.target, self.progress = target, progress
        self.part = target.with_name(f"{target.name}.part")
        self.mark = target.with_name(f"{target.name}.part.etag")
        self.done = self.total = 0
        self.digest = ""
        self.file: BinaryIO | None = None

    def headers(self) -> dict[str, str]:
        """What to ask for: the whole, or what is missing."""
        headers = {"Accept-Encoding": "identity"}
        if self.mark.exists() and self.part.exists() and (have := self.part.stat().st_size):
            headers |= {"Range": f"bytes={have}-", "If-Range": self.mark.read_text()}
        return headers

    def begin(self, answer: httpx.Response) -> None:
        """With the head of an answer."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status_code == 206 and found is not None:
            self.done, self.total = int(found[1]), int(found[2])
        else:
            self.done, self.total = 0, int(answer.headers.get("Content-Length", 0))
        self.digest = answer.headers.get("Repr-Digest", "")
        self.file = open(self.part, "r+b" if self.done else "wb")  # noqa: SIM115  (end() closes it)
        self.file.seek(self.done)
        self.file.truncate()
        self.mark.write_text(answer.headers.get("ETag", ""))
        self.tell()

    def add(self, piece: bytes) -> None:
        """The next bytes of it."""
        assert self.file is not None  # begin() was called
        self.file.write(piece)
        self.done += len(piece)
        self.tell()

    def tell(self) -> None:
        """How far it is."""
        if self.progress is not None:
            self.progress(self.done, self.total)

    def end(self) -> None:
        """No more comes now; what has come stays."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def start_anew(self) -> None:
        """What lies here is not the beginning of what is wanted."""
        self.end()
        for each in (self.part, self.mark):
            each.unlink(missing_ok=True)

    @property
    def is_whole(self) -> bool:
        """Whether all has come."""
        return self.total > 0 and self.done == self.total

    def keep(self) -> Path:
        """It is whole: check it where the server said its digest, and give it its name."""
        told = re.fullmatch(r"sha-256=:([A-Za-z0-9+/=]+):", self.digest)
        if told is not None:
            with open(self.part, "rb") as file:
                found = hashlib.file_digest(file, "sha256").digest()
            if base64.b64encode(found).decode() != told[1]:
                self.start_anew()
                raise FleetError(f"{self.target.name} was damaged on the way; fetch it again.")
        os.replace(self.part, self.target)
        self.mark.unlink(missing_ok=True)
        return self.target

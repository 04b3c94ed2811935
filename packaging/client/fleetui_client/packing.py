"""A LeRobot dataset as it is sent: an archive, as it lies there; a folder, as the .tar that it would be, of which no
copy is made on the disk.
"""

import hashlib
import os
import stat
import tarfile
from bisect import bisect_right
from pathlib import Path

from fleetui_client.errors import FleetError

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2")
READ = 2**20  # bytes at once
BLOCK = tarfile.BLOCKSIZE


class Packed:
    """Bytes that can be read from any place, the same ones each time."""

    def __init__(self, name: str):
        self.name = name
        self.size = 0
        self._starts: list[int] = []
        self._parts: list[tuple[bytes | Path, int]] = []

    def add(self, content: bytes | Path, size: int) -> None:
        """What comes next: these bytes, or so many of a file."""
        if size:
            self._starts.append(self.size)
            self._parts.append((content, size))
            self.size += size

    def read(self, offset: int, most: int) -> bytes:
        """Up to so many bytes from there on; fewer at the end alone."""
        found = bytearray()
        number = max(0, bisect_right(self._starts, offset) - 1)
        while len(found) < most and number < len(self._parts):
            content, size = self._parts[number]
            within = offset + len(found) - self._starts[number]
            found += self._piece(content, within, min(size - within, most - len(found)))
            number += 1
        return bytes(found)

    def _piece(self, content: bytes | Path, start: int, size: int) -> bytes:
        if isinstance(content, bytes):
            return content[start : start + size]
        with open(content, "rb") as file:
            file.seek(start)
            piece = file.read(size)
        if len(piece) != size:
            raise FleetError(f"{content} has become shorter while it was sent; wait until it is whole, then send anew.")
        return piece

    def sha256(self) -> str:
        """Of all of it, as 64 digits."""
        digest = hashlib.sha256()
        for offset in range(0, self.size, READ):
            digest.update(self.read(offset, READ))
        return digest.hexdigest()


def packed(source: Path) -> Packed:
    """A folder or an archive; a FleetError where it is neither, or no dataset."""
    if source.is_dir():
        return _folder(source)
    found = Packed(source.name)
    found.add(source, source.stat().st_size)
    if not found.size:
        raise FleetError(f"{source} is empty.")
    return found


def _folder(source: Path) -> Packed:
    """Its files by name, without times and owners, so that the same folder is the same bytes; links are followed, and
    what has a hidden name is left out.
    """
    if not (source / "meta" / "info.json").is_file():
        raise FleetError(f"{source} is no LeRobot dataset: there is no meta/info.json in it.")
    top = source.resolve().name
    found = Packed(f"{top}.tar")
    for folder, folders, names in os.walk(source, followlinks=True):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            told = path.stat()
            if name.startswith(".") or not stat.S_ISREG(told.st_mode):
                continue
            head = tarfile.TarInfo(f"{top}/{path.relative_to(source).as_posix()}")
            head.size = told.st_size
            block = head.tobuf(tarfile.PAX_FORMAT)
            found.add(block, len(block))
            found.add(path, told.st_size)
            rest = -told.st_size % BLOCK
            found.add(bytes(rest), rest)
    found.add(bytes(2 * BLOCK), 2 * BLOCK)
    return found


def is_dataset(source: Path) -> bool:
    """Whether it is one of LeRobot's, a folder or an archive; else it is a file of episodes."""
    return source.is_dir() or source.suffix.lower() in ARCHIVES

"""Files that are the old one or the new one, never half of one: made beside their place, then renamed.

What stations spool, what runs and stations hand each other, and what a fleet keeps of its own is written by this alone.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """The path at which the block makes the new file. It takes the place of `path` at the end of the block, and is gone
    where the block raises. Not even a power cut shows half a file, unless `durable` is False: then nothing waits for
    the disk.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # two may write the same file at once
    try:
        yield temporary
        if durable:
            _wait_for_disk(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # half a file must not keep a full disk full
        raise


def write_atomically(path: Path, content: bytes, *, durable: bool = True, mode: int = 0o666) -> None:
    """`mode` is the file's from its first byte on, less what the umask takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path, durable=durable) as temporary,
        open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file,
    ):
        file.write(content)


def link_to(source: Path, path: Path) -> None:
    """A link at `path` that leads to the file `source`: relative, so that both can be moved together. It appears whole.
    What is there already stays, unless it leads nowhere.
    """
    if path.is_symlink() and not path.exists():
        path.unlink()
    if not path.exists():
        path.symlink_to(os.path.relpath(source.resolve(), path.parent.resolve()))


def _wait_for_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

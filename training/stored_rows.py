"""Rows of numbers by their number, as a tensor's: in memory where they are few, in files where they are many.

A dataset's pictures, and what a frozen model makes of them, may be larger than memory. They are then read from files
as they are asked for (StoredRows), and a training that looks at every frame itself has the next batches read while it
computes (ReadAhead). One rule decides, and the numbers are the same to the bit: IN_MEMORY.
"""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

IN_MEMORY = 2**29  # bytes; what is more lies in files
AHEAD = 2  # batches that are read, or wait to be used, beside the one in use
READERS = 2  # threads


class StoredRows:
    """Rows [F, ...] of one shape that lie in files, each at a place of its own. Any thread may read."""

    def __init__(
        self,
        files: Sequence[Path | int],
        file_of: np.ndarray,
        begins: np.ndarray,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ):
        """`files`: paths, or files that are open; file_of, begins [F]: which of them holds a row, and from which byte
        on.
        """
        self.files, self.file_of, self.begins = files, file_of, begins
        self.shape, self.dtype = (len(begins), *shape), dtype

    @classmethod
    def of(cls, parts: Sequence[np.memmap]) -> Self:
        """Arrays [n, ...] of bytes that are mapped from files, one after the other."""
        files: dict[str, int] = {}
        for part in parts:
            files.setdefault(str(part.filename), len(files))
        lengths = [len(part) for part in parts]
        size = int(np.prod(parts[0].shape[1:]))
        file_of = np.repeat([files[str(part.filename)] for part in parts], lengths)
        begins = np.concatenate([_begin(part) + size * np.arange(len(part)) for part in parts])
        return cls([*map(Path, files)], file_of, begins, parts[0].shape[1:], torch.uint8)

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """[n] -> [n, ...]. OSError where a file is gone, or has become shorter."""
        found = torch.empty(len(rows), *self.shape[1:], dtype=self.dtype)
        if not len(rows):
            return found
        places, wanted = found.numpy().reshape(len(rows), -1).view(np.uint8), rows.numpy()
        order = np.lexsort((self.begins[wanted], self.file_of[wanted]))  # each file once, from its beginning on
        file_of = self.file_of[wanted[order]]
        for part in np.split(order, np.flatnonzero(np.diff(file_of)) + 1):
            file = self.files[self.file_of[wanted[part[0]]]]
            number = os.open(file, os.O_RDONLY) if isinstance(file, Path) else file
            try:
                for place in part:
                    _read(number, places[place], int(self.begins[wanted[place]]), file)
            finally:
                if isinstance(file, Path):
                    os.close(number)
        return found


Rows = Tensor | StoredRows


def _begin(part: np.memmap) -> int:
    """From which byte of its file on a part of a mapped array lies."""
    whole: np.ndarray = part
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    assert isinstance(whole, np.memmap)
    return whole.offset + part.__array_interface__["data"][0] - whole.__array_interface__["data"][0]


def _read(number: int, into: np.ndarray, begin: int, file: Path | int) -> None:
    done = 0
    while done < into.nbytes:
        count = os.preadv(number, [into.data[done:]], begin + done)
        if not count:
            raise OSError(f"{file} has become shorter since it was looked at")
        done += count


def kept(parts: Iterator[Tensor], count: int, folder: Path) -> Rows:
    """`count` rows, which come in parts: in memory, or in a file of the folder that is gone with this process."""
    first = next(parts)
    size = first[0].nbytes
    if count * size <= IN_MEMORY:
        return torch.cat([first, *parts])
    with tempfile.TemporaryFile(dir=folder) as file:
        for part in (first, *parts):
            file.write(part.contiguous().numpy().data)
        file.flush()
        number = os.dup(file.fileno())
    return StoredRows([number], np.zeros(count, np.int64), size * np.arange(count), first.shape[1:], first.dtype)


D = TypeVar("D")
R = TypeVar("R")


class ReadAhead(Generic[D, R]):
    """What the updates `first` to `last` learn from: drawn in their order, and read by threads before it is needed.

    Drawing runs ahead of the updates too. So `generator` is, after each next(), put where it would be had nothing been
    drawn ahead: it may be saved then, and a restart draws the same again.
    """

    def __init__(
        self,
        generator: torch.Generator,
        draw: Callable[[int], D],
        read: Callable[[D], R],
        first: int,
        last: int,
    ):
        """`draw` says by the generator what an update learns from, `read` fetches that."""
        self.generator, self.draw, self.read = generator, draw, read
        self.step, self.last = first, last
        self._waiting: deque[tuple[D, Future[R], Tensor]] = deque()  # with the generator's state once it was drawn
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="read-ahead")

    def close(self) -> None:
        """Nothing is read any more."""
        self._threads.shutdown(cancel_futures=True)

    def next(self) -> tuple[D, R]:
        """Of the next update. What reading it raised is raised here."""
        if self._waiting:
            self.generator.set_state(self._waiting[-1][2])
        while len(self._waiting) <= AHEAD and self.step <= self.last:
            drawn = self.draw(self.step)
            self._waiting.append((drawn, self._threads.submit(self.read, drawn), self.generator.get_state()))
            self.step += 1
        drawn, read, state = self._waiting.popleft()
        self.generator.set_state(state)
        return drawn, read.result()

    def forget(self) -> None:
        """Draw anew what was drawn ahead: what it is drawn from has changed."""
        self.step -= len(self._waiting)
        for _, read, _ in self._waiting:
            read.cancel()
        self._waiting.clear()

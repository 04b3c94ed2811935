"""The rows of a LeRobot dataset, as its Parquet files hold them: reading.py makes episodes of them.

One file is open at a time, and the row groups that were read last are kept, since episodes may share one.
"""

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robots.lerobot.contents import Index, Info, bounded_read, data_file, numbers_of, parquet, reading
from robots.lerobot.layout import INFO, LAST, Code, LeRobotError, place_of, shown


class StoredRows:
    """Of one dataset, whose `info` and `index` have been read."""

    def __init__(self, folder: Path, info: Info, index: Index):
        self.folder, self.info, self.index = folder, info, index
        self._data: tuple[str, pq.ParquetFile] | None = None
        self._groups: tuple[str, int, int] | None = None  # file, first and last row group that were read last
        self._tables: dict[tuple[str, ...], pa.Table] = {}  # what was read of them, by columns
        self._ends: tuple[str, int, pa.Table] | None = None  # file, row group and what was observed at the ends

    @cached_property
    def columns(self) -> list[str]:
        """Those that hold numbers."""
        return [key for key, each in self.info.features.items() if each.is_numbers]

    def numbers(self, episode: int, wanted: Sequence[str], vectors: Collection[str]) -> dict[str, np.ndarray]:
        """[n, D] of each that is a vector, by its declared size or because `vectors` names it, else [n]: of the
        episode's n rows. LeRobotError where a column holds no such numbers.
        """
        for key in wanted:
            if key not in self.columns:
                raise LeRobotError(Code.FEATURE_MISSING, f"{shown(key)} is no column of numbers.", file=INFO)
        table = self.table(episode, [*dict.fromkeys([*wanted, "episode_index"])])
        file = data_file(self.info, self.index, episode)
        found = {}
        for key in dict.fromkeys([*wanted, "episode_index"]):
            declared = self.info.features.get(key)
            vector = declared is not None and key in vectors
            size = declared.shape[0] if declared and (vector or declared.shape[0] > 1) else None
            try:
                found[key] = numbers_of(table[key], size)
            except LeRobotError as error:
                raise error.at(file=file, episode=episode, field=key) from None
        if (found["episode_index"] != episode).any():
            raise LeRobotError(
                Code.ROWS_DISAGREE,
                "Rows of another episode stand where its own should. Convert the dataset anew.",
                file=file,
                episode=episode,
                field="episode_index",
            )
        return {key: found[key] for key in wanted}

    def table(self, episode: int, columns: Sequence[str]) -> pa.Table:
        """The episode's rows of these columns."""
        if not 0 <= episode < len(self.index.lengths):
            raise LeRobotError(Code.EPISODE_WRONG, f"There are {len(self.index.lengths)} episodes.", episode=episode)
        name = data_file(self.info, self.index, episode)
        start, count = int(self.index.offset[episode]), int(self.index.lengths[episode])
        with reading(name, episode=episode):
            file = self._opened(name)
            if lost := [column for column in columns if column not in file.schema_arrow.names]:
                raise LeRobotError(
                    Code.FEATURE_MISSING,
                    f"The column {shown(lost[0])} is missing, though {INFO} declares it. Convert the dataset anew.",
                )
            ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)])
            if start + count > int(ends[-1] if len(ends) else 0):
                raise LeRobotError(
                    Code.ROWS_DISAGREE,
                    f"The file ends before the episode's {count} rows do. Copy it again.",
                )
            first, last = np.searchsorted(ends, [start, start + count - 1], side="right").tolist()
            if self._groups != (name, first, last):
                self._groups, self._tables = (name, first, last), {}
            wanted = tuple(columns)
            if wanted not in self._tables:
                self._tables[wanted] = bounded_read(file, columns, range(first, last + 1))
            table = self._tables[wanted]
            before = int(ends[first - 1]) if first else 0
            if table.num_rows < start - before + count:
                raise LeRobotError(Code.ROWS_DISAGREE, "It holds fewer rows than it says. Copy it again.")
            return table.slice(start - before, count)

    def at_end(self, episode: int, key: str) -> tuple[str, Any]:
        """What of a feature an episode of ours observed after its last action, and the file where that lies."""
        name, group, row = self.index.meta[episode]
        if self._ends is None or self._ends[:2] != (name, group):
            with parquet(self.folder, name) as file:
                columns = [column for column in file.schema_arrow.names if column.startswith(LAST)]
                self._ends = name, group, bounded_read(file, columns, [group])
        table = self._ends[2]
        if LAST + key not in table.column_names:
            raise LeRobotError(Code.FEATURE_MISSING, f"The column {shown(LAST + key)} is missing.", file=name)
        with reading(name, episode=episode):
            return name, table[LAST + key][row].as_py()

    def _opened(self, name: str) -> pq.ParquetFile:
        if self._data is None or self._data[0] != name:
            self.close()
            self._data = name, pq.ParquetFile(place_of(self.folder, name))
        return self._data[1]

    def close(self) -> None:
        """Let go of the file that is open."""
        if self._data is not None:
            self._data[1].close()
        self._data = self._groups = self._ends = None
        self._tables = {}

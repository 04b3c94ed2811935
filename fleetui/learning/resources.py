"""What a run's training takes of its machine: processors, memory, and graphics cards where there are any.

Its job measures the training process with all its children each few seconds and writes a line to resources.jsonl in
the run directory: {"t": seconds since 1970, "cpu": cores, "rss": bytes, "gpu": % of the busiest card it is on,
"gpu_memory": bytes}; the last two are there only with a card.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pynvml

FILE = "resources.jsonl"
EVERY_S = 5.0
MOST_POINTS = 500
LONGEST = 64 * 2**20  # bytes of the file that are read: the newest


class Cards:
    """The graphics cards of this machine; none where there is no driver."""

    def __init__(self) -> None:
        self.handles = []
        try:
            pynvml.nvmlInit()
            self.handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:
            pass

    def names(self) -> list[str]:
        """As their maker calls them."""
        found = []
        for handle in self.handles:
            try:
                name = pynvml.nvmlDeviceGetName(handle)
            except pynvml.NVMLError:
                continue
            found.append(name.decode() if isinstance(name, bytes) else name)
        return found

    def measure(self, pids: set[int]) -> dict[str, float]:
        """Of the cards that these processes are on."""
        memory, busiest, found = 0, 0, False
        for handle in self.handles:
            try:
                on_it = [each for each in pynvml.nvmlDeviceGetComputeRunningProcesses(handle) if each.pid in pids]
                if on_it:
                    found = True
                    memory += sum(each.usedGpuMemory or 0 for each in on_it)
                    busiest = max(busiest, pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            except pynvml.NVMLError:
                continue
        return {"gpu": busiest, "gpu_memory": memory} if found else {}


class Measuring:
    """Of one process and its children, over time; `summary` goes on from what earlier attempts of the run took."""

    def __init__(self, pid: int, folder: Path, summary: dict[str, Any]):
        self.pid, self.path = pid, folder / FILE
        self.summary = {"samples": 0} | summary
        self.cards = Cards()
        self.used: dict[int, float] = {}  # CPU seconds of each process, as they were when last looked at
        self.looked_at: float | None = None

    def take(self) -> bool:
        """One sample; False where the process has gone."""
        now = time.monotonic()
        try:
            root = psutil.Process(self.pid)
            processes = [root, *root.children(recursive=True)]
        except psutil.Error:
            return False
        used, memory = {}, 0
        for process in processes:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    used[process.pid] = times.user + times.system
                    memory += process.memory_info().rss
            except psutil.Error:
                continue  # a child that has just ended
        spent = sum(seconds - self.used.get(pid, 0.0) for pid, seconds in used.items())
        passed, self.used = now - (self.looked_at or now), used
        first, self.looked_at = self.looked_at is None, now
        if first or passed <= 0:
            return True  # one needs two looks to know how fast it goes
        row = {"cpu": round(max(0.0, spent) / passed, 3), "rss": memory} | self.cards.measure(set(used))
        self._add(row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"t": round(time.time(), 2)} | row) + "\n")
        return True

    def _add(self, row: dict[str, float]) -> None:
        known = self.summary
        count = known["samples"] = known["samples"] + 1
        known["cpu_mean"] = round(known.get("cpu_mean", 0.0) + (row["cpu"] - known.get("cpu_mean", 0.0)) / count, 3)
        known["rss_peak"] = max(known.get("rss_peak", 0), row["rss"])
        if "gpu" in row:
            cards = known["gpu_samples"] = known.get("gpu_samples", 0) + 1
            known["gpu_mean"] = round(known.get("gpu_mean", 0.0) + (row["gpu"] - known.get("gpu_mean", 0.0)) / cards, 1)
            known["gpu_memory_peak"] = max(known.get("gpu_memory_peak", 0), row["gpu_memory"])


def read_resources(folder: Path, begun: float) -> dict[str, Any]:
    """For a chart: {"minutes", "cpu", "rss", "gpu", "gpu_memory", "samples"}; of a long run the mean of each of equal
    parts, of memory the peak.
    """
    try:
        with open(folder / FILE, "rb") as file:
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(0, size - LONGEST))
            rows = list(_sound(file.read().splitlines()))
    except FileNotFoundError:
        rows = []
    parts = _parts(rows)
    found: dict[str, Any] = {"samples": len(rows), "drawn": len(parts)}
    found["minutes"] = [round((part[-1]["t"] - begun) / 60, 2) for part in parts]
    for name in ("cpu", "gpu"):
        found[name] = [_mean(part, name) for part in parts]
    for name in ("rss", "gpu_memory"):
        found[name] = [max((row[name] for row in part if name in row), default=None) for part in parts]
    return found


def _sound(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # torn: the disk was full, or the file is read from its middle
        if isinstance(row, dict) and {"t", "cpu", "rss"} <= row.keys():
            yield row


def _parts(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    count = min(len(rows), MOST_POINTS)
    return [rows[len(rows) * i // count : len(rows) * (i + 1) // count] for i in range(count)]


def _mean(part: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in part if name in row]
    return round(sum(values) / len(values), 3) if values else None

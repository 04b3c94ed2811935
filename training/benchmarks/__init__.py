"""The benchmarks: every figure that is quoted anywhere comes from one of these commands.

    python -m training benchmark NAME --seeds K [--first-seed S] --json FILE

One module a benchmark, with `run(seed, report) -> rows` and `summarise(rows) -> dict`:

    run         everything of one seed; a row is {"setting": ..., figures}, and the frame adds "seed"; where a setting
                is measured in several regimes, a row names its "regime" too
    report      report(fraction, what): how far this seed is, 0 to 1, and what it is doing
    summarise   the figures that others read, from the rows of all seeds

Hyper-parameters are chosen on seeds from 100 on; the reported ones are 0 to 4.
"""

import argparse
import importlib
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import scipy  # loads scipy.stats at its first use: a station host starts through this file and needs none

from robots import strict_json
from robots.atomic_files import write_atomically

Row = dict[str, Any]  # what a row says depends on its benchmark
Report = Callable[[float, str], None]

REGISTRY = {
    "language-table": "training.benchmarks.language_table",
    "over-optimisation": "training.benchmarks.over_optimisation",
    "detector": "training.benchmarks.detector",
    "reward-model": "training.benchmarks.reward_model",
    "positive-transfer": "training.benchmarks.positive_transfer",
    "point-mass": "training.benchmarks.point_mass",
    "banana-table": "training.benchmarks.banana_table",
    "transfer": "training.benchmarks.transfer",
    "camera": "training.benchmarks.camera",
    "so101-pick": "training.benchmarks.so101_pick",
    "aloha": "training.benchmarks.aloha",
    "musel": "training.benchmarks.musel",
    "mili": "training.benchmarks.mili",
    "throughput": "training.benchmarks.throughput",
    "scvla": "training.benchmarks.scvla",
    "robofume": "training.benchmarks.robofume",
    "medal": "training.benchmarks.medal",
    "methods": "training.benchmarks.methods_compared",
    "kagi": "training.benchmarks.kagi",
    "backbone": "training.benchmarks.backbone",
    "afm": "training.benchmarks.afm",
    "explore": "training.benchmarks.explore",
    "gpu": "training.benchmarks.gpu",
}
SEEDS = {"gpu": 1}  # where nobody says how many; 5 for the others


def mean_and_interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """The mean over seeds and its 95 % interval (Student's t); with one seed nobody knows: low and high are None."""
    each = np.asarray(values, np.float64)
    n, mean = len(each), float(each.mean())
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "n": n}
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * float(each.std(ddof=1)) / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def values_of(rows: list[Row], setting: str, figure: str, regime: str | None = None) -> dict[int, float]:
    """seed -> one setting's figure, of the rows that have it."""
    return {
        row["seed"]: row[figure]
        for row in rows
        if row["setting"] == setting and row.get("regime") == regime and row.get(figure) is not None
    }


def mean_of(rows: list[Row], setting: str, figure: str, regime: str | None = None) -> float | None:
    """Of one setting's figure over the seeds; None where no row has it."""
    values = list(values_of(rows, setting, figure, regime).values())
    return float(np.mean(values)) if values else None


def minus(one: float | None, other: float | None) -> float | None:
    """None where one of them is."""
    return None if one is None or other is None else one - other


def difference(
    rows: list[Row], setting: str, other: str, figure: str, regime: str | None = None
) -> dict[str, Any] | None:
    """The mean of setting - other over the seeds that have both, and its paired interval; None where none has."""
    ours, theirs = (values_of(rows, each, figure, regime) for each in (setting, other))
    both = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return mean_and_interval(both) if both else None


def by_setting(rows: list[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """setting, or "regime: setting" -> figure -> mean and interval, for every figure that is a number in some row."""

    def called(row: Row) -> str:
        return f"{row['regime']}: {row['setting']}" if row.get("regime") else str(row["setting"])

    result: dict[str, dict[str, dict[str, Any]]] = {}
    for setting in dict.fromkeys(map(called, rows)):
        mine = [row for row in rows if called(row) == setting]
        figures = dict.fromkeys(name for row in mine for name in row if name not in ("setting", "regime", "seed"))
        values = {name: [row[name] for row in mine if isinstance(row.get(name), (int, float))] for name in figures}
        result[setting] = {name: mean_and_interval(numbers) for name, numbers in values.items() if numbers}
    return result


def table(settings: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Settings downwards, figures across, each as mean and half width of the interval."""
    figures = list(dict.fromkeys(name for values in settings.values() for name in values))

    def cell(value: dict[str, Any] | None) -> str:
        if value is None:
            return ""
        mean = value["mean"]
        digits = 0 if abs(mean) >= 1000 else 1 if abs(mean) >= 20 else 3
        if value["low"] is None:
            return f"{mean:.{digits}f}"
        return f"{mean:.{digits}f} ± {value['high'] - mean:.{digits}f}"

    lines = [["setting", *figures]]
    lines += [[setting, *(cell(values.get(name)) for name in figures)] for setting, values in settings.items()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def commit() -> str:
    """The commit that ran, with a + behind it if the code differed from it; empty outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "robots", "training")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except OSError:
        return ""


def machine() -> dict[str, Any]:
    cpu = platform.processor()
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "mujoco", "numpy")},
    }


class Progress:
    """One line on a terminal, now and then a line in a log: what, how far, and how long still."""

    def __init__(self, name: str, seeds: int, stream: TextIO | None = None):
        self.name, self.seeds = name, seeds
        self.stream = stream or sys.stderr
        self.started, self.written, self.seeds_done = time.monotonic(), -math.inf, 0
        self.every_s = 0.5 if self.stream.isatty() else 10.0

    def __call__(self, fraction: float, what: str) -> None:
        """How far the seed under way is, 0 to 1, and what it is doing."""
        now = time.monotonic()
        if now - self.written < self.every_s:
            return
        self.written = now
        done = (self.seeds_done + min(1.0, max(0.0, fraction))) / self.seeds
        eta = f"{(now - self.started) * (1 - done) / done:.0f} s left" if done > 0 else "time left unknown"
        text = f"{self.name}: {done:4.0%}, {eta}, seed {min(self.seeds_done + 1, self.seeds)} of {self.seeds}: {what}"
        self.stream.write(f"\r\033[K{text}" if self.stream.isatty() else f"{text}\n")
        self.stream.flush()

    def clear(self) -> None:
        """Take the line off the terminal."""
        if self.stream.isatty():
            self.stream.write("\r\033[K")


def run_benchmark(
    name: str, seeds: int, first_seed: int, progress: Progress, save: Callable[[dict[str, Any]], None], jobs: int = 1
) -> dict[str, Any]:
    """All seeds, `jobs` of them at once in processes of their own; what is known so far is saved after each, since
    hours of work should survive the last one's crash.
    """
    module = importlib.import_module(REGISTRY[name])
    facts = {"name": name, "commit": commit(), "machine": machine() | {"jobs": jobs}}
    of_seed: dict[int, list[Row]] = {}

    def taken(seed: int, found: list[Row]) -> dict[str, Any]:
        of_seed[seed] = [{"setting": row["setting"], "seed": seed} | row for row in found]
        rows = [row for number in sorted(of_seed) for row in of_seed[number]]
        progress.seeds_done += 1
        result = facts | {"rows": rows, "summary": module.summarise(rows) | {"settings": by_setting(rows)}}
        save(result)
        return result

    numbers = range(first_seed, first_seed + seeds)
    if jobs == 1:
        for seed in numbers:
            result = taken(seed, module.run(seed, progress))
        return result
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for seed, found in pool.imap_unordered(partial(_one_seed, name), numbers):
            result = taken(seed, found)
            progress(0.0, f"seed {seed} is done")
    return result


def _one_seed(name: str, seed: int) -> tuple[int, list[Row]]:
    return seed, importlib.import_module(REGISTRY[name]).run(seed, lambda fraction, what: None)


def main(arguments: argparse.Namespace) -> int:
    def save(result: dict[str, Any]) -> None:
        if arguments.json:
            write_atomically(Path(arguments.json), strict_json.dumps(result, indent=1).encode())

    seeds = SEEDS.get(arguments.name, 5) if arguments.seeds is None else arguments.seeds
    progress = Progress(arguments.name, seeds)
    result = run_benchmark(arguments.name, seeds, arguments.first_seed, progress, save, arguments.jobs)
    progress.clear()
    print(table(result["summary"]["settings"]))
    for row in result["rows"]:
        if row.get("note"):
            print(f"{row['setting']}: {row['note']}")
    for key, value in result["summary"].items():
        if isinstance(value, dict) and "mean" in value:
            interval = f" ({value['low']:+.3f} to {value['high']:+.3f})" if value["low"] is not None else ""
            print(f"{key}: {value['mean']:+.3f}{interval}")
        elif key != "settings":
            print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
    return 0

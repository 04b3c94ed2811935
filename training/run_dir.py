"""The run directory: the seam between a training process and whoever started it.

    RUN/recipe.json                what to do
    RUN/data/*.safetensors         demonstrations (sft)
    RUN/start/*.safetensors        the SFT run's policy and reward model (improve)
    RUN/metrics.jsonl              what happens, one JSON object a line, flushed at once
    RUN/models/SHA256/             pretrained models that its checkpoints stand on (model_folders.py)
    RUN/checkpoints/*.safetensors  weights
    RUN/episodes/*.safetensors     practice episodes handed in (improve), read once each, in name order
    RUN/rounds/VERSION.closed      no more episodes of this policy version will come (improve)
    RUN/state.*                    what a restart needs to go on
    RUN/pause                      while this file exists the process waits

A job hands in and reads out, training does the rest; neither needs the other's memory. No torch here: the web process
imports this module.
"""

import contextlib
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TextIO, TypeVar

from robots import strict_json
from robots.atomic_files import write_atomically
from training.methods.registry import recipe_from_json
from training.model_folders import STORE
from training.recipes import Recipe, RecipeError

R = TypeVar("R", bound=Recipe)


class RunError(Exception):
    """A run that can't start or go on; the text says what is wrong and what to do."""


def sha256_of(path: Path) -> str:
    """Of the file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class RunDir:
    """One run's folder: names, the metrics log, pause and cancellation."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.data = self.path / "data"
        self.start = self.path / "start"
        self.checkpoints = self.path / "checkpoints"
        self.models = self.path / STORE
        self.episodes = self.path / "episodes"
        self.rounds = self.path / "rounds"
        self.metrics = self.path / "metrics.jsonl"
        self.cancelled = False
        self.quiet = False  # of several processes that train together all but the first: they write nothing here
        self._metrics_file: TextIO | None = None
        self._writing = threading.Lock()  # a thread that sends metrics on may have a note to add
        self._points: set[tuple[int, str]] | None = None  # step and figure of every loss in the file

    @classmethod
    def create(cls, path: Path | str, recipe: Recipe) -> Self:
        """The folder with its recipe. What lies there already stays, to be gone on with; RunError where it belongs to
        another recipe.
        """
        run = cls(path)
        if (run.path / "recipe.json").exists() and run.recipe(type(recipe)) != recipe:
            raise RunError(f"{run.path} holds a run of another recipe; choose an empty folder, or that recipe again.")
        for folder in (run.data, run.start, run.checkpoints, run.episodes, run.rounds):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.path / "recipe.json", strict_json.dumps(recipe.to_json(), indent=1).encode())
        return run

    def clear_leftovers(self) -> None:
        """What a killed learner was writing: for the learner alone, which writes these folders alone while it runs."""
        for folder in (self.path, self.checkpoints):
            for unfinished in folder.glob(".*.tmp"):
                unfinished.unlink(missing_ok=True)

    def recipe(self, kind: type[R]) -> R:
        """The run's recipe; RunError where there is none of this kind."""
        try:
            data = json.loads((self.path / "recipe.json").read_text())
        except FileNotFoundError:
            raise RunError(f"{self.path} has no recipe.json; write the run's recipe there first.") from None
        except json.JSONDecodeError as error:
            raise RunError(f"{self.path}/recipe.json is not JSON ({error}); write it again.") from None
        try:
            recipe = recipe_from_json(data)
        except RecipeError as error:
            raise RunError(f"{self.path}/recipe.json can't be run: {error}") from None
        if not isinstance(recipe, kind):
            raise RunError(f"{self.path}/recipe.json is a recipe of kind {recipe.KIND!r}; start it with that command.")
        return recipe

    # What happens

    def log(self, kind: str, **values: Any) -> None:
        """Append one line to metrics.jsonl; what is no number becomes null."""
        if self.quiet:
            return
        line = strict_json.dumps({"t": round(time.time(), 3), "kind": kind} | values) + "\n"
        with self._writing:
            if self._metrics_file is None:
                self._end_a_torn_line()
                self._metrics_file = open(self.metrics, "a", encoding="utf-8")  # noqa: SIM115 (open for the whole run)
            self._metrics_file.write(line)
            self._metrics_file.flush()

    def log_loss(self, step: int, **figures: float) -> None:
        """A point of the curves. What is in the file already isn't said again: a restart repeats the steps since the
        last saved state, and a curve holds each step once.
        """
        if self._points is None:
            self._points = {(line["step"], name) for line in self.lines("loss") for name in line}
        fresh = {name: value for name, value in figures.items() if (step, name) not in self._points}
        if fresh:
            self.log("loss", step=step, **fresh)
            self._points |= {(step, name) for name in fresh}

    def note(self, text: str, level: str = "info") -> None:
        """A sentence for the run's page; level: info or warning."""
        self.log("note", level=level, text=text)

    def _end_a_torn_line(self) -> None:
        """A process that was killed while writing left half a line; the next one must not be glued to it."""
        if self.metrics.exists() and self.metrics.stat().st_size:
            with open(self.metrics, "rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def read_metrics(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The whole lines after a byte offset, and the offset to ask with next time. A torn line is left out."""
        if not self.metrics.exists():
            return [], offset
        with open(self.metrics, "rb") as file:
            file.seek(offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        lines = []
        for line in whole.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                if isinstance(message := json.loads(line), dict):
                    lines.append(message)
        return lines, offset + len(whole)

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """All that was said of a kind so far, by earlier processes too."""
        return [line for line in self.read_metrics()[0] if line["kind"] == kind]

    def summary(self) -> dict[str, Any]:
        """What a finished run said at its end; empty while it isn't finished."""
        done = self.lines("done")
        return {name: value for name, value in done[-1].items() if name not in ("t", "kind")} if done else {}

    def saved_at(self) -> int:
        """When the state that a restart goes on from was saved, in nanoseconds; 0: never."""
        return max((path.stat().st_mtime_ns for path in self.path.glob("state*.safetensors")), default=0)

    # Pause, cancel

    def listen_for_cancel(self) -> None:
        """From now on SIGTERM and SIGINT only set a flag, so that the update under way is finished and kept."""

        def cancel(number: int, frame: object) -> None:
            self.cancelled = True

        signal.signal(signal.SIGTERM, cancel)
        signal.signal(signal.SIGINT, cancel)

    @property
    def paused(self) -> bool:
        """Whether somebody wants it to wait."""
        return (self.path / "pause").exists()

    def wait_while_paused(self, poll_s: float = 0.2) -> None:
        """Return once it may go on, or is cancelled."""
        while self.paused and not self.cancelled:
            time.sleep(poll_s)

    # Rounds of practice

    def closed(self, version: int) -> bool:
        """Whether no more episodes of this policy version will come."""
        return (self.rounds / f"{version}.closed").exists()

    def close_round(self, version: int) -> None:
        """Say that no more episodes of this policy version will come."""
        self.rounds.mkdir(exist_ok=True)
        (self.rounds / f"{version}.closed").touch()

    def episode_files(self, seen: set[str]) -> Iterator[Path]:
        """Handed-in files that are not in `seen`, in name order; a dot in front: still being written."""
        for path in sorted(self.episodes.glob("*.safetensors")):
            if path.name not in seen and not path.name.startswith("."):
                yield path


class Countdown:
    """Progress lines at a steady pace: done, total and the seconds left at the speed seen so far.

    A restart that has to repeat some steps is silent until it gets further than the process before it.
    """

    def __init__(self, run: RunDir, phase: str, total: int, done: int = 0, every_s: float = 1.0):
        self.run, self.phase, self.total, self.every_s = run, phase, total, every_s
        self.first, self.started, self.written = done, time.monotonic(), 0.0
        self.furthest = max((line["done"] for line in run.lines("progress") if line["phase"] == phase), default=-1)

    def tell(self, done: int) -> None:
        """A line, where one is due."""
        now = time.monotonic()
        if done <= self.furthest or (now - self.written < self.every_s and done < self.total):
            return
        self.written = now
        gained = done - self.first
        eta = (now - self.started) / gained * (self.total - done) if gained > 0 else None
        self.run.log(
            "progress",
            done=done,
            total=self.total,
            phase=self.phase,
            eta_s=None if eta is None else round(max(0.0, eta), 1),
        )

"""The playground's other process: `python -m training inspect` says what checkpoints make of a frame and any words.

One for all who ask, started when somebody does and ended when nobody has for a while; each waits for its turn, so that
typing by many people can't take the machine. It ends with this process, whose end closes its input.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any

from django.conf import settings

from fleetui.access import Conflict
from fleetui.fleet.models import Episode
from fleetui.learning.models import Checkpoint
from robots import strict_json

ANSWER_WITHIN_S = 20.0  # the first one has to load torch
MOST_WAITING = 4
IDLE_S = 120.0
LARGEST_ANSWER = 4 * 2**20  # bytes


class Inspector:
    """The process, and whose turn it is."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.turn = threading.Lock()
        self.waiting = threading.Semaphore(MOST_WAITING)
        self.used_at = 0.0

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Conflict, with a sentence, where too many ask or it does not answer."""
        if not self.waiting.acquire(blocking=False):
            raise Conflict("The playground is busy: several people ask at once. Try again in a moment.")
        try:
            if not self.turn.acquire(timeout=ANSWER_WITHIN_S):
                raise Conflict("The playground is busy with another question. Try again in a moment.")
            try:
                return self._answer(question)
            finally:
                self.used_at = time.monotonic()
                self.turn.release()
        finally:
            self.waiting.release()

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        child = self._running()
        assert child.stdin is not None and child.stdout is not None  # it was given pipes
        try:
            child.stdin.write(strict_json.dumps(question).encode() + b"\n")
            child.stdin.flush()
            answer: dict[str, Any] = json.loads(self._line(child))
        except (OSError, ValueError, TimeoutError):
            self._end()
            raise Conflict(
                f"No answer came within {ANSWER_WITHIN_S:.0f} s, so the question was given up. Try again; if it lasts, "
                "the checkpoint is too large for this machine beside its other work."
            ) from None
        return answer

    def _line(self, child: subprocess.Popen[bytes]) -> bytes:
        assert child.stdout is not None
        until, got = time.monotonic() + ANSWER_WITHIN_S, b""
        while not got.endswith(b"\n"):
            if not select.select([child.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            piece = os.read(child.stdout.fileno(), 2**16)
            got += piece
            if not piece or len(got) > LARGEST_ANSWER:
                raise OSError("it ended, or says too much")
        return got

    def _running(self) -> subprocess.Popen[bytes]:
        if self.child is None or self.child.poll() is not None:
            self.used_at = time.monotonic()
            self.child = subprocess.Popen(
                [sys.executable, "-m", "training", "inspect"],
                cwd=settings.BASE_DIR,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            threading.Thread(target=self._end_when_idle, args=(self.child,), daemon=True).start()
        return self.child

    def _end_when_idle(self, child: subprocess.Popen[bytes]) -> None:
        while child.poll() is None:
            time.sleep(1.0)
            with self.turn:
                if self.child is child and time.monotonic() - self.used_at > IDLE_S:
                    self._end()

    def _end(self) -> None:
        child, self.child = self.child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


inspector = Inspector()


def inspect_frame(*, episode: Episode, step: int, words: str, checkpoints: list[Checkpoint]) -> list[dict[str, Any]]:
    """What each of the checkpoints says of the episode's observation and these words, in their order."""
    question = {
        "checkpoints": [str(each.file) for each in checkpoints],
        "episode": str(episode.file),
        "step": step,
        "words": words,
    }
    answer = inspector.ask(question)
    if problem := answer.get("error"):
        raise Conflict(problem)
    answers: list[dict[str, Any]] = answer["answers"]
    return answers

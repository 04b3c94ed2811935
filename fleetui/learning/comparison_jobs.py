"""Jobs of the pages that judge: policies compared in simulation, by a child process, and d of attempts of before, which
the detector's studio reads.
"""

import contextlib
import logging
import subprocess
import sys
import tempfile
import threading
from typing import Any

from celery import shared_task
from django.db import close_old_connections

from fleetui.learning import comparisons, curves
from fleetui.learning.jobs import (
    DATABASE_AWAY,
    SHUTDOWN_S,
    Heartbeat,
    end_child,
    first_line,
    how_it_ended,
    owns_folder,
    start_child,
    stopping,
)
from fleetui.learning.models import Checkpoint, Comparison
from robots import strict_json

log = logging.getLogger(__name__)

filling: set[str] = set()  # reward models whose attempts of before are being read


def compare_command(comparison: Comparison) -> list[str]:
    command = [sys.executable, "-m", "training", "compare", "--task", comparison.task.family]
    command += ["--episodes", str(comparison.episodes), "--seed", str(comparison.seed)]
    command += ["--time-limit", str(comparison.time_limit), "--edge-margin", str(comparison.edge_margin or 0.0)]
    for each in (comparison.first, comparison.second):
        command += ["--checkpoint", str(each.file)] if each is not None else []
    return command


@shared_task(name=comparisons.JOB)
def compare_job(comparison_id: int) -> None:
    """The simulation is a child; it ends with the worker, and when somebody cancels it."""
    if stopping.is_set() or not owns_folder():
        return
    comparison = comparisons.claim_comparison(comparison_id=comparison_id)
    if comparison is None:
        return
    try:
        with Heartbeat(lambda: comparisons.beat_comparison(comparison=comparison)) as heartbeat:
            compare(comparison, heartbeat)
    except DATABASE_AWAY as error:
        log.error("comparison %s is left to the next job, the database is away: %s", comparison_id, first_line(error))
    except Exception as error:
        log.exception("comparison %s", comparison_id)
        reason = f"It could not be made ({type(error).__name__}: {error}). Ask for it again."
        comparisons.fail_comparison(comparison=comparison, error=reason)


def compare(comparison: Comparison, heartbeat: Heartbeat) -> None:
    with tempfile.TemporaryFile() as errors:
        child = start_child(compare_command(comparison), errors, stdout=subprocess.PIPE)
        lines: list[dict[str, Any]] = []
        reader = threading.Thread(target=read_lines, args=(child, lines), daemon=True)
        reader.start()
        told = 0.0
        try:
            while reader.is_alive() and not stopping.is_set() and not heartbeat.lost:
                reader.join(0.3)
                share = lines[-1]["done"] / lines[-1]["total"] if lines and "done" in lines[-1] else 0.0
                if share > told:
                    told = share
                    comparisons.advance_comparison(comparison=comparison, progress=share)
        finally:
            if child.poll() is None and reader.is_alive():
                end_child(child, SHUTDOWN_S)
            child.wait()
            reader.join()
            child.stdout.close()  # type: ignore[union-attr]  # it was given a pipe
        if heartbeat.lost:
            return  # somebody cancelled it
        if stopping.is_set():
            comparisons.release_comparison(comparison=comparison)
        elif child.returncode == 0 and lines and "results" in lines[-1]:
            comparisons.finish_comparison(comparison=comparison, results=lines[-1]["results"])
        else:
            errors.seek(0)
            words = errors.read().decode(errors="replace").strip().splitlines()[-5:]
            reason = "\n".join([f"The simulation {how_it_ended(child.returncode)}", *words])
            comparisons.fail_comparison(comparison=comparison, error=reason)


def read_lines(child: subprocess.Popen[bytes], lines: list[dict[str, Any]]) -> None:
    """What it says, until it ends; what is no JSON is a warning that some library printed."""
    assert child.stdout is not None  # it was given a pipe
    for text in child.stdout:
        with contextlib.suppress(ValueError):
            if isinstance(line := strict_json.loads(text), dict):
                lines.append(line)


@shared_task(name="learning.fill_curves")
def fill_curves_job(checkpoint_id: str) -> None:
    """d of attempts that were stored before it was kept beside their rows; a few hundred, then the next few."""
    weights = Checkpoint.objects.filter(pk=checkpoint_id).first()
    if weights is None or checkpoint_id in filling or not owns_folder():
        return
    filling.add(checkpoint_id)
    try:
        while not stopping.is_set() and curves.fill_curves(reward_models=[weights, *weights.derived.all()]):
            close_old_connections()
    finally:
        filling.discard(checkpoint_id)

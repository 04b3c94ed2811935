"""How long a run will take and of what, before it is launched: from what earlier runs of its method took."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from fleetui.fleet.models import Lab
from fleetui.learning.models import Dataset, Run
from fleetui.learning.run_table import duration_of
from training.methods.registry import Method

LOOKED_AT = 50  # past runs, the newest


@dataclass(frozen=True)
class Estimate:
    """Seconds, with the range of what past runs would have taken; bytes and cores as the largest and the median."""

    seconds: float
    low: float
    high: float
    n: int
    on: str  # what those runs have in common with this one
    rss: float | None = None
    cpu: float | None = None
    gpu_memory: float | None = None


def estimate(lab: Lab, method: Method, recipe: dict[str, Any], dataset: Dataset | None) -> Estimate | None:
    """None: no run of the method has completed yet, so nobody knows."""
    rows = lab.runs.filter(kind=method.kind, state="completed", started_at__isnull=False, ended_at__isnull=False)
    past = list(rows.order_by("-pk")[:LOOKED_AT])
    same = [run for run in past if dataset is not None and run.dataset_id == dataset.pk]
    used, on = (same, f"on {dataset}") if same else (past, "of this kind")
    took = [(seconds, run) for run in used if (seconds := _scaled(run, method, recipe)) is not None]
    if not took:
        return None
    times = [seconds for seconds, _ in took]
    measured = [run.resources for _, run in took if run.resources.get("samples")]

    def over(name: str, how: Any) -> float | None:
        values = [each[name] for each in measured if each.get(name) is not None]
        return how(values) if values else None

    return Estimate(
        seconds=median(times),
        low=min(times),
        high=max(times),
        n=len(times),
        on=on,
        rss=over("rss_peak", max),
        cpu=over("cpu_mean", median),
        gpu_memory=over("gpu_memory_peak", max),
    )


def _scaled(run: Run, method: Method, recipe: dict[str, Any]) -> float | None:
    """What that run would have taken with so much of the setting that its duration grows with."""
    passed = duration_of(run)
    if passed is None:
        return None
    seconds = passed.total_seconds()
    name = method.grows_with
    if not name:
        return seconds
    before, now = run.recipe.get(name), recipe.get(name)
    return seconds * now / before if before and now is not None else None

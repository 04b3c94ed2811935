"""The detector's studio: stored attempts under another s or k, against what is known of them. It reads curves of d from
the database, thousands at once (learning/curves.py keeps them), and opens no file.

True success is of the end of an attempt, as it was. A detector that fires earlier fires where nobody looked, and one
that is stricter than the attempt's own would have let it go on: both are counted apart, and said.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.db.models import Count, Q, QuerySet

from fleetui.fleet.models import Episode, Lab
from fleetui.learning.models import Checkpoint, Curve, SpotCheck
from training import detector_figures
from training.detector_figures import upper_bound
from training.intervals import wilson

JUDGED = ("practice", "evaluation")  # purposes of attempts that a detector may end
MOST = 5000  # attempts, the newest
GALLERY = 12  # of each kind
EARLY = 10  # steps before the attempt's end
BROKEN_OFF = ("operator", "override", "stop", "fault")  # by a person or a fault: nobody knows how they had ended
EDGES = (2, 5, 10, 15, 20, 30, 40, 60, 80)  # of bins of d
MOST_GROUPS = 40


@dataclass
class Attempts:
    """What the studio knows of each attempt."""

    ids: list[Any]
    curves: list[np.ndarray]
    truth: list[bool | None]
    detected: np.ndarray  # by its own detector
    thresholds: list[float | None]
    stations: list[str]
    tasks: list[str]
    versions: list[int | None]
    words: list[str]


def same_weights(reward_model: Checkpoint) -> list[Checkpoint]:
    """All versions of it: their d is the same."""
    weights = reward_model.weights
    return [weights, *weights.derived.order_by("version")]


def read_attempts(
    lab: Lab, reward_model: Checkpoint, *, task: str = "", station: str = "", run: int | None = None
) -> Attempts:
    """The newest that it judged. `task` and `station` are slugs, `run` is the policy's."""
    rows = Curve.objects.filter(weights=reward_model.weights, episode__lab=lab).exclude(d=b"")
    rows = rows.exclude(episode__ending__in=BROKEN_OFF)
    exact = {"episode__task__slug": task, "station__slug": station}
    rows = rows.filter(**{name: value for name, value in exact.items() if value})
    if run is not None:
        rows = rows.filter(policy__run_id=run)
    columns: tuple[str, ...] = ("episode_id", "d", "episode__true_success", "episode__detected_success")
    columns += ("episode__threshold",)
    columns += ("station__name", "episode__task__name", "episode__version", "episode__instruction")
    found = list(zip(*rows.order_by("-stored_at").values_list(*columns)[:MOST], strict=True)) or [()] * len(columns)
    ids, d, truth, detected, thresholds, stations, tasks, versions, words = (list(each) for each in found)
    curves = [np.frombuffer(each, "<f4") for each in d]
    return Attempts(ids, curves, truth, np.array(detected, bool), thresholds, stations, tasks, versions, words)


def judge(attempts: Attempts, threshold: float, consecutive: int) -> dict[str, Any]:
    """How the detector with this s and k would have done: of the attempts of which the truth is known."""
    worst = detector_figures.worst_of(detector_figures.padded(attempts.curves), consecutive)
    fired = detector_figures.first_detections(worst, threshold)
    known = np.array([each is not None for each in attempts.truth], bool)
    truth = np.array([bool(each) for each in attempts.truth], bool)
    ends = np.array([len(each) - 1 for each in attempts.curves], int)
    fires = fired >= 0
    right, wrong = known & fires & truth, known & fires & ~truth
    missed, quiet = known & ~fires & truth, known & ~fires & ~truth
    scores = worst.min(1, initial=np.inf)
    curve: list[tuple[float, float, float]] = []
    area = None
    if (known & truth).any() and (known & ~truth).any():
        xs, ys, cuts, area = detector_figures.roc(scores[known], truth[known])
        kept = detector_figures.thinned(len(xs))
        curve = [(float(xs[i]), float(ys[i]), float(cuts[i])) for i in kept]
    return {
        "n": len(attempts.ids),
        "known": int(known.sum()),
        "fires": int(fires.sum()),
        "right": int(right.sum()),
        "wrong": int(wrong.sum()),
        "missed": int(missed.sum()),
        "quiet": int(quiet.sum()),
        "precision": _share(int(right.sum()), int((right | wrong).sum())),
        "recall": _share(int(right.sum()), int((right | missed).sum())),
        "false_rate": _share(int(wrong.sum()), int((wrong | quiet).sum())),
        "early": int((right & (ends - fired > EARLY)).sum()),
        "cut_off": int((missed & attempts.detected).sum()),
        "roc": curve,
        "area": area,
        "false_positives": [_shown(attempts, i, int(fired[i])) for i in np.flatnonzero(wrong)[:GALLERY].tolist()],
        "false_negatives": [
            _shown(attempts, i, int(np.argmin(np.nan_to_num(attempts.curves[i], nan=np.inf))))
            for i in np.flatnonzero(missed)[:GALLERY].tolist()
        ],
    }


def _share(part: int, n: int) -> dict[str, Any]:
    low, high = wilson(part, n)
    return {"rate": part / n if n else None, "part": part, "n": n, "low": low, "high": high}


def _shown(attempts: Attempts, i: int, step: int) -> dict[str, Any]:
    d = float(attempts.curves[i][step])
    return {
        "episode": attempts.ids[i],
        "step": step,
        "last": len(attempts.curves[i]) - 1,
        "d": d if math.isfinite(d) else None,
        "words": attempts.words[i],
        "station": attempts.stations[i],
    }


def calibrate(attempts: Attempts, only_true: bool) -> dict[str, Any]:
    """Predicted against realised steps to go, in attempts that their own detector ended; or of these only in those
    that are known to be true successes. By station, task and version of the policy.
    """
    chosen = [i for i, each in enumerate(attempts.truth) if attempts.detected[i] and (each is True or not only_true)]
    groups: dict[tuple[str, str, int | None], list[np.ndarray]] = {}
    for i in chosen:
        key = (attempts.stations[i], attempts.tasks[i] or "", attempts.versions[i])
        groups.setdefault(key, []).append(attempts.curves[i])
    whole = detector_figures.misses([attempts.curves[i] for i in chosen])
    error, bias = detector_figures.error_and_bias(*whole)
    rows = []
    for (station, task, version), curves in sorted(groups.items(), key=lambda each: -len(each[1]))[:MOST_GROUPS]:
        its_error, its_bias = detector_figures.error_and_bias(*detector_figures.misses(curves))
        rows.append(
            {"station": station, "task": task, "version": version, "n": len(curves)}
            | {"error": its_error if math.isfinite(its_error) else None}
            | {"bias": its_bias if math.isfinite(its_bias) else None}
        )
    return {
        "n": len(chosen),
        "points": detector_figures.calibration(*whole, EDGES),
        "error": error if math.isfinite(error) else None,
        "bias": bias if math.isfinite(bias) else None,
        "groups": rows,
        "more": max(0, len(groups) - MOST_GROUPS),
    }


def missing_curves(reward_models: Iterable[Checkpoint]) -> QuerySet[Episode]:
    """Attempts of before there were curves."""
    rows = Episode.objects.filter(reward_model__in=list(reward_models), purpose__in=JUDGED, curve=None)
    return rows.select_related("reward_model__derived_from").order_by("-stored_at")


# What people say of detections


def list_waiting(lab: Lab) -> QuerySet[SpotCheck]:
    """The newest first: what happened a moment ago is remembered best, and may still stand there."""
    rows = lab.spot_checks.filter(answered_at=None)
    return rows.select_related("episode__station", "episode__run", "task", "policy__run")


def bounds(checks: QuerySet[SpotCheck]) -> list[dict[str, Any]]:
    """By task and version of the policy, the newest first: of `n` detected successes that people looked at, `wrong`
    were none, and with 95 % no more than `bound` of all are wrong (Clopper and Pearson, one-sided).
    """
    groups = (
        checks.order_by()
        .values("task", "task__name", "task__slug", "policy", "policy__version", "policy__run", "policy__run__name")
        .annotate(
            n=Count("pk", filter=Q(answer__isnull=False)),
            wrong=Count("pk", filter=Q(answer=False)),
            waiting=Count("pk", filter=Q(answered_at=None)),
        )
        .order_by("-policy__run", "-policy__version", "task__name")
    )
    return [group | {"bound": upper_bound(group["wrong"], group["n"])} for group in groups]


def spot_check_row(check: SpotCheck) -> dict[str, Any]:
    """As the API answers it."""
    return {
        "id": check.pk,
        "episode": str(check.episode_id),
        "station": check.episode.station.slug,
        "task": check.task.slug if check.task else None,
        "instruction": check.episode.instruction,
        "policy": str(check.policy_id) if check.policy_id else None,
        "reward_model": str(check.reward_model_id) if check.reward_model_id else None,
        "answer": check.answer,
        "answered_at": check.answered_at.isoformat() if check.answered_at else None,
        "answered_by": check.answered_by.get_username() if check.answered_by else "",
        "created_at": check.created_at.isoformat(),
    }


def bound_row(group: dict[str, Any]) -> dict[str, Any]:
    """One of bounds(), as the API answers it."""
    return {
        "task": group["task__slug"],
        "policy": str(group["policy"]) if group["policy"] else None,
        "run": group["policy__run"],
        "version": group["policy__version"],
        **{name: group[name] for name in ("n", "wrong", "waiting", "bound")},
    }


# Drawings, made here so that a page without scripts has them too


def plot_points(points: Sequence[tuple[float, ...]], width: float, height: float, most: float = 1.0) -> str:
    """As an SVG's polyline has them: x to the right, y upwards, both from 0 to `most`."""
    return " ".join(f"{x / most * width:.1f},{height - y / most * height:.1f}" for x, y, *_ in points)


def choices(lab: Lab, reward_model: Checkpoint) -> dict[str, list[tuple[str, str]]]:
    """What the filters offer: where it judged anything."""
    judged = Episode.objects.filter(lab=lab, reward_model__in=same_weights(reward_model))
    runs = lab.runs.filter(Q(pk__in=judged.values("run")) | Q(pk=reward_model.run_id)).order_by("-id")
    return {
        "task": list(lab.tasks.order_by("name").values_list("slug", "name")),
        "station": list(lab.stations.order_by("number").values_list("slug", "name")),
        "run": [(str(pk), name) for pk, name in runs.values_list("pk", "name")],
    }

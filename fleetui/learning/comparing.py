"""Runs side by side: what differs between their recipes, their curves over whatever one wants to know them by, and the
differences between them on matched seeds. Reading only; the pages, the charts and the files of a comparison ask here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from django.db.models import Case, Count, F, FloatField, Func, IntegerField, Sum, TextField, Value, When
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Cast, Coalesce
from django.db.models.lookups import Exact
from django.http import QueryDict

from fleetui.fleet.models import Episode, Intervention, Lab
from fleetui.learning.forms import spell_setting
from fleetui.learning.models import Metric, Run
from training.intervals import bootstrap, newcombe, student, wilsons
from training.methods.registry import Method

MOST_RUNS = 20
MOST_POINTS = 2000  # of a trace
SUCCESS = "evaluation.success"
XS = {
    "own": "as the run logs it",
    "episodes": "practice episodes",
    "steps": "steps",
    "wall": "wall clock (h)",
    "robot": "robot hours",
    "human": "human minutes",
}
BANDS = {"": "Wilson, or t over seeds", "bootstrap": "bootstrap over seeds", "none": "none"}
LOGS = {"": "neither axis", "y": "the y axis", "x": "the x axis", "xy": "both axes"}
SMOOTHINGS = {"0": "none"} | {weight: weight for weight in ("0.5", "0.8", "0.9", "0.95")}


@dataclass(frozen=True)
class Choice:
    """A curve that may be drawn: which figure of which metrics."""

    key: str  # "METRIC.FIGURE"
    title: str
    metric: str
    x: str  # key of what the run logs it over
    x_title: str
    y_title: str
    share: bool  # y is a share of 1
    larger: bool  # is better


def curve_choices(methods: Iterable[Method]) -> dict[str, Choice]:
    """True success, then the curves that these methods declare."""
    found = {
        SUCCESS: Choice(
            SUCCESS,
            "True success of evaluations",
            "evaluation",
            "version",
            "policy version",
            "true success",
            True,
            True,
        )
    }
    for method in methods:
        for curve in method.curves:
            for line in curve.lines:
                key = f"{curve.metric}.{line.key}"
                title = f"{curve.title}: {line.name}"
                y_title = line.name if curve.share or line.second else curve.y_title
                share = curve.share and not line.second
                larger = curve.share or line.second
                each = Choice(key, title, curve.metric, curve.x, curve.x_title, y_title, share, larger)
                found.setdefault(key, each)
    return found


@dataclass(frozen=True)
class Wish:
    """What of a comparison the address asks for; what it says wrongly is as if it said nothing."""

    numbers: tuple[int, ...]
    curve: str = SUCCESS
    x: str = "episodes"
    smooth: float = 0.0
    log: str = ""
    band: str = ""
    grouped: bool = True
    everything: bool = False  # settings that are the same are listed too
    baseline: int = 0

    @classmethod
    def of(cls, query: QueryDict) -> "Wish":
        def among(name: str, known: Iterable[str], default: str) -> str:
            value = query.get(name, default)
            return value if value in known else default

        given = [each for each in query.getlist("run") if each.isascii() and each.isdecimal() and len(each) < 18]
        baseline = query.get("baseline", "")
        return cls(
            numbers=tuple(dict.fromkeys(map(int, given))),
            curve=query.get("curve", SUCCESS),
            x=among("x", XS, "episodes"),
            smooth=float(among("smooth", SMOOTHINGS, "0")),
            log=among("log", LOGS, ""),
            band=among("band", BANDS, ""),
            grouped=query.get("seeds") != "apart",
            everything=query.get("recipe") == "all",
            baseline=int(baseline) if baseline.isascii() and baseline.isdecimal() and len(baseline) < 18 else 0,
        )


@dataclass
class Points:
    """A curve of one run, in the order of time. All [n]"""

    x: np.ndarray
    y: np.ndarray
    successes: np.ndarray | None = None  # of a share of attempts
    n: np.ndarray | None = None

    @property
    def last(self) -> float:
        return float(self.y[-1])


def _number(key: str) -> Any:
    """A figure of a metric as the database's number, null where it is none: much quicker to read than JSON."""
    kind = Func(KeyTransform(key, "data"), function="jsonb_typeof", output_field=TextField())
    value = Cast(KeyTextTransform(key, "data"), FloatField())
    return Case(When(Exact(kind, Value("number")), then=value), default=None, output_field=FloatField())


def _rows_of(runs: list[Run], choice: Choice, with_time: bool) -> dict[int, list[tuple[Any, ...]]]:
    """Of each run (own x, practice episodes, figure, n, at), in the order they were logged; n is None where the figure
    is no share of attempts, and at where nobody needs the time.
    """
    share = choice.key == SUCCESS
    figure = "successes" if share else choice.key.partition(".")[2]
    wanted = {"own": choice.x, "learned": "practice_episodes" if share else "episodes", "figure": figure}
    wanted |= {"attempts": "n"} if share else {}
    rows = Metric.objects.filter(run__in=[run.pk for run in runs], kind=choice.metric).order_by("run", "seq")
    rows = rows.annotate(**{name: _number(key) for name, key in wanted.items()})
    fields = ("run_id", *wanted, *(["at"] if with_time else []))
    found: dict[int, list[tuple[Any, ...]]] = {run.pk: [] for run in runs}
    for run_id, own, learned, value, *rest in rows.values_list(*fields):
        attempts = rest[0] if share else None
        if value is None or own is None or (share and not attempts):
            continue
        found[run_id].append((own, learned, value, attempts, rest[-1] if with_time else None))
    return found


def _up_to(run: Run, moments: list[datetime], x: str) -> np.ndarray:
    """How much of it the run had had at each of the moments, summed by the database. [n]"""
    place = Func(
        F("started_at" if x == "human" else "stored_at"),
        Value(moments),
        function="width_bucket",
        output_field=IntegerField(),
    )
    if x == "human":
        rows = Intervention.objects.filter(run=run).order_by()
        amount: Any = Sum(Coalesce("human_s", "seconds"), output_field=FloatField())
        scale = 1 / 60
    else:
        rows = Episode.objects.filter(run=run, purpose="practice").order_by()  # type: ignore[assignment]
        amount = {"episodes": Count("pk"), "steps": Sum("steps"), "robot": Sum("duration_s")}[x]
        scale = 1 / 3600 if x == "robot" else 1
    parts = np.zeros(len(moments) + 1)
    for bucket, total in rows.annotate(place=place).values_list("place").annotate(total=amount):
        parts[bucket] += total or 0
    return parts[:-1].cumsum() * scale


def read_curves(runs: list[Run], choice: Choice, x: str) -> dict[int, Points]:
    """The curve of each run that has one, over x."""
    curves: dict[int, Points] = {}
    by_step = x == "own" or (x == "steps" and choice.x == "step")
    read = _rows_of(runs, choice, with_time=not by_step)
    for run in runs:
        if not (rows := read[run.pk]):
            continue
        own, learned, values, attempts, moments = zip(*rows, strict=True)
        if by_step:
            xs = np.array(own)
        elif x == "wall":
            start = run.started_at or run.created_at
            xs = np.array([(at - start).total_seconds() / 3600 for at in moments])
        elif x == "episodes" and None not in learned:
            xs = np.array(learned)
        elif run.method.practises:
            xs = _up_to(run, list(moments), x)
        else:
            xs = np.zeros(len(rows))  # it never practised: no robot and no person was needed
        ys = np.array(values)
        if choice.key == SUCCESS:
            n = np.array(attempts)
            curves[run.pk] = Points(xs, ys / n, ys, n)
        else:
            curves[run.pk] = Points(xs, ys)
    return curves


def x_title(choice: Choice, x: str) -> str:
    if x == "own":
        return choice.x_title
    return "updates" if x == "steps" and choice.x == "step" else {"steps": "practice steps"}.get(x, XS[x])


# Seeds


def family_of(run: Run) -> str:
    """The same for runs that differ in their seeds alone, and those of the runs that they started from."""
    return repr(_family(run, 3))


def _family(run: Run, depth: int) -> Any:
    settings = sorted((name, repr(value)) for name, value in run.recipe.items() if name != "seed")
    parent: Any = run.parent_id
    if run.parent is not None and depth:
        parent = _family(run.parent, depth - 1)
    return (run.kind, settings, run.dataset_id, run.corrections_id, parent)


def group_runs(runs: list[Run], grouped: bool) -> list[list[Run]]:
    """Runs that are one line: those of different seeds together, where they shall be."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(family_of(run) if grouped else str(run.pk), []).append(run)
    return list(groups.values())


def name_of(group: list[Run]) -> str:
    first = f"{group[0].name} #{group[0].pk}"
    return first if len(group) == 1 else f"{first}, {len(group)} seeds"


# Lines


def thinned(count: int, values: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Which points of a long line are drawn: the lowest and the highest of each of equal parts, and the ends; so no
    peak is lost. [n] -> indices
    """
    if count <= most:
        return np.arange(count)
    parts = np.array_split(np.arange(count), (most - 2) // 2)
    kept = {0, count - 1}
    for part in parts:
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    return np.array(sorted(kept))


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """The exponential moving average, without the pull to its beginning. [n]"""
    out, mean, total = np.empty_like(values), 0.0, 0.0
    for place, value in enumerate(values):
        mean = weight * mean + (1 - weight) * value
        total = weight * total + (1 - weight)
        out[place] = mean / total
    return out


def line_of(group: list[Run], curves: dict[int, Points], choice: Choice, wish: Wish) -> dict[str, Any] | None:
    """A group's line with its band: of one run, Wilson's where it counts attempts; of several seeds, the mean over them
    with an interval, where all of them have come.
    """
    having = [curves[run.pk] for run in group if run.pk in curves]
    if not having:
        return None
    low = high = None
    words = ""
    if len(having) == 1:
        (points,) = having
        xs, ys = points.x, points.y
        if points.successes is not None and points.n is not None and wish.band != "none":
            low, high = wilsons(points.successes, points.n)
            words = "95 %, Wilson"
    else:
        start, end = max(each.x.min() for each in having), min(each.x.max() for each in having)
        grid = np.unique(np.concatenate([each.x for each in having]))
        xs = grid[(grid >= start) & (grid <= end)]
        if not len(xs):  # one began where another had ended
            xs = np.array([start])
        values = np.stack([np.interp(xs, *_increasing(each)) for each in having])  # [S, n]
        ys = values.mean(0)
        if wish.band != "none":
            at = thinned(len(xs), ys)
            low, high = np.empty_like(ys), np.empty_like(ys)
            low[at], high[at] = bootstrap(values[:, at]) if wish.band == "bootstrap" else student(values[:, at])
            words = f"95 %, {'bootstrap' if wish.band == 'bootstrap' else 't'} over {len(having)} seeds"
            if choice.share:
                low, high = low.clip(0, 1), high.clip(0, 1)
    kept = thinned(len(xs), ys)
    drawn = smoothed(ys, wish.smooth) if wish.smooth else ys
    return {
        "name": name_of(group),
        "runs": [run.pk for run in group],
        "seeds": len(having),
        "x": xs[kept].tolist(),
        "y": drawn[kept].tolist(),
        "raw": ys[kept].tolist() if wish.smooth else None,
        "low": low[kept].tolist() if low is not None else None,
        "high": high[kept].tolist() if high is not None else None,
        "band": words,
        "points": len(xs),
    }


def _increasing(points: Points) -> tuple[np.ndarray, np.ndarray]:
    """As interpolation wants it; of several values at one place the last counts."""
    order = np.argsort(points.x, kind="stable")
    xs, ys = points.x[order], points.y[order]
    last = np.append(xs[1:] != xs[:-1], True)
    return xs[last], ys[last]


# Differences


def differences(
    groups: list[list[Run]], curves: dict[int, Points], choice: Choice, baseline: int
) -> list[dict[str, Any]]:
    """Each group's last value less the baseline's, seed by seed where both have run it."""
    first = next((group for group in groups if any(run.pk == baseline for run in group)), groups[0] if groups else [])
    found: list[dict[str, Any]] = []
    for group in groups:
        if group is first:
            continue
        ours, theirs = _last_by_seed(group, curves), _last_by_seed(first, curves)
        seeds = sorted(ours.keys() & theirs.keys())
        row: dict[str, Any] = {"name": name_of(group), "runs": [run.pk for run in group], "baseline": name_of(first)}
        row |= {"seeds": seeds, "mean": None, "low": None, "high": None, "how": "no seed in common"}
        if len(seeds) >= 2:
            each = np.array([ours[seed].last - theirs[seed].last for seed in seeds])
            low, high = student(each)
            row |= {"mean": float(each.mean()), "low": float(low), "high": float(high)}
            row["how"] = f"95 %, paired t over {len(seeds)} seeds"
        elif len(seeds) == 1:
            one, two = theirs[seeds[0]], ours[seeds[0]]
            row |= {"mean": two.last - one.last, "how": "one seed: no interval over seeds"}
            was, now = _attempts(one), _attempts(two)
            if was and now:
                row |= dict(zip(("mean", "low", "high"), newcombe(was, now), strict=True))
                row["how"] = f"one seed; 95 %, Newcombe, of {was[1]} and {now[1]} attempts alone"
        elif not ours or not theirs:
            row["how"] = "nothing was measured"
        found.append(row)
    return found


def _attempts(points: Points) -> tuple[int, int] | None:
    """The last point's successes and attempts, where it counts any."""
    if points.successes is None or points.n is None:
        return None
    return int(points.successes[-1]), int(points.n[-1])


def _last_by_seed(group: list[Run], curves: dict[int, Points]) -> dict[int, Points]:
    return {run.recipe.get("seed", 0): curves[run.pk] for run in group if run.pk in curves}


# What differs


def config_rows(runs: list[Run], everything: bool) -> list[dict[str, Any]]:
    """Settings and sources, by run; only what differs unless all is asked for."""
    labels: dict[str, str] = {}
    for run in runs:
        labels |= {name: each.label for name, each in run.method.recipe.FIELDS.items() if name not in labels}
    rows: list[dict[str, Any]] = [
        {"label": "Kind", "values": [run.method.words for run in runs]},
        {"label": "Dataset", "values": [run.dataset.name if run.dataset else "–" for run in runs]},
        {"label": "Corrections", "values": [run.corrections.name if run.corrections else "–" for run in runs]},
        {"label": "Started from", "values": [f"{run.parent} #{run.parent_id}" if run.parent else "–" for run in runs]},
    ]
    for name, label in labels.items():
        values = [spell_setting(run, name) or "none" if name in run.recipe else "–" for run in runs]
        rows.append({"label": label, "values": values})
    for row in rows:
        row["differs"] = len(set(row["values"])) > 1
    return [row for row in rows if everything or row["differs"]]


def find_runs(lab: Lab, wish: Wish) -> list[Run]:
    """Those that the address names, at most as many as can be told apart; of another lab none."""
    rows = lab.runs.filter(pk__in=wish.numbers).select_related(
        "dataset", "corrections", "parent", "parent__parent", "parent__parent__parent"
    )
    place = {number: index for index, number in enumerate(wish.numbers)}
    return sorted(rows, key=lambda run: place[run.pk])[:MOST_RUNS]


def compare(lab: Lab, wish: Wish) -> dict[str, Any]:
    """All that the page, the chart and the files say."""
    runs = find_runs(lab, wish)
    choices = curve_choices({run.kind: run.method for run in runs}.values())
    choice = choices.get(wish.curve) or choices[SUCCESS]
    curves = read_curves(runs, choice, wish.x)
    groups = group_runs(runs, wish.grouped)
    lines = [line for group in groups if (line := line_of(group, curves, choice, wish))]
    return {
        "runs": runs,
        "choices": choices,
        "choice": choice,
        "lines": lines,
        "x_title": x_title(choice, wish.x),
        "differences": differences(groups, curves, choice, wish.baseline),
        "silent": [run.name for run in runs if run.pk not in curves],
        "log": wish.log,
        "smooth": wish.smooth,
    }

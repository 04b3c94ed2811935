"""What a sweep searches and how: values as people type them, and what Optuna is told and answers. Reading only: the
acts are in sweeps.py.

Optuna keeps nothing here. It is told anew of every run so far, each time that it is asked.
"""

import itertools
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from fleetui.access import Invalid
from fleetui.learning import comparing
from fleetui.learning.models import Run, Sweep
from fleetui.learning.run_table import duration_of
from training.methods.registry import Method
from training.recipes import RecipeError

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

RANGE = re.compile(r"(\S+)\s+to\s+(\S+?)(?:\s*,?\s*(log))?", re.IGNORECASE)
Space = dict[str, dict[str, Any]]


def read_space(method: Method, given: Sequence[tuple[str, str]]) -> Space:
    """Settings and what may be tried of each, as people type it: "64, 128, 256" or "1e-4 to 1e-2, log"."""
    space: Space = {}
    problems: dict[str, str] = {}
    for number, (name, words) in enumerate(given, 1):
        field = f"values_{number}"
        if name not in method.recipe.FIELDS:
            problems[field] = f"{name!r} is no setting of this recipe."
        elif name in space:
            problems[field] = f"{method.recipe.FIELDS[name].label} is searched already; say it once."
        else:
            try:
                space[name] = _read_values(method, name, words)
            except ValueError as error:
                problems[field] = str(error)
    if not space and not problems:
        problems["setting_1"] = "Choose at least one setting to search, and say which values may be tried."
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    return space


def _read_values(method: Method, name: str, words: str) -> dict[str, Any]:
    label = method.recipe.FIELDS[name].label

    def checked(text: str) -> Any:
        try:
            return getattr(method.recipe.from_json({name: text.strip()}), name)
        except RecipeError as error:
            raise ValueError(f"{label}: {error.problems.get(name, error)}") from None

    if found := RANGE.fullmatch(words.strip()):
        low, high, log = checked(found[1]), checked(found[2]), bool(found[3])
        if isinstance(low, str):
            raise ValueError(f"{label} is text: list its values with commas between.")
        if not low < high:
            raise ValueError(f"{label}: {found[1]} is not below {found[2]}.")
        if log and low <= 0:
            raise ValueError(f"{label}: a logarithmic range begins above 0.")
        return {"low": low, "high": high, "log": log}
    values = list(dict.fromkeys(checked(text) for text in words.split(",") if text.strip()))
    if len(values) < 2:
        raise ValueError(f"{label}: write two values or more, as in “64, 128”, or a range, as in “1e-4 to 1e-2, log”.")
    return {"choices": values}


def hours_of(runs: list[Run]) -> float:
    """Of all runs together."""
    return sum(passed.total_seconds() for run in runs if (passed := duration_of(run))) / 3600


def distributions_of(sweep: Sweep) -> dict[str, optuna.distributions.BaseDistribution]:
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for name, values in sweep.space.items():
        if "choices" in values:
            found[name] = optuna.distributions.CategoricalDistribution(tuple(values["choices"]))
        elif isinstance(values["low"], int):
            found[name] = optuna.distributions.IntDistribution(values["low"], values["high"], log=values["log"])
        else:
            found[name] = optuna.distributions.FloatDistribution(values["low"], values["high"], log=values["log"])
    return found


def curves_of(sweep: Sweep, runs: list[Run]) -> dict[int, comparing.Points]:
    """What the runs showed so far of the sweep's objective."""
    choice = comparing.curve_choices([sweep.method]).get(sweep.objective)
    return comparing.read_curves(runs, choice, "own") if choice and runs else {}


def tell_study(sweep: Sweep, runs: list[Run]) -> tuple[optuna.Study, dict[int, bool]]:
    """A study that knows every run, and of each that goes on whether its pruner would end it now."""
    seed = 1000 * sweep.pk + len(runs)  # another one each time it is asked, and the same for the same question
    samplers = {"tpe": optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=5)}
    pruners = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=3),
        "halving": optuna.pruners.SuccessiveHalvingPruner(reduction_factor=3),
    }
    study = optuna.create_study(
        direction="maximize" if sweep.maximize else "minimize",
        sampler=samplers.get(sweep.sampler, optuna.samplers.RandomSampler(seed=seed)),
        pruner=pruners.get(sweep.pruner, optuna.pruners.NopPruner()),
    )
    curves, space = curves_of(sweep, runs), distributions_of(sweep)
    verdicts = {}
    for run in runs:
        study.enqueue_trial({name: run.recipe[name] for name in space})
        trial = study.ask(space)
        points = curves.get(run.pk)
        ends = False
        if points is not None:
            for x, y in zip(points.x, points.y, strict=True):
                trial.report(float(y), max(0, int(x)))
                ends = trial.should_prune()
        if run.is_live:
            verdicts[run.pk] = ends
        elif points is not None and run.state == "completed":
            study.tell(trial, points.last)
        elif points is not None and run.stopped_early:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return study, verdicts


def propose(sweep: Sweep, runs: list[Run], study: optuna.Study) -> dict[str, Any] | None:
    """What the next run shall try; None: a grid has no point left."""
    if sweep.sampler == "grid":
        tried = [{name: run.recipe[name] for name in sweep.space} for run in runs]
        return next((point for point in _grid(sweep.space) if point not in tried), None)
    drawn = study.ask(distributions_of(sweep)).params
    return {name: _rounded(value, sweep.space[name]) for name, value in drawn.items()}


def _rounded(value: Any, values: dict[str, Any]) -> Any:
    """Four digits are enough to tell two learning rates apart, and few enough to be read."""
    if not isinstance(value, float) or "choices" in values:
        return value
    return min(max(float(f"{value:.4g}"), values["low"]), values["high"])


def _grid(space: Space) -> list[dict[str, Any]]:
    lists = [values["choices"] for values in space.values()]
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*lists)]


def size_of(sweep: Sweep) -> int | None:
    """Of a grid: how many points it has."""
    return math.prod(len(each["choices"]) for each in sweep.space.values()) if sweep.sampler == "grid" else None


def reached_by(sweep: Sweep, runs: list[Run]) -> tuple[dict[int, float], Run | None]:
    """What each run showed last of the objective, by its number; and of the completed ones that with the best."""
    reached = {number: points.last for number, points in curves_of(sweep, runs).items()}
    done = [run for run in runs if run.state == "completed" and run.pk in reached]
    best = max if sweep.maximize else min
    return reached, best(done, key=lambda run: reached[run.pk]) if done else None


def sweep_row(sweep: Sweep) -> dict[str, Any]:
    """As the API answers it."""
    return {
        **{name: getattr(sweep, name) for name in ("name", "kind", "state", "error", "recipe", "space")},
        **{name: getattr(sweep, name) for name in ("sampler", "pruner", "objective", "maximize", "at_once")},
        "id": sweep.pk,
        "runs": sweep.budget_runs,
        "hours": sweep.budget_hours,
        "dataset": sweep.dataset_id,
        "corrections": sweep.corrections_id,
        "parent": sweep.parent_id,
        "created_at": sweep.created_at.isoformat(),
        "ended_at": sweep.ended_at.isoformat() if sweep.ended_at else None,
    }


def sweep_detail(sweep: Sweep) -> dict[str, Any]:
    """With its runs and what each reached."""
    runs = list(sweep.runs.select_related("lab").order_by("pk"))
    reached, best = reached_by(sweep, runs)
    launched = [
        {
            "run": run.pk,
            "state": run.state,
            "values": {name: run.recipe.get(name) for name in sweep.space},
            "reached": reached.get(run.pk),
            "stopped_early": run.stopped_early,
        }
        for run in runs
    ]
    return sweep_row(sweep) | {
        "launched": launched,
        "best": best.pk if best else None,
        "hours_spent": hours_of(runs),
    }


def importances(sweep: Sweep, runs: list[Run]) -> dict[str, float]:
    """How much each setting moved what the completed runs reached; empty where too few have ended to say."""
    study, _ = tell_study(sweep, runs)
    done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    if len(done) < 4 or len({trial.value for trial in done}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found: dict[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return found

"""Sweeps: a search over settings of a recipe, run by run, under a budget. These are actions, like those in actions.py.

What is tried next is decided when a run ends or the worker's watch looks: Optuna is told anew of every run so far, so
that the Sweep row and its runs are all that there is to keep. Whoever asks twice changes nothing: the row is locked.
"""

import itertools
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from django.db import transaction
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.models import Lab
from fleetui.learning import actions, comparing
from fleetui.learning.models import PRUNERS, SAMPLERS, Dataset, Run, Sweep
from fleetui.learning.run_table import duration_of
from training.methods.registry import Method, method_of
from training.recipes import RecipeError

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

MOST_RUNS = 500
MOST_AT_ONCE = 16
FAILED_IN_A_ROW = 3  # with nothing else before: what all of them have in common is wrong
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


@transaction.atomic
def launch_sweep(
    *,
    lab: Lab,
    user: access.Acting,
    kind: str,
    recipe: dict[str, Any],
    space: Space,
    objective: str,
    sampler: str = "tpe",
    pruner: str = "",
    maximize: bool | None = None,
    budget_runs: int = 20,
    budget_hours: float | None = None,
    at_once: int = 1,
    name: str = "",
    dataset: Dataset | None = None,
    corrections: Dataset | None = None,
    parent: Run | None = None,
    source: str = "server",
) -> Sweep:
    """Check everything, write the sweep and enqueue its job, which launches the first runs. `maximize` None: as the
    curve of the objective says.
    """
    access.check(user, lab, "launch_run")
    method = method_of(kind)
    checked = actions.read_recipe(kind=kind, recipe=recipe)
    choice = comparing.curve_choices([method]).get(objective)
    sources: actions.Sources = {"dataset": dataset, "corrections": corrections, "parent": parent}
    problems = actions.source_problems(lab=lab, method=method, **sources)
    if method.practises:
        problems["space"] = (
            f"Runs of {method.words} hold stations while they run, so that a sweep would wait for them run after run. "
            "Sweep a method that trains without stations."
        )
    if choice is None:
        problems["objective"] = "Choose what the runs are compared by among the curves of this method."
    if sampler not in SAMPLERS:
        problems["sampler"] = f"Choose the sampler among {', '.join(SAMPLERS)}."
    elif sampler == "grid" and (ranges := [each for each, values in space.items() if "choices" not in values]):
        label = method.recipe.FIELDS[ranges[0]].label
        problems["sampler"] = f"A grid needs single values; {label} has a range. List its values with commas between."
    if pruner not in PRUNERS:
        problems["pruner"] = "Choose one of the offered ways to stop early, or none."
    if not 1 <= budget_runs <= MOST_RUNS:
        problems["budget_runs"] = f"The number of runs must be 1 to {MOST_RUNS}, not {budget_runs}."
    if budget_hours is not None and not 0 < budget_hours <= 10_000:
        problems["budget_hours"] = "The hours must be above 0 and at most 10000."
    if not 1 <= at_once <= MOST_AT_ONCE:
        problems["at_once"] = f"At once there may be 1 to {MOST_AT_ONCE} runs, not {at_once}."
    if problems or choice is None:
        raise Invalid(" ".join(problems.values()), problems)
    number = lab.sweeps.count() + 1
    sweep = Sweep.objects.create(
        lab=lab,
        name=name.strip()[:80] or f"{kind} sweep {number}",
        kind=kind,
        recipe=checked.to_json(),
        space=space,
        sampler=sampler,
        pruner=pruner,
        objective=objective,
        maximize=choice.larger if maximize is None else maximize,
        budget_runs=budget_runs,
        budget_hours=budget_hours,
        at_once=at_once,
        created_by=access.person_of(user),
        **sources,
    )
    _record(sweep, "sweep_launched", user, source=source)
    actions.enqueue_on_commit("learning.sweep", sweep.pk)
    return sweep


@transaction.atomic
def stop_sweep(*, sweep: Sweep, user: access.Acting, source: str = "server") -> None:
    """No further run is launched, and those under way are cancelled; all that they made is kept."""
    access.check(user, sweep.lab, "control_run")
    _record(sweep, "sweep_stopped", user, source=source)
    if not Sweep.objects.filter(pk=sweep.pk, state="running").update(state="stopped", ended_at=timezone.now()):
        sweep.refresh_from_db()
        raise Conflict(f"{sweep} is {sweep.state}; there is nothing to stop.")
    for run in sweep.runs.filter(state__in=Run.LIVE).exclude(state="canceling").select_related("lab"):
        actions.cancel_run(run=run, user=user, reason=f"{sweep} was stopped", source=source)


def _record(sweep: Sweep, kind: str, user: access.Acting, *, source: str) -> None:
    details = {"sweep": sweep.name, "number": sweep.pk, "kind": sweep.kind}
    record_act(lab=sweep.lab, kind=kind, user=user, details=details, source=source)


# What its job does


@transaction.atomic
def advance_sweep(*, sweep_id: int) -> None:
    """Stop runs that promise too little, launch the next ones, or end it: whatever is due now."""
    rows = Sweep.objects.select_for_update(of=("self",)).select_related("lab", "dataset", "corrections", "parent")
    sweep = rows.filter(pk=sweep_id, state="running").first()
    if sweep is None:
        return
    runs = list(sweep.runs.select_related("lab").order_by("pk"))
    study, verdicts = tell_study(sweep, runs)
    by_server = access.Server(sweep.created_by)
    for run in runs:
        if verdicts.get(run.pk) and run.state in ("starting", "running", "pausing", "paused"):
            Run.objects.filter(pk=run.pk).update(stopped_early=True)
            actions.cancel_run(run=run, user=by_server, reason=f"stopped early by {sweep}: {PRUNERS[sweep.pruner]}")
    if problem := _nothing_works(runs):
        _end(sweep, "failed", problem)
        return
    live = sum(run.is_live for run in runs)
    may_begin = len(runs) < sweep.budget_runs and not _hours_are_spent(sweep, runs)
    tried = len(runs)
    while may_begin and live < sweep.at_once and tried < sweep.budget_runs:
        values = _propose(sweep, runs, study)
        if values is None:
            may_begin = False
            break
        runs.append(_launch(sweep, values, by_server))
        tried, live = tried + 1, live + 1
    if not live:
        _end(sweep, "completed")


def advance_sweeps() -> None:
    """The worker's watch: a message may have been lost, and what runs show while they run may end them."""
    for number in Sweep.objects.filter(state="running").values_list("pk", flat=True):
        advance_sweep(sweep_id=number)


def _end(sweep: Sweep, state: str, error: str = "") -> None:
    Sweep.objects.filter(pk=sweep.pk, state="running").update(state=state, error=error, ended_at=timezone.now())


def _nothing_works(runs: list[Run]) -> str:
    """Why it is given up, or nothing."""
    if len(runs) < FAILED_IN_A_ROW or any(run.state != "failed" for run in runs):
        return ""
    last = (runs[-1].error.splitlines() or ["no reason was given"])[0]
    return f"Its first {len(runs)} runs failed, the last one with: {last} Mend that, then launch the sweep again."


def hours_of(runs: list[Run]) -> float:
    """Of all runs together."""
    return sum(passed.total_seconds() for run in runs if (passed := duration_of(run))) / 3600


def _hours_are_spent(sweep: Sweep, runs: list[Run]) -> bool:
    return sweep.budget_hours is not None and hours_of(runs) >= sweep.budget_hours


def _launch(sweep: Sweep, values: dict[str, Any], user: access.Acting) -> Run:
    recipe = actions.read_recipe(kind=sweep.kind, recipe=sweep.recipe | values)
    number = sweep.runs.count() + 1
    run = actions.create_run(
        lab=sweep.lab,
        user=user,
        recipe=recipe,
        name=f"{sweep.name}, {number}"[:80],
        dataset=sweep.dataset,
        corrections=sweep.corrections,
        parent=sweep.parent,
    )
    Run.objects.filter(pk=run.pk).update(sweep=sweep)
    run.refresh_from_db()
    actions.enqueue_run(run=run, user=user)
    return run


# What Optuna is told, and answers


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


def _propose(sweep: Sweep, runs: list[Run], study: optuna.Study) -> dict[str, Any] | None:
    """What the next run shall try; None: a grid has no point left."""
    if sweep.sampler == "grid":
        tried = [{name: run.recipe[name] for name in sweep.space} for run in runs]
        return next((point for point in _grid(sweep.space) if point not in tried), None)
    return dict(study.ask(distributions_of(sweep)).params)


def _grid(space: Space) -> list[dict[str, Any]]:
    lists = [values["choices"] for values in space.values()]
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*lists)]


def size_of(sweep: Sweep) -> int | None:
    """Of a grid: how many points it has."""
    return math.prod(len(each["choices"]) for each in sweep.space.values()) if sweep.sampler == "grid" else None


def importances(sweep: Sweep, runs: list[Run]) -> dict[str, float]:
    """How much each setting moved what the completed runs reached; empty where too few have ended to say."""
    study, _ = tell_study(sweep, runs)
    done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    if len(done) < 4 or len({trial.value for trial in done}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found: dict[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return found

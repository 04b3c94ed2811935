"""Sweeps: a search over settings of a recipe, run by run, under a budget. These are actions, like those in actions.py.

What is tried next is decided when a run ends or the worker's watch looks (searching.py): the Sweep row and its runs
are all that there is to keep. Whoever asks twice changes nothing: the row is locked.
"""

import contextlib
from typing import Any

from django.db import transaction
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.models import Lab
from fleetui.learning import actions, comparing, pretrained, searching, selectors
from fleetui.learning.models import PRUNERS, SAMPLERS, Dataset, Run, Sweep
from training.methods.registry import method_of

MOST_RUNS = 500
MOST_AT_ONCE = 16
FAILED_IN_A_ROW = 3  # with nothing else before: what all of them have in common is wrong


@transaction.atomic
def launch_sweep(
    *,
    lab: Lab,
    user: access.Acting,
    kind: str,
    recipe: dict[str, Any],
    space: searching.Space,
    objective: str,
    sampler: str = "tpe",
    pruner: str = "",
    maximize: bool | None = None,
    budget_runs: int = 20,
    budget_hours: float | None = None,
    at_once: int = 1,
    name: str = "",
    queue: str = "cpu",
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
    checked = actions.read_recipe(lab=lab, kind=kind, recipe=recipe)
    choice = comparing.curve_choices([method]).get(objective)
    sources: actions.Sources = {"dataset": dataset, "corrections": corrections, "parent": parent}
    problems = actions.source_problems(lab=lab, method=method, **sources)
    problems |= pretrained.sight_problems(lab, checked.to_json(), dataset.body if dataset else {})
    if problem := selectors.queue_problem(queue):
        problems["queue"] = problem
    if method.practises:
        problems["space"] = (
            f"Runs of {method.words} hold stations while they run, so that a sweep would wait for them run after run. "
            "Sweep a method that trains without stations."
        )
    for setting in pretrained.SETTINGS.keys() & space.keys():
        for sha256 in space[setting].get("choices", ()):  # of text there is no range
            if unknown := pretrained.recipe_problems(lab, {setting: sha256}):
                problems["space"] = unknown[setting]
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
        queue=queue,
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
    study, verdicts = searching.tell_study(sweep, runs)
    by_server = access.Server(sweep.created_by)
    for run in runs:
        if verdicts.get(run.pk) and run.state in ("starting", "running", "pausing", "paused"):
            with contextlib.suppress(Conflict), transaction.atomic():  # it has just ended by itself
                actions.cancel_run(run=run, user=by_server, reason=f"stopped early by {sweep}: {PRUNERS[sweep.pruner]}")
                Run.objects.filter(pk=run.pk).update(stopped_early=True)
    if problem := _nothing_works(runs):
        _end(sweep, "failed", problem)
        return
    live = sum(run.is_live for run in runs)
    while live < sweep.at_once and len(runs) < sweep.budget_runs and not _hours_are_spent(sweep, runs):
        values = searching.propose(sweep, runs, study)
        if values is None:
            break
        try:
            runs.append(_launch(sweep, values, by_server))
        except access.Refused as error:  # its method has changed, or is gone
            _end(sweep, "failed", str(error))
            return
        live += 1
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


def _hours_are_spent(sweep: Sweep, runs: list[Run]) -> bool:
    return sweep.budget_hours is not None and searching.hours_of(runs) >= sweep.budget_hours


def _launch(sweep: Sweep, values: dict[str, Any], user: access.Acting) -> Run:
    recipe = actions.read_recipe(lab=sweep.lab, kind=sweep.kind, recipe=sweep.recipe | values)
    number = sweep.runs.count() + 1
    run = actions.create_run(
        lab=sweep.lab,
        user=user,
        recipe=recipe,
        name=f"{sweep.name}, {number}"[:80],
        queue=sweep.queue,
        dataset=sweep.dataset,
        corrections=sweep.corrections,
        parent=sweep.parent,
    )
    Run.objects.filter(pk=run.pk).update(sweep=sweep)
    run.refresh_from_db()
    actions.enqueue_run(run=run, user=user)
    return run

"""Policies evaluated anew in simulation, one or two on the same attempts: asked for by people, made by a job. These are
actions, like those in actions.py.
"""

from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.models import Lab, Task
from fleetui.learning.actions import STALE_AFTER, enqueue_on_commit
from fleetui.learning.models import Checkpoint, Comparison
from robots.tasks import TASKS

MOST_EPISODES = 2000
MOST_WAITING = 6  # of a lab
JOB = "learning.compare"


def comparison_problem(checkpoint: Checkpoint, task: Task) -> str:
    """Why the policy can't be evaluated at the task in simulation, or nothing."""
    body = checkpoint.run.body.get("name", "")
    if checkpoint.role != "policy":
        return f"{checkpoint} acts in no simulation; choose a policy."
    if not checkpoint.file.is_file():
        return f"The file of {checkpoint} of {checkpoint.run} is no longer there; choose another one."
    if task.wordings or task.family not in TASKS:
        return f"No world here judges {task}; evaluate it on stations, where people say what was a success."
    if body != task.embodiment:
        return f"{checkpoint} of {checkpoint.run} was trained for {body or 'an unknown body'}, and {task} is for " + (
            f"{task.embodiment}; choose a task of its body."
        )
    return ""


@transaction.atomic
def ask_comparison(
    *,
    lab: Lab,
    user: access.Acting,
    first: Checkpoint,
    second: Checkpoint | None,
    task: Task,
    episodes: int,
    seed: int,
    source: str = "server",
) -> Comparison:
    """Let a job make the attempts; two policies make the same ones."""
    access.check(user, lab, "compare_checkpoints")
    problems: dict[str, str] = {}
    for name, each in (("first", first), ("second", second)):
        if each is not None and (problem := comparison_problem(each, task)):
            problems[name] = problem
    if any(each is not None and each.run.lab_id != lab.pk for each in (first, second)) or task.lab_id != lab.pk:
        problems["first"] = "The checkpoints and the task must all belong to this lab."
    if second == first:
        problems["second"] = "Choose another policy to compare it with, or none."
    if not 1 <= episodes <= MOST_EPISODES:
        problems["episodes"] = f"The number of attempts must be 1 to {MOST_EPISODES}."
    if not 0 <= seed < 2**31:
        problems["seed"] = "The seed must be 0 to 2147483647."
    if problems:
        raise Invalid(" ".join(dict.fromkeys(problems.values())), problems)
    Lab.objects.select_for_update().get(pk=lab.pk)
    if lab.comparisons.filter(state__in=Comparison.LIVE).count() >= MOST_WAITING:
        raise Conflict(f"{MOST_WAITING} comparisons of {lab} wait or go on already; wait for one, or cancel one.")
    made = Comparison.objects.create(
        lab=lab,
        first=first,
        second=second,
        task=task,
        time_limit=task.time_limit_steps,
        edge_margin=task.edge_margin,
        episodes=episodes,
        seed=seed,
        created_by=access.person_of(user),
    )
    details: dict[str, Any] = {"task": task.name, "attempts": episodes, "seed": seed}
    details |= {"first": f"{first} of {first.run}", "second": f"{second} of {second.run}" if second else None}
    record_act(lab=lab, kind="comparison_asked", user=user, details=details, source=source)
    enqueue_on_commit(JOB, made.pk)
    return made


@transaction.atomic
def cancel_comparison(*, comparison: Comparison, user: access.Acting, source: str = "server") -> None:
    """Its job ends the simulation; nothing is kept of it."""
    access.check(user, comparison.lab, "compare_checkpoints")
    if not _move(comparison, "canceled", ended_at=timezone.now()):
        raise Conflict("It has ended already.")
    details = {"comparison": comparison.pk}
    record_act(lab=comparison.lab, kind="comparison_canceled", user=user, details=details, source=source)


# What its job does


def claim_comparison(*, comparison_id: int) -> Comparison | None:
    """The one job that may make it now; a second delivery of the message gets None."""
    now = timezone.now()
    free = Q(state="queued") | Q(state="running", heartbeat_at__lt=now - STALE_AFTER)
    if not Comparison.objects.filter(free, pk=comparison_id).update(state="running", heartbeat_at=now, progress=0.0):
        return None
    return Comparison.objects.select_related("lab", "first", "second", "task").get(pk=comparison_id)


def beat_comparison(*, comparison: Comparison) -> bool:
    """Say that its job lives. False if nobody wants it any more."""
    return bool(Comparison.objects.filter(pk=comparison.pk, state="running").update(heartbeat_at=timezone.now()))


def advance_comparison(*, comparison: Comparison, progress: float) -> None:
    Comparison.objects.filter(pk=comparison.pk, state="running").update(progress=progress)


def release_comparison(*, comparison: Comparison) -> None:
    """The worker stops; the next one makes it from the start, on the same seed."""
    Comparison.objects.filter(pk=comparison.pk, state="running").update(state="queued", heartbeat_at=None)


def finish_comparison(*, comparison: Comparison, results: dict[str, Any]) -> None:
    _move(comparison, "completed", results=results, progress=1.0, ended_at=timezone.now())


def fail_comparison(*, comparison: Comparison, error: str) -> None:
    _move(comparison, "failed", error=error, ended_at=timezone.now())


def _move(comparison: Comparison, to: str, **fields: Any) -> bool:
    rows = Comparison.objects.filter(pk=comparison.pk, state__in=Comparison.LIVE)
    return bool(rows.update(state=to, heartbeat_at=None, **fields))


def requeue_stale_comparisons(*, all_waiting: bool) -> None:
    """Find what a crash of a worker left behind, and what merely waits where its message may be lost."""
    late = Q(state="running", heartbeat_at__lt=timezone.now() - STALE_AFTER)
    rows = Comparison.objects.filter(late | Q(state="queued")) if all_waiting else Comparison.objects.filter(late)
    for comparison_id in rows.values_list("pk", flat=True):
        enqueue_on_commit(JOB, comparison_id)

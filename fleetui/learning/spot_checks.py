"""Detected successes that people look at: drawn at random as they arrive, answered one after the other. These are
actions, like those in actions.py, and what their answers bound.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.episodes import label_episode
from fleetui.fleet.models import Episode, Lab, Task
from fleetui.learning.curves import JUDGED
from fleetui.learning.models import SpotCheck
from training.detector_figures import upper_bound

ANSWERS = {True: "a success", False: "no success", None: "skipped"}


def is_drawn(row: Episode) -> bool:
    """By chance, but the same for one episode however often it is asked: its id says it."""
    share = row.task.audit_share if row.task and row.task.audit_share is not None else Task.AUDIT_SHARE
    return int.from_bytes(hashlib.sha256(row.uuid.bytes).digest()[:4]) < share * 2**32


def draw_spot_checks(*, rows: Iterable[Episode]) -> None:
    """Of attempts that ended by themselves, with nobody's help, in what the detector called a success."""
    made = [
        SpotCheck(
            episode=row, lab_id=row.lab_id, task=row.task, policy_id=row.policy_id, reward_model_id=row.reward_model_id
        )
        for row in rows
        if row.detected_success and row.purpose in JUDGED and row.policy_id and not row.human_steps and is_drawn(row)
    ]
    SpotCheck.objects.bulk_create(made, ignore_conflicts=True)


def list_waiting(lab: Lab) -> QuerySet[SpotCheck]:
    """The newest first: what happened a moment ago is remembered best, and may still stand there."""
    rows = lab.spot_checks.filter(answered_at=None)
    return rows.select_related("episode__station", "episode__run", "task", "policy__run")


@transaction.atomic
def answer_spot_check(*, check: SpotCheck, user: User, answer: bool | None, source: str = "server") -> None:
    """Whether it was a success; None: nobody can tell, and it counts nowhere. An answer is the episode's label too."""
    access.check(user, check.lab, "label_episode")
    before = Episode.objects.filter(pk=check.episode_id).values_list("true_success", flat=True).get()
    waits = SpotCheck.objects.filter(pk=check.pk, answered_at=None)
    if not waits.update(answer=answer, answered_at=timezone.now(), answered_by=user, before=before):
        check.refresh_from_db()
        raise Conflict(f"{check.answered_by or 'Somebody'} has answered this one meanwhile; here is the next one.")
    if answer is not None:
        label_episode(user=user, episode=check.episode, true_success=answer, reason="spot check", source=source)
    _record(check, user, "spot_checked", ANSWERS[answer], source=source)


@transaction.atomic
def undo_spot_check(*, lab: Lab, user: User, source: str = "server") -> SpotCheck:
    """Take one's own last answer back: it waits again, and the episode's label is what it was."""
    access.check(user, lab, "label_episode")
    answered = lab.spot_checks.filter(answered_by=user, answered_at__isnull=False).order_by("-answered_at")
    last = answered.select_for_update().first()
    if last is None:
        raise Conflict("You have not answered any spot check yet, so there is nothing to undo.")
    if last.answer is not None:
        label_episode(
            user=user, episode=last.episode, true_success=last.before, reason="spot check undone", source=source
        )
    SpotCheck.objects.filter(pk=last.pk).update(answer=None, answered_at=None, answered_by=None, before=None)
    _record(last, user, "spot_check_undone", ANSWERS[last.answer], source=source)
    last.refresh_from_db()
    return last


def _record(check: SpotCheck, user: User, kind: str, answer: str, *, source: str) -> None:
    details = {"episode": str(check.episode_id), "answer": answer}
    record_act(lab=check.lab, kind=kind, user=user, station=check.episode.station, details=details, source=source)


# What the answers say


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


def bound_of_all(checks: QuerySet[SpotCheck]) -> dict[str, Any]:
    """All of them together."""
    found = checks.order_by().aggregate(
        n=Count("pk", filter=Q(answer__isnull=False)),
        wrong=Count("pk", filter=Q(answer=False)),
        waiting=Count("pk", filter=Q(answered_at=None)),
    )
    return found | {"bound": upper_bound(found["wrong"], found["n"])}

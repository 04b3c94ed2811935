"""Detected successes that people look at: drawn at random as they arrive, answered one after the other. These are
actions, like those in actions.py.
"""

import hashlib
from collections.abc import Iterable

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.episodes import label_episode
from fleetui.fleet.models import Episode, Lab, Task
from fleetui.learning.models import SpotCheck
from fleetui.learning.studio import JUDGED

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

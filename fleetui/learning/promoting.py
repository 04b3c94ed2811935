"""Which checkpoint is used where nobody names one: promoting it, going back, and another threshold for a detector.
These are actions, like those in actions.py.

A promoted policy is the lab's default for its body. A promoted reward model judges what begins from then on: of its
versions, which have the same weights and another threshold, the newest promoted one. What is under way keeps its own.
"""

import uuid as uuids
from typing import Any

from django.db import transaction

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.models import Lab
from fleetui.learning.checkpoints import former_of, in_force, promotion_problem, scope_of
from fleetui.learning.models import Checkpoint, Promotion
from fleetui.messages import CheckpointsChanged, send_on_commit
from training.checkpoint_files import FileError, write_described
from training.run_dir import sha256_of

LARGEST_THRESHOLD = 1000.0  # steps
MOST_CONSECUTIVE = 20  # frames


@transaction.atomic
def promote_checkpoint(
    *, checkpoint: Checkpoint, user: access.Acting, reason: str = "", source: str = "server"
) -> Promotion:
    """From now on it is used where nobody names another one."""
    lab = checkpoint.run.lab
    access.check(user, lab, "promote_checkpoint")
    reason = _checked_reason(reason)
    Lab.objects.select_for_update().get(pk=lab.pk)  # of two presses the second sees what the first did
    if problem := promotion_problem(checkpoint):
        raise Conflict(problem)
    if in_force(checkpoint) == checkpoint:
        raise Conflict(f"{checkpoint} of {checkpoint.run} is in force already.")
    return _promote(lab, scope_of(checkpoint), checkpoint, user, reason, source=source)


@transaction.atomic
def go_back(*, promotion: Promotion, user: access.Acting, source: str = "server") -> Promotion:
    """Undo this promotion, if no other came after it: what was in force before is in force again."""
    lab = promotion.lab
    access.check(user, lab, "promote_checkpoint")
    Lab.objects.select_for_update().get(pk=lab.pk)
    rows = Promotion.objects.filter(lab=lab, role=promotion.role, body=promotion.body, run=promotion.run)
    history = list(rows.select_related("checkpoint__run", "run"))
    if history[0] != promotion:
        raise Conflict("Somebody has promoted another checkpoint meanwhile. Look at what is in force now.")
    former = former_of(history)
    if former is not None and (problem := promotion_problem(former)):
        raise Conflict(f"It can't go back: {problem}")
    scope = {"role": promotion.role, "body": promotion.body, "run": promotion.run}
    return _promote(lab, scope, former, user, f"undo of promotion {promotion.pk}", source=source)


def _promote(
    lab: Lab, scope: dict[str, Any], checkpoint: Checkpoint | None, user: access.Acting, reason: str, *, source: str
) -> Promotion:
    made = Promotion.objects.create(lab=lab, **scope, checkpoint=checkpoint, reason=reason, user=access.person_of(user))
    named = f"{checkpoint} of {checkpoint.run}" if checkpoint else "none"
    details = {"checkpoint": named, "id": str(checkpoint.pk) if checkpoint else None, "body": scope["body"] or None}
    record_act(lab=lab, kind="checkpoint_promoted", user=user, reason=reason, details=details, source=source)
    return made


def _checked_reason(reason: str, needed: str = "") -> str:
    reason = reason.strip()
    if len(reason) > 300:
        raise Invalid("A reason has at most 300 characters.", {"reason": "At most 300 characters."})
    if needed and not reason:
        raise Invalid(needed, {"reason": needed})
    return reason


@transaction.atomic
def publish_threshold(
    *,
    checkpoint: Checkpoint,
    user: access.Acting,
    threshold: float,
    consecutive: int,
    reason: str,
    source: str = "server",
) -> Checkpoint:
    """A new version of the reward model: the same weights, another s and k. It is promoted at once; the old one stays
    as it was, and going back is promoting that again.
    """
    run, lab = checkpoint.run, checkpoint.run.lab
    access.check(user, lab, "promote_checkpoint")
    problems = {}
    if checkpoint.role != "reward_model":
        raise Invalid(f"{checkpoint} is no reward model; only a reward model has a threshold.")
    if not 0 < threshold <= LARGEST_THRESHOLD:
        problems["threshold"] = f"A threshold is a number of steps above 0, {LARGEST_THRESHOLD:.0f} at most."
    if not 1 <= consecutive <= MOST_CONSECUTIVE:
        problems["consecutive"] = f"So many frames in a row must be 1 to {MOST_CONSECUTIVE}."
    if not reason.strip():
        problems["reason"] = "Say why, so that others can judge it later."
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    reason = _checked_reason(reason)
    Lab.objects.select_for_update().get(pk=lab.pk)
    newest = in_force(checkpoint) or checkpoint
    if (newest.threshold, newest.consecutive) == (threshold, consecutive):
        raise Conflict(f"{newest} has this threshold already, and is in force.")
    weights = checkpoint.weights
    version = max(run.checkpoints.filter(role="reward_model").values_list("version", flat=True)) + 1
    key = uuids.uuid4()
    made = Checkpoint(
        uuid=key,
        run=run,
        role="reward_model",
        version=version,
        path=f"checkpoints/{key}.safetensors",
        threshold=threshold,
        consecutive=consecutive,
        derived_from=weights,
        pretrained=weights.pretrained,
    )
    said = {"id": str(key), "version": version, "threshold": threshold, "consecutive": consecutive}
    try:
        write_described(weights.file, made.file, said)
    except (FileError, OSError) as error:
        raise Conflict(f"{weights} of {run} can't be copied: {error}") from None
    made.sha256 = sha256_of(made.file)
    made.save(force_insert=True)
    details = {"checkpoint": f"{made} of {run}", "s": threshold, "k": consecutive, "before": newest.threshold}
    record_act(lab=lab, kind="threshold_published", user=user, reason=reason, details=details, source=source)
    _promote(lab, scope_of(made), made, user, reason, source=source)
    send_on_commit(run.topic, CheckpointsChanged([made.row()]))
    return made

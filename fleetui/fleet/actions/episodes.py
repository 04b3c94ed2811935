"""What a person says of an episode: whether it was a true success."""

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.models import Episode, Intervention
from robots.episodes import label

ANSWERS = {True: "yes", False: "no"}
LABELS = {True: "yes", False: "no", None: "unknown"}


def label_episode(
    *, user: User, episode: Episode, true_success: bool | None, reason: str = "", source: str = "server"
) -> bool | None:
    """A person says whether it was a true success; None: nobody knows. Returns what was said before, for an undo.

    Only ever reported: no training reads it, nor an evaluation in simulation; an evaluation on stations counts by it.
    """
    access.check(user, episode.lab, "label_episode")
    if not isinstance(reason, str) or len(reason) > 200:
        raise Invalid("A reason for the label has at most 200 characters.", {"reason": "At most 200 characters."})
    with transaction.atomic():
        before = Episode.objects.select_for_update().get(pk=episode.pk).true_success
        if before is not true_success:
            Episode.objects.filter(pk=episode.pk).update(true_success=true_success)
            now = timezone.now()
            summary = f"true success: {LABELS[before]} to {LABELS[true_success]}"
            Intervention.objects.create(
                lab_id=episode.lab_id,
                station_id=episode.station_id,
                run_id=episode.run_id,
                episode=episode,
                user=user,
                kind="relabel",
                reason=f"{summary}, {reason.strip()}" if reason.strip() else summary,
                started_at=now,
                ended_at=now,
            )
            details = {"episode": str(episode.uuid), "label": summary}
            record_act(
                lab=episode.lab,
                kind="relabel",
                user=user,
                station=episode.station,
                reason=reason.strip(),
                details=details,
                source=source,
            )
    episode.true_success = true_success
    return before


def answer_question(*, user: User, episode: Episode, value: bool, source: str = "server") -> None:
    """A person says yes or no to what the episode's method asks of each attempt; the newest answer counts, as long as
    the learner has not had the episode.
    """
    access.check(user, episode.lab, "label_episode")
    with transaction.atomic():
        row = Episode.objects.select_for_update().get(pk=episode.pk)
        if not row.asks:
            raise Conflict("Nothing is asked of this episode: its method learns without a person's word.")
        if row.handed_in_at is not None and row.asks not in row.labels:
            raise Conflict("It is too late: the learner has had this episode without an answer.")
        row.labels = row.labels | {row.asks: label(float(value), "human")}
        row.save(update_fields=["labels"])
        now = timezone.now()
        said = f"{row.asks}: {ANSWERS[value]}"
        Intervention.objects.create(
            lab_id=row.lab_id,
            station_id=row.station_id,
            run_id=row.run_id,
            episode=row,
            user=user,
            kind="relabel",
            reason=said,
            started_at=now,
            ended_at=now,
        )
        details = {"episode": str(row.uuid), "label": said}
        record_act(lab=row.lab, kind="relabel", user=user, station=row.station, details=details, source=source)
    episode.labels = row.labels

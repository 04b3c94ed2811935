"""d of stored attempts, kept beside their rows: written with each upload, filled in for what was stored before, and
watched for drift. These are actions, like those in actions.py.
"""

from collections.abc import Iterable, Sequence
from uuid import UUID

import numpy as np

from fleetui.fleet.actions.alarms import note_drift
from fleetui.fleet.models import Episode, Station
from fleetui.learning import studio
from fleetui.learning.models import Checkpoint, Curve
from robots.episodes import Episode as RecordedEpisode
from robots.episodes import EpisodeError, read_episodes
from training import detector_figures

FILLED_AT_ONCE = 500


def keep_curves(*, rows: Sequence[Episode], recorded: Iterable[RecordedEpisode]) -> None:
    """Of those that a reward model judged. A second time changes nothing."""
    made = [
        Curve(
            episode=row,
            d=np.ascontiguousarray(each.steps_to_go, "<f4").tobytes(),
            error=detector_figures.error_ahead(each.steps_to_go) if row.ending == "detected_success" else None,
            station_id=row.station_id,
            policy_id=row.policy_id,
            weights_id=row.reward_model.weights.pk if row.reward_model else None,
            stored_at=row.stored_at,
        )
        for row, each in zip(rows, recorded, strict=True)
        if row.purpose in studio.JUDGED and row.reward_model_id
    ]
    Curve.objects.bulk_create(made, ignore_conflicts=True)


def fill_curves(*, reward_models: Iterable[Checkpoint]) -> int:
    """Read the files of a few hundred attempts of before; how many. One that can't be read is kept as not judged."""
    rows = list(studio.missing_curves(reward_models)[:FILLED_AT_ONCE])
    for row in rows:
        try:
            (recorded,) = read_episodes(row.file, frames=False)
        except (OSError, EpisodeError):
            Curve.objects.get_or_create(
                episode=row, defaults={"d": b"", "station_id": row.station_id, "stored_at": row.stored_at}
            )
        else:
            keep_curves(rows=[row], recorded=[recorded])
    return len(rows)


def watch_drift(*, station: Station, policies: Iterable[UUID]) -> None:
    """Compare d of the station's newest attempts with its first ones of the same policy: the error 20 steps before the
    detector ended them (training/detector_figures.py has the rule).
    """
    for policy_id in policies:
        errors = Curve.objects.filter(station=station, policy_id=policy_id, error__isnull=False)
        if errors.count() < detector_figures.FIRST + detector_figures.LAST:
            continue
        values = errors.values_list("error", flat=True)
        first = [each or 0.0 for each in values.order_by("stored_at")[: detector_figures.FIRST]]
        last = [each or 0.0 for each in values.order_by("-stored_at")[: detector_figures.LAST]]
        drift = detector_figures.drift(first, last)
        if drift is None:
            continue
        reason = ""
        if drift.found:
            reason = (
                f"d has drifted: {detector_figures.AHEAD} steps before a detection it is off by {drift.now:.1f} steps "
                f"on average of the last {detector_figures.LAST} attempts, and was by {drift.first:.1f} at first"
            )
        note_drift(station=station, policy_id=policy_id, reason=reason)

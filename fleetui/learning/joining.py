"""Stored episodes that become a dataset: practice that went well, and what people drove, found by a filter. These are
actions, like those in actions.py, and what their form asks beforehand.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F, Q, QuerySet
from safetensors import SafetensorError, safe_open

from fleetui import access
from fleetui.access import Invalid
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.bodies import what_changed
from fleetui.fleet.models import Episode, Lab
from fleetui.learning.actions import enqueue_on_commit, new_dataset
from fleetui.learning.datasets import BATCH, WEIGHTS
from fleetui.learning.models import Dataset, DatasetEpisode
from robots.episodes import EpisodeError, EpisodeFile
from robots.quality import fell_monotonically

MOST_JOINED = 5000  # episodes: of each the file is looked at where d is asked for


@dataclass(frozen=True)
class EpisodeFilter:
    """What must hold of an episode; None and "" ask nothing. Episodes of evaluations are never taken: what is learned
    from the curve's own attempts would spoil the curve.
    """

    run: int | None = None
    stations: tuple[str, ...] = ()  # slugs
    tasks: tuple[str, ...] = ()  # slugs
    purpose: str = ""  # practice | correction
    detected: bool | None = None
    true: bool | None = None  # true success, as a person said it: nothing learns from what a simulator knows
    known: bool | None = None  # whether somebody, or a simulator, knows it
    audited: bool | None = None  # whether a person said it, by a label or a spot check
    d_fell: bool = False  # from frame to frame
    human: bool | None = None  # whether a person drove in it
    since: datetime | None = None
    until: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: value.isoformat()
            if isinstance(value, datetime)
            else list(value)
            if value == () or isinstance(value, tuple)
            else value
            for name, value in told.items()
            if value not in (None, "", (), False) or (value is False and name != "d_fell")
        }


def find_episodes(lab: Lab, wanted: EpisodeFilter) -> QuerySet[Episode]:
    """Those of the filter, the oldest first; d_fell by its two ends alone."""
    rows = lab.episodes.filter(purpose__in=("practice", "correction")).order_by("started_at", "pk")
    exact = {
        "run_id": wanted.run,
        "station__slug__in": wanted.stations or None,
        "task__slug__in": wanted.tasks or None,
        "purpose": wanted.purpose or None,
        "detected_success": wanted.detected,
        "true_success": wanted.true,
        "started_at__gte": wanted.since,
        "started_at__lt": wanted.until,
    }
    rows = rows.filter(**{name: value for name, value in exact.items() if value is not None})
    if wanted.known is not None:
        rows = rows.filter(true_success__isnull=not wanted.known)
    labelled = lab.interventions.filter(kind="relabel", episode__isnull=False).values("episode")
    checked = lab.spot_checks.filter(answer__isnull=False).values("episode")
    said = Q(pk__in=labelled) | Q(pk__in=checked)
    if wanted.audited or wanted.true is not None:
        rows = rows.filter(said)
    if wanted.audited is False:
        rows = rows.exclude(said)
    if wanted.human is not None:
        drove = Q(human_steps__gt=0)
        rows = rows.filter(drove) if wanted.human else rows.exclude(drove)
    if wanted.d_fell:
        rows = rows.filter(d_end__lt=F("d_start"))
    return rows


def matching_episodes(lab: Lab, wanted: EpisodeFilter) -> tuple[list[Episode], int]:
    """(those that would join, how many the database found). Where d has to fall from frame to frame each file is looked
    at. Invalid where there are too many.
    """
    found = list(find_episodes(lab, wanted)[: MOST_JOINED + 1])
    if len(found) > MOST_JOINED:
        text = f"More than {MOST_JOINED} episodes match; ask for fewer, by dates, run or station."
        raise Invalid(text, {"filter": text})
    kept = [row for row in found if d_falls(row)] if wanted.d_fell else found
    return kept, len(found)


def d_falls(row: Episode) -> bool:
    """Only d is read of its file; False where that can't be."""
    try:
        with safe_open(row.file, framework="numpy") as tensors:
            return fell_monotonically(tensors.get_tensor("steps_to_go")) is True
    except (OSError, SafetensorError):
        return False


@transaction.atomic
def make_dataset_from_episodes(
    *,
    lab: Lab,
    user: access.Acting,
    name: str,
    wanted: EpisodeFilter,
    weight: float = 1.0,
    correction_weight: float = 1.0,
    source: str = "server",
) -> Dataset:
    """A dataset of all stored episodes that match, written in a job. `weight`: for how many episodes each counts in
    learning; `correction_weight`: the same of what people drove.
    """
    access.check(user, lab, "edit_dataset")
    low, high = WEIGHTS
    problems = {
        field: f"A weight is a number from {low:g} to {high:g}; 1 is the usual."
        for field, value in (("weight", weight), ("correction_weight", correction_weight))
        if not low <= value <= high
    }
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    found, _ = matching_episodes(lab, wanted)
    if not found:
        text = "No stored episode matches; ask for less."
        raise Invalid(text, {"filter": text})
    body = _one_body(found)
    dataset = new_dataset(
        lab,
        name,
        families=sorted({row.task.family for row in found if row.task}),
        body=body,
        episodes=len(found),
        steps=sum(row.steps for row in found),
        created_by=access.person_of(user),
        origin={"by": "episodes", "filter": wanted.to_json(), "found": len(found)},
    )
    Dataset.objects.filter(pk=dataset.pk).update(path=f"datasets/{dataset.pk}")
    dataset.refresh_from_db()
    rows = [
        DatasetEpisode(
            dataset=dataset,
            position=position,
            source=dataset,
            source_index=position,
            stop=row.steps,
            uuid=row.pk,
            task=row.task.family if row.task else "",
            instruction=row.instruction,
            steps=row.steps,
            purpose=row.purpose,
            ending=row.ending,
            detected_success=row.detected_success,
            true_success=row.true_success,
            weight=correction_weight if row.purpose == "correction" else weight,
        )
        for position, row in enumerate(found)
    ]
    DatasetEpisode.objects.bulk_create(rows, batch_size=BATCH)
    details = {"dataset": dataset.name, "number": dataset.pk, "episodes": len(found), "filter": wanted.to_json()}
    record_act(lab=lab, kind="dataset_gathered", user=user, details=details, source=source)
    enqueue_on_commit("learning.generate_dataset", dataset.pk)
    return dataset


def _one_body(found: list[Episode]) -> dict[str, Any]:
    """Of all; Invalid where they are of several. Of each station one file says it, and the newest of it again: a body
    that changed in between is found by whoever writes the dataset.
    """
    bodies: dict[str, tuple[Episode, dict[str, Any]]] = {}
    looked: dict[int, list[Episode]] = {}
    for row in found:
        looked.setdefault(row.station_id, []).append(row)
    for rows in looked.values():
        for row in {rows[0].pk: rows[0], rows[-1].pk: rows[-1]}.values():
            try:
                body = EpisodeFile(row.file).body
            except (OSError, EpisodeError) as error:
                text = f"The file of {row} can't be read ({error}); restore it in the data folder."
                raise Invalid(text, {"filter": text}) from None
            if body is None:
                text = f"The file of {row} doesn't say which body it is of; leave it out."
                raise Invalid(text, {"filter": text})
            told = body.to_json()
            first, known = next(iter(bodies.values()), (row, told))
            if known["name"] != told["name"] or (changed := what_changed(told, known)):
                other = f"of {told['name']}, {first} of {known['name']}" if known["name"] != told["name"] else changed
                text = f"The episodes are of several bodies: {row} is {other}. Ask for those of one body."
                raise Invalid(text, {"filter": text})
            bodies.setdefault(told["name"], (row, told))
    return next(told for _, told in bodies.values())

"""An upload becomes episodes: files on disk, a row each, a round that fills, and work for a run's job to hand in."""

import uuid as uuids
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid, TooLarge
from fleetui.fleet import selectors, uploads
from fleetui.fleet.actions.cards import emit_card
from fleetui.fleet.models import AssignedStation, Assignment, Episode, Intervention, Lab, Station
from fleetui.fleet.signals import queue_changed
from fleetui.learning import actions as learning_actions
from fleetui.learning import curves, spot_checks
from fleetui.learning.models import Checkpoint, Dataset, Run
from fleetui.messages import RunChanged, send_on_commit
from fleetui.practice.actions.publishing import order_stations_of_evaluation, tell_stations_of_run, uuid_or_none
from robots.episodes import ACTORS, LARGEST_UPLOAD, write_episodes
from robots.episodes import Episode as RecordedEpisode
from robots.protocol import Hold

EPISODES_A_FILE = 64


def store_episodes(*, station: Station, body: bytes) -> dict[str, Any]:
    """An upload becomes files and rows, once an episode however often it is sent. Returns {"stored": n, "hold": bool}.

    Nothing is stored unless everything in the upload is sound, so a refused upload can be mended and sent again.
    """
    recorded = _checked_upload(station, body)
    folder = settings.DATA / "episodes" / str(station.lab_id)
    folder.mkdir(parents=True, exist_ok=True)
    with transaction.atomic():
        # The row's lock makes two deliveries of one upload wait for each other.
        Station.objects.select_for_update().get(pk=station.pk)
        known = {
            str(uuid)
            for uuid in Episode.objects.filter(uuid__in=[episode.uuid for episode in recorded]).values_list(
                "uuid", flat=True
            )
        }
        fresh = [episode for episode in recorded if episode.uuid not in known]
        rows = _episode_rows(station, fresh, folder)
        _leave_out_surplus(rows)
        try:
            for episode, row in zip(fresh, rows, strict=True):
                write_episodes(row.file, [episode])
            Episode.objects.bulk_create(rows)
        except BaseException:  # a full disk, as like as not: what has no row must not fill it further
            for row in rows:
                row.file.unlink(missing_ok=True)
            raise
        if rows:
            Station.objects.filter(pk=station.pk).update(episodes_count=F("episodes_count") + len(rows))
            station.refresh_from_db(fields=["episodes_count"])
            emit_card(station, {"episodes": station.episodes_count})
            _tie_touches(station, rows)
            _keep_for_detector(station, rows, fresh)
        hold = _count_practice(station, rows)
        _count_attempts(station, rows)
    return {"stored": len(rows), "hold": hold}


def _checked_upload(station: Station, body: bytes) -> list[RecordedEpisode]:
    if len(body) > LARGEST_UPLOAD:
        raise TooLarge(f"The upload has {len(body)} bytes, more than 64 MiB; send fewer episodes at once.")
    recorded = uploads.read_upload(body)
    if len(recorded) > EPISODES_A_FILE:
        raise Invalid(f"The upload has {len(recorded)} episodes; send at most {EPISODES_A_FILE} at once.")
    embodiment = selectors.station_embodiment(station)
    for episode in recorded:
        if episode.embodiment != embodiment.name:
            raise Invalid(
                f"Episode {episode.uuid} is of the embodiment {episode.embodiment}; {station} is {embodiment.name}."
            )
        uploads.refuse_impossible(episode, embodiment)
    return recorded


def _episode_rows(station: Station, recorded: list[RecordedEpisode], folder: Path) -> list[Episode]:
    """The summary of each episode: what lists, filters and charts read without opening its file."""
    given = [uuid_or_none(name) for episode in recorded for name in (episode.policy, episode.reward_model)]
    named = {uuid for uuid in given if uuid is not None}
    found = Checkpoint.objects.filter(uuid__in=named, run__lab_id=station.lab_id)
    found = found.select_related("run", "derived_from")
    checkpoints = {str(row.uuid): row for row in found}
    assignment = station.live_assignment()
    # Those that ended too: what a station still had on its disk is wanted.
    places = AssignedStation.objects.filter(station=station)
    its_runs = set(places.values_list("assignment__run_id", flat=True))
    evaluated = places.filter(assignment__checkpoint__in=checkpoints.values(), assignment__started_at__isnull=False)
    evaluations = [place.assignment for place in evaluated.select_related("assignment")]
    evaluations.sort(key=lambda row: (row.is_live, row.started_at), reverse=True)
    rows = []
    for episode in recorded:
        policy = checkpoints.get(str(uuid_or_none(episode.policy)))
        judge = checkpoints.get(str(uuid_or_none(episode.reward_model)))
        attempt_of = [row for row in evaluations if row.checkpoint_id == policy.pk] if policy else []
        # Else nobody may learn from it: what was made for an evaluation is no practice of that run.
        evaluates = bool(attempt_of) and episode.purpose != "practice"
        if policy and policy.run_id not in its_runs and policy.run.method.practises and not evaluates:
            raise Invalid(
                f"Episode {episode.uuid}, field policy: it is of {policy.run}, in which {station} never had a place; "
                "only stations that a run was given send it episodes."
            )
        judged = episode.steps_to_go[np.isfinite(episode.steps_to_go)]
        d_start, d_end, return_sum = None, None, None
        if len(judged):
            d_start, d_end = float(judged[0]), float(judged[-1])
            return_sum = d_start - d_end
        task = assignment.task if assignment and assignment.task.family == episode.task else None
        rows.append(
            Episode(
                uuid=uuids.UUID(episode.uuid),
                lab=station.lab,
                station=station,
                task=task or selectors.task_of_family(station.lab, episode.task),
                # The policy says which run it was made for, so that a late upload finds the right one.
                run_id=policy.run_id if policy and (policy.run_id in its_runs or evaluates) else None,
                assignment=_evaluation_of(episode, attempt_of) if episode.purpose == "evaluation" else None,
                instruction=episode.instruction,
                purpose=episode.purpose,
                ending=episode.ending,
                detected_success=episode.detected_success,
                true_success=episode.true_success,
                labels=episode.labels,
                asks=_asked_of(episode, policy),
                steps=episode.steps,
                human_steps=int((episode.actors == ACTORS.index("human")).sum()),
                interventions=episode.interventions,
                started_at=_time_of(episode.started_at),
                policy=policy,
                reward_model=judge,
                threshold=episode.threshold,
                version=policy.version if policy else None,
                path=str((folder / f"{episode.uuid}.safetensors").relative_to(settings.DATA)),
                d_start=d_start,
                d_end=d_end,
                return_sum=return_sum,
                duration_s=episode.steps / episode.fps,
            )
        )
    return rows


def _asked_of(episode: RecordedEpisode, policy: Checkpoint | None) -> str:
    """The label that its method wants a person's word on, where nothing has said it yet."""
    question = policy.run.method.question if policy else None
    wanted = question is not None and episode.purpose == "practice" and question.label not in episode.labels
    return question.label if question and wanted else ""


def _evaluation_of(episode: RecordedEpisode, evaluations: list[Assignment]) -> Assignment | None:
    """Of those of its policy in which the station had a place: the newest that had begun by then. Where the station's
    clock is wrong, the one that goes on, or else the newest.
    """
    began = _time_of(episode.started_at)
    before = [row for row in evaluations if row.started_at and row.started_at <= began]
    newest = max(before, key=lambda row: row.started_at or began, default=None)
    return newest or next(iter(evaluations), None)


def _leave_out_surplus(rows: list[Episode]) -> None:
    """An evaluation counts as many attempts as it was asked for. One more may have been made: what a station that was
    gone had begun another one made too. It is kept, and counts nowhere.
    """
    evaluations = {row.assignment_id for row in rows if row.assignment_id is not None}
    # The lock lets two uploads at once see each other's attempts.
    locked = Assignment.objects.select_for_update(no_key=True).filter(pk__in=evaluations).order_by("pk")
    for assignment in list(locked):
        left = max(0, (assignment.budget_episodes or 0) - assignment.episodes.count())
        for surplus in [row for row in rows if row.assignment_id == assignment.pk][left:]:
            surplus.assignment = None


def _time_of(seconds: float) -> datetime:
    """A station's clock may be absurd; its episodes are still worth keeping."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return timezone.now()


def _tie_touches(station: Station, rows: list[Episode]) -> None:
    for row in rows:
        if row.interventions:
            Intervention.objects.filter(
                station=station,
                episode=None,
                started_at__gte=row.started_at,
                started_at__lte=row.stored_at,
            ).update(episode=row)


def _keep_for_detector(station: Station, rows: list[Episode], recorded: list[RecordedEpisode]) -> None:
    """What says how good the detector is: curves of d, and a random share of what it detected for people."""
    curves.keep_curves(rows=rows, recorded=recorded)
    spot_checks.draw_spot_checks(rows=rows)
    detected = {row.policy_id for row in rows if row.detected_success and row.policy_id}
    if detected:
        transaction.on_commit(lambda: curves.watch_drift(station=station, policies=detected), robust=True)


def _count_practice(station: Station, rows: list[Episode]) -> bool:
    """Count the steps into their run's round. The upload that fills the round sends hold to all stations of the run."""
    assignment = station.live_assignment()
    run_ids = {row.run_id for row in rows if row.purpose == "practice" and row.run_id}
    for run_id in run_ids:
        practice = [row for row in rows if row.run_id == run_id and row.purpose == "practice"]
        Run.objects.filter(pk=run_id).update(practice_episodes=F("practice_episodes") + len(practice))
        for version in {row.version for row in practice}:
            steps = sum(row.steps - row.human_steps for row in practice if row.version == version)
            Run.objects.filter(pk=run_id, open_version=version).update(round_steps=F("round_steps") + steps)
        full = Run.objects.filter(pk=run_id, holding=False, round_target__gt=0, round_steps__gte=F("round_target"))
        filled = full.update(holding=True)
        run = Run.objects.select_related("lab").get(pk=run_id)
        if filled:
            tell_stations_of_run(run=run, message=Hold(version=run.open_version))
        send_on_commit(
            run.topic,
            RunChanged(
                {
                    "practice_episodes": run.practice_episodes,
                    "round_steps": run.round_steps,
                    "holding": run.holding,
                }
            ),
        )
    if assignment is None or assignment.run_id is None:
        return False
    return Run.objects.filter(pk=assignment.run_id, holding=True).exists()


def _count_attempts(station: Station, rows: list[Episode]) -> None:
    """What is left of an evaluation is shared anew; after its last attempt the dispatcher ends it."""
    evaluations = {row.assignment for row in rows if row.assignment is not None and row.assignment.is_live}
    for assignment in evaluations:
        order_stations_of_evaluation(assignment=assignment)
    if evaluations:
        queue_changed.send(sender=Lab, lab=station.lab)


def hand_in_episodes(*, episodes: list[Episode]) -> None:
    """Note that the run's job gave these to the learner."""
    Episode.objects.filter(pk__in=[row.pk for row in episodes]).update(handed_in_at=timezone.now())


@transaction.atomic
def add_correction(*, lab: Lab, user: access.Acting, episode: Episode, source: str = "server") -> Dataset:
    """What a person drove joins the lab's dataset of corrections, which begins with the first one.

    A dataset that a run has used stays as it was: the next correction begins another one, with all that it held.
    """
    access.check(user, lab, "add_correction")
    if episode.purpose != "correction":
        raise Invalid(f"{episode} is {episode.purpose}; only what a person drove, a correction, can join a dataset.")
    Lab.objects.select_for_update().get(pk=lab.pk)  # two clicks must not write one file
    row = Episode.objects.select_related("dataset").get(pk=episode.pk)
    if row.dataset is not None:
        raise Conflict(f"{episode} is in the dataset {row.dataset} already.")
    driven = Episode.objects.filter(lab=lab, dataset__isnull=False).values("dataset")
    corrections = Dataset.objects.select_for_update().filter(lab=lab, state="ready", archived_at=None, pk__in=driven)
    known = corrections.first()
    dataset, replaces = learning_actions.extend_corrections(
        lab=lab, user=user, known=known, episode=episode, source=source
    )
    if replaces:
        Episode.objects.filter(dataset=known).update(dataset=dataset)
    Episode.objects.filter(pk=episode.pk).update(dataset=dataset)
    return dataset

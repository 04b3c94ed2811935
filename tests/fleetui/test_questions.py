"""What a method asks of its attempts: a person answers, or a sensor has; the learner gets an attempt with the word."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from fleetui.fleet.models import Act, Episode
from fleetui.learning.models import Run
from fleetui.practice import selectors
from fleetui.practice.jobs import PracticeSupervision
from robots.episodes import label, read_episodes
from tests.fleetui.lab import add_checkpoint, as_upload, make_episode, make_improve_run
from training.methods.registry import Question, methods


@pytest.fixture
def supervision(lab, sft_run, monkeypatch):
    """Of a run whose method asks whether an attempt was useful."""
    asking = replace(methods()["improve"], question=Question("useful", "Did it do anything useful?"))
    monkeypatch.setitem(methods(), "improve", asking)
    run = make_improve_run(lab, sft_run)
    add_checkpoint(run, "policy", published_at=timezone.now())
    Run.objects.filter(pk=run.pk).update(open_version=0, round_target=0)
    run.refresh_from_db()
    made = PracticeSupervision(run)
    made.prepare()
    return made


def upload(lab, supervision, **changes):
    policy = supervision.run.newest_checkpoint("policy")
    episode = make_episode(policy=str(policy.uuid), **changes)
    assert lab.upload(as_upload(episode)).status_code == 200
    return Episode.objects.get(pk=episode.uuid)


def handed_in(supervision):
    supervision.hand_in()
    return {each.uuid: each for path in supervision.dir.episodes.iterdir() for each in read_episodes(path)}


def test_an_attempt_waits_for_the_answer_and_takes_it_along(lab, supervision):
    row = upload(lab, supervision)
    assert row.asks == "useful" and handed_in(supervision) == {}
    told = lab.call("viewer", "get", f"episodes/{row.uuid}").json()
    assert (told["asks"], told["question"], told["labels"]) == ("useful", "Did it do anything useful?", {})
    for value in (False, True):  # the newest counts
        answer = lab.call("supervisor", "post", f"episodes/{row.uuid}/answer", {"value": value})
        assert answer.json()["labels"] == {"useful": {"value": float(value), "step": None, "source": "human"}}
    (episode,) = handed_in(supervision).values()
    assert episode.labels == {"useful": label(1.0, "human")}
    assert read_episodes(row.file)[0].labels == {}, "what was recorded stays as it was"
    assert Act.objects.filter(kind="relabel", station=row.station).count() == 2


def test_what_a_sensor_has_said_is_not_asked(lab, supervision):
    row = upload(lab, supervision, labels={"useful": label(0.0, "sensor")})
    assert row.asks == "" and row.labels["useful"]["source"] == "sensor"
    assert handed_in(supervision)[str(row.uuid)].labels == row.labels
    refused = lab.call("supervisor", "post", f"episodes/{row.uuid}/answer", {"value": True})
    assert refused.status_code == 409 and "Nothing is asked" in refused.json()["detail"]


def test_nobody_waits_for_ever_and_too_late_is_said(lab, supervision):
    row = upload(lab, supervision)
    Episode.objects.filter(pk=row.pk).update(
        stored_at=timezone.now() - selectors.ANSWERED_WITHIN - timedelta(seconds=1)
    )
    assert handed_in(supervision)[str(row.uuid)].labels == {}
    refused = lab.call("supervisor", "post", f"episodes/{row.uuid}/answer", {"value": True})
    assert refused.status_code == 409 and "too late" in refused.json()["detail"]


def test_who_only_watches_answers_nothing(lab, supervision):
    row = upload(lab, supervision)
    assert lab.call("viewer", "post", f"episodes/{row.uuid}/answer", {"value": True}).status_code == 403
    assert lab.call("supervisor", "post", f"episodes/{row.uuid}/answer", {"value": "perhaps"}).status_code == 422
    row.refresh_from_db()
    assert row.labels == {}

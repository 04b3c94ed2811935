"""The table of runs: columns, search, order, filters and views from the address alone, in a constant number of
queries.
"""

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleetui import access
from fleetui.fleet.models import Act
from fleetui.learning import run_notes
from fleetui.learning.models import Metric, Run, RunView
from tests.fleetui.lab import Lab, make_dataset
from training.recipes import SFTRecipe


@pytest.fixture
def lab(db, settings, tmp_path):
    settings.DATA = tmp_path
    return Lab("north")


def make_runs(lab, dataset, count):
    """Completed ones, each with another batch size, tag and result, the first launched first."""
    begin = timezone.now() - timedelta(days=1)
    runs = Run.objects.bulk_create(
        Run(
            lab=lab.row,
            name=f"run {number}",
            kind="sft",
            state="completed",
            recipe=SFTRecipe(batch=2 + number, seed=number).to_json(),
            dataset=dataset,
            created_by=lab.users["researcher"],
            created_at=begin + timedelta(minutes=number),
            started_at=begin,
            ended_at=begin + timedelta(seconds=number),
            tags=[f"tag {number % 3}"],
        )
        for number in range(count)
    )
    now = timezone.now()
    evaluation = {"successes": 3, "n": 4, "low": 0.3, "high": 0.95, "version": 0}
    rows = [Metric(run=run, seq=1, kind="evaluation", data=evaluation, at=now) for run in runs]
    rows += [Metric(run=run, seq=2, kind="done", data={"threshold": 100.0 - run.pk}, at=now) for run in runs]
    Metric.objects.bulk_create(rows)
    return runs


def get(lab, role="researcher", **query):
    return lab.as_(role).get(f"/labs/{lab.slug}/runs/", query)


def names(answer):
    return re.findall(r'<td class="wide"><a href="[^"]*">(.*?)</a>', answer.content.decode())


def post(lab, path, role="researcher", **data):
    return lab.as_(role).post(f"/labs/{lab.slug}/runs/{path}", data, follow=True)


def test_it_is_as_quick_to_ask_for_many_as_for_few(lab):
    dataset = make_dataset(lab)
    counts = []
    for count in (20, 40):
        make_runs(lab, dataset, count)
        get(lab)
        with CaptureQueriesContext(connection) as asked:
            answer = get(
                lab, column=["state", "recipe.batch", "figure.threshold", "dataset", "tags", "sweep", "parent"]
            )
        counts.append(len(asked))
        assert len(names(answer)) == min(Run.objects.count(), 50)
    assert counts[0] == counts[1], "A query for each row or for each page more"


def test_any_column_is_shown_and_sorted_by(lab):
    make_runs(lab, make_dataset(lab), 12)
    page = get(lab, column=["recipe.batch", "figure.threshold", "duration"], sort="-recipe.batch").content.decode()
    assert 'data-label="Batch size"' in page and 'data-label="Threshold"' in page and 'data-label="State"' not in page
    assert names(get(lab, sort="-recipe.batch"))[:2] == ["run 11", "run 10"]  # as numbers: as text 9 were the largest
    assert names(get(lab, sort="recipe.batch"))[:3] == ["run 0", "run 1", "run 2"]
    assert names(get(lab, sort="figure.threshold"))[0] == "run 11"
    assert names(get(lab, sort="duration"))[:2] == ["run 0", "run 1"]
    assert names(get(lab, sort="-name"))[0] == "run 9"
    assert names(get(lab, sort="nonsense"))[0] == "run 11"


def test_words_and_filters_narrow_it(lab):
    runs = make_runs(lab, make_dataset(lab), 9)
    assert names(get(lab, q="run 7")) == ["run 7"]
    assert names(get(lab, q=str(runs[4].pk))) == ["run 4"] or runs[4].pk < 10
    assert names(get(lab, q="tag 2", sort="name")) == ["run 2", "run 5", "run 8"]
    assert names(get(lab, q="batch=5")) == ["run 3"] and names(get(lab, q="learning_rate=0.001 batch=5")) == ["run 3"]
    assert len(names(get(lab, q="weight_decay"))) == 9
    assert names(get(lab, tag="tag 1", sort="name")) == ["run 1", "run 4", "run 7"]
    Run.objects.filter(name="run 3").update(state="failed", archived_at=timezone.now())
    assert "run 3" not in names(get(lab)) and names(get(lab, archived="only")) == ["run 3"]
    assert len(names(get(lab, archived="all"))) == 9 and names(get(lab, state="failed", archived="all")) == ["run 3"]
    today = timezone.localdate()
    assert names(get(lab, **{"from": today + timedelta(days=1)})) == []
    assert len(names(get(lab, to=today))) == 8
    page = get(lab, author="x").content.decode()
    assert "Select a valid choice" in page
    assert "No run found" in get(lab, q="nothing of this").content.decode()


def test_acts_on_ticked_runs_are_done_with_all_or_none_and_written_down(lab):
    runs = make_runs(lab, make_dataset(lab), 3)
    numbers = [run.pk for run in runs]
    answer = post(lab, "act", act="tag", run=numbers[:2], tags="good, seen", view="sort=name&evil=1")
    assert answer.redirect_chain[0][0] == "/labs/north/runs/?sort=name"
    assert "2 of 2 runs changed" in answer.content.decode()
    assert Run.objects.get(pk=numbers[0]).tags == ["good", "seen", "tag 0"]
    assert Act.objects.get(kind="run_tagged").details["runs"] == f"{numbers[0]}, {numbers[1]}"
    post(lab, "act", act="untag", run=numbers, tags="seen")
    assert Run.objects.get(pk=numbers[1]).tags == ["good", "tag 1"]
    Run.objects.filter(pk=numbers[2]).update(state="running")
    answer = post(lab, "act", act="archive", run=numbers)
    assert "run 2 is running" in answer.content.decode() and not Run.objects.exclude(archived_at=None).exists()
    post(lab, "act", act="archive", run=numbers[:2])
    assert Run.objects.exclude(archived_at=None).count() == 2
    post(lab, "act", act="restore", run=numbers[:2])
    assert not Run.objects.exclude(archived_at=None).exists()
    assert post(lab, "act", act="compare", run=numbers[:2]).redirect_chain[0][0] == (
        f"/labs/north/runs/compare?run={numbers[0]}&run={numbers[1]}"
    )
    assert "Tick the runs first" in post(lab, "act", act="archive").content.decode()
    assert post(lab, "act", "viewer", act="tag", run=numbers, tags="x").status_code == 403
    assert Lab("south").as_("manager").post("/labs/north/runs/act", {"act": "tag"}).status_code == 404


def test_another_labs_runs_are_left_alone(lab):
    other = Lab("south")
    (run,) = make_runs(lab, make_dataset(lab), 1)
    other.as_("manager").post("/labs/south/runs/act", {"act": "tag", "run": [run.pk], "tags": "mine"})
    run.refresh_from_db()
    assert run.tags == ["tag 0"]


def test_views_are_kept_for_the_lab_renamed_and_deleted(lab):
    make_runs(lab, make_dataset(lab), 2)
    query = "q=run&column=state&column=recipe.batch&sort=-recipe.batch"
    answer = post(lab, "views", name="By batch", view=query + "&page=3&evil=%00")
    view = RunView.objects.get()
    assert (view.author, view.query) == (
        lab.users["researcher"],
        "q=run&sort=-recipe.batch&column=state&column=recipe.batch",
    )
    page = get(lab, "viewer").content.decode()
    assert f'href="/labs/north/runs/?{view.query.replace("&", "&amp;")}"' in page and "Keep this as" not in page
    assert "already has a view named" in post(lab, "views", name="By batch", view="").content.decode()
    page = lab.as_("supervisor").get(f"/labs/north/runs/?{view.query}").content.decode()
    assert "<title>By batch · Runs" in page and "Rename or delete" in page
    post(lab, f"views/{view.pk}/rename", name="Batches")
    view.refresh_from_db()
    assert view.name == "Batches"
    assert post(lab, f"views/{view.pk}/delete", "viewer").status_code == 403
    answer = post(lab, f"views/{view.pk}/delete")
    assert not RunView.objects.exists() and "Batches is deleted" in answer.content.decode()
    kinds = list(Act.objects.filter(kind__startswith="run_view").order_by("pk").values_list("kind", flat=True))
    assert kinds == ["run_view_saved", "run_view_renamed", "run_view_deleted"]


def test_tags_and_notes_of_one_run(lab):
    (run,) = make_runs(lab, make_dataset(lab), 1)
    answer = post(lab, f"{run.pk}/notes", tags="b, a", notes="It shook.\r\nSee the log.")
    run.refresh_from_db()
    assert (run.tags, run.notes) == (["a", "b"], "It shook.\nSee the log.")
    assert "It shook." in answer.content.decode()
    with pytest.raises(access.Invalid, match="at most 20"):
        run_notes.tag_runs(lab=lab.row, user=lab.users["manager"], runs=[run], add=[f"t{i}" for i in range(30)])
    with pytest.raises(access.Denied):
        run_notes.note_run(run=run, user=lab.users["viewer"], notes="no")
    assert "at most 40" in post(lab, f"{run.pk}/notes", tags="x" * 50, notes="").content.decode()

"""Versions of datasets: each edit makes a new one, and none of them loses anything."""

import csv
import io
import threading
import uuid
from datetime import timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleetui import access
from fleetui.fleet.actions.episodes import label_episode
from fleetui.learning import actions, archive, datasets, jobs, joining, selectors, tables
from fleetui.learning.listing import list_root, summary_of
from fleetui.learning.models import Dataset, DatasetEpisode, SpotCheck
from fleetui.practice.actions import episodes as practice
from robots.episodes import EpisodeFile, read_episodes, write_episodes
from tests.fleetui.lab import as_upload, make_episode, make_sft_run

DEMONSTRATION = {"purpose": "demonstration", "ending": "operator"}


@pytest.fixture(autouse=True)
def closed():
    yield
    tables.forget_open()


def upload(lab, recorded, name="mine"):
    return actions.upload_dataset(lab=lab.row, user=lab.users["researcher"], name=name, body=as_upload(*recorded))


def shown(number, steps=20, **fields):
    recorded = make_episode(steps, **DEMONSTRATION | {"actors": np.ones(steps, np.uint8)} | fields)
    for array in recorded.observations.values():
        array += np.float32(0.001 * number)
    return recorded


@pytest.fixture
def mine(lab):
    recorded = [shown(i, instruction=f"words {i % 2}") for i in range(6)]
    return upload(lab, recorded)


def edit(lab, name, dataset, **given):
    return getattr(datasets, name)(dataset=dataset, user=lab.users["researcher"], **given)


def words(dataset):
    return list(dataset.rows.order_by("position").values_list("instruction", flat=True))


def test_a_root_lists_its_episodes(mine):
    rows = list(mine.rows.order_by("position"))
    assert [row.source_index for row in rows] == list(range(6)) and {row.source for row in rows} == {mine}
    assert [str(row.uuid) for row in rows] == [each.uuid for each in read_episodes(mine.file)]
    assert rows[0].quality["steps"] == 20 and mine.listed and mine.is_root and mine.origin == {"by": "upload"}


def test_each_edit_makes_a_version_and_going_back_loses_none(lab, mine):
    second = edit(lab, "relabel_episodes", mine, positions=[1, 3], instruction=" other words ")
    third = edit(lab, "delete_episodes", second, positions=[0])
    assert (second.version, third.version, third.parent, third.name) == (2, 3, second, mine.name)
    assert words(mine) == ["words 0", "words 1"] * 3
    assert words(second) == ["words 0", "other words", "words 0", "other words", "words 0", "words 1"]
    assert words(third) == words(second)[1:] and third.episodes == 5 and third.path == ""
    assert list(selectors.list_datasets(lab.row)) == [third] and str(third) == "mine v3"
    back = edit(lab, "undo_edit", third)
    assert back == second and list(selectors.list_datasets(lab.row)) == [second]
    fourth = edit(lab, "flag_episodes", second, positions=[2], note="look")
    assert fourth.version == 4 and fourth.parent == second
    assert [each.version for each in selectors.list_versions(mine)] == [4, 3, 2, 1]
    edit(lab, "make_current", third)
    assert list(selectors.list_datasets(lab.row)) == [third]
    with pytest.raises(access.Conflict, match="shows already"):
        edit(lab, "make_current", third)
    with pytest.raises(access.Conflict, match="nothing to go back to"):
        edit(lab, "undo_edit", mine)


def test_two_edits_at_once_are_two_versions(lab, mine):
    def tag():
        edit(lab, "tag_dataset", Dataset.objects.get(pk=mine.pk), tags=["a"])
        connection.close()

    threads = [threading.Thread(target=tag) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Dataset.objects.values_list("version", flat=True)) == [1, 2, 3, 4, 5]
    assert Dataset.objects.filter(current=True).count() == 1


def test_flags_tags_notes_and_weights_stand_with_the_episodes(lab, mine):
    made = edit(lab, "tag_episodes", mine, positions=[0, 2], add=["good", " slow "])
    made = edit(lab, "tag_episodes", made, positions=[2], remove=["slow"])
    made = edit(lab, "flag_episodes", made, positions=[1], note="odd")
    made = edit(lab, "weigh_episodes", made, positions=[5], weight=4)
    made = edit(lab, "note_dataset", edit(lab, "tag_dataset", made, tags=["b", "a", "a"]), notes="for the night")
    rows = list(made.rows.order_by("position"))
    assert [row.tags for row in rows[:3]] == [["good", "slow"], [], ["good"]]
    assert rows[1].flagged and rows[1].note == "odd" and rows[5].weight == 4
    assert (made.tags, made.notes) == (["a", "b"], "for the night")
    assert [row.position for row in selectors.list_dataset_episodes(made, tag="good")] == [0, 2]
    assert [row.position for row in selectors.list_dataset_episodes(made, flagged=True)] == [1]
    made = edit(lab, "flag_episodes", made, positions=[1], flagged=False)
    assert not made.rows.filter(flagged=True).exists() and made.rows.get(position=1).note == "odd"


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("delete_episodes", {"positions": range(6)}, "archive the dataset"),
        ("delete_episodes", {"positions": []}, "at least one"),
        ("delete_episodes", {"positions": [6]}, "no episode 6"),
        ("relabel_episodes", {"positions": [0], "instruction": " "}, "what the episodes do"),
        ("relabel_episodes", {"positions": [0], "instruction": "x" * 301}, "At most 300"),
        ("relabel_episodes", {"positions": [0], "instruction": "a\0b"}, "NUL"),
        ("weigh_episodes", {"positions": [0], "weight": 0}, "from 0.01 to 100"),
        ("weigh_episodes", {"positions": [0], "weight": float("nan")}, "from 0.01 to 100"),
        ("trim_episodes", {"cuts": {0: (5, 5)}}, "can't be cut to 5 to 5"),
        ("trim_episodes", {"cuts": {0: (0, 21)}}, "has 20 steps"),
        ("tag_dataset", {"tags": ["x" * 41]}, "At most 40"),
        ("split_dataset", {"by": "tag", "tag": "none has it"}, "nothing to split"),
        ("split_dataset", {"by": "colour"}, "tag, task, share or step"),
    ],
)
def test_an_edit_that_means_nothing_is_refused(lab, mine, name, given, said):
    with pytest.raises(access.Invalid, match=said):
        edit(lab, name, mine, **given)
    assert Dataset.objects.count() == 1


def test_what_is_not_there_yet_or_put_away_is_not_edited(lab, mine):
    Dataset.objects.filter(pk=mine.pk).update(listed=False)
    with pytest.raises(access.Conflict, match="still being listed"):
        edit(lab, "delete_episodes", Dataset.objects.get(), positions=[0])
    Dataset.objects.filter(pk=mine.pk).update(listed=True, archived_at=timezone.now())
    with pytest.raises(access.Conflict, match="archived"):
        edit(lab, "delete_episodes", Dataset.objects.get(), positions=[0])


# A cut


def idle_after(steps, moved):
    recorded = shown(0, steps)
    for array in recorded.observations.values():
        array[moved:] = array[moved]
    return recorded


def test_a_cut_of_what_is_idle_still_ends_in_success_and_a_deeper_one_does_not(lab):
    mine = upload(lab, [idle_after(20, 14), shown(1)])
    assert mine.rows.get(position=0).quality["idle_end"] == 6
    kept = edit(lab, "trim_episodes", mine, cuts={0: (2, 14)}).rows.get(position=0)
    assert (kept.start, kept.stop, kept.steps, kept.ending) == (2, 14, 12, "operator")
    cut = edit(lab, "trim_episodes", mine, cuts={0: (0, 13), 1: (0, 19)})
    assert {row.ending for row in cut.rows.all()} == {"time_limit"}


def test_a_cut_after_the_detector_said_success_still_ends_in_it(lab):
    d = np.r_[np.arange(20, 0, -1.5), np.zeros(7)].astype(np.float32)[:21]
    recorded = shown(0, steps_to_go=d, threshold=2.0, detected_success=True, true_success=True)
    mine = upload(lab, [recorded, shown(1)])
    first = int(np.flatnonzero(d > 2.0)[-1]) + 1
    kept = edit(lab, "trim_episodes", mine, cuts={0: (0, first)}).rows.get(position=0)
    assert kept.detected_success and kept.true_success and kept.ending == "operator"
    cut = edit(lab, "trim_episodes", mine, cuts={0: (0, first - 1)}).rows.get(position=0)
    assert (cut.detected_success, cut.true_success, cut.ending) == (False, None, "time_limit")


def test_a_cut_of_a_cut_counts_from_what_is_left(lab, mine):
    once = edit(lab, "trim_episodes", mine, cuts={0: (5, 20)})
    twice = edit(lab, "trim_episodes", once, cuts={0: (3, 15)}).rows.get(position=0)
    assert (twice.start, twice.stop) == (8, 20)
    episode = tables.read_episode(twice)
    whole = read_episodes(mine.file)[0]
    np.testing.assert_array_equal(episode.actions, whole.actions[8:20])


def test_idle_ends_are_found(lab):
    mine = upload(lab, [idle_after(20, 12), shown(1)])
    assert selectors.idle_cuts(mine) == {0: (0, 14)}


# Split and merge


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"by": "share", "share": 0.5, "seed": 3}, [3, 3]),
        ({"by": "step", "step": 8}, [6, 6]),
        ({"by": "tag", "tag": "good"}, [2, 4]),
    ],
)
def test_a_split_makes_datasets_of_their_own(lab, mine, given, sizes):
    tagged = edit(lab, "tag_episodes", mine, positions=[0, 4], add=["good"])
    parts = edit(lab, "split_dataset", tagged, **given)
    assert [each.episodes for each in parts] == sizes and {each.parent for each in parts} == {tagged}
    assert all(each.version == 1 and each.current and each.name.startswith("mine, ") for each in parts)
    if given["by"] == "step":
        assert [each.steps for each in parts] == [48, 72]
        assert set(parts[0].rows.values_list("ending", flat=True)) == {"time_limit"}
        assert set(parts[1].rows.values_list("ending", flat=True)) == {"operator"}
    else:
        together = [row.uuid for each in parts for row in each.rows.all()]
        assert sorted(together) == sorted(row.uuid for row in mine.rows.all())
    with pytest.raises(access.Conflict, match="already has a dataset named"):
        edit(lab, "split_dataset", tagged, **given)


def test_a_merge_takes_each_episode_once(lab, mine):
    changed = edit(lab, "relabel_episodes", mine, positions=[0], instruction="newer")
    others = upload(lab, [shown(9)], "others")
    made = datasets.merge_datasets(
        lab=lab.row, user=lab.users["researcher"], datasets=[changed, mine, others], name="all"
    )
    assert made.episodes == 7 and made.origin["of"] == [changed.pk, mine.pk, others.pk]
    assert words(made)[0] == "newer" and {row.source_id for row in made.rows.all()} == {mine.pk, others.pk}


def test_only_datasets_of_one_body_are_merged(lab, mine):
    others = upload(lab, [shown(9)], "others")
    Dataset.objects.filter(pk=others.pk).update(body=others.body | {"name": "another_arm"})
    others.refresh_from_db()
    with pytest.raises(access.Invalid, match="only datasets of one body"):
        datasets.merge_datasets(lab=lab.row, user=lab.users["researcher"], datasets=[mine, others], name="all")
    Dataset.objects.filter(pk=others.pk).update(body=mine.body | {"fps": 30.0})
    others.refresh_from_db()
    with pytest.raises(access.Invalid, match="30"):
        datasets.merge_datasets(lab=lab.row, user=lab.users["researcher"], datasets=[mine, others], name="all")


def test_another_labs_dataset_is_not_merged(lab, other_lab, mine):
    theirs = upload(other_lab, [shown(9)], "theirs")
    with pytest.raises(access.Invalid, match="Choose 2 to"):
        datasets.merge_datasets(lab=lab.row, user=lab.users["researcher"], datasets=[mine, theirs], name="all")


# What is learned from


def test_a_root_is_linked_and_a_version_put_together(lab, mine):
    assert jobs.files_to_learn_from(mine, lambda share: None) == [mine.file]
    made = edit(lab, "relabel_episodes", mine, positions=[1], instruction="other words")
    made = edit(lab, "trim_episodes", made, cuts={2: (4, 20)})
    made = edit(lab, "weigh_episodes", made, positions=[3], weight=2.5)
    made = edit(lab, "delete_episodes", made, positions=[0])
    files = jobs.files_to_learn_from(made, lambda share: None)
    got = [episode for path in files for episode in read_episodes(path)]
    whole = read_episodes(mine.file)[1:]
    assert [each.instruction for each in got] == words(made)
    assert [each.weight for each in got] == [1, 1, 2.5, 1, 1] and [each.steps for each in got] == [20, 16, 20, 20, 20]
    np.testing.assert_array_equal(got[1].actions, whole[1].actions[4:])
    assert got[0].uuid == whole[0].uuid and got[1].uuid != whole[1].uuid
    before = [path.stat().st_mtime_ns for path in files]
    assert [path.stat().st_mtime_ns for path in jobs.files_to_learn_from(made, lambda share: None)] == before
    assert not list(made.file.glob("plans/*.json"))


def test_a_correction_leaves_a_dataset_alone_of_which_a_version_was_made(lab):
    user = lab.users["researcher"]

    def join():
        recorded = make_episode(purpose="correction", actors=np.ones(10, np.uint8))
        lab.upload(as_upload(recorded))
        row = lab.row.episodes.get(uuid=recorded.uuid)
        return practice.add_correction(lab=lab.row, user=user, episode=row)

    first = join()
    assert join() == first and first.rows.count() == 2
    edit(lab, "note_dataset", first, notes="looked at")
    second = join()
    assert second != first and (first.rows.count(), second.rows.count()) == (2, 3)


def test_a_root_of_before_is_listed_by_a_job(lab, mine):
    DatasetEpisode.objects.all().delete()
    Dataset.objects.update(listed=False)
    jobs.list_dataset_job(mine.pk)
    mine.refresh_from_db()
    assert mine.listed and mine.rows.count() == 6
    Dataset.objects.update(listed=False, heartbeat_at=None)
    mine.file.write_bytes(b"broken")
    jobs.list_dataset_job(mine.pk)
    mine.refresh_from_db()
    assert not mine.listed and "can't be listed" in mine.error and mine.state == "ready"


# Archive


def test_all_versions_of_a_name_are_put_away_and_deleted_together(lab, mine):
    user = lab.users["researcher"]
    second = edit(lab, "note_dataset", mine, notes="a")
    (part, other) = edit(lab, "split_dataset", second, by="share", share=0.5)
    archive.archive_dataset(dataset=second, user=user)
    assert not Dataset.objects.filter(name="mine", archived_at=None).exists()
    with pytest.raises(access.Conflict, match="other datasets are made of it"):
        archive.delete_dataset(dataset=second, user=user)
    for each in (part, other):
        archive.archive_dataset(dataset=each, user=user)
        archive.delete_dataset(dataset=each, user=user)
    second.refresh_from_db()
    archive.delete_dataset(dataset=second, user=user)
    assert not Dataset.objects.exists() and not DatasetEpisode.objects.exists() and not mine.file.exists()


def test_a_version_that_a_run_learned_from_keeps_its_name(lab, mine):
    second = edit(lab, "note_dataset", mine, notes="a")
    make_sft_run(lab, mine)
    archive.archive_dataset(dataset=second, user=lab.users["researcher"])
    with pytest.raises(access.Conflict, match="still refers to it"):
        archive.delete_dataset(dataset=second, user=lab.users["researcher"])


# Of stored episodes


def practise(lab, **fields):
    recorded = make_episode(12, **fields)
    assert lab.upload(as_upload(recorded)).status_code == 200
    return recorded


def test_true_success_chooses_episodes_only_where_a_person_said_it(lab):
    by_simulator, by_person, checked = (practise(lab, true_success=True).uuid for _ in range(3))
    rows = {str(row.pk): row for row in lab.row.episodes.all()}
    user = lab.users["supervisor"]
    label_episode(episode=rows[by_person], user=user, true_success=False)
    # What a spot check confirms changes no label, and a person has said it all the same.
    SpotCheck.objects.create(lab=lab.row, episode=rows[checked], answer=True, answered_at=timezone.now())

    def found(**wanted):
        return {str(row.pk) for row in joining.find_episodes(lab.row, joining.EpisodeFilter(**wanted))}

    assert found(true=True) == {checked} and found(true=False) == {by_person}
    assert found(audited=True) == {checked, by_person} and found(audited=False) == {by_simulator}
    assert found(known=True) == {by_simulator, by_person, checked}


def test_episodes_that_match_become_a_dataset_with_weights(lab):
    good = practise(lab, detected_success=True, ending="detected_success", threshold=9.0)
    detected = {"detected_success": True, "ending": "detected_success", "threshold": 9.0}
    rising = practise(lab, **detected, steps_to_go=np.r_[9:3:-1, 12, 6:0:-1].astype(np.float32))
    practise(lab)
    driven = practise(lab, purpose="correction", actors=np.ones(12, np.uint8), ending="operator")
    practise(lab, purpose="evaluation", detected_success=True, ending="detected_success")

    def found(**wanted):
        rows, _ = joining.matching_episodes(lab.row, joining.EpisodeFilter(**wanted))
        return {str(row.pk) for row in rows}

    assert found(detected=True) == {good.uuid, rising.uuid} and found(detected=True, d_fell=True) == {good.uuid}
    assert found(purpose="correction") == found(human=True) == {driven.uuid}
    assert len(found()) == 4 and found(known=False) == set() and len(found(audited=False)) == 4
    assert found(since=timezone.now() + timedelta(days=1)) == found(stations=("nowhere",)) == set()
    made = joining.make_dataset_from_episodes(
        lab=lab.row,
        user=lab.users["researcher"],
        name="chosen",
        wanted=joining.EpisodeFilter(detected=True, d_fell=True),
    )
    both = joining.make_dataset_from_episodes(
        lab=lab.row, user=lab.users["researcher"], name="both", wanted=joining.EpisodeFilter(), correction_weight=5.0
    )
    assert made.state == "generating" and made.origin["filter"] == {"detected": True, "d_fell": True}
    for each in (made, both):
        jobs.generate_dataset_job(each.pk)
        each.refresh_from_db()
        assert each.state == "ready", each.error
    row = made.rows.get()
    assert str(row.uuid) == good.uuid and row.purpose == "practice" and row.quality["d_monotone"] is True
    assert sorted(both.rows.values_list("weight", flat=True)) == [1, 1, 1, 5]
    episode = tables.read_episode(both.rows.get(weight=5.0))
    assert episode.uuid == driven.uuid and episode.weight == 5.0
    np.testing.assert_array_equal(episode.actions, driven.actions)
    assert EpisodeFile(jobs.files_to_learn_from(both, lambda share: None)[0]).body.name == "language_table"


def test_a_filter_that_nothing_matches_makes_nothing(lab):
    with pytest.raises(access.Invalid, match="No stored episode matches"):
        joining.make_dataset_from_episodes(
            lab=lab.row, user=lab.users["researcher"], name="none", wanted=joining.EpisodeFilter(detected=True)
        )


# Tables


def test_tables_for_other_programs(lab, mine):
    made = edit(lab, "flag_episodes", mine, positions=[1], note="=1+1")
    text = b"".join(tables.episodes_table(made, "csv")).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 6 and rows[1]["note"] == "'=1+1" and rows[1]["flagged"] == "True"
    table = pq.read_table(io.BytesIO(b"".join(tables.episodes_table(made, "parquet"))))
    assert table.num_rows == 6 and table["quality.steps"].to_pylist() == [20] * 6
    episode = tables.read_episode(made.rows.select_related("source").get(position=0))
    signals = pq.read_table(io.BytesIO(tables.signals_table(episode, "parquet")))
    assert signals.num_rows == 21 and {"time", "steps_to_go", "actor"} <= set(signals.column_names)
    answer = lab.as_("viewer").get(f"/api/labs/east/datasets/{made.pk}/episodes/0/signals")
    assert answer.status_code == 200 and answer.content.count(b"\n") == 22
    assert lab.as_("viewer").get(f"/api/labs/east/datasets/{made.pk}/table?kind=csv").status_code == 200


# The API, and many rows


def test_scripts_edit_list_and_go_back(lab, mine):
    body = {"act": "relabel", "positions": [0], "instruction": "newer"}
    made = lab.call("researcher", "post", f"datasets/{mine.pk}/edit", body).json()
    assert made["version"] == 2 and made["parent"] == mine.pk
    items = lab.call("viewer", "get", f"datasets/{made['id']}/episodes?query=newer&limit=1").json()
    assert items["count"] == 1 and items["items"][0]["instruction"] == "newer"
    facts = lab.call("viewer", "get", f"datasets/{made['id']}").json()["facts"]
    assert facts["episodes"] == 6 and {"task": "block2block", "instruction": "newer", "episodes": 1} in facts["words"]
    assert lab.call("researcher", "post", f"datasets/{made['id']}/undo").json()["id"] == mine.pk
    assert lab.call("viewer", "post", f"datasets/{mine.pk}/edit", body).status_code == 403
    assert lab.call("researcher", "post", f"datasets/{mine.pk}/edit", {"act": "eat"}).status_code == 422
    assert lab.call("viewer", "post", "datasets/matching", {"detected": True}).json() == {"episodes": 0, "steps": 0}


def test_lists_ask_as_many_queries_for_100_000_rows_as_for_six(lab, mine):
    def asked(dataset):
        with CaptureQueriesContext(connection) as queries:
            lab.call("viewer", "get", f"datasets/{dataset.pk}")
            lab.call("viewer", "get", f"datasets/{dataset.pk}/episodes?limit=100&unusual=true&sort=-jerk")
            lab.call("viewer", "get", f"datasets/{dataset.pk}/versions")
        return len(queries)

    asked(mine)  # the first log-in writes
    few = asked(mine)
    row = mine.rows.first()
    many = Dataset.objects.create(lab=lab.row, name="many", state="ready", path=mine.path, body=mine.body)
    fact = {name: getattr(row, name) for name in ("task", "instruction", "steps", "purpose", "ending", "quality")}
    fact |= {"detected_success": False, "true_success": None, "weight": 1.0}
    list_root(dataset=many, facts=(fact | {"index": i, "uuid": str(uuid.uuid4())} for i in range(100_000)))
    assert DatasetEpisode.objects.count() == 100_006
    asked(many)  # the first that asks has it summed up
    assert asked(many) == few


def test_what_a_version_comes_to_is_kept_until_its_rows_are_made_again(mine):
    found = summary_of(mine)
    assert (found["episodes"], found["steps"], found["tags"]) == (6, 120, []) and sum(found["lengths"]["counts"]) == 6
    mine.refresh_from_db()
    assert mine.summary == found
    facts = list(jobs.facts_of_file(mine.file))
    list_root(dataset=mine, facts=facts[:2])
    with CaptureQueriesContext(connection) as queries:
        assert summary_of(mine) == found, "what was read before is not asked again"
    assert not len(queries)
    mine.refresh_from_db()
    assert summary_of(mine)["episodes"] == 2
    stale = Dataset.objects.get(pk=mine.pk)
    list_root(dataset=mine, facts=facts)
    stale.summary = None
    summary_of(stale)
    mine.refresh_from_db()
    assert mine.summary is None, "one that read the rows of before keeps nothing"


def test_pages_list_names_and_open_a_version(lab, mine):
    made = edit(lab, "note_dataset", mine, notes="a")
    page = lab.as_("viewer").get("/labs/east/datasets/").content.decode()
    assert f"/labs/east/datasets/{made.pk}/" in page and f"/labs/east/datasets/{mine.pk}/" not in page
    page = lab.as_("viewer").get(f"/labs/east/datasets/{mine.pk}/").content.decode()
    assert "words 0" in page


def test_files_written_by_hand_are_listed_as_they_are(lab, tmp_path):
    write_episodes(tmp_path / "a.safetensors", [shown(1)])
    assert [each["index"] for each in jobs.facts_of_file(tmp_path / "a.safetensors")] == [0]

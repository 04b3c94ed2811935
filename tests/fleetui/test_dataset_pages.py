"""The pages of datasets: who sees and does what, what filters find, that an edit makes a version and can be undone."""

import json
import re

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleetui.learning import actions, datasets, look_jobs, looks, transfers
from fleetui.learning.models import Dataset, Export, Import
from tests.fleetui.lab import ROLES, as_upload, make_episode

EDITORS = ("researcher", "manager")
WORDS = "push the blue cube to the green star"


def script_episode(steps):
    return make_episode(steps, purpose="demonstration", actors=np.full(steps, 2, np.uint8))


@pytest.fixture
def many(lab, dataset):
    """A dataset of 60 episodes, more than one page shows, uploaded by the lab's researcher."""
    body = as_upload(*[script_episode(6 + i % 9) for i in range(60)])
    return actions.upload_dataset(lab=lab.row, user=lab.users["researcher"], name="many", body=body)


def get(lab, role, path, **query):
    return lab.as_(role).get(f"/labs/{lab.slug}/datasets/{path}", query)


def post(lab, role, path, **data):
    return lab.as_(role).post(f"/labs/{lab.slug}/datasets/{path}", data)


def text_of(answer):
    return re.sub(r"\s+", " ", answer.content.decode())


def positions_of(answer):
    return [int(each) for each in re.findall(r'<tr id="episode-(\d+)"', answer.content.decode())]


# The list


def test_the_list_says_origin_tags_and_versions_and_finds_by_them(lab, dataset):
    made = datasets.tag_dataset(dataset=dataset, user=lab.users["manager"], tags=["table", "good"])
    page = text_of(get(lab, "viewer", ""))
    assert f'href="/labs/{lab.slug}/datasets/{made.pk}/"' in page and "tagged" in page
    assert re.search(r'data-label="Versions">2<', page)
    for query, there in (
        ({"tag": "good"}, True),
        ({"query": "emo"}, True),
        ({"query": "nothing"}, False),
        ({"state": "generating"}, False),
        ({"origin": "import"}, False),
    ):
        found = text_of(get(lab, "viewer", "", **query))
        assert (f'id="dataset-{made.pk}"' in found) is there, query
        assert there or "No dataset found" in found


def test_the_list_takes_as_many_queries_for_many_as_for_one(lab, dataset):
    def queries():
        lab.as_("viewer")
        with CaptureQueriesContext(connection) as asked:
            assert get(lab, "viewer", "").status_code == 200
        return len(asked)

    get(lab, "viewer", "")
    before = queries()
    for number in range(8):
        datasets.split_dataset(dataset=dataset, user=lab.users["manager"], by="step", step=2 + number)
    assert queries() == before + 1  # what those were split off is read at once


def test_an_empty_lab_says_how_to_begin(lab):
    page = text_of(get(lab, "researcher", ""))
    assert "No datasets yet" in page and 'href="#import"' in page
    assert 'href="#import"' not in text_of(get(lab, "viewer", ""))


def test_an_import_asks_and_takes_the_answer(lab):
    row = Import.objects.create(
        lab=lab.row, name="mine", kind="archive", place="mine.zip", state="asking",
        questions=[{"code": "cameras", "text": "<b>Without cameras?</b>", "answer": None}],
        problems=[{"level": "ask", "code": "video-missing", "text": "It is missing.", "file": "videos/a.mp4",
                   "episode": 3, "field": "front"}],
    )  # fmt: skip
    page = text_of(get(lab, "researcher", ""))
    assert "&lt;b&gt;Without cameras?" in page and "Yes, go on" in page and "videos/a.mp4" in page
    assert "Yes, go on" not in text_of(get(lab, "viewer", ""))
    assert post(lab, "viewer", f"imports/{row.pk}/answer", code="cameras", answer="yes").status_code == 403
    post(lab, "researcher", f"imports/{row.pk}/answer", code="cameras", answer="no")
    row.refresh_from_db()
    assert row.state == "canceled" and f'data-import="{row.pk}"' not in text_of(get(lab, "viewer", "imports"))


def test_a_folder_that_is_not_allowed_is_refused_at_its_field(lab):
    answer = post(lab, "researcher", "import", name="theirs", place="/etc")
    page = text_of(answer)
    assert answer.status_code == 422 and 'value="/etc"' in page and 'value="theirs"' in page
    assert not Import.objects.exists()


def test_an_import_can_be_cancelled(lab):
    row = transfers.begin_upload(lab=lab.row, user=lab.users["researcher"], name="a", file_name="a.zip", size=9)
    assert "0 bytes of 9 bytes" in text_of(get(lab, "viewer", "imports")).replace("\xa0", " ")
    post(lab, "researcher", f"imports/{row.pk}/cancel")
    row.refresh_from_db()
    assert row.state == "canceled"


# One version


@pytest.mark.parametrize("role", ROLES)
def test_only_who_may_edit_sees_the_edits(lab, dataset, role):
    page = get(lab, role, f"{dataset.pk}/").content.decode()
    assert ('id="edit"' in page) is ('name="notes"' in page) is (role in EDITORS)
    assert ("Train on it" in page) is (role in EDITORS)
    assert ("Prepare a LeRobot archive" in page) is (role != "viewer")
    page = get(lab, role, f"{dataset.pk}/episodes/0").content.decode()
    assert ('id="mark-start"' in page) is (role in EDITORS)


EDITS = ("edit", "describe", "back", "current", "split", "merge")


@pytest.mark.parametrize("path", [*EDITS, "export"])
def test_who_may_not_is_refused_in_words_and_another_lab_sees_nothing(lab, other_lab, dataset, path):
    answer = post(lab, "viewer", f"{dataset.pk}/{path}", act="delete", positions=["0"])
    assert answer.status_code == 403 and "Your role in Lab east is viewer" in answer.content.decode()
    assert other_lab.as_("manager").post(f"/labs/{lab.slug}/datasets/{dataset.pk}/{path}").status_code == 404
    assert other_lab.as_("manager").get(f"/labs/{other_lab.slug}/datasets/{dataset.pk}/").status_code == 404
    assert Dataset.objects.count() == 1 and not Export.objects.exists()


def test_an_unknown_episode_is_not_found(lab, dataset):
    assert get(lab, "viewer", f"{dataset.pk}/episodes/3").status_code == 404


def test_filters_and_sorts_stand_in_the_address(lab, many):
    made = datasets.flag_episodes(dataset=many, user=lab.users["manager"], positions=[3, 50], note="look")
    made = datasets.tag_episodes(dataset=made, user=lab.users["manager"], positions=[50], add=["late"])
    made = datasets.relabel_episodes(dataset=made, user=lab.users["manager"], positions=[7], instruction="slide it")

    def found(**query):
        return positions_of(get(lab, "viewer", f"{made.pk}/", **query))

    assert found() == list(range(48)) and found(page=2) == list(range(48, 60))
    assert found(flagged="yes") == [3, 50] and found(flagged="yes", tag="late") == [50]
    assert found(query="slide") == [7] and found(true="unknown") == [] and found(true="no")[:2] == [0, 1]
    assert found(sort="-steps")[:3] == [8, 17, 26] and found(sort="steps")[0] == 0
    assert found(purpose="practice") == []
    page = text_of(get(lab, "viewer", f"{made.pk}/", query="slide", view="grid"))
    assert 'data-position="7"' in page and 'class="tiles"' in page and "query=slide" in page


def test_a_page_takes_as_many_queries_for_many_episodes_as_for_few(lab, dataset, many):
    def queries(row, **query):
        get(lab, "researcher", f"{row.pk}/", **query)
        with CaptureQueriesContext(connection) as asked:
            get(lab, "researcher", f"{row.pk}/", **query)
        return len(asked)

    few = queries(dataset)
    assert queries(many) == few < 40
    assert queries(many, view="grid") == few


def test_edits_make_a_version_and_undo_goes_back(lab, dataset):
    answer = post(lab, "researcher", f"{dataset.pk}/edit?sort=steps", act="relabel", positions=["0", "2"],
                  instruction="shove it")  # fmt: skip
    made = Dataset.objects.get(parent=dataset)
    assert answer["Location"] == f"/labs/{lab.slug}/datasets/{made.pk}/?sort=steps"
    assert [row.instruction for row in made.rows.all()] == ["shove it", WORDS, "shove it"]
    page = text_of(lab.as_("researcher").get(answer["Location"]))
    assert 'class="undo success"' in page and f'action="/labs/{lab.slug}/datasets/{made.pk}/back" data-undo' in page
    answer = post(lab, "researcher", f"{made.pk}/back")
    assert answer["Location"] == f"/labs/{lab.slug}/datasets/{dataset.pk}/"
    assert Dataset.objects.get(current=True) == dataset and Dataset.objects.count() == 2
    post(lab, "researcher", f"{made.pk}/current")
    assert Dataset.objects.get(current=True) == made


def after(lab, dataset, **data):
    answer = post(lab, "manager", f"{dataset.pk}/edit", **data)
    assert answer.status_code == 302, text_of(answer)
    return list(Dataset.objects.get(current=True, name=dataset.name).rows.all())


def test_each_act_does_what_it_says(lab, dataset):
    assert len(after(lab, dataset, act="delete", positions=["1"])) == 2
    assert [row.flagged for row in after(lab, dataset, act="flag", positions=["1"], note="odd")] == [False, True, False]
    assert [row.weight for row in after(lab, dataset, act="weigh", positions=["0"], weight="3")] == [3, 1, 1]
    assert after(lab, dataset, act="tag", positions=["0"], tag="a, b")[0].tags == ["a", "b"]
    rows = after(lab, dataset, act="trim", positions=["0"], from_start="2", from_end="3")
    assert [(row.start, row.stop) for row in rows] == [(2, 7), (0, 10), (0, 10)]
    rows = after(lab, dataset, act="cut", positions=["2"], start="1", stop="4")
    assert [(row.start, row.stop) for row in rows] == [(0, 10), (0, 10), (1, 4)]
    assert after(lab, dataset, act="note", positions=["2"], note="good", flagged="on")[2].note == "good"


def test_all_that_a_filter_finds_can_be_edited_at_once(lab, many):
    made = datasets.tag_episodes(dataset=many, user=lab.users["manager"], positions=range(5, 58), add=["x"])
    post(lab, "manager", f"{made.pk}/edit?tag=x", act="delete", everything="on")
    assert Dataset.objects.get(name="many", current=True).episodes == 60 - 53


@pytest.mark.parametrize(
    "data, said",
    [
        ({"act": "relabel", "instruction": "words"}, "Choose at least one episode."),
        ({"act": "relabel", "positions": ["1"]}, "Say what the episodes do."),
        ({"act": "delete", "positions": ["0", "1", "2"]}, "A dataset needs an episode"),
        ({"act": "trim", "positions": ["1"]}, "Say how many steps to cut off"),
        ({"act": "trim", "positions": ["1"], "from_start": "6", "from_end": "6"}, "can&#x27;t be cut to 6 to 4"),
        ({"act": "weigh", "positions": ["1"], "weight": "0"}, "A weight is a number from"),
        ({"act": "delete", "positions": ["x"]}, "is no episode"),
        ({"act": "nothing", "positions": ["1"]}, "not one of the available choices"),
        ({"act": "trim_idle", "positions": ["1"]}, "None of these episodes is idle"),
        ({"act": "cut", "positions": ["1"], "at": "1", "start": "8", "stop": "3"}, "can&#x27;t be cut to 8 to 3"),
    ],
)
def test_a_refused_edit_says_why_and_keeps_what_was_chosen(lab, dataset, data, said):
    answer = post(lab, "researcher", f"{dataset.pk}/edit", **data)
    assert answer.status_code == 422 and said in text_of(answer) and Dataset.objects.count() == 1
    if "1" in data.get("positions", []) and "at" not in data:
        assert re.search(r'value="1" aria-label="Choose episode 1" checked', text_of(answer))


def test_an_edit_of_one_episode_leads_to_it_in_the_new_version(lab, dataset):
    answer = post(lab, "researcher", f"{dataset.pk}/edit", act="delete", positions=["2"], at="2")
    made = Dataset.objects.get(parent=dataset)
    assert answer["Location"] == f"/labs/{lab.slug}/datasets/{made.pk}/episodes/1"


def test_tags_notes_split_and_merge(lab, dataset):
    post(lab, "manager", f"{dataset.pk}/describe", tags="one, two")
    made = Dataset.objects.get(current=True)
    post(lab, "manager", f"{made.pk}/describe", notes="with the old gripper")
    made = Dataset.objects.get(current=True)
    assert (made.tags, made.notes, made.version) == (["one", "two"], "with the old gripper", 3)
    post(lab, "manager", f"{made.pk}/split", by="share", share="0.34", seed="1")
    first, second = Dataset.objects.filter(origin__by="split").order_by("pk")
    assert first.episodes + second.episodes == 3
    assert "split off" in text_of(get(lab, "viewer", f"{first.pk}/"))
    answer = post(lab, "manager", f"{first.pk}/merge", others=[second.pk], name="again")
    again = Dataset.objects.get(name="again")
    assert answer.status_code == 302 and again.episodes == 3
    assert f'href="/labs/{lab.slug}/datasets/{second.pk}/"' in text_of(get(lab, "viewer", f"{again.pk}/"))
    assert post(lab, "manager", f"{first.pk}/merge", name="none").status_code == 422
    assert post(lab, "manager", f"{first.pk}/split", by="tag").status_code == 422


def test_the_page_names_runs_that_used_it(lab, sft_run):
    page = text_of(get(lab, "viewer", f"{sft_run.dataset_id}/"))
    assert f'href="/labs/{lab.slug}/runs/{sft_run.pk}"' in page


def test_an_export_is_asked_for_once(lab, dataset):
    for _ in range(2):
        answer = post(lab, "supervisor", f"{dataset.pk}/export")
        assert answer["Location"].endswith("#export")
    row = Export.objects.get()
    assert f'data-export="{row.pk}" data-export-state="making"' in text_of(get(lab, "viewer", f"{dataset.pk}/"))


# Of stored episodes


def test_a_dataset_of_stored_episodes_counts_and_is_made(lab):
    episodes = [make_episode(10, detected_success=good, ending="detected_success" if good else "time_limit")
                for good in (True, True, False)]  # fmt: skip
    for each in episodes:
        assert lab.upload(as_upload(each)).status_code == 200
    count = get(lab, "researcher", "from-episodes/count", detected="yes").json()
    assert count == {"episodes": 2, "steps": 20}
    assert "error" in get(lab, "researcher", "from-episodes/count", since="yesterday").json()
    assert get(lab, "supervisor", "from-episodes").status_code == 403
    answer = post(lab, "researcher", "from-episodes", detected="yes", name="good ones", weight="2",
                  correction_weight="1")  # fmt: skip
    made = Dataset.objects.get(name="good ones")
    assert answer["Location"] == f"/labs/{lab.slug}/datasets/{made.pk}/" and made.episodes == 2
    answer = post(lab, "researcher", "from-episodes", purpose="correction", name="x", weight="2", correction_weight="1")
    assert answer.status_code == 422 and "No stored episode matches" in text_of(answer)


# What people look at


def api(lab, role, path):
    return lab.as_(role).get(f"/api/labs/{lab.slug}/datasets/{path}")


@pytest.fixture
def worked(monkeypatch):
    """Jobs are done when they are asked for, once."""
    done = []

    def work(job, wanted):
        assert job == "learning.look"
        done.append(wanted)
        look_jobs.look_job(wanted)

    monkeypatch.setattr(look_jobs, "owns_folder", lambda: True)
    monkeypatch.setattr(looks, "enqueue_on_commit", work)
    return done


def test_pictures_strips_and_sums_are_made_once_for_all_versions(lab, dataset, worked):
    made = datasets.trim_episodes(dataset=dataset, user=lab.users["manager"], cuts={1: (2, 8)})
    for path in ("episodes/1/strip.jpg", "episodes/1/cameras", "statistics"):
        assert api(lab, "viewer", f"{made.pk}/{path}").status_code == 202, path
        assert api(lab, "viewer", f"{made.pk}/{path}").status_code == 200, path
    assert worked == [f"strips/{dataset.pk}/0", f"pictures/{dataset.pk}/1", f"statistics/{made.pk}/0"]
    assert api(lab, "viewer", f"{dataset.pk}/episodes/0/strip.jpg").status_code == 200  # of the same block
    whole = api(lab, "viewer", f"{dataset.pk}/episodes/1/frames/2.jpg")
    cut = api(lab, "viewer", f"{made.pk}/episodes/1/frames/0.jpg")
    assert whole.content == cut.content and cut.content[:2] == b"\xff\xd8" and len(worked) == 3
    assert api(lab, "viewer", f"{made.pk}/episodes/1/frames/6.jpg").status_code == 200
    assert api(lab, "viewer", f"{made.pk}/episodes/1/frames/7.jpg").status_code == 404
    told = api(lab, "viewer", f"{made.pk}/statistics").json()
    assert sum(told["actions"]["counts"]) == made.steps == 26
    x = next(each for each in told["features"] if each["key"] == "action")
    assert x["min"] <= x["mean"] <= x["max"]


def test_steps_are_those_of_the_cut(lab, dataset):
    made = datasets.trim_episodes(dataset=dataset, user=lab.users["manager"], cuts={1: (2, 8)})
    whole, cut = (api(lab, "viewer", f"{row.pk}/episodes/1/steps").json() for row in (dataset, made))
    assert (whole["steps"], cut["steps"]) == (10, 6) and cut["d"] == whole["d"][2:9]
    for a, b in zip(whole["signals"], cut["signals"], strict=True):
        extra = 0 if a["key"] == "action" else 1
        assert [series[2 : 8 + extra] for series in a["values"]] == b["values"]
    assert np.isfinite(cut["signals"][-1]["values"]).all() and len(cut["actors"]) == 6


def test_what_could_not_be_made_is_said(lab, dataset, worked):
    dataset.file.unlink()
    assert api(lab, "viewer", f"{dataset.pk}/statistics").status_code == 202
    answer = api(lab, "viewer", f"{dataset.pk}/statistics")
    assert answer.status_code == 409 and "could not be made" in json.loads(answer.content)["detail"]
    assert len(worked) == 1


def test_strangers_see_no_pictures(lab, other_lab, dataset, worked):
    for path in ("episodes/0/strip.jpg", "episodes/0/cameras", "episodes/0/frames/0.jpg", "episodes/0/steps",
                 "statistics"):  # fmt: skip
        assert other_lab.as_("manager").get(f"/api/labs/{lab.slug}/datasets/{dataset.pk}/{path}").status_code == 404
        assert (
            other_lab.as_("manager").get(f"/api/labs/{other_lab.slug}/datasets/{dataset.pk}/{path}").status_code == 404
        )
    assert not worked

"""Tasks in words: made at the form and by the API, refused with a sentence, sent to stations, practised by any body. A
body that describes itself, kept, shown and compared with what was made with it.
"""

import json
from dataclasses import replace
from datetime import timedelta
from importlib import import_module

import numpy as np
import pytest
from django.apps import apps
from django.utils import timezone

from fleetui import access
from fleetui.fleet import selectors
from fleetui.fleet.actions import labs, reports
from fleetui.fleet.models import Act, AssignedStation, Assignment, Episode, Station, Task
from fleetui.learning import actions as learning
from fleetui.learning.models import Dataset, Run
from fleetui.practice import queue
from fleetui.practice.actions import assignments, dispatch, launching, publishing
from fleetui.practice.actions.episodes import add_correction
from robots.embodiments import IMAGES, STATE, Embodiment, picture, vector
from robots.episodes import unchecked_bytes
from robots.orders import Orders
from robots.protocol import Assignment as AssignmentMessage
from robots.tasks import TASKS
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.fleetui.lab import add_checkpoint, as_upload, make_episode
from training.recipes import ImproveRecipe, SFTRecipe

ARM = Embodiment(
    "lab_arm",
    5.0,
    {STATE: vector(["reach", "lift"], [-1.0, 0.0], [1.0, 0.5], ["rad", "m"])},
    vector(["reach", "lift"], [-0.1, -0.1], [0.1, 0.1]),
)
FASTER = replace(ARM, fps=10.0)
WORDS = {"wordings": ["put the {object} into the bin"], "slots": {"object": ["red cup", "blue cup"]}}
IN_WORDS = WORDS | {"name": "Tidy up", "embodiment": "lab_arm", "time_limit_steps": 40}
RULES = {"stall_steps": "", "resets": ""}


@pytest.fixture
def arm(lab):
    """A real robot of the lab's own, which has said what its body is."""
    station, token = labs.create_station(lab=lab.row, user=access.SERVER, name="Own arm", simulated=False)
    lab.tokens[station.slug] = token
    greet(station)
    return station


def greet(station, body=ARM):
    told = publishing.welcome_station(station=station, embodiment=body.to_json(), renderer="camera")
    station.refresh_from_db()
    return told


@pytest.fixture
def tidy(lab, arm):
    return labs.create_task(lab=lab.row, user=access.SERVER, **IN_WORDS)


def shown(body=ARM, **fields):
    """A demonstration by a body that describes itself."""
    fields = {"embodiment": body.name, "body": body, "fps": body.fps, "purpose": "demonstration"} | fields
    return make_episode(
        observations={STATE: np.full((11, 2), 0.25, np.float32)},
        actions=np.full((10, 2), 0.05, np.float32),
        actors=np.full(10, 1, np.uint8),
        **{"ending": "true_success", "task": "tidy", "instruction": "put the red cup into the bin"} | fields,
    )


def uploaded(lab, *episodes, name="shown"):
    return learning.upload_dataset(lab=lab.row, user=access.SERVER, name=name, body=as_upload(*episodes))


def trained(lab, dataset):
    run = Run.objects.create(
        lab=lab.row, name="taught", kind="sft", state="completed", recipe=SFTRecipe().to_json(), dataset=dataset
    )
    add_checkpoint(run, "policy")
    add_checkpoint(run, "reward_model", threshold=2.5, consecutive=2)
    return run


# Made, refused, edited


def test_a_manager_makes_one_by_the_api(lab, arm):
    answer = lab.call("manager", "post", "tasks", IN_WORDS)
    assert answer.status_code == 200, answer.content
    made = answer.json()
    assert made["wordings"] == WORDS["wordings"] and made["slots"] == WORDS["slots"]
    assert made["embodiment"] == "lab_arm" and made["family"].startswith("tidy-up-") and made["time_limit_steps"] == 40
    again = lab.call("manager", "post", "tasks", IN_WORDS | {"name": "Tidy more"}).json()
    assert again["family"] != made["family"]
    for role in ("viewer", "supervisor", "researcher"):
        assert lab.call(role, "post", "tasks", IN_WORDS | {"name": "Mine"}).status_code == 403
    assert Act.objects.filter(kind="task_created", details__task="Tidy up").count() == 1


BAD = {
    "unknown slot": ({"wordings": ["go to {place}"]}, "wordings", "has no values"),
    "slot without values": ({"slots": {"object": []}}, "slots", "has no values"),
    "doubled values": ({"slots": {"object": ["cup", "cup"]}}, "slots", "“cup” twice"),
    "combinations": ({"wordings": ["{a} {b} x"], "slots": {s: [f"{s}{i}" for i in range(30)] for s in "ab"}},
                     "wordings", "in 900 ways"),
    "long": ({"wordings": ["x" * 301], "slots": {}}, "wordings", "301 characters"),
    "control characters": ({"wordings": ["go\x07"], "slots": {}}, "wordings", "can't be read"),
    "braces": ({"wordings": ["go {object"]}, "wordings", "a brace stands alone"),
    "nothing": ({"wordings": [], "slots": {}}, "wordings", "at least one wording"),
    "no such body": ({"embodiment": "banana"}, "embodiment", "“banana”; choose lab_arm or language_table"),
    "no limit": ({"time_limit_steps": None}, "time_limit_steps", "after how many steps"),
    "other body's family": ({"after_failure": "block2block"}, "after_failure", "another embodiment"),
    "no name": ({"name": " "}, "name", "needs a name"),
}  # fmt: skip


@pytest.mark.parametrize("given, field, sentence", BAD.values(), ids=BAD)
def test_words_that_make_no_sense_are_refused_at_form_and_api(lab, arm, given, field, sentence):
    answer = lab.call("manager", "post", "tasks", IN_WORDS | given)
    assert answer.status_code == 422 and sentence in answer.json()["problems"][field], answer.content
    typed = IN_WORDS | given
    typed |= {
        "wordings": "\r\n".join(typed["wordings"]),
        "slots": "\r\n".join(f"{slot}: {', '.join(values)}" for slot, values in typed["slots"].items()),
        "time_limit_steps": typed["time_limit_steps"] or "",
        "kind": "words",
    }
    if field not in ("after_failure", "embodiment"):  # the form offers no such choice
        page = lab.as_("manager").post("/labs/east/tasks/new", typed | RULES)
        assert page.status_code == 422 and sentence in page.content.decode().replace("&#x27;", "'")
    assert not Task.objects.exclude(wordings=[]).exists()


@pytest.mark.parametrize(
    "slots, sentence",
    [("object red cup", "has no colon"), ("object: cup\nobject: jug", "has two lines")],
)
def test_slots_are_typed_a_line_each(lab, arm, slots, sentence):
    typed = {"kind": "words", "name": "Tidy", "embodiment": "lab_arm", "time_limit_steps": "40", "slots": slots}
    page = lab.as_("manager").post("/labs/east/tasks/new", typed | {"wordings": "take the {object}"})
    assert page.status_code == 422 and sentence in page.content.decode()


def test_a_manager_makes_and_edits_one_at_the_form(lab, arm):
    typed = {"kind": "words", "name": "Tidy", "embodiment": "lab_arm", "time_limit_steps": "40"} | RULES
    typed |= {"wordings": "Take the {object}\r\n\r\nlift the {object}", "slots": "{Object}: red cup , blue cup"}
    typed |= {"family": "block2block"}  # the select of the other kind, which the page hides
    assert lab.as_("manager").post("/labs/east/tasks/new", typed).status_code == 302
    task = Task.objects.get(name="Tidy")
    assert task.wordings == ["take the {object}", "lift the {object}"] and task.slots == {
        "object": ["red cup", "blue cup"]
    }
    page = lab.as_("manager").get(f"/labs/east/tasks/{task.slug}/edit").content.decode()
    assert "take the {object}\nlift the {object}" in page and "object: red cup, blue cup" in page
    assert 'name="kind"' not in page and 'name="family"' not in page
    typed |= {
        "wordings": "fetch the {object}",
        "held_out_wordings": "bring the {object}",
        "embodiment": "language_table",
    }
    assert lab.as_("manager").post(f"/labs/east/tasks/{task.slug}/edit", typed).status_code == 302
    before = task.family
    task.refresh_from_db()
    assert (task.wordings, task.held_out_wordings) == (["fetch the {object}"], ["bring the {object}"])
    assert (task.embodiment, task.family) == ("lab_arm", before), "neither can change"
    page = lab.as_("viewer").get("/labs/east/tasks/").content.decode()
    assert "“fetch the {object}”" in page and "in words, for" in page


def test_a_built_in_family_keeps_its_own_words(lab, arm):
    answer = lab.call("manager", "post", "tasks", {"family": "block_to_place"} | WORDS)
    assert answer.status_code == 422 and "wordings of its own" in answer.json()["detail"]
    answer = lab.call("manager", "patch", f"tasks/{lab.task.slug}", WORDS)
    assert answer.status_code == 422 and "make a task in words" in answer.json()["detail"]
    page = lab.as_("manager").get(f"/labs/east/tasks/{lab.task.slug}/edit").content.decode()
    assert 'name="wordings"' not in page and 'name="embodiment"' not in page
    lab.task.refresh_from_db()
    assert lab.task.embodiment == "language_table" and lab.task.wordings == []


def test_without_a_body_the_form_says_what_to_do(lab):
    Station.objects.all().delete()
    assert "Connect one first" in lab.as_("manager").get("/labs/east/tasks/").content.decode()
    answer = lab.call("manager", "post", "tasks", IN_WORDS)
    assert answer.status_code == 422 and "connect it first" in answer.json()["problems"]["embodiment"]


def test_a_patch_changes_only_what_it_names(lab, tidy):
    answer = lab.call("manager", "patch", f"tasks/{tidy.slug}", {"slots": {"object": ["jug"]}})
    assert answer.json()["slots"] == {"object": ["jug"]} and answer.json()["wordings"] == WORDS["wordings"]
    assert answer.json()["time_limit_steps"] == 40 and answer.json()["family"] == tidy.family
    answer = lab.call("manager", "patch", f"tasks/{tidy.slug}", {"slots": {}})
    assert answer.status_code == 422 and "has no values" in answer.json()["problems"]["wordings"]
    answer = lab.call("manager", "patch", f"tasks/{tidy.slug}", {"time_limit_steps": None})
    assert answer.status_code == 422


def test_sentences_are_shown_while_one_types(lab, arm):
    def preview(role="manager", **typed):
        return lab.as_(role).post("/labs/east/tasks/preview", typed)

    text = preview(wordings="take the {object}", slots="object: red cup, <b>jug</b>").content.decode()
    assert "take the red cup" in text and "take the &lt;b&gt;jug&lt;/b&gt;" in text and "The 2 sentences" in text
    assert "has no values" in preview(wordings="take the {object}").content.decode()
    assert "has no colon" in preview(wordings="take the {object}", slots="object").content.decode()
    assert "The one sentence" in preview(wordings="go home").content.decode()
    assert preview("researcher", wordings="go home").status_code == 403
    assert lab.as_("manager").get("/labs/east/tasks/preview").status_code == 405


# At a station


def orders_of(station):
    told = publishing.list_orders(station=station)[0]
    assert isinstance(told, AssignmentMessage)
    return told


def at_a_station(message, body=ARM):
    """As a station reads it, once it has travelled."""
    orders = Orders(body)
    orders.take(replace(message, task=json.loads(json.dumps(message.task))))
    orders.read_task()
    return orders


def practised(lab, task, station, parent):
    run = Run.objects.create(
        lab=lab.row, name="better", kind="improve", state="running", recipe=ImproveRecipe().to_json(), parent=parent
    )
    assignments.assign_task(lab=lab.row, task=task, stations=[station], user=access.SERVER, run=run)
    return run


def test_the_station_is_told_the_words_and_follows_an_edit(lab, arm, tidy, monkeypatch):
    run = practised(lab, tidy, arm, trained(lab, uploaded(lab, shown())))
    orders = at_a_station(orders_of(arm))
    assert orders.task is not None and not orders.waiting_reason
    assert {orders.task.sample(np.random.default_rng(i), ()).text for i in range(20)} == {
        "put the red cup into the bin",
        "put the blue cup into the bin",
    }
    told = []
    monkeypatch.setattr(publishing, "tell_station_on_commit", lambda group, *messages: told.extend(messages))
    labs.edit_task(task=tidy, user=lab.users["manager"], wordings=["go home"], slots={})
    assert told[0].task["words"]["wordings"] == ["go home"] and not told[0].at_once
    # An episode of it finds its task again, by the family that nobody else has.
    episode = shown(task=tidy.family, purpose="practice", ending="time_limit", true_success=None, instruction="go home")
    episode.actors[:] = 0
    assert lab.upload(as_upload(episode), arm).status_code == 200
    stored = Episode.objects.get()
    assert stored.task == tidy and stored.true_success is None
    assert run.body["name"] == "lab_arm"


def test_after_a_failure_it_is_told_the_other_tasks_words(lab, arm, tidy, monkeypatch):
    home = labs.create_task(
        lab=lab.row, user=access.SERVER, name="Home", wordings=["go home"], embodiment="lab_arm", time_limit_steps=9
    )
    labs.edit_task(task=tidy, user=lab.users["manager"], after_failure=home.family)
    page = lab.as_("manager").get(f"/labs/east/tasks/{tidy.slug}/edit").content.decode()
    assert f'value="{home.family}" selected' in page and "after a failure:\n            Home" in page
    practised(lab, tidy, arm, trained(lab, uploaded(lab, shown(task=tidy.family), shown(task=home.family))))
    assert at_a_station(orders_of(arm)).after_failure.sample(np.random.default_rng(0), ()).text == "go home"
    told = []
    monkeypatch.setattr(publishing, "tell_station_on_commit", lambda group, *messages: told.extend(messages))
    labs.edit_task(task=home, user=lab.users["manager"], wordings=["go back"])
    assert told[0].task["after_failure_words"]["wordings"] == ["go back"]


# Datasets, runs and the queue, of a body that no world here has


def test_a_dataset_of_a_body_that_describes_itself_is_taken(lab):
    dataset = uploaded(lab, shown(), shown(), name="own")
    assert Embodiment.from_json(dataset.body) == ARM and dataset.families == ["tidy"]
    assert lab.call("viewer", "get", "datasets").json()["items"][0]["embodiment"] == "lab_arm"
    page = lab.as_("viewer").get("/labs/east/datasets/").content.decode()
    assert "of lab_arm" in page
    unknown = unchecked_bytes([replace(shown(), body=None)])
    with pytest.raises(access.Invalid, match="nobody says what “lab_arm” observes and does"):
        learning.upload_dataset(lab=lab.row, user=access.SERVER, name="silent", body=unknown)
    with pytest.raises(access.Invalid, match="goes from"):
        uploaded(lab, replace(shown(), actions=np.full((10, 2), 0.3, np.float32)), name="beyond")
    assert Dataset.objects.count() == 1


def test_generated_ones_have_the_worlds_body(lab):
    made = learning.generate_dataset(lab=lab.row, user=access.SERVER, name="more", families=["block2block"], episodes=5)
    assert Embodiment.from_json(made.body) == LANGUAGE_TABLE


def test_what_no_script_demonstrates_is_not_generated(lab, monkeypatch):
    monkeypatch.setitem(TASKS, "reach", replace(TASKS["block2block"], name="reach", world="elsewhere"))
    asked = {"name": "more", "families": ["reach"], "episodes": 5}
    answer = lab.call("researcher", "post", "datasets", asked)
    assert answer.status_code == 422 and "No script demonstrates reach; drive" in answer.json()["problems"]["families"]


def test_corrections_join_only_those_of_the_body_as_it_is(lab, arm, tidy):
    def corrected(body):
        episode = shown(body, purpose="correction", ending="operator", true_success=None, task=tidy.family)
        assert lab.upload(as_upload(episode), arm).status_code == 200
        return add_correction(lab=lab.row, user=access.SERVER, episode=Episode.objects.get(uuid=episode.uuid))

    first = corrected(ARM)
    assert Embodiment.from_json(first.body) == ARM and first.families == [tidy.family]
    assert corrected(ARM) == first
    greet(arm, FASTER)
    other = corrected(FASTER)
    assert other != first and other.body["fps"] == 10
    assert "Tidy up" in lab.as_("viewer").get("/labs/east/datasets/").content.decode()


def test_the_queue_starts_it_on_the_stations_of_its_body(lab, arm, tidy):
    parent = trained(lab, uploaded(lab, shown(task=tidy.family)))
    refused = lab.call("manager", "post", "assignments", {"task": tidy.slug, "stations": ["arm-1"]})
    assert refused.status_code == 422 and "needs lab_arm" in refused.json()["detail"]
    row = assignments.assign_task(lab=lab.row, task=tidy, stations=[], user=access.SERVER, any_count=1, parent=parent)
    (verdict,) = queue.read_queue(lab.row)
    assert verdict.state in ("queued", "standby"), verdict.reason
    row.refresh_from_db()
    assert row.run.recipe["tasks"] == tidy.family and [each.slug for each in row.stations.all()] == [arm.slug]


def test_a_form_begins_with_the_task_that_its_dataset_shows(lab, arm, tidy):
    parent = trained(lab, uploaded(lab, shown(task=tidy.family)))
    page = lab.as_("manager").get(f"/labs/east/runs/new?kind=improve&parent={parent.pk}").content.decode()
    assert f'<option value="{tidy.pk}" selected>' in page


def launched(lab, task, parent, station):
    return launching.launch_run(
        lab=lab.row,
        user=access.SERVER,
        kind="improve",
        recipe=ImproveRecipe().to_json(),
        parent=parent,
        task=task,
        stations=[station],
    )


def test_a_policy_of_the_body_as_it_was_is_refused_with_what_differs(lab, arm, tidy):
    parent = trained(lab, uploaded(lab, shown(task=tidy.family)))
    greet(arm, FASTER)
    with pytest.raises(access.Invalid, match="it acts at 10 Hz, and acted at 5 Hz") as refusal:
        launched(lab, tidy, parent, arm)
    assert list(refusal.value.problems) == ["stations"]
    with pytest.raises(access.Invalid, match="it acts at 10 Hz, and acted at 5 Hz"):
        assignments.assign_task(lab=lab.row, task=tidy, stations=[arm], user=access.SERVER, parent=parent)
    row = assignments.assign_task(lab=lab.row, task=tidy, stations=[], user=access.SERVER, any_count=1, parent=parent)
    assert "it acts at 10 Hz, and acted at 5 Hz" in queue.read_queue(lab.row)[0].reason
    assignments.cancel_assignment(assignment=row, user=access.SERVER)
    greet(arm, ARM)
    assert launched(lab, tidy, parent, arm).state == "queued"


def test_training_on_demonstrations_of_the_body_as_it_was_is_allowed_and_its_policies_reach_no_newer_body(
    lab, arm, tidy
):
    """Old data stays usable; what was trained on it is for the body as it was, whoever asks and however."""
    then = uploaded(lab, shown(task=tidy.family))
    greet(arm, FASTER)
    recipe = SFTRecipe().to_json()
    run = launching.launch_run(lab=lab.row, user=access.SERVER, kind="sft", recipe=recipe, dataset=then)
    assert run.state == "queued" and Embodiment.from_json(run.body) == ARM
    parent = trained(lab, then)
    policy, manager = parent.best_checkpoint("policy"), lab.users["manager"]
    for wishes in ({"parent": parent}, {"checkpoint": policy, "episodes": 3}):
        with pytest.raises(access.Invalid, match=r"Own arm is not as it was .*: it acts at 10 Hz, and acted at 5 Hz"):
            assignments.assign_task(lab=lab.row, task=tidy, stations=[arm], user=manager, **wishes)
        row = assignments.assign_task(lab=lab.row, task=tidy, stations=[], any_count=1, user=manager, **wishes)
        dispatch.dispatch_all()
        (waits,) = queue.read_queue(lab.row)
        assert waits.assignment == row and "it acts at 10 Hz, and acted at 5 Hz" in waits.reason
        assert not row.places.exists() and not AssignedStation.objects.filter(live=True).exists()
        assignments.cancel_assignment(assignment=row, user=manager)


@pytest.mark.parametrize("purpose", ["practice", "evaluation"])
def test_a_body_that_changes_while_its_assignment_waits_gets_no_policy_of_before(lab, arm, tidy, purpose):
    parent, manager = trained(lab, uploaded(lab, shown(task=tidy.family))), lab.users["manager"]
    wishes = {"parent": parent, "not_before": timezone.now() + timedelta(hours=1)}
    if purpose == "evaluation":
        wishes |= {"checkpoint": parent.best_checkpoint("policy"), "episodes": 3}
    row = assignments.assign_task(lab=lab.row, task=tidy, stations=[arm], user=manager, **wishes)
    dispatch.dispatch_all()
    assert row.waits and not AssignedStation.objects.filter(live=True).exists()
    greet(arm, FASTER)
    Assignment.objects.filter(pk=row.pk).update(not_before=timezone.now())
    dispatch.dispatch_all()
    (waits,) = queue.read_queue(lab.row)
    assert waits.state == "blocked" and "it acts at 10 Hz, and acted at 5 Hz" in waits.reason
    assert not AssignedStation.objects.filter(live=True).exists()
    assert publishing.list_orders(station=arm)[0].assignment is None


def test_attempts_whose_pictures_could_not_be_sent_are_refused_before_they_are_made(lab, arm):
    seeing = replace(ARM, observation={**ARM.observation, IMAGES + "front": picture(128, 96)})
    greet(arm, seeing)
    long = labs.create_task(lab=lab.row, user=access.SERVER, **IN_WORDS | {"time_limit_steps": 1592})
    with pytest.raises(
        access.Invalid, match="Own arm can't practise Tidy up: an attempt of 1592 steps holds more pict"
    ):
        assignments.assign_task(lab=lab.row, task=long, stations=[arm], user=lab.users["manager"])
    short = labs.edit_task(task=long, user=lab.users["manager"], time_limit_steps=1591)
    assert assignments.assign_task(lab=lab.row, task=short, stations=[arm], user=lab.users["manager"]).waits


def test_datasets_of_two_forms_of_a_body_are_not_trained_together(lab):
    then, now = uploaded(lab, shown(), name="then"), uploaded(lab, shown(FASTER), name="now")
    with pytest.raises(access.Invalid, match="it acts at 10 Hz, and acted at 5 Hz"):
        launching.launch_run(
            lab=lab.row, user=access.SERVER, kind="sft", recipe=SFTRecipe().to_json(), dataset=then, corrections=now
        )


# The body that a station says it has


def test_a_body_that_changed_is_taken_where_nothing_is_practised_with_it(lab, arm):
    greet(arm, FASTER)
    assert Embodiment.from_json(arm.embodiment) == FASTER
    act = Act.objects.get(kind="body_changed")
    assert (
        act.details == {"body": "lab_arm", "changed": "it acts at 10 Hz, and acted at 5 Hz"} and act.source == "station"
    )
    greet(arm, FASTER)
    assert Act.objects.filter(kind="body_changed").count() == 1


def test_a_body_that_changed_is_refused_while_its_station_practises(lab, arm, tidy):
    practised(lab, tidy, arm, trained(lab, uploaded(lab, shown(task=tidy.family))))
    with pytest.raises(access.Invalid, match=r"acted at 5 Hz\. It practises Tidy up with the body as it was; put that"):
        greet(arm, FASTER)
    arm.refresh_from_db()
    assert Embodiment.from_json(arm.embodiment) == ARM and not Act.objects.filter(kind="body_changed").exists()
    # What people watch and drive by alone may be another.
    greet(arm, replace(ARM, drive=()))
    greet(arm, replace(ARM, observation={STATE: replace(ARM.observation[STATE], units=("deg", "m"))}))
    assert arm.embodiment["observation"][STATE]["units"] == ["deg", "m"]


@pytest.mark.parametrize("name", ["", "a" * 61, "a\nb"])
def test_a_body_needs_a_name_that_a_task_can_say(lab, arm, name):
    station, _ = labs.create_station(lab=lab.row, user=access.SERVER, name="Nameless", simulated=False)
    with pytest.raises(access.Invalid, match="needs a name that can be read, of 1 to 60 characters"):
        greet(station, replace(ARM, name=name))


def test_another_robot_with_this_ones_token_is_refused(lab, arm):
    with pytest.raises(access.Invalid, match="use the token of the right station"):
        reports.connect_station(station=arm, embodiment=LANGUAGE_TABLE.to_json())


def test_a_stations_page_shows_its_body_folded_away(lab, arm):
    page = lab.as_("viewer").get(f"/labs/east/stations/{arm.slug}").content.decode()
    assert '<details class="panel body-facts" id="body"><summary>Body: lab_arm</summary>' in page
    for word in ("observation.state", "reach", "rad", "nobody can drive it", "5 times a second", "-0.1"):
        assert word in page, word
    table = lab.as_("viewer").get("/labs/east/stations/arm-1").content.decode()
    assert "640 × 480" in table or "×" in table
    Station.objects.filter(pk=arm.pk).update(embodiment={})
    page = lab.as_("viewer").get(f"/labs/east/stations/{arm.slug}").content.decode()
    assert "The station says what its body is when it connects" in page


def test_a_replay_shows_the_body_that_recorded_it(lab, arm):
    episode = shown(purpose="correction", ending="operator", true_success=None)
    assert lab.upload(as_upload(episode), arm).status_code == 200
    greet(arm, FASTER)
    assert selectors.episode_steps(Episode.objects.get())["embodiment"]["fps"] == 5


# Rows of before


def test_old_rows_get_their_bodies_from_the_built_in_ones(lab):
    dataset = Dataset.objects.create(lab=lab.row, name="old", families=["block2block", "block_to_place"], state="ready")
    strange = Dataset.objects.create(lab=lab.row, name="strange", families=["gone"], state="ready")
    Task.objects.update(embodiment="")
    import_module("fleetui.fleet.migrations.0018_tasks_in_words").say_bodies(apps, None)
    import_module("fleetui.learning.migrations.0007_bodies_of_datasets").say_bodies(apps, None)
    dataset.refresh_from_db()
    strange.refresh_from_db()
    assert Embodiment.from_json(dataset.body) == LANGUAGE_TABLE and strange.body == {}
    assert Task.objects.get().embodiment == "language_table"

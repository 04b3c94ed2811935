"""Names in any script: each becomes an address, no two the same, and none is a page's own."""

import importlib
import json

import pytest
from django.apps import apps
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions import labs
from fleetui.fleet.models import Lab as LabRow
from fleetui.fleet.models import Station
from fleetui.fleet.names import checked_name, free_slug, reserved_words
from fleetui.learning import actions as learning

ODD = ("机器人", "Лаба", "🤖", "روبوت", "ロボット", "הרובוט", "Größe", "หุ่นยนต์")
ODD += ("👩🏽‍🔬 team", "new", "!!!", "——", "a" * 80)


@pytest.mark.parametrize("name", ODD)
def test_a_station_a_task_a_dataset_and_a_lab_of_any_name_are_made_and_have_a_page(lab, name):
    manager = lab.as_("manager")
    station, _ = labs.create_station(lab=lab.row, name=name, user=lab.users["manager"])
    page = manager.get(f"/labs/east/stations/{station.slug}")
    assert page.status_code == 200 and page.context["station"] == station and station.name == name
    answer = manager.post("/labs/east/stations/new", {"name": f"{name[:70]} 2", "seed": "1"}, follow=True)
    assert answer.status_code == 200 and 'id="token"' in answer.content.decode()
    body = {"family": "block_to_place", "name": name}
    answer = lab.call("manager", "post", "tasks", body)
    assert answer.status_code == 200 and answer.json()["name"] == name
    slug = answer.json()["slug"]
    assert manager.get("/labs/east/tasks/", {"edit": slug}).status_code == 200
    assert lab.call("manager", "patch", f"tasks/{slug}", {"description": "as before"}).status_code == 200
    made = learning.generate_dataset(
        lab=lab.row, user=lab.users["manager"], name=name, families=["block2block"], episodes=1
    )
    assert made.name == name and manager.get("/labs/east/datasets/").status_code == 200
    other = labs.create_lab(name=name)
    labs.add_member(lab=other, person=lab.users["viewer"], role="viewer")
    assert lab.as_("viewer").get(f"/labs/{other.slug}/").status_code == 200


def test_slugs_say_the_name_and_what_is_taken_gets_a_number(lab):
    slugs = [
        labs.create_station(lab=lab.row, user=access.SERVER, name=name)[0].slug
        for name in ("机器人", "Лаба", "Laba", "laba!", "new", "New", "…", "‹›", "🤖")
    ]
    assert slugs == ["jiqiren", "laba", "laba-2", "laba-3", "new-2", "new-3", "station-1", "station-2", "robot"]


def test_the_reserved_words_are_those_of_the_addresses():
    assert "new" in reserved_words("station") and "queue" in reserved_words("task")
    assert not any(set(word) & set("<(") for kind in ("lab", "station", "task") for word in reserved_words(kind))


@pytest.mark.parametrize("kind, make", [("station", "create_station"), ("task", "create_task")])
def test_a_name_that_is_taken_is_named_in_the_refusal(lab, kind, make):
    more = {"user": access.SERVER} | ({"family": "block_to_place"} if kind == "task" else {})
    getattr(labs, make)(lab=lab.row, name="机器人", **more)
    with pytest.raises(Conflict, match=f"already has a {kind} named “机器人”"):
        getattr(labs, make)(lab=lab.row, name=" 机器人 ", **more)


def test_a_task_is_not_renamed_to_a_name_that_is_taken(lab):
    other = lab.call("manager", "post", "tasks", {"family": "block_to_place", "name": "Лаба"}).json()
    answer = lab.call("manager", "patch", f"tasks/{other['slug']}", {"name": lab.task.name})
    assert answer.status_code == 409 and lab.task.name in answer.json()["detail"]
    assert lab.call("manager", "patch", f"tasks/{other['slug']}", {"name": "Лаба"}).status_code == 200


@pytest.mark.parametrize("name", ["", "   ", "\u200b", "a\0b", "line\nbreak", "\ud800", "x" * 81])
def test_a_name_that_is_none_is_refused_with_a_sentence(lab, name):
    for make in (
        lambda: labs.create_station(lab=lab.row, user=access.SERVER, name=name),
        lambda: labs.create_lab(name=name),
        lambda: learning.generate_dataset(
            lab=lab.row, user=access.SERVER, name=name, families=["block2block"], episodes=1
        ),
    ):
        with pytest.raises(Invalid) as refusal:
            make()
        str(refusal.value).encode()  # it can be sent
    if name.strip():
        body = json.dumps({"family": "block_to_place", "name": name})
        answer = lab.as_("manager").post("/api/labs/east/tasks", body, content_type="application/json")
        assert answer.status_code in (400, 422) and len(answer.json()["detail"]) > 10, answer.content
    assert LabRow.objects.count() == 1


@given(st.text(min_size=1, max_size=100), st.sampled_from(["lab", "station", "task"]))
def test_any_name_gives_a_slug_that_is_free(name, kind):
    try:
        name = checked_name(name, kind)
    except Invalid:
        return
    taken = set()
    for _ in range(12):
        slug = free_slug(name, kind, taken, 40)
        assert 0 < len(slug) <= 40 and slug.isascii() and set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
        assert slug not in taken and slug not in reserved_words(kind)
        taken.add(slug)


def test_a_station_that_was_called_new_gets_an_address(lab):
    migration = importlib.import_module("fleetui.fleet.migrations.0009_identity")
    Station.objects.filter(pk=lab.stations[0].pk).update(slug="new", name="new")
    Station.objects.filter(pk=lab.stations[1].pk).update(slug="new-2")
    with connection.schema_editor() as editor:
        migration.give_stations_an_address(apps, editor)
    assert lab.as_("viewer").get("/labs/east/stations/new-3").context["station"] == lab.stations[0]

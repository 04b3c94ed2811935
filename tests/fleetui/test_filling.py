"""A lab that is filled as after years of use: its pages work, and ask as many queries of many rows as of few."""

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleetui.fleet.models import Episode
from fleetui.practice.filling import fill_lab
from fleetui.practice.management.commands.try_pages import charts_of, pages_of
from tests.charts.test_guard import ask
from tests.fleetui.lab import make_dataset

pytestmark = pytest.mark.django_db


def filled(lab, source, slug, episodes, runs):
    full = fill_lab(source=source, slug=slug, episodes=episodes, runs=runs)
    return {
        "lab": slug,
        "dataset": full.dataset.pk,
        "runs": [run.pk for run in full.runs],
        "practised": [run.pk for run in full.practised],
        "reward_model": next(iter(full.reward_models.values())).pk,
    }


def queries_of(client, path):
    client.get(path)  # the first may keep what later ones find
    with CaptureQueriesContext(connection) as asked:
        answer = client.get(path)
    assert answer.status_code == 200, path
    return len(asked)


def test_every_list_asks_as_many_queries_of_many_rows_as_of_few(lab):
    source = make_dataset(lab)
    client = Client()
    client.force_login(lab.users["manager"])
    few = filled(lab, source, "few", episodes=300, runs=8)
    many = filled(lab, source, "many", episodes=400, runs=24)
    for one, other in zip(pages_of(few), pages_of(many), strict=True):
        if "compare?" not in one:  # its address names more runs
            assert queries_of(client, one) == queries_of(client, other), other
    assert Episode.objects.filter(lab__slug="many").count() == 400


def test_the_charts_of_a_full_lab_are_drawn(lab):
    full = filled(lab, make_dataset(lab), "full", episodes=120, runs=8)
    for name, frame, body in charts_of(full):
        status, _, answer = ask(
            f"{frame}_dash-update-component",
            lab.users["manager"],
            method="POST",
            body=body,
            origin="http://localhost:8000",
        )
        assert status == 200 and '"data":[{' in answer, name


def test_a_fleet_that_has_practised_is_not_filled(lab):
    fill_lab(source=make_dataset(lab), slug="full", episodes=100, runs=2)
    with pytest.raises(CommandError, match="audit log"):
        call_command("fill")

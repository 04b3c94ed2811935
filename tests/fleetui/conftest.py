"""Fixtures of the dashboard's tests. What they make is in lab.py, which may be imported only once Django is set up."""

import pytest


@pytest.fixture
def lab(transactional_db, settings, tmp_path):
    from fleetui.fleet.actions.audit import source
    from tests.fleetui.lab import Lab

    source.set("server")  # the server gives each request a context of its own, the test client does not
    settings.DATA = tmp_path
    return Lab("east")


@pytest.fixture
def other_lab(lab):
    from tests.fleetui.lab import Lab

    return Lab("west")


@pytest.fixture
def dataset(lab):
    from tests.fleetui.lab import make_dataset

    return make_dataset(lab)


@pytest.fixture
def sft_run(lab, dataset):
    from tests.fleetui.lab import make_sft_run

    return make_sft_run(lab, dataset)


@pytest.fixture
def improve_run(lab, sft_run):
    from tests.fleetui.lab import make_improve_run

    return make_improve_run(lab, sft_run)

"""Fixtures of the dashboard's tests. What they make is in lab.py, which may be imported only once Django is set up."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import SyncToAsync
from django.db import close_old_connections


@pytest.fixture
def lab(transactional_db, settings, tmp_path, monkeypatch):
    from fleetui.live import sockets
    from tests.fleetui.lab import Lab

    settings.DATA = tmp_path
    threads = ThreadPoolExecutor(32, thread_name_prefix="sockets")
    monkeypatch.setattr(sockets, "_threads", threads)
    yield Lab("east")
    # The tables are emptied once nothing writes any more, also of a socket that a test left open; and the one thread of
    # sync_to_async keeps no connection, which a later test might break.
    threads.shutdown()
    SyncToAsync.single_thread_executor.submit(close_old_connections).result()


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

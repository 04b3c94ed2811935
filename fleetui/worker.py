"""A worker's own life, beside the jobs that it carries out: what it needs to begin, its sign of life, and its end. The
main one also watches over everything that nobody else would notice, and has the clock for what repeats.
"""

import contextlib
import logging
import math
import threading
import time

from celery.beat import EmbeddedService
from celery.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down
from django.conf import settings
from django.db import close_old_connections, connection

from fleetui.celery import app as celery_app
from fleetui.fleet.actions import control, reports, spans
from fleetui.learning import actions as learning_actions
from fleetui.learning import comparisons, sweeps, transfers, workers
from fleetui.learning.jobs import DATABASE_AWAY, first_line, owns_folder, stopping
from fleetui.practice.actions import dispatch
from fleetui.servers import ServerAway, check_servers

log = logging.getLogger(__name__)

ALIVE_EVERY_S = 5.0
WATCH_S = 5.0  # between two looks for runs that were left behind
WATCH_ALL_S = 60.0  # between two looks for those whose message was lost

beat = None  # Celery's clock for what repeats, while a worker runs


@worker_init.connect
def end_without_servers(**_: object) -> None:
    try:
        check_servers()
    except ServerAway as error:
        raise SystemExit(str(error)) from None


@worker_ready.connect
def begin_signs_of_life(**_: object) -> None:
    """In a thread that does nothing else: a worker whose watch takes long is there all the same."""

    def say() -> None:
        while not stopping.wait(ALIVE_EVERY_S):
            try:
                close_old_connections()
                workers.beat_worker()
            except DATABASE_AWAY as error:
                log.warning("no sign of life, the database is away: %s", first_line(error))
            except Exception:
                log.exception("saying that the worker lives")
            finally:
                connection.close()

    threading.Thread(target=say, name="signs of life", daemon=True).start()


@worker_ready.connect
def begin_watch(**_: object) -> None:
    """Look for what a crash left behind: at once, then every few seconds."""
    if not workers.wishes.main:
        return

    def watch() -> None:
        looked_at_all = -math.inf
        while not stopping.is_set():
            try:
                close_old_connections()
                all_waiting = time.monotonic() - looked_at_all > WATCH_ALL_S
                if owns_folder():
                    learning_actions.requeue_stale_jobs(all_waiting=all_waiting)
                    transfers.tend_transfers(all_waiting=all_waiting)
                    comparisons.requeue_stale_comparisons(all_waiting=all_waiting)
                    sweeps.advance_sweeps()
                if all_waiting:
                    looked_at_all = time.monotonic()
                    spans.drop_old_spans()
                    workers.forget_workers()
                reports.disconnect_silent_stations()
                dispatch.dispatch_all()
                keep_clock_running()
                control.lapse_expired_control()
            except DATABASE_AWAY as error:
                log.warning("the watch waits, the database is away: %s", first_line(error))
                connection.close()
            except Exception:
                log.exception("looking for stale runs")
            stopping.wait(WATCH_S)

    threading.Thread(target=watch, name="watch", daemon=True).start()


def keep_clock_running() -> None:
    """Celery's beat, in a thread of this worker: what repeats needs no process of its own. A lost database ends it."""
    global beat
    if beat is None or not beat.is_alive():
        beat = EmbeddedService(celery_app, thread=True, scheduler_cls=settings.CELERY_BEAT_SCHEDULER)
        beat.start()


@worker_shutting_down.connect
def begin_stop(**_: object) -> None:
    stopping.set()
    if beat is not None:
        beat.service.stop()


@worker_shutdown.connect
def end(**_: object) -> None:
    with contextlib.suppress(*DATABASE_AWAY):
        workers.leave_worker()

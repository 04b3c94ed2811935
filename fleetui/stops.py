"""The way of a software stop, past PostgreSQL and Valkey: the stations' sockets of this process, the stops under way,
and which stations are latched.

A stop is told first and written down after. fleet/actions/stops.py gives it here as an Order: each socket of this
process gets it at once, other web processes hear of it by the channel layer and by PostgreSQL's NOTIFY, whichever is
there. A station that answered has confirmed it. Whoever missed it learns it from the next heartbeat, which always says
whether the station is latched (live/stations.py).
"""

import logging
import threading
import time
import uuid as uuids
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar, TypeVarTuple

import psycopg
from django.db import Error, connection, connections

from fleetui import messages
from robots import strict_json
from robots.protocol import Command, Message

log = logging.getLogger(__name__)

GROUP = "stops"  # of the channel layer
CHANNEL = "fleetui_stops"  # of PostgreSQL's NOTIFY
PROCESS = uuids.uuid4().hex  # what comes back from here is not heard twice
EARLIER = "an earlier stop"  # latched before stops had ids
ORDERS_REMEMBERED = 500
ROWS_READ_EVERY_S = 1.0
FOREIGN_FOR_S = 60.0
WRITTEN_AGAIN_AFTER_S = 0.5
SAID_EVERY_S = 60.0  # in the log, of one that can't be written
Given = TypeVarTuple("Given")
Returned = TypeVar("Returned")


class Link(Protocol):
    """A station's socket in this process (live/stations.py)."""

    pk: int
    lab: str
    slug: str
    name: str
    latch: str  # the stop by which it is latched, as far as is known here; "": it is not
    latch_changed_at: float
    present: bool  # it said hello, and has not gone since

    def tell(self, message: Message) -> None: ...  # from any thread, never waits
    def tell_by_steady_clock(self, message: Message) -> None: ...  # the same, from the loop; `sent_at` is by that clock
    def hang_up_soon(self, code: int, reason: str = "") -> None: ...
    def silent_s(self) -> float: ...


@dataclass(eq=False)
class Order:
    """One stop: of a station, or of all stations of a lab (`station` None)."""

    id: str
    lab: str
    station: str | None
    by: str
    told: dict[str, str] = field(default_factory=dict)  # slug -> name, of the stations whose sockets got it
    confirmed: set[str] = field(default_factory=set)
    cleared: set[str] = field(default_factory=set)  # a person cleared it since: a repeat must not stop that one again
    given_at: float = field(default_factory=time.monotonic)
    foreign: bool = False  # given in another process, where somebody waits for the answers
    recorded: bool = False
    failed: Exception | None = None  # why it could not be recorded, and is not tried again
    rows: list[dict[str, Any]] = field(default_factory=list)  # the stations as PostgreSQL knows them, once recorded
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, done: Callable[[], object], seconds: float) -> bool:
        with self.changed:
            return bool(self.changed.wait_for(done, seconds))

    def note(self, change: Callable[[], object]) -> None:
        with self.changed:
            change()
            self.changed.notify_all()


links: dict[int, Link] = {}
orders: OrderedDict[tuple[str, str], Order] = OrderedDict()  # by lab and id
names: dict[tuple[str, str], str] = {}  # (lab, station) -> name, of all stations, as last read (Watch)
unrecorded: dict[tuple[str, str], str] = {}  # (lab, station) -> the stop that PostgreSQL doesn't know yet
_lock = threading.Lock()


def get_order(order_id: str, lab: str, station: str | None, by: str) -> tuple[Order, bool]:
    """(the order of that id, whether it is new): one stop may come by two ways at once, and is one all the same."""
    with _lock:
        order = orders.get((lab, order_id))
        if order is not None and (order.station, order.by) == (station, by):
            return order, False
        order = orders[lab, order_id] = Order(order_id, lab, station, by)
        while len(orders) > ORDERS_REMEMBERED:
            orders.popitem(last=False)
        return order, True


def tell(order: Order) -> None:
    """Every station of the order whose socket is here and that has not answered yet, at once. Never waits."""
    message = Command(id=order.id, name="stop", ttl_ms=60_000, by=order.by)
    for link in list(links.values()):
        over = link.slug in order.confirmed or link.slug in order.cleared
        if link.lab == order.lab and order.station in (None, link.slug) and not over:
            if not (order.foreign or order.recorded):
                unrecorded[link.lab, link.slug] = order.id
            order.told[link.slug] = link.name
            set_latch(link, order.id)
            link.tell(message)


def tell_others(order: Order) -> None:
    _say({"stop": {"id": order.id, "lab": order.lab, "station": order.station, "by": order.by}})


def confirm(order_id: str, lab: str, slug: str, here: bool = True) -> None:
    """The station answered that it stopped."""
    order = orders.get((lab, order_id))
    if order is None:
        return
    order.note(lambda: order.confirmed.add(slug))
    if here and order.foreign:
        _say({"confirmed": {"id": order_id, "lab": lab, "station": slug}})


def hear(payload: dict[str, Any]) -> None:
    """What another process said, by one way or the other; twice is once."""
    if payload.get("from") == PROCESS:
        return
    if (stop := payload.get("stop")) is not None:
        order, new = get_order(stop["id"], stop["lab"], stop["station"], stop["by"])
        if new:
            order.foreign = True  # whoever gave it records it
            tell(order)
    elif (confirmed := payload.get("confirmed")) is not None:
        confirm(confirmed["id"], confirmed["lab"], confirmed["station"], here=False)


def set_latch(link: Link, order_id: str) -> None:
    link.latch, link.latch_changed_at = order_id, time.monotonic()


@contextmanager
def clearing(lab: str, slug: str, asked_at: float) -> Iterator[None]:
    """A person clears the station's stops, as they were at `asked_at`: what is still to be told or written of those
    latches nothing any more. One that was given later stands.

    Entered while the station's row is held, and left after the commit: whoever writes a stop down late gets the row
    next, and must know by then. What is not committed was not cleared.
    """
    found = [order for order in list(orders.values()) if order.lab == lab and order.station in (None, slug)]
    cleared = [order for order in found if order.given_at < asked_at and slug not in order.cleared]
    for order in cleared:
        order.cleared.add(slug)
    try:
        yield
    except BaseException:
        for order in cleared:
            order.cleared.discard(slug)
        raise
    if unrecorded.get((lab, slug)) in {order.id for order in cleared}:
        unrecorded.pop((lab, slug), None)


def newer(lab: str, slug: str, asked_at: float) -> Order | None:
    """A stop of the station that was given after `asked_at`."""
    found = [order for order in list(orders.values()) if order.lab == lab and order.station in (None, slug)]
    return next((order for order in found if order.given_at >= asked_at), None)


def note_rows(latched: dict[int, str], asked_at: float) -> None:
    """What PostgreSQL says, asked at `asked_at`: stations that are latched, and by which stop. A stop or its end that
    passed here since then is newer.
    """
    for link in list(links.values()):
        if link.latch_changed_at >= asked_at or (link.lab, link.slug) in unrecorded:
            continue
        given = orders.get((link.lab, link.latch))
        if given is not None and given.foreign and asked_at - given.given_at < FOREIGN_FOR_S:
            continue  # the process where it was given may not be able to write it yet
        known = latched.get(link.pk, "")
        if bool(known) != bool(link.latch):
            set_latch(link, known)


# Writing down, by a thread that goes on trying: a full disk or a lost server must cost no record. What can't be written
# now goes behind the others, so that it holds nobody up.

_to_record: deque[tuple[float, Order, Context, Callable[[Order], None]]] = deque()
_something = threading.Event()
_recorder: threading.Thread | None = None


def record_soon(order: Order, record: Callable[[Order], None]) -> None:
    """`record` writes it down, with note_recorded on commit; it raises django.db.Error where that can't be done now."""
    global _recorder
    _to_record.append((0.0, order, copy_context(), record))
    _something.set()
    with _lock:
        if _recorder is None or not _recorder.is_alive():
            _recorder = threading.Thread(target=_record, name="record stops", daemon=True)
            _recorder.start()


def note_recorded(order: Order) -> None:
    """Called on commit, before anything that may wait for Valkey."""
    for link in list(links.values()):
        if unrecorded.get((link.lab, link.slug)) == order.id:
            set_latch(link, order.id)  # rows that were read before this was written are older
    _settle(order)
    order.note(lambda: setattr(order, "recorded", True))


def _settle(order: Order) -> None:
    for key in [key for key, order_id in list(unrecorded.items()) if order_id == order.id]:
        unrecorded.pop(key, None)


def _record() -> None:
    said_at: dict[str, float] = {}
    while True:
        _something.wait()
        _something.clear()
        while _to_record:
            due, order, context, record = _to_record.popleft()
            if (wait := due - time.monotonic()) > 0:
                time.sleep(min(wait, WRITTEN_AGAIN_AFTER_S))
            try:
                context.run(record, order)
            except Error as error:
                now = time.monotonic()
                if now - said_at.get(order.id, -SAID_EVERY_S) >= SAID_EVERY_S:
                    said_at[order.id] = now
                    log.error("A stop by %s was told and can't be recorded yet: %s", order.by, error)
                _to_record.append((now + WRITTEN_AGAIN_AFTER_S, order, context, record))
                continue
            except Exception as error:
                log.exception("A stop by %s was told and can't be recorded", order.by)
                _settle(order)
                order.note(partial(setattr, order, "failed", error))
            finally:
                connections.close_all()
            said_at.pop(order.id, None)


# To and from other web processes


def _say(payload: dict[str, Any]) -> None:
    payload |= {"from": PROCESS}

    def notify() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, strict_json.dumps(payload)])

    in_daemon(lambda: messages.send_to_group(GROUP, {"type": "stop", "payload": payload}))
    in_daemon(notify)


def in_daemon(function: Callable[[*Given], Returned], *arguments: *Given) -> Future[Returned]:
    """Run in a thread of its own, which a server that hangs can hold without holding anybody else."""
    future: Future[Returned] = Future()
    future.set_running_or_notify_cancel()
    context = copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(function, *arguments))
        except BaseException as error:
            future.set_exception(error)
        finally:
            connections.close_all()

    threading.Thread(target=run, name="stops", daemon=True).start()
    return future


ROWS = """
    SELECT lab.slug, station.slug, station.name, station.id, station.stop_latched, station.stopped_by
    FROM fleet_station AS station JOIN fleet_lab AS lab ON lab.id = station.lab_id WHERE station.archived_at IS NULL
"""
AS_SOON_AS_GONE = {"connect_timeout": 2, "keepalives_idle": 3, "keepalives_interval": 1, "keepalives_count": 3}


class Watch(threading.Thread):
    """Hears the stops that other processes NOTIFY, and reads each second which stations are latched, on a connection of
    its own: runs in each web process (asgi.py).
    """

    def __init__(self) -> None:
        super().__init__(name="watch stops", daemon=True)
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            try:
                parameters = connections["default"].get_connection_params() | AS_SOON_AS_GONE
                with psycopg.connect(**parameters, autocommit=True) as conn:
                    self.watch(conn)
            except (psycopg.Error, OSError) as error:
                log.debug("Stops of other processes are not heard: %s", error)
            except Exception:
                log.exception("The watch of stops broke; it begins anew")
            self.ending.wait(0.5)

    def watch(self, conn: psycopg.Connection) -> None:
        conn.execute(f"LISTEN {CHANNEL}")
        while not self.ending.is_set():
            self.read_rows(conn)
            for notify in conn.notifies(timeout=ROWS_READ_EVERY_S):
                try:
                    hear(strict_json.loads(notify.payload))
                except Exception:  # anybody who may connect may say anything
                    log.exception("A notice of another process was not understood")

    def read_rows(self, conn: psycopg.Connection) -> None:
        asked_at = time.monotonic()
        rows = conn.execute(ROWS).fetchall()
        for lab, slug, name, *_ in rows:
            names[lab, slug] = name
        for gone in names.keys() - {(lab, slug) for lab, slug, *_ in rows}:
            names.pop(gone, None)
        note_rows({pk: stopped_by or EARLIER for *_, pk, latched, stopped_by in rows if latched}, asked_at)

    def end(self) -> None:
        self.ending.set()
        self.join(3)

"""What stations say of themselves, written down: that they came or went, their state, that they reset themselves."""

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from fleetui import stops
from fleetui.access import Invalid
from fleetui.fleet.actions.attention import note_absence
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.cards import show_card
from fleetui.fleet.actions.control import add_touch, is_number, lapse_control, newest_epoch
from fleetui.fleet.actions.labs import lock_queue
from fleetui.fleet.actions.spans import note_state
from fleetui.fleet.bodies import what_changed
from fleetui.fleet.models import Lab, Station
from fleetui.fleet.signals import queue_changed, station_left
from robots.embodiments import Embodiment
from robots.protocol import STATES, Welcome

SILENT_AFTER = timedelta(seconds=20)
LONGEST_TOUCH_S = 86_400.0


@transaction.atomic
def connect_station(
    *, station: Station, embodiment: dict[str, Any], software: str = "", renderer: str = "", teleoperator: str = ""
) -> Welcome:
    """A station said hello. Returns the welcome that it is told; its orders come after that (practice/)."""
    try:
        body = Embodiment.from_json(embodiment)
    except ValueError as error:
        raise Invalid(str(error)) from None
    if station.embodiment and station.embodiment.get("name") != body.name:
        raise Invalid(
            f"{station} is registered with the embodiment {station.embodiment.get('name')}, but hello says "
            f"{body.name}; use the token of the right station."
        )
    if changed := what_changed(body.to_json(), station.embodiment):
        _take_new_body(station, body, changed)
    # It hasn't told its state yet; that it is here is all that is known.
    Station.objects.filter(pk=station.pk, state="offline").update(state="idle", reason="", state_since=timezone.now())
    Station.objects.filter(pk=station.pk).update(
        connected=True,
        last_seen=timezone.now(),
        embodiment=body.to_json(),
        software=software[:80],
        renderer=renderer[:20],
        teleoperator=teleoperator[:60],
        connected_since=timezone.now(),
        **({} if station.token_is_old else {"old_token_hash": "", "old_token_until": None}),
        loaded_checkpoint=None,  # a process that began anew has none; one that has says so when it is welcomed
    )
    station.refresh_from_db()
    note_state(station=station, state=station.state)
    lapse_control(station=station)  # a web process that was killed could not do it
    show_card(station)
    queue_changed.send(sender=Lab, lab=station.lab)
    unrecorded = (station.lab.slug, station.slug) in stops.unrecorded
    return Welcome(
        station=station.slug,
        name=station.name,
        # What was ordered while it was away holds too: the latch and the pause come as states, not as commands.
        settings={
            **station.settings_json(),
            "paused": station.paused,
            "stop_latched": station.stop_latched or unrecorded,
            # The newest one on record: a stop that is not on record only a person clears.
            "stop": station.stopped_by or stops.EARLIER,
            "overridden": station.taken_over,
        },
        epoch=newest_epoch(station),
    )


def _take_new_body(station: Station, body: Embodiment, changed: str) -> None:
    """What it practises now was made with the body as it was; without work it may be another from here on."""
    lock_queue(station.lab)  # nobody gives it work meanwhile
    if assignment := station.live_assignment():
        raise Invalid(
            f"The body {body.name} of {station} is no longer what it was: {changed}. It practises {assignment.task} "
            "with the body as it was; put that back, or end the assignment and connect again."
        )
    details = {"body": body.name, "changed": changed}
    record_act(lab=station.lab, kind="body_changed", station=station, details=details, source="station")


@transaction.atomic
def note_refused_hello(*, station: Station, reason: str) -> None:
    """Why a station is not let in: its page says it too, since nobody reads the log of a robot."""
    if Station.objects.filter(pk=station.pk, connected=False).update(reason=reason[:300]):
        station.refresh_from_db()
        show_card(station)


@transaction.atomic
def disconnect_station(*, station: Station, reason: str = "") -> None:
    Station.objects.filter(pk=station.pk).update(
        connected=False,
        connected_since=None,
        state="offline",
        reason=reason[:300],
        state_since=timezone.now(),
        last_seen=timezone.now(),
    )
    station.refresh_from_db()
    note_state(station=station, state=station.state)
    # The lease ends with the link; the policy waits for a person all the same.
    lapse_control(station=station, why="the connection of the station was lost", source="station")
    show_card(station)
    station_left.send(sender=Station, station=station)


def disconnect_silent_stations() -> None:
    """A web process that was killed could not say who left with it. Whoever is there is seen every few seconds."""
    late = timezone.now() - SILENT_AFTER
    for station in Station.objects.select_related("lab").filter(connected=True, last_seen__lt=late):
        disconnect_station(station=station, reason="nothing was heard from it for a while")
        note_absence(station=station)


def record_telemetry(*, station: Station, state: str, reason: str = "", episode: str = "") -> None:
    """What is kept of telemetry: the consumer calls this on a change and every few seconds, not for each message."""
    if state not in STATES:
        raise Invalid(f"{state!r} is no state of a station; known are {', '.join(STATES)}.")
    now = timezone.now()
    fields = {"reason": str(reason)[:300], "last_seen": now}
    if episode:
        fields["last_episode"] = episode
    rows = Station.objects.filter(pk=station.pk, connected=True)
    with transaction.atomic():
        if rows.exclude(state=state).update(state=state, state_since=now, **fields):
            note_state(station=Station.objects.get(pk=station.pk), state=state)
            return
        if rows.update(**fields):
            return
        # It was only thought to be gone (this machine slept, the database was slow): it speaks, so it is here.
        Station.objects.filter(pk=station.pk).update(
            connected=True, connected_since=now, state=state, state_since=now, **fields
        )
        station.refresh_from_db()
        note_state(station=station, state=state)
        show_card(station)


def record_touch(*, station: Station, kind: str, reason: str = "", seconds: float = 0.0) -> None:
    """A simulated station reset itself: that counts as a touch too."""
    if kind != "self_reset":
        raise Invalid(f"A station reports interventions of the kind self_reset only, not {kind!r}.")
    if not is_number(seconds) or seconds < 0:
        raise Invalid("seconds must be a number of 0 or more.")
    seconds = float(min(seconds, LONGEST_TOUCH_S))  # one that stood paused for days waited longer than any rule asks
    now = timezone.now()
    with transaction.atomic():
        add_touch(station, None, kind, started_at=now - timedelta(seconds=seconds), ended_at=now, reason=str(reason))
        record_act(lab=station.lab, kind=kind, station=station, reason=str(reason), source="station")

"""Alarms of the detector: raised and closed by what stored attempts say (learning/curves.py), or closed by a person."""

from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.models import Alarm, Station


@transaction.atomic
def note_drift(*, station: Station, policy_id: UUID, reason: str) -> None:
    """What is to be said of the station with this policy now; "": nothing. It may be said twice. An alarm that a person
    has closed does not come back.
    """
    Station.objects.select_for_update().get(pk=station.pk)
    found = Alarm.objects.filter(station=station, policy_id=policy_id).first()
    now = timezone.now()
    if not reason:
        if found is not None and found.closed_at is None:
            Alarm.objects.filter(pk=found.pk).update(closed_at=now, outcome="d is as it was at first again")
    elif found is None:
        Alarm.objects.create(lab_id=station.lab_id, station=station, policy_id=policy_id, reason=reason[:300])
    elif found.closed_at is None:
        Alarm.objects.filter(pk=found.pk).update(reason=reason[:300])
    elif found.closed_by_id is None:
        Alarm.objects.filter(pk=found.pk).update(reason=reason[:300], closed_at=None, opened_at=now, outcome="")


@transaction.atomic
def close_alarm(*, alarm: Alarm, user: User, outcome: str, source: str = "server") -> None:
    """A person has looked: of this station with this policy no alarm comes any more."""
    access.check(user, alarm.lab, "help")
    outcome = outcome.strip()[:300]
    if not outcome:
        raise Invalid("Say in a few words what came of this alarm.", {"outcome": "Say what came of it."})
    closed = Alarm.objects.filter(pk=alarm.pk, closed_at=None)
    if not closed.update(closed_at=timezone.now(), closed_by=user, outcome=outcome):
        raise Conflict("This alarm is closed already.")
    details = {"alarm": alarm.pk, "reason": alarm.reason, "outcome": outcome}
    record_act(lab=alarm.lab, kind="alarm_closed", user=user, station=alarm.station, details=details, source=source)

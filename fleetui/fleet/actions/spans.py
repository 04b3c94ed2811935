"""What a station's hours were used for: a row for each stretch of time in one state; charts are drawn from them."""

from datetime import timedelta

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Greatest
from django.utils import timezone

from fleetui.fleet.models import Station, StationSpan, shown_state

SPANS_KEPT_FOR = timedelta(days=90)


def note_state(*, station: Station, state: str) -> None:
    """The state changed: the open span ends and the next begins. Saying it twice does no harm, nor does a race."""
    shown, now = shown_state(state, station.maintenance), timezone.now()
    with transaction.atomic():
        # A clock that was set back must not end a span before its start.
        StationSpan.objects.filter(station=station, ended_at=None).exclude(state=shown).update(
            ended_at=Greatest(F("started_at"), now)
        )
        # The constraint of one open span a station decides who of two is first.
        StationSpan.objects.bulk_create(
            [StationSpan(station=station, state=shown, started_at=now)], ignore_conflicts=True
        )


def drop_old_spans() -> int:
    """What is older than any chart shows goes."""
    return StationSpan.objects.filter(ended_at__lt=timezone.now() - SPANS_KEPT_FOR).delete()[0]

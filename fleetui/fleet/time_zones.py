"""In which time zone a person sees times. A moment is stored and sent in UTC; only words for people are in a zone."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

Answer = Callable[[HttpRequest], HttpResponseBase]  # how a request becomes an answer


@cache
def zone_names() -> tuple[str, ...]:
    """As the tz database names them: "Europe/Berlin"."""
    return tuple(sorted(name for name in available_timezones() if name not in ("localtime", "Factory")))


def zone_named(name: str) -> ZoneInfo:
    """UTC where this machine's tz database does not know the name any more."""
    return ZoneInfo(name if name in zone_names() else "UTC")


def use_own_time_zone(get_response: Answer) -> Answer:
    """Middleware: all that is answered to a person says times in that person's zone. Only a stop asks nobody who gives
    it before it is told.
    """

    def respond(request: HttpRequest) -> HttpResponseBase:
        if request.path_info.startswith("/api/") and request.path_info.endswith("/stop"):
            return get_response(request)
        profile = getattr(request.user, "profile", None) if request.user.is_authenticated else None
        with timezone.override(zone_named(profile.time_zone) if profile else None):
            return get_response(request)

    return respond


def newest_due(*, first: datetime, zone: ZoneInfo, days: int, by: datetime) -> datetime:
    """Of a series that begins at `first` and comes every so many days at the same time of the day in its zone: the
    newest one that is due by then. On the day of a clock change a time that doesn't exist comes as much later, and of
    one that exists twice the first counts, as Celery's beat does it.
    """
    start = first.astimezone(zone).replace(tzinfo=None)
    periods = (by.astimezone(zone).date() - start.date()).days // days

    def due(number: int) -> datetime:
        moment = (start + timedelta(days=days * number)).replace(tzinfo=zone)
        return moment.astimezone(first.tzinfo)

    return due(periods) if due(periods) <= by else due(periods - 1)

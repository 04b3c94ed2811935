"""Reading many rows of practice: free stations and assignments for the pages, episodes and stations for a run's job."""

from datetime import timedelta

from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from fleetui.fleet.models import Assignment, Episode, Lab, Station
from fleetui.fleet.selectors import list_stations
from fleetui.learning.models import Run
from robots.protocol import IN_EPISODE

ANSWERED_WITHIN = timedelta(minutes=10)  # a question that a method asks of an attempt


def free_stations(lab: Lab) -> QuerySet[Station]:
    """Stations that no live assignment holds and nobody repairs."""
    return list_stations(lab).filter(maintenance_since=None).exclude(places__live=True).order_by("number")


def with_body(stations: QuerySet[Station], body: str) -> QuerySet[Station]:
    """Of these those with this body, and those that have not said yet which they have; all where nobody knows it."""
    return stations.filter(Q(embodiment__name=body) | Q(embodiment={})) if body else stations


def list_assignments(lab: Lab) -> QuerySet[Assignment]:
    return lab.assignments.select_related("task", "run", "parent", "checkpoint", "created_by").prefetch_related(
        "places__station"
    )


def list_ended_assignments(lab: Lab, state: str = "") -> QuerySet[Assignment]:
    """The newest first; of one final state, if it is named."""
    rows = list_assignments(lab).exclude(state__in=Assignment.LIVE).order_by("-ended_at", "-pk")
    return rows.filter(state=state) if state else rows


# For the stations


def shares_of_attempts(assignment: Assignment) -> dict[int, tuple[int, int]]:
    """By station: how many attempts of an evaluation it has made, and how many it shall have made when all are.

    What is left is shared by those that can make attempts, anew with each that is stored: a fast one does more. A
    station that is in an attempt, or whose last one is on its way here, comes first, so that none begins one too many.
    """
    stations = [place.station for place in assignment.places.filter(live=True).select_related("station")]
    counted = assignment.episodes.order_by().values_list("station").annotate(n=Count("uuid"))
    made = {station.pk: 0 for station in stations} | dict(counted)
    told = {station.last_episode for station in stations if station.last_episode}
    stored = set(Episode.objects.filter(pk__in=told).values_list("pk", flat=True))
    able = [each for each in stations if each.connected and not (each.maintenance or each.stop_latched or each.paused)]
    able = able or stations
    able.sort(
        key=lambda each: (each.state not in IN_EPISODE and not {each.last_episode} & (told - stored), each.number)
    )
    left = max(0, (assignment.budget_episodes or 0) - sum(made.values()))
    shares = {each.pk: left // len(able) + (place < left % len(able)) for place, each in enumerate(able)}
    return {each.pk: (made[each.pk], made[each.pk] + shares.get(each.pk, 0)) for each in stations}


# For the run's job


def episodes_to_hand_in(run: Run) -> list[Episode]:
    """Practice episodes that the learner hasn't got, in the order they came: those of the open version where practice
    goes by rounds, else of any. What a person is asked of waits for the answer, but not for ever.
    """
    rows = run.episodes.filter(handed_in_at=None, purpose="practice")
    if run.round_target:
        rows = rows.filter(version=run.open_version)
    found = list(rows.order_by("stored_at")[:500])
    patience = timezone.now() - ANSWERED_WITHIN
    return [row for row in found if not row.asks or row.asks in row.labels or row.stored_at < patience]


def unsettled_stations(run: Run) -> tuple[int, int]:
    """(stations that may be in an episode, stations whose last episode isn't stored yet), of the run's connected
    ones.
    """
    stations = Station.objects.filter(places__live=True, places__assignment__run=run, connected=True)
    rows = list(stations.values_list("state", "last_episode"))
    told = {last for state, last in rows if state not in IN_EPISODE and last}
    stored = set(Episode.objects.filter(pk__in=told).values_list("pk", flat=True))
    return sum(state in IN_EPISODE for state, _ in rows), len(told - stored)


def stations_behind(run: Run) -> list[Station]:
    """Connected stations of the run that haven't loaded its published policy."""
    policy = run.published_policy()
    if policy is None:
        return []
    stations = Station.objects.filter(
        places__live=True, places__assignment__run=run, connected=True, maintenance_since=None
    )
    return list(stations.exclude(loaded_checkpoint=policy).select_related("lab"))

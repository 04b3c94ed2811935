"""What supervision costs and saves: interventions per robot-hour, a person's seconds for each, how many stations one
person can look after.

Read from what is recorded anyway: interventions, help requests and episodes. A touch is an act of a person on a
station; a station's own reset in simulation and a label are none.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypedDict

from django.db.models import Sum
from django.db.models.functions import TruncHour
from django.utils import timezone

from fleetui.fleet.models import Lab
from robots.attention import HUMAN_S

SHIFT = timedelta(hours=8)
NO_TOUCH = ("self_reset", "relabel")
ACT_OF = {"terminate": "end_episode", "override": "hand_back"}
EXPECTED_S = 8.0  # of a touch that nobody timed and no rule knows
BUSY = (0.3, 0.5, 0.7)  # shares of a person's time that supervision may take


@dataclass
class Effort:
    """Of one operator, one shift or the whole window."""

    title: str
    robot_s: float = 0.0
    touches: int = 0
    human_s: float = 0.0
    timed: int = 0  # touches whose seconds were measured rather than expected
    saved_robot_s: float = 0.0  # by the estimate that ranked the help requests which this person closed
    stations: set[int] = field(default_factory=set)
    people: set[int] = field(default_factory=set)

    @property
    def touches_per_robot_hour(self) -> float | None:
        return self.touches / (self.robot_s / 3600) if self.robot_s >= 60 else None

    @property
    def seconds_a_touch(self) -> float | None:
        return self.human_s / self.touches if self.touches else None

    @property
    def saved_per_human_second(self) -> float | None:
        return self.saved_robot_s / self.human_s if self.human_s else None

    @property
    def robots_per_person(self) -> float | None:
        return len(self.stations) / len(self.people) if self.people and self.stations else None


@dataclass(frozen=True)
class Plan:
    """How many stations one person holds at a rate, when supervision may take a share of their time."""

    busy: float
    touches_per_robot_hour: float
    seconds_a_touch: float

    @property
    def stations(self) -> int | None:
        """None: there is nothing to hold back from, as far as the record says."""
        load = self.touches_per_robot_hour * self.seconds_a_touch / 3600  # of a person's time, for each station
        return int(self.busy / load) if load > 0 else None


class Efforts(TypedDict):
    """Of a window: of all, of each operator, of each shift."""

    all: Effort
    operators: list[Effort]
    shifts: list[Effort]


def effort_of(lab: Lab, since: datetime, until: datetime | None = None) -> Efforts:
    """What a window cost and saved; shifts begin at 0, 8 and 16 in the zone of who asks."""
    until = until or timezone.now()
    whole = Effort("All")
    operators: dict[int, Effort] = {}
    shifts: dict[datetime, Effort] = {}

    def of_shift(moment: datetime) -> Effort:
        moment = timezone.localtime(moment)
        begin = moment.replace(hour=moment.hour // 8 * 8, minute=0, second=0, microsecond=0)
        return shifts.setdefault(begin, Effort(f"{begin:%a %d %b %H:%M} to {begin + SHIFT:%H:%M %Z}"))

    def add(names: Iterable[Effort], **changes: Any) -> None:
        for effort in names:
            for name, value in changes.items():
                if isinstance(value, set):
                    getattr(effort, name).update(value)
                else:
                    setattr(effort, name, getattr(effort, name) + value)

    episodes = lab.episodes.filter(stored_at__gte=since, stored_at__lt=until, purpose__in=("practice", "evaluation"))
    # Summed in the database: a month of a fleet is millions of episodes.
    by_hour = episodes.order_by().values_list("station", TruncHour("stored_at")).annotate(Sum("duration_s"))
    for station, hour, seconds in by_hour:
        add((whole, of_shift(hour)), robot_s=seconds, stations={station})
    touches = lab.interventions.filter(started_at__gte=since, started_at__lt=until, user__isnull=False)
    for touch in touches.exclude(kind__in=NO_TOUCH).select_related("user").order_by("started_at"):
        assert touch.user is not None  # only those of a person were asked for
        measured = touch.seconds if touch.kind == "override" else touch.human_s
        seconds = measured if measured is not None else HUMAN_S.get(ACT_OF.get(touch.kind, touch.kind), EXPECTED_S)
        person = operators.setdefault(touch.user.pk, Effort(touch.user.username))
        each = (whole, of_shift(touch.started_at), person)
        add(each, touches=1, human_s=seconds, timed=int(measured is not None), people={touch.user_id})
        add((person,), stations={touch.station_id})
    closed = lab.help_requests.filter(closed_at__gte=since, closed_at__lt=until, closed_by__isnull=False)
    for request in closed.select_related("closed_by"):
        assert request.closed_by is not None and request.closed_at is not None  # these alone were asked for
        person = operators.setdefault(request.closed_by.pk, Effort(request.closed_by.username))
        add((whole, of_shift(request.closed_at), person), saved_robot_s=request.p_failure * request.robot_s)
    return {
        "all": whole,
        "operators": sorted(operators.values(), key=lambda effort: -effort.touches),
        "shifts": [shifts[begin] for begin in sorted(shifts, reverse=True)],
    }


def plans_of(effort: Effort) -> list[Plan]:
    rate, seconds = effort.touches_per_robot_hour, effort.seconds_a_touch
    return [Plan(busy, rate, seconds) for busy in BUSY] if rate is not None and seconds is not None else []

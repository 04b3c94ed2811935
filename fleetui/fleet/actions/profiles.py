"""What a person sets for themselves."""

from django.contrib.auth.models import User

from fleetui.access import Invalid
from fleetui.fleet.models import Profile
from fleetui.fleet.time_zones import zone_names


def set_time_zone(*, user: User, name: str) -> None:
    if name not in zone_names():
        raise Invalid(
            f"{name!r} is no time zone; choose one such as Europe/Berlin.", {"time_zone": "Choose a time zone."}
        )
    Profile.objects.update_or_create(user=user, defaults={"time_zone": name})


def note_time_zone(*, user: User, name: str) -> None:
    """What the browser says of itself when a person is first seen. A zone that they have stays."""
    if name in zone_names():
        Profile.objects.get_or_create(user=user, defaults={"time_zone": name})

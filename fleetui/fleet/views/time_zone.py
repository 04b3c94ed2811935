"""The time zone in which a person sees times."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from fleetui.access import PersonRequest
from fleetui.fleet.actions import profiles
from fleetui.fleet.forms import TimeZoneForm
from fleetui.fleet.views.pages import page


@page
@require_POST
def note_time_zone(request: PersonRequest) -> HttpResponse:
    """What a page's script says of the zone of its browser."""
    profiles.note_time_zone(user=request.user, name=request.POST.get("seen", ""))
    return HttpResponse(status=204)


@page
@require_http_methods(["GET", "POST"])
def time_zone(request: PersonRequest) -> HttpResponse:
    """The zone that one chooses oneself."""
    form = TimeZoneForm(request.POST or None, initial={"time_zone": timezone.get_current_timezone_name()})
    if request.method == "POST" and form.is_valid():
        name = form.cleaned_data["time_zone"]
        profiles.set_time_zone(user=request.user, name=name)
        messages.success(request, f"You see times in {name} now.")
        return redirect("time_zone")
    return render(request, "fleet/time_zone.html", {"form": form}, status=422 if form.errors else 200)

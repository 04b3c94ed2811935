"""The effort page: what supervision cost and saved in a window, and how many stations one person can hold."""

from datetime import timedelta

from django.http import HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_GET

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet.effort import Plan, effort_of, plans_of
from fleetui.fleet.forms import PlanForm
from fleetui.fleet.views.pages import page, render_page

WINDOWS = [(1, "24 hours"), (7, "7 days"), (30, "30 days")]


@page
@require_GET
def effort(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug)
    asked = request.GET.get("days", "")
    window = int(asked) if asked in {str(days) for days, _ in WINDOWS} else 1
    found = effort_of(lab, timezone.now() - timedelta(days=window))
    wanted = any(name in request.GET for name in PlanForm.base_fields)
    rate, seconds = found["all"].touches_per_robot_hour, found["all"].seconds_a_touch
    known = {"touches": round(rate, 2) if rate else 2, "seconds": round(seconds, 1) if seconds else 8, "busy": 50}
    what_if = PlanForm(request.GET if wanted else None, initial=known)
    imagined = None
    if wanted and what_if.is_valid():
        given = what_if.cleaned_data
        imagined = Plan(given["busy"] / 100, given["touches"], given["seconds"])
    return render_page(
        request,
        "fleet/effort.html",
        lab,
        "attention",
        windows=WINDOWS,
        window=window,
        robot_hours=found["all"].robot_s / 3600,
        plans=plans_of(found["all"]),
        what_if=what_if,
        imagined=imagined,
        **found,
    )

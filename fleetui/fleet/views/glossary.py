"""The glossary: what the words and letters on the pages mean."""

from django.http import HttpResponse
from django.views.decorators.http import require_GET

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet.glossary import GROUPS
from fleetui.fleet.views.pages import page, render_page


@page
@require_GET
def glossary(request: PersonRequest, lab_slug: str) -> HttpResponse:
    return render_page(
        request, "fleet/glossary.html", access.get_lab(request.user, lab_slug), "glossary", groups=GROUPS
    )

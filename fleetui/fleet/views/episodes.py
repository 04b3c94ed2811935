"""Episodes with their filters, the replay of one, and the charts of all."""

from uuid import UUID

from django.http import HttpResponse
from django.views.decorators.http import require_GET

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet import selectors
from fleetui.fleet.forms import EpisodeFilterForm
from fleetui.fleet.models import Episode
from fleetui.fleet.views.pages import LongListPaginator, page, render_page

EPISODES_A_PAGE = 50


@page
@require_GET
def episodes(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug)
    form = EpisodeFilterForm(request.GET, lab=lab)
    form.is_valid()  # a filter with an error is named on the page and filters nothing
    rows = selectors.list_episodes(lab, **form.filters())
    found = LongListPaginator(rows, EPISODES_A_PAGE).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    return render_page(
        request,
        "fleet/episodes.html",
        lab,
        "episodes",
        page_obj=found,
        filter_form=form,
        query=query.urlencode() + "&" if query else "",
    )


@page
@require_GET
def episode(request: PersonRequest, lab_slug: str, episode_uuid: UUID) -> HttpResponse:
    found = access.get_row(Episode, request.user, lab_slug, uuid=episode_uuid)
    return render_page(request, "fleet/episode.html", found.lab, "episodes", episode=found)


@page
@require_GET
def charts(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """The Dash page stands in a frame under the site's own head; it checks the lab again by itself."""
    lab = access.get_lab(request.user, lab_slug)
    return render_page(request, "charts/charts.html", lab, "charts")

"""The page of the machines that take runs: which workers live, what they take, and what they do."""

from django.http import HttpResponse
from django.views.decorators.http import require_GET

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet.views.pages import page, render_page
from fleetui.learning import selectors


@page
@require_GET
def machines(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """Workers are the fleet's, whichever lab looks; of other labs' runs only the number is said."""
    lab = access.get_lab(request.user, lab_slug)
    found = selectors.list_machines(lab)
    waiting = [(name, lab.runs.filter(state="queued", queue=name).count()) for name in selectors.NO_WORKER]
    return render_page(
        request,
        "learning/machines.html",
        lab,
        "runs",
        machines=found,
        heard=sum(row["worker"].is_heard for row in found),
        unserved=[
            (selectors.NO_WORKER[name], count) for name, count in waiting if count and not selectors.workers_for(name)
        ],
    )

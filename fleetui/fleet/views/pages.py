"""What every page of a lab has in common: the log-in, no cache, the head, and where a refusal is said."""

from functools import wraps

from django.contrib.auth.decorators import login_required
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from fleetui import access
from fleetui.fleet import actions
from fleetui.fleet.actions.audit import source


def page(view):
    """A page of a lab: behind the log-in, and never taken from a cache, since it shows what is now."""

    @wraps(view)
    def from_a_page(request, *args, **kwargs):
        source.set("page")
        return view(request, *args, **kwargs)

    return never_cache(login_required(from_a_page))


def render_page(request, template, lab, section, status=200, **context):
    """With what base.html needs: the lab, the part of the site, and what the user's role may do here."""
    actions.note_seen(user=request.user, labs=[lab.slug])
    may = {action: access.may(lab.role, action) for action in access.ALLOWED}
    return render(request, template, {"lab": lab, "section": section, "may": may, **context}, status=status)


def number_in(request, field) -> int:
    """The number of a row that a form names; 0, which no row has, where it is none."""
    given = request.POST.get(field, "")
    return int(given) if given.isdecimal() and len(given) < 18 else 0


def add_refusal(form, refused: access.Refused) -> None:
    """Put a refusal's sentences where the form has their fields, and the rest on top."""
    problems = getattr(refused, "problems", {})
    placed = {name: problem for name, problem in problems.items() if name in form.fields}
    for name, problem in placed.items():
        form.add_error(name, problem)
    if not placed or len(placed) < len(problems):
        form.add_error(None, str(refused))

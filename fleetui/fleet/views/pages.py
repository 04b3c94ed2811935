"""What every page of a lab has in common: the log-in, no cache, the head, and where a refusal is said."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet import selectors
from fleetui.fleet.actions import people
from fleetui.fleet.forms import in_words
from fleetui.fleet.models import Lab

View = TypeVar("View", bound=Callable[..., HttpResponseBase])


def page(view: View) -> View:
    """A page of a lab: behind the log-in, and never taken from a cache, since it shows what is now."""
    return never_cache(login_required(view))


def render_page(
    request: PersonRequest, template: str, lab: Lab, section: str, status: int = 200, **context: Any
) -> HttpResponse:
    """With what base.html needs: the lab, the part of the site, and what the user's role may do here."""
    people.note_seen(user=request.user, labs=[lab.slug])
    # Counted only where the navigation is drawn; a part of a page has none.
    context |= {"problems": list_problems(context), "help_count": partial(selectors.count_help, lab)}
    may = {action: access.may(lab.role, action) for action in access.ALLOWED}
    return render(request, template, {"lab": lab, "section": section, "may": may, **context}, status=status)


class LongListPaginator(Paginator):  # type: ignore[type-arg]  # a class of its own at run time takes none
    """Finds a page of a long list as `rows_between` does, and counts the list once."""

    object_list: QuerySet[Any]

    def page(self, number: int | str) -> "Page[Any]":
        number = self.validate_number(number)
        start = (number - 1) * self.per_page
        return Page(selectors.rows_between(self.object_list, start, start + self.per_page), number, self)


def row_number(given: str) -> int:
    """The number of a row that an address or a form names; 0, which no row has, where it is none."""
    return int(given) if given.isdecimal() and len(given) < 18 else 0


@contextmanager
def saying_refusals(request: HttpRequest) -> Iterator[None]:
    """Where the act within is refused, the page that follows says why; who may not do it gets a page that says so."""
    try:
        yield
    except (access.Denied, access.NotFound):
        raise
    except access.Refused as refused:
        messages.error(request, str(refused))


def add_refusal(form: BaseForm, refused: access.Refused) -> None:
    """Put a refusal's sentences where the form has their fields, and the rest on top."""
    problems = getattr(refused, "problems", {})
    placed = {name: problem for name, problem in problems.items() if name in form.fields}
    for name, problem in placed.items():
        form.add_error(name, in_words(form, problem))
    if not placed or len(placed) < len(problems):
        form.add_error(None, in_words(form, str(refused)))


def list_problems(context: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(id of the field, its label, what is wrong) of every form of the page that was sent with errors: said on top,
    since the field itself may be far down. What concerns no field has neither id nor label.
    """
    problems: list[tuple[str, str, str]] = []
    for form in context.values():
        if isinstance(form, BaseForm) and form.is_bound:
            problems += [("", "", str(error)) for error in form.non_field_errors()]
            problems += [(field.auto_id, str(field.label), str(error)) for field in form for error in field.errors]
    return problems

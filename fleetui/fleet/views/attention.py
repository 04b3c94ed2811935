"""The attention page: what is open and who is on it, what was, and who elsewhere is told. Each of its forms has an
address of its own.
"""

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.answers import JsonAnswer
from fleetui.fleet import jobs, selectors
from fleetui.fleet.actions import alarms
from fleetui.fleet.actions import attention as attention_actions
from fleetui.fleet.forms import ContactForm
from fleetui.fleet.models import Alarm, Contact, HelpRequest, Lab
from fleetui.fleet.views.pages import add_refusal, page, render_page, saying_refusals

CLOSED_A_PAGE = 30


@page
@require_GET
def attention(request: PersonRequest, lab_slug: str) -> HttpResponse:
    return render_attention(request, access.get_lab(request.user, lab_slug), ContactForm())


def render_attention(request: PersonRequest, lab: Lab, form: ContactForm) -> HttpResponse:
    closed = selectors.list_help(lab).exclude(closed_at=None)
    open_requests = list(selectors.list_help(lab, open_only=True))
    asked = request.GET.get("close", "")
    return render_page(
        request,
        "fleet/attention.html",
        lab,
        "attention",
        422 if form.errors else 200,
        open_requests=open_requests,
        closing=next((row for row in open_requests if str(row.pk) == asked), None),
        page_obj=Paginator(closed, CLOSED_A_PAGE).get_page(request.GET.get("page")),
        alarms=selectors.list_alarms(lab),
        contacts=lab.contacts.all(),
        form=form,
    )


@page
@require_GET
def help_count(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """What the navigation of every page shows."""
    return JsonAnswer({"open": selectors.count_help(access.get_lab(request.user, lab_slug))})


# Help requests


@page
@require_POST
def acknowledge_help(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    found = access.get_row(HelpRequest, request.user, lab_slug, "help", pk=number)
    with saying_refusals(request):
        attention_actions.acknowledge_help(request=found, user=request.user, source="page")
        messages.success(request, f"{found.station}: seen.")
    return redirect("attention", lab_slug)


@page
@require_POST
def take_help(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    found = access.get_row(HelpRequest, request.user, lab_slug, "help", pk=number)
    with saying_refusals(request):
        attention_actions.take_help(request=found, user=request.user, source="page")
        messages.success(request, f"{found.station} is yours.")
    return redirect("attention", lab_slug)


@page
@require_POST
def release_help(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    found = access.get_row(HelpRequest, request.user, lab_slug, "help", pk=number)
    with saying_refusals(request):
        attention_actions.release_help(request=found, user=request.user, source="page")
        messages.success(request, f"{found.station} can be taken by others again.")
    return redirect("attention", lab_slug)


@page
@require_POST
def close_help(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    found = access.get_row(HelpRequest, request.user, lab_slug, "help", pk=number)
    outcome = request.POST.get("outcome", "")
    with saying_refusals(request):
        attention_actions.close_help(request=found, user=request.user, outcome=outcome, source="page")
        messages.success(request, f"{found.station}: closed.")
    return redirect("attention", lab_slug)


@page
@require_POST
def close_alarm(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    found = access.get_row(Alarm, request.user, lab_slug, "help", pk=number)
    outcome = request.POST.get("outcome", "")
    with saying_refusals(request):
        alarms.close_alarm(alarm=found, user=request.user, outcome=outcome, source="page")
        messages.success(request, f"The alarm of {found.station} is closed.")
    return redirect("attention", lab_slug)


# People elsewhere


@page
@require_POST
def add_contact(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug, "add_contact")
    form = ContactForm(request.POST)
    if form.is_valid():
        try:
            made = attention_actions.add_contact(lab=lab, user=request.user, **form.cleaned_data, source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{made} will get messages about help requests.")
            return redirect("attention", lab_slug)
    return render_attention(request, lab, form)


@page
@require_POST
def remove_contact(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    contact = access.get_row(Contact, request.user, lab_slug, "add_contact", pk=number)
    attention_actions.remove_contact(contact=contact, user=request.user, source="page")
    messages.success(request, f"{contact} gets no more messages.")
    return redirect("attention", lab_slug)


@page
@require_POST
def try_contact(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    contact = access.get_row(Contact, request.user, lab_slug, "add_contact", pk=number)
    if jobs.write_to(contact, f"{contact.lab}: a test", "This is a test. A help request would reach you in this way."):
        messages.success(request, f"{contact} was sent a test; see whether it arrived.")
    else:
        contact.refresh_from_db()
        messages.error(request, f"{contact}: {contact.error}")
    return redirect("attention", lab_slug)

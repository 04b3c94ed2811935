"""The attention page: what is open and who is on it, what was, and who elsewhere is told."""

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_http_methods

from fleetui import access
from fleetui.answers import JsonAnswer
from fleetui.fleet import jobs, selectors
from fleetui.fleet.actions import attention as attention_actions
from fleetui.fleet.forms import ContactForm
from fleetui.fleet.models import Contact, HelpRequest
from fleetui.fleet.views.pages import add_refusal, number_in, page, render_page

CLOSED_A_PAGE = 30


@page
@require_http_methods(["GET", "POST"])
def attention(request, lab_slug):
    lab = access.get_lab(request.user, lab_slug)
    act = request.POST.get("act", "")
    form = ContactForm(request.POST if act == "add" else None)
    if request.method == "POST":
        said = change_attention(request, lab, act, form)
        if said:
            messages.success(request, said)
        if said or not form.errors:
            return redirect("attention", lab_slug)
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
        contacts=lab.contacts.all(),
        form=form,
    )


@page
@require_GET
def help_count(request, lab_slug):
    """What the navigation of every page shows."""
    return JsonAnswer({"open": selectors.count_help(access.get_lab(request.user, lab_slug))})


def change_attention(request, lab, act, form) -> str:
    """Do what one of the page's forms asks; returns what was done, or "" where something was refused."""
    user, slug = request.user, lab.slug
    try:
        if act == "add":
            access.get_lab(user, slug, "add_contact")
            if not form.is_valid():
                return ""
            made = attention_actions.add_contact(lab=lab, user=user, **form.cleaned_data, source="page")
            return f"{made} will get messages about help requests."
        number = number_in(request, "number")
        if act in ("remove", "try"):
            contact = access.get_row(Contact, user, slug, "add_contact", pk=number)
            if act == "remove":
                attention_actions.remove_contact(contact=contact, user=user, source="page")
                return f"{contact} gets no more messages."
            if jobs.write_to(contact, f"{lab}: a test", "This is a test. A help request would reach you in this way."):
                return f"{contact} was sent a test; see whether it arrived."
            contact.refresh_from_db()
            messages.error(request, f"{contact}: {contact.error}")
            return ""
        found = access.get_row(HelpRequest, user, slug, "help", pk=number)
        if act == "acknowledge":
            attention_actions.acknowledge_help(request=found, user=user, source="page")
            return f"{found.station}: seen."
        if act == "take":
            attention_actions.take_help(request=found, user=user, source="page")
            return f"{found.station} is yours."
        if act == "release":
            attention_actions.release_help(request=found, user=user, source="page")
            return f"{found.station} can be taken by others again."
        if act == "close":
            attention_actions.close_help(
                request=found, user=user, outcome=request.POST.get("outcome", ""), source="page"
            )
            return f"{found.station}: closed."
    except (access.Denied, access.NotFound):
        raise
    except access.Refused as refused:
        if act == "add":
            add_refusal(form, refused)
        else:
            messages.error(request, str(refused))
        return ""
    raise Http404("This page has no such form.")

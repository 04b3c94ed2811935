"""The people of a lab: roles, invitations, and the page that an invitation's link opens."""

from typing import Any

from django.contrib import messages
from django.contrib.auth import login
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet import selectors
from fleetui.fleet.actions import people as people_actions
from fleetui.fleet.actions.people import why_closed
from fleetui.fleet.forms import AccountForm, InviteForm
from fleetui.fleet.models import ROLES, Invitation, Lab, Membership
from fleetui.fleet.views.pages import page, render_page, saying_refusals
from fleetui.headers import client_address


@page
@require_GET
def people(request: PersonRequest, lab_slug: str) -> HttpResponse:
    return render_people(request, access.get_lab(request.user, lab_slug, "manage_people"), InviteForm())


def render_people(request: PersonRequest, lab: Lab, form: InviteForm, **shown_once: Any) -> HttpResponse:
    return render_page(
        request,
        "fleet/people.html",
        lab,
        "people",
        422 if form.errors else 200,
        members=selectors.list_members(lab),
        invitations=selectors.list_open_invitations(lab),
        roles=ROLES,
        allowed=roles_table(),
        form=form,
        **shown_once,
    )


@page
@require_POST
def invite_member(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """The answer shows the invitation's link, this once."""
    lab = access.get_lab(request.user, lab_slug, "manage_people")
    form = InviteForm(request.POST)
    if not form.is_valid():
        return render_people(request, lab, form)
    made, token = people_actions.invite_member(lab=lab, user=request.user, **form.cleaned_data, source="page")
    link = request.build_absolute_uri(reverse("invitation", args=[token]))
    return render_people(request, lab, InviteForm(), made=made, link=link)


@page
@require_POST
def revoke_invitation(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    found = access.get_row(Invitation, request.user, lab_slug, "manage_people", pk=number)
    with saying_refusals(request):
        people_actions.revoke_invitation(invitation=found, user=request.user, source="page")
        messages.success(request, "The invitation is revoked. Its link does not work any more.")
    return redirect("people", lab_slug)


@page
@require_POST
def change_role(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    member = access.get_row(Membership, request.user, lab_slug, "manage_people", pk=number)
    role = request.POST.get("role", "")
    with saying_refusals(request):
        people_actions.change_role(member=member, role=role, user=request.user, source="page")
        messages.success(request, f"{member.user} is {role} now.")
    return redirect("people", lab_slug)


@page
@require_POST
def remove_member(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    member = access.get_row(Membership, request.user, lab_slug, "manage_people", pk=number)
    with saying_refusals(request):
        people_actions.remove_member(member=member, user=request.user, source="page")
        messages.success(request, f"{member.user} is no member of {member.lab.name} any more.")
    return redirect("people", lab_slug)


@page
@require_POST
def reset_password(request: PersonRequest, lab_slug: str, number: int) -> HttpResponse:
    """The answer shows the member's new password, this once."""
    member = access.get_row(Membership, request.user, lab_slug, "manage_people", pk=number)
    with saying_refusals(request):
        password = people_actions.reset_password(member=member, user=request.user, source="page")
        return render_people(request, member.lab, InviteForm(), reset=member, password=password)
    return redirect("people", lab_slug)


def roles_table() -> list[dict[str, Any]]:
    """What each role may do, from the very table that decides it."""
    words = {"see": "see everything in the lab"} | access.SAID
    return [
        {"words": words[action], "roles": [role in allowed for role in ROLES]}
        for action, allowed in access.ALLOWED.items()
    ]


@never_cache
@require_http_methods(["GET", "POST"])
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """Where an invitation's link leads: sign in or make an account, then join."""
    found = access.get_invitation_by_token(Invitation, token)
    closed, user = why_closed(found), request.user
    form = AccountForm(request.POST if request.method == "POST" and not user.is_authenticated else None)
    if request.method == "POST" and not closed:
        try:
            with transaction.atomic():
                if user.is_authenticated:
                    joined = user
                elif form.is_valid():
                    joined = form.save()
                else:
                    joined = None
                if joined is not None:
                    people_actions.accept_invitation(invitation=found, user=joined, source="page")
        except access.Refused as refused:
            closed = str(refused)
        except IntegrityError:  # someone took the name between the check and the write
            form.add_error("username", "A user with that name exists already; choose another one.")
        else:
            if joined is not None:
                if not user.is_authenticated:
                    login(request, joined, backend="django.contrib.auth.backends.ModelBackend")
                    people_actions.record_account(
                        user=joined, kind="logged_in", address=client_address(request), source="page"
                    )
                messages.success(request, f"Welcome to {found.lab.name}: you are {found.role} here.")
                return redirect("wall", found.lab.slug)
    may = [access.SAID[action] for action in access.SAID if access.may(found.role, action)]
    status = 410 if closed else 422 if form.errors else 200
    context = {"invitation": found, "closed": closed, "form": form, "may_do": may}
    return render(request, "fleet/invitation.html", context, status=status)

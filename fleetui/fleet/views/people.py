"""The people of a lab: roles, invitations, and the page that an invitation's link opens."""

from django.contrib import messages
from django.contrib.auth import login
from django.db import IntegrityError, transaction
from django.http import Http404
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from fleetui import access
from fleetui.fleet import selectors
from fleetui.fleet.actions import people as people_actions
from fleetui.fleet.actions.people import why_closed
from fleetui.fleet.forms import AccountForm, InviteForm
from fleetui.fleet.models import ROLES, Invitation, Membership
from fleetui.fleet.views.pages import number_in, page, render_page
from fleetui.headers import client_address


@page
@require_http_methods(["GET", "POST"])
def people(request, lab_slug):
    lab = access.get_lab(request.user, lab_slug, "manage_people")
    act = request.POST.get("act", "")
    form = InviteForm(request.POST if act == "invite" else None)
    link, made, reset, password = "", None, None, ""
    if request.method == "POST" and act == "invite":
        if form.is_valid():
            made, token = people_actions.invite_member(lab=lab, user=request.user, **form.cleaned_data, source="page")
            link = request.build_absolute_uri(reverse("invitation", args=[token]))
            form = InviteForm()
    elif request.method == "POST" and act == "reset" and (reset := named_member(request, lab)):
        try:
            password = people_actions.reset_password(member=reset, user=request.user, source="page")
        except access.Conflict as refused:
            messages.error(request, str(refused))
            return redirect("people", lab_slug)
    elif request.method == "POST":
        try:
            messages.success(request, change_people(request, lab, act))
        except (access.Denied, access.NotFound):
            raise
        except access.Refused as refused:
            messages.error(request, str(refused))
        return redirect("people", lab_slug)
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
        link=link,
        made=made,
        reset=reset,
        password=password,
    )


def change_people(request, lab, act) -> str:
    """Do what one of the page's small forms asks; returns what was done."""
    if act in ("role", "remove"):
        member = named_member(request, lab)
        if act == "remove":
            people_actions.remove_member(member=member, user=request.user, source="page")
            return f"{member.user} is no member of {lab.name} any more."
        role = request.POST.get("role", "")
        people_actions.change_role(member=member, role=role, user=request.user, source="page")
        return f"{member.user} is {role} now."
    if act == "revoke":
        invitation = access.get_row(
            Invitation, request.user, lab.slug, "manage_people", pk=number_in(request, "invitation")
        )
        people_actions.revoke_invitation(invitation=invitation, user=request.user, source="page")
        return "The invitation is revoked. Its link does not work any more."
    raise Http404("This page has no such form.")


def named_member(request, lab):
    return access.get_row(Membership, request.user, lab.slug, "manage_people", pk=number_in(request, "member"))


def roles_table() -> list[dict]:
    """What each role may do, from the very table that decides it."""
    said = {"see": "see everything in the lab"} | access.SAID
    return [
        {"words": said[action], "roles": [role in allowed for role in ROLES]}
        for action, allowed in access.ALLOWED.items()
    ]


@never_cache
@require_http_methods(["GET", "POST"])
def invitation(request, token):
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

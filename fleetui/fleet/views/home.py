"""The first pages: log in and out, one's own password, the way to the lab, and Ctrl+K."""

from typing import Any

from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.contrib.auth.views import LoginView, LogoutView
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.answers import JsonAnswer
from fleetui.fleet.actions import people
from fleetui.fleet.jump import jump_targets
from fleetui.fleet.views.pages import page
from fleetui.headers import client_address


class CountedRequest(HttpRequest):
    """The type of a request in which django-axes has counted a failure to log in."""

    axes_locked_out: bool


class LogIn(LoginView):
    request: CountedRequest
    template_name = "login.html"
    redirect_authenticated_user = True

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        answer = super().form_valid(form)
        people.record_account(
            user=form.get_user(), kind="logged_in", address=client_address(self.request), source="page"
        )
        return answer

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        """django-axes has counted it by now; while it keeps the name out, tries are no longer counted."""
        name, counted = form.cleaned_data.get("username"), getattr(self.request, "axes_failures_since_start", None)
        if name and counted is not None:
            locks = self.request.axes_locked_out
            people.record_failed_log_in(name=name, address=client_address(self.request), locks=locks, source="page")
        return super().form_invalid(form)


class LogOut(LogoutView):
    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.user.is_authenticated:
            people.record_account(user=request.user, kind="logged_out", address=client_address(request), source="page")
        access.forget_person(request.session.session_key or "")
        return super().post(request, *args, **kwargs)


@page
@require_http_methods(["GET", "POST"])
def password(request: PersonRequest) -> HttpResponse:
    """One's own password. This session stays; all others of this person end."""
    form = PasswordChangeForm(request.user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        people.change_password(user=request.user, password=form.cleaned_data["new_password1"], source="page")
        update_session_auth_hash(request, request.user)
        messages.success(request, "Your password is changed. You are logged out everywhere else.")
        return redirect("home")
    return render(request, "password.html", {"form": form}, status=422 if form.errors else 200)


@page
@require_GET
def home(request: PersonRequest) -> HttpResponse:
    labs = access.get_labs(request.user)
    if not labs:
        raise PermissionDenied("You are not a member of a lab yet. Ask the manager of a lab to invite you.")
    return redirect("wall", labs[0].slug)


@page
@require_GET
def jump(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug)
    return JsonAnswer({"results": jump_targets(lab, request.GET.get("q", "").strip()[:100])})

"""One's own access tokens: those that there are, a new one, and the end of one."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet import selectors
from fleetui.fleet.actions import tokens
from fleetui.fleet.forms import AccessTokenForm
from fleetui.fleet.models import AccessToken
from fleetui.fleet.views.pages import add_refusal, list_problems, page, saying_refusals


@page
@require_GET
def access_tokens(request: PersonRequest) -> HttpResponse:
    return render_tokens(request, AccessTokenForm(labs=access.get_labs(request.user)))


def render_tokens(
    request: PersonRequest, form: AccessTokenForm, made: AccessToken | None = None, token: str = ""
) -> HttpResponse:
    mine = selectors.list_access_tokens(request.user)
    context = {"form": form, "tokens": mine, "made": made, "token": token, "soon": timezone.now() + selectors.SOON}
    context["problems"] = list_problems(context)
    return render(request, "fleet/access_tokens.html", context, status=422 if form.errors else 200)


@page
@require_POST
def make_access_token(request: PersonRequest) -> HttpResponse:
    """The answer shows the token, this once."""
    form = AccessTokenForm(request.POST, labs=access.get_labs(request.user))
    if form.is_valid():
        given = form.cleaned_data
        try:
            lab = access.get_lab(request.user, given["lab"]) if given["lab"] else None
            made, token = tokens.make_access_token(user=request.user, **given | {"lab": lab}, source="page")
        except (access.Conflict, access.Invalid) as refused:
            add_refusal(form, refused)
        else:
            return render_tokens(request, AccessTokenForm(labs=access.get_labs(request.user)), made, token)
    return render_tokens(request, form)


@page
@require_POST
def revoke_access_token(request: PersonRequest, number: int) -> HttpResponse:
    found = access.get_own_token(AccessToken, request.user, number)
    with saying_refusals(request):
        tokens.revoke_access_token(token=found, user=request.user, source="page")
        messages.success(request, f"The access token “{found}” is revoked: it opens nothing any more.")
    return redirect("access_tokens")

"""Who may call: people by the session of their browser, with a CSRF token, or their programs by an access token.

Each call says in its `auth` what an access token must have been made for: READ, LAUNCH, DATA, STATIONS, or ANY token;
PAGES says that none will do. A token opens no more than its owner's role does, since every call goes on with the owner.
A request that shows a token is let in by it or not at all, whatever cookies it has.
"""

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja.security import HttpBearer, SessionAuth

from fleetui import access
from fleetui.fleet.actions import stops, tokens
from fleetui.fleet.models import SCOPES, AccessToken
from fleetui.fleet.time_zones import zone_named


class AccessTokenAuth(HttpBearer):
    """The scope that a call takes; "": any token will do, None: no token will."""

    def __init__(self, scope: str | None) -> None:
        super().__init__()
        self.scope = scope

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        prefix = access.token_prefix(token)
        tokens.refuse_guesser(prefix=prefix, request=request)
        try:
            found = access.get_access_token(AccessToken, token)
        except access.Unauthenticated as refused:
            if not refused.is_known:
                tokens.record_wrong_token(prefix=prefix, request=request)
            raise
        self.check(request, found)
        tokens.note_token_used(token=found)
        request.user = user = found.user
        profile = getattr(user, "profile", None)
        timezone.activate(zone_named(profile.time_zone if profile else "UTC"))  # until the middleware's own ends
        return user

    def check(self, request: HttpRequest, token: AccessToken) -> None:
        """Refuse where the token is not meant for this. Its owner bears its name from here on, for the audit log."""
        if self.scope is None:
            raise access.MissingScope("No access token may do this: it is done by a person, on the pages.")
        if self.scope and self.scope not in token.scopes:
            has = " and ".join(token.scopes)
            raise access.MissingScope(
                f"The access token “{token}” was made for {has}; this takes one made for {self.scope}: to "
                f"{SCOPES[self.scope]}."
            )
        match = request.resolver_match
        lab = match.kwargs.get("lab") if match else None
        if token.lab is not None and lab not in (None, token.lab.slug):
            raise access.NotFound(f"The access token “{token}” is of the lab {token.lab.slug} alone, not of {lab!r}.")
        access.note_token(token.user, token)


class StopTokenAuth(AccessTokenAuth):
    """A stop must not wait for the database to say who gives it, and no guesser holds it up."""

    def authenticate(self, request: HttpRequest, token: str) -> access.Known:
        known = stops.get_stopper(f"token {access.hash_token(token)}", lambda key: read_known(key, token))
        row = access.token_of(known.user) if known else None
        if known is None or row is None or row.is_over:
            raise access.Unauthenticated("This access token opens nothing. Give the stop on a page that is open.")
        self.check(request, row)
        return known


def read_known(key: str, token: str) -> access.Known | None:
    """Asked of the database, and remembered for a while in which it may be away."""
    try:
        found = access.get_access_token(AccessToken, token)
    except access.Unauthenticated:
        access.forget_person(key)
        return None
    access.note_token(found.user, found)
    access.remember_person(key, found.user, access.get_roles(found.user))
    return access.get_known(key)


class StopSession(SessionAuth):
    """The same by a page's session."""

    def authenticate(self, request: HttpRequest, key: str | None) -> access.Known | None:
        return stops.get_stopper(key or "")


SESSION = SessionAuth(csrf=True)
READ, LAUNCH, DATA, STATIONS = ([AccessTokenAuth(scope), SESSION] for scope in SCOPES)
ANY, PAGES = [AccessTokenAuth(""), SESSION], [AccessTokenAuth(None), SESSION]
STOP = [StopTokenAuth("stations"), StopSession(csrf=True)]

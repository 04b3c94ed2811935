"""Access tokens: a person makes them for programs and revokes them; what is known of their use, and of guesses; and a
call that a program says twice is done once.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from axes.handlers.proxy import AxesProxyHandler
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid, TooManyTries
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.models import SCOPES, AccessToken, AnsweredCall, Lab
from fleetui.fleet.names import checked_name
from fleetui.headers import client_address

USED_EVERY = timedelta(minutes=1)
MOST_TOKENS = 100  # in use, of one person
LONGEST_KEY = 80


@transaction.atomic
def make_access_token(
    *, user: User, name: str, scopes: Sequence[str], lab: Lab | None, days: int, source: str = "server"
) -> tuple[AccessToken, str]:
    """One's own, for one lab that one is a member of or for all. Returns the row and the token, which is shown this
    once: only its hash is kept.
    """
    if lab is not None:
        access.check(user, lab, "see")
    name = checked_name(name, "access token")
    problems = {}
    if not scopes or any(scope not in SCOPES for scope in scopes):
        problems["scopes"] = f"Choose what it may do, among {', '.join(SCOPES)}."
    if not 1 <= days <= AccessToken.MOST_DAYS:
        problems["days"] = f"It must expire within 1 to {AccessToken.MOST_DAYS} days."
    if problems:
        raise Invalid(" ".join(problems.values()), problems)
    User.objects.select_for_update().get(pk=user.pk)  # two new tokens must not get one name
    now = timezone.now()
    mine = AccessToken.objects.filter(user=user, revoked_at=None, expires_at__gt=now)
    if mine.filter(name=name).exists():
        raise Conflict(f"You already have an access token named {name}; choose another name, or revoke that one.")
    if mine.count() >= MOST_TOKENS:
        raise Conflict(f"You have {MOST_TOKENS} access tokens in use; revoke one first.")
    prefix = secrets.token_hex(4)
    token = f"{access.TOKEN_START}_{prefix}_{secrets.token_urlsafe(32)}"
    made = AccessToken.objects.create(
        user=user,
        lab=lab,
        name=name,
        scopes=[scope for scope in SCOPES if scope in scopes],
        prefix=prefix,
        token_hash=access.hash_token(token),
        created_at=now,
        expires_at=now + timedelta(days=days),
    )
    _record(made, "access_token_made", user, source, scopes=made.scopes, days=days)
    return made, token


@transaction.atomic
def revoke_access_token(*, token: AccessToken, user: User, source: str = "server") -> None:
    """One's own: from the next call on it opens nothing."""
    if token.user_id != user.pk:
        raise access.NotFound(f"You have no access token {token.pk}.")
    if not AccessToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
        raise Conflict(f"The access token “{token}” is revoked already.")
    _record(token, "access_token_revoked", user, source)


def _record(token: AccessToken, kind: str, by: User | None, source: str, **details: Any) -> None:
    """In the log of its lab; a token of all labs is in the log of each of its owner's."""
    labs = [token.lab] if token.lab else Lab.objects.filter(memberships__user=token.user) or [None]
    for lab in labs:
        told = {"token": token.name, "prefix": token.prefix, **details}
        record_act(lab=lab, kind=kind, user=by, details=told, source=source)


def note_token_used(*, token: AccessToken) -> None:
    """Its owner's page says when it was last used; to the minute is enough."""
    now = timezone.now()
    late = Q(last_used_at=None) | Q(last_used_at__lt=now - USED_EVERY)
    if token.last_used_at is None or token.last_used_at < now - USED_EVERY:
        AccessToken.objects.filter(late, pk=token.pk).update(last_used_at=now)


# Guesses. They are counted as those at the log-in are: by the name, which is the token's prefix here, and the address.
# No user has such a name, for it has a space.


def refuse_guesser(*, prefix: str, request: HttpRequest) -> None:
    """Raise TooManyTries while the address guesses at this token."""
    if not AxesProxyHandler.is_allowed(request, {"username": f"token {prefix}"}):
        _answer_ourselves(request)
        raise TooManyTries("Too many wrong access tokens came from your address. Wait ten minutes, then try again.")


def record_wrong_token(*, prefix: str, request: HttpRequest) -> None:
    """A token of this prefix had another secret; "": it was no access token at all. The tenth in a row is in the log of
    the token's owner.
    """
    AxesProxyHandler.user_login_failed("access token", {"username": f"token {prefix}"}, request)
    locks = request.axes_locked_out  # type: ignore[attr-defined]  # django-axes puts it there
    _answer_ourselves(request)
    meant = AccessToken.objects.select_related("user", "lab").filter(prefix=prefix).first() if locks else None
    if meant is not None:
        _record(meant, "access_token_refused", None, "API", address=client_address(request), owner=meant.user.username)


def _answer_ourselves(request: HttpRequest) -> None:
    """Else the middleware of django-axes would answer with the page of the log-in."""
    request.axes_locked_out = False  # type: ignore[attr-defined]


# Calls that are said twice


def do_once(*, user: User, key: str, call: bytes, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer of `act`, or, where this key has done it before, the answer of then. `call` says all that was asked.

    The key is written in the transaction of the act. So a second call that comes at the same time waits for the first,
    and what was refused or failed may be said again.
    """
    if not 8 <= len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise Invalid(f"Idempotency-Key must be 8 to {LONGEST_KEY} plain characters, a new one for each act.")
    asked = hashlib.sha256(call).hexdigest()
    known = AnsweredCall.objects.filter(user=user)
    known.filter(at__lt=timezone.now() - AnsweredCall.KEPT_FOR).delete()
    try:
        with transaction.atomic():
            row = AnsweredCall.objects.create(user=user, key=key, call=asked)
            answer = act()
            AnsweredCall.objects.filter(pk=row.pk).update(answer=answer)
            return answer
    except IntegrityError:
        before = known.filter(key=key).first()
        if before is None:  # it was the act's own
            raise
    if before.call != asked:
        raise Conflict("This Idempotency-Key was used for another call; give each act a key of its own.")
    return dict(before.answer or {})

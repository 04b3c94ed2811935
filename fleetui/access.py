"""Who may do what: the only door to objects. Pages, API and sockets fetch through here and never by Model.objects.

The door knows no model: whoever asks brings the model of the row, and the user's own memberships say the role. Another
lab's object is not found, whoever asks; a missing role is denied with a sentence that names the role. The refusals
below are the one hierarchy of errors that a user can cause: pages show the sentence, the API adds `status` and `code`.
"""

import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar
from uuid import UUID

from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import PermissionDenied
from django.db.models import Manager, Model
from django.db.models.options import Options
from django.http import Http404, HttpRequest
from django.utils import timezone

if TYPE_CHECKING:  # the door itself knows no model; who comes through it wants to know what it got
    from fleetui.fleet.models import AccessToken, Invitation, Lab, Station

Row = TypeVar("Row", bound=Model)
Anyone = User | AnonymousUser  # who sent a request, logged in or not


class OfLab(Protocol):
    """A row of any model whose rows belong to a lab."""

    lab: Any
    _meta: "ClassVar[Options[Any]]"
    _default_manager: ClassVar[Manager[Any]]


LabRow = TypeVar("LabRow", bound=OfLab)

EVERYONE = {"viewer", "supervisor", "researcher", "manager"}
ALLOWED: dict[str, set[str]] = {
    "see": EVERYONE,
    "command": {"supervisor", "manager"},  # act on stations
    "help": {"supervisor", "manager"},  # acknowledge, take and close help requests
    "add_contact": {"manager"},
    "label_episode": {"supervisor", "manager"},  # say whether it was a true success
    "add_correction": {"supervisor", "researcher", "manager"},
    "generate_dataset": {"researcher", "manager"},
    "upload_dataset": {"researcher", "manager"},  # or import one
    "edit_dataset": {"researcher", "manager"},  # make versions of one, or one of stored episodes
    "export_dataset": {"supervisor", "researcher", "manager"},
    "add_model": {"researcher", "manager"},  # a pretrained one
    "archive_model": {"researcher", "manager"},
    "launch_run": {"researcher", "manager"},
    "control_run": {"researcher", "manager"},  # cancel, pause, resume
    "promote_checkpoint": {"researcher", "manager"},  # and publish a threshold, and go back
    "compare_checkpoints": {"researcher", "manager"},
    "create_task": {"manager"},
    "edit_task": {"manager"},  # and archive or restore it
    "assign": {"manager"},
    "create_station": {"manager"},
    "maintain": {"supervisor", "manager"},  # take a station out of practice and bring it back
    "archive_station": {"manager"},  # archive, bring back, delete; so below
    "archive_dataset": {"researcher", "manager"},
    "archive_run": {"researcher", "manager"},
    "note_run": {"supervisor", "researcher", "manager"},  # tags and notes
    "keep_view": {"supervisor", "researcher", "manager"},  # of the page of runs, for the whole lab
    "renew_token": {"manager"},
    "manage_people": {"manager"},
    "see_audit": {"supervisor", "manager"},
}
SAID = {
    "help": "take, mark and close help requests",
    "add_contact": "say who is told of help requests",
    "command": "act on stations",
    "label_episode": "mark episodes as true successes or failures",
    "add_correction": "add corrections to a dataset",
    "generate_dataset": "generate datasets",
    "upload_dataset": "upload or import datasets",
    "edit_dataset": "edit, split, merge or make datasets",
    "export_dataset": "export datasets",
    "add_model": "add pretrained models",
    "archive_model": "archive or delete pretrained models",
    "launch_run": "launch runs",
    "control_run": "cancel, pause or resume runs",
    "promote_checkpoint": "promote checkpoints and publish thresholds",
    "compare_checkpoints": "evaluate and compare checkpoints",
    "create_task": "make tasks",
    "edit_task": "edit, archive or restore tasks",
    "assign": "assign tasks to stations",
    "create_station": "add stations",
    "maintain": "put stations in maintenance",
    "archive_station": "archive or delete stations",
    "archive_dataset": "archive or delete datasets",
    "archive_run": "archive or delete runs",
    "note_run": "tag runs or write notes on them",
    "keep_view": "save, rename or delete views of the runs",
    "renew_token": "renew a station's token",
    "manage_people": "invite people, change roles, reset passwords or remove members",
    "see_audit": "read the audit log",
}


class Refused(Exception):
    """Something a user asked for can't be done; the text says what is wrong and what to do."""

    status = 400
    code = "refused"


class Unauthenticated(Refused):
    """What was shown to say who asks is wrong, or, where it `is_known`, good no longer."""

    status = 401
    code = "unauthenticated"

    def __init__(self, sentence: str, is_known: bool = False):
        super().__init__(sentence)
        self.is_known = is_known


class TooManyTries(Refused):
    """Somebody guesses: even what is right has to wait."""

    status = 429
    code = "too_many_tries"


class NotFound(Refused, Http404):
    """The object does not exist, or belongs to a lab that the user is no member of."""

    status = 404
    code = "not_found"


class Denied(Refused, PermissionDenied):
    """The user's role in this lab does not allow this."""

    status = 403
    code = "denied"


class MissingScope(Refused):
    """The access token was not made for this, whatever its owner may do."""

    status = 403
    code = "missing_scope"


class Conflict(Refused):
    """The object is not in a state that allows this."""

    status = 409
    code = "conflict"


class TooLarge(Refused):
    """More was sent than is taken at once."""

    status = 413
    code = "too_large"


class Invalid(Refused):
    """A value can't be accepted; `problems` maps fields to sentences where there are fields."""

    status = 422
    code = "invalid"

    def __init__(self, sentence: str, problems: dict[str, str] | None = None):
        super().__init__(sentence)
        self.problems = problems or {}


def may(role: str, action: str) -> bool:
    return role in ALLOWED[action]


class PersonRequest(HttpRequest):
    """The type of a request whose sender is logged in: login_required or the API's own check has seen to that."""

    user: User


# People whose log-in and roles were read a moment ago: a stop needs no database to know who gives it.

KNOWN_FOR_S = 600.0  # as long as the database can't be asked


@dataclass
class Known:
    """Who has a session, and the roles, as the database said at `read_at` (monotonic)."""

    user: User
    roles: dict[str, str]  # the lab's slug -> role
    read_at: float
    pages: int = 0  # live sockets that are open with this session; each closes when its log-in or its role has ended


_known: dict[str, Known] = {}  # by the session's key


def remember_person(session_key: str, user: User, roles: dict[str, str]) -> None:
    """Called by the live sockets (live/viewers.py) each time the database has confirmed the log-in."""
    now = time.monotonic()
    known = _known.setdefault(session_key, Known(user, roles, now))
    known.user, known.roles, known.read_at = user, roles, now
    for key, each in list(_known.items()):
        if not each.pages and now - each.read_at > KNOWN_FOR_S:
            _known.pop(key, None)


def count_page(session_key: str, change: int) -> None:
    """A live socket of the session opened (1) or closed (-1)."""
    if (known := _known.get(session_key)) is not None:
        known.pages += change


def forget_person(session_key: str) -> None:
    _known.pop(session_key, None)


def get_known(session_key: str) -> Known | None:
    known = _known.get(session_key)
    if known is not None and not known.pages and time.monotonic() - known.read_at > KNOWN_FOR_S:
        return None
    return known


def read_known(session_key: str) -> Known | None:
    """The same, asked of the database; None where nobody is logged in by this session."""
    user = read_session(session_key)
    return Known(user, get_roles(user), time.monotonic()) if user.is_authenticated else None


@dataclass(frozen=True)
class Server:
    """Who acts where no person does: at the first start, by the clock, when a budget is reached. What it does because
    a person asked for it earlier bears that person's name in rows and log; the role was asked for then.
    """

    person: User | None = None


SERVER = Server()
Acting = User | Server  # by whom an action is done


def check(user: Anyone | Server | None, lab: "Lab", action: str) -> None:
    """The first line of every action: refuse unless the user's role in the lab allows it, whoever has asked before.
    Only the server itself, which says so, is asked for none.
    """
    if isinstance(user, Server):
        return
    role = None
    if user is not None and user.is_authenticated:
        role = user.memberships.filter(lab=lab).values_list("role", flat=True).first()
    check_role(role, lab.slug, action, lab.name)


def person_of(user: Acting) -> User | None:
    """Whose name an act of the user bears; None where it is nobody's but the server's."""
    return user.person if isinstance(user, Server) else user


def no_member(lab_slug: str) -> NotFound:
    return NotFound(f"There is no lab {lab_slug!r} that you are a member of.")


def check_role(role: str | None, lab_slug: str, action: str, lab_name: str = "") -> None:
    """Refuse where the role, None for somebody who is no member, does not allow the action."""
    if role is None:
        raise no_member(lab_slug)
    if not may(role, action):
        allowed = " or ".join(sorted(ALLOWED[action]))
        raise Denied(f"Your role in {lab_name or lab_slug} is {role}; to {SAID[action]} takes a {allowed}.")


def read_session(session_key: str) -> Anyone:
    """The user who is logged in by this session, anonymous where nobody is: asked of the database."""
    request = HttpRequest()
    request.session = SessionStore(session_key)
    return get_user(request)


def get_labs(user: User) -> "list[Lab]":
    """The labs that the user is a member of, by name."""
    return [membership.lab for membership in user.memberships.select_related("lab").order_by("lab__name")]


def get_roles(user: User) -> dict[str, str]:
    """The user's role in each lab, by the lab's slug."""
    return dict(user.memberships.values_list("lab__slug", "role"))


def get_lab(user: Anyone, slug: str, action: str = "see") -> "Lab":
    """The lab, if the user is a member whose role allows the action. Carries the role as `lab.role`, for templates."""
    membership = None
    if user.is_authenticated:
        membership = user.memberships.filter(lab__slug=slug).select_related("lab").first()
    if membership is None:
        raise no_member(slug)
    check_role(membership.role, slug, action, membership.lab.name)
    membership.lab.role = membership.role
    return membership.lab


def get_row(model: type[LabRow], user: Anyone, lab_slug: str, action: str = "see", **key: Any) -> LabRow:
    """One row of the lab, by its key: `get_row(Station, user, "east", "command", slug="arm-1")`."""
    lab = get_lab(user, lab_slug, action)
    found: LabRow | None = model._default_manager.filter(lab=lab, **key).first()
    if found is None:
        (value,) = key.values()
        shown = value if isinstance(value, (int, UUID)) else repr(value)
        raise NotFound(f"{lab.name} has no {model._meta.verbose_name} {shown}.")
    found.lab = lab  # the caller wants its slug, and its role, without another query
    return found


def get_checkpoint(checkpoints: type[Row], user: Anyone, lab_slug: str, uuid: UUID, action: str = "see") -> Row:
    """A checkpoint of a run of the lab."""
    lab = get_lab(user, lab_slug, action)
    found = checkpoints._default_manager.select_related("run").filter(run__lab=lab, pk=uuid).first()
    if found is None:
        raise NotFound(f"{lab.name} has no checkpoint {uuid}.")
    return found


# Who has no role but a secret, or a place in the lab by being a station


def hash_token(token: str) -> str:
    """Only this is stored of a secret."""
    return hashlib.sha256(token.encode()).hexdigest()


def get_invitation_by_token(invitations: "type[Invitation]", token: str) -> "Invitation":
    """The invitation behind a link, used up or not; whoever holds the link may look at it, member or not."""
    rows = invitations._default_manager.select_related("lab", "created_by")
    found = rows.filter(token_hash=hash_token(token)).first()
    if found is None:
        raise NotFound("This invitation does not exist; check that the link is whole, or ask for a new one.")
    return found


def get_station_by_token(stations: "type[Station]", token: str) -> "Station | None":
    """The station whose secret this is, or None. Only the hash is stored, and the comparison is an index look-up of
    it.
    """
    if not token:
        return None
    given = hash_token(token)
    rows = stations._default_manager.select_related("lab").filter(archived_at=None)
    station = rows.filter(token_hash=given).first()
    if station is None:
        station = rows.filter(old_token_hash=given, old_token_until__gt=timezone.now()).first()
        if station is not None:
            station.token_is_old = True
    return station


TOKEN_START = "fleet"


def token_prefix(token: str) -> str:
    """The part of an access token by which its row is found, and which is no secret; "" where it is no such token."""
    start, _, rest = token.partition("_")
    prefix, _, secret = rest.partition("_")
    return prefix if start == TOKEN_START and secret and len(prefix) == 8 and prefix.isascii() else ""


def get_access_token(tokens: "type[AccessToken]", token: str) -> "AccessToken":
    """The row of a person's token, with its owner; Unauthenticated where it opens nothing. How long the comparison
    takes says nothing of the secret, and what became of a token hears only who has it.
    """
    rows = tokens._default_manager.select_related("user", "lab")
    found = rows.filter(prefix=prefix).first() if (prefix := token_prefix(token)) else None
    known = found.token_hash if found else hash_token("")
    if not hmac.compare_digest(known, hash_token(token)) or found is None:
        raise Unauthenticated("This access token is not known. Check that it is whole, or make a new one on your page.")
    problem = ""
    if found.revoked_at is not None:
        problem = f"The access token “{found}” was revoked. Make a new one on the page Access tokens."
    elif found.expires_at <= timezone.now():
        day = f"{found.expires_at:%Y-%m-%d}"
        problem = f"The access token “{found}” expired on {day}. Make a new one on the page Access tokens."
    elif not found.user.is_active:
        problem = f"The account of the access token “{found}” is closed; ask a manager of the lab."
    if problem:
        raise Unauthenticated(problem, is_known=True)
    return found


def note_token(user: User, token: "AccessToken") -> None:
    """From here on the user acts by this token: the audit log says so."""
    vars(user)["access_token"] = token


def token_of(user: object) -> "AccessToken | None":
    """By which a program acts for the user in this request; None: it is no program, or it has a session."""
    found: AccessToken | None = getattr(user, "access_token", None)
    return found


def get_own_token(tokens: "type[AccessToken]", user: User, number: int) -> "AccessToken":
    """A token of the user's own; nobody else's is found."""
    found = tokens._default_manager.filter(user=user, pk=number).first()
    if found is None:
        raise NotFound(f"You have no access token {number}.")
    return found


def get_checkpoint_for_station(checkpoints: type[Row], station: "Station", checkpoint_uuid: UUID | None) -> Row:
    """A checkpoint of a run of the station's own lab."""
    rows = checkpoints._default_manager.filter(run__lab_id=station.lab_id)
    checkpoint = rows.filter(uuid=checkpoint_uuid).first()
    if checkpoint is None:
        raise NotFound(f"There is no checkpoint {checkpoint_uuid} in this station's lab.")
    return checkpoint


def get_model_for_station(models: type[Row], station: "Station", sha256: str) -> Row:
    """A pretrained model of the station's own lab, by its sum."""
    is_sum = len(sha256) == 64 and sha256.isalnum()
    found = models._default_manager.filter(lab_id=station.lab_id, sha256=sha256).first() if is_sum else None
    if found is None:
        raise NotFound(f"There is no pretrained model {sha256[:64]!r} in this station's lab.")
    return found

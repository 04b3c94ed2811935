"""Who may do what: the only door to objects. Pages, API and sockets fetch through here and never by Model.objects.

Another lab's object is not found, whoever asks; a missing role is denied with a sentence that names the role. The
refusals below are the one hierarchy of errors that a user can cause: pages show the sentence, the API answers with
`status`.
"""

import time
from dataclasses import dataclass

from django.apps import apps
from django.contrib.auth import get_user
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from django.utils import timezone

EVERYONE = {"viewer", "supervisor", "researcher", "manager"}
ALLOWED: dict[str, set[str]] = {
    "see": EVERYONE,
    "command": {"supervisor", "manager"},  # act on stations
    "help": {"supervisor", "manager"},  # acknowledge, take and close help requests
    "add_contact": {"manager"},
    "label_episode": {"supervisor", "manager"},  # say whether it was a true success
    "add_correction": {"supervisor", "researcher", "manager"},
    "generate_dataset": {"researcher", "manager"},
    "upload_dataset": {"researcher", "manager"},
    "launch_run": {"researcher", "manager"},
    "control_run": {"researcher", "manager"},  # cancel, pause, resume
    "create_task": {"manager"},
    "edit_task": {"manager"},  # and archive or restore it
    "assign": {"manager"},
    "create_station": {"manager"},
    "maintain": {"supervisor", "manager"},  # take a station out of practice and bring it back
    "archive_station": {"manager"},  # archive, bring back, delete; so below
    "archive_dataset": {"researcher", "manager"},
    "archive_run": {"researcher", "manager"},
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
    "upload_dataset": "upload datasets",
    "launch_run": "launch runs",
    "control_run": "cancel, pause or resume runs",
    "create_task": "make tasks",
    "edit_task": "edit, archive or restore tasks",
    "assign": "assign tasks to stations",
    "create_station": "add stations",
    "maintain": "put stations in maintenance",
    "archive_station": "archive or delete stations",
    "archive_dataset": "archive or delete datasets",
    "archive_run": "archive or delete runs",
    "renew_token": "renew a station's token",
    "manage_people": "invite people, change roles, reset passwords or remove members",
    "see_audit": "read the audit log",
}


class Refused(Exception):
    """Something a user asked for can't be done; the text says what is wrong and what to do."""

    status = 400


class NotFound(Refused, Http404):
    """The object does not exist, or belongs to a lab that the user is no member of."""

    status = 404


class Denied(Refused, PermissionDenied):
    """The user's role in this lab does not allow this."""

    status = 403


class Conflict(Refused):
    """The object is not in a state that allows this."""

    status = 409


class Invalid(Refused):
    """A value can't be accepted; `problems` maps fields to sentences where there are fields."""

    status = 422

    def __init__(self, sentence: str, problems: dict[str, str] | None = None):
        super().__init__(sentence)
        self.problems = problems or {}


def may(role: str, action: str) -> bool:
    return role in ALLOWED[action]


# People whose log-in and roles were read a moment ago: a stop needs no database to know who gives it.

KNOWN_FOR_S = 600.0  # as long as the database can't be asked


@dataclass
class Known:
    """Who has a session, and the roles, as the database said at `read_at` (monotonic)."""

    user: object
    roles: dict[str, str]  # the lab's slug -> role
    read_at: float
    pages: int = 0  # live sockets that are open with this session; each closes when its log-in or its role has ended


_known: dict[str, Known] = {}  # by the session's key


def remember_person(session_key: str, user, roles: dict[str, str]) -> None:
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


def check_role(role: str | None, lab_slug: str, action: str, lab_name: str = "") -> None:
    """Refuse where the role, None for somebody who is no member, does not allow the action."""
    if role is None:
        raise NotFound(f"There is no lab {lab_slug!r} that you are a member of.")
    if not may(role, action):
        allowed = " or ".join(sorted(ALLOWED[action]))
        raise Denied(f"Your role in {lab_name or lab_slug} is {role}; to {SAID[action]} takes a {allowed}.")


def read_session(session_key: str):
    """The user who is logged in by this session, anonymous where nobody is: asked of the database."""
    request = HttpRequest()
    request.session = SessionStore(session_key)
    return get_user(request)


def get_labs(user):
    """The labs that the user is a member of, by name."""
    return apps.get_model("fleet", "Lab").objects.filter(memberships__user_id=user.pk).order_by("name")


def get_lab(user, slug: str, action: str = "see"):
    """The lab, if the user is a member whose role allows the action. Carries the role as `lab.role`, for templates."""
    membership = (
        apps.get_model("fleet", "Membership")
        .objects.filter(user_id=user.pk, lab__slug=slug)
        .select_related("lab")
        .first()
    )
    check_role(membership and membership.role, slug, action, membership and membership.lab.name)
    membership.lab.role = membership.role
    return membership.lab


def get_lab_of_stop(slug: str):
    """The lab of a stop that was told already: whoever gave it was asked for the role then."""
    lab = apps.get_model("fleet", "Lab").objects.filter(slug=slug).first()
    if lab is None:
        raise NotFound(f"There is no lab {slug!r}.")
    return lab


def get_roles(user) -> dict[str, str]:
    """The user's role in each lab, by the lab's slug."""
    return dict(apps.get_model("fleet", "Membership").objects.filter(user_id=user.pk).values_list("lab__slug", "role"))


def get_member(user, lab_slug: str, membership_id: int, action: str = "manage_people"):
    lab = get_lab(user, lab_slug, action)
    return _one(lab, "fleet", "Membership", f"member {membership_id}", pk=membership_id)


def get_invitation(user, lab_slug: str, invitation_id: int, action: str = "manage_people"):
    lab = get_lab(user, lab_slug, action)
    return _one(lab, "fleet", "Invitation", f"invitation {invitation_id}", pk=invitation_id)


def get_invitation_by_token(token: str):
    """The invitation behind a link, used up or not; whoever holds the link may look at it, member or not."""
    station, invitation = apps.get_model("fleet", "Station"), apps.get_model("fleet", "Invitation")
    found = invitation.objects.select_related("lab", "created_by").filter(token_hash=station.hash_token(token)).first()
    if found is None:
        raise NotFound("This invitation does not exist; check that the link is whole, or ask for a new one.")
    return found


def get_station(user, lab_slug: str, station_slug: str, action: str = "see"):
    lab = get_lab(user, lab_slug, action)
    return _one(lab, "fleet", "Station", f"station {station_slug!r}", slug=station_slug)


def get_task(user, lab_slug: str, task_slug: str, action: str = "see"):
    lab = get_lab(user, lab_slug, action)
    return _one(lab, "fleet", "Task", f"task {task_slug!r}", slug=task_slug)


def get_assignment(user, lab_slug: str, assignment_id: int, action: str = "see"):
    lab = get_lab(user, lab_slug, action)
    return _one(lab, "fleet", "Assignment", f"assignment {assignment_id}", pk=assignment_id)


def get_help_request(user, lab_slug: str, request_id: int, action: str = "see"):
    lab = get_lab(user, lab_slug, action)
    return _one(lab, "fleet", "HelpRequest", f"help request {request_id}", pk=request_id)


def get_contact(user, lab_slug: str, contact_id: int, action: str = "see"):
    lab = get_lab(user, lab_slug, action)
    return _one(lab, "fleet", "Contact", f"contact {contact_id}", pk=contact_id)


def get_episode(user, lab_slug: str, episode_uuid, action: str = "see"):
    lab = get_lab(user, lab_slug, action)
    return _one(lab, "fleet", "Episode", f"episode {episode_uuid}", uuid=episode_uuid)


def get_dataset(user, lab_slug: str, dataset_id: int, action: str = "see"):
    lab = get_lab(user, lab_slug, action)
    return _one(lab, "learning", "Dataset", f"dataset {dataset_id}", pk=dataset_id)


def get_run(user, lab_slug: str, run_id: int, action: str = "see"):
    lab = get_lab(user, lab_slug, action)
    return _one(lab, "learning", "Run", f"run {run_id}", pk=run_id)


def get_station_by_token(token: str):
    """The station whose secret this is, or None. Only the hash is stored, and the comparison is an index look-up of
    it.
    """
    if not token:
        return None
    model = apps.get_model("fleet", "Station")
    given = model.hash_token(token)
    rows = model.objects.select_related("lab").filter(archived_at=None)
    station = rows.filter(token_hash=given).first()
    if station is None:
        station = rows.filter(old_token_hash=given, old_token_until__gt=timezone.now()).first()
        if station is not None:
            station.token_is_old = True
    return station


def get_checkpoint_for_station(station, checkpoint_uuid):
    """A checkpoint of a run of the station's own lab."""
    checkpoint = (
        apps.get_model("learning", "Checkpoint")
        .objects.filter(uuid=checkpoint_uuid, run__lab_id=station.lab_id)
        .first()
    )
    if checkpoint is None:
        raise NotFound(f"There is no checkpoint {checkpoint_uuid} in this station's lab.")
    return checkpoint


def _one(lab, app, model, said, **key):
    found = apps.get_model(app, model).objects.filter(lab=lab, **key).first()
    if found is None:
        raise NotFound(f"{lab.name} has no {said}.")
    found.lab = lab  # the caller wants its slug, and its role, without another query
    return found

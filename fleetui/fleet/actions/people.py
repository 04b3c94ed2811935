"""Who belongs to a lab: invitations by link, roles, and leaving; and who came in, by which password. Each is in the
audit log.
"""

import secrets
from datetime import timedelta
from typing import Any

from axes.handlers.proxy import AxesProxyHandler
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid, may
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.cards import show_card
from fleetui.fleet.actions.control import lapse_control
from fleetui.fleet.models import ROLES, AccessToken, Act, Invitation, Lab, Lease, Membership

STRANGER_EVERY = timedelta(minutes=1)  # so often at most are tries with unknown names written down
SEEN_EVERY = timedelta(minutes=1)


def invite_member(*, lab: Lab, user: User, role: str, note: str = "", source: str = "server") -> tuple[Invitation, str]:
    """Returns the invitation and the secret of its link, which is shown this once: only its hash is kept."""
    access.check(user, lab, "manage_people")
    if role not in ROLES:
        raise Invalid(f"{role!r} is no role; choose one of {', '.join(ROLES)}.", {"role": "Choose a role."})
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        made = Invitation.objects.create(
            lab=lab,
            role=role,
            note=note.strip()[:80],
            token_hash=access.hash_token(token),
            created_by=user,
            expires_at=timezone.now() + Invitation.VALID_FOR,
        )
        details = {"invitation": made.pk, "role": role, "for": made.note}
        record_act(lab=lab, kind="member_invited", user=user, details=details, source=source)
    return made, token


@transaction.atomic
def revoke_invitation(*, invitation: Invitation, user: User, source: str = "server") -> None:
    access.check(user, invitation.lab, "manage_people")
    moved = Invitation.objects.filter(pk=invitation.pk, accepted_at=None, revoked_at=None).update(
        revoked_at=timezone.now()
    )
    if not moved:
        raise Conflict("This invitation was accepted or revoked already.")
    details = {"invitation": invitation.pk, "role": invitation.role, "for": invitation.note}
    record_act(lab=invitation.lab, kind="invitation_revoked", user=user, details=details, source=source)


@transaction.atomic
def accept_invitation(*, invitation: Invitation, user: User, source: str = "server") -> Membership:
    """The link's one use. A member gains nothing by it, and the link stays good for the one it was meant for."""
    lab = Lab.objects.select_for_update().get(pk=invitation.lab_id)  # two links at once must not make two members
    member = Membership.objects.filter(lab=lab, user=user).first()
    if member is not None:
        raise Conflict(
            f"You are a member of {lab.name} already, as {member.role}; a manager there can change your role."
        )
    now = timezone.now()
    if not Invitation.objects.filter(Invitation.open_now(), pk=invitation.pk).update(accepted_at=now, accepted_by=user):
        invitation.refresh_from_db()
        raise Conflict(why_closed(invitation))
    member = Membership.objects.create(lab=lab, user=user, role=invitation.role, last_seen=now)
    details = {"invitation": invitation.pk, "role": invitation.role}
    record_act(lab=lab, kind="member_joined", user=user, details=details, source=source)
    return member


def why_closed(invitation: Invitation) -> str:
    """Why the link does not work any more; "" while it does."""
    if invitation.accepted_at:
        return "This invitation was used already. If it was not you, tell the manager who sent it; ask for a new one."
    if invitation.revoked_at:
        return "This invitation was revoked; ask the manager who sent it for a new one."
    if invitation.expires_at <= timezone.now():
        return "This invitation is older than 7 days and has expired; ask the manager who sent it for a new one."
    return ""


@transaction.atomic
def change_role(*, member: Membership, role: str, user: User, source: str = "server") -> None:
    """Another role, from the next request on; live sockets of the old one are closed within 2 s."""
    access.check(user, member.lab, "manage_people")
    if role not in ROLES:
        raise Invalid(f"{role!r} is no role; choose one of {', '.join(ROLES)}.")
    _lock_managers(member)
    if member.role == role:
        return
    if member.role == "manager":
        _refuse_last_manager(member, "give someone else that role first, or this one can't be changed")
    Membership.objects.filter(pk=member.pk).update(role=role)
    details = {"member": member.user.get_username(), "from": member.role, "to": role}
    member.role = role
    record_act(lab=member.lab, kind="role_changed", user=user, details=details, source=source)
    if not may(role, "command"):
        _take_leases(member, source=source)


@transaction.atomic
def remove_member(*, member: Membership, user: User, source: str = "server") -> None:
    """Out of the lab, with what it let them see and hold; what they did stays in the audit log."""
    access.check(user, member.lab, "manage_people")
    _lock_managers(member)
    if member.role == "manager":
        _refuse_last_manager(member, "make someone else a manager before you remove this one")
    details = {"member": member.user.get_username(), "role": member.role}
    Membership.objects.filter(pk=member.pk).delete()
    record_act(lab=member.lab, kind="member_removed", user=user, details=details, source=source)
    _take_leases(member, source=source)


def _lock_managers(member: Membership) -> None:
    """Two managers who remove each other at the same time must not both succeed: one after the other."""
    Lab.objects.select_for_update().get(pk=member.lab_id)
    role = Membership.objects.filter(pk=member.pk).values_list("role", flat=True).first()
    if role is None:
        raise Conflict(f"{member.user} is no member of {member.lab.name} any more.")
    member.role = role


def _refuse_last_manager(member: Membership, mend: str) -> None:
    if not Membership.objects.filter(lab=member.lab, role="manager").exclude(pk=member.pk).exists():
        raise Conflict(f"{member.user} is the last manager of {member.lab.name}: {mend}.")


def _take_leases(member: Membership, *, source: str) -> None:
    """Who may not act any more holds no station; it stands still until another person hands it back."""
    held = Lease.objects.filter(user=member.user, station__lab=member.lab, released_at=None)
    for lease in held.select_related("station__lab"):
        lapse_control(station=lease.station, epoch=lease.epoch, why="the role was taken away", source=source)
        show_card(lease.station)


# Accounts: an account is no lab's, so each lab of its user has the act in its log


@transaction.atomic
def record_account(*, user: User, kind: str, by: User | None = None, source: str = "server", **details: Any) -> None:
    """Log-ins, log-outs and changed passwords; `by` is who did it where that is another person."""
    if by is not None:
        details = {"member": user.get_username(), **details}
    for lab in Lab.objects.filter(memberships__user=user) or [None]:
        record_act(lab=lab, kind=kind, user=by or user, details=details, source=source)


def record_failed_log_in(*, name: str, address: str | None, locks: bool, source: str = "server") -> None:
    """Somebody gave a wrong password for this name; `locks`: once too often. A name that is unknown isn't kept, as it
    may be a password that was typed in the wrong place.
    """
    user = User.objects.filter(username=name).first()
    if user is not None:
        record_account(user=user, kind="log_in_failed", address=address, source=source)
        if locks:
            record_account(user=user, kind="locked_out", address=address, source=source)
        return
    last = Act.objects.filter(lab=None, kind="log_in_failed", user=None).order_by("-id").first()
    if last is None or last.at < timezone.now() - STRANGER_EVERY:
        record_act(lab=None, kind="log_in_failed", details={"unknown_name": True, "address": address}, source=source)


@transaction.atomic
def change_password(*, user: User, password: str, source: str = "server") -> None:
    """One's own. Every other session of this person ends: it was opened with the old one."""
    user.set_password(password)
    user.save(update_fields=["password"])
    record_account(user=user, kind="password_changed", source=source)


@transaction.atomic
def reset_password(*, member: Membership, user: User, source: str = "server") -> str:
    """A manager makes a member a new password, shown this once. The member's sessions end, access tokens are revoked
    (whoever knew the password may have made some), and a lock-out ends.

    An account may be of several labs: then it takes a manager of all of them, or one lab's could enter the others.
    """
    access.check(user, member.lab, "manage_people")
    person = member.user
    if person == user:
        raise Conflict("Change your own password on its own page: click your name at the top.")
    managed = Membership.objects.filter(user=user, role="manager").values("lab")
    beyond = Lab.objects.filter(memberships__user=person).exclude(pk__in=managed).order_by("name")
    if beyond:
        raise Conflict(
            f"{person} is a member of {', '.join(map(str, beyond))} too, where you are not a manager. Ask somebody who "
            f"manages all of these labs, or whoever runs the server: manage.py changepassword {person}"
        )
    password = secrets.token_urlsafe(12)
    person.set_password(password)
    person.save(update_fields=["password"])
    AccessToken.objects.filter(user=person, revoked_at=None).update(revoked_at=timezone.now())
    AxesProxyHandler.reset_attempts(username=person.get_username())
    record_account(user=person, kind="password_reset", by=user, source=source)
    return password


def note_seen(*, user: User, labs: list[str]) -> None:
    """The members' page says when someone was last here; to the minute is enough."""
    now = timezone.now()
    late = Q(last_seen=None) | Q(last_seen__lt=now - SEEN_EVERY)
    Membership.objects.filter(late, user_id=user.pk, lab__slug__in=labs).update(last_seen=now)

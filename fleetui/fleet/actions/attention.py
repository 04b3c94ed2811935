"""Help requests: a station's need becomes a row that people acknowledge, take and close, and that tells them of itself.

What the need is says robots/attention.py; when it has gone, the row closes by itself and keeps who helped.
"""

from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.celery import app as celery_app
from fleetui.fleet import selectors
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.cards import emit_card
from fleetui.fleet.models import Contact, HelpRequest, Intervention, Lab, Station
from robots.attention import SEVERITIES, Need, need_of

# A need that goes within so long of somebody's act on the station went because of it.
HELPED_WITHIN = timedelta(seconds=15)
# Schemes of apprise that speak to this machine instead of to a person elsewhere.
LOCAL_SCHEMES = ("dbus", "kde", "qt", "glib", "gnome", "macosx", "syslog", "windows", "file")


@transaction.atomic
def note_need(*, station: Station, need: Need | None, episode: str = "") -> HelpRequest | None:
    """What the station needs now, None for nothing: opens, changes or closes its request. It may be said twice."""
    Station.objects.select_for_update().get(pk=station.pk)
    found = station.help_requests.filter(closed_at=None).first()
    if need is None:
        if found is not None:
            _close_as_helped(found)
        return None
    now = timezone.now()
    fields: dict[str, Any] = {
        "kind": need.kind,
        "reason": need.reason[:300],
        "severity": need.severity,
        "act": need.act,
        "episode": episode or None,
        "p_failure": need.p_failure,
        "robot_s": need.robot_s,
        "human_s": need.human_s,
        "rank": need.rank,
        "help_by": now + timedelta(seconds=need.help_by_s) if need.help_by_s is not None else None,
    }
    if found is not None and (found.kind, str(found.episode or "")) == (need.kind, episode):
        if found.reason != fields["reason"]:
            HelpRequest.objects.filter(pk=found.pk).update(reason=fields["reason"])
            _tell(station)
        return found
    if found is not None:
        # Another need has taken its place. Whoever is on the way stays on the way; a worse one has to be seen anew.
        worse = SEVERITIES.index(need.severity) > SEVERITIES.index(found.severity)
        fields |= {"taken_by": found.taken_by, "taken_at": found.taken_at}
        if not worse:
            fields |= {"acknowledged_by": found.acknowledged_by, "acknowledged_at": found.acknowledged_at}
        HelpRequest.objects.filter(pk=found.pk).update(
            closed_at=now, outcome=f"Another need took its place: {need.reason}"[:300]
        )
    made = HelpRequest.objects.create(lab=station.lab, station=station, opened_at=now, **fields)
    _tell(station)
    for contact in station.lab.contacts.all():
        if SEVERITIES.index(need.severity) >= SEVERITIES.index(contact.severity):
            _tell_later(contact, made)
    return made


def note_absence(*, station: Station) -> None:
    """It has been gone for a while: a person is called if it should be working."""
    station = Station.objects.select_related("lab").get(pk=station.pk)
    need = need_of(
        state="offline", reason=station.reason, state_for_s=0.0, assigned=station.live_assignment() is not None
    )
    if not station.connected and not station.maintenance and need is not None:
        note_need(station=station, need=need)


def acknowledge_help(*, request: HelpRequest, user: User, source: str = "server") -> HelpRequest:
    """Somebody has seen it: it makes no more noise, and nobody is written to."""
    access.check(user, request.lab, "help")
    return _change(
        request, user, "help_acknowledged", acknowledged_by=user, acknowledged_at=timezone.now(), source=source
    )


@transaction.atomic
def take_help(*, request: HelpRequest, user: User, source: str = "server") -> HelpRequest:
    """One person goes there; the others see who."""
    access.check(user, request.lab, "help")
    now = timezone.now()
    free = HelpRequest.objects.filter(pk=request.pk, closed_at=None, taken_by=None)
    if not free.update(taken_by=user, taken_at=now):
        request.refresh_from_db()
        if request.taken_by_id != user.pk or request.closed_at is not None:
            raise Conflict(_why_not(request))
    if request.acknowledged_at is None:
        HelpRequest.objects.filter(pk=request.pk).update(acknowledged_by=user, acknowledged_at=now)
    _record(request, user, "help_taken", source=source)
    return _told(request)


def release_help(*, request: HelpRequest, user: User, source: str = "server") -> HelpRequest:
    """Whoever took it gives it back; so may anyone, since people forget and go home."""
    access.check(user, request.lab, "help")
    return _change(request, user, "help_released", taken_by=None, taken_at=None, source=source)


def close_help(*, request: HelpRequest, user: User, outcome: str, source: str = "server") -> HelpRequest:
    """A person says that nothing more is to be done. A need that is still there comes back as a new request."""
    access.check(user, request.lab, "help")
    if not outcome.strip():
        raise Invalid("Say in a few words what came of this request.", {"outcome": "Say what came of it."})
    outcome = outcome.strip()[:300]
    return _change(
        request, user, "help_closed", closed_by=user, closed_at=timezone.now(), outcome=outcome, source=source
    )


def _change(request: HelpRequest, user: User, kind: str, *, source: str, **fields: Any) -> HelpRequest:
    with transaction.atomic():
        if not HelpRequest.objects.filter(pk=request.pk, closed_at=None).update(**fields):
            request.refresh_from_db()
            raise Conflict(_why_not(request))
        _record(request, user, kind, source=source)
        return _told(request)


def _record(request: HelpRequest, user: User, kind: str, *, source: str) -> None:
    request.refresh_from_db()
    details = {"request": request.pk, "need": request.reason, "outcome": request.outcome or None}
    record_act(lab=request.lab, kind=kind, user=user, station=request.station, details=details, source=source)


def _told(request: HelpRequest) -> HelpRequest:
    request.refresh_from_db()
    _tell(request.station)
    return request


def _why_not(request: HelpRequest) -> str:
    if request.closed_at is not None:
        return f"This request is closed already: {request.outcome or 'the station needs nobody any more'}."
    return f"{request.taken_by} has taken it already."


def _close_as_helped(request: HelpRequest) -> None:
    now = timezone.now()
    touch = (
        Intervention.objects.filter(station=request.station, user__isnull=False, started_at__gte=request.opened_at)
        .filter(started_at__gte=now - HELPED_WITHIN)
        .exclude(kind="relabel")
        .order_by("-started_at")
        .first()
    ) or (
        # A reset counts from when the station asked, so it began with the request.
        Intervention.objects.filter(station=request.station, user__isnull=False, ended_at__gte=now - HELPED_WITHIN)
        .order_by("-ended_at")
        .first()
    )
    if touch and request.taken_at and request.taken_by_id == touch.user_id and touch.human_s is None:
        spent = ((touch.ended_at or now) - request.taken_at).total_seconds()
        Intervention.objects.filter(pk=touch.pk).update(human_s=max(0.0, spent))
    outcome = touch.get_kind_display() if touch else "needed nobody any more"
    HelpRequest.objects.filter(pk=request.pk, closed_at=None).update(
        closed_at=now, closed_by=touch.user if touch else None, outcome=outcome
    )
    _tell(request.station)


def _tell(station: Station) -> None:
    emit_card(station, {"help": selectors.open_help(station)})


# People elsewhere


@transaction.atomic
def add_contact(
    *, lab: Lab, user: User, name: str, address: str, severity: str, after_s: int, source: str = "server"
) -> Contact:
    access.check(user, lab, "add_contact")
    import apprise  # slow to import, and only managers come here

    scheme = address.partition(":")[0].lower()
    if scheme in LOCAL_SCHEMES or apprise.Apprise.instantiate(address, suppress_exceptions=True) is None:
        raise Invalid(
            "Messages can't be sent to this address. Examples: mailto://user:password@example.com, "
            "slack://TokenA/TokenB/TokenC, ntfys://ntfy.sh/my-topic.",
            {"address": "Messages can't be sent to this address."},
        )
    if lab.contacts.filter(name=name).exists():
        raise Conflict(f"{lab} already has a contact {name!r}; choose another name.")
    made = Contact.objects.create(lab=lab, name=name, address=address, severity=severity, after_s=after_s)
    details = {"contact": name}  # the address holds secrets
    record_act(lab=lab, kind="contact_added", user=user, details=details, source=source)
    return made


@transaction.atomic
def remove_contact(*, contact: Contact, user: User, source: str = "server") -> None:
    access.check(user, contact.lab, "add_contact")
    contact.delete()
    record_act(lab=contact.lab, kind="contact_removed", user=user, details={"contact": contact.name}, source=source)


def record_told(*, contact: Contact, error: str = "") -> None:
    now = {} if error else {"told_at": timezone.now()}
    Contact.objects.filter(pk=contact.pk).update(error=error[:300], **now)


def _tell_later(contact: Contact, request: HelpRequest) -> None:
    transaction.on_commit(
        lambda: celery_app.send_task("tell_contact", args=[contact.pk, request.pk], countdown=contact.after_s),
        robust=True,
    )

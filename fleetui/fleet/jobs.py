"""Celery jobs of the fleet: people elsewhere hear of a help request that nobody here has taken up."""

import logging

from celery import shared_task
from django.db import connection

from fleetui.fleet.actions import attention
from fleetui.fleet.models import Contact, HelpRequest

log = logging.getLogger(__name__)


@shared_task(name="tell_contact", ignore_result=True)
def tell_contact(contact_id: int, request_id: int) -> None:
    """Write to the contact, unless somebody has seen the request or the need has gone meanwhile."""
    contact = Contact.objects.filter(pk=contact_id).first()
    request = (
        HelpRequest.objects.select_related("station", "lab")
        .filter(pk=request_id, closed_at=None, acknowledged_at=None, taken_by=None)
        .first()
    )
    try:
        if contact and request:
            write_to(contact, f"{request.station}: {request.reason}", sentence_of(request))
    finally:
        connection.close()  # the worker's threads live long


def sentence_of(request: HelpRequest) -> str:
    return (
        f"{request.lab}, {request.station}, {request.get_severity_display()}: {request.reason}. "
        f"Open since {request.opened_at:%H:%M} UTC; nobody has taken it up."
    )


def write_to(contact: Contact, title: str, body: str) -> bool:
    """True once it has gone out; what went wrong is kept with the contact and shown on the attention page."""
    import apprise  # slow to import, and few processes need it

    teller = apprise.Apprise()
    error = ""
    try:
        if not teller.add(contact.address) or not teller.notify(title=title, body=body):
            error = "The message was not accepted; check the address and whether this machine reaches it."
    except Exception as failure:  # any of a hundred plugins, in any way
        log.exception("Telling %s failed", contact)
        error = f"{type(failure).__name__}: {failure}"
    attention.record_told(contact=contact, error=error)
    return not error

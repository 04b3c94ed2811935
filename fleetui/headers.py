"""What requests say in their headers: whence somebody comes. (What answers say stands in settings.py.)"""

import ipaddress

from django.http import HttpRequest


def client_address(request: HttpRequest) -> str | None:
    """Where the request came from, as far as the server or the proxy before it knows: None where that is no address."""
    try:
        return str(ipaddress.ip_address(request.META.get("REMOTE_ADDR", "").partition("%")[0]))
    except ValueError:
        return None


def comes_from_a_page(request: HttpRequest) -> bool:
    """Browsers send Origin with each act of a page; a script has no reason to."""
    return request.headers.get("Origin") == f"{request.scheme}://{request.get_host()}"

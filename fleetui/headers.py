"""What requests and answers say in their headers: whence somebody comes, and what a page may load: this server's own
files only, and no inline script.
"""

import ipaddress

POLICY = "; ".join(
    (
        "default-src 'self'",
        # plotly.js writes style elements; frames and downloads of a chart are blobs.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)


def client_address(request) -> str | None:
    """Where the request came from, as far as the server or the proxy before it knows: None where that is no address."""
    try:
        return str(ipaddress.ip_address(request.META.get("REMOTE_ADDR", "").partition("%")[0]))
    except ValueError:
        return None


def comes_from_a_page(request) -> bool:
    """Browsers send Origin with each act of a page; a script has no reason to."""
    return request.headers.get("Origin") == f"{request.scheme}://{request.get_host()}"


def content_security_policy(get_response):
    """Middleware. Dash's own pages, which need inline scripts, are served beside Django and don't pass here."""

    def respond(request):
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return respond

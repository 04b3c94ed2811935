"""What a page may load, said in a header: this server's own files only, and no inline script."""

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


def content_security_policy(get_response):
    """Middleware. Dash's own pages, which need inline scripts, are served beside Django and don't pass here."""

    def respond(request):
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return respond

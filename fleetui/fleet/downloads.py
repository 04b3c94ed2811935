"""Large files, sent so that an interrupted download goes on: HTTP's Range, of one part."""

import re
from collections.abc import Iterator
from pathlib import Path

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header, quote_etag

PIECE = 2**18  # bytes
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def send_file(request: HttpRequest, path: Path, name: str, *, tag: str, content_type: str) -> HttpResponseBase:
    """The file, or the part of it that is asked for. `tag` says which content it is: a part of another is not sent, the
    whole is.
    """
    size = path.stat().st_size
    etag = quote_etag(tag)
    start, end = 0, size
    wanted = _RANGE.fullmatch(request.headers.get("Range", ""))
    condition = request.headers.get("If-Range")
    if wanted and any(wanted.groups()) and (condition is None or condition == etag):
        first, last = wanted.groups()
        if first:
            start, end = int(first), min(size, int(last) + 1 if last else size)
        else:
            start = max(0, size - int(last))
        if not start < end:
            return HttpResponse(status=416, headers={"Content-Range": f"bytes */{size}"})
    part = (start, end) != (0, size)
    response = StreamingHttpResponse(_pieces(path, start, end), status=206 if part else 200, content_type=content_type)
    response["Content-Length"] = str(end - start)
    response["Accept-Ranges"] = "bytes"
    response["ETag"] = etag
    response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    if part:
        response["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return response


def _pieces(path: Path, start: int, end: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while start < end and (piece := file.read(min(PIECE, end - start))):
            start += len(piece)
            yield piece

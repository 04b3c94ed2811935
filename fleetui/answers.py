"""JSON over HTTP as the standard has it: no NaN goes out, and nothing comes in that can't be kept. Files that are
handed out from the middle on, where a download goes on.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from ninja.parser import Parser
from ninja.renderers import JSONRenderer
from ninja.responses import NinjaJSONEncoder

from fleetui.access import NotFound
from robots.strict_json import StrictEncoder, loads


class PageEncoder(StrictEncoder, DjangoJSONEncoder):
    pass


class JsonAnswer(JsonResponse):
    def __init__(self, data: Any, **options: Any) -> None:
        super().__init__(data, encoder=PageEncoder, **options)


class ApiEncoder(StrictEncoder, NinjaJSONEncoder):
    pass


class StrictRenderer(JSONRenderer):
    encoder_class: type[json.JSONEncoder] = ApiEncoder


class StrictParser(Parser):
    def parse_body(self, request: HttpRequest) -> Any:
        return loads(request.body)


# Files. A download that broke off asks for the rest by `Range`, with the `ETag` of its beginning as `If-Range`; where
# the file is another one by now, it gets the whole (RFC 9110).

PIECE = 2**18  # bytes


def answer_file(request: HttpRequest, path: Path, name: str, sha256: str = "") -> HttpResponseBase:
    """The file, or the part of it that the request asks for. `name`: as which a browser stores it."""
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed when the last piece is sent)
    except FileNotFoundError:
        raise NotFound(f"The file of {name} is missing; restore it in the server's data folder.") from None
    state = path.stat()
    size = state.st_size
    tag = f'"{sha256 or f"{size:x}-{state.st_mtime_ns:x}"}"'
    start, end = wanted_part(request, tag, size)
    if start is None:
        file.close()
        answer: HttpResponseBase = HttpResponse(status=416, headers={"Content-Range": f"bytes */{size}"})
    else:
        whole = end is None
        last = size if end is None else end
        answer = StreamingHttpResponse(pieces(file, start, last), status=200 if whole else 206)
        answer["Content-Length"] = str(last - start)
        if not whole:
            answer["Content-Range"] = f"bytes {start}-{last - 1}/{size}"
    answer["Content-Type"] = "application/octet-stream"
    answer["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(name)}"
    answer["Accept-Ranges"] = "bytes"
    answer["ETag"] = tag
    answer["Cache-Control"] = "private, no-cache"
    if sha256:
        answer["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
    return answer


def wanted_part(request: HttpRequest, tag: str, size: int) -> tuple[int | None, int | None]:
    """(first byte, the one after the last): the latter is None for the whole file, the former where there is no such
    part. What asks for several parts, or is no range of bytes, gets the whole.
    """
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("Range", ""))
    if found is None or found.groups() == ("", "") or request.headers.get("If-Range", tag) != tag:
        return 0, None
    first, last = found.groups()
    if not first:  # the last so many
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    return (start, end) if start < end else (None, None)


async def pieces(file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
    """Of the file from one byte to before another, however large it is. Threads read: a slow disk must hold up none of
    the sockets of this process.
    """
    try:
        await asyncio.to_thread(file.seek, start)
        while start < end and (piece := await asyncio.to_thread(file.read, min(PIECE, end - start))):
            start += len(piece)
            yield piece
    finally:
        file.close()

"""What all calls of the API have in common: the answer to a mistake, lists page by page, and by whom an act came."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import wraps
from typing import Annotated, Any, Concatenate, ParamSpec

from django.http import HttpRequest
from ninja import Schema
from ninja.pagination import LimitOffsetPagination
from pydantic import Field, WithJsonSchema

from fleetui.access import PersonRequest
from fleetui.fleet.actions import tokens
from fleetui.fleet.selectors import rows_between
from fleetui.headers import comes_from_a_page

P = ParamSpec("P")
Moment = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]  # as the rows say it: ISO 8601, UTC
Uuid = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]
Number = int | float

ERRORS = frozenset({400, 401, 403, 404, 409, 413, 422, 429, 503, 507})
CODES = (
    "refused",  # it can't be done, for a reason that only the sentence has
    "unreadable",  # the body is no JSON, or holds what can't be kept
    "unauthenticated",  # nobody is logged in, or the token opens nothing (any longer)
    "missing_scope",  # the access token was not made for this
    "too_many_tries",  # with wrong tokens: wait
    "unknown_person",  # the database is away, so nobody knows whose session it is
    "denied",  # the role does not allow it
    "not_found",
    "conflict",  # the object's state does not allow it now
    "too_large",
    "invalid",  # a value is wrong: `problems` says which
    "disk_full",
    "database_away",
    "valkey_away",
    "server_error",
)


class Problem(Schema):
    """The answer to every mistake: a code for scripts, a sentence for people."""

    detail: str
    code: str = Field(json_schema_extra={"enum": list(CODES)})
    problems: dict[str, str] | None = Field(None, description="Of an invalid call: a sentence for each field.")


def or_problem(answer: Any) -> dict[Any, Any]:
    """The `response` of a call that answers so, or with a problem."""
    return {200: answer, ERRORS: Problem}


def source_of(request: HttpRequest) -> str:
    """For the audit log: whether the act is a page's or a script's."""
    return "page" if comes_from_a_page(request) else "API"


Act = Callable[Concatenate[PersonRequest, P], dict[str, Any]]  # a call that changes something
ONCE_EXTRA = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "minLength": 8, "maxLength": 80},
            "description": "Said again with the same key within a day, it is not done twice and gets the same answer.",
        }
    ]
}


def once(view: Act[P]) -> Act[P]:
    """A call that makes something: whose answer is lost on the way may say it again, by its Idempotency-Key."""

    @wraps(view)
    def respond(request: PersonRequest, *args: P.args, **given: P.kwargs) -> dict[str, Any]:
        key = request.headers.get("Idempotency-Key", "")
        if not key:
            return view(request, *args, **given)
        asked = f"{request.method} {request.get_full_path()} ".encode() + request.body
        return tokens.do_once(user=request.user, key=key, call=asked, act=lambda: view(request, *args, **given))

    return respond


class ArchiveBody(Schema):
    archived: bool


class Deleted(Schema):
    deleted: int | str = Field(description="The number or the slug of what is gone.")


# Lists


@dataclass
class Rows:
    """A list to be read by pages: `first`, shown already, then each of `rows`, a query or a list, as `show` shows it.
    Only what stands on the asked page is read and shown.
    """

    rows: Any
    show: Callable[[Any], dict[str, Any]]
    first: list[dict[str, Any]] = field(default_factory=list)

    def part(self, start: int, end: int) -> list[dict[str, Any]]:
        between = [max(0, each - len(self.first)) for each in (start, end)]
        rest: Iterable[Any]
        rest = self.rows[slice(*between)] if isinstance(self.rows, list) else rows_between(self.rows, *between)
        return self.first[start:end] + [self.show(row) for row in rest]

    def count(self) -> int:
        return len(self.first) + (len(self.rows) if isinstance(self.rows, list) else self.rows.count())


class Pages(LimitOffsetPagination):
    """{"items": [...], "count": how many there are in all}: 100 at once, or as many as are asked for, up to 500."""

    class Input(Schema):
        limit: int = Field(100, ge=1, le=500, description="How many at most.")
        offset: int = Field(0, ge=0, le=10**9, description="How many to leave out first.")

    class Output(Schema):
        items: list[Any]
        count: int = Field(description="How many there are in all.")

    def paginate_queryset(self, queryset: Any, pagination: Any, request: HttpRequest, **params: Any) -> dict[str, Any]:
        """ninja hands on what a call returned, which are Rows here, and the Input."""
        rows: Rows = queryset
        start = pagination.offset
        return {"items": rows.part(start, start + pagination.limit), "count": rows.count()}


class LongPages(Pages):
    """Of short rows: 5000 at once."""

    class Input(Pages.Input):
        limit: int = Field(5000, ge=1, le=5000, description="How many at most.")

"""The HTTP API: for people's programs by an access token or their session, and for stations with their token.

Everything here only reads requests, calls the actions and selectors that the pages call, and answers in declared
shapes; every error is a Problem (shape.py) with a 4xx status, or with 503 or 507 for what waiting, or room on the disk,
will mend. The routes stand by who reads them: link.py is the stations', all others are people's. The OpenAPI schema is
at /api/openapi.json, its page at /api/docs.
"""

from collections.abc import Iterator
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError
from ninja.openapi.schema import OpenAPISchema
from ninja.operation import Operation

from fleetui import access, failures
from fleetui.answers import JsonAnswer, StrictParser, StrictRenderer
from fleetui.api import checkpoints, dataset_replay, datasets, fleet, learning, link, me, models, practice, sweeps
from fleetui.api.doors import AccessTokenAuth
from fleetui.api.reference import Reference
from robots.strict_json import JSONError


class FleetAPI(NinjaAPI):
    """Its calls are known to programs by the names of their functions, wherever those lie."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._schemas: dict[str, OpenAPISchema] = {}  # by the options they were asked for with

    def get_openapi_operation_id(self, operation: Operation) -> str:
        return operation.view_func.__name__

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        """With what an access token must have been made for, as `x-scope`; null: no token will do. It takes a second,
        and never changes: whoever gets it only reads it.
        """
        key = repr(sorted(options.items()))
        if key not in self._schemas:
            self._schemas[key] = self._new_schema(**options)
        return self._schemas[key]

    def _new_schema(self, **options: Any) -> OpenAPISchema:
        schema = super().get_openapi_schema(**options)
        scopes = {each.view_func.__name__: scope_of(each) for each in operations()}
        for calls in schema["paths"].values():
            for call in calls.values():
                if call["operationId"] in scopes and call["tags"] == ["lab"]:
                    call["x-scope"] = scopes[call["operationId"]]
        return schema


def operations() -> Iterator[Operation]:
    """Every call that there is."""
    for _, router in api._routers:
        for view in router.path_operations.values():
            yield from view.operations


def scope_of(operation: Operation) -> str | None:
    """Of access tokens; "": any. A call of stations has none, and neither has one that forgot to say."""
    doors = [door for door in operation.auth_callbacks if isinstance(door, AccessTokenAuth)]
    return doors[0].scope if doors else None


api = FleetAPI(
    title="Robot fleet",
    version="1",
    description="Watch, command and teach a fleet of robots. People use session and CSRF token, their programs an "
    "access token (Authorization: Bearer TOKEN); stations a token each.",
    docs=Reference(),
    docs_url="/docs",
    openapi_url="/openapi.json",
    parser=StrictParser(),
    renderer=StrictRenderer(),
)
api.add_router("", me.router)
api.add_router("/labs/{lab}", fleet.router)
api.add_router("/labs/{lab}", learning.router)
api.add_router("/labs/{lab}", checkpoints.router)
api.add_router("/labs/{lab}", sweeps.router)
api.add_router("/labs/{lab}", datasets.router)
api.add_router("/labs/{lab}", dataset_replay.router)
api.add_router("/labs/{lab}", models.router)
api.add_router("/labs/{lab}", practice.router)
api.add_router("/station", link.router)


def answer_problem(status: int, code: str, detail: str, problems: dict[str, str] | None = None) -> JsonAnswer:
    body = {"detail": detail, "code": code} | ({"problems": problems} if problems else {})
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JsonAnswer(body, status=status, headers=headers)


@api.exception_handler(access.Refused)
def answer_refused(request: HttpRequest, error: access.Refused) -> JsonAnswer:
    return answer_problem(error.status, error.code, str(error), getattr(error, "problems", None))


@api.exception_handler(AuthenticationError)
def answer_unauthenticated(request: HttpRequest, error: AuthenticationError) -> JsonAnswer:
    if request.path_info.startswith("/api/station/"):
        sentence = (
            "Missing or unknown token: send the station's token as Authorization: Bearer TOKEN; a manager can make one."
        )
    else:
        sentence = "Log in first, or send an access token as Authorization: Bearer TOKEN; your page has them."
    return answer_problem(401, "unauthenticated", sentence)


@api.exception_handler(ValidationError)
def answer_invalid(request: HttpRequest, error: ValidationError) -> JsonAnswer:
    """pydantic's findings as sentences; a body that is no JSON at all is among them."""
    problems = {".".join(str(part) for part in row["loc"][1:]) or "body": row["msg"] for row in error.errors}
    detail = " ".join(f"{name}: {problem}." for name, problem in problems.items())
    return answer_problem(422, "invalid", detail, problems)


def answer_failure(request: HttpRequest, error: Exception) -> HttpResponse:
    """A full disk, a database that is away, a value that no column holds; what else it may be is Django's to answer."""
    response = failures.as_json(request, error)
    if response is None:
        raise error
    return response


for kind in failures.KINDS:
    api.add_exception_handler(kind, answer_failure)  # type: ignore[arg-type]  # ninja says a class may come; none does


@api.exception_handler(RequestDataTooBig)
def answer_too_big(request: HttpRequest, error: RequestDataTooBig) -> JsonAnswer:
    return answer_problem(413, "too_large", "The upload is larger than 64 MiB; send less at once.")


@api.exception_handler(HttpError)
def answer_http_error(request: HttpRequest, error: HttpError) -> JsonAnswer:
    if isinstance(error.__cause__, JSONError):
        return answer_problem(error.status_code, "unreadable", f"The body can't be used. {error.__cause__}")
    return answer_problem(error.status_code, "refused", str(error))

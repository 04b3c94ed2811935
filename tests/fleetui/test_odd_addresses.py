"""No address gives a 5xx: every page and GET of the API, each path part and query parameter with odd values, by role.

Routes come from the URLconf and the API's own schema, a page's parameters from what it reads of request.GET and from
the links that lead to it: a new page or parameter is tried without a word here. Each place of an address gets some of
the values, one after the other, so that each value is somewhere; in `make faults` each gets every one.
"""

import asyncio
import logging
import re
from itertools import count
from typing import ClassVar
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
import pytest
from django.core.handlers.asgi import ASGIRequest
from django.db.backends.postgresql.base import DatabaseWrapper
from django.http import QueryDict
from django.urls import Resolver404, get_resolver, resolve
from django.utils import timezone
from django.utils.functional import cached_property

from fleetui.api.http import api
from fleetui.asgi import application
from fleetui.fleet.actions import attention, people, tokens
from fleetui.learning import run_notes, sweeps
from fleetui.learning.models import Export, Import, Metric
from robots.attention import need_of
from tests.conftest import AT_LENGTH
from tests.fleetui.lab import ROLES, add_checkpoint, add_model, as_upload, make_episode, write_model

# Each as it stands in an address; what is not percent-encoded here will be.
ODD = (
    "",
    " ",
    "0",
    "-1",
    "00007",
    "1.5",
    "1e999",
    "nan",
    "9" * 18,
    "9" * 19,
    "-" + "9" * 40,
    "9" * 5000,
    "٣",
    "²",
    "true",
    "null",
    "0001-01-01",
    "9999-12-31",
    "2024-02-30",
    "10000-01-01",
    "0001-01-01T00:00:00+14:00",
    "00000000-0000-0000-0000-000000000000",
    "a\0b",
    RAW := "%ED%A0%80",  # a lone surrogate
    "%FF%FE",
    "%",
    "🤖",
    "机器人",
    "'\";--",
    "..%2F..%2Fetc%2Fpasswd",
    "[" * 300 + "]" * 300,
    "a[b][c]=d",
    "x" * 6000,
    "\r\nX-Odd: 1",
    "new",
)
HARSH = ("9999-12-31", "9" * 19, "a\0b", RAW, "[" * 300, "-1")
EVERY = 1 if AT_LENGTH else 12
PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>|\{(\w+)\}|\(\?P<(\w+)>(?:[^()]|\([^)]*\))*\)")


def some_of(values, place):
    """Every EVERY-th of them, the next ones for the next place."""
    return [value if "%" in value else quote(value, safe="") for value in values[place % EVERY :: EVERY]]


def page_routes(resolver=None, before=""):
    """The routes of the URLconf; the API's, which its schema names, are left out."""
    for entry in (resolver or get_resolver()).url_patterns:
        route = before + str(entry.pattern).lstrip("^").rstrip("$")
        if route.startswith("api/"):
            continue
        if hasattr(entry, "url_patterns"):
            yield from page_routes(entry, route)
        else:
            yield "/" + route


def api_routes():
    """(route, names of its query parameters) of every GET."""
    for path, operations in api.get_openapi_schema()["paths"].items():
        if "get" in operations:
            given = operations["get"].get("parameters", [])
            yield path, {each["name"] for each in given if each["in"] == "query"}


def as_meant(route, known):
    """A value for each parameter of a route: the first that it names itself, or what is known for its own name or after
    the last fixed word before it, which is stations in /labs/<lab>/stations/<station>.
    """
    values = []
    for match in PARAMETER.finditer(route):
        named = re.search(r">(\w+)\|", match.group())
        word = re.findall(r"[a-z_.]+", PARAMETER.sub(" ", route[: match.start()]))[-1]
        assert named or word in known, f"{route}: say in `known` of this file what may stand after {word}."
        own = next(name for name in match.groups() if name)
        values.append(named.group(1) if named else known.get(own, known[word]))
    return values


def fill(route, values):
    given = iter(values)
    return PARAMETER.sub(lambda match: next(given), route).replace("\\", "")


class Recorded(QueryDict):
    """request.GET, which notes what is asked of it."""

    asked: ClassVar[set[str]] = set()

    def _note(self, key):
        if isinstance(key, str):
            Recorded.asked.add(key)

    def __getitem__(self, key):
        self._note(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self._note(key)
        return super().__contains__(key)

    def get(self, key, default=None):
        self._note(key)
        return super().get(key, default)

    def getlist(self, key, default=None):
        self._note(key)
        return super().getlist(key, default)


@pytest.fixture
def recording(monkeypatch):
    def read(request):
        return Recorded(request.META["QUERY_STRING"], encoding=request._encoding)

    recorded = cached_property(read)
    recorded.__set_name__(ASGIRequest, "GET")
    monkeypatch.setattr(ASGIRequest, "GET", recorded)
    for name in ("httpx", "django.request"):  # thousands of lines
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)


@pytest.fixture
def known(lab, sft_run, improve_run, settings):
    """By the word before it, or by its own name, a value that is there: without one a new route can't be tried."""
    lab.connect()
    for role in ROLES:
        lab.as_(role)  # logged in here, where the database may be asked
    episode = make_episode()
    assert lab.upload(as_upload(episode)).status_code == 200
    add_checkpoint(improve_run, "policy")
    Metric.objects.create(run=sft_run, seq=1, kind="loss", data={"step": 1}, at=timezone.now())
    request = attention.note_need(
        station=lab.stations[0], need=need_of(state="stopped", reason="by a person", state_for_s=1.0)
    )
    contact = {"name": "night", "address": "json://localhost:1/hook", "severity": "error", "after_s": 0}
    contact = attention.add_contact(lab=lab.row, user=lab.users["manager"], **contact)
    invitation, token = people.invite_member(lab=lab.row, user=lab.users["manager"], role="viewer")
    made, _ = tokens.make_access_token(user=lab.users["manager"], name="n", scopes=["read"], lab=None, days=1)
    coming = Import.objects.create(lab=lab.row, name="coming", kind="archive", state="uploading", size=9)
    going = Export.objects.create(lab=lab.row, dataset=sft_run.dataset, kind="lerobot")
    settings.IMPORT_ROOTS = [settings.DATA]
    model = add_model(lab, write_model(settings.DATA / "small-bert"))
    improve_run.dir.mkdir(parents=True)
    (improve_run.dir / "log.txt").write_text("it began\n")
    view = run_notes.save_view(lab=lab.row, user=lab.users["manager"], name="mine", query="")
    given = {"kind": "sft", "recipe": {}, "space": {"batch": {"choices": [2, 4]}}, "objective": "loss.bc"}
    sweep = sweeps.launch_sweep(lab=lab.row, user=lab.users["manager"], dataset=sft_run.dataset, **given)
    return {
        "labs": lab.slug,
        "tokens": str(made.pk),
        "attention": str(request.pk),
        "contacts": str(contact.pk),
        "people": str(lab.row.memberships.get(role="viewer").pk),
        "invited": str(invitation.pk),
        "stations": lab.stations[0].slug,
        "tasks": lab.task.slug,
        "runs": str(improve_run.pk),
        "views": str(view.pk),
        "sweeps": str(sweep.pk),
        "datasets": str(sft_run.dataset_id),
        "imports": str(coming.pk),
        "exports": str(going.pk),
        "alarms": "1",
        "promotions": "1",
        "comparisons": "1",
        "checks": "1",
        "models": str(sft_run.newest_checkpoint("reward_model").uuid),  # reward models
        "model": str(model.pk),
        "model_id": str(model.pk),
        "sha256": model.sha256,
        "file": "config.json",
        "episodes": episode.uuid,
        "frames": "0",
        "position": "0",  # of an episode in a dataset
        "assignments": str(improve_run.assignments.get().pk),
        "help": str(request.pk),
        "export.": "csv",
        "invitations": token,
        "checkpoints": str(sft_run.newest_checkpoint("policy").uuid),
    }


class Visitor:
    """A browser of one role at the real application, with its own guards before Django's."""

    def __init__(self, lab, role=None):
        transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
        cookies = {"csrftoken": "a" * 32}
        if role:
            cookies["sessionid"] = lab.as_(role).cookies["sessionid"].value
        headers = {"X-CSRFToken": "a" * 32, "Authorization": f"Bearer {lab.tokens['arm-1']}"}
        self.client = httpx.AsyncClient(
            transport=transport, base_url="http://testserver", cookies=cookies, headers=headers
        )
        self.failed = []

    async def ask(self, path, query="", method="GET"):
        url = httpx.URL("http://testserver").copy_with(raw_path=(path + (f"?{query}" if query else "")).encode())
        answer = await self.client.request(method, url)
        if answer.status_code >= 500:
            self.failed.append(f"{answer.status_code} {method} {path[:60]} {path[-60:]}?{query[:60]}")
        return answer


def linked(html, found):
    """Notes the parameters that a page's links and forms give to other pages."""
    for link in re.findall(r'(?:href|action)="([^"]+)"', html):
        parts = urlsplit(link.replace("&amp;", "&"))
        try:
            route = "/" + resolve(parts.path).route
        except Resolver404:
            continue
        found.setdefault(route, set()).update(name for name, _ in parse_qsl(parts.query, keep_blank_values=True))


async def test_no_path_part_and_no_parameter_gives_a_5xx(lab, known, recording):
    visitor = Visitor(lab, "manager")
    routes, queries = dict(api_routes()), {}
    pages = list(page_routes())
    assert len(pages) > 20 and len(routes) > 10
    # First as they are meant, which shows what each reads.
    methods = {}
    for route in pages:
        path = fill(route, as_meant(route, known))
        assert (await visitor.ask(path)).status_code in (200, 302, 405, 422), (
            path
        )  # 422: it wants parameters, and says so
        names, before = queries.setdefault(route, set()), None
        while before != names:  # some parameters are read only where others are given
            before = set(names)
            Recorded.asked = set()
            answer = await visitor.ask(path, "&".join(f"{name}=1" for name in sorted(names)))
            names |= Recorded.asked
            linked(answer.text if "html" in answer.headers.get("content-type", "") else "", queries)
        methods[route] = "POST" if answer.status_code == 405 else "GET"
    assert {"until", "person", "page"} <= queries["/labs/<slug:lab_slug>/audit"]
    assert {"kind", "parent", "dataset"} <= queries["/labs/<slug:lab_slug>/runs/new"]
    queries |= routes
    number = count()
    for route in [*pages, *routes]:
        method = methods.get(route, "GET")
        meant = as_meant(route, known)
        for place in range(len(meant)):
            for value in some_of(ODD, next(number)):
                await visitor.ask(fill(route, [*meant[:place], value, *meant[place + 1 :]]), method=method)
        for name in sorted(queries.get(route, ())) if method == "GET" else ():
            for value in some_of(ODD, next(number)):
                await visitor.ask(fill(route, meant), f"{name}={value}")
    assert not visitor.failed, "\n".join(visitor.failed)


@pytest.mark.parametrize("role", ["viewer", "supervisor", "researcher", None])
async def test_nor_for_any_role_with_all_parameters_at_once(lab, known, recording, role):
    visitor = Visitor(lab, role)
    routes = dict(api_routes())
    for number, route in enumerate([*page_routes(), *routes]):
        path = fill(route, as_meant(route, known))
        Recorded.asked = set()
        await visitor.ask(path)
        names = sorted(routes.get(route, Recorded.asked))
        for value in some_of(HARSH, number):
            await visitor.ask(path, "&".join(f"{name}={value}" for name in names))
            await visitor.ask(fill(route, [value for _ in as_meant(route, known)]))
    assert not visitor.failed, "\n".join(visitor.failed)


async def test_pages_of_errors_give_their_connections_back(lab, known):
    """Django renders them in threads that no request owns: each kept a connection, until the pool had none left."""

    def held():
        numbers = DatabaseWrapper._connection_pools["default"].get_stats()
        return numbers["pool_size"] - numbers["pool_available"]

    visitor = Visitor(lab, "viewer")
    await visitor.ask("/labs/east/")
    before = held()
    for path, status in (("/nowhere", 404), ("/labs/nowhere/", 404), ("/labs/east/people", 403)):
        answers = await asyncio.gather(*(visitor.ask(path) for _ in range(12)))
        assert {answer.status_code for answer in answers} == {status}
    assert held() == before

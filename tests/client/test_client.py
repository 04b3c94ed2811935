"""The client alone, against answers that are made up: what it says again and what not, downloads that break off, and
which token goes where.
"""

import asyncio
import base64
import hashlib
import json
import stat
from collections import Counter

import httpx
import pytest
from fleetui_client import (
    AsyncFleet,
    BadAnswer,
    Fleet,
    FleetError,
    NotAuthorised,
    NotLoggedIn,
    Refused,
    Unreachable,
    commands,
    model_commands,
)
from fleetui_client import transfers as transfers_module
from fleetui_client.answers import DatasetRow, Level, Me
from fleetui_client.login import Login, find_login, login_file, read_login, write_login
from fleetui_client.reading import plain, read
from typer.testing import CliRunner

ME = {"name": "ada", "labs": [{"slug": "east", "name": "East", "role": "manager"}], "token": None}
DATASET = {
    **{"id": 1, "name": "d", "families": ["a"], "embodiment": "", "episodes": 3, "steps": 9, "state": "ready"},
    **{"progress": 1, "error": "", "seed": 0, "archived_at": None, "created_at": "2026-01-02T03:04:05+00:00"},
    **{"version": 1, "current": True, "parent": None, "origin": {}, "tags": [], "notes": "", "listed": True},
    "single": True,
}
STOPPED = {"id": "", "stopped": 0, "recorded": True, "stations": [], "complete": True, "detail": ""}


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("FLEET_URL", "FLEET_TOKEN", "FLEET_LAB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfers_module, "wait_of", lambda answer, otherwise: 0.0)
    for module in ("fleetui_client.synchronous", "fleetui_client.asynchronous"):
        monkeypatch.setattr(f"{module}.wait_of", lambda answer, otherwise: 0.0)
        monkeypatch.setattr(f"{module}.waits", lambda: iter([0.0] * 4))


def fleet(answer, lab="east"):
    return Fleet("http://fleet.test/", "fleet_1_2", lab, transport=httpx.MockTransport(answer))


def refusing(status, code="refused", detail="It can't be done, for a reason."):
    return httpx.Response(status, json={"detail": detail, "code": code})


# Who and where


def test_the_only_lab_is_taken_and_of_several_one_must_be_said():
    def answer(request):
        return httpx.Response(200, json=ME if request.url.path.endswith("/me") else {"items": [], "count": 0})

    with fleet(answer, lab="") as one:
        assert list(one.list_runs()) == [] and one.lab() == "east"
    more = {**ME, "labs": [*ME["labs"], {"slug": "west", "name": "West", "role": "viewer"}]}
    with fleet(lambda request: httpx.Response(200, json=more), lab="") as several, pytest.raises(FleetError) as said:
        list(several.list_runs())
    assert "east, west" in str(said.value)


def test_a_kept_token_goes_to_no_other_address(monkeypatch):
    with pytest.raises(NotLoggedIn):
        find_login()
    path = write_login(Login("http://fleet.test", "secret", "east"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert find_login() == Login("http://fleet.test", "secret", "east")
    assert find_login("http://fleet.test/").token == "secret"
    monkeypatch.setenv("FLEET_URL", "http://elsewhere.test")
    with pytest.raises(NotLoggedIn):
        find_login()
    monkeypatch.setenv("FLEET_TOKEN", "another")
    assert find_login() == Login("http://elsewhere.test", "another", "")


def test_a_damaged_login_is_none():
    login_file().parent.mkdir(parents=True)
    for text in ("", "{", "[]", '{"url": "x"}', "null"):
        login_file().write_text(text)
        assert read_login() is None


def test_no_redirect_carries_the_token_away():
    seen = []

    def answer(request):
        seen.append(request.url.host)
        return httpx.Response(302, headers={"Location": "http://elsewhere.test/"})

    with fleet(answer) as one, pytest.raises(BadAnswer):
        one.me()
    assert seen == ["fleet.test"]


# What is said again


def test_what_only_asks_is_asked_again():
    tries = []

    def answer(request):
        tries.append(request)
        if len(tries) == 1:
            raise httpx.ReadTimeout("slow")
        return refusing(503, "database_away") if len(tries) == 2 else httpx.Response(200, json=ME)

    with fleet(answer) as one:
        assert one.me().name == "ada" and len(tries) == 3
        assert tries[0].headers["Authorization"] == "Bearer fleet_1_2"


def test_a_launch_is_said_again_with_its_key_and_a_command_is_not():
    seen = []

    def answer(request):
        seen.append(request)
        raise httpx.ReadTimeout("slow")

    with fleet(answer) as one:
        with pytest.raises(Unreachable):
            one.launch_run("sft", dataset=1)
        keys = {request.headers["Idempotency-Key"] for request in seen}
        assert len(seen) == 5 and len(keys) == 1
        seen.clear()
        for act in (lambda: one.command_station("arm-1", "reset"), lambda: one.cancel_run(1)):
            with pytest.raises(Unreachable):
                act()
        assert len(seen) == 2 and not any("Idempotency-Key" in request.headers for request in seen)


def test_what_was_never_sent_may_be_sent():
    tries = []

    def answer(request):
        tries.append(request)
        if len(tries) < 3:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"id": "c", "epoch": 0})

    with fleet(answer) as one:
        assert one.command_station("arm-1", "pause").id == "c" and len(tries) == 3


def test_a_stop_that_is_said_again_is_one_stop():
    ids = []

    def answer(request):
        ids.append(json.loads(request.content)["id"])
        if len(ids) == 1:
            raise httpx.ReadTimeout("slow")
        return httpx.Response(200, json=STOPPED)

    with fleet(answer) as one:
        one.stop_stations("arm-1")
    assert len(ids) == 2 and len(set(ids)) == 1


def test_an_upload_is_said_again_as_a_whole(tmp_path):
    (tmp_path / "d.st").write_bytes(b"e" * 300_000)
    bodies, told = [], []

    def answer(request):
        bodies.append((request.read(), request.headers["Idempotency-Key"], request.headers["Content-Length"]))
        assert "Transfer-Encoding" not in request.headers
        return refusing(503) if len(bodies) == 1 else httpx.Response(200, json=DATASET)

    with fleet(answer) as one:
        made = one.push_dataset(tmp_path / "d.st", "d", progress=lambda done, total: told.append((done, total)))
    assert made.id == 1 and len(bodies) == 2 and bodies[0] == bodies[1] and bodies[0][2] == "300000"
    assert told[-1] == (300_000, 300_000)


# What goes wrong


@pytest.mark.parametrize("status, kind", [(401, NotAuthorised), (403, NotAuthorised), (404, Refused), (422, Refused)])
def test_a_refusal_has_its_sentence(status, kind):
    with fleet(lambda request: refusing(status)) as one, pytest.raises(kind, match="for a reason") as said:
        one.me()
    assert said.value.status == status and said.value.code == "refused"


def test_what_is_no_fleet_is_said_to_be_none():
    for answer in (httpx.Response(200, text="<html>"), httpx.Response(404, text="no"), httpx.Response(200, json={})):
        with fleet(lambda request, answer=answer: answer) as one, pytest.raises(BadAnswer):
            one.me()


def test_answers_are_read_by_their_types():
    row = read(DatasetRow, DATASET | {"new_field": 1})
    assert row.created_at.year == 2026 and type(row.progress) is float and row.archived_at is None
    assert read(DatasetRow, plain(row)) == row
    assert read(Me, ME).labs[0].slug == "east"
    for wrong in (
        {"id": "1"},
        {"id": True},
        {"families": "a"},
        {"families": [1]},
        {"created_at": "now"},
        {"name": None},
    ):
        with pytest.raises(BadAnswer):
            read(DatasetRow, DATASET | wrong)
    with pytest.raises(BadAnswer):
        read(Level, {"version": 1})


# Downloads


class Disk:
    """A server of one file, whose line breaks off after so many bytes, once for each entry of `breaks`."""

    def __init__(self, content, breaks=(), digest=None, tag='"a"'):
        self.content, self.breaks, self.tag = content, list(breaks), tag
        self.digest = digest or hashlib.sha256(content).digest()
        self.asked = []

    def __call__(self, request):
        asked = request.headers.get("Range", "")
        self.asked.append(asked)
        start = int(asked[6:-1]) if asked and request.headers.get("If-Range") == self.tag else 0
        part, size = self.content[start:], len(self.content)
        if start >= size:
            return httpx.Response(416, json={})
        headers = {"ETag": self.tag, "Content-Length": str(len(part))}
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(self.digest).decode()}:"
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        cut = self.breaks.pop(0) if self.breaks else None

        def pieces():
            yield part[:cut] if cut is not None else part
            if cut is not None:
                raise httpx.ReadError("broken")

        return httpx.Response(206 if start else 200, headers=headers, content=pieces())


CONTENT = bytes(range(256)) * 4000


def test_a_download_goes_on_where_it_broke_off(tmp_path):
    disk, told = Disk(CONTENT, breaks=[300_000, 300_000]), []
    with fleet(disk) as one:
        path = one.pull_checkpoint(
            "u", tmp_path / "to" / "p.st", progress=lambda done, total: told.append((done, total))
        )
    assert path.read_bytes() == CONTENT and len(disk.asked) == 3
    assert disk.asked[0] == "" and disk.asked[1].startswith("bytes=") and told[-1] == (len(CONTENT), len(CONTENT))
    assert [each.name for each in path.parent.iterdir()] == ["p.st"]


def test_what_an_earlier_process_fetched_is_not_fetched_again(tmp_path):
    first = Disk(CONTENT, breaks=[600_000] * 9)
    first.breaks = [600_000, 0, 0, 0, 0]
    with fleet(first) as one, pytest.raises(Unreachable):
        one.pull_dataset(1, tmp_path / "d.st")
    assert not (tmp_path / "d.st").exists()
    have = (tmp_path / "d.st.part").stat().st_size
    assert have > 200_000
    again = Disk(CONTENT)
    with fleet(again) as one:
        assert one.pull_dataset(1, tmp_path / "d.st").read_bytes() == CONTENT
    assert again.asked == [f"bytes={have}-"]


def test_another_file_by_now_is_fetched_as_a_whole(tmp_path):
    (tmp_path / "d.st.part").write_bytes(b"old" * 1000)
    (tmp_path / "d.st.part.etag").write_text('"old"')
    with fleet(Disk(CONTENT)) as one:
        assert one.pull_dataset(1, tmp_path / "d.st").read_bytes() == CONTENT


def test_a_beginning_that_is_too_long_is_thrown_away(tmp_path):
    (tmp_path / "d.st.part").write_bytes(CONTENT + b"more")
    (tmp_path / "d.st.part.etag").write_text('"a"')
    with fleet(Disk(CONTENT)) as one:
        assert one.pull_dataset(1, tmp_path / "d.st").read_bytes() == CONTENT


def test_a_damaged_download_is_not_kept(tmp_path):
    with fleet(Disk(CONTENT, digest=b"x" * 32)) as one, pytest.raises(FleetError, match="damaged"):
        one.pull_checkpoint("u", tmp_path / "p.st")
    assert list(tmp_path.glob("p.st*")) == []


def test_a_file_that_is_there_stays(tmp_path):
    (tmp_path / "p.st").write_bytes(b"mine")
    with fleet(Disk(CONTENT)) as one:
        with pytest.raises(FleetError, match="exists already"):
            one.pull_checkpoint("u", tmp_path / "p.st")
        assert (tmp_path / "p.st").read_bytes() == b"mine"
        one.pull_checkpoint("u", tmp_path / "p.st", overwrite=True)
    assert (tmp_path / "p.st").read_bytes() == CONTENT


def test_a_refused_download_says_why_at_once(tmp_path):
    seen = Counter()

    def answer(request):
        seen["calls"] += 1
        return refusing(404, detail="East has no checkpoint u.")

    with fleet(answer) as one, pytest.raises(Refused, match="no checkpoint"):
        one.pull_checkpoint("u", tmp_path / "p.st")
    assert seen["calls"] == 1


# Both kinds


def test_lists_come_page_by_page():
    rows = [DATASET | {"id": number} for number in range(250)]

    def answer(request):
        start, size = int(request.url.params["offset"]), int(request.url.params["limit"])
        return httpx.Response(200, json={"items": rows[start : start + size], "count": len(rows)})

    with fleet(answer) as one:
        assert [row.id for row in one.list_datasets()] == list(range(250))

    async def all_of_them():
        transport = httpx.MockTransport(answer)
        async with AsyncFleet("http://fleet.test", "t", "east", transport=transport) as many:
            return [row.id async for row in many.list_datasets()]

    assert asyncio.run(all_of_them()) == list(range(250))


def test_a_download_by_the_event_loop(tmp_path):
    class Asynchronous(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield CONTENT

    def answer(request):
        return httpx.Response(200, headers={"Content-Length": str(len(CONTENT))}, stream=Asynchronous())

    async def fetch():
        async with AsyncFleet("http://fleet.test", "t", "east", transport=httpx.MockTransport(answer)) as one:
            return await one.pull_episode("u", tmp_path / "e.st")

    assert asyncio.run(fetch()).read_bytes() == CONTENT


# The command `fleet`


def test_models_are_listed_with_what_a_recipe_calls_them(monkeypatch):
    model = {
        **{"id": 3, "sha256": "2ad1" * 16, "name": "all-MiniLM", "architecture": "BertModel", "kind": "text"},
        **{"serves": ["vision", "text"], "licence": "mit", "size": 3 * 2**20, "files": [], "by": "ada"},
        **{"created_at": "2026-01-02T03:04:05+00:00", "archived_at": None},
    }
    kept = {"False": [model], "True": []}

    def answer(request):
        found = kept[request.url.params["archived"].capitalize()]
        return httpx.Response(200, json={"items": found, "count": len(found)})

    monkeypatch.setattr(model_commands, "Fleet", lambda lab: fleet(answer))
    monkeypatch.setenv("COLUMNS", "200")
    type_ = lambda *words: CliRunner().invoke(commands.app, ["models", "list", *words])  # noqa: E731
    shown = type_()
    assert shown.exit_code == 0, shown.output
    for told in ("all-MiniLM", "vision, text", "3.0 MiB", model["sha256"]):
        assert told in shown.output
    assert [each["sha256"] for each in json.loads(type_("--json").output)] == [model["sha256"]]
    assert "There are none." in type_("--archived").output

"""A LeRobot dataset on its way to a fleet: packed without a copy, sent in pieces, gone on with after interruptions."""

import hashlib
import io
import tarfile

import httpx
import pytest
from fleetui_client import Fleet, FleetError, Refused, Unreachable
from fleetui_client import synchronous as synchronous_module
from fleetui_client.packing import is_dataset, packed

IMPORT = {
    **{
        "id": 7,
        "name": "d",
        "of": "dataset",
        "model": None,
        "kind": "archive",
        "place": "d.tar",
        "state": "uploading",
        "phase": "",
        "progress": 0.0,
    },
    **{"error": "", "problems": [], "questions": [], "size": 0, "received": 0, "sha256": "", "dataset": None},
    **{"created_at": "2026-01-02T03:04:05+00:00", "ended_at": None},
}


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    monkeypatch.setattr(synchronous_module, "SENT_AT_ONCE", 1000)
    monkeypatch.setattr(synchronous_module, "wait_of", lambda answer, otherwise: 0.0)
    monkeypatch.setattr(synchronous_module, "waits", lambda: iter([0.0] * 4))


@pytest.fixture
def folder(tmp_path):
    """A folder of a dataset, with what does not belong to it."""
    top = tmp_path / "arm"
    for name, size in (("meta/info.json", 20), ("data/chunk-000/file-000.parquet", 1337), (f"videos/{'x' * 150}", 512)):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(bytes(range(256)) * (size // 256) + b"e" * (size % 256))
    (top / "empty").write_bytes(b"")
    (top / ".cache").mkdir()
    (top / ".cache" / "lock").write_text("of another program")
    (top / "linked.bin").symlink_to(top / "meta" / "info.json")
    return top


class Server:
    """Takes pieces; each of `faults` goes wrong once: "before" a piece is there, "after" it, or with a status."""

    def __init__(self, faults=(), row=None):
        self.faults, self.row, self.got, self.asked = list(faults), row, b"", []

    def __call__(self, request):
        path = request.url.path.removeprefix("/api/labs/east/")
        self.asked.append(f"{request.method} {path}")
        if request.method == "GET" and path == "imports":
            rows = [self.row] if self.row else []
            return httpx.Response(200, json={"items": rows, "count": len(rows)})
        if path == "imports/uploads":
            told = request.read()
            assert b'"sha256"' in told and "Idempotency-Key" in request.headers
            self.row = IMPORT | {"size": int(told.split(b'"size":')[1].split(b",")[0])}
        elif request.method == "PUT":
            fault = self.faults.pop(0) if self.faults else None
            if fault == "before":
                raise httpx.WriteError("broken")
            if isinstance(fault, int):
                return httpx.Response(fault, json={"detail": "It can't be taken, for a reason.", "code": "refused"})
            offset, body = int(request.url.params["offset"]), request.read()
            assert hashlib.sha256(body).hexdigest() == request.url.params["sha256"]
            if offset > len(self.got):
                return httpx.Response(409, json={"detail": "Go on elsewhere.", "code": "conflict"})
            self.got = self.got[:offset] + body
            whole = len(self.got) == self.row["size"]
            self.row |= {"received": len(self.got), "state": "checking" if whole else "uploading"}
            if fault == "after":
                raise httpx.ReadError("broken")
        return httpx.Response(200, json=self.row)


def send(server, source, **more):
    with Fleet("http://fleet.test", "fleet_1_2", "east", transport=httpx.MockTransport(server)) as fleet:
        return fleet.import_dataset(source, "d", **more)


def test_a_folder_is_the_tar_that_it_would_be_the_same_each_time(folder):
    found = packed(folder)
    whole = found.read(0, found.size)
    assert len(whole) == found.size and whole == packed(folder).read(0, found.size + 99)
    assert found.sha256() == hashlib.sha256(whole).hexdigest()
    for start, size in ((0, 1), (511, 600), (found.size - 3, 99), (1400, 2000)):
        assert found.read(start, size) == whole[start : start + size]
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        names = archive.getnames()
        assert len(names) == 5 and "arm/empty" in names and not any(".cache" in name for name in names)
        for member in archive:
            assert member.isreg() and archive.extractfile(member).read() == (folder.parent / member.name).read_bytes()


def test_what_is_no_dataset_is_not_sent(tmp_path, folder):
    (tmp_path / "other").mkdir()
    (tmp_path / "none.zip").write_bytes(b"")
    server = Server()
    for name, said in (("other", "no meta/info.json"), ("none.zip", "is empty")):
        with pytest.raises(FleetError, match=said):
            send(server, tmp_path / name)
    assert server.asked == []
    assert is_dataset(folder) and is_dataset(tmp_path / "a.TAR") and not is_dataset(tmp_path / "a.safetensors")


@pytest.mark.parametrize("faults", [(), ("before",), ("after",), (503, "after", "before"), ("after",) * 9])
def test_it_goes_on_with_the_byte_that_the_server_has_not_got(folder, faults):
    server, told = Server(faults), []
    row = send(server, folder, progress=lambda done, total: told.append((done, total)))
    content = packed(folder)
    assert server.got == content.read(0, content.size) and row.state == "checking"
    assert told[0] == (0, content.size) and told[-1] == (content.size, content.size)
    asked = sum(each.startswith("GET imports/7") for each in server.asked)
    assert asked == min(len(faults), -(-content.size // 1000)), "it asks only where it can't know"


def test_what_an_earlier_process_sent_is_not_sent_again(folder):
    content = packed(folder)
    row = IMPORT | {"size": content.size, "sha256": content.sha256(), "received": 3000}
    server = Server(row=row)
    server.got = content.read(0, 3000)
    send(server, folder)
    assert "POST imports/uploads" not in server.asked and server.got == content.read(0, content.size)
    other = Server(row=row | {"sha256": "0" * 64})
    send(other, folder)
    assert "POST imports/uploads" in other.asked, "it is another dataset of the same name"


def test_it_gives_up_where_nothing_arrives_and_says_so(folder):
    server = Server(["before"] * 9)
    with pytest.raises(Unreachable):
        send(server, folder)
    assert len(server.faults) == 4, "five tries"
    with pytest.raises(Refused, match="for a reason"):
        send(Server([422]), folder)


def test_a_file_that_shrinks_meanwhile_is_named(folder):
    found = packed(folder)
    (folder / "meta" / "info.json").write_text("{}")
    with pytest.raises(FleetError, match=r"(info\.json|linked\.bin) has become shorter"):
        found.sha256()

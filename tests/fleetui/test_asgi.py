"""What is refused before Django reads it: bodies too large for anyone, and addresses that no name here can have."""

import asyncio
import json

import pytest

from fleetui import asgi


def ask(path="/api/station/episodes", query=b"", headers=(), chunks=()):
    """The answer's status and sentence, and how many chunks of the body were taken."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": query,
        "headers": [(b"host", b"localhost"), *headers],
    }
    taken, said = [], []

    async def receive():
        taken.append(len(taken))
        return {"type": "http.request", "body": chunks[len(taken) - 1], "more_body": len(taken) < len(chunks)}

    async def send(message):
        said.append(message)

    asyncio.run(asgi.pages(scope, receive, send))
    return said[0]["status"], json.loads(said[1]["body"])["detail"], len(taken)


def test_an_announced_body_that_is_too_large_is_refused_unread():
    status, sentence, taken = ask(headers=[(b"content-length", str(100 * 2**20).encode())], chunks=[b"x"])
    assert (status, taken) == (413, 0) and "64 MiB" in sentence


def test_an_unannounced_body_is_refused_once_too_much_has_come(monkeypatch):
    monkeypatch.setattr(asgi, "LARGEST_BODY", 2500)
    status, sentence, taken = ask(chunks=[bytes(1000)] * 50)
    assert (status, taken) == (413, 3) and "64 MiB" in sentence


@pytest.mark.parametrize("address", [{"path": "/labs/ma\0in/"}, {"query": b"q=%00"}])
def test_a_nul_in_the_address_is_refused(address):
    status, sentence, _ = ask(**address)
    assert status == 400 and "NUL" in sentence

import asyncio
import contextlib
import errno
import json
import threading
import time
import uuid
from http import HTTPStatus
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.asyncio.server import serve

from robots import link as link_module
from robots import protocol, transfers
from robots.episodes import Episode
from robots.link import FRAME_HEADER, Link, LinkThread
from robots.protocol import CommandDone, Hello, Policy, PolicyLoaded, Telemetry, Touch
from robots.transfers import (
    Broken,
    CheckpointCache,
    LinkError,
    MissingToken,
    NotAdmitted,
    Refused,
    Spool,
    Unreachable,
    upload,
)
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.robots.fake_server import until
from tests.robots.station_fakes import Clock


@pytest.fixture
def connect(tmp_path):
    """Make links that end with the test."""
    thread = LinkThread()

    def connect(server, token="good-token", folder=tmp_path, **options):
        link = Link(server.url, token, Hello(embodiment=LANGUAGE_TABLE.to_json()), folder, name="arm", **options)
        thread.add(link)
        link.thread = thread
        return link

    yield connect
    thread.close()


def an_episode(steps=3, instruction="push the blue cube to the green star", purpose="practice"):
    return Episode(
        uuid=str(uuid.uuid4()),
        embodiment="language_table",
        task="block2block",
        instruction=instruction,
        observations={
            key: np.zeros((steps + 1, feature.size), np.float32) for key, feature in LANGUAGE_TABLE.observation.items()
        },
        actions=np.zeros((steps, 2), np.float32),
        actors=np.zeros(steps, np.uint8),
        steps_to_go=np.full(steps + 1, np.nan, np.float32),
        ending="time_limit",
        detected_success=False,
        true_success=None,
        purpose=purpose,
        policy="policy-1",
    )


def received(link, kind, seconds=60.0):
    got = []

    def look():
        got.extend(message for message, _ in link.received())
        return [message for message in got if kind == message.TYPE]

    return until(look, seconds)


def test_a_link_says_hello_and_carries_messages_both_ways(server, connect):
    link = connect(server)
    received(link, "welcome")
    assert server.of("hello")[0]["embodiment"]["name"] == "language_table"
    link.send(PolicyLoaded(checkpoint="p"))
    until(lambda: server.of("policy_loaded"))
    until(lambda: server.sockets)
    server.command("pause")
    assert received(link, "command")[0].name == "pause"


def test_a_broken_connection_is_made_again_and_nothing_that_must_arrive_is_lost(server, connect):
    link = connect(server)
    until(lambda: server.sockets)
    server.stop()
    until(lambda: not link.connected)
    for number in range(20):
        link.send(CommandDone(id=str(number), ok=True))
        link.send(Telemetry(state="offline", step=number))
    server.start()
    until(lambda: server.connections == 2)
    until(lambda: len(server.of("command_done")) == 20)
    assert [message["id"] for message in server.of("command_done")] == [str(number) for number in range(20)]
    until(lambda: link.connected)
    server.answers = [(503, "busy")] * 1000
    link.store(an_episode())
    link.send(Telemetry(state="idle", step=20))
    until(lambda: server.of("telemetry"))
    assert server.of("telemetry")[0]["unsent"] == 1, "what lies on its disk only is told"
    assert [message["step"] for message in server.of("telemetry")] == [20], "states of the past are no news"


def test_a_station_knows_a_silent_server_by_its_heartbeats_and_connects_anew(server, connect, monkeypatch):
    """The connection stands, and nothing comes: as after sleep or a lost Wi-Fi. By a clock that the test turns."""
    monkeypatch.setattr(link_module, "LOST_AFTER_S", 0.5)
    clock = Clock()
    link = connect(server, clock=clock)
    until(lambda: link.connected and server.of("heartbeat"))
    for _ in range(3):
        clock.pass_(0.4)
        until(lambda: link.gone_for() == 0)
    assert server.connections == 1, "heartbeats count as life"
    server.beating = False
    until(lambda: clock.pass_(0.02) or server.connections == 2)


@contextlib.contextmanager
def held_up(link):
    """Meanwhile the link's thread gets nothing done, as on a line that is full."""
    held, go_on = threading.Event(), threading.Event()
    link._loop.call_soon_threadsafe(lambda: (held.set(), go_on.wait(60)))
    try:
        assert held.wait(60)
        yield
    finally:
        go_on.set()


def test_telemetry_and_frames_are_latest_only_and_messages_are_all_there(server, connect):
    link = connect(server)
    until(lambda: link.connected)
    image = bytes(200_000)
    with held_up(link):
        for number in range(300):
            link.show(Telemetry(state="idle", step=number))
            link.show_frame(number, 1, 2.5, image)
            if number % 100 == 0:
                link.send(Touch(kind="self_reset", seconds=number))
    until(lambda: server.of("telemetry") and server.frames)
    ((_, frame),) = server.frames
    assert FRAME_HEADER.unpack_from(frame) == (299, 1, 2.5) and len(frame) == 16 + 200_000
    assert [message["step"] for message in server.of("telemetry")] == [299]
    assert [message["seconds"] for message in server.of("touch")] == [0, 100, 200]


def test_of_each_camera_the_newest_frame_goes_and_only_those_beyond_the_first_say_which(server, connect):
    link = connect(server)
    until(lambda: link.connected)
    with held_up(link):
        for number in range(300):
            for camera in range(3):
                link.show_frame(number, 1, 2.5, b"\xff\xd8" + bytes(50_000), camera)
    until(lambda: len(server.frames) == 3)
    assert {frame[16]: FRAME_HEADER.unpack_from(frame)[0] for _, frame in server.frames} == {255: 299, 1: 299, 2: 299}
    assert all(frame[16 + (frame[16] != 255) :].startswith(b"\xff\xd8") for _, frame in server.frames)


def test_frames_wait_for_nobody_while_there_is_no_connection(server, connect):
    server.stop()
    link = connect(server)
    link.show_frame(1, 1, 1.0, b"old")
    assert link._frames == {}


def test_a_command_that_waited_on_the_way_has_its_age_by_the_servers_steady_clock(server, connect):
    server.clock, here = lambda: 50.0, Clock()  # what two steady clocks show has nothing to do with each other
    link = connect(server, clock=here)
    received(link, "welcome")
    until(lambda: server.sockets)
    server.send({"type": "command", "id": "a", "name": "override", "args": {}, "ttl_ms": 500, "sent_at": 47.0})
    assert received(link, "command")[0].age_s == pytest.approx(3)


# Tokens


@pytest.mark.parametrize("token", ["", "  ", None])
def test_a_missing_token_is_said_at_once(tmp_path, token):
    with pytest.raises(MissingToken, match=r"The station arm has no token. A lab manager"):
        Link("http://127.0.0.1:1", token, Hello(), tmp_path, name="arm")


def test_a_wrong_address_is_said_at_once(tmp_path):
    with pytest.raises(LinkError, match="must begin with http"):
        Link("localhost:8000", "t", Hello(), tmp_path)


def test_a_wrong_token_is_said_once_and_never_logged(server, connect, caplog):
    link = connect(server, token="a-wrong-secret")
    until(lambda: "does not admit this station" in caplog.text or "does not know this station's token" in caplog.text)
    time.sleep(0.8)
    assert caplog.text.count("token") == 1
    assert "a-wrong-secret" not in caplog.text and "a-wrong-secret" not in repr(link)
    assert not link.connected


async def linked_until(condition, server, folder):
    port = server.sockets[0].getsockname()[1]
    link = Link(f"http://127.0.0.1:{port}", "good-token", Hello(embodiment=LANGUAGE_TABLE.to_json()), folder)
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_server_that_opens_a_connection_only_to_refuse_is_asked_less_and_less(tmp_path, caplog):
    asked = []

    async def refuse(socket):
        asked.append(time.monotonic())
        await socket.close(4403, "It was revoked.")

    async with serve(refuse, "127.0.0.1", 0) as server:
        await linked_until(lambda: len(asked) > 3, server, tmp_path)
    assert asked[3] - asked[0] >= 0.1 + 0.2 + 0.4, "half of .2, .4 and .8 s at the least"
    assert caplog.text.count("does not admit this station") == 1 and "It was revoked." in caplog.text


async def test_a_redirect_elsewhere_gets_no_token_and_is_forgotten(tmp_path):
    """As the log-in page of a Wi-Fi does it, until somebody has logged in."""
    shown = []

    def portal(connection, request):
        shown.append(request.headers.get("Authorization"))
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "Log in first.")

    def front(connection, request):
        shown.append(request.headers.get("Authorization"))
        if None in shown:
            return None  # somebody has logged in
        answer = connection.respond(HTTPStatus.FOUND, "")
        answer.headers["Location"] = f"ws://127.0.0.1:{elsewhere.sockets[0].getsockname()[1]}/"
        return answer

    async def talk(socket):
        await socket.wait_closed()

    async with serve(talk, "127.0.0.1", 0, process_request=portal) as elsewhere:
        async with serve(talk, "127.0.0.1", 0, process_request=front) as server:
            await linked_until(lambda: len(shown) == 3, server, tmp_path)
    assert shown == ["Bearer good-token", None, "Bearer good-token"]


@pytest.mark.parametrize(
    ("status", "error", "sentence"),
    [
        (401, NotAdmitted, "does not know this station's token"),
        (403, NotAdmitted, "may not do this .*: of another lab"),
        (400, Refused, "cut short on the way .*: of another lab"),
        (422, Refused, "found it wrong .*: of another lab"),
        (413, Refused, "HTTP 413.*: of another lab"),
        (503, Unreachable, "could not answer .*503.*: of another lab"),
        (507, Unreachable, "could not answer .*507.*: of another lab"),
        (500, Broken, "could not answer .*500"),
        (404, Unreachable, "Something else than the fleet's server"),
        (302, Unreachable, "Something else than the fleet's server"),
    ],
)
async def test_each_refusal_of_an_upload_is_a_sentence(server, status, error, sentence):
    server.answers = [(status, "of another lab")]
    async with httpx.AsyncClient(headers={"Authorization": "Bearer good-token"}) as http:
        with pytest.raises(error, match=sentence):
            await upload(http, server.url, [an_episode()])


# Episodes


def test_episodes_go_to_disk_then_to_the_server_and_leave_the_disk(server, connect, tmp_path):
    link = connect(server)
    episodes = [an_episode() for _ in range(5)]
    for episode in episodes:
        link.store(episode)
    until(lambda: len(server.episodes) == 5)
    until(lambda: not list((tmp_path / "spool").glob("*.safetensors")))


def test_the_spool_survives_a_killed_process(server, connect, tmp_path):
    server.stop()
    before = Link(server.url, "good-token", Hello(), tmp_path)  # never ran: as if killed before it could send
    episode = an_episode()
    before.store(episode)
    server.start()
    connect(server)
    until(lambda: episode.uuid in server.episodes)


def test_an_upload_that_fails_is_tried_again_and_loses_nothing(server, connect, tmp_path):
    server.answers = [(503, "busy"), (500, "broken"), (401, "not yet")]
    link = connect(server)
    episode = an_episode()
    link.store(episode)
    until(lambda: server.uploads[episode.uuid] == 1)


def test_one_wrong_episode_neither_blocks_the_others_nor_is_lost(server, connect, tmp_path):
    server.stop()
    link = connect(server)
    good, bad, good_too = an_episode(), an_episode(instruction="wrong shape"), an_episode()
    for episode in (good, bad, good_too):
        link.store(episode)
    server.start()
    until(lambda: {good.uuid, good_too.uuid} <= set(server.episodes))
    refused = until(lambda: list((tmp_path / "spool" / "refused").glob("*.txt")))
    assert bad.uuid in refused[0].name and "wrong shape" in refused[0].read_text()
    assert refused[0].with_suffix("").exists()
    until(lambda: len(link.spool) == 0)


def test_a_file_cut_short_on_disk_is_set_aside_with_the_reason(server, connect, tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.add(an_episode())
    (path,) = (tmp_path / "spool").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-20])
    link = connect(server)
    whole = an_episode()
    link.store(whole)
    until(lambda: whole.uuid in server.episodes)
    assert len(list((tmp_path / "spool" / "refused").glob("*.txt"))) == 1


def test_a_full_spool_gives_up_practice_and_keeps_corrections(tmp_path, monkeypatch):
    monkeypatch.setattr(transfers, "SPOOLED_EPISODES", 3)
    spool = Spool(tmp_path)
    correction = an_episode(purpose="correction")
    for episode in (correction, *(an_episode() for _ in range(5))):
        spool.add(episode)
    assert len(spool) == 3 == len(list(tmp_path.glob("*.safetensors")))
    assert correction.uuid in {episode.uuid for episode in spool.read(spool.next())}


def test_an_episode_that_breaks_the_format_is_said_and_stops_nothing(server, connect, caplog, tmp_path):
    link = connect(server)
    bad, good = an_episode(instruction="push \ud800"), an_episode()
    link.store(bad)
    link.store(good)
    until(lambda: good.uuid in server.episodes)
    assert bad.uuid in caplog.text and "instruction" in caplog.text
    (kept,) = (tmp_path / "spool" / "refused").glob("*.safetensors")
    assert bad.uuid in kept.name and kept.with_name(kept.name + ".txt").read_text(), "it is not lost for that"
    assert link.spool.refused_count == 1


def test_an_episode_at_which_the_server_breaks_is_set_aside_while_others_arrive(server, connect, tmp_path, monkeypatch):
    monkeypatch.setattr(link_module, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(link_module, "LONGEST_DELAY_S", 0.05)
    server.stop()
    link = connect(server)
    poison, good = an_episode(instruction="poison", purpose="correction"), [an_episode() for _ in range(3)]
    for episode in (poison, *good):
        link.store(episode)
    server.start()
    until(lambda: {episode.uuid for episode in good} <= set(server.episodes))
    until(lambda: len(link.spool) == 1)
    time.sleep(0.3)
    assert len(link.spool) == 1, "alone it proves nothing: the server may be in trouble"
    more = []

    def is_set_aside():
        more.append(an_episode())
        link.store(more[-1])
        until(lambda: more[-1].uuid in server.episodes)
        return list((tmp_path / "spool" / "refused").glob("*.txt"))

    (reason,) = until(is_set_aside)
    assert poison.uuid in reason.name and "while others were taken" in reason.read_text()
    assert reason.with_suffix("").exists()
    until(lambda: len(link.spool) == 0)
    until(lambda: link.connected)
    link.send(Telemetry(state="idle"))
    until(lambda: server.of("telemetry"))
    assert (server.of("telemetry")[-1]["refused"], server.of("telemetry")[-1]["unsent"]) == (1, 0), "and it is said"


def test_many_that_break_the_server_do_not_block_the_one_behind_them(server, connect, monkeypatch):
    monkeypatch.setattr(link_module, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(link_module, "LONGEST_DELAY_S", 0.05)
    server.stop()
    link = connect(server)
    for _ in range(70):
        link.store(an_episode(instruction="poison"))
    driven = an_episode(purpose="correction")
    link.store(driven)
    server.start()
    until(lambda: driven.uuid in server.episodes)


def test_a_server_in_trouble_gets_nothing_set_aside(server, connect, monkeypatch):
    monkeypatch.setattr(link_module, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(link_module, "LONGEST_DELAY_S", 0.05)
    server.answers = [(500, "broken")] * 20 + [(507, "the disk is full")] * 20 + [(503, "the database is away")] * 20
    link = connect(server)
    episodes = [an_episode() for _ in range(8)]
    for episode in episodes:
        link.store(episode)
    until(lambda: {episode.uuid for episode in episodes} == set(server.episodes))
    assert link.spool.refused_count == 0 and not server.answers


# The station's own disk


@pytest.fixture
def full_disk(monkeypatch):
    """A switch: while it is on, nothing can be written."""
    switch = {"full": False}

    def unless_full(written):
        def write(path, content, **options):
            if switch["full"]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return written(path, content, **options)

        return write

    monkeypatch.setattr(transfers, "write_atomically", unless_full(transfers.write_atomically))
    monkeypatch.setattr(Path, "write_bytes", unless_full(Path.write_bytes))  # of what is set aside
    return switch


def test_what_a_person_drove_survives_a_full_disk(server, connect, tmp_path, full_disk, caplog):
    server.stop()
    link = connect(server)
    full_disk["full"] = True
    driven = an_episode(purpose="correction")
    link.store(driven)
    assert (len(link.spool), link.spool.in_memory) == (1, 1) and "wait in memory" in caplog.text
    told = json.loads(link._text(Telemetry(state="idle")))
    assert [told[name] for name in ("type", "unsent", "in_memory", "refused", "lost")] == ["telemetry", 1, 1, 0, 0]
    full_disk["full"] = False
    until(lambda: link.spool.in_memory == 0)
    assert len(list((tmp_path / "spool").glob("*-correction-*.safetensors"))) == 1, "as soon as there is room"
    server.start()
    until(lambda: driven.uuid in server.episodes)


def test_what_waits_in_memory_is_sent_from_there(server, connect, full_disk):
    full_disk["full"] = True
    link = connect(server)
    driven = an_episode(purpose="correction")
    link.store(driven)
    until(lambda: driven.uuid in server.episodes)
    until(lambda: len(link.spool) == 0 == link.spool.in_memory)


def test_memory_is_bounded_practice_goes_first_and_what_goes_is_named(tmp_path, full_disk, monkeypatch, caplog):
    full_disk["full"] = True
    spool = Spool(tmp_path)
    driven = [an_episode(purpose="correction") for _ in range(4)]
    spool.add(driven[0])
    size = len(next(iter(spool._in_memory.values())))
    monkeypatch.setattr(transfers, "BYTES_IN_MEMORY", 3 * size + 100)
    practice = an_episode()
    for episode in (practice, *driven[1:]):
        spool.add(episode)
    assert practice.uuid in caplog.text and driven[0].uuid in caplog.text, "never without a word"
    assert {episode.uuid for episode in spool.read(spool.next())} == {episode.uuid for episode in driven[1:]}
    assert (spool.lost_count, spool.in_memory) == (2, 3)


def test_a_spool_full_of_corrections_drops_none(tmp_path, monkeypatch):
    monkeypatch.setattr(transfers, "SPOOLED_EPISODES", 3)
    spool = Spool(tmp_path)
    for _ in range(5):
        spool.add(an_episode(purpose="correction"))
    spool.add(an_episode())
    assert len(spool) == 5 and not list(tmp_path.glob("*-practice-*"))


def test_a_number_that_is_none_leaves_as_null_and_breaks_no_link(server, connect):
    link = connect(server)
    until(lambda: link.connected)
    link.send(Telemetry(state="idle", d=float("inf"), distribution=[float("nan")]))
    until(lambda: server.of("telemetry"))
    assert (server.of("telemetry")[0]["d"], server.of("telemetry")[0]["distribution"]) == (None, [None])


def test_the_answer_hold_names_the_policies_that_it_speaks_of(server, connect):
    server.hold = True
    link = connect(server)
    link.store(an_episode())
    assert received(link, "hold")[0].policies == ("policy-1",)


def test_closing_sends_what_is_left(server, connect):
    link = connect(server)
    until(lambda: link.connected)
    episode = an_episode()
    link.store(episode)
    link.send(Touch(kind="self_reset"))
    link.thread.close()
    assert episode.uuid in server.episodes and server.of("touch")


def test_closing_without_a_server_is_quick_and_keeps_the_spool(server, connect, tmp_path, monkeypatch):
    monkeypatch.setattr(link_module, "FIRST_DELAY_S", 300)
    server.stop()
    link = connect(server)
    link.store(an_episode())
    began = time.monotonic()
    link.thread.close(timeout=1)
    assert time.monotonic() - began < 60, "it waited until the server was to be tried again"
    assert len(list((tmp_path / "spool").glob("*.safetensors"))) == 1


# Checkpoints


A_FILE = {"name": "config.json", "sha256": "a" * 64, "size": 2}
A_MODEL = {"sha256": protocol.model_sum([A_FILE]), "files": [A_FILE]}


def policy_message(server, version=1, content=b"policy", **changes):
    url, sha256 = server.add_file(f"policy-{version}", content)
    judge_url, judge_sha256 = server.add_file("judge", b"judge")
    return {
        "type": "policy",
        "checkpoint": f"policy-{version}",
        "version": version,
        "url": url,
        "sha256": sha256,
        "reward_model": "judge",
        "reward_model_url": judge_url,
        "reward_model_sha256": judge_sha256,
        "threshold": 1.5,
        "consecutive": 2,
    } | changes


def test_a_policy_comes_with_both_files_on_disk_each_downloaded_once(server, connect, tmp_path):
    cache = CheckpointCache(tmp_path / "cache")
    links = [connect(server, folder=tmp_path / str(number), cache=cache) for number in range(2)]
    until(lambda: len(server.sockets) == 2)
    for version in (1, 2):
        server.send(policy_message(server, version, content=b"policy %d" % version))
        for link in links:
            (message,) = received(link, "policy")
            with open(message.path, "rb") as file:
                assert file.read() == b"policy %d" % version
            assert Path(message.reward_model_path).read_bytes() == b"judge"
    assert server.downloads == {"judge": 1, "policy-1": 1, "policy-2": 1}


MODEL = {"config.json": b"{}", "model.safetensors": b"weights", "1_Pooling/config.json": b"{} "}


def test_a_pretrained_model_comes_before_its_policy_once_for_all_stations(server, connect, tmp_path):
    cache = CheckpointCache(tmp_path / "host" / "checkpoints")
    links = [connect(server, folder=tmp_path / str(number), cache=cache) for number in range(2)]
    until(lambda: len(server.sockets) == 2)
    model = server.add_model(MODEL)
    for version in (1, 2):
        server.send(policy_message(server, version, content=b"policy %d" % version, models=[model]))
        for link in links:
            received(link, "policy")
            found = tmp_path / "host" / "models" / model["sha256"]
            assert {name: (found / name).read_bytes() for name in MODEL} == MODEL
    assert {name: server.downloads[name] for name in MODEL} == dict.fromkeys(MODEL, 1)


def test_a_pretrained_model_cut_short_is_fetched_again_and_what_came_whole_is_kept(server, connect, tmp_path):
    link = connect(server)
    until(lambda: server.sockets)
    model = server.add_model(MODEL)
    last = f"{model['sha256']}/model.safetensors"
    server.models[last] = b"weigh"
    server.send(policy_message(server, models=[model]))
    until(lambda: server.downloads["model.safetensors"] >= 2)
    assert not (tmp_path / "models" / model["sha256"]).exists(), "half a model is none"
    server.models[last] = b"weights"
    received(link, "policy")
    assert server.downloads["config.json"] == 1


def test_a_damaged_pretrained_model_is_fetched_again(server, connect, tmp_path):
    model = server.add_model(MODEL)
    stored = tmp_path / "models" / model["sha256"]
    for name, content in (MODEL | {"model.safetensors": b"weight5"}).items():
        (stored / name).parent.mkdir(parents=True, exist_ok=True)
        (stored / name).write_bytes(content)
    link = connect(server)
    until(lambda: server.sockets)
    server.send(policy_message(server, models=[model]))
    received(link, "policy")
    assert (stored / "model.safetensors").read_bytes() == b"weights"


def test_a_pretrained_model_takes_the_place_of_the_oldest(server, connect, tmp_path, monkeypatch):
    monkeypatch.setattr(transfers, "MODELS_KEPT", 1)
    link = connect(server)
    until(lambda: server.sockets)
    for number in range(2):
        model = server.add_model({"config.json": b"%d" % number})
        server.send(policy_message(server, models=[model]))
        received(link, "policy")
        assert [each.name for each in (tmp_path / "models").iterdir()] == [model["sha256"]]


def test_a_server_under_a_sub_path_is_asked_below_it(server, connect):
    server.root = "/fleet"
    link = connect(server)
    until(lambda: server.sockets)
    server.send(policy_message(server))
    received(link, "policy")
    episode = an_episode()
    link.store(episode)
    until(lambda: episode.uuid in server.episodes)


def test_a_checkpoint_cut_short_is_not_used_and_fetched_again(server, connect):
    link = connect(server)
    until(lambda: server.sockets)
    message = policy_message(server, content=b"the whole file")
    server.files["policy-1"] = b"the who"
    server.send(message)
    until(lambda: server.downloads["policy-1"] >= 2)
    assert not [m for m, _ in link.received() if isinstance(m, Policy)]
    server.files["policy-1"] = b"the whole file"
    received(link, "policy")


def test_a_damaged_file_in_the_cache_is_fetched_again(server, connect, tmp_path):
    message = policy_message(server)
    cache = CheckpointCache(tmp_path / "cache")
    (tmp_path / "cache" / f"{message['sha256']}.safetensors").write_bytes(b"polic")
    link = connect(server, cache=cache)
    until(lambda: server.sockets)
    server.send(message)
    with open(received(link, "policy")[0].path, "rb") as file:
        assert file.read() == b"policy"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"url": "http://elsewhere.example/policy"}, "named a checkpoint elsewhere"),
        ({"sha256": "../../etc/passwd"}, "no sha256 sum"),
        ({"url": "/api/station/checkpoints/none"}, "There is no such checkpoint"),
        ({"url": None}, "policy message is wrong: url must be a text"),
        ({"consecutive": "two"}, "policy message is wrong: consecutive must be a whole number"),
        ({"models": [{"sha256": "0" * 64, "files": [A_FILE]}]}, "models must call each model by the sum of its files"),
        ({"models": [{"files": [A_FILE | {"name": "../../x"}]}]}, "models must name files by plain names"),
        ({"models": [{"files": [A_FILE | {"name": ".ssh/x"}]}]}, "models must name files by plain names"),
        ({"models": [A_MODEL]}, "There is no such model"),
    ],
)
def test_a_policy_that_cannot_be_had_is_said(server, connect, changes, sentence):
    link = connect(server)
    until(lambda: server.sockets)
    server.send(policy_message(server) | changes)
    assert sentence in received(link, "policy_failed")[0].reason


def test_a_link_that_broke_begins_anew(server, connect, monkeypatch):
    monkeypatch.setattr(link_module, "LONGEST_DELAY_S", 0.1)
    breaks = iter([True])
    talk = Link._keep_talking

    async def break_once(self):
        if next(breaks, False):
            raise RuntimeError("a message that cannot be sent")
        await talk(self)

    monkeypatch.setattr(Link, "_keep_talking", break_once)
    link = connect(server)
    until(lambda: link.connected)
    link.store(an_episode())
    until(lambda: server.episodes)

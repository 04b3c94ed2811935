import dataclasses
import json
import struct
import tracemalloc
import uuid

import numpy as np
import pytest

from robots.episodes import Episode, EpisodeError, episodes_to_bytes, read_episodes, write_episodes
from robots.worlds.language_table import LANGUAGE_TABLE

ID = str(uuid.UUID(int=7))


def make_episode(steps=5, seed=0, **changes) -> Episode:
    rng = np.random.default_rng(seed)
    values = {
        "uuid": str(uuid.UUID(int=seed + 7)),
        "embodiment": "language_table",
        "task": "block2block",
        "instruction": "push the red moon to the blue cube",
        "observations": rng.normal(size=(steps + 1, LANGUAGE_TABLE.observation_size)).astype(np.float32),
        "actions": rng.normal(size=(steps, 2)).astype(np.float32),
        "actors": np.full(steps, 2, np.uint8),
        "steps_to_go": np.full(steps + 1, np.nan, np.float32),
        "ending": "true_success",
        "detected_success": False,
        "true_success": True,
        "purpose": "demonstration",
        "threshold": 2.5,
        "seed": 3,
        "started_at": 1.5,
    }
    return Episode(**values | changes)


def assert_same(a: Episode, b: Episode):
    for field in dataclasses.fields(Episode):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y, field.name


def test_file_gives_back_what_was_written(tmp_path):
    jpeg = b"\xff\xd8 picture "
    episodes = [
        make_episode(3, 0),
        make_episode(6, 1, frames=[jpeg + bytes([i]) for i in range(7)]),
        make_episode(1, 2),
    ]
    write_episodes(tmp_path / "e.safetensors", episodes)
    for source in (tmp_path / "e.safetensors", (tmp_path / "e.safetensors").read_bytes()):
        for a, b in zip(episodes, read_episodes(source), strict=True):
            assert_same(a, b)
    assert [path.name for path in tmp_path.iterdir()] == ["e.safetensors"]


def test_a_refused_episode_leaves_the_old_file(tmp_path):
    path = tmp_path / "e.safetensors"
    write_episodes(path, [make_episode()])
    before = path.read_bytes()
    with pytest.raises(EpisodeError):
        write_episodes(path, [make_episode(instruction="")])
    assert path.read_bytes() == before


def nan_at(array, row):
    array = array.copy()
    array[row] = np.nan
    return array


GOOD = make_episode()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("observations", nan_at(GOOD.observations, 3), "NaN or infinity at step 3"),
        ("observations", GOOD.observations[:, :10], "44"),
        ("observations", GOOD.observations[:-1], "5 rows, but 5 actions need 6"),
        ("observations", GOOD.observations.astype(np.float64), "float32"),
        ("actions", nan_at(GOOD.actions, 1), "step 1"),
        ("actions", np.zeros((5, 3), np.float32), "language_table has 2"),
        ("actions", np.zeros((0, 2), np.float32), "no step"),
        ("actors", np.zeros(4, np.uint8), "4 rows"),
        ("actors", np.full(5, 9, np.uint8), "below 3"),
        ("actors", np.zeros(5, np.uint8), "wholly by a human or a script"),
        ("steps_to_go", np.full(6, np.inf, np.float32), "infinite"),
        ("ending", "boredom", "unknown"),
        ("purpose", "fun", "unknown"),
        ("instruction", "  ", "empty"),
        ("uuid", "seven", "UUID"),
        ("true_success", 1, "true, false or null"),
        ("threshold", float("nan"), "finite"),
        ("control_hz", 0.0, "0.1 to 1000"),
        ("interventions", -1, "0 or more"),
        ("interventions", 2**40, "at most 100000"),
        ("control_hz", 5e-324, "0.1 to 1000"),
        ("control_hz", 1e9, "0.1 to 1000"),
        ("control_hz", 10**400, "finite"),
        ("started_at", 10**400, "finite"),
        ("seed", 10**400, "64 bits"),
        ("instruction", "push\0", "NUL"),
        ("instruction", "push \ud800", "surrogate"),
        ("instruction", "x" * 301, "301 characters"),
        ("instruction", 7, "must be text"),
        ("task", "\udc00", "surrogate"),
        ("policy", "\ud800", "surrogate"),
        ("reward_model", "a\0b", "NUL"),
        ("policy", None, "must be text"),
        ("ending", "\ud800" * 5000, "unknown"),
        ("actions", np.full((5, 2), 3e38, np.float32), "above 1e9 at step 0"),
        ("observations", np.full((6, 44), -3e38, np.float32), "above 1e9 at step 0"),
        ("steps_to_go", np.full(6, 3e38, np.float32), "infinite or above 1e9"),
        ("actions", np.zeros((100_001, 2), np.float32), "more than 100000"),
        ("frames", [b"\xff\xd8"] * 5, "need 6"),
        ("frames", [b"GIF"] * 6, "JPEG"),
    ],
)
def test_wrong_field_is_refused_by_id_and_name(field, value, words):
    episode = dataclasses.replace(GOOD, **{field: value})
    with pytest.raises(EpisodeError, match=words) as caught:
        episode.validate()
    assert f"Episode {episode.uuid}, field {field}:" in str(caught.value)
    assert str(caught.value).isascii() and len(str(caught.value)) < 400, "it goes into logs and files"


def test_true_success_may_not_end_practice():
    with pytest.raises(EpisodeError, match="demonstrations only"):
        make_episode(purpose="practice").validate()


def rewrite_header(data: bytes, change) -> bytes:
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    entries = json.loads(header["__metadata__"]["episodes"])
    change(header, entries)
    header["__metadata__"]["episodes"] = json.dumps(entries)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def test_wrong_bytes_from_the_network_are_refused_by_id_and_name():
    data = episodes_to_bytes([make_episode(), make_episode(4, 1)])
    position = data.rfind(GOOD.observations[2].tobytes())
    broken = data[:position] + np.float32(np.nan).tobytes() + data[position + 4 :]
    with pytest.raises(EpisodeError, match=f"Episode {ID}, field observations: NaN or infinity at step 2"):
        read_episodes(broken)
    with pytest.raises(EpisodeError, match=f"Episode {ID}, field ending: 'x' is unknown"):
        read_episodes(rewrite_header(data, lambda header, entries: entries[0].update(ending="x")))
    with pytest.raises(EpisodeError, match=f"Episode {ID}, field seed: is missing"):
        read_episodes(rewrite_header(data, lambda header, entries: entries[0].pop("seed")))
    with pytest.raises(EpisodeError, match="field observations: the file holds shape"):
        read_episodes(rewrite_header(data, lambda header, entries: header["observations"].update(shape=[22, 22])))
    with pytest.raises(EpisodeError, match="one for each of 1 episodes"):
        read_episodes(rewrite_header(data, lambda header, entries: entries.pop()))


def test_an_ending_that_was_renamed_is_read_from_a_file_of_before():
    data = episodes_to_bytes([make_episode(3, ending="time_limit", purpose="practice")])
    old = rewrite_header(data, lambda header, entries: entries[0].update(ending="hopeless"))
    assert read_episodes(old)[0].ending == "low_success_probability"


def test_truncated_file_is_refused_at_every_length():
    data = episodes_to_bytes([make_episode()])
    for length in range(0, len(data), 7):
        with pytest.raises(EpisodeError):
            read_episodes(data[:length])
    with pytest.raises(EpisodeError, match=f"truncated: of episode {ID}"):
        read_episodes(data[:-1])


def test_other_files_are_refused():
    for data in (b"", b"{}", b"\xff" * 100, struct.pack("<Q", 2) + b"{}"):
        with pytest.raises(EpisodeError):
            read_episodes(data)


def bomb(header: bytes, size: int = 60_000_000) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(max(0, size - len(header)))


def in_metadata(text: str) -> bytes:
    return json.dumps({"__metadata__": {"format": "fleetui-episodes-1", "episodes": text}}).encode()


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b'{"a":[' + b"[]," * 19_999_990 + b"[]]}", id="60 MB of lists"),
        pytest.param(in_metadata("[" + "[]," * 19_999_990 + "[]]"), id="60 MB of lists in the metadata"),
        pytest.param(b'{"a":[' + b"[]," * 330_000 + b"[]]}", id="1 MB of lists"),
        pytest.param(in_metadata("[" + "[]," * 330_000 + "[]]"), id="1 MB of lists in the metadata"),
        pytest.param(b"[" * 999_999, id="1 MB of depth"),
    ],
)
def test_a_bomb_in_the_header_is_refused_in_little_memory(header):
    """More than 1 MB is not parsed at all, so this bounds the time too: 0.2 s where 60 MB took 12."""
    data = bomb(header)
    tracemalloc.start()
    with pytest.raises(EpisodeError):
        read_episodes(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6, f"{peak / 1e6:.0f} MB"


@pytest.mark.parametrize(
    "header",
    [
        *(b"[]", b"7", b'{"__metadata__": 7}', b'{"__metadata__": {"format": "fleetui-episodes-1", "episodes": 7}}'),
        *map(in_metadata, ("7", "[7]", "[{}]", '[{"uuid": "\\ud800"}]')),
    ],
)
def test_a_header_that_is_something_else_is_refused(header):
    with pytest.raises(EpisodeError) as caught:
        read_episodes(bomb(header, 0))
    assert str(caught.value).isascii()


def test_a_file_of_our_own_making_may_list_more_episodes_than_one_that_is_sent(tmp_path):
    episodes = [make_episode(1, number) for number in range(2500)]
    write_episodes(tmp_path / "e.safetensors", episodes)
    assert len(read_episodes(tmp_path / "e.safetensors")) == 2500
    with pytest.raises(EpisodeError, match="split it"):
        read_episodes((tmp_path / "e.safetensors").read_bytes())
    assert len(read_episodes(episodes_to_bytes(episodes[:1500]))) == 1500


def test_offsets_and_sizes_that_overflow_are_refused():
    data = episodes_to_bytes([make_episode(5, n, frames=[b"\xff\xd8 jpeg"] * 6) for n in range(3)])
    offsets = np.array([0, 5, 10, 15], np.int64).tobytes()
    for wrong in ([0, 2**63 - 1, -2, 15], [0, -5, 10, 15]):
        with pytest.raises(EpisodeError, match="must rise from 0"):
            read_episodes(data.replace(offsets, np.array(wrong, np.int64).tobytes()))
    sizes = np.full(18, 7, np.int64).tobytes()
    assert sizes in data
    wrong = np.array([2**62] * 4 + [126] + [0] * 13, np.int64)  # their sum overflows to 126
    with pytest.raises(EpisodeError, match="the sizes do not match"):
        read_episodes(data.replace(sizes, wrong.tobytes()))


def test_each_id_has_one_spelling():
    known, policy = uuid.uuid4(), uuid.uuid4()
    episode = make_episode(uuid="{" + str(known).upper() + "}", policy=policy.hex, reward_model="judge")
    (read,) = read_episodes(episodes_to_bytes([episode]))
    assert (read.uuid, read.policy, read.reward_model) == (str(known), str(policy), "judge")


def calm(**changes) -> Episode:
    """One that the table can have seen."""
    small = make_episode()
    arrays = {"observations": small.observations * 0.05, "actions": small.actions * 0.005}
    return dataclasses.replace(small, **arrays | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embodiment": "worn_table"}, "field embodiment: is worn_table"),
        ({"actions": np.full((5, 2), 20.0, np.float32)}, "field actions: delta_x is 20 at step 0.*units"),
        ({"actions": np.full((5, 2), -0.032, np.float32)}, "field actions: delta_x is -0.032 at step 0"),
        ({"observations": 1000 * calm().observations}, "field observations: .* goes to .*units"),
        ({"control_hz": 10.0}, "field control_hz: is 10, but language_table acts at 5 Hz"),
    ],
)
def test_what_a_body_cannot_have_done_is_refused_by_field(changes, words):
    episode = calm(**changes)
    episode.validate()
    with pytest.raises(EpisodeError, match=f"Episode {episode.uuid}, {words}"):
        episode.check_against(LANGUAGE_TABLE)


def test_what_a_body_can_have_done_is_taken():
    calm().check_against(LANGUAGE_TABLE)
    calm(control_hz=4.97, actions=np.full((5, 2), np.float32(0.03), np.float32)).check_against(LANGUAGE_TABLE)
    long = calm(
        observations=np.zeros((10_002, 44), np.float32),
        actions=np.zeros((10_001, 2), np.float32),
        actors=np.ones(10_001, np.uint8),
        steps_to_go=np.zeros(10_002, np.float32),
        purpose="correction",
        ending="operator",
    )
    long.check_against(LANGUAGE_TABLE)  # a person may drive for long
    with pytest.raises(EpisodeError, match="no task lets an attempt have more than 10000"):
        dataclasses.replace(long, purpose="practice").check_against(LANGUAGE_TABLE)
    undeclared = dataclasses.replace(LANGUAGE_TABLE, observation_limit=())
    far = calm()
    far.observations[:, 0] = 50
    far.check_against(undeclared)
    far.observations[:, 6] = 50  # a cosine
    with pytest.raises(EpisodeError, match="red moon cos is 50"):
        far.check_against(undeclared)

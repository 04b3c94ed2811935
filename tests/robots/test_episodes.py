import dataclasses
import json
import struct
import uuid

import numpy as np
import pytest

from robots.embodiments import LANGUAGE_TABLE
from robots.episodes import Episode, EpisodeError, episodes_to_bytes, read_episodes, write_episodes

ID = str(uuid.UUID(int=7))


def make_episode(steps=5, seed=0, **changes) -> Episode:
    rng = np.random.default_rng(seed)
    values = dict(
        uuid=str(uuid.UUID(int=seed + 7)),
        embodiment="language_table",
        task="block2block",
        instruction="push the red moon to the blue cube",
        observations=rng.normal(size=(steps + 1, LANGUAGE_TABLE.observation_size)).astype(np.float32),
        actions=rng.normal(size=(steps, 2)).astype(np.float32),
        actors=np.full(steps, 2, np.uint8),
        steps_to_go=np.full(steps + 1, np.nan, np.float32),
        ending="true_success",
        detected_success=False,
        true_success=True,
        purpose="demonstration",
        threshold=2.5,
        seed=3,
        started_at=1.5,
    )
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
        ("control_hz", 0.0, "above 0"),
        ("interventions", -1, "0 or more"),
        ("frames", [b"\xff\xd8"] * 5, "need 6"),
        ("frames", [b"GIF"] * 6, "JPEG"),
    ],
)
def test_wrong_field_is_refused_by_id_and_name(field, value, words):
    episode = dataclasses.replace(GOOD, **{field: value})
    with pytest.raises(EpisodeError, match=words) as caught:
        episode.validate()
    assert f"Episode {episode.uuid}, field {field}:" in str(caught.value)


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

import dataclasses
import json
import struct
import tracemalloc
import uuid

import numpy as np
import pytest
from safetensors.numpy import save

from robots.embodiments import EMBODIMENTS, ENVIRONMENT_STATE, STATE, vector
from robots.episodes import (
    ACTORS,
    FORMAT,
    LONGEST_EPISODE,
    MOST_FRAME_BYTES,
    MOST_PICTURE_BYTES,
    Episode,
    EpisodeError,
    FieldError,
    episodes_to_bytes,
    most_steps,
    read_episodes,
    refuse_long,
    unchecked_bytes,
    write_episodes,
)
from robots.worlds.language_table import CAMERA_TABLE, LANGUAGE_TABLE
from robots.worlds.point_mass import POINT_MASS

TOP = "observation.images.top"
ID = str(uuid.UUID(int=7))


def make_episode(steps=5, seed=0, **changes) -> Episode:
    rng = np.random.default_rng(seed)
    values = {
        "uuid": str(uuid.UUID(int=seed + 7)),
        "embodiment": "language_table",
        "task": "block2block",
        "instruction": "push the red moon to the blue cube",
        "observations": {
            STATE: rng.normal(size=(steps + 1, 4)).astype(np.float32),
            ENVIRONMENT_STATE: rng.normal(size=(steps + 1, 40)).astype(np.float32),
        },
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
        if field.name == "observations":
            assert x.keys() == y.keys()
            pairs = [(x[key], y[key]) for key in x]
        elif isinstance(x, np.ndarray):
            pairs = [(x, y)]
        else:
            assert x == y, field.name
            continue
        for one, other in pairs:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def jpegs(count, camera=""):
    return [b"\xff\xd8 picture " + camera.encode() + bytes([i]) for i in range(count)]


def test_file_gives_back_what_was_written(tmp_path):
    episodes = [
        make_episode(3, 0),
        make_episode(6, 1, frames={"front": jpegs(7)}),
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
        (STATE, nan_at(GOOD.observations[STATE], 3), "NaN or infinity at step 3"),
        (ENVIRONMENT_STATE, nan_at(GOOD.observations[ENVIRONMENT_STATE], 2), "NaN or infinity at step 2"),
        (STATE, GOOD.observations[STATE][:-1], "5 rows, but 5 actions need 6"),
        (STATE, GOOD.observations[STATE].astype(np.float64), "2 dimension.* of float32"),
        (STATE, GOOD.observations[STATE][:, 0], "2 dimension"),
        (STATE, GOOD.observations[STATE].tolist(), "2 dimension"),
        (TOP, np.zeros((6, 4, 4, 4), np.uint8), "pictures of 3 colours, not of 4"),
        (TOP, np.zeros((6, 4, 4, 3), np.float32), "4 dimension.* of uint8"),
        (TOP, np.zeros((6, 48), np.uint8), "4 dimension.* of uint8"),
        (TOP, np.zeros((7, 4, 4, 3), np.uint8), "7 rows, but 5 actions need 6"),
        ("observation.sound", GOOD.observations[STATE], "is no feature; there are observation.state, .*CAMERA"),
        ("observations", {}, "must be arrays by key, such as observation.state"),
        ("observations", np.zeros((6, 44), np.float32), "must be arrays by key"),
        ("observations", None, "must be arrays by key"),
        ("actions", nan_at(GOOD.actions, 1), "step 1"),
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
        ("fps", 0.0, "0.1 to 1000"),
        ("interventions", -1, "0 or more"),
        ("interventions", 2**40, "at most 100000"),
        ("fps", 5e-324, "0.1 to 1000"),
        ("fps", 1e9, "0.1 to 1000"),
        ("fps", 10**400, "finite"),
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
        (ENVIRONMENT_STATE, np.full((6, 40), -3e38, np.float32), "above 1e9 at step 0"),
        ("steps_to_go", np.full(6, 3e38, np.float32), "infinite or above 1e9"),
        ("actions", np.zeros((100_001, 2), np.float32), "more than 100000"),
        ("frames", {"front": [b"\xff\xd8"] * 5}, "there are 5 of front, but 5 actions need 6"),
        ("frames", {"front": [b"GIF"] * 6}, "each of front must be a JPEG"),
        ("frames", {"front": jpegs(6), "wrist": jpegs(7)}, "there are 7 of wrist, but"),
        ("frames", {"front": jpegs(6), "wrist": []}, "there are 0 of wrist, but"),
        ("frames", {"": jpegs(6)}, "a camera's name has 1 to 60 characters"),
        ("frames", {"x" * 61: jpegs(6)}, "a camera's name has 1 to 60 characters"),
        ("frames", {"wr\ud800st": jpegs(2)}, "there are 2 of 'wr"),
        ("frames", {f"{i}": jpegs(6) for i in range(17)}, "are of 17 cameras; at most 16"),
    ],
)
def test_wrong_field_is_refused_by_id_and_name(field, value, words):
    is_key = field.startswith("observation.")
    changes = {"observations": {**GOOD.observations, field: value}} if is_key else {field: value}
    episode = dataclasses.replace(GOOD, **changes)
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
    position = data.rfind(GOOD.observations[STATE][2].tobytes())
    broken = data[:position] + np.float32(np.nan).tobytes() + data[position + 4 :]
    with pytest.raises(EpisodeError, match=f"Episode {ID}, field {STATE}: NaN or infinity at step 2"):
        read_episodes(broken)
    with pytest.raises(EpisodeError, match=f"Episode {ID}, field ending: 'x' is unknown"):
        read_episodes(rewrite_header(data, lambda header, entries: entries[0].update(ending="x")))
    with pytest.raises(EpisodeError, match=f"Episode {ID}, field seed: is missing"):
        read_episodes(rewrite_header(data, lambda header, entries: entries[0].pop("seed")))
    with pytest.raises(EpisodeError, match=r"field observation\.environment_state: the file holds shape"):
        read_episodes(rewrite_header(data, lambda header, entries: header[ENVIRONMENT_STATE].update(shape=[22, 20])))
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


def in_metadata(text: str, form: str = FORMAT) -> bytes:
    return json.dumps({"__metadata__": {"format": form, "episodes": text}}).encode()


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
        in_metadata("[{}]", "fleetui-episodes-1"),
        in_metadata("[{}]", "fleetui-episodes-3"),
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
    data = episodes_to_bytes([make_episode(5, n, frames={"front": jpegs(6)}) for n in range(3)])
    offsets = np.array([0, 5, 10, 15], np.int64).tobytes()
    for wrong in ([0, 2**63 - 1, -2, 15], [0, -5, 10, 15]):
        with pytest.raises(EpisodeError, match="must rise from 0"):
            read_episodes(data.replace(offsets, np.array(wrong, np.int64).tobytes()))
    each = len(jpegs(1)[0])
    sizes = np.full(18, each, np.int64).tobytes()
    assert sizes in data
    wrong = np.array([2**62] * 4 + [18 * each] + [0] * 13, np.int64)  # their sum overflows to what is there
    with pytest.raises(EpisodeError, match="the sizes of front do not match"):
        read_episodes(data.replace(sizes, wrong.tobytes()))


def with_pictures(mebibytes, seed=0, frames=0) -> Episode:
    """So many MiB of what a policy saw (a multiple of 3), and of frames."""
    rows = mebibytes * 4 // 3  # of 0.75 MiB each
    seen = {STATE: np.zeros((rows, 2), np.float32), TOP: np.zeros((rows, 512, 512, 3), np.uint8)}
    large = [b"\xff\xd8" + bytes([i]) * (frames * 2**20 // rows - 2) for i in range(rows)]
    return make_episode(rows - 1, seed, observations=seen, frames={"wrist": large} if frames else {})


@pytest.mark.parametrize("pictures, frames", [(57, 0), (3, 54), (30, 27)])
def test_too_many_pictures_are_refused_before_they_are_copied(pictures, frames):
    data = unchecked_bytes([with_pictures(3, 1), with_pictures(pictures, 2, frames), with_pictures(3, 3)])
    tracemalloc.start()
    with pytest.raises(FieldError) as refused:
        read_episodes(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"Episode {make_episode(1, 2).uuid}, field observations: with its frames it has 57 MiB" in str(refused.value)
    assert "at most 56 MiB are taken; cut it into several episodes" in str(refused.value)
    assert peak < 1e6, f"{peak / 1e6:.0f} MB"


def test_as_many_pictures_as_are_allowed_are_taken_in_each_episode(tmp_path):
    assert len(read_episodes(unchecked_bytes([with_pictures(27, 1, 28)]))) == 1
    assert len(read_episodes(unchecked_bytes([with_pictures(30, 1), with_pictures(30, 2)]))) == 2
    (tmp_path / "of_before").write_bytes(unchecked_bytes([with_pictures(57)]))
    assert len(read_episodes(tmp_path / "of_before")) == 1, "what is stored already stays readable"


def test_pictures_of_a_file_of_before_count_too():
    frames = {"front": [b"\xff\xd8" + bytes(10 * 2**20 - 2)] * 6}
    with pytest.raises(FieldError, match="60 MiB of pictures"):
        read_episodes(old_file([make_episode(5, frames=frames)]))
    seen = np.zeros((6, 10 * 2**20), np.uint8)
    with pytest.raises(FieldError, match="60 MiB of pictures"):
        read_episodes(old_file([make_episode(5)], observations=seen))


def test_the_longest_episode_of_a_body_is_one_that_can_be_sent():
    for body in EMBODIMENTS.values():
        if body.pictures:
            size = (most_steps(body) + 1) * sum(feature.size for feature in body.pictures.values())
            assert size <= MOST_PICTURE_BYTES < size + MOST_FRAME_BYTES + 2**20
        else:
            assert most_steps(body) == LONGEST_EPISODE
    with pytest.raises(EpisodeError, match=r"holds more pictures than can be sent: .* for more than 1414 steps; lower"):
        refuse_long(EMBODIMENTS["so101_pick_cameras"], 1415)
    refuse_long(EMBODIMENTS["so101_pick_cameras"], 1414)


def test_each_id_has_one_spelling():
    known, policy = uuid.uuid4(), uuid.uuid4()
    episode = make_episode(uuid="{" + str(known).upper() + "}", policy=policy.hex, reward_model="judge")
    (read,) = read_episodes(episodes_to_bytes([episode]))
    assert (read.uuid, read.policy, read.reward_model) == (str(known), str(policy), "judge")


def calm(**changes) -> Episode:
    """One that the table can have seen."""
    small = make_episode()
    seen = {key: array * np.float32(0.05) for key, array in small.observations.items()}
    return dataclasses.replace(small, **{"observations": seen, "actions": small.actions * 0.005} | changes)


def calm_but(key, array):
    return {"observations": {**calm().observations, key: array}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embodiment": "worn_table"}, "field embodiment: is worn_table"),
        ({"actions": np.full((5, 2), 20.0, np.float32)}, "field actions: delta_x is 20 at step 0.*units"),
        ({"actions": np.full((5, 2), -0.032, np.float32)}, "field actions: delta_x is -0.032 at step 0"),
        (
            calm_but(STATE, 1000 * calm().observations[STATE]),
            r"field observation\.state: .* goes from -0\.\d+ to 0\.\d+; are the units right",
        ),
        (
            calm_but(ENVIRONMENT_STATE, np.full((6, 40), 250, np.float32)),
            r"field observation\.environment_state: red moon\.x is 250 at step 0, .* from -0.3 to 0.3; are the units",
        ),
        ({"fps": 10.0}, "field fps: is 10, but language_table acts at 5 Hz"),
        ({"actions": np.zeros((5, 3), np.float32)}, "field actions: each has 3 numbers, but language_table has 2"),
        (
            calm_but(ENVIRONMENT_STATE, np.zeros((6, 6), np.float32)),
            r"field observation\.environment_state: each has the shape \[6\], but language_table has \[40\]",
        ),
        (
            {"observations": {STATE: calm().observations[STATE]}},
            "field observations: hold observation.state, but language_table observes observation.environment_state, ",
        ),
        (
            calm_but(TOP, np.zeros((6, 88, 124, 3), np.uint8)),
            "field observations: hold .*observation.environment_state.*, but language_table observes",
        ),
    ],
)
def test_what_a_body_cannot_have_done_is_refused_by_field(changes, words):
    episode = calm(**changes)
    episode.validate()
    with pytest.raises(EpisodeError, match=f"Episode {episode.uuid}, {words}"):
        episode.check_against(LANGUAGE_TABLE)


def test_what_a_body_can_have_done_is_taken():
    calm().check_against(LANGUAGE_TABLE)
    calm(fps=4.97, actions=np.full((5, 2), np.float32(0.03), np.float32)).check_against(LANGUAGE_TABLE)
    long = calm(
        observations={key: np.zeros((10_002, f.size), np.float32) for key, f in LANGUAGE_TABLE.observation.items()},
        actions=np.zeros((10_001, 2), np.float32),
        actors=np.ones(10_001, np.uint8),
        steps_to_go=np.zeros(10_002, np.float32),
        purpose="correction",
        ending="operator",
    )
    long.check_against(LANGUAGE_TABLE)  # a person may drive for long
    with pytest.raises(EpisodeError, match="no task lets an attempt have more than 10000"):
        dataclasses.replace(long, purpose="practice").check_against(LANGUAGE_TABLE)
    bare = {key: vector(feature.names) for key, feature in LANGUAGE_TABLE.observation.items()}
    undeclared = dataclasses.replace(LANGUAGE_TABLE, observation=bare)
    far = calm()
    far.observations[STATE][:, 0] = 50
    far.check_against(undeclared)
    far.observations[ENVIRONMENT_STATE][:, 2] = 50  # a cosine
    with pytest.raises(EpisodeError, match=r"red moon\.cos is 50"):
        far.check_against(
            dataclasses.replace(undeclared, observation={**LANGUAGE_TABLE.observation, STATE: bare[STATE]})
        )


def test_a_range_of_one_side_is_looked_at_from_its_middle():
    body = dataclasses.replace(LANGUAGE_TABLE, action=vector(("delta_x", "delta_y"), (0, -1), (4, 1)))
    calm(actions=np.tile(np.float32([4.09, 0]), (5, 1))).check_against(body)
    calm(actions=np.tile(np.float32([-0.09, 0]), (5, 1))).check_against(body)
    for wrong in (-0.11, 4.11):
        with pytest.raises(EpisodeError, match=f"delta_x is {wrong} at step 0, but language_table goes from 0 to 4"):
            calm(actions=np.tile(np.float32([wrong, 0]), (5, 1))).check_against(body)


def test_a_picture_of_another_size_is_no_picture_of_the_body():
    episode = dataclasses.replace(
        calm(), embodiment="camera_table", observations={TOP: np.zeros((6, 88, 124, 3), np.uint8)}
    )
    episode.check_against(CAMERA_TABLE)
    episode.observations = {TOP: np.zeros((6, 124, 88, 3), np.uint8)}
    episode.validate()
    with pytest.raises(
        EpisodeError, match=r"images\.top: each has the shape \[124, 88, 3\], but camera_table has \[88"
    ):
        episode.check_against(CAMERA_TABLE)


def test_however_much_was_sent_the_sentence_about_it_is_short_and_plain():
    seen = {f"observation.images.{'é' * 30}{i}": np.zeros((6, 2, 2, 3), np.uint8) for i in range(50)}
    episode = calm(observations=seen)
    episode.validate()
    with pytest.raises(EpisodeError, match="but language_table observes") as refused:
        episode.check_against(LANGUAGE_TABLE)
    assert str(refused.value).isascii() and len(str(refused.value)) < 400


# Several features, several cameras


def test_the_episodes_of_a_file_have_the_same_features():
    fewer = make_episode(4, 1)
    del fewer.observations[ENVIRONMENT_STATE]
    with pytest.raises(EpisodeError, match=f"Episode {fewer.uuid}, field observations: they are of another body"):
        episodes_to_bytes([make_episode(), fewer])
    smaller = make_episode(4, 1)
    smaller.observations[STATE] = smaller.observations[STATE][:, :3]
    with pytest.raises(EpisodeError, match="of another body than those of the first episode"):
        episodes_to_bytes([make_episode(), smaller])


def test_vectors_and_pictures_are_read_side_by_side():
    rng = np.random.default_rng(1)
    episodes = [
        make_episode(
            steps,
            steps,
            observations={
                "observation.images.wrist": rng.integers(0, 255, (steps + 1, 4, 6, 3), np.uint8),
                STATE: rng.normal(size=(steps + 1, 7)).astype(np.float32),
                TOP: rng.integers(0, 255, (steps + 1, 8, 2, 3), np.uint8),
            },
        )
        for steps in (3, 1, 5)
    ]
    for a, b in zip(episodes, read_episodes(episodes_to_bytes(episodes)), strict=True):
        assert_same(a, b)


def test_each_episode_keeps_the_frames_of_the_cameras_that_it_has():
    episodes = [
        make_episode(3, 0, frames={"front": jpegs(4, "a"), "wrist": jpegs(4, "b")}),
        make_episode(2, 1),
        make_episode(1, 2, frames={"wrist": jpegs(2, "c")}),
        make_episode(4, 3, frames={"frames.left": jpegs(5, "d"), "frame_sizes.x": jpegs(5, "e"), "é/": jpegs(5, "f")}),
    ]
    read = read_episodes(episodes_to_bytes(episodes))
    for a, b in zip(episodes, read, strict=True):
        assert_same(a, b)
    assert [sorted(episode.frames) for episode in read[:3]] == [["front", "wrist"], [], ["wrist"]]
    assert read_episodes(episodes_to_bytes([make_episode()]))[0].frames == {}


def test_a_frame_that_repeats_the_one_before_it_takes_no_room(tmp_path):
    large = b"\xff\xd8" + bytes(10_000)
    frames = {"front": [large, large, b"\xff\xd8 b", large, large, large], "wrist": jpegs(6)}
    data = episodes_to_bytes([make_episode(5, 0, frames=frames), make_episode(5, 1, frames=frames)])
    assert len(data) < 4 * len(large) + 10_000
    assert [episode.frames for episode in read_episodes(data)] == [frames, frames]
    (tmp_path / "file").write_bytes(data)
    assert [episode.frames for episode in read_episodes(tmp_path / "file")] == [frames, frames]
    assert [episode.frames for episode in read_episodes(tmp_path / "file", frames=False)] == [{}, {}]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EpisodeError, match="not a file of episodes"):
        read_episodes(tmp_path / "file")


def test_frames_that_begin_with_none_are_refused():
    frames = jpegs(6)
    each = len(frames[0])
    data = episodes_to_bytes([make_episode(5, frames={"front": frames})])
    sizes, wrong = (np.array(values, np.int64).tobytes() for values in ([each] * 6, [0, 2 * each] + [each] * 4))
    assert sizes in data
    with pytest.raises(EpisodeError, match="field frames: each of front must be a JPEG"):
        read_episodes(data.replace(sizes, wrong))


def test_sizes_that_do_not_match_the_frames_are_refused_with_the_cameras_name():
    data = episodes_to_bytes([make_episode(frames={"front": jpegs(6, "front"), "wrist": jpegs(6, "wri")})])
    sizes = np.full(6, 15, np.int64).tobytes()  # the wrist's
    assert data.count(sizes) == 1
    for wrong in ([15] * 5 + [14], [-15, 30, 30, 15, 15, 15]):
        with pytest.raises(EpisodeError, match=f"Episode {ID}, field frames: the sizes of wrist do not match"):
            read_episodes(data.replace(sizes, np.array(wrong, np.int64).tobytes()))


def test_frames_without_their_sizes_are_refused():
    arrays = present_arrays(make_episode(1))
    for key in ("frames.wrist", "frame_sizes.wrist"):
        with pytest.raises(EpisodeError, match=r"field frames: frames\.CAMERA and frame_sizes\.CAMERA belong together"):
            read_episodes(file_of({**arrays, key: np.zeros(2, np.int64)}, [make_episode(1)]))
    short = {"frames.wrist": np.zeros(0, np.uint8), "frame_sizes.wrist": np.zeros(1, np.int64)}
    with pytest.raises(EpisodeError, match="the sizes of wrist do not match"):
        read_episodes(file_of({**arrays, **short}, [make_episode(1)]))


def test_a_camera_of_too_long_a_name_is_refused_in_a_file_too():
    data = unchecked_bytes([make_episode(frames={"x" * 61: jpegs(6)})])
    with pytest.raises(EpisodeError, match=f"Episode {ID}, field frames: a camera's name has 1 to 60 characters"):
        read_episodes(data)


# Files of before: one array of all that was observed, one camera


FIELDS = (
    *("uuid", "embodiment", "task", "instruction", "ending", "detected_success", "true_success", "purpose", "policy"),
    *("reward_model", "threshold", "seed", "started_at"),
)


def file_of(arrays, episodes, form=FORMAT, rate="fps") -> bytes:
    """By hand, as the format has it."""
    fields = [
        {name: getattr(each, name) for name in FIELDS} | {rate: each.fps, "interventions": each.interventions}
        for each in episodes
    ]
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(arrays, metadata={"format": form, "episodes": json.dumps(fields)})


def present_arrays(episode) -> dict[str, np.ndarray]:
    arrays = {name: getattr(episode, name) for name in ("actions", "actors", "steps_to_go", "fenced")}
    return {**episode.observations, **arrays, "offsets": np.array([0, episode.steps], np.int64)}


def old_file(episodes, with_fence=True, **changes) -> bytes:
    """What was written of these episodes before features had names."""
    together = [
        np.concatenate([array.reshape(len(array), -1) for array in each.observations.values()], axis=1)
        for each in episodes
    ]
    arrays = {
        "observations": np.concatenate(together),
        **{
            name: np.concatenate([getattr(each, name) for each in episodes])
            for name in ("actions", "actors", "steps_to_go", *(["fenced"] if with_fence else []))
        },
        "offsets": np.cumsum([0] + [each.steps for each in episodes]).astype(np.int64),
    }
    if any(each.frames for each in episodes):
        frames = [f for each in episodes for f in each.frames.get("front") or [b""] * (each.steps + 1)]
        arrays["frame_sizes"] = np.array([len(frame) for frame in frames], np.int64)
        arrays["frames"] = np.frombuffer(b"".join(frames), np.uint8)
    return file_of({**arrays, **changes}, episodes, "fleetui-episodes-1", "control_hz")


def episode_of(body, steps, seed=0, **changes) -> Episode:
    """Anything that this body may have observed and done."""
    rng = np.random.default_rng(seed)
    observations = {
        key: rng.integers(0, 255, (steps + 1, *feature.shape), np.uint8)
        if feature.is_picture
        else rng.normal(size=(steps + 1, *feature.shape)).astype(np.float32)
        for key, feature in body.observation.items()
    }
    values = {
        "embodiment": body.name,
        "observations": observations,
        "actions": rng.normal(size=(steps, body.action_size)).astype(np.float32),
        "fenced": rng.integers(0, 2, steps, np.uint8),
        "steps_to_go": rng.uniform(0, 50, steps + 1).astype(np.float32),
        "fps": body.fps,
    }
    return make_episode(steps, seed, **values | changes)


OF_BEFORE = [body for body in EMBODIMENTS.values() if bool(body.pictures) != bool(body.state_names)]


@pytest.mark.parametrize("body", OF_BEFORE, ids=lambda body: body.name)
@pytest.mark.parametrize("fenced", [True, False])
def test_a_file_of_before_gives_the_same_episodes_as_one_of_now(body, fenced):
    changes = {} if fenced else {"fenced": None}
    episodes = [episode_of(body, steps, seed, **changes) for seed, steps in enumerate((4, 1, 7))]
    old, now = read_episodes(old_file(episodes, fenced)), read_episodes(episodes_to_bytes(episodes))
    for a, b, c in zip(episodes, old, now, strict=True):
        assert_same(a, b)
        assert_same(a, c)
    assert any(each.fenced.any() for each in old) == fenced


def test_a_file_of_before_is_read_from_the_disk_too_and_written_as_one_of_now(tmp_path):
    (tmp_path / "old").write_bytes(old_file([episode_of(LANGUAGE_TABLE, 3, frames={"front": jpegs(4)})]))
    read = read_episodes(tmp_path / "old")
    write_episodes(tmp_path / "new", read)
    assert b'"format":"fleetui-episodes-2"' in (tmp_path / "new").read_bytes()
    assert_same(read[0], read_episodes(tmp_path / "new")[0])


@pytest.mark.parametrize("body", [LANGUAGE_TABLE, CAMERA_TABLE, POINT_MASS], ids=lambda body: body.name)
def test_the_frames_of_before_were_those_of_its_first_camera(body):
    episodes = [
        episode_of(body, 2, 0),
        episode_of(body, 3, 1, frames={"front": jpegs(4)}),
        episode_of(body, 1, 2),
    ]
    for a, b in zip(episodes, read_episodes(old_file(episodes)), strict=True):
        assert_same(a, b)


def test_of_a_body_that_nobody_knows_all_that_was_observed_is_its_state():
    body = dataclasses.replace(LANGUAGE_TABLE, name="hexapod")
    episode = episode_of(body, 4, frames={"front": jpegs(5)})
    (read,) = read_episodes(old_file([episode]))
    together = np.concatenate([*episode.observations.values()], axis=1)
    assert_same(read, dataclasses.replace(episode, observations={STATE: together}))
    (point,) = read_episodes(old_file([dataclasses.replace(episode_of(POINT_MASS, 4), embodiment="my_point")]))
    assert point.observations[STATE].shape == (5, 6), "and so it is what it was"


@pytest.mark.parametrize("width", [43, 45, 6])
def test_a_file_of_before_that_does_not_fit_its_body_is_read_and_refused_where_it_is_checked(width):
    episode = calm(fps=5.0)
    episode.observations = {STATE: np.zeros((6, width), np.float32)}
    (read,) = read_episodes(old_file([episode]))
    assert read.observations[STATE].shape == (6, width)
    with pytest.raises(EpisodeError, match=f"Episode {ID}, field observations: hold observation.state, but"):
        read.check_against(LANGUAGE_TABLE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"observations": np.zeros((5, 44), np.float32)}, r"field observation\.state: the file holds shape \(5, 4\)"),
        ({"observations": np.zeros((), np.float32)}, r"field observation\.state: the file holds shape \(1,\)"),
        ({"observations": np.zeros((6, 44))}, r"field observation\.state: must be an array of 2 .* of float32"),
        ({"observations": np.zeros((6, 44), np.uint8)}, r"field observation\.state: must be an array of 2"),
        (
            {"observations": np.full((6, 44), np.nan, np.float32)},
            r"field observation\.state: NaN or infinity at step 0",
        ),
        ({"fenced": np.zeros(4, np.uint8)}, "field fenced: the file holds shape"),
        ({"frames": np.zeros(3, np.uint8)}, "belong together"),
        ({"frame_sizes": np.zeros(6, np.int64)}, "belong together"),
        (
            {"frames": np.zeros(3, np.uint8), "frame_sizes": np.zeros(6, np.int64)},
            "field frames: the sizes of front do not match",
        ),
    ],
)
def test_a_wrong_file_of_before_is_refused_too(changes, words):
    with pytest.raises(EpisodeError, match=f"Episode {ID}.*{words}"):
        read_episodes(old_file([make_episode()], **changes))


def test_a_file_without_observations_is_refused():
    arrays = present_arrays(make_episode())
    for key in (STATE, ENVIRONMENT_STATE):
        del arrays[key]
    with pytest.raises(EpisodeError, match=f"Episode {ID}, field observations: is missing in the file"):
        read_episodes(file_of(arrays, [make_episode()]))
    strange = arrays | {"observation.sound": np.zeros((6, 2), np.float32)}
    with pytest.raises(EpisodeError, match=r"field observation\.sound: is no feature"):
        read_episodes(file_of(strange, [make_episode()]))


def test_who_acted_is_read_from_a_file_of_before():
    actors = np.array([0, 1, 1, 0, 1], np.uint8)
    (read,) = read_episodes(old_file([make_episode(actors=actors, purpose="practice", ending="operator")]))
    assert read.actors.tolist() == actors.tolist() and ACTORS[read.actors[1]] == "human" and read.fps == 5.0

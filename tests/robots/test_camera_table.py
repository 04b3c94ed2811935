import numpy as np
import pytest

from robots.demonstrators import collect_demonstrations
from robots.embodiments import Embodiment
from robots.episodes import EpisodeError, read_episodes, write_episodes
from robots.worlds import make_world
from robots.worlds.language_table import CAMERA_TABLE, block_positions
from robots.worlds.language_table.physics import LanguageTable

PICTURE = CAMERA_TABLE.picture


@pytest.fixture(params=["as it is", "drawn"])
def table(request, monkeypatch):
    """By whatever renders here, and as on a machine without OpenGL."""
    if request.param == "drawn":
        monkeypatch.setattr(LanguageTable, "renderer", "drawn")
    return make_world("camera_table", 4)


def test_the_body_survives_json_with_its_picture():
    assert Embodiment.from_json(CAMERA_TABLE.to_json()) == CAMERA_TABLE
    assert CAMERA_TABLE.observation_size == 88 * 124 * 3 and CAMERA_TABLE.features_size == 4 + 8 * 5


def test_a_thing_is_seen_where_it_lies(table):
    """Each block's colour at its place, by the picture's own metres a pixel."""
    wanted = {"red": (0, 1), "blue": (2, 0), "green": (1, 0), "yellow": (0, 2)}  # the channel that is above the other
    for seed in range(5):
        picture = table.reset(np.random.default_rng(seed)).reshape(PICTURE.height, PICTURE.width, 3).astype(int)
        for kind in CAMERA_TABLE.objects:
            if kind.shape in ("cube", "pentagon"):  # solid at their middle
                x, y = table.objects_in_play()[kind.name]
                row = int(PICTURE.height / 2 - y / PICTURE.metres_per_pixel)
                column = int(PICTURE.width / 2 + x / PICTURE.metres_per_pixel)
                more, less = wanted[kind.colour]
                assert picture[row, column, more] > picture[row, column, less] + 60, (kind.name, seed)


def test_a_step_gives_the_next_picture_and_moves_as_language_table_does(table):
    told = make_world("language_table", 4)
    told.set_observation(np.concatenate([np.zeros(4), *([0.3, 0.3, 1, 0, 0],) * 8]).astype(np.float32))
    before, rng = table.reset(np.random.default_rng(7)), np.random.default_rng(7)
    told.reset(rng)
    for _ in range(10):
        after, state = table.step([0.02, 0.01]), told.step([0.02, 0.01])
    assert (after != before).any() and after.dtype == np.uint8
    assert table.objects_in_play() == told.objects_in_play()
    assert block_positions(state) == pytest.approx({k: pytest.approx(v) for k, v in told.objects_in_play().items()})


def test_a_recorded_picture_is_shown_until_the_world_moves_on(table):
    recorded = np.full(CAMERA_TABLE.observation_size, 77, np.uint8)
    table.set_observation(recorded)
    assert (table.render(320, 240) == 77).all() and (table.observation() == 77).all()
    table.step([0.0, 0.0])
    assert (table.observation() != 77).any()


def test_demonstrations_carry_pictures_and_another_kind_of_observation_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(LanguageTable, "renderer", "drawn")
    (episode,) = collect_demonstrations(["camera_block2block"], 1, seed=2)
    assert episode.observations.dtype == np.uint8 and len(episode.observations) == episode.steps + 1
    write_episodes(tmp_path / "one.safetensors", [episode])
    (again,) = read_episodes(tmp_path / "one.safetensors")
    np.testing.assert_array_equal(again.observations, episode.observations)
    episode.observations = episode.observations.astype(np.float32)
    with pytest.raises(EpisodeError, match=f"{episode.uuid}, field observations"):
        episode.validate()

import numpy as np
import pytest

from robots.demonstrators import collect_demonstrations
from robots.embodiments import ENVIRONMENT_STATE, STATE, Camera, Embodiment, picture
from robots.episodes import EpisodeError, read_episodes, write_episodes
from robots.worlds import make_world
from robots.worlds.language_table import CAMERA_TABLE, OVERHEAD, OVERHEAD_SIZE, block_positions
from robots.worlds.language_table.physics import LanguageTable

KEY = "observation.images.top"
WIDTH, HEIGHT = OVERHEAD_SIZE


@pytest.fixture(params=["as it is", "drawn"])
def table(request, monkeypatch):
    """By whatever renders here, and as on a machine without OpenGL."""
    if request.param == "drawn":
        monkeypatch.setattr(LanguageTable, "renderer", "drawn")
    return make_world("camera_table", 4)


def test_the_body_survives_json_with_its_picture():
    again = Embodiment.from_json(CAMERA_TABLE.to_json())
    assert again == CAMERA_TABLE
    assert again.observation == {KEY: picture(124, 88)} and again.observation[KEY].size == 88 * 124 * 3
    assert again.pictures == {"top": picture(124, 88)} and again.overhead.camera == "top"
    assert again.cameras == (Camera("front", 320, 240), Camera("top", 124, 88)), "both may be watched by"
    assert len(again.objects) == 8 and not again.tracked and again.object_features == () == again.state_names


def test_a_thing_is_seen_where_it_lies(table):
    """Each block's colour at its place, by the picture's own metres a pixel."""
    wanted = {"red": (0, 1), "blue": (2, 0), "green": (1, 0), "yellow": (0, 2)}  # the channel that is above the other
    for seed in range(5):
        seen = table.reset(np.random.default_rng(seed))[KEY].astype(int)
        for kind in CAMERA_TABLE.objects:
            if kind.shape in ("cube", "pentagon"):  # solid at their middle
                x, y = table.objects_in_play()[kind.name]
                row = int(HEIGHT / 2 - y / OVERHEAD.metres_per_pixel)
                column = int(WIDTH / 2 + x / OVERHEAD.metres_per_pixel)
                more, less = wanted[kind.colour]
                assert seen[row, column, more] > seen[row, column, less] + 60, (kind.name, seed)


def test_a_step_gives_the_next_picture_and_moves_as_language_table_does(table):
    told = make_world("language_table", 4)
    fallen = np.array([0.3, 0.3, 1, 0, 0] * 8, np.float32)
    told.set_observation({STATE: np.zeros(4, np.float32), ENVIRONMENT_STATE: fallen})
    before, rng = table.reset(np.random.default_rng(7))[KEY], np.random.default_rng(7)
    told.reset(rng)
    for _ in range(10):
        after, state = table.step([0.02, 0.01]), told.step([0.02, 0.01])
    assert after.keys() == {KEY} and after[KEY].shape == (HEIGHT, WIDTH, 3)
    assert (after[KEY] != before).any() and after[KEY].dtype == np.uint8
    assert table.objects_in_play() == told.objects_in_play()
    assert block_positions(state) == pytest.approx({k: pytest.approx(v) for k, v in told.objects_in_play().items()})


def test_a_recorded_picture_is_shown_until_the_world_moves_on(table):
    table.set_observation({KEY: np.full((HEIGHT, WIDTH, 3), 77, np.uint8)})
    assert (table.render("front", 320, 240) == 77).all() and (table.observation()[KEY] == 77).all()
    table.step([0.0, 0.0])
    assert (table.observation()[KEY] != 77).any()


def test_demonstrations_carry_pictures_and_another_kind_of_observation_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(LanguageTable, "renderer", "drawn")
    (episode,) = collect_demonstrations(["camera_block2block"], 1, seed=2)
    assert episode.observations.keys() == {KEY} and episode.observations[KEY].dtype == np.uint8
    assert episode.observations[KEY].shape == (episode.steps + 1, HEIGHT, WIDTH, 3)
    write_episodes(tmp_path / "one.safetensors", [episode])
    (again,) = read_episodes(tmp_path / "one.safetensors")
    np.testing.assert_equal(again.observations, episode.observations)
    again.check_against(CAMERA_TABLE)
    episode.observations[KEY] = episode.observations[KEY].astype(np.float32)
    with pytest.raises(EpisodeError, match=rf"{episode.uuid}, field observation\.images\.top: .* 4 .* of uint8"):
        episode.validate()

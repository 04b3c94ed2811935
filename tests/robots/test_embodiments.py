import pytest

from robots.embodiments import (
    EMBODIMENTS,
    LANGUAGE_TABLE,
    Embodiment,
    WorldsFileError,
    get_embodiment,
    read_worlds_file,
)


def test_language_table_has_the_sizes_that_networks_are_built_from():
    assert LANGUAGE_TABLE.observation_size == 4 + 8 * 5
    assert LANGUAGE_TABLE.action_size == 2
    assert LANGUAGE_TABLE.object_slice("red moon") == slice(4, 9)
    assert LANGUAGE_TABLE.object_slice("yellow pentagon") == slice(39, 44)


@pytest.mark.parametrize("body", EMBODIMENTS.values(), ids=lambda body: body.name)
def test_description_survives_json(body):
    assert Embodiment.from_json(body.to_json()) == body


def test_broken_description_is_refused_in_words():
    data = LANGUAGE_TABLE.to_json()
    del data["action_limit"]
    with pytest.raises(ValueError, match="action_limit"):
        Embodiment.from_json(data)
    with pytest.raises(ValueError, match="one limit for each action"):
        Embodiment.from_json(LANGUAGE_TABLE.to_json() | {"action_limit": [0.1]})


def test_unknown_embodiment_lists_the_known_ones():
    with pytest.raises(ValueError, match="known are .*language_table"):
        get_embodiment("hexapod")


WORLD = """
[[world]]
name = "cart"
env_id = "InvertedPendulum-v5"
observations = 4
actions = ["force"]
action_limit = 3.0
control_hz = 25
time_limit_steps = 50
success = {info = "reward_survive", at_least = 1}
wordings = ["keep the pole up"]
"""


def test_worlds_file_describes_a_body(tmp_path):
    path = tmp_path / "worlds.toml"
    path.write_text(WORLD)
    (world,) = read_worlds_file(path)
    assert world.embodiment.observation_size == 4
    assert world.embodiment.action_limit == (3.0,)
    assert world.embodiment.objects == ()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "cart"', 'name = "language_table"', "taken twice"),
        ('name = "cart"', 'name = "My Cart"', "lower-case"),
        ("observations = 4", "", "observations is missing"),
        ("observations = 4", "observations = 0", "count above 0"),
        ("action_limit = 3.0", "action_limit = [1.0, 2.0]", "action_limit must be"),
        ("action_limit = 3.0", "action_limit = -1", "action_limit must be"),
        ("control_hz = 25", "control_hz = 0", "above 0"),
        ("at_least = 1", "above = 1", "at_least or at_most"),
        ('["keep the pole up"]', "[]", "wordings"),
        ("control_hz = 25", "control_hz = 25\nfps = 3", "fps is not a setting"),
        ("[[world]]", "[[world", "not valid TOML"),
        ("[[world]]", "[other]", "describes no world"),
    ],
)
def test_wrong_worlds_file_is_refused_in_words(tmp_path, old, new, words):
    path = tmp_path / "worlds.toml"
    path.write_text(WORLD.replace(old, new))
    with pytest.raises(WorldsFileError, match=words):
        read_worlds_file(path)


def test_missing_worlds_file_is_named(tmp_path):
    with pytest.raises(WorldsFileError, match="nowhere.toml"):
        read_worlds_file(tmp_path / "nowhere.toml")

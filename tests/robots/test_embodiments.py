import math

import pytest

from robots.embodiments import EMBODIMENTS, Embodiment, Motion, get_embodiment
from robots.worlds.language_table import LANGUAGE_TABLE
from robots.worlds.third_party import WorldsFileError, read_worlds_file


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


def test_a_body_that_was_stored_before_motions_were_declared_is_still_read():
    data = LANGUAGE_TABLE.to_json()
    del data["motions"]
    body = Embodiment.from_json(data)
    assert body.motions == () and body.action_range == ((-0.03, 0.03),) * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control_hz": math.inf}, "control_hz"),
        ({"control_hz": math.nan}, "control_hz"),
        ({"action_limit": [math.inf, 1]}, "limits"),
        ({"action_limit": [10**400, 1]}, "OverflowError"),
        ({"action_limit": [1, 0]}, "limits"),
        ({"motions": [{"kind": "delta", "low": -1, "high": 1}]}, "give one for each action"),
        ({"motions": [{"kind": "wave", "low": -0.01, "high": 0.01}] * 2}, "delta, velocity, position, effort"),
        ({"motions": [{"kind": "effort", "low": 0.01, "high": 0.01}] * 2}, "must be below high"),
        ({"motions": [{"kind": "effort", "low": -9, "high": 0.01}] * 2}, "its limit is 0.03"),
        ({"motions": [{"kind": "effort", "low": math.nan, "high": 0.01}] * 2}, "must be below high"),
        ({"motions": [{"kind": "effort", "low": 0, "high": 0.01, "largest_change": 1}] * 2}, "leave it out"),
        ({"motions": [{"kind": "delta", "low": 0, "high": 0.01}] * 2}, "largest_change must be"),
        ({"motions": [{"kind": "delta", "low": 0.02, "high": 0.03, "largest_change": 0.01}] * 2}, "more than its"),
        ({"motions": [{"kind": "position", "low": 0, "high": 0.01, "largest_change": 1}] * 2}, "sensed_by"),
        ({"motions": [{"kind": "effort", "speed": 1}]}, "no description of a body"),
        ({"motions": [7, 7]}, "no description of a body"),
    ],
)
def test_a_body_that_contradicts_itself_is_refused_in_words(change, words):
    with pytest.raises(ValueError, match=words):
        Embodiment.from_json(LANGUAGE_TABLE.to_json() | change)


def test_unknown_embodiment_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"known are .*language_table"):
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
        ("action_limit = 3.0", "action_limit = inf", "action_limit must be one finite number"),
        ("action_limit = 3.0", "action_limit = nan", "action_limit must be one finite number"),
        ("action_limit = 3.0", "action_limit = 1e400", "action_limit must be one finite number"),
        ("action_limit = 3.0", f"action_limit = 1{'0' * 400}", "action_limit must be one finite number"),
        ("action_limit = 3.0", "action_limit = true", "action_limit must be one finite number"),
        ("action_limit = 3.0", "action_limit = [true]", "action_limit must be one finite number"),
        ("action_limit = 3.0", 'action_limit = "3"', "action_limit must be one finite number"),
        ("action_limit = 3.0", "", "action_limit is missing"),
        ("action_limit = 3.0", "action_low = 0", "action_limit is missing"),
        ("action_limit = 3.0", "action_low = 0\naction_high = 1", "action_kind is missing"),
        ("action_limit = 3.0", "action_low = 2\naction_high = 1", "action_low must be below"),
        ("action_limit = 3.0", "action_low = -inf\naction_high = 1", "action_low must be one finite number"),
        ("action_limit = 3.0", 'action_limit = 3.0\naction_kind = "force"', "action_kind must be one of delta"),
        ("action_limit = 3.0", 'action_limit = 3.0\naction_kind = "delta"', "largest_change must be"),
        (
            "action_limit = 3.0",
            'action_limit = 3.0\naction_kind = "position"\nlargest_change = 1\nsensed_by = "elbow"',
            "sensed_by must name",
        ),
        ("control_hz = 25", "control_hz = inf", "from 0.1 to 1000"),
        ("control_hz = 25", "control_hz = nan", "from 0.1 to 1000"),
        ("control_hz = 25", "control_hz = 5e-324", "from 0.1 to 1000"),
        (
            "time_limit_steps = 50",
            f"time_limit_steps = 1{'0' * 400}",
            "time_limit_steps is wrong: “Time limit” must be",
        ),
        ("at_least = 1", "at_least = nan", "at_least or at_most"),
        ("at_least = 1", "at_least = inf", "at_least or at_most"),
        ("at_least = 1", "at_least = true", "at_least or at_most"),
        ("at_least = 1", "at_least = 1, at_most = 0", "can never be"),
        ("observations = 4", "observations = 1000000000", "10000 at most"),
        (WORLD, "world = [1, 2]", "must be .*tables"),
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


def test_a_worlds_file_declares_what_its_actions_are(tmp_path):
    path = tmp_path / "worlds.toml"
    lines = """
actions = ["rail", "hinge", "thrust"]
observations = ["rail_at", "hinge_at"]
action_low = [0, -1.5, 0]
action_high = [1, 0.5, 2]
action_kind = ["position", "velocity", "effort"]
largest_change = [0.1, 0.02, 1]
sensed_by = ["rail_at", "", ""]"""
    text = WORLD.replace('actions = ["force"]', "").replace("observations = 4", "")
    path.write_text(text.replace("action_limit = 3.0", lines))
    body = read_worlds_file(path)[0].embodiment
    assert body.motions == (
        Motion("position", 0, 1, 0.1, "rail_at"),
        Motion("velocity", -1.5, 0.5, 0.02),
        Motion("effort", 0, 2),
    )
    # 25 steps a second of at most 0.02
    assert body.action_range == ((0, 1), (-0.5, 0.5), (0, 2)) and body.action_limit == (1, 1.5, 2)
    assert Embodiment.from_json(body.to_json()) == body


def test_missing_worlds_file_is_named(tmp_path):
    with pytest.raises(WorldsFileError, match=r"nowhere.toml"):
        read_worlds_file(tmp_path / "nowhere.toml")

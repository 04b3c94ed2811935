"""How a body describes itself: what is a description, what is none, and what has changed between two of them."""

import json
import math
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import robots.worlds
from robots.embodiments import (
    EMBODIMENTS,
    ENVIRONMENT_STATE,
    LONGEST_PROBLEM,
    MOST_CAMERAS,
    MOST_NUMBERS,
    STATE,
    Camera,
    DriveAxis,
    Embodiment,
    Feature,
    Motion,
    ObjectKind,
    Overhead,
    differences,
    get_embodiment,
    picture,
    vector,
)
from robots.worlds.language_table import BLOCKS, CAMERA_TABLE, LANGUAGE_TABLE
from robots.worlds.point_mass import POINT_MASS
from robots.worlds.third_party import WorldsFileError, read_worlds_file

TOP = "observation.images.top"
TABLE_X, TABLE_Y = 0.3, 0.2  # half of it
REACHER = read_worlds_file(Path(robots.worlds.__file__).parent / "reacher.toml")[0].embodiment
BODIES = [*EMBODIMENTS.values(), REACHER]

# One with everything that a body may have.
ARM = Embodiment(
    name="arm",
    fps=30.0,
    observation={
        STATE: vector(("shoulder", "elbow", "grip"), (-90, -90, 0), (90, 90, 1), ("degrees", "degrees", "")),
        ENVIRONMENT_STATE: vector(("red cup.x", "red cup.y", "blue cup.x", "blue cup.y"), units=("m",) * 4),
        TOP: picture(64, 48),
        "observation.images.wrist": picture(32, 32),
    },
    action=vector(("shoulder", "elbow", "grip"), (-90, -90, -1), (90, 90, 1)),
    motions=(
        Motion("position", 3, "shoulder"),
        Motion("position", 3, "elbow"),
        Motion("velocity", 0.05),
    ),
    drive=(DriveAxis("x"), DriveAxis("y"), DriveAxis("gripper", "grip"), DriveAxis("elbow", "elbow")),
    objects=(ObjectKind("red cup", "red", "cup"), ObjectKind("blue cup", "blue", "cup")),
    views=(Camera("front", 320, 240),),
    overhead=Overhead("top", 0.01),
)


def test_language_table_has_the_sizes_that_networks_are_built_from():
    assert {key: feature.size for key, feature in LANGUAGE_TABLE.observation.items()} == {
        STATE: 4,
        ENVIRONMENT_STATE: 8 * 5,
    }
    assert LANGUAGE_TABLE.action_size == 2 and LANGUAGE_TABLE.action_names == ("delta_x", "delta_y")
    assert LANGUAGE_TABLE.object_slice("red moon") == slice(0, 5)
    assert LANGUAGE_TABLE.object_slice("yellow pentagon") == slice(35, 40)
    assert LANGUAGE_TABLE.object_features == ("x", "y", "cos", "sin", "on_table")


def test_what_a_body_says_of_its_features_is_found_by_what_one_asks_for():
    ARM.check()
    assert ARM.state_names == ("shoulder", "elbow", "grip") and ARM.object_features == ("x", "y")
    assert ARM.object_slice("blue cup") == slice(2, 4)
    assert [*ARM.pictures] == ["top", "wrist"] and ARM.pictures["top"].shape == (48, 64, 3)
    assert ARM.cameras == (Camera("front", 320, 240), Camera("top", 64, 48), Camera("wrist", 32, 32))
    seen_larger = replace(ARM, views=(Camera("wrist", 640, 640),))
    assert seen_larger.cameras == (Camera("wrist", 640, 640), Camera("top", 64, 48)), "each once, as its view is"
    assert ARM.action_range == ((-90, 90), (-90, 90), (-1, 1)), "30 steps a second of at most 0.05 are more than 1"
    assert ARM.tracked and not CAMERA_TABLE.tracked and CAMERA_TABLE.state_names == ()


@pytest.mark.parametrize("body", [*BODIES, ARM], ids=lambda body: body.name)
def test_description_survives_json(body):
    again = Embodiment.from_json(json.loads(json.dumps(body.to_json(), allow_nan=False)))
    assert again == body and again.to_json() == body.to_json()
    assert [*again.observation] == [*body.observation], "in the same order, too"


def test_broken_description_is_refused_in_words():
    for part in ("name", "fps", "action"):
        data = LANGUAGE_TABLE.to_json()
        del data[part]
        with pytest.raises(ValueError, match=f"no description of a body: KeyError at '{part}'. Send what"):
            Embodiment.from_json(data)
    action = LANGUAGE_TABLE.to_json()["action"]
    with pytest.raises(ValueError, match="2 numbers but 1 low; give one for each"):
        Embodiment.from_json(LANGUAGE_TABLE.to_json() | {"action": action | {"low": [-0.1]}})


def test_a_body_that_was_stored_before_motions_were_declared_is_still_read():
    data = LANGUAGE_TABLE.to_json()
    del data["motions"], data["drive"]
    body = Embodiment.from_json(data)
    assert body.motions == () == body.drive and body.action_range == ((-0.03, 0.03),) * 2


def of_action(**changes):
    return {"action": asdict(LANGUAGE_TABLE.action) | changes}


def of_state(**changes):
    return {"observation": {STATE: asdict(LANGUAGE_TABLE.observation[STATE]) | changes}}


def observing(key, feature):
    return {"observation": {key: asdict(feature)}}


def both(**motion):
    return {"motions": [motion] * 2}


BLOCK = {"name": "cup", "colour": "red", "shape": "cup"}
PARTS = "red moon.x", "red moon.y"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fps": math.inf}, "fps"),
        ({"fps": math.nan}, "fps of nan"),
        ({"fps": 0}, "fps of 0"),
        ({"fps": "fast"}, "no description of a body: ValueError"),
        # Features
        ({"observation": {}}, "observes nothing"),
        ({"observation": [STATE]}, "no description of a body"),
        ({"observation": {STATE: [4]}}, "no description of a body"),
        (observing("observation.sound", vector(("a",))), "feature observation.sound: a vector of the observation is"),
        (observing(ENVIRONMENT_STATE + ".x", vector(("a",))), "a vector of the observation is called"),
        (observing(TOP, vector(("a",))), "a vector of the observation is called"),
        (observing(STATE, picture(4, 4)), 'a picture is called "observation.images.CAMERA"'),
        (observing("observation.images.", picture(4, 4)), "a picture is called"),
        (observing("observation.images.a/b", picture(4, 4)), 'holds no "/"'),
        (observing("observation.images." + "a" * 61, picture(4, 4)), "a picture is called"),
        (observing(TOP, replace(picture(4, 4), shape=(4, 4))), r"a picture's shape is .*, not \[4, 4\]"),
        (observing(TOP, replace(picture(4, 4), shape=(3, 4, 4))), r"not \[3, 4, 4\]"),
        (observing(TOP, picture(4, 0)), r"not \[0, 4, 3\]"),
        (observing(TOP, picture(-4, -4)), r"not \[-4, -4, 3\]"),
        (observing(TOP, picture(10**5, 10**5)), r"a picture's shape is"),
        (observing(TOP, replace(picture(4, 4), low=(0.0,), high=(1.0,))), "no low, high or units"),
        (observing(TOP, replace(picture(4, 4), names=("a",))), "a picture's names are height, width, channels"),
        (of_state(dtype="float64"), "its dtype is 'float64'; vectors are float32, pictures uint8"),
        (of_state(shape=[4, 1]), r"a vector's shape is \[n\], with n from 1 to 10000, not \[4, 1\]"),
        (of_state(shape=[]), r"not \[\]"),
        (of_state(shape=[0], names=[]), r"not \[0\]"),
        (of_state(shape=[5]), "it has 5 numbers but 4 names; give one for each"),
        (of_state(shape=[10**30]), "a vector's shape is"),
        (of_state(shape="4x"), "no description of a body"),
        (of_state(names=["a", "b", "a", "c"]), "two of its numbers are named 'a'"),
        (of_state(names=["a", "b", "", "c"]), "'' is none"),
        (of_state(names=["a", "b", 3, "c"]), "3 is none"),
        (of_state(names=["a", "b", "c", "d" * 61]), "a text of 1 to 60 characters"),
        (of_state(high=[1, 1, 1, 1, 1]), "4 numbers but 5 high"),
        (of_state(low=[0, 0, 0]), "4 numbers but 3 low"),
        (of_state(units=["m"]), "4 numbers but 1 units"),
        (of_state(units=["m", "m", "m", 7]), "each of its units must be a text"),
        (of_state(low=[]), "high without low; give both"),
        (of_state(low=[0, 0, 2, 0], high=[1, 1, 1, 1]), r"low \(2.0\) of previous_ee_x must be below its high \(1.0\)"),
        (of_state(low=[0, 0, 1, 0], high=[1, 1, 1, 1]), "must be below its high"),
        (of_state(low=[0, 0, math.nan, 0], high=[1] * 4), "both finite"),
        (observing(STATE, vector([f"{i}" for i in range(MOST_NUMBERS + 1)])), "n from 1 to 10000"),
        (
            {"observation": {f"observation.images.{i}": asdict(picture(4, 4)) for i in range(MOST_CAMERAS + 1)}},
            "18 cameras; at most 16",
        ),
        # The action
        (of_action(low=[], high=[]), "feature action: it needs low and high"),
        (of_action(high=[math.inf, 1]), "feature action: low .* of delta_x must be below its high .*, both finite"),
        (of_action(high=[10**400, 1]), "OverflowError"),
        (of_action(low=[1, 0], high=[1, 1]), "must be below its high"),
        (of_action(names=["a", "a"]), "feature action: two of its numbers are named 'a'"),
        (of_action(shape=[0], names=[], low=[], high=[], units=[]), "at least one number"),
        (of_action(dtype="int64"), "feature action: it must be a vector of float32"),
        ({"action": asdict(picture(4, 4))}, "feature action: it must be a vector"),
        ({"action": [2]}, "no description of a body"),
        # Its motions
        ({"motions": [{"kind": "delta"}]}, "declares 1 motions; give one for each action"),
        (both(kind="wave"), "delta, velocity, position, effort"),
        (both(kind="effort", largest_change=1), "leave it out"),
        (both(kind="delta"), "largest_change must be"),
        (both(kind="delta", largest_change=0), "largest_change must be"),
        (both(kind="delta", largest_change=math.nan), "largest_change must be"),
        (of_action(low=[0.02, 0.02]) | both(kind="delta", largest_change=0.01), "more than its largest_change of 0.01"),
        (of_action(low=[0.02, 0.02]) | both(kind="velocity", largest_change=0.001), "all from low to high"),
        (both(kind="position", largest_change=1), "sensed_by must name"),
        (both(kind="position", largest_change=1, sensed_by="red moon.x"), "sensed_by must name .* observation.state"),
        ({"motions": [{"kind": "effort", "speed": 1}]}, "no description of a body"),
        ({"motions": [{"kind": "effort", "low": 0}] * 2}, "no description of a body"),
        ({"motions": [7, 7]}, "no description of a body"),
        (both(kind="delta", largest_change=1, sensed_by=None), "sensed_by must be a text"),
        # What drives it
        ({"drive": [{"axis": "x", "moves": "delta_x"}] * 2}, "names the drive axis 'x' twice"),
        (
            {"drive": [{"axis": "w", "moves": "delta_x"}]},
            "drive axis 'w'; known are x, y, z, roll, pitch, yaw, gripper",
        ),
        ({"drive": [{"axis": "ee_x"}]}, "and the names of its actions"),
        ({"drive": [{"axis": "x", "moves": "ee_x"}]}, "'x' moves 'ee_x', which is no number of its action"),
        ({"drive": [{"axis": "x", "moves": "delta_x"}], "motions": []}, "declare its motions"),
        ({"drive": [{"axis": ["x"], "moves": {}}]}, r"has the drive axis \['x'\]"),
        ({"drive": [{"axis": "x", "moves": None}]}, "moves None, which is no number of its action"),
        ({"drive": [{"moves": "delta_x"}]}, "no description of a body"),
        # Objects and cameras
        ({"objects": [BLOCK, BLOCK]}, "two objects named 'cup'"),
        ({"objects": [BLOCK | {"name": ""}]}, "its name, colour and shape must be texts"),
        ({"objects": [BLOCK | {"colour": None}]}, "its name, colour and shape must be texts"),
        ({"objects": [BLOCK | {"weight": 1}]}, "no description of a body"),
        ({"objects": [BLOCK]}, "it must hold the same features of each object"),
        ({"objects": [asdict(kind) for kind in BLOCKS[::-1]]}, "in the objects' order"),
        ({"objects": [asdict(kind) for kind in BLOCKS[:-1]]}, "feature observation.environment_state: it must hold"),
        (
            observing(ENVIRONMENT_STATE, vector((*PARTS, "blue cube.x"))) | {"objects": [asdict(BLOCKS[0])]},
            'named "OBJECT.FEATURE"',
        ),
        ({"overhead": {"camera": "front", "metres_per_pixel": 0.01}}, "from above by 'front', which is none of its"),
        ({"overhead": {"camera": ["top"], "metres_per_pixel": 0.01}}, "which is none of its cameras"),
        ({"overhead": {"camera": "top"}}, "no description of a body"),
        ({"overhead": "top"}, "no description of a body"),
        (
            observing(TOP, picture(4, 4)) | {"overhead": {"camera": "top", "metres_per_pixel": 0}},
            "metres_per_pixel must be a finite number above 0, not 0",
        ),
        ({"views": [{"name": "front", "width": 0, "height": 9}]}, "a width and a height in pixels"),
        ({"views": [{"name": "front", "width": "320", "height": 240}]}, "'front' of '320' x 240"),
        ({"views": [{"name": ["front"], "width": 320, "height": 240}]}, "needs a name of 1 to 60 characters"),
        ({"views": [{"name": "front", "width": 320, "height": 240}] * 2}, "two views named 'front'"),
        (
            {"views": [{"name": f"{i}", "width": 3, "height": 2} for i in range(MOST_CAMERAS + 1)]},
            "17 cameras; at most 16",
        ),
    ],
)
def test_a_body_that_contradicts_itself_is_refused_in_words(change, words):
    with pytest.raises(ValueError, match=words) as refused:
        Embodiment.from_json(LANGUAGE_TABLE.to_json() | change)
    assert len(str(refused.value)) <= LONGEST_PROBLEM and str(refused.value).endswith(".")


def test_however_long_what_is_wrong_the_sentence_is_short():
    with pytest.raises(ValueError, match="The body xxx") as refused:
        Embodiment.from_json(LANGUAGE_TABLE.to_json() | {"name": "x" * 60} | observing("y" * 9999, vector(("a",))))
    assert len(str(refused.value)) == LONGEST_PROBLEM


@pytest.mark.parametrize("garbage", [None, 7, "language_table", [], {}, [1, 2], {"observation": None}, {"body": 3}, ()])
def test_garbage_is_no_description(garbage):
    with pytest.raises(ValueError, match=r"^This is no description of a body: .* Send what Embodiment\.to_json"):
        Embodiment.from_json(garbage)


def places_in(node, path=()):
    """The way to each part of a description."""
    if path:
        yield path
    for key, each in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places_in(each, (*path, key))


ANYTHING = st.recursive(
    st.sampled_from([None, True, 0, -1, 10**400, 1e400, math.nan, 0.5, "", "x", "delta_x", "\ud800", STATE, "uint8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "camera", "kind"]), inner),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_is_wrong_in_a_description_it_is_refused_with_a_sentence_or_read(data):
    told = json.loads(json.dumps(data.draw(st.sampled_from([ARM.to_json(), OLD_CAMERA_TABLE, OLD_LANGUAGE_TABLE]))))
    *way, last = data.draw(st.sampled_from(list(places_in(told))))
    node = told
    for key in way:
        node = node[key]
    node[last] = data.draw(ANYTHING)
    try:
        body = Embodiment.from_json(told)
    except ValueError as error:
        assert str(error)
        return
    again = json.loads(json.dumps(body.to_json(), allow_nan=False))
    assert Embodiment.from_json(again) == body
    assert differences(body, ARM) is not None and body.cameras is not None and body.action_range


# Descriptions of before features had names, as checkpoints, datasets and rows of stations hold them

FRONT = [{"name": "front", "width": 320, "height": 240}]
OLD_MOTION = {"kind": "delta", "low": -0.03, "high": 0.03, "largest_change": 0.03, "sensed_by": ""}
OLD_LANGUAGE_TABLE = {
    "name": "language_table",
    "control_hz": 5.0,
    "body": ["ee_x", "ee_y", "previous_ee_x", "previous_ee_y"],
    "objects": [
        {"name": f"{colour} {shape}", "colour": colour, "shape": shape}
        for colour, shape in (
            ("red", "moon"),
            ("red", "pentagon"),
            ("blue", "moon"),
            ("blue", "cube"),
            ("green", "star"),
            ("green", "cube"),
            ("yellow", "star"),
            ("yellow", "pentagon"),
        )
    ],
    "object_features": ["x", "y", "cos", "sin", "on_table"],
    "action_names": ["delta_x", "delta_y"],
    "action_limit": [0.03, 0.03],
    "cameras": FRONT,
    "picture": None,
    "motions": [OLD_MOTION] * 2,
    "observation_limit": [TABLE_X + 0.05, TABLE_Y + 0.05] * 2 + [TABLE_X, TABLE_Y, 1.0, 1.0, 1.0] * 8,
}
OLD_WORN_TABLE = OLD_LANGUAGE_TABLE | {"name": "worn_table"}
OLD_CAMERA_TABLE = OLD_LANGUAGE_TABLE | {
    "name": "camera_table",
    "picture": {"camera": "top", "width": 124, "height": 88, "metres_per_pixel": 0.006},
}
OLD_BANANA_TABLE = OLD_LANGUAGE_TABLE | {
    "name": "banana_table",
    "objects": [{"name": "banana", "colour": "yellow", "shape": "banana"}],
    "observation_limit": [TABLE_X + 0.05, TABLE_Y + 0.05] * 2 + [TABLE_X, TABLE_Y, 1.0, 1.0, 1.0],
}
OLD_POINT_MASS = {
    "name": "point_mass",
    "control_hz": 10.0,
    "body": ["x", "y", "velocity_x", "velocity_y", "to_goal_x", "to_goal_y"],
    "objects": [],
    "object_features": [],
    "action_names": ["force_x", "force_y"],
    "action_limit": [1.0, 1.0],
    "cameras": FRONT,
    "picture": None,
    "motions": [{"kind": "effort", "low": -1.0, "high": 1.0, "largest_change": None, "sensed_by": ""}] * 2,
    "observation_limit": [],
}
OLD_REACHER = OLD_POINT_MASS | {
    "name": "reacher",
    "body": [f"{what}_{i}" for what in ("cos", "sin") for i in (1, 2)]
    + ["target_x", "target_y", "speed_1", "speed_2", "to_target_x", "to_target_y"],
    "action_names": ["shoulder_torque", "elbow_torque"],
}
OLD = [OLD_LANGUAGE_TABLE, OLD_WORN_TABLE, OLD_CAMERA_TABLE, OLD_BANANA_TABLE, OLD_POINT_MASS, OLD_REACHER]


def without_units(body: Embodiment) -> Embodiment:
    def bare(feature: Feature) -> Feature:
        return replace(feature, units=())

    observation = {key: bare(feature) for key, feature in body.observation.items()}
    return replace(body, observation=observation, action=bare(body.action))


def test_each_built_in_body_has_an_old_description_here():
    later = {
        "so101_pick",
        "so101_pick_cameras",
        "gripper_table",
        "gripper_pocket",
        "gripper_hidden",
        "push_effects",
        "planar_pusher",
        "skid_cart",
    }  # built in since then
    assert {each["name"] for each in OLD} | later == {body.name for body in BODIES}


@pytest.mark.parametrize("old", OLD, ids=lambda old: old["name"])
def test_an_old_description_is_exactly_the_body_of_now(old):
    now = {body.name: body for body in BODIES}[old["name"]]
    read = Embodiment.from_json(json.loads(json.dumps(old)))
    assert read == without_units(now)
    assert [*read.observation] == [*now.observation], "in the same order"
    assert read.to_json() == without_units(now).to_json() and differences(now, read) == []


@pytest.mark.parametrize("old", OLD, ids=lambda old: old["name"])
def test_a_description_from_before_motions_limits_and_pictures_were_declared_is_read_too(old):
    oldest = {key: each for key, each in old.items() if key not in ("motions", "observation_limit")}
    if not old["picture"]:
        del oldest["picture"]
    now = {body.name: body for body in BODIES}[old["name"]]
    read = Embodiment.from_json(oldest)
    assert read.motions == () == read.drive and read.action_range == without_units(now).action_range
    assert all(not feature.low for feature in read.observation.values())
    assert differences(now, read) == [], "what it did not say is no difference"


def test_an_old_body_of_one_side_keeps_the_bounds_of_its_motions():
    motions = [
        {"kind": "position", "low": 0.0, "high": 4.0, "largest_change": 0.5, "sensed_by": "x"},
        {"kind": "effort", "low": -2.0, "high": 0.5, "largest_change": None, "sensed_by": ""},
        {"kind": "effort", "low": -1.0, "high": 1.0, "largest_change": None, "sensed_by": ""},
    ]
    names = ["rail", "thrust", "grip"]
    body = Embodiment.from_json(
        OLD_POINT_MASS | {"motions": motions, "action_names": names, "action_limit": [4.0, 2.0, 1.0]}
    )
    assert body.action == vector(names, (0, -2, -1), (4, 0.5, 1))
    assert body.motions == (Motion("position", 0.5, "x"), Motion("effort"), Motion("effort"))
    assert body.drive == (DriveAxis("x", "rail"), DriveAxis("y", "thrust")), "as the first two were driven"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action_limit": [0.03], "motions": []}, "feature action: it has 2 numbers but 1 low"),
        ({"motions": [OLD_MOTION]}, "2 numbers but 1 low"),
        ({"action_limit": [math.inf, 1], "motions": []}, "both finite"),
        ({"observation_limit": [1.0] * 43}, "feature observation.environment_state: it has 40 numbers but 39 low"),
        ({"objects": 3}, "no description of a body"),
        ({"objects": [3]}, "no description of a body"),
        ({"picture": {"camera": "top"}}, "no description of a body"),
        ({"picture": {"camera": "top", "width": 0, "height": 9, "metres_per_pixel": 1}}, "a picture's shape"),
        ({"motions": [{"kind": "delta"}] * 2}, "no description of a body"),
    ],
)
def test_an_old_description_that_contradicts_itself_is_refused_too(change, words):
    with pytest.raises(ValueError, match=words):
        Embodiment.from_json(OLD_LANGUAGE_TABLE | change)


def test_an_old_description_that_lacks_a_part_is_refused():
    for part in ("name", "control_hz", "body", "objects", "object_features", "action_names", "action_limit", "cameras"):
        data = deepcopy(OLD_LANGUAGE_TABLE)
        del data[part]
        with pytest.raises(ValueError, match=f"KeyError at '{part}'"):
            Embodiment.from_json(data)


# What has changed


@pytest.mark.parametrize("body", [*BODIES, ARM], ids=lambda body: body.name)
def test_a_body_does_not_differ_from_itself_nor_by_what_people_watch_and_drive_by(body):
    assert differences(body, Embodiment.from_json(body.to_json())) == []
    assert differences(body, replace(body, name="other", views=(Camera("side", 9, 9),), drive=())) == []
    assert differences(body, without_units(body)) == [] == differences(without_units(body), body)


def with_state(**changes):
    return replace(ARM, observation={**ARM.observation, STATE: replace(ARM.observation[STATE], **changes)})


LESS = {key: feature for key, feature in ARM.observation.items() if key != "observation.images.wrist"}


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (replace(ARM, fps=10.0), "it acts at 30 Hz, and acted at 10 Hz"),
        (replace(ARM, observation=LESS), "observation.images.wrist is new"),
        (
            replace(ARM, observation={**ARM.observation, "observation.images.side": picture(3, 2)}),
            "observation.images.side is gone",
        ),
        (
            replace(ARM, observation={**ARM.observation, TOP: picture(48, 64)}),
            "observation.images.top is uint8 [48, 64, 3], and was uint8 [64, 48, 3]",
        ),
        (
            replace(ARM, observation={**ARM.observation, STATE: vector(("shoulder", "elbow"))}),
            "observation.state is float32 [3], and was float32 [2]",
        ),
        (with_state(names=("shoulder", "wrist", "hand")), "observation.state has elbow where it had wrist"),
        (
            with_state(high=(90, 180, 1)),
            "observation.state: elbow goes from -90 to 90, and went from -90 to 180",
        ),
        (
            replace(ARM, action=replace(ARM.action, names=("shoulder", "elbow", "hand"))),
            "action has grip where it had hand",
        ),
        (
            replace(ARM, action=replace(ARM.action, low=(-90, -45, -1))),
            "action: elbow goes from -90 to 90, and went from -45 to 90",
        ),
        (
            replace(ARM, motions=(Motion("effort"), *ARM.motions[1:])),
            "its actions are position, position, velocity, and were effort, position, velocity",
        ),
        (replace(ARM, objects=ARM.objects[:1]), "its objects are red cup, blue cup, and were red cup"),
        (replace(ARM, objects=()), "its objects are red cup, blue cup, and were none"),
        (
            replace(ARM, objects=(ObjectKind("red cup", "red", "mug"), ARM.objects[1])),
            "its objects are red cup (red, cup), blue cup (blue, cup), and were red cup (red, mug), "
            "blue cup (blue, cup)",
        ),
    ],
)
def test_each_difference_is_a_sentence(then, said):
    assert differences(ARM, then) == [said]
    assert len(differences(then, ARM)) == 1, "whichever was first"


def test_what_one_of_them_did_not_say_is_no_difference():
    assert differences(ARM, with_state(low=(), high=())) == [] == differences(with_state(low=(), high=()), ARM)
    assert differences(ARM, replace(ARM, motions=(), drive=())) == []


def test_several_differences_are_several_sentences():
    assert differences(POINT_MASS, LANGUAGE_TABLE) == [
        "it acts at 10 Hz, and acted at 5 Hz",
        "observation.environment_state is gone",
        "observation.state is float32 [6], and was float32 [4]",
        "action has force_x where it had delta_x",
        "its actions are effort, effort, and were delta, delta",
        f"its objects are none, and were {', '.join(kind.name for kind in BLOCKS)}",
    ]


# Names, and the file of third-party worlds


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
    body = world.embodiment
    body.check()
    assert body.observation == {STATE: vector(("observation_0", "observation_1", "observation_2", "observation_3"))}
    assert body.action == vector(("force",), (-3.0,), (3.0,)) and body.fps == 25
    assert body.objects == () == body.drive == body.motions


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
        Motion("position", 0.1, "rail_at"),
        Motion("velocity", 0.02),
        Motion("effort"),
    )
    assert body.action == vector(("rail", "hinge", "thrust"), (0, -1.5, 0), (1, 0.5, 2))
    axes = (DriveAxis("x", "rail"), DriveAxis("y", "hinge"), DriveAxis("thrust", "thrust"))
    assert body.drive == axes
    # 25 steps a second of at most 0.02
    assert body.action_range == ((0, 1), (-0.5, 0.5), (0, 2))
    assert Embodiment.from_json(body.to_json()) == body


def test_a_worlds_file_may_observe_as_much_as_it_is_told(tmp_path):
    path = tmp_path / "worlds.toml"
    path.write_text(WORLD.replace("observations = 4", f"observations = {MOST_NUMBERS}"))
    assert len(read_worlds_file(path)[0].embodiment.state_names) == MOST_NUMBERS


def test_missing_worlds_file_is_named(tmp_path):
    with pytest.raises(WorldsFileError, match=r"nowhere.toml"):
        read_worlds_file(tmp_path / "nowhere.toml")

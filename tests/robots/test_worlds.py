import math
import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from robots.embodiments import EMBODIMENTS, ENVIRONMENT_STATE, STATE, Observation
from robots.episodes import rows_of, stacked
from robots.tasks import TASKS, get_task
from robots.worlds import WorldError, make_world
from robots.worlds.language_table import BLOCKS, LANGUAGE_TABLE, PLACES, block_positions
from robots.worlds.language_table.physics import HALF_TABLE, REACH, BatchWorld, LanguageTable


@pytest.mark.parametrize("name", EMBODIMENTS)
def test_every_world_steps_with_random_actions_without_nan(name):
    world, rng = make_world(name, 0), np.random.default_rng(0)
    limit = np.array(world.embodiment.action.high)
    families = [family for family in TASKS.values() if family.world == name]
    assert families
    for episode in range(5):
        observation = world.reset(rng)
        for step in range(60):
            observation = world.step(rng.uniform(-2 * limit, 2 * limit))
            assert observation.keys() == world.embodiment.observation.keys()
            for key, feature in world.embodiment.observation.items():
                assert observation[key].shape == feature.shape and observation[key].dtype == feature.dtype
                assert np.isfinite(observation[key]).all(), (key, episode, step)
        for family in families:
            instruction = family.sample(rng, [kind.name for kind in world.embodiment.objects])
            assert world.true_success(instruction) in (True, False)
    world.close()


@pytest.mark.parametrize("name", EMBODIMENTS)
def test_what_a_world_shows_while_nobody_acts_is_to_the_bit_what_it_showed_last(name):
    world, rng = make_world(name, 3), np.random.default_rng(3)
    seen = world.reset(rng)
    for _ in range(5):
        for _ in range(2):
            again = world.observation()
            assert seen.keys() == again.keys()
            assert all(seen[key].tobytes() == again[key].tobytes() for key in seen)
        seen = {
            key: array.copy()
            for key, array in world.step(rng.uniform(*np.array(world.embodiment.action_range).T)).items()
        }
    world.close()


def test_scattered_blocks_touch_nothing_and_lie_on_the_table():
    world, rng = LanguageTable(0), np.random.default_rng(1)
    for _ in range(50):
        observation = world.reset(rng)
        places = np.array(list(block_positions(observation).values()))
        assert len(places) == 8 and (np.abs(places) < HALF_TABLE).all()
        still = world.step(np.zeros(2))
        np.testing.assert_allclose(still[ENVIRONMENT_STATE], observation[ENVIRONMENT_STATE], atol=1e-6)
        assert world.needs_reset() == ""


def test_a_released_block_stays_where_it_is():
    world, rng = LanguageTable(3), np.random.default_rng(3)
    for _ in range(200):
        world.step(rng.uniform(-0.03, 0.03, 2))
    before = world.step(np.zeros(2))
    after = world.step(np.zeros(2))
    np.testing.assert_allclose(after[ENVIRONMENT_STATE], before[ENVIRONMENT_STATE], atol=2e-3)


def test_the_end_effector_goes_where_it_is_sent_and_no_farther_than_the_limit():
    world = alone({})
    start = world.observation()[STATE][:2]
    after = world.step(np.array([5.0, -0.01]))[STATE]
    np.testing.assert_allclose(after[:2] - start, [0.03, -0.01], atol=0.002)
    np.testing.assert_array_equal(after[2:], start)


def alone(blocks: dict[str, tuple[float, float]], end_effector=(0.0, 0.0)) -> LanguageTable:
    """A table with only these blocks; the others have fallen."""
    world = LanguageTable(0)
    tracked = np.zeros(40, np.float32)
    for name, (x, y) in blocks.items():
        tracked[LANGUAGE_TABLE.object_slice(name)] = x, y, 1, 0, 1
    world.set_observation({STATE: np.array([*end_effector, *end_effector]), ENVIRONMENT_STATE: tracked})
    return world


def block_of(observation: Observation, name: str) -> np.ndarray:
    return observation[ENVIRONMENT_STATE][LANGUAGE_TABLE.object_slice(name)]


@pytest.mark.parametrize("block", [kind.name for kind in BLOCKS])
def test_every_block_can_be_pushed(block):
    world = alone({block: (0.05, 0.0)})
    for _ in range(8):
        observation = world.step(np.array([0.02, 0.0]))
    x, _, cos, sin, on_table = block_of(observation, block)
    assert x > 0.12 and on_table == 1  # the end effector nests in a moon
    assert math.isclose(cos * cos + sin * sin, 1, abs_tol=1e-5)


def test_an_off_centre_push_turns_a_block():
    world = alone({"green cube": (0.05, 0.0)}, end_effector=(0.0, 0.014))
    for _ in range(5):
        observation = world.step(np.array([0.02, 0.0]))
    assert abs(block_of(observation, "green cube")[3]) > 0.1


def test_a_fallen_block_stays_fallen_until_a_reset():
    world = alone(
        {kind.name: (-0.2 + 0.05 * i, 0.1) for i, kind in enumerate(BLOCKS)} | {"blue cube": (0.27, 0.0)},
        end_effector=(0.22, 0.0),
    )
    assert world.needs_reset() == ""
    for _ in range(4):
        observation = world.step(np.array([0.03, 0.0]))
    assert world.needs_reset() == "the blue cube is off the table"
    assert "blue cube" not in world.objects_in_play() and len(world.objects_in_play()) == 7
    rng = np.random.default_rng(0)
    for _ in range(300):
        observation = world.step(rng.uniform(-0.03, 0.03, 2))
        assert (block_of(observation, "blue cube") == 0).all()
    assert "the blue cube" in world.needs_reset()
    assert not world.true_success(get_task("block2block").parse("push the blue cube to the red moon"))
    world.reset(rng)
    assert world.needs_reset() == "" and len(world.objects_in_play()) == 8


def test_several_fallen_blocks_are_all_named():
    world = alone({kind.name: (0, 0) for kind in BLOCKS[2:]})
    assert world.needs_reset() == "the red moon and the red pentagon are off the table"


def test_a_recorded_observation_brings_its_state_back():
    world, rng = LanguageTable(5), np.random.default_rng(5)
    for _ in range(150):
        world.step(rng.uniform(-0.03, 0.03, 2))
    observation = world.observation()
    other = LanguageTable(6)
    other.set_observation(observation)
    seen = other.observation()
    assert seen.keys() == observation.keys() == {STATE, ENVIRONMENT_STATE}
    action = np.array([0.02, 0.01])  # the observation is the whole state: both go on alike
    after, expected = other.step(action), world.step(action)
    for key in seen:
        np.testing.assert_allclose(seen[key], observation[key], atol=1e-6)
        np.testing.assert_allclose(after[key], expected[key], atol=1e-4)


@pytest.mark.parametrize(
    ("text", "positions", "expected"),
    [
        ("push the red moon to the blue cube", {"red moon": (0, 0), "blue cube": (0.045, 0)}, True),
        ("push the red moon to the blue cube", {"red moon": (0, 0), "blue cube": (0.06, 0)}, False),
        ("push the red moon to the blue cube", {"red moon": (0, 0)}, False),
    ],
)
def test_true_success_of_block2block(text, positions, expected):
    assert alone(positions, (-0.2, -0.1)).true_success(get_task("block2block").parse(text)) is expected


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("left", (-1, 0)),
        ("top left", (-1, 1)),
        ("top center", (0, 1)),
        ("top right", (1, 1)),
        ("right", (1, 0)),
        ("bottom right", (1, -1)),
        ("bottom", (0, -1)),
        ("bottom left", (-1, -1)),
        ("center", (0, 0)),
    ],
)
def test_true_success_of_each_place_holds_there_only(place, where):
    world = alone({"red moon": (0.21 * where[0], 0.12 * where[1])}, (0.1, 0.05))
    task = get_task("block_to_place")
    fulfilled = [p for p in PLACES if world.true_success(task.parse(f"push the red moon to the {p}"))]
    assert fulfilled == [place]


def test_same_seed_same_world():
    a, b = LanguageTable(9), LanguageTable(9)
    rng = np.random.default_rng(0)
    for action in rng.uniform(-0.03, 0.03, (50, 2)):
        np.testing.assert_equal(a.step(action), b.step(action))
    other, one = LanguageTable(10).observation(), LanguageTable(9).observation()
    assert all((other[key] != one[key]).any() for key in one)


@pytest.mark.parametrize(
    ("action", "words"), [(np.zeros(3), r"shape is \(3,\)"), (np.array([np.nan, 0]), "NaN"), ("left", "2 numbers")]
)
def test_a_wrong_action_is_refused_and_nothing_moves(action, words):
    world = LanguageTable(0)
    before = world.observation()
    with pytest.raises(WorldError, match=words):
        world.step(action)
    np.testing.assert_equal(world.observation(), before)


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        ({STATE: np.zeros(3), ENVIRONMENT_STATE: np.zeros(40)}, r"observation\.state must be 4 numbers"),
        ({STATE: np.zeros(4), ENVIRONMENT_STATE: np.zeros(4)}, r"observation\.environment_state must be 40 numbers"),
        ({STATE: np.zeros(4), ENVIRONMENT_STATE: np.full(40, np.nan)}, "environment_state holds NaN"),
        ({STATE: np.zeros(4)}, r"holds no observation\.environment_state"),
        ({}, r"holds no observation\.state"),
    ],
)
def test_a_wrong_observation_is_refused_and_nothing_moves(observation, words):
    world = LanguageTable(0)
    before = world.observation()
    with pytest.raises(WorldError, match=words):
        world.set_observation(observation)
    np.testing.assert_equal(world.observation(), before)


@pytest.mark.parametrize(
    ("name", "observation", "words"),
    [
        ("point_mass", {}, r"holds no observation\.state"),
        ("point_mass", {STATE: np.zeros(5)}, r"observation\.state must be 6 numbers"),
        ("camera_table", {STATE: np.zeros(4)}, r"holds no observation\.images\.top"),
        ("camera_table", {"observation.images.top": np.zeros(7, np.uint8)}, r"images\.top has the shape \(7,\)"),
    ],
)
def test_a_recorded_observation_of_another_body_is_refused_in_words(name, observation, words):
    with pytest.raises(WorldError, match=words):
        make_world(name, 0).set_observation(observation)


def test_unknown_world_lists_the_known_ones():
    with pytest.raises(WorldError, match="language_table"):
        make_world("moon_base", 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_steps_each_table_as_if_it_were_alone(threads):
    batch, alone_worlds = BatchWorld(5, 1, threads), BatchWorld(5, 1)
    rng = np.random.default_rng(2)
    batch.reset(3, np.random.default_rng(8)), alone_worlds.reset(3, np.random.default_rng(8))
    for actions in rng.uniform(-0.03, 0.03, (80, 5, 2)):
        together = batch.step(actions)
        np.testing.assert_equal(together, stacked([alone_worlds.world(i).step(actions[i]) for i in range(5)]))
    assert batch.world(2).needs_reset() == alone_worlds.world(2).needs_reset()
    with pytest.raises(WorldError, match="batch of actions"):
        batch.step(np.zeros((4, 2)))
    batch.close()


def test_in_a_batch_what_is_not_active_stands_still():
    batch, whole = BatchWorld(4, 3), BatchWorld(4, 3)
    active, rng = np.array([True, False, True, False]), np.random.default_rng(4)
    before = batch.observations()
    for actions in rng.uniform(-0.03, 0.03, (40, 4, 2)):
        some, all_of_them = batch.step(actions, active), whole.step(actions)
        np.testing.assert_equal(rows_of(some, active), rows_of(all_of_them, active))
        np.testing.assert_equal(rows_of(some, ~active), rows_of(before, ~active))
    batch.close(), whole.close()


def test_camera_sees_blocks_and_the_end_effector_move():
    world = LanguageTable(0)
    before = world.render("front", 320, 240)
    assert before.shape == (240, 320, 3) and before.dtype == np.uint8
    assert before.std() > 20
    for _ in range(4):
        world.step(np.array([0.03, 0.0]))
    assert (world.render("front", 320, 240) != before).any(axis=2).sum() > 100
    assert world.render("front", 64, 48).shape == (48, 64, 3)


def test_front_camera_shows_the_whole_table():
    """The table's corners, as the camera projects them, lie within the picture."""
    world = LanguageTable(0)
    world.render("front", 320, 240)
    mujoco.mj_forward(world.model, world._data)
    position = world._data.camera("front").xpos
    axes = world._data.camera("front").xmat.reshape(3, 3)
    half = math.tan(math.radians(45) / 2)
    for corner in np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * HALF_TABLE:
        x, y, z = axes.T @ (np.array([*corner, 0]) - position)
        assert abs(x / -z) < half * 4 / 3 and abs(y / -z) < half


def render_in_child(code: str, **environment) -> str:
    script = (
        "from robots.worlds import make_world; w = make_world('language_table', 0); p = w.render('front', 320, 240)\n"
        + code
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout.strip()


def test_without_an_opengl_library_a_top_view_is_drawn(tmp_path):
    """PyOpenGL that cannot be loaded stands for a machine without the library."""
    (tmp_path / "OpenGL").mkdir()
    (tmp_path / "OpenGL" / "__init__.py").write_text("raise ImportError('no library')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    assert render_in_child("print(w.renderer, p.shape, p.std() > 20)", PYTHONPATH=path) == "drawn (240, 320, 3) True"


def test_pictures_come_from_a_thread_too_and_the_process_ends_well():
    code = """
import threading, numpy as np
q = []
t = threading.Thread(target=lambda: q.append(w.render('front', 320, 240))); t.start(); t.join()
print(np.array_equal(p, q[0]))"""
    assert render_in_child(code) == "True"


def test_drawn_view_shows_the_same_blocks():
    world = alone({"red moon": (0.2, 0.1)}, (-0.2, -0.1))
    picture = world._drawn(REACH, 320, 240).astype(int)
    red = (picture[..., 0] > 150) & (picture[..., 1] < 100)
    rows, columns = np.nonzero(red)
    assert columns.min() > 160 and rows.max() < 120  # right and top

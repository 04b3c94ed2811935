"""Third-party environments of every kind, by TOML only: tiny ones that nobody would mistake for MuJoCo's."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import robots.worlds
from robots.demonstrators import MOST_FAILURES, STEPS_AFTER_SUCCESS, DemonstrationError, collect_demonstrations
from robots.driver import Driver, DriverError
from robots.embodiments import EMBODIMENTS, ENVIRONMENT_STATE, STATE, DriveAxis, Embodiment, picture, vector
from robots.orders import PolicyBundle
from robots.protocol import Assignment
from robots.station import Station
from robots.tasks import TASKS
from robots.worlds import WORLDS, WorldError, draw, register
from robots.worlds.gymnasium_world import GymnasiumWorld
from robots.worlds.third_party import WorldsFileError, read_worlds_file

EXAMPLE = Path(robots.worlds.__file__).parent / "reacher.toml"
FRONT = "observation.images.front"
HEIGHT, WIDTH = 6, 8


class Rail(gymnasium.Env):
    """A cart on a rail, with nothing of MuJoCo. What it does wrong say the class's attributes."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    fails_at = ""
    error: BaseException = RuntimeError("boom")
    words: object = "bring the cart to 3"
    pixels = np.full((HEIGHT, WIDTH, 3), 9, np.uint8)
    given: list = []  # noqa: RUF012

    def __init__(self, render_mode=None, unhappy=False):
        self._fail("make")
        self.render_mode = render_mode
        self.action_space = spaces.Box(np.array([-1, 0], np.float32), np.array([3, 2], np.float32))
        self.observation_space = spaces.Dict(
            {
                "cart": spaces.Dict({"place": spaces.Box(-9, 9, (1,)), "speed": spaces.Box(-9, 9, ())}),
                "goal/at": spaces.Box(-9, 9, (2,), np.float64),
                "pixels": spaces.Dict({"front": spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)}),
                "says": spaces.Text(50),
            }
        )

    def _fail(self, where):
        if self.fails_at == where:
            raise self.error

    def _seen(self):
        return {
            "cart": {"place": np.array([self.place], np.float32), "speed": np.float32(0.5)},
            "goal/at": np.array([3.0, 4.0]),
            "pixels": {"front": self.pixels},
            "says": self.words,
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._fail("reset")
        self.place = float(self.np_random.uniform(-1, 1))
        return self._seen(), {"task": {"words": self.words}}

    def step(self, action):
        self._fail("step")
        self.given.append(action)
        self.place += float(action[0]) * 0.1
        return self._seen(), 7.0, False, False, {"won": self.place >= 3}

    def render(self):
        self._fail("render")
        return np.full((30, 40, 3), 200, np.uint8)

    def close(self):
        self._fail("close")


class Blind(Rail):
    """Draws nothing, observes one array, and has no words."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-9, 9, (1,), np.float32)

    def _seen(self):
        return np.array([self.place], np.float32)


gymnasium.register("Rail-v0", entry_point=Rail)
gymnasium.register("Blind-v0", entry_point=Blind)

BASE = """
[[world]]
name = "siding"
env_id = "Rail-v0"
actions = 2
action_low = [-1, 0]
action_high = [3, 2]
action_kind = "effort"
control_hz = 10
time_limit_steps = 40
success = {info = "won", at_least = 1}
wordings = ["bring it there"]
"""
PARTS = """
[world.observation.state]
"goal/at" = ["goal_x", "goal_y"]
"cart/place" = 1
[world.observation.environment_state]
"cart/speed" = 1
[world.observation.images.front]
"""
SEEN = PARTS + f'key = "pixels/front"\nwidth = {WIDTH}\nheight = {HEIGHT}\n'
DRAWN = PARTS + "render = true\nwidth = 20\nheight = 15\n"


@pytest.fixture(autouse=True)
def well_behaved(monkeypatch):
    monkeypatch.setattr(Rail, "given", [])
    before = [(registry, dict(registry)) for registry in (WORLDS, EMBODIMENTS, TASKS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.fixture
def described(tmp_path):
    def read(lines, env_id="Rail-v0"):
        path = tmp_path / "worlds.toml"
        path.write_text(BASE.replace("Rail-v0", env_id) + lines)
        return read_worlds_file(path)[0]

    return read


@pytest.fixture
def world(described):
    return lambda lines, seed=0: GymnasiumWorld(described(lines), seed)


def test_parts_of_the_observation_become_named_features(world):
    made = world(SEEN)
    body = made.embodiment
    assert body.observation == {
        STATE: vector(("goal_x", "goal_y", "cart/place_0")),
        ENVIRONMENT_STATE: vector(("cart/speed_0",)),
        FRONT: picture(WIDTH, HEIGHT),
    }
    assert Embodiment.from_json(body.to_json()) == body and not body.views, "people watch by the policy's camera"
    seen = Driver(made).reset(np.random.default_rng(3))
    assert seen[STATE][:2].tolist() == [3, 4] and seen[STATE][2] == np.float32(made.raw["cart"]["place"][0])
    assert seen[ENVIRONMENT_STATE].tolist() == [0.5]
    assert (seen[FRONT] == 9).all() and (made.render("front", 320, 240) == 9).all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((3, HEIGHT, WIDTH), 9, np.uint8),  # channels first
        np.full((HEIGHT, WIDTH, 3), 9 / 255, np.float32),
        np.full((HEIGHT, WIDTH), 9, np.uint8),  # grey
    ],
)
def test_pictures_pass_the_same_door_as_other_cameras(world, monkeypatch, pixels):
    monkeypatch.setattr(Rail, "pixels", pixels)
    seen = Driver(world(SEEN)).observation()[FRONT]
    assert seen.shape == (HEIGHT, WIDTH, 3) and seen.dtype == np.uint8 and (seen == 9).all()


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((5, 5, 3), np.uint8), "are 5 x 5 pixels, and the description says 8 x 6"),
        (np.zeros(7), "no picture of height x width x colours"),
        (None, "no picture"),
    ],
)
def test_what_is_no_picture_of_the_size_said_is_told(world, monkeypatch, pixels, words):
    monkeypatch.setattr(Rail, "pixels", pixels)
    with pytest.raises(WorldError, match=words):
        world(SEEN)


def test_a_camera_may_be_what_the_environment_draws(world):
    made = world(DRAWN + "[world.views.large]\nrender = true\nwidth = 64\nheight = 48\n")
    assert made.renderer == "environment" and (made.observation()[FRONT] == 200).all()
    assert [camera.name for camera in made.embodiment.cameras] == ["large", "front"]
    assert made.render("large", 64, 48).shape == (48, 64, 3) and (made.render("large", 64, 48) == 200).all()


def test_a_gymnasium_environment_of_mujoco_draws_itself_without_a_screen(tmp_path, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    path = tmp_path / "worlds.toml"
    path.write_text(EXAMPLE.read_text() + "\n[world.views.own]\nrender = true\nwidth = 64\nheight = 48\n")
    made = GymnasiumWorld(read_worlds_file(path)[0], 0)
    if made.renderer != "drawn":
        assert made.render("own", 64, 48).std() > 5
    made.close()
    assert "MUJOCO_GL" not in os.environ, "programs that this process starts would obey it"


def test_people_see_what_the_environment_draws_else_a_card(described):
    made = GymnasiumWorld(described("observations = 1\n", "Blind-v0"), 0)
    card = made.render("front", 320, 240)
    assert made.renderer == "card" and card.shape == (240, 320, 3) and card.dtype == np.uint8 and card.std() > 5
    made = GymnasiumWorld(described('observation = {state = {"cart/place" = 1}}\n'), 0)
    assert (made.render("front", 64, 48) == 200).all() and made.render("front", 64, 48).shape == (48, 64, 3)


def test_what_nobody_draws_can_not_be_a_policys_camera(described):
    with pytest.raises(WorldError, match="front is drawn by render, but the environment has no render_mode"):
        GymnasiumWorld(
            described(
                "[world.observation.state]\n'' = 1\n[world.observation.images.front]\n"
                "render = true\nwidth = 8\nheight = 8\n",
                "Blind-v0",
            ),
            0,
        )


def test_a_camera_of_the_model_may_be_the_policys(tmp_path):
    path = tmp_path / "worlds.toml"
    text = EXAMPLE.read_text().replace("observations = [", "ignored = [")
    lines = [line for line in text.splitlines() if "ignored" not in line and '"cos_1"' not in line and line != "]"]
    cameras = """
[world.observation.images.whole]
camera = "free"
width = 32
height = 24
"""
    path.write_text("\n".join(lines) + cameras)
    made = GymnasiumWorld(read_worlds_file(path)[0], 0)
    first = made.observation()
    assert set(first) == {"observation.images.whole"} and first["observation.images.whole"].shape == (24, 32, 3)
    for _ in range(5):
        seen = made.step(np.ones(2))
    assert (seen["observation.images.whole"] != first["observation.images.whole"]).any(), "it sees the arm move"
    made.close()
    path.write_text("\n".join(lines) + cameras.replace("free", "ceiling"))
    with pytest.raises(WorldError, match="no camera 'ceiling'; known are free"):
        GymnasiumWorld(read_worlds_file(path)[0], 0)


def test_a_model_less_environment_has_no_cameras_of_mujoco(world):
    with pytest.raises(WorldError, match="no MuJoCo model: use render"):
        world(PARTS + 'camera = "top"\nwidth = 20\nheight = 15\n')
    made = world(SEEN)
    with pytest.raises(WorldError, match="no camera 'top'; known are front"):
        made.render("top", 20, 15)


def test_it_runs_at_its_control_rate_and_repeats_what_is_said(world):
    made = world(SEEN)
    Rail.given.clear()
    made.step(np.array([3.0, 2.0]))
    assert len(Rail.given) == 1 and made.embodiment.fps == 10
    made = world("repeat = 4\n" + SEEN)
    Rail.given.clear()
    made.step(np.array([9.0, -9.0]))
    assert [given.tolist() for given in Rail.given] == [[3, 0]] * 4, "and never beyond the asymmetric bounds"


def test_drive_axes_may_be_named(described):
    assert described('drive = {x = "action_1", gripper = "action_0"}\n' + SEEN).embodiment.drive == (
        DriveAxis("x", "action_1"),
        DriveAxis("gripper", "action_0"),
    )
    assert described(SEEN).embodiment.drive == (DriveAxis("x", "action_0"), DriveAxis("y", "action_1"))


@pytest.mark.parametrize("where", ["task/words", "says"])
def test_the_environments_own_words_are_the_attempts_instruction(described, where):
    description = described(f'instruction_info = "{where}"\n' + SEEN)
    register(description.spec)
    made, rng = GymnasiumWorld(description, 0), np.random.default_rng(0)
    assert draw(TASKS["siding"], made, rng).text == "bring the cart to 3"
    now, episodes = [0.0], []
    station = Station(made, emit=lambda _: None, store=episodes.append, clock=lambda: now[0])
    station.receive(Assignment(assignment=1, run=1, task={"name": "siding", "time_limit_steps": 2}))
    station.offer_policy(PolicyBundle("p", 1, None, "r", None, 0.5, 1, 2.0, value_updates=0))
    while not episodes:
        now[0] += 0.1
        if station.observe() is not None:
            station.act(np.zeros(2), 9.0, None)
    assert episodes[0].instruction == "bring the cart to 3"
    assert description.spec.families[0].sample(rng, ()).text == "bring it there", "which has none is asked in ours"


def test_words_that_are_not_there_are_told(world, monkeypatch):
    with pytest.raises(WorldError, match="instruction_info names 'wish', but neither"):
        world('instruction_info = "wish"\n' + SEEN)
    monkeypatch.setattr(Rail, "words", 3)
    with pytest.raises(WorldError, match="neither info nor observation holds a text there"):
        world('instruction_info = "says"\n' + SEEN)


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit("boom"), AssertionError("boom")])
@pytest.mark.parametrize("call", ["reset", "step", "render", "close"])
def test_what_an_environment_does_wrong_is_its_stations_reason(world, monkeypatch, call, error):
    driver = Driver(world(SEEN + "[world.views.large]\nrender = true\nwidth = 64\nheight = 48\n"))
    monkeypatch.setattr(Rail, "fails_at", call)
    monkeypatch.setattr(Rail, "error", error)
    asked = {
        "reset": lambda: driver.reset(np.random.default_rng(0)),
        "step": lambda: driver.step(np.zeros(2, np.float32)),
        "render": lambda: driver.render("large", 64, 48),
    }
    if call == "close":
        driver.close()  # only logged
        return
    with pytest.raises(DriverError, match=r"^World 'siding': (a reset|a step|its camera large) failed: boom$"):
        asked[call]()


@pytest.mark.parametrize("call", ["make", "reset", "step"])
def test_a_world_that_can_not_be_made_is_a_stations_reason_and_a_reset_tries_again(described, monkeypatch, call):
    monkeypatch.setattr(Rail, "fails_at", call)
    description = described(SEEN)
    driver = Driver(None, make=lambda: GymnasiumWorld(description, 0), embodiment=description.embodiment)
    assert "World 'siding'" in driver.missing and "boom" in driver.missing
    monkeypatch.setattr(Rail, "fails_at", "")
    assert driver.reset(np.random.default_rng(0))[STATE].shape == (3,)


@pytest.mark.parametrize("answer", [None, (1, 2), ({}, 0, False, False, None)])
def test_an_answer_of_another_shape_is_told(world, monkeypatch, answer):
    made = world(SEEN)
    monkeypatch.setattr(made, "env", SimpleNamespace(action_space=made.env.action_space, step=lambda _: answer))
    with pytest.raises(WorldError, match="a step must give"):
        made.step(np.zeros(2))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (SEEN.replace("cart/place", "cart/wheel"), r"no part 'cart/wheel'; it holds cart/place \[1\], cart/speed \[\]"),
        (
            SEEN.replace('"cart/place" = 1', '"cart/place" = 2'),
            "cart/place says 2 numbers, but the environment gives 1",
        ),
        (SEEN.replace("pixels/front", "pixels/back"), "no part 'pixels/back'"),
    ],
)
def test_what_the_observation_does_not_hold_is_told(world, lines, words):
    with pytest.raises(WorldError, match=words):
        world(lines)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "observations is missing"),
        ("observations = 4\n" + SEEN, "give one of the two"),
        ("observation = 3\n", "observation has the wrong type"),
        ("observation = {touch = {}}\n", "a table of state, environment_state, images"),
        ("observation = {state = []}\n", "how many numbers it has, or name them"),
        ("observation = {state = {}}\n", "how many numbers it has, or name them"),
        ("observation = {state = {a = 0}}\n", "observation.state.a must be a count above 0 or a list of names"),
        ("observation = {state = {a = true}}\n", "observation.state.a must be a count above 0 or a list of names"),
        ('observation = {state = {a = ["x"], b = ["x"]}}\n', "two of its numbers are named 'x'"),
        ("observation = {images = 3}\n", "observation.images must be a table of cameras"),
        ("observation = {images = {top = {width = 3, height = 3}}}\n", "needs width, height and one of key, camera"),
        ('observation = {images = {top = {key = "a", render = true, width = 3, height = 3}}}\n', "one of key, camera"),
        ("observation = {images = {top = {render = true, width = 3}}}\n", "its width and height in pixels"),
        ("observation = {images = {top = {render = false, width = 3, height = 3}}}\n", "render must be true"),
        ("observation = {images = {top = {key = 3, width = 3, height = 3}}}\n", "must be texts"),
        ("observations = 4\nviews = {a = {key = 'x', width = 3, height = 3}}\n", "one of camera, render"),
        ("observations = 4\nrepeat = 0\n", "repeat must be from 1"),
        ("observations = 4\ndrive = {x = 0}\n", "drive must name for each axis the action"),
        ('observations = 4\ndrive = {x = "wheel"}\n', "moves 'wheel', which is no number of its action"),
        ('observations = 4\ndemonstrator = "nowhere"\n', 'demonstrator must be "package.module:function"'),
        ("observations = 4\ninstruction_info = 3\n", "instruction_info has the wrong type"),
    ],
)
def test_a_wrong_line_is_told_in_one_sentence(described, lines, words):
    with pytest.raises(WorldsFileError, match=words):
        described(lines)


# Demonstrators


def forwards(env, observation):
    return [3.0, 0.0]


class Forwards:
    def reset(self):
        self.step = 0

    def act(self, env, observation):
        assert isinstance(env.unwrapped, Rail) and env.unwrapped.place == pytest.approx(observation["cart"]["place"][0])
        self.step += 1
        assert self.step <= 40, "a new attempt is told of"
        return np.array([3.0, 0.0])


def backwards(env, observation):
    return np.array([-1.0, 0.0])


def now_and_then(env, observation):
    """Fails in the attempts that begin left of the middle, and then stays left of it."""
    return np.array([3.0 if observation["cart"]["place"][0] > 0 else -1.0, 0.0])


def wrong(env, observation):
    raise KeyError("no such thing")


def not_numbers(env, observation):
    return "go"


@pytest.fixture
def demonstrations(described, monkeypatch):
    monkeypatch.setitem(sys.modules, "scripts_of_a_lab", sys.modules[__name__])

    def collect(name, episodes=3, seed=4):
        for registry in (WORLDS, TASKS, EMBODIMENTS):
            registry.pop("siding", None)
        description = described(f'demonstrator = "scripts_of_a_lab:{name}"\nreset_each_attempt = true\n' + SEEN)
        register(description.spec)
        return collect_demonstrations(["siding"], episodes, seed)

    return collect


@pytest.mark.parametrize("name", ["forwards", "Forwards"])
def test_a_script_that_the_description_names_demonstrates(demonstrations, name):
    episodes = demonstrations(name)
    for episode in episodes:
        episode.validate()
        episode.check_against(WORLDS["siding"].embodiment)
        assert episode.true_success and episode.ending == "true_success" and episode.instruction == "bring it there"
        assert episode.observations[FRONT].shape == (episode.steps + 1, HEIGHT, WIDTH, 3)
        reached = -1 - STEPS_AFTER_SUCCESS  # as our own scripts, it goes on for a moment
        assert episode.observations[STATE][reached, 2] >= 3 > episode.observations[STATE][reached - 1, 2]
    again = demonstrations(name)
    assert [a.uuid for a in episodes] == [b.uuid for b in again]
    assert all((a.observations[STATE] == b.observations[STATE]).all() for a, b in zip(episodes, again, strict=True))


def test_failed_attempts_are_thrown_away(demonstrations):
    episodes = demonstrations("now_and_then", 5)
    assert len(episodes) == 5 and all(episode.observations[STATE][0, 2] > 0 for episode in episodes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong", "The demonstrator scripts_of_a_lab:wrong: acting failed: 'no such thing'"),
        ("not_numbers", "The demonstrator scripts_of_a_lab:not_numbers: The action must be 2 numbers"),
        ("nobody", "The demonstrator scripts_of_a_lab:nobody: importing it failed: .* has no attribute 'nobody'"),
        ("backwards", f"The demonstrator of siding failed {MOST_FAILURES} times in a row"),
    ],
)
def test_a_script_that_fails_is_one_sentence(demonstrations, name, words):
    with pytest.raises(DemonstrationError, match=words) as refusal:
        demonstrations(name)
    assert "\n" not in str(refusal.value)


def test_an_environment_that_fails_under_a_script_is_one_sentence(demonstrations, monkeypatch):
    def broken(env, observation):
        monkeypatch.setattr(Rail, "fails_at", "step")
        return [0.0, 0.0]

    monkeypatch.setattr(sys.modules[__name__], "forwards", broken)
    with pytest.raises(DemonstrationError, match="forwards: World 'siding': a step failed: boom"):
        demonstrations("forwards")

import dataclasses
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.utils.env_checker import check_env

import robots.worlds
from robots.demonstrators import collect_demonstrations
from robots.embodiments import STATE, Motion, vector
from robots.episodes import rows_of
from robots.tasks import Instruction
from robots.worlds import WorldError
from robots.worlds.gymnasium_world import GymnasiumWorld, LanguageTableEnv
from robots.worlds.third_party import read_worlds_file

EXAMPLE = Path(robots.worlds.__file__).parent / "reacher.toml"
REACH = Instruction("reach the target", "reacher", {})


@pytest.fixture(scope="module")
def description():
    return read_worlds_file(EXAMPLE)[0]


@pytest.mark.parametrize("task", ["block2block", "block_to_place"])
def test_language_table_passes_gymnasiums_checker(task):
    env = gymnasium.make("FleetUI/LanguageTable-v0", task=task, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=False)
    env.close()


def test_language_table_env_rewards_true_success_only():
    episode = collect_demonstrations(("block_to_place",), 1, seed=2)[0]
    env = LanguageTableEnv(task="block_to_place")
    env.reset(seed=0)
    env._instruction = env.family.parse(episode.instruction)
    env._world.set_observation(rows_of(episode.observations, 0))
    rewards, terminated = [], False
    for action in episode.actions:
        seen, reward, terminated, _, info = env.step(action)
        rewards.append(reward)
        if terminated:
            break
    assert terminated and info["success"] and rewards[-1] == 1 and not any(rewards[:-1])
    assert seen["instruction"] == episode.instruction


def test_language_table_env_is_cut_at_the_time_limit():
    env = gymnasium.make("robots.worlds.gymnasium_world:FleetUI/LanguageTable-v0")
    env.reset(seed=0)
    for step in range(160):
        *_, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
        assert not terminated and truncated == (step == 159)


def test_example_world_steps_renders_and_asks_for_resets(description):
    description = dataclasses.replace(description, reset_every_steps=50)
    world, rng = GymnasiumWorld(description, 0), np.random.default_rng(0)
    for _ in range(3):
        assert world.reset(rng)[STATE].shape == (10,)
        assert not world.true_success(REACH) and world.needs_reset() == ""
        for _ in range(description.reset_every_steps):
            assert world.needs_reset() == ""
            observation = world.step(rng.uniform(-3, 3, 2))[STATE]
            assert observation.dtype == np.float32 and np.isfinite(observation).all()
            # Reacher's info tells what its observation shows: the way from finger to target
            assert world.true_success(REACH) == (np.linalg.norm(observation[-2:]) <= 0.05)
        assert "fresh start" in world.needs_reset()
    picture = world.render("front", 160, 120)
    assert picture.shape == (120, 160, 3) and picture.std() > 5
    world.close()


def test_example_world_succeeds_when_the_target_is_reached(description):
    """Moving the arm by hand until its finger is on the target."""
    world = GymnasiumWorld(description, 3)
    env = world.env.unwrapped
    best = None
    for a in np.linspace(-3, 3, 60):
        for b in np.linspace(-2.8, 2.8, 60):
            env.set_state(np.array([a, b, *env.data.qpos[2:]]), np.zeros(4))
            distance = np.linalg.norm(env.data.body("fingertip").xpos - env.data.body("target").xpos)
            best = min(best or (distance, a, b), (distance, a, b))
    env.set_state(np.array([best[1], best[2], *env.data.qpos[2:]]), np.zeros(4))
    world.step(np.zeros(2))
    assert world.true_success(REACH)
    world.close()


def test_same_seed_same_world(description):
    a, b, c = (GymnasiumWorld(description, seed) for seed in (1, 1, 2))
    np.testing.assert_equal(a.step(np.ones(2)), b.step(np.ones(2)))
    assert (a.observation()[STATE] != c.observation()[STATE]).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parts": {STATE: (("", ("a", "b")),)}}, "observations says 2 numbers, but the environment gives 10"),
        ({"action": vector(("a",), (-1.0,), (1.0,)), "motions": ()}, "actions says 1"),
        (
            {"action": vector(("a", "b"), (-2.0, -1.0), (2.0, 1.0)), "motions": ()},
            "may be -2 to 2, but the environment takes -1 to 1",
        ),
        ({"fps": 30.0}, "control_hz is 30, but the environment runs at 50 Hz; choose"),
        ({"success_info": "victory"}, "a step's info holds reward, reward_ctrl, reward_dist, terminated"),
        ({"env_id": "Nothing-v0"}, "cannot make Nothing-v0"),
        ({"env_id": "CartPole-v1"}, "actions says 2, but the environment's are Discrete"),
        ({"repeat": 0, "fps": 20.0}, "choose 50 divided by a whole number, such as 25, or say repeat"),
        ({"options": {"no_such_option": 1}}, "cannot make Reacher-v5"),
    ],
)
def test_a_description_that_contradicts_the_environment_is_refused(description, change, words):
    with pytest.raises(WorldError, match=words):
        GymnasiumWorld(dataclasses.replace(description, **change), 0)


class OneSided(MujocoEnv):
    """A Reacher that pushes to one side only, and keeps what it was given."""

    metadata: ClassVar = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"], "render_fps": 50}
    given, kind, info = [], np.float32, 1.0

    def __init__(self, **options):
        super().__init__("reacher.xml", 2, observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (2,)), **options)

    def _set_action_space(self):
        self.action_space = gymnasium.spaces.Box(0, 4, (2,), self.kind)
        return self.action_space

    def step(self, action):
        self.given.append(action)
        self.do_simulation(action, self.frame_skip)
        return self.reset_model(), 0.0, False, False, {"won": self.info}

    def reset_model(self):
        return self.data.qpos[:2].copy()


gymnasium.register("OneSided-v0", entry_point=OneSided)


@pytest.fixture
def one_sided(description, monkeypatch):
    monkeypatch.setattr(OneSided, "given", [])
    return dataclasses.replace(
        description,
        env_id="OneSided-v0",
        parts={STATE: (("", ("a", "b")),)},
        fps=50.0,
        success_info="won",
        action=vector(("a", "b"), (0.0, 0.0), (4.0, 4.0)),
        motions=(Motion("effort"),) * 2,
    )


def test_an_action_of_one_side_is_never_sent_to_the_other(one_sided):
    world = GymnasiumWorld(one_sided, 0)
    world.step(np.array([-0.7, 9]))
    assert world.env.unwrapped.given[-1].tolist() == [0, 4]
    with pytest.raises(WorldError, match="takes 0 to 4; say action_kind, action_low = 0 and action_high = 4"):
        GymnasiumWorld(
            dataclasses.replace(one_sided, action=vector(("a", "b"), (-4.0, -4.0), (4.0, 4.0)), motions=()), 0
        )


def test_a_whole_number_is_the_nearest_one(one_sided, monkeypatch):
    monkeypatch.setattr(OneSided, "kind", np.int64)
    world = GymnasiumWorld(one_sided, 0)
    world.step(np.array([0.8, 2.4]))
    given = world.env.unwrapped.given[-1]
    assert given.tolist() == [1, 2] and given.dtype == np.int64


@pytest.mark.parametrize("info", [None, np.nan])
def test_true_success_that_the_environment_can_not_tell_is_unknown(one_sided, monkeypatch, info):
    monkeypatch.setattr(OneSided, "info", info)
    world = GymnasiumWorld(one_sided, 0)
    world.step(np.zeros(2))
    assert world.true_success(REACH) is None


@pytest.mark.parametrize("error", [RuntimeError("no GPU"), OSError("no such file"), AssertionError()])
def test_an_environment_that_can_not_be_made_is_said_in_one_sentence(one_sided, monkeypatch, error):
    def fail(self, **_):
        raise error

    monkeypatch.setattr(OneSided, "__init__", fail)
    with pytest.raises(WorldError, match="World 'reacher': Gymnasium cannot make OneSided-v0"):
        GymnasiumWorld(one_sided, 0)


def test_its_state_cannot_be_set(description):
    with pytest.raises(WorldError, match="recorded frames"):
        GymnasiumWorld(description, 0).set_observation({STATE: np.zeros(10)})


def run_with_example(code: str, path: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"FLEETUI_WORLDS": str(path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_registries_hold_the_world_without_loading_it():
    run = run_with_example(
        """
import sys, numpy as np
from robots.embodiments import EMBODIMENTS
from robots.tasks import TASKS
assert not {"mujoco", "gymnasium"} & set(sys.modules)
task = TASKS["reacher"]
size = EMBODIMENTS["reacher"].observation["observation.state"].size
print(size, task.time_limit_steps, task.parse("Touch  the ball.").text)
print(sorted({task.sample(np.random.default_rng(i), (), held_out=True).text for i in range(9)}))
from robots.worlds import make_world
print(make_world("reacher", 0).step(np.zeros(2))["observation.state"].shape)
from robots.demonstrators import collect_demonstrations
try: collect_demonstrations(["reacher"], 1, 0)
except ValueError as error: print(error)
""",
        EXAMPLE,
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[:3] == ["10 50 touch the ball", "['point at the target']", "(10,)"]
    assert lines[3].startswith("There is no scripted demonstrator for reacher")


def test_a_drawn_view_stands_in_for_the_camera(description, monkeypatch):
    monkeypatch.setattr("robots.worlds.gymnasium_world.renderer_name", lambda: "drawn")
    picture = GymnasiumWorld(description, 0).render("front", 160, 120)
    assert picture.shape == (120, 160, 3) and picture.std() > 5


def test_each_attempt_at_the_example_world_has_a_target_of_its_own_and_asks_nobody():
    run = run_with_example(
        """
import numpy as np
from robots.orders import PolicyBundle
from robots.protocol import Assignment
from robots.station import Station
from robots.worlds import make_world
now, sent, targets = [0.0], [], []
station = Station(make_world("reacher", 1), seed=1, emit=sent.append, clock=lambda: now[0])
task = {"name": "reacher", "time_limit_steps": 3}
station.receive(Assignment(assignment=1, run=1, task=task))
station.offer_policy(PolicyBundle("p", 1, None, "r", None, 0.5, 1, 2.0, value_updates=0))
for _ in range(40):
    now[0] += 0.1
    if station.observe() is not None:
        if not station.recording.steps:
            targets.append(tuple(np.round(station.workspace.observation["observation.state"][4:6], 4)))
        station.act(np.zeros(2), 9.0, None)
print(len(set(targets)) == len(targets) >= 4, *sorted({message.TYPE for message in sent}), station.workspace.need)
""",
        EXAMPLE,
    )
    assert run.stdout.split() == ["True", "policy_loaded", "telemetry"], run.stderr

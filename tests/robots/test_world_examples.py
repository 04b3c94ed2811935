"""The shipped examples of worlds that nobody here wrote, on environments of the same shape as gymnasium-robotics' own.

Those need a package beside this one, and Fetch an older MuJoCo than 4: docs/worlds.md says what came of the real ones.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

import robots.worlds
from robots.demonstrators import collect_demonstrations
from robots.embodiments import EMBODIMENTS, STATE
from robots.tasks import TASKS
from robots.worlds import WORLDS, register
from robots.worlds.third_party import read_worlds_file

FOLDER = Path(robots.worlds.__file__).parent
REACH, CUBE, TABLE = 0.045, 0.025, 0.42  # metres


def goal_space(numbers, goal):
    return spaces.Dict(
        {
            "observation": spaces.Box(-np.inf, np.inf, (numbers,), np.float64),
            "achieved_goal": spaces.Box(-np.inf, np.inf, (goal,), np.float64),
            "desired_goal": spaces.Box(-np.inf, np.inf, (goal,), np.float64),
        }
    )


class FakeFetchPush(gymnasium.Env):
    """A hand that is where it is sent, and a cube that gives way to it."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space, observation_space = spaces.Box(-1, 1, (4,), np.float32), goal_space(25, 3)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def _seen(self):
        return {
            "observation": np.concatenate([self.hand, self.cube, np.zeros(19)]),
            "achieved_goal": self.cube.copy(),
            "desired_goal": self.goal.copy(),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.hand = np.array([1.34, 0.75, 0.53])
        self.cube, self.goal = (
            np.array([*(self.hand[:2] + self.np_random.uniform(-0.15, 0.15, 2)), TABLE]) for _ in range(2)
        )
        return self._seen(), {}

    def step(self, action):
        assert np.abs(action).max() <= 1 and action[3] == 0
        self.hand = self.hand + 0.03 * np.array(action[:3], np.float64)
        self.hand[2] = max(self.hand[2], TABLE)
        apart = self.cube[:2] - self.hand[:2]
        distance = np.linalg.norm(apart)
        if self.hand[2] < TABLE + 2 * CUBE and distance < REACH:
            self.cube[:2] += apart / max(distance, 1e-6) * (REACH - distance)
        reached = np.linalg.norm(self.cube - self.goal) < 0.05
        return self._seen(), 0.0, False, False, {"is_success": np.float32(reached)}

    def render(self):
        return np.zeros((480, 480, 3), np.uint8)


MODEL = mujoco.MjModel.from_xml_string("""
<mujoco><worldbody><light pos="0 0 3"/><geom type="plane" size="3 3 0.1" rgba="0.6 0.6 0.6 1"/>
<body><joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/>
<geom type="sphere" size="0.3" pos="0 0 0.3" rgba="0 1 0 1"/></body></worldbody></mujoco>""")


class FakePointMaze(gymnasium.Env):
    """A point mass in a U of cells of one metre; its walls are no obstacle, but hitting them is seen. It has a MuJoCo
    model, as the real one has, and says nothing of its rate.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space, observation_space = spaces.Box(-1, 1, (2,), np.float32), goal_space(4, 2)

    def __init__(self, render_mode=None, reset_target=True, continuing_task=False):
        self.render_mode, self.model = render_mode, MODEL
        self.data = mujoco.MjData(MODEL)
        self.maze = SimpleNamespace(
            maze_map=[[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
            cell_xy_to_rowcol=lambda xy: np.array([int(np.floor(2.5 - xy[1])), int(np.floor(xy[0] + 2.5))]),
            cell_rowcol_to_xy=lambda cell: np.array([cell[1] - 2.0, 2.0 - cell[0]]),
        )

    def _seen(self):
        return {
            "observation": np.concatenate([self.place, self.speed]),
            "achieved_goal": self.place.copy(),
            "desired_goal": self.goal.copy(),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = np.array([-1.0, 1.0]), np.array([-1.0, -1.0])
        self.speed = np.zeros(2)
        return self._seen(), {"success": False}

    def step(self, action):
        self.speed = 0.97 * self.speed + 0.05 * np.array(action, np.float64)
        self.place = self.place + 0.01 * self.speed
        assert (
            self.maze.maze_map[self.maze.cell_xy_to_rowcol(self.place)[0]][self.maze.cell_xy_to_rowcol(self.place)[1]]
            == 0
        ), "it went through a wall"
        self.data.qpos[:] = self.place
        mujoco.mj_forward(self.model, self.data)
        reached = bool(np.linalg.norm(self.place - self.goal) < 0.45)
        return self._seen(), 0.0, False, False, {"success": reached}


@pytest.fixture
def of_example(monkeypatch):
    before = [(registry, dict(registry)) for registry in (WORLDS, EMBODIMENTS, TASKS)]
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", ModuleType("gymnasium_robotics"))
    for env_id, fake in (("FetchPush-v4", FakeFetchPush), ("PointMaze_UMaze-v3", FakePointMaze)):
        spec = gymnasium.envs.registration.EnvSpec(id=env_id, entry_point=fake)
        monkeypatch.setitem(gymnasium.registry, env_id, spec)

    def read(name):
        (description,) = read_worlds_file(FOLDER / f"{name}.toml")
        register(description.spec)
        return description

    yield read
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.mark.parametrize(("name", "size"), [("fetch_push", 31), ("point_maze", 4)])
def test_its_script_demonstrates_each_example(of_example, name, size):
    body = of_example(name).embodiment
    episodes = collect_demonstrations([name], 8, seed=3)
    for episode in episodes:
        episode.validate()
        episode.check_against(body)
        assert episode.true_success and episode.observations[STATE].shape[1] == size
    assert max(episode.steps for episode in episodes) > 10
    assert {episode.steps for episode in episodes} != {episodes[0].steps}, "attempts differ"


def test_fetch_is_driven_in_three_directions_and_seen_by_people_only(of_example):
    body = of_example("fetch_push").embodiment
    assert [each.axis for each in body.drive] == ["x", "y", "z"] and not body.pictures
    assert body.state_names[:6] == ("cube_x", "cube_y", "cube_z", "target_x", "target_y", "target_z")
    assert body.state_names[6] == "observation_0"


def test_only_the_camera_of_the_maze_shows_its_goal(of_example):
    body = of_example("point_maze").embodiment
    assert body.state_names == ("x", "y", "velocity_x", "velocity_y")
    assert body.pictures["top"].shape == (64, 64, 3)
    (episode,) = collect_demonstrations(["point_maze"], 1, seed=3)
    seen = episode.observations["observation.images.top"]
    assert seen.shape == (episode.steps + 1, 64, 64, 3) and (seen[0] != seen[-1]).any(), "the ball has moved"

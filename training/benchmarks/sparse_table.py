"""The table for learners of stable-baselines3: one vector in, 1 for a true success and 0 otherwise.

They are told the named blocks and places as numbers instead of words, which can only help them.
"""

from collections.abc import Sequence

import gymnasium
import numpy as np

from robots.embodiments import LANGUAGE_TABLE
from robots.tasks import get_task
from robots.worlds.language_table import LanguageTable
from training.benchmarks.table_runs import picked


def seen(observation: np.ndarray, text: str) -> np.ndarray:
    return np.concatenate([observation, picked(text)]).astype(np.float32)


class SparseTable(gymnasium.Env):
    def __init__(self, tasks: Sequence[str], time_limit: int, seed: int):
        self.tasks = [get_task(name) for name in tasks]
        self.time_limit, self.world = time_limit, LanguageTable(seed)
        size = LANGUAGE_TABLE.observation_size + len(picked("push red moon to blue cube"))
        self.observation_space = gymnasium.spaces.Box(-1, 1, (size,), np.float32)
        # Scaled: SAC and PPO expect actions of about this size.
        self.action_space = gymnasium.spaces.Box(-1, 1, (LANGUAGE_TABLE.action_size,), np.float32)
        self.episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        observation = self.world.reset(self.np_random)
        task = self.tasks[self.np_random.integers(len(self.tasks))]
        self.instruction = task.sample(self.np_random, self.world.objects_in_play())
        self.steps = 0
        return seen(observation, self.instruction.text), {}

    def step(self, action):
        observation = self.world.step(np.asarray(action) * LANGUAGE_TABLE.action_limit)
        self.steps += 1
        success = self.world.true_success(self.instruction)
        truncated = not success and self.steps >= self.time_limit
        self.episodes += success or truncated
        return seen(observation, self.instruction.text), float(success), success, truncated, {}


class Learned:
    """A stable-baselines3 model as a policy that training.evaluation can evaluate."""

    embodiment = LANGUAGE_TABLE

    def __init__(self, model):
        self.model = model

    def act(self, observations: np.ndarray, instructions: Sequence[str], generator=None, greedy=False) -> np.ndarray:
        rows = np.stack([seen(*each) for each in zip(observations, instructions, strict=True)])
        actions, _ = self.model.predict(rows, deterministic=greedy)
        return actions * np.float32(LANGUAGE_TABLE.action_limit)

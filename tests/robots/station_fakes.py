"""A world without physics and a clock that a test turns by hand, for tests of stations and hosts."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.orders import PolicyBundle
from robots.protocol import TO_STATION, Message, decode
from robots.worlds.language_table import LANGUAGE_TABLE, block_positions

ASSIGNMENT = {
    "type": "assignment",
    "assignment": 1,
    "run": 1,
    "task": {"name": "block2block", "time_limit_steps": 20},
    "purpose": "practice",
}


def told(message: dict) -> Message:
    """A message of the server as a link hands it to its station, with what the link notes of it."""
    noted = {name: message[name] for name in ("age_s", "policies") if name in message}
    return replace(decode(message, TO_STATION), **noted)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


class FakeTime:
    """Stands for the module `time` where code waits by itself: a sleep is over at once, and the clock shows it."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def monotonic(self):
        return self.now

    time = monotonic

    def sleep(self, seconds):
        assert seconds >= 0
        self.slept.append(seconds)
        self.now += seconds


class FakeWorld:
    """The end effector moves by the action; the blocks lie in two rows. Each reset shifts everything, so observations
    tell scenes apart.
    """

    embodiment = LANGUAGE_TABLE
    renderer = "drawn"
    resets_itself = True

    def __init__(self, seed=0):
        self.resets = 0
        self.off_table = ""
        self.in_play = 8
        self.success = False
        self.closed = False
        self.broken = False
        self._place()

    def _place(self):
        self.state, self.tracked = np.zeros(4, np.float32), np.zeros(5 * len(self.embodiment.objects), np.float32)
        for index, block in enumerate(self.embodiment.objects):
            self.tracked[self.embodiment.object_slice(block.name)] = [
                -0.24 + 0.15 * (index % 4),
                -0.1 + 0.2 * (index // 4),
                1,
                0,
                1,
            ]

    def reset(self, rng):
        self.resets += 1
        self.off_table = ""
        self._place()
        self.state[0] = 0.001 * self.resets
        return self.observation()

    def step(self, action):
        if self.broken:
            raise RuntimeError("the motor is hot")
        self.state[2:4] = self.state[:2]
        self.state[:2] += action
        return self.observation()

    def observation(self):
        return {STATE: self.state.copy(), ENVIRONMENT_STATE: self.tracked.copy()}

    def true_success(self, instruction):
        return self.success

    def needs_reset(self, fewest_objects=None):
        return "" if fewest_objects is not None and self.in_play >= fewest_objects else self.off_table

    def fenced(self, action, margin):
        return np.minimum(action, margin)

    def objects_in_play(self):
        return block_positions(self.observation())

    def render(self, camera, width, height):
        image = np.zeros((height, width, 3), np.uint8)
        image[:, : int((self.state[0] % 1) * width)] = 255
        return image

    def close(self):
        self.closed = True


class FakePolicy:
    """Always the same action, and the same prediction."""

    def __init__(self, action=(0.01, 0.0), p_success=1.0):
        self.action, self.calls = np.asarray(action, np.float32), []
        self.signals = {}
        self.value_head = np.array([p_success] + 48 * [0] + [1 - p_success], np.float32)

    def act(self, observations, instructions, generator=None, greedy=False):
        self.calls.append(len(instructions))
        return np.tile(self.action, (len(instructions), 1))

    def answer(self, observations, instructions, generator=None, greedy=False, memories=None):
        actions = self.act(observations, instructions)
        return SimpleNamespace(
            actions=actions, prediction=np.tile(self.value_head, (len(instructions), 1)), signals=self.signals
        )


class FakeRewardModel:
    """d falls by one for each centimetre to the right: d = distance - 100 x."""

    def __init__(self, distance=10.0, bins=50):
        self.distance, self.bins, self.calls = distance, bins, []

    def steps_to_go(self, observations, instructions):
        self.calls.append(len(instructions))
        d = np.maximum(0.0, self.distance - 100 * observations[STATE][:, 0])
        distribution = np.zeros((len(d), self.bins), np.float32)
        distribution[np.arange(len(d)), np.minimum(self.bins - 1, (d // 2).astype(int))] = 1
        return d, distribution


def loaded_policy(
    version=1, *, checkpoint=None, threshold=1.5, consecutive=1, policy=None, reward_model=None, value_updates=0
):
    return PolicyBundle(
        checkpoint or f"policy-{version}",
        version,
        policy or FakePolicy(),
        "reward-model-1",
        reward_model or FakeRewardModel(),
        threshold,
        consecutive,
        2.0,
        value_updates,
    )

"""A scripted policy for FetchPush (fetch_push.toml): around the cube, down behind it, and straight on to the target.

It goes gently, so that practice has something to gain.
"""

from typing import Any

import numpy as np

ABOVE, BEHIND = 0.08, 0.085  # metres over the cube's middle on the way to it, and behind it before the push
NEAR = 0.02  # metres from a waypoint at which the next one is headed for
GAIN = 10.0  # of an action, which is in 5 cm, for each metre that is missing
FASTEST = 0.6  # of what an action may be
PUSHED_TOO_FAR_ASIDE = 0.025  # metres of the cube from the line of the push: then the arm goes around it again


class FetchPush:
    """One attempt."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """An attempt begins."""
        self.phase = "over"

    def act(self, env: Any, observation: dict[str, np.ndarray]) -> np.ndarray:
        """The next action [4]: x, y, z in 5 cm each, and the gripper, which stays shut."""
        hand, cube, target = observation["observation"][:3], observation["achieved_goal"], observation["desired_goal"]
        way = target[:2] - cube[:2]
        ahead = way / max(float(np.linalg.norm(way)), 1e-6)
        behind = np.array([*(cube[:2] - BEHIND * ahead), cube[2]])
        over = behind + np.array([0, 0, ABOVE])
        offset = hand[:2] - cube[:2]
        aside = abs(float(ahead[0] * offset[1] - ahead[1] * offset[0]))
        if self.phase == "push" and (aside > PUSHED_TOO_FAR_ASIDE or float(offset @ ahead) > 0):
            self.phase = "up"
        if self.phase == "up" and hand[2] > over[2] - NEAR:
            self.phase = "over"
        if self.phase == "over" and np.linalg.norm(over - hand) < NEAR:
            self.phase = "down"
        if self.phase == "down" and np.linalg.norm(behind - hand) < NEAR:
            self.phase = "push"
        goal = {
            "up": np.array([hand[0], hand[1], over[2] + NEAR]),
            # As high as it has to be, before it comes near.
            "over": over if hand[2] > over[2] - NEAR else np.array([hand[0], hand[1], over[2]]),
            "down": behind,
            "push": np.array([*(cube[:2] + 0.05 * ahead), cube[2]]),
        }[self.phase]
        return np.array([*np.clip(GAIN * (goal - hand), -FASTEST, FASTEST), 0.0])

"""KAGI: actor-critic practice whose dense reward leads along keypoints (Lee et al., arXiv 2407.10341).

A proposer finds where to grasp and where to go when an attempt begins, on its station; the attempt keeps what it found,
and where a person moved a point, that. Each step is rewarded by how much nearer along the keypoints it came, and the
step that a label calls a success by 1 instead. An attempt without keypoints has the sparse reward alone.

Ours: the model that draws keypoints may be a vision-language model behind an address, but what the tables use are the
words of the instruction and known positions or colours; the shape of the reward (keypoints.py).
"""

from dataclasses import replace
from typing import Any

import numpy as np

from robots.embodiments import Camera
from robots.episodes import Episode, rows_of
from robots.worlds import WORLDS, make_world
from training.actor_critic_learner import ActorCriticLearner
from training.keypoints import Asked, Point, Proposer, dense_rewards, hand_of, potential, proposer_of
from training.off_policy import Beginning, Practise, practise_off_policy
from training.recipes import KAGIRecipe
from training.run_dir import RunDir, RunError


class KAGI(ActorCriticLearner):
    """The parent's policy, rewarded along keypoints."""

    def __init__(self, beginning: Beginning, proposer: Proposer | None = None):
        """Another proposer than the recipe's is for comparisons; it finds the keypoints of practice too."""
        super().__init__(beginning)
        assert isinstance(beginning.recipe, KAGIRecipe)
        self.settings, body = beginning.recipe, self.policy.embodiment
        try:
            hand_of(body, {key: np.zeros((1, *each.shape), each.dtype) for key, each in body.observation.items()})
        except ValueError as error:
            raise RunError(str(error)) from None
        self.always = proposer
        self.proposer = proposer or proposer_of(self.settings.proposer, self._warn)
        self.origin = replace(
            self.origin, network="guided", sizes={**self.origin.sizes, "proposer": self.settings.proposer}
        )

    def _warn(self, text: str) -> None:
        self.run.note(text, level="warning")

    def rewards(self, episode: Episode, steps: int) -> np.ndarray:
        """As of the module. [steps]"""
        points = self.keypoints(episode)
        if points is None:
            rewards = np.full(steps, -self.settings.cost)
        else:
            seen = rows_of(episode.observations, slice(steps + 1))
            phi = potential(self.policy.embodiment, seen, points)
            rewards = dense_rewards(phi, self.settings.dense, self.settings.cost)
        if self.ended_well(episode, steps) and self.settings.success:
            rewards[-1] = self.settings.success
        return rewards

    def keypoints(self, episode: Episode) -> list[Point] | None:
        """Those that the attempt was made with; of a demonstration, those that would be proposed."""
        told = episode.labels.get("keypoints")
        if self.always is None and told is not None and len(told["value"]) >= 2:
            return [(float(x), float(y)) for x, y in told["value"]]
        if self.always is None and episode.purpose != "demonstration":
            return None
        body, first = self.policy.embodiment, rows_of(episode.observations, 0)
        asked = Asked(body, episode.instruction, first, *self._picture(episode))
        found = self.proposer.propose(asked)
        return None if found is None else list(found.points)

    def _picture(self, episode: Episode) -> tuple[np.ndarray | None, Camera | None]:
        """Of its first frame, where a world here can draw it and the proposer looks at pictures."""
        view = next((view for view in self.policy.embodiment.views if view.plane), None)
        if self.settings.proposer == "known_positions" or view is None or episode.embodiment not in WORLDS:
            return None, None
        world = make_world(episode.embodiment, 0)
        try:
            world.set_observation(rows_of(episode.observations, 0))
            return world.render(view.name, view.width, view.height), view
        finally:
            world.close()


def kagi(run: RunDir, practise: Practise | None = None, proposer: Proposer | None = None) -> dict[str, Any]:
    """As of practise_off_policy()."""
    return practise_off_policy(run, lambda beginning: KAGI(beginning, proposer), practise)

"""RoboFuME: a success classifier and calibrated critics from what is recorded, then practice that resets itself.

    classifier  ends of demonstrations against everything else, failures among it: it ends attempts and rewards them
    offline     Cal-QL from demonstrations, failures and other tasks' recordings, the actor by Q and by imitation
    practice    the instruction switches to the one that brings things back and again (the task's rule); online and
                recorded steps are mixed; a person, or the simulator, resets only now and then
    reward      -1 a step, 0 where the classifier calls it a success, which ends the attempt

After arXiv 2310.15145 and Cal-QL (arXiv 2303.05479). Ours: the paper's reward model is a fine-tuned MiniGPT-4 and its
prior data BridgeData; here the classifier is a small network on the same features, and prior data are other tasks of
the same world. Words are read as in stage 1, by a network of their own.
"""

from typing import Any

import numpy as np
import torch

from robots.episodes import Episode
from training.actor_critic import Batch
from training.actor_critic_learner import ActorCriticLearner
from training.off_policy import Beginning, Figures, Practise, practise_off_policy
from training.recipes import RoboFuMERecipe
from training.run_dir import RunDir
from training.success_classifier import success_classifier


class RoboFuME(ActorCriticLearner):
    """The parent's policy with conservative critics, and the classifier."""

    def __init__(self, beginning: Beginning):
        assert isinstance(beginning.recipe, RoboFuMERecipe)
        self.settings = beginning.recipe
        further = {"cql": self.settings.cql, "calibrated": bool(self.settings.calibrated)}
        super().__init__(beginning, cql_actions=self.settings.cql_actions, **further)

    def prepare(self) -> bool:
        """The success classifier comes first: it judges practice."""
        demonstrations = self.beginning.demonstrations
        self.reward_model = success_classifier(self.run, self.settings, self.policy, demonstrations)
        return self.reward_model is not None

    def rewards(self, episode: Episode, steps: int) -> np.ndarray:
        """As of the module. [steps]"""
        rewards = np.full(steps, -1.0)
        if self.ended_well(episode, steps):
            rewards[-1] = 0.0
        return rewards

    def update_offline(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """Critics and actor, from what is recorded."""
        figures = self.actor_critic.update_critic(self.batch(generator), optimiser, generator)
        if number % self.recipe.actor_every == 0:
            cloned = Batch(*self.replay.sample_demonstrated(self.recipe.batch // 2, generator))
            batch = self.batch(generator)
            figures |= self.actor_critic.update_actor(batch, optimiser, generator, self.cloning, cloned)
        return figures


def robofume(run: RunDir, practise: Practise | None = None) -> dict[str, Any]:
    """As of practise_off_policy()."""
    return practise_off_policy(run, RoboFuME, practise)

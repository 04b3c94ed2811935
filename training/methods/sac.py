"""Soft actor-critic with demonstrations: what the methods that learn off-policy are compared with.

The policy is the parent's, trained by stage 1 with a gaussian action head. The reward is 1 where the label says
success, else 0. Critics learn from batches half of which were demonstrated, the actor by their word and by imitation
(SAC: Haarnoja et al., arXiv 1812.05905; half demonstrated: Ball et al., arXiv 2302.02948).
"""

from typing import Any

from training.actor_critic_learner import ActorCriticLearner
from training.off_policy import Practise, practise_off_policy
from training.run_dir import RunDir


def sac(run: RunDir, practise: Practise | None = None) -> dict[str, Any]:
    """As of practise_off_policy()."""
    return practise_off_policy(run, ActorCriticLearner, practise)

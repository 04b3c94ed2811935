"""Classifiers of states, learned while a policy practises: success (VICE), and likeness to what was demonstrated.

Stands between the replay and the rewards of MEDAL++. Positives are given by demonstrations, negatives are what was
practised, so an output of one half says that nobody can tell them apart.

    L = BCE(D(m), u),  m = u f_pos + (1 - u) f_neg,  u ~ Beta(1, 1), which is uniform              (mixup)

Mixup: Zhang et al., arXiv 1710.09412; without it few positives are learned by heart. Spectral normalisation bounds how
fast D changes from one state to the next (Miyato et al., arXiv 1802.05957).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from training.descent import descend

WIDTH = 128
LARGEST_NORM = 10.0


class Classifier(nn.Module):
    """A small network on features. [n, features] -> logit [n]"""

    updates: Tensor  # [] so far

    def __init__(self, features: int, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                *(spectral_norm(nn.Linear(features, WIDTH)), nn.GELU()),
                *(spectral_norm(nn.Linear(WIDTH, WIDTH)), nn.GELU()),
                nn.Linear(WIDTH, 1),
            )
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, features: Tensor) -> Tensor:
        """[n, features] -> [n]"""
        return self.layers(features)[:, 0]

    @torch.no_grad()
    def probability(self, features: Tensor) -> Tensor:
        """That a state is like the positives. [n, features] -> [n]"""
        self.eval()  # spectral normalisation takes no step
        return self(features).sigmoid()

    def update(
        self, positives: Tensor, negatives: Tensor, optimiser: torch.optim.Optimizer, generator: torch.Generator
    ) -> float:
        """One step on as many of each, [n, features]; the loss."""
        self.train()
        share = torch.rand((len(positives), 1), generator=generator).to(positives.device)
        logits = self(share * positives + (1 - share) * negatives)
        loss = F.binary_cross_entropy_with_logits(logits, share[:, 0])
        descend(loss, optimiser, list(self.parameters()), LARGEST_NORM)
        self.updates += 1
        return float(loss.detach())

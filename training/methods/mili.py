"""MILI: a failed trial of one task is a success of another.

Singh and others, "Scalable Multi-Task Imitation Learning with Autonomous Improvement", arXiv 2003.02636:

    embed       a code z of attempts, from demonstrations alone (task_embedding.py); frozen then
    imitate     L = -log pi(a | o, z of another attempt of the same task)
    try         stations act on the codes of demonstrations; of each trial one bit is told: was anything useful done?
    group       useful trials that lie near each other are attempts of one task more, whatever they were asked for
    again       imitate demonstrations and groups, from the first weights on

No reward is learned and true success is read nowhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robots.embodiments import ENVIRONMENT_STATE, Embodiment
from robots.episodes import Episode
from training.descent import anneal, descend
from training.networks.network import Network
from training.task_embedding import TrajectoryEncoder, embed, groups, neighbours
from training.vocabulary import Vocabulary

GROUPINGS = ("embedding", "command")


class Mili:
    """What a run has learned: codes, a policy that acts on them, and the trials so far in the order of their files."""

    def __init__(
        self,
        embodiment: Embodiment,
        demonstrations: Sequence[Episode],
        shown: Sequence[str] = (),
        *,
        seed: int,
        code: int = 16,
        hidden: int = 256,
        layers: int = 2,
        action_bins: int = 7,
        embedding_updates: int = 600,
        updates: int = 2000,
        batch: int = 256,
        learning_rate: float = 1e-3,
        demonstrated: float = 0.5,
        noise: float = 0.05,
        temperature: float = 1.0,
        grouping: str = "embedding",
    ):
        """`shown`: families whose demonstrations are looked up and never imitated. ValueError where no task was
        demonstrated twice, or the body is seen by pictures alone.
        """
        if grouping not in GROUPINGS:
            raise ValueError(f"The grouping is {grouping!r}; write one of {', '.join(GROUPINGS)}.")
        self.embodiment, self.grouping = embodiment, grouping
        self.embedding_updates, self.updates, self.batch = embedding_updates, updates, batch
        self.learning_rate, self.demonstrated, self.noise = learning_rate, demonstrated, noise
        texts = sorted({episode.instruction for episode in demonstrations})
        self.sizes: dict[str, Any] = {
            "hidden": hidden,
            "layers": layers,
            "action_bins": action_bins,
            "bins": 2,
            "texts": texts,
            "code": code,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = TrajectoryEncoder(embodiment, code)
            self.network = Network(embodiment, Vocabulary([]), **self.sizes)
        self.network.action_head.temperature = temperature
        self._first = {name: value.clone() for name, value in self.network.state_dict().items()}
        rows = [self.network.words.rows[episode.instruction] for episode in demonstrations]
        self.attempts = [
            Attempt(self.encoder, self.network, e, row) for e, row in zip(demonstrations, rows, strict=True)
        ]
        self.imitated = [i for i, e in enumerate(demonstrations) if e.task not in shown]
        self.trials: list[Attempt] = []
        counts = np.bincount([rows[i] for i in self.imitated], minlength=1)
        if counts.max() < 2:
            raise ValueError("A task embedding needs tasks that were demonstrated at least twice; add demonstrations.")

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a restart must find as it was."""
        return {"encoder": self.encoder, "network": self.network}

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """None outlives a round."""
        return {}

    def begin(self, generator: torch.Generator) -> dict[str, float]:
        """The task embedding, and the first policy."""
        chosen = [self.attempts[i] for i in self.imitated]
        self.network.features.scale_as(torch.cat([each.perceived for each in chosen]))
        self._first = {name: value.clone() for name, value in self.network.state_dict().items()}
        frames = torch.stack([each.frames for each in chosen])
        loss = embed(self.encoder, frames, [each.row for each in chosen], self.embedding_updates, 3e-3, generator)
        self.look_up()
        return {"embedding_loss": loss} | self.learn(generator)

    @torch.no_grad()
    def look_up(self) -> None:
        """Each sentence's code: the mean of those of its demonstrations."""
        codes = self.encoder(torch.stack([each.frames for each in self.attempts]))
        rows = torch.tensor([each.row for each in self.attempts])
        table = self.network.words.codes
        for row in range(1, len(table)):
            table[row] = nn.functional.normalize(codes[rows == row].mean(0), dim=0)
        self._first["words.codes"] = table.clone()

    def remember(self, episode: Episode, steps: int) -> None:
        """A trial; of one that nobody called useful nothing is kept."""
        told = episode.labels.get("useful")
        if told and told["value"]:
            self.trials.append(
                Attempt(self.encoder, self.network, episode, self.network.words.rows.get(episode.instruction, 0))
            )

    @torch.no_grad()
    def _codes(self, attempts):
        return self.encoder(torch.stack([each.frames for each in attempts]))

    def learn(self, generator: torch.Generator) -> dict[str, float]:
        demos = [self.attempts[i] for i in self.imitated]
        everything = demos + self.trials
        codes = self._codes(everything)
        partners = []
        for i, each in enumerate(demos):
            partners.append([j for j, other in enumerate(demos) if other.row == each.row and j != i] or [i])
        n = len(demos)
        if self.grouping == "command":
            partners += [[j for j, other in enumerate(demos) if other.row == each.row] for each in self.trials]
        elif self.trials:
            partners += [[n + j for j in near] for near in neighbours(codes[n:])]
        formed = (
            groups([[j - n for j in each] for each in partners[n:]])
            if self.grouping == "embedding" and self.trials
            else 0
        )
        lengths = torch.tensor([len(each.perceived) if p else 0 for each, p in zip(everything, partners)])
        rows_of = torch.cat([torch.full((int(l),), i) for i, l in enumerate(lengths)]).long()
        perceived = torch.cat([each.perceived for each, p in zip(everything, partners) if p])
        tokens = torch.cat([each.tokens for each, p in zip(everything, partners) if p])
        first = int(lengths[:n].sum())
        width = max(len(p) for p in partners)
        table = torch.tensor([[p[k % len(p)] if p else 0 for k in range(width)] for p in partners])
        net = self.network
        net.load_state_dict(self._first)
        net.train()
        params = net.trained_in("practice")
        optimiser = torch.optim.AdamW(params, lr=self.learning_rate, weight_decay=1e-2)
        schedule = anneal(optimiser, self.updates)
        losses = []
        for _ in range(self.updates):
            half = self.batch if first == len(perceived) else int(self.batch * self.demonstrated)
            rows = torch.randint(first, (half,), generator=generator)
            if half < self.batch:
                rows = torch.cat(
                    [rows, first + torch.randint(len(perceived) - first, (self.batch - half,), generator=generator)]
                )
            at = rows_of[rows]
            z = codes[table[at, torch.randint(width, (len(rows),), generator=generator)]]
            z = nn.functional.normalize(z + self.noise * torch.randn(z.shape, generator=generator), dim=1)
            hidden = net.hidden(perceived[rows], z)
            loss = -net.action_head.imitated(hidden, tokens[rows]).mean()
            descend(loss, optimiser, params)
            schedule.step()
            losses.append(float(loss.detach()))
        net.eval()
        return {
            "loss": float(np.mean(losses[-100:])),
            "groups": formed,
            "useful": len(self.trials),
            "paired": sum(bool(p) for p in partners[n:]),
        }


class Attempt:
    def __init__(self, encoder, network, episode, row):
        self.row = row
        self.frames = encoder.frames(episode)
        obs = {k: torch.from_numpy(v[:-1]) for k, v in episode.observations.items()}
        self.perceived = network.perceive(obs)
        self.tokens = network.action_head.tokens(torch.from_numpy(episode.actions)[:, None])

"""What checkpoints say of one observation and any words: python -m training inspect answers one question a line.

    {"checkpoints": [path, ...], "episode": path, "step": 12, "words": "push the red moon ..."}
      -> {"answers": [{"role", "d", "distribution", "bin_width", "threshold"} of a reward model,
                      {"role", "prediction", "bin_width", "actions": [{"name", "values", "p"}], "exact"} of a policy,
                      {"error": a sentence}, ...]}, or {"error": a sentence}

A process of its own for whoever knows no torch, such as the pages' playground: it ends with its standard input.
"""

import os
import sys
from itertools import product
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from robots import strict_json
from robots.episodes import EpisodeError, read_episodes, rows_of
from training import steps_to_go
from training.checkpoints import CheckpointError, FrozenCheckpoint, Policy, RewardModel, load_checkpoint
from training.networks.network import Network

KEPT = 4  # checkpoints in memory
NO_SENSE = "It makes nothing of this frame: what was observed is nothing that its body can observe."
MOST_ACTIONS = 4096  # more combinations of tokens than these are not all asked for


def main(lines: TextIO = sys.stdin, out: TextIO = sys.stdout) -> int:
    """Until its input ends."""
    if out is sys.stdout:
        os.nice(10)  # the web comes first
    torch.set_num_threads(1)
    loaded: dict[str, FrozenCheckpoint] = {}
    for line in lines:
        try:
            answer = inspect(strict_json.loads(line), loaded)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            answer = {"error": f"This can't be looked at: {error}."}
        print(strict_json.dumps(answer), file=out, flush=True)
    return 0


def inspect(asked: dict[str, Any], loaded: dict[str, FrozenCheckpoint]) -> dict[str, Any]:
    """The answer of each checkpoint. `loaded` keeps the newest few for the next question."""
    try:
        (episode,) = read_episodes(Path(asked["episode"]), frames=False)
    except (OSError, EpisodeError) as error:
        return {"error": f"The episode's file can't be read ({error}); restore it in the data folder."}
    step = min(max(0, int(asked["step"])), episode.steps)
    observation = {key: array[None] for key, array in rows_of(episode.observations, step).items()}
    words = str(asked["words"])
    answers: list[dict[str, Any]] = []
    for path in asked["checkpoints"]:
        try:
            checkpoint = _load(path, loaded)
            if checkpoint.embodiment.name != episode.embodiment:
                raise CheckpointError(
                    f"It is for {checkpoint.embodiment.name}, and the episode is of {episode.embodiment}. Choose a "
                    "frame of its own body."
                )
            answers.append(_answer(checkpoint, observation, words))
        except CheckpointError as error:
            answers.append({"error": str(error)})
    return {"answers": answers}


def _load(path: str, loaded: dict[str, FrozenCheckpoint]) -> FrozenCheckpoint:
    found = loaded.pop(path, None)
    if found is None:
        network, metadata = load_checkpoint(path)
        found = (Policy if metadata.role == "policy" else RewardModel)(network, metadata)
    loaded[path] = found  # the newest last
    while len(loaded) > KEPT:
        del loaded[next(iter(loaded))]
    return found


@torch.inference_mode()
def _answer(checkpoint: FrozenCheckpoint, observation: dict[str, np.ndarray], words: str) -> dict[str, Any]:
    unknown = sorted(
        {word for word in checkpoint.vocabulary.split(words) if word not in checkpoint.metadata.vocabulary}
    )
    common = {
        "role": checkpoint.role,
        "bin_width": checkpoint.metadata.bin_width,
        "unknown_words": unknown[:20],
    }
    if isinstance(checkpoint, RewardModel):
        d, distribution = checkpoint.steps_to_go(observation, [words])
        if not np.isfinite(d).all():
            raise CheckpointError(NO_SENSE)
        return common | {
            "d": float(d[0]),
            "distribution": distribution[0].round(5).tolist(),
            "threshold": checkpoint.threshold,
        }
    assert isinstance(checkpoint, Policy)  # there are two roles
    if not isinstance(checkpoint.network, Network):
        raise CheckpointError(
            "This policy plans, or puts its actions together from several parts, so that no probabilities of single "
            "actions can be shown. Look at its episodes instead."
        )
    perceived, goals = checkpoint.perceive(observation), checkpoint.goals([words])
    _, hidden = checkpoint.network.act(perceived, goals, None, greedy=True)
    prediction = steps_to_go.distribution(checkpoint.network.steps_to_go_head(hidden))[0]
    if not prediction.isfinite().all():
        raise CheckpointError(NO_SENSE)
    actions, exact = action_tokens(checkpoint, perceived, goals, hidden)
    return common | {"prediction": prediction.numpy().round(5).tolist(), "actions": actions, "exact": exact}


def action_tokens(
    policy: Policy, perceived: torch.Tensor, goals: torch.Tensor, hidden: torch.Tensor
) -> tuple[list[dict[str, Any]], bool]:
    """p of each token of the first action's numbers: [{"name", "values": of the tokens, "p"}], and whether it is
    p(a | o, g) itself, summed over the other numbers. Where there are too many combinations for that, each number's
    is as seen from one side, after the likeliest of those before it.
    """
    head, feature = policy.network.action_head, policy.embodiment.action

    def meant(tokens: torch.Tensor) -> torch.Tensor:
        """The action of each row's tokens. [n, A] -> [n, 1, A]"""
        return policy.network.meant(perceived.expand(len(tokens), -1), head.actions(tokens[:, None]))

    values = meant(torch.arange(head.bins)[:, None].expand(head.bins, head.size))[:, 0]  # [bins, A]
    exact = head.bins**head.size <= MOST_ACTIONS
    if exact:
        tokens = torch.tensor(list(product(range(head.bins), repeat=head.size)))  # [bins ** A, A]
        count = len(tokens)
        logs = policy.network.log_probability(perceived.expand(count, -1), goals.expand(count, -1), meant(tokens))
        table = logs.exp().reshape([head.bins] * head.size)
        shares = [table.sum([other for other in range(head.size) if other != i]) for i in range(head.size)]
    else:
        shares = list(head.first(hidden))
    names = feature.names or tuple(str(i) for i in range(head.size))
    found = [
        {"name": name, "values": values[:, i].tolist(), "p": share.tolist()}
        for i, (name, share) in enumerate(zip(names, shares, strict=True))
    ]
    return found, exact

"""What stations handed in: a round's files as practice episodes, and which of their steps may be learned from.

Stands between a run directory and the methods that practise (methods/).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robots.episodes import Episode, EpisodeError, read_episodes
from training import steps_to_go
from training.checkpoints import Policy, RewardModel
from training.run_dir import RunDir

# Rewards of an episode's first steps, or None to leave the episode out.
RewardsOf = Callable[[Episode, int, RewardModel, Policy], np.ndarray | None]


@dataclass
class Labelled:
    """What may be learned from an episode: the steps before anybody but the policy acted, and their rewards."""

    episode: Episode
    steps: int
    rewards: np.ndarray  # [steps]


def gather(
    run: RunDir, policy: Policy, consumed: list[str], stale_too: bool = False, poll_s: float = 0.1
) -> tuple[list[Episode], list[str], int]:
    """Wait until the round is closed; its episodes in the order of their files, the files, and how many episodes were
    of an older version: these are among them only if `stale_too`.
    """
    files: dict[str, list[Episode]] = {}
    while True:
        run.wait_while_paused()
        closed = run.closed(policy.version)  # asked before looking, so that no file slips in between
        for path in run.episode_files({*consumed, *files}):
            files[path.name] = practice_in(path, policy, run.note)
        if closed or run.cancelled:
            break
        time.sleep(poll_s)
    practised = [episode for name in sorted(files) for episode in files[name]]
    current = [episode for episode in practised if episode.policy == policy.id]
    return practised if stale_too else current, sorted(files), len(practised) - len(current)


def practice_in(path: Path, policy: Policy, note: Callable[..., None]) -> list[Episode]:
    """A file's practice episodes that this body can have acted; what is wrong is named in a note."""
    try:
        episodes = read_episodes(path, frames=False)
    except EpisodeError as error:
        note(f"{path.name} is left out: {error}", level="warning")
        return []
    return [each for each in episodes if fits(each, policy, note) and each.purpose == "practice"]


def fits(episode: Episode, policy: Policy, note: Callable[..., None]) -> bool:
    """Whether the policy's body can have acted it; a note says why not."""
    try:
        episode.check_against(policy.embodiment)
    except EpisodeError as error:
        note(f"An episode is left out: {error}", level="warning")
        return False
    return True


def labels(episodes: list[Episode], reward_model: RewardModel, policy: Policy, rewards_of: RewardsOf) -> list[Labelled]:
    """Of those of which something may be learned."""
    found = []
    for episode in episodes:
        steps = steps_to_go.policy_steps(episode.actors)
        rewards = rewards_of(episode, steps, reward_model, policy) if steps else None
        if rewards is not None:
            found.append(Labelled(episode, steps, rewards))
    return found

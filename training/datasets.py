"""Demonstrations -> the tensors of stage 1: (observation, action, goal, steps-to-go), and labels for grounding.

Everything that a person hands in passes through read_demonstrations, so that a bad dataset is refused here, with the
episode's id and the field, and not somewhere in the middle of a training run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robots.embodiments import IMAGES, STATE, Embodiment, differences
from robots.episodes import ACTORS, Episode, EpisodeError, read_episodes
from training import stored_rows
from training.stored_rows import Rows, StoredRows

# How a demonstration ends that reached its goal. After any other ending nobody knows how far the goal still was.
REACHED = ("true_success", "detected_success", "operator")


class DatasetError(ValueError):
    """A dataset that can't be trained on; the text names the episode and the field."""


@dataclass
class Demonstrations:
    """Episodes laid end to end, one row a frame (an episode of T actions has T + 1 frames)."""

    embodiment: Embodiment
    tasks: list[str]
    instructions: list[str]  # [I] distinct sentences
    observations: dict[str, Rows]  # [F, ...] of each feature, as recorded; of many pictures they stay in their files
    actions: Tensor  # [F, A], zero at each last frame
    imitable: Tensor  # [F] bool: a human or a script acted here, so the action is worth copying
    steps_to_go: Tensor  # [F]
    instruction: Tensor  # [F] index into instructions
    first: Tensor  # [E] first frame of each episode
    last: Tensor  # [E] last frame of each episode
    uuids: list[str]  # [E]
    weights: Tensor | None = None  # [F] as so many of the mean frame it counts; None: each as one

    @property
    def episodes(self) -> int:
        """E: how many there are."""
        return len(self.first)

    def vectors(self, keys: Sequence[str]) -> Tensor:
        """What each frame holds of these features, none of which are pictures. [F, ...]"""
        found = [self.observations[key] for key in keys]
        return torch.cat(
            [torch.zeros(len(self.steps_to_go), 0), *(each for each in found if isinstance(each, Tensor))], 1
        )

    def frames_of(self, episodes: Tensor) -> Tensor:
        """Indices of all frames of some episodes."""
        return torch.cat([torch.arange(int(self.first[e]), int(self.last[e]) + 1) for e in episodes.tolist()])

    def episodes_of(self, frames: Tensor) -> Tensor:
        """Which episode each frame is of."""
        return torch.searchsorted(self.first, frames, right=True) - 1


@dataclass
class Hindsight:
    """What each demonstration did, read off its first and last observation. No simulator, and no words."""

    moved: Tensor  # [E] the object that moved most
    resting: Tensor  # [E, 2] where it ended
    others: Tensor  # [E, K, 2] where every object ended
    present: Tensor  # [E, K] bool: still on the table
    clear: Tensor  # [E] bool: nothing was lost from sight, so that what moved is known


def read_demonstrations(paths: Sequence[Path], observe: str = "all") -> Demonstrations:
    """All files' episodes; DatasetError names the file and the field that can't be learned from. `observe`: what of
    each observation is kept, one of recipes.OBSERVE. Of files that together are too large for memory the pictures stay
    there.
    """
    if not paths:
        raise DatasetError("There are no demonstrations; put at least one file of episodes into the run's data folder.")
    episodes = []
    stay = sum(path.stat().st_size for path in paths) > stored_rows.IN_MEMORY
    for path in sorted(paths):
        try:
            episodes += read_episodes(path, frames=False, pictures_stay=stay)
        except EpisodeError as error:
            raise DatasetError(f"{path.name}: {error}") from error
    return demonstrations_of(episodes, observe)


def demonstrations_of(episodes: Sequence[Episode], observe: str = "all") -> Demonstrations:
    """Those that reached their goal, laid end to end; DatasetError where they can't be learned from.

    Practice episodes that somebody put into a dataset are imitated wholly, the policy's own actions too. An evaluation
    is never learned from: its attempts are what the curve is made of.
    """
    for episode in episodes:
        try:
            episode.validate()
        except EpisodeError as error:
            raise DatasetError(str(error)) from error
        if episode.embodiment != episodes[0].embodiment:
            raise DatasetError(
                f"Episode {episode.uuid}, field embodiment: it is of {episode.embodiment}, the dataset began with "
                f"{episodes[0].embodiment}; train one embodiment a run."
            )
        if episode.purpose == "evaluation":
            raise DatasetError(
                f"Episode {episode.uuid}, field purpose: evaluation episodes are no demonstrations; leave them out."
            )
    body = observing(_body_of(episodes), observe)
    reached = [episode for episode in episodes if episode.ending in REACHED]
    if len(reached) < 2:
        raise DatasetError(
            f"Of {len(episodes)} demonstrations {len(reached)} reached their goal; at least 2 are needed, one to learn "
            "from and one to check with."
        )
    instructions = sorted({episode.instruction for episode in reached})
    index = {text: i for i, text in enumerate(instructions)}
    lengths = torch.tensor([episode.steps + 1 for episode in reached])
    last = lengths.cumsum(0) - 1
    first = last - lengths + 1

    def laid_end_to_end(rows: Iterable[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(list(rows)))

    by_hand = [(episode.actors != ACTORS.index("policy")) | (episode.purpose == "practice") for episode in reached]
    weights = torch.tensor([episode.weight for episode in reached]).repeat_interleave(lengths)
    return Demonstrations(
        embodiment=body,
        tasks=sorted({episode.task for episode in reached}),
        instructions=instructions,
        observations={
            key: _together([episode.observations[key] for episode in reached])
            for key in reached[0].observations
            if key in body.observation
        },
        actions=laid_end_to_end(np.pad(episode.actions, ((0, 1), (0, 0))) for episode in reached),
        imitable=laid_end_to_end(np.pad(acted, (0, 1)) for acted in by_hand),
        steps_to_go=laid_end_to_end(np.arange(e.steps, -1, -1, dtype=np.float32) for e in reached),
        instruction=torch.tensor([index[episode.instruction] for episode in reached]).repeat_interleave(lengths),
        first=first,
        last=last,
        uuids=[episode.uuid for episode in reached],
        weights=None if (weights == 1).all() else weights / weights.mean(),
    )


def _together(parts: Sequence[np.ndarray]) -> Rows:
    """Arrays [n, ...] one after the other; those that stay in their files, there."""
    mapped = [part for part in parts if isinstance(part, np.memmap)]
    return StoredRows.of(mapped) if len(mapped) == len(parts) else torch.from_numpy(np.concatenate(parts))


def observing(body: Embodiment, observe: str) -> Embodiment:
    """The body as a policy sees it that is to act by a part of its observation; DatasetError where there is none."""
    if observe == "all":
        return body
    kept = {key: each for key, each in body.observation.items() if each.is_picture == (observe == "cameras")}
    if not kept:
        raise DatasetError(f"{body.name} observes no {observe}; train with observe = all.")
    if any(body.relative) and STATE not in kept:
        raise DatasetError(
            f"{body.name} is told its joints from where they are, which its cameras don't say; train with observe = "
            "all or observe = state."
        )
    seen = body.overhead is not None and IMAGES + body.overhead.camera in kept
    return replace(body, observation=kept, overhead=body.overhead if seen else None)


def _body_of(episodes: Sequence[Episode]) -> Embodiment:
    """The one body of all; DatasetError where it is unknown, changed on the way, or an episode's arrays are not its."""
    first = episodes[0]
    if first.body is None:
        raise DatasetError(
            f"Episode {first.uuid}, field embodiment: nobody says what {first.embodiment} observes and does; record "
            "it by a station that describes itself, or put the description into the file."
        )
    for episode in episodes:
        if episode.body != first.body and (changed := differences(episode.body or first.body, first.body)):
            raise DatasetError(
                f"Episode {episode.uuid}, field body: {first.embodiment} is no longer what it was in the first "
                f"episode: {'; '.join(changed)}. Train on episodes of one body."
            )
        try:
            episode.check_shapes(first.body)
        except EpisodeError as error:
            raise DatasetError(str(error)) from None
    return first.body


def split(demonstrations: Demonstrations, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Episodes to learn from and episodes to check with. Whole episodes, since frames of one are near copies."""
    order = torch.randperm(demonstrations.episodes, generator=generator)
    held_out = min(max(1, round(fraction * len(order))), len(order) - 1)
    return order[held_out:].sort().values, order[:held_out].sort().values


def look_back(demonstrations: Demonstrations, tracked: Tensor, names: Sequence[str], guessed: bool) -> Hindsight:
    """What moved in each, and where everything came to rest. `tracked` [F, K, len(names)]: what is known of each object
    in each frame; guessed: a block may be hidden there by another of its colour.
    """

    def objects(frames: Tensor) -> tuple[Tensor, Tensor]:
        features = tracked[frames]
        position = features[..., [names.index("x"), names.index("y")]]
        there = (
            features[..., names.index("on_table")] > 0.5
            if "on_table" in names
            else torch.ones_like(position[..., 0]) > 0
        )
        return position, there

    before, there_before = objects(demonstrations.first)
    after, there_after = objects(demonstrations.last)
    way = (after - before).norm(dim=-1).masked_fill(~(there_before & there_after), -1.0)
    moved = way.argmax(1)
    # Which has fallen off a table, its state tells.
    clear = (there_before & there_after).all(1) if guessed else torch.ones_like(moved, dtype=torch.bool)
    return Hindsight(moved, after[torch.arange(len(moved)), moved], after, there_after, clear)

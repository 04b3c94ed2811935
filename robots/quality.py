"""How good a recorded episode is to learn from, as numbers, and which ones stand out beside the others, as sentences.

quality_of() is asked once, when an episode is taken in; unusual() of all episodes of a version.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robots.embodiments import Embodiment, Feature
from robots.episodes import Episode

Quality = dict[str, Any]

MOVED = 1e-3  # of a number's range: a smaller change between two steps is none
GRIPPED = 0.05  # of its range: a gripper that goes less far has not moved
FROZEN_S = 1.0  # a camera that shows one picture for longer, while something moves
AT_LIMIT = 0.995  # of the way from the middle to the limit: there an action is saturated
DROP = 0.1  # of d at the beginning: d that never falls further has not fallen
RISE = 1.0  # steps by which d may rise from one frame to the next and still count as falling
OUTLYING = 3.5  # robust z-score
LEAST_COMPARED = 8  # episodes; among fewer nothing is unusual
# What is compared: how a sentence calls it, what it is counted in (digits to show), and the least difference from the
# middle that is worth a word.
COMPARED = {
    "steps": ("length", "{:.0f} steps", 5.0),
    "jerk": ("jerk of the actions", "{:.3f}", 0.02),
    "idle_start": ("idle beginning", "{:.0f} steps", 5.0),
    "idle_end": ("idle end", "{:.0f} steps", 5.0),
    "saturation": ("share of actions at their limit", "{:.0%}", 0.1),
    "jump": ("largest jump between two steps", "{:.0%} of the range", 0.1),
}


def quality_of(episode: Episode) -> Quality:
    """Of an episode with its pictures; without recorded frames nothing is said of their cameras.

    steps, fps; jerk: root mean square of the actions' second differences, in half ranges; idle_start, idle_end: steps
    in which nothing moves; gripper: whether it moved (None: there is none); frozen_s, frozen_camera: for how long one
    picture stood still while something moved, longest; saturation: share of the actions' numbers at their limit; jump:
    largest change of an observed number between two steps, as a share of its range; d_start, d_end, d_falls,
    d_monotone (None: no reward model ran); reached_from: the least number of steps after which it still ends as it
    does, see reached_from().
    """
    body = episode.body
    ranges = {key: _range(body, key, array) for key, array in _vectors(episode).items()}
    reach = _range(body, None, episode.actions) / 2
    changes = [
        np.abs(np.diff(array, axis=0)) / ranges[key] for key, array in _vectors(episode).items() if array.shape[1]
    ]
    moving = np.zeros(episode.steps, bool)
    for each in changes:
        moving |= (each > MOVED).any(axis=1)
    for pictures in _pictures(episode).values():
        if not changes:
            moving |= _differ(pictures)
    acting = moving if changes else (np.abs(episode.actions) > MOVED * reach).any(axis=1)
    idle_start, idle_end = _idle(moving)
    frozen_s, camera = _frozen(episode, acting)
    bent = np.diff(episode.actions / reach, n=2, axis=0)
    found: Quality = {
        "steps": episode.steps,
        "fps": episode.fps,
        "jerk": float(np.sqrt(np.mean(bent**2))) if bent.size else 0.0,
        "idle_start": idle_start,
        "idle_end": idle_end,
        "gripper": _gripped(episode, ranges),
        "frozen_s": frozen_s,
        "frozen_camera": camera,
        "saturation": _saturation(episode),
        "jump": max((float(each.max()) for each in changes if each.size), default=0.0),
        **_distance(episode.steps_to_go),
    }
    found["reached_from"] = reached_from(episode, idle_end)
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in found.items()}


def reached_from(episode: Episode, idle_end: int) -> int:
    """How many steps have to be kept so that its end is still what it was: all but the idle ones at the end, where
    nothing changes any more; where the reward model detected success, all up to the first frame from which on d stays
    below its threshold.
    """
    least = max(1, episode.steps - idle_end)
    if episode.detected_success and episode.threshold is not None:
        d = episode.steps_to_go
        with np.errstate(invalid="ignore"):
            above = np.flatnonzero(~(d <= episode.threshold))  # NaN counts as above
        least = min(least, max(1, int(above[-1]) + 1 if len(above) else 1))
    return min(least, episode.steps)


def fell_monotonically(d: np.ndarray) -> bool | None:
    """Whether d [T+1] fell from frame to frame, and by something; None where no reward model ran."""
    known = d[np.isfinite(d)]
    if len(known) < 2:
        return None
    return bool(np.diff(known).max() <= RISE and known[-1] < known[0])


def unusual(qualities: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What stands out of each episode. Beside the others of the dataset: by the robust z-score, whose middle is the
    median and whose measure is the median distance from it, so that the odd ones don't hide each other.
    """
    found: list[list[str]] = [_by_itself(each) for each in qualities]
    if len(qualities) < LEAST_COMPARED:
        return found
    gripping = np.mean([each.get("gripper") is True for each in qualities])
    for reasons, each in zip(found, qualities, strict=True):
        if each.get("gripper") is False and gripping > 0.5:
            reasons.append(f"The gripper never moves, and it does in {gripping:.0%} of the episodes.")
    for name, (called, written, least) in COMPARED.items():
        values = np.array([float(each.get(name) or 0.0) for each in qualities])
        middle = float(np.median(values))
        off = values - middle
        spread = 1.4826 * float(np.median(np.abs(off)))
        if spread == 0:  # more than half are alike
            spread = 1.2533 * float(np.mean(np.abs(off)))
        if spread == 0:
            continue
        for i in np.flatnonzero((np.abs(off) > OUTLYING * spread) & (np.abs(off) >= least)).tolist():
            if off[i] > 0 or name == "steps":
                told = written.format(values[i])
                found[i].append(f"Its {called} is {told}, where {written.format(middle)} is usual.")
    return found


def _by_itself(quality: Mapping[str, Any]) -> list[str]:
    reasons = []
    if (frozen := quality.get("frozen_s") or 0.0) > FROZEN_S:
        reasons.append(f"The camera {quality.get('frozen_camera')} shows one picture for {frozen:.1f} s in motion.")
    if quality.get("d_falls") is False:
        reasons.append("The predicted steps to go never fall.")
    return reasons


def _vectors(episode: Episode) -> dict[str, np.ndarray]:
    return {key: array for key, array in episode.observations.items() if array.dtype != np.uint8}


def _pictures(episode: Episode) -> dict[str, np.ndarray]:
    return {key: array for key, array in episode.observations.items() if array.dtype == np.uint8}


def _range(body: Embodiment | None, key: str | None, array: np.ndarray) -> np.ndarray:
    """[D] how far each number may go; where nobody says, how far it went. Never 0."""
    feature: Feature | None = None
    if body is not None:
        feature = body.action if key is None else body.observation.get(key)
    if feature is not None and feature.low and len(feature.low) == array.shape[1]:
        span = np.array(feature.high, np.float64) - np.array(feature.low, np.float64)
    else:
        span = np.ptp(array.astype(np.float64), axis=0)
    return np.where(span > 0, span, 1.0)


def _differ(pictures: np.ndarray) -> np.ndarray:
    """bool [T]: whether a picture is another than the one before."""
    return np.array([not np.array_equal(a, b) for a, b in itertools.pairwise(pictures)], bool)


def _idle(moving: np.ndarray) -> tuple[int, int]:
    """Steps before the first motion and after the last one; of an episode without any, all are before."""
    where = np.flatnonzero(moving)
    if not len(where):
        return len(moving), 0
    return int(where[0]), int(len(moving) - 1 - where[-1])


def _frozen(episode: Episode, acting: np.ndarray) -> tuple[float, str]:
    """(seconds, camera) of the longest time for which a camera showed one picture while something moved."""
    longest, which = 0, ""
    changed = {key.rpartition(".")[2]: _differ(array) for key, array in _pictures(episode).items()}
    for camera, frames in episode.frames.items():
        changed[camera] = np.array([a != b for a, b in itertools.pairwise(frames)], bool)
    for camera, changes in changed.items():
        run = 0
        for stood, acted in zip(~changes, acting, strict=True):
            run = run + 1 if stood and acted else 0
            if run > longest:
                longest, which = run, camera
    return longest / episode.fps, which


def _gripped(episode: Episode, ranges: Mapping[str, np.ndarray]) -> bool | None:
    body = episode.body
    if body is None:
        return None
    columns = [
        np.ptp(array[:, i]) / ranges[key][i]
        for key, array in _vectors(episode).items()
        for i, name in enumerate(body.observation[key].names if key in body.observation else ())
        if "gripper" in name.lower() and i < array.shape[1]
    ]
    if not columns:
        reach = _range(body, None, episode.actions)
        columns = [
            np.ptp(episode.actions[:, i]) / reach[i]
            for i, name in enumerate(body.action.names)
            if "gripper" in name.lower()
        ]
    return bool(max(columns) > GRIPPED) if columns else None


def _saturation(episode: Episode) -> float:
    body = episode.body
    if body is None or not body.action.low:
        return 0.0
    low, high = np.array(body.action.low, np.float64), np.array(body.action.high, np.float64)
    half = np.where(high > low, (high - low) / 2, np.inf)
    return float((np.abs(episode.actions - (low + high) / 2) >= AT_LIMIT * half).mean())


def _distance(d: np.ndarray) -> dict[str, Any]:
    known = d[np.isfinite(d)].astype(float)
    if len(known) < 2:
        return {"d_start": None, "d_end": None, "d_falls": None, "d_monotone": None}
    fell = known[0] - known.min() > DROP * max(abs(known[0]), math.ulp(1.0))
    return {
        "d_start": float(known[0]),
        "d_end": float(known[-1]),
        "d_falls": bool(fell),
        "d_monotone": fell_monotonically(d),
    }

"""What LeRobot keeps of each feature, of an episode and of a dataset: policies normalise by it.

Of vectors each statistic is float64 [n]; of pictures [3, 1, 1], each colour from 0 to 1. "count" is int64 [1].
"""

from collections.abc import Iterable, Mapping

import numpy as np

Statistics = dict[str, np.ndarray]

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)
LEAST_SAMPLES, MOST_SAMPLES, SAMPLES_POWER = 100, 10_000, 0.75  # pictures of an episode
SAMPLED_SIDE, LARGEST_SIDE = 150, 300  # pixels; larger ones are thinned out to about the former


def of_numbers(rows: np.ndarray) -> Statistics:
    """Of [T, n]. NaN stands for nothing, so it counts for nothing: where there is nothing else all are 0."""
    rows = rows.astype(np.float64)
    known = np.isfinite(rows).all(axis=1)
    counted = rows[known] if known.any() else np.zeros((1, rows.shape[1]))
    return {
        "min": counted.min(axis=0),
        "max": counted.max(axis=0),
        "mean": counted.mean(axis=0),
        "std": counted.std(axis=0),
        "count": np.array([len(counted)]),
        **dict(zip(QUANTILES, np.quantile(counted, list(QUANTILES.values()), axis=0), strict=True)),
    }


def sampled(count: int) -> frozenset[int]:
    """Which of an episode's pictures count for its statistics."""
    wanted = max(min(count, LEAST_SAMPLES), min(int(count**SAMPLES_POWER), MOST_SAMPLES))
    return frozenset(np.linspace(0, count - 1, wanted).round().astype(int).tolist())


class PictureStatistics:
    """Of pictures that come one after the other: how often each colour has each of its 256 values."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._pictures = 0

    def add(self, picture: np.ndarray) -> None:
        """uint8 [H, W, 3]."""
        height, width = picture.shape[:2]
        if max(height, width) >= LARGEST_SIDE:
            step = int((width if width > height else height) / SAMPLED_SIDE)
            picture = picture[::step, ::step]
        for colour in range(3):
            self._counts[colour] += np.bincount(picture[..., colour].ravel(), minlength=256)
        self._pictures += 1

    def result(self) -> Statistics:
        """Of all that were added; at least one was."""
        values, counts = np.arange(256) / 255, self._counts
        total = counts.sum(axis=1)
        mean = counts @ values / total
        std = np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0))
        below = counts.cumsum(axis=1)
        found = {"min": 0.0, "max": 1.0} | QUANTILES
        # The value below which a share q of all pixels lies; of q = 0 the lowest that there is.
        ranks = {name: np.maximum(np.ceil(share * total), 1) for name, share in found.items()}
        shares = {
            name: np.array([values[np.searchsorted(row, wanted)] for row, wanted in zip(below, rank, strict=True)])
            for name, rank in ranks.items()
        }
        of_colours = {**shares, "mean": mean, "std": std}
        return {name: value.reshape(3, 1, 1) for name, value in of_colours.items()} | {
            "count": np.array([self._pictures])
        }


def merged(parts: Iterable[Statistics]) -> Statistics:
    """Of several episodes together, by LeRobot's rule: quantiles become bounds, the lower ones the lowest of all, the
    upper ones the highest.
    """
    parts = list(parts)
    counts = np.array([part["count"][0] for part in parts], np.float64)
    total = counts.sum()

    def stacked(name: str) -> np.ndarray:
        return np.stack([part[name] for part in parts])

    def weighted(values: np.ndarray) -> np.ndarray:
        shares: np.ndarray = counts / total
        return np.tensordot(shares, values, axes=1)

    mean = weighted(stacked("mean"))
    return {
        "min": stacked("min").min(axis=0),
        "max": stacked("max").max(axis=0),
        "mean": mean,
        "std": np.sqrt(weighted(stacked("std") ** 2 + (stacked("mean") - mean) ** 2)),
        "count": np.array([int(total)]),
        **{
            name: stacked(name).min(axis=0) if share <= 0.5 else stacked(name).max(axis=0)
            for name, share in QUANTILES.items()
        },
    }


def merged_features(parts: Iterable[Mapping[str, Statistics]]) -> dict[str, Statistics]:
    """The same for each feature by its key."""
    parts = list(parts)
    return {key: merged(part[key] for part in parts) for key in parts[0]}

"""How well does P(no success before the time limit) tell which attempts will fail, and how early?

Reads stored practice episodes after the fact; the live queue (robots/attention.py) reads the same number off the same
policy's success prediction while they happen. True success is the judge here, and nothing is learned from it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score

from robots.attention import DOUBTFUL
from robots.episodes import FAILURES, Episode
from robots.termination import chance_of_success
from training.checkpoints import Policy

JUDGED = ("detected_success", *FAILURES)  # a person's act decides nothing here


def judge_prediction(episodes: Sequence[Episode], policy: Policy, limit: int) -> dict[str, Any]:
    """Figures at half of the time limit (in steps): of the attempts still under way then, and of all.

    auroc_under_way    ranking of those that have not ended by then, by true success
    auroc_all          with those that have: detected success counts as P = 0, anything else as P = 1
    ..._detected       the same by detected success, which is all that a real station knows
    lead_time_s        median time from the first frame of lasting doubt to the end, of those that failed
    calibration_error  mean distance of P(failure) from the rate of failures, over tenths of P, weighted by episodes
    """
    judged = [episode for episode in episodes if episode.purpose == "practice" and episode.ending in JUDGED]
    judged = [episode for episode in judged if episode.true_success is not None]  # unknown is no failure
    half = limit // 2
    doubts = [doubt(episode, policy, limit) for episode in judged]
    failed = np.array([not episode.true_success for episode in judged], bool)
    undetected = np.array([not episode.detected_success for episode in judged], bool)
    under_way = np.array([episode.steps > half for episode in judged], bool)
    known = np.array(
        [
            series[half] if episode.steps > half else float(not episode.detected_success)
            for episode, series in zip(judged, doubts, strict=True)
        ]
    )
    lead = [
        (episode.steps - since) / episode.fps
        for episode, series, lost in zip(judged, doubts, failed, strict=True)
        if lost and (since := doubtful_since(series)) is not None
    ]
    return {
        "episodes": len(judged),
        "under_way_at_half": int(under_way.sum()),
        "failed": float(failed.mean()) if len(judged) else None,
        "auroc_under_way": auroc(known[under_way], failed[under_way]),
        "auroc_all": auroc(known, failed),
        "auroc_under_way_detected": auroc(known[under_way], undetected[under_way]),
        "auroc_all_detected": auroc(known, undetected),
        "lead_time_s": float(np.median(lead)) if lead else None,
        "foretold": len(lead) / int(failed.sum()) if failed.any() else None,
        "calibration_error": calibration_error(known[under_way], failed[under_way]),
        "brier": brier(known[under_way], failed[under_way]),
    }


def doubt(episode: Episode, policy: Policy, limit: int) -> np.ndarray:
    """P(no success before the time limit) at each observation. [T + 1]"""
    seen, said = episode.observations, [episode.instruction] * (episode.steps + 1)
    prediction = policy.answer(seen, said, greedy=True).prediction
    if prediction is None:
        raise ValueError(f"The policy {policy.id} makes no success prediction.")
    left = limit - np.arange(episode.steps + 1)
    return np.array(
        [1 - chance_of_success(p, k, policy.metadata.bin_width) for p, k in zip(prediction, left.tolist(), strict=True)]
    )


def doubtful_since(series: np.ndarray) -> int | None:
    """The step from which doubt stayed to the end; None where there was none at the end."""
    hopeful = np.flatnonzero(series < DOUBTFUL)
    since = int(hopeful[-1]) + 1 if len(hopeful) else 0
    return since if since < len(series) else None


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """P(a positive one scores higher than a negative one), ties counting half; None without both."""
    return float(roc_auc_score(positive, score)) if positive.any() and not positive.all() else None


def brier(probability: np.ndarray, happened: np.ndarray) -> float | None:
    """Mean squared distance of P from what happened."""
    if not len(probability):
        return None
    return float(brier_score_loss(happened, probability.clip(0, 1)))  # sums of a distribution may round beyond 1


def calibration_error(probability: np.ndarray, happened: np.ndarray, bins: int = 10) -> float | None:
    """Mean distance of P from the rate, over tenths of P, weighted by attempts. scikit-learn has the curve only,
    without the number of attempts in each tenth.
    """
    if not len(probability):
        return None
    tenth = np.minimum((probability * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(tenth, probability - happened)).sum() / len(probability))

"""The confidence below which a candidate is left out, tuned for the best F-score.

utae-paps @ 987874e, train_panoptic.py, ``tune_threshold``. Shape suffixes: N candidates, R
thresholds.
"""

from __future__ import annotations

import numpy as np

THRESHOLDS = np.arange(100) / 100


def threshold_counts(confidence_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """True positives, false positives and false negatives at each of ``THRESHOLDS``; counts of
    several batches add up.

    confidence_N: 0..1. right_N: bool, whether the centre's mask has an IoU above 0.5 with its
    parcel.
    """
    kept_RN = confidence_N[None] > THRESHOLDS[:, None]
    return np.stack(
        [(kept_RN & right_N).sum(1), (kept_RN & ~right_N).sum(1), (~kept_RN & right_N).sum(1)],
        axis=1,
    )


def best_threshold(counts: np.ndarray) -> float:
    """The threshold with the best F-score, the lowest of equally good ones; 0 where nothing is
    right.
    """
    positives, invented, missed = counts.T
    score = positives / np.maximum(positives + 0.5 * (invented + missed), 1)
    return float(THRESHOLDS[score.argmax()])

"""Scores of classified pixels, from a confusion matrix.

Source of the "published" variant: VSainteuf/utae-paps @ 987874e, src/learning/miou.py.

Shape suffixes: K classes; the first of two K is the true class, the second the predicted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from panoseg.errors import DatasetError

Variant = Literal["strict", "published"]


def confusion_matrix(
    true: Tensor | np.ndarray,
    predicted: Tensor | np.ndarray,
    count: int,
    ignored: Sequence[int] = (),
    variant: Variant = "strict",
) -> Tensor:
    """Pixels by true and predicted class: int64, K x K, on the device of ``true``; matrices of several patches add up.

    count: number of classes K. ignored: classes whose true pixels are left out. "strict" counts a pixel of another class that
    was predicted as an ignored one as missed; "published" leaves such pixels out too.

    >>> confusion_matrix(np.array([[0, 0, 1, 2]] * 3), np.array([[0, 1, 1, 1], [0, 0, 2, 0], [0, 0, 1, 2]]), 3, ignored=[2])
    tensor([[5, 1, 0],
            [0, 2, 1],
            [0, 0, 0]])
    """
    true, predicted = torch.as_tensor(true).flatten(), torch.as_tensor(predicted).flatten()
    if len(true) != len(predicted):
        raise ValueError(f"{len(true)} true and {len(predicted)} predicted pixels")
    # Each margin has a place more, on which classes outside 0..K-1 fall.
    true, predicted = (_clamped(labels, count) for labels in (true, predicted))
    matrix = torch.bincount(true * (count + 1) + predicted, minlength=(count + 1) ** 2).view(count + 1, count + 1)
    if len(true) and (matrix[count].any() or matrix[:, count].any()):
        raise DatasetError(
            "a label outside of the class table", f"classes 0 to {count - 1}", "use the class table of this dataset"
        )
    return leave_out(matrix[:count, :count], ignored, variant)


def leave_out(matrix_KK: Tensor, ignored: Sequence[int], variant: Variant = "strict") -> Tensor:
    """A copy of a matrix without the pixels of some classes; arguments as of ``confusion_matrix``."""
    matrix_KK = matrix_KK.clone()
    matrix_KK[list(ignored)] = 0
    if variant == "published":
        matrix_KK[:, list(ignored)] = 0
    return matrix_KK


def _clamped(labels: Tensor, count: int) -> Tensor:
    labels = labels.long()
    return torch.where((labels >= 0) & (labels < count), labels, count)


@dataclass(frozen=True, eq=False)
class ConfusionScores:
    """What a confusion matrix says, 0..1.

    accuracy: share of right pixels (OA). mean_iou, mean_f1: means over the classes that have a true or a predicted pixel and
    are not ignored. iou_K, precision_K, recall_K, f1_K: float64, NaN where undefined. pixels_K: int64, true pixels. matrix_KK:
    the matrix itself.
    """

    accuracy: float
    mean_iou: float
    mean_f1: float
    iou_K: np.ndarray
    precision_K: np.ndarray
    recall_K: np.ndarray
    f1_K: np.ndarray
    pixels_K: np.ndarray
    matrix_KK: np.ndarray


def confusion_scores(matrix_KK: Tensor | np.ndarray, ignored: Sequence[int] = ()) -> ConfusionScores:
    """Scores of a matrix of ``confusion_matrix``; give the same ``ignored``.

    >>> scores = confusion_scores(np.array([[6, 2], [0, 4]]))
    >>> round(scores.accuracy, 3), scores.iou_K.round(3)
    (0.833, array([0.75 , 0.667]))
    """
    matrix_KK = torch.as_tensor(matrix_KK).cpu().numpy()
    right, of_true, of_predicted = matrix_KK.diagonal(), matrix_KK.sum(axis=1), matrix_KK.sum(axis=0)
    scored = ~np.isin(np.arange(len(matrix_KK)), ignored)

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        return np.divide(above, below, out=np.full(len(above), np.nan), where=(below > 0) & scored)

    def mean(values: np.ndarray) -> float:
        return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0

    iou_K = ratio(right, of_true + of_predicted - right)
    f1_K = ratio(2 * right, of_true + of_predicted)
    accuracy = float(right.sum() / max(int(matrix_KK.sum()), 1))
    precision_K, recall_K = ratio(right, of_predicted), ratio(right, of_true)
    return ConfusionScores(accuracy, mean(iou_K), mean(f1_K), iou_K, precision_K, recall_K, f1_K, of_true, matrix_KK)

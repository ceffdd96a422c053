"""Boundaries of classes, made on the fly from labels.

Source: Many98/Crop2Seg @ aee7827, src/learning/utils.py (``get_dilated``) and smooth_loss.py; here
a boundary needs no map for each class, and labels may have any value. Shape suffixes: B batch, H W
pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from panoseg.errors import DatasetError

Neighbours = Literal[4, 8]

_SIDES = ((0, 1), (1, 0))
_CORNERS = ((1, 1), (1, -1))


def class_boundaries(classes_BHW: Tensor, neighbours: Neighbours = 4) -> Tensor:
    """Pixels that have a neighbour of another class: bool, B x H x W. What lies outside of an image
    is no neighbour.

    classes_BHW: integers of any value. neighbours: 4 (beside, above, below) or 8 (also at the
    corners).

    >>> class_boundaries(torch.tensor([[[1, 1, 1], [1, 1, 2], [1, 1, 2]]])).int().tolist()
    [[[0, 0, 1], [0, 1, 1], [0, 1, 1]]]
    """
    boundary_BHW = torch.zeros_like(classes_BHW, dtype=torch.bool)
    for one, other in _pairs(neighbours):
        differ = classes_BHW[..., *one] != classes_BHW[..., *other]
        boundary_BHW[..., *one] |= differ
        boundary_BHW[..., *other] |= differ
    return boundary_BHW


def classes_in_reach(classes_BHW: Tensor, count: int, neighbours: Neighbours = 4) -> Tensor:
    """Which classes a pixel or one of its neighbours has: bool, B x K x H x W.

    classes_BHW: int64, 0..K-1. count: number of classes K. neighbours: as in ``class_boundaries``.
    """
    own_BKHW = F.one_hot(classes_BHW, count).movedim(-1, 1).bool()
    reach_BKHW = own_BKHW.clone()
    for one, other in _pairs(neighbours):
        reach_BKHW[..., *one] |= own_BKHW[..., *other]
        reach_BKHW[..., *other] |= own_BKHW[..., *one]
    return reach_BKHW


def _pairs(neighbours: Neighbours) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Windows of pixels and of their neighbours, a pair for two opposite directions."""
    steps = _SIDES if neighbours == 4 else (*_SIDES, *_CORNERS)
    return [
        ((_window(-down), _window(-right)), (_window(down), _window(right)))
        for down, right in steps
    ]


def _window(step: int) -> slice:
    """All rows but the first (step 1), all but the last (-1), or all (0)."""
    return slice(max(step, 0), min(step, 0) or None)


Variant = Literal["strict", "published"]


def confusion_matrix(
    true: Tensor | np.ndarray,
    predicted: Tensor | np.ndarray,
    count: int,
    ignored: Sequence[int] = (),
    variant: Variant = "strict",
) -> Tensor:
    """Pixels by true and predicted class: int64, K x K, on the device of ``true``; matrices of
    several patches add up.

    count: number of classes K. ignored: classes whose true pixels are left out. "strict" counts a
    pixel of another class that was predicted as an ignored one as missed; "published" leaves such
    pixels out too.

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
    matrix = torch.bincount(true * (count + 1) + predicted, minlength=(count + 1) ** 2).view(
        count + 1, count + 1
    )
    if len(true) and (matrix[count].any() or matrix[:, count].any()):
        raise DatasetError(
            "a label outside of the class table",
            f"classes 0 to {count - 1}",
            "use the class table of this dataset",
        )
    return leave_out(matrix[:count, :count], ignored, variant)


def leave_out(matrix_KK: Tensor, ignored: Sequence[int], variant: Variant = "strict") -> Tensor:
    """A copy of a matrix without the pixels of some classes; arguments as of
    ``confusion_matrix``.
    """
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

    accuracy: share of right pixels (OA). mean_iou, mean_f1: means over the classes that have a true
    or a predicted pixel and are not ignored. iou_K, precision_K, recall_K, f1_K: float64, NaN where
    undefined. pixels_K: int64, true pixels. matrix_KK: the matrix itself.
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


def confusion_scores(
    matrix_KK: Tensor | np.ndarray, ignored: Sequence[int] = ()
) -> ConfusionScores:
    """Scores of a matrix of ``confusion_matrix``; give the same ``ignored``.

    >>> scores = confusion_scores(np.array([[6, 2], [0, 4]]))
    >>> round(scores.accuracy, 3), scores.iou_K.round(3)
    (0.833, array([0.75 , 0.667]))
    """
    matrix_KK = torch.as_tensor(matrix_KK).cpu().numpy()
    right, of_true, of_predicted = (
        matrix_KK.diagonal(),
        matrix_KK.sum(axis=1),
        matrix_KK.sum(axis=0),
    )
    scored = ~np.isin(np.arange(len(matrix_KK)), ignored)

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        return np.divide(above, below, out=np.full(len(above), np.nan), where=(below > 0) & scored)

    def mean(values: np.ndarray) -> float:
        return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0

    iou_K = ratio(right, of_true + of_predicted - right)
    f1_K = ratio(2 * right, of_true + of_predicted)
    accuracy = float(right.sum() / max(int(matrix_KK.sum()), 1))
    precision_K, recall_K = ratio(right, of_predicted), ratio(right, of_true)
    return ConfusionScores(
        accuracy, mean(iou_K), mean(f1_K), iou_K, precision_K, recall_K, f1_K, of_true, matrix_KK
    )


Region = Literal["all", "boundary", "interior"]
REGIONS: tuple[Region, ...] = get_args(Region)


@dataclass(frozen=True, eq=False)
class RegionScores:
    """Scores of the pixels of one region.

    scores: of the best class of each pixel. best_two: a pixel is right where its best class is, or
    its second best. published: of the best class, by the published meter, which also leaves out
    pixels that were predicted as an ignored class.
    """

    scores: ConfusionScores
    best_two: ConfusionScores
    published: ConfusionScores


@dataclass(frozen=True, eq=False)
class PixelCounts:
    """Pixels by region, choice, true and predicted class; counts of several batches add up.

    matrix_RCKK: int64. edge_22: int64, pixels by whether they lie on a boundary and whether the
    network's boundary head says so; zero without such a head.
    """

    matrix_RCKK: Tensor
    edge_22: Tensor

    @classmethod
    def zero(cls, classes: int, device: torch.device | str = "cpu") -> PixelCounts:
        """No pixels."""
        matrix_RCKK = torch.zeros((2, 2, classes, classes), dtype=torch.int64, device=device)
        return cls(matrix_RCKK, torch.zeros((2, 2), dtype=torch.int64, device=device))

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(self.matrix_RCKK + other.matrix_RCKK, self.edge_22 + other.edge_22)

    def scores(self, region: Region, ignored: tuple[int, ...]) -> RegionScores:
        """Scores of a region. ignored: classes whose true pixels are left out."""
        chosen = {"all": slice(None), "boundary": slice(0, 1), "interior": slice(1, 2)}[region]
        best_KK, two_KK = self.matrix_RCKK[chosen].sum(0)
        strict, two = (
            confusion_scores(leave_out(matrix_KK, ignored), ignored)
            for matrix_KK in (best_KK, two_KK)
        )
        published = confusion_scores(leave_out(best_KK, ignored, "published"), ignored)
        return RegionScores(strict, two, published)

    def edge_scores(self) -> ConfusionScores | None:
        """Scores of a boundary head; None without one."""
        return confusion_scores(self.edge_22) if self.edge_22.any() else None


def pixel_counts(
    logits_BKHW: Tensor, boundary_B2HW: Tensor | None, classes_BHW: Tensor
) -> PixelCounts:
    """Count a batch.

    logits_BKHW: scores of classes. boundary_B2HW: scores of inside and boundary, or None.
    classes_BHW: the truth. Raises ``DatasetError`` for a class outside 0..K-1.
    """
    count, edge_BHW = logits_BKHW.shape[1], class_boundaries(classes_BHW)
    best_BHW = logits_BKHW.argmax(1)
    best_two_B2HW = logits_BKHW.topk(min(2, count), dim=1).indices
    two_BHW = torch.where(
        best_two_B2HW[:, -1] == classes_BHW, best_two_B2HW[:, -1], best_two_B2HW[:, 0]
    )
    matrices = [
        confusion_matrix(classes_BHW[region_BHW], chosen_BHW[region_BHW], count)
        for region_BHW in (edge_BHW, ~edge_BHW)
        for chosen_BHW in (best_BHW, two_BHW)
    ]
    matrix_RCKK = torch.stack(matrices).unflatten(0, (2, 2))
    if boundary_B2HW is None:
        return PixelCounts(matrix_RCKK, matrix_RCKK.new_zeros((2, 2)))
    return PixelCounts(matrix_RCKK, confusion_matrix(edge_BHW.long(), boundary_B2HW.argmax(1), 2))

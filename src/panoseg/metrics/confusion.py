"""Confusion matrices of pixels and their scores, over whole images and along class boundaries.

``confusion_matrix`` counts pixels and ``confusion_scores`` turns a matrix into scores.
``pixel_counts`` counts the pixels at and off boundaries separately, which ``class_boundaries``
finds. Two published meters differ in which pixels they ignore (``Variant``).

Source of the boundaries: Many98/Crop2Seg @ aee7827, src/learning/utils.py (``get_dilated``) and
smooth_loss.py; here they need no map per class, and labels may have any value.

Shape suffixes: B images, H W pixels, K classes, R regions, C choices (best class, best two).
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
"""Which pixels are neighbours: left, right, above and below, or also at the corners."""
Variant = Literal["strict", "published"]
"""How an ignored class predicted on pixels of other classes counts: as missed, or not at all."""
Region = Literal["all", "boundary", "interior"]
REGIONS: tuple[Region, ...] = get_args(Region)

_SIDES = ((0, 1), (1, 0))
_CORNERS = ((1, 1), (1, -1))


def class_boundaries(classes_BHW: Tensor, neighbours: Neighbours = 4) -> Tensor:
    """Mark the pixels that have a neighbour of another class: bool, B x H x W.

    Pixels outside the image are not neighbours.

    Args:
        classes_BHW: Integers of any value.
        neighbours: 4 or 8.

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
    """Mark the classes that a pixel or one of its neighbours has: bool, B x K x H x W.

    Args:
        classes_BHW: int64, 0..K-1.
        count: Number of classes K.
        neighbours: 4 or 8.
    """
    own_BKHW = F.one_hot(classes_BHW, count).movedim(-1, 1).bool()
    reach_BKHW = own_BKHW.clone()
    for one, other in _pairs(neighbours):
        reach_BKHW[..., *one] |= own_BKHW[..., *other]
        reach_BKHW[..., *other] |= own_BKHW[..., *one]
    return reach_BKHW


def _pairs(neighbours: Neighbours) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Return windows of pixels and of their neighbours, a pair for two opposite directions."""
    steps = _SIDES if neighbours == 4 else (*_SIDES, *_CORNERS)
    return [
        ((_window(-down), _window(-right)), (_window(down), _window(right)))
        for down, right in steps
    ]


def _window(step: int) -> slice:
    """Return all lines but the first (step 1), all but the last (-1), or all (0)."""
    return slice(max(step, 0), min(step, 0) or None)


def confusion_matrix(
    true: Tensor | np.ndarray,
    predicted: Tensor | np.ndarray,
    count: int,
    ignored: Sequence[int] = (),
    variant: Variant = "strict",
) -> Tensor:
    """Count pixels by true (rows) and predicted class (columns).

    Args:
        true: Integers 0..K-1, of any shape.
        predicted: Integers 0..K-1, of the same size.
        count: Number of classes K.
        ignored: Classes whose true pixels are left out.
        variant: Whether pixels of other classes predicted as an ignored one count as missed
            ("strict") or are left out too ("published").

    Returns:
        int64, K x K, on the device of ``true``. Matrices of several patches can be added.

    Raises:
        DatasetError: A label is outside 0..K-1.

    >>> predicted = np.array([[0, 1, 1, 1], [0, 0, 2, 0], [0, 0, 1, 2]])
    >>> confusion_matrix(np.array([[0, 0, 1, 2]] * 3), predicted, 3, ignored=[2])
    tensor([[5, 1, 0],
            [0, 2, 1],
            [0, 0, 0]])
    """
    true, predicted = torch.as_tensor(true).flatten(), torch.as_tensor(predicted).flatten()
    if len(true) != len(predicted):
        raise ValueError(f"{len(true)} true and {len(predicted)} predicted pixels")
    # The matrix has one more row and column, which collect labels outside 0..K-1.
    true, predicted = (_clamped(labels, count) for labels in (true, predicted))
    matrix = torch.bincount(true * (count + 1) + predicted, minlength=(count + 1) ** 2).view(
        count + 1, count + 1
    )
    if len(true) and (matrix[count].any() or matrix[:, count].any()):
        raise DatasetError(
            f"A label is outside of the class table, which has the classes 0 to {count - 1}; use "
            "the class table of this dataset."
        )
    return leave_out(matrix[:count, :count], ignored, variant)


def leave_out(matrix_KK: Tensor, ignored: Sequence[int], variant: Variant = "strict") -> Tensor:
    """Return a copy of a matrix without the pixels of some classes; see ``confusion_matrix``."""
    matrix_KK = matrix_KK.clone()
    matrix_KK[list(ignored)] = 0
    if variant == "published":
        matrix_KK[:, list(ignored)] = 0
    return matrix_KK


def _clamped(labels: Tensor, count: int) -> Tensor:
    """Replace labels outside 0..count-1 by ``count``."""
    labels = labels.long()
    return torch.where((labels >= 0) & (labels < count), labels, count)


@dataclass(frozen=True, eq=False)
class ConfusionScores:
    """Scores of a confusion matrix as fractions.

    Means are over the classes that have a true or a predicted pixel and are not ignored.
    """

    accuracy: float
    """Share of right pixels (overall accuracy), 0..1."""
    mean_iou: float
    """Mean intersection over union, 0..1."""
    mean_f1: float
    """Mean F1 score, 0..1."""
    iou_K: np.ndarray
    """float64, K, 0..1; NaN where undefined."""
    precision_K: np.ndarray
    """float64, K, 0..1; NaN where undefined."""
    recall_K: np.ndarray
    """float64, K, 0..1; NaN where undefined."""
    f1_K: np.ndarray
    """float64, K, 0..1; NaN where undefined."""
    pixels_K: np.ndarray
    """int64, K: number of true pixels."""
    matrix_KK: np.ndarray
    """int64, K x K: the matrix itself."""


def confusion_scores(
    matrix_KK: Tensor | np.ndarray, ignored: Sequence[int] = ()
) -> ConfusionScores:
    """Compute the scores of a ``confusion_matrix`` with the same ``ignored`` classes.

    >>> scores = confusion_scores(np.array([[6, 2], [0, 4]]))
    >>> round(scores.accuracy, 3), scores.iou_K.round(3)
    (0.833, array([0.75 , 0.667]))
    """
    matrix_KK = torch.as_tensor(matrix_KK).cpu().numpy()
    right, of_true, of_predicted = matrix_KK.diagonal(), matrix_KK.sum(1), matrix_KK.sum(0)
    scored = ~np.isin(np.arange(len(matrix_KK)), ignored)

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        undefined = np.full(len(above), np.nan)
        return np.asarray(np.divide(above, below, out=undefined, where=(below > 0) & scored))

    def mean(values: np.ndarray) -> float:
        return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0

    iou_K = ratio(right, of_true + of_predicted - right)
    f1_K = ratio(2 * right, of_true + of_predicted)
    accuracy = float(right.sum() / max(int(matrix_KK.sum()), 1))
    precision_K, recall_K = ratio(right, of_predicted), ratio(right, of_true)
    return ConfusionScores(
        accuracy, mean(iou_K), mean(f1_K), iou_K, precision_K, recall_K, f1_K, of_true, matrix_KK
    )


@dataclass(frozen=True, eq=False)
class RegionScores:
    """Scores of the pixels of one region."""

    scores: ConfusionScores
    """Scores of the best class of each pixel, variant "strict"."""
    best_two: ConfusionScores
    """Scores where a pixel is right if its best or second best class is, variant "strict"."""
    published: ConfusionScores
    """Scores of the best class of each pixel, variant "published"."""


@dataclass(frozen=True, eq=False)
class PixelCounts:
    """Counts of pixels at and off boundaries; ``+`` adds those of other batches."""

    matrix_RCKK: Tensor
    """int64, 2 x 2 x K x K: confusion matrices at boundaries and inside, of best and best two."""
    edge_22: Tensor
    """int64, 2 x 2: pixels by whether they are on a boundary (rows) and are predicted to be.

    Zero if the network has no boundary head.
    """

    @classmethod
    def zero(cls, classes: int, device: torch.device | str = "cpu") -> PixelCounts:
        """Return the counts of no pixels."""
        matrix_RCKK = torch.zeros((2, 2, classes, classes), dtype=torch.int64, device=device)
        return cls(matrix_RCKK, torch.zeros((2, 2), dtype=torch.int64, device=device))

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(self.matrix_RCKK + other.matrix_RCKK, self.edge_22 + other.edge_22)

    def scores(self, region: Region, ignored: tuple[int, ...]) -> RegionScores:
        """Compute the scores of a region; true pixels of ``ignored`` classes are left out."""
        chosen = {"all": slice(None), "boundary": slice(0, 1), "interior": slice(1, 2)}[region]
        best_KK, two_KK = self.matrix_RCKK[chosen].sum(0)
        strict, two = (
            confusion_scores(leave_out(matrix_KK, ignored), ignored)
            for matrix_KK in (best_KK, two_KK)
        )
        published = confusion_scores(leave_out(best_KK, ignored, "published"), ignored)
        return RegionScores(strict, two, published)

    def edge_scores(self) -> ConfusionScores | None:
        """Compute the scores of the boundary head; None without one."""
        return confusion_scores(self.edge_22) if self.edge_22.any() else None


def pixel_counts(
    logits_BKHW: Tensor, boundary_B2HW: Tensor | None, classes_BHW: Tensor
) -> PixelCounts:
    """Count the pixels of a batch.

    Args:
        logits_BKHW: Float: scores of the classes.
        boundary_B2HW: Float: scores of "interior" and "boundary", or None without such a head.
        classes_BHW: int64: the true classes.

    Raises:
        DatasetError: A class is outside 0..K-1.
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
    matrix_RCKK = torch.stack(matrices).view(2, 2, count, count)
    if boundary_B2HW is None:
        return PixelCounts(matrix_RCKK, matrix_RCKK.new_zeros((2, 2)))
    return PixelCounts(matrix_RCKK, confusion_matrix(edge_BHW.long(), boundary_B2HW.argmax(1), 2))

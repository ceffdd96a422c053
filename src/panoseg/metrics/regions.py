"""Classified pixels counted by region: at the boundary of a class, and inside.

Source: Many98/Crop2Seg @ aee7827, src/learning/utils.py (``iterate``), which knows the same regions and the same second chance.
Shape suffixes: B batch, K classes, H W pixels, R regions (boundary, interior), C choices (best class, one of the best two).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from panoseg.data.boundaries import class_boundaries
from panoseg.metrics.confusion import ConfusionScores, confusion_matrix, confusion_scores, leave_out

Region = Literal["all", "boundary", "interior"]
REGIONS: tuple[Region, ...] = get_args(Region)


@dataclass(frozen=True, eq=False)
class RegionScores:
    """Scores of the pixels of one region.

    scores: of the best class of each pixel. best_two: a pixel is right where its best class is, or its second best. published:
    of the best class, by the published meter, which also leaves out pixels that were predicted as an ignored class.
    """

    scores: ConfusionScores
    best_two: ConfusionScores
    published: ConfusionScores


@dataclass(frozen=True, eq=False)
class PixelCounts:
    """Pixels by region, choice, true and predicted class; counts of several batches add up.

    matrix_RCKK: int64. edge_22: int64, pixels by whether they lie on a boundary and whether the network's boundary head says
    so; zero without such a head.
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
        strict, two = (confusion_scores(leave_out(matrix_KK, ignored), ignored) for matrix_KK in (best_KK, two_KK))
        published = confusion_scores(leave_out(best_KK, ignored, "published"), ignored)
        return RegionScores(strict, two, published)

    def edge_scores(self) -> ConfusionScores | None:
        """Scores of a boundary head; None without one."""
        return confusion_scores(self.edge_22) if self.edge_22.any() else None


def pixel_counts(logits_BKHW: Tensor, boundary_B2HW: Tensor | None, classes_BHW: Tensor) -> PixelCounts:
    """Count a batch.

    logits_BKHW: scores of classes. boundary_B2HW: scores of inside and boundary, or None. classes_BHW: the truth. Raises
    ``DatasetError`` for a class outside 0..K-1.
    """
    count, edge_BHW = logits_BKHW.shape[1], class_boundaries(classes_BHW)
    best_BHW = logits_BKHW.argmax(1)
    best_two_B2HW = logits_BKHW.topk(min(2, count), dim=1).indices
    two_BHW = torch.where(best_two_B2HW[:, -1] == classes_BHW, best_two_B2HW[:, -1], best_two_B2HW[:, 0])
    matrices = [
        confusion_matrix(classes_BHW[region_BHW], chosen_BHW[region_BHW], count)
        for region_BHW in (edge_BHW, ~edge_BHW)
        for chosen_BHW in (best_BHW, two_BHW)
    ]
    matrix_RCKK = torch.stack(matrices).unflatten(0, (2, 2))
    if boundary_B2HW is None:
        return PixelCounts(matrix_RCKK, matrix_RCKK.new_zeros((2, 2)))
    return PixelCounts(matrix_RCKK, confusion_matrix(edge_BHW.long(), boundary_B2HW.argmax(1), 2))

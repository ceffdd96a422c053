"""Boundaries of classes, made on the fly from labels.

Source: Many98/Crop2Seg @ aee7827, src/learning/utils.py (``get_dilated``) and smooth_loss.py; here a boundary needs no map for
each class, and labels may have any value. Shape suffixes: B batch, H W pixels, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Neighbours = Literal[4, 8]

_SIDES = ((0, 1), (1, 0))
_CORNERS = ((1, 1), (1, -1))


def class_boundaries(classes_BHW: Tensor, neighbours: Neighbours = 4) -> Tensor:
    """Pixels that have a neighbour of another class: bool, B x H x W. What lies outside of an image is no neighbour.

    classes_BHW: integers of any value. neighbours: 4 (beside, above, below) or 8 (also at the corners).

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
    return [((_window(-down), _window(-right)), (_window(down), _window(right))) for down, right in steps]


def _window(step: int) -> slice:
    """All rows but the first (step 1), all but the last (-1), or all (0)."""
    return slice(max(step, 0), min(step, 0) or None)

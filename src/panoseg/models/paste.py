"""Masks and maps of a network brought to the pixels of a picture, with operations of fixed shape alone.

Shape suffixes: B images, N candidates, S side of a small mask, K classes, h w pixels of a map, H W pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def paste(shape_NSS: Tensor, box_N4: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Small masks drawn into their boxes: float N x H x W, 0 outside.

    shape_NSS: float, what the mask is at S x S places spread evenly over its box. box_N4: left, top, right, bottom in pixels of
    the picture, fractions included. Values between the places are interpolated linearly, and fall to 0 within one place
    outside the box's outermost ones, as in Mask R-CNN's own inference (He et al. 2017, section 3.1). Rows and columns are
    interpolated one after the other, as products with matrices: nothing of N x H x W is made but the result.

    >>> paste(torch.ones(1, 2, 2), torch.tensor([[1.0, 0.0, 3.0, 2.0]]), (2, 4))[0, 0]
    tensor([0., 1., 1., 0.])
    """
    left_N, top_N, right_N, bottom_N = box_N4.to(shape_NSS.dtype).unbind(1)
    side = shape_NSS.shape[-1]
    rows_NHS = _interpolation(top_N, bottom_N, size_HW[0], side)
    columns_NWS = _interpolation(left_N, right_N, size_HW[1], side)
    return rows_NHS @ shape_NSS @ columns_NWS.mT


def _interpolation(start_N: Tensor, end_N: Tensor, pixels: int, places: int) -> Tensor:
    """Weight of each of the ``places`` between start and end at each pixel: N x pixels x places; an empty side has none."""
    centre_P = torch.arange(pixels, device=start_N.device, dtype=start_N.dtype) + 0.5
    length_N = (end_N - start_N).clamp(min=1e-6)
    position_NP = (centre_P - start_N[:, None]) / length_N[:, None] * places - 0.5
    place_S = torch.arange(places, device=start_N.device, dtype=start_N.dtype)
    return (1 - (position_NP[..., None] - place_S).abs()).clamp(min=0)


def spread(maps_BKhw: Tensor, reach_HW: Sequence[float], size_HW: Sequence[int]) -> Tensor:
    """Maps sampled at the pixels of a picture, linearly between their own: B x K x H x W.

    reach_HW: rows and columns of the maps that the picture covers, from the first on; the rest is padding. Where the picture
    covers all of them this is bilinear interpolation as usual.
    """
    scales = (size_HW[0] / reach_HW[0], size_HW[1] / reach_HW[1])
    return torch.ops.aten.upsample_bilinear2d(maps_BKhw, tuple(size_HW), False, *scales)


def best_class(maps_BKhw: Tensor, reach_HW: Sequence[float], size_HW: Sequence[int]) -> Tensor:
    """The class of the largest value of each pixel of a picture: int64 B x H x W; of equal ones the first.

    Arguments as in ``spread``. One class after the other, so that a large picture with many classes needs little memory.
    """
    best_BHW = spread(maps_BKhw[:, :1], reach_HW, size_HW)[:, 0]
    class_BHW = torch.zeros_like(best_BHW, dtype=torch.int16)  # which takes half the time of int64
    for number in range(1, maps_BKhw.shape[1]):
        value_BHW = spread(maps_BKhw[:, number : number + 1], reach_HW, size_HW)[:, 0]
        class_BHW = class_BHW.masked_fill(value_BHW > best_BHW, number)
        best_BHW = torch.maximum(best_BHW, value_BHW)
    return class_BHW.long()

"""Boxes of many sizes as few tensors: windows, and the resampling of shapes into them.

Boxes are sorted by their longer side into groups; a group is one tensor M x L x L whose windows
start at the boxes' first pixel. Shape suffixes: N boxes, M boxes of one group, L side of a window,
S side of a shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SIDES = (4, 8, 12, 16, 24, 32, 48, 64, 96)
# Of one group: bounds what the network of masks holds at a time, and keeps it in a CPU's cache.
_PIXELS = 2**18


def clipped_boxes(
    centre_N2: Tensor, size_N2: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """First pixels N x 2 of the whole boxes, which may be negative, and the boxes N x 4 clipped to
    the image.

    centre_N2: int64 rows and columns. size_N2: int64 heights and widths, at least 1; an odd box has
    its extra pixel behind the centre. The clipped boxes are top, left, bottom, right, the last two
    exclusive. (utae-paps @ 987874e clips both axes to the height, which is the same for its square
    images.)
    """
    start_N2 = centre_N2 - size_N2 // 2
    stop_N2 = centre_N2 + size_N2 // 2 + size_N2 % 2
    limit_2 = centre_N2.new_tensor((height, width))
    return start_N2, torch.cat([start_N2.clamp(min=0), torch.minimum(stop_N2, limit_2)], dim=1)


def group_by_side(box_N4: Tensor) -> list[tuple[Tensor, int]]:
    """Indices of the boxes and the side of their windows, a pair a group; each box is in one group,
    of bounded size.
    """
    side_N = (box_N4[:, 2:] - box_N4[:, :2]).amax(1)
    group_N = torch.bucketize(side_N, side_N.new_tensor(_SIDES))
    order_N = group_N.argsort(stable=True)
    # The only values that leave the device: how many boxes each group has, and the longest side.
    *counts, longest = torch.cat(
        [group_N.bincount(minlength=len(_SIDES) + 1), side_N.amax(0, keepdim=True)]
    ).tolist()
    sides = (*_SIDES, longest)
    return [
        (candidate_M, side)
        for of_side_N, side in zip(order_N.split(counts), sides, strict=True)
        for candidate_M in of_side_N.split(max(1, _PIXELS // side**2))
        if len(candidate_M)
    ]


def inside_windows(box_M4: Tensor, side: int) -> Tensor:
    """Bool M x L x L: pixels of the window that belong to the box."""
    extent_M2 = box_M4[:, 2:] - box_M4[:, :2]
    inside_M2L = torch.arange(side, device=box_M4.device) < extent_M2[..., None]
    return inside_M2L[:, 0, :, None] & inside_M2L[:, 1, None, :]


def window_index(image_M: Tensor, corner_M2: Tensor, side: int, height: int, width: int) -> Tensor:
    """Where the pixels of the windows lie in flattened B x H x W images, or the nearest ones
    inside: int64 M x L x L.
    """
    along_L = torch.arange(side, device=corner_M2.device)
    row_ML = (corner_M2[:, :1] + along_L).clamp(max=height - 1)
    column_ML = (corner_M2[:, 1:] + along_L).clamp(max=width - 1)
    return ((image_M[:, None] * height + row_ML) * width)[:, :, None] + column_ML[:, None, :]


def resample(shape_MSS: Tensor, offset_M2: Tensor, size_M2: Tensor, side: int) -> Tensor:
    """Shapes stretched over their boxes, bilinear between the middles of cells: float32 M x L x L.

    offset_M2: pixels of the box that lie before the window. size_M2: height and width of the box.
    Two matrix products with the interpolation's weights, equal to
    ``torch.nn.functional.interpolate(align_corners=False)`` of each shape followed by a crop.
    """
    cells = shape_MSS.shape[-1]
    pixel_M2L = offset_M2[..., None] + torch.arange(side, device=shape_MSS.device)
    position_M2L = (pixel_M2L + 0.5) * (cells / size_M2[..., None]) - 0.5
    distance_M2LS = position_M2L.clamp(0, cells - 1)[..., None] - torch.arange(
        cells, device=shape_MSS.device
    )
    weight_M2LS = (1 - distance_M2LS.abs()).clamp(min=0)
    return weight_M2LS[:, 0] @ shape_MSS @ weight_M2LS[:, 1].transpose(1, 2)

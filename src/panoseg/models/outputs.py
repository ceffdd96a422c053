"""What networks output, and how masks and maps are brought to the pixels of an image.

For photographs, with operations of fixed shape alone; for PaPs, with windows of one side for many
boxes. Shape suffixes: B images, G heads, T dates, N candidates, M candidates of one group of
windows, L side of a window, S side of a small mask, K classes, h w pixels of a map, H W pixels of
the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def paste(shape_NSS: Tensor, box_N4: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Draw small masks into their boxes.

    Values between the places are interpolated linearly, and fall to 0 within one place outside the
    box's outermost ones, as in Mask R-CNN's own inference (He et al. 2017, section 3.1). Rows and
    columns are interpolated one after the other, as products with matrices: nothing of N x H x W is
    made but the result.

    Args:
        shape_NSS: float, the mask's values at S x S places spread evenly over its box.
        box_N4: Left, top, right, bottom in pixels of the image, fractions included.
        size_HW: Height and width of the image, in pixels.

    Returns:
        float N x H x W, 0 outside the boxes.

    >>> paste(torch.ones(1, 2, 2), torch.tensor([[1.0, 0.0, 3.0, 2.0]]), (2, 4))[0, 0]
    tensor([0., 1., 1., 0.])
    """
    left_N, top_N, right_N, bottom_N = box_N4.to(shape_NSS.dtype).unbind(1)
    side = shape_NSS.shape[-1]
    rows_NHS = _interpolation(top_N, bottom_N, size_HW[0], side)
    columns_NWS = _interpolation(left_N, right_N, size_HW[1], side)
    return rows_NHS @ shape_NSS @ columns_NWS.mT


def _interpolation(start_N: Tensor, end_N: Tensor, pixels: int, places: int) -> Tensor:
    """Return the weight of each of the places between start and end at each pixel.

    Returns:
        N x pixels x places; an empty side has no weight.
    """
    centre_P = torch.arange(pixels, device=start_N.device, dtype=start_N.dtype) + 0.5
    length_N = (end_N - start_N).clamp(min=1e-6)
    position_NP = (centre_P - start_N[:, None]) / length_N[:, None] * places - 0.5
    place_S = torch.arange(places, device=start_N.device, dtype=start_N.dtype)
    return (1 - (position_NP[..., None] - place_S).abs()).clamp(min=0)


def spread(maps_BKhw: Tensor, reach_HW: Sequence[float], size_HW: Sequence[int]) -> Tensor:
    """Sample maps at the pixels of an image, linearly between their own: B x K x H x W.

    Where the image covers all of the maps this is bilinear interpolation as usual.

    Args:
        maps_BKhw: float, any range.
        reach_HW: Rows and columns of the maps that the image covers, from the first on; the rest is
            padding.
        size_HW: Height and width of the image, in pixels.
    """
    scales = (size_HW[0] / reach_HW[0], size_HW[1] / reach_HW[1])
    resized_BKHW: Tensor = torch.ops.aten.upsample_bilinear2d(
        maps_BKhw, tuple(size_HW), False, *scales
    )
    return resized_BKHW


def best_class(maps_BKhw: Tensor, reach_HW: Sequence[float], size_HW: Sequence[int]) -> Tensor:
    """Return the class of the largest value of each pixel: int64 B x H x W.

    Of equal ones the first. Arguments as in ``spread``. One class after the other, so that a large
    image with many classes needs little memory.
    """
    best_BHW = spread(maps_BKhw[:, :1], reach_HW, size_HW)[:, 0]
    class_BHW = torch.zeros_like(best_BHW, dtype=torch.int16)  # which takes half the time of int64
    for number in range(1, maps_BKhw.shape[1]):
        value_BHW = spread(maps_BKhw[:, number : number + 1], reach_HW, size_HW)[:, 0]
        class_BHW = class_BHW.masked_fill(value_BHW > best_BHW, number)
        best_BHW = torch.maximum(best_BHW, value_BHW)
    return class_BHW.long()


@dataclass(frozen=True)
class FeatureMaps:
    """What a backbone gives to a head."""

    pyramid: tuple[Tensor, ...]
    """Maps B x C_i x H_i x W_i, float32 (half under mixed precision), coarsest first, each twice
    the size of the one before; the last has the images' size.
    """
    attention_GBTHW: Tensor | None = None
    """Weights of the dates, summing to 1 over valid dates, at the size where the backbone finds
    them: the coarsest, in TimeUNet the images'; None where it has no attention.
    """


@dataclass(frozen=True)
class SemanticOutput:
    """Class scores of each pixel."""

    logits_BKHW: Tensor
    """float32, any range."""
    attention_GBTHW: Tensor | None = None
    """As in ``FeatureMaps``."""
    boundary_B2HW: Tensor | None = None
    """float32 scores of "inside" and "on the boundary of a class", where the network has a head for
    it.
    """


@dataclass(frozen=True)
class MaskWindows:
    """Masks of the candidates whose boxes fit into a window of L x L pixels.

    With windows of one size, many boxes are one tensor.
    """

    candidate_M: Tensor
    """int64, which of the N candidates."""
    corner_M2: Tensor
    """int64, row and column of the window's first pixel in its image; the window may reach beyond
    the image's last row or column.
    """
    probability_MLL: Tensor
    """float32, 0..1, 0 outside the box."""
    inside_MLL: Tensor
    """bool, pixels of the box, clipped to the image."""


@dataclass(frozen=True)
class Candidates:
    """The candidates for parcels that PaPs finds."""

    centre_N3: Tensor
    """int64, image, row and column of each centre; ascending."""
    confidence_N: Tensor
    """float32, 0..1, the heat at the centre."""
    class_scores_NK: Tensor
    """float32, logits."""
    size_N2: Tensor
    """float32, height and width in pixels, above 0."""
    box_N4: Tensor
    """int64, top, left, bottom, right in pixels, the last two exclusive, clipped to the image."""
    masks: tuple[MaskWindows, ...]
    """The masks; each candidate is in exactly one group."""


@dataclass(frozen=True)
class PapsOutput:
    """The output of PaPs for a batch."""

    heatmap_BHW: Tensor
    """float32, 0..1, how likely a pixel is the centre of a parcel."""
    saliency_BHW: Tensor | None = None
    """float32, logits, how likely a pixel lies inside a parcel; None where only the heat map was
    asked for.
    """
    candidates: Candidates | None = None
    """The candidates; None where only the heat map was asked for."""
    pixel_scores_BKHW: Tensor | None = None
    """float32, class scores of each pixel by the backbone's own semantic head, where they were
    asked for.
    """


@dataclass(frozen=True)
class PhotographLabels:
    """The labels of one photograph from which a network learns.

    Numbers are labels of ``panoseg.models.photograph_network``.
    """

    semantic_HW: Tensor | None
    """int64, label of each pixel, 255 where it is not trained; None for a network of things alone.
    """
    mask_NHW: Tensor
    """bool, the pixels of each object."""
    box_N4: Tensor
    """float32, left, top, right, bottom in pixels, the last two exclusive and larger than the
    first.
    """
    label_N: Tensor
    """int64, 1 to the number of things."""


@dataclass(frozen=True)
class DetectedObjects:
    """Candidates of a fixed number an image, the best first.

    They are padded with candidates of score 0 and an empty box.
    """

    shape_BNSS: Tensor
    """float32, probabilities 0..1 at S x S places of the box."""
    box_BN4: Tensor
    """float32, left, top, right, bottom in pixels of the image."""
    score_BN: Tensor
    """float32, 0..1."""
    label_BN: Tensor
    """int64, 1 to the number of things."""
    size_HW: tuple[int, int]
    """Height and width of the image, in pixels."""
    threshold: float
    """The probability, 0..1, from which a pixel belongs to a mask."""

    @property
    def mask_BNHW(self) -> Tensor:
        """All masks, bool; takes N bytes a pixel of the picture."""
        shape, box = self.shape_BNSS.flatten(0, 1), self.box_BN4.flatten(0, 1)
        mask_BNHW: Tensor = self._mask(shape, box).unflatten(0, self.score_BN.shape)
        return mask_BNHW

    def mask_BHW(self, candidate_B: Tensor) -> Tensor:
        """Return the mask of candidate ``candidate_B`` (int64) of each image, bool."""
        image_B = torch.arange(len(candidate_B), device=candidate_B.device)
        return self._mask(self.shape_BNSS[image_B, candidate_B], self.box_BN4[image_B, candidate_B])

    def _mask(self, shape_NSS: Tensor, box_N4: Tensor) -> Tensor:
        probability_NHW = paste(shape_NSS, box_N4, self.size_HW)
        return (probability_NHW >= self.threshold) & (
            probability_NHW > 0
        )  # a threshold of 0 does not leave the box


@dataclass(frozen=True)
class PhotographOutput:
    """The output of a network for photographs of one size; parts that it does not have are None."""

    size_HW: tuple[int, int]
    """Height and width of the image, in pixels."""
    objects: DetectedObjects | None = None
    """The objects that were found."""
    maps_BKhw: Tensor | None = None
    """float32, class scores of the pixels at the size at which the network made them."""
    reach_HW: tuple[float, float] = (0.0, 0.0)
    """Rows and columns of ``maps_BKhw`` that the image covers; the rest is padding."""

    @property
    def semantic_BKHW(self) -> Tensor | None:
        """Class scores of the picture's pixels, float32 logits; takes 4 K bytes a pixel."""
        return (
            None if self.maps_BKhw is None else spread(self.maps_BKhw, self.reach_HW, self.size_HW)
        )

    @property
    def label_BHW(self) -> Tensor | None:
        """Label of the best score of the picture's pixels, int64; needs little memory beside."""
        return (
            None
            if self.maps_BKhw is None
            else best_class(self.maps_BKhw, self.reach_HW, self.size_HW)
        )


_SIDES = (4, 8, 12, 16, 24, 32, 48, 64, 96)
# Of one group: bounds what the network of masks holds at a time, and keeps it in a CPU's cache.
_PIXELS = 2**18


def clipped_boxes(
    centre_N2: Tensor, size_N2: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Return the first pixels of the whole boxes, and the boxes clipped to the image.

    utae-paps @ 987874e clips both axes to the height, which is the same for its square images.

    Args:
        centre_N2: int64, rows and columns.
        size_N2: int64, heights and widths in pixels, at least 1; an odd box has its extra pixel
            behind the centre.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        First rows and columns N x 2, which may be negative, and the clipped boxes N x 4: top, left,
        bottom, right, the last two exclusive.
    """
    start_N2 = centre_N2 - size_N2 // 2
    stop_N2 = centre_N2 + size_N2 // 2 + size_N2 % 2
    limit_2 = centre_N2.new_tensor((height, width))
    return start_N2, torch.cat([start_N2.clamp(min=0), torch.minimum(stop_N2, limit_2)], dim=1)


def group_by_side(box_N4: Tensor) -> list[tuple[Tensor, int]]:
    """Return groups of boxes: their indices and the side of their windows in pixels.

    Each box is in one group, and groups are of bounded size.
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
    """Return where the pixels of the windows lie in flattened B x H x W images.

    Returns:
        int64, M x L x L; pixels beyond the image have the nearest one inside.
    """
    along_L = torch.arange(side, device=corner_M2.device)
    row_ML = (corner_M2[:, :1] + along_L).clamp(max=height - 1)
    column_ML = (corner_M2[:, 1:] + along_L).clamp(max=width - 1)
    return ((image_M[:, None] * height + row_ML) * width)[:, :, None] + column_ML[:, None, :]


def resample(shape_MSS: Tensor, offset_M2: Tensor, size_M2: Tensor, side: int) -> Tensor:
    """Stretch shapes over their boxes, bilinear between the middles of cells: float32 M x L x L.

    Two matrix products with the interpolation's weights, equal to
    ``torch.nn.functional.interpolate(align_corners=False)`` of each shape followed by a crop.

    Args:
        shape_MSS: float32, the shapes.
        offset_M2: Pixels of the box that lie before the window.
        size_M2: Height and width of the box, in pixels.
        side: Side of the window, in pixels.
    """
    cells = shape_MSS.shape[-1]
    pixel_M2L = offset_M2[..., None] + torch.arange(side, device=shape_MSS.device)
    position_M2L = (pixel_M2L + 0.5) * (cells / size_M2[..., None]) - 0.5
    distance_M2LS = position_M2L.clamp(0, cells - 1)[..., None] - torch.arange(
        cells, device=shape_MSS.device
    )
    weight_M2LS = (1 - distance_M2LS.abs()).clamp(min=0)
    return weight_M2LS[:, 0] @ shape_MSS @ weight_M2LS[:, 1].transpose(1, 2)


def paste_windows(
    found: Candidates, size: torch.Size, values: Callable[[MaskWindows], Tensor]
) -> Tensor:
    """Return the candidates' values N x H x W in their whole images, zero outside the boxes."""
    height, width = size
    canvas_NHW = None
    for group in found.masks:
        values_MLL = values(group)
        if canvas_NHW is None:
            # One row and column more than the image, where windows that reach beyond it may write.
            canvas_NHW = values_MLL.new_zeros((len(found.centre_N3), height + 1, width + 1))
        index_MLL = window_index(
            group.candidate_M, group.corner_M2, group.inside_MLL.shape[-1], height + 1, width + 1
        )
        canvas_NHW.view(-1)[index_MLL[group.inside_MLL]] = values_MLL[group.inside_MLL]
    if canvas_NHW is None:
        canvas_NHW = found.confidence_N.new_zeros((0, height + 1, width + 1))
    return canvas_NHW[:, :height, :width]

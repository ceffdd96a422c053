"""What models say: one frozen dataclass a head.

Shape suffixes: B batch, T dates, C channels, H W pixels, K classes, N parcels (all candidates of the batch), M those of one
group of windows, L side of a window, G heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FeatureMaps:
    """What a backbone gives to a head.

    pyramid: feature maps B x C_i x H_i x W_i, float32 (half under mixed precision), coarsest first, each twice the size of the
    one before; the last has the images' size. attention_GBTHW: weights of the dates, summing to 1 over valid dates, at the
    size where the backbone finds them: the coarsest, in TimeUNet the images'; None where it has no attention.
    """

    pyramid: tuple[Tensor, ...]
    attention_GBTHW: Tensor | None = None


@dataclass(frozen=True)
class SemanticOutput:
    """Class scores of each pixel: logits_BKHW float32, any range. attention_GBTHW as in ``FeatureMaps``.

    boundary_B2HW: float32 scores of "inside" and "on the boundary of a class", where the network has a head for it.
    """

    logits_BKHW: Tensor
    attention_GBTHW: Tensor | None = None
    boundary_B2HW: Tensor | None = None


@dataclass(frozen=True)
class MaskWindows:
    """Masks of the candidates whose boxes fit into a window of L x L pixels; made so that many boxes are one tensor.

    candidate_M: int64, which of the N candidates. corner_M2: int64, row and column of the window's first pixel in its image;
    the window may reach beyond the image's last row or column. probability_MLL: float32, 0..1, 0 outside the box.
    inside_MLL: bool, pixels of the box, clipped to the image.
    """

    candidate_M: Tensor
    corner_M2: Tensor
    probability_MLL: Tensor
    inside_MLL: Tensor


@dataclass(frozen=True)
class Candidates:
    """What PaPs says of each centre.

    centre_N3: int64, image, row, column; ascending. confidence_N: float32 0..1, the heat at the centre. class_scores_NK:
    float32 logits. size_N2: float32 height and width in pixels, above 0. box_N4: int64 top, left, bottom, right, the last two
    exclusive, clipped to the image. masks: each candidate in exactly one group.
    """

    centre_N3: Tensor
    confidence_N: Tensor
    class_scores_NK: Tensor
    size_N2: Tensor
    box_N4: Tensor
    masks: tuple[MaskWindows, ...]


@dataclass(frozen=True)
class PapsOutput:
    """What PaPs says.

    heatmap_BHW: float32 0..1, how likely a pixel is the centre of a parcel. saliency_BHW: float32 logits, how likely a pixel
    lies inside a parcel. Saliency and candidates are None where only the heat map was asked for. pixel_scores_BKHW: float32
    class scores of each pixel by the backbone's own semantic head, where they were asked for.
    """

    heatmap_BHW: Tensor
    saliency_BHW: Tensor | None = None
    candidates: Candidates | None = None
    pixel_scores_BKHW: Tensor | None = None

"""What models say: one frozen dataclass a head.

Shape suffixes: B batch, T dates, C channels, H W pixels, K classes, N parcels (all candidates of the batch), G heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FeatureMaps:
    """What a backbone gives to a head.

    pyramid: feature maps B x C_i x H_i x W_i float32, coarsest first, each twice the size of the one before; the last has the
    images' size. attention_GBTHW: weights of the dates at the coarsest size, summing to 1 over valid dates; None where the
    backbone has no attention.
    """

    pyramid: tuple[Tensor, ...]
    attention_GBTHW: Tensor | None = None


@dataclass(frozen=True)
class SemanticOutput:
    """Class scores of each pixel: logits_BKHW float32, any range. attention_GBTHW as in ``FeatureMaps``."""

    logits_BKHW: Tensor
    attention_GBTHW: Tensor | None = None


@dataclass(frozen=True)
class ScoredMasks:
    """Candidate instances of a batch, before they are merged into one picture; any instance head makes them.

    mask_NHW: bool, each in its whole image. score_N: float32 0..1. class_scores_NK: float32 logits.
    image_N: int64, which image of the batch a candidate belongs to, ascending.
    """

    mask_NHW: Tensor
    score_N: Tensor
    class_scores_NK: Tensor
    image_N: Tensor

"""How the maps of a season's dates become one map: by attention over time, or as their mean.

Garnot & Landrieu 2021, section 3.1, "Temporal aggregation"; utae-paps @ 987874e, src/backbones/utae.py (Temporal_Aggregator).
Shape suffixes: B batch, T dates, C channels, H W pixels, F frames of one sample, G heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from panoseg.models.configs.attention_unet import Aggregation
from panoseg.models.frames import sum_by_sample, sum_of_frames


def attention_of_frames(attention_GBTHW: Tensor, valid_BT: Tensor, cuts: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
    """The attention of each piece of frames, F x G x H x W; cuts: as ``cut_frames`` gives them."""
    return attention_GBTHW.permute(1, 2, 0, 3, 4)[valid_BT].split([size for _, size in cuts])


def aggregate(
    pieces: Sequence[Tensor],
    attention: Sequence[Tensor],
    cuts: Sequence[tuple[int, int]],
    valid_BT: Tensor,
    mode: Aggregation,
) -> Tensor:
    """One map a sample, B x C x H x W, of the maps of its frames.

    pieces: maps F x C x H x W of each piece of frames, and attention: their attention, F x G x H x W at any size. cuts: as
    ``cut_frames`` gives them. mode: as in ``weighted_sum``; "mean" divides by the number of dates.
    """
    sums_BCHW = sum_by_sample(map(weighted_sum, pieces, attention, repeat(mode)), [sample for sample, _ in cuts])
    return sums_BCHW / valid_BT.sum(1).view(-1, 1, 1, 1) if mode == "mean" else sums_BCHW


def weighted_sum(level_FCHW: Tensor, attention_FGHW: Tensor, mode: Aggregation) -> Tensor:
    """One map C x H x W: the sum over frames of one sample, weighted by attention (mode "mean": not weighted).

    attention_FGHW: at the size where it was found. mode "att_group": each head weighs its group of channels; "att_mean": the
    mean of the heads weighs all of them.
    """
    channels, height, width = level_FCHW.shape[1:]
    if mode != "mean":
        if mode == "att_mean":
            attention_FGHW = attention_FGHW.mean(1, keepdim=True)
        # A weight for each channel before resampling: products of equal shapes are several times faster than broadcast ones.
        weight_FCHW = attention_FGHW.repeat_interleave(channels // attention_FGHW.shape[1], dim=1)
        weight_FCHW = weight_FCHW.contiguous(memory_format=torch.channels_last)
        weight_FCHW = F.interpolate(weight_FCHW, size=(height, width), mode="bilinear", align_corners=False)
        level_FCHW = level_FCHW * weight_FCHW.to(level_FCHW.dtype)
    return sum_of_frames(level_FCHW)

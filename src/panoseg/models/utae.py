"""U-TAE: a U-Net over the dates of a season, whose skip connections are averaged over time by attention.

Garnot & Landrieu 2021, "Panoptic segmentation of satellite image time series with convolutional temporal attention networks",
section 3.1; utae-paps @ 987874e, src/backbones/utae.py. Shape suffixes: B batch, T dates, C channels or bands, H W pixels,
F frames: the valid dates of all samples one after the other, G heads.
"""

from __future__ import annotations

from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoseg.models.configs.attention_unet import Aggregation
from panoseg.models.configs.utae import UtaeConfig
from panoseg.models.frames import check_sides, cut_frames, encode_frames, sum_by_sample, sum_of_frames
from panoseg.models.layers import ConvBlock, DownBlock, UpBlock
from panoseg.models.ltae import Ltae
from panoseg.models.outputs import FeatureMaps, SemanticOutput


class UTAE(nn.Module):
    """U-TAE: scores of the classes for each pixel of a season."""

    def __init__(self, config: UtaeConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = config.encoder_widths, config.decoder_widths
        levels = range(len(encoder) - 1)
        self.in_conv = ConvBlock((config.bands, encoder[0], encoder[0]), config.encoder_norm)
        self.down_blocks = nn.ModuleList(DownBlock(encoder[i], encoder[i + 1], config.encoder_norm) for i in levels)
        self.up_blocks = nn.ModuleList(UpBlock(decoder[i + 1], decoder[i], encoder[i]) for i in reversed(levels))
        self.temporal_encoder = Ltae(encoder[-1], config.heads, config.key_width, config.d_model, config.padding_invariant)
        self.out_conv = ConvBlock((decoder[0], *config.head_widths, config.classes))

    def forward(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> SemanticOutput:
        """Scores of each pixel, after normalisation and ReLU as published.

        images_BTCHW: float32, standardised per band; dates that are not valid are never looked at. days_BT: int64 days since
        the reference date. valid_BT: bool, at least one date a sample.
        """
        maps = self.features(images_BTCHW, days_BT, valid_BT)
        return SemanticOutput(self.scores(maps), maps.attention_GBTHW)

    def scores(self, maps: FeatureMaps) -> Tensor:
        """Class scores B x K x H x W, float32, of what ``features`` gave."""
        return self.out_conv(maps.pyramid[-1]).float()

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The decoder's maps, coarsest first, and the attention; arguments as in ``forward``."""
        check_sides(images_BTCHW, self.config.stride, 2 * self.config.stride)
        pieces = cut_frames(images_BTCHW, valid_BT, self.config.encoder_widths[0])
        sizes = [size for _, size in pieces]
        # Batch norm in training looks at all frames at once.
        together = self.training and self.config.encoder_norm == "batch"
        *levels, coarsest = encode_frames(self._levels, images_BTCHW[valid_BT], sizes, together)
        maps_BTCHW = images_BTCHW.new_zeros((*valid_BT.shape, *coarsest[0].shape[1:]), dtype=coarsest[0].dtype)
        maps_BTCHW[valid_BT] = torch.cat(coarsest)
        out_BCHW, attention_GBTHW = self.temporal_encoder(maps_BTCHW, days_BT, valid_BT)
        attention = attention_GBTHW.permute(1, 2, 0, 3, 4)[valid_BT].split(sizes)
        pyramid = [out_BCHW]
        for block, level in zip(self.up_blocks, reversed(levels), strict=True):
            sums = map(weighted_sum, level, attention, repeat(self.config.aggregation))
            skip_BCHW = sum_by_sample(sums, [sample for sample, _ in pieces])
            if self.config.aggregation == "mean":
                skip_BCHW = skip_BCHW / valid_BT.sum(1).view(-1, 1, 1, 1)
            pyramid.append(block(pyramid[-1], skip_BCHW))
        return FeatureMaps(tuple(pyramid), attention_GBTHW)

    def _levels(self, frames_FCHW: Tensor) -> list[Tensor]:
        """Maps of all levels, finest first."""
        levels = [self.in_conv(frames_FCHW)]
        for block in self.down_blocks:
            levels.append(block(levels[-1]))
        return levels


def weighted_sum(level_FCHW: Tensor, attention_FGHW: Tensor, mode: Aggregation) -> Tensor:
    """One map C x H x W: the sum over frames of one sample, weighted by attention (mode "mean": not weighted).

    attention_FGHW: at the coarsest size. mode "att_group": each head weighs its group of channels; "att_mean": the mean of the
    heads weighs all of them.
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

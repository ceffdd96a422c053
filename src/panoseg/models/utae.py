"""U-TAE: a U-Net over the dates of a season, whose skip connections are averaged over time by attention.

Garnot & Landrieu 2021, "Panoptic segmentation of satellite image time series with convolutional temporal attention networks",
section 3.1; utae-paps @ 987874e, src/backbones/utae.py. Shape suffixes: B batch, T dates, C channels or bands, H W pixels,
F frames: the valid dates of all samples one after the other, G heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoseg.errors import ConfigError
from panoseg.models.config import Aggregation, UtaeConfig
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
        return SemanticOutput(self.out_conv(maps.pyramid[-1]).float(), maps.attention_GBTHW)

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The decoder's maps, coarsest first, and the attention; arguments as in ``forward``."""
        _check_size(images_BTCHW, self.config.stride)
        dates = valid_BT.sum(1).tolist()
        levels = self._encode(images_BTCHW[valid_BT])
        coarsest = levels.pop()
        maps_BTCHW = coarsest.new_zeros((*valid_BT.shape, *coarsest.shape[1:]))
        maps_BTCHW[valid_BT] = coarsest
        out_BCHW, attention_GBTHW = self.temporal_encoder(maps_BTCHW, days_BT, valid_BT)
        attention_FGHW = attention_GBTHW.permute(1, 2, 0, 3, 4)[valid_BT]
        pyramid = [out_BCHW]
        for block, level_FCHW in zip(self.up_blocks, reversed(levels), strict=True):
            skip_BCHW = aggregate(level_FCHW, attention_FGHW, dates, self.config.aggregation)
            pyramid.append(block(pyramid[-1], skip_BCHW))
        return FeatureMaps(tuple(pyramid), attention_GBTHW)

    def _encode(self, frames_FCHW: Tensor) -> list[Tensor]:
        """Maps of all levels, finest first."""
        # Channels last: convolutions on CPUs and with tensor cores are several times faster in this layout.
        levels = [self.in_conv(frames_FCHW.contiguous(memory_format=torch.channels_last))]
        for block in self.down_blocks:
            levels.append(block(levels[-1]))
        return levels


def aggregate(level_FCHW: Tensor, attention_FGHW: Tensor, dates: list[int], mode: Aggregation) -> Tensor:
    """One map a sample, B x C x H x W: the average of its dates.

    level_FCHW: frames of all samples. attention_FGHW: at the coarsest size. dates: number of frames of each sample.
    mode: "att_group": each head averages its group of channels; "att_mean": all channels by the mean of the heads; "mean".
    """
    if mode == "mean":
        return torch.stack([frames.mean(0) for frames in level_FCHW.split(dates)])
    if mode == "att_mean":
        attention_FGHW = attention_FGHW.mean(1, keepdim=True)
    size = level_FCHW.shape[-2:]
    attention_FGHW = attention_FGHW.contiguous(memory_format=torch.channels_last)
    fine_FGHW = F.interpolate(attention_FGHW, size=size, mode="bilinear", align_corners=False)
    groups_FGcHW = level_FCHW.unflatten(1, (fine_FGHW.shape[1], -1))
    weighted = (groups_FGcHW * fine_FGHW[:, :, None].to(level_FCHW.dtype)).flatten(1, 2)
    return torch.stack([frames.sum(0) for frames in weighted.split(dates)])


def _check_size(images_BTCHW: Tensor, stride: int) -> None:
    height, width = images_BTCHW.shape[-2:]
    if height % stride or width % stride or min(height, width) < 2 * stride:
        raise ConfigError(
            f"images of {height} x {width} pixels",
            f"sides that are multiples of {stride}, at least {2 * stride}",
            "crop or pad the images",
        )

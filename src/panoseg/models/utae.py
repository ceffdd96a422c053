"""U-TAE and the networks that share its U-Net: W-TAE, TimeUNet and the naive U-Net.

U-TAE: Garnot and Landrieu 2021, "Panoptic segmentation of satellite image time series with
convolutional temporal attention networks" (2107.07933). W-TAE and TimeUNet: Many98/Crop2Seg @
aee7827.

Shape suffixes: B batch, T dates, C bands or channels, H W pixels, K classes, G heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from panoseg.errors import ConfigError
from panoseg.models.configs.season import (
    Aggregation,
    NaiveUnetConfig,
    TimeUnetConfig,
    UtaeConfig,
    WtaeConfig,
)
from panoseg.models.frames import (
    check_sides,
    cut_frames,
    encode_frames,
    season_of_frames,
    split_frames,
    sum_by_sample,
    sum_of_frames,
)
from panoseg.models.layers import BlockConfig, ConvBlock, DownPath, UpPath
from panoseg.models.ltae import temporal_encoder
from panoseg.models.network import Backbone
from panoseg.models.outputs import FeatureMaps


def attention_of_frames(
    attention_GBTHW: Tensor, valid_BT: Tensor, cuts: Sequence[tuple[int, int]]
) -> tuple[Tensor, ...]:
    """The attention of each piece of frames, F x G x H x W; cuts: as ``cut_frames`` gives them."""
    attention_FGHW = attention_GBTHW.permute(1, 2, 0, 3, 4)[valid_BT]
    pieces: tuple[Tensor, ...] = attention_FGHW.split([size for _, size in cuts])
    return pieces


def aggregate(
    pieces: Sequence[Tensor],
    attention: Sequence[Tensor],
    cuts: Sequence[tuple[int, int]],
    valid_BT: Tensor,
    mode: Aggregation,
) -> Tensor:
    """Return one map a sample, B x C x H x W, of the maps of its frames.

    Args:
        pieces: Maps F x C x H x W of each piece of frames.
        attention: Their attention, F x G x H x W at any size.
        cuts: The pieces, as ``cut_frames`` gives them.
        valid_BT: bool.
        mode: As in ``weighted_sum``; "mean" divides by the number of dates.
    """
    sums_BCHW = sum_by_sample(
        map(weighted_sum, pieces, attention, repeat(mode)), [sample for sample, _ in cuts]
    )
    return sums_BCHW / valid_BT.sum(1).view(-1, 1, 1, 1) if mode == "mean" else sums_BCHW


def weighted_sum(level_FCHW: Tensor, attention_FGHW: Tensor, mode: Aggregation) -> Tensor:
    """Return the sum over the frames of one sample, weighted by attention: C x H x W.

    Args:
        level_FCHW: Maps of the frames.
        attention_FGHW: Attention of each head, at the size where it was found.
        mode: "att_group": each head weighs its group of channels; "att_mean": the mean of the heads
            weighs all of them; "mean": not weighted.
    """
    channels, height, width = level_FCHW.shape[1:]
    if mode != "mean":
        if mode == "att_mean":
            attention_FGHW = attention_FGHW.mean(1, keepdim=True)
        # A weight for each channel before resampling: products of equal shapes are several times
        # faster than broadcast ones.
        weight_FCHW = attention_FGHW.repeat_interleave(channels // attention_FGHW.shape[1], dim=1)
        weight_FCHW = weight_FCHW.contiguous(memory_format=torch.channels_last)
        weight_FCHW = F.interpolate(
            weight_FCHW, size=(height, width), mode="bilinear", align_corners=False
        )
        level_FCHW = level_FCHW * weight_FCHW.to(level_FCHW.dtype)
    return sum_of_frames(level_FCHW)


_BOUNDARY_HIDDEN = 32


def score_head(widths: Sequence[int], mbconv: bool = False) -> ConvBlock:
    """Convolutions that score pixels; widths: channels of the map, hidden ones, scores."""
    return ConvBlock(widths, "group" if mbconv else "batch", style=BlockConfig(mbconv=mbconv))


def boundary_head(channels: int, mbconv: bool = False) -> ConvBlock:
    """Convolutions that score whether a pixel lies inside a class or on its boundary."""
    return score_head((channels, _BOUNDARY_HIDDEN, 2), mbconv)


def unet(finest_BCHW: Tensor, down: DownPath, up: UpPath) -> tuple[Tensor, ...]:
    """The decoder's maps, coarsest first, of a U-Net on one map a sample."""
    *levels, coarsest_BCHW = down(finest_BCHW)
    pyramid: tuple[Tensor, ...] = up(coarsest_BCHW, reversed(levels))
    return pyramid


class NaiveUnet(Backbone):
    """The naive U-Net: class scores of each pixel of a season, whose dates count as bands.

    The place of a date in the season is what counts, not its day.
    """

    def __init__(self, config: NaiveUnetConfig) -> None:
        super().__init__(config)
        encoder, decoder = config.season_widths(config.encoder_widths), config.map_widths
        style = BlockConfig(config.convolution, config.mbconv, config.squeeze)
        self.in_conv = ConvBlock(
            (config.length * config.bands, encoder[0], encoder[0]), "batch", style=style
        )
        self.down_blocks = DownPath(encoder, "batch", style)
        self.up_blocks = UpPath(encoder, decoder, config.mbconv)
        hidden = (config.length * width for width in config.head_widths)
        self.out_conv = score_head((decoder[0], *hidden, config.classes), config.mbconv)

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """Return the decoder's maps, coarsest first.

        Raises:
            ConfigError: There are more dates than the network has places.
        """
        check_sides(images_BTCHW, self.config.stride, 2 * self.config.stride)
        dates, places = images_BTCHW.shape[1], self.config.length
        if dates > places:
            raise ConfigError(
                f"The season has {dates} dates, but this naive U-Net takes at most {places}: train"
                " a longer one, or leave dates out."
            )
        images_BTCHW = images_BTCHW.masked_fill(~valid_BT[:, :, None, None, None], 0)
        images_BCHW = F.pad(
            images_BTCHW.flatten(1, 2), (0, 0, 0, 0, 0, (places - dates) * images_BTCHW.shape[2])
        )
        return FeatureMaps(unet(self.in_conv(images_BCHW), self.down_blocks, self.up_blocks))


class UTAE(Backbone):
    """U-TAE: scores of the classes for each pixel of a season."""

    def __init__(self, config: UtaeConfig) -> None:
        super().__init__(config)
        encoder, decoder = config.encoder_widths, config.decoder_widths
        style = BlockConfig(config.convolution, config.mbconv, config.squeeze)
        self.in_conv = ConvBlock(
            (config.bands, encoder[0], encoder[0]), config.encoder_norm, style=style
        )
        self.down_blocks = DownPath(encoder, config.encoder_norm, style)
        self.up_blocks = UpPath(encoder, decoder, config.mbconv)
        self.temporal_encoder = temporal_encoder(
            config, encoder[-1], relative_as_day_of_year=config.relative_as_day_of_year
        )
        self.out_conv = score_head((decoder[0], *config.head_widths, config.classes), config.mbconv)
        self.boundary_conv = boundary_head(decoder[0], config.mbconv) if config.boundary else None

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The decoder's maps, coarsest first, and the attention; arguments as in ``forward``."""
        check_sides(images_BTCHW, self.config.stride, 2 * self.config.stride)
        cuts = cut_frames(images_BTCHW, valid_BT, self.config.encoder_widths[0])
        # Batch norm in training needs all frames at once.
        together = self.training and self.config.encoder_norm == "batch"
        *levels, coarsest = encode_frames(
            self._levels, images_BTCHW[valid_BT], [size for _, size in cuts], together
        )
        out_BCHW, attention_GBTHW = self.temporal_encoder(
            season_of_frames(coarsest, valid_BT), days_BT, valid_BT
        )
        attention = attention_of_frames(attention_GBTHW, valid_BT, cuts)
        skips = (
            aggregate(level, attention, cuts, valid_BT, self.config.aggregation)
            for level in reversed(levels)
        )
        return FeatureMaps(self.up_blocks(out_BCHW, skips), attention_GBTHW)

    def _levels(self, frames_FCHW: Tensor) -> list[Tensor]:
        """Maps of all levels, finest first."""
        levels: list[Tensor] = self.down_blocks(self.in_conv(frames_FCHW))
        return levels


class WTAE(Backbone):
    """W-TAE: scores of the classes for each pixel of a season."""

    def __init__(self, config: WtaeConfig) -> None:
        super().__init__(config)
        encoder, decoder = config.encoder_widths, config.decoder_widths
        style = BlockConfig(config.convolution, config.mbconv, config.squeeze)
        self.in_conv = ConvBlock(
            (config.bands, encoder[0], encoder[0]), config.encoder_norm, style=style
        )
        quick = BlockConfig("depthwise_separable", config.mbconv, config.squeeze)
        self.spatial_reduction = DownPath(encoder, config.encoder_norm, quick)
        self.down_blocks = DownPath(encoder, config.encoder_norm, style)
        self.up_blocks = UpPath(encoder, decoder, config.mbconv)
        self.temporal_encoder = temporal_encoder(config, encoder[-1], attention_only=True)
        self.out_conv = score_head((decoder[0], *config.head_widths, config.classes), config.mbconv)
        self.boundary_conv = boundary_head(decoder[0], config.mbconv) if config.boundary else None

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The decoder's maps, coarsest first, and the attention; arguments as in ``forward``."""
        check_sides(images_BTCHW, self.config.stride, 2 * self.config.stride)
        cuts = cut_frames(images_BTCHW, valid_BT, self.config.encoder_widths[0])
        # Batch norm in training needs all frames at once.
        together = self.training and self.config.encoder_norm == "batch"
        finest, coarsest = encode_frames(
            self._ends, images_BTCHW[valid_BT], [size for _, size in cuts], together
        )
        attention_GBTHW = self.temporal_encoder.attend(
            season_of_frames(coarsest, valid_BT), days_BT, valid_BT
        )
        attention = attention_of_frames(attention_GBTHW, valid_BT, cuts)
        season_BCHW = aggregate(finest, attention, cuts, valid_BT, self.config.aggregation)
        return FeatureMaps(unet(season_BCHW, self.down_blocks, self.up_blocks), attention_GBTHW)

    def _ends(self, frames_FCHW: Tensor) -> list[Tensor]:
        """The finest maps and the coarsest."""
        levels = self.spatial_reduction(self.in_conv(frames_FCHW))
        return [levels[0], levels[-1]]


class TimeUNet(Backbone):
    """TimeUNet: scores of the classes for each pixel of a season."""

    def __init__(self, config: TimeUnetConfig) -> None:
        super().__init__(config)
        encoder, decoder = config.encoder_widths, config.decoder_widths
        style = BlockConfig(config.convolution, squeeze=config.squeeze)
        self.in_conv = ConvBlock(
            (config.bands, encoder[0], encoder[0]), config.encoder_norm, style=style
        )
        self.temporal_encoder = temporal_encoder(
            config, encoder[0], relative_as_day_of_year=config.relative_as_day_of_year
        )
        self.down_blocks = DownPath(encoder, config.encoder_norm, style)
        self.up_blocks = UpPath(encoder, decoder)
        self.out_conv = score_head((decoder[0], *config.head_widths, config.classes))

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """Return the decoder's maps, coarsest first, and the attention, at full size.

        Args:
            images_BTCHW: As in ``forward``.
            days_BT: As in ``forward``.
            valid_BT: As in ``forward``.
        """
        check_sides(images_BTCHW, self.config.stride, 2 * self.config.stride)
        cuts = cut_frames(images_BTCHW, valid_BT, self.config.encoder_widths[0])
        # Batch norm in training needs all frames at once.
        together = self.training and self.config.encoder_norm == "batch"
        pieces = map(
            self.in_conv, split_frames(images_BTCHW[valid_BT], [size for _, size in cuts], together)
        )
        season_BCHW, attention_GBTHW = self.temporal_encoder(
            season_of_frames(pieces, valid_BT), days_BT, valid_BT
        )
        return FeatureMaps(unet(season_BCHW, self.down_blocks, self.up_blocks), attention_GBTHW)

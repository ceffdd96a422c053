"""U-TAE and the networks that share its U-Net: W-TAE, TimeUNet, the naive U-Net and composites.

U-TAE: Garnot and Landrieu 2021, "Panoptic segmentation of satellite image time series with
convolutional temporal attention networks" (2107.07933). W-TAE and TimeUNet: Many98/Crop2Seg @
aee7827. Composites: a season becomes a few images without clouds, and a U-Net works on these; any
number of dates will do, and a few of the bands where training dropped some.

Shape suffixes: B batch, T dates, C bands or channels, H W pixels, K classes, G heads, N composites.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoseg.errors import ConfigError
from panoseg.models.configs.parcels import FEWEST_BANDS, CompositesConfig
from panoseg.models.configs.season import (
    Aggregation,
    NaiveUnetConfig,
    TimeUnetConfig,
    UtaeConfig,
    WtaeConfig,
)
from panoseg.models.layers import (
    BlockConfig,
    ConvBlock,
    DownPath,
    UpPath,
    check_sides,
    cut_frames,
    encode_frames,
    season_of_frames,
    split_frames,
    sum_by_sample,
    sum_of_frames,
)
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


_NEAR_DAYS = 18.0
_FAR_DAYS = 60.0
_FAR_SHARE = 0.01
_CLOUD_HIDDEN = 8
_MOST_DIMMING = 6.0
"""Minus the logarithm of the smallest weight of a clouded pixel."""


class Composites(Backbone):
    """A U-Net on composites: scores of the classes for each pixel of a season.

    A composite is the mean of all dates, weighted by how near a date is and by how clear its pixel
    looks. Near dates count far more than others. A composite with no near date uses distant ones;
    one more channel holds the logarithm of the total weight. A band whose values are all NaN is
    missing, and the network is told so.
    """

    centre_N: Tensor

    def __init__(self, config: CompositesConfig) -> None:
        super().__init__(config)
        channels = config.composites * (config.bands + 1)
        encoder, decoder = config.encoder_widths, config.decoder_widths
        self.clearness = nn.Sequential(
            nn.Conv2d(config.bands, _CLOUD_HIDDEN, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(_CLOUD_HIDDEN, 1, 1),
        )
        self.composite_norm = nn.BatchNorm2d(channels)
        self.presence = nn.Linear(config.bands, encoder[0])
        self.in_conv = nn.Conv2d(channels, encoder[0], 1)
        self.first_block = ConvBlock((encoder[0], encoder[0]), "group")
        self.down_blocks = DownPath(encoder, "group")
        self.up_blocks = UpPath(encoder, decoder)
        self.out_conv = nn.Sequential(
            ConvBlock((decoder[0], decoder[0])), nn.Conv2d(decoder[0], config.classes, 1)
        )
        step = (config.last_day - config.first_day) / config.composites
        centre_N = config.first_day + step * (torch.arange(config.composites) + 0.5)
        self.register_buffer("centre_N", centre_N, persistent=False)

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """Return the decoder's maps, coarsest first; NaN is no data."""
        check_sides(images_BTCHW, self.config.stride, 2 * self.config.stride)
        seen_BTCHW = ~images_BTCHW.isnan() & valid_BT[:, :, None, None, None]
        present_BC = self._present(seen_BTCHW)
        composites_BNHW = self.composites(images_BTCHW, seen_BTCHW, days_BT, present_BC)
        finest_BCHW = self.in_conv(self.composite_norm(composites_BNHW))
        finest_BCHW = finest_BCHW + self.presence(present_BC)[:, :, None, None]
        return FeatureMaps(unet(self.first_block(finest_BCHW), self.down_blocks, self.up_blocks))

    def composites(
        self, images_BTCHW: Tensor, seen_BTCHW: Tensor, days_BT: Tensor, present_BC: Tensor
    ) -> Tensor:
        """Return the composites, B x N (C + 1) x H x W: the bands and the weight of each."""
        batch, dates, _, height, width = images_BTCHW.shape
        absent_BC = present_BC == 0
        gap_BTHW = ~(seen_BTCHW | absent_BC[:, None, :, None, None]).all(2)
        images_BTCHW = images_BTCHW.masked_fill(~seen_BTCHW | absent_BC[:, None, :, None, None], 0)
        cloud_BTHW = self.clearness(images_BTCHW.flatten(0, 1)).view(batch, dates, height, width)
        # Sums over dates and their logarithm lose too much in half precision.
        with torch.autocast(images_BTCHW.device.type, enabled=False):
            weight_BTHW = torch.exp(-_MOST_DIMMING * cloud_BTHW.float().sigmoid()).masked_fill(
                gap_BTHW, 0
            )
            weighted_BTKHW = torch.cat(
                [images_BTCHW.float() * weight_BTHW[:, :, None], weight_BTHW[:, :, None]], dim=2
            )
            away_BNT = (self.centre_N[:, None] - days_BT[:, None]).abs()
            near_BNT = torch.exp(-0.5 * (away_BNT / _NEAR_DAYS) ** 2)
            near_BNT = (near_BNT + _FAR_SHARE * torch.exp(-away_BNT / _FAR_DAYS)).to(weight_BTHW)
            sums_BNKHW = (near_BNT @ weighted_BTKHW.flatten(2)).view(
                batch, -1, *weighted_BTKHW.shape[2:]
            )
            total_BN1HW = sums_BNKHW[:, :, -1:] + 1e-9
            composites_BNKHW = torch.cat(
                [sums_BNKHW[:, :, :-1] / total_BN1HW, total_BN1HW.log()], dim=2
            )
        return composites_BNKHW.flatten(1, 2)

    def _present(self, seen_BTCHW: Tensor) -> Tensor:
        """Return which bands seasons have, in training without those that are dropped: B x C."""
        present_BC = seen_BTCHW.flatten(3).any(3).any(1).float()
        if self.training and self.config.band_dropout:
            present_BC = present_BC * self._drawn(present_BC)
        return present_BC

    def _drawn(self, present_BC: Tensor) -> Tensor:
        """Draw the bands that seasons keep in training: float, B x C."""
        batch, bands = present_BC.shape
        thinned_B1 = torch.rand(batch, 1, device=present_BC.device) < self.config.band_dropout
        kept_B1 = torch.randint(
            min(FEWEST_BANDS, bands), bands + 1, (batch, 1), device=present_BC.device
        )
        chance_BC = torch.rand_like(present_BC)
        if (present_BC == 0).any():
            chance_BC = chance_BC - present_BC  # bands that are there come first
        rank_BC = chance_BC.argsort(1).argsort(1)
        drawn_BC: Tensor = ((rank_BC < kept_B1) | ~thinned_B1).to(present_BC.dtype)
        return drawn_BC

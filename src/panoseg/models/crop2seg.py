"""W-TAE: a quick way down finds the attention, which averages the maps at full size over time, and
a U-Net works on the result.

Crop2Seg @ aee7827, src/backbones/wtae.py. Shape suffixes: B batch, T dates, C channels or bands, H
W pixels, F frames: the valid dates of all samples one after the other, G heads, K classes.
"""

from __future__ import annotations

from torch import Tensor

from panoseg.models.backbone import Backbone
from panoseg.models.configs.season import TimeUnetConfig, WtaeConfig
from panoseg.models.frames import (
    check_sides,
    cut_frames,
    encode_frames,
    season_of_frames,
    split_frames,
)
from panoseg.models.layers import BlockConfig, ConvBlock, DownPath, UpPath
from panoseg.models.ltae import temporal_encoder
from panoseg.models.outputs import FeatureMaps
from panoseg.models.utae import aggregate, attention_of_frames, boundary_head, score_head, unet


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
        # Batch norm in training looks at all frames at once.
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
        """The decoder's maps, coarsest first, and the attention, at full size; arguments as in
        ``forward``.
        """
        check_sides(images_BTCHW, self.config.stride, 2 * self.config.stride)
        cuts = cut_frames(images_BTCHW, valid_BT, self.config.encoder_widths[0])
        # Batch norm in training looks at all frames at once.
        together = self.training and self.config.encoder_norm == "batch"
        pieces = map(
            self.in_conv, split_frames(images_BTCHW[valid_BT], [size for _, size in cuts], together)
        )
        season_BCHW, attention_GBTHW = self.temporal_encoder(
            season_of_frames(pieces, valid_BT), days_BT, valid_BT
        )
        return FeatureMaps(unet(season_BCHW, self.down_blocks, self.up_blocks), attention_GBTHW)

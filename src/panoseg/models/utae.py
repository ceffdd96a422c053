"""U-TAE: a U-Net over the dates of a season, whose skip connections are averaged over time by attention.

Garnot & Landrieu 2021, "Panoptic segmentation of satellite image time series with convolutional temporal attention networks",
section 3.1; utae-paps @ 987874e, src/backbones/utae.py; its options beyond the paper: Crop2Seg @ aee7827, same file. Shape
suffixes: B batch, T dates, C channels or bands, H W pixels, F frames: the valid dates of all samples one after the other,
G heads.
"""

from __future__ import annotations

from torch import Tensor

from panoseg.models.aggregation import aggregate, attention_of_frames
from panoseg.models.backbone import Backbone
from panoseg.models.configs.utae import UtaeConfig
from panoseg.models.frames import check_sides, cut_frames, encode_frames, season_of_frames
from panoseg.models.layers import ConvBlock, DownPath, Style, UpPath
from panoseg.models.ltae import temporal_encoder
from panoseg.models.outputs import FeatureMaps
from panoseg.models.unet import boundary_head, score_head


class UTAE(Backbone):
    """U-TAE: scores of the classes for each pixel of a season."""

    def __init__(self, config: UtaeConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = config.encoder_widths, config.decoder_widths
        style = Style(config.convolution, config.mbconv, config.squeeze)
        self.in_conv = ConvBlock((config.bands, encoder[0], encoder[0]), config.encoder_norm, style=style)
        self.down_blocks = DownPath(encoder, config.encoder_norm, style)
        self.up_blocks = UpPath(encoder, decoder, config.mbconv)
        self.temporal_encoder = temporal_encoder(config, encoder[-1], relative_as_day_of_year=config.relative_as_day_of_year)
        self.out_conv = score_head((decoder[0], *config.head_widths, config.classes), config.mbconv)
        self.boundary_conv = boundary_head(decoder[0], config.mbconv) if config.boundary else None

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The decoder's maps, coarsest first, and the attention; arguments as in ``forward``."""
        check_sides(images_BTCHW, self.config.stride, 2 * self.config.stride)
        cuts = cut_frames(images_BTCHW, valid_BT, self.config.encoder_widths[0])
        # Batch norm in training looks at all frames at once.
        together = self.training and self.config.encoder_norm == "batch"
        *levels, coarsest = encode_frames(self._levels, images_BTCHW[valid_BT], [size for _, size in cuts], together)
        out_BCHW, attention_GBTHW = self.temporal_encoder(season_of_frames(coarsest, valid_BT), days_BT, valid_BT)
        attention = attention_of_frames(attention_GBTHW, valid_BT, cuts)
        skips = (aggregate(level, attention, cuts, valid_BT, self.config.aggregation) for level in reversed(levels))
        return FeatureMaps(self.up_blocks(out_BCHW, skips), attention_GBTHW)

    def _levels(self, frames_FCHW: Tensor) -> list[Tensor]:
        """Maps of all levels, finest first."""
        return self.down_blocks(self.in_conv(frames_FCHW))

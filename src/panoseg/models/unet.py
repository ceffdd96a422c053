"""What U-TAE, W-TAE, TimeUNet and the naive U-Net share, and the naive U-Net itself.

They are one U-Net (``DownPath``, ``UpPath``) and differ in where a season's dates become one map: U-TAE between its encoder and
its decoder, W-TAE and TimeUNet before the encoder, the naive U-Net at once, by taking dates for bands. Crop2Seg @ aee7827,
src/backbones/unet.py. Shape suffixes: B batch, T dates, C channels or bands, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from panoseg.errors import ConfigError
from panoseg.models.backbone import Backbone
from panoseg.models.configs.unet import NaiveUnetConfig
from panoseg.models.frames import check_sides
from panoseg.models.layers import ConvBlock, DownPath, Style, UpPath
from panoseg.models.outputs import FeatureMaps

_BOUNDARY_HIDDEN = 32


def score_head(widths: Sequence[int], mbconv: bool = False) -> ConvBlock:
    """Convolutions that score pixels; widths: channels of the map, hidden ones, scores."""
    return ConvBlock(widths, "group" if mbconv else "batch", style=Style(mbconv=mbconv))


def boundary_head(channels: int, mbconv: bool = False) -> ConvBlock:
    """Convolutions that score whether a pixel lies inside a class or on its boundary."""
    return score_head((channels, _BOUNDARY_HIDDEN, 2), mbconv)


def unet(finest_BCHW: Tensor, down: DownPath, up: UpPath) -> tuple[Tensor, ...]:
    """The decoder's maps, coarsest first, of a U-Net on one map a sample."""
    *levels, coarsest_BCHW = down(finest_BCHW)
    return up(coarsest_BCHW, reversed(levels))


class NaiveUnet(Backbone):
    """The naive U-Net: scores of the classes for each pixel of a season, whose dates are taken for bands.

    The place of a date in the season is what counts, not its day.
    """

    def __init__(self, config: NaiveUnetConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = config.season_widths(config.encoder_widths), config.map_widths
        style = Style(config.convolution, config.mbconv, config.squeeze)
        self.in_conv = ConvBlock((config.length * config.bands, encoder[0], encoder[0]), "batch", style=style)
        self.down_blocks = DownPath(encoder, "batch", style)
        self.up_blocks = UpPath(encoder, decoder, config.mbconv)
        hidden = (config.length * width for width in config.head_widths)
        self.out_conv = score_head((decoder[0], *hidden, config.classes), config.mbconv)

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The decoder's maps, coarsest first; raises ``ConfigError`` for more dates than the network has places."""
        check_sides(images_BTCHW, self.config.stride, 2 * self.config.stride)
        dates, places = images_BTCHW.shape[1], self.config.length
        if dates > places:
            raise ConfigError(
                f"a season of {dates} dates", f"at most {places}", "train a naive U-Net of that length, or leave dates out"
            )
        images_BTCHW = images_BTCHW.masked_fill(~valid_BT[:, :, None, None, None], 0)
        images_BCHW = F.pad(images_BTCHW.flatten(1, 2), (0, 0, 0, 0, 0, (places - dates) * images_BTCHW.shape[2]))
        return FeatureMaps(unet(self.in_conv(images_BCHW), self.down_blocks, self.up_blocks))

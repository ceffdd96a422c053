"""Composites: a season becomes a few images without clouds, and a U-Net works on these.

Any number of dates will do, and a few of the bands where training dropped some. Shape suffixes: B
batch, T dates, C bands, N composites, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from panoseg.models.configs.composites import FEWEST_BANDS, CompositesConfig
from panoseg.models.frames import check_sides
from panoseg.models.layers import ConvBlock, DownPath, UpPath
from panoseg.models.network import Backbone
from panoseg.models.outputs import FeatureMaps
from panoseg.models.utae import unet

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

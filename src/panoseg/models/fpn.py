"""FPN + ConvLSTM: dilated convolutions of several reaches on each date, then a ConvLSTM over dates, all at full size.

A baseline of Garnot & Landrieu 2021, Table 1, after Martinez et al. 2021, "Fully convolutional recurrent networks for multidate
crop recognition from multitemporal image sequences"; utae-paps @ 987874e, src/backbones/fpn.py. Shape suffixes: B batch,
T dates, C channels or bands, H W pixels, N frames of one date, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from panoseg.models.backbone import Backbone
from panoseg.models.configs.fpn import FpnConfig
from panoseg.models.frames import check_sides
from panoseg.models.layers import ConvBlock
from panoseg.models.outputs import FeatureMaps
from panoseg.models.recurrence import Recurrence, blank_padding


class Pyramid(nn.Module):
    """Convolutions of several dilations side by side, and the maximum over the image at every pixel."""

    def __init__(self, channels: int, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.inconv = nn.Conv2d(channels, width, 3, padding=1)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, dilation=reach, padding=reach, padding_mode="reflect") for reach in dilations
        )

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        frames_NCHW = self.inconv(frames_NCHW)
        # The paper says average; the published program takes the maximum.
        highest_NCHW = frames_NCHW.amax((2, 3), keepdim=True).expand_as(frames_NCHW)
        return torch.cat([*(conv(frames_NCHW) for conv in self.convs), highest_NCHW], dim=1)


class FpnConvLstm(Backbone):
    """FPN + ConvLSTM: scores of the classes for each pixel, by the order of the dates of a season."""

    classifier = "outconv"

    def __init__(self, config: FpnConfig) -> None:
        super().__init__()
        self.config = config
        self.inconv = ConvBlock((config.bands, *config.input_widths), "group")
        self.pyramid = Pyramid(config.input_widths[-1], config.pyramid_width, config.dilations)
        levels = len(config.dilations) + 1
        self.mid_conv = ConvBlock((levels * config.pyramid_width, config.joined_width), "group")
        self.convlstm = Recurrence(config.joined_width, config.hidden)
        self.outconv = nn.Conv2d(config.hidden, config.classes, 1)

    def features(self, images_BTCHW: Tensor, days_BT: Tensor, valid_BT: Tensor) -> FeatureMaps:
        """The ConvLSTM's last memory, a map of full size; arguments as in ``forward``."""
        # A mirrored border as wide as the farthest reach needs one pixel more.
        check_sides(images_BTCHW, self.config.stride, max(self.config.dilations) + 1)
        if self.config.runs_over_padding:
            images_BTCHW, valid_BT = blank_padding(images_BTCHW, valid_BT)
        frames_FCHW = images_BTCHW[valid_BT].contiguous(memory_format=torch.channels_last)
        return FeatureMaps((self.convlstm(frames_FCHW, valid_BT, self._date),))

    def _date(self, frames_NCHW: Tensor) -> Tensor:
        """What the ConvLSTM gets of one date."""
        maps_NCHW = self.mid_conv(self.pyramid(self.inconv(frames_NCHW)))
        if self.config.runs_over_padding:
            # Published blocks leave frames of zeros as they are.
            maps_NCHW = maps_NCHW * frames_NCHW.flatten(1).any(1)[:, None, None, None]
        return maps_NCHW

"""Convolution blocks of U-TAE (Garnot & Landrieu 2021, "Panoptic segmentation of satellite image time series", Fig. 2).

Names of entries follow the published checkpoints (utae-paps @ 987874e, src/backbones/utae.py). Shape suffixes: N frames, one
of one date of one sample, so that a block shared over dates is an ordinary block; C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from panoseg.models.configs.base import NORM_GROUPS, Norm

Border = Literal["reflect", "zeros"]
"""What a convolution sees beyond the image: its mirror image, or nothing."""


def _norm(kind: Norm, channels: int) -> nn.Module:
    kinds = {
        "group": lambda: nn.GroupNorm(NORM_GROUPS, channels),
        "batch": lambda: nn.BatchNorm2d(channels),
        "instance": lambda: nn.InstanceNorm2d(channels),
    }
    return kinds[kind]()


class ConvLayer(nn.Module):
    """Convolutions, each followed by normalisation and ReLU.

    widths: channels of the input, then of each convolution. last_relu: whether the last convolution gets its ReLU.
    """

    def __init__(
        self,
        widths: Sequence[int],
        norm: Norm = "batch",
        kernel: int = 3,
        stride: int = 1,
        last_relu: bool = True,
        border: Border = "reflect",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for step, (before, after) in enumerate(pairwise(widths), 2):
            layers += [nn.Conv2d(before, after, kernel, stride, padding=1, padding_mode=border), _norm(norm, after)]
            if last_relu or step < len(widths):
                layers.append(nn.ReLU(inplace=True))
        self.conv = nn.Sequential(*layers)

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        return self.conv(frames_NCHW)


class ConvBlock(nn.Module):
    """A ``ConvLayer`` under one more name, which the published checkpoints carry."""

    def __init__(self, widths: Sequence[int], norm: Norm = "batch", border: Border = "reflect") -> None:
        super().__init__()
        self.conv = ConvLayer(widths, norm, border=border)

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        return self.conv(frames_NCHW)


class DownBlock(nn.Module):
    """Halve the size, then two convolutions, the second one residual."""

    def __init__(self, channels: int, width: int, norm: Norm, border: Border = "reflect") -> None:
        super().__init__()
        self.down = ConvLayer((channels, channels), norm, kernel=4, stride=2, border=border)
        self.conv1 = ConvLayer((channels, width), norm, border=border)
        self.conv2 = ConvLayer((width, width), norm, border=border)

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        frames_NCHW = self.conv1(self.down(frames_NCHW))
        return frames_NCHW + self.conv2(frames_NCHW)


class UpBlock(nn.Module):
    """Double the size, join the encoder's map of that size, then two convolutions, the second one residual.

    norm: after the last two convolutions; the others always have batch norm.
    """

    def __init__(self, channels: int, width: int, skip_channels: int, norm: Norm = "batch", border: Border = "reflect") -> None:
        super().__init__()
        self.skip_conv = nn.Sequential(
            nn.Conv2d(skip_channels, skip_channels, 1), nn.BatchNorm2d(skip_channels), nn.ReLU(inplace=True)
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.conv1 = ConvLayer((width + skip_channels, width), norm, border=border)
        self.conv2 = ConvLayer((width, width), norm, border=border)

    def forward(self, coarse_NCHW: Tensor, skip_NCHW: Tensor) -> Tensor:
        joined_NCHW = torch.cat([self.up(coarse_NCHW), self.skip_conv(skip_NCHW)], dim=1)
        joined_NCHW = self.conv1(joined_NCHW)
        return joined_NCHW + self.conv2(joined_NCHW)

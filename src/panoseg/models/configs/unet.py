"""Options of the naive U-Net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from panoseg.models.configs.base import (
    Convolution,
    expect_levels,
    expect_one_kind_of_block,
    expect_one_of,
    expect_size,
    expect_sizes,
)


@dataclass(frozen=True)
class NaiveUnetConfig:
    """Naive U-Net: a season of so many dates is one image of so many times more bands."""

    name: ClassVar[str] = "unet_naive"
    title: ClassVar[str] = "naive U-Net"
    network: ClassVar[str] = "panoseg.models.unet:NaiveUnet"

    bands: int = 10
    """Channels of an image; follows from the data."""
    classes: int = 20
    """Scores a pixel gets; follows from the class table."""
    length: int = 61
    """Dates of a season; shorter ones are filled with zeros, longer ones refused."""
    encoder_widths: tuple[int, ...] = (8, 8, 8, 16)
    """Channels of the encoder for every two dates, finest level first; each level halves the size of the one before."""
    decoder_widths: tuple[int, ...] = (4, 4, 8, 16)
    """Channels of the decoder for every two dates, finest level first; the last equals the encoder's last."""
    head_widths: tuple[int, ...] = (4,)
    """Hidden channels for every date of the convolutions that score the classes of pixels."""
    convolution: Convolution = "2d"
    """Convolutions of the encoder: ordinary ones, or one a channel followed by one that mixes channels."""
    mbconv: bool = False
    """MBConv blocks instead of pairs of convolutions."""
    squeeze: bool = False
    """Weigh the channels of each level of the encoder by squeeze and excitation."""

    def __post_init__(self) -> None:
        expect_one_of("convolution", self.convolution, get_args(Convolution))
        expect_one_kind_of_block(self.mbconv, self.squeeze)
        expect_sizes(self)
        for width in self.season_widths((*self.encoder_widths, *self.decoder_widths, *self.head_widths)):
            expect_size("widths for every two dates, times dates, over two:", width, width)
        expect_size("bands times dates:", self.bands * self.length, self.bands * self.length)
        expect_levels(self.encoder_widths, self.decoder_widths)

    def season_widths(self, widths: tuple[int, ...]) -> tuple[int, ...]:
        """Channels for a whole season, of those for every two dates."""
        return tuple(width * self.length // 2 for width in widths)

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets, finest first."""
        return self.season_widths(self.decoder_widths)

    @property
    def stride(self) -> int:
        """Pixels of the images that one pixel of the coarsest map stands for."""
        return 2 ** (len(self.encoder_widths) - 1)

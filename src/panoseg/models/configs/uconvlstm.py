"""Options of U-ConvLSTM and bidirectional U-ConvLSTM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from panoseg.models.configs.base import NORM_GROUPS, expect, expect_levels, expect_sizes


@dataclass(frozen=True)
class UConvLstmConfig:
    """U-ConvLSTM: U-TAE's encoder and decoder, with a ConvLSTM over dates at the coarsest size and mean skip connections."""

    name: ClassVar[str] = "uconvlstm"
    network: ClassVar[str] = "panoseg.models.uconvlstm:UConvLstm"

    bands: int = 10
    """Channels of an image; follows from the data."""
    classes: int = 20
    """Scores a pixel gets; follows from the class table."""
    encoder_widths: tuple[int, ...] = (64, 64, 64, 128)
    """Channels of the encoder, finest level first; each level halves the size of the one before."""
    decoder_widths: tuple[int, ...] = (32, 32, 64, 128)
    """Channels of the decoder, finest level first; the last equals the encoder's last."""
    head_widths: tuple[int, ...] = (32,)
    """Hidden channels of the convolutions that score the classes of pixels."""
    hidden: int = 64
    """Channels of the ConvLSTM in one direction; published 64, and 30 where there should be two."""
    directions: int = 1
    """1: through the season; 2: also backwards from its end, by weights of its own."""
    runs_over_padding: bool = False
    """Let the recurrence run on over padded dates, as published; False ends each season at its last valid date."""

    def __post_init__(self) -> None:
        expect_sizes(self)
        expect(self.directions in (1, 2), f"directions {self.directions}", "1 or 2")
        expect_levels(self.encoder_widths, self.decoder_widths)
        normed = (*self.encoder_widths, *self.decoder_widths)
        expect(
            all(width % NORM_GROUPS == 0 for width in normed),
            f"encoder_widths {self.encoder_widths} and decoder_widths {self.decoder_widths}",
            f"multiples of {NORM_GROUPS}",
        )

    @property
    def title(self) -> str:
        """The network's name in the words of its paper."""
        return "U-ConvLSTM" if self.directions == 1 else "BU-ConvLSTM"

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets, finest first."""
        return self.decoder_widths

    @property
    def stride(self) -> int:
        """Pixels of the images that one pixel of the coarsest map stands for."""
        return 2 ** (len(self.encoder_widths) - 1)

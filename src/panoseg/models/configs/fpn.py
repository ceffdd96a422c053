"""Options of FPN + ConvLSTM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from panoseg.models.configs.base import NORM_GROUPS, expect, expect_size, expect_sizes


@dataclass(frozen=True)
class FpnConfig:
    """FPN + ConvLSTM: dilated convolutions of several reaches on each date at full size, then a ConvLSTM over dates."""

    name: ClassVar[str] = "fpn"
    title: ClassVar[str] = "FPN + ConvLSTM"
    network: ClassVar[str] = "panoseg.models.fpn:FpnConvLstm"
    stride: ClassVar[int] = 1

    bands: int = 10
    """Channels of an image; follows from the data."""
    classes: int = 20
    """Scores a pixel gets; follows from the class table."""
    input_widths: tuple[int, ...] = (32, 64)
    """Channels of the first convolutions."""
    pyramid_width: int = 64
    """Channels of each level of the pyramid."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Reach in pixels of each level's convolution; one more level is the maximum over the whole image."""
    hidden: int = 88
    """Channels of the ConvLSTM."""
    runs_over_padding: bool = False
    """Let the recurrence run on over padded dates, as published; False ends each season at its last valid date."""

    def __post_init__(self) -> None:
        expect_sizes(self)
        for name in ("input_widths", "dilations"):
            expect(len(getattr(self, name)) >= 1, f"no {name}", "at least one")
        expect_size("channels after the pyramid:", self.joined_width, self.joined_width)
        normed = (*self.input_widths, self.joined_width)
        expect(
            all(width % NORM_GROUPS == 0 for width in normed),
            f"input_widths {self.input_widths} and {self.joined_width} channels after the pyramid",
            f"multiples of {NORM_GROUPS}",
        )

    @property
    def joined_width(self) -> int:
        """Channels that the ConvLSTM gets: half of those of all levels."""
        return self.pyramid_width * (len(self.dilations) + 1) // 2

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets: the ConvLSTM's state at full size alone."""
        return (self.hidden,)

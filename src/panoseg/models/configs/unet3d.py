"""Options of U-Net 3D."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from panoseg.models.configs.base import expect, expect_size, expect_sizes


@dataclass(frozen=True)
class UNet3dConfig:
    """U-Net 3D: convolutions over space and time together, two halvings of both, and the mean over time at the end."""

    name: ClassVar[str] = "unet3d"
    title: ClassVar[str] = "U-Net 3D"
    network: ClassVar[str] = "panoseg.models.unet3d:UNet3d"
    stride: ClassVar[int] = 4

    bands: int = 10
    """Channels of an image; follows from the data."""
    classes: int = 20
    """Scores a pixel gets; follows from the class table."""
    width: int = 32
    """Channels at full size, an even number; each halving of the size doubles them."""

    def __post_init__(self) -> None:
        expect_sizes(self)
        expect_size("four times the width:", 4 * self.width, 4 * self.width)
        expect(self.width >= 2 and self.width % 2 == 0, f"width {self.width}", "an even number from 2")

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the maps that a head gets, finest first; at full size, half the width at three shifts in time."""
        return 3 * self.width // 2, 2 * self.width, 4 * self.width

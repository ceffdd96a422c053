"""Options of TimeUNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from panoseg.models.configs.attention_unet import AttentionUnetConfig, expect_both_dates


@dataclass(frozen=True)
class TimeUnetConfig(AttentionUnetConfig):
    """TimeUNet: attention over time at full size, and a U-Net works on the one map that results."""

    name: ClassVar[str] = "timeunet"
    title: ClassVar[str] = "TimeUNet"
    network: ClassVar[str] = "panoseg.models.timeunet:TimeUNet"

    relative_as_day_of_year: bool = False
    """With dates both: look the relative days up in a table of days of the year too, as released; days outside it take its
    ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_both_dates(self.relative_as_day_of_year, self)

    def _grouped_widths(self) -> tuple[int, ...]:
        return self.encoder_widths[:1]

"""Options of U-TAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from panoseg.models.configs.attention_unet import Aggregation, AttentionUnetConfig, expect_both_dates
from panoseg.models.configs.base import expect_one_kind_of_block, expect_one_of


@dataclass(frozen=True)
class UtaeConfig(AttentionUnetConfig):
    """U-TAE: a convolutional encoder shared over dates, attention over time at the coarsest size, a convolutional decoder."""

    name: ClassVar[str] = "utae"
    title: ClassVar[str] = "U-TAE"
    network: ClassVar[str] = "panoseg.models.utae:UTAE"

    aggregation: Aggregation = "att_group"
    """How a level's dates become one map: attention of its group of channels, mean attention, or the mean over dates."""
    mbconv: bool = False
    """MBConv blocks instead of pairs of convolutions."""
    boundary: bool = False
    """Score as well whether a pixel lies on the boundary of a class."""
    relative_as_day_of_year: bool = False
    """With dates both: look the relative days up in a table of days of the year too, as released; days outside it take its
    ends."""

    def __post_init__(self) -> None:
        expect_one_of("aggregation", self.aggregation, get_args(Aggregation))
        super().__post_init__()
        expect_one_kind_of_block(self.mbconv, self.squeeze)
        expect_both_dates(self.relative_as_day_of_year, self)

    def _grouped_widths(self) -> tuple[int, ...]:
        return self.encoder_widths if self.aggregation == "att_group" else self.encoder_widths[-1:]

"""Options of W-TAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from panoseg.models.configs.attention_unet import Aggregation, AttentionUnetConfig
from panoseg.models.configs.base import expect_one_kind_of_block, expect_one_of


@dataclass(frozen=True)
class WtaeConfig(AttentionUnetConfig):
    """W-TAE: attention found on shrunken maps weighs the dates at full size, and a U-Net works on the one map that results."""

    name: ClassVar[str] = "wtae"
    title: ClassVar[str] = "W-TAE"
    network: ClassVar[str] = "panoseg.models.wtae:WTAE"

    aggregation: Aggregation = "att_group"
    """How dates become one map: attention of the group of channels, mean attention, or the mean over dates without it."""
    mbconv: bool = False
    """MBConv blocks instead of pairs of convolutions."""
    boundary: bool = False
    """Score as well whether a pixel lies on the boundary of a class."""

    def __post_init__(self) -> None:
        expect_one_of("aggregation", self.aggregation, get_args(Aggregation))
        super().__post_init__()
        expect_one_kind_of_block(self.mbconv, self.squeeze)

    def _grouped_widths(self) -> tuple[int, ...]:
        weighed = self.encoder_widths[:1] if self.aggregation == "att_group" else ()
        return (*weighed, self.encoder_widths[-1])

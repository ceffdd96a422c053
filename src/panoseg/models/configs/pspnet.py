"""Options of PSPNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from panoseg.models.configs.base import expect, expect_one_of, expect_sizes
from panoseg.models.configs.photographs import (
    STAGE_WIDTHS,
    BackboneNorm,
    PhotographModelBase,
    expect_groups,
    expect_stuff,
    expect_weights,
)

Initial = Literal["none", "imagenet"]
Scope = Literal["all", "stuff"]
MOST_BINS = 64
"""The most parts a side, beyond which they are smaller than the pixels of most maps."""


@dataclass(frozen=True)
class PspNetConfig(PhotographModelBase):
    """PSPNet: a dilated residual network whose map is pooled over parts of the image, for the class of each pixel."""

    name: ClassVar[str] = "pspnet"
    title: ClassVar[str] = "PSPNet"
    network: ClassVar[str] = "panoseg.models.pspnet:PspNet"
    stride: ClassVar[int] = 8
    """Pixels of the images that one pixel of the backbone's last map stands for."""

    norm: BackboneNorm = "batch"
    """Norms of the residual network: batch norms that keep the statistics of their weights, batch norms that learn, or group
    norms. Those of the heads learn: batch norms with the first two."""
    weights: Initial = "imagenet"
    """Initial weights of the backbone in a training: ImageNet's, or drawn."""
    stuff: int = 53
    """Classes of stuff; follows from the class table."""
    scope: Scope = "stuff"
    """What pixels are told apart: the classes of stuff, all things being one more class, or all classes."""
    bins: tuple[int, ...] = (1, 2, 3, 6)
    """Parts a side into which the image is cut, for each level of the pooling pyramid."""
    width: int = 512
    """Channels of the last hidden map."""
    auxiliary_width: int = 256
    """Channels of the head that is trained on the map before the last."""
    auxiliary_weight: float = 0.4
    """Weight of that head's loss."""
    dropout: float = 0.1
    """Share of channels that a training leaves out before the classes are scored."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_weights(self.weights, get_args(Initial), self.norm)
        expect_one_of("scope", self.scope, get_args(Scope))
        expect_stuff(self.stuff, self.classes)
        expect(len(self.bins) >= 1, "no bins", "at least one")
        expect_sizes(self, leave_out=("stuff",))
        expect(max(self.bins) <= MOST_BINS, f"bins {self.bins}", f"at most {MOST_BINS} parts a side")
        if self.norm == "group":
            expect_groups("width, auxiliary_width and channels of a bin", self.width, self.auxiliary_width, self.bin_width)
        expect(0 <= self.auxiliary_weight < float("inf"), f"auxiliary_weight {self.auxiliary_weight}", "a number from 0")
        expect(0 <= self.dropout < 1, f"dropout {self.dropout}", "from 0 up to 1")

    @property
    def bin_width(self) -> int:
        """Channels of each level of the pooling pyramid: together as many as the last map has."""
        return STAGE_WIDTHS[self.backbone][-1] // len(self.bins)

    @property
    def classes(self) -> int:
        """Classes of things and stuff."""
        return self.things + self.stuff

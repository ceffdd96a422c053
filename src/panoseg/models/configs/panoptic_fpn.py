"""Options of Panoptic FPN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from panoseg.models.configs.base import expect
from panoseg.models.configs.detector import DetectorConfig
from panoseg.models.configs.photographs import expect_groups, expect_stuff, expect_weights

Initial = Literal["none", "imagenet"]


@dataclass(frozen=True)
class PanopticFpnConfig(DetectorConfig):
    """Panoptic FPN: one feature pyramid, from which Mask R-CNN's heads find the things and a light head the stuff."""

    name: ClassVar[str] = "panoptic_fpn"
    title: ClassVar[str] = "Panoptic FPN"
    network: ClassVar[str] = "panoseg.models.panoptic_fpn:PanopticFpn"

    weights: Initial = "imagenet"
    """Initial weights of the backbone in a training: ImageNet's, or drawn."""
    stuff: int = 53
    """Classes of stuff; follows from the class table."""
    semantic_width: int = 128
    """Channels of the semantic head."""
    instance_weight: float = 1.0
    """Weight of the losses of proposals, classes, boxes and masks."""
    semantic_weight: float = 0.5
    """Weight of the loss of the pixels' classes."""
    merge_score: float = 0.5
    """Candidates from this score on become part of the picture."""
    merge_overlap: float = 0.5
    """Those of which a larger share is covered by better ones do not."""
    stuff_area: int = 4096
    """Least pixels of a class of stuff in a picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_weights(self.weights, get_args(Initial), self.norm)
        expect_stuff(self.stuff, self.classes)
        expect_groups("semantic_width", self.semantic_width)
        for name in ("instance_weight", "semantic_weight"):
            expect(0 <= getattr(self, name) < float("inf"), f"{name} {getattr(self, name)}", "a number from 0")
        for name in ("merge_score", "merge_overlap"):
            expect(0 <= getattr(self, name) <= 1, f"{name} {getattr(self, name)}", "a number from 0 to 1")
        expect(self.stuff_area >= 0, f"stuff_area {self.stuff_area}", "a number of pixels from 0")

    @property
    def classes(self) -> int:
        """Classes of things and stuff."""
        return self.things + self.stuff

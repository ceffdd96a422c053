"""What the options of Panoptic FPN and Mask R-CNN share: objects found on a feature pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from panoseg.models.configs.base import expect, expect_sizes
from panoseg.models.configs.photographs import PhotographModelBase, expect_groups

LEVELS = 5
"""Maps of the pyramid in which objects are proposed: strides 4, 8, 16, 32 and 64."""
MOST_MASK_CHANNELS = 500_000
"""Of the masks of all candidates of an image, 28 x 28 pixels each: 1.6 GB, twenty times as many as published."""


@dataclass(frozen=True)
class DetectorConfig(PhotographModelBase):
    """Options of a region proposal network with heads for class, box and mask; the defaults are the published ones."""

    stride: ClassVar[int] = 32
    """Pixels of the images that one pixel of the backbone's coarsest map stands for."""

    pyramid_width: int = 256
    """Channels of the feature pyramid."""
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Side in pixels of the boxes from which proposals start, one a level of the pyramid, finest first."""
    box_width: int = 1024
    """Hidden values of the head that finds class and box."""
    mask_widths: tuple[int, ...] = (256, 256, 256, 256)
    """Channels of the convolutions of the mask head; the last is also that of its upsampling."""
    group_norm: bool = False
    """Group norms in the feature pyramid and in the mask head, which help a training without ImageNet's weights."""
    anchors_per_image: int = 256
    """Anchors of an image that teach the proposals."""
    train_proposals: int = 2000
    """Proposals of an image in training, and those of a level before overlapping ones are left out."""
    test_proposals: int = 1000
    """The same in prediction."""
    boxes_per_image: int = 512
    """Proposals of an image that teach class, box and mask; a quarter of them hold objects."""
    detections: int = 100
    """Candidates of an image, a fixed number: the best by score, padded with empty ones."""
    min_score: float = 0.05
    """Candidates of a lower score are left out."""
    box_overlap: float = 0.5
    """Of two candidates of a class whose boxes have a larger intersection over union, the better stays."""
    mask_threshold: float = 0.5
    """A pixel belongs to a mask from this probability on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(len(self.anchor_sizes) == LEVELS, f"{len(self.anchor_sizes)} anchor_sizes", f"{LEVELS}, one a level")
        expect(len(self.mask_widths) >= 1, "no mask_widths", "at least one")
        expect_sizes(self, leave_out=("stuff", "stuff_area"))
        channels = max(*self.mask_widths, self.things)
        found = f"{self.detections} detections with masks of {channels} channels"
        expect(self.detections * channels <= MOST_MASK_CHANNELS, found, f"a product of at most {MOST_MASK_CHANNELS:,}")
        for name in ("min_score", "box_overlap", "mask_threshold"):
            expect(0 <= getattr(self, name) <= 1, f"{name} {getattr(self, name)}", "a number from 0 to 1")
        if self.group_norm:
            expect_groups("pyramid_width and mask_widths", self.pyramid_width, *self.mask_widths)

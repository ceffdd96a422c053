"""Options of Mask R-CNN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from panoseg.models.configs.base import expect
from panoseg.models.configs.detector import DetectorConfig
from panoseg.models.configs.photographs import expect_weights

Initial = Literal["none", "imagenet", "coco"]


@dataclass(frozen=True)
class MaskRcnnConfig(DetectorConfig):
    """Mask R-CNN: objects proposed on a feature pyramid, each with a class, a box and a mask."""

    name: ClassVar[str] = "mask_rcnn"
    title: ClassVar[str] = "Mask R-CNN"
    network: ClassVar[str] = "panoseg.models.mask_rcnn:MaskRcnn"

    weights: Initial = "imagenet"
    """Initial weights in a training: ImageNet's in the backbone, torchvision's of COCO in the whole network, or drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_weights(self.weights, get_args(Initial), self.norm)
        expect(
            self.weights != "coco" or (self.backbone == "resnet50" and not self.group_norm),
            f"weights coco with {self.backbone}{' and group_norm' if self.group_norm else ''}",
            "resnet50 without group_norm, as they were trained",
        )

    @property
    def classes(self) -> int:
        """Classes of things; stuff is none of its business."""
        return self.things

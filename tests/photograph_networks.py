"""Small networks for photographs, and a photograph with two squares that they can learn."""

from __future__ import annotations

from typing import Any

import torch

from panoseg.classes import ClassTable, SegmentClass
from panoseg.data.photographs import VOID, Objects, Photograph
from panoseg.models.configs.photograph import MaskRcnnConfig, PanopticFpnConfig, PspNetConfig

TABLE = ClassTable(
    "shapes",
    (
        SegmentClass(2, "square", "#ff0000", "thing"),
        SegmentClass(3, "grass", "#00ff00", "stuff"),
        SegmentClass(7, "disc", "#0000ff", "thing"),
        SegmentClass(9, "sky", "#00ffff", "stuff"),
    ),
)
_DETECTOR: dict[str, Any] = {
    "things": 2,
    "backbone": "resnet18",
    "norm": "group",
    "weights": "none",
    "group_norm": True,
    "pyramid_width": 32,
    "box_width": 64,
    "mask_widths": (32,),
    "anchor_sizes": (8, 16, 32, 64, 128),
    "train_proposals": 100,
    "test_proposals": 50,
    "boxes_per_image": 64,
    "detections": 10,
}


def panoptic_fpn(**options: Any) -> PanopticFpnConfig:
    """A Panoptic FPN for ``TABLE``."""
    return PanopticFpnConfig(**{**_DETECTOR, "stuff": 2, "semantic_width": 16, **options})


def mask_rcnn(**options: Any) -> MaskRcnnConfig:
    """A Mask R-CNN for ``TABLE``."""
    return MaskRcnnConfig(**{**_DETECTOR, **options})


def pspnet(**options: Any) -> PspNetConfig:
    """A PSPNet for ``TABLE``."""
    small = {"things": 2, "stuff": 2, "backbone": "resnet18", "norm": "group", "weights": "none"}
    return PspNetConfig(**{**small, "width": 32, "auxiliary_width": 16, **options})


def photograph(height: int = 64, width: int = 64, squares: bool = True) -> Photograph:
    """Sky above grass, a red square before one and a blue one before the other; the lowest rows are
    void.
    """
    image_CHW = torch.zeros(3, height, width, dtype=torch.uint8)
    image_CHW[1] = 160
    image_CHW[2, : height // 2] = 220
    classes_HW = torch.full((height, width), 3)
    classes_HW[: height // 2] = 9
    mask_NHW = torch.zeros(2, height, width, dtype=torch.bool)
    if squares:
        mask_NHW[0, 8:28, 6:30] = mask_NHW[1, 30:54, 28:52] = True
        image_CHW[:, mask_NHW[0]] = torch.tensor([230, 20, 20], dtype=torch.uint8)[:, None]
        image_CHW[:, mask_NHW[1]] = torch.tensor([20, 20, 90], dtype=torch.uint8)[:, None]
        classes_HW[mask_NHW[0]], classes_HW[mask_NHW[1]] = 2, 7
    classes_HW[-4:] = VOID
    image_CHW = (image_CHW + torch.arange(width).remainder(7)).clamp(max=255).to(torch.uint8)
    return Photograph(
        image_CHW,
        "one",
        1,
        (height, width),
        classes_HW,
        Objects.of_masks(mask_NHW, torch.tensor([2, 7])),
    )

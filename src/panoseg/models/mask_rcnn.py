"""Mask R-CNN: objects of photographs (He et al. 2017, 1703.06870), as in torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from panoseg.models.configs.mask_rcnn import MaskRcnnConfig
from panoseg.models.detector import (
    INSTANCE_LOSSES,
    detect,
    feature_pyramid,
    image_of,
    instance_losses,
    object_heads,
    proposal_network,
)
from panoseg.models.outputs import PhotographLabels, PhotographOutput
from panoseg.models.photograph_network import AnyPhotographNetwork, mean_losses


class MaskRcnn(AnyPhotographNetwork):
    """Mask R-CNN on a feature pyramid; its entries have torchvision's names."""

    loss_names = ("loss", *INSTANCE_LOSSES)
    scope = None
    config: MaskRcnnConfig

    def __init__(self, config: MaskRcnnConfig) -> None:
        super().__init__(config)
        # torchvision's weights of COCO were trained without an epsilon.
        self.backbone = feature_pyramid(config, epsilon=0.0 if config.weights == "coco" else 1e-5)
        self.rpn = proposal_network(config)
        self.roi_heads = object_heads(config)

    def losses(self, images: Sequence[Tensor], labels: Sequence[PhotographLabels]) -> dict[str, Tensor]:
        """The losses of proposals, classes, boxes and masks, and their sum."""
        batch = self.padded(images)
        pyramid = self.backbone(batch.tensors)
        each = [
            instance_losses(self.rpn, self.roi_heads, *image_of(batch, pyramid, index), entry)
            for index, entry in enumerate(labels)
        ]
        parts = mean_losses(each)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def outputs(self, images: ImageList, sizes_HW: Sequence[tuple[int, int]]) -> list[PhotographOutput]:
        """Objects alone."""
        pyramid = self.backbone(images.tensors)
        found = detect(self.rpn, self.roi_heads, images, pyramid, sizes_HW, self.config)
        return [PhotographOutput(objects.size_HW, objects) for objects in found]

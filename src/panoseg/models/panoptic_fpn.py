"""The semantic head of Panoptic FPN: the maps of a feature pyramid, brought to stride 4 and summed.

Kirillov et al. 2019, "Panoptic feature pyramid networks" (1901.02446), section 3.1 and figure 3.
Shape suffixes: B images, K classes, h w pixels at stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from panoseg.models.configs.photograph import PanopticFpnConfig
from panoseg.models.mask_rcnn import (
    INSTANCE_LOSSES,
    LEVELS,
    Pyramid,
    detect,
    feature_pyramid,
    image_of,
    instance_losses,
    object_heads,
    proposal_network,
)
from panoseg.models.network import Details
from panoseg.models.outputs import PhotographLabels, PhotographOutput
from panoseg.models.photograph_network import (
    PhotographNetwork,
    detection_rows,
    group_norm,
    mean_losses,
    reach,
    semantic_loss,
)
from panoseg.panoptic.merge import MergeThresholds


class SemanticHead(nn.Module):
    """Scores of the classes of pixels, at stride 4."""

    stride = 4

    def __init__(self, levels: int, pyramid_width: int, width: int, classes: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_way_up(steps, pyramid_width, width) for steps in range(levels))
        self.scores = nn.Conv2d(width, classes, 1)
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.constant_(self.scores.get_parameter("bias"), 0.0)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return scores B x K x h x w.

        Args:
            maps: The pyramid, finest first, each map half the size of the one before.
        """
        brought = [level(entry) for level, entry in zip(self.levels, maps, strict=True)]
        scores_BKhw: Tensor = self.scores(torch.stack(brought).sum(0))
        return scores_BKhw


def _way_up(steps: int, pyramid_width: int, width: int) -> nn.Sequential:
    """Return the layers from a level of the pyramid to stride 4.

    They are ``steps`` times a convolution and twice the size, or one convolution.
    """
    layers: list[nn.Module] = []
    for number in range(max(1, steps)):
        convolution = nn.Conv2d(
            pyramid_width if number == 0 else width, width, 3, padding=1, bias=False
        )
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        layers += [convolution, group_norm(width), nn.ReLU(inplace=True)]
        if steps:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


class PanopticFpn(PhotographNetwork):
    """Things as candidates, and pixels as stuff or, in one class, things."""

    loss_names = ("loss", *INSTANCE_LOSSES, "semantic")
    scope = "stuff"
    finds_objects = True
    config: PanopticFpnConfig

    def __init__(self, config: PanopticFpnConfig) -> None:
        super().__init__(config)
        self.thresholds = MergeThresholds(
            config.merge_score, config.merge_overlap, config.stuff_area
        )
        self.backbone = feature_pyramid(config)
        self.rpn = proposal_network(config)
        self.roi_heads = object_heads(config)
        self.semantic_head = SemanticHead(
            len(LEVELS), config.pyramid_width, config.semantic_width, 1 + config.stuff
        )

    def image_losses(
        self, images: Sequence[Tensor], labels: Sequence[PhotographLabels]
    ) -> dict[str, Tensor]:
        """Return the losses of proposals, classes, boxes, masks and pixels, and their weighted sum.

        Section 3.2.
        """
        batch = self.padded(images)
        pyramid = self.backbone(batch.tensors)
        maps_BKhw = self._scores(pyramid)
        each = []
        for index, entry in enumerate(labels):
            instance = instance_losses(
                self.rpn, self.roi_heads, *image_of(batch, pyramid, index), entry
            )
            each.append(
                {
                    **instance,
                    "semantic": semantic_loss(maps_BKhw[index], self.semantic_head.stride, entry),
                }
            )
        parts = mean_losses(each)
        instances = torch.stack([parts[name] for name in INSTANCE_LOSSES]).sum()
        total = (
            self.config.instance_weight * instances
            + self.config.semantic_weight * parts["semantic"]
        )
        return {"loss": total, **parts}

    def padded_outputs(
        self, images: ImageList, sizes_HW: Sequence[tuple[int, int]]
    ) -> list[PhotographOutput]:
        """Objects and scores of pixels."""
        pyramid = self.backbone(images.tensors)
        maps_BKhw = self._scores(pyramid)
        found = detect(self.rpn, self.roi_heads, images, pyramid, sizes_HW, self.config)
        return [
            PhotographOutput(
                objects.size_HW,
                objects,
                maps_1Khw[None],
                reach(image_HW, self.semantic_head.stride),
            )
            for objects, maps_1Khw, image_HW in zip(
                found, maps_BKhw, images.image_sizes, strict=True
            )
        ]

    def details_of(self, outputs: Sequence[PhotographOutput]) -> Details:
        """Return segmentations, and the candidates before they are merged."""
        rows = [detection_rows(output, self.labels) for output in outputs]
        return Details([self.panoptic(output) for output in outputs], detections=rows)

    def _scores(self, pyramid: Pyramid) -> Tensor:
        scores_BKhw: Tensor = self.semantic_head([pyramid[level] for level in LEVELS])
        return scores_BKhw.float()

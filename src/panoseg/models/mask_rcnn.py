"""Mask R-CNN, objects of photographs, and Panoptic FPN, which adds a head for the class of pixels.

Mask R-CNN is made of torchvision's parts: a feature pyramid, proposals, and heads for class, box
and mask. Lin et al. 2017, "Feature pyramid networks"; He et al. 2017, "Mask R-CNN" (1703.06870).
Layers and entries are those of torchvision's ``maskrcnn_resnet50_fpn``; its resizing is left out,
since readers give images as they are wanted.

The semantic head of Panoptic FPN sums the maps of the feature pyramid, brought to stride 4.
Kirillov et al. 2019, "Panoptic feature pyramid networks" (1901.02446), section 3.1 and figure 3.

Shape suffixes: B images, N candidates, S side of a small mask, K classes, h w pixels at stride 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import backbone_utils, faster_rcnn, mask_rcnn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from panoseg.models.configs.photograph import (
    STAGE_WIDTHS,
    DetectorConfig,
    MaskRcnnConfig,
    PanopticFpnConfig,
)
from panoseg.models.network import Details
from panoseg.models.outputs import DetectedObjects, PhotographLabels, PhotographOutput
from panoseg.models.photograph_network import (
    PhotographNetwork,
    detection_rows,
    group_norm,
    mean_losses,
    reach,
    residual_network,
    semantic_loss,
)
from panoseg.panoptic.merge import MergeThresholds

RATIOS = (0.5, 1.0, 2.0)
"""Height by width of the anchors."""
LEVELS, STRIDES = ("0", "1", "2", "3"), (4, 8, 16, 32)
"""Maps of the pyramid and their strides; one more, "pool", is for proposals alone."""
BOX_SIDE, MASK_SIDE = 7, 14
"""Places a side at which the heads look at a box; masks have twice as many."""
_LOSSES = {
    "proposal": "loss_objectness",
    "proposal_box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}
INSTANCE_LOSSES = tuple(_LOSSES)

Pyramid = Mapping[str, Tensor]


def feature_pyramid(
    config: DetectorConfig, epsilon: float = 1e-5
) -> backbone_utils.BackboneWithFPN:
    """Return the backbone with its pyramid; ``epsilon`` is that of its frozen batch norms."""
    return backbone_utils.BackboneWithFPN(
        residual_network(config.backbone, config.norm, epsilon),
        {f"layer{stage}": level for stage, level in enumerate(LEVELS, start=1)},
        list(STAGE_WIDTHS[config.backbone]),
        config.pyramid_width,
        norm_layer=group_norm if config.group_norm else None,
    )


def proposal_network(config: DetectorConfig) -> RegionProposalNetwork:
    """The network that proposes boxes."""
    proposals = {"training": config.train_proposals, "testing": config.test_proposals}
    return RegionProposalNetwork(
        AnchorGenerator(
            tuple((size,) for size in config.anchor_sizes), (RATIOS,) * len(config.anchor_sizes)
        ),
        RPNHead(config.pyramid_width, len(RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=config.anchors_per_image,
        positive_fraction=0.5,
        pre_nms_top_n=proposals,
        post_nms_top_n=proposals,
        nms_thresh=0.7,
    )


def object_heads(config: DetectorConfig) -> RoIHeads:
    """The heads for class, box and mask."""
    scores, width = config.things + 1, config.mask_widths[-1]
    return RoIHeads(
        _box_sampler(BOX_SIDE),
        faster_rcnn.TwoMLPHead(config.pyramid_width * BOX_SIDE**2, config.box_width),
        faster_rcnn.FastRCNNPredictor(config.box_width, scores),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.boxes_per_image,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=config.min_score,
        nms_thresh=config.box_overlap,
        detections_per_img=config.detections,
        mask_roi_pool=_box_sampler(MASK_SIDE),
        mask_head=mask_rcnn.MaskRCNNHeads(
            config.pyramid_width,
            config.mask_widths,
            1,
            norm_layer=group_norm if config.group_norm else None,
        ),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(width, width, scores),
    )


def _box_sampler(side: int) -> MultiScaleRoIAlign:
    """Return the layer that samples each box at ``side`` x ``side`` places of the pyramid.

    Larger boxes are sampled in coarser maps. The strides are given: torchvision takes them from the
    first image that it sees, whose padding it does not know, and keeps them, so that small images
    would be sampled at wrong places, and a resumed training at others than before.
    """
    layer = MultiScaleRoIAlign(LEVELS, side, sampling_ratio=2)
    layer.scales = [1 / stride for stride in STRIDES]
    layer.map_levels = initLevelMapper(int(math.log2(STRIDES[0])), int(math.log2(STRIDES[-1])))
    return layer


def instance_losses(
    proposals: RegionProposalNetwork,
    heads: RoIHeads,
    images: ImageList,
    pyramid: Pyramid,
    labels: PhotographLabels,
) -> dict[str, Tensor]:
    """Losses of one image by name (``INSTANCE_LOSSES``). images, pyramid: of this image alone.

    Always in float32, also under mixed precision: in half precision anchors would be off by some
    pixels.
    """
    targets = [{"boxes": labels.box_N4, "labels": labels.label_N, "masks": labels.mask_NHW}]
    with torch.autocast(images.tensors.device.type, enabled=False):
        features = {level: maps.float() for level, maps in pyramid.items()}
        boxes, proposal_losses = proposals(images, features, targets)
        _, head_losses = heads(features, boxes, images.image_sizes, targets)
    found = {**proposal_losses, **head_losses}
    return {name: found[key] for name, key in _LOSSES.items()}


def image_of(
    images: ImageList, pyramid: Pyramid, index: int
) -> tuple[ImageList, dict[str, Tensor]]:
    """One image of a batch, with its pyramid, as a batch of one."""
    one = slice(index, index + 1)
    return ImageList(images.tensors[one], images.image_sizes[one]), {
        level: maps[one] for level, maps in pyramid.items()
    }


def detect(
    proposals: RegionProposalNetwork,
    heads: RoIHeads,
    images: ImageList,
    pyramid: Pyramid,
    sizes_HW: Sequence[tuple[int, int]],
    config: DetectorConfig,
) -> list[DetectedObjects]:
    """The candidates of each image, in pixels of images of the requested sizes."""
    with torch.autocast(images.tensors.device.type, enabled=False):
        features = {level: maps.float() for level, maps in pyramid.items()}
        boxes, _ = proposals(images, features)
        found, _ = heads(features, boxes, images.image_sizes)
    return [
        _objects(entry, image_HW, size_HW, config)
        for entry, image_HW, size_HW in zip(found, images.image_sizes, sizes_HW, strict=True)
    ]


def _objects(
    found: dict[str, Tensor],
    image_HW: tuple[int, int],
    size_HW: tuple[int, int],
    config: DetectorConfig,
) -> DetectedObjects:
    """Candidates of one image, padded to their fixed number."""
    missing = config.detections - len(found["scores"])
    down, across = size_HW[0] / image_HW[0], size_HW[1] / image_HW[1]
    box_N4 = found["boxes"] * found["boxes"].new_tensor([across, down, across, down])
    return DetectedObjects(
        F.pad(found["masks"][:, 0], (0, 0, 0, 0, 0, missing))[None],
        F.pad(box_N4, (0, 0, 0, missing))[None],
        F.pad(found["scores"], (0, missing))[None],
        F.pad(found["labels"], (0, missing))[None],
        size_HW,
        config.mask_threshold,
    )


class MaskRcnn(PhotographNetwork):
    """Mask R-CNN on a feature pyramid; its entries have torchvision's names."""

    loss_names = ("loss", *INSTANCE_LOSSES)
    scope = None
    finds_objects = True
    config: MaskRcnnConfig

    def __init__(self, config: MaskRcnnConfig) -> None:
        super().__init__(config)
        # torchvision's weights of COCO were trained without an epsilon.
        self.backbone = feature_pyramid(config, epsilon=0.0 if config.weights == "coco" else 1e-5)
        self.rpn = proposal_network(config)
        self.roi_heads = object_heads(config)

    def image_losses(
        self, images: Sequence[Tensor], labels: Sequence[PhotographLabels]
    ) -> dict[str, Tensor]:
        """The losses of proposals, classes, boxes and masks, and their sum."""
        batch = self.padded(images)
        pyramid = self.backbone(batch.tensors)
        each = [
            instance_losses(self.rpn, self.roi_heads, *image_of(batch, pyramid, index), entry)
            for index, entry in enumerate(labels)
        ]
        parts = mean_losses(each)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def padded_outputs(
        self, images: ImageList, sizes_HW: Sequence[tuple[int, int]]
    ) -> list[PhotographOutput]:
        """Objects alone."""
        pyramid = self.backbone(images.tensors)
        found = detect(self.rpn, self.roi_heads, images, pyramid, sizes_HW, self.config)
        return [PhotographOutput(objects.size_HW, objects) for objects in found]

    def details_of(self, outputs: Sequence[PhotographOutput]) -> Details:
        """Return the candidates."""
        return Details(detections=[detection_rows(output, self.labels) for output in outputs])


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

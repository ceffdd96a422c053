"""PSPNet: a map of the image pooled over parts of several sizes, for the class of each pixel.

Zhao et al. 2017, "Pyramid scene parsing network" (1612.01105), sections 3.2 and 3.3. Shape
suffixes: B images, C channels, K classes, h w pixels at stride 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.image_list import ImageList

from panoseg.errors import ConfigError
from panoseg.models.configs.photograph import STAGE_WIDTHS, PspNetConfig, Scope
from panoseg.models.network import Details, classes_as_segments, labels_of
from panoseg.models.outputs import PhotographLabels, PhotographOutput
from panoseg.models.photograph_network import (
    PhotographNetwork,
    dilated,
    group_norm,
    mean_losses,
    reach,
    residual_network,
    semantic_loss,
)
from panoseg.panoptic.panoptic import Panoptic

Norm = Callable[[int], nn.Module]


class PyramidPooling(nn.Module):
    """A map, and its means over parts of the image, which are convolved and spread again.

    Args:
        bins: Parts a side of each level.
        width: Channels of each level.
    """

    def __init__(self, channels: int, width: int, bins: Sequence[int], norm: Norm) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(parts), *_convolution(channels, width, 1, norm))
            for parts in bins
        )
        self.channels = channels + width * len(bins)

    def forward(self, maps_BChw: Tensor) -> Tensor:
        """The map and its levels, one after the other in the channels."""
        size = maps_BChw.shape[-2:]
        levels = (
            F.interpolate(level(maps_BChw), size, mode="bilinear", align_corners=False)
            for level in self.levels
        )
        return torch.cat([maps_BChw, *levels], dim=1)


class PspNet(PhotographNetwork):
    """The class of each pixel, of stuff (all things being one more class) or of all classes."""

    loss_names = ("loss", "semantic", "auxiliary")
    finds_objects = False
    config: PspNetConfig

    def __init__(self, config: PspNetConfig) -> None:
        super().__init__(config)
        self.scope: Scope = config.scope
        *_, before, last = STAGE_WIDTHS[config.backbone]
        classes = config.classes if config.scope == "all" else 1 + config.stuff
        norm: Norm = group_norm if config.norm == "group" else nn.BatchNorm2d
        network = dilated(residual_network(config.backbone, config.norm))
        self.backbone = IntermediateLayerGetter(network, {"layer3": "before", "layer4": "last"})
        self.pooling = PyramidPooling(last, config.bin_width, config.bins, norm)
        self.head = _head(self.pooling.channels, config.width, classes, config.dropout, norm)
        self.auxiliary_head = _head(before, config.auxiliary_width, classes, config.dropout, norm)

    def image_losses(
        self, images: Sequence[Tensor], labels: Sequence[PhotographLabels]
    ) -> dict[str, Tensor]:
        """Return the losses of the pixels' classes, and their weighted sum (section 3.3).

        They are computed of the last map and of the one before.
        """
        if len(images) == 1 and self.config.norm != "group" and 1 in self.config.bins:
            raise ConfigError(
                "Batch norms need at least two photographs a step: raise the batch size, or use"
                " norm group."
            )
        batch = self.padded(images)
        maps = self.backbone(batch.tensors)
        scores = {
            "semantic": self.head(self.pooling(maps["last"])),
            "auxiliary": self.auxiliary_head(maps["before"]),
        }
        each = [
            {
                name: semantic_loss(maps_BKhw[index], self.config.stride, entry)
                for name, maps_BKhw in scores.items()
            }
            for index, entry in enumerate(labels)
        ]
        parts = mean_losses(each)
        return {
            "loss": parts["semantic"] + self.config.auxiliary_weight * parts["auxiliary"],
            **parts,
        }

    def padded_outputs(
        self, images: ImageList, sizes_HW: Sequence[tuple[int, int]]
    ) -> list[PhotographOutput]:
        """Scores of pixels alone."""
        maps_BKhw = self.head(self.pooling(self.backbone(images.tensors)["last"])).float()
        return [
            PhotographOutput(size_HW, None, maps_Khw[None], reach(image_HW, self.config.stride))
            for maps_Khw, image_HW, size_HW in zip(
                maps_BKhw, images.image_sizes, sizes_HW, strict=True
            )
        ]

    def panoptic(self, output: PhotographOutput) -> Panoptic:
        """Return a segmentation in which all pixels of a class are one segment.

        Things that the network does not distinguish are not included.
        """
        label_BHW = labels_of(output.label_BHW)
        [found] = classes_as_segments(
            self.labels.semantic_classes(label_BHW, self.scope), self.table
        )
        return found

    def details_of(self, outputs: Sequence[PhotographOutput]) -> Details:
        """Return the labels of the pixels."""
        return Details(labels=[labels_of(one.label_BHW)[0].cpu().numpy() for one in outputs])


def _head(channels: int, width: int, classes: int, dropout: float, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(channels, width, 3, norm), nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1)
    )


def _convolution(channels: int, width: int, side: int, norm: Norm) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, width, side, padding=side // 2, bias=False)
    return convolution, norm(width), nn.ReLU(inplace=True)

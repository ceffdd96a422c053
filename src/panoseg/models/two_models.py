"""PSPNet, which scores pixels, and the two-model recipe, which merges it with a network of objects.

PSPNet: Zhao et al. 2017, "Pyramid scene parsing network" (1612.01105), sections 3.2 and 3.3: a map
of the image pooled over parts of several sizes, for the class of each pixel. The recipe: Kirillov
et al. 2019, "Panoptic segmentation" (1801.00868), section 7.

Shape suffixes: B images, C channels, K classes, h w pixels at stride 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.image_list import ImageList

from panoseg.classes import ClassTable
from panoseg.coco.masks import MOST_PIXELS
from panoseg.data import PhotographConfig
from panoseg.data.photographs import choose_view
from panoseg.errors import ConfigError, DatasetError, WeightsError
from panoseg.models.configs.base import NetworkConfig
from panoseg.models.configs.photograph import (
    STAGE_WIDTHS,
    MaskRcnnConfig,
    PanopticFpnConfig,
    PspNetConfig,
    Scope,
)
from panoseg.models.network import Details, classes_as_segments, labels_of
from panoseg.models.outputs import PhotographLabels, PhotographOutput
from panoseg.models.photograph_network import (
    PhotographNetwork,
    detection_rows,
    dilated,
    group_norm,
    mean_losses,
    reach,
    residual_network,
    semantic_loss,
)
from panoseg.panoptic import Panoptic

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


def resized(image: Image.Image, sides: PhotographConfig) -> Tensor:
    """Return a photograph as a network reads it: uint8, C x H x W.

    Args:
        image: RGB.
        sides: The size to which it is resized.

    Raises:
        DatasetError: It would be too large.
    """
    view = choose_view((image.height, image.width), sides)
    height, width = view.window_HW
    if height * width > MOST_PIXELS:
        raise too_large(
            f"{image.height} x {image.width} pixels, which the network would see as {height} x"
            f" {width}"
        )
    return torch.from_numpy(view.image(image).transpose(2, 0, 1).copy())


def too_large(found: str) -> DatasetError:
    """Return the error of a photograph that does not fit into memory."""
    return DatasetError(
        f"{found}: this photograph does not fit into memory. Pass smaller sizes, e.g. --min-side"
        " 800 --max-side 1333."
    )


@dataclass(frozen=True)
class TwoModelsConfig(NetworkConfig):
    """The options of two networks that work together; not a network that can be trained."""

    name: ClassVar[str] = "two_models"
    network: ClassVar[str] = "panoseg.models.two_models:TwoModels"
    inputs = "photograph"
    answers = "panoptic"
    scorer = "coco_panoptic"
    train_options = frozenset()

    semantic: PspNetConfig | PanopticFpnConfig
    """The network that scores pixels."""
    instances: MaskRcnnConfig | PanopticFpnConfig
    """The network that finds objects."""

    @property
    def title(self) -> str:
        """The names of both."""
        return f"{self.semantic.title} + {self.instances.title}"


class TwoModels(PhotographNetwork):
    """The pixels of one network with the objects of another, of the same photographs.

    It reads photographs of their size on disk, and resizes them for each network.

    Args:
        semantic: Scores pixels; with a table.
        instances: Finds objects; with a table.
        sides: Sizes to which photographs are resized for each of both.

    Raises:
        WeightsError: The networks do not go together.
    """

    finds_objects = True

    def __init__(
        self,
        semantic: PhotographNetwork,
        instances: PhotographNetwork,
        sides: tuple[PhotographConfig, PhotographConfig],
    ) -> None:
        super().__init__(TwoModelsConfig(semantic.config, instances.config))
        if semantic.scope is None:
            raise _wrong("--weights", semantic, "scores pixels: PSPNet")
        if not instances.finds_objects:
            raise _wrong("--instances", instances, "finds objects: Mask R-CNN")
        self.semantic, self.instances, self.sides = semantic, instances, sides
        self.scope = semantic.scope
        self._table = joined_table(semantic, instances)

    def outputs(
        self, images: Sequence[Tensor], sizes_HW: Sequence[tuple[int, int]]
    ) -> list[PhotographOutput]:
        """Return one output an image; arguments as in ``PhotographNetwork.outputs``."""
        pictures = [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
        parts = []
        for network, sides in zip((self.semantic, self.instances), self.sides, strict=True):
            seen = [resized(picture, sides).to(self.mean_C11.device) for picture in pictures]
            parts.append(network.outputs(seen, sizes_HW))
        return [two_models(one, other) for one, other in zip(*parts, strict=True)]

    def details_of(self, outputs: Sequence[PhotographOutput]) -> Details:
        """Return segmentations, and the candidates before they are merged."""
        rows = [detection_rows(output, self.labels) for output in outputs]
        return Details([self.panoptic(output) for output in outputs], detections=rows)


def two_models(semantic: PhotographOutput, instances: PhotographOutput) -> PhotographOutput:
    """Return the pixels of one output with the objects of another, of the same photograph.

    Raises:
        ValueError: Their sizes differ, or one lacks its part.
    """
    if (
        semantic.size_HW != instances.size_HW
        or semantic.maps_BKhw is None
        or instances.objects is None
    ):
        raise ValueError(
            f"scores of pixels at {semantic.size_HW} and objects at {instances.size_HW}: one size"
            " and both parts"
        )
    return PhotographOutput(
        semantic.size_HW, instances.objects, semantic.maps_BKhw, semantic.reach_HW
    )


def _wrong(option: str, network: PhotographNetwork, wanted: str) -> WeightsError:
    return WeightsError(
        f"{option} is {network.config.title}, but has to be a network that {wanted}. Exchange or"
        " replace the weights."
    )


def joined_table(semantic: PhotographNetwork, instances: PhotographNetwork) -> ClassTable:
    """Return the things of one network and the stuff of another.

    Raises:
        WeightsError: Their ids mean different classes.
    """
    things = {entry.id: entry for entry in instances.table.classes if entry.kind == "thing"}
    own: Mapping[int, object] = {entry.id: entry for entry in semantic.table.classes}
    table = semantic.table
    for id_, entry in things.items():
        if id_ in own and (table[id_].name, table[id_].kind) != (entry.name, entry.kind):
            raise WeightsError(
                f"Class {id_} is {table[id_].name} to one network and {entry.name} to the other."
                " Use weights that were trained on datasets of the same classes."
            )
    if semantic.scope == "all" and things.keys() != set(table.ids("thing")):
        raise WeightsError(
            "The two networks know different things, but the first distinguishes all classes. Use"
            " weights of one dataset."
        )
    stuff = {id_: table[id_] for id_ in table.ids("stuff")}
    entries = {**things, **{id_: table[id_] for id_ in things if id_ in own}, **stuff}
    return ClassTable(table.name, tuple(entries[id_] for id_ in sorted(entries)))

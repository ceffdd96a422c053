"""The two-model recipe: one network scores pixels, another finds objects, both are merged.

Kirillov et al. 2019, "Panoptic segmentation" (1801.00868), section 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from panoseg.classes import ClassTable
from panoseg.coco.masks import MOST_PIXELS
from panoseg.data import PhotographConfig
from panoseg.data.photographs import choose_view
from panoseg.errors import DatasetError, WeightsError
from panoseg.models.configs.base import NetworkConfig
from panoseg.models.configs.photograph import MaskRcnnConfig, PanopticFpnConfig, PspNetConfig
from panoseg.models.network import Details
from panoseg.models.outputs import PhotographOutput
from panoseg.models.photograph_network import PhotographNetwork, detection_rows


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

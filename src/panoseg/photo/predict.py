"""One network, or two of which one scores pixels and the other finds objects, make one picture of a
photograph.

Shape suffixes: C colours, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from panoseg.classes import ClassTable
from panoseg.coco.masks import MOST_PIXELS
from panoseg.data.config import PhotographConfig
from panoseg.data.photographs import choose_view
from panoseg.errors import ConfigError, DatasetError, WeightsError
from panoseg.maps.predict import find_device
from panoseg.models.configs.photograph import DetectorConfig
from panoseg.models.initial_weights import published_mask_rcnn
from panoseg.models.outputs import PhotographOutput
from panoseg.models.photograph_network import AnyPhotographNetwork, Labels, panoptics, two_models
from panoseg.models.weights import CARD, Weights, load_weights
from panoseg.panoptic.merge import MergeThresholds
from panoseg.panoptic.panoptic import Panoptic
from panoseg.photo.options import PhotoOptions
from panoseg.training.evaluate import WEIGHTS
from panoseg.training.photograph_tasks import SemanticPhotographTask, thresholds_of

if TYPE_CHECKING:
    from PIL import Image

PUBLISHED = "coco"
"""The name of torchvision's Mask R-CNN."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network on its device, with what its labels mean and the sizes at which it sees
    photographs.
    """

    model: AnyPhotographNetwork
    table: ClassTable
    sides: PhotographConfig
    device: torch.device

    @classmethod
    def of(cls, weights: Weights, options: PhotoOptions, device: torch.device) -> Network:
        """The network of some weights. options: what they change of it."""
        card = weights.card
        trained = {name: card.provenance.get(name, 0) for name in ("min_side", "max_side")}
        sides = {
            name: side if getattr(options, name) is None else getattr(options, name)
            for name, side in trained.items()
        }
        weights = replace(weights, card=replace(card, model=_changed(card.model, options)))
        model: Any = weights.model()
        return cls(model.to(device), card.classes, PhotographConfig(**sides), device)

    @property
    def has_pixels(self) -> bool:
        """Whether it scores the classes of pixels."""
        return self.model.scope is not None

    @property
    def has_objects(self) -> bool:
        """Whether it finds objects."""
        return isinstance(self.model.config, DetectorConfig)

    def output(self, image: Image.Image) -> PhotographOutput:
        """What the network says of a photograph, at the photograph's size. Raises ``DatasetError``
        where that is too large.
        """
        size_HW = (image.height, image.width)
        view = choose_view(size_HW, self.sides)
        height, width = view.window_HW
        if height * width > MOST_PIXELS:
            raise _too_large(
                f"{size_HW[0]} x {size_HW[1]} pixels, which the network would see as {height} x"
                f" {width}"
            )
        image_CHW = torch.from_numpy(view.image(image).transpose(2, 0, 1).copy()).to(self.device)
        try:
            [output] = self.model.predict([image_CHW], [size_HW])
        except torch.OutOfMemoryError as error:
            raise _too_large(
                f"{height} x {width} pixels need more memory than {self.device} has"
            ) from error
        return output


class Predictor:
    """What makes a picture of a photograph: one network, or one for pixels and another for objects.

    table: the classes of its pictures.
    """

    def __init__(self, network: Network, instances: Network | None, options: PhotoOptions) -> None:
        """Raises ``WeightsError`` for networks that do not go together, ``ConfigError`` for options
        that would do nothing.
        """
        self.network, self.instances = network, instances
        _check_options(network, instances, options)
        if instances is None:
            self.table, thresholds = network.table, thresholds_of(network.model)
        else:
            _check_parts(network, instances)
            self.table, thresholds = _joined(network, instances), MergeThresholds()
        given = {name: getattr(options, name) for name in ("score", "overlap", "stuff_area")}
        self.thresholds = replace(
            thresholds, **{name: value for name, value in given.items() if value is not None}
        )
        self.labels = Labels.of(self.table)

    @classmethod
    def open(cls, weights: str, instances: str | None, options: PhotoOptions) -> Predictor:
        """Load the networks. weights, instances: folders of weights or of runs, or "coco" for the
        published Mask R-CNN.
        """
        device = find_device(options.device)
        networks = [
            Network.of(_load(name), options, device)
            for name in (weights, instances)
            if name is not None
        ]
        return cls(networks[0], networks[1] if instances is not None else None, options)

    def __call__(self, image: Image.Image) -> Panoptic:
        """The picture of a photograph, of its size."""
        output = self.network.output(image)
        if self.instances is not None:
            output = two_models(output, self.instances.output(image))
        elif (
            not self.network.has_objects
        ):  # the class of each pixel, things included where it tells them apart
            return SemanticPhotographTask(self.network.model, self.table).picture(output)
        [picture] = panoptics(
            output, self.labels, self.network.model.scope, self.thresholds, self.table
        )
        return picture


def _too_large(found: str) -> DatasetError:
    return DatasetError(
        found, "a photograph that fits into memory", "pass e.g. --min-side 800 --max-side 1333"
    )


def _load(name: str) -> Weights:
    if name == PUBLISHED:
        try:
            return published_mask_rcnn()
        except WeightsError as error:
            raise WeightsError(
                error.found, error.expected, "connect once, put the file there, or name a folder"
            ) from error
    folder = Path(name)
    weights = load_weights(folder / WEIGHTS if (folder / WEIGHTS / CARD).exists() else folder)
    if not weights.card.of_photographs:
        raise WeightsError(
            f"{name}: weights of {weights.card.model.title}, which looks at seasons",
            "those of a network for photographs",
            "use panoseg map, or other weights",
        )
    return weights


def _changed(config: Any, options: PhotoOptions) -> Any:
    """A network's options with those of the command."""
    if not isinstance(config, DetectorConfig):
        return config
    changed: dict[str, Any] = {}
    if options.mask is not None:
        changed["mask_threshold"] = options.mask
    if options.score is not None:  # or candidates that are asked for would be left out before
        changed["min_score"] = min(config.min_score, options.score)
    return replace(config, **changed)


def _check_options(network: Network, instances: Network | None, options: PhotoOptions) -> None:
    title = network.model.config.title
    if options.of_objects and instances is None and not network.has_objects:
        name = next(iter(options.of_objects))
        raise ConfigError(
            f"--{name} with {title}, which finds no objects",
            "a network that does",
            "add --instances WEIGHTS",
        )
    if options.stuff_area is not None and not (
        network.has_pixels and (network.has_objects or instances)
    ):
        raise ConfigError(
            f"--stuff-area with {title} alone",
            "a network that merges objects and stuff",
            "leave it out, or use two networks",
        )


def _check_parts(network: Network, instances: Network) -> None:
    for found, is_right, part in (
        (network, network.has_pixels, "--weights"),
        (instances, instances.has_objects, "--instances"),
    ):
        if not is_right:
            wanted = "scores pixels: PSPNet" if part == "--weights" else "finds objects: Mask R-CNN"
            raise WeightsError(
                f"{part} of {found.model.config.title}",
                f"a network that {wanted}",
                "exchange or replace them",
            )


def _joined(network: Network, instances: Network) -> ClassTable:
    """The things of one network and the stuff of another. Raises ``WeightsError`` where their ids
    mean different classes.
    """
    things = {entry.id: entry for entry in instances.table.classes if entry.kind == "thing"}
    own = {entry.id: entry for entry in network.table.classes}
    for id_, entry in things.items():
        if id_ in own and (own[id_].name, own[id_].kind) != (entry.name, entry.kind):
            raise WeightsError(
                f"class {id_} is {own[id_].name} to one network and {entry.name} to the other",
                "one table of classes",
                "use weights that were trained on datasets of the same classes",
            )
    if network.model.scope == "all" and things.keys() != set(network.table.ids("thing")):
        raise WeightsError(
            "two networks of different things",
            "the same things, where the first tells all classes apart",
            "use weights of one dataset",
        )
    stuff = {id_: own[id_] for id_ in network.table.ids("stuff")}
    entries = {**things, **{id_: own[id_] for id_ in things if id_ in own}, **stuff}
    return ClassTable(network.table.name, tuple(entries[id_] for id_ in sorted(entries)))

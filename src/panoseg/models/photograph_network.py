"""The base of networks for photographs: residual backbones, norms, labels and merging.

He et al. 2016, "Deep residual learning", as in torchvision; Yu et al. 2017, "Dilated residual
networks".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from panoseg.classes import ClassTable
from panoseg.coco.masks import encode_mask
from panoseg.data.photographs import VOID, Photograph, PhotographBatch
from panoseg.errors import ConfigError
from panoseg.models.configs.photograph import IGNORED, Backbone, BackboneNorm, Scope, norm_groups
from panoseg.models.initial_weights import take_initial_weights
from panoseg.models.network import PLAIN, Details, Network, PredictOptions
from panoseg.models.outputs import DetectedObjects, PhotographLabels, PhotographOutput, spread
from panoseg.panoptic import Panoptic
from panoseg.panoptic.merge import MergeThresholds, ThingsAndStuff, merge_drawn


def residual_network(
    backbone: Backbone, norm: BackboneNorm, epsilon: float = 1e-5
) -> resnet.ResNet:
    """Return the network with random weights; ``epsilon`` is that of frozen batch norms."""
    frozen = partial(FrozenBatchNorm2d, eps=epsilon)
    layers: dict[BackboneNorm, Callable[..., nn.Module]] = {
        "frozen": frozen,
        "batch": nn.BatchNorm2d,
        "group": group_norm,
    }
    return getattr(resnet, backbone)(weights=None, norm_layer=layers[norm])


def dilated(network: resnet.ResNet) -> resnet.ResNet:
    """Return the same network, with the same weights, whose last two stages keep stride 8.

    Instead of skipping pixels, these stages are dilated. The first block of a stage still reaches
    as far as the stage before it. Works for both kinds of blocks; torchvision's own option is for
    the larger one alone.
    """
    dilation = 1
    for stage in (network.layer3, network.layer4):
        for number, block in enumerate(stage):
            reach = dilation if number == 0 else 2 * dilation
            for layer in block.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.stride = (1, 1)
                    if layer.kernel_size == (3, 3):
                        layer.dilation = layer.padding = (reach, reach)
        dilation *= 2
    return network


def group_norm(width: int) -> nn.GroupNorm:
    """A group norm over ``width`` channels."""
    return nn.GroupNorm(norm_groups(width), width)


@dataclass(frozen=True)
class Labels:
    """The labels of a class table; void classes have none.

    >>> labels = Labels((1, 3), (2, 5))
    >>> labels.semantic_ids("stuff"), labels.semantic_ids("all")
    ((-1, 2, 5), (1, 2, 3, 5))
    """

    things: tuple[int, ...]
    """Class ids of things, ascending."""
    stuff: tuple[int, ...]
    """Class ids of stuff, ascending."""

    @classmethod
    def of(cls, table: ClassTable) -> Labels:
        """The labels of a table's classes."""
        return cls(table.ids("thing"), table.ids("stuff"))

    def semantic_ids(self, scope: Scope) -> tuple[int, ...]:
        """Class id of each label of pixels; ``VOID`` for the label of all things together."""
        return (
            (VOID, *self.stuff) if scope == "stuff" else tuple(sorted((*self.things, *self.stuff)))
        )

    def thing_classes(self, label_N: Tensor) -> Tensor:
        """Class ids of labels of things, of any shape; ``VOID`` for 0."""
        return torch.tensor((VOID, *self.things), device=label_N.device)[label_N]

    def semantic_classes(self, label_HW: Tensor, scope: Scope) -> Tensor:
        """Class ids of labels of pixels, of any shape; ``VOID`` for all things together."""
        return torch.tensor(self.semantic_ids(scope), device=label_HW.device)[label_HW]

    def of_photograph(self, photograph: Photograph, scope: Scope | None) -> PhotographLabels:
        """Return what a network learns from a photograph.

        Args:
            photograph: The photograph.
            scope: Which classes of pixels the network distinguishes; None for none.

        Raises:
            ValueError: The photograph has no labels.
        """
        objects, classes_HW = photograph.objects, photograph.classes_HW
        if objects is None or classes_HW is None:
            raise ValueError(f"{photograph.name} has no labels; open the dataset with them")
        thing = {class_id: number for number, class_id in enumerate(self.things, start=1)}
        pixel = {} if scope is None else self._semantic_labels(scope)
        semantic_HW = None if scope is None else _looked_up(classes_HW, pixel)
        return PhotographLabels(
            semantic_HW, objects.mask_NHW, objects.box_N4, _looked_up(objects.class_N, thing)
        )

    def _semantic_labels(self, scope: Scope) -> dict[int, int]:
        labels = {
            class_id: number
            for number, class_id in enumerate(self.semantic_ids(scope))
            if class_id != VOID
        }
        return {**dict.fromkeys(self.things, 0), **labels}


def _looked_up(classes: Tensor, labels: dict[int, int]) -> Tensor:
    """The label of each class id, ``IGNORED`` for those that have none, ``VOID`` among them."""
    last = max(labels, default=VOID) + 1
    table = torch.tensor(
        [labels.get(class_id, IGNORED) for class_id in range(VOID, last + 1)], device=classes.device
    )
    return table[classes.clamp(min=VOID, max=last) - VOID]


MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1, over ImageNet: what published weights of backbones were trained
with.
"""


class PhotographNetwork(Network):
    """A network for photographs: it scores the classes of pixels, finds objects, or both.

    Subclasses define ``image_losses`` and ``padded_outputs``.
    """

    scope: Scope | None
    """Classes of pixels that it distinguishes (``Labels.semantic_ids``); None: only objects."""
    finds_objects: ClassVar[bool]
    """Whether its outputs have objects."""
    thresholds: MergeThresholds
    """How objects and stuff are merged."""
    mean_C11: Tensor
    deviation_C11: Tensor

    def __init__(self, config: Any) -> None:  # noqa: ANN401
        super().__init__(config)
        self.thresholds = MergeThresholds()
        self.register_buffer("mean_C11", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer(
            "deviation_C11", torch.tensor(DEVIATION)[:, None, None], persistent=False
        )

    @property
    def labels(self) -> Labels:
        """The labels of the network's classes."""
        return Labels.of(self.table)

    def losses(self, batch: PhotographBatch, heatmap_only: bool = False) -> dict[str, Tensor]:
        """Return the losses of a batch, each the mean over the photographs."""
        labels = [self.labels.of_photograph(entry, self.scope) for entry in batch.photographs]
        return self.image_losses([entry.image_CHW for entry in batch.photographs], labels)

    @torch.no_grad()
    def predict(self, batch: PhotographBatch, options: PredictOptions = PLAIN) -> list[Panoptic]:
        """Return one segmentation a photograph, of its size on disk."""
        photographs = batch.photographs
        images = [photograph.image_CHW for photograph in photographs]
        outputs = self.outputs(images, [photograph.size_HW for photograph in photographs])
        return [self.panoptic(output) for output in outputs]

    @torch.no_grad()
    def details(self, batch: PhotographBatch, options: PredictOptions = PLAIN) -> Details:
        """Return what scorers need of a batch."""
        images = [photograph.image_CHW for photograph in batch.photographs]
        sizes_HW = [photograph.size_HW for photograph in batch.photographs]
        return self.details_of(self.outputs(images, sizes_HW))

    def details_of(self, outputs: Sequence[PhotographOutput]) -> Details:
        """Return what scorers need of some outputs."""
        return Details([self.panoptic(output) for output in outputs])

    def panoptic(self, output: PhotographOutput) -> Panoptic:
        """Merge an output into a segmentation."""
        [found] = panoptics(output, self.labels, self.scope, self.thresholds, self.table)
        return found

    def use_thresholds(self, thresholds: Mapping[str, float]) -> None:
        """Merge with other thresholds than those of the options; arguments as in ``Network``."""
        title = self.config.title
        of_objects = [name for name in thresholds if name != "stuff_area"]
        if of_objects and not self.finds_objects:
            raise ConfigError(
                f"--{of_objects[0]} does nothing with {title}, which finds no objects. Add"
                " --instances WEIGHTS, or leave it out."
            )
        if "stuff_area" in thresholds and not (self.finds_objects and self.scope is not None):
            raise ConfigError(
                f"--stuff-area does nothing with {title} alone, which does not merge objects and"
                " stuff. Leave it out, or use two networks."
            )
        known = {name: value for name, value in thresholds.items() if name != "mask"}
        self.thresholds = replace(self.thresholds, **known)  # type: ignore[arg-type]

    def draw_weights(
        self,
        scheme: Literal["published", "torch"],
        heat: float = 0.0,
        taken: Mapping[str, Tensor] | None = None,
    ) -> str:
        """Take the initial weights that the options name.

        The published ones for seasons do not apply. ImageNet's are those of the backbone alone:
        where all of it is replaced, they need not be fetched.
        """
        if self.config.weights == "imagenet" and taken is not None and self._has_backbone(taken):
            return ""
        return take_initial_weights(self, self.table)

    def _has_backbone(self, taken: Mapping[str, Tensor]) -> bool:
        """Whether entries hold the whole backbone."""
        own = self.state_dict()
        names = [name for name in own if name.startswith("backbone.")]
        return all(name in taken and taken[name].shape == own[name].shape for name in names)

    def compile_features(self) -> None:
        """Compile the backbone; the number of objects depends on the data."""
        self.get_submodule("backbone").compile()

    def image_losses(
        self, images: Sequence[Tensor], labels: Sequence[PhotographLabels]
    ) -> dict[str, Tensor]:
        """Return scalars by name, of which "loss" is minimised, in training mode.

        Each is the mean over the images of what it is for each image, so that the weight of
        its objects depends neither on the number of processes nor on the other images of a batch.

        Args:
            images: uint8 C x H x W, of any sizes.
            labels: One entry an image.
        """
        raise NotImplementedError

    @torch.no_grad()
    def outputs(
        self, images: Sequence[Tensor], sizes_HW: Sequence[tuple[int, int]]
    ) -> list[PhotographOutput]:
        """Return one output an image, in evaluation mode.

        Images are padded to the network's stride and no further, so that what is predicted never
        depends on the rest of the batch; those that have one size then go through the network
        together.

        Args:
            images: uint8 C x H x W, of any sizes.
            sizes_HW: Sizes of the outputs, usually those of the photographs on disk.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(self._padded_size([image]), []).append(index)
        found: dict[int, PhotographOutput] = {}
        for indices in groups.values():
            batch = self.padded([images[index] for index in indices])
            sizes = [sizes_HW[index] for index in indices]
            found |= zip(indices, self.padded_outputs(batch, sizes), strict=True)
        return [found[index] for index in range(len(images))]

    def padded_outputs(
        self, images: ImageList, sizes_HW: Sequence[tuple[int, int]]
    ) -> list[PhotographOutput]:
        """Return one output an image of a padded batch."""
        raise NotImplementedError

    def padded(self, images: Sequence[Tensor]) -> ImageList:
        """Standardise images and put them into the upper left corners of tensors of one size."""
        height, width = self._padded_size(images)
        whole = [
            F.pad(
                self._standardised(image), (0, width - image.shape[2], 0, height - image.shape[1])
            )
            for image in images
        ]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return ImageList(torch.stack(whole).contiguous(memory_format=torch.channels_last), sizes)

    def _standardised(self, image_CHW: Tensor) -> Tensor:
        return (image_CHW / 255 - self.mean_C11) / self.deviation_C11

    def _padded_size(self, images: Sequence[Tensor]) -> tuple[int, int]:
        stride = self.config.stride
        height, width = (
            max(-(-image.shape[axis] // stride) for image in images) * stride for axis in (1, 2)
        )
        return height, width


def semantic_loss(maps_Khw: Tensor, stride: int, labels: PhotographLabels) -> Tensor:
    """Return the mean cross-entropy of the pixels of one image that have a label; 0 without any.

    Args:
        maps_Khw: Class scores at a stride.
        stride: Pixels of the image a pixel of the map.
        labels: Labels of the image.
    """
    label_HW = labels.semantic_HW
    assert label_HW is not None, "labels of a network that classifies pixels"
    logits_1KHW = spread(maps_Khw[None].float(), reach(label_HW.shape, stride), label_HW.shape)
    total = F.cross_entropy(logits_1KHW, label_HW[None], ignore_index=IGNORED, reduction="sum")
    return total / (label_HW != IGNORED).sum().clamp(min=1)


def reach(image_HW: Sequence[int], stride: int) -> tuple[float, float]:
    """Rows and columns of a map of some stride that an image covers."""
    return image_HW[0] / stride, image_HW[1] / stride


def mean_losses(losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each loss over the images."""
    return {name: torch.stack([entry[name] for entry in losses]).mean() for name in losses[0]}


def detection_rows(output: PhotographOutput, labels: Labels) -> list[dict[str, Any]]:
    """Return the candidates of one photograph as rows of COCO's detection form.

    Those without a score are padding, and left out.
    """
    objects = output.objects
    assert objects is not None, "an output with objects"
    classes_N = labels.thing_classes(objects.label_BN)[0].tolist()
    rows = []
    for number in objects.score_BN[0].nonzero()[:, 0].tolist():
        candidate_B = torch.tensor([number], device=objects.score_BN.device)
        mask_HW = objects.mask_BHW(candidate_B)[0].cpu().numpy()
        left, top, right, bottom = objects.box_BN4[0, number].tolist()
        rows.append(
            {
                "category_id": classes_N[number],
                "bbox": [left, top, right - left, bottom - top],
                "segmentation": encode_mask(mask_HW),
                "score": float(objects.score_BN[0, number]),
            }
        )
    return rows


def merged(
    output: PhotographOutput, labels: Labels, scope: Scope | None, thresholds: MergeThresholds
) -> ThingsAndStuff:
    """Merge the candidates and the stuff of a photograph.

    Args:
        output: The output of the networks.
        labels: What the labels of the networks mean.
        scope: That of the network which scored the pixels; its things draw nothing.
        thresholds: When candidates and stuff are kept.
    """
    objects, label_BHW = output.objects, output.label_BHW
    device = _device(output)
    if label_BHW is None or scope is None:
        semantic_BHW = torch.full((1, *output.size_HW), VOID, device=device)
    else:
        semantic_BHW = labels.semantic_classes(label_BHW, scope)
    if objects is None:
        nothing = torch.zeros((len(semantic_BHW), 0), device=device)
        return merge_drawn(
            lambda candidate_B: semantic_BHW > VOID,
            nothing,
            nothing.long(),
            semantic_BHW,
            labels.stuff,
            thresholds,
        )
    classes_BN = labels.thing_classes(objects.label_BN)
    return merge_drawn(
        objects.mask_BHW, objects.score_BN, classes_BN, semantic_BHW, labels.stuff, thresholds
    )


def _device(output: PhotographOutput) -> torch.device:
    if output.objects is not None:
        return output.objects.score_BN.device
    return torch.device("cpu") if output.maps_BKhw is None else output.maps_BKhw.device


def panoptics(
    output: PhotographOutput,
    labels: Labels,
    scope: Scope | None,
    thresholds: MergeThresholds,
    table: ClassTable,
) -> list[Panoptic]:
    """Return ``merged`` as segmentations with their tables, one per image.

    This is the only step that waits for the device.
    """
    if output.objects is not None and _device(output).type == "cpu":
        output = replace(output, objects=_drawn(output.objects, thresholds.score))
    return merged(output, labels, scope, thresholds).to_panoptics(table)


def _drawn(objects: DetectedObjects, score: float) -> DetectedObjects:
    """Return the candidates up to the last one of some score.

    A CPU, which waits for nothing, need not look at the others.
    """
    positions = (objects.score_BN >= score).any(0).nonzero()
    count = int(positions[-1]) + 1 if len(positions) else 0
    names = ("shape_BNSS", "box_BN4", "score_BN", "label_BN")
    return replace(objects, **{name: getattr(objects, name)[:, :count] for name in names})

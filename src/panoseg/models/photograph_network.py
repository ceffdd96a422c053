"""Residual networks for photographs, and the norms of networks made with them.

He et al. 2016, "Deep residual learning", as in torchvision; Yu et al. 2017, "Dilated residual
networks".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from panoseg.classes import ClassTable
from panoseg.data.photographs import VOID, Photograph
from panoseg.models.config import PhotographModelConfig
from panoseg.models.configs.photograph import IGNORED, Backbone, BackboneNorm, Scope, norm_groups
from panoseg.models.outputs import DetectedObjects, PhotographLabels, PhotographOutput, spread
from panoseg.panoptic.merge import MergeThresholds, ThingsAndStuff, merge_drawn
from panoseg.panoptic.panoptic import Panoptic


def residual_network(
    backbone: Backbone, norm: BackboneNorm, epsilon: float = 1e-5
) -> resnet.ResNet:
    """The network with drawn weights. epsilon: added to the variances of frozen batch norms."""
    frozen = partial(FrozenBatchNorm2d, eps=epsilon)
    layers: dict[BackboneNorm, Callable[..., nn.Module]] = {
        "frozen": frozen,
        "batch": nn.BatchNorm2d,
        "group": group_norm,
    }
    return getattr(resnet, backbone)(weights=None, norm_layer=layers[norm])


def dilated(network: resnet.ResNet) -> resnet.ResNet:
    """The same network, and the same weights, with the last two stages at stride 8: what they
    skipped, they dilate.

    The first block of a stage still reaches as far as the stage before it. Works for both kinds of
    blocks; torchvision's own way is for the larger one alone.
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
    """The labels of a class table. things, stuff: class ids in ascending order; void classes have
    no label.

    >>> labels = Labels((1, 3), (2, 5))
    >>> labels.semantic_ids("stuff"), labels.semantic_ids("all")
    ((-1, 2, 5), (1, 2, 3, 5))
    """

    things: tuple[int, ...]
    stuff: tuple[int, ...]

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
        """What a network learns from a photograph; scope: which classes of pixels, None where it
        does not tell them apart.

        Raises ``ValueError`` for a photograph without labels.
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


class AnyPhotographNetwork(nn.Module):
    """A network for photographs: it learns from labels, and predicts pixels' classes, objects, or
    both.

    loss_names: what ``losses`` gives. scope: which classes of pixels it tells apart
    (``Labels.semantic_ids``); None for objects alone.
    """

    loss_names: ClassVar[tuple[str, ...]]
    scope: Scope | None
    mean_C11: Tensor
    deviation_C11: Tensor

    def __init__(self, config: PhotographModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean_C11", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer(
            "deviation_C11", torch.tensor(DEVIATION)[:, None, None], persistent=False
        )

    def forward(
        self, images: Sequence[Tensor], labels: Sequence[PhotographLabels]
    ) -> dict[str, Tensor]:
        """The same as ``losses``; a training over several processes calls the network itself."""
        return self.losses(images, labels)

    def losses(
        self, images: Sequence[Tensor], labels: Sequence[PhotographLabels]
    ) -> dict[str, Tensor]:
        """Scalars by name, of which "loss" is descended, in training mode.

        images: uint8 C x H x W, of any sizes. Each is the mean over the images of what it is for
        each image, so that neither the number of processes that share a batch nor the neighbours of
        an image weigh its objects.
        """
        raise NotImplementedError

    @torch.no_grad()
    def predict(
        self, images: Sequence[Tensor], sizes_HW: Sequence[tuple[int, int]]
    ) -> list[PhotographOutput]:
        """One output an image, in evaluation mode; sizes_HW: of the pictures asked for, usually
        those on disk.

        Images are padded to the network's stride and no further, so that what is predicted never
        depends on the rest of the batch; those that have one size then go through the network
        together.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(self._padded_size([image]), []).append(index)
        found: dict[int, PhotographOutput] = {}
        for indices in groups.values():
            batch = self.padded([images[index] for index in indices])
            found |= zip(
                indices, self.outputs(batch, [sizes_HW[index] for index in indices]), strict=True
            )
        return [found[index] for index in range(len(images))]

    def outputs(
        self, images: ImageList, sizes_HW: Sequence[tuple[int, int]]
    ) -> list[PhotographOutput]:
        """What the network says of padded images, one by one."""
        raise NotImplementedError

    def padded(self, images: Sequence[Tensor]) -> ImageList:
        """Images standardised and put into the upper left corners of tensors of one size, with
        their own sizes.
        """
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
    """Mean cross-entropy of the pixels of one image that have a label; 0 where none has. maps_Khw:
    scores at a stride.
    """
    label_HW = labels.semantic_HW
    assert label_HW is not None, "labels of a network that tells pixels apart"
    logits_1KHW = spread(maps_Khw[None].float(), reach(label_HW.shape, stride), label_HW.shape)
    total = F.cross_entropy(logits_1KHW, label_HW[None], ignore_index=IGNORED, reduction="sum")
    return total / (label_HW != IGNORED).sum().clamp(min=1)


def reach(image_HW: Sequence[int], stride: int) -> tuple[float, float]:
    """Rows and columns of a map of some stride that an image covers."""
    return image_HW[0] / stride, image_HW[1] / stride


def mean_losses(losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each loss over the images."""
    return {name: torch.stack([entry[name] for entry in losses]).mean() for name in losses[0]}


def two_models(semantic: PhotographOutput, instances: PhotographOutput) -> PhotographOutput:
    """The pixels of one network's output with the objects of another's, of the same photograph.

    The recipe of Kirillov et al. 2019, "Panoptic segmentation" (1801.00868), section 7. Raises
    ``ValueError`` for outputs of different sizes, and where one lacks its part.
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


def merged(
    output: PhotographOutput, labels: Labels, scope: Scope | None, thresholds: MergeThresholds
) -> ThingsAndStuff:
    """The candidates and the stuff of a photograph as one picture.

    labels: what the labels of the networks mean. scope: that of the network which scored the
    pixels; its things draw nothing.
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
    """``merged`` as pictures with their tables, one an image; the only step that waits for the
    device.
    """
    if output.objects is not None and _device(output).type == "cpu":
        output = replace(output, objects=_drawn(output.objects, thresholds.score))
    return merged(output, labels, scope, thresholds).to_panoptics(table)


def _drawn(objects: DetectedObjects, score: float) -> DetectedObjects:
    """The candidates up to the last one of some score: a processor, which waits for nothing, need
    not look at the others.
    """
    positions = (objects.score_BN >= score).any(0).nonzero()
    count = int(positions[-1]) + 1 if len(positions) else 0
    names = ("shape_BNSS", "box_BN4", "score_BN", "label_BN")
    return replace(objects, **{name: getattr(objects, name)[:, :count] for name in names})

"""What all networks for photographs share: colours standardised, sizes padded, pictures predicted at their own size.

Shape suffixes: B images, C colours, H W pixels, K classes, h w pixels of a network's own map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from panoseg.models.config import PhotographModelConfig
from panoseg.models.configs.photographs import IGNORED
from panoseg.models.configs.pspnet import Scope
from panoseg.models.outputs import PhotographLabels, PhotographOutput
from panoseg.models.paste import spread

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1, over ImageNet: what published weights of backbones were trained with."""


class AnyPhotographNetwork(nn.Module):
    """A network for photographs: it learns from labels, and predicts pixels' classes, objects, or both.

    loss_names: what ``losses`` gives. scope: which classes of pixels it tells apart (``Labels.semantic_ids``); None for
    objects alone.
    """

    loss_names: ClassVar[tuple[str, ...]]
    scope: Scope | None
    mean_C11: Tensor
    deviation_C11: Tensor

    def __init__(self, config: PhotographModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean_C11", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation_C11", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    def forward(self, images: Sequence[Tensor], labels: Sequence[PhotographLabels]) -> dict[str, Tensor]:
        """The same as ``losses``; a training over several processes calls the network itself."""
        return self.losses(images, labels)

    def losses(self, images: Sequence[Tensor], labels: Sequence[PhotographLabels]) -> dict[str, Tensor]:
        """Scalars by name, of which "loss" is descended, in training mode.

        images: uint8 C x H x W, of any sizes. Each is the mean over the images of what it is for each image, so that neither
        the number of processes that share a batch nor the neighbours of an image weigh its objects.
        """
        raise NotImplementedError

    @torch.no_grad()
    def predict(self, images: Sequence[Tensor], sizes_HW: Sequence[tuple[int, int]]) -> list[PhotographOutput]:
        """One output an image, in evaluation mode; sizes_HW: of the pictures asked for, usually those on disk.

        Images are padded to the network's stride and no further, so that what is predicted never depends on the rest of the
        batch; those that have one size then go through the network together.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(self._padded_size([image]), []).append(index)
        found: dict[int, PhotographOutput] = {}
        for indices in groups.values():
            batch = self.padded([images[index] for index in indices])
            found |= zip(indices, self.outputs(batch, [sizes_HW[index] for index in indices]), strict=True)
        return [found[index] for index in range(len(images))]

    def outputs(self, images: ImageList, sizes_HW: Sequence[tuple[int, int]]) -> list[PhotographOutput]:
        """What the network says of padded images, one by one."""
        raise NotImplementedError

    def padded(self, images: Sequence[Tensor]) -> ImageList:
        """Images standardised and put into the upper left corners of tensors of one size, with their own sizes."""
        height, width = self._padded_size(images)
        whole = [F.pad(self._standardised(image), (0, width - image.shape[2], 0, height - image.shape[1])) for image in images]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return ImageList(torch.stack(whole).contiguous(memory_format=torch.channels_last), sizes)

    def _standardised(self, image_CHW: Tensor) -> Tensor:
        return (image_CHW / 255 - self.mean_C11) / self.deviation_C11

    def _padded_size(self, images: Sequence[Tensor]) -> tuple[int, int]:
        stride = self.config.stride
        height, width = (max(-(-image.shape[axis] // stride) for image in images) * stride for axis in (1, 2))
        return height, width


def semantic_loss(maps_Khw: Tensor, stride: int, labels: PhotographLabels) -> Tensor:
    """Mean cross-entropy of the pixels of one image that have a label; 0 where none has. maps_Khw: scores at a stride."""
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

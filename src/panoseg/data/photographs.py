"""Samples of photographs, batches of them, and the windows of photographs that training draws.

Photographs differ in size, so a batch keeps them apart; networks pad as they need. Shape suffixes:
N objects, C = 3 colours, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from panoseg.data import PhotographConfig

if TYPE_CHECKING:
    from PIL import Image


VOID = -1
"""Class of a pixel that has none: not labelled, or of a crowd."""

_ALIGNMENT = 64  # bytes


@dataclass(frozen=True)
class Objects:
    """The things of one photograph, without crowds; each has at least one pixel."""

    mask_NHW: Tensor
    """bool; masks may overlap where the annotation's do."""
    box_N4: Tensor
    """float32, left, top, right, bottom of the mask in pixels, right and bottom exclusive."""
    class_N: Tensor
    """int64, ids of the class table, which need not be contiguous."""

    @classmethod
    def of_masks(cls, mask_NHW: Tensor, class_N: Tensor) -> Objects:
        """Return the objects of some masks, with bounding boxes; empty masks are left out.

        >>> mask = torch.tensor([[[0, 1, 1], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]], dtype=torch.bool)
        >>> Objects.of_masks(mask, torch.tensor([3, 4])).box_N4
        tensor([[1., 0., 3., 2.]])
        """
        box_N4 = mask_boxes(mask_NHW)
        filled_N = box_N4[:, 2] > 0
        return cls(
            mask_NHW if filled_N.all() else mask_NHW[filled_N], box_N4[filled_N], class_N[filled_N]
        )

    def __len__(self) -> int:
        return len(self.class_N)


@dataclass(frozen=True)
class Photograph:
    """One photograph, with its labels where it has any."""

    image_CHW: Tensor
    """uint8, red, green, blue, upright, resized as the options of the dataset say."""
    name: str
    """Name of its file, without ending."""
    image_id: int | str
    """Its id in COCO's JSON."""
    size_HW: tuple[int, int]
    """Height and width in pixels of the image on disk, upright; predictions have this size."""
    classes_HW: Tensor | None = None
    """int64, class of each pixel of ``image_CHW`` or ``VOID``; None without labels."""
    objects: Objects | None = None
    """Its things; None without labels."""

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the photograph."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map_tensors(note)
        return found

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Photograph:
        """Return the same photograph with ``function`` applied to each of its tensors."""
        classes_HW = None if self.classes_HW is None else function(self.classes_HW)
        objects = self.objects
        if objects is not None:
            objects = Objects(
                *(function(getattr(objects, field.name)) for field in fields(Objects))
            )
        return replace(
            self, image_CHW=function(self.image_CHW), classes_HW=classes_HW, objects=objects
        )


@dataclass(frozen=True)
class PhotographBatch:
    """Photographs that go through a network together; their sizes may differ."""

    photographs: tuple[Photograph, ...]
    """The photographs, in order."""

    def __len__(self) -> int:
        return len(self.photographs)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each photograph."""
        return tuple(photograph.name for photograph in self.photographs)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> PhotographBatch:
        """Return the same batch on another device."""
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PhotographBatch:
        """Return the same batch in pinned memory; torch's loader calls it."""
        return self.map_tensors(Tensor.pin_memory)

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> PhotographBatch:
        """Return the same batch with ``function`` applied to each of its tensors."""
        return PhotographBatch(
            tuple(photograph.map_tensors(function) for photograph in self.photographs)
        )


def collate_photographs(photographs: Sequence[Photograph]) -> PhotographBatch:
    """Make a batch of photographs, for ``make_loader``.

    In a loader's worker all tensors of the batch lie in one piece of shared memory: each piece is
    an open file in the process that trains, and a file for each mask would meet the limit of the
    system.
    """
    batch = PhotographBatch(tuple(photographs))
    return batch if get_worker_info() is None else batch.map_tensors(_SharedMemory(batch).copy)


class _SharedMemory:
    """One piece of shared memory for all tensors of a batch."""

    def __init__(self, batch: PhotographBatch) -> None:
        sizes = [
            _aligned(tensor.nbytes)
            for photograph in batch.photographs
            for tensor in photograph.tensors()
        ]
        memory = torch.UntypedStorage._new_shared(sum(sizes))  # type: ignore[no-untyped-call]
        self._bytes = torch.empty(0, dtype=torch.uint8).set_(memory)
        self._used = 0

    def copy(self, tensor: Tensor) -> Tensor:
        """Copy a tensor behind those that are there; return the copy."""
        place = self._bytes[self._used : self._used + tensor.nbytes]
        self._used += _aligned(tensor.nbytes)
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def mask_boxes(mask_NHW: Tensor) -> Tensor:
    """Return the bounding boxes of masks.

    Args:
        mask_NHW: bool.

    Returns:
        float32, N x 4: left, top, right, bottom in pixels, the last two exclusive; zeros for an
        empty mask.

    >>> mask_boxes(torch.tensor([[[0, 0, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]], dtype=torch.bool))
    tensor([[1., 1., 2., 2.],
            [0., 0., 0., 0.]])
    """
    box_N4 = torch.zeros((len(mask_NHW), 4))
    if not mask_NHW.numel():
        return box_N4
    masks_NHW = mask_NHW.numpy()  # NumPy's any is five times as fast as torch's
    for axis, first in ((1, 0), (2, 1)):  # columns, then rows
        lines_NL = np.any(masks_NHW, axis=axis)
        is_filled_N = lines_NL.any(axis=1)
        box_N4[:, first] = torch.from_numpy(lines_NL.argmax(axis=1) * is_filled_N)
        box_N4[:, first + 2] = torch.from_numpy(
            (lines_NL.shape[1] - lines_NL[:, ::-1].argmax(axis=1)) * is_filled_N
        )
    return box_N4


Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class View:
    """A window of a resized image, perhaps mirrored."""

    size_HW: Size
    """Size of the image on disk."""
    resized_HW: Size
    """Size of the whole image after resizing."""
    corner: tuple[int, int]
    """Row and column of the window's first pixel in the resized image."""
    window_HW: Size
    """Size of the window."""
    mirrored: bool
    """Whether left and right of the window are exchanged."""

    def image(self, image: Image.Image) -> np.ndarray:
        """Cut the window out of an image: uint8, H x W x 3.

        Each pixel is a mean of those that it covers.
        """
        from PIL.Image import Resampling

        (top, left), (height, width) = self.corner, self.window_HW
        down, across = (old / new for old, new in zip(self.size_HW, self.resized_HW, strict=True))
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        # Rounding must not reach beyond the image.
        inside = (box[0], box[1], min(box[2], self.size_HW[1]), min(box[3], self.size_HW[0]))
        pixels = np.asarray(image.resize((width, height), Resampling.BILINEAR, box=inside))
        return pixels[:, ::-1] if self.mirrored else pixels

    def labels(self, labels_HW: np.ndarray) -> np.ndarray:
        """Cut the window out of labels or a mask of the size on disk.

        Each pixel has the label at its centre.
        """
        rows, columns = (
            ((np.arange(first, first + count) + 0.5) * (old / new))
            .astype(np.int64)
            .clip(max=old - 1)
            for first, count, old, new in zip(
                self.corner, self.window_HW, self.size_HW, self.resized_HW, strict=True
            )
        )
        window_HW: np.ndarray = labels_HW[np.ix_(rows, columns[::-1] if self.mirrored else columns)]
        return window_HW


def choose_view(
    size_HW: Size, config: PhotographConfig, generator: np.random.Generator | None = None
) -> View:
    """Choose the view of an image.

    Args:
        size_HW: Size of the image on disk.
        config: Sizes, and random changes.
        generator: Draws a random view; without one the view is the whole image, resized.
    """
    factor = config.min_side / min(size_HW) if config.min_side else 1.0
    if config.max_side:
        factor = min(factor, config.max_side / max(size_HW))
    if generator is not None:
        factor *= generator.uniform(*config.scale)
    resized_HW = (max(1, round(size_HW[0] * factor)), max(1, round(size_HW[1] * factor)))
    if generator is None:
        return View(size_HW, resized_HW, (0, 0), resized_HW, mirrored=False)
    window_HW = (
        min(resized_HW[0], config.crop or resized_HW[0]),
        min(resized_HW[1], config.crop or resized_HW[1]),
    )
    top, left = (
        int(generator.integers(side - part + 1))
        for side, part in zip(resized_HW, window_HW, strict=True)
    )
    mirrored = config.flip and bool(generator.random() < 0.5)
    return View(size_HW, resized_HW, (top, left), window_HW, mirrored)

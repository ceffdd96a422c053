"""The nouns between a dataset and a model: a sample, a batch, its targets, and the normalisation of
bands.

Shape suffixes: B batch, T dates, C bands, H W pixels. Images travel as they lie on disk (int16
reflectance x 10 000), because a quarter of the bytes crosses processes and devices;
``Normalisation`` makes them float32 on the device that computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from panoseg.errors import DatasetError
from panoseg.imagery.bands import PASTIS_BANDS


@dataclass(frozen=True)
class CentreTargets:
    """What Parcels-as-Points learns of each pixel (utae-paps @ 987874e, seven target channels).
    ``B`` in front in a batch.

    heatmap_HW: float32, 0..1, 1 at the centre of a parcel's box, Gaussian fall-off.
    instance_HW: int32, 0 none, a parcel's number 1.. otherwise.
    zone_HW: int32, number of the parcel whose heat is strongest at the pixel; 0 only where the
    patch has no parcel.
    size_HW2: float32, height and width in pixels of the box of the zone's parcel.
    zone_class_HW: int64, class of the zone's parcel.
    """

    heatmap_HW: Tensor
    instance_HW: Tensor
    zone_HW: Tensor
    size_HW2: Tensor
    zone_class_HW: Tensor


@dataclass(frozen=True)
class Sample:
    """One patch and its season.

    images_TCHW: int16, reflectance x 10 000, or float32 (a cube with gaps: NaN never; gaps are
    filled or dates left out).
    days_T: int64, days since the reference date, ascending, repeats allowed.
    classes_HW: int64 class of each pixel, or None without labels.
    instances_HW: int32 parcel of each pixel, 0 none, or None.
    centres: targets of the panoptic head, or None.
    name: identifier of the patch.
    order: positions of the bands in ``images_TCHW``, where they still lie as on disk; None where
    they are in order. A batch puts them in order with the one copy that it makes, since another
    copy of a season takes longer than reading it.
    """

    images_TCHW: Tensor
    days_T: Tensor
    name: str
    classes_HW: Tensor | None = None
    instances_HW: Tensor | None = None
    centres: CentreTargets | None = None
    order: tuple[int, ...] | None = None

    def in_order(self) -> Sample:
        """The same sample with its bands in order."""
        if self.order is None:
            return self
        # NumPy copies whole bands; torch would go pixel by pixel.
        return replace(
            self,
            images_TCHW=torch.from_numpy(np.take(self.images_TCHW.numpy(), self.order, axis=1)),
            order=None,
        )


@dataclass(frozen=True)
class Batch:
    """Samples stacked, shorter series padded at the end; padding is said by ``valid_BT``, never by
    pixel values.

    images_BTCHW: int16 or float32 as in ``Sample``; zero where padded. days_BT: int64, zero where
    padded.
    valid_BT: bool. classes_BHW, instances_BHW, centres: as in ``Sample``, stacked. names: one a
    sample.
    """

    images_BTCHW: Tensor
    days_BT: Tensor
    valid_BT: Tensor
    names: tuple[str, ...]
    classes_BHW: Tensor | None = None
    instances_BHW: Tensor | None = None
    centres: CentreTargets | None = None

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch on another device."""
        return map_leaves(self, Tensor, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory; called by torch's loader."""
        return map_leaves(self, Tensor, Tensor.pin_memory)


def map_leaves(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """A ``Batch`` with ``function`` applied to each value of type ``kind`` in it; everything else
    stays.
    """
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, Batch | CentreTargets):
        mapped = {
            field.name: map_leaves(getattr(value, field.name), kind, function)
            for field in fields(value)
        }
        return type(value)(**mapped)
    return value


NewTensor = Callable[[Tensor, tuple[int, ...]], Tensor]
"""Makes an empty tensor of the type of one and of a shape."""


def new_tensor(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An empty tensor; in a loader's worker it lies in shared memory, so that it reaches the other
    process without a copy.
    """
    if get_worker_info() is None:
        # NumPy asks for huge pages; torch does not, and clearing small ones takes longer than
        # reading a batch.
        return torch.from_numpy(np.empty(shape, torch.empty(0, dtype=like.dtype).numpy().dtype))
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * like.element_size())
    return like.new_empty(0).set_(storage, 0, shape)  # type: ignore[call-overload]


def _stack(tensors: Sequence[Tensor | None], new: NewTensor) -> Tensor | None:
    """One tensor of all; None where one is missing."""
    present = [tensor for tensor in tensors if tensor is not None]
    if len(present) < len(tensors):
        return None
    return torch.stack(present, out=new(present[0], (len(present), *present[0].shape)))


def _stack_centres(targets: Sequence[CentreTargets | None], new: NewTensor) -> CentreTargets | None:
    present = [entry for entry in targets if entry is not None]
    if len(present) < len(targets):
        return None
    stacked: dict[str, Any] = {
        f.name: _stack([getattr(entry, f.name) for entry in present], new)
        for f in fields(CentreTargets)
    }
    return CentreTargets(**stacked)


def _check_same_size(samples: Sequence[Sample]) -> None:
    first = samples[0]
    for sample in samples:
        if sample.images_TCHW.shape[1:] != first.images_TCHW.shape[1:]:
            one, other = (
                " x ".join(map(str, entry.images_TCHW.shape[1:])) for entry in (first, sample)
            )
            raise DatasetError(
                f"patches {first.name} and {sample.name} are {one} and {other}",
                "one size in a batch",
                "crop, or use batches of 1",
            )


def collate(samples: Sequence[Sample], new: NewTensor = new_tensor) -> Batch:
    """Stack samples into a batch, padded to the longest series.

    Images that are mapped from disk are read here, straight into the tensor that ``new`` makes.
    Raises ``DatasetError`` where the sizes differ.
    """
    _check_same_size(samples)
    shape_BT = (len(samples), max(len(sample.days_T) for sample in samples))
    images_BTCHW = new(samples[0].images_TCHW, (*shape_BT, *samples[0].images_TCHW.shape[1:]))
    days_BT = new(samples[0].days_T, shape_BT).zero_()
    valid_BT = new(torch.tensor(False), shape_BT).fill_(False)
    for row, sample in enumerate(samples):
        dates = len(sample.days_T)
        if sample.order is None:
            images_BTCHW[row, :dates] = sample.images_TCHW
        else:
            for band, source in enumerate(sample.order):
                images_BTCHW[row, :dates, band] = sample.images_TCHW[:, source]
        images_BTCHW[row, dates:] = 0
        days_BT[row, :dates] = sample.days_T
        valid_BT[row, :dates] = True
    return Batch(
        images_BTCHW,
        days_BT,
        valid_BT,
        tuple(sample.name for sample in samples),
        _stack([sample.classes_HW for sample in samples], new),
        _stack([sample.instances_HW for sample in samples], new),
        _stack_centres([sample.centres for sample in samples], new),
    )


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each band, in reflectance x 10 000, in the order of ``bands``.

    ndvi: append the normalised difference vegetation index of B08 and B04 as one more channel,
    -1..1, not standardised (Crop2Seg @ aee7827).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bands: tuple[str, ...] = PASTIS_BANDS
    ndvi: bool = False

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == len(self.bands):
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} deviations for {len(self.bands)} bands"
            )
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise ValueError(
                f"means and standard deviations must be finite, found {self.mean} and {self.std}"
            )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"standard deviations must be positive, found {self.std}")
        if self.ndvi and not {"B04", "B08"} <= set(self.bands):
            raise ValueError(f"NDVI needs B04 and B08, found {', '.join(self.bands)}")

    def __call__(self, images_BTCHW: Tensor, valid_BT: Tensor) -> Tensor:
        """Standardised float32 images, zero where a date is padding (as the published loader pads
        after normalising).
        """
        mean_C = torch.tensor(self.mean, dtype=torch.float32, device=images_BTCHW.device)
        std_C = torch.tensor(self.std, dtype=torch.float32, device=images_BTCHW.device)
        standard_BTCHW = (images_BTCHW.float() - mean_C[:, None, None]) / std_C[:, None, None]
        if self.ndvi:
            standard_BTCHW = torch.cat([standard_BTCHW, self._ndvi(images_BTCHW)], dim=2)
        return standard_BTCHW * valid_BT[:, :, None, None, None]

    @property
    def channels(self) -> int:
        """Channels of an image once it is standardised."""
        return len(self.bands) + self.ndvi

    def _ndvi(self, images_BTCHW: Tensor) -> Tensor:
        red_BTHW, infrared_BTHW = (
            images_BTCHW[:, :, self.bands.index(band)].float() for band in ("B04", "B08")
        )
        total_BTHW = infrared_BTHW + red_BTHW
        # Reflectance of a shadow may be 0 in both bands, or negative: a ratio without meaning.
        ratio_BTHW = torch.where(
            total_BTHW > 0, (infrared_BTHW - red_BTHW) / total_BTHW.clamp(min=1), 0.0
        )
        return ratio_BTHW.clamp(-1, 1)[:, :, None]

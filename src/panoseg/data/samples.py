"""The nouns between a dataset and a model: a sample, a batch, its targets, and the normalisation of bands.

Shape suffixes: B batch, T dates, C bands, H W pixels. Images travel as they lie on disk (int16 reflectance x 10 000), because
a quarter of the bytes crosses processes and devices; ``Normalisation`` makes them float32 on the device that computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

PASTIS_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


@dataclass(frozen=True)
class CentreTargets:
    """What Parcels-as-Points learns of each pixel (utae-paps @ 987874e, seven target channels). ``B`` in front in a batch.

    heatmap_HW: float32, 0..1, 1 at the centre of a parcel's box, Gaussian fall-off.
    instance_HW: int32, 0 none, a parcel's number 1.. otherwise.
    zone_HW: int32, number of the parcel whose heat is strongest at the pixel; 0 only where the patch has no parcel.
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

    images_TCHW: int16, reflectance x 10 000, or float32 (a cube with gaps: NaN never; gaps are filled or dates left out).
    days_T: int64, days since the reference date, ascending, repeats allowed.
    classes_HW: int64 class of each pixel, or None without labels.
    instances_HW: int32 parcel of each pixel, 0 none, or None.
    centres: targets of the panoptic head, or None.
    name: identifier of the patch.
    """

    images_TCHW: Tensor
    days_T: Tensor
    name: str
    classes_HW: Tensor | None = None
    instances_HW: Tensor | None = None
    centres: CentreTargets | None = None


@dataclass(frozen=True)
class Batch:
    """Samples stacked, shorter series padded at the end; padding is said by ``valid_BT``, never by pixel values.

    images_BTCHW: int16 or float32 as in ``Sample``; zero where padded. days_BT: int64, zero where padded.
    valid_BT: bool. classes_BHW, instances_BHW, centres: as in ``Sample``, stacked. names: one a sample.
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
        return _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory; called by torch's loader."""
        return _map_tensors(self, lambda tensor: tensor.pin_memory())


def _map_tensors(value, function):
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Batch | CentreTargets):
        return type(value)(**{field.name: _map_tensors(getattr(value, field.name), function) for field in fields(value)})
    return value


def _stack(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if len(present) == len(tensors) else None


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch, padded to the longest series."""
    longest = max(sample.images_TCHW.shape[0] for sample in samples)
    first = samples[0].images_TCHW
    images_BTCHW = first.new_zeros((len(samples), longest, *first.shape[1:]))
    days_BT = torch.zeros((len(samples), longest), dtype=torch.int64)
    valid_BT = torch.zeros((len(samples), longest), dtype=torch.bool)
    for row, sample in enumerate(samples):
        dates = sample.images_TCHW.shape[0]
        images_BTCHW[row, :dates] = sample.images_TCHW
        days_BT[row, :dates] = sample.days_T
        valid_BT[row, :dates] = True
    centres = [sample.centres for sample in samples]
    present = [entry for entry in centres if entry is not None]
    return Batch(
        images_BTCHW,
        days_BT,
        valid_BT,
        tuple(sample.name for sample in samples),
        _stack([sample.classes_HW for sample in samples]),
        _stack([sample.instances_HW for sample in samples]),
        CentreTargets(*(torch.stack([getattr(c, f.name) for c in present]) for f in fields(CentreTargets)))
        if len(present) == len(centres)
        else None,
    )


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each band, in reflectance x 10 000, in the order of ``bands``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bands: tuple[str, ...] = PASTIS_BANDS

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == len(self.bands):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations for {len(self.bands)} bands")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"standard deviations must be positive, found {self.std}")

    def __call__(self, images_BTCHW: Tensor, valid_BT: Tensor) -> Tensor:
        """Standardised float32 images, zero where a date is padding (as the published loader pads after normalising)."""
        mean_C = torch.tensor(self.mean, dtype=torch.float32, device=images_BTCHW.device)
        std_C = torch.tensor(self.std, dtype=torch.float32, device=images_BTCHW.device)
        images_BTCHW = (images_BTCHW.float() - mean_C[:, None, None]) / std_C[:, None, None]
        return images_BTCHW * valid_BT[:, :, None, None, None]

"""Samples of satellite image time series, batches of them, their targets and the normalisation.

Images travel as they lie on disk (int16 reflectance x 10 000), because a quarter of the bytes
crosses processes and devices; ``Normalisation`` makes them float32 on the device that computes.

Centre targets of Parcels-as-Points are computed from the map of parcels of a patch. Sources: Garnot
and Landrieu 2021 (arXiv 2107.07933), equation 6; heat map and zones as in pastis-benchmark @
43a0ece, code/centerness_ground_truth.py; sizes and classes as in utae-paps @ 987874e,
src/dataset.py. Unlike there, a patch without background keeps its first parcel, a patch without
parcels is a patch like any other, and a patch need not be square.

Shape suffixes: B batch, T dates, C bands, H W pixels, N parcels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from panoseg.errors import DatasetError
from panoseg.imagery.sentinel2 import PASTIS_BANDS


@dataclass(frozen=True)
class CentreTargets:
    """Targets of Parcels-as-Points for one patch (utae-paps @ 987874e, seven target channels)."""

    heatmap_HW: Tensor
    """float32, 0..1: 1 at the centre of a parcel's box, with Gaussian fall-off."""
    instance_HW: Tensor
    """int32, number of the parcel at each pixel, 1.., or 0 for none."""
    zone_HW: Tensor
    """int32, number of the parcel whose heat is strongest at the pixel; 0 only where the patch has
    no parcel.
    """
    size_HW2: Tensor
    """float32, height and width in pixels of the box of the zone's parcel."""
    zone_class_HW: Tensor
    """int64, class of the zone's parcel."""


@dataclass(frozen=True)
class CentreTargetsBatch:
    """The ``CentreTargets`` of several patches of one size, stacked."""

    heatmap_BHW: Tensor
    """float32, 0..1, see ``CentreTargets.heatmap_HW``."""
    instance_BHW: Tensor
    """int32, number of the parcel in its patch, or 0 for none."""
    zone_BHW: Tensor
    """int32, number of the parcel whose heat is strongest at the pixel."""
    size_BHW2: Tensor
    """float32, height and width in pixels of the box of the zone's parcel."""
    zone_class_BHW: Tensor
    """int64, class of the zone's parcel."""


@dataclass(frozen=True)
class Sample:
    """One patch and its season."""

    images_TCHW: Tensor
    """int16, reflectance x 10 000; or float32, reflectance x 10 000 of a cube with gaps (filled,
    never NaN), or standardised values.
    """
    days_T: Tensor
    """int64, days since the reference date, ascending; repeats are allowed."""
    name: str
    """Identifier of the patch."""
    classes_HW: Tensor | None = None
    """int64, class of each pixel; None without labels."""
    instances_HW: Tensor | None = None
    """int32, number of the parcel at each pixel, 0 for none; None without parcels."""
    centres: CentreTargets | None = None
    """Targets of a panoptic head; None without parcels."""
    order: tuple[int, ...] | None = None
    """Position in ``images_TCHW`` of each band, where bands still lie as on disk; None where they
    are in PASTIS's order. ``collate`` reorders with the one copy that it makes anyway, since
    another copy of a season takes longer than reading it.
    """

    def in_order(self) -> Sample:
        """Return the same sample with its bands in order."""
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
    """Stacked samples; shorter series are padded at the end.

    ``valid_BT`` says which dates are padding, never the values of pixels.
    """

    images_BTCHW: Tensor
    """int16 or float32 as in ``Sample``, zero where a date is padding."""
    days_BT: Tensor
    """int64, days since the reference date, zero where a date is padding."""
    valid_BT: Tensor
    """bool, False where a date is padding."""
    names: tuple[str, ...]
    """Identifiers of the patches."""
    classes_BHW: Tensor | None = None
    """int64, class of each pixel; None unless every sample has labels."""
    instances_BHW: Tensor | None = None
    """int32, number of the parcel in its patch, 0 for none; None unless every sample has them."""
    centres: CentreTargetsBatch | None = None
    """Targets of a panoptic head; None unless every sample has them."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Return the same batch on another device."""
        return map_leaves(self, Tensor, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the same batch in pinned memory; torch's loader calls it."""
        return map_leaves(self, Tensor, Tensor.pin_memory)


_Record = TypeVar("_Record", Batch, CentreTargetsBatch)
_Leaf = TypeVar("_Leaf")


def map_leaves(record: _Record, kind: type[_Leaf], function: Callable[[_Leaf], object]) -> _Record:
    """Return a batch with ``function`` applied to each value of type ``kind`` in it."""
    mapped: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, kind):
            value = function(value)
        elif isinstance(value, CentreTargetsBatch):
            value = map_leaves(value, kind, function)
        mapped[field.name] = value
    return replace(record, **mapped)


NewTensor = Callable[[Tensor, tuple[int, ...]], Tensor]
"""Makes an empty tensor with the dtype of a given tensor and a given shape."""


def new_tensor(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return an empty tensor with the dtype of ``like``.

    In a loader's worker it lies in shared memory, so that it reaches the other process without a
    copy.
    """
    if get_worker_info() is None:
        # NumPy asks for huge pages; torch does not, and clearing small ones takes longer than
        # reading a batch.
        return torch.from_numpy(np.empty(shape, torch.empty(0, dtype=like.dtype).numpy().dtype))
    size = math.prod(shape) * like.element_size()
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    shared: Tensor = like.new_empty(0).set_(storage, 0, shape)  # type: ignore[call-overload]
    return shared


def collate(samples: Sequence[Sample], new: NewTensor = new_tensor) -> Batch:
    """Stack samples into a batch, padded to the longest series.

    For ``DataLoader(dataset, collate_fn=collate)``. Images that are mapped from disk are read here,
    straight into the batch.

    Args:
        samples: At least one; all of the same bands, height and width.
        new: Makes the tensors of the batch.

    Returns:
        The batch, with images of the dtype of the first sample's.

    Raises:
        DatasetError: The samples differ in size.
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


def _collate_by_default(samples: list[Sample], *, collate_fn_map: object = None) -> Batch:
    return collate(samples)


# torch's documented way for a DataLoader without collate_fn to stack a type of its user's.
default_collate_fn_map[Sample] = _collate_by_default


def _check_same_size(samples: Sequence[Sample]) -> None:
    first = samples[0]
    for sample in samples:
        if sample.images_TCHW.shape[1:] != first.images_TCHW.shape[1:]:
            one, other = (
                " x ".join(map(str, entry.images_TCHW.shape[1:])) for entry in (first, sample)
            )
            raise DatasetError(
                f"Patches {first.name} and {sample.name} cannot share a batch, because they are"
                f" {one} and {other}; crop them to one size or use batches of 1."
            )


def _stack(tensors: Sequence[Tensor | None], new: NewTensor) -> Tensor | None:
    """Return one tensor of all, or None where one is missing."""
    present = [tensor for tensor in tensors if tensor is not None]
    if len(present) < len(tensors):
        return None
    return torch.stack(present, out=new(present[0], (len(present), *present[0].shape)))


def _stack_centres(
    targets: Sequence[CentreTargets | None], new: NewTensor
) -> CentreTargetsBatch | None:
    present = [target for target in targets if target is not None]
    if len(present) < len(targets):
        return None
    stacked: list[Any] = [
        _stack([getattr(target, field.name) for target in present], new)
        for field in fields(CentreTargets)
    ]
    return CentreTargetsBatch(*stacked)


@dataclass(frozen=True)
class Normalisation:
    """Standardises the bands of images, and may add a vegetation index."""

    mean: tuple[float, ...]
    """Mean of each band, reflectance x 10 000, in the order of ``bands``."""
    std: tuple[float, ...]
    """Standard deviation of each band, reflectance x 10 000, positive."""
    bands: tuple[str, ...] = PASTIS_BANDS
    """Names of the bands in the order in which they lie in images."""
    ndvi: bool = False
    """Append the normalised difference vegetation index of B08 and B04 as one more channel, -1..1,
    not standardised (Crop2Seg @ aee7827).
    """

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
        """Return standardised images, zero where a date is padding.

        The published loader too pads after normalising.

        Args:
            images_BTCHW: int16 or float32, reflectance x 10 000.
            valid_BT: bool, False where a date is padding.

        Returns:
            float32, B x T x ``channels`` x H x W.
        """
        mean_C = torch.tensor(self.mean, dtype=torch.float32, device=images_BTCHW.device)
        std_C = torch.tensor(self.std, dtype=torch.float32, device=images_BTCHW.device)
        standard_BTCHW = (images_BTCHW.float() - mean_C[:, None, None]) / std_C[:, None, None]
        if self.ndvi:
            standard_BTCHW = torch.cat([standard_BTCHW, self._ndvi(images_BTCHW)], dim=2)
        return standard_BTCHW * valid_BT[:, :, None, None, None]

    @property
    def channels(self) -> int:
        """Number of channels of a standardised image."""
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
        # Of a band that is missing nothing is known.
        return ratio_BTHW.clamp(-1, 1).masked_fill(total_BTHW.isnan(), torch.nan)[:, :, None]


# Standard deviation over a box's height or width: (1 - o) / (1 + o) / 3 with CornerNet's overlap of
# boxes o = 0.7.
_DEVIATION = (1 - 0.7) / (1 + 0.7) / 3
# Standard deviations after which a Gaussian is zero in double precision: exp(-38.7**2 / 2) is less
# than 2**-1075.
_REACH = 38.7


@dataclass(frozen=True)
class _Parcels:
    """The parcels of a patch in ascending order of their numbers."""

    number_N: np.ndarray
    """Number in the map, never 0."""
    rows_NH: np.ndarray
    """bool, whether a parcel touches a row."""
    columns_NW: np.ndarray
    """bool, whether a parcel touches a column."""
    class_N: np.ndarray
    """Class of a parcel's first pixel."""

    @classmethod
    def of(cls, instances_HW: np.ndarray, classes_HW: np.ndarray) -> _Parcels:
        height, width = instances_HW.shape
        number_N, first_N, index = np.unique(instances_HW, return_index=True, return_inverse=True)
        index_HW = index.reshape(height, width)
        rows_NH = np.zeros((len(number_N), height), dtype=bool)
        columns_NW = np.zeros((len(number_N), width), dtype=bool)
        rows_NH[index_HW, np.arange(height)[:, None]] = True
        columns_NW[index_HW, np.arange(width)] = True
        parcel = number_N != 0
        return cls(
            number_N[parcel],
            rows_NH[parcel],
            columns_NW[parcel],
            classes_HW.ravel()[first_N[parcel]],
        )

    def size_N2(self) -> np.ndarray:
        """Count the rows and columns that each parcel touches.

        They are its height and width where it is in one piece.
        """
        return np.stack([self.rows_NH.sum(axis=1), self.columns_NW.sum(axis=1)], axis=1)


def centre_targets(
    instances_HW: ArrayLike | torch.Tensor, classes_HW: ArrayLike | torch.Tensor
) -> CentreTargets:
    """Compute the centre targets of a patch.

    The zone of a pixel is the parcel with the strongest heat there, of equals the one with the
    lowest number (so the first parcel where all heat is zero in double precision, as published).

    Args:
        instances_HW: Integers, number of the parcel at each pixel, 0 for none.
        classes_HW: Integers, class of each pixel.
    """
    instances_HW, classes_HW = np.asarray(instances_HW), np.asarray(classes_HW)
    parcels = _Parcels.of(instances_HW, classes_HW)
    heatmap_HW, zone_HW = _heat(parcels, instances_HW.shape)
    return _targets(parcels, heatmap_HW, instances_HW, zone_HW)


def targets_from_maps(
    heatmap_HW: ArrayLike, instances_HW: ArrayLike, zones_HW: ArrayLike, classes_HW: ArrayLike
) -> CentreTargets:
    """Make the centre targets from a heat map and zones that are on disk already.

    Args:
        heatmap_HW: Floating-point numbers, 0..1.
        instances_HW: Integers, number of the parcel at each pixel, 0 for none.
        zones_HW: Integers, number of the parcel with the strongest heat at each pixel.
        classes_HW: Integers, class of each pixel.

    Raises:
        ValueError: A zone belongs to no parcel of the map.
    """
    heatmap_HW, instances_HW, zones_HW, classes_HW = map(
        np.asarray, (heatmap_HW, instances_HW, zones_HW, classes_HW)
    )
    parcels = _Parcels.of(instances_HW, classes_HW)
    index_HW = np.searchsorted(parcels.number_N, zones_HW)
    known = (
        parcels.number_N[np.minimum(index_HW, len(parcels.number_N) - 1)] == zones_HW
        if len(parcels.number_N)
        else zones_HW == 0
    )
    if not known.all():
        raise ValueError(f"zone {zones_HW[~known].flat[0]} has no parcel")
    return _targets(parcels, heatmap_HW, instances_HW, index_HW)


def number_parcels(
    parcel_ids_HW: ArrayLike, classes_HW: ArrayLike, background: int = 0
) -> np.ndarray:
    """Number the parcels of a map by ascending identifier.

    Args:
        parcel_ids_HW: Integers, identifier of the parcel at each pixel, 0 for none.
        classes_HW: Integers, class of each pixel.
        background: Class whose parcels are not instances.

    Returns:
        int32 H x W, 1.. for parcels, 0 elsewhere.
    """
    ids_HW = np.where(np.asarray(classes_HW) == background, 0, parcel_ids_HW)
    ids, index = np.unique(ids_HW, return_inverse=True)
    numbers = (np.cumsum(ids != 0, dtype=np.int32) * (ids != 0)).astype(np.int32)
    numbered_HW: np.ndarray = numbers[index].reshape(ids_HW.shape)
    return numbered_HW


def _targets(
    parcels: _Parcels, heatmap_HW: np.ndarray, instances_HW: np.ndarray, index_HW: np.ndarray
) -> CentreTargets:
    """Look up number, size and class of the parcel at each pixel's ``index_HW``."""

    def look_up(values: np.ndarray, dtype: type) -> torch.Tensor:
        values = values.astype(dtype)
        found = (
            values[index_HW]
            if len(values)
            else np.zeros((*index_HW.shape, *values.shape[1:]), dtype)
        )
        return torch.from_numpy(found)

    return CentreTargets(
        heatmap_HW=torch.from_numpy(heatmap_HW.astype(np.float32)),
        instance_HW=torch.from_numpy(instances_HW.astype(np.int32)),
        zone_HW=look_up(parcels.number_N, np.int32),
        size_HW2=look_up(parcels.size_N2(), np.float32),
        zone_class_HW=look_up(parcels.class_N, np.int64),
    )


def _extent(touched_NL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and length along one axis of each parcel's box.

    The box has a margin of one pixel inside the patch, as published.
    """
    length = touched_NL.shape[1]
    first_N = np.maximum(touched_NL.argmax(axis=1) - 1, 0)
    last_N = np.minimum(length - touched_NL[:, ::-1].argmax(axis=1), length - 1)
    return first_N + (last_N - first_N) // 2, np.maximum(last_N - first_N, 1)


def _heat(parcels: _Parcels, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the strongest heat at each pixel, float64, and the index of its parcel."""
    heatmap_HW, index_HW = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    axes = []
    for length, touched in zip(shape, (parcels.rows_NH, parcels.columns_NW), strict=True):
        centre_N, extent_N = _extent(touched)
        deviation_N = _DEVIATION * extent_N
        exponent_NL = (np.arange(length) - centre_N[:, None]) ** 2 / (2 * deviation_N[:, None] ** 2)
        reach_N = np.ceil(_REACH * deviation_N).astype(int)
        axes.append((exponent_NL, np.maximum(centre_N - reach_N, 0), centre_N + reach_N + 1))
    (rows_NH, top_N, bottom_N), (columns_NW, left_N, right_N) = axes
    # One parcel's window at a time stays in the cache; all parcels on the whole patch at once takes
    # ten times as long.
    for n in range(len(parcels.number_N)):
        rows, columns = slice(top_N[n], bottom_N[n]), slice(left_N[n], right_N[n])
        heat = np.exp(-(rows_NH[n, rows, None] + columns_NW[n, columns]))
        stronger = heat > heatmap_HW[rows, columns]
        np.copyto(heatmap_HW[rows, columns], heat, where=stronger)
        index_HW[rows, columns][stronger] = n
    return heatmap_HW, index_HW

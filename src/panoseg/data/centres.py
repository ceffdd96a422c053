"""Centre targets of Parcels-as-Points, computed from the map of parcels of a patch.

Shape suffixes: N parcels, H W pixels. Sources: Garnot and Landrieu 2021 (arXiv 2107.07933),
equation 6; heat map and zones as in pastis-benchmark @ 43a0ece, code/centerness_ground_truth.py;
sizes and classes as in utae-paps @ 987874e, src/dataset.py. Unlike there, a patch without
background keeps its first parcel, a patch without parcels is a patch like any other, and a patch
need not be square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from panoseg.data.samples import CentreTargets

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

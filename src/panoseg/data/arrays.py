"""Arrays of seasons: .npy files mapped into memory, statistics of bands, NDVI of parcels.

A file's header is checked against the file before it is mapped; nothing is unpickled. Format:
numpy.lib.format, versions 1.0 and 2.0. Profiles are the NDVI of parcels over a season, the dates on
which clouds hide them, and quantiles over parcels.

Shape suffixes: T dates, C bands (of profiles in the order of ``PASTIS_BANDS``), H W pixels, X
pixels of one parcel, P parcels, Q shares.
"""

from __future__ import annotations

import math
import tokenize
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from panoseg.errors import DatasetError
from panoseg.imagery.sentinel2 import PASTIS_BANDS

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_NAMES = {
    "i": "integers",
    "u": "unsigned integers",
    "f": "floating-point numbers",
    "O": "pickled objects",
    "b": "truth values",
}


def map_array(
    path: Path, *, dimensions: int, dtype: str | None = None, kinds: str = "iu"
) -> np.ndarray:
    """Map the array of a .npy file; it is read only where it is touched.

    Args:
        path: The file.
        dimensions: Number of dimensions that it must have.
        dtype: Type that it must have; without one, any of ``kinds``.
        kinds: NumPy's letters of the kinds of type that are allowed.

    Returns:
        The array; changes to it stay in memory.

    Raises:
        DatasetError: The file is missing, damaged, shorter or longer than its header says, or has
            another type or number of dimensions.
    """
    try:
        with path.open("rb") as file:
            shape, fortran_order, found = _header(path, file)
            offset, size = file.tell(), path.stat().st_size
            _check_form(path, shape, found, dimensions, dtype, kinds)
            expected = offset + math.prod(shape) * found.itemsize
            if size != expected:
                raise DatasetError(
                    f"{path} has {size} bytes instead of {expected} for {_words(shape)} {found};"
                    " copy the file again, it is damaged."
                )
            if not math.prod(shape):  # an empty file cannot be mapped
                return np.zeros(shape, found)
            return np.memmap(file, found, "c", offset, shape, "F" if fortran_order else "C")
    except FileNotFoundError:
        raise DatasetError(
            f"{path} does not exist; complete the dataset or correct its path."
        ) from None
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror or error}); check the disk and permissions."
        ) from error


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single"


def _header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the shape, whether columns come first, and the type of values."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            shape, fortran_order, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
            if any(length < 0 for length in shape):
                raise ValueError(f"negative length in {shape}")
            return shape, fortran_order, np.dtype(dtype)
    except (
        ValueError,
        TypeError,
        KeyError,
        SyntaxError,
        RecursionError,
        MemoryError,
        tokenize.TokenError,
    ) as error:
        raise DatasetError(
            f"{path} is no .npy file as numpy.save writes it; copy the file again."
        ) from error


def _check_form(
    path: Path,
    shape: tuple[int, ...],
    found: np.dtype,
    dimensions: int,
    dtype: str | None,
    kinds: str,
) -> None:
    wrong_type = (
        found != np.dtype(dtype) if dtype else found.kind not in kinds or not found.isnative
    )
    if wrong_type or len(shape) != dimensions:
        kind = dtype or " or ".join(_NAMES[letter] for letter in kinds)
        raise DatasetError(
            f"{path} holds {_words(shape)} {_NAMES['O'] if found.hasobject else found}, but the"
            f" array must have {dimensions} dimensions of {kind}."
        )


def mean_statistics(entries: Sequence[Any], bands: int) -> np.ndarray:
    """Average the statistics of bands that a JSON file holds.

    Args:
        entries: Values {"mean": [..], "std": [..]}, as read; they may be damaged.
        bands: Number of bands C.

    Returns:
        float64, 2 x C, the mean over entries of means and of deviations.

    Raises:
        ValueError: There are other numbers of values, infinite ones, or deviations that are not
            positive. ``KeyError``, ``TypeError`` and ``OverflowError`` say the same.
    """
    values = np.array(
        [[entry[key] for entry in entries] for key in ("mean", "std")], dtype=np.float64
    )
    if values.shape[1:] != (len(entries), bands) or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape}, or not finite")
    if not (values[1] > 0).all():
        raise ValueError("a deviation that is not positive")
    statistics_2C: np.ndarray = values.mean(axis=1)
    return statistics_2C


def moments(images_TCHW: np.ndarray) -> np.ndarray:
    """Return mean and unbiased deviation of each band over all dates, float64, 2 x C.

    One date at a time is in memory. Sums of int16 and of their squares are exact in double
    precision.
    """
    total, square = np.zeros((2, images_TCHW.shape[1]))
    for image_CHW in images_TCHW:
        values = image_CHW.reshape(len(image_CHW), -1).astype(np.float64)
        total += values.sum(axis=1)
        square += np.einsum("cp,cp->c", values, values)
    count = images_TCHW.size // images_TCHW.shape[1]
    variance = (square - total**2 / count) / max(count - 1, 1)
    return np.stack([total / count, np.sqrt(np.maximum(variance, 0))])


CLOUD_REFLECTANCE = 1600
"""Blue above this, in reflectance x 10 000, is cloud or snow; bare soil stays below."""
DIP = 0.1
"""NDVI this much below the line between the dates before and after is a dip."""
DIP_DAYS = 60
"""Largest number of days between those two dates."""
PERIOD_DAYS = 10
"""Days of a period of ``NdviCounts``."""

# A dip next to another one is found after that is removed; more rounds find hardly any more.
_ROUNDS = 2
_STEP = 0.01  # width of a bin of NDVI
_BLUE, _RED, _INFRARED = (PASTIS_BANDS.index(band) for band in ("B02", "B04", "B08"))


@dataclass(frozen=True, eq=False)
class Profiles:
    """NDVI of parcels over a season."""

    parcel_P: np.ndarray
    """Numbers of the parcels, ascending."""
    days_T: np.ndarray
    """int64, days since the reference date, ascending."""
    ndvi_TP: np.ndarray
    """float32, -1..1, median of a parcel's pixels, NaN without data."""
    cloudy_TP: np.ndarray
    """bool, see ``find_clouds``."""


def parcel_profiles(
    images_TCHW: np.ndarray, days_T: np.ndarray, parcels_HW: np.ndarray
) -> Profiles:
    """Compute the profile of each parcel of a patch.

    Args:
        images_TCHW: Reflectance x 10 000; 0 in red and near infrared is no data.
        days_T: Days of the images, ascending.
        parcels_HW: Integers, number of the parcel at each pixel, 0 for none.
    """
    order = np.argsort(parcels_HW, axis=None, kind="stable")
    parcel_P, start_P = np.unique(parcels_HW.ravel()[order], return_index=True)
    pixels_of = dict(zip(parcel_P.tolist(), np.split(order, start_P[1:]), strict=True))
    pixels_of.pop(0, None)
    blue_TX, red_TX, infrared_TX = (
        images_TCHW[:, band].reshape(len(images_TCHW), -1).astype(np.float32)
        for band in (_BLUE, _RED, _INFRARED)
    )
    ndvi_TX = ndvi(red_TX, infrared_TX)
    shape_TP = (len(days_T), len(pixels_of))
    ndvi_TP, blue_TP = np.empty(shape_TP, np.float32), np.empty(shape_TP, np.float32)
    for position, pixels_X in enumerate(pixels_of.values()):
        ndvi_TP[:, position] = _medians(ndvi_TX[:, pixels_X])
        blue_TP[:, position] = np.median(blue_TX[:, pixels_X], axis=1)
    return Profiles(np.array([*pixels_of]), days_T, ndvi_TP, find_clouds(blue_TP, ndvi_TP, days_T))


def ndvi(red: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Compute the normalised difference vegetation index of two arrays of one shape.

    Args:
        red: Reflectance, any scale.
        infrared: Reflectance on the same scale.

    Returns:
        -1..1, NaN where the sum is 0 or less.

    >>> ndvi(np.array([500.0, 1000.0, 0.0]), np.array([4500.0, 1000.0, 0.0])).tolist()
    [0.8, 0.0, nan]
    """
    total = red + infrared
    ratio: np.ndarray = np.divide(
        infrared - red, total, out=np.full_like(total, np.nan), where=total > 0
    )
    return ratio.clip(-1, 1)


def find_clouds(blue_TP: np.ndarray, ndvi_TP: np.ndarray, days_T: np.ndarray) -> np.ndarray:
    """Find the dates on which clouds hide a parcel, from its own series alone.

    A date is cloudy where blue is above ``CLOUD_REFLECTANCE`` (cloud, snow), where NDVI is missing,
    or where NDVI dips (thin cloud, shadow): lower than on the clear dates before and after, which
    lie at most ``DIP_DAYS`` apart, and more than ``DIP`` below the line between them.

    Args:
        blue_TP: Reflectance x 10 000.
        ndvi_TP: -1..1, NaN without data.
        days_T: Days, ascending.

    Returns:
        bool, T x P.
    """
    cloudy_TP: np.ndarray = (blue_TP > CLOUD_REFLECTANCE) | np.isnan(ndvi_TP)
    for _ in range(_ROUNDS):
        cloudy_TP |= _dips(ndvi_TP, ~cloudy_TP, days_T)
    return cloudy_TP


def _dips(ndvi_TP: np.ndarray, clear_TP: np.ndarray, days_T: np.ndarray) -> np.ndarray:
    """Find the clear dates at which NDVI dips between its clear neighbours."""
    dates = len(days_T)
    place_T1 = np.arange(dates)[:, None]
    last_TP = np.maximum.accumulate(np.where(clear_TP, place_T1, -1), axis=0)
    next_TP = np.minimum.accumulate(np.where(clear_TP, place_T1, dates)[::-1], axis=0)[::-1]
    before_TP = np.pad(last_TP[:-1], ((1, 0), (0, 0)), constant_values=-1)
    after_TP = np.pad(next_TP[1:], ((0, 1), (0, 0)), constant_values=dates)
    between_TP = clear_TP & (before_TP >= 0) & (after_TP < dates)
    before_TP, after_TP = before_TP.clip(0), after_TP.clip(max=dates - 1)
    start_TP = np.take_along_axis(ndvi_TP, before_TP, 0)
    end_TP = np.take_along_axis(ndvi_TP, after_TP, 0)
    span_TP = days_T[after_TP] - days_T[before_TP]
    passed_TP = days_T[:, None] - days_T[before_TP]
    line_TP = start_TP + (end_TP - start_TP) * passed_TP / np.maximum(span_TP, 1)
    lower_TP = (ndvi_TP < line_TP - DIP) & (ndvi_TP < np.minimum(start_TP, end_TP))
    dips_TP: np.ndarray = between_TP & lower_TP & (span_TP <= DIP_DAYS)
    return dips_TP


class NdviCounts:
    """Counts of parcels by class, period of ten days and NDVI, which give quantiles of NDVI.

    Memory does not grow with the number of parcels; quantiles are exact to 0.005.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[int, int], np.ndarray] = defaultdict(
            lambda: np.zeros(round(2 / _STEP) + 1, np.int64)
        )

    def add(self, profiles: Profiles, class_P: np.ndarray) -> None:
        """Count the parcels of a patch, each once a period with the mean of its clear dates there.

        Args:
            profiles: NDVI of the parcels.
            class_P: Integers, class of each parcel.
        """
        period_T = profiles.days_T // PERIOD_DAYS
        for period in np.unique(period_T).tolist():
            clear_tP = ~profiles.cloudy_TP[period_T == period]
            ndvi_tP = np.where(clear_tP, profiles.ndvi_TP[period_T == period], 0)
            seen_P = clear_tP.any(axis=0)
            mean_P = ndvi_tP.sum(axis=0)[seen_P] / clear_tP.sum(axis=0)[seen_P]
            bin_P = ((mean_P + 1) / _STEP).round().astype(np.int64)
            for class_id in np.unique(class_P[seen_P]).tolist():
                counts = self._counts[class_id, period]
                counts += np.bincount(bin_P[class_P[seen_P] == class_id], minlength=len(counts))

    def quantiles(
        self, class_ids: Sequence[int], shares: Sequence[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute quantiles of NDVI over the parcels of some classes in each period.

        Args:
            class_ids: The classes.
            shares: 0..1; a quantile is the lowest value that at least this share of the parcels
                does not exceed.

        Returns:
            The middle day of each period with a clear parcel, int64 ascending, and the quantiles,
            Q x periods.
        """
        periods = sorted({period for class_id, period in self._counts if class_id in class_ids})
        values = np.empty((len(shares), len(periods)))
        for column, period in enumerate(periods):
            summed = np.sum(
                [
                    self._counts[key]
                    for key in self._counts
                    if key[0] in class_ids and key[1] == period
                ],
                axis=0,
            ).cumsum()
            # No share is less than one parcel, so that share 0 is the lowest value.
            parcels_Q = np.maximum(np.array(shares) * summed[-1], 1)
            values[:, column] = np.searchsorted(summed, parcels_Q) * _STEP - 1
        return np.array(periods, np.int64) * PERIOD_DAYS + PERIOD_DAYS // 2, values


def _medians(values_TX: np.ndarray) -> np.ndarray:
    """Return the median of each row without its NaN, or NaN where nothing is left.

    Many times faster than ``numpy.nanmedian``.
    """
    sorted_TX = np.sort(values_TX, axis=1)  # NaN come last
    count_T = (~np.isnan(sorted_TX)).sum(axis=1)
    rows_T = np.arange(len(sorted_TX))
    lower_T = sorted_TX[rows_T, (count_T - 1).clip(0) // 2]
    upper_T = sorted_TX[rows_T, count_T // 2]
    return np.where(count_T > 0, (lower_T + upper_T) / 2, np.nan)

"""NDVI of parcels over a season, the dates on which clouds hide them, and quantiles over parcels.

Shape suffixes: T dates, C bands in the order of ``PASTIS_BANDS``, H W pixels, X pixels of one
parcel, P parcels, Q shares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoseg.imagery.sentinel2 import PASTIS_BANDS

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

"""Windows of a cube: cover a raster with them, and read one with gaps filled in time.

Shape suffixes: T dates, C bands, H W pixels, P pixels in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels."""

    top: int
    """First row."""
    left: int
    """First column."""
    height: int
    """Number of rows."""
    width: int
    """Number of columns."""

    @property
    def rows(self) -> slice:
        """Index of the rows."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Index of the columns."""
        return slice(self.left, self.left + self.width)


def windows_over(height: int, width: int, side: int) -> list[Window]:
    """Return squares of ``side`` pixels that cover a raster, row by row.

    The last of a row and of a column are cut.

    >>> [(window.left, window.width) for window in windows_over(10, 25, 10)]
    [(0, 10), (10, 10), (20, 5)]
    """
    return [
        Window(top, left, min(side, height - top), min(side, width - left))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def read_window(
    cube: xr.Dataset, bands: Sequence[str], window: Window
) -> tuple[np.ndarray, np.ndarray]:
    """Read the images of a window from disk, gaps filled in time.

    Returns:
        images_TCHW: float32 reflectance x 10 000; NaN throughout in bands that the cube lacks, and
            nowhere else.
        data_HW: bool, False where some band has no data on any date; the images are 0 there.
    """
    part = cube[[band for band in bands if band in cube]].isel(y=window.rows, x=window.columns)
    days_T = part["time"].values.astype("datetime64[D]").astype(np.int64)
    images_TCHW = np.empty(
        (cube.sizes["time"], len(bands), window.height, window.width), np.float32
    )
    data_HW = np.ones((window.height, window.width), bool)
    for channel, band in enumerate(bands):
        if band not in part:
            images_TCHW[:, channel] = np.nan
            continue
        # One band at a time, so that little is read and not yet filled. The scheduler is passed
        # here, because dask's configuration is one for all threads and a task of a cluster would
        # ask the cluster to read.
        images_TCHW[:, channel], band_data_HW = fill_gaps(
            part[band].compute(scheduler="threads").values, days_T
        )
        data_HW &= band_data_HW
    return images_TCHW, data_HW


def fill_gaps(values_THW: np.ndarray, days_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace NaN and 0 by linear interpolation between the dates before and after.

    At the ends of the season the nearest date is used. ``values_THW`` is not modified.

    >>> filled, data = fill_gaps(np.array([[[10.0]], [[0.0]], [[40.0]]]), np.array([0, 1, 3]))
    >>> filled.ravel().tolist(), data.item()
    ([10.0, 20.0, 40.0], True)

    Args:
        values_THW: One band; NaN and 0 are gaps.
        days_T: int64, ascending.

    Returns:
        filled_THW: float32, 0 where no date has data.
        data_HW: bool, whether some date has data.
    """
    # Written so that NaN, which compares false, is missing too.
    missing_THW = ~(np.abs(values_THW) > 0) | ~np.isfinite(values_THW)
    filled_THW = np.where(missing_THW, 0, values_THW).astype(np.float32)
    data_HW = ~missing_THW.all(axis=0)
    gaps_HW = missing_THW.any(axis=0) & data_HW
    if gaps_HW.any():
        filled_THW[:, gaps_HW] = _interpolate(
            filled_THW[:, gaps_HW], missing_THW[:, gaps_HW], days_T
        )
    return filled_THW, data_HW


def _interpolate(values_TP: np.ndarray, missing_TP: np.ndarray, days_T: np.ndarray) -> np.ndarray:
    """Interpolate missing entries of series that each have at least one other entry."""
    dates = len(days_T)
    place_T1 = np.arange(dates)[:, None]
    # Place of the nearest date with data before and after each date, -1 and T where there is none.
    before_TP = np.maximum.accumulate(np.where(missing_TP, -1, place_T1), axis=0)
    after_TP = np.minimum.accumulate(np.where(missing_TP, dates, place_T1)[::-1], axis=0)[::-1]
    # At the ends of a series both neighbours are the same date.
    nothing_before, nothing_after = before_TP < 0, after_TP >= dates
    before_TP, after_TP = (
        np.where(nothing_before, after_TP, before_TP),
        np.where(nothing_after, before_TP, after_TP),
    )
    start_TP, end_TP = (
        np.take_along_axis(values_TP, before_TP, 0),
        np.take_along_axis(values_TP, after_TP, 0),
    )
    span_TP = np.maximum(days_T[after_TP] - days_T[before_TP], 1)
    weight_TP = (days_T[:, None] - days_T[before_TP]) / span_TP
    filled_TP: np.ndarray = start_TP + np.clip(weight_TP, 0, 1) * (end_TP - start_TP)
    return filled_TP.astype(np.float32)

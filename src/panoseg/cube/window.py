"""Read a window of a checked cube as a network sees it: gaps filled in time.

Shape suffixes: T dates, C bands, H W pixels, P pixels in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: half-open ranges of rows and columns."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """The rows, as an index."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """The columns, as an index."""
        return slice(self.left, self.left + self.width)


def windows_over(height: int, width: int, side: int) -> list[Window]:
    """Squares of ``side`` pixels that cover a raster, row by row; the last of a row and of a column
    are cut.

    >>> [(own.columns.start, own.columns.stop) for own in windows_over(10, 25, 10)]
    [(0, 10), (10, 20), (20, 25)]
    """
    return [
        Window(top, left, min(side, height - top), min(side, width - left))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def read_window(
    cube: xr.Dataset, bands: Sequence[str], window: Window
) -> tuple[np.ndarray, np.ndarray]:
    """Images and where they have data, read from disk now.

    Gives images_TCHW, float32 reflectance x 10 000 without NaN, and data_HW, bool: False where no
    date has data in some band (the images hold 0 there).
    """
    part = cube[list(bands)].isel(y=window.rows, x=window.columns)
    days_T = part["time"].values.astype("datetime64[D]").astype(np.int64)
    images_TCHW = np.empty(
        (cube.sizes["time"], len(bands), window.height, window.width), np.float32
    )
    data_HW = np.ones((window.height, window.width), bool)
    for channel, band in enumerate(bands):
        # One band at a time: what is read and not yet filled stays small. Threads of this process
        # read; that is said here and
        # not in dask's configuration, which is one for all threads: without it a task of a cluster
        # asks the cluster to read.
        images_TCHW[:, channel], band_data_HW = fill_gaps(
            part[band].compute(scheduler="threads").values, days_T
        )
        data_HW &= band_data_HW
    return images_TCHW, data_HW


def fill_gaps(values_THW: np.ndarray, days_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace NaN and 0 by what lies between the dates before and after, linear in days; at the
    ends by the nearest date.

    Gives the filled float32 values (0 where no date has data), and data_HW, bool. ``values_THW`` is
    not modified.

    >>> filled, data = fill_gaps(np.array([[[10.0]], [[0.0]], [[40.0]]]), np.array([0, 1, 3]))
    >>> filled.ravel().tolist(), data.item()
    ([10.0, 20.0, 40.0], True)
    """
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
    """Series whose missing entries are interpolated; each has at least one entry that is not
    missing.
    """
    dates = len(days_T)
    place_T1 = np.arange(dates)[:, None]
    before_TP = np.maximum.accumulate(np.where(missing_TP, -1, place_T1), axis=0)
    after_TP = np.minimum.accumulate(np.where(missing_TP, dates, place_T1)[::-1], axis=0)[::-1]
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
    return (start_TP + np.clip(weight_TP, 0, 1) * (end_TP - start_TP)).astype(np.float32)

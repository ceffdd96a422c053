"""What a network reads of a cube: the dates of one season that show the ground, by windows.

A raster is covered with windows, and one is read with gaps filled in time.

Shape suffixes: T dates of a season, C bands, H W pixels, P pixels in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import xarray as xr

from panoseg.cube import ReadOptions
from panoseg.cube.metadata import report_of
from panoseg.errors import CubeError
from panoseg.imagery.sentinel2 import (
    SCENE_CLASSIFICATION,
    SEASON_START,
    season_end,
    season_span,
    southern_start,
)

# Sen2Cor's classes in which the ground is seen: dark area, vegetation, bare soil, water,
# unclassified, snow.
CLEAR_CLASSES = (2, 4, 5, 6, 7, 11)
_SAMPLED_SIDE = 512


@dataclass(frozen=True)
class Season:
    """The dates of a cube that are used, and why others are not."""

    harvest_year: int
    """Year in which the crops are harvested."""
    reference: date
    """Day 0."""
    index_T: np.ndarray
    """int64: place of each used date in the cube, ascending."""
    dates_T: np.ndarray
    """datetime64[D], ascending."""
    days_T: np.ndarray
    """int64: days since ``reference``."""
    clear_T: np.ndarray
    """float64, 0..1: share of pixels that show the ground (see ``clear_shares``)."""
    left_out: tuple[tuple[str, str], ...]
    """Dates within the season that are not used, each with the reason."""
    outside_T: np.ndarray = field(default_factory=lambda: np.empty(0, "datetime64[D]"))
    """datetime64[D], ascending: dates of the cube that lie outside of the season."""
    southern: bool = False
    """Whether the cube lies south of the equator."""
    first_day: date | None = None
    """First day that was asked for; None for the season's."""
    last_day: date | None = None
    """Last day that was asked for; None for the season's."""

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence about dates outside of the season."""
        if not self.outside_T.size:
            return ()
        first, last = self.first_day or self.reference, self.last_day or self.last
        dates, lie = ("date", "lies") if self.outside_T.size == 1 else ("dates", "lie")
        return (
            f"{self.outside_T.size} {dates} of the cube {lie} outside of the season ({first} to"
            f" {last}): --season-start, or --from and --to, choose another.",
        )

    @property
    def growing(self) -> tuple[np.datetime64, np.datetime64]:
        """First day of the growing half of the year, and the first after it.

        April to September north of the equator, October to March south of it.
        """
        year = self.harvest_year
        if self.southern:
            return np.datetime64(f"{year - 1}-10-01"), np.datetime64(f"{year}-04-01")
        return np.datetime64(f"{year}-04-01"), np.datetime64(f"{year}-10-01")

    @property
    def last(self) -> date:
        """The last day of the season."""
        return season_end(self.reference)


def choose_season(
    cube: xr.Dataset,
    *,
    start: tuple[int, int] = SEASON_START,
    year: int | None = None,
    min_clear: float = 0.1,
    max_dates: int = 60,
    min_dates: int = 2,
    options: ReadOptions | None = None,
) -> Season:
    """Choose the season of a checked cube.

    Args:
        cube: A cube as ``check_cube`` returns it.
        start: Month and day of day 0, in the year before the harvest; of a cube south of the
            equator it is half a year later.
        year: Harvest year, in which the season ends; None takes the one with the most dates.
        min_clear: Dates with a smaller clear share (0..1) are left out. Clouds above it stay in, as
            in the training data.
        max_dates: Of more dates the clearest of each stretch of the season are kept.
        min_dates: Fewer dates are refused.
        options: The start of the season, and first and last day, where they are asked for.

    Raises:
        CubeError: The season has fewer than ``min_dates`` usable dates.
        ConfigError: ``year`` is not a possible harvest year.
    """
    options = options or ReadOptions()
    dates = cube["time"].values.astype("datetime64[D]")
    southern = is_southern(cube)
    harvest_year, first, inside = dates_of_season(
        dates, season_begin(southern, start, options), year, southern=southern, days=options.days
    )
    clear = clear_shares(cube.isel(time=inside))
    seen = clear >= min_clear
    left_out = [
        (str(dates[i]), f"{share:.0%} clear")
        for i, share in zip(inside[~seen], clear[~seen], strict=True)
    ]
    chosen = np.flatnonzero(seen)
    kept = chosen[spread_clearest(dates[inside[chosen]], clear[chosen], max_dates)]
    left_out += [
        (str(dates[inside[i]]), "clearer dates near it") for i in np.setdiff1d(chosen, kept)
    ]
    if kept.size < min_dates:
        raise CubeError(
            f"Only {kept.size} of the {inside.size} dates in the season of {harvest_year} ({first}"
            f" to {season_end(first)}) are usable, and at least {min_dates} are needed: take a"
            " longer season, choose other days with --season-start or --from and --to, or lower"
            " --min-dates or --min-clear."
        )
    used = inside[kept]
    return Season(
        harvest_year=harvest_year,
        reference=first,
        index_T=used,
        dates_T=dates[used],
        days_T=(dates[used] - np.datetime64(first)).astype(np.int64),
        clear_T=clear[kept],
        left_out=tuple(sorted(left_out)),
        outside_T=np.delete(dates, inside),
        southern=southern,
        first_day=options.days[0],
        last_day=options.days[1],
    )


def season_begin(southern: bool, start: tuple[int, int], options: ReadOptions) -> tuple[int, int]:
    """Return month and day of day 0: what is asked for, or ``start`` on its hemisphere."""
    return options.start or (southern_start(start) if southern else start)


def is_southern(cube: xr.Dataset) -> bool:
    """Return whether the middle of a checked cube lies south of the equator."""
    centre = cube.odc.geobox.extent.centroid.to_crs("EPSG:4326")
    return bool(centre.coords[0][1] < 0)


def dates_of_season(
    dates: np.ndarray,
    start: tuple[int, int] = SEASON_START,
    year: int | None = None,
    *,
    southern: bool = False,
    days: tuple[date | None, date | None] = (None, None),
) -> tuple[int, date, np.ndarray]:
    """Return the harvest year, day 0, and the places of the dates that lie in the season.

    Args:
        dates: datetime64[D], ascending.
        start: As in ``choose_season``.
        year: As in ``choose_season``.
        southern: Whether the land lies south of the equator.
        days: First and last day to use, in place of the season's where they are not None.

    Raises:
        CubeError: No date lies in the season.
        ConfigError: ``year`` is not a possible harvest year.
    """
    wanted = np.ones(len(dates), bool)
    if days[0] is not None:
        wanted &= dates >= np.datetime64(days[0])
    if days[1] is not None:
        wanted &= dates <= np.datetime64(days[1])
    if not wanted.any():
        raise CubeError(
            f"No date of the cube lies between --from and --to; the cube spans {dates[0]} to"
            f" {dates[-1]}."
        )
    if year is None:
        year = infer_harvest_year(dates[wanted], start, southern=southern)
        first = date(year - 1, *start)
        last = season_end(first)
    else:
        first, last = season_span(year, start)
    # Asked days may go beyond a season; day 0 is that of the season with most of them.
    low = first if days[0] is None else days[0]
    high = last if days[1] is None else days[1]
    inside = np.flatnonzero((dates >= np.datetime64(low)) & (dates <= np.datetime64(high)))
    if inside.size == 0:
        raise CubeError(
            f"No date of the cube lies in the season of {year} ({first} to {last}); the cube spans"
            f" {dates[0]} to {dates[-1]}. Choose another harvest year (map --year, dataset"
            " --season)."
        )
    return year, first, inside


def infer_harvest_year(
    dates: np.ndarray, start: tuple[int, int] = SEASON_START, *, southern: bool = False
) -> int:
    """Return the year whose season holds the most dates (datetime64[D]).

    Among equals the one with the most dates from March to August (south of the equator: September
    to February), then the later.
    """
    years = range(dates.min().astype(date).year, dates.max().astype(date).year + 2)

    def dates_within(year: int) -> tuple[int, int, int]:
        first = date(year - 1, *start)
        in_season = (dates >= np.datetime64(first)) & (dates <= np.datetime64(season_end(first)))
        spring = f"{year - 1}-09-01" if southern else f"{year}-03-01"
        autumn = f"{year}-03-01" if southern else f"{year}-09-01"
        growing = (dates >= np.datetime64(spring)) & (dates < np.datetime64(autumn))
        return int(in_season.sum()), int(growing.sum()), year

    return max(years, key=dates_within)


def clear_shares(cube: xr.Dataset) -> np.ndarray:
    """Return the share of pixels of each date that show the ground: float64, 0..1.

    A cube that panoseg made records the share inside the outline; of another cube at most about
    512 x 512 pixels, evenly spread, are read.
    """
    report = report_of(cube)
    known = dict(zip(report.dates, report.clear, strict=True)) if report else {}
    days = cube["time"].values.astype("datetime64[D]").astype(str).tolist()
    if known and set(days) <= set(known):
        return np.array([known[day] for day in days])
    step = {dim: slice(None, None, max(1, cube.sizes[dim] // _SAMPLED_SIDE)) for dim in ("y", "x")}
    return np.asarray(shows_ground(cube.isel(step)).mean(("y", "x")).compute().values)


def shows_ground(cube: xr.Dataset) -> xr.DataArray:
    """Return where the ground is seen: bool (time, y, x), lazy.

    Pixels with data count, and where the cube has a scene classification only those of
    ``CLEAR_CLASSES``.
    """
    bands = [name for name in cube.data_vars if name != SCENE_CLASSIFICATION]
    first = cube[bands[0]]
    seen = first.notnull() & (first != 0)
    if SCENE_CLASSIFICATION in cube:
        seen = seen & cube[SCENE_CLASSIFICATION].isin(CLEAR_CLASSES)
    return seen


def spread_clearest(dates: np.ndarray, clear: np.ndarray, count: int) -> np.ndarray:
    """Return the places of ``count`` dates, ascending: clear ones, spread over the season.

    Dates are removed one by one. Two neighbours are worth the days between them times the clear
    share of the cloudier; of the pair that is worth least the cloudier date goes. So thin stretches
    of the season keep their dates.

    >>> days = np.array(["2019-01-01", "2019-04-01", "2019-04-02", "2019-08-01"], "datetime64[D]")
    >>> spread_clearest(days, np.array([0.3, 0.9, 1.0, 0.3]), 3)
    array([0, 2, 3])

    Args:
        dates: datetime64[D], ascending.
        clear: Clear share of each date, 0..1.
        count: Number of dates to keep; fewer dates are all kept.
    """
    kept = np.arange(len(dates))
    while len(kept) > count:
        cloudier = np.minimum(clear[kept[:-1]], clear[kept[1:]])
        pair = int((np.diff(dates[kept]).astype(np.int64) * cloudier).argmin())
        kept = np.delete(kept, pair if clear[kept[pair]] < clear[kept[pair + 1]] else pair + 1)
    return kept


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

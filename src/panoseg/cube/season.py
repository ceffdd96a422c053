"""Choose the dates of a cube that a network sees: those of one season that show the ground.

Shape suffix: T dates of a season.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import xarray as xr

from panoseg.cube.check import report_of
from panoseg.errors import CubeError
from panoseg.imagery.sentinel2 import SCENE_CLASSIFICATION, SEASON_START, season_end, season_span

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
) -> Season:
    """Choose the season of a checked cube.

    Args:
        cube: A cube as ``check_cube`` returns it.
        start: Month and day of day 0, in the year before the harvest.
        year: Harvest year; None takes the one with the most dates.
        min_clear: Dates with a smaller clear share (0..1) are left out. Clouds above it stay in, as
            in the training data.
        max_dates: Of more dates the clearest of each stretch of the season are kept.
        min_dates: Fewer dates are refused.

    Raises:
        CubeError: The season has fewer than ``min_dates`` usable dates.
        ConfigError: ``year`` is not a possible harvest year.
    """
    dates = cube["time"].values.astype("datetime64[D]")
    harvest_year, first, inside = dates_of_season(dates, start, year)
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
            f"Only {kept.size} of the {inside.size} dates in the season of {harvest_year} are"
            f" usable, and at least {min_dates} are needed: take a longer season, or lower"
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
    )


def dates_of_season(
    dates: np.ndarray, start: tuple[int, int] = SEASON_START, year: int | None = None
) -> tuple[int, date, np.ndarray]:
    """Return the harvest year, day 0, and the places of the dates that lie in the season.

    Args:
        dates: datetime64[D], ascending.
        start: As in ``choose_season``.
        year: As in ``choose_season``.

    Raises:
        CubeError: No date lies in the season.
        ConfigError: ``year`` is not a possible harvest year.
    """
    if year is None:
        year = infer_harvest_year(dates, start)
        first = date(year - 1, *start)
        last = season_end(first)
    else:
        first, last = season_span(year, start)
    inside = np.flatnonzero((dates >= np.datetime64(first)) & (dates <= np.datetime64(last)))
    if inside.size == 0:
        raise CubeError(
            f"No date of the cube lies in the season of {year} ({first} to {last}); the cube spans"
            f" {dates[0]} to {dates[-1]}. Choose another harvest year (map --year, dataset"
            " --season)."
        )
    return year, first, inside


def infer_harvest_year(dates: np.ndarray, start: tuple[int, int] = SEASON_START) -> int:
    """Return the year whose season holds the most dates (datetime64[D]).

    Among equals the one with the most dates from March to August, then the later.
    """
    years = range(dates.min().astype(date).year, dates.max().astype(date).year + 2)

    def dates_within(year: int) -> tuple[int, int, int]:
        first = date(year - 1, *start)
        in_season = (dates >= np.datetime64(first)) & (dates <= np.datetime64(season_end(first)))
        growing = (dates >= np.datetime64(f"{year}-03-01")) & (
            dates < np.datetime64(f"{year}-09-01")
        )
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

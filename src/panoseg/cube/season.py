"""The dates of a cube that a network sees: one season, without dates that show next to nothing, and
not too many.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import xarray as xr

from panoseg.cube.check import report_of
from panoseg.errors import ConfigError, CubeError
from panoseg.imagery.bands import SCENE_CLASSIFICATION
from panoseg.imagery.scenes import FIRST_YEAR, LAST_YEAR

# 1 September to 31 October of the next year: what a season of PASTIS spans.
SEASON_DAYS = 425
CLEAR_CLASSES = (
    2,
    4,
    5,
    6,
    7,
    11,
)  # dark, vegetation, bare, water, unclassified, snow: the ground is seen
_SAMPLED_SIDE = 512


@dataclass(frozen=True)
class Season:
    """Which dates of a cube are used.

    harvest_year: the year in which the crops are harvested. reference: day 0. index_T: place of
    each used date in the cube, ascending. dates_T: datetime64[D]. days_T: int64 days since
    ``reference``. clear_T: float 0..1, share of pixels that show the ground (by the scene
    classification where the cube has one, else pixels with data). left_out: dates within the season
    that are not used, with the reason.
    """

    harvest_year: int
    reference: date
    index_T: np.ndarray
    dates_T: np.ndarray
    days_T: np.ndarray
    clear_T: np.ndarray
    left_out: tuple[tuple[str, str], ...]


def choose_season(
    cube: xr.Dataset,
    *,
    start: tuple[int, int] = (9, 1),
    year: int | None = None,
    min_clear: float = 0.1,
    max_dates: int = 60,
    min_dates: int = 2,
) -> Season:
    """The season of a checked cube.

    start: month and day of day 0, in the year before harvest. year: the harvest year; None takes
    the one with the most dates.
    min_clear: dates with a smaller clear share are left out; clouds above that stay in, as in
    training. max_dates: at most so many; the clearest of each stretch of the season are kept.
    Raises ``CubeError`` for fewer than ``min_dates``.
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
            f"the season of {harvest_year} has {kept.size} usable of {inside.size} dates",
            f"at least {min_dates}",
            "take a longer season, or lower --min-dates or --min-clear",
        )
    used = inside[kept]
    days = (dates[used] - first).astype(np.int64)
    return Season(
        harvest_year,
        first.astype(date),
        used,
        dates[used],
        days,
        clear[kept],
        tuple(sorted(left_out)),
    )


def dates_of_season(
    dates: np.ndarray, start: tuple[int, int] = (9, 1), year: int | None = None
) -> tuple[int, np.datetime64, np.ndarray]:
    """Harvest year, day 0, and the places of the dates (datetime64[D]) that lie in its season.

    start, year: as of ``choose_season``. Raises ``CubeError`` where no date does.
    """
    harvest_year = infer_harvest_year(dates, start) if year is None else _checked(year)
    first = np.datetime64(date(harvest_year - 1, *start))
    inside = np.flatnonzero((dates >= first) & (dates <= first + SEASON_DAYS))
    if inside.size == 0:
        raise CubeError(
            f"no date of the cube lies in the season of {harvest_year} (the cube spans {dates[0]}"
            f" to {dates[-1]})",
            f"dates from {first} to {first + SEASON_DAYS}",
            "choose another harvest year (map --year, dataset --season)",
        )
    return harvest_year, first, inside


def season_span(year: int, start: tuple[int, int] = (9, 1)) -> tuple[date, date]:
    """The first and the last day of the season of a harvest year; ``start``: month and day of day
    0, in the year before.

    Raises ``ConfigError`` for a year of no harvest that was seen.
    """
    first = date(_checked(year) - 1, *start)
    return first, first + timedelta(days=SEASON_DAYS)


def _checked(year: int) -> int:
    """The harvest year that somebody asks for. Raises ``ConfigError``."""
    if not FIRST_YEAR < year < LAST_YEAR:
        raise ConfigError(
            f"season {year}",
            f"the year of a harvest, {FIRST_YEAR + 1} to {LAST_YEAR - 1}",
            "change the year",
        )
    return year


def infer_harvest_year(dates: np.ndarray, start: tuple[int, int] = (9, 1)) -> int:
    """The year whose season holds the most dates; among equals the one with the most from March to
    August, then the later.
    """
    years = range(dates.min().astype(date).year, dates.max().astype(date).year + 2)

    def dates_within(year: int) -> tuple[int, int, int]:
        first = np.datetime64(date(year - 1, *start))
        growing = (dates >= np.datetime64(f"{year}-03-01")) & (
            dates < np.datetime64(f"{year}-09-01")
        )
        return (
            int(((dates >= first) & (dates <= first + SEASON_DAYS)).sum()),
            int(growing.sum()),
            year,
        )

    return max(years, key=dates_within)


def clear_shares(cube: xr.Dataset) -> np.ndarray:
    """Share of pixels of each date that show the ground.

    As a cube of ours says of the area that was asked for, else from at most 512 x 512 pixels spread
    over the cube.
    """
    report = report_of(cube)
    known = dict(zip(report.dates, report.clear, strict=True)) if report else {}
    days = cube["time"].values.astype("datetime64[D]").astype(str).tolist()
    if known and set(days) <= set(known):
        return np.array([known[day] for day in days])
    step = {dim: slice(None, None, max(1, cube.sizes[dim] // _SAMPLED_SIDE)) for dim in ("y", "x")}
    return shows_ground(cube.isel(step)).mean(("y", "x")).compute().values


def shows_ground(cube: xr.Dataset) -> xr.DataArray:
    """Where the ground is seen: bool (time, y, x), lazy. By the scene classification where the cube
    has one, else by data.
    """
    bands = [name for name in cube.data_vars if name != SCENE_CLASSIFICATION]
    first = cube[bands[0]]
    seen = first.notnull() & (first != 0)
    if SCENE_CLASSIFICATION in cube:
        seen = seen & cube[SCENE_CLASSIFICATION].isin(CLEAR_CLASSES)
    return seen


def spread_clearest(dates: np.ndarray, clear: np.ndarray, count: int) -> np.ndarray:
    """Places of ``count`` dates, ascending: of the two neighbours that are least worth having both,
    the cloudier leaves.

    What two neighbours are worth is the days between them times the clear share of the cloudier, so
    that thin stretches of the season keep their dates.

    >>> days = np.array(["2019-01-01", "2019-04-01", "2019-04-02", "2019-08-01"], "datetime64[D]")
    >>> spread_clearest(days, np.array([0.3, 0.9, 1.0, 0.3]), 3)
    array([0, 2, 3])
    """
    kept = np.arange(len(dates))
    while len(kept) > count:
        cloudier = np.minimum(clear[kept[:-1]], clear[kept[1:]])
        pair = int((np.diff(dates[kept]).astype(np.int64) * cloudier).argmin())
        kept = np.delete(kept, pair if clear[kept[pair]] < clear[kept[pair + 1]] else pair + 1)
    return kept

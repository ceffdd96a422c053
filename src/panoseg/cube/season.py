"""Choose the dates of a cube that a network sees: those of one season that show the ground.

Shape suffix: T dates of a season.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

import numpy as np
import xarray as xr

from panoseg.cube.options import ReadOptions
from panoseg.cube.report import report_of
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

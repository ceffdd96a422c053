"""A season is 1 September to 31 October of the harvest year everywhere, in leap years too."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import shapely

import panoseg
from cubes import make_cube
from panoseg.app.requests import CatalogueSource
from panoseg.cli.data import _days
from panoseg.cube import DEFAULT_CATALOGUE
from panoseg.cube.check import check_cube
from panoseg.cube.season import choose_season, infer_harvest_year
from panoseg.errors import ConfigError
from panoseg.imagery import VectorOptions
from panoseg.imagery.area import Area
from panoseg.imagery.sentinel2 import (
    LAST_YEAR,
    PASTIS_BANDS,
    REFERENCE_DATE,
    season_end,
    season_span,
)
from panoseg.maps.report import _time_fraction
from panoseg.simulation.options import SimulationOptions
from panoseg.simulation.season import planned_dates

YEARS = (2019, 2020, 2023, 2024, 2100)  # 2020 and 2024 are leap years, 2100 is none


def days(*texts: str) -> np.ndarray:
    return np.array(texts, "datetime64[D]")


@pytest.mark.parametrize("year", YEARS)
def test_every_way_to_a_season_gives_the_same_days(year, tmp_path):
    expected = date(year - 1, 9, 1), date(year, 10, 31)
    assert season_span(year) == expected
    farm = Area(shapely.box(3, 50, 3.01, 50.01), "farm", 1.0)
    outline = tmp_path / "farm.geojson"
    outline.write_text(shapely.to_geojson(farm.outline))
    assert _days(outline, VectorOptions(), year, None, None) == expected
    source = CatalogueSource(type="catalogue", upload="0" * 32, year=year)
    assert source.season(farm) == expected
    inside = (f"{year - 1}-09-01", f"{year}-06-01", f"{year}-10-31")
    dates = (f"{year - 1}-08-31", *inside, f"{year}-11-01")
    cube = check_cube(make_cube(dates=dates), PASTIS_BANDS)
    for season in (choose_season(cube), choose_season(cube, year=year)):
        assert season.dates_T.astype(str).tolist() == list(inside)
        assert (season.reference, season.last) == expected
        assert [_time_fraction(season, day) for day in (inside[0], inside[-1])] == [0, 1]


@pytest.mark.parametrize(
    ("start", "last_2019", "last_2020"),
    [
        ((10, 15), date(2019, 12, 14), date(2020, 12, 14)),
        ((3, 1), date(2019, 4, 30), date(2020, 4, 30)),
        ((1, 1), date(2019, 3, 2), date(2020, 3, 1)),
    ],
)
def test_a_season_that_starts_on_another_day_lasts_60_days_beyond_a_year(
    start, last_2019, last_2020
):
    assert season_span(2019, start) == (date(2018, *start), last_2019)
    assert season_span(2020, start) == (date(2019, *start), last_2020)


def test_seasons_without_29_february_have_425_days_after_the_first():
    for start in ((9, 1), (10, 15), (3, 1), (1, 1), (12, 31)):
        first = date(2018, *start)
        assert (season_end(first) - first).days == 425


def test_the_last_day_of_a_leap_season_counts_for_its_harvest_year():
    assert infer_harvest_year(days("2020-06-01", "2020-10-31")) == 2020
    assert infer_harvest_year(days("2020-10-31", "2021-06-01")) == 2021


def test_a_simulated_leap_season_reaches_its_last_day():
    """Passes come every five days, so that every fifth seed may have one on the last day."""
    options = SimulationOptions(harvest_year=2020, dates=(80, 80))
    last = max(planned_dates(seed, options)[-1][0] for seed in range(40))
    assert last == date(2020, 10, 31)


@pytest.mark.parametrize("year", [-5, 0, 1985, LAST_YEAR, 10_000])
def test_impossible_harvest_years_are_refused(year):
    with pytest.raises(ConfigError, match="give a harvest year from 1986 to 2199"):
        season_span(year)


def test_the_reference_date_and_the_catalogue_are_written_once():
    """What depends on one of them imports it."""
    root = Path(panoseg.__file__).parent
    for text, home in (
        (REFERENCE_DATE, "imagery/sentinel2.py"),
        (DEFAULT_CATALOGUE, "cube/__init__.py"),
    ):
        defaults = re.compile(rf'(= |get\("ref_date", )"{text}"')
        places = [
            path.relative_to(root).as_posix()
            for path in root.rglob("*.py")
            if defaults.search(path.read_text())
        ]
        assert places == [home]

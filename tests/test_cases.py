"""Situations of real people: seasons as they were reported in public, each with the right result."""

from __future__ import annotations

import numpy as np
import pytest

from panoseg.cube.check import Reading, read_dataset
from panoseg.cube.open import open_cube, reading
from panoseg.cube.season import choose_season
from panoseg.errors import CubeError
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.maps.inspect import inspect_cube

WHOLE = {"data": 1.0, "low": 351, "dates": 12}
SHORT = {"data": 1.0, "low": 350, "dates": 6}
NAMED = {"data": 1.0, "low": 360, "dates": 4}
HALF = {"data": 0.792, "low": 353, "dates": 12}
# File -> share of pixels with data, lowest B04 (rounded), dates that are used.
SEASONS = {
    "01-nodata-attribute/declared.nc": HALF,
    "01-nodata-attribute/nodata_attr.nc": HALF,
    "02-impossible-values/fill65535.nc": HALF,
    "02-impossible-values/destroyed_scl0.nc": {**WHOLE, "data": 0.917},
    "02-impossible-values/wrapped.nc": {**WHOLE, "data": 0.984},
    "03-cf-offset-zero/fill0.nc": HALF,
    "03-cf-offset-zero/no_fill.nc": HALF,
    "05-stackstac-topleft/stack.nc": WHOLE,
    "06-southern-winter-crop/wheat_pampas.nc": {**WHOLE, "dates": 22},
    "06-southern-winter-crop/soybean_pampas.nc": {**WHOLE, "dates": 21},
    "07-clipped-farm/clipped.nc": {**SHORT, "data": 0.27},
    "08-lake-in-the-middle/lake.nc": {**SHORT, "low": 110},
    "10-crs-beside-a-band-dimension/crs_number.nc": SHORT,
    "10-crs-beside-a-band-dimension/epsg_coordinate.nc": SHORT,
    "10-crs-beside-a-band-dimension/gdal.zarr": SHORT,
    "10-crs-beside-a-band-dimension/sentle.zarr": SHORT,
    "12-band-names/dea_nbart.nc": NAMED,
    "12-band-names/deafrica.nc": NAMED,
    "12-band-names/force.nc": NAMED,
    "12-band-names/long_name.nc": NAMED,
    "13-time-as-text/dim_timestamp.nc": SHORT,
    "13-time-as-text/nat.nc": {**SHORT, "dates": 5},
    "13-time-as-text/text.nc": SHORT,
    "13-time-as-text/yyyymmdd.nc": SHORT,
}
# File -> words of a warning.
WARNINGS = {
    "02-impossible-values/fill65535.nc": "such as 65535",
    "02-impossible-values/wrapped.nc": "such as 65496",
    "05-stackstac-topleft/stack.nc": "corners of pixels",
    "06-southern-winter-crop/soybean_pampas.nc": "1 date of the cube lies outside",
    "13-time-as-text/nat.nc": "Date 3 of 6 is missing",
}
NIR = "12-band-names/force.nc"


def read(path) -> Reading:
    with reading(path):
        return read_dataset(open_cube(path), PASTIS_BANDS)


@pytest.mark.parametrize("name", SEASONS)
def test_a_season_is_read_as_it_is(cases, name):
    expected, found = SEASONS[name], read(cases / "satellite" / name)
    red_TYX = found.cube["B04"].values
    seen = np.isfinite(red_TYX) & (red_TYX != 0)
    assert seen.mean() == pytest.approx(expected["data"], abs=5e-4)
    assert round(float(red_TYX[seen].min())) == pytest.approx(expected["low"], abs=1)
    assert red_TYX[seen].max() == 1400
    assert len(choose_season(found.cube).days_T) == expected["dates"]
    grid = found.cube.odc.geobox
    southern = name.startswith("06")
    assert grid.crs.epsg == (32720 if southern else 32631)
    assert (grid.affine.c, grid.affine.f) == (500000, 6300320 if southern else 5600320)


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_odd_is_told(cases, name):
    warnings = inspect_cube(cases / "satellite" / name).inspection.warnings
    assert any(WARNINGS[name] in warning for warning in warnings), warnings


def test_near_infrared_of_force_is_not_swapped(cases):
    """BROADNIR is B08 and NIR is B8A, which is 200 brighter over soil in these seasons."""
    cube = read(cases / "satellite" / NIR).cube
    assert float((cube["B8A"] - cube["B08"]).max()) == 200


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cube-dates/oneday.nc", "4,000 images of one day"),
        ("cube-dates/dates.nc", "40,000 images"),
        ("cube-time-overflow/c.nc", "units of time"),
        ("cube-add-offset-text/c.nc", "add_offset of B06"),
    ],
)
def test_hostile_cubes_are_one_line(cases, name, words):
    with pytest.raises(CubeError, match=words) as caught:
        read(cases / "hostile" / name)
    assert "\n" not in str(caught.value)

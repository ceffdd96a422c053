"""Seasons as other programs write them read back to the same cube, or are refused with an option
that helps.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
import shapely
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubes import DATES, make_cube
from panoseg.cube import ReadOptions
from panoseg.cube.check import Reading, check_cube, read_dataset
from panoseg.cube.open import open_cube, reading
from panoseg.cube.season import choose_season
from panoseg.cube.values import HIGHEST
from panoseg.errors import ConfigError, CubeError
from panoseg.imagery.area import Area
from panoseg.imagery.sentinel2 import PASTIS_BANDS

SIZE = 20
HOLE = (slice(1, 3), slice(0, 10), slice(0, 5))  # dates, rows and columns without data


@pytest.fixture(scope="module")
def season() -> xr.Dataset:
    """The season that all files hold: float32 reflectance x 10 000, NaN = no data."""
    cube = make_cube(SIZE).astype(np.float32)
    for band in PASTIS_BANDS:
        cube[band].values[HOLE] = np.nan
        cube[band].attrs.clear()
    return cube


def read(tmp_path, cube, form="nc", options=None, **encoding) -> Reading:
    path = tmp_path / f"season.{form}"
    if form == "nc":
        cube.to_netcdf(path, encoding=encoding)
    else:
        cube.to_zarr(path, zarr_format=int(form[0]), consolidated=False, encoding=encoding)
    with reading(path):
        return read_dataset(open_cube(path), PASTIS_BANDS, options)


def assert_same(found: xr.Dataset, season: xr.Dataset, tolerance=1e-2) -> None:
    for band in PASTIS_BANDS:
        values = found[band].values
        np.testing.assert_allclose(
            np.where(values == 0, np.nan, values), season[band].values, atol=tolerance
        )
    assert found.odc.geobox == season.odc.geobox
    np.testing.assert_array_equal(found["time"].values, season["time"].values)


# Ways to write each part of a season. Each takes the file so far and returns it.


@dataclass
class File:
    """A file that is being written."""

    cube: xr.Dataset
    encoding: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)


def stored(file: File, dtype, nodata, scale=1.0, offset=0.0) -> None:
    """Store numbers as a type, with a number for no data and without decoding attributes."""
    for band in [name for name in file.cube.data_vars if name in PASTIS_BANDS]:
        values = (file.cube[band].values - offset) / scale
        if np.issubdtype(np.dtype(dtype), np.integer):
            values = np.round(values)
        filled = np.where(np.isnan(values), nodata, values).astype(dtype)
        file.cube[band] = (file.cube[band].dims, filled, file.cube[band].attrs)
        file.encoding[band] = {"_FillValue": None}


def put(file: File, **attributes) -> None:
    for band in PASTIS_BANDS:
        file.cube[band].attrs.update(attributes)


def fill(file, **kept):
    stored(file, "int16", -9999)
    put(file, _FillValue=np.int16(-9999))
    for band in PASTIS_BANDS:
        file.encoding.pop(band)


def attribute(name, value, dtype="int16", at="variable"):
    def write(file):
        stored(file, dtype, np.asarray(value).reshape(-1)[0] if np.size(value) else 0)
        if at == "variable":
            put(file, **{name: value})
        else:
            file.cube.attrs[name] = value

    return write


def as_text(file):
    stored(file, "int16", -9999)
    put(file, nodata="-9999")


def cf_offset(file):
    stored(file, "uint16", 0, scale=1, offset=-1000)
    put(file, scale_factor=1e-4, add_offset=-0.1)


def cf_percent(file):
    stored(file, "int16", -1, scale=1)
    put(file, scale_factor=1e-4, _FillValue=np.int16(-1))
    for band in PASTIS_BANDS:
        file.encoding.pop(band)


def fractions(file):
    stored(file, "float32", np.nan, scale=1e4)


def fractions_with_number(file):
    stored(file, "float64", -9999.0, scale=1e4)


def by_option(file):
    stored(file, "int32", -7, scale=0.5, offset=-1000)
    file.options |= {"nodata": -7, "scale": 0.5e-4, "offset": "-2000"}


VALUES = {
    "NaN": lambda file: None,
    "0": lambda file: stored(file, "uint16", 0),
    "_FillValue": fill,
    "attribute nodata": attribute("nodata", np.int16(-999)),
    "attribute nodatavals": attribute("nodatavals", [-9999.0] * 3),
    "attribute missing_value": attribute("missing_value", np.int16(-1)),
    "attribute of the file": attribute("nodata", -32768, at="file"),
    "attribute as text": as_text,
    "undeclared 65535": lambda file: stored(file, "uint16", 65535),
    "undeclared wrapped": lambda file: stored(file, "uint16", 65496),
    "undeclared -9999": lambda file: stored(file, "int16", -9999),
    "undeclared -999": lambda file: stored(file, "int16", -999),
    "undeclared 32767": lambda file: stored(file, "int16", 32767),
    "scale and offset of CF, 0": cf_offset,
    "scale of CF": cf_percent,
    "0 to 1": fractions,
    "0 to 1, -9999": fractions_with_number,
    "by options": by_option,
}


def families(*names):
    def write(file):
        renamed = dict(zip(PASTIS_BANDS, names, strict=True))
        file.cube = file.cube.rename(renamed)
        file.encoding = {renamed.get(key, key): value for key, value in file.encoding.items()}

    return write


def stacked(labels, name="band", **more):
    def write(file):
        array = file.cube[list(PASTIS_BANDS)].to_dataarray(name, name="reflectance")
        array.attrs = {**file.cube["B02"].attrs, **more.get("attrs", {})}
        array = array.assign_coords({name: labels})
        if "coords" in more:
            array = array.assign_coords({key: (name, one) for key, one in more["coords"].items()})
        file.cube = array.to_dataset().assign_attrs(file.cube.attrs)
        first = next(iter(file.encoding.values()), None)
        file.encoding = {"reflectance": first} if first is not None else {}

    return write


def named_by_option(file):
    families(*(f"layer{number}" for number in range(10)))(file)
    file.options["bands"] = ",".join(f"{b}=layer{n}" for n, b in enumerate(PASTIS_BANDS))


BANDS = {
    "as they are": lambda file: None,
    "reversed": lambda file: setattr(file, "cube", file.cube[list(PASTIS_BANDS)[::-1]]),
    "Earth Engine": families(*["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"]),
    "STAC": families(
        *[
            "blue",
            "green",
            "red",
            "rededge1",
            "rededge2",
            "rededge3",
            "nir",
            "nir08",
            "swir16",
            "swir22",
        ]
    ),
    "DEA": families(
        *[
            "nbart_blue",
            "nbart_green",
            "nbart_red",
            "nbart_red_edge_1",
            "nbart_red_edge_2",
            "nbart_red_edge_3",
            "nbart_nir_1",
            "nbart_nir_2",
            "nbart_swir_2",
            "nbart_swir_3",
        ]
    ),
    "DE Africa": families(
        *[
            "blue",
            "green",
            "red",
            "red_edge_1",
            "red_edge_2",
            "red_edge_3",
            "nir_1",
            "nir_2",
            "swir_1",
            "swir_2",
        ]
    ),
    "FORCE": families(
        *[
            "BLUE",
            "GREEN",
            "RED",
            "REDEDGE1",
            "REDEDGE2",
            "REDEDGE3",
            "BROADNIR",
            "NIR",
            "SWIR1",
            "SWIR2",
        ]
    ),
    "FORCE, short": families(
        *["BLU", "GRN", "RED", "RE1", "RE2", "RE3", "BNR", "NIR", "SW1", "SW2"]
    ),
    "with resolution": families(*(f"{b}_{10 if b[2] in '2348' else 20}m" for b in PASTIS_BANDS)),
    "dimension band": stacked(list(PASTIS_BANDS)),
    "dimension bands, lower case": stacked([b.lower() for b in PASTIS_BANDS], "bands"),
    "numbers and long_name": stacked(range(1, 11), attrs={"long_name": list(PASTIS_BANDS)}),
    "numbers and description": stacked(range(10), attrs={"description": ", ".join(PASTIS_BANDS)}),
    "wavelengths": stacked(
        [490.0, 560.0, 665.0, 705.0, 740.0, 783.0, 842.0, 865.0, 1610.0, 2190.0], "wavelength"
    ),
    "coordinate common_name": stacked(
        [f"layer {n}" for n in range(10)],
        coords={
            "common_name": [
                "blue",
                "green",
                "red",
                "rededge071",
                "rededge075",
                "rededge078",
                "nir",
                "nir08",
                "swir16",
                "swir22",
            ]
        },
    ),
    "option": named_by_option,
}

WKT = make_cube(16).odc.crs.to_wkt()


def without_crs(cube: xr.Dataset) -> xr.Dataset:
    cube = cube.drop_vars("spatial_ref")
    cube = cube.assign_coords(x=("x", cube.x.values), y=("y", cube.y.values))
    for name in cube.data_vars:
        cube[name].attrs.pop("grid_mapping", None)
        cube[name].encoding.pop("grid_mapping", None)
    return cube


def crs_attribute(name, value, at="file"):
    def write(file):
        file.cube = without_crs(file.cube)
        if at == "file":
            file.cube.attrs[name] = value
        else:
            for band in file.cube.data_vars:
                file.cube[band].attrs[name] = value

    return write


def crs_coordinate(name, value):
    def write(file):
        file.cube = without_crs(file.cube).assign_coords({name: value})

    return write


def over_dates(file):
    file.cube = without_crs(file.cube).assign_coords({"proj:epsg": ("time", [32631] * len(DATES))})


def crs_option(file):
    file.cube = without_crs(file.cube)
    file.options["crs"] = "EPSG:32631"


CRS = {
    "grid mapping": lambda file: None,
    "crs_wkt of the file": crs_attribute("crs_wkt", WKT),
    "number": crs_attribute("crs", 32631),
    "text of a number": crs_attribute("epsg", "32631"),
    "init": crs_attribute("crs", "+init=epsg:32631"),
    "EPSG in capitals, variables": crs_attribute("crs", "EPSG:32631", at="variables"),
    "urn": crs_attribute("crs", "urn:ogc:def:crs:EPSG::32631"),
    "PROJ": crs_attribute("proj4", "+proj=utm +zone=31 +datum=WGS84 +units=m +no_defs"),
    "GDAL's Zarr": crs_attribute(
        "_CRS", json.dumps({"url": "http://www.opengis.net/def/crs/EPSG/0/32631"}), at="variables"
    ),
    "proj:code": crs_attribute("proj:code", "EPSG:32631"),
    "coordinate epsg": crs_coordinate("epsg", 32631),
    "coordinate over dates": over_dates,
    "tile": crs_attribute("tile_id", "T31UES"),
    "option": crs_option,
}


def south_up(file):
    file.cube = file.cube.isel(y=slice(None, None, -1))


def corners(file):
    file.cube = file.cube.assign_coords(x=file.cube.x - 5, y=file.cube.y + 5)
    file.cube.attrs["transform"] = [10.0, 0.0, 5e5, 0.0, -10.0, 5.6e6]


def stackstac_text(file):
    corners(file)
    text = "| 10.00, 0.00, 500000.00|\n| 0.00,-10.00, 5600000.00|\n| 0.00, 0.00, 1.00|"
    file.cube.attrs["transform"] = text


def no_coordinates(file):
    file.cube = file.cube.drop_vars(["x", "y"])
    file.cube.attrs["GeoTransform"] = "500000 10 0 5600000 0 -10"


def renamed_dims(**names):
    return lambda file: setattr(file, "cube", file.cube.rename(names))


GRID = {
    "as it is": lambda file: None,
    "south up": south_up,
    "corners and a transform": corners,
    "corners and stackstac's text": stackstac_text,
    "no coordinates but GDAL's transform": no_coordinates,
    "X and Y": renamed_dims(x="X", y="Y"),
    "easting and northing": renamed_dims(x="easting", y="northing"),
    "columns first": lambda file: setattr(file, "cube", file.cube.transpose("x", ...)),
    "a dimension of one": lambda file: setattr(file, "cube", file.cube.expand_dims(z=[0])),
}


def times(values, **attributes):
    def write(file):
        file.cube = file.cube.assign_coords(time=("time", values, attributes))

    return write


TIMES = {
    "dates": lambda file: None,
    "text": times(list(DATES)),
    "text with hours": times([f"{day}T10:50:31.024Z" for day in DATES]),
    "numbers": times([int(day.replace("-", "")) for day in DATES]),
    "day first": times(["/".join(day.split("-")[::-1]) for day in DATES]),
    "day of the year": times([int(np.datetime64(d).item().strftime("%Y%j")) for d in DATES]),
    "calendar without leap days": times(
        [(np.datetime64(day) - np.datetime64("2018-01-01")).astype(int) for day in DATES],
        units="days since 2018-01-01",
        calendar="noleap",
    ),
    "seconds without units": times(np.array(DATES, "datetime64[s]").astype(np.int64)),
    "seconds since": times(
        np.array(DATES, "datetime64[s]").astype(np.int64), units="seconds since 1970-01-01"
    ),
    "timestamp": renamed_dims(time="timestamp"),
    "a name of its own": renamed_dims(time="when"),
    "backwards": lambda file: setattr(file, "cube", file.cube.isel(time=slice(None, None, -1))),
}
PARTS = {"values": VALUES, "bands": BANDS, "crs": CRS, "grid": GRID, "times": TIMES}


def write_and_read(tmp_path, season, form, **ways) -> Reading:
    file = File(season.copy(deep=True))
    for part in ("values", "bands", "crs", "times", "grid"):
        if part in ways:
            PARTS[part][ways[part]](file)
    cube = file.cube if form == "nc" else file.cube.chunk(dict.fromkeys(file.cube.dims, 8))
    return read(tmp_path, cube, form, ReadOptions(**file.options), **file.encoding)


@pytest.mark.parametrize(
    ("part", "way"), [(part, way) for part, ways in PARTS.items() for way in ways]
)
def test_each_way_to_write_a_part_of_a_season(tmp_path, season, part, way):
    found = write_and_read(tmp_path, season, "nc", **{part: way})
    assert_same(found.cube, season)
    undeclared = part == "values" and (way.startswith(("undeclared", "0 to 1, ")))
    told = [note for note in found.notes if "count" in note and "no data" in note]
    assert bool(told) == undeclared, found.notes


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.fixed_dictionaries({part: st.sampled_from(sorted(ways)) for part, ways in PARTS.items()}),
    st.sampled_from(["nc", "2.zarr", "3.zarr"]),
)
def test_combinations_of_ways(tmp_path_factory, season, ways, form):
    found = write_and_read(tmp_path_factory.mktemp("season"), season, form, **ways)
    assert_same(found.cube, season)


@pytest.mark.parametrize(("nothing", "dtype"), [(0, "uint8"), (np.nan, "float32")])
def test_no_data_of_the_scene_classification(tmp_path, season, nothing, dtype):
    cube = season.copy(deep=True)
    classes = np.full(cube["B02"].shape, 4, np.uint8)
    classes[4, :, 10:] = 0
    cube["SCL"] = (("time", "y", "x"), np.where(classes == 0, nothing, classes).astype(dtype))
    found = read(tmp_path, cube)
    assert np.isnan(found.cube["B8A"].values[4, :, 10:]).all()
    assert np.isfinite(found.cube["B8A"].values[4, :, :10]).all()
    assert any("scene classification" in note for note in found.notes)


def test_no_value_beyond_reflectance_two_reaches_a_network(tmp_path, season):
    cube = season.copy(deep=True)
    cube["B05"].values[0, 3, 3] = HIGHEST + 1
    cube["B05"].values[0, 3, 4] = HIGHEST
    found = read(tmp_path, cube).cube["B05"].values[0, 3]
    assert np.isnan(found[3])
    assert found[4] == HIGHEST


@pytest.mark.parametrize("land", ["lake", "bright pixel", "clipped farm", "empty dates"])
def test_the_scale_is_judged_where_data_are(tmp_path, land):
    cube = make_cube(96).astype(np.float32)
    if land == "lake":
        for band in ("B11", "B12", "B8A"):
            cube[band].values[:, 10:90, 10:90] = 6.0
    elif land == "bright pixel":
        cube = cube / 1e4
        cube["B04"].values[2, 48, 48] = 5.0
    elif land == "clipped farm":
        inside = np.zeros((96, 96), bool)
        inside[:6, :], inside[:, :6] = True, True
        cube = cube.where(xr.DataArray(inside, dims=("y", "x")))
    else:
        for band in PASTIS_BANDS:
            cube[band].values[[0, 2, 3, 5]] = np.nan
    for band in PASTIS_BANDS:
        cube[band].attrs.clear()
    found = read(tmp_path, cube).cube
    expected = make_cube(96)["B03"].values[4, 2, 2]
    assert found["B03"].values[4, 2, 2] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("nodata", [-9999, -999, -99])
def test_much_undeclared_no_data_does_not_hide_the_scale(tmp_path, nodata):
    cube = make_cube(32).astype(np.float32) / 1e4
    for band in PASTIS_BANDS:
        cube[band].attrs.clear()
        cube[band].values[:, 8:] = nodata
    found = read(tmp_path, cube).cube["B03"].values
    assert np.isnan(found[:, 8:]).all()
    np.testing.assert_allclose(found[:, :8], make_cube(32)["B03"].values[:, :8], atol=0.01)


def test_an_offset_that_was_subtracted_twice_is_named(tmp_path, season):
    cube = season.copy(deep=True)
    for band in PASTIS_BANDS:
        cube[band].values[3:] = cube[band].values[3:] * 0.2 - 1000
    with pytest.raises(CubeError, match=f"--offset 1000@{DATES[3]}"):
        read(tmp_path, cube)
    found = read(tmp_path, cube, "3.zarr", ReadOptions(offset=f"1000@{DATES[3]}")).cube
    np.testing.assert_allclose(found["B04"].values[3:], season["B04"].values[3:] * 0.2, atol=0.01)
    np.testing.assert_allclose(found["B04"].values[0], season["B04"].values[0])


@pytest.mark.parametrize("applied", [False, True])
def test_the_offset_of_newer_baselines_is_subtracted_once(tmp_path, applied):
    days = ("2021-10-05", "2021-12-14", "2022-03-04", "2022-05-18", "2022-07-02", "2022-09-10")
    season = make_cube(32, days).astype(np.float32)
    cube = season.copy(deep=True)
    if not applied:
        for band in PASTIS_BANDS:
            cube[band].values[2:] += 1000
    cube = cube.assign_coords(
        {"s2:processing_baseline": ("time", ["03.01", "03.01", *["04.00"] * 4])}
    )
    found = read(tmp_path, cube)
    np.testing.assert_allclose(found.cube["B04"].values, season["B04"].values)
    assert any("2022-03-04 on hold the offset" in note for note in found.notes) != applied


@pytest.mark.parametrize("stated", ["--offset", "add_offset", "--offset 0", "the baseline"])
def test_a_stated_offset_is_the_only_one_and_leaves_gaps(tmp_path, season, stated):
    """Also over bright land, where the numbers do not show whether an offset was subtracted."""
    bright = season + 1500
    cube = bright.fillna(-1000) + 1000  # gaps are 0
    for name, array in cube.data_vars.items():
        cube[name] = array.astype(np.uint16)
        cube[name].encoding["_FillValue"] = None
        if stated == "add_offset":
            cube[name].attrs |= {"scale_factor": 1e-4, "add_offset": "-0.1"}
    cube = cube.assign_coords({"s2:processing_baseline": ("time", ["05.09"] * len(DATES))})
    given = {"--offset": "-1000", "--offset 0": "0"}.get(stated)
    found = read(tmp_path, cube, options=ReadOptions(offset=given)).cube
    assert_same(found, bright + (1000 if given == "0" else 0), tolerance=0.01)


def test_a_twice_subtracted_offset_is_named_in_stored_numbers(season):
    cube = (season * 0.2 - 1000) / 100  # percent
    with pytest.raises(CubeError, match=r"--offset 10\."):
        read_dataset(cube, PASTIS_BANDS, ReadOptions(scale=0.01))


def test_numbers_of_a_made_cube_that_were_changed_are_judged(season):
    record = {"scenes": {}, "clear": {}, "left_out_dates": {}, "left_out_scenes": {}, "notes": []}
    made = season.assign_attrs(panoseg=json.dumps(record))
    with xr.set_options(keep_attrs=True):
        found = read_dataset(made / 1e4, PASTIS_BANDS)
    assert_same(found.cube, season)
    assert found.decoding.scale == "reflectance 0 to 1, from its values"


def test_undeclared_no_data_is_hidden_before_an_offset_is_subtracted():
    days = ("2022-03-04", "2022-05-18", "2022-07-02", "2022-09-10")
    cube = make_cube(32, days).astype(np.float32) + 1000
    for band in PASTIS_BANDS:
        cube[band].values[:, :4] = -999
    cube = cube.assign_coords({"s2:processing_baseline": ("time", ["04.00"] * 4)})
    values = check_cube(cube, PASTIS_BANDS)["B04"].values
    assert np.isnan(values[:, :4]).all()
    np.testing.assert_allclose(values[:, 4:], make_cube(32, days)["B04"].values[:, 4:])


def test_an_offset_that_may_be_left_is_noted(tmp_path):
    days = ("2021-10-05", "2021-12-14", "2022-03-04", "2022-05-18", "2022-07-02", "2022-09-10")
    cube = make_cube(32, days).astype(np.float32)
    for band in PASTIS_BANDS:
        cube[band].values[2:] += 1000
    (note,) = read(tmp_path, cube).notes
    assert "--offset -1000@2022-01-25" in note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: without_crs(c), "--crs"),
        (lambda c: c.rename(B08="layer7", B8A="layer8"), "lacks B08, B8A.*--bands B08=NAME"),
        (lambda c: c / 100, "--scale 0.01"),
        (lambda c: (c / 200).round(), "--scale 0.01 of percent, or 0.0001 of water"),
        (lambda c: c.isel(time=0, drop=True), "none of dates: join the images"),
        (lambda c: (c.fillna(0) / 16).astype(np.uint8).assign_attrs(c.attrs), "8 bits.*--scale"),
        (lambda c: c.assign(nir=c["B08"] + 1), "--bands B08="),
        (lambda c: c.assign_coords(time=["2018-10-05"] * 5 + ["May"]), "'May' instead of dates"),
    ],
)
def test_a_refusal_names_the_option_that_helps(tmp_path, season, change, words):
    with pytest.raises(CubeError, match=words) as caught:
        read(tmp_path, change(season.copy(deep=True)))
    assert "\n" not in str(caught.value)
    assert "cube.odc" not in str(caught.value)


def test_the_only_group_of_a_netcdf_is_read(tmp_path, season):
    path = tmp_path / "season.nc"
    season.to_netcdf(path, group="first")
    with reading(path):
        assert_same(read_dataset(open_cube(path), PASTIS_BANDS).cube.compute(), season)
    two = tmp_path / "two.nc"
    season.to_netcdf(two, group="first")
    season.to_netcdf(two, group="second", mode="a")
    with pytest.raises(CubeError, match="the groups first, second: write one"):
        open_cube(two)


@pytest.mark.parametrize(
    ("crs", "x", "y", "words"),
    [
        ("EPSG:32631", 5.6e6, 5e5, "latitude 3.4 and longitude 44.7 in EPSG:32631.*--crs"),
        ("EPSG:5514", 5e5, 5.6e6, "in EPSG:5514.*--crs"),
        ("EPSG:5514", -7.4e5, -1.04e6, None),
        ("EPSG:32631", 3.5e5, 5.6e6, None),
        ("EPSG:32635", 5e5, -3e6, None),  # south of the equator in a zone of the north
        ("EPSG:32760", 5e5, 8e6, None),
    ],
)
def test_a_place_far_from_its_coordinate_system_is_noted(season, crs, x, y, words):
    steps = 10.0 * np.arange(SIZE)
    cube = without_crs(season).assign_coords(x=x + 5 + steps, y=y - 5 - steps)
    notes = read_dataset(cube, PASTIS_BANDS, ReadOptions(crs=crs)).notes
    assert bool(notes) == bool(words)
    assert words is None or re.search(words, notes[0])


def test_two_coordinate_systems_are_noted(tmp_path, season):
    cube = season.copy(deep=True)
    cube.attrs["proj:epsg"] = 32632
    (note,) = read(tmp_path, cube).notes
    assert "EPSG:32632" in note
    assert "EPSG:32631, which is used" in note


def test_a_part_of_a_file_keeps_the_transform_of_the_whole(season):
    corner = season.odc.geobox.affine
    for dx, dy, is_noted in ((-500, 300, False), (-503, 300, True), (500, 300, True)):
        cube = season.copy(deep=True)
        cube["spatial_ref"].attrs["GeoTransform"] = f"{corner.c + dx} 10 0 {corner.f + dy} 0 -10"
        found = read_dataset(cube, PASTIS_BANDS)
        assert any("another place" in note for note in found.notes) == is_noted
        assert found.cube.odc.geobox == season.odc.geobox


def test_pixels_of_another_size_on_the_ground_are_noted(season):
    """Web Mercator at 49 degrees north."""
    cube = without_crs(season)
    cube = cube.assign_coords(
        x=254_005 + 10.0 * np.arange(SIZE), y=6_274_865 - 10.0 * np.arange(SIZE)
    )
    (note,) = read_dataset(cube, PASTIS_BANDS, ReadOptions(crs="EPSG:3857")).notes
    assert note.startswith("A pixel has 6.6 m on the ground, because EPSG:3857 stretches")
    assert read_dataset(season, PASTIS_BANDS).notes == ()


def test_a_missing_date_is_counted_and_left_out(tmp_path, season):
    days = np.array([*DATES[:2], "NaT", *DATES[3:]], "datetime64[ns]")
    found = read(tmp_path, season.assign_coords(time=days))
    assert found.cube.sizes["time"] == 5
    assert any("Date 3 of 6 is missing" in note for note in found.notes)
    np.testing.assert_allclose(
        found.cube["B04"].values[2:], season["B04"].values[3:]
    )  # no image moved to another date


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"add_offset": "minus one"}, "add_offset of B02 is 'minus one'"),
        ({"scale_factor": float("inf")}, "scale_factor of B02"),
    ],
)
def test_attributes_that_are_no_numbers_are_named(season, attributes, words):
    cube = season.copy(deep=True)
    cube["B02"].attrs |= attributes
    with pytest.raises(CubeError, match=words):
        check_cube(cube, PASTIS_BANDS)


def test_dates_that_may_have_the_month_first_are_noted(season):
    texts = [b"05/10/2018", b"04/11/2018", b"03/12/2018", b"02/01/2019", b"01/02/2019"]
    for last, is_noted in ((b"12/03/2019", True), (b"13/03/2019", False)):
        found = read_dataset(season.assign_coords(time=[*texts, last]), PASTIS_BANDS)
        assert found.cube["time"].values[0] == np.datetime64("2018-10-05")
        note = "Dates such as 05/10/2018 are read as day, month, year."
        assert any(one.startswith(note) for one in found.notes) == is_noted
    with pytest.raises(CubeError, match="'2019366' instead of dates"):
        read_dataset(
            season.assign_coords(time=[*map(str, range(2019001, 2019006)), "2019366"]), PASTIS_BANDS
        )


def test_times_beyond_the_calendar_are_named(season):
    far = season.assign_coords(time=("time", [2**62] * 6, {"units": "days since 2018-09-01"}))
    with pytest.raises(CubeError, match="units of time"):
        check_cube(far, PASTIS_BANDS)


def test_more_images_than_a_season_has_are_refused():
    day = make_cube(16, DATES[:1])
    many = day.isel(time=[0] * 40)
    with pytest.raises(CubeError, match="40 images of one day"):
        check_cube(many, PASTIS_BANDS)


SOUTH = "EPSG:32720"


@pytest.mark.parametrize(
    ("start", "end", "crs", "year", "reference", "outside"),
    [
        ("2019-05-05", "2020-01-10", SOUTH, 2020, "2019-03-01", 0),  # winter wheat
        ("2019-10-01", "2020-04-25", SOUTH, 2020, "2019-03-01", 0),  # soy
        ("2018-11-01", "2019-09-15", "EPSG:32631", 2019, "2018-09-01", 0),
        ("2018-11-01", "2020-05-15", "EPSG:32631", 2019, "2018-09-01", 6),
    ],
)
def test_seasons_of_both_hemispheres(start, end, crs, year, reference, outside):
    days = np.arange(np.datetime64(start), np.datetime64(end), 30).astype(str)
    cube = check_cube(make_cube(16, tuple(days), crs=crs), PASTIS_BANDS)
    season = choose_season(cube)
    assert (season.harvest_year, str(season.reference)) == (year, reference)
    assert season.outside_T.size == outside
    assert len(season.days_T) == len(days) - outside
    assert (f"{outside} dates of the cube lie outside" in "".join(season.notes)) == (outside > 0)


def test_the_days_of_a_season_may_be_asked_for():
    cube = check_cube(make_cube(16), PASTIS_BANDS)
    begun = choose_season(cube, options=ReadOptions(season_start="11-15"))
    assert str(begun.reference) == "2018-11-15"
    assert begun.days_T[0] == (np.datetime64(DATES[1]) - np.datetime64("2018-11-15")).astype(int)
    cut = choose_season(cube, options=ReadOptions(first="2019-03-01", last="2019-07-02"))
    assert cut.dates_T.astype(str).tolist() == list(DATES[2:5])
    assert cut.outside_T.astype(str).tolist() == [*DATES[:2], DATES[5]]
    assert "2019-03-01 to 2019-07-02" in cut.notes[0]
    with pytest.raises(CubeError, match="--from and --to"):
        choose_season(cube, options=ReadOptions(first="2023-03-01"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"bands": "B08"}, "--bands"),
        ({"bands": "B08=a,B8A=a"}, "--bands"),
        ({"bands": "green light=a"}, "--bands"),
        ({"scale": 0.0}, "--scale"),
        ({"nodata": float("inf")}, "--nodata"),
        ({"offset": "much"}, "--offset"),
        ({"offset": "-1000@May"}, "--offset"),
        ({"crs": "EPSG:1"}, "--crs"),
        ({"season_start": "02-29"}, "--season-start"),
        ({"first": "May"}, "--from"),
        ({"first": "2019-05-01", "last": "2019-04-01"}, "exchange"),
    ],
)
def test_options_that_cannot_be_understood(wrong, words):
    with pytest.raises(ConfigError, match=words):
        ReadOptions(**wrong)


@pytest.mark.parametrize(
    ("latitude", "season"),
    [(50.0, ("2019-09-01", "2020-10-31")), (-33.0, ("2019-03-01", "2020-04-30"))],
)
def test_the_season_that_is_fetched_is_the_season_that_is_mapped(latitude, season):
    area = Area(shapely.box(3, latitude, 3.1, latitude + 0.1), "farm", 1.0)
    assert tuple(map(str, area.season(2020))) == season
    days = np.arange(*np.array(season, "datetime64[D]"), 20).astype(str)
    crs = "EPSG:32631" if latitude > 0 else "EPSG:32731"
    chosen = choose_season(check_cube(make_cube(16, tuple(days), crs=crs), PASTIS_BANDS), year=2020)
    assert not chosen.outside_T.size

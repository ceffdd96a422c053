"""Cubes: opened from every format, checked, cut to a season, read without gaps."""

from __future__ import annotations

from contextlib import suppress
from datetime import date

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc, Pickle, VLenUTF8
from zarr.codecs import BloscCodec

from cubes import DATES, make_cube
from panoseg.cube.check import check_cube
from panoseg.cube.open import open_cube, reading
from panoseg.cube.season import (
    Window,
    choose_season,
    fill_gaps,
    infer_harvest_year,
    read_window,
    spread_clearest,
)
from panoseg.errors import CubeError
from panoseg.imagery.sentinel2 import PASTIS_BANDS


def save(cube: xr.Dataset, path):
    if path.suffix == ".nc":
        cube.to_netcdf(path)
    else:
        cube.to_zarr(path, zarr_format=int(path.stem[-1]), consolidated=False)
    return path


@pytest.mark.parametrize("name", ["cube.nc", "cube2.zarr", "cube3.zarr"])
def test_every_format_gives_the_same_lazy_cube(tmp_path, name):
    cube = make_cube()
    opened = check_cube(open_cube(save(cube, tmp_path / name)), PASTIS_BANDS)
    assert all(opened[band].chunks is not None for band in PASTIS_BANDS)
    for band in PASTIS_BANDS:
        np.testing.assert_array_equal(opened[band].values, cube[band].values)
    assert opened.odc.geobox == cube.odc.geobox


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "absent.nc", "does not exist"),
        (lambda folder: folder, "neither a Zarr store nor GeoTIFFs"),
    ],
)
def test_nothing_to_open(tmp_path, make, words):
    with pytest.raises(CubeError, match=words):
        open_cube(make(tmp_path))


def test_a_text_file_is_no_cube(tmp_path):
    (tmp_path / "cube.nc").write_text("reflectance\n" * 40)
    with pytest.raises(CubeError, match="cannot be read"):
        open_cube(tmp_path / "cube.nc")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_netcdf_is_one_line(tmp_path, share):
    path = save(make_cube(), tmp_path / "cube.nc")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CubeError) as caught, reading(path):
        check_cube(open_cube(path), PASTIS_BANDS).compute()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cube2.zarr", "cube3.zarr"])
def test_a_truncated_zarr_is_one_line(tmp_path, name):
    path = save(make_cube(), tmp_path / name)
    chunk = max(
        (entry for entry in path.rglob("*") if entry.is_file()),
        key=lambda entry: entry.stat().st_size,
    )
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(CubeError), reading(path):
        check_cube(open_cube(path), PASTIS_BANDS).compute()


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("kept", [3, 100, -1])
def test_chunks_of_blosc_are_read_to_their_end_alone(tmp_path, form, kept):
    """Noise is stored as it is: behind a chunk that was cut off other memory would be read, and no
    error raised.
    """
    cube, path = make_cube(16), tmp_path / "cube.zarr"
    cube["B02"][:] = np.random.default_rng(0).integers(1, 9000, cube["B02"].shape)
    compressors = {2: Blosc(), 3: BloscCodec()}
    cube.to_zarr(
        path,
        zarr_format=form,
        consolidated=False,
        encoding={"B02": {"compressors": compressors[form]}},
    )
    np.testing.assert_array_equal(open_cube(path)["B02"].values, cube["B02"].values)
    for chunk in (path / "B02").rglob("*"):
        if chunk.is_file() and not chunk.name.startswith(".") and chunk.suffix != ".json":
            chunk.write_bytes(chunk.read_bytes()[:kept])
    with pytest.raises(CubeError, match="cut off"), reading(path):
        open_cube(path)["B02"].compute()


def test_no_pickle_is_read(tmp_path):
    path = save(make_cube(16, DATES[:1], bands=("B02",)), tmp_path / "cube2.zarr")
    array = zarr.create_array(
        path / "note",
        shape=1,
        dtype=str,
        zarr_format=2,
        filters=[VLenUTF8()],
        compressors=Pickle(),
        attributes={"_ARRAY_DIMENSIONS": ["note"]},
    )
    array[:] = ["text"]
    with pytest.raises(CubeError, match="pickles, which could run any code"):
        open_cube(path)


def test_zarr_metadata_may_hold_anything(tmp_path):
    path = save(make_cube(16, DATES[:1], bands=("B02",)), tmp_path / "cube3.zarr")
    metadata = path / "B02" / "zarr.json"
    original = metadata.read_bytes()

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, len(original) - 1), st.binary(min_size=1, max_size=4))
    def damaged(place, noise):
        metadata.write_bytes(original[:place] + noise + original[place + len(noise) :])
        with suppress(CubeError), reading(path):
            check_cube(open_cube(path), ("B02",))

    damaged()


def test_bands_are_found_by_any_name_in_any_order():
    names = ["swir22", "b11", "B8a", "nir", "rededge3", "Band_6", "B5", "red", "green", "blue"]
    cube = make_cube()
    renamed = xr.Dataset(
        {name: cube[band] for name, band in zip(names, PASTIS_BANDS[::-1], strict=True)}
    ).odc.assign_crs(32631)
    checked = check_cube(renamed, PASTIS_BANDS)
    assert tuple(checked.data_vars) == PASTIS_BANDS
    for band in PASTIS_BANDS:
        np.testing.assert_array_equal(checked[band], cube[band])


def test_bands_may_lie_along_a_dimension():
    cube = make_cube()
    stacked = cube.to_dataarray("band", "reflectance").to_dataset().odc.assign_crs("EPSG:32631")
    checked = check_cube(stacked, PASTIS_BANDS)
    np.testing.assert_array_equal(checked["B8A"], cube["B8A"])


def test_dims_under_other_names_orders_and_directions():
    cube = make_cube()
    turned = cube.isel(y=slice(None, None, -1)).transpose("x", "time", "y").rename(time="t")
    checked = check_cube(turned, PASTIS_BANDS)
    np.testing.assert_array_equal(checked["B04"].values, cube["B04"].values)
    assert checked.odc.geobox == cube.odc.geobox


def test_unsorted_and_repeated_dates():
    cube = make_cube()
    first = cube["B02"].values.copy()
    again = cube.isel(time=[3]).assign_coords(
        time=cube.time[[3]] + np.timedelta64(2, "h")
    ) + np.uint16(5)
    holed = cube.copy(deep=True)
    for band in PASTIS_BANDS:
        holed[band][3, :4] = 0
    checked = check_cube(
        xr.concat([again, holed], "time").isel(time=[2, 6, 0, 1, 5, 4, 3]), PASTIS_BANDS
    )
    assert checked.time.dt.strftime("%Y-%m-%d").values.tolist() == list(DATES)
    np.testing.assert_array_equal(checked["B02"].values[[0, 1, 2, 4, 5]], first[[0, 1, 2, 4, 5]])
    np.testing.assert_array_equal(checked["B02"].values[3, :4], first[3, :4] + 5)
    np.testing.assert_array_equal(checked["B02"].values[3, 4:], first[3, 4:])


@pytest.mark.parametrize("factor", [1.0, 1e-4])
def test_reflectance_of_either_scale(factor):
    cube = make_cube()
    scaled = cube.astype(np.float32) * np.float32(factor)
    checked = check_cube(scaled.odc.assign_crs("EPSG:32631"), PASTIS_BANDS)
    np.testing.assert_allclose(checked["B03"], cube["B03"], rtol=1e-5)
    assert checked["B03"].dtype == np.float32


def test_a_packed_netcdf_is_unpacked(tmp_path):
    cube = make_cube()
    packed = (cube / 1e4).odc.assign_crs("EPSG:32631")
    encoding = {
        band: {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -1} for band in PASTIS_BANDS
    }
    packed.to_netcdf(tmp_path / "cube.nc", encoding=encoding)
    checked = check_cube(open_cube(tmp_path / "cube.nc"), PASTIS_BANDS)
    np.testing.assert_allclose(checked["B12"], cube["B12"], atol=0.01)


def broken(change):
    cube = make_cube().astype(np.float32).odc.assign_crs("EPSG:32631")
    return change(cube)


def one_band(cube, factor):
    cube["B05"] = cube["B05"] * factor
    return cube


BROKEN = {
    "no coordinate system": (
        lambda c: xr.Dataset(
            {name: (c[name].dims, c[name].values) for name in c}, {d: c[d].values for d in c.dims}
        ),
        "no coordinate system",
    ),
    "bands missing": (lambda c: c.drop_vars(["B05", "B11"]), "lacks B05, B11"),
    "bands misnamed": (lambda c: c.rename(B05="rededge"), "lacks B05 .*rededge"),
    "a band twice": (lambda c: c.assign(green=c["B03"]), "B03 and green are both band B03"),
    "no dims": (lambda c: c.rename(y="row_of"), "dimensions"),
    "degrees": (
        lambda c: c.assign_coords(
            x=3 + np.arange(32) * 1e-4, y=50 - np.arange(32) * 1e-4
        ).odc.assign_crs(4326),
        "degrees",
    ),
    "20 m": (lambda c: c.assign_coords(x=c.x * 2, y=c.y * 2), "pixels of 20 x 20 m"),
    "uneven": (lambda c: c.isel(x=[0, 1, 5, *range(6, 32)]), "not evenly spaced"),
    "too small": (lambda c: c.isel(x=slice(0, 10)), "32 x 10 pixels"),
    "no date": (lambda c: c.isel(time=slice(0, 0)), "no date"),
    "days as numbers": (lambda c: c.assign_coords(time=np.arange(6)), "values"),
    "percent": (lambda c: c / 1e2 / 2, "values around"),
    "all missing": (lambda c: c * np.float32(np.nan), "only 0 and NaN"),
    "all zero": (lambda c: c * 0, "only 0 and NaN"),
    "one band of another scale": (lambda c: one_band(c, 1e-4), "B05 has another scale"),
    "text": (lambda c: c.assign(B02=c["B02"].astype(str)), "numbers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_cube_is_said_in_one_line(name):
    change, words = BROKEN[name]
    with pytest.raises(CubeError, match=words) as caught:
        check_cube(broken(change), PASTIS_BANDS)
    assert "\n" not in str(caught.value)


def test_harvest_year_from_the_dates():
    days = lambda *texts: np.array(texts, "datetime64[D]")  # noqa: E731
    assert infer_harvest_year(days("2018-11-01", "2019-04-01", "2019-06-01")) == 2019
    assert infer_harvest_year(days("2019-09-05", "2019-10-05")) == 2020
    assert infer_harvest_year(days("2019-06-05", "2019-10-05")) == 2019
    assert infer_harvest_year(days("2018-04-05", "2018-05-05", "2019-04-05")) == 2018


def test_the_season_is_cut_out_and_days_are_counted():
    dates = ("2018-08-30", "2018-09-01", "2019-05-01", "2019-10-31", "2019-11-01")
    season = choose_season(check_cube(make_cube(dates=dates), PASTIS_BANDS))
    assert season.harvest_year == 2019
    assert season.reference == date(2018, 9, 1)
    assert season.days_T.tolist() == [0, 242, 425]
    assert season.index_T.tolist() == [1, 2, 3]


def test_the_weights_may_begin_the_season_elsewhere():
    season = choose_season(check_cube(make_cube(), PASTIS_BANDS), start=(1, 1), year=2019)
    assert season.reference == date(2018, 1, 1)
    assert season.days_T[0] == (date(2018, 10, 5) - date(2018, 1, 1)).days


def test_cloudy_dates_are_left_out_by_the_scene_classification():
    cube = make_cube(scl=True)
    cube["SCL"][1] = 9
    cube["SCL"][2, :, :20] = 8
    checked = check_cube(cube, PASTIS_BANDS)
    season = choose_season(checked, min_clear=0.1)
    assert [day for day, _ in season.left_out] == [DATES[1]]
    assert season.clear_T[1] == pytest.approx(12 / 32)
    assert len(choose_season(checked, min_clear=0.5).days_T) == 4
    assert len(choose_season(checked, min_clear=0.0).days_T) == 6


def test_without_scene_classification_pixels_with_data_count():
    cube = make_cube()
    cube["B02"][0, :31] = 0
    assert choose_season(check_cube(cube, PASTIS_BANDS)).left_out == ((DATES[0], "3% clear"),)


def test_too_few_dates():
    checked = check_cube(make_cube(dates=DATES[:1]), PASTIS_BANDS)
    with pytest.raises(CubeError, match="Only 1 of the 1 dates in the season of"):
        choose_season(checked)
    assert len(choose_season(checked, min_dates=1).days_T) == 1
    with pytest.raises(CubeError, match="No date of the cube lies in the season of 2017"):
        choose_season(checked, year=2017)


def test_at_most_so_many_dates_the_clearest_of_each_stretch():
    dates = np.array(
        ["2019-01-01", "2019-04-01", "2019-04-02", "2019-04-03", "2019-08-01"], "datetime64[D]"
    )
    clear = np.array([0.3, 0.9, 1.0, 0.8, 0.3])
    assert spread_clearest(dates, clear, 3).tolist() == [0, 2, 4]
    assert spread_clearest(dates, clear, 9).tolist() == [0, 1, 2, 3, 4]
    assert len(spread_clearest(dates, clear, 1)) == 1
    season = choose_season(check_cube(make_cube(), PASTIS_BANDS), max_dates=4)
    assert len(season.days_T) == 4
    assert len(season.left_out) == 2


def test_a_window_is_read_without_gaps():
    cube = make_cube()
    cube["B02"][2, 5, 7] = 0
    cube["B03"][:, 9, 9] = 0
    images_TCHW, data_HW = read_window(
        check_cube(cube, PASTIS_BANDS), PASTIS_BANDS, Window(4, 6, 20, 10)
    )
    assert images_TCHW.shape == (6, 10, 20, 10)
    assert images_TCHW.dtype == np.float32
    assert not data_HW[5, 3]
    assert data_HW.sum() == data_HW.size - 1
    days = np.array(DATES, "datetime64[D]").astype(int)
    series = cube["B02"].values[:, 5, 7].astype(float)
    expected = np.interp(days[2], days[[1, 3]], series[[1, 3]])
    assert images_TCHW[2, 0, 1, 1] == pytest.approx(expected, rel=1e-5)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.one_of(st.just(0.0), st.just(float("nan")), st.floats(1, 1e4)), min_size=1, max_size=9
    ),
    st.randoms(),
)
def test_gaps_are_filled_as_numpy_interpolates(series, random):
    days = np.array(sorted(random.sample(range(400), len(series))))
    values_THW = np.array(series)[:, None, None]
    filled_THW, data_HW = fill_gaps(values_THW, days)
    valid = np.isfinite(series) & (np.array(series) != 0)
    assert data_HW.item() == valid.any()
    expected = (
        np.interp(days, days[valid], np.array(series)[valid])
        if valid.any()
        else np.zeros(len(series))
    )
    np.testing.assert_allclose(filled_THW[:, 0, 0], expected, rtol=1e-4)
    np.testing.assert_array_equal(values_THW[:, 0, 0], series)


def test_the_real_season(real_data):
    cube = check_cube(open_cube(real_data / "flanders-2019" / "cube.nc"), PASTIS_BANDS)
    season = choose_season(cube)
    assert season.harvest_year == 2019
    assert season.dates_T[0] >= np.datetime64("2018-09-01")
    assert season.dates_T[-1] <= np.datetime64("2019-10-31")
    assert len(season.days_T) + len(season.left_out) == 63
    images_TCHW, data_HW = read_window(
        cube.isel(time=season.index_T), PASTIS_BANDS, Window(0, 0, 64, 64)
    )
    assert data_HW.all()
    assert 500 < images_TCHW[:, 2].mean() < 3000

"""Scenes -> a cube on disk: zones, days, mosaics, masks and offsets, on small made scenes; windows
change nothing.
"""

from __future__ import annotations

import json
from datetime import datetime

import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from panoseg.cube import CubeOptions, store
from panoseg.cube import build as dates
from panoseg.cube.build import build_cube
from panoseg.cube.check import check_cube
from panoseg.cube.folder import cube_of_scenes
from panoseg.cube.metadata import report_of
from panoseg.cube.open import open_cube, reading
from panoseg.cube.scenes import UnreadableSceneError
from panoseg.cube.season import Window, choose_season, clear_shares, read_window
from panoseg.errors import CubeError
from panoseg.imagery.scenes import Radiometry, Scene, SceneAsset

BANDS = ("B02", "B05")
PLAIN = Radiometry(1e-4, 0.0, 0.0)
CLASSES = Radiometry(1.0, 0.0, 0.0)
LEFT, TOP, SIDE = 500_000.0, 5_600_000.0, 48
GRID = GeoBox((SIDE, SIDE), Affine(10, 0, LEFT, 0, -10, TOP), "EPSG:32631")
ALL = CubeOptions(min_clear=0, threads=2)


def raster(path, values_HW, pixel=10, left=LEFT, top=TOP, epsg=32631):
    """A GeoTIFF of uint16; gives its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values_HW.shape
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": "uint16",
        "nodata": 0,
    }
    with rasterio.open(
        path, "w", crs=f"EPSG:{epsg}", transform=Affine(pixel, 0, left, 0, -pixel, top), **profile
    ) as target:
        target.write(values_HW.astype(np.uint16), 1)
    return str(path)


def scene(
    folder, name, time, b02_HW, scl_HW=None, meaning=PLAIN, baseline=0.0, epsg=32631, **place
):
    """A scene with B02 at 10 m, and B05 and SCL of half its size at 20 m."""
    half_HW = b02_HW[::2, ::2]
    scl_HW = np.where(half_HW > 0, 4, 0) if scl_HW is None else scl_HW
    files = {
        "B02": SceneAsset(
            raster(folder / name / "B02.tif", b02_HW, epsg=epsg, **place), meaning, 10
        ),
        "B05": SceneAsset(
            raster(folder / name / "B05.tif", half_HW * 2, 20, epsg=epsg, **place), meaning, 20
        ),
        "SCL": SceneAsset(
            raster(folder / name / "SCL.tif", scl_HW, 20, epsg=epsg, **place), CLASSES, 20
        ),
    }
    return Scene(name, datetime.fromisoformat(time), files, None, baseline, epsg)


def random_HW(seed, side=SIDE):
    return np.random.default_rng(seed).integers(200, 4000, (side, side))


def outline(grid=GRID):
    """All of a grid, in degrees."""
    return grid.extent.to_crs("EPSG:4326").geom


def make(scenes, out, options=ALL, grid=GRID, **more):
    return build_cube(scenes, grid, out, options, outline(grid), bands=BANDS, **more)


def numbers(path):
    with reading(path):
        return xr.decode_cf(open_cube(path)).load()


def test_scenes_of_a_day_are_one_date_and_each_pixel_has_the_newest_that_has_data(tmp_path):
    old_HW, new_HW = random_HW(0), random_HW(1)
    new_HW[:, 24:] = 0
    scenes = [
        scene(tmp_path, "old", "2019-05-01T10:00", old_HW, baseline=2.0),
        scene(tmp_path, "new", "2019-05-01T10:00", new_HW, baseline=5.0),
        scene(tmp_path, "next", "2019-05-03T10:00", old_HW),
    ]
    report = make(scenes, tmp_path / "a.zarr")
    assert report.dates == ("2019-05-01", "2019-05-03")
    assert report.scenes["2019-05-01"] == ["new", "old"]
    cube = numbers(tmp_path / "a.zarr")
    expected_HW = np.where(new_HW > 0, new_HW, old_HW)
    np.testing.assert_array_equal(cube["B02"].values[0], expected_HW)
    np.testing.assert_array_equal(
        cube["B05"].values[0], 2 * expected_HW[::2, ::2].repeat(2, 0).repeat(2, 1)
    )


def test_an_area_over_two_zones_is_one_grid(tmp_path):
    """A scene of the zone in the east is warped; a scene of the grid's own zone is preferred."""
    grid = GeoBox((SIDE, SIDE), Affine(10, 0, 712_000, 0, -10, TOP), "EPSG:32631")
    x, y = Transformer.from_crs(32631, 32632, always_xy=True).transform(712_240, TOP - 240)
    far = {"left": x - x % 20 - 600, "top": y - y % 20 + 600, "epsg": 32632}
    ramp_HW = np.add.outer(np.arange(120) * 10, np.arange(120) * 7) + 500
    west_HW = random_HW(3)
    west_HW[:, 16:] = 0
    scenes = [
        scene(tmp_path, "east", "2019-05-01T10:00", ramp_HW, baseline=5.0, **far),
        scene(tmp_path, "west", "2019-05-01T10:00", west_HW, left=712_000.0),
    ]
    make(scenes, tmp_path / "a.zarr", grid=grid)
    values_HW = numbers(tmp_path / "a.zarr")["B02"].values[0]
    np.testing.assert_array_equal(values_HW[:, :16], west_HW[:, :16])
    back = Transformer.from_crs(32631, 32632, always_xy=True)
    for row, column in ((5, 20), (30, 40), (47, 47)):
        east_x, east_y = back.transform(712_005 + 10 * column, TOP - 5 - 10 * row)
        pixel = ramp_HW[int((far["top"] - east_y) // 10), int((east_x - far["left"]) // 10)]
        assert values_HW[row, column] == pixel


@pytest.mark.parametrize(("epsg", "left"), [(32601, 499_000.0), (32660, 500_000.0), (32631, LEFT)])
def test_a_pass_is_one_day_wherever_it_is(tmp_path, epsg, left):
    """Two tiles of a pass at 10:30 of the sun's time; near the date line midnight in UTC may lie
    between them.
    """
    hours = {32601: 10.5 + 12 - 0.2, 32660: 24 + 10.5 - 11.8, 32631: 10.5}[epsg]
    grid = GeoBox((SIDE, SIDE), Affine(10, 0, left, 0, -10, TOP), f"EPSG:{epsg}")
    times = [f"2019-05-01T{int(hours):02d}:{minute}" for minute in ("01", "59")]
    west_HW, east_HW = random_HW(0), random_HW(1)
    west_HW[:, 24:], east_HW[:, :24] = 0, 0
    scenes = [
        scene(tmp_path, str(place), time, values_HW, left=left, epsg=epsg)
        for place, (time, values_HW) in enumerate(zip(times, (west_HW, east_HW), strict=True))
    ]
    make(scenes, tmp_path / "a.zarr", grid=grid)
    cube = numbers(tmp_path / "a.zarr")
    assert cube.sizes["time"] == 1
    np.testing.assert_array_equal(cube["B02"].values[0], west_HW + east_HW)


def test_midnight_in_utc_parts_no_pass(tmp_path):
    grid = GeoBox(
        (SIDE, SIDE), Affine(10, 0, LEFT, 0, -10, TOP), "EPSG:32658"
    )  # 165 degrees east: 23:30 is 10:30
    scenes = [
        scene(tmp_path, name, time, random_HW(0), epsg=32658)
        for name, time in (("a", "2018-12-31T23:59:50"), ("b", "2019-01-01T00:00:01"))
    ]
    report = make(scenes, tmp_path / "a.zarr", grid=grid)
    assert report.dates == ("2019-01-01",)


def test_each_scene_has_its_own_offset_and_doubtful_ones_are_looked_at(tmp_path):
    """The same land as 1000 more, said rightly; and said wrongly where the numbers show that it was
    taken off.
    """
    land_HW = random_HW(5) // 8 + 100  # dark enough to show it
    with_offset = Radiometry(1e-4, -0.1, 0.0)
    doubtful = Radiometry(1e-4, -0.1, 0.0, doubtful=True)
    half_HW = np.full((24, 24), 4)
    scenes = [
        scene(tmp_path, "before", "2021-12-01T10:00", land_HW),
        scene(tmp_path, "after", "2022-02-01T10:00", land_HW + 1000, half_HW, with_offset),
        scene(tmp_path, "wrong", "2022-03-01T10:00", land_HW, half_HW, doubtful),
        scene(tmp_path, "right", "2022-04-01T10:00", land_HW + 1000, half_HW, doubtful),
    ]
    make(scenes, tmp_path / "a.zarr")
    cube = numbers(tmp_path / "a.zarr")
    for place in range(4):
        np.testing.assert_array_equal(cube["B02"].values[place], land_HW)


def test_noise_below_zero_survives_and_glints_are_cut(tmp_path):
    values_HW = np.full((SIDE, SIDE), 990)
    values_HW[0, 0], values_HW[0, 1] = 65_535, 0
    make(
        [scene(tmp_path, "a", "2022-02-01T10:00", values_HW, meaning=Radiometry(1e-4, -0.1, 0.0))],
        tmp_path / "a.zarr",
    )
    b02_HW = numbers(tmp_path / "a.zarr")["B02"].values[0]
    assert b02_HW[5, 5] == -10
    assert b02_HW[0, 0] == 32767
    assert np.isnan(b02_HW[0, 1])


def test_no_reflectance_is_not_no_data(tmp_path):
    """0 means no data in a cube: what has none, exactly or rounded, has the least; what no date
    shows stays missing.
    """
    values_HW = np.full((SIDE, SIDE), 3000)
    values_HW[0, :4] = 1000, 0, 999, 1001
    meaning = Radiometry(1e-4, -0.1, 0.0)
    half = Radiometry(4e-5, 0.0, 0.0)  # 1 is 0.4, rounded to 0
    half_HW = np.ones((SIDE, SIDE))
    everywhere_HW = np.full((24, 24), 4)
    scenes = [
        scene(tmp_path, "a", "2022-02-01T10:00", values_HW, everywhere_HW, meaning),
        scene(tmp_path, "b", "2022-02-02T10:00", half_HW, everywhere_HW, half),
    ]
    make(scenes, tmp_path / "a.zarr")
    cube = check_cube(open_cube(tmp_path / "a.zarr"), BANDS)
    assert cube["B02"].values[0, 0, :4].tolist() == [1, pytest.approx(np.nan, nan_ok=True), -1, 1]
    np.testing.assert_array_equal(cube["B02"].values[1], 1)
    images_TCHW, _ = read_window(cube, BANDS, Window(0, 0, 16, 16))
    assert images_TCHW[0, 0, 0, 0] == 1  # and not what lies between dates
    lazy = cube_of_scenes(scenes)["B02"].values[0, 0, :4]
    assert lazy.tolist() == [1, pytest.approx(np.nan, nan_ok=True), -1, 1]


def test_windows_and_threads_change_no_number(tmp_path, monkeypatch):
    """Masks reach over the edges of windows."""
    half_HW = np.full((24, 24), 4)
    half_HW[7, 7], half_HW[15, 15], half_HW[3, 20] = (
        9,
        3,
        8,
    )  # next to edges of windows of 16 pixels
    scenes = [
        scene(tmp_path, f"s{day}", f"2019-05-0{day}T10:00", random_HW(day), half_HW)
        for day in (1, 2, 3)
    ]
    options = {"mask": ("cloud", "shadow"), "dilate_m": 35, "min_clear": 0}
    make(scenes, tmp_path / "whole.zarr", CubeOptions(**options, threads=1))
    monkeypatch.setattr(store, "CHUNK", 16)
    monkeypatch.setattr(dates, "WINDOW", 16)
    make(scenes, tmp_path / "parts.zarr", CubeOptions(**options, threads=5))
    whole, parts = numbers(tmp_path / "whole.zarr"), numbers(tmp_path / "parts.zarr")
    xr.testing.assert_equal(whole, parts)
    masked_HW = whole["B02"].isnull().values[0]
    rows, columns = np.mgrid[:SIDE, :SIDE]
    near_HW = np.zeros((SIDE, SIDE), bool)
    for row, column in ((7, 7), (15, 15), (3, 20)):
        for pixel_row in (2 * row, 2 * row + 1):
            for pixel_column in (2 * column, 2 * column + 1):
                near_HW |= np.hypot(rows - pixel_row, columns - pixel_column) * 10 <= 35
    np.testing.assert_array_equal(masked_HW, near_HW)
    assert len(list((tmp_path / "parts.zarr" / "B02" / "c").rglob("*/*/*"))) == 3 * 9


def test_what_stands_behind_a_line_that_was_cut_off_is_not_known(tmp_path):
    """A window that was made without a scene must not stay where the word that the scene was left
    out is lost.
    """
    journal = store.Journal(tmp_path)
    journal.add("look", day="2019-05-01", shares={"clear": 1.0})
    with journal.path.open("a") as file:
        file.write('{"event": "left out", "day": "2019-05-01", "sce')  # the disk was full
    journal.add("window", day="2019-05-01", window=0)
    journal.add("window", day="2019-05-01", window=1)
    for _ in range(2):
        again = store.Journal(tmp_path)
        assert again.looks == {"2019-05-01": {"clear": 1.0}}
        assert again.windows == {}
        assert len(journal.path.read_text().splitlines()) == 1


def test_windows_far_from_the_outline_are_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 16)
    monkeypatch.setattr(dates, "WINDOW", 16)
    corner = GeoBox((8, 8), GRID.affine, "EPSG:32631")
    scenes = [
        scene(tmp_path, "a", "2019-05-01T10:00", random_HW(0)),
        scene(tmp_path, "b", "2019-05-02T10:00", random_HW(1)),
    ]
    options = CubeOptions(margin_m=100, min_clear=0)
    report = build_cube(scenes, GRID, tmp_path / "a.zarr", options, outline(corner), bands=BANDS)
    seen_HW = numbers(tmp_path / "a.zarr")["B02"].notnull().values[0]
    expected_HW = np.zeros((SIDE, SIDE), bool)
    # 8 pixels and a margin of 10 reach the windows next to the first, and not round the corner to
    # the one across.
    expected_HW[:32, :16] = expected_HW[:16, :32] = True
    np.testing.assert_array_equal(seen_HW, expected_HW)
    assert report.clear == (1.0, 1.0)
    # Of a cube that is mostly empty, what counts is what the asked land shows.
    cube = check_cube(open_cube(tmp_path / "a.zarr"), BANDS)
    np.testing.assert_array_equal(clear_shares(cube), [1, 1])
    assert len(choose_season(cube, min_clear=0.9).dates_T) == 2


def test_a_cube_of_two_fields_may_have_nothing_in_its_middle(tmp_path, monkeypatch):
    """The land between them is not fetched; the scale of a cube of ours is known without a look at
    it.
    """
    monkeypatch.setattr(store, "CHUNK", 16)
    monkeypatch.setattr(dates, "WINDOW", 16)
    grid = GeoBox((128, 128), GRID.affine, GRID.crs)
    fields = shapely.union_all([outline(grid[:8, :8]), outline(grid[-8:, -8:])])
    values_HW = random_HW(0, 128)
    made = scene(tmp_path, "a", "2019-05-01T10:00", values_HW)
    build_cube([made], grid, tmp_path / "a.zarr", CubeOptions(margin_m=0), fields, bands=BANDS)
    b02_HW = check_cube(open_cube(tmp_path / "a.zarr"), BANDS)["B02"].values[0]
    assert np.isnan(b02_HW[32:96, 32:96]).all()
    np.testing.assert_array_equal(b02_HW[:16, :16], values_HW[:16, :16])


def test_dark_water_is_reflectance_too(tmp_path):
    """Numbers that would be no reflectance in a cube of somebody else."""
    values_HW = random_HW(0) % 12
    make(
        [scene(tmp_path, "a", "2019-05-01T10:00", values_HW, np.full((24, 24), 6))],
        tmp_path / "a.zarr",
    )
    b02_HW = check_cube(open_cube(tmp_path / "a.zarr"), BANDS)["B02"].values[0]
    np.testing.assert_array_equal(np.nan_to_num(b02_HW), values_HW)


def test_an_outline_between_the_centres_of_pixels_shows_those_that_it_meets(tmp_path):
    clear_HW = np.full((24, 24), 4)
    clear_HW[:, 1] = 9
    strip = GeoBox((20, 1), Affine(3, 0, LEFT + 11, 0, -10, TOP - 100), "EPSG:32631")  # 3 m wide
    made = scene(tmp_path, "a", "2019-05-01T10:00", random_HW(0), clear_HW)
    report = build_cube([made], GRID, tmp_path / "a.zarr", ALL, outline(strip), bands=BANDS)
    assert report.clear == (1.0,)


def test_clear_shares_are_those_inside_the_outline(tmp_path):
    half_HW = np.full((24, 24), 4)
    half_HW[:, 12:] = 9
    scenes = [scene(tmp_path, "a", "2019-05-01T10:00", random_HW(0), half_HW)]
    west = GeoBox((48, 32), GRID.affine, "EPSG:32631")
    report = build_cube(scenes, GRID, tmp_path / "a.zarr", ALL, outline(west), bands=BANDS)
    assert report.clear[0] == pytest.approx(0.75, abs=0.02)


def test_the_sea_is_said_to_be_the_sea(tmp_path):
    scenes = [scene(tmp_path, "a", "2019-05-01T10:00", random_HW(0), np.full((24, 24), 6))]
    assert make(scenes, tmp_path / "a.zarr").notes == ("99% of the area is water on every date.",)
    scenes = [scene(tmp_path, "b", "2019-05-01T10:00", random_HW(0))]
    assert make(
        scenes, tmp_path / "b.zarr", notes=("A note.",), left_out={"c": "no scene"}
    ).notes == ("A note.",)
    report = report_of(open_cube(tmp_path / "b.zarr"))
    assert report.left_out_scenes == {"c": "no scene"}
    assert report.sentences == ("A note.", "Scene c was left out: no scene.")


def test_dates_without_data_inside_the_area_and_cubes_without_dates(tmp_path):
    away = scene(tmp_path, "away", "2019-05-01T10:00", random_HW(0), left=LEFT + 100_000)
    here = scene(tmp_path, "here", "2019-05-02T10:00", random_HW(0))
    report = make([away, here], tmp_path / "a.zarr")
    assert report.left_out_dates == {"2019-05-01": "no data inside the area"}
    with pytest.raises(CubeError, match="None of 1 dates shows 0% of the area"):
        make([away], tmp_path / "b.zarr")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_files_of_other_kinds_cost_their_scene(tmp_path):
    """A raster that stands for another file, one without a place, and one that is no raster."""
    scenes = [
        scene(tmp_path, f"s{day}", f"2019-05-0{day}T10:00", random_HW(day)) for day in (1, 2, 3, 4)
    ]
    secret = raster(tmp_path / "secret.tif", random_HW(9))
    virtual = (
        '<VRTDataset rasterXSize="48" rasterYSize="48"><VRTRasterBand'
        f' band="1"><SimpleSource><SourceFilename>{secret}'
    )
    (tmp_path / "s1" / "B02.tif").write_text(
        virtual + "</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "s2" / "B05.tif").write_text("no raster")
    profile = {"driver": "GTiff", "height": 24, "width": 24, "count": 1, "dtype": "uint16"}
    with rasterio.open(tmp_path / "s3" / "SCL.tif", "w", **profile) as target:
        target.write(np.ones((1, 24, 24), np.uint16))
    report = make(scenes, tmp_path / "a.zarr")
    assert report.dates == ("2019-05-04",)
    assert set(report.left_out_scenes) == {"s1", "s2", "s3"}
    assert "not recognized" in report.left_out_scenes["s1"]
    assert "no coordinate system" in report.left_out_scenes["s3"]


def test_a_small_file_whose_one_block_would_fill_memory_costs_its_scene(tmp_path):
    scenes = [scene(tmp_path, f"s{day}", f"2019-05-0{day}T10:00", random_HW(day)) for day in (1, 2)]
    side = 64_000
    profile = {
        "driver": "GTiff",
        "height": side,
        "width": side,
        "count": 1,
        "dtype": "uint16",
        "sparse_ok": True,
    }
    place = {
        "crs": "EPSG:32631",
        "transform": GRID.affine,
        "tiled": True,
        "blockxsize": side,
        "blockysize": side,
    }
    rasterio.open(tmp_path / "s1" / "B05.tif", "w", **profile, **place).close()
    assert (tmp_path / "s1" / "B05.tif").stat().st_size < 1000
    report = make(scenes, tmp_path / "a.zarr")
    assert report.dates == ("2019-05-02",)
    assert "would fill memory" in report.left_out_scenes["s1"]


@pytest.mark.parametrize("threads", [1, 8])
def test_when_everything_fails_it_is_not_the_scenes(tmp_path, threads):
    """A network that is gone stops the work, and no scene is given up for it, those that other
    threads are at neither.
    """
    days = range(1, 21)
    scenes = [
        scene(tmp_path, f"s{day:02d}", f"2019-05-{day:02d}T10:00", random_HW(day)) for day in days
    ]
    for path in tmp_path.glob("s*/B05.tif"):
        path.rename(path.with_suffix(".away"))
    options = CubeOptions(min_clear=0, threads=threads)
    with pytest.raises(CubeError, match="12 scenes in a row cannot be read"):
        make(scenes, tmp_path / "a.zarr", options)
    with pytest.raises(
        CubeError, match="None of 20 dates could be fetched, 20 scenes could not be read"
    ):
        make(scenes, tmp_path / "a.zarr", options)
    for path in tmp_path.glob("s*/B05.away"):
        path.rename(path.with_suffix(".tif"))
    report = make(scenes, tmp_path / "a.zarr", options)
    assert len(report.dates) == 20
    assert report.left_out_scenes == {}


def test_scenes_that_are_gone_stop_the_work_once_and_others_each_time(tmp_path):
    """Twelve in a row: the next start leaves out those whose files are not there, and stops for
    those that are unreadable.
    """
    days = range(1, 16)
    scenes = [
        scene(tmp_path, f"s{day:02d}", f"2019-05-{day:02d}T10:00", random_HW(day)) for day in days
    ]
    files = sorted(tmp_path.glob("s*/B05.tif"))
    whole = files[0].read_bytes()
    for path in files[:13]:
        path.write_bytes(whole[:100])
    options = CubeOptions(min_clear=0, threads=1)
    for _ in range(2):
        with pytest.raises(CubeError, match="12 scenes in a row cannot be read"):
            make(scenes, tmp_path / "a.zarr", options)
    for path in files[:13]:
        path.unlink()
    report = make(scenes, tmp_path / "a.zarr", options)
    assert report.dates == ("2019-05-14", "2019-05-15")
    assert len(report.left_out_scenes) == 13


def test_a_scene_that_fails_when_its_date_is_looked_at_again_leaves_no_pixel(tmp_path, monkeypatch):
    """Of one day the first scene lacks a file; the second can be read at first and no more, the
    third always.
    """
    scenes = [
        scene(tmp_path, f"s{place}", "2019-05-01T10:00", random_HW(place), baseline=9.0 - place)
        for place in range(3)
    ]
    (tmp_path / "s0" / "B05.tif").unlink()
    looked = []

    def classification(seen, grid):
        looked.append([found.id for found in seen])
        if looked[-1][0] == "s1":
            raise UnreadableSceneError("s1", "has gone")
        return original(seen, grid)

    original = dates.classification
    monkeypatch.setattr(dates, "classification", classification)
    report = make(scenes, tmp_path / "a.zarr")
    assert looked == [["s0", "s1", "s2"], ["s1", "s2"], ["s2"]]
    assert report.scenes == {"2019-05-01": ["s2"]}
    np.testing.assert_array_equal(numbers(tmp_path / "a.zarr")["B02"].values[0], random_HW(2))


def test_what_a_cube_was_made_of_is_in_its_attributes(tmp_path):
    make(
        [scene(tmp_path, "a", "2019-05-01T10:00", random_HW(0))], tmp_path / "a.zarr", title="farm"
    )
    cube = xr.decode_cf(open_cube(tmp_path / "a.zarr"))
    record = json.loads(cube.attrs["panoseg"])
    assert record["title"] == cube.attrs["title"] == "farm"
    assert record["scenes"] == {"2019-05-01": ["a"]}
    assert cube["clear"].values.tolist() == [1.0]
    assert shapely.area(cube.odc.geobox.extent.geom) == 480 * 480


def test_numbers_of_anybody_crash_nothing(tmp_path):
    wild = [
        Radiometry(1e300, 0.0, 0.0),
        Radiometry(1e-4, 1e300, 0.0),
        Radiometry(1e-4, 0.0, 1e300),
        Radiometry(1e-4, 0.0, -1.0),
    ]
    scenes = [
        scene(tmp_path, f"s{day}", f"2019-05-0{day}T10:00", random_HW(day), None, wild[day - 1])
        for day in (1, 2, 3, 4)
    ]
    report = make(
        [*scenes, scene(tmp_path, "good", "2019-05-05T10:00", random_HW(0))], tmp_path / "a.zarr"
    )
    assert "2019-05-05" in report.dates
    np.testing.assert_array_equal(numbers(tmp_path / "a.zarr")["B02"].values[-1], random_HW(0))

"""Seasons as people have them: GeoTIFFs named by many programs, zipped Zarr stores, EOPF products.

All forms hold the same numbers, so each must give the same cube.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

from cubes import LEFT, TOP, item, make_cube
from panoseg.cli import main
from panoseg.cube import convert
from panoseg.cube.check import check_cube
from panoseg.cube.convert import convert_cube, write_items
from panoseg.cube.folder import notes_of
from panoseg.cube.metadata import report_of
from panoseg.cube.open import open_cube, reading
from panoseg.errors import CubeError, OutputError
from panoseg.imagery.geotiffs import season_scenes
from panoseg.imagery.scenes import best_assets
from panoseg.imagery.sentinel2 import PASTIS_BANDS

DAYS = ("2019-04-01", "2019-06-10")
SIDE = 16
CUBE = make_cube(SIDE, DAYS, seed=3, scl=True)
FORCE = [
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
]  # BROADNIR is B08, NIR is B8A
FORCE_TAGS = ["BLU", "GRN", "RED", "RE1", "RE2", "RE3", "BNR", "NIR", "SW1", "SW2"]


def numbers(day: int, bands=PASTIS_BANDS) -> np.ndarray:
    """The numbers of a date, C x H x W."""
    return np.stack([CUBE[band].values[day] for band in bands])


def tif(path: Path, values, names=None, *, pixel=10.0, left=LEFT, top=TOP, tags=None, **options):
    """Write bands (C x H x W or H x W) as a GeoTIFF; scales and offsets may be given."""
    values = np.asarray(values)
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    scales, offsets = options.pop("scales", None), options.pop("offsets", None)
    profile = {
        "driver": "GTiff",
        "count": len(values),
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype,
        "crs": "EPSG:32631",
        "transform": Affine(pixel, 0, left, 0, -pixel, top),
        **options,
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(values)
        if names is not None:
            target.descriptions = tuple(names)
        if scales is not None:
            target.scales, target.offsets = scales, offsets or [0] * len(values)
        target.update_tags(**(tags or {}))


def a_file_a_band(folder: Path, name, bands=PASTIS_BANDS) -> None:
    """One file for each date and band; ``name`` gets the day, and the band."""
    for number, day in enumerate(DAYS):
        for band in bands:
            tif(folder / name(day, band), CUBE[band].values[number])


def a_file_a_date(folder: Path, name, names=PASTIS_BANDS) -> None:
    for number, day in enumerate(DAYS):
        tif(folder / name(day), numbers(number), names)


def plain(day: str) -> str:
    return day.replace("-", "")


def short(band: str) -> str:
    return band.replace("B0", "B")


def earth_engine_all_dates(folder):
    names = [
        f"{plain(d)}T105031_{plain(d)}T105029_T31UES_{short(b)}" for d in DAYS for b in PASTIS_BANDS
    ]
    tif(folder / "farm.tif", np.concatenate([numbers(0), numbers(1)]), names)


def force_series(folder):
    for tag, band in zip(FORCE_TAGS, PASTIS_BANDS, strict=True):
        tif(
            folder / "X0056_Y0053" / f"2018-2019_001-365_HL_TSA_SEN2L_{tag}_TSI.tif",
            CUBE[band].values,
            [plain(day) for day in DAYS],
        )


def force_level_2(folder):
    for number, day in enumerate(DAYS):
        stem = folder / "X0056_Y0053" / plain(day)
        tif(
            Path(f"{stem}_LEVEL2_SEN2A_BOA.tif"),
            numbers(number).astype(np.int16),
            FORCE,
            nodata=-9999,
        )
        tif(
            Path(f"{stem}_LEVEL2_SEN2A_QAI.tif"),
            np.zeros((SIDE, SIDE), np.int16),
            ["Quality assurance information"],
        )


def openeo_items(folder, **described):
    a_file_a_date(folder, lambda day: f"openEO_{day}Z.tif")
    for day in DAYS:
        name = f"openEO_{day}Z.tif"
        asset = {
            "href": name,
            "type": "image/tiff; application=geotiff",
            "roles": ["data"],
            **described,
        }
        (folder / f"{name}.json").write_text(
            json.dumps(item(name, f"{day}T00:00:00Z", {"openEO": asset}))
        )


def safe_names_of_two_sizes(folder):
    """The folders of a SAFE archive, with the fine bands at 20 m as well."""
    for number, day in enumerate(DAYS):
        for band in PASTIS_BANDS:
            values_HW = CUBE[band].values[number]
            for size, pixel in (("20m", 20), ("10m", 10)):
                tif(
                    folder / f"R{size}" / f"T31UES_{plain(day)}T105031_{band}_{size}.tif",
                    values_HW if pixel == 10 else values_HW[::2, ::2],
                    pixel=pixel,
                )


def sits_with_classes(folder):
    a_file_a_band(folder, lambda day, band: f"SENTINEL-2_MSI_20LKP_{band}_{day}.tif")
    for day in DAYS:
        tif(folder / f"SENTINEL-2_MSI_20LKP_CLOUD_{day}.tif", np.full((SIDE, SIDE), 4, np.uint8))


def numbered_exports(folder):
    """Exports whose names differ by more than the band."""
    for number, day in enumerate(DAYS):
        for place, band in enumerate(PASTIS_BANDS):
            tif(folder / f"{place:02d}_export_{day}_{band}.tif", CUBE[band].values[number])


FORMS = {
    "Earth Engine, a file a date": lambda f: a_file_a_date(
        f,
        lambda d: f"{plain(d)}T105031_{plain(d)}T105029_T31UES.tif",
        [short(b) for b in PASTIS_BANDS],
    ),
    "Earth Engine, a file a date and band": lambda f: a_file_a_band(
        f, lambda d, b: f"{plain(d)}T105031_{plain(d)}T105029_T31UES.{short(b)}.tif"
    ),
    "Earth Engine, all dates": earth_engine_all_dates,
    "FORCE level 2": force_level_2,
    "FORCE without descriptions": lambda f: a_file_a_date(
        f, lambda d: f"X0056_Y0053/{plain(d)}_LEVEL2_SEN2B_BOA.tif", None
    ),
    "FORCE time series": force_series,
    "sits": sits_with_classes,
    "openEO": lambda f: a_file_a_date(f, lambda d: f"openEO_{d}Z.tif"),
    "openEO with items": lambda f: openeo_items(
        f, **{"eo:bands": [{"name": b} for b in PASTIS_BANDS]}
    ),
    "openEO with items of STAC 1.1": lambda f: openeo_items(
        f, bands=[{"name": b} for b in PASTIS_BANDS]
    ),
    "openEO with items of raster:bands": lambda f: openeo_items(
        f, **{"raster:bands": [{"name": b, "nodata": 0} for b in PASTIS_BANDS]}
    ),
    "openEO with items that name no band": openeo_items,
    "SAFE names": lambda f: a_file_a_band(f, lambda d, b: f"T31UES_{plain(d)}T105031_{b}_10m.tif"),
    "SAFE names of two sizes": safe_names_of_two_sizes,
    "sen2r": lambda f: a_file_a_date(f, lambda d: f"S2A2A_{plain(d)}_051_area_BOA_10.tif"),
    "EO Browser": lambda f: a_file_a_band(
        f, lambda d, b: f"{d}-00_00_{d}-23_59_Sentinel-2_L2A_{b}_(Raw).tiff"
    ),
    "eo-learn": lambda f: a_file_a_date(f, lambda d: f"BANDS_{plain(d)}T105031.tiff"),
    "a folder a date": lambda f: a_file_a_band(f, lambda d, b: f"{d}/{b}.tif"),
    "a folder a band": lambda f: a_file_a_band(f, lambda d, b: f"{b}/{plain(d)}.tif"),
    "underscores": lambda f: a_file_a_band(f, lambda d, b: f"S2_{d.replace('-', '_')}_{b}.TIF"),
    "R names": lambda f: a_file_a_band(f, lambda d, b: f"X{d.replace('-', '.')}_{b}.tif"),
    "HLS": lambda f: a_file_a_band(
        f, lambda d, b: f"HLS.S30.T31UES.{np.datetime64(d).astype(object):%Y%j}T105031.v2.0.{b}.tif"
    ),
    "a season in the name": lambda f: a_file_a_date(
        f, lambda d: f"s2_20180901_20191031_{plain(d)}.tif"
    ),
    "colours": lambda f: a_file_a_date(
        f,
        lambda d: f"{d}.tif",
        [
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
        ],
    ),
    "words": lambda f: a_file_a_date(
        f,
        lambda d: f"red_farm_{d}.tif",
        [
            "B2, Blue",
            "B3, Green",
            "B4, Red",
            "Red Edge 1",
            "Red Edge 2",
            "red_edge_3",
            "B8",
            "B8A",
            "SWIR 1",
            "SWIR 2",
        ],
    ),
    "numbered": numbered_exports,
    "a file a band with dates": lambda f: (
        [tif(f / f"{band}.tif", CUBE[band].values, DAYS) for band in PASTIS_BANDS] and None
    ),
    "Theia": lambda f: a_file_a_band(
        f, lambda d, b: f"SENTINEL2A_{plain(d)}-105031-123_L2A_T31UES_C_V2-2_FRE_{short(b)}.tif"
    ),
    "dashes": lambda f: a_file_a_band(f, lambda d, b: f"sentinel2-{d}-{short(b).lower()}.tif"),
    "band_02": lambda f: a_file_a_band(f, lambda d, b: f"s2_l2a_{d}_band_{b[1:]}.tif"),
    "data cube of Brazil": lambda f: a_file_a_band(
        f, lambda d, b: f"S2-16D_V2_020024_{plain(d)}_{b}.tif"
    ),
    "day of processing": lambda f: a_file_a_band(
        f, lambda d, b: f"S2A_MSIL2A_{plain(d)}T105031_N0211_R051_T31UES_20190701T131234_{b}.tif"
    ),
    "BigEarthNet": lambda f: a_file_a_band(
        f, lambda d, b: f"S2A_MSIL2A_{plain(d)}T105031_N9999_R051_T31UES_26_57_{b}.tif"
    ),
    "single digits": lambda f: a_file_a_band(
        f, lambda d, b: f"S2_{d.replace('-0', '-').replace('-', '_')}_{b}.tif"
    ),
    "red edges": lambda f: a_file_a_date(
        f,
        lambda d: f"field_{d}.tif",
        ["Blue", "Green", "Red", "RE1", "RE2", "RE3", "NIR", "Narrow NIR", "SWIR1", "SWIR2"],
    ),
    "QGIS": lambda f: a_file_a_date(
        f, lambda d: f"Clipped (mask) {d}.tif", [f"{b} - {b}" for b in PASTIS_BANDS]
    ),
    "EnMAP-Box": lambda f: a_file_a_date(
        f,
        lambda d: f"s2_{d}.tif",
        [f"{short(b)}, Red (665 Nanometers)[10 Meter]" for b in PASTIS_BANDS],
    ),
    "time in the name": lambda f: a_file_a_date(f, lambda d: f"S2_{d}T10-50-31Z.tiff"),
    "a season of folders": lambda f: a_file_a_band(
        f, lambda d, b: f"2018_2019/tile_1/{d.replace('-', '_')}/S2_{short(b)}.tif"
    ),
    "duplicates": lambda f: (
        [
            a_file_a_band(f, lambda d, b: f"{d}_{b}.tif"),
            a_file_a_band(f, lambda d, b: f"copy/{d}_{b}.tif"),
        ]
    ),
    "halves": lambda f: (
        [
            tif(
                f / f"{d}_{b}-0000000000-{left:010d}.tif",
                CUBE[b].values[n][:, left : left + 8],
                left=LEFT + 10 * left,
            )
            for n, d in enumerate(DAYS)
            for b in PASTIS_BANDS
            for left in (0, 8)
        ]
    ),
    "tags": lambda f: (
        [
            tif(
                f / f"{n}.tif",
                numbers(n),
                PASTIS_BANDS,
                tags={"TIFFTAG_DATETIME": f"{d.replace('-', ':')} 10:50:31"},
            )
            for n, d in enumerate(DAYS)
        ]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_season(tmp_path, form):
    FORMS[form](tmp_path)
    for litter in (
        "._B02_2019-04-01.tif",
        "__MACOSX/B02_2019-04-01.tif",
        ".DS_Store",
        "a.tif.aux.xml",
    ):
        (tmp_path / litter).parent.mkdir(exist_ok=True)
        (tmp_path / litter).write_bytes(b"\0\5\x16\7")
    opened = open_cube(tmp_path)
    assert opened["B02"].chunks is not None
    cube = check_cube(opened, PASTIS_BANDS).load()
    assert cube["time"].dt.strftime("%Y-%m-%d").values.tolist() == list(DAYS)
    assert cube.odc.geobox == CUBE.odc.geobox
    for band in PASTIS_BANDS:
        np.testing.assert_array_equal(cube[band].values, CUBE[band].values, err_msg=band)
    assert ("SCL" in cube) == (form == "sits")
    if form == "sits":
        assert (cube["SCL"].values == 4).all()
    passed = "2 rasters were passed over (the first, 20190401_LEVEL2_SEN2A_QAI.tif, names no band)."
    assert notes_of(opened) == ((passed,) if form == "FORCE level 2" else ())


def refused(path: Path) -> str:
    """The line that refuses a season."""
    with pytest.raises(CubeError) as caught:
        open_cube(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_numbers_mean_what_the_file_states(tmp_path):
    """A number of each kind, as its file holds it, and the reflectance x 10 000 that it means."""
    values_HW = np.full((SIDE, SIDE), 2000)
    values_HW[0, 0], values_HW[0, 1] = 0, 1000
    cases = {
        # day: (stored numbers, options, what 2000, 0 and 1000 become)
        "2019-01-01": (values_HW.astype(np.uint16), {"nodata": 0}, (2000, np.nan, 1000)),
        "2019-01-02": (values_HW.astype(np.int16), {"nodata": -9999}, (2000, np.nan, 1000)),
        "2019-01-03": (values_HW.astype(np.int16), {"nodata": 1000}, (2000, np.nan, np.nan)),
        "2019-01-04": (values_HW.astype(np.uint16), {"scales": [1e-4], "offsets": [-0.1]}, (1000, np.nan, 1)),
        "2019-01-05": (values_HW.astype(np.uint16), {"scales": [5e-4]}, (10_000, np.nan, 5000)),
        "2019-01-06": (values_HW.astype(np.uint16), {"tags": {"scale_factor": "0.0002"}}, (4000, np.nan, 2000)),
        "2019-01-07": (values_HW.astype(np.uint16), {"scales": [1.0], "offsets": [-1000]}, (1000, np.nan, 1)),
        "2019-01-08": (np.where(values_HW == 0, np.nan, values_HW).astype(np.float32), {"nodata": np.nan}, (2000, np.nan, 1000)),
        "2019-01-09": ((values_HW / 1e4).astype(np.float32), {"scales": [1.0]}, (0.2, np.nan, 0.1)),
        "2019-01-10": ((values_HW / 1e4).astype(np.float32), {"scales": [1.00001]}, (2000, np.nan, 1000)),
    }  # fmt: skip
    for day, (stored_HW, options, _) in cases.items():
        tif(tmp_path / f"{day}_B02.tif", stored_HW, **options)
    opened = open_cube(tmp_path)["B02"].values
    for values, (_, _, expected) in zip(opened, cases.values(), strict=True):
        np.testing.assert_allclose([values[5, 5], values[0, 0], values[0, 1]], expected, rtol=1e-4)


def test_images_of_esa_keep_the_offset_of_new_baselines(tmp_path):
    land_HW = np.random.default_rng(0).integers(100, 900, (SIDE, SIDE)).astype(np.uint16)
    for day, stored_HW in (("20211201", land_HW), ("20220501", land_HW + 1000)):
        tif(tmp_path / f"T31UES_{day}T105031_B04_10m.tif", stored_HW)
    tif(
        tmp_path / "S2B_MSIL2A_20220701T105031_N0400_R051_T31UES_20220701T140000_B04.tif",
        land_HW + 1000,
    )
    for values_HW in open_cube(tmp_path)["B04"].values:
        np.testing.assert_allclose(values_HW, land_HW, atol=0.01)
    # What one date shows is true of its folder: bare soil alone would not show it.
    soil = tmp_path / "soil"
    for day, stored_HW in (("20220501", land_HW * 0 + 1400), ("20220601", land_HW)):
        tif(soil / f"T31UES_{day}T105031_B04_10m.tif", stored_HW)
    assert (open_cube(soil)["B04"].values[0] == 1400).all()


def test_tiles_sizes_and_classes_come_onto_one_grid(tmp_path):
    """Two tiles a date, 10 and 20 m, JPEG 2000 and GeoTIFF, one tile south-up, SCL."""
    random = np.random.default_rng(0)
    stored = {}
    for day in DAYS:
        for tile, left in (("T31UES", LEFT), ("T31UFS", LEFT + 10 * SIDE)):
            for band, side, pixel in (
                ("B02", SIDE, 10),
                ("B05", SIDE // 2, 20),
                ("SCL", SIDE // 2, 20),
            ):
                values_HW = random.integers(1, 12 if band == "SCL" else 4000, (side, side)).astype(
                    np.uint16
                )
                stored[day, tile, band] = values_HW
                name = f"{tile}_{plain(day)}T105031_{band}_{pixel}m"
                lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
                if tile == "T31UFS" and band == "B02":
                    turned = {"transform": Affine(10, 0, left, 0, 10, TOP - 10 * SIDE)}
                    tif(tmp_path / f"{name}.tif", values_HW[::-1], **turned)
                elif band == "B05":
                    tif(tmp_path / f"{name}.jp2", values_HW, pixel=pixel, left=left, **lossless)
                else:
                    tif(tmp_path / f"{name}.tif", values_HW, pixel=pixel, left=left)
    cube = check_cube(open_cube(tmp_path), ("B02", "B05")).load()
    assert dict(cube.sizes) == {"time": 2, "y": SIDE, "x": 2 * SIDE}
    for number, day in enumerate(DAYS):
        for band, factor in (("B02", 1), ("B05", 2), ("SCL", 2)):
            both = [
                stored[day, tile, band].repeat(factor, 0).repeat(factor, 1)
                for tile in ("T31UES", "T31UFS")
            ]
            np.testing.assert_array_equal(cube[band].values[number], np.hstack(both))
    part = open_cube(tmp_path)["B02"].isel(y=slice(1, 9, 3), x=7).values  # read as a window
    np.testing.assert_array_equal(part[0], stored[DAYS[0], "T31UES", "B02"][1:9:3, 7])


def test_degrees_are_brought_into_the_zone(tmp_path):
    step = 10 / 111_320
    place = {"crs": "EPSG:4326", "transform": Affine(step, 0, 3.0, 0, -step, 50.5)}
    for number, day in enumerate(DAYS):
        values = np.tile(numbers(number, ("B02", "B03")), 2)
        tif(tmp_path / f"{day}.tif", values, ("B2", "B3"), **place)
    cube = check_cube(open_cube(tmp_path), ("B02", "B03")).load()
    assert cube.odc.crs.epsg == 32631
    assert "The files are in degrees" in notes_of(open_cube(tmp_path))[0]
    values = cube["B02"].values[0]
    assert set(values[np.isfinite(values)]) <= set(CUBE["B02"].values[0].ravel())


def test_a_date_that_lacks_a_band_is_left_out_with_a_note(tmp_path, monkeypatch):
    a_file_a_band(tmp_path, lambda day, band: f"{day}_{band}.tif")
    (tmp_path / "2019-06-10_B11.tif").unlink()
    tif(tmp_path / "2019-04-01_NDVI.tif", np.ones((SIDE, SIDE), np.float32))
    (tmp_path / "overview.tif").write_bytes(b"\x89PNG")
    cube = open_cube(tmp_path)
    assert notes_of(cube) == (
        "2 rasters were passed over (the first, overview.tif, is not a GeoTIFF).",
        "Scene 20190610 was left out: it lacks B11.",
    )
    assert cube["time"].dt.strftime("%Y-%m-%d").values.tolist() == ["2019-04-01"]
    assert notes_of(check_cube(cube, PASTIS_BANDS)) == notes_of(cube)  # and so reach the map


def test_one_file_with_all_dates(tmp_path):
    earth_engine_all_dates(tmp_path)
    cube = check_cube(open_cube(tmp_path / "farm.tif"), PASTIS_BANDS)
    np.testing.assert_array_equal(cube["B8A"].values, CUBE["B8A"].values)
    one = tmp_path / "one"
    counted = [f"{place}_{short(band)}" for place in range(2) for band in PASTIS_BANDS]
    tif(one / "counted.tif", np.concatenate([numbers(0), numbers(1)]), counted)
    assert "numbers its dates instead of naming them" in refused(one / "counted.tif")
    tif(one / "unnamed.tif", numbers(0))
    assert "has 10 bands without names: put date and band into" in refused(one / "unnamed.tif")
    tif(one / "Band.tif", numbers(0), [f"Band {place + 1}" for place in range(10)])
    assert "has 10 bands without names" in refused(one / "Band.tif")
    tif(one / "no_date.tif", numbers(0), PASTIS_BANDS)
    assert "names no date: put" in refused(one / "no_date.tif")
    said = refused(one)
    assert said.startswith(f"None of the 4 GeoTIFFs in {one} can be used (the first, Band.tif, has")


def test_pictures_of_eight_bits_are_noted(tmp_path):
    for day in ("20190401", "20190411"):
        tif(tmp_path / f"{day}.tif", (numbers(0) // 20).astype(np.uint8), PASTIS_BANDS)
        tif(tmp_path / f"{day}_SCL.tif", np.full_like(numbers(0)[0], 4, np.uint8))
    (note,) = season_scenes(tmp_path)[1]
    assert note.startswith("20190401.tif holds numbers of 8 bits")
    assert "--scale" in note
    for path in tmp_path.glob("*0411.tif"):
        path.unlink()
    tif(tmp_path / "20190401.tif", numbers(0), PASTIS_BANDS)
    assert season_scenes(tmp_path)[1] == []  # a scene classification has 8 bits


def test_what_cannot_be_used_is_named(tmp_path):
    assert "neither a Zarr store nor GeoTIFFs" in refused(tmp_path)
    (tmp_path / "S2A.zip").write_bytes(b"")
    assert "holds zip archives: unpack them, or" in refused(tmp_path)
    tif(tmp_path / "LC08_20190401_B2.tif", numbers(0)[0])
    assert "is of another satellite" in refused(tmp_path)
    tif(tmp_path / "20190401_B02.tif", numbers(0)[0], crs=None)
    assert "20190401_B02.tif, has no coordinate system): write one with" in refused(tmp_path)
    whole = tmp_path / "whole"
    a_file_a_band(whole, lambda day, band: f"{day}_{band}.tif", ("B02", "B03"))
    (whole / "2019-04-01_B03.tif").write_bytes((whole / "2019-04-01_B03.tif").read_bytes()[:700])
    with pytest.raises(CubeError, match=r"2019-04-01_B03\.tif .*copy the file again"):
        open_cube(whole).compute()
    (whole / "2019-04-01_B03.tif").write_bytes(b"")
    assert "2019-04-01_B03.tif is not readable as a GeoTIFF" in refused(whole)
    (whole / "2019-04-01_B03.tif").unlink()
    (whole / "2019-04-01_B03.tif").symlink_to(tmp_path / "20190401_B02.tif")
    assert "is a link to a file outside of" in refused(whole)


@pytest.mark.parametrize(
    "other",
    [
        {"left": LEFT + 3_000_000},
        {"pixel": 1e-9},
        {"crs": "EPSG:4326", "left": 9000, "top": 4000, "pixel": 1e-4},
    ],
)
def test_rasters_that_are_far_apart_are_refused(tmp_path, other):
    for day in DAYS:
        tif(tmp_path / f"{day}.tif", numbers(0), PASTIS_BANDS)
    tif(tmp_path / "2019-08-01.tif", numbers(0), PASTIS_BANDS, **other)
    assert "too far apart for one cube" in refused(tmp_path)


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
        archive.writestr("__MACOSX/season.zarr/._zarr.json", b"\0\5\x16\7")
    return path


def same_season(path: Path) -> None:
    cube = open_cube(path)
    assert cube["B02"].chunks is not None
    with reading(path):
        checked = check_cube(cube, PASTIS_BANDS).load()
    for band in (*PASTIS_BANDS, "SCL"):
        np.testing.assert_array_equal(checked[band].values, CUBE[band].values)


@pytest.mark.parametrize("form", [2, 3])
def test_zarr_stores_in_archives_folders_and_groups(tmp_path, form):
    store = tmp_path / "a" / "season.zarr"
    CUBE.to_zarr(store, zarr_format=form, consolidated=False)
    same_season(zipped(store, tmp_path / "plain.zarr.zip"))
    same_season(zipped(store, tmp_path / "folder.zip", "download/season.zarr/"))
    same_season(tmp_path / "a")
    CUBE.to_zarr(tmp_path / "group.zarr", zarr_format=form, consolidated=False, group="data/cube")
    same_season(tmp_path / "group.zarr")
    CUBE.to_zarr(
        tmp_path / "group.zarr", zarr_format=form, consolidated=False, group="data/b", mode="a"
    )
    assert "holds several groups (b, cube): give one of them, as in" in refused(
        tmp_path / "group.zarr"
    )
    groups = zipped(tmp_path / "group.zarr", tmp_path / "groups.zip")
    assert "holds several groups (b, cube): unpack it, give one." in refused(groups)
    same_season(tmp_path / "group.zarr" / "data" / "cube")
    shutil.copytree(store, tmp_path / "a" / "b.zarr")
    assert "holds b.zarr, season.zarr: give one of them" in refused(tmp_path / "a")


def test_archives_that_are_no_cube(tmp_path):
    def archive(**entries):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as target:
            for name, content in entries.items():
                target.writestr(name, content)
        return refused(tmp_path / "x.zip")

    assert "of GeoTIFFs: unpack it, and give the folder" in archive(**{"a/B02.tif": ""})
    assert "panoseg cube --safe" in archive(**{"S2A.SAFE/MTD_MSIL2A.xml": ""})
    assert "of NetCDF: unpack it" in archive(**{"a.nc": ""})
    assert "without a Zarr store" in archive(**{"a.txt": ""})
    assert "a path out of the archive" in archive(**{"zarr.json": "{}", "../zarr.json": "{}"})
    assert "more than any chunk" in archive(**{"zarr.json": " " * (64 * 1024**2 + 1)})
    archive(**{"zarr.json": "no JSON"})
    whole = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as a zip archive" in refused(tmp_path / "x.zip")


def eopf(path: Path, number: int, left: int = 0, *, stated: bool = True) -> None:
    """A product of EOPF: numbers of ``CUBE`` with the offset of new baselines."""
    day = plain(DAYS[number])
    root = {
        "stac_discovery": {
            "properties": {"datetime": f"{DAYS[number]}T10:50:31.024Z"} if stated else {}
        },
        "other_metadata": {"horizontal_CRS_code": "EPSG:32631"} if stated else {},
    }
    xr.Dataset(attrs=root).to_zarr(path, zarr_format=2, consolidated=False)
    for size, step, bands in (
        ("r10m", 1, ("B02", "B03", "B04", "B08")),
        ("r20m", 2, ("B02", "B05", "B06", "B07", "B8A", "B11", "B12")),
    ):
        part = CUBE.isel(time=number, x=slice(left, None))
        x, y = (part[dim].values.reshape(-1, step).mean(1) for dim in ("x", "y"))
        meaning = {"scale_factor": 1e-4, "add_offset": -0.1, "fill_value": 0}
        variables = {
            band.lower(): (
                ("y", "x"),
                part[band].values[::step, ::step].astype(np.uint16) + 1000,
                {"proj:epsg": 32631, **(meaning if stated else {"_eopf_attrs": meaning})},
            )
            for band in bands
        }
        group = f"measurements/reflectance/{size}"
        xr.Dataset(variables, {"y": y, "x": x}).to_zarr(
            path, group=group, mode="a", zarr_format=2, consolidated=False
        )
    classes = xr.Dataset(
        {"scl": (("y", "x"), np.full((len(y), len(x)), 5, np.uint8))}, {"y": y, "x": x}
    )
    group = "conditions/mask/l2a_classification/r20m"
    classes.to_zarr(path, group=group, mode="a", zarr_format=2, consolidated=False)
    assert day in path.name


@pytest.mark.parametrize("stated", [True, False])
def test_products_of_eopf_are_a_season(tmp_path, stated):
    for number, day in enumerate(DAYS):
        eopf(
            tmp_path / f"S2A_MSIL2A_{plain(day)}T105031_N0511.zarr",
            number,
            4 * number,
            stated=stated,
        )
    cube = check_cube(open_cube(tmp_path), PASTIS_BANDS).load()
    assert cube["time"].dt.strftime("%Y-%m-%d").values.tolist() == list(DAYS)
    assert cube.odc.geobox == CUBE.odc.geobox
    assert np.isnan(cube["B02"].values[1, :, :4]).all()
    for band in PASTIS_BANDS:
        expected = CUBE[band].values.astype(np.float32)
        if band not in ("B02", "B03", "B04", "B08"):
            expected = expected[:, ::2, ::2].repeat(2, 1).repeat(2, 2)
        for values_HW, expected_HW in zip(cube[band].values, expected, strict=True):
            seen_HW = np.isfinite(values_HW)
            np.testing.assert_allclose(values_HW[seen_HW], expected_HW[seen_HW], atol=0.01)
    assert set(cube["SCL"].values[0].ravel()) == {5}
    first = min(tmp_path.glob("*.zarr"))
    one = check_cube(open_cube(zipped(first, tmp_path / f"{first.name}.zip")), PASTIS_BANDS)
    np.testing.assert_array_equal(one["B11"].values, cube["B11"].values[:1])


def test_a_file_is_what_its_first_bytes_say(tmp_path):
    CUBE.to_netcdf(tmp_path / "a.nc")
    CUBE.to_netcdf(tmp_path / "b.nc", format="NETCDF3_64BIT", engine="scipy")
    for place, name in enumerate(("a.nc", "b.nc")):
        shutil.copy(tmp_path / name, tmp_path / f"{place}.tif")
        same_season(tmp_path / name)
        same_season(tmp_path / f"{place}.tif")
    earth_engine_all_dates(tmp_path / "c")
    shutil.move(tmp_path / "c" / "farm.tif", tmp_path / "c.nc")
    assert open_cube(tmp_path / "c.nc").sizes["time"] == 2
    with h5py.File(tmp_path / "d.nc", "w") as file:
        file["B02"] = CUBE["B02"].values
    assert "is HDF5 without named dimensions, not NetCDF" in refused(tmp_path / "d.nc")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:",
            "Git LFS pointer.*git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html><body>Log in", "is a web page, perhaps of a failed download"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "is XML"),
        (b"reflectance\n" * 900, "is a text file"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"\x89PNG\r\n", "is a PNG"),
        (b"GRIB", "is GRIB"),
        (b"\x93NUMPY\1\0", "is a NumPy array, without dates and place"),
        (b"", "is empty: copy it again"),
        (b"\x00\xff\x00\xfe" * 40, "neither NetCDF nor a zipped Zarr store nor a GeoTIFF"),
    ],
)
def test_other_files_are_named(tmp_path, content, words):
    (tmp_path / "season.nc").write_bytes(content)
    said = refused(tmp_path / "season.nc")
    assert re.search(words, said)
    assert ("copy it again" in said) == (not content)


def test_any_season_is_written_as_a_cube(tmp_path, capsys):
    force_level_2(tmp_path / "force")
    assert main(["cube", "--from", str(tmp_path / "force"), "--out", str(tmp_path / "a.zarr")]) == 0
    said = capsys.readouterr().out
    assert "2 dates of 2 scenes, 100% clear on average" in said
    assert "note: 2 rasters were passed over" in said
    cube = open_cube(tmp_path / "a.zarr")
    report = report_of(cube)
    assert report.dates == DAYS
    assert report.scenes[DAYS[0]] == ["20190401_X0056_Y0053__LEVEL2_SEN2A_BOA"]
    checked = check_cube(cube, PASTIS_BANDS)
    for band in PASTIS_BANDS:
        np.testing.assert_array_equal(checked[band].values, CUBE[band].values)
    assert checked.odc.geobox == CUBE.odc.geobox
    assert main(["cube", "--from", str(tmp_path / "force"), "--out", str(tmp_path / "a.zarr")]) == 2
    assert "a.zarr exists: choose another --out" in capsys.readouterr().err
    # Other forms, with classes, gaps and reflectance 0..1.
    season = CUBE.copy(deep=True).astype(np.float32)
    for band in PASTIS_BANDS:
        season[band][:, 0, 0] = np.nan
        season[band] = season[band] / 1e4
    season.to_netcdf(tmp_path / "season.nc")
    convert_cube(tmp_path / "season.nc", tmp_path / "b.zarr")
    again = check_cube(open_cube(tmp_path / "b.zarr"), PASTIS_BANDS)
    assert np.isnan(again["B02"].values[:, 0, 0]).all()
    np.testing.assert_array_equal(again["B02"].values[:, 1:], CUBE["B02"].values[:, 1:])
    np.testing.assert_array_equal(again["SCL"].values, CUBE["SCL"].values)


def test_a_stopped_conversion_leaves_nothing(tmp_path, monkeypatch):
    CUBE.to_netcdf(tmp_path / "season.nc")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(convert, "_int16", stop)
        with pytest.raises(KeyboardInterrupt):
            convert_cube(tmp_path / "season.nc", tmp_path / "a.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["season.nc"]
    with monkeypatch.context() as patched:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(convert, "_int16", full)
        with pytest.raises(OutputError, match=r"a\.zarr.*[Ss]pace"):
            convert_cube(tmp_path / "season.nc", tmp_path / "a.zarr")
    killed = tmp_path / "a.zarr.unfinished" / "a.zarr"
    killed.mkdir(parents=True)
    (killed / "zarr.json").write_text("{")
    convert_cube(tmp_path / "season.nc", tmp_path / "a.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "season.nc"]
    same_season(tmp_path / "a.zarr")
    (tmp_path / "b.zarr.unfinished").mkdir()
    (tmp_path / "b.zarr.unfinished" / "plan.json").write_text("{}")
    with pytest.raises(OutputError, match="holds an unfinished cube of a catalogue"):
        convert_cube(tmp_path / "season.nc", tmp_path / "b.zarr")


@pytest.mark.parametrize("form", ["FORCE level 2", "sits", "Earth Engine, all dates"])
def test_items_describe_the_folder(tmp_path, form, capsys):
    FORMS[form](tmp_path)
    before = open_cube(tmp_path).load()
    assert main(["cube", "--from", str(tmp_path), "--items"]) == 0
    assert f"2 items in {tmp_path / 'items.json'}" in capsys.readouterr().out
    items = json.loads((tmp_path / "items.json").read_text())["features"]
    assert [one["properties"]["datetime"][:10] for one in items] == list(DAYS)
    assert not any(
        Path(asset["href"]).is_absolute() for one in items for asset in one["assets"].values()
    )
    xr.testing.assert_equal(open_cube(tmp_path).load(), before)
    assert main(["cube", "--from", str(tmp_path), "--items"]) == 2
    assert "has STAC items already" in capsys.readouterr().err


def test_a_picture_of_three_bands_is_no_source_of_them():
    three = [{"name": band} for band in ("B04", "B03", "B02")]
    assets = {
        "visual": {"href": "TCI.tif", "eo:bands": three},
        "look": {"href": "look.tif", "eo:bands": three, "roles": ["overview"]},
        "all": {"href": "all.tif", "eo:bands": three, "raster:bands": [{"scale": n} for n in (1, 2, 3)]},
        "B03": {"href": "B03.jp2"},
    }  # fmt: skip
    found = best_assets(assets)
    assert {band: asset["href"] for band, asset in found.items()} == {
        "B02": "all.tif",
        "B03": "B03.jp2",
        "B04": "all.tif",
    }
    assert found["B02"]["raster:bands"] == [{"scale": 3}]


def test_items_keep_scales_and_no_data(tmp_path):
    stored_HW = np.full((SIDE, SIDE), 0.2, np.float32)
    stored_HW[0, 0] = np.nan
    tif(tmp_path / "2019-04-01_B02.tif", stored_HW, nodata=np.nan)
    tif(
        tmp_path / "2019-04-02_B02.tif",
        np.full((SIDE, SIDE), 3000, np.uint16),
        scales=[1e-4],
        offsets=[-0.1],
    )
    before = open_cube(tmp_path)["B02"].values
    write_items(tmp_path)
    np.testing.assert_array_equal(open_cube(tmp_path)["B02"].values, before)
    np.testing.assert_allclose(before[:, 5, 5], [0.2, 2000], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Pass --area FILE with the outline, or --from FOLDER"),
        (["--from", "FOLDER"], "Name the Zarr store to make"),
        (["--area", "a.geojson"], "Name the Zarr store to make"),
        (
            ["--area", "a.geojson", "--out", "a.zarr", "--items"],
            "--items needs --from FOLDER without",
        ),
        (
            ["--from", "FOLDER", "--out", "a.zarr", "--season", "2019"],
            "needs an outline; add --area",
        ),
        (
            ["--from", "FOLDER", "--out", "a.zarr", "--max-dates", "3"],
            "needs an outline; add --area",
        ),
        (["--from", "absent", "--out", "a.zarr"], "absent does not exist"),
        (["--from", "absent", "--items"], "absent is not a folder"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["cube", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_seasons_that_people_reported(tmp_path):
    cases = Path(__file__).parents[2] / "shared" / "cases" / "satellite"
    if not (cases / "common.py").exists():
        pytest.skip("../shared/cases is absent")
    shutil.copy(cases / "common.py", tmp_path)
    shutil.copytree(cases / "14-geotiffs-without-stac", tmp_path / "case")
    subprocess.run([sys.executable, str(tmp_path / "case" / "make.py")], check=True)
    seasons = [
        check_cube(open_cube(tmp_path / "case" / name), PASTIS_BANDS).load()
        for name in ("gee", "force", "sits", "openeo")
    ]
    assert seasons[0].sizes == {"time": 4, "y": 32, "x": 32}
    assert np.median(seasons[0]["B04"].values[0]) == 1400
    for season in seasons[1:]:
        xr.testing.assert_equal(season, seasons[0])

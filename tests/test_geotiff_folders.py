"""Seasons as people have them: GeoTIFFs named by many programs, zipped Zarr stores, EOPF products.

All forms hold the same numbers, so each must give the same cube.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from cubes import LEFT, TOP, item, make_cube
from panoseg.cube.check import check_cube
from panoseg.cube.open import open_cube
from panoseg.cube.scenes import notes_of
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
        and None
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

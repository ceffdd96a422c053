"""Tiny seasons for the tests: a cube in memory, and a folder of GeoTIFFs with STAC items."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from panoseg.imagery.sentinel2 import PASTIS_BANDS

LEFT, TOP = 500_000.0, 5_600_000.0
DATES = ("2018-10-05", "2018-12-14", "2019-03-04", "2019-05-18", "2019-07-02", "2019-09-10")


def make_cube(
    size: int = 32,
    dates=DATES,
    seed: int = 0,
    bands=PASTIS_BANDS,
    scl: bool = False,
    crs="EPSG:32631",
) -> xr.Dataset:
    """Reflectance x 10 000, uint16, 200 to 4000, on a grid of 10 m."""
    random = np.random.default_rng(seed)
    grid = GeoBox((size, size), Affine(10, 0, LEFT, 0, -10, TOP), crs)
    coords = xr_coords(grid, always_yx=True)
    coords["time"] = xr.DataArray(np.array(dates, "datetime64[ns]"), dims="time")
    shape = (len(dates), size, size)
    attributes = {"grid_mapping": "spatial_ref"}
    variables = {
        band: (("time", "y", "x"), random.integers(200, 4000, shape).astype(np.uint16), attributes)
        for band in bands
    }
    if scl:
        variables["SCL"] = (("time", "y", "x"), np.full(shape, 4, np.uint8), attributes)
    return xr.Dataset(variables, coords)


def write_tif(
    path: Path,
    values_HW: np.ndarray,
    pixel: float = 10,
    left: float = LEFT,
    crs: str | None = "EPSG:32631",
) -> None:
    """A GeoTIFF with 0 for no data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values_HW.shape
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": values_HW.dtype,
        "nodata": 0,
    }
    with rasterio.open(
        path, "w", crs=crs, transform=Affine(pixel, 0, left, 0, -pixel, TOP), **profile
    ) as target:
        target.write(values_HW, 1)


def item(name: str, time: str, assets: dict[str, dict], properties: dict | None = None) -> dict:
    """A STAC item as far as it is read."""
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": time, **(properties or {})},
        "assets": assets,
        "links": [],
    }


def write_stac(
    folder: Path, days=("2019-04-01", "2019-06-01"), size: int = 32, bands=PASTIS_BANDS
) -> dict[str, np.ndarray]:
    """A folder whose scenes have all bands, half of them at 20 m; gives the numbers by band, T x H
    x W of its own size.
    """
    random = np.random.default_rng(1)
    stored: dict[str, list] = {band: [] for band in bands}
    for day in days:
        assets = {}
        for band in bands:
            pixel = 10 if band in ("B02", "B03", "B04", "B08") else 20
            values_HW = random.integers(200, 4000, (size * 10 // pixel,) * 2).astype(np.uint16)
            write_tif(folder / day / f"{band}.tif", values_HW, pixel)
            stored[band].append(values_HW)
            assets[band] = {
                "href": f"./{band}.tif",
                "type": "image/tiff; application=geotiff",
                "gsd": pixel,
            }
        scene = item(f"scene-{day}", f"{day}T10:50:00Z", assets)
        (folder / day / "item.json").write_text(json.dumps(scene))
    return {band: np.stack(values) for band, values in stored.items()}

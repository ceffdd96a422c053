"""A finished map of 100,172 parcels, on 6004 x 6023 pixels, without a network; pictures cover its
first corner.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from panoseg.classes import PASTIS
from panoseg.cube.season import Window
from panoseg.maps.parcels import parcel_table, write_geopackage, write_geoparquet
from panoseg.maps.rasters import SEGMENTS, RawRaster, write_class_raster, write_cog
from panoseg.panoptic import KINDS, Segments

ACROSS, DOWN, SIDE = 316, 317, 19
COUNT = ACROSS * DOWN
PARCEL_HA = SIDE**2 / 100


def make_huge_map(small: Path, folder: Path) -> Path:
    """A job's folder: squares of ``SIDE`` pixels, numbered from 1 by row. small: of
    ``app_map.make_map``, for all the rest.
    """
    shutil.copytree(
        small, folder, ignore=shutil.ignore_patterns("refined", "register.parquet", "corrections")
    )
    out = folder / "map"
    with rasterio.open(out / "segments.tif") as source:
        grid = GeoBox((DOWN * SIDE, ACROSS * SIDE), source.transform, source.crs.to_wkt())
    ids_RC = np.arange(1, COUNT + 1, dtype=np.int32).reshape(DOWN, ACROSS)
    class_RC = 1 + ids_RC % 18
    _write_rasters(out, grid, ids_RC, class_RC)
    things = np.full(COUNT, KINDS.index("thing"), np.uint8)
    scores = np.linspace(0.1, 1, COUNT, dtype=np.float32)
    rows = Segments(ids_RC.ravel(), class_RC.ravel(), scores, np.full(COUNT, SIDE**2), things)
    parcels = parcel_table(rows, _squares(grid.affine), grid.crs.to_wkt(), PASTIS)
    write_geoparquet([parcels], out / "parcels.parquet")
    write_geopackage([parcels], out / "parcels.gpkg")
    return folder


def _squares(transform: Affine) -> np.ndarray:
    left = transform.c + transform.a * SIDE * np.arange(ACROSS)
    top = transform.f + transform.e * SIDE * np.arange(DOWN)
    left_N, top_N = np.tile(left, DOWN), np.repeat(top, ACROSS)
    return shapely.box(left_N, top_N + transform.e * SIDE, left_N + transform.a * SIDE, top_N)


def _write_rasters(out: Path, grid: GeoBox, ids_RC: np.ndarray, class_RC: np.ndarray) -> None:
    def pixels(values_RC: np.ndarray) -> np.ndarray:
        return values_RC.repeat(SIDE, axis=0).repeat(SIDE, axis=1)

    plain = RawRaster(out / "segments.raw", grid.shape, SEGMENTS)
    plain.write(Window(0, 0, *grid.shape), pixels(ids_RC))
    write_cog(out / "segments.tif", plain, grid)
    plain.remove()
    write_class_raster(out / "classes.tif", pixels(class_RC.astype(np.uint8)), grid, PASTIS)

"""A small finished map of the web application, made without a network: four parcels on 48 x 48
pixels, six dates.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from panoseg.app.layers import write_layers
from panoseg.app.official_files import compare_with_register
from panoseg.classes import PASTIS
from panoseg.cube.season import Window
from panoseg.maps.parcels import parcels_of, write_geopackage, write_geoparquet
from panoseg.maps.rasters import SEGMENTS, RawRaster, write_class_raster, write_cog
from panoseg.panoptic import Panoptic, Segment, Segments
from panoseg.simulation.cube import simulate_cube
from panoseg.simulation.options import SimulationOptions

SIDE, HALF = 48, 24
PARCEL_HA = 5.76
WHEAT, CORN, MEADOW, BARLEY = 2, 3, 1, 4
CLASSES = (WHEAT, CORN, MEADOW, BARLEY)
SCORES = (0.9, 0.3, 0.6, 0.5)
CORN_OR = {CORN: 0.71, MEADOW: 0.22, WHEAT: 0.062, BARLEY: 0.008}
"""How likely the second parcel is of each class; of the others nobody has said, as in older
maps.
"""


def make_map(folder: Path) -> Path:
    """A job's folder with map, layers, season and official parcels: the quarters of a square, of
    5.76 ha each.
    """
    cube, _ = simulate_cube((SIDE, SIDE), 11, SimulationOptions(harvest_year=2019))
    cube = cube.isel(time=slice(None, None, max(1, cube.sizes["time"] // 6)))
    folder.mkdir(parents=True)
    cube.chunk({"time": 1, "y": SIDE, "x": SIDE}).to_zarr(
        folder / "cube.zarr", mode="w", consolidated=False, zarr_format=3
    )
    grid = cube.odc.geobox
    days = [str(day) for day in cube["time"].values.astype("datetime64[D]")]
    _write_map(folder / "map", grid, days)
    _official(grid).to_parquet(folder / "register.parquet")
    compare_with_register(folder / "register.parquet", folder / "map", folder / "refined")
    write_layers(folder / "cube.zarr", frozenset(days[1:]), folder / "layers")
    return folder


def _write_map(out: Path, grid: GeoBox, days: list[str]) -> None:
    out.mkdir()
    ids_HW = np.ones((SIDE, SIDE), np.int32)
    ids_HW[:HALF, HALF:], ids_HW[HALF:, :HALF], ids_HW[HALF:, HALF:] = 2, 3, 4
    classes = np.array(CLASSES)
    rows = Segments.of(
        Segment(number + 1, CLASSES[number], SCORES[number], HALF**2, "thing")
        for number in range(4)
    )
    likely = np.zeros((4, PASTIS.count), np.float32)
    likely[1, list(CORN_OR)] = list(CORN_OR.values())
    rows = replace(rows, probabilities=likely)
    crs = grid.crs.to_wkt()
    parcels = parcels_of(Panoptic(ids_HW, rows), grid.affine, crs, PASTIS, observed=days[-1])
    write_geoparquet([parcels], out / "parcels.parquet")
    write_geopackage([parcels], out / "parcels.gpkg")
    plain = RawRaster(out / "segments.raw", ids_HW.shape, SEGMENTS)
    plain.write(Window(0, 0, SIDE, SIDE), ids_HW)
    write_cog(out / "segments.tif", plain, grid)
    plain.remove()
    write_class_raster(out / "classes.tif", classes[ids_HW - 1].astype(np.uint8), grid, PASTIS)
    record = {"card": {"classes": PASTIS.to_json()}, "dates": days[1:]}
    (out / "map.json").write_text(json.dumps(record), encoding="utf-8")


def _official(grid: GeoBox) -> gpd.GeoDataFrame:
    """The first parcel as it is, the second with another crop, and one for both lower ones that
    nobody declared.
    """
    import shapely

    def box(left: int, top: int, right: int, bottom: int) -> shapely.Polygon:
        corners = [
            grid.affine * corner
            for corner in ((left, top), (right, top), (right, bottom), (left, bottom))
        ]
        return shapely.Polygon(corners)

    outlines = [box(0, 0, HALF, HALF), box(HALF, 0, SIDE, HALF), box(0, HALF, SIDE, SIDE)]
    columns = {"id": ["a", "b", "c"], "class": ["soft winter wheat", "meadow", None]}
    return gpd.GeoDataFrame(columns, geometry=outlines, crs=grid.crs.to_wkt())


def place(folder: Path, column: float, row: float) -> tuple[float, float]:
    """Longitude and latitude of a place in pixels of the map."""
    import rasterio
    from pyproj import Transformer

    with rasterio.open(folder / "map" / "segments.tif") as source:
        transform: Affine = source.transform
        x, y = transform * (column, row)
        return Transformer.from_crs(source.crs, "EPSG:4326", always_xy=True).transform(x, y)

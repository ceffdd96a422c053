"""A simulated season as a cube with coordinates, and its true parcels as polygons.

The cube follows the conventions of ``panoseg.cube``: dims (time, y, x), one variable a band, uint16
reflectance x 10 000 with 0 for no data, ``spatial_ref``, and SCL, Sentinel-2's scene
classification.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.features import shapes
from shapely import union_all
from shapely.geometry import shape

from panoseg.classes import PASTIS
from panoseg.files import atomic, new_folder
from panoseg.imagery.sentinel2 import PASTIS_BANDS
from panoseg.simulation.acquisition import CIRRUS, CLOUD, MISSING, SHADOW, SNOW
from panoseg.simulation.landscape import PIXEL_M, LandCover
from panoseg.simulation.layout import Layout
from panoseg.simulation.options import SimulationOptions
from panoseg.simulation.season import Season, check_size, simulate_season

_SCL = {CLOUD: 9, SHADOW: 3, CIRRUS: 10, SNOW: 11, MISSING: 0}
_VEGETATION, _BARE, _WATER = 4, 5, 6
_SQUARE_METRES_PER_HECTARE = 10_000


def simulate_cube(
    size: tuple[int, int],
    seed: int | tuple[int, ...],
    options: SimulationOptions | None = None,
    layout: Layout | np.ndarray | None = None,
) -> tuple[xr.Dataset, gpd.GeoDataFrame]:
    """Simulate a season; arguments and errors are those of ``simulate_season``.

    No parcel is void: those at the edge keep their crop.

    Returns:
        The cube, and its true parcels with the columns ``parcel`` (number), ``class`` (name),
        ``class_id`` and ``area_ha``, in the coordinate system of the cube.
    """
    options = replace(options or SimulationOptions(), void=False)
    season = simulate_season(size, seed, options, layout)
    return season_cube(season), season_parcels(season)


def season_cube(season: Season) -> xr.Dataset:
    """Return a season as a cube."""
    geobox = _geobox(season)
    coords = xr_coords(geobox, always_yx=True)
    coords["time"] = xr.DataArray(np.array(season.dates, "datetime64[ns]"), dims="time")
    dims = ("time", "y", "x")
    attributes = {
        "grid_mapping": "spatial_ref",
        "long_name": "surface reflectance x 10000",
        "_FillValue": np.uint16(0),
    }
    variables = {
        band: (dims, season.images_TCHW[:, index].astype(np.uint16), attributes)
        for index, band in enumerate(PASTIS_BANDS)
    }
    scl = (
        dims,
        _scene_classification(season),
        {"grid_mapping": "spatial_ref", "long_name": "scene classification"},
    )
    layers: dict[str, Any] = {**variables, "SCL": scl}
    if season.cover_HW is not None:
        legend = ", ".join(f"{cover.value} {cover.name.lower()}" for cover in LandCover)
        attributes = {"grid_mapping": "spatial_ref", "long_name": f"land cover: {legend}"}
        layers["land_cover"] = (dims[1:], season.cover_HW, attributes)
    return xr.Dataset(layers, coords, {"title": "Simulated Sentinel-2 season"})


def season_parcels(season: Season) -> gpd.GeoDataFrame:
    """Return the true parcels of a season, one row each, as polygons along pixel edges."""
    transform = _geobox(season).transform
    pieces: dict[int, list[Any]] = {}
    for outline, number in shapes(
        season.parcels_HW, mask=season.parcels_HW > 0, transform=transform
    ):
        pieces.setdefault(int(number), []).append(shape(outline))
    numbers = sorted(pieces)
    ids, first = np.unique(season.parcels_HW, return_index=True)
    class_of = dict(zip(ids.tolist(), season.classes_HW.ravel()[first].tolist(), strict=True))
    classes = [class_of[number] for number in numbers]
    geometry = [union_all(pieces[number]) for number in numbers]
    columns = {
        "parcel": np.array(numbers, np.int32),
        "class": [PASTIS[class_id].name for class_id in classes],
        "class_id": np.array(classes, np.int16),
        "area_ha": [outline.area / _SQUARE_METRES_PER_HECTARE for outline in geometry],
    }
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=season.epsg)


def write_cube(
    folder: Path | str,
    size: tuple[int, int],
    seed: int,
    options: SimulationOptions | None = None,
    layout: Layout | None = None,
) -> Path:
    """Write ``cube.nc`` and its true parcels ``parcels.gpkg`` to a new folder; return the folder.

    Args:
        folder: New or empty.
        size: Height and width in pixels of 10 m.
        seed: The same seed gives the same season.
        options: How it is simulated.
        layout: Parcels to keep exactly.

    Raises:
        OutputError: The folder cannot be written.
    """
    check_size(size)
    folder = new_folder(folder)
    cube, parcels = simulate_cube(size, seed, options, layout)
    outlines = io.BytesIO()  # SQLite would not report that a disk is full
    # Of newer versions QGIS warns, with an older GDAL.
    parcels.to_file(outlines, driver="GPKG", layer="parcels", engine="pyogrio", VERSION="1.2")
    # Renamed together, so that no kill leaves one of them alone.
    with (
        atomic(folder / "parcels.gpkg") as gpkg,
        atomic(folder / "cube.nc", failures=(RuntimeError,)) as netcdf,
    ):
        gpkg.write_bytes(outlines.getbuffer())
        cube.to_netcdf(
            netcdf, encoding={name: {"zlib": True, "complevel": 4} for name in cube.data_vars}
        )
    return folder


def _geobox(season: Season) -> GeoBox:
    (left, top), (height, width) = season.origin, season.parcels_HW.shape
    return GeoBox.from_bbox(
        (left, top - height * PIXEL_M, left + width * PIXEL_M, top),
        crs=f"EPSG:{season.epsg}",
        resolution=PIXEL_M,
    )


def _scene_classification(season: Season) -> np.ndarray:
    """Return SCL as a good classifier would give it; uint8 T x H x W."""
    red_THW = season.images_TCHW[:, PASTIS_BANDS.index("B04")].astype(np.float32)
    infrared_THW = season.images_TCHW[:, PASTIS_BANDS.index("B08")].astype(np.float32)
    scl_THW = np.where(infrared_THW > 2 * red_THW, _VEGETATION, _BARE).astype(np.uint8)
    scl_THW[(infrared_THW < 600) & (infrared_THW < 1.2 * red_THW)] = _WATER
    for truth, code in _SCL.items():
        scl_THW[season.cloud_THW == truth] = code
    return scl_THW

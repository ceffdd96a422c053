"""A simulated season as a cube with coordinates, and its true parcels as polygons.

The cube follows the conventions of ``panoseg.cube``: dims (time, y, x), one variable a band, uint16
reflectance x 10 000 with 0 for no data, ``spatial_ref``, and SCL, Sentinel-2's scene
classification.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

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
from panoseg.imagery.bands import PASTIS_BANDS
from panoseg.simulation.atmosphere import CIRRUS, CLOUD, SHADOW, SNOW
from panoseg.simulation.landscape import PIXEL_M
from panoseg.simulation.options import SimulationOptions
from panoseg.simulation.season import Layout, Season, check_size, simulate_season

_SCL = {CLOUD: 9, SHADOW: 3, CIRRUS: 10, SNOW: 11}
_VEGETATION, _BARE, _WATER = 4, 5, 6
_SQUARE_METRES_PER_HECTARE = 10_000


def simulate_cube(
    size: tuple[int, int],
    seed: int | tuple[int, ...],
    options: SimulationOptions | None = None,
    layout: Layout | np.ndarray | None = None,
) -> tuple[xr.Dataset, gpd.GeoDataFrame]:
    """Simulate a season; returns the cube and its true parcels.

    The parcels have ``parcel`` (number), ``class`` (name), ``class_id`` and ``area_ha``, in the
    coordinate system of the cube. No parcel is void: those at the edge keep their crop. Raises what
    ``simulate_season`` raises.
    """
    season = simulate_season(
        size, seed, replace(options or SimulationOptions(), void=False), layout
    )
    return season_cube(season), season_parcels(season)


def season_cube(season: Season) -> xr.Dataset:
    """The cube of a season."""
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
    return xr.Dataset({**variables, "SCL": scl}, coords, {"title": "Simulated Sentinel-2 season"})


def season_parcels(season: Season) -> gpd.GeoDataFrame:
    """The true parcels of a season, one row each, as polygons along pixel edges."""
    transform = _geobox(season).transform
    pieces: dict[int, list] = {}
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
    """Write ``cube.nc`` and its true parcels ``parcels.gpkg`` to a new folder; returns the folder.
    Raises ``OutputError``.
    """
    check_size(size)
    folder = new_folder(folder)
    cube, parcels = simulate_cube(size, seed, options, layout)
    outlines = io.BytesIO()  # SQLite, writing to a disk, would not say that it is full
    parcels.to_file(outlines, driver="GPKG", layer="parcels", engine="pyogrio")
    # Renamed together, so that a folder with one of them alone is a folder of somebody else.
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
    """SCL as a good classifier would give it; uint8 [T, H, W]."""
    red_THW = season.images_TCHW[:, PASTIS_BANDS.index("B04")].astype(np.float32)
    infrared_THW = season.images_TCHW[:, PASTIS_BANDS.index("B08")].astype(np.float32)
    scl_THW = np.where(infrared_THW > 2 * red_THW, _VEGETATION, _BARE).astype(np.uint8)
    scl_THW[(infrared_THW < 600) & (infrared_THW < 1.2 * red_THW)] = _WATER
    for truth, code in _SCL.items():
        scl_THW[season.cloud_THW == truth] = code
    return scl_THW

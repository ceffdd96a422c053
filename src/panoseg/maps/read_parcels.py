"""Read and check files of parcels of any origin.

Such files may hold anything; what is returned are valid polygons at known places on Earth.

Shape suffixes: N rows.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely import GeometryType, Polygon
from shapely.geometry.base import BaseGeometry

from panoseg.errors import ParcelsError

_FORMATS = "GeoParquet, GeoPackage, GeoJSON or Shapefile"
_REFERENCE = re.compile(rb"<(OGR|GDAL|VRT)\w+")
"""Start of GDAL's small XML files, which refer to other files, even on other machines."""
_HEAD_BYTES = 65_536
_NOTE_ATTRIBUTE = "rows without area"
_COUNT_ATTRIBUTE = "number of rows without area"
_EDGE_PIECES = 256
_FARTHEST = 1e9
"""Largest plausible coordinate, in any map unit."""
_AREAL = re.compile("Polygon|Surface|Unknown|Collection")


def read_parcels(path: Path | str, area: gpd.GeoSeries | None = None) -> gpd.GeoDataFrame:
    """Read a file of parcels and leave out rows without an area.

    Args:
        path: GeoParquet (a file or a folder of files), GeoPackage, GeoJSON or Shapefile.
        area: Read only rows that meet the bounding box of this area.

    Returns:
        The parcels; no rows if the file, or the area, has none.

    Raises:
        ParcelsError: If the file cannot be read; has several layers of polygons, or rows but no
            polygons; has coordinates that are not finite; has no coordinate system, or one in which
            its coordinates lie nowhere.
    """
    path = Path(path)
    if not path.exists():
        raise ParcelsError(f"{path} does not exist.")
    try:
        with warnings.catch_warnings(action="ignore"):  # what matters is checked below
            parcels = _read(path, area)
    except ParcelsError:
        raise
    except Exception as error:  # the readers of four formats raise anything
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].split(";")[0]
        raise ParcelsError(f"{path} cannot be read as {_FORMATS} ({text}).") from error
    if not isinstance(parcels, gpd.GeoDataFrame) or parcels.active_geometry_name is None:
        raise ParcelsError(f"{path} has no geometries. Write it with its geometry column.")
    if parcels.crs is None:
        raise ParcelsError(
            f"{path} has no coordinate system. Assign one, e.g. with set_crs of geopandas."
        )
    _check_coordinates(parcels, path)
    return _with_area(parcels, path)


def read_truth(path: Path | str) -> gpd.GeoDataFrame:
    """Read true parcels as ``read_parcels`` does, and require at least one."""
    parcels = read_parcels(path)
    if not len(parcels):
        raise ParcelsError(f"{path} holds no parcel.")
    return parcels


def rows_without_area(parcels: gpd.GeoDataFrame) -> int:
    """Return how many rows ``read_parcels`` left out because they have no area."""
    return int(parcels.attrs.get(_COUNT_ATTRIBUTE, 0))


def left_out_notes(*tables: gpd.GeoDataFrame | None) -> tuple[str, ...]:
    """Return a sentence for each table from which ``read_parcels`` left rows out."""
    return tuple(
        table.attrs[_NOTE_ATTRIBUTE]
        for table in tables
        if table is not None and _NOTE_ATTRIBUTE in table.attrs
    )


def _read(path: Path, area: gpd.GeoSeries | None) -> gpd.GeoDataFrame:
    head = b""
    if path.is_file():
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    # The parcels of a large map are a folder of files.
    if head.startswith(b"PAR1") or any(path.glob("*.parquet")):
        parcels = gpd.read_parquet(path)
        if area is None or not isinstance(parcels, gpd.GeoDataFrame) or parcels.crs is None:
            return parcels
        left, bottom, right, top = _box_around(area, parcels.crs)
        return parcels.cx[left:right, bottom:top]
    if _REFERENCE.search(head):
        raise ParcelsError(
            f"{path} only refers to other files. Pass the file that holds the parcels."
        )
    layers = [(str(name), str(kind)) for name, kind in pyogrio.list_layers(path)]
    areal = [name for name, kind in layers if _AREAL.search(kind)]
    if len(areal) > 1:
        raise ParcelsError(
            f"{path} has {len(areal)} layers of polygons ({', '.join(areal)}). Write the parcels"
            " into a file of their own."
        )
    # A layer of lines or a plain table is read too, so that the message can say what it holds.
    layer = (areal or [name for name, _ in layers])[0]
    crs = None if area is None else pyogrio.read_info(path, layer=layer)["crs"]
    box = None if area is None or crs is None else _box_around(area, crs)
    return pyogrio.read_dataframe(path, layer=layer, bbox=box)


def _box_around(area: gpd.GeoSeries, crs: CRS | str) -> tuple[float, ...]:
    """Return the bounds of an area (left, bottom, right, top) in another coordinate system.

    The area's straight edges are curved there, so they are split into short pieces first.
    """
    return tuple(
        area.segmentize(max(area.length.max() / _EDGE_PIECES, 1e-9)).to_crs(crs).total_bounds
    )


def _check_coordinates(parcels: gpd.GeoDataFrame, path: Path) -> None:
    """Raise ``ParcelsError`` if coordinates are not finite or lie nowhere on Earth.

    The second happens with a wrong coordinate system, such as metres that are labelled as degrees.
    """
    outlines = np.asarray(parcels.geometry.values, dtype=object)
    coordinates, row = shapely.get_coordinates(outlines, return_index=True)
    wrong = np.unique(row[~np.isfinite(coordinates).all(axis=1)])
    if len(wrong):
        raise ParcelsError(
            f"{path}: {len(wrong)} of {len(parcels)} outlines, first in row {wrong[0]}, have"
            " coordinates that are not finite. Repair or remove them."
        )
    boxes_N4 = shapely.bounds(
        outlines[~(shapely.is_missing(outlines) | shapely.is_empty(outlines))]
    )
    nowhere = np.flatnonzero(~_on_earth(boxes_N4, parcels.crs))
    if len(nowhere):
        west, south, east, north = boxes_N4[nowhere[0]]
        raise ParcelsError(
            f"{path}: coordinates from ({west:g}, {south:g}) to ({east:g}, {north:g}) are no place"
            f" in {parcels.crs.name}. Assign the coordinate system in which they were made, e.g."
            " with set_crs(..., allow_override=True) of geopandas."
        )


def _on_earth(boxes_N4: np.ndarray, crs: CRS) -> np.ndarray:
    """Return whether both corners of each box are places on Earth, bool, N."""
    try:
        to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        longitudes, latitudes = to_degrees.transform(boxes_N4[:, [0, 2]], boxes_N4[:, [1, 3]])
    except ProjError:
        return np.zeros(len(boxes_N4), bool)
    placed_N2 = np.isfinite(longitudes) & (np.abs(latitudes) <= 90)
    # Some projections wrap around without end, so any coordinate would be a place.
    plausible_N = (np.abs(boxes_N4) < _FARTHEST).all(axis=1)
    return np.asarray(placed_N2.all(axis=1) & plausible_N)


def _with_area(parcels: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    """Keep the rows with an area, and note how many were left out."""
    # Measured after repair: the two halves of an outline that crosses itself may cancel each other.
    usable = shapely.area(valid_outlines(parcels)) > 0
    if len(parcels) and not usable.any():
        kinds = ", ".join(sorted(set(parcels.geometry.geom_type.dropna()))) or "nothing"
        raise ParcelsError(
            f"{path} has no polygon with an area (rows: {len(parcels)}, of {kinds})."
        )
    kept = parcels[usable].reset_index(drop=True)
    count = len(parcels) - len(kept)
    if count:  # reported, because GDAL reads a damaged outline as an empty one
        kept.attrs[_COUNT_ATTRIBUTE] = count
        kept.attrs[_NOTE_ATTRIBUTE] = (
            f"{count} of {len(parcels)} rows of {path} have no area and were left out."
        )
    return kept


def check_place(
    parcels: gpd.GeoDataFrame, path: Path | str, area: gpd.GeoSeries, of: Path | str
) -> None:
    """Raise ``ParcelsError`` if the bounding boxes of parcels and of an area do not meet.

    Args:
        parcels: The parcels.
        path: Their file, for the message.
        area: Outlines in any coordinate system.
        of: The file that ``area`` comes from, for the message.
    """
    box = gpd.GeoSeries([shapely.box(*area.total_bounds)], crs=area.crs).to_crs(parcels.crs)
    corners, bounds = box.total_bounds, parcels.total_bounds
    if not (np.all(corners[:2] < bounds[2:]) and np.all(bounds[:2] < corners[2:])):
        raise ParcelsError(
            f"{path} and {of} cover different places. Check the files and their coordinate systems."
        )


def valid_outlines(parcels: gpd.GeoDataFrame) -> np.ndarray:
    """Return the outlines of parcels, each a valid Polygon or MultiPolygon; object, N.

    Outlines that cross themselves are repaired. A missing outline, one without area, and one with
    coordinates that are not finite become an empty Polygon.
    """
    outlines = np.array(parcels.geometry.values, dtype=object)
    outlines[~np.isfinite(shapely.bounds(outlines)).all(axis=1)] = Polygon()
    invalid = ~shapely.is_valid(outlines)
    outlines[invalid] = shapely.make_valid(outlines[invalid])
    areal = np.isin(
        shapely.get_type_id(outlines), (GeometryType.POLYGON, GeometryType.MULTIPOLYGON)
    )
    outlines[~areal] = [_polygons_of(outline) for outline in outlines[~areal]]
    return outlines


def _polygons_of(outline: BaseGeometry) -> BaseGeometry:
    """Keep the polygons of a collection: repair leaves lines where a ring ran back on itself."""
    parts = shapely.get_parts(shapely.get_parts(outline))
    return shapely.union_all(parts[shapely.get_type_id(parts) == GeometryType.POLYGON])

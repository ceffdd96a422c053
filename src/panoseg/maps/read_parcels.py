"""Read and check files of parcels of any origin.

Such files may hold anything; what is returned are valid polygons at known places on Earth.

Shape suffixes: N rows.
"""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from panoseg.errors import ParcelsError
from panoseg.imagery import VectorOptions
from panoseg.imagery.outlines import MOST_CROSSINGS, valid_polygons
from panoseg.imagery.vector_files import NOTES, no_crs, read_vector

_COUNT_ATTRIBUTE = "number of rows without area"
_EDGE_PIECES = 256
_FARTHEST = 1e9
"""Largest plausible coordinate, in any map unit."""


def read_parcels(
    path: Path | str,
    area: gpd.GeoSeries | None = None,
    options: VectorOptions | None = None,
    *,
    scratch: Path | None = None,
) -> gpd.GeoDataFrame:
    """Read a file of parcels and leave out rows without an area.

    Args:
        path: Any form that ``read_vector`` knows, or a folder of GeoParquet files.
        area: Read only rows that meet the bounding box of this area.
        options: What the file does not say itself.
        scratch: Where archives are unpacked; by default the system's folder for temporary files.

    Returns:
        The parcels; no rows if the file, or the area, has none.

    Raises:
        ParcelsError: If the file cannot be read; has several layers of polygons, or rows but no
            polygons; has coordinates that are not finite; has no coordinate system, or one in which
            its coordinates lie nowhere.
        ConfigError: If the options cannot be used.
    """
    path = Path(path)
    box = None if area is None else lambda crs: _box_around(area, crs)
    parcels = read_vector(path, options, box=box, scratch=scratch)
    if parcels.crs is None:
        raise ParcelsError(no_crs(path, parcels))
    _check_coordinates(parcels, path)
    return _with_area(parcels, path)


def read_truth(path: Path | str, options: VectorOptions | None = None) -> gpd.GeoDataFrame:
    """Read true parcels as ``read_parcels`` does, and require at least one."""
    parcels = read_parcels(path, options=options)
    if not len(parcels):
        raise ParcelsError(f"{path} holds no parcel.")
    return parcels


def rows_without_area(parcels: gpd.GeoDataFrame) -> int:
    """Return how many rows ``read_parcels`` left out because they have no area."""
    return int(parcels.attrs.get(_COUNT_ATTRIBUTE, 0))


def left_out_notes(*tables: gpd.GeoDataFrame | None) -> tuple[str, ...]:
    """Return the sentences for the user about tables of ``read_parcels``, such as rows left out."""
    return tuple(
        note for table in tables if table is not None for note in table.attrs.get(NOTES, ())
    )


def _box_around(area: gpd.GeoSeries, crs: CRS) -> tuple[float, ...]:
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
        turned = parcels.crs.is_geographic and _on_earth(boxes_N4[:, [1, 0, 3, 2]], parcels.crs)
        advice = (
            "Latitude and longitude seem to be exchanged: longitude comes first."
            if np.all(turned)
            else "Say in which one they were made with --crs, or write the file again with it."
        )
        raise ParcelsError(
            f"{path}: coordinates from ({west:g}, {south:g}) to ({east:g}, {north:g}) are no place"
            f" in {parcels.crs.name}. {advice}"
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
    outlines, tangled = valid_polygons(parcels.geometry.to_numpy())
    usable = shapely.area(outlines) > 0
    crossed = (
        f"{{}} of {len(parcels)} rows of {path} cross themselves too often to be repaired (more"
        f" than {MOST_CROSSINGS:,} times, or together too often)"
    ).format(tangled.sum())
    if len(parcels) and not usable.any():
        if tangled.any():
            raise ParcelsError(f"{crossed}, and no other has an area. Draw them again.")
        kinds = ", ".join(sorted(set(parcels.geometry.geom_type.dropna()))) or "nothing"
        raise ParcelsError(
            f"{path} has no polygon with an area (rows: {len(parcels)}, of {kinds})."
        )
    kept = parcels[usable].reset_index(drop=True)
    notes = list(parcels.attrs.get(NOTES, []))
    count = len(parcels) - len(kept)
    if tangled.any():
        notes.append(f"{crossed}, and were left out.")
    if count > tangled.sum():  # reported, because GDAL reads a damaged outline as an empty one
        notes.append(
            f"{count - tangled.sum()} of {len(parcels)} rows of {path} have no area and were left"
            " out."
        )
    kept.attrs.clear()
    if count:
        kept.attrs[_COUNT_ATTRIBUTE] = count
    if notes:
        kept.attrs[NOTES] = notes
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
    if not _meet(corners, bounds):
        turned = parcels.crs.is_geographic and _meet(corners, bounds[[1, 0, 3, 2]])
        advice = (
            f" Latitude and longitude seem to be exchanged in {path}: longitude comes first."
            if turned
            else " Check the files and their coordinate systems."
        )
        raise ParcelsError(f"{path} and {of} cover different places.{advice}")


def _meet(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two bounding boxes (left, bottom, right, top) share land."""
    return bool(np.all(first[:2] < second[2:]) and np.all(second[:2] < first[2:]))


def valid_outlines(parcels: gpd.GeoDataFrame) -> np.ndarray:
    """Return the outlines of parcels, each a valid Polygon or MultiPolygon; object, N.

    See ``imagery.outlines.valid_polygons``.
    """
    return valid_polygons(parcels.geometry.to_numpy())[0]

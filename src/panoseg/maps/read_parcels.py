"""Read and check files of parcels of any origin, and find how the outlines of two overlap.

Such files may hold anything; what is returned are valid polygons at known places on Earth.

Shape suffixes: N rows or outlines, P parcels, T true parcels, X pairs that intersect, U unsure
polygons.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from panoseg.errors import ParcelsError
from panoseg.imagery import VectorOptions
from panoseg.imagery.outlines import MOST_CROSSINGS, valid_polygons
from panoseg.imagery.vector_files import NOTES, no_crs, read_vector
from panoseg.maps.outlines import shared_areas

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


_MOSTLY = 0.5


@dataclass(frozen=True)
class Overlap:
    """Areas of parcels, true parcels and their intersections. All areas: float64, square metres."""

    area_P: np.ndarray
    """Area of each parcel."""
    area_T: np.ndarray
    """Area of each true parcel."""
    parcel_X: np.ndarray
    """int64: row of the parcel of each pair."""
    true_X: np.ndarray
    """int64: row of the true parcel of each pair."""
    shared_X: np.ndarray
    """Area of the intersection of each pair."""
    inside_P: np.ndarray
    """Area of each parcel inside of declared land (the union of the true parcels)."""

    @classmethod
    def of(cls, outlines_P: np.ndarray, outlines_T: np.ndarray) -> Overlap:
        """Measure two lists of outlines, in metres."""
        parcel_X, true_X, shared_X = shared_areas(outlines_P, outlines_T)
        area_P = shapely.area(outlines_P)
        # True parcels may overlap slightly, which must not count twice.
        inside_P = np.minimum(np.bincount(parcel_X, shared_X, minlength=len(outlines_P)), area_P)
        return cls(area_P, shapely.area(outlines_T), parcel_X, true_X, shared_X, inside_P)


def without_unsure(outlines_N: np.ndarray, unsure_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut unsure land from outlines.

    Args:
        outlines_N: Valid polygons, in metres.
        unsure_U: Valid polygons of land that counts for nothing, in the same system.

    Returns:
        The outlines without that land, empty where more than half lay on it; and which of them are
        left (bool, N).
    """
    number_X, unsure_X = shapely.STRtree(unsure_U).query(outlines_N, predicate="intersects")
    cut_N, counts_N = outlines_N.copy(), np.ones(len(outlines_N), bool)
    numbers, starts = np.unique(number_X, return_index=True)
    for number, own_X in zip(numbers, np.split(unsure_X, starts[1:]), strict=True):
        unsure = shapely.union_all(unsure_U[own_X])
        left = shapely.difference(outlines_N[number], unsure)
        counts_N[number] = shapely.area(left) >= (1 - _MOSTLY) * shapely.area(outlines_N[number])
        cut_N[number] = left if counts_N[number] else shapely.Polygon()
    return cut_N, counts_N


def system_in_metres(parcels: gpd.GeoDataFrame, truth: gpd.GeoDataFrame) -> pyproj.CRS:
    """Return a coordinate system in metres for both tables.

    Raises:
        ParcelsError: Both are in degrees, and no UTM zone fits.
    """
    crs: pyproj.CRS = truth.crs if not truth.crs.is_geographic else parcels.crs
    if crs.is_geographic:
        try:
            crs = truth.estimate_utm_crs()
        except RuntimeError as error:
            raise ParcelsError(
                "Parcels and true parcels are in degrees, and there is no UTM zone where they lie."
                " Convert one of them to metres, e.g. with to_crs of geopandas."
            ) from error
    return crs
